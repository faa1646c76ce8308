"""What is each method worth, over seeds, where its premise holds and where it does not? Methods x worlds x seeds against plain GRPO, in pairs.

    python -m benchmarks.effects [--worlds lure misread blink crowd plain] [--rows NAME ...] [--seeds 0 1 2 3 4] [--steps N] [--out FOLDER] [key=value ...]

A seed is a world of its own (clips, questions, warm-started model), the same for all rows; rows sample as many answers a step, second ones included. Every
few steps the held-out questions are answered greedily on the even view, without evidence. For each row: the difference to `plain` of the same seed at the
end, on the mean over the run, and at equal seconds of training (what the quicker of the two took), with the 95 % interval of the mean (Student's t), and the
steps to 0.5 and 0.8. What `select` asks beforehand is counted in answers and seconds beside it.

Before training each world says whether its premise holds (rlvid/world/premise.py). Seeds in which it does not are shown and are no part of an interval.
Finished worlds and runs are used again, unfinished ones go on. Writes WORLD.png, curves with their spread, and ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.quickstart import QUICKSTART, ROOT, read_rows, rlvid

ONE_VIEW = ["variants.kinds=[uniform]", "rollout.answers=16", "repair.enabled=false"]
FEW = "variants.kinds=[uniform, importance, importance, importance, importance, importance_jitter, importance_jitter, importance_jitter]"
RANDOM = "variants.kinds=[uniform, random_jitter, random_jitter, random_jitter]"
VIEWS = "variants.kinds=[uniform, importance, importance, importance_jitter]"
ROWS: dict[str, list[str]] = {
    "plain": ONE_VIEW,
    "strive": [VIEWS, "rollout.answers=4", "repair.enabled=false"],
    "per_variant": [VIEWS, "rollout.answers=4", "repair.enabled=false", "advantage.group=per_variant"],
    "few": [FEW, "rollout.answers=2", "repair.enabled=false"],
    "few_per_variant": [FEW, "rollout.answers=2", "repair.enabled=false", "advantage.group=per_variant"],
    "random": [RANDOM, "rollout.answers=4", "repair.enabled=false"],
    "distill": [VIEWS, "rollout.answers=4", "repair.enabled=false", "distill.from=[variants]"],
    "distill_alone": [VIEWS, "rollout.answers=4", "repair.enabled=false", "distill.from=[variants]", "loss.policy_coef=0"],
    "ffr": ["variants.kinds=[uniform]", "rollout.answers=8", "repair.enabled=true", "teacher.kind=annotation"],
    "ffr_distill": ["variants.kinds=[uniform]", "rollout.answers=8", "repair.enabled=true", "teacher.kind=annotation", "distill.from=[repair]"],
    "sft": ["variants.kinds=[uniform]"],
    "select": ONE_VIEW,
}
"""What each row sets. `select` trains on what `rlvid select` keeps, `sft` is `rlvid sft` on a reply that says the right answer in the world's words."""
COMPARED = {
    "lure": ("plain", "strive", "per_variant", "random"),
    "misread": ("plain", "strive", "distill", "distill_alone", "sft"),
    "blink": ("plain", "ffr", "ffr_distill", "sft"),
    "crowd": ("plain", "select"),
    "plain": ("plain", "strive", "distill", "select"),
}
LEVELS = (0.5, 0.8)
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
"""Student's t for a two-sided 95 % interval, by degrees of freedom from 1 on; beyond the table the normal's 1.96."""


@dataclass(frozen=True)
class Curve:
    """One run: held-out accuracy at some steps, and the seconds of training until then. `before_s`, `before_answers`: what came before the first step."""

    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    seconds: tuple[float, ...]
    before_s: float = 0.0
    before_answers: int = 0

    def reaches(self, level: float) -> int | None:
        """The first of these steps at which the level is reached."""
        return next((step for step, accuracy in zip(self.steps, self.accuracy, strict=True) if accuracy >= level), None)

    def after(self, seconds: float) -> float:
        """Accuracy when so much time was spent: the last value known by then."""
        known = [accuracy for accuracy, at in zip(self.accuracy, self.seconds, strict=True) if at <= seconds + 1e-9]
        return known[-1] if known else self.accuracy[0]

    @property
    def mean(self) -> float:
        """Over the run's evaluations after the start."""
        return statistics.fmean(self.accuracy[1:])


