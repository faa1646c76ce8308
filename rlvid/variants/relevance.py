"""How much each candidate frame, and each part of the frame, has to do with the question. Pure: numbers in, numbers out.

A scorer (`rlvid.variants.scorers`) looks at pixels and gives raw scores; this file makes the sampling distribution of them:

    raw scores ──► temporal attention ──► multi-scale pooling ──► z-normalise ──► softmax ──► p over the N candidates

STRIVE names the three ingredients, alignment, temporal attention and multi-scale analysis [S]; the formulas are this project's [D].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Box, Question, Relevance

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RawScores:
    """What a scorer saw: `frame_N` [N] per frame, `patch_NHW` [N, h, w] per part of each frame, `feature_NF` [N, F] what frames look like."""

    frame_N: Floats
    patch_NHW: Floats
    feature_NF: Floats


def relevance_text(question: Question) -> str:
    """What the image-text model reads: the question and its options, which say what to look for [D]."""
    return " ".join([question.question, *question.options])


def relevance(raw: RawScores, times_s_N: Floats, *, tau: float = 0.1, windows: Sequence[int] = (1, 2, 4, 8), temperature: float = 0.5) -> Relevance:
    """The sampling distribution over the candidates, and one map of the frame's parts, weighted by it."""
    attended = temporal_attention(raw.frame_N, raw.feature_NF, tau)
    share_N = sampling_distribution(multi_scale(attended, windows), temperature)
    return Relevance(times_s=tuple(times_s_N.tolist()), scores=tuple(share_N.tolist()), patches=_as_rows(patch_map(raw.patch_NHW, share_N)))


def temporal_attention(score_N: Floats, feature_NF: Floats, tau: float) -> Floats:
    """s' = softmax(F F^T / tau) s over unit feature rows F: frames that look alike share what they score [S idea, D formula]."""
    unit = feature_NF / np.maximum(np.linalg.norm(feature_NF, axis=1, keepdims=True), 1e-12)
    return np.asarray(softmax(unit @ unit.T / tau) @ score_N)


def multi_scale(score_N: Floats, windows: Sequence[int]) -> Floats:
    """Mean over the window sizes of the score averaged in a centred window of that many candidates; windows are cut at the ends [D]."""
    sums = np.concatenate([[0.0], np.cumsum(score_N)])
    at = np.arange(len(score_N))
    pooled = np.zeros(len(score_N))
    for window in windows:
        start, end = np.maximum(at - (window - 1) // 2, 0), np.minimum(at + window // 2 + 1, len(score_N))
        pooled += (sums[end] - sums[start]) / (end - start)
    return pooled / len(windows)


def sampling_distribution(score_N: Floats, temperature: float) -> Floats:
    """softmax(z / temperature), z the scores less their mean over their standard deviation; equal scores give equal shares [D]."""
    deviation = float(score_N.std())
    if deviation < 1e-9 * max(1.0, float(np.abs(score_N).max())):
        return np.full(len(score_N), 1 / len(score_N))
    return softmax((score_N - score_N.mean()) / deviation / temperature)


def patch_map(patch_NHW: Floats, share_N: Floats) -> Floats:
    """[h, w], sums to 1: the frames' maps weighted by the frames' shares, less their median (what is everywhere is no evidence) [D]."""
    mean = np.tensordot(share_N, patch_NHW, axes=1)
    above = np.maximum(mean - np.median(mean), 0.0)
    total = float(above.sum())
    return above / total if total > 1e-12 else np.full(mean.shape, 1 / mean.size)


def attention_box(patches: Sequence[Sequence[float]], *, share: float, min_area: float, steps: int = 24) -> Box | None:
    """Smallest aspect-preserving box with at least `min_area` of the frame that holds `share` of the map; None for the whole frame [D].

    Of equally large boxes the one that holds most; of those that hold the same, the one nearest to the centre of the map's mass.
    """
    weight_HW = np.asarray(patches, dtype=np.float64)
    centre = _centre(weight_HW)
    for side in np.linspace(np.sqrt(min_area), 1.0, steps, endpoint=False):
        start = np.linspace(0.0, 1.0 - side, steps)
        held = _held(weight_HW, start, side)
        if held.max() >= share:
            rows, columns = np.nonzero(held >= held.max() - 1e-9)
            away = (start[rows] + side / 2 - centre[0]) ** 2 + (start[columns] + side / 2 - centre[1]) ** 2
            top, left = start[rows[away.argmin()]], start[columns[away.argmin()]]
            return float(left), float(top), min(1.0, float(left + side)), min(1.0, float(top + side))
    return None


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _held(weight_HW: Floats, start: Floats, side: float) -> Floats:
    """[S, S] mass inside the box that starts at (start[i], start[j]): the map is constant inside each of its cells."""
    height, width = weight_HW.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = weight_HW.cumsum(axis=0).cumsum(axis=1)
    rows = _at(sums, (start + side) * height) - _at(sums, start * height)
    return _at(rows.T, (start + side) * width).T - _at(rows.T, start * width).T


def _at(sums: Floats, where: Floats) -> Floats:
    """Rows of a running sum at fractional positions, between its rows."""
    low = np.clip(np.floor(where).astype(np.int64), 0, len(sums) - 2)
    part = np.clip(where - low, 0.0, 1.0)[:, None]
    return np.asarray(sums[low] * (1 - part) + sums[low + 1] * part)


def _centre(weight_HW: Floats) -> tuple[float, float]:
    """(y, x) of the map's centre of mass in 0..1."""
    height, width = weight_HW.shape
    total = max(float(weight_HW.sum()), 1e-12)
    y = float((weight_HW.sum(axis=1) * (np.arange(height) + 0.5)).sum()) / height / total
    x = float((weight_HW.sum(axis=0) * (np.arange(width) + 0.5)).sum()) / width / total
    return y, x


def _as_rows(map_HW: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in map_HW.tolist())
