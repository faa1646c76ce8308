"""The frames of a video by their true times: which there are, and those that are wanted, one after the other.

Times are the presentation times of the packets, as PyAV reads them. Pixels come from decord where its index can be trusted: in small MP4 and
Matroska files, where every keyframe starts anew and nothing is turned. Anything else (open groups of pictures, MPEG-2, MPEG-TS, AVI, edit lists, a
phone's turn) makes decord seek to other frames than it was asked for, or show them as they lie; there PyAV decodes, and every frame says itself when
and which way up it is shown. Folders and lists of pictures and animated WebP are `rlvid.video.pictures`.

To know its frames a film is read once from end to end: the index is remembered by the process, and beside the cached frames for the node (`keep_in`).
After that only the groups of pictures that hold a wanted frame are read: decord, which reads all of a file to open it, is left to small ones.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlvid.video import pictures
from rlvid.video.pictures import VideoError

__all__ = ["Frames", "Index", "Reader", "Shown", "Times", "VideoError", "identity", "keep_in", "length_s", "read_index"]
Frames = NDArray[np.uint8]
Times = NDArray[np.float64]
Shown = tuple[float, Frames, tuple[int, int]]
"""True time in seconds, [H, W, 3] uint8, and the (height, width) at which it is to be shown: another one where pixels are not square."""

PLAYLISTS = {"hls", "dash", "concat", "sdp", "rtsp", "imf"}
"""Formats that name other files: what they play is not this file."""
INDEXED = {"mov", "mp4", "matroska", "webm"}
UNTIMED = {"avi"}
"""Formats whose packets say when they are decoded, not when they are shown."""
STARTS_ANEW = {"vp8", "vp9", "hevc", "h264"}
"""Codecs whose keyframes refer to nothing before them, if no frame that comes after is shown earlier (and in H.264 they are IDR)."""
LEAST_WIDTH = 64
"""decord counts the padding of narrower frames as channels."""
SMALL_BYTES = 64 * 2**20
"""decord reads the whole file whenever it opens it."""
LONGEST_S = 1e9
"""A time beyond this is a missing one."""
IDR = 5
TAIL = 3
"""So many frames may be missing at the very end: some formats end before their last pictures are whole."""
HEAD_PACKETS = 64
"""Among so many packets is the first frame shown."""
REMEMBERED = 32
"""Indices in a process's memory; one of a film of two hours takes 3 MB."""


@dataclass(frozen=True)
class Index:
    """`pts` [N] of all frames in the order they are shown, `times_s` [N] the same in seconds, `keys` the pts of keyframes, ascending.

    `by_decord`: whether decord's n-th frame is the n-th of these. `decoded`: the times come from the frames, packets had none. `counted`: the n-th frame
    decoded is the n-th of these, whatever time it bears. `aspect`: a pixel's width over its height, as stored. `pictures`: this is no file of a video codec.
    `packet_bytes` [N]: what each frame's packet takes; empty where packets do not say which frame they are.
    """

    path: str
    pts: NDArray[np.int64]
    times_s: Times
    keys: tuple[int, ...]
    duration_s: float
    fps: float
    by_decord: bool = False
    decoded: bool = False
    counted: bool = False
    aspect: float = 1.0
    pictures: bool = False
    packet_bytes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass
class _Packets:
    """What the packets say. `packet_bytes`: of each that is shown. `ahead`: a frame is shown before the keyframe it comes after. `inner`: a keyframe that is
    no new start."""

    shown: list[int]
    keys: list[int]
    packet_bytes: list[int] = field(default_factory=list)
    end: int = 0
    missing: int = 0
    hidden: int = 0
    ahead: bool = False
    inner: bool = False


class IndexStore(Protocol):
    def index(self, path: str, read: Callable[[], Index]) -> Index: ...


_remembered: OrderedDict[str, Index] = OrderedDict()
_store: IndexStore | None = None


def keep_in(store: IndexStore | None) -> None:
    """From now on this process looks for indices there first, and leaves those it makes (`rlvid.video.cache.VideoCache`)."""
    global _store
    _store = store


