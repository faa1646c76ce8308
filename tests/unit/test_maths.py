"""Answers that are formulas: what is read, what is equal, and texts that no library comes to an end with."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvid.algo.rewards import Marking, score
from rlvid.data.questions import QuestionError, check, parse_line
from rlvid.reading import maths
from rlvid.reading.maths import equal, formula, problem
from rlvid.types import Question
from tests.unit.published import write_lines
from tests.unit.test_no_hedge_pays import asked, hedges, no_hedge_pays, priors


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("$x=3$", "x=3"),
        ("$$-\\dfrac{3}{2}$$", "-\\frac{3}{2}"),
        ("\\boxed{\\frac12}", "\\frac{1}{2}"),
        ("$\\boxed{2\\pi}$", "2\\pi"),
        ("The answer is \\(2\\pi\\).", "2\\pi"),
        ("So the answer is \\[x^{2}\\]", "x^{2}"),
        ("**3/4**", "3/4"),
        ("sqrt(2)/2", "\\sqrt{2}/2"),
        ("x**2 + 2*x", "x^2 + 2\\cdot x"),
        ("2^(n+1)", "2^{n+1}"),
        ("twenty-one", "21"),
        ("3 cm", "3"),
        ("120 degrees", "120"),
        ('{"answer": "3/4"}', "3/4"),
        ("x = 1 or x = 2", "x = 1, x = 2"),
        ("$x=1$ or $x=2$", "x=1, x=2"),
        ("−5", "-5"),
    ],
)
def test_the_one_formula_of_an_answer(answer, read):
    assert formula(answer) == (read, "")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("$3$ $4$", "several formulas"),
        ("\\boxed{3} \\boxed{4}", "several formulas"),
        ("not $3$", "something else beside"),
        ("maybe $3$", "something else beside"),
        ("$3$, or 4", "something else beside"),
        ("a red ball", "no number"),
        ("$$", "empty"),
        ("$" + "x" * 501 + "$", "characters"),
    ],
)
def test_what_is_not_one_formula(answer, why):
    found, reason = formula(answer)
    assert found is None and why in reason


EQUAL = [
    ("\\frac{1}{2}", "0.5"),
    ("1/2", "\\frac12"),
    ("\\sqrt{2}", "sqrt(2)"),
    ("\\sqrt{2}", "1.414214"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\frac{\\sqrt{3}}{3}", "1/sqrt(3)"),
    ("2x+1", "1 + 2*x"),
    ("x=3", "3"),
    ("3", "$x=3$"),
    ("\\{1,2\\}", "2, 1"),
    ("1.6 \\times 10^{-19}", "16 \\times 10^{-20}"),
    ("\\{0.5, \\sqrt{2}\\}", "\\{\\sqrt{2}, \\frac{1}{2}\\}"),
    ("x=1 or x=2", "$x=2$ or $x=1$"),
    ("1<x<2", "(1,2)"),
    ("30^\\circ", "30 degrees"),
    ("1,234", "1234"),
    ("3.5 \\times 10^{2}", "350"),
    ("\\sin^2 x + \\cos^2 x", "1"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix} 1 & 2 \\end{pmatrix}"),
]
DIFFERENT = [
    ("\\sqrt{2}", "1.41"),
    ("\\pi", "3.14"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "$[1,2]$"),
    ("x=3", "y=3"),
    ("3", "3=3"),
    ("x=3", "3=3"),
    ("3", "0/0"),
    ("3", "\\infty"),
    ("10^{-9}", "0"),
    ("1.6 \\times 10^{-19}", "9.1 \\times 10^{-31}"),
    ("6.6 \\times 10^{-34}", "-6.6 \\times 10^{-34}"),
    ("\\{10^{-19}, 1\\}", "\\{10^{-18}, 1\\}"),
    ("\\{1, 2\\}", "\\{1\\}"),
    ("0", "10^{-9}"),
    ("2", "\\pm 2"),
    ("\\pm 2", "2"),
    ("3", "\\{3,4\\}"),
    ("50", "50%"),
    ("5", "x"),
    ("x^2", "x^{-2}"),
    ("12", "3 \\times 4"),
    ("12", "4 3"),
    ("12", "(3)(4)"),
    ("5", "2+3"),
]


@pytest.mark.parametrize(("truth", "said"), EQUAL)
def test_equal(truth, said):
    assert equal(said, truth) == (True, "")


@pytest.mark.parametrize(("truth", "said"), DIFFERENT)
def test_different(truth, said):
    assert not equal(said, truth)[0]


def test_to_repeat_the_sum_of_the_question_is_no_answer():
    assert equal("17 \\times 23", "391") == (False, "the answer is not worked out")
    assert equal("391", "391")[0] and equal("3.91 \\times 10^{2}", "391")[0] and equal("-391", "-391")[0]


def test_a_tolerance_is_relative():
    question = asked("math", answer="\\sqrt{2}")
    parts = [score(question, "<answer>1.42</answer>", Marking(tolerance)).parts["accuracy"] for tolerance in (0.0, 0.001, 0.01)]
    assert parts == [0.0, 0.0, 1.0]


def test_percentages_are_read_as_numbers_are():
    """Asked for one, the sign may be left out; else 50% is 0.5 and 50 is another number."""
    said = ["50", "50%", "50\\%", "$50\\%$", "50 percent", "0.5"]
    for text, truth, right in (("How many percent?", "50", 5), ("How many percent?", "50\\%", 5), ("How much?", "50\\%", 5), ("How much?", "0.5", 5)):
        parts = [score(asked("math", text, answer=truth), f"<answer>{one}</answer>").parts["accuracy"] for one in said]
        assert sum(parts) == right and parts[0 if "percent" not in text else -1] == 0, (text, truth, parts)


ENDLESS = ["9^{9^{9^{9}}}", "x^{" * 80, "\\sqrt{" * 60 + "2" + "}" * 60, "(" * 200 + "x" + ")" * 200, "\\int_{0}^{1} e^{x^{x^{x}}} dx", "10000000!!!"]


@pytest.mark.parametrize("text", ENDLESS)
def test_what_takes_too_long_is_worth_nothing_and_others_go_on(text):
    """In a thread, where signals cannot be set."""
    found = []
    thread = threading.Thread(target=lambda: found.append(equal(text, "x+y", deadline_s=0.5)))
    thread.start()
    thread.join(200)
    assert found and not found[0][0]
    assert equal("2x", "x+x") == (True, "")


def test_a_process_that_hears_no_signal_is_ended_and_another_one_started():
    prover = maths.Prover()
    assert prover.equal("x+x", "2x", 0.0, 5.0) == (True, "")
    first = prover._process
    first.stdin.close()  # it ends
    first.wait(30)
    assert prover.equal("y+y", "2y", 0.0, 5.0) == (True, "") and prover._process is not first
    os.kill(prover._process.pid, signal.SIGSTOP)
    found, why = prover.equal("z+z", "2z", 0.0, 0.1)
    assert found is None and "more than 0.1 s" in why and prover._process is None
    assert prover.equal("z+z", "2z", 0.0, 5.0) == (True, ""), "and it is not held against the formula"
    prover._end()


def test_many_threads_ask_at_once():
    results: dict[int, bool] = {}
    threads = [threading.Thread(target=lambda at=at: results.update({at: equal(f"{at}x", f"{at - 1}x + x")[0]})) for at in range(2, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert results == dict.fromkeys(range(2, 14), True)


def test_no_key_of_the_environment_reaches_the_process(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    prover = maths.Prover()
    prover.equal("1+x", "x+1", 0.0, 10.0)
    with open(f"/proc/{prover._process.pid}/environ", "rb") as file:
        assert b"sk-very-secret" not in file.read()
    prover._end()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(max_size=60) | st.lists(st.sampled_from(list("\\{}^_$()x2=<,") + ["\\frac", "\\sqrt", "\\text{or}", "[", "]", " or "]), max_size=14).map("".join)
)
def test_any_text_gives_a_number(text):
    parts = score(asked("math", answer="x^2"), f"<answer>{text}</answer>", Marking(math_deadline_s=1.0)).parts
    assert parts["accuracy"] in (0.0, 1.0)


TRUTHS = ("3", "4", "12", "-3", "\\frac{1}{2}", "2", "\\sqrt{2}", "x+1", "x", "\\{3,4\\}", "(3,4)", "[3,4]", "x=4", "\\pi", "\\infty", "3x", "0", "1", "\\pm 3")


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_hedge_pays_for_formulas(data):
    """Truths of which no two are equal: a reply is one formula, and is right for one of them at most."""
    guesses = data.draw(st.lists(st.sampled_from(TRUTHS), min_size=2, max_size=3, unique=True))
    guesses = [one for at, one in enumerate(guesses) if not any(equal(one, other)[0] or equal(other, one)[0] for other in guesses[:at])]
    truths = [(asked("math", answer=one), p) for one, p in zip(guesses, data.draw(priors(len(guesses))), strict=True)]
    dollars = [f"${one}$" for one in guesses]
    tricks = ["0/0", "\\infty", "3=3", "x=x", "\\text{or}", "\\{" + ",".join(guesses) + "\\}", "\\pm 3", "x", "\\mathbb{R}", "1=1", "\\emptyset", "\\top"]
    no_hedge_pays(truths, guesses, [*hedges(dollars), *hedges(guesses), *tricks])


def test_question_files(tmp_path):
    line = {"id": "q", "question": "1/2 + 1/2?", "task": "math", "answer": "$\\frac{2}{2}$"}
    (path,) = [write_lines(tmp_path / "q.jsonl", [line, line | {"id": "r", "answer": "\\frac{"}, line | {"id": "s", "answer": "a red ball"}])]
    report = check(path)
    assert report.tasks == {"math": 1} and {kind: one.count for kind, one in report.problems.items()} == {"answer: not a formula": 2}
    assert parse_line('{"id": "q", "question": "?", "task": "math", "answer": 3}', path=path, line=1).answer == "3"
    with pytest.raises(QuestionError, match=r"answer: 'a red ball' is not one formula, .* \(a math question is answered by one number or LaTeX formula\)"):
        parse_line('{"id": "q", "question": "?", "task": "math", "answer": "a red ball"}', path=path, line=1)


def test_the_reason_is_kept():
    question = Question("q", "", "?", "math", answer="\\frac{")
    assert "no formula that can be read" in score(question, "<answer>3x</answer>").reason and problem("\\frac{") and not problem("\\frac{1}{2}")
    assert score(asked("math", answer="3"), "<answer>a red ball</answer>").reason == "no number in the answer"


def test_the_process_is_asked_for_what_it_must_be(monkeypatch):
    """Plain numbers are compared here, and pairs that were compared are known."""
    began = time.perf_counter()
    monkeypatch.setattr(maths, "_PROVER", None)
    assert equal("0.5", "\\frac{1}{2}")[0] and equal("1,000", "1000")[0] and not equal("3", "4")[0] and time.perf_counter() >= began
