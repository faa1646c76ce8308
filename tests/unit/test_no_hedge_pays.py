"""No reply earns more on average, over what the truth may be, than its best single guess: for every task, over generated truths, priors and replies.

A question is asked once; what is right is one of several `truths`, each with its probability. The single guesses are the truths themselves, written plainly.
"""

from __future__ import annotations

import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.algo.rewards import Marking, score, set_iou, total
from rlvid.algo.scores import open_match
from rlvid.reading import answers
from rlvid.types import Question

WEIGHTS = {"accuracy": 1.0, "temporal_iou": 1.0, "format": 1.0}
WORDS = ("red", "green", "blue", "car", "dog", "left", "right", "yes", "no", "not", "runs", "sits", "three", "3", "the", "a", "or", "ball", "video", "in", "it")
EXAMPLES = settings(max_examples=25, deadline=None)


def earned(truths, reply, weights=None, marking=Marking()):
    """Mean reward of a reply over the truths, each a question of its own with its probability."""
    text = f"<think>so</think><answer>{reply}</answer>"
    return sum(p * total(score(question, text, marking), weights or WEIGHTS) for question, p in truths)


def asked(task, text="What is it?", **fields):
    return Question("q", "/v.mp4", text, task, **fields)


@st.composite
def priors(draw, count):
    parts = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    return [part / sum(parts) for part in parts]


def listed(guesses):
    """Replies that give several guesses at once."""
    one, *others = guesses
    last = others[-1] if others else one
    yield from (joint.join(guesses) for joint in (", ", " or ", " and ", "/", " ", "; ", ". ", "\n", " / ", ", or ", " (", " but ", " | ", " = "))
    yield from (f"either {one} or {last}", f"{one}, maybe {last}", f"{one} (or {last})", f"not {one} but {last}", f"{one}, not {last}", f"maybe {one}")
    yield from (f"It is {one} or {last}.", f"It could be {one}. It could be {last}.", f"The answer is {one}. The answer is {last}.", f"{one}? {last}?")
    yield from (f"[{', '.join(guesses)}]", '["' + '", "'.join(guesses) + '"]', f'{{"answer": ["{one}", "{last}"]}}', f'{{"answer": "{one} or {last}"}}')
    yield from (f"no {one}", f"{one} {one} {last}", f"{one} is not {last}", f"I think {one}, but {last} is possible", f"{one}\n\n{last}", f"**{one}** {last}")
    yield "".join(guesses)


def hedges(guesses):
    """As `listed`, for some of the guesses too."""
    yield from listed(guesses)
    if len(guesses) > 2:
        yield from listed(guesses[:2])


def no_hedge_pays(truths, singles, replies, **how):
    best = max(earned(truths, single, **how) for single in singles)
    for reply in replies:
        assert earned(truths, reply, **how) <= best + 1e-9, reply


# --- one task after the other


@EXAMPLES
@given(st.data())
def test_multiple_choice(data):
    options = tuple(data.draw(st.lists(st.sampled_from(WORDS[:14]), min_size=2, max_size=5, unique=True)))
    weights = data.draw(priors(len(options)))
    truths = [(asked("multiple_choice", options=options, answer=option), p) for option, p in zip(options, weights, strict=True)]
    guesses = data.draw(st.permutations(options))
    letters = [string.ascii_uppercase[options.index(guess)] for guess in guesses]
    free = data.draw(st.lists(st.sampled_from((*WORDS, *"ABC,.()", "not", "answer")), max_size=6).map(" ".join))
    no_hedge_pays(truths, [f"({letter})" for letter in letters], [*hedges(guesses), *hedges(letters), free])


@EXAMPLES
@given(st.data())
def test_equal_wrong_options_are_told_apart_by_letter_alone(data):
    options = ("red", "red", "blue", "green")
    question = asked("multiple_choice", options=options, answer=data.draw(st.sampled_from(("blue", "green"))))
    assert earned([(question, 1.0)], "red") == 1.0  # the form alone
    assert earned([(question, 1.0)], f"({'ABCD'[options.index(question.answer)]})") == earned([(question, 1.0)], question.answer) == 2.0


@EXAMPLES
@given(st.data())
def test_select_all(data):
    options = tuple(data.draw(st.lists(st.sampled_from(WORDS[:7]), min_size=3, max_size=5, unique=True)))
    sets = data.draw(st.lists(st.sets(st.sampled_from(options), min_size=1), min_size=2, max_size=4, unique_by=frozenset))
    weights = data.draw(priors(len(sets)))
    ordered = [tuple(option for option in options if option in one) for one in sets]
    truths = [(asked("multiple_choice", options=options, answer=one[0], answers=one), p) for one, p in zip(ordered, weights, strict=True)]
    singles = [", ".join(string.ascii_uppercase[options.index(option)] for option in one) for one in ordered]
    assert all(earned([(truth, 1.0)], single) == 2.0 for (truth, _), single in zip(truths, singles, strict=True))
    no_hedge_pays(truths, singles, [*hedges(singles), *hedges([" and ".join(one) for one in ordered]), ", ".join(options), "ABC", "all of them"])


