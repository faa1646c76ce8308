"""Everything a run starts and must end: Ray, the two actor pools, the learner. `with open_session(config) as session:`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from rlvid.actors.placement import Places, connect, place
from rlvid.actors.pool import ActorPool
from rlvid.actors.rollout import RolloutActor, rollout_environment
from rlvid.actors.sampler import Sampler
from rlvid.actors.teacher import TeacherActor, teacher_environment
from rlvid.actors.variant import VariantActor, variant_environment
from rlvid.config import Config, ConfigError
from rlvid.learner.group import LearnerGroup, learner_environment
from rlvid.learner.rank import Rank

log = logging.getLogger("rlvid")


TEACHER_GRACE_S = 30
"""A teacher actor that answers nothing for so long after its own deadline hangs, and is replaced."""


class SyncError(RuntimeError):
    """An engine does not hold the weights it should."""


@dataclass
class Session:
    """The running parts. `version` is the weights' version on all engines, `sync_s` what the last sync took."""

    config: Config
    variants: ActorPool
    rollouts: ActorPool
    sampler: Sampler
    learner: LearnerGroup | None = None
    teachers: ActorPool | None = None
    version: int = 0
    connected: list[Any] = field(default_factory=list)
    sockets: str = ""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def pools(self) -> list[ActorPool]:
        """All actor pools that this run has."""
        return [pool for pool in (self.rollouts, self.variants, self.teachers) if pool is not None]

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the session's event loop and wait for it here."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def sync(self, version: int) -> None:
        """Push the learner's weights to every engine as `version` and see that they arrived."""
        assert self.learner is not None
        if self.connected != self.rollouts.handles:
            self.learner.connect(self.rollouts.handles, [self.config.rollout.tensor_parallel] * self.config.rollout.engines)
            self.connected = self.rollouts.handles
        sent = self.learner.send_weights(version)
        self.version = version
        self.verify(sent)

    def verify(self, checksum: str) -> None:
        """Raise SyncError unless every engine echoes the version and (sync.verify) the learner's checksum."""
        import ray

        states = ray.get([engine.weights_state.remote(self.config.sync.verify) for engine in self.rollouts.handles], timeout=self.config.sync.deadline_s)
        for number, (version, loaded) in enumerate(states):
            if version != self.version:
                raise SyncError(f"rollout engine {number} serves version {version}, not {self.version}")
            if loaded is not None and loaded != checksum:
                raise SyncError(f"rollout engine {number} loaded weights with checksum {loaded}, the learner sent {checksum}")
        log.debug("weights version %d on %d engines, %s", self.version, len(states), f"checksum {checksum}" if self.config.sync.verify else "not compared")


@contextlib.contextmanager
def open_session(config: Config, *, with_learner: bool = True) -> Iterator[Session]:
    """Start all actors (engines, variant actors and learner at the same time); end them all, however it goes."""
    _check_model(config)
    connect(config)
    import ray

    _end_on_sigterm()
    session: Session | None = None
    try:
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

    sockets = os.path.join(tempfile.gettempdir(), f"rlvid-{secrets.token_hex(4)}")

    def make_rollout(number: int) -> Any:
        needs = {"num_cpus": config.rollout.num_cpus, "num_gpus": config.rollout.num_gpus}
        options = places.at(places.rollout[number], **needs, env=rollout_environment(config, sockets))
        return rollout.options(**options, max_concurrency=1000).remote(config, number)

    def make_variant(number: int) -> Any:
        needs = {"num_cpus": config.variants.num_cpus, "num_gpus": config.relevance.num_gpus}
        return variant.options(**places.at(places.variant[number], **needs, env=variant_environment(config))).remote(config, number)

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
        capacity=max(1, 2 * config.rollout.max_sequences // config.rollout.answers),
        deadline_s=config.rollout.deadline_s,
        start_deadline_s=config.rollout.start_deadline_s,
        max_restarts=config.rollout.max_restarts,
    )
    teachers = _teacher_pool(config, places, sockets) if config.repair.enabled and with_learner else None
    ranks = learner_group(config, places) if with_learner else None
    return Session(config, variants, rollouts, Sampler(config, variants, rollouts, teachers), ranks, teachers, sockets=sockets)


def learner_group(config: Config, places: Places) -> LearnerGroup:
    """The learner's ranks at their places, not yet started."""
    import ray

    rank = ray.remote(Rank)
    needs = {"num_cpus": config.learner.num_cpus, "num_gpus": config.learner.num_gpus}
    at = [places.at(place, **needs, env=learner_environment(config)) for place in places.learner]
    return LearnerGroup(config, [rank.options(**options).remote(config, number) for number, options in enumerate(at)])


def _teacher_pool(config: Config, places: Places, sockets: str) -> ActorPool:
    import ray

    teacher = ray.remote(TeacherActor)

    def make(number: int) -> Any:
        needs = {"num_cpus": config.teacher.num_cpus, "num_gpus": config.teacher.num_gpus}
        options = places.at(places.teacher[number], **needs, env=teacher_environment(config, f"{sockets}-teacher"))
        return teacher.options(**options, max_concurrency=1000).remote(config, number)

    return ActorPool(
        "teacher actor",
        config.teacher.actors,
        make,
        capacity=config.teacher.concurrency,
        deadline_s=config.teacher.deadline_s + TEACHER_GRACE_S,
        start_deadline_s=config.teacher.start_deadline_s,
        max_restarts=config.teacher.max_restarts,
    )


def _start(session: Session) -> None:
    """Engines and variant actors start while the learner does."""

    async def start_pools() -> None:
        await asyncio.gather(*[pool.start() for pool in session.pools])

    async def bring_up_to_date(handle: Any) -> None:
        if session.version > 0 and session.learner is not None:
            await asyncio.to_thread(session.sync, session.version)

    session.rollouts.prepare = bring_up_to_date
    pools = asyncio.run_coroutine_threadsafe(start_pools(), session.loop)
    if session.learner is not None:
        log.info("learner: %s parameters", f"{session.learner.start():,}")
    pools.result()


def _stop(session: Session) -> None:
    for pool in session.pools:
        pool.stop()
    if session.learner is not None:
        session.learner.stop()
    session.loop.call_soon_threadsafe(session.loop.stop)
    shutil.rmtree(session.sockets, ignore_errors=True)  # of engines that were killed
