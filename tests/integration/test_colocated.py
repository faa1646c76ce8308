"""placement colocated without a GPU: real actors and an engine that records what it is told, in order; and both sides resident against the split run."""

from __future__ import annotations

import os
from itertools import groupby

import pytest

from rlvid import train
from rlvid.actors import rollout
from rlvid.config import load
from rlvid.learner import group
from rlvid.learner.rank import Rank
from tests.integration.conftest import CONFIG, metrics_of, small_overrides

pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]

ENGINE = ("generate", "sleep", "wake_up", "start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache", "resume_generation")
STEP = ["generate", "sleep 2", "rank wake", "rank update", "rank rest", "wake_up ['weights']", "rank send_weights"]
STEP += ["start_weight_update", "update_weights", "finish_weight_update", "reset_prefix_cache", "wake_up ['kv_cache']", "resume_generation"]
SAME = ("reward/mean", "loss/policy", "optimizer/grad_norm", "policy/entropy", "mismatch/mean_abs_dlogp", "sync/version")


def note(config, words: str) -> None:
    with open(config.folder.absolute() / "calls.txt", "a") as file:
        file.write(words + "\n")


class Recorder:
    """An AsyncLLM that writes down what it is told. vLLM refuses to sleep without a GPU, so sleep and wake_up are written down and no more."""

    def __init__(self, engine, config) -> None:
        self.engine, self.config = engine, config

    def __getattr__(self, name):
        real = getattr(self.engine, name)
        if name not in ENGINE:
            return real

        def told(*args, **options):
            note(self.config, " ".join(map(str, [name, *(options.values() if name in ("sleep", "wake_up") else [])])))
            return nothing() if name in ("sleep", "wake_up") else real(*args, **options)

        return told


async def nothing() -> None: ...


class RecordedRollout(rollout.RolloutActor):
    async def _start(self):
        version = await super()._start()
        self.engine, self.can_sleep = Recorder(self.engine, self.config), True
        return version


class RecordedRank(Rank):
    def wake(self):
        note(self.config, "rank wake")
        super().wake()

    def rest(self):
        note(self.config, "rank rest")
        super().rest()

    def update(self):
        note(self.config, "rank update")
        return super().update()

    def send_weights(self):
        note(self.config, "rank send_weights")
        return super().send_weights()


@pytest.fixture(scope="module")
def settings(world, tmp_path_factory):
    return [*small_overrides(world, tmp_path_factory.mktemp("runs")), "data.eval=null", "data.questions_per_step=2", "rollout.repeatable=true"]


@pytest.fixture(scope="module")
def calls(settings) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.getcwd())
        patch.setattr(rollout, "RolloutActor", RecordedRollout)
        patch.setattr(group, "Rank", RecordedRank)
        folder = train.run(load(CONFIG, [*settings, "run.name=colocated", "placement=colocated", "run.save_every=1"]))
    return [name for name, _ in groupby((folder / "calls.txt").read_text().splitlines())]


def test_colocated_parts_take_turns_in_order(calls):
    assert calls[0] == "rank rest", "the learner makes room before any engine starts"
    assert calls[1 : 1 + len(STEP)] == STEP
    saved = ["sleep 2", "rank wake", *STEP[STEP.index("rank rest") :]]
    assert calls[1 + len(STEP) : 1 + len(STEP) + len(saved)] == saved, "a checkpoint is the learner's turn, too"
    rest = calls[1 + len(STEP) + len(saved) :]
    assert rest == [*STEP, "sleep 2", "rank wake"], "the second step, and the checkpoint at the end"


def test_colocated_run_equals_the_split_one(calls, settings):
    folder = train.run(load(CONFIG, [*settings, "run.name=split"]))
    rows = zip(metrics_of(folder.parent / "colocated")[1:], metrics_of(folder)[1:], strict=True)
    for colocated, split in rows:
        assert {key: colocated[key] for key in SAME} == {key: pytest.approx(split[key], rel=1e-6, abs=1e-9) for key in SAME}
