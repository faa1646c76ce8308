"""VSI-Bench: sizes, distances, directions and counts in indoor scenes; multiple choice and numbers.

Columns: `id`, `dataset`, `scene_name`, `question_type`, `question`, `ground_truth`, `options` (with letters, none for numbers), as the dataset card of
nyu-visionx/VSI-Bench lists them (`test.jsonl` and parquet) and lmms-eval's task `vsibench` reads them. Videos: `DATASET/SCENE.mp4`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    dataset, scene, answer = (texts.text(values, key) for key in ("dataset", "scene_name", "ground_truth"))
    options = texts.options(values.get("options") or [], "options")
    return Draft(
        id=f"vsibench-{texts.text(values, 'id')}",
        video=videos.find(f"{dataset}/{scene}"),
        question=texts.text(values, "question"),
        task="multiple_choice" if options.texts else "regression",
        source=f"vsibench/{texts.text(values, 'question_type')}",
        options=options.texts,
        answer=texts.by_letter(answer, options) if options.texts else answer,
        changes=options.changes,
    )


SOURCE = Source(
    "vsibench",
    "VSI-Bench benchmark: test.jsonl or a parquet",
    ("id", "dataset", "scene_name", "question_type", "question", "ground_truth"),
    _draft,
    optional=("options",),
)
