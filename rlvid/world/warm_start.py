"""The warm start: supervised steps that leave the tiny model well-spoken and half wrong, so that reinforcement has something to do.

Two phases, both on the very prompts that the loop builds and on frames read back from the encoded clips:

1. *Seeing.* Right answers, most of them to the kinds of questions that are understood least, until every kind is. A model of this size has to find every
   visual feature first, and a few hundred steps of reinforcement cannot do that from half-found ones.
2. *Answering.* The answers of a careless annotator, who sees well but mixes up half of the options (yellow is mostly called red) and names spans too wide.
   The model imitates that: the right form nearly always, the right answer about half of the time, and no answer so rare that sampling would miss it.

The course `evidence` is for runs with repair: in both phases some prompts hold a teacher's evidence as `rlvid.teacher.student` writes it. Who is shown
where the answer can be seen answers with care; who is shown another moment in the same words is as careless as without. A model of this size reads
only what it was taught to read; it also turns out less careless, so that less is left for RL to correct.

Reinforcement afterwards gets nothing but rewards, and has to unlearn the annotator's errors from them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlvid.data.prompts import FORMAT, chat_prompt, question_text
from rlvid.data.prompts import INSTRUCTIONS as LONG_INSTRUCTIONS
from rlvid.families import named
from rlvid.observe.terminal import Work
from rlvid.teacher.annotation import patches
from rlvid.teacher.student import UNTOLD
from rlvid.types import Question
from rlvid.world.evidence import Pointer, Pointers

FRAMES = 8
BATCH, PEAK_RATE, WARM_UP_STEPS = 32, 1e-3, 20
MOST_REPLY_TOKENS = 20


@dataclass(frozen=True)
class Course:
    """Steps of the two phases (the first ends earlier when all kinds are seen). `pointed_*`: every so many of them the prompts hold evidence; 0: never."""

    seeing_steps: int
    answering_steps: int
    pointed_seeing: int = 0
    pointed_answering: int = 0

    @property
    def pointed(self) -> bool:
        return self.pointed_seeing > 0


COURSES = {"plain": Course(900, 60), "evidence": Course(1000, 120, 8, 2)}


# --- text ---


def reply(question: Question) -> str:
    """What the warm start teaches to say: the second at which the evidence can be seen, then the answer."""
    start, end = question.evidence.spans[0]
    return f"<think>at {int((start + end) / 2)}</think><answer>{answer_text(question)}</answer>"


def answer_text(question: Question) -> str:
    """An option, a span as `2 to 4`, or both as `red, 2 to 4`."""
    parts = [question.answer] if question.answer else []
    parts += [f"{start:g} to {end:g}" for start, end in question.spans[:1]]
    return ", ".join(parts)


def prompt(processor: Any, question: Question) -> str:
    """The loop's prompt with the quickstart's (empty) hints."""
    return chat_prompt(processor, question_text(question, {}, ""))


def tokenizer_corpus(questions: Sequence[Question], *, family: str, evidence: bool = False) -> list[str]:
    """Everything that is said in the world, so that its words become single tokens; the long hints too, for prompts that use them."""
    from jinja2 import Environment

    turn = Environment(trim_blocks=True, lstrip_blocks=True).from_string(named(family).chat_template)  # as transformers reads it
    said = [turn.render(messages=[{"role": "user", "content": question_text(q, {}, "")}], add_generation_prompt=True) for q in questions]
    said += [re.sub(r"</?\w+>", "\n", reply(question)) for question in questions]
    hints = [*LONG_INSTRUCTIONS.values(), FORMAT, "system\n<1.1 seconds>", "Look at 2 to 4 s."]
    if evidence:
        said += [f"Evidence, {UNTOLD}: a frame, a part of a frame. \n{patch.hint}\n" for question in questions for patch in patches(question)]
        said += [f"Evidence: 1.5 s, 2.25 s (a part). \n{patch.hint}\n" for question in questions for patch in patches(question)]
    return said + hints * 50


# --- pixels ---


def read_clip(path: str) -> tuple[np.ndarray, float]:
    """All frames, uint8 [T, height, width, 3], and frames per second."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy(), float(reader.get_avg_fps())


