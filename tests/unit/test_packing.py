"""One forward for a prompt and all its answers is exactly the separate forwards, for every model family. The rest of the contract with a family stands in
tests/integration/test_families.py."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from transformers.video_utils import VideoMetadata

from rlvid.data.prompts import chat_prompt
from rlvid.families import FAMILIES, named
from rlvid.families.checkpoint import load_model, load_processor
from rlvid.families.delta_net import alike, delta_rule, forks
from rlvid.learner.attention import PACKED, WINDOWS, PatchProduct, attention_arguments, packed_sdpa, sdpa_in_windows, set_attention
from rlvid.learner.logprobs import AnswerLogProbs, LogProbHead
from rlvid.learner.merged import Look, Ragged, Row, plain, plain_backward
from rlvid.learner.packing import encode_prompts, media_of, pack, split_by_budget, spread_over_ranks
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


KINDS = [("video",), ("image",), ("video", "video"), ("image", "video"), ()]
"""What questions may show. Some show the other order, and several images of several sizes."""


def make_media_prompt(processor, size, kinds, *, seed, answers):
    """A prompt with these media at marks inside its text, and words around them; ids straight from the processor."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    height, width = size
    media, metadata = [], []
    for number, kind in enumerate(kinds):
        if kind == "image":
            tall = height if number % 2 == 0 else height // 2
            media.append(rng.integers(0, 255, (tall, width, 3), dtype=np.uint8))
            metadata.append(None)
        else:
            frames = 4 + 2 * (number % 2)
            media.append(rng.integers(0, 255, (frames, *size, 3), dtype=np.uint8))
            times_s = tuple(np.sort(rng.uniform(0, 9, frames)).round(3).tolist())
            metadata.append(video_metadata(VariantSpec("uniform", times_s, None, size, 0)))
    words = " ".join(f"at {number} <{kind}>" for number, kind in enumerate(kinds))
    text = chat_prompt(processor, f"What colour is it? {seed} {words} seen?", media=kinds)
    given = {"videos": [one for one in media if one.ndim == 4]} if "video" in kinds else {}
    if given:
        told = [VideoMetadata(**{k: v for k, v in one.items() if k != "do_sample_frames"}) for one in metadata if one]
        given |= {"video_metadata": told, "do_sample_frames": False}
    if "image" in kinds:
        given["images"] = [Image.fromarray(one) for one in media if one.ndim == 3]
    ids = processor(text=[text], **given, return_tensors="pt")["input_ids"][0].tolist()
    forbidden = set(processor.tokenizer.all_special_ids)
    known = [token for token in range(20, len(processor.tokenizer)) if token not in forbidden]
    tokens = tuple(tuple(rng.choice(known, length).tolist()) for length in answers)
    logprobs = tuple(tuple((-rng.random(length)).tolist()) for length in answers)
    advantages = tuple(rng.normal(size=len(answers)).tolist())
    return TrainingPrompt(text, token_digest(ids), len(ids), tuple(metadata), tuple(media), tokens, logprobs, advantages, tuple(1 / 20 for _ in answers))


def all_kinds(processor, size, each=4):
    """So many of each kind, some in another order: 4 video, 4 image, 4 two-video, 4 image-and-video and 4 text-only questions."""
    prompts = []
    for number in range(each):
        for at, kinds in enumerate(KINDS):
            seed = 10 * number + at
            if kinds == ("video",):
                prompts.append(make_prompt(processor, size, seed=seed, answers=(3, 1)))
            else:
                turned = (kinds[::-1], kinds, (*kinds, *kinds[:1]), kinds)[number % 4]
                prompts.append(make_media_prompt(processor, size, turned, seed=seed, answers=(2, 1 + number)))
    return prompts


