"""The command line without a run behind it: manuals, wrong input in one line with exit code 2, failures with 1, and all of it at once."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import rlvid
from rlvid import cli
from rlvid.config import ConfigError, is_hub_id
from rlvid.families import FAMILIES
from rlvid.families.checkpoint import family_of, stay_offline_without_hub
from tests.unit.folders import make_folder

ROOT = Path(__file__).parents[2]
COMMANDS = [("train",), ("eval",), ("select",), ("doctor",), ("plan",), ("submit",)]
COMMANDS += [("data", "quickstart"), ("data", "check"), ("data", "convert"), ("data", "sources")]
HEAVY = ("ray", "vllm", "deepspeed", "wandb", "torch", "transformers", "decord", "av", "numpy")


class Said:
    """Exit code and words of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def line(self, code: int) -> str:
        """The one line with which the command ended."""
        assert self.code == code, (self.code, self.out, self.err)
        (line,) = self.err.strip().splitlines()
        assert line.startswith("error: ") and not self.out
        return line


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process."""
    log = logging.getLogger("rlvid")
    handlers, level = list(log.handlers), log.level

    def run(*args: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["rlvid", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return Said(end.value.code or 0, captured.out, captured.err)

    yield run
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture
def question() -> dict:
    return {"id": "q1", "video": "clip.mp4", "question": "Which colour?", "task": "multiple_choice", "options": ["red", "blue"], "answer": "red"}


@pytest.fixture
def world(tmp_path, question):
    """A config whose every file is there; its model is one at a glance only."""
    (tmp_path / "clip.mp4").write_bytes(b"not looked into")
    write(tmp_path / "train.jsonl", question)
    model = tmp_path / "model"
    model.mkdir()
    make_folder(model)
    tree = {"run": {"name": "r", "dir": str(tmp_path / "runs")}, "model": {"path": str(model)}, "data": {"train": str(tmp_path / "train.jsonl")}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    return config


@pytest.fixture(autouse=True)
def no_run_and_no_network(monkeypatch):
    """Whatever is refused must be refused before these."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("went too far")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    training(monkeypatch, refuse)


def training(monkeypatch, run) -> None:
    """Put `run` in the place of the training loop, which takes seconds to import."""
    stand_in = SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "rlvid.train", stand_in)
    monkeypatch.setattr(rlvid, "train", stand_in, raising=False)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# --- manuals


def test_commands_are_quick_and_light():
    """In processes of their own, as a person starts them."""
    for args in (("--help",), ("--version",), ("train", "--help"), ("train", "no.yaml"), ("data", "check", "no.jsonl")):
        code = (
            f"import sys; sys.argv = {['rlvid', *args]}\ntry:\n from rlvid.cli import main; main()\nfinally:\n print(*(n for n in {HEAVY} if n in sys.modules))"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2, args  # CPU time: others may be busy here
        assert result.stdout.splitlines()[-1] == "", (args, result.stdout)
        assert "Traceback" not in result.stderr


def test_help_shows_brackets(command):
    """What stands in them would be taken for a colour."""
    said = " ".join(command("data", "check", "--help").out.split())
    assert "[[start_s, end_s], ...]" in said and '"box": [x1, y1, x2, y2]' in said and "clip [start_s, end_s]" in said


def test_every_key_of_a_question_is_in_the_manual(command):
    from rlvid.data.questions import KEYS

    said = command("data", "check", "--help").out
    assert [key for key in KEYS if not re.search(rf"^ .*\b{key}\b", said, re.MULTILINE)] == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_a_manual(command, words):
    """What it is for, one example that can be copied, a description and a default or `required` for every option."""
    said = command(*words, "--help")
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said.out).split())
    assert said.code == 0 and f"Example: rlvid {' '.join(words)} " in text
    for option in re.split(r" (?=--[a-z])", text.partition(" Options ")[2].lstrip("* ")):
        assert option.startswith("--help") or "default" in option.lower() or "required" in option, option
        assert len(option.split()) > 5, option


def test_the_first_page_names_every_command_and_exit_code(command):
    for said in (command("--help"), command()):
        text = " ".join(said.out.split())
        for word in ("train", "eval", "select", "doctor", "data", "0 done, 1 the run failed, 2 the input is wrong, 130 interrupted"):
            assert word in text


