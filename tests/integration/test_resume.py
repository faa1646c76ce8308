"""Interrupted and started again, a run goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.integration.conftest import CONFIG, metrics_of, slots_of

SAME = ("reward/mean", "group/zero_signal_share", "mismatch/mean_abs_dlogp", "optimizer/grad_norm", "optimizer/lr", "loss/policy", "sync/version")


def test_ctrl_c_then_same_name_goes_on(small, rlvid, tmp_path):
    settings = [*small, "run.steps=5", "run.save_every=2", "variants.actors=1"]
    whole = rlvid("train", CONFIG, *settings, "run.name=whole")
    assert whole.returncode == 0, whole.stderr[-3000:]

    folder = tmp_path / "runs" / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "rlvid.cli", "train", str(CONFIG), *settings, "run.name=cut"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints" / "step_000002" / "state.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert len(metrics_of(folder)) < 6

    again = rlvid("train", CONFIG, *settings, "run.name=cut")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "resumed cut after step" in again.stderr

    rows, undisturbed = metrics_of(folder), metrics_of(tmp_path / "runs" / "whole")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    for step in range(1, 6):
        ours, theirs = slots_of(folder, step), slots_of(tmp_path / "runs" / "whole", step)
        assert [(slot["question_id"], slot["seed"], slot["spec"]) for slot in ours] == [(slot["question_id"], slot["seed"], slot["spec"]) for slot in theirs]
        # Sampling is seeded, but float sums depend on which requests share a batch: compare numbers as long as the tokens agree.
        if [slot["tokens"] for slot in ours] != [slot["tokens"] for slot in theirs]:
            break
        for key in SAME[:2] + SAME[3:]:
            assert abs(rows[step][key] - undisturbed[step][key]) <= 1e-4 * max(1.0, abs(undisturbed[step][key])), (step, key)
    assert step >= 3, "the resumed run parted from the undisturbed one before the first resumed step was compared"
