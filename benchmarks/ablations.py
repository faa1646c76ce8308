"""What does each part of STRIVE give? The quickstart for several seeds: whole, without variants, without importance, text-only groups.

    python -m benchmarks.ablations [--rows full no_variants ...] [--seeds 0 1 2] [--steps 150] [--out FOLDER] [key=value ...]

A row is a file of configs/ablations (`full` is configs/quickstart.yaml); all see the same worlds, questions and number of rollouts.
Every run evaluates on the held-out questions on the way. Finished runs are used again. Writes ablations.png beside the runs and
ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.quickstart import CHOICES, QUICKSTART, ROOT, read_rows, trained

ROWS = ("full", "no_variants", "no_importance", "text_only")
WINDOW = 20
"""Training metrics are averaged over the last so many steps."""
Rows = list[dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-ablations"))
    parser.add_argument("overrides", nargs="*", help="settings as key=value")
    arguments = parser.parse_args()
    settings = [f"run.steps={arguments.steps}", f"run.eval_every={arguments.eval_every}", *arguments.overrides]
    runs: dict[str, dict[int, Rows]] = {row: {} for row in arguments.rows}
    for seed in arguments.seeds:
        for row in arguments.rows:
            config = QUICKSTART if row == "full" else ROOT / "configs" / "ablations" / f"{row}.yaml"
            trained(arguments.out, f"{row}-{seed}", seed, settings, config)
            runs[row][seed] = read_rows(arguments.out / f"{row}-{seed}")
    figures = {row: [summary(rows) for rows in seeds.values()] for row, seeds in runs.items()}
    print(table(figures))
    picture(runs, arguments.out / "ablations.png")
    print(json.dumps({"benchmark": "ablations", "environment": environment(), "steps": arguments.steps, "seeds": arguments.seeds, "rows": figures}))


def summary(rows: Rows) -> dict[str, float]:
    """Held-out scores before and after, training's last steps, and how far from unanimous the groups still are."""
    last = [row for row in rows if row["step"] > 0][-WINDOW:]
    return {
        "choices before": choices(rows[0]),
        "choices": choices(rows[-1]),
        **{kind: rows[-1][f"eval/accuracy/{kind}"] for kind in CHOICES},
        "temporal IoU": rows[-1]["eval/temporal_iou"],
        "zero-signal, joint": statistics.fmean(row["group/zero_signal_share"] for row in last),
        "zero-signal, text-only": statistics.fmean(row["group/zero_signal_share_text_only"] for row in last),
        "reward": statistics.fmean(row["reward/mean"] for row in last),
    }


def choices(row: dict[str, float]) -> float:
    return statistics.fmean(row[f"eval/accuracy/{kind}"] for kind in CHOICES)


def table(figures: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean and, in brackets, lowest and highest of the seeds."""
    columns = list(next(iter(figures.values()))[0])
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, seeds in figures.items():
        cells = [_spread([one[column] for one in seeds]) for column in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def picture(runs: dict[str, dict[int, Rows]], path: Path) -> None:
    """Training reward, held-out accuracy and the two zero-signal shares over the steps: mean line, band from lowest to highest seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), constrained_layout=True)
    _band(axes[0], runs, "training reward", lambda row: row.get("reward/mean"), smooth=10)
    _band(axes[1], runs, "held-out accuracy, choices", lambda row: choices(row) if f"eval/accuracy/{CHOICES[0]}" in row else None)
    _band(axes[2], runs, "groups without a signal, K x M pooled", lambda row: row.get("group/zero_signal_share"), smooth=10)
    _band(axes[3], runs, "the same rollouts, per variant", lambda row: row.get("group/zero_signal_share_text_only"), smooth=10)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _band(axis: Any, runs: dict[str, dict[int, Rows]], title: str, value: Callable[[dict[str, float]], float | None], smooth: int = 1) -> None:
    for row, seeds in runs.items():
        curves = [{int(one["step"]): found for one in rows if (found := value(one)) is not None} for rows in seeds.values()]
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        smoothed = [[statistics.fmean(curve[at] for at in steps[max(0, index - smooth + 1) : index + 1]) for index in range(len(steps))] for curve in curves]
        line = axis.plot(steps, [statistics.fmean(column) for column in zip(*smoothed, strict=True)], label=row)[0]
        columns = list(zip(*smoothed, strict=True))
        axis.fill_between(steps, [min(column) for column in columns], [max(column) for column in columns], alpha=0.15, color=line.get_color())
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
