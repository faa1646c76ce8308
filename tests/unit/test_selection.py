"""Which questions are kept, by hand; and a selection that is killed, torn and taken up again, over a sampler that only keeps the protocol."""

from __future__ import annotations

import json
import os

import pytest
import yaml

import rlvid.asking.select as selecting
from rlvid.actors.sampler import Collected
from rlvid.algo.selection import ALL_EQUAL, ALL_RIGHT, ALL_WRONG, IOU_EVEN, IOU_POOR, LESS_SIGNAL, Answers, Rules, beyond_share, drop_reason
from rlvid.asking.answer_journal import AnswerJournal
from rlvid.asking.selected import Paths, moved_line
from rlvid.config import ConfigError, load
from rlvid.data.questions import iter_questions
from rlvid.loop.feed import TooManyBadVideos
from rlvid.types import Group, Prepared, Question, Score
from tests.unit.asked import FakeSampler, Killed, in_place_of_engines

QA, GROUNDING, BOTH = "multiple_choice", "temporal_grounding", "grounded_qa"


@pytest.mark.parametrize(
    ("task", "accuracies", "ious", "reason"),
    [
        (QA, (1, 0, 0, 0, 0, 0, 0, 0), (), ""),
        (QA, (1, 1, 1, 1, 1, 1, 1, 0), (), ""),
        (QA, (1, 1, 1, 1), (), ALL_RIGHT),
        (QA, (0, 0, 0, 0), (), ALL_WRONG),
        ("open", (0.4, 0.4), (), ALL_EQUAL),
        ("open", (0.4, 0.5), (), ""),
        ("regression", (0.0, 0.1), (), ""),
        ("numeric", (1.0, 1.0), (), ALL_RIGHT),
        (GROUNDING, (), (0.0, 1.0), ""),
        (GROUNDING, (), (0.4, 0.6), ""),  # std is 0.1 exactly
        (GROUNDING, (), (0.41, 0.6), IOU_EVEN),
        (GROUNDING, (), (0.9, 0.9, 0.9), IOU_EVEN),
        (GROUNDING, (), (0.0, 0.49), IOU_POOR),
        (GROUNDING, (), (0.0, 0.5), ""),
        (GROUNDING, (), (0.0, 0.0), IOU_POOR),
        (BOTH, (1, 0), (0.0, 0.0), ""),
        (BOTH, (0, 0), (0.0, 1.0), ""),
        (BOTH, (1, 1), (0.0, 1.0), ""),
        (BOTH, (1, 1), (0.9, 0.9), f"{ALL_RIGHT}, {IOU_EVEN}"),
        (BOTH, (0, 0), (0.1, 0.4), f"{ALL_WRONG}, {IOU_POOR}"),
    ],
)
def test_rules(task, accuracies, ious, reason):
    assert drop_reason(Answers(task, accuracies, ious), Rules()) == reason


def test_other_thresholds():
    answers = Answers(GROUNDING, (), (0.2, 0.3))
    assert drop_reason(answers, Rules()) == IOU_POOR
    assert drop_reason(answers, Rules(iou_std=0.05, iou_max=0.3)) == ""
    assert drop_reason(answers, Rules(iou_std=0.051, iou_max=0.3)) == IOU_EVEN


@pytest.mark.parametrize("task", [QA, GROUNDING])
def test_no_answers_cannot_be_judged(task):
    with pytest.raises(ValueError, match="at least one"):
        drop_reason(Answers(task), Rules())


def test_statistics():
    row = Answers(BOTH, (1.0, 0.0, 1.0, 0.0), (0.0, 0.2, 0.4, 0.6)).statistics()
    assert (row["answers"], row["right"], row["accuracy_mean"], row["accuracy_std"]) == (4, 2, 0.5, 0.5)
    assert row["temporal_iou_mean"] == pytest.approx(0.3) and row["temporal_iou_std"] == pytest.approx(0.05**0.5) and row["temporal_iou_max"] == 0.6
    assert "temporal_iou_mean" not in Answers(QA, (1.0,)).statistics()


def test_the_share_keeps_those_with_most_signal():
    assert Answers(QA, (1.0, 0.0)).signal() == 0.5 and Answers(GROUNDING, (), (0.2, 0.4)).signal() == pytest.approx(0.1)
    assert Answers(BOTH, (1.0, 0.0), (1.0, 0.0)).signal() == 1 and Answers(BOTH, (1.0, 0.0), (0.0, 1.0)).signal() == 0
    signals = [(0.1, 1), (0.5, 2), (0.3, 3), (0.5, 4), (0.3, 9)]
    assert beyond_share(signals, questions=10, share=0.3) == {1, 9}
    assert beyond_share(signals, questions=10, share=0.01) == {1, 3, 4, 9}, "one stays"
    assert beyond_share(signals, questions=10, share=1) == set()


