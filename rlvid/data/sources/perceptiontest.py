"""Perception Test, multiple-choice video question answering.

Columns: the published `mc_question_train.json` and `mc_question_valid.json` are one object, video -> `metadata`, `mc_question`: list of `id`, `question`,
`options`, `answer_id`, `area`, `reasoning`, `tag` (google-deepmind/perception_test); the parquet of lmms-eval's task `perceptiontest_val_mc` has the same
as rows with `video_name` and `question_id`. The answers of the test split are not published: its questions are counted and left out. Videos: `VIDEO.mp4`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlvid.data.sources import files, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    if set(record.values) != {"key", "value"}:
        yield record.values
        return
    value = texts.rows_of(record.values["value"], "value", dict)
    for item in texts.rows_of(value.get("mc_question", []), "mc_question", list):
        item = texts.rows_of(item, "mc_question", dict)
        yield {"video_name": record.values["key"], "question_id": item.get("id"), **item}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name = texts.text(values, "video_name")
    options = texts.options(values["options"], "options")
    return Draft(
        id=f"perceptiontest-{name}-{texts.text(values, 'question_id')}",
        video=videos.find(name, f"videos/{name}"),
        question=texts.text(values, "question"),
        task="multiple_choice",
        source=f"perceptiontest/{values.get('area') or 'unknown'}/{values.get('reasoning') or 'unknown'}",
        options=options.texts,
        answer=texts.by_index(values["answer_id"], options),
        changes=options.changes,
    )


SOURCE = Source(
    "perceptiontest",
    "Perception Test benchmark: mc_question_valid.json, mc_question_train.json or the parquet",
    ("video_name", "question_id", "question", "options", "answer_id"),
    _draft,
    optional=("area", "reasoning"),
    split=_split,
    read=files.read_keyed,
)
