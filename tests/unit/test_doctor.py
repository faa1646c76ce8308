"""The doctor: no check breaks, none shows a secret, each fault comes with its cure."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rlvid import doctor
from rlvid.doctor import Check, pixel_normalisation_problem, run_checks


def test_every_check_answers_and_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-key")
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

    for name in ("_packages", "_torch", "_decoding", "_plugin"):  # the slow ones
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


def test_a_ray_address_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert doctor._ray().status == "ok"
    for wrong in ("no port here", "head:sixty", "head:99999"):
        monkeypatch.setenv("RAY_ADDRESS", wrong)
        assert doctor._ray().detail == "RAY_ADDRESS is not host:port"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_unequal_pixel_normalisation_is_found(family: str, tmp_path: Path) -> None:
    from rlvid.data.tiny_model import build_processor, build_tokenizer

    processor = build_processor(build_tokenizer(["red blue left right"]), family)  # type: ignore[arg-type]
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
