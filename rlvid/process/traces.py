"""What a vLLM engine leaves on its machine: sockets, shared memory, semaphores. Named here, so that they can be removed when it was killed.

A process that is killed cleans nothing up, and Ray kills the helper with which Python would. So each engine's actor starts a
small shell that belongs to nobody: it waits for the actor's end, however that comes, and removes what bears the actor's name.
"""

from __future__ import annotations

import multiprocessing.process
import multiprocessing.shared_memory
import os
import secrets
import subprocess
import tempfile
from typing import Any

TRACES = "RLVID_TRACES"
"""Environment variable: what the names of an engine's traces begin with."""

SWEEPER = """exec 3<&0; (cat <&3 > /dev/null; sleep 1; rm -rf "/dev/shm/$0-"* "/dev/shm/sem.$0-"* "$1") &"""
"""`cat` ends when the last holder of the pipe's other end, the actor, is gone. (A shell takes the standard input of what it puts behind itself away.)"""


def own_traces() -> None:
    """Name this process's traces, make the folder for its sockets, see that all are removed after its end. Call it before vLLM is imported."""
    name = f"rlvid-{os.getpid()}-{secrets.token_hex(4)}"
    sockets = os.path.join(tempfile.gettempdir(), name)
    os.makedirs(sockets)
    os.environ.update({TRACES: name, "VLLM_RPC_BASE_PATH": sockets})
    use_names()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    waiting = subprocess.Popen(["sh", "-c", SWEEPER, name, sockets], stdin=subprocess.PIPE, **quiet)
    assert waiting.stdin is not None
    os.dup(waiting.stdin.fileno())  # stays open, and uninherited, as long as this process lives
    waiting.wait()


def use_names() -> None:
    """Shared memory and semaphores that this process makes from here on bear the name that its actor chose."""
    if name := os.environ.get(TRACES):
        shared: Any = multiprocessing.shared_memory
        shared._SHM_NAME_PREFIX = f"/{name}-"
        shared._SHM_SAFE_NAME_LENGTH = len(shared._SHM_NAME_PREFIX) + 8
        process: Any = multiprocessing.process.current_process()
        process._config["semprefix"] = f"/{name}-"
