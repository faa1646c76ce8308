"""A pool of equal actors: dispatch to the least loaded, a deadline on every call, heartbeat, restart and replay. The one fence.

Whose fault is a failure? An actor that gives no sign of life right before a call has failed by itself, and the call goes to another one (actors that many
calls share are asked from a call's second try on). Where an actor dies in
a call, the call is replayed on another at once, while the dead one is replaced in the background: done there, it was the actor's fault, else the input's. The
last try has an actor to itself: where several calls share one, only the guilty one fails. An
actor that works on one call at a time and still answers when its deadline is over is busy with an input that is too slow: that is not replayed. Only an actor's
own faults count against its place. A call that fails because of its own input raises to the caller, as the actor raised it. Work is described completely by its
arguments, so replaying it loses nothing. The pool goes on as long as one actor lives.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("rlvid")

BACKOFF_S = (0.0, 2.0, 10.0, 30.0)
"""Pause before a restart after none, one, two, ... faults of the actor's own in a row; the last one from then on."""
RETRY_S = 300.0
"""Pause between the tries at a place that is given up."""
SIGN_S = 10.0
"""Longest wait for a sign of life where no heartbeat is set."""
SLICES, STILL_S, STILL_COUNTS = 20, 1.0, 4
"""A wait is cut into so many. One that takes longer than twice itself and a second is one in which this process stood still: it counts a quarter."""
STRAGGLER_S = 10.0
"""Once enough actors have started, the others are waited for so long, or as long as those took."""


class PoolError(RuntimeError):
    """The pool gave up: no actor is left. The message says why."""


class CallFailed(RuntimeError):
    """This call took down every actor that tried it, or took longer than its deadline, so that it is not tried again."""


@dataclass(eq=False)
class Slot:
    """One place in the pool: the actor that holds it now and how many calls it is working on.

    `failures`: of its own, in a row, without an answer in between. `lost`: they were too many, it is tried again now and then only. `blamed`: the actor whose
    death is the last that was counted: it is one failure, however many calls were with it.
    """

    number: int
    handle: Any
    busy: int = 0
    failures: int = 0
    serving: bool = False
    lost: bool = False
    reserved: bool = False
    blamed: Any = None

    def blame(self, handle: Any) -> None:
        """The actor failed by itself."""
        if handle is not self.blamed:
            self.blamed = handle
            self.failures += 1


