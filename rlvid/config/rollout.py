"""Section of the engines that sample answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rlvid.config.base import Count, Positive, Resources, Seconds, Section


class RolloutConfig(Section):
    answers: Positive = 8
    """M: answers sampled on each variant."""
    stored_replies: bool = False
    """Mix-policy: where a question of `data.train` has a `reply`, it stands in the group in place of the first view's last answer, scored and normalized
    with the others. It was sampled by nobody, so no ratio corrects for it."""
    temperature: Annotated[float, Field(ge=0.01)] = 1.0
    """Sampling temperature; the learner divides its logits by the same. From 0.01 on: below it vLLM samples as at 0.01 without a word."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus share. Below 1 the sampler's probabilities are those of the cut distribution; the correction covers the gap."""
    max_tokens: Positive = 1024
    """Longest answer."""
    max_model_len: Positive = 8192
    """Longest prompt and answer together that the engine holds."""
    max_sequences: Positive = 64
    """Answers one engine samples at a time."""
    batched_tokens: Positive = 16384
    """Prompt tokens one engine computes at a time (max_model_len, if that is more). Its cache of vision embeddings holds as many: while those of a variant
    are there, a repair of it puts only the evidence through the vision tower."""
    engines: Positive = 1
    """Rollout actors, each with its own vLLM engine."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.75
    """The run begins when this share of the engines (and of variant and teacher actors) has started, rounded up. Those that fail or take longer are started
    again while it goes on."""
    max_engines: Count = 0
    """Above `engines`: so many in all may serve, those beyond `engines` as soon as the cluster has room for them, while the run goes on."""
    tensor_parallel: Positive = 1
    """GPUs per engine."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each engine."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs that Ray reserves for each engine: 0 on a machine without GPU, else tensor_parallel, or a fraction of the one it shares (placement colocated)."""
    resources: Resources = {}
    """Custom resources of Ray that each takes of its node, such as {rollout_node: 1}: the way to say on which nodes they stand."""
    threads: Positive = 1
    """CPU threads of an engine without GPU."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1
    """Key-value cache of an engine without GPU."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of the GPU's memory an engine takes."""
    enforce_eager: bool = True
    """No CUDA graphs; false is faster on GPUs once the run is known to work."""
    start_deadline_s: Seconds = 600
    """Longest wait for an engine to start, besides the time to read the checkpoint (model.read_mib_per_s)."""
    deadline_s: Seconds = 600
    """Longest wait for the answers of one variant."""
    heartbeat_s: Seconds = 60
    """How often engines and teachers are asked for a sign of life, and how long one may take to give it before it is replaced."""
    max_restarts: Count = 3
    """Faults of a rollout or variant actor's own (it does not start, gives no sign of life, or fails at what another one can do) in a row, without an answer
    in between, before it is given up. Its place is tried again every five minutes. The run goes on while one of each is left."""
    repeatable: bool = False
    """One answer at a time on each engine: what stands together in a batch, and so every last bit, no longer depends on timing. Slow, for debugging."""
    max_staleness: Count = 0
    """Updates that the weights may be ahead of those that sampled a batch. 0: strictly on-policy, each part waits for the other. 1 and more: rollouts
    of the next batches run while the learner updates; truncated importance sampling corrects (loss.importance_cap)."""

    @model_validator(mode="after")
    def _fits(self) -> RolloutConfig:
        if self.max_engines and self.max_engines < self.engines:
            raise ValueError(f"rollout.max_engines ({self.max_engines}) is less than rollout.engines ({self.engines}): raise it, or leave it at 0")
        if self.repeatable and self.max_staleness:
            raise ValueError(
                f"rollout.repeatable with rollout.max_staleness ({self.max_staleness}) cannot repeat: which weights sample a token would depend on timing; "
                "set max_staleness to 0, or repeatable to false"
            )
        if self.answers > self.max_sequences:
            raise ValueError(
                f"rollout.answers ({self.answers}) is more than rollout.max_sequences ({self.max_sequences}): raise max_sequences or lower answers"
            )
        if self.max_tokens >= self.max_model_len:
            raise ValueError(f"rollout.max_tokens ({self.max_tokens}) leaves no room for a prompt in rollout.max_model_len ({self.max_model_len})")
        return self
