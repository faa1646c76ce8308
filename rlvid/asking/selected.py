"""What `rlvid select` leaves behind: the kept questions, every question's statistics, a report and a picture.

Every file is written aside and renamed, the kept questions last: where that file is, the selection was finished.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rlvid.types import Question
from rlvid.video.pictures import relative

BINS = 20
PANELS = {
    "accuracy_mean": "mean accuracy of a question's answers",
    "temporal_iou_std": "standard deviation of temporal IoU",
    "temporal_iou_max": "best temporal IoU",
}
"""What the picture shows, by its name in the statistics."""


@dataclass(frozen=True)
class Paths:
    """The files of one selection, named after the file of kept questions."""

    kept: Path

    def beside(self, ending: str) -> Path:
        return self.kept.with_name(f"{self.kept.stem}.{ending}")

    @property
    def journal(self) -> Path:
        return self.beside("journal.jsonl")

    @property
    def statistics(self) -> Path:
        return self.beside("statistics.jsonl")

    @property
    def report(self) -> Path:
        return self.beside("report.json")

    @property
    def picture(self) -> Path:
        return self.beside("png")

    @property
    def log(self) -> Path:
        return self.beside("log.txt")


@dataclass
class SourceCount:
    """Of one source: questions in all and kept, and why the others were dropped."""

    questions: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class SelectionReport:
    """Counts by source, and the picture's bars: {panel: {bin: (kept, dropped)}}. `truth_hidden`: questions whose truth span no view showed a frame of."""

    sources: dict[str, SourceCount] = field(default_factory=dict)
    bars: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    truth_hidden: int = 0

    @property
    def questions(self) -> int:
        return sum(count.questions for count in self.sources.values())

    @property
    def kept(self) -> int:
        return sum(count.kept for count in self.sources.values())

    def count(self, question: Question, statistics: dict[str, Any], reason: str) -> None:
        """One judged question; an empty reason means that it is kept."""
        source = self.sources.setdefault(source_of(question), SourceCount())
        source.questions += 1
        source.kept += not reason
        self.truth_hidden += bool(statistics.get("truth_hidden"))
        if reason:
            source.dropped[reason] += 1
        for panel in PANELS.keys() & statistics.keys():
            bars = self.bars.setdefault(panel, {})
            bars.setdefault(min(int(statistics[panel] * BINS), BINS - 1), [0, 0])[bool(reason)] += 1

    def to_json(self) -> dict[str, Any]:
        sources = {name: {"questions": count.questions, "kept": count.kept, "dropped": dict(count.dropped)} for name, count in sorted(self.sources.items())}
        counts = {"questions": self.questions, "kept": self.kept, "dropped": self.questions - self.kept, "truth_hidden": self.truth_hidden}
        return counts | {"sources": sources}


def source_of(question: Question) -> str:
    """The name under which a question is counted."""
    return question.source or question.task


@contextmanager
def written_aside(path: Path) -> Iterator[IO[str]]:
    """A text file that takes its name only when it is whole and on disk; after an exception it is gone."""
    aside = path.with_name(f".{path.name}.writing")
    try:
        with aside.open("w") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def moved_line(raw: bytes, question: Question, folder: Path) -> str:
    """The question's own line for a file in another folder: a relative path stays relative, and leads to the same file."""
    data = json.loads(raw.decode("utf-8-sig"))
    if question.media:
        return json.dumps(_with_media_moved(data, question, os.path.realpath(folder)), ensure_ascii=False) + "\n"
    if not question.video:
        return json.dumps(data, ensure_ascii=False) + "\n"
    given = data["video"] if data.get("video") is not None else data["media"][0]["video"]
    if not os.path.isabs(given if isinstance(given, str) else given[0]):
        # From the folder's true place: "..", seen from a symbolic link, leads elsewhere.
        (data if data.get("video") is not None else data["media"][0])["video"], _ = relative(question.video, os.path.realpath(folder))
    return json.dumps(data, ensure_ascii=False) + "\n"


def _with_media_moved(data: dict[str, Any], question: Question, folder: str) -> dict[str, Any]:
    """All under `media`, in the prompt's order, which the marks of the text, if there are any, keep."""
    listed = [data.get("video"), *(data["image"] if isinstance(data.get("image"), list) else [data.get("image")])]
    listed += [path for one in data.get("media") or () for path in (one.get("video"), one.get("image"))]
    given = [path if isinstance(path, str) else path[0] for path in listed if path is not None]
    absolute = {path for path in given if os.path.isabs(path)}
    media: list[dict[str, Any]] = []
    for medium in question.media:
        path, fps = relative(medium.path, "")
        if (path if isinstance(path, str) else path[0]) not in absolute:
            path, fps = relative(medium.path, folder)
        media.append({medium.kind: path} | ({"fps": fps} if fps else {}))
    return {key: value for key, value in data.items() if key not in ("video", "image", "fps", "media")} | {"media": media}


def draw(report: SelectionReport, path: Path) -> None:
    """Histograms of what the rules look at, kept on top of dropped. No display is needed."""
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if panel in report.bars]
    figure = Figure(figsize=(5 * max(1, len(panels)), 3.6), layout="constrained")
    for at, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), at)
        kept, dropped = ([report.bars[panel].get(number, (0, 0))[side] for number in range(BINS)] for side in (0, 1))
        edges = [number / BINS for number in range(BINS)]
        axes.bar(edges, dropped, width=1 / BINS, align="edge", color="#b8b8b8", label="dropped")
        axes.bar(edges, kept, width=1 / BINS, align="edge", bottom=dropped, color="#2f6fb0", label="kept")
        axes.set(xlabel=PANELS[panel], ylabel="questions", xlim=(0, 1))
        axes.legend(loc="upper right")
    figure.suptitle(f"{report.kept} of {report.questions} questions kept")
    aside = path.with_name(f".{path.name}.writing")
    figure.savefig(aside, format="png", dpi=120)
    aside.replace(path)
