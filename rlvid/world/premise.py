"""Does a world have what a method needs? Measured on the warm-started model before any reinforcement, and kept as premise.json.

A premise that does not hold makes a run in that world no evidence for or against the method.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvid.algo.advantages import joint_advantages, per_variant_advantages, zero_signal, zero_signal_text_only_share
from rlvid.algo.signal import group_signal
from rlvid.families import named
from rlvid.types import Question, VariantSpec
from rlvid.variants.build import cut, video_metadata
from rlvid.variants.explore import derived_seed, explore
from rlvid.variants.relevance import relevance, relevance_text
from rlvid.variants.scorers import MotionScorer
from rlvid.video.clip import read_candidates
from rlvid.world.evidence import Pointer, Pointers
from rlvid.world.warm_start import generate, grade, make_batch

QUESTIONS, ANSWERS, ROWS = 48, 4, 96
"""Questions measured, answers sampled on each view of them, and how many are sampled at a time."""
RELEVANCE_TEMPERATURE = 0.25


@dataclass(frozen=True)
class Shape:
    """What a group of the world's runs looks like; `pointed`: does its model read evidence?"""

    kinds: tuple[str, ...]
    frames: int
    size: tuple[int, int]
    pointed: bool = False
    temperature: float = 1.0


Numbers = dict[str, float]
Claim = tuple[str, Callable[[Numbers], bool]]

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "plain": (("one view already gives mixed answers", lambda n: n["unanimous, even view"] < 0.5),),
    "lure": (
        ("most even views are agreed on", lambda n: n["unanimous, even view"] >= 0.5),
        ("and wrongly", lambda n: n["certain and wrong, even view"] >= 0.8 * n["unanimous, even view"]),
        ("other views break the agreement", lambda n: n["unanimous, pooled"] <= 0.5 * n["unanimous, even view"]),
        ("and can move the policy", lambda n: n["signal, pooled"] >= 1.5 * n["signal, even view"]),
    ),
    "misread": (
        ("the even view is read wrongly", lambda n: n["accuracy, uniform"] <= 0.15),
        ("views by importance are read rightly", lambda n: n["accuracy, importance"] >= 0.6),
        ("every view agrees with itself", lambda n: n["unanimous, per variant"] >= 0.75),
        ("and not with the others", lambda n: n["unanimous, pooled"] <= 0.35),
    ),
    "blink": (
        ("without evidence most is agreed on", lambda n: n["unanimous, even view"] >= 0.5),
        ("and wrongly", lambda n: n["certain and wrong, even view"] >= 0.8 * n["unanimous, even view"]),
        ("evidence is read", lambda n: n["accuracy, with evidence"] >= n["accuracy, uniform"] + 0.15),
    ),
    "crowd": (
        ("few questions teach one view anything", lambda n: n["unanimous, even view"] >= 0.6),
        ("many are always right", lambda n: n["certain and right, even view"] >= 0.15),
        ("many are always wrong", lambda n: n["certain and wrong, even view"] >= 0.25),
    ),
}
"""What each world is made for, as bounds on its numbers."""


def failing(world: str, numbers: Numbers) -> list[str]:
    """The parts of the world's premise that do not hold."""
    return [claim for claim, holds in CLAIMS[world] if not holds(numbers)]


def measure(directory: Path, shape: Shape, train: Sequence[Question], held_out: Sequence[Question], *, seed: int) -> Numbers:
    """The numbers of the model in `directory`/model: accuracy by view, who agrees with whom, and what a group can move."""
    student = Student(directory / "model", shape, seed)
    rng = np.random.default_rng(seed)
    asked = [train[at] for at in sorted(rng.choice(len(train), min(QUESTIONS, len(train)), replace=False))]
    views = [student.views(question) for question in asked]
    right_QKM, logprobs_QKMN = student.answer([(question, view) for question, own in zip(asked, views, strict=True) for view in own], len(shape.kinds))
    even, alone = shape.kinds.index("uniform"), len(shape.kinds) * ANSWERS
    right_QM, logprobs_QMN = student.answer([(question, own[even]) for question, own in zip(asked, views, strict=True)], 1, alone)
    unanimous = [zero_signal(right_KM) for right_KM in right_QM]
    numbers = {
        **{f"accuracy, {kind}": float(right_QKM[:, [at for at, other in enumerate(shape.kinds) if other == kind]].mean()) for kind in shape.kinds},
        "unanimous, even view": statistics.fmean(unanimous),
        "certain and wrong, even view": float((right_QM == 0).all((1, 2)).mean()),
        "certain and right, even view": float((right_QM == 1).all((1, 2)).mean()),
        "unanimous, per variant": statistics.fmean(zero_signal_text_only_share(right_KM) for right_KM in right_QKM),
        "unanimous, pooled": statistics.fmean(zero_signal(right_KM) for right_KM in right_QKM),
        "signal, even view": _signal(right_QM, logprobs_QMN, joint_advantages),
        "signal, per variant": _signal(right_QKM, logprobs_QKMN, per_variant_advantages),
        "signal, pooled": _signal(right_QKM, logprobs_QKMN, joint_advantages),
    }
    if shape.pointed:
        pointers = Pointers(shape.size).true(asked)
        told = [(question, own[even], pointer) for question, own, pointer in zip(asked, views, pointers, strict=True) if pointer]
        numbers["accuracy, with evidence"] = float(student.answer([one[:2] for one in told], 1, pointers=[one[2] for one in told])[0].mean())
    held = [(question, student.views(question, ("uniform",))[0]) for question in held_out[: 2 * QUESTIONS]]
    return numbers | {"accuracy, held out": float(student.answer(held, 1)[0].mean())}


