"""The teacher's tools on the original video.

`get_frame`, `zoom_region` and `get_temporal_segment` are FFR's [R]; units and bounds are this project's [D]. A tool never raises: what
went wrong is told to the model as text. decord runs in this process, so the caller is an isolated actor with a deadline.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlvid.teacher.evidence import Cut, cut_frames, fit, jpeg
from rlvid.teacher.patch import PatchError
from rlvid.teacher.patch import box as checked_box
from rlvid.types import Box, Span
from rlvid.video.clip import Size, inside, nearest
from rlvid.video.frames import Reader


@dataclass(frozen=True)
class ToolLimits:
    """What one failed answer may cost. Pixels per frame, frames per call and in all, bytes of all images sent, calls of tools."""

    max_calls: int = 8
    max_frames: int = 24
    max_frames_per_call: int = 8
    max_bytes: int = 8 * 2**20
    max_pixels: int = 448 * 448


@dataclass(frozen=True)
class ToolResult:
    """What a call gives the model: text, and images as (cut, its JPEG)."""

    text: str
    images: tuple[tuple[Cut, bytes], ...] = ()


class _Refused(Exception):
    """A call that cannot be done; the text is for the model."""


@dataclass
class VideoTools:
    """The three tools over one video for one conversation, which one open reader serves; it closes when nobody holds the tools any more.

    `size`: fixed (height, width) of what is shown; None: up to limits.max_pixels. With a `clip` (seconds of the file) the tools know nothing outside it:
    indices count its frames, times start at its start.
    """

    path: str
    limits: ToolLimits = ToolLimits()
    size: Size | None = None
    threads: int = 1
    clip: Span | None = None
    calls: int = 0
    frames_shown: int = 0
    bytes_sent: int = 0
    _times_s: Any = field(default=None, repr=False)
    _reader: Reader | None = field(default=None, repr=False)
    duration_s: float = 0.0
    fps: float = 0.0
    overview_s: tuple[float, ...] = ()

    def open(self) -> None:
        """Read the timeline; VideoError when the video cannot be used."""
        if self._reader is None:
            self._reader = Reader(self.path, threads=self.threads)
            index = self._reader.index
            self._times_s = index.times_s[inside(index, self.clip)] - self._starts_s
            self.duration_s = min(self.clip[1], index.duration_s) - self._starts_s if self.clip else index.duration_s
            self.fps = index.fps

    @property
    def _starts_s(self) -> float:
        return self.clip[0] if self.clip else 0.0

    @property
    def frame_count(self) -> int:
        """Frames of the whole video or clip: the tools' indices run from 0 to one less."""
        return len(self._times_s)

    def overview(self, frames: int) -> ToolResult:
        """Evenly spaced frames of the whole video: what the teacher sees before it calls a tool."""
        result = self._guarded(lambda: self._shown([(time_s, None) for time_s in self._even(frames)], "Overview"))
        self.overview_s = tuple(found.time_s - self._starts_s for found, _ in result.images)
        return result

    def call(self, name: str, arguments: str) -> ToolResult:
        """Do one call of the model; whatever it asks for, the answer is a result."""
        self.calls += 1
        if self.calls > self.limits.max_calls:
            return ToolResult(f"No more tool calls: {self.limits.max_calls} are allowed. Give the patch now.")
        return self._guarded(lambda: self._called(name, arguments))

    def _guarded(self, work: Callable[[], ToolResult]) -> ToolResult:
        try:
            self.open()
            return work()
        except (_Refused, PatchError) as error:
            return ToolResult(f"Error: {error}")
        except Exception as error:  # decord and OpenCV raise many kinds, and no tool may end the conversation
            return ToolResult(f"Error: the video could not be read there ({type(error).__name__})")

    def _called(self, name: str, arguments: str) -> ToolResult:
        tools: dict[str, Callable[..., ToolResult]] = {"get_frame": self._get_frame, "zoom_region": self._zoom_region, "get_temporal_segment": self._segment}
        if name not in tools:
            raise _Refused(f"there is no tool {name[:40]!r}")
        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise _Refused("the arguments are not JSON") from None
        keys = _PARAMETERS[name]
        if not isinstance(given, dict) or set(given) != set(keys):
            raise _Refused(f"{name} takes exactly {', '.join(keys)}")
        return tools[name](**given)

    def _get_frame(self, i: Any) -> ToolResult:
        return self._shown([(self._time_of(i), None)], f"Frame {i}")

    def _zoom_region(self, i: Any, x1: Any, y1: Any, x2: Any, y2: Any) -> ToolResult:
        return self._shown([(self._time_of(i), checked_box([x1, y1, x2, y2]))], f"Part of frame {i}")

    def _segment(self, start: Any, end: Any, stride: Any) -> ToolResult:
        start_s, end_s, stride_s = (_finite(value, key) for value, key in ((start, "start"), (end, "end"), (stride, "stride")))
        if not 0 <= start_s < end_s <= self.duration_s + 1e-3:
            raise _Refused(f"start and end must be seconds with 0 <= start < end <= {self.duration_s:.2f}")
        if stride_s <= 0:
            raise _Refused("stride must be above 0 seconds")
        if (end_s - start_s) / stride_s > self.limits.max_frames_per_call:
            raise _Refused(f"that is more than {self.limits.max_frames_per_call} frames: take a larger stride or a shorter segment")
        times_s = np.arange(start_s, end_s + 1e-9, stride_s, dtype=np.float64)[: self.limits.max_frames_per_call]
        inside = np.unique(nearest(self._times_s, times_s))
        return self._shown([(float(self._times_s[at]), None) for at in inside], f"Segment {start_s:g}-{end_s:g} s")

    def _time_of(self, i: Any) -> float:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < self.frame_count:
            raise _Refused(f"i must be a whole number from 0 to {self.frame_count - 1}")
        return float(self._times_s[i])

    def _even(self, frames: int) -> list[float]:
        chosen = np.unique(np.linspace(0, self.frame_count - 1, min(frames, self.frame_count)).round().astype(int))
        return [float(self._times_s[at]) for at in chosen]

    def _shown(self, wishes: Sequence[tuple[float, Box | None]], what: str) -> ToolResult:
        """Cut, encode, and count against the limits: frames and bytes are spent only on what is shown."""
        if self.frames_shown + len(wishes) > self.limits.max_frames:
            raise _Refused(f"no more than {self.limits.max_frames} frames are shown in all, {self.limits.max_frames - self.frames_shown} are left")
        size, limits = self.size, self.limits
        assert self._reader is not None
        in_file = [(time_s + self._starts_s, box) for time_s, box in wishes]
        cuts = cut_frames(self._reader, in_file, lambda height, width: size or fit(height, width, limits.max_pixels), clip=self.clip)
        images = tuple((found, jpeg(found.frame_HWC)) for found in cuts)
        sent = sum(len(data) for _, data in images)
        if self.bytes_sent + sent > limits.max_bytes:
            raise _Refused("the images sent so far have reached the limit: give the patch now")
        self.frames_shown += len(images)
        self.bytes_sent += sent
        return ToolResult("; ".join(_caption(what, found.time_s - self._starts_s, found.box) for found in cuts), images)


