"""Is what `rlvid select` keeps worth training on? Signal of kept against dropped questions, and training on a selected third against training on all.

    python -m benchmarks.selection [--seeds 0 1 2] [--share 0.3333] [--steps N] [--signal-only] [--out FOLDER] [key=value ...]

Two answers for every seed's quickstart world:

- signal: the questions are selected; then a fresh pass with another seed asks all of them again as training would (its views, its answers). Of
  the kept and of the dropped questions, how many give a group with a signal: correctness that is not equal for all its answers? The same for the
  answers on one view alone (a group without variants), and the mean standard deviation of the summed reward parts in a group.
- training: the same number of steps on all questions and on the selected ones, held-out accuracy before and after.

Finished worlds, selections and runs are used again, also those that benchmarks/quickstart.py left in the same folder. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import quickstart
from benchmarks.environment import environment
from rlvid.config import load

MEASURES = ("signal", "one_view", "std")
FRESH_SEED = 1000
"""Added to a world's seed: the fresh pass draws other answers than the selection did."""


def main() -> None:
    arguments, overrides = parse()
    signals = {seed: signal(arguments, overrides, seed) for seed in arguments.seeds}
    print(signal_table(signals))
    everything: dict[int, Any] = {}
    selected: dict[int, Any] = {}
    if not arguments.signal_only:
        everything = {seed: quickstart.trained(arguments.out, f"seed-{seed}", seed, overrides) for seed in arguments.seeds}
        kept = {seed: f"data.train={arguments.out / f'select-{seed}' / 'kept.jsonl'}" for seed in arguments.seeds}
        selected = {seed: quickstart.trained(arguments.out, f"seed-{seed}-selected", seed, [kept[seed], *overrides]) for seed in arguments.seeds}
        print(quickstart.table("all questions", everything))
        print(quickstart.table("selected questions", selected))
    print(json.dumps({"benchmark": "selection", "environment": environment(), "signal": signals, "all": everything, "selected": selected}))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.3333, help="at most this share of each source is kept")
    parser.add_argument("--steps", type=int, default=None, help="RL steps; default: the config's")
    parser.add_argument("--signal-only", action="store_true", help="no training")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-quickstart"))
    parser.add_argument("overrides", nargs="*", help="settings as key=value")
    arguments = parser.parse_args()
    return arguments, arguments.overrides + ([f"run.steps={arguments.steps}"] if arguments.steps else [])


def signal(arguments: argparse.Namespace, overrides: list[str], seed: int) -> dict[str, dict[str, Any]]:
    """{group: {"questions": how many, and of the fresh pass "signal", "one_view", "std"}} for kept, dropped, and the two kinds of dropped."""
    world, folder = arguments.out / f"world-{seed}", arguments.out / f"select-{seed}"
    quickstart.rlvid("data", "quickstart", "--out", world, "--seed", seed)
    answers = load(quickstart.QUICKSTART, overrides).rollout.answers
    settings = [f"model.path={world / 'model'}", f"relevance.model={world / 'relevance'}", f"data.train={world / 'train.jsonl'}", *overrides]
    quickstart.rlvid("select", quickstart.QUICKSTART, "--out", folder / "kept.jsonl", f"run.seed={seed}", f"select.share={arguments.share}", *settings)
    quickstart.rlvid("select", quickstart.QUICKSTART, "--out", folder / "fresh.jsonl", f"run.seed={seed + FRESH_SEED}", *settings, *as_training_asks(settings))
    fresh = {row["id"]: measures(row, answers) for row in rows(folder / "fresh.statistics.jsonl") if "answers" in row}
    groups: dict[str, list[dict[str, float]]] = {"kept": [], "dropped": [], "dropped by the rules": [], "dropped by the share": []}
    for row in rows(folder / "kept.statistics.jsonl"):
        if row["id"] in fresh:
            groups["kept" if row["kept"] else "dropped"].append(fresh[row["id"]])
            if not row["kept"]:
                groups["dropped by the " + ("share" if row["reason"] == "less signal than others" else "rules")].append(fresh[row["id"]])
    return {
        name: {"questions": len(values)} | {measure: statistics.fmean(value[measure] for value in values) if values else None for measure in MEASURES}
        for name, values in groups.items()
    }


def as_training_asks(settings: list[str]) -> list[str]:
    """The fresh pass has the K views and M answers of a training group."""
    config = load(quickstart.QUICKSTART, settings)
    return [f"select.kinds=[{', '.join(config.variants.kinds)}]", f"select.repeats={config.rollout.answers}"]


def measures(row: dict[str, Any], answers: int) -> dict[str, float]:
    """Of one group, by training's zero-signal test: accuracies that differ, or for grounding right and wrong times (temporal IoU from 0.5 on)."""
    correct = row["accuracies"] or [iou >= 0.5 for iou in row["temporal_ious"]]
    views = [correct[at : at + answers] for at in range(0, len(correct), answers)]
    rewards = map(sum, zip(*(part for part in (row["accuracies"], row["temporal_ious"]) if part), strict=True))
    return {
        "signal": float(len(set(correct)) > 1),
        "one_view": statistics.fmean(len(set(view)) > 1 for view in views),
        "std": statistics.pstdev(rewards),
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def signal_table(signals: dict[int, dict[str, dict[str, Any]]]) -> str:
    """A Markdown table, a row for each seed and kind of questions."""
    lines = ["| seed | questions | number | groups with a signal | the same, one view | std of rewards |", "|---|---|---|---|---|---|"]
    for seed, groups in signals.items():
        for name, values in groups.items():
            cells = [f"{values[measure]:.2f}" if values["questions"] else "" for measure in MEASURES]
            lines.append(f"| {seed} | {name} | {values['questions']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
