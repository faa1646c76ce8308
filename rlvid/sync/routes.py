"""Which experts the tokens of an engine without a GPU go through: noted as its routers choose, by request."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.types import UNKNOWN

KEPT = 4096
"""Ended requests whose choices nobody has asked for yet."""


class Routes:
    """Stands around a model runner's forward. A token that comes out of the prefix cache goes through no experts: of it nothing is known."""

    def __init__(self, runner: Any) -> None:
        from vllm.model_executor.layers.fused_moe.routed_experts_capturer import RoutedExpertsCapturer, bind_routed_experts_capturer

        self.capturer = RoutedExpertsCapturer(runner.max_num_tokens, runner.vllm_config)
        bind_routed_experts_capturer(runner.get_model(), self.capturer)
        self.runner, self.forward = runner, runner.execute_model
        runner.execute_model = self._forward_and_note
        self.held: OrderedDict[str, list[tuple[int, NDArray[np.int16]]]] = OrderedDict()
        """Of each request: (place of the first token, [n, L, K]) of each forward."""

    def _forward_and_note(self, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        result = self.forward(scheduled, *args, **kwargs)
        if total := scheduled.total_num_scheduled_tokens:
            rows = self.capturer.device_buffer[:total].numpy().astype(np.int16)
            batch, at = self.runner.input_batch, 0
            for number, name in enumerate(batch.req_ids):
                tokens = scheduled.num_scheduled_tokens[name]
                self.held.setdefault(name, []).append((int(batch.num_computed_tokens_cpu[number]), rows[at : at + tokens]))
                at += tokens
        while len(self.held) > KEPT:
            self.held.popitem(last=False)
        return result

    def take(self, request_id: str) -> dict[int, NDArray[np.int16]]:
        """Of each answer [n, L, K] from the prompt's first token on. vLLM names the answers of a request `NUMBER_REQUEST-...`, a single one `REQUEST-...`."""
        found = {}
        for name in [name for name in self.held if request_id in name]:
            before = name.partition(request_id)[0]
            found[int(before.rstrip("_") or 0)] = _joined(self.held.pop(name))
        return found


def _joined(pieces: list[tuple[int, NDArray[np.int16]]]) -> NDArray[np.int16]:
    length = max(first + len(rows) for first, rows in pieces)
    whole = np.full((length, *pieces[0][1].shape[1:]), UNKNOWN, np.int16)
    for first, rows in pieces:
        whole[first : first + len(rows)] = rows
    return whole
