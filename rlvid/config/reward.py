"""Section of what an answer is worth."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rlvid.config.base import Section, Share, suggest

Weight = Annotated[float, Field(allow_inf_nan=False)]
REWARD_WEIGHTS: dict[str, dict[str, float]] = {
    "multiple_choice": {"accuracy": 1.0, "format": 1.0},
    "open": {"accuracy": 1.0, "format": 1.0},
    "numeric": {"accuracy": 1.0, "format": 1.0},
    "regression": {"accuracy": 1.0, "format": 1.0},
    "temporal_grounding": {"temporal_iou": 1.0, "format": 1.0},
    "grounded_qa": {"accuracy": 1.0, "temporal_iou": 1.0, "format": 1.0},
}
REWARD_PARTS = ("accuracy", "temporal_iou", "format", "length", "cited_times")


class Reward(Section):
    weights: dict[str, dict[str, Weight]] = REWARD_WEIGHTS
    """Reward per task: sum of weight x part over `accuracy`, `temporal_iou`, `format`, the optional `length` and `cited_times`, and the parts of `custom`.
    A task that is not named keeps its default."""
    custom: str | None = None
    """A reward of your own, `package.module:function`, looked for in the folder the command runs in, too. The function takes (question, text) and
    returns {part: number}; `weights` says what each part counts. It runs in the driver, once per answer."""
    numeric_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A numeric answer is right up to this relative error; 0: the same number."""
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
    """For tasks without an accuracy, an answer counts as right (zero-signal test) from this temporal IoU on."""
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
