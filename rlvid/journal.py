"""What a run writes while it goes: its folder, metrics, slot dumps, tracker, and a line on the terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlvid.config import Config
from rlvid.observe.dumps import drop_after, write_step
from rlvid.observe.metrics import MetricsFile
from rlvid.observe.step_row import group_metrics
from rlvid.observe.tracker import Tracker, open_tracker
from rlvid.types import Group

log = logging.getLogger("rlvid")


class Journal:
    """Keeps the run folder. A step is written once; `rewind` makes room for steps that are done again."""

    def __init__(self, config: Config, tracker: Tracker, progress: Progress) -> None:
        self.config = config
        self.folder = config.folder
        self.metrics = MetricsFile(self.folder)
        self.tracker = tracker
        self.progress = progress
        self.task = progress.add_task("training", total=config.run.steps, line="")
        self.clock = time.perf_counter()

    def rewind(self, step: int) -> None:
        """Forget everything after `step`: the run goes on from there."""
        self.metrics.truncate_after(step if step else -1)
        drop_after(self.folder / "rollouts", step)
        self.progress.update(self.task, completed=step)
        self.clock = time.perf_counter()

    def row(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row of metrics, on disk and to the tracker."""
        if metrics:
            self.metrics.append(step, metrics)
            self.tracker.log(step, metrics)
            self._show(step, metrics)
        self.clock = time.perf_counter()

    def step(
        self, step: int, groups: Sequence[Group], rewards: Sequence[NDArray[Any]], advantages: Sequence[NDArray[Any]], metrics: Mapping[str, float]
    ) -> None:
        """Dump the step's slots, then write its row."""
        if self.config.run.dump_rollouts:
            write_step(self.folder / "rollouts", step, groups, rewards, advantages)
        row = group_metrics(groups, rewards, version=step - 1) | dict(metrics)
        row["throughput/rollout_tokens_per_s"] = row["rollout/answer_tokens"] / max(row["time/rollout_s"], 1e-9)
        row["memory/host_rss_bytes"] = _rss_bytes()
        row |= {"repair/share": 0.0, "repair/success_share": 0.0, "teacher/leak_share": 0.0}
        row["time/step_s"] = time.perf_counter() - self.clock
        self.row(step, row)

    def _show(self, step: int, row: Mapping[str, float]) -> None:
        line = _line(row)
        self.progress.update(self.task, completed=step, line=line)
        if not self.progress.console.is_terminal or "eval/format" in row:
            log.info("step %d/%d %s", step, self.config.run.steps, line)


@contextlib.contextmanager
def open_journal(config: Config) -> Iterator[Journal]:
    """Make the run folder, note the resolved config, show progress; close the tracker however the run ends."""
    config.folder.mkdir(parents=True, exist_ok=True)
    (config.folder / "config.yaml").write_text(config.dump())
    log_to(config.folder / "log.txt")
    tracker = open_tracker(config, config.folder)
    failed = True
    try:
        with open_progress() as progress:
            yield Journal(config, tracker, progress)
        failed = False
    finally:
        tracker.close(failed=failed)


def log_to(path: Path) -> None:
    """rlvid's own messages go to the file too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("rlvid").addHandler(handler)


def open_progress() -> Progress:
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[line]}"))
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _line(row: Mapping[str, float]) -> str:
    """The numbers to watch, in one line."""
    shown = {
        "reward": "reward/mean",
        "accuracy": "reward/accuracy",
        "IoU": "reward/temporal_iou",
        "zero-signal": "group/zero_signal_share",
        "dlogp": "mismatch/mean_abs_dlogp",
        "s/step": "time/step_s",
        "held-out accuracy": "eval/accuracy",
        "held-out IoU": "eval/temporal_iou",
    }
    return "  ".join(f"{label} {row[name]:.3g}" for label, name in shown.items() if name in row)


def _rss_bytes() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss)
