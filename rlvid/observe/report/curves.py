"""The learning curves of a report: which metrics stand together in one chart, and what the chart means."""

from __future__ import annotations

import fnmatch
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_POINTS = 400
"""Per series; longer ones are averaged over neighbouring steps."""


@dataclass(frozen=True)
class Chart:
    """Names are metrics or patterns of them; a series that is missing everywhere is left out, and a chart without series too."""

    title: str
    note: str
    names: tuple[str, ...]
    labels: tuple[str, ...] = ()
    share: bool = False
    only_if_used: bool = False


CHARTS = (
    Chart(
        "Held-out questions",
        "Greedy answers to questions the policy never trains on.",
        ("eval/accuracy", "eval/temporal_iou"),
        ("accuracy", "temporal IoU"),
        True,
    ),
    Chart("Training answers", "Sampled answers of each step.", ("reward/accuracy", "reward/temporal_iou"), ("accuracy", "temporal IoU"), True),
    Chart("Reward", "Mean over all answers of a step, and its parts.", ("reward/mean", "reward/*")),
    Chart(
        "Questions without a signal",
        "Share of questions whose answers all earn the same: nothing is learned from them. "
        "“per variant” is what groups of one variant would have given on the same answers.",
        ("group/zero_signal_share", "group/zero_signal_share_text_only"),
        ("all variants together", "per variant"),
        True,
    ),
    Chart(
        "What a group can move",
        "Advantages times the uncertainty of the answers: where every answer is certain, rewards that differ teach nothing either.",
        ("group/signal", "group/signal_text_only"),
        ("all variants together", "per variant"),
    ),
    Chart("Right answers by source", "Share of right sampled answers.", ("correct/*",), (), True),
    Chart(
        "Sampler against learner",
        "How far the engine's log-probabilities are from the learner's. Near 0 in a healthy run.",
        ("mismatch/mean_abs_dlogp", "mismatch/kl"),
        ("mean |Δ log p|", "KL"),
    ),
    Chart("Staleness", "How many updates the oldest answer of a step is behind.", ("staleness/max",), ("updates",)),
    Chart(
        "Seconds per step",
        "Parts may run at the same time.",
        ("time/step_s", "time/variants_s", "time/rollout_s", "time/teacher_s", "time/learn_s", "time/sync_s", "time/eval_s"),
        ("whole step", "variants", "rollout", "teacher", "learn", "sync", "evaluation"),
    ),
    Chart("Entropy", "Mean −log p of sampled tokens. Near 0 the policy has stopped exploring.", ("policy/entropy",), ("nats per token",)),
    Chart("Gradient norm", "Before clipping.", ("optimizer/grad_norm",), ("norm",)),
    Chart(
        "Repair",
        "Answers that were given again with a teacher's patch, how many of them came right, and patches refused because they gave the answer away.",
        ("repair/share", "repair/success_share", "teacher/leak_share"),
        ("repaired", "came right", "leaks"),
        True,
        True,
    ),
    Chart("Answer length", "Mean tokens.", ("rollout/answer_tokens_mean",), ("tokens",)),
    Chart("Throughput", "Answer tokens per second of sampling.", ("throughput/rollout_tokens_per_s",), ("tokens/s",)),
)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole rows of metrics.jsonl; none where there is no such file."""
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the last line of a run that is being written
    return rows


def charts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{title, note, share, series: [{label, points: [[step, value], ...]}]}] of what was measured."""
    drawn = []
    for chart in CHARTS:
        names = _names(chart, rows)
        labels = chart.labels if len(chart.labels) == len(chart.names) else ()
        series: list[dict[str, Any]] = [
            {"label": labels[chart.names.index(name)] if labels else name.split("/", 1)[1], "points": _points(rows, name)} for name in names
        ]
        series = [one for one in series if one["points"] and not _idle(chart, one["label"], one["points"])]
        used = not chart.only_if_used or any(value for one in series for _, value in one["points"])
        if series and used:
            drawn.append({"title": chart.title, "note": chart.note, "share": chart.share, "series": series})
    return drawn


def _names(chart: Chart, rows: Sequence[dict[str, Any]]) -> list[str]:
    there = sorted({name for row in rows for name in row})
    return list(dict.fromkeys(name for pattern in chart.names for name in fnmatch.filter(there, pattern)))


def _idle(chart: Chart, label: str, points: list[list[float]]) -> bool:
    """Parts of a step that never took any time say nothing."""
    return chart.title == "Seconds per step" and label != "whole step" and max(value for _, value in points) < 5e-3


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[list[float]]:
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    size = -(-len(points) // MAX_POINTS)
    buckets = [points[at : at + size] for at in range(0, len(points), size)] if size > 1 else [[point] for point in points]
    return [[bucket[-1][0], float(f"{statistics.fmean(value for _, value in bucket):.6g}")] for bucket in buckets]
