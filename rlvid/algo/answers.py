"""Reading what a model wrote: the answer tag, then a choice, a number, a span of time. Strict outside, forgiving inside [D].

Every reader returns `(value, "")` or `(None, reason)` and never raises, whatever the text. Each pattern is linear in the
text, and an answer longer than MAX_ANSWER_CHARS is not read at all.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rlvid.types import Span

MAX_ANSWER_CHARS = 4000
"""Nothing this project asks for takes more; longer answers are not an answer."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_TO_TWENTY = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
NUMBER_WORDS = {word: float(value) for value, word in enumerate(_TO_TEN + _TO_TWENTY)}
MULTIPLES = frozenset(("dozen", "hundred", "thousand", "million", "billion"))
_NEGATED_VERBS = ("isnt", "arent", "wasnt", "werent", "doesnt", "didnt", "dont", "cannot", "cant")
NEGATIONS = frozenset(("not", "no", "never", "neither", "nor", "none", "except", "without", *_NEGATED_VERBS))

_NOTHING_INSIDE = "the answer is empty"
_LEAD_IN = re.compile(
    r"(?:(?:so|therefore|thus|hence|i think|i believe)\b[ ,:]*)?(?:it is |it's )?(?:my |the )?(?:(?:correct|final|right|best|most likely) )?"
    r"(?:(?:answer|option|choice|letter|number)\b(?: choice| option| letter)?(?: is| would be| must be| should be)?[ ]*[:=\-]?[ ]*)?",
    re.IGNORECASE,
)
_LONE_LETTER = re.compile(r"(?P<open>[(\[{]?) ?(?P<letter>[A-Za-z]) ?(?P<close>[)\]}.:,;]{0,2})")
_LETTER_THEN = re.compile(r"(?P<open>[(\[]?)(?P<letter>[A-Za-z])(?P<mark> ?[)\]][.:]?| ?[:,]| ?[-–—=](?= )|\.(?=[ A-Z(])|(?= )) ?(?P<rest>\S.*)", re.DOTALL)
_LETTER_NAMED = re.compile(r"\(([A-Za-z])\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)(?: is)? ?:? ?\(?([A-Z])\b|(?<![\w'’.-])([B-HJ-Z])(?![\w'’.-]*\w)")
_LETTER_LISTED = re.compile(r"(?<![\w'’])([A-Z])(?= ?(?:,|/|&|and|or) ?\(?[A-Z](?![\w'’]))")
_BRACKETED_LETTER = re.compile(r"\(([A-Za-z])\)")
_LONE_CAPITAL = re.compile(r"(?<![\w'’])(?:[B-HJ-Z]|A(?! ))(?![\w'’])")
_ENDS_WITH_LETTER = re.compile(r"(?<![\w'’])([AI])[.!)*\"']{0,3}\Z")
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_WORDS = re.compile(r"[^\W_]+(?:[.,:/][0-9]+)*")


def tagged_answer(text: str) -> tuple[str | None, str]:
    """What stands inside the reply's only `<answer>...</answer>`."""
    opened, closed = text.count("<answer>"), text.count("</answer>")
    if not opened:
        return None, "no <answer> tag"
    if opened > 1 or closed > 1:
        return None, "more than one answer tag"
    if not closed:
        return None, "<answer> is not closed"
    start, end = text.index("<answer>") + len("<answer>"), text.index("</answer>")
    if end < start:
        return None, "</answer> stands before <answer>"
    inside = text[start:end].strip()
    if not inside:
        return None, _NOTHING_INSIDE
    return (inside, "") if len(inside) <= MAX_ANSWER_CHARS else (None, f"the answer has {len(inside)} characters")


