"""Experts that an engine chose, in the learner: each row of a packed prompt gets its own, differences are counted, a replayed choice is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rlvid.families import FAMILIES, named
from rlvid.families.checkpoint import load_model, load_processor
from rlvid.learner.experts import Routing, routes_of
from rlvid.learner.group import _expert_shares
from rlvid.learner.logprobs import AnswerLogProbs
from rlvid.learner.packing import pack, spread_over_ranks
from rlvid.types import UNKNOWN
from rlvid.world.tiny_model import build_tiny_model
from tests.unit.test_packing import CORPUS, LAYERS, make_prompt, per_answer, relative

WITH_EXPERTS = [name for name in FAMILIES if named(name).has_experts]


class Fixed(torch.nn.Module):
    """A router of one token, four experts of which the last two are the best."""

    def forward(self, hidden_NH):
        logits = hidden_NH @ torch.ones(3, 1) * torch.tensor([0.0, 1.0, 2.0, 3.0]).log1p()
        scores, experts = torch.softmax(logits, -1).topk(2)
        return logits, scores / scores.sum(-1, keepdim=True), experts


class Batch:
    """What a router is told of: two tokens, the second predicts one answer token."""

    def __init__(self, routes, weights=(1.0,)):
        self.routes_NLK = torch.tensor(routes)
        self.predictors_A = torch.tensor([1])
        self.weights_A, self.sampler_logprobs_A = torch.tensor(weights), torch.tensor([-0.5])
        self.share, self.asked = None, self.predictors_A.unique


def test_a_replayed_choice_by_hand():
    """Probabilities of the four are 1, 2, 3, 4 tenths: experts 0 and 2 share 1 : 3. The token that is not known goes through its own two, 4 : 3."""
    router = Fixed()
    routing = Routing([router, None], replay=True)
    routing.tell(Batch([[[UNKNOWN] * 2] * 2, [[0, 2]] * 2]))
    _, scores, experts = router(torch.full((2, 3), 1 / 3))
    assert experts.tolist() == [[3, 2], [0, 2]]
    assert scores[0].tolist() == pytest.approx([4 / 7, 3 / 7]) and scores[1].tolist() == pytest.approx([1 / 4, 3 / 4])
    counted = routing.take()
    assert counted == {"mismatch/sum_experts_known": 2, "mismatch/sum_experts_apart": 1, "mismatch/sum_experts_unknown": 0}
    assert _expert_shares(counted) == {"mismatch/experts": 0.5, "mismatch/experts_unknown": 0.0} and not counted
    routing.tell(Batch([[[UNKNOWN] * 2] * 2] * 2, weights=(0.0,)))
    router(torch.full((2, 3), 1 / 3))
    assert not sum(routing.take().values()), "an answer that counts nothing is not counted"


def test_answers_share_the_prompt_of_which_one_knows_more():
    prompt = dataclasses.make_dataclass("P", ["tokens_MN"])(((5, 6), (7, 8, 9)))
    first, second = np.full((4, 1, 1), UNKNOWN, np.int16), np.arange(5, dtype=np.int16).reshape(5, 1, 1)
    first[3] = 9
    assert routes_of(prompt, [first, second], 3)[:, 0, 0].tolist() == [0, 1, 2, 9, UNKNOWN, 3, 4, UNKNOWN]
    assert routes_of(prompt, [None, second], 3)[:, 0, 0].tolist() == [0, 1, 2, UNKNOWN, UNKNOWN, 3, 4, UNKNOWN]
    assert routes_of(prompt, [None, None], 3) is None


@pytest.fixture(scope="module", params=WITH_EXPERTS)
def tiny(request, tmp_path_factory):
    folder = str(build_tiny_model(tmp_path_factory.mktemp(request.param), CORPUS, family=request.param, layers=LAYERS))
    height, width = named(request.param).tiny_frame
    return folder, load_processor(folder), (2 * height, width)


def routed(processor, size, seed, answers):
    """A prompt whose answers went through experts drawn at random, as an engine tells: all but the last token of each."""
    prompt, draw = make_prompt(processor, size, seed=seed, answers=answers), np.random.default_rng(seed)
    two_of_four = lambda length: draw.random((length, LAYERS, 4)).argsort(-1)[..., :2].astype(np.int16)  # noqa: E731
    own = two_of_four(prompt.prompt_tokens)
    told = {at: np.concatenate([own, two_of_four(length - 1)]) for at, length in enumerate(answers)}
    return dataclasses.replace(prompt, routes_M=tuple((f"engine {seed}", at) for at in told)), told


def test_replayed_rows_equal_separate_forwards_through_the_same_experts(tiny):
    """Two prompts in a row, answers of one token and of several, with gradients of the routers; a fetch that fails leaves the learner's own choice."""
    folder, processor, size = tiny
    model, alone = (load_model(folder, dtype=torch.float32, attn_implementation="sdpa") for _ in range(2))
    pairs = [routed(processor, size, 3, (1, 6)), routed(processor, size, 4, (5, 2, 9))]
    store = {f"engine {seed}": told for seed, (_, told) in zip((3, 4), pairs, strict=True)}
    fetch = lambda reference: store[reference] if isinstance(reference, str) else reference  # noqa: E731
    options = {"chunk": 4, "forbidden": named(model.config.model_type).media_token_ids(processor.tokenizer), "temperature": 1.0}
    learner = AnswerLogProbs(model, **options, experts="replay")
    batch = pack([prompt for prompt, _ in pairs], processor, model.config, fetch)
    packed = learner(batch)
    packed.sum().backward()

    now = {}
    for number, layer in enumerate(alone.model.language_model.layers):
        layer.mlp.gate.forward = forced(layer.mlp.gate, lambda number=number: now["routes"][:, number])
    separate = []
    for prompt, told in pairs:
        for at, tokens in enumerate(prompt.tokens_MN):
            now["routes"] = torch.from_numpy(np.concatenate([told[at], told[at][-1:]])).long()
            separate.append(per_answer(alone, processor, dataclasses.replace(prompt, tokens_MN=(tokens,))))
    torch.cat(separate).sum().backward()
    assert relative(packed, torch.cat(separate)) < 1e-5
    for layer, other in zip(model.model.language_model.layers, alone.model.language_model.layers, strict=True):
        gradient = layer.mlp.gate.weight.grad
        assert gradient.abs().max() > 0 and relative(gradient, other.mlp.gate.weight.grad) < 1e-4
    counted = learner.routing.take()
    predictors = len(batch.predictors_A.unique())
    assert counted["mismatch/sum_experts_known"] == predictors * LAYERS * 2 and not counted["mismatch/sum_experts_unknown"]
    assert 0.2 < counted["mismatch/sum_experts_apart"] / counted["mismatch/sum_experts_known"] < 0.8, "drawn at random: one of two by chance"


