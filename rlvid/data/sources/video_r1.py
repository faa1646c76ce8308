"""Video-R1-260k: questions about videos (116,000 of them) and images for reinforcement learning.

Columns: `problem_id`, `problem`, `data_type`, `problem_type`, `options`, `solution` (`<answer>...</answer>`), `path`, `data_source`, as the dataset card of
Video-R1/Video-R1-data shows them (arXiv 2503.21776). Videos: the folders CLEVRER, LLaVA-Video-178K, NeXT-QA, PerceptionTest, STAR under one root.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import problems, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos
from rlvid.types import Task

TASKS: dict[str, Task] = {
    "multiple choice": "multiple_choice",
    "numerical": "numeric",
    "regression": "regression",
    "free form": "open",
    "ocr": "open",
    "math": "math",
}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    shown = problems.shown_in(texts.text(values, "problem"), values, values["path"], videos)
    kind = texts.kind_of(texts.text(values, "problem_type"))
    if kind not in TASKS:
        raise Unusable("problem_type", f"{kind!r} is not one of {', '.join(TASKS)}", "unknown")
    task = TASKS[kind]
    options = texts.options(values.get("options") if task == "multiple_choice" else [], "options")
    answer = texts.inside_tag(texts.text(values, "solution"))
    answer = problems.formula(answer) if task == "math" else answer
    return Draft(
        id=f"video_r1-{texts.text(values, 'problem_id')}",
        video=shown.video,
        media=shown.media,
        question=shown.text,
        task=task,
        source=f"video_r1/{values.get('data_source') or 'unknown'}",
        options=options.texts,
        answer=texts.by_letter(answer, options) if options.texts else answer,
        changes=options.changes,
    )


SOURCE = Source(
    "video_r1",
    "Video-R1 training set: Video-R1-260k.json",
    ("problem_id", "problem", "data_type", "problem_type", "solution", "path"),
    _draft,
    optional=("options", "data_source"),
)
