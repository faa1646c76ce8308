"""Rows for reinforcement learning as trainers write them: a problem, its solution, what kind of each it is, and where the media lie.

Columns: `problem`, `question` or `prompt` (text, or a chat whose last user turn is meant); `solution`, `answer` or `reward_model.ground_truth` (inside
`<answer>` or bare); `path`, `video` or `videos`, `image` or `images` (`path` names images where `data_type` is image; with `text` there are none).
Optional `problem_id`, `data_type`, `problem_type`, `options`, `data_source`, `fps`. So write Video-R1,
OneThinker (arXiv 2512.03043), EasyR1 and verl (parquet). Kinds of problems that no reward here judges are counted and left out.
Without a `problem_type` the kind follows from the row: options make a choice, one number a number, LaTeX a formula, all else an open answer [D].
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlvid.data.options import Options
from rlvid.data.sources import media, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos
from rlvid.reading import answers, boxes, maths, spans
from rlvid.types import BOX_TASKS, Box, Span, Task

TASKS: dict[str, Task] = {
    "multiple choice": "multiple_choice",
    "numerical": "numeric",
    "numeric": "numeric",
    "number": "numeric",
    "regression": "regression",
    "free form": "open",
    "open ended": "open",
    "open": "open",
    "qa": "open",
    "ocr": "open",
    "math": "math",
    "temporal grounding": "temporal_grounding",
    "tvg": "temporal_grounding",
    "spatial grounding": "spatial_grounding",
    "tracking": "tracking",
    "spatial temporal grounding": "spatio_temporal_grounding",
    "spatio temporal grounding": "spatio_temporal_grounding",
    "stvg": "spatio_temporal_grounding",
}
"""Kinds of problems, by `texts.kind_of`."""
_LATEX = re.compile(r"\\[a-zA-Z]{2,}|\$[^$]+\$|[\^_]\{")
PROBLEMS, SOLUTIONS, PATHS = ("problem", "question", "prompt"), ("solution", "answer", "reward_model"), ("path", "video", "videos")
OTHERS = ("image", "images", "data_type", "problem_type", "options", "problem_id", "id", "data_source", "fps", "extra_info")


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    """The row under the first name of each column that it has."""
    whole = record.values
    found = {name: next((whole[name] for name in names if whole.get(name) is not None), None) for name, names in _COLUMNS.items()}
    if not any(value is not None for value in found.values()):
        yield whole
        return
    if isinstance(found["solution"], Mapping):
        found["solution"] = found["solution"].get("ground_truth")
    if found["path"] is None and (any(whole.get(name) for name in ("image", "images")) or texts.kind_of(str(whole.get("data_type"))) == "text"):
        found["path"] = ()
    yield {**{name: whole.get(name) for name in OTHERS if whole.get(name) is not None}, **{name: value for name, value in found.items() if value is not None}}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    shown = shown_in(_asked(values["problem"]), values, values["path"], videos)
    asked = shown.text
    solution = values["solution"] if isinstance(values["solution"], str | int | float) else json.dumps(values["solution"])
    kind = values.get("problem_type")
    named = texts.kind_of(str(kind)) if kind is not None else ""
    if named and named not in TASKS:
        raise Unusable("problem_type", f"{str(kind)[:40]!r} is not one of {', '.join(sorted(TASKS))}", "no reward judges it")
    meant = judged(asked, texts.inside_tag(str(solution)), values.get("options"), TASKS.get(named))
    name = values.get("problem_id", values.get("id"))
    source = str(values.get("data_source") or "unknown").strip()
    return Draft(
        id=f"problems-{source}-{name}"
        if name is not None
        else texts.derived_id("problems", source, asked, values["path"] or [one.path for one in shown.media]),
        video=shown.video,
        media=shown.media,
        source=f"problems/{source}",
        **meant,
    )


def shown_in(asked: str, values: Mapping[str, Any], path: Any, videos: Videos) -> media.Shown:
    """What a row shows: `path` names videos, or images where data_type says so; `image` or `images` stand beside it. Raises Unusable."""
    kind = texts.kind_of(texts.text(values, "data_type")) if values.get("data_type") is not None else "video"
    images = next((values[name] for name in ("images", "image") if values.get(name)), None)
    if kind not in ("video", "image", "text", "image video", "video image", "mixed", "mix"):
        raise Unusable("data_type", f"{str(values['data_type'])[:40]!r} is none of video, image, text", "unknown")
    if kind == "text" and (path or images):
        raise Unusable("data_type", "is text, and the row names media", "text with media")
    if (kind == "video" and not path and (values.get("data_type") is not None or not images)) or (kind == "image" and not (path or images)):
        # A medium that got lost; as one that is named by nothing.
        return (
            media.Shown(asked, media.one_video(path, videos, values.get("fps"))) if kind == "video" else media.Shown(asked, videos.find_image(str(path or "")))
        )
    if kind == "image":
        if path and images:
            raise Unusable("data_type", "is image, and path stands beside images", "two columns of images")
        path, images = None, images or path
    return media.shown(asked, path, images, videos, values.get("fps"))


def judged(asked: str, answer: str, given: Any, task: Task | None) -> dict[str, Any]:
    """Question, task, options, answer and spans of a problem and its solution. `task`: None where the row does not name it. Raises Unusable."""
    question, options = texts.split_options(asked) if given in (None, [], ()) else (asked, texts.options(given, "options"))
    if task is None:
        task = _task_of(answer, options)
    if task == "temporal_grounding":
        return {"question": asked, "task": task, "spans": _spans(answer)}
    if task in BOX_TASKS:
        return {"question": asked, "task": task, **_places(answer, task)}
    if task == "multiple_choice":
        if not options.texts:
            raise Unusable("options", "a choice needs options, in the row or as lines A. ..., B. ... of the question", "none in the row")
        found = options.by_letter(answer) or texts.by_text(answer, options)
        return {"question": question, "task": task, "options": options.texts, "answer": found, "changes": options.changes}
    return {"question": asked, "task": task, "answer": formula(answer) if task == "math" else answer}


def _places(answer: str, task: Task) -> dict[str, Any]:
    """`{"boxes": [x1, y1, x2, y2]}`, `{"boxes": {"1": [...], ...}}` by seconds, `{"time": [start, end], "boxes": {"9": [...], ...}}`. Coordinates are
    thousandths of width and height, as OneThinker has them [R: its code divides by 1000], or shares where all are at most 1."""
    if task == "spatial_grounding":
        one, why = boxes.box(answer)
        if one is None:
            raise Unusable("solution", f"{answer[:80]!r} is not one box, {why} (coordinates are 0 to 1000)", "not a box")
        return {"box": _thousandths(one), "box_size": (boxes.SCALE, boxes.SCALE)}
    found, why = boxes.track(answer)
    if found is None or (task == "spatio_temporal_grounding" and found.span is None):
        raise Unusable("solution", f"{answer[:80]!r} is not {TRACKS[task]}, {why or 'no time'} (coordinates are 0 to 1000)", "not boxes at times")
    track = tuple((region.time_s, _thousandths(region.box)) for region in found.regions)
    return {"track": track, "box_size": (boxes.SCALE, boxes.SCALE), "spans": (found.span,) if task == "spatio_temporal_grounding" else ()}


TRACKS = {"tracking": "boxes by seconds", "spatio_temporal_grounding": "a time and boxes by seconds"}


def _thousandths(box: Box) -> boxes.Four:
    x1, y1, x2, y2 = (round(boxes.SCALE * edge, 6) for edge in box)
    return x1, y1, x2, y2


def formula(answer: str) -> str:
    """The answer of a math problem, if answers can be compared with it. Raises Unusable."""
    if wrong := maths.problem(answer):
        raise Unusable("solution", f"{answer[:80]!r} is no formula that can be compared ({wrong})", "not a formula")
    return answer


def _task_of(answer: str, options: Options) -> Task:
    if options.texts and (options.by_letter(answer) or options.by_text(answer)):
        return "multiple_choice"
    if answers.number(answer)[0] is not None and len(answer.split()) == 1:
        return "numeric"
    return "math" if _LATEX.search(answer) and not maths.problem(answer) else "open"


def _spans(answer: str) -> tuple[Span, ...]:
    """`{"time": [12.3, 25.7]}`, `[[1, 2], [5, 6]]`, `7.0 to 11.0`: in seconds."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        parsed = next((value for value in parsed.values() if isinstance(value, list)), None)
    if isinstance(parsed, list):
        return tuple(texts.span(one, "solution") for one in (parsed if parsed and isinstance(parsed[0], list) else [parsed]))
    found, problem = spans.span(answer)
    if found is None:
        raise Unusable("solution", f"{answer[:80]!r} is not a start and an end ({problem})", "not a start and an end")
    return (found,)


def _asked(problem: Any) -> str:
    """Text, or the last user turn of a chat."""
    if isinstance(problem, str):
        return problem.strip()
    turns = media.turns(problem, "prompt")
    asked = [text for role, text, _ in turns if role == "user"]
    if not asked:
        raise Unusable("prompt", "holds no turn of a user", "no user")
    return asked[-1]


_COLUMNS: Mapping[str, Sequence[str]] = {"problem": PROBLEMS, "solution": SOLUTIONS, "path": PATHS}
SOURCE = Source(
    "problems",
    "Problem and solution rows of Video-R1, OneThinker, EasyR1, verl: json, jsonl or parquet",
    ("problem", "solution", "path"),
    _draft,
    optional=tuple(dict.fromkeys((*PROBLEMS, *SOLUTIONS, *PATHS, *OTHERS))),
    split=_split,
)
