"""Reward parts of one answer: accuracy, temporal IoU, format, length. Any text gives numbers, never an exception. Pure arithmetic, but for formulas: a process
beside this one compares them, within a deadline (`rlvid.reading.maths`).

Temporal-RLT's dual reward [S]: a discrete signal for semantic correctness and a continuous one for temporal grounding. The
temporal IoU is [R]; mean relative accuracy is VSI-Bench's, 1 - relative error Video-R1's; the length part is DAPO's; named
parts, their weighted sum and everything about reading answers are this project's decisions [D].

No reply earns more on average, over what the truth may be, than its best single guess [D]: a reply is read as one option, one number, one text. Only graded
parts could pay for a mixture: `rouge_l` and all IoUs are 1 minus a distance that keeps the triangle inequality, so that of two truths, however
likely, no reply between them beats the likelier; a reply of several spans is worth their mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlvid.algo.tracks import iou, spatio_temporal_iou
from rlvid.reading import answers, boxes, choices, maths, spans
from rlvid.types import Question, Score, Span, Task

SENTENCE_WORDS = 5
"""From so many words on (articles aside) a true answer is a sentence, and a reply is graded by its words [D]; shorter ones are right or wrong."""
_CARRIERS = frozenset(
    ("it", "its", "is", "was", "are", "were", "be", "there", "this", "that", "he", "she", "they", "his", "her", "their", "you", "we", "i", "can", "see", "in")
    + ("video", "clip", "shown", "visible")
)
"""Words that a short answer may come with: "There are 3 of them in the video" [D]."""
_PERCENT = re.compile(r"%|\bper ?cent|百分", re.IGNORECASE)
RELATIVE_ERRORS_PERCENT = tuple(range(50, 0, -5))
"""100 x (1 - theta) for theta = 0.50, 0.55, ..., 0.95."""


@dataclass(frozen=True)
class Marking:
    """What the config says about answers that are numbers or formulas: `numeric_tolerance` is a relative error, see `relative_accuracy` for `regression`."""

    numeric_tolerance: float = 0.0
    math_deadline_s: float = 2.0
    regression: Literal["mean_relative_accuracy", "relative_error"] = "mean_relative_accuracy"


def temporal_iou(predicted: Span | None, truth: Span | Sequence[Span]) -> float:
    """max(0, min(ends) - max(starts)) / (max(ends) - min(starts)) in 0..1 [R]; with several truth spans the best-matching one [D].

    0 for a malformed span (none, an end before its start, not finite). Two equal instants give 1 [D].
    """
    truths = [truth] if truth and isinstance(truth[0], (int, float)) else list(truth)
    return max((_iou(predicted, one) for one in truths), default=0.0)  # type: ignore[arg-type]


def spans_iou(predicted: Sequence[Span], question: Question) -> float:
    """Temporal IoU of a reply's spans, 0..1. Asked for any of the true spans: the mean of theirs, each with its best; for all: of the sets as wholes [D]."""
    if question.span_mode == "all":
        return set_iou(predicted, question.spans)
    return sum(temporal_iou(span, question.spans) for span in predicted) / len(predicted) if predicted else 0.0


