"""Questions in, full batches of scored groups out.

Takes questions from the stream in their seeded order, replaces those whose video cannot be used, drops groups without a
signal where the config says so, and lets the variant actors work on the next step's questions while the learner updates.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from rlvid.actors.sampler import Collected
from rlvid.algo.advantages import zero_signal
from rlvid.algo.selection import Rules, answers_of, drop_reason
from rlvid.config import Config
from rlvid.data.stream import QuestionStream
from rlvid.loop.session import Session
from rlvid.loop.variance_filter import VarianceFilter
from rlvid.observe.step_row import answer_tokens, signal_shares
from rlvid.types import Group, LeftOut, Quarantined, Question

log = logging.getLogger("rlvid")

RECENT = 4
"""Steps whose need of questions the next ones are expected to have."""
SUMS = (
    "time/variants_s",
    "time/rollout_s",
    "time/rewards_s",
    "time/teacher_s",
    "driver/bytes",
    "data/filtered",
    "data/truth_hidden",
    "late",
    "variants/thrown_away",
)
"""What the rounds of a step add up."""


class TooManyBadVideos(RuntimeError):
    """So many unusable questions, in a row or in all, that something general is wrong."""


class Feed:
    """State that a checkpoint must hold: the stream's cursor, the counters, and which questions rest."""

    def __init__(self, config: Config, session: Session) -> None:
        self.config = config
        self.session = session
        self.stream = QuestionStream(config.data.train, seed=config.run.seed, skip=config.data.skipped)
        self.filter = VarianceFilter(after=config.data.filter_after, epochs=config.data.filter_epochs) if config.data.filter == "variance" else None
        self.rules = Rules(config.select.iou_std, config.select.iou_max)
        self.quarantined = 0
        self.bad_in_a_row = 0
        self.unlearned_in_a_row = 0
        """Questions that the learner refused, without an update in between."""
        self.taken = deque([config.data.questions_per_step], RECENT)
        self.begun_ahead = 0
        self._metrics: dict[str, float] = {}

    def sample(self, step: int) -> list[Group]:
        """Q groups for this step, never none: fewer when zero-signal groups were dropped and refills ran out, or the file has no more usable questions."""
        started = time.perf_counter()
        wanted, refills, asked = self.config.data.questions_per_step, 0, set[str]()
        kept: list[Group] = []
        dropped: list[Group] = []
        self._metrics = dict.fromkeys(SUMS, 0.0)
        while len(kept) < wanted and (questions := self._take(wanted - len(kept), asked)):
            self._metrics["data/filtered"] += self.stream.left_out
            self._look_ahead(step, questions, asked)
            groups = self._collect(questions, step)
            silent = [group for group in groups if self.config.advantage.drop_zero_signal and self._teaches_nothing(group)]
            kept += [group for group in groups if group not in silent]
            dropped += silent
            if silent:
                refills += 1
            if refills > self.config.advantage.max_refills:
                break
        self.taken.append(len(asked))
        sampled = kept + dropped
        kept = kept or dropped[:wanted]
        if not kept:
            hidden = int(self._metrics["data/truth_hidden"])
            why = f"{hidden} of them show no frame of their truth (variants.hidden), " if hidden else ""
            raise TooManyBadVideos(f"none of the {len(self.stream)} questions of {self.config.data.train} can be used: {why}log.txt names the others")
        self._metrics |= {
            "data/quarantined": float(self.quarantined),
            "variants/late_share": self._metrics.pop("late") / len(asked),
            **signal_shares(sampled),
            # Stored replies take no time to sample.
            **({"throughput/rollout_tokens_per_s": answer_tokens(sampled) / rollout_s} if (rollout_s := self._metrics["time/rollout_s"]) else {}),
            "group/dropped": float(len(dropped)),
            "group/kept": float(len(kept)),
            "time/sample_s": time.perf_counter() - started,
        }
        return kept

    def prefetch(self, step: int) -> None:
        """Let the variant actors start on the questions that `sample(step)` and, with `variants.prefetch` above 1, the next ones will ask for."""
        self._look_ahead(step - 1, [], set())

    def _look_ahead(self, step: int, now: list[Question], asked: set[str]) -> None:
        """Have built, in this order: the questions asked `now`; those that may take the place of silent or unusable ones of this `step`, of which it has
        `asked` some; and those of the `variants.prefetch` steps behind it, as many each as the recent steps took with their replacements. What was
        begun earlier and is still to come goes on."""
        if not self.config.variants.prefetch:
            return
        here, many = self.stream.state(), max(self.taken)
        self.begun_ahead = max(0, self.begun_ahead - len(now))
        coming = min(self.config.variants.prefetch, self.config.run.steps - step)
        rest = max(0, many - len(asked)) if now else 0
        self.begun_ahead = max(self.begun_ahead, rest + many * coming)
        wanted = [(step, question) for question in now + self._take(min(rest, self.begun_ahead), set(asked))]
        for first in range(rest, self.begun_ahead, many):
            wanted += [(step + 1 + first // many, question) for question in self._take(min(many, self.begun_ahead - first), set())]
        self.stream.restore(here)
        self.session.sampler.prefetch(self.session.loop, wanted, self.config.variants.kinds)

    def metrics(self) -> dict[str, float]:
        """What the last `sample` took and met."""
        return dict(self._metrics)

    def without(self, groups: list[Group], reasons: dict[str, str]) -> list[Group]:
        """The groups but those of the questions that the learner cannot use, which are counted. Raises TooManyBadVideos."""
        for id, reason in reasons.items():
            self.quarantined += 1
            self.unlearned_in_a_row += 1
            log.warning("quarantined %s: the learner cannot pack its prompt: %s (data.skip leaves it out for good)", id, reason)
        if self.unlearned_in_a_row >= self.config.data.max_bad_in_a_row:
            raise TooManyBadVideos(f"the learner could not pack {self.unlearned_in_a_row} questions in a row, last: {next(reversed(reasons.values()))}")
        return [group for group in groups if group.question.id not in reasons]

    def state(self) -> dict[str, Any]:
        resting = self.filter.state() if self.filter else {}
        return {"stream": self.stream.state(), "quarantined": self.quarantined, "bad_in_a_row": self.bad_in_a_row, "filter": resting}

    def restore(self, state: dict[str, Any]) -> None:
        self.stream.restore(state["stream"])
        self.quarantined, self.bad_in_a_row = state["quarantined"], state["bad_in_a_row"]
        if self.filter:
            self.filter.restore(state.get("filter", {}))

    def _asked(self, questions: list[Question], step: int) -> Collected:
        kinds, answers = self.config.variants.kinds, self.config.rollout.answers
        collected: Collected = self.session.wait(self.session.sampler.collect(questions, step, kinds=kinds, answers=answers, training=True))
        return collected

    def _collect(self, questions: list[Question], step: int) -> list[Group]:
        """The groups of one round; unusable questions are counted, the next round replaces them."""
        collected = self._asked(questions, step)
        for result in collected.results:
            self._count(result)
        self._metrics["time/variants_s"] += collected.variants_s
        self._metrics["time/rollout_s"] += collected.rollout_s
        self._metrics["time/rewards_s"] += collected.rewards_s
        self._metrics["time/teacher_s"] += collected.teacher_s
        self._metrics["driver/bytes"] += collected.driver_bytes
        self._metrics["late"] += collected.late
        self._metrics["variants/thrown_away"] += collected.thrown_away
        return collected.groups

    def _count(self, result: Group | Quarantined) -> None:
        if isinstance(result, Group):
            self.bad_in_a_row = 0
            if self.filter:
                signal = _repaired(result) or not drop_reason(answers_of(result), self.rules)
                self.filter.seen(result.question.id, result.question.epoch, signal=signal)
            return
        if isinstance(result, LeftOut):
            self._metrics["data/truth_hidden"] += 1
            return
        self.quarantined += 1
        self.bad_in_a_row += 1
        log.warning("quarantined %s: %s", result.question_id, result.reason)
        if self.bad_in_a_row >= self.config.data.max_bad_in_a_row:
            raise TooManyBadVideos(
                f"{self.bad_in_a_row} questions in a row cannot be used, last: {result.reason}; log.txt names each: "
                f"see that the videos of {self.config.data.train} are there and play, or raise data.max_bad_in_a_row"
            )

    def _teaches_nothing(self, group: Group) -> bool:
        """All answers equally right and equally paid: where they differ in format or their spans' overlap, or one was repaired, something is learned."""
        rewards = {reward for row in group.rewards_KM for reward in row}
        return zero_signal(group.correct_KM) and len(rewards) == 1 and not _repaired(group)

    def _take(self, count: int, asked: set[str]) -> list[Question]:
        """Up to `count` next questions that do not rest, and none that this step has `asked` already: it would be sampled with the same seeds."""
        before = frozenset(asked)

        def rests(question: str, epoch: int) -> bool:
            if question in asked or (self.filter is not None and self.filter.rests(question, epoch)):
                return True
            asked.add(question)
            return False

        # Where a whole epoch rests, the stream goes on with what there is.
        taken = {question.id: question for question in self.stream.take(count, rests=rests) if question.id not in before}
        asked |= taken.keys()
        return list(taken.values())


def _repaired(group: Group) -> bool:
    return any(repair.chosen for repair in group.repairs)
