"""The files for clusters: they parse under their own schemas, fit one another and the config they start, and open nothing to the network."""

from __future__ import annotations

import importlib.metadata
import json
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


RDMA = {"libibverbs1", "ibverbs-providers", "librdmacm1"}


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


def environment() -> dict[str, str]:
    """What the image sets."""
    return {name: value for kind, words in instructions() if kind == "ENV" for name, _, value in (word.partition("=") for word in words.split())}


def test_the_image_holds_what_clusters_need_and_no_tools() -> None:
    runs = [words for name, words in instructions() if name == "RUN"]
    (system,) = [words.split("--no-install-recommends ")[1].split(" &&")[0].split() for words in runs if "apt-get install" in words]
    assert {"g++", "wget", "rsync", *RDMA} == set(system)
    assert environment()["HOME"] == "/home/rlvid" and "--owner=rlvid /home/rlvid/.ray" in " ".join(runs)
    assert [words for words in runs if "pip install" in words and "-r " in words] == ["pip install --no-deps -r deploy/requirements-gpu.txt"]


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


def test_every_node_names_its_own_system_image() -> None:
    """Ray gives a node type without one, or with `latest_dlami`, its own default, whose driver is too old."""
    for name, kind in launcher()["available_node_types"].items():
        assert re.fullmatch(r"ami-[0-9a-f]{17}", kind["node_config"]["ImageId"]), name
        assert kind["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 100, name
    assert "nvidia-driver" in (DEPLOY / "ray-cluster.yaml").read_text()


def test_the_head_can_start_the_other_nodes() -> None:
    """Ray's monitor on the head imports the provider's library, from the image."""
    wanted = {"aws": {"boto3", "botocore", "jmespath", "s3transfer", "python-dateutil"}}[launcher()["provider"]["type"]]
    assert wanted <= PINS.keys() and PINS["python-dateutil"].startswith("2.")


def test_the_launcher_starts_its_container_where_the_image_s_user_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own runner with another end of its ssh: what it would have the node do, in order."""
    from ray.autoscaler._private import command_runner

    tree, said = launcher(), []

    class Node:
        """A node with an NVIDIA runtime, where the image is and no container runs."""

        def check_output(self, command: list[str], **_: object) -> bytes:
            self.check_call(command)
            told = " ".join(command)
            if "Config.Env" in told:
                return json.dumps([f"{name}={value}" for name, value in environment().items()]).encode()
            if "printenv HOME" in told:
                return environment()["HOME"].encode()
            return b"nvidia-container-runtime" if "Runtimes" in told else b"false" if "State.Running" in told else b"/usr/bin/docker"

        def check_call(self, command: list[str], **_: object) -> None:
            said.append(" ".join(command))

    class Provider:
        def internal_ip(self, node: str) -> str:
            return "10.0.0.2"

        external_ip = internal_ip

    runner = command_runner.DockerCommandRunner(
        tree["docker"],
        log_prefix="",
        node_id="n",
        provider=Provider(),
        auth_config={"ssh_user": tree["auth"]["ssh_user"], "ssh_private_key": "key"},
        cluster_name=tree["cluster_name"],
        process_runner=Node(),
        use_internal_ip=True,
    )
    monkeypatch.setattr(command_runner, "is_output_redirected", lambda: False)
    mounts = tree["file_mounts"] | {"~/ray_bootstrap_config.yaml": "/tmp/config"}
    runner.run_init(as_head=True, file_mounts=mounts, sync_run_yet=True)
    (start,) = [line for line in said if "docker run" in line]
    home = environment()["HOME"]
    assert f":{home}/.ray/auth_token " in start and "/root" not in start
    for option in tree["docker"]["run_options"]:
        assert option in start
    assert "--runtime=nvidia" in start and f"--net=host {IMAGE} bash" in start
    (copied,) = [line for line in said if "rsync -e" in line]
    assert f"rlvid:{home}/ray_bootstrap_config.yaml" in copied, "rsync runs inside the container, too"
    assert "--ulimit memlock=-1:-1" in start


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
        capabilities = {"drop": ["ALL"], "add": ["IPC_LOCK"]}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 1000, "capabilities": capabilities}
        assert {entry["name"] for entry in container["env"]} == {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "HF_HOME"}
        assert container["envFrom"][0]["secretRef"]["name"] == "rlvid-keys"
        assert pod["securityContext"]["fsGroup"] == container["securityContext"]["runAsUser"], "else nobody may write to /shared"
        assert pod.keys() <= {"securityContext", "initContainers", "containers", "volumes"}
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


def test_the_model_is_fetched_once_for_all_pods_before_the_run() -> None:
    head, *workers = pods()
    (fetch,) = head["initContainers"]
    assert not any("initContainers" in worker for worker in workers)
    program, verb, model, option, folder = fetch["command"]
    assert (program, verb, option) == ("hf", "download", "--local-dir") and Path(folder).is_relative_to("/shared")
    words = shlex.split(kubernetes()[0]["spec"]["entrypoint"])
    assert f"model.path={folder}" in words and load(ROOT / words[2].removeprefix("/opt/rlvid/"), words[3:5]).model.path == model
    assert fetch["image"] == IMAGE and fetch["envFrom"] == head["containers"][0]["envFrom"] and fetch["volumeMounts"] == head["containers"][0]["volumeMounts"]
    told = subprocess.run([tool(program) or "", verb, "--help"], capture_output=True, text=True, check=True, timeout=120).stdout
    assert option in told and PINS["huggingface-hub"] == importlib.metadata.version("huggingface-hub")


@pytest.mark.skipif("RLVID_RAYJOB_CRD" not in os.environ, reason="RLVID_RAYJOB_CRD names no file (KubeRay's ray.io_rayjobs.yaml, as its operator publishes it)")
def test_the_rayjob_is_valid_under_the_operator_s_published_schema() -> None:
    """Down to the pods, with unknown fields refused: Kubernetes drops them in silence."""
    import jsonschema

    published = yaml.safe_load(Path(os.environ["RLVID_RAYJOB_CRD"]).read_text())
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in published["spec"]["versions"] if version["name"] == "v1"]
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    problems = list(jsonschema.Draft202012Validator(strict(schema)).iter_errors(kubernetes()[0]))
    assert not problems, [("/".join(map(str, problem.absolute_path)), problem.message) for problem in problems]


def strict(schema: Any) -> Any:
    """The schema as a validator reads it: quantities and ports are integers or strings, and an object has no fields but those named."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {"additionalProperties": False} if schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields") else {}
    return closed | {name: strict(part) for name, part in schema.items()}


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
    for step in [line for line in called.splitlines() if line.startswith("srun") and "ray start" in line]:
        assert "--overlap --mem=0 --cpu-bind=none" in step
    assert "#SBATCH --mem=0\n" in (DEPLOY / "slurm.sh").read_text()
    assert "--nodelist=n1 ray start --head --block --node-ip-address=10.0.0.7 --port=6379 --num-cpus=64 --num-gpus=8 --include-dashboard=false" in called
    assert "srun --nodes=2 --ntasks-per-node=1 --overlap --mem=0 --cpu-bind=none --nodelist=n2,n3 ray start --block --address=10.0.0.7:6379" in called
    assert "rlvid train c.yaml run.name=x y at 10.0.0.7:6379 64 token" in called


def test_the_slurm_job_ends_as_the_run_does(slurm: dict[str, str], tmp_path: Path) -> None:
    assert run_slurm(slurm | {"RLVID_EXIT": "3"}, "c.yaml").returncode == 3
    assert run_slurm(slurm).returncode == 2
    without = {name: value for name, value in slurm.items() if name != "SLURM_SUBMIT_DIR"}
    assert "start this with sbatch" in run_slurm(without, "c.yaml").stderr
    shutil.rmtree(tmp_path / ".venv")
    assert "requirements-gpu.txt" in run_slurm(slurm, "c.yaml").stderr
