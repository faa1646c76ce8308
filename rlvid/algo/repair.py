"""FFR's Robust Improvement Reward: what one slot of a group is worth after a failed answer was repaired."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rlvid.reading.mentions import normalised, places, times
from rlvid.types import Box, EvidencePatch, Region

TIMES_PER_ITEM = 4
"""So many times of a rationale, points and boxes count for each piece of evidence: a list of all seconds of the video refers to nothing."""
_NUMBERS = re.compile(r"[(\[]\s*((?:0|1|0?\.\d+|1\.0+)(?:\s*,\s*(?:0|1|0?\.\d+|1\.0+)){1,3})\s*[)\]]")
_THIRD = 1 / 3
_RIGHT_ANSWER = re.compile(
    r"\bright (?:answer|option|choice|one|away|now|before|after|when|at|there|here)\b|\b(?:all|is|that's|be) right\b(?! of)", re.IGNORECASE
)
"""`right` that is no place."""


def robust_improvement_reward(
    *,
    first_correct: bool,
    first_reward: float,
    repaired_reward: float | None,
    kappa: float = 0.3,
    alignment: float = 0.0,
    alpha: float = 0.2,
) -> float:
    """Value of one slot.

    FFR [R]: R~ = z (R + Rf) + (1 - z) (R* + Rf* - kappa), z = the first answer was right, R + Rf its whole reward, * the
    repaired one. This project's decisions [D]: a repaired slot adds alpha x alignment, `alignment` in 0..1 being the share of the patch's
    evidence that the new rationale refers to, and alpha <= kappa so that a repaired answer never outranks an unaided one as good;
    without a valid patch (`repaired_reward` None) the slot keeps `first_reward`.
    """
    _check(first_reward, repaired_reward, kappa, alignment, alpha)
    if first_correct or repaired_reward is None:
        return float(first_reward)
    return float(repaired_reward - kappa + alpha * alignment)


def _check(first_reward: float, repaired_reward: float | None, kappa: float, alignment: float, alpha: float) -> None:
    if not math.isfinite(first_reward) or (repaired_reward is not None and not math.isfinite(repaired_reward)):
        raise ValueError("first_reward and repaired_reward must be finite")
    if not (kappa >= 0 and alpha >= 0 and math.isfinite(kappa)):
        raise ValueError(f"kappa ({kappa}) and alpha ({alpha}) must not be negative")
    if alpha > kappa:
        raise ValueError(f"alpha ({alpha}) above kappa ({kappa}) would let a repaired answer outrank an unaided one: lower alpha")
    if not 0 <= alignment <= 1:
        raise ValueError(f"alignment ({alignment}) must lie in 0..1")


def alignment(patch: EvidencePatch, rationale: str, tolerance_s: float) -> float:
    """Share in 0..1 of the patch's spans, frames and regions that a rationale refers to [D]: rules, no judge. 0 where it cites nothing.

    A span counts when a time of the rationale lies in it, widened by `tolerance_s` on both sides; a frame when a time lies within
    `tolerance_s` of it; a region when the rationale names its place (left, right, top, bottom; centre for one in the middle) or gives
    coordinates: a point inside the box, or a box that overlaps it by half (IoU).

    Hedges refer to nothing: of a text's times, points and boxes only the first 4 per piece count, and none where more of them lie beside the evidence than at
    it (points and boxes: as many); a text that names a place where no region lies refers to no region by its place.
    """
    pieces = len(patch.spans) + len(patch.frames_s) + len(patch.regions)
    if not pieces:
        return 0.0
    text = normalised(rationale)
    named_s = [mention.seconds for mention in times(text, bare=True)][: TIMES_PER_ITEM * pieces]
    at_all = [*patch.spans, *((time_s, time_s) for time_s in (*patch.frames_s, *(region.time_s for region in patch.regions)))]
    hits = [any(start - tolerance_s <= time <= end + tolerance_s for start, end in at_all) for time in named_s]
    named_s = named_s if 2 * sum(hits) >= len(hits) else []
    spans = sum(any(start - tolerance_s <= time <= end + tolerance_s for time in named_s) for start, end in patch.spans)
    frames = sum(any(abs(time - frame) <= tolerance_s for time in named_s) for frame in patch.frames_s)
    return (spans + frames + _regions(patch.regions, text)) / pieces


def _regions(regions: Sequence[Region], text: str) -> int:
    """How many of the regions a text refers to, by place or by coordinates."""
    shapes = _coordinates(text)[: TIMES_PER_ITEM * len(regions)]
    met = [any(_meets(shape, region) for region in regions) for shape in shapes]
    shapes = shapes if 2 * sum(met) > len(met) else []
    named, there = places(_RIGHT_ANSWER.sub(" ", text)), {place for region in regions for place in position(region.box)}
    named = named if named <= there else set()
    return sum(position(region.box) <= named or any(_meets(shape, region) for shape in shapes) for region in regions)


def rationale_of(text: str) -> str:
    """What a reply says outside its answer: an answered span must not count as a reference to the evidence."""
    return re.sub(r"<answer>.*?(?:</answer>|\Z)", " ", text, flags=re.DOTALL)


def position(box: Box) -> set[str]:
    """Where the middle of a box lies on a grid of thirds: {left, top}, {right}, ..., {centre}."""
    across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    sides = {"left": across < _THIRD, "right": across > 1 - _THIRD, "top": down < _THIRD, "bottom": down > 1 - _THIRD}
    return {side for side, there in sides.items() if there} or {"centre"}


def _coordinates(text: str) -> list[tuple[float, ...]]:
    """Points (x, y) and boxes [x1, y1, x2, y2] in 0..1 that a text gives."""
    found = [tuple(float(number) for number in match[1].split(",")) for match in _NUMBERS.finditer(text)]
    return [numbers for numbers in found if len(numbers) in (2, 4)]


def _meets(shape: tuple[float, ...], region: Region) -> bool:
    x1, y1, x2, y2 = region.box
    if len(shape) == 2:
        return x1 <= shape[0] <= x2 and y1 <= shape[1] <= y2
    width, height = min(x2, shape[2]) - max(x1, shape[0]), min(y2, shape[3]) - max(y1, shape[1])
    common = max(0.0, width) * max(0.0, height)
    union = (x2 - x1) * (y2 - y1) + (shape[2] - shape[0]) * (shape[3] - shape[1]) - common
    return union > 0 and common / union >= 0.5
