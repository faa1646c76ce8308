"""Boxes in a model's answer, alone or at times [D]. They come out as shares of width and height, 0..1.

What is asked for, and read, are coordinates from 0 to 1000 of the width and the height, as Qwen3-VL has learned them and OneThinker's rows have them: they mean
the same whatever size a variant shows. A reply whose numbers are all at most 1 is read as shares. Pixels are not read: a reply does not say of which size.

As everywhere in reading answers: `(value, "")` or `(None, reason)`, never an exception, and one reading whatever the truth.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlvid.reading.answers import bare, by_letters, json_value, words
from rlvid.reading.choices import HEDGES, NEGATIONS
from rlvid.reading.spans import span as one_span
from rlvid.reading.spans import spans
from rlvid.types import Box, Region, Span

SCALE = 1000.0
"""What coordinates are shares of, in a prompt and in a reply."""
MOST_BOXES = 1000
"""Of one reply."""

_NUMBER = r"-?\d{1,7}(?:\.\d{1,12})?|-?\.\d{1,12}"
_FOUR = re.compile(rf"[\[({{<]*\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]*\s*,\s*[\[(]*\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])}}>]*")
_NAMED = re.compile(rf"\b(?:x|y|left|top|right|bottom)_?(?:1|2|min|max)?\s*[=:]\s*({_NUMBER})", re.IGNORECASE)
_BOX_TOKENS = re.compile(r"<\|?/?(?:box|bbox)(?:_start|_end)?\|?>", re.IGNORECASE)
_BOX_KEYS = ("box", "boxes", "bbox", "bboxes", "bboxd", "boundingbox", "coordinates", "answer", "track", "tracks", "frames", "trajectory")
"""By `by_letters`: bbox_2d is bboxd."""
_TIME_KEYS = ("time", "times", "timestamp", "timespan", "second", "seconds", "t", "frame", "sec")
_CORNERS = (("x", "y", "x", "y"), ("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"))
_A_TIME = re.compile(r"\s*(?:t\s*=\s*|at\s+|second\s+|<)?(?:(\d{1,4}):)?(\d{1,6}(?:\.\d{1,9})?)\s*(?:s|sec|secs|second|seconds)?>?\s*", re.IGNORECASE)

Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class Track:
    """Boxes at ascending times in seconds, and the span of time that the reply names beside them."""

    regions: tuple[Region, ...]
    span: Span | None = None

    @property
    def extent(self) -> Span:
        """From when to when the reply says that the thing is there."""
        return self.span or (self.regions[0].time_s, self.regions[-1].time_s)


def box(answer: str) -> tuple[Box | None, str]:
    """The one box of an answer: [35, 227, 437, 932] | (35,227),(437,932) | {"boxes": [...]} | {"bbox_2d": [...]} | {"x1": 35, ...} | x1=35, y1=227, ..."""
    text = _BOX_TOKENS.sub(" ", bare(answer))
    data = json_value(text)
    if data is not None:
        found = _fours(data, 8)
    elif reason := _hedged(text):
        return None, reason
    else:
        named = [float(number) for number in _NAMED.findall(text)]
        found = [(named[0], named[1], named[2], named[3])] if len(named) == 4 else [_four(match) for match in _FOUR.finditer(text)]
        if _digits_beside(text, named):
            return None, "the answer holds more numbers than one box has"
    if len(set(found)) != 1:
        return None, f"one box [x1, y1, x2, y2] is needed, found {len(set(found))}"
    return _as_share(found[0], _is_share(found))


def track(answer: str) -> tuple[Track | None, str]:
    """Boxes at times: {"boxes": {"1": [...], "2": [...]}} with or without "time": [start, end] | [{"time": 1, "bbox_2d": [...]}, ...] | 1 s: [...]; 2 s: [...]

    A box whose corners stand the wrong way round is kept, and overlaps nothing.
    """
    text = _BOX_TOKENS.sub(" ", bare(answer))
    data = json_value(text)
    if data is not None:
        pairs, named, reason = _json_track(data, 8)
    else:
        pairs, named, reason = _plain_track(text)
    if reason or not pairs:
        return None, reason or "no boxes at times in the answer"
    if len(pairs) > MOST_BOXES:
        return None, f"the answer has {len(pairs)} boxes, more than {MOST_BOXES}"
    times = [time_s for time_s, _ in pairs]
    if len(set(times)) < len(times):
        return None, "two boxes at one time"
    shares, found = _is_share([four for _, four in pairs]), []
    for time_s, four in sorted(pairs):
        one, reason = _as_share(four, shares, ordered=False)
        if one is None:
            return None, reason
        found.append(Region(time_s, one))
    return Track(tuple(found), named), ""


def written(one: Sequence[float] | None, regions: Iterable[tuple[float, Sequence[float]]] = ()) -> str:
    """A box, or boxes at times, as prompts ask for them; empty where there are none."""
    if one:
        return json.dumps({"boxes": [round(SCALE * edge) for edge in one]})
    by_time = {f"{time_s:g}": [round(SCALE * edge) for edge in place] for time_s, place in regions}
    return json.dumps({"boxes": by_time}) if by_time else ""


def _hedged(text: str) -> str:
    said = set(words(text))
    return "the answer says more than a box" if said & HEDGES or said & NEGATIONS else ""


def _digits_beside(text: str, named: list[float]) -> bool:
    rest = (_NAMED if len(named) == 4 else _FOUR).sub(" ", text)
    return bool(re.search(r"\d", re.sub(r"[A-Za-z]_?\d\b", " ", rest)))


def _is_share(fours: list[Four]) -> bool:
    return all(abs(number) <= 1 for four in fours for number in four)


def _as_share(four: Four, shares: bool, *, ordered: bool = True) -> tuple[Box | None, str]:
    x1, y1, x2, y2 = four if shares else (number / SCALE for number in four)
    if not all(math.isfinite(number) and 0 <= number <= 1 for number in (x1, y1, x2, y2)):
        return None, "a coordinate is not between 0 and 1000"
    if ordered and not (x1 < x2 and y1 < y2):
        return None, "x1 < x2 and y1 < y2 are needed"
    return (x1, y1, x2, y2), ""


def _four(match: re.Match[str]) -> Four:
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    return x1, y1, x2, y2


def _as_four(value: Any) -> Four | None:
    """[x1, y1, x2, y2], [[x1, y1], [x2, y2]], a text of them, or an object with the four corners."""
    if isinstance(value, str):
        found = [_four(match) for match in _FOUR.finditer(value)]
        return found[0] if len(found) == 1 and not _digits_beside(value, []) else None
    if isinstance(value, dict):
        named = {re.sub(r"[^a-z0-9]", "", str(key).lower()): one for key, one in value.items()}
        keys = next((keys for keys in (("x1", "y1", "x2", "y2"), *_CORNERS[1:]) if all(key in named for key in keys)), None)
        return _as_four([named[key] for key in keys]) if keys else None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, list) and len(one) == 2 for one in value):
        value = [*value[0], *value[1]]
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:
        return None
    return x1, y1, x2, y2


def _fours(data: Any, depth: int) -> list[Four]:
    """Every box in JSON that is nothing but boxes; none where something else stands among them, or it is nested deeper."""
    four = _as_four(data)
    if four is not None:
        return [four]
    if isinstance(data, dict):
        inner = _under(data, _BOX_KEYS)
        return [] if inner is None or not depth else _fours(inner, depth - 1)
    found = [_fours(one, depth - 1) for one in data] if isinstance(data, list) and depth else []
    return [box for boxes in found for box in boxes] if all(found) else []


def _under(data: dict[Any, Any], keys: tuple[str, ...]) -> Any:
    named = by_letters(data)
    return next((named[key] for key in keys if key in named), None)


Pairs = list[tuple[float, Four]]


def _json_track(data: Any, depth: int) -> tuple[Pairs, Span | None, str]:
    if isinstance(data, dict):
        found = [(_time_s(key), _as_four(value)) for key, value in data.items()]
        if found and all(time_s is not None for time_s, _ in found):
            return _whole(found)
        inner = _under(data, _BOX_KEYS)
        pairs, _, reason = _json_track(inner, depth - 1) if isinstance(inner, dict | list) and depth else ([], None, "no boxes at times in the JSON")
        return pairs, _span_of(data), reason
    return _whole([(_time_s(_under(one, _TIME_KEYS)), _as_four(_under(one, _BOX_KEYS))) if isinstance(one, dict) else (None, None) for one in data])


def _whole(found: list[tuple[float | None, Four | None]]) -> tuple[Pairs, Span | None, str]:
    pairs = [(time_s, four) for time_s, four in found if time_s is not None and four is not None]
    return (pairs, None, "") if len(pairs) == len(found) else ([], None, "an entry in the JSON is not a box at a time")


def _span_of(data: dict[Any, Any]) -> Span | None:
    """`time` of a track in JSON, or start and end beside it."""
    rest = {key: value for key, value in data.items() if not re.sub(r"[^a-z]", "", str(key).lower()).startswith(("box", "bbox", "track"))}
    if not rest:
        return None
    found, _ = spans(json.dumps(rest))
    return found[0] if len(found) == 1 else None


def _plain_track(text: str) -> tuple[Pairs, Span | None, str]:
    """`from 9 to 11 s: 9: [...], 10: [...]`: a time before each box; what stands before the first may name the span."""
    boxes = list(_FOUR.finditer(text))
    if not boxes:
        return [], None, "no boxes at times in the answer"
    if reason := _hedged(text):
        return [], None, reason
    pairs: Pairs = []
    named: Span | None = None
    end = 0
    for number, match in enumerate(boxes):
        before, end = text[end : match.start()].rstrip(" :=-\n{[(,"), match.end()
        head, _, last = before.rpartition("\n") if "\n" in before else _last_time(before)
        time_s = _time_s(last.strip(" ,;:.{}[]()\"'"))
        if time_s is None:
            return [], None, "a box without its time"
        if number == 0 and re.search(r"\d", head):
            named, reason = one_span(head.rstrip(" ,;:"))
            if named is None:
                return [], None, reason
        elif number and re.search(r"\d", head):
            return [], None, "a box without its time"
        pairs.append((time_s, _four(match)))
    return pairs, named, "" if not re.search(r"\d", text[end:]) else "numbers behind the last box"


def _last_time(text: str) -> tuple[str, str, str]:
    match = re.search(r"(?:(?:at|t ?=|second)\s*)?[\"'<]?(?:\d{1,4}:)?\d{1,6}(?:\.\d{1,9})?\s*(?:s|sec|secs|seconds?)?[\"'>]?\s*\Z", text, re.IGNORECASE)
    return (text[: match.start()], "", match[0]) if match else (text, "", "")


def _time_s(value: Any) -> float | None:
    """Seconds: 9, "9", "9.5 s", "0:09"."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) and number >= 0 else None
    match = _A_TIME.fullmatch(str(value).strip("\"'")) if isinstance(value, str) else None
    return None if match is None else 60 * float(match[1] or 0) + float(match[2])
