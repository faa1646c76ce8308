"""Sections of the run as a whole: its folder and steps, what it shows, where it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlvid.config.base import Count, FilePath, PathOrId, Positive, Seconds, Section


class Run(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run and of its folder. Starting again with the same name resumes from the last whole checkpoint."""
    dir: FilePath = Path("runs")
    """Folder that holds the run folders."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Every random choice is derived from it, the step, the question, the variant and the sample. Below 2^32: engines take no larger ones."""
    steps: Positive = 1000
    """Optimizer steps (GRPO updates) in all."""
    save_every: Count = 50
    """Steps between checkpoints; 0: only at the end."""
    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints stay on disk (and in `storage`)."""
    storage: PathOrId | None = None
    """URL of a folder that every checkpoint is copied to, and fetched from where `dir` has none or a damaged one: s3://bucket/runs, gs://..., file:///...
    Any scheme that an installed fsspec package knows. Credentials come from the environment."""
    eval_every: Count = 0
    """Steps between evaluations on `data.eval`; 0: only before the first step and after the last."""
    dump_rollouts: bool = True
    """Write every slot to rollouts/step_NNNNNN.jsonl."""

    @model_validator(mode="after")
    def _places(self) -> Run:
        if re.match(r"[A-Za-z0-9+.-]+:/", str(self.dir)):
            raise ValueError(f"run.dir ({self.dir}) must be a folder: engines and ranks write there; put the address into run.storage")
        if self.storage is not None and not re.match(r"[A-Za-z0-9+.-]+://", self.storage):
            raise ValueError(f"run.storage ({self.storage}) must be an address such as s3://bucket/runs or file:///mnt/runs")
        if self.storage is not None and "@" in self.storage.split("://")[1].split("/")[0]:
            raise ValueError("run.storage holds a user or password, which would be written with every run: give credentials in the environment")
        return self


class Tracker(Section):
    kind: Literal["wandb", "tensorboard", "none"] = "wandb"
    """Where metrics go besides metrics.jsonl."""
    project: str = "rlvid"
    """wandb project. Without WANDB_API_KEY the run is logged offline into the run folder; `wandb sync` sends it later."""
    rollouts_every: Count = 25
    """Steps between tables of rollouts with their filmstrips; 0: none."""
    rollouts_questions: Positive = 2
    """Questions in such a table."""


class ReportConfig(Section):
    enabled: bool = True
    """Write report.html at every checkpoint and at the end of training. It is made by a process of its own; training does not wait for it."""
    questions: Count = 24
    """Questions shown with their pictures, spread over tasks and steps."""
    slots: Positive = 10_000
    """Answers that can be looked up, from evenly spaced steps."""
    thumbnail_px: Annotated[int, Field(ge=64, le=1024)] = 160
    """Longer side of a picture; smaller ones are made where `max_bytes` asks for it."""
    max_text: Positive = 120_000
    """Characters kept of one text; what is left out is counted."""
    max_bytes: Annotated[int, Field(ge=2**19)] = 20 * 2**20
    """Upper bound of report.html. Pictures get smaller first, then answers are left out."""
    deadline_s: Seconds = 120
    """Longest time for all pictures of a report, and longest wait for it at the end of training."""


class Cluster(Section):
    address: str | None = None
    """Ray address; null: the cluster of RAY_ADDRESS if set, else a Ray of this run's own on this machine."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK"] = "PACK"
    """Placement-group strategy."""
    object_store_gib: Annotated[float, Field(gt=0)] = 1.0
    """Object store of a Ray that this run starts itself."""
