"""Decoded candidates on disk: a second epoch reads them instead of decoding. Keyed by file identity and everything that shapes the pixels.

Several actors share the folder (`rlvid.process.store`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from rlvid.process.store import Store, sealed, whole
from rlvid.types import Relevance
from rlvid.video.clip import Clip
from rlvid.video.frames import Index, identity

FORMAT = 4
"""Goes up when what is stored changes."""
LOCK, LOCKS = "index-lock-", 64
"""Files in the folder that are locked while an index is made."""


class VideoCache:
    """A folder of clips and relevances. `hits` and `misses` count clips. Whatever is wrong with the folder costs a decoding, never a run."""

    def __init__(self, folder: Path, limit_gib: float) -> None:
        self.hits = self.misses = 0
        self._folder = folder
        self._store = Store(folder, limit_gib, name="video cache", instead="every video is decoded")

    def clip(self, path: str, parameters: Any, read: Callable[[], Clip]) -> Clip:
        """The clip of the file as it is now, read only if it is not in the cache. `parameters`: all that `read` depends on, as JSON."""
        key = video_key(path, parameters)
        found = self._store.get(key)
        clip = _unpacked(found) if found is not None else None
        if clip is not None:
            self.hits += 1
            return clip
        self.misses += 1
        clip = read()
        self._store.set(key, _packed(clip))
        return clip

    def relevance(self, path: str, parameters: Any, score: Callable[[], Relevance]) -> Relevance:
        """Like `clip`, for the relevance of a question's text. Not counted."""
        key = video_key(path, ["relevance", parameters])
        found = self._store.get(key)
        if found is not None:
            with contextlib.suppress(Exception):
                stored = json.loads(bytes(whole(found)))
                return Relevance(tuple(stored["times_s"]), tuple(stored["scores"]), tuple(tuple(row) for row in stored["patches"]))
        scored = score()
        self._store.set(key, sealed(json.dumps(asdict(scored)).encode()))
        return scored

    def index(self, path: str, read: Callable[[], Index]) -> Index:
        """Like `clip`, for the index of a file's frames; of several processes of the node that want it at once, one reads the file. Not counted."""
        key = video_key(path, ["index"])
        with self._alone(key):
            found = self._store.get(key)
            index = _index_unpacked(path, found) if found is not None else None
            if index is None:
                index = read()
                self._store.set(key, _index_packed(index))
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
        self._store.close()


def video_key(path: str, parameters: Any) -> str:
    """Digest of the file's identity (real path, size, time of change) and the parameters."""
    return hashlib.sha256(json.dumps([FORMAT, *identity(path), parameters]).encode()).hexdigest()


def _packed(clip: Clip) -> bytes:
    """One line of JSON, then the timestamps (float64), then the pixels."""
    head = {"shape": clip.frames_NHWC.shape, "duration_s": clip.duration_s, "fps": clip.fps, "width": clip.width, "height": clip.height}
    return sealed(b"".join((json.dumps(head).encode(), b"\n", clip.times_s_N.astype("<f8").tobytes(), clip.frames_NHWC.tobytes())))


def _unpacked(stored: bytes) -> Clip | None:
    """None for anything but a whole clip."""
    try:
        payload = whole(stored)
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
    return sealed(b"".join((json.dumps(head).encode(), b"\n", *(array.tobytes() for array in arrays))))


def _index_unpacked(path: str, stored: bytes) -> Index | None:
    """None for anything but a whole index."""
    try:
        payload = whole(stored)
        end = stored.index(b"\n", 32) - 32 + 1
        head = json.loads(bytes(payload[:end]))
        counts = head.pop("counts")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) * 8 + end
        kinds = ("<i8", "<f8", "<i8", "<i8")
        pts, times_s, keys, taken = (np.frombuffer(payload, *each) for each in zip(kinds, counts, starts.tolist(), strict=True))
        return Index(**head | {"path": path, "pts": pts, "times_s": times_s, "keys": tuple(keys.tolist()), "packet_bytes": taken})
    except Exception:  # as in `_unpacked`
        return None
