"""Rewards that are more than rules: a function of the user's, a judge. They run here, in actors of their own, while other groups are still sampled.

The driver asks for one variant's answers at a time, as soon as they are sampled. Rules are arithmetic on a text and stay where the text is (microseconds).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from rlvid.actors.pool import ActorPool, CallFailed
from rlvid.actors.scoring import Scorer
from rlvid.config import Config, ConfigError
from rlvid.data.questions import asks
from rlvid.process.log import to_log_file
from rlvid.process.role import Role, bundle
from rlvid.process.store import Store
from rlvid.reading import maths
from rlvid.reading.answers import opened_by, tagged_answer
from rlvid.reading.spans import answer_and_spans
from rlvid.types import Question, Rollout, Score

log = logging.getLogger("rlvid")

GRACE_S = 30
"""A reward actor that answers nothing for so long after all its own deadlines hangs, and is replaced."""
MATH_WAIT_S = 300
"""For the formulas of other answers, which one process compares one after the other (milliseconds each, but for those that reach their deadline)."""
Costs = dict[str, float]
"""By the names of the step's metrics."""


def needed(config: Config) -> bool:
    """Is there a reward beyond quick rules?"""
    return config.reward.custom is not None or config.reward.judge.model is not None or asks_for_formulas(config)


def asks_for_formulas(config: Config) -> bool:
    """Is there a question of task math in the run's files?"""
    return any(asks(path, "math") for path in (config.data.train, config.data.eval) if path is not None and path.is_file())


def role(config: Config) -> Role:
    """The reward actors of a run."""
    reward = config.reward
    waits_s = MATH_WAIT_S if asks_for_formulas(config) else 0
    # Of the answers of one call, so many wait for the user's function at a time, then all for the judge.
    turns = -(-config.rollout.answers // reward.concurrency)
    return Role(
        "reward actor",
        RewardActor,
        reward.actors,
        bundle(reward.num_cpus, 0, {}),
        # The user's module is looked for where the command runs, too.
        {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])},
        concurrency=1000,
        pool={
            "capacity": 1000,
            "deadline_s": turns * reward.deadline_s + reward.judge.deadline_s + waits_s + GRACE_S,
            "start_deadline_s": config.rollout.start_deadline_s,
            "max_restarts": config.rollout.max_restarts,
            "quorum": config.rollout.quorum,
        },
    )


