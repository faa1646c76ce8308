from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rlvid.observe.metrics import MetricsFile


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_hold_plain_json(tmp_path: Path) -> None:
    scalars = {"f32": np.float32(0.5), "i64": np.int64(3), "bool": np.bool_(True), "nan": math.nan, "inf": np.float64(np.inf)}
    MetricsFile(tmp_path).append(1, {"step": 1, **scalars, "list": np.array([1.0, np.nan])})
    assert rows(tmp_path) == [{"step": 1, "f32": 0.5, "i64": 3, "bool": True, "nan": None, "inf": None, "list": [1.0, None]}]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_resume_keeps_each_step_once(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    for step in range(6):
        file.append(step, {"a": step})
    file = MetricsFile(tmp_path)
    file.truncate_after(3)
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2, 3]
    file.append(4, {"a": -4})
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2, 3, 4] and rows(tmp_path)[-1]["a"] == -4
    file.truncate_after(9)
    assert len(rows(tmp_path)) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_step_is_never_written_twice(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.append(3, {})
    for again in (file, MetricsFile(tmp_path)):
        with pytest.raises(AssertionError, match="step 3 after step 3"):
            again.append(3, {})


@pytest.mark.parametrize("torn", ['{"step": 2, "a": 0.', '{"step": 2', "\x00\x00\x00"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n' + torn)
    file = MetricsFile(tmp_path)
    file.append(2, {"a": 1})
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2]


def test_a_last_line_without_its_newline_is_completed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}')
    MetricsFile(tmp_path).append(2, {})
    assert [row["step"] for row in rows(tmp_path)] == [0, 1, 2]


def test_truncating_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.truncate_after(5)
    file.append(0, {})
    assert len(rows(tmp_path)) == 1
