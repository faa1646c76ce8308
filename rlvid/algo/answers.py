"""Reading what a model wrote: the answer tag, its spellings, JSON around it, numbers. Strict outside, forgiving inside [D].

Every reader returns `(value, "")` or `(None, reason)` and never raises, whatever the text. Each pattern is linear in the
text, and an answer longer than MAX_ANSWER_CHARS is not read at all.
"""

from __future__ import annotations

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
_TO_TWENTY = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
NUMBER_WORDS = {word: float(value) for value, word in enumerate(_TO_TEN + _TO_TWENTY)}
MULTIPLES = frozenset(("dozen", "hundred", "thousand", "million", "billion"))
NOTHING_INSIDE = "the answer is empty"
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_WORDS_KEYS = ("answer", "choice", "option", "label")
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
    """The one number that the answer holds: 1,234.5 | -3 | 3 m | 50% (as 50) | 1/2 | 1 1/2 | twelve | 3.5e2."""
    found = _numbers(bare(answer))
    if not MULTIPLES.isdisjoint(words(answer)):
        return None, "a number with a word such as thousand is not read"
    if not found:
        return None, "no number in the answer"
    if len(set(found)) > 1:
        return None, "several different numbers in the answer"
    return found[0], ""


def is_percentage(answer: str) -> bool:
    return "%" in answer or "percent" in answer.lower()


def plain(text: str) -> str:
    """Lower case, no articles, no punctuation, single spaces: the form in which open answers are compared."""
    return " ".join(word for word in words(text) if word not in ("a", "an", "the"))


def words(text: str) -> list[str]:
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", ""))


def bare(text: str) -> str:
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
        return None
    return data if isinstance(data, (dict, list)) else None


def json_words(data: dict[Any, Any]) -> str:
    lower = {str(key).lower(): value for key, value in data.items()}
    found = next((lower[key] for key in _WORDS_KEYS if key in lower), "")
    return bare(str(found)) if isinstance(found, (str, int, float)) else ""


_NUMBER = re.compile(
    r"(?<![\w.^])(?P<sign>(?<![\d)%])[-+])?(?:(?P<whole>\d{1,9}) )?(?P<over>\d{1,9}) ?/ ?(?P<under>\d{1,9})(?![\d/])"
    r"|(?<![\w.^])(?P<minus>(?<![\d)%])[-+])?(?P<plain>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{1,3}(?![\w]))?"
)


def _numbers(text: str) -> list[float]:
    """Every number in the text, in order: digits, fractions, then words up to twenty."""
    found = [value for match in _NUMBER.finditer(text) if (value := _number_value(match)) is not None]
    return found + [NUMBER_WORDS[word] for word in words(text) if word in NUMBER_WORDS]


def _number_value(match: re.Match[str]) -> float | None:
    sign = -1 if (match["sign"] or match["minus"]) == "-" else 1
    if match["over"]:
        if not int(match["under"]):
            return None
        return sign * float(int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"])))
    value = float(match["plain"].replace(",", "") + (match["power"] or ""))
    return sign * value if math.isfinite(value) else None
