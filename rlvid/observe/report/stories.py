"""What a report tells of the dumped slots: one story per question and step, and which of them are worth their pixels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvid.reading.boxes import written
from rlvid.types import Question

log = logging.getLogger("rlvid")

KIND_NOTES = {
    "uniform": "frames at even distances: what a test would show",
    "importance": "frames that have most to do with the question",
    "importance_jitter": "frames that matter, each moved a little",
    "importance_crop": "frames that matter, cropped to the parts that matter",
    "crop": "even frames, cropped to the parts that matter",
    "multi_scale": "the crop of its neighbour, at another resolution",
    "random_jitter": "even frames, each moved by chance",
    "random_crop": "even frames, cropped by chance",
}
"""One line per variant kind, for readers who know nothing of rlvid."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Story:
    """One question at one step: its row of `step_NNNNNN.groups.jsonl` and its K x M slot rows."""

    step: int
    question: Row
    slots: tuple[Row, ...]
    right: tuple[bool, ...]

    @property
    def key(self) -> str:
        return f"{self.step}/{self.question['question_id']}"

    @property
    def outcome(self) -> str:
        """all right, mixed or all wrong."""
        return "all right" if all(self.right) else "mixed" if any(self.right) else "all wrong"

    @property
    def repaired(self) -> int:
        return sum(bool(slot.get("repaired")) for slot in self.slots)

    @property
    def interest(self) -> int:
        """How much there is to learn from looking: repairs, then disagreement between variants, then within one."""
        by_variant: dict[int, set[bool]] = {}
        for slot, right in zip(self.slots, self.right, strict=True):
            by_variant.setdefault(slot["variant"], set()).add(right)
        views_differ = {True} in by_variant.values() and {False} in by_variant.values()
        return 4 * bool(self.repaired) + 2 * (self.outcome == "mixed") + views_differ

    @property
    def times_s(self) -> tuple[float, ...]:
        """Every moment that is shown: frames of all variants and of all patches, ascending, each once."""
        times = {float(time_s) for slot in self.slots for time_s in slot["spec"]["times_s"]}
        for slot in self.slots:
            patch = slot.get("patch") or {}
            times |= {float(time_s) for time_s in patch.get("frames_s") or ()}
            times |= {float(region["time_s"]) for region in patch.get("regions") or ()}
            times |= {float(frame["time_s"]) for frame in slot.get("evidence_frames") or ()}
        return tuple(sorted(times))


def dumped_steps(folder: Path) -> dict[int, Path]:
    """Slot file of every dumped step, ascending."""
    files = (path for path in (folder / "rollouts").glob("step_*.jsonl") if not path.name.endswith(".groups.jsonl"))
    return {int(path.stem.removeprefix("step_")): path for path in sorted(files)}


def read_stories(folder: Path, steps: Iterable[int], known: Mapping[str, Question], iou_threshold: float) -> Iterator[Story]:
    """The stories of these steps. `known`: questions by id, for runs whose dumps hold no question rows."""
    files = dumped_steps(folder)
    for step in steps:
        questions = {row["question_id"]: row for row in _rows(files[step].with_suffix(".groups.jsonl"), "question_id")}
        slots: dict[str, list[Row]] = {}
        for slot in _rows(files[step], "question_id", "variant", "sample", "spec", "parts"):
            slots.setdefault(slot["question_id"], []).append(slot)
        for name, rows in slots.items():
            question = questions.get(name) or question_row(name, known.get(name))
            yield Story(step, question, tuple(rows), tuple(is_right(row["parts"], iou_threshold) for row in rows))


def is_right(parts: Mapping[str, float], iou_threshold: float) -> bool:
    """Accuracy from one half on; where there is none, the IoU of the track, the box or the time from its threshold on."""
    if "accuracy" in parts:
        return parts["accuracy"] >= 0.5
    return next((parts[part] for part in ("st_iou", "iou", "temporal_iou") if part in parts), 0.0) >= iou_threshold


