"""Checkpoint folders that cannot be trained are named with their cure before anything starts, by the dry run and by doctor alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlvid.config import ConfigError
from rlvid.families import FAMILIES
from rlvid.families.checkpoint import check_model_path
from rlvid.families.folder import longest
from tests.unit.folders import NAMES, make_folder, write_tensors

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 3864726352\n"


def edit(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def cut(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])


def sharded(folder: Path, index: bool = True) -> None:
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{at}-of-00003.safetensors" for at, name in enumerate(NAMES, start=1)}
    for name, file in files.items():
        write_tensors(folder / file, (name,))
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def only_adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}')


def shard_lost(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def shard_cut(folder: Path) -> None:
    sharded(folder)
    cut(folder / "model-00003-of-00003.safetensors", -1)


def shard_of_another(folder: Path) -> None:
    sharded(folder)
    write_tensors(folder / "model-00003-of-00003.safetensors", ("something.else",))


BROKEN = {
    "no chat template": (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template", "chat_template.jinja"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer", "copy tokenizer.json"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "processor", "copy preprocessor_config.json"),
    "no head": (lambda folder: write_tensors(folder / "model.safetensors", NAMES[:-1]), "no lm_head.weight", "tie_word_embeddings"),
    "no embeddings": (lambda folder: write_tensors(folder / "model.safetensors", NAMES[1:]), "no embed_tokens.weight", "whole checkpoint"),
    "pointer for weights": (lambda folder: (folder / "model.safetensors").write_text(POINTER), "model.safetensors is a Git LFS pointer", "git lfs pull"),
    "pointer for a tokenizer": (lambda folder: (folder / "tokenizer.json").write_text(POINTER), "tokenizer.json is a Git LFS pointer", "git lfs pull"),
    "pointer for the config": (lambda folder: (folder / "config.json").write_text(POINTER), "config.json is a Git LFS pointer", "git lfs pull"),
    "cut in its data": (lambda folder: cut(folder / "model.safetensors", -1), "model.safetensors is cut off", "copy it anew"),
    "cut in its header": (lambda folder: cut(folder / "model.safetensors", 40), "model.safetensors is cut off", "copy it anew"),
    "empty": (lambda folder: cut(folder / "model.safetensors", 0), "model.safetensors is cut off", "copy it anew"),
    "shard lost": (shard_lost, "model-00002-of-00003.safetensors", "copy the checkpoint anew"),
    "shard cut": (shard_cut, "model-00003-of-00003.safetensors is cut off", "copy it anew"),
    "shard of another": (shard_of_another, "lacks lm_head.weight", "copy the checkpoint anew"),
    "no index": (lambda folder: sharded(folder, index=False), "model.safetensors.index.json", "copy the checkpoint anew"),
    "adapter alone": (only_adapter, "LoRA adapter without its model", "merge_and_unload"),
    "awq": (lambda folder: edit(folder, quantization_config={"quant_method": "awq", "bits": 4}), "quantized by awq", "was made of"),
    "gptq": (lambda folder: edit(folder, quantization_config={"quant_method": "gptq", "bits": 4}), "quantized by gptq", "was made of"),
    "torch pickle cut": (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04cut"), "pytorch_model.bin is cut off", "copy it anew"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_folder_passes(family, tmp_path):
    check_model_path(str(make_folder(tmp_path / "one", family)), "model.path")
    folder = make_folder(tmp_path / "many", family)
    sharded(folder)
    check_model_path(str(folder), "model.path")
    tied = make_folder(tmp_path / "tied", family, NAMES[:-1])
    edit(tied, tie_word_embeddings=True)
    check_model_path(str(tied), "model.path")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_named_in_one_line_with_its_cure(kind, tmp_path):
    breakage, problem, cure = BROKEN[kind]
    breakage(make_folder(tmp_path / "m"))
    with pytest.raises(ConfigError) as caught:
        check_model_path(str(tmp_path / "m"), "model.path")
    line = str(caught.value)
    assert line.startswith("model.path: ") and str(tmp_path / "m") in line and problem in line and cure in line and "\n" not in line


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}}, 4096),
        ({"text_config": {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}}, 8192),
        ({"text_config": {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}}, 4096),
        ({}, None),
    ],
)
def test_a_sequence_longer_than_the_model_takes_is_refused(said, limit, tmp_path):
    """vLLM's own reading (vllm/config/model.py): an engine would end with a validation error of its library."""
    assert longest(said) == limit
    folder = make_folder(tmp_path / "m")
    edit(folder, **said)
    if limit is not None:
        check_model_path(str(folder), "model.path", tokens=limit)
        with pytest.raises(ConfigError, match=rf"up to {limit} tokens .* rollout.max_model_len is {limit + 1}: lower it"):
            check_model_path(str(folder), "model.path", tokens=limit + 1)


def test_no_weight_is_read(tmp_path):
    """A terabyte that takes no room: its header is all that is looked at."""
    folder = make_folder(tmp_path / "m")
    header = json.dumps({name: {"dtype": "F32", "shape": [2**37], "data_offsets": [at << 39, (at + 1) << 39]} for at, name in enumerate(NAMES)}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (3 << 39))
    check_model_path(str(folder), "model.path")
    with (folder / "model.safetensors").open("rb+") as file:
        file.truncate(8 + len(header) + (3 << 39) - 1)
    with pytest.raises(ConfigError, match="is cut off"):
        check_model_path(str(folder), "model.path")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_real_checkpoint_lacks_is_found_too(family, tmp_path):
    """A checkpoint as transformers writes it passes; each file that reading and writing takes is missed."""
    from rlvid.world.tiny_model import build_tiny_model

    whole = build_tiny_model(tmp_path / "whole", ["red blue left right"], family=family)
    check_model_path(str(whole), "model.path")
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "model.safetensors", "config.json"):
        broken = tmp_path / f"without {name}"
        shutil.copytree(whole, broken)
        (broken / name).unlink()
        with pytest.raises(ConfigError):
            check_model_path(str(broken), "model.path")
