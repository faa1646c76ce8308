"""Question files: one JSON object a line. Reading is strict, and every complaint is one line `FILE:LINE: key: what is wrong (cure)`."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rlvid.data import options as lettered
from rlvid.data.prompts import LETTERS, marks
from rlvid.process.one_line import printable
from rlvid.reading import answers as reading
from rlvid.reading import maths
from rlvid.types import BOX_TASKS, NUMBER_TASKS, Box, Evidence, Medium, Question, Region, Span, Task
from rlvid.video import pictures

TASKS: tuple[str, ...] = get_args(Task)
REQUIRED = ("id", "question", "task")
MEDIA = ("video", "image", "media")
KEYS = (*REQUIRED, *MEDIA, "options", "answer", "answers", "spans", "span_mode", "evidence", "clip", "fps", "source", "reply", "box", "track", "box_size")
SPAN_MODES = ("any", "all")
MISSING, EMPTY = {"video": "video: missing file", "image": "image: missing file"}, {"video": "video: empty file", "image": "image: empty file"}
NO_TEXT = {
    b"PAR1": "is a parquet file, not a question file (rlvid data convert auto FILE OUT makes one of it)",
    b"\x1f\x8b": "is compressed with gzip (gunzip it)",
    b"PK\x03\x04": "is a zip archive (unpack it)",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd (unpack it)",
    b"BZh": "is compressed with bzip2 (unpack it)",
    b"\xfd7zXZ\x00": "is compressed with xz (unpack it)",
    b"ARROW1": "is an Arrow file, not a question file (save it as parquet or JSON lines)",
}
"""What a file begins with that holds no lines."""
EXAMPLES = 3
"""First examples of each kind of problem that a report keeps."""

_WITH_OPTIONS = ("multiple_choice", "grounded_qa")
WITH_SPANS = ("temporal_grounding", "grounded_qa", "spatio_temporal_grounding")
WITH_TRACK = ("tracking", "spatio_temporal_grounding")
ASKS_TIMES = (*WITH_SPANS, "tracking")
NO_ANSWER = ("temporal_grounding", *BOX_TASKS)
"""Their truth stands in other keys."""
CUT_TO_CLIP, CUT_TO_VIDEO = "spans: cut to the clip", "spans: cut to the video"


class QuestionError(ValueError):
    """A question file is wrong. The message is one line; `kind` groups equal mistakes for a report."""

    def __init__(self, message: str, kind: str = "file") -> None:
        super().__init__(printable(message))  # names from the file stand in it
        self.kind = kind


@dataclass(frozen=True)
class Problem:
    """One kind of mistake: how often, and the first messages."""

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What `check` found in a whole file. `changed` counts by kind what was read otherwise than it stands there; such questions are good."""

    path: str
    questions: int
    tasks: dict[str, int]
    problems: dict[str, Problem] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    media: dict[str, int] = field(default_factory=dict)
    """Questions by what they show, in the prompt's order."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def refused(self) -> bool:
        """Training would not start: a line is wrong, or no question can be used. Single videos may fail."""
        return not self.questions or not self.problems.keys() <= {*MISSING.values(), *EMPTY.values()}

    def text(self) -> str:
        """A few lines for a terminal."""
        bad = sum(problem.count for problem in self.problems.values())
        tasks = ", ".join(f"{task} {count}" for task, count in sorted(self.tasks.items()))
        lines = [f"{self.path}: {self.questions} good questions{f' ({tasks})' if tasks else ''}, {bad} problems"]
        for kind, problem in sorted(self.problems.items(), key=lambda item: -item[1].count):
            lines.append(f"{kind}: {problem.count}")
            lines += [f"  {message}" for message in problem.first]
        if set(self.media) - {"video"}:
            shown = sorted(self.media.items(), key=lambda item: -item[1])
            lines.append(f"they show: {', '.join(f'{what} {count}' for what, count in shown)}")
        lines += [f"changed: {kind}: {count}" for kind, count in sorted(self.changed.items(), key=lambda item: -item[1])]
        return "\n".join(lines)


def parse_line(raw: bytes | str, *, path: str | Path, line: int) -> Question:
    """One line of a question file, or QuestionError. `video` becomes absolute: relative paths start at the file's folder."""
    return parsed(raw, path=path, line=line)[0]


