"""Debug doors: sample without learning, and learn a dumped step again. Each is one of the loop's halves on its own."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rlvid.actors.placement import connect, place
from rlvid.config import Config, ConfigError, load
from rlvid.learner import checkpoints, group
from rlvid.learner.group import LearnerGroup
from rlvid.learner.storage import PREFIX
from rlvid.loop.dumped import DumpedStep, read_rows
from rlvid.loop.feed import Feed
from rlvid.loop.journal import open_journal
from rlvid.loop.normalize import Normalizer
from rlvid.loop.session import learner_group, open_session
from rlvid.train import shaped_rewards, training_prompts

log = logging.getLogger("rlvid")

COMPARED = ("loss/policy", "loss/distill", "mismatch/mean_abs_dlogp", "policy/entropy", "optimizer/grad_norm", "optimizer/lr")
RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Two numbers are the same within these: float sums in another order, and nothing else."""


@dataclass(frozen=True)
class Replayed:
    """One number of the step: as the run wrote it and as it came out again."""

    name: str
    written: float
    again: float

    @property
    def same(self) -> bool:
        return abs(self.written - self.again) <= ABSOLUTE + RELATIVE * abs(self.written)


def rollout_only(config: Config) -> Path:
    """Sample, score and dump run.steps steps with the weights of model.path; nothing is updated. Returns the run folder."""
    with open_journal(config) as journal, open_session(config, with_learner=False) as session:
        feed, normalize = Feed(config, session), Normalizer(config)
        journal.rewind(0)
        for step in range(1, config.run.steps + 1):
            groups = feed.sample(step)
            rewards = shaped_rewards(config, groups, step)
            feed.prefetch(step + 1)
            journal.step(step, groups, rewards, normalize(groups, rewards), feed.metrics() | {"staleness/max": 0.0})
    return config.folder


def replay(folder: Path, step: int) -> list[Replayed]:
    """Send a dumped step through the learner again, from the last checkpoint before it over the steps between.

    Nothing in the run folder is changed but logs/. Raises ConfigError where the step cannot be made again.
    """
    config = _config_of(folder)
    written = _row_of(folder, step)
    found = [path for path in checkpoints.complete(folder / "checkpoints") if _number(path) < step and not checkpoints.damage(path)]
    first = _number(found[-1]) + 1 if found else 1
    steps = [DumpedStep(folder, number) for number in range(first, step + 1)]  # refused before anything starts
    with learner_alone(config) as learner:
        import ray  # not before: the learner's Ray is set up by environment variables

        normalize, again = Normalizer(config), steps[-1].numbers("advantage")
        if found:
            state = checkpoints.read_state(found[-1])
            checkpoints.load(found[-1], state, learner, config)
            normalize.restore(state.get("advantage", {}))
        log.info("replaying steps %d to %d from %s", first, step, found[-1].name if found else config.model.path)
        metrics: dict[str, float] = {}
        for dumped in steps:
            groups = dumped.groups(keep=ray.put)
            again = normalize(groups, dumped.numbers("reward"))
            metrics = learner.update(training_prompts(config, groups, dumped.numbers("advantage")))
    compared = [Replayed(name, written[name], metrics[name]) for name in COMPARED if name in written and name in metrics]
    return [*compared, _largest_difference(steps[-1].numbers("advantage"), again)]


def _largest_difference(written: list[NDArray[Any]], again: list[NDArray[Any]]) -> Replayed:
    """The advantage that differs most when all are computed again from the dumped rewards."""
    pairs = [(float(a), float(b)) for before, now in zip(written, again, strict=True) for a, b in zip(before.ravel(), now.ravel(), strict=True)]
    return Replayed("advantage (largest difference)", *max(pairs, key=lambda pair: abs(pair[0] - pair[1])))


@contextlib.contextmanager
def learner_alone(config: Config) -> Iterator[LearnerGroup]:
    """The run's learner without engines and variant actors."""
    role = group.role(config)
    connect(config, [role])
    import ray

    learner: LearnerGroup | None = None
    try:
        learner = learner_group(config, role, place(config, [role])[role.name])
        learner.start()
        yield learner
    finally:
        if learner is not None:
            learner.stop()
        ray.shutdown()


def _config_of(folder: Path) -> Config:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: is not a run folder, it has no config.yaml (name one such as runs/quickstart)")
    whole = folder.absolute()
    return load(folder / "config.yaml", [f"run.dir={json.dumps(str(whole.parent))}", f"run.name={json.dumps(whole.name)}"])


def _row_of(folder: Path, step: int) -> dict[str, Any]:
    rows = read_rows(folder / "metrics.jsonl", step)
    for row in rows:
        if row["step"] == step and "loss/policy" in row:
            return row
    raise ConfigError(f"--step: metrics.jsonl of {folder} has no update {step} (it goes to step {max((row['step'] for row in rows), default=0)})")


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))
