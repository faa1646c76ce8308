"""What does sharing the prompt save the learner? One row `[prompt | a1 | ... | aM]` against M rows `[prompt | a]`, forward and backward.

    python -m benchmarks.learner [--answers 2 4 8 16] [--visual 256 1024] [--length 32 128] [--pairs 3] [--device cpu] [--family qwen2_5_vl]
                                 [--hidden 512] [--layers 6] [--vocabulary 8192] [--shape 3b | 7b] [--dtype float32] [--attention sdpa]

A randomly initialised model of a family and the given size (of Qwen3.5: three layers in four gated delta nets), or a published Qwen2.5-VL; both ways
give the same gradients (checked here too). The ratio of operations counts matrix products of the language model, its attention, the states of gated delta
nets (three products a token: what is read, written and answered) and the vision tower. Peak memory is what a step takes above what stood before it.
Utilisation: three times the forward's operations, twice each (multiply and add), a second, over what one large matrix product reaches here. Times are CPU
time on CPUs.
Also: four prompts packed into one micro-batch against one after the other. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.environment import environment
from benchmarks.logprobs import peak_bytes
from benchmarks.shapes import QWEN2_5_VL
from rlvid.data.prompts import chat_prompt
from rlvid.families import FAMILIES, named
from rlvid.learner.logprobs import AnswerLogProbs
from rlvid.learner.packing import MicroBatch, pack
from rlvid.sync.tokens import token_digest
from rlvid.types import TrainingPrompt, VariantSpec
from rlvid.variants.build import video_metadata
from rlvid.world.tiny_model import build_processor, build_tokenizer

ACROSS = 4
"""Visual tokens along a frame's side: 16 for each pair of frames."""
TOGETHER = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--visual", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--length", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--family", default="qwen2_5_vl", choices=list(FAMILIES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "flex_attention"])
    parser.add_argument("--shape", choices=list(QWEN2_5_VL), help="a published size in place of --hidden, --layers and --vocabulary")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    options = parser.parse_args()
    learner = Learner(options)
    rows = []
    for visual in options.visual:
        for length in options.length:
            for answers in options.answers:
                rows.append(learner.compare(visual, length, answers, options.pairs))
                print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
    packed = learner.together(options.visual[0], options.length[0], options.answers[-1], options.pairs)
    print("  ".join(f"{name} {value:.3g}" for name, value in packed.items()), flush=True)
    said = {
        name: getattr(options, name) for name in ("family", "shape", "hidden", "layers", "vocabulary", "device", "dtype", "attention") if getattr(options, name)
    }
    rate = {"matrix products, TFLOP/s": learner.rate / 1e12}
    print(json.dumps({"benchmark": "learner", "environment": environment(), **said, **rate, "found": rows, "packed": packed}))


