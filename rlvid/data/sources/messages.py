"""Chats about videos and images with `<video>` and `<image>` marks, as ms-swift, LLaMA-Factory and LLaVA train on them.

Columns: `messages` (turns of `role`, `content`) or `conversations` (turns of `from`, `value`); `videos` or `video` (a path, a list of paths, or a list
of pictures with `fps`), `images` or `image`, or the paths inside a turn's parts; none of them: text alone. `solution` (ms-swift's column for GRPO) is the
answer to the last question, where it is there; else each question is answered by the turn that follows. A question after the first one is taken only if
it has options of its own: an open one may depend on what was said before, and is counted and left out, as are chats of several questions about anything
else than one video [D]. A `<think>` before the answer is dropped, `<answer>` is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from rlvid.data.sources import media, problems, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

TURNS, PATHS, IMAGES = ("messages", "conversations"), ("videos", "video"), ("images", "image")
TEXT_ALONE = "media: none, a question of text alone"


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    whole = record.values
    key = next((name for name in TURNS if whole.get(name) is not None), None)
    if key is None:
        yield whole
        return
    turns = media.turns(whole[key], key)
    path, images = (
        next((whole[name] for name in names if whole.get(name)), [one for _, _, inside in turns for found, one in inside if found == kind])
        for kind, names in (("video", PATHS), ("image", IMAGES))
    )
    row = {
        "videos": path,
        "images": images or None,
        "id": whole.get("id"),
        "fps": whole.get("fps"),
        "data_source": whole.get("data_source"),
        "problem_type": whole.get("problem_type"),
    }
    asked = [text for role, text, _ in turns if role == "user"]
    row["turns"] = len(asked)
    if whole.get("solution") is not None and asked:
        yield row | {"messages": asked[-1], "answer": str(whole["solution"]), "first": len(asked) == 1}
        return
    pairs = [(question, said) for (role, question, _), (answering, said, _) in pairwise(turns) if (role, answering) == ("user", "assistant")]
    if not pairs:
        raise Unusable(key, "no user turn is followed by an assistant turn, and there is no solution", "no answer")
    for at, (question, said) in enumerate(pairs):
        yield row | {"messages": question, "answer": said, "first": at == 0}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    shown = media.shown(texts.text(values, "messages"), values["videos"], values.get("images"), videos, values.get("fps"))
    asked = shown.text
    if values["turns"] > 1 and (shown.media or not shown.video):
        raise Unusable("messages", "several turns about more than one video: which turn shows what is not known", "several turns")
    answer = texts.inside_tag(texts.text(values, "answer").split("</think>")[-1])
    kind = values.get("problem_type")
    meant = problems.judged(asked, answer, None, problems.TASKS.get(texts.kind_of(str(kind))) if kind is not None else None)
    if not values["first"] and not meant.get("options"):
        raise Unusable("messages", "a later open question may depend on what was said before", "later open question")
    source = str(values.get("data_source") or "unknown").strip()
    return Draft(
        id=texts.derived_id("messages", values.get("id") or source, asked, *([values["videos"]] if not shown.media else [one.path for one in shown.media])),
        video=shown.video,
        media=shown.media,
        source=f"messages/{source}",
        **meant | ({} if shown.video or shown.media else {"changes": (*meant.get("changes", ()), TEXT_ALONE)}),
    )


SOURCE = Source(
    "messages",
    "Chats with <video> and <image> marks of ms-swift, LLaMA-Factory, LLaVA: json, jsonl or parquet",
    ("messages", "videos"),
    _draft,
    optional=("conversations", "video", "image", "images", "solution", "id", "fps", "data_source", "problem_type"),
    split=_split,
)