def curve_of(rows: Sequence[Mapping[str, float]], before_s: float = 0.0, before_answers: int = 0) -> Curve:
    """Of a run's metrics: evaluation is no part of the seconds."""
    points, spent = [], before_s
    for row in rows:
        spent += max(0.0, row.get("time/step_s", 0.0) - row.get("time/eval_s", 0.0)) if row["step"] else 0.0
        if "eval/accuracy" in row:
            points.append((int(row["step"]), float(row["eval/accuracy"]), spent))
    steps, accuracy, seconds = zip(*points, strict=True)
    return Curve(steps, accuracy, seconds, before_s, before_answers)


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences, and the ends of its 95 % interval; of a single one it is infinite."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return mean, -math.inf, math.inf
    freedom = count - 1
    half = (T_975[freedom - 1] if freedom <= len(T_975) else 1.96) * statistics.stdev(differences) / math.sqrt(count)
    return mean, mean - half, mean + half


def effects(curves: Mapping[int, Curve], plain: Mapping[int, Curve]) -> dict[str, Any]:
    """A row against plain GRPO, over the seeds that both have."""
    pairs = [(curves[seed], plain[seed]) for seed in sorted(curves.keys() & plain.keys())]
    budgets = [min(one.seconds[-1], other.seconds[-1]) for one, other in pairs]
    measured = {
        "end": [one.accuracy[-1] - other.accuracy[-1] for one, other in pairs],
        "mean of the run": [one.mean - other.mean for one, other in pairs],
        "equal seconds": [one.after(budget) - other.after(budget) for (one, other), budget in zip(pairs, budgets, strict=True)],
    }
    return {name: dict(zip(("mean", "low", "high"), interval(values), strict=True)) for name, values in measured.items()} | {"seeds": len(pairs)}


