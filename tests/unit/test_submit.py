"""What a job takes along and what it refuses, without a cluster. The real thing: tests/integration/test_submit.py."""

from __future__ import annotations

import os
import socket
import threading
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from rlvid.config import Config, ConfigError, load
from rlvid.jobs import submit
from rlvid.jobs.package import pack, packed_files
from rlvid.jobs.submit import Jobs, Parcel, check_paths, variables

ROOT = Path(__file__).parents[2]
STAYS = [
    ".git/config",
    ".venv/bin/python",
    "rlvid/__pycache__/config.cpython-311.pyc",
    "runs/first/metrics.jsonl",
    "runs/first/checkpoints/step_000001/learner/a.pt",
    "data/clip.MP4",
    "data/clip.webm",
    "model/model.safetensors",
    "wandb/x",
    ".quickstart/train.jsonl",
    ".env",
    "deep/.env.local",
    "server.pem",
    "home/.netrc",
    "id_rsa.pub",
]
GOES = ["configs/a.yaml", "data/train.jsonl", "model/config.json", "pyproject.toml", "rlvid/cli.py", "rlvid/data/stream.py"]


def make(folder: Path, *names: str, size: int = 10) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)


def test_code_goes_and_videos_runs_weights_and_keys_stay(tmp_path: Path) -> None:
    make(tmp_path, *STAYS, *GOES)
    assert packed_files(tmp_path) == GOES
    assert packed_files(tmp_path, ["data/", "*.toml"]) == ["configs/a.yaml", "model/config.json", "rlvid/cli.py", "rlvid/data/stream.py"]
    assert packed_files(tmp_path, ["data", "rlvid/*.py"]) == ["configs/a.yaml", "model/config.json", "pyproject.toml"]


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    make(tmp_path / "outside", "secret")
    make(tmp_path / "project", "a.py")
    (tmp_path / "project" / "link.py").symlink_to("a.py")
    (tmp_path / "project" / "leak").symlink_to(tmp_path / "outside" / "secret")
    (tmp_path / "project" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "project" / "broken").symlink_to("nowhere")
    assert packed_files(tmp_path / "project") == ["a.py", "link.py"]


def test_this_repository_is_small() -> None:
    names = packed_files(ROOT)
    assert {"rlvid/cli.py", "configs/quickstart.yaml", "pyproject.toml"} <= set(names)
    assert sum((ROOT / name).stat().st_size for name in names) < 20e6
    assert not [name for name in names if ".venv" in name or name.startswith((".git/", "runs/"))]


def test_the_same_files_make_the_same_zip(tmp_path: Path) -> None:
    make(tmp_path / "p", *GOES)
    first = pack(tmp_path / "p", tmp_path / "a.zip", limit_bytes=1000)
    os.utime(tmp_path / "p" / "rlvid" / "cli.py", (0, 0))
    second = pack(tmp_path / "p", tmp_path / "b.zip", limit_bytes=1000)
    assert first.files == len(GOES) and first.size_bytes == (tmp_path / "a.zip").stat().st_size
    assert first.path.read_bytes() == second.path.read_bytes()
    assert zipfile.ZipFile(first.path).read("rlvid/cli.py") == b"x" * 10


def test_too_big_names_the_biggest(tmp_path: Path) -> None:
    make(tmp_path / "p", "notes/big.txt", size=3_000_000)
    make(tmp_path / "p", "notes/deep/er/also.txt", "a.py", size=1_000_000)
    with pytest.raises(ConfigError) as refused:
        pack(tmp_path / "p", tmp_path / "a.zip", limit_bytes=4_000_000)
    line = str(refused.value)
    assert "5.0 MB" in line and "more than 4.0 MB" in line and "biggest: notes/big.txt 3.0 MB, " in line and "notes/deep 1.0 MB" in line and "\n" not in line
    assert not (tmp_path / "a.zip").exists()


def test_keys_travel_by_name() -> None:
    environment = {"WANDB_API_KEY": "a", "OTHER": "b", "UNSAID": "c", "HF_TOKEN": ""}
    assert variables((), environment) == {"WANDB_API_KEY": "a"}
    assert variables(("OTHER",), environment) == {"WANDB_API_KEY": "a", "OTHER": "b"}
    with pytest.raises(ConfigError, match="--env: NOPE is not set"):
        variables(("NOPE",), environment)
    with pytest.raises(ConfigError) as refused:
        variables(("OTHER=very-secret",), environment)
    assert "very-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [("run.dir=runs", "run.dir"), ("data.train=t.jsonl", "data.train"), ("data.eval=e.jsonl", "data.eval"), ("model.path=./model", "model.path")],
)
def test_relative_paths_are_refused(override: str, key: str) -> None:
    whole = ["run.dir=/s/runs", "data.train=/s/t.jsonl", "data.eval=null", "model.path=Qwen/Qwen2.5-VL-7B-Instruct"]

    def config(*overrides: str) -> Config:
        return load(ROOT / "configs/strive_qwen2_5_vl_7b.yaml", overrides)

    check_paths(config(*whole))
    with pytest.raises(ConfigError, match=f"{key}: .* is relative, and a job runs in a passing folder".replace(".", r"\.", 1)):
        check_paths(config(*whole, override))


@pytest.mark.parametrize("address", [None, "", "head:8265", "ray://head:10001", "auto"])
def test_an_address_that_is_none(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="write the address of the cluster's dashboard"):
        Jobs(address)


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("reply", [b"", NOT_FOUND, EMPTY, b"nonsense\r\n\r\n"])
def test_what_listens_there_is_no_dashboard(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, another server, nonsense: one line, and never a wait without end."""
    monkeypatch.setattr("rlvid.jobs.submit.ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                if reply:
                    connection.recv(4096)
                    connection.sendall(reply)
                    connection.close()

        connections: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ConfigError, match="no dashboard answers at"):
            Jobs(f"http://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)


class NotYet:
    """A cluster that cannot take jobs for `seconds` (None: ever), as Ray's own client says it."""

    def __init__(self, seconds):
        self.until, self.taken = None if seconds is None else time.monotonic() + seconds, []

    def list_jobs(self):
        return []

    def submit_job(self, **job):
        if self.until is None or time.monotonic() < self.until:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try again later..")
        self.taken.append(job)
        return job["submission_id"]


def submitted(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    monkeypatch.setattr(submit, "READY_S", 0.5)
    jobs = object.__new__(Jobs)
    jobs.address, jobs.client = "http://head:8265", NotYet(seconds)
    tree = {"run": {"name": "r", "dir": "/shared/runs"}, "model": {"path": "/shared/model"}, "data": {"train": "/shared/t.jsonl"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    return jobs.submit(tmp_path / "c.yaml", [], Parcel(folder=tmp_path)), jobs.client


def test_a_cluster_that_is_just_starting_is_asked_again(tmp_path, monkeypatch):
    name, client = submitted(tmp_path, monkeypatch, seconds=0.1)
    assert name == "r-1" and len(client.taken) == 1
    assert float(client.taken[0]["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60, "time to end in order"


def test_a_cluster_without_agents_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no agent to start a job"):
        submitted(tmp_path, monkeypatch, seconds=None)
