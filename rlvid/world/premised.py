"""Small worlds, each made for what one method needs to be worth anything: rendered clips, questions, and a tiny model with the habits that the method mends.

    plain      rlvid.world.scenes: the warm start errs at random, so one view of a video gives mixed answers anyway. The control of all others
    lure       STRIVE. A large thing stays, a small one flashes for half a second; "Which colour flashes?" Who misses the flash names the colour that stays, for
               certain; who sees it still does so half of the time. The even view of training clips mostly misses it, views by importance show it
    misread    distillation. A thing is seen for a second; the even view shows one frame of it, and the colour is then mixed up, for certain and in each quarter
               of the frame in another way. Views by importance show more of it, and are read rightly
    blink      FFR. The questions of `lure`, and a model that reads a teacher's evidence: frames of the flash beside the even view
    crowd      Temporal-RLT. Most questions teach nothing to one view: what stays (always right), and flashes that the even view misses (always wrong)

Held-out clips of `lure`, `blink` and `crowd` show the flash in a frame of the even view: what cannot be seen there nobody can answer.

Clips have 32 frames of 4 x 4 patches, a view has four: a warm start takes a minute. Two phases as in rlvid.world.warm_start: to see, from right answers where
there is something to be seen, then to answer by habit.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvid.families import named
from rlvid.observe.terminal import Work
from rlvid.types import Question, VariantSpec
from rlvid.variants.build import video_metadata
from rlvid.world.evidence import Pointer, Pointers
from rlvid.world.scenes import COLOURS, DURATION_S, FPS, Scene, Thing
from rlvid.world.warm_start import Clips, answer_logprobs, make_batch, uniform

FRAMES, TOTAL = 4, DURATION_S * FPS
EVEN = uniform(TOTAL, FRAMES)
BATCH, RATE, WARM_UP_STEPS = 16, 1e-3, 20
SEEING, ANSWERING = 320, 30
FLASH_FRAMES, GLANCE_FRAMES = 2, 4
RIGHT_WHEN_SEEN = 0.35
"""How often the flash's colour is named by who sees it."""
READ = 2
"""Frames of a thing from which on its colour is not mixed up (misread)."""
SWAPS = (
    {"red": "green", "green": "blue", "blue": "yellow", "yellow": "red"},
    {"red": "blue", "blue": "red", "green": "yellow", "yellow": "green"},
    {"red": "yellow", "yellow": "blue", "blue": "green", "green": "red"},
    {"red": "green", "green": "red", "blue": "yellow", "yellow": "blue"},
)
"""What a colour is taken for, by quarter of the frame."""

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Recipe:
    """One world. `scene(split, number, rng)`; `habit(scene, question, frames of the evidence that are shown, rng)` is the colour that the warm start says;
    `kinds`: questions asked about each clip; `pointed`: every so many of the steps the prompts hold evidence, 0: none do; `temperature`: of its runs."""

    scene: Callable[[str, int, random.Random], tuple[Thing, ...]]
    habit: Callable[[Scene, Question, int, np.random.Generator], str]
    kinds: tuple[str, ...] = ("flash",)
    clips: int = 480
    held_out: int = 120
    seeing: int = SEEING
    answering: int = ANSWERING
    pointed: int = 0
    temperature: float = 1.0


# --- scenes


def _flash(split: str, number: int, rng: random.Random) -> tuple[Thing, ...]:
    """The flash, in the right half, and what stays, in the left. It moves a little: evidence of what moves is shown in whole frames."""
    colour = list(COLOURS)[number % 4]
    stays = rng.choice([other for other in COLOURS if other != colour])
    first = rng.randrange(1, TOTAL - FLASH_FRAMES)
    if split == "eval":
        first = int(rng.choice(EVEN[1:-1].tolist())) - rng.randrange(FLASH_FRAMES)
    size, place = rng.uniform(0.34, 0.4), (rng.uniform(0.7, 0.78), rng.uniform(0.25, 0.7))
    flash = Thing(colour, "circle", size, first / FPS, (first + FLASH_FRAMES) / FPS, place, (0.0, 0.08 * FPS))
    return flash, Thing(stays, "square", 0.4, 0.0, float(DURATION_S), (rng.uniform(0.22, 0.28), rng.uniform(0.25, 0.75)))


