"""The training loop, on one page.

    stream ─► variant actors (K views of each video) ─► rollout engines (M answers on each) ─► reward parts
                                        ▲                                                          │
             weights, version n+1 ──────┘ ◄── learner: one GRPO update ◄── advantages over K x M ──┘

This driver holds specs, tokens, numbers and references; pixels go from the variant actors to the engines and the learner
through Ray's object store. Everything random is drawn from (seed, step, question, variant, sample), so a step can be
repeated anywhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.algo.aggregation import slot_weights
from rlvid.asking.evaluate import eval_questions, evaluate
from rlvid.config import Config, ConfigError
from rlvid.learner import checkpoints
from rlvid.learner.checkpoints import Saver
from rlvid.learner.group import FramesLost, PromptsRefused
from rlvid.learner.prompts import distilled_prompts, group_prompts
from rlvid.loop.ahead import Ahead, Sampled, saves
from rlvid.loop.feed import Feed
from rlvid.loop.journal import Journal, due, open_journal
from rlvid.loop.normalize import Normalizer
from rlvid.loop.replies import Replies, for_replies
from rlvid.loop.session import Session, open_session
from rlvid.types import Group, TrainingPrompt

log = logging.getLogger("rlvid")


class StaleRollout(RuntimeError):
    """A batch holds an answer of weights that are older than the config allows."""


@dataclass(frozen=True)
class Run:
    """What the loop works with."""

    config: Config
    session: Session
    feed: Feed
    normalize: Normalizer
    journal: Journal
    saver: Saver


def run(config: Config) -> Path:
    """Train as the config says; resume where a run of the same name stopped. Returns the run folder."""
    if config.loss.surrogate == "likelihood":
        raise ConfigError("loss.surrogate likelihood imitates stored replies: use rlvid sft, or another surrogate")
    return follow(config, Feed, train_overlapped if config.rollout.max_staleness else train)


def imitate(config: Config) -> Path:
    """Learn the replies that stand in the question file, on all variants: the loop with stored answers. Engines only evaluate, where there is what to ask."""
    return follow(for_replies(config), Replies, train, with_engines=config.data.eval is not None)


def follow(config: Config, feed: type[Feed], loop: Callable[[Run, int], None], *, with_engines: bool = True) -> Path:
    """Start everything, resume, run the loop on what `feed` gives it, export. Returns the run folder."""
    with open_journal(config) as journal, open_session(config, with_engines=with_engines) as session, Saver(config) as saver:
        whole = Run(config, session, feed(config, session), Normalizer(config), journal, saver)
        first = resume(whole)
        if first == 1:
            journal.row(0, evaluation(config, session))
        loop(whole, first)
        export(config, session)
    return config.folder


def train(run: Run, first: int) -> None:
    """Strictly on-policy: sample with the newest weights, update, push."""
    for step in range(first, run.config.run.steps + 1):
        groups = run.feed.sample(step)
        run.feed.prefetch(step + 1)
        learn(run, step, groups, run.feed.metrics(), again=lambda step=step: (run.feed.sample(step), run.feed.metrics()))  # type: ignore[misc]


def train_overlapped(run: Run, first: int) -> None:
    """The next batches are sampled while the learner updates, with weights at most `rollout.max_staleness` updates old."""
    with Ahead(run.config, run.session, run.feed) as ahead:
        for step in range(first, run.config.run.steps + 1):
            groups, metrics = ahead.take(step)
            learn(run, step, groups, metrics, again=lambda step=step: ahead.again(step))  # type: ignore[misc]


def learn(run: Run, step: int, groups: list[Group], metrics: dict[str, float], again: Callable[[], Sampled]) -> None:
    """What follows a batch: rewards, advantages, one update, new weights to the engines, the step's row. `metrics`: what sampling it took.

    Questions that the learner cannot pack are quarantined, and the others are learned; where none is left, those that `again` samples.
    """
    config, session, refused, before = run.config, run.session, 0, run.normalize.state()
    while True:
        rewards = shaped_rewards(config, groups, step)
        advantages = run.normalize(groups, rewards)
        try:
            learned = update(config, session, groups, advantages, step)
            break
        except PromptsRefused as error:
            run.normalize.restore(before)
            groups, refused = run.feed.without(groups, error.reasons), refused + len(error.reasons)
            if not groups:
                groups, metrics = again()
    run.feed.unlearned_in_a_row = 0
    metrics |= run.normalize.metrics() | learned
    if refused:
        metrics |= {"data/quarantined": metrics["data/quarantined"] + refused, "group/kept": float(len(groups))}
    metrics |= sync(session)
    if due(config.run.eval_every, step) or step == config.run.steps:
        metrics |= evaluation(config, session)
    run.journal.step(step, groups, rewards, advantages, metrics)
    if saves(config, step):
        save(run, step)


def shaped_rewards(config: Config, groups: list[Group], step: int) -> list[NDArray[Any]]:
    """[K, M] per group. With reward.noise, the step's rewards dealt out anew among all its slots."""
    rewards = [np.array(group.rewards_KM, dtype=np.float64) for group in groups]
    if config.reward.noise:
        dealt = np.random.default_rng((config.run.seed, step)).permutation(np.concatenate([r.ravel() for r in rewards]))
        ends = np.cumsum([r.size for r in rewards])[:-1]
        rewards = [part.reshape(r.shape) for part, r in zip(np.split(dealt, ends), rewards, strict=True)]
    return rewards


