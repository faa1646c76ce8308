"""LongVideoBench: questions that refer to a moment of a video of up to an hour.

Columns: `id`, `video_path`, `question`, `candidates`, `correct_choice` (counted from 0), `duration_group` (15, 60, 600, 3600), `question_category`,
`duration`, as in `lvb_val.json` of longvideobench/LongVideoBench (arXiv 2407.15754); the parquet that lmms-eval's task reads has `option0` ... `option4`
with `N/A` for those that are not there. The test split has no answers. The metric is accuracy, over all and by length and category. Subtitles are
not shown [D], as in the benchmark's own runs without them.
Videos: the folder `videos`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    given = values.get("candidates")
    if given is None:
        given = [values[name] for name in OPTIONS if values.get(name) not in (None, "N/A")]
    if values["correct_choice"] == -1:
        raise Unusable("correct_choice", "is -1 (the test split has no answers: take lvb_val.json)", "none in the test split")
    options = texts.options(given, "candidates")
    path, duration_s = texts.text(values, "video_path"), values.get("duration")
    return Draft(
        id=f"longvideobench-{texts.text(values, 'id')}",
        video=videos.find(path, f"videos/{path}"),
        question=texts.text(values, "question"),
        task="multiple_choice",
        source=f"longvideobench/{texts.text(values, 'duration_group')}/{texts.text(values, 'question_category')}",
        options=options.texts,
        answer=texts.by_index(values["correct_choice"], options),
        duration_s=None if duration_s is None else texts.seconds(duration_s, "duration"),
        changes=options.changes,
    )


OPTIONS = tuple(f"option{at}" for at in range(5))
SOURCE = Source(
    "longvideobench",
    "LongVideoBench benchmark: lvb_val.json or the validation parquet",
    ("id", "video_path", "question", "correct_choice", "duration_group", "question_category"),
    _draft,
    optional=("candidates", "duration", *OPTIONS),
)
