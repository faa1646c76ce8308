"""Multiple-choice files in the form of LLaVA-Video-178K: conversations in which a person asks and the answer follows.

Columns: `id`, `conversations` (turns `from`: human or gpt, `value`), `video`, `data_source`, as in the files `*_mc_*qa_processed.json` of
lmms-lab/LLaVA-Video-178K (arXiv 2410.02713). A question holds its options as lines `A. ...`, the answer begins with the letter. An id is one video's, so
that questions get ids of their own. Open-ended files have no options: every question of theirs is counted and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    turns = record.values.get("conversations")
    if turns is None:
        yield record.values
        return
    turns = [texts.rows_of(turn, "turn", dict) for turn in texts.rows_of(turns, "conversations", list)]
    pairs = [(asked, said) for asked, said in pairwise(turns) if (asked.get("from"), said.get("from")) == ("human", "gpt")]
    if not pairs:
        raise Unusable("conversations", "no human turn is followed by a gpt turn")
    for asked, said in pairs:
        yield {**record.values, "conversations": asked, "answer": said}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    asked = re.sub(r"<(?:image|video)>", "", texts.text(values["conversations"], "value"))
    question, options = texts.split_options(asked)
    if not options.texts:
        raise Unusable("options", "the question holds no lines A. ..., B. ... (the multiple-choice files are named *_mc_*)", "none in the question")
    video = texts.text(values, "video")
    return Draft(
        id=texts.derived_id("llava_video", texts.text(values, "id"), video, asked),
        video=videos.find(video),
        question=question,
        task="multiple_choice",
        source=f"llava_video/{values.get('data_source') or 'unknown'}",
        options=options.texts,
        answer=texts.by_letter(texts.text(values["answer"], "value"), options),
        changes=options.changes,
    )


SOURCE = Source(
    "llava_video",
    "LLaVA-Video-178K and alike: *_mc_*qa_processed.json with conversations",
    ("id", "conversations", "video"),
    _draft,
    optional=("data_source",),
    split=_split,
)
