"""ActivityNet-Captions, for training and for the grounding benchmark: when does each sentence of a video's description happen.

Columns: the published `train.json`, `val_1.json`, `val_2.json` are one object, video -> `duration`, `timestamps`, `sentences` (arXiv 1705.00754); files of
rows with `video` and the same three work too. Videos: `v_....mp4` or another known suffix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlvid.data.sources import files, texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos


def _split(record: Record) -> Iterator[Mapping[str, Any]]:
    whole = record.values
    if set(whole) == {"key", "value"}:
        whole = {"video": whole["key"], **texts.rows_of(whole["value"], "value", dict)}
    sentences, timestamps = whole.get("sentences"), whole.get("timestamps")
    if not isinstance(sentences, list) or not isinstance(timestamps, list):
        yield {name: value for name, value in whole.items() if name not in ("sentences", "timestamps")}
        return
    if len(sentences) != len(timestamps):
        raise Unusable("timestamps", f"{len(timestamps)} for {len(sentences)} sentences", "not as many as sentences")
    for sentence, span in zip(sentences, timestamps, strict=True):
        yield {"video": whole.get("video"), "duration": whole.get("duration"), "sentences": sentence, "timestamps": span}


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, sentence, span = texts.text(values, "video"), texts.text(values, "sentences"), texts.span(values["timestamps"], "timestamps")
    return Draft(
        id=texts.derived_id("activitynet_captions", name, sentence, *span),
        video=videos.find(name, name.removeprefix("v_")),
        question=texts.when(sentence),
        task="temporal_grounding",
        source="activitynet_captions",
        spans=(span,),
        duration_s=texts.seconds(values["duration"], "duration"),
    )


SOURCE = Source(
    "activitynet_captions",
    "ActivityNet-Captions, training and grounding benchmark: train.json, val_1.json, val_2.json",
    ("video", "duration", "timestamps", "sentences"),
    _draft,
    split=_split,
    read=files.read_keyed,
)
