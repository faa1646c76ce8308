"""The joint normalization over K x M, its ablations, and the zero-signal test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlvid.algo.advantages import batch_advantages, joint_advantages, per_variant_advantages, zero_signal, zero_signal_text_only_share

KM = [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
tables = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 8)), elements=st.floats(-10, 10))


def test_joint_is_over_all_of_the_group():
    sigma = math.sqrt(4 / 6 * 2 / 6)
    expected = [[(reward - 4 / 6) / (sigma + 1e-6) for reward in row] for row in KM]
    assert np.allclose(joint_advantages(KM), expected, rtol=0, atol=1e-12)


def test_per_variant_gives_a_unanimous_variant_nothing():
    got = per_variant_advantages(KM)
    assert got[1].tolist() == [0.0, 0.0, 0.0] and np.allclose(got[0], [math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)], atol=1e-5)
    assert joint_advantages(KM)[1].min() > 0


def test_scale_none_only_centres():
    assert np.allclose(joint_advantages(KM, scale="none"), np.array(KM) - 4 / 6)
    assert np.allclose(per_variant_advantages(KM, scale="none")[0], [2 / 3, -1 / 3, -1 / 3])
    with pytest.raises(ValueError, match="scale"):
        joint_advantages(KM, scale="variance")


def test_eps_is_added_to_sigma():
    assert np.allclose(joint_advantages([[0.0, 2.0]], eps=1.0), [[-0.5, 0.5]])


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.7, -2.2, 1e12])
def test_equal_rewards_give_exactly_zero(value):
    table = np.full((3, 7), value)
    for scale in ("std", "none"):
        assert not joint_advantages(table, scale=scale).any() and not per_variant_advantages(table, scale=scale).any()
        assert not any(part.any() for part in batch_advantages([table, table], scale=scale))


def test_batch_takes_groups_of_any_shape():
    groups = [np.array([[1.0, 0.0]]), np.array([[3.0], [2.0], [0.0]])]
    got = batch_advantages(groups)
    flat = np.array([1, 0, 3, 2, 0.0])
    assert [part.shape for part in got] == [(1, 2), (3, 1)]
    assert np.allclose(np.concatenate([part.ravel() for part in got]), (flat - flat.mean()) / (flat.std() + 1e-6))


@given(tables)
def test_joint_advantages_have_mean_zero_and_keep_the_order(table):
    got = joint_advantages(table)
    assert got.shape == table.shape and abs(got.mean()) < 1e-4
    assert (np.diff(got.ravel()[np.argsort(table.ravel(), kind="stable")]) >= 0).all()


@given(tables)
def test_one_variant_is_the_same_in_both_groups(table):
    assert np.array_equal(joint_advantages(table[:1]), per_variant_advantages(table[:1]))


def test_zero_signal_is_exact_equality():
    assert zero_signal([[1, 1], [1, 1]]) and zero_signal([[0.3]])
    assert not zero_signal([[0.1 + 0.2, 0.3]]) and not zero_signal(KM)


def test_text_only_share_counts_unanimous_variants():
    assert zero_signal_text_only_share(KM) == 0.5
    assert zero_signal_text_only_share([[1, 1], [0, 0]]) == 1.0 and not zero_signal([[1, 1], [0, 0]])
    assert zero_signal_text_only_share([[1, 0], [0, 1]]) == 0.0


@pytest.mark.parametrize("bad", [[], [[]], [1.0, 2.0], 3.0, [[[1.0]]], [[1.0, math.nan]], [[math.inf, 1.0]], [[1.0], [1.0, 2.0]], [["a"]], None])
@pytest.mark.parametrize("function", [joint_advantages, per_variant_advantages, zero_signal, zero_signal_text_only_share, lambda bad: batch_advantages([bad])])
def test_what_is_no_table_of_numbers_is_refused(function, bad):
    with pytest.raises(ValueError, match="rewards"):
        function(bad)


def test_a_batch_of_no_groups_is_refused():
    with pytest.raises(ValueError, match="rewards"):
        batch_advantages([])