def well_formed(text: str) -> bool:
    """Whether the whole reply is `<think>...</think> <answer>...</answer>`, each tag exactly once and only space around the blocks."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    reply = text.strip()
    think_end, answer_start = reply.find("</think>"), reply.find("<answer>")
    ordered = reply.startswith("<think>") and reply.endswith("</answer>") and think_end < answer_start
    return ordered and not reply[think_end + len("</think>") : answer_start].strip()


def choice(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """Index of the option that the answer names, by its text, its letter, or both if they agree.

    A whole answer that is an option's text counts as that before anything is read as a letter; an answer that can be read as two
    different options is none.
    """
    answer = _bare(answer)
    if not answer:
        return None, _NOTHING_INSIDE
    for reading in (answer, without_lead_in(answer)):
        found, reason = _whole_choice(reading, options)
        if found is not None or reason:
            return found, reason
    reading = without_lead_in(answer)
    found, reason = _letter_and_rest(reading, options)
    if found is not None or reason:
        return found, reason
    return _named_choice(reading, options)


def number(answer: str) -> tuple[float | None, str]:
    """The one number that the answer holds: 1,234.5 | -3 | 3 m | 50% (as 50) | 1/2 | 1 1/2 | twelve | 3.5e2."""
    found = _numbers(_bare(answer))
    if not MULTIPLES.isdisjoint(_words(answer)):
        return None, "a number with a word such as thousand is not read"
    if not found:
        return None, "no number in the answer"
    if len(set(found)) > 1:
        return None, "several different numbers in the answer"
    return found[0], ""


def is_percentage(answer: str) -> bool:
    return "%" in answer or "percent" in answer.lower()


def span(answer: str) -> tuple[Span | None, str]:
    """(start, end) in seconds: `65 - 80`, `1:05 to 1:20`, `01:02:03.5`, `from 65 s to 80 s`, `1m05s-1m20s`, [65, 80], {"start": 65, "end": 80}."""
    answer = _bare(answer)
    data = _json(answer)
    if data is not None:
        return _json_span(data)
    times, reason = _times(answer)
    if reason:
        return None, reason
    if len(times) != 2:
        return None, f"a start and an end are needed, found {len(times)} time(s)"
    return _ordered(times[0][0], times[1][0])


def answer_and_span(answer: str) -> tuple[str, Span | None, str]:
    """A grounded answer in one reply -> (its words, its span or None, why there is no span).

    `red, from 2.0 to 4.0` | `red 2 to 4` | `from 2 to 4 s: red` | {"answer": "red", "start": 2, "end": 4}. The last two times are the span, so that
    the words may hold numbers themselves.
    """
    answer = _bare(answer)
    data = _json(answer)
    if isinstance(data, dict):
        found, reason = _json_span(data)
        return _json_words(data), found, reason
    times, reason = _times(answer)
    if reason or len(times) < 2:
        return answer, None, reason or f"a start and an end are needed, found {len(times)} time(s)"
    (start_s, begins, _), (end_s, _, ends) = times[-2], times[-1]
    found, reason = _ordered(start_s, end_s)
    return _around(answer[:begins], answer[ends:]), found, reason


def plain(text: str) -> str:
    """Lower case, no articles, no punctuation, single spaces: the form in which open answers are compared."""
    return " ".join(word for word in _words(text) if word not in ("a", "an", "the"))


def words(text: str) -> list[str]:
    return _words(text)


# --- choices ---------------------------------------------------------------------------------------------------------


def _whole_choice(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """The answer is nothing but an option's text or nothing but a letter; (None, "") if it is neither."""
    by_text = _by_text(answer, options)
    by_letter, bracketed = _by_letter(answer, options)
    if by_text is None or by_letter is None or by_text == by_letter:
        return (by_letter if by_text is None else by_text), ""
    if bracketed:
        return by_letter, ""
    return None, f"{answer[:20]!r} is one option's letter and another option's text"


