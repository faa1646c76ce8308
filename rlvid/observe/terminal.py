"""What a command shows while it works: a progress bar on a terminal, plain lines in a log file. Both say how long it will still take."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from rlvid.process.log import SCREEN
from rlvid.process.one_line import OneLine

if TYPE_CHECKING:  # rich takes a while to load, and `--help` waits for it
    from rich.console import Console
    from rich.progress import Progress

log = logging.getLogger("rlvid")

WATCHED = {
    "reward": "reward/mean",
    "accuracy": "reward/accuracy",
    "IoU": "reward/temporal_iou",
    "zero-signal": "group/zero_signal_share",
    "dlogp": "mismatch/mean_abs_dlogp",
    "held-out accuracy": "eval/accuracy",
    "held-out IoU": "eval/temporal_iou",
}
PARTS = ("variants", "rollout", "teacher", "learn", "sync", "eval")


def screen_handler() -> logging.Handler:
    """Log lines for stderr: coloured on a terminal; else plain, unwrapped and without control characters."""
    if SCREEN.isatty():
        from rich.logging import RichHandler

        coloured = RichHandler(logging.INFO, console=screen(), show_path=False, rich_tracebacks=False)
        coloured.setFormatter(OneLine("%(message)s"))
        return coloured
    handler = logging.StreamHandler(SCREEN)
    handler.setLevel(logging.INFO)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return handler


@cache
def screen() -> Console:
    """Log lines and bars share it, so that a line comes to stand above the bar."""
    from rich.console import Console

    console: Any = SCREEN
    return Console(file=console)


def open_progress() -> Progress:
    """A bar for the terminal; it shows nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[line]}"))
    return Progress(*columns, console=screen(), disable=not screen().is_terminal, redirect_stdout=False, redirect_stderr=False)


class Work:
    """`total` things to be done one after the other: a bar on a terminal, and lines every LINE_S seconds, which a log file keeps either way.

    with Work("learning to see", 900) as work: work.advance("colour 0.8")
    """

    LINE_S = 10.0

    def __init__(self, label: str, total: int, *, enabled: bool = True) -> None:
        self.label, self.total, self.enabled = label, total, enabled
        self.done, self.began, self.said = 0, time.monotonic(), 0.0
        self.bar = open_progress()
        self.bar.disable = self.bar.disable or not enabled
        self.task = self.bar.add_task(label, total=total, line="")

    def __enter__(self) -> Work:
        self.bar.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.bar.stop()
        if self.enabled and kind is None:
            self._say(f"{self.label}: done in {duration(time.monotonic() - self.began)}")

    def advance(self, line: str = "") -> None:
        """One of them is done. `line`: how it stands."""
        self.done += 1
        self.bar.update(self.task, advance=1, line=line)
        now = time.monotonic()
        if self.enabled and now - max(self.said, self.began) >= self.LINE_S:
            self.said = now
            left_s = (now - self.began) / self.done * (self.total - self.done)
            self._say(f"{self.label}: {self.done} of {self.total}, about {duration(left_s)} left{f'  {line}' if line else ''}")

    def _say(self, line: str) -> None:
        log.log(logging.DEBUG if screen().is_terminal else logging.INFO, "%s", line)


def watched(row: Mapping[str, float]) -> str:
    """The numbers to watch."""
    return "  ".join(f"{label} {row[name]:.3g}" for label, name in WATCHED.items() if row.get(name) is not None)


def step_parts(row: Mapping[str, float]) -> str:
    """Where the step's time went: 3.1 s (rollout 0.9, learn 1.4, sync 0.1); parts that took nothing are left out."""
    if row.get("time/step_s") is None:
        return ""
    parts = ", ".join(f"{part} {row[f'time/{part}_s']:.1f}" for part in PARTS if (row.get(f"time/{part}_s") or 0) >= 0.05)
    return f"{row['time/step_s']:.1f} s" + (f" ({parts})" if parts else "")


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 10 s or 42 s."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
