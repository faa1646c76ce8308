"""The question stream: shuffled by (seed, epoch), endless, exact after a restore."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest

from rlvid.data.questions import QuestionError
from rlvid.data.stream import QuestionStream


def write(folder, count, name="train.jsonl", text="when?"):
    path = folder / name
    rows = ({"id": f"q{i}", "video": "v.mp4", "question": text, "task": "temporal_grounding", "spans": [[i, i + 1]]} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(stream, count):
    return [question.id for question in stream.take(count)]


def test_every_epoch_holds_every_question_once_in_another_order(tmp_path):
    stream = QuestionStream(write(tmp_path, 20), seed=3)
    first, second = ids(stream, 20), ids(stream, 20)
    assert len(stream) == 20 and sorted(first) == sorted(second) == sorted(f"q{i}" for i in range(20)) and first != second
    assert first != [f"q{i}" for i in range(20)]


def test_the_order_depends_on_the_seed_and_not_on_how_it_is_read(tmp_path):
    path = write(tmp_path, 20)
    whole = ids(QuestionStream(path, seed=3), 50)
    pieces = QuestionStream(path, seed=3)
    assert [id for count in (1, 0, 24, 25) for id in ids(pieces, count)] == whole
    assert ids(QuestionStream(path, seed=4), 50) != whole


def test_the_order_is_the_same_for_ever(tmp_path):
    assert ids(QuestionStream(write(tmp_path, 6), seed=0), 12) == ["q3", "q2", "q5", "q4", "q0", "q1", "q1", "q4", "q3", "q0", "q2", "q5"]


@pytest.mark.parametrize("taken", [0, 1, 7, 19, 20, 21, 40, 45])
def test_a_restored_stream_goes_on_exactly(tmp_path, taken):
    path = write(tmp_path, 20)
    stream = QuestionStream(path, seed=3)
    stream.take(taken)
    state = json.loads(json.dumps(stream.state()))
    again = QuestionStream(path, seed=3)
    again.restore(state)
    assert again.state() == state and ids(again, 50) == ids(stream, 50)


def test_another_file_or_seed_is_refused(tmp_path):
    state = QuestionStream(write(tmp_path, 20), seed=3).state()
    with pytest.raises(QuestionError, match=r"train.jsonl: run.seed is 4 and was 3"):
        QuestionStream(write(tmp_path, 20), seed=4).restore(state)
    with pytest.raises(QuestionError, match=r"train.jsonl: is not the file"):
        QuestionStream(write(tmp_path, 20, text="where"), seed=3).restore(state)


def test_a_moved_file_with_the_same_content_is_the_same_file(tmp_path):
    stream = QuestionStream(write(tmp_path, 20), seed=3)
    stream.take(5)
    moved = QuestionStream(write(tmp_path, 20, name="moved.jsonl"), seed=3)
    moved.restore(stream.state())
    assert ids(moved, 9) == ids(stream, 9)


def test_a_file_changed_under_the_reader_is_noticed(tmp_path):
    path = write(tmp_path, 20)
    stream = QuestionStream(path, seed=3)
    os.utime(path, (1, 1))
    stream.take(1)
    write(tmp_path, 21)
    with pytest.raises(QuestionError, match="was changed"):
        stream.take(1)
    path.unlink()
    with pytest.raises(QuestionError, match="cannot be read"):
        stream.take(1)


@pytest.mark.parametrize("content", ["", "\n\n", "{}\n", '{"id": "q0"}', "nope"])
def test_opening_checks_every_line(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_text(content)
    with pytest.raises(QuestionError, match=r"train.jsonl"):
        QuestionStream(path, seed=0)


def test_opening_refuses_a_mistake_at_the_end_and_a_repeated_id(tmp_path):
    path = write(tmp_path, 20)
    whole = path.read_text()
    path.write_text(whole + "{")
    with pytest.raises(QuestionError, match=r"train.jsonl:21: "):
        QuestionStream(path, seed=0)
    path.write_text(whole + whole.splitlines()[4])
    with pytest.raises(QuestionError, match=r"train.jsonl:21: id: 'q4' is line 5's already"):
        QuestionStream(path, seed=0)


def test_blank_lines_count_as_lines_only(tmp_path):
    path = write(tmp_path, 3)
    path.write_text(path.read_text().replace("\n", "\n\n\r\n"))
    assert sorted(ids(QuestionStream(path, seed=0), 3)) == ["q0", "q1", "q2"]


def test_lines_are_not_kept_in_memory(tmp_path):
    """Once open, the stream holds 20 bytes a line, and never the lines."""
    path = write(tmp_path, 30_000, text="a question of ordinary length about what happens when?")
    tracemalloc.start()
    try:
        stream = QuestionStream(path, seed=0)
        assert len(ids(stream, 64)) == 64
        assert tracemalloc.get_traced_memory()[0] < 30 * 30_000 < path.stat().st_size / 5
    finally:
        tracemalloc.stop()


def test_skipped_questions_never_come_and_move_nobody_else(tmp_path):
    path = write(tmp_path, 20)
    whole = ids(QuestionStream(path, seed=3), 60)
    less = QuestionStream(path, seed=3, skip=frozenset(("q4", "q11")))
    assert len(less) == 18 and ids(less, 54) == [id for id in whole if id not in ("q4", "q11")]


def test_a_resumed_run_may_skip_what_the_first_one_did_not(tmp_path):
    path = write(tmp_path, 20)
    stream = QuestionStream(path, seed=3)
    before, state = ids(stream, 7), stream.state()
    rest = ids(stream, 33)
    bad = rest[2]
    resumed = QuestionStream(path, seed=3, skip=frozenset((bad,)))
    resumed.restore(state)
    assert bad not in before
    assert ids(resumed, 10) == [id for id in rest if id != bad][:10]


def test_what_cannot_be_skipped_is_named(tmp_path):
    path = write(tmp_path, 2)
    with pytest.raises(QuestionError, match=r"data\.skip: .* has no question 'q9'"):
        QuestionStream(path, seed=3, skip=frozenset(("q0", "q9")))
    with pytest.raises(QuestionError, match="leaves no question"):
        QuestionStream(path, seed=3, skip=frozenset(("q0", "q1")))
