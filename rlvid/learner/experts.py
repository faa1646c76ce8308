"""Which experts a token goes through: the engine's choice beside the learner's own, and in its place.

Engine and learner compute the same router with other kernels, and where two experts are close, rounding decides. A token that goes through another expert than
it was sampled with has another probability, by far more than rounding. `measure` counts such choices; `replay` lets each token go through the engine's
experts, weighted by the learner's own router, so that the gradient reaches it (Rollout Routing Replay, arXiv 2510.11370 [R]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlvid.types import UNKNOWN, TrainingPrompt

if TYPE_CHECKING:
    from rlvid.learner.packing import MicroBatch

COUNTED = ("mismatch/sum_experts_known", "mismatch/sum_experts_apart", "mismatch/sum_experts_unknown")


class Routing:
    """Teaches a model's routers what the engine chose. `routers`: of each layer of the text model, None where it has none."""

    def __init__(self, routers: Sequence[Any], *, replay: bool) -> None:
        self.routers = routers
        self.replay = replay
        self.counts: dict[str, Any] = dict.fromkeys(COUNTED, 0.0)
        self.routes_NLK: torch.Tensor | None = None
        for router in filter(None, routers):
            router.alone = router.forward
            router.forward = _Chosen(router, self)

    def tell(self, batch: MicroBatch) -> None:
        """For the next forward, and what is computed again of it in the backward pass: the engine's choices, where it said any. The last layer is given
        the tokens that predict answers alone; of these, the ones that an engine sampled and that count in the loss are counted."""
        self.routes_NLK = batch.routes_NLK
        if self.routes_NLK is None:
            return
        self.predictors = batch.asked()
        sampled_A = (batch.weights_A > 0) & ~batch.sampler_logprobs_A.isnan()
        mine = batch.predictors_A[sampled_A] if batch.share is None else batch.share.at_P[sampled_A[batch.share.here_P]]
        self.counted = torch.isin(self.predictors, mine)

    def take(self) -> dict[str, float]:
        """What was counted since: choices of experts for tokens that predict answers, those that the engine made otherwise, and those of which it is not
        known."""
        found, self.counts = self.counts, dict.fromkeys(COUNTED, 0.0)
        return {name: float(value) for name, value in found.items()}

    def choose(self, layer: int, logits_NE: torch.Tensor, scores_NK: torch.Tensor, own_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(scores, experts) that the tokens of this layer go through."""
        if self.routes_NLK is None:
            return scores_NK, own_NK
        told_NK, counted = self.routes_NLK[:, layer], self.predictors[self.counted]
        if layer == len(self.routers) - 1:  # see ask_last_mlp_for_answers_only
            told_NK, counted = told_NK[self.predictors], self.counted
        assert told_NK.shape == own_NK.shape, (told_NK.shape, own_NK.shape)
        known_N1 = told_NK[:, :1] != UNKNOWN
        if torch.is_grad_enabled():
            self._count(told_NK[counted], own_NK[counted], known_N1[counted])
        if not self.replay:
            return scores_NK, own_NK
        experts_NK = torch.where(known_N1, told_NK, own_NK)
        chosen_NK = torch.softmax(logits_NE, -1, dtype=torch.float32).gather(-1, experts_NK)
        return (chosen_NK / chosen_NK.sum(-1, keepdim=True)).to(scores_NK.dtype), experts_NK

    def _count(self, told_NK: torch.Tensor, own_NK: torch.Tensor, known_N1: torch.Tensor) -> None:
        elsewhere_NK = (told_NK[:, :, None] != own_NK[:, None, :]).all(-1)
        self.counts["mismatch/sum_experts_apart"] += (elsewhere_NK & known_N1).sum()
        self.counts["mismatch/sum_experts_known"] += known_N1.sum() * told_NK.shape[1]
        self.counts["mismatch/sum_experts_unknown"] += (~known_N1).sum() * told_NK.shape[1]


class _Chosen:
    """In place of a router's forward."""

    def __init__(self, router: Any, routing: Routing) -> None:
        self.router, self.routing = router, routing
        self.layer = list(routing.routers).index(router)

    def __call__(self, hidden_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits_NE, scores_NK, own_NK = self.router.alone(hidden_NH)
        return logits_NE, *self.routing.choose(self.layer, logits_NE, scores_NK, own_NK)


def routes_of(prompt: TrainingPrompt, fetched: Sequence[NDArray[np.int16] | None], length: int) -> NDArray[np.int16] | None:
    """[N, L, K] for the row of one prompt of `length` tokens and its answers, UNKNOWN where the engine did not say. None: it said nothing.

    fetched: of each answer [n, L, K] from the row's first token on: an engine computes all but the last token of an answer. Answers share the prompt.
    """
    shape = next((routes.shape[1:] for routes in fetched if routes is not None), None)
    if shape is None:
        return None
    whole = np.full((length + sum(map(len, prompt.tokens_MN)), *shape), UNKNOWN, np.int16)
    first = length
    for tokens, routes in zip(prompt.tokens_MN, fetched, strict=True):
        if routes is not None:
            whole[:length] = np.maximum(whole[:length], routes[:length])
            said = routes[length : length + len(tokens)]
            whole[first : first + len(said)] = said
        first += len(tokens)
    return whole
