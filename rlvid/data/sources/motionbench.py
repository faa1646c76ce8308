"""MotionBench: fine motions in short clips, up to six options. Half of its answers are hidden: those questions are counted and left out.

Columns: `video_info.meta.jsonl` of THUDM/MotionBench (arXiv 2501.02955) has a line a video, `key`, `video_path`, `question_type` and `qa`, a list of `uid`,
`question` with its options in lines `A. ...`, `answer` (a letter, or NA). Videos: the path, in the root or one of the folders `self-collected`,
`public-dataset`, `videos`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

FOLDERS = ("self-collected", "public-dataset", "videos")


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    whole = record.values
    if whole.get("qa") is None:
        yield whole
        return
    for item in texts.rows_of(whole["qa"], "qa", list):
        yield {"video_path": whole.get("video_path"), "question_type": whole.get("question_type"), **texts.rows_of(item, "qa", dict)}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    answer, asked, path = (texts.text(values, key) for key in ("answer", "question", "video_path"))
    if answer.upper() == "NA":
        raise Unusable("answer", "is NA (the answers of the test half are hidden)", "hidden")
    question, options = texts.split_options(asked)
    if not options.texts:
        raise Unusable("options", "the question holds no lines A. ..., B. ...", "none in the question")
    return Draft(
        id=f"motionbench-{texts.text(values, 'uid')}",
        video=videos.find(path, *(f"{folder}/{path}" for folder in FOLDERS)),
        question=question,
        task="multiple_choice",
        source=f"motionbench/{texts.text(values, 'question_type').replace(' ', '_')}",
        options=options.texts,
        answer=texts.by_letter(answer, options),
        changes=options.changes,
    )


SOURCE = Source(
    "motionbench",
    "MotionBench benchmark: video_info.meta.jsonl",
    ("video_path", "question_type", "uid", "question", "answer"),
    _draft,
    optional=("key", "qa"),
    split=_split,
)
