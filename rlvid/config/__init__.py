"""The typed configuration tree. `load(path, overrides)` returns a frozen `Config` or raises `ConfigError`.

Every field's docstring is its manual; a section's file has its name. A key that is not there, a value out of range and two values
that cannot go together are refused when the tree is built, with the file, the key and the cure in one line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails

from rlvid.config.base import ConfigError, Section, suggest
from rlvid.config.data import Data, Select
from rlvid.config.files import apply, read_extended
from rlvid.config.learner import Advantage, Distill, Learner, Loss, Sync
from rlvid.config.model import Model, Prompt
from rlvid.config.reward import REWARD_PARTS, Reward
from rlvid.config.rollout import RolloutConfig
from rlvid.config.run import Cluster, ReportConfig, Run, Tracker
from rlvid.config.teacher import Repair, Teacher
from rlvid.config.video import Image, RelevanceConfig, VariantKind, Variants, Video, needs_relevance

__all__ = ["REWARD_PARTS", "Config", "ConfigError", "ReportConfig", "Teacher", "VariantKind", "is_hub_id", "load", "needs_relevance"]


class Config(Section):
    run: Run
    model: Model
    data: Data
    prompt: Prompt = Prompt()
    video: Video = Video()
    image: Image = Image()
    variants: Variants = Variants()
    relevance: RelevanceConfig = RelevanceConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: Reward = Reward()
    teacher: Teacher = Teacher()
    repair: Repair = Repair()
    advantage: Advantage = Advantage()
    loss: Loss = Loss()
    distill: Distill = Distill()
    learner: Learner = Learner()
    sync: Sync = Sync()
    select: Select = Select()
    tracker: Tracker = Tracker()
    report: ReportConfig = ReportConfig()
    cluster: Cluster = Cluster()
    placement: Literal["split", "colocated"] = "split"
    """split: engines and ranks have GPUs of their own and take turns. colocated: each GPU holds an engine and a rank. While one works the other's memory is
    given back (the engine sleeps, the rank's optimizer state goes to the host); the rank's weights stay. Set rollout.num_gpus and learner.num_gpus to
    fractions that add up to 1, and rollout.gpu_memory_utilization to what the weights of both leave."""

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        if self.placement == "colocated":
            self._check_colocated()
        elif self.rollout.num_gpus not in (0, self.rollout.tensor_parallel):
            raise ValueError(
                f"rollout.num_gpus ({self.rollout.num_gpus:g}) must equal rollout.tensor_parallel ({self.rollout.tensor_parallel}), or be 0 without GPUs"
            )
        if self.sync.transport == "ipc" and not (self.placement == "colocated" and self.learner.num_gpus):
            raise ValueError("sync.transport ipc hands weights over inside one GPU: set placement colocated with GPUs, or use auto")
        if (self.learner.num_gpus > 0) != (self.rollout.num_gpus > 0):
            raise ValueError("learner.num_gpus and rollout.num_gpus must both be 0 or both be above 0: engines and learner run on the same kind of device")
        if self.sync.transport == "nccl" and not self.learner.num_gpus:
            raise ValueError("sync.transport nccl needs GPUs: set learner.num_gpus and rollout.num_gpus, or use auto")
        if self.sync.sparse and (self.transport != "gloo" or self.learner.lora.rank):
            why = "an adapter is sent whole: set sync.sparse to false" if self.learner.lora.rank else "set sync.transport to gloo, or sync.sparse to false"
            raise ValueError(f"sync.sparse patches whole weights over gloo: {why}")
        if self.learner.num_gpus and self.repair.enabled and self.teacher.kind == "engine" and not self.teacher.num_gpus:
            raise ValueError("teacher.kind engine with teacher.num_gpus 0 would take a GPU that is not its own: set teacher.num_gpus")
        if self.model.attention == "flex_attention" and not self.learner.num_gpus:
            raise ValueError("model.attention flex_attention needs GPUs for its backward pass: set learner.num_gpus and rollout.num_gpus, or use sdpa")
        if self.learner.ranks % (parts := self.learner.sequence_parallel):
            raise ValueError(
                f"learner.sequence_parallel ({parts}) must divide learner.ranks ({self.learner.ranks}): so many ranks share every micro-batch; set ranks to a "
                "multiple of it"
            )
        if parts > 1 and self.model.attention == "flex_attention":
            raise ValueError(f"learner.sequence_parallel ({parts}) divides rows for model.attention sdpa only: set it in place of flex_attention")
        if self.advantage.estimator == "gdpo" and self.reward.noise:
            raise ValueError("advantage.estimator gdpo normalizes the parts of a reward, which reward.noise deals out as a whole: use another estimator")
        if self.advantage.group == "per_variant" and self.rollout.answers == 1:
            raise ValueError("advantage.group per_variant with rollout.answers 1 gives no signal: raise answers or use joint")
        if self.variants_per_question * self.rollout.answers == 1:
            raise ValueError("one variant and one answer give no signal: raise rollout.answers or name more variants.kinds")
        if self.learner.lora.vision and (self.model.freeze_vision or not self.learner.lora.rank):
            raise ValueError("learner.lora.vision needs learner.lora.rank above 0 and model.freeze_vision false: the adapter would not reach the vision tower")
        if self.repair.enabled and self.teacher.kind == "none":
            raise ValueError("repair.enabled needs a teacher: set teacher.kind to annotation, chat or engine, or repair.enabled to false")
        if (self.repair.max_tokens or 0) > self.rollout.max_tokens:
            raise ValueError(f"repair.max_tokens ({self.repair.max_tokens}) is above rollout.max_tokens ({self.rollout.max_tokens}): lower it")
        self._check_distill()
        told = " ".join([self.prompt.system, self.prompt.format, *(self.prompt.instructions or {}).values()])
        if self.prompt.format and "<answer>" not in told and self.reward.custom is None:
            raise ValueError(
                f"prompt.format ({self.prompt.format!r}) does not ask for <answer> </answer>, inside which replies are read: all would be worth 0; name the "
                "tags in it, leave it empty for a model that writes them unasked, or read replies yourself with reward.custom"
            )
        if self.video.max_tokens + self.rollout.max_tokens > self.rollout.max_model_len:
            raise ValueError(
                f"video.max_tokens ({self.video.max_tokens}) and rollout.max_tokens ({self.rollout.max_tokens}) do not fit "
                f"rollout.max_model_len ({self.rollout.max_model_len}): raise it or lower them"
            )
        return self

    def _check_distill(self) -> None:
        sources = self.distill.sources
        if sources and "uniform" not in self.variants.kinds:
            raise ValueError("distill.from teaches the uniform view: name uniform among variants.kinds")
        if "variants" in sources and self.variants_per_question == 1:
            raise ValueError("distill.from variants needs another view than uniform: name more variants.kinds, or leave it out")
        if "repair" in sources and not self.repair.enabled:
            raise ValueError("distill.from repair needs second answers: set repair.enabled to true, or leave it out")
        if not self.loss.policy_coef and not (sources or self.loss.entropy_coef or self.loss.kl_coef):
            raise ValueError("loss.policy_coef 0 leaves nothing to learn: set distill.from, or policy_coef above 0")

    def _check_colocated(self) -> None:
        rollout, learner = self.rollout, self.learner
        if rollout.engines != learner.ranks or rollout.tensor_parallel != 1:
            raise ValueError(
                f"placement colocated puts one engine and one rank on each GPU: set rollout.engines ({rollout.engines}) and learner.ranks ({learner.ranks}) "
                f"to the same number and rollout.tensor_parallel ({rollout.tensor_parallel}) to 1"
            )
        if rollout.max_staleness or rollout.max_engines:
            raise ValueError("placement colocated takes turns: set rollout.max_staleness and rollout.max_engines to 0, or placement to split")
        if learner.num_gpus and abs(rollout.num_gpus + learner.num_gpus - 1) > 1e-6:
            raise ValueError(
                f"placement colocated shares a GPU: rollout.num_gpus ({rollout.num_gpus:g}) and learner.num_gpus ({learner.num_gpus:g}) must add up to 1, "
                f"such as 0.5 and 0.5"
            )
        if self.sync.transport == "nccl":
            raise ValueError("sync.transport nccl refuses two processes on one GPU, as placement colocated has them: use auto")

    @property
    def colocated(self) -> bool:
        return self.placement == "colocated"

    @property
    def variants_per_question(self) -> int:
        """K."""
        return len(self.variants.kinds)

    @property
    def looks_at_relevance(self) -> bool:
        """Does a variant need the relevance scorer?"""
        return needs_relevance(self.variants.kinds)

    @property
    def relevance_folder(self) -> Path | None:
        """Where the image-text model lies, if a variant needs one and it is not on the hub."""
        model = str(self.relevance.model)
        return Path(model) if self.looks_at_relevance and self.relevance.scorer == "clip" and not is_hub_id(model) else None

    @property
    def on_gpu(self) -> bool:
        return self.learner.num_gpus > 0

    @property
    def readers(self) -> int:
        """How many may read the model's checkpoint at once when a run starts."""
        return max(self.rollout.engines, self.rollout.max_engines) + self.learner.ranks

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.dir / self.run.name

    @property
    def storage(self) -> str | None:
        """URL of the run's checkpoints beyond this machine."""
        return f"{self.run.storage.rstrip('/')}/{self.run.name}/checkpoints" if self.run.storage else None

    @property
    def dtype(self) -> str:
        if self.model.dtype == "auto":
            return "bfloat16" if self.on_gpu else "float32"
        return self.model.dtype

    @property
    def sums_in_float32(self) -> bool:
        """Are gradients summed and reduced in another type than they come in?"""
        return self.dtype == "bfloat16" and self.learner.accumulate == "float32"

    @property
    def transport(self) -> str:
        if self.sync.transport == "auto":
            return ("ipc" if self.colocated else "nccl") if self.on_gpu else "gloo"
        return self.sync.transport

    def dump(self) -> str:
        """The resolved tree as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, check everything.

    Raises ConfigError with one line that names the file and the key.
    """
    path = Path(path)
    tree = read_extended(path)
    for override in overrides:
        apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error.errors()[0])}") from None


def is_hub_id(path: str) -> bool:
    """OWNER/NAME, unless OWNER is a folder here: then it is a path, mistyped perhaps, and must not send anybody to the network."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path)) and not Path(path).parent.exists()


def _explain(error: ErrorDetails) -> str:
    """One pydantic error as one line: key, what is wrong, the nearest known key."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        section: Any = Config
        for part in error["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key {key}{suggest(str(error['loc'][-1]), [field.alias or name for name, field in section.model_fields.items()])}"
    if error["type"] == "missing":
        return f"missing key {key}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "path":
        return f"{key}: {message}"
    return message if error["type"] == "value_error" else f"{key}: {message}, not {error['input']!r}"
