"""The files for clusters: they parse under their own schemas, fit one another and the config they start, and open nothing to the network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvid.config import Config, load
from tests.unit.test_deploy import pins

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PINS = pins(DEPLOY / "requirements-gpu.txt")
IMAGE = "registry.example.com/rlvid:0.1.0"
SECRET = re.compile(r"(?i)(api_key|token|secret|password)\s*[=:]\s*[\"']?[A-Za-z0-9_\-]{16,}")
INSTRUCTIONS = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD", "ARG", "LABEL", "ENTRYPOINT", "EXPOSE"}

# The fields of ray.io/v1 RayJob that exist (KubeRay 1.7, ray-operator/config/crd/bases/ray.io_rayjobs.yaml). Kubernetes drops an unknown one in silence.
JOB = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "preRunningDeadlineSeconds",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}
CLUSTER = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "historyServerOptions",
    "managedBy",
    "networkPolicy",
    "rayVersion",
    "suspend",
    "tlsOptions",
    "upgradeStrategy",
    "workerGroupSpecs",
}
HEAD = {"enableIngress", "headService", "ingressOptions", "labels", "rayStartParams", "resources", "serviceType", "template"}
WORKERS = {
    "groupName",
    "idleTimeoutSeconds",
    "labels",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "priority",
    "rayStartParams",
    "replicas",
    "resources",
    "scaleStrategy",
    "suspend",
    "template",
}


def tool(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


# --- image


def instructions() -> Iterator[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, continued lines joined."""
    text = "\n".join(line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, " ".join(rest.split())


def test_the_dockerfile_is_made_of_instructions() -> None:
    found = list(instructions())
    assert {name for name, _ in found} <= INSTRUCTIONS and found[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.11\.\d+-\S+", found[0][1]), "the base is pinned"
    assert [words for name, words in found if name == "USER"] == ["1000"] and found[-1][0] == "CMD"
    assert not SECRET.search((DEPLOY / "Dockerfile").read_text())


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    sources = [word for name, words in instructions() if name == "COPY" for word in words.split()[:-1]]
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert set(sources) == set(allowed)
    assert all((ROOT / source).exists() for source in sources)
    assert (DEPLOY / "Dockerfile.dockerignore").read_text().startswith("*\n"), "everything else stays out: runs, videos, .git, keys"
    assert not any(fnmatch(".env", pattern) for pattern in allowed)


@pytest.mark.skipif(tool("hadolint") is None, reason="hadolint is not installed")
def test_hadolint() -> None:
    result = subprocess.run([tool("hadolint") or "", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


# --- Ray's launcher


def launcher() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())


def test_the_launcher_file_passes_rays_own_check() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(launcher()))


def test_the_launcher_holds_the_shipped_run_and_stays_closed() -> None:
    tree = launcher()
    least = [kind["min_workers"] * kind["resources"]["GPU"] for name, kind in tree["available_node_types"].items() if name != "head"]
    config = load(ROOT / "configs/strive_qwen2_5_vl_7b.yaml")
    assert sum(least) >= config.rollout.engines * config.rollout.num_gpus + config.learner.ranks * config.learner.num_gpus
    assert tree["max_workers"] == sum(kind.get("max_workers", 0) for kind in tree["available_node_types"].values())
    assert {"rollouts", "learner", "teacher"} <= tree["available_node_types"].keys() and tree["docker"]["image"] == IMAGE
    for command in (tree["head_start_ray_commands"][-1], tree["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token ray start" in command and "0.0.0.0" not in command
    assert "--dashboard-host=127.0.0.1" in tree["head_start_ray_commands"][-1]


# --- KubeRay


def kubernetes() -> tuple[dict[str, Any], dict[str, Any]]:
    job, policy = yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text())
    return job, policy


def pods() -> list[dict[str, Any]]:
    cluster = kubernetes()[0]["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_rayjob_uses_fields_that_exist() -> None:
    job, _ = kubernetes()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"])
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"].keys() <= JOB and cluster.keys() <= CLUSTER and cluster["headGroupSpec"].keys() <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKERS and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "Kubernetes takes strings only"
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["rollouts", "learner", "teacher"]
    assert job["spec"]["backoffLimit"] >= 1 and job["spec"]["shutdownAfterJobFinishes"] is True
    assert cluster["rayVersion"] == PINS["ray"]


def test_the_pods_hold_together() -> None:
    for pod in pods():
        (container,) = pod["containers"]
        assert container["image"] == IMAGE
        assert container["resources"]["requests"] == container["resources"]["limits"], "nothing is taken away from a running engine"
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]} == {"shared", "shm"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
        assert "env" not in container and container["envFrom"][0]["secretRef"]["name"] == "rlvid-keys"
    assert not SECRET.search((DEPLOY / "kuberay-rayjob.yaml").read_text())


def test_the_rayjob_starts_a_run_that_fits() -> None:
    spec = kubernetes()[0]["spec"]
    command, verb, config_file, *overrides = shlex.split(spec["entrypoint"])
    assert (command, verb) == ("rlvid", "train")
    config: Config = load(ROOT / config_file.removeprefix("/opt/rlvid/"), overrides)
    shared = (config.run.dir, config.data.train, config.data.eval)
    assert all(path is not None and path.is_relative_to("/shared") for path in shared) and config.cluster.address == "auto"
    gpus = {
        group["groupName"]: group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]
    }
    assert gpus["rollouts"] == config.rollout.engines * config.rollout.num_gpus and gpus["learner"] == config.learner.ranks * config.learner.num_gpus
    assert gpus["teacher"] == (config.teacher.actors * config.teacher.num_gpus if config.teacher.kind == "engine" else 0)


def test_nobody_else_reaches_the_dashboard() -> None:
    job, policy = kubernetes()
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert all("podSelector" in source for rule in policy["spec"]["ingress"] for source in rule["from"])


# --- Slurm


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job on three nodes, where `srun` runs its command here and every other program writes down how it was called."""
    called = tmp_path / "called"

    def program(path: str, body: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)

    program(".venv/bin/python", f'exec {sys.executable} "$@"')
    program(".venv/bin/ray", f'echo "ray $*" >>{called}; [ "$1" = status ] || exec sleep 300')
    say = 'echo "rlvid $* at $RAY_ADDRESS ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE"'
    program(".venv/bin/rlvid", f'until grep -q n2,n3 {called}; do sleep 0.1; done; {say} >>{called}; exit "${{RLVID_EXIT:-0}}"')
    program("bin/scontrol", 'printf "n1\\nn2\\nn3\\n"')
    program("bin/hostname", "echo 10.0.0.7 10.0.0.8")
    program("bin/srun", f'echo "srun $*" >>{called}; while [[ $1 = --* ]]; do shift; done; exec "$@"')
    yield {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_ON_NODE": "64",
        "SLURM_GPUS_ON_NODE": "8",
    }


def run_slurm(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", DEPLOY / "slurm.sh", *args], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_slurm_script_starts_ray_on_every_node_and_trains(slurm: dict[str, str], tmp_path: Path) -> None:
    result = run_slurm(slurm, "c.yaml", "run.name=x y")
    assert result.returncode == 0, result.stderr
    called = (tmp_path / "called").read_text()
    assert "--nodelist=n1 ray start --head --block --node-ip-address=10.0.0.7 --port=6379 --num-cpus=64 --num-gpus=8 --include-dashboard=false" in called
    assert "srun --nodes=2 --ntasks-per-node=1 --overlap --nodelist=n2,n3 ray start --block --address=10.0.0.7:6379" in called
    assert "rlvid train c.yaml run.name=x y at 10.0.0.7:6379 64 token" in called


def test_the_slurm_job_ends_as_the_run_does(slurm: dict[str, str], tmp_path: Path) -> None:
    assert run_slurm(slurm | {"RLVID_EXIT": "3"}, "c.yaml").returncode == 3
    assert run_slurm(slurm).returncode == 2
    without = {name: value for name, value in slurm.items() if name != "SLURM_SUBMIT_DIR"}
    assert "start this with sbatch" in run_slurm(without, "c.yaml").stderr
    shutil.rmtree(tmp_path / ".venv")
    assert "requirements-gpu.txt" in run_slurm(slurm, "c.yaml").stderr
