"""Sections of the questions: where they are, which are asked, and `rlvid select`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rlvid.config.base import ConfigError, Count, FilePath, Positive, Section, Share, written_out
from rlvid.config.video import VariantKind


class Data(Section):
    train: FilePath
    """Question file (JSON lines)."""
    eval: FilePath | None = None
    """Held-out question file."""
    skip: tuple[str, ...] | Path = ()
    """Questions of `train` that are left out: a list of ids, or a file with one id a line. A resumed run may name others: the order of the rest stays."""
    eval_limit: Count = 0
    """Evaluate on the first N questions only; 0: all."""
    eval_in_flight: Positive = 64
    """Held-out questions on their way at a time, for each rollout engine."""
    questions_per_step: Positive = 8
    """Q: questions (groups) in one update."""
    max_bad_in_a_row: Positive = 32
    """So many unusable videos one after another stop the run with advice."""
    filter: Literal["off", "variance"] = "off"
    """variance: a question whose last `filter_after` groups in this run all fail the rules of `select` (nothing to learn from) rests for `filter_epochs`."""
    filter_after: Positive = 2
    """Groups without a signal, one after another, after which a question rests."""
    filter_epochs: Positive = 2
    """Epochs that a resting question is left out; then it gets one more chance."""

    @field_validator("skip", mode="before")
    @classmethod
    def _ids_are_words(cls, value: Any) -> Any:
        if isinstance(value, str):
            return Path(written_out(value))
        return tuple(str(id) if isinstance(id, int) else id for id in value) if isinstance(value, list) else value

    @property
    def skipped(self) -> frozenset[str]:
        """The ids that `skip` names. Raises ConfigError where its file cannot be read."""
        if not isinstance(self.skip, Path):
            return frozenset(self.skip)
        try:
            return frozenset(line.strip() for line in self.skip.read_text().splitlines() if line.strip())
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "is not text"
            raise ConfigError(f"data.skip: {self.skip}: {what} (name a file with one id a line, or a list of ids: data.skip=[ID])") from None

    @field_validator("filter", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class Select(Section):
    repeats: Annotated[int, Field(ge=2)] = 8
    """Answers sampled on each view of a question."""
    kinds: Annotated[tuple[VariantKind, ...], Field(min_length=1)] = ("uniform",)
    """Views of each video; the answers on all of them are judged together."""
    iou_std: Share = 0.1
    """Grounding questions stay from this standard deviation of the temporal IoU on."""
    iou_max: Share = 0.5
    """Grounding questions stay where at least one answer reaches this temporal IoU."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keep at most this share of each source's questions: of those that pass the rules, the ones whose answers differ most."""
    in_flight: Positive = 32
    """Questions worked on at a time."""
