"""LongVideo-Reason: reasoning about long videos, for training and as LongVideo-Reason-eval.

Columns: `problem` (options in its last lines where it has some), `videos` (one path) and `answer`; the training split also has `reasoning` (arXiv 2507.07966,
LongVideo-Reason/longvideo-reason on the hub; read as AReaL's data set of that name reads it). `problem_type` names the kind, where it is there. Videos: the
root, or its folder `longvila_videos`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    asked, name = texts.text(values, "problem"), texts.text(values, "videos")
    question, options = texts.split_options(asked)
    answer = texts.inside_tag(texts.text(values, "answer"))
    return Draft(
        id=texts.derived_id("longvideo_reason", name, asked),
        video=videos.find(name, f"longvila_videos/{name}"),
        question=question if options.texts else asked,
        task="multiple_choice" if options.texts else "open",
        source=f"longvideo_reason/{str(values.get('problem_type') or 'unknown').strip()}",
        options=options.texts,
        answer=texts.by_letter(answer, options) if options.texts else answer,
        changes=options.changes,
    )


SOURCE = Source(
    "longvideo_reason",
    "LongVideo-Reason, training and benchmark: the jsonl, or longvideo-reason@test on the hub",
    ("problem", "videos", "answer", "reasoning"),
    _draft,
    optional=("problem_type",),
)
