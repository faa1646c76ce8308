"""Scoring with a user's own reward and with the length part."""

from __future__ import annotations

import asyncio
import sys

import pytest
import yaml

from rlvid.actors.scoring import Scorer, load_reward
from rlvid.algo.rewards import total
from rlvid.config import ConfigError, load
from rlvid.types import Question, Rollout

ASKED = Question(id="q", video="/v.mp4", question="?", task="open", answer="red ball")
RIGHT = "<think>x</think><answer>red ball</answer>"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module of the user's into the current folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    names = []

    def write(code: str) -> str:
        names.append(f"own_reward_{len(names)}_{tmp_path.name}")
        (tmp_path / f"{names[-1]}.py").write_text(code)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def config(tmp_path, **reward):
    path = tmp_path / "c.yaml"
    tree = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}, "reward": reward, "rollout": {"max_tokens": 100}}
    path.write_text(yaml.safe_dump(tree))
    return load(path)


def rollout(text=RIGHT, tokens=3):
    return Rollout("q", 0, 0, 10, tuple(range(tokens)), (0.0,) * tokens, text, 0, 0)


def test_formulas_are_compared_in_reward_actors_or_at_least_in_a_thread(tmp_path):
    from rlvid.actors import rewarder

    asked = Question(id="q", video="", question="?", task="math", answer="\\frac{1}{2}")
    settings = config(tmp_path, math_deadline_s=3, numeric_tolerance=0.1)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"train": tmp_path / "t.jsonl"})})
    (tmp_path / "t.jsonl").write_text('{"id": "a", "question": "?", "task": "open", "answer": "math"}\n')
    assert not rewarder.needed(settings)
    (tmp_path / "t.jsonl").write_text('{"id": "a", "question": "?", "task": "math", "answer": "1"}\n')
    assert rewarder.needed(settings) and rewarder.role(settings).pool["deadline_s"] > rewarder.MATH_WAIT_S
    replies = [rollout(f"<answer>{said}</answer>") for said in ("0.5", "0.54", "0.6", "\\frac{2}{4}", "one half or so")]

    async def run(actor):
        assert await actor.start() == "math"
        return await actor.rewards(asked, replies, "", 1), await rewarder.Rewards(settings)(asked, replies, "")

    (scores, costs), (same, _) = asyncio.run(run(rewarder.RewardActor(settings, 0)))
    assert [score.parts["accuracy"] for score in scores] == [1.0, 1.0, 0.0, 1.0, 0.0] and [score.parts for score in same] == [score.parts for score in scores]
    assert costs["reward_calls/math"] == 5 and costs["reward_seconds/math"] > 0 and scores[-1].reason


def test_own_parts_count_through_the_weights(own, tmp_path):
    name = own("def short(question, text):\n    return {'short': 1 - len(text) / 1000, 'asks': float(question.id == 'q')}\n")
    settings = config(tmp_path, custom=f"{name}:short", weights={"open": {"accuracy": 1.0, "short": 2.0, "asks": 0.5}})
    scored = Scorer(settings)(ASKED, rollout())
    assert scored.parts == {"accuracy": 1.0, "format": 1.0, "short": 1 - len(RIGHT) / 1000, "asks": 1.0}
    assert total(scored, settings.reward.weights["open"]) == pytest.approx(1 + 2 * (1 - len(RIGHT) / 1000) + 0.5)
    assert settings.reward.weights["numeric"] == {"accuracy": 1.0, "format": 1.0}, "tasks that are not named keep their weights"


