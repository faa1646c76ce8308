"""What a scorer saw of a video so far. Frames are looked at once, whatever is added later."""

from __future__ import annotations

import numpy as np

from rlvid.config.video import RelevanceConfig
from rlvid.types import Relevance
from rlvid.variants.relevance import relevance
from rlvid.variants.scorers import Looks, Scorer
from rlvid.video.clip import Clip, in_order


class Watching:
    """For one question's text: `see` clips, the evenly spaced one first, then ask for the relevance of all that was seen."""

    def __init__(self, scorer: Scorer, text: str, settings: RelevanceConfig) -> None:
        self._scorer, self._text, self._settings = scorer, text, settings
        self._clips: list[Clip] = []
        self._looks: list[Looks] = []

    def see(self, *clips: Clip) -> None:
        for clip in clips:
            self._clips.append(clip)
            self._looks.append(self._scorer.look(clip.frames_NHWC, self._text))

    def relevance(self) -> Relevance:
        times_s_N, order_N = in_order(self._clips)
        looks_N = tuple(np.concatenate(parts)[order_N] for parts in zip(*self._looks, strict=True))
        raw = self._scorer.compare(looks_N, np.flatnonzero(order_N < len(self._clips[0].times_s_N)))
        settings = self._settings
        return relevance(raw, times_s_N, tau=settings.attention_tau, windows=settings.windows, temperature=settings.temperature)
