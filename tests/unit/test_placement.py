"""What an actor and a Ray of our own are started with."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from rlvid.actors import variant
from rlvid.actors.placement import Place, connect
from rlvid.config import Config

TREE = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}}


@pytest.fixture
def asked(monkeypatch):
    """What ray.init is asked for."""
    found = {}
    monkeypatch.setattr("ray.init", lambda **options: found.update(options))
    for name in ("RAY_ADDRESS", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield found
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def test_without_an_address_nobody_elses_ray_is_joined(asked, monkeypatch):
    """Ray itself would join what `ray start` has left on the node, and refuse the numbers of CPUs."""
    config = Config.model_validate(TREE)
    connect(config, [variant.role(config)])
    assert asked["address"] == "local" and asked["num_cpus"] >= 1
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    asked.clear()
    connect(config, [variant.role(config)])
    assert asked["address"] == "head:6379" and "num_cpus" not in asked


@pytest.mark.parametrize(("said", "starts"), [("The current node timed out during startup. This could", 3), ("no such address", 1)])
def test_a_ray_that_was_too_slow_to_start_is_started_again(monkeypatch, asked, said, starts):
    tried = []

    def init(**_):
        tried.append(subprocess.Popen(["sleep", "60"]))
        raise Exception(said)

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(Exception, match=said[:12]):
        connect(Config.model_validate(TREE), [])
    assert len(tried) == starts
    assert all(left.wait(5) == -signal.SIGKILL for left in tried[:-1]), "what a start leaves behind would slow the next one down"
    tried[-1].kill()
    tried[-1].wait()


def test_rays_hook_for_uv_is_off_unless_somebody_wants_it(asked, monkeypatch):
    config = Config.model_validate(TREE)
    connect(config, [variant.role(config)])
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")
    connect(config, [variant.role(config)])
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "1"


@pytest.mark.parametrize(("needs", "hidden"), [({"CPU": 1}, True), ({"CPU": 1, "GPU": 0.25}, False), ({"GPU": 1}, False)])
def test_actors_without_a_gpu_see_none(needs, hidden, monkeypatch):
    monkeypatch.setattr("ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy", lambda *_, **__: None)
    env = Place(None, 0, needs, "/logs").options({"OMP_NUM_THREADS": "1"})["runtime_env"]["env_vars"]
    assert (env.get("CUDA_VISIBLE_DEVICES") == "") is hidden and env["OMP_NUM_THREADS"] == "1"
