"""Where metrics go besides metrics.jsonl: Weights & Biases, TensorBoard, or nowhere.

A tracker is a spectator. It runs on a thread of its own behind a bounded queue, so no call here waits for a disk or a network, and whatever goes wrong
costs one warning line and switches it off.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import logging
import os
import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlvid.config import Config
from rlvid.observe.metrics import plain
from rlvid.observe.strips import RolloutRow
from rlvid.process.secrets import without_secrets

log = logging.getLogger(__name__)

QUEUE_ROWS = 10_000
START_DEADLINE_S = 30.0
"""Longest wait for the service to answer; the run goes offline after it."""
FINISH_DEADLINE_S = 30.0
"""Longest wait for the last rows to be sent; what is left stays on disk for `wandb sync`."""
REOPENED = 3
"""So often wandb may be lost and begun anew."""


class Tracker(Protocol):
    """Takes the row of each step, and now and then some of its rollouts. No method raises and none waits longer than its deadline."""

    def log(self, step: int, row: Mapping[str, float | None]) -> None: ...

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None: ...

    def close(self, failed: bool = False) -> None: ...


class NoTracker:
    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        pass

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None:
        pass

    def close(self, failed: bool = False) -> None:
        pass


class Sink(Protocol):
    """What a tracker's thread writes to. Whatever it raises switches the tracker off."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None: ...

    def finish(self, failed: bool) -> None: ...


class ThreadTracker:
    """Hands everything to a sink on a thread of its own."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._kind = config.tracker.kind
        self._work_list: queue.Queue[tuple[int, dict[str, float] | Sequence[RolloutRow]] | None] = queue.Queue(maxsize=QUEUE_ROWS)
        self._failed = False
        self._off = False
        self._thread = threading.Thread(target=self._work, args=(config, Path(folder)), name="tracker", daemon=True)
        self._thread.start()

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        self._put((step, {name: value for name, item in row.items() if isinstance(value := plain(item), int | float) and name != "step"}))

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None:
        self._put((step, list(rows)))

    def close(self, failed: bool = False) -> None:
        if not self._thread.is_alive():
            return
        self._failed = failed
        self._put(None)
        self._thread.join(timeout=START_DEADLINE_S + FINISH_DEADLINE_S)
        if self._thread.is_alive():
            self._switch_off("it did not finish in time")

    def _put(self, item: tuple[int, dict[str, float] | Sequence[RolloutRow]] | None) -> None:
        if self._off:
            return
        try:
            self._work_list.put_nowait(item)
        except queue.Full:
            self._switch_off(f"it is {QUEUE_ROWS} rows behind")

    def _work(self, config: Config, folder: Path) -> None:
        # The one broad except of this module: whatever wandb, the disk or the network does, training goes on.
        try:
            sink: Sink = TensorboardSink(config, folder) if self._kind == "tensorboard" else WandbSink(config, folder)
            while (item := self._work_list.get()) is not None and not self._off:
                step, what = item
                if isinstance(what, dict):
                    sink.log(step, what)
                else:
                    sink.rollouts(step, what)
            sink.finish(self._failed)
        except BaseException as error:
            self._switch_off(f"{type(error).__name__}: {error}")

    def _switch_off(self, reason: str) -> None:
        if not self._off:
            self._off = True
            log.warning("%s is off for the rest of the run, metrics.jsonl goes on: %s", self._kind, reason.splitlines()[0] if reason else "unknown reason")


class WandbSink:
    """A wandb run that shows what metrics.jsonl shows, whatever happens to either. Its id is kept in the run folder, with the last step that it holds.

    A run that goes on after that step goes on in the same wandb run. One that repeats steps does not: wandb drops their rows online, renumbers them offline,
    and keeps those that were given up. Nor does one whose wandb run was cut off. Both get a wandb run of their own, in the same group, with all rows.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.run: Any = None
        self.last = -1
        self.reopened = 0

    def log(self, step: int, values: dict[str, float]) -> None:
        self._write(step, lambda run: values)

    def _write(self, step: int, values: Callable[[Any], dict[str, Any]], *, with_row: bool = False) -> None:
        """`values`: of a run; media belong to the one that they are logged to. `with_row`: the step's own row is there already."""

        def write() -> None:
            run = self._opened(step + with_row)
            run.log(values(run), step=step)

        try:
            write()
        except Exception:
            if not self._cut_off():
                raise
            write()
        self.last = step

    def _opened(self, step: int) -> Any:
        """The run, with all rows before `step`."""
        if self.run is None:
            past = [(at, values) for at, values in _rows(self.folder) if at < step]
            known, last = _known_run(self.folder)
            goes_on = known and last is not None and last < step and not any(at > last for at, _ in past)
            if not goes_on:
                known = f"{self.config.run.name[:100]}-{secrets.token_hex(4)}"
            _note_run(self.folder, known)
            self.run = _start(self.config, self.folder)
            for at, values in [] if goes_on else past:
                self.run.log(values, step=at)
        return self.run

    def _cut_off(self) -> bool:
        """wandb's own process is gone (a job that is stopped sends its signal to all processes): whether the run is begun anew."""
        import wandb

        self.reopened += 1
        if self.run is None or self.reopened > REOPENED:
            return False
        log.warning("wandb's process ended by itself: its run is written anew from metrics.jsonl")
        self.run = None
        with contextlib.suppress(Exception):  # it says goodbye to a process that is gone; the next one is another
            wandb.teardown()
        return True

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None:
        """rollouts/page: the rollouts with their filmstrips, to look at; online also rollouts/samples: a table, to filter and sort.

        wandb copies a table, with its pictures, out of the run's folder and names the copies by absolute path: a folder that is synced from another place or
        machine loses them, in silence. A page is one file in the run's folder.
        """
        page = _page(step, rows)

        def shown(run: Any) -> dict[str, Any]:
            import wandb

            table = {} if run.offline else {"rollouts/samples": wandb.Table(columns=list(SAMPLES), data=[[step, *_told(row)] for row in rows])}
            return {"rollouts/page": wandb.Html(page, inject=False), **table}

        self._write(step, shown, with_row=True)

    def finish(self, failed: bool) -> None:
        if self.run is None:
            return
        code = 1 if failed else 0
        try:
            self.run.finish(exit_code=code)
        except Exception:
            if not self._cut_off():
                raise
            self._opened(self.last + 1).finish(exit_code=code)
        known, _ = _known_run(self.folder)
        _note_run(self.folder, known, self.last)


