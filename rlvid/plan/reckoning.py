"""Memory by role and part, tokens and bytes of a config, worked out from the shapes of its model. Sources of the formulas:

- Weights, gradients, optimizer state by ZeRO stage: Rajbhandari et al., arXiv 1910.02054, section 3 (2 + 2 + 12 bytes a parameter in mixed
  precision, each part divided by the ranks from its stage on). DeepSpeed keeps the float32 master copy in float32 training, too.
- Activations: counted from the tensors that autograd keeps for Qwen's layers over a packed row (see learner/merged.py), in the manner of Korthikanti et al.,
  arXiv 2205.05198, section 4; tests compare the count with the tensors that a real forward keeps.
- Key-value cache: 2 x layers x key-value heads x head size x bytes a token (Kwon et al., arXiv 2309.06180, section 3).
- [D] what is left is this project's estimate, and named so where it stands.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rlvid.config import Config
from rlvid.data.questions import shown_counts
from rlvid.plan.model_size import ModelSize, Tower
from rlvid.video.budget import Budget, most_tokens

GIB = 2**30
TEXT_TOKENS = 200
"""[D] Question, options, instructions and template of one prompt."""
DEVICE_BYTES = int(1.5 * GIB)
"""[D] CUDA context, libraries' workspaces and collectives' buffers of one process on a GPU."""
GRAPH_BYTES = GIB
"""[D] CUDA graphs of an engine without enforce_eager."""
LOGIT_BYTES = 8
"""Bytes that one logit of a chunk costs in the backward pass: itself in float32, which becomes its own gradient, and copies of that in bfloat16 before and
after."""
STEP_BYTES, KEPT_STEP_BYTES = 8, 12
"""Bytes a trained parameter (divided by the ranks) while AdamW steps: the gradient in float32, and what is computed beside it; twice on CPU, but where memory
is given back at once (gradient checkpointing)."""
LINEAR_COPIES = 8
"""Of queries, keys and values together: what torch's own gated delta rule keeps in float32."""
BUCKET_ELEMENTS, LIVE_ELEMENTS = 5 * 10**8, 10**9
"""DeepSpeed's defaults: reduce_bucket_size, and stage3_max_live_parameters."""


@dataclass(frozen=True)
class Assumed:
    """What the config does not say. `gpu_memory_gib` of each GPU; None: no GPU. `answer_tokens`: mean length; 0: as long as allowed. `shows`: (videos, images)
    of every kind of question; empty: as many as video.most and image.most allow, in one question (one video where they are null)."""

    gpu_memory_gib: float | None = 80.0
    text_tokens: int = TEXT_TOKENS
    answer_tokens: int = 0
    shows: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Tokens:
    """Per step, but for `prompt` (one variant, the longest), `answer` (mean) and `micro_batch` (one pass through the model; of all ranks that share it)."""

    prompt: int
    visual: int
    answer: int
    rollouts: int
    sampled: int
    learned: int
    learned_without_sharing: int
    micro_batch: int
    micro_batch_prompts: int
    micro_batches: int


@dataclass(frozen=True)
class Plan:
    """Bytes per GPU (or process, without GPUs) by part; tokens; bytes of the object store and of a checkpoint."""

    parameters: int
    tokens: Tokens
    learner: dict[str, int]
    engine: dict[str, int]
    cache_tokens: int
    cache_tokens_wanted: int
    frames_bytes: int
    object_store_bytes: int
    checkpoint_bytes: int


def reckon(config: Config, size: ModelSize, assumed: Assumed) -> Plan:
    """The whole reckoning."""
    tokens = count_tokens(config, size, assumed)
    learner, engine = learner_bytes(config, size, tokens), engine_bytes(config, size, assumed)
    frames = frames_bytes(config, size, assumed)
    return Plan(
        parameters=size.parameters,
        tokens=tokens,
        learner=learner,
        engine=engine,
        cache_tokens=engine["key-value cache"] // cache_bytes_per_token(config, size),
        cache_tokens_wanted=cache_tokens_wanted(config, tokens),
        frames_bytes=frames,
        object_store_bytes=frames * (1 + min(1, config.variants.prefetch)),
        checkpoint_bytes=checkpoint_bytes(config, size),
    )


