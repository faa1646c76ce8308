"""A push of what changed: indices and new values, in the coordinates of the checkpoint, patched in place by the engines.

With a learning rate of 1e-6 about one bfloat16 value in a hundred changes in a step. The sender keeps a copy of what the engines hold and compares bit by
bit; an engine notes while it loads a whole push where each tensor of the checkpoint lies in its fused matrices, and writes there. The version that a
patch is for, and the checksum over all weights afterwards, prove it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MOST = 0.1
"""Share of changed values from which on everything is sent: a patch takes 6 bytes for 2."""
PIECE = 2**18
"""Elements compared at a time."""
INDEX_BYTES = 4


@dataclass(frozen=True)
class Patch:
    """New values [n] at flat int32 indices [n] of one tensor of the checkpoint."""

    name: str
    indices: torch.Tensor
    values: torch.Tensor


class Held:
    """The sender's copy of the weights that the engines hold, in host memory."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """It was sent whole."""
        if name in self.tensors:
            self.tensors[name].copy_(tensor.detach().reshape(-1))
        else:
            self.tensors[name] = tensor.detach().to("cpu", copy=True).reshape(-1)

    def changed(self, name: str, tensor: torch.Tensor) -> Patch:
        """What differs in a bit, which is held from now on."""
        flat, held = tensor.detach().cpu().contiguous().view(-1), self.tensors[name]
        indices = torch.from_numpy(differing(flat, held))
        values = flat.index_select(0, indices)
        held.index_copy_(0, indices, values)
        return Patch(name, indices.int(), values)


def differing(one: torch.Tensor, other: torch.Tensor) -> NDArray[np.int64]:
    """Indices at which two vectors differ in a bit. Words of 8 bytes are compared first: few hold a value that changed."""
    bits: Any = {2: np.int16, 4: np.int32, 8: np.int64}[one.element_size()]
    now, before = (vector.view(torch.uint8).numpy().view(bits) for vector in (one, other))
    together = 8 // one.element_size()
    whole = len(now) // together * together
    found = []
    for start in range(0, whole, PIECE):
        pieces = [vector[start : min(start + PIECE, whole)] for vector in (now, before)]
        word = np.flatnonzero(np.not_equal(*(piece.view(np.int64) for piece in pieces)))
        at = np.flatnonzero(np.not_equal(*(piece.reshape(-1, together)[word] for piece in pieces)))
        found.append(start + word[at // together] * together + at % together)
    return np.concatenate([*found, whole + np.flatnonzero(now[whole:] != before[whole:])])


def worth_it(patches: Iterable[Patch], tensors: dict[str, torch.Tensor]) -> bool:
    """Whether patches may stand for the whole: few values, none of them NaN, none beyond an int32 index."""
    changed = sum(len(patch.indices) for patch in patches)
    whole = not any(bool(patch.values.isnan().any()) for patch in patches) and all(len(tensor) < 2**31 for tensor in tensors.values())
    return whole and changed <= MOST * sum(map(len, tensors.values()))


def patch_buckets(counts: list[int], dtypes: list[torch.dtype], bucket_bytes: int) -> Iterator[tuple[list[int], int]]:
    """(numbers of consecutive patches, their bytes), as both sides cut them; a large one goes alone."""
    bucket, used = list[int](), 0
    for number, (count, dtype) in enumerate(zip(counts, dtypes, strict=True)):
        size = count * (INDEX_BYTES + dtype.itemsize)
        if bucket and used + size > bucket_bytes:
            yield bucket, used
            bucket, used = [], 0
        bucket.append(number)
        used += size
    if used:
        yield bucket, used


def packed(patches: list[Patch], room: torch.Tensor) -> torch.Tensor:
    """Indices and values of each, one behind the other, in `room`."""
    pieces = [part.contiguous().view(torch.uint8) for patch in patches for part in (patch.indices, patch.values) if len(part)]
    return torch.cat(pieces, out=room) if pieces else room


def unpacked(buffer: torch.Tensor, names: list[str], counts: list[int], dtypes: list[torch.dtype]) -> Iterator[Patch]:
    """The reverse."""
    sizes = [size for count, dtype in zip(counts, dtypes, strict=True) for size in (count * INDEX_BYTES, count * dtype.itemsize)]
    parts = iter(buffer.split(sizes))
    for name, dtype in zip(names, dtypes, strict=True):
        yield Patch(name, next(parts).clone().view(torch.int32), next(parts).clone().view(dtype))  # a view needs an even beginning


class Places:
    """Where the tensors of the checkpoint lie in a model that fuses them, noted while its own `load_weights` copies them there."""

    def __init__(self) -> None:
        self.of: dict[str, torch.Tensor] = {}

    def load(self, model: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """`model.load_weights(weights)`, watched. A tensor that is copied in parts, reshaped or several times has no place."""
        listed = list(weights)
        by_address = {tensor.data_ptr(): name for name, tensor in listed}
        sizes = {name: tensor.numel() for name, tensor in listed}
        found: dict[str, list[torch.Tensor]] = {name: [] for name in sizes}
        copy = torch.Tensor.copy_

        def watched(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            name = by_address.get(source.data_ptr())
            if name is not None:
                found[name].append(target.detach() if target.numel() == sizes[name] == source.numel() and target.is_contiguous() else target[:0].detach())
            return copy(target, source, non_blocking)

        torch.Tensor.copy_ = watched  # type: ignore[method-assign, assignment]
        try:
            model.load_weights(listed)
        finally:
            torch.Tensor.copy_ = copy  # type: ignore[method-assign]
        for name, targets in found.items():
            if len(targets) == 1 and targets[0].numel() == sizes[name]:
                self.of[name] = targets[0].view(-1)
            else:
                self.of.pop(name, None)

    def patch(self, model: Any, patch: Patch, shape: list[int]) -> None:
        """Write the values where they belong. Without a known place vLLM's loader of patches finds it, at the cost of the whole tensor."""
        if not len(patch.indices):
            return
        if (place := self.of.get(patch.name)) is not None:
            place.index_copy_(0, patch.indices.to(place.device, torch.long), patch.values.to(place.device, place.dtype))
            return
        from vllm.model_executor.model_loader.checkpoint_weight_patch import CheckpointWeightPatch, load_checkpoint_weight_patches

        load_checkpoint_weight_patches(model, [CheckpointWeightPatch(patch.name, tuple(shape), patch.values.dtype, patch.values, patch.indices)])
