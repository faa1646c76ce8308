"""Which published format a file has, told from its first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from rlvid.config.base import ConfigError
from rlvid.data.questions import REQUIRED, TASKS, QuestionError
from rlvid.data.sources import files, hub
from rlvid.data.sources.base import Record, Source
from rlvid.data.sources.unusable import Unusable

ROWS = 20


def recognised(given: str, sources: Mapping[str, Source]) -> tuple[Source, str]:
    """The source whose columns the first rows have, and why in one line; of several the one that knows most of the rows' columns. ConfigError if none."""
    if own := _is_question_file(given):
        raise ConfigError(own)
    streamed = None if Path(given).exists() else list(islice(hub.read(given, None), ROWS))
    fitting = [(known, -at, source) for at, source in enumerate(sources.values()) if (known := _known_columns(given, source, streamed))]
    if not fitting:
        cure = "rlvid data sources lists the columns of each; name one in place of auto"
        raise ConfigError(f"{given}: its rows have no known format{_seen(given, streamed)} ({cure})")
    _, _, source = max(fitting, key=lambda fit: fit[:2])
    others = [other.name for _, _, other in sorted(fitting, key=lambda fit: fit[:2], reverse=True)[1:]]
    also = f"; {', '.join(others)} would fit, too" if others else ""
    return source, f"taken for {source.name}: its rows have {', '.join(source.columns)}{also}"


def _is_question_file(given: str) -> str:
    """Why nothing is to be converted; empty where something is."""
    try:
        record = next(iter(files.read(Path(given), ())), None) if Path(given).exists() else None
    except QuestionError:
        return ""
    tasks = record is not None and record.values.get("task") in TASKS and set(REQUIRED) <= set(record.values)
    return f"{given}: it is a question file already (rlvid data check looks at it)" if tasks else ""


def _known_columns(given: str, source: Source, streamed: Sequence[Record] | None) -> int:
    """How many columns of the first rows the source knows; 0 where none of them has all that it needs."""
    try:
        rows = [values for values in _rows(given, source, streamed) if all(values.get(name) is not None for name in source.columns)]
    except (QuestionError, OSError):
        return 0
    return max((len({*source.columns, *source.optional} & {name for name, value in values.items() if value is not None}) for values in rows), default=0)


def _rows(given: str, source: Source, streamed: Sequence[Record] | None) -> list[Mapping[str, object]]:
    """Of a file, read as the source reads it; or of a hub id's first rows."""
    found: list[Mapping[str, object]] = []
    columns = source.columns + source.optional
    for record in islice((source.read or files.read)(Path(given), columns), ROWS) if streamed is None else streamed:
        try:
            if record.wrong is None:
                found += source.split(record)
        except Unusable:
            continue
    return found


def _seen(given: str, streamed: Sequence[Record] | None) -> str:
    """What the first row holds, for the message."""
    try:
        record = next(iter(files.read(Path(given), ()) if streamed is None else streamed), None)
    except QuestionError as error:
        return f" ({error})"
    if record is None or not record.values:
        return ""
    return f": the first has {', '.join(str(name)[:40] for name in list(record.values)[:12])}"
