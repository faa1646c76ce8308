"""The pool against actors of this process: dispatch, replay, restart, heartbeat, and what is left when all is lost."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from rlvid.actors import pool as pools
from rlvid.actors.pool import ActorPool, CallFailed, PoolError


class FakeActor:
    """Answers `work(x)` with (own name, x). `dies_on`: arguments that take it down; `slow_on`: those that it works at for a minute; `hangs`: it answers
    nothing; `freezes`: from its first work on."""

    def __init__(self, name, dies_on=(), hangs=False, dead_at_start=False, dies_of=RayActorError, slow_on=(), freezes=False):
        self.dies_of, self.slow_on, self.freezes = dies_of, set(slow_on), freezes
        self.name, self.dies_on, self.hangs, self.dead, self.dead_at_start = name, set(dies_on), hangs, False, dead_at_start
        self.calls, self.now, self.most_at_once = 0, 0, 0
        self.start = Method(self._start)
        self.check = Method(self._check)
        self.stop = Method(self._check)
        self.work = Method(self._work)

    async def _start(self):
        if self.dead_at_start:
            await asyncio.sleep(0.05)
            raise RayActorError()
        return self.name

    async def _check(self):
        if self.hangs:
            await asyncio.sleep(60)
        if self.dead:
            raise RayActorError()

    async def _work(self, x):
        self.calls += 1
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            self.hangs = self.hangs or self.freezes
            if self.hangs or x in self.slow_on:
                await asyncio.sleep(60)
            await asyncio.sleep(0.001 * (x % 3) if isinstance(x, int) else 0)
            self.dead = self.dead or x in self.dies_on
            if self.dead:
                raise self.dies_of()
            return self.name, x
        finally:
            self.now -= 1


class Ref:
    """Like Ray's: who stops waiting for the answer does not stop the work, and may wait for it again."""

    def __init__(self, work):
        self.work = asyncio.ensure_future(work)

    def __await__(self):
        return asyncio.shield(self.work).__await__()


class Method:
    def __init__(self, function):
        self.remote = lambda *arguments: Ref(function(*arguments))

    def options(self, num_returns):
        return self


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("ray.kill", lambda handle: setattr(handle, "dead", True))
    monkeypatch.setattr(pools, "BACKOFF_S", (0.0,))
    monkeypatch.setattr(pools, "SIGN_S", 0.2)
    monkeypatch.setattr(pools, "STRAGGLER_S", 0.1)


def open_pool(make, size=2, **options):
    settings = {"capacity": 2, "deadline_s": 5, "start_deadline_s": 5, "max_restarts": 2} | options
    return ActorPool("engine", size, make, **settings)


def run(pool, work):
    async def whole():
        await pool.start()
        try:
            return await asyncio.wait_for(work(), 20)
        finally:
            for task in list(pool._tasks):
                task.cancel()

    return asyncio.run(whole())


def test_all_calls_are_answered_once_within_capacity():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number)) or made[-1], size=3)
    answers = run(pool, lambda: asyncio.gather(*[pool.call("work", x) for x in range(100)]))
    assert [x for _, x in answers] == list(range(100))
    assert all(actor.most_at_once == 2 and actor.calls >= 25 for actor in made) and sum(actor.calls for actor in made) == 100


def test_a_dead_actor_is_replaced_and_its_calls_are_replayed_elsewhere():
    made = []

    def make(number):
        made.append(FakeActor((number, len(made)), dies_on={7} if not made else ()))
        return made[-1]

    prepared = []

    async def prepare(handle):
        prepared.append(handle)

    pool = open_pool(make, prepare=prepare)

    async def work():
        answers = await asyncio.gather(*[pool.call("work", x) for x in [7, *range(50)]])
        while len(pool.handles) < 2:
            await asyncio.sleep(0.01)
        return answers

    answers = run(pool, work)
    assert [x for _, x in answers] == [7, *range(50)]
    assert pool.restarts == 1 and len(made) == 3 and prepared == [made[2]]


