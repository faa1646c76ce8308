"""Reward parts of one answer: accuracy, temporal IoU, format, length. Pure; any text gives numbers, never an exception.

Temporal-RLT's dual reward [S]: a discrete signal for semantic correctness and a continuous one for temporal grounding. The
temporal IoU is [R]; mean relative accuracy is VSI-Bench's, 1 - relative error Video-R1's; the length part is DAPO's; named
parts, their weighted sum and everything about reading answers are this project's decisions [D].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlvid.reading import answers, choices, spans
from rlvid.types import Question, Score, Span, Task

RELATIVE_ERRORS_PERCENT = tuple(range(50, 0, -5))
"""100 x (1 - theta) for theta = 0.50, 0.55, ..., 0.95."""


@dataclass(frozen=True)
class Marking:
    """What the config says about answers that are numbers: `numeric_tolerance` is a relative error, see `relative_accuracy` for `regression`."""

    numeric_tolerance: float = 0.0
    regression: Literal["mean_relative_accuracy", "relative_error"] = "mean_relative_accuracy"


def temporal_iou(predicted: Span | None, truth: Span | Sequence[Span]) -> float:
    """max(0, min(ends) - max(starts)) / (max(ends) - min(starts)) in 0..1 [R]; with several truth spans the best-matching one [D].

    0 for a malformed span (none, an end before its start, not finite). Two equal instants give 1 [D].
    """
    truths = [truth] if truth and isinstance(truth[0], (int, float)) else list(truth)
    return max((_iou(predicted, one) for one in truths), default=0.0)  # type: ignore[arg-type]


def score(question: Question, text: str, marking: Marking = Marking()) -> Score:
    """The task's parts of one reply, each 0..1. `reason` says why a part is 0 where the answer could not be read.

    A reply names times on the clock that the model was told: the truth is brought to it.
    """
    question = question.as_told()
    parts = {part: 0.0 for part in PARTS[question.task]}
    parts["format"] = float(answers.well_formed(text))
    answer, reason = answers.tagged_answer(text)
    if answer is None:
        return Score(parts, reason)
    read, reason = _SCORERS[question.task](question, answer, marking)
    return Score(parts | read, reason)


def total(score: Score, weights: Mapping[str, float]) -> float:
    """Sum of weight x part over the named parts; a part that this task does not have counts nothing [D]."""
    return float(sum(weight * score.parts.get(part, 0.0) for part, weight in weights.items()))


def correctness(question: Question, score: Score, iou_threshold: float) -> float:
    """What the zero-signal test and repair look at: the accuracy part, or for temporal grounding 1 from `iou_threshold` on [D]."""
    if question.task == "temporal_grounding":
        return float(score.parts["temporal_iou"] >= iou_threshold)
    return score.parts["accuracy"]


def mean_relative_accuracy(predicted: float, truth: float) -> float:
    """VSI-Bench: mean over theta in 0.50, 0.55, ..., 0.95 of [ |predicted - truth| / |truth| < 1 - theta ]. A truth of 0 needs exactly 0 [D]."""
    if truth == 0:
        return float(predicted == 0)
    # Rounded, so that 0.9 against 1 (0.09999999999999998 in floats) is not below 10 %.
    error_percent = round(100 * abs(predicted - truth) / abs(truth), 9)
    return sum(error_percent < limit for limit in RELATIVE_ERRORS_PERCENT) / len(RELATIVE_ERRORS_PERCENT)


def relative_accuracy(predicted: float, truth: float) -> float:
    """1 - min(1, |predicted - truth| / |truth|), Video-R1's regression reward [R: its released code]. A truth of 0 needs exactly 0 [D]."""
    if truth == 0:
        return float(predicted == 0)
    return 1.0 - min(1.0, abs(predicted - truth) / abs(truth))


def length_penalty(tokens: int, *, limit: int, margin: float) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13 [S]), -1..0: 0 up to (1 - margin) x limit tokens, then a straight line to -1 at `limit`.

    `margin` in 0..1, not 0: DAPO's L_cache / L_max, 0.2 there. An answer cut off at the limit has -1.
    """
    return max(-1.0, min(0.0, (limit * (1 - margin) - tokens) / (limit * margin)))


def rouge_l(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words: 2 L / (|predicted| + |truth|)."""
    if not predicted or not truth:
        return 0.0
    row = [0] * (len(truth) + 1)
    for word in predicted:
        diagonal = 0
        for at, other in enumerate(truth, start=1):
            diagonal, row[at] = row[at], diagonal + 1 if word == other else max(row[at], row[at - 1])
    return 2 * row[-1] / (len(predicted) + len(truth))


