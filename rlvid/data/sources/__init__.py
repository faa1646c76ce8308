"""Published data sets and benchmarks that become question files, by name."""

from __future__ import annotations

import difflib

from rlvid.config import ConfigError
from rlvid.data.sources import (
    activitynet_captions,
    activitynet_rtl,
    charades_sta,
    llava_video,
    longvideo_reason,
    longvideobench,
    lvbench,
    messages,
    minerva,
    mlvu,
    mmvu,
    motionbench,
    mvbench,
    nextgqa,
    perceptiontest,
    problems,
    qvhighlights,
    tempcompass,
    temporal_r1,
    video_holmes,
    video_r1,
    videomme,
    videommmu,
    vsibench,
)
from rlvid.data.sources.base import Source

_MODULES = (
    problems,
    video_r1,
    llava_video,
    temporal_r1,
    messages,
    longvideo_reason,
    qvhighlights,
    charades_sta,
    activitynet_captions,
    nextgqa,
    videomme,
    tempcompass,
    videommmu,
    mmvu,
    vsibench,
    perceptiontest,
    mvbench,
    video_holmes,
    longvideobench,
    lvbench,
    mlvu,
    motionbench,
    minerva,
    activitynet_rtl,
)
SOURCES: dict[str, Source] = {module.SOURCE.name: module.SOURCE for module in _MODULES}
"""Training sets first, then what serves both, then benchmarks."""


def named(name: str) -> Source:
    """The source of that name; upper case and dashes do not matter. ConfigError with the nearest name otherwise."""
    plain = name.lower().replace("-", "_")
    if plain in SOURCES:
        return SOURCES[plain]
    near = difflib.get_close_matches(plain, SOURCES, n=1)
    raise ConfigError(f"SOURCE: {name!r} is not known ({f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(SOURCES)})")
