"""FFR's Robust Improvement Reward: what one slot of a group is worth after a failed answer was repaired."""

from __future__ import annotations

import math


def robust_improvement_reward(
    *,
    first_correct: bool,
    first_reward: float,
    repaired_reward: float | None,
    kappa: float = 0.3,
    alignment: float = 0.0,
    alpha: float = 0.2,
) -> float:
    """Value of one slot.

    FFR [R]: R~ = z (R + Rf) + (1 - z) (R* + Rf* - kappa), z = the first answer was right, R + Rf its whole reward, * the
    repaired one. This project's decisions [D]: a repaired slot adds alpha x alignment, `alignment` in 0..1 being the share of the patch's
    evidence that the new rationale refers to, and alpha <= kappa so that a repaired answer never outranks an unaided one;
    without a valid patch (`repaired_reward` None) the slot keeps `first_reward`.
    """
    _check(first_reward, repaired_reward, kappa, alignment, alpha)
    if first_correct or repaired_reward is None:
        return float(first_reward)
    return float(repaired_reward - kappa + alpha * alignment)


def _check(first_reward: float, repaired_reward: float | None, kappa: float, alignment: float, alpha: float) -> None:
    if not math.isfinite(first_reward) or (repaired_reward is not None and not math.isfinite(repaired_reward)):
        raise ValueError("first_reward and repaired_reward must be finite")
    if not (kappa >= 0 and alpha >= 0 and math.isfinite(kappa)):
        raise ValueError(f"kappa ({kappa}) and alpha ({alpha}) must not be negative")
    if alpha > kappa:
        raise ValueError(f"alpha ({alpha}) above kappa ({kappa}) would let a repaired answer outrank an unaided one: lower alpha")
    if not 0 <= alignment <= 1:
        raise ValueError(f"alignment ({alignment}) must lie in 0..1")
