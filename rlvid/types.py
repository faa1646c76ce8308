"""The records that cross module borders. Frozen, light, no heavy imports.

Suffixes name dimensions: K variants of one video, M answers on each, T frames, N answer tokens. A *group* is the K x M
slots of one question.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Task = Literal[
    "multiple_choice",
    "open",
    "numeric",
    "regression",
    "math",
    "temporal_grounding",
    "grounded_qa",
    "spatial_grounding",
    "tracking",
    "spatio_temporal_grounding",
]
NUMBER_TASKS: tuple[Task, ...] = ("numeric", "regression")
"""Answered by one number."""
BOX_TASKS: tuple[Task, ...] = ("spatial_grounding", "tracking", "spatio_temporal_grounding")
"""Answered by places in the whole picture: no view of such a question is a part of it."""
Span = tuple[float, float]
"""Start and end in seconds of the original video."""
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as shares of width and height, 0..1."""


@dataclass(frozen=True)
class Region:
    """A box at one moment of the original video."""

    time_s: float
    box: Box

    def moved(self, by_s: float) -> Region:
        """The same box so many seconds later."""
        return Region(self.time_s + by_s, self.box)


def moved(spans: tuple[Span, ...], by_s: float) -> tuple[Span, ...]:
    """The spans so many seconds later."""
    return tuple((start + by_s, end + by_s) for start, end in spans)


@dataclass(frozen=True)
class Evidence:
    """Where in the video the answer can be seen."""

    spans: tuple[Span, ...] = ()
    regions: tuple[Region, ...] = ()

    def moved(self, by_s: float) -> Evidence:
        """The same evidence so many seconds later."""
        return Evidence(moved(self.spans, by_s), tuple(region.moved(by_s) for region in self.regions))


@dataclass(frozen=True)
class EvidencePatch:
    """What a teacher says about a failed answer: where to look, never what to answer. `rlvid.teacher.patch` checks and writes it.

    `spans` seconds, `frames_s` key moments in seconds, `regions` boxes at one moment each; all, and the times in `hint`, on the clock that the student
    is told (`Question.as_told`).
    """

    error_class: Literal["temporal", "spatial", "misconception"]
    hint: str
    spans: tuple[Span, ...] = ()
    frames_s: tuple[float, ...] = ()
    regions: tuple[Region, ...] = ()

    def moved(self, by_s: float) -> EvidencePatch:
        """The same places so many seconds later; the hint stays as the student read it."""
        times_s = tuple(time_s + by_s for time_s in self.frames_s)
        return replace(self, spans=moved(self.spans, by_s), frames_s=times_s, regions=tuple(region.moved(by_s) for region in self.regions))


@dataclass(frozen=True)
class Medium:
    """What stands in one place of a prompt. `path`: absolute; of a video also pictures at a rate (`rlvid.video.pictures`)."""

    kind: Literal["video", "image"]
    path: str