def plainly(model, processor, prompt):
    """Log-probs of every answer by transformers' own forward: images and videos apart, ids as the processor gives them. Positions as for the packed row."""
    from PIL import Image

    own = prompt.video_metadata
    media = list(prompt.frames) if isinstance(prompt.frames, tuple) else [prompt.frames]
    told = [VideoMetadata(**{k: v for k, v in one.items() if k != "do_sample_frames"}) for one in ((own,) if isinstance(own, dict) else own) if one]
    given = {"videos": [one for one in media if one.ndim == 4], "video_metadata": told, "do_sample_frames": False} if told else {}
    if images := [Image.fromarray(one) for one in media if one.ndim == 3]:
        given["images"] = images
    made = processor(text=[prompt.prompt], **given, return_tensors="pt")
    pixels = {name: made[name] for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw") if name in made}
    ((ids, positions),), _ = encode_prompts([prompt], processor, model.config, [media])
    ids, positions = torch.from_numpy(ids), torch.from_numpy(positions)
    assert ids.tolist() == made["input_ids"][0].tolist()
    forbidden = list(named(model.config.model_type).media_token_ids(processor.tokenizer))
    after = int(positions.max()) + 1
    out = []
    for tokens in prompt.tokens_MN:
        answer = torch.tensor(tokens)
        all_positions = torch.cat([positions, (after + torch.arange(len(answer))).expand(3, -1)], 1)
        hidden = model.model(input_ids=torch.cat([ids, answer])[None], position_ids=all_positions[:, None], use_cache=False, **pixels).last_hidden_state[0]
        logits = torch.nn.functional.linear(hidden, model.lm_head.weight)
        logits[:, forbidden] = float("-inf")
        out.append(torch.log_softmax(logits[len(ids) - 1 : -1], -1).gather(-1, answer[:, None])[:, 0])
    return torch.cat(out)


def takes_both_at_once(model, prompt) -> bool:
    """transformers' GLM-4.1V looks for images and for videos by one token, and refuses a prompt with both."""
    shown = named(model.config.model_type).kinds_in(prompt.prompt)
    return model.config.model_type != "glm4v" or len(set(shown)) < 2


def test_questions_of_all_kinds_in_one_row_equal_separate_forwards(tiny):
    """Log-probs and gradients, the vision tower's too, of 4 video, 4 image, 4 two-video, 4 image-and-video and 4 text-only prompts in one micro-batch."""
    model, processor, size = tiny
    prompts = [prompt for prompt in all_kinds(processor, size) if takes_both_at_once(model, prompt)]
    wrapped = AnswerLogProbs(model, chunk=4, forbidden=named(model.config.model_type).media_token_ids(processor.tokenizer), temperature=1.0)
    model.zero_grad()
    batch = pack(prompts, processor, model.config)
    packed = wrapped(batch)
    (packed * batch.advantages_A).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    model.set_attn_implementation("sdpa")
    separate = torch.cat([plainly(model, processor, prompt) for prompt in prompts])
    (separate * batch.advantages_A).sum().backward()
    assert relative(packed, separate) < 1e-5
    assert_same_gradients(gradients, model)


def test_a_row_that_shows_nothing_calls_the_vision_tower_once_with_gradients_of_zero(tiny):
    """As every other row does: or ranks would wait for one another. What it computes is what it computes beside rows that show something."""
    model, processor, size = tiny
    text = [make_media_prompt(processor, size, (), seed=seed, answers=(3, 2)) for seed in range(2)]
    wrapped = AnswerLogProbs(model, chunk=4, forbidden=(), temperature=1.0)
    vision, calls = named(model.config.model_type).vision(model), []
    watch = vision.register_forward_hook(lambda *_: calls.append(1))
    try:
        for prompts in (text, all_kinds(processor, size, each=1)):
            model.zero_grad()
            batch = pack(prompts, processor, model.config)
            wrapped(batch).sum().backward()
            assert all(p.grad is not None for p in vision.parameters() if p.requires_grad)
            assert any(float(p.grad.abs().max()) > 0 for p in vision.parameters()) == (prompts is not text)
        assert len(calls) == 2
    finally:
        watch.remove()
    model.zero_grad()
    alone = wrapped(pack(text, processor, model.config))
    beside = wrapped(pack([*text, make_prompt(processor, size, seed=5, answers=(1,))], processor, model.config))
    assert relative(alone, beside[: len(alone)]) < 1e-5


def test_media_in_another_order_are_another_prompt(tiny):
    """The learner refuses a prompt whose media are not those of its places, and an image in the place of another is not the same."""
    model, processor, size = tiny
    prompt = make_media_prompt(processor, size, ("image", "video", "image"), seed=3, answers=(2,))
    first, video, last = prompt.frames
    with pytest.raises(ValueError, match="the prompt has places for image, video, image, there are video, image, image"):
        encode_prompts([prompt], processor, model.config, [[video, first, last]])
    with pytest.raises(ValueError, match="there are image, video"):
        encode_prompts([dataclasses.replace(prompt, prompt_digest="")], processor, model.config, [[first, video]])


def encode_prompt(prompt, processor, config, *videos):
    """((input_ids [P], position_ids [3, P]), pixels) of one prompt, as tensors."""
    ((ids, positions),), pixels = encode_prompts([prompt], processor, config, [videos])
    return (torch.from_numpy(ids), torch.from_numpy(positions)), pixels


def per_answer(model, processor, prompt):
    """Log-probs of every answer by its own plain forward: full logits, no mask, no packing."""
    (ids, positions), pixels = encode_prompt(prompt, processor, model.config, *media_of(prompt, lambda frames: frames))
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
    assert_same_gradients(packed_gradients, model)
    without = make_prompt(processor, size, seed=9, answers=(4,))
    assert relative(per_answer(model, processor, without), per_answer(model, processor, repaired)) > 1e-3


def relative(a, b):
    return float((a - b).norm() / b.norm())


DECAY = ("A_log", "dt_bias", "in_proj_a.weight")
"""Of gated delta nets: their gradients are small differences of large numbers, which transformers computes in float32."""


def assert_same_gradients(packed, model):
    """All together to 1e-5, and each parameter's; to 1e-4 where a chunked rule's float32 rounds them, the decay's as far as they count among all."""
    known = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    everything = torch.cat([gradient.flatten() for gradient in known.values()])
    assert relative(torch.cat([packed[name].flatten() for name in known]), everything) < 1e-5
    share = 1e-4 if any("linear_attn" in name for name in known) else 1e-5
    for name, gradient in known.items():
        if gradient.norm() > 1e-6:
            rounding = 1e-6 * everything.norm() if name.endswith(DECAY) else 0.0
            assert (packed[name] - gradient).norm() < share * gradient.norm() + rounding, name


def one_by_one(query, key, value, g, beta, initial_state=None, output_final_state=False, **_):
    """The gated delta rule as it is written, a token at a time, in float64; transformers' interface."""
    query, key, value, decay, rate = (tensor.double() for tensor in (query, key, value, g, beta))
    query, key = (rows / (rows.square().sum(-1, keepdim=True) + 1e-6).sqrt() for rows in (query, key))
    state = query.new_zeros(*key.shape[::2], key.shape[-1], value.shape[-1]) if initial_state is None else initial_state.double()
    outputs = []
    for at in range(query.shape[1]):
        state = state * decay[:, at, :, None, None].exp()
        new = (value[:, at] - torch.einsum("bdk,bdkv->bdv", key[:, at], state)) * rate[:, at, :, None]
        state = state + torch.einsum("bdk,bdv->bdkv", key[:, at], new)
        outputs.append(torch.einsum("bdk,bdkv->bdv", query[:, at], state) * query.shape[-1] ** -0.5)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("length", [1, 32, 33, 150])
def test_qwen3_5_delta_rule_is_that_of_single_tokens(length, begun):
    """Outputs, the state behind them, and all gradients, under decays that leave nothing of a token after some thirty others."""
    torch.manual_seed(length)
    tensors = [torch.randn(2, length, 3, size) for size in (8, 8, 12)] + [-torch.rand(2, length, 3) * 9, torch.rand(2, length, 3)]
    tensors += [torch.randn(2, 3, 8, 12)] * begun
    upstream = torch.randn(2, length, 3, 12), torch.randn(2, 3, 8, 12)
    found, gradients = [], []
    for rule in (delta_rule, one_by_one):
        given = [tensor.clone().requires_grad_() for tensor in tensors]
        found.append(rule(*given, *[None] * (not begun)))
        gradients.append(torch.autograd.grad(sum((one * by).sum() for one, by in zip(found[-1], upstream, strict=True)), given))
    for ours, theirs in [*zip(*found, strict=True), *zip(*gradients, strict=True)]:
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


@pytest.mark.parametrize("tied", [False, True])
def test_qwen3_5_forks_its_state_for_every_answer(tmp_path, tied, monkeypatch):
    """Several prompts, answers of 1 to 300 tokens, under gradient checkpointing as in training; and the layers alone, which see nothing else. Every token's
    log-prob to 1e-5, against separate forwards in float64: transformers' own float32 is further from those than the packed row is."""
    folder = build_tiny_model(tmp_path, CORPUS, family="qwen3_5", tied=tied, seed=2)
    model = load_model(str(folder), dtype=torch.float32, attn_implementation="sdpa")
    processor, size = load_processor(str(folder)), named("qwen3_5").tiny_frame
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied
    lengths = ((1, 300, 5), (64, 2, 65, 1), (7,))
    prompts = [make_prompt(processor, size, seed=seed, answers=answers, frames=2 + 2 * seed) for seed, answers in enumerate(lengths)]
    batch = pack(prompts, processor, model.config)
    forbidden = named("qwen3_5").media_token_ids(processor.tokenizer)
    wrapped = AnswerLogProbs(copy.deepcopy(model), chunk=64, forbidden=forbidden, temperature=1.0).train()
    wrapped.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    packed = wrapped(batch)
    (packed * batch.advantages_A).sum().backward()
    gradients = {name: parameter.grad for name, parameter in wrapped.model.named_parameters() if parameter.grad is not None}
    separate = torch.cat([per_answer(model, processor, prompt) for prompt in prompts])
    (separate * batch.advantages_A).sum().backward()
    assert relative(packed, separate) < 1e-6
    assert_same_gradients(gradients, model)
    monkeypatch.setattr("transformers.models.qwen3_5.modeling_qwen3_5.torch_chunk_gated_delta_rule", one_by_one)
    with torch.no_grad():
        exact = torch.cat([per_answer(model.double(), processor, prompt) for prompt in prompts])
    assert float((packed - exact).abs().max()) < 1e-5


def test_qwen3_5_answers_of_one_length_run_side_by_side():
    assert alike([3, 64, 65, 128, 129, 300, 1, 256]) == [[0, 6], [1], [2, 3], [4, 7], [5]]
    (fork,) = forks([[5, 2, 70, 1]], torch.device("cpu"))
    assert sorted(fork.order_N.tolist()) == list(range(78))
    short, long = fork.batches
    assert short.places_GL.tolist() == [[5, 6], [77, 77]] and short.real_N.tolist() == [0, 1, 2]
    assert long.places_GL.tolist() == [list(range(7, 77))]


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
    assert_same_gradients(packed_gradients, model)
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


ROWS = [
    LENGTHS,
    [[10, 3, 4, 5]],
    [[10, 3, 3, 3]],
    [[10, 3, 3, 3], [11, 3, 3, 3], [10, 2, 4], [40, 20, 30]],
    [[66, 2, 2, 3, 2]] * 4,
    [[100, 70, 3, 90, 1], [120, 80, 85, 2]],
    [[5, 0, 2], [9, 1]],
]
"""One prompt and several, alike and not, answers of one length and of several, one of them empty."""


def hidden_in(lengths):
    """[N, N], True where a query sees nothing of a key, token by token."""
    owner = [(prompt, answer) for prompt, parts in enumerate(lengths) for answer, length in enumerate(parts) for _ in range(length)]
    return torch.tensor([[key > query or k[0] != q[0] or k[1] not in (0, q[1]) for key, k in enumerate(owner)] for query, q in enumerate(owner)])


def test_what_is_hidden_is_as_written_out_by_hand():
    assert hidden_in(LENGTHS).tolist() == [[one != "1" for one in line] for line in SEEN]


def in_plain(monkeypatch):
    """The formula in place of the kernel, seven queries at a time."""
    monkeypatch.setattr("rlvid.learner.merged.PLAIN", 7)

    def hidden(look):
        return None if look.causal else look.keys.hidden_B11L

    def back(look, gradient, taken, output, total, scale):
        gradient, total = look.queries.silence(gradient, total)
        return plain_backward(gradient, *taken, output, total, hidden(look), look.causal, scale)

    monkeypatch.setattr(Look, "ahead", lambda look, *taken_scale: plain(*taken_scale[:-1], hidden(look), look.causal, taken_scale[-1]))
    monkeypatch.setattr(Look, "back", back)


def in_ragged(monkeypatch):
    """CUDA's kernels for rows without padding, by what their documentation says of them: one segment after the other."""

    def pieces(ends):
        return [slice(*pair) for pair in itertools.pairwise(ends.tolist())]

    def ahead(query, key, value, ends_q, ends_k, longest_q, longest_k, _dropout, causal, _debug, *, scale):
        assert longest_q == ends_q.diff().max() and longest_k == ends_k.diff().max()
        parts = [
            plain(*(one.transpose(0, 1)[None] for one in (query[q], key[k], value[k])), None, causal, scale)
            for q, k in zip(pieces(ends_q), pieces(ends_k), strict=True)
        ]
        return torch.cat([seen[0].transpose(0, 1) for seen, _ in parts]), torch.cat([said[0] for _, said in parts], dim=1), None, None, None

    def back(gradient, query, key, value, output, total, ends_q, ends_k, _longest_q, _longest_k, _dropout, causal, _rng, _unused, *, scale):
        assert total.shape == (query.shape[1], len(query)) and total.is_contiguous()
        found = []
        for q, k in zip(pieces(ends_q), pieces(ends_k), strict=True):
            batch = [one.transpose(0, 1)[None] for one in (gradient[q], query[q], key[k], value[k], output[q])]
            found.append(plain_backward(*batch, total[None, :, q], None, causal, scale))
        return [torch.cat([one[0].transpose(0, 1) for one in column]) for column in zip(*found, strict=True)]

    class Kernels:
        _flash_attention_forward = staticmethod(ahead)
        _flash_attention_backward = staticmethod(back)

    monkeypatch.setattr("rlvid.learner.merged.KERNELS", Kernels)


@pytest.mark.parametrize("lengths", ROWS, ids=str)
@pytest.mark.parametrize("slack", [0, 16])
@pytest.mark.parametrize("way", ["kernel", "plain", "ragged"])
def test_attention_over_a_packed_row_is_that_under_the_mask(monkeypatch, way, slack, lengths):
    """Three query heads to one of keys; values and gradients, in double precision, against softmax with the mask written out token by token."""
    monkeypatch.setattr("rlvid.learner.merged.SLACK", slack)
    row = Row(lengths, torch.device("cpu"), torch.double, ragged=way == "ragged")
    assert isinstance(row.answers[0].queries, Ragged) == (way == "ragged")
    {"kernel": lambda _: None, "plain": in_plain, "ragged": in_ragged}[way](monkeypatch)
    torch.manual_seed(0)
    tokens = sum(map(sum, lengths))
    query, key, value = (torch.randn(1, heads, tokens, 8, dtype=torch.double, requires_grad=True) for heads in (6, 2, 2))
    found, _ = packed_sdpa(None, query, key, value, None, row=row, scaling=0.3)
    scores = (query @ key.repeat_interleave(3, 1).transpose(2, 3) * 0.3).masked_fill(hidden_in(lengths), float("-inf"))
    known = (scores.softmax(-1) @ value.repeat_interleave(3, 1)).transpose(1, 2)
    assert torch.allclose(found, known, atol=1e-12)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((result * weights).sum(), (query, key, value)) for result in (found, known)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_in_half_precision_the_merge_loses_nothing():
    """bfloat16 against the formula in double precision: no worse than one call of torch's attention under the mask."""
    lengths = [[300, 40, 64, 64], [280, 50, 3]]
    torch.manual_seed(0)
    exact = [torch.randn(1, heads, sum(map(sum, lengths)), 16, dtype=torch.double) for heads in (4, 2, 2)]
    query, key, value = (one.bfloat16() for one in exact)
    found, _ = packed_sdpa(None, query, key, value, None, row=Row(lengths, torch.device("cpu"), torch.bfloat16), scaling=0.25)
    known, one_call = (
        torch.nn.functional.scaled_dot_product_attention(*taken, attn_mask=~hidden_in(lengths), scale=0.25, enable_gqa=True).transpose(1, 2)
        for taken in ((query.double(), key.double(), value.double()), (query, key, value))
    )
    assert (found.double() - known).abs().max() < 2 * (one_call.double() - known).abs().max()


def test_no_copy_of_the_prompts_keys_is_kept():
    """What autograd keeps of a row's attention: queries, keys and values as they came, the output, and a number a query and head."""
    lengths, heads, size = [[400] + [20] * 8], 4, 16
    tensors = [torch.randn(1, count, sum(lengths[0]), size, requires_grad=True) for count in (heads, 2, 2)]
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.setdefault(one.data_ptr(), one), lambda one: one):
        packed_sdpa(None, *tensors, None, row=Row(lengths, torch.device("cpu"), torch.float32), scaling=0.25)
    assert sum(one.numel() for one in kept.values()) == sum(lengths[0]) * (heads * size * 2 + 2 * 2 * size + heads)


