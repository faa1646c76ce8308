"""Actors and engines write what they say into files of the run folder, so that the screen stays the run's own and a cause can be found again."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

LOGS = "RLVID_LOGS"
"""Environment variable of an actor: the folder for its log file."""
TAIL_BYTES = 256 * 1024
_ERROR = re.compile(r"(?<![\w.])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Killed)\b:? ?.*)")
_HOLLOW = ("Engine core initialization failed", "EngineCore failed to start", "EngineCore encountered")


def to_log_file(name: str) -> Path | None:
    """Send this process's output, and that of processes it starts from now on, to NAME.log. None where no folder was given or it cannot be written."""
    folder = os.environ.get(LOGS)
    if not folder:
        return None
    path = Path(folder) / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return None  # Ray's own files keep the output then
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(file, number)
    os.close(file)
    return path


def last_error(path: Path | None) -> str:
    """The last exception in a log that says something, in one line; empty where there is none."""
    if path is None or not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        found = _ERROR.search(line)
        if found and not any(hollow in line for hollow in _HOLLOW):
            return found[1].strip()[:500]
    return ""