def parsed(raw: bytes | str, *, path: str | Path, line: int) -> tuple[Question, tuple[str, ...]]:
    """As `parse_line`, and the kinds of what was changed: letters taken off options, spans cut to the clip."""
    try:
        return _question(_object(raw), os.path.dirname(os.path.abspath(path)))
    except _Wrong as wrong:
        raise QuestionError(f"{path}:{line}: {wrong}", wrong.kind) from None


def within_video(question: Question, duration_s: float) -> Question:
    """The question with its times cut to the video's length. QuestionError where nothing of a span or of the clip is left."""
    try:
        spans, evidence = (_cut(spans, (0.0, duration_s), "spans", "the video") for spans in (question.spans, question.evidence.spans))
        (clip,) = _cut((question.clip,), (0.0, duration_s), "clip", "the video") if question.clip else (None,)
        track = _cut_track(question.track, (0.0, duration_s), "the video")
        return replace(question, spans=spans, evidence=replace(question.evidence, spans=evidence), clip=clip, track=track)
    except _Wrong as wrong:
        raise QuestionError(f"{question.video}: {wrong}", wrong.kind) from None


def raw_lines(path: str | Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, byte offset, bytes) of every line that is not blank; QuestionError when the file cannot be read, or is no text."""
    offset = 0
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            file.seek(0)
            if kind := next((kind for magic, kind in NO_TEXT.items() if head.startswith(magic)), ""):
                raise QuestionError(f"{path}: {kind}", "file")
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    yield line, offset, raw
                offset += len(raw)
    except OSError as error:
        raise QuestionError(f"{path}: cannot be read ({error.strerror})") from None


def iter_questions(path: str | Path) -> Iterator[Question]:
    """Every question in the file's order; the first wrong line, a repeated id or an empty file raises QuestionError."""
    seen = SeenIds(path)
    for line, _, raw in raw_lines(path):
        question = parse_line(raw, path=path, line=line)
        seen.add(question.id, line)
        yield question
    if not seen.lines:
        raise QuestionError(f"{path}: holds no question (one JSON object a line)", "empty file")


def check(path: str | Path, *, videos: bool = True) -> Report:
    """Go through the whole file, stop at nothing: problems by kind with first examples, missing videos included."""
    found: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    media: Counter[str] = Counter()
    seen = SeenIds(path)
    try:
        for line, _, raw in raw_lines(path):
            try:
                question, changes = _checked(raw, path, line, seen, videos)
                tasks[question.task] += 1
                media[" + ".join(medium.kind for medium in question.shown) or "text alone"] += 1
                changed.update(changes)
            except QuestionError as error:
                _note(error, counts, found)
        if not tasks and not counts:
            raise QuestionError(f"{path}: holds no question (one JSON object a line)", "empty file")
    except QuestionError as error:
        _note(error, counts, found)
    problems = {kind: Problem(count, tuple(found[kind])) for kind, count in counts.items()}
    return Report(str(path), sum(tasks.values()), dict(tasks), problems, dict(changed), dict(media))


def most_media(path: str | Path) -> dict[str, int]:
    """The most videos (at least 1) and the most images that a question of the file shows."""
    videos, images = zip((1, 0), *shown_counts(path), strict=True)
    return {"video": max(videos), "image": max(images)}


def shown_counts(path: str | Path) -> set[tuple[int, int]]:
    """(videos, images) of every kind of question in the file. Lines that are wrong count nothing: whoever reads the file says so."""
    found = set()
    for line, _, raw in raw_lines(path):
        if b'"image"' not in raw and b'"media"' not in raw and b"\\u" not in raw:  # one video, or none: not to be parsed a million times
            found.add((int(b'"video"' in raw), 0))
            continue
        with contextlib.suppress(QuestionError):
            kinds = [medium.kind for medium in parse_line(raw, path=path, line=line).shown]
            found.add((kinds.count("video"), kinds.count("image")))
    return found


