"""What the suite says about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_missing_browser_is_named_and_fails_ci(tmp_path: Path, ci: str, code: int) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/integration/test_report_browser.py"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": str(tmp_path), "CI": ci}, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "no Chromium here: install chromium" in ended.stdout
    if not ci:
        assert "not tested here" in ended.stdout and "test_report_browser.py::" in ended.stdout


def test_every_finding_is_listed_and_has_its_form() -> None:
    """They are not run here: each installs packages of its own."""
    listed = (ROOT / "findings" / "README.md").read_text()
    scripts = sorted((ROOT / "findings").glob("*.sh"))
    assert scripts and {path.name for path in (ROOT / "findings").iterdir()} == {"README.md", *(script.name for script in scripts)}
    for script in scripts:
        said = script.read_text()
        assert f"[{script.name}]({script.name})" in listed and os.access(script, os.X_OK)
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
        for part in ("# One would expect:", "# What happens:", "# Why it matters:", "# Source:", "mktemp -d", "set -euo pipefail", "the behaviour has changed"):
            assert part in said, f"{script.name}: {part}"
        assert "import rlvid" not in said and "from rlvid" not in said