def test_a_patch_is_embedded_by_a_product_that_is_the_convolution(tiny):
    """Value and gradients; patches that are no whole kernel are refused."""
    model = copy.deepcopy(tiny[0])
    set_attention(model, "sdpa")
    product = model.model.visual.patch_embed.proj
    assert isinstance(product, PatchProduct)
    patches = torch.randn(5, 3, *product.kernel_size, requires_grad=True)
    known, found = torch.nn.Conv3d.forward(product, patches), product(patches)
    assert found.shape == known.shape and relative(found, known) < 1e-5
    wanted = torch.randn_like(known)
    for ours, theirs in zip(*(torch.autograd.grad(one, (patches, product.weight), wanted) for one in (found, known)), strict=True):
        assert relative(ours, theirs) < 1e-5
    with pytest.raises(AssertionError, match="a patch of"):
        product(torch.randn(1, 3, 4, 14, 14))


def test_the_last_mlp_sees_only_tokens_that_predict(tiny):
    """Every answer's but its last, and each prompt's last; checkpointing computes the same."""
    model, processor, size = tiny
    model = copy.deepcopy(model).train()
    batch = pack([make_prompt(processor, size, seed=seed, answers=(3, 1, 4)) for seed in (1, 2)], processor, model.config)
    wrapped = AnswerLogProbs(model, chunk=100, forbidden=named(model.config.model_type).media_token_ids(processor.tokenizer), temperature=1.0)
    seen, gradients = [], []
    mlp = model.model.language_model.layers[-1].mlp
    first = next(getattr(mlp, name) for name in ("gate", "gate_proj", "gate_up_proj") if hasattr(mlp, name))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2]))
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        (wrapped(batch) * batch.advantages_A).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert seen == [2 * (1 + 2 + 0 + 3)] * 3
    assert relative(*gradients) < 1e-5


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