@EXAMPLES
@given(st.data())
def test_open_answers_of_few_words(data):
    phrase = st.lists(st.sampled_from(WORDS[:14]), min_size=1, max_size=3).map(" ".join)
    phrases = data.draw(st.lists(phrase, min_size=2, max_size=4, unique_by=lambda words: words.replace("three", "3")))
    text = data.draw(st.sampled_from(("What is it?", "Is it red or green?", "What does the dog do, runs or sits?", "What is left of the car?")))
    truths = [(asked("open", text, answer=one), p) for one, p in zip(phrases, data.draw(priors(len(phrases))), strict=True)]
    free = data.draw(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join))
    no_hedge_pays(truths, phrases, [*hedges(phrases), free])


@EXAMPLES
@given(st.data())
def test_open_answers_with_one_place_unsure(data):
    """Sentences that differ in one word: no reply that names several words there, or none, beats the likeliest."""
    frame = data.draw(st.lists(st.sampled_from(("man", "opens", "door", "goes", "out", "house")), min_size=5, max_size=8))
    at = data.draw(st.integers(0, len(frame) - 1))
    fillers = data.draw(st.lists(st.sampled_from(("red", "green", "blue", "small")), min_size=2, max_size=4, unique=True))
    sentences = [" ".join([*frame[:at], filler, *frame[at:]]) for filler in fillers]
    truths = [(asked("open", answer=one), p) for one, p in zip(sentences, data.draw(priors(len(sentences))), strict=True)]
    joined = [joint.join(fillers[:count]) for joint in (" ", " or ", " and ", ", ") for count in range(2, len(fillers) + 1)]
    merged = [" ".join([*frame[:at], both, *frame[at:]]) for both in joined]
    no_hedge_pays(truths, sentences, [*hedges(sentences), *merged, " ".join(frame)])


@EXAMPLES
@given(st.data())
def test_no_text_at_all_beats_the_better_of_two_guesses(data):
    """Of two truths, whatever they are and however likely."""
    words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
    one, other = data.draw(words), data.draw(words)
    truths = [(asked("open", answer=truth), p) for truth, p in zip((one, other), data.draw(priors(2)), strict=True)]
    mixed = data.draw(st.permutations([*one.split(), *other.split()]).map(" ".join)) if data.draw(st.booleans()) else data.draw(words)
    no_hedge_pays(truths, (one, other), [mixed, *hedges([one, other])])


@EXAMPLES
@given(st.data())
def test_several_references(data):
    phrases = data.draw(st.lists(st.sampled_from(WORDS[:10]), min_size=4, max_size=6, unique=True))
    cut = data.draw(st.integers(1, len(phrases) - 1))
    groups = (tuple(phrases[:cut]), tuple(phrases[cut:]))
    truths = [(asked("open", answer=group[0], answers=group), p) for group, p in zip(groups, data.draw(priors(2)), strict=True)]
    assert all(earned([(truths[at][0], 1.0)], reference) == 2.0 for at, group in enumerate(groups) for reference in group)
    no_hedge_pays(truths, phrases, hedges(phrases))


@pytest.mark.parametrize("text", ["How many?", "What percentage?"])
@pytest.mark.parametrize("task", ["numeric", "regression"])
@EXAMPLES
@given(data=st.data())
def test_numbers(task, text, data):
    numbers = st.sampled_from(("1", "2", "3", "10", "12.5", "100", "0.5", "50", "1000", "-3"))
    given_numbers = data.draw(st.lists(numbers, min_size=2, max_size=4, unique=True))
    truths = [(asked(task, text, answer=one), p) for one, p in zip(given_numbers, data.draw(priors(len(given_numbers))), strict=True)]
    between = [str(number) for number in range(0, 60, 2)] + ["100%", "50%", "1%", "0.5%", "5000%"]
    singles = [*given_numbers, *between]
    if task == "numeric":  # each reading is right for one of them at most
        likeliest = max(p for _, p in truths)
        assert all(earned(truths, single) <= 1 + likeliest + 1e-9 for single in singles)
    # A reply that reads as a number of its own ("10" and "0.5" written together) is a single guess, not a mixed one.
    no_hedge_pays(truths, singles, [reply for reply in hedges(given_numbers) if answers.number(reply)[0] in (None, *map(float, given_numbers))])


def test_a_percentage_is_one_number():
    for text, right in (("How much?", "1"), ("What percentage?", "100")):
        assert [earned([(asked("numeric", text, answer=truth), 1.0)], "100%") for truth in ("1", "100")] == [1.0 + (right == truth) for truth in ("1", "100")]
    for truths in (("0.5%", "50%"), ("50%", "5000%"), ("0.5", "50"), ("1%", "100%")):
        for reply in ("0.5", "50", "50%", "0.5%", "1", "100", "100%"):
            assert sum(earned([(asked("numeric", answer=truth), 1.0)], reply) - 1 for truth in truths) <= 1


SECONDS = st.integers(0, 60).map(lambda number: number / 2)
SPANS = st.tuples(SECONDS, SECONDS).map(sorted).filter(lambda pair: pair[0] < pair[1]).map(tuple)


