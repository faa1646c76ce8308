"""What a source is: rows as they were published, and the drafts of questions made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos
from rlvid.reading.boxes import Four
from rlvid.types import Medium, Span, Task


@dataclass(frozen=True)
class Record:
    """One row as published. `place` says where it stands (`row 7`), `origin` names its file or hub configuration, `share` is the part of the file read so far.

    A row that cannot be read has `wrong` and no values.
    """

    place: str
    values: Mapping[str, Any]
    origin: str = ""
    share: float = 0.0
    wrong: Unusable | None = None


@dataclass(frozen=True)
class Draft:
    """A question as its source tells it; `video` is the file found, empty where there is not exactly one; `media` all that is shown in the prompt's order,
    where that is not one video; `duration_s` the video's length if the annotation has it, `changes` the kinds of
    what stands otherwise in the file (`rlvid.data.options`); `box` and `track` (seconds, box) count in `box_size`."""

    id: str
    video: str
    question: str
    task: Task
    source: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    spans: tuple[Span, ...] = ()
    clip: Span | None = None
    duration_s: float | None = None
    changes: tuple[str, ...] = ()
    media: tuple[Medium, ...] = ()
    box: Four | None = None
    track: tuple[tuple[float, Four], ...] = ()
    box_size: tuple[float, float] = (1.0, 1.0)


def _whole(record: Record) -> Iterator[Mapping[str, Any]]:
    yield record.values


Drafter = Callable[[Record, Mapping[str, Any], Videos], Draft]
Splitter = Callable[[Record], Iterable[Mapping[str, Any]]]
Reader = Callable[[Path, tuple[str, ...]], Iterator[Record]]


@dataclass(frozen=True)
class Source:
    """A published format: its name, one line about it, the columns that a row must have, and how a row becomes a draft.

    `split` takes a record that holds several questions apart; `read` is for files that are not plain rows.
    """

    name: str
    about: str
    columns: tuple[str, ...]
    draft: Drafter
    optional: tuple[str, ...] = ()
    split: Splitter = _whole
    read: Reader | None = None
