"""learner.sequence_parallel on real DeepSpeed ranks: every ZeRO stage, adapters, distillation, several groups, other numbers of ranks, and a whole run."""

from __future__ import annotations

import pytest

from tests.integration.conftest import CONFIG, metrics_of
from tests.integration.test_learner import CORPUS, EVERY_STAGE, UPDATES, curve, distilled, group, make_prompt, one_rank  # noqa: F401

SAME = ("loss/policy", "optimizer/grad_norm", "policy/entropy", "mismatch/mean_abs_dlogp", "mismatch/max_abs_dlogp", "mismatch/kl", "optimizer/lr")
SHARED = ("learner.ranks=2", "learner.sequence_parallel=2")


def assert_same(rows, expected, keys=SAME):
    for row, other in zip(rows, expected, strict=True):
        for key in keys:
            assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_sequence_parallel_trains_like_one_rank_at_every_stage(ray_here, prompts, world, tmp_path, one_rank, stage):  # noqa: F811
    learner = group(ray_here, world, tmp_path, *SHARED, *EVERY_STAGE[stage])
    rows = curve(learner, prompts)
    learner.stop()
    assert_same(rows, one_rank[0])


@pytest.mark.long
def test_sequence_parallel_in_groups_with_fewer_prompts_than_groups(ray_here, prompts, world, tmp_path):
    """Four ranks, two of them to a row, one prompt: the second group has a row that counts nothing."""
    rows = []
    for settings in (["learner.zero_stage=1"], ["learner.ranks=4", "learner.sequence_parallel=2", *EVERY_STAGE["3"]]):
        learner = group(ray_here, world, tmp_path, *settings)
        rows.append([learner.update(prompts[:1]) for _ in range(UPDATES)])
        learner.stop()
    assert_same(*rows)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        ["learner.lora.rank=4", "learner.lora.vision=true", "loss.kl_coef=0.1"],
        ["model.freeze_vision=true", "loss.entropy_coef=0.01", "loss.passes=2", "loss.ratio=sequence"],
    ],
    ids=["lora", "frozen"],
)
def test_sequence_parallel_with_adapters_and_frozen_towers(ray_here, prompts, world, tmp_path, settings):
    rows = []
    for shared in ([], [*SHARED, *EVERY_STAGE["2"]]):
        learner = group(ray_here, world, tmp_path, *settings, *shared)
        rows.append(curve(learner, prompts))
        learner.stop()
    assert_same(*rows)


@pytest.mark.long
def test_sequence_parallel_distils(ray_here, world, tmp_path):
    from transformers import AutoProcessor

    prompts, rows = distilled(AutoProcessor.from_pretrained(world.model), world), []
    for settings in ([], [*SHARED, *EVERY_STAGE["3"]]):
        learner = group(ray_here, world, tmp_path, "distill.from=[variants]", "distill.tokens=all", "distill.coef=2", *settings)
        rows.append([learner.update(prompts) for _ in range(UPDATES)])
        learner.stop()
    assert_same(*rows, ("loss/policy", "loss/distill", "optimizer/grad_norm", "policy/entropy"))


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_vl_moe", "glm4v", "qwen3_5", "qwen3_5_moe"])
def test_sequence_parallel_of_other_families_at_stage_3(ray_here, world, tmp_path, family):
    from rlvid.families import named
    from rlvid.families.checkpoint import load_processor
    from rlvid.world.tiny_model import build_tiny_model

    folder = build_tiny_model(tmp_path / "model", CORPUS, family=family)
    processor, size = load_processor(str(folder)), named(family).tiny_frame
    prompts = [make_prompt(processor, size, seed=seed, answers=(3, 70, 1), frames=2 + 2 * (seed % 2)) for seed in range(4)]
    rows = []
    for settings in ([], [*SHARED, *EVERY_STAGE["3"]]):
        learner = group(ray_here, world, tmp_path, f"model.path={folder}", *settings)
        rows.append(curve(learner, prompts))
        learner.stop()
    assert_same(*rows, SAME[:3])


@pytest.mark.long
def test_sequence_parallel_resumes_with_another_number(ray_here, prompts, world, tmp_path, one_rank):  # noqa: F811
    """Two ranks that shared their rows go on as two that do not, and as one, from one checkpoint."""
    from rlvid.learner.universal import universal

    learner = group(ray_here, world, tmp_path, *SHARED)
    learner.update(prompts)
    learner.save(str(tmp_path / "step_000001"))
    learner.stop()
    apart = group(ray_here, world, tmp_path, "learner.ranks=2")
    apart.load(str(tmp_path / "step_000001"), 1)
    assert_same([apart.update(prompts[step:] + prompts[:step]) for step in range(1, UPDATES)], one_rank[0][1:])
    apart.stop()
    single = group(ray_here, world, tmp_path)
    with universal(tmp_path / "step_000001") as converted:
        single.load(str(converted), 1, tag="universal")
    assert_same([single.update(prompts[step:] + prompts[:step]) for step in range(1, UPDATES)], one_rank[0][1:])
    single.stop()


def test_sequence_parallel_ends_when_a_rank_dies(ray_here, prompts, world, tmp_path):
    from rlvid.learner.group import LearnerError

    learner = group(ray_here, world, tmp_path, *SHARED)
    ray_here.kill(learner.ranks[1])
    with pytest.raises(LearnerError, match="a learner rank died in pack"):
        learner.update(prompts)
    learner.stop()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_sequence_parallel_run_is_the_run_without(small, rlvid, tmp_path):
    """`rlvid train`: rollouts, pushes and checks of a sync with ranks that share their rows; the first step learns the same."""
    settings = [*small, "data.eval=null", "learner.ranks=2", "learner.threads=1"]
    for name, shared in (("apart", []), ("shared", ["learner.sequence_parallel=2", "learner.gradient_checkpointing=true"])):
        result = rlvid("train", CONFIG, *settings, *shared, f"run.name={name}", "--verify-sync", timeout=900)
        assert result.returncode == 0, result.stderr[-3000:]
    folder = next(setting for setting in small if setting.startswith("run.dir=")).removeprefix("run.dir=")
    rows = [metrics_of(type(tmp_path)(folder) / name) for name in ("apart", "shared")]
    assert len(rows[0]) == len(rows[1]) == 2
    for key in SAME:
        assert rows[1][0][key] == pytest.approx(rows[0][0][key], rel=1e-3, abs=1e-6), key
    assert all(row["mismatch/mean_abs_dlogp"] < 1e-4 for row in rows[1])
