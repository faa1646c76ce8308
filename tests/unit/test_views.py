"""No view depends on the truth: the same frames whatever the truth is, and nothing that a classifier could learn about it from the times shown.

The variant actor is the real one, with real processors; its candidates are made here once instead of decoded for each of the thousands of questions.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlvid.actors.sampler import Sampler
from rlvid.actors.variant import VariantActor
from rlvid.config import load
from rlvid.families import FAMILIES
from rlvid.types import Evidence, GenerateResult, LeftOut, Prepared, Question, Region, Rollout
from rlvid.variants.explore import KINDS
from rlvid.variants.relevance import RawScores
from rlvid.video.clip import Clip
from rlvid.world.tiny_model import build_processor, build_tokenizer

CONFIG = Path(__file__).parents[2] / "configs/quickstart.yaml"
TASKS = ("temporal_grounding", "grounded_qa", "multiple_choice", "open")
SIDE = {"qwen2_5_vl": 28, "qwen3_vl": 32}


class AnyScores:
    """A scorer whose scores hang on the question's text alone."""

    key = "any"

    def look(self, frames_NHWC, question):
        rng = np.random.default_rng(zlib.crc32(question.encode()))
        return rng.normal(size=len(frames_NHWC)), rng.random((len(frames_NHWC), 4, 4)), rng.normal(size=(len(frames_NHWC), 3))

    def compare(self, looks_N, even_N):
        return RawScores(*looks_N)


def actor(family, *, candidates=32, length_s=32.0, kinds=tuple(KINDS), settings=()):
    made = VariantActor(load(CONFIG, [f"video.candidates={candidates}", f"variants.kinds=[{','.join(kinds)}]", *settings]), 0)
    made.processor = build_processor(build_tokenizer(["red blue When What ?"]), family)
    side = SIDE[family]
    made.factor, made.frames_per_token, made.family, made.scorer = side, 2, FAMILIES[family], AnyScores()
    times_s = np.linspace(0, length_s, candidates)
    clip = Clip(np.zeros((candidates, side, side, 3), np.uint8), times_s, length_s, candidates / length_s, side, side)
    made._clip = lambda *_: (clip, False)
    return made


def questions(count, length_s=32.0, seed=0):
    """Of all kinds that can have a span, with spans from a tenth to three of the even view's gaps long, anywhere in the video."""
    rng = np.random.default_rng(seed)
    made = []
    for at in range(count):
        long_s = float(rng.uniform(0.1, 3) * length_s / 7)
        start = float(rng.uniform(0, length_s - long_s))
        spans, region = ((start, start + long_s),), Region(start + long_s / 2, (0.1, 0.1, 0.3, 0.3))
        task = TASKS[at % len(TASKS)]
        choice = {"options": ("red", "blue"), "answer": "red"} if task == "multiple_choice" else {}
        made.append(Question(f"q{at}", "v.mp4", f"When {at}?", task, spans=spans, evidence=Evidence(spans, (region,)), **choice))
    return made


def built(made, question, kinds=tuple(KINDS), seed=0) -> Prepared:
    prepared, *_ = made.build(question, kinds, seed)
    assert isinstance(prepared, Prepared), prepared
    return prepared


@pytest.mark.parametrize("family", sorted(SIDE))
def test_the_truth_changes_nothing_that_is_shown(family):
    """Spans and evidence of another question, or none at all: the same specs, metadata, prompt and pixels. In evaluation (`uniform` alone) too."""
    made = actor(family)
    for question, other in zip(questions(24), questions(24, seed=1), strict=True):
        for kinds in (tuple(KINDS), ("uniform",)):
            one, *frames = made.build(question, kinds, 3)
            for truth in (replace(question, spans=other.spans, evidence=other.evidence), replace(question, spans=((0.0, 0.01),), evidence=Evidence())):
                two, *others = made.build(truth, kinds, 3)
                assert (one.specs, one.video_metadata, one.prompt) == (two.specs, two.video_metadata, two.prompt)
                assert all((here == there).all() for here, there in zip(frames, others, strict=True))


def test_the_uniform_view_is_the_even_one_whatever_it_hides():
    made = actor("qwen3_vl")
    for question in questions(40):
        (spec,) = built(made, question, ("uniform",)).specs
        assert spec.times_s == tuple(np.linspace(0, 32.0, 32)[np.linspace(0, 31, 8).round().astype(int)].tolist())


def test_a_hidden_truth_is_counted():
    made = actor("qwen2_5_vl")
    hidden = replace(questions(1)[0], spans=((1.5, 1.6),))
    seen = built(made, hidden, ("uniform",))
    assert seen.truth_hidden and seen.costs["truth_hidden"] == 1.0 and seen.costs["span_hidden"] == 1.0
    shown = built(made, replace(hidden, spans=((0.0, 0.1),)), ("uniform",))
    assert not shown.truth_hidden and shown.costs["truth_hidden"] == 0.0 and shown.costs["span_hidden"] == 0.0
    assert not built(made, replace(hidden, spans=(), task="open"), ("uniform",)).truth_hidden


