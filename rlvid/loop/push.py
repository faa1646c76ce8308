"""Which weights are on which engines: pushes to all of them, sees that they arrived, replaces engines that do not take them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from rlvid.actors.pool import ActorPool, what_it_says
from rlvid.config import Config
from rlvid.learner.group import LearnerGroup
from rlvid.loop.turns import Turns
from rlvid.types import Sent

log = logging.getLogger("rlvid")


class SyncError(RuntimeError):
    """An engine does not hold the weights it should."""


class Weights:
    """`version` is that of the weights on all engines that serve, `costs` what the last push took, as metrics.

    Called from the training thread, and from the pool's loop for engines that are new. One push at a time.
    """

    def __init__(self, config: Config, engines: ActorPool, learner: LearnerGroup, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.engines = engines
        self.learner = learner
        self.loop = loop
        self.turns = Turns(config, engines, learner)
        self.attempts = 1 + config.rollout.max_restarts
        self.version = 0
        self.layout: Any = None
        self.costs: dict[str, float] = {}
        self._connected: list[Any] = []
        self._joining: list[Any] = []
        self._one_at_a_time = threading.Lock()

    def push(self) -> None:
        """Push the learner's weights, with their version, to every engine and see that they arrived.

        An engine that failed in it is replaced and the weights are pushed again. Raises SyncError when no engine takes them.
        """
        self.turns.to_engines()
        for _ in range(self.attempts):
            self._wait_for_an_engine()
            with self._one_at_a_time:
                if self._try_push():
                    self.turns.serve()
                    return
        raise SyncError(f"the engines did not take the new weights in {self.attempts} attempts; logs/ of the run folder holds what they said")

    async def bring_up_to_date(self, engine: Any) -> None:
        """A new engine gets the learner's weights by a transfer of its own, while the others go on serving. From here on it takes part in every push, though it
        serves only afterwards."""

        def join() -> None:
            with self._one_at_a_time:
                self._joining.append(engine)
                if self.version == 0:
                    return
            for _ in range(self.attempts):  # another engine's silence is no fault of this one
                with self._one_at_a_time:
                    if engine not in self._joining:
                        break
                    if self._send([engine]):
                        return
            raise SyncError("it did not take the weights")

        await asyncio.to_thread(join)

    def verify(self, checksum: str) -> None:
        """Raise SyncError unless every engine echoes the version and (sync.verify) the learner's checksum."""
        self._verify(self.engines.handles, self.version, checksum)

    def _wait_for_an_engine(self) -> None:
        """Returns at once unless all engines are being replaced."""
        deadline = time.monotonic() + self.engines.start_deadline_s
        while not (self.engines.handles or self._joining):
            if time.monotonic() > deadline or all(slot.lost for slot in self.engines.slots):
                raise SyncError("no rollout engine is left to take the new weights; logs/ of the run folder holds what they said")
            time.sleep(0.2)

    def _try_push(self) -> bool:
        """One attempt with every engine, those that join included. None is asked for a heartbeat meanwhile."""
        serving = self.engines.handles
        self._joining = [engine for engine in self._joining if engine not in serving]
        self.engines.resting = True
        try:
            sent = self._send(serving + self._joining)
        finally:
            self.engines.resting = False
        if sent is None:
            return False
        self.version, self.costs = sent.version, {"sync/bytes": float(sent.bytes), "sync/pause_s": sent.pause_s}
        return True

    def _send(self, engines: list[Any]) -> Sent | None:
        """One attempt with these; None where it failed. Engines that are silent before it or fail in it are handed to the pool to be replaced."""
        from ray.exceptions import RayTaskError

        try:
            if silent := self._silent(engines):
                self._replace(silent, SyncError(f"no sign of life before new weights (rollout.heartbeat_s is {self.config.rollout.heartbeat_s:.0f})"))
                return None
            if self._connected != engines:
                self._connected = []
                self.learner.connect(engines, [self.config.rollout.tensor_parallel] * len(engines))
                self._connected = engines
            sent: Sent = self.learner.send_weights()
            self._verify(engines, sent.version, sent.checksum)
            return sent
        except (RayTaskError, SyncError) as error:
            log.warning("sync failed: %s", what_it_says(error))
            self._connected = []
            self._sort_out(engines, SyncError(what_it_says(error)))
            return None

    def _silent(self, engines: list[Any]) -> list[Any]:
        """Those that give no sign of life. The transfer itself waits far longer for each, and no heartbeat is asked for meanwhile."""
        return self._without(engines, [engine.check.remote() for engine in engines], lambda version: None)

    def _sort_out(self, engines: list[Any], why: SyncError) -> None:
        """After a push that failed: engines that do not hold the learner's weights whole, or do not say so in time, must not serve; the others go on."""
        import ray

        checksum, version = self.learner.checksum(), self.learner.version()
        asked = [engine.weights_state.remote(self._compared()) for engine in engines]
        stale = self._without(engines, asked, lambda state: _compare(state, version, checksum))
        self._replace(stale, why)
        if going_on := [engine.go_on.remote() for engine in engines if engine not in stale]:
            ray.wait(going_on, num_returns=len(going_on), timeout=self.config.rollout.heartbeat_s)

    def _without(self, engines: list[Any], asked: list[Any], check: Callable[[Any], None]) -> list[Any]:
        """The engines without an answer in time that passes `check`."""
        import ray

        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=self.config.rollout.heartbeat_s)
        return [engine for engine, ref in zip(engines, asked, strict=True) if ref not in answered or not _passes(ref, check)]

    def _replace(self, engines: list[Any], why: SyncError) -> None:
        """Hand engines to the pool, which replaces those that serve; one that is still joining is replaced by who waits for it."""
        self._joining = [engine for engine in self._joining if engine not in engines]
        told = threading.Event()

        def tell() -> None:
            for engine in engines:
                self.engines.failed(engine, why)
            told.set()

        self.loop.call_soon_threadsafe(tell)
        told.wait(self.config.rollout.heartbeat_s)

    def _compared(self) -> Any:
        """What an engine needs to know for a checksum of its weights: how the learner's are laid out. None without sync.verify."""
        if self.config.sync.verify and self.layout is None:
            self.layout = self.learner.layout()
        return self.layout if self.config.sync.verify else None

    def _verify(self, engines: list[Any], version: int, checksum: str) -> None:
        import ray

        asked = [engine.weights_state.remote(self._compared()) for engine in engines]
        try:
            states = ray.get(asked, timeout=self.config.sync.deadline_s)
        except ray.exceptions.RayError as error:
            raise SyncError(f"a rollout engine cannot say which weights it holds: {what_it_says(error)}") from None
        for state in states:
            _compare(state, version, checksum)
        log.debug("weights version %d on %d engines, %s", version, len(states), f"checksum {checksum}" if self.config.sync.verify else "not compared")


def _passes(ref: Any, check: Callable[[Any], None]) -> bool:
    import ray

    try:
        check(ray.get(ref))
    except (SyncError, ray.exceptions.RayError):
        return False
    return True


def _compare(state: tuple[int, str | None], version: int, checksum: str) -> None:
    """`state`: what an engine echoes, its checksum None where it cannot be known."""
    echoed, loaded = state
    if echoed != version:
        raise SyncError(f"a rollout engine serves version {echoed}, not {version}")
    if loaded is not None and loaded != checksum:
        raise SyncError(f"a rollout engine loaded weights with checksum {loaded}, the learner sent {checksum}")
