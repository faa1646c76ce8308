"""Pieces of text that several sources share: lettered options, answers given as letters, ids where a source has none."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from typing import Any

from rlvid.data import options as lettered
from rlvid.data.options import Options
from rlvid.data.prompts import LETTERS
from rlvid.data.sources.unusable import COLUMNS, Unusable

_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*\S)\s*", re.DOTALL)
_INSTRUCTION = re.compile(r"\s*(?:please|answer|respond|reply|select|choose|give|provide|pick|note)\b.*", re.IGNORECASE)


def options(value: Any, key: str) -> Options:
    """The options of a row, letters taken off. Unusable where they cannot be told."""
    try:
        return lettered.read(strings(value, key))
    except ValueError as error:
        raise Unusable(key, str(error), "letters that cannot be read") from None


def named_options(value: Any, key: str) -> Options:
    """The options of a row that names each by its letter: `{"A": "red", "B": "green"}`."""
    return options([f"{letter}. {text or ''}" for letter, text in rows_of(value, key, dict).items()], key)


def inside_tag(solution: str) -> str:
    """What stands in the last `<answer>` of a solution; the whole of it without one."""
    found = re.findall(r"<answer>(.*?)</answer>", solution, re.DOTALL)
    return (found[-1] if found else solution).strip()


def by_letter(answer: str, options: Options) -> str:
    """The option that `B`, `b`, `(B)` or `B. green` stands for, also where an option is a letter itself. Unusable if there is none."""
    return _among(options.by_letter(answer), answer, options)


def by_text(answer: str, options: Options) -> str:
    """The option with this text. Unusable if there is none."""
    return _among(options.by_text(answer), answer, options)


def _among(found: str | None, answer: str, options: Options) -> str:
    if found is None:
        raise Unusable("answer", f"{answer[:80]!r} is not among the {len(options.texts)} options", "not among the options")
    return found


def by_index(answer: Any, options: Options) -> str:
    """The option at a position counted from 0. Unusable if there is none."""
    try:
        at = int(answer) if not isinstance(answer, bool) and float(answer).is_integer() else -1
    except (TypeError, ValueError, OverflowError):
        at = -1
    letter = LETTERS[at] if 0 <= at < len(LETTERS) else ""
    if letter not in options.letters:
        raise Unusable("answer", f"{answer!r} is not a position among the {len(options.texts)} options", "not among the options")
    return options.texts[options.letters.index(letter)]


def split_options(text: str) -> tuple[str, Options]:
    """A question whose options stand in its last lines as `A. red` -> (question, options).

    A line without a letter goes on with the option before it, up to a blank line or an instruction ("Please answer ...") after the last one.
    """
    question: list[str] = []
    found: list[str] = []
    for line in text.splitlines():
        match = _LETTERED.fullmatch(line)
        if match and len(found) < len(LETTERS) and match[1] == LETTERS[len(found)]:
            found.append(line)
        elif not found:
            question.append(line)
        elif not line.strip() or _INSTRUCTION.fullmatch(line):
            break
        else:
            found[-1] += f" {line.strip()}"
    return "\n".join(question).removesuffix("Options:").strip(), lettered.read(found)


def strings(value: Any, key: str) -> tuple[str, ...]:
    """A list of strings, also where a file holds it as the text of one."""
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise Unusable(key, "is not a list of strings")
    return tuple(value)


def span(value: Any, key: str) -> tuple[float, float]:
    """A start and an end in seconds, also where a file holds them as the text of a list."""
    if isinstance(value, str):
        value = _parsed(value)
    try:
        start_s, end_s = (float(edge) for edge in value)
    except (TypeError, ValueError, OverflowError):
        raise Unusable(key, f"{str(value)[:80]!r} is not a start and an end", "not a start and an end") from None
    return start_s, end_s


def text(values: Any, key: str) -> str:
    """A column that must be text (numbers count as their digits)."""
    value = values.get(key) if hasattr(values, "get") else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable(key, f"is {type(value).__name__}, not text", "not text")
    return str(value).strip()


def rows_of(value: Any, key: str, kind: type) -> Any:
    """A nested part of a record that must be a list or a mapping; anything else means that the file has another format."""
    if not isinstance(value, kind):
        raise Unusable(COLUMNS, f"{key} is {type(value).__name__}, not {kind.__name__}", "missing")
    return value


def derived_id(*parts: Any) -> str:
    """An id from a question's own content, for sources without ids: the same question twice gets the same id."""
    digest = hashlib.blake2s("\0".join(str(part) for part in parts).encode("utf-8", "replace"), digest_size=6).hexdigest()
    return f"{parts[0]}-{parts[1]}-{digest}"


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def kind_of(value: str) -> str:
    """A kind as published, whatever its case and joints: `Multiple-choice` and `multiple choice` are one."""
    return " ".join(re.split(r"[\s_-]+", value.strip().lower()))


def when(sentence: str) -> str:
    """The question of a grounding source [D]."""
    return f'When does this happen in the video: "{sentence.strip()}"'


def seconds(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unusable(key, f"{str(value)[:40]!r} is not a number of seconds", "not a number") from None