def update(config: Config, session: Session, groups: list[Group], advantages: list[NDArray[Any]], step: int) -> dict[str, float]:
    """One GRPO update of the learner on all slots."""
    assert session.learner is not None
    started = time.perf_counter()
    check_staleness(groups, oldest=step - 1 - config.rollout.max_staleness)
    session.to_learner()
    try:
        metrics = session.learner.update(training_prompts(config, groups, advantages))
    except FramesLost as error:
        log.warning("%s: the step's frames are built again from their specs", error)
        metrics = session.learner.update(training_prompts(config, session.wait(session.sampler.with_new_frames(groups)), advantages))
    return metrics | {"time/learn_s": time.perf_counter() - started}


def check_staleness(groups: list[Group], oldest: int) -> None:
    """Raise StaleRollout for a slot that older weights sampled. It cannot happen; if it does, no update may use it."""
    for group in groups:
        for row in group.rollouts_KM:
            for rollout in row:
                if rollout.policy_version < oldest:
                    raise StaleRollout(f"{rollout.question_id} was answered by weights of version {rollout.policy_version}, at least {oldest} was wanted")


def training_prompts(config: Config, groups: list[Group], advantages: list[NDArray[Any]]) -> list[TrainingPrompt]:
    """One per variant and one per repaired prompt, each with its answers, and one per prompt that is distilled from another (`distill`). Each token's weight
    makes the sum over everything the configured mean."""
    weights = slot_weights(groups, config.loss.aggregation, config.rollout.max_tokens, mask_truncated=config.loss.truncated == "mask")
    own = [prompt for group, *numbers in zip(groups, advantages, weights, strict=True) for prompt in group_prompts(group, *numbers)]
    return own + distilled_prompts(groups, config.distill.sources, config.distill.answers or config.rollout.answers)


def sync(session: Session) -> dict[str, float]:
    """New weights to every engine, verified."""
    if session.weights is None:
        return {}
    started = time.perf_counter()
    session.sync()
    return {"time/sync_s": time.perf_counter() - started, "sync/version": float(session.weights.version)} | session.weights.costs


def evaluation(config: Config, session: Session) -> dict[str, float]:
    """Held-out metrics of the weights as they are, if the config names held-out questions."""
    if config.data.eval is None:
        return {}
    started = time.perf_counter()
    return evaluate(session, eval_questions(config)) | {"time/eval_s": time.perf_counter() - started}


def resume(run: Run) -> int:
    """Go back to the last whole checkpoint, if there is one. Returns the next step."""
    config, session = run.config, run.session
    assert session.learner is not None
    found = checkpoints.latest(config.folder / "checkpoints", config.storage)
    if found is None:
        session.verify(session.learner.checksum())  # engines and learner start from the same weights
        run.journal.rewind(0)
        return 1
    folder, state = found
    checkpoints.check_same_run(config, state)
    session.to_learner()
    checkpoints.load(folder, state, session.learner, config)
    session.learner.set_rates()
    run.feed.restore(state["feed"])
    run.normalize.restore(state.get("advantage", {}))
    session.sync()
    run.journal.rewind(state["step"])
    log.info("resumed %s after step %d", config.run.name, state["step"])
    return state["step"] + 1


def save(run: Run, step: int) -> None:
    """What a resumed run needs to go on exactly. Engines that gave their GPUs for it get their weights back."""
    assert run.session.learner is not None
    run.session.to_learner()
    own = {"feed": run.feed.state(), "advantage": run.normalize.state()}
    state = own | {"fingerprint": checkpoints.fingerprint(run.config), "layout": checkpoints.layout(run.config)}
    run.saver.save(step, run.session.learner, state)
    if run.config.colocated and step < run.config.run.steps:
        run.session.sync()


def export(config: Config, session: Session) -> None:
    """The policy as a Hugging Face checkpoint in the run folder."""
    assert session.learner is not None
    session.learner.export(str((config.folder / "export").absolute()))
