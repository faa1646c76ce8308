"""Weights reach the engines, caches do not lie, and a dead engine is replaced: on one open session."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from rlvid.config import load
from rlvid.data.questions import iter_questions
from rlvid.loop.push import SyncError
from rlvid.loop.session import open_session
from tests.integration.conftest import CONFIG, small_overrides


@pytest.fixture(scope="module")
def session(world, tmp_path_factory):
    settings = ["rollout.engines=2", "rollout.threads=1", "learner.threads=1", "sync.mode=keep", "sync.deadline_s=30"]
    config = load(CONFIG, [*small_overrides(world, tmp_path_factory.mktemp("runs")), *settings])
    with open_session(config) as opened:
        opened.verify(opened.learner.checksum())
        yield opened


@pytest.fixture(scope="module")
def questions(world):
    return list(iter_questions(world.eval))[:8]


def greedy(session, questions):
    collected = session.wait(session.sampler.collect(questions, step=0, kinds=("uniform",), answers=1, greedy=True))
    return [group.rollouts_KM[0][0].tokens for group in collected.groups]


def sampled(session, questions, step):
    return session.wait(session.sampler.collect(questions, step=step, kinds=("uniform", "random_crop"), answers=4)).groups


def test_engines_answer_alike_and_repeatably(session, questions):
    assert greedy(session, questions) == greedy(session, questions)


def test_a_sync_of_unchanged_weights_changes_no_answer(session, questions):
    before = greedy(session, questions)
    session.sync()
    assert greedy(session, questions) == before


def test_a_policy_changed_by_hand_changes_greedy_answers(session, questions):
    """The same videos stand in the engines' caches: stale vision embeddings or keys would keep the old answers."""
    before, old = greedy(session, questions), session.learner.checksum()
    session.learner.perturb(0.3)
    session.sync()
    changed = greedy(session, questions)
    assert session.learner.checksum() != old
    assert sum(a != b for a, b in zip(before, changed, strict=True)) >= len(questions) // 2
    assert {rollout.policy_version for group in sampled(session, questions[:2], 1) for row in group.rollouts_KM for rollout in row} == {1}


def test_a_wrong_checksum_is_noticed(session):
    with pytest.raises(SyncError, match="the learner sent 0000"):
        session.verify("0" * 16)


def test_killed_engines_are_replaced_and_their_work_replayed(session, questions):
    """SIGKILL to an engine process, then to an actor, each while it works: the same seeds give the same slots, each once."""
    import ray

    expected = sampled(session, questions, 7)
    for victim in (lambda pid: psutil.Process(pid).children(recursive=True)[-1].pid, lambda pid: pid):
        pid = ray.get(session.rollouts.handles[0].pid.remote(), timeout=60)
        target = victim(pid)
        restarts = session.rollouts.restarts
        session.loop.call_soon_threadsafe(session.loop.call_later, 0.2, os.kill, target, signal.SIGKILL)
        again = sampled(session, questions * 3, 7)
        assert session.rollouts.restarts == restarts + 1
        assert len(again) == 3 * len(questions)
        for group, reference in zip(again, expected * 3, strict=True):
            assert [[r.seed for r in row] for row in group.rollouts_KM] == [[r.seed for r in row] for row in reference.rollouts_KM]
        same = sum(g.rollouts_KM == e.rollouts_KM for g, e in zip(again, expected * 3, strict=True))
        texts = sum(
            [[r.text for r in row] for row in g.rollouts_KM] == [[r.text for r in row] for row in e.rollouts_KM]
            for g, e in zip(again, expected * 3, strict=True)
        )
        assert texts >= 0.9 * len(again), (texts, same)
        session.verify(session.learner.checksum())


@pytest.mark.parametrize("whom", ["engine process", "actor"])
def test_an_engine_killed_while_weights_are_on_their_way(session, questions, monkeypatch, whom):
    """It is connected and expected to receive; all engines, the new one too, hold the new version before anything is sampled."""
    import ray

    send = session.learner.send_weights
    deadline = time.monotonic() + 120
    while len(session.rollouts.handles) < 2:  # the test before has killed one
        assert time.monotonic() < deadline
        time.sleep(0.2)
    pid = ray.get(session.rollouts.handles[1].pid.remote(), timeout=60)
    victim = pid if whom == "actor" else psutil.Process(pid).children(recursive=True)[-1].pid
    kills = [victim]

    def send_and_kill():
        if kills:
            os.kill(kills.pop(), signal.SIGKILL)
        return send()

    monkeypatch.setattr(session.learner, "send_weights", send_and_kill)
    session.learner.perturb(0.1)
    restarts, version = session.rollouts.restarts, session.weights.version
    session.sync()
    assert session.weights.version > version and session.rollouts.restarts >= restarts + 1
    session.verify(session.learner.checksum())
    groups = sampled(session, questions * 2, 20)
    assert len(groups) == 2 * len(questions)
    assert {rollout.policy_version for group in groups for row in group.rollouts_KM for rollout in row} == {session.weights.version}
