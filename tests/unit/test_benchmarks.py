"""What the benchmarks' page says is what was measured, and every benchmark has a line that says what it asks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import FOLDER, headlines, results

HELPERS = {"against_side", "environment", "hour_side", "results", "rollouts_counter", "shapes"}


def test_the_page_is_made_from_the_measurements():
    assert (FOLDER / "RESULTS.md").read_text() == results(), "run `python -m benchmarks.results`"


def test_the_front_page_shows_the_measurements():
    """Ten numbers, on a page that is read to its end."""
    page = (FOLDER.parent / "README.md").read_text()
    assert headlines() in page, "copy what `benchmarks.results.headlines()` gives into README.md"
    assert len(headlines().splitlines()) == 2 + 10 and len(page.splitlines()) <= 150


def test_links_of_the_pages_lead_somewhere():
    for page in (FOLDER.parent / "README.md", FOLDER / "RESULTS.md", FOLDER / "README.md", FOLDER.parent / "deploy" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_benchmark_is_explained():
    page = (FOLDER / "README.md").read_text()
    assert [path.name for path in sorted(Path(FOLDER).glob("*.py")) if path.stem not in HELPERS and f"`{path.name}`" not in page] == []


TOYS = {
    "logprobs": "--tokens 64 --vocabulary 500 --hidden 32 --chunk 16 --pairs 1",
    "learner": "--answers 2 --visual 64 --length 8 --pairs 1 --hidden 128 --layers 2 --vocabulary 400",
    "variants": "--seconds 2 --height 144 --minutes 0.05 --pairs 1",
}


@pytest.mark.parametrize("name", TOYS)
def test_it_still_runs_at_a_toy_size(name):
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *TOYS[name].split()], capture_output=True, text=True, cwd=FOLDER.parent, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["benchmark"] == name and last["found"] and last["environment"]["torch"]
