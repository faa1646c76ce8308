"""Does a run survive what happens at night? Kills, freezes and broken videos at seeded random moments, against an undisturbed run.

    python -m benchmarks.chaos CONFIG [key=value ...] --out FOLDER [--faults 12] [--every 15] [--seed 0] [--broken 0.2]

Trains the config twice: undisturbed, and with a fault every EVERY seconds (exponentially distributed) until FAULTS are injected,
on questions of which a share has broken videos. Then it counts the slots of every step and compares the held-out accuracy.
Ends in one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import environment
from benchmarks.quickstart import read_rows, rlvid, run_parser
from rlvid.config import Config, load

FILLER = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
kept = [ray.put(bytes(2**24)) for _ in range(int(sys.argv[2]))]
time.sleep(5)
"""


@dataclass
class Faults:
    """What was done to a run, and what it said of it."""

    injected: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--every", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", type=float, default=0.2)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    common = [*options.overrides, f"run.dir={options.out}", "rollout.engines=2", "variants.actors=2", "rollout.heartbeat_s=15", "data.max_bad_in_a_row=100"]
    config = load(options.config, common)
    quiet = [*common, "run.name=undisturbed"]
    stormy = [*common, "run.name=chaos", f"data.train={with_broken_videos(config.data.train, options.out, options.broken, options.seed)}"]
    rlvid("train", options.config, *quiet)
    faults = storm(options.config, stormy, options.faults, options.every, options.seed)
    found = {
        "injected": dict(faults.injected),
        "restarts": dict(faults.restarts),
        "slots_of_each_step_exactly_once": slots_problem(load(options.config, stormy)) or "yes",
        "quarantined": last(options.out / "chaos", "data/quarantined"),
        "accuracy_chaos": last(options.out / "chaos", "eval/accuracy"),
        "accuracy_undisturbed": last(options.out / "undisturbed", "eval/accuracy"),
    }
    for name, value in found.items():
        print(f"{name:40s} {value}")
    print(json.dumps({"benchmark": "chaos", "environment": environment(), "seed": options.seed, "found": found}))


def storm(config: str, overrides: list[str], faults: int, every_s: float, seed: int, kinds: Iterable[str] = ()) -> Faults:
    """Train and disturb. Raises CalledProcessError when the run does not end well."""
    settings = load(config, overrides)
    chance, done = random.Random(seed), Faults()
    run = subprocess.Popen([sys.executable, "-m", "rlvid.cli", "train", config, *overrides], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: steps_done(settings.folder) >= 1 or run.poll() is not None, 900, "the first step")
        pending = [kind for kind in KINDS if not kinds or kind in kinds]
        while run.poll() is None and sum(done.injected.values()) < faults:
            # Each kind once, in random order, then any.
            kind = pending.pop(chance.randrange(len(pending))) if pending else chance.choice(list(kinds or KINDS))
            if KINDS[kind](run.pid, chance):
                done.injected[kind] += 1
                print(f"chaos: {kind} after step {steps_done(settings.folder)}", flush=True)
            elif kind not in done.injected:
                pending.append(kind)  # its victim is being replaced: later
            deadline = time.monotonic() + chance.expovariate(1 / every_s)
            while run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        run.wait()
    finally:
        if run.poll() is None:  # this benchmark failed, not the run
            run.terminate()
    said = (settings.folder / "log.txt").read_text()
    done.restarts.update(re.findall(r"WARNING (.+?) \d+ failed \(.*\): it is started again", said))
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, run.args, stderr=said[-3000:])
    return done


# ---- faults: each says whether it found a victim


def processes(run: int, title: str) -> list[psutil.Process]:
    """Processes of a run whose title begins so."""
    return below(run, lambda process: " ".join(process.cmdline()).startswith(title))


def below(run: int, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Those processes below a run's that live and are wanted, oldest first."""
    found = []
    for process in psutil.Process(run).children(recursive=True):
        try:
            if wanted(process) and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.pid)


def titled(title: str) -> Callable[[int], list[psutil.Process]]:
    return lambda run: processes(run, title)


