"""Interrupted and started again, a run goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.integration.conftest import CONFIG, metrics_of, slots_of
from tests.integration.test_errors import INTERRUPTED, Watch

SAME = ("reward/mean", "group/zero_signal_share", "optimizer/grad_norm", "optimizer/lr", "loss/policy", "sync/version", "repair/share")


def test_ctrl_c_then_same_name_goes_on(undisturbed, rlvid, tmp_path):
    """The whole process group gets the signal, as from a terminal."""
    whole, settings, _ = undisturbed
    command = ["train", str(CONFIG), *settings, f"run.dir={tmp_path}", "run.name=cut"]
    folder = tmp_path / "cut"
    with Watch() as watch, (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "rlvid.cli", *command], stderr=stderr, start_new_session=True)
        deadline = time.monotonic() + 300
        while not (folder / "checkpoints" / "step_000002" / "state.json").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(120) == 130
        stderr.seek(0)
        said = stderr.read()
    assert "Traceback" not in said, said[-3000:]
    assert said.strip().splitlines()[-1] == INTERRUPTED
    assert not watch.left()
    assert len(metrics_of(folder)) < 5

    again = rlvid(*command)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "resumed cut after step" in again.stderr

    rows, reference = metrics_of(folder), metrics_of(whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for step in range(1, 6):
        ours, theirs = slots_of(folder, step), slots_of(whole, step)
        assert [(slot["question_id"], slot["seed"], slot["spec"]) for slot in ours] == [(slot["question_id"], slot["seed"], slot["spec"]) for slot in theirs]
        # Sampling is seeded, but float sums depend on which requests share a batch: compare numbers as long as the tokens agree.
        if [slot["tokens"] for slot in ours] != [slot["tokens"] for slot in theirs]:
            break
        for key in SAME:
            assert abs(rows[step - 1][key] - reference[step - 1][key]) <= 1e-4 * max(1.0, abs(reference[step - 1][key])), (step, key)
    assert step >= 3, "the resumed run parted from the undisturbed one before the first resumed step was compared"
