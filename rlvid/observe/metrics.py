"""metrics.jsonl: one JSON row a step on disk. A row holds plain numbers or null."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsFile:
    """`metrics.jsonl` in a run folder: one row a step, each step once, steps ascending.

    A line that was torn by a crash is dropped when the file is opened, so that nothing is ever glued to it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        rows = self._read()
        self._last_step = int(rows[-1]["step"]) if rows else -1

    def append(self, step: int, row: Mapping[str, Any]) -> None:
        """Write the step's row and flush it. Raises OSError where the disk is full: a run must not go on unrecorded."""
        assert step > self._last_step, f"step {step} after step {self._last_step}: call truncate_after first"
        line = json.dumps({"step": step, **{name: plain(value) for name, value in row.items() if name != "step"}}, allow_nan=False)
        with self.path.open("a") as file:
            file.write(line + "\n")
        self._last_step = step

    def truncate_after(self, step: int) -> None:
        """Drop the rows of later steps, atomically. Called when a run goes on from the checkpoint of `step`."""
        rows = self._read()
        kept = [row for row in rows if row["step"] <= step]
        if len(kept) < len(rows):
            self._write(kept)
        self._last_step = int(kept[-1]["step"]) if kept else -1

    def _read(self) -> list[dict[str, Any]]:
        """The whole rows. Rewrites the file when it held anything else."""
        if not self.path.exists():
            return []
        text = self.path.read_text(errors="replace")
        rows = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
        if len(rows) < len(text.splitlines()) or (text and not text.endswith("\n")):
            self._write(rows)
        return rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        aside = self.path.with_suffix(".jsonl.tmp")
        with aside.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)


def plain(value: Any) -> Any:
    """A value that JSON holds: NumPy and torch scalars become Python numbers, NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
