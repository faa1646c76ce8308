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
