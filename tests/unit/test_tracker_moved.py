"""An offline run's folder that goes to another place or machine is sent whole from there, pictures included: shown against a stand-in for wandb's service."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import wandb

import rlvid.observe.tracker as tracker_module
from rlvid.observe.tracker import open_tracker
from tests.unit.test_tracker import config, rollout_row
from tests.unit.wandb_server import WandbServer


def pictures(page: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_folder_that_is_moved_is_sent_whole(wandb_service: WandbServer, tmp_path: Path, attempts: int) -> None:
    """`attempts`: how often the run was gone on with, each an offline run of its own."""
    shown = [rollout_row(0), rollout_row(1), rollout_row(2, strip=False)]
    for attempt in range(attempts):
        tracker = open_tracker(config(), tmp_path / "node" / "tracked")
        for step in (2 * attempt + 1, 2 * attempt + 2):
            tracker.log(step, {"reward/mean": step / 8})
            tracker.rollouts(step, shown)
        tracker.close()
    wandb.teardown()
    folder = tmp_path / "elsewhere" / "tracked"
    shutil.move(tmp_path / "node", folder.parent)
    folders = sorted((folder / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
    sent = subprocess.run(command, cwd=tmp_path, env=os.environ | wandb_service.environment(), capture_output=True, text=True, timeout=120, check=False)
    assert sent.returncode == 0 and len(folders) == attempts, sent.stderr
    ((name, run),) = wandb_service.runs.items()
    rows = [row for row in wandb_service.rows(name) if "reward/mean" in row]
    assert [(row["_step"], row["reward/mean"]) for row in rows] == [(step, step / 8) for step in range(1, 2 * attempts + 1)]
    for row in rows:
        page = run.files[row["rollouts/page"]["path"]].decode()
        assert pictures(page) == [row.strip for row in shown[:2]] and page.count("<pre>+1.00") == 3
        assert f"step {row['_step']}" in page and "0 uniform" in page and "0, 1, 2.5, 3" in page
    told = [path for path in (folder / "wandb").rglob("files/media/**/*") if path.is_file()]
    assert told and {path.read_bytes() for path in told} <= set(run.files.values()), "every file of the run"
    assert not wandb_service._named, "and nothing that lies outside its folder"


def test_online_a_table_goes_with_the_page(wandb_service: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in wandb_service.environment().items():
        monkeypatch.setenv(name, value)
    tracker = open_tracker(config(), tmp_path)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.rollouts(1, [rollout_row(0), rollout_row(1, strip=False)])
    tracker.close()
    wandb.teardown()
    ((name, run),) = wandb_service.runs.items()
    (row,) = wandb_service.rows(name)
    assert pictures(run.files[row["rollouts/page"]["path"]].decode()) == [rollout_row(0).strip]
    (table,) = [json.loads(content) for path, content in run.files.items() if path.endswith(".table.json")]
    assert table["columns"] == list(tracker_module.SAMPLES) and [line[4] for line in table["data"]] == ["0 uniform", "1 uniform"]
    assert len(wandb_service.artifacts) == 1


def test_what_a_model_says_is_text_on_the_page() -> None:
    row = replace(rollout_row(0), question="<script>alert(1)</script>", answers="</pre><img src=x onerror=alert(1)>")
    page = tracker_module._page(3, [row])
    assert "<script" not in page and "<img src=x" not in page and page.count("<pre>") == page.count("</pre>") == 1
    assert "&lt;script&gt;alert(1)" in page and pictures(page) == [row.strip]
