"""MLVU: tasks on videos of three minutes to two hours, multiple choice. Its two generation tasks need a judge model and are counted and left out.

Columns: the published files of a task (`json/1_plotQA.json`, ...) have `video`, `question`, `candidates`, `answer` (a candidate's text), `question_type`,
`duration` (arXiv 2406.04264); lmms-eval's rows have `video_name`, `question` with its options in lines `(A) ...`, `answer` (a letter), `task_type`.
Videos: the folder `video` with a folder a task (`video/1_plotQA`), or the names in the root.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

GENERATED = {"subPlot", "sub_scene", "summary"}


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    whole = record.values
    if not {"video", "video_name"} & whole.keys():
        yield whole
        return
    yield {
        "video": whole.get("video", whole.get("video_name")),
        "question_type": whole.get("question_type", whole.get("task_type")),
        **{name: whole.get(name) for name in ("question", "answer", "candidates", "duration")},
    }


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, kind, asked = (texts.text(values, key) for key in ("video", "question_type", "question"))
    if kind in GENERATED:
        raise Unusable("question_type", f"{kind} needs a judge model", "needs a judge model")
    question, options = texts.split_options(asked)
    answer, given = texts.text(values, "answer"), values.get("candidates")
    if given is not None:
        question, options = asked, texts.options(given, "candidates")
    if not options.texts:
        raise Unusable("options", "the row has no candidates, and the question holds no lines (A) ..., (B) ...", "none in the question")
    folder, duration_s = Path(record.origin).stem, values.get("duration")
    return Draft(
        id=texts.derived_id("mlvu", name, kind, asked, options.texts),
        video=videos.find(name, f"video/{folder}/{name}", f"{folder}/{name}", f"video/{name}"),
        question=question,
        task="multiple_choice",
        source=f"mlvu/{kind}",
        options=options.texts,
        answer=texts.by_letter(answer, options) if given is None else texts.by_text(answer, options),
        duration_s=None if duration_s is None else texts.seconds(duration_s, "duration"),
        changes=options.changes,
    )


SOURCE = Source(
    "mlvu",
    "MLVU benchmark: the folder json, one of its files, or lmms-eval's rows",
    ("video", "question", "answer", "question_type"),
    _draft,
    optional=("candidates", "duration", "video_name", "task_type"),
    split=_split,
)