# --- the journal


def row(key, **more):
    return {"key": key, **more}


def test_a_journal_finds_its_rows_again(tmp_path):
    journal = AnswerJournal(tmp_path / "j")
    journal.add([row("a", id="é"), row("b", id="2")])
    journal.add([row("c", id="3")])
    assert journal.row("a")["id"] == "é" and journal.row("c")["id"] == "3" and "d" not in journal
    journal.close()
    again = AnswerJournal(tmp_path / "j")
    assert len(again) == 3 and again.row("b") == row("b", id="2")
    again.close()


@pytest.mark.parametrize("left", range(1, 21, 3))
def test_a_torn_line_is_cut_off_and_nothing_is_glued_to_it(tmp_path, left):
    path = tmp_path / "j"
    journal = AnswerJournal(path)
    journal.add([row("a"), row("b", id="x" * 10)])
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n") + 1 + left])
    journal = AnswerJournal(path)
    assert len(journal) == 1 and "a" in journal
    journal.add([row("c")])
    journal.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_lines_that_are_no_rows_are_passed_over(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b'{"key": "a"}\nnope\n[1]\n{"id": 3}\n\xff\n{"key": "b", "id": 1}\n')
    journal = AnswerJournal(path)
    assert len(journal) == 2 and journal.row("b")["id"] == 1
    journal.close()


def test_two_cannot_write_one_journal(tmp_path):
    journal = AnswerJournal(tmp_path / "j")
    with pytest.raises(ConfigError, match="another rlvid command"):
        AnswerJournal(tmp_path / "j")
    journal.close()
    AnswerJournal(tmp_path / "j").close()


# --- the whole, over a sampler at the protocol


@pytest.fixture
def sampler(monkeypatch):
    return in_place_of_engines(monkeypatch)


