"""Video-MME: multiple choice on short, medium and long videos.

Columns: `videoID`, `question_id`, `duration` (short, medium, long), `question`, `options` (with letters), `answer` (a letter), as the dataset card of
lmms-lab/Video-MME lists them and lmms-eval's task `videomme` reads them. Videos: `VIDEOID.mp4` in the root or its folder `data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    options = texts.options(values["options"], "options")
    name = texts.text(values, "videoID")
    return Draft(
        id=f"videomme-{texts.text(values, 'question_id')}",
        video=videos.find(name, f"data/{name}", f"videos/{name}"),
        question=texts.text(values, "question"),
        task="multiple_choice",
        source=f"videomme/{texts.text(values, 'duration')}",
        options=options.texts,
        answer=texts.by_letter(texts.text(values, "answer"), options),
        changes=options.changes,
    )


SOURCE = Source("videomme", "Video-MME benchmark: the test parquet", ("videoID", "question_id", "duration", "question", "options", "answer"), _draft)
