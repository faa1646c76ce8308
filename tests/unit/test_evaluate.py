"""`rlvid eval` over a sampler at the protocol: what it writes, and that a killed one repeats nothing."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest
import yaml

from rlvid.algo.scores import Answered
from rlvid.asking import evaluate
from rlvid.config import load
from rlvid.loop.feed import TooManyBadVideos
from rlvid.types import Question
from tests.unit.asked import FakeSampler, Killed, in_place_of_engines

ROOT = Path(__file__).parents[2]
FILES = ("predictions.jsonl", "metrics.json", "metrics.csv")


@pytest.fixture
def sampler(monkeypatch):
    return in_place_of_engines(monkeypatch)


@pytest.fixture
def given(tmp_path):
    """A config with 30 held-out questions, and a checkpoint folder."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    same = {"question": "?", "task": "multiple_choice", "options": ["red", "blue"], "answer": "red", "source": "videomme/short"}
    lines = [{"id": f"q{n}", "video": f"{n}.mp4"} | same for n in range(30)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {"run": {"name": "r"}, "model": {"path": "other"}, "data": {"train": "none.jsonl", "eval": str(tmp_path / "eval.jsonl"), "eval_in_flight": 4}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    return lambda out, *overrides: evaluate.run(load(tmp_path / "c.yaml", overrides), tmp_path / "model", out=tmp_path / out)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_writes_a_row_a_question_in_order_and_the_same_metrics_twice(sampler, given, tmp_path):
    fake = sampler(FakeSampler())
    metrics = given("out")
    (config,) = sampler.configs
    assert config.variants.kinds == ("uniform",) and config.rollout.answers == 1 and 1 < fake.most_at_once <= 4
    predictions = rows(tmp_path / "out" / "predictions.jsonl")
    assert [row["question_id"] for row in predictions] == [f"q{n}" for n in range(30)] and predictions[7]["text"] == "text of q7"
    right = statistics.fmean(row["parts"]["accuracy"] for row in predictions)
    assert 0 < right < 1 and metrics["eval/accuracy"] == right == metrics["eval/videomme/accuracy_short"] and metrics["eval/questions"] == 30
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics | {"quarantined": 0}
    with (tmp_path / "out" / "metrics.csv").open() as file:
        table = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    assert table == metrics | {"quarantined": 0}


def test_a_killed_evaluation_repeats_nothing(sampler, given, tmp_path):
    sampler(FakeSampler())
    given("whole")
    asked = []
    for lives in (9, 0, 11):
        fake = sampler(FakeSampler(lives))
        with pytest.raises(Killed):
            given("cut")
        assert not any((tmp_path / "cut" / name).exists() for name in FILES)
        asked = [row["id"] for row in rows(tmp_path / "cut" / "predictions.journal.jsonl")]
        assert len(asked) == len(set(asked)) and len(fake.asked) <= lives
    last = sampler(FakeSampler())
    given("cut")
    assert 0 < len(asked) < 30 and sorted(asked + last.asked) == sorted(f"q{n}" for n in range(30))
    for name in FILES:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    opened = len(sampler.opened)
    given("cut")
    assert len(sampler.opened) == opened, "a finished evaluation needs no engine"


def test_other_weights_and_other_limits(sampler, given, tmp_path):
    sampler(FakeSampler())
    assert given("out", "data.eval_limit=10")["eval/questions"] == 10
    again = sampler(FakeSampler())
    assert given("out")["eval/questions"] == 30 and len(again.asked) == 20
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    again = sampler(FakeSampler())
    given("out")
    assert len(again.asked) == 30


def test_unusable_videos_are_named_and_counted(sampler, given, tmp_path):
    data = tmp_path / "eval.jsonl"
    good = data.read_text()
    data.write_text(good.replace('"3.mp4', '"bad.mp4'))
    sampler(FakeSampler())
    assert given("out")["eval/questions"] == 29
    assert rows(tmp_path / "out" / "predictions.jsonl")[3] == {"question_id": "q3", "reason": "no such file"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["quarantined"] == 1
    data.write_text(good.replace(".mp4", "bad.mp4"))
    with pytest.raises(evaluate.NothingToScore, match=r"none of the 30 questions of .*eval.jsonl has a usable video"):
        given("out")
    with pytest.raises(TooManyBadVideos, match=r"9 questions in a row .*eval.jsonl.*max_bad_in_a_row"):
        given("out", "data.max_bad_in_a_row=9")


def test_both_right():
    def grounded(accuracy, iou):
        question = Question(id="q", video="v", question="?", task="grounded_qa", options=("a", "b"), answer="a", spans=((0.0, 1.0),), source="g")
        return Answered(question, "", {"accuracy": accuracy, "temporal_iou": iou, "format": 1.0})

    answered = [grounded(1.0, 0.6), grounded(1.0, 0.4), grounded(0.0, 0.9), grounded(0.0, 0.0)]
    assert evaluate.summarize(answered)["eval/both_right/g"] == 0.25
    assert evaluate.summarize(answered, iou_threshold=0.3)["eval/both_right"] == 0.5
    plain = Answered(Question(id="q", video="v", question="?", task="multiple_choice", options=("a", "b"), answer="a"), "", {"accuracy": 1.0})
    assert "eval/both_right" not in evaluate.summarize([plain])


def test_where_an_evaluation_goes(tmp_path):
    config = load(ROOT / "configs" / "quickstart.yaml", [f"run.dir={tmp_path}", "run.name=other"])
    run = tmp_path / "first"
    run.mkdir()
    assert evaluate.output_folder(config, run / "export") == tmp_path / "other" / "eval" / "export"
    (run / "metrics.jsonl").touch()
    assert evaluate.output_folder(config, run / "export") == run / "eval" / "export", "beside the policy that the run made"
