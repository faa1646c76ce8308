"""The headline numbers of each benchmark from answers to its questions. Pure: questions, texts and reward parts in, shares (0..1) out.

A question's `source` is `BENCHMARK/CATEGORY` or `BENCHMARK/CATEGORY/CATEGORY`, as `rlvid data convert` writes it. Definitions are those of the benchmarks' own
code and of lmms-eval's tasks; each function names where this project differs. How an answer is read is this project's own (one <answer> tag), and a
question that could not be read counts as wrong everywhere.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlvid.algo.rewards import number_pair, open_accuracy, temporal_iou
from rlvid.reading import answers, spans
from rlvid.types import Question, Span

IOU_THRESHOLDS = (0.3, 0.5, 0.7)
GROUNDED_THRESHOLDS = (0.3, 0.5)
MAP_THRESHOLDS = tuple(round(0.5 + 0.05 * at, 2) for at in range(10))
MRA_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Answered:
    """One question, the model's whole reply, the reward parts that `rewards.score` gave for it, and why it lost one."""

    question: Question
    text: str
    parts: Mapping[str, float]
    reason: str = ""
    truth_hidden: bool = False
    """The view shows no frame of a truth span."""
    duration_s: float = 0.0
    """Of the video; 0 where it is not known."""

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.question.source.split("/")[1:])


Metrics = dict[str, float]


def benchmark_scores(answered: Iterable[Answered]) -> Metrics:
    """`BENCHMARK/METRIC` for every benchmark that occurs; questions of other sources are left out."""
    by_benchmark: dict[str, list[Answered]] = {}
    for one in answered:
        by_benchmark.setdefault(one.question.source.split("/")[0], []).append(one)
    found = {name: BENCHMARKS[name](items) for name, items in sorted(by_benchmark.items()) if name in BENCHMARKS}
    return {f"{name}/{metric}": value for name, metrics in found.items() for metric, value in metrics.items()}


def videomme(items: Sequence[Answered]) -> Metrics:
    """Accuracy over all questions and by length of the video (short, medium, long)."""
    return _accuracy(items, _right, lambda one: one.categories[:1])


def tempcompass(items: Sequence[Answered]) -> Metrics:
    """Accuracy over all questions, by way of asking, by dimension, and by dimension within a way of asking."""
    return _accuracy(items, _right, lambda one: (*one.categories[:2], "_".join(one.categories[:2])))


def perceptiontest(items: Sequence[Answered]) -> Metrics:
    """Top-1 accuracy, and by area and kind of reasoning."""
    return _accuracy(items, _right, lambda one: one.categories[:2])


def mvbench(items: Sequence[Answered]) -> Metrics:
    """Accuracy by task, and their mean (the published tasks have 200 questions each, so that it is also the mean over questions)."""
    by_task = _accuracy(items, _right, lambda one: one.categories[:1])
    return by_task | {"accuracy": _mean([value for name, value in by_task.items() if name != "accuracy"])}


def videommmu(items: Sequence[Answered]) -> Metrics:
    """Accuracy over all questions and by track; open answers by `open_match`, as the benchmark judges them."""
    return _accuracy(items, _right_or_open_match, lambda one: one.categories[:1])


def mmvu(items: Sequence[Answered]) -> Metrics:
    """Accuracy over all questions and by group of subjects. The benchmark asks a judge model about open answers; here `open_match` decides [D]."""
    return _accuracy(items, _right_or_open_match, lambda one: tuple(MMVU_GROUPS[name] for name in one.categories[:1] if name in MMVU_GROUPS))


def vsibench(items: Sequence[Answered]) -> Metrics:
    """Accuracy of the multiple-choice types, mean relative accuracy of the numeric ones, and the mean over the eight types.

    The three difficulties of relative direction count as one type. Types that do not occur are left out of the mean [D].
    """
    by_type: dict[str, list[float]] = {}
    for one in items:
        numeric = one.question.task in ("regression", "numeric")
        by_type.setdefault("_".join(one.categories[:1]), []).append(_official_mra(one) if numeric else _right(one))
    means = {name: _mean(values) for name, values in by_type.items()}
    directions = [means.pop(name) for name in sorted(means) if name.startswith("object_rel_direction_")]
    if directions:
        means["object_rel_direction"] = _mean(directions)
    named = {f"{name}_{'mra' if name in VSIBENCH_NUMERIC else 'accuracy'}": value for name, value in sorted(means.items())}
    return {"overall": _mean(list(means.values()))} | named


def grounding(items: Sequence[Answered]) -> Metrics:
    """R1@0.3, R1@0.5, R1@0.7: share of questions whose one answer reaches that IoU; mIoU: the mean IoU (0 where no span could be read)."""
    ious = [one.parts.get("temporal_iou", 0.0) for one in items]
    return {f"R1@{limit}": _share(ious, limit) for limit in IOU_THRESHOLDS} | {"mIoU": _mean(ious)}


