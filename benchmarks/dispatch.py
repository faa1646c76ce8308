"""Does one driver feed hundreds of engines? Its time per rollout and the throughput with 16 to 256 simulated engines, and what a step costs it.

    python -m benchmarks.dispatch [--engines 16 64 256] [--seconds 1.0] [--rounds 6]

The engines are simulated by real Ray actors (one process stands for many): every request goes through the pool, Ray's calls and
back, and each answer takes a fixed time. Everything else is the product's own. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from rlvid.actors.placement import connect
from rlvid.actors.pool import ActorPool
from rlvid.config import Config, load
from rlvid.loop.normalize import Normalizer
from rlvid.observe.dumps import write_step
from rlvid.observe.step_row import group_metrics
from rlvid.train import training_prompts
from rlvid.types import GenerateRequest, GenerateResult, Group, Prepared, Question, Rollout, Score, VariantSpec

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
CAPACITY, TOKENS = 8, 128


class Engines:
    """One Ray process that stands for many engines: an answer takes `seconds`, whatever else is going on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        await asyncio.sleep(self.seconds)
        return GenerateResult(tuple(rollout(request.question_id, request.variant, sample) for sample in range(request.answers)), "digest")

    async def start(self) -> int:
        return 0

    async def stop(self) -> None:
        return None


def rollout(question: str, variant: int, sample: int) -> Rollout:
    tokens = tuple(range(sample, sample + TOKENS))
    return Rollout(question, variant, sample, 1000, tokens, tuple(-0.1 for _ in tokens), "<think>so</think><answer>B</answer>", 0, sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a simulated engine takes for the M answers of a variant")
    parser.add_argument("--rounds", type=int, default=6, help="requests per place in the pool")
    options = parser.parse_args()
    config = load(CONFIG, ["run.name=dispatch", "rollout.answers=8"])
    connect(config)
    import ray

    try:
        found: dict[str, float] = {}
        for engines in options.engines:
            found |= asyncio.run(dispatched(engines, options.seconds, options.rounds))
    finally:
        ray.shutdown()
    first, last = options.engines[0], options.engines[-1]
    found[f"throughput per engine, {last} over {first}"] = found[f"{last} engines: share of the ideal"] / found[f"{first} engines: share of the ideal"]
    found |= step_costs(config)
    for name, value in found.items():
        print(f"{name:66s} {value:.4g}")
    print(json.dumps({"benchmark": "dispatch", "environment": environment(), "seconds": options.seconds, "found": found}))


async def dispatched(engines: int, seconds: float, rounds: int) -> dict[str, float]:
    """All requests at once, as the questions of a large batch make them."""
    import ray

    processes = [ray.remote(Engines).options(num_cpus=0, max_concurrency=10000).remote(seconds) for _ in range(min(4, engines))]
    settings: dict[str, Any] = {"capacity": CAPACITY, "deadline_s": 600, "start_deadline_s": 120, "max_restarts": 0}
    pool = ActorPool("engine", engines, lambda number: Alias(processes[number % len(processes)]), **settings)
    await pool.start()
    requests = [GenerateRequest(f"q{n}", 0, "a prompt of some length " * 20, {}, 8, n) for n in range(engines * CAPACITY * rounds)]
    await asyncio.gather(*[pool.call("generate", request) for request in requests[: engines * CAPACITY]])  # connections are made
    begun, worked = time.perf_counter(), time.thread_time()
    await asyncio.gather(*[pool.call("generate", request) for request in requests])
    wall, driver = time.perf_counter() - begun, time.thread_time() - worked
    for process in processes:
        ray.kill(process)
    return {
        f"{engines} engines: driver milliseconds per rollout": 1000 * driver / (len(requests) * 8),
        f"{engines} engines: driver milliseconds per request": 1000 * driver / len(requests),
        f"{engines} engines: requests per second": len(requests) / wall,
        f"{engines} engines: share of the ideal": rounds * seconds / wall,
    }


class Alias:
    """A handle of its own for an actor that many engines share."""

    def __init__(self, actor: Any) -> None:
        self.start, self.stop, self.generate = actor.start, actor.stop, actor.generate


def step_costs(config: Config) -> dict[str, float]:
    """Milliseconds of the driver for everything between the answers and the learner, by questions, variants, answers."""
    found = {}
    for questions, variants, answers in ((16, 4, 8), (32, 4, 8), (64, 4, 8), (16, 8, 8), (16, 4, 16)):
        groups = [group(f"q{number}", variants, answers) for number in range(questions)]
        with tempfile.TemporaryDirectory() as folder:
            begun = time.thread_time()
            rewards = [np.array(one.rewards_KM) for one in groups]
            advantages = Normalizer(config)(groups, rewards)
            training_prompts(config, groups, advantages)
            group_metrics(groups, rewards, version=0)
            write_step(Path(folder), 1, groups, rewards, advantages)
            slots = questions * variants * answers
            cost = 1000 * (time.thread_time() - begun)
        found[f"step of {questions} x {variants} x {answers} = {slots} slots: driver milliseconds"] = cost
        found[f"step of {questions} x {variants} x {answers} = {slots} slots: milliseconds per slot"] = cost / slots
    return found


def group(question: str, variants: int, answers: int) -> Group:
    """K x M answers, half of them right."""
    specs = tuple(VariantSpec("uniform", tuple(float(t) for t in range(16)), None, (224, 224), k) for k in range(variants))
    asked = Question(question, "/videos/a.mp4", "Which colour?", "multiple_choice", ("red", "blue"), "red")
    right: Sequence[float] = [float(sample % 2) for sample in range(answers)]
    return Group(
        prepared=Prepared(asked, "a prompt", specs, tuple({} for _ in specs), 60.0),
        frames=tuple(None for _ in specs),
        rollouts_KM=tuple(tuple(rollout(question, k, m) for m in range(answers)) for k in range(variants)),
        scores_KM=tuple(tuple(Score({"accuracy": value, "format": 1.0}) for value in right) for _ in specs),
        rewards_KM=tuple(tuple(1 + value for value in right) for _ in specs),
        correct_KM=tuple(tuple(right) for _ in specs),
        prompt_digests=tuple("digest" for _ in specs),
    )


if __name__ == "__main__":
    main()
