"""What a teacher would add to a prompt, for the warm start: a model of this size reads only what it was taught to read.

True pointers show where the answer can be seen, made by the annotation teacher's own rules. False ones speak of another clip's moments
in the same words, so that the words alone tell nothing: whoever follows a pointer has to look at what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.teacher import student
from rlvid.teacher.annotation import patches
from rlvid.teacher.evidence import evidence_frames
from rlvid.teacher.guard import GROUNDING, patch_leak
from rlvid.teacher.student import Evidence, evidence_metadata, patched_prompt, twice
from rlvid.types import EvidencePatch, Question

MOST_FRAMES = 4
"""As repair.max_evidence_frames."""


@dataclass(frozen=True)
class Pointer:
    """A patch and its evidence frames [E, H, W, 3], each with time and box."""

    patch: EvidencePatch
    evidence: Evidence
    frames_EHWC: NDArray[np.uint8]
    moments_s: tuple[float, ...]
    """True times of the frames, also where the prompt does not tell them."""

    def prompt(self, prompt: str, placeholder: str) -> str:
        """The patched prompt, as the loop writes it."""
        return patched_prompt(prompt, self.patch, self.evidence, placeholder)

    def video(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Frames and metadata of the prompt's second video."""
        height, width = self.frames_EHWC.shape[1:3]
        return twice(self.frames_EHWC), evidence_metadata(self.evidence, (height, width))


class Pointers:
    """Cut once and kept. `size`: (height, width) of the frames."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._kept: dict[tuple[str, str], Pointer | None] = {}

    def true(self, questions: Sequence[Question]) -> list[Pointer | None]:
        """Where each answer can be seen; None where nothing can be said without giving it away."""
        return [self._pointer(question, question) for question in questions]

    def false(self, questions: Sequence[Question], by_kind: dict[str, list[Question]], rng: np.random.Generator) -> list[Pointer | None]:
        """Each question with what would be shown to another one of its kind."""
        return [self._pointer(question, by_kind[question.source][rng.integers(len(by_kind[question.source]))]) for question in questions]

    @staticmethod
    def shows(question: Question, pointer: Pointer | None) -> bool:
        """Can the answer be seen in what is shown? Then even a pointer that was meant for another clip is a true one."""
        moments = pointer.moments_s if pointer else ()
        return bool(moments) and all(any(start <= time_s <= end for time_s in moments) for start, end in question.evidence.spans)

    def _pointer(self, question: Question, other: Question) -> Pointer | None:
        key = question.id, other.id
        if key not in self._kept:
            self._kept[key] = self._cut(question, replace(question, evidence=other.evidence, spans=other.spans))
        return self._kept[key]

    def _cut(self, question: Question, told: Question) -> Pointer | None:
        patch = next((patch for patch in patches(told) if not patch_leak(told, patch)), None)
        if patch is None:
            return None
        cuts = evidence_frames(question.video, patch, size=self.size, limit=MOST_FRAMES)
        shown = student.told([(cut.time_s, cut.box) for cut in cuts], 0.0, times=told.task not in GROUNDING)
        return Pointer(patch, shown, np.stack([cut.frame_HWC for cut in cuts]), tuple(cut.time_s for cut in cuts))
