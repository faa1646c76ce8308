"""The learner alone, in real Ray actors with real DeepSpeed: stages and rank counts give the same curve; save, load, export."""

from __future__ import annotations

import os

import pytest

from rlvid.config import load
from tests.integration.conftest import CONFIG, small_overrides
from tests.unit.test_packing import make_prompt

UPDATES = 3


@pytest.fixture(scope="module")
def ray_here():
    from rlvid.actors.placement import connect

    connect(load(CONFIG), [])
    import ray

    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def prompts(world):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(world.model)
    return [make_prompt(processor, world.frame_size, seed=seed, answers=(3, 5)) for seed in range(5)]


def group(ray, world, tmp, *overrides):
    from rlvid.learner.group import LearnerGroup, learner_environment
    from rlvid.learner.rank import Rank

    config = load(CONFIG, [*small_overrides(world, tmp), "learner.threads=1", "learner.micro_batch_tokens=300", "run.steps=10", *overrides])
    options = {"num_cpus": 0.1, "runtime_env": {"env_vars": learner_environment(config) | {"PYTHONPATH": os.getcwd()}}}
    learner = LearnerGroup(config, [ray.remote(Rank).options(**options).remote(config, rank) for rank in range(config.learner.ranks)])
    learner.start()
    return learner


def curve(learner, prompts):
    return [learner.update(prompts[step:] + prompts[:step]) for step in range(UPDATES)]


@pytest.fixture(scope="module")
def one_rank(ray_here, world, prompts, tmp_path_factory):
    learner = group(ray_here, world, tmp_path_factory.mktemp("one"))
    rows = curve(learner, prompts)
    checksum = learner.checksum()
    learner.stop()
    return rows, checksum


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_stages_on_two_ranks_train_like_one_rank(ray_here, world, prompts, tmp_path, one_rank, stage):
    # With stage 3 as the shipped configs have it: layers are gathered for the forward, for its repetition and for the backward pass.
    learner = group(ray_here, world, tmp_path, "learner.ranks=2", f"learner.zero_stage={stage}", f"learner.gradient_checkpointing={stage == 3}")
    rows = curve(learner, prompts)
    learner.export(str(tmp_path / "export"))
    learner.stop()
    for row, expected in zip(rows, one_rank[0], strict=True):
        for key in ("loss/policy", "optimizer/grad_norm", "policy/entropy", "mismatch/mean_abs_dlogp", "optimizer/lr"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key
    from transformers import AutoModelForImageTextToText

    AutoModelForImageTextToText.from_pretrained(tmp_path / "export")


def test_a_loaded_checkpoint_goes_on_bit_for_bit(ray_here, world, prompts, tmp_path, one_rank):
    learner = group(ray_here, world, tmp_path)
    learner.update(prompts)
    learner.save(str(tmp_path / "saved"))
    learner.stop()
    resumed = group(ray_here, world, tmp_path)
    resumed.load(str(tmp_path / "saved"), 1)
    rows = [resumed.update(prompts[step:] + prompts[:step]) for step in range(1, UPDATES)]
    assert resumed.checksum() == one_rank[1]
    assert [row["loss/policy"] for row in rows] == [row["loss/policy"] for row in one_rank[0][1:]]
    resumed.stop()
    rates = ["learner.lr=0.001", "learner.warmup_steps=1", "learner.min_lr_share=1", "loss.passes=3", "loss.clip_low=0.01", "loss.clip_high=0.01"]
    other = group(ray_here, world, tmp_path, *rates)
    other.load(str(tmp_path / "saved"), 1)
    other.set_rates()
    row = other.update(prompts)
    other.stop()
    assert row["optimizer/lr"] == 0.001, "the config's rate, not the checkpoint's"
    assert 0 < row["loss/clip_share"] <= 1, "the last pass is clipped"


@pytest.mark.parametrize(("before", "after"), [((1, 1), (2, 2)), ((3, 2), (3, 1))])
def test_another_number_of_ranks_goes_on_from_the_same_state(ray_here, world, prompts, tmp_path, one_rank, before, after):
    """(ZeRO stage, ranks) before and after: weights, moments and schedule are those of a run that never stopped."""
    from rlvid.learner.universal import universal

    learner = group(ray_here, world, tmp_path, f"learner.zero_stage={before[0]}", f"learner.ranks={before[1]}")
    learner.update(prompts)
    learner.save(str(tmp_path / "step_000001"))
    learner.stop()
    resumed = group(ray_here, world, tmp_path, f"learner.zero_stage={after[0]}", f"learner.ranks={after[1]}")
    with universal(tmp_path / "step_000001") as converted:
        resumed.load(str(converted), 1, tag="universal")
    rows = [resumed.update(prompts[step:] + prompts[:step]) for step in range(1, UPDATES)]
    resumed.stop()
    for row, expected in zip(rows, one_rank[0][1:], strict=True):
        for key in ("loss/policy", "optimizer/grad_norm", "policy/entropy", "optimizer/lr"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key


def test_a_dead_rank_ends_the_wait(ray_here, world, prompts, tmp_path):
    from rlvid.learner.group import LearnerError

    learner = group(ray_here, world, tmp_path, "learner.ranks=2")
    ray_here.kill(learner.ranks[1])
    with pytest.raises(LearnerError, match="a learner rank died in pack"):
        learner.update(prompts)
    learner.stop()
