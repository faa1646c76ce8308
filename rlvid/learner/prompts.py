"""What the learner is given of a group: every chosen answer under the prompt that it was sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
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
        routes_M=tuple(answer.routes for answer in answers),
        **own,
    )


def _same_prompt(repaired: dict[tuple[int, int], Repair]) -> list[Slots]:
    """Repaired slots by variant, prompt text and evidence frames."""
    together: dict[Any, Slots] = {}
    for slot, repair in repaired.items():
        together.setdefault((repair.variant, repair.prompt, repair.prompt_digest, repair.evidence), []).append(slot)
    return list(together.values())


ANSWERS = ("tokens_MN", "logprobs_MN", "advantages_M", "weights_M", "routes_M")
"""What a training prompt has of each answer."""


def distilled_prompts(groups: Sequence[Group], sources: Sequence[str], most: int) -> list[TrainingPrompt]:
    """The `uniform` view's plain prompt with right answers of other prompts, each with the prompt that they come from as its `teacher`.

    `sources`: as distill.from. At most `most` answers a group, over all its prompts in turn. Together they weigh 1.
    """
    chosen = [(group, view, slots) for group in groups if (view := _plain_view(group)) is not None and (slots := _right(group, view, sources)[:most])]
    answers = sum(len(slots) for _, _, slots in chosen)
    return [prompt for group, view, slots in chosen for prompt in _distilled(group, view, slots, 1 / answers)]


def _plain_view(group: Group) -> int | None:
    return next((variant for variant, spec in enumerate(group.prepared.specs) if spec.kind == "uniform"), None)


def _right(group: Group, view: int, sources: Sequence[str]) -> Slots:
    """Slots whose answer is right and comes from another prompt than the plain one of `view`."""
    repaired = {(repair.variant, repair.sample) for repair in group.repairs if repair.chosen}
    wanted = []
    for variant, row in enumerate(group.correct_KM):
        for sample, correct in enumerate(row):
            source = "repair" if (variant, sample) in repaired else "variants" if variant != view else ""
            if correct == 1 and source in sources:
                wanted.append((sample, variant))
    return [(variant, sample) for sample, variant in sorted(wanted)]


def _distilled(group: Group, view: int, slots: Slots, weight: float) -> list[TrainingPrompt]:
    """The chosen slots under their own prompts, and each of these as the teacher of the plain one."""
    shape = [[float((variant, sample) in slots) for sample in range(len(row))] for variant, row in enumerate(group.rollouts_KM)]
    counted_KM = np.array(shape)
    prompts = []
    for teacher in group_prompts(group, counted_KM, weight * counted_KM):
        kept = [at for at, counts in enumerate(teacher.advantages_M) if counts]
        if not kept:
            continue
        chosen: dict[str, Any] = {name: tuple(getattr(teacher, name)[at] for at in kept) for name in ANSWERS}
        teacher = replace(teacher, **chosen)
        own: dict[str, Any] = {"prompt": group.prepared.prompt, "prompt_digest": group.prompt_digests[view], "frames": group.frames[view]}
        own |= {"video_metadata": group.prepared.video_metadata[view], "evidence_frames": None, "evidence_metadata": None, "routes_M": ()}
        prompts.append(replace(teacher, **own, teacher=teacher))
    return prompts
