"""What would 8, 64 and 1,024 GPUs do? `rlvid plan` on paper for Qwen2.5-VL-7B, with stated rates, and what one driver and the variant actors cost then.

    python -m benchmarks.scale [--engine-tokens-per-s 3000] [--learner-tokens-per-s 6000] [--answer-tokens 400] [--link-gib-per-s 20]

Nothing is run. The rates of GPUs are the caller's (the defaults are guesses for an 80 GB GPU of 2023, not measurements); what the driver takes for a rollout
and a core for a video comes from baselines/dispatch.json and baselines/variants.json, measured. Half of the GPUs sample, half learn; questions per
step grow with the GPUs, so that each has the same work. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.shapes import QWEN_7B
from rlvid.config import load
from rlvid.plan.rates import Rates, step_time
from rlvid.plan.reckoning import GIB, Assumed, Tokens
from rlvid.plan.report import run

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "strive_qwen2_5_vl_7b.yaml"
CLUSTERS = (8, 64, 1024)
GPUS_A_NODE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-tokens-per-s", type=float, default=3000, help="answer tokens of one engine on one GPU")
    parser.add_argument("--learner-tokens-per-s", type=float, default=6000, help="prompt and answer tokens of one rank on one GPU")
    parser.add_argument("--answer-tokens", type=int, default=400, help="mean length of an answer")
    parser.add_argument("--link-gib-per-s", type=float, default=20, help="of weights, from one node to the next")
    options = parser.parse_args()
    stated = {name: getattr(options, name) for name in ("engine_tokens_per_s", "learner_tokens_per_s", "answer_tokens", "link_gib_per_s")}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(QWEN_7B))
        (Path(folder) / "model.safetensors").touch()
        found = {f"{gpus} GPUs": on_paper(gpus, folder, options) for gpus in CLUSTERS}
    for name in next(iter(found.values())):
        print(f"{name:58s}", "  ".join(f"{row[name]:12,.4g}" for row in found.values()))
    print(json.dumps({"benchmark": "scale", "environment": environment(), "stated": stated, "found": found}))


def on_paper(gpus: int, model: str, options: argparse.Namespace) -> dict[str, float]:
    """One cluster's step."""
    half, questions = gpus // 2, gpus
    settings = [f"model.path={model}", f"rollout.engines={half}", f"learner.ranks={half}", f"data.questions_per_step={questions}"]
    config = load(CONFIG, settings)
    plan = run(config, Assumed(80.0, answer_tokens=options.answer_tokens))
    tokens = Tokens(**plan["plan"]["tokens"])
    sync_s = 2 * plan["plan"]["parameters"] / GIB / options.link_gib_per_s  # a chain of nodes passes each bucket on as it comes
    time = step_time(config, tokens, Rates(options.engine_tokens_per_s, options.learner_tokens_per_s, sync_s))
    driver_s = tokens.rollouts * driver_ms() / 1000
    cores = questions * video_s() / time.overlapped_s
    return {
        "questions a step": questions,
        "rollouts a step": tokens.rollouts,
        "tokens learned a step, million": tokens.learned / 1e6,
        "sampling, s": time.rollout_s,
        "learning, s": time.learn_s,
        "new weights, s": time.sync_s,
        "step, one after the other, s": time.step_s,
        "step, overlapped, s": time.overlapped_s,
        "driver, s": driver_s,
        "driver's share of an overlapped step": driver_s / time.overlapped_s,
        "cores that build variants all the time": math.ceil(cores),
        "of them on each node": cores / max(1, gpus // GPUS_A_NODE),
        "frames of a step, GiB": plan["plan"]["frames_bytes"] / GIB,
        "memory of a learner's GPU, GiB": plan["learner_bytes"] / GIB,
        "memory of an engine's GPU, GiB": plan["engine_bytes"] / GIB,
        "checkpoint, GiB": plan["plan"]["checkpoint_bytes"] / GIB,
    }


def driver_ms() -> float:
    """Milliseconds of the driver for a rollout: to the engine and back with the most engines measured, and from the answers to the learner."""
    found = _baseline("dispatch")
    asked = [value for name, value in found.items() if name.endswith("driver milliseconds per rollout")][-1]
    return asked + max(value for name, value in found.items() if name.endswith("milliseconds per slot"))


def video_s() -> float:
    """Seconds of a core for the four variants of a minute of 720p video."""
    return 4 * 32 / _baseline("variants")["frames per second, K = 4 variants"]


def _baseline(name: str) -> dict[str, float]:
    measured: dict[str, float] = json.loads((ROOT / "benchmarks" / "baselines" / f"{name}.json").read_text())["found"]
    return measured


if __name__ == "__main__":
    main()
