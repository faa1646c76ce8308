"""A pool of equal actors: dispatch to the least loaded, a deadline on every call, heartbeat, restart and replay. The one fence.

A call that fails because its actor died or hung is replayed on another actor at once, while the failed one is replaced in
the background; a call that fails because of its own input raises to the caller, as the actor raised it. Work is described
completely by its arguments, so replaying it loses nothing. The pool goes on as long as one actor lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("rlvid")

BACKOFF_S = (0.0, 2.0, 10.0, 30.0)
"""Pause before the first, second, ... restart in a row; the last one from then on."""


class PoolError(RuntimeError):
    """The pool gave up: no actor is left. The message says why."""


class CallFailed(RuntimeError):
    """This call took down or hung every actor that tried it, so that it is not tried again."""


@dataclass
class Slot:
    """One place in the pool: the actor that holds it now and how many calls it is working on.

    `failures`: in a row, without an answer in between. `lost`: they were too many, nobody comes in its place.
    """

    number: int
    handle: Any
    busy: int = 0
    failures: int = 0
    serving: bool = False
    lost: bool = False


class ActorPool:
    """`create(number)` makes an actor; `prepare(handle)` makes a restarted one fit to serve.

    capacity: calls one actor works on at a time; further ones wait here, so that a deadline counts work, not queueing.
    attempts: actors that may fail at one call before it raises CallFailed. heartbeat_s: how often, and how long, an actor is
    asked for a sign of life (0: never, for actors that cannot answer while they work).
    """

    def __init__(
        self,
        name: str,
        size: int,
        create: Callable[[int], Any],
        *,
        capacity: int,
        deadline_s: float,
        start_deadline_s: float,
        max_restarts: int,
        attempts: int = 2,
        heartbeat_s: float = 0,
        prepare: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.create = create
        self.prepare = prepare
        self.capacity = capacity
        self.deadline_s = deadline_s
        self.start_deadline_s = start_deadline_s
        self.max_restarts = max_restarts
        self.attempts = attempts
        self.heartbeat_s = heartbeat_s
        self.slots = [Slot(number, create(number)) for number in range(size)]
        self.restarts = 0
        self.closed = False
        self.resting = False
        """While True, no heartbeat is asked for: the actors are busy with something that has a deadline of its own."""
        self.asleep = False
        """While True, likewise: the actors are asleep, and nobody may be replaced."""
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_failure = ""

    @property
    def handles(self) -> list[Any]:
        """The actors in service."""
        return [slot.handle for slot in self.slots if slot.serving]

    # ---- life

    async def start(self) -> list[Any]:
        """Start all actors; returns what each start() returned. One that does not start at all ends the run: something is wrong with the settings."""
        started = list(await asyncio.gather(*[self._first_start(slot) for slot in self.slots]))
        if self.heartbeat_s:
            self._begin(self._watch())
        return started

    async def add(self, number: int) -> None:
        """One more actor, which serves once it is prepared. Raises what its start raises."""
        import ray

        slot = Slot(number, self.create(number))
        self.slots.append(slot)
        try:
            await self._enter_service(slot)
        except BaseException:
            self.slots.remove(slot)
            ray.kill(slot.handle)
            self._tell_the_waiting()
            raise

    def close(self) -> None:
        """From now on nobody is replaced."""
        self.closed = True

    def stop(self, deadline_s: float = 20) -> None:
        """End all actors: ask first, so that their child processes end too, then kill."""
        import ray

        self.close()
        for task in list(self._tasks):
            task.get_loop().call_soon_threadsafe(task.cancel)
        left = [slot.handle for slot in self.slots if slot.handle is not None and not slot.lost]
        asked = [handle.stop.remote() for handle in left]
        ray.wait(asked, num_returns=len(asked), timeout=deadline_s)
        for handle in left:
            ray.kill(handle)

    async def _first_start(self, slot: Slot) -> Any:
        try:
            said = await self._bounded(slot.handle.start.remote(), self.start_deadline_s, f"{self.name} {slot.number} to start")
        except TimeoutError as error:
            raise PoolError(f"{error}: what it said until then is in logs/ of the run folder") from None
        except lost() as error:
            raise PoolError(f"{self.name} {slot.number} died while it started, its last words are in logs/ of the run folder: {what_it_says(error)}") from None
        slot.serving = True
        return said

    async def _enter_service(self, slot: Slot) -> None:
        await self._bounded(slot.handle.start.remote(), self.start_deadline_s, f"{self.name} {slot.number} to start")
        if self.prepare is not None:
            await self.prepare(slot.handle)
        slot.serving = True
        self._hand_out()

    # ---- calls

    async def call(self, method: str, *args: Any, num_returns: int = 1) -> Any:
        """Run `method` on the least loaded actor. With num_returns > 1 the first result is fetched, the rest stay references.

        Raises what the actor raised for its input, CallFailed, or PoolError. Cancelled, it leaves the actor's place taken until the actor is done.
        """
        from ray.exceptions import RayTaskError

        failure: Exception | None = None
        for _ in range(self.attempts):
            slot = await self._acquire()
            handle = slot.handle
            try:
                refs = getattr(handle, method).options(num_returns=num_returns).remote(*args)
                first, *rest = refs if num_returns > 1 else [refs]
                value = await self._bounded(first, self.deadline_s, f"{self.name} {slot.number} to {method}")
                slot.failures = 0
                return (value, rest) if num_returns > 1 else value
            except RayTaskError as error:
                cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
                if type(cause).__name__ != "EngineDeadError":
                    raise cause from None
                failure = cause
            except lost() as error:
                failure = error
            except asyncio.CancelledError:
                if not self.closed:
                    slot.busy += 1
                    self._begin(self._see_through(slot, handle, first))
                raise
            finally:
                self._release(slot)
            self.failed(handle, failure)
        assert failure is not None
        raise CallFailed(f"{what_it_says(failure)} ({self.attempts} attempts)")

    async def _see_through(self, slot: Slot, handle: Any, ref: Any) -> None:
        """A call that nobody waits for any more: its actor works on all the same, or hangs."""
        from ray.exceptions import RayError, RayTaskError

        try:
            await self._bounded(ref, self.deadline_s, f"{self.name} {slot.number} to end what was given up")
        except RayTaskError:
            pass  # its input's matter
        except lost() as error:
            self.failed(handle, error)
        except RayError:
            pass  # frames that were lost
        finally:
            self._release(slot)

    async def _acquire(self) -> Slot:
        slot = self._least_loaded()
        if slot is not None:
            slot.busy += 1
            return slot
        self._check_not_lost()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(turn.result())
            raise

    def _release(self, slot: Slot) -> None:
        slot.busy -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Give free places to those who wait, first come, first served."""
        while self._waiting and (slot := self._least_loaded()):
            turn = self._waiting.popleft()
            if not turn.done():
                slot.busy += 1
                turn.set_result(slot)

    def _least_loaded(self) -> Slot | None:
        free = [slot for slot in self.slots if slot.serving and slot.busy < self.capacity]
        return min(free, key=lambda slot: slot.busy) if free else None

    # ---- failure

    def failed(self, handle: Any, why: Exception) -> None:
        """Take an actor out of service and begin to replace it; once, however many of its calls failed together. On the loop's thread."""
        slot = next((slot for slot in self.slots if slot.handle is handle and slot.serving), None)
        if slot is not None and not self.closed:
            slot.serving = False
            self._begin(self._replace(slot, why))

    async def _replace(self, slot: Slot, why: Exception) -> None:
        """Put a new actor into the slot; after too many failures in a row give the slot up."""
        import ray

        failure = why
        while slot.failures < self.max_restarts:
            ray.kill(slot.handle)
            pause_s = BACKOFF_S[min(slot.failures, len(BACKOFF_S) - 1)]
            slot.failures += 1
            self.restarts += 1
            log.warning("%s %d failed (%s): restart %d of %d", self.name, slot.number, what_it_says(failure), slot.failures, self.max_restarts)
            await asyncio.sleep(pause_s)
            slot.handle = self.create(slot.number)
            # Whatever a start raises (each library has errors of its own), the cure is the same, and its limit stands above.
            try:
                await self._enter_service(slot)
            except Exception as error:
                failure = error
            else:
                log.info("%s %d serves again", self.name, slot.number)
                return
        ray.kill(slot.handle)
        slot.lost = True
        self._last_failure = f"{self.name} {slot.number} failed {slot.failures + 1} times in a row, last: {what_it_says(failure)}"
        log.error("%s: it is given up, %d of %d are left", self._last_failure, sum(not other.lost for other in self.slots), len(self.slots))
        self._tell_the_waiting()

    def _tell_the_waiting(self) -> None:
        try:
            self._check_not_lost()
        except PoolError as error:
            while self._waiting:
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_exception(error)

    def _check_not_lost(self) -> None:
        if all(slot.lost for slot in self.slots):
            raise PoolError(f"no {self.name} is left: {self._last_failure}; logs/ of the run folder holds what they said")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s)
            if not (self.resting or self.asleep):
                await asyncio.gather(*[self._beat(slot.handle, slot.number) for slot in self.slots if slot.serving])

    async def _beat(self, handle: Any, number: int) -> None:
        from ray.exceptions import RayError

        try:
            await self._bounded(handle.check.remote(), self.heartbeat_s, f"a sign of life of {self.name} {number}")
        except (RayError, TimeoutError) as error:
            if not (self.resting or self.asleep):
                self.failed(handle, error)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _bounded(ref: Any, deadline_s: float, what: str) -> Any:
        try:
            return await asyncio.wait_for(_as_future(ref), deadline_s)
        except TimeoutError:
            raise TimeoutError(f"waited {deadline_s:.0f} s for {what}") from None


def lost() -> tuple[type[Exception], ...]:
    """What says that an actor is gone (killed by Ray's memory monitor, among others) or hangs."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    return RayActorError, OutOfMemoryError, TimeoutError


def what_it_says(error: Exception) -> str:
    """An error in one line, without the traceback that Ray puts before it."""
    cause = getattr(error, "cause", None)  # of a RayTaskError, which itself begins with a traceback
    error = cause if isinstance(cause, Exception) else error
    text = next((part for part in error.args if isinstance(part, str)), str(error))
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), type(error).__name__)


async def _as_future(ref: Any) -> Any:
    return await ref
