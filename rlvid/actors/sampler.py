"""From questions to scored groups: variants, answers, rewards. The concurrent part of a step.

For every question one coroutine walks down the line:

    variant pool: decode once, K specs and frames ──► rollout pool: M answers on each variant ──► rewards ──► repair

Who waits: a coroutine waits for its own video and its own K requests, nothing else; the pools hold back what exceeds their
actors' capacity. What cannot be used is quarantined by name: a video that cannot be read, one that takes its actor down or too long (remembered:
it costs its deadline once), a prompt that the engine refuses. What travels: specs and references; frames go from the variant actor's node to the engine's node.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlvid.actors.pool import ActorPool, CallFailed, PoolError, what_it_says
from rlvid.actors.repairer import Repairer
from rlvid.actors.rewarder import Rewards, added
from rlvid.algo.rewards import correctness, total
from rlvid.algo.t_grpo import temporal_bonus
from rlvid.config import Config
from rlvid.families.checkpoint import family_of
from rlvid.types import BOX_TASKS, GenerateRequest, GenerateResult, Group, LeftOut, Prepared, Quarantined, Question, Rollout
from rlvid.variants.explore import derived_seed
from rlvid.video.frames import VideoError

log = logging.getLogger("rlvid")


@dataclass
class Collected:
    """What one call of `collect` gave, and what it cost. late: questions whose variants were not ready when they were asked for. thrown_away: questions
    whose variants were built ahead for nothing, since the last call."""

    results: list[Group | Quarantined] = field(default_factory=list)
    variants_s: float = 0.0
    rollout_s: float = 0.0
    rewards_s: float = 0.0
    teacher_s: float = 0.0
    driver_bytes: int = 0
    late: int = 0
    thrown_away: int = 0

    @property
    def groups(self) -> list[Group]:
        return [result for result in self.results if isinstance(result, Group)]

    @property
    def quarantined(self) -> list[Quarantined]:
        return [result for result in self.results if isinstance(result, Quarantined)]


class Sampler:
    """Drives the two pools. `kinds` and `answers` are K and M; evaluation passes its own."""

    def __init__(
        self, config: Config, variants: ActorPool, rollouts: ActorPool | None, teachers: ActorPool | None = None, rewards: ActorPool | None = None
    ) -> None:
        self.config = config
        self.variants = variants
        self._rollouts = rollouts
        self.rewards = Rewards(config, rewards)
        self.repairer = None
        if teachers is not None:
            self.repairer = Repairer(config, teachers, self.rollouts, self.rewards.of_one, family_of(config.model.path).placeholder)
        self._bad_files: dict[str, str] = {}
        self._first_look: dict[str, asyncio.Future[None]] = {}
        self._ahead: dict[tuple[Question, tuple[str, ...]], asyncio.Future[tuple[Prepared | Quarantined, list[Any]]]] = {}
        self._thrown_away = 0

    @property
    def rollouts(self) -> ActorPool:
        """The engines. A session without them only takes stored replies."""
        assert self._rollouts is not None
        return self._rollouts

    async def collect(
        self, questions: Sequence[Question], step: int, *, kinds: tuple[str, ...], answers: int, greedy: bool = False, training: bool = False
    ) -> Collected:
        """A group, or the reason why there is none, for each question in order.

        `training`: failed slots are answered again, if the config has a teacher, and variants.hidden may leave questions out.
        """
        clock = _Spans()
        results = await asyncio.gather(*[self._group(question, step, kinds, answers, greedy, training, clock) for question in questions])
        thrown_away, self._thrown_away = self._thrown_away, 0
        seconds = clock.seconds
        return Collected(list(results), seconds["variants"], seconds["rollout"], seconds["rewards"], seconds["teacher"], clock.bytes, clock.late, thrown_away)

    def prefetch(self, loop: asyncio.AbstractEventLoop, wanted: Sequence[tuple[int, Question]], kinds: tuple[str, ...]) -> None:
        """Start building the variants that `collect` will want: (step, question) in the order in which they are expected, whichever step they come to.
        What is built and stands there no more is thrown away. Called from another thread than the loop's."""

        def begin() -> None:
            keys = {(question, kinds): None for _, question in wanted}
            for key in self._ahead.keys() - keys.keys():
                self._ahead.pop(key).cancel()
                self._thrown_away += 1
            for key in keys:
                if key not in self._ahead:
                    self._ahead[key] = asyncio.ensure_future(self._build(*key))

        loop.call_soon_threadsafe(begin)

    async def stored(self, questions: Sequence[Question], step: int, *, kinds: tuple[str, ...]) -> Collected:
        """As `collect`, but each view's one answer is the question's own reply, and no engine is asked."""
        clock = _Spans()

        async def group(question: Question) -> Group | Quarantined:
            prepared, frames = await self._variants(question, kinds, clock)
            if isinstance(prepared, Quarantined):
                return prepared
            results = [GenerateResult((self._stored(prepared, variant, 0, step - 1),), "") for variant in range(len(frames))]
            return await self._scored(prepared, tuple(frames), results, step)

        results = await asyncio.gather(*[group(question) for question in questions])
        thrown_away, self._thrown_away = self._thrown_away, 0
        return Collected(list(results), clock.seconds["variants"], late=clock.late, thrown_away=thrown_away)

    def _stored(self, prepared: Prepared, variant: int, sample: int, version: int) -> Rollout:
        """The question's own reply as an answer. `version`: of the weights that it is learned with."""
        tokens, question = prepared.reply_tokens, prepared.question
        unknown = (float("nan"),) * len(tokens)
        size = prepared.prompt_tokens
        return Rollout(question.id, variant, sample, size, tokens, unknown, question.reply, version, 0, ((0, version),), "stored")

    async def _variants(self, question: Question, kinds: tuple[str, ...], clock: _Spans) -> tuple[Prepared | Quarantined, list[Any]]:
        """Those that were built ahead, or built now."""
        with clock.running("variants"):
            ahead = self._ahead.pop((question, kinds), None)
            clock.late += ahead is None or not ahead.done()
            return await (ahead or self._build(question, kinds))

    async def _build(self, question: Question, kinds: tuple[str, ...]) -> tuple[Prepared | Quarantined, list[Any]]:
        """The question's variants: what is known of them and K references to their frames. Questions of a file that another one looks at wait for that look."""
        files = question.files
        if (looking := self._first_look.get(files)) is not None:
            await asyncio.wait([looking])
        else:
            self._first_look[files] = looking = asyncio.get_running_loop().create_future()
            looking.add_done_callback(lambda _: self._first_look.pop(files))
        try:
            return await self._look(question, kinds)
        finally:
            if not looking.done():
                looking.set_result(None)

    async def _look(self, question: Question, kinds: tuple[str, ...]) -> tuple[Prepared | Quarantined, list[Any]]:
        if reason := self._bad_files.get(question.files):
            return Quarantined(question.id, reason), []
        seed = derived_seed(self.config.run.seed, question.epoch)
        try:
            prepared, frames = await self.variants.call("build", question, kinds, seed, num_returns=len(kinds) + 1)
            return prepared, frames if isinstance(prepared, Quarantined) else frames[: len(prepared.specs)]
        except CallFailed as error:
            self._bad_files[question.files] = reason = f"{question.files}: {error}"
            return Quarantined(question.id, reason), []

    async def _group(
        self, question: Question, step: int, kinds: tuple[str, ...], answers: int, greedy: bool, training: bool, clock: _Spans
    ) -> Group | Quarantined:
        from ray.exceptions import ObjectLostError

        prepared, frames = await self._variants(question, kinds, clock)
        if isinstance(prepared, Quarantined):
            return prepared
        if training and prepared.truth_hidden and self.config.variants.hidden == "skip":
            return LeftOut(question.id, "no variant shows a frame of its truth (variants.hidden)")
        requests = [self._request(prepared, variant, step, answers, greedy) for variant in range(len(frames))]
        has_order = any(medium.kind == "video" for medium in question.shown)
        bonus = self.config.reward.temporal_bonus if training and has_order else 0.0
        controls = [_shuffled(request, self.config.run.seed, step) for request in requests] if bonus else []
        try:
            with clock.running("rollout"):
                results, frames = await self._answers(prepared, [*requests, *controls], frames)
        except VideoError as error:  # from frames that were to be built again; it names the file itself
            return Quarantined(question.id, str(error))
        except CallFailed as error:
            return Quarantined(question.id, f"{question.files}: {error}")
        except (PoolError, ObjectLostError):
            raise
        except Exception as error:  # what an engine raises for a prompt; vLLM has an error of its own for each
            return Quarantined(question.id, f"the engine refuses its prompt: {what_it_says(error)}")
        clock.count(question, prepared, *requests, *results)
        results, shuffled = results[: len(requests)], results[len(requests) :]
        if training and self.config.rollout.stored_replies and prepared.reply_tokens:
            results = [self._with_stored(prepared, results[0]), *results[1:]]
        with clock.running("rewards"):
            group = await self._scored(prepared, tuple(frames), results, step)
            if bonus:
                group = await self._rewarded_for_order(group, shuffled, bonus)
        if training and self.repairer is not None and (question.media or not question.video):  # teachers look for evidence in one video
            group = replace(group, teacher={"not_one_video": 1.0})
        elif training and self.repairer is not None and question.task in BOX_TASKS:  # a hint at a place would be the answer
            group = replace(group, teacher={"asks_for_places": 1.0})
        elif training and self.repairer is not None:
            with clock.running("teacher"):
                group = await self.repairer.repair(group, step)
            group = replace(group, costs=added(group.costs, self.rewards.taken()))
            clock.count(*(replace(repair, evidence_frames=None) for repair in group.repairs))
        return group

    async def _answers(self, prepared: Prepared, requests: list[GenerateRequest], frames: list[Any]) -> tuple[list[GenerateResult], list[Any]]:
        """The answers to each request, and references to the variants' frames: new ones where a node went and took them along."""
        from ray.exceptions import ObjectLostError

        async def ask(frames: list[Any]) -> list[GenerateResult]:
            return await asyncio.gather(*[self.rollouts.call("generate", request, frames[request.variant]) for request in requests])

        try:
            return await ask(frames), frames
        except ObjectLostError as error:
            log.warning("the frames of %s are lost (%s), they are built again", prepared.question.id, type(error).__name__)
            frames = await self._rebuilt(prepared)
            return await ask(frames), frames

    async def with_new_frames(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with all frames built again from their specs."""

        async def renewed(group: Group) -> Group:
            refs = await self._rebuilt(group.prepared, tuple(repair.evidence for repair in group.repairs))
            frames, cuts = refs[: len(group.frames)], refs[len(group.frames) :]
            repairs = [replace(repair, evidence_frames=cut if repair.evidence else None) for repair, cut in zip(group.repairs, cuts, strict=True)]
            return replace(group, frames=tuple(frames), repairs=tuple(repairs))

        return list(await asyncio.gather(*[renewed(group) for group in groups]))

    async def _rebuilt(self, prepared: Prepared, evidence: tuple[Any, ...] = ()) -> list[Any]:
        """References to the frames of each variant, then to those of each repair's `evidence`, built again from the video."""
        count = 1 + len(prepared.specs) + len(evidence)
        _, refs = await self.variants.call("rebuild", prepared.question, prepared.specs, evidence, num_returns=count)
        return refs

    def _request(self, prepared: Prepared, variant: int, step: int, answers: int, greedy: bool) -> GenerateRequest:
        return GenerateRequest(
            question_id=prepared.question.id,
            variant=variant,
            prompt=prepared.prompt,
            video_metadata=prepared.video_metadata[variant],
            answers=answers,
            seed=derived_seed(self.config.run.seed, step, prepared.question.id, variant),
            greedy=greedy,
        )

    def _with_stored(self, prepared: Prepared, result: GenerateResult) -> GenerateResult:
        """With the question's own reply in place of the last answer."""
        *others, last = result.rollouts
        stored = replace(self._stored(prepared, last.variant, last.sample, last.policy_version), prompt_tokens=last.prompt_tokens)
        return replace(result, rollouts=(*others, stored))

    async def _rewarded_for_order(self, group: Group, shuffled: Sequence[GenerateResult], bonus: float) -> Group:
        """T-GRPO: the answers' rewards with what the order of the frames is worth; a part of its own in the scores."""
        question, threshold = group.question, self.config.reward.iou_threshold
        said = [rollout for one in shuffled for rollout in one.rollouts]
        scores, costs = await self.rewards(question, said, group.prepared.prompt)
        controls = [correctness(question, score, threshold) for score in scores]
        bonus_KM = temporal_bonus(group.correct_KM, controls, bonus=bonus)
        scores_KM = tuple(
            tuple(replace(score, parts=score.parts | {"temporal_bonus": float(more)}) for score, more in zip(scores, row, strict=True))
            for scores, row in zip(group.scores_KM, bonus_KM, strict=True)
        )
        rewards_KM = tuple(tuple(float(value) for value in row) for row in np.array(group.rewards_KM) + bonus_KM)
        return replace(group, scores_KM=scores_KM, rewards_KM=rewards_KM, costs=added(group.costs, costs))

    async def _scored(self, prepared: Prepared, frames: tuple[Any, ...], results: Sequence[GenerateResult], step: int) -> Group:
        question, reward = prepared.question, self.config.reward
        rollouts_KM: tuple[tuple[Rollout, ...], ...] = tuple(result.rollouts for result in results)
        pairs = zip(rollouts_KM, frames, strict=True)
        found = await asyncio.gather(*[self.rewards(question, row, prepared.prompt, step, shown) for row, shown in pairs])
        scores_KM = tuple(tuple(scores) for scores, _ in found)
        return Group(
            prepared=prepared,
            frames=frames,
            rollouts_KM=rollouts_KM,
            scores_KM=scores_KM,
            rewards_KM=tuple(tuple(total(s, reward.weights[question.task]) for s in row) for row in scores_KM),
            correct_KM=tuple(tuple(correctness(question, s, reward.iou_threshold) for s in row) for row in scores_KM),
            prompt_digests=tuple(result.prompt_digest for result in results),
            costs=added(*(costs for _, costs in found)),
        )


def _shuffled(request: GenerateRequest, seed: int, step: int) -> GenerateRequest:
    """The control of a request: half as many answers on the same frames in another order."""
    parts = (seed, step, request.question_id, request.variant)
    return replace(request, answers=-(-request.answers // 2), seed=derived_seed(*parts, "control"), shuffle_seed=derived_seed(*parts, "order"))


class _Spans:
    """Wall time during which at least one coroutine was in each stage, and bytes that passed through the driver."""

    def __init__(self) -> None:
        self.seconds = {"variants": 0.0, "rollout": 0.0, "rewards": 0.0, "teacher": 0.0}
        self.bytes = 0
        self.late = 0
        self._inside = dict.fromkeys(self.seconds, 0)
        self._since = dict.fromkeys(self.seconds, 0.0)

    @contextlib.contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Around what a coroutine does in a stage."""
        if self._inside[stage] == 0:
            self._since[stage] = time.perf_counter()
        self._inside[stage] += 1
        try:
            yield
        finally:
            self._inside[stage] -= 1
            if self._inside[stage] == 0:
                self.seconds[stage] += time.perf_counter() - self._since[stage]

    def count(self, *records: Any) -> None:
        for record in records:
            _Counted(written := io.BytesIO()).dump(record)
            self.bytes += written.tell()


class _Counted(pickle.Pickler):
    """References into the object store, which only Ray can pickle, as their names."""

    def reducer_override(self, thing: Any) -> Any:
        return (bytes, (thing.binary(),)) if type(thing).__name__ == "ObjectRef" else NotImplemented