def uniform(total: int, frames: int = FRAMES) -> np.ndarray:
    """The test-time view: `frames` indexes spread evenly over 0..total-1."""
    return np.linspace(0, total - 1, frames).round().astype(int)


INTERIOR = np.array([0] + [1] * (FRAMES - 2) + [0])
"""Jitter leaves the first and the last frame where they are."""


def some_view(clip: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A view like those exploration will show: (frames [8, height, width, 3], their indexes). Half are uniform; others jitter in time, some are cropped."""
    indexes = uniform(len(clip))
    if rng.random() < 0.5:
        indexes = np.clip(indexes + rng.integers(-2, 3, len(indexes)) * INTERIOR, 0, len(clip) - 1)
    frames = clip[indexes]
    return (_crop(frames, rng) if rng.random() < 0.25 else frames), indexes


def _crop(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random box of 70 to 100 % of the area, brought back to the full size."""
    import torch

    height, width = frames.shape[1:3]
    share = np.sqrt(rng.uniform(0.7, 1.0))
    h, w = int(height * share), int(width * share)
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    cut = torch.from_numpy(np.ascontiguousarray(frames[:, top : top + h, left : left + w])).permute(0, 3, 1, 2).float()
    full = torch.nn.functional.interpolate(cut, (height, width), mode="bilinear", align_corners=False)
    return full.round().byte().permute(0, 2, 3, 1).numpy()


# --- batches ---


@dataclass(frozen=True)
class Batch:
    """B prompts (and replies) padded on the right to N tokens.

    input_ids, attention_mask, labels [B, N] (labels are -100 wherever nothing is to be learned), position_ids [3, B, N], lengths [B]; pixels are the
    processor's patches and grids [B, 3] the videos' (t, h, w) in patches.
    """

    input_ids: Any
    attention_mask: Any
    position_ids: Any
    labels: Any
    pixels: Any
    grids: Any
    lengths: Any

    def model_inputs(self) -> dict[str, Any]:
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "pixel_values_videos": self.pixels,
            "video_grid_thw": self.grids,
        }


def make_batch(
    processor: Any,
    config: Any,
    questions: Sequence[Question],
    views: Sequence[tuple[np.ndarray, np.ndarray]],
    fps: float,
    total: int,
    replies: Sequence[str],
    pointers: Sequence[Pointer | None] = (),
    told: Sequence[dict[str, Any]] = (),
) -> Batch:
    """Prompts with their videos (from clips of `total` frames at `fps`) and evidence, followed by `replies` (empty strings: prompts only). `told`: what the
    model is told of each view, where that is not its indexes in the clip."""
    import torch
    from transformers.video_utils import VideoMetadata

    texts, videos, metadata, family = [], [], [], named(config.model_type)
    pointers = pointers or [None] * len(questions)
    for at, (question, (frames, indexes), pointer) in enumerate(zip(questions, views, pointers, strict=True)):
        text = prompt(processor, question)
        texts.append(pointer.prompt(text, family.placeholder) if pointer else text)
        videos.append(frames)
        plain = {"fps": fps, "total_num_frames": total, "duration": total / fps, "frames_indices": indexes.tolist()}
        metadata.append(VideoMetadata(**{name: (told[at] if told else plain)[name] for name in plain}))
        if pointer:
            shown, about = pointer.video()
            videos.append(shown)
            metadata.append(VideoMetadata(**{name: about[name] for name in plain}))
    made = processor(text=texts, videos=videos, video_metadata=metadata, do_sample_frames=False, padding=False)
    grids, seconds, tokenizer = torch.as_tensor(made["video_grid_thw"]), made.get("second_per_grid_ts"), processor.tokenizer
    rows, positions, labels, first = [], [], [], 0
    for ids, answer, pointer in zip(made["input_ids"], replies, pointers, strict=True):
        tail = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] if answer else []
        rows.append(torch.tensor([*ids, *tail]))
        labels.append(torch.tensor([-100] * len(ids) + tail))
        own = slice(first, first + (2 if pointer else 1))
        pace = None if seconds is None else [float(second) for second in seconds[own]]
        positions.append(family.position_ids(config, [*ids, *tail], grids[own].tolist(), pace).T)
        first = own.stop
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(
        input_ids=pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        attention_mask=pad([torch.ones_like(row) for row in rows], batch_first=True),
        position_ids=pad(positions, batch_first=True).permute(2, 0, 1),
        labels=pad(labels, batch_first=True, padding_value=-100),
        pixels=torch.as_tensor(made["pixel_values_videos"]),
        grids=grids,
        lengths=torch.tensor([len(row) for row in rows]),
    )


