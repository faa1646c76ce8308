"""One small world and one way to run the command line, for all integration tests. Real Ray, vLLM, DeepSpeed, decord."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from rlvid.config import load
from rlvid.families import named
from rlvid.world import scenes, warm_start
from tests.unit.test_packing import make_prompt

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture(scope="session")
def world(request, tmp_path_factory) -> scenes.World:
    """48 train and 12 held-out questions, and a model that has just learned the form of an answer. Built once for all test runs of one state of the code."""
    cache = getattr(request.config, "cache", None)
    whole = (cache.mkdir("world") if cache else tmp_path_factory.mktemp("world")) / scenes._code_digest()
    with FileLock(whole.with_suffix(".lock")):  # several workers want it
        if not whole.exists():
            aside = whole.with_suffix(f".{os.getpid()}")
            built = scenes.build_world(aside, train_questions=48, eval_questions=12, warm_start=False, progress=False)
            questions = [scenes._read(aside, split) for split in ("train", "eval")]
            warm_start.warm_start(built.model, *questions, course=warm_start.Course(50, 10, 8, 2), progress=False)
            aside.rename(whole)
    return scenes.World(whole / "train.jsonl", whole / "eval.jsonl", whole / "model", named("qwen2_5_vl").tiny_frame)


@pytest.fixture(scope="session")
def rlvid():
    """Run the command line in a process of its own."""

    def run(*args: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rlvid.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ | {"COLUMNS": "200"}, check=False)

    return run


@pytest.fixture(scope="module")
def ray_here():
    """Ray as a run starts it, for actors that a test makes itself."""
    from rlvid.actors.placement import connect

    connect(load(CONFIG), [])
    import ray

    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def prompts(world):
    """Five prompts of the world's model with two answers each."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(world.model)
    return [make_prompt(processor, world.frame_size, seed=seed, answers=(3, 5)) for seed in range(5)]


@pytest.fixture
def small(world, tmp_path):
    """Overrides that make configs/quickstart.yaml a run of a minute."""
    return small_overrides(world, tmp_path / "runs")


def small_overrides(world: scenes.World, runs: Path) -> list[str]:
    return [
        f"run.dir={runs}",
        "run.steps=2",
        f"model.path={world.model}",
        f"data.train={world.train}",
        f"data.eval={world.eval}",
        "data.questions_per_step=4",
        "variants.kinds=[uniform, importance_jitter]",
        "relevance.scorer=motion",
        "rollout.answers=4",
        "rollout.max_sequences=64",
        "tracker.kind=none",
        "video.cache_dir=null",
    ]


@pytest.fixture(scope="session")
def undisturbed(world, rlvid, tmp_path_factory) -> tuple[Path, list[str], str]:
    """(folder, settings, what it printed) of five steps with repaired answers and a checkpoint after each. To be read, not changed."""
    settings = [
        *small_overrides(world, tmp_path_factory.mktemp("runs")),
        "run.steps=5",
        "run.save_every=1",
        "run.keep_checkpoints=5",
        "data.eval=null",
        "repair.enabled=true",
        "teacher.kind=annotation",
        "tracker.kind=tensorboard",
        "tracker.rollouts_every=2",
    ]
    result = rlvid("train", CONFIG, *settings, "run.name=undisturbed", "--verify-sync")
    assert result.returncode == 0, result.stderr[-3000:]
    return Path(settings[0].removeprefix("run.dir=")) / "undisturbed", settings, result.stdout + result.stderr


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def shared_by(pid: int) -> set[Path]:
    """Shared-memory objects that a process and its children have mapped: a server ended by SIGTERM may leave some."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            found |= {Path(mapped.path) for mapped in process.memory_maps() if mapped.path.startswith("/dev/shm/")}
    return found


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/models", timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def endpoint(world, tmp_path_factory):
    """Address of vLLM's OpenAI-compatible server of the tiny model. What it leaves in shared memory is taken away, and only that."""
    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("teacher") / "server.log"
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(world.model), "--served-model-name", "teacher"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "4"]
    command += ["--block-size", "32", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096", "--limit-mm-per-prompt", '{"image": 8, "video": 0}']
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | quiet, start_new_session=True)
    try:
        url, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + 300
        while not answers(url):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield url
    finally:
        left = shared_by(server.pid)
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)
        for path in left:
            path.unlink(missing_ok=True)


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def slots_of(folder: Path, step: int) -> list[dict]:
    return [json.loads(line) for line in (folder / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]
