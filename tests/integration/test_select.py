"""Selection with real engines: killed outright in the middle and started again, it repeats nothing and gives the same file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rlvid.data.questions import iter_questions
from tests.integration.conftest import CONFIG

QUESTIONS = 48


@pytest.mark.timeout(1200)  # engines start three times
def test_killed_in_the_middle_it_goes_on(small, rlvid, world, tmp_path):
    settings = [*small, "select.repeats=4", "select.in_flight=2", "select.iou_max=0.1", "select.iou_std=0.01"]
    whole = rlvid("select", CONFIG, "--out", tmp_path / "whole" / "kept.jsonl", *settings)
    assert whole.returncode == 0, whole.stderr[-3000:]

    out = tmp_path / "cut" / "kept.jsonl"
    journal = out.with_name("kept.journal.jsonl")
    process = subprocess.Popen(
        [sys.executable, "-m", "rlvid.cli", "select", str(CONFIG), "--out", str(out), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 300
    while len(finished(journal)) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    for orphan in psutil.wait_procs(children, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()  # nobody was left to end the engine
    done = finished(journal)
    assert 0 < len(done) < QUESTIONS and not out.exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "0123')  # torn, as a crash of the machine leaves it

    again = rlvid("select", CONFIG, "--out", out, *settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"{len(done)} of {QUESTIONS} questions are in" in again.stderr
    recorded = finished(journal)
    assert recorded[: len(done)] == done and len(recorded) == len(set(recorded)) == QUESTIONS, "a finished question was asked again"
    for name in ("kept.jsonl", "kept.statistics.jsonl", "kept.report.json"):
        assert (out.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    report = json.loads((out.parent / "kept.report.json").read_text())
    kept = list(iter_questions(out))
    assert report["questions"] == QUESTIONS and 0 < report["kept"] == len(kept) < QUESTIONS
    assert all(Path(question.video).is_file() for question in kept)
    assert out.with_name("kept.png").read_bytes().startswith(b"\x89PNG")
    trains = rlvid("train", CONFIG, "--dry-run", *settings, f"data.train={out}")
    assert trains.returncode == 0, trains.stderr[-3000:]


def finished(journal: Path) -> list[str]:
    """Ids of the whole lines."""
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [json.loads(line)["id"] for line in lines]
