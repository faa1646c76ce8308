"""Where the actors of a run stand: one Ray and one placement group with a bundle per actor."""

from __future__ import annotations

import itertools
import logging
import os
from dataclasses import dataclass
from typing import Any

from rlvid.config import Config
from rlvid.observe.process_log import LOGS


class PlacementError(RuntimeError):
    """The cluster cannot hold the run. The message says what is wanted and what there is."""


@dataclass(frozen=True)
class Places:
    """The placement group and the bundle index of each actor, by role."""

    group: Any
    rollout: tuple[int, ...]
    variant: tuple[int, ...]
    learner: tuple[int, ...]
    teacher: tuple[int, ...] = ()
    logs: str = ""

    def at(self, bundle: int, *, num_cpus: float, num_gpus: float = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Actor options that put it into the bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=bundle)
        return {"num_cpus": num_cpus, "num_gpus": num_gpus, "scheduling_strategy": strategy, "runtime_env": {"env_vars": (env or {}) | {LOGS: self.logs}}}


def connect(config: Config) -> None:
    """Join the configured cluster, or start a Ray of this run's own on loopback. Call it before anything imports ray."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end must fail, not start another Ray
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not address:
        # On Linux, too, this switch makes a Ray that is not a cluster stay on 127.0.0.1.
        os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", GLOO_SOCKET_IFNAME="lo", VLLM_HOST_IP="127.0.0.1")
    import ray

    own = {} if address else _own_ray(config)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    if own:
        _point_to_logs(config)


def _point_to_logs(config: Config) -> None:
    """logs/ray in the run folder leads to what this Ray's own processes write."""
    import ray

    link = config.folder / "logs" / "ray"
    node = getattr(ray._private.worker, "_global_node", None)
    if node is not None and config.folder.is_dir():
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(node.get_logs_dir_path())


def _own_ray(config: Config) -> dict[str, Any]:
    """Settings of a Ray for this run alone. CPUs are a bookkeeping number here: thread counts are set per actor."""
    return {
        "num_cpus": max(os.cpu_count() or 1, int(_cpus(config)) + 1),
        "object_store_memory": int(config.cluster.object_store_gib * 2**30),
        "include_dashboard": False,
    }


def place(config: Config, deadline_s: float = 300) -> Places:
    """Reserve room for all actors. Raises PlacementError when the cluster is too small."""
    import ray

    bundles = [{"CPU": config.rollout.num_cpus, "GPU": config.rollout.num_gpus}] * config.rollout.engines
    bundles += [{"CPU": config.learner.num_cpus, "GPU": config.learner.num_gpus}] * config.learner.ranks
    bundles += [{"CPU": config.variants.num_cpus, "GPU": config.relevance.num_gpus}] * config.variants.actors
    bundles += [{"CPU": config.teacher.num_cpus, "GPU": config.teacher.num_gpus}] * teachers(config)
    wanted = [{name: amount for name, amount in bundle.items() if amount} or {"CPU": 0.01} for bundle in bundles]
    group = ray.util.placement_group(wanted, strategy=config.cluster.placement)
    try:
        ray.get(group.ready(), timeout=deadline_s)
    except ray.exceptions.GetTimeoutError:
        total = {key: sum(bundle.get(key, 0) for bundle in wanted) for key in ("CPU", "GPU")}
        there = {key: ray.cluster_resources().get(key, 0) for key in ("CPU", "GPU")}
        raise PlacementError(f"the run wants {total}, the cluster has {there}: lower rollout.engines or learner.ranks, or add nodes") from None
    places = iter(range(len(bundles)))
    rollout, learner, variant, teacher = (
        tuple(itertools.islice(places, count)) for count in (config.rollout.engines, config.learner.ranks, config.variants.actors, teachers(config))
    )
    return Places(group, rollout, variant, learner, teacher, str((config.folder / "logs").absolute()))


def teachers(config: Config) -> int:
    """Teacher actors of a run: none where nothing is repaired."""
    return config.teacher.actors if config.repair.enabled else 0


def _cpus(config: Config) -> float:
    roles = ((config.rollout.engines, config.rollout), (config.learner.ranks, config.learner), (config.variants.actors, config.variants))
    return sum(count * role.num_cpus for count, role in (*roles, (teachers(config), config.teacher)))
