"""RLOO: an answer's baseline is the mean reward of the others. Pure, numpy float64.

A_i = r_i - mean of r_j over j != i, over the n answers of the group (Ahmadian et al., arXiv 2402.14740 [R]). It is n / (n - 1) times the centred reward and
has no scale of its own. Which answers are one group is this project's choice [D]: all K x M of a question, as STRIVE normalizes, or the M of a variant.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from rlvid.algo.advantages import Floats, constant, matrix


def leave_one_out(rewards_KM: ArrayLike) -> Floats:
    """[K, M] -> [K, M]. Equal rewards give exactly 0; ValueError for a single answer, which has no others."""
    rewards = matrix(rewards_KM)
    if rewards.size == 1:
        raise ValueError("rewards: one answer alone has no others to be compared with")
    if constant(rewards):
        return rewards * 0
    return (rewards - rewards.mean()) * (rewards.size / (rewards.size - 1))
