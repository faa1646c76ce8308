"""One rollout actor: a vLLM engine that samples M answers on a variant, and takes new weights between samples."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from rlvid.config import Config
from rlvid.families.checkpoint import reading_s
from rlvid.process.log import last_error, to_log_file
from rlvid.process.one_line import first_line
from rlvid.process.role import Role, bundle
from rlvid.process.traces import own_traces
from rlvid.process.vllm_options import engine_environment, shared_arguments
from rlvid.sync.adapter import RANKS
from rlvid.sync.plugin import KEEP_WEIGHTS
from rlvid.sync.tokens import token_digest
from rlvid.teacher.student import twice
from rlvid.types import GenerateRequest, GenerateResult, Rollout, WeightsLayout

ADAPTER_ID = 1
"""vLLM's number for the one adapter."""


def role(config: Config) -> Role:
    """The engines of a run. One that fails has its requests answered by others."""
    rollout = config.rollout
    return Role(
        "rollout engine",
        RolloutActor,
        rollout.engines,
        bundle(rollout.num_cpus, rollout.num_gpus, rollout.resources),
        rollout_environment(config),
        concurrency=1000,
        pool={
            "capacity": 1 if rollout.repeatable else max(1, 2 * rollout.max_sequences // rollout.answers),
            "deadline_s": rollout.deadline_s,
            "start_deadline_s": rollout.start_deadline_s + reading_s(config.model.path, config.readers, config.model.read_mib_per_s),
            "max_restarts": rollout.max_restarts,
            "attempts": max(1, rollout.max_restarts),
            "quorum": rollout.quorum,
            "heartbeat_s": rollout.heartbeat_s,
        },
    )


def rollout_environment(config: Config) -> dict[str, str]:
    """Environment of the actor's process, set before vLLM is imported."""
    # Handles to the learner's memory come pickled, from this run's own rank 0 and through Ray, which pickles all that it carries.
    handles = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if config.transport == "ipc" else {}
    return handles | ({} if config.on_gpu else {KEEP_WEIGHTS: "1"}) | engine_environment(config.rollout.threads, on_gpu=config.on_gpu)


class EngineStartError(RuntimeError):
    """vLLM could not start. One line with the cause."""


class RolloutActor:
    """Holds one AsyncLLM, which knows the version of its weights: 0 is the checkpoint the run starts from. `pushes`: of weights, so far."""

    def __init__(self, config: Config, number: int) -> None:
        self.config = config
        self.number = number
        self.pushes = 0
        self.update_opened = False
        self.half_loaded = False
        self.given_up = 0
        self.paused_at = 0.0
        self.engine: Any = None
        self.can_sleep = config.colocated and config.on_gpu
        self.sleeping = False
        self.adapter: Any = None
        self.adapter_names: list[str] = []
        self.tells_experts = False

    async def start(self) -> str:
        """Start the engine. Returns vLLM's version. Raises EngineStartError with the cause that the engine's own process wrote down."""
        log = to_log_file(f"rollout-{self.number}")
        try:
            return await self._start()
        except Exception as error:
            said = "" if isinstance(error, ValueError) else last_error(log)
            cause = said or f"{type(error).__name__}: {first_line(error)}"
            raise EngineStartError(f"rollout engine {self.number} did not start: {cause}{f' (its whole log: {log})' if log else ''}") from error

    async def _start(self) -> str:
        own_traces()
        import vllm
        from vllm.v1.engine.async_llm import AsyncLLM

        from rlvid.sync.plugin import register

        register()
        self.forbidden = forbidden_tokens(self.config.model.path)
        self.engine = AsyncLLM.from_engine_args(engine_arguments(self.config))
        await self.engine.update_weight_version("0")
        self.tells_experts = asks_for_experts(self.config)
        if self.tells_experts and not self.config.on_gpu:
            await self.engine.collective_rpc("note_routes")
        return vllm.__version__

    async def generate(self, request: GenerateRequest, frames: Any, evidence_THWC: np.ndarray | None = None) -> GenerateResult:
        """Sample M answers. `frames` arrive from the object store, uncopied: [T, H, W, C] of a video, a tuple of several media, None for a prompt without any.
        Answer j is sampled with seed + j."""
        media = shown_to_engine(request, frames, evidence_THWC)
        prompt: dict[str, Any] = {"prompt": request.prompt} | ({"multi_modal_data": as_vllm_takes(media)} if media else {})
        if self.config.sync.mode == "keep":
            names: dict[str, list[str]] = {}
            for pixels, metadata in media:
                names.setdefault(kind_of(pixels), []).append(self._identity(pixels, metadata))
            prompt |= {"cache_salt": str(self.pushes), **({"multi_modal_uuids": names} if names else {})}
        outputs = [output async for output in self.engine.generate(prompt, self._sampling(request), uuid.uuid4().hex, lora_request=self.adapter)]
        output = outputs[-1]
        assert output.finished
        routes = await self._routes(output, request)
        rollouts = tuple(
            Rollout(
                question_id=request.question_id,
                variant=request.variant,
                sample=answer.index,
                prompt_tokens=len(output.prompt_token_ids),
                tokens=tuple(answer.token_ids),
                logprobs=tuple(entry[token].logprob for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)),
                text=answer.text,
                policy_version=min(version for _, version in versions),
                seed=request.seed + answer.index,
                versions=versions,
                finish_reason=str(answer.finish_reason),
                routes=routes and (routes, answer.index),
            )
            for answer in sorted(output.outputs, key=lambda answer: answer.index)
            for versions in (tuple((span.start, int(span.version)) for span in answer.weight_versions),)
        )
        return GenerateResult(rollouts, token_digest(output.prompt_token_ids))

    async def _routes(self, output: Any, request: GenerateRequest) -> Any:
        """Reference to the experts that each answer's tokens went through (`Rollout.routes`); None where nobody looks at them."""
        if not self.tells_experts or request.greedy:
            return None
        import ray

        if self.config.on_gpu:
            told = {answer.index: np.asarray(answer.routed_experts, np.int16) for answer in output.outputs if answer.routed_experts is not None}
        else:
            first, *_ = await self.engine.collective_rpc("taken_routes", args=(output.request_id,))  # all workers' are the same
            told = {number: np.frombuffer(packed, np.int16).reshape(shape) for number, shape, packed in first}
        return ray.put(told)

    def _identity(self, frames_THWC: np.ndarray, metadata: dict[str, Any] | None) -> str:
        """Name of a video or image in the engine's caches of vision embeddings: another one after each push."""
        digest = hashlib.blake2b(repr((metadata, frames_THWC.shape)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(frames_THWC).data)
        return f"{digest.hexdigest()}-{self.pushes}"

    def _sampling(self, request: GenerateRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        rollout = self.config.rollout
        return SamplingParams(
            n=request.answers,
            temperature=0.0 if request.greedy else rollout.temperature,
            top_p=1.0 if request.greedy else rollout.top_p,
            max_tokens=request.max_tokens or rollout.max_tokens,
            seed=request.seed,
            logprobs=0,
            logit_bias=self.forbidden,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    # ---- weights (called by the learner's rank 0)

    async def join_transfer(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self.engine.shutdown_weight_transfer_engine()
        await self.engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def start_update(self) -> None:
        """Let what is in flight end first, or freeze it (sync.mode). Does nothing more where the push was given up meanwhile."""
        self.paused_at, given_up = time.perf_counter(), self.given_up
        await self.engine.pause_generation(mode=self.config.sync.mode, clear_cache=False)
        if self.given_up > given_up:
            return
        self.pushes += 1
        await self.engine.start_weight_update()
        self.update_opened = True

    async def receive_update(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        base = update_info.get("base")
        if base is not None and (held := int(await self.engine.get_weight_version())) != base:
            raise RuntimeError(f"rollout engine {self.number} holds weights of version {held}, what changed is for version {base}")
        # Over nccl and ipc vLLM loads layer by layer, from empty ones. Over gloo each tensor is overwritten whole, or patched, and the checksum tells.
        self.update_opened, self.half_loaded = False, self.config.transport in ("nccl", "ipc") or (base is not None and not self._checked)
        if "ipc_handles" in update_info:  # they hold types, which vLLM's messages do not carry
            update_info = dict(update_info)
            update_info["ipc_handles_pickled"] = base64.b64encode(pickle.dumps(update_info.pop("ipc_handles"))).decode()
        await self.engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    @property
    def _checked(self) -> bool:
        """Does a checksum tell whether a push is whole?"""
        return self.config.sync.verify and self.config.rollout.tensor_parallel == 1

    async def finish_update(self, version: int) -> float:
        """Load, take the version, and use nothing more that was computed with the old weights: keys and values, and vision embeddings.
        Returns the seconds that the engine stood still, or waited for its last answers, since `start_update`.

        Frozen answers still need theirs (vLLM has dropped their pixels), so with sync.mode keep the caches go on, under other names.
        """
        await self.engine.finish_weight_update(weight_version=str(version))
        return await self._serve_again()

    async def _serve_again(self) -> float:
        self.half_loaded = False
        if self.config.sync.mode == "wait":
            await self.engine.reset_prefix_cache()
            await self.engine.reset_encoder_cache()
            await self.engine.reset_mm_cache()
        if not self.sleeping:  # else it goes on once its cache is there
            await self.engine.resume_generation()
        return time.perf_counter() - self.paused_at

    async def take_adapter(self, packed: bytes, names: list[str], version: int) -> float:
        """A whole push where an adapter is trained: like `start_update`, `receive_update` and `finish_update` in one. `packed`: a safetensors file.

        vLLM ignores new bytes under a known id unless they are loaded in place, and what it has cached counts on until the caches are reset. Each push has
        a name of its own, too, which is part of the key of every cached block.
        """
        self.paused_at, given_up = time.perf_counter(), self.given_up
        await self.engine.pause_generation(mode=self.config.sync.mode, clear_cache=False)
        if self.given_up > given_up:
            return 0.0
        self.pushes += 1
        self.half_loaded = True
        with tempfile.TemporaryDirectory(prefix="rlvid-adapter-") as folder:
            write_for_vllm(Path(folder), packed, self.config.learner.lora.rank, names)
            self.adapter = await self._load_adapter(folder)
        self.adapter_names = names
        await self.engine.update_weight_version(str(version))
        return await self._serve_again()

    async def _load_adapter(self, folder: str) -> Any:
        """Returns what requests name it by."""
        from vllm.lora.request import LoRARequest

        name = f"push-{self.pushes}"
        if not await self.engine.add_lora(LoRARequest(name, ADAPTER_ID, folder, load_inplace=True)):
            raise RuntimeError(f"rollout engine {self.number} did not load the adapter")
        return LoRARequest(name, ADAPTER_ID, folder)

    async def go_on(self) -> None:
        """Serve again after a push that failed elsewhere and left the weights as they were."""
        self.given_up += 1
        if not self.sleeping:
            await self.engine.resume_generation()

    async def weights_state(self, layout: WeightsLayout | None) -> tuple[int, str | None]:
        """(version as the engine echoes it, checksum of the loaded weights, or of the adapter once there is one). `layout`: of what a push of whole weights
        brings; None: the checksum is not asked for. It is None then, and for an adapter that tensor parallelism hides.

        Raises RuntimeError where a push ended half-way. One that ended before any weight came is closed here.
        """
        if self.half_loaded:
            raise RuntimeError(f"rollout engine {self.number} holds half of an update")
        if self.update_opened:
            await self.engine.finish_weight_update()
            self.update_opened = False
        version = int(await self.engine.get_weight_version())
        if layout is None:
            return version, None
        if self.adapter is not None:
            if self.config.rollout.tensor_parallel > 1:
                return version, None
            return version, (await self.engine.collective_rpc("loaded_adapter", args=(self.adapter_names,)))[0]
        from rlvid.sync.checksum import digest, merged

        told = list(layout.names), list(layout.dtypes), [list(shape) for shape in layout.shapes]
        workers = await self.engine.collective_rpc("loaded_sums", args=told)
        return version, digest(merged(layout, [{name: tuple(held) for name, held in sums.items()} for sums in workers]))

    # ---- turns on a shared GPU (rlvid/loop/turns.py)

    async def sleep(self) -> None:
        """Give the GPU's memory back: the cache, and the weights, which a push brings again. With an adapter the push does not, so they go to the host.

        vLLM has no sleep without a GPU: there the engine stays as it is.
        """
        if self.can_sleep and not self.sleeping:
            self.sleeping = True
            await self.engine.sleep(level=1 if self.config.learner.lora.rank else 2)

    async def wake(self, what: str) -> None:
        """`what`: weights, before a push, then kv_cache. An engine that was started meanwhile is awake."""
        if self.sleeping:
            await self.engine.wake_up(tags=[what])
            self.sleeping = what != "kv_cache"
            if not self.sleeping:  # the push of its weights paused it
                await self.engine.resume_generation()

    # ---- life

    async def check(self) -> int:
        """Heartbeat: the engine's process answers, not only this one. Returns the weights' version."""
        return int(await self.engine.get_weight_version())

    async def pid(self) -> int:
        """The actor's process; the engine's is its child."""
        return os.getpid()

    async def stop(self) -> None:
        """End the engine process."""
        if self.engine is not None:
            self.engine.shutdown()


def shown_to_engine(request: GenerateRequest, frames: Any, evidence_THWC: np.ndarray | None) -> list[tuple[np.ndarray, dict[str, Any] | None]]:
    """(pixels, metadata or None of an image) of each medium in the prompt's order, the evidence among them. With `shuffle_seed` each video's frames are dealt
    out anew."""
    media: list[tuple[Any, dict[str, Any] | None]]
    if isinstance(request.video_metadata, dict):
        media = [(frames, request.video_metadata)] if frames is not None else []
    else:
        media = list(zip(frames or (), request.video_metadata if frames is not None else (), strict=True))
    if request.shuffle_seed is not None:
        rng = np.random.default_rng(request.shuffle_seed)
        media = [(pixels[rng.permutation(len(pixels))] if pixels.ndim == 4 else pixels, metadata) for pixels, metadata in media]
    if evidence_THWC is not None:
        media.append((twice(evidence_THWC), request.evidence_metadata or {}))
    return media


def kind_of(pixels: np.ndarray) -> str:
    """video: [T, H, W, C]; image: [H, W, C]."""
    return "video" if pixels.ndim == 4 else "image"


def as_vllm_takes(media: list[tuple[np.ndarray, dict[str, Any] | None]]) -> dict[str, list[Any]]:
    """Apart by kind; within a kind in the prompt's order."""
    from PIL import Image

    given: dict[str, list[Any]] = {}
    for pixels, metadata in media:
        given.setdefault(kind_of(pixels), []).append((pixels, metadata) if pixels.ndim == 4 else Image.fromarray(pixels))
    return given


def forbidden_tokens(model: str) -> dict[int, float]:
    """Logit biases. A policy that samples a media token dies at the next forward: such tokens are impossible from the first request on."""
    from rlvid.families.checkpoint import family_of, load_tokenizer

    return {token: -1e30 for token in family_of(model).media_token_ids(load_tokenizer(model))}


def asks_for_experts(config: Config) -> bool:
    """Do engines tell which experts a token went through?"""
    from rlvid.families.checkpoint import family_of

    return config.sync.experts != "off" and family_of(config.model.path).has_experts


def adapter_arguments(config: Config) -> dict[str, Any]:
    """vLLM's arguments where an adapter is trained: room for one."""
    lora = config.learner.lora
    if not lora.rank:
        return {}
    room = next(rank for rank in RANKS if rank >= lora.rank)
    return {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": room, "enable_tower_connector_lora": lora.vision}


def write_for_vllm(folder: Path, packed: bytes, rank: int, names: list[str]) -> None:
    """An adapter folder. B is scaled already (rlvid/sync/adapter.py), so alpha is the rank."""
    modules = sorted({name.rpartition(".lora_")[0].rpartition(".")[2] for name in names})
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": modules, "bias": "none", "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    (folder / "adapter_model.safetensors").write_bytes(packed)


def engine_arguments(config: Config) -> Any:
    """vLLM's arguments for one engine of this run."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    from rlvid.families.checkpoint import family_of

    rollout = config.rollout
    return AsyncEngineArgs(
        model=config.model.path,
        dtype=config.dtype,  # type: ignore[arg-type]
        max_model_len=rollout.max_model_len,
        max_num_seqs=1 if rollout.repeatable else rollout.max_sequences,
        max_num_batched_tokens=max(rollout.max_model_len, rollout.batched_tokens),
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        enforce_eager=rollout.enforce_eager or not config.on_gpu,
        limit_mm_per_prompt={"image": config.image.most or 0, "video": max(1, config.video.most or 1) + config.repair.enabled},
        logprobs_mode="processed_logprobs",  # what was sampled from: after temperature and forbidden tokens
        seed=config.run.seed,
        weight_transfer_config=WeightTransferConfig(backend=config.transport),  # type: ignore[arg-type]
        worker_extension_cls="rlvid.sync.engine_side.WorkerExtension",
        enable_sleep_mode=config.colocated and config.on_gpu,
        enable_return_routed_experts=config.on_gpu and asks_for_experts(config),
        **adapter_arguments(config),
        **shared_arguments(on_gpu=config.on_gpu, tensor_parallel=rollout.tensor_parallel, kv_cache_gib=rollout.kv_cache_gib),
        **family_of(config.model.path).engine_options(on_gpu=config.on_gpu),
    )
