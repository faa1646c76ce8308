"""What was answered so far, of `rlvid select` and `rlvid eval`: one JSON line per finished question, safe against being killed at any moment.

A line is finished when it ends in a newline. Lines are handed to the system at once, so a killed process loses none, and
brought to the disk once a second, which is what a power cut can cost. What a crash tore is cut off when the journal is opened,
so that nothing is ever glued to it. Of each line only a key and its place stay in memory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvid.config import ConfigError
from rlvid.process.lock import take

SYNC_EVERY_S = 1.0


class AnswerJournal:
    """Rows by their `key`. Opening takes the file for this process alone: ConfigError while another one writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        try:
            take(self._file, f"--out: {path} is being written by another rlvid command (wait for it, or choose another file)")
        except ConfigError:
            self._file.close()
            raise
        self._places = self._read()
        self._synced_s = time.monotonic()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append finished rows. Raises OSError where the disk is full."""
        place = self._file.seek(0, os.SEEK_END)
        lines = [json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows]
        self._file.write(b"".join(lines))
        self._file.flush()
        if time.monotonic() - self._synced_s > SYNC_EVERY_S:
            self._sync()
        for row, line in zip(rows, lines, strict=True):
            self._places[row["key"]] = place
            place += len(line)

    def row(self, key: str) -> dict[str, Any]:
        """The row of a key that is in the journal."""
        self._file.seek(self._places[key])
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def close(self) -> None:
        """Bring everything to the disk and let others have the file."""
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    def _read(self) -> dict[str, int]:
        places: dict[str, int] = {}
        self._file.seek(0)
        place = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                break
            if key := _key(line):
                places[key] = place
            place += len(line)
        return places


def _key(line: bytes) -> str:
    """The row's key, empty where the line is no row."""
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    key = row.get("key") if isinstance(row, dict) else None
    return key if isinstance(key, str) else ""
