"""QVHighlights, training and moment retrieval: the moments of a video that a sentence describes; they may be several.

Columns: `qid`, `query`, `duration`, `vid`, `relevant_windows` ([[start, end], ...] in seconds), as in `highlight_train_release.jsonl` and
`highlight_val_release.jsonl` of jayleicn/moment_detr (arXiv 2107.09609). The test split has no windows. Saliency is not asked for. Videos: `VID.mp4`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, windows = texts.text(values, "vid"), texts.rows_of(values["relevant_windows"], "relevant_windows", list)
    return Draft(
        id=f"qvhighlights-{texts.text(values, 'qid')}",
        video=videos.find(name, f"videos/{name}"),
        question=texts.when(texts.text(values, "query")),
        task="temporal_grounding",
        source="qvhighlights",
        spans=tuple(texts.span(window, "relevant_windows") for window in windows),
        duration_s=texts.seconds(values["duration"], "duration"),
    )


SOURCE = Source(
    "qvhighlights",
    "QVHighlights, training and moment retrieval benchmark: highlight_train_release.jsonl, highlight_val_release.jsonl",
    ("qid", "query", "duration", "vid", "relevant_windows"),
    _draft,
)
