"""Jobs on a real Ray head with its dashboard, both on loopback: submitted, followed, failed, stopped, started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import free_ports
from tests.unit.folders import make_folder

KEY = "planted-key-7f3a9c"
TOKEN = "0123456789abcdef" * 4
QUESTION = {"id": "q1", "video": "clip.mp4", "question": "Which colour?", "task": "multiple_choice", "options": ["red", "blue"], "answer": "red"}


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Address of the dashboard of a Ray of our own."""
    port, http, agent, client = free_ports(4)
    folder = tempfile.mkdtemp(prefix="rj")  # short: Ray's sockets have long names
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={http}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", "--num-cpus=2", f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder}", "--disable-usage-stats"]
    with open(f"{folder}/output", "w") as output:
        head = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{http}"
        wait_for(lambda: answers(address), head, f"{folder}/output")
        yield address
    finally:
        head.send_signal(signal.SIGTERM)  # --block ends this Ray's processes with it, and no other Ray's
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    try:
        request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_for(ready, process: subprocess.Popen, log: str, deadline_s: float = 120) -> None:
    end = time.monotonic() + deadline_s
    while not ready():
        assert process.poll() is None and time.monotonic() < end, Path(log).read_text()[-2000:]
        time.sleep(0.5)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder to submit: a config whose every file is there, a video and a secret that must not travel."""
    folder = tmp_path / "project"
    (folder / "configs").mkdir(parents=True)
    (folder / "clip.mp4").write_bytes(b"not looked into")
    (folder / ".env").write_text(f"WANDB_API_KEY={KEY}")
    (folder / "train.jsonl").write_text(json.dumps(QUESTION) + "\n")
    (folder / "model").mkdir()
    make_folder(folder / "model")
    tree = {
        "run": {"name": "job", "dir": str(tmp_path / "runs")},
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
    }
    (folder / "configs" / "c.yaml").write_text(yaml.safe_dump(tree))
    return folder


def submit(dashboard: str, project: Path, *args: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlvid.cli", "submit", *map(str, args), "--address", dashboard, "--working-dir", str(project), "--python", sys.executable]
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "RAY_AUTH_TOKEN": TOKEN} | (env or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def test_a_job_runs_and_its_output_is_followed(dashboard: str, project: Path) -> None:
    asks_for_key = project / "python.sh"
    asks_for_key.write_text(f'#!/bin/sh\n[ "$WANDB_API_KEY" = "{KEY}" ] || exit 9\nexec {sys.executable} "$@"\n')
    asks_for_key.chmod(0o755)
    result = submit(dashboard, project, project / "configs/c.yaml", "run.name=good", "--dry-run", "--python", asks_for_key, env={"WANDB_API_KEY": KEY})
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"packed  8 files of \S+project, 0\.0 MB", result.stdout), result.stdout  # and python.sh
    assert f"job good-1 at {dashboard}" in result.stdout
    assert "address: auto" in result.stdout and "name: good" in result.stdout, "the job's own output"
    assert result.stdout.rstrip().endswith("job good-1: succeeded")
    assert KEY not in result.stdout + result.stderr


def test_a_failed_job_gives_its_exit_code_and_can_be_started_again(dashboard: str, project: Path) -> None:
    command = (project / "configs/c.yaml", "run.name=bad", "--dry-run")
    result = submit(dashboard, project, *command, "data.train=/no/such/file.jsonl")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "error: data.train: /no/such/file.jsonl does not exist" in result.stdout
    assert "job bad-1: failed" in result.stdout
    again = submit(dashboard, project, *command)
    assert again.returncode == 0 and "job bad-2: succeeded" in again.stdout, again.stdout + again.stderr


def test_a_job_is_stopped(dashboard: str, project: Path) -> None:
    os.mkfifo(project / "endless.jsonl")  # reading it waits for ever
    command = (project / "configs/c.yaml", "run.name=long", "--dry-run", f"data.train={project / 'endless.jsonl'}", "--no-wait")
    result = submit(dashboard, project, *command)
    assert result.returncode == 0 and result.stdout.rstrip().endswith(f"job long-1 at {dashboard}"), result.stdout + result.stderr
    twice = submit(dashboard, project, *command)
    assert twice.returncode == 2 and "run long is under way as job long-1" in twice.stderr and len(twice.stderr.splitlines()) == 1

    follower = subprocess.Popen(
        [sys.executable, "-m", "rlvid.cli", "submit", "--follow", "long-1", "--address", dashboard],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"RAY_AUTH_TOKEN": TOKEN},
    )
    time.sleep(8)
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 130, "Ctrl-C without a terminal to ask leaves the job alone"

    stopped = submit(dashboard, project, "--stop", "long-1")
    assert stopped.returncode == 0 and stopped.stdout == "job long-1: stopped\n", stopped.stdout + stopped.stderr
    followed = submit(dashboard, project, "--follow", "long-1")
    assert followed.returncode == 130 and "job long-1: stopped" in followed.stdout
    unknown = submit(dashboard, project, "--stop", "nobody-1")
    assert unknown.returncode == 2 and "has no job nobody-1 (known: " in unknown.stderr


def test_without_the_clusters_token_nothing_is_submitted(dashboard: str, project: Path) -> None:
    result = submit(dashboard, project, project / "configs/c.yaml", env={"RAY_AUTH_TOKEN": "f" * 64})
    assert result.returncode == 2 and "wants the cluster's token" in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
