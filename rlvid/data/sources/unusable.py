"""The typed refusal of a row."""

from __future__ import annotations

COLUMNS = "columns"
"""The key under which a row of another format is counted."""


class Unusable(Exception):
    """A row that gives no question. `kind` is the same for equal mistakes, whatever the values."""

    def __init__(self, key: str, what: str, kind: str = "") -> None:
        super().__init__(f"{key}: {what}")
        self.kind = f"{key}: {kind or what}"
