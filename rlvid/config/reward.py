"""Section of what an answer is worth."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rlvid.config.base import Count, FilePath, Positive, Seconds, Section, Share, check_endpoint, suggest

Weight = Annotated[float, Field(allow_inf_nan=False)]
REWARD_WEIGHTS: dict[str, dict[str, float]] = {
    "multiple_choice": {"accuracy": 1.0, "format": 1.0},
    "open": {"accuracy": 1.0, "format": 1.0},
    "numeric": {"accuracy": 1.0, "format": 1.0},
    "regression": {"accuracy": 1.0, "format": 1.0},
    "math": {"accuracy": 1.0, "format": 1.0},
    "temporal_grounding": {"temporal_iou": 1.0, "format": 1.0},
    "grounded_qa": {"accuracy": 1.0, "temporal_iou": 1.0, "format": 1.0},
    "spatial_grounding": {"iou": 1.0, "format": 1.0},
    "tracking": {"st_iou": 1.0, "format": 1.0},
    "spatio_temporal_grounding": {"temporal_iou": 0.5, "st_iou": 0.5, "format": 1.0},
}
REWARD_PARTS = ("accuracy", "temporal_iou", "iou", "st_iou", "format", "length", "cited_times", "ocr")


JUDGED = ("open", "grounded_qa")


class Judge(Section):
    """A model behind an OpenAI-compatible endpoint that says how right an answer is. It is asked where the rule finds an answer less than right, sees the
    question, the reference and the text inside the answer's tags, and its verdict (right 1, partly 0.5, wrong 0) takes the place of the accuracy, where it is
    higher: could it be lower, answers would be paid for making the judge fail. Where it fails, or says as much of another question's reference (it was
    talked to), the rule's accuracy stands; all of it is counted in `judge/...`."""

    model: str | None = None
    """The model's name at the endpoint; null: no judge."""
    base_url: str | None = None
    """Address of the endpoint, up to and with /v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, set where the actors run; null: no key is sent. The key itself never stands here."""
    tasks: tuple[str, ...] = ("open",)
    """Tasks whose answers it judges: open, and grounded_qa without options."""
    control: bool = True
    """Ask once more with another reference before a verdict above the rule's accuracy counts."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature of the judge."""
    max_tokens: Positive = 256
    """Longest reply, its thoughts included."""
    max_reply_bytes: Positive = 2**18
    """A response with a larger body is refused."""
    deadline_s: Seconds = 30
    """Longest wait for one verdict: its turn, its control and retries included; then the rule's accuracy stands."""
    request_timeout_s: Seconds = 20
    """Longest wait for one response before the next try."""
    retries: Count = 2
    """Further tries of a request on 429, 5xx, time-outs and lost connections, with growing pauses."""
    concurrency: Positive = 32
    """Requests that one reward actor has at the endpoint at a time."""
    frames: Count = 0
    """Pictures that the judge sees beside the texts: evenly spaced ones of what the student was shown, in its order. 0: texts alone, for a model that sees
    none."""
    max_image_bytes: Positive = 2**20
    """Bound on a request's pictures together, as JPEG files: fewer of them, then smaller ones are sent where they would have more."""
    cache_dir: FilePath | None = None
    """Folder of verdicts, kept across runs; on a disk of the node itself, one for all its reward actors. null: verdicts are remembered as long as the actor
    lives. A verdict of another model, endpoint or setting is another verdict."""
    cache_gib: Annotated[float, Field(gt=0)] = 1.0
    """Upper bound of that folder; what was not used for longest goes first."""
    price_in: Annotated[float, Field(ge=0)] | None = None
    """Money for a million tokens that the judge reads; with `price_out`, judge/cost counts the money in that currency. null: tokens alone are counted."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """Money for a million tokens that it writes."""

    @model_validator(mode="after")
    def _reachable(self) -> Judge:
        if self.model and not self.base_url:
            raise ValueError("reward.judge.model needs reward.judge.base_url: the endpoint's address, such as http://judge-host:8000/v1")
        check_endpoint("reward.judge", self.base_url, self.api_key_env)
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("reward.judge.price_in and reward.judge.price_out go together: set both, or neither")
        for task in self.tasks:
            if task not in JUDGED:
                raise ValueError(f"reward.judge.tasks: answers of task {task!r} are not judged by a model{suggest(task, JUDGED)}")
        return self


class Reward(Section):
    weights: dict[str, dict[str, Weight]] = REWARD_WEIGHTS
    """Reward per task: sum of weight x part over `accuracy`, `temporal_iou`, `iou` (of a box), `st_iou` (of a track: vIoU), `format`, the optional
    `length`, `cited_times` and `ocr` (1 - word error rate of the answer, for texts that are to be read), and the parts of `custom`.
    A task that is not named keeps its default."""
    custom: str | None = None
    """A reward of your own, `package.module:function`, looked for in the folder the command runs in, too. The function takes (question, text) and
    returns {part: number}; `weights` says what each part counts. It may be `async`. It runs in the reward actors, once per answer, beside the sampling of
    others."""
    judge: Judge = Judge()
    """A model that judges open answers."""
    actors: Positive = 1
    """Reward actors, where there is a `custom` reward, a judge, or a question of task `math` in `data.train` or `data.eval`; other rules need none."""
    num_cpus: Annotated[float, Field(ge=0)] = 0.1
    """CPUs that Ray reserves for each."""
    concurrency: Positive = 64
    """Calls of `custom` that one reward actor has running at a time: coroutines, or threads where it is not `async`."""
    deadline_s: Seconds = 120
    """Longest run of `custom` on one answer. One that takes longer ends the run, as one that fails does."""
    numeric_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A numeric answer, or a formula that is a number, is right up to this relative error; 0: the same number."""
    math_deadline_s: Seconds = 2
    """Longest comparison of one `math` answer with the true formula, in seconds of the processor, in a process beside the reward actor; one that takes more is
    worth 0 and says why."""
    regression: Literal["mean_relative_accuracy", "relative_error"] = "mean_relative_accuracy"
    """Accuracy of a regression answer: VSI-Bench's mean relative accuracy, or 1 - relative error (0 from an error of 100 % on)."""
    length_margin: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The `length` part is 0 for answers up to (1 - length_margin) x rollout.max_tokens and falls to -1 at rollout.max_tokens. It counts where
    `weights` names it."""
    temporal_bonus: Annotated[float, Field(ge=0)] = 0.0
    """T-GRPO: half as many answers again are sampled on shuffled frames, as a control; where they are not right more often, right answers earn this much more
    (Video-R1: 0.3). 0: off."""
    cited_sigma_s: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (4.0, 1.0)
    """The `cited_times` part: how many seconds off a time of the rationale may be, at the first and at the last step (the sigma of a bell curve). It counts
    where `weights` names it, and is 0 for questions without evidence or spans."""
    iou_threshold: Share = 0.5
    """For tasks without an accuracy, an answer counts as right (zero-signal test) from this IoU on: of its times, its box, or its track."""
    noise: bool = False
    """Control experiment: the rewards of a step are dealt out anew among its slots at random, so that nothing can be learned from them."""

    @field_validator("weights")
    @classmethod
    def _every_task(cls, weights: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for task in weights:
            if task not in REWARD_WEIGHTS:
                raise ValueError(f"reward.weights names an unknown task {task!r}{suggest(task, REWARD_WEIGHTS)}")
        return REWARD_WEIGHTS | weights

    @model_validator(mode="after")
    def _known(self) -> Reward:
        if self.custom is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.custom):
            raise ValueError(f"reward.custom is {self.custom!r}: write package.module:function")
        for task, parts in self.weights.items():
            for part in parts:
                if part not in REWARD_PARTS and self.custom is None:
                    known = f"{', '.join(REWARD_PARTS[:-1])} or {REWARD_PARTS[-1]}"
                    raise ValueError(f"reward.weights.{task} names an unknown part {part!r}: {known}; parts of your own need reward.custom")
        return self
