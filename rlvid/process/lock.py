"""Files that belong to one process at a time."""

from __future__ import annotations

import fcntl
from typing import IO, Any

from rlvid.config import ConfigError


def take(file: IO[Any], problem: str) -> None:
    """Take an open file for this process alone, until it is closed. ConfigError with `problem` where another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(problem) from None
    except OSError:
        pass  # a filesystem without locks