@pytest.mark.parametrize(
    ("code", "function", "says"),
    [
        (None, "f", ["cannot be imported", "ModuleNotFoundError"]),
        ("def g(: pass", "f", ["cannot be imported", "SyntaxError"]),
        ("1 / 0", "f", ["cannot be imported", "ZeroDivisionError"]),
        ("def reward(q, t): return {}", "rewards", ["has no rewards", "did you mean reward?"]),
        ("reward = 3", "reward", ["is not a function"]),
    ],
)
def test_a_reward_that_cannot_be_loaded(own, code, function, says):
    path = f"{own(code) if code else 'no_such_module_of_mine'}:{function}"
    with pytest.raises(ConfigError) as caught:
        load_reward(path)
    assert str(caught.value).startswith(f"reward.custom: {path}") and all(part in str(caught.value) for part in says)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("{'bonus': 1.0}['no']", "raised KeyError"),
        ("3", "returned int"),
        ("None", "returned NoneType"),
        ("{'bonus': 'high'}", "'high' for 'bonus'"),
        ("{'bonus': float('nan')}", "nan for 'bonus'"),
        ("{'accuracy': 1.0, 'bonus': 1.0}", "a part 'accuracy'"),
        ("{1: 1.0, 'bonus': 1.0}", "a part 1"),
        ("{'bonsu': 1.0}", "names 'bonus'"),
    ],
)
def test_a_reward_that_misbehaves_is_named(own, tmp_path, returned, says):
    path = f"{own(f'def f(question, text): return {returned}')}:f"
    scorer = Scorer(config(tmp_path, custom=path, weights={"open": {"accuracy": 1.0, "bonus": 1.0}}))
    with pytest.raises(ConfigError) as caught:
        scorer(ASKED, rollout())
    assert f"reward.custom: {path}" in str(caught.value) and says in str(caught.value) and "question q" in str(caught.value)


@pytest.mark.parametrize("path", ["module", "module.f", "module:", ":f", "a b:f", "module:f.g", "../module:f"])
def test_a_path_that_is_none_is_refused_with_the_config(tmp_path, path):
    with pytest.raises(ConfigError, match=r"reward.custom.*package.module:function"):
        config(tmp_path, custom=path)


def test_unknown_parts_need_a_reward_of_ones_own(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown part 'bonus'.*reward.custom"):
        config(tmp_path, weights={"open": {"bonus": 1.0}})
    with pytest.raises(ConfigError, match=r"weights"):
        config(tmp_path, weights={"open": {"accuracy": float("nan")}})


def test_the_length_part_is_there_where_it_is_weighted(tmp_path):
    weighted = Scorer(config(tmp_path, weights={"open": {"accuracy": 1.0, "length": 0.5}}, length_margin=0.5))
    assert [weighted(ASKED, rollout(tokens=tokens)).parts["length"] for tokens in (10, 50, 75, 100)] == [0.0, 0.0, -0.5, -1.0]
    assert "length" not in Scorer(config(tmp_path))(ASKED, rollout()).parts


def test_marking_comes_from_the_config(tmp_path):
    asked = Question(id="q", video="/v.mp4", question="?", task="numeric", answer="3")
    assert Scorer(config(tmp_path, numeric_tolerance=0.1))(asked, rollout("<answer>3.2</answer>")).parts["accuracy"] == 1
    assert Scorer(config(tmp_path))(asked, rollout("<answer>3.2</answer>")).parts["accuracy"] == 0


def test_ocr_by_hand(tmp_path):
    """Words inserted, left out and exchanged, over the words of the truth; the best of several truths."""
    from rlvid.algo.ocr import words_read

    assert words_read("no parking today", ["no parking today"]) == 1
    assert words_read("no parking", ["no parking today"]) == pytest.approx(2 / 3)
    assert words_read("no barking to day", ["no parking today"]) == 0
    assert words_read("No parking today now", ["no parking today"]) == pytest.approx(1 / 3)
    assert words_read("x", ["a b", "x y"]) == 0.5 and words_read("", ["a"]) == 0 == words_read("a", []) and words_read("a b c d e", ["x"]) == 0
    sign = Question(id="q", video="/v.mp4", question="What does it say?", task="open", answer="no parking today")
    settings = config(tmp_path, weights={"open": {"ocr": 1.0}})
    assert Scorer(settings)(sign, rollout("<answer>no parking</answer>")).parts["ocr"] == pytest.approx(2 / 3)
    assert Scorer(settings)(sign, rollout("no parking")).parts["ocr"] == 0 and "ocr" not in Scorer(config(tmp_path))(sign, rollout()).parts
