"""Where does a step's time go, and what does overlap save? Medians of the steps of two runs, strictly on-policy and with the next batch sampled ahead.

    python -m benchmarks.step CONFIG [key=value ...] --out FOLDER [--steps 30]

Engine and learner get one thread each, so that on two cores neither takes the other's. Writes step.png; ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.quickstart import read_rows, rlvid, run_parser

PARTS = ("rollout", "learn", "sync")
WARM_UP = 3
"""Steps at the start that are not counted."""


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {staleness: train(options, staleness) for staleness in (0, 1)}
    serial, overlapped = runs[0], runs[1]
    update = overlapped["learn"] + overlapped["sync"]
    found = {
        "serial step, s": serial["step"],
        **{f"serial {part}, s": serial[part] for part in ("sample", *PARTS)},
        "overlapped step, s": overlapped["step"],
        **{f"overlapped {part}, s": overlapped[part] for part in ("sample", *PARTS)},
        "overlapped step over the slower of sampling and learning": overlapped["step"] / max(overlapped["sample"], update),
        "overlapped step over sampling and learning one after the other": overlapped["step"]
        / (overlapped["sample"] + overlapped["learn"] + overlapped["sync"]),
        "overlapped step over serial step": overlapped["step"] / serial["step"],
        "idle share of the learner, serial": 1 - (serial["learn"] + serial["sync"]) / serial["step"],
        "idle share of the learner, overlapped": 1 - update / overlapped["step"],
        "idle share of the engines, serial": 1 - serial["rollout"] / serial["step"],
        "idle share of the engines, overlapped": max(0.0, 1 - overlapped["rollout"] / overlapped["step"]),
        "largest staleness": overlapped["staleness"],
    }
    for name, value in found.items():
        print(f"{name:66s} {value:.3f}")
    draw(runs, options.out / "step.png")
    print(json.dumps({"benchmark": "step", "environment": environment(), "steps": options.steps, "found": found}))


def train(options: argparse.Namespace, staleness: int) -> dict[str, float]:
    """Medians over the steps of one run. Nothing is saved between, so that nothing holds the overlap up."""
    name = f"staleness-{staleness}"
    settings = [f"run.dir={options.out}", f"run.name={name}", f"run.steps={options.steps}", f"rollout.max_staleness={staleness}"]
    settings += ["run.save_every=0", "data.eval=", "tracker.kind=none", "report.enabled=false", "rollout.threads=1", "learner.threads=1"]
    rlvid("train", options.config, *settings, *options.overrides)
    rows = read_rows(options.out / name)
    counted = [row for row in rows if row["step"] > WARM_UP][:-1]  # the last step has nothing to overlap with
    medians = {part: statistics.median(row[f"time/{part}_s"] for row in counted) for part in ("step", "sample", *PARTS)}
    return medians | {"staleness": max(row["staleness/max"] for row in counted)}


def draw(runs: dict[int, dict[str, float]], path: Path) -> None:
    """Two stacked bars; what overlaps stands beside, not on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 2.8))
    shades: dict[str, Any] = {"sample": "tab:blue", "learn": "tab:orange", "sync": "tab:green"}
    for row, staleness in enumerate(runs):
        left = 0.0
        for part, shade in shades.items():
            parallel = staleness > 0 and part == "sample"
            axes.barh(row + (0.2 if parallel else -0.2 if staleness else 0), runs[staleness][part], 0.36, left=0 if parallel else left, color=shade)
            left += 0 if parallel else runs[staleness][part]
        axes.plot([runs[staleness]["step"]] * 2, [row - 0.45, row + 0.45], color="black")
    axes.set_yticks(range(len(runs)), ["one after the other" if staleness == 0 else "overlapped" for staleness in runs])
    axes.set_xlabel("seconds; the black line is the step")
    axes.legend(
        [pyplot.Rectangle((0, 0), 1, 1, color=shade) for shade in shades.values()], list(shades), loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=3
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
