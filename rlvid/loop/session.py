"""Everything a run starts and must end: Ray, the two actor pools, the learner. `with open_session(config) as session:`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rlvid.actors.placement import Places, connect, place, room_for_an_engine
from rlvid.actors.pool import ActorPool, what_it_says
from rlvid.actors.rollout import RolloutActor, rollout_environment
from rlvid.actors.sampler import Sampler
from rlvid.actors.teacher import TeacherActor, teacher_environment
from rlvid.actors.variant import VariantActor, variant_environment
from rlvid.config import Config, ConfigError
from rlvid.learner.group import LearnerGroup, learner_environment
from rlvid.learner.rank import Rank
from rlvid.loop.push import Weights

log = logging.getLogger("rlvid")


TEACHER_GRACE_S = 30
"""A teacher actor that answers nothing for so long after its own deadline hangs, and is replaced."""


@dataclass
class Session:
    """The running parts. `weights` brings the learner's to the engines; None where there is no learner."""

    config: Config
    places: Places
    variants: ActorPool
    rollouts: ActorPool
    sampler: Sampler
    learner: LearnerGroup | None = None
    teachers: ActorPool | None = None
    weights: Weights | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    joins: Future[None] | None = None
    ending: bool = False
    waits: set[Future[Any]] = field(default_factory=set)

    @property
    def pools(self) -> list[ActorPool]:
        """All actor pools that this run has."""
        return [pool for pool in (self.rollouts, self.variants, self.teachers) if pool is not None]

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the session's event loop and wait for it here, in whichever thread."""
        if self.ending:
            work.close()
            raise CancelledError
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self.waits.add(future)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            self.waits.discard(future)

    def cancel_waits(self) -> None:
        """End every `wait` in other threads with CancelledError, now and from now on: the session is about to end."""
        self.ending = True
        for future in list(self.waits):
            future.cancel()

    def sync(self) -> None:
        """Push the learner's weights to every engine and see that they arrived. Raises SyncError."""
        assert self.weights is not None
        self.weights.push()

    def verify(self, checksum: str) -> None:
        """Raise SyncError unless every engine holds the weights with this checksum."""
        assert self.weights is not None
        self.weights.verify(checksum)

    async def let_engines_join(self) -> None:
        """Engines beyond rollout.engines, up to rollout.max_engines, one after the other as the cluster has room for them."""
        while len(self.places.rollout) < self.config.rollout.max_engines:
            place = await room_for_an_engine(self.config)
            self.places.rollout.append(place)
            number = len(self.places.rollout) - 1
            # One that cannot start leaves the run as it was; whatever the reason, the run must not end for it.
            try:
                await self.rollouts.add(number)
            except Exception as error:
                log.warning("rollout engine %d could not join: %s", number, what_it_says(error))
                place.give_back()
            else:
                log.info("rollout engine %d joined", number)


@contextlib.contextmanager
def open_session(config: Config, *, with_learner: bool = True) -> Iterator[Session]:
    """Start all actors (engines, variant actors and learner at the same time); end them all, however it goes."""
    checked = ThreadPoolExecutor(1).submit(_check_model, config)  # while Ray starts, which is mostly waiting
    connect(config)
    import ray

    _end_on_sigterm()
    session: Session | None = None
    try:
        checked.result()
        session = _create(config, place(config), with_learner)
        threading.Thread(target=session.loop.run_forever, daemon=True, name="rlvid-loop").start()
        _start(session)
        yield session
    finally:
        if session is not None:
            _stop(session)
        ray.shutdown()


def _end_on_sigterm() -> None:
    """SIGTERM ends a run like Ctrl-C, actors and all. Ray puts its own handler in place when it starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _check_model(config: Config) -> None:
    """Refuse a checkpoint that is not there, or whose video pixels the engine would normalize differently."""
    from rlvid.doctor import pixel_normalisation_problem

    problem = pixel_normalisation_problem(config.model.path)
    if problem:
        raise ConfigError(f"model.path: {problem}")


def _create(config: Config, places: Places, with_learner: bool) -> Session:
    import ray

    rollout, variant = ray.remote(RolloutActor), ray.remote(VariantActor)

    def make_rollout(number: int) -> Any:
        options = places.rollout[number].options(rollout_environment(config))
        return rollout.options(**options, max_concurrency=1000).remote(config, number)

    def make_variant(number: int) -> Any:
        return variant.options(**places.variant[number].options(variant_environment(config))).remote(config, number)

    variants = ActorPool(
        "variant actor",
        config.variants.actors,
        make_variant,
        capacity=1,
        deadline_s=config.video.deadline_s,
        start_deadline_s=config.rollout.start_deadline_s,
        max_restarts=config.rollout.max_restarts,
    )
    rollouts = ActorPool(
        "rollout engine",
        config.rollout.engines,
        make_rollout,
        capacity=1 if config.rollout.repeatable else max(1, 2 * config.rollout.max_sequences // config.rollout.answers),
        deadline_s=config.rollout.deadline_s,
        start_deadline_s=config.rollout.start_deadline_s,
        max_restarts=config.rollout.max_restarts,
        attempts=config.rollout.max_restarts + 1,
        heartbeat_s=config.rollout.heartbeat_s,
    )
    teachers = _teacher_pool(config, places) if config.repair.enabled and with_learner else None
    ranks = learner_group(config, places) if with_learner else None
    session = Session(config, places, variants, rollouts, Sampler(config, variants, rollouts, teachers), ranks, teachers)
    if ranks is not None:
        session.weights = Weights(config, rollouts, ranks, session.loop)
        rollouts.prepare = session.weights.bring_up_to_date
    return session


def learner_group(config: Config, places: Places) -> LearnerGroup:
    """The learner's ranks at their places, not yet started."""
    import ray

    rank = ray.remote(Rank)
    at = [place.options(learner_environment(config)) for place in places.learner]
    return LearnerGroup(config, [rank.options(**options).remote(config, number) for number, options in enumerate(at)])


def _teacher_pool(config: Config, places: Places) -> ActorPool:
    import ray

    teacher = ray.remote(TeacherActor)

    def make(number: int) -> Any:
        options = places.teacher[number].options(teacher_environment(config))
        return teacher.options(**options, max_concurrency=1000).remote(config, number)

    return ActorPool(
        "teacher actor",
        config.teacher.actors,
        make,
        capacity=config.teacher.concurrency,
        deadline_s=config.teacher.deadline_s + TEACHER_GRACE_S,
        start_deadline_s=config.teacher.start_deadline_s,
        max_restarts=config.teacher.max_restarts,
        heartbeat_s=config.rollout.heartbeat_s,
    )


def _start(session: Session) -> None:
    """Engines and variant actors start while the learner does."""

    async def start_pools() -> None:
        await asyncio.gather(*[pool.start() for pool in session.pools])

    pools = asyncio.run_coroutine_threadsafe(start_pools(), session.loop)
    if session.learner is not None:
        log.info("learner: %s parameters", f"{session.learner.start():,}")
    pools.result()
    session.joins = asyncio.run_coroutine_threadsafe(session.let_engines_join(), session.loop)


def _stop(session: Session) -> None:
    for pool in session.pools:
        pool.close()
    session.cancel_waits()
    if session.joins is not None:
        session.joins.cancel()
    for pool in session.pools:
        pool.stop()
    if session.learner is not None:
        session.learner.stop()
    session.loop.call_soon_threadsafe(session.loop.stop)