def test_version(command):
    said = command("--version")
    assert said.code == 0 and re.fullmatch(r"rlvid \d+\.\d+\S*\n", said.out)


@pytest.mark.parametrize("args", [["trian"], ["data", "chek"], ["train"], ["eval", "c.yaml"], ["train", "c.yaml", "--dryrun"]], ids=" ".join)
def test_a_wrong_command_is_wrong_input(command, args):
    said = command(*args)
    assert said.code == 2 and "Traceback" not in said.err and "--help" in said.err


# --- the config


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["learner.larning_rate=1"], ["config.yaml", "unknown key learner.larning_rate"]),
        (["learner.lrr=1"], ["config.yaml", "learner.lrr", "did you mean lr?"]),
        (["rollout.answers=65"], ["config.yaml", "rollout.answers (65)", "rollout.max_sequences (64)", "raise max_sequences"]),
        (["rollout.answers=many"], ["config.yaml", "rollout.answers", "'many'"]),
        (["learner.lr"], ["'learner.lr'", "key=value"]),
        (["=1"], ["'=1'", "key=value"]),
        (["run.name.x=1"], ["name is not a section"]),
        (["run.name=[1"], ["'run.name=[1'", "not YAML"]),
        (["run.name=2024-13-99"], ["'run.name=2024-13-99'", "not YAML"]),
        (["model.path=no/such/model"], ["model.path", "no/such/model does not exist", "checkpoint folder", "hub id"]),
        (["model.path=./model"], ["model.path", "./model does not exist"]),
        (["model.path=/no/such"], ["model.path", "/no/such does not exist"]),
        (["data.train=no.jsonl"], ["data.train", "no.jsonl does not exist", str(Path.cwd())]),
        (["data.eval=.quickstart/none/eval.jsonl"], ["data.eval", ".quickstart/none/eval.jsonl does not exist", "rlvid data quickstart"]),
        (["data.train=/"], ["/: cannot be read", "directory"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else None,
)
def test_wrong_settings(command, world, overrides, parts):
    line = command("train", world, *overrides).line(2)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"run:\n  name: r\n bad: [\n", ["config.yaml: line 3 is not YAML"]),
        (b"run: \x00", ["config.yaml", "not YAML"]),
        (b"\xff\xfe\x00\x01", ["config.yaml", "not YAML"]),
        (b"run: {name: 2024-13-99}", ["config.yaml", "not YAML"]),
        (b"", ["config.yaml", "mapping"]),
        (b"- a\n- b\n", ["config.yaml", "mapping"]),
        (b"run: {name: r}\n", ["config.yaml", "missing key model"]),
    ],
)
def test_wrong_config_files(command, tmp_path, content, parts):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    line = command("train", path).line(2)
    assert all(part in line for part in parts), line


def test_a_config_that_is_not_there(command, tmp_path):
    assert "no.yaml: no such file" in command("train", tmp_path / "no.yaml").line(2)
    assert "cannot be read (Is a directory)" in command("train", tmp_path).line(2)


def test_a_dry_run_shows_the_whole_config_and_makes_nothing(command, world, tmp_path):
    said = command("train", world, "--dry-run", "learner.lr=2e-6")
    assert said.code == 0 and not said.err
    assert yaml.safe_load(said.out)["learner"]["lr"] == 2e-6
    assert not (tmp_path / "runs").exists()


# --- question files


def test_a_wrong_line_is_named(command, world, tmp_path, question):
    write(tmp_path / "train.jsonl", question, "", '{"id": "q2",', question)
    line = command("train", world).line(2)
    assert f"{tmp_path / 'train.jsonl'}:3: line: is not JSON" in line and "whole JSON object" in line
    write(tmp_path / "train.jsonl", question, question)
    assert "train.jsonl:2: id: 'q1' is line 1's already" in command("train", world).line(2)
    write(tmp_path / "eval.jsonl", question | {"answer": "green"})
    write(tmp_path / "train.jsonl", question)
    assert "eval.jsonl:1: answer: " in command("train", world, f"data.eval={tmp_path / 'eval.jsonl'}").line(2)
    (tmp_path / "train.jsonl").write_text("")
    assert "train.jsonl: holds no question" in command("train", world).line(2)