class Learner:
    """A model of the wanted size with its processor."""

    def __init__(self, options: argparse.Namespace) -> None:
        from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

        self.device, self.dtype = torch.device(options.device), getattr(torch, options.dtype)
        tokenizer = build_tokenizer(["When is it seen? 1 to 2", "What colour is it? red green blue yellow"] * 20, options.family)
        self.processor = build_processor(tokenizer, options.family)
        bounds = self.processor.video_processor.size  # some families' are those of a whole clip: none is made smaller here
        self.processor.video_processor.size = type(bounds)(shortest_edge=bounds["shortest_edge"], longest_edge=2**40)
        torch.manual_seed(0)
        config = Qwen2_5_VLConfig(**published(options.shape, tokenizer)) if options.shape else configured(options, tokenizer)
        with torch.device(self.device):
            self.model = AutoModelForImageTextToText.from_config(config, dtype=self.dtype)
        forbidden = named(options.family).media_token_ids(tokenizer)
        self.module = AnswerLogProbs(self.model, chunk=512, forbidden=forbidden, temperature=1.0, attention=options.attention)
        self.rate = matrix_rate(self.device, self.dtype)

    def compare(self, visual: int, length: int, answers: int, pairs: int) -> dict[str, float]:
        """Medians for one shape: time, peak memory on a GPU, and what the operations would promise."""
        prompt = self.prompt(visual, length, answers)
        shared = [self.packed([prompt])]
        assert int(shared[0].model_inputs["video_grid_thw"].prod()) == visual * self.model.config.vision_config.spatial_merge_size**2
        apart = [self.packed([one]) for one in split(prompt)]
        same = self.difference(shared, apart)  # and both ways are warm
        times: list[tuple[float, float]] = []
        for _ in range(pairs):
            times.append((self.timed(shared), self.timed(apart)))
        ratio = statistics.median(b / a for a, b in times)
        together, alone = self.operations(prompt.prompt_tokens, visual, length, answers)
        promised = answers * alone / together
        shared_s = statistics.median(a for a, _ in times)
        return {
            "visual": visual,
            "length": length,
            "answers": answers,
            "shared_s": shared_s,
            "utilisation": 6 * together / shared_s / self.rate,
            "times_faster": ratio,
            "operations": promised,
            "share_of_operations": ratio / promised,
            "gradient_difference": same,
            "memory_shared_MiB": self.peak(shared) / 2**20,
            "memory_apart_MiB": self.peak(apart) / 2**20,
        }

    def together(self, visual: int, length: int, answers: int, pairs: int) -> dict[str, float]:
        """Time of so many prompts in one micro-batch, behind a mask that keeps them apart, over one micro-batch each."""
        prompts = [self.prompt(visual, length, answers)] * TOGETHER
        one, each = [self.packed(prompts)], [self.packed([prompt]) for prompt in prompts]
        self.step(one)
        self.step(each)
        times = [(self.timed(one), self.timed(each)) for _ in range(pairs)]
        return {"prompts": TOGETHER, "visual": visual, "length": length, "answers": answers, "time_over_one_each": statistics.median(a / b for a, b in times)}

    def prompt(self, visual: int, length: int, answers: int) -> TrainingPrompt:
        return training_prompt(self.processor, visual, length, answers)

    def packed(self, prompts: list[TrainingPrompt]) -> MicroBatch:
        return pack(prompts, self.processor, self.model.config).to(self.device, self.dtype)

    def step(self, batches: list[MicroBatch]) -> None:
        """Forward and backward of all micro-batches into the same gradients."""
        self.model.zero_grad(set_to_none=True)
        for batch in batches:
            (-(self.module(batch) * batch.advantages_A * batch.weights_A).sum()).backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def difference(self, one: list[MicroBatch], other: list[MicroBatch]) -> float:
        """Relative difference of the gradients."""
        self.step(one)
        kept = [None if p.grad is None else p.grad.cpu() for p in self.model.parameters()]
        self.step(other)
        apart = size = 0.0
        for before, parameter in zip(kept, self.model.parameters(), strict=True):  # one at a time: the model may fill the memory
            if before is not None:
                now = parameter.grad.cpu().double()
                apart, size = apart + float((before.double() - now).square().sum()), size + float(now.square().sum())
        return (apart / size) ** 0.5

    def peak(self, batches: list[MicroBatch]) -> int:
        before = peak_bytes(self.device, reset=True)
        self.step(batches)
        return peak_bytes(self.device) - before

    def timed(self, batches: list[MicroBatch]) -> float:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        started = clock()
        self.step(batches)
        return clock() - started

    def operations(self, prompt: int, visual: int, length: int, answers: int) -> tuple[float, float]:
        """Multiplications of the shared forward, and of one of the M separate ones: every token's matrices, attention pairs, the vision tower once a video."""
        config = self.model.config
        text, vision, (tower_of_text, _) = config.text_config, config.vision_config, named(config.model_type).towers(config)
        attending, states = tower_of_text.layers - tower_of_text.linear_layers, 3 * tower_of_text.linear_layers * tower_of_text.linear_state
        per_token = sum(p.numel() for layer in self.model.model.language_model.layers for p in layer.parameters())
        head = text.hidden_size * text.vocab_size
        tower = sum(p.numel() for p in self.model.model.visual.parameters()) * visual * vision.spatial_merge_size**2

        def row(tokens: int, pairs: float) -> float:
            return tokens * (per_token + states) + 2 * pairs * tower_of_text.attention * attending

        alone = row(prompt + length, (prompt + length) ** 2 / 2) + length * head + tower
        together = row(prompt + answers * length, prompt**2 / 2 + answers * (prompt * length + length**2 / 2)) + answers * length * head + tower
        return together, alone


