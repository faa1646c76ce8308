"""A variant's pixels and its metadata, both made from its spec alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rlvid.types import Box, Metadata, Question, VariantSpec
from rlvid.video import pictures
from rlvid.video.clip import Clip, Frames, Size, VideoError, in_order, nearest, read_at, resized, work_size

TICKS_PER_S = 1 << 16
"""Time base of the metadata's frame indices. A power of two: dividing by it is exact, so the model's side sees the spec's times to 8 microseconds."""
GRID_QUANTUM_S = 1 / 1024
"""Seconds per grid are a multiple of this: exact in float32, see `video_metadata`."""


def cut(clip: Clip, spec: VariantSpec, *more: Clip) -> Frames:
    """[T, H, W, 3] uint8, contiguous: of all the clips' candidates those nearest to the spec's times, cropped to its box, at its size."""
    out = np.empty((len(spec.times_s), *spec.size, 3), dtype=np.uint8)
    times_s, order = in_order([clip, *more])
    candidates = [frame for one in (clip, *more) for frame in one.frames_NHWC]
    for at, candidate in enumerate(order[nearest(times_s, spec.times_s)]):
        out[at] = resized(np.ascontiguousarray(_cropped(candidates[candidate], spec.box)), spec.size)
    return out


def rebuild(path: str, spec: VariantSpec, *, threads: int = 1) -> Frames:
    """The same pixels, bit for bit, from the video itself: only the spec's frames are decoded."""
    work = spec.work_size
    clip = read_at(path, spec.times_s, work_size_for=lambda height, width: work or work_size(height, width, spec.size), threads=threads)
    return cut(clip, spec)


def cut_image(image_HWC: Frames, spec: VariantSpec) -> Frames:
    """[H, W, 3] uint8, contiguous: the image at working size, cropped to the spec's box, at its size."""
    return np.ascontiguousarray(resized(np.ascontiguousarray(_cropped(image_HWC, spec.box)), spec.size))


def read_image(path: str, size_for: Callable[[int, int], Size], zoom: float) -> tuple[Frames, Size]:
    """The image at working size, which is at most `zoom` times the shown size, and its own (height, width). Raises VideoError."""
    whole = pictures.image(path)
    height, width = whole.shape[:2]
    try:
        return resized(whole, work_size(height, width, size_for(height, width), zoom)), (height, width)
    except ValueError as error:
        raise VideoError(f"{path}: {error}") from None


def rebuild_shown(question: Question, spec: VariantSpec, *, threads: int = 1) -> Any:
    """What `spec` shows of the question once more: the frames of its one video, or a tuple of all media."""
    if spec.media is None:
        return rebuild(question.video, spec, threads=threads)
    pairs = zip(question.shown, spec.media, strict=True)
    return tuple(rebuild(medium.path, one, threads=threads) if medium.kind == "video" else _rebuilt_image(medium.path, one) for medium, one in pairs)


def _rebuilt_image(path: str, spec: VariantSpec) -> Frames:
    assert spec.work_size is not None
    return cut_image(resized(pictures.image(path), spec.work_size), spec)


def metadata_of(question: Question, spec: VariantSpec) -> Metadata:
    """What a processor must know of a variant: of its one video, or of each medium."""
    if spec.media is None:
        return video_metadata(spec, question.starts_s)
    pairs = zip(question.shown, spec.media, strict=True)
    # A clip belongs to the only video there is.
    return tuple(video_metadata(one, question.starts_s) if medium.kind == "video" else None for medium, one in pairs)


def video_metadata(spec: VariantSpec, starts_s: float = 0.0) -> dict[str, Any]:
    """What vLLM and the Hugging Face processor need to know about the frames of one variant, whose clip starts at `starts_s` in the file.

    The model's clock stands at 0 there (`Question.as_told`), for both families: Qwen2.5-VL's positions begin at 0 wherever in the file a clip lies.

    Both derive the model's sense of time from `fps`, `frames_indices` and `total_num_frames`; no index is ever looked up, so they
    need not be frame numbers. Here they count ticks of 1 / TICKS_PER_S seconds:

    - Qwen3-VL's time tokens are the mean of each frame pair of frames_indices / fps: the true times, irregular ones included.
    - Qwen2.5-VL knows one number, second_per_grid = 2 / sampled_fps with sampled_fps = T / total_num_frames x fps. `total_num_frames`
      is therefore T x the *mean* gap between the frames shown, in ticks: irregular times can only be approximated there.
      It is rounded up to GRID_QUANTUM_S: vLLM multiplies it by the grid index in float64 and transformers in float32 before both
      floor it, and a number that is exact in both gives the same positions in both.
    """
    frames = len(spec.times_s)
    grid_ticks = round(seconds_per_grid(spec) * TICKS_PER_S)
    return {
        "fps": float(TICKS_PER_S),
        "duration": frames // 2 * grid_ticks / TICKS_PER_S,
        "total_num_frames": frames // 2 * grid_ticks,
        "frames_indices": [max(0, round((time_s - starts_s) * TICKS_PER_S)) for time_s in spec.times_s],
        "video_backend": "decord",
        "do_sample_frames": False,
    }


def seconds_per_grid(spec: VariantSpec) -> float:
    """Qwen2.5-VL's second_per_grid_ts of a variant: two mean gaps between shown frames, rounded up to GRID_QUANTUM_S [D]."""
    first_s, last_s = spec.times_s[0], spec.times_s[-1]
    pair_s = 2 * (last_s - first_s) / (len(spec.times_s) - 1)
    # A hair (0.001 quanta) is forgiven before rounding up: 0.5000001 s from a noisy timestamp stays 0.5 s.
    return max(1, int(np.ceil(pair_s / GRID_QUANTUM_S - 1e-3))) * GRID_QUANTUM_S


def _cropped(frame_HWC: Frames, box: Box | None) -> Frames:
    """The box's pixels: edges rounded to the nearest pixel, at least one pixel each way."""
    if box is None:
        return frame_HWC
    height, width = frame_HWC.shape[:2]
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    return frame_HWC[top:bottom, left:right]
