"""Temporal-R1's training rows: when does a sentence happen, with start and end stored as shares of the video's length.

Columns: `video`, `problem`, `solution` ([start, end] between 0 and 1), `dataset`, as appletea233/Temporal-R1 reads them for `charades_train`. Start and end are
multiplied by the length of the file; rows of its re-ranking of pictures are counted and left out. Videos: the root, Charades_v1 or Charades_v1_480.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import media, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    asked, name = media.without_marks(texts.text(values, "problem")), texts.text(values, "video")
    start, end = texts.span(values["solution"], "solution")
    if not 0 <= start < end <= 1:
        raise Unusable("solution", f"[{start:g}, {end:g}] are no shares of the length, 0 <= start < end <= 1", "no shares of the length")
    video = videos.find(name, f"Charades_v1_480/{name}", f"Charades_v1/{name}")
    duration_s = videos.duration_s(video)
    if duration_s is None:
        raise Unusable("video", f"{video} does not tell its length", "without a length")
    return Draft(
        id=texts.derived_id("temporal_r1", name, asked, start, end),
        video=video,
        question=asked,
        task="temporal_grounding",
        source=f"temporal_r1/{texts.text(values, 'dataset')}",
        spans=((round(start * duration_s, 3), round(end * duration_s, 3)),),
    )


SOURCE = Source("temporal_r1", "Temporal-R1 training set (times as shares of the length)", ("video", "problem", "solution", "dataset"), _draft)
