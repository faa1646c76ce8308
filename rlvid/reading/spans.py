"""The span of time in a model's answer, alone or beside the words of a grounded answer [D].

As everywhere in reading answers: `(value, "")` or `(None, reason)`, never an exception.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rlvid.reading.answers import bare, by_letters, clause_before, json_value, json_words, spaced
from rlvid.types import Span

_A_UNIT = r"(?:hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|ms)(?![^\W\d_])"
_UNIT = rf"(?P<unit>{_A_UNIT})\.?"
_CLOCK = r"(?P<clock>\d{1,4}:\d{1,2}(?::\d{1,2})?(?:\.\d{1,9}|(?<=:\d\d),\d{3}(?![\d:]))?)(?![\d:])"
# A time starts after no letter or digit, or after the unit of a larger part: the 05 of 1m05s.
_TIME_START = r"(?P<minus>-)?(?:(?<![\w.:])|(?<=\.\.)|(?<=\d[hm])|(?<=\dmin))"
_SECONDS = rf"(?P<first>\d{{1,3}}(?:,\d{{3}})+(?:\.\d{{1,20}})?(?= ?{_A_UNIT})|\d{{1,9}}(?:\.\d{{1,20}})?)(?!\d|[eE][-+]?\d|x\d)"
_TIME = re.compile(rf"{_TIME_START}(?:{_CLOCK}|{_SECONDS})(?: ?{_UNIT})?", re.IGNORECASE)
_SECONDS_OF = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_JOIN = re.compile(r",? ?(?:and )?")
_RANGE = re.compile(r" ?(?:-|–|—|~|to|until|till|and|\.\.\.?) ?", re.IGNORECASE)
_PAIR = re.compile(r" ?, ?")
_NO_TIME_BEFORE = re.compile(r"(?:\bframes? (?:from |between )?|\$ ?)\Z", re.IGNORECASE)
_NO_TIME_AFTER = re.compile(r" ?(?:%|frames?\b|fps\b|km\b|°)", re.IGNORECASE)
_NOT = re.compile(r"n['’]t\b|\b(?:not|never|except|outside)\b", re.IGNORECASE)
_WRITTEN = (  # other ways to write minutes and seconds, and what they are read as
    (re.compile(r"\bPT(?=\d)", re.IGNORECASE), ""),
    (re.compile(r"(\d)['′’] ?(\d{1,2}(?:\.\d+)?) ?(?:[\"″”]|''|’’)"), r"\1m\2s"),
    (re.compile(r"(?<=\d) ?分钟?"), "m "),
    (re.compile(r"(?<=\d) ?秒钟?"), "s "),
    (re.compile(r"[到至] ?第?(?= ?\d)"), " to "),
    (re.compile(r"[从第](?= ?第?\d)"), " "),
)
_START_KEY, _END_KEY = re.compile(r"(?:time)?(?:start|begin|onset|from)"), re.compile(r"(?:time)?(?:end|stop|finish|offset|to\b)")
_SPAN_KEYS = re.compile(r"time|span|interval|segment|range|moment"), re.compile(r"answer|finalanswer")

_LABELS = r"(?:time|times|timestamps?|span|interval|segment|evidence|period|range|start(?:s|ing)?|when)"
_BEFORE_A_SPAN = re.compile(rf"(?:^|(?<=[\s,;:.(\[|]))(?:(?:from|between|at|during|over|in|within)(?: the)?(?: {_LABELS})?|{_LABELS})\Z", re.IGNORECASE)
_ONLY_CONNECTIVES = re.compile(
    rf"(?:\s|\b(?:and|it|this|that|the|is|was|are|can|be|seen|shown|visible|happens?|occurs?|appears?|lasts|video|clip|around|about|{_LABELS})\b)*",
    re.IGNORECASE,
)
_NEXT = re.compile(r"[\s)\]}>]*(?:[,;|&/]|\band\b)?[\s(\[{<]*(?:and )?(?:from |between )?", re.IGNORECASE)
_MARKS = " ,;:.-–—|/=([{<~"

Timed = tuple[float, int, int]
"""Seconds, and where the time begins and ends in the text."""


def span(answer: str) -> tuple[Span | None, str]:
    """(start, end) in seconds: `65 - 80`, `1:05 to 1:20`, `01:02:03.5`, `from 65 s to 80 s`, `1m05s-1m20s`, [65, 80], {"start": 65, "end": 80}."""
    found, reason = spans(answer)
    return (found[0], "") if len(found) == 1 else (None, reason or f"one start and one end are needed, found {len(found)} spans")


def spans(answer: str) -> tuple[tuple[Span, ...], str]:
    """Every span of an answer that holds nothing else: `2 to 4 and 6 to 8`, [[2, 4], [6, 8]], or the one that `span` reads; () with the reason else."""
    answer = _written_plainly(bare(answer))
    data = json_value(answer)
    if data is not None:
        return _json_spans(data)
    times, reason = _times(answer)
    if reason:
        return (), reason
    if len(times) != 2 and not _all_pairs(answer, times):
        return (), f"a start and an end are needed, found {len(times)} time(s)"
    if _NOT.search(clause_before(answer, times[0][1])):
        return (), "the answer says when it is not"
    return _in_order([(start[0], end[0]) for start, end in zip(times[::2], times[1::2], strict=True)])


def answer_and_spans(answer: str, options: Sequence[str] = ()) -> tuple[str, tuple[Span, ...], str]:
    """A grounded answer in one reply -> (its words, its spans, why there is none).

    `red, from 2.0 to 4.0` | `red 2 to 4 and 6 to 8` | `from 2 to 4 s: red` | {"answer": "red", "start": 2, "end": 4}. The words may hold numbers themselves:
    the last two times that stand as a range are the span, or else the last two. `options` keep words that would also lead to a time: "turned over 2-4".
    """
    answer = _written_plainly(bare(answer))
    data = json_value(answer)
    if isinstance(data, dict):
        found, reason = _json_spans(data)
        return json_words(data), found, reason
    times, reason = _times(answer)
    if reason or len(times) < 2:
        return answer, (), reason or f"a start and an end are needed, found {len(times)} time(s)"
    first = last = _pair_at(answer, times)
    while first >= 2 and _NEXT.fullmatch(answer[times[first - 1][2] : times[first][1]]) and _RANGE.fullmatch(answer[times[first - 2][2] : times[first - 1][1]]):
        first -= 2
    found, reason = _in_order([(times[at][0], times[at + 1][0]) for at in range(first, last + 1, 2)])
    return _around(answer[: times[first][1]], answer[times[last + 1][2] :], options), found, reason


def answer_and_span(answer: str, options: Sequence[str] = ()) -> tuple[str, Span | None, str]:
    """The same for a question with one span: the last."""
    said, found, reason = answer_and_spans(answer, options)
    return said, found[-1] if found else None, reason


def _all_pairs(text: str, times: Sequence[Timed]) -> bool:
    """Whether the times are pairs, each joined as a range, that stand in a list."""
    gaps = [text[one[2] : other[1]] for one, other in pairwise(times)]
    return len(gaps) % 2 == 1 and all(_RANGE.fullmatch(gap) or _PAIR.fullmatch(gap) for gap in gaps[::2]) and all(map(_NEXT.fullmatch, gaps[1::2]))


def _pair_at(text: str, times: Sequence[Timed]) -> int:
    """Which two neighbouring times are the span: the last joined by a dash or "to", else the last with a comma between (in brackets first), else the last."""
    between = [text[one[2] : other[1]] for one, other in pairwise(times)]
    for join in (_RANGE, _PAIR):
        joined = [at for at, gap in enumerate(between) if join.fullmatch(gap)]
        bracketed = [at for at in joined if text[: times[at][1]].rstrip().endswith(("[", "(")) and text[times[at + 1][2] :].lstrip().startswith(("]", ")"))]
        if joined:
            return (bracketed or joined)[-1]
    return len(times) - 2


def _written_plainly(text: str) -> str:
    """1'05" as 1m05", PT1M5S as 1M5S, 65秒到80秒 as 65s to 80s."""
    for other, plain in _WRITTEN:
        text = other.sub(plain, text)
    return text


