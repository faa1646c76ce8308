"""What a run shows while it goes: a progress bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlvid.process.one_line import OneLine

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
    if sys.stderr.isatty():
        coloured = RichHandler(logging.INFO, console=Console(stderr=True), show_path=False, rich_tracebacks=False)
        coloured.setFormatter(OneLine("%(message)s"))
        return coloured
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return handler


def open_progress() -> Progress:
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[line]}"))
    return Progress(*columns, console=console, disable=not console.is_terminal)


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
