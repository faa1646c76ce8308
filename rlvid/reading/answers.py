"""Reading what a model wrote: the answer tag, its spellings, JSON around it, numbers. Strict outside, forgiving inside [D].

Every reader returns `(value, "")` or `(None, reason)` and never raises, whatever the text. Each pattern is linear in the
text, and an answer longer than MAX_ANSWER_CHARS is not read at all. Number words are text2num's (4 microseconds a text). Tried on tests/unit/spellings.json
and left out: math-verify reads half of the numbers (3.5e2 as 3.5) at 6 ms each, and times out by signals, which only a main thread has; word2number reads
a third ("two or three" as 5); quantulum3 0.10 two thirds of the numbers and half of the spans ("minus 5" as 5, "65-80" as 72.5) at 7 ms or more; dateparser
reads `1:05` as a time of today.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import Any

from text_to_num import alpha2digit

MAX_ANSWER_CHARS = 4000
"""Nothing this project asks for takes more; longer answers are not an answer."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
NOTHING_INSIDE = "the answer is empty"
_OTHER_NUMBERS = re.compile(
    r"\b(?:(?:one|two|three|a|an|\d) (?:half|third|quarter|fifth)s?|halves|two-thirds|one-third|one-half|(?:half|quarter)(?: of)? an?"
    r"|dozens?|hundreds|thousands|millions|billions)\b",
    re.IGNORECASE,
)
_BEFORE_A_NUMBER = re.compile(
    r"n['’]t\b|\b(?:not|never|neither|nor|except|without|over|under|at (?:least|most)|(?:more|less|fewer|greater|larger|smaller|other) than)\b|[<>≤≥≠]"
    r"|不是|并非|没有|不到|[少多大小高低]于|至少|最多|超过",
    re.IGNORECASE,
)
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LATEX = (  # what it stands for: \text{red} and \boxed{red}, \(5\) and $5$ (dollars have no closing sign), 1{,}234, 5\,s, \frac12
    (re.compile(r"\\(?:boxed|text|textbf|textit|mathrm|mathbf|mbox) ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\[dt]?frac ?(?:\{(\d{1,9})\} ?\{(\d{1,9})\}|(\d)(\d))"), r"\1\3/\2\4"),
    (re.compile(r"\\\(|\\\)|\\\[|\\\]|\\left\b|\\right\b"), ""),
    (re.compile(r"\\[,;:! ]|~(?=\\)|(?<=\d)~"), " "),
    (re.compile(r"\\(?=[%$#&_])"), ""),
    (re.compile(r"\{,\}"), ","),
)
_MATH = re.compile(r"(?<!\$)\$([^$\s](?:[^$]*[^$\s])?)\$(?![\d$])")
_POWER_OF_TEN = re.compile(r"(?:(?<![\w.^])(\d{1,9}(?:\.\d{1,9})?) ?(?:[x×*·]|\\times) ?|(?<![\w.^]))10 ?\^ ?\{?([-+]?\d{1,3})\}?(?!\d)")
_NEGATIVE = re.compile(r"\b(?:minus|negative) (?=\.?\d)|(?<![\w)%.,] )(?<![\w)%.])[–—](?=\.?\d)", re.IGNORECASE)
_CONTINUED = re.compile(r"\^|[x×_*]\d|[kKM](?!\w)")
_WORDS_KEYS = ("answer", "finalanswer", "choice", "option", "label")
_WORDS = re.compile(r"[^\W_]+(?:[.,:/][0-9]+)*")
_SIGNED_WORDS = re.compile(r"(?<![\w)%])[-+]?(?:\d+(?:[.,:/]\d+)*|\.\d+)|[-+](?=\.?\d)|[^\W_]+(?:[.,:/][0-9]+)*|[%+#<>=^]")