class RewardActor:
    """An async actor. It reads the judge's key itself, from its own environment."""

    def __init__(self, config: Config, number: int) -> None:
        self.config = config
        self.number = number
        self.judge: Any = None

    async def start(self) -> str:
        """Import the user's reward, make the judge ready. Raises ConfigError or ValueError for what the user has to set right."""
        to_log_file(f"rewards-{self.number}")
        self.score = Scorer(self.config)
        reward = self.config.reward
        self.gate = asyncio.Semaphore(reward.concurrency)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(reward.concurrency, thread_name_prefix="reward"))
        if reward.judge.model is not None:
            self.judge = self._judge()
        if asks_for_formulas(self.config):
            await asyncio.to_thread(maths.start)
        return "judge" if self.judge else "custom" if reward.custom else "math"

    def _judge(self) -> Any:
        from rlvid.teacher.chat import ChatModel, endpoint_key
        from rlvid.teacher.judge import Judge

        judge = self.config.reward.judge
        key = endpoint_key("reward.judge", judge.api_key_env)
        options: dict[str, Any] = judge.model_dump(
            include={"model", "base_url", "temperature", "max_tokens", "retries", "request_timeout_s", "max_reply_bytes"}
        )
        model = ChatModel(api_key=key, concurrency=judge.concurrency, who="the judge", wanted="verdict", **options)
        prices = None if judge.price_in is None or judge.price_out is None else (judge.price_in, judge.price_out)
        store = Store(judge.cache_dir, judge.cache_gib, name="judge's cache", instead="verdicts are asked for anew") if judge.cache_dir else None
        settings = judge.model_dump(include={"model", "base_url", "temperature", "max_tokens"})
        return Judge(model, deadline_s=judge.deadline_s, control=judge.control, prices=prices, store=store, settings=settings)

    async def rewards(self, question: Question, rollouts: Sequence[Rollout], prompt: str, step: int, shown: Any = None) -> tuple[list[Score], Costs]:
        """The score of each answer, in order, and what they cost. `shown`: what the answers were given to, for a judge that sees it."""
        costs: Counter[str] = Counter()
        ruled, spent = await by_rule(self.score, question, rollouts, prompt, step)
        costs.update(spent)  # type: ignore[arg-type]
        pictures = await self._pictures(question, ruled, shown)
        pairs = zip(rollouts, ruled, strict=True)
        scores = await asyncio.gather(*[self._one(question, rollout, prompt, score, costs, pictures) for rollout, score in pairs])
        return list(scores), dict(costs)

    async def _pictures(self, question: Question, ruled: Sequence[Score], shown: Any) -> tuple[Any, ...]:
        """What the judge sees of a view, made once for all its answers; nothing where none of them is judged."""
        if shown is None or not any(self._is_judged(question, score) for score in ruled):
            return ()
        from rlvid.teacher.judge import pictures_of

        judge = self.config.reward.judge
        return await asyncio.to_thread(pictures_of, shown, most=judge.frames, max_bytes=judge.max_image_bytes)

    async def _one(self, question: Question, rollout: Rollout, prompt: str, score: Score, costs: Counter[str], pictures: tuple[Any, ...]) -> Score:
        own, judged = await asyncio.gather(self._own(question, rollout, prompt, costs), self._judged(question, rollout, prompt, score, costs, pictures))
        return replace(judged, parts=judged.parts | own)

    async def _own(self, question: Question, rollout: Rollout, prompt: str, costs: Counter[str]) -> dict[str, float]:
        if self.score.own is None:
            return {}
        async with self.gate:
            began = time.perf_counter()
            parts = await self.score.own_parts(question, rollout, prompt, self.config.reward.deadline_s)
        costs.update({"reward_calls/custom": 1, "reward_seconds/custom": time.perf_counter() - began})  # type: ignore[dict-item]
        return parts

    def _is_judged(self, question: Question, score: Score) -> bool:
        return self.judge is not None and question.task in self.config.reward.judge.tasks and not question.options and score.parts.get("accuracy", 1.0) < 1

    async def _judged(self, question: Question, rollout: Rollout, prompt: str, score: Score, costs: Counter[str], pictures: tuple[Any, ...]) -> Score:
        """With the verdict in the accuracy's place, where the judge is asked and has one, and it is the higher one: were it lower, an answer would be paid for
        making the judge fail."""
        rule = score.parts.get("accuracy", 1.0)
        if not self._is_judged(question, score):
            return score
        said = judged_text(question, opened_by(prompt) + rollout.text)
        if not said:
            return score
        verdict = await self.judge.verdict(question.question, " or ".join(question.references), said, rule, costs, pictures)
        if verdict.value is None:
            return replace(score, said=f"no verdict: {verdict.words}")
        return replace(score, parts=score.parts | {"accuracy": max(rule, verdict.value), "rule": rule}, said=verdict.words)

    async def check(self) -> int:
        """A sign of life."""
        return self.number

    async def stop(self) -> None:
        """Close the connections to the judge."""
        if self.judge is not None:
            await self.judge.model.close()
            if self.judge.store is not None:
                self.judge.store.close()


def judged_text(question: Question, text: str) -> str:
    """What a judge is shown of a reply: the words inside its tags. Empty: nothing that could be judged."""
    answer, _ = tagged_answer(text)
    if answer is None:
        return ""
    return answer_and_spans(answer)[0] if question.task == "grounded_qa" else answer


