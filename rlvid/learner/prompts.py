"""What the learner is given of a group: every chosen answer under the prompt that it was sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from rlvid.types import Group, Repair, Rollout, TrainingPrompt

Slots = list[tuple[int, int]]


def group_prompts(group: Group, advantages_KM: NDArray[Any], weights_KM: NDArray[Any]) -> list[TrainingPrompt]:
    """One prompt per variant with the answers that stayed as they were, and one per patched prompt with the second answers.

    The chosen tokens are learned under the prompt they were sampled from (FFR [R]; its released code pairs the failed tokens with the
    repaired reward). A variant of which nothing is left gives no prompt.
    """
    repaired = {(repair.variant, repair.sample): repair for repair in group.repairs if repair.chosen}
    prompts = []
    for variant, row in enumerate(group.rollouts_KM):
        kept = [(variant, sample) for sample in range(len(row)) if (variant, sample) not in repaired]
        if kept:
            own: dict[str, Any] = {"prompt": group.prepared.prompt, "prompt_digest": group.prompt_digests[variant]}
            prompts.append(_prompt(group, variant, kept, advantages_KM, weights_KM, own))
    for slots in _same_prompt(repaired):
        first = repaired[slots[0]]
        own = {"prompt": first.prompt, "prompt_digest": first.prompt_digest}
        own |= {"evidence_frames": first.evidence_frames, "evidence_metadata": first.evidence_metadata}
        prompts.append(_prompt(group, first.variant, slots, advantages_KM, weights_KM, own))
    return prompts


def _prompt(group: Group, variant: int, slots: Slots, advantages_KM: NDArray[Any], weights_KM: NDArray[Any], own: dict[str, Any]) -> TrainingPrompt:
    answers: Sequence[Rollout] = [group.rollouts_KM[k][m] for k, m in slots]
    return TrainingPrompt(
        prompt_tokens=answers[0].prompt_tokens,
        video_metadata=group.prepared.video_metadata[variant],
        frames=group.frames[variant],
        tokens_MN=tuple(answer.tokens for answer in answers),
        logprobs_MN=tuple(answer.logprobs for answer in answers),
        advantages_M=tuple(float(advantages_KM[slot]) for slot in slots),
        weights_M=tuple(float(weights_KM[slot]) for slot in slots),
        question_id=group.question.id,
        **own,
    )


def _same_prompt(repaired: dict[tuple[int, int], Repair]) -> list[Slots]:
    """Repaired slots by variant, prompt text and evidence frames."""
    together: dict[Any, Slots] = {}
    for slot, repair in repaired.items():
        together.setdefault((repair.variant, repair.prompt, repair.prompt_digest, repair.evidence), []).append(slot)
    return list(together.values())
