"""Seconds per step, from rates that were measured in a run of the same model on the same machines, or that the user states. Without them there is none."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from rlvid.config import Config, ConfigError, load
from rlvid.plan.model_size import model_size
from rlvid.plan.reckoning import Assumed, Tokens, count_tokens, shown_in_files

WARM_UP_STEPS = 2
"""First steps of a measured run that are left out: engines and allocators are warming up."""


@dataclass(frozen=True)
class Rates:
    """Tokens per second of one engine (answers) and of one learner rank (prompts once, and answers); seconds of a sync."""

    engine_tokens_per_s: float
    learner_tokens_per_s: float
    sync_s: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step's parts and of the whole, parts one after another; `bottleneck` is the longest."""

    rollout_s: float
    learn_s: float
    sync_s: float

    @property
    def step_s(self) -> float:
        return self.rollout_s + self.learn_s + self.sync_s

    @property
    def overlapped_s(self) -> float:
        """Least time when the next batch is sampled while this one is learned."""
        return max(self.rollout_s, self.learn_s) + self.sync_s

    @property
    def bottleneck(self) -> str:
        return "rollouts" if self.rollout_s >= self.learn_s else "learner"


def step_time(config: Config, tokens: Tokens, rates: Rates) -> StepTime:
    """Engines and ranks share the step's tokens evenly; variants are built ahead and cost nothing while they keep up."""
    return StepTime(
        rollout_s=tokens.sampled / (config.rollout.engines * rates.engine_tokens_per_s),
        learn_s=config.loss.passes * tokens.learned / (config.learner.ranks * rates.learner_tokens_per_s),
        sync_s=rates.sync_s,
    )


def measured(folder: Path, text_tokens: int) -> tuple[Rates, int]:
    """(rates, mean answer tokens) of a finished run, medians over its steps. Raises ConfigError for a folder that is none."""
    try:
        config = load(folder / "config.yaml")
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--measured: {folder} is not the folder of a run ({error})") from None
    steps = [row for row in rows if "time/learn_s" in row][WARM_UP_STEPS:]
    if not steps:
        raise ConfigError(f"--measured: {folder} has no more than {WARM_UP_STEPS} steps, too few to measure")
    needed = ("rollout/answer_tokens_mean", "rollout/answer_tokens", "time/rollout_s", "time/learn_s", "time/sync_s")
    if missing := [name for name in needed if not all(row.get(name) for row in steps)]:
        raise ConfigError(f"--measured: metrics.jsonl of {folder} has steps without {missing[0]}")
    answer = statistics.median(row["rollout/answer_tokens_mean"] for row in steps)
    tokens = count_tokens(config, model_size(config.model.path), Assumed(text_tokens=text_tokens, shows=shown_in_files(config)))
    prompts = config.data.questions_per_step * config.variants_per_question * tokens.prompt
    return Rates(
        engine_tokens_per_s=statistics.median(row["rollout/answer_tokens"] / row["time/rollout_s"] for row in steps) / config.rollout.engines,
        learner_tokens_per_s=statistics.median(config.loss.passes * (prompts + row["rollout/answer_tokens"]) / row["time/learn_s"] for row in steps)
        / config.learner.ranks,
        sync_s=statistics.median(row["time/sync_s"] for row in steps),
    ), round(answer)
