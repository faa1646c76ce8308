"""The tracker against the real wandb, offline: it records, survives trouble and never holds training up."""

from __future__ import annotations

import logging
import os
import struct
import time
from pathlib import Path

import pytest
import wandb

import rlvid.observe.tracker as tracker_module
from rlvid.config import Config
from rlvid.observe.tracker import NoTracker, open_tracker, without_secrets


def config(kind: str = "wandb") -> Config:
    return Config.model_validate({"run": {"name": "tracked"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}, "tracker": {"kind": kind}})


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nobody's login or settings


def records(run_folder: Path) -> list[dict]:
    """The history rows that one offline run wrote: after a 7-byte head, records of checksum (4), length (2), kind (1), protobuf."""
    from wandb.proto import wandb_internal_pb2

    (file,) = run_folder.glob("*.wandb")
    data, position, rows = file.read_bytes(), 7, []
    assert len(data) < 2**15, "records of longer files are split over blocks"
    while position < len(data):
        (length,) = struct.unpack_from("<H", data, position + 4)
        record = wandb_internal_pb2.Record.FromString(data[position + 7 : position + 7 + length])
        position += 7 + length
        if record.WhichOneof("record_type") == "history":
            rows.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    return rows


def test_offline_run_is_recorded_and_resumed_under_one_id(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tracked"
    for steps in (range(2), range(2, 3)):
        tracker = open_tracker(config(), folder)
        for step in steps:
            tracker.log(step, {"step": step, "reward/mean": 0.5, "eval/accuracy": None})
        tracker.close()
    wandb.teardown()  # its service process writes the last bytes a few milliseconds after the run is finished

    run_id = (folder / "wandb_id").read_text().strip()
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert run_id.startswith("tracked-")
    assert len(runs) == 2 and all(run_id in run.name for run in runs)
    rows = [row for run in runs for row in records(run)]
    assert [(row["_step"], row["reward/mean"]) for row in rows] == [("0", "0.5"), ("1", "0.5"), ("2", "0.5")]
    assert all("eval/accuracy" not in row for row in rows)
    assert capfd.readouterr().out == ""


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == tracker_module.__name__]


def test_none_does_nothing(tmp_path: Path) -> None:
    tracker = open_tracker(config("none"), tmp_path)
    tracker.log(1, {"a": 1.0})
    tracker.close()
    assert isinstance(tracker, NoTracker) and not list(tmp_path.iterdir())


def test_trouble_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "not_a_folder"
    file.write_text("")
    with caplog.at_level(logging.WARNING, logger=tracker_module.__name__):
        tracker = open_tracker(config(), file)
        for step in range(3):
            tracker.log(step, {"a": 1.0})
        tracker.close(failed=True)
        tracker.log(4, {"a": 1.0})
    (record,) = warnings(caplog)
    assert "metrics.jsonl goes on" in record.getMessage() and "\n" not in record.getMessage()


def test_a_hanging_wandb_never_holds_training_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tracker_module, "_start", lambda config, folder: time.sleep(3))
    monkeypatch.setattr(tracker_module, "QUEUE_ROWS", 5)
    monkeypatch.setattr(tracker_module, "START_DEADLINE_S", 0.1)
    monkeypatch.setattr(tracker_module, "FINISH_DEADLINE_S", 0.1)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING, logger=tracker_module.__name__):
        tracker = open_tracker(config(), tmp_path)
        for step in range(20):
            tracker.log(step, {"a": 1.0})
        tracker.close()
    assert time.monotonic() - start < 2
    assert len(warnings(caplog)) == 1


def test_secrets_stay_at_home() -> None:
    tree = {
        "max_tokens": 5,
        "micro_batch_tokens": 7,
        "teacher": {"api_key": "s", "apiKey": "s", "HF_TOKEN": "s", "db_password": "s", "key_frames": 3, "env": {"A": "s"}},
        "headers": {"Authorization": "s", "auth": "s"},
        "url": ["https://me:s3cret@host:80/v1", "plain"],
    }
    assert without_secrets(tree) == {
        "max_tokens": 5,
        "micro_batch_tokens": 7,
        "teacher": {"key_frames": 3},
        "headers": {},
        "url": ["https://host:80/v1", "plain"],
    }


def test_without_a_network_the_run_goes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    wandb.teardown()  # it reads the environment once per service
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracker_module, "START_DEADLINE_S", 2.0)
    monkeypatch.setattr(tracker_module, "FINISH_DEADLINE_S", 5.0)
    with caplog.at_level(logging.WARNING, logger=tracker_module.__name__):
        tracker = open_tracker(config(), tmp_path)
        tracker.log(1, {"a": 1.0})
        tracker.close()
    wandb.teardown()
    (record,) = warnings(caplog)
    assert "logged offline" in record.getMessage()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert [row["a"] for row in records(run)] == ["1"]
    assert not any(b"0" * 40 in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
