"""What every teacher is: a failed answer in, a patch or a counted reason out. Frozen: no teacher ever takes weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from rlvid.types import Box, EvidencePatch, Question

Outcome = Literal["patch", "leaked", "refused", "failed", "none"]
"""patch: there is one | leaked, refused: the last try was stopped by the guard, by the schema | failed: no answer from the
teacher (deadline, server, video) | none: the teacher has no evidence for this question."""


@dataclass(frozen=True)
class TeacherRequest:
    """One failed answer. `duration_s` is the whole video's; `failed_text` the student's whole reply.

    A teacher sees, says and is told all times on the student's clock: `told` is the question, `told_duration_s` the length there.
    """

    question: Question
    failed_text: str
    duration_s: float
    with_ground_truth: bool = True

    @property
    def told(self) -> Question:
        return self.question.as_told()

    @property
    def told_duration_s(self) -> float:
        return self.question.told_duration(self.duration_s)


@dataclass(frozen=True)
class EvidenceFrame:
    """One frame of the evidence as it was cut: true timestamp in seconds of the file, and the box (None: the whole frame)."""

    time_s: float
    box: Box | None = None


@dataclass(frozen=True)
class TeacherReply:
    """A valid patch without a leak, or None and why.

    `leaked` and `refused` count tries that the guard and the schema stopped; tokens and seconds are the whole conversation's.
    `evidence` [E] says when and where the evidence frames were cut, whose pixels travel beside the reply.
    """

    patch: EvidencePatch | None
    outcome: Outcome
    reason: str = ""
    leaked: int = 0
    refused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    turns: int = 0
    tool_calls: int = 0
    retries: int = 0
    evidence: tuple[EvidenceFrame, ...] = ()


class Teacher(Protocol):
    """`find` never raises for what a model, a server or a video does: that is a reply without a patch."""

    async def start(self) -> None:
        """Make ready to serve. Raises when it cannot: a wrong address or key is the user's mistake."""

    async def find(self, request: TeacherRequest) -> TeacherReply:
        """The smallest evidence that helps with this failed answer."""

    async def check(self) -> None:
        """Raise when the teacher cannot serve any more."""

    async def stop(self) -> None:
        """Give back what start() took."""
