"""The teacher's server script: it parses, and hands over what its head promises."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from rlvid.config import load

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "teacher" / "serve.sh"


@pytest.fixture
def served(tmp_path):
    """Run the script with a python that only writes down what it was given."""
    fake = tmp_path / "deploy" / "teacher"
    fake.mkdir(parents=True)
    (fake / "serve.sh").write_text(SCRIPT.read_text())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\necho "key=${VLLM_API_KEY:-}"\n')
    python.chmod(0o755)

    def run(*arguments: str, **environment: str) -> list[str]:
        done = subprocess.run(["bash", fake / "serve.sh", *arguments], capture_output=True, text=True, check=True, env=os.environ | environment)
        return done.stdout.splitlines()

    return run


def test_it_parses_and_stops_at_the_first_failure():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    text = SCRIPT.read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in text and SCRIPT.stat().st_mode & 0o111


def test_defaults_fit_the_shipped_configuration(served):
    given = served()
    teacher = load(ROOT / "configs" / "ffr_qwen2_5_vl_7b.yaml").teacher
    option = dict(pairwise(given))
    assert option["--served-model-name"] == teacher.model and f":{option['--port']}/v1" in (teacher.base_url or "")
    assert f'"image": {teacher.max_frames}' in option["--limit-mm-per-prompt"]
    assert "--enable-auto-tool-choice" in given and option["--tool-call-parser"] == "hermes"


def test_settings_and_further_arguments_are_handed_over(served):
    given = served("org/model", "--quantization", "fp8", TEACHER_GPUS="2", TEACHER_PORT="9000")
    option = dict(pairwise(given))
    assert (option["--model"], option["--tensor-parallel-size"], option["--port"], option["--quantization"]) == ("org/model", "2", "9000", "fp8")


def test_the_key_is_no_argument(served):
    given = served(TEACHER_API_KEY="secret")
    assert "key=secret" in given and not any("secret" in line for line in given if not line.startswith("key="))
