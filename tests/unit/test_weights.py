"""Pushing weights where engines fail in it: what is replaced, what is pushed again, and what a new engine gets before it serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from ray.exceptions import RayActorError, RayTaskError

from rlvid.loop.push import SyncError, Weights


class Engine:
    """Holds a version; `broken`: it fails when weights come, `deaf`: it takes none, `frozen`: it never answers."""

    def __init__(self, broken=False, deaf=False, frozen=False):
        self.broken, self.deaf, self.frozen, self.version, self.dead = broken, deaf, frozen, 0, False
        self.weights_state = SimpleNamespace(remote=lambda verify: Asked(self, self.state))
        self.check = SimpleNamespace(remote=lambda: Asked(self, lambda: self.version))
        self.paused = False
        self.go_on = SimpleNamespace(remote=self._go_on)

    def _go_on(self):
        self.paused = False
        return Asked(self, lambda: None)

    def state(self):
        if self.broken:
            raise RayActorError()
        return self.version, "c0ffee"


class Asked(NamedTuple):
    """Stands for Ray's reference to an answer."""

    engine: Engine
    answer: Callable[[], object]


class Learner:
    """Pushes to what it is connected to; one broken engine spoils the push for all."""

    def __init__(self):
        self.at, self.connected, self.pushes = 1, [], 0

    def connect(self, engines, widths):
        assert not any(engine.frozen for engine in engines), "the transfer would wait for it until its own deadline"
        self.connected = list(engines)

    def send_weights(self):
        self.pushes += 1
        for engine in self.connected:
            engine.paused = True
        if any(engine.broken for engine in self.connected):
            raise RayTaskError("send_weights", "a traceback\nConnectionError: peer closed", ConnectionError("peer closed"))
        for engine in self.connected:
            if not engine.deaf:
                engine.version, engine.paused = self.at, False
        return SimpleNamespace(version=self.at, checksum="c0ffee", bytes=8, pause_s=0.5)

    def checksum(self):
        return "c0ffee"

    def layout(self):
        return None

    def version(self):
        return self.at


class Pool:
    """`replace`: what comes in the place of an engine that failed; None: nobody."""

    start_deadline_s = 0.5

    def __init__(self, engines, replace=lambda: Engine()):
        self.engines, self.replace, self.resting, self.out = list(engines), replace, False, []

    @property
    def handles(self):
        return [engine for engine in self.engines if not engine.dead]

    @property
    def slots(self):
        return [SimpleNamespace(lost=engine.dead) for engine in self.engines]

    def failed(self, engine, why):
        if engine not in self.engines:
            return
        self.out.append((engine, str(why)))
        new = self.replace()
        if new is None:
            engine.dead = True
        else:
            self.engines[self.engines.index(engine)] = new


@pytest.fixture
def made(monkeypatch):
    """make(engines, **pool) -> (weights, pool, learner), on a loop that runs."""

    def wait(refs, num_returns, timeout):
        return [ref for ref in refs if not ref.engine.frozen], [ref for ref in refs if ref.engine.frozen]

    monkeypatch.setattr("ray.get", lambda refs, timeout=None: [ref.answer() for ref in refs] if isinstance(refs, list) else refs.answer())
    monkeypatch.setattr("ray.wait", wait)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    rollout = SimpleNamespace(max_restarts=2, heartbeat_s=5, tensor_parallel=1)
    config = SimpleNamespace(rollout=rollout, sync=SimpleNamespace(verify=True, deadline_s=5), colocated=False)

    def make(*engines, **options):
        pool, learner = Pool(engines, **options), Learner()
        return Weights(config, pool, learner, loop), pool, learner

    yield make
    loop.call_soon_threadsafe(loop.stop)


def test_all_engines_get_the_version(made):
    weights, pool, learner = made(Engine(), Engine())
    weights.push()
    learner.at = 2
    weights.push()
    assert weights.version == 2 and {engine.version for engine in pool.handles} == {2} and learner.pushes == 2
    assert weights.costs == {"sync/bytes": 8.0, "sync/pause_s": 0.5} and not pool.resting


def test_an_engine_that_dies_in_a_push_is_replaced_and_all_others_too_that_missed_it(made):
    broken = Engine(broken=True)
    weights, pool, learner = made(Engine(), broken)
    weights.push()
    assert learner.pushes == 2 and len(pool.out) == 2 and "peer closed" in pool.out[0][1]
    assert broken not in pool.handles and {engine.version for engine in pool.handles} == {1}


def test_an_engine_that_stays_behind_is_replaced_alone(made):
    whole, deaf = Engine(), Engine(deaf=True)
    weights, pool, _ = made(whole, deaf)
    weights.push()
    assert [engine for engine, _ in pool.out] == [deaf] and whole in pool.handles and weights.version == 1


def test_a_push_that_never_works_ends_with_a_word(made):
    weights, _, learner = made(Engine(broken=True), replace=lambda: Engine(broken=True))
    with pytest.raises(SyncError, match="did not take the new weights in 3 attempts"):
        weights.push()
    assert learner.pushes == 3


def test_without_engines_a_push_ends_at_once(made):
    weights, _, _ = made(Engine(broken=True), replace=lambda: None)
    with pytest.raises(SyncError, match="no rollout engine is left"):
        weights.push()


def test_a_new_engine_gets_the_weights_before_it_serves(made):
    """By a transfer of its own: the others are not even connected, and its version may be ahead of theirs."""
    weights, pool, learner = made(*[Engine() for _ in range(4)])
    weights.push()
    learner.at = 2
    new = Engine()
    asyncio.run(weights.bring_up_to_date(new))
    assert learner.connected == [new] and {engine.version for engine in pool.handles} == {1} and weights.version == 1
    assert new.version == 2 and new not in pool.handles
    learner.at = 2
    weights.push()
    assert {engine.version for engine in pool.handles} == {2}
    learner.at = 3
    weights.push()
    assert new.version == 3, "it takes part in every push from then on"


def test_a_new_engine_that_fails_leaves_the_others_at_work(made):
    weights, pool, _ = made(Engine())
    weights.push()
    with pytest.raises(SyncError):
        asyncio.run(weights.bring_up_to_date(Engine(broken=True)))
    (serving,) = pool.handles
    assert serving.version == 1 and not serving.paused and not pool.out


def test_a_silent_engine_is_replaced_before_anything_waits_for_it(made):
    alive, frozen = Engine(), Engine(frozen=True)
    weights, pool, learner = made(alive, frozen)
    weights.push()
    assert [engine for engine, _ in pool.out] == [frozen] and "no sign of life before new weights" in pool.out[0][1]
    assert learner.pushes == 1 and alive in pool.handles and {engine.version for engine in pool.handles} == {1} and not pool.resting


def test_a_new_engine_does_not_fail_because_another_one_is_silent(made):
    serving, new = Engine(), Engine()
    weights, pool, _ = made(serving)
    weights.push()
    serving.frozen = True
    asyncio.run(weights.bring_up_to_date(new))
    assert new.version == 1 and not pool.out


def test_a_new_engine_that_is_silent_itself_does_not_serve(made):
    weights, pool, _ = made(Engine())
    weights.push()
    with pytest.raises(SyncError, match="did not take the weights"):
        asyncio.run(weights.bring_up_to_date(Engine(frozen=True)))
    assert not pool.out, "it never served: who waits for it replaces it"
