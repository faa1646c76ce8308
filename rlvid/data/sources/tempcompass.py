"""TempCompass: action, speed, direction, order and attribute change, asked in four ways.

Columns: the published `questions/multi-choice.json`, `yes_no.json`, `caption_matching.json` are one object, video -> dimension -> list of `question`,
`answer`, with the options inside the question's text (`A. ...`; `Option 1: ...`, `Sentence A: ...`). The parquet files of lmms-eval's tasks have `video_id`,
`dim`, `question`, `answer`. Captioning needs a judge model: its questions are counted and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlvid.data import options as lettered
from rlvid.data.options import Options
from rlvid.data.sources import files, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

_CAPTION = re.compile(r"((?:Option|Sentence|Caption) \w): *(.*\S)\s*")


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    if set(record.values) != {"key", "value"}:
        yield record.values
        return
    for dimension, items in texts.rows_of(record.values["value"], "value", dict).items():
        for item in texts.rows_of(items, dimension, list):
            yield {"video_id": record.values["key"], "dim": dimension, **texts.rows_of(item, dimension, dict)}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, dimension, asked = (texts.text(values, key) for key in ("video_id", "dim", "question"))
    kind, question, options, answer = _choices(asked, texts.text(values, "answer"), values)
    return Draft(
        id=texts.derived_id("tempcompass", name, kind, dimension, asked),
        video=videos.find(name, f"videos/{name}"),
        question=question,
        task="multiple_choice",
        source=f"tempcompass/{kind}/{dimension}",
        options=options.texts,
        answer=answer,
        changes=options.changes,
    )


def _choices(asked: str, answer: str, values: Mapping[str, Any]) -> tuple[str, str, Options, str]:
    """How the question is asked, the question without its options, the options, the right one."""
    if "mc_question" in values or "Generated Caption:" in asked:
        raise Unusable("question", "captioning needs a judge model (use the three other files)", "captioning needs a judge model")
    if answer.lower() in ("yes", "no"):
        return "yes_no", asked, lettered.read(("yes", "no")), answer.lower()
    captions = [match for line in _joined(asked) if (match := _CAPTION.fullmatch(line))]
    if captions:
        first = next(line for line in asked.splitlines() if line.strip())
        right = [match[2] for match in captions if answer in (match[0].strip(), match[1], match[2])]
        return "caption_matching", first.strip(), lettered.read([match[2] for match in captions]), right[0] if right else answer
    question, options = texts.split_options(asked)
    if not options.texts:
        raise Unusable("options", "the question holds no lines A. ..., B. ...", "none in the question")
    return "multi_choice", question, options, texts.by_letter(answer, options)


def _joined(asked: str) -> list[str]:
    """The lines, one without a caption's name joined to the caption before it."""
    lines: list[str] = []
    for line in asked.splitlines():
        if lines and _CAPTION.fullmatch(lines[-1]) and line.strip() and not _CAPTION.fullmatch(line.strip()):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip())
    return lines


SOURCE = Source(
    "tempcompass",
    "TempCompass benchmark: multi-choice.json, yes_no.json, caption_matching.json or the parquet files",
    ("video_id", "dim", "question", "answer"),
    _draft,
    optional=("mc_question",),
    split=_split,
    read=files.read_keyed,
)
