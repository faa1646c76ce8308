"""The teacher's tools on the original video, and the evidence frames that the student gets: both cut by `cut_frames`.

`get_frame`, `zoom_region` and `get_temporal_segment` are FFR's [R]; units and bounds are this project's [D]. A tool never raises: what
went wrong is told to the model as text. decord runs in this process, so the caller is an isolated actor with a deadline.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rlvid.data.video import Frames, Size, VideoError, nearest, read_at, read_times
from rlvid.teacher.patch import PatchError
from rlvid.teacher.patch import box as checked_box
from rlvid.types import Box, EvidencePatch, VariantSpec
from rlvid.variants.build import cut

MAX_WORK_PIXELS = 1920 * 1088
"""Frames of larger videos are brought down to this before anything is cut, so that a call's memory is bounded."""
MIN_SIDE = 0.25
"""Least share of width and height that a crop keeps: nothing is magnified more than fourfold."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class ToolLimits:
    """What one failed answer may cost. Pixels per frame, frames per call and in all, bytes of all images sent, calls of tools."""

    max_calls: int = 8
    max_frames: int = 24
    max_frames_per_call: int = 8
    max_bytes: int = 8 * 2**20
    max_pixels: int = 448 * 448


class Cut(NamedTuple):
    """A frame or a crop: its true timestamp in seconds, the box that was cut (None: the whole frame), uint8 [H, W, 3] RGB."""

    time_s: float
    box: Box | None
    frame_HWC: Frames


@dataclass(frozen=True)
class ToolResult:
    """What a call gives the model: text, and images as (cut, its JPEG)."""

    text: str
    images: tuple[tuple[Cut, bytes], ...] = ()


def cut_frames(path: str, wanted: Sequence[tuple[float, Box | None]], size_for: Callable[[int, int], Size], *, threads: int = 1) -> list[Cut]:
    """The frames nearest to the wanted times, or their boxes, in the wanted order, at the size `size_for(height, width)` gives.

    Cut from the original video at its own resolution (up to MAX_WORK_PIXELS). A box is widened to the frame's aspect first, see `framed`.
    The same wish gives the same bits in every process.
    """
    clip = read_at(path, tuple(time_s for time_s, _ in wanted), work_size_for=_work_size, threads=threads)
    found = []
    for (_, box), at in zip(wanted, nearest(clip.times_s_N, tuple(time_s for time_s, _ in wanted)), strict=True):
        time_s, kept = float(clip.times_s_N[at]), framed(box) if box else None
        spec = VariantSpec("evidence", (time_s,), kept, size_for(clip.height, clip.width), 0)
        found.append(Cut(time_s, kept, cut(clip, spec)[0]))
    return found


def framed(box: Box) -> Box:
    """The smallest box of the frame's own aspect (equal shares of width and height) around this one, at least MIN_SIDE wide, moved inside."""
    side = min(1.0, max(box[2] - box[0], box[3] - box[1], MIN_SIDE))
    left = min(max((box[0] + box[2] - side) / 2, 0.0), 1 - side)
    top = min(max((box[1] + box[3] - side) / 2, 0.0), 1 - side)
    return left, top, left + side, top + side


def evidence_frames(path: str, patch: EvidencePatch, *, size: Size, limit: int = 4, threads: int = 1) -> list[Cut]:
    """Up to `limit` frames and crops of a patch's evidence at the student's (height, width), by ascending true time; VideoError if unreadable.

    A span gives moments evenly inside it, never its edges. The same frame with the same box comes once.
    """
    return sorted(_set_apart(cut_frames(path, wanted(patch, limit), lambda _height, _width: size, threads=threads)), key=lambda found: found.time_s)


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


class _Refused(Exception):
    """A call that cannot be done; the text is for the model."""


