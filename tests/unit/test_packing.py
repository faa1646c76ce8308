"""One forward for a prompt and all its answers is exactly the separate forwards, for every model family. The rest of the contract with a family stands in
tests/integration/test_families.py."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers.video_utils import VideoMetadata

from rlvid.data.prompts import chat_prompt
from rlvid.families import FAMILIES, named
from rlvid.families.checkpoint import load_model, load_processor
from rlvid.learner.attention import PACKED, WINDOWS, Part, attention_arguments, packed_sdpa, sdpa_in_windows
from rlvid.learner.logprobs import AnswerLogProbs, LogProbHead
from rlvid.learner.packing import encode_prompt, pack, split_by_budget, spread_over_ranks, videos_of
from rlvid.sync.tokens import token_digest
from rlvid.teacher.student import evidence_metadata, patched_prompt
from rlvid.types import EvidencePatch, TrainingPrompt, VariantSpec
from rlvid.variants.build import video_metadata
from rlvid.world.tiny_model import build_tiny_model

CORPUS = ["What colour is it? red green blue yellow", "When is it seen? 1 to 2", "<think>at 3</think><answer>red</answer>"] * 20

LAYERS = 3
EVERY = [pytest.param((family, tied), id=f"{family}-{'tied' if tied else 'untied'}") for family in FAMILIES for tied in (False, True)]


@pytest.fixture(scope="module", params=EVERY)
def tiny(request, tmp_path_factory):
    """Three layers, and frames twice as high as the quickstart's: several attention windows, several deepstack layers, where the family has any."""
    family, tied = request.param
    folder = str(build_tiny_model(tmp_path_factory.mktemp(family), CORPUS, family=family, layers=LAYERS, tied=tied))
    height, width = named(family).tiny_frame
    return load_model(folder, dtype=torch.float32, attn_implementation="sdpa"), load_processor(folder), (2 * height, width)


