"""Part of against.py that runs in each tree's own process: a line of JSON says what to do, one says what it took. Knows both trees' places of things."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = ""  # the tree that this process stands for, not the one that this file lies in


def main() -> None:
    serve: Any = update if sys.argv[1] == "update" else step
    made: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = json.dumps(asked, sort_keys=True)
        if key not in made:
            made[key] = serve(**asked)
        print(json.dumps(made[key]()), flush=True)


def step(visual: int, length: int, answers: int, prompts: int, hidden: int, layers: int) -> Any:
    """Forward and backward of one micro-batch of a random model."""
    import torch

    from benchmarks.learner import Learner

    torch.set_num_threads(1)
    options = argparse.Namespace(
        device="cpu", dtype="float32", attention="sdpa", family="qwen2_5_vl", shape=None, hidden=hidden, layers=layers, vocabulary=8192
    )
    learner = Learner(options)
    batches = [learner.packed([learner.prompt(visual, length, answers)] * prompts)]

    def once() -> dict[str, float]:
        peak = learner.peak(batches)
        started = time.process_time()
        learner.step(batches)
        return {"cpu_s": time.process_time() - started, "peak_bytes": peak}

    return once


def update() -> Any:
    """A rank's `pack` and `update` of the quickstart's size."""
    import numpy as np
    import torch

    from rlvid.config import load
    from rlvid.data.prompts import chat_prompt
    from rlvid.learner.group import learner_environment
    from rlvid.learner.packing import spread_over_ranks
    from rlvid.learner.rank import Meeting, Rank
    from rlvid.types import TrainingPrompt, VariantSpec
    from rlvid.variants.build import video_metadata

    try:
        from rlvid.world.tiny_model import build_tiny_model
    except ImportError:
        from rlvid.data.tiny_model import build_tiny_model
    try:
        from rlvid.sync.tokens import token_digest
    except ImportError:
        from rlvid.types import token_digest
    import os
    import socket

    words = ["What colour is it? red green blue yellow left right up down", "When is it seen? 1 to 2", "Which one appears first?"] * 20
    folder = Path(tempfile.mkdtemp())
    build_tiny_model(folder / "model", words)
    (folder / "q.jsonl").write_text("")
    given = [f"model.path={folder / 'model'}", f"data.train={folder / 'q.jsonl'}", "data.eval=null", f"relevance.model={folder}"]
    config = load("configs/quickstart.yaml", given)
    os.environ.update(learner_environment(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rank = Rank(config, 0)
    sys.stdout.flush()
    rank.start(Meeting("127.0.0.1", port))
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    text = chat_prompt(rank.processor, "What colour is it? red green blue yellow left right up")
    prompts = []
    for number in range(64):
        spec = VariantSpec("uniform", tuple(np.linspace(0, 7.9, 8).round(3).tolist()), None, (84, 84), 0)
        video, metadata = rng.integers(0, 255, (8, 84, 84, 3), dtype=np.uint8), video_metadata(spec)
        ids = ids_of(rank.processor, text + "." * (number % 4), video, metadata)
        lengths = [2 + (number + m) % 3 for m in range(4)]
        tokens = tuple(tuple(rng.integers(20, 200, length).tolist()) for length in lengths)
        logprobs = tuple(tuple([-1.0] * length) for length in lengths)
        advantages, weights = tuple(rng.normal(size=4).tolist()), (1 / 768,) * 4
        prompts.append(TrainingPrompt(text + "." * (number % 4), token_digest(ids), len(ids), metadata, video, tokens, logprobs, advantages, weights))
    print(f"prompts of {prompts[0].prompt_tokens} tokens", file=sys.stderr)
    (share,) = spread_over_ranks(prompts, 1, config.learner.micro_batch_tokens)

    def once() -> dict[str, float]:
        started = time.process_time()
        rank.pack(share)
        packed = time.process_time()
        rank.update()
        return {"cpu_s": time.process_time() - started, "pack_s": packed - started}

    return once


def ids_of(processor: Any, text: str, video: Any, metadata: dict[str, Any]) -> list[int]:
    from transformers.video_utils import VideoMetadata

    known = VideoMetadata(**{name: value for name, value in metadata.items() if name != "do_sample_frames"})
    return processor(text=[text], videos=[video], video_metadata=[known], do_sample_frames=False, return_tensors="pt")["input_ids"][0].tolist()


if __name__ == "__main__":
    main()