def summary(curves: Mapping[int, Curve]) -> dict[str, Any]:
    """A row by itself: where it starts and ends, how many seeds reach each level and after how many steps (the median of all, None where half do not)."""
    found = {level: [curve.reaches(level) for curve in curves.values()] for level in LEVELS}
    reached = {level: sorted(math.inf if step is None else step for step in steps) for level, steps in found.items()}
    middle = {level: steps[(len(steps) - 1) // 2] for level, steps in reached.items()}
    return {
        "start": statistics.fmean(curve.accuracy[0] for curve in curves.values()),
        "end": statistics.fmean(curve.accuracy[-1] for curve in curves.values()),
        "seconds": statistics.fmean(curve.seconds[-1] for curve in curves.values()),
        "answers before": statistics.fmean(curve.before_answers for curve in curves.values()),
        **{f"steps to {level}": None if math.isinf(steps) else steps for level, steps in middle.items()},
        **{f"seeds at {level}": sum(math.isfinite(step) for step in steps) for level, steps in reached.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=list(COMPARED), choices=list(COMPARED))
    parser.add_argument("--rows", nargs="*", default=None, choices=list(ROWS), help="default: those that the world is made for; plain always")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-effects"))
    parser.add_argument("overrides", nargs="*", help="settings as key=value")
    arguments = parser.parse_args()
    found = {world: compared(arguments, world) for world in arguments.worlds}
    print(json.dumps({"benchmark": "effects", "environment": environment(), "steps": arguments.steps, "seeds": arguments.seeds, "worlds": found}))


def compared(arguments: argparse.Namespace, world: str) -> dict[str, Any]:
    """One world's rows."""
    rows = dict.fromkeys(["plain", *(arguments.rows or COMPARED[world])])
    curves: dict[str, dict[int, Curve]] = {row: {} for row in rows}
    premises: dict[int, Any] = {}
    for seed in arguments.seeds:
        folder = arguments.out / f"{world}-{seed}"
        rlvid("data", "quickstart", "--world", world, "--out", folder, "--seed", seed)
        premises[seed] = json.loads((folder / "premise.json").read_text())
        for row in rows:
            curves[row][seed] = trained(arguments, world, row, seed)
    holding = {seed for seed, premise in premises.items() if not premise["fails"]}
    kept = {row: {seed: curve for seed, curve in seeds.items() if seed in holding} for row, seeds in curves.items()}
    picture(world, curves, arguments.out / f"{world}.png")
    result: dict[str, Any] = {
        "premise": premises,
        "runs": {row: {seed: list(curve.accuracy) for seed, curve in seeds.items()} for row, seeds in curves.items()},
    }
    if not holding:
        print(f"{world}: the premise holds for no seed, nothing is claimed: {premises[arguments.seeds[0]]['fails']}")
        return result
    result |= {"rows": {row: summary(seeds) for row, seeds in kept.items()}}
    result |= {"against plain": {row: effects(seeds, kept["plain"]) for row, seeds in kept.items() if row != "plain"}}
    print(table(world, result, len(holding), len(premises)))
    return result


def trained(arguments: argparse.Namespace, world: str, row: str, seed: int) -> Curve:
    """One run, finished before or now."""
    out, name = arguments.out, f"{world}-{row}-{seed}"
    folder = out / f"{world}-{seed}"
    config = QUICKSTART if world == "plain" else ROOT / "configs" / "worlds" / f"{world}.yaml"
    settings = [f"run.dir={out}", f"run.seed={seed}", f"run.steps={arguments.steps}", f"run.eval_every={arguments.eval_every}", "run.dump_rollouts=false"]
    settings += [f"model.path={folder / 'model'}", f"data.eval={folder / 'eval.jsonl'}", "tracker.kind=none", "report.enabled=false", "video.cache_dir=null"]
    settings += [f"relevance.model={folder / 'relevance'}"] if world == "plain" else []
    settings += [*ROWS[row], *arguments.overrides]
    questions, before_s, before_answers = folder / "train.jsonl", 0.0, 0
    if row == "select":
        questions, before_s, before_answers = selected(folder, config, settings)
    if row == "sft":
        questions = with_replies(folder)
    if not (out / name / "export").exists():
        rlvid("sft" if row == "sft" else "train", config, f"run.name={name}", f"data.train={questions}", *settings)
    return curve_of(read_rows(out / name), before_s, before_answers)


def with_replies(folder: Path) -> Path:
    """The world's questions, each with its right answer as a reply."""
    from rlvid.world.premised import reply

    lines = (json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines())
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps(line | {"reply": reply(line["answer"])}) + "\n" for line in lines))
    return path


def selected(folder: Path, config: Path, settings: list[str]) -> tuple[Path, float, int]:
    """What `rlvid select` keeps, the seconds that it took and the answers that it sampled."""
    from rlvid.config import load

    kept, note = folder / "kept.jsonl", folder / "kept.seconds.json"
    if not note.exists():
        began = time.perf_counter()
        rlvid("select", config, "--out", kept, f"run.name={folder.name}-select", f"data.train={folder / 'train.jsonl'}", *settings)
        note.write_text(json.dumps(time.perf_counter() - began))
    asked = sum(1 for _ in (folder / "train.jsonl").open())
    return kept, json.loads(note.read_text()), asked * load(config, settings).select.repeats


def table(world: str, result: dict[str, Any], holding: int, seeds: int) -> str:
    """Markdown: a line a row, differences with their intervals."""
    lines = [f"{world}: the premise holds in {holding} of {seeds} seeds", ""]
    lines += ["| | start | end | end - plain [95 %] | run - plain [95 %] | at equal seconds [95 %] | steps to 0.5 | to 0.8 | seconds |", "|---" * 9 + "|"]
    for row, own in result["rows"].items():
        against = result["against plain"].get(row)
        cells = ["", "", ""]
        if against:
            parts = [against[name] for name in ("end", "mean of the run", "equal seconds")]
            cells = [f"{part['mean']:+.2f} [{part['low']:+.2f}, {part['high']:+.2f}]" for part in parts]
        steps = ["never" if (step := own[f"steps to {level}"]) is None else str(step) for level in LEVELS]
        lines.append(f"| {row} | {own['start']:.2f} | {own['end']:.2f} | " + " | ".join([*cells, *steps, f"{own['seconds']:.0f}"]) + " |")
    return "\n".join(lines)


def picture(world: str, curves: Mapping[str, Mapping[int, Curve]], path: Path) -> None:
    """Held-out accuracy over the steps: the mean of the seeds, a band from the lowest to the highest."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4.2), constrained_layout=True)
    for row, seeds in curves.items():
        steps = sorted(set.intersection(*(set(curve.steps) for curve in seeds.values())))
        columns = [[curve.accuracy[curve.steps.index(step)] for curve in seeds.values()] for step in steps]
        line = axis.plot(steps, [statistics.fmean(column) for column in columns], label=row)[0]
        axis.fill_between(steps, [min(column) for column in columns], [max(column) for column in columns], alpha=0.15, color=line.get_color())
    axis.set_title(f"{world}: held-out accuracy, even view")
    axis.set_xlabel("step")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