def test_the_tiny_models_have_what_their_family_has(tiny):
    """Or the tests below would say nothing of it."""
    model, _, (height, width) = tiny
    config, vision = model.config, model.config.vision_config
    assert config.text_config.num_hidden_layers == LAYERS
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == config.tie_word_embeddings
    if hasattr(vision, "window_size"):
        from transformers.vision_utils import get_vision_window_index

        grid = torch.tensor([[1, height // vision.patch_size, width // vision.patch_size]])
        _, borders = get_vision_window_index(grid, spatial_merge_size=vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size)
        assert len(set(borders.tolist())) - 1 > 1 and vision.fullatt_block_indexes == [LAYERS - 1]
    if hasattr(vision, "deepstack_visual_indexes"):
        assert len(vision.deepstack_visual_indexes) > 1


def make_prompt(processor, size, *, seed, answers, frames=4):
    rng = np.random.default_rng(seed)
    spec = VariantSpec("uniform", tuple(np.sort(rng.uniform(0, 9, frames)).round(3).tolist()), None, size, 0)
    video = rng.integers(0, 255, (frames, *size, 3), dtype=np.uint8)
    text = chat_prompt(processor, f"What colour is it? {seed}")
    metadata = video_metadata(spec)
    ids = processor(
        text=[text],
        videos=[video],
        video_metadata=[VideoMetadata(**{k: v for k, v in metadata.items() if k != "do_sample_frames"})],
        do_sample_frames=False,
        return_tensors="pt",
    )["input_ids"][0].tolist()
    forbidden = set(processor.tokenizer.all_special_ids)
    words = [token for token in range(20, len(processor.tokenizer)) if token not in forbidden]
    tokens = tuple(tuple(rng.choice(words, length).tolist()) for length in answers)
    logprobs = tuple(tuple((-rng.random(length)).tolist()) for length in answers)
    advantages = tuple(rng.normal(size=len(answers)).tolist())
    return TrainingPrompt(text, token_digest(ids), len(ids), metadata, video, tokens, logprobs, advantages, tuple(1 / 20 for _ in answers))


def per_answer(model, processor, prompt):
    """Log-probs of every answer by its own plain forward: full logits, no mask, no packing."""
    (ids, positions), pixels = encode_prompt(prompt, processor, model.config, *videos_of(prompt, lambda frames: frames))
    forbidden = list(named(model.config.model_type).media_token_ids(processor.tokenizer))
    after = int(positions.max()) + 1
    model.set_attn_implementation("sdpa")
    out = []
    for tokens in prompt.tokens_MN:
        answer = torch.tensor(tokens)
        all_positions = torch.cat([positions, (after + torch.arange(len(answer))).expand(3, -1)], 1)
        hidden = model.model(input_ids=torch.cat([ids, answer])[None], position_ids=all_positions[:, None], use_cache=False, **pixels).last_hidden_state[0]
        logits = torch.nn.functional.linear(hidden, model.lm_head.weight)
        logits[:, forbidden] = float("-inf")
        out.append(torch.log_softmax(logits[len(ids) - 1 : -1], -1).gather(-1, answer[:, None])[:, 0])
    return torch.cat(out)


def patched(family, processor, size, *, seed):
    """A repaired slot: the second answer under the prompt with two evidence frames. Ids straight from the processor, not from `pack`."""
    plain = make_prompt(processor, size, seed=seed, answers=(4,))
    evidence = np.random.default_rng(seed + 100).integers(0, 255, (2, *size, 3), dtype=np.uint8)
    moments = [(2.5, None), (3.0, (0.0, 0.0, 0.5, 0.5))]
    patch, placeholder = EvidencePatch("temporal", "Look at 3 s.", ((2.0, 4.0),)), named(family).placeholder
    text, metadata = patched_prompt(plain.prompt, patch, moments, placeholder), evidence_metadata(moments, size)
    ids = processor(
        text=[text],
        videos=[plain.frames, np.repeat(evidence, 2, axis=0)],
        video_metadata=[VideoMetadata(**{k: v for k, v in one.items() if k != "do_sample_frames"}) for one in (plain.video_metadata, metadata)],
        do_sample_frames=False,
        return_tensors="pt",
    )["input_ids"][0].tolist()
    own = {"prompt": text, "prompt_digest": token_digest(ids), "prompt_tokens": len(ids)}
    return dataclasses.replace(plain, **own, evidence_frames=evidence, evidence_metadata=metadata)


def test_a_repaired_slot_is_learned_under_its_patched_prompt(tiny):
    """Log-probs and gradients of the chosen tokens equal a direct forward under the patched prompt, and not one under the plain prompt."""
    model, processor, size = tiny
    plain, repaired = make_prompt(processor, size, seed=8, answers=(3, 2)), patched(model.config.model_type, processor, size, seed=9)
    wrapped = AnswerLogProbs(model, chunk=4, forbidden=named(model.config.model_type).media_token_ids(processor.tokenizer), temperature=1.0)

    model.zero_grad()
    batch = pack([plain, repaired], processor, model.config)
    packed = wrapped(batch)
    (packed * batch.advantages_A).sum().backward()
    packed_gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    separate = torch.cat([per_answer(model, processor, prompt) for prompt in (plain, repaired)])
    (separate * batch.advantages_A).sum().backward()

    assert relative(packed, separate) < 1e-5
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.norm() > 1e-6:
            assert relative(packed_gradients[name], parameter.grad) < 1e-5, name
    without = make_prompt(processor, size, seed=9, answers=(4,))
    assert relative(per_answer(model, processor, without), per_answer(model, processor, repaired)) > 1e-3


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_loss_and_gradients_equal_separate_forwards(tiny):
    model, processor, size = tiny
    prompts = [make_prompt(processor, size, seed=1, answers=(3, 1, 5)), make_prompt(processor, size, seed=2, answers=(4, 2), frames=6)]
    wrapped = AnswerLogProbs(model, chunk=4, forbidden=named(model.config.model_type).media_token_ids(processor.tokenizer), temperature=1.0)

    model.zero_grad()
    batch = pack(prompts, processor, model.config)
    packed = wrapped(batch)
    (packed * batch.advantages_A).sum().backward()
    packed_gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    separate = torch.cat([per_answer(model, processor, prompt) for prompt in prompts])
    (separate * batch.advantages_A).sum().backward()

    assert relative(packed, separate) < 1e-5
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.norm() > 1e-6:
            assert relative(packed_gradients[name], parameter.grad) < 1e-5, name
    assert any("visual" in name for name in packed_gradients)


@pytest.fixture
def uncompiled():
    """Not compiled, flex attention needs no compiler."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_flex_attention_gives_the_same(tiny, uncompiled):
    """Log-probs of several prompts, one of them repaired, equal those under sdpa. Gradients: tests/gpu, CPUs have none for it."""
    model, processor, size = tiny
    prompts = [
        make_prompt(processor, size, seed=1, answers=(3, 1, 5)),
        patched(model.config.model_type, processor, size, seed=9),
        make_prompt(processor, size, seed=2, answers=(4, 2)),
    ]
    batch, found = pack(prompts, processor, model.config), {}
    for kind, name in PACKED.items():
        wrapped = AnswerLogProbs(model, chunk=4, forbidden=named(model.config.model_type).media_token_ids(processor.tokenizer), temperature=1.0, attention=kind)
        assert model.model.language_model.config._attn_implementation == name and model.model.visual.config._attn_implementation == WINDOWS
        with torch.no_grad():
            found[kind] = wrapped(batch)
    assert relative(found["flex_attention"], found["sdpa"]) < 1e-5


SEEN = ["1......", "11.....", "111....", "1111...", "11..1..", ".....1.", ".....11"]
"""Two prompts of two tokens and of one; the first has answers of two tokens and of one, the second an answer of one. Written out by hand."""
LENGTHS = [[2, 2, 1], [1, 1]]


def test_the_mask_hides_other_answers_and_prompts():
    mask = attention_arguments(LENGTHS, "flex_attention", torch.device("cpu"), torch.float32)["attention_mask"]
    places = torch.arange(7)
    assert ["".join("1" if mask.mask_mod(0, 0, query, key) else "." for key in places) for query in places] == SEEN


@pytest.mark.parametrize("together", [1, 3, 100])
def test_attention_over_a_packed_row_is_that_under_the_mask(monkeypatch, together):
    """Three query heads to one of keys; values and gradients, in double precision, against softmax with the mask above. Answers apart and together."""
    monkeypatch.setattr("rlvid.learner.attention.TOGETHER", together)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 7, 8, dtype=torch.double, requires_grad=True) for heads in (6, 2, 2))
    module = torch.nn.Module()
    module.num_key_value_groups = 3
    row = [Part(prompt, answers, torch.device("cpu"), torch.double) for prompt, *answers in LENGTHS]
    found, _ = packed_sdpa(module, query, key, value, None, row=row, scaling=0.3)
    hidden = torch.tensor([[one != "1" for one in line] for line in SEEN])
    scores = (query @ key.repeat_interleave(3, 1).transpose(2, 3) * 0.3).masked_fill(hidden, float("-inf"))
    known = (scores.softmax(-1) @ value.repeat_interleave(3, 1)).transpose(1, 2)
    assert torch.allclose(found, known, atol=1e-12)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((result * weights).sum(), (query, key, value)) for result in (found, known)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_chunks_do_not_matter(tiny):
    model, processor, size = tiny
    batch = pack([make_prompt(processor, size, seed=3, answers=(7, 6))], processor, model.config)
    forbidden = named(model.config.model_type).media_token_ids(processor.tokenizer)
    one, many = (AnswerLogProbs(model, chunk=chunk, forbidden=forbidden, temperature=0.7)(batch) for chunk in (100, 3))
    assert torch.allclose(one, many, atol=1e-6)


@pytest.mark.parametrize("chunk", [2, 5, 100])
def test_the_head_is_log_softmax_with_its_gradients(chunk):
    """Against autograd through all logits at once, with a temperature and forbidden tokens; a frozen head has no gradient."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(5, 8, requires_grad=True), torch.nn.Parameter(torch.randn(11, 8)), torch.tensor([3, 4, 10, 3, 0])
    head = LogProbHead(weight, chunk=chunk, forbidden=(1, 2), temperature=0.7)
    logits = (hidden @ weight.T / 0.7).index_fill(1, torch.tensor([1, 2]), float("-inf"))
    known = logits.log_softmax(-1)[torch.arange(5), targets]
    found = head(hidden, targets)
    assert torch.allclose(found, known, atol=1e-6)
    upstream = torch.randn(5)
    for ours, theirs in zip(*(torch.autograd.grad(one, (hidden, weight), upstream) for one in (found, known)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    weight.requires_grad_(False)
    head(hidden, targets).sum().backward()
    assert weight.grad is None and hidden.grad is not None


def test_forbidden_tokens_have_no_probability(tiny):
    model, processor, size = tiny
    prompt = make_prompt(processor, size, seed=4, answers=(2,))
    forbidden = named(model.config.model_type).media_token_ids(processor.tokenizer)
    batch = pack([dataclasses.replace(prompt, tokens_MN=((forbidden[0], forbidden[1]),))], processor, model.config)
    assert torch.isneginf(AnswerLogProbs(model, chunk=10, forbidden=forbidden, temperature=1.0)(batch)).all()


def test_a_prompt_that_differs_from_the_engines_is_refused(tiny):
    model, processor, size = tiny
    prompt = dataclasses.replace(make_prompt(processor, size, seed=5, answers=(2,)), prompt_digest="0" * 16)
    with pytest.raises(ValueError, match="the engine's prompt and the learner's differ"):
        pack([prompt], processor, model.config)


def test_positions_equal_transformers_where_it_is_right(tiny):
    model, processor, size = tiny
    prompt = make_prompt(processor, size, seed=6, answers=(2,))
    (ids, positions), pixels = encode_prompt(prompt, processor, model.config, prompt.frames)
    types = (ids == model.config.video_token_id).int() * 2
    theirs, _ = model.model.get_rope_index(ids[None], mm_token_type_ids=types[None], video_grid_thw=pixels["video_grid_thw"], second_per_grid_ts=None)
    if model.config.model_type == "qwen3_vl":
        assert torch.equal(positions, theirs[:, 0])
    else:
        video = ids == model.config.video_token_id
        assert torch.equal(positions[1:, video], theirs[1:, 0, video])  # height and width; time and what follows is where transformers departs


def test_budget_and_ranks(tiny):
    _, processor, size = tiny
    prompts = [make_prompt(processor, size, seed=seed, answers=(3,) * (1 + seed % 4)) for seed in range(9)]
    longest = max(prompt.length for prompt in prompts)
    for budget in (1, longest, 3 * longest, 10**6):
        batches = split_by_budget(prompts, budget)
        assert [prompt for batch in batches for prompt in batch] == prompts
        assert all(len(batch) == 1 or sum(p.length for p in batch) <= budget for batch in batches)
    shares = spread_over_ranks(prompts, 4, 2 * longest)
    assert len({len(share) for share in shares}) == 1
    real = [prompt for share in shares for batch in share for prompt in batch if any(prompt.weights_M)]
    assert sorted(map(id, real)) == sorted(map(id, prompts))


@pytest.mark.parametrize("lengths", [(4, 4, 4, 4), (6, 3, 6, 1, 3), (5,)])
def test_windows_do_not_see_each_other(lengths):
    """Those of one length attend in one call, each as if it were alone, and stand where they stood."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, sum(lengths), 8, generator=generator) for _ in range(3)]
    borders = torch.tensor((0, *lengths)).cumsum(0)
    together, _ = sdpa_in_windows(None, *tensors, cu_seq_lens_q=borders, scaling=0.3, attention_mask=None)
    windows = zip(*(tensor.split(lengths, dim=2) for tensor in tensors), strict=True)
    alone = torch.cat([torch.nn.functional.scaled_dot_product_attention(*window, scale=0.3).transpose(1, 2) for window in windows], dim=1)
    assert torch.allclose(together, alone, atol=1e-6)
