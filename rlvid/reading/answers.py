"""Reading what a model wrote: the answer tag, its spellings, JSON around it, numbers. Strict outside, forgiving inside [D].

Every reader returns `(value, "")` or `(None, reason)` and never raises, whatever the text. Each pattern is linear in the
text, and an answer longer than MAX_ANSWER_CHARS is not read at all.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from fractions import Fraction
from typing import Any

MAX_ANSWER_CHARS = 4000
"""Nothing this project asks for takes more; longer answers are not an answer."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {word: float(value) for value, word in enumerate(_TO_TEN + _TEENS)}
TENS = {word: 10.0 * value for value, word in enumerate(_TENS, start=2)}
MULTIPLES = frozenset(("dozen", "hundred", "thousand", "million", "billion"))
_OTHER_NUMBERS = re.compile(r"\b(?:one|two|three|a|an|\d) (?:half|third|quarter|fifth)s?\b|\b(?:halves|two-thirds|one-third|one-half)\b", re.IGNORECASE)
_BEFORE_A_NUMBER = re.compile(
    r"n['’]t\b|\b(?:not|never|neither|nor|except|without|over|under|at (?:least|most)|(?:more|less|fewer|greater|larger|smaller|other) than)\b|[<>≤≥≠]",
    re.IGNORECASE,
)
NOTHING_INSIDE = "the answer is empty"
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_POWER_OF_TEN = re.compile(r"(?:(?<![\w.^])(\d{1,9}(?:\.\d{1,9})?) ?(?:[x×*·]|\\times) ?|(?<![\w.^]))10 ?\^ ?\{?([-+]?\d{1,3})\}?(?!\d)")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}")
_NEGATIVE = re.compile(r"\b(?:minus|negative) (?=\.?\d)|(?<![\w)%.,] )(?<![\w)%.])[–—](?=\.?\d)", re.IGNORECASE)
_CONTINUED = re.compile(r"\^|[x×_*]\d|[kKM](?!\w)")
_WORDS_KEYS = ("answer", "finalanswer", "choice", "option", "label")
_WORDS = re.compile(r"[^\W_]+(?:[.,:/][0-9]+)*")
_SIGNED_WORDS = re.compile(r"(?<![\w)%])[-+]?(?:\d+(?:[.,:/]\d+)*|\.\d+)|[-+](?=\.?\d)|[^\W_]+(?:[.,:/][0-9]+)*|[%+#<>=^]")


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
        return None, NOTHING_INSIDE
    return (inside, "") if len(inside) <= MAX_ANSWER_CHARS else (None, f"the answer has {len(inside)} characters")


def well_formed(text: str) -> bool:
    """Whether the whole reply is `<think>...</think> <answer>...</answer>`, each tag exactly once and only space around the blocks."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    reply = text.strip()
    think_end, answer_start = reply.find("</think>"), reply.find("<answer>")
    ordered = reply.startswith("<think>") and reply.endswith("</answer>") and think_end < answer_start
    return ordered and not reply[think_end + len("</think>") : answer_start].strip()


def unwrapped(answer: str) -> str:
    """`{"answer": "B"}` -> `B`; any other text as it is."""
    data = json_value(bare(answer))
    return json_words(data) if isinstance(data, dict) else answer


def number(answer: str) -> tuple[float | None, str]:
    """The one number that the answer holds: 1,234.5 | -3 | minus 3 | 3 m | 50% (as 50) | 1/2 | 1 1/2 | twenty-one | 3.5e2 | 3.5 x 10^2."""
    text = _plain_numbers(bare(answer))
    if not MULTIPLES.isdisjoint(words(text)) or _OTHER_NUMBERS.search(text):
        return None, "a number with a word such as thousand or half is not read"
    found, reason = _numbers(text)
    if reason or not found:
        return None, reason or "no number in the answer"
    if len({value for value, _ in found}) > 1:
        return None, "several different numbers in the answer"
    if _BEFORE_A_NUMBER.search(clause_before(text, found[0][1])):
        return None, "the answer says what the number is not"
    return found[0][0], ""


def clause_before(text: str, at: int) -> str:
    """What stands before a place in the text, back to the last comma, colon, full stop or "but"."""
    return re.split(r"[,;:.](?!\d)|\bbut\b", text[:at])[-1]


def is_percentage(answer: str) -> bool:
    answer = unicodedata.normalize("NFKC", answer)
    return "%" in answer or "percent" in answer.lower()


def plain(text: str) -> str:
    """Lower case, no articles, no punctuation but signs, single spaces: the form in which open answers are compared."""
    return " ".join(word for word in signed_words(text) if word not in ("a", "an", "the"))


def words(text: str) -> list[str]:
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", ""))


def signed_words(text: str) -> list[str]:
    """Like `words`, but "-5" is not "5", "x-1" not "x+1", ".5" is "0.5" and "C++" not "C"."""
    text = _NEGATIVE.sub("-", unicodedata.normalize("NFKC", _with_powers(text)).replace("−", "-"))
    found = _SIGNED_WORDS.findall(text.casefold().replace("'", "").replace("’", ""))
    return [re.sub(r"^([-+]?)\.", r"\g<1>0.", word) for word in found]


def bare(text: str) -> str:
    """One line's worth: no outer space, markdown or quotes, single spaces, plain dashes; `\\boxed{}` and a JSON string opened."""
    text = _VULGAR_FRACTION.sub(" ", _with_powers(text))
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


def spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("−", "-").casefold().split())


def json_value(text: str) -> Any:
    """The text as a JSON object or list, None if it is neither. A ```json fence has been stripped to its word."""
    text = text.removeprefix("json").strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = _python_value(text)
    return data if isinstance(data, (dict, list)) else None


def _python_value(text: str) -> Any:
    """What models write that have seen more Python than JSON: {'answer': 'B'}."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def by_letters(data: dict[Any, Any]) -> dict[str, Any]:
    """The values by the letters of their keys: `start_s`, `startS` and `Start (s)` are one."""
    return {re.sub(r"[^a-z]", "", str(key).lower()): value for key, value in data.items()}


def json_words(data: dict[Any, Any]) -> str:
    named = by_letters(data)
    found = next((named[key] for key in _WORDS_KEYS if key in named), next(iter(data.values())) if len(data) == 1 else "")
    return bare(str(found)) if isinstance(found, (str, int, float)) else ""


_NUMBER = re.compile(
    r"(?<![\w.^])(?P<sign>(?<![\d)%])[-+])?(?:(?P<whole>\d{1,9}) )?(?P<over>\d{1,9}) ?/ ?(?P<under>\d{1,9})(?![\d/])"
    r"|(?<![\w.^])(?P<minus>(?<![\d)%])[-+])?(?P<plain>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{1,3}(?![\w]))?"
)


def _with_powers(text: str) -> str:
    """Raised digits as powers, before NFKC makes 102 of 10²."""
    return _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]).replace("−", "-"), text)


def _plain_numbers(text: str) -> str:
    """3.5 x 10^2 as 3.5e2, \\frac{1}{2} as 1/2, minus 5 as -5."""
    text = _POWER_OF_TEN.sub(lambda match: f"{match[1] or 1}e{match[2]}", text)
    return _NEGATIVE.sub("-", _FRACTION.sub(r"\1/\2", text))


def _numbers(text: str) -> tuple[list[tuple[float, int]], str]:
    """Every number in the text with its place: digits and fractions, then words up to ninety-nine; or why one of them cannot be read."""
    found = []
    for match in _NUMBER.finditer(text):
        if _CONTINUED.match(text, match.end()):
            return [], f"{text[match.start() : match.end() + 2]!r} is not read as a number"
        if (value := _number_value(match)) is not None:
            found.append((value, match.start()))
    return found + _number_words(text), ""


def _number_words(text: str) -> list[tuple[float, int]]:
    """`seven`, `twenty`, `twenty-one`, with their places."""
    found: list[tuple[float, int]] = []
    tens_end = -2
    for match in re.finditer(r"[a-z]+", text.lower()):
        word = match[0]
        if word in TENS:
            found.append((TENS[word], match.start()))
            tens_end = match.end()
        elif word in NUMBER_WORDS and match.start() == tens_end + 1 and 0 < NUMBER_WORDS[word] < 10:
            found[-1] = (found[-1][0] + NUMBER_WORDS[word], found[-1][1])
        elif word in NUMBER_WORDS:
            found.append((NUMBER_WORDS[word], match.start()))
    return found


def _number_value(match: re.Match[str]) -> float | None:
    sign = -1 if (match["sign"] or match["minus"]) == "-" else 1
    if match["over"]:
        if not int(match["under"]):
            return None
        return sign * float(int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"])))
    value = float(match["plain"].replace(",", "") + (match["power"] or ""))
    return sign * value if math.isfinite(value) else None
