"""What to change in a config whose plan does not fit, or wastes what it has. Each line names the setting."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvid.config import Config
from rlvid.plan.model_size import ModelSize
from rlvid.plan.reckoning import GIB, Assumed, Plan, count_tokens, learner_bytes, most_shown
from rlvid.video.budget import most_tokens

ROOM = 0.9
"""Share of a GPU's memory that a plan may fill: allocators need the rest."""
RELIEF: dict[str, object] = {"gradient_checkpointing": True, "zero_stage": 3, "offload_optimizer": True}
"""Settings of the learner that take less memory, the cheapest in time first; each is tried on top of those before."""


def advice(config: Config, size: ModelSize, assumed: Assumed, found: Plan) -> Iterator[str]:
    """Lines, the gravest first."""
    yield from _prompts(config, size, assumed, found)
    yield from _longest(config, size, found)
    if config.on_gpu and assumed.gpu_memory_gib is not None:
        yield from _learner(config, size, assumed, assumed.gpu_memory_gib * GIB, found)
        yield from _cache(config, assumed, found)
    yield from _sequences(config, found)
    yield from _store(config, found)


def _prompts(config: Config, size: ModelSize, assumed: Assumed, found: Plan) -> Iterator[str]:
    tokens, video, rollout = found.tokens, config.video, config.rollout
    shown = most_shown(config, size, assumed)
    if tokens.visual > video.max_tokens and shown != (1, 0):
        yield (
            f"a question of {shown[0]} video(s) and {shown[1]} image(s) that fill video.max_pixels and image.max_pixels needs {tokens.visual:,} visual tokens "
            f"and video.max_tokens is {video.max_tokens:,}: it would be quarantined; lower them, or raise video.max_tokens"
        )
    elif tokens.visual > video.max_tokens:
        frames = most_tokens(video, factor=size.factor, frames_per_token=size.frames_per_token).frames
        pixels = video.max_tokens // (frames // size.frames_per_token) * size.factor**2
        yield (
            f"a video that fills video.max_pixels needs {tokens.visual:,} visual tokens and video.max_tokens is {video.max_tokens:,}: it would be quarantined; "
            f"lower video.max_pixels to {pixels} or raise video.max_tokens"
        )
    if tokens.prompt + rollout.max_tokens > rollout.max_model_len:
        yield (
            f"a prompt of {tokens.prompt:,} tokens and an answer of {rollout.max_tokens:,} do not fit rollout.max_model_len ({rollout.max_model_len:,}): "
            f"raise it to {tokens.prompt + rollout.max_tokens}"
        )
    single = tokens.micro_batch // tokens.micro_batch_prompts
    if single > config.learner.sequence_parallel * config.learner.micro_batch_tokens:
        yield (
            f"one prompt with its {rollout.answers} answers can have {single:,} tokens, more than learner.micro_batch_tokens "
            f"({config.learner.micro_batch_tokens:,}): it goes through the model whole, so memory is reckoned with that"
        )


def _longest(config: Config, size: ModelSize, found: Plan) -> Iterator[str]:
    """vLLM counts positions and cache before it serves, and ends where one sequence of the full length would not fit."""
    rollout, held = config.rollout, found.cache_tokens
    if size.longest is not None and rollout.max_model_len > size.longest:
        yield (
            f"the model takes sequences of up to {size.longest:,} tokens and rollout.max_model_len is {rollout.max_model_len:,}: an engine would not start; "
            f"lower it"
        )
    if 0 < held < rollout.max_model_len:
        memory = "rollout.tensor_parallel (and rollout.num_gpus with it)" if config.on_gpu else "rollout.kv_cache_gib"
        yield (
            f"an engine's key-value cache holds {held:,} tokens, less than the one prompt and answer of rollout.max_model_len ({rollout.max_model_len:,}): "
            f"it would not start; raise {memory}, or lower rollout.max_model_len"
        )


