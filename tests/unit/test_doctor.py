"""The doctor: no check breaks, none shows a secret, each fault comes with its cure."""

from __future__ import annotations

import json
import mmap
import shutil
import socket
from pathlib import Path

import pytest

from rlvid import doctor
from rlvid.doctor import Check, run_checks
from rlvid.families import FAMILIES
from rlvid.families.checkpoint import pixel_normalisation_problem


def test_every_check_answers_and_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-key")
    monkeypatch.setenv("WANDB_BASE_URL", "http://me:s3cret@127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "ray://me:s3cret-password@127.0.0.1:1")
    checks = {check.name: check for check in run_checks()}
    assert {"python", "torch", "torch and torchvision", "vllm plugin", "video decoding", "memory", "loopback", "ray cluster", "wandb login"} <= checks.keys()
    for check in checks.values():
        assert "\n" not in check.detail + check.cure and "s3cret" not in check.detail + check.cure
        assert bool(check.cure) == (check.status != "ok"), check
        assert "the check itself failed" not in check.detail, check
    assert checks["ray cluster"].status == "fail" and "127.0.0.1:1 does not answer" in checks["ray cluster"].detail


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        raise RuntimeError("first line\nsecond line")

    for name in ("_packages", "_torch", "_decoding", "_plugin", "_leftovers"):  # the slow ones, and what others left
        monkeypatch.setattr(doctor, name, lambda: [])
    monkeypatch.setattr(doctor, "_disk", broken)
    checks = run_checks()
    assert [check.detail for check in checks if check.status == "warn"] == ["the check itself failed: first line"]
    assert checks[-1].name == "wandb login"


def test_pins_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "requirements-cpu.txt").write_text("# comment\nnumpy==0.0.1\nNo_Such.Package==1  # why\n")
    (tmp_path / "rlvid").mkdir()
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "rlvid" / "doctor.py"))
    (check,) = [check for check in doctor._packages() if check.name == "pinned set"]
    assert check.status == "warn" and "2 of 2 differ" in check.detail and "no-such-package missing (pinned 1)" in check.detail
    assert "requirements-cpu.txt" in check.cure


def test_what_a_killed_process_left_in_shared_memory_is_found(tmp_path: Path) -> None:
    ended, working = tmp_path / "psm_0badc0de", tmp_path / "psm_5afe5afe"
    for path in (ended, working, tmp_path / "somebody_elses"):
        path.write_bytes(b"x" * 2**20)
    with working.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        check = doctor._leftovers(tmp_path, tmp_path / "none")
        assert check.status == "warn" and check.detail.startswith("1 objects of ended processes hold 1.0 MiB") and str(ended) in check.cure
        ended.unlink()
        assert doctor._leftovers(tmp_path, tmp_path / "none").status == "ok"
    assert doctor._leftovers(tmp_path, tmp_path / "none").status == "warn"


def test_where_killed_engines_met_is_found_once_none_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met = tmp_path / "vllm_dist_0badc0de"
    met.write_bytes(b"x")
    monkeypatch.setattr(doctor, "_engines_run", lambda: True)
    assert doctor._leftovers(tmp_path / "shm", tmp_path).status == "ok"
    monkeypatch.setattr(doctor, "_engines_run", lambda: False)
    check = doctor._leftovers(tmp_path / "shm", tmp_path)
    assert check.status == "warn" and str(met) in check.cure
    assert str(met) in doctor._leftovers(tmp_path, tmp_path / "other").cure, "or in shared memory"


def test_engines_are_seen_by_their_command_line() -> None:
    import subprocess
    import sys

    engine = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", "VLLM::EngineCore"], stdin=subprocess.PIPE)
    try:
        assert doctor._engines_run()
    finally:
        engine.communicate()


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (5, "warn"), (500, "ok")])
def test_a_full_disk(free_gib: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, int(free_gib * 2**30)))
    assert doctor._disk().status == status and bool(doctor._disk().cure) == (status != "ok")
    assert doctor._shared_memory().status == ("warn" if free_gib < 1.5 else "ok")


def test_a_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.sys, "executable", str(tmp_path / "python"))
    check = doctor._compiler()
    assert check.status == "warn" and "no ninja and no g++" in check.detail


def test_missing_headers_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: tool)
    for name, status in (("none", "warn"), ("include", "ok")):
        monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda name=name: {"include": str(tmp_path / name)})
        (tmp_path / "include").mkdir(exist_ok=True)
        (tmp_path / "include" / "Python.h").write_text("")
        check = doctor._compiler()
        assert check.status == status, check
        assert status == "ok" or ("Python.h" in check.detail and "-dev" in check.cure)


def test_a_broken_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_READ_PROBE", "raise ImportError('libdecord.so: cannot open')")
    check = doctor._decoding()
    assert check.status == "fail" and "decord cannot read it back: ImportError: libdecord.so" in check.detail and "decord" in check.cure


def test_a_torchvision_that_dies_at_import_and_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "raise RuntimeError('operator torchvision::nms does not exist')")
    (check,) = doctor._torch()
    assert check.status == "fail" and check.cure == "run: python -m rlvid.torchvision_guard"
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "PROBE_DEADLINE_S", 0.5)
    (check,) = doctor._torch()
    assert check.status == "fail" and "no answer within 0.5 s" in check.detail


