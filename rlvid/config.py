"""The typed configuration tree. `load(path, overrides)` returns a frozen `Config` or raises `ConfigError`.

Every field's docstring is its manual. A key that is not here, a value out of range and two values that cannot go
together are refused when the tree is built, with the file, the key and the cure in one line.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Resources = dict[str, Annotated[float, Field(gt=0)]]

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
"""Values of `model_type` in a checkpoint's config.json that rlvid trains, or their beginnings."""

VariantKind = Literal["uniform", "importance", "importance_jitter", "importance_crop", "crop", "multi_scale", "random_jitter", "random_crop"]


def needs_relevance(kinds: Sequence[str]) -> bool:
    """Does one of these kinds of variants look at relevance?"""
    return any(kind not in ("uniform", "random_jitter", "random_crop") for kind in kinds)


class ConfigError(ValueError):
    """The user's input is wrong. The message is one line that names file, key and cure; the command exits with 2."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Run(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run and of its folder. Starting again with the same name resumes from the last whole checkpoint."""
    dir: Path = Path("runs")
    """Folder that holds the run folders."""
    seed: int = 0
    """Every random choice is derived from it, the step, the question, the variant and the sample."""
    steps: Positive = 1000
    """Optimizer steps (GRPO updates) in all."""
    save_every: Count = 50
    """Steps between checkpoints; 0: only at the end."""
    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints stay on disk (and in `storage`)."""
    storage: str | None = None
    """URL of a folder that every checkpoint is copied to, and fetched from where `dir` has none or a damaged one: s3://bucket/runs, gs://..., file:///...
    Any scheme that an installed fsspec package knows. Credentials come from the environment."""
    eval_every: Count = 0
    """Steps between evaluations on `data.eval`; 0: only before the first step and after the last."""
    dump_rollouts: bool = True
    """Write every slot to rollouts/step_NNNNNN.jsonl."""

    @model_validator(mode="after")
    def _places(self) -> Run:
        if re.match(r"[A-Za-z0-9+.-]+:/", str(self.dir)):
            raise ValueError(f"run.dir ({self.dir}) must be a folder: engines and ranks write there; put the address into run.storage")
        if self.storage is not None and not re.match(r"[A-Za-z0-9+.-]+://", self.storage):
            raise ValueError(f"run.storage ({self.storage}) must be an address such as s3://bucket/runs or file:///mnt/runs")
        if self.storage is not None and "@" in self.storage.split("://")[1].split("/")[0]:
            raise ValueError("run.storage holds a user or password, which would be written with every run: give credentials in the environment")
        return self


class Model(Section):
    path: str
    """Folder or hub id of a Qwen2.5-VL or Qwen3-VL checkpoint."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on GPU, float32 on CPU."""
    attention: Literal["sdpa", "flex_attention"] = "sdpa"
    """Of the learner's text model. Neither computes what one answer cannot see of another. flex_attention (GPU only) is compiled at the first step and
    copies no prompt: under sdpa every 128 tokens of answers, or each longer one, have a copy of their prompt's keys and values."""
    freeze_vision: bool = False
    """Train the language model only."""


class Prompt(Section):
    system: str = ""
    """System turn; empty: none (the template's own default stays)."""
    format: str = "Think inside <think> </think>, then answer inside <answer> </answer>."
    """Last line of the user's turn."""
    instructions: dict[str, str] | None = None
    """Line per task before the format line; null: rlvid's own."""