def _caption(what: str, time_s: float, box: Box | None) -> str:
    place = f", box [{', '.join(f'{edge:.2f}' for edge in box)}]" if box else ""
    return f"{what}: at {max(0.0, time_s):.2f} s{place}"


def _finite(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9 or not math.isfinite(value):
        raise _Refused(f"{key} must be a number of seconds")
    return float(value)


_PARAMETERS = {"get_frame": ("i",), "zoom_region": ("i", "x1", "y1", "x2", "y2"), "get_temporal_segment": ("start", "end", "stride")}
_PURPOSES = {
    "get_frame": "Show one frame of the original video.",
    "zoom_region": "Show a part of one frame of the original video, enlarged. The box is widened to the frame's aspect.",
    "get_temporal_segment": "Show frames of the original video from start to end, one every `stride` seconds.",
}
TOOL_NAMES = tuple(_PARAMETERS)


def functions(frame_count: int, duration_s: float) -> list[dict[str, Any]]:
    """The tools as OpenAI's function-calling describes them, bounded by the video. Strict: a server may hold the model to the schema."""
    time = {"type": "number", "minimum": 0, "maximum": math.ceil(duration_s), "description": "Seconds."}
    share = {"type": "number", "minimum": 0, "maximum": 1, "description": "Share of the frame's width or height."}
    kinds = {"i": {"type": "integer", "minimum": 0, "maximum": max(0, frame_count - 1), "description": "Index of the frame in the video."}}
    kinds |= dict.fromkeys(("start", "end", "stride"), time) | dict.fromkeys(("x1", "y1", "x2", "y2"), share)
    return [_function(name, {key: kinds[key] for key in keys}) for name, keys in _PARAMETERS.items()]


def _function(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "properties": parameters, "required": list(parameters), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": _PURPOSES[name], "parameters": form, "strict": True}}
