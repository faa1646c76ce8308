"""The frames of a video file by their true times: which there are, and those that are wanted, one after the other.

Times are the presentation times of the packets, as PyAV reads them. Pixels come from decord where its index can be trusted: in MP4 and
Matroska, where every keyframe starts anew. Anything else (open groups of pictures, MPEG-2, MPEG-TS, AVI, edit lists) makes decord seek to other frames
than it was asked for; there PyAV decodes, and every frame says itself when it is shown.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Times = NDArray[np.float64]

PLAYLISTS = {"hls", "dash", "concat", "sdp", "rtsp", "imf"}
"""Formats that name other files: what they play is not this file."""
INDEXED = {"mov", "mp4", "matroska", "webm"}
STARTS_ANEW = {"vp8", "vp9", "hevc", "h264"}
"""Codecs whose keyframes refer to nothing before them, if no frame that comes after is shown earlier (and in H.264 they are IDR)."""
LEAST_WIDTH = 64
"""decord counts the padding of narrower frames as channels."""
LONGEST_S = 1e9
"""A time beyond this is a missing one."""
IDR = 5
TAIL = 3
"""So many frames may be missing at the very end: some formats end before their last pictures are whole."""


class VideoError(ValueError):
    """This video cannot be used. One line that names the file and the reason."""


@dataclass(frozen=True)
class Index:
    """`pts` [N] of all frames in the order they are shown, `times_s` [N] the same in seconds, `keys` the pts of keyframes, ascending.

    `by_decord`: whether decord's n-th frame is the n-th of these. `decoded`: the times come from the frames, packets had none.
    """

    path: str
    pts: NDArray[np.int64]
    times_s: Times
    keys: tuple[int, ...]
    duration_s: float
    fps: float
    by_decord: bool
    decoded: bool


@dataclass
class _Packets:
    """What the packets say. `ahead`: a frame is shown before the keyframe it comes after. `inner`: a keyframe that is no new start."""

    shown: list[int]
    keys: list[int]
    end: int = 0
    missing: int = 0
    hidden: int = 0
    ahead: bool = False
    inner: bool = False


def read_index(path: str, *, threads: int = 1) -> Index:
    """The video's frames, without decoding any, unless its packets have no times. Raises VideoError."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        base, start_s = float(stream.time_base), max(0.0, (container.start_time or 0) / 1e6)
        packets = _demuxed(container, stream, path)
        rate = float(stream.average_rate or 0)
        trusted = _trusted(container, stream, packets, start_s)
    decoded = packets.missing > 0
    pts = np.array(sorted(set(_decoded_pts(path, threads) if decoded else packets.shown)), dtype=np.int64)
    if len(pts) < 2:
        raise VideoError(f"{path}: has {len(pts)} frame(s) with a time, at least 2 are needed")
    start_s = min(start_s, float(pts[0] * base))
    times_s = (pts * base - start_s).round(6)
    if np.abs(times_s).max() > LONGEST_S:
        raise VideoError(f"{path}: its timestamps are not times (from {times_s[0]:g} to {times_s[-1]:g} s)")
    fps = rate if math.isfinite(rate) and rate > 0 else (len(pts) - 1) / max(times_s[-1] - times_s[0], 1e-3)
    duration_s = max(round(packets.end * base - start_s, 6), float(times_s[-1]) + (0.0 if packets.end > pts[-1] else 1 / fps))
    return Index(path, pts, times_s, tuple(sorted(packets.keys)), duration_s, fps, trusted and len(pts) == len(packets.shown), decoded)


def raw_frames(index: Index, chosen_N: Sequence[int] | NDArray[np.int64], *, threads: int = 1) -> Iterator[tuple[float, Frames]]:
    """(true time in seconds, [H, W, 3] uint8) of each chosen frame, which ascend; only one full-size frame exists at a time. Raises VideoError."""
    if index.by_decord:
        yield from _by_decord(index, chosen_N, threads)
    else:
        yield from _by_pts(index, chosen_N, threads)


# --- what there is


def _opened(path: str) -> Any:
    """The file in PyAV, with a video stream of this file's own."""
    if not os.path.isfile(path):
        raise VideoError(f"{path}: {'is not a file' if os.path.exists(path) else 'no such file'}")
    if not os.path.getsize(path):
        raise VideoError(f"{path}: the file is empty")
    import av

    av.logging.set_level(None)
    try:
        container = av.open(path, timeout=60, options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be opened as a video ({_reason(error)})") from None
    if not PLAYLISTS.isdisjoint(container.format.name.split(",")):
        container.close()
        raise VideoError(f"{path}: is a list of other files ({container.format.name}), not a video")
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path}: has no video stream")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise VideoError(f"{path}: no decoder for its codec is installed")
    return container


def _demuxed(container: Any, stream: Any, path: str) -> _Packets:
    import av

    found = _Packets([], [])
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.pts is None:
                found.missing += 1
                continue
            if packet.is_keyframe:
                found.keys.append(packet.pts)
                found.inner = found.inner or not _starts_anew(packet, stream)
            found.ahead = found.ahead or (bool(found.keys) and packet.pts < found.keys[-1])
            if packet.is_discard or (packet.pts < 0 and container.format.name.startswith("mov")):
                found.hidden += 1  # an edit list cuts it away
            elif found.keys:  # nothing can be decoded before the first keyframe
                found.shown.append(packet.pts)
                found.end = max(found.end, packet.pts + (packet.duration or 0))
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: is broken or cut off ({_reason(error)})") from None
    size = os.path.getsize(path)
    if container.format.name.startswith("mov") and any(entry.pos + entry.size > size for entry in stream.index_entries):
        raise VideoError(f"{path}: is broken or cut off (its index names frames beyond its end)")
    return found


