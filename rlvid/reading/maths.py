"""Answers that are formulas: the one formula of a text, and whether two are equal, by math-verify in a process of its own (`rlvid.reading.prover`).

As everywhere in reading answers: a text gives `(value, "")` or `(None, reason)`, never an exception. A text has one reading, whatever the truth [D].
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import unicodedata
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlvid.config.base import ConfigError
from rlvid.reading.answers import NOTHING_INSIDE, bare, is_percentage, number, unwrapped, words
from rlvid.reading.choices import HEDGES, NEGATIONS, after_lead_in

MAX_CHARACTERS = 500
"""Of a formula."""
START_DEADLINE_S = 120
"""For the process to import sympy on a busy machine."""
PATIENCE = 10
"""What stays silent for so many times its deadline, which counts seconds of the processor, hears no signal."""
KNOWN = 4096
"""Pairs of formulas whose comparison is remembered."""

_DELIMITED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_FUNCTIONS = ["arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "pi"]
_NAMED = re.compile(rf"(?<![A-Za-z\\])({'|'.join(_FUNCTIONS)})(?![A-Za-z])")
_WORD = re.compile(r"[^\W\d_]{4,}|(?<=[\d.] )[^\W\d_]{2,}|\A[^\W\d_]{3}\Z")
_JOINT = re.compile(r"\s+(?:or|and|,|, ?and|, ?or)\s+")
_SPACES = re.compile(r"\\[,;:! ]|(?<!\\)~|\\displaystyle|\\left(?![a-z])|\\right(?![a-z])")


RELATIVE = Fraction(1, 10**6)
"""As the other process compares numbers."""
_DECIMAL = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?|\.\d{1,40})(?:/(?P<under>\d{1,40}))?"
    r"|\\frac\{(?P<over>\d{1,40})\}\{(?P<below>\d{1,40})\})(?P<percent>\\%)?"
)
_TEN_TO = re.compile(r"\\(?:times|cdot) *10 *\^")
_OPERATION = re.compile(r"\d\s+\d|\)\s*\(|\+|(?<=[\w)}]) *-|!|\\(?:times|cdot|div|sum|prod|int|lim|log|ln|binom|gcd|sin|cos|tan|mod|bmod)(?![a-z])")
"""What a number that is worked out does not hold: to say the question's own `17 \\times 23` once more is no answer [D]."""


def formula(answer: str) -> tuple[str | None, str]:
    """The one formula of an answer as LaTeX without its delimiters: `$x=3$`, `\\boxed{\\frac12}`, `The answer is \\(2\\pi\\).`, `sqrt(2)/2`, `3 cm`."""
    text = unicodedata.normalize("NFC", answer).replace("−", "-").replace("\\$", "").strip()
    if text.startswith(("{", "json")) and '"' in text:
        text = unwrapped(text).strip()
    if re.fullmatch(r"(\*\*|`).+\1", text, re.DOTALL):
        text = text.strip("*`").strip()
    text, found = _boxes_opened(text)
    inside = [next(filter(None, groups)) for groups in _DELIMITED.findall(text)]
    if found or inside:
        return _only([*found, *inside], [] if found else [text[one.end() : other.start()] for one, other in pairwise(_DELIMITED.finditer(text))], text)
    return _plain(text)


def _only(found: list[str], between: list[str], text: str) -> tuple[str | None, str]:
    """The formula where there is one, and the words beside it say nothing against it. `$1$ or $2$` is the list 1, 2, which is equal to neither."""
    beside = _DELIMITED.sub(" ", text)
    distinct = {re.sub(r"\s", "", one): one for one in found}
    if len(distinct) > 1:
        if not between or not all(_JOINT.fullmatch(f" {joint.strip()} ") for joint in between):
            return None, "several formulas in the answer"
        distinct, beside = {"": ", ".join(distinct.values())}, _JOINT.sub(" ", beside)
    said = set(words(beside))
    if said & NEGATIONS or said & HEDGES or re.search(r"\d", beside):
        return None, "the answer says something else beside its formula"
    return _checked(next(iter(distinct.values())))


def _plain(text: str) -> tuple[str | None, str]:
    """A formula without delimiters; or a number with its unit, in words or digits."""
    if "\\" not in text:
        text = after_lead_in(text).strip().rstrip(".").strip()
        said = _JOINT.sub(", ", text)
        if _WORD.search(_NAMED.sub("", said)):
            value, reason = number(text)
            if value is None:
                return None, reason
            return (f"{int(value)}" if value == int(value) else repr(value)) + ("\\%" if is_percentage(text) else ""), ""
        return _checked(_from_plain(bare(said)))
    return _checked(after_lead_in(text).strip().rstrip(".").strip())


def _from_plain(text: str) -> str:
    """`sqrt(2)/2 * x**2` as LaTeX."""
    text = _NAMED.sub(r"\\\1", text.replace("**", "^"))
    for at in reversed([match.end() for match in re.finditer(r"\\sqrt(?=\()", text)]):
        end = _closing(text, at, "()")
        text = f"{text[:at]}{{{text[at + 1 : end]}}}{text[end + 1 :]}" if end else text
    text = re.sub(r"\^\(([^()]*)\)", r"^{\1}", text)
    return re.sub(r"(?<![\\])\*", r"\\cdot ", text).replace("%", r"\%")


