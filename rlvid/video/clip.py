"""Reading a video once: evenly spaced candidate frames with their true timestamps, at a bounded working resolution.

Decoders run in this process and can hang or crash on hostile input: the caller is an isolated actor with a deadline. All a
video's variants are cut from one `Clip` (decoding dominates the cost, so it happens once per video and never per variant).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Span
from rlvid.video.frames import Frames, Index, Reader, Times, VideoError

__all__ = ["Clip", "Frames", "Size", "Times", "VideoError", "in_order", "inside", "nearest", "read_at", "read_candidates", "resized", "shown_size", "work_size"]
Size = tuple[int, int]
"""Height and width in pixels."""

IRREGULAR = 2.0
"""Times are regular while no gap is longer than so many of the shortest."""
TOLERANCE_S = 1e-3
"""A frame so close to a clip's border lies inside."""
MAX_ASPECT = 200.0
"""Qwen's processors refuse frames that are longer than this."""
WORK_ZOOM = 2.0
"""Candidates are kept at up to this multiple of the shown size [D] if the caller says nothing: a crop of a quarter of the area is cut from real pixels."""


@dataclass(frozen=True)
class Clip:
    """The decoded candidates of one video.

    `frames_NHWC` uint8 RGB at the working resolution, `times_s_N` [N] their true timestamps in seconds, strictly ascending;
    `duration_s`, `fps` (average), `width` and `height` are the whole source video's.
    """

    frames_NHWC: Frames
    times_s_N: Times
    duration_s: float
    fps: float
    width: int
    height: int