def asks(path: str | Path, task: Task) -> bool:
    """Is there a question of this task in the file? Lines that are wrong count nothing, as in `most_media`."""
    for line, _, raw in raw_lines(path):
        if f'"{task}"'.encode() in raw:
            with contextlib.suppress(QuestionError):
                if parse_line(raw, path=path, line=line).task == task:
                    return True
    return False


class SeenIds:
    """Refuses an id that an earlier line of the file has."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.lines: dict[str, int] = {}

    def add(self, id: str, line: int) -> None:
        first = self.lines.setdefault(id, line)
        if first != line:
            raise QuestionError(f"{self.path}:{line}: id: {id[:80]!r} is line {first}'s already (give every question its own id)", "id: used twice")


def _checked(raw: bytes, path: str | Path, line: int, seen: SeenIds, videos: bool) -> tuple[Question, tuple[str, ...]]:
    question, changes = parsed(raw, path=path, line=line)
    seen.add(question.id, line)
    for medium in question.shown if videos else ():
        if pictures.is_missing(medium.path) if medium.kind == "video" else not os.path.isfile(medium.path):
            raise QuestionError(f"{path}:{line}: {medium.kind}: {_missing(medium)}", MISSING[medium.kind])
        if not pictures.parsed(medium.path) and not os.path.getsize(medium.path):
            raise QuestionError(f"{path}:{line}: {medium.kind}: {medium.path} is empty (copy it anew, or take the line out)", EMPTY[medium.kind])
    if question.task == "math" and (wrong := next(filter(None, map(maths.problem, question.references)), "")):
        raise QuestionError(f"{path}:{line}: answer: no answer can be compared with it, {wrong} (write a number or a LaTeX formula)", "answer: not a formula")
    duration_s = _length_s(question) if videos else None
    if duration_s is None:
        return question, changes
    try:
        cut = within_video(question, duration_s)
    except QuestionError as error:
        raise QuestionError(f"{path}:{line}: {str(error).removeprefix(f'{question.video}: ')}", error.kind) from None
    return question, changes if cut == question else (*changes, CUT_TO_VIDEO)


def _length_s(question: Question) -> float | None:
    """By the file's header, for questions that name times; None where it does not tell, or cannot be opened (the run says why)."""
    if not (question.spans or question.evidence.spans or question.clip or question.track):
        return None
    try:
        from rlvid.data.sources.videos import header

        return header(question.video)[0]
    except ImportError:  # question files are checked without the packages that read videos, too
        return None


def _missing(medium: Medium) -> str:
    video = medium.path
    if medium.kind == "image" and os.path.isdir(video):
        return f"{video} is a folder (name a picture)"
    if found := pictures.parsed(video):
        if os.path.isfile(found.folder):
            return f"{found.folder} is a file, not a folder of pictures (leave fps out)"
        return f"{found.folder or found.listed[0]} does not exist or holds no picture (paths are relative to the question file)"
    if os.path.isdir(video):
        return f"{video} is a folder (pictures need the key fps: how many of them make a second)"
    return f"{video} does not exist (paths are relative to the question file)"


def _note(error: QuestionError, counts: Counter[str], found: dict[str, list[str]]) -> None:
    counts[error.kind] += 1
    examples = found.setdefault(error.kind, [])
    if len(examples) < EXAMPLES:
        examples.append(str(error))


# --- one line --------------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong with one value: `key: what (cure)`; `kind` is the key and a name that does not depend on the value."""

    def __init__(self, key: str, what: str, cure: str, kind: str = "") -> None:
        # Values from the file are shown, and a message must stay one printable line.
        super().__init__(" ".join(f"{key}: {what} ({cure})".split()).encode("utf-8", "backslashreplace").decode())
        self.kind = f"{key}: {kind or what}"


