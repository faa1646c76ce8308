"""Distillation: the divergence and its gradient by hand, which tokens and which answers teach, and a student that comes to its teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvid.config import ConfigError, load
from rlvid.learner.distill import Divergence, answer_tokens
from rlvid.learner.logprobs import AnswerLogProbs, LogProbHead
from rlvid.learner.packing import pack_distilled, silent, spread_over_ranks
from rlvid.learner.prompts import distilled_prompts
from rlvid.types import Group, Prepared, Question, Repair, Rollout, Score, VariantSpec
from tests.unit.test_packing import CORPUS, make_prompt

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def head(weight: torch.Tensor, **options) -> LogProbHead:
    return LogProbHead(torch.nn.Parameter(weight), **({"chunk": 8, "forbidden": (), "temperature": 1.0} | options))


def test_the_divergence_by_hand():
    """Teacher 3/4 and 1/4, student at even odds: 3/4 log 3/2 + 1/4 log 1/2; in the student's logits the gradient is p_s - p_t."""
    one = head(torch.eye(2))
    student = torch.zeros(1, 2, requires_grad=True)
    apart = Divergence.apply(student, one.weight, torch.tensor([[math.log(3), 0.0]]), one)
    assert apart.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    apart.sum().backward()
    assert student.grad.tolist() == [pytest.approx([-0.25, 0.25])]
    assert one.weight.grad is not None


def test_a_certain_wrong_student_still_has_a_gradient():
    """Where an advantage times log p has none."""
    one, student = head(torch.eye(2)), torch.tensor([[0.0, 20.0]], requires_grad=True)
    Divergence.apply(student, one.weight, torch.tensor([[20.0, 0.0]]), one).sum().backward()
    assert student.grad.tolist() == [pytest.approx([-1.0, 1.0], abs=1e-6)]


@pytest.mark.parametrize("chunk", [2, 100])
def test_chunks_temperature_and_forbidden_tokens(chunk):
    torch.manual_seed(0)
    weight, student, teacher = torch.randn(9, 4), torch.randn(7, 4, requires_grad=True), torch.randn(7, 4)
    one, share = head(weight.clone(), chunk=chunk, forbidden=(3,), temperature=0.7), torch.rand(7)
    apart = Divergence.apply(student, one.weight, teacher, one)
    known_weight, known_student = weight.clone().requires_grad_(), student.detach().clone().requires_grad_()
    allowed = [token for token in range(9) if token != 3]
    told, known = ((hidden @ known_weight.T)[:, allowed] / 0.7 for hidden in (teacher, known_student))
    expected = torch.nn.functional.kl_div(known.log_softmax(-1), told.log_softmax(-1).detach(), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(apart, expected)
    (apart * share).sum().backward()
    (expected * share).sum().backward()
    torch.testing.assert_close(student.grad, known_student.grad)
    torch.testing.assert_close(one.weight.grad, known_weight.grad)


class Letters:
    """A tokenizer whose tokens are the pieces of `words`."""

    words = ("<think>", "a b", "</think>", "<ans", "wer>", "dark ", "red", "</answer", ">", "<answer>", "</answer>", ">re")

    def decode(self, tokens):
        return "".join(self.words[token] for token in tokens)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7, 8), (5, 7)),
        ((9, 6, 10), (1, 2)),
        ((3, 4, 11, 10), (2, 3)),
        ((0, 1, 2), (0, 3)),  # no tags: all
        ((9, 10), (0, 2)),  # nothing between them: all
        ((9, 6, 10, 9, 5, 6, 10), (4, 6)),  # the last answer is the one that is read
    ],
)
def test_the_answers_tokens(tokens, expected):
    assert answer_tokens(tokens, Letters()) == expected


def rollout(variant, sample):
    return Rollout("q", variant, sample, 50 + variant, (10 * variant + sample, 7), (-1.0, -2.0), "", 0, 0)


def a_group(correct, repaired=()):
    specs = tuple(VariantSpec(kind, (0.0, 1.0), None, (28, 28), 0) for kind in ("importance", "uniform", "importance_crop"))
    score, table = Score({"accuracy": 1.0}), tuple(tuple(rollout(variant, sample) for sample in range(2)) for variant in range(3))
    repairs = tuple(
        Repair(variant, sample, None, table[variant][sample], score, table[variant][sample], score, 1.0, 0.0, 0.0, 1.7, True, f"patched {variant}", "cafe")
        for variant, sample in repaired
    )
    prepared = Prepared(Question("q", "v.mp4", "?", "open", answer="x"), "plain", specs, ({"v": 0}, {"v": 1}, {"v": 2}), 2.0)
    return Group(prepared, ("f0", "f1", "f2"), table, ((score,) * 2,) * 3, ((1.0,) * 2,) * 3, correct, ("d0", "d1", "d2"), repairs)