def _learner(config: Config, size: ModelSize, assumed: Assumed, limit: float, found: Plan) -> Iterator[str]:
    total = sum(found.learner.values())
    if total <= ROOM * limit:
        if config.learner.zero_stage == 3 and _with(config, size, assumed, zero_stage=2) <= ROOM * limit:
            yield "the learner fits with learner.zero_stage=2 as well, which does not gather weights layer by layer"
        return
    chosen: dict[str, object] = {}
    for setting, value in RELIEF.items():
        chosen[setting] = value
        needs = _with(config, size, assumed, **chosen)
        if needs <= ROOM * limit:
            names = [f"learner.{name}={str(new).lower()}" for name, new in chosen.items() if getattr(config.learner, name) != new]
            yield f"a learner rank needs {total / GIB:.0f} GiB of {limit / GIB:.0f}: set {' and '.join(names)} ({needs / GIB:.0f} GiB)"
            return
    if config.model.attention == "sdpa":
        for offload in (config.learner.offload_optimizer, True):
            for parts in range(config.learner.sequence_parallel + 1, config.learner.ranks + 1):
                chosen |= {"offload_optimizer": offload, "sequence_parallel": parts}
                needs = _with(config, size, assumed, **chosen)
                if config.learner.ranks % parts == 0 and needs <= ROOM * limit:
                    names = [f"learner.{name}={str(new).lower()}" for name, new in chosen.items() if getattr(config.learner, name) != new]
                    yield (
                        f"a learner rank needs {total / GIB:.0f} GiB of {limit / GIB:.0f}: set {' and '.join(names)} ({needs / GIB:.0f} GiB), so that "
                        f"{parts} ranks share a prompt"
                    )
                    return
    yield (
        f"a learner rank needs {total / GIB:.0f} GiB of {limit / GIB:.0f} and no setting helps: add learner.ranks, "
        f"or lower video.max_pixels, rollout.max_tokens or rollout.answers"
    )


def _with(config: Config, size: ModelSize, assumed: Assumed, **learner: object) -> int:
    changed = config.model_copy(update={"learner": config.learner.model_copy(update=learner)})
    return sum(learner_bytes(changed, size, count_tokens(changed, size, assumed)).values())


def _cache(config: Config, assumed: Assumed, found: Plan) -> Iterator[str]:
    rollout = config.rollout
    if not found.engine["key-value cache"]:
        yield (
            f"an engine's weights leave no key-value cache in {rollout.gpu_memory_utilization:.0%} of {assumed.gpu_memory_gib:.0f} GiB: "
            f"raise rollout.tensor_parallel (and rollout.num_gpus with it)"
        )
    elif found.cache_tokens < found.cache_tokens_wanted:
        fit = int(rollout.max_sequences * found.cache_tokens / found.cache_tokens_wanted)
        yield (
            f"the key-value cache holds {found.cache_tokens:,} tokens and {rollout.max_sequences} full-length answers need {found.cache_tokens_wanted:,}: "
            f"about {fit} run at a time, the others are pushed back and computed again (lower rollout.max_sequences, or raise rollout.tensor_parallel)"
        )


def _sequences(config: Config, found: Plan) -> Iterator[str]:
    rollout, group = config.rollout, config.variants_per_question * config.rollout.answers
    slots = rollout.engines * rollout.max_sequences
    if group > slots:
        yield f"the K x M = {group} answers of one question do not fit the {slots} places of all engines: they are sampled in {math.ceil(group / slots)} waves"
    if found.tokens.rollouts * 2 <= slots:
        yield (
            f"a step has {found.tokens.rollouts} rollouts and the engines have {slots} places: at least half of them stay empty; "
            f"lower rollout.engines or rollout.max_sequences, or raise data.questions_per_step"
        )
    prompts = config.data.questions_per_step * config.variants_per_question
    if rollout.engines > prompts:
        yield f"{rollout.engines} engines share {prompts} variants a step: some get none"
    if config.learner.ranks > prompts * config.learner.sequence_parallel:
        yield f"{config.learner.ranks} learner ranks share {prompts} prompts a step: some repeat one for nothing"


def _store(config: Config, found: Plan) -> Iterator[str]:
    store = config.cluster.object_store_gib * GIB
    if found.object_store_bytes > ROOM * store:
        yield (
            f"the frames of a step and of the one prepared ahead take {found.object_store_bytes / GIB:.1f} GiB and cluster.object_store_gib is "
            f"{config.cluster.object_store_gib:g}: raise it, or Ray writes them to disk and reads them again"
        )
