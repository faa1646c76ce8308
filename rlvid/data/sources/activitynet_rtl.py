"""ActivityNet-RTL: when does something happen that has to be reasoned out. The answer is a span with its explanation.

Columns: `question_id`, `vid`, `question`, `answer` (its first two marks `<12.5>` are start and end in seconds), `duration`, as LITA's own evaluation reads
`annot_val_1_q229.json` (arXiv 2403.19046, NVlabs/LITA). Videos: `v_VID.mp4` or another known suffix. The explanation is not asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

_MARK = re.compile(r"<\s*(\d+(?:\.\d*)?|\.\d+)\s*>")


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, duration_s = texts.text(values, "vid"), texts.seconds(values["duration"], "duration")
    marks = [min(max(float(mark), 0.0), duration_s) for mark in _MARK.findall(texts.text(values, "answer"))[:2]]
    if len(marks) < 2:
        raise Unusable("answer", f"{texts.text(values, 'answer')[:80]!r} does not hold two times <12.5>", "holds no two times")
    return Draft(
        id=f"activitynet_rtl-{texts.text(values, 'question_id')}",
        video=videos.find(f"v_{name}", name),
        question=texts.text(values, "question"),
        task="temporal_grounding",
        source="activitynet_rtl",
        spans=((min(marks), max(marks)),),
        duration_s=duration_s,
    )


SOURCE = Source("activitynet_rtl", "ActivityNet-RTL benchmark: annot_val_1_q229.json", ("question_id", "vid", "question", "answer", "duration"), _draft)
