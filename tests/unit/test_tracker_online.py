"""The tracker and the real wandb, online and by `wandb sync`, against a stand-in for its service: the rows kept there are those of metrics.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from rlvid.observe.metrics import MetricsFile
from rlvid.observe.tracker import open_tracker
from tests.unit.test_tracker import config, rollout_row
from tests.unit.wandb_server import WandbServer


def train(folder: Path, steps: range, note: str, *, close: bool = True, pictures: bool = False) -> None:
    """As a run does it: what comes after the step it goes on from is forgotten, then a row on disk and one for the tracker. `note`: of this attempt."""
    folder.mkdir(exist_ok=True)
    metrics = MetricsFile(folder)
    metrics.truncate_after(steps[0] - 1)
    tracker = open_tracker(config(), folder)
    for step in steps:
        row = {"reward/mean": step / 8, note: 1.0, "time/none": None}
        metrics.append(step, row)
        tracker.log(step, row)
        if pictures:
            tracker.rollouts(step, [rollout_row(0), rollout_row(1)])
    tracker.close(failed=not close)


def run_id(folder: Path) -> str:
    return (folder / "wandb_id").read_text().split()[0]


def on_disk(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{"_step" if name == "step" else name: float(value) for name, value in row.items() if value is not None} for row in rows]


def stored(wandb_service: WandbServer, folder: Path) -> list[dict[str, float]]:
    """The numbers that the service holds of the folder's latest run."""
    rows = wandb_service.rows(run_id(folder))
    return [{name: float(value) for name, value in row.items() if name == "_step" or (name[0] != "_" and not isinstance(value, dict))} for row in rows]


def synced(wandb_service: WandbServer, folder: Path) -> None:
    """`wandb sync` of every offline run of the folder's latest run, oldest first, as a person types it."""
    wandb.teardown()
    runs = sorted(str(path) for path in (folder / "wandb").glob(f"offline-run-*{run_id(folder)}*"))
    environment = os.environ | wandb_service.environment()
    subprocess.run([sys.executable, "-m", "wandb", "sync", *runs], cwd=folder, env=environment, check=True, timeout=120, capture_output=True)


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline and sync"])
def test_a_run_that_repeats_steps_is_kept_as_metrics_jsonl_has_it(
    wandb_service: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    folder = tmp_path / "tracked"
    for name, value in wandb_service.environment().items() if online else ():
        monkeypatch.setenv(name, value)
    train(folder, range(1, 11), "first", pictures=True)
    first = run_id(folder)
    train(folder, range(7, 13), "second")  # from the checkpoint of step 6
    assert run_id(folder) != first
    if not online:
        synced(wandb_service, folder)
    rows = stored(wandb_service, folder)
    assert rows == on_disk(folder) and [row["_step"] for row in rows] == list(range(1, 13))
    assert [("first" in row, "second" in row) for row in rows] == [(True, False)] * 6 + [(False, True)] * 6
    train(folder, range(13, 15), "third")
    if not online:
        synced(wandb_service, folder)
    assert stored(wandb_service, folder) == on_disk(folder) and len(on_disk(folder)) == 14
    assert {run.said["groupName"] for run in wandb_service.runs.values()} == {"tracked"}, "the runs of one folder stand together"


def test_a_run_that_was_killed_is_kept_whole_online(wandb_service: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tracked"
    for name, value in wandb_service.environment().items():
        monkeypatch.setenv(name, value)
    train(folder, range(1, 5), "first")
    (folder / "wandb_id").write_text(f"{run_id(folder)}\n")  # as a kill leaves it: not closed
    train(folder, range(5, 8), "second")
    assert stored(wandb_service, folder) == on_disk(folder) and len(on_disk(folder)) == 7


def test_what_wandb_itself_keeps_of_repeated_steps(wandb_service: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a run of its own: resumed as it stands, wandb holds on to what was given up and drops what was done again, without a word."""
    for name, value in wandb_service.environment().items():
        monkeypatch.setenv(name, value)
    for steps, value in ((range(1, 5), 1.0), (range(3, 7), 2.0)):
        run = wandb.init(project="rlvid", id="same", resume="allow", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
        for step in steps:
            run.log({"value": value}, step=step)
        run.finish()
    assert [(row["_step"], row["value"]) for row in wandb_service.rows("same")] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 2.0)]