def _signal(right_QKM: Any, logprobs_QKMN: Any, advantages: Callable[[Any], Any]) -> float:
    """Mean over the questions, each token counted alike in its group."""
    found = []
    for right_KM, logprobs_KMN in zip(right_QKM, logprobs_QKMN, strict=True):
        tokens = sum(len(logprobs_N) for row in logprobs_KMN for logprobs_N in row)
        found.append(group_signal(advantages(right_KM), np.full(right_KM.shape, 1 / tokens), logprobs_KMN))
    return statistics.fmean(found)


View = tuple[VariantSpec, Any]
"""A spec and its frames [T, H, W, 3]."""


class Student:
    """The model in one process, asked as the loop asks it."""

    def __init__(self, model: Path, shape: Shape, seed: int) -> None:
        import torch

        from rlvid.families.checkpoint import load_model, load_processor

        self.processor, self.model = load_processor(str(model)), load_model(str(model), dtype=torch.float32, attn_implementation="sdpa").eval()
        self.shape, self.seed, self.scorer = shape, seed, MotionScorer()
        self.generator = torch.Generator().manual_seed(seed)

    def views(self, question: Question, kinds: Sequence[str] = ()) -> list[View]:
        """One of each kind, all by motion."""
        shape = self.shape
        clip = read_candidates(question.video, candidates=32, clip=None, size_for=lambda height, width: shape.size, zoom=1.0)
        raw = self.scorer.score(clip.frames_NHWC, relevance_text(question))
        looked = relevance(raw, clip.times_s_N, temperature=RELEVANCE_TEMPERATURE)
        seed = derived_seed(self.seed, question.epoch)
        given: dict[str, Any] = {"frames": shape.frames, "size": shape.size, "question_id": question.id, "seed": seed, "relevance": looked}
        return [(spec, cut(clip, spec)) for spec in explore(kinds or shape.kinds, times_s_N=clip.times_s_N, **given)]

    def answer(self, asked: Sequence[tuple[Question, View]], views: int, answers: int = ANSWERS, *, pointers: Sequence[Pointer] = ()) -> tuple[Any, Any]:
        """Right or not [Q, K, M], and log-probabilities [Q][K][M][N] of the tokens, of so many answers to each; a question's `views` are neighbours."""
        rows = [(question, view, pointers[at] if pointers else None) for at, (question, view) in enumerate(asked) for _ in range(answers)]
        said = [one for first in range(0, len(rows), ROWS) for one in self._sampled(rows[first : first + ROWS])]
        right_QKM = np.array([right for right, _ in said]).reshape(-1, views, answers)
        logprobs = [one for _, one in said]
        each = [[logprobs[at : at + answers] for at in range(first, first + views * answers, answers)] for first in range(0, len(said), views * answers)]
        return right_QKM, each

    def _sampled(self, rows: Sequence[tuple[Question, View, Pointer | None]]) -> list[tuple[float, list[float]]]:
        import torch

        kept: list[Any] = []

        def pick(logits_BV: Any) -> Any:
            chances_BV = torch.softmax(logits_BV.float() / self.shape.temperature, -1)
            token_B = torch.multinomial(chances_BV, 1, generator=self.generator)
            kept.append(chances_BV.gather(-1, token_B)[:, 0].log())
            return token_B[:, 0]

        questions, views, pointers = zip(*rows, strict=True)
        frames = [(frames, np.zeros(0, dtype=int)) for _, frames in views]
        told = [video_metadata(spec) for spec, _ in views]
        batch = make_batch(self.processor, self.model.config, questions, frames, 1.0, 1, [""] * len(rows), pointers if any(pointers) else (), told)
        end = self.processor.tokenizer.eos_token_id
        tokens_BN = generate(self.model, batch, end=end, most=20, pick=pick)
        logprobs_BN, found = torch.stack(kept, 1), []
        texts = self.processor.tokenizer.batch_decode(tokens_BN, skip_special_tokens=True)
        for question, text, tokens_N, logprobs_N in zip(questions, texts, tokens_BN.tolist(), logprobs_BN.tolist(), strict=True):
            length = min(len(logprobs_N), tokens_N.index(end) + 1 if end in tokens_N else len(tokens_N))
            right = grade(question, text)
            found.append((right["accuracy"] if "accuracy" in right else float(right["iou"] >= 0.5), logprobs_N[:length]))
        return found


def write(directory: Path, world: str, numbers: Numbers) -> None:
    """premise.json: the numbers, and what of the premise does not hold."""
    rounded = {name: round(value, 4) for name, value in numbers.items()}
    (directory / "premise.json").write_text(json.dumps({"world": world, "numbers": rounded, "fails": failing(world, numbers)}, indent=1))


def read(directory: Path) -> dict[str, Any]:
    """`world`, `numbers`, `fails`. FileNotFoundError where the world was never measured."""
    found: dict[str, Any] = json.loads((directory / "premise.json").read_text())
    return found


def shape_of(world: str, model: str) -> Shape:
    """Of the runs in configs/worlds."""
    from rlvid.world import premised

    own = named(model)
    if world == "plain":
        return Shape(("uniform", "importance", "importance_jitter", "importance_crop"), 8, own.tiny_frame)
    kinds = ("uniform", "importance", "importance", "importance_jitter")
    recipe = premised.WORLDS[world]
    return Shape(kinds, premised.FRAMES, premised.frame_size(model), bool(recipe.pointed), recipe.temperature)