def shown_size(height: int, width: int, *, max_pixels: int, factor: int) -> Size:
    """(height, width) at which a frame is shown: multiples of `factor` (28 for Qwen2.5-VL, 32 for Qwen3-VL), h x w <= max_pixels.

    The same numbers as Qwen's `smart_resize` without a lower pixel bound, so that the processor finds nothing left to resize
    as long as its own bounds allow the size. Apart from rounding, the aspect is kept and nothing is enlarged; a side is at least `factor`.
    Where smart_resize breaks its own promises on very long frames, the longer side is cut down.
    """
    if max_pixels < factor * factor:
        raise ValueError(f"max_pixels ({max_pixels}) is below one {factor} x {factor} patch")
    _check_aspect(height, width)
    tall, wide = _rounded(height, factor), _rounded(width, factor)
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall, wide = _floored(height / shrink, factor), _floored(width / shrink, factor)
    longest = min(max_pixels // min(tall, wide), int(MAX_ASPECT) * min(tall, wide))
    return min(tall, _floored(longest, factor)), min(wide, _floored(longest, factor))


def work_size(height: int, width: int, shown: Size, zoom: float = WORK_ZOOM) -> Size:
    """(height, width) at which candidates are kept: the source's own aspect, at most `zoom` times the shown size, never enlarged."""
    scale = min(1.0, zoom * math.sqrt(shown[0] * shown[1] / (height * width)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_candidates(
    video: str | Reader, *, candidates: int, clip: Span | None, size_for: Callable[[int, int], Size], zoom: float = WORK_ZOOM, threads: int = 1
) -> Clip:
    """Up to `candidates` frames evenly spaced over the clip (whole video without one), decoded in one ordered pass.

    `size_for(height, width)` is the shown size; frames are kept at up to `zoom` times that. Fewer than two distinct
    frames is a VideoError: one instant has no time to ask about. `video`: as of `read_at`.
    """
    if isinstance(video, Reader):
        frames = inside(video.index, clip)
        chosen = frames[even_positions(video.index.times_s[frames], min(candidates, len(frames)))]
        return _decode(video, chosen, lambda height, width: work_size(height, width, size_for(height, width), zoom))
    with Reader(video, threads=threads) as reader:
        return read_candidates(reader, candidates=candidates, clip=clip, size_for=size_for, zoom=zoom)


def read_at(video: str | Reader, times_s: Sequence[float], *, work_size_for: Callable[[int, int], Size], threads: int = 1, clip: Span | None = None) -> Clip:
    """The frames of the clip (whole video without one) nearest to the given timestamps, at the size `work_size_for(height, width)`.

    It is what rebuilds a variant from its spec. `video`: a path, or a reader that stays open.
    """
    if isinstance(video, Reader):
        frames = inside(video.index, clip)
        return _decode(video, frames[np.unique(nearest(video.index.times_s[frames], times_s))], work_size_for)
    with Reader(video, threads=threads) as reader:
        return read_at(reader, times_s, work_size_for=work_size_for, clip=clip)


def in_order(clips: Sequence[Clip]) -> tuple[Times, NDArray[np.int64]]:
    """Times of all their frames, strictly ascending, and for each its place when the clips stand one after the other; of equal times the earlier clip's."""
    times_s = np.concatenate([clip.times_s_N for clip in clips])
    order = np.argsort(times_s, kind="stable")
    first = np.concatenate([[True], np.diff(times_s[order]) > 0])
    return times_s[order[first]], order[first]


def even_positions(times_s_N: Times, count: int) -> NDArray[np.int64]:
    """`count` ascending positions among the ascending times: evenly spaced in number where the times are regular, else evenly spaced in time [D].

    Where the even times fall on fewer frames, the rest is filled up evenly in number.
    """
    by_number = np.linspace(0, len(times_s_N) - 1, count).round().astype(np.int64)
    gaps = np.diff(times_s_N)
    if gaps.max() <= IRREGULAR * gaps.min() + TOLERANCE_S:
        return np.unique(by_number)
    wanted_s = np.linspace(times_s_N[0], times_s_N[-1], count)
    chosen = np.unique(nearest(times_s_N, wanted_s))
    rest = np.setdiff1d(np.arange(len(times_s_N)), chosen)
    filling = rest[np.linspace(0, len(rest) - 1, count - len(chosen)).round().astype(np.int64)] if count > len(chosen) else rest[:0]
    return np.sort(np.concatenate([chosen, filling]))


def nearest(times_s_N: Times, wanted_s_T: Sequence[float] | Times) -> NDArray[np.int64]:
    """[T] index of the closest of the ascending `times_s_N` for each wanted time; the earlier one of two equally close."""
    wanted = np.asarray(wanted_s_T, dtype=np.float64)
    right = np.clip(np.searchsorted(times_s_N, wanted), 1, len(times_s_N) - 1) if len(times_s_N) > 1 else np.zeros(len(wanted), dtype=np.int64)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - times_s_N[left] <= times_s_N[right] - wanted, left, right)


def resized(frame_HWC: Frames, size: Size) -> Frames:
    """One frame at (height, width): averaged over whole blocks of pixels while it is twice too large, then bilinear.

    Ten times faster than averaging at the exact ratio, and free of the aliasing of a bilinear step alone. One thread: the same bits everywhere.
    """
    import cv2

    cv2.setNumThreads(1)
    height, width = frame_HWC.shape[:2]
    block = min(height // size[0], width // size[1])
    if block > 1:
        whole = np.ascontiguousarray(frame_HWC[: height // block * block, : width // block * block])
        frame_HWC = np.asarray(cv2.resize(whole, (width // block, height // block), interpolation=cv2.INTER_AREA))
    if frame_HWC.shape[:2] == size:
        return frame_HWC
    return np.asarray(cv2.resize(frame_HWC, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _rounded(side: float, factor: int) -> int:
    return max(factor, round(side / factor) * factor)


def _floored(side: float, factor: int) -> int:
    return max(factor, math.floor(side / factor) * factor)


def _check_aspect(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"a frame of {width} x {height} pixels cannot be shown")
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(f"a frame of {width} x {height} pixels is too long and thin: Qwen takes aspects up to {MAX_ASPECT:.0f}")


def inside(index: Index, clip: Span | None) -> NDArray[np.int64]:
    """Indices of the frames in the clip, at least two; of all frames without one. Raises VideoError."""
    start_s, end_s = clip if clip else (-math.inf, math.inf)
    frames = np.flatnonzero((index.times_s >= start_s - TOLERANCE_S) & (index.times_s <= end_s + TOLERANCE_S))
    if len(frames) < 2:
        where = f"the clip {start_s:g}-{end_s:g} s" if clip else "the video"
        whole = f"a video from {index.times_s[0]:g} to {index.times_s[-1]:g} s"
        raise VideoError(f"{index.path}: {where} has {len(frames)} distinct frame(s) of {whole}, at least 2 are needed")
    return frames


def _decode(reader: Reader, chosen_N: NDArray[np.int64], work_size_for: Callable[[int, int], Size]) -> Clip:
    index = reader.index
    kept: Frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
    times_s: list[float] = []
    height = width = 0
    for time_s, frame, shown in reader.frames(chosen_N):
        if not times_s:
            height, width = shown
            kept = np.empty((len(chosen_N), *_size(index, height, width, work_size_for), 3), dtype=np.uint8)
        kept[len(times_s)] = resized(frame, (kept.shape[1], kept.shape[2]))
        times_s.append(time_s)
    if len(times_s) < min(2, len(chosen_N)):
        raise VideoError(f"{index.path}: has {len(times_s)} frame(s) that can be decoded, at least 2 are needed")
    return Clip(kept[: len(times_s)], np.array(times_s), index.duration_s, index.fps, width, height)


def _size(index: Index, height: int, width: int, work_size_for: Callable[[int, int], Size]) -> Size:
    try:
        return work_size_for(height, width)
    except ValueError as error:
        raise VideoError(f"{index.path}: {error}") from None