def test_a_call_that_kills_every_actor_fails_alone():
    pool = open_pool(lambda number: FakeActor(number, dies_on={13}))

    async def one(x):
        try:
            return await pool.call("work", x)
        except CallFailed as error:
            return str(error)

    answers = run(pool, lambda: asyncio.gather(*[one(x) for x in range(13, 60)]))
    assert "(3 attempts)" in answers[0] and all(isinstance(answer, tuple) for answer in answers[1:])
    assert pool.restarts == 3


def test_the_pool_goes_on_while_one_lives_and_says_why_when_none_does():
    """Actor 0 never comes back. Then the other one does not either."""
    made = []

    def make(number):
        first = len(made) < 2
        made.append(FakeActor(number, dies_on={0} if number == 0 else {1}, dead_at_start=not first))
        return made[-1]

    pool = open_pool(make, attempts=4)

    async def work():
        answers = await asyncio.gather(*[pool.call("work", x) for x in [0, *range(2, 20)]])
        assert [x for _, x in answers] == [0, *range(2, 20)]
        while not pool.slots[0].lost:
            await asyncio.sleep(0.01)
        assert await pool.call("work", 5) == (1, 5)
        with pytest.raises(PoolError, match=r"no engine is left: engine 1 failed 3 times in a row"):
            await pool.call("work", 1)
        with pytest.raises(PoolError, match="no engine is left"):
            await pool.call("work", 2)

    run(pool, work)


def test_waiting_calls_are_told_when_nobody_is_left():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, dies_on={1}, dead_at_start=bool(made))) or made[-1], size=1, capacity=1, attempts=5)
    answers = run(pool, lambda: asyncio.gather(*[pool.call("work", 1) for _ in range(5)], return_exceptions=True))
    assert all(isinstance(answer, PoolError) for answer in answers)


def test_the_heartbeat_finds_an_idle_actor_that_hangs():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, hangs=not made)) or made[-1], heartbeat_s=0.05)

    async def work():
        while pool.restarts == 0 or len(pool.handles) < 2:
            await asyncio.sleep(0.01)

    run(pool, work)
    assert pool.restarts == 1 and len(made) == 3


def test_no_heartbeat_while_the_pool_rests():
    pool = open_pool(lambda number: FakeActor(number, hangs=True), heartbeat_s=0.02)
    pool.resting = True
    run(pool, lambda: asyncio.sleep(0.2))
    assert pool.restarts == 0


def test_a_hanging_call_is_replayed_after_its_deadline():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, freezes=not made)) or made[-1], deadline_s=0.1)
    assert run(pool, lambda: pool.call("work", 4)) == (1, 4)


def test_a_cancelled_wait_gives_its_place_back():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number)) or made[-1], size=1, capacity=1)

    async def work():
        calls = [asyncio.ensure_future(pool.call("work", x)) for x in range(60)]
        for call in random.Random(0).sample(calls, 30):
            await asyncio.sleep(0)
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert pool.slots[0].busy == 0
        return [answer for answer in answers if isinstance(answer, tuple)]

    assert len(run(pool, work)) >= 30


def test_an_actor_may_join():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number)) or made[-1], size=1, capacity=1)

    async def work():
        calls = [asyncio.ensure_future(pool.call("work", x)) for x in range(30)]
        await pool.add(1)
        return await asyncio.gather(*calls)

    assert {name for name, _ in run(pool, work)} == {0, 1}


def test_an_actor_that_the_memory_monitor_killed_is_replaced():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, dies_on=() if made else {7}, dies_of=lambda: OutOfMemoryError("too much"))) or made[-1])
    answers = run(pool, lambda: asyncio.gather(*[pool.call("work", x) for x in [7, *range(20)]]))
    assert [x for _, x in answers] == [7, *range(20)] and pool.restarts == 1


def test_an_actor_that_hangs_in_a_cancelled_call_is_replaced():
    """Its place stays taken until then: nothing waits behind a call that hangs."""
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, freezes=not made)) or made[-1], size=1, capacity=1, deadline_s=0.3)

    async def work():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.call("work", 3), 0.05)
        assert pool.slots[0].busy == 1
        answer = await pool.call("work", 4)
        return answer, pool.restarts, made[0].calls

    assert run(pool, work) == ((0, 4), 1, 1)


