"""The patched prompt: the same question, and before it what the teacher found. Strings and numbers only.

The evidence is a second video of the prompt [D]: each evidence frame stands in it twice, as a model that merges pairs of frames takes a single picture,
with its true time. So a patched prompt goes through the vision tower in one call like any other, which ZeRO's collectives need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.data.prompts import plain_text
from rlvid.types import Box, EvidencePatch, VariantSpec
from rlvid.variants.build import video_metadata

Evidence = Sequence[tuple[float, Box | None]]
"""Times on the clock that the model is told."""


def told(evidence: Evidence, starts_s: float) -> list[tuple[float, Box | None]]:
    """Evidence in seconds of the file on the model's clock, which stands at 0 at `starts_s`; in milliseconds, so that no digits of floating point are shown."""
    return [(max(0.0, round(time_s - starts_s, 3)) if starts_s else time_s, box) for time_s, box in evidence]


class PatchedPromptError(ValueError):
    """The prompt has no place for the evidence."""


def patched_prompt(prompt: str, patch: EvidencePatch, evidence: Evidence, placeholder: str) -> str:
    """`prompt` with the evidence after the video: when each frame was, the frames' own placeholder, the hint. The question stays as it is.

    placeholder: what stands for a video in the chat template (rlvid/families/base.py)."""
    if prompt.count(placeholder) != 1:
        raise PatchedPromptError(f"the chat template does not write {placeholder} once, as its model family does: repair has no place for the evidence")
    shown = f"Evidence: {', '.join(_moment(*one) for one in evidence)}. {placeholder}\n" if evidence else ""
    return prompt.replace(placeholder, f"{placeholder}{shown}{plain_text(patch.hint).strip()}\n", 1)


def blind_prompt(prompt: str, patch: EvidencePatch, placeholder: str) -> str:
    """`prompt` with the hint and without any video: whoever is right now was told the answer, or guessed."""
    return patched_prompt(prompt, patch, (), placeholder).replace(placeholder, "", 1)


def evidence_metadata(evidence: Evidence, size: tuple[int, int]) -> dict[str, Any]:
    """The second video's metadata: every frame twice, at its true time."""
    times_s = tuple(time_s for time_s, _ in evidence for _ in range(2))
    return video_metadata(VariantSpec("evidence", times_s, None, size, 0))


def twice(frames_EHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[2E, H, W, 3]: every evidence frame two times, so that none is merged with another."""
    return np.repeat(frames_EHWC, 2, axis=0)


def _moment(time_s: float, box: Box | None) -> str:
    return f"{time_s:g} s" + (" (a part)" if box else "")
