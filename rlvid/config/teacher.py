"""Sections of the teacher and of what becomes of its evidence."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rlvid.config.base import Count, PathOrId, Positive, Resources, Seconds, Section, Share, check_endpoint, suggest


class Teacher(Section):
    kind: Literal["none", "annotation", "chat", "engine"] = "none"
    """annotation: the evidence in the question file; chat: a model behind an OpenAI-compatible endpoint; engine: a vLLM engine of this run's own."""
    model: PathOrId | None = None
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
    """Longest wait for a teacher actor to start, besides the time to read the checkpoint (model.read_mib_per_s)."""
    max_restarts: Count = 3
    """Restarts per actor before the run stops."""

    @model_validator(mode="after")
    def _reachable(self) -> Teacher:
        if self.kind in ("chat", "engine") and not self.model:
            raise ValueError(f"teacher.kind {self.kind} needs teacher.model: name the model")
        if self.kind == "chat" and not self.base_url:
            raise ValueError("teacher.kind chat needs teacher.base_url: the endpoint's address, such as http://teacher-host:8000/v1")
        check_endpoint("teacher", self.base_url, self.api_key_env)
        if self.overview_frames > self.max_frames:
            raise ValueError(f"teacher.overview_frames ({self.overview_frames}) is above teacher.max_frames ({self.max_frames}): raise max_frames")
        if self.must_look and not (self.max_turns and self.max_calls):
            raise ValueError("teacher.must_look needs teacher.max_turns and teacher.max_calls of at least 1, or set must_look to false")
        if self.kind == "engine" and self.num_gpus not in (0, self.tensor_parallel):
            raise ValueError(f"teacher.num_gpus ({self.num_gpus:g}) must equal teacher.tensor_parallel ({self.tensor_parallel}), or be 0 without GPUs")
        if self.kind == "engine" and self.max_tokens >= self.max_model_len:
            raise ValueError(f"teacher.max_tokens ({self.max_tokens}) leaves no room for a question in teacher.max_model_len ({self.max_model_len})")
        return self


Trigger = Annotated[float, Field(gt=0, le=1)]
TRIGGERS: dict[str, float] = {"multiple_choice": 1.0, "open": 0.5, "numeric": 1.0, "regression": 0.5, "math": 1.0, "grounded_qa": 1.0}
"""Graded answers (ROUGE, relative accuracy) are hardly ever worth 1: 9 for 10 has not failed [D]."""


class Repair(Section):
    enabled: bool = False
    """FFR: a failed answer gets a teacher's evidence patch and is answered again. Questions that show anything else than one video stay as they are; how many
    is teacher/not_one_video. Questions that ask for places (boxes, tracks) stay as they are, too: teacher/asks_for_places."""
    trigger: Trigger | dict[str, Trigger] = TRIGGERS
    """An answer has failed when its accuracy is below this: a number for all tasks, or one per task, such as {regression: 0.8}; a task that is not named keeps
    its default. Whether an answer failed is yes or no, however its accuracy is graded. A grounded question without options has the trigger of `open`;
    temporal grounding has `iou_threshold`, unless its temporal IoU gets a trigger here by name."""
    iou_threshold: Share = 0.5
    """For temporal grounding an answer has failed when its temporal IoU is below this."""
    max_per_group: Annotated[int, Field(gt=0)] | None = None
    """Repairs per question at most; null: rollout.answers."""
    kappa: Annotated[float, Field(ge=0)] = 0.3
    """What a repaired answer is worth less than an unaided one."""
    alpha: Annotated[float, Field(ge=0)] = 0.2
    """Bonus for a right second answer whose rationale refers to all of the patch's evidence; never above kappa [D]."""
    choice: Literal["always", "if_better"] = "always"
    """Which answer a repaired slot keeps. always: the second (FFR's value formula [R]); if_better: the one with the higher reward, and of equal ones the
    unaided (FFR's appendix E.2 [R])."""
    max_tokens: Positive | None = None
    """Longest second answer, at most rollout.max_tokens; null: as long as the first. FFR: 512 of 1,024 [R]."""
    visual_evidence: bool = True
    """Show the evidence as frames too (this project's [D]), at their true times, but for questions that ask for a span: there a time would be part of the
    answer, and frames are all that evidence can say. false: the hint alone, as in FFR's released code [R]."""
    max_evidence_frames: Positive = 4
    """Evidence frames and crops added to the prompt at most."""
    alignment_tolerance_s: Annotated[float, Field(ge=0)] = 0.5
    """A time in the rationale refers to a span or frame when it is no further off than this."""
    blind_test: bool = False
    """Ask the student from the hint without the video too: teacher/blind_right above teacher/blind_chance (of teacher/blind_tested) means leaks."""

    @field_validator("trigger")
    @classmethod
    def _every_task(cls, trigger: float | dict[str, float]) -> float | dict[str, float]:
        known = (*TRIGGERS, "temporal_grounding")
        for task in trigger if isinstance(trigger, dict) else ():
            if task not in known:
                raise ValueError(f"repair.trigger names an unknown task {task!r}{suggest(task, known)}")
        return TRIGGERS | trigger if isinstance(trigger, dict) else trigger

    def trigger_of(self, task: str, *, options: bool) -> float:
        """Below which accuracy, or temporal IoU for temporal grounding, an answer has failed."""
        if not isinstance(self.trigger, dict):
            return self.iou_threshold if task == "temporal_grounding" else self.trigger
        if task == "grounded_qa" and not options:
            return min(self.trigger["open"], self.trigger["grounded_qa"])
        return self.trigger.get(task, self.iou_threshold)

    @model_validator(mode="after")
    def _unaided_ranks_first(self) -> Repair:
        if self.alpha > self.kappa:
            raise ValueError(
                f"repair.alpha ({self.alpha:g}) is above repair.kappa ({self.kappa:g}), so a repaired answer could outrank an unaided one: "
                "lower alpha or raise kappa"
            )
        return self