SAMPLES = ("step", "question", "task", "truth", "variant", "frames at, s", "answers", "best reward")
"""Columns of the table of rollouts."""


def _told(row: RolloutRow) -> list[str | float]:
    times = ", ".join(f"{time_s:g}" for time_s in row.times_s)
    return [row.question, row.task, row.truth, f"{row.variant} {row.kind}", times, row.answers, row.best_reward]


def _page(step: int, rows: Sequence[RolloutRow]) -> str:
    """One HTML file with everything in it. What a model or a data set says is text there, whatever it holds."""
    parts = [f"<h3>step {step}</h3>"]
    for row in rows:
        said = dict(zip(SAMPLES[1:], _told(row), strict=True))
        answers = said.pop("answers")
        parts.append("<hr><p>" + "<br>".join(f"<b>{html.escape(name)}</b> {html.escape(str(value))}" for name, value in said.items()) + "</p>")
        if (jpeg := row.picture()) is not None:
            parts.append(f'<img alt="the frames shown" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">')
        parts.append(f"<pre>{html.escape(str(answers))}</pre>")
    style = "<style>body{font:13px sans-serif}pre{white-space:pre-wrap}img{max-width:100%}</style>"
    return f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>rollouts</title>{style}</head><body>{"".join(parts)}</body></html>'


class TensorboardSink:
    """Event files in tensorboard/ of the run folder. A resumed run hides what it does again."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.folder = str(folder / "tensorboard")
        self.config = json.dumps(without_secrets(config.model_dump(mode="json")), indent=1)
        self.writer: Any = None

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer(step).add_scalar(name, value, step)
        self._writer(step).flush()

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None:
        import numpy as np

        for row in rows:
            name, picture = f"{row.question_id}/{row.variant} {row.kind}", _decoded(row.picture())
            if picture is not None:
                self._writer(step).add_image(f"rollouts/{name}", np.asarray(picture), step, dataformats="HWC")
            text = "\n".join(f"    {line}" for line in f"{row.question}\n{row.truth}\n{row.answers}".splitlines())
            self._writer(step).add_text(f"rollouts/{name}", text, step)  # indented: shown as it is, not as markdown

    def finish(self, failed: bool) -> None:
        if self.writer is not None:
            self.writer.close()

    def _writer(self, step: int) -> Any:
        if self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(logdir=self.folder, purge_step=step, filename_suffix=f".{step}")
            self.writer.add_text("config", "\n".join(f"    {line}" for line in self.config.splitlines()), step)
        return self.writer


def _decoded(jpeg: bytes | None) -> Any:
    """A PIL image."""
    if jpeg is None:
        return None
    from PIL import Image

    return Image.open(io.BytesIO(jpeg))


def open_tracker(config: Config, folder: Path) -> Tracker:
    """The tracker that the configuration names, for the run in `folder`."""
    if config.tracker.kind == "none":
        return NoTracker()
    return ThreadTracker(config, folder)


def _start(config: Config, folder: Path) -> Any:
    """A wandb run: online with a key, offline without one or when the service cannot be reached."""
    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    try:
        return _init(config, folder, mode)
    except Exception as error:
        if mode != "online":
            raise
        log.warning("wandb cannot be reached (%s): the run is logged offline, send it later with `wandb sync`", type(error).__name__)
        import wandb

        wandb.teardown()  # its service process still holds the id of the run that did not start
        return _init(config, folder, "offline")


def _init(config: Config, folder: Path, mode: Any) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").absolute()))  # what is sent beside a run's own files waits here
    import wandb

    return wandb.init(
        project=config.tracker.project,
        name=config.run.name,
        id=_known_run(folder)[0],
        group=config.run.name,
        # Offline runs of one id are joined by `wandb sync`; asked to resume, wandb would only warn that it cannot look.
        resume="allow" if mode == "online" else None,
        dir=str(folder),
        config=without_secrets(config.model_dump(mode="json")),
        mode=mode,
        settings=wandb.Settings(
            console="off",  # the run's output stays the run's
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_save_requirements=False,
            init_timeout=START_DEADLINE_S,
            finish_timeout=FINISH_DEADLINE_S,
        ),
    )


def _known_run(folder: Path) -> tuple[str, int | None]:
    """Id of the folder's wandb run (empty: none yet), and the last step that it holds; None where it was not closed."""
    path = folder / "wandb_id"
    lines = path.read_text().split() if path.exists() else []
    return (lines[0] if lines else ""), (int(lines[1]) if len(lines) > 1 and lines[1].lstrip("-").isdigit() else None)


def _note_run(folder: Path, known: str, last: int | None = None) -> None:
    """Other folders of the same name have other ids."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wandb_id").write_text(f"{known}\n" + (f"{last}\n" if last is not None else ""))


def _rows(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, numbers) of every row of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}) for row in rows]