def _object(raw: bytes | str) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise _Wrong("line", f"is not UTF-8 at byte {error.start}", "save the file as UTF-8", "not UTF-8") from None
    try:
        data = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise _Wrong("line", f"is not JSON: {error.msg} at character {error.pos + 1}", "write one whole JSON object on each line", "not JSON") from None
    except (RecursionError, ValueError) as error:
        raise _Wrong("line", f"is not usable JSON: {str(error)[:80]}", "write one whole JSON object on each line", "not JSON") from None
    if not isinstance(data, dict):
        raise _Wrong("line", f"is {_kind_of(data)}", "write one JSON object on each line", "not an object")
    return data


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise _Wrong(_shown(key), "stands twice", "keep one", "key twice")
    return data


def _question(data: dict[str, Any], folder: str) -> tuple[Question, tuple[str, ...]]:
    _known_keys(data, KEYS, "")
    for key in REQUIRED:
        if key not in data:
            raise _Wrong(key, "is missing", f"every question has {', '.join(REQUIRED)}", "missing")
    task = data["task"]
    if task not in TASKS:
        raise _Wrong("task", f"unknown task {_shown(task)}", f"one of {', '.join(TASKS)}", "unknown task")
    media = _media(data, folder)
    videos = [medium.path for medium in media if medium.kind == "video"]
    if task == "spatial_grounding" and [medium.kind for medium in media] != ["image"]:
        found = ", ".join(medium.kind for medium in media) or "nothing"
        raise _Wrong("image", f"a spatial_grounding question shows {found}", "show one image; a place in a video is a track", "not one image")
    if len(videos) != 1 and (about := _about_one_video(data, task)):
        found = f"has {len(videos)} videos" if videos else "is missing"
        raise _Wrong("video", found, f"{about} of one video", "missing" if not videos else "several")
    options = _options(data.get("options"), task)
    references = _answers(data.get("answer"), data.get("answers"), task, options)
    question = Question(
        id=_text(data, "id"),
        video=videos[0] if len(videos) == 1 else "",
        question=_text(data, "question"),
        task=task,
        options=options.texts,
        answer=references[0] if references else None,
        spans=_task_spans(data.get("spans"), task),
        evidence=_evidence(data.get("evidence")),
        clip=_span(data["clip"], "clip") if data.get("clip") is not None else None,
        source=_string(data.get("source") if data.get("source") is not None else "", "source"),
        answers=references if data.get("answers") else (),
        span_mode=_span_mode(data.get("span_mode"), task),
        reply=_text(data, "reply") if data.get("reply") is not None else "",
        box=_task_box(data, task),
        track=_task_track(data, task),
    )
    if media := _as_marked(media, marks(question.question, *question.options)):
        question = replace(question, media=media)
    inside = _within_clip(question)
    return inside, options.changes + ((CUT_TO_CLIP,) if inside != question else ())


def _within_clip(question: Question) -> Question:
    """Spans and evidence cut to the clip that is shown; one that lies wholly outside is refused."""
    if question.clip is None:
        return question
    spans = _cut(question.spans, question.clip, "spans", "the clip")
    evidence = _cut(question.evidence.spans, question.clip, "evidence.spans", "the clip")
    for region in question.evidence.regions:
        if not question.clip[0] <= region.time_s <= question.clip[1]:
            raise _Wrong("evidence.regions", f"{region.time_s:g} s lies outside the clip", "all times are seconds of the file", "outside the clip")
    return replace(question, spans=spans, evidence=replace(question.evidence, spans=evidence), track=_cut_track(question.track, question.clip, "the clip"))


def _cut_track(track: tuple[Region, ...], bounds: Span, whole: str) -> tuple[Region, ...]:
    """The moments that lie within the bounds. _Wrong where none does."""
    inside = tuple(region for region in track if bounds[0] <= region.time_s <= bounds[1])
    if track and not inside:
        raise _Wrong("track", f"lies outside {whole} ({bounds[0]:g} to {bounds[1]:.2f} s)", "all times are seconds of the file", f"outside {whole}")
    return inside