def count_tokens(config: Config, size: ModelSize, assumed: Assumed) -> Tokens:
    """Q questions x K variants x M answers: prompts, answers and micro-batches."""
    videos, images = most_shown(config, size, assumed)
    visual = videos * visual_tokens(config, size) + images * image_tokens(config, size)
    stamps = videos * size.family.timestamp_tokens * (_budget(config, size).frames // size.frames_per_token)
    prompt = min(visual, config.video.max_tokens) + stamps + assumed.text_tokens
    answer = assumed.answer_tokens or config.rollout.max_tokens
    prompts = config.data.questions_per_step * config.variants_per_question
    rollouts = prompts * config.rollout.answers
    longest = prompt + config.rollout.answers * config.rollout.max_tokens
    parts, sharing = config.learner.sequence_parallel, config.learner.ranks // config.learner.sequence_parallel
    together = min(max(1, parts * config.learner.micro_batch_tokens // longest), math.ceil(prompts / sharing))
    return Tokens(
        prompt=prompt,
        visual=visual,
        answer=answer,
        rollouts=rollouts,
        sampled=rollouts * answer,
        learned=prompts * prompt + rollouts * answer,
        learned_without_sharing=rollouts * (prompt + answer),
        micro_batch=together * longest,
        micro_batch_prompts=together,
        micro_batches=math.ceil(math.ceil(prompts / sharing) / together),
    )


def visual_tokens(config: Config, size: ModelSize) -> int:
    """Of one variant of the video that gets most, its frames filling their size: frame pairs x merged patches."""
    return _budget(config, size).tokens


def image_tokens(config: Config, size: ModelSize) -> int:
    """Of one image that fills image.max_pixels."""
    return max(1, config.image.max_pixels // size.factor**2)


def most_shown(config: Config, size: ModelSize, assumed: Assumed) -> tuple[int, int]:
    """(videos, images) of the question that needs most tokens."""
    shows = assumed.shows or ((config.video.most or 1, config.image.most or 0),)
    return max(shows, key=lambda shown: shown[0] * visual_tokens(config, size) + shown[1] * image_tokens(config, size))


def shown_in_files(config: Config) -> tuple[tuple[int, int], ...]:
    """(videos, images) of every kind of question in the run's files, as far as they are here."""
    files = [path for path in (config.data.train, config.data.eval) if path is not None and path.is_file()]
    return tuple(sorted(set[tuple[int, int]]().union(*(shown_counts(path) for path in files))))


def _budget(config: Config, size: ModelSize) -> Budget:
    return most_tokens(config.video, factor=size.factor, frames_per_token=size.frames_per_token)


# --- the learner -----------------------------------------------------------------------------------------------------


def learner_bytes(config: Config, size: ModelSize, tokens: Tokens) -> dict[str, int]:
    """Of one rank, by part. What is not there at the same time is counted once: the optimizer's step comes after the activations are gone."""
    work = activation_bytes(config, size, tokens) + logits_bytes(config, size)
    each = STEP_BYTES if config.on_gpu or config.learner.gradient_checkpointing else KEPT_STEP_BYTES
    step = each * trained_parameters(config, size) // config.learner.ranks
    return state_bytes(config, size) | {
        "activations and logits, or the optimizer's step": max(work, 0 if config.learner.offload_optimizer else step),
        "micro-batches of the step": tokens.micro_batches * _pixels(config, size, tokens),
        "reference policy": model_bytes(config, size)["reference policy"],
        "sync buckets": 2 * push_bytes(config, size) if config.learner.lora.rank else 2 * min(config.sync.bucket_bytes, push_bytes(config, size)),
        "device": DEVICE_BYTES if config.on_gpu else 0,
    }


def start_bytes(config: Config, size: ModelSize) -> dict[str, int]:
    """Most of a rank while the model comes in, on the host and on its GPU (learner/pieces.py): what it keeps, of the reference too, and one piece on its way.

    Without a GPU what it keeps is the host's. Files that engines map into memory are the page cache's, once a node, and not counted.
    """
    kept = sum(model_bytes(config, size).values())
    piece = _width(config) * max(size.vocabulary * size.text.hidden, _layer_parameters(size.text))
    return {"host": 2 * piece, "gpu": kept + piece} if config.on_gpu else {"host": kept + piece, "gpu": 0}


def model_bytes(config: Config, size: ModelSize) -> dict[str, int]:
    """Weights that one rank keeps, and the reference policy's: with an adapter that is the model itself, switched off."""
    kept = _width(config) * size.parameters // (config.learner.ranks if config.learner.zero_stage == 3 else 1)
    second = config.loss.kl_coef and not config.learner.lora.rank
    return {"weights": kept, "reference policy": kept if second else 0}


def _layer_parameters(tower: Tower) -> int:
    return tower.hidden * (2 * tower.attention + 2 * tower.key_value + (3 if tower.gated else 2) * tower.inner)


def state_bytes(config: Config, size: ModelSize) -> dict[str, int]:
    """Weights, gradients, optimizer state and DeepSpeed's buffers of one rank, by ZeRO stage."""
    stage, ranks, width, trained = config.learner.zero_stage, config.learner.ranks, _width(config), trained_parameters(config, size)
    live = min(size.parameters, LIVE_ELEMENTS) if stage == 3 and ranks > 1 else 0
    bucket = BUCKET_ELEMENTS if config.on_gpu else min(trained, BUCKET_ELEMENTS)  # taken whole; a CPU's memory is used as it is touched
    adapter = width * adapter_parameters(config, size)
    return {
        "weights": model_bytes(config, size)["weights"] + adapter // (ranks if stage == 3 else 1),
        "gradients": (((0 if stage >= 2 else width) + 4) if config.sums_in_float32 else width) * trained // (ranks if stage >= 2 else 1),
        "optimizer": 0 if config.learner.offload_optimizer else 12 * trained // ranks,
        "DeepSpeed's buffers": width * (live + bucket),
    }


def activation_bytes(config: Config, size: ModelSize, tokens: Tokens) -> int:
    """What autograd keeps of one micro-batch. With gradient checkpointing: each layer's input, and one layer in full."""
    width, patches = _width(config), _patches(config, size, tokens)
    layers = [(number, each) for number, each in layer_bytes(config, size, tokens) if number]
    row = _row(config, tokens)
    outside = row * (4 + width) * size.text.hidden + patches * size.vision.hidden * (4 + 4 * width) + _pixels(config, size, tokens)
    outside += _gathered(config, size, tokens)
    if not config.learner.gradient_checkpointing:
        return outside + sum(number * each for number, each in layers)
    seen = size.vision.layers if trains_vision(config) else 0
    inputs = width * (size.text.layers * row * size.text.hidden + seen * patches * size.vision.hidden)
    return outside + inputs + max(each for _, each in layers)


def layer_bytes(config: Config, size: ModelSize, tokens: Tokens) -> list[tuple[int, int]]:
    """(how many layers, what each keeps of one micro-batch) for every kind: attention and linear ones of the text model, the vision tower's. A frozen tower
    keeps nothing: no gradient passes through it."""
    width = _width(config)
    attending = _row(config, tokens) * _kept(size.text, width, merged=config.model.attention == "sdpa")
    linear = _row(config, tokens) * _kept_linear(size.text, width, on_gpu=config.on_gpu)
    vision = _patches(config, size, tokens) * _kept(size.vision, width)
    seen = size.vision.layers if trains_vision(config) else 0
    return [(size.text.layers - size.text.linear_layers, attending), (size.text.linear_layers, linear), (seen, vision)]


def _kept(tower: Tower, width: int, *, merged: bool = False) -> int:
    """Bytes per token that one layer keeps for its backward pass: two norms (their input in float32 and what they scale, and the result), queries,
    repeated keys and values, the attention's output twice, and the MLP's inner values. `merged` (learner/merged.py): keys and values as they are, the
    output once. Beside linear layers the output has a gate."""
    attention = width * (2 * tower.attention + 2 * tower.key_value if merged else 5 * tower.attention)
    heads = (4 + width) * (tower.attention + tower.key_value) if tower.query_key_norm else 0
    return _kept_beside(tower, width) + attention + heads + (2 * width * tower.attention if tower.linear_layers else 0)


def _kept_linear(tower: Tower, width: int, *, on_gpu: bool) -> int:
    """The same of a gated delta net's layer [D]: its inputs before and after the convolution, gate and norm; without flash-linear-attention's kernel also the
    float32 copies and the chunks' matrices that torch's own way makes."""
    mixed, value = tower.linear_mixed, tower.linear_value
    own = width * (4 * mixed + 4 * value) + 8 * value
    return _kept_beside(tower, width) + own + (0 if on_gpu else 4 * LINEAR_COPIES * (mixed + value))


def _kept_beside(tower: Tower, width: int) -> int:
    """Of what is the same in every layer: its norms (nobody keeps the results of those behind attention and MLP), and the MLP or the experts that a token
    goes through (on average over the layers)."""
    mlp = (tower.layers - tower.expert_layers) * tower.inner + tower.expert_layers * (tower.active_experts * tower.expert_inner + tower.shared_inner)
    chosen = tower.expert_layers * tower.active_experts * 2 * tower.hidden
    norms = 8 + 4 * width + (tower.norms - 2) * (4 + width)
    return tower.hidden * norms + ((4 if tower.gated else 2) * width * mlp + width * chosen) // tower.layers


def logits_bytes(config: Config, size: ModelSize) -> int:
    """One chunk of answer tokens x vocabulary (the others do not exist yet, or any more), and the head's gradient before it joins the others."""
    answers = math.ceil(config.rollout.answers * config.rollout.max_tokens / config.learner.sequence_parallel)
    head = 0 if config.learner.lora.rank else _width(config) * size.text.hidden
    return size.vocabulary * (LOGIT_BYTES * min(config.learner.logprob_chunk, answers) + head)


def checkpoint_bytes(config: Config, size: ModelSize) -> int:
    """Of all ranks together, on disk: weights, or the adapter alone, and 12 bytes a trained parameter."""
    return push_bytes(config, size) + 12 * trained_parameters(config, size)


def trained_parameters(config: Config, size: ModelSize) -> int:
    if config.learner.lora.rank:
        return adapter_parameters(config, size)
    return size.parameters - (size.vision_parameters if config.model.freeze_vision else 0)


def adapter_parameters(config: Config, size: ModelSize) -> int:
    """Of the low-rank adapter; 0 without one."""
    lora = config.learner.lora
    if not lora.rank:
        return 0
    where = size.family.adapted(lora.targets, vision=lora.vision)
    return lora.rank * sum(inputs + outputs for name, inputs, outputs in size.linear if re.fullmatch(where, name))


def push_bytes(config: Config, size: ModelSize) -> int:
    """What a push carries: all weights, or the adapter."""
    return _width(config) * (adapter_parameters(config, size) if config.learner.lora.rank else size.parameters)


def trains_vision(config: Config) -> bool:
    return config.learner.lora.vision if config.learner.lora.rank else not config.model.freeze_vision


def _patches(config: Config, size: ModelSize, tokens: Tokens) -> int:
    """Of a micro-batch's videos, a rank's share."""
    return math.ceil(tokens.micro_batch_prompts * min(tokens.visual, config.video.max_tokens) / config.learner.sequence_parallel) * size.merge**2


def _row(config: Config, tokens: Tokens) -> int:
    """Tokens of a micro-batch that one rank has."""
    return math.ceil(tokens.micro_batch / config.learner.sequence_parallel)


def _gathered(config: Config, size: ModelSize, tokens: Tokens) -> int:
    """Keys and values of one layer and of a whole row that ranks share, on each of them while the layer's backward pass lasts: as they come, in the row's
    order, and their gradients in float32, twice. Of a linear layer likewise what its convolution reads and gives, and the heads' outputs."""
    if config.learner.sequence_parallel == 1:
        return 0
    linear = (2 * size.text.linear_mixed + size.text.linear_value) if size.text.linear_layers else 0
    return tokens.micro_batch * max(2 * size.text.key_value, linear) * (2 * _width(config) + 8)


def shared_row_bytes(config: Config, size: ModelSize, tokens: Tokens) -> int:
    """What a rank receives of the others, and sends to them, for a micro-batch that they share, forward and backward: of every layer its keys and values (again
    where the layer is computed again, and for its backward pass) and their gradients in float32, of linear layers what their convolution reads, and the heads'
    outputs; of the answers the hidden states that predict them, there and back, and a log-probability each. Sums over ranks as rings make them: twice what one
    has, less its share."""
    parts, width = config.learner.sequence_parallel, _width(config)
    gathers = 3 if config.learner.gradient_checkpointing else 2
    layers = (size.text.layers - size.text.linear_layers) * 2 * size.text.key_value * tokens.micro_batch * (gathers * width + 4)
    linear = size.text.linear_layers * tokens.micro_batch
    layers += linear * (size.text.linear_mixed * ((gathers - 1) * width + 4) + size.text.linear_value * gathers * width)
    answers = tokens.micro_batch_prompts * config.rollout.answers * config.rollout.max_tokens
    return (parts - 1) * (layers + 2 * answers * (2 * width * size.text.hidden + 4)) // parts


def _pixels(config: Config, size: ModelSize, tokens: Tokens) -> int:
    """Pixel values of a micro-batch: a patch of `frames_per_token` frames x 3 colours a row."""
    return _width(config) * _patches(config, size, tokens) * 3 * size.frames_per_token * size.patch**2


def _width(config: Config) -> int:
    """Bytes of a number in the model's dtype."""
    return 2 if config.dtype == "bfloat16" else 4


# --- the engines -----------------------------------------------------------------------------------------------------


def engine_bytes(config: Config, size: ModelSize, assumed: Assumed) -> dict[str, int]:
    """Of one GPU of an engine (without GPUs: of the engine), by part. The cache takes what gpu_memory_utilization leaves."""
    rollout, width = config.rollout, _width(config)
    weights = width * (size.parameters + adapter_parameters(config, size)) // rollout.tensor_parallel
    batched = max(rollout.max_model_len, rollout.batched_tokens)
    states = {"recurrent states": rollout.max_sequences * state_bytes_per_sequence(config, size)} if size.text.linear_layers else {}
    inner = max(size.text.inner, size.text.active_experts * size.text.expert_inner + size.text.shared_inner)
    work = batched * width * (4 * size.text.hidden + 3 * inner // rollout.tensor_parallel) + 8 * rollout.max_sequences * size.vocabulary  # [D]
    if not config.on_gpu or assumed.gpu_memory_gib is None:
        return {"weights": weights, "key-value cache": int(rollout.kv_cache_gib * GIB), "work": work, "device": 0} | states
    device = DEVICE_BYTES + (0 if rollout.enforce_eager else GRAPH_BYTES) + 2 * min(config.sync.bucket_bytes, weights)
    cache = int(rollout.gpu_memory_utilization * assumed.gpu_memory_gib * GIB) - weights - work - device - sum(states.values())
    return {"weights": weights, "key-value cache": max(0, cache), "work": work, "device": device} | states


def shared_bytes(config: Config, size: ModelSize, found: Plan) -> dict[str, int]:
    """placement colocated: of an engine and a rank on one GPU, in each phase of a step. On the CPU both stay resident.

    What stays while the engine samples: the rank's weights and its process. While the rank learns, the sleeping engine keeps its process alone.
    """
    engine, learner = sum(found.engine.values()), sum(found.learner.values())
    if not config.on_gpu:
        return {"always": engine + learner}
    stays = found.learner["weights"] + found.learner["reference policy"] + found.learner["device"]
    awake = engine - found.engine["key-value cache"]
    return {"sampling": engine + stays, "new weights": awake + stays + found.learner["sync buckets"], "learning": learner + DEVICE_BYTES}


def cache_bytes_per_token(config: Config, size: ModelSize) -> int:
    """On each GPU of an engine: key-value heads are divided among its GPUs, none below one head."""
    share = max(1, size.key_value_heads // config.rollout.tensor_parallel) / size.key_value_heads
    return int(2 * (size.text.layers - size.text.linear_layers) * size.text.key_value * share * _width(config))


def state_bytes_per_sequence(config: Config, size: ModelSize) -> int:
    """What a sequence carries along in the linear layers of each GPU of an engine, however long it is: the state in float32, the convolution's last inputs."""
    each = 4 * size.text.linear_state + _width(config) * size.text.linear_inputs
    return size.text.linear_layers * each // config.rollout.tensor_parallel


def prompt_room(config: Config, size: ModelSize, assumed: Assumed) -> dict[str, int]:
    """What one prompt of an engine may have: `tokens`, which leave room for an answer; `visual` ones among them, beside the text and the times of as many
    frames; and the `frames` that are so many, each as large as those of the video that gets most."""
    room = config.rollout.max_model_len - config.rollout.max_tokens
    most = _budget(config, size)
    pairs = most.frames // size.frames_per_token
    fitting = max(0, int((room - assumed.text_tokens) / (most.tokens / pairs + size.family.timestamp_tokens)))
    return {"tokens": room, "visual": fitting * most.tokens // pairs, "frames": fitting * size.frames_per_token}


def cache_tokens_wanted(config: Config, tokens: Tokens) -> int:
    """When an engine samples max_sequences answers at a time and each has its full length; the answers of a variant share its prompt."""
    rollout = config.rollout
    return math.ceil(rollout.max_sequences / rollout.answers) * tokens.prompt + rollout.max_sequences * rollout.max_tokens


def frames_bytes(config: Config, size: ModelSize, assumed: Assumed = Assumed()) -> int:
    """Frames of one step in the object store: Q x K variants of T frames of each video, and of its images, three bytes a pixel."""
    most, (videos, images) = _budget(config, size), most_shown(config, size, assumed)
    pixels = videos * most.frames * most.max_pixels + images * config.image.max_pixels
    return config.data.questions_per_step * config.variants_per_question * pixels * 3
