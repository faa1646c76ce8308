"""The Robust Improvement Reward."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvid.algo.repair import robust_improvement_reward as rir


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (dict(first_correct=True, first_reward=2.0, repaired_reward=None), 2.0),
        (dict(first_correct=True, first_reward=2.0, repaired_reward=9.0), 2.0),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=2.0), 1.7),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=1.0), 0.7),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=0.0), -0.3),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=None), 1.0),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=None, alignment=1.0), 1.0),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=2.0, alignment=1.0), 1.9),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=2.0, alignment=0.5, kappa=0.5, alpha=0.4), 1.7),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=2.0, kappa=0.0, alpha=0.0, alignment=1.0), 2.0),
    ],
)
def test_the_paper_s_values_and_the_alignment_bonus(slot, value):
    assert rir(**slot) == pytest.approx(value)


@given(st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_repaired_slot_never_outranks_the_same_reward_unaided(reward, alignment, one, other):
    alpha, kappa = sorted((one, other))
    repaired = rir(first_correct=False, first_reward=0.0, repaired_reward=reward, kappa=kappa, alpha=alpha, alignment=alignment)
    assert repaired <= rir(first_correct=True, first_reward=reward, repaired_reward=None, kappa=kappa, alpha=alpha) + 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        dict(alpha=0.4),
        dict(alpha=-0.1),
        dict(kappa=-0.1, alpha=-0.2),
        dict(kappa=math.nan),
        dict(kappa=math.inf, alpha=math.inf),
        dict(alpha=math.nan),
        dict(alignment=1.1),
        dict(alignment=-0.1),
        dict(alignment=math.nan),
        dict(first_reward=math.nan),
        dict(repaired_reward=math.inf),
    ],
)
@pytest.mark.parametrize("first_correct", [True, False])
def test_nonsense_is_refused(wrong, first_correct):
    with pytest.raises(ValueError):
        rir(**(dict(first_correct=first_correct, first_reward=1.0, repaired_reward=1.0) | wrong))
