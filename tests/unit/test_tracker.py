"""The tracker against the real wandb, offline: it records, survives trouble and never holds training up."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb

import rlvid.observe.tracker as tracker_module
from rlvid.config import Config
from rlvid.observe.strips import RAY_STANDS, RolloutRow, filmstrip
from rlvid.observe.tracker import NoTracker, open_tracker
from rlvid.process.secrets import without_secrets


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

    run_id, last = (folder / "wandb_id").read_text().split()
    assert last == "2"
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert run_id.startswith("tracked-")
    assert len(runs) == 2 and all(run_id in run.name for run in runs)
    rows = [row for run in runs for row in records(run)]
    assert [(row["_step"], row["reward/mean"]) for row in rows] == [("0", "0.5"), ("1", "0.5"), ("2", "0.5")]
    assert all("eval/accuracy" not in row for row in rows)
    assert capfd.readouterr().out == ""


def train(folder: Path, steps: range, note: str, close: bool = True) -> None:
    """As a run does it: what comes after the step it goes on from is forgotten, then a row on disk and one for the tracker. `note`: of this attempt."""
    from rlvid.observe.metrics import MetricsFile

    folder.mkdir(exist_ok=True)
    metrics = MetricsFile(folder)
    metrics.truncate_after(steps[0] - 1)
    tracker = open_tracker(config(), folder)
    for step in steps:
        metrics.append(step, {"reward/mean": step / 8, note: 1.0, "time/none": None})
        tracker.log(step, {"reward/mean": step / 8, note: 1.0, "time/none": None})
    if close:
        tracker.close()


def shown(folder: Path) -> tuple[list[dict], list[dict]]:
    """(metrics.jsonl, what wandb shows of its latest run: rows of one id, by step)."""
    wandb.teardown()
    run_id = (folder / "wandb_id").read_text().split()[0]
    runs = sorted((folder / "wandb").glob(f"offline-run-*{run_id}*"))  # two of one second differ by an end
    on_disk = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    deadline = time.monotonic() + 20
    while len(rows := [row for run in runs for row in records(run)]) < len(on_disk) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = [{name: float(value) for name, value in row.items() if not name.startswith("_") or name == "_step"} for row in rows]
    expected = [{"_step" if name == "step" else name: float(value) for name, value in row.items() if value is not None} for row in on_disk]
    return expected, found


def test_a_run_that_repeats_steps_is_shown_as_metrics_jsonl_shows_it(tmp_path: Path) -> None:
    folder = tmp_path / "tracked"
    train(folder, range(1, 11), "first")
    train(folder, range(7, 13), "second")  # from the checkpoint of step 6
    expected, found = shown(folder)
    assert found == expected and [row["_step"] for row in found] == list(range(1, 13))
    assert [("first" in row, "second" in row) for row in found] == [(True, False)] * 6 + [(False, True)] * 6
    train(folder, range(13, 15), "third")
    expected, found = shown(folder)
    assert found == expected and len(found) == 14


def test_a_run_whose_wandb_was_killed_with_it_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tracked"
    train(folder, range(1, 5), "first")
    (folder / "wandb_id").write_text((folder / "wandb_id").read_text().split()[0] + "\n")  # as a kill leaves it: not closed
    train(folder, range(5, 8), "second")
    expected, found = shown(folder)
    assert found == expected and len(found) == 7


def test_a_signal_to_all_processes_costs_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ray ends a job with SIGTERM to all its processes, wandb's own among them; the driver then ends in order."""
    import psutil

    from rlvid.observe.metrics import MetricsFile

    folder = tmp_path / "tracked"
    folder.mkdir()
    metrics, tracker = MetricsFile(folder), open_tracker(config(), folder)
    with caplog.at_level(logging.WARNING, logger=tracker_module.__name__):
        for step in range(1, 9):
            metrics.append(step, {"reward/mean": step / 8})
            tracker.log(step, {"reward/mean": step / 8})
            while step == 5 and not (folder / "wandb_id").exists():
                time.sleep(0.05)
            if step == 5:
                time.sleep(3)
                for process in psutil.Process().children(recursive=True):
                    if "wandb" in process.name():
                        process.terminate()
                        process.wait(10)
        tracker.close(failed=True)
    expected, found = shown(folder)
    assert found == expected and len(found) == 8
    (record,) = warnings(caplog)
    assert "written anew" in record.getMessage()


