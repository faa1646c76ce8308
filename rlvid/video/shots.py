"""Where a video's shots begin, by what its packets say: no frame is decoded for it. Pure.

An encoder puts a keyframe where the picture changes, off the beat that its keyframes have otherwise. Where it may not, because their distance is fixed for
streaming, the first frame after a cut still takes about as many bytes as a keyframe, and far more than the frames around it. Both stand in the index
that every reader of the file has anyway [D]. Libraries that find cuts (PySceneDetect, TransNet) decode every frame: of an hour at 25 frames a second, 90,000.

The burst may be a few frames late, as B-frames before it take from it. A cut that falls on the beat cannot be told from the beat, a slow change of picture
leaves no such mark, and files whose packets say nothing (pictures, codecs of keyframes alone, AVI) have one shot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlvid.video.frames import Index, Times

Indices = NDArray[np.int64]

ON_BEAT = 0.9
"""Keyframes that are at least this share of the longest distance apart follow the beat."""
BURST, USUAL = 2.0, 95
"""A frame that takes so many times what that percentage of the frames around it take..."""
LIKE_KEY = 0.4
"""...and this share of the keyframe before it begins a shot."""
AROUND = 256
"""Frames of a stretch. Of ten seconds at 25 frames a second, a dozen may begin shots."""
LEAST_S = 0.2
"""Of cuts that are closer, the first."""


def cuts(index: Index) -> Indices:
    """Positions of the frames that begin a shot, ascending, without the video's first."""
    if not len(index.packet_bytes):
        return np.empty(0, np.int64)
    found: list[int] = []
    for at in np.union1d(_off_beat(index), _bursts(index)).tolist():
        if index.times_s[at] - index.times_s[found[-1] if found else 0] >= LEAST_S:
            found.append(at)
    return np.array(found, dtype=np.int64)


def key_positions(index: Index) -> Indices:
    """Positions of the keyframes that are shown: each costs one decoded frame, any other also those since the keyframe before it."""
    return np.empty(0, np.int64) if index.counted or index.decoded else np.flatnonzero(np.isin(index.pts, index.keys))


def unseen_shots(index: Index, frames: Indices, seen_s: Times, limit: int) -> Indices:
    """Positions of at most `limit` of `frames`: one of each shot in which none of the times `seen_s` lies; of more such shots every so-many-th.

    It is the keyframe nearest to the shot's middle, or its middle frame where none is inside.
    """
    first, last = int(frames[0]), int(frames[-1]) + 1
    inner = cuts(index)
    borders = np.concatenate([[first], inner[(inner > first) & (inner < last)], [last]])
    seen = np.searchsorted(borders, np.searchsorted(index.times_s, seen_s - 1e-6), side="right") - 1
    unseen = np.setdiff1d(np.arange(len(borders) - 1), seen)
    if len(unseen) > limit:
        unseen = unseen[np.linspace(0, len(unseen) - 1, limit).round().astype(np.int64)] if limit > 1 else unseen[: max(0, limit)]
    keys = key_positions(index)
    return np.array([_of_shot(keys, int(borders[shot]), int(borders[shot + 1])) for shot in unseen], dtype=np.int64)


def nearest_or_key(keys: Indices, start: int, end: int, wanted: int) -> int:
    """The keyframe among start..end-1 that is nearest to `wanted`, or `wanted` where there is none."""
    inside = keys[np.searchsorted(keys, start) : np.searchsorted(keys, end)]
    return int(inside[np.abs(inside - wanted).argmin()]) if len(inside) else wanted


def _of_shot(keys: Indices, start: int, end: int) -> int:
    return nearest_or_key(keys, start, end, (start + end) // 2)


def _off_beat(index: Index) -> Indices:
    """Keyframes that come before their time. A distance that is the longest only once is no beat, unless there is no other."""
    keys = key_positions(index)
    apart = np.diff(keys)
    if not len(apart):
        return keys[:0]
    on_beat = apart >= ON_BEAT * apart.max()
    return keys[1:][~on_beat] if on_beat.sum() > 1 or len(apart) == 1 else keys[1:]


def _bursts(index: Index) -> Indices:
    """Frames between keyframes whose packets stand out as a cut's do."""
    is_key = np.zeros(len(index.pts), dtype=bool)
    keys = key_positions(index)
    is_key[keys] = True
    if is_key.all() or not len(keys):
        return keys[:0]
    before = index.packet_bytes[keys[np.maximum(np.searchsorted(keys, np.arange(len(index.pts)), side="right") - 1, 0)]]
    return np.flatnonzero(~is_key & (index.packet_bytes > BURST * _around(index.packet_bytes, is_key)) & (index.packet_bytes >= LIKE_KEY * before))


def _around(taken_N: Indices, is_key_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N] what most frames of a stretch of AROUND take at most, keyframes apart."""
    usual = np.empty(len(taken_N))
    for start in range(0, len(taken_N), AROUND):
        here = slice(max(0, min(start, len(taken_N) - AROUND)), start + AROUND)  # the last stretch is as long as the others
        inner = taken_N[here][~is_key_N[here]]
        usual[start : start + AROUND] = np.percentile(inner, USUAL) if len(inner) else np.inf
    return usual
