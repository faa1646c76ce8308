"""Does `group/signal` say what a group moves? Its rank correlation with the measured gradient norm of each group alone, beside the zero-signal shares'.

    python -m benchmarks.gradients RUN_DIR [--steps 1 2 3]

RUN_DIR is a run with dumped rollouts and a checkpoint after each step that is named, less one (run.save_every=1, run.keep_checkpoints=N), or step 1. The
learner takes each step's groups one at a time, with a rate so small that nothing moves. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment

STILL = ["learner.lr=1e-30", "learner.weight_decay=0", "distill.from=[]"]
"""Float32 weights do not change by it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="*", default=[1])
    arguments = parser.parse_args()
    rows = [row for step in arguments.steps for row in measured(arguments.run, step)]
    norms = [row["gradient norm"] for row in rows]
    correlation = {name: rank_correlation([row[name] for row in rows], norms) for name in ("signal", "reward std", "alive, pooled", "alive, per variant")}
    print("| Spearman's rank correlation with a group's gradient norm | |\n|---|---|")
    print("\n".join(f"| {name} | {'none: it is the same for all groups' if value is None else f'{value:.2f}'} |" for name, value in correlation.items()))
    print(json.dumps({"benchmark": "gradients", "environment": environment(), "groups": len(rows), "rank correlation": correlation, "rows": rows}))


def measured(folder: Path, step: int) -> list[dict[str, float]]:
    """Of each group of a dumped step: its estimated signal, whether rewards differ in it, and the norm of its gradient."""
    from rlvid.algo.advantages import zero_signal, zero_signal_text_only_share
    from rlvid.config import load
    from rlvid.doors import learner_alone
    from rlvid.learner import checkpoints
    from rlvid.loop.dumped import DumpedStep
    from rlvid.observe.step_row import group_signals
    from rlvid.train import training_prompts

    config, dumped, rows = load(folder / "config.yaml", STILL), DumpedStep(folder, step), []
    with learner_alone(config) as learner:
        import ray

        if step > 1:
            saved = folder / "checkpoints" / f"step_{step - 1:06d}"
            checkpoints.load(saved, checkpoints.read_state(saved), learner, config)
            learner.set_rates()
        groups, advantages, rewards = dumped.groups(keep=ray.put), dumped.numbers("advantage"), dumped.numbers("reward")
        for group, advantages_KM, rewards_KM in zip(groups, advantages, rewards, strict=True):
            metrics = learner.update(training_prompts(config, [group], [advantages_KM]))
            rows.append({
                "signal": group_signals(config, [group], [advantages_KM])[0],
                "reward std": float(rewards_KM.std()),
                "alive, pooled": float(not zero_signal(group.correct_KM)),
                "alive, per variant": 1 - zero_signal_text_only_share(group.correct_KM),
                "gradient norm": metrics["optimizer/grad_norm"],
            })  # fmt: skip
    return rows


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's: Pearson's of the ranks, ties sharing their mean rank. None where one of both is constant."""
    ranks = [_ranks(values) for values in (one, other)]
    if any(statistics.pstdev(own) == 0 for own in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    given: Any = np.asarray(values)
    return [float((given < value).sum() + ((given == value).sum() - 1) / 2) for value in given]


if __name__ == "__main__":
    main()
