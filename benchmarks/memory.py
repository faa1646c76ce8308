"""Does memory stay flat? That of the driver and of every kind of actor over a long run, polled from outside.

    python -m benchmarks.memory CONFIG [key=value ...] --out FOLDER [--steps 300] [--every 5]

Shared pages are counted once (PSS). The first third of the run is left out, when caches fill; of the rest a line is fitted: its slope is what 100 steps
add, beside how far the readings scatter around it. Ends in one JSON line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil

from benchmarks.chaos import below, engines, steps_done, titled
from benchmarks.environment import environment
from benchmarks.quickstart import run_parser
from rlvid.config import load

KINDS: dict[str, Callable[[int], list[psutil.Process]]] = {
    "driver": lambda run: [psutil.Process(run)],
    "learner": titled("ray::Rank"),
    "variant actor": titled("ray::VariantActor"),
    "rollout actor": titled("ray::RolloutActor"),
    "engine": engines,
    "object store": lambda run: below(run, lambda process: process.name() == "raylet"),
}


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=float, default=5, help="seconds between two readings")
    options = parser.parse_intermixed_args()
    settings = [f"run.dir={options.out}", "run.name=memory", f"run.steps={options.steps}", "tracker.kind=none", *options.overrides]
    folder = load(options.config, settings).folder
    readings: list[dict[str, float]] = []
    process = subprocess.Popen([sys.executable, "-m", "rlvid.cli", "train", str(options.config), *settings])
    while process.poll() is None:
        time.sleep(options.every)
        if (step := steps_done(folder)) > 0:
            readings.append({"step": float(step)} | memory(process.pid))
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    found = {kind: trend([r for r in readings[:-1] if kind in r and r["step"] > options.steps / 3], kind) for kind in KINDS}
    for kind, row in found.items():
        print(f"{kind:14s}", "  ".join(f"{name} {value:.2f}" for name, value in row.items()))
    print(json.dumps({"benchmark": "memory", "environment": environment(), "steps": options.steps, "found": found}))


def memory(run: int) -> dict[str, float]:
    """MiB by kind of process, of those that are there."""
    found = {kind: sum(map(shared_once, find(run))) / 2**20 for kind, find in KINDS.items()}
    return {kind: size for kind, size in found.items() if size}


def shared_once(process: psutil.Process) -> int:
    """Bytes, each shared page divided among those who share it (PSS); 0 of a process that has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def trend(readings: list[dict[str, float]], kind: str) -> dict[str, float]:
    """MiB: the mean, what 100 steps add, and the standard deviation around the line."""
    steps, values = (np.array([reading[name] for reading in readings]) for name in ("step", kind))
    slope, start = np.polyfit(steps, values, 1)
    return {"mean, MiB": float(values.mean()), "MiB per 100 steps": float(100 * slope), "scatter, MiB": float((values - start - slope * steps).std())}


if __name__ == "__main__":
    main()