def test_data_check_counts(command, world, tmp_path, question):
    """Wrong lines refuse the file; videos that are not there do not, as long as some are."""
    good = [question | {"id": f"q{n}"} for n in range(5)]
    said = command("data", "check", write(tmp_path / "good.jsonl", *good))
    assert said.code == 0 and "5 good questions (multiple_choice 5), 0 problems" in said.out

    (tmp_path / "empty.mp4").touch()
    missing = [question | {"id": "m1", "video": "no.mp4"}, question | {"id": "m2", "video": "no.mp4"}, question | {"id": "m3", "video": "empty.mp4"}]
    said = command("data", "check", write(tmp_path / "missing.jsonl", *good, *missing))
    assert said.code == 0 and "5 good questions" in said.out and "3 problems" in said.out
    assert "video: missing file: 2" in said.out and "video: empty file: 1" in said.out and "missing.jsonl:6: " in said.out
    assert command("data", "check", write(tmp_path / "all_missing.jsonl", *missing)).code == 2

    said = command("data", "check", write(tmp_path / "bad.jsonl", *good, "{", "[]", question | {"id": "q6", "task": "dance"}, good[0]))
    assert said.code == 2 and "5 good questions" in said.out and "4 problems" in said.out
    for mark in ("bad.jsonl:6: ", "bad.jsonl:7: ", "bad.jsonl:8: ", "bad.jsonl:9: ", "line: not JSON: 1", "id: used twice: 1"):
        assert mark in said.out


def test_data_check_of_files_that_are_none(command, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    said = command("data", "check", tmp_path / "empty.jsonl")
    assert said.code == 2 and "0 good questions, 1 problems" in said.out and "holds no question" in said.out
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 64)
    said = command("data", "check", tmp_path / "binary.jsonl")
    assert said.code == 2 and "0 good questions" in said.out and "binary.jsonl:1: " in said.out
    assert said.out.isprintable() or all(line.isprintable() for line in said.out.splitlines())
    assert "FILE: " in command("data", "check", tmp_path / "no.jsonl").line(2)
    said = command("data", "check", tmp_path)
    assert said.code == 2 and "Is a directory" in said.out


# --- checkpoints


