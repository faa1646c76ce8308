"""Online selection: questions that taught nothing the last times they were asked rest for some epochs [D].

Temporal-RLT selects before training [S]; what a policy can learn from changes while it learns, so the same rules run on
training's own answers. A question whose last `after` groups in this run all fail them rests for the `epochs` following
epochs. Then it is asked again: one group without a signal sends it back to rest, one with a signal frees it. Nothing is drawn
at random, and the state is part of the checkpoint.
"""

from __future__ import annotations

from typing import Any


class VarianceFilter:
    """Knows only the questions whose latest group had no signal: its memory is at most one entry for each of them."""

    def __init__(self, *, after: int, epochs: int) -> None:
        self.after = after
        self.epochs = epochs
        self._silent: dict[str, tuple[int, int]] = {}  # id -> groups without a signal in a row, last epoch of rest (-1: none)

    def seen(self, id: str, epoch: int, *, signal: bool) -> None:
        """Note the group of a question in this epoch of the stream."""
        if signal:
            self._silent.pop(id, None)
            return
        streak = self._silent.get(id, (0, -1))[0] + 1
        self._silent[id] = (streak, epoch + self.epochs if streak >= self.after else -1)

    def rests(self, id: str, epoch: int) -> bool:
        """Whether the question is left out in this epoch."""
        return epoch <= self._silent.get(id, (0, -1))[1]

    def state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {id: list(entry) for id, entry in self._silent.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._silent = {id: (int(streak), int(until)) for id, (streak, until) in state.items()}
