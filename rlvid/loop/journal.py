"""What a run writes while it goes: its folder, metrics, slot dumps, tracker, and a line on the terminal."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from rich.progress import Progress

from rlvid.config import Config
from rlvid.observe.dumps import drop_after, write_step
from rlvid.observe.metrics import MetricsFile
from rlvid.observe.report.background import BackgroundReport
from rlvid.observe.step_row import group_metrics, signal_metrics
from rlvid.observe.strips import rollout_rows
from rlvid.observe.terminal import duration, open_progress, step_parts, watched
from rlvid.observe.tracker import Tracker, open_tracker
from rlvid.process.lock import take
from rlvid.process.one_line import log_to
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
        self.report = BackgroundReport(self.folder, config.report.deadline_s) if config.report.enabled else None
        self.recent: deque[float] = deque(maxlen=20)
        self.clock = time.perf_counter()
        if not (self.folder / "config.yaml").exists():
            self._note_config()

    def rewind(self, step: int) -> None:
        """Forget everything after `step`: the run goes on from there, with the settings that are now noted down."""
        self._note_config()
        self.metrics.truncate_after(step if step else -1)
        drop_after(self.folder / "rollouts", step)
        self.progress.update(self.task, completed=step)
        self.clock = time.perf_counter()

    def _note_config(self) -> None:
        aside = self.folder / ".config.yaml.writing"
        aside.write_text(self.config.dump())
        aside.rename(self.folder / "config.yaml")

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
        row = group_metrics(groups, rewards, version=step - 1) | signal_metrics(self.config, groups, rewards, advantages) | dict(metrics)
        row["memory/host_rss_bytes"] = _rss_bytes()
        row["time/step_s"] = time.perf_counter() - self.clock
        self.recent.append(row["time/step_s"])
        self.row(step, row)
        if self.config.tracker.kind != "none" and due(self.config.tracker.rollouts_every, step):
            self.tracker.rollouts(step, rollout_rows(groups, rewards, advantages, self.config.tracker.rollouts_questions))
        if self.report and due(self.config.run.save_every, step) and step < self.config.run.steps:
            self.report.begin()

    def _show(self, step: int, row: Mapping[str, float]) -> None:
        line = "  ".join(part for part in (watched(row), step_parts(row)) if part)
        self.progress.update(self.task, completed=step, line=line)
        if not self.progress.console.is_terminal or "eval/format" in row:
            left_s = (self.config.run.steps - step) * sum(self.recent) / max(1, len(self.recent))
            log.info("step %d/%d  %s%s", step, self.config.run.steps, line, f"  {duration(left_s)} left" if left_s else "")


@contextlib.contextmanager
def open_journal(config: Config) -> Iterator[Journal]:
    """Make the run folder and take it for this process, show progress; close the tracker however the run ends. ConfigError where another run writes there."""
    config.folder.mkdir(parents=True, exist_ok=True)
    failed = True
    with (config.folder / ".lock").open("a") as lock:
        take(lock, f"run.name: {config.folder} is being written by another rlvid command: wait for it, or choose another name")
        log_to(config.folder / "log.txt")
        tracker = open_tracker(config, config.folder)
        try:
            with open_progress() as progress:
                journal = Journal(config, tracker, progress)
                yield journal
            if journal.report:
                journal.report.finish()
            failed = False
        finally:
            tracker.close(failed=failed)


def due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _rss_bytes() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss)
