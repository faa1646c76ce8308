"""LoRA: the adapter alone is trained, pushed, kept and exported, at every ZeRO stage; one that does not arrive is noticed."""

from __future__ import annotations

import shutil

import pytest
import torch

from rlvid.actors import rollout
from rlvid.config import load
from rlvid.loop.push import SyncError
from rlvid.loop.session import open_session
from tests.integration.conftest import CONFIG, metrics_of, small_overrides
from tests.integration.test_learner import group

pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]

LORA = ["learner.lora.rank=16", "learner.lr=3e-3", "learner.warmup_steps=0", "run.steps=10"]
UPDATES = 3


@pytest.fixture(scope="module")
def trained(world, rlvid, tmp_path_factory):
    """A finished run of two engines and two ZeRO-3 ranks with a KL term: (folder, config)."""
    settings = [*small_overrides(world, tmp_path_factory.mktemp("runs")), *LORA, "run.steps=3", "run.save_every=2", "run.name=lora", "data.eval=null"]
    settings += ["rollout.engines=2", "learner.ranks=2", "learner.zero_stage=3", "learner.threads=1", "loss.kl_coef=0.01"]
    result = rlvid("train", CONFIG, *settings, "--verify-sync")
    assert result.returncode == 0, result.stderr[-3000:]
    config = load(CONFIG, settings)
    return config.folder, config


def test_lora_sampler_and_learner_agree_on_every_step(trained):
    for row in metrics_of(trained[0]):
        assert row["mismatch/mean_abs_dlogp"] < 1e-5, "engine with adapter against learner"
        assert row["sync/version"] == row["step"]


def test_lora_pushes_the_adapter_alone(trained):
    folder, config = trained
    from transformers import AutoModelForImageTextToText

    whole = sum(p.numel() * 4 for p in AutoModelForImageTextToText.from_pretrained(config.model.path, dtype=torch.float32).parameters())
    for row in metrics_of(folder):
        assert 0 < row["sync/bytes"] <= 0.1 * whole


def test_lora_kl_is_to_the_model_without_its_adapter(trained):
    rows = metrics_of(trained[0])
    assert rows[0]["loss/kl"] == 0, "B starts at zero"
    assert rows[1]["loss/kl"] > 0 and rows[2]["loss/kl"] > 0


def test_lora_checkpoints_hold_no_frozen_weight(trained):
    kept = trained[0] / "checkpoints" / "step_000002"
    size = sum(path.stat().st_size for path in kept.rglob("*.pt"))
    assert 0 < size < 0.667e6 * 4, "less than the model's weights: adapter, moments and master copy"


def test_lora_export_merged_equals_the_adapter(trained):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    folder, config = trained
    merged = AutoModelForImageTextToText.from_pretrained(folder / "export", dtype=torch.float32)
    start = AutoModelForImageTextToText.from_pretrained(config.model.path, dtype=torch.float32)
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        plain = start(input_ids=ids).logits.log_softmax(-1)
        adapted = PeftModel.from_pretrained(start, str(folder / "export" / "adapter"))(input_ids=ids).logits.log_softmax(-1)
        from_export = merged(input_ids=ids).logits.log_softmax(-1)
    assert (adapted - from_export).abs().max() < 1e-4
    assert (adapted - plain).abs().max() > 1e-3, "it has learned something"


def test_lora_resumes_bit_for_bit(trained, rlvid, tmp_path):
    """The run that stopped after step 2 writes the third row again, number by number."""
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "lora", symlinks=True)
    shutil.rmtree(tmp_path / "lora" / "checkpoints" / "step_000003")
    again = rlvid("train", folder / "config.yaml", f"run.dir={tmp_path}")
    assert again.returncode == 0, again.stderr[-3000:]
    before, after = metrics_of(folder)[-1], metrics_of(tmp_path / "lora")[-1]
    assert after["step"] == 3
    same = ("loss/policy", "loss/kl", "optimizer/grad_norm", "policy/entropy", "reward/mean")
    assert {key: after[key] for key in same} == pytest.approx({key: before[key] for key in same}, rel=1e-5, abs=1e-7)


class Deaf(rollout.RolloutActor):
    """Takes every push as vLLM does without load_inplace: the second one is ignored, and no call fails."""

    async def _load_adapter(self, folder):
        from vllm.lora.request import LoRARequest

        request = LoRARequest(f"push-{self.pushes}", rollout.ADAPTER_ID, folder)
        await self.engine.add_lora(request)
        return request


def test_lora_adapter_that_is_not_delivered_is_noticed(world, tmp_path, monkeypatch):
    monkeypatch.setattr(rollout, "RolloutActor", Deaf)
    config = load(CONFIG, [*small_overrides(world, tmp_path), *LORA, "rollout.max_restarts=0"])
    with open_session(config) as session:
        session.verify(session.learner.checksum())
        session.learner.perturb(0.1)
        session.sync()
        session.verify(session.learner.checksum())
        session.learner.perturb(0.1)
        with pytest.raises(SyncError):
            session.sync()


@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), (2, 2), (3, 2)])
def test_lora_learner_resumes_bit_for_bit_at_every_stage(ray_here, world, prompts, tmp_path, stage, ranks):
    settings = [*LORA, f"learner.zero_stage={stage}", f"learner.ranks={ranks}", "learner.lora.vision=true", "learner.lora.dropout=0.1"]
    learner = group(ray_here, world, tmp_path, *settings)
    base = learner.checksum()
    rows = [learner.update(prompts[step:] + prompts[:step]) for step in range(1)]
    learner.save(str(tmp_path / "saved"))
    rows += [learner.update(prompts[step:] + prompts[:step]) for step in range(1, UPDATES)]
    expected = learner.checksum()
    learner.stop()
    resumed = group(ray_here, world, tmp_path, *settings)
    assert resumed.checksum() == base
    resumed.load(str(tmp_path / "saved"), 1)
    again = [resumed.update(prompts[step:] + prompts[:step]) for step in range(1, UPDATES)]
    assert resumed.checksum() == expected
    assert [row["loss/policy"] for row in again] == [row["loss/policy"] for row in rows[1:]]
    resumed.stop()
