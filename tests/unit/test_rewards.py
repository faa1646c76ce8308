"""Reading answers: a long table of spellings, the reward parts, and texts that must never raise or hang."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.algo import answers, choices, spans
from rlvid.algo.rewards import PARTS, correctness, mean_relative_accuracy, rouge_l, score, temporal_iou, total
from rlvid.types import Question, Score

COLOURS = ("red", "green", "blue", "yellow")
ACTIONS = ("Opens the door", "Opens the door and leaves", "Sits down.", "Doesn't move")
NESTED = ("a ball", "a red ball", "two red balls", "no ball")
YES_NO = ("Yes", "No")
DIGITS = ("2", "3", "1", "10")
SWAPPED = ("B", "A", "D", "C")
IN_ORDER = ("A", "B", "C", "D")
SIGNS = ("-5", "5", "+5", "5%")
TIMES = ("00:05", "00:15", "01:05", "0.5")
SENTENCES = ("The man is cooking.", "The man isn't cooking.", "None of the above", "All of the above")
CODES = ("C++", "C#", "C", "Java")
VITAMINS = ("vitamin A", "vitamin B", "vitamin C", "vitamin E")
STATES = ("A and B", "Only A", "Only B", "Neither")


def question(task="multiple_choice", **fields):
    return Question(id="q", video="/v.mp4", question="?", task=task, **fields)


# answer, options, index or None
CHOICES = [
    ("B", COLOURS, 1),
    ("b", COLOURS, 1),
    ("(B)", COLOURS, 1),
    ("( b )", COLOURS, 1),
    ("[B]", COLOURS, 1),
    ("{B}", COLOURS, 1),
    ("B.", COLOURS, 1),
    ("B)", COLOURS, 1),
    ("B:", COLOURS, 1),
    ("(B).", COLOURS, 1),
    ("**B**", COLOURS, 1),
    ("**(B)**", COLOURS, 1),
    ("`B`", COLOURS, 1),
    ('"B"', COLOURS, 1),
    ("'b'", COLOURS, 1),
    ("  B  \n", COLOURS, 1),
    ("\\boxed{B}", COLOURS, 1),
    ("Ｂ", COLOURS, 1),
    ("B. green", COLOURS, 1),
    ("b) green", COLOURS, 1),
    ("B) green", COLOURS, 1),
    ("(B) green", COLOURS, 1),
    ("B: green", COLOURS, 1),
    ("B - green", COLOURS, 1),
    ("B – green", COLOURS, 1),
    ("B, green", COLOURS, 1),
    ("B = green", COLOURS, 1),
    ("B green", COLOURS, 1),
    ("B.green", COLOURS, 1),
    ("B.Green", COLOURS, 1),
    ("B\ngreen", COLOURS, 1),
    ("**B.** green", COLOURS, 1),
    ("green (B)", COLOURS, 1),
    ("green, B", COLOURS, 1),
    ("Answer: B", COLOURS, 1),
    ("answer: b", COLOURS, 1),
    ("Answer: (B)", COLOURS, 1),
    ("Answer B", COLOURS, 1),
    ("The answer is B", COLOURS, 1),
    ("The answer is B.", COLOURS, 1),
    ("The correct answer is (B) green.", COLOURS, 1),
    ("The correct option is B", COLOURS, 1),
    ("The best answer is: B", COLOURS, 1),
    ("My answer: green", COLOURS, 1),
    ("Final answer: green", COLOURS, 1),
    ("So the answer is green.", COLOURS, 1),
    ("Therefore, the answer is B.", COLOURS, 1),
    ("Option B", COLOURS, 1),
    ("option (b)", COLOURS, 1),
    ("Option B: green", COLOURS, 1),
    ("Choice B", COLOURS, 1),
    ("I think it is green", COLOURS, 1),
    ("I think it is option B", COLOURS, 1),
    ("It is green.", COLOURS, 1),
    ("it's green", COLOURS, 1),
    ("green", COLOURS, 1),
    ("Green", COLOURS, 1),
    ("GREEN ", COLOURS, 1),
    ("green.", COLOURS, 1),
    ("green!", COLOURS, 1),
    ('"green"', COLOURS, 1),
    ("“green”", COLOURS, 1),
    ("(green)", COLOURS, 1),
    ("the green", COLOURS, 1),
    ("The ball is green", COLOURS, 1),
    ("a green car", COLOURS, 1),
    ("A red ball", COLOURS, 0),
    ("A blue ball", COLOURS, 2),
    ("A blue", COLOURS, 2),
    ("A red", COLOURS, 0),
    ("I", COLOURS, None),
    ("A", COLOURS, 0),
    ("a", COLOURS, 0),
    ("It is A", COLOURS, 0),
    ('{"answer": "B"}', COLOURS, 1),
    ('{"answer": "green"}', COLOURS, 1),
    ('{"Answer": "b) green"}', COLOURS, 1),
    ("B because the ball is round", COLOURS, 1),
    ("B) because the ball is round", COLOURS, 1),
    ("E", COLOURS, None),
    ("(Z)", COLOURS, None),
    ("BB", COLOURS, None),
    ("AB", COLOURS, None),
    ("A & B", COLOURS, None),
    ("B and C", COLOURS, None),
    ("Both A and B", COLOURS, None),
    ("A. A car that is green", COLOURS, None),
    ("It is either B or C", COLOURS, None),
    ("The answer is B, not A", COLOURS, None),
    ("green, not red", COLOURS, None),
    ("I am sure it is green", COLOURS, 1),
    ("I'd say B", COLOURS, 1),
    ("A: red\nB: green", COLOURS, None),
    ("A and B", COLOURS, None),
    ("A or B", COLOURS, None),
    ("A, B", COLOURS, None),
    ("A/B", COLOURS, None),
    ("(A) (B)", COLOURS, None),
    ("B. red", COLOURS, None),
    ("(B) red", COLOURS, None),
    ("B: it is red", COLOURS, None),
    ("B red", COLOURS, None),
    ("Option B, red", COLOURS, None),
    ("red or green", COLOURS, None),
    ("red and green", COLOURS, None),
    ("red, green, blue, yellow", COLOURS, None),
    ("purple", COLOURS, None),
    ("not red", COLOURS, None),
    ("It isn't red", COLOURS, None),
    ("It is not red", COLOURS, None),
    ("neither", COLOURS, None),
    ("", COLOURS, None),
    ("...", COLOURS, None),
    ("()", COLOURS, None),
    ("?", COLOURS, None),
    ("redgreen", COLOURS, None),
    ("I do not know", COLOURS, None),
    ("opens the door", ACTIONS, 0),
    ("Opens the door.", ACTIONS, 0),
    ("opens the door and leaves", ACTIONS, 1),
    ("The man opens the door and leaves.", ACTIONS, 1),
    ("He opens the door, then waits", ACTIONS, 0),
    ("B. Opens the door and leaves", ACTIONS, 1),
    ("A. Opens the door and leaves", ACTIONS, None),
    ("sits down", ACTIONS, 2),
    ("doesn't move", ACTIONS, 3),
    ("Doesn’t move", ACTIONS, 3),
    ("doesnt move", ACTIONS, 3),
    ("He doesn't move", ACTIONS, 3),
    ("A ball", NESTED, 0),
    ("a ball", NESTED, 0),
    ("ball", NESTED, 0),
    ("A red ball", NESTED, 1),
    ("a red ball.", NESTED, 1),
    ("red ball", NESTED, 1),
    ("Two red balls", NESTED, 2),
    ("no ball", NESTED, 3),
    ("A: a ball", NESTED, 0),
    ("A. a red ball", NESTED, None),
    ("B. A red ball", NESTED, 1),
    ("Yes", YES_NO, 0),
    ("yes.", YES_NO, 0),
    ("No", YES_NO, 1),
    ("No, he does not.", YES_NO, 1),
    ("Yes, it isn't moving", YES_NO, 0),
    ("A", YES_NO, 0),
    ("B. No", YES_NO, 1),
    ("A. No", YES_NO, None),
    ("yes and no", YES_NO, None),
    ("1", DIGITS, 2),
    ("2", DIGITS, 0),
    ("10", DIGITS, 3),
    ("(1)", DIGITS, 2),
    ("A", DIGITS, 0),
    ("C. 1", DIGITS, 2),
    ("C) 10", DIGITS, None),
    ("There are 3 dogs", DIGITS, 1),
    ("1 or 2", DIGITS, None),
    ("4", DIGITS, None),
    ("A", SWAPPED, None),
    ("b", SWAPPED, None),
    ("(A)", SWAPPED, 0),
    ("A. B", SWAPPED, 0),
    ("(A) B", SWAPPED, 0),
    ("A", IN_ORDER, 0),
    ("(c)", IN_ORDER, 2),
    ("D. D", IN_ORDER, 3),
    ("-5", SIGNS, 0),
    ("5", SIGNS, 1),
    ("+5", SIGNS, 2),
    ("5%", SIGNS, 3),
    ("−5", SIGNS, 0),
    ("5.", SIGNS, 1),
    ("A. -5", SIGNS, 0),
    ("00:05", TIMES, 0),
    ("01:05", TIMES, 2),
    ("0.5", TIMES, 3),
    ("D. 0.5", TIMES, 3),
    ("The man is cooking", SENTENCES, 0),
    ("The man isn't cooking", SENTENCES, 1),
    ("none of the above", SENTENCES, 2),
    ("C", SENTENCES, 2),
    ("C++", CODES, 0),
    ("C#", CODES, 1),
    ("java", CODES, 3),
    ("(C)", CODES, 2),
    ("A. C++", CODES, 0),
    ("A and B", STATES, 0),
    ("Only A", STATES, 1),
    ("only b.", STATES, 2),
    ("(B) Only A", STATES, 1),
    ("Neither", STATES, 3),
    ("Only C", STATES, None),
    ("vitamin C", VITAMINS, 2),
    ("It is vitamin C.", VITAMINS, 2),
    ("vitamin D", VITAMINS, None),
    ("(D)", VITAMINS, 3),
    ("I choose (D)", VITAMINS, 3),
    ("D. vitamin E", VITAMINS, 3),
]

# answer, number or None
NUMBERS = [
    ("3", 3),
    ("3.0", 3),
    (" 3 ", 3),
    ("3.", 3),
    ("-3", -3),
    ("−3", -3),
    ("+3", 3),
    (".5", 0.5),
    ("0.50", 0.5),
    ("1,234", 1234),
    ("1,234,567.5", 1234567.5),
    ("1234567", 1234567),
    ("3 m", 3),
    ("3m", 3),
    ("3.5 meters", 3.5),
    ("about 3", 3),
    ("~3", 3),
    ("$3", 3),
    ("3 m2", 3),
    ("3 m^2", 3),
    ("3.5e2", 350),
    ("1e-3", 0.001),
    ("50%", 50),
    ("1/2", 0.5),
    ("3 / 4", 0.75),
    ("1 1/2", 1.5),
    ("-1/2", -0.5),
    ("three", 3),
    ("Three.", 3),
    ("twenty", 20),
    ("zero", 0),
    ("three (3)", 3),
    ("3 (three) dogs", 3),
    ("There are twelve birds.", 12),
    ("The answer is 7.", 7),
    ("**7**", 7),
    ("\\boxed{7}", 7),
    ("7 people", 7),
    ("x = 7", 7),
    ("½", 0.5),
    ("1½", 1.5),
    ("3 thousand", None),
    ("two dozen", None),
    ("12:30", None),
    ("3 or 4", None),
    ("2 cats and 3 dogs", None),
    ("3-4", None),
    ("two or three", None),
    ("1/0", None),
    ("many", None),
    ("someone", None),
    ("", None),
    ("NaN", None),
    ("inf", None),
    ("1e999", None),
]

# answer, (start, end) or None
SPANS = [
    ("65 - 80", (65, 80)),
    ("65-80", (65, 80)),
    ("65 -80", (65, 80)),
    ("65–80", (65, 80)),
    ("65 to 80", (65, 80)),
    ("65.0 to 80.0 seconds", (65, 80)),
    ("65s-80s", (65, 80)),
    ("65 s - 80 s", (65, 80)),
    ("from 65 s to 80 s", (65, 80)),
    ("From 65 to 80 seconds.", (65, 80)),
    ("between 65 and 80 seconds", (65, 80)),
    ("65, 80", (65, 80)),
    ("65,80", (65, 80)),
    ("(65, 80)", (65, 80)),
    ("[65, 80]", (65, 80)),
    ("[65.5, 80.25]", (65.5, 80.25)),
    ("[[65, 80]]", (65, 80)),
    ("[65s, 80s]", (65, 80)),
    ('["65", "80"]', (65, 80)),
    ('["1:05", "1:20"]', (65, 80)),
    ('{"start": 65, "end": 80}', (65, 80)),
    ('{"start": "1:05", "end": "1:20"}', (65, 80)),
    ('{"start_time": 65, "end_time": 80}', (65, 80)),
    ('{"span": [65, 80]}', (65, 80)),
    ('{"timestamps": [[65, 80]]}', (65, 80)),
    ('{"time": "65 - 80"}', (65, 80)),
    ('```json\n{"start": 65, "end": 80}\n```', (65, 80)),
    ("1:05 - 1:20", (65, 80)),
    ("01:05-01:20", (65, 80)),
    ("00:01:05 - 00:01:20", (65, 80)),
    ("00:01:05.500 --> 00:01:20.250", (65.5, 80.25)),
    ("00:01:05,500 --> 00:01:20,250", (65.5, 80.25)),
    ("01:02:03.5 to 01:02:04", (3723.5, 3724)),
    ("1:05, 1:20", (65, 80)),
    ("1:05,1:20", (65, 80)),
    ("1m05s to 1m20s", (65, 80)),
    ("1 min 5 s to 1 min 20 s", (65, 80)),
    ("1 minute and 5 seconds to 1 minute and 20 seconds", (65, 80)),
    ("1h2m3s - 1h2m4s", (3723, 3724)),
    ("1 to 2 minutes", (60, 120)),
    ("1.5 min - 2 min", (90, 120)),
    ("500 ms to 1500 ms", (0.5, 1.5)),
    ("Start: 65, End: 80", (65, 80)),
    ("start=65.0 end=80.0", (65, 80)),
    ("The event happens from 65.0s to 80.0s.", (65, 80)),
    ("65.0s ~ 80.0s", (65, 80)),
    ("0 - 5", (0, 5)),
    ("5 - 5", (5, 5)),
    ("<65, 80>", (65, 80)),
    ("1:05min to 1:20min", (65, 80)),
    ("90min to 92min", (5400, 5520)),
    ("65 seconds to 1 minute 20 seconds", (65, 80)),
    ("5e1 to 8e1", None),
    ("80 - 65", None),
    ("65", None),
    ("65 to 80 to 90", None),
    ("from 65 to 80 (15 seconds)", None),
    ("-5 to 80", None),
    ("5 to -80", None),
    ("1:75 - 2:00", None),
    ("", None),
    ("never", None),
    ("nan to nan", None),
    ("[65]", None),
    ("[]", None),
    ("{}", None),
    ("[65, NaN]", None),
    ("[65, Infinity]", None),
    ("[true, false]", None),
    ("[[1, 2], [3, 4]]", None),
    ('{"start": 65}', None),
    ("[" * 3000, None),
    ("9" * 3000, None),
]

# answer, words, span
GROUNDED = [
    ("red, from 2.0 to 4.0", "red", (2, 4)),
    ("red, from 2.0 s to 4.0 s", "red", (2, 4)),
    ("red 2 to 4", "red", (2, 4)),
    ("red 2-4", "red", (2, 4)),
    ("red (2 to 4)", "red", (2, 4)),
    ("red [2.0, 4.0]", "red", (2, 4)),
    ("red; 2.0 - 4.0 seconds", "red", (2, 4)),
    ("red. Time: 2 - 4", "red", (2, 4)),
    ("red between 2 s and 4 s in the video", "red", (2, 4)),
    ("red, 0:02 - 0:04", "red", (2, 4)),
    ("red, start: 2, end: 4", "red", (2, 4)),
    ("Answer: red\nTime: 2 - 4", "Answer: red", (2, 4)),
    ("(B) 2.0-4.0", "(B)", (2, 4)),
    ("B. red, 2 to 4", "B. red", (2, 4)),
    ("2 dogs, from 3.0 to 4.0", "2 dogs", (3, 4)),
    ("3, from 2.0 to 4.0", "3", (2, 4)),
    ("from 2 to 4 s: red", "red", (2, 4)),
    ("2 - 4, red", "red", (2, 4)),
    ("From 2 to 4 s the ball is red", "ball is red", (2, 4)),
    ("During 2 - 4 seconds, red", "red", (2, 4)),
    ("turn it on, 2 to 4", "turn it on", (2, 4)),
    ("he turns it on at 2 to 4", "he turns it on", (2, 4)),
    ("red. It is visible from 2 s to 4 s.", "red", (2, 4)),
    ("red, and it happens between 2 and 4 seconds", "red", (2, 4)),
    ("red in the interval [2, 4]", "red", (2, 4)),
    ("red, timestamps: 2-4", "red", (2, 4)),
    ("in the red car, from 2 to 4", "in the red car", (2, 4)),
    ("<2, 4> red", "red", (2, 4)),
    ("red | 2 | 4", "red", (2, 4)),
    ("(red) 2-4", "(red)", (2, 4)),
    ("no, 2 to 4", "no", (2, 4)),
    ('{"answer": "red", "start": 2, "end": 4}', "red", (2, 4)),
    ('{"answer": "red", "span": [2, 4]}', "red", (2, 4)),
    ('{"answer": "red", "time": "2 to 4"}', "red", (2, 4)),
    ("red", "red", None),
    ("red at 2", "red at 2", None),
    ("red, from 4 to 2", "red", None),
    ("2 to 4", "", (2, 4)),
]


@pytest.mark.parametrize(("answer", "options", "index"), CHOICES)
def test_choice_spellings(answer, options, index):
    found, reason = choices.choice(answers.unwrapped(answer), options)
    assert found == index and bool(reason) == (index is None), reason
    for right in range(len(options)):
        scored = score(question(options=options, answer=options[right]), f"<think>hm</think><answer>{answer}</answer>")
        assert scored.parts == {"accuracy": float(index == right), "format": 1.0}


@pytest.mark.parametrize(("answer", "value"), NUMBERS)
def test_number_spellings(answer, value):
    found, reason = answers.number(answer)
    assert found == (None if value is None else pytest.approx(value)) and bool(reason) == (value is None)


@pytest.mark.parametrize(("answer", "expected"), SPANS)
def test_span_spellings(answer, expected):
    found, reason = spans.span(answer)
    assert found == (None if expected is None else pytest.approx(expected)), reason
    assert bool(reason) == (expected is None)


@pytest.mark.parametrize(("answer", "words", "expected"), GROUNDED)
def test_grounded_spellings(answer, words, expected):
    said, found, reason = spans.answer_and_span(answer)
    assert answers.plain(said) == answers.plain(words)
    assert found == (None if expected is None else pytest.approx(expected)), reason


def test_tables_are_long_enough():
    assert len(CHOICES) + len(NUMBERS) + len(SPANS) + len(GROUNDED) >= 150


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>a</think><answer>B</answer>", 1),
        ("  <think>a\nb</think> \n <answer>B</answer>\n", 1),
        ("<think></think><answer>B</answer>", 1),
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
    assert accuracy("50%", "0.5") == accuracy("0.5", "50%") == accuracy("50", "50%") == accuracy("50%", "50") == accuracy("50 percent", "50%") == 1
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


def test_regression_reads_units():
    assert score(question("regression", answer="5.0"), "<answer>5.5 m</answer>").parts["accuracy"] == pytest.approx(0.8)


def test_open():
    def accuracy(answer, truth="The red ball."):
        return score(question("open", answer=truth), f"<answer>{answer}</answer>").parts["accuracy"]

    assert accuracy("a red ball") == accuracy("Red ball!") == 1
    assert accuracy("the big red ball") == pytest.approx(2 * 2 / 5)
    assert accuracy("ball red") == pytest.approx(0.5)
    assert accuracy("a cat") == accuracy("...") == 0
    assert accuracy('{"answer": "red ball"}') == accuracy("The answer is: red ball") == 1
    assert accuracy("It is raining", "it is raining") == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("police killed the gunman", "police kill the gunman", 0.75), ("a b c", "a b c", 1.0), ("a b", "b a", 0.5), ("", "a", 0.0)]
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
            parts = score(asked, reply).parts
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
