"""Does the pool keep an engine busy, and is everything that answers share computed once? Tokens per second against the bare engine, and its own counters.

    python -m benchmarks.rollouts CONFIG [key=value ...] [--questions 24] [--answers 1 4 8 16] [--pairs 3] [--millions 10 | 100]

The same requests (all variants of the config, other questions for each number of answers) go to a vLLM engine in one process and through the actor pool
with Ray's object store, in turns, each in a process of its own. A third engine, not timed, tells what it computed; at its end it is asked for the same
variants again, and for repairs of them (the prompt with a teacher's evidence, a second video). `--millions`: a random model of so many million
parameters in place of the config's, for which an engine works longer than a request travels. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.sync import SHAPES, random_model
from rlvid.config import Config, load
from rlvid.types import GenerateRequest

COUNTED = ("prompt tokens asked for", "of them from the cache", "videos through the vision tower")
COMING_BACK = ("the same variants later", "repairs later, one evidence video each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--millions", type=int, choices=list(SHAPES))
    parser.add_argument("--way", choices=["pool", "bare", "counted"], help="measure one way once and print it; the benchmark calls itself so")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, folder)


def measure(options: argparse.Namespace, folder: str) -> None:
    settings = [f"run.dir={folder}", "rollout.engines=1", "data.eval="]
    if options.millions and not options.way:
        settings.append(f"model.path={random_model(Path(folder) / 'model', *SHAPES[options.millions])}")
    config = load(options.config, [*options.overrides, *settings])
    if options.way:
        chunks = requests(config, options.questions, len(options.answers) + 1)
        print(json.dumps(pooled(config, chunks, options.answers) if options.way == "pool" else alone(config, chunks, options.answers, options.way)))
        return
    rows: dict[str, list[dict[str, dict[str, float]]]] = {"pool": [], "bare": []}
    for _ in range(options.pairs):
        for way, runs in rows.items():
            runs.append(told(config, options, way))
    counted = told(config, options, "counted")
    found = {}
    for answers in map(str, options.answers):
        pool, bare = ([run[answers] for run in rows[way]] for way in ("pool", "bare"))
        found[answers] = {
            "pool over bare, tokens per second": statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(pool, bare, strict=True)),
            "tokens per second, pool": statistics.median(row["tokens_per_s"] for row in pool),
            "milliseconds per answer, pool": statistics.median(row["ms_per_answer"] for row in pool),
            "most that could come from the cache": (int(answers) - 1) / int(answers),
            **counted[answers],
        }
        print(f"M = {answers:3s}", "  ".join(f"{name} {value:.4g}" for name, value in found[answers].items()), flush=True)
    for name in COMING_BACK:
        found[name] = counted[name]
        print(name, "  ".join(f"{what} {value:.4g}" for what, value in found[name].items()), flush=True)
    said = {"questions": options.questions} | ({"million parameters": options.millions} if options.millions else {})
    print(json.dumps({"benchmark": "rollouts", "environment": environment(), **said, "found": found}))


def told(config: Config, options: argparse.Namespace, way: str) -> dict[str, dict[str, float]]:
    """What a process that measures one way says."""
    from rlvid.actors.rollout import rollout_environment

    settings = [*options.overrides, f"model.path={config.model.path}"]
    command = [sys.executable, "-m", "benchmarks.rollouts", options.config, *settings, "--questions", str(options.questions), "--way", way]
    command += ["--answers", *map(str, options.answers)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | rollout_environment(config))
    return json.loads(next(line for line in said.stdout.splitlines()[::-1] if line.startswith("{")))


def requests(config: Config, questions: int, chunks: int) -> list[list[tuple[Any, ...]]]:
    """As many lists of (one request per variant, its frames), about different questions."""
    from rlvid.actors.variant import VariantActor
    from rlvid.data.questions import iter_questions

    actor = VariantActor(config.model_copy(update={"variants": config.variants.model_copy(update={"memory_gib": 16})}), 0)
    actor.start()
    found: list[list[tuple[Any, ...]]] = [[] for _ in range(chunks)]
    for number, question in enumerate(itertools.islice(iter_questions(config.data.train), questions * chunks)):
        prepared, *frames = actor.build(question, config.variants.kinds, 0)
        for variant, cut in enumerate(frames):
            request = GenerateRequest(question.id, variant, prepared.prompt, prepared.video_metadata[variant], 1, 1000 * variant)
            found[number // questions].append((request, cut))
    if not found[-1]:
        raise SystemExit(f"{config.data.train} has fewer than {questions * chunks} questions: lower --questions")
    return found


def pooled(config: Config, chunks: list[list[tuple[Any, ...]]], answers: list[int]) -> dict[str, dict[str, float]]:
    """Through the pool. The first list of requests only warms it up."""
    from rlvid.loop.session import open_session

    with open_session(config, with_learner=False) as session:
        import ray

        async def ask(chunk: list[tuple[Any, ...]], count: int) -> list[Any]:
            return await asyncio.gather(*[session.rollouts.call("generate", with_answers(request, count), ref) for request, ref in chunk])

        kept = [[(request, ray.put(frames)) for request, frames in chunk] for chunk in chunks]
        session.wait(ask(kept[0], 1))
        found = {}
        for chunk, count in zip(kept[1:], answers, strict=True):
            started = time.perf_counter()
            results = session.wait(ask(chunk, count))
            tokens = sum(len(rollout.tokens) for result in results for rollout in result.rollouts)
            found[str(count)] = speed(tokens, len(results) * count, time.perf_counter() - started)
        return found


def alone(config: Config, chunks: list[list[tuple[Any, ...]]], answers: list[int], way: str) -> dict[str, dict[str, float]]:
    """vLLM's own engine with the pool's arguments: its speed (bare), or what its counters say (counted)."""
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    from rlvid.actors.rollout import RolloutActor, engine_arguments, forbidden_tokens
    from rlvid.sync.plugin import register

    register()
    seen = {"queries": 0, "hits": 0}

    class Counters(StatLoggerBase):
        def __init__(self, *_: Any) -> None: ...
        def log_engine_initialized(self) -> None: ...
        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                seen["queries"] += scheduler_stats.prefix_cache_stats.queries
                seen["hits"] += scheduler_stats.prefix_cache_stats.hits

    def engine() -> Any:
        arguments = engine_arguments(config)
        if way == "bare":
            return AsyncLLM.from_engine_args(arguments)
        arguments.disable_log_stats, arguments.limit_mm_per_prompt = False, {"image": 0, "video": 2}
        arguments.worker_extension_cls = "benchmarks.rollouts_counter.VisionCounter"
        return AsyncLLM.from_engine_args(arguments, stat_loggers=[Counters])

    async def work() -> dict[str, dict[str, float]]:
        llm, actor = engine(), RolloutActor(config, 0)
        actor.forbidden = forbidden_tokens(config.model.path)

        async def one(request: GenerateRequest, *frames: Any) -> int:
            videos = list(zip(frames, (request.video_metadata, request.evidence_metadata), strict=False))
            prompt = {"prompt": request.prompt, "multi_modal_data": {"video": videos}}
            outputs = [output async for output in llm.generate(prompt, actor._sampling(request), uuid.uuid4().hex)]
            return sum(len(answer.token_ids) for answer in outputs[-1].outputs)

        async def timed(asked: list[tuple[Any, ...]], count: int) -> dict[str, float]:
            started = time.perf_counter()
            tokens = sum(await asyncio.gather(*[one(with_answers(request, count), *frames) for request, *frames in asked]))
            return speed(tokens, len(asked) * count, time.perf_counter() - started)

        async def counted(asked: list[tuple[Any, ...]], count: int) -> dict[str, float]:
            before, looked = dict(seen), (await llm.collective_rpc("vision_items"))[0]
            await timed(asked, count)
            await asyncio.sleep(0.5)  # the last counters arrive
            queries, hits = (seen[name] - before[name] for name in ("queries", "hits"))
            items = (await llm.collective_rpc("vision_items"))[0] - looked
            return dict(zip(COUNTED, (queries, hits / max(1, queries), items / len(asked)), strict=True))

        await timed(chunks[0], 1)
        if way == "bare":
            found = {str(count): await timed(chunk, count) for chunk, count in zip(chunks[1:], answers, strict=True)}
        else:
            await llm.collective_rpc("count_vision")
            found = {str(count): await counted(chunk, count) for chunk, count in zip(chunks[1:], answers, strict=True)}
            found |= dict(zip(COMING_BACK, (await counted(chunks[-1], 1), await counted([repair(*one) for one in chunks[-1]], 1)), strict=True))
        llm.shutdown()
        return found

    return asyncio.run(work())


def repair(request: GenerateRequest, frames: Any) -> tuple[GenerateRequest, Any, Any]:
    """The request as a teacher's evidence changes it: two of its frames once more, as a second video."""
    from dataclasses import replace

    from rlvid.families import named
    from rlvid.teacher.student import evidence_metadata, patched_prompt, twice
    from rlvid.types import EvidencePatch

    moments = [(1.0, None), (2.0, None)]
    prompt = patched_prompt(request.prompt, EvidencePatch("temporal", "Look at 1 s.", ((1.0, 2.0),)), moments, named("qwen2_5_vl").placeholder)
    size = (int(frames.shape[1]), int(frames.shape[2]))
    return replace(request, prompt=prompt, evidence_metadata=evidence_metadata(moments, size), answers=1), frames, twice(frames[1:3])


def with_answers(request: GenerateRequest, count: int) -> GenerateRequest:
    from dataclasses import replace

    return replace(request, answers=count)


def speed(tokens: int, answers: int, seconds: float) -> dict[str, float]:
    return {"tokens_per_s": tokens / seconds, "ms_per_answer": 1000 * seconds / answers}


if __name__ == "__main__":
    main()
