"""One number over all weights that two machines can compare, however each lays them out.

Every element is mixed with its place in the checkpoint's tensor and added up (modulo 2^64), a sum a tensor. vLLM fuses, pads, transposes and divides the
checkpoint's matrices; it reads each element where it has put it (rlvid/sync/readback.py) and adds it up under the same place, so the sums are equal, in any
order. A stale, missing or altered element changes its tensor's sum, and so do two that have changed places: within a matrix, between heads or experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import prod

import torch

from rlvid.types import WeightsLayout

_VIEWS = {4: torch.int32, 2: torch.int16, 1: torch.uint8}
PIECE, GPU_PIECE = 2**18, 2**24
"""Elements mixed at a time, as 64-bit copies: on a CPU few enough to stay in its cache (30 times faster than 2^24), on a GPU many enough to fill it."""
_MIX = 0x9E3779B97F4A7C15 - 2**64  # the golden-ratio constant as a signed 64-bit integer
_STEP = 0xD1B54A32D192ED03 - 2**64  # another odd one: what a place adds


class NotReadable(RuntimeError):
    """The engine keeps its weights in a form that cannot be read back. One line."""


def checksum(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """16 hex digits over named tensors, in any order."""
    return digest({name: element_sum(tensor) for name, tensor in tensors})


def digest(sums: Mapping[str, int]) -> str:
    """16 hex digits over the sum of each tensor by its name."""
    lines = "".join(f"{name} {total % 2**64:016x}\n" for name, total in sorted(sums.items()))
    return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest()


def merged(layout: WeightsLayout, workers: Sequence[Mapping[str, tuple[int, int]]]) -> dict[str, int]:
    """The sum of each whole tensor from those of tensor-parallel workers, which hold parts of it, or copies, or copies of parts.

    Raises NotReadable where elements are missing, or copies differ.
    """
    sums = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        held = [worker[name] for worker in workers if worker[name][1]]
        copies, missing = divmod(sum(count for _, count in held), max(1, prod(shape)))
        if missing or not copies:
            raise NotReadable(f"{name} is not held whole")
        if any(held.count(part) % copies for part in held):
            raise NotReadable(f"copies of {name} differ between its workers")
        sums[name] = sum(total * held.count((total, count)) // copies for total, count in set(held))
    return sums


def element_sum(tensor: torch.Tensor, start: int = 0) -> int:
    """Sum over the mixed elements of one tensor, a signed 64-bit integer. `start`: the place of its first element."""
    return int(summed(tensor.detach().contiguous().view(-1), start))


def summed(flat_N: torch.Tensor, start: int = 0) -> torch.Tensor:
    """The same on the tensor's device, of elements that stand in a row."""
    total = torch.zeros((), dtype=torch.int64, device=flat_N.device)
    size = PIECE if flat_N.device.type == "cpu" else GPU_PIECE
    places = _ramp(size, flat_N.device)
    for number, piece in enumerate(flat_N.split(size)):
        total += _mixed(piece, places[: len(piece)], (start + number * size) * _STEP)
    return total


def summed_at(tensor: torch.Tensor, start: int, strides: Sequence[int]) -> torch.Tensor:
    """Of a tensor whose element (i, j, ...) has the place start + i strides[0] + j strides[1] + ... ."""
    order = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
    view = tensor.detach().permute(order)
    steps = [strides[dim] for dim in order]
    if _in_a_row(view.shape, steps):
        return summed(view.reshape(-1), start)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    places = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for length, step in zip(view.shape[1:], steps[1:], strict=True):
        places = places[..., None] + torch.arange(length, device=tensor.device) * _signed(step * _STEP)
    rows = max(1, (PIECE if tensor.device.type == "cpu" else GPU_PIECE) // max(1, places.numel()))
    for first in range(0, view.shape[0], rows):
        piece = view[first : first + rows]
        leading = torch.arange(len(piece), device=tensor.device) * _signed(steps[0] * _STEP)
        at = leading.view(-1, *[1] * places.ndim) + places
        total += _mixed(piece.reshape(-1), at.reshape(-1), (start + first * steps[0]) * _STEP)
    return total


def _mixed(piece: torch.Tensor, places: torch.Tensor, offset: int) -> torch.Tensor:
    bits = piece.view(_VIEWS[piece.element_size()]).long()
    bits += places
    bits += _signed(offset)
    bits *= _MIX
    bits ^= bits >> 29
    bits *= _MIX
    bits ^= bits >> 32
    return bits.sum()


def _in_a_row(shape: Sequence[int], steps: Sequence[int]) -> bool:
    expected = 1
    for length, step in zip(reversed(shape), reversed(steps), strict=True):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


@cache
def _ramp(size: int, device: torch.device) -> torch.Tensor:
    return torch.arange(size, device=device) * _STEP


def _signed(number: int) -> int:
    """The 64-bit integer that a number is, modulo 2^64."""
    return (number + 2**63) % 2**64 - 2**63
