"""What a start may take follows from what is read; what vLLM says at a push is what somebody must know."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from rlvid.actors import rollout, teacher
from rlvid.config import Config
from rlvid.families import checkpoint

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of 300 MiB, in two files without content."""
    for number in (1, 2):
        with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(150 * MIB)
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def config(folder: Path, **sections: dict) -> Config:
    tree: dict[str, dict] = {
        "run": {"name": "started"},
        "model": {"path": str(folder), "read_mib_per_s": 100},
        "data": {"train": "t.jsonl"},
        "learner": {"ranks": 2},
        "rollout": {"engines": 4},
    }
    return Config.model_validate({name: tree.get(name, {}) | sections.get(name, {}) for name in tree | sections})


def test_the_deadline_of_a_start_follows_the_checkpoint_s_size_and_its_readers(folder: Path) -> None:
    assert checkpoint.checkpoint_bytes(str(folder)) == 300 * MIB
    few = config(folder)
    assert few.readers == 6 and rollout.role(few).pool["start_deadline_s"] == pytest.approx(few.rollout.start_deadline_s + 6 * 3)
    many = config(folder, rollout={"engines": 16, "max_engines": 20})
    assert rollout.role(many).pool["start_deadline_s"] == pytest.approx(many.rollout.start_deadline_s + 22 * 3)


def test_the_learner_waits_as_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from rlvid.learner.group import LearnerGroup

    waited = []
    rank = SimpleNamespace(propose_meeting=SimpleNamespace(remote=lambda: "m"), start=SimpleNamespace(remote=lambda meeting: 1))
    monkeypatch.setattr(LearnerGroup, "_get", staticmethod(lambda calls, deadline_s, what: waited.append(deadline_s) or calls))
    few = config(folder)
    LearnerGroup(few, [rank]).start()
    assert waited == [pytest.approx(few.learner.start_deadline_s + 6 * 3)] * 2


def test_a_teacher_engine_s_checkpoint_counts_and_an_endpoint_s_does_not(folder: Path) -> None:
    engine = {"kind": "engine", "model": str(folder), "actors": 3}
    held = config(folder, teacher=engine, repair={"enabled": True})
    assert teacher.role(held).pool["start_deadline_s"] == pytest.approx(held.teacher.start_deadline_s + 3 * 3)
    asked = config(folder, teacher={"kind": "annotation", "actors": 3}, repair={"enabled": True})
    assert teacher.role(asked).pool["start_deadline_s"] == asked.teacher.start_deadline_s


def test_a_hub_id_s_size_is_its_cache_s_or_its_index_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, indexes = tmp_path / "snapshot", []
    found.mkdir()
    (found / "config.json").write_text("{}")
    monkeypatch.setattr(checkpoint, "_from_hub", lambda name, key: found / "config.json")

    def download(name: str, file: str, **_: object) -> str:
        indexes.append(file)
        (tmp_path / "index").write_text(json.dumps({"metadata": {"total_size": 16_600_000_000}, "weight_map": {}}))
        return str(tmp_path / "index")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert checkpoint.checkpoint_bytes.__wrapped__("Owner/Model") == 16_600_000_000 and indexes == ["model.safetensors.index.json"]
    (found / "model.safetensors").write_bytes(b"x" * 1000)
    assert checkpoint.checkpoint_bytes.__wrapped__("Owner/Model") == 1000
    monkeypatch.setattr(checkpoint, "_from_hub", lambda name, key: None)
    assert checkpoint.checkpoint_bytes.__wrapped__("Owner/Model") == 0, "no network"


def test_a_push_warns_of_no_layer_that_it_brings_nothing_for() -> None:
    """vLLM's own reload of two layers, one of which gets its weights: the notice about the other is not let through, anything else is."""
    import torch
    from vllm.model_executor.model_loader.reload import layerwise

    from rlvid.sync.plugin import _without_reload_notices

    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    def reload() -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        before = model[1].weight.clone()
        layerwise.record_metadata_for_reloading(model)
        layerwise.initialize_layerwise_reload(model)
        for parameter in list(model[0].parameters()):
            parameter.weight_loader(parameter, torch.ones(parameter.shape))
        layerwise.finalize_layerwise_processing(model, None)
        assert torch.equal(model[1].weight, before), "it keeps what it holds"

    kept = Kept()
    layerwise.logger.addHandler(kept)
    filters = list(layerwise.logger.filters)
    try:
        layerwise.logger.filters.clear()
        reload()
        assert said == ["Linear: Failed to load weights"]
        _without_reload_notices()
        _without_reload_notices()
        reload()
        assert len(said) == 1 and len(layerwise.logger.filters) == 1
        layerwise.logger.warning("%s: something else", "Linear")
        assert said[-1] == "Linear: something else"
    finally:
        layerwise.logger.removeHandler(kept)
        layerwise.logger.filters[:] = filters
