"""One small world and one way to run the command line, for all integration tests. Real Ray, vLLM, DeepSpeed, decord."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvid.data import quickstart, warm_start

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> quickstart.World:
    """48 train and 12 held-out questions, and a model that has just learned the form of an answer."""
    built = quickstart.build_world(tmp_path_factory.mktemp("world") / "w", train_questions=48, eval_questions=12, warm_start=False, progress=False)
    folder = built.train.parent
    questions = [quickstart._read(folder, split) for split in ("train", "eval")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "SEEING_STEPS", 50)
        patch.setattr(warm_start, "ANSWERING_STEPS", 10)
        warm_start.warm_start(built.model, *questions, progress=False)
    return built


@pytest.fixture(scope="session")
def rlvid():
    """Run the command line in a process of its own."""

    def run(*args: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rlvid.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ | {"COLUMNS": "200"}, check=False)

    return run


@pytest.fixture
def small(world, tmp_path):
    """Overrides that make configs/quickstart.yaml a run of a minute."""
    return small_overrides(world, tmp_path / "runs")


def small_overrides(world: quickstart.World, runs: Path) -> list[str]:
    return [
        f"run.dir={runs}",
        "run.steps=2",
        f"model.path={world.model}",
        f"data.train={world.train}",
        f"data.eval={world.eval}",
        "data.questions_per_step=4",
        "variants.kinds=[uniform, importance_jitter]",
        "relevance.scorer=motion",
        "rollout.answers=4",
        "rollout.max_sequences=64",
        "tracker.kind=none",
    ]


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def slots_of(folder: Path, step: int) -> list[dict]:
    return [json.loads(line) for line in (folder / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]
