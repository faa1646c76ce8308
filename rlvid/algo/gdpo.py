"""GDPO: each part of the reward is normalized by itself, so that one with a wide range does not drown the others. Pure, numpy float64.

For each part n of the reward, A_n = (r_n - mu_n) / (sigma_n + eps) in its group; A = sum of w_n A_n; then A is whitened over the batch,
(A - mean) / (std + eps) (Liu et al., arXiv 2601.05242 [R]). A part that is equal within a group gives exactly 0 there [D: as everywhere here].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlvid.algo.advantages import Floats, batch_advantages, matrix

Parts = Mapping[str, ArrayLike]
"""Name of a reward part -> [K, M]."""


def decoupled_advantages(
    parts_Q: Sequence[Parts], weights_Q: Sequence[Mapping[str, float]], normalized: Callable[[ArrayLike], Floats], *, eps: float = 1e-6
) -> list[Floats]:
    """Q groups' parts and what each part counts -> Q arrays [K, M]. `normalized`: how one part of one group is normalized, [K, M] -> [K, M]."""
    summed = [_summed(parts, weights, normalized) for parts, weights in zip(parts_Q, weights_Q, strict=True)]
    return batch_advantages(summed, eps=eps)


def _summed(parts: Parts, weights: Mapping[str, float], normalized: Callable[[ArrayLike], Floats]) -> Floats:
    weighted = [weights[name] * normalized(matrix(values_KM)) for name, values_KM in parts.items() if weights.get(name)]
    if not weighted:
        raise ValueError("parts: no part of the reward counts")
    return np.sum(weighted, axis=0)
