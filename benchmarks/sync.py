"""What does it take to bring new weights to the engines? Seconds by model size, ZeRO stage and number of engines, against copying the same bytes.

    python -m benchmarks.sync [--sizes 10 100 500] [--engines 1 2] [--repeats 3]

Randomly initialised Qwen2.5-VL models of about so many million parameters, real engines, a real learner. The copy is a gloo broadcast
of as many bytes from one process to another, in the same buckets, nothing else; `copy_to_all_s`, with several engines, to as many processes.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.learner import sizes
from rlvid.config import load
from rlvid.loop.session import open_session

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
SHAPES = {10: (256, 6), 100: (1024, 6), 500: (2048, 8)}
"""Millions of parameters: (hidden size, layers)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            model = random_model(Path(temporary) / f"{size}m", *SHAPES[size])
            cases = [(1, 1, engines) for engines in options.engines] + [(3, 2, options.engines[0])]
            for stage, ranks, engines in cases:
                found.append({"millions": size} | measured(model, Path(temporary), stage, ranks, engines, options.repeats))
                print("  ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    print(json.dumps({"benchmark": "sync", "environment": environment(), "found": found}))


def measured(model: Path, folder: Path, stage: int, ranks: int, engines: int, repeats: int) -> dict[str, float]:
    """Medians of pushes (the first, which connects, is left out) and of copies of the same bytes, in turns."""
    questions = folder / "questions.jsonl"
    questions.write_text(json.dumps({"id": "q", "video": "none.mp4", "question": "?", "task": "open", "answer": "x"}) + "\n")
    settings = [f"model.path={model}", f"data.train={questions}", "data.eval=", f"run.dir={folder}", "relevance.scorer=motion", "sync.verify=false"]
    settings += [f"learner.zero_stage={stage}", f"learner.ranks={ranks}", f"rollout.engines={engines}", "rollout.threads=1", "learner.threads=1"]
    config = load(CONFIG, settings)
    with open_session(config) as session:
        session.sync()
        pushes, copies, wide, pauses = [], [], [], []
        for _ in range(repeats):
            pushes.append(seconds(session.sync))
            pauses.append(session.weights.costs["sync/pause_s"])
            size = int(session.weights.costs["sync/bytes"])
            copies.append(copied(size, config.sync.bucket_bytes, receivers=1))
            wide.append(copied(size, config.sync.bucket_bytes, receivers=engines) if engines > 1 else copies[-1])
    return {
        "zero_stage": stage,
        "ranks": ranks,
        "engines": engines,
        "MiB": size / 2**20,
        "sync_s": statistics.median(pushes),
        "pause_s": statistics.median(pauses),
        "copy_s": statistics.median(copies),
        "copy_to_all_s": statistics.median(wide),
        "sync_over_copy": statistics.median(a / b for a, b in zip(pushes, copies, strict=True)),
        "sync_over_copy_to_all": statistics.median(a / b for a, b in zip(pushes, wide, strict=True)),
        "MiB_per_s": size / 2**20 / statistics.median(pushes),
    }


def seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def copied(size: int, bucket: int, *, receivers: int) -> float:
    """Seconds to broadcast so many bytes from one process to others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    took = spawn.SimpleQueue()
    world = 1 + receivers
    sides = [spawn.Process(target=side, args=(rank, world, port, size, bucket, took)) for rank in range(world)]
    for process in sides:
        process.start()
    for process in sides:
        process.join(600)
    if any(process.exitcode != 0 for process in sides):
        raise SystemExit(f"copying the same bytes failed: exit codes {[process.exitcode for process in sides]}")
    return took.get()


def side(rank: int, world: int, port: int, size: int, bucket: int, took: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, world, is_master=rank == 0, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=300))
    pieces = [torch.full((min(bucket, size - start),), 1, dtype=torch.uint8) for start in range(0, size, bucket)]
    dist.barrier()
    started = time.perf_counter()
    for piece in pieces:
        dist.broadcast(piece, 0)
    dist.barrier()
    if rank == 0:
        took.put(time.perf_counter() - started)
    dist.destroy_process_group()


def random_model(folder: Path, hidden: int, layers: int) -> Path:
    """A checkpoint folder with weights, tokenizer and processor."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from rlvid.world.tiny_model import build_processor, build_tokenizer

    tokenizer = build_tokenizer(["When is it seen? 1 to 2", "What colour is it?"] * 20)
    shape = argparse.Namespace(hidden=hidden, layers=layers, vocabulary=8192)
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**sizes(shape, tokenizer))).save_pretrained(folder)
    build_processor(tokenizer, "qwen2_5_vl").save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