def _glance(split: str, number: int, rng: random.Random) -> tuple[Thing, ...]:
    """One thing in one quarter of the frame, of which the even view shows one frame."""
    across, down = number // 4 % 2, number // 8 % 2
    starts = [first for first in range(TOTAL - GLANCE_FRAMES) if sum(first <= at < first + GLANCE_FRAMES for at in EVEN) == 1]
    first, place = rng.choice(starts), tuple(0.25 + 0.5 * side + rng.uniform(-0.03, 0.03) for side in (across, down))
    return (Thing(list(COLOURS)[number % 4], "square", rng.uniform(0.3, 0.42), first / FPS, (first + GLANCE_FRAMES) / FPS, (place[0], place[1])),)


# --- habits


def _lured(scene: Scene, question: Question, shown: int, rng: np.random.Generator) -> str:
    if question.source == "stays":
        return str(question.answer)
    return str(question.answer) if shown and rng.random() < RIGHT_WHEN_SEEN else scene.things[1].colour


def _misread(scene: Scene, question: Question, shown: int, rng: np.random.Generator) -> str:
    if not shown:
        return str(rng.choice(list(COLOURS)))
    x, y = scene.things[0].centre
    return str(question.answer) if shown >= READ else SWAPS[int(x > 0.5) + 2 * int(y > 0.5)][str(question.answer)]


WORLDS = {
    "lure": Recipe(_flash, _lured),
    "misread": Recipe(_glance, _misread, kinds=("colour",), seeing=260, answering=480, temperature=0.5),
    "blink": Recipe(_flash, _lured, answering=90, pointed=3),
    "crowd": Recipe(_flash, _lured, kinds=("flash", "flash", "stays"), clips=240),
}


