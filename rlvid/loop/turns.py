"""Whose turn it is on the GPUs that an engine and a learner rank share (placement colocated).

    engines sample ─► engines sleep ─► the learner takes its state back, updates, sends it away ─► engines wake for weights
         ▲                                                                                              │
         └──────────────── engines wake for their cache ◄──────── the push ◄───────────────────────────┘

Where engines and ranks have GPUs of their own, nothing here does anything. An engine that does not answer when it is to sleep or wake is replaced before
the next push, never while the learner has the GPU: a new engine takes its memory at once.
"""

from __future__ import annotations

import logging
from typing import Any

from rlvid.actors.pool import ActorPool, what_it_says
from rlvid.config import Config
from rlvid.learner.group import LearnerGroup

log = logging.getLogger("rlvid")


class Turns:
    """`learners`: it is the learner's turn, the engines are asleep and hold no weights that count."""

    def __init__(self, config: Config, engines: ActorPool, learner: LearnerGroup) -> None:
        self.shared = config.colocated
        self.deadline_s = config.sync.deadline_s
        self.engines = engines
        self.learner = learner
        self.learners = False

    def to_learner(self) -> None:
        """Engines sleep, then the learner takes its state back. Until a push wakes them, no engine is asked for a sign of life."""
        if not self.shared or self.learners:
            return
        self.learners = self.engines.asleep = True
        self._ask("sleep")
        self.learner.wake()

    def to_engines(self) -> None:
        """The learner sends its state away, but for the weights; engines make room for theirs. What follows is a push."""
        if self.shared and self.learners:
            self.learner.rest()
            self._ask("wake", "weights")

    def serve(self) -> None:
        """After the push: engines wake for their cache."""
        if self.shared and self.learners:
            self._ask("wake", "kv_cache")
            self.learners = self.engines.asleep = False

    def _ask(self, method: str, *args: Any) -> None:
        import ray

        asked = [getattr(engine, method).remote(*args) for engine in self.engines.handles]
        answered, silent = ray.wait(asked, num_returns=len(asked), timeout=self.deadline_s)
        for ref in answered:
            try:
                ray.get(ref)
            except ray.exceptions.RayError as error:
                log.warning("a rollout engine did not %s: %s", " for ".join((method, *args)), what_it_says(error))
        if silent:
            log.warning("%d rollout engines did not %s within %.0f s", len(silent), " for ".join((method, *args)), self.deadline_s)
