"""Everything a run starts and must end: Ray, the two actor pools, the learner. `with open_session(config) as session:`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rlvid.actors import rewarder, rollout, teacher, variant
from rlvid.actors.placement import Place, connect, make, place, room_for_one_more
from rlvid.actors.pool import RETRY_S, ActorPool, what_it_says
from rlvid.actors.sampler import Sampler
from rlvid.config import Config, ConfigError
from rlvid.data.questions import most_media
from rlvid.families.checkpoint import family_of, pixel_normalisation_problem
from rlvid.learner import group
from rlvid.learner.group import LearnerGroup
from rlvid.loop.push import Weights
from rlvid.observe.strips import RAY_STANDS
from rlvid.observe.terminal import duration
from rlvid.process.role import Role

log = logging.getLogger("rlvid")


def roles(config: Config, *, with_learner: bool = True, with_engines: bool = True) -> list[Role]:
    """Who takes part in a run; without a learner nobody repairs answers, without engines there are none."""
    rewards = [rewarder.role(config)] if rewarder.needed(config) else []
    learning = [group.role(config)] + ([teacher.role(config)] if config.repair.enabled else [])
    return ([rollout.role(config)] if with_engines else []) + [variant.role(config)] + rewards + (learning if with_learner else [])


@dataclass
class Session:
    """The running parts. `weights` brings the learner's to the engines; None where one of both is missing."""

    config: Config
    roles: Sequence[Role]
    places: dict[str, list[Place]]
    variants: ActorPool
    rollouts: ActorPool | None
    sampler: Sampler
    learner: LearnerGroup | None = None
    teachers: ActorPool | None = None
    rewards: ActorPool | None = None
    weights: Weights | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    joins: Future[None] | None = None
    ending: bool = False
    waits: set[Future[Any]] = field(default_factory=set)

    @property
    def pools(self) -> list[ActorPool]:
        """All actor pools that this run has."""
        return [pool for pool in (self.rollouts, self.variants, self.rewards, self.teachers) if pool is not None]

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

    def to_learner(self) -> None:
        """Where engines and ranks share GPUs: it is the learner's turn, until `sync`."""
        if self.weights is not None:
            self.weights.turns.to_learner()

    def sync(self) -> None:
        """Push the learner's weights to every engine, if there is one, and see that they arrived. Raises SyncError."""
        if self.weights is not None:
            self.weights.push()

    def verify(self, checksum: str) -> None:
        """Raise SyncError unless every engine holds the weights with this checksum."""
        if self.weights is not None:
            self.weights.verify(checksum)

    async def let_engines_join(self) -> None:
        """Engines beyond rollout.engines, up to rollout.max_engines, one after the other as the cluster has room for them."""
        if self.rollouts is None:
            return
        engine = next(role for role in self.roles if role.name == self.rollouts.name)
        places = self.places[engine.name]
        while len(places) < self.config.rollout.max_engines:
            place = await room_for_one_more(self.config, engine)
            places.append(place)
            number = len(places) - 1
            # One that cannot start leaves the run as it was; whatever the reason, the run must not end for it.
            try:
                await self.rollouts.add(number)
            except Exception as error:
                log.warning("rollout engine %d could not join, it is tried again in %g s: %s", number, RETRY_S, what_it_says(error))
                places.pop()
                place.give_back()
                await asyncio.sleep(RETRY_S)
            else:
                log.info("rollout engine %d joined", number)


def with_room(config: Config) -> Config:
    """The settings with the number of images and videos that engines keep room for, where the config leaves it to the question files."""
    if config.image.most is not None and config.video.most is not None:
        return config
    counts = [most_media(path) for path in (config.data.train, config.data.eval) if path is not None and path.is_file()]
    most = {kind: max((count[kind] for count in counts), default=0) for kind in ("image", "video")}
    image = config.image if config.image.most is not None else config.image.model_copy(update={"most": most["image"]})
    video = config.video if config.video.most is not None else config.video.model_copy(update={"most": max(1, most["video"])})
    return config.model_copy(update={"image": image, "video": video})