def forced(gate, told):
    """A router of the test's own that goes where it is told."""

    def forward(hidden):
        chances = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), gate.weight).softmax(-1)
        chosen = chances.gather(-1, told())
        return chances, chosen / chosen.sum(-1, keepdim=True), told()

    return forward


def test_measuring_changes_nothing_and_a_lost_engine_is_told_apart(tiny):
    from ray.exceptions import OwnerDiedError

    folder, processor, size = tiny
    model = load_model(folder, dtype=torch.float32, attn_implementation="sdpa")
    prompt, told = routed(processor, size, 5, (4, 3))
    other = dataclasses.replace(routed(processor, size, 6, (2,))[0], routes_M=(("gone", 0),))

    def fetch(reference):
        if not isinstance(reference, str):
            return reference
        if reference == "gone":
            raise OwnerDiedError("00" * 28, "", "")
        return told

    options = {"chunk": 4, "forbidden": (), "temperature": 1.0}
    batch = pack([prompt, other], processor, model.config, fetch)
    plain = AnswerLogProbs(load_model(folder, dtype=torch.float32, attn_implementation="sdpa"), **options)(batch)
    measured = AnswerLogProbs(model, **options, experts="measure")
    assert torch.equal(measured(batch), plain)
    counted = measured.routing.take()
    assert counted["mismatch/sum_experts_known"] == 6 * LAYERS * 2 and counted["mismatch/sum_experts_unknown"] == 2 * LAYERS * 2
    replayed = AnswerLogProbs(load_model(folder, dtype=torch.float32, attn_implementation="sdpa"), **options, experts="replay")(batch)
    assert relative(replayed[:7], plain[:7]) > 1e-5 and torch.equal(replayed[7:], plain[7:])
    assert all(one[-1].routes_M == prompt.routes_M[:1] for one in (spread_over_ranks([prompt], 2, 10**6)[1][0],))