def _iou(predicted: Span | None, truth: Span) -> float:
    if predicted is None or not (_whole(predicted) and _whole(truth)):
        return 0.0
    overlap = min(predicted[1], truth[1]) - max(predicted[0], truth[0])
    union = max(predicted[1], truth[1]) - min(predicted[0], truth[0])
    return max(0.0, overlap) / union if union > 0 else 1.0


def _whole(span: Span) -> bool:
    return len(span) == 2 and all(math.isfinite(edge) for edge in span) and span[0] <= span[1]


Read = tuple[dict[str, float], str]


def _multiple_choice(question: Question, answer: str, marking: Marking) -> Read:
    index, reason = choices.choice(answers.unwrapped(answer), question.options)
    right = index is not None and question.options[index] == question.answer
    return {"accuracy": float(right)}, reason


def _open(question: Question, answer: str, marking: Marking) -> Read:
    """1 for the same words in any case, without articles and punctuation; else ROUGE-L F1."""
    said, truth = answers.unwrapped(answer), answers.plain(question.answer or "").split()
    if answers.spaced(answers.bare(said)) == answers.spaced(question.answer or ""):
        return {"accuracy": 1.0}, ""  # also where the truth is an article or a sign: "A", "+"
    if not answers.plain(said):
        return {"accuracy": 0.0}, "the answer has no words"
    readings = (said, choices.without_lead_in(said))
    return {"accuracy": max(rouge_l(answers.plain(reading).split(), truth) for reading in readings)}, ""


def _numeric(question: Question, answer: str, marking: Marking) -> Read:
    """1 for the same number, within the tolerance; a percentage matches a bare number as itself or as its hundredth."""
    said, truth, reason = _pair(question, answer)
    if said is None or truth is None:
        return {"accuracy": 0.0}, reason
    bare_and_percent = answers.is_percentage(answer) != answers.is_percentage(question.answer or "")
    scaled = said / 100 if answers.is_percentage(answer) else said * 100
    readings = (said, scaled) if bare_and_percent else (said,)
    # Relative to the truth alone; a millionth more for what floats make of 0.1 and of a tolerance's very edge.
    allowed = (marking.numeric_tolerance + 1e-6) * abs(truth) + 1e-9
    return {"accuracy": float(any(abs(reading - truth) <= allowed for reading in readings))}, ""


def _regression(question: Question, answer: str, marking: Marking) -> Read:
    said, truth, reason = _pair(question, answer)
    if said is None or truth is None:
        return {"accuracy": 0.0}, reason
    measure = mean_relative_accuracy if marking.regression == "mean_relative_accuracy" else relative_accuracy
    return {"accuracy": measure(said, truth)}, ""


def _pair(question: Question, answer: str) -> tuple[float | None, float | None, str]:
    said, reason = answers.number(answers.unwrapped(answer))
    truth, truth_reason = answers.number(question.answer or "")
    return said, truth, reason or (truth_reason and f"the question's own answer: {truth_reason}")


def _temporal_grounding(question: Question, answer: str, marking: Marking) -> Read:
    found, reason = spans.span(answer)
    return {"temporal_iou": temporal_iou(found, question.spans)}, reason


def _grounded_qa(question: Question, answer: str, marking: Marking) -> Read:
    words, found, reason = spans.answer_and_span(answer, question.options)
    read, why = (_multiple_choice if question.options else _open)(question, words, marking)
    return read | {"temporal_iou": temporal_iou(found, question.spans)}, "; ".join(part for part in (why, reason) if part)


_SCORERS: dict[Task, Callable[[Question, str, Marking], Read]] = {
    "multiple_choice": _multiple_choice,
    "open": _open,
    "numeric": _numeric,
    "regression": _regression,
    "temporal_grounding": _temporal_grounding,
    "grounded_qa": _grounded_qa,
}
PARTS: dict[Task, tuple[str, ...]] = {
    "multiple_choice": ("accuracy", "format"),
    "open": ("accuracy", "format"),
    "numeric": ("accuracy", "format"),
    "regression": ("accuracy", "format"),
    "temporal_grounding": ("temporal_iou", "format"),
    "grounded_qa": ("accuracy", "temporal_iou", "format"),
}
"""The reward parts that `score` gives for each task. The length of an answer is the sampler's to know, see `length_penalty`."""
