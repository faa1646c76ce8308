"""Does relevance find the evidence? Held-out questions with known evidence; importance against even sampling and against chance.

    python -m benchmarks.relevance [--world FOLDER] [--frames 8] [--draws 4]

For every scorer: the mean rank of evidence frames (0 best, 1 worst; chance 0.5), recall@4 of evidence spans (does one of the 4 most
relevant frames lie in it?), how often a variant of T frames shows the span and what share of its frames do, and how much of the
evidence box a crop keeps against a random one of the same area. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from rlvid.data.questions import iter_questions
from rlvid.types import Box, Question, Relevance, Span
from rlvid.variants.explore import explore
from rlvid.variants.relevance import relevance, relevance_text
from rlvid.variants.scorers import Scorer, make_scorer
from rlvid.video.clip import Clip, read_candidates, shown_size
from rlvid.world.tiny_clip import build_tiny_clip

TOP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path(".quickstart/qwen2_5_vl"))
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--limit", type=int, default=None, help="questions; default: all")
    arguments = parser.parse_args()
    questions = [question for question in iter_questions(arguments.world / "eval.jsonl") if question.evidence.spans][: arguments.limit]
    clips = {question.id: _clip(question, arguments.candidates) for question in questions}
    models = {"clip": str(build_tiny_clip(arguments.world)), "motion": None}
    scorers = {name: make_scorer(name, model, batch=64, on_gpu=False) for name, model in models.items()}
    short = [question for question in questions if sum(end - start for start, end in question.evidence.spans) <= clips[question.id].duration_s / 3]
    found = {
        f"{name}, {label}": measure(scorer, chosen, clips, arguments.frames, arguments.draws)
        for label, chosen in (("all", questions), ("evidence in a third of the clip", short))
        for name, scorer in scorers.items()
    }
    columns = list(next(iter(found.values())))
    print("| scorer | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")
    print(
        json.dumps(
            {
                "benchmark": "relevance",
                "environment": environment(),
                "questions": len(questions),
                "candidates": arguments.candidates,
                "frames": arguments.frames,
                "found": found,
            }
        )
    )


def measure(scorer: Scorer, questions: list[Question], clips: dict[str, Clip], frames: int, draws: int) -> dict[str, float]:
    """Means over the questions."""
    rows: list[dict[str, float]] = []
    for question in questions:
        clip = clips[question.id]
        scored = relevance(scorer.score(clip.frames_NHWC, relevance_text(question)), clip.times_s_N)
        rows += [_one(question, clip, scored, frames, seed) for seed in range(draws)]
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def _one(question: Question, clip: Clip, scored: Relevance, frames: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    times, score, spans = clip.times_s_N, np.asarray(scored.scores), question.evidence.spans
    evidence = np.any([_inside(times, span) for span in spans], axis=0)
    order = np.argsort(-score, kind="stable")
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order)) / (len(order) - 1)
    shared: dict[str, Any] = {"times_s_N": times, "frames": frames, "size": (84, 84), "question_id": question.id, "seed": seed}
    uniform, important, cropped = explore(("uniform", "importance", "crop"), relevance=scored, min_crop_area=0.5, **shared)
    box = cropped.box or (0.0, 0.0, 1.0, 1.0)
    return {
        "rank of evidence frames": float(rank[evidence].mean()) if not evidence.all() else math.nan,
        "best possible rank": (evidence.sum() - 1) / 2 / (len(times) - 1) if not evidence.all() else math.nan,
        f"recall@{TOP}": _recall(times[order[:TOP]], spans),
        f"recall@{TOP} even": _recall(times[np.linspace(0, len(times) - 1, TOP).round().astype(int)], spans),
        f"recall@{TOP} chance": _recall(times[rng.permutation(len(times))[:TOP]], spans),
        "span shown, importance": _recall(np.array(important.times_s), spans),
        "span shown, uniform": _recall(np.array(uniform.times_s), spans),
        "frames in span, importance": _share(np.array(important.times_s), spans),
        "frames in span, uniform": _share(np.array(uniform.times_s), spans),
        "box kept, attention": _kept(question, box),
        "box kept, random": _kept(question, _random(box, rng)),
        "whole box, attention": float(_kept(question, box) > 0.999),
        "whole box, random": float(_kept(question, _random(box, rng)) > 0.999),
        "crop area": (box[2] - box[0]) * (box[3] - box[1]),
    }


def _clip(question: Question, candidates: int) -> Clip:
    def size_for(height: int, width: int) -> tuple[int, int]:
        return shown_size(height, width, max_pixels=7056, factor=28)

    return read_candidates(question.video, candidates=candidates, clip=None, size_for=size_for)


def _inside(times: np.ndarray, span: Span) -> np.ndarray:
    return (times >= span[0]) & (times < span[1])


def _recall(times: np.ndarray, spans: tuple[Span, ...]) -> float:
    return float(np.mean([_inside(times, span).any() for span in spans]))


def _share(times: np.ndarray, spans: tuple[Span, ...]) -> float:
    return float(np.any([_inside(times, span) for span in spans], axis=0).mean())


def _random(box: Box, rng: np.random.Generator) -> Box:
    """A box of the same size anywhere."""
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = rng.uniform(0, 1 - width) if width < 1 else 0.0, rng.uniform(0, 1 - height) if height < 1 else 0.0
    return x, y, x + width, y + height


def _kept(question: Question, box: Box) -> float:
    """Mean share of the evidence boxes' area inside the box."""
    kept = []
    for region in question.evidence.regions:
        x1, y1, x2, y2 = region.box
        wide, tall = min(x2, box[2]) - max(x1, box[0]), min(y2, box[3]) - max(y1, box[1])
        kept.append(max(0.0, wide) * max(0.0, tall) / ((x2 - x1) * (y2 - y1)))
    return float(np.mean(kept))


if __name__ == "__main__":
    main()
