"""Does a run that is killed go on as if nothing had happened? Kill the driver, a learner rank or Ray itself, again and again, and start anew.

    python -m benchmarks.kills CONFIG [key=value ...] --out FOLDER [--kills 10] [--seed 0]

Two undisturbed runs show how far a run repeats itself (with rollout.repeatable and one variant actor: to its end); the killed one must agree with them
as far as they agree with each other, and its questions, variants and seeds must be theirs to the end.
After every kill nothing may be left: no process, no shared memory, no half file under a final name. Ends in one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos import metric_rows, processes, steps_done, wait_for
from benchmarks.environment import environment
from benchmarks.quickstart import rlvid, run_parser
from rlvid.config import load
from rlvid.learner import checkpoints

SAME = ("reward/mean", "optimizer/grad_norm", "loss/policy", "mismatch/mean_abs_dlogp", "group/zero_signal_share")
TITLES = {"learner rank": "ray::Rank", "Ray's head": "gcs_server", "raylet": "raylet"}


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    common = [*options.overrides, f"run.dir={options.out}"]
    for name in ("undisturbed-1", "undisturbed-2"):
        rlvid("train", options.config, *common, f"run.name={name}")
    killed, left = kill_again_and_again(options.config, [*common, "run.name=killed"], options.kills, options.seed)
    once, twice, cut = (metric_rows(options.out / name) for name in ("undisturbed-1", "undisturbed-2", "killed"))
    found = {
        "kills": dict(killed),
        "left behind": left,
        "steps": len(updates(cut)),
        "steps on which two undisturbed runs agree bit for bit": agreeing(once, twice),
        "steps on which the killed run agrees with the first": agreeing(once, cut),
        "steps on which the killed run agrees with the second": agreeing(twice, cut),
        "steps on which it asked the same, with the same specs and seeds": sum(
            asked(options.out / "undisturbed-1", row["step"]) == asked(options.out / "killed", row["step"]) for row in updates(cut)
        ),
    }
    for name, value in found.items():
        print(f"{name:60s} {value}")
    print(json.dumps({"benchmark": "kills", "environment": environment(), "seed": options.seed, "found": found}))


def kill_again_and_again(config: str, overrides: list[str], kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Start, kill at a random moment, see what is left, start anew with the same name; the last one may end. Returns what was killed, and what was left."""
    settings, chance, killed, left = load(config, overrides), random.Random(seed), Counter[str](), list[str]()
    victims = ["driver", "learner rank", "Ray's head", "driver while it writes a checkpoint", "raylet"]
    for number in range(kills):
        before = shared_memory()
        victim = victims[number % len(victims)]
        run = start(config, overrides, settings.folder.parent)
        family = hit(run, victim, settings.folder, chance)
        if family is None:
            print(f"kills: the run ended before {victim} could be killed", flush=True)
            break
        killed[victim] += 1
        run.wait(timeout=120)
        remains = leftovers(family, before) + half_files(settings.folder)
        print(f"kills: {victim} after step {steps_done(settings.folder)}, exit code {run.returncode}, left behind: {remains or 'nothing'}", flush=True)
        left += remains
        if run.returncode == 0:
            left.append(f"exit code 0 after killing {victim}")
    rlvid("train", config, *overrides)
    return killed, left


def start(config: str, overrides: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "killed-output.txt").open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", "rlvid.cli", "train", config, *overrides], stdout=output, stderr=output)


def hit(run: subprocess.Popen[bytes], victim: str, folder: Path, chance: random.Random) -> list[psutil.Process] | None:
    """Wait for a random moment and kill. Returns all processes that the run had; None when it was over before."""
    at_least = steps_done(folder) + chance.randrange(4)  # a step that was reached before a kill may have to be done again
    wait_for(lambda: run.poll() is not None or (processes(run.pid, "ray::Rank") != [] and steps_done(folder) >= at_least), 900, "the run to go on")
    if victim.startswith("driver while"):
        wait_for(lambda: run.poll() is not None or any((folder / "checkpoints").glob(".step_*.writing")), 900, "a checkpoint to be written")
    else:
        time.sleep(chance.uniform(0, 3))
    if run.poll() is not None:
        return None
    family = psutil.Process(run.pid).children(recursive=True)
    target = run.pid if victim.startswith("driver") else next(one.pid for one in family if TITLES[victim] in " ".join(title(one))[:200])
    os.kill(target, signal.SIGKILL)
    return family


def title(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def leftovers(family: list[psutil.Process], before: set[str], patience_s: float = 90) -> list[str]:
    """Processes and shared memory that are still there after a while."""

    def alive() -> list[str]:
        found = []
        for process in family:
            try:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"process {process.name()}")
            except psutil.NoSuchProcess:
                continue
        return found

    return patiently(alive, patience_s) + patiently(lambda: sorted(f"/dev/shm/{name}" for name in shared_memory() - before), patience_s)


def patiently(look: Callable[[], list[str]], patience_s: float) -> list[str]:
    end = time.monotonic() + patience_s
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def half_files(folder: Path) -> list[str]:
    """Checkpoints under their final name that are not whole."""
    return [f"{path.name}: {problem}" for path in checkpoints.complete(folder / "checkpoints") if (problem := checkpoints.damage(path))]


def agreeing(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> int:
    """Steps from the first on whose numbers are the same to the last bit."""
    count = 0
    for a, b in zip(updates(one), updates(other), strict=False):
        if a["step"] != b["step"] or any(a[name] != b[name] for name in SAME):
            break
        count += 1
    return count


def updates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["step"] > 0]


def asked(folder: Path, step: int) -> list[Any]:
    """Question, spec and seed of every slot of a step."""
    rows = [json.loads(line) for line in (folder / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]
    return [(row["question_id"], row["spec"], row["seed"]) for row in rows if "seed" in row]


if __name__ == "__main__":
    main()