def _cut(spans: tuple[Span, ...], bounds: Span, key: str, whole: str) -> tuple[Span, ...]:
    """Each span as far as it lies within the bounds. _Wrong where nothing of one is left."""
    for start_s, end_s in spans:
        if start_s >= bounds[1] or end_s <= bounds[0]:
            what = f"[{start_s:g}, {end_s:g}] lies outside {whole} ({bounds[0]:g} to {bounds[1]:.2f} s)"
            raise _Wrong(key, what, "all times are seconds of the file", f"outside {whole}")
    return tuple((max(start_s, bounds[0]), min(end_s, bounds[1])) for start_s, end_s in spans)


def _media(data: dict[str, Any], folder: str) -> tuple[Medium, ...]:
    """All media in the order in which the keys list them: `video`, then `image`; or `media`. Empty: a question of text alone."""
    given = [key for key in MEDIA if data.get(key) is not None]
    if not given and (empty := next((key for key in MEDIA if key in data), "")):
        raise _Wrong(empty, "is null", "name a file, or leave the key out of a question of text alone", "null")
    if "media" in given and len(given) > 1:
        raise _Wrong("media", f"stands beside {given[0]}", "list all in media", "beside another")
    if data.get("fps") is not None and "video" not in given:
        raise _Wrong("fps", "stands without video", "write it beside the video that is pictures", "without video")
    if "media" in given:
        return tuple(_medium(one, folder) for one in _list(data["media"], "media"))
    found = [Medium("video", _video(data, folder))] if "video" in given else []
    if "image" in given:
        listed = data["image"] if isinstance(data["image"], list) else [data["image"]]
        if not listed:
            raise _Wrong("image", "lists no picture", "name one, or leave the key out of a question of text alone", "empty list")
        found += [Medium("image", _image(one, folder)) for one in listed]
    if len({medium.kind for medium in found}) > 1 and not marks(str(data.get("question"))):
        cure = "list both in media in their order, or mark their places in the question with <video> and <image>"
        raise _Wrong("image", "stands beside video, and nothing says which comes first", cure, "order unknown")
    return tuple(found)


def _medium(value: Any, folder: str) -> Medium:
    cure = 'write {"video": path} or {"image": path}'
    data = _mapping(value, "media", ("video", "image", "fps"))
    if ("video" in data) == ("image" in data) or ("image" in data and "fps" in data):
        raise _Wrong("media", f"{_shown(value)} is not one medium", cure, "not one medium")
    return Medium("video", _video(data, folder)) if "video" in data else Medium("image", _image(data["image"], folder))


def _image(value: Any, folder: str) -> str:
    return os.path.join(folder, _text({"image": value}, "image"))


def _about_one_video(data: dict[str, Any], task: str) -> str:
    """What in a question needs to know which video it is about; empty: nothing."""
    if task in ASKS_TIMES:
        return f"a {task} question asks for times"
    return next((f"{key} names times" for key in ("spans", "clip", "evidence") if data.get(key)), "")


def _as_marked(media: tuple[Medium, ...], marked: tuple[str, ...]) -> tuple[Medium, ...]:
    """The media in the order of the marks in the text, where it has any; empty where one video is all. A mark without a medium is a medium that got lost."""
    if marked:
        for kind in ("video", "image"):
            own, wanted = [medium for medium in media if medium.kind == kind], marked.count(kind)
            if len(own) != wanted:
                what = f"has {wanted} <{kind}> mark(s) for {len(own)} {kind}(s)"
                raise _Wrong("question", what, "mark every medium in the text or none, and name a file for every mark", "marks and media differ")
        left = {kind: iter([medium for medium in media if medium.kind == kind]) for kind in ("video", "image")}
        media = tuple(next(left[kind]) for kind in marked)
    return () if [medium.kind for medium in media] == ["video"] else media