@pytest.fixture
def settings(tmp_path):
    """A config over 40 questions in tmp_path/data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    lines = [
        {"id": f"q{n}", "video": f"clips/{n}.mp4", "question": "?", "task": QA, "options": ["red", "blue"], "answer": "red", "source": f"s{n % 2}"}
        for n in range(40)
    ]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {"run": {"name": "r"}, "model": {"path": str(tmp_path / "model")}, "data": {"train": str(tmp_path / "data" / "train.jsonl")}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree | {"select": {"repeats": 4, "in_flight": 5}}))

    return lambda *overrides: load(tmp_path / "c.yaml", overrides)


def test_a_killed_selection_goes_on_without_repeating(sampler, settings, tmp_path):
    whole, cut = tmp_path / "whole" / "kept.jsonl", tmp_path / "cut" / "kept.jsonl"
    report = selecting.run(settings(), whole) if sampler(FakeSampler()) else None
    assert report.questions == 40 and 0 < report.kept < 40 and 1 < sampler.opened[-1].most_at_once <= 5

    asked = []
    for lives in (7, 0, 1, 12):
        fake = sampler(FakeSampler(lives))
        with pytest.raises(Killed):
            selecting.run(settings(), cut)
        journal = Paths(cut).journal
        recorded = [json.loads(line)["id"] for line in journal.read_text().splitlines()]
        asked = recorded
        assert not cut.exists() and len(recorded) == len(set(recorded)) and len(fake.asked) <= lives
        with journal.open("ab") as file:
            file.write(b'{"key": "torn')
    last = sampler(FakeSampler())
    selecting.run(settings(), cut)
    assert sorted(asked + last.asked) == sorted(f"q{n}" for n in range(40)), "a finished question was asked again"
    for name in ("kept.jsonl", "kept.statistics.jsonl", "kept.report.json"):
        assert (cut.parent / name).read_bytes() == (whole.parent / name).read_bytes()
    assert (cut.parent / "kept.png").read_bytes().startswith(b"\x89PNG") and not list(cut.parent.glob(".*"))


def test_the_output_is_a_question_file_whose_videos_are_found(sampler, settings, tmp_path):
    sampler(FakeSampler())
    selecting.run(settings(), tmp_path / "elsewhere" / "deep" / "kept.jsonl")
    kept = list(iter_questions(tmp_path / "elsewhere" / "deep" / "kept.jsonl"))
    originals = {question.id: question for question in iter_questions(tmp_path / "data" / "train.jsonl")}
    assert kept and all(os.path.normpath(question.video) == originals[question.id].video for question in kept)
    rows = [json.loads(line) for line in (tmp_path / "elsewhere" / "deep" / "kept.statistics.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(originals) and {row["id"] for row in rows if row["kept"]} == {question.id for question in kept}
    assert all(row["kept"] == (0 < row["right"] < 4) and row["answers"] == 4 for row in rows)


def test_a_moved_line_keeps_everything_else(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "real")
    question = Question(id="q", video=str(tmp_path / "data" / "v.mp4"), question="où?", task="open", answer="x")
    moved = json.loads(moved_line('{"id": "q", "video": "v.mp4", "question": "où?", "evidence": null}'.encode(), question, tmp_path / "a" / "link"))
    assert moved == {"id": "q", "video": "../data/v.mp4", "question": "où?", "evidence": None}
    assert json.loads(moved_line(b'{"video": "/abs/v.mp4"}', question, tmp_path))["video"] == "/abs/v.mp4"


def test_other_thresholds_judge_again_without_asking_again(sampler, settings, tmp_path):
    sampler(FakeSampler())
    out = tmp_path / "kept.jsonl"
    before = selecting.run(settings(), out)
    after = selecting.run(settings("select.share=0.1"), out)
    assert len(sampler.opened) == 1 and before.kept > after.kept == 4 == len(out.read_text().splitlines())
    assert {name: count.kept for name, count in after.sources.items()} == {"s0": 2, "s1": 2} and after.sources["s0"].dropped[LESS_SIGNAL] > 0


@pytest.mark.parametrize("override", ["run.seed=1", "select.repeats=5", "rollout.temperature=0.5", "video.frames=8", "select.kinds=[uniform, uniform]"])
def test_other_settings_ask_again(sampler, settings, tmp_path, override):
    sampler(FakeSampler())
    selecting.run(settings(), tmp_path / "kept.jsonl")
    again = sampler(FakeSampler())
    selecting.run(settings(override), tmp_path / "kept.jsonl")
    assert len(again.asked) == 40
    selecting.run(settings(), tmp_path / "kept.jsonl")
    assert len(sampler.opened) == 2, "the first settings' answers are still there"


def test_other_weights_or_another_question_ask_again(sampler, settings, tmp_path):
    sampler(FakeSampler())
    selecting.run(settings(), tmp_path / "kept.jsonl")
    data = tmp_path / "data" / "train.jsonl"
    data.write_text(data.read_text().replace('"q7", "video": "clips/7.mp4", "question": "?"', '"q7", "video": "clips/7.mp4", "question": "which?"'))
    again = sampler(FakeSampler())
    selecting.run(settings(), tmp_path / "kept.jsonl")
    assert again.asked == ["q7"]
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    again = sampler(FakeSampler())
    selecting.run(settings(), tmp_path / "kept.jsonl")
    assert len(again.asked) == 40


def test_unusable_videos_are_dropped_and_tried_again(sampler, settings, tmp_path):
    data = tmp_path / "data" / "train.jsonl"
    good = data.read_text()
    data.write_text(good.replace("clips/3.mp4", "clips/bad.mp4"))
    sampler(FakeSampler())
    report = selecting.run(settings(), tmp_path / "kept.jsonl")
    assert report.questions == 40 and report.sources["s1"].dropped[selecting.UNUSABLE] == 1
    rows = [json.loads(line) for line in (tmp_path / "kept.statistics.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows if row["id"] == "q3"] == ["video unusable: no such file"]
    again = sampler(FakeSampler())
    selecting.run(settings(), tmp_path / "kept.jsonl")
    assert len(sampler.opened) == 2 and again.asked == []
    data.write_text(good.replace("clips", "bad"))
    with pytest.raises(TooManyBadVideos, match=r"32 questions in a row .*max_bad_in_a_row"):
        selecting.run(settings(), tmp_path / "kept.jsonl")


def test_nothing_kept_leaves_the_old_file(sampler, settings, tmp_path):
    sampler(FakeSampler())
    out = tmp_path / "kept.jsonl"
    out.write_text("old\n")
    lines = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    lonely = [line | {"task": GROUNDING, "options": [], "answer": None, "spans": [[0, 1]]} for line in lines]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lonely))

    class Poor(FakeSampler):
        async def collect(self, questions, step, *, kinds, answers, greedy):
            scores = ((Score({"temporal_iou": 0.1, "format": 1.0}),) * answers,)
            return Collected([Group(Prepared(questions[0], "", (), (), 1.0), (), (), scores, (), (), ())])

    sampler(Poor())
    with pytest.raises(selecting.NothingKept, match=r"no question passed.*report.json"):
        selecting.run(settings(), out)
    assert out.read_text() == "old\n" and json.loads((tmp_path / "kept.report.json").read_text())["dropped"] == 40
    assert not list(tmp_path.glob(".*.writing"))


def test_what_cannot_work_is_refused(settings, tmp_path):
    with pytest.raises(ConfigError, match=r"select.repeats \(99\).*rollout.max_sequences"):
        selecting.run(settings("select.repeats=99"), tmp_path / "kept.jsonl")
    with pytest.raises(ConfigError, match=r"--out: .* would replace the questions"):
        selecting.run(settings(), tmp_path / "data" / ".." / "data" / "train.jsonl")
