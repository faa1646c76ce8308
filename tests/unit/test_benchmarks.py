"""What the benchmarks' page says is what was measured, and every benchmark has a line that says what it asks."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import FOLDER, results

HELPERS = {"environment", "results", "rollouts_counter"}


def test_the_page_is_made_from_the_measurements():
    assert (FOLDER / "RESULTS.md").read_text() == results(), "run `python -m benchmarks.results`"


def test_every_benchmark_is_explained():
    page = (FOLDER / "README.md").read_text()
    assert [path.name for path in sorted(Path(FOLDER).glob("*.py")) if path.stem not in HELPERS and f"`{path.name}`" not in page] == []
