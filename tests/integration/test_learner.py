"""The learner alone, in real Ray actors with real DeepSpeed: stages and rank counts give the same curve; save, load, export."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from rlvid.config import load
from tests.integration.conftest import CONFIG, small_overrides
from tests.unit.test_packing import CORPUS, all_kinds, make_media_prompt, make_prompt

UPDATES = 3


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


EVERY_STAGE = {
    "1": ["learner.zero_stage=1"],
    "2": ["learner.zero_stage=2"],
    # As the shipped configs have it: layers are gathered for the forward, for its repetition and for the backward pass. DeepSpeed would leave every parameter
    # of so small a model whole.
    "3": ["learner.zero_stage=3", "learner.gradient_checkpointing=true", "learner.param_persistence_threshold=0"],
}


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_stages_on_two_ranks_train_like_one_rank(ray_here, world, prompts, tmp_path, one_rank, stage):
    learner = group(ray_here, world, tmp_path, "learner.ranks=2", *EVERY_STAGE[stage])
    rows = curve(learner, prompts)
    learner.export(str(tmp_path / "export"))
    learner.stop()
    for row, expected in zip(rows, one_rank[0], strict=True):
        for key in ("loss/policy", "optimizer/grad_norm", "policy/entropy", "mismatch/mean_abs_dlogp", "optimizer/lr"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key
    from transformers import AutoModelForImageTextToText

    AutoModelForImageTextToText.from_pretrained(tmp_path / "export")


LAYOUTS = [
    ("text on one rank", [(), ("video",), (), ("video",)]),
    ("nothing but text", [(), (), ()]),
    ("text where the other has two images", [("image", "image"), (), ("image", "video"), ("image",)]),
]


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_ranks_stay_in_step_whatever_their_prompts_show(ray_here, world, tmp_path, stage):
    """Two ranks train like one, with one prompt a micro-batch: on one a video where the other has text or images [DeepSpeed#7170]."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(world.model)
    one = group(ray_here, world, tmp_path, "learner.micro_batch_tokens=1")
    two = group(ray_here, world, tmp_path, "learner.micro_batch_tokens=1", "learner.ranks=2", *EVERY_STAGE[stage])
    every = all_kinds(processor, world.frame_size, each=1)
    for name, kinds in [*LAYOUTS, ("all kinds", None)]:
        made = [make_media_prompt(processor, world.frame_size, shown, seed=at, answers=(3, 2)) for at, shown in enumerate(kinds or ())] or every
        expected, row = one.update(made), two.update(made)
        for key in ("loss/policy", "optimizer/grad_norm", "policy/entropy"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), (name, key)
    one.stop()
    two.stop()


def distilled(processor, world):
    """Prompts of both kinds: two that are learned from their advantages, three that are taught by another video."""
    plain = [make_prompt(processor, world.frame_size, seed=seed, answers=(3, 5)) for seed in range(2)]
    pairs = [(make_prompt(processor, world.frame_size, seed=seed, answers=(2, 4)) for seed in (seed, seed + 50)) for seed in range(2, 5)]
    return plain + [replace(student, teacher=replace(teacher, tokens_MN=student.tokens_MN)) for student, teacher in pairs]


@pytest.mark.long
@pytest.mark.parametrize("stage", ["1", "3"])
def test_distillation_on_two_ranks_trains_like_one_rank(ray_here, world, tmp_path, stage):
    """Ranks with unequal numbers of both kinds of prompts meet in every collective."""
    from transformers import AutoProcessor

    prompts, rows = distilled(AutoProcessor.from_pretrained(world.model), world), []
    for settings in (["learner.zero_stage=1"], ["learner.ranks=2", *EVERY_STAGE[stage]]):
        learner = group(ray_here, world, tmp_path, "distill.from=[variants]", "distill.tokens=all", "distill.coef=2", *settings)
        rows.append([learner.update(prompts) for _ in range(UPDATES)])
        learner.stop()
    for one, two in zip(*rows, strict=True):
        for key in ("loss/policy", "loss/distill", "optimizer/grad_norm", "policy/entropy"):
            assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-6), key
    assert rows[0][-1]["loss/distill"] < rows[0][0]["loss/distill"]


FAMILY_CASES = [("qwen3_5", False), ("qwen3_5", True), ("qwen3_vl", True), ("qwen3_vl_moe", False), ("qwen3_5_moe", False), ("glm4v", False)]


