"""A pool of equal actors: dispatch to the least loaded, a deadline on every call, restart and replay. The one fence.

A call that fails because its actor died or hung is replayed on another (or the restarted) actor; a call that fails
because of its own input raises to the caller, as the actor raised it. Work is described completely by its arguments, so
replaying it loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("rlvid")


class PoolError(RuntimeError):
    """The pool gave up: too many restarts. The message says which actor and why."""


@dataclass
class Slot:
    """One place in the pool: the actor that holds it now and how many calls it is working on."""

    number: int
    handle: Any
    busy: int = 0
    restarts: int = 0
    ready: asyncio.Event | None = None


class ActorPool:
    """`create(number)` makes an actor; `prepare(handle)` makes it fit to serve, at the start and after each restart.

    capacity: calls one actor works on at a time; further ones wait here, so that a deadline counts work, not queueing.
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
        prepare: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.create = create
        self.prepare = prepare
        self.capacity = capacity
        self.deadline_s = deadline_s
        self.start_deadline_s = start_deadline_s
        self.max_restarts = max_restarts
        self.slots = [Slot(number, create(number)) for number in range(size)]
        self.restarts = 0
        self._freed: asyncio.Condition | None = None

    @property
    def handles(self) -> list[Any]:
        return [slot.handle for slot in self.slots]

    async def start(self) -> list[Any]:
        """Start all actors; returns what each start() returned."""
        self._freed = asyncio.Condition()
        for slot in self.slots:
            slot.ready = asyncio.Event()
            slot.ready.set()
        return list(await asyncio.gather(*[self._start(slot) for slot in self.slots]))

    async def _start(self, slot: Slot) -> Any:
        from ray.exceptions import RayActorError

        try:
            return await self._bounded(slot.handle.start.remote(), self.start_deadline_s, f"{self.name} {slot.number} to start")
        except RayActorError as error:
            raise PoolError(f"{self.name} {slot.number} died while it started, its last words are in logs/ of the run folder: {_first_line(error)}") from None
        except TimeoutError as error:
            raise PoolError(f"{error}: what it said until then is in logs/ of the run folder") from None

    async def call(self, method: str, *args: Any, num_returns: int = 1) -> Any:
        """Run `method` on the least loaded actor. With num_returns > 1 the first result is fetched, the rest stay references.

        Raises what the actor raised for its input, or PoolError.
        """
        from ray.exceptions import RayActorError, RayTaskError

        while True:
            slot = await self._acquire()
            handle = slot.handle
            try:
                refs = getattr(handle, method).options(num_returns=num_returns).remote(*args)
                first, *rest = refs if num_returns > 1 else [refs]
                value = await self._bounded(first, self.deadline_s, f"{self.name} {slot.number} to {method}")
                return (value, rest) if num_returns > 1 else value
            except RayTaskError as error:
                cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
                if type(cause).__name__ != "EngineDeadError":
                    raise cause from None
                await self._restart(slot, handle, cause)
            except (RayActorError, TimeoutError) as error:
                await self._restart(slot, handle, error)
            finally:
                await self._release(slot)

    async def _acquire(self) -> Slot:
        assert self._freed is not None, "start() first"
        async with self._freed:
            while True:
                free = [slot for slot in self.slots if slot.busy < self.capacity and slot.ready and slot.ready.is_set()]
                if free:
                    slot = min(free, key=lambda slot: slot.busy)
                    slot.busy += 1
                    return slot
                await self._freed.wait()

    async def _release(self, slot: Slot) -> None:
        assert self._freed is not None
        async with self._freed:
            slot.busy -= 1
            self._freed.notify_all()

    async def _restart(self, slot: Slot, failed: Any, why: Exception) -> None:
        """Put a new actor into the slot, once, however many of its calls failed together."""
        assert slot.ready is not None
        if slot.handle is not failed:
            await slot.ready.wait()
            return
        import ray

        slot.ready.clear()
        slot.restarts += 1
        self.restarts += 1
        reason = _first_line(why)
        log.warning("%s %d failed (%s): restart %d of %d", self.name, slot.number, reason, slot.restarts, self.max_restarts)
        ray.kill(failed)
        if slot.restarts > self.max_restarts:
            raise PoolError(f"{self.name} {slot.number} failed {slot.restarts} times, last: {reason}")
        slot.handle = self.create(slot.number)
        await self._bounded(slot.handle.start.remote(), self.start_deadline_s, f"{self.name} {slot.number} to start again")
        if self.prepare is not None:
            await self.prepare(slot.handle)
        slot.ready.set()
        assert self._freed is not None
        async with self._freed:
            self._freed.notify_all()

    @staticmethod
    async def _bounded(ref: Any, deadline_s: float, what: str) -> Any:
        try:
            return await asyncio.wait_for(_as_future(ref), deadline_s)
        except TimeoutError:
            raise TimeoutError(f"waited {deadline_s:.0f} s for {what}") from None

    def stop(self, deadline_s: float = 20) -> None:
        """End all actors: ask first, so that their child processes end too, then kill."""
        import ray

        asked = [slot.handle.stop.remote() for slot in self.slots]
        ray.wait(asked, num_returns=len(asked), timeout=deadline_s)
        for slot in self.slots:
            ray.kill(slot.handle)


def _first_line(error: Exception) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


async def _as_future(ref: Any) -> Any:
    return await ref
