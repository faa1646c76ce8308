"""A real Ray cluster of several nodes on this machine: each role on a node of its own; nodes go and come while the run goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.chaos import slots_problem, steps_done, wait_for
from rlvid.config import load
from tests.integration.conftest import CONFIG, metrics_of, small_overrides


@pytest.fixture
def cluster(monkeypatch):
    """A head without room for actors; `add(role)` brings a node for one actor of that role."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8})
    yield made
    with contextlib.suppress(Exception):
        made.shutdown()


def add(cluster, role, **more):
    return cluster.add_node(num_cpus=1, resources={role: 1}, object_store_memory=10**8, **more)


@pytest.mark.long
def test_nodes_go_and_come(cluster, world, tmp_path):
    for role in ("engine", "learner"):
        add(cluster, role)
    variants = [add(cluster, "variant"), add(cluster, "variant")]
    overrides = [
        *small_overrides(world, tmp_path / "runs"),
        f"cluster.address={cluster.address}",
        "cluster.placement=SPREAD",
        "run.steps=5000",
        "data.eval=",
        "report.enabled=false",
        "rollout.max_engines=2",
        "rollout.resources={engine: 1}",
        "rollout.threads=1",
        "rollout.heartbeat_s=15",
        "variants.actors=2",
        "variants.resources={variant: 1}",
        "learner.resources={learner: 1}",
        "learner.threads=1",
    ]
    settings = load(CONFIG, overrides)
    run = subprocess.Popen(
        [sys.executable, "-m", "rlvid.cli", "train", str(CONFIG), *overrides],
        stdout=(tmp_path / "said.txt").open("wb"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
    )
    try:
        after(run, settings, 2)
        second = add(cluster, "engine")
        wait_for(lambda: "rollout engine 1 joined" in log_of(settings) or run.poll() is not None, 120, "the second engine to join")
        after(run, settings, steps_done(settings.folder) + 2)
        cluster.remove_node(second, allow_graceful=False)
        cluster.remove_node(variants[1], allow_graceful=False)
        after(run, settings, steps_done(settings.folder) + 2)
        add(cluster, "engine")
        add(cluster, "variant")
        wait_for(lambda: said_again(settings) == {"rollout engine 1", "variant actor 1"} or run.poll() is not None, 180, "both to serve again")
        after(run, settings, steps_done(settings.folder) + 2)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=90) == 130, (tmp_path / "said.txt").read_text()[-3000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            run.send_signal(signal.SIGKILL)
    done = steps_done(settings.folder)
    assert slots_problem(settings, done) == ""
    assert [row["step"] for row in metrics_of(settings.folder)] == list(range(1, done + 1))


def said_again(settings):
    return set(re.findall(r"INFO (.*) serves again", log_of(settings)))


def after(run, settings, step):
    """Wait until the run has done a step."""
    wait_for(lambda: run.poll() is not None or steps_done(settings.folder) >= step, 240, f"step {step}")
    assert run.poll() is None, log_of(settings)[-3000:]
    time.sleep(0.2)


def log_of(settings):
    path = settings.folder / "log.txt"
    return path.read_text() if path.exists() else ""
