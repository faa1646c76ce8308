"""What a step measured: values collected by reduction, one JSON row a step on disk.

`Meter` is filled while the step runs and gives the row; `MetricsFile` keeps the rows. A row holds plain numbers or null.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Reduction = Literal["mean", "sum", "max", "last"]
Row = dict[str, float | None]
"""Metric name -> value; None where there is no finite value."""


class Meter:
    """Collects named values within one step. A name has one reduction, fixed by its first use.

    Not for several threads at once: each thread fills its own and `update`s the step's at the end.
    """

    def __init__(self) -> None:
        self._reduction: dict[str, Reduction] = {}
        self._value: dict[str, float] = {}
        self._weight: dict[str, float] = {}

    def mean(self, name: str, value: float, weight: float = 1.0) -> None:
        """Weighted mean of the step's values; None when all weights are 0."""
        self._claim(name, "mean")
        if weight:
            self._value[name] = self._value.get(name, 0.0) + float(value) * weight
            self._weight[name] = self._weight.get(name, 0.0) + weight

    def sum(self, name: str, value: float) -> None:
        self._claim(name, "sum")
        self._value[name] = self._value.get(name, 0.0) + float(value)

    def max(self, name: str, value: float) -> None:
        self._claim(name, "max")
        self._value[name] = max(self._value.get(name, -math.inf), float(value))

    def last(self, name: str, value: float) -> None:
        self._claim(name, "last")
        self._value[name] = float(value)

    def update(self, values: Mapping[str, float | None], reduction: Reduction = "last") -> None:
        """Take in a whole row. None is passed over."""
        for name, value in values.items():
            if value is not None:
                getattr(self, reduction)(name, value)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds the seconds that the block took."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.sum(name, time.perf_counter() - start)

    def row(self) -> Row:
        """The step's row. The meter is empty afterwards; reductions stay fixed."""
        row: Row = {}
        for name in self._reduction:
            if name not in self._value:
                continue
            row[name] = _finite(self._value[name] / self._weight[name] if self._reduction[name] == "mean" else self._value[name])
        self._value.clear()
        self._weight.clear()
        return row

    def _claim(self, name: str, reduction: Reduction) -> None:
        known = self._reduction.setdefault(name, reduction)
        assert known == reduction, f"metric {name} is reduced by {known} and by {reduction}"


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
