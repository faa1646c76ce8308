"""Sections of what the model is shown: frames, variants, and what tells which frames matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlvid.config.base import Count, FilePath, PathOrId, Positive, Resources, Seconds, Section, Share

VariantKind = Literal["uniform", "importance", "importance_jitter", "importance_crop", "crop", "multi_scale", "random_jitter", "random_crop"]


def needs_relevance(kinds: Sequence[str]) -> bool:
    """Does one of these kinds of variants look at relevance?"""
    return any(kind not in ("uniform", "random_jitter", "random_crop") for kind in kinds)


class Video(Section):
    frames: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    """T: frames shown per variant (even: the model merges two frames into one)."""
    fps: Annotated[float, Field(gt=0)] | None = None
    """Frames by rate: so many a second of the video (or of the question's clip), between `min_frames` and `max_frames`. null: `frames` of every video."""
    min_frames: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    """With `fps`: the fewest frames of a video."""
    max_frames: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """With `fps`: the most frames of a video."""
    candidates: Positive = 64
    """Frames decoded once per video, evenly spaced; variants choose among them. At least `frames`, with `fps` at least `max_frames`."""
    candidates_fps: Annotated[float, Field(gt=0)] | None = None
    """Candidates by rate: so many a second of the video (or of the question's clip), at least `candidates`, at most `max_candidates`. An hour then has more
    to choose from than a minute. null: `candidates` of every video."""
    max_candidates: Positive = 2048
    """With `candidates_fps`: the most candidates of a video, which an actor holds in memory at the shown size (or that of the smallest crop)."""
    sparse_s: Seconds = 4.0
    """Where candidates lie further apart than so many seconds on average, views chosen by relevance look between them, as the next settings say: at a frame of
    each shot that no candidate is of, then at more frames where the relevance is. Even views, evaluation's too, choose among evenly spaced ones as ever."""
    shot_candidates: Count = 64
    """The most candidates added for shots (found by the file's packets, without decoding: rlvid/video/shots.py). 0: none."""
    fine_candidates: Count = 64
    """The most candidates added by the second pass, where the first one's relevance is above its average (rlvid/variants/closer.py). 0: one pass."""
    fine_fps: Annotated[float, Field(gt=0)] = 2.0
    """The second pass looks no more often than so many times a second."""
    max_pixels: Positive = 128 * 28 * 28
    """Upper bound of height x width of one shown frame; the frame keeps its aspect and is never enlarged."""
    total_tokens: Positive | None = None
    """Bound on the visual tokens of one video, the same for all its variants (Qwen's total_pixels / 784, for Qwen2.5-VL). A video that would need more has
    smaller frames, down to a quarter of `max_pixels`, then fewer of them. null: no bound but `max_tokens`, beyond which a video is quarantined."""
    max_tokens: Positive = 6144
    """Upper bound of visual tokens per variant, checked before an engine sees it."""
    most: Positive | None = None
    """Videos that one prompt may show, for which engines keep room. null: as many as the question of `data.train` or `data.eval` that has most."""
    deadline_s: Seconds = 120
    """A video that takes longer to decode is quarantined."""
    cache_dir: FilePath | None = None
    """Folder for decoded candidates and for what files are known to hold, kept across runs; on a disk of the node itself. null: no cache, and
    every actor reads a whole file once to know its frames."""
    cache_gib: Annotated[float, Field(gt=0)] = 50.0
    """Upper bound of the cache on each node; what was not used for longest goes first."""

    @model_validator(mode="after")
    def _enough_candidates(self) -> Video:
        if self.candidates < self.frames:
            raise ValueError(f"video.candidates ({self.candidates}) is below video.frames ({self.frames}): raise candidates")
        if self.fps is not None and self.min_frames > self.max_frames:
            raise ValueError(f"video.min_frames ({self.min_frames}) is above video.max_frames ({self.max_frames}): lower one")
        if self.fps is not None and self.candidates < self.max_frames:
            raise ValueError(f"video.candidates ({self.candidates}) is below video.max_frames ({self.max_frames}): raise candidates, or lower max_frames")
        if self.candidates_fps is not None and self.max_candidates < self.candidates:
            raise ValueError(f"video.max_candidates ({self.max_candidates}) is below video.candidates ({self.candidates}): raise max_candidates")
        if self.total_tokens is not None and self.total_tokens > self.max_tokens:
            raise ValueError(f"video.total_tokens ({self.total_tokens}) is above video.max_tokens ({self.max_tokens}), which quarantines: raise max_tokens")
        return self


class Image(Section):
    max_pixels: Positive = 512 * 28 * 28
    """Upper bound of height x width of one image; it keeps its aspect and is never enlarged. `video.max_tokens` bounds all that one prompt shows together."""
    most: Count | None = None
    """Images that one prompt may show, for which engines keep room. null: as many as the question of `data.train` or `data.eval` that has most."""


class Variants(Section):
    kinds: Annotated[tuple[VariantKind, ...], Field(min_length=1)] = ("uniform", "importance", "importance_jitter", "importance_crop")
    """One name per variant: K is the length of the list. rlvid/variants/explore.py says what each shows."""
    min_crop_area: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Least share of the frame's area that a crop keeps."""
    crop_share: Share = 0.8
    """An attention-guided crop is the smallest box that holds this share of the relevance."""
    even_times: Literal["auto", "never"] = "auto"
    """auto: for a question that asks for times, all kinds keep (nearly) even times where the model cannot be told uneven ones (Qwen2.5-VL)."""
    hidden: Literal["keep", "skip"] = "keep"
    """A training question with a truth span of which no variant shows a frame, counted either way. keep: ask it; skip: leave it out before it is asked. No
    view ever depends on the truth, but with skip the questions do: their times then tell that some variant holds a frame of the truth."""
    actors: Positive = 1
    """Variant actors."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each."""
    threads: Positive = 1
    """Threads each may use."""
    resources: Resources = {}
    """Custom resources of Ray that each takes of its node, such as {rollout_node: 1}: the way to say on which nodes they stand."""
    memory_gib: Annotated[float, Field(gt=0)] = 8.0
    """Memory that decoding may take in an actor beyond what it holds once started; a video that wants more is quarantined."""
    prefetch: Count = 1
    """Steps whose variants are built ahead of the rollouts."""


class RelevanceConfig(Section):
    scorer: Literal["motion", "clip"] = "motion"
    """What tells which frames and parts matter: an image-text model (clip), or motion and shot changes, which need none."""
    model: PathOrId | None = None
    """Folder or hub id of a CLIP or SigLIP checkpoint, for `clip`."""
    attention_tau: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the temporal attention; the lower, the more alike frames must look to share what they score."""
    windows: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4, 8)
    """Multi-scale pooling: scores are averaged over windows of so many candidates."""
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Of the sampling distribution; high: nearly even, low: the best frames only."""
    batch: Positive = 64
    """Frames that go through the image-text model at a time."""
    num_gpus: Annotated[float, Field(ge=0, le=1)] = 0
    """Share of a GPU that each variant actor takes for the image-text model; 0: on CPU."""

    @model_validator(mode="after")
    def _model_named(self) -> RelevanceConfig:
        if self.scorer == "clip" and not self.model:
            raise ValueError("relevance.scorer clip needs relevance.model: name a CLIP or SigLIP checkpoint, or set scorer to motion")
        return self
