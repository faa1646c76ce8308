"""Do rewards that take their time hold a step up? A reward of 200 ms for each of 256 answers against one of none, step by step in turn, in one run.

    python -m benchmarks.rewards CONFIG [key=value ...] --out FOLDER [--steps 22] [--questions 16] [--seconds 0.2]

Answers are scored in a reward actor while others are still sampled, so what a step takes longer is about what the last answers wait for, not the sum. On
every second step the reward is instant: each pair of neighbouring steps is one comparison, whatever else the machine does meanwhile. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics

from benchmarks.environment import environment
from benchmarks.quickstart import read_rows, rlvid, run_parser
from rlvid.config import Config, load

WARM_UP = 2
"""Steps at the start that are not counted: one of each kind."""
MODULE = '''"""Slow for the answers of every second step, which are so many. One reward actor calls it for all."""

import asyncio

calls = 0


async def timed(question, text):
    global calls
    step, calls = calls // {answers}, calls + 1
    if step % 2:
        await asyncio.sleep({seconds})
    return {{"slow_step": float(step % 2)}}
'''


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--questions", type=int, default=16, help="a step; with K variants and M answers each, 256 answers in configs/quickstart.yaml")
    parser.add_argument("--seconds", type=float, default=0.2)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = measured(options)
    for name, value in found.items():
        print(f"{name:66s} {value:.3f}")
    print(json.dumps({"benchmark": "rewards", "environment": environment(), "steps": options.steps, "found": found}))


def measured(options: argparse.Namespace) -> dict[str, float]:
    settings = [f"run.dir={options.out}", "run.name=rewards", f"run.steps={options.steps}", f"data.questions_per_step={options.questions}"]
    settings += ["run.save_every=0", "data.eval=", "tracker.kind=none", "report.enabled=false", "rollout.max_staleness=0", "rollout.threads=1"]
    settings += ["learner.threads=1", "reward.custom=timed_reward:timed", "reward.actors=1"]
    config = load(options.config, [*options.overrides, *settings])
    answers = options.questions * config.variants_per_question * config.rollout.answers
    (options.out / "timed_reward.py").write_text(MODULE.format(answers=answers, seconds=options.seconds))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(options.out.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])])
    rlvid("train", options.config, *options.overrides, *settings)
    return compared(config, [row for row in read_rows(options.out / "rewards") if row["step"] > 0], answers, options.seconds)


def compared(config: Config, rows: list[dict[str, float]], answers: int, seconds: float) -> dict[str, float]:
    """Medians over the steps of each kind, and of the ratios of neighbours."""
    counted = rows[WARM_UP : len(rows) // 2 * 2]
    if any(row["reward_calls/custom"] != answers for row in rows):
        raise SystemExit(f"a step has not the {answers} answers that tell slow steps from instant ones: questions were quarantined, or answers left out")
    instant, slow = counted[::2], counted[1::2]
    if any(row["reward_seconds/custom"] > answers * seconds / 2 for row in instant) or any(row["reward_seconds/custom"] < answers * seconds for row in slow):
        raise SystemExit("slow and instant steps do not take turns")
    ratios = [one["time/step_s"] / other["time/step_s"] for one, other in zip(slow, instant, strict=True)]
    return {
        "answers a step": float(answers),
        "seconds of reward a slow step, summed": statistics.median(row["reward_seconds/custom"] for row in slow),
        **{f"{kind} step, s": statistics.median(row["time/step_s"] for row in some) for kind, some in (("instant", instant), ("slow", slow))},
        **{f"{kind} sampling, s": statistics.median(row["time/sample_s"] for row in some) for kind, some in (("instant", instant), ("slow", slow))},
        "slow step over instant step, median of pairs": statistics.median(ratios),
        "slow step over instant step, least": min(ratios),
        "slow step over instant step, most": max(ratios),
    }


if __name__ == "__main__":
    main()
