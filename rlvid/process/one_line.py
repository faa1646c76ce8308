"""Log messages that stay what they are: one line each, without control characters."""

from __future__ import annotations

import logging
from pathlib import Path

from rlvid.process.full_disk import QuietFile


class OneLine(logging.Formatter):
    """Names from a data set stand in messages: a line break in one must not forge a line, an escape sequence must not reach the terminal.

    Only a traceback has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def log_to(path: Path) -> None:
    """rlvid's own messages go to the file too."""
    handler = QuietFile(path)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("rlvid").addHandler(handler)


def first_line(error: Exception) -> str:
    """What an error says first; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str) -> str:
    """One line that changes nothing in a terminal: what is not printable is spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
