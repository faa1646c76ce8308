"""What the sampler quarantines: files that take their actors down, prompts that the engine refuses. Pools of this process."""

from __future__ import annotations

import asyncio

import pytest

from rlvid.actors.pool import CallFailed, PoolError
from rlvid.actors.sampler import Sampler
from rlvid.config import Config
from rlvid.types import GenerateResult, Group, Prepared, Quarantined, Question, Rollout, VariantSpec

TREE = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}, "rollout": {"answers": 2}, "variants": {"kinds": ["uniform"]}}
SPEC = VariantSpec("uniform", (0.0, 1.0), None, (28, 28), 0)


def question(id, video="/v.mp4", text="What colour is it?"):
    return Question(str(id), video, text, "open", answer="red")


class Variants:
    """Files whose name holds `slow` are never done."""

    def __init__(self):
        self.looked, self.now, self.most_at_once = [], 0, 0

    async def call(self, method, question, kinds, seed, num_returns):
        self.looked.append(question.id)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        if "slow" in question.video:
            raise CallFailed("it was not done within 1 s")
        return Prepared(question, f"prompt: {question.question}", (SPEC,), ({"fps": 1},), 2.0), ["frames"]


class Rollouts:
    async def call(self, method, request, *videos):
        if "<refused>" in request.prompt:
            raise ValueError("Failed to apply prompt replacement for mm_items['video'][1]\nmore")
        if "<gone>" in request.prompt:
            raise PoolError("no rollout engine is left")
        answers = [Rollout(request.question_id, 0, at, 9, (1, 2), (-0.1, -0.2), "<think>x</think><answer>red</answer>", 0, at) for at in range(request.answers)]
        return GenerateResult(tuple(answers), "digest")


def collected(questions, variants=None):
    async def work():
        sampler = Sampler(Config.model_validate(TREE), variants or Variants(), Rollouts())
        first = await sampler.collect(questions, 1, kinds=("uniform",), answers=2)
        return first.results, (await sampler.collect(questions, 2, kinds=("uniform",), answers=2)).results

    return asyncio.run(work())


def test_a_bad_file_is_looked_at_once_however_many_questions_it_has():
    variants = Variants()
    questions = [question(at, "/slow.mp4" if at % 2 else f"/{at % 4}.mp4") for at in range(40)]
    for results in collected(questions, variants):
        for at, result in enumerate(results):
            if at % 2:
                assert isinstance(result, Quarantined) and result.question_id == str(at) and result.reason == "/slow.mp4: it was not done within 1 s"
            else:
                assert isinstance(result, Group)
    assert sum(int(id) % 2 for id in variants.looked) == 1


def test_questions_of_a_healthy_file_do_not_go_one_by_one():
    variants = Variants()
    collected([question(at) for at in range(20)], variants)
    assert variants.most_at_once == 19, "all but the first look"


def test_a_prompt_that_the_engine_refuses_is_quarantined_alone():
    results, _ = collected([question(0), question(1, text="<refused>"), question(2)])
    assert [type(result) for result in results] == [Group, Quarantined, Group]
    assert results[1] == Quarantined("1", "the engine refuses its prompt: Failed to apply prompt replacement for mm_items['video'][1]")


def test_without_engines_nothing_is_quarantined():
    with pytest.raises(PoolError):
        collected([question(0), question(1, text="<gone>")])
