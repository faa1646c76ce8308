"""One command for one GPU, within ten minutes: what does each part do there, and what could not be run, and why?

    python -m benchmarks.gpu [--parts NAME ...] [--toy] [--out FOLDER] [--minutes 10]

Learner at the 3B shape (AdamW on all weights) and at 7B (LoRA): tokens/s, MFU, peak memory beside `rlvid plan`; ZeRO 3 on one rank; attention kinds;
log-probabilities in chunks; windows of the vision tower against `varlen`; an engine with CUDA graphs: seeds, forbidden tokens, log-probabilities against
Hugging Face; sleep and wake; the whole loop of configs/one_gpu.yaml, whose pushes go layer by layer and are compared by checksum. Weights are random. Each
part is a process of its own. Without a GPU, or with --toy, all runs at toy size, and what wants a GPU says so. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment

ROOT = Path(__file__).parents[1]
DENSE_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Of bfloat16 products without sparsity, by a part of the GPU's name, as NVIDIA states them."""


@dataclass(frozen=True)
class Part:
    """`toy`, `real`: what is called after `python -m benchmarks.`, without and with a GPU. `wants`: packages, and a GPU where `gpu`."""

    asks: str
    toy: str
    real: str
    gpu: bool = False
    wants: tuple[str, ...] = ("torch", "transformers")