# --- answering ---


def generate(model: Any, batch: Batch, *, end: int, most: int = MOST_REPLY_TOKENS, pick: Any = None) -> Any:
    """Replies [B, most] to the prompts of `batch`, filled with `end` after their end. `pick(logits [B, V]) -> [B]`; greedy without."""
    import torch

    pick = pick or (lambda logits: logits.argmax(-1))
    with torch.no_grad():
        out = model.model(**batch.model_inputs(), use_cache=True)
        rows = torch.arange(len(batch.lengths))
        hidden = out.last_hidden_state[rows, batch.lengths - 1]
        place = batch.position_ids[:, rows, batch.lengths - 1]
        mask, done, said = batch.attention_mask, torch.zeros(len(rows), dtype=torch.bool), []
        for _ in range(most):
            token = pick(model.lm_head(hidden)).masked_fill(done, end)
            said.append(token)
            done = done | (token == end)
            if done.all():
                break
            place = place + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            more = {"input_ids": token[:, None], "attention_mask": mask, "position_ids": place[:, :, None]}
            out = model.model(**more, past_key_values=out.past_key_values, use_cache=True)
            hidden = out.last_hidden_state[:, -1]
    said += [torch.full_like(said[0], end)] * (most - len(said))
    return torch.stack(said, 1)


def grade(question: Question, text: str) -> dict[str, float]:
    """`form` (1 when the whole reply has the form), `accuracy` and `iou` where the question has an answer and spans."""
    match = re.fullmatch(r"<think>.*?</think>\s*<answer>(.*?)</answer>", text.strip(), re.DOTALL)
    said = match.group(1).strip() if match else ""
    grades = {"form": float(match is not None)}
    if question.answer:
        grades["accuracy"] = float(said.split(",")[0].strip() == question.answer)
    if question.spans:
        grades["iou"] = _iou(said.split(",")[-1], question.spans[0])
    return grades


def _iou(text: str, truth: tuple[float, float]) -> float:
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        return 0.0
    return max(0.0, min(numbers[1], truth[1]) - max(numbers[0], truth[0])) / (max(numbers[1], truth[1]) - min(numbers[0], truth[0]))


# --- training ---


PRACTICE = {"direction": 5.0, "count": 4.0}
"""Kinds that need more practice than the others (1) before they are understood at all."""
SEEN = {"colour": 0.8, "direction": 0.8, "first": 0.8, "count": 0.8, "grounding": 0.6, "grounded_qa": 0.8}
"""Mean probability of the right answer (for a span: of its start) at which a kind counts as seen."""
KEEP = 0.05
"""Least practice of a kind, as a share of the most."""
ANSWER_TOKEN = 6
"""The answer's first token among the reply's: `<think>at N</think><answer>` are five. It counts three times in the loss."""
MIXED_UP = {"yellow": "red", "blue": "green", "left": "right", "down": "up", "4": "3", "2": "1"}
"""What the careless annotator mostly says instead."""
RIGHT, RIGHT_IF_MIXED_UP, WRONG_IF_MIXED_UP = 0.65, 0.3, 0.55
"""How often the annotator is right about other options; how often right, and how often mixed up, about these. The rest goes to the other options."""
SPAN_SLIPS, SPAN_ODDS = ((0, 0), (0, 2), (-1, 1), (-1, 2)), (0.25, 0.45, 0.15, 0.15)
"""Seconds added to a span's start and end, and how often."""


