"""learner.sequence_parallel on real DeepSpeed ranks: every ZeRO stage, adapters, distillation, several groups, other numbers of ranks, and a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.integration.conftest import CONFIG, metrics_of
from tests.integration.test_learner import CORPUS, EVERY_STAGE, UPDATES, curve, distilled, group, make_prompt, one_rank  # noqa: F401
from tests.unit.clips import make

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


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_sequence_parallel_learns_from_one_long_video(rlvid, tmp_path):
    """The whole loop with one prompt a step that has 4,096 visual tokens, 512 frames of 112 x 112 pixels, shared by two ranks: its first step is that of two
    ranks that do not share it, and the reward rises."""
    from rlvid.world.tiny_model import build_tiny_model

    model = build_tiny_model(tmp_path / "model", [*CORPUS, "What is seen? Name it."], layers=2, tied=True)
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 8192
    (model / "config.json").write_text(json.dumps(config))
    video = make(tmp_path / "long.mp4", frames=520, size=(112, 112))
    rows = [{"id": f"q{at}", "video": video, "question": "What is seen? Name it.", "task": "open", "answer": "red"} for at in range(2)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"run.dir={tmp_path / 'runs'}", f"model.path={model}", f"data.train={tmp_path / 'train.jsonl'}", "data.eval=null", "tracker.kind=none"]
    settings += ["data.questions_per_step=1", "variants.kinds=[uniform]", "relevance.scorer=motion", "relevance.model=null", "video.cache_dir=null"]
    settings += ["video.frames=512", "video.candidates=512", "video.max_pixels=12544", "video.max_tokens=4096", "rollout.max_model_len=4352"]
    settings += ["rollout.answers=16", "rollout.max_tokens=8", "rollout.threads=1", "learner.threads=1", "learner.micro_batch_tokens=8192", "learner.ranks=2"]
    settings += ["reward.custom=tests.integration.test_families:vowels", "reward.weights={open: {vowels: 1.0}}"]
    settings += ["learner.lr=3e-3", "learner.warmup_steps=1", "learner.min_lr_share=1"]
    found = []
    for name, own in (("apart", ["run.steps=1"]), ("shared", ["run.steps=12", "learner.sequence_parallel=2"])):
        result = rlvid("train", CONFIG, *settings, *own, f"run.name={name}", "--verify-sync", timeout=700)
        assert result.returncode == 0, result.stderr[-3000:]
        found.append([row for row in metrics_of(tmp_path / "runs" / name) if row["step"]])
    (apart,), shared = found
    slots = (tmp_path / "runs/shared/rollouts/step_000001.jsonl").read_text().splitlines()
    assert len(slots) == 16 and all(json.loads(slot)["prompt_tokens"] > 4096 for slot in slots)
    for key in SAME:
        assert shared[0][key] == pytest.approx(apart[key], rel=1e-3, abs=1e-6), key
    rewards = [round(row["reward/mean"], 3) for row in shared]
    print(f"rewards {rewards}, mean |delta log p| {[row['mismatch/mean_abs_dlogp'] for row in shared]}")
    assert len(shared) == 12 and max(row["mismatch/mean_abs_dlogp"] for row in shared) < 1e-4
    assert np.mean(rewards[-3:]) > 1.5 * np.mean(rewards[:3]), rewards