def written(spans):
    return " and ".join(f"{start:g} to {end:g}" for start, end in spans)


@EXAMPLES
@given(st.data(), st.sampled_from(("any", "all")))
def test_grounding_of_two_truths(data, mode):
    """No span and no list of spans beats the better of two guesses, whatever they are and however likely."""
    most = 1 if mode == "any" else 3
    sets = [tuple(sorted(data.draw(st.lists(SPANS, min_size=1, max_size=most, unique=True)))) for _ in range(2)]
    sets = [tuple(span for at, span in enumerate(spans) if at == 0 or span[0] >= spans[at - 1][1]) for spans in sets]
    truths = [(asked("temporal_grounding", spans=spans, span_mode=mode), p) for spans, p in zip(sets, data.draw(priors(2)), strict=True)]
    both = [span for spans in sets for span in spans]
    hull = (min(start for start, _ in both), max(end for _, end in both))
    drawn = data.draw(st.lists(SPANS, min_size=1, max_size=3))
    replies = [written(both), written([hull]), written(drawn), written([hull, *both]), *hedges([written(spans) for spans in sets])]
    no_hedge_pays(truths, [written(spans) for spans in sets], replies)


@EXAMPLES
@given(st.data())
def test_grounding_of_several_places(data):
    """Places of one length side by side: to name some, all, or the whole earns no more than the likeliest."""
    count, length = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 10))
    places = [(at * 2.0 * length, at * 2.0 * length + length) for at in range(count)]
    weights = data.draw(priors(count))
    for mode in ("any", "all"):
        truths = [(asked("temporal_grounding", spans=(place,), span_mode=mode), p) for place, p in zip(places, weights, strict=True)]
        replies = [written(places[:some]) for some in range(2, count + 1)] + [written([(places[0][0], places[-1][1])])]
        no_hedge_pays(truths, [written([place]) for place in places], [*replies, *hedges([written([place]) for place in places])])


def test_several_true_spans():
    """Any: one of them is enough, and all of them are right too. All: one of three is a third of it."""
    three = ((2.0, 4.0), (6.0, 8.0), (10.0, 12.0))
    questions = {mode: asked("temporal_grounding", spans=three, span_mode=mode) for mode in ("any", "all")}
    values = {mode: [earned([(one, 1.0)], reply) - 1 for reply in ("6 to 8", written(three), "2 to 12")] for mode, one in questions.items()}
    assert values["any"] == pytest.approx([1.0, 1.0, 0.2]) and values["all"] == pytest.approx([1 / 3, 1.0, 0.6])
    assert set_iou(((1.0, 1.0),), ((1.0, 1.0),)) == 1.0 and set_iou((), three) == set_iou(three, ()) == set_iou(((3.0, 1.0),), three) == 0.0
    assert set_iou(((0.0, 4.0), (2.0, 6.0)), ((0.0, 6.0),)) == 1.0


@EXAMPLES
@given(st.data())
def test_grounded_qa(data):
    options = ("red", "green", "blue")
    places = [(0.0, 4.0), (6.0, 10.0)]
    pairs = [(option, place) for option in options for place in places]
    weights = data.draw(priors(len(pairs)))
    with_options = data.draw(st.booleans())
    truths = [
        (asked("grounded_qa", options=options if with_options else (), answer=option, spans=(place,)), p)
        for (option, place), p in zip(pairs, weights, strict=True)
    ]
    singles = [f"{option}, {start:g} to {end:g}" for option, (start, end) in pairs]
    replies = [f"{said}, {time}" for said in listed(options) for time in (written(places), "0 to 10", "0 to 4 or 6 to 10", "0 to 4")]
    no_hedge_pays(truths, singles, [*replies, *hedges(singles[:3])])


# --- evaluation


@EXAMPLES
@given(st.data())
def test_the_benchmarks_open_match_pays_no_list(data):
    truths = data.draw(st.lists(st.sampled_from(("osmosis", "heat", "diffusion", "3", "4.25", "the water cycle")), min_size=2, max_size=4, unique=True))
    for reply in hedges(truths):
        assert sum(open_match(reply, truth, "Which process?") for truth in truths) <= 1, reply
    assert all(open_match(f"It is {truth}.", truth) and open_match(truth, truth) for truth in truths)


def test_rouge_s_f1_would_pay_for_both():
    """Why a sentence is graded by the smaller of precision and recall."""

    def f1(one, other):
        row = [0] * (len(other) + 1)
        for word in one:
            diagonal = 0
            for at, match in enumerate(other, start=1):
                diagonal, row[at] = row[at], diagonal + 1 if word == match else max(row[at], row[at - 1])
        return 2 * row[-1] / (len(one) + len(other))

    opens, closes, both = (["the", "man", "opens", "the", "door"], ["the", "man", "closes", "the", "door"], ["the", "man", "opens", "closes", "the", "door"])
    assert f1(both, opens) + f1(both, closes) > f1(opens, opens) + f1(opens, closes)
    assert all(len(one) <= len(other) for one, other in pairwise((opens, closes, both)))