class Data(Section):
    train: Path
    """Question file (JSON lines)."""
    eval: Path | None = None
    """Held-out question file."""
    eval_limit: Count = 0
    """Evaluate on the first N questions only; 0: all."""
    eval_in_flight: Positive = 64
    """Held-out questions on their way at a time, for each rollout engine."""
    questions_per_step: Positive = 8
    """Q: questions (groups) in one update."""
    max_bad_in_a_row: Positive = 32
    """So many unusable videos one after another stop the run with advice."""
    filter: Literal["off", "variance"] = "off"
    """variance: a question whose last `filter_after` groups in this run all fail the rules of `select` (nothing to learn from) rests for `filter_epochs`."""
    filter_after: Positive = 2
    """Groups without a signal, one after another, after which a question rests."""
    filter_epochs: Positive = 2
    """Epochs that a resting question is left out; then it gets one more chance."""

    @field_validator("filter", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class Video(Section):
    frames: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    """T: frames shown per variant (even: the model merges two frames into one)."""
    candidates: Positive = 64
    """Frames decoded once per video, evenly spaced; variants choose among them. At least `frames`."""
    max_pixels: Positive = 128 * 28 * 28
    """Upper bound of height x width of one shown frame; the frame keeps its aspect and is never enlarged."""
    max_tokens: Positive = 6144
    """Upper bound of visual tokens per variant, checked before an engine sees it."""
    deadline_s: Seconds = 120
    """A video that takes longer to decode is quarantined."""
    cache_dir: Path | None = None
    """Folder for decoded candidates, kept across runs; put it on a disk of the node itself. null: no cache."""
    cache_gib: Annotated[float, Field(gt=0)] = 50.0
    """Upper bound of the cache on each node; what was not used for longest goes first."""

    @model_validator(mode="after")
    def _enough_candidates(self) -> Video:
        if self.candidates < self.frames:
            raise ValueError(f"video.candidates ({self.candidates}) is below video.frames ({self.frames}): raise candidates")
        return self


class Variants(Section):
    kinds: Annotated[tuple[VariantKind, ...], Field(min_length=1)] = ("uniform", "importance", "importance_jitter", "importance_crop")
    """One name per variant: K is the length of the list. rlvid/variants/explore.py says what each shows."""
    min_crop_area: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Least share of the frame's area that a crop keeps."""
    crop_share: Share = 0.8
    """An attention-guided crop is the smallest box that holds this share of the relevance."""
    even_times: Literal["auto", "never"] = "auto"
    """auto: for a question that asks for times, all kinds keep (nearly) even times where the model cannot be told uneven ones (Qwen2.5-VL)."""
    actors: Positive = 1
    """Variant actors."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each."""
    threads: Positive = 1
    """Threads each may use."""
    resources: Resources = {}
    """Custom resources of Ray that each takes of its node, such as {rollout_node: 1}: the way to say on which nodes they stand."""
    memory_gib: Annotated[float, Field(gt=0)] = 8.0
    """Memory that decoding may take in an actor beyond what it holds once started; a video that wants more is quarantined."""
    prefetch: Count = 1
    """Steps whose variants are built ahead of the rollouts."""


class RelevanceConfig(Section):
    scorer: Literal["motion", "clip"] = "motion"
    """What tells which frames and parts matter: an image-text model (clip), or motion and shot changes, which need none."""
    model: str | None = None
    """Folder or hub id of a CLIP or SigLIP checkpoint, for `clip`."""
    attention_tau: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the temporal attention; the lower, the more alike frames must look to share what they score."""
    windows: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4, 8)
    """Multi-scale pooling: scores are averaged over windows of so many candidates."""
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Of the sampling distribution; high: nearly even, low: the best frames only."""
    batch: Positive = 64
    """Frames that go through the image-text model at a time."""
    num_gpus: Annotated[float, Field(ge=0, le=1)] = 0
    """Share of a GPU that each variant actor takes for the image-text model; 0: on CPU."""

    @model_validator(mode="after")
    def _model_named(self) -> RelevanceConfig:
        if self.scorer == "clip" and not self.model:
            raise ValueError("relevance.scorer clip needs relevance.model: name a CLIP or SigLIP checkpoint, or set scorer to motion")
        return self


class RolloutConfig(Section):
    answers: Positive = 8
    """M: answers sampled on each variant."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature; the learner divides its logits by the same."""
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
    """Rollout actors, each with its own vLLM engine. The run starts when all are there."""
    max_engines: Count = 0
    """Above `engines`: so many in all may serve, those beyond `engines` as soon as the cluster has room for them, while the run goes on."""
    tensor_parallel: Positive = 1
    """GPUs per engine."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each engine."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs that Ray reserves for each engine (0 on a machine without GPU, else tensor_parallel)."""
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
    """Longest wait for an engine to start."""
    deadline_s: Seconds = 600
    """Longest wait for the answers of one variant."""
    heartbeat_s: Seconds = 60
    """How often engines and teachers are asked for a sign of life, and how long one may take to give it before it is replaced."""
    max_restarts: Count = 3
    """Restarts in a row, without an answer in between, before a rollout or variant actor is given up. The run goes on while one of each is left."""
    repeatable: bool = False
    """One answer at a time on each engine: what stands together in a batch, and so every last bit, no longer depends on timing. Slow, for debugging."""
    max_staleness: Count = 0
    """Updates that the weights may be ahead of those that sampled a batch. 0: strictly on-policy, each part waits for the other. 1 and more: rollouts
    of the next batches run while the learner updates; truncated importance sampling corrects (loss.importance_cap)."""

    @model_validator(mode="after")
    def _fits(self) -> RolloutConfig:
        if self.max_engines and self.max_engines < self.engines:
            raise ValueError(f"rollout.max_engines ({self.max_engines}) is less than rollout.engines ({self.engines}): raise it, or leave it at 0")
        if self.answers > self.max_sequences:
            raise ValueError(
                f"rollout.answers ({self.answers}) is more than rollout.max_sequences ({self.max_sequences}): raise max_sequences or lower answers"
            )
        if self.max_tokens >= self.max_model_len:
            raise ValueError(f"rollout.max_tokens ({self.max_tokens}) leaves no room for a prompt in rollout.max_model_len ({self.max_model_len})")
        if self.num_gpus and self.num_gpus != self.tensor_parallel:
            raise ValueError(f"rollout.num_gpus ({self.num_gpus}) must equal rollout.tensor_parallel ({self.tensor_parallel}), or be 0 without GPUs")
        return self


Weight = Annotated[float, Field(allow_inf_nan=False)]
REWARD_WEIGHTS: dict[str, dict[str, float]] = {
    "multiple_choice": {"accuracy": 1.0, "format": 1.0},
    "open": {"accuracy": 1.0, "format": 1.0},
    "numeric": {"accuracy": 1.0, "format": 1.0},
    "regression": {"accuracy": 1.0, "format": 1.0},
    "temporal_grounding": {"temporal_iou": 1.0, "format": 1.0},
    "grounded_qa": {"accuracy": 1.0, "temporal_iou": 1.0, "format": 1.0},
}
REWARD_PARTS = ("accuracy", "temporal_iou", "format", "length")


class Reward(Section):
    weights: dict[str, dict[str, Weight]] = REWARD_WEIGHTS
    """Reward per task: sum of weight x part over `accuracy`, `temporal_iou`, `format`, the optional `length` and the parts of `custom`.
    A task that is not named keeps its default."""
    custom: str | None = None
    """A reward of your own, `package.module:function`, looked for in the folder the command runs in, too. The function takes (question, text) and
    returns {part: number}; `weights` says what each part counts. It runs in the driver, once per answer."""
    numeric_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A numeric answer is right up to this relative error; 0: the same number."""
    regression: Literal["mean_relative_accuracy", "relative_error"] = "mean_relative_accuracy"
    """Accuracy of a regression answer: VSI-Bench's mean relative accuracy, or 1 - relative error (0 from an error of 100 % on)."""
    length_margin: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The `length` part is 0 for answers up to (1 - length_margin) x rollout.max_tokens and falls to -1 at rollout.max_tokens. It counts where
    `weights` names it."""
    iou_threshold: Share = 0.5
    """For tasks without an accuracy, an answer counts as right (zero-signal test) from this temporal IoU on."""
    noise: bool = False
    """Control experiment: the rewards of a step are dealt out anew among its slots at random, so that nothing can be learned from them."""

    @field_validator("weights")
    @classmethod
    def _every_task(cls, weights: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for task in weights:
            if task not in REWARD_WEIGHTS:
                raise ValueError(f"reward.weights names an unknown task {task!r}{_suggest(task, REWARD_WEIGHTS)}")
        return REWARD_WEIGHTS | weights

    @model_validator(mode="after")
    def _known(self) -> Reward:
        if self.custom is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.custom):
            raise ValueError(f"reward.custom is {self.custom!r}: write package.module:function")
        for task, parts in self.weights.items():
            for part in parts:
                if part not in REWARD_PARTS and self.custom is None:
                    known = f"{', '.join(REWARD_PARTS[:-1])} or {REWARD_PARTS[-1]}"
                    raise ValueError(f"reward.weights.{task} names an unknown part {part!r}: {known}; parts of your own need reward.custom")
        return self


class Teacher(Section):
    kind: Literal["none", "annotation", "chat", "engine"] = "none"
    """annotation: the evidence in the question file; chat: a model behind an OpenAI-compatible endpoint; engine: a vLLM engine of this run's own."""
    model: str | None = None
    """chat: the model's name at the endpoint; engine: folder or hub id of the checkpoint. Its weights never change."""
    base_url: str | None = None
    """chat: address of the endpoint, up to and with /v1."""
    api_key_env: str | None = None
    """chat: name of the environment variable that holds the key, set where the actors run; null: no key is sent. The key itself never stands here."""
    with_ground_truth: bool = True
    """Show the teacher the true answer; false is the ablation."""
    overview_frames: Count = 8
    """Frames of the whole video that it sees before it calls a tool."""
    must_look: bool = True
    """Its first turn has to call a tool."""
    max_turns: Count = 4
    """Turns with tools before the patch is asked for."""
    max_calls: Count = 8
    """Tool calls in all."""
    max_frames: Positive = 24
    """Frames shown to it in all, overview included."""
    max_frames_per_call: Positive = 8
    """Frames that one call may ask for."""
    max_pixels: Positive = 448 * 448
    """Upper bound of height x width of a frame shown to it."""
    max_bytes: Positive = 8 * 2**20
    """Upper bound of all images sent for one failed answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature of the teacher."""
    max_tokens: Positive = 1024
    """Longest turn."""
    max_reply_bytes: Positive = 2**20
    """chat: a response with a larger body is refused."""
    deadline_s: Seconds = 120
    """Longest wait for one patch, tools and retries included; then the slot stays unrepaired."""
    request_timeout_s: Seconds = 60
    """chat: longest wait for one response before the next try."""
    retries: Count = 3
    """chat: further tries of a request on 429, 5xx, time-outs and lost connections, with growing pauses."""
    concurrency: Positive = 4
    """Failed answers that one teacher actor works on at a time."""
    actors: Positive = 1
    """Teacher actors."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """engine: GPUs that Ray reserves for each: tensor_parallel, or 0 on a machine without GPU."""
    resources: Resources = {}
    """Custom resources of Ray that each takes of its node, such as {rollout_node: 1}: the way to say on which nodes they stand."""
    tensor_parallel: Positive = 1
    """engine: GPUs per engine."""
    threads: Positive = 1
    """Threads each may use."""
    max_model_len: Positive = 16384
    """engine: longest conversation in tokens, images included."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """engine: share of the GPU's memory it takes."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1
    """engine: key-value cache without GPU."""
    start_deadline_s: Seconds = 900
    """Longest wait for a teacher actor to start."""
    max_restarts: Count = 3
    """Restarts per actor before the run stops."""

    @model_validator(mode="after")
    def _reachable(self) -> Teacher:
        if self.kind in ("chat", "engine") and not self.model:
            raise ValueError(f"teacher.kind {self.kind} needs teacher.model: name the model")
        if self.kind == "chat" and not self.base_url:
            raise ValueError("teacher.kind chat needs teacher.base_url: the endpoint's address, such as http://teacher-host:8000/v1")
        if self.base_url and not re.match(r"https?://[^/@\s]+(/\S*)?$", self.base_url):
            raise ValueError("teacher.base_url must be http://HOST:PORT/v1 or https://HOST/v1, without user or password")
        if self.api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("teacher.api_key_env must be the name of an environment variable, not the key")
        if self.overview_frames > self.max_frames:
            raise ValueError(f"teacher.overview_frames ({self.overview_frames}) is above teacher.max_frames ({self.max_frames}): raise max_frames")
        if self.must_look and not (self.max_turns and self.max_calls):
            raise ValueError("teacher.must_look needs teacher.max_turns and teacher.max_calls of at least 1, or set must_look to false")
        if self.kind == "engine" and self.num_gpus not in (0, self.tensor_parallel):
            raise ValueError(f"teacher.num_gpus ({self.num_gpus:g}) must equal teacher.tensor_parallel ({self.tensor_parallel}), or be 0 without GPUs")
        if self.kind == "engine" and self.max_tokens >= self.max_model_len:
            raise ValueError(f"teacher.max_tokens ({self.max_tokens}) leaves no room for a question in teacher.max_model_len ({self.max_model_len})")
        return self


class Repair(Section):
    enabled: bool = False
    """FFR: a failed answer gets a teacher's evidence patch and is answered again."""
    trigger: Annotated[float, Field(gt=0, le=1)] = 1.0
    """An answer has failed when its accuracy is below this."""
    iou_threshold: Share = 0.5
    """For temporal grounding an answer has failed when its temporal IoU is below this."""
    max_per_group: Annotated[int, Field(gt=0)] | None = None
    """Repairs per question at most; null: rollout.answers."""
    kappa: Annotated[float, Field(ge=0)] = 0.3
    """What a repaired answer is worth less than an unaided one."""
    alpha: Annotated[float, Field(ge=0)] = 0.2
    """Bonus for a rationale that refers to all of the patch's evidence; never above kappa."""
    choice: Literal["always", "if_better"] = "always"
    """Which rollout a repaired slot keeps: always the second, or the better of both."""
    visual_evidence: bool = True
    """Show the evidence as frames too; false: the hint alone (ablation)."""
    max_evidence_frames: Positive = 4
    """Evidence frames and crops added to the prompt at most."""
    alignment_tolerance_s: Annotated[float, Field(ge=0)] = 0.5
    """A time in the rationale refers to a span or frame when it is no further off than this."""
    blind_test: bool = False
    """Ask the student from the hint without the video too: teacher/blind_right above teacher/blind_chance (of teacher/blind_tested) means leaks."""

    @model_validator(mode="after")
    def _unaided_ranks_first(self) -> Repair:
        if self.alpha > self.kappa:
            raise ValueError(
                f"repair.alpha ({self.alpha:g}) is above repair.kappa ({self.kappa:g}), so a repaired answer could outrank an unaided one: "
                "lower alpha or raise kappa"
            )
        return self


class Advantage(Section):
    group: Literal["joint", "per_variant", "batch"] = "joint"
    """Rewards normalized together: all K x M of a question, the M of a variant, or the whole step."""
    scale: Literal["std", "none"] = "std"
    """Divide by the standard deviation (GRPO) or not (Dr.GRPO)."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation."""
    drop_zero_signal: bool = False
    """Leave groups whose accuracy rewards (for spans: and temporal IoUs) are all equal out of the update and take the next questions instead."""
    max_refills: Count = 2
    """Rounds of replacement per step when `drop_zero_signal` is on."""


class Loss(Section):
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the ratio: 1 - clip_low."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """Upper clip of the ratio: 1 + clip_high (clip-higher)."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """Mean over tokens (DAPO), mean of sequence means (GRPO), or sum over a constant length (Dr.GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Ratio per token, or its geometric mean over the sequence (GSPO)."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the k3 KL to the starting policy; above 0 a second, frozen copy is kept."""
    importance_cap: Annotated[float, Field(ge=1)] = 2.0
    """Truncated importance sampling: cap of learner / sampler probability."""
    passes: Positive = 1
    """Updates made from one batch of rollouts; from the second on the clip acts."""


class Learner(Section):
    ranks: Positive = 1
    """DeepSpeed ranks (actors)."""
    zero_stage: Literal[1, 2, 3] = 1
    """ZeRO stage."""
    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate of AdamW."""
    min_lr_share: Share = 0.0
    """Learning rate at the end of the cosine, as a share of lr."""
    warmup_steps: Count = 10
    """Linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW betas."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient clipping."""
    micro_batch_tokens: Positive = 16384
    """Tokens (prompts and answers) that go through the model at a time; a single prompt with its answers may exceed it."""
    logprob_chunk: Positive = 1024
    """Answer tokens whose logits exist at a time."""
    gradient_checkpointing: bool = False
    """Trade time for activation memory."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory."""
    threads: Positive = 1
    """CPU threads of a rank."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each rank."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs that Ray reserves for each rank."""
    resources: Resources = {}
    """Custom resources of Ray that each takes of its node, such as {rollout_node: 1}: the way to say on which nodes they stand."""
    start_deadline_s: Seconds = 900
    """Longest wait for the group to start."""
    deadline_s: Seconds = 1800
    """Longest wait for one update or checkpoint."""


class Sync(Section):
    transport: Literal["auto", "gloo", "nccl"] = "auto"
    """auto: nccl between GPUs, gloo otherwise."""
    mode: Literal["wait", "keep"] = "wait"
    """Answers that are being sampled when new weights come (with rollout.max_staleness above 0). wait: they are finished with the old weights first.
    keep: they stand still and go on with the new ones, on the keys and values of the old ones; the dumps say from which token on."""
    bucket_bytes: Positive = 32 * 2**20
    """Weights are packed into buckets of about this size: engines load one while the next is packed. Fast links between GPUs want larger ones."""
    verify: bool = True
    """Compare a checksum of the engines' loaded weights with the learner's after every sync (not with rollout.tensor_parallel above 1)."""
    deadline_s: Seconds = 300
    """Longest wait for each phase of a sync; with mode wait the engines' last answers have rollout.deadline_s beside."""


class Select(Section):
    repeats: Annotated[int, Field(ge=2)] = 8
    """Answers sampled on each view of a question."""
    kinds: Annotated[tuple[VariantKind, ...], Field(min_length=1)] = ("uniform",)
    """Views of each video; the answers on all of them are judged together."""
    iou_std: Share = 0.1
    """Grounding questions stay from this standard deviation of the temporal IoU on."""
    iou_max: Share = 0.5
    """Grounding questions stay where at least one answer reaches this temporal IoU."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep at most this share of each source's questions: of those that pass the rules, the ones whose answers differ most."""
    in_flight: Positive = 32
    """Questions worked on at a time."""


class Tracker(Section):
    kind: Literal["wandb", "tensorboard", "none"] = "wandb"
    """Where metrics go besides metrics.jsonl."""
    project: str = "rlvid"
    """wandb project. Without WANDB_API_KEY the run is logged offline into the run folder; `wandb sync` sends it later."""
    rollouts_every: Count = 25
    """Steps between tables of rollouts with their filmstrips; 0: none."""
    rollouts_questions: Positive = 2
    """Questions in such a table."""


class ReportConfig(Section):
    enabled: bool = True
    """Write report.html at every checkpoint and at the end of training. It is made by a process of its own; training does not wait for it."""
    questions: Count = 24
    """Questions shown with their pictures, spread over tasks and steps."""
    slots: Positive = 10_000
    """Answers that can be looked up, from evenly spaced steps."""
    thumbnail_px: Annotated[int, Field(ge=64, le=1024)] = 160
    """Longer side of a picture; smaller ones are made where `max_bytes` asks for it."""
    max_text: Positive = 120_000
    """Characters kept of one text; what is left out is counted."""
    max_bytes: Annotated[int, Field(ge=2**19)] = 20 * 2**20
    """Upper bound of report.html. Pictures get smaller first, then answers are left out."""
    deadline_s: Seconds = 120
    """Longest time for all pictures of a report, and longest wait for it at the end of training."""


class Cluster(Section):
    address: str | None = None
    """Ray address; null: the cluster of RAY_ADDRESS if set, else a Ray of this run's own on this machine."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK"] = "PACK"
    """Placement-group strategy."""
    object_store_gib: Annotated[float, Field(gt=0)] = 1.0
    """Object store of a Ray that this run starts itself."""


class Config(Section):
    run: Run
    model: Model
    data: Data
    prompt: Prompt = Prompt()
    video: Video = Video()
    variants: Variants = Variants()
    relevance: RelevanceConfig = RelevanceConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: Reward = Reward()
    teacher: Teacher = Teacher()
    repair: Repair = Repair()
    advantage: Advantage = Advantage()
    loss: Loss = Loss()
    learner: Learner = Learner()
    sync: Sync = Sync()
    select: Select = Select()
    tracker: Tracker = Tracker()
    report: ReportConfig = ReportConfig()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        if (self.learner.num_gpus > 0) != (self.rollout.num_gpus > 0):
            raise ValueError("learner.num_gpus and rollout.num_gpus must both be 0 or both be above 0: engines and learner run on the same kind of device")
        if self.sync.transport == "nccl" and not self.learner.num_gpus:
            raise ValueError("sync.transport nccl needs GPUs: set learner.num_gpus and rollout.num_gpus, or use auto")
        if self.learner.num_gpus and self.repair.enabled and self.teacher.kind == "engine" and not self.teacher.num_gpus:
            raise ValueError("teacher.kind engine with teacher.num_gpus 0 would take a GPU that is not its own: set teacher.num_gpus")
        if self.model.attention == "flex_attention" and not self.learner.num_gpus:
            raise ValueError("model.attention flex_attention needs GPUs for its backward pass: set learner.num_gpus and rollout.num_gpus, or use sdpa")
        if self.advantage.group == "per_variant" and self.rollout.answers == 1:
            raise ValueError("advantage.group per_variant with rollout.answers 1 gives no signal: raise answers or use joint")
        if self.variants_per_question * self.rollout.answers == 1:
            raise ValueError("one variant and one answer give no signal: raise rollout.answers or name more variants.kinds")
        if self.repair.enabled and self.teacher.kind == "none":
            raise ValueError("repair.enabled needs a teacher: set teacher.kind to annotation, chat or engine, or repair.enabled to false")
        if self.video.max_tokens + self.rollout.max_tokens > self.rollout.max_model_len:
            raise ValueError(
                f"video.max_tokens ({self.video.max_tokens}) and rollout.max_tokens ({self.rollout.max_tokens}) do not fit "
                f"rollout.max_model_len ({self.rollout.max_model_len}): raise it or lower them"
            )
        return self

    @property
    def variants_per_question(self) -> int:
        """K."""
        return len(self.variants.kinds)

    @property
    def looks_at_relevance(self) -> bool:
        """Does a variant need the relevance scorer?"""
        return needs_relevance(self.variants.kinds)

    @property
    def relevance_folder(self) -> Path | None:
        """Where the image-text model lies, if a variant needs one and it is not on the hub."""
        model = str(self.relevance.model)
        return Path(model) if self.looks_at_relevance and self.relevance.scorer == "clip" and not is_hub_id(model) else None

    @property
    def on_gpu(self) -> bool:
        return self.learner.num_gpus > 0

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.dir / self.run.name

    @property
    def storage(self) -> str | None:
        """URL of the run's checkpoints beyond this machine."""
        return f"{self.run.storage.rstrip('/')}/{self.run.name}/checkpoints" if self.run.storage else None

    @property
    def dtype(self) -> str:
        if self.model.dtype == "auto":
            return "bfloat16" if self.on_gpu else "float32"
        return self.model.dtype

    @property
    def transport(self) -> str:
        if self.sync.transport == "auto":
            return "nccl" if self.on_gpu else "gloo"
        return self.sync.transport

    def dump(self) -> str:
        """The resolved tree as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, check everything.

    Raises ConfigError with one line that names the file and the key.
    """
    path = Path(path)
    tree = _read_extended(path)
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error.errors()[0])}") from None


