"""What a step leaves on disk: one JSON line per slot (what was shown, said, earned and counted) and one per question."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rlvid.teacher.patch import to_json
from rlvid.types import Group, Repair

_LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
"""JSON lets them stand; str.splitlines ends a line at them."""


def write_step(folder: Path, step: int, groups: Sequence[Group], rewards: Sequence[NDArray[Any]], advantages: Sequence[NDArray[Any]]) -> None:
    """Write rollouts/step_NNNNNN.jsonl and step_NNNNNN.groups.jsonl, each whole or not at all. `rewards` and `advantages`: [K, M] per group."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"step_{step:06d}.groups.jsonl", (group_row(group) for group in groups))
    slots = (row for group, *numbers in zip(groups, rewards, advantages, strict=True) for row in slot_rows(group, *numbers))
    _write(folder / f"step_{step:06d}.jsonl", slots)


def drop_after(folder: Path, step: int) -> None:
    """Remove what later steps left."""
    for dump in folder.glob("step_*.jsonl"):
        if int(dump.name.split(".")[0].removeprefix("step_")) > step:
            dump.unlink()


def _write(final: Path, rows: Iterable[dict[str, Any]]) -> None:
    aside = final.parent / f".{final.name}.writing"
    with aside.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS) + "\n" for row in rows)
    aside.rename(final)


def group_row(group: Group) -> dict[str, Any]:
    """What all slots of a question share. `prompt` and `prompt_digests` [K] are what `rlvid replay` builds the learner's input from."""
    question, relevance = group.question, group.prepared.relevance
    return {
        "question_id": question.id,
        "question": question.question,
        "task": question.task,
        "source": question.source,
        "options": list(question.options),
        "answer": question.answer,
        "answers": list(question.references),
        "span_mode": question.span_mode,
        "spans": [list(span) for span in question.spans],
        "evidence": {
            "spans": [list(span) for span in question.evidence.spans],
            "regions": [{"time_s": region.time_s, "box": list(region.box)} for region in question.evidence.regions],
        },
        **({"box": list(question.box)} if question.box else {}),
        **({"track": [{"time_s": region.time_s, "box": list(region.box)} for region in question.track]} if question.track else {}),
        "video": question.video,
        **({"media": [{medium.kind: medium.path} for medium in question.shown]} if group.prepared.specs[0].media is not None else {}),
        "clip": list(question.clip) if question.clip else None,
        "duration_s": group.prepared.duration_s,
        "relevance": {"times_s": list(relevance.times_s), "scores": list(relevance.scores)} if relevance else None,
        "prompt": group.prepared.prompt,
        "prompt_digests": list(group.prompt_digests),
    }


def slot_rows(group: Group, rewards_KM: NDArray[Any], advantages_KM: NDArray[Any]) -> list[dict[str, Any]]:
    """The K x M rows of one question, variant by variant."""
    tried = {(repair.variant, repair.sample): repair for repair in group.repairs}
    rows = []
    for variant, spec in enumerate(group.prepared.specs):
        for sample, (rollout, score) in enumerate(zip(group.rollouts_KM[variant], group.scores_KM[variant], strict=True)):
            row = {
                "question_id": rollout.question_id,
                "variant": variant,
                "sample": rollout.sample,
                "spec": spec.to_json(),
                "prompt_tokens": rollout.prompt_tokens,
                "answer_tokens": len(rollout.tokens),
                "finish_reason": rollout.finish_reason,
                "text": rollout.text,
                "parts": score.parts,
                "reason": score.reason,
                **({"judge": score.said} if score.said else {}),
                "correct": group.correct_KM[variant][sample],
                "reward": float(rewards_KM[variant, sample]),
                "advantage": float(advantages_KM[variant, sample]),
                "policy_version": rollout.policy_version,
                "versions": [list(stretch) for stretch in rollout.versions],
                "seed": rollout.seed,
                "repaired": False,
                "tokens": list(rollout.tokens),
                "logprobs": [None if math.isnan(logprob) else logprob for logprob in rollout.logprobs],
            }
            repair = tried.get((variant, sample))
            rows.append(row | (_repair_row(repair, group.question.starts_s) if repair else {}))
    return rows


def _repair_row(repair: Repair, starts_s: float) -> dict[str, Any]:
    """What a slot has more that was answered twice: what failed, the evidence and the patched prompt; or the second answer where the first one stays.

    Places of the evidence are in seconds of the file. Texts, the hint's too, are as the model wrote and read them:
    they count from the clip's start, `starts_s`.
    """
    seen = {"patch": to_json(repair.patch.moved(starts_s)), "alignment": repair.alignment, "blind": repair.blind}
    if not repair.chosen:
        return {"second_try": {"text": repair.rollout.text, "parts": repair.score.parts, "reward": repair.reward, **seen}}
    return {
        "repaired": True,
        "first_text": repair.first.text,
        "first_parts": repair.first_score.parts,
        **seen,
        "evidence_frames": [{"time_s": time_s, "box": list(box) if box else None} for time_s, box in repair.evidence],
        "prompt": repair.prompt,
        "prompt_digest": repair.prompt_digest,
    }
