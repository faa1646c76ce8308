"""Rows of a Hugging Face data set by its id, streamed, where the package `datasets` and a hub are at hand."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from rlvid.data.questions import QuestionError
from rlvid.data.sources.base import Record
from rlvid.data.sources.unusable import Unusable

_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


def is_hub_id(given: str) -> bool:
    """OWNER/NAME, OWNER/NAME:CONFIG, OWNER/NAME@SPLIT or OWNER/NAME:CONFIG@SPLIT."""
    return bool(_ID.fullmatch(given))


def read(given: str, columns: tuple[str, ...] | None) -> Iterator[Record]:
    """The rows of one split (the only one, unless `@SPLIT` names it), with these columns (None: all). QuestionError with one clear line where the hub cannot
    be read. The hub is asked once for an id, however often its rows are read."""
    rows = _rows(given)
    match = _ID.fullmatch(given)
    origin = (match and match["config"]) or given
    for number, values in enumerate(_each(rows, given), start=1):
        if isinstance(values, dict):
            yield Record(f"row {number}", {name: value for name, value in values.items() if columns is None or name in columns}, origin)
        else:
            yield Record(f"row {number}", {}, origin, wrong=Unusable("row", f"is {type(values).__name__}, not an object", "not an object"))


def _each(rows: Any, given: str) -> Iterator[Any]:
    try:
        yield from rows
    except Exception as error:  # the network went, or a file of the data set is broken
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise QuestionError(f"{given}: cannot be read on from the hub ({reason}; or download the file and name it here)", "hub") from None


@functools.lru_cache(maxsize=1)
def _rows(given: str) -> Any:
    match = _ID.fullmatch(given)
    if match is None:
        raise QuestionError(f"{given}: does not exist (name a file or folder as downloaded, or a hub id OWNER/NAME[:CONFIG][@SPLIT])", "file")
    try:
        import datasets
    except ImportError:
        cure = "pip install datasets, or download the file and name it here"
        raise QuestionError(f"{given}: is no file here, and reading it from the hub needs the package datasets ({cure})", "hub") from None
    try:
        found = datasets.load_dataset(match["name"], match["config"], split=match["split"], streaming=True)
    except Exception as error:  # no network, no such id, a script that must not run: each library version has its own errors
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise QuestionError(f"{given}: cannot be read from the hub ({reason}; or download the file and name it here)", "hub") from None
    if isinstance(found, dict):
        if len(found) != 1:
            raise QuestionError(f"{given}: has the splits {', '.join(sorted(found))} (name one: {match['name']}@SPLIT)", "hub")
        found = next(iter(found.values()))
    return found.decode(False) if hasattr(found, "decode") else found  # videos and pictures stay files: no row needs their pixels