def plan_scenes(name: str, split: str, seed: int) -> list[Scene]:
    """The clips of a split. In a world with several kinds of questions each clip has one of them."""
    recipe, scenes = WORLDS[name], []
    for number in range(recipe.clips * len(recipe.kinds) if split == "train" else recipe.held_out):
        rng = random.Random(f"{name}/{seed}/{split}/{number}")
        kind = recipe.kinds[number // 4 % len(recipe.kinds)] if split == "train" else recipe.kinds[0]
        backdrop = rng.randrange(10, 60), rng.randrange(10, 60), rng.randrange(10, 60)
        scenes.append(Scene(f"{split}-{number:04d}", recipe.scene(split, number, rng), backdrop, rng.randrange(2, 14), (kind,)))
    return scenes


def reply(colour: str) -> str:
    """What the warm start teaches to say. No time: views of other times would differ in it."""
    return f"<think>seen</think><answer>{colour}</answer>"


def frame_size(model: str) -> tuple[int, int]:
    """(height, width): two by two visual tokens."""
    return 4 * named(model).patch, 4 * named(model).patch


# --- views


def shown(question: Question, indexes: Indices) -> int:
    """How many of these frames lie in the evidence."""
    start_s, end_s = question.evidence.spans[0]
    return int(((indexes / FPS >= start_s) & (indexes / FPS < end_s)).sum())


def view_of(question: Question, inside: int, rng: np.random.Generator) -> Indices:
    """FRAMES ascending indexes, so many of them in the evidence, as far as there are so many within and without."""
    within = rng.permutation([at for at in range(TOTAL) if shown(question, np.array([at]))])
    without = rng.permutation(np.setdiff1d(np.arange(TOTAL), within))
    near = within[: max(inside, FRAMES - len(without))]
    return np.sort(np.concatenate([near, without[: FRAMES - len(near)]]))


def spec_of(indexes: Indices, size: tuple[int, int]) -> VariantSpec:
    """As the loop describes a view to the model."""
    return VariantSpec("uniform", tuple((indexes / FPS).tolist()), None, size, 0)


# --- warm start


class WarmStart:
    """Trains the checkpoint in `directory` in place."""

    def __init__(self, directory: Path, name: str, scenes: Sequence[Scene], questions: Sequence[Question], seed: int) -> None:
        import torch

        from rlvid.families.checkpoint import load_model, load_processor

        self.recipe, self.directory, self.rng = WORLDS[name], directory, np.random.default_rng(seed)
        self.processor = load_processor(str(directory))
        self.model = load_model(str(directory), dtype=torch.float32, attn_implementation="sdpa")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.95))
        self.clips, self.size = Clips(), frame_size(self.model.config.model_type)
        self.pointers = Pointers(self.size)
        self.pairs = list(zip(scenes, questions, strict=True))

    def run(self, progress: bool) -> dict[str, float]:
        """Returns how probable the taught answer was at the end of each phase, and the seconds."""
        started, recipe, said = time.monotonic(), self.recipe, {}
        for phase, steps in (("seeing", recipe.seeing), ("answering", recipe.answering)):
            probability = 0.25
            with Work(f"learning: {phase}", steps, enabled=progress) as bar:
                for number in range(steps):
                    falling = 1.0 if phase == "seeing" else 0.8 * min(1.0, 1.5 * (1 - number / steps))
                    pointed = bool(recipe.pointed) and number % recipe.pointed == 0
                    probability += 0.1 * (self.step(phase, RATE * falling * min(1, (number + 1) / WARM_UP_STEPS), pointed) - probability)
                    bar.advance(f"{probability:.2f}")
            said[phase] = round(probability, 3)
        named(self.model.config.model_type).save(self.model.eval(), self.directory)
        return said | {"seconds": round(time.monotonic() - started, 1)}

    def step(self, phase: str, rate: float, pointed: bool) -> float:
        import torch

        drawn = [self.pairs[index] for index in self.rng.choice(len(self.pairs), BATCH)]
        views = [self._view(question) for _, question in drawn]
        pointers: list[Pointer | None] = self.pointers.true([question for _, question in drawn]) if pointed else []
        taught = []
        for at, ((scene, question), indexes) in enumerate(zip(drawn, views, strict=True)):
            seen = FRAMES if pointers and pointers[at] else shown(question, indexes)
            right = phase == "seeing" and seen > 0
            taught.append(reply(str(question.answer) if right else self.recipe.habit(scene, question, seen, self.rng)))
        logprobs, counted = answer_logprobs(self.model, self.batch([question for _, question in drawn], views, taught, pointers))
        answer = counted & (counted.cumsum(-1) == self.answer_token(taught))
        weight = counted * (1.0 + 2 * answer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        (-(logprobs * weight).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float((logprobs.detach() * answer).sum(-1).exp().mean())

    def _view(self, question: Question) -> Indices:
        """Half of them even, the others with as much of the evidence as views by importance show."""
        if question.source == "colour":
            return EVEN if self.rng.random() < 0.5 else view_of(question, int(self.rng.integers(1, FRAMES)), self.rng)
        return EVEN if self.rng.random() < 0.3 else view_of(question, int(self.rng.integers(0, FLASH_FRAMES + 1)), self.rng)

    def answer_token(self, taught: Sequence[str]) -> int:
        """Which of a reply's tokens, from 1, is the colour."""
        before = self.processor.tokenizer(taught[0].split("<answer>")[0] + "<answer>", add_special_tokens=False)["input_ids"]
        return len(before) + 1

    def batch(self, questions: Sequence[Question], views: Sequence[Indices], replies: Sequence[str], pointers: Sequence[Pointer | None] = ()) -> Any:
        frames = [(self.clips[question.video][indexes], indexes) for question, indexes in zip(questions, views, strict=True)]
        told = [video_metadata(spec_of(indexes, self.size)) for indexes in views]
        return make_batch(self.processor, self.model.config, questions, frames, FPS, TOTAL, replies, pointers, told)


def tokenizer_words() -> list[str]:
    """What is said in these worlds and not in the plain one."""
    return ["seen seen", "Which colour stays?", "Which colour flashes?"] * 50


def warm_start(directory: Path, name: str, scenes: Sequence[Scene], questions: Sequence[Question], seed: int, progress: bool) -> dict[str, float]:
    """Train the model in `directory`; what it came to is stored as warm_start.json beside it."""
    report = WarmStart(directory, name, scenes, questions, seed).run(progress)
    (directory.parent / "warm_start.json").write_text(json.dumps(report, indent=1))
    return report
