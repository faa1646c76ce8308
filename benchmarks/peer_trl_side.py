"""The peer's side of peer_trl.py, run by an interpreter that has TRL and need not have rlvid: `PYTHON peer_trl_side.py job.json`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

job = json.loads(Path(sys.argv[1]).read_text())
os.environ |= {"OMP_NUM_THREADS": str(job["threads"]), "ACCELERATE_USE_CPU": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch  # noqa: E402
from datasets import Dataset, Features, List, Value  # noqa: E402
from datasets import Image as ImageFeature  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

MEASURED: dict[str, list[Any]] = {"steps": [], "prompt_tokens": [], "answer_tokens": []}


def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """Right answers, plus a little that differs, so that no group is unanimous and every step learns."""
    texts = [completion[0]["content"] if isinstance(completion, list) else completion for completion in completions]
    return [float(f"<answer>{right}</answer>" in text) + 0.01 * (len(text) % 7) for text, right in zip(texts, answer, strict=True)]


class Timed(GRPOTrainer):
    """The same trainer with a clock around what generates and scores."""

    generation_s = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = time.perf_counter()
        made = super()._generate_and_score_completions(inputs)
        self.generation_s += time.perf_counter() - began
        MEASURED["prompt_tokens"] += made["prompt_mask"].sum(-1).tolist()
        MEASURED["answer_tokens"] += made["completion_mask"].sum(-1).tolist()
        return made


class Clock(TrainerCallback):  # type: ignore[misc]
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began, trainer.generation_s = time.perf_counter(), 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        MEASURED["steps"].append({"step": time.perf_counter() - self.began, "generation": trainer.generation_s})


torch.set_num_threads(job["threads"])
features = Features({"prompt": List({"role": Value("string"), "content": Value("string")}), "images": List(ImageFeature()), "answer": Value("string")})
rows = [row | {"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"] or ""} for row in job["rows"]]
rollouts = job["questions"] * job["answers"]
arguments = GRPOConfig(
    output_dir=job["out"],
    use_cpu=True,
    bf16=False,
    max_steps=job["steps"],
    learning_rate=job["lr"],
    per_device_train_batch_size=job["rows_at_a_time"],
    gradient_accumulation_steps=rollouts // job["rows_at_a_time"],
    num_generations=job["answers"],
    max_completion_length=job["answer_tokens"],
    gradient_checkpointing=False,
    beta=0.0,
    report_to="none",
    save_strategy="no",
    logging_steps=1,
    dataloader_num_workers=0,
)
processor = AutoProcessor.from_pretrained(job["model"], padding_side="left")
model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=torch.float32)
trainer = Timed(model, reward, args=arguments, train_dataset=Dataset.from_list(rows, features=features), processing_class=processor, callbacks=[Clock()])
trainer.train()
Path(job["out"]).mkdir(parents=True, exist_ok=True)
(Path(job["out"]) / "measured.json").write_text(json.dumps(MEASURED))
