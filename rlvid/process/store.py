"""Bytes by key in a folder, shared by the processes of a node and kept across runs. `diskcache` keeps the limit (what was not used for longest goes first)
and writes whole records or none. What it would unpickle counts as missing, and so does a record that the disk damaged: whatever is wrong with the folder
costs the work that it was to save, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

from rlvid.process.one_line import first_line

log = logging.getLogger("rlvid")

ORPHAN_S = 3600
"""A file of the folder that no record names is removed when it is so old."""


class Store:
    """`name` and `instead` are for the log: what it is, and what is done where it cannot be used."""

    def __init__(self, folder: Path, limit_gib: float, *, name: str, instead: str) -> None:
        self.name = name
        self._store = self._opened(folder, limit_gib, instead)

    def get(self, key: str) -> bytes | None:
        if self._store is None:
            return None
        try:
            value = self._store.get(key)
        except Exception as error:  # sqlite, disk, a foreign record: the cache is a convenience
            log.warning("%s: cannot read (%s)", self.name, first_line(error))
            return None
        return value if isinstance(value, bytes) else None

    def set(self, key: str, value: bytes) -> None:
        if self._store is None:
            return
        try:
            self._store.set(key, value)
        except Exception as error:
            log.warning("%s: cannot write (%s)", self.name, first_line(error))

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _opened(self, folder: Path, limit_gib: float, instead: str) -> Any:
        """None where the folder cannot be a store."""
        import diskcache

        try:
            store = diskcache.Cache(str(folder), size_limit=int(limit_gib * 2**30), eviction_policy="least-recently-used", disk=_bytes_only())
            _sweep(folder, store)
            return store
        except Exception as error:
            log.warning("%s: %s cannot be used (%s): %s", self.name, folder, first_line(error), instead)
            return None


def sealed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


def whole(stored: bytes) -> memoryview:
    """The payload. ValueError where a bit of it changed."""
    payload = memoryview(stored)[32:]
    if hashlib.sha256(payload).digest() != stored[:32]:
        raise ValueError("the record is damaged")
    return payload


def _sweep(folder: Path, store: Any) -> None:
    """Remove what killed writers left: files that no row names count towards no limit. Young ones may still be on their way."""
    named = {name for (name,) in store._sql("SELECT filename FROM Cache WHERE filename IS NOT NULL").fetchall()}
    for path in folder.rglob("*.val"):
        with contextlib.suppress(OSError):
            if str(path.relative_to(folder)) not in named and time.time() - path.stat().st_mtime > ORPHAN_S:
                path.unlink()


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
