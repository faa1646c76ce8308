"""LVBench: videos of half an hour and more, four options, six kinds of questions of which one may be several.

Columns: `video_info.meta.jsonl` of THUDM/LVBench (arXiv 2406.08035) has a line a video, `key`, `type` and `qa`, a list of `uid`, `question` with its options
in lines `(A) ...`, `answer` (a letter), `question_type` (a list), `time_reference`. lmms-eval's rows have `video_path`, `question`, `answer` and may have
`uid`, `question_type` and `options`. Videos: `KEY.mp4`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    whole = record.values
    if whole.get("qa") is None:
        yield whole
        return
    for item in texts.rows_of(whole["qa"], "qa", list):
        yield {"video_path": whole.get("key"), **texts.rows_of(item, "qa", dict)}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    asked, name = texts.text(values, "question"), texts.text(values, "video_path")
    question, options = texts.split_options(asked)
    if not options.texts:
        options = texts.options(values.get("options") or [], "options")
    if not options.texts:
        raise Unusable("options", "the question holds no lines (A) ..., (B) ...", "none in the question")
    kinds = values.get("question_type") or []
    kinds = [kinds] if isinstance(kinds, str) else texts.strings(kinds, "question_type")
    return Draft(
        id=f"lvbench-{values['uid']}" if values.get("uid") is not None else texts.derived_id("lvbench", name, asked),
        video=videos.find(name, f"all_videos/{name}", f"videos/{name}"),
        question=question,
        task="multiple_choice",
        source="/".join(["lvbench", *(kind.strip().replace(" ", "_") for kind in kinds)]),
        options=options.texts,
        answer=texts.by_letter(texts.text(values, "answer"), options),
        changes=options.changes,
    )


SOURCE = Source(
    "lvbench",
    "LVBench benchmark: video_info.meta.jsonl or lmms-eval's rows",
    ("video_path", "question", "answer"),
    _draft,
    optional=("key", "qa", "uid", "question_type", "options"),
    split=_split,
)
