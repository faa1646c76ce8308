"""The arithmetic of the comparisons over seeds, by hand, and worlds that say what they are for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.effects import COMPARED, ROWS, Curve, curve_of, effects, interval, picture, summary, table, with_replies
from benchmarks.gradients import rank_correlation
from benchmarks.quickstart import QUICKSTART, ROOT
from rlvid.config import load
from rlvid.world import premise, premised
from rlvid.world.scenes import ask, render


def test_the_interval_by_hand():
    """1, 2, 3: mean 2, deviation 1, t of two degrees of freedom 4.303."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == (2.0, pytest.approx(2 - 4.303 / math.sqrt(3)), pytest.approx(2 + 4.303 / math.sqrt(3)))
    assert interval([0.5])[1:] == (-math.inf, math.inf)
    assert interval([0.1, 0.1])[1:] == (0.1, 0.1)


def rows(accuracies, step_s):
    """A run that evaluates every fifth step; evaluation takes a second."""
    found = [{"step": 0, "eval/accuracy": accuracies[0], "time/eval_s": 1.0}]
    for step in range(1, 5 * (len(accuracies) - 1) + 1):
        judged = {"eval/accuracy": accuracies[step // 5], "time/eval_s": 1.0} if step % 5 == 0 else {}
        found.append({"step": step, "time/step_s": step_s + (1.0 if judged else 0.0)} | judged)
    return found


def test_curves_leave_evaluation_out_of_the_seconds():
    curve = curve_of(rows((0.2, 0.5, 0.9), step_s=2.0), before_s=3.0)
    assert curve == Curve((0, 5, 10), (0.2, 0.5, 0.9), (3.0, 13.0, 23.0), 3.0)
    assert [curve.reaches(level) for level in (0.5, 0.8, 0.95)] == [5, 10, None]
    assert [curve.after(seconds) for seconds in (0.0, 12.9, 13.0, 100.0)] == [0.2, 0.2, 0.5, 0.9]
    assert curve.mean == pytest.approx(0.7)


def test_differences_are_taken_in_pairs():
    """A method twice as good a step and half as fast is level at equal seconds."""
    plain = {seed: curve_of(rows((0.2, 0.3, 0.4), step_s=1.0)) for seed in (0, 1)}
    method = {seed: curve_of(rows((0.2, 0.4, 0.8), step_s=2.0)) for seed in (0, 1, 2)}
    found = effects(method, plain)
    assert found["end"] == {"mean": pytest.approx(0.4), "low": pytest.approx(0.4), "high": pytest.approx(0.4)} and found["seeds"] == 2
    assert found["mean of the run"]["mean"] == pytest.approx(0.25)
    assert found["equal seconds"]["mean"] == pytest.approx(0.0), "after 10 s plain is at step 10, the method at step 5"
    assert summary(method) == pytest.approx(
        {"start": 0.2, "end": 0.8, "seconds": 20.0, "answers before": 0, "steps to 0.5": 10, "seeds at 0.5": 3, "steps to 0.8": 10, "seeds at 0.8": 3}
    )
    assert summary(plain)["steps to 0.5"] is None
    text = table("lure", {"rows": {"plain": summary(plain), "strive": summary(method)}, "against plain": {"strive": found}}, 2, 3)
    assert "| strive | 0.20 | 0.80 | +0.40 [+0.40, +0.40] |" in text and "never" in text and "holds in 2 of 3" in text
    there = {0: curve_of(rows((0.5, 0.4, 0.4), step_s=1.0))}
    assert "| 0 | never |" in table("lure", {"rows": {"plain": summary(there)}, "against plain": {}}, 1, 1)


def test_the_picture_is_drawn(tmp_path):
    picture("lure", {"plain": {0: curve_of(rows((0.2, 0.3), 1.0)), 1: curve_of(rows((0.1, 0.5), 1.0))}}, tmp_path / "lure.png")
    assert (tmp_path / "lure.png").read_bytes()[:4] == b"\x89PNG"


def test_ranks():
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [30, 20, 10]) == pytest.approx(-1)
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 x 5).
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation([1, 1], [1, 2]) is None


def config_of(world: str) -> Path:
    return QUICKSTART if world == "plain" else ROOT / "configs" / "worlds" / f"{world}.yaml"


@pytest.mark.parametrize("world", COMPARED)
def test_rows_sample_as_many_answers(world):
    """Second answers included; and what is measured of a world is what its runs see."""
    shape = premise.shape_of(world, "qwen2_5_vl")
    for row in set(COMPARED[world]) - {"sft"}:
        config = load(config_of(world), ROWS[row])
        seconds = config.rollout.answers if config.repair.enabled else 0
        assert config.variants_per_question * config.rollout.answers + seconds == 16, row
        assert config.video.frames == shape.frames and config.video.max_pixels == shape.size[0] * shape.size[1]
    if world != "plain":
        assert config.relevance.scorer == "motion" and config.relevance.temperature == premise.RELEVANCE_TEMPERATURE
        assert config.rollout.temperature == shape.temperature
    assert set(COMPARED) == {"plain", *premised.WORLDS} == set(premise.CLAIMS)


@pytest.mark.parametrize("world", premised.WORLDS)
def test_scenes_show_what_their_world_is_about(world):
    for split in ("train", "eval"):
        scenes = premised.plan_scenes(world, split, seed=3)[:40]
        assert scenes == premised.plan_scenes(world, split, seed=3)[:40]
        seen = [sum(scene.things[0].start_s <= at / 4 < scene.things[0].end_s for at in premised.EVEN) for scene in scenes]
        if world == "misread":
            assert set(seen) == {1}
        else:
            assert set(seen) == {1} if split == "eval" else np.mean(seen) < 0.5
        assert {scene.things[0].colour for scene in scenes} == {"red", "green", "blue", "yellow"}
        assert render(scenes[0], (56, 56)).shape == (32, 56, 56, 3)


@pytest.mark.parametrize("world", premised.WORLDS)
def test_every_question_has_views_of_the_warm_start(world):
    """What is seen in all frames or in one: as many frames as a view has, as much of the evidence as asked for."""
    rng = np.random.default_rng(0)
    for question in (question for scene in premised.plan_scenes(world, "train", seed=3)[:24] for question in ask(scene)):
        for inside in range(premised.FRAMES):
            view = premised.view_of(question, inside, rng)
            assert len(set(view.tolist())) == premised.FRAMES and (np.diff(view) > 0).all()
            there = premised.shown(question, np.arange(premised.TOTAL))
            assert premised.shown(question, view) == (premised.FRAMES if there == premised.TOTAL else min(inside, there))


def test_sft_learns_the_right_answer_in_the_words_of_the_world(tmp_path):
    lines = [{"id": colour, "video": "a.mp4", "question": "Which colour flashes?", "answer": colour} for colour in ("red", "blue")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = [json.loads(line) for line in with_replies(tmp_path).read_text().splitlines()]
    assert told == [line | {"reply": premised.reply(line["answer"])} for line in lines]


def test_a_premise_that_does_not_hold_is_named(tmp_path):
    good = {"unanimous, even view": 0.8, "certain and wrong, even view": 0.8, "unanimous, pooled": 0.1, "signal, pooled": 0.03, "signal, even view": 0.01}
    assert premise.failing("lure", good) == []
    assert premise.failing("lure", good | {"unanimous, pooled": 0.7}) == ["other views break the agreement"]
    premise.write(tmp_path, "lure", good)
    assert premise.read(tmp_path) == {"world": "lure", "numbers": good, "fails": []}
