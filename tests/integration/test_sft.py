"""`rlvid sft` on a real learner: replies are learned without an engine, replayed to the same loss, and mixed into groups of sampled answers."""

from __future__ import annotations

import json

import pytest

from rlvid.data.questions import iter_questions
from rlvid.world.warm_start import reply
from tests.integration.conftest import CONFIG, metrics_of, slots_of


@pytest.fixture(scope="module")
def replies(world):
    """The small world's questions with the replies that its warm start teaches."""
    path = world.train.parent / "replies.jsonl"
    said = {question.id: reply(question) for question in iter_questions(world.train)}
    path.write_text("".join(json.dumps(row | {"reply": said[row["id"]]}) + "\n" for row in map(json.loads, world.train.read_text().splitlines())))
    return path


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_replies_are_learned_and_replayed(replies, small, rlvid, tmp_path):
    settings = [*small, f"data.train={replies}", "data.eval=null", "run.steps=6", "run.save_every=2", "run.name=cold", "learner.lr=1e-3"]
    result = rlvid("sft", CONFIG, *settings, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "cold"
    rows = metrics_of(folder)
    assert [row["step"] for row in rows] == list(range(1, 7)) and rows[-1]["loss/policy"] < 0.8 * rows[0]["loss/policy"]
    assert rows[0]["loss/policy"] == pytest.approx(rows[0]["policy/entropy"], rel=1e-4), "the cross-entropy of the replies"
    assert all(row["reward/accuracy"] == 1 and row["mismatch/kl"] == 0 for row in rows)
    assert (folder / "export" / "config.json").exists() and not (folder / "logs" / "rollout-0.log").exists(), "no engine was started"
    again = rlvid("replay", folder, "--step", 5)
    assert again.returncode == 0 and "differs" not in again.stdout, again.stdout + again.stderr[-3000:]
    assert rlvid("train", CONFIG, *settings, "loss.surrogate=likelihood", "run.name=other").returncode == 2


@pytest.mark.long
def test_replies_in_groups_and_shuffled_controls_replay(replies, small, rlvid, tmp_path):
    own = ["rollout.stored_replies=true", "reward.temporal_bonus=0.3", "reward.weights={multiple_choice: {accuracy: 1.0, format: 1.0, cited_times: 0.5}}"]
    result = rlvid("train", CONFIG, *small, *own, f"data.train={replies}", "data.eval=null", "run.steps=3", "run.save_every=1", "run.name=mixed")
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "mixed"
    slots = slots_of(folder, 2)
    stored = [slot for slot in slots if slot["finish_reason"] == "stored"]
    assert {(slot["variant"], slot["sample"]) for slot in stored} == {(0, 3)} and all(slot["correct"] == 1 for slot in stored)
    assert all("temporal_bonus" in slot["parts"] for slot in slots) and any("cited_times" in slot["parts"] for slot in slots)
    again = rlvid("replay", folder, "--step", 3)
    assert again.returncode == 0 and "differs" not in again.stdout, again.stdout + again.stderr[-3000:]
