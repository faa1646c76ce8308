"""The plan's memory of a learner rank against the peak of a real one: DeepSpeed, AdamW, two updates on packed prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rlvid.config import load
from rlvid.plan.model_size import model_size
from rlvid.plan.reckoning import Assumed, reckon, shared_bytes
from tests.integration.conftest import CONFIG, small_overrides

RANK = """
import json, socket, sys
import numpy as np
from transformers.video_utils import VideoMetadata
from rlvid.config import load
from rlvid.learner.packing import spread_over_ranks
from rlvid.learner.rank import Meeting, Rank
from rlvid.plan.model_size import model_size
from rlvid.plan.reckoning import Assumed, count_tokens, learner_bytes
from rlvid.sync.tokens import token_digest
from rlvid.types import TrainingPrompt, VariantSpec
from rlvid.variants.build import video_metadata

config = load(sys.argv[1], sys.argv[2:])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
rank = Rank(config, 0)
rank.start(Meeting("127.0.0.1", port))
rng = np.random.default_rng(0)
metadata = video_metadata(VariantSpec("uniform", tuple(float(second) for second in range(8)), None, (84, 84), 0))
turn = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "which colour ?"}]}]
text = rank.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)

def prompt():
    frames = rng.integers(0, 255, (8, 84, 84, 3), dtype=np.uint8)
    video = VideoMetadata(**{key: value for key, value in metadata.items() if key != "do_sample_frames"})
    encoded = rank.processor(text=[text], videos=[frames], video_metadata=[video], do_sample_frames=False, return_tensors="pt")
    ids = encoded["input_ids"][0].tolist()
    answers = tuple(tuple(map(int, rng.integers(20, 400, 20))) for _ in range(8))
    return TrainingPrompt(text, token_digest(ids), len(ids), metadata, frames, answers, ((-1.0,) * 20,) * 8, tuple(rng.normal(size=8).tolist()), (1e-3,) * 8)

prompts = [prompt() for _ in range(8)]
for _ in range(2):
    rank.pack(spread_over_ranks(prompts, 1, config.learner.micro_batch_tokens)[0])
    rank.update()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) * 1024
size = model_size(config.model.path)
parts = learner_bytes(config, size, count_tokens(config, size, Assumed(text_tokens=prompts[0].prompt_tokens - 36)))
parts.pop("sync buckets")  # nothing is sent here
print(json.dumps({"peak": peak, "plan": sum(parts.values()), "parameters": size.parameters}))
"""


def grown(model: str, folder: Path) -> str:
    """The tiny model's folder with a text model of 35 M parameters, random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    AutoProcessor.from_pretrained(model).save_pretrained(folder)
    tree = json.loads((Path(model) / "config.json").read_text())
    tree["text_config"] |= {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    tree["text_config"] |= {"num_key_value_heads": 4, "layer_types": ["full_attention"] * 8}
    tree["text_config"]["rope_parameters"]["mrope_section"] = [8, 12, 12]
    tree["vision_config"]["out_hidden_size"] = 512
    (folder / "config.json").write_text(json.dumps(tree))
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


def measure(model: str, *settings: str) -> dict[str, int]:
    shape = ["data.questions_per_step=4", "variants.kinds=[uniform, random_jitter]", "rollout.answers=8", "rollout.max_tokens=20"]
    command = [sys.executable, "-c", RANK, str(CONFIG), f"model.path={model}", *shape, "learner.micro_batch_tokens=2048", "learner.threads=1", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def tiny(world) -> dict[str, int]:
    """Its peak is the interpreter's and its libraries'."""
    return measure(str(world.model))


@pytest.fixture(scope="module")
def model(world, tmp_path_factory) -> str:
    return grown(str(world.model), tmp_path_factory.mktemp("grown"))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["learner.gradient_checkpointing=false"], marks=pytest.mark.long, id="whole"),
        pytest.param(["learner.gradient_checkpointing=true"], id="checkpointing"),
        pytest.param(["learner.gradient_checkpointing=true", "learner.lora.rank=16"], marks=pytest.mark.long, id="lora"),
    ],
)
def test_the_peak_is_within_a_fifth_of_the_plan(tiny: dict[str, int], model: str, settings: list[str]) -> None:
    """Against the same rank with the tiny model."""
    big = measure(model, *settings)
    assert big["parameters"] > 30e6
    assert big["plan"] - tiny["plan"] == pytest.approx(big["peak"] - tiny["peak"], rel=0.2), (big, tiny)


COLOCATED = ["placement=colocated", "run.name=both", "run.steps=2", "data.eval=null", "data.questions_per_step=4", "learner.threads=1", "rollout.threads=1"]
COLOCATED += ["learner.micro_batch_tokens=1024", "rollout.max_model_len=512", "rollout.batched_tokens=512"]
"""Batches that such a run fills: the plan counts full ones."""


def both_sides(world, model: str, folder: Path) -> dict[str, int]:
    """The peaks of an engine and a rank that share a place, in a real run, and what the plan says of them."""
    settings = [*small_overrides(world, folder), *COLOCATED, f"model.path={model}"]
    with open(folder.with_suffix(".log"), "w") as said:
        run = subprocess.Popen([sys.executable, "-m", "rlvid.cli", "train", str(CONFIG), *settings], stdout=said, stderr=said)
        peaks = dict.fromkeys(("ray::Rank", "ray::RolloutActor", "EngineCore"), 0)
        while run.poll() is None:
            for process in psutil.Process(run.pid).children(recursive=True):
                try:
                    for name in [name for name in peaks if name in " ".join(process.cmdline())]:  # what such a process forks has its name for a moment
                        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                        peaks[name] = max(peaks[name], next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024)
                except (psutil.Error, OSError, StopIteration):
                    continue  # it ended meanwhile
            time.sleep(0.05)
    assert run.returncode == 0, folder.with_suffix(".log").read_text()[-3000:]
    assert all(peaks.values()), peaks
    config = load(CONFIG, settings)
    size = model_size(config.model.path)
    plan = shared_bytes(config, size, reckon(config, size, Assumed(gpu_memory_gib=None)))
    return {"peak": sum(peaks.values()), "plan": plan["always"]}


@pytest.mark.long
def test_what_both_sides_of_one_place_hold_is_within_a_fifth_of_the_plan(world, model, tmp_path):
    """placement colocated without a GPU: both stay. Against the same run of the tiny model."""
    tiny, big = both_sides(world, str(world.model), tmp_path / "tiny"), both_sides(world, model, tmp_path / "big")
    assert big["plan"] - tiny["plan"] > 2**29
    assert big["plan"] - tiny["plan"] == pytest.approx(big["peak"] - tiny["peak"], rel=0.2), (big, tiny)
