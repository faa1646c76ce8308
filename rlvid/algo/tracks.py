"""How well a box, or a box at every moment, is found. Pure: boxes as shares of width and height in, 0..1 out.

    IoU    area of the intersection / area of the union
    vIoU   1 / |S_u| x sum over t in S_i of IoU(box_t, true box_t)

vIoU is the measure of spatio-temporal grounding: S_i are the moments that both have a box, S_u those that either has (VidSTG, arXiv 2001.06891; HC-STVG, arXiv
2011.05049) [R]. Their moments are frames; here they are the truth's moments, gone on at its own step before and after it [D].

1 - IoU is a metric (Jaccard's), and so is 1 - vIoU: draw an order of all moments and one of all points, and let a track stand for its first moment and that
box's first point; vIoU is the chance that two tracks stand for the same. So no reply between two truths earns more than the likelier of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from rlvid.reading.boxes import Track
from rlvid.types import Box, Region

HAIR_S = 1e-6


def iou(one: Box, other: Box) -> float:
    """0 where one has its corners the wrong way round, or no area."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) if box[0] < box[2] and box[1] < box[3] else 0.0 for box in (one, other)]
    if width <= 0 or height <= 0 or not all(areas):
        return 0.0
    return width * height / (sum(areas) - width * height)


def spatio_temporal_iou(predicted: Track, truth: Sequence[Region]) -> float:
    """vIoU of a reply's track. `truth`: at least one box, at ascending times.

    Between two of its moments a reply's box moves in a straight line; before the first and after the last it stands still, as far as the span goes that the
    reply names. Without a span a moment stands for half a step to both sides.
    """
    step_s = statistics.median(after.time_s - before.time_s for before, after in pairwise(truth)) if len(truth) > 1 else 1.0
    start_s, end_s = predicted.extent
    margin_s = HAIR_S if predicted.span else step_s / 2 - HAIR_S
    start_s, end_s = start_s - margin_s, end_s + margin_s
    shared = [iou(box_at(predicted.regions, region.time_s), region.box) for region in truth if start_s <= region.time_s <= end_s]
    before = _moments(truth[0].time_s, -step_s, start_s, end_s)
    after = _moments(truth[-1].time_s, step_s, start_s, end_s)
    return sum(shared) / (len(truth) + before + after)


def box_at(regions: Sequence[Region], time_s: float) -> Box:
    """The box at a moment: between those before and after it, or the nearest."""
    if time_s <= regions[0].time_s:
        return regions[0].box
    for one, other in pairwise(regions):
        if one.time_s <= time_s <= other.time_s:
            share = (time_s - one.time_s) / (other.time_s - one.time_s)
            x1, y1, x2, y2 = (a + share * (b - a) for a, b in zip(one.box, other.box, strict=True))
            return x1, y1, x2, y2
    return regions[-1].box


def _moments(from_s: float, step_s: float, start_s: float, end_s: float) -> int:
    """How many of from_s + step_s, from_s + 2 step_s, ... lie between start and end, however far off these are."""
    near, far = sorted(((start_s - from_s) / step_s, (end_s - from_s) / step_s))
    return max(0, math.floor(far) - max(1, math.ceil(near)) + 1)
