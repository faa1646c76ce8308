"""Thousands of questions through the real pool, with videos that are slow, that crash their actor, and that are broken. Does anything healthy get lost?

    python -m tests.integration.soak [--questions 20000] [--files 200] [--actors 4] [--deadline 5]

Variant actors are the product's own (real Ray actors that decode real clips), but for two kinds of files: one that is never done, and one that takes the
process down. Engines are real Ray actors whose tokens are made up. Every healthy question must be answered once, every bad one quarantined once with its
reason, all actors must serve at the end, and the driver's memory must not grow. Ends in one JSON line; exit code 1 where a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from rlvid.actors import rollout, variant
from rlvid.actors.placement import connect, make, place
from rlvid.actors.pool import ActorPool
from rlvid.actors.sampler import Sampler
from rlvid.actors.variant import VariantActor
from rlvid.asking.ask import Inquiry, Results, ask
from rlvid.config import Config, load
from rlvid.process.role import Role
from rlvid.types import GenerateRequest, GenerateResult, Group, Question, Rollout

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SHARES = {"slow": 0.10, "crashing": 0.05, "broken": 0.05}
REASONS = {"slow": "it was not done within", "crashing": "(2 attempts)", "broken": "broken_"}


class Hostile(VariantActor):
    """Two kinds of files do here what hostile ones do to a decoder."""

    def _clip(self, question: Question, *settings: Any) -> Any:
        if "slow" in question.video:
            time.sleep(3600)
        if "crashing" in question.video:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._clip(question, *settings)


class Tokens:
    """An engine without a model."""

    def __init__(self, config: Config, number: int) -> None:
        self.number = number

    async def start(self) -> int:
        return self.number

    async def check(self) -> int:
        return self.number

    async def stop(self) -> None:
        return None

    async def generate(self, request: GenerateRequest, frames: Any) -> GenerateResult:
        assert frames.ndim == 4
        answers = (Rollout(request.question_id, 0, at, 9, (1, 2), (-0.1, -0.1), "<think>x</think><answer>red</answer>", 0, at) for at in range(request.answers))
        return GenerateResult(tuple(answers), "digest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--deadline", type=float, default=5.0, help="video.deadline_s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), options.questions, options.files, options.actors, options.deadline)
    for name, value in found.items():
        print(f"{name:40s} {value:.6g}")
    print(json.dumps({"benchmark": "soak", "environment": environment(), **vars(options), "found": found}))
    sys.exit(0 if whole(found) else 1)


def whole(found: dict[str, float]) -> bool:
    """Nothing healthy was lost, nothing bad slipped through, and nobody is missing."""
    return not (found["healthy lost"] or found["bad not named"] or found["told more than once"] or found["actors lost"]) and found["memory growth"] < 1.1


def soak(folder: Path, questions: int, files: int, actors: int, deadline_s: float) -> dict[str, float]:
    """The figures; shares of bad files as in SHARES."""
    from rlvid.world.tiny_model import build_tiny_model

    model = build_tiny_model(folder / "model", ["What colour is it? red blue"])
    asked = _questions(folder, questions, files)
    settings = [
        f"model.path={model}",
        f"run.dir={folder / 'runs'}",
        f"data.train={folder / 'q.jsonl'}",
        f"video.deadline_s={deadline_s}",
        "video.cache_dir=null",
    ]
    config = load(CONFIG, [*settings, f"variants.actors={actors}", "variants.kinds=[uniform]", "relevance.scorer=motion", "video.cache_dir=null"])
    roles = [replace(variant.role(config), actor=Hostile), replace(rollout.role(config), actor=Tokens, needs={"CPU": 0.1}, environment={})]
    connect(config, roles)
    import ray

    try:
        return asyncio.run(_asked(config, roles, asked))
    finally:
        ray.shutdown()


def _questions(folder: Path, questions: int, files: int) -> list[Question]:
    """Questions about files whose names say what they are, in random order."""
    from tests.unit.clips import make as clip

    one = clip(folder / "clip.mp4", frames=25, size=(84, 84))
    draw = random.Random(0)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * files))]
    kinds += ["healthy"] * (files - len(kinds))
    for at, kind in enumerate(kinds):
        path = folder / f"{kind}_{at}.mp4"
        path.write_bytes(b"no video" * 100) if kind == "broken" else shutil.copy(one, path)
    names = [str(folder / f"{kind}_{at}.mp4") for at, kind in enumerate(kinds)]
    asked = [Question(f"q{at}", names[at % files], "What colour is it?", "open", answer="red") for at in range(questions)]
    draw.shuffle(asked)
    return asked


async def _asked(config: Config, roles: list[Role], asked: list[Question]) -> dict[str, float]:
    import psutil

    places = place(config, roles)
    pools = [ActorPool(role.name, role.count, lambda number, role=role: make(config, role, places[role.name][number], number), **role.pool) for role in roles]
    await asyncio.gather(*[pool.start() for pool in pools])
    videos, engines = pools
    told: Counter[str] = Counter()
    wrong = {"healthy lost": 0, "bad not named": 0}
    examples: dict[str, str] = {}
    memory: list[int] = []
    kinds = {question.id: Path(question.video).name.split("_")[0] for question in asked}

    def note(results: Results) -> None:
        for key, result in results:
            told[key] += 1
            kind = kinds[key]
            failed = not isinstance(result, Group) if kind == "healthy" else isinstance(result, Group) or REASONS[kind] not in result.reason
            wrong["healthy lost" if kind == "healthy" else "bad not named"] += failed
            if failed and kind not in examples:
                examples[kind] = "answered" if isinstance(result, Group) else result.reason
                print(f"{kind}: {examples[kind]}", file=sys.stderr, flush=True)
            if sum(told.values()) % 1000 == 0:
                print(f"{sum(told.values())} questions, {videos.restarts} restarts, {wrong}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        memory.append(psutil.Process().memory_info().rss)

    began = time.perf_counter()
    inquiry = Inquiry(config.data.train, ("uniform",), answers=config.rollout.answers, in_flight=64)
    await ask(Sampler(config, videos, engines), ((question.id, question) for question in asked), inquiry, note)
    seconds = time.perf_counter() - began
    until = time.monotonic() + 120
    while len(videos.handles) < len(videos.slots) and time.monotonic() < until:
        await asyncio.sleep(0.5)
    missing = sum(len(pool.slots) - len(pool.handles) for pool in pools)
    videos.close()
    quarter = memory[len(memory) // 4 : len(memory) // 2] or memory
    last = memory[-len(quarter) :]
    for pool in pools:
        pool.stop()
    return {
        "questions": float(len(asked)),
        **{f"{kind} questions": float(sum(one == kind for one in kinds.values())) for kind in ("healthy", *SHARES)},
        **{name: float(count) for name, count in wrong.items()},
        "told more than once": float(sum(count != 1 for count in told.values()) + len(asked) - len(told)),
        "actors lost": float(missing),
        "restarts": float(videos.restarts),
        "memory growth": (sum(last) / len(last)) / (sum(quarter) / len(quarter)),
        "memory MiB": max(memory) / 2**20,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
