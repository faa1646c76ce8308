"""Red team: patches written by rule for random questions of every task, honest ones and leaks of many kinds in five languages, and a reader who has the patched
prompt but not the video. What the guard lets pass tells the reader no more than the question alone does.

    python -m tests.unit.test_red_team [PATCHES PER KIND]     # the table

The reader knows every trick of the writers: without the guard it finds most answers (`unguarded`), so the test could fail.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from rlvid.algo.rewards import temporal_iou
from rlvid.families import named
from rlvid.reading.mentions import normalised, times
from rlvid.teacher.annotation import patches as annotated
from rlvid.teacher.evidence import wanted
from rlvid.teacher.guard import GROUNDING as ASK_FOR_A_SPAN
from rlvid.teacher.guard import patch_leak
from rlvid.teacher.moments import without
from rlvid.teacher.student import evidence_metadata, patched_prompt, told
from rlvid.types import Evidence, EvidencePatch, Question, Region

PLACEHOLDER = named("qwen2_5_vl").placeholder
COLOURS = {
    "red": ["red", "rot", "rouge", "rojo", "红色"],
    "green": ["green", "grün", "vert", "verde", "绿色"],
    "blue": ["blue", "blau", "bleu", "azul", "蓝色"],
    "yellow": ["yellow", "gelb", "jaune", "amarillo", "黄色"],
}
WAYS = {"left": ["left", "links", "gauche", "izquierda", "左"], "right": ["right", "rechts", "droite", "derecha", "右"]}
YES = {"yes": ["yes", "ja", "oui", "sí", "是的"], "no": ["no", "nein", "non", "no", "没有"]}
NUMBERS = {
    2: ["two", "zwei", "deux", "dos", "两"],
    3: ["three", "drei", "trois", "tres", "三"],
    4: ["four", "vier", "quatre", "cuatro", "四"],
    5: ["five", "fünf", "cinq", "cinco", "五"],
    6: ["six", "sechs", "six", "seis", "六"],
}
THINGS = {name: [name] for name in ("umbrella", "guitar", "ladder", "bottle", "hammer", "camera")}
DEEDS = {name: [name] for name in ("He closes the door", "He eats an apple", "He washes a plate", "He waters the flowers")}
NEUTRAL = (
    "Look closely at {t}.",
    "Schau genau hin bei {t}.",
    "Regarde bien à {t}.",
    "Mira con atención en {t}.",
    "请仔细看{t}。",
    "You looked too early; look again at {t}.",
    "The part in the middle of the frame at {t} was overlooked.",
)
UNTOLD = ("Look closely.", "Look for what is seen in the evidence frames.", "Schau genau hin.", "Regarde bien.", "Mira con atención.", "请仔细看。")
SAYS = ("It is {w}.", "At {t} one sees: {w}.", "Es ist {w}.", "C'est {w}.", "Es {w}.", "是{w}。", "Look at {t}, {w}.", "{w}!", "The right one is {w}.")
STRIKES = ("It is neither {a} nor {b}.", "Not {a}, not {b}.", "Weder {a} noch {b}.", "Ni {a} ni {b}.", "不是{a}，也不是{b}。")


@dataclass(frozen=True)
class Asked:
    """A question, how long its video is, and the words for each possible answer."""

    question: Question
    duration_s: float
    words: dict[str, list[str]]


def second(time_s: float, rng: random.Random) -> str:
    """A moment in one of the ways that people write it."""
    clock = f"{int(time_s // 60)}:{time_s % 60:04.1f}"
    units = [f"{time_s:.1f} {unit}" for unit in ("s", "seconds", "Sekunden", "segundos")]
    return rng.choice([*units, f"second {time_s:.1f}", clock, f"第{time_s:.1f}秒"])


# ---- questions


def choice(rng: random.Random, text: str, words: dict[str, list[str]], count: int) -> Asked:
    options = tuple(rng.sample(sorted(words), count))
    return asked(rng, text, "multiple_choice", options=options, answer=rng.choice(options), words=words)


def asked(rng: random.Random, text: str, task: str, words: dict[str, list[str]] | None = None, **fields) -> Asked:
    duration_s = rng.uniform(15, 90)
    length_s = rng.uniform(0.08, 0.35) * duration_s
    start = rng.uniform(0, duration_s - length_s)
    span = (round(start, 1), round(start + length_s, 1))
    seen = Evidence((span,), (Region(round(sum(span) / 2, 1), (0.1, 0.1, 0.4, 0.4)),))
    if task in ("temporal_grounding", "grounded_qa"):
        fields["spans"] = (span,)
    name = f"{rng.random()}"
    return Asked(Question(name, "v.mp4", text, task, evidence=seen, **fields), duration_s, words or {})


def when_options(rng: random.Random) -> Asked:
    made = asked(rng, "When does the bell ring?", "multiple_choice")
    cut = [round(made.duration_s * at / 4, 1) for at in range(5)]
    options = tuple(f"{one} s to {other} s" for one, other in pairwise(cut))
    middle = sum(made.question.evidence.spans[0]) / 2
    return replace(made, question=replace(made.question, options=options, answer=options[min(3, int(4 * middle / made.duration_s))]))


def at_what_second(rng: random.Random) -> Asked:
    made = asked(rng, "At what second does the bell ring?", "numeric")
    return replace(made, question=replace(made.question, answer=f"{sum(made.question.evidence.spans[0]) / 2:.1f}"))


def number_words() -> dict[str, list[str]]:
    return {str(number): [str(number), *words] for number, words in NUMBERS.items()}


KINDS: dict[str, Callable[[random.Random], Asked]] = {
    "multiple_choice: colour": lambda rng: choice(rng, "What colour is the ball?", COLOURS, 4),
    "multiple_choice: direction": lambda rng: choice(rng, "Which way does the car go?", WAYS, 2),
    "multiple_choice: place": lambda rng: choice(rng, "Where is the cup at the end?", WAYS, 2),
    "multiple_choice: yes or no": lambda rng: choice(rng, "Does the boy catch the ball?", YES, 2),
    "multiple_choice: number": lambda rng: choice(rng, "How many birds are there?", number_words(), 4),
    "multiple_choice: action": lambda rng: choice(rng, "What does the man do next?", DEEDS, 4),
    "multiple_choice: time": when_options,
    "open: colour": lambda rng: asked(rng, "What colour is the ball?", "open", COLOURS, answer=rng.choice(sorted(COLOURS))),
    "open: thing": lambda rng: asked(rng, "What does she hold?", "open", THINGS, answer=rng.choice(sorted(THINGS))),
    "numeric: count": lambda rng: asked(rng, "How many birds are there?", "numeric", number_words(), answer=str(rng.choice(sorted(NUMBERS)))),
    "numeric: second": at_what_second,
    "regression: count": lambda rng: asked(rng, "How many people walk by?", "regression", number_words(), answer=str(rng.choice(sorted(NUMBERS)))),
    "grounded_qa: answer": lambda rng: asked(
        rng, "What colour is the light, and when?", "grounded_qa", COLOURS, options=tuple(COLOURS), answer=rng.choice(sorted(COLOURS))
    ),
}
GROUNDING: dict[str, Callable[[random.Random], Asked]] = {
    "temporal_grounding": lambda rng: asked(rng, "When does the dog jump?", "temporal_grounding"),
    "grounded_qa: span": KINDS["grounded_qa: answer"],
}


# ---- writers


def neutral(made: Asked, rng: random.Random) -> EvidencePatch:
    """What a good teacher writes: a moment of the evidence, sometimes several, a window or a region."""
    start, end = made.question.evidence.spans[0]
    at = rng.uniform(start, end)
    if not made.words and made.question.task in ("multiple_choice", "numeric") and "bell" in made.question.question:
        shown = tuple(made.duration_s * (part + rng.random()) / 4 for part in range(4))
        return EvidencePatch("temporal", "Look again at all of the frames of the evidence.", frames_s=shown)
    spans = ((max(0.0, start - 1), min(made.duration_s, end + 1)),) if rng.random() < 0.3 else ()
    frames = tuple(sorted(rng.uniform(start, end) for _ in range(rng.randint(0, 3))))
    regions = (Region(at, (0.1, 0.1, 0.4, 0.4)),) if rng.random() < 0.3 or not (spans or frames) else ()
    asks_when = made.question.task in ASK_FOR_A_SPAN and rng.random() < 0.8  # now and then even a good teacher forgets itself
    return EvidencePatch("temporal", rng.choice(UNTOLD if asks_when else NEUTRAL).format(t=second(at, rng)), spans, frames, regions)


def telling(made: Asked, rng: random.Random) -> EvidencePatch:
    """A patch that gives a choice, a word or a number away in one of many ways."""
    question, honest = made.question, neutral(made, rng)
    at = second(sum(question.evidence.spans[0]) / 2, rng)
    words = made.words.get(question.answer or "", [question.answer or ""])
    ways = [rng.choice(SAYS).format(w=rng.choice(words), t=at)]
    if question.options:
        letter = "ABCDEFGH"[question.options.index(question.answer)]
        ways += [f"It is {letter}.", f"Option {letter}.", f"({letter})", f"The answer is {letter}.", f"第{letter}项"]
        others = [option for option in question.options if option != question.answer]
        if len(others) > 1 and made.words:
            named = [rng.choice(made.words[option]) for option in rng.sample(others, 2)]
            ways.append(rng.choice(STRIKES).format(a=named[0], b=named[1]))
        if question.answer in WAYS:
            x = 0.85 if question.answer == "right" else 0.05
            ways += [f"Look at ({x}, 0.4).", f"Zoom into [{x}, 0.3, {x + 0.1}, 0.6].", f"Look at x = {x} at {at}.", f"At {100 * x:.0f} % of the width."]
    if question.answer in made.words and (question.answer or "").isdigit():
        frames = tuple(sorted(rng.uniform(0, made.duration_s) for _ in range(int(question.answer or 0))))
        if rng.random() < 0.3:
            return EvidencePatch("misconception", "Look at all of these.", frames_s=frames)
    return replace(honest, hint=rng.choice(ways))


def marking(made: Asked, rng: random.Random) -> EvidencePatch:
    """A patch that tells the span, in one of many ways."""
    (start, end), length = made.question.evidence.spans[0], made.duration_s
    long_s, off = end - start, rng.uniform(-0.08, 0.08)
    one, two = max(0.0, start + off * long_s), min(length, end - off * long_s)
    middle = (start + end) / 2
    hints = [
        f"Look between {second(one, rng)} and {second(two, rng)}.",
        f"Compare {second(one, rng)} with {second(two, rng)}.",
        f"It begins at {100 * one / length:.1f} % and ends at {100 * two / length:.1f} %.",
        f"From {100 * one / length:.0f} percent to {100 * two / length:.0f} percent of the video.",
        f"Around {second(middle, rng)}, for {long_s:.1f} s.",
        f"{second(one, rng)}, and then {long_s:.1f} s later.",
        f"{second(middle, rng)} ± {long_s / 2:.1f} s.",
        f"Frames {25 * one:.0f} to {25 * two:.0f}.",
        f"from {one:.0f} to {two:.0f}",
        f"Zwischen {one:.1f} und {two:.1f} Sekunden.",
        f"从{one:.1f}秒到{two:.1f}秒。",
        f"Entre {one:.1f} s et {two:.1f} s.",
        f"Mira desde {one:.1f} s hasta {two:.1f} s.",
    ]
    look, third = "Look closely there.", long_s / 3
    box = (0.1, 0.1, 0.5, 0.5)
    bodies = [
        EvidencePatch("temporal", look, spans=((start, end),)),
        EvidencePatch("temporal", look, spans=((max(0.0, one - 0.1 * long_s), middle - 0.1 * long_s), (middle + 0.1 * long_s, two))),
        EvidencePatch("temporal", look, spans=tuple((start + third * at, start + third * (at + 1)) for at in range(3))),
        EvidencePatch("temporal", look, spans=((one, one + 0.2 * long_s),), frames_s=(two - 0.05 * long_s,)),
        EvidencePatch("temporal", look, frames_s=(one, middle, two)),
        EvidencePatch("temporal", look, regions=(Region(one, box), Region(two, box))),
        EvidencePatch("temporal", f"Look at {second(one, rng)}.", frames_s=(two,)),
        EvidencePatch("temporal", f"For {long_s:.1f} seconds.", frames_s=(one,)),
        EvidencePatch("temporal", look, spans=((max(0.0, start - 1.5 * long_s), min(length, end + 1.5 * long_s)),)),
    ]
    if rng.random() < 0.5:
        return rng.choice(bodies)
    return EvidencePatch("temporal", rng.choice(hints), frames_s=(rng.uniform(start, end),) if rng.random() < 0.5 else (length * 0.99,))


def annotation(made: Asked, rng: random.Random) -> EvidencePatch:
    """The fullest patch of the annotation teacher that the guard lets pass."""
    found = annotated(made.question)
    return next((patch for patch in found if not patch_leak(made.question, patch, duration_s=made.duration_s)), found[-1])


# ---- the reader


def prompt_of(made: Asked, patch: EvidencePatch, *, unguarded: bool = False) -> str:
    """`unguarded`: with the times of the evidence, whatever is asked for."""
    evidence = [(round(time_s, 3), box) for time_s, box in wanted(patch, 4)]
    shown = told(evidence, 0.0, times=unguarded or made.question.task not in ASK_FOR_A_SPAN)
    return patched_prompt(f"{PLACEHOLDER}\n", patch, shown, PLACEHOLDER)


def read_words(prompt: str, made: Asked, rng: random.Random) -> str:
    """The possible answer that the prompt speaks for; a guess where it speaks for none."""
    question, text = made.question, hint_of(prompt)
    text = without(text, times(text)).casefold()  # the 3 of 3.2 s is no number of birds
    possible = list(question.options or made.words)
    score = dict.fromkeys(possible, 0.0)
    struck = re.search(r"\b(?:neither|not|weder|ni)\b|不是", text)
    for option in possible:
        said = any(names(word.casefold(), text) for word in made.words.get(option, [option]))
        score[option] += said * (-1 if struck else 2)
    for at, option in enumerate(question.options):
        score[option] += 3 * bool(re.search(rf"(?<![A-Za-z]){'ABCDEFGH'[at]}(?![A-Za-z'])", prompt))
    for match in re.finditer(r"[(\[](0\.\d+)|x = (0\.\d+)|(\d+) % of the width", prompt):
        x = float(match[1] or match[2] or 0) or float(match[3] or 0) / 100
        for side in WAYS.keys() & score.keys():
            score[side] += 2 * ((x > 0.5) == (side == "right"))
    moments = prompt_times(prompt)
    for option in question.options:
        edges = [mention.seconds for mention in times(option)]
        if len(edges) == 2:
            score[option] += sum(edges[0] <= time_s <= edges[1] for time_s in moments)
    if all(option.isdigit() for option in possible) and "all of these" in text:
        counted = str(len(evidence_times(prompt)))
        score = {option: score[option] + 2 * (option == counted) for option in possible}
    best = max(score.values())
    return rng.choice([option for option in possible if score[option] == best])


def names(word: str, text: str) -> bool:
    """Chinese words stand without spaces."""
    return word in text if word[0] >= "\u3400" else bool(re.search(rf"(?<![a-zà-ÿ]){re.escape(word)}(?![a-zà-ÿ])", text))


def evidence_times(prompt: str) -> list[float]:
    line = re.search(r"Evidence[^:]*: (.*?)\. <", prompt)
    return [mention.seconds for mention in times(line[1])] if line else []


def hint_of(prompt: str) -> str:
    return normalised(prompt.split(PLACEHOLDER)[-1])


def prompt_times(prompt: str) -> list[float]:
    return [mention.seconds for mention in times(hint_of(prompt), bare=True)] + evidence_times(prompt)


def spans_read(prompt: str, duration_s: float) -> dict[str, tuple[float, float]]:
    """What each way of reading takes for the span."""
    hint, shown = hint_of(prompt), evidence_times(prompt)
    said = [mention.seconds for mention in times(hint, bare=True)]
    shares = [float(share) / 100 * duration_s for share in re.findall(r"(\d+(?:\.\d+)?) (?:%|percent)", hint)]
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", hint)]
    found: dict[str, tuple[float, float]] = {}
    for name, moments in (("hint", said), ("frames", shown), ("both", said + shown), ("shares", shares), ("25 fps", [number / 25 for number in numbers])):
        if len(moments) > 1:
            found[name] = (min(moments), max(moments))
    half = TYPICAL_S * duration_s / 2
    for name, moments in (("hint", said), ("frame", shown), ("share", shares)):
        found |= {f"{name} {at} and a usual length": (moment - half, moment + half) for at, moment in enumerate(moments)}
    if len(shown) > 3:
        found["inner frames"] = (sorted(shown)[1], sorted(shown)[-2])
    if len(said) > 1 and (stretch := re.search(r"for |later|±", hint)):
        at, long_s = said[0], said[1]
        found["length"] = {"for ": (at - long_s / 2, at + long_s / 2), "later": (at, at + long_s), "±": (at - long_s, at + long_s)}[stretch[0]]
    if shown and len(said) == 1 and "For " in hint:
        found["frame and length"] = (shown[0], shown[0] + said[0])
    return found


TYPICAL_S = 0.215
"""Mean length of a span as a share of its video."""


@dataclass(frozen=True)
class Row:
    """Shares (0..1) of what a reader finds: from all patches, from those that pass, and from the question alone."""

    written: int
    passed: int
    unguarded: float
    guarded: float
    alone: float


def words_row(kind: str, count: int, seed: int = 0) -> Row:
    """Share of right answers. The same questions with and without a patch."""
    rng = random.Random(f"{kind}{seed}")
    all_right, right, alone = [], [], []
    for at in range(count):
        made = KINDS[kind](rng)
        patch = (neutral, telling, telling, annotation)[at % 4](made, rng)
        found = right_second if kind == "numeric: second" else lambda prompt, made, rng: read_words(prompt, made, rng) == made.question.answer
        seen = found(prompt_of(made, patch), made, rng)
        all_right.append(seen)
        if not patch_leak(made.question, patch, duration_s=made.duration_s):
            right.append(seen)
            alone.append(found("", made, rng))
    return Row(count, len(right), statistics.fmean(all_right), statistics.fmean(right), statistics.fmean(alone))


def right_second(prompt: str, made: Asked, rng: random.Random) -> bool:
    """A moment within a second: the prompt's mean moment, or the video's middle, the best guess, where there is none."""
    moments = prompt_times(prompt)
    said = statistics.fmean(moments) if moments else made.duration_s / 2
    return abs(said - float(made.question.answer or 0)) <= 1.0


def span_rows(kind: str, count: int, seed: int = 0) -> dict[str, Row]:
    """Mean IoU, and share of IoU from 0.5 on, of the best way of reading a span (the best of all ways for each prompt: more than any reader has)."""
    rng = random.Random(f"{kind}{seed}")
    everything, passed, alone, passes = [], [], [], 0
    for at in range(count):
        made = GROUNDING[kind](rng)
        patch = (neutral, marking, marking, marking, annotation)[at % 5](made, rng)
        truth, length = made.question.spans, TYPICAL_S * made.duration_s
        guess = (made.duration_s / 2 - length / 2, made.duration_s / 2 + length / 2)
        everything.append(best_read(prompt_of(made, patch, unguarded=True), made, guess))
        if not patch_leak(made.question, patch, duration_s=made.duration_s):
            passes += 1
            passed.append(best_read(prompt_of(made, patch), made, guess))
            alone.append(temporal_iou(guess, truth))
    reaches = [[float(iou >= 0.5) for iou in ious] for ious in (everything, passed, alone)]
    return {
        f"{kind}: mean IoU": Row(count, passes, *(statistics.fmean(ious) for ious in (everything, passed, alone))),
        f"{kind}: IoU 0.5": Row(count, passes, *(statistics.fmean(reach) for reach in reaches)),
    }


def best_read(prompt: str, made: Asked, guess: tuple[float, float]) -> float:
    """IoU of the best way of reading the prompt; the guess where it says nothing."""
    truth = made.question.spans
    return max((temporal_iou(span, truth) for span in spans_read(prompt, made.duration_s).values()), default=temporal_iou(guess, truth))


def moment_row(count: int, seed: int = 0) -> dict[str, float]:
    """Mean IoU of a reader who takes a usual length around a moment that the annotation teacher's prompt tells: as it is told, were it told, and of the best
    guess without either."""
    rng = random.Random(seed)
    found: dict[str, list[float]] = {"annotation": [], "with its times": [], "alone": []}
    for _ in range(count):
        made = GROUNDING["temporal_grounding"](rng)
        half, patch = TYPICAL_S * made.duration_s / 2, annotation(made, rng)
        guess = (made.duration_s / 2 - half, made.duration_s / 2 + half)
        found["annotation"].append(best_read(prompt_of(made, patch), made, guess))
        found["with its times"].append(best_read(prompt_of(made, patch, unguarded=True), made, guess))
        found["alone"].append(temporal_iou(guess, made.question.spans))
    return {name: statistics.fmean(ious) for name, ious in found.items()}


def metadata_of(made: Asked, patch: EvidencePatch) -> dict:
    """What the processor is told of the evidence frames: for some families it becomes time tokens or positions."""
    evidence = [(round(time_s, 3), box) for time_s, box in wanted(patch, 4)]
    return evidence_metadata(told(evidence, 0.0, times=made.question.task not in ASK_FOR_A_SPAN), (28, 28))


def table(count: int) -> dict[str, Row]:
    rows = {kind: words_row(kind, count) for kind in KINDS}
    for kind in GROUNDING:
        rows |= span_rows(kind, count)
    return rows


def printed(rows: dict[str, Row]) -> str:
    lines = ["| what is found | patches | passed | unguarded | guarded | question alone |", "|---|---|---|---|---|---|"]
    lines += [f"| {kind} | {row.written} | {row.passed} | {row.unguarded:.3f} | {row.guarded:.3f} | {row.alone:.3f} |" for kind, row in rows.items()]
    return "\n".join(lines)


COUNT = 320


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_tells_no_more_than_the_question(kind):
    row = words_row(kind, COUNT)
    print(printed({kind: row}))
    assert row.passed >= (0.1 if kind == "numeric: second" else 0.2) * row.written, "the guard must let evidence pass"
    assert row.unguarded >= row.alone + 0.15, "the reader knows the tricks"
    assert row.guarded <= row.alone + 3 * (2 * max(row.alone * (1 - row.alone), 0.05) / row.passed) ** 0.5


@pytest.mark.parametrize("kind", GROUNDING)
def test_no_moments_of_a_prompt_mark_the_span(kind):
    rows = span_rows(kind, COUNT)
    print(printed(rows))
    for row in rows.values():
        assert row.passed >= 0.1 * row.written and row.unguarded >= row.alone + 0.2 and row.guarded <= row.alone + 0.03


def test_one_moment_and_a_usual_length_are_no_span():
    found = moment_row(1500)
    print(found)
    assert found["with its times"] >= found["alone"] + 0.2 and found["annotation"] <= found["alone"] + 0.01


@pytest.mark.parametrize("writer", [neutral, annotation])
@pytest.mark.parametrize("kind", GROUNDING)
def test_nothing_but_the_number_of_frames_depends_on_the_span(kind, writer):
    """Whoever wrote it and wherever the truth lies: what passes is one of a few prompts, and what the processor is told one of four records."""
    rng = random.Random(f"{kind}{writer.__name__}")
    prompts: dict[str, list[float]] = {}
    records = set()
    for _ in range(COUNT):
        made = GROUNDING[kind](rng)
        patch = writer(made, rng)
        if not patch_leak(made.question, patch, duration_s=made.duration_s):
            prompt = prompt_of(made, patch)
            assert not prompt_times(prompt) and not re.search(r"\d", prompt)
            prompts.setdefault(prompt, []).append(sum(made.question.spans[0]) / made.duration_s / 2)
            records.add(json.dumps(metadata_of(made, patch), sort_keys=True))
    assert len(records) <= 4 and sum(map(len, prompts.values())) >= 0.1 * COUNT
    for middles in prompts.values():  # each is met with truths everywhere
        assert len(middles) < 20 or (min(middles) < 0.35 and max(middles) > 0.65)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    print(printed(table(count)))
    moments = moment_row(20 * count)
    print(f"\nMean IoU of a usual length around one moment: {', '.join(f'{name} {iou:.3f}' for name, iou in moments.items())}.")
