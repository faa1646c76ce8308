"""A checkpoint read in pieces: rank 0 reads a layer, all ranks keep their share of it, then comes the next. No rank ever holds the whole model.

transformers' own reading under ZeRO 3 gathers the whole state in every rank's host memory first. Here the model's modules are built without
memory, their buffers alone are real, and each layer's tensors are read with plain reads (pages of a mapped file would count as this process's memory).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("rlvid")

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt, from malloc.h."""


@contextlib.contextmanager
def freed_at_once() -> Iterator[None]:
    """Memory of 1 MiB and more goes back to the system as soon as it is let go.

    glibc raises its own limit for that with what is freed, up to 32 MiB; wholes that are divided one after the other then leave their holes between the shares
    (measured: a rank's start took 1.68 times its share of 500 M parameters, and 1.04 times with this). Afterwards the limits are as high as glibc's
    would have come, because blocks that come and go in every update are cheaper kept. Other C libraries are left alone.
    """
    give_back(at_once=True)
    try:
        yield
    finally:
        give_back(at_once=False)


def give_back(*, at_once: bool) -> None:
    """Whether memory of 1 MiB and more goes back to the system when it is let go, or of 32 MiB and more."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, 2**20 if at_once else 32 * 2**20)
        if not at_once:
            mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


@dataclass(frozen=True)
class Stored:
    """Where a tensor's bytes stand: the safetensors format has them as they are, behind a header."""

    file: Path
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> Any:
        import torch

        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=getattr(torch, DTYPES[self.dtype]))
        data = bytearray(self.size)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.offset)
            view, done = memoryview(data), 0
            while done < self.size:
                got = file.readinto(view[done:])
                if not got:
                    raise OSError(f"{self.file} ends early: is it whole?")
                done += got
        return torch.frombuffer(data, dtype=getattr(torch, DTYPES[self.dtype])).view(self.shape)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder's safetensors checkpoint, by name. Empty where it has none, or one of a kind that is not a plain float.

    Other safetensors files may lie beside it (a consolidated copy, an adapter): which count is told as transformers tells it.
    """
    found: dict[str, Stored] = {}
    for file in _files(folder):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        for name, told in header.items():
            if told["dtype"] not in DTYPES:
                return {}
            start, end = told["data_offsets"]
            found[name] = Stored(file, 8 + length + start, end - start, told["dtype"], tuple(told["shape"]))
    return found


def _files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))] if index.exists() else []


def read_in_pieces(path: str, dtype: Any, keep: Callable[[list[Any]], None], *, reads: bool) -> Any:
    """The model of a checkpoint, or None where it cannot be read so and `from_pretrained` must (other files than safetensors, tensors that are converted).

    keep: called with the parameters of one layer after the other, on every rank; it brings those of the rank that `reads` to all and keeps a share.
    """
    import torch

    stored = stored_tensors(_folder(path))
    model = _without_memory(path, dtype)
    sources = _sources(model, stored)
    if sources is None:
        log.info("%s is read whole: its tensors are stored in another form than the model's", path)
        return None
    owners = _owners(model)
    for group in _layers(owners):
        made = []
        for name in group:
            shape = owners[name][0][0]._parameters[owners[name][0][1]].shape
            tensor = sources[name].read().to(dtype) if reads else torch.empty(shape, dtype=dtype)
            if tensor.shape != shape:
                raise ValueError(f"{path}: {name} has shape {list(tensor.shape)}, the model wants {list(shape)}")
            parameter = torch.nn.Parameter(tensor)
            for module, last in owners[name]:
                module._parameters[last] = parameter
            made.append(parameter)
        keep(made)
    return model


def _folder(path: str) -> Path:
    """Where the files lie; a hub id's are fetched."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json"]))


def _without_memory(path: str, dtype: Any) -> Any:
    """The modules with parameters on the meta device. Buffers are real: rotary frequencies are computed, not stored."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText

    from rlvid.families.checkpoint import load_config

    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(load_config(path), dtype=dtype)
    model.tie_weights()
    return model


def _sources(model: Any, stored: dict[str, Stored]) -> dict[str, Stored] | None:
    """The stored tensor of every parameter, by the model's names. None where one is missing or must be converted."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    there = model.state_dict()
    found: dict[str, Stored] = {}
    for key, tensor in stored.items():
        name, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, there)
        if converted is not None:
            return None
        found[name] = tensor
    names = _owners(model)
    wanted: dict[str, Stored] = {}
    for name, places in names.items():
        source = next((found[alias] for alias in (name, *_aliases(model, places)) if alias in found), None)
        if source is None:
            return None
        wanted[name] = source
    persistent = set(there) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return None if persistent & set(found) else wanted


def _owners(model: Any) -> dict[str, list[tuple[Any, str]]]:
    """(module, attribute) of every place where a parameter stands, by its first name: tied ones stand in several."""
    first: dict[int, str] = {}
    owners: dict[str, list[tuple[Any, str]]] = {}
    for prefix, module in model.named_modules():
        for last, parameter in module._parameters.items():
            if parameter is not None:
                name = first.setdefault(id(parameter), f"{prefix}.{last}" if prefix else last)
                owners.setdefault(name, []).append((module, last))
    return owners


def _aliases(model: Any, places: list[tuple[Any, str]]) -> Iterator[str]:
    names = {id(module): prefix for prefix, module in model.named_modules()}
    for module, last in places[1:]:
        yield f"{names[id(module)]}.{last}"


def _layers(owners: dict[str, Any]) -> list[list[str]]:
    """Names by layer: the first number in the name and what stands before it."""
    groups: dict[str, list[str]] = {}
    for name in owners:
        parts = name.split(".")
        digit = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        groups.setdefault(".".join(parts[: digit + 1]) if digit is not None else name, []).append(name)
    return list(groups.values())
