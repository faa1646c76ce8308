"""Which frames and which part of them the K variants of a video show. Specs only, no pixels.

STRIVE [S] asks for structured temporal and spatial variants that keep temporal coverage. What stands here is this project's
reading [D]: the timeline of the candidates is cut into ceil(T/2) equal bins and every bin that holds a candidate gives at
least one frame, in order; `uniform` is the test-time view; `random_jitter` and `random_crop` are the ablation's baselines.
A kind is a pair of rules, one for time and one for space, in `KINDS`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Box, VariantSpec

Indices = NDArray[np.int64]
Times = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What a rule may look at: the candidates' times [N] in seconds, T frames wanted, and the least area of a crop."""

    times_s_N: Times
    frames: int
    min_crop_area: float


Temporal = Callable[[View, np.random.Generator], Indices]
"""Ascending, distinct candidate indices [T]."""
Spatial = Callable[[View, np.random.Generator], Box | None]
"""One box for the whole clip, or None for the whole frame."""


def explore(
    kinds: Sequence[str],
    *,
    times_s_N: Sequence[float] | Times,
    frames: int,
    size: tuple[int, int],
    question_id: str,
    seed: int,
    min_crop_area: float = 0.7,
) -> list[VariantSpec]:
    """One spec per kind. T is `frames`, or the largest even number of candidates when the video has fewer.

    Variant k draws from (seed, question id, k) alone, so any worker draws the same.
    """
    times = _ascending(times_s_N)
    view = View(times_s_N=times, frames=shown_frames(len(times), frames), min_crop_area=min_crop_area)
    return [_spec(kind, view, size, derived_seed(seed, question_id, variant)) for variant, kind in enumerate(kinds)]


def shown_frames(candidates: int, frames: int) -> int:
    """T: `frames`, or the largest even number that the candidates give (the model merges frames in pairs; none is ever repeated)."""
    if candidates < 2 or frames < 2 or frames % 2:
        raise ValueError(f"{frames} frames of {candidates} candidates: an even number of at least 2 frames and at least 2 candidates are needed")
    return min(frames, candidates - candidates % 2)


def derived_seed(*parts: int | str) -> int:
    """48 bits that depend on the parts' values and types only: equal on every machine and in every process, exact in JSON."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:6], "big")


def evenly(view: View, rng: np.random.Generator) -> Indices:
    """np.linspace over the candidates; irregular timestamps that leave a bin empty get that bin's candidate."""
    return _covering(np.linspace(0, len(view.times_s_N) - 1, view.frames).round().astype(np.int64), view)


def jittered(view: View, rng: np.random.Generator) -> Indices:
    """`evenly`, each interior frame moved to a random candidate at most half the gap to its neighbours away (in time)."""
    base, times = evenly(view, rng), view.times_s_N
    moved = base.copy()
    for at in range(1, len(base) - 1):
        here_s, before_s, after_s = times[base[at]], times[base[at - 1]], times[base[at + 1]]
        low = max(int(np.searchsorted(times, (here_s + before_s) / 2, side="left")), int(moved[at - 1]) + 1)
        high = int(np.searchsorted(times, (here_s + after_s) / 2, side="right")) - 1
        moved[at] = rng.integers(low, high + 1)
    return _restored(moved, base, view)


def whole_frame(view: View, rng: np.random.Generator) -> Box | None:
    return None


def random_box(view: View, rng: np.random.Generator) -> Box | None:
    """An aspect-preserving box with an area drawn uniformly from [min_crop_area, 1), anywhere in the frame."""
    side = math.sqrt(rng.uniform(view.min_crop_area, 1.0))
    x1, y1 = (float(rng.uniform(0.0, 1.0 - side)) for _ in range(2))
    return x1, y1, min(1.0, x1 + side), min(1.0, y1 + side)


KINDS: dict[str, tuple[Temporal, Spatial]] = {
    "uniform": (evenly, whole_frame),
    "random_jitter": (jittered, whole_frame),
    "random_crop": (evenly, random_box),
}
"""Name in the config -> (which times, which box)."""


def _spec(kind: str, view: View, size: tuple[int, int], seed: int) -> VariantSpec:
    if kind not in KINDS:
        raise ValueError(f"variants.kinds: unknown kind {kind!r} (known: {', '.join(KINDS)})")
    temporal, spatial = KINDS[kind]
    rng = np.random.default_rng(seed)
    times_s = tuple(float(view.times_s_N[at]) for at in temporal(view, rng))
    return VariantSpec(kind=kind, times_s=times_s, box=spatial(view, rng), size=size, seed=seed)


def bins(view: View) -> Indices:
    """[N] the coverage bin of every candidate: ceil(T/2) equal parts of the time from the first candidate to the last."""
    count = math.ceil(view.frames / 2)
    start_s, end_s = view.times_s_N[0], view.times_s_N[-1]
    return np.minimum(((view.times_s_N - start_s) / (end_s - start_s) * count).astype(np.int64), count - 1)


def _covering(chosen: Indices, view: View) -> Indices:
    """`chosen` with frames of crowded bins exchanged for one of every bin that has candidates but no chosen frame."""
    bin_N = bins(view)
    picked = chosen.copy()
    for empty in sorted(set(bin_N.tolist()) - set(bin_N[chosen].tolist())):
        # T frames in fewer than T/2 bins: the fullest has three or more, so one goes that is not the clip's first or last.
        crowd = np.flatnonzero(bin_N[picked] == np.bincount(bin_N[picked]).argmax())
        members = np.flatnonzero(bin_N == empty)
        picked[crowd[len(crowd) // 2]] = members[len(members) // 2]
        picked.sort()
    return picked


def _restored(moved: Indices, base: Indices, view: View) -> Indices:
    """`moved` with the frames of every bin that the jitter emptied put back to their base, until no bin is empty."""
    bin_N = bins(view)
    while lost := set(bin_N[base].tolist()) - set(bin_N[moved].tolist()):
        back = np.isin(bin_N[base], list(lost))
        moved = np.where(back, base, moved)
    return moved


def _ascending(times_s_N: Sequence[float] | Times) -> Times:
    times = np.asarray(times_s_N, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ValueError("times_s_N: at least two finite, strictly ascending timestamps are needed")
    return times
