"""Published rows become a question file: found, checked and counted one at a time, written aside and renamed when whole."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rlvid.data.questions import CUT_TO_VIDEO, EXAMPLES, Problem, QuestionError, Report, parse_line
from rlvid.data.sources import files, hub
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import COLUMNS, Unusable
from rlvid.data.sources.videos import Videos
from rlvid.process.one_line import printable
from rlvid.types import Span
from rlvid.video import pictures

INSTANT_S = 0.05
"""An annotation without a length is this much to both sides [D]: published times have one decimal."""
SHORTER = 0.9
"""A file with less than this share of the annotated length, two seconds allowed, is not the annotated video [D]."""
WIDENED, CUT_CLIP, TRACK_CUT = "spans: an instant widened", "clip: cut to the video", "track: cut to the video"
PROGRESS_EVERY = 200


def convert(source: Source, given: str, out: Path, *, videos: Path | None = None, limit: int = 0, progress: bool = True) -> Report:
    """Write the usable questions of `given` (file, folder or hub id) to `out` and say what was wrong with the others.

    `videos` is the video root (None: the file's own folder). `out` is replaced only if at least one question is usable. Raises QuestionError where
    `given` cannot be read as a whole.
    """
    path = Path(given)
    if path.exists() and out.exists() and path.samefile(out):
        raise QuestionError(f"{out}: is the file that is read (name another OUT)", "file")
    root = Videos(videos or (path if path.is_dir() else path.parent))
    records = _records(source, given)
    with _aside(out) as file, _SeenIds() as seen:
        conversion = _Conversion(source, given, out, root, seen, file)
        record = None
        for record in _shown(records, given) if progress else records:
            conversion.take(record, limit)
            if limit and conversion.questions >= limit:
                break
        if record is None:
            conversion.note("file: holds no row", f"{given}: holds no row")
    return conversion.report()


class _Conversion:
    """Takes records one by one; holds counts and first examples, never the questions."""

    def __init__(self, source: Source, given: str, out: Path, videos: Videos, seen: _SeenIds, file: TextIO) -> None:
        self._source, self._given, self._out, self._videos, self._seen, self._file = source, given, out, videos, seen, file
        self._tasks: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    @property
    def questions(self) -> int:
        return self._tasks.total()

    def take(self, record: Record, limit: int) -> None:
        """Write the record's questions, count what is wrong with it."""
        try:
            if record.wrong:
                raise record.wrong
            for values in self._source.split(record):
                if limit and self.questions >= limit:
                    return
                self._take_one(record, values)
        except Unusable as problem:
            self.note(problem.kind, f"{self._given}: {record.place}: {problem}")

    def report(self) -> Report:
        problems = {kind: Problem(count, tuple(self._first[kind])) for kind, count in self._counts.items()}
        return Report(self._given, self.questions, dict(self._tasks), problems, dict(self._changed))

    def _take_one(self, record: Record, values: Any) -> None:
        place = f"{self._given}: {record.place}: "
        try:
            _check_columns(self._source, values)
            draft = self._within_video(self._source.draft(record, values, self._videos))
            line = json.dumps(_question(draft, self._out), ensure_ascii=False)
            parse_line(line, path=place, line=0)
            self._check_id(draft.id, record.place)
        except Unusable as problem:
            self.note(problem.kind, f"{place}{problem}")
        except QuestionError as problem:
            if not str(problem).startswith(f"{place}:0: "):
                raise  # the file as a whole
            self.note(problem.kind, place + str(problem).removeprefix(f"{place}:0: "))
        else:
            self._file.write(line + "\n")
            self._tasks[draft.task] += 1
            self._changed.update(draft.changes)

    def _within_video(self, draft: Draft) -> Draft:
        """The draft with its times cut to the video, which the benchmarks' own code scores all the same. Unusable where nothing of one is left."""
        times = draft.spans + ((draft.clip,) if draft.clip else ())
        if not times and not draft.track:
            return draft
        measured_s = self._videos.duration_s(draft.video)
        end_s = draft.duration_s if measured_s is None else measured_s
        draft = self._track_within(draft, end_s)
        if not times:
            return draft
        late = max((span for span in times), key=lambda span: span[1])
        other = measured_s is not None and draft.duration_s is not None and measured_s < SHORTER * draft.duration_s - 2
        outside = [span for span in times if end_s is not None and span[0] >= end_s]
        if end_s is not None and (outside or (other and late[1] > end_s)):
            shown = f"[{late[0]:g}, {late[1]:g}]"
            raise Unusable("spans", f"{shown} s is beyond the end of {draft.video} ({end_s:.2f} s)", "beyond the end of the video")
        spans = tuple(_widened(span) for span in draft.spans)
        cut = tuple((max(0.0, start_s), end if end_s is None else min(end, end_s)) for start_s, end in (*spans, *((draft.clip,) if draft.clip else ())))
        changes = ((WIDENED,) if spans != draft.spans else ()) + ((CUT_TO_VIDEO,) if cut[: len(spans)] != spans else ())
        changes += (CUT_CLIP,) if draft.clip and cut[-1] != draft.clip else ()
        return replace(draft, spans=cut[: len(spans)], clip=cut[-1] if draft.clip else None, changes=draft.changes + changes)

    def _track_within(self, draft: Draft, end_s: float | None) -> Draft:
        track = tuple((time_s, box) for time_s, box in draft.track if end_s is None or time_s <= end_s)
        if draft.track and not track:
            raise Unusable("track", f"lies beyond the end of {draft.video} ({end_s:.2f} s)", "beyond the end of the video")
        return draft if track == draft.track else replace(draft, track=track, changes=(*draft.changes, TRACK_CUT))

    def _check_id(self, id: str, place: str) -> None:
        first = self._seen.add(id, place)
        if first:
            raise Unusable("id", f"{id[:80]!r} is {first}'s already", "used twice")

    def note(self, kind: str, message: str) -> None:
        self._counts[kind] += 1
        examples = self._first.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            # Values from the file are shown, and a message must stay one printable line.
            examples.append(printable(" ".join(message.split())).encode("utf-8", "backslashreplace").decode())


class _SeenIds:
    """Every id so far, on disk: memory does not grow with the file."""

    def __enter__(self) -> _SeenIds:
        self._folder = tempfile.TemporaryDirectory(prefix="rlvid-convert-")
        self._ids = sqlite3.connect(Path(self._folder.name) / "ids", isolation_level=None)
        self._ids.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; CREATE TABLE seen (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID; BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._ids.close()
        self._folder.cleanup()

    def add(self, id: str, place: str) -> str:
        """Where the id stood before; empty the first time."""
        if self._ids.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (id, place)).rowcount:
            return ""
        return str(self._ids.execute("SELECT place FROM seen WHERE id = ?", (id,)).fetchone()[0])


def _records(source: Source, given: str) -> Iterator[Record]:
    columns = source.columns + source.optional
    if Path(given).exists():
        return (source.read or files.read)(Path(given), columns)
    return hub.read(given, columns)


def _check_columns(source: Source, values: Any) -> None:
    missing = [name for name in source.columns if values.get(name) is None]
    if missing:
        has = ", ".join(str(name)[:40] for name in list(values)[:12]) or "none"
        raise Unusable(COLUMNS, f"{', '.join(missing)} missing; the row has {has}; {source.name} has {', '.join(source.columns)}", "missing")


def _question(draft: Draft, out: Path) -> dict[str, Any]:
    """The draft as a line of a question file. A video below the file's folder is named relative to it, so that both can move together."""
    folder = os.path.abspath(out.parent)
    video, fps = _named(draft.video, folder) if draft.video and not draft.media else (None, None)
    line: dict[str, Any] = {"id": draft.id, **({"video": video} if video else {}), "question": draft.question, "task": draft.task}
    if draft.media:
        named = ((medium.kind, *_named(medium.path, folder)) for medium in draft.media)
        line["media"] = [{kind: path} | ({"fps": rate} if rate else {}) for kind, path, rate in named]
    optional: dict[str, Any] = {
        "options": list(draft.options),
        "answer": draft.answer,
        "spans": [list(span) for span in draft.spans],
        "clip": draft.clip and list(draft.clip),
    }
    optional |= {
        "fps": fps,
        "box": draft.box and list(draft.box),
        "track": [{"time_s": time_s, "box": list(box)} for time_s, box in draft.track],
        "box_size": list(draft.box_size) if draft.box or draft.track else None,
    }
    return line | {key: value for key, value in optional.items() if value} | {"source": draft.source}


def _named(path: str, folder: str) -> tuple[str | list[str], float | None]:
    """(path or paths, rate of pictures) as the line holds them."""
    relative, fps = pictures.relative(path, folder)
    inside = not any(one.startswith("..") for one in ([relative] if isinstance(relative, str) else relative))
    return (relative, fps) if inside else pictures.relative(path, "")


def _widened(span: Span) -> Span:
    """An instant as the stretch that its rounding leaves; other spans as they are. The end before the start stays, and is refused by name."""
    return (span[0] - INSTANT_S, span[1] + INSTANT_S) if span[0] == span[1] else span


@contextmanager
def _aside(out: Path) -> Iterator[TextIO]:
    """A file beside `out` that takes its place when everything went well and something was written."""
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if aside.stat().st_size:
            aside.replace(out)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _shown(records: Iterator[Record], given: str) -> Iterator[Record]:
    """The records, with a bar in the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]} rows"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(Path(given).name, total=1.0, rows=0)
        for number, record in enumerate(records, start=1):
            if number % PROGRESS_EVERY == 0:
                bar.update(task, completed=record.share, rows=number)
            yield record
