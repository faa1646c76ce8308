"""Lettered options: the option that carries the letter is meant, wherever it stands, and a list that cannot be read is refused by name."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.data.options import EMPTY, EQUAL, MOVED, ORDERED, read
from rlvid.data.questions import QuestionError, parse_line, parsed
from rlvid.data.sources import named
from rlvid.data.sources.convert import convert
from tests.unit import published
from tests.unit.clips import make

FORMS = ("{}. {}", "{}.{}", "{}) {}", "({}) {}", "[{}] {}", "{}: {}", "{} - {}", "{} – {}", "Option {}: {}", "{}、{}", " {}.  {} ")


@pytest.mark.parametrize(
    ("given", "texts", "letters", "changes"),
    [
        (["red", "green"], "red green", "AB", ()),
        (["B. red", "A. green"], "green red", "AB", (ORDERED,)),
        (["A. a1", "B. b1", "D. d1", "E. e1"], "a1 b1 d1 e1", "ABDE", (MOVED,)),
        (["A red", "B green"], "red green", "AB", ()),
        (["a. red", "b. green"], "red green", "AB", ()),
        (["1. red", "2. green"], "red green", "AB", ()),
        (["2) red", "1) green"], "green red", "AB", (ORDERED,)),
        (["A. red", "B.", "C. blue"], "red blue", "AC", (EMPTY, MOVED)),
        (["red", "", "blue"], "red blue", "AC", (EMPTY, MOVED)),
        (["red", "blue", " "], "red blue", "AB", (EMPTY,)),
        (["red", "red", "blue"], "red red blue", "ABC", (EQUAL,)),
        (["A", "B"], "A B", "AB", ()),
        (["C", "D", "E"], "C D E", "ABC", ()),
        (["1:20", "2:30"], "1:20 2:30", "AB", ()),
        (["0.5", "1.5"], "0.5 1.5", "AB", ()),
        (["E.coli", "yeast"], "E.coli yeast", "AB", ()),
        (["I.Newton", "G.Galilei"], "I.Newton G.Galilei", "AB", ()),
    ],
)
def test_lists(given, texts, letters, changes):
    found = read(given)
    assert (found.texts, "".join(found.letters), found.changes) == (tuple(texts.split()), letters, changes)


def test_texts_that_only_begin_alike_stay_whole():
    for texts in (["1 cup", "2 cups"], ["A boy", "A girl"], ["A ball", "no ball"], ["10 m", "20 m"], ["A", "A cat"]):
        assert read(texts).texts == tuple(texts)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_option_that_carries_the_letter_is_meant(form, data):
    letters = data.draw(st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=5, unique=True))
    lower = data.draw(st.booleans())
    words = data.draw(st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=5), min_size=len(letters), max_size=len(letters), unique=True))
    found = read([form.format(letter.lower() if lower else letter, word) for letter, word in zip(letters, words, strict=True)])
    assert found.texts == tuple(word for _, word in sorted(zip(letters, words, strict=True)))
    for letter, word in zip(letters, words, strict=True):
        for answer in (letter, letter.lower(), f"({letter})", f"{letter}.", f"{letter}. {word}", f"{letter.lower()}) {word}"):
            assert found.by_letter(answer) == word
        other = next(one for one in words if one != word)
        assert found.by_letter(f"{letter}. {other}") is None, "the letter and the text name different options"
    assert found.by_letter("Z") is None


@pytest.mark.parametrize("given", [["A. red", "green", "B. blue"], ["A. red", "A. green"], ["A. red", "2. green"], ["(a) red", "(b) green", "blue", "grey"]])
def test_a_letter_list_that_cannot_be_read_is_refused_by_name(given):
    with pytest.raises(ValueError, match="letter"):
        read(given)
    line = {"id": "q", "video": "v.mp4", "question": "?", "task": "multiple_choice", "options": given, "answer": "A"}
    with pytest.raises(QuestionError, match="options: ") as error:
        parse_line(json.dumps(line), path="f.jsonl", line=1)
    assert error.value.kind == "options: letters that cannot be read"


def test_own_files_are_read_alike():
    line = {"id": "q", "video": "v.mp4", "question": "?", "task": "multiple_choice", "options": ["B. red", "A. green"], "answer": "B"}
    question, changes = parsed(json.dumps(line), path="f.jsonl", line=1)
    assert (question.options, question.answer, changes) == (("green", "red"), "red", (ORDERED,))
    question, changes = parsed(json.dumps(line | {"options": ["red", "red", "blue"], "answer": "blue"}), path="f.jsonl", line=1)
    assert (question.options, question.answer, changes) == (("red", "red", "blue"), "blue", (EQUAL,))


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (["B. red", "A. green"], "B", "red"),
        (["A. one", "B. two", "D. four", "E. five"], "D", "four"),
        (["A red", "B green"], "b", "green"),
        (["a. red", "b. green"], "A", "red"),
        (["A - red", "B - green"], "B. green", "green"),
        (["1. red", "2. green"], "B", "green"),
        (["A. red", "", "C. blue"], "C", "blue"),
        (["red", "red", "blue"], "C", "blue"),
    ],
)
def test_published_rows_are_labelled_by_the_letter_carried(tmp_path, options, answer, right):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data" / "fFjv93.mp4", frames=10)
    rows = [published.VIDEOMME[0] | {"options": options, "answer": answer}]
    report = convert(named("videomme"), str(published.write_json(tmp_path / "test.json", rows)), tmp_path / "out.jsonl", videos=tmp_path, progress=False)
    assert report.ok, report.text()
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["answer"] == right and not any(option[:2] in ("A.", "B.", "A ", "a.") for option in row["options"])


def test_an_option_over_two_lines_is_whole(tmp_path):
    (tmp_path / "academic_source").mkdir()
    make(tmp_path / "academic_source" / "a.mp4", frames=10)
    asked = "Who?\nA. a man\n   in red\nB. a cat\nthat sleeps\nPlease answer with the letter."
    rows = [published.LLAVA[0] | {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": "b"}]}]
    report = convert(named("llava_video"), str(published.write_json(tmp_path / "mc.json", rows)), tmp_path / "out.jsonl", videos=tmp_path, progress=False)
    assert report.ok, report.text()
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["options"], row["answer"]) == (["a man in red", "a cat that sleeps"], "a cat that sleeps")


@pytest.mark.parametrize("kind", ["multiple-choice", "Multiple-choice", "multiple_choice", "Multiple Choice"])
def test_a_kind_is_meant_however_it_is_written(tmp_path, kind):
    (tmp_path / "videos" / "Biology").mkdir(parents=True)
    make(tmp_path / "videos" / "Biology" / "0.mp4", frames=10)
    rows = [published.MMVU[0] | {"question_type": kind}, published.MMVU[1] | {"question_type": "essay"}]
    report = convert(named("mmvu"), str(published.write_json(tmp_path / "validation.json", rows)), tmp_path / "out.jsonl", videos=tmp_path, progress=False)
    assert report.tasks == {"multiple_choice": 1} and set(report.problems) == {"question_type: unknown"}
