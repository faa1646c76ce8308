"""One teacher actor: holds the configured teacher, lets it look at the original video, and cuts the evidence frames of its patches.

decord may hang or crash here without harm: the pool restarts the actor, and the slot in question stays unrepaired.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from rlvid.config import Config
from rlvid.families.checkpoint import reading_s
from rlvid.process.log import to_log_file
from rlvid.process.role import Role, bundle
from rlvid.process.traces import own_traces
from rlvid.process.vllm_options import engine_environment
from rlvid.teacher.protocol import EvidenceFrame, Teacher, TeacherReply, TeacherRequest
from rlvid.types import Question

GRACE_S = 30
"""A teacher actor that answers nothing for so long after its own deadline hangs, and is replaced."""


def role(config: Config) -> Role:
    """The teachers of a run."""
    teacher = config.teacher
    reading = reading_s(str(teacher.model), teacher.actors, config.model.read_mib_per_s) if teacher.kind == "engine" else 0.0
    return Role(
        "teacher actor",
        TeacherActor,
        teacher.actors,
        bundle(teacher.num_cpus, teacher.num_gpus, teacher.resources),
        teacher_environment(config),
        concurrency=1000,
        pool={
            "capacity": teacher.concurrency,
            "deadline_s": teacher.deadline_s + GRACE_S,
            "start_deadline_s": teacher.start_deadline_s + reading,
            "max_restarts": teacher.max_restarts,
            "quorum": config.rollout.quorum,
            "heartbeat_s": config.rollout.heartbeat_s,
        },
    )


def teacher_environment(config: Config) -> dict[str, str]:
    """Environment of the actor's process. The chat key is not in it: it would be shown by Ray's dashboard."""
    if config.teacher.kind == "engine":
        return engine_environment(config.teacher.threads, on_gpu=config.teacher.num_gpus > 0)
    return {"OMP_NUM_THREADS": str(config.teacher.threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


class TeacherActor:
    """An async actor: up to `teacher.concurrency` failed answers at a time (`max_concurrency` of its Ray options should be above that)."""

    def __init__(self, config: Config, number: int) -> None:
        self.config = config
        self.number = number

    async def start(self) -> str:
        """Make the teacher ready. Returns its kind. Raises ValueError for what the user has to set right."""
        to_log_file(f"teacher-{self.number}")
        if self.config.teacher.kind == "engine":
            own_traces()
        if self.config.video.cache_dir is not None:
            from rlvid.video.cache import VideoCache
            from rlvid.video.frames import keep_in

            keep_in(VideoCache(self.config.video.cache_dir, self.config.video.cache_gib))
        self.teacher = make_teacher(self.config)
        await self.teacher.start()
        return self.config.teacher.kind

    async def find(self, question: Question, failed_text: str, duration_s: float, size: tuple[int, int]) -> list[Any]:
        """[TeacherReply, evidence frames [E, H, W, 3] uint8 or None]. `size`: (height, width) in pixels of the student's frames.

        Called with num_returns = 2, so that the pixels stay in the object store; the reply's `evidence` [E] holds their times and boxes.
        """
        reply = await self.teacher.find(TeacherRequest(question, failed_text, duration_s, self.config.teacher.with_ground_truth))
        if reply.patch is None or not self.config.repair.visual_evidence:
            return [reply, None]
        return await asyncio.to_thread(self._with_evidence, question, reply, duration_s, size)

    def _with_evidence(self, question: Question, reply: TeacherReply, duration_s: float, size: tuple[int, int]) -> list[Any]:
        import numpy as np

        from rlvid.teacher.evidence import evidence_frames
        from rlvid.teacher.guard import patch_leak

        assert reply.patch is not None
        limit, threads = self.config.repair.max_evidence_frames, self.config.teacher.threads
        try:
            cuts = evidence_frames(question.video, reply.patch, size=size, limit=limit, threads=threads, clip=question.clip)
        except Exception as error:  # whatever a file makes of a decoder; a VideoError names the file
            return [replace(reply, patch=None, outcome="failed", reason=str(error) or type(error).__name__), None]
        # Frames stand where the video has them, not where they were wished: the guard has its last word on the times that the student will read.
        shown_s = [cut.time_s - question.starts_s for cut in cuts]
        if reason := patch_leak(question, reply.patch, duration_s=question.told_duration(duration_s), shown_s=shown_s):
            return [replace(reply, patch=None, outcome="leaked", reason=reason, leaked=reply.leaked + 1), None]
        return [replace(reply, evidence=tuple(EvidenceFrame(cut.time_s, cut.box) for cut in cuts)), np.stack([cut.frame_HWC for cut in cuts])]

    async def check(self) -> int:
        """Heartbeat."""
        await self.teacher.check()
        return self.number

    async def stop(self) -> None:
        """End what the teacher started."""
        await self.teacher.stop()


def make_teacher(config: Config) -> Teacher:
    """The teacher that the configuration names."""
    from rlvid.teacher.conversation import Rules
    from rlvid.teacher.tools import ToolLimits

    teacher = config.teacher
    limits = ToolLimits(teacher.max_calls, teacher.max_frames, teacher.max_frames_per_call, teacher.max_bytes, teacher.max_pixels)
    rules = Rules(teacher.overview_frames, teacher.max_turns, teacher.deadline_s, teacher.must_look, limits, teacher.threads)
    if teacher.kind == "annotation":
        from rlvid.teacher.annotation import AnnotationTeacher

        return AnnotationTeacher()
    if teacher.kind == "chat":
        from rlvid.teacher.chat import ChatTeacher

        return ChatTeacher(
            rules=rules,
            api_key_env=teacher.api_key_env or "",
            model=teacher.model,
            base_url=teacher.base_url,
            temperature=teacher.temperature,
            max_tokens=teacher.max_tokens,
            retries=teacher.retries,
            request_timeout_s=teacher.request_timeout_s,
            concurrency=teacher.concurrency,
            max_reply_bytes=teacher.max_reply_bytes,
        )
    if teacher.kind == "engine":
        from rlvid.teacher.engine import EngineTeacher

        return EngineTeacher(config, rules)
    raise ValueError("teacher.kind is none: there is no teacher to start")
