"""A full disk is said in plain words. /dev/full is one: every write to it fails for want of room."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rlvid.process.full_disk import NoSpace, said_plainly
from rlvid.process.one_line import log_to

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def test_python_and_torch_say_the_same(tmp_path: Path) -> None:
    import torch

    def by_python() -> None:
        with FULL.open("w") as file:
            file.write("x" * 10**6)

    for write in (by_python, lambda: torch.save(torch.zeros(10**6), FULL)):
        with pytest.raises(NoSpace) as caught, said_plainly("a checkpoint", tmp_path / "not" / "yet"):
            write()
        line = str(caught.value)
        assert line.startswith(f"no space left on {tmp_path} for a checkpoint") and "make room" in line and "\n" not in line


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    for error in (RuntimeError("shapes differ"), PermissionError(13, "Permission denied")):
        with pytest.raises(type(error)) as caught, said_plainly("a checkpoint", tmp_path):
            raise error
        assert caught.value is error


def test_a_log_that_cannot_be_written_prints_no_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger("rlvid").handlers)
    try:
        log_to(FULL)
        for _ in range(3):
            logging.getLogger("rlvid").warning("a message")
        assert "Traceback" not in capsys.readouterr().err
    finally:
        for handler in set(logging.getLogger("rlvid").handlers) - set(before):
            logging.getLogger("rlvid").removeHandler(handler)
