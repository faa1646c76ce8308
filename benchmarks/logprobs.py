"""What do log-probabilities in chunks cost and save? Against all logits at once, forward and backward, at a real vocabulary.

    python -m benchmarks.logprobs [--tokens 4096] [--vocabulary 151936] [--hidden 1024] [--chunk 512] [--pairs 3] [--device cpu] [--dtype float32]

Each way runs in processes of its own, which report their peak memory above what stood before; times are medians of pairs in turns.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.environment import environment
from rlvid.learner.logprobs import LogProbHead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--way", choices=["chunked", "plain"], help="measure one way once and print it; the benchmark calls itself so")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options)))
        return
    rows: dict[str, list[dict[str, float]]] = {"chunked": [], "plain": []}
    for _ in range(options.pairs):
        for way, runs in rows.items():
            said = subprocess.run([sys.executable, "-m", "benchmarks.logprobs", *sys.argv[1:], "--way", way], check=True, capture_output=True, text=True)
            runs.append(json.loads(said.stdout.splitlines()[-1]))
    chunked, plain = rows["chunked"], rows["plain"]
    found = {
        "peak memory, chunked over plain": statistics.median(a["bytes"] / b["bytes"] for a, b in zip(chunked, plain, strict=True)),
        "peak GiB, chunked": statistics.median(row["bytes"] for row in chunked) / 2**30,
        "peak GiB, plain": statistics.median(row["bytes"] for row in plain) / 2**30,
        "time, chunked over plain": statistics.median(a["seconds"] / b["seconds"] for a, b in zip(chunked, plain, strict=True)),
        "seconds, chunked": statistics.median(row["seconds"] for row in chunked),
        "largest relative difference of sums": max(abs(chunked[0][name] / plain[0][name] - 1) for name in ("logprobs", "gradient", "head_gradient")),
    }
    for name, value in found.items():
        print(f"{name:42s} {value:.4g}")
    sizes = {name: getattr(options, name) for name in ("tokens", "vocabulary", "hidden", "chunk", "device", "dtype")}
    print(json.dumps({"benchmark": "logprobs", "environment": environment(), **sizes, "found": found}))


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak bytes of one forward and backward after a small one, and sums of what came out."""
    once(argparse.Namespace(**vars(options) | {"tokens": 8, "vocabulary": 100, "hidden": 8}))
    return once(options)


def once(options: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    device = torch.device(options.device)
    linear = torch.nn.Linear(options.hidden, options.vocabulary, bias=False)
    head = LogProbHead(linear.weight, chunk=options.chunk, forbidden=(1, 2), temperature=1.0).to(device, getattr(torch, options.dtype))
    states = torch.nn.Parameter(torch.randn(options.tokens, options.hidden).to(head.weight))
    targets = torch.randint(3, options.vocabulary, (options.tokens,), device=device)
    weights = torch.randn(options.tokens, device=device)
    for parameter in (states, head.weight):  # gradients stand before and after; they are no part of the question
        parameter.grad = torch.zeros_like(parameter)
    before = peak_bytes(device, reset=True)
    started = time.perf_counter()
    logprobs = head(states, targets) if options.way == "chunked" else plain(states, head, targets)
    (logprobs * weights).sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {
        "seconds": time.perf_counter() - started,
        "bytes": peak_bytes(device) - before,
        "logprobs": float(logprobs.double().sum()),
        "gradient": float(states.grad.double().abs().sum()),
        "head_gradient": float(head.weight.grad.double().abs().sum()),
    }


def plain(states: torch.Tensor, head: LogProbHead, targets: torch.Tensor) -> torch.Tensor:
    """All logits at once, as most trainers do."""
    logits = torch.nn.functional.linear(states, head.weight).float()
    logits[:, head.forbidden] = float("-inf")
    return torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]


def peak_bytes(device: torch.device, *, reset: bool = False) -> int:
    """Highest memory since the last reset: of the GPU, or of this process."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")) * 1024


if __name__ == "__main__":
    main()
