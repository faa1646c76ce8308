"""One real run, looked at from all sides: its metrics, its slots, its weights, its export."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from rlvid.algo.advantages import joint_advantages, zero_signal
from rlvid.algo.rewards import score
from rlvid.config import load
from rlvid.data.questions import iter_questions
from rlvid.families import named
from rlvid.variants.explore import derived_seed
from tests.integration.conftest import CONFIG, metrics_of, slots_of, small_overrides

STEPS = 3
PROMISED = [
    "step",
    "reward/mean",
    "reward/accuracy",
    "group/zero_signal_share",
    "group/zero_signal_share_text_only",
    "group/reward_std",
    "repair/share",
    "repair/success_share",
    "teacher/leak_share",
    "mismatch/mean_abs_dlogp",
    "mismatch/kl",
    "staleness/max",
    "sync/version",
    "driver/bytes",
    "time/step_s",
    "time/variants_s",
    "time/rollout_s",
    "time/teacher_s",
    "time/learn_s",
    "time/sync_s",
    "throughput/rollout_tokens_per_s",
    "memory/host_rss_bytes",
]


@pytest.fixture(scope="module")
def done(world, rlvid, tmp_path_factory):
    """A finished run on two engines, two variant actors and two ZeRO-2 ranks: (folder, config)."""
    overrides = [
        *small_overrides(world, tmp_path_factory.mktemp("runs")),
        f"run.steps={STEPS}",
        "rollout.engines=2",
        "variants.actors=2",
        "learner.ranks=2",
        "learner.zero_stage=2",
        "learner.threads=1",
        "rollout.threads=1",
        "tracker.kind=wandb",
    ]
    result = rlvid("train", CONFIG, *overrides)
    assert result.returncode == 0, result.stderr[-3000:]
    config = load(CONFIG, overrides)
    return config.folder, config


def test_rows_are_whole(done):
    folder, _ = done
    rows = metrics_of(folder)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    for row in rows[1:]:
        assert not [key for key in PROMISED if row.get(key) is None]
    assert "eval/accuracy" in rows[0] and "eval/temporal_iou" in rows[-1]
    assert load(folder / "config.yaml").run.steps == STEPS


def test_sampler_and_learner_agree(done):
    for row in metrics_of(done[0])[1:]:
        assert row["mismatch/mean_abs_dlogp"] < 1e-3
        assert abs(row["mismatch/kl"]) < 1e-3
        assert row["staleness/max"] == 0
        assert row["sync/version"] == row["step"]


def test_little_passes_through_the_driver(done):
    assert all(row["driver/bytes"] < 2**20 for row in metrics_of(done[0])[1:])


def test_advantages_and_rewards_follow_from_the_dumps(done):
    folder, config = done
    questions = {question.id: question for question in iter_questions(config.data.train)}
    k, m = config.variants_per_question, config.rollout.answers
    for step in range(1, STEPS + 1):
        slots = slots_of(folder, step)
        assert len(slots) == config.data.questions_per_step * k * m
        by_question = {}
        for slot in slots:
            by_question.setdefault(slot["question_id"], []).append(slot)
        silent = 0
        for name, group in by_question.items():
            rewards, advantages = np.full((k, m), np.nan), np.full((k, m), np.nan)
            for slot in group:
                assert np.isnan(rewards[slot["variant"], slot["sample"]])
                again = score(questions[name], slot["text"])
                assert again.parts == slot["parts"]
                weights = config.reward.weights[questions[name].task]
                assert slot["reward"] == pytest.approx(sum(weights[part] * value for part, value in slot["parts"].items()))
                rewards[slot["variant"], slot["sample"]], advantages[slot["variant"], slot["sample"]] = slot["reward"], slot["advantage"]
            assert np.allclose(joint_advantages(rewards), advantages, atol=1e-9)
            correct = [slot["parts"].get("accuracy", float(slot["parts"].get("temporal_iou", 0) >= 0.5)) for slot in group]
            silent += zero_signal([correct])
        row = metrics_of(folder)[step]
        assert row["group/zero_signal_share"] == pytest.approx(silent / len(by_question))


def test_slots_tell_where_they_come_from(done):
    folder, config = done
    for step in range(1, STEPS + 1):
        for slot in slots_of(folder, step):
            assert slot["policy_version"] == step - 1
            assert slot["seed"] == derived_seed(config.run.seed, step, slot["question_id"], slot["variant"]) + slot["sample"]
            assert slot["answer_tokens"] == len(slot["tokens"]) == len(slot["logprobs"])
            assert slot["spec"]["kind"] == config.variants.kinds[slot["variant"]]
            assert slot["spec"]["times_s"] == sorted(set(slot["spec"]["times_s"]))


def test_media_tokens_are_never_sampled(done):
    from transformers import AutoTokenizer

    folder, config = done
    media = set(named("qwen2_5_vl").media_token_ids(AutoTokenizer.from_pretrained(config.model.path)))
    assert len(media) == 5
    for step in range(1, STEPS + 1):
        assert not any(media & set(slot["tokens"]) for slot in slots_of(folder, step))


def test_export_answers_as_the_last_policy_did(done, rlvid, tmp_path):
    """The export loads in from_pretrained and in a fresh vLLM and scores exactly as the run's last evaluation."""
    from transformers import AutoModelForImageTextToText

    folder, config = done
    exported = AutoModelForImageTextToText.from_pretrained(folder / "export", dtype=torch.float32)
    start = AutoModelForImageTextToText.from_pretrained(config.model.path, dtype=torch.float32)
    assert any(not torch.equal(a, b) for a, b in zip(exported.parameters(), start.parameters(), strict=True))
    result = rlvid("eval", folder / "config.yaml", "--checkpoint", folder / "export", "--out", tmp_path / "eval")
    assert result.returncode == 0 and "accuracy" in result.stdout, result.stderr[-3000:]
    again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    last = metrics_of(folder)[-1]
    expected = {key: last[key] for key in last if key.startswith("eval/")}
    assert {key: value for key, value in again.items() if key.startswith("eval/")} == expected
    with (tmp_path / "eval" / "metrics.csv").open() as file:
        table = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    assert {key: table[key] for key in expected} == pytest.approx(expected)
    predictions = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in predictions] == [question.id for question in iter_questions(config.data.eval)]


def test_wandb_has_one_offline_run(done):
    runs = list((done[0] / "wandb").glob("offline-run-*"))
    assert len(runs) == 1 and list(runs[0].glob("*.wandb"))