@pytest.mark.long
@pytest.mark.parametrize(("family", "tied"), FAMILY_CASES, ids=[f"{family}-{'tied' if tied else 'untied'}" for family, tied in FAMILY_CASES])
def test_other_families_at_every_stage(ray_here, world, tmp_path, family, tied):
    """Two ranks train like one, in float32, and what is exported reads back as the learner's weights. Answers of several lengths, prompts of several frames."""
    from rlvid.families import named
    from rlvid.families.checkpoint import load_model, load_processor
    from rlvid.sync.checksum import checksum
    from rlvid.sync.source import ZeroSource
    from rlvid.world.tiny_model import build_tiny_model

    folder = build_tiny_model(tmp_path / "model", CORPUS, family=family, tied=tied)
    processor, size = load_processor(str(folder)), named(family).tiny_frame
    prompts = [make_prompt(processor, size, seed=seed, answers=(3, 70, 1), frames=2 + 2 * (seed % 2)) for seed in range(4)]
    rows = {}
    for name, settings in ({"one": []} | {stage: ["learner.ranks=2", *settings] for stage, settings in EVERY_STAGE.items()}).items():
        learner = group(ray_here, world, tmp_path, f"model.path={folder}", *settings)
        rows[name] = curve(learner, prompts)
        if name == "3":
            learner.export(str(tmp_path / "export"))
            sums = learner.checksum()
        learner.stop()
    for stage in EVERY_STAGE:
        for row, expected in zip(rows[stage], rows["one"], strict=True):
            for key in ("loss/policy", "optimizer/grad_norm", "policy/entropy"):
                assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), (stage, key)
    exported = load_model(str(tmp_path / "export"))
    assert checksum(ZeroSource(exported)) == sums
    assert sums != checksum(ZeroSource(load_model(str(folder))))


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


# ---- bfloat16: what gradients are summed in

BF16 = ("model.dtype=bfloat16", "learner.micro_batch_tokens=1")


def norm_of_copies(learner, prompt, copies):
    """Gradient norm of the mean over so many equal prompts, a micro-batch each. Powers of two: summed exactly, it does not depend on their number."""
    share = replace(prompt, weights_M=tuple(weight / copies for weight in prompt.weights_M))
    return learner.update([share] * copies)["optimizer/grad_norm"]


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_sixty_four_micro_batches_in_bfloat16_sum_like_one(ray_here, world, prompts, tmp_path, stage):
    """On two ranks: summed and reduced in float32, the gradient of 64 copies is that of two. In bfloat16 it is not, which is what the default is for."""
    off = {}
    for accumulate in ("float32", "bfloat16"):
        learner = group(
            ray_here, world, tmp_path, *BF16, "learner.ranks=2", f"learner.zero_stage={stage}", f"learner.accumulate={accumulate}", "learner.lr=1e-12"
        )
        two, many = norm_of_copies(learner, prompts[0], 2), norm_of_copies(learner, prompts[0], 128)
        off[accumulate] = abs(many - two) / two
        learner.stop()
    assert off["float32"] < 1e-5 < 1e-4 < off["bfloat16"], off


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 3])
def test_a_checkpoint_of_bfloat16_sums_goes_on_in_float32(ray_here, world, prompts, tmp_path, stage):
    """At stage 1 DeepSpeed has another optimizer class for each; both directions, moments included."""
    from rlvid.learner import checkpoints

    for before, after in (("bfloat16", "float32"), ("float32", "bfloat16")):
        folder = tmp_path / before
        settings = [*BF16, f"learner.zero_stage={stage}"]
        learner = group(ray_here, world, tmp_path, *settings, f"learner.accumulate={before}")
        curve(learner, prompts)
        state = {"layout": checkpoints.layout(learner.config), "step": UPDATES}
        kept = checkpoints.publish(checkpoints.write_aside(folder, UPDATES, learner, state), keep=1)
        checksum, expected = learner.checksum(), learner.update(prompts)
        learner.stop()
        learner = group(ray_here, world, tmp_path, *settings, f"learner.accumulate={after}")
        checkpoints.load(kept, state, learner, learner.config)
        assert learner.checksum() == checksum
        assert learner.update(prompts)["optimizer/grad_norm"] == pytest.approx(expected["optimizer/grad_norm"], rel=0.02)
        learner.stop()
