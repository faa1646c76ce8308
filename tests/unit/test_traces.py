"""What an engine leaves behind is removed even when the process that owns it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OWNER = """
import os, sys, time
from multiprocessing import get_context, shared_memory
from rlvid.process.traces import own_traces
own_traces()
kept = shared_memory.SharedMemory(create=True, size=100)
lock = get_context("spawn").Lock()
open(os.environ["VLLM_RPC_BASE_PATH"] + "/socket", "w").close()
print(os.environ["RLVID_TRACES"], os.environ["VLLM_RPC_BASE_PATH"], kept.name, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs Linux's shared memory")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_leaves_nothing(how):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    name, sockets, memory = owner.stdout.readline().split()
    time.sleep(2)
    assert memory.startswith(name) and Path("/dev/shm", memory).exists() and Path(sockets, "socket").exists(), "swept while its owner lives"
    owner.send_signal(how)
    owner.wait(10)
    deadline = time.monotonic() + 10
    while (left := [*Path("/dev/shm").glob(f"*{name}*"), *Path(sockets).parent.glob(name)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
