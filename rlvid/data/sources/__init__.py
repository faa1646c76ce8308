"""Published data sets and benchmarks that become question files, by name."""

from __future__ import annotations

import difflib
from importlib import import_module

from rlvid.config import ConfigError
from rlvid.data.sources.base import Source

NAMES = (
    "problems",
    "video_r1",
    "llava_video",
    "temporal_r1",
    "messages",
    "longvideo_reason",
    "qvhighlights",
    "charades_sta",
    "activitynet_captions",
    "nextgqa",
    "videomme",
    "tempcompass",
    "videommmu",
    "mmvu",
    "vsibench",
    "perceptiontest",
    "mvbench",
    "video_holmes",
    "longvideobench",
    "lvbench",
    "mlvu",
    "motionbench",
    "minerva",
    "activitynet_rtl",
)
"""A file beside this one each, with a `SOURCE` of the same name. Training sets first, then what serves both, then benchmarks."""
SOURCES: dict[str, Source] = {name: import_module(f"{__name__}.{name}").SOURCE for name in NAMES}


def named(name: str) -> Source:
    """The source of that name; upper case and dashes do not matter. ConfigError with the nearest name otherwise."""
    plain = name.lower().replace("-", "_")
    if plain in SOURCES:
        return SOURCES[plain]
    near = difflib.get_close_matches(plain, SOURCES, n=1)
    raise ConfigError(f"SOURCE: {name!r} is not known ({f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(SOURCES)})")
