"""A full disk in plain words: torch speaks of line numbers of its own when a write fails."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30
_TORCHS_WORDS = ("inline_container", "PytorchStreamWriter", "file write failed")


class NoSpace(OSError):
    """The disk, or this user's share of it, is full. One line with the place and the cure."""


class QuietFile(logging.FileHandler):
    """A log file that may fail in silence: with the disk full, a traceback for every message would bury what matters."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextlib.contextmanager
def said_plainly(what: str, folder: Path) -> Iterator[None]:
    """Around what writes `what` into a folder. Raises NoSpace in the place of a write that failed for want of room."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        ours = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        torchs = isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCHS_WORDS)
        if not (ours or torchs):
            raise
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free_gib = shutil.disk_usage(there).free / GIB
        cure = "make room there, or lower run.keep_checkpoints; started again, the run goes on from its last whole checkpoint"
        raise NoSpace(f"no space left on {there} for {what} ({free_gib:.2f} GiB free, and a quota may allow less): {cure}") from error
