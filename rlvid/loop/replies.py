"""Supervised fine-tuning as the loop does it: questions whose file has a reply, as groups whose one answer a view is that reply.

The same stream, variants, learner and checkpoints; no engine samples. `rlvid sft` runs the loop with this feed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvid.actors.sampler import Collected
from rlvid.config import Config
from rlvid.data.questions import QuestionError, parse_line, raw_lines
from rlvid.loop.feed import Feed
from rlvid.types import Group, Question


class Replies(Feed):
    """Every question's own reply under each of its variants."""

    def _asked(self, questions: list[Question], step: int) -> Collected:
        collected: Collected = self.session.wait(self.session.sampler.stored(questions, step, kinds=self.config.variants.kinds))
        return collected

    def _teaches_nothing(self, group: Group) -> bool:
        return False


def for_replies(config: Config) -> Config:
    """The run's settings with what belongs to sampled answers left out."""
    loss = config.loss.model_copy(update={"surrogate": "likelihood", "truncated": "count"})
    off: dict[str, Any] = {
        "loss": loss,
        "data": config.data.model_copy(update={"filter": "off"}),
        "repair": config.repair.model_copy(update={"enabled": False}),
        "distill": config.distill.model_copy(update={"sources": ()}),
        "rollout": config.rollout.model_copy(update={"max_staleness": 0}),
        "placement": config.placement if config.data.eval is not None else "split",  # without engines there is nobody to share a GPU with
    }
    return config.model_copy(update=off)


def check_replies(path: Path, skip: frozenset[str] = frozenset()) -> None:
    """Raise QuestionError for the first question of the file without a reply."""
    for line, _, raw in raw_lines(path):
        question = parse_line(raw, path=path, line=line)
        if not question.reply and question.id not in skip:
            raise QuestionError(f"{path}:{line}: reply: is missing (rlvid sft learns the reply of every question; data.skip leaves one out)")
