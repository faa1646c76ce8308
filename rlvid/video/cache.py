"""Decoded candidates on disk: a second epoch reads them instead of decoding. Keyed by file identity and everything that shapes the pixels.

`diskcache` keeps the size limit (least recently used goes first) and lets several actors share the folder. Only raw bytes are
stored and read: a record of another kind, which might be a pickle, counts as missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from rlvid.process.one_line import first_line
from rlvid.types import Relevance
from rlvid.video.clip import Clip
from rlvid.video.frames import Index, identity

log = logging.getLogger(__name__)

ORPHAN_S = 3600
"""A file of the folder that no record names is removed when it is so old."""
FORMAT = 4
"""Goes up when what is stored changes."""
LOCK, LOCKS = "index-lock-", 64
"""Files in the folder that are locked while an index is made."""


class VideoCache:
    """A folder of clips and relevances. `hits` and `misses` count clips. Whatever is wrong with the folder costs a decoding, never a run."""

    def __init__(self, folder: Path, limit_gib: float) -> None:
        self.hits = self.misses = 0
        self._folder = folder
        self._store = _opened(folder, limit_gib)

    def clip(self, path: str, parameters: Any, read: Callable[[], Clip]) -> Clip:
        """The clip of the file as it is now, read only if it is not in the cache. `parameters`: all that `read` depends on, as JSON."""
        key = video_key(path, parameters)
        found = self._get(key)
        clip = _unpacked(found) if found is not None else None
        if clip is not None:
            self.hits += 1
            return clip
        self.misses += 1
        clip = read()
        self._set(key, _packed(clip))
        return clip

    def relevance(self, path: str, parameters: Any, score: Callable[[], Relevance]) -> Relevance:
        """Like `clip`, for the relevance of a question's text. Not counted."""
        key = video_key(path, ["relevance", parameters])
        found = self._get(key)
        if found is not None:
            with contextlib.suppress(Exception):
                stored = json.loads(bytes(_whole(found)))
                return Relevance(tuple(stored["times_s"]), tuple(stored["scores"]), tuple(tuple(row) for row in stored["patches"]))
        scored = score()
        self._set(key, _sealed(json.dumps(asdict(scored)).encode()))
        return scored

    def index(self, path: str, read: Callable[[], Index]) -> Index:
        """Like `clip`, for the index of a file's frames; of several processes of the node that want it at once, one reads the file. Not counted."""
        key = video_key(path, ["index"])
        with self._alone(key):
            found = self._get(key)
            index = _index_unpacked(path, found) if found is not None else None
            if index is None:
                index = read()
                self._set(key, _index_packed(index))
            return index

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """One process at a time; who dies lets go. The caller's own deadline bounds the wait."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                file = stack.enter_context(open(self._folder / f"{LOCK}{int(key[:4], 16) % LOCKS}", "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _get(self, key: str) -> bytes | None:
        if self._store is None:
            return None
        try:
            value = self._store.get(key)
        except Exception as error:  # sqlite, disk, a foreign record: the cache is a convenience
            log.warning("video cache: cannot read (%s)", _reason(error))
            return None
        return value if isinstance(value, bytes) else None

    def _set(self, key: str, value: bytes) -> None:
        if self._store is None:
            return
        try:
            self._store.set(key, value)
        except Exception as error:
            log.warning("video cache: cannot write (%s)", _reason(error))


def _opened(folder: Path, limit_gib: float) -> Any:
    """The store, or None where the folder cannot be one."""
    import diskcache

    try:
        store = diskcache.Cache(str(folder), size_limit=int(limit_gib * 2**30), eviction_policy="least-recently-used", disk=_bytes_only())
        _sweep(folder, store)
        return store
    except Exception as error:
        log.warning("video cache: %s cannot be used (%s): every video is decoded", folder, _reason(error))
        return None


def _sweep(folder: Path, store: Any) -> None:
    """Remove what killed writers left: files that no row names count towards no limit. Young ones may still be on their way."""
    named = {name for (name,) in store._sql("SELECT filename FROM Cache WHERE filename IS NOT NULL").fetchall()}
    for path in folder.rglob("*.val"):
        with contextlib.suppress(OSError):
            if str(path.relative_to(folder)) not in named and time.time() - path.stat().st_mtime > ORPHAN_S:
                path.unlink()


def _reason(error: Exception) -> str:
    return first_line(error)


def video_key(path: str, parameters: Any) -> str:
    """Digest of the file's identity (real path, size, time of change) and the parameters."""
    return hashlib.sha256(json.dumps([FORMAT, *identity(path), parameters]).encode()).hexdigest()


