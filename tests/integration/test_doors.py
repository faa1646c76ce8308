"""The debug doors on a real run: a replayed step gives its numbers again, a rollout-only run learns nothing, a dead engine says why."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.integration.conftest import CONFIG, metrics_of, slots_of


@pytest.fixture(scope="module")
def done(undisturbed, tmp_path_factory):
    """(copy of the run's folder, what it printed)."""
    folder = tmp_path_factory.mktemp("copied") / "done"
    shutil.copytree(undisturbed[0], folder, symlinks=True)
    return folder, undisturbed[2]


def test_a_replayed_step_gives_its_numbers_again(done, rlvid):
    folder, _ = done
    repaired = [slot for slot in slots_of(folder, 3) if slot["repaired"]]
    assert repaired and any(slot["evidence_frames"] for slot in repaired)
    shutil.rmtree(folder / "checkpoints" / "step_000002")  # so that a step between has to be gone over, too
    result = rlvid("replay", folder, "--step", 3)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert result.stdout.count("same") == 6 and "optimizer/grad_norm" in result.stdout
    assert "replaying steps 2 to 3 from step_000001" in result.stderr


EVERYTHING = ["advantage.estimator=ema_grpo", "loss.surrogate=cispo", "loss.importance=mask_tokens", "loss.entropy_coef=0.01", "loss.passes=2"]


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(EVERYTHING, marks=pytest.mark.long),
        pytest.param(["advantage.estimator=gdpo", "loss.importance=mask_answers"], marks=pytest.mark.long),
        pytest.param(["distill.from=[variants]", "distill.tokens=all", "loss.importance=mask_answers"], marks=pytest.mark.long),
        pytest.param(["advantage.estimator=rloo", "advantage.group=per_variant"], marks=pytest.mark.long),
    ],
)
def test_choices_of_the_algorithm_replay_to_the_same_loss(choices, small, rlvid, tmp_path):
    """The moving deviations of ema_grpo go through a checkpoint, too."""
    result = rlvid("train", CONFIG, *small, *choices, "data.eval=null", "run.steps=3", "run.save_every=1", "run.keep_checkpoints=3", "run.name=chosen")
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "chosen"
    rows = metrics_of(folder)
    masks = any(choice.startswith("loss.importance=mask") for choice in choices)
    assert [row.get("loss/masked_share") for row in rows] == [0.0 if masks else None] * 3
    if choices is EVERYTHING:
        assert all(row["advantage/std_temporal_grounding"] > 0 and row["loss/entropy"] > 0 for row in rows)
        assert any(row["group/signal"] > 0 for row in rows)
    again = rlvid("replay", folder, "--step", 3)
    assert again.returncode == 0 and "differs" not in again.stdout, again.stdout + again.stderr[-3000:]


def test_a_changed_dump_is_noticed(done, rlvid):
    folder, _ = done
    dump = folder / "rollouts" / "step_000002.jsonl"
    whole = dump.read_text()
    rows = slots_of(folder, 2)
    for row in rows:
        row["advantage"] = 2.0 * row["advantage"] + 1.0
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = rlvid("replay", folder, "--step", 2)
    dump.write_text(whole)
    assert result.returncode == 1 and "differs" in result.stdout, result.stderr[-3000:]


def test_steps_that_cannot_be_replayed_are_refused(done, rlvid):
    result = rlvid("replay", done[0], "--step", 9)
    assert result.returncode == 2 and "no update 9 (it goes to step 5)" in result.stderr


def test_the_run_folder_holds_report_logs_and_board(done):
    folder, printed = done
    page = (folder / "report.html").read_text()
    assert '"film":{"size"' in page and page.count("<script") == 2 and '"repaired":true' in page
    assert {"rollout-0.log", "learner-0.log", "variants-0.log", "teacher-0.log", "report.log", "ray"} <= {path.name for path in (folder / "logs").iterdir()}
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert "weights version 5 on 1 engines, checksum" in (folder / "log.txt").read_text()
    assert "\x1b" not in printed and "\r" not in printed
    assert "step 2/5  reward" in printed and " left" in printed and "rollout " in printed
    assert "report  " in printed and "undisturbed/report.html" in printed
    for noise in ("INFO", "WARNING"):
        assert f"(EngineCore {noise}" not in printed and "vllm" not in printed.lower()


def test_rollout_only_dumps_and_learns_nothing(small, rlvid, tmp_path):
    result = rlvid("train", CONFIG, *small, "--rollout-only", "data.eval=null")
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "quickstart-rollout-only"
    assert {slot["policy_version"] for step in (1, 2) for slot in slots_of(folder, step)} == {0}
    rows = metrics_of(folder)
    assert [row["step"] for row in rows] == [1, 2] and all("loss/policy" not in row and row["staleness/max"] == 0 for row in rows)
    assert not (folder / "checkpoints").exists() and not (folder / "export").exists()


def test_an_engine_that_cannot_start_says_why_in_one_line(small, rlvid, world, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(world.model, broken)
    tree = json.loads((broken / "config.json").read_text())
    tree["text_config"]["intermediate_size"] *= 2  # no longer the weights' own
    (broken / "config.json").write_text(json.dumps(tree))
    result = rlvid("train", CONFIG, *small, f"model.path={broken}", "--rollout-only")
    assert result.returncode == 1
    line = next(line for line in result.stderr.splitlines() if line.startswith("error:"))
    assert "rollout engine 0 did not start" in line and "rollout-0.log" in line