class Rewards:
    """Scores the answers of one prompt: by rule here, or in the reward actors where there is more than rules."""

    def __init__(self, config: Config, pool: ActorPool | None = None) -> None:
        self.config = config
        self.pool = pool
        self.rules = Scorer(config)
        self._spent: Costs = {}

    async def of_one(self, question: Question, rollout: Rollout, prompt: str) -> Score:
        """One answer; what it costs is kept for `taken`."""
        (score,), costs = await self(question, [rollout], prompt)
        self._spent = added(self._spent, costs)
        return score

    def taken(self) -> Costs:
        """What `of_one` has cost since the last call."""
        spent, self._spent = self._spent, {}
        return spent

    def looks_at(self, question: Question) -> bool:
        """Is there a judge that sees what such a question shows?"""
        judge = self.config.reward.judge
        return self.pool is not None and judge.model is not None and judge.frames > 0 and question.task in judge.tasks and not question.options

    async def __call__(self, question: Question, rollouts: Sequence[Rollout], prompt: str, step: int = 0, frames: Any = None) -> tuple[list[Score], Costs]:
        """The score of each answer, in order, and what they cost. `frames`: reference to what they were given to. Raises ConfigError for what is wrong with the
        user's own reward."""
        if self.pool is None:
            return await self._here(question, rollouts, prompt, step)
        try:
            return await self._asked(question, tuple(rollouts), prompt, step, frames if self.looks_at(question) else None)
        except CallFailed as error:
            if self.config.reward.custom is not None:
                raise ConfigError(f"reward.custom: {self.config.reward.custom}: {error} (question {question.id})") from None
            log.warning("no verdict on the answers to %s: %s", question.id, error)
            scores, costs = await by_rule(self.rules, question, rollouts, prompt, step)
            return scores, costs | {"judge/failed": float(len(rollouts))}

    async def _asked(self, question: Question, rollouts: tuple[Rollout, ...], prompt: str, step: int, frames: Any) -> tuple[list[Score], Costs]:
        """From the reward actors; without pictures where a node went and took them along."""
        assert self.pool is not None
        if frames is None:
            return await self.pool.call("rewards", question, rollouts, prompt, step)
        from ray.exceptions import ObjectLostError

        try:
            return await self.pool.call("rewards", question, rollouts, prompt, step, frames)
        except ObjectLostError as error:
            log.warning("the judge does not see the frames of %s, they are lost (%s)", question.id, type(error).__name__)
            return await self.pool.call("rewards", question, rollouts, prompt, step)

    async def _here(self, question: Question, rollouts: Sequence[Rollout], prompt: str, step: int) -> tuple[list[Score], Costs]:
        scores, costs = await by_rule(self.rules, question, rollouts, prompt, step)
        if self.rules.own is None:
            return scores, costs
        parts = [await self.rules.own_parts(question, rollout, prompt, self.config.reward.deadline_s) for rollout in rollouts]
        return [replace(score, parts=score.parts | own) for score, own in zip(scores, parts, strict=True)], costs


async def by_rule(score: Scorer, question: Question, rollouts: Sequence[Rollout], prompt: str, step: int) -> tuple[list[Score], Costs]:
    """The rules' scores and what they cost. Formulas are compared in a process of their own, and only a thread waits for it."""
    began, kind = time.perf_counter(), "math" if question.task == "math" else "rule"

    def scored() -> list[Score]:
        return [score.by_rule(question, rollout, prompt, step) for rollout in rollouts]

    scores = await asyncio.to_thread(scored) if kind == "math" else scored()
    return scores, {f"reward_calls/{kind}": float(len(scores)), f"reward_seconds/{kind}": time.perf_counter() - began}


def added(*costs: Costs) -> Costs:
    """Their sum."""
    found: Counter[str] = Counter()
    for one in costs:
        found.update(one)  # type: ignore[arg-type]
    return dict(found)
