"""Stored replies: read from the file, imitated through the loop's own parts, mixed into groups; and the rewards for order and for times."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlvid.actors.sampler import Sampler
from rlvid.actors.scoring import Scorer
from rlvid.algo.cited import cited_times, evidence_of, sigma
from rlvid.algo.loss import LossOptions, policy_loss
from rlvid.algo.signal import group_signal
from rlvid.algo.t_grpo import temporal_bonus
from rlvid.config import Config, ConfigError, load
from rlvid.data.questions import QuestionError, parse_line
from rlvid.learner.prompts import group_prompts
from rlvid.loop.normalize import Normalizer
from rlvid.loop.replies import check_replies, for_replies
from rlvid.observe.dumps import slot_rows
from rlvid.observe.step_row import group_metrics
from rlvid.types import Evidence, GenerateResult, Group, Prepared, Question, Region, Rollout, VariantSpec

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
TREE = {"run": {"name": "r", "steps": 10}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}, "rollout": {"answers": 4}}
KINDS = ("uniform", "importance")
REPLY = "<think>at 3</think><answer>red</answer>"


class Variants:
    async def call(self, method, question, kinds, seed, num_returns):
        specs = tuple(VariantSpec(kind, (0.0, 1.0), None, (28, 28), 0) for kind in kinds)
        tokens = (5, 6, 7) if question.reply else ()
        prepared = Prepared(question, "prompt", specs, ({"fps": 1},) * len(kinds), 2.0, prompt_tokens=40, reply_tokens=tokens)
        return prepared, [f"frames of {kind}" for kind in kinds]


class Rollouts:
    """Rightly in order, `shuffled` of the answers rightly out of it."""

    def __init__(self, right: str = "red", shuffled: str = "green") -> None:
        self.asked, self.right, self.shuffled = [], right, shuffled

    async def call(self, method, request, *videos):
        self.asked.append((request.variant, request.answers, request.shuffle_seed is not None, videos))
        word = self.right if request.shuffle_seed is None else self.shuffled
        text = f"<think>at 3</think><answer>{word}</answer>"
        answers = [Rollout("q", request.variant, at, 41, (1, 2), (-0.1, -0.2), text, 6, at) for at in range(request.answers)]
        return GenerateResult(tuple(answers), "digest")


def question(reply: str = REPLY) -> Question:
    return Question("q", "/v.mp4", "What colour?", "open", answer="red", reply=reply, evidence=Evidence(((2.0, 4.0),)))


def grouped(settings: dict, rollouts: Rollouts | None = None) -> Group:
    async def work():
        sampler = Sampler(Config.model_validate(TREE | settings), Variants(), rollouts or Rollouts())
        return await sampler.collect([question()], 7, kinds=KINDS, answers=4, training=True)

    return asyncio.run(work()).groups[0]


def stored() -> Group:
    async def work():
        return await Sampler(Config.model_validate(TREE), Variants(), None).stored([question()], 7, kinds=KINDS)

    return asyncio.run(work()).groups[0]


def test_a_reply_is_read_from_the_file(tmp_path):
    line = {"id": "q", "video": "v.mp4", "question": "?", "task": "open", "answer": "red"}
    assert parse_line(json.dumps(line | {"reply": REPLY}), path="q.jsonl", line=1).reply == REPLY
    for wrong in ("", 3):
        with pytest.raises(QuestionError, match=r"q\.jsonl:1: reply: "):
            parse_line(json.dumps(line | {"reply": wrong}), path="q.jsonl", line=1)
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps(line | {"reply": REPLY}) + "\n" + json.dumps(line | {"id": "other"}) + "\n")
    with pytest.raises(QuestionError, match=r"q.jsonl:2: reply: is missing"):
        check_replies(file)
    check_replies(file, frozenset({"other"}))


def test_a_stored_group_has_the_reply_under_every_view_and_needs_no_engine():
    group = stored()
    assert [[rollout.tokens for rollout in row] for row in group.rollouts_KM] == [[(5, 6, 7)], [(5, 6, 7)]]
    assert group.frames == ("frames of uniform", "frames of importance")
    assert group.correct_KM == ((1.0,), (1.0,)) and group.rollouts_KM[1][0].policy_version == 6
    config = for_replies(load(QUICKSTART, ["data.filter=variance", "repair.enabled=true", "teacher.kind=annotation"]))
    assert not config.repair.enabled and config.data.filter == "off" and config.loss.surrogate == "likelihood"
    alone = for_replies(load(QUICKSTART, ["placement=colocated", "data.eval=null"]))
    assert alone.placement == "split", "without held-out questions no engine starts"
    (advantages,) = Normalizer(config)([group], [np.array(group.rewards_KM)])
    assert advantages.tolist() == [[1.0], [1.0]]
    prompts = group_prompts(group, advantages, np.full((2, 1), 1 / 6))
    assert [prompt.prompt_digest for prompt in prompts] == ["", ""] and prompts[0].prompt_tokens == 40
    assert all(math.isfinite(value) for value in group_metrics([group], [np.array(group.rewards_KM)], version=6).values())
    rows = slot_rows(group, np.ones((2, 1)), advantages)
    assert rows[0]["logprobs"] == [None] * 3 and "NaN" not in json.dumps(rows)


def test_likelihood_is_the_cross_entropy_of_what_nobody_sampled():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    given = {"old_logprobs_A": logprobs.detach() + 3, "sampler_logprobs_A": torch.full((2,), torch.nan), "advantages_A": torch.ones(2)}
    loss, sums = policy_loss(
        logprobs, **given, weights_A=torch.tensor([0.25, 0.75]), sequence_A=torch.zeros(2, dtype=torch.long), options=LossOptions(surrogate="likelihood")
    )
    assert loss.item() == sums["loss/policy"].item() == pytest.approx(0.25 * 1 + 0.75 * 2)
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.25, -0.75])


def test_a_stored_reply_is_one_of_the_group():
    group = grouped({"rollout": {"answers": 4, "stored_replies": True}}, Rollouts(right="green"))
    assert [[rollout.finish_reason for rollout in row] for row in group.rollouts_KM] == [["stop"] * 3 + ["stored"], ["stop"] * 4]
    assert group.correct_KM == ((0.0, 0.0, 0.0, 1.0), (0.0,) * 4) and group.rollouts_KM[0][3].policy_version == 6
    logprobs = [[rollout.logprobs for rollout in row] for row in group.rollouts_KM]
    assert math.isfinite(group_signal(np.ones((2, 4)), np.ones((2, 4)), logprobs))


def test_the_bonus_by_hand():
    """Ordered 1/2 against shuffled 1/2 or 5/8: at least 0.8 of them. Against 3/4 it is not."""
    right = [[1, 0], [1, 0]]
    assert temporal_bonus(right, [0.5, 0.5]).tolist() == [[0.3, 0.0], [0.3, 0.0]]
    assert temporal_bonus(right, [1, 0.25]).tolist() == [[0.3, 0.0], [0.3, 0.0]]
    assert (temporal_bonus(right, [1, 0.5]) == 0).all()
    assert temporal_bonus([[0.1, 0.11]], [0.0], bonus=1.0).tolist() == [[0.0, 1.0]]
    with pytest.raises(ValueError, match="no control"):
        temporal_bonus(right, [])


def test_shuffled_controls_are_asked_and_right_answers_paid():
    rollouts = Rollouts()
    group = grouped({"reward": {"temporal_bonus": 0.3}}, rollouts)
    assert sorted(rollouts.asked) == [
        (0, 2, True, ("frames of uniform",)),
        (0, 4, False, ("frames of uniform",)),
        (1, 2, True, ("frames of importance",)),
        (1, 4, False, ("frames of importance",)),
    ]
    assert len(group.rollouts_KM) == 2 and {len(row) for row in group.rollouts_KM} == {4}, "controls are not learned from"
    plain = grouped({})
    assert np.array(group.rewards_KM) == pytest.approx(np.array(plain.rewards_KM) + 0.3)
    assert group.scores_KM[0][0].parts["temporal_bonus"] == 0.3 and "temporal_bonus" not in plain.scores_KM[0][0].parts
    assert grouped({"reward": {"temporal_bonus": 0.3}}, Rollouts(right="green", shuffled="red")).rewards_KM == grouped({}, Rollouts(right="green")).rewards_KM


def test_cited_times_by_hand():
    """2 s off at sigma 4: exp(-1/8); at sigma 1: exp(-2). Inside: 1. A list is worth its mean."""
    evidence = [(2.0, 4.0), (9.0, 9.0)]
    assert cited_times([6.0], evidence, sigma_s=4.0) == pytest.approx(math.exp(-1 / 8))
    assert cited_times([0.0], evidence, sigma_s=1.0) == pytest.approx(math.exp(-2))
    assert cited_times([3.0, 9.0], evidence, sigma_s=1.0) == 1.0
    assert cited_times([3.0, 11.0], evidence, sigma_s=1.0) == pytest.approx((1 + math.exp(-2)) / 2)
    assert cited_times([], evidence, sigma_s=1.0) == 0.0 == cited_times([3.0], [], sigma_s=1.0)
    assert [sigma((4.0, 1.0), step, 10) for step in (0, 5, 10, 20)] == [4.0, 2.5, 1.0, 1.0]
    told = Question("q", "v", "?", "open", evidence=Evidence((), (Region(3.0, (0, 0, 1, 1)),)), spans=((1.0, 2.0),))
    assert evidence_of(told) == [(3.0, 3.0)] and evidence_of(Question("q", "v", "?", "open", spans=((1.0, 2.0),))) == [(1.0, 2.0)]


def test_cited_times_count_where_they_are_weighted(tmp_path):
    config = Config.model_validate(TREE | {"reward": {"weights": {"open": {"accuracy": 1.0, "cited_times": 0.5}}}})
    rollout = Rollout("q", 0, 0, 9, (1,), (0.0,), "<think>at 6 s it turns red</think><answer>at 3 s</answer>", 0, 0)
    score = Scorer(config)
    assert score(question(), rollout, "", 0).parts["cited_times"] == pytest.approx(math.exp(-1 / 8)), "the answer's own times are no citation"
    assert score(question(), rollout, "", 10).parts["cited_times"] == pytest.approx(math.exp(-2))
    assert "cited_times" not in Scorer(Config.model_validate(TREE))(question(), rollout).parts


def test_a_second_answer_is_no_longer_than_it_may_be(tmp_path):
    with pytest.raises(ConfigError, match=r"repair.max_tokens \(64\) is above rollout.max_tokens \(20\)"):
        load(QUICKSTART, ["repair.max_tokens=64"])
    assert load(QUICKSTART.parent / "ffr_qwen2_5_vl_7b.yaml").repair.max_tokens == 512