def _boxes_opened(text: str) -> tuple[str, list[str]]:
    """The text without `\\boxed{...}`, and what stands in them."""
    found = []
    for _ in range(8):
        at = text.find("\\boxed{")
        end = _closing(text, at + len("\\boxed"), "{}") if at >= 0 else 0
        if not end:
            break
        found.append(text[at + len("\\boxed{") : end])
        text = f"{text[:at]} {text[end + 1 :]}"
    if found:
        text = re.sub(r"\$\s*\$|\\\(\s*\\\)|\\\[\s*\\\]", " ", text)
    return text, found


def _closing(text: str, at: int, pair: str) -> int:
    """Where the bracket that opens at a place closes; 0 where it does not."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] == pair[0]) - (text[place] == pair[1])
        if not depth:
            return place
    return 0


def _checked(text: str) -> tuple[str | None, str]:
    text = " ".join(_SPACES.sub(" ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").split()).strip("$").rstrip(".,;").strip()
    if not text:
        return None, NOTHING_INSIDE
    if len(text) > MAX_CHARACTERS:
        return None, f"the formula has {len(text)} characters, more than {MAX_CHARACTERS}"
    if "$" in text or re.search(r"\\boxed|\\\(|\\\)|\\\[|\\\]", text):
        return None, "several formulas in the answer"
    return re.sub(r"\\frac ?(\d)(\d)", r"\\frac{\1}{\2}", text), ""


def equal(answer: str, truth: str, *, tolerance: float = 0.0, in_percent: bool = False, deadline_s: float = 2.0) -> tuple[bool, str]:
    """Whether an answer is the true formula, and why not where it could not be read or compared in time. `tolerance`: relative, of numbers. `in_percent`: a
    percentage is asked for, so numbers are percentages with and without the sign; else 50% is 0.5."""
    said, reason = formula(answer)
    wanted, why = formula(truth)
    if said is None or wanted is None:
        return False, reason or f"the question's own answer: {why}"
    if in_percent:
        said, wanted = (text.replace("\\%", "").strip() for text in (said, wanted))
    if said == wanted:
        return True, ""
    one, other = _decimal(wanted), _decimal(said)
    if one is not None and other is not None:  # most answers: nothing to be asked
        return abs(one - other) <= (RELATIVE + Fraction(tolerance)) * abs(one), ""
    if one is not None and _OPERATION.search(_TEN_TO.sub("", said)):
        return False, "the answer is not worked out"
    found, reason = _PROVER.equal(wanted, said, tolerance, deadline_s)
    return bool(found), reason


def _decimal(text: str) -> Fraction | None:
    """A number that is written out: -1,234.5 | 3/4 | \\frac{3}{4} | 50\\%."""
    match = _DECIMAL.fullmatch(text.replace(" ", ""))
    if match is None or not int(match["under"] or match["below"] or 1):
        return None
    if match["whole"]:
        value = Fraction(match["whole"].replace(",", "")) / int(match["under"] or 1)
    else:
        value = Fraction(int(match["over"]), int(match["below"]))
    value /= 100 if match["percent"] else 1
    return -value if match["sign"] == "-" else value


def problem(truth: str, *, deadline_s: float = 10.0) -> str:
    """Why a text cannot be the true answer of a math question; empty where it can. ConfigError without math-verify."""
    wanted, reason = formula(truth)
    return reason if wanted is None else _PROVER.equal(wanted, None, 0.0, deadline_s)[1]


def start() -> None:
    """Make the process ready before the first answer. ConfigError where it cannot be."""
    problem("1")


class Prover:
    """The process, started when it is first asked, and again after it had to be ended. One question at a time, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self.compared = lru_cache(KNOWN)(self._asked)
        """(truth, said, tolerance, deadline) -> (equal, why not). Raises _NoVerdict, which is not remembered."""

    def equal(self, truth: str, said: str | None, tolerance: float, deadline_s: float) -> tuple[bool | None, str]:
        """None: it could not be read or compared. ConfigError where the process cannot be started at all."""
        try:
            return self.compared(truth, said, tolerance, deadline_s)
        except _NoVerdict as error:
            return None, str(error)

    def _asked(self, truth: str, said: str | None, tolerance: float, deadline_s: float) -> tuple[bool | None, str]:
        question = {"truth": truth, "said": said, "tolerance": tolerance, "deadline_s": deadline_s}
        with self._lock:
            process = self._started()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
                answer = _line(process, PATIENCE * deadline_s)
            except (OSError, ValueError):
                answer = None
            if answer is None:
                self._end()
                raise _NoVerdict(f"the formula takes more than {deadline_s:g} s, or too much memory, to compare")
        return answer["equal"], answer["why"]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        # No key of this process's environment goes to a process that reads formulas of strangers.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("prover.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the run, which then closes its stdin
        )
        self._owner = os.getpid()
        ready = _line(process, START_DEADLINE_S)
        if ready is None or ready["missing"]:
            self._end()
            why = ready["missing"] if ready else "its process did not start"
            raise ConfigError(f"task math needs the package math-verify: {why} (deploy/setup.sh installs it)")
        return process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class _NoVerdict(Exception):
    """Not in time: another time it may be."""


def _line(process: subprocess.Popen[bytes], deadline_s: float) -> Any:
    """The next line that it writes, as JSON; None where none comes in time, or it has ended."""
    assert process.stdout is not None
    found, ends = b"", time.monotonic() + deadline_s
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, ends - time.monotonic()))
        piece = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not piece:
            return None
        found += piece
    return json.loads(found)


_PROVER = Prover()
