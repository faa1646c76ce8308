"""Actors and engines, and the libraries that a command loads, say what they say into files, so that the screen stays the command's own and a cause can be
found again."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

LOGS = "RLVID_LOGS"
"""Environment variable of an actor: the folder for its log file."""
TAIL_BYTES = 256 * 1024
_ERROR = re.compile(r"(?<![\w.])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Killed)\b:? ?.*)")
_HOLLOW = ("Engine core initialization failed", "EngineCore failed to start", "EngineCore encountered")


class Screen:
    """A text file: standard error, and what was standard error while libraries have another one (`libraries_to`)."""

    def __init__(self) -> None:
        self.kept: TextIO | None = None

    @property
    def file(self) -> TextIO:
        return self.kept or sys.stderr

    @property
    def encoding(self) -> str:
        return self.file.encoding

    def write(self, text: str) -> int:
        return self.file.write(text)

    def flush(self) -> None:
        self.file.flush()

    def isatty(self) -> bool:
        return self.file.isatty()

    def fileno(self) -> int:
        return self.file.fileno()


SCREEN = Screen()


@contextlib.contextmanager
def libraries_to(path: Path) -> Iterator[None]:
    """What this process and those it starts print goes to the end of `path`; SCREEN stays what it was. Where the file cannot be written, so does all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        yield
        return
    kept = {number: os.dup(number) for number in (1, 2)}
    if sys.stderr is sys.__stderr__:  # a test's own stands for no descriptor, and is left alone
        SCREEN.kept = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    _point(dict.fromkeys(kept, log))
    try:
        yield
    finally:
        _point(kept)
        for number in (log, *kept.values()):
            os.close(number)
        if SCREEN.kept is not None:
            SCREEN.kept.close()
            SCREEN.kept = None


def _point(targets: dict[int, int]) -> None:
    """Standard output and error, by descriptor, to other files."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number, target in targets.items():
        os.dup2(target, number)


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
    _point({1: file, 2: file})
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
