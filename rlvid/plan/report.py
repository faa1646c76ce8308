"""The plan on the terminal, and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlvid.config import Config, ConfigError
from rlvid.plan.advice import advice
from rlvid.plan.model_size import ModelSize, model_size
from rlvid.plan.rates import Rates, StepTime, measured, step_time
from rlvid.plan.reckoning import (
    GIB,
    Assumed,
    most_shown,
    prompt_room,
    push_bytes,
    reckon,
    shared_bytes,
    shared_row_bytes,
    shown_in_files,
    start_bytes,
    trained_parameters,
)
from rlvid.video.budget import budget, described


def run(
    config: Config, assumed: Assumed, *, measured_run: Path | None = None, stated: tuple[float | None, float | None] = (None, None), video: Path | None = None
) -> dict[str, Any]:
    """Work everything out; prints nothing.

    `video`: a file whose frames are asked for; `stated`: answer tokens per second of an engine, tokens per second of a learner rank.
    """
    if not math.isfinite(assumed.gpu_memory_gib or 0):
        raise ConfigError(f"--gpu-memory-gib: must be a number of GiB, not {assumed.gpu_memory_gib:g}")
    size = model_size(config.model.path)
    rates = None
    if measured_run is not None:
        rates, answer_tokens = measured(measured_run, assumed.text_tokens)
        assumed = replace(assumed, answer_tokens=assumed.answer_tokens or answer_tokens)
    elif stated != (None, None):
        rates = _stated(*stated)
    assumed = replace(assumed, shows=assumed.shows or shown_in_files(config))
    found = reckon(config, size, assumed)
    time = step_time(config, found.tokens, rates) if rates else None
    return {
        "run": config.run.name,
        "model": {name: value for name, value in asdict(size).items() if name != "linear"},
        "assumed": asdict(assumed),
        "active_parameters": size.active_parameters,
        "plan": asdict(found),
        "shown": dict(zip(("videos", "images"), most_shown(config, size, assumed), strict=True)),
        "videos": described(config.video, factor=size.factor, frames_per_token=size.frames_per_token),
        "video": _of_file(config, size, video) if video else None,
        "prompt_room": prompt_room(config, size, assumed),
        "learner_bytes": sum(found.learner.values()),
        "engine_bytes": sum(found.engine.values()),
        "rank_start_bytes": start_bytes(config, size)["host"],
        "rank_start_gpu_bytes": start_bytes(config, size)["gpu"],
        "trained_parameters": trained_parameters(config, size),
        "shared_row_bytes": shared_row_bytes(config, size, found.tokens) if config.learner.sequence_parallel > 1 else None,
        "push_bytes": push_bytes(config, size),
        "shared_gpu_bytes": shared_bytes(config, size, found) if config.colocated else None,
        "gpus": gpus(config),
        "time": _time_json(time),
        "advice": list(advice(config, size, assumed, found)),
    }


def gpus(config: Config) -> dict[str, float]:
    """GPUs by role."""
    found = {"engines": config.rollout.engines * config.rollout.num_gpus, "learner": config.learner.ranks * config.learner.num_gpus}
    found |= {"relevance": config.variants.actors * config.relevance.num_gpus} if config.relevance.num_gpus else {}
    return found | ({"teacher": config.teacher.actors * config.teacher.num_gpus} if config.teacher.kind == "engine" else {})


def _of_file(config: Config, size: ModelSize, video: Path) -> dict[str, Any]:
    """What a file would get."""
    from rlvid.video.frames import VideoError, length_s

    try:
        seconds = length_s(str(video))
    except VideoError as error:
        raise ConfigError(f"--video: {error}") from None
    return {"path": str(video), "length_s": seconds} | asdict(budget(config.video, seconds, factor=size.factor, frames_per_token=size.frames_per_token))


def _told(file: dict[str, Any]) -> str:
    side = round(file["max_pixels"] ** 0.5)
    return f"{file['path']} ({file['length_s']:.1f} s): {file['frames']} of up to {side} x {side} px, at most {file['tokens']:,} visual tokens"


def show(config: Config, report: dict[str, Any], console: Console) -> None:
    """Tables for a person."""
    plan, assumed = report["plan"], report["assumed"]
    tokens, active = plan["tokens"], report["active_parameters"]
    console.print(_memory(config, plan, assumed["gpu_memory_gib"] if config.on_gpu else None, report["shared_gpu_bytes"]))
    rows = {
        "parameters": f"{plan['parameters']:,}" + (f", {active:,} of them active for a token" if active != plan["parameters"] else ""),
        "GPUs": " + ".join(f"{number:g} for the {role}" for role, number in report["gpus"].items()),
        "rollouts a step (Q x K x M)": f"{config.data.questions_per_step} x {config.variants_per_question} x {config.rollout.answers} = {tokens['rollouts']:,}",
        "answers at a time": f"{config.rollout.engines} x {config.rollout.max_sequences} = {config.rollout.engines * config.rollout.max_sequences:,}",
        "tokens of a prompt": f"{tokens['prompt']:,} ({tokens['visual']:,} visual{_shown(report['shown'])}, about {assumed['text_tokens']:,} of text)",
        "frames by length": report["videos"].replace("; ", "\n"),
        **({"frames of the file": _told(report["video"])} if report["video"] else {}),
        "tokens sampled a step": f"{tokens['sampled']:,} (answers of {tokens['answer']:,} tokens)",
        "tokens learned a step": f"{tokens['learned']:,} ({tokens['learned_without_sharing']:,} without shared prompts)",
        "micro-batches of a rank": f"{tokens['micro_batches']:,} of {tokens['micro_batch_prompts']} prompts, at most {tokens['micro_batch']:,} tokens",
        **({"between ranks, a micro-batch": f"{_gib(report['shared_row_bytes'])} to and from each of them"} if report["shared_row_bytes"] else {}),
        "longest prompt of an engine": _room(report["prompt_room"], plan["cache_tokens"]),
        "key-value cache of an engine": f"{plan['cache_tokens']:,} tokens, at full length {plan['cache_tokens_wanted']:,} are wanted",
        "frames of a step": f"{_gib(plan['frames_bytes'])} in the object store, {_gib(plan['object_store_bytes'])} with the step ahead",
        "trained, pushed": f"{report['trained_parameters']:,} parameters, {_gib(report['push_bytes'])}",
        "memory of a starting rank": _starting(report),
        "a checkpoint": f"{_gib(plan['checkpoint_bytes'])}, {config.run.keep_checkpoints} are kept",
        "time": _time_text(report["time"]),
    }
    table = Table(title=f"plan of {report['run']}", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    for line in report["advice"] or ["nothing to change"]:
        console.print(f"- {line}", highlight=False)


def _room(room: dict[str, int], cache_tokens: int) -> str:
    held = f"; its cache holds {cache_tokens / max(1, room['tokens']):.1f} such prompts"
    return f"{room['tokens']:,} tokens beside an answer, {room['visual']:,} of them visual: {room['frames']:,} frames as large as the most" + held


def _shown(shown: dict[str, int]) -> str:
    """Where the longest prompt shows anything else than one video."""
    said = " and ".join(f"{count} {kind if count > 1 else kind[:-1]}" for kind, count in shown.items() if count)
    return "" if shown == {"videos": 1, "images": 0} else f" of {said or 'nothing'}"


def _starting(report: dict[str, Any]) -> str:
    gpu = report["rank_start_gpu_bytes"]
    return f"{_gib(report['rank_start_bytes'])} of the host" + (f", {_gib(gpu)} of its GPU" if gpu else "")


def _memory(config: Config, plan: dict[str, Any], limit_gib: float | None, shared: dict[str, int] | None) -> Table:
    where = "GPU" if config.on_gpu else "process"
    table = Table("part", f"learner rank, per {where}", f"engine, per {where}", title="memory")
    for part in dict.fromkeys([*plan["learner"], *plan["engine"]]):
        if plan["learner"].get(part) or plan["engine"].get(part):
            table.add_row(part, _gib(plan["learner"].get(part, 0)), _gib(plan["engine"].get(part, 0)))
    table.add_section()
    table.add_row("all", _gib(sum(plan["learner"].values())), _gib(sum(plan["engine"].values())))
    for phase, size in (shared or {}).items():
        table.add_row(f"both, {phase}", _gib(size), "")
    if limit_gib is not None:
        table.add_row("there is", f"{limit_gib:.0f} GiB", f"{limit_gib:.0f} GiB")
    return table


def _stated(engine: float | None, learner: float | None) -> Rates:
    if engine is None or learner is None:
        raise ConfigError("--engine-tokens-per-s and --learner-tokens-per-s go together: give both, or --measured")
    for option, rate in (("--engine-tokens-per-s", engine), ("--learner-tokens-per-s", learner)):
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"{option}: must be above 0, not {rate:g}")
    return Rates(engine, learner)


def _time_json(time: StepTime | None) -> dict[str, Any] | None:
    if time is None:
        return None
    whole = {"step_s": time.step_s, "overlapped_s": time.overlapped_s, "steps_per_hour": 3600 / time.step_s, "bottleneck": time.bottleneck}
    return asdict(time) | whole


def _time_text(time: dict[str, Any] | None) -> str:
    if time is None:
        return "not known: name a run of this model on these machines with --measured, or state rates"
    return (
        f"{time['step_s']:.2f} s a step (rollouts {time['rollout_s']:.2f}, learner {time['learn_s']:.2f}, sync {time['sync_s']:.2f}), "
        f"{time['steps_per_hour']:,.0f} steps an hour; the {time['bottleneck']} bound it; overlapped at best {time['overlapped_s']:.2f} s"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