class DrawnRow(RolloutRow):
    """A row whose strip is there already."""

    def picture(self) -> bytes | None:
        return self.strip


def rollout_row(variant: int, strip: bool = True) -> RolloutRow:
    frames, times_s = np.full((4, 48, 64, 3), 60 * variant, np.uint8), (0.0, 1.0, 2.5, 3.0)
    said = "+1.00 (reward 2.00): <answer>red</answer>"
    return DrawnRow("q1", "What colour?", "multiple_choice", "red", variant, "uniform", times_s, said, 2.0, filmstrip(frames, times_s) if strip else None)


def test_a_strip_is_a_picture_with_room_for_its_times() -> None:
    from PIL import Image

    picture = Image.open(io.BytesIO(rollout_row(1).strip))
    assert picture.size == (4 * 112 + 3 * 4, 84 + 14) and picture.format == "JPEG"


def test_no_strip_is_asked_for_while_ray_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was in Ray then ended the tracker's thread by SystemExit."""
    up, asked, refused = threading.Event(), threading.Event(), []

    def wait(refs, timeout):
        asked.set()
        refused.extend([] if up.is_set() else ["asked while Ray was gone"])
        time.sleep(timeout)
        refused.extend([] if up.is_set() else ["in Ray while it went"])
        return [], refs

    up.set()
    monkeypatch.setattr("ray.is_initialized", up.is_set)
    monkeypatch.setattr("ray.wait", wait)
    row, pictures = RolloutRow("q1", "What?", "open", "red", 0, "uniform", (0.0,), "", 1.0, "a reference"), []
    thread = threading.Thread(target=lambda: pictures.append(row.picture()), daemon=True)
    thread.start()
    assert asked.wait(10)
    with RAY_STANDS:
        up.clear()
    thread.join(10)
    assert pictures == [None] and refused == []


def test_pages_of_rollouts_with_pictures_survive_an_interruption(tmp_path: Path) -> None:
    folder = tmp_path / "tracked"
    for step, failed in ((1, True), (2, False)):
        tracker = open_tracker(config(), folder)
        tracker.log(step, {"reward/mean": float(step)})
        tracker.rollouts(step, [rollout_row(0), rollout_row(1), rollout_row(2, strip=False)])
        tracker.close(failed=failed)
    wandb.teardown()
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    run_id = (folder / "wandb_id").read_text().split()[0]
    assert len(runs) == 2 and all(run_id in run.name for run in runs), "one run for the service"
    for run, step in zip(runs, (1, 2), strict=True):
        (page,) = (run / "files" / "media" / "html" / "rollouts").glob("page_*.html")
        said = page.read_text()
        assert said.count("data:image/jpeg;base64,") == 2 and said.count("<pre>+1.00") == 3 and f"step {step}" in said


def test_tensorboard_gets_numbers_pictures_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        tracker = open_tracker(config("tensorboard"), tmp_path)
        tracker.log(step, {"reward/mean": 0.5, "eval/accuracy": None})
        tracker.rollouts(step, [rollout_row(0)])
        tracker.close()
    found: dict[str, list[int]] = {}
    files = sorted((tmp_path / "tensorboard").glob("events.*"))
    for file in files:
        for event in events(file):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    assert len(files) == 2 and found["reward/mean"] == [1, 2] and found["rollouts/q1/0_uniform"] == [1, 2]
    assert "eval/accuracy" not in found and any(tag.startswith("config") for tag in found)


def events(file: Path) -> list[Any]:
    """TensorFlow records: length (8), checksum (4), event, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    data, position, found = file.read_bytes(), 0, []
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        found.append(Event.FromString(data[position + 12 : position + 12 + length]))
        position += 16 + length
    return found


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
