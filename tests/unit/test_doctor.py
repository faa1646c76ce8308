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
        check = doctor._leftovers(tmp_path)
        assert check.status == "warn" and check.detail.startswith("1 objects of ended processes hold 1.0 MiB") and str(ended) in check.cure
        ended.unlink()
        assert doctor._leftovers(tmp_path).status == "ok"
    assert doctor._leftovers(tmp_path).status == "warn"


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
    _, gpu = doctor._torch()
    assert gpu.status == "fail" and "sees no device" in gpu.detail and "nvidia-smi" in gpu.cure


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
