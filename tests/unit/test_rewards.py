"""Reading answers: a long table of spellings, the reward parts, and texts that must never raise or hang."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.algo.rewards import (
    PARTS,
    Marking,
    correctness,
    length_penalty,
    mean_relative_accuracy,
    relative_accuracy,
    rouge_l,
    score,
    temporal_iou,
    total,
)
from rlvid.reading import answers, choices, spans
from rlvid.types import Question, Score

SPELLINGS = json.loads((Path(__file__).parent / "spellings.json").read_text())
"""Option sets by name; `choices`: answer, set, index or null; `numbers`: answer, number or null; `spans`: answer, [start, end] or null;
`grounded`: answer, its words, its span."""
COLOURS, NESTED = (tuple(SPELLINGS["options"][name]) for name in ("colours", "nested"))


def question(task="multiple_choice", **fields):
    return Question(id="q", video="/v.mp4", question="?", task=task, **fields)


CHOICES = [(answer, tuple(SPELLINGS["options"][name]), index) for answer, name, index in SPELLINGS["choices"]]
SPANS = [*SPELLINGS["spans"], ("[" * 3000, None), ("9" * 3000, None)]


@pytest.mark.parametrize(("answer", "options", "index"), CHOICES)
def test_choice_spellings(answer, options, index):
    found, reason = choices.choice(answers.unwrapped(answer), options)
    assert found == index and bool(reason) == (index is None), reason
    for right in range(len(options)):
        scored = score(question(options=options, answer=options[right]), f"<think>hm</think><answer>{answer}</answer>")
        assert scored.parts == {"accuracy": float(index == right), "format": 1.0}


@pytest.mark.parametrize(("answer", "value"), SPELLINGS["numbers"])
def test_number_spellings(answer, value):
    found, reason = answers.number(answer)
    assert found == (None if value is None else pytest.approx(value)) and bool(reason) == (value is None)


@pytest.mark.parametrize(("answer", "expected"), SPANS)
def test_span_spellings(answer, expected):
    found, reason = spans.span(answer)
    assert found == (None if expected is None else pytest.approx(expected)), reason
    assert bool(reason) == (expected is None)


@pytest.mark.parametrize(("answer", "words", "expected"), SPELLINGS["grounded"])
def test_grounded_spellings(answer, words, expected):
    said, found, reason = spans.answer_and_span(answer)
    assert answers.plain(said) == answers.plain(words)
    assert found == (None if expected is None else pytest.approx(expected)), reason


@pytest.mark.parametrize(("answer", "expected"), SPELLINGS["several_spans"])
def test_several_spans(answer, expected):
    found, reason = spans.spans(answer)
    assert found == tuple(map(tuple, expected)) and bool(reason) == (not expected)


@pytest.mark.parametrize(("answer", "options", "expected"), SPELLINGS["sets"])
def test_set_spellings(answer, options, expected):
    options = SPELLINGS["options"][options]
    found, reason = choices.chosen(answer, options)
    assert found == (None if expected is None else frozenset(expected)) and bool(reason) == (expected is None)
    for truth in ([0], [0, 2], [1, 2], [0, 1, 2, 3]):
        asked = question(options=tuple(options), answer=options[truth[0]], answers=tuple(options[index] for index in truth))
        assert score(asked, f"<answer>{answer}</answer>").parts["accuracy"] == float(expected == truth)


@pytest.mark.parametrize(("answer", "truth", "asked", "accuracy"), SPELLINGS["open"])
def test_open_spellings(answer, truth, asked, accuracy):
    said = score(Question("q", "/v.mp4", asked, "open", answer=truth), f"<answer>{answer}</answer>")
    assert said.parts["accuracy"] == pytest.approx(accuracy)


def test_tables_are_long_enough():
    assert sum(len(SPELLINGS[table]) for table in ("choices", "numbers", "spans", "grounded", "open", "sets", "several_spans")) >= 640


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>a</think><answer>B</answer>", 1),
        ("  <think>a\nb</think> \n <answer>B</answer>\n", 1),
        ("<think></think><answer>B</answer>", 0),
        ("<think> \n. </think><answer>B</answer>", 0),
        ("<think>红</think><answer>B</answer>", 1),
        ("a</think><answer>B</answer>", 0),
        ("<answer>B</answer>", 0),
        ("<think>a</think>B", 0),
        ("<think>a</think> so <answer>B</answer>", 0),
        ("<think>a</think><answer>B</answer>.", 0),
        ("ok <think>a</think><answer>B</answer>", 0),
        ("<think>a<think>b</think><answer>B</answer>", 0),
        ("<think>a</think></think><answer>B</answer>", 0),
        ("<answer>B</answer><think>a</think>", 0),
        ("<think><answer>B</answer></think>", 0),
        ("<think>a</think><answer>B", 0),
        ("<think>a</answer></think><answer>B", 0),
        ("", 0),
    ],
)
def test_format(text, good):
    assert score(question(options=COLOURS, answer="green"), text).parts["format"] == good


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("green", "no <answer> tag"),
        ("<answer>green", "not closed"),
        ("green</answer>", "no <answer> tag"),
        ("<answer>green</answer><answer>green</answer>", "more than one"),
        ("<answer>red<answer>green</answer>", "more than one"),
        ("<answer>green</answer></answer>", "more than one"),
        ("</answer>green<answer>", "before"),
        ("<answer> </answer>", "empty"),
        ("<answer>" + "green " * 2000 + "</answer>", "characters"),
    ],
)
def test_the_answer_tag_is_strict(text, reason):
    scored = score(question(options=COLOURS, answer="green"), text)
    assert scored.parts["accuracy"] == 0 and reason in scored.reason


def test_an_answer_without_thinking_still_counts():
    assert score(question(options=COLOURS, answer="green"), "so <answer>B</answer> it is").parts == {"accuracy": 1.0, "format": 0.0}


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ((75.0, 127.0), (85.0, 139.5), 0.6512),
        ((85.0, 139.5), (75.0, 127.0), 0.6512),
        ((0.0, 1.0), (0.0, 1.0), 1.0),
        ((0.0, 1.0), (2.0, 3.0), 0.0),
        ((0.0, 1.0), (1.0, 2.0), 0.0),
        ((0.0, 4.0), (1.0, 2.0), 0.25),
        ((0.0, 1.0), [(5.0, 6.0), (0.0, 2.0)], 0.5),
        ((0.0, 1.0), ((5.0, 6.0), (0.0, 2.0)), 0.5),
        ((0.0, 1.0), [], 0.0),
        (None, (0.0, 1.0), 0.0),
        ((1.0, 0.0), (0.0, 1.0), 0.0),
        ((math.nan, 1.0), (0.0, 1.0), 0.0),
        ((0.0, math.inf), (0.0, 1.0), 0.0),
        ((2.0, 2.0), (2.0, 2.0), 1.0),
        ((2.0, 2.0), (3.0, 3.0), 0.0),
        ((2.0, 2.0), (1.0, 3.0), 0.0),
        ([0, 1], [[0, 2]], 0.5),
    ],
)
def test_temporal_iou(predicted, truth, expected):
    assert temporal_iou(predicted, truth) == pytest.approx(expected, abs=5e-5)


@given(st.tuples(*[st.floats(0, 1e4)] * 4))
def test_temporal_iou_is_symmetric_and_a_share(edges):
    one, other = sorted(edges[:2]), sorted(edges[2:])
    value = temporal_iou(tuple(one), tuple(other))
    assert 0 <= value <= 1 and value == temporal_iou(tuple(other), tuple(one))


def test_numeric():
    def accuracy(answer, truth):
        return score(question("numeric", answer=truth), f"<answer>{answer}</answer>").parts["accuracy"]

    assert accuracy("three", "3") == accuracy("3.0", "3") == accuracy("1,000", "1000") == accuracy("1/2", "0.5") == 1
    assert accuracy("50%", "0.5") == accuracy("0.5", "50%") == accuracy("50", "50%") == accuracy("50 percent", "50%") == 1
    assert accuracy("0.5%", "50%") == accuracy("3.1", "3") == accuracy("50", "0.5") == accuracy("5000%", "0.5") == 0
    assert "own answer" in score(question("numeric", answer="many"), "<answer>3</answer>").reason


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (5, 5, 1.0),
        (5.2, 5, 1.0),
        (5.5, 5, 0.8),
        (0.9, 1, 0.8),
        (1.1, 1, 0.8),
        (7.5, 5, 0.0),
        (7.4, 5, 0.1),
        (0, 5, 0.0),
        (-5, 5, 0.0),
        (0, 0, 1.0),
        (0.1, 0, 0.0),
        (-5, -5, 1.0),
    ],
)
def test_mean_relative_accuracy(predicted, truth, expected):
    assert mean_relative_accuracy(predicted, truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [(5, 5, 1.0), (5.5, 5, 0.9), (4, 5, 0.8), (7.5, 5, 0.5), (10, 5, 0.0), (50, 5, 0.0), (-5, 5, 0.0), (-4, -5, 0.8), (0, 0, 1.0), (0.1, 0, 0.0)],
)
def test_relative_accuracy(predicted, truth, expected):
    assert relative_accuracy(predicted, truth) == pytest.approx(expected)


def test_regression_is_marked_as_the_config_says():
    asked = question("regression", answer="5")
    assert score(asked, "<answer>4</answer>").parts["accuracy"] == pytest.approx(0.6)  # 20 % off: within 50, 45, 40, 35, 30 and 25 %
    assert score(asked, "<answer>4</answer>", Marking(regression="relative_error")).parts["accuracy"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("3.15", "3", 1),
        ("2.85", "3", 1),
        ("3.16", "3", 0),
        ("2.84", "3", 0),
        ("-3.1", "-3", 1),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("52%", "0.5", 1),
        ("53%", "0.5", 0),
    ],
)
def test_numeric_tolerance_is_relative_to_the_truth(answer, truth, right):
    assert score(question("numeric", answer=truth), f"<answer>{answer}</answer>", Marking(numeric_tolerance=0.05)).parts["accuracy"] == right
    if answer != truth:
        assert score(question("numeric", answer=truth), f"<answer>{answer}</answer>").parts["accuracy"] == 0


@pytest.mark.parametrize(
    ("tokens", "limit", "margin", "expected"),
    [
        (0, 100, 0.2, 0),
        (80, 100, 0.2, 0),
        (81, 100, 0.2, -0.05),
        (90, 100, 0.2, -0.5),
        (100, 100, 0.2, -1),
        (120, 100, 0.2, -1),
        (50, 100, 1, -0.5),
        (18432, 20480, 0.2, -0.5),
    ],
)
def test_length_penalty(tokens, limit, margin, expected):
    assert length_penalty(tokens, limit=limit, margin=margin) == pytest.approx(expected)


def test_regression_reads_units():
    assert score(question("regression", answer="5.0"), "<answer>5.5 m</answer>").parts["accuracy"] == pytest.approx(0.8)


def test_open():
    def accuracy(answer, truth="The red ball."):
        return score(question("open", answer=truth), f"<answer>{answer}</answer>").parts["accuracy"]

    assert accuracy("a red ball") == accuracy("Red ball!") == 1
    assert accuracy("the big red ball") == accuracy("ball red") == accuracy("no red ball") == 0
    assert accuracy("a cat") == accuracy("...") == 0
    assert accuracy('{"answer": "red ball"}') == accuracy("The answer is: red ball") == 1
    assert accuracy("It is raining", "it is raining") == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("police killed the gunman", "police kill the gunman", 0.75), ("a b c", "a b c", 1.0), ("a b", "b a", 0.5), ("", "a", 0.0), ("a b c d", "a b", 0.5)],
)
def test_rouge_l(one, other, expected):
    assert rouge_l(one.split(), other.split()) == pytest.approx(expected)


def test_grounded_qa_has_three_parts():
    asked = question("grounded_qa", options=COLOURS, answer="green", spans=((2.0, 4.0),))
    assert score(asked, "<think>x</think><answer>B. green, from 2.0 to 4.0</answer>").parts == {"accuracy": 1.0, "temporal_iou": 1.0, "format": 1.0}
    assert score(asked, "<think>x</think><answer>red 2 to 6</answer>").parts == {"accuracy": 0.0, "temporal_iou": 0.5, "format": 1.0}
    without_span = score(asked, "<answer>green</answer>")
    assert without_span.parts == {"accuracy": 1.0, "temporal_iou": 0.0, "format": 0.0} and "start and an end" in without_span.reason
    assert score(question("grounded_qa", answer="a red car", spans=((2.0, 4.0),)), "<answer>red car (2 s - 4 s)</answer>").parts["accuracy"] == 1


def test_total_and_correctness():
    grounding = question("temporal_grounding", spans=((0.0, 10.0),))
    half = score(grounding, "<think>x</think><answer>0 to 5</answer>")
    assert half.parts == {"temporal_iou": 0.5, "format": 1.0}
    assert total(half, {"temporal_iou": 0.5, "format": 0.5}) == 0.75 and total(half, {"accuracy": 1.0}) == 0
    assert correctness(grounding, half, 0.5) == 1 and correctness(grounding, half, 0.51) == 0
    assert correctness(question("open", answer="x"), Score({"accuracy": 0.4, "format": 1.0}), 0.5) == 0.4


ASKED = [
    question(options=COLOURS, answer="red"),
    question("open", answer="red ball"),
    question("numeric", answer="3"),
    question("regression", answer="3"),
    question("temporal_grounding", spans=((1.0, 2.0),)),
    question("grounded_qa", options=NESTED, answer="a ball", spans=((1.0, 2.0),)),
]
PIECES = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "start", "answer", "red", "not", *'A()-1:., \nes/m{}[]"'])
REPEATED = ["<answer>", "<think>", "1:", "1 ", "1/", "1,111", "a b ", "red ", "\\boxed{", "from ", "1m", "( 1", "é", "。", *'A(1 -.,[{"']


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_no_text_raises_and_every_part_is_a_share(text):
    for asked in ASKED:
        for reply in (text, f"<answer>{text}</answer>"):
            parts = score(asked, reply, Marking(0.05, "relative_error")).parts
            assert set(parts) == set(PARTS[asked.task]) and all(0 <= value <= 1 for value in parts.values())
            json.dumps(parts)


@pytest.mark.parametrize("piece", REPEATED)
def test_long_texts_are_quick(piece):
    text = (piece * 100_000)[:100_000]
    begin = time.perf_counter()
    for asked in ASKED:
        for reply in (text, f"<think>{text}</think><answer>{text}</answer>", f"<answer>{text[: answers.MAX_ANSWER_CHARS]}</answer>"):
            score(asked, reply)
    assert time.perf_counter() - begin < 3
