"""NExT-GQA: multiple-choice questions about causes and order in time, for validation and test with the moments that show the answer.

Columns: `train.csv`, `val.csv`, `test.csv` of the published repository (`video_id`, `question`, `answer`, `qid`, `type`, `a0` to `a4`; the answer is an
option's text, in NExT-QA's own files its position). Beside them `gsub_val.json` and `gsub_test.json` (video -> `duration`, `location`: qid -> spans in
seconds) and `map_vid_vidorID.json` (video -> path under NExTVideo); these two are held in memory. Questions without a spans file (train) are plain
multiple choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvid.data.questions import QuestionError
from rlvid.data.sources import files, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

OPTIONS = ("a0", "a1", "a2", "a3", "a4")


def _read(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """Rows with what the side files say of them under `spans`, `duration` and `path`. Of a folder, those of its CSV files."""
    if path.is_dir() and any(path.glob("*.csv")):
        yield from files.each_file(path, columns, _read, (".csv",))
        return
    located, paths = _side(path, f"gsub_{path.stem}.json"), _side(path, "map_vid_vidorID.json") or {}
    if located is None and path.stem in ("val", "test"):
        raise QuestionError(f"{path}: gsub_{path.stem}.json with the spans is not beside it (download it into the same folder)", "format")
    for record in files.read(path, columns):
        video, qid = str(record.values.get("video_id")), str(record.values.get("qid"))
        found: dict[str, Any] = {"path": str(paths.get(video, video))}
        if located is not None:
            entry = _mapping(located.get(video))
            found |= {"spans": _mapping(entry.get("location")).get(qid), "duration": entry.get("duration")}
        yield Record(record.place, {**record.values, **found} if record.values else {}, record.origin, record.share, record.wrong)


def _side(path: Path, name: str) -> Any:
    beside = path.with_name(name)
    if not beside.is_file():
        return None
    found = files.side_file(beside)
    if not isinstance(found, dict):
        raise QuestionError(f"{beside}: is not one JSON object, video by video (download it anew)", "format")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    video, qid, kind = (texts.text(values, key) for key in ("video_id", "qid", "type"))
    options = texts.options([texts.text(values, key) for key in OPTIONS], "a0 to a4")
    answer = texts.text(values, "answer")
    spans = tuple(texts.span(span, "spans") for span in texts.rows_of(values.get("spans") or [], "spans", list))
    if "spans" in values and not spans:
        raise Unusable("spans", f"question {qid} of video {video} has none in the spans file", "missing")
    return Draft(
        id=f"nextgqa-{video}-{qid}",
        video=videos.find(values.get("path", video), video),
        question=texts.text(values, "question"),
        task="grounded_qa" if spans else "multiple_choice",
        source=f"nextgqa/{kind}",
        options=options.texts,
        answer=texts.by_index(answer, options) if answer.isdecimal() and answer not in options.texts else texts.by_text(answer, options),
        changes=options.changes,
        spans=spans,
        duration_s=texts.seconds(values["duration"], "duration") if values.get("duration") is not None else None,
    )


SOURCE = Source(
    "nextgqa",
    "NExT-GQA, training and benchmark: train.csv, val.csv, test.csv with gsub_*.json and map_vid_vidorID.json beside them",
    ("video_id", "question", "answer", "qid", "type", *OPTIONS),
    _draft,
    read=_read,
)
