"""The GRPO surrogate and its relatives. Pure: tensors in, tensors out.

Per answer token: ratio r = exp(logp - logp_old), clipped surrogate min(r A, clip(r, 1 - low, 1 + high) A) (PPO; the
asymmetric clip is DAPO's clip-higher), times the truncated importance weight min(exp(logp_old - logp_sampler), cap) that
corrects for a sampler whose numbers differ slightly from the learner's, plus an optional k3 KL to a reference policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class LossOptions:
    clip_low: float = 0.2
    clip_high: float = 0.28
    ratio: Literal["token", "sequence"] = "token"
    importance_cap: float = 2.0
    kl_coef: float = 0.0


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


def policy_loss(
    logprobs_A: torch.Tensor,
    *,
    old_logprobs_A: torch.Tensor,
    sampler_logprobs_A: torch.Tensor,
    advantages_A: torch.Tensor,
    weights_A: torch.Tensor,
    sequence_A: torch.Tensor,
    options: LossOptions,
    reference_logprobs_A: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scalar loss (to minimize), and sums for the metrics, over the A answer tokens of a micro-batch: weighted ones, and a count of tokens outside the clip.

    old_logprobs: the learner's own before the first update on this batch (detached). On that first update they equal
    logprobs, the ratio is 1 and the gradient is the plain policy gradient.
    """
    log_ratio_A = logprobs_A - old_logprobs_A
    if options.ratio == "sequence":
        log_ratio_A = _sequence_mean(log_ratio_A, sequence_A)
    ratio_A = log_ratio_A.exp()
    clipped_A = ratio_A.clamp(1 - options.clip_low, 1 + options.clip_high)
    surrogate_A = torch.minimum(ratio_A * advantages_A, clipped_A * advantages_A)
    importance_A = (old_logprobs_A - sampler_logprobs_A).exp().clamp(max=options.importance_cap)
    loss = -(weights_A * importance_A * surrogate_A).sum()
    outside_A = (ratio_A < 1 - options.clip_low) | (ratio_A > 1 + options.clip_high)
    sums = {"loss/policy": loss.detach(), "loss/sum_clipped": (outside_A & (weights_A > 0)).sum()}
    if options.kl_coef and reference_logprobs_A is not None:
        kl = (weights_A * k3_kl(logprobs_A, reference_logprobs_A)).sum()
        loss = loss + options.kl_coef * kl
        sums["loss/kl"] = kl.detach()
    return loss, sums


def k3_kl(logprobs_A: torch.Tensor, reference_logprobs_A: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: exp(d) - d - 1 with d = reference - policy, exact for small d."""
    difference = reference_logprobs_A - logprobs_A
    return difference.expm1() - difference


def _sequence_mean(values_A: torch.Tensor, sequence_A: torch.Tensor) -> torch.Tensor:
    """Every token gets the mean of its answer (GSPO: the ratio's geometric mean)."""
    count = int(sequence_A.max()) + 1
    sums = values_A.new_zeros(count).index_add(0, sequence_A, values_A)
    lengths = values_A.new_zeros(count).index_add(0, sequence_A, torch.ones_like(values_A))
    return (sums / lengths)[sequence_A]
