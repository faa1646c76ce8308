"""Where an engine has put each element of the checkpoint's tensors: learned from the model's own loaders, once, without moving a byte.

vLLM's loaders write a tensor of the checkpoint into parameters by `copy_` on views of both. The tensors that a push will bring are offered to `load_weights`
as shapes without memory, and every copy is noted instead of made: which part of which tensor goes where. By these notes the loaded weights are read back in
the checkpoint's own coordinates, whatever was fused, padded, transposed, or divided among tensor-parallel workers. A parameter that no copy goes to would
compute with whatever its memory holds, and no sum would tell: it is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlvid.sync.checksum import NotReadable, summed_at
from rlvid.types import WeightsLayout


@dataclass(frozen=True)
class Note:
    """One copy: a view of a parameter (`offset`, `strides`) from a view of the checkpoint's tensor (`start`, `steps`), both of `shape`."""

    module: Any
    attribute: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]
    start: int
    steps: tuple[int, ...]

    def view(self) -> torch.Tensor:
        """The part of the parameter as it is now."""
        held = getattr(self.module, self.attribute).detach()
        unpacked = getattr(self.module, "_cpu_unpacked_conv_weight", None)  # what vLLM itself keeps beside a packed one
        return (held if unpacked is None or self.attribute != "weight" else unpacked).as_strided(self.shape, self.strides, self.offset)


class ReadBack:
    """The notes of one model for one layout."""

    def __init__(self, model: Any, layout: WeightsLayout) -> None:
        self.dtypes = {name: getattr(torch, dtype) for name, dtype in zip(layout.names, layout.dtypes, strict=True)}
        recorder = _Recorder(model)
        offered = [(name, torch.empty(shape, dtype=self.dtypes[name], device="meta")) for name, shape in zip(layout.names, layout.shapes, strict=True)]
        recorder.names = {tensor.untyped_storage()._cdata: name for name, tensor in offered}
        with torch.no_grad(), recorder:
            model.load_weights(iter(offered))
        _nothing_left_out(model, [note for notes in recorder.notes.values() for note in notes])
        self.notes = {name: _joined(recorder.notes.get(name, [])) for name in layout.names}

    def sums(self) -> dict[str, tuple[int, int]]:
        """Of each tensor of the checkpoint: the sum over its elements that this worker holds (rlvid/sync/checksum.py), and how many they are."""
        named = [(name, note, summed_at(note.view().to(self.dtypes[name]), note.start, note.steps)) for name, notes in self.notes.items() for note in notes]
        totals = torch.stack([total for *_, total in named]).tolist() if named else []
        sums = dict.fromkeys(self.notes, (0, 0))
        for (name, note, _), total in zip(named, totals, strict=True):
            before, held = sums[name]
            sums[name] = (before + total) % 2**64, held + prod(note.shape)
        return sums


class _Recorder(TorchDispatchMode):
    """Notes copies from offered tensors into parameters of the model, and does not make them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.notes: dict[str, list[Note]] = {}
        self.owners: dict[int, tuple[Any, str, torch.Tensor]] = {}
        for module in model.modules():
            for attribute, parameter in module.named_parameters(recurse=False):
                self.owners.setdefault(parameter.untyped_storage().data_ptr(), (module, attribute, parameter))
            for attribute, buffer in module.named_buffers(recurse=False):
                self.owners.setdefault(buffer.untyped_storage().data_ptr(), (module, attribute, buffer))

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and args[1].device.type == "meta":
            into, of = args[0], args[1]
            name = self.names.get(of.untyped_storage()._cdata)
            if name is None or into.device.type == "meta":
                raise NotReadable("its loader makes tensors of its own on the way")
            owner = self.owners.get(into.untyped_storage().data_ptr())
            if owner is None:
                raise NotReadable(f"{name} goes where no parameter is")
            module, attribute, _ = owner
            of = of.expand(into.shape)
            note = Note(module, attribute, tuple(into.shape), into.storage_offset(), into.stride(), of.storage_offset(), of.stride())
            self.notes.setdefault(name, []).append(note)
            return into
        return func(*args, **(kwargs or {}))


def _nothing_left_out(model: Any, notes: Sequence[Note]) -> None:
    """Raises NotReadable where a parameter, or a part of one that is no padding (zeros), is written by nothing that a push brings."""
    into: dict[int, list[Note]] = {}
    for note in notes:
        into.setdefault(getattr(note.module, note.attribute).untyped_storage().data_ptr(), []).append(note)
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            continue
        held = parameter.detach()
        of_it = into.get(held.untyped_storage().data_ptr(), [])
        if not of_it:
            raise NotReadable(f"nothing that is sent goes into its {name}")
        if any(hasattr(note.module, "_cpu_unpacked_conv_weight") for note in of_it):
            continue  # noted in another form than the parameter's
        written = torch.zeros(held.untyped_storage().nbytes() // held.element_size(), dtype=torch.bool, device=held.device)
        for note in of_it:
            written.as_strided(note.shape, note.strides, note.offset).fill_(True)
        part = written.as_strided(held.shape, held.stride(), held.storage_offset())
        if not part.all() and bool((held[~part] != 0).any()):
            raise NotReadable(f"nothing that is sent goes into a part of its {name}")


def _joined(notes: Sequence[Note]) -> list[Note]:
    """Copies of equal form at equal distances, such as one an expert, as one."""
    runs: list[list[Note]] = []
    for note in notes:
        last = runs[-1] if runs else []
        alike = last and _form(last[0]) == _form(note)
        apart = _distance(last[-1], note) if alike else (0, 0)
        if alike and min(apart) >= 0 and (len(last) == 1 or _distance(last[-2], last[-1]) == apart):
            last.append(note)
        else:
            runs.append([note])
    return [run[0] if len(run) == 1 else _stacked(run) for run in runs]


def _form(note: Note) -> tuple[Any, ...]:
    return id(note.module), note.attribute, note.shape, note.strides, note.steps


def _distance(one: Note, other: Note) -> tuple[int, int]:
    return other.offset - one.offset, other.start - one.start


def _stacked(run: Sequence[Note]) -> Note:
    offset, start = _distance(run[0], run[1])
    return replace(run[0], shape=(len(run), *run[0].shape), strides=(offset, *run[0].strides), steps=(start, *run[0].steps))
