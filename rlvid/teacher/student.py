"""The patched prompt: the same question, and before it what the teacher found. Strings and numbers only.

The evidence is a second video of the prompt [D]: each evidence frame stands in it twice, as a model that merges pairs of frames takes a single picture,
with its true time. So a patched prompt goes through the vision tower in one call like any other, which ZeRO's collectives need.

Where a span is asked for, times are the answer: there the frames show what to look for, and their times are told neither in words nor in the metadata [D].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.data.prompts import plain_text
from rlvid.types import Box, EvidencePatch, VariantSpec
from rlvid.variants.build import video_metadata

Evidence = Sequence[tuple[float | None, Box | None]]
"""Times on the clock that the model is told; None: a time that it is not told."""
UNTOLD = "at times that are not told"


def told(evidence: Sequence[tuple[float, Box | None]], starts_s: float, *, times: bool = True) -> list[tuple[float | None, Box | None]]:
    """Evidence in seconds of the file on the model's clock, which stands at 0 at `starts_s`; in milliseconds, so that no digits of floating point are shown.

    times: False for tasks that ask for a span (guard.GROUNDING)."""
    if not times:
        return [(None, box) for _, box in evidence]
    return [(max(0.0, round(time_s - starts_s, 3)) if starts_s else time_s, box) for time_s, box in evidence]


class PatchedPromptError(ValueError):
    """The prompt has no place for the evidence."""


def patched_prompt(prompt: str, patch: EvidencePatch, evidence: Evidence, placeholder: str) -> str:
    """`prompt` with the evidence after the video: when each frame was, the frames' own placeholder, the hint. The question stays as it is.

    placeholder: what stands for a video in the chat template (rlvid/families/base.py)."""
    if prompt.count(placeholder) != 1:
        raise PatchedPromptError(f"the chat template does not write {placeholder} once, as its model family does: repair has no place for the evidence")
    untold = f", {UNTOLD}" if any(time_s is None for time_s, _ in evidence) else ""
    shown = f"Evidence{untold}: {', '.join(_moment(*one) for one in evidence)}. {placeholder}\n" if evidence else ""
    return prompt.replace(placeholder, f"{placeholder}{shown}{plain_text(patch.hint).strip()}\n", 1)


def blind_prompt(prompt: str, patch: EvidencePatch, placeholder: str) -> str:
    """`prompt` with the hint and without any video: whoever is right now was told the answer, or guessed."""
    return patched_prompt(prompt, patch, (), placeholder).replace(placeholder, "", 1)


def evidence_metadata(evidence: Evidence, size: tuple[int, int]) -> dict[str, Any]:
    """The second video's metadata: every frame twice, at its true time; untold ones a second apart from 0 on, whatever they are."""
    times_s = tuple(float(at) if time_s is None else time_s for at, (time_s, _) in enumerate(evidence) for _ in range(2))
    return video_metadata(VariantSpec("evidence", times_s, None, size, 0))


def twice(frames_EHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[2E, H, W, 3]: every evidence frame two times, so that none is merged with another."""
    return np.repeat(frames_EHWC, 2, axis=0)


def _moment(time_s: float | None, box: Box | None) -> str:
    if time_s is None:
        return "a part of a frame" if box else "a frame"
    return f"{time_s:g} s" + (" (a part)" if box else "")
