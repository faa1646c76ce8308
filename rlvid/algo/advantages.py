"""Advantages of the K x M rewards of a group. Pure, numpy float64, population standard deviation.

STRIVE's joint normalization [S]: A(V_i, A_j) = (R(V_i, A_j) - mu) / sigma with mu and sigma over **all** K x M rewards of
one question. Its ablation [S], text-only normalization, takes mu and sigma over the M answers of each variant instead.
Population sigma, the eps in (r - mu) / (sigma + eps), the whole-step group and the zero-signal test by exact equality are
this project's decisions [D].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scale = Literal["std", "none"]
Floats = NDArray[np.float64]


def joint_advantages(rewards_KM: ArrayLike, *, scale: Scale = "std", eps: float = 1e-6) -> Floats:
    """[K, M] -> [K, M]: A = (r - mu) / (sigma + eps), mu and sigma over all K x M [S; eps D].

    `scale="none"` leaves the division out (Dr.GRPO). Equal rewards give exactly 0.
    """
    return _normalized(matrix(rewards_KM), scale, eps)


def per_variant_advantages(rewards_KM: ArrayLike, *, scale: Scale = "std", eps: float = 1e-6) -> Floats:
    """[K, M] -> [K, M]: the same formula with mu and sigma over the M answers of each variant (text-only ablation [S])."""
    return np.stack([_normalized(row_M, scale, eps) for row_M in matrix(rewards_KM)])


def batch_advantages(rewards_QKM: Sequence[ArrayLike], *, scale: Scale = "std", eps: float = 1e-6) -> list[Floats]:
    """Q arrays [K, M], each of its own shape -> the same shapes, mu and sigma over every reward of the step [D]."""
    groups = [matrix(rewards_KM) for rewards_KM in rewards_QKM]
    if not groups:
        raise ValueError("rewards: no group to normalize")
    flat = _normalized(np.concatenate([group.ravel() for group in groups]), scale, eps)
    ends = np.cumsum([group.size for group in groups])[:-1]
    return [part.reshape(group.shape) for part, group in zip(np.split(flat, ends), groups, strict=True)]


def zero_signal(accuracy_KM: ArrayLike) -> bool:
    """Whether all K x M accuracy rewards are exactly equal, so that the group teaches nothing [D]."""
    return constant(matrix(accuracy_KM))


def zero_signal_text_only_share(accuracy_KM: ArrayLike) -> float:
    """Share of the K variants whose M accuracies are all equal: what per-variant groups would have lost on these rollouts [D]."""
    return float(np.mean([constant(row_M) for row_M in matrix(accuracy_KM)]))


def _normalized(rewards: Floats, scale: Scale, eps: float) -> Floats:
    if scale not in ("std", "none"):
        raise ValueError(f"scale: 'std' or 'none', not {scale!r}")
    if constant(rewards):
        # The mean of equal floats need not be that float: without this a unanimous group would push by rounding errors.
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    return centred if scale == "none" else centred / (rewards.std() + eps)


def constant(values: Floats) -> bool:
    """Whether all are exactly equal."""
    return bool((values == values.flat[0]).all())


def matrix(values: ArrayLike) -> Floats:
    """The input as a finite [K, M] float64 matrix, or ValueError."""
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("rewards: a [K, M] table of numbers is needed, with M equal for all K variants") from None
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"rewards: a [K, M] table with at least one number is needed, not shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("rewards: every number must be finite")
    return matrix