RANK = "gpu --part rank --shape"
TOY_LEARNER = "learner --answers 2 --visual 64 --length 8 --pairs 1 --hidden 128 --layers 2 --vocabulary 400"
REAL_LEARNER = "learner --shape 3b --device cuda --dtype bfloat16 --answers 8 --visual 1024 --length 128"
TOY_LOGPROBS = "logprobs --tokens 64 --vocabulary 500 --hidden 32 --chunk 16 --pairs 1"
PARTS = {
    "learner 3B": Part("full training", f"{RANK} toy", f"{RANK} 3b learner.zero_stage=1", wants=("deepspeed",)),
    "learner 7B, LoRA": Part("an adapter of rank 16", f"{RANK} toy learner.lora.rank=16", f"{RANK} 7b learner.lora.rank=16", wants=("deepspeed", "peft")),
    "ZeRO 3 on one rank": Part("read layer by layer", f"{RANK} toy learner.zero_stage=3", f"{RANK} 3b learner.zero_stage=3", wants=("deepspeed",)),
    "attention, sdpa": Part("a shared prompt", TOY_LEARNER, REAL_LEARNER),
    "attention, flex": Part("a compiled mask", TOY_LEARNER, f"{REAL_LEARNER} --attention flex_attention", gpu=True),
    "log-probs": Part("in chunks", TOY_LOGPROBS, "logprobs --device cuda --dtype bfloat16 --hidden 3584"),
    "windows": Part("varlen against windows of one length", "gpu --part windows", "gpu --part windows", gpu=True),
    "engine": Part("against Hugging Face", "gpu --part engine", "gpu --part engine", wants=("vllm", "ray")),
    "sleep and wake": Part("level 1", "gpu --part sleep", "gpu --part sleep", gpu=True, wants=("vllm", "ray")),
    "the whole loop": Part("colocated", "gpu --part loop", "gpu --part loop", wants=("vllm", "ray", "deepspeed")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--toy", action="store_true", help="toy sizes though there is a GPU")
    parser.add_argument("--minutes", type=float, default=10, help="for all parts; what is left over is not run")
    parser.add_argument("--out", type=Path, help="folder for the table and each part's words")
    parser.add_argument("--part", choices=list(OWN), help="run one own part in this process; the benchmark calls itself so")
    parser.add_argument("--shape", choices=["toy", "3b", "7b"], default="toy")
    parser.add_argument("settings", nargs="*", help="with --part: settings as key=value")
    options = parser.parse_args()
    if options.part:
        print(json.dumps({"benchmark": "gpu", "part": options.part, "found": OWN[options.part](options)}))
        return
    toy, deadline = options.toy or not has_gpu(), time.monotonic() + 60 * options.minutes
    rows = {name: outcome(PARTS[name], toy, deadline) for name in options.parts}
    print(table(rows))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.md").write_text(table(rows))
    print(json.dumps({"benchmark": "gpu", "environment": environment(), "toy": toy, "found": rows}))


def outcome(part: Part, toy: bool, deadline: float) -> dict[str, Any]:
    """{"found": ...} or {"not run": why}."""
    if missing := [name for name in part.wants if importlib.util.find_spec(name) is None]:
        return {"not run": f"{' and '.join(missing)} not installed"}
    if part.gpu and not has_gpu():
        return {"not run": "wants a GPU"}
    left_s, started = deadline - time.monotonic(), time.monotonic()
    if left_s < 5:
        return {"not run": "no time left (--minutes)"}
    command = [sys.executable, "-m", *f"benchmarks.{part.toy if toy else part.real}".split()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=left_s, check=False)
    except subprocess.TimeoutExpired:
        return {"not run": "no time left (--minutes)"}
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not said:
        return {"not run": f"failed: {(done.stderr.strip().splitlines() or ['no words'])[-1][:300]}"}
    return {"found": json.loads(said[-1])["found"], "seconds": time.monotonic() - started}


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| part | asks | found |", "|---|---|---|"]
    for name, row in rows.items():
        found = row.get("found", f"not run: {row.get('not run')}")
        found = found[0] if isinstance(found, list) else found
        told = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()] if isinstance(found, dict) else [found]
        lines.append(f"| {name} | {PARTS[name].asks} | {', '.join(told)} |")
    return "\n".join(lines) + "\n"


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# --- parts of this benchmark's own, each in a process of its own


def rank(options: argparse.Namespace) -> dict[str, float]:
    """A real rank: two updates on packed prompts; the second is timed. MFU counts six operations a parameter and token that is learned (four where frozen)."""
    import socket

    import torch

    from benchmarks.learner import training_prompt
    from benchmarks.logprobs import peak_bytes
    from rlvid.config import load
    from rlvid.learner.rank import Meeting, Rank
    from rlvid.plan.model_size import model_size
    from rlvid.plan.reckoning import Assumed, count_tokens, learner_bytes, start_bytes

    answers, length, visual, prompts = (8, 128, 1024, 4) if options.shape != "toy" else (2, 8, 64, 2)
    device = torch.device("cuda" if has_gpu() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder) / "model", options.shape)
        settings = [f"model.path={model}", "data.questions_per_step=2", f"variants.kinds=[{'uniform, random_jitter' if prompts == 4 else 'uniform'}]"]
        settings += [f"rollout.answers={answers}", f"rollout.max_tokens={length}", "rollout.max_model_len=8192"]
        settings += [f"video.max_tokens={visual}", f"video.frames={2 * visual // 16}", f"video.candidates={2 * visual // 16}", "video.max_pixels=12544"]
        settings += ["learner.micro_batch_tokens=4096", f"learner.gradient_checkpointing={str(options.shape != 'toy').lower()}", *options.settings]
        settings += ["placement=colocated", "learner.num_gpus=0.5", "rollout.num_gpus=0.5"] if device.type == "cuda" else []
        config = load(ROOT / "configs" / "quickstart.yaml", settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        held = peak_bytes(device, reset=True)
        learner = Rank(config, 0)
        started = time.perf_counter()
        learner.start(Meeting("127.0.0.1", port))
        start_s, start_peak = time.perf_counter() - started, peak_bytes(device) - held
        batches = [[training_prompt(learner.processor, visual, length, answers)] for _ in range(prompts)]
        for _ in range(2):
            learner.pack(batches)
            began = time.perf_counter()
            learner.update()
        took = time.perf_counter() - began
        size = model_size(config.model.path)
        tokens = sum(batch[0].prompt_tokens + answers * length for batch in batches)
        planned = sum(learner_bytes(config, size, count_tokens(config, size, Assumed())).values())
        found = {"tokens/s": tokens / took, "peak GiB": (peak_bytes(device) - held) / 2**30, "plan GiB": planned / 2**30, "start s": start_s}
        found |= {"peak of the start GiB": start_peak / 2**30, "plan of the start GiB": sum(start_bytes(config, size).values()) / 2**30}
        speed = next((flops for name, flops in DENSE_FLOPS.items() if has_gpu() and name in torch.cuda.get_device_name()), None)
        return found | ({"MFU": (4 if config.learner.lora.rank else 6) * size.parameters * tokens / took / speed} if speed else {})


def random_model(folder: Path, shape: str) -> Path:
    """A checkpoint of a published shape with random weights and a small tokenizer."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from benchmarks.learner import published
    from rlvid.world.tiny_model import build_processor, build_tiny_model, build_tokenizer

    words = ["When is it seen? 1 to 2", "What colour is it? red green blue yellow"] * 20
    if shape == "toy":
        return build_tiny_model(folder, words)
    tokenizer = build_tokenizer(words)
    build_processor(tokenizer, "qwen2_5_vl").save_pretrained(folder)
    with torch.device("cuda"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(Qwen2_5_VLConfig(**published(shape, tokenizer)), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


def windows(_: argparse.Namespace) -> dict[str, float]:
    """One layer's attention of the 7B vision tower over 4,096 patches in windows of 64: the learner's calls by length, and one varlen call."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    from rlvid.learner.attention import windows_by_length

    tokens, heads, size, window = 4096, 16, 80, 64
    query, key, value = (torch.randn(1, heads, tokens, size, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    ends = torch.arange(0, tokens + 1, window, device="cuda", dtype=torch.int32)
    flat = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]

    def by_length() -> Any:
        return windows_by_length(query, key, value, ends.diff().tolist(), size**-0.5)

    def varlen() -> Any:
        return varlen_attn(*flat, ends, ends, window, window)

    apart = float((by_length() - varlen()).abs().max())
    return {"by length ms": 1e3 * seconds(by_length), "varlen ms": 1e3 * seconds(varlen), "largest difference": apart}


def seconds(call: Callable[[], Any], times: int = 20) -> float:
    import torch

    call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def engine_config(folder: Path, *settings: str) -> Any:
    from rlvid.config import load

    own = ["model.dtype=float32"] if not has_gpu() else ["rollout.enforce_eager=false", "rollout.num_gpus=0.5", "learner.num_gpus=0.5", "placement=colocated"]
    return load(ROOT / "configs" / "quickstart.yaml", [f"model.path={random_model(folder / 'model', 'toy')}", f"run.dir={folder}", *own, *settings])


def engine(_: argparse.Namespace) -> dict[str, Any]:
    """Samples of a real engine: the same seed gives the same, media tokens never come, and its log-probabilities are those of Hugging Face's model."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        config = engine_config(Path(folder))
        prompt, frames, first, again, forbidden = asyncio.run(sampled(config))
        from rlvid.families.checkpoint import load_model, load_processor
        from rlvid.learner.logprobs import AnswerLogProbs
        from rlvid.learner.packing import pack
        from rlvid.types import TrainingPrompt

        processor = load_processor(config.model.path)
        model = load_model(config.model.path, dtype=getattr(torch, config.dtype))
        module = AnswerLogProbs(model, chunk=64, forbidden=tuple(forbidden), temperature=1.0)
        rollouts = first.rollouts
        answers, said = tuple(r.tokens for r in rollouts), tuple(r.logprobs for r in rollouts)
        ones = (1.0,) * len(rollouts)
        whole = TrainingPrompt(prompt.prompt, first.prompt_digest, rollouts[0].prompt_tokens, prompt.video_metadata, frames, answers, said, ones, ones)
        batch = pack([whole], processor, model.config)
        with torch.no_grad():
            known = module(batch)
        return {
            "same seed, same answers": [r.tokens for r in first.rollouts] == [r.tokens for r in again.rollouts],
            "media tokens": sum(token in forbidden for tokens in answers for token in tokens),
            "mean difference of log-probabilities": float((known - batch.sampler_logprobs_A).abs().mean()),
            "tokens": sum(map(len, answers)),
        }


async def sampled(config: Any, before: Callable[[Any], Any] | None = None) -> Any:
    """(request, frames, result, the same again, forbidden tokens) of one engine, which is ended."""
    import os

    from rlvid.actors.rollout import RolloutActor, rollout_environment
    from rlvid.data.prompts import chat_prompt
    from rlvid.families.checkpoint import load_processor
    from rlvid.types import GenerateRequest, VariantSpec
    from rlvid.variants.build import video_metadata

    os.environ.update(rollout_environment(config))
    metadata = video_metadata(VariantSpec("uniform", tuple(float(second) for second in range(8)), None, (84, 84), 0))
    frames = np.random.default_rng(0).integers(0, 255, (8, 84, 84, 3), dtype=np.uint8)
    request = GenerateRequest("q", 0, chat_prompt(load_processor(config.model.path), "What colour is it?"), metadata, 4, 7)
    actor = RolloutActor(config, 0)
    await actor.start()
    try:
        first = await actor.generate(request, frames)
        if before is not None:
            await before(actor)
        return request, frames, first, await actor.generate(request, frames), set(actor.forbidden)
    finally:
        await actor.stop()


def sleep(_: argparse.Namespace) -> dict[str, float]:
    """Level 1: weights go to the host and come back, so that the same seed must give the same answers."""
    import torch

    found: dict[str, float] = {}

    async def nap(actor: Any) -> None:
        for name, call in (("sleep", lambda: actor.engine.sleep(level=1)), ("wake", lambda: actor.engine.wake_up())):
            started = time.perf_counter()
            await call()
            found[f"{name} s"] = time.perf_counter() - started
            found[f"GiB in use after {name}"] = (lambda free, total: (total - free) / 2**30)(*torch.cuda.mem_get_info())

    with tempfile.TemporaryDirectory() as folder:
        *_, first, again, _forbidden = asyncio.run(sampled(engine_config(Path(folder)), nap))
    return found | {"same answers": float([r.tokens for r in first.rollouts] == [r.tokens for r in again.rollouts])}


def loop(options: argparse.Namespace) -> dict[str, float]:
    """Two steps of configs/one_gpu.yaml on a small world, every push compared."""
    from rlvid.world import scenes

    with tempfile.TemporaryDirectory() as folder:
        world = scenes.build_world(Path(folder) / "world", train_questions=12, eval_questions=6, warm_start=False, progress=False)
        settings = [f"run.dir={folder}", "run.steps=2", f"model.path={world.model}", f"data.train={world.train}", f"data.eval={world.eval}"]
        settings += ["data.questions_per_step=2", "variants.kinds=[uniform, importance_jitter]", "relevance.scorer=motion", "tracker.kind=none"]
        settings += [] if has_gpu() else ["rollout.num_gpus=0", "learner.num_gpus=0"]
        command = [sys.executable, "-m", "rlvid.cli", "train", str(ROOT / "configs" / "one_gpu.yaml"), *settings, *options.settings, "--verify-sync"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-2000:])
        last = json.loads((Path(folder) / "one_gpu" / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: last[name] for name in ("step", "time/step_s", "time/rollout_s", "time/learn_s", "time/sync_s", "mismatch/mean_abs_dlogp", "sync/version")}


OWN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"rank": rank, "windows": windows, "engine": engine, "sleep": sleep, "loop": loop}


if __name__ == "__main__":
    main()
