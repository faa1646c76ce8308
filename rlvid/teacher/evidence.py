"""Frames and crops cut from the original video: what the teacher's tools show, and what the student gets as evidence. One way for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlvid.types import Box, EvidencePatch, Span, VariantSpec
from rlvid.variants.build import cut
from rlvid.video.clip import Frames, Size, VideoError, nearest, read_at
from rlvid.video.frames import Reader

MAX_WORK_PIXELS = 1920 * 1088
"""Frames of larger videos are brought down to this before anything is cut, so that a call's memory is bounded."""
MIN_SIDE = 0.25
"""Least share of width and height that a crop keeps: nothing is magnified more than fourfold."""
JPEG_QUALITY = 90


class Cut(NamedTuple):
    """A frame or a crop: its true timestamp in seconds of the file, the box that was cut (None: the whole frame), uint8 [H, W, 3] RGB."""

    time_s: float
    box: Box | None
    frame_HWC: Frames


def cut_frames(
    video: str | Reader,
    wanted: Sequence[tuple[float, Box | None]],
    size_for: Callable[[int, int], Size],
    *,
    threads: int = 1,
    clip: Span | None = None,
) -> list[Cut]:
    """The frames of the clip (whole video without one) nearest to the wanted times, or their boxes, in the wanted order, at the size that `size_for` gives.

    Cut from the original video at its own resolution (up to MAX_WORK_PIXELS). A box is widened to the frame's aspect first, see `framed`.
    The same wish gives the same bits in every process.
    """
    read = read_at(video, tuple(time_s for time_s, _ in wanted), work_size_for=_work_size, threads=threads, clip=clip)
    found = []
    for (_, box), at in zip(wanted, nearest(read.times_s_N, tuple(time_s for time_s, _ in wanted)), strict=True):
        time_s, kept = float(read.times_s_N[at]), framed(box) if box else None
        spec = VariantSpec("evidence", (time_s,), kept, size_for(read.height, read.width), 0)
        found.append(Cut(time_s, kept, cut(read, spec)[0]))
    return found


def evidence_pixels(path: str, evidence: Sequence[tuple[float, Box | None]], size: Size, *, threads: int = 1) -> Frames | None:
    """[E, H, W, 3] of evidence that was cut before, bit for bit; None where a patch had none."""
    cuts = cut_frames(path, evidence, lambda _height, _width: size, threads=threads) if evidence else []
    return np.stack([cut.frame_HWC for cut in cuts]) if cuts else None


def framed(box: Box) -> Box:
    """The smallest box of the frame's own aspect (equal shares of width and height) around this one, at least MIN_SIDE wide, moved inside."""
    side = min(1.0, max(box[2] - box[0], box[3] - box[1], MIN_SIDE))
    left = min(max((box[0] + box[2] - side) / 2, 0.0), 1 - side)
    top = min(max((box[1] + box[3] - side) / 2, 0.0), 1 - side)
    return left, top, left + side, top + side


def evidence_frames(path: str, patch: EvidencePatch, *, size: Size, limit: int = 4, threads: int = 1, clip: Span | None = None) -> list[Cut]:
    """Up to `limit` frames and crops of a patch's evidence at the student's (height, width), by ascending time in the file; VideoError if unreadable.

    A span gives moments evenly inside it, never its edges. The same frame with the same box comes once. `clip`: the question's, in seconds of the file; the
    patch's times count from its start, and no frame lies outside it.
    """
    wishes = wanted(patch.moved(clip[0] if clip else 0.0), limit)
    cuts = cut_frames(path, wishes, lambda _height, _width: size, threads=threads, clip=clip)
    return sorted(_set_apart(cuts), key=lambda found: found.time_s)


def wanted(patch: EvidencePatch, limit: int) -> list[tuple[float, Box | None]]:
    """At most `limit` moments, some with a box. The kinds of evidence that a patch holds share them, each spread over what it has."""
    regions = [(region.time_s, region.box) for region in patch.regions]
    kinds = [kind for kind in (regions, [(time_s, None) for time_s in patch.frames_s], _inside(patch, limit)) if kind]
    found: dict[tuple[float, Box | None], None] = {}
    for at, kind in enumerate(kinds):
        share = -(-(limit - len(found)) // (len(kinds) - at))
        found |= dict.fromkeys(_spread(kind, share))
    return list(found)[:limit]


def _inside(patch: EvidencePatch, limit: int) -> list[tuple[float, Box | None]]:
    """Moments inside the spans: of n in one span, the middles of its n equal parts; `limit` or more of them in all."""
    if not patch.spans:
        return []
    each = -(-limit // len(patch.spans))
    return [(start_s + (end_s - start_s) * (part + 0.5) / each, None) for start_s, end_s in patch.spans for part in range(each)]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, evenly: the middle one of so many equal parts."""
    count = min(count, len(items))
    return [items[int((part + 0.5) * len(items) / count)] for part in range(count)]


def _set_apart(cuts: Sequence[Cut]) -> list[Cut]:
    """Without repetitions of the same moment and box."""
    return list({(found.time_s, found.box): found for found in cuts}.values())


def fit(height: int, width: int, max_pixels: int) -> Size:
    """(height, width) with the same aspect and at most max_pixels, never enlarged."""
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def jpeg(frame_HWC: Frames) -> bytes:
    """The frame as a JPEG file, for the teacher's eyes only; the student gets the pixels themselves."""
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(frame_HWC[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise VideoError("a frame could not be written as JPEG")
    return bytes(data.tobytes())


def _work_size(height: int, width: int) -> Size:
    return fit(height, width, MAX_WORK_PIXELS)
