"""placement colocated: who shares a bundle, what the configuration refuses, how the plan counts it."""

from __future__ import annotations

import pytest

from rlvid.actors.placement import in_bundles, stand
from rlvid.config import ConfigError, load
from rlvid.loop.session import roles
from tests.integration.conftest import CONFIG

GPUS = ["placement=colocated", "rollout.engines=2", "learner.ranks=2", "rollout.num_gpus=0.6", "learner.num_gpus=0.4"]


def test_colocated_engine_and_rank_share_a_bundle_of_one_gpu():
    config = load(CONFIG, GPUS)
    standing = stand(roles(config))
    assert [number for number, _ in standing["rollout engine"]] == [number for number, _ in standing["learner rank"]] == [0, 1]
    bundles = in_bundles(standing)
    assert [bundle.get("GPU", 0) for bundle in bundles] == [1.0, 1.0] + [0] * (len(bundles) - 2)
    assert bundles[0]["CPU"] == config.rollout.num_cpus + config.learner.num_cpus
    assert config.transport == "ipc"


def test_split_actors_have_bundles_of_their_own():
    config = load(CONFIG, ["rollout.engines=2", "learner.ranks=2"])
    assert len(in_bundles(stand(roles(config)))) == sum(role.count for role in roles(config))


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        (["rollout.engines=2"], "rollout.engines"),
        (["rollout.max_staleness=1"], "max_staleness"),
        (["sync.transport=ipc"], "colocated with GPUs"),
        (["rollout.num_gpus=0.5", "learner.num_gpus=0.6"], "add up to 1"),
        (["rollout.num_gpus=0.5", "learner.num_gpus=0.5", "sync.transport=nccl"], "use auto"),
    ],
)
def test_colocated_refuses_what_cannot_take_turns(settings, cure):
    with pytest.raises(ConfigError, match=cure):
        load(CONFIG, ["placement=colocated", *settings])


def test_split_engines_take_whole_gpus():
    with pytest.raises(ConfigError, match=r"rollout\.tensor_parallel"):
        load(CONFIG, ["rollout.num_gpus=0.5", "learner.num_gpus=0.5"])