def _packed(clip: Clip) -> bytes:
    """One line of JSON, then the timestamps (float64), then the pixels."""
    head = {"shape": clip.frames_NHWC.shape, "duration_s": clip.duration_s, "fps": clip.fps, "width": clip.width, "height": clip.height}
    return _sealed(b"".join((json.dumps(head).encode(), b"\n", clip.times_s_N.astype("<f8").tobytes(), clip.frames_NHWC.tobytes())))


def _sealed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


def _whole(stored: bytes) -> memoryview:
    """The payload. ValueError where a bit of it changed."""
    payload = memoryview(stored)[32:]
    if hashlib.sha256(payload).digest() != stored[:32]:
        raise ValueError("the record is damaged")
    return payload


def _unpacked(stored: bytes) -> Clip | None:
    """None for anything but a whole clip."""
    try:
        payload = _whole(stored)
        end = stored.index(b"\n", 32) - 32 + 1
        head = json.loads(bytes(payload[:end]))
        count, height, width, channels = head["shape"]
        times = np.frombuffer(payload, "<f8", count, offset=end)
        frames = np.frombuffer(payload, np.uint8, count * height * width * channels, offset=end + times.nbytes).reshape(head["shape"])
        return Clip(frames, times, head["duration_s"], head["fps"], head["width"], head["height"])
    except Exception:  # a foreign record, or one that the disk damaged
        return None


_ARRAYS = ("pts", "times_s", "keys", "packet_bytes")


def _index_packed(index: Index) -> bytes:
    """One line of JSON, then pts, times, keys and packets' bytes."""
    arrays = (index.pts.astype("<i8"), index.times_s.astype("<f8"), np.array(index.keys, "<i8"), index.packet_bytes.astype("<i8"))
    head = {each.name: getattr(index, each.name) for each in fields(index) if each.name not in _ARRAYS} | {"counts": [len(array) for array in arrays]}
    return _sealed(b"".join((json.dumps(head).encode(), b"\n", *(array.tobytes() for array in arrays))))


def _index_unpacked(path: str, stored: bytes) -> Index | None:
    """None for anything but a whole index."""
    try:
        payload = _whole(stored)
        end = stored.index(b"\n", 32) - 32 + 1
        head = json.loads(bytes(payload[:end]))
        counts = head.pop("counts")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) * 8 + end
        kinds = ("<i8", "<f8", "<i8", "<i8")
        pts, times_s, keys, taken = (np.frombuffer(payload, *each) for each in zip(kinds, counts, starts.tolist(), strict=True))
        return Index(**head | {"path": path, "pts": pts, "times_s": times_s, "keys": tuple(keys.tolist()), "packet_bytes": taken})
    except Exception:  # as in `_unpacked`
        return None


def _bytes_only() -> Any:
    """diskcache's own store, without its pickles."""
    from diskcache import Disk
    from diskcache.core import MODE_PICKLE

    class BytesOnly(Disk):
        def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> Any:
            return None if mode == MODE_PICKLE else super().fetch(mode, filename, value, read)

        def get(self, key: Any, raw: bool) -> Any:
            return super().get(key, raw) if raw else None

    return BytesOnly