def check_model_path(path: str, key: str, *, weights: bool = True) -> None:
    """Refuse what cannot be a checkpoint, by a glance at its files: no network, nothing heavy. A hub id passes. `weights`: they must be there."""
    folder = Path(path)
    if is_hub_id(path):
        return
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{key}: {path} {what} (name a checkpoint folder, such as runs/NAME/export, or a hub id, such as Qwen/Qwen2.5-VL-7B-Instruct)")
    try:
        family = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"{key}: {path} holds no readable config.json (name the folder of a Hugging Face checkpoint, such as runs/NAME/export)") from None
    if not str(family).startswith(FAMILIES):
        raise ConfigError(f"{key}: {path} is a {family} model (rlvid trains {' and '.join(FAMILIES)})")
    if weights and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ConfigError(f"{key}: {path} holds no weights (*.safetensors are missing: copy the checkpoint anew)")


def is_hub_id(path: str) -> bool:
    """OWNER/NAME, unless OWNER is a folder here: then it is a path, mistyped perhaps, and must not send anybody to the network."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path)) and not Path(path).parent.exists()


def _read_extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's tree; with `extends: OTHER.yaml` at its top, the other file's tree with this one's settings put over it."""
    tree = _read(path)
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str) or path.resolve() in seen:
        raise ConfigError(f"{path}: extends: {'names itself in a circle' if isinstance(base, str) else 'must name one YAML file'}")
    if not (path.parent / base).is_file():
        raise ConfigError(f"{path}: extends: {path.parent / base} is no file (paths start at the folder of the file that extends)")
    return _over(_read_extended(path.parent / base, (*seen, path.resolve())), tree)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML would silently take the last one, a whole section with it."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(problem=f"the key {key.value} is there twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add((key.tag, key.value))
        return node


def _parsed(text: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except RecursionError:
        raise yaml.YAMLError("too deep") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = _parsed(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (configs/ holds ready ones)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}:{place} is not YAML ({problem})") from None
    except ValueError as error:  # not UTF-8, or a date that is none
        raise ConfigError(f"{path}: is not YAML ({error})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of sections such as run, model, data")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write key=value, for example learner.lr=1e-6")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is not a section")
    try:
        node[leaf] = _parsed(value)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"override {override!r}: the value is not YAML") from None


def _explain(error: ErrorDetails) -> str:
    """One pydantic error as one line: key, what is wrong, the nearest known key."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section: Any = Config
        for part in error["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key {key}{_suggest(str(error['loc'][-1]), section.model_fields)}"
    if error["type"] == "missing":
        return f"missing key {key}"
    message = error["msg"].removeprefix("Value error, ")
    return message if error["type"] == "value_error" else f"{key}: {message}, not {error['input']!r}"


def _suggest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"
