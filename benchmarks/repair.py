"""What is a teacher's evidence worth? Failed answers repaired, against a blind second try, by kind of question; and learning with and without.

    python -m benchmarks.repair [--seeds 0 1 2] [--steps N] [--out FOLDER] [key=value ...]

Trains configs/ablations/repair.yaml for every seed with and without repair, on worlds whose model has learned to read evidence. The blind second try
takes no extra samples: it is the share of right ones among the other answers to the same prompt, drawn from the same policy without evidence.
Finished worlds and runs are used again. Ends in one JSON line.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.quickstart import CHOICES, ROOT, parse, trained
from rlvid.data.questions import iter_questions

CONFIG = ROOT / "configs" / "ablations" / "repair.yaml"
IOU_THRESHOLD = 0.5
"""As repair.iou_threshold."""


def main() -> None:
    arguments, overrides = parse()
    repaired: dict[str, list[dict[str, float]]] = defaultdict(list)
    learning: dict[str, list[dict[str, float]]] = {"with repair": [], "without": []}
    for seed in arguments.seeds:
        with_repair = trained(arguments.out, f"repair-{seed}", seed, overrides, CONFIG, evidence=True)
        without = trained(arguments.out, f"no-repair-{seed}", seed, ["repair.enabled=false", *overrides], CONFIG, evidence=True)
        for name, run in (("with repair", with_repair), ("without", without)):
            before, after = run["before"], run["after"]
            row = {"choices before": before["choice questions"], "choices": after["choice questions"], "temporal IoU before": before["temporal IoU"]}
            learning[name].append(row | {"temporal IoU": after["temporal IoU"], "step, s": run["cost"]["step_s"]})
        kinds = {question.id: question.source for question in iter_questions(arguments.out / f"evidence-{seed}" / "train.jsonl")}
        for kind, shares in by_kind(arguments.out / f"repair-{seed}", kinds).items():
            repaired[kind].append(shares)
    for kind, rows in repaired.items():
        print(f"{kind:12s}", "  ".join(f"{name} {statistics.fmean(row[name] for row in rows):.2f}" for name in rows[0]))
    for name, rows in learning.items():
        print(f"{name:12s}", "  ".join(f"{column} {statistics.fmean(row[column] for row in rows):.2f}" for column in rows[0]))
    print(json.dumps({"benchmark": "repair", "environment": environment(), "seeds": arguments.seeds, "repaired": repaired, "learning": learning}))


def by_kind(folder: Path, kinds: dict[str, str]) -> dict[str, dict[str, float]]:
    """Of all slots and of each kind's: how many were repaired, how many of those rightly, and what a blind second try would have given."""
    slots: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for slot in dumped(folder):
        slots["all"].append(slot)
        slots[kinds[slot["question_id"]]].append(slot)
    found = {}
    for kind in ("all", *CHOICES, "grounded_qa", "grounding"):
        answered_twice = [slot for slot in slots[kind] if slot["repaired"]]
        found[kind] = {
            "share repaired": len(answered_twice) / len(slots[kind]),
            "repaired rightly": statistics.fmean(map(right, answered_twice)),
            "blind second try": statistics.fmean(slot["blind"] for slot in answered_twice),
        }
    return found


def dumped(folder: Path) -> Iterator[dict[str, Any]]:
    """Every slot of the run."""
    for path in sorted((folder / "rollouts").glob("step_*.jsonl")):
        yield from (slot for slot in map(json.loads, path.open()) if "sample" in slot)


def right(slot: dict[str, Any]) -> bool:
    parts = slot["parts"]
    return bool(parts["accuracy"] == 1 if "accuracy" in parts else parts["temporal_iou"] >= IOU_THRESHOLD)


if __name__ == "__main__":
    main()
