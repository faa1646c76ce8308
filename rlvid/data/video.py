"""Reading a video once: evenly spaced candidate frames with their true timestamps, at a bounded working resolution.

decord runs in this process and can hang or crash on hostile input: the caller is an isolated actor with a deadline. All a
video's variants are cut from one `Clip` (decoding dominates the cost, so it happens once per video and never per variant).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Span

Size = tuple[int, int]
"""Height and width in pixels."""
Frames = NDArray[np.uint8]
Times = NDArray[np.float64]

MAX_ASPECT = 200.0
"""Qwen's processors refuse frames that are longer than this."""
WORK_ZOOM = 2.0
"""Candidates are kept at up to this multiple of the shown size [D] if the caller says nothing: a crop of a quarter of the area is cut from real pixels."""


class VideoError(ValueError):
    """This video cannot be used. One line that names the file and the reason."""


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
    path: str, *, candidates: int, clip: Span | None, size_for: Callable[[int, int], Size], zoom: float = WORK_ZOOM, threads: int = 1
) -> Clip:
    """Up to `candidates` frames evenly spaced over the clip (whole video without one), decoded in one ordered pass.

    `size_for(height, width)` is the shown size; frames are kept at up to `zoom` times that. Fewer than two distinct
    frames is a VideoError: one instant has no time to ask about.
    """
    reader = _open(path, threads)
    times_s, duration_s, fps = _timeline(reader, path)
    inside = _inside(times_s, clip, path)
    chosen = inside[np.unique(np.linspace(0, len(inside) - 1, min(candidates, len(inside))).round().astype(int))]
    return _decode(reader, path, chosen, times_s, duration_s, fps, lambda height, width: work_size(height, width, size_for(height, width), zoom))


def read_at(path: str, times_s: tuple[float, ...], *, work_size_for: Callable[[int, int], Size], threads: int = 1) -> Clip:
    """The frames nearest to the given timestamps, at the size `work_size_for(height, width)`: what rebuilds a variant from its spec."""
    reader = _open(path, threads)
    own_times_s, duration_s, fps = _timeline(reader, path)
    whole = _inside(own_times_s, None, path)
    chosen = np.unique(whole[nearest(own_times_s[whole], times_s)])
    return _decode(reader, path, chosen, own_times_s, duration_s, fps, work_size_for)


def read_times(path: str, *, threads: int = 1) -> tuple[Times, float, float]:
    """([N] true start of every distinct frame in seconds, the video's duration, its average frame rate); no frame is decoded."""
    times_s, duration_s, fps = _timeline(_open(path, threads), path)
    return times_s[_inside(times_s, None, path)], duration_s, fps


def nearest(times_s_N: Times, wanted_s_T: tuple[float, ...] | Times) -> NDArray[np.int64]:
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


def _open(path: str, threads: int) -> Any:
    if not os.path.isfile(path):
        raise VideoError(f"{path}: {'is not a file' if os.path.exists(path) else 'no such file'}")
    if not os.path.getsize(path):
        raise VideoError(f"{path}: the file is empty")
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=threads)
    except Exception as error:  # decord raises RuntimeError, its own DECORDError and OSError, each with a C++ stack in the text
        raise VideoError(f"{path}: {_why_not_opened(str(error))} ({_first_line(error)})") from None


def _why_not_opened(error: str) -> str:
    if "cannot find video stream" in error:
        return "has no video stream"
    return "is broken or cut off" if "av_read_frame failed" in error else "cannot be opened as a video"


def _timeline(reader: Any, path: str) -> tuple[Times, float, float]:
    """True start of every frame in seconds, the video's duration and its average frame rate."""
    try:
        spans_s = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64).reshape(-1, 2)
        fps = float(reader.get_avg_fps())
    except Exception as error:
        raise VideoError(f"{path}: its timestamps cannot be read ({_first_line(error)})") from None
    # decord answers in float32: rounding to microseconds gives 0.04 back instead of 0.03999999910593033.
    times_s = spans_s[:, 0].round(6)
    if len(times_s) < 2:
        raise VideoError(f"{path}: has {len(times_s)} frame(s), at least 2 are needed")
    if not np.isfinite(times_s).all():
        raise VideoError(f"{path}: its timestamps are not numbers")
    fps = fps if math.isfinite(fps) and fps > 0 else len(times_s) / max(times_s[-1] - times_s[0], 1e-3)
    return times_s, float(max(spans_s[-1, 1].round(6), times_s[-1] + 1 / fps if spans_s[-1, 1] <= spans_s[-1, 0] else 0.0)), fps


def _inside(times_s: Times, clip: Span | None, path: str) -> NDArray[np.int64]:
    """Indices of the frames in the clip whose time lies after all earlier ones (broken files repeat or turn back)."""
    rising = np.concatenate([[True], times_s[1:] > np.maximum.accumulate(times_s)[:-1]])
    start_s, end_s = clip if clip else (-math.inf, math.inf)
    inside = np.flatnonzero(rising & (times_s >= start_s) & (times_s <= end_s))
    if len(inside) < 2:
        where = f"the clip {start_s:g}-{end_s:g} s" if clip else "the video"
        raise VideoError(f"{path}: {where} has {len(inside)} distinct frame(s) of a video from {times_s[0]:g} to {times_s[-1]:g} s, at least 2 are needed")
    return inside


def _decode(
    reader: Any, path: str, chosen_N: NDArray[np.int64], times_s: Times, duration_s: float, fps: float, work_size_for: Callable[[int, int], Size]
) -> Clip:
    frames = _raw_frames(reader, path, chosen_N)
    first = next(frames)
    height, width = first.shape[:2]
    try:
        size = work_size_for(height, width)
    except ValueError as error:
        raise VideoError(f"{path}: {error}") from None
    kept = np.empty((len(chosen_N), *size, 3), dtype=np.uint8)
    kept[0] = resized(first, size)
    for at, frame in enumerate(frames, start=1):
        kept[at] = resized(frame, size)
    return Clip(frames_NHWC=kept, times_s_N=times_s[chosen_N], duration_s=duration_s, fps=fps, width=width, height=height)


def _raw_frames(reader: Any, path: str, chosen_N: NDArray[np.int64]) -> Iterator[Frames]:
    """One frame at a time in ascending order: decord then skips forward instead of seeking back, and only one full-size frame exists."""
    for at in chosen_N:
        try:
            yield reader[int(at)].asnumpy()
        except Exception as error:
            raise VideoError(f"{path}: frame {at} cannot be decoded, it is broken or cut off ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    """The first line of decord's message without its `[10:23:40] /path/of/its/source.cc:83: ` marks."""
    line = " ".join(str(error).splitlines()[:1])
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", line).strip()[:200] or type(error).__name__