def _starts_anew(packet: Any, stream: Any) -> bool:
    """H.264 in MP4 or Matroska: an IDR among the packet's units, each led by its length. Other codecs: yes."""
    if stream.codec_context.name != "h264":
        return True
    extra = stream.codec_context.extradata or b""
    if extra[:1] != b"\x01":
        return False
    width, data, at = (extra[4] & 3) + 1, bytes(packet), 0
    while at + width < len(data):
        if data[at + width] & 31 == IDR:
            return True
        at += width + int.from_bytes(data[at : at + width], "big")
    return False


def _trusted(container: Any, stream: Any, packets: _Packets, start_s: float) -> bool:
    """Is decord's n-th frame the n-th that is shown, and does it find it?"""
    plain = not (packets.missing or packets.hidden or packets.ahead or packets.inner) and start_s == 0
    known = not INDEXED.isdisjoint(container.format.name.split(",")) and stream.codec_context.name in STARTS_ANEW
    return plain and known and stream.codec_context.width >= LEAST_WIDTH and len(set(packets.shown)) == len(packets.shown)


def _decoded_pts(path: str, threads: int) -> Iterator[int]:
    with _opened(path) as container:
        for frame in _decoded(container, path, threads):
            yield frame.pts


# --- decord


def _by_decord(index: Index, chosen_N: Sequence[int] | NDArray[np.int64], threads: int) -> Iterator[tuple[float, Frames]]:
    """In ascending order: decord then skips forward instead of seeking back."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(index.path, ctx=decord.cpu(0), num_threads=threads)
    except MemoryError:
        raise
    except Exception:  # a file that PyAV could open and decord cannot, such as a live recording without a length
        reader = ()
    if len(reader) != len(index.pts):
        yield from _by_pts(index, chosen_N, threads)
        return
    for at in chosen_N:
        try:
            frame = reader[int(at)].asnumpy()
        except MemoryError:
            raise
        except Exception as error:
            raise VideoError(f"{index.path}: frame {at} cannot be decoded, it is broken or cut off ({_reason(error)})") from None
        yield float(index.times_s[at]), frame


# --- PyAV


def _by_pts(index: Index, chosen_N: Sequence[int] | NDArray[np.int64], threads: int) -> Iterator[tuple[float, Frames]]:
    """Each chosen frame, or where it does not exist after all the next one, once."""
    with _opened(index.path) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base)
        start_s = index.pts[0] * base - index.times_s[0]
        frames: Iterator[Any] = iter(())
        frame = None
        for at in chosen_N:
            wanted = int(index.pts[at])
            if frame is not None and frame.pts >= wanted:
                continue  # a frame was missing, and this one stood in for it
            if frame is None or _worth_seeking(index, frame.pts, wanted):
                frames = _from_keyframe(container, index, wanted, threads)
            for frame in frames:
                if frame.pts >= wanted:
                    break
            if frame is None or frame.pts < wanted:
                if frame is not None and at - bisect_right(index.pts, frame.pts) < TAIL:
                    return
                raise VideoError(f"{index.path}: frame {at} cannot be decoded, it is broken or cut off")
            yield round(frame.pts * base - start_s, 6), _upright(frame)


def _worth_seeking(index: Index, now: int, wanted: int) -> bool:
    """Is there a keyframe between the two? Where times come from decoding, seeking has none to go by."""
    return not index.decoded and bisect_right(index.keys, now) < bisect_right(index.keys, wanted)


def _from_keyframe(container: Any, index: Index, wanted: int, threads: int) -> Iterator[Any]:
    """Frames from the last keyframe on after which none up to `wanted` is missing; from the file's start where no seek leads there."""
    import av

    stream = container.streams.video[0]
    last = -1 if index.decoded else bisect_right(index.keys, wanted) - 1
    for back in (0, 1, 3, 8, 20):
        if last - back < 0:
            break
        try:
            container.seek(index.keys[last - back], stream=stream, backward=True)
            frames = _decoded(container, index.path, threads)
            first = next(frames, None)
        except av.FFmpegError:
            break
        # A P frame here belongs to an intra refresh: what it refers to was skipped.
        if first is not None and first.pts <= wanted and first.pict_type == av.video.frame.PictureType.I:
            return chain([first], frames)
    return _from_the_start(index.path, threads)


def _from_the_start(path: str, threads: int) -> Iterator[Any]:
    with _opened(path) as container:
        yield from _decoded(container, path, threads)


def _decoded(container: Any, path: str, threads: int) -> Iterator[Any]:
    """Every frame that has a time, in the order they are shown."""
    import av

    stream = container.streams.video[0]
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = threads
    try:
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield frame
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: a frame cannot be decoded, it is broken or cut off ({_reason(error)})") from None


def _upright(frame: Any) -> Frames:
    """The pixels as they are shown: phones write how the camera was held."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _reason(error: Exception) -> str:
    """The first line of a message, without decord's `[10:23:40] /path/of/its/source.cc:83: ` marks."""
    line = " ".join(str(error).splitlines()[:1])
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", line).strip()[:200] or type(error).__name__
