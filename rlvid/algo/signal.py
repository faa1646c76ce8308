"""How much a group can move the policy: its advantages times the uncertainty of its answers. Pure, numpy float64 [D].

Rewards that differ are no signal where each answer is certain under its own prompt: the gradient of log p(token) in the logits has the norm
sqrt((1 - p)^2 + sum of the other p^2) <= sqrt(2) (1 - p), so it vanishes as p goes to 1, whether the answer is to be raised or lowered. The estimate sums,
over the tokens of all slots, (weight x advantage x (1 - p))^2, and takes the root: the norm that the group's gradient in the logits would have if no two
tokens pulled at the same logits. p is the sampler's;
tokens that nobody sampled (NaN, stored replies) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from numpy.typing import NDArray

Tokens = Sequence[Sequence[Sequence[float]]]
"""[K][M][N]: log-probability of each token of each answer."""


def group_signal(advantages_KM: NDArray, weights_KM: NDArray, logprobs_KMN: Tokens) -> float:  # type: ignore[type-arg]
    """Estimated gradient norm of one group. weights_KM: what one token of an answer counts in the loss."""
    squares = 0.0
    for k, row in enumerate(logprobs_KMN):
        for m, logprobs_N in enumerate(row):
            pull = float(weights_KM[k, m]) * float(advantages_KM[k, m])
            squares += pull**2 * sum(math.expm1(logprob) ** 2 for logprob in logprobs_N if not math.isnan(logprob))
    return math.sqrt(squares)
