"""What the session must know of one kind of actor. Each role's own file gives its record, so that a new role is one file and one line of the session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Role:
    """`actor` is made `count` times as actor(config, number), each in a process with `environment`, where Ray has `needs` (CPU, GPU, resources by name).

    concurrency: calls that one actor takes at a time (None: Ray's default, one after the other). pool: options of its ActorPool; a role without any is not
    dispatched to but driven as a group (the learner's ranks). beside: name of the role in whose bundles its actors stand, number by number.
    """

    name: str
    actor: type
    count: int
    needs: dict[str, float]
    environment: dict[str, str]
    concurrency: int | None = None
    pool: dict[str, Any] = field(default_factory=dict)
    beside: str = ""


def bundle(cpus: float, gpus: float, resources: dict[str, float]) -> dict[str, float]:
    """What one actor takes of its node, as Ray names it; never nothing, which no placement group may hold."""
    return {name: amount for name, amount in ({"CPU": cpus, "GPU": gpus} | resources).items() if amount} or {"CPU": 0.01}
