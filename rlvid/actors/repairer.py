"""Find, fix, reason: failed slots of a group get a teacher's evidence and are answered again.

    failed slots ──► teacher pool: a patch and its evidence frames ──► patched prompts ──► rollout pool ──► score, RIR, choose

Runs inside each question's own coroutine, so one group is repaired while others are still sampled. Once a teacher works
on a slot, nothing waits longer than teacher.deadline_s for its patch: a slot that has none by then keeps its first answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from rlvid.actors.pool import ActorPool, PoolError, what_it_says
from rlvid.algo.repair import alignment, rationale_of, robust_improvement_reward
from rlvid.algo.rewards import GRADED, correctness, total
from rlvid.config import Config
from rlvid.teacher.guard import GROUNDING
from rlvid.teacher.protocol import TeacherReply
from rlvid.teacher.student import blind_prompt, evidence_metadata, patched_prompt, told
from rlvid.types import EvidencePatch, GenerateRequest, GenerateResult, Group, Question, Repair, Rollout, Score
from rlvid.variants.explore import derived_seed

log = logging.getLogger("rlvid")

Slot = tuple[int, int]
"""(variant, sample)."""
Scores = Callable[[Question, Rollout, str], Score | Awaitable[Score]]
"""What an answer to a prompt is worth."""


class Repairer:
    """Drives the teacher pool, and the rollout pool for the second answers. `placeholder`: of a video in the family's chat template."""

    def __init__(self, config: Config, teachers: ActorPool, rollouts: ActorPool, score: Scores, placeholder: str) -> None:
        self.config = config
        self.placeholder = placeholder
        self.teachers = teachers
        self.rollouts = rollouts
        self.score = score

    async def repair(self, group: Group, step: int) -> Group:
        """The group with its failed slots answered again, as far as the teacher had a patch in time."""
        slots = failed_slots(group, self.config)
        if not slots:
            return group
        # Annotations say the same of many slots, which are one prompt then. A model writes of each failed answer by itself: no slot waits for another one's.
        together = [slots] if self.config.teacher.kind == "annotation" else [[slot] for slot in slots]
        fixed = await asyncio.gather(*[self._fix(group, some, step) for some in together])
        replies = [reply for some, _ in fixed for reply in some]
        counts = counted(replies)
        if self.config.repair.blind_test:
            counts |= await self._blind_test(group, dict.fromkeys(reply.patch for reply in replies if reply.patch), step)
        return with_repairs(group, [repair for _, repairs in fixed for repair in repairs], counts)

    async def _fix(self, group: Group, slots: Sequence[Slot], step: int) -> tuple[list[TeacherReply], list[Repair]]:
        """What the teacher said of these slots, and the second answers of those that it had a patch for."""
        found = await asyncio.gather(*[self._ask(group, slot) for slot in slots])
        patches = [(slot, reply, frames) for slot, (reply, frames) in zip(slots, found, strict=True) if reply.patch is not None]
        repairs = await asyncio.gather(*[self._answer(group, same, step) for same in _alike(patches)])
        return [reply for reply, _ in found], [one for many in repairs for one in many]

    async def _ask(self, group: Group, slot: Slot) -> tuple[TeacherReply, Any]:
        """The teacher's reply and a reference to the evidence frames (of None, where there are none)."""
        variant, sample = slot
        deadline_s = self.config.teacher.deadline_s
        size, started = group.prepared.specs[0].size, time.perf_counter()
        asked = (group.question, group.rollouts_KM[variant][sample].text, group.prepared.duration_s, size)
        try:
            reply, references = await self.teachers.call("find", *asked, num_returns=2, patience_s=deadline_s)
        except TimeoutError:
            return TeacherReply(None, "failed", f"no patch within {deadline_s:g} s", seconds=deadline_s), None
        except PoolError:
            raise
        except Exception as error:  # decoders and models have errors of their own; the slot keeps its first answer
            return TeacherReply(None, "failed", what_it_says(error), seconds=time.perf_counter() - started), None
        return reply, references[0]

    async def _answer(self, group: Group, same: list[tuple[Slot, TeacherReply, Any]], step: int) -> list[Repair]:
        """Second answers of the slots of one variant that got the same patch: one prompt, as many answers."""
        (variant, _), reply, evidence_frames = same[0]
        assert reply.patch is not None
        evidence = told([(one.time_s, one.box) for one in reply.evidence], group.question.starts_s, times=group.question.task not in GROUNDING)
        spec = group.prepared.specs[variant]
        request = GenerateRequest(
            question_id=group.question.id,
            variant=variant,
            prompt=patched_prompt(group.prepared.prompt, reply.patch, evidence, self.placeholder),
            video_metadata=group.prepared.video_metadata[variant],
            answers=len(same),
            seed=derived_seed(self.config.run.seed, step, group.question.id, variant, "repair", same[0][0][1]),
            evidence_metadata=evidence_metadata(evidence, spec.size) if evidence else None,
            max_tokens=self.config.repair.max_tokens,
        )
        if problem := self._no_room(group, request, len(evidence)):
            log.warning("%s stays unrepaired: %s", group.question.id, problem)
            return []
        videos = [group.frames[variant], evidence_frames] if evidence else [group.frames[variant]]
        try:
            result: GenerateResult = await self.rollouts.call("generate", request, *videos)
        except PoolError:
            raise
        except Exception as error:  # engines that fail, frames that are lost, a prompt that the engine refuses
            log.warning("%s stays unrepaired: %s", group.question.id, what_it_says(error))
            return []
        scores = await asyncio.gather(*[self._scored(group.question, rollout, request.prompt) for rollout in result.rollouts])
        answered = zip([slot for slot, _, _ in same], result.rollouts, scores, strict=True)
        return [self._repair(group, slot, reply, rollout, score, request, result, evidence_frames) for slot, rollout, score in answered]

    async def _scored(self, question: Question, rollout: Rollout, prompt: str) -> Score:
        score = self.score(question, rollout, prompt)
        return await score if isinstance(score, Awaitable) else score

    async def _blind_test(self, group: Group, patches: Iterable[EvidencePatch], step: int) -> dict[str, float]:
        """Counts of patches shown without the video, of right answers to them, and of those that chance gives: above it, the hints leak."""
        question, seed = group.question, self.config.run.seed
        prompts = [blind_prompt(group.prepared.prompt, patch, self.placeholder) for patch in patches]
        requests = [GenerateRequest(question.id, 0, prompt, {}, 1, derived_seed(seed, step, question.id, at, "blind")) for at, prompt in enumerate(prompts)]
        results = await asyncio.gather(*map(self._answered_blind, requests))
        answered = [(result.rollouts[0], request.prompt) for request, result in zip(requests, results, strict=True) if result is not None]
        scores = await asyncio.gather(*[self._scored(question, rollout, prompt) for rollout, prompt in answered])
        rights = [succeeded(question, score, self.config) for score in scores]
        chance = 1 / len(question.options) if question.options else 0.0
        return {"blind_tested": float(len(rights)), "blind_right": float(sum(rights)), "blind_chance": chance * len(rights)}

    async def _answered_blind(self, request: GenerateRequest) -> GenerateResult | None:
        try:
            result: GenerateResult = await self.rollouts.call("generate", request, None)
        except PoolError:
            raise
        except Exception as error:  # as above
            log.warning("no blind test of %s: %s", request.question_id, what_it_says(error))
            return None
        return result

    def _no_room(self, group: Group, request: GenerateRequest, frames: int) -> str:
        """Why the engine could not hold the patched prompt; empty when it can. A character counts as a token: more it never is."""
        variant = group.rollouts_KM[request.variant][0]
        added = len(request.prompt.encode()) - len(group.prepared.prompt.encode())
        height, width = group.prepared.specs[request.variant].size
        needed = variant.prompt_tokens + added + frames * (height // SMALLEST_TOKEN) * (width // SMALLEST_TOKEN)
        room = self.config.rollout.max_model_len - self.config.rollout.max_tokens
        return f"the patched prompt may need {needed} tokens, the engine has room for {room}: raise rollout.max_model_len" if needed > room else ""

    def _repair(
        self, group: Group, slot: Slot, reply: TeacherReply, rollout: Rollout, score: Score, request: GenerateRequest, result: GenerateResult, frames: Any
    ) -> Repair:
        variant, sample = slot
        assert reply.patch is not None
        settings, question = self.config.repair, group.question
        second = replace(rollout, sample=sample)
        right = succeeded(question, score, self.config)
        # A wrong answer that recites its evidence earns nothing by it.
        referred = alignment(reply.patch, rationale_of(second.text), settings.alignment_tolerance_s) if right else 0.0
        first_reward = group.rewards_KM[variant][sample]
        reward = robust_improvement_reward(
            first_correct=False,
            first_reward=first_reward,
            repaired_reward=total(score, self.config.reward.weights[question.task]),
            kappa=settings.kappa,
            alignment=referred,
            alpha=settings.alpha,
        )
        return Repair(
            variant=variant,
            sample=sample,
            patch=reply.patch,
            first=group.rollouts_KM[variant][sample],
            first_score=group.scores_KM[variant][sample],
            rollout=second,
            score=score,
            correct=correctness(question, score, self.config.reward.iou_threshold),
            blind=blind_retry([succeeded(question, other, self.config) for other in group.scores_KM[variant]], sample),
            alignment=referred,
            reward=reward,
            chosen=settings.choice == "always" or reward > first_reward,
            prompt=request.prompt,
            prompt_digest=result.prompt_digest,
            evidence=tuple((one.time_s, one.box) for one in reply.evidence),
            evidence_metadata=request.evidence_metadata,
            evidence_frames=frames if reply.evidence else None,
            right=right,
        )


SMALLEST_TOKEN = 28
"""Side in pixels of the smallest patch that becomes a visual token."""


def succeeded(question: Question, score: Score, config: Config) -> bool:
    """FFR's z of one answer: yes or no [R], also where the accuracy is graded; repair.trigger says from where on [D]."""
    quality = score.parts[GRADED.get(question.task, "accuracy")]
    return quality >= config.repair.trigger_of(question.task, options=bool(question.options))


def failed_slots(group: Group, config: Config) -> list[Slot]:
    """Slots to repair, one attempt each [R]; at most repair.max_per_group of them, spread over the variants [D]."""
    failed = [
        (sample, variant) for variant, row in enumerate(group.scores_KM) for sample, score in enumerate(row) if not succeeded(group.question, score, config)
    ]
    return [(variant, sample) for sample, variant in sorted(failed)][: config.repair.max_per_group or config.rollout.answers]


def blind_retry(right_M: Sequence[float], sample: int) -> float:
    """Chance in 0..1 that the slot would be right at a second try without evidence: the share of its right sisters (0.0 without any)."""
    sisters = [right for at, right in enumerate(right_M) if at != sample]
    return sum(right == 1 for right in sisters) / len(sisters) if sisters else 0.0


def with_repairs(group: Group, repairs: Sequence[Repair], counts: dict[str, float]) -> Group:
    """The group whose chosen slots hold the second answer, its score and its value by RIR."""
    chosen = {(repair.variant, repair.sample): repair for repair in repairs if repair.chosen}

    def put(rows: tuple[tuple[Any, ...], ...], value: Callable[[Repair], Any]) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(value(chosen[k, m]) if (k, m) in chosen else old for m, old in enumerate(row)) for k, row in enumerate(rows))

    return replace(
        group,
        rollouts_KM=put(group.rollouts_KM, lambda repair: repair.rollout),
        scores_KM=put(group.scores_KM, lambda repair: repair.score),
        rewards_KM=put(group.rewards_KM, lambda repair: repair.reward),
        correct_KM=put(group.correct_KM, lambda repair: repair.correct),
        repairs=tuple(repairs),
        teacher=counts,
    )


def counted(replies: Sequence[TeacherReply]) -> dict[str, float]:
    """What the teacher did, for the metrics."""
    outcomes = Counter(reply.outcome for reply in replies)
    return {
        "asked": float(len(replies)),
        "leaked": float(sum(reply.leaked > 0 for reply in replies)),
        "refused": float(outcomes["leaked"] + outcomes["refused"]),
        "failed": float(outcomes["failed"]),
        "tokens_in": float(sum(reply.tokens_in for reply in replies)),
        "tokens_out": float(sum(reply.tokens_out for reply in replies)),
        "tool_calls": float(sum(reply.tool_calls for reply in replies)),
        "retries": float(sum(reply.retries for reply in replies)),
    }


def _alike(patches: Sequence[tuple[Slot, TeacherReply, Any]]) -> list[list[tuple[Slot, TeacherReply, Any]]]:
    """Together what is one prompt: the same variant, patch and evidence frames."""
    together: dict[Any, list[tuple[Slot, TeacherReply, Any]]] = {}
    for one in patches:
        (variant, _), reply, _ = one
        together.setdefault((variant, reply.patch, reply.evidence), []).append(one)
    return list(together.values())
