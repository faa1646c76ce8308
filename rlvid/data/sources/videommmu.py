"""Video-MMMU: lectures asked about on three tracks, Perception, Comprehension and Adaptation.

Columns: `id` (PREFIX_Subject_NUMBER), `question`, `options`, `answer`, `question_type`, as lmms-eval's tasks `video_mmmu_*` read them from one parquet folder a
track; the track is taken from the file's path (or the hub configuration). Videos: `ID.mp4` in the root or in the folder of its discipline.
An Adaptation video ends with the picture that its question speaks of; the question says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlvid.data.questions import QuestionError
from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos

TRACKS = ("Perception", "Comprehension", "Adaptation")
DISCIPLINES = ("Art", "Business", "Engineering", "Humanities", "Medicine", "Science")
_PICTURE = "The picture that this question speaks of is shown at the end of the video."


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    track, name = _track(record.origin), texts.text(values, "id")
    options = texts.options(values.get("options") or [], "options")
    question, answer = texts.text(values, "question"), texts.text(values, "answer")
    return Draft(
        id=f"videommmu-{track}-{name}",
        video=videos.find(name, *(f"{folder}/{name}" for folder in DISCIPLINES)),
        question=f"{question}\n{_PICTURE}" if track == "Adaptation" else question,
        task="multiple_choice" if options.texts else "open",
        source=f"videommmu/{track}",
        options=options.texts,
        answer=texts.by_letter(answer, options) if options.texts else answer,
        changes=options.changes,
    )


def _track(origin: str) -> str:
    parts = re.split(r"[^a-z]+", origin.lower())
    found = [track for part in reversed(parts) for track in TRACKS if track.lower() == part]
    if not found:
        raise QuestionError(f"{origin}: the path names no track (put the file into a folder {', '.join(TRACKS[:2])} or {TRACKS[2]})", "format")
    return found[0]


SOURCE = Source(
    "videommmu",
    "Video-MMMU benchmark: the parquet of a track, in a folder named Perception, Comprehension or Adaptation",
    ("id", "question", "answer"),
    _draft,
    optional=("options", "question_type"),
)