def _times(text: str) -> tuple[list[Timed], str]:
    """Every time in the text in order; a reason instead when one of them is no time (`1:75`, `-5`)."""
    found: list[Timed] = []
    units: list[str] = []
    for match in _TIME.finditer(text):
        if match["minus"] and _is_sign(text, match.start(), bool(found)):
            return [], "a time is negative"
        if _NO_TIME_BEFORE.search(text, max(0, match.start() - 16), match.start()) or (not match["unit"] and _NO_TIME_AFTER.match(text, match.end())):
            continue
        value = _clock_seconds(match["clock"]) if match["clock"] else float(match["first"].replace(",", ""))
        if value is None:
            return [], f"{match['clock']} is not a time"
        unit = "" if match["clock"] else _unit_of(match["unit"])
        if found and _continues(units[-1], unit, text[found[-1][2] : match.start()]):
            found[-1] = (found[-1][0] + value * _SECONDS_OF[unit or "s"], found[-1][1], match.end())
            units[-1] = unit or "s"
            continue
        found.append((value * _SECONDS_OF[unit or "s"], match.start() + bool(match["minus"]), match.end()))
        units.append("clock" if match["clock"] else unit)
    return _shared_unit(found, units), ""


def _is_sign(text: str, at: int, after_a_time: bool) -> bool:
    """Whether this dash is a minus (-5 to 80) and not the dash of a range (65 -80)."""
    return not after_a_time or text[:at].rstrip().endswith(("to", "and", ",", "(", "["))


