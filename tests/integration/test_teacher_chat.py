"""A real teacher: vLLM's OpenAI-compatible server of a tiny model on loopback, tools, schema, guard. Its weights are random, its protocol is not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rlvid.actors.teacher import TeacherActor
from rlvid.config import load
from rlvid.data.questions import iter_questions
from tests.integration.conftest import CONFIG, small_overrides

SHARED_MEMORY = Path("/dev/shm")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ours() -> set[str]:
    """Shared-memory objects of this user: a server ended by SIGTERM may leave some."""
    return {path.name for path in SHARED_MEMORY.iterdir() if path.stat().st_uid == os.getuid()} if SHARED_MEMORY.is_dir() else set()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/models", timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def endpoint(world, tmp_path_factory):
    """Address of the server. What it leaves in shared memory is taken away, and only that."""
    port, before = free_port(), ours()
    log = tmp_path_factory.mktemp("teacher") / "server.log"
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(world.model), "--served-model-name", "teacher"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "4"]
    command += ["--block-size", "32", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096", "--limit-mm-per-prompt", '{"image": 8, "video": 0}']
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | quiet, start_new_session=True)
    try:
        url, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + 300
        while not answers(url):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)
        left = {name for name in ours() - before if name.startswith(("psm_", "sem.mp-"))}
        for name in left:
            (SHARED_MEMORY / name).unlink(missing_ok=True)


@pytest.mark.slow
def test_a_round_trip_with_a_real_server(world, endpoint, tmp_path):
    """The model has to call a tool first, then must write JSON of the patch's schema: a patch comes back, or a refusal that is counted."""
    overrides = ["teacher.kind=chat", "teacher.model=teacher", f"teacher.base_url={endpoint}", "teacher.overview_frames=2", "teacher.max_turns=2"]
    overrides += ["teacher.max_tokens=700", "teacher.max_frames=6", "teacher.retries=0", "repair.enabled=true"]
    config = load(CONFIG, [*small_overrides(world, tmp_path), *overrides])
    questions = list(iter_questions(world.eval))[:3]

    async def conversation() -> list[list[object]]:
        actor = TeacherActor(config, 0)
        await actor.start()
        try:
            return list(await asyncio.gather(*[actor.find(question, "<answer>nothing</answer>", 8.0, (84, 84)) for question in questions]))
        finally:
            await actor.stop()

    replies = asyncio.run(conversation())
    for reply, frames in replies:
        assert reply.outcome in ("patch", "refused", "leaked"), reply
        assert reply.tool_calls >= 1 and reply.turns >= 2 and reply.tokens_in > 0 and reply.tokens_out > 0
        if reply.patch is None:
            assert frames is None and reply.refused + reply.leaked == 2
        else:
            assert frames.shape == (len(reply.evidence), 84, 84, 3)