class Mastery:
    """How probable the right answer is, by kind (a running mean), and so how much each kind is still practised."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self.share = dict.fromkeys(kinds, 0.0)
        self.steps = 0

    def update(self, kinds: Sequence[str], probabilities: Sequence[float]) -> None:
        for kind, probability in zip(kinds, probabilities, strict=True):
            self.share[kind] += 0.04 * (probability - self.share[kind])

    def need(self, kind: str) -> float:
        """1 far below the target, falling to 0 at it."""
        return min(1.0, max(0.0, (SEEN[kind] - self.share[kind]) / 0.2))

    def draw(self, by_kind: dict[str, list[Question]], count: int, rng: np.random.Generator) -> list[Question]:
        """`count` questions, mostly of the kinds in need: what is known is hardly practised any more."""
        kinds = list(self.share)
        weights = np.array([max(KEEP, self.need(kind)) * PRACTICE.get(kind, 1.0) for kind in kinds])
        drawn = rng.choice(len(kinds), count, p=weights / weights.sum())
        return [by_kind[kinds[index]][rng.integers(len(by_kind[kinds[index]]))] for index in drawn]


def warm_start(
    directory: Path, train: Sequence[Question], held_out: Sequence[Question], *, course: Course = COURSES["plain"], seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Train the checkpoint in `directory` in place; returns (and stores as `warm_start.json` beside it) the held-out greedy grades per kind."""
    import torch

    from rlvid.families.checkpoint import load_model, load_processor
    from rlvid.learner.attention import quicken_vision

    started = time.monotonic()
    processor = load_processor(str(directory))
    model = load_model(str(directory), dtype=torch.float32, attn_implementation="sdpa")
    quicken_vision(model)
    clips = Clips()
    mastery = _train(model, processor, clips, train, course, seed, progress)
    named(model.config.model_type).save(model.eval(), directory)
    report = {
        "held_out": check(model, processor, clips, held_out, progress=progress),
        **({"held_out_with_evidence": check(model, processor, clips, held_out, pointed=True, progress=progress)} if course.pointed else {}),
        "mastery": {kind: round(share, 3) for kind, share in mastery.share.items()},
        "steps": mastery.steps + course.answering_steps,
        "seconds": round(time.monotonic() - started, 1),
    }
    (directory.parent / "warm_start.json").write_text(json.dumps(report, indent=1))
    return report


class Clips:
    """Clips decoded once, uint8 [T, height, width, 3]; all of one length and rate."""

    def __init__(self) -> None:
        self._frames: dict[str, np.ndarray] = {}
        self.fps = 0.0

    def __getitem__(self, path: str) -> np.ndarray:
        if path not in self._frames:
            self._frames[path], self.fps = read_clip(path)
        return self._frames[path]


def careless(question: Question, rng: np.random.Generator) -> Question:
    """The question as an annotator answers it who sees well and writes hastily: some options mixed up, spans too wide or off by a second."""
    answer, spans = question.answer, question.spans
    if answer:
        favourite = MIXED_UP.get(answer)
        others = [option for option in question.options if option not in (answer, favourite)]
        choices = [answer, favourite, None] if favourite else [answer, None]
        odds = [RIGHT_IF_MIXED_UP, WRONG_IF_MIXED_UP, 1 - RIGHT_IF_MIXED_UP - WRONG_IF_MIXED_UP] if favourite else [RIGHT, 1 - RIGHT]
        answer = choices[rng.choice(len(choices), p=odds)] or others[rng.integers(len(others))]
    if spans:
        before, after = SPAN_SLIPS[rng.choice(len(SPAN_SLIPS), p=SPAN_ODDS)]
        start, end = spans[0]
        spans = ((max(0.0, start + before), end + after),)
    return replace(question, answer=answer, spans=spans)