def test_nobody_is_replaced_at_the_end():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, dies_on={7})) or made[-1], attempts=1)

    async def work():
        pool.close()
        with pytest.raises(CallFailed):
            await pool.call("work", 7)

    run(pool, work)
    assert pool.restarts == 0 and len(made) == 2


def test_those_who_wait_are_told_when_the_last_hope_could_not_join():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, dies_on={1}, dead_at_start=bool(made))) or made[-1], size=1, max_restarts=0, attempts=3)

    async def work():
        joining = asyncio.ensure_future(pool.add(1))
        waiting = asyncio.ensure_future(pool.call("work", 1))
        with pytest.raises(RayActorError):
            await joining
        with pytest.raises(PoolError):
            await asyncio.wait_for(waiting, 5)

    run(pool, work)


# ---- input or actor


def outcomes(pool, inputs, **options):
    """(what came of each call, the pool) when all are asked at once."""

    async def one(x):
        try:
            return await pool.call("work", x, **options)
        except CallFailed as error:
            return str(error)

    return run(pool, lambda: asyncio.gather(*[one(x) for x in inputs]))


def test_slow_and_deadly_inputs_never_cost_a_healthy_one_its_answer_nor_an_actor_its_place():
    """Every tenth input is slow, every twentieth kills whoever touches it: more than enough in a row to use up `max_restarts`."""
    bad = {x: "slow" if x % 10 == 0 else "deadly" for x in range(400) if x % 10 == 0 or x % 20 == 5}
    slow, deadly = ({x for x, kind in bad.items() if kind == what} for what in ("slow", "deadly"))
    pool = open_pool(lambda number: FakeActor(number, dies_on=deadly, slow_on=slow), size=4, capacity=1, deadline_s=0.05, max_restarts=1)
    answers = outcomes(pool, range(400))
    assert [x for x, answer in enumerate(answers) if isinstance(answer, str)] == sorted(bad)
    assert all("not done within 0.05 s" in answers[x] for x in slow) and all("(2 attempts)" in answers[x] for x in deadly)
    assert not any(slot.lost or slot.failures for slot in pool.slots)
    assert pool.restarts == len(slow) + 2 * len(deadly), "a slow input costs one deadline and one restart"


def test_neighbours_of_a_deadly_call_are_not_quarantined_with_it():
    """Sixteen calls share each actor, and go from one to the next together."""
    pool = open_pool(lambda number: FakeActor(number, dies_on={13, 77, 140}), size=3, capacity=16, attempts=3)
    answers = outcomes(pool, range(200))
    assert [x for x, answer in enumerate(answers) if isinstance(answer, str)] == [13, 77, 140]


def test_a_call_that_waits_is_never_given_the_actor_that_just_died():
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number, dies_on={7} if not made else ())) or made[-1], size=1, capacity=1)
    answers = outcomes(pool, [7, 1, 2, 3])
    assert [x for _, x in answers] == [7, 1, 2, 3]
    assert made[0].calls == 1, "only the call that took it down reached it"


def test_actors_that_died_idle_are_no_fault_of_the_next_call():
    """A node goes with three of four actors: more than a call has attempts."""
    made = []
    pool = open_pool(lambda number: made.append(FakeActor(number)) or made[-1], size=4, capacity=1, attempts=2)

    async def work():
        for actor in made[:3]:
            actor.dead = True
        return await asyncio.gather(*[pool.call("work", x) for x in range(20)])

    assert [x for _, x in run(pool, work)] == list(range(20))


def test_a_death_is_one_failure_however_many_calls_were_with_it():
    """Sixteen calls are on the actor that dies; all of them succeed elsewhere."""
    made = []
    pool = open_pool(lambda number: made.append(FakeActor((number, len(made)), dies_on={0} if not made else ())) or made[-1], capacity=16, max_restarts=2)

    async def work():
        answers = await asyncio.gather(*[pool.call("work", x) for x in range(32)])
        while len(pool.handles) < 2:
            await asyncio.sleep(0.01)
        return answers

    assert [x for _, x in run(pool, work)] == list(range(32))
    assert pool.restarts == 1 and [slot.failures for slot in pool.slots] == [1, 0]


