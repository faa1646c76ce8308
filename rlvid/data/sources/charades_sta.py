"""Charades-STA: when does a sentence happen in a 30-second home video.

Columns: the published `charades_sta_train.txt` and `charades_sta_test.txt` have a line `VIDEO START END##SENTENCE` for each question (TALL, arXiv
1705.02101); the parquet of lmms-eval's task `temporal_grounding_charades` has `video`, `caption`, `timestamp`. Videos: Charades_v1 or Charades_v1_480.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvid.data.sources import files, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

_LINE = re.compile(r"(\S+) +([\d.]+) +([\d.]+) *## *(.+)")


def _read(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    if path.suffix.lower() != ".txt":
        yield from files.read(path, columns)
        return
    for number, share, line in files.lines(path):
        match = _LINE.fullmatch(line)
        if match:
            yield Record(f"line {number}", {"video": match[1], "timestamp": [match[2], match[3]], "caption": match[4]}, str(path), share)
        else:
            wrong = Unusable("line", f"{line[:80]!r} is not VIDEO START END##SENTENCE", "not VIDEO START END##SENTENCE")
            yield Record(f"line {number}", {}, str(path), share, wrong)


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, sentence, span = texts.text(values, "video"), texts.text(values, "caption"), texts.span(values["timestamp"], "timestamp")
    return Draft(
        id=texts.derived_id("charades_sta", Path(name).stem, sentence, *span),
        video=videos.find(name, f"Charades_v1_480/{name}", f"Charades_v1/{name}"),
        question=texts.when(sentence),
        task="temporal_grounding",
        source="charades_sta",
        spans=(span,),
    )


SOURCE = Source(
    "charades_sta",
    "Charades-STA, training and benchmark: charades_sta_train.txt, charades_sta_test.txt or the parquet",
    ("video", "caption", "timestamp"),
    _draft,
    read=_read,
)
