"""A checkpoint read in pieces is the one that from_pretrained reads, buffers included; what it cannot read so is left to from_pretrained."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvid.families import FAMILIES
from rlvid.families.checkpoint import load_model
from rlvid.learner.pieces import read_in_pieces, stored_tensors
from rlvid.world.tiny_model import build_tiny_model

CORPUS = ["red blue left right ?"] * 20


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_are_the_whole(tmp_path, family, tied):
    path = build_tiny_model(tmp_path / "model", CORPUS, family=family, tied=tied)
    whole = load_model(str(path), dtype=torch.float32)
    whole.save_pretrained(path, max_shard_size="300KB")
    (path / "model.safetensors").unlink(missing_ok=True)
    kept: list[int] = []
    model = read_in_pieces(str(path), torch.float32, lambda parameters: kept.append(len(parameters)), reads=True)
    if model is None:
        assert any("experts" in name for name, _ in whole.named_parameters()), "only what is converted is read whole"
        return
    assert len(kept) > 3 and sum(kept) == len(list(whole.parameters())), "layer by layer, tied ones once"
    known, found = dict(whole.named_parameters()), dict(model.named_parameters())
    assert known.keys() == found.keys() and all(torch.equal(known[name], found[name]) for name in known)
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in whole.named_buffers())


def test_files_beside_the_checkpoint_do_not_count(tmp_path):
    path = build_tiny_model(tmp_path / "model", CORPUS)
    tensors = load_file(path / "model.safetensors")
    save_file({name: torch.zeros(1) for name in tensors}, path / "consolidated.safetensors")
    assert {name: stored.shape for name, stored in stored_tensors(path).items()} == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_file_that_ends_early_is_told(tmp_path):
    path = build_tiny_model(tmp_path / "model", CORPUS)
    stored = max(stored_tensors(path).values(), key=lambda one: one.offset)
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(stored.offset + stored.size // 2)
    with pytest.raises(OSError, match="ends early"):
        stored.read()


def test_other_ranks_read_nothing(tmp_path):
    path = build_tiny_model(tmp_path / "model", CORPUS)
    model = read_in_pieces(str(path), torch.bfloat16, lambda parameters: None, reads=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
