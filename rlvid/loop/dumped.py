"""Groups as they were, from what a step left on disk: pixels cut again from their specs, everything else read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.config import ConfigError
from rlvid.teacher.evidence import evidence_pixels
from rlvid.teacher.patch import parse
from rlvid.teacher.student import UNTOLD, evidence_metadata, told
from rlvid.types import Group, Medium, Prepared, Question, Repair, Rollout, Score, VariantSpec
from rlvid.variants.build import metadata_of, rebuild_shown
from rlvid.video.pictures import is_missing

Row = dict[str, Any]
SlotsKM = list[list[Row]]


class DumpedStep:
    """One dumped step: `questions` rows and the [K][M] slot rows of each. Raises ConfigError where files or videos are missing."""

    def __init__(self, folder: Path, step: int) -> None:
        self.questions = read_rows(folder / "rollouts" / f"step_{step:06d}.groups.jsonl", step)
        slots: dict[str, dict[int, list[Row]]] = {}
        for slot in read_rows(folder / "rollouts" / f"step_{step:06d}.jsonl", step):
            slots.setdefault(slot["question_id"], {}).setdefault(slot["variant"], []).append(slot)
        self.slots: list[SlotsKM] = [[slots[row["question_id"]][variant] for variant in sorted(slots[row["question_id"]])] for row in self.questions]
        for row in self.questions:
            for medium in shown_by(row):
                if is_missing(medium.path):
                    raise ConfigError(f"--step: {medium.path} is not there any more: step {step} cannot be made again without its pixels")

    def numbers(self, name: str) -> list[NDArray[Any]]:
        """[K, M] of a slot's number, per question."""
        return [np.array([[slot[name] for slot in row] for row in slots_KM], dtype=np.float64) for slots_KM in self.slots]

    def groups(self, keep: Callable[[Any], Any] = lambda frames: frames) -> list[Group]:
        """The groups; `keep` takes each variant's frames [T, H, W, 3] and gives what stands for them in the group."""
        return [_group(question, slots_KM, keep) for question, slots_KM in zip(self.questions, self.slots, strict=True)]


def read_rows(path: Path, step: int) -> list[Row]:
    if not path.is_file():
        raise ConfigError(f"--step: {path} is not there: step {step} and all since the checkpoint before it must be dumped (run.dump_rollouts)")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def shown_by(row: Row) -> tuple[Medium, ...]:
    """The media of a question row, in the prompt's order."""
    if "media" in row:
        return tuple(Medium(kind, path) for one in row["media"] for kind, path in one.items())
    return (Medium("video", row["video"]),)


def _group(row: Row, slots_KM: SlotsKM, keep: Callable[[Any], Any]) -> Group:
    specs = tuple(VariantSpec.from_json(slots[0]["spec"]) for slots in slots_KM)
    clip = tuple(row["clip"]) if row.get("clip") else None
    told = {"id": row["question_id"], "video": row["video"], "question": row["question"], "task": row["task"], "clip": clip, "source": row.get("source", "")}
    question = Question(**told, media=shown_by(row) if "media" in row else ())
    return Group(
        prepared=Prepared(question, row["prompt"], specs, tuple(metadata_of(question, spec) for spec in specs), row["duration_s"]),
        frames=tuple(keep(rebuild_shown(question, spec)) for spec in specs),
        rollouts_KM=tuple(tuple(_rollout(slot) for slot in slots) for slots in slots_KM),
        scores_KM=tuple(tuple(Score(slot["parts"], slot["reason"], slot.get("judge", "")) for slot in slots) for slots in slots_KM),
        rewards_KM=tuple(tuple(slot["reward"] for slot in slots) for slots in slots_KM),
        correct_KM=tuple(tuple(slot.get("correct", slot["parts"].get("accuracy", 0.0)) for slot in slots) for slots in slots_KM),
        prompt_digests=tuple(row["prompt_digests"]),
        repairs=tuple(_repair(row, question.starts_s, specs, slot, keep) for slots in slots_KM for slot in slots if slot.get("repaired")),
    )


def _rollout(slot: Row, text: str | None = None) -> Rollout:
    return Rollout(
        question_id=slot["question_id"],
        variant=slot["variant"],
        sample=slot["sample"],
        prompt_tokens=slot["prompt_tokens"],
        tokens=tuple(slot["tokens"]),
        logprobs=tuple(float("nan") if logprob is None else logprob for logprob in slot["logprobs"]),
        text=slot["text"] if text is None else text,
        policy_version=slot["policy_version"],
        seed=slot["seed"],
        versions=tuple((start, version) for start, version in slot.get("versions", ())),
        finish_reason=slot.get("finish_reason", "stop"),
    )


def _repair(row: Row, starts_s: float, specs: tuple[VariantSpec, ...], slot: Row, keep: Callable[[Any], Any]) -> Repair:
    """A chosen repair. Of the failed answer only the text is known."""
    evidence = tuple((frame["time_s"], tuple(frame["box"]) if frame["box"] else None) for frame in slot["evidence_frames"])
    frames = evidence_pixels(row["video"], evidence, specs[0].size)
    shown = told(evidence, starts_s, times=UNTOLD not in slot["prompt"])
    score = Score(slot["parts"], slot["reason"])
    return Repair(
        variant=slot["variant"],
        sample=slot["sample"],
        patch=parse(slot["patch"], duration_s=row["duration_s"]).moved(-starts_s),
        first=_rollout(slot, slot["first_text"]),
        first_score=Score(slot["first_parts"]),
        rollout=_rollout(slot),
        score=score,
        correct=score.parts.get("accuracy", 0.0),
        blind=slot["blind"],
        alignment=slot["alignment"],
        reward=slot["reward"],
        chosen=True,
        prompt=slot["prompt"],
        prompt_digest=slot["prompt_digest"],
        evidence=evidence,
        evidence_metadata=evidence_metadata(shown, specs[slot["variant"]].size) if evidence else None,
        evidence_frames=keep(frames) if frames is not None else None,
    )
