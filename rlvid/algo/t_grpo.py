"""T-GRPO: answers are paid for what the order of the frames told them. Pure, numpy float64.

Beside the answers to a video as it is, half as many are sampled on its frames in a shuffled order, as a control that is not learned from. Where

    mean accuracy(ordered) >= share x mean accuracy(shuffled),   share = 0.8

every answer to the ordered video whose accuracy is above 0.1 earns 0.3 more (Video-R1, arXiv 2503.21776, and its released code [R]). Over which answers the
means go is this project's choice [D]: all K x M of a question against the controls of all its variants.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlvid.algo.advantages import Floats, matrix

SHARE, LEAST_ACCURACY = 0.8, 0.1


def temporal_bonus(accuracy_KM: ArrayLike, shuffled: ArrayLike, *, bonus: float = 0.3, share: float = SHARE, least: float = LEAST_ACCURACY) -> Floats:
    """[K, M] accuracies, and those of the controls in any shape -> [K, M], `bonus` or 0."""
    accuracies, controls = matrix(accuracy_KM), np.asarray(shuffled, dtype=np.float64)
    if not controls.size:
        raise ValueError("shuffled: no control answer to compare with")
    if accuracies.mean() < share * controls.mean():
        return np.zeros_like(accuracies)
    return np.where(accuracies > least, bonus, 0.0)