@dataclass
class VideoTools:
    """The three tools over one video for one conversation. `size`: fixed (height, width) of what is shown; None: up to limits.max_pixels."""

    path: str
    limits: ToolLimits = ToolLimits()
    size: Size | None = None
    threads: int = 1
    calls: int = 0
    frames_shown: int = 0
    bytes_sent: int = 0
    _times_s: Any = field(default=None, repr=False)
    duration_s: float = 0.0
    fps: float = 0.0
    overview_s: tuple[float, ...] = ()

    def open(self) -> None:
        """Read the timeline; VideoError when the video cannot be used."""
        if self._times_s is None:
            self._times_s, self.duration_s, self.fps = read_times(self.path, threads=self.threads)

    @property
    def frame_count(self) -> int:
        """Frames of the whole video: the tools' indices run from 0 to one less."""
        return len(self._times_s)

    def overview(self, frames: int) -> ToolResult:
        """Evenly spaced frames of the whole video: what the teacher sees before it calls a tool."""
        result = self._guarded(lambda: self._shown([(time_s, None) for time_s in self._even(frames)], "Overview"))
        self.overview_s = tuple(found.time_s for found, _ in result.images)
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
        tool = {"get_frame": self._get_frame, "zoom_region": self._zoom_region, "get_temporal_segment": self._segment}.get(name)
        if tool is None:
            raise _Refused(f"there is no tool {name[:40]!r}")
        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise _Refused("the arguments are not JSON") from None
        keys = _PARAMETERS[name]
        if not isinstance(given, dict) or set(given) != set(keys):
            raise _Refused(f"{name} takes exactly {', '.join(keys)}")
        return tool(**given)

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
        times_s = np.arange(start_s, end_s + 1e-9, stride_s)[: self.limits.max_frames_per_call]
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
        cuts = cut_frames(self.path, wishes, lambda height, width: size or fit(height, width, limits.max_pixels), threads=self.threads)
        images = tuple((found, jpeg(found.frame_HWC)) for found in cuts)
        sent = sum(len(data) for _, data in images)
        if self.bytes_sent + sent > limits.max_bytes:
            raise _Refused("the images sent so far have reached the limit: give the patch now")
        self.frames_shown += len(images)
        self.bytes_sent += sent
        return ToolResult("; ".join(_caption(what, found) for found in cuts), images)


def _caption(what: str, found: Cut) -> str:
    place = f", box [{', '.join(f'{edge:.2f}' for edge in found.box)}]" if found.box else ""
    return f"{what}: at {found.time_s:.2f} s{place}"


def _finite(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9 or not math.isfinite(value):
        raise _Refused(f"{key} must be a number of seconds")
    return float(value)


_PARAMETERS: dict[str, dict[str, dict[str, Any]]] = {
    "get_frame": {"i": {"type": "integer", "minimum": 0, "description": "Index of the frame in the video, from 0."}},
    "zoom_region": {
        "i": {"type": "integer", "minimum": 0, "description": "Index of the frame in the video, from 0."},
        **{edge: {"type": "number", "minimum": 0, "maximum": 1, "description": "Share of the frame's width or height."} for edge in ("x1", "y1", "x2", "y2")},
    },
    "get_temporal_segment": {
        "start": {"type": "number", "minimum": 0, "description": "Seconds."},
        "end": {"type": "number", "minimum": 0, "description": "Seconds, after start."},
        "stride": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds between two frames."},
    },
}
_PURPOSES = {
    "get_frame": "Show one frame of the original video.",
    "zoom_region": "Show a part of one frame of the original video, enlarged. The box is widened to the frame's aspect.",
    "get_temporal_segment": "Show frames of the original video from start to end.",
}
TOOL_NAMES = tuple(_PARAMETERS)
FUNCTIONS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": _PURPOSES[name],
            "parameters": {"type": "object", "properties": parameters, "required": list(parameters), "additionalProperties": False},
        },
    }
    for name, parameters in _PARAMETERS.items()
)
"""The tools as OpenAI's function-calling describes them."""
