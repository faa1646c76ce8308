"""Does the quickstart learn, and from its rewards alone? Held-out accuracy before and after RL, per kind of question.

    python -m benchmarks.quickstart [--seeds 0 1 2] [--noise-seeds 0] [--steps N] [--out FOLDER] [key=value ...]

For every seed a world is built (clips, questions, initial weights, warm start), then trained with configs/quickstart.yaml;
for every noise seed the same run has its rewards dealt out anew at random among the slots of each step, so that their
distribution stays and their meaning goes. Finished worlds and runs are used again. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environment import environment

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
CHOICES = ("colour", "direction", "first", "count")


def main() -> None:
    arguments, overrides = parse()
    seeds = {seed: trained(arguments.out, f"seed-{seed}", seed, overrides) for seed in arguments.seeds}
    control = {seed: trained(arguments.out, f"seed-{seed}-noise", seed, ["reward.noise=true", *overrides]) for seed in arguments.noise_seeds}
    print(table("rewards", seeds))
    if control:
        print(table("noise", control))
    print(json.dumps({"benchmark": "quickstart", "environment": environment(), "rewards": seeds, "noise": control}))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--noise-seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=None, help="RL steps; default: the config's")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-quickstart"))
    parser.add_argument("overrides", nargs="*", help="settings as key=value")
    arguments = parser.parse_args()
    return arguments, arguments.overrides + ([f"run.steps={arguments.steps}"] if arguments.steps else [])


def trained(out: Path, name: str, seed: int, overrides: Sequence[str], config: Path = QUICKSTART, *, evidence: bool = False) -> dict[str, dict[str, float]]:
    """{"before": {kind: value}, "after": ...} of one run, held-out, greedy; what it cost, and the worst of its steps. `evidence`: a model that reads it."""
    world = out / f"{'evidence' if evidence else 'world'}-{seed}"
    rlvid("data", "quickstart", "--out", world, "--seed", seed, *(["--evidence"] if evidence else []))
    settings = [
        f"run.dir={out}",
        f"run.name={name}",
        f"run.seed={seed}",
        f"model.path={world / 'model'}",
        f"relevance.model={world / 'relevance'}",
        f"data.train={world / 'train.jsonl'}",
        f"data.eval={world / 'eval.jsonl'}",
        "tracker.kind=none",
        *overrides,
    ]
    if not (out / name / "export").exists():
        rlvid("train", config, *settings)
    rows = read_rows(out / name)
    steps = [row for row in rows if row["step"] > 0]
    cost = {"steps": float(len(steps)), "step_s": statistics.median(row["time/step_s"] for row in steps), "rl_s": sum(row["time/step_s"] for row in steps)}
    worst = {"mean_abs_dlogp": max(row["mismatch/mean_abs_dlogp"] for row in steps), "driver_bytes": max(row["driver/bytes"] for row in steps)}
    return {"before": held_out(rows[0]), "after": held_out(rows[-1]), "cost": cost, "worst": worst}


def read_rows(folder: Path) -> list[dict[str, float]]:
    """A run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def held_out(row: dict[str, float]) -> dict[str, float]:
    """Accuracy of every kind of choice question and their mean; temporal IoU; both of grounded questions."""
    kinds = {kind: row[f"eval/accuracy/{kind}"] for kind in CHOICES}
    return {
        "choice questions": statistics.fmean(kinds.values()),
        **kinds,
        "grounded_qa accuracy": row["eval/accuracy/grounded_qa"],
        "grounded_qa IoU": row["eval/temporal_iou/grounded_qa"],
        "grounded_qa both right": row["eval/both_right/grounded_qa"],
        "grounding IoU": row["eval/temporal_iou/grounding"],
        "temporal IoU": row["eval/temporal_iou"],
    }


def table(title: str, runs: dict[int, dict[str, dict[str, float]]]) -> str:
    """A Markdown table: before -> after for each seed, and the mean."""
    lines = [f"| {title} | " + " | ".join(f"seed {seed}" for seed in runs) + " | mean |", "|---" * (len(runs) + 2) + "|"]
    for kind in next(iter(runs.values()))["before"]:
        pairs = [(run["before"][kind], run["after"][kind]) for run in runs.values()]
        pairs.append((statistics.fmean(before for before, _ in pairs), statistics.fmean(after for _, after in pairs)))
        lines.append(f"| {kind} | " + " | ".join(f"{before:.2f} → {after:.2f}" for before, after in pairs) + " |")
    return "\n".join(lines)


def run_parser(doc: str | None) -> argparse.ArgumentParser:
    """What benchmarks take that train a config as they are told: CONFIG, settings, and a folder for the runs."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", help="settings as key=value")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def rlvid(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "rlvid.cli", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
