"""The metrics of one step, from its groups and timings. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.algo.advantages import per_variant_advantages, zero_signal, zero_signal_text_only_share
from rlvid.algo.aggregation import slot_weights
from rlvid.algo.signal import group_signal
from rlvid.config import Config
from rlvid.types import Group


def group_metrics(groups: Sequence[Group], rewards: Sequence[NDArray[Any]], version: int) -> dict[str, float]:
    """Rewards, zero-signal shares, staleness, lengths, and sums of what the variants took. `rewards`: [K, M] per group, as used for the advantages."""
    slots = [slot for group in groups for row in group.scores_KM for slot in row]
    rollouts = [rollout for group in groups for row in group.rollouts_KM for rollout in row]
    parts: dict[str, list[float]] = {}
    for score in slots:
        for part, value in score.parts.items():
            parts.setdefault(part, []).append(value)
    sources: dict[str, list[float]] = {}
    for group in groups:
        sources.setdefault(group.question.source or group.question.task, []).extend(np.ravel(group.correct_KM).tolist())
    costs = [group.prepared.costs for group in groups if group.prepared.costs]
    return {
        "reward/mean": float(np.mean(np.concatenate([reward.ravel() for reward in rewards]))),
        **{f"reward/{part}": statistics.fmean(values) for part, values in sorted(parts.items())},
        **{f"correct/{source}": statistics.fmean(values) for source, values in sorted(sources.items())},
        **signal_shares(groups),
        "group/reward_std": statistics.fmean(float(reward.std()) for reward in rewards),
        "staleness/max": float(max(version - rollout.policy_version for rollout in rollouts)),
        **repair_metrics(groups),
        **reward_costs(groups),
        **{f"variants/{name}": sum(cost[name] for cost in costs) for name in (costs[0] if costs else ())},
        "rollout/truncated_share": statistics.fmean(rollout.truncated for rollout in rollouts),
        "rollout/answer_tokens_mean": statistics.fmean(len(rollout.tokens) for rollout in rollouts),
        "rollout/answer_tokens": float(answer_tokens(groups)),
    }


def signal_metrics(config: Config, groups: Sequence[Group], rewards: Sequence[NDArray[Any]], advantages: Sequence[NDArray[Any]]) -> dict[str, float]:
    """What a group can move, as its advantages and its answers' uncertainty say (rlvid/algo/signal.py): mean over groups, as they are normalized, and if
    every variant were a group of its own, on the same rollouts."""
    own = [per_variant_advantages(rewards_KM, scale=config.advantage.scale, eps=config.advantage.eps) for rewards_KM in rewards]
    return {
        "group/signal": statistics.fmean(group_signals(config, groups, advantages)),
        "group/signal_text_only": statistics.fmean(group_signals(config, groups, own)),
    }


def group_signals(config: Config, groups: Sequence[Group], advantages: Sequence[NDArray[Any]]) -> list[float]:
    """`rlvid.algo.signal.group_signal` of each group, with the weights that its tokens have in the loss."""
    weights = slot_weights(groups, config.loss.aggregation, config.rollout.max_tokens, mask_truncated=config.loss.truncated == "mask")
    logprobs = [[[rollout.logprobs for rollout in row] for row in group.rollouts_KM] for group in groups]
    return [group_signal(*numbers) for numbers in zip(advantages, weights, logprobs, strict=True)]


def answer_tokens(groups: Sequence[Group]) -> int:
    """Of all answers together."""
    return sum(len(rollout.tokens) for group in groups for row in group.rollouts_KM for rollout in row)


def signal_shares(groups: Sequence[Group]) -> dict[str, float]:
    """Shares of groups without a signal: K x M pooled, and if every variant were a group of its own."""
    return {
        "group/zero_signal_share": statistics.fmean(zero_signal(group.correct_KM) for group in groups),
        "group/zero_signal_share_text_only": statistics.fmean(zero_signal_text_only_share(group.correct_KM) for group in groups),
    }


def reward_costs(groups: Sequence[Group]) -> dict[str, float]:
    """Sums of what the rewards cost, by their names."""
    found: dict[str, float] = {}
    for group in groups:
        for name, value in group.costs.items():
            found[name] = found.get(name, 0.0) + value
    return found


def repair_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Shares of slots answered again and of second answers that are right, how the first answers did, and sums of what the teacher did.

    `repair/share` and `repair/success_share` count every slot that was answered twice, chosen or not; `repair/blind_share` is what a second
    try without evidence would have given on the same slots.
    """
    repairs = [repair for group in groups for repair in group.repairs]
    slots = sum(len(row) for group in groups for row in group.rollouts_KM)
    counts: dict[str, float] = {}
    for group in groups:
        for name, value in group.teacher.items():
            counts[name] = counts.get(name, 0.0) + value
    asked = counts.get("asked", 0.0)
    return {
        "repair/share": len(repairs) / slots,
        "repair/success_share": statistics.fmean(repair.right for repair in repairs) if repairs else 0.0,
        "repair/blind_share": statistics.fmean(repair.blind for repair in repairs) if repairs else 0.0,
        "repair/chosen_share": statistics.fmean(repair.chosen for repair in repairs) if repairs else 0.0,
        "repair/alignment": statistics.fmean(repair.alignment for repair in repairs) if repairs else 0.0,
        "teacher/leak_share": counts.get("leaked", 0.0) / asked if asked else 0.0,
        **{f"teacher/{name}": value for name, value in counts.items()},
    }
