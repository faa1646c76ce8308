"""Whole checkpoints only: written aside, flushed, then renamed; the newest N are kept.

A checkpoint folder holds the learner's shards (`learner/`) and `state.json`: step, data cursor, counters and the settings
that a resumed run must share. What was interrupted half-way keeps its temporary name and is never seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from rlvid.config import Config, ConfigError
from rlvid.learner.group import LearnerGroup

PREFIX = "step_"


def save(folder: Path, step: int, learner: LearnerGroup, state: dict[str, Any], *, keep: int) -> Path:
    """Write checkpoints/step_NNNNNN and drop the oldest beyond `keep`."""
    final = folder / f"{PREFIX}{step:06d}"
    aside = folder / f".{final.name}.writing"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    learner.save(str(aside.absolute()))
    with (aside / "state.json").open("w") as file:
        json.dump({"step": step} | state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file())


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its state."""
    found = complete(folder)
    return (found[-1], json.loads((found[-1] / "state.json").read_text())) if found else None


def fingerprint(config: Config) -> dict[str, Any]:
    """What a run must not change when it goes on: the meaning of its seeds, its weights' layout, its groups."""
    return {
        "run.seed": config.run.seed,
        "model.path": config.model.path,
        "the checkpoint in model.path": _model_digest(Path(config.model.path)),
        "learner.zero_stage": config.learner.zero_stage,
        "learner.ranks": config.learner.ranks,
        "data.questions_per_step": config.data.questions_per_step,
        "variants.kinds": list(config.variants.kinds),
        "rollout.answers": config.rollout.answers,
    }


def _model_digest(folder: Path) -> str:
    """Fingerprint of a checkpoint folder: contents of its small files, names and sizes of the large ones. A hub id has none."""
    parts = [(path.name, path.stat().st_size, path.read_bytes() if path.stat().st_size < 2**26 else b"") for path in sorted(folder.glob("*")) if path.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def check_same_run(config: Config, state: dict[str, Any]) -> None:
    """Raise ConfigError when the resumed run's settings do not fit the checkpoint."""
    for key, value in fingerprint(config).items():
        before = state["fingerprint"].get(key)
        if before != value:
            raise ConfigError(f"{key} is {value!r}, but run {config.run.name} was made with {before!r}: set it back, or choose another run.name")