def training_prompt(processor: Any, visual: int, length: int, answers: int) -> TrainingPrompt:
    """A prompt with so many visual tokens, and random answers."""
    rng, side = np.random.default_rng(0), ACROSS * processor.video_processor.patch_size * processor.video_processor.merge_size
    frames = 2 * visual // ACROSS**2
    spec = VariantSpec("uniform", tuple(np.arange(frames) / 2.0), None, (side, side), 0)
    video = rng.integers(0, 255, (frames, side, side, 3), dtype=np.uint8)
    text, metadata = chat_prompt(processor, "What colour is it?"), video_metadata(spec)
    ids = token_ids(processor, text, video, metadata)
    tokens = tuple(tuple(rng.integers(20, 200, length).tolist()) for _ in range(answers))
    logprobs = tuple(tuple([-1.0] * length) for _ in range(answers))
    advantages = tuple(rng.normal(size=answers).tolist())
    weights = tuple(1 / (answers * length) for _ in range(answers))
    return TrainingPrompt(text, token_digest(ids), len(ids), metadata, video, tokens, logprobs, advantages, weights)


def token_ids(processor: Any, text: str, video: np.ndarray, metadata: dict[str, Any]) -> list[int]:
    from transformers.video_utils import VideoMetadata

    known = VideoMetadata(**{name: value for name, value in metadata.items() if name != "do_sample_frames"})
    return processor(text=[text], videos=[video], video_metadata=[known], do_sample_frames=False, return_tensors="pt")["input_ids"][0].tolist()


def split(prompt: TrainingPrompt) -> list[TrainingPrompt]:
    """The same answers, each with a prompt of its own."""
    from dataclasses import replace

    fields = ("tokens_MN", "logprobs_MN", "advantages_M", "weights_M")
    return [replace(prompt, **{name: getattr(prompt, name)[m : m + 1] for name in fields}) for m in range(len(prompt.tokens_MN))]


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product here, multiplications and additions: the best of ten."""
    side = 8192 if device.type == "cuda" else 2048
    one = torch.randn(side, side, device=device, dtype=dtype)

    def seconds() -> float:
        started = time.perf_counter()
        (one @ one)[0, 0].item()
        return time.perf_counter() - started

    return 2 * side**3 / min(seconds() for _ in range(10))


def published(shape: str, tokenizer: Any) -> dict[str, Any]:
    """A published size with this tokenizer's token ids for media."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text, vision = (QWEN2_5_VL[shape][part] for part in ("text_config", "vision_config"))
    tied = text["tie_word_embeddings"]
    return {"text_config": text | {"rope_parameters": rope}, "vision_config": vision, "tie_word_embeddings": tied, **media_ids(tokenizer)}


def configured(options: argparse.Namespace, tokenizer: Any) -> Any:
    """Of the wanted size and family. What only gated delta nets have is published as: as many states as make 1.5 times the hidden size, half of the heads
    for keys, attention in every fourth layer."""
    if options.family == "qwen2_5_vl":
        from transformers import Qwen2_5_VLConfig

        return Qwen2_5_VLConfig(**sizes(options, tokenizer))
    shared = sizes(options, tokenizer)
    family, values = named(options.family), max(2, 3 * options.hidden // 256)
    kinds = ["full_attention" if number % 4 == 3 else "linear_attention" for number in range(options.layers)]
    linear = {"layer_types": kinds, "head_dim": 128, "linear_num_value_heads": values, "linear_num_key_heads": values // 2}
    media = {key: tokenizer.convert_tokens_to_ids(token) for key, token in family.media_keys.items()}
    vision = shared["vision_config"] | {"patch_size": family.patch}
    text = shared["text_config"] | {"num_attention_heads": max(1, options.hidden // 128)} | linear
    return family.tiny_config(text, vision, media | {"tie_word_embeddings": False})


def media_ids(tokenizer: Any) -> dict[str, Any]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>"}
    return {field: tokenizer.convert_tokens_to_ids(token) for field, token in (names | {"vision_end_token_id": "<|vision_end|>"}).items()}


def sizes(options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    heads = max(1, options.hidden // 64)
    return {
        "text_config": {
            "vocab_size": options.vocabulary,
            "hidden_size": options.hidden,
            "intermediate_size": 4 * options.hidden,
            "num_hidden_layers": options.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 4),
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        },
        "vision_config": {
            "depth": max(1, options.layers // 2),
            "hidden_size": options.hidden // 2,
            "intermediate_size": 2 * options.hidden,
            "num_heads": max(1, options.hidden // 128),
            "out_hidden_size": options.hidden,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [max(1, options.layers // 2) - 1],
            "tokens_per_second": 2,
        },
        **media_ids(tokenizer),
        "tie_word_embeddings": False,
    }


if __name__ == "__main__":
    main()