def test_a_broken_place_is_given_up_and_tried_again(monkeypatch):
    """Everything dies at actor 0, nothing at actor 1; after a while the place is mended."""
    monkeypatch.setattr(pools, "RETRY_S", 0.3)
    mended = []
    pool = open_pool(lambda number: FakeActor(number, dies_on=() if number or mended else range(10**6)), capacity=1, max_restarts=2)

    async def work():
        answered = []
        while not pool.slots[0].lost:
            answered += await asyncio.gather(*[pool.call("work", x) for x in (1, 2)])
            await asyncio.sleep(0.01)
        mended.append(True)
        while len(pool.handles) < 2:
            await asyncio.sleep(0.01)
        return answered + await asyncio.gather(*[pool.call("work", x) for x in range(20)])

    answered = run(pool, work)
    assert {name for name, _ in answered[:-20]} == {1} and {name for name, _ in answered[-20:]} == {0, 1}
    assert not any(slot.lost for slot in pool.slots)


def test_patience_ends_a_wait_without_ending_the_actor():
    """Time in the queue does not count."""
    pool = open_pool(lambda number: FakeActor(number, slow_on={1000}), size=1, capacity=1, deadline_s=5)

    async def work():
        queued = [asyncio.ensure_future(pool.call("work", x, patience_s=0.15)) for x in range(2, 200, 3)]
        answers = await asyncio.gather(*queued)
        with pytest.raises(TimeoutError):
            await pool.call("work", 1000, patience_s=0.05)
        return answers

    assert len(run(pool, work)) == 66 and pool.restarts == 0


# ---- a start


def test_a_quorum_begins_and_the_others_come_later():
    made = []

    def make(number):
        made.append(FakeActor(number, dead_at_start=number == 2 and len(made) == 2))
        return made[-1]

    prepared = []

    async def prepare(handle):
        prepared.append(handle.name)

    pool = open_pool(make, size=4, quorum=0.75, prepare=prepare)

    async def work():
        while len(pool.handles) < 4:
            await asyncio.sleep(0.01)

    run(pool, work)
    assert [actor.name for actor in made] == [0, 1, 2, 3, 2] and prepared == [2]


def test_who_starts_slowly_is_not_waited_for():
    class Sleeper(FakeActor):
        async def _start(self):
            await asyncio.sleep(1 if self.name == 3 else 0)
            return self.name

    pool = open_pool(lambda number: Sleeper(number), size=4, quorum=0.75)

    async def work():
        first = len(pool.handles)
        while len(pool.handles) < 4:
            await asyncio.sleep(0.01)
        return first

    assert run(pool, work) == 3 and pool.restarts == 0


def test_below_the_quorum_the_run_ends():
    pool = open_pool(lambda number: FakeActor(number, dead_at_start=number in (1, 2)), size=4, quorum=0.75)
    with pytest.raises(PoolError, match=r"engine [12] died while it started"):
        run(pool, lambda: asyncio.sleep(0))


def test_time_in_which_the_driver_stood_still_is_not_held_against_an_actor():
    """A machine that is paused, a debugger: the answer is there when it goes on, beside a deadline that is long over. One that hangs is found all the same."""

    async def scenario():
        actor = FakeActor("a")
        actor.work = Method(lambda x: asyncio.sleep(x, "done"))
        pool = ActorPool("test actor", 1, lambda number: actor, capacity=4, deadline_s=0.5, start_deadline_s=9, max_restarts=0, attempts=1)
        await pool.start()
        asyncio.get_running_loop().call_later(0.1, time.sleep, 3)
        assert await pool.call("work", 0.3) == "done"
        began = time.monotonic()
        with pytest.raises((CallFailed, PoolError)):
            await pool.call("work", 60)
        assert time.monotonic() - began < 5
        pool.close()

    asyncio.run(scenario())
