"""The report of a run that goes on, made by a process of its own: decoding videos can neither hold training up nor bring it down."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

log = logging.getLogger("rlvid")


class BackgroundReport:
    """`begin` now and then; `finish` at the end. What goes wrong costs one warning line; the process's own words are in logs/report.log."""

    def __init__(self, folder: Path, deadline_s: float) -> None:
        self.folder = folder
        self.deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Write report.html as things stand, unless the last one is still being made."""
        if self._process is not None and self._process.poll() is None:
            return
        logs = self.folder / "logs"
        polite = [nice, "-n", "10"] if (nice := shutil.which("nice")) else []
        try:
            logs.mkdir(exist_ok=True)
            with (logs / "report.log").open("wb") as output:
                command = [*polite, sys.executable, "-m", "rlvid.cli", "report", str(self.folder)]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            log.warning("no report is written: %s", error)

    def finish(self) -> None:
        """Wait for the report of the whole run."""
        self._wait()
        self.begin()
        self._wait()

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            status = self._process.wait(timeout=self.deadline_s + 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status:
            log.warning("the report was not written (logs/report.log says why); make it later with: rlvid report %s", self.folder)
        self._process = None