def set_iou(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """Length that both sets of spans cover over the length that either does, 0..1 [D]. One true instant needs that instant."""
    if len(predicted) == len(truth) == 1:
        return _iou(predicted[0], truth[0])
    both = [*predicted, *truth]
    if not predicted or not truth or not all(map(_whole, both)):
        return 0.0
    either, one, other = _covered(both), _covered(predicted), _covered(truth)
    return (one + other - either) / either if either > 0 else 0.0


def _covered(spans: Sequence[Span]) -> float:
    """Seconds that lie in at least one of the spans."""
    covered, reached = 0.0, -math.inf
    for start_s, end_s in sorted(spans):
        covered += max(0.0, end_s - max(start_s, reached))
        reached = max(reached, end_s)
    return covered


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
    """What the zero-signal test and repair look at: the accuracy part, or for a place or a time 1 from `iou_threshold` on [D]."""
    if graded := GRADED.get(question.task):
        return float(score.parts[graded] >= iou_threshold)
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
    """The smaller of ROUGE-L's precision and recall, 0..1: L / max(|predicted|, |truth|), L the longest common subsequence of words.

    1 minus it is a metric (Bakkelund 2009). ROUGE-L's F1 is none, and pays for both of two guesses: "the man opens closes the door" has 0.91 with either door,
    one guess 0.9 on average. rapidfuzz counts; the package rouge-score takes 3.4 s to import and 5.5 s for a long text, and its words are a to z only.
    """
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(predicted, truth) / max(len(predicted), len(truth)) if predicted and truth else 0.0


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
    """1 for the right option, or for exactly the set of right ones where the question asks for all."""
    if question.answers:
        found, reason = choices.chosen(answer, question.options)
        return {"accuracy": float(found is not None and {question.options[index] for index in found} == set(question.answers))}, reason
    said = answers.unwrapped(answer)
    index, reason = choices.choice(said, question.options)
    if index is None and question.options.count(question.answer or "") > 1 and answers.plain(said) == answers.plain(question.answer or ""):
        return {"accuracy": 1.0}, ""  # the right text stands under two letters
    return {"accuracy": float(index is not None and question.options[index] == question.answer)}, reason


def _open(question: Question, answer: str, marking: Marking) -> Read:
    said = answers.unwrapped(answer)
    accuracy = max((open_accuracy(said, truth, question.question) for truth in question.references), default=0.0)
    return {"accuracy": accuracy}, "" if accuracy or answers.plain(said) else "the answer has no words"


def open_accuracy(said: str, truth: str, asked: str = "") -> float:
    """0..1 [D]. A short truth is right or wrong: the same words in any case, without articles, punctuation and lead-in ("The answer is"), or the same words
    beside some that say nothing new ("The ball is red." to "What colour is the ball?"). A sentence is graded by `rouge_l`, and is worth nothing where one
    of the two negates or doubts and the other does not.
    """
    said = answers.bare(said)
    if answers.spaced(said) == answers.spaced(truth):
        return 1.0  # also where the truth is an article or a sign: "A", "+"
    own, readings = answers.plain(truth).split(), [answers.plain(said).split(), answers.plain(choices.without_lead_in(said)).split()]
    if own in readings or _only_says(readings[1], own, answers.plain(asked).split()):
        return float(bool(own))
    if len(own) < SENTENCE_WORDS or _doubts(said) != _doubts(truth):
        return 0.0
    return max(rouge_l(reading, own) for reading in readings)


def _only_says(said: Sequence[str], truth: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether a reply holds the truth, and besides only carriers and words of the question. Not where the truth itself stands in the question."""
    at = next((at for at in range(len(said) - len(truth) + 1) if list(said[at : at + len(truth)]) == list(truth)), None)
    if at is None or not truth or set(truth) <= _CARRIERS | set(asked):
        return False
    rest = {*said[:at], *said[at + len(truth) :]}
    return rest <= _CARRIERS | set(asked) and choices.NEGATIONS.isdisjoint(rest) and choices.HEDGES.isdisjoint(rest)


def _doubts(text: str) -> tuple[bool, frozenset[str]]:
    """Whether a text negates, and the words by which it leaves something open."""
    words = answers.words(text)
    negated = any(word in choices.NEGATIONS or (word.endswith("nt") and word[:-2] in _AUXILIARIES) for word in words)
    return negated, choices.HEDGES.intersection(words)


_AUXILIARIES = frozenset(["is", "are", "was", "were", "does", "did", "do", "ca", "could", "wo", "would", "should", "must", "has", "have", "had"])


def _numeric(question: Question, answer: str, marking: Marking) -> Read:
    """1 for the same number, within the tolerance."""
    return _best(question, answer, lambda value, truth: float(abs(value - truth) <= (marking.numeric_tolerance + 1e-6) * abs(truth) + 1e-9))


def _regression(question: Question, answer: str, marking: Marking) -> Read:
    return _best(question, answer, mean_relative_accuracy if marking.regression == "mean_relative_accuracy" else relative_accuracy)


def _math(question: Question, answer: str, marking: Marking) -> Read:
    """1 for the same formula, or the same number within the tolerance: by math-verify, the whole answer being one formula."""
    reasons = []
    for truth in question.references:
        how = {"tolerance": marking.numeric_tolerance, "deadline_s": marking.math_deadline_s}
        right, reason = maths.equal(answer, truth, in_percent=bool(_PERCENT.search(question.question)), **how)
        if right:
            return {"accuracy": 1.0}, ""
        reasons.append(reason)
    return {"accuracy": 0.0}, next(filter(None, reasons), "")


def _best(question: Question, answer: str, measure: Callable[[float, float], float]) -> Read:
    """The measure of the one number said against the truth, or the best of several. What a tolerance allows is relative to the truth alone; a millionth more
    for what floats make of 0.1 and of its very edge."""
    pairs = [number_pair(question, answer, truth) for truth in question.references]
    values = [measure(said, truth) for said, truth, _ in pairs if said is not None and truth is not None]
    return {"accuracy": max(values, default=0.0)}, "" if values else pairs[0][2] if pairs else "the question has no answer"


def number_pair(question: Question, answer: str, truth: str) -> tuple[float | None, float | None, str]:
    """(the number said, the true one, why there is none), in the truth's unit. A reply has one reading, whatever the truth [D]: asked for a percentage, all
    numbers are percentages; else 50% is 0.5, and of a bare reply to a true percentage only one below 1 is a share of 1."""
    said, reason = answers.number(answers.unwrapped(answer))
    wanted, why = answers.number(truth)
    in_percent = answers.is_percentage(answer), answers.is_percentage(truth)
    if said is not None and in_percent[0] != in_percent[1] and not _PERCENT.search(question.question):
        said = said / 100 if in_percent[0] else said * 100 if abs(said) < 1 else said
    return said, wanted, reason or (why and f"the question's own answer: {why}")


def _temporal_grounding(question: Question, answer: str, marking: Marking) -> Read:
    found, reason = spans.spans(answer)
    return {"temporal_iou": spans_iou(found, question)}, reason


def _grounded_qa(question: Question, answer: str, marking: Marking) -> Read:
    words, found, reason = spans.answer_and_spans(answer, question.options)
    read, why = (_multiple_choice if question.options else _open)(question, words, marking)
    return read | {"temporal_iou": spans_iou(found, question)}, "; ".join(part for part in (why, reason) if part)


def _spatial_grounding(question: Question, answer: str, marking: Marking) -> Read:
    found, reason = boxes.box(answer)
    return {"iou": iou(found, question.box) if found and question.box else 0.0}, reason


def _tracking(question: Question, answer: str, marking: Marking) -> Read:
    found, reason = boxes.track(answer)
    return {"st_iou": spatio_temporal_iou(found, question.track) if found and question.track else 0.0}, reason


def _spatio_temporal_grounding(question: Question, answer: str, marking: Marking) -> Read:
    """The times count by themselves, too: those that the reply names, or else those of its boxes."""
    found, reason = boxes.track(answer)
    if found is None:
        return {}, reason
    return {"temporal_iou": spans_iou([found.extent], question), "st_iou": spatio_temporal_iou(found, question.track) if question.track else 0.0}, ""


_SCORERS: dict[Task, Callable[[Question, str, Marking], Read]] = {
    "multiple_choice": _multiple_choice,
    "open": _open,
    "numeric": _numeric,
    "regression": _regression,
    "math": _math,
    "temporal_grounding": _temporal_grounding,
    "grounded_qa": _grounded_qa,
    "spatial_grounding": _spatial_grounding,
    "tracking": _tracking,
    "spatio_temporal_grounding": _spatio_temporal_grounding,
}
PARTS: dict[Task, tuple[str, ...]] = {
    "multiple_choice": ("accuracy", "format"),
    "open": ("accuracy", "format"),
    "numeric": ("accuracy", "format"),
    "regression": ("accuracy", "format"),
    "math": ("accuracy", "format"),
    "temporal_grounding": ("temporal_iou", "format"),
    "grounded_qa": ("accuracy", "temporal_iou", "format"),
    "spatial_grounding": ("iou", "format"),
    "tracking": ("st_iou", "format"),
    "spatio_temporal_grounding": ("temporal_iou", "st_iou", "format"),
}
"""The reward parts that `score` gives for each task. The length of an answer is the sampler's to know, see `length_penalty`."""
GRADED: dict[Task, str] = {
    "temporal_grounding": "temporal_iou",
    "spatial_grounding": "iou",
    "tracking": "st_iou",
    "spatio_temporal_grounding": "st_iou",
}
"""The part that says how right an answer is, of tasks without an accuracy."""
