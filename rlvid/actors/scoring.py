"""Scores one sampled answer: the task's parts, the optional length part, the parts of the user's own reward, and a judge's verdict.

The arithmetic is `rlvid.algo.rewards`; here are the parts that need more than a text: the answer's length in tokens, and code
that a user names in the config as `package.module:function`. Code of others and models of others run in reward actors (`rlvid.actors.rewarder`).
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rlvid.algo.cited import cited_times, evidence_of, sigma
from rlvid.algo.ocr import words_read
from rlvid.algo.repair import rationale_of
from rlvid.algo.rewards import Marking, length_penalty, score
from rlvid.config import REWARD_PARTS, Config, ConfigError
from rlvid.reading.answers import opened_by, tagged_answer
from rlvid.reading.mentions import normalised, times
from rlvid.types import Question, Rollout, Score

log = logging.getLogger("rlvid")

OwnReward = Callable[[Question, str], Any]
"""(question, the whole reply) -> {part: finite number}, or a coroutine that returns it.
Part names are the user's; they must not be rlvid's own. The question's spans are on the clock of
the reply: where it has a clip, they count from its start."""


class Scorer:
    """The rules, and the user's own parts. ConfigError when the user's reward cannot be imported, fails, or leaves out a weighted part."""

    def __init__(self, config: Config) -> None:
        self.reward, self.limit, self.steps = config.reward, config.rollout.max_tokens, config.run.steps
        self.marking = Marking(self.reward.numeric_tolerance, self.reward.math_deadline_s, self.reward.regression)
        self.own = load_reward(self.reward.custom) if self.reward.custom else None

    def __call__(self, question: Question, rollout: Rollout, prompt: str = "", step: int = 0) -> Score:
        """Both at once. `prompt`: what the engine was given. A `<think>` at its end is the template's, and belongs to the reply. `step`: of training."""
        found = self.by_rule(question, rollout, prompt, step)
        if self.own is None:
            return found
        said = self._called(question.as_told(), opened_by(prompt) + rollout.text)
        more = self._checked(asyncio.run(said) if inspect.iscoroutine(said) else said, question)
        return Score(found.parts | more, found.reason)

    async def own_parts(self, question: Question, rollout: Rollout, prompt: str = "", deadline_s: float = 120.0) -> dict[str, float]:
        """The user's parts alone. A function that is not `async` runs in a thread; threads and coroutines are as many as are asked for at a time."""
        text = opened_by(prompt) + rollout.text
        try:
            async with asyncio.timeout(deadline_s):
                said = (
                    await asyncio.to_thread(self._called, question.as_told(), text)
                    if not inspect.iscoroutinefunction(self.own)
                    else self._called(question.as_told(), text)
                )
                return self._checked(await said if inspect.isawaitable(said) else said, question)
        except TimeoutError:
            raise ConfigError(f"reward.custom: {self.reward.custom} took longer than reward.deadline_s ({deadline_s:g} s; question {question.id})") from None

    def by_rule(self, question: Question, rollout: Rollout, prompt: str = "", step: int = 0) -> Score:
        """Without the user's own parts."""
        text = opened_by(prompt) + rollout.text
        scored = score(question, text, self.marking)
        more: dict[str, float] = {}
        if "length" in self.reward.weights[question.task]:
            more["length"] = length_penalty(len(rollout.tokens), limit=self.limit, margin=self.reward.length_margin)
        if "ocr" in self.reward.weights[question.task]:
            more["ocr"] = words_read(tagged_answer(text)[0] or "", question.references)
        if "cited_times" in self.reward.weights[question.task]:
            named_s = [mention.seconds for mention in times(normalised(rationale_of(text)), bare=True)]
            sigma_s = sigma(self.reward.cited_sigma_s, step, self.steps)
            more["cited_times"] = cited_times(named_s, evidence_of(question.as_told()), sigma_s=sigma_s)
        return Score(scored.parts | more, scored.reason)

    def _called(self, question: Question, text: str) -> Any:
        assert self.own is not None
        try:
            said = self.own(question, text)
        except Exception as error:
            raise self._failed(error, question) from error
        return self._awaited(said, question) if inspect.isawaitable(said) else said

    async def _awaited(self, said: Any, question: Question) -> Any:
        try:
            return await said
        except Exception as error:
            raise self._failed(error, question) from error

    def _failed(self, error: Exception, question: Question) -> ConfigError:
        name = f"reward.custom: {self.reward.custom}"
        log.debug("%s failed", name, exc_info=error)
        return ConfigError(f"{name} raised {type(error).__name__}: {error} (question {question.id})")

    def _checked(self, parts: Any, question: Question) -> dict[str, float]:
        name = f"reward.custom: {self.reward.custom}"
        if problem := _problem(parts) or _left_out(parts, question.task, self.reward.weights[question.task]):
            raise ConfigError(f"{name} {problem} (question {question.id})")
        return {part: float(value) for part, value in parts.items()}


def load_reward(path: str) -> OwnReward:
    """The function that `package.module:function` names, imported as a program in the current folder would. ConfigError when there is none."""
    module_name, _, function_name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script's own folder stands there instead
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        log.debug("importing %s failed", module_name, exc_info=error)
        cure = f"modules are looked for in {os.getcwd()} and on PYTHONPATH"
        raise ConfigError(f"reward.custom: {path}: {module_name} cannot be imported, {type(error).__name__}: {error} ({cure})") from error
    function: Any = getattr(module, function_name, None)
    if function is None:
        near = difflib.get_close_matches(function_name, dir(module), n=1)
        raise ConfigError(f"reward.custom: {path}: {module_name} has no {function_name}{f' (did you mean {near[0]}?)' if near else ''}")
    if not callable(function):
        raise ConfigError(f"reward.custom: {path} is not a function of (question, text)")
    return function


def _problem(parts: Any) -> str:
    """What is wrong with what the user's function returned; empty if nothing is."""
    if not isinstance(parts, Mapping):
        return f"returned {type(parts).__name__}, a dict of part to number is needed"
    for part, value in parts.items():
        if not isinstance(part, str) or part in REWARD_PARTS:
            return f"returned a part {part!r}: choose a name that is not one of {', '.join(REWARD_PARTS)}"
        if not _is_number(value):
            return f"returned {value!r} for {part!r}: a finite number is needed"
    return ""


def _left_out(parts: Mapping[str, float], task: str, weights: Mapping[str, float]) -> str:
    """A weight whose part never comes would count nothing, in silence: a mistyped name above all."""
    missing = [part for part in weights if part not in REWARD_PARTS and part not in parts]
    return f"returned the parts {', '.join(parts) or 'none'}, but reward.weights.{task} names {missing[0]!r}" if missing else ""


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value)) and not isinstance(value, str)
    except (TypeError, ValueError, OverflowError):
        return False
