"""One number over all weights that does not depend on how they are laid out.

vLLM fuses and pads the checkpoint's matrices (q, k and v become one), so hashes of single tensors cannot be compared
with the learner's. The checksum mixes every element's bit pattern and adds them all up (modulo 2^64): fused or apart,
the sum is the same; a stale, missing or altered element changes it. Zero padding adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_VIEWS = {4: torch.int32, 2: torch.int16, 1: torch.uint8}
_MIX = 0x9E3779B97F4A7C15 - 2**64  # the golden-ratio constant as a signed 64-bit integer


def checksum(tensors: Iterable[torch.Tensor]) -> str:
    """16 hex digits over all elements of all tensors."""
    return to_hex(sum(element_sum(tensor) for tensor in tensors))


def element_sum(tensor: torch.Tensor) -> int:
    """Sum over the mixed bit patterns of one tensor's elements, as a signed 64-bit integer."""
    flat = tensor.detach().contiguous().view(-1)
    total = 0
    for piece in flat.split(2**24):  # bounds the 64-bit copy
        bits = piece.view(_VIEWS[piece.element_size()]).long()
        mixed = bits * _MIX
        mixed = (mixed ^ (mixed >> 29)) * _MIX
        total += int((mixed ^ (mixed >> 32)).sum())
    return total


def to_hex(total: int) -> str:
    return f"{total % 2**64:016x}"