def nextgqa(items: Sequence[Answered]) -> Metrics:
    """Acc@QA, Acc@GQA (answer right and IoP at least 0.5), mIoP, IoP@0.3, IoP@0.5, mIoU, IoU@0.3, IoU@0.5.

    IoP is the overlap's share of the predicted span; with several true spans the best counts, for IoP and IoU each on its own.
    """
    grounded = [one for one in items if one.question.spans]
    metrics = _accuracy(items, _right, lambda one: one.categories[:1])
    metrics = {name.replace("accuracy", "Acc@QA"): value for name, value in metrics.items()}
    if not grounded:
        return metrics
    iops = [_best_iop(one) for one in grounded]
    ious = [one.parts.get("temporal_iou", 0.0) for one in grounded]
    both = [_right(one) * (iop >= 0.5) for one, iop in zip(grounded, iops, strict=True)]
    metrics |= {"Acc@GQA": _mean(both), "mIoP": _mean(iops), "mIoU": _mean(ious)}
    return metrics | {f"{name}@{limit}": _share(values, limit) for name, values in (("IoP", iops), ("IoU", ious)) for limit in GROUNDED_THRESHOLDS}


def mean_over_kinds(items: Sequence[Answered]) -> Metrics:
    """Accuracy by kind of task, and their mean `M-Avg`, which MLVU reports (arXiv 2406.04264; kinds that do not occur are left out of it)."""
    by_kind = _accuracy(items, _right, lambda one: one.categories[:1])
    return by_kind | {"M-Avg": _mean([value for name, value in by_kind.items() if name != "accuracy"])}


def by_category(items: Sequence[Answered]) -> Metrics:
    """Accuracy over all questions and by every category that a question has.

    So report Video-Holmes (kind of question), LongVideoBench (length, category), LVBench (a question may be of several kinds), MotionBench (kind), MINERVA
    (kind, split, domain) and LongVideo-Reason.
    """
    return _accuracy(items, _right, lambda one: one.categories)


def activitynet_rtl(items: Sequence[Answered]) -> Metrics:
    """mIoU and P@0.5 as LITA's evaluation reports them: the mean over videos of the mean over a video's questions, where a reply without a span means the
    whole video (arXiv 2403.19046, NVlabs/LITA)."""
    by_video: dict[str, list[float]] = {}
    for one in items:
        found = _windows(one)[:1] or ([(0.0, one.duration_s)] if one.duration_s else [])
        by_video.setdefault(one.question.video, []).append(max((temporal_iou(span, one.question.spans) for span in found), default=0.0))
    return {"mIoU": _mean([_mean(ious) for ious in by_video.values()]), "P@0.5": _mean([_share(ious, 0.5) for ious in by_video.values()])}


def qvhighlights(items: Sequence[Answered]) -> Metrics:
    """R1@0.5, R1@0.7, mIoU (of the first window; the best of the true ones counts), and mAP over IoU 0.5 ... 0.95, mAP@0.5, mAP@0.75, as moment_detr's
    evaluation defines them (arXiv 2107.09609). The windows of a reply are ranked as they stand in it.
    """
    found = [_windows(one) for one in items]
    ious = [temporal_iou(windows[0], one.question.spans) if windows else 0.0 for windows, one in zip(found, items, strict=True)]
    pairs = [(windows, one.question.spans) for windows, one in zip(found, items, strict=True)]
    aps = {limit: _mean([average_precision(windows, truths, limit) for windows, truths in pairs]) for limit in MAP_THRESHOLDS}
    return {
        **{f"R1@{limit}": _share(ious, limit) for limit in (0.5, 0.7)},
        "mIoU": _mean(ious),
        "mAP": _mean(list(aps.values())),
        **{f"mAP@{limit}": aps[limit] for limit in (0.5, 0.75)},
    }


def open_match(answer: str, truth: str, asked: str = "") -> bool:
    """Whether an open answer is right: the same number to two decimals, or the truth as `rewards.open_accuracy` reads it.

    MMMU's rule, which Video-MMMU uses, also takes any of several numbers, and a truth anywhere in the answer, in a list of guesses too ("red green blue"),
    after a "not" and inside longer words ("cat" in "category"); none of these counts here [D].
    """
    said = answers.unwrapped(answer)
    wanted, _ = answers.number(truth) if re.fullmatch(r"[-+\d.,\s]+", truth) else (None, "")
    if wanted is not None:
        number, _ = answers.number(said)
        return number is not None and round(number, 2) == round(wanted, 2)
    return open_accuracy(said, truth, asked) == 1.0


