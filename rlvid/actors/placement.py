"""Where the actors of a run stand: one Ray and one placement group with a bundle per actor."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from rlvid.config import Config
from rlvid.process.log import LOGS
from rlvid.process.role import Role

log = logging.getLogger("rlvid")

STARTS, SLOW_START = 3, "timed out during startup"
"""How often a Ray of the run's own is started, and what Ray 2.60 says when its node was not up within 30 s, which no setting lengthens."""


class PlacementError(RuntimeError):
    """The cluster cannot hold the run. The message says what is wanted and what there is."""


@dataclass(frozen=True)
class Place:
    """Room that is reserved for one actor: a bundle of a placement group, and what it holds."""

    group: Any
    bundle: int
    needs: dict[str, float]
    logs: str

    def options(self, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Actor options that put it there. `env`: the environment of its process."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # Ray leaves CUDA_VISIBLE_DEVICES alone for actors without a GPU, and whatever touches CUDA in one would take memory on the node's first.
        hidden = {} if self.needs.get("GPU") else {"CUDA_VISIBLE_DEVICES": ""}
        return {
            "num_cpus": self.needs.get("CPU", 0),
            "num_gpus": self.needs.get("GPU", 0),
            "resources": {name: amount for name, amount in self.needs.items() if name not in ("CPU", "GPU")},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.bundle),
            "runtime_env": {"env_vars": hidden | (env or {}) | {LOGS: self.logs}},
        }

    def give_back(self) -> None:
        """Let others have the room of an engine that could not join: its placement group is its own."""
        import ray

        ray.util.remove_placement_group(self.group)


def connect(config: Config, roles: Sequence[Role]) -> None:
    """Join the configured cluster, or start a Ray of this run's own on loopback. Call it before anything imports ray."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end must fail, not start another Ray
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Under `uv run` Ray would move actors into an uploaded copy of the folder, without what git ignores: the quickstart's world, runs, videos.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if not address:
        # On Linux, too, this switch makes a Ray that is not a cluster stay on 127.0.0.1.
        os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", GLOO_SOCKET_IFNAME="lo", VLLM_HOST_IP="127.0.0.1")
    import ray

    own = {} if address else _own_ray(config, roles)
    # Without an address Ray joins whatever somebody has started on this node.
    others = set(psutil.Process().children(recursive=True))
    for tries_left in reversed(range(STARTS)):
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
            break
        except Exception as error:  # Ray raises no class of its own
            if not own or not tries_left or SLOW_START not in str(error):
                raise
            log.warning("Ray did not start within its 30 s: this machine is busy. It is started again")
            ray.shutdown()
            for process in set(psutil.Process().children(recursive=True)) - others:  # Ray leaves what it has begun until this process ends
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
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


def _own_ray(config: Config, roles: Sequence[Role]) -> dict[str, Any]:
    """Settings of a Ray for this run alone. CPUs are a bookkeeping number here: thread counts are set per actor."""
    return {
        "num_cpus": max(os.cpu_count() or 1, int(sum(role.needs.get("CPU", 0) * role.count for role in roles)) + 1),
        "resources": {name: 1000 for role in roles for name in role.needs if name not in ("CPU", "GPU")},
        "object_store_memory": int(config.cluster.object_store_gib * 2**30),
        "include_dashboard": False,
    }


def place(config: Config, roles: Sequence[Role], deadline_s: float = 300) -> dict[str, list[Place]]:
    """Reserve room for all actors, by their role's name. Raises PlacementError when the cluster is too small."""
    import ray

    standing = stand(roles)
    bundles = in_bundles(standing)
    group = ray.util.placement_group(bundles, strategy=config.cluster.placement)
    try:
        ray.get(group.ready(), timeout=deadline_s)
    except ray.exceptions.GetTimeoutError:
        names = sorted({name for bundle in bundles for name in bundle})
        total = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in names}
        there = {name: ray.cluster_resources().get(name, 0) for name in names}
        raise PlacementError(f"the run wants {total}, the cluster has {there}: lower rollout.engines or learner.ranks, or add nodes") from None
    return {name: [Place(group, number, needs, logs(config)) for number, needs in where] for name, where in standing.items()}


def stand(roles: Sequence[Role]) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """(number of its bundle, what it needs there) of each actor, by role. A role that stands beside another shares that one's bundles."""
    names = {role.name for role in roles}
    numbers = itertools.count()
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for role in sorted(roles, key=lambda role: role.beside in names):
        bundles = [number for number, _ in found[role.beside]] if role.beside in names else [next(numbers) for _ in range(role.count)]
        found[role.name] = [(number, role.needs) for number in bundles]
    return found


def in_bundles(standing: dict[str, list[tuple[int, dict[str, float]]]]) -> list[dict[str, float]]:
    """The bundles, each with the needs of all who stand in it."""
    bundles: dict[int, dict[str, float]] = {}
    for number, needs in itertools.chain.from_iterable(standing.values()):
        bundle = bundles.setdefault(number, {})
        for name, amount in needs.items():
            bundle[name] = bundle.get(name, 0) + amount
    return [bundles[number] for number in sorted(bundles)]


async def room_for_one_more(config: Config, role: Role) -> Place:
    """Room for one actor more; returns once the cluster has it, which may be never."""
    import ray

    group = ray.util.placement_group([role.needs], strategy="PACK")
    await group.ready()
    return Place(group, 0, role.needs, logs(config))


def make(config: Config, role: Role, place: Place, number: int) -> Any:
    """The actor itself, at its place, not yet started."""
    import ray

    concurrency = {} if role.concurrency is None else {"max_concurrency": role.concurrency}
    return ray.remote(role.actor).options(**place.options(role.environment), **concurrency).remote(config, number)


def logs(config: Config) -> str:
    """Where actors write what they say."""
    return str((config.folder / "logs").absolute())