def _by_text(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option with this text: the first of ever more forgiving spellings in which exactly one option fits."""
    for spelling in (_exactly, _spaced, _trimmed, _joined_words, _without_article):
        wanted = spelling(answer)
        fits = [index for index, option in enumerate(options) if wanted and spelling(option) == wanted]
        if len(fits) == 1:
            return fits[0]
    return None


def _by_letter(answer: str, options: Sequence[str]) -> tuple[int | None, bool]:
    """Index of the option that a lone letter stands for, and whether a bracket or mark shows that a letter is meant."""
    match = _LONE_LETTER.fullmatch(answer)
    if not match:
        return None, False
    index = LETTERS.index(match["letter"].upper())
    return (index if index < len(options) else None), bool(match["open"] or match["close"])


def _letter_and_rest(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """`B. red`, `(B) red`, `b) because ...`; (None, "") where the first letter is only a word ("A red ball")."""
    match = _LETTER_THEN.fullmatch(answer)
    if not match or LETTERS.index(match["letter"].upper()) >= len(options):
        return None, ""
    index = LETTERS.index(match["letter"].upper())
    rest = _bare(match["rest"])
    by_rest, reason = _whole_choice(rest, options)
    if index in (by_rest, _by_text(rest, options)):
        return index, ""
    if not match["mark"]:
        return None, ""
    if reason or (by_rest is not None) or _mentions(rest, options) - {index}:
        return None, f"letter {match['letter'].upper()} and what follows name different options"
    return index, ""


def _named_choice(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """The one option that a sentence names, if it negates nothing: "the ball is red", "I think it is option B"."""
    first = re.split(r"[,;:.\n(]", answer, maxsplit=1)[0].strip()
    named = _mentions(answer, options)
    if len(named) > 1:
        return None, "the answer names several options"
    if not named:
        return None, "the answer names no option"
    (index,) = named
    own = set(_words(options[index]))
    negated = any(word in NEGATIONS and word not in own for word in _words(answer.replace("'", "").replace("’", "")))
    if negated and _by_text(first, options) != index:
        return None, "the answer is a negation"
    return index, ""


def _mentions(answer: str, options: Sequence[str]) -> set[int]:
    """Options whose words or letter occur in the answer; words inside a longer option that also occurs do not count for the shorter."""
    left = f" {' '.join(_words(answer))} "
    named = set()
    texts = sorted(((" ".join(_words(option)), index) for index, option in enumerate(options)), key=lambda pair: -len(pair[0]))
    for text, index in texts:
        # A lone letter is no mention: "a" is an article. Letters are looked for below, in the forms that mean a letter.
        if (len(text) > 1 or text.isdigit()) and f" {text} " in left:
            named.add(index)
            left = left.replace(f" {text} ", " | ")
    inside = {word for index in named for word in options[index].split()}
    letters = {LETTERS.index(letter.upper()) for letter in _letters(answer, options) if letter not in inside}
    return named | {index for index in letters if index < len(options)}


def _letters(answer: str, options: Sequence[str]) -> list[str]:
    """Letters that mean an option rather than a word: (B), option b, a lone B anywhere, a lone A or I in a list or at the end.

    Where options hold lone letters themselves ("vitamin C"), a lone letter in a sentence may be such a word: only (B) counts.
    """
    if any(_LONE_CAPITAL.search(option) for option in options):
        return _BRACKETED_LETTER.findall(answer)
    named = [next(filter(None, groups)) for groups in _LETTER_NAMED.findall(answer)]
    return named + _LETTER_LISTED.findall(answer) + _ENDS_WITH_LETTER.findall(answer)


def without_lead_in(answer: str) -> str:
    """Without "The answer is", "Option", "I think it is" and the like in front, if anything is left."""
    match = _LEAD_IN.match(answer)
    rest = _bare(answer[match.end() :]) if match else answer
    return rest or answer


# --- spellings -------------------------------------------------------------------------------------------------------


def _bare(text: str) -> str:
    """One line's worth: no outer space, markdown or quotes, single spaces, plain dashes; `\\boxed{}` and a JSON string opened."""
    text = _VULGAR_FRACTION.sub(" ", text)
    text = " ".join(unicodedata.normalize("NFKC", text).replace("−", "-").replace("⁄", "/").split())
    for _ in range(3):
        before = text
        if text.startswith("\\boxed{") and text.endswith("}"):
            text = text[len("\\boxed{") : -1].strip()
        text = text.strip("*`_ ").strip()
        if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’")):
            text = text[1:-1].strip()
        if text == before:
            break
    return text


def _exactly(text: str) -> str:
    return text.strip()


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("−", "-").casefold().split())