class ActorPool:
    """`create(number)` makes an actor; `prepare(handle)` makes a restarted one fit to serve.

    capacity: calls one actor works on at a time; further ones wait here, so that a deadline counts work, not queueing. attempts: living actors that may fail at
    one call before it raises CallFailed. quorum: share of the actors that must start before the pool serves. heartbeat_s: how often, and how long, an actor is
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
        quorum: float = 1.0,
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
        self.quorum = max(1, math.ceil(quorum * size))
        self.heartbeat_s = heartbeat_s
        self.slots = [Slot(number, create(number)) for number in range(size)]
        self.restarts = 0
        self.closed = False
        self.resting = False
        """While True, no heartbeat is asked for: the actors are busy with something that has a deadline of its own."""
        self.asleep = False
        """While True, likewise: the actors are asleep, and nobody may be replaced."""
        self._waiting: deque[tuple[asyncio.Future[Slot], Sequence[Slot]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_alone = asyncio.Lock()
        self._last_failure = ""

    @property
    def handles(self) -> list[Any]:
        """The actors in service."""
        return [slot.handle for slot in self.slots if slot.serving]

    # ---- life

    async def start(self) -> list[Any]:
        """Start all actors; returns what each start() returned, as far as they are there.

        Where fewer than the quorum start, the run ends: something is wrong with the settings. Others that fail or take much longer come later.
        """
        loop = asyncio.get_running_loop()
        began, until = loop.time(), math.inf
        places = {loop.create_task(self._first_start(slot)): slot for slot in self.slots}
        waiting, started, failed = set(places), list[Any](), 0
        try:
            while waiting and loop.time() < until:
                done, waiting = await asyncio.wait(waiting, timeout=None if math.isinf(until) else until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is None:
                        places[task].serving = True
                        started.append(task.result())
                        continue
                    failed += 1
                    if failed > len(places) - self.quorum or not isinstance(error, Exception):
                        raise error
                    self._begin(self._replace(places[task], error, own=True))
                if len(started) >= self.quorum and math.isinf(until):
                    until = loop.time() + max(STRAGGLER_S, loop.time() - began)
        except BaseException:
            for task in waiting:
                task.cancel()
            raise
        for task in waiting:
            log.warning("%s %d has not started yet: the run begins without it", self.name, places[task].number)
            self._begin(self._start_late(places[task], task))
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
        left = [slot.handle for slot in self.slots if slot.handle is not None]
        asked = [handle.stop.remote() for handle in left]
        ray.wait(asked, num_returns=len(asked), timeout=deadline_s)
        for handle in left:
            ray.kill(handle)

    async def _first_start(self, slot: Slot) -> Any:
        try:
            return await self._bounded(slot.handle.start.remote(), self.start_deadline_s, f"{self.name} {slot.number} to start")
        except TimeoutError as error:
            raise PoolError(f"{error}: what it said until then is in logs/ of the run folder") from None
        except lost() as error:
            raise PoolError(f"{self.name} {slot.number} died while it started, its last words are in logs/ of the run folder: {what_it_says(error)}") from None

    async def _start_late(self, slot: Slot, start: asyncio.Task[Any]) -> None:
        """One that the run did not wait for."""
        try:
            await start
            await self._serve(slot)
        except Exception as error:  # as in `_replace`
            await self._replace(slot, error, own=True)

    async def _enter_service(self, slot: Slot) -> None:
        await self._bounded(slot.handle.start.remote(), self.start_deadline_s, f"{self.name} {slot.number} to start")
        await self._serve(slot)

    async def _serve(self, slot: Slot) -> None:
        if self.prepare is not None:
            await self.prepare(slot.handle)
        slot.serving = True
        self._hand_out()

    # ---- calls

    async def call(self, method: str, *args: Any, num_returns: int = 1, patience_s: float = math.inf) -> Any:
        """Run `method` on the least loaded actor. With num_returns > 1 the first result is fetched, the rest stay references.

        patience_s: the caller waits no longer once an actor works on it: TimeoutError. Raises what the actor raised for its input, CallFailed, or PoolError.
        Cancelled or given up, it leaves the actor's place taken until the actor is done.
        """
        from ray.exceptions import RayTaskError

        died: list[tuple[Slot, Any]] = []
        counted = 0
        while True:
            # Actors that many calls share are watched, and asked for no sign before a first try: so that one proves nothing against the call.
            tried = [slot for slot, _ in died]
            sure = self.capacity == 1 or bool(tried)
            alone = self.capacity > 1 and bool(tried) and counted == self.attempts - 1
            slot = await (self._acquire_alone(tried) if alone else self._acquire_living(tried) if sure else self._acquire())
            handle, failure, too_slow = slot.handle, None, False
            try:
                refs = getattr(handle, method).options(num_returns=num_returns).remote(*args)
                first, *rest = refs if num_returns > 1 else [refs]
                value = await self._bounded(first, min(self.deadline_s, patience_s), f"{self.name} {slot.number} to {method}")
                slot.failures = 0
                for other, dead in died:  # what it took to do this call was not the call's fault
                    other.blame(dead)
                return (value, rest) if num_returns > 1 else value
            except RayTaskError as error:
                cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
                if type(cause).__name__ != "EngineDeadError":
                    raise cause from None
                failure = cause
            except TimeoutError as error:
                if patience_s < self.deadline_s:
                    self._leave(slot, handle, first)
                    raise
                failure = error
                too_slow = self.capacity == 1 and await self._lives(handle)
            except lost() as error:
                failure = error
            except asyncio.CancelledError:
                self._leave(slot, handle, first)
                raise
            finally:
                if failure is not None:  # before the place is free: nobody else may get the actor
                    self._out_of_service(handle, failure, own=False)
                if alone:
                    self._end_reservation(slot)
                self._release(slot)
            died.append((slot, handle))
            counted += sure
            if too_slow:
                raise CallFailed(f"it was not done within {self.deadline_s:g} s")
            if counted == self.attempts:
                raise CallFailed(f"{what_it_says(failure)} ({len(died)} attempts)")

    def _leave(self, slot: Slot, handle: Any, ref: Any) -> None:
        """Keep the place taken for a call that nobody waits for any more."""
        if not self.closed:
            slot.busy += 1
            self._begin(self._see_through(slot, handle, ref))

    async def _see_through(self, slot: Slot, handle: Any, ref: Any) -> None:
        """A call that nobody waits for any more: its actor works on all the same, or hangs."""
        from ray.exceptions import RayError, RayTaskError

        try:
            await self._bounded(ref, self.deadline_s, f"{self.name} {slot.number} to end what was given up")
        except RayTaskError:
            pass  # its input's matter
        except lost() as error:
            self._out_of_service(handle, error, own=False)
        except RayError:
            pass  # frames that were lost
        finally:
            self._release(slot)

    async def _acquire_living(self, avoid: Sequence[Slot]) -> Slot:
        """A place whose actor has just given a sign of life. One that gives none is replaced, and was no fault of the call that was to be its next."""
        while True:
            slot = await self._acquire(avoid)
            handle, alive = slot.handle, False
            try:
                alive = self.resting or self.asleep or await self._lives(handle)
            finally:
                fit = alive and slot.serving and slot.handle is handle
                if not fit:
                    self._release(slot)
            if fit:
                return slot

    async def _acquire_alone(self, avoid: Sequence[Slot]) -> Slot:
        """A living actor that works on nothing else, for one call at a time; the others have their turn meanwhile."""
        await self._one_alone.acquire()
        try:
            while True:
                slot = await self._acquire_living(avoid)
                handle, slot.reserved = slot.handle, True
                try:
                    while slot.serving and slot.busy > 1:
                        await asyncio.sleep(0.02)
                    if slot.serving and slot.handle is handle:
                        return slot
                except BaseException:
                    slot.reserved = False
                    self._release(slot)
                    raise
                slot.reserved = False
                self._release(slot)
        except BaseException:
            self._one_alone.release()
            raise

    def _end_reservation(self, slot: Slot) -> None:
        slot.reserved = False
        self._one_alone.release()

    async def _lives(self, handle: Any) -> bool:
        """Whether the actor answers; it is out of service when it does not. While the pool rests or sleeps, nobody is judged."""
        from ray.exceptions import RayError

        try:
            await self._bounded(handle.check.remote(), self.heartbeat_s or SIGN_S, f"a sign of life of {self.name}")
        except (RayError, TimeoutError) as error:
            if not (self.resting or self.asleep):
                self._out_of_service(handle, error, own=True)
                return False
        return True

    async def _acquire(self, avoid: Sequence[Slot] = ()) -> Slot:
        """A place with room. `avoid`: where the call has failed before; only where no other is left it goes there again."""
        slot = self._least_loaded(avoid)
        if slot is not None:
            slot.busy += 1
            return slot
        self._check_not_lost()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, tuple(avoid)))
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
        passed = []
        while self._waiting and self._least_loaded():
            turn, avoid = self._waiting.popleft()
            if turn.done():
                continue
            if slot := self._least_loaded(avoid):
                slot.busy += 1
                turn.set_result(slot)
            else:
                passed.append((turn, avoid))
        self._waiting.extendleft(reversed(passed))

    def _least_loaded(self, avoid: Sequence[Slot] = ()) -> Slot | None:
        if all(slot.lost or slot in avoid for slot in self.slots):
            avoid = ()
        free = [slot for slot in self.slots if slot.serving and not slot.reserved and slot.busy < self.capacity and slot not in avoid]
        return min(free, key=lambda slot: slot.busy) if free else None

    # ---- failure

    def failed(self, handle: Any, why: Exception) -> None:
        """Take an actor out of service that failed by itself, and begin to replace it. On the loop's thread."""
        self._out_of_service(handle, why, own=True)

    def _out_of_service(self, handle: Any, why: Exception, *, own: bool) -> None:
        """Once, however many of its calls failed together. `own`: it is known to be the actor's fault."""
        slot = next((slot for slot in self.slots if slot.handle is handle and slot.serving), None)
        if slot is not None and not self.closed:
            slot.serving = False
            self._begin(self._replace(slot, why, own=own))

    async def _replace(self, slot: Slot, failure: BaseException, *, own: bool) -> None:
        """Put a new actor into the slot. After too many faults of its own in a row it is given up, and tried again now and then."""
        import ray

        if own:
            slot.blame(slot.handle)
        while True:
            ray.kill(slot.handle)
            if slot.failures > self.max_restarts:
                self._give_up(slot, failure)
            self.restarts += 1
            log.log(
                logging.DEBUG if slot.lost else logging.WARNING,
                "%s %d failed (%s): it is started again%s",
                self.name,
                slot.number,
                what_it_says(failure),
                f", {slot.failures} of {self.max_restarts} times for itself" if slot.failures else "",
            )
            await asyncio.sleep(RETRY_S if slot.lost else BACKOFF_S[min(slot.failures, len(BACKOFF_S) - 1)])
            slot.handle = self.create(slot.number)
            # Whatever a start raises (each library has errors of its own), the cure is the same.
            try:
                await self._enter_service(slot)
            except Exception as error:
                failure = error
                slot.blame(slot.handle)
                continue
            slot.failures, slot.lost = min(slot.failures, self.max_restarts), False
            log.info("%s %d serves again", self.name, slot.number)
            return

    def _give_up(self, slot: Slot, failure: BaseException) -> None:
        if slot.lost:
            return
        slot.lost = True
        self._last_failure = f"{self.name} {slot.number} failed {slot.failures} times in a row, last: {what_it_says(failure)}"
        left = sum(not other.lost for other in self.slots)
        log.error("%s: %d of %d are left, and it is tried again every %g s", self._last_failure, left, len(self.slots), RETRY_S)
        self._tell_the_waiting()

    def _tell_the_waiting(self) -> None:
        try:
            self._check_not_lost()
        except PoolError as error:
            while self._waiting:
                turn, _ = self._waiting.popleft()
                if not turn.done():
                    turn.set_exception(error)
        else:
            self._hand_out()

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
        """The answer. Time in which this process itself stood still (a paused machine, a debugger, no core for it) hardly counts: it says nothing of the
        actor, whose answer may have come meanwhile."""
        answer, clock = asyncio.ensure_future(_as_future(ref)), asyncio.get_running_loop().time
        left_s = deadline_s
        try:
            while left_s > 0:
                slice_s, began = min(left_s, deadline_s / SLICES), clock()
                if (await asyncio.wait([answer], timeout=slice_s))[0]:
                    return answer.result()
                left_s -= slice_s if clock() - began < 2 * slice_s + STILL_S else slice_s / STILL_COUNTS
        finally:
            answer.cancel()
        raise TimeoutError(f"waited {deadline_s:.0f} s for {what}")


def lost() -> tuple[type[Exception], ...]:
    """What says that an actor is gone (killed by Ray's memory monitor, among others) or hangs."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    return RayActorError, OutOfMemoryError, TimeoutError


def what_it_says(error: BaseException) -> str:
    """An error in one line, without the traceback that Ray puts before it."""
    cause = getattr(error, "cause", None)  # of a RayTaskError, which itself begins with a traceback
    error = cause if isinstance(cause, Exception) else error
    text = next((part for part in error.args if isinstance(part, str)), str(error))
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), type(error).__name__)


async def _as_future(ref: Any) -> Any:
    return await ref
