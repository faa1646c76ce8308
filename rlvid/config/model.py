"""Sections of the model and of what it is told."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlvid.config.base import PathOrId, Section


class Model(Section):
    path: PathOrId
    """Folder or hub id of a checkpoint of one of the families in rlvid/families/: Qwen2.5-VL, Qwen3-VL, Qwen3.5 (the last two with
    experts too), GLM-4.1V."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on GPU, float32 on CPU (where engines run Qwen3.5 in bfloat16 only)."""
    attention: Literal["sdpa", "flex_attention"] = "sdpa"
    """Of the learner's text model. Neither computes what one answer cannot see of another. Nor do they copy a prompt's keys for its answers.
    sdpa: flash attention, merged (on GPUs for bfloat16; float32 there is for tests). flex_attention (GPU only) is compiled at the first step."""
    read_mib_per_s: Annotated[float, Field(gt=0)] = 200
    """MiB a second that the checkpoint's storage gives to all its readers together, at the least: many engines read one file system. Deadlines for a start
    grow by what all engines and ranks of a run then need to read it, the teacher's by what the teachers need."""
    freeze_vision: bool = False
    """Train the language model only."""


class Prompt(Section):
    system: str = ""
    """System turn; empty: none (the template's own default stays)."""
    format: str = "Think inside <think> </think>, then answer inside <answer> </answer>."
    """Last line of the user's turn."""
    instructions: dict[str, str] | None = None
    """Line per task before the format line; null: rlvid's own."""

    @model_validator(mode="after")
    def _without_marks(self) -> Prompt:
        for text in (self.format, *(self.instructions or {}).values()):
            if re.search("<(video|image)>", text):
                raise ValueError(f"prompt: {text!r} holds a mark, which stands for one of a question's media: take it out")
        return self