def _trimmed(text: str) -> str:
    """Without brackets, quotes and full stops around it: signs such as -, + and % stay."""
    return _spaced(text).strip(" .,;:!?\"'`*()[]{}“”‘’").strip()


def _joined_words(text: str) -> str:
    """Words and numbers only, signs of numbers kept: "-5" is not "5"."""
    return " ".join(re.findall(r"(?<!\w)[-+](?=\d)|[^\W_]+(?:\.\d+)*|%|\+|#", _spaced(text)))


def _without_article(text: str) -> str:
    """Words after one leading article. "A red ball" loses its A here and "A. red ball" does not: there it is a letter."""
    return " ".join(_words(re.sub(r"^(?:a|an|the) ", "", _trimmed(text))))


def _words(text: str) -> list[str]:
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", ""))


# --- numbers ---------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"(?<![\w.^])(?P<sign>(?<![\d)%])[-+])?(?:(?P<whole>\d{1,9}) )?(?P<over>\d{1,9}) ?/ ?(?P<under>\d{1,9})(?![\d/])"
    r"|(?<![\w.^])(?P<minus>(?<![\d)%])[-+])?(?P<plain>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{1,3}(?![\w]))?"
)


def _numbers(text: str) -> list[float]:
    """Every number in the text, in order: digits, fractions, then words up to twenty."""
    found = [value for match in _NUMBER.finditer(text) if (value := _number_value(match)) is not None]
    return found + [NUMBER_WORDS[word] for word in _words(text) if word in NUMBER_WORDS]


def _number_value(match: re.Match[str]) -> float | None:
    sign = -1 if (match["sign"] or match["minus"]) == "-" else 1
    if match["over"]:
        if not int(match["under"]):
            return None
        return sign * float(int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"])))
    value = float(match["plain"].replace(",", "") + (match["power"] or ""))
    return sign * value if math.isfinite(value) else None


# --- times -----------------------------------------------------------------------------------------------------------

_UNIT = r"(?P<unit>hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|ms)(?![^\W\d_])\.?"
_CLOCK = r"(?P<clock>\d{1,4}:\d{1,2}(?::\d{1,2})?(?:\.\d{1,9}|(?<=:\d\d),\d{3}(?![\d:]))?)(?![\d:])"
# A time starts after no letter or digit, or after the unit of a larger part: the 05 of 1m05s.
_TIME_START = r"(?P<minus>-)?(?:(?<![\w.:])|(?<=\d[hm])|(?<=\dmin))"
_SECONDS = r"(?P<first>\d{1,9}(?:\.\d{1,20})?)(?!\d|[eE][-+]?\d)"
_TIME = re.compile(rf"{_TIME_START}(?:{_CLOCK}|{_SECONDS})(?: ?{_UNIT})?", re.IGNORECASE)
_SECONDS_OF = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_JOIN = re.compile(r" ?(?:and )?")
_STARTS = ("start", "start_s", "start_time", "begin", "from")
_ENDS = ("end", "end_s", "end_time", "stop", "to")
_SPANS = ("span", "spans", "time", "times", "timestamp", "timestamps", "interval", "segment")
_WORDS_KEYS = ("answer", "choice", "option", "label")

Timed = tuple[float, int, int]
"""Seconds, and where the time begins and ends in the text."""


def _times(text: str) -> tuple[list[Timed], str]:
    """Every time in the text in order; a reason instead when one of them is no time (`1:75`, `-5`)."""
    found: list[Timed] = []
    units: list[str] = []
    for match in _TIME.finditer(text):
        if match["minus"] and _is_sign(text, match.start(), bool(found)):
            return [], "a time is negative"
        value = _clock_seconds(match["clock"]) if match["clock"] else float(match["first"])
        if value is None:
            return [], f"{match['clock']} is not a time"
        unit = "" if match["clock"] else _unit_of(match["unit"])
        if found and _continues(units[-1], unit, text[found[-1][2] : match.start()]):
            found[-1] = (found[-1][0] + value * _SECONDS_OF[unit or "s"], found[-1][1], match.end())
            units[-1] = unit or "s"
            continue
        found.append((value * _SECONDS_OF[unit or "s"], match.start(), match.end()))
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


def _ordered(start_s: float, end_s: float) -> tuple[Span | None, str]:
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or start_s < 0:
        return None, "a time is negative or not a number"
    return ((start_s, end_s), "") if end_s >= start_s else (None, "the end lies before the start")


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json(text: str) -> Any:
    """The text as a JSON object or list, None if it is neither. A ```json fence has been stripped to its word."""
    text = text.removeprefix("json").strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, (dict, list)) else None


