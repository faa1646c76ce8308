"""The estimators beside GRPO, by hand, and through the config."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlvid.algo.advantages import joint_advantages
from rlvid.algo.ema_grpo import FLOOR, Moments, task_scaled, updated
from rlvid.algo.gdpo import decoupled_advantages
from rlvid.algo.rloo import leave_one_out
from rlvid.algo.signal import group_signal
from rlvid.config import ConfigError, load
from rlvid.loop.normalize import Normalizer
from rlvid.types import Score

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def test_rloo_by_hand():
    # The others of 1 are 0, 0, 1: 1 - 1/3; of a 0 they are 1, 0, 1: -2/3.
    assert leave_one_out([[1, 0], [0, 1]]) == pytest.approx(np.array([[2 / 3, -2 / 3], [-2 / 3, 2 / 3]]))
    assert (leave_one_out([[0.1, 0.1, 0.1]]) == 0).all()
    with pytest.raises(ValueError, match="no others"):
        leave_one_out([[1.0]])


def test_gdpo_by_hand():
    """One part in 0..1 and one in 0..100: each counts by its weight, not by its range."""
    parts = [{"accuracy": [[1, 0]], "format": [[0, 100]]}, {"accuracy": [[1, 0]], "format": [[50, 50]]}]
    found = decoupled_advantages(parts, [{"accuracy": 2.0, "format": 1.0}] * 2, joint_advantages, eps=0.0)
    # Each part is +-1 in its group (the equal one 0): sums 2 - 1, -2 + 1 and 2, -2; the batch has mean 0 and deviation sqrt((1 + 1 + 4 + 4) / 4).
    spread = math.sqrt(2.5)
    assert found[0] == pytest.approx(np.array([[1, -1]]) / spread, rel=1e-5)
    assert found[1] == pytest.approx(np.array([[2, -2]]) / spread, rel=1e-5)
    with pytest.raises(ValueError, match="no part"):
        decoupled_advantages([{"accuracy": [[1]]}], [{"accuracy": 0.0}], joint_advantages)


def test_ema_grpo_by_hand():
    moments = updated({}, ["open", "temporal_grounding"], [[[0, 1]], [[0.4, 0.6]]])
    assert moments["open"] == Moments(0.5, 0.5) and moments["open"].std == pytest.approx(0.5)
    assert moments["temporal_grounding"].std == pytest.approx(0.1)
    moments = updated(moments, ["open"], [[[1, 1]]], decay=0.9)
    assert moments["open"].first == pytest.approx(0.55) and moments["open"].second == pytest.approx(0.55)
    assert moments["temporal_grounding"].std == pytest.approx(0.1), "a task that a batch lacks stays as it was"
    centred = lambda rewards: joint_advantages(rewards, scale="none")  # noqa: E731
    scaled = task_scaled([[[0.4, 0.6]]], ["temporal_grounding"], moments, centred)
    assert scaled[0] == pytest.approx(np.array([[-1.0, 1.0]]))
    assert updated({}, ["open"], [[[1, 1]]])["open"].std == FLOOR


def test_signal_by_hand():
    """Two certain answers move nothing, however their rewards differ; two at even odds move what their advantages say."""
    weights = np.full((1, 2), 0.5)
    certain, even = [[[0.0], [0.0]]], [[[math.log(0.5)], [math.log(0.5)]]]
    assert group_signal(np.array([[1.0, -1.0]]), weights, certain) == 0
    assert group_signal(np.array([[1.0, -1.0]]), weights, even) == pytest.approx(math.sqrt(2 * (0.5 * 0.5) ** 2))
    assert group_signal(np.zeros((1, 2)), weights, even) == 0


def group(task, parts):
    table = [[Score({name: float(np.array(values)[k, m]) for name, values in parts.items()}) for m in range(2)] for k in range(2)]
    return SimpleNamespace(question=SimpleNamespace(task=task), scores_KM=table)


GROUP = group("open", {"accuracy": [[1, 0], [0, 0]], "format": [[1, 1], [0, 1]]})
REWARDS = np.array([[2.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("kind", ["joint", "per_variant"])
@pytest.mark.parametrize("estimator", ["grpo", "rloo", "gdpo", "ema_grpo"])
def test_every_estimator_in_every_group_centres_what_it_normalizes(estimator, kind):
    found = Normalizer(load(QUICKSTART, [f"advantage.estimator={estimator}", f"advantage.group={kind}"]))([GROUP], [REWARDS])
    (advantages,) = found
    assert advantages.shape == (2, 2)
    sums = advantages.sum() if kind == "joint" else advantages.sum(axis=1)
    assert sums == pytest.approx(0 if kind == "joint" else [0, 0], abs=1e-9)
    assert advantages[0, 0] > advantages[0, 1]


def test_gdpo_takes_what_a_repair_costs_as_a_part_of_its_own():
    """The reward of a repaired slot is not the sum of its parts: kappa less."""
    normalizer = Normalizer(load(QUICKSTART, ["advantage.estimator=gdpo"]))
    same = group("open", {"accuracy": [[1, 1], [1, 1]], "format": [[1, 1], [1, 1]]})
    assert (normalizer([same], [np.full((2, 2), 2.0)])[0] == 0).all()
    (advantages,) = normalizer([same], [np.array([[2.0, 1.7], [2.0, 2.0]])])
    assert advantages[0, 1] < 0 < advantages[0, 0]


def test_moments_go_through_a_checkpoint():
    config = load(QUICKSTART, ["advantage.estimator=ema_grpo"])
    one, other = Normalizer(config), Normalizer(config)
    one([GROUP], [REWARDS])
    other.restore(one.state())
    assert (one([GROUP], [REWARDS * 3])[0] == other([GROUP], [REWARDS * 3])[0]).all()
    assert one.metrics() == other.metrics() and set(one.metrics()) == {"advantage/std_open"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["advantage.estimator=rloo", "advantage.group=batch"], "advantage.group batch belongs to advantage.estimator grpo"),
        (["advantage.estimator=gdpo", "reward.noise=true"], "reward.noise"),
        (["loss.importance_band=[2, 5]"], "loss.importance_band"),
    ],
)
def test_impossible_pairs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(QUICKSTART, settings)
