"""A process of its own that says whether two formulas are equal: one JSON line in, one out. It runs by its path and imports nothing of this project.

math-verify reads LaTeX, sympy compares. Both meet formulas that strangers wrote: some take all memory, others never come to an end. Their own time-outs are
signals, which only a main thread may set; here is one, and seconds are those of the processor, so that a busy machine makes nothing wrong. What sits in a
single long operation of integers hears no signal: whoever started this process ends it then.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 2 << 30
RELATIVE = 1e-6
"""Two numbers are equal up to this share of the true one: what a decimal fraction of six places leaves of a root."""


class _TooLong(BaseException):
    """No Exception: sympy and math-verify catch those."""


def _ring(signum: int, frame: Any) -> None:
    raise _TooLong


@lru_cache(1024)
def _parsed(formula: str) -> list[Any]:
    """[what it means, the text], or [] where it cannot be read."""
    from math_verify import LatexExtractionConfig, parse

    found = parse(f"${formula}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
    return found if found and not isinstance(found[0], str) else []


def _number(read: Any) -> Any:
    """As a finite sympy number, or None."""
    import sympy

    if not isinstance(read, sympy.Expr) or not read.is_number:
        return None
    value = sympy.N(read, 30)
    return value if value.is_number and value.is_finite else None


def _near(wanted: Any, given: Any, tolerance: float) -> bool:
    """By their own size: math-verify takes all numbers below about 1e-7 for one."""
    return bool(abs(wanted - given) <= (RELATIVE + tolerance) * abs(wanted))


def _equal(truth: list[Any], said: list[Any], tolerance: float) -> bool:
    import sympy
    from math_verify import verify

    one, other = truth[0], said[0]
    if isinstance(one, sympy.Eq) and isinstance(one.lhs, sympy.Symbol) and not isinstance(other, sympy.Eq):
        one = one.rhs
    if isinstance(other, sympy.Eq) and isinstance(other.lhs, sympy.Symbol) and not isinstance(one, sympy.Eq):
        other = other.rhs
    wanted, given = _number(one), _number(other)
    if wanted is not None and given is not None:
        return _near(wanted, given, tolerance)
    if type(one) is type(other) and isinstance(one, sympy.FiniteSet | sympy.Tuple) and len(one.args) == len(other.args):
        many, others = [_number(part) for part in one.args], [_number(part) for part in other.args]
        if None not in (*many, *others) and all(part.is_real for part in (*many, *others)):
            pairs = zip(*(map(sorted, (many, others)) if isinstance(one, sympy.FiniteSet) else (many, others)), strict=True)
            return all(_near(truth, said, tolerance) for truth, said in pairs)
    if given is not None or wanted is not None:  # a number is no set, interval or relation
        return isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr) and sympy.simplify(one - other) == 0
    if other in (sympy.true, sympy.false, sympy.nan, sympy.zoo):
        return False
    return bool(verify(truth, said, timeout_seconds=None))


def _answered(question: dict[str, Any]) -> dict[str, Any]:
    try:
        truth = _parsed(question["truth"])
        if not truth:
            return {"equal": None, "why": "the question's own answer is no formula that can be read"}
        if question["said"] is None:
            return {"equal": True, "why": ""}
        said = _parsed(question["said"])
        if not said:
            return {"equal": None, "why": "the answer is no formula that can be read"}
        return {"equal": _equal(truth, said, question["tolerance"]), "why": ""}
    except _TooLong:
        return {"equal": None, "why": f"the formula takes more than {question['deadline_s']:g} s to compare"}
    except MemoryError:
        return {"equal": None, "why": "the formula takes too much memory to compare"}
    except Exception as error:  # whatever a text makes of the libraries
        return {"equal": None, "why": f"the formula cannot be compared ({type(error).__name__})"}


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(2000)
    replies, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not answer
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=replies, flush=True)
        return
    signal.signal(signal.SIGPROF, _ring)
    _answered({"truth": "\\sqrt{2}+x", "said": "x+1.5", "tolerance": 0.0, "deadline_s": 60})  # the libraries load the rest of themselves
    print(json.dumps({"missing": ""}), file=replies, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            signal.setitimer(signal.ITIMER_PROF, question["deadline_s"])
            answer = _answered(question)
            signal.setitimer(signal.ITIMER_PROF, 0)
        except _TooLong:  # rang between the two
            answer = {"equal": None, "why": f"the formula takes more than {question['deadline_s']:g} s to compare"}
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main()