def test_right_answers_of_other_prompts_teach_the_plain_one():
    group = a_group(((1.0, 0.0), (1.0, 0.0), (1.0, 1.0)), repaired=[(1, 1), (2, 1)])
    group = replace(group, correct_KM=((1.0, 0.0), (1.0, 1.0), (1.0, 1.0)))
    from_variants = distilled_prompts([group], ("variants",), 9)
    assert [(prompt.teacher.frames, prompt.tokens_MN) for prompt in from_variants] == [("f0", ((0, 7),)), ("f2", ((20, 7),))]
    assert all((prompt.prompt, prompt.prompt_digest, prompt.frames, prompt.video_metadata) == ("plain", "d1", "f1", {"v": 1}) for prompt in from_variants)
    assert sum(weight for prompt in from_variants for weight in prompt.weights_M) == pytest.approx(1)
    repaired = distilled_prompts([group], ("repair",), 9)
    assert [(prompt.teacher.prompt, prompt.tokens_MN, prompt.prompt) for prompt in repaired] == [
        ("patched 1", ((11, 7),), "plain"),
        ("patched 2", ((21, 7),), "plain"),
    ]
    both = distilled_prompts([group, group], ("variants", "repair"), 3)
    assert len(both) == 6 and all(weight == pytest.approx(1 / 6) for prompt in both for weight in prompt.weights_M)
    assert distilled_prompts([a_group(((0.5, 0.0), (1.0, 1.0), (0.0, 0.0)))], ("variants", "repair"), 3) == [], "half right is not right"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from rlvid.families.checkpoint import load_model, load_processor
    from rlvid.world.tiny_model import build_tiny_model

    folder = str(build_tiny_model(tmp_path_factory.mktemp("tiny"), CORPUS))
    return load_model(folder, dtype=torch.float32, attn_implementation="sdpa"), load_processor(folder)


def pair(processor, seed, answers=(3, 5)):
    """The same answers under two videos."""
    student = make_prompt(processor, (56, 56), seed=seed, answers=answers)
    teacher = make_prompt(processor, (56, 56), seed=seed + 100, answers=answers)
    return replace(student, teacher=replace(teacher, tokens_MN=student.tokens_MN), weights_M=(0.25,) * len(answers))


def test_a_student_comes_to_its_teacher(tiny):
    """Over two prompts in a row, and nothing is learned from one that is silent."""
    model, processor = tiny
    module = AnswerLogProbs(model, chunk=4, forbidden=(), temperature=1.0)
    batch = pack_distilled([pair(processor, 1), pair(processor, 2)], processor, model.config, answers_only=False)
    assert len(batch.targets_A) == len(batch.teacher.targets_A) == 16 and batch.weights_A.sum() == pytest.approx(1)
    assert batch.weights_A[:3].tolist() == pytest.approx([0.25 / 3] * 3)
    with torch.no_grad():
        teacher = module(batch.teacher, hidden_only=True)
        told = torch.log_softmax(module.model.lm_head.logits(teacher, module.model.lm_head.weight), -1)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-4)
    found = []
    for _ in range(12):
        loss = (batch.weights_A * module(batch, teacher_AH=teacher)).sum()
        own = torch.log_softmax(module.model.lm_head.logits(module(batch, hidden_only=True), module.model.lm_head.weight), -1)
        if not found:
            assert loss.item() == pytest.approx((batch.weights_A[:, None] * told.exp() * (told - own)).sum().item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.5 * found[0]
    filler = pack_distilled([silent(pair(processor, 3))], processor, model.config)
    assert filler.weights_A.sum() == 0 and len(filler.targets_A) == len(filler.teacher.targets_A) == 3


def test_every_rank_has_as_many_of_them(tiny):
    prompts = [pair(tiny[1], seed) for seed in range(3)]
    shares = spread_over_ranks(prompts, 2, budget_tokens=1)
    assert {len(share) for share in shares} == {2} and all(prompt.teacher for share in shares for batch in share for prompt in batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["distill.from=[repair]"], "distill.from repair needs second answers"),
        (["distill.from=[variants]", "variants.kinds=[uniform]"], "distill.from variants needs another view"),
        (["distill.from=[variants]", "variants.kinds=[importance, crop]"], "name uniform among variants.kinds"),
        (["loss.policy_coef=0"], "nothing to learn"),
        (["distill.form=[variants]"], r"unknown key distill.form \(did you mean from\?\)"),
    ],
)
def test_impossible_pairs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(QUICKSTART, settings)


def test_the_setting_is_written_as_it_is_read(tmp_path):
    config = load(QUICKSTART, ["distill.from=[variants]", "loss.policy_coef=0"])
    (tmp_path / "again.yaml").write_text(config.dump())
    assert load(tmp_path / "again.yaml") == config and config.distill.sources == ("variants",)
