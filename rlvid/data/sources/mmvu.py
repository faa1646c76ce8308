"""MMVU: expert questions on videos of 27 subjects, multiple choice and open.

Columns: `id`, `video` (an address that ends in videos/SUBJECT/NUMBER.mp4), `question_type` (multiple-choice, open-ended), `question`, `choices`
(letter -> text), `answer`, as in `validation.json` of yale-nlp/MMVU; lmms-eval's task `mmvu_val` reads the same with `video_path`. Videos: the folder
`videos` or its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import COLUMNS, Unusable
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    path = _path(values)
    kind = texts.kind_of(texts.text(values, "question_type"))
    if kind not in ("multiple choice", "open ended"):
        raise Unusable("question_type", f"{kind!r} is not multiple-choice or open-ended", "unknown")
    given = texts.rows_of(values.get("choices"), "choices", dict) if kind == "multiple choice" else {}
    options = texts.options([f"{letter}. {text or ''}" for letter, text in given.items()], "choices")
    answer = texts.text(values, "answer")
    return Draft(
        id=f"mmvu-{texts.text(values, 'id')}",
        video=videos.find(path, f"videos/{path}"),
        question=texts.text(values, "question"),
        task="multiple_choice" if options.texts else "open",
        source=f"mmvu/{path.split('/')[-2] if '/' in path else 'unknown'}",
        options=options.texts,
        answer=texts.by_letter(answer, options) if options.texts else answer,
        changes=options.changes,
    )


def _path(values: Mapping[str, Any]) -> str:
    """SUBJECT/NUMBER.mp4"""
    given = values.get("video_path") or values.get("video")
    if not isinstance(given, str):
        raise Unusable(COLUMNS, "video or video_path is missing", "missing")
    return given.rpartition("videos/")[2].lstrip("/") if "://" in given or "videos/" in given else given


SOURCE = Source(
    "mmvu",
    "MMVU benchmark: validation.json",
    ("id", "question_type", "question", "answer"),
    _draft,
    optional=("video", "video_path", "choices"),
)
