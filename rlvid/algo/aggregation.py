"""What a token counts in the loss, so that the sum over all tokens of a step is the configured mean. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlvid.algo.advantages import Floats
from rlvid.types import Group


def token_weights(lengths_S: Sequence[int], aggregation: str, constant_length: int, masked_S: Sequence[bool] | None = None) -> list[float]:
    """What one token of each answer counts, so that the weighted sum over all tokens is the wanted mean.

    token: 1 / all tokens (DAPO). sequence: 1 / (answers x own length) (GRPO). constant: 1 / (answers x constant_length)
    (Dr.GRPO). Answers that are masked count nothing, and the mean is over the others (overlong filtering, DAPO [R]).
    """
    masked_S = masked_S if masked_S is not None else [False] * len(lengths_S)
    counted = [length for length, masked in zip(lengths_S, masked_S, strict=True) if not masked]
    answers, tokens = len(counted), sum(counted)

    def weight(length: int) -> float:
        if aggregation == "token":
            return 1.0 / tokens
        return 1.0 / (answers * (length if aggregation == "sequence" else constant_length))

    return [0.0 if masked else weight(length) for length, masked in zip(lengths_S, masked_S, strict=True)]


def slot_weights(groups: Sequence[Group], aggregation: str, constant_length: int, *, mask_truncated: bool) -> list[Floats]:
    """[K, M] per group: what a token of each slot counts, over all groups of a step."""
    rollouts = [rollout for group in groups for row in group.rollouts_KM for rollout in row]
    masked = [mask_truncated and rollout.truncated for rollout in rollouts]
    weights = iter(token_weights([len(rollout.tokens) for rollout in rollouts], aggregation, constant_length, masked))
    return [np.array([[next(weights) for _ in row] for row in group.rollouts_KM]) for group in groups]
