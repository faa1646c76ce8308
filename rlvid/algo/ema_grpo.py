"""EMA-GRPO: rewards are centred in their group and divided by a moving standard deviation of their *task*. Pure, numpy float64.

A binary task's groups and a grounding task's have standard deviations of other sizes, and within a task a nearly unanimous group is blown up by its own.
Per task, moving averages of the reward's first and second moment with decay 0.99, begun with the first batch's; the batch at hand is counted first:
A = (r - mean of the group) / max(sqrt(m2 - m1^2), floor) (OneThinker, arXiv 2512.03043, and its released code [R], which falls back to the group's own
deviation where |A| would pass a bound; here the floor alone bounds it [D]).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlvid.algo.advantages import Floats, matrix

FLOOR = 1e-3
"""Least standard deviation of a task."""


@dataclass(frozen=True)
class Moments:
    """Moving averages of a task's reward and of its square."""

    first: float
    second: float

    @property
    def std(self) -> float:
        return max(self.second - self.first**2, FLOOR**2) ** 0.5


def updated(moments: Mapping[str, Moments], tasks_Q: Sequence[str], rewards_QKM: Sequence[ArrayLike], *, decay: float = 0.99) -> dict[str, Moments]:
    """The moments after a batch: those of its tasks moved, the others as they were."""
    after = dict(moments)
    for task in sorted(set(tasks_Q)):
        rewards = np.concatenate([matrix(rewards_KM).ravel() for rewards_KM, own in zip(rewards_QKM, tasks_Q, strict=True) if own == task])
        seen = Moments(float(rewards.mean()), float((rewards**2).mean()))
        before = moments.get(task, seen)
        after[task] = Moments(decay * before.first + (1 - decay) * seen.first, decay * before.second + (1 - decay) * seen.second)
    return after


def task_scaled(
    rewards_QKM: Sequence[ArrayLike], tasks_Q: Sequence[str], moments: Mapping[str, Moments], centred: Callable[[ArrayLike], Floats]
) -> list[Floats]:
    """Q arrays [K, M] -> the same shapes. `centred`: how one group is centred, [K, M] -> [K, M]. `moments`: `updated` by this batch."""
    return [centred(rewards_KM) / moments[task].std for rewards_KM, task in zip(rewards_QKM, tasks_Q, strict=True)]