def test_a_gpu_build_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"torch": "2", "torchvision": "0", "cuda": "13.0", "devices": []}
    monkeypatch.setattr(doctor, "_TORCH_PROBE", f"print({json.dumps(json.dumps(found))})")
    *_, gpu = doctor._torch()
    assert gpu.status == "fail" and "sees no device" in gpu.detail and "nvidia-smi" in gpu.cure


@pytest.mark.parametrize(("capability", "status"), [([7, 0], "fail"), ([7, 5], "ok"), ([9, 0], "ok"), ([12, 0], "ok")])
def test_a_gpu_that_is_too_old(capability: list[int], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [{"name": "H100 80 GiB", "capability": [9, 0]}, {"name": "Card 32 GiB", "capability": capability}]
    found = {"torch": "2", "torchvision": "0", "cuda": "13.0", "devices": devices}
    monkeypatch.setattr(doctor, "_TORCH_PROBE", f"print({json.dumps(json.dumps(found))})")
    *_, gpu = doctor._torch()
    assert gpu.status == status and f"compute capability {capability[0]}.{capability[1]}" in gpu.detail
    assert status == "ok" or ("Card 32 GiB is older" in gpu.detail and "CUDA_VISIBLE_DEVICES" in gpu.cure)


@pytest.mark.parametrize(("cuda", "driver", "status"), [("13.0", "575.57.08", "fail"), ("13.0", "580.65.06", "ok"), ("12.8", "535.104.05", "ok")])
def test_a_driver_that_is_too_old(cuda: str, driver: str, status: str, tmp_path: Path) -> None:
    assert doctor._driver(cuda, tmp_path / "version") is None, "no driver"
    (tmp_path / "version").write_text(driver + "\n")
    check = doctor._driver(cuda, tmp_path / "version")
    assert check is not None and check.status == status and driver in check.detail and cuda in check.detail
    assert status == "ok" or ("needs 580 or newer" in check.detail and "580" in check.cure)


def test_adapters_that_nccl_may_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices, process = tmp_path / "infiniband", tmp_path / "status"
    assert doctor._rdma(devices, process).status == "ok", "none there"
    (devices / "mlx5_0").mkdir(parents=True)
    process.write_text("Name:\tx\nCapEff:\t0000000000000000\n")

    def library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(doctor.ctypes, "CDLL", library)
    check = doctor._rdma(devices, process)
    assert check.status == "warn" and "mlx5_0" in check.detail and "libibverbs1" in check.cure
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: None)
    assert "uverbs" in doctor._rdma(devices, process).detail, "the devices are not in this container"
    monkeypatch.setattr(doctor.Path, "glob", lambda self, pattern: iter([self / "uverbs0"]))
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (8 * 2**20, 8 * 2**20))
    check = doctor._rdma(devices, process)
    assert check.status == "warn" and "lock 8 MiB" in check.detail and "memlock=-1" in check.cure
    process.write_text("Name:\tx\nCapEff:\t0000000000004000\n")
    assert doctor._rdma(devices, process).status == "ok", "CAP_IPC_LOCK in effect"
    process.write_text("Name:\tx\nCapEff:\t0000000000000000\n")
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (doctor.resource.RLIM_INFINITY,) * 2)
    assert doctor._rdma(devices, process).status == "ok"


def test_a_plugin_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "entry_points", lambda group: [])
    assert doctor._plugin().status == "fail" and "pip install" in doctor._plugin().cure


def test_loopback_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(doctor.socket, "socket", Closed)
    assert doctor._port().status == "fail" and "loopback" in doctor._port().cure


def test_a_wandb_key_without_a_way_to_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    check = doctor._wandb()
    assert check.status == "warn" and "127.0.0.1:1 does not answer" in check.detail and "WANDB_MODE=offline" in check.cure
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert doctor._wandb().status == "ok"


def test_a_ray_address_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert doctor._ray().status == "ok"
    for wrong in ("no port here", "head:sixty", "head:99999"):
        monkeypatch.setenv("RAY_ADDRESS", wrong)
        assert doctor._ray().detail == "RAY_ADDRESS is not host:port"


@pytest.mark.parametrize("family", FAMILIES)
def test_unequal_pixel_normalisation_is_found(family: str, tmp_path: Path) -> None:
    from rlvid.world.tiny_model import build_processor, build_tokenizer

    processor = build_processor(build_tokenizer(["red blue left right"]), family)  # type: ignore[arg-type]
    for name in ("equal", "unequal"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": family}))
    processor.save_pretrained(tmp_path / "equal")
    assert pixel_normalisation_problem(tmp_path / "equal") is None

    processor.video_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path / "unequal")
    problem = pixel_normalisation_problem(tmp_path / "unequal")
    assert problem is not None and "image_mean" in problem and "[0.1, 0.2, 0.3]" in problem and "\n" not in problem
    assert doctor._model(tmp_path / "unequal").status == "fail"


def test_a_folder_without_processors(tmp_path: Path) -> None:
    problem = pixel_normalisation_problem(tmp_path)
    assert problem is not None and str(tmp_path) in problem and "\n" not in problem
