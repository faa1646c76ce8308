"""What all vLLM engines of a run share, the policy's and the teacher's: environment and arguments that depend on the machine alone."""

from __future__ import annotations

import os
from typing import Any

CPU_BLOCK_TOKENS = 32
"""Key-value block on CPU. vLLM's 128 is longer than a tiny model's prompt, which then could not be shared among its answers."""
IN_ENGINE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The model runs in the engine's own process. A plain "uni" becomes "mp" on CPU, where vLLM sets thread counts for its workers;
here the environment below has set them, and a second process would cost ten seconds at the start and two messages a step."""


def engine_environment(threads: int, *, on_gpu: bool) -> dict[str, str]:
    """Environment of the actor's process, set before vLLM is imported. Media never leave the machine, nor does usage."""
    # What little vLLM compiles without being asked takes three seconds at the first sample, more than it ever gives back here.
    # FlashInfer's sampler is compiled at the start, by an nvcc that the wheels do not bring; vLLM's own needs none.
    own = {"VLLM_USE_FLASHINFER_SAMPLER": "0"} if on_gpu else {"TORCH_COMPILE_DISABLE": "1"}
    return own | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # by default vLLM pins its threads to cores that others need too
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # an idle engine must not spin on the learner's cores
        "KMP_BLOCKTIME": "0",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def shared_arguments(*, on_gpu: bool, tensor_parallel: int, kv_cache_gib: float) -> dict[str, Any]:
    """vLLM's arguments. `kv_cache_gib`: without GPU; on one, vLLM takes a share of its memory."""
    return {
        "tensor_parallel_size": tensor_parallel,
        "distributed_executor_backend": "mp" if tensor_parallel > 1 else IN_ENGINE_PROCESS,
        # A seeded request whose prompt is prefilled in pieces rewinds its generator, which torch's CPU generator cannot.
        "enable_chunked_prefill": on_gpu,
        "block_size": None if on_gpu else CPU_BLOCK_TOKENS,
        "kv_cache_memory_bytes": None if on_gpu else int(kv_cache_gib * 2**30),
        "disable_log_stats": True,
    }