def _video(data: dict[str, Any], folder: str) -> str:
    """A file's path, or pictures at a rate as `rlvid.video.pictures` spells them."""
    listed = isinstance(data["video"], list)
    if data.get("fps") is None:
        if listed:
            raise _Wrong("fps", "is missing", "say how many of the pictures make a second", "missing")
        return os.path.join(folder, _text(data, "video"))
    fps = _number(data["fps"], "fps", "write how many of the pictures make a second")
    if not 0 < fps <= 1000:
        raise _Wrong("fps", f"{fps:g} is no rate", "write how many of the pictures make a second", "no rate")
    if not listed:
        return pictures.spelled(os.path.join(folder, _text(data, "video")), fps)
    if len(data["video"]) < 2:
        raise _Wrong("video", f"lists {len(data['video'])} picture(s)", "list at least two", "too few pictures")
    return pictures.spelled([os.path.join(folder, _text({"video": one}, "video")) for one in data["video"]], fps)


def _known_keys(data: dict[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in data:
        if key not in known:
            raise _Wrong(f"{prefix}{key[:80]}", "unknown key", f"known: {', '.join(known)}")


def _text(data: dict[str, Any], key: str) -> str:
    text = _string(data[key], key)
    if not text.strip():
        raise _Wrong(key, "is empty", "give it some text")
    return text


def _string(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(key, f"is {_kind_of(value)}", "write a string in quotes", "not a string")
    if "\0" in value:
        raise _Wrong(key, "holds a NUL character", "take it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Wrong(key, "holds half a surrogate pair", "write the character itself") from None
    return value


def _options(value: Any, task: str) -> lettered.Options:
    if value is None or value == []:
        if task == "multiple_choice":
            raise _Wrong("options", "are missing", "a multiple_choice question lists at least two")
        return lettered.Options()
    if task not in _WITH_OPTIONS:
        raise _Wrong("options", f"do not belong to task {task}", f"leave them out, or use {' or '.join(_WITH_OPTIONS)}", "task takes none")
    given = [_string(option, "options") for option in _list(value, "options")]
    if not 2 <= len(given) <= len(LETTERS):
        raise _Wrong("options", f"there are {len(given)}", f"between 2 and {len(LETTERS)}, one letter each", "too many or too few")
    try:
        options = lettered.read(given)
    except ValueError as error:
        raise _Wrong("options", str(error), "write the texts alone: the prompt adds letters", "letters that cannot be read") from None
    if len(options.texts) < len(given):
        raise _Wrong("options", "one is empty", "give it some text")
    distinct = {" ".join(option.casefold().split()) for option in options.texts}
    if len(distinct) == 1:
        raise _Wrong("options", f"{_shown(distinct.pop())} stands twice", "options must differ, or no answer could be told right", "one stands twice")
    return options


def _answers(answer: Any, answers: Any, task: str, options: lettered.Options) -> tuple[str, ...]:
    """The one answer, or all of `answers`: with options the set of all right ones, without any text that is right."""
    if answers is None or answers == []:
        only = _answer(answer, task, options)
        return () if only is None else (only,)
    if answer is not None:
        raise _Wrong("answers", "stand beside answer", "keep one of the two keys")
    if task in NO_ANSWER:
        raise _Wrong("answers", f"do not belong to task {task}", "leave them out: its truth stands in spans, box or track", "task takes none")
    given = _list(answers, "answers")
    found = tuple(text for text in (_answer(one, task, options, "answers") for one in given) if text is not None)
    if len(set(found)) < len(found):
        raise _Wrong("answers", "one stands twice", "keep one")
    return found


def _answer(value: Any, task: str, options: lettered.Options, key: str = "answer") -> str | None:
    if value is None and task in NO_ANSWER:
        return None
    if value is None:
        raise _Wrong(key, "is missing", f"a {task} question needs its answer", "missing")
    if task in (*NUMBER_TASKS, "math") and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    text = _string(value, key)
    if options.texts:
        # The text goes first: an option may itself be a letter.
        found = options.by_text(text) or options.by_letter(text)
        if found is None:
            raise _Wrong(key, f"{_shown(text)} is not among the options", f"one of {_shown(options.texts)} or its letter", "not among the options")
        return found
    if not text.strip() and task not in NO_ANSWER:
        raise _Wrong(key, "is empty", "give it some text")
    if task in NUMBER_TASKS and reading.number(text)[0] is None:
        raise _Wrong(key, f"{_shown(text)} is not one number", f"a {task} question is answered by one number", "not a number")
    if task == "math" and (problem := maths.formula(text)[1]):
        raise _Wrong(key, f"{_shown(text)} is not one formula, {problem}", "a math question is answered by one number or LaTeX formula", "not a formula")
    return text


def _span_mode(value: Any, task: str) -> Literal["any", "all"]:
    if value is None or value == "any":
        return "any"
    if task not in WITH_SPANS:
        raise _Wrong("span_mode", f"does not belong to task {task}", f"leave it out, or use {' or '.join(WITH_SPANS)}", "task takes none")
    if value not in SPAN_MODES:
        raise _Wrong("span_mode", f"{_shown(value)} is not known", "any: one of the spans is asked for; all: every one", "unknown")
    return "all" if value == "all" else "any"


def _task_spans(value: Any, task: str) -> tuple[Span, ...]:
    spans = _spans(value, "spans")
    if task in WITH_SPANS and not spans:
        raise _Wrong("spans", "are missing", f"a {task} question needs at least one [start_s, end_s]")
    if task == "spatio_temporal_grounding" and len(spans) > 1:
        raise _Wrong("spans", f"there are {len(spans)}", "a spatio_temporal_grounding question has one, with the track inside", "more than one")
    return spans


def _spans(value: Any, key: str) -> tuple[Span, ...]:
    return () if value is None else tuple(_span(one, key) for one in _list(value, key))


def _span(value: Any, key: str) -> Span:
    cure = "write [start_s, end_s] in seconds"
    if not isinstance(value, list) or len(value) != 2:
        raise _Wrong(key, f"{_shown(value)} is not a pair", cure, "not a pair")
    start_s, end_s = (_number(edge, key, cure) for edge in value)
    if start_s < 0:
        raise _Wrong(key, f"{_shown(value)} starts before 0", cure, "negative")
    if start_s >= end_s:
        raise _Wrong(key, f"{_shown(value)} does not end after it starts", cure, "end not after start")
    return start_s, end_s


def _evidence(value: Any) -> Evidence:
    if value is None:
        return Evidence()
    data = _mapping(value, "evidence", ("spans", "regions"))
    regions = data.get("regions")
    return Evidence(_spans(data.get("spans"), "evidence.spans"), () if regions is None else tuple(map(_region, _list(regions, "evidence.regions"))))


def _region(value: Any) -> Region:
    key, cure = "evidence.regions", 'write {"time_s": seconds, "box": [x1, y1, x2, y2]}'
    data = _mapping(value, key, ("time_s", "box"))
    if len(data) != 2:
        raise _Wrong(key, f"{_shown(value)} is not whole", cure, "not whole")
    time_s = _number(data["time_s"], f"{key}.time_s", cure)
    if time_s < 0:
        raise _Wrong(f"{key}.time_s", f"{time_s} is before 0", cure, "negative")
    return Region(time_s, _box(data["box"], f"{key}.box"))


def _box(value: Any, key: str) -> Box:
    cure = "write [x1, y1, x2, y2] as shares of width and height, 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1"
    return _four(value, key, (1.0, 1.0), cure, "the frame", "not inside the frame")


def _four(value: Any, key: str, size: tuple[float, float], cure: str, whole: str, kind: str) -> Box:
    """A box that counts in `size`, as shares of it. `whole`, `kind`: what it has to lie in, and the kind of problem where it does not."""
    if not isinstance(value, list) or len(value) != 4:
        raise _Wrong(key, f"{_shown(value)} has not four numbers", cure, "not four numbers")
    (x1, y1, x2, y2), (width, height) = (_number(edge, key, cure) for edge in value), size
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise _Wrong(key, f"{_shown(value)} is no box inside {whole}", cure, kind)
    return x1 / width, y1 / height, x2 / width, y2 / height


def _task_box(data: dict[str, Any], task: str) -> Box | None:
    if task != "spatial_grounding":
        if data.get("box") is not None:
            raise _Wrong("box", f"does not belong to task {task}", "leave it out, or use spatial_grounding", "task takes none")
        if task not in BOX_TASKS and data.get("box_size") is not None:
            raise _Wrong("box_size", f"does not belong to task {task}", "leave it out", "task takes none")
        return None
    if data.get("box") is None:
        raise _Wrong("box", "is missing", "a spatial_grounding question needs [x1, y1, x2, y2]", "missing")
    return _sized_box(data["box"], "box", _box_size(data))


def _task_track(data: dict[str, Any], task: str) -> tuple[Region, ...]:
    cure = 'write [{"time_s": seconds, "box": [x1, y1, x2, y2]}, ...] with ascending times'
    if task not in WITH_TRACK:
        if data.get("track") is not None:
            raise _Wrong("track", f"does not belong to task {task}", f"leave it out, or use {' or '.join(WITH_TRACK)}", "task takes none")
        return ()
    if not data.get("track"):
        raise _Wrong("track", "is missing", cure, "missing")
    size = _box_size(data)
    found: list[Region] = []
    for one in _list(data["track"], "track"):
        row = _mapping(one, "track", ("time_s", "box"))
        if len(row) != 2:
            raise _Wrong("track", f"{_shown(one)} is not whole", cure, "not whole")
        time_s = _number(row["time_s"], "track.time_s", cure)
        if time_s < 0 or (found and time_s <= found[-1].time_s):
            raise _Wrong("track.time_s", f"{time_s:g} does not come after {found[-1].time_s if found else 0:g}", cure, "not ascending")
        found.append(Region(time_s, _sized_box(row["box"], "track.box", size)))
    return tuple(found)


def _box_size(data: dict[str, Any]) -> tuple[float, float]:
    """What the boxes of a line are counted in."""
    cure = "write [width, height] that boxes count in: [1, 1], [1000, 1000], or the picture's pixels"
    if data.get("box_size") is None:
        return 1.0, 1.0
    if not isinstance(data["box_size"], list) or len(data["box_size"]) != 2:
        raise _Wrong("box_size", f"{_shown(data['box_size'])} is not a pair", cure, "not a pair")
    width, height = (_number(one, "box_size", cure) for one in data["box_size"])
    if not (width > 0 and height > 0):
        raise _Wrong("box_size", f"{_shown(data['box_size'])} is no size", cure, "no size")
    return width, height


def _sized_box(value: Any, key: str, size: tuple[float, float]) -> Box:
    width, height = size
    cure = f"write [x1, y1, x2, y2] with 0 <= x1 < x2 <= {width:g} and 0 <= y1 < y2 <= {height:g}, as box_size says (default: shares, [1, 1])"
    return _four(value, key, size, cure, f"{width:g} x {height:g}", "not inside the picture")


def _number(value: Any, key: str, cure: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Wrong(key, f"{_shown(value)} is not a number", cure, "not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Wrong(key, f"{_shown(value)} is not finite", cure, "not finite")
    return number


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Wrong(key, f"is {_kind_of(value)}", "write a list in brackets", "not a list")
    return value


def _mapping(value: Any, key: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(key, f"is {_kind_of(value)}", f"write an object with {' and '.join(known)}", "not an object")
    _known_keys(value, known, f"{key}.")
    return value


_JSON_KINDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _kind_of(value: Any) -> str:
    return _JSON_KINDS.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    shown: Callable[[Any], str] = repr if isinstance(value, (str, tuple)) else json.dumps
    try:
        text = shown(value)
    except (ValueError, RecursionError):
        return _kind_of(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