def engines(run: int) -> list[psutil.Process]:
    """The engines' own processes. Not every Python lets vLLM give them a title: then they are what their actors spawned."""
    actors = {actor.pid for actor in processes(run, "ray::RolloutActor")}

    def spawned(process: psutil.Process) -> bool:
        line = " ".join(process.cmdline())
        return process.ppid() in actors and ("EngineCore" in line or "spawn_main" in line)

    return below(run, spawned)


def strike(find: Callable[[int], list[psutil.Process]], how: signal.Signals) -> Callable[[int, random.Random], bool]:
    def fault(run: int, chance: random.Random) -> bool:
        victims = find(run)
        if victims:
            os.kill(chance.choice(victims).pid, how)
        return bool(victims)

    return fault


def fill_object_store(run: int, chance: random.Random) -> bool:
    """Another program on the same Ray takes a gigabyte, which is all of the run's object store, for a while."""
    raylets = below(run, lambda process: process.name() == "raylet")
    if not raylets:
        return False
    address = next(argument.split("=")[1] for argument in raylets[0].cmdline() if argument.startswith("--gcs-address="))
    ray = {name: value for name, value in raylets[0].environ().items() if name.startswith("RAY_")}  # its token, and to stay on loopback
    try:
        subprocess.run([sys.executable, "-c", FILLER, address, "64"], capture_output=True, timeout=60, check=True, env=os.environ | ray)
    except subprocess.SubprocessError as error:
        print(f"chaos: the object store could not be filled: {error}", flush=True)
        return False
    return True


KINDS: dict[str, Callable[[int, random.Random], bool]] = {
    "kill engine process": strike(engines, signal.SIGKILL),
    "kill rollout actor": strike(titled("ray::RolloutActor"), signal.SIGKILL),
    "freeze engine process": strike(engines, signal.SIGSTOP),
    "kill variant actor": strike(titled("ray::VariantActor"), signal.SIGKILL),
    "freeze variant actor": strike(titled("ray::VariantActor"), signal.SIGSTOP),
    "kill teacher": strike(titled("ray::TeacherActor"), signal.SIGKILL),
    "fill object store": fill_object_store,
}


# ---- the question file, and what the run wrote


def with_broken_videos(path: Path, out: Path, share: float, seed: int) -> Path:
    """A copy of a question file in which a share of the videos is missing, empty, cut off or text."""
    chance = random.Random(seed)
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    for row in rows:
        row["video"] = str((path.parent / row["video"]).absolute())
        if chance.random() < share:
            row["video"] = str(broken(Path(row["video"]), out / "broken", chance))
    written = out / "chaos.jsonl"
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return written.absolute()


def broken(video: Path, folder: Path, chance: random.Random) -> Path:
    folder.mkdir(exist_ok=True)
    kind = chance.choice(["missing", "empty", "cut", "text"])
    path = (folder / f"{kind}-{video.name}").absolute()
    content = video.read_bytes()
    if kind != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 3], "text": b"this is no video\n" * 50}[kind])
    return path


def slots_problem(config: Config, steps: int | None = None) -> str:
    """What is wrong with the dumped slots; empty when every slot of every step (of the first `steps`) is there exactly once, sampled by weights new enough."""
    wanted = {(variant, sample) for variant in range(len(config.variants.kinds)) for sample in range(config.rollout.answers)}
    for step in range(1, (steps or config.run.steps) + 1):
        rows = [json.loads(line) for line in (config.folder / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]
        slots = Counter((row["question_id"], row["variant"], row["sample"]) for row in rows if "sample" in row)
        questions = {question for question, _, _ in slots}
        if len(questions) != config.data.questions_per_step:
            return f"step {step} has {len(questions)} questions"
        if slots != Counter((question, *slot) for question in questions for slot in wanted):
            return f"step {step} has slots missing or twice"
        oldest = min(row["policy_version"] for row in rows if "sample" in row)
        if oldest < step - 1 - config.rollout.max_staleness:
            return f"step {step} used an answer of version {oldest}"
    return ""


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_rows(folder)
    except FileNotFoundError:
        return []


def steps_done(folder: Path) -> int:
    return max((row["step"] for row in metric_rows(folder)), default=-1)


def last(folder: Path, name: str) -> float:
    return [row[name] for row in metric_rows(folder) if name in row][-1]


def wait_for(true: Callable[[], bool], deadline_s: float, what: str) -> None:
    end = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s:.0f} s for {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