def _json_span(data: Any) -> tuple[Span | None, str]:
    pair = _json_pair(data)
    if pair is None:
        return None, "no start and end in the JSON"
    seconds = [_json_seconds(value) for value in pair]
    if seconds[0] is None or seconds[1] is None:
        return None, "a time in the JSON is not a number"
    return _ordered(seconds[0], seconds[1])


def _json_pair(data: Any) -> tuple[Any, Any] | None:
    """The two values that stand for start and end."""
    if isinstance(data, dict):
        lower = {str(key).lower(): value for key, value in data.items()}
        start, end = (next((lower[key] for key in keys if key in lower), None) for keys in (_STARTS, _ENDS))
        if start is not None and end is not None:
            return start, end
        inner = next((lower[key] for key in _SPANS if key in lower), None)
        return _json_pair(inner) if isinstance(inner, (dict, list)) else _text_pair(inner)
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], (dict, list)):
        return _json_pair(data[0])
    return (data[0], data[1]) if isinstance(data, list) and len(data) == 2 else None


def _text_pair(value: Any) -> tuple[Any, Any] | None:
    return span(value)[0] if isinstance(value, str) and not value.lstrip().startswith(("{", "[")) else None


def _json_seconds(value: Any) -> float | None:
    if isinstance(value, str):
        times, _ = _times(_bare(value))
        return times[0][0] if len(times) == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _json_words(data: dict[Any, Any]) -> str:
    lower = {str(key).lower(): value for key, value in data.items()}
    found = next((lower[key] for key in _WORDS_KEYS if key in lower), "")
    return _bare(str(found)) if isinstance(found, (str, int, float)) else ""


def unwrapped(answer: str) -> str:
    """`{"answer": "B"}` -> `B`; any other text as it is."""
    data = _json(_bare(answer))
    return _json_words(data) if isinstance(data, dict) else answer


# --- the words beside a span -----------------------------------------------------------------------------------------

_LABELS = r"(?:time|times|timestamps?|span|interval|segment|evidence|period|range|start(?:s|ing)?|when)"
_BEFORE_A_SPAN = re.compile(rf"(?:^|(?<=[\s,;:.(\[|]))(?:(?:from|between|at|during|over|in|within)(?: the)?(?: {_LABELS})?|{_LABELS})\Z", re.IGNORECASE)
_ONLY_CONNECTIVES = re.compile(
    rf"(?:\s|\b(?:and|it|this|that|the|is|was|are|can|be|seen|shown|visible|happens?|occurs?|appears?|lasts|video|clip|around|about|{_LABELS})\b)*",
    re.IGNORECASE,
)
_MARKS = " ,;:.-–—|/=([{<~"


def _around(before: str, after: str) -> str:
    """The answer's words: what stands before the span without the words that lead to it, else what stands after it."""
    return _led_up_to(before) or _bare(after.lstrip(" ,;:.-–—|/=)]}>~"))


def _led_up_to(before: str) -> str:
    """`red, from` -> `red`, `red. It is visible between` -> `red`. Only words that stand last go, so "turn it on" keeps its on."""
    for _ in range(3):
        kept = _BEFORE_A_SPAN.sub("", before.rstrip(_MARKS)).rstrip(_MARKS)
        last = max(kept.rfind(mark) for mark in ",;:.(")
        kept = kept[: last + 1].rstrip(_MARKS) if _ONLY_CONNECTIVES.fullmatch(kept, last + 1) else kept
        if kept == before:
            break
        before = kept
    return _bare(before)
