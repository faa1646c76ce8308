"""Keys stay in the environment, hostile names stay inside the run folder, decoding has limits, nothing untrusted is unpickled."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlvid.config import Config, ConfigError, load
from rlvid.data.questions import parse_line
from rlvid.loop.journal import open_journal
from rlvid.observe.dumps import write_step
from rlvid.types import Group, Prepared, Quarantined, Rollout, Score, VariantSpec

ROOT = Path(__file__).parents[2]
KEYS = {"WANDB_API_KEY": "planted-key-" + "0" * 28, "HF_TOKEN": "hf_planted0000", "TEACHER_API_KEY": "sk-planted-00", "AWS_SECRET_ACCESS_KEY": "planted/aws/00"}
HOSTILE = ["../../../escaped", "/tmp/rlvid-escaped", "..", ".", "a/b", "nul\0byte", "x" * 10_000, "line\nbreak \x1b[31mred", "$(touch escaped)", "ünï/../cödé"]


# --- keys


def test_keys_of_the_environment_are_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole journal with the real wandb, offline: config, metrics, slots, log, and wandb's own files are searched byte by byte."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tree = {
        "run": {"name": "r", "dir": str(tmp_path / "runs"), "storage": "memory://x"},
        "model": {"path": "m"},
        "data": {"train": "t"},
        "teacher": {"kind": "chat", "model": "m", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "TEACHER_API_KEY"},
    }
    config = Config.model_validate(tree)
    with open_journal(config) as journal:
        group = slots("q1")
        journal.step(1, [group], [rewards()], [rewards()], {"time/rollout_s": 1.0})
        logging.getLogger("rlvid").warning("quarantined %s", "q2")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.yaml", "metrics.jsonl", "log.txt", "step_000001.jsonl"}
    assert any(path.suffix == ".wandb" for path in files), "wandb wrote nothing: this test would prove nothing"
    for path in files:
        content = path.read_bytes()
        assert not [name for name, key in KEYS.items() if key.encode() in content], path
    assert b"TEACHER_API_KEY" in (config.folder / "config.yaml").read_bytes(), "the name may stand there"


@pytest.mark.parametrize(
    "override", ["tracker.api_key=planted", "teacher.api_key=planted", "model.token=planted", "run.storage=s3://a:planted@b/x", "cluster.password=planted"]
)
def test_a_config_takes_no_key(override: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(ROOT / "configs/quickstart.yaml", [override])
    assert "planted" not in str(refused.value)


# --- hostile data


def slots(question_id: str) -> Group:
    """One question, one variant, two answers, all of them hostile."""
    question = parse_line(
        json.dumps({"id": question_id, "video": "../../../etc/passwd", "question": "q?", "task": "open", "answer": "a", "source": "../" + question_id}),
        path="/data/t.jsonl",
        line=1,
    )
    spec = VariantSpec("uniform", (0.0, 1.0), None, (28, 28), 0)
    answers = tuple(Rollout(question_id, 0, sample, 5, (1, 2), (-0.5, -0.5), f"</script>\0\ud800{question_id}", 0, 7) for sample in range(2))
    return Group(
        prepared=Prepared(question, "prompt", (spec,), ({},), 2.0),
        frames=(None,),
        rollouts_KM=(answers,),
        scores_KM=((Score({"accuracy": 1.0}), Score({"accuracy": 0.0}, "\n")),),
        rewards_KM=((1.0, 0.0),),
        correct_KM=((1.0, 0.0),),
        prompt_digests=("d",),
    )


def rewards() -> np.ndarray:
    return np.array([[1.0, 0.0]])


@pytest.mark.parametrize("question_id", HOSTILE, ids=lambda value: repr(value)[:20])
def test_hostile_names_become_no_paths(tmp_path: Path, question_id: str) -> None:
    try:
        group = slots(question_id)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        return
    folder = tmp_path / "deep" / "down" / "run"
    write_step(folder / "rollouts", 1, [group], [rewards()], [rewards()])
    written = {path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert folder / "rollouts" / "step_000001.jsonl" in written
    assert {path.parent for path in written} == {folder / "rollouts"} and all(path.name.startswith("step_000001.") for path in written)
    lines = (folder / "rollouts" / "step_000001.jsonl").read_text().splitlines()
    assert [json.loads(line)["question_id"] for line in lines] == [question_id] * 2, "one line a slot, the name unharmed inside"


def test_a_hostile_name_makes_one_line_of_the_log(tmp_path: Path) -> None:
    """A line break in a name must not forge a line of its own."""
    from rlvid.process.one_line import log_to

    log = logging.getLogger("rlvid")
    before = list(log.handlers)
    log_to(tmp_path / "log.txt")
    try:
        quarantined = Quarantined("q\n2026-01-01 00:00:00,000 INFO step 9/9 reward 9", "gone\r\nreally")
        log.warning("quarantined %s: %s", quarantined.question_id, quarantined.reason)
    finally:
        log.handlers[:] = before
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 1


# --- decoding


CONFINED = """
import errno, mmap, os, resource, sys
import numpy as np
from rlvid.process.confine import confine

