"""One number over all weights that does not depend on how they are laid out.

vLLM fuses and pads the checkpoint's matrices (q, k and v become one), so hashes of single tensors cannot be compared
with the learner's. The checksum mixes every element's bit pattern and adds them all up (modulo 2^64): fused or apart,
the sum is the same; a stale, missing or altered element changes it. Zero padding adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_VIEWS = {4: torch.int32, 2: torch.int16, 1: torch.uint8}
PIECE, GPU_PIECE = 2**18, 2**24
"""Elements mixed at a time, as 64-bit copies: on a CPU few enough to stay in its cache (30 times faster than 2^24), on a GPU many enough to fill it."""
_MIX = 0x9E3779B97F4A7C15 - 2**64  # the golden-ratio constant as a signed 64-bit integer


def checksum(tensors: Iterable[torch.Tensor]) -> str:
    """16 hex digits over all elements of all tensors."""
    return to_hex(sum(element_sum(tensor) for tensor in tensors))


def element_sum(tensor: torch.Tensor) -> int:
    """Sum over the mixed bit patterns of one tensor's elements, as a signed 64-bit integer."""
    flat = tensor.detach().contiguous().view(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for piece in flat.split(PIECE if flat.device.type == "cpu" else GPU_PIECE):
        bits = piece.view(_VIEWS[piece.element_size()]).long()
        bits *= _MIX
        bits ^= bits >> 29
        bits *= _MIX
        bits ^= bits >> 32
        total += bits.sum()
    return int(total)


def to_hex(total: int) -> str:
    return f"{total % 2**64:016x}"
