"""One JSON line per slot of a step: what was shown, said, earned and counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rlvid.types import Group


def write_step(folder: Path, step: int, groups: Sequence[Group], rewards: Sequence[NDArray[Any]], advantages: Sequence[NDArray[Any]]) -> None:
    """Write rollouts/step_NNNNNN.jsonl whole or not at all. `rewards` and `advantages`: [K, M] per group."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:06d}.jsonl"
    aside = folder / f".{final.name}.writing"
    with aside.open("w") as file:
        for group, rewards_KM, advantages_KM in zip(groups, rewards, advantages, strict=True):
            for row in slot_rows(group, rewards_KM, advantages_KM):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.rename(final)


def slot_rows(group: Group, rewards_KM: NDArray[Any], advantages_KM: NDArray[Any]) -> list[dict[str, Any]]:
    """The K x M rows of one question, variant by variant."""
    rows = []
    for variant, spec in enumerate(group.prepared.specs):
        for rollout, score in zip(group.rollouts_KM[variant], group.scores_KM[variant], strict=True):
            rows.append(
                {
                    "question_id": rollout.question_id,
                    "variant": variant,
                    "sample": rollout.sample,
                    "spec": spec.to_json(),
                    "prompt_tokens": rollout.prompt_tokens,
                    "answer_tokens": len(rollout.tokens),
                    "text": rollout.text,
                    "parts": score.parts,
                    "reason": score.reason,
                    "reward": float(rewards_KM[variant, rollout.sample]),
                    "advantage": float(advantages_KM[variant, rollout.sample]),
                    "policy_version": rollout.policy_version,
                    "seed": rollout.seed,
                    "repaired": False,
                    "tokens": list(rollout.tokens),
                    "logprobs": list(rollout.logprobs),
                }
            )
    return rows