confine(0.5)
try:
    np.ones(2**27)  # 1 GiB
    print("no limit on memory")
except MemoryError:
    print("memory is limited")
np.ones(2**24)
mmap.mmap(-1, 2**30).close()  # shared, as the object store is
try:
    with open(sys.argv[1], "wb") as file:
        for _ in range(1024):
            file.write(bytes(2**20))
    print("no limit on files")
except OSError as error:
    print("files are limited" if error.errno == errno.EFBIG else error)
print("core", resource.getrlimit(resource.RLIMIT_CORE))
print("environment", sorted(name for name in ("WANDB_API_KEY", "HF_TOKEN", "TEACHER_API_KEY", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS") if name in os.environ))
from rlvid.video.clip import read_candidates
print("frames", len(read_candidates(sys.argv[2], candidates=4, clip=None, size_for=lambda height, width: (28, 28)).frames_NHWC))
"""


def test_decoding_is_confined_and_still_decodes(tmp_path: Path) -> None:
    from tests.unit.clips import make

    clip = make(tmp_path / "clip.mp4")
    environment = os.environ | KEYS | {"OMP_NUM_THREADS": "1", "RAY_AUTH_TOKEN": "t"}
    command = [sys.executable, "-c", CONFINED, str(tmp_path / "big"), clip]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "memory is limited",
        "files are limited",
        "core (0, 0)",
        "environment ['OMP_NUM_THREADS', 'RAY_AUTH_TOKEN']",
        "frames 4",
    ]


def test_a_video_that_wants_too_much_memory_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvid.actors.variant import VariantActor

    def greedy(*_: object) -> list[object]:
        raise MemoryError

    actor = VariantActor(load(ROOT / "configs/quickstart.yaml"), 0)
    monkeypatch.setattr(actor, "_build", greedy)
    question = parse_line('{"id": "q", "video": "v.mp4", "question": "?", "task": "open", "answer": "a"}', path="/data/t.jsonl", line=1)
    result, *frames = actor.build(question, ("uniform", "uniform"), 0)
    assert isinstance(result, Quarantined) and "/data/v.mp4: needs more memory than variants.memory_gib (8)" in result.reason
    assert frames == [None, None]


# --- what is loaded


UNSAFE = {"pickle.load", "pickle.loads", "torch.load", "yaml.load", "yaml.unsafe_load", "joblib.load", "dill.load", "marshal.loads", "shelve.open"}


def test_nothing_untrusted_is_unpickled() -> None:
    """No call in the package can run code from a file, and no checkpoint's own code is asked for."""
    for path in (ROOT / "rlvid").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                safe = name == "torch.load" and keywords.get("weights_only") == "True"
                assert safe or name not in UNSAFE | {"eval", "exec"}, f"{path.name}:{node.lineno}: {name}"
                assert keywords.get("trust_remote_code", "False") == "False", f"{path.name}:{node.lineno}"
                assert name != "np.load" or keywords.get("allow_pickle", "False") == "False", f"{path.name}:{node.lineno}"
