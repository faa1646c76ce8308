"""Question files: what is accepted, and the one line that says what is wrong with everything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.data.questions import EXAMPLES, QuestionError, check, iter_questions, parse_line
from rlvid.types import Evidence, Question, Region

CHOICE = {"id": "q1", "video": "clips/v.mp4", "question": "What colour?", "task": "multiple_choice", "options": ["red", "green"], "answer": "green"}
GROUNDING = {"id": "q2", "video": "v.mp4", "question": "When?", "task": "temporal_grounding", "spans": [[1, 2.5]]}
NUMERIC = {"id": "q3", "video": "v.mp4", "question": "How many?", "task": "numeric", "answer": "3"}


def parse(data, line=7, path="/data/train.jsonl"):
    return parse_line(json.dumps(data).encode(), path=path, line=line)


def write(folder, *lines):
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n")
    return path


def test_a_choice():
    assert parse(CHOICE) == Question("q1", "/data/clips/v.mp4", "What colour?", "multiple_choice", ("red", "green"), "green")


def test_every_key():
    whole = GROUNDING | {
        "task": "grounded_qa",
        "answer": "a dog",
        "options": None,
        "spans": [[0, 1], [2, 3.5]],
        "evidence": {"spans": [[0.5, 1]], "regions": [{"time_s": 0.75, "box": [0, 0.25, 0.5, 1]}]},
        "clip": [0, 10],
        "source": "made up",
    }
    got = parse(whole)
    assert got.spans == ((0.0, 1.0), (2.0, 3.5)) and got.clip == (0.0, 10.0) and got.source == "made up" and got.options == ()
    assert got.evidence == Evidence(((0.5, 1.0),), (Region(0.75, (0.0, 0.25, 0.5, 1.0)),))


def test_null_is_absent():
    nothing = dict.fromkeys(("options", "answer", "evidence", "clip", "source"))
    assert parse(GROUNDING | nothing) == parse(GROUNDING)


@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        (["red", "green"], "B", "green"),
        (["red", "green"], "b", "green"),
        (["red", "green"], "(B)", "green"),
        (["red", "green"], "B.", "green"),
        (["red", "green"], "Green ", "green"),
        (["B", "A"], "A", "A"),
        (["1", "2"], "2", "2"),
        ([str(i) for i in range(26)], "Z", "25"),
    ],
)
def test_an_answer_becomes_its_option_s_text(options, answer, text):
    assert parse(CHOICE | {"options": options, "answer": answer}).answer == text


@pytest.mark.parametrize(("answer", "text"), [(3, "3"), (3.5, "3.5"), ("1,000", "1,000"), ("three", "three"), (-2, "-2")])
def test_a_number_may_be_written_as_a_number(answer, text):
    assert parse(NUMERIC | {"answer": answer}).answer == text


def test_video_paths(tmp_path):
    assert parse(CHOICE | {"video": "/abs/v.mp4"}).video == "/abs/v.mp4"
    assert parse(CHOICE | {"video": "../v.mp4"}).video == "/data/../v.mp4"
    assert parse(CHOICE, path="train.jsonl").video.startswith("/")


WRONG = [
    (b"", "line"),
    (b"{", "line: is not JSON"),
    (b'{"id": "q1"} x', "line: is not JSON"),
    (b"[1]", "line: is a list"),
    (b"3", "line: is a number"),
    (b"null", "line: is null"),
    (b'{"id": "\xff"}', "line: is not UTF-8"),
    (b"[" * 100_000, "line: is not usable JSON"),
    (b'{"id": "a", "id": "b"}', "'id': stands twice"),
    (CHOICE | {"vidoe": 1}, "vidoe: unknown key"),
    ({key: value for key, value in CHOICE.items() if key != "id"}, "id: is missing"),
    ({key: value for key, value in GROUNDING.items() if key != "video"}, "video: is missing"),
    ({key: value for key, value in CHOICE.items() if key != "question"}, "question: is missing"),
    ({key: value for key, value in CHOICE.items() if key != "task"}, "task: is missing"),
    (CHOICE | {"id": 3}, "id: is a number"),
    (CHOICE | {"id": ""}, "id: is empty"),
    (CHOICE | {"id": None}, "id: is null"),
    (CHOICE | {"id": "\ud800"}, "id: holds half a surrogate pair"),
    (CHOICE | {"video": ""}, "video: is empty"),
    (CHOICE | {"video": "a\0b"}, "video: holds a NUL"),
    (CHOICE | {"video": 3}, "video: is a number"),
    (CHOICE | {"question": "  "}, "question: is empty"),
    (CHOICE | {"task": "choice"}, "task: unknown task 'choice'"),
    (CHOICE | {"task": []}, "task: unknown task []"),
    (CHOICE | {"task": None}, "task: unknown task null"),
    (CHOICE | {"options": []}, "options: are missing"),
    (CHOICE | {"options": ["red"]}, "options: there are 1"),
    (CHOICE | {"options": [str(i) for i in range(27)]}, "options: there are 27"),
    (CHOICE | {"options": "red, green"}, "options: is a string"),
    (CHOICE | {"options": ["red", 3]}, "options: is a number"),
    (CHOICE | {"options": ["red", " "]}, "options: one is empty"),
    (CHOICE | {"options": ["red", "Red"]}, "options: 'red' stands twice"),
    (CHOICE | {"answer": "blue"}, "answer: 'blue' is not among the options"),
    (CHOICE | {"answer": "C"}, "answer: 'C' is not among the options"),
    (CHOICE | {"answer": None}, "answer: is missing"),
    (CHOICE | {"answer": 1}, "answer: is a number"),
    (NUMERIC | {"answer": "many"}, "answer: 'many' is not one number"),
    (NUMERIC | {"answer": True}, "answer: is true or false"),
    (NUMERIC | {"answer": ""}, "answer: is empty"),
    (NUMERIC | {"options": ["1", "3"]}, "options: do not belong to task numeric"),
    (GROUNDING | {"spans": []}, "spans: are missing"),
    (GROUNDING | {"spans": None}, "spans: are missing"),
    (GROUNDING | {"spans": [1, 2]}, "spans: 1 is not a pair"),
    (GROUNDING | {"spans": [[1, 2, 3]]}, "spans: [1, 2, 3] is not a pair"),
    (GROUNDING | {"spans": [[2, 1]]}, "spans: [2, 1] does not end after it starts"),
    (GROUNDING | {"spans": [[1, 1]]}, "spans: [1, 1] does not end after it starts"),
    (GROUNDING | {"spans": [[-1, 1]]}, "spans: [-1, 1] starts before 0"),
    (GROUNDING | {"spans": [[0, float("nan")]]}, "spans: NaN is not finite"),
    (GROUNDING | {"spans": [[0, float("inf")]]}, "spans: Infinity is not finite"),
    (GROUNDING | {"spans": [[0, 10**400]]}, "is not finite"),
    (GROUNDING | {"spans": [["0", "1"]]}, "spans: '0' is not a number"),
    (GROUNDING | {"spans": [[False, True]]}, "spans: false is not a number"),
    (GROUNDING | {"spans": {"start": 1}}, "spans: is an object"),
    (GROUNDING | {"clip": [3, 2]}, "clip: [3, 2] does not end"),
    (GROUNDING | {"clip": "all"}, "clip: 'all' is not a pair"),
    (GROUNDING | {"source": 3}, "source: is a number"),
    (GROUNDING | {"evidence": []}, "evidence: is a list"),
    (GROUNDING | {"evidence": {"frames": []}}, "evidence.frames: unknown key"),
    (GROUNDING | {"evidence": {"spans": [[2, 1]]}}, "evidence.spans: [2, 1]"),
    (GROUNDING | {"evidence": {"regions": [{"time_s": 1}]}}, "evidence.regions"),
    (GROUNDING | {"evidence": {"regions": [{"time_s": -1, "box": [0, 0, 1, 1]}]}}, "evidence.regions.time_s: -1.0 is before 0"),
    (GROUNDING | {"evidence": {"regions": [{"time_s": 1, "box": [0, 0, 1, 1.1]}]}}, "evidence.regions.box"),
    (GROUNDING | {"evidence": {"regions": [{"time_s": 1, "box": [0.5, 0, 0.5, 1]}]}}, "evidence.regions.box"),
    (GROUNDING | {"evidence": {"regions": [{"time_s": 1, "box": [0, 0, 1]}]}}, "evidence.regions.box"),
    (GROUNDING | {"evidence": {"regions": [3]}}, "evidence.regions: is a number"),
]


@pytest.mark.parametrize(("data", "what"), WRONG, ids=[what for _, what in WRONG])
def test_a_wrong_line_is_named_in_one_line(data, what):
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(QuestionError) as caught:
        parse_line(raw, path="/data/train.jsonl", line=7)
    message = str(caught.value)
    assert message.startswith("/data/train.jsonl:7: ") and what in message and "\n" not in message
    assert message.endswith(")") and len(message) < 400
    message.encode()


leaves = st.none() | st.booleans() | st.floats() | st.text() | st.integers()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(values, st.data())
def test_no_value_raises_anything_else(value, data):
    key = data.draw(st.sampled_from(["id", "video", "question", "task", "options", "answer", "spans", "evidence", "clip", "source"]))
    for base in (CHOICE, GROUNDING, NUMERIC):
        try:
            assert isinstance(parse(base | {key: value}), Question)
        except QuestionError as error:
            assert "\n" not in str(error)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(raw):
    with pytest.raises(QuestionError):
        parse_line(raw, path="f", line=1)


def test_iterating_skips_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CHOICE).encode() + b"\r\n\n  \n" + json.dumps(GROUNDING).encode())
    assert [question.id for question in iter_questions(path)] == ["q1", "q2"]


def test_iterating_stops_at_the_first_mistake(tmp_path):
    with pytest.raises(QuestionError, match=r"train.jsonl:3: line: is not JSON"):
        list(iter_questions(write(tmp_path, CHOICE, b"", b"{")))
    with pytest.raises(QuestionError, match=r"train.jsonl:3: id: 'q1' is line 1's already"):
        list(iter_questions(write(tmp_path, CHOICE, GROUNDING, CHOICE)))
    with pytest.raises(QuestionError, match="holds no question"):
        list(iter_questions(write(tmp_path, b"")))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(QuestionError, match="cannot be read"):
            list(iter_questions(path))
        assert not check(path).ok


def test_check_goes_through_everything(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"x")
    same = [NUMERIC | {"id": "q3"}] * (EXAMPLES + 2)
    report = check(write(tmp_path, GROUNDING, b"{", CHOICE | {"video": "gone.mp4"}, *same, CHOICE | {"id": "q9", "answer": "blue"}, b"nope"))
    assert report.questions == 2 and report.tasks == {"temporal_grounding": 1, "numeric": 1} and not report.ok
    assert {kind: problem.count for kind, problem in report.problems.items()} == {
        "line: not JSON": 2,
        "video: missing file": 1,
        "id: used twice": EXAMPLES + 1,
        "answer: not among the options": 1,
    }
    assert len(report.problems["id: used twice"].first) == EXAMPLES
    assert "train.jsonl:2: line" in report.text() and "gone.mp4" in report.text()
    assert check(write(tmp_path, GROUNDING)).ok
    assert "empty file" in check(write(tmp_path, b"")).problems


def test_check_can_leave_the_videos_out(tmp_path):
    path = write(tmp_path, CHOICE)
    assert not check(path).ok and check(path, videos=False).ok