@pytest.mark.parametrize(
    ("path", "hub"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", True),
        ("me/model_1.0", True),
        ("model", False),
        ("./model", False),
        ("../a/b", False),
        ("/a/b", False),
        ("~/b", False),
        ("a/b/c", False),
        ("runs/", False),
        ("tests/model", False),  # a folder of this name is here: a mistyped path
        ("", False),
    ],
)
def test_what_is_a_hub_id(path, hub, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert is_hub_id(path) == hub


@pytest.fixture
def no_hub(monkeypatch):
    """A machine without a network, whose cache is empty."""

    def unknown(*_: object) -> None:
        raise OSError("Name or service not known")

    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    yield
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    os.environ.pop("HF_HUB_OFFLINE", None)


def test_a_hub_id_that_nobody_can_look_at_is_said_to_be_so(command, world, no_hub, caplog):
    said = command("train", world, "model.path=Qwen/Qwen2.5-VL-7B-Instruct", "--dry-run")
    assert said.code == 0
    assert "config.json of Qwen/Qwen2.5-VL-7B-Instruct is not in the local Hugging Face cache" in caplog.text
    with pytest.raises(ConfigError, match="is not in the local Hugging Face cache and the hub does not answer"):
        family_of("Qwen/Qwen2.5-VL-7B-Instruct")


@pytest.mark.parametrize("model_type", ["internvl", "glm4v_moe", "mistral3", "qwen2_5_vl_next", "llava_onevision", None])
def test_a_hub_id_of_no_listed_family_is_refused_by_its_cached_config(model_type, command, world, monkeypatch, tmp_path):
    """As `hf download` leaves it. A family's name in front of another word is another family."""
    from huggingface_hub import constants

    snapshot = tmp_path / "hub" / "models--owner--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({"model_type": model_type}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    said = command("train", world, "model.path=owner/model", "--dry-run")
    assert said.code == 2 and f"model.path: owner/model is a {model_type} model (rlvid trains qwen2_5_vl" in said.err


def test_without_a_network_only_the_local_cache_is_asked(no_hub):
    stay_offline_without_hub("/a/folder")
    assert "HF_HUB_OFFLINE" not in os.environ
    stay_offline_without_hub("Qwen/Qwen2.5-VL-7B-Instruct")
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_checkpoint_folder_that_is_none(command, world, tmp_path):
    model = tmp_path / "model"
    (model / "model.safetensors").unlink()
    assert "model.path" in (line := command("train", world).line(2)) and "holds no weights" in line
    (model / "config.json").write_text('{"model_type": "llama"}')
    assert "is a llama model" in command("train", world).line(2)
    for text in ("{", "[]", "\0"):
        (model / "config.json").write_text(text)
        assert "config.json" in command("train", world).line(2)
    (model / "config.json").unlink()
    assert "config.json" in command("train", world).line(2)
    assert "is not a folder" in command("train", world, f"model.path={world}").line(2)


def test_eval_checks_its_input_first(command, world, tmp_path, monkeypatch):
    monkeypatch.setattr("rlvid.asking.ask.open_session", lambda *_, **__: pytest.fail("went too far"))
    model = tmp_path / "model"
    assert "--checkpoint: no-such does not exist" in command("eval", world, "--checkpoint", "no-such").line(2)
    assert "data.eval" in (line := command("eval", world, "--checkpoint", model).line(2)) and "--data" in line
    assert "--data: no.jsonl does not exist" in command("eval", world, "--checkpoint", model, "--data", "no.jsonl").line(2)
    write(tmp_path / "bad.jsonl", "{")
    assert "bad.jsonl:1: " in command("eval", world, "--checkpoint", model, "--data", tmp_path / "bad.jsonl").line(2)
    assert "--out" in command("eval", world, "--checkpoint", model, "--out", world / "x").line(2)
    assert "unknown key" in command("eval", world, "--checkpoint", model, "x.y=1").line(2)


def test_select_checks_its_input_first(command, world, tmp_path, monkeypatch):
    monkeypatch.setattr("rlvid.asking.ask.open_session", lambda *_, **__: pytest.fail("went too far"))
    assert "data.train: no.jsonl does not exist" in command("select", world, "--out", tmp_path / "kept.jsonl", "data.train=no.jsonl").line(2)
    assert "--out" in (line := command("select", world, "--out", tmp_path).line(2)) and "is a folder" in line
    assert "--out" in command("select", world, "--out", world / "kept.jsonl").line(2)
    assert "would replace" in command("select", world, "--out", tmp_path / "train.jsonl").line(2)
    assert "select.repeats (65)" in command("select", world, "--out", tmp_path / "kept.jsonl", "select.repeats=65").line(2)
    assert "did you mean repeats?" in command("select", world, "--out", tmp_path / "kept.jsonl", "select.repeat=8").line(2)
    assert not list(tmp_path.glob("kept*"))


def test_a_reward_of_ones_own_is_loaded_before_anything_starts(command, world):
    line = command("train", world, "reward.custom=no_such_module:reward").line(2)
    assert "reward.custom: no_such_module:reward" in line and "cannot be imported" in line


def test_doctor_and_quickstart_check_their_options(command, tmp_path):
    assert "--model: no-such does not exist" in command("doctor", "--model", "no-such").line(2)
    assert f"--model: 'gpt' is not {' or '.join(FAMILIES)}" in command("data", "quickstart", "--model", "gpt").line(2)
    (tmp_path / "file").touch()
    assert "--world: 'moon' is not mixed, plain, lure, misread, blink, crowd" in command("data", "quickstart", "--world", "moon").line(2)
    assert "--evidence belongs to --world plain" in command("data", "quickstart", "--world", "lure", "--evidence").line(2)
    assert "--out" in command("data", "quickstart", "--out", tmp_path / "file" / "x").line(2)


# --- the run folder


def test_a_run_folder_that_cannot_be_made(command, world, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    line = command("train", world, f"run.dir={tmp_path / 'file'}").line(2)
    assert "run.dir: " in line and f"{tmp_path / 'file'} is not a folder" in line
    assert command("train", world, f"run.dir={tmp_path / 'file' / 'deeper'}").line(2)
    monkeypatch.setattr(cli.os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    line = command("train", world).line(2)
    assert "run.dir: " in line and "allows this user no writing" in line
    assert not (tmp_path / "runs").exists()


# --- failures


def fails_with(error: BaseException, log_file: Path | None = None):
    def run(*_: object, **__: object) -> None:
        if log_file:
            from rlvid.process.one_line import log_to

            log_to(log_file)
        raise error

    return run


def test_a_failed_run_exits_1_with_its_traceback_in_the_log(command, world, tmp_path, monkeypatch):
    from ray.exceptions import RayTaskError

    log = tmp_path / "log.txt"
    remote = RayTaskError("start", "remote traceback\nover many lines", ValueError("the engine's own words\nmore"))
    for error, words in (
        (RuntimeError("an engine died\nwith details"), "RuntimeError: an engine died"),
        (KeyError("x"), "KeyError: 'x'"),
        (remote, "ValueError: the engine's own words"),
        (remote.as_instanceof_cause(), "ValueError: the engine's own words"),
        (RuntimeError(""), "RuntimeError: no message"),
    ):
        training(monkeypatch, fails_with(error, log))
        line = command("train", world).line(1)
        assert line.startswith(f"error: {words} (more in ") and line.endswith("log.txt)")
        assert "Traceback" in log.read_text() and "fails_with" not in line
        log.unlink()


def test_a_fault_of_the_machine_needs_no_traceback(command, world, monkeypatch):
    training(monkeypatch, fails_with(OSError(28, "No space left on device")))
    assert "No space left on device" in command("train", world).line(1)


def test_wrong_input_found_by_an_actor_is_wrong_input(command, world, monkeypatch):
    from ray.exceptions import RayTaskError

    wrapped = RayTaskError("start", "remote traceback\nover many lines", ConfigError("learner.x: is wrong (cure)")).as_instanceof_cause()
    training(monkeypatch, fails_with(wrapped))
    assert command("train", world).line(2) == "error: learner.x: is wrong (cure)"


def test_ctrl_c_exits_130(command, world, monkeypatch):
    training(monkeypatch, fails_with(KeyboardInterrupt()))
    said = command("train", world)
    assert said.code == 130 and said.err == "interrupted; a training run started again under its name goes on from its last checkpoint\n"


def test_names_from_the_data_are_shown_as_they_are(capsys):
    """Sources are anybody's words; rich would read them as markup."""
    cli._print_table("held-out", {"eval/accuracy/[/x]": 0.5, "eval/accuracy/[red]y": 0.25})
    cli._print_selection({"sources": {"[/z]": {"questions": 1, "kept": 1, "dropped": {}}}, "kept": 1, "questions": 1}, Path("kept.jsonl"))
    said = capsys.readouterr().out
    assert "accuracy/[/x]" in said and "accuracy/[red]y" in said and "[/z]" in said


def test_a_world_that_is_not_made_yet_is_named_with_its_command():
    assert cli._world_command(Path(".quickstart/evidence/train.jsonl")).endswith("`rlvid data quickstart --evidence`")
    assert cli._world_command(Path(".quickstart/lure/train.jsonl")).endswith("`rlvid data quickstart --world lure`")
    assert cli._world_command(Path(".quickstart/none/train.jsonl")).endswith("`rlvid data quickstart`")
    assert cli._world_command(Path(".quickstart/qwen2_5_vl/train.jsonl")).endswith("`rlvid data quickstart`") and not cli._world_command(Path("train.jsonl"))


def test_help_keeps_brackets(command):
    said = command("data", "convert", "--help")
    assert "OWNER/NAME[:CONFIG][@SPLIT]" in re.sub(r"\s+", "", said.out.replace("│", ""))


def test_a_dry_run_says_when_no_video_is_here(command, world, tmp_path, question, caplog):
    (tmp_path / "gone.jsonl").write_text(json.dumps(question | {"video": "gone.mp4"}) + "\n")
    with caplog.at_level("WARNING", logger="rlvid"):
        assert command("train", world, f"data.train={tmp_path / 'gone.jsonl'}", "--dry-run").code == 0
    assert "none of 1 videos that" in caplog.text and "gone.mp4" in caplog.text