def _clock_seconds(clock: str) -> float | None:
    *larger, seconds = clock.replace(",", ".").split(":")
    parts = [float(part) for part in (*larger, seconds)]
    if any(part >= 60 for part in parts[1:]):
        return None
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def _unit_of(unit: str | None) -> str:
    return "" if not unit else "ms" if unit.lower() == "ms" else unit[0].lower()


def _continues(before: str, unit: str, between: str) -> bool:
    """`1 min 5 s`, `1m05`: a smaller unit right after a larger one belongs to the same time."""
    smaller = {"h": ("m", "s", ""), "m": ("s", "")}.get(before, ())
    return unit in smaller and bool(_JOIN.fullmatch(between)) and (unit != "" or between == "")


def _shared_unit(found: list[Timed], units: list[str]) -> list[Timed]:
    """`1 to 2 minutes`: a first number without a unit has the unit of the second."""
    if len(found) >= 2 and units[-2] == "" and units[-1] in ("h", "m", "ms"):
        value, begins, ends = found[-2]
        found[-2] = (value * _SECONDS_OF[units[-1]], begins, ends)
    return found


def _in_order(found: Sequence[Span]) -> tuple[tuple[Span, ...], str]:
    for start_s, end_s in found:
        if not (math.isfinite(start_s) and math.isfinite(end_s)) or start_s < 0:
            return (), "a time is negative or not a number"
        if end_s < start_s:
            return (), "the end lies before the start"
    return tuple(found), ""


def _json_spans(data: Any) -> tuple[tuple[Span, ...], str]:
    pairs = _json_pairs(data)
    if not pairs:
        return (), "no start and end in the JSON"
    seconds = [(_json_seconds(start), _json_seconds(end)) for start, end in pairs]
    whole = [(start, end) for start, end in seconds if start is not None and end is not None]
    return _in_order(whole) if len(whole) == len(seconds) else ((), "a time in the JSON is not a number")


def _json_pairs(data: Any) -> list[tuple[Any, Any]]:
    """The pairs of values that stand for starts and ends; none where the JSON is no such thing."""
    if isinstance(data, dict):
        named = by_letters(data)
        start, end = (next((value for name, value in named.items() if key.match(name)), None) for key in (_START_KEY, _END_KEY))
        if start is not None and end is not None:
            return [(start, end)]
        inner = next((value for key in _SPAN_KEYS for name, value in named.items() if key.match(name)), None)
        if isinstance(inner, str):
            return [] if inner.lstrip().startswith(("{", "[")) else list(spans(inner)[0])
        return _json_pairs(inner) if isinstance(inner, (dict, list)) else []
    if len(data) == 2 and not any(isinstance(one, (dict, list)) for one in data):
        return [(data[0], data[1])]
    found = [_json_pairs(one) if isinstance(one, (dict, list)) else [] for one in data]
    return [pair for pairs in found for pair in pairs] if all(len(pairs) == 1 for pairs in found) else []


def _json_seconds(value: Any) -> float | None:
    if isinstance(value, str):
        times, _ = _times(bare(value))
        return times[0][0] if len(times) == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _around(before: str, after: str, options: Sequence[str]) -> str:
    """The answer's words: what stands before the span without the words that lead to it, else what stands after it."""
    whole = bare(before.rstrip(_MARKS))
    if any(spaced(whole).endswith(spaced(option)) for option in options if option.strip()):
        return whole
    return _led_up_to(before) or bare(after.lstrip(" ,;:.-–—|/=)]}>~"))


def _led_up_to(before: str) -> str:
    """`red, from` -> `red`, `red. It is visible between` -> `red`. Only words that stand last go, so "turn it on" keeps its on."""
    for _ in range(3):
        kept = _BEFORE_A_SPAN.sub("", before.rstrip(_MARKS)).rstrip(_MARKS)
        last = max(kept.rfind(mark) for mark in ",;:.(")
        kept = kept[: last + 1].rstrip(_MARKS) if _ONLY_CONNECTIVES.fullmatch(kept, last + 1) else kept
        if kept == before:
            break
        before = kept
    return bare(before)
