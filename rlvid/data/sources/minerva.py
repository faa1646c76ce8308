"""MINERVA: questions that take several steps of reasoning, five options.

Columns: `key`, `video_id`, `question`, `answer_choice_0` ... `answer_choice_4`, `answer_id` (counted from 0), `question_type`, `split`, `category`, as in
`minerva.json` of google-deepmind/neptune (arXiv 2505.00681) and as lmms-eval's task `minerva` reads it. Videos: `VIDEO_ID.mp4`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos

CHOICES = tuple(f"answer_choice_{at}" for at in range(5))


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name = texts.text(values, "video_id")
    options = texts.options([texts.text(values, choice) for choice in CHOICES], "answer_choice_0")
    categories = [str(values.get(key) or "unknown").strip().replace("/", "-") for key in ("question_type", "split", "category")]
    return Draft(
        id=f"minerva-{texts.text(values, 'key')}",
        video=videos.find(name, f"videos/{name}"),
        question=texts.text(values, "question"),
        task="multiple_choice",
        source="/".join(["minerva", *categories]),
        options=options.texts,
        answer=texts.by_index(values["answer_id"], options),
        changes=options.changes,
    )


SOURCE = Source(
    "minerva",
    "MINERVA benchmark: minerva.json",
    ("key", "video_id", "question", "answer_id", *CHOICES),
    _draft,
    optional=("question_type", "split", "category"),
)