def average_precision(predicted: Sequence[Span], truths: Sequence[Span], limit: float) -> float:
    """Area under the interpolated curve of precision over recall: each window, in order, takes the free truth that it overlaps most, from IoU `limit` on."""
    free, hits = list(truths), []
    for window in predicted:
        best = max(free, key=lambda truth: temporal_iou(window, truth), default=None)
        hits.append(best is not None and temporal_iou(window, best) >= limit)
        if best is not None and hits[-1]:
            free.remove(best)
    if not any(hits):
        return 0.0
    reached = np.cumsum(hits)
    precision = np.maximum.accumulate((reached / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(precision[np.array(hits)].sum() / len(truths))


def iop(predicted: Span, truth: Span) -> float:
    """Overlap over the predicted span's length, 0..1; an instant counts 1 inside the truth and 0 outside."""
    if predicted[0] == predicted[1]:
        return float(truth[0] <= predicted[0] <= truth[1])
    return max(0.0, min(predicted[1], truth[1]) - max(predicted[0], truth[0])) / (predicted[1] - predicted[0])


def official_mra(predicted: float, truth: float) -> float:
    """Mean relative accuracy as VSI-Bench's code computes it: an error of exactly 1 - theta still counts, which the paper's formula (and the reward) excludes.

    A truth of 0 needs exactly 0 [D].
    """
    if truth == 0:
        return float(predicted == 0)
    return float((abs(predicted - truth) / abs(truth) <= 1 - MRA_THRESHOLDS).mean())


def _official_mra(one: Answered) -> float:
    answer, _ = answers.tagged_answer(one.text)
    pairs = [number_pair(one.question, answer, truth) for truth in one.question.references] if answer else []
    return max((official_mra(said, truth) for said, truth, _ in pairs if said is not None and truth is not None), default=0.0)


def _right(one: Answered) -> float:
    return float(one.parts.get("accuracy", 0.0) >= 1.0)


def _right_or_open_match(one: Answered) -> float:
    if one.question.task != "open":
        return _right(one)
    answer, _ = answers.tagged_answer(one.text)
    return float(bool(answer) and any(open_match(answer or "", truth, one.question.question) for truth in one.question.references))


def _best_iop(one: Answered) -> float:
    answer, _ = answers.tagged_answer(one.text)
    if answer is None:
        return 0.0
    found = spans.answer_and_spans(answer, one.question.options)[1] if one.question.task == "grounded_qa" else spans.spans(answer)[0]
    return _mean([max(iop(span, truth) for truth in one.question.as_told().spans) for span in found])


def _windows(one: Answered) -> list[Span]:
    """Spans of the answer, in its order."""
    answer, _ = answers.tagged_answer(one.text)
    return list(spans.spans(answer)[0]) if answer else []


def _accuracy(items: Sequence[Answered], right: Callable[[Answered], float], categories: Callable[[Answered], Iterable[str]]) -> Metrics:
    """`accuracy`, and `accuracy_CATEGORY` for each category of an answer."""
    values: dict[str, list[float]] = {"accuracy": []}
    for one in items:
        values["accuracy"].append(right(one))
        for category in categories(one):
            values.setdefault(f"accuracy_{category}", []).append(values["accuracy"][-1])
    return {name: _mean(numbers) for name, numbers in sorted(values.items())}


def _share(values: Sequence[float], limit: float) -> float:
    return sum(value >= limit for value in values) / len(values)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


VSIBENCH_NUMERIC = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
_MMVU_SUBJECTS = {
    "Science": "Biology Chemistry Modern_Physics Astronomy Geography Materials_Science Neurobiology Electromagnetism Thermodynamics Mechanics",
    "Engineering": "Civil_Engineering Electrical_Engineering Mechanical_Engineering Biomedical_Engineering Electronics_and_Communication Computer_Science",
    "Healthcare": "Clinical_Medicine Basic_Medicine Preventive_Medicine Pharmacy Dentistry",
    "Humanities_and_Social_Science": "Art Literature History Law Economics Management",
}
MMVU_GROUPS = {subject: group for group, subjects in _MMVU_SUBJECTS.items() for subject in subjects.split()}
BENCHMARKS: dict[str, Callable[[Sequence[Answered]], Metrics]] = {
    "activitynet_captions": grounding,
    "activitynet_rtl": activitynet_rtl,
    "charades_sta": grounding,
    "longvideo_reason": by_category,
    "longvideobench": by_category,
    "lvbench": by_category,
    "minerva": by_category,
    "mlvu": mean_over_kinds,
    "mmvu": mmvu,
    "motionbench": by_category,
    "mvbench": mvbench,
    "nextgqa": nextgqa,
    "perceptiontest": perceptiontest,
    "qvhighlights": qvhighlights,
    "tempcompass": tempcompass,
    "video_holmes": by_category,
    "videomme": videomme,
    "videommmu": videommmu,
    "vsibench": vsibench,
}
