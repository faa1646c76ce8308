"""Batches of coming steps, sampled in a thread of their own while the learner updates.

The batch of step t may be begun once the engines hold weights that are at most `rollout.max_staleness` updates older than
strictly on-policy ones. At a checkpoint nothing is under way: the step after it is begun with the weights that were saved, in
a run that goes on as in one that is resumed there. So a checkpoint needs no half-sampled batches, and resumes exactly.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from rlvid.config import Config
from rlvid.loop.feed import Feed
from rlvid.loop.journal import due
from rlvid.loop.session import Session
from rlvid.types import Group

Sampled = tuple[list[Group], dict[str, float]]


class Ahead:
    """`with Ahead(...) as ahead:`. One thread samples the batches in the order of their steps, as without overlap."""

    def __init__(self, config: Config, session: Session, feed: Feed) -> None:
        self.config = config
        self.session = session
        self.feed = feed
        self.thread = ThreadPoolExecutor(1, "rlvid-sampling")
        self.begun: dict[int, Future[Sampled]] = {}

    def take(self, step: int) -> Sampled:
        """The batch of this step and its metrics. The engines must hold the weights of update step - 1."""
        started = time.perf_counter()
        for coming in range(step, last_to_begin(self.config, step) + 1):
            if coming not in self.begun:
                self.begun[coming] = self.thread.submit(self._sample, coming)
        groups, metrics = self.begun.pop(step).result()
        return groups, metrics | {"time/wait_s": time.perf_counter() - started}

    def again(self, step: int) -> Sampled:
        """Another batch for this step, after those that are begun already."""
        return self.thread.submit(self._sample, step).result()

    def _sample(self, step: int) -> Sampled:
        groups = self.feed.sample(step)
        self.feed.prefetch(step + 1)
        return groups, self.feed.metrics()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for batch in self.begun.values():
            batch.cancel()
        self.session.cancel_waits()
        self.thread.shutdown()


def last_to_begin(config: Config, step: int) -> int:
    """The last step whose batch may be begun with the weights of update `step` - 1: no checkpoint may come between."""
    last = min(step + config.rollout.max_staleness, config.run.steps)
    return next((coming for coming in range(step, last) if saves(config, coming)), last)


def saves(config: Config, step: int) -> bool:
    """Is there a checkpoint after this step?"""
    return due(config.run.save_every, step) or step == config.run.steps
