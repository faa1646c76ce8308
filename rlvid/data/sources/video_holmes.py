"""Video-Holmes: suspense films asked about in seven ways, six options each.

Columns: `video ID`, `Question ID`, `Question Type` (SR, IMC, TCI, TA, MHR, PAR, CTI), `Question`, `Options` (letter -> text), `Answer` (a letter), as in
`test_Video-Holmes.json` of TencentARC/Video-Holmes (arXiv 2505.21374) and as lmms-eval's task `video_holmes` reads it. Videos: `videos_cropped/ID.mp4`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    name, kind = texts.text(values, "video ID"), texts.text(values, "Question Type")
    options = texts.named_options(values["Options"], "Options")
    return Draft(
        id=f"video_holmes-{name}-{texts.text(values, 'Question ID')}",
        video=videos.find(name, f"videos_cropped/{name}", f"videos/{name}"),
        question=texts.text(values, "Question"),
        task="multiple_choice",
        source=f"video_holmes/{kind}",
        options=options.texts,
        answer=texts.by_letter(texts.text(values, "Answer"), options),
        changes=options.changes,
    )


SOURCE = Source(
    "video_holmes",
    "Video-Holmes benchmark (and training set): test_Video-Holmes.json",
    ("video ID", "Question ID", "Question Type", "Question", "Options", "Answer"),
    _draft,
)
