"""The GRPO surrogate and its relatives. Pure: tensors in, tensors out.

Per answer token: ratio r = exp(logp - logp_old), clipped surrogate min(r A, clip(r, 1 - low, 1 + high) A) (PPO; the
asymmetric clip is DAPO's clip-higher), times the truncated importance weight min(exp(logp_old - logp_sampler), cap) that
corrects for a sampler whose numbers differ slightly from the learner's, plus an optional k3 KL to a reference policy.

Choices beside these [R]:
- CISPO (MiniMax-M1, arXiv 2506.13585): clip(r, 1 - low, 1 + high), without its gradient, times A times logp: no token's gradient is cut off.
- Masked importance sampling (IcePop; verl, TRL): where the learner's probability over the sampler's, of a token or (its geometric mean) of an answer, leaves a
  band, the tokens concerned count nothing, instead of at most a cap.
- Likelihood (`rlvid sft`): A times logp, the cross-entropy of replies whose advantage is 1.
- Entropy bonus (Temporal-RLT's own settings): minus coef times the weighted mean of the tokens' entropies over the whole vocabulary.
"""

from __future__ import annotations

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
    surrogate: Literal["clip", "cispo", "likelihood"] = "clip"
    importance: Literal["cap", "mask_tokens", "mask_answers"] = "cap"
    importance_band: tuple[float, float] = (0.5, 5.0)
    entropy_coef: float = 0.0
    policy_coef: float = 1.0


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
    entropy_A: torch.Tensor | None = None,
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
    if options.surrogate == "cispo":
        surrogate_A = clipped_A.detach() * advantages_A * logprobs_A
    elif options.surrogate == "likelihood":
        surrogate_A = advantages_A * logprobs_A
    else:
        surrogate_A = torch.minimum(ratio_A * advantages_A, clipped_A * advantages_A)
    # Tokens that nobody sampled (stored replies) have NaN for the sampler's log-probability: nothing is to be corrected.
    importance_A = importance_weights((old_logprobs_A - sampler_logprobs_A).nan_to_num(0.0), sequence_A, options)
    policy = -(weights_A * importance_A * surrogate_A).sum()
    loss = options.policy_coef * policy
    outside_A = (ratio_A < 1 - options.clip_low) | (ratio_A > 1 + options.clip_high)
    sums = {"loss/policy": policy.detach(), "loss/sum_clipped": (outside_A & (weights_A > 0)).sum()}
    if options.kl_coef and reference_logprobs_A is not None:
        kl = (weights_A * k3_kl(logprobs_A, reference_logprobs_A)).sum()
        loss = loss + options.kl_coef * kl
        sums["loss/kl"] = kl.detach()
    if options.importance != "cap":
        sums["loss/sum_masked"] = ((importance_A == 0) & (weights_A > 0)).sum()
    if entropy_A is not None:
        entropy = (weights_A * entropy_A).sum()
        loss = loss - options.entropy_coef * entropy
        sums["loss/entropy"] = entropy.detach()
    return loss, sums


def importance_weights(log_ratio_A: torch.Tensor, sequence_A: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """[A] from the learner's log-probabilities minus the sampler's: capped, or 0 outside the band and the plain ratio inside."""
    ratio_A = log_ratio_A.exp()
    if options.importance == "cap":
        return ratio_A.clamp(max=options.importance_cap)
    judged_A = _sequence_mean(log_ratio_A, sequence_A).exp() if options.importance == "mask_answers" else ratio_A
    low, high = options.importance_band
    return torch.where((judged_A >= low) & (judged_A <= high), ratio_A, 0.0)


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