def question_row(name: str, question: Question | None) -> Row:
    """A question row as the dumps have it, from the question file; only the id where the file does not know it."""
    row: Row = {"question_id": name, "question": "", "task": "", "options": [], "answer": None, "spans": [], "evidence": {"spans": [], "regions": []}}
    row |= {"video": "", "duration_s": None, "relevance": None}
    if question is None:
        return row
    evidence = {
        "spans": [list(span) for span in question.evidence.spans],
        "regions": [{"time_s": region.time_s, "box": list(region.box)} for region in question.evidence.regions],
    }
    row |= {"question": question.question, "task": question.task, "options": list(question.options), "answer": question.answer}
    return row | {"spans": [list(span) for span in question.spans], "evidence": evidence, "video": question.video}


def spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the steps at even distances, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    if count == 1:
        return [steps[-1]]
    return [steps[round(at * (len(steps) - 1) / (count - 1))] for at in range(count)]


def choose(stories: Sequence[Story], count: int, named: Sequence[str] = ()) -> list[Story]:
    """Stories worth their pixels, best first: those named by question id, then interesting ones, spread over tasks and steps."""
    chosen = [story for story in stories if story.question["question_id"] in named]
    left = [story for story in stories if story.question["question_id"] not in named]
    tasks, steps = Counter(story.question["task"] for story in chosen), Counter(story.step for story in chosen)
    while left and len(chosen) < count:
        best = min(left, key=lambda story: (tasks[story.question["task"]], -story.interest + 2 * steps[story.step], shuffle_key(story)))
        left.remove(best)
        chosen.append(best)
        tasks[best.question["task"]] += 1
        steps[best.step] += 1
    return chosen


def shuffle_key(story: Story) -> str:
    """A fixed random order: a part of the stories in this order is a fair sample of all."""
    return hashlib.sha1(story.key.encode(errors="replace")).hexdigest()


def as_json(story: Story, max_text: int) -> Row:
    """What the page gets of a story, without pixels. Texts longer than `max_text` characters are cut and say how much is missing."""
    question = story.question
    specs: dict[int, Row] = {slot["variant"]: slot["spec"] for slot in story.slots}
    variants = [{"n": n, "kind": spec["kind"], "times": spec["times_s"], "box": spec["box"], "size": spec["size"]} for n, spec in sorted(specs.items())]
    return {
        "step": story.step,
        "id": question["question_id"],
        "task": question["task"] or "unknown",
        "question": cut(question["question"], max_text),
        "options": [cut(option, max_text) for option in question["options"]],
        "answer": cut(question["answer"] or "", max_text),
        "spans": question["spans"],
        "places": cut(written(question.get("box"), ((one["time_s"], one["box"]) for one in question.get("track", ()))), max_text),
        "evidence": question["evidence"]["spans"],
        "regions": question["evidence"]["regions"],
        "video": cut(question["video"] if question.get("media") is None else shown(question["media"]), max_text),
        "clip": question.get("clip"),
        "duration": question["duration_s"],
        "relevance": question["relevance"],
        "outcome": story.outcome,
        "repaired": story.repaired,
        "variants": variants,
        "slots": [_slot(slot, right, max_text) for slot, right in zip(story.slots, story.right, strict=True)],
    }


def shown(media: Sequence[Mapping[str, str]]) -> str:
    """All that a question shows, in the prompt's order."""
    return ", ".join(f"{kind} {path}" for one in media for kind, path in one.items()) or "nothing but its text"


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters in rollouts/)"


def _slot(slot: Row, right: bool, max_text: int) -> Row:
    row = {
        "v": slot["variant"],
        "m": slot["sample"],
        "text": cut(slot["text"], max_text),
        "right": right,
        "parts": slot["parts"],
        "reason": slot.get("reason", ""),
        "judge": cut(slot.get("judge", ""), max_text),
        "reward": slot["reward"],
        "advantage": slot["advantage"],
        "tokens": slot["answer_tokens"],
        "version": slot["policy_version"],
        "seed": str(slot["seed"]),  # beyond 2**53 a browser would round it
    }
    if slot.get("repaired"):
        first = {"text": cut(slot.get("first_text") or "", max_text), "parts": slot.get("first_parts") or {}}
        row |= {"repaired": True, "first": first, "patch": slot.get("patch"), "alignment": slot.get("alignment")}
        row["shown"] = slot.get("evidence_frames") or []
    return row


def _rows(path: Path, *keys: str) -> Iterator[Row]:
    """The rows that are whole and have these keys."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError:
                log.warning("%s line %d is damaged, it is left out", path, number)
                continue
            if isinstance(row, dict) and all(key in row for key in keys):
                yield row