def opened_by(prompt: str) -> str:
    """`<think>` where the chat template has opened the thinking itself: it belongs to the reply."""
    return "<think>" if prompt.rstrip().endswith("<think>") else ""


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
    """Whether the whole reply is `<think>words</think> <answer>...</answer>`, each tag exactly once and only space around the blocks."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    reply = text.strip()
    think_end, answer_start = reply.find("</think>"), reply.find("<answer>")
    ordered = reply.startswith("<think>") and reply.endswith("</answer>") and think_end < answer_start
    thought = reply[len("<think>") : think_end]
    return ordered and not reply[think_end + len("</think>") : answer_start].strip() and any(map(str.isalnum, thought))


def unwrapped(answer: str) -> str:
    """`{"answer": "B"}` -> `B`, `["A", "C"]` -> `A, C`; any other text as it is."""
    data = json_value(bare(answer))
    return answer if data is None else json_words(data) if isinstance(data, dict) else _listed(data) or answer


def number(answer: str) -> tuple[float | None, str]:
    """The one number that the answer holds: 1,234.5 | -3 | minus 3 | 3 m | 50% (as 50) | 1/2 | 1 1/2 | twenty-one | 3.5e2 | 3.5 x 10^2 | 1 + 2 = 3 (as 3)."""
    said = bare(answer)
    if _OTHER_NUMBERS.search(said):
        return None, "a number with a word such as dozen, thousands or half is not read"
    text = _plain_numbers(said)
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
    return re.split(r"[,;:.]|\bbut\b", text[:at])[-1]


def is_percentage(answer: str) -> bool:
    answer = unicodedata.normalize("NFKC", answer)
    return "%" in answer or "percent" in answer.lower()


@lru_cache(2048)
def plain(text: str) -> str:
    """Lower case, no articles, no punctuation but signs, numbers as digits, single spaces: the form in which open answers are compared."""
    return " ".join(word for word in signed_words(digits(text)) if word not in ("a", "an", "the"))


def digits(text: str) -> str:
    """Number words as digits: `twenty-one cups` -> `21 cups`. Ordinals stay words, "a second" above all."""
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair, as a JSON file may hold one, is no text to the library
    found = alpha2digit(text, "en", 0.0)
    return found if found == text else re.sub(r"\d+(?:st|nd|rd|th)\b", lambda match: match[0] if match[0] in text else " ", found)


def words(text: str) -> list[str]:
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", ""))


def signed_words(text: str) -> list[str]:
    """Like `words`, but "-5" is not "5", "x-1" not "x+1", ".5" is "0.5" and "C++" not "C"."""
    text = _NEGATIVE.sub("-", unicodedata.normalize("NFKC", _with_powers(text)).replace("−", "-"))
    found = _SIGNED_WORDS.findall(text.casefold().replace("'", "").replace("’", ""))
    return [re.sub(r"^([-+]?)\.", r"\g<1>0.", word) for word in found]


def bare(text: str) -> str:
    """One line's worth: no outer space, markdown, quotes or LaTeX, single spaces, plain dashes; a JSON string opened."""
    text = _VULGAR_FRACTION.sub(" ", _with_powers(text))
    text = " ".join(unicodedata.normalize("NFKC", text).replace("−", "-").replace("⁄", "/").split())
    for _ in range(3):
        before = text
        if "\\" in text or "$" in text or "{," in text:
            for form, plainly in _LATEX:
                text = form.sub(plainly, text)
            text = " ".join(_MATH.sub(r"\1", text).split())
        text = text.strip("*`_ ").strip()
        if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’")):
            text = text[1:-1].strip()
        if text == before:
            break
    return text


@lru_cache(2048)
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
    return _listed(found) if isinstance(found, list) else bare(str(found)) if isinstance(found, (str, int, float)) else ""


def _listed(items: list[Any]) -> str:
    return ", ".join(bare(str(item)) for item in items) if all(isinstance(item, (str, int, float)) for item in items) else ""


_GROUPED = r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d| ?/)"
_BEFORE = r"(?<![^\W\u3400-\u9fff])(?<![.^])"  # no letter, but Chinese writes without spaces: 答案是3
_NUMBER = re.compile(
    rf"{_BEFORE}(?P<sign>(?<![\d)%])[-+])?(?:(?P<whole>\d{{1,9}}) )?(?P<over>\d{{1,9}}) ?/ ?(?P<under>\d{{1,9}})(?![\d/])"
    rf"|{_BEFORE}(?P<minus>(?<![\d)%])[-+])?(?P<plain>(?:{_GROUPED}|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{{1,3}}(?![\w]))?"
)


def _with_powers(text: str) -> str:
    """Raised digits as powers, before NFKC makes 102 of 10²."""
    return _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]).replace("−", "-"), text)


def _plain_numbers(text: str) -> str:
    """3.5 x 10^2 as 3.5e2, 1.2k as 1.2e3 (but 4k is a size of pictures), minus 5 as -5, twenty as 20; of an equation its right side."""
    text = _POWER_OF_TEN.sub(lambda match: f"{match[1] or 1}e{match[2]}", text)
    text = re.sub(r"(?<=\d)(\.\d+)[kK](?![^\W_])", r"\1e3", text)
    *_, right = re.split(r"(?<![<>!])=", text)
    return _NEGATIVE.sub("-", digits(right if re.search(r"[\w]", right) else text))


def _numbers(text: str) -> tuple[list[tuple[float, int]], str]:
    """Every number in the text with its place; or why one of them cannot be read."""
    found = []
    for match in _NUMBER.finditer(text):
        if _CONTINUED.match(text, match.end()):
            return [], f"{text[match.start() : match.end() + 2]!r} is not read as a number"
        if (value := _number_value(match)) is not None:
            found.append((value, match.start()))
    return found, ""


def _number_value(match: re.Match[str]) -> float | None:
    sign = -1 if (match["sign"] or match["minus"]) == "-" else 1
    if match["over"]:
        if not int(match["under"]):
            return None
        return sign * float(int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"])))
    value = float(re.sub("[, ]", "", match["plain"]) + (match["power"] or ""))
    return sign * value if math.isfinite(value) else None
