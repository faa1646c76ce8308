"""LoRA: which modules get an adapter, what its digest sees, what the plan counts, what the configuration refuses."""

from __future__ import annotations

import re

import pytest
import torch

from rlvid.config import ConfigError, load
from rlvid.families import FAMILIES
from rlvid.learner.lora import add_adapter, switched_off
from rlvid.plan.model_size import model_size
from rlvid.plan.reckoning import adapter_parameters, checkpoint_bytes, push_bytes, state_bytes, trained_parameters
from rlvid.sync.adapter import adapter_digest
from rlvid.world.tiny_model import build_tiny_model
from tests.integration.conftest import CONFIG

LINEAR = ("q_proj", "down_proj")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def tiny(request, tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp(request.param) / "model", ["red blue left right ?"] * 20, family=request.param), FAMILIES[request.param]


@pytest.mark.parametrize("vision", [False, True])
def test_lora_plan_counts_what_peft_trains(tiny, vision):
    from rlvid.families.checkpoint import load_model

    path, family = tiny
    config = load(CONFIG, [f"model.path={path}", "learner.lora.rank=4", f"learner.lora.vision={str(vision).lower()}"])
    model = load_model(str(path), dtype=torch.float32)
    add_adapter(model, family.adapted((), vision=vision), config.learner.lora, 0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert any("visual" in name for name in trained) == vision
    assert any("merger" in name for name in trained) == vision
    size = model_size(str(path))
    count = sum(p.numel() for p in trained.values())
    assert adapter_parameters(config, size) == trained_parameters(config, size) == count
    assert push_bytes(config, size) == 4 * count and checkpoint_bytes(config, size) == 16 * count
    assert state_bytes(config, size)["optimizer"] == 12 * count and state_bytes(config, size)["weights"] == 4 * (size.parameters + count)


def test_lora_switched_off_is_the_model_itself(tiny):
    from rlvid.families.checkpoint import load_model

    path, family = tiny
    model = load_model(str(path), dtype=torch.float32)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        add_adapter(model, family.adapted(LINEAR, vision=False), load(CONFIG, ["learner.lora.rank=4"]).learner.lora, 0)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
        assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)
        with switched_off(model):
            assert torch.equal(model(input_ids=ids).logits, before)
        assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)


def test_lora_targets_are_the_family_s():
    where = FAMILIES["qwen2_5_vl"].adapted(("q_proj",), vision=False)
    assert re.fullmatch(where, "model.language_model.layers.11.self_attn.q_proj")
    assert not re.fullmatch(where, "model.language_model.layers.11.self_attn.k_proj")
    with pytest.raises(ConfigError, match="has no qkv to adapt"):
        FAMILIES["qwen2_5_vl"].adapted(("qkv",), vision=False)


def test_lora_digest_sees_name_order_within_and_every_byte():
    a, b = torch.arange(6.0).view(2, 3), torch.ones(3)
    digest = adapter_digest([("a", a), ("b", b)])
    assert digest == adapter_digest([("b", b), ("a", a)]), "in whichever order tensors come"
    for other in ([("a", a.flip(0)), ("b", b)], [("b", a), ("a", b)], [("a", a.view(3, 2)), ("b", b)], [("a", a)], [("a", a + 1e-6), ("b", b)]):
        assert adapter_digest(other) != digest


@pytest.mark.parametrize("settings", [["learner.lora.vision=true"], ["learner.lora.vision=true", "learner.lora.rank=8", "model.freeze_vision=true"]])
def test_lora_vision_that_would_not_be_trained_is_refused(settings):
    with pytest.raises(ConfigError, match="vision tower"):
        load(CONFIG, settings)
