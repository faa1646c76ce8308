"""A sampler at the protocol of rlvid/asking/ask.py, and a session that holds it: answers without engines."""

from __future__ import annotations

import asyncio
import contextlib
import random

from rlvid.actors.sampler import Collected
from rlvid.types import Group, Prepared, Quarantined, Rollout, Score


class Killed(BaseException):
    pass


class FakeSampler:
    """Answers drawn from (question, step) alone, in any order; dies after `lives` answers; knows no video whose name holds "bad"."""

    def __init__(self, lives=None):
        self.lives, self.asked, self.most_at_once, self.now = lives, [], 0, 0

    async def collect(self, questions, step, *, kinds, answers, greedy=False):
        (question,) = questions
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        self.now -= 1
        if self.lives is not None and len(self.asked) >= self.lives:
            raise Killed
        if "bad" in question.video:
            return Collected([Quarantined(question.id, "no such file")])
        self.asked.append(question.id)
        rng = random.Random(f"{question.id} {step} {kinds}")
        scores = tuple(tuple(Score({"accuracy": float(rng.random() < rng.choice((0, 0.5))), "format": 1.0}) for _ in range(answers)) for _ in kinds)
        said = f"text of {question.id}"
        rollouts = tuple(tuple(Rollout(question.id, at, sample, 1, (1,), (0.0,), said, 0, 0) for sample in range(answers)) for at in range(len(kinds)))
        return Collected([Group(Prepared(question, "", (), (), 1.0), (), rollouts, scores, (), (), ())])


class Session:
    def __init__(self, sampler):
        self.sampler = sampler

    def wait(self, work):
        return asyncio.run(work)


def in_place_of_engines(monkeypatch):
    """A function that puts a sampler in the place of the engines; its `opened` tells how often they were started, and with which config."""

    def use(fake):
        @contextlib.contextmanager
        def session(config, *, with_learner):
            assert not with_learner
            use.opened.append(fake)
            use.configs.append(config)
            yield Session(fake)

        monkeypatch.setattr("rlvid.asking.ask.open_session", session)
        return fake

    use.opened, use.configs = [], []
    return use
