"""Where metrics go besides metrics.jsonl: Weights & Biases, TensorBoard, or nowhere.

A tracker is a spectator. It runs on a thread of its own behind a bounded queue, so no call here waits for a disk or a network, and whatever goes wrong
costs one warning line and switches it off.
"""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import secrets
import threading
from collections.abc import Mapping, Sequence
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
    """One wandb run for one rlvid run, across restarts: its id is kept in the run folder."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.run = _start(config, folder)

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def rollouts(self, step: int, rows: Sequence[RolloutRow]) -> None:
        """A table with the filmstrips of the step: rollouts/samples."""
        import wandb

        strips = []
        table = wandb.Table(columns=["step", "question", "task", "truth", "variant", "frames", "answers", "best reward"])
        for row in rows:
            picture = _decoded(row.picture())
            strip = wandb.Image(picture, caption=", ".join(f"{time_s:g} s" for time_s in row.times_s)) if picture is not None else None
            strips += [strip] if strip else []
            table.add_data(step, row.question, row.task, row.truth, f"{row.variant} {row.kind}", strip, row.answers, row.best_reward)
        # Pictures of a table lie in wandb's own data folder until they are sent; logged beside it, they lie in the run's folder, too.
        self.run.log({"rollouts/samples": table} | ({"rollouts/strips": strips} if strips else {}), step=step)

    def finish(self, failed: bool) -> None:
        self.run.finish(exit_code=1 if failed else 0)


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
    os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").absolute()))  # pictures of tables stay with the run until they are sent
    import wandb

    return wandb.init(
        project=config.tracker.project,
        name=config.run.name,
        id=_run_id(config.run.name, folder),
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


def _run_id(name: str, folder: Path) -> str:
    """Stable for a run folder, different for another folder of the same name."""
    path = folder / "wandb_id"
    if path.exists() and (known := path.read_text().strip()):
        return known
    run_id = f"{name[:100]}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(run_id + "\n")
    return run_id