@contextlib.contextmanager
def open_session(config: Config, *, with_learner: bool = True, with_engines: bool = True) -> Iterator[Session]:
    """Start all actors (engines, variant actors and learner at the same time); end them all, however it goes."""
    config = with_room(config)
    checked = ThreadPoolExecutor(1).submit(_check_model, config)  # while Ray starts, which is mostly waiting
    wanted = roles(config, with_learner=with_learner, with_engines=with_engines)
    began = time.monotonic()
    said = ", ".join(f"{role.count} {role.name}{'s' if role.count > 1 else ''}" for role in wanted)
    log.info("starting %s: under a minute for a small model; a large one is first read from disk, by each of them", said)
    connect(config, wanted)
    import ray

    _end_on_sigterm()
    session: Session | None = None
    try:
        checked.result()
        session = _create(config, wanted, place(config, wanted))
        threading.Thread(target=session.loop.run_forever, daemon=True, name="rlvid-loop").start()
        _start(session)
        log.info("all started after %s", duration(time.monotonic() - began))
        yield session
    finally:
        if session is not None:
            _stop(session)
        with RAY_STANDS:
            ray.shutdown()


def _end_on_sigterm() -> None:
    """SIGTERM ends a run like Ctrl-C, actors and all. Ray puts its own handler in place when it starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _check_model(config: Config) -> None:
    """Refuse a checkpoint that is not there, that engines here cannot run, or whose video pixels the engine would normalize differently."""
    family = family_of(config.model.path)
    family.adapted(config.learner.lora.targets, vision=config.learner.lora.vision)
    if not config.on_gpu and config.dtype not in family.cpu_dtypes:
        raise ConfigError(f"model.dtype: engines without a GPU run {family.model_type} in {' or '.join(family.cpu_dtypes)} only, not in {config.dtype}")
    problem = pixel_normalisation_problem(config.model.path)
    if problem:
        raise ConfigError(f"model.path: {problem}")


def _create(config: Config, roles: Sequence[Role], places: dict[str, list[Place]]) -> Session:
    pools = {role.name: _pool(config, role, places[role.name]) for role in roles if role.pool}
    engines, variants, rewards, teachers = (pools.get(name) for name in ("rollout engine", "variant actor", "reward actor", "teacher actor"))
    assert variants is not None
    ranks = next((learner_group(config, role, places[role.name]) for role in roles if not role.pool), None)
    session = Session(config, roles, places, variants, engines, Sampler(config, variants, engines, teachers, rewards), ranks, teachers, rewards)
    if ranks is not None and engines is not None:
        session.weights = Weights(config, engines, ranks, session.loop)
        engines.prepare = session.weights.bring_up_to_date
    return session


def _pool(config: Config, role: Role, places: list[Place]) -> ActorPool:
    """Actors that are dispatched to. `places` may grow: engines join."""
    return ActorPool(role.name, role.count, lambda number: make(config, role, places[number], number), **role.pool)


def learner_group(config: Config, role: Role, places: list[Place]) -> LearnerGroup:
    """The learner's ranks at their places, not yet started."""
    return LearnerGroup(config, [make(config, role, place, number) for number, place in enumerate(places)])


def _start(session: Session) -> None:
    """Engines and variant actors start while the learner does; where they share GPUs, after it, when it has made room."""

    async def start_pools() -> None:
        await asyncio.gather(*[pool.start() for pool in session.pools])

    pools = None if session.config.colocated else asyncio.run_coroutine_threadsafe(start_pools(), session.loop)
    if session.learner is not None:
        log.info("learner: %s parameters", f"{session.learner.start():,}")
        if session.config.colocated:
            session.learner.rest()
    (pools or asyncio.run_coroutine_threadsafe(start_pools(), session.loop)).result()
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