def identity(path: str) -> list[Any]:
    """What changes when the file does: real path, size and time of change; of pictures, those of every one and their rate. Raises VideoError."""
    try:
        if found := pictures.parsed(path):
            return [found.fps, *(_state(one) for one in found.files())]
        return _state(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def _state(path: str) -> list[Any]:
    state = os.stat(path)
    return [os.path.realpath(path), state.st_size, state.st_mtime_ns]


def read_index(path: str, *, threads: int = 1) -> Index:
    """The video's frames, without decoding any, unless its packets have no times. Once per process; with `keep_in` once per node. Raises VideoError."""
    key = repr(identity(path)) if _is_there(path) else ""
    if key in _remembered:
        _remembered.move_to_end(key)
        return _remembered[key]

    def read() -> Index:
        return _of_pictures(path) if _has_pictures(path) else _of_packets(path, threads)

    index = _store.index(path, read) if _store and key else read()
    _remembered[key] = index
    while len(_remembered) > REMEMBERED:
        _remembered.popitem(last=False)
    return index


def length_s(path: str) -> float:
    """The video's length on the same clock as `read_index`, from both ends of the file where its format can seek. Raises VideoError."""
    if _is_there(path) and (repr(identity(path)) in _remembered or _has_pictures(path)):
        return read_index(path).duration_s
    found = _from_both_ends(path)
    return read_index(path).duration_s if found is None else found


class Reader:
    """One video, open: its index is known, any of its frames are read by seek, as often as asked. Opened at the first frame, closed by `close`."""

    def __init__(self, path: str, *, threads: int = 1) -> None:
        self.index = read_index(path, threads=threads)
        self._threads = threads
        self._container: Any = None
        self._decord: Any = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The next frame would open it again."""
        if self._container is not None:
            self._container.close()
        self._container = self._decord = None

    def frames(self, chosen_N: Sequence[int] | NDArray[np.int64]) -> Iterator[Shown]:
        """Each chosen frame; they ascend. Only one full-size frame exists at a time. Raises VideoError."""
        if self.index.pictures:
            for at, pixels in pictures.frames(self.index.path, [int(at) for at in chosen_N]):
                yield float(self.index.times_s[at]), pixels, (pixels.shape[0], pixels.shape[1])
        elif self.index.by_decord and self._opened_by_decord():
            yield from self._by_decord(chosen_N)
        else:
            yield from self._by_pts(chosen_N)

    # --- decord

    def _opened_by_decord(self) -> bool:
        """Not where decord cannot read what PyAV can, such as a live recording without a length."""
        import decord

        if self._decord is None:
            decord.logging.set_level(decord.logging.QUIET)
            try:
                self._decord = decord.VideoReader(self.index.path, ctx=decord.cpu(0), num_threads=self._threads)
            except MemoryError:
                raise
            except Exception:
                self._decord = ()
        return len(self._decord) == len(self.index.pts)

    def _by_decord(self, chosen_N: Sequence[int] | NDArray[np.int64]) -> Iterator[Shown]:
        """In ascending order: decord then skips forward instead of seeking back."""
        for at in chosen_N:
            try:
                frame = self._decord[int(at)].asnumpy()
            except MemoryError:
                raise
            except Exception as error:
                raise VideoError(f"{self.index.path}: frame {at} cannot be decoded, it is broken or cut off ({_reason(error)})") from None
            yield float(self.index.times_s[at]), frame, _shown_size(frame, self.index.aspect)

    # --- PyAV

    def _by_pts(self, chosen_N: Sequence[int] | NDArray[np.int64]) -> Iterator[Shown]:
        """Each chosen frame, or where it does not exist after all the next one, once."""
        index = self.index
        if self._container is None:
            self._container = _opened(index.path)
        base = float(self._container.streams.video[0].time_base)
        start_s = index.pts[0] * base - index.times_s[0]
        frames: Iterator[tuple[int, Any]] = iter(())
        frame, now = None, 0
        for at in chosen_N:
            wanted = int(index.pts[at])
            if frame is not None and now >= wanted:
                continue  # a frame was missing, and this one stood in for it
            if frame is None or _worth_seeking(index, now, wanted):
                frames = self._from_keyframe(wanted)
            for now, frame in frames:  # noqa: B007
                if now >= wanted:
                    break
            if frame is None or now < wanted:
                if frame is not None and at - bisect_right(index.pts, now) < TAIL:
                    return
                raise VideoError(f"{index.path}: frame {at} cannot be decoded, it is broken or cut off")
            yield round(now * base - start_s, 6), *_upright(frame, index.aspect)

    def _from_keyframe(self, wanted: int) -> Iterator[tuple[int, Any]]:
        """Frames from the last keyframe on after which none up to `wanted` is missing; from the file's start where no seek leads there."""
        import av

        index, container = self.index, self._container
        stream = container.streams.video[0]
        last = -1 if index.decoded or index.counted else bisect_right(index.keys, wanted) - 1
        for back in (0, 1, 3, 8, 20):
            if last - back < 0:
                break
            try:
                container.seek(index.keys[last - back], stream=stream, backward=True)
                frames = _decoded(container, index.path, self._threads)
                first = next(frames, None)
            except av.FFmpegError:
                break
            # A P frame here belongs to an intra refresh: what it refers to was skipped.
            if first is not None and first[0] <= wanted and first[1].pict_type == av.video.frame.PictureType.I:
                return chain([first], frames)
        frames = _from_the_start(index.path, self._threads)
        return zip(index.pts.tolist(), (frame for _, frame in frames), strict=False) if index.counted else frames


# --- what there is


def _is_there(path: str) -> bool:
    return pictures.parsed(path) is not None or os.path.isfile(path)


def _has_pictures(path: str) -> bool:
    return pictures.parsed(path) is not None or pictures.is_animated(path)


def _of_pictures(path: str) -> Index:
    times_s, duration_s = pictures.timeline(path)
    if len(times_s) < 2:
        raise VideoError(f"{path}: has {len(times_s)} frame(s) with a time, at least 2 are needed")
    count = np.arange(len(times_s), dtype=np.int64)
    return Index(path, count, times_s.astype(np.float64), (), duration_s, len(times_s) / duration_s, pictures=True)


def _of_packets(path: str, threads: int) -> Index:
    with _opened(path) as container:
        stream = container.streams.video[0]
        base, start_s = float(stream.time_base), _start_s(container)
        packets = _demuxed(container, stream, path)
        rate = float(stream.average_rate or 0)
        aspect = _aspect(stream)
        counted = _is_counted(container, stream)
        trusted = not counted and _trusted(container, stream, packets, start_s)
    trusted = trusted and os.path.getsize(path) <= SMALL_BYTES and _lies_upright(path, threads)
    decoded = packets.missing > 0 and not counted
    pts = np.array(sorted(set(_decoded_pts(path, threads) if decoded else packets.shown)), dtype=np.int64)
    if len(pts) < 2:
        raise VideoError(f"{path}: has {len(pts)} frame(s) with a time, at least 2 are needed")
    start_s = min(start_s, float(pts[0] * base))
    times_s = np.asarray((pts * base - start_s).round(6), dtype=np.float64)
    if np.abs(times_s).max() > LONGEST_S:
        raise VideoError(f"{path}: its timestamps are not times (from {times_s[0]:g} to {times_s[-1]:g} s)")
    fps = rate if math.isfinite(rate) and rate > 0 else (len(pts) - 1) / max(times_s[-1] - times_s[0], 1e-3)
    duration_s = _length_s(packets.end, int(pts[-1]), base, start_s, fps)
    by_decord = trusted and len(pts) == len(packets.shown)
    taken = {} if decoded or counted else dict(zip(packets.shown, packets.packet_bytes, strict=True))
    weights = np.array([taken[at] for at in pts.tolist()] if taken else [], dtype=np.int64)
    return Index(path, pts, times_s, tuple(sorted(packets.keys)), duration_s, fps, by_decord, decoded, counted, aspect, packet_bytes=weights)


def _length_s(end: int, last: int, base: float, start_s: float, fps: float) -> float:
    return max(round(end * base - start_s, 6), round(last * base - start_s, 6) + (0.0 if end > last else 1 / fps))


def _start_s(container: Any) -> float:
    """When the file starts: its clock's 0."""
    return max(0.0, (container.start_time or 0) / 1e6)


def _from_both_ends(path: str) -> float | None:
    """The length by the first and the last packets; None where only the whole file tells."""
    import av

    with _opened(path) as container:
        stream = container.streams.video[0]
        known = (stream.duration or 0) + (stream.start_time or 0) or (container.duration or 0) / 1e6 / float(stream.time_base)
        rate = float(stream.average_rate or 0)
        if INDEXED.isdisjoint(container.format.name.split(",")) or not known or not rate:
            return None
        head = _demuxed(container, stream, path, HEAD_PACKETS)
        try:
            container.seek(int(known), stream=stream, backward=True)
        except av.FFmpegError:
            return None
        tail = _demuxed(container, stream, path)
        if not head.shown or not tail.shown or head.missing or tail.missing:
            return None
        base = float(stream.time_base)
        start_s = min(_start_s(container), min(head.shown) * base)
        return _length_s(tail.end, max(tail.shown), base, start_s, rate)


def _opened(path: str) -> Any:
    """The file in PyAV, with a video stream of this file's own."""
    if not os.path.isfile(path):
        raise VideoError(f"{path}: {_no_file(path)}")
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


def _no_file(path: str) -> str:
    if not os.path.exists(path):
        return "no such file"
    return f"is not a file{' but a folder (pictures need the key fps: how many of them make a second)' if os.path.isdir(path) else ''}"


def _demuxed(container: Any, stream: Any, path: str, limit: int = 0) -> _Packets:
    """What the packets say from here to the end, or the first so many of them."""
    import av

    found = _Packets([], [])
    try:
        for number, packet in enumerate(container.demux(stream), start=1):
            if packet.size == 0:
                continue
            pts = packet.dts if _is_counted(container, stream) else packet.pts
            if pts is None:
                found.missing += 1
                continue
            if packet.is_keyframe:
                found.keys.append(pts)
                found.inner = found.inner or not _starts_anew(packet, stream)
            found.ahead = found.ahead or (bool(found.keys) and pts < found.keys[-1])
            if packet.is_discard or (pts < 0 and container.format.name.startswith("mov")):
                found.hidden += 1  # an edit list cuts it away
            elif found.keys:  # nothing can be decoded before the first keyframe
                found.shown.append(pts)
                found.packet_bytes.append(packet.size)
                found.end = max(found.end, pts + (packet.duration or 0))
            if number == limit:
                break
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: is broken or cut off ({_reason(error)})") from None
    size = os.path.getsize(path)
    if container.format.name.startswith("mov") and any(entry.pos + entry.size > size for entry in stream.index_entries):
        raise VideoError(f"{path}: is broken or cut off (its index names frames beyond its end)")
    return found


def _is_counted(container: Any, stream: Any) -> bool:
    return container.format.name in UNTIMED and bool(stream.codec_context.has_b_frames)


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


def _lies_upright(path: str, threads: int) -> bool:
    with _opened(path) as container:
        first = next(_decoded(container, path, threads), None)
        return first is not None and _matrix(first[1]) == UPRIGHT


def _aspect(stream: Any) -> float:
    """A pixel's width over its height; 1 where the file does not say, or says nonsense."""
    ratio = stream.sample_aspect_ratio
    aspect = float(ratio) if ratio else 1.0
    return aspect if 0.1 <= aspect <= 10 else 1.0


def _decoded_pts(path: str, threads: int) -> Iterator[int]:
    with _opened(path) as container:
        for pts, _ in _decoded(container, path, threads):
            yield pts


def _worth_seeking(index: Index, now: int, wanted: int) -> bool:
    """Is there a keyframe between the two? Where times come from decoding, seeking has none to go by."""
    return not (index.decoded or index.counted) and bisect_right(index.keys, now) < bisect_right(index.keys, wanted)


def _from_the_start(path: str, threads: int) -> Iterator[tuple[int, Any]]:
    with _opened(path) as container:
        yield from _decoded(container, path, threads, untimed=_is_counted(container, container.streams.video[0]))


def _decoded(container: Any, path: str, threads: int, untimed: bool = False) -> Iterator[tuple[int, Any]]:
    """(pts, frame) of every frame that has a time (`untimed`: of every frame), in the order they are shown."""
    import av

    stream = container.streams.video[0]
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = threads
    try:
        for frame in container.decode(stream):
            if untimed or frame.pts is not None:
                yield frame.pts or 0, frame
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: a frame cannot be decoded, it is broken or cut off ({_reason(error)})") from None


# --- which way up

UPRIGHT = (1, 0, 0, 1)


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d of the frame's display matrix in quarter turns and mirrors: a point (x, y) is shown at (a x + c y, b x + d y)."""
    side = next((side for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if side is None:
        return UPRIGHT
    a, b, _, c, d, *_ = np.frombuffer(bytes(side), dtype=np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return int(np.sign(a)) or 1, 0, 0, int(np.sign(d)) or 1
    return 0, int(np.sign(b)) or 1, int(np.sign(c)) or 1, 0


def _upright(frame: Any, aspect: float) -> tuple[Frames, tuple[int, int]]:
    """The pixels as they are shown, all eight orientations: phones write how the camera was held, front cameras mirror."""
    pixels = frame.to_ndarray(format="rgb24")
    a, b, c, d = _matrix(frame)
    if a == 0:
        pixels, aspect = pixels.transpose(1, 0, 2), 1 / aspect
    down, right = (b, c) if a == 0 else (d, a)
    pixels = np.ascontiguousarray(pixels[::down, ::right])
    return pixels, _shown_size(pixels, aspect)


def _shown_size(pixels: Frames, aspect: float) -> tuple[int, int]:
    """(height, width) with square pixels, never below what is stored."""
    height, width = pixels.shape[:2]
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def _reason(error: Exception) -> str:
    """The first line of a message, without decord's `[10:23:40] /path/of/its/source.cc:83: ` marks."""
    line = " ".join(str(error).splitlines()[:1])
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", line).strip()[:200] or type(error).__name__
