"""The leak guard: rules in code that refuse a hint which gives the answer away [D]. Times and places are the evidence and may stand.

Judged is what the student will read, all of it together: the hint's words, and the set of all moments in the patched prompt, be they said in the hint or
written beside the evidence frames. Where a span is asked for, any moment is part of the answer (one moment and a usual length are half of it):
such a prompt tells no time of its evidence (student.told), and a hint that tells one is refused.

A rule returns why it refuses, or "". Where a rule cannot tell, it refuses: a lost patch costs one repair, a leaked answer teaches the student to copy. The
reasons never repeat the answer, for they are shown to the teacher and may end up in its next hint.

Times of a question's clip count from its start, here as in the prompt (`Question.as_told`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations

from rlvid.algo.repair import position
from rlvid.algo.rewards import temporal_iou
from rlvid.reading import choices
from rlvid.reading.mentions import WEAK_ONES, Mention, normalised, times, value_of
from rlvid.teacher import lexicon, phrases
from rlvid.teacher.evidence import wanted
from rlvid.teacher.moments import Moments, named_moments
from rlvid.types import NUMBER_TASKS, EvidencePatch, Question, Span

GROUNDING = ("temporal_grounding", "grounded_qa")
"""Tasks that ask for a span: the times of their evidence are not told."""
GIVEAWAY_IOU = 0.5
"""Two moments that overlap a true span by this much state the span."""
NEAR_S, NEAR_SHARE = 1.0, 0.1
"""Where a moment is asked for as a number, no moment so near to it (in seconds, or as a share of it) may be named."""


def leak(question: Question, hint: str, *, duration_s: float | None = None) -> str:
    """Why this hint gives the question's answer away; "" when it does not. `duration_s`: length of what the student is shown, if known."""
    question = question.as_told()
    return _words_leak(question, hint) or _moments_leak(question, hint, (), duration_s)


def patch_leak(question: Question, patch: EvidencePatch, *, duration_s: float | None = None, shown_s: Sequence[float] | None = None) -> str:
    """Like `leak`, for the whole patch: hint, places, and the evidence frames that the student will see, at `shown_s` (None: where a patch asks for them)."""
    question = question.as_told()
    frames_s = [time_s for time_s, _ in wanted(patch, EVIDENCE_FRAMES)] if shown_s is None else list(shown_s)
    edges_s = [edge for span in patch.spans for edge in span]
    places_s = [*patch.frames_s, *(region.time_s for region in patch.regions)]
    return (
        _words_leak(question, patch.hint)
        or _moments_leak(question, patch.hint, sorted({*edges_s, *places_s, *frames_s}), duration_s)
        or _as_many_as(question, (len(patch.spans), len(set(patch.frames_s)), len(patch.regions)))
    )


EVIDENCE_FRAMES = 4
"""Evidence frames of a prompt, as repair.max_evidence_frames has it by default; those that were cut in the end are judged too."""


def _words_leak(question: Question, hint: str) -> str:
    text = normalised(hint)
    named_s = times(text)
    left = _without_evidence(text, named_s, question)
    for rule in _RULES:
        if reason := rule(question, left):
            return reason
    return _gives_a_coordinate(question, text) or _states_the_length(question, named_s)


# ---- what is evidence and not answer


def _without_evidence(text: str, named_s: Sequence[Mention], question: Question) -> str:
    """The text without times, coordinates and frame numbers, and without places unless a place or a direction is asked for: then coordinates are one."""
    for mention in sorted(named_s, key=lambda mention: -mention.start):
        text = text[: mention.start] + " " + text[mention.end :]
    text = phrases.FRAME.sub(" ", text)
    if _asks_where(question):
        return phrases.COORDINATES.sub(_in_words, text)
    return phrases.PLACE.sub(" ", phrases.COORDINATES.sub(" ", text))


def _asks_where(question: Question) -> bool:
    return bool(phrases.ASKS_WHERE.search(question.question)) or _asks_which_way(question)


