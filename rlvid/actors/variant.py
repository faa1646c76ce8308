"""One variant actor: decodes a video once and cuts its K variants. decord may hang or crash here without harm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rlvid.config import Config, ConfigError, needs_relevance
from rlvid.data.questions import ASKS_TIMES, CUT_TO_VIDEO, QuestionError, within_video
from rlvid.process.confine import confine
from rlvid.process.log import to_log_file
from rlvid.process.role import Role, bundle
from rlvid.types import BOX_TASKS, Box, Prepared, Quarantined, Question, Relevance, VariantSpec
from rlvid.video.budget import Budget, budget, extremes

if TYPE_CHECKING:
    from rlvid.video.clip import Clip
    from rlvid.video.frames import Reader

log = logging.getLogger("rlvid")


def role(config: Config) -> Role:
    """The variant actors of a run."""
    variants = config.variants
    return Role(
        "variant actor",
        VariantActor,
        variants.actors,
        bundle(variants.num_cpus, config.relevance.num_gpus, variants.resources),
        variant_environment(config),
        concurrency=2,  # one builds, the other gives the sign of life that tells a slow video from an actor that hangs
        pool={
            "capacity": 1,
            "quorum": config.rollout.quorum,
            "deadline_s": config.video.deadline_s,
            "start_deadline_s": config.rollout.start_deadline_s,
            "max_restarts": config.rollout.max_restarts,
        },
    )


def variant_environment(config: Config) -> dict[str, str]:
    """Environment of the actor's process."""
    return {"OMP_NUM_THREADS": str(config.variants.threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


class VariantActor:
    """Holds the checkpoint's processor, for the chat template and the size of a visual token, and the relevance scorer."""

    def __init__(self, config: Config, number: int) -> None:
        self.config = config
        self.number = number
        self.scorer: Any = None
        self.cache: Any = None
        self.readers: dict[str, Reader] = {}

    def start(self) -> int:
        """Load processor and scorer. Returns the pixels along one side of a visual token. Raises ConfigError for frames that the processor would shrink."""
        to_log_file(f"variants-{self.number}")
        from rlvid.families.checkpoint import family_of, load_processor
        from rlvid.variants.scorers import make_scorer
        from rlvid.video.cache import VideoCache
        from rlvid.video.frames import keep_in

        self.processor = load_processor(self.config.model.path)
        video = self.processor.video_processor
        self.factor = video.patch_size * video.merge_size
        self.frames_per_token = video.temporal_patch_size
        self.family = family_of(self.config.model.path)
        self._check_size()
        self._check_image_size()
        relevance = self.config.relevance
        if self.config.looks_at_relevance:
            self.scorer = make_scorer(relevance.scorer, relevance.model, batch=relevance.batch, on_gpu=relevance.num_gpus > 0)
        if self.config.video.cache_dir is not None:
            self.cache = VideoCache(self.config.video.cache_dir, self.config.video.cache_gib)
            keep_in(self.cache)
        confine(self.config.variants.memory_gib)
        return self.factor

    def build(self, question: Question, kinds: tuple[str, ...], seed: int) -> list[Any]:
        """[Prepared, frames of variant 0, ..., frames of variant K-1], or [Quarantined, None, ...]. Where there are fewer variants than kinds, None follows.

        Called with num_returns = K + 1, so that the frames [T, H, W, C] uint8 stay in the object store.
        """
        from rlvid.video.clip import VideoError

        try:
            built = self._build(question, kinds, seed) if question.video and not question.media else self._build_together(question, kinds, seed)
            return [*built, *[None] * (1 + len(kinds) - len(built))]
        except MemoryError:
            limit = self.config.variants.memory_gib
            return [Quarantined(question.id, f"{question.files}: needs more memory than variants.memory_gib ({limit:g})"), *[None] * len(kinds)]
        except (VideoError, QuestionError) as error:
            return [Quarantined(question.id, str(error)), *[None] * len(kinds)]
        except Exception as error:  # whatever a file makes of a decoder: one video must not end a run
            log.exception("%s", question.files)
            return [Quarantined(question.id, f"{question.files}: {type(error).__name__}: {error}"), *[None] * len(kinds)]
        finally:
            for reader in self.readers.values():
                reader.close()
            self.readers.clear()

    def _reader(self, path: str) -> Reader:
        """The video, open until its views are built: a decoder looks through a whole file when it opens it."""
        from rlvid.video.frames import Reader

        if path not in self.readers:
            self.readers[path] = Reader(path, threads=self.config.variants.threads)
        return self.readers[path]

    def _build(self, question: Question, kinds: tuple[str, ...], seed: int) -> list[Any]:
        from rlvid.data.prompts import chat_prompt, question_text
        from rlvid.variants.build import cut, video_metadata
        from rlvid.variants.explore import distinct, hides, truth_hidden

        prompt = self.config.prompt
        clock = _Laps()
        share = self._budget(question)
        clip, hit = self._clip(question, share, partial(self._size, max_pixels=share.max_pixels))
        asked, question = question, within_video(question, clip.duration_s)
        if asked != question:
            log.warning("%s: %s (%.2f s)", question.id, CUT_TO_VIDEO, clip.duration_s)
        clock.lap("decode_s")
        relevance, more = self._relevance(question, kinds, clip, share)
        clock.lap("relevance_s")
        specs = self._explored(question, question.id, kinds, seed, (clip, *more), share, relevance)
        specs = distinct(specs) if question.task in BOX_TASKS else specs  # crops that show the whole picture would repeat others
        text = chat_prompt(self.processor, question_text(question, prompt.instructions, prompt.format), prompt.system)
        tokens = self._prompt_tokens(text, specs)
        if problem := self._too_long(tokens, specs):
            return [Quarantined(question.id, f"{question.video}: {problem}"), *[None] * len(kinds)]
        frames = [cut(clip, spec, *more) for spec in specs]
        clock.lap("cut_s")
        costs = clock.laps | {
            "cache_hits": float(hit),
            # Looked at when all is drawn and cut: no view depends on the truth.
            "span_hidden": float(sum(hides(spec.times_s, question.spans) for spec in specs)),
        }
        metadata = tuple(video_metadata(spec, question.starts_s) for spec in specs)
        hidden = truth_hidden(specs, question.spans)
        costs |= {"truth_hidden": float(hidden)}
        prepared = Prepared(question, text, tuple(specs), metadata, clip.duration_s, relevance, costs, hidden, tokens, self._reply_tokens(question))
        return [prepared, *frames]

    def _build_together(self, question: Question, kinds: tuple[str, ...], seed: int) -> list[Any]:
        """Of a question that shows images, several videos, a mix, or nothing."""
        from rlvid.data.prompts import chat_prompt, question_text
        from rlvid.variants.build import metadata_of
        from rlvid.variants.explore import hides, together, truth_hidden

        prompt, clock, seen = self.config.prompt, _Laps(), list[_Seen]()
        for at, medium in enumerate(question.shown):
            name = f"{question.id}/{at}"
            seen.append(
                self._video(question, medium.path, name, kinds, seed) if medium.kind == "video" else self._image(question, medium.path, name, kinds, seed)
            )
        clock.lap("decode_s")
        duration_s = next((one.duration_s for one in seen if one.duration_s), 0.0) if question.video else 0.0
        asked, question = question, within_video(question, duration_s) if question.video else question
        if asked != question:
            log.warning("%s: %s (%.2f s)", question.id, CUT_TO_VIDEO, duration_s)
        specs = together(kinds, [one.specs for one in seen], question_id=question.id, seed=seed)
        media = [medium.kind for medium in question.shown]
        text = chat_prompt(self.processor, question_text(question, prompt.instructions, prompt.format), prompt.system, media)
        if self.family.kinds_in(text) != tuple(media):
            return [Quarantined(question.id, f"the model's chat template gives media another order ({', '.join(media)})")]
        visual = max(sum(self._shown_tokens(one) for one in spec.media or ()) for spec in specs)
        stamps = sum(self.family.timestamp_tokens * (len(one.times_s) // self.frames_per_token) for one in specs[0].media or ())
        tokens = len(self.processor.tokenizer(text)["input_ids"]) + stamps + visual
        if problem := self._no_room(visual, tokens, "video.frames, video.max_frames, video.max_pixels or image.max_pixels"):
            return [Quarantined(question.id, f"{question.files}: {problem}")]
        frames = [tuple(one.cut(part) for one, part in zip(seen, spec.media or (), strict=True)) for spec in specs]
        clock.lap("cut_s")
        hidden = truth_hidden(specs, question.spans)
        costs = clock.laps | {"relevance_s": 0.0, "cache_hits": float(sum(one.hit for one in seen))}
        costs |= {"span_hidden": float(sum(hides(spec.times_s, question.spans) for spec in specs)), "truth_hidden": float(hidden)}
        metadata = tuple(metadata_of(question, spec) for spec in specs)
        prepared = Prepared(question, text, tuple(specs), metadata, duration_s, None, costs, hidden, tokens, self._reply_tokens(question))
        return [prepared, *frames]

    def _video(self, question: Question, path: str, name: str, kinds: tuple[str, ...], seed: int) -> _Seen:
        """One of several media that is a video: read, and how each kind shows it."""
        from rlvid.variants.build import cut

        alone = replace(question, video=path, media=(), clip=question.clip if path == question.video else None)
        share = self._budget(alone)
        clip, hit = self._clip(alone, share, partial(self._size, max_pixels=share.max_pixels))
        relevance, more = self._relevance(alone, kinds, clip, share)
        specs = self._explored(question, name, kinds, seed, (clip, *more), share, relevance)
        return _Seen(specs, lambda spec: cut(clip, spec, *more), clip.duration_s, hit)

    def _explored(
        self, question: Question, name: str, kinds: tuple[str, ...], seed: int, clips: tuple[Clip, ...], share: Budget, relevance: Relevance | None
    ) -> list[VariantSpec]:
        """How each kind shows a video. `name`: what its random numbers are drawn by. `clips`: the even candidates, then those added."""
        import numpy as np

        from rlvid.variants.explore import explore
        from rlvid.video.clip import in_order, work_size

        (times_s_N, order_N), clip = in_order(clips), clips[0]
        size = self._size(clip.height, clip.width, max_pixels=share.max_pixels)
        return explore(
            kinds,
            times_s_N=times_s_N,
            frames=share.frames,
            size=size,
            coarse_size=self._coarse(size, clip.height, clip.width),
            work_size=work_size(clip.height, clip.width, size, self._zoom),
            question_id=name,
            seed=seed,
            min_crop_area=self.config.variants.min_crop_area,
            crop_share=self.config.variants.crop_share,
            relevance=relevance,
            even_times=self._even_times(question),
            even_N=np.flatnonzero(order_N < len(clip.times_s_N)) if len(clips) > 1 else None,
            whole=question.task in BOX_TASKS,
        )

    def _image(self, question: Question, path: str, name: str, kinds: tuple[str, ...], seed: int) -> _Seen:
        """One of the media that is an image. Only an image-text model tells which part of it matters: nothing moves."""
        from rlvid.variants.build import cut_image, read_image
        from rlvid.variants.explore import explore_image

        size_for = partial(self._size, max_pixels=self.config.image.max_pixels)
        pixels, (height, width) = read_image(path, size_for, self._zoom)
        size = size_for(height, width)
        specs = explore_image(
            kinds,
            size=size,
            coarse_size=self._coarse(size, height, width),
            work_size=(pixels.shape[0], pixels.shape[1]),
            question_id=name,
            seed=seed,
            min_crop_area=self.config.variants.min_crop_area,
            crop_share=self.config.variants.crop_share,
            relevance=self._image_relevance(question, kinds, pixels),
            whole=question.task in BOX_TASKS,
        )
        return _Seen(specs, partial(cut_image, pixels))

    def _image_relevance(self, question: Question, kinds: tuple[str, ...], pixels: Any) -> Relevance | None:
        import numpy as np

        from rlvid.variants.relevance import relevance, relevance_text

        if not needs_relevance(kinds) or self.config.relevance.scorer == "motion":
            return None
        return relevance(self.scorer.score(pixels[None], relevance_text(question)), np.zeros(1))

    def _even_times(self, question: Question) -> bool:
        """Does the question ask for times that this model cannot be told?"""
        return self.config.variants.even_times == "auto" and not self.family.uneven_times and question.task in ASKS_TIMES

    def _budget(self, question: Question) -> Budget:
        """Frames and size of this video's variants. Only a rate asks how long it is, which the reader remembers."""
        from rlvid.video.frames import read_index

        video, length_s = self.config.video, 0.0
        if video.fps is not None or video.candidates_fps is not None:
            whole_s = read_index(question.video, threads=self.config.variants.threads).duration_s
            length_s = min(whole_s, question.clip[1]) - question.clip[0] if question.clip else whole_s
        return budget(video, length_s, factor=self.factor, frames_per_token=self.frames_per_token)

    def _clip(self, question: Question, share: Budget, size_for: Callable[[int, int], tuple[int, int]]) -> tuple[Any, bool]:
        """The candidates, and whether they came from the cache."""
        from rlvid.video.clip import read_candidates

        def read() -> Any:
            return read_candidates(self._reader(question.video), candidates=share.candidates, clip=question.clip, size_for=size_for, zoom=self._zoom)

        if self.cache is None:
            return read(), False
        hits = self.cache.hits
        return self.cache.clip(question.video, self._parameters(question, share), read), self.cache.hits > hits

    def _relevance(self, question: Question, kinds: tuple[str, ...], clip: Clip, share: Budget) -> tuple[Relevance | None, tuple[Clip, ...]]:
        """Once per video and question text, and the candidates added for it; None where no kind looks at it (the evaluation's `uniform`, say)."""
        from rlvid.variants.closer import sparse
        from rlvid.variants.relevance import relevance_text
        from rlvid.variants.watching import Watching

        if not needs_relevance(kinds):
            return None, ()
        video, settings, text = self.config.video, self.config.relevance, relevance_text(question)
        # Where times are to stay even, no view could show what is found between the candidates.
        closely = sparse(clip.times_s_N, video.sparse_s) and not self._even_times(question)
        first = [clip, *(self._shots(question, clip, share) if closely else ())]
        fine: list[Clip] = []

        def score() -> Relevance:
            watching = Watching(self.scorer, text, settings)
            watching.see(*first)
            found = watching.relevance()
            if closely and video.fine_candidates:
                fine.extend(self._fine(question, found, share))
                watching.see(*fine)
            return watching.relevance() if fine else found

        if self.cache is None:
            return score(), (*first[1:], *fine)
        seen_s = [one.times_s_N.tolist() for one in first]
        how = [seen_s if closely else seen_s[0], self.scorer.key, text, settings.attention_tau, settings.windows, settings.temperature]
        how += [video.fine_candidates, video.fine_fps] if closely else []
        found = self.cache.relevance(question.video, [*self._parameters(question, share), *how], score)
        added_s = sorted(set(found.times_s).difference(*seen_s))
        return found, (*first[1:], *(fine or self._added(question, added_s, share)))

    def _shots(self, question: Question, clip: Clip, share: Budget) -> tuple[Clip, ...]:
        """One frame of each shot that no candidate is of."""
        from rlvid.video.clip import inside
        from rlvid.video.frames import read_index
        from rlvid.video.shots import unseen_shots

        index = read_index(question.video, threads=self.config.variants.threads)
        found = unseen_shots(index, inside(index, question.clip), clip.times_s_N, self.config.video.shot_candidates)
        return self._added(question, index.times_s[found].tolist(), share)

    def _fine(self, question: Question, relevance: Relevance, share: Budget) -> tuple[Clip, ...]:
        """More frames where the relevance is."""
        from rlvid.variants.closer import closer_frames
        from rlvid.video.clip import inside
        from rlvid.video.frames import read_index

        video, index = self.config.video, read_index(question.video, threads=self.config.variants.threads)
        found = closer_frames(index, inside(index, question.clip), relevance, limit=video.fine_candidates, gap_s=1 / video.fine_fps)
        return self._added(question, index.times_s[found].tolist(), share)

    def _added(self, question: Question, times_s: list[float], share: Budget) -> tuple[Clip, ...]:
        """The frames at those times. A part of the file that cannot be read is no loss: the even candidates were."""
        from rlvid.video.clip import VideoError, read_at, work_size

        zoom = self._zoom

        def kept(height: int, width: int) -> tuple[int, int]:
            return work_size(height, width, self._size(height, width, share.max_pixels), zoom)

        def read() -> Clip:
            return read_at(self._reader(question.video), times_s, work_size_for=kept, clip=question.clip)

        if not times_s:
            return ()
        try:
            return (read() if self.cache is None else self.cache.clip(question.video, [*self._parameters(question, share), "at", times_s], read),)
        except VideoError as error:
            log.warning("%s: is not looked at between its candidates (%s)", question.id, error)
            return ()

    def _parameters(self, question: Question, share: Budget) -> list[Any]:
        """What the decoded candidates depend on, besides the file."""
        return [share.candidates, question.clip, share.max_pixels, self.factor, self._zoom]

    @property
    def _zoom(self) -> float:
        """Candidates are kept so large that the smallest crop is still cut from real pixels, and no larger."""
        from rlvid.variants.explore import crops

        return self.config.variants.min_crop_area**-0.5 if crops(self.config.variants.kinds) else 1.0

    def _size(self, height: int, width: int, max_pixels: int) -> tuple[int, int]:
        """The shown size; a patch is the least."""
        from rlvid.video.clip import shown_size

        return shown_size(height, width, max_pixels=max(max_pixels, self.factor**2), factor=self.factor)

    def _check_size(self) -> None:
        """A checkpoint's processor has limits of its own and shrinks what is larger, for engine and learner alike, without a word."""
        for one in extremes(self.config.video, factor=self.factor, frames_per_token=self.frames_per_token):
            tall, wide = self._size(one.max_pixels, one.max_pixels, one.max_pixels)  # of a square that is too large
            wanted, shown = one.frames // self.frames_per_token * tall * wide // self.factor**2, self._visual_tokens(one.frames, (tall, wide))
            if shown < wanted:
                raise ConfigError(
                    f"the model's processor shrinks {one.frames} frames of {tall} x {wide} pixels from {wanted} to {shown} visual tokens: lower "
                    f"video.max_pixels ({self.config.video.max_pixels}), video.frames or video.max_frames, set video.total_tokens, or raise longest_edge in "
                    f"the processor's configuration"
                )

    def _visual_tokens(self, frames: int, size: tuple[int, int]) -> int:
        """What the processor makes of so many frames of a size."""
        video = self.processor.video_processor
        return int(video.get_num_of_video_patches(frames, *size, {})) // video.merge_size**2

    def _check_image_size(self) -> None:
        """As for videos, where a question may show an image."""
        if not self.config.image.most:
            return
        most = self.config.image.max_pixels
        size = self._size(most, most, most)
        wanted, shown = size[0] * size[1] // self.factor**2, self._image_tokens(size)
        if shown < wanted:
            raise ConfigError(
                f"the model's processor shrinks an image of {size[0]} x {size[1]} pixels from {wanted} to {shown} visual tokens: lower image.max_pixels "
                f"({most}), or raise longest_edge in the processor's configuration"
            )

    def _image_tokens(self, size: tuple[int, int]) -> int:
        image = self.processor.image_processor
        return int(image.get_number_of_image_patches(*size, {})) // image.merge_size**2

    def _shown_tokens(self, spec: VariantSpec) -> int:
        return self._visual_tokens(len(spec.times_s), spec.size) if spec.times_s else self._image_tokens(spec.size)

    def _coarse(self, shown: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """The size with a quarter of the shown pixels."""
        from rlvid.video.clip import shown_size

        tall, wide = shown
        return shown_size(height, width, max_pixels=max(tall * wide // 4, self.factor**2), factor=self.factor)

    def _prompt_tokens(self, text: str, specs: list[Any]) -> int:
        """About how many tokens the longest variant's prompt has."""
        words = len(self.processor.tokenizer(text)["input_ids"]) + self.family.timestamp_tokens * (len(specs[0].times_s) // self.frames_per_token)
        return words + max(self._visual_tokens(len(spec.times_s), spec.size) for spec in specs)

    def _reply_tokens(self, question: Question) -> tuple[int, ...]:
        tokenizer = self.processor.tokenizer
        return (*tokenizer(question.reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id) if question.reply else ()

    def _too_long(self, tokens: int, specs: list[Any]) -> str:
        """Why the engine could not hold the longest variant, whose prompt has so many tokens; empty when it can."""
        visual = max(self._visual_tokens(len(spec.times_s), spec.size) for spec in specs)
        return self._no_room(visual, tokens, "video.frames, video.max_frames or video.max_pixels")

    def _no_room(self, visual: int, tokens: int, settings: str) -> str:
        room = self.config.rollout.max_model_len - self.config.rollout.max_tokens
        if visual > self.config.video.max_tokens:
            return f"needs {visual} visual tokens, video.max_tokens is {self.config.video.max_tokens}: lower {settings}"
        if tokens > room:
            return f"the prompt needs about {tokens} tokens, the engine has room for {room}: raise rollout.max_model_len"
        return ""

    def rebuild(self, question: Question, specs: tuple[VariantSpec, ...], evidence: tuple[tuple[tuple[float, Box | None], ...], ...]) -> list[Any]:
        """[None, frames of each spec, evidence frames of each repair] once more, bit for bit, where the object store lost them. Raises VideoError."""
        from rlvid.teacher.evidence import evidence_pixels
        from rlvid.variants.build import rebuild_shown
        from rlvid.video.frames import VideoError

        video, threads, size = question.video, self.config.variants.threads, specs[0].size
        try:
            frames = [rebuild_shown(question, spec, threads=threads) for spec in specs]
            return [None, *frames, *(evidence_pixels(video, one, size, threads=threads) for one in evidence)]
        except VideoError:
            raise
        except Exception as error:  # as in `build`
            raise VideoError(f"{question.files}: {type(error).__name__}: {error}") from None

    def check(self) -> int:
        """A sign of life, also while a video is being decoded."""
        return self.number

    def stop(self) -> None:
        """Close the cache; nothing else to end beside the process."""
        if self.cache is not None:
            self.cache.close()


@dataclass(frozen=True)
class _Seen:
    """One of several media: how each kind shows it, and what cuts that. `duration_s`: of a video. `hit`: it came from the cache."""

    specs: list[VariantSpec]
    cut: Callable[[VariantSpec], Any]
    duration_s: float = 0.0
    hit: bool = False


class _Laps:
    """Seconds between one `lap` and the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._since = now - self._since, now
