"""Which questions teach something: the rules of variance-aware selection on the answers to one question. Pure.

Temporal-RLT [S]: repeated inference keeps the samples that give a learning signal. QA keeps mixed right and wrong answers,
grounding keeps a high-variance temporal IoU with a good best one [R]; the defaults of METHODS and the rest are [D]:

- multiple choice, open, numeric, regression: kept unless all accuracies are equal. For right-or-wrong answers that is
  0 < right < repeats; graded ones (ROUGE, relative accuracy) are kept where they differ at all.
- temporal grounding: kept where std(tIoU) >= iou_std and max(tIoU) >= iou_max, population standard deviation; boxes and tracks alike, by their IoU [D].
- grounded QA: kept where either rule keeps it, because each of the two rewards pushes on its own.
- share: of the questions of one source that pass, those with the highest standard deviation of the reward are kept, as many
  as `share` of all its questions. A tie goes to the question that stands first.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvid.algo.rewards import GRADED
from rlvid.types import Group, Task

ALL_RIGHT, ALL_WRONG, ALL_EQUAL = "all answers right", "all answers wrong", "all answers equally good"
IOU_EVEN, IOU_POOR = "temporal IoU hardly varies", "no answer finds the time"
LESS_SIGNAL = "less signal than others"


@dataclass(frozen=True)
class Rules:
    """Thresholds for grounding, and the share of a source's questions that may be kept; all 0..1."""

    iou_std: float = 0.1
    iou_max: float = 0.5
    share: float = 1.0


@dataclass(frozen=True)
class Answers:
    """What repeated inference gave for one question: one number per answer; empty where the task has no such part."""

    task: Task
    accuracies: tuple[float, ...] = ()
    ious: tuple[float, ...] = ()

    def signal(self) -> float:
        """Population standard deviation of the answers' summed parts: how much a group's rewards differ."""
        return statistics.pstdev(map(sum, zip(*(part for part in (self.accuracies, self.ious) if part), strict=True)))

    def statistics(self) -> dict[str, Any]:
        """How many answers, how many of them fully right, and mean, population std and max of each part."""
        row: dict[str, Any] = {"answers": max(len(self.accuracies), len(self.ious))}
        if self.accuracies:
            row["right"] = sum(value == 1 for value in self.accuracies)
        for part, values in (("accuracy", self.accuracies), (graded_part(self.task), self.ious)):
            if values:
                row |= {f"{part}_mean": statistics.fmean(values), f"{part}_std": statistics.pstdev(values), f"{part}_max": max(values)}
        return row


def graded_part(task: Task) -> str:
    """The IoU that answers of a task have, if any."""
    return GRADED.get(task, "temporal_iou")


def answers_of(group: Group) -> Answers:
    """All K x M unaided answers to a question, variant by variant: what a repair replaced counts as it was."""
    first = {(repair.variant, repair.sample): repair.first_score for repair in group.repairs if repair.chosen}
    parts = [first.get((variant, sample), score).parts for variant, row in enumerate(group.scores_KM) for sample, score in enumerate(row)]
    accuracies, ious = (tuple(part[name] for part in parts if name in part) for name in ("accuracy", graded_part(group.question.task)))
    return Answers(group.question.task, accuracies, ious)


def drop_reason(answers: Answers, rules: Rules) -> str:
    """Why the question teaches nothing; empty where it is kept. ValueError where there is no answer to judge."""
    if answers.task in GRADED:
        return _even_ious(answers.ious, rules)
    reason = _equal_accuracies(answers.accuracies)
    if answers.task == "grounded_qa" and reason:
        grounding = _even_ious(answers.ious, rules)
        return f"{reason}, {grounding}" if grounding else ""
    return reason


def beyond_share(signals: Sequence[tuple[float, int]], questions: int, share: float) -> set[int]:
    """Places of the questions that passed but have to go. `signals`: (signal, place) of those that passed, of the source's `questions` in all."""
    ranked = sorted(signals, key=lambda one: (-one[0], one[1]))
    return {place for _, place in ranked[max(1, round(share * questions)) :]}


def _equal_accuracies(accuracies: Sequence[float]) -> str:
    if not accuracies:
        raise ValueError("accuracies: at least one answer is needed")
    if any(value != accuracies[0] for value in accuracies):
        return ""
    return {1.0: ALL_RIGHT, 0.0: ALL_WRONG}.get(accuracies[0], ALL_EQUAL)


def _even_ious(ious: Sequence[float], rules: Rules) -> str:
    if not ious:
        raise ValueError("ious: at least one answer is needed")
    if max(ious) < rules.iou_max:
        return IOU_POOR
    # A hair is forgiven: the standard deviation of 0.4 and 0.6 is 0.09999999999999998 in floats.
    return IOU_EVEN if statistics.pstdev(ious) < rules.iou_std - 1e-9 else ""
