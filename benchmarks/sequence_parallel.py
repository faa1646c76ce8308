"""What does a rank keep of one long prompt when several share its row (`learner.sequence_parallel`), and what goes between them?

    python -m benchmarks.sequence_parallel [--visual 16384] [--answers 8] [--length 128] [--parts 1 2 4] [--hidden 256] [--layers 8] [--vocabulary 32768]
                                           [--family qwen3_vl]

A randomly initialised model; each number of ranks is as many gloo processes on this machine, one thread each, one forward and backward pass with gradient
checkpointing. Peak memory is what a process takes above what stood before (the model, its gradients, and its share of the micro-batch, said apart): the most
of any rank. Bytes are those that a rank receives in its collectives, an all-reduce counted as a ring does it; the formula is what `rlvid plan` says. The loss
is compared, too. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from benchmarks.learner import Learner
from benchmarks.logprobs import peak_bytes
from rlvid.config import Config
from rlvid.families import FAMILIES, named
from rlvid.learner.divided import Peers, divide, peers_of
from rlvid.learner.logprobs import AnswerLogProbs
from rlvid.learner.packing import MicroBatch, pack
from rlvid.plan.model_size import model_size
from rlvid.plan.reckoning import Tokens, shared_row_bytes

DEADLINE = timedelta(seconds=3600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visual", type=int, default=16384)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--family", default="qwen3_vl", choices=list(FAMILIES))
    options = parser.parse_args()
    found = []
    for parts in options.parts:
        found.append(measured(options, parts))
        print("  ".join(f"{name} {value:.6g}" for name, value in found[-1].items()), flush=True)
    for row in found:
        row["peak over one rank's"] = row["peak MiB"] / found[0]["peak MiB"]
    sizes = {name: getattr(options, name) for name in ("family", "visual", "answers", "length", "hidden", "layers", "vocabulary")}
    print(json.dumps({"benchmark": "sequence_parallel", "environment": environment(), **sizes, "found": found}))


def measured(options: argparse.Namespace, parts: int) -> dict[str, float]:
    """One row for so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank, (parts, options, folder), nprocs=parts)
        said = [json.loads((Path(folder) / f"{number}.json").read_text()) for number in range(parts)]
    assert len({one["loss"] for one in said}) == 1, "ranks disagree on the loss"
    most = max(said, key=lambda one: one["peak MiB"])
    return {"ranks": parts, **most}


def rank(number: int, parts: int, options: argparse.Namespace, folder: str) -> None:
    """Forward and backward of this rank's share; what it took goes into a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=number, world_size=parts, init_method=f"file://{folder}/meeting", timeout=DEADLINE)
    found = Counted(**vars(peers_of(number, parts, parts, DEADLINE)))
    learner = Learner(argparse.Namespace(**vars(options) | {"device": "cpu", "dtype": "float32", "attention": "sdpa", "shape": None}))
    model, config = learner.model.train(), learner.model.config
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    forbidden = named(options.family).media_token_ids(learner.processor.tokenizer)
    module = AnswerLogProbs(model, chunk=1024, forbidden=forbidden, temperature=1.0, peers=found if parts > 1 else None)
    prompt = learner.prompt(options.visual, options.length, options.answers)
    frames = {"frame_token": getattr(config, named(options.family).frame_key), "merge": config.vision_config.spatial_merge_size}

    def share(of: MicroBatch) -> MicroBatch:
        return divide(of, number, parts, **frames) if parts > 1 else of

    small = share(pack([learner.prompt(64, 4, 2)], learner.processor, config))
    batch = share(pack([prompt], learner.processor, config))
    step(module, small)  # gradients stand, and all is warm
    found.received.clear()
    before = peak_bytes(torch.device("cpu"), reset=True)
    started = time.process_time()
    loss = step(module, batch)
    row = {
        "peak MiB": (peak_bytes(torch.device("cpu")) - before) / 2**20,
        "model and gradients MiB": 8 * sum(parameter.numel() for parameter in model.parameters()) / 2**20,
        "micro-batch MiB": sum(tensor.nbytes for tensor in batch.model_inputs.values()) / 2**20,
        "received MiB": sum(found.received) / 2**20,
        "formula MiB": formula(model, options, sum(map(sum, batch.lengths)), parts) / 2**20 if parts > 1 else 0.0,
        "CPU s": time.process_time() - started,
        "loss": loss,
    }
    (Path(folder) / f"{number}.json").write_text(json.dumps(row))
    torch.distributed.destroy_process_group()


def step(module: AnswerLogProbs, batch: MicroBatch) -> float:
    loss = -(module(batch) * batch.advantages_A * batch.weights_A).sum()
    loss.backward()
    return float(loss.detach())


class Counted(Peers):
    """Peers that know what this rank has received."""

    @property
    def received(self) -> list[int]:
        known: list[int] = self.__dict__.setdefault("_received", [])
        return known

    def gathered(self, own_N: torch.Tensor) -> torch.Tensor:
        self.received.append((self.parts - 1) * own_N.nbytes)
        return super().gathered(own_N)

    def own_sum(self, all_N: torch.Tensor) -> torch.Tensor:
        self.received.append((self.parts - 1) * all_N.nbytes // self.parts)
        return super().own_sum(all_N)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        self.received.append(2 * (self.parts - 1) * tensor.nbytes // self.parts)
        return super().total(tensor)


def formula(model: Any, options: argparse.Namespace, row: int, parts: int) -> int:
    """What `rlvid plan` says of a micro-batch of so many tokens."""
    learner = {"ranks": parts, "sequence_parallel": parts, "gradient_checkpointing": True}
    rollout = {"answers": options.answers, "max_tokens": options.length}
    config = Config.model_validate(
        {"run": {"name": "r"}, "model": {"path": "m", "dtype": "float32"}, "data": {"train": "t"}, "learner": learner, "rollout": rollout}
    )
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        (Path(folder) / "model.safetensors").touch()
        return shared_row_bytes(config, model_size(folder), Tokens(0, 0, 0, 0, 0, 0, 0, micro_batch=row, micro_batch_prompts=1, micro_batches=1))


if __name__ == "__main__":
    main()
