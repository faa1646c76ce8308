"""Chats about one video with `<video>` marks, as ms-swift, LLaMA-Factory and LLaVA train on them.

Columns: `messages` (turns of `role`, `content`) or `conversations` (turns of `from`, `value`); `videos` or `video` (a path, a list of one path, or a list
of pictures with `fps`), or the path inside a turn's parts. `solution` (ms-swift's column for GRPO) is the answer to the last question, where it is there;
else each question is answered by the turn that follows. A question after the first one is taken only if it has options of its own: an open one may
depend on what was said before, and is counted and left out [D]. A `<think>` before the answer is dropped, `<answer>` is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from rlvid.data.sources import media, problems, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

TURNS, PATHS = ("messages", "conversations"), ("videos", "video")


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    whole = record.values
    key = next((name for name in TURNS if whole.get(name) is not None), None)
    if key is None:
        yield whole
        return
    turns = media.turns(whole[key], key)
    inside = [path for _, _, paths in turns for path in paths]
    path = next((whole[name] for name in PATHS if whole.get(name)), inside[0] if len(inside) == 1 else inside or None)
    if path is None and any(whole.get(name) for name in ("image", "images")):
        raise Unusable("images", "is a row about images (rlvid trains on videos)", "not video")
    row = {"videos": path, "id": whole.get("id"), "fps": whole.get("fps"), "data_source": whole.get("data_source"), "problem_type": whole.get("problem_type")}
    asked = [text for role, text, _ in turns if role == "user"]
    if whole.get("solution") is not None and asked:
        yield row | {"messages": asked[-1], "answer": str(whole["solution"]), "first": len(asked) == 1}
        return
    pairs = [(question, said) for (role, question, _), (answering, said, _) in pairwise(turns) if (role, answering) == ("user", "assistant")]
    if not pairs:
        raise Unusable(key, "no user turn is followed by an assistant turn, and there is no solution", "no answer")
    for at, (question, said) in enumerate(pairs):
        yield row | {"messages": question, "answer": said, "first": at == 0}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    asked = media.without_marks(texts.text(values, "messages"))
    answer = texts.inside_tag(texts.text(values, "answer").split("</think>")[-1])
    kind = values.get("problem_type")
    meant = problems.judged(asked, answer, None, problems.TASKS.get(texts.kind_of(str(kind))) if kind is not None else None)
    if not values["first"] and not meant.get("options"):
        raise Unusable("messages", "a later open question may depend on what was said before", "later open question")
    source = str(values.get("data_source") or "unknown").strip()
    return Draft(
        id=texts.derived_id("messages", values.get("id") or source, asked, values["videos"]),
        video=media.one_video(values["videos"], videos, values.get("fps")),
        source=f"messages/{source}",
        **meant,
    )


SOURCE = Source(
    "messages",
    "Chats with <video> marks of ms-swift, LLaMA-Factory, LLaVA: json, jsonl or parquet",
    ("messages", "videos"),
    _draft,
    optional=("conversations", "video", "image", "images", "solution", "id", "fps", "data_source", "problem_type"),
    split=_split,
)