class Pool:
    """Variant actors whose view hides the truth; engines that count what they are asked."""

    def __init__(self, prepared=None):
        self.prepared, self.asked = prepared, 0

    async def call(self, method, *arguments, num_returns=1):
        if method == "build":
            return self.prepared, [None]
        self.asked += 1
        return GenerateResult((Rollout("q0", 0, 0, 9, (1,), (-0.1,), "<answer>1 to 2</answer>", 0, 0),), "digest")


@pytest.mark.parametrize(("hidden", "training", "asked"), [("skip", True, 0), ("keep", True, 1), ("skip", False, 1), ("keep", False, 1)])
def test_a_hidden_truth_may_be_left_out_of_training_and_of_nothing_else(hidden, training, asked):
    question = replace(questions(1)[0], spans=((1.5, 1.6),))
    config = load(CONFIG, [f"variants.hidden={hidden}", "variants.kinds=[uniform]", "rollout.answers=2"])
    engines = Pool()
    sampler = Sampler(config, Pool(built(actor("qwen2_5_vl"), question, ("uniform",))), engines)
    collected = asyncio.run(sampler.collect([question], 1, kinds=("uniform",), answers=1, training=training))
    assert engines.asked == asked and len(collected.groups) == asked
    assert all(isinstance(one, LeftOut) and "variants.hidden" in one.reason for one in collected.quarantined)


# ---- a reader of the times


def features(times_VT):
    """[V, T / 2, F]: of every frame pair, what its times are among the others': gaps inside, before, after, how far from the even and the candidates' grid."""
    count, frames = times_VT.shape
    unit = 32.0 / (frames - 1)
    pairs = times_VT.reshape(count, frames // 2, 2) / unit
    inner = pairs[..., 1] - pairs[..., 0]
    edges = np.concatenate([np.full((count, 1), -0.5), pairs.mean(-1), np.full((count, 1), frames - 0.5)], axis=1)
    before, after = np.diff(edges)[:, :-1], np.diff(edges)[:, 1:]
    off_even = np.abs(pairs - np.round(pairs)).max(-1)
    on_grid = pairs * unit / (32.0 / 31)
    off_grid = np.abs(on_grid - np.round(on_grid)).max(-1)
    least = np.minimum(np.minimum(before, after), inner)
    place = np.broadcast_to(np.arange(frames // 2), inner.shape)
    return np.stack([inner, before, after, off_even, 10 * off_grid, least, place], axis=-1)


def learned(features_VPF, pair_V, seed=0):
    """Share of the second half's views whose pair a small network names that was trained on the first half."""
    import torch

    torch.manual_seed(seed)
    x = torch.tensor(features_VPF, dtype=torch.float32)
    x, y = (x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-6), torch.tensor(pair_V)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[-1], 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
    half, optimizer = len(x) // 2, torch.optim.AdamW(net.parameters(), lr=0.03, weight_decay=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[:half]).squeeze(-1), y[:half]).backward()
        optimizer.step()
    with torch.no_grad():
        return float((net(x[half:]).squeeze(-1).argmax(-1) == y[half:]).float().mean())


def pair_of(times_T, span):
    return int(np.abs(np.asarray(times_T) - sum(span) / 2).argmin()) // 2


def with_the_truth(times_T, span):
    """What no view does: a frame of a hidden truth takes the nearest one's place."""
    times, middle = np.array(times_T), sum(span) / 2
    if not ((times >= span[0]) & (times <= span[1])).any():
        times[np.abs(times - middle).argmin()] = middle
    return times


@pytest.mark.parametrize("family", sorted(SIDE))
def test_times_do_not_tell_where_the_truth_is(family, record_property):
    """Thousands of questions, all kinds: a network that is shown the times finds the truth no better than one whose truths were dealt out anew."""
    made, asked = actor(family), questions(1200)
    views = [[spec.times_s for spec in built(made, question).specs] for question in asked]
    times_VT = np.array([times for specs in views for times in specs])
    spans = [question.spans[0] for question in asked for _ in KINDS]
    dealt = [spans[at] for at in np.random.default_rng(5).permutation(len(asked)).repeat(len(KINDS)) * len(KINDS)]
    seen = learned(features(times_VT), np.array([pair_of(*one) for one in zip(times_VT, spans, strict=True)]))
    chance = learned(features(times_VT), np.array([pair_of(*one) for one in zip(times_VT, dealt, strict=True)]))
    moved = np.array([with_the_truth(*one) for one in zip(times_VT, spans, strict=True)])
    told = learned(features(moved), np.array([pair_of(*one) for one in zip(moved, spans, strict=True)]))
    print(f"{family}: truth found from the times {seen:.3f}, by chance {chance:.3f}; {told:.3f} where hidden truths take a frame's place")
    record_property("found", seen)
    assert seen <= chance + 0.03, "the eight views of a question share its truth: six hundred independent ones, 0.02 standard deviation"
    assert told >= chance + 0.1, "the network would have found a trace"