@dataclass(frozen=True)
class Question:
    """One line of a question file. `video` is an absolute path, or pictures at a rate (`rlvid.video.pictures`); `answer` is the option's text for a choice.

    media: empty where one video is all that there is to see (or nothing, and `video` is empty too). Otherwise all media in the order in which they stand in the
    prompt; `video` then is the path of the only video among them, which spans, evidence and clip are about, or empty.

    box, track: what tasks with boxes ask for. A box in the one image, or boxes at ascending times of the one video; all as shares of the whole picture.

    answers: empty where there is one answer. With options the set of all right ones, each of which has to be named; without, texts any of which is right.
    span_mode: of several `spans`, does a reply have to give any one, or all? reply: a whole reply, thinking and tags, to be learned as it stands.

    `spans`, `evidence`, `track` and `clip` are seconds of the file. What a model reads and writes is on another clock, see `as_told`.
    """

    id: str
    video: str
    question: str
    task: Task
    options: tuple[str, ...] = ()
    answer: str | None = None
    spans: tuple[Span, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    clip: Span | None = None
    source: str = ""
    answers: tuple[str, ...] = ()
    span_mode: Literal["any", "all"] = "any"
    reply: str = ""
    media: tuple[Medium, ...] = ()
    box: Box | None = None
    track: tuple[Region, ...] = ()
    epoch: int = 0
    """Pass over the file in which the stream gave it out, no part of the file. With the run's seed it says which variants are drawn, so those that are
    built ahead serve whichever step asks for them."""

    @property
    def shown(self) -> tuple[Medium, ...]:
        """All media in the prompt's order."""
        return self.media or ((Medium("video", self.video),) if self.video else ())

    @property
    def files(self) -> str:
        """Its media by name, for messages."""
        return ", ".join(medium.path for medium in self.shown) or f"{self.id} (without media)"

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer: `answers`, or the one there is."""
        return self.answers or ((self.answer,) if self.answer is not None else ())

    @property
    def starts_s(self) -> float:
        """Where in the file, in seconds, the clock that the model is told stands at 0: the clip's start [D]."""
        return self.clip[0] if self.clip else 0.0

    def as_told(self) -> Question:
        """The question on the model's clock: spans and evidence count from the clip's start. Without a clip, the question itself.

        A clip is shown as a video of its own. Qwen2.5-VL cannot be told otherwise (its positions start at 0), so no model is [D]: prompts, hints, evidence,
        answers and rewards are on this clock; files, dumps and specs are in seconds of the file.
        """
        if self.clip is None:
            return self
        track = tuple(region.moved(-self.starts_s) for region in self.track)
        return replace(self, spans=moved(self.spans, -self.starts_s), evidence=self.evidence.moved(-self.starts_s), track=track, clip=None)

    def told_duration(self, duration_s: float) -> float:
        """Seconds that the shown part of a video of `duration_s` seconds lasts."""
        return min(self.clip[1], duration_s) - self.starts_s if self.clip else duration_s


@dataclass(frozen=True)
class VariantSpec:
    """A variant *is* this: any worker can cut the same pixels from the video again, bit for bit.

    `times_s` [T] are the true timestamps in the file of the frames shown, ascending, none of an image; `size` is (height, width) in pixels; `work_size` is
    what whole frames are brought to before the box is cut (None: what follows from `size`).

    media: of a question that shows anything else than one video, the spec of each medium in the prompt's order; `times_s` then are those of its only video.
    """

    kind: str
    times_s: tuple[float, ...]
    box: Box | None
    size: tuple[int, int]
    seed: int
    work_size: tuple[int, int] | None = None
    media: tuple[VariantSpec, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "times_s": list(self.times_s),
            "box": list(self.box) if self.box else None,
            "size": list(self.size),
            "seed": self.seed,
            "work_size": list(self.work_size) if self.work_size else None,
            **({} if self.media is None else {"media": [one.to_json() for one in self.media]}),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> VariantSpec:
        """The spec of a dumped slot."""
        box, work = value["box"], value.get("work_size")
        return VariantSpec(
            kind=value["kind"],
            times_s=tuple(value["times_s"]),
            box=(box[0], box[1], box[2], box[3]) if box else None,
            size=(value["size"][0], value["size"][1]),
            seed=value["seed"],
            work_size=(work[0], work[1]) if work else None,
            media=tuple(VariantSpec.from_json(one) for one in value["media"]) if "media" in value else None,
        )


@dataclass(frozen=True)
class Relevance:
    """What the question has to do with each candidate frame of its video, and with each part of the frame.

    `times_s` [N] seconds, `scores` [N] shares that sum to 1; `patches` [h][w] shares of the frame's parts that sum to 1.
    """

    times_s: tuple[float, ...]
    scores: tuple[float, ...]
    patches: tuple[tuple[float, ...], ...] = ()


UNKNOWN = -1
"""In the place of an expert that a token went through: it is not known which."""


@dataclass(frozen=True)
class Rollout:
    """One sampled answer. `tokens` [N] and `logprobs` [N] are the sampler's own.

    `policy_version`: of the oldest weights that sampled any of its tokens. `versions`: (first token, version) of each stretch; one, unless new weights
    came while it was being sampled.
    """

    question_id: str
    variant: int
    sample: int
    prompt_tokens: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    policy_version: int
    seed: int
    versions: tuple[tuple[int, int], ...] = ()
    finish_reason: str = "stop"
    """Why it ended, in the engine's words; `length`: it was cut off by rollout.max_tokens (or the engine's room). `stored`: nobody sampled it, it stands in the
    question file; its `logprobs` are NaN."""
    routes: Any = None
    """(reference into the object store, place in what it holds) of the experts that its tokens went through, [n, L, K] int16 from the prompt's first token on,
    UNKNOWN where they are not known. None: nobody asked (sync.experts)."""

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Score:
    """The reward parts of one answer by name, and why a part is 0 where the answer could not be read. Where a judge has spoken, `accuracy` is the higher of
    its verdict and of the rule's, which is `rule`."""

    parts: dict[str, float]
    reason: str = ""
    said: str = ""
    """What a judge said of it, or why it said nothing."""


@dataclass(frozen=True)
class Quarantined:
    """A question that cannot be used, and why. It is counted and replaced by the next one."""

    question_id: str
    reason: str


@dataclass(frozen=True)
class LeftOut(Quarantined):
    """A question that a setting leaves out of training (variants.hidden): nothing is wrong with it."""


Metadata = dict[str, Any] | tuple[dict[str, Any] | None, ...]
"""What a processor must know of a variant's one video; of other media, of each in the prompt's order: None for an image."""


@dataclass(frozen=True)
class GenerateRequest:
    """M answers on one variant. The frames travel beside it as a reference into the object store."""

    question_id: str
    variant: int
    prompt: str
    video_metadata: Metadata
    answers: int
    seed: int
    greedy: bool = False
    evidence_metadata: dict[str, Any] | None = None
    """Of a second video, the evidence frames; None where there is none."""
    max_tokens: int | None = None
    """Longest answer; None: rollout.max_tokens."""
    shuffle_seed: int | None = None
    """Show the frames in an order drawn from this seed, with the times of the true one; None: in order."""


@dataclass(frozen=True)
class GenerateResult:
    """`prompt_digest` stands for the engine's prompt token ids; the learner's processor must give the same."""

    rollouts: tuple[Rollout, ...]
    prompt_digest: str


@dataclass(frozen=True)
class Prepared:
    """What a variant actor knows of a question's K variants; the frames [T, H, W, C] uint8 stay in the object store. Where the question shows anything else
    than one video, a variant's frames are a tuple: of each medium in the prompt's order [T, H, W, C] of a video, [H, W, C] of an image.

    `relevance` is None where no variant looks at it. `costs`: what the variants took, summed into the step's `variants/...` metrics.
    `truth_hidden`: no variant shows a frame of a truth span.
    """

    question: Question
    prompt: str
    specs: tuple[VariantSpec, ...]
    video_metadata: tuple[Metadata, ...]
    duration_s: float
    relevance: Relevance | None = None
    costs: dict[str, float] = field(default_factory=dict)
    truth_hidden: bool = False
    prompt_tokens: int = 0
    """About how many the prompt has, its video included."""
    reply_tokens: tuple[int, ...] = ()
    """Of the question's own reply, with its end."""


@dataclass(frozen=True)
class Repair:
    """One failed slot, answered again with a teacher's evidence. The evidence frames [E, H, W, 3] stay in the store.

    `first`, `first_score`: what failed. `rollout`, `score`: the second answer, sampled under the patched prompt. `evidence`: (time in
    seconds of the file, box or None) of each evidence frame. `correct`: how right the second answer is; `right`: FFR's z of it, yes or no; `blind`: share of
    right ones among the slot's M - 1 sisters, which is what a second try without evidence would have been worth. `alignment`: 0 for a wrong answer.
    `reward`: the slot's value by RIR. `chosen`: the slot keeps the second answer.
    """

    variant: int
    sample: int
    patch: EvidencePatch
    first: Rollout
    first_score: Score
    rollout: Rollout
    score: Score
    correct: float
    blind: float
    alignment: float
    reward: float
    chosen: bool
    prompt: str
    prompt_digest: str
    evidence: tuple[tuple[float, Box | None], ...] = ()
    evidence_metadata: dict[str, Any] | None = None
    evidence_frames: Any = None
    right: bool = False


@dataclass(frozen=True)
class Group:
    """The K x M slots of one question. `frames` [K] are references into the object store, never pixels.

    Rollouts, scores and rewards are those of the chosen answers; `repairs` holds the slots that were answered twice, chosen or not.
    """

    prepared: Prepared
    frames: tuple[Any, ...]
    rollouts_KM: tuple[tuple[Rollout, ...], ...]
    scores_KM: tuple[tuple[Score, ...], ...]
    rewards_KM: tuple[tuple[float, ...], ...]
    correct_KM: tuple[tuple[float, ...], ...]
    prompt_digests: tuple[str, ...]
    repairs: tuple[Repair, ...] = ()
    teacher: dict[str, float] = field(default_factory=dict)
    """Counts of what the teacher did for this group, by name: summed into the step's `teacher/...` metrics."""
    costs: dict[str, float] = field(default_factory=dict)
    """Calls, seconds and tokens of its rewards, by the names of the step's metrics, into which they are summed."""

    @property
    def question(self) -> Question:
        return self.prepared.question


@dataclass(frozen=True)
class TrainingPrompt:
    """One prompt with its video and all its answers: what one shared-prefix micro-batch is made of.

    tokens_MN, logprobs_MN: ragged, per answer; advantages_M: one per answer; `weight_M`: what each token of an answer
    counts in the loss, so that the sum over all ranks and micro-batches is the configured mean.
    """

    prompt: str
    prompt_digest: str
    prompt_tokens: int
    video_metadata: Metadata
    frames: Any
    tokens_MN: tuple[tuple[int, ...], ...]
    logprobs_MN: tuple[tuple[float, ...], ...]
    advantages_M: tuple[float, ...]
    weights_M: tuple[float, ...]
    evidence_frames: Any = None
    evidence_metadata: dict[str, Any] | None = None
    question_id: str = ""
    routes_M: tuple[Any, ...] = ()
    """`Rollout.routes` of each answer; empty: of none."""
    teacher: TrainingPrompt | None = None
    """Distillation: the same answers under the prompt in which they were right. What they teach is the difference, no advantage. `weights_M` then say what
    an answer counts, its tokens share it."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and of all answers."""
        return self.prompt_tokens + sum(len(tokens) for tokens in self.tokens_MN)


@dataclass(frozen=True)
class WeightsLayout:
    """Name, dtype and full shape of every tensor of a push, in its order."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Sent:
    """One push of weights, as learner rank 0 saw it: what the engines must echo (checksum 0 without sync.verify), bytes sent,
    and the longest that one of them stood still, in seconds."""

    version: int
    checksum: str
    bytes: int
    pause_s: float