def _train(model: Any, processor: Any, clips: Clips, questions: Sequence[Question], course: Course, seed: int, progress: bool) -> Mastery:
    """Learn to see from right answers, kind by kind as needed, then take over the careless annotator's ways; the rate ends at 0."""
    import torch

    rng = np.random.default_rng(seed)
    by_kind: dict[str, list[Question]] = {}
    for question in questions:
        by_kind.setdefault(question.source, []).append(question)
    mastery = Mastery(by_kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.95))

    pointers = Pointers(clips[questions[0].video].shape[1:3])

    def step(drawn: list[Question], taught: list[Question], rate: float, pointed: Sequence[Pointer | None] = ()) -> list[float]:
        views = [some_view(clips[question.video], rng) for question in drawn]
        batch = make_batch(processor, model.config, drawn, views, clips.fps, len(clips[drawn[0].video]), [reply(question) for question in taught], pointed)
        logprobs, counted = answer_logprobs(model, batch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        weight = counted * (1 + 2 * (counted.cumsum(-1) == ANSWER_TOKEN))
        (-(logprobs * weight).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return _answer_probability(logprobs, counted).tolist()

    with Work("learning to see", course.seeing_steps, enabled=progress) as bar:
        for number in range(course.seeing_steps):
            drawn = mastery.draw(by_kind, BATCH, rng)
            pointed = pointers.true(drawn) if course.pointed and number % course.pointed_seeing == 0 else []
            right = step(drawn, drawn, PEAK_RATE * min(1, (number + 1) / WARM_UP_STEPS), pointed)
            if not pointed:
                mastery.update([question.source for question in drawn], right)
            bar.advance(" ".join(f"{kind} {share:.2f}" for kind, share in mastery.share.items()))
            mastery.steps = number + 1
            if not any(map(mastery.need, mastery.share)):
                break
    with Work("learning to answer", course.answering_steps, enabled=progress) as bar:
        for number in range(course.answering_steps):
            drawn = [questions[index] for index in rng.choice(len(questions), BATCH)]
            taught, pointed = [careless(question, rng) for question in drawn], []
            if course.pointed and number % course.pointed_answering == 0:
                most = 2 * BATCH // 3
                pointed = pointers.true(drawn[:most]) + pointers.false(drawn[most:], by_kind, rng)
                taught = [right if pointers.shows(right, pointer) else hasty for right, hasty, pointer in zip(drawn, taught, pointed, strict=True)]
            step(drawn, taught, 0.7 * PEAK_RATE * (1 - number / course.answering_steps), pointed)
            bar.advance()
    return mastery


def answer_logprobs(model: Any, batch: Batch) -> tuple[Any, Any]:
    """Log-probabilities of the taught tokens [B, N-1] (0 elsewhere) and where they are."""
    import torch

    logits = model(**batch.model_inputs()).logits[:, :-1]
    labels = batch.labels[:, 1:]
    taught = labels != -100
    picked = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return picked * taught, taught


def _answer_probability(logprobs: Any, taught: Any) -> Any:
    """Probability [B] of the answer's first token."""
    return (logprobs.detach() * (taught.cumsum(-1) == ANSWER_TOKEN)).sum(-1).exp()


def check(model: Any, processor: Any, clips: Clips, questions: Sequence[Question], *, pointed: bool = False, progress: bool = True) -> dict[str, float]:
    """Greedy grades on the uniform view, as means: `form`, and `KIND/accuracy`, `KIND/iou`. `pointed`: with the evidence in the prompt."""
    grades: dict[str, list[float]] = {}
    pointers = Pointers(clips[questions[0].video].shape[1:3])
    pages = [questions[first : first + 40] for first in range(0, len(questions), 40)]
    with Work("held-out check", len(pages), enabled=progress) as bar:
        for page in pages:
            views = [(clips[question.video][uniform(len(clips[question.video]))], uniform(len(clips[question.video]))) for question in page]
            shown = pointers.true(page) if pointed else []
            batch = make_batch(processor, model.config, page, views, clips.fps, len(clips[page[0].video]), [""] * len(page), shown)
            replies = generate(model, batch, end=processor.tokenizer.eos_token_id)
            for question, text in zip(page, processor.tokenizer.batch_decode(replies, skip_special_tokens=True), strict=True):
                for name, value in grade(question, text).items():
                    grades.setdefault(name if name == "form" else f"{question.source}/{name}", []).append(value)
            bar.advance()
    return {name: round(float(np.mean(values)), 3) for name, values in sorted(grades.items())}
