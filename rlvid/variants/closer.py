"""The second pass: where the first one's relevance says that something matters, which more frames are worth a look? Pure.

Each candidate of the first pass speaks for a stretch of time, that ends halfway to the next candidate, or at a cut between the two. Frames are dealt out among
the candidates that are more relevant than the average, in proportion to their relevance (d'Hondt's rule: the next frame goes where a frame stands for most),
never closer than `gap_s` [D]. Inside a stretch they lie evenly; a keyframe is taken where one is as near, for it costs one decoded frame.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Relevance
from rlvid.video.frames import Index, Times
from rlvid.video.shots import cuts, key_positions, nearest_or_key

Indices = NDArray[np.int64]


def stretches(times_s_N: Times, cuts_s: Times) -> NDArray[np.float64]:
    """[N, 2] start and end of what each candidate speaks for."""
    ends = (times_s_N[:-1] + times_s_N[1:]) / 2
    starts, before = ends.copy(), np.searchsorted(cuts_s, times_s_N + 1e-6)
    for at in np.flatnonzero(np.diff(before)):
        ends[at], starts[at] = cuts_s[before[at]], cuts_s[before[at + 1] - 1]
    return np.stack([np.concatenate([times_s_N[:1], starts]), np.concatenate([ends, times_s_N[-1:]])], axis=1)


def dealt(share_N: Sequence[float] | NDArray[np.float64], stretch_N2: NDArray[np.float64], *, limit: int, gap_s: float) -> Indices:
    """[N] how many more frames each candidate's stretch gets: `limit` together at most, none where the relevance is not above the average."""
    share = np.asarray(share_N, dtype=np.float64)
    room = np.floor((stretch_N2[:, 1] - stretch_N2[:, 0]) / gap_s + 1e-9).astype(np.int64)
    given = np.zeros(len(share), dtype=np.int64)
    queue = [(-one, at) for at, one in enumerate(share.tolist()) if one > (1 + 1e-9) / len(share) and room[at] > 0]
    heapq.heapify(queue)
    for _ in range(limit):
        if not queue:
            break
        _, at = heapq.heappop(queue)
        given[at] += 1
        if given[at] < room[at]:
            heapq.heappush(queue, (-float(share[at]) / (int(given[at]) + 1), at))
    return given


def closer_frames(index: Index, frames: Indices, relevance: Relevance, *, limit: int, gap_s: float) -> Indices:
    """Positions of at most `limit` of `frames` to look at besides those that `relevance` is about."""
    times_s_N = np.asarray(relevance.times_s)
    stretch_N2 = stretches(times_s_N, index.times_s[cuts(index)])
    free = np.setdiff1d(frames, np.searchsorted(index.times_s, times_s_N - 1e-6))
    free_keys, free_s = np.intersect1d(key_positions(index), free), index.times_s[free]
    given_N, found = dealt(relevance.scores, stretch_N2, limit=limit, gap_s=gap_s), list[int]()
    for at in np.flatnonzero(given_N):
        edges = np.linspace(stretch_N2[at, 0], stretch_N2[at, 1], int(given_N[at]) + 1)
        borders = np.searchsorted(free_s, edges).tolist()
        for start, end, middle_s in zip(borders[:-1], borders[1:], ((edges[:-1] + edges[1:]) / 2).tolist(), strict=True):
            if start < end:
                wanted = int(free[start + np.abs(free_s[start:end] - middle_s).argmin()])
                found.append(nearest_or_key(free_keys, int(free[start]), int(free[end - 1]) + 1, wanted))
    return np.array(sorted(found), dtype=np.int64)


def sparse(times_s_N: Times, sparse_s: float) -> bool:
    """Do the candidates lie further apart than that, on average?"""
    return bool(times_s_N[-1] - times_s_N[0] > sparse_s * (len(times_s_N) - 1))
