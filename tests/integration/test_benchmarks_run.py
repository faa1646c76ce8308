"""Benchmarks that start a whole run still go at a toy size. Those without one: tests/unit/test_benchmarks.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.results import FOLDER
from tests.integration.conftest import CONFIG, small_overrides

pytestmark = pytest.mark.long

RUNS = {  # how each is called: with the small run's config and settings, and with what of its own
    "step": (True, "--steps 6"),
    "rewards": (True, "--steps 6 --questions 2 --seconds 0.02"),
    "rollouts": (True, "--questions 2 --answers 1 2 --pairs 1"),
    "chaos": (True, "run.steps=30 --faults 1 --every 3"),
    "kills": (True, "run.steps=6 --kills 1"),
    "sync": (False, "--sizes 10 --engines 1 --repeats 1"),
    "dispatch": (False, "--engines 2 4 --seconds 0.2 --rounds 2"),
    "relevance": (False, "--limit 8 --draws 1"),
    "hour": (False, "--minutes 10 --rounds 1"),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.timeout(900)
def test_it_still_runs_at_a_toy_size(world, tmp_path, name):
    with_config, own = RUNS[name]
    arguments = own.split()
    if with_config:
        small = [setting for setting in small_overrides(world, tmp_path) if not setting.startswith(("run.dir=", "run.steps="))]
        arguments = [str(CONFIG), *small, "run.save_every=2", *arguments]
    if name in ("step", "rewards", "chaos", "kills"):
        arguments += ["--out", str(tmp_path / "out")]
    if name == "relevance":
        arguments += ["--world", str(world.train.parent)]
    if name == "hour":
        arguments += ["--folder", str(tmp_path)]
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent, timeout=800, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == name and last["environment"]["torch"]