def _in_words(match: re.Match[str]) -> str:
    """Where a point or a box lies: `(0.9, 0.5)` is at the right."""
    numbers = [float(number) for number in re.findall(r"\d*\.?\d+", match[0])]
    if len(numbers) not in (2, 4):
        return " "
    x1, y1, x2, y2 = numbers * (4 // len(numbers))
    return f" {' '.join(sorted(position((x1, y1, x2, y2))))} "


def _gives_a_coordinate(question: Question, text: str) -> str:
    return "it gives a coordinate where a place is asked for" if _asks_where(question) and phrases.COORDINATE.search(text) else ""


def _asks_which_way(question: Question) -> bool:
    """Whether the possible answers are directions, so that a place can be one."""
    return any(token.startswith("%") for option in (*question.options, question.answer or "") for token in lexicon.tokens(option))


# ---- talk about options, letters, words


def _talks_of_options(question: Question, text: str) -> str:
    if phrases.COMMAND.search(text):
        return "it gives orders instead of evidence"
    if lexicon.language(text) not in ("", "en", lexicon.language(question.question) or lexicon.language(text)):
        return "it is in another language than the question"
    if phrases.SPELLING.search(text):
        return "it plays on the answer's word instead of showing evidence"
    if _asks_which_way(question) and phrases.OTHER_WAY.search(text):
        return "it tells the direction by another one"
    if phrases.PICK.search(text) or phrases.OPTION.search(text) or (question.options and phrases.POSITION.search(text)):
        return "it speaks of the options or the answer instead of the video"
    return ""


_LETTER = re.compile(r"(?<![A-Za-z0-9'.\-])([A-Z])(?![A-Za-z0-9'\-])")
_LOWER_LETTER = re.compile(r"\(([a-h])\)|^\W*([a-hA-H])\W*$|\b(?:option|answer|choice|antwort|it is|it's)\W{1,3}([a-h])\W*$", re.IGNORECASE)


def _names_a_letter(question: Question, text: str) -> str:
    if not question.options:
        return ""
    allowed = choices.LETTERS[: len(question.options)]
    own = set(_LETTER.findall(question.question))
    letters = {match[1] for match in _LETTER.finditer(text) if not _is_article(text, match)}
    lower = {next(filter(None, groups)).upper() for groups in _LOWER_LETTER.findall(text)}
    return "it names an option's letter" if (letters - own | lower) & set(allowed) else ""


def _is_article(text: str, match: re.Match[str]) -> bool:
    """`A ball` holds an article, `A, C or D` and `it is A.` a letter."""
    return match[1] == "A" and bool(re.match(r" (?!or\b|and\b|is\b|fits\b)[a-zà-ÿ]", text[match.end() :]))


# ---- the answer's content


def _names_the_answer(question: Question, text: str) -> str:
    said = _said(text)
    own = lexicon.tokens(question.question)
    if question.options:
        return _narrows(question, text, [token for token in said if not _among(token, own)]) or _prefers(question, said)
    if question.task in NUMBER_TASKS:
        return ""
    for answer in question.references:
        telling = [token for token in lexicon.tokens(answer) if not _among(token, own)]
        hit = [token for token in telling if _among(token, said)]
        if hit and (len(telling) <= 3 or 2 * len(hit) >= len(telling)):
            return "it names the answer"
    return ""


def _said(text: str) -> list[str]:
    """Canonical words of the hint; also what it spells letter by letter, says backwards or hides in a likeness or a colour code."""
    joined = re.sub(r"(?<![^\W\d_])(?:[^\W\d_][ .*_-]+){2,}[^\W\d_](?![^\W\d_])", lambda match: re.sub(r"[ .*_-]", "", match[0]), text)
    said = lexicon.tokens(text) + (lexicon.tokens(joined) if joined != text else [])
    said += [lexicon.canonical(word[::-1]) for word in re.findall(r"[^\W\d_]{3,}", text)]
    said += [f"@{name}" for name, things in lexicon.LIKENESSES.items() if _likened(text, things)]
    return said + [f"@{name}" for name, code in phrases.COLOUR_CODES.items() if re.search(rf"\b{code}\b", text, re.IGNORECASE)]


def _likened(text: str, things: str) -> bool:
    latin = "|".join(thing for thing in things.split() if thing.isascii() or (thing[0].isalpha() and thing[0] < "\u3000"))
    chinese = "|".join(thing for thing in things.split() if thing[0] >= "\u3400")
    # `like a ripe tomato`, `the colour of the sky`: up to two words may stand between.
    return bool(re.search(rf"\b{phrases.LIKE}(?: \w+){{0,3}}[ -](?:{latin})\b", text, re.IGNORECASE)) or bool(
        chinese and re.search(rf"[像和与如同](?:{chinese})", text)
    )


def _narrows(question: Question, text: str, said: list[str]) -> str:
    """Whether the words fit some options better than others: also wrong ones, for a guard that passed those alone would strike them out by passing them."""
    contents = [_content(option, question.options) for option in question.options]
    answer = question.options.index(question.answer) if question.answer in question.options else -1
    hits = [sum(_among(token, said) for token in content) for content in contents]
    if answer >= 0 and min(hits) < max(hits):
        return "its words fit some options better than others"
    if len({frozenset(content) for content in contents}) == 1 and any(hits) and phrases.SEQUENCE.search(text):
        return "it says what comes before what where the order is asked for"
    wrong = [hit for at, hit in enumerate(hits) if at != answer]
    return "it strikes options out" if any(wrong) and phrases.NEGATION.search(text) else ""


def _content(option: str, options: Sequence[str]) -> list[str]:
    """An option's telling words: without those that any hint may hold, as long as some are left; `one` counts as a number here."""
    found = list(dict.fromkeys(lexicon.tokens(option)))
    telling = [token for token in found if token not in lexicon.WATCHING]
    ones = ["#1"] if option.casefold().strip() in WEAK_ONES | {"1"} else []
    return (telling or found) + ones


def _prefers(question: Question, said: list[str]) -> str:
    """Where the question itself names several options ("red or green?"), a hint may name all of them but not the right one alone."""
    own = lexicon.tokens(question.question)
    contents = {option: _content(option, question.options) for option in question.options}
    named = [option for option, content in contents.items() if content and all(_among(token, own) for token in content)]
    if len(named) < 2 or not any(_among(token, said) for option in named for token in contents[option]):
        return ""
    even = all(all(_among(token, said) for token in contents[option]) for option in named)
    return "" if even else "of the options in the question it names only some"


def _among(token: str, others: Sequence[str]) -> bool:
    return any(lexicon.alike(token, other) for other in others)


# ---- numbers, yes and no, times


def _counts(question: Question, text: str) -> str:
    """Where a number is asked for, no number may stand that is not a time or in the question."""
    numeric = question.task in (*NUMBER_TASKS, "math") or _all_numbers(question.options)
    if not numeric and not (phrases.ASKS_HOW_MANY.search(question.question) and value_of(question.answer or "") is not None):
        return ""
    own = lexicon.tokens(question.question)
    said = [token for token in lexicon.tokens(text) if token.startswith("#") and token not in own]
    words = re.findall(r"[^\W\d_]+", text)
    grouped = [word for word in words if word.casefold() in lexicon.GROUPS or word in lexicon.ROMAN]
    asked = value_of(question.answer or "")
    grouped += [word for word in words if {"both": 2, "once": 1}.get(word.casefold(), -1) == asked]
    ordinal = asked is not None and asked in lexicon.ORDINALS and lexicon.ORDINALS[int(asked)].search(text) and asked > 1
    return "it holds a number where a number is asked for" if said or grouped or ordinal or phrases.ARITHMETIC.search(text) else ""


def _all_numbers(options: Sequence[str]) -> bool:
    return bool(options) and all(any(token.startswith(("#", "^")) for token in _content(option, options)) for option in options)


def _affirms(question: Question, text: str) -> str:
    """Where yes or no is asked for: no yes, no no, no statement of what happens."""
    answers = {word for word in (*question.options, question.answer or "") if word}
    if not answers or not all(word.casefold().strip(" .") in lexicon.AFFIRMED | lexicon.DENIED for word in answers):
        return ""
    words = {word.casefold() for word in re.findall(r"[^\W\d_]+", text)} | {word for word in ("是的", "没错", "没有", "没能", "不是") if word in text}
    if words & (lexicon.AFFIRMED | lexicon.DENIED):
        return "it says yes or no"
    denied = phrases.DENIED.search(text)
    own = [word.casefold() for word in re.findall(r"[^\W\d_]{4,}", question.question)]
    asserted = any(match[1].casefold() in own for match in phrases.STATE.finditer(text))
    asserted |= any(lexicon.PRESENT.get(word) in own for word in words)
    asserted |= any(f"{word}{ending}" in words for word in own for ending in ("es", "ed", "s") if word not in words)
    return "it says whether it happens" if denied or (asserted and not phrases.WHETHER.search(text)) else ""


def _moments_leak(question: Question, hint: str, read_s: Sequence[float], duration_s: float | None) -> str:
    """What the moments of the hint and those read elsewhere in the prompt give away together."""
    named = named_moments(hint, duration_s)
    if question.task in GROUNDING:
        told = named.points_s or named.lengths_s or named.unplaced or phrases.ROUGHLY_WHEN.search(normalised(hint))
        reason = "it tells a time where a time is asked for: let the evidence frames show what to look for" if told else ""
        return reason or _marks_the_span(question.spans, read_s)
    return _states_the_moment(question, named, read_s)


def _marks_the_span(spans: Sequence[Span], moments_s: Sequence[float]) -> str:
    """A patch is a piece of evidence, not the answer: no two of its moments may mark a true span, though the student is not told them."""
    marked = any(temporal_iou(pair, span) >= GIVEAWAY_IOU for pair in combinations(sorted(moments_s), 2) for span in spans)
    return "it marks the span that is asked for" if marked else ""


def edge_s(span: Span) -> float:
    """How near a time must be to say an edge: a tenth of the span, at most half a second."""
    return min(0.5, 0.1 * (span[1] - span[0])) + 1e-6


def _states_the_moment(question: Question, named: Moments, read_s: Sequence[float]) -> str:
    """Where a moment is asked for in words or numbers, or by options that are times: no moment of the prompt may be nearer to the answer than to others."""
    answer, together = question.answer or "", named.with_points(read_s)
    when = phrases.ASKS_WHEN.search(question.question)
    if question.options:
        spans = [span for option in question.options if (span := _times_of(option))]
        if len(spans) < 2 or not (when or times(normalised(answer))):
            return ""
        fits = [{_inside(points_s, span) for span in spans} for points_s in (named.points_s, together.points_s)]
        return "its times fit some options better than others" if any(len(counts) > 1 for counts in fits) else ""
    if not when or (asked := _times_of(answer)) is None:
        return ""
    near = any(abs(time - at) <= max(NEAR_S, NEAR_SHARE * at) for time in together.reached_s() for at in asked)
    return "it states the time that is asked for" if near else ""


def _times_of(text: str) -> Span | None:
    """First and last time that an option or answer names; a bare number counts as one."""
    text = normalised(text)
    said = [mention.seconds for mention in times(text, bare=True)]
    if not said and re.fullmatch(r"\D{0,12}\d+(?:[.,]\d+)?(?:\s*(?:-|–|to|bis|à|a)\s*\d+(?:[.,]\d+)?)?\D{0,12}", text):
        said = [float(number.replace(",", ".")) for number in re.findall(r"\d+(?:[.,]\d+)?", text)]
    return (min(said), max(said)) if said else None


def _inside(points_s: Sequence[float], span: Span) -> int:
    """How many of the moments mean an option; one that is a single moment is meant by times near it."""
    wide = _POINT_S if span[0] == span[1] else 0.0
    return sum(span[0] - wide <= point <= span[1] + wide for point in points_s)


_POINT_S = 0.5
"""How far from an option that is a single moment a time still means it."""


def _as_many_as(question: Question, counts: Sequence[int]) -> str:
    """Where a number is asked for, a list of so many places is the answer. (One place is what most patches name.)"""
    asked = value_of(question.answer or "")
    if asked is None or not (question.task in (*NUMBER_TASKS, "math") or phrases.ASKS_HOW_MANY.search(question.question)):
        return ""
    return "it names as many places as the number that is asked for" if asked > 1 and asked in counts else ""


def _states_the_length(question: Question, named_s: Sequence[Mention]) -> str:
    """Where a length of time is asked for, times are the answer: neither it nor two moments that are so far apart may be said."""
    if not phrases.ASKS_HOW_LONG.search(question.question):
        return ""
    stated = [mention.seconds for mention in times(normalised(question.answer or ""))]
    number = value_of((question.answer or "").split(" ")[0])
    lengths = stated or ([number] if number is not None else [])
    said = [mention.seconds for mention in named_s]
    said += [abs(one - other) for at, one in enumerate(said) for other in said[at + 1 :]]
    return "it states the length of time that is asked for" if any(abs(time - length) <= 0.02 * length + 1e-6 for time in said for length in lengths) else ""


_RULES: tuple[Callable[[Question, str], str], ...] = (_talks_of_options, _names_a_letter, _counts, _affirms, _names_the_answer)