@pytest.mark.parametrize("chunk", [2, 100])
def test_the_entropy_is_the_distributions_with_its_gradient(chunk):
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets, upstream = torch.tensor([3, 4, 5, 9, 10]), torch.randn(2, 5)
    logits = (hidden @ weight.T / 0.7).index_fill(1, torch.tensor([1, 2]), float("-inf"))
    known = logits.log_softmax(-1)[torch.arange(5), targets], torch.special.entr(logits.softmax(-1)).sum(-1)
    found = LogProbHead(weight, chunk=chunk, forbidden=(1, 2), temperature=0.7, entropy=True)(hidden, targets)
    for ours, theirs in zip(found, known, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    # The formula's own gradient is not a number where p = 0: the forbidden tokens are left out of it.
    allowed = (hidden @ weight.T / 0.7)[:, [0, 3, 4, 5, 6, 7, 8, 9, 10]]
    plain = torch.stack([known[0], torch.special.entr(allowed.softmax(-1)).sum(-1)])
    for ours, theirs in zip(*(torch.autograd.grad((both * upstream).sum(), (hidden, weight)) for both in (torch.stack(found), plain)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_forbidden_tokens_have_no_probability(tiny):
    model, processor, size = tiny
    prompt = make_prompt(processor, size, seed=4, answers=(2,))
    forbidden = named(model.config.model_type).media_token_ids(processor.tokenizer)
    not_seen = [token for token in forbidden if token != getattr(model.config, named(model.config.model_type).frame_key)]
    batch = pack([dataclasses.replace(prompt, tokens_MN=(tuple(not_seen[:2]),))], processor, model.config)
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
    frames = ids == getattr(model.config, named(model.config.model_type).frame_key)
    types = frames.int() * 2
    theirs, _ = model.model.get_rope_index(ids[None], mm_token_type_ids=types[None], video_grid_thw=pixels["video_grid_thw"], second_per_grid_ts=None)
    if model.config.model_type != "qwen2_5_vl":
        assert torch.equal(positions, theirs[:, 0])
    else:
        assert torch.equal(positions[1:, frames], theirs[1:, 0, frames])  # height and width; time and what follows is where transformers departs


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
