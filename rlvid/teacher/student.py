"""The patched prompt: the same question, and before it what the teacher found. Strings and numbers only.

The evidence is a second video of the prompt [D]: each evidence frame stands in it twice, as Qwen's models take a single picture,
with its true time. So a patched prompt goes through the vision tower in one call like any other, which ZeRO's collectives need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Box, EvidencePatch, VariantSpec
from rlvid.variants.build import video_metadata

PLACEHOLDER = "<|vision_start|><|video_pad|><|vision_end|>"
"""Stands for a video in the chat templates of Qwen2.5-VL and Qwen3-VL."""

Evidence = Sequence[tuple[float, Box | None]]


class PatchedPromptError(ValueError):
    """The prompt has no place for the evidence."""


def patched_prompt(prompt: str, patch: EvidencePatch, evidence: Evidence) -> str:
    """`prompt` with the evidence after the video: when each frame was, the frames' own placeholder, the hint. The question stays as it is."""
    if prompt.count(PLACEHOLDER) != 1:
        raise PatchedPromptError(f"the chat template does not write {PLACEHOLDER} once, as Qwen's do: repair has no place for the evidence")
    shown = f"Evidence: {', '.join(_moment(*one) for one in evidence)}. {PLACEHOLDER}\n" if evidence else ""
    # A teacher's text must not be able to end the user's turn or to stand for a video.
    hint = patch.hint.replace("<|", "< |").strip()
    return prompt.replace(PLACEHOLDER, f"{PLACEHOLDER}{shown}{hint}\n", 1)


def blind_prompt(prompt: str, patch: EvidencePatch) -> str:
    """`prompt` with the hint and without any video: whoever is right now was told the answer, or guessed."""
    return patched_prompt(prompt, patch, ()).replace(PLACEHOLDER, "", 1)


def evidence_metadata(evidence: Evidence, size: tuple[int, int]) -> dict[str, Any]:
    """The second video's metadata: every frame twice, at its true time."""
    times_s = tuple(time_s for time_s, _ in evidence for _ in range(2))
    return video_metadata(VariantSpec("evidence", times_s, None, size, 0))


def twice(frames_EHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[2E, H, W, 3]: every evidence frame two times, so that none is merged with another."""
    return np.repeat(frames_EHWC, 2, axis=0)


def _moment(time_s: float, box: Box | None) -> str:
    return f"{time_s:g} s" + (" (a part)" if box else "")
