"""What a run says: plain lines where nobody watches, times in words, and causes found again in the actors' own files."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvid.observe.report.background import BackgroundReport
from rlvid.observe.terminal import Work, duration, open_progress, screen_handler, step_parts, watched
from rlvid.process.log import LOGS, last_error
from rlvid.process.one_line import first_line
from tests.unit.test_report import group, make_run, question

ENGINE_LOG = """
(EngineCore pid=77) ERROR 11-21 13:50:01 [core.py:900] EngineCore failed to start.
(EngineCore pid=77) ERROR 11-21 13:50:01 [core.py:900] Traceback (most recent call last):
(EngineCore pid=77) ERROR 11-21 13:50:01 [core.py:900]   File "loader.py", line 3, in load
(EngineCore pid=77) ERROR 11-21 13:50:01 [core.py:900] safetensors_rust.SafetensorError: Error while deserializing header
(EngineCore pid=77) Process EngineCore:
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_step_in_words() -> None:
    row = {"time/step_s": 3.14, "time/rollout_s": 0.94, "time/learn_s": 1.4, "time/teacher_s": 0.0, "reward/mean": 1.234567, "eval/accuracy": None}
    assert step_parts(row) == "3.1 s (rollout 0.9, learn 1.4)" and watched(row) == "reward 1.23"
    assert step_parts({"eval/accuracy": 0.5}) == "" and watched({"eval/accuracy": 0.5}) == "held-out accuracy 0.5"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (42, "42 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_off_a_terminal_lines_are_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("plain")
    logger.propagate = False
    handler = screen_handler()
    logger.addHandler(handler)
    with open_progress() as progress:
        progress.add_task("training", total=3, line="")
        logger.warning("a line of %s", "words " * 60)
    logger.removeHandler(handler)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said and "\r" not in said and "WARNING a line of words" in said


def test_the_cause_is_found_behind_the_hollow_words(tmp_path: Path) -> None:
    log = tmp_path / "rollout-0.log"
    log.write_text(ENGINE_LOG)
    assert last_error(log) == "safetensors_rust.SafetensorError: Error while deserializing header"
    log.write_text("all is well\n")
    assert last_error(log) == "" and last_error(tmp_path / "none.log") == "" and last_error(None) == ""


def test_output_of_a_process_and_its_children_goes_into_its_file(tmp_path: Path) -> None:
    code = "import os, sys; from rlvid.process.log import to_log_file as t; t('a'); print('own', flush=True); os.system('echo child >&2')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {LOGS: str(tmp_path / "logs")}, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    assert (tmp_path / "logs" / "a.log").read_text().split() == ["own", "child"]


@pytest.mark.parametrize("folder", ["", "/proc/nowhere"])
def test_without_a_place_output_stays_where_it_was(folder: str) -> None:
    code = "from rlvid.process.log import to_log_file as t; print(t('a'))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {LOGS: folder}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_a_report_is_made_beside_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path / "run", {1: ([question("q")], group("q"))})
    report = BackgroundReport(run, deadline_s=60)
    report.begin()
    report.finish()
    assert "What colour is it?" in (run / "report.html").read_text()
    (run / "report.html").unlink()
    (run / "config.yaml").write_text("- no run")
    with caplog.at_level(logging.WARNING, logger="rlvid"):
        report.finish()
    assert "logs/report.log says why" in caplog.text and "not the config of a run" in (run / "logs" / "report.log").read_text()


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n one\ntwo")) == "one" and first_line(AssertionError()) == "AssertionError"


def test_libraries_speak_to_the_file_and_rlvid_to_the_screen(tmp_path: Path) -> None:
    """Python's prints, the descriptors below them and processes started meanwhile; afterwards all is as before, after an error too."""
    code = """
import logging, os, subprocess, sys
from pathlib import Path
from rlvid.observe.terminal import screen_handler
from rlvid.process.log import libraries_to
logging.basicConfig(level=logging.INFO, handlers=[screen_handler()])
try:
    with libraries_to(Path(sys.argv[1]) / "made" / "libraries.log"):
        print("Writing model shards"); print("Setting accelerator", file=sys.stderr); os.write(2, b"from C\\n"); subprocess.run(["echo", "child"])
        logging.info("our own line")
        raise ValueError
except ValueError:
    print("a result"); print("an error", file=sys.stderr); logging.info("a last line")
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout == "a result\n"
    assert [line.split(" ", 1)[-1] for line in ended.stderr.splitlines()] == ["INFO our own line", "error", "INFO a last line"]
    assert sorted((tmp_path / "made" / "libraries.log").read_text().splitlines()) == ["Setting accelerator", "Writing model shards", "child", "from C"]


def test_work_says_how_long_it_will_still_take(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """In a log: a line every ten seconds, and one at the end."""
    now = iter([0.0, *(4.0 * step for step in range(1, 31)), 120.0])
    monkeypatch.setattr("rlvid.observe.terminal.time.monotonic", lambda: next(now))
    caplog.set_level(logging.INFO, "rlvid")
    with Work("learning to see", 30) as work:
        for _ in range(30):
            work.advance("colour 0.8")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "learning to see: 3 of 30, about 1 min 48 s left  colour 0.8" and said[-1] == "learning to see: done in 2 min 00 s"
    assert len(said) == 11
