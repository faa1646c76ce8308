"""The shared-prefix forward on a GPU: float32 exact as on CPU, bfloat16 close."""

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlvid.families import FAMILIES, named
from rlvid.learner.logprobs import AnswerLogProbs
from rlvid.learner.packing import pack
from rlvid.world.tiny_model import build_tiny_model
from tests.unit.test_packing import CORPUS, make_prompt

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_logprobs_and_gradients_as_on_cpu(tmp_path, family, dtype, tolerance, attention):
    folder = build_tiny_model(tmp_path, CORPUS, family=family)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    forbidden = named(family).media_token_ids(processor.tokenizer)
    batch = pack([make_prompt(processor, named(family).tiny_frame, seed=seed, answers=(3, 5)) for seed in range(3)], processor, model.config)
    moved = copy.deepcopy(model).to("cuda", dtype)
    on_gpu = AnswerLogProbs(moved, chunk=4, forbidden=forbidden, temperature=1.0, attention=attention)
    on_cpu = AnswerLogProbs(model, chunk=4, forbidden=forbidden, temperature=1.0)
    found, known = on_gpu(batch.to("cuda", dtype)).cpu(), on_cpu(batch)
    assert (found - known).abs().mean() < tolerance
    found.sum().backward()
    known.sum().backward()
    pairs = [(a.grad.float().cpu(), b.grad) for a, b in zip(moved.parameters(), model.parameters(), strict=True) if b.grad is not None]
    assert torch.cat([(a - b).flatten() for a, b in pairs]).norm() < tolerance * torch.cat([b.flatten() for _, b in pairs]).norm()
