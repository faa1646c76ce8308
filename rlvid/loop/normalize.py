"""Rewards become advantages, by the estimator and the kind of group that the config names. The formulas are in rlvid/algo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.algo.advantages import batch_advantages, joint_advantages, per_variant_advantages
from rlvid.algo.ema_grpo import Moments, task_scaled, updated
from rlvid.algo.gdpo import decoupled_advantages
from rlvid.algo.rloo import leave_one_out
from rlvid.config import Config
from rlvid.types import Group

Arrays = list[NDArray[Any]]


class Normalizer:
    """Called once a step, in order. State that a checkpoint must hold: the moments of ema_grpo."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.moments: dict[str, Moments] = {}

    def __call__(self, groups: Sequence[Group], rewards: Arrays) -> Arrays:
        """Advantages [K, M] per group. `rewards`: [K, M] per group, as they count. With loss.surrogate likelihood every answer counts 1."""
        if self.config.loss.surrogate == "likelihood":
            return [np.ones_like(rewards_KM) for rewards_KM in rewards]
        return getattr(self, f"_{self.config.advantage.estimator}")(groups, rewards)

    def metrics(self) -> dict[str, float]:
        """`advantage/std_TASK`: what ema_grpo divides by."""
        return {f"advantage/std_{task}": moments.std for task, moments in self.moments.items()}

    def state(self) -> dict[str, Any]:
        return {task: asdict(moments) for task, moments in self.moments.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self.moments = {task: Moments(**moments) for task, moments in state.items()}

    def _grpo(self, groups: Sequence[Group], rewards: Arrays) -> Arrays:
        advantage = self.config.advantage
        if advantage.group == "batch":
            return batch_advantages(rewards, scale=advantage.scale, eps=advantage.eps)
        return [self._in_group(advantage.scale)(rewards_KM) for rewards_KM in rewards]

    def _rloo(self, groups: Sequence[Group], rewards: Arrays) -> Arrays:
        if self.config.advantage.group == "joint":
            return [leave_one_out(rewards_KM) for rewards_KM in rewards]
        return [np.concatenate([leave_one_out(row_M[None]) for row_M in rewards_KM]) for rewards_KM in rewards]

    def _gdpo(self, groups: Sequence[Group], rewards: Arrays) -> Arrays:
        weights = [{name: weight for name, weight in self.config.reward.weights[group.question.task].items() if weight} | {REST: 1.0} for group in groups]
        parts = [_parts(group, rewards_KM, own) for group, rewards_KM, own in zip(groups, rewards, weights, strict=True)]
        return decoupled_advantages(parts, weights, self._in_group("std"), eps=self.config.advantage.eps)

    def _ema_grpo(self, groups: Sequence[Group], rewards: Arrays) -> Arrays:
        tasks = [group.question.task for group in groups]
        self.moments = updated(self.moments, tasks, rewards, decay=self.config.advantage.ema_decay)
        return task_scaled(rewards, tasks, self.moments, self._in_group("none"))

    def _in_group(self, scale: Any) -> Callable[[Any], NDArray[Any]]:
        one = joint_advantages if self.config.advantage.group == "joint" else per_variant_advantages
        return lambda values_KM: one(values_KM, scale=scale, eps=self.config.advantage.eps)


REST = "repair"
"""What a repaired slot's value has beside the weighted parts: the discount, and the bonus for alignment. A part of its own under GDPO [D]."""


def _parts(group: Group, rewards_KM: NDArray[Any], weights: dict[str, float]) -> dict[str, NDArray[Any]]:
    """[K, M] of every part that counts, and of what the reward has beside them."""
    named = [name for name in weights if name != REST]
    parts = {name: np.array([[score.parts.get(name, 0.0) for score in row] for row in group.scores_KM], dtype=np.float64) for name in named}
    summed = np.sum([weights[name] * values for name, values in parts.items()], axis=0) if parts else 0.0
    rest = rewards_KM - summed
    return parts | ({REST: rest} if np.abs(rest).max() > 1e-9 else {})
