"""The quickstart world: short rendered clips, questions about them, and a tiny model that can answer about half.

    world = build_world(Path("data/quickstart"), seed=0)
    world.train, world.eval, world.model, world.frame_size

A clip is 8 s at 4 frames/s: coloured things that appear, move and vanish. Six kinds of questions; the evidence (when and where the answer can be seen) is
known exactly, because the clips are rendered from it. Held-out clips are other clips. The folder is cached by a fingerprint of everything that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlvid.data.questions import iter_questions
from rlvid.families import named
from rlvid.observe.terminal import Work
from rlvid.types import Box, Evidence, Question, Region, Span, Task

DURATION_S, FPS = 8, 4
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 225), "yellow": (225, 205, 40)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SHAPES = ("square", "circle", "triangle")
KINDS = ("colour", "direction", "first", "count", "grounding", "grounded_qa")
MOST_THINGS = 4
MOVER_WINDOW = (7, 8)
"""Shortest and longest stay of a moving thing in seconds."""
RAMP_X, RAMP_Y = (50, 50, 50), (-20, 10, 50)
"""How much lighter (RGB) the backdrop is at the right and at the bottom."""

INSTRUCTIONS: dict[str, str] = {}
FORMAT_HINT = ""
"""What the prompt builder adds to a question here: nothing. The warm start teaches the form, and short prompts are fast ones."""


@dataclass(frozen=True)
class World:
    """Where the quickstart's parts lie. `frame_size` is (height, width) in pixels."""

    train: Path
    eval: Path
    model: Path
    frame_size: tuple[int, int]


@dataclass(frozen=True)
class Thing:
    """One object. Centre and `size` (its width) are shares of the frame; it is seen at `start_s` <= t < `end_s`.

    A moving one starts at `centre` and goes on by `velocity` (shares per second).
    """

    colour: str
    shape: str
    size: float
    start_s: float
    end_s: float
    centre: tuple[float, float]
    velocity: tuple[float, float] = (0.0, 0.0)

    def box(self, time_s: float) -> Box | None:
        """Where it is at `time_s`, or None while it is not seen."""
        if not self.start_s <= time_s < self.end_s:
            return None
        x, y = (c + v * (time_s - self.start_s) for c, v in zip(self.centre, self.velocity, strict=True))
        return x - self.size / 2, y - self.size / 2, x + self.size / 2, y + self.size / 2


@dataclass(frozen=True)
class Scene:
    """One clip: its things, its backdrop (RGB), and the questions asked about it."""

    name: str
    things: tuple[Thing, ...]
    backdrop: tuple[int, int, int]
    noise: int
    kinds: tuple[str, ...]
    direction: str = ""


def build_world(
    directory: Path,
    *,
    seed: int = 0,
    model: str = "qwen2_5_vl",
    train_questions: int = 900,
    eval_questions: int = 240,
    warm_start: bool = True,
    course: Literal["plain", "evidence"] = "plain",
    world: str = "plain",
    progress: bool = True,
) -> World:
    """The world in `directory`, built if it is not there or was made by another recipe. `course` of the warm start: see rlvid.world.warm_start. `world`:
    plain, whose sizes are given here, or one of rlvid.world.premised, which has its own.

    An interrupted build leaves nothing that could be taken for a whole one.
    """
    directory = Path(directory).absolute()
    sizes = {"train": train_questions, "eval": eval_questions}
    recipe = {"seed": seed, "model": model, **sizes, "warm_start": warm_start, "course": course, "world": world, "code": _code_digest()}
    built = World(directory / "train.jsonl", directory / "eval.jsonl", directory / "model", _frame_size(world, model))
    if _recipe_of(directory) == recipe:
        return built
    if directory.exists() and any(directory.iterdir()) and _recipe_of(directory) is None:
        raise FileExistsError(f"{directory} holds other files: name an empty folder for the quickstart world")
    aside = directory.with_name(f".{directory.name}.building-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _build(aside, recipe, progress)
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return built


def _frame_size(world: str, model: str) -> tuple[int, int]:
    from rlvid.world import premised

    return named(model).tiny_frame if world == "plain" else premised.frame_size(model)


def _build(directory: Path, recipe: dict[str, Any], progress: bool) -> None:
    """Clips, question files, model, then `world.json`, the sign that all is there."""
    from rlvid.world import premise, premised
    from rlvid.world.tiny_model import build_tiny_model
    from rlvid.world.warm_start import COURSES, tokenizer_corpus, warm_start

    seed, family, world = recipe["seed"], recipe["model"], recipe["world"]
    size = _frame_size(world, family)
    (directory / "clips").mkdir(parents=True)
    splits = {
        split: list(plan_scenes(split, recipe[split], seed)) if world == "plain" else premised.plan_scenes(world, split, seed) for split in ("train", "eval")
    }
    with Work("rendering clips", sum(map(len, splits.values())), enabled=progress) as bar:
        for split, scenes in splits.items():
            questions = []
            for scene in scenes:
                write_clip(directory / "clips" / f"{scene.name}.mp4", render(scene, size))
                questions += ask(scene)
                bar.advance()
            lines = [json.dumps(_line(question)) for question in questions]
            (directory / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    train, held_out, course = _read(directory, "train"), _read(directory, "eval"), COURSES[recipe["course"]]
    small = premised.WORLDS.get(world)
    words = tokenizer_corpus(train, family=family, evidence=bool(small.pointed) if small else course.pointed) + (premised.tokenizer_words() if small else [])
    build_tiny_model(directory / "model", words, family=family, seed=seed)
    if recipe["warm_start"] and small:
        premised.warm_start(directory / "model", world, splits["train"], train, seed, progress)
    elif recipe["warm_start"]:
        warm_start(directory / "model", train, held_out, course=course, seed=seed, progress=progress)
    if recipe["warm_start"]:
        premise.write(directory, world, premise.measure(directory, premise.shape_of(world, family), train, held_out, seed=seed))
    (directory / "world.json").write_text(json.dumps(recipe, indent=1))


# --- scenes ---


def plan_scenes(split: str, questions: int, seed: int) -> Iterator[Scene]:
    """Scenes that ask at least `questions` questions, every kind equally often and every answer of a kind, too."""
    for number in range(-(-questions // len(KINDS))):
        for kind in _SCENES:
            yield _scene(f"{split}-{kind}-{number:04d}", kind, number, random.Random(f"{seed}/{split}/{kind}/{number}"))


def _scene(name: str, kind: str, number: int, rng: random.Random) -> Scene:
    things, kinds, direction = _SCENES[kind](number, rng)
    backdrop = rng.randrange(10, 60), rng.randrange(10, 60), rng.randrange(10, 60)
    return Scene(name, tuple(things), backdrop, rng.randrange(2, 14), kinds, direction)


def _glimpse(number: int, rng: random.Random) -> tuple[list[Thing], tuple[str, ...], str]:
    """One small thing at rest, seen for a short part of the clip."""
    size = rng.uniform(0.14, 0.3)
    centre = _spot(rng, size)
    start, end = _window(rng, 1, 3)
    return [Thing(list(COLOURS)[number % 4], rng.choice(SHAPES), size, start, end, centre)], ("colour", "grounding"), ""


def _visitor(number: int, rng: random.Random) -> tuple[list[Thing], tuple[str, ...], str]:
    """One larger thing at rest, seen longer."""
    size = rng.uniform(0.24, 0.34)
    centre = _spot(rng, size)
    start, end = _window(rng, 2, 4)
    return [Thing(list(COLOURS)[number % 4], rng.choice(SHAPES), size, start, end, centre)], ("grounded_qa",), ""


def _mover(number: int, rng: random.Random) -> tuple[list[Thing], tuple[str, ...], str]:
    """One thing that crosses the frame from edge to edge."""
    direction = list(DIRECTIONS)[number % 4]
    size = rng.uniform(0.22, 0.34)
    start, end = _window(rng, *MOVER_WINDOW)
    axes = DIRECTIONS[direction]
    speed = (1 - size) / (end - start)
    x, y = ({1: size / 2, -1: 1 - size / 2}.get(axis) or place for axis, place in zip(axes, _spot(rng, size), strict=True))
    centre, velocity = (x, y), (axes[0] * speed, axes[1] * speed)
    return [Thing(rng.choice(list(COLOURS)), rng.choice(SHAPES), size, start, end, centre, velocity)], ("direction",), direction


def _pair(number: int, rng: random.Random) -> tuple[list[Thing], tuple[str, ...], str]:
    """Two things of different colours, one after the other."""
    colours = [list(COLOURS)[number % 4]]
    colours.append(rng.choice([colour for colour in COLOURS if colour not in colours]))
    cut = rng.randrange(3, 6)
    windows = []
    for low, high in ((0, cut), (cut, DURATION_S)):
        length = rng.randrange(2, min(high - low, 4) + 1)
        start = rng.randrange(low, high - length + 1)
        windows.append((start, start + length))
    things = []
    for colour, (start, end) in zip(colours, windows, strict=True):
        size = rng.uniform(0.2, 0.32)
        centre = _spot(rng, size)
        things.append(Thing(colour, rng.choice(SHAPES), size, start, end, centre))
    return things, ("first",), ""


def _several(number: int, rng: random.Random) -> tuple[list[Thing], tuple[str, ...], str]:
    """One to four things of one kind at rest, seen together; they lie in different ninths of the frame and never touch."""
    colour, shape, size = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.uniform(0.24, 0.28)
    start, end = _window(rng, 6, DURATION_S)
    things = []
    for cell in rng.sample(range(9), 1 + number % MOST_THINGS):
        x, y = ((place + 0.5) / 3 + rng.uniform(-1, 1) * (0.32 - size) / 2 for place in (cell % 3, cell // 3))
        things.append(Thing(colour, shape, size, start, end, (x, y)))
    return things, ("count",), ""


_SCENES = {"glimpse": _glimpse, "visitor": _visitor, "mover": _mover, "pair": _pair, "several": _several}


def _window(rng: random.Random, shortest_s: int, longest_s: int) -> Span:
    """A span of whole seconds inside the clip."""
    length = rng.randint(shortest_s, longest_s)
    start = rng.randint(0, DURATION_S - length)
    return float(start), float(start + length)


def _spot(rng: random.Random, size: float) -> tuple[float, float]:
    return rng.uniform(size / 2, 1 - size / 2), rng.uniform(size / 2, 1 - size / 2)


# --- pixels ---


def render(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """The clip as uint8 [T, height, width, 3]."""
    height, width = size
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(scene.name.encode()).digest()[:8], "big"))
    grain = rng.integers(-scene.noise, scene.noise + 1, (height, width, 1))
    y, x = (np.mgrid[0:height, 0:width] + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    light = x[..., None] * np.array(RAMP_X) + y[..., None] * np.array(RAMP_Y)
    still = np.clip(np.array(scene.backdrop) + light + grain, 0, 255).astype(np.uint8)
    frames = np.repeat(still[None], DURATION_S * FPS, axis=0)
    for index, frame in enumerate(frames):
        for thing in scene.things:
            if box := thing.box(index / FPS):
                frame[_mask(thing.shape, box, x, y)] = COLOURS[thing.colour]
    return frames


def _mask(shape: str, box: Box, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which pixels [height, width] with centres (x, y) the shape in `box` covers."""
    x1, y1, x2, y2 = box
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    u, v = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
    if shape == "circle":
        return inside & ((u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25)
    if shape == "triangle":
        return inside & (np.abs(u - 0.5) <= v / 2 + 0.1)
    return inside


def write_clip(path: Path, frames: np.ndarray) -> None:
    """H.264 by one thread with fixed settings: the same frames give the same file.

    Macroblock trees and adaptive quantisation are off: with them, about one clip in twenty came out differently now and then.
    """
    import av

    options = {"preset": "veryfast", "crf": "14", "threads": "1", "g": "16", "x264-params": "mbtree=0:aq-mode=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.thread_count = 1
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


# --- questions ---


def ask(scene: Scene) -> list[Question]:
    """The questions about one clip, `video` relative to the question file."""
    return [_question(scene, kind) for kind in scene.kinds]


def _question(scene: Scene, kind: str) -> Question:
    thing = scene.things[0]
    asked: dict[str, tuple[str, Task, tuple[str, ...], str | None]] = {
        "colour": ("What colour is it?", "multiple_choice", tuple(COLOURS), thing.colour),
        "direction": ("Which way does it move?", "multiple_choice", tuple(DIRECTIONS), scene.direction),
        "first": ("Which colour comes first?", "multiple_choice", tuple(COLOURS), thing.colour),
        "count": ("How many are there?", "multiple_choice", tuple(str(n + 1) for n in range(MOST_THINGS)), str(len(scene.things))),
        "grounding": ("When is it seen?", "temporal_grounding", (), None),
        "grounded_qa": ("What colour is it, and when is it seen?", "grounded_qa", tuple(COLOURS), thing.colour),
        "flash": ("Which colour flashes?", "multiple_choice", tuple(COLOURS), thing.colour),
        "stays": ("Which colour stays?", "multiple_choice", tuple(COLOURS), scene.things[-1].colour),
    }
    text, task, options, answer = asked[kind]
    spans = ((thing.start_s, thing.end_s),) if task != "multiple_choice" else ()
    things = {"flash": scene.things[:1], "stays": scene.things[-1:]}.get(kind, scene.things)
    evidence = Evidence(spans=tuple((t.start_s, t.end_s) for t in _shown(things)), regions=tuple(region for t in things for region in _regions(t)))
    return Question(f"{scene.name}-{kind}", f"clips/{scene.name}.mp4", text, task, options, answer, spans, evidence, None, kind)


def _shown(things: Sequence[Thing]) -> tuple[Thing, ...]:
    """The things whose spans differ: things seen together share one."""
    return tuple({(thing.start_s, thing.end_s): thing for thing in things}.values())


def _regions(thing: Thing) -> list[Region]:
    """Where the thing is at the first, the middle and the last of the frames that show it whole."""
    boxes = [(index / FPS, thing.box(index / FPS)) for index in range(DURATION_S * FPS)]
    whole = [(time_s, box) for time_s, box in boxes if box and min(box) >= -1e-9 and max(box) <= 1 + 1e-9]
    return [Region(time_s, _rounded(box)) for time_s, box in sorted({whole[index] for index in (0, len(whole) // 2, -1)})]


def _rounded(box: Box) -> Box:
    x1, y1, x2, y2 = (min(1.0, max(0.0, round(side, 4))) for side in box)
    return x1, y1, x2, y2


def _line(question: Question) -> dict[str, Any]:
    """The keys that say something: an empty one would contradict another (answer beside answers)."""
    plain = {field.name: field.default for field in fields(question)}
    return {name: value for name, value in asdict(question).items() if value not in ((), [], plain[name])}


def _read(directory: Path, split: str) -> list[Question]:
    """A question file just written, as the loop reads it."""
    return list(iter_questions(directory / f"{split}.jsonl"))


# --- cache ---


def _recipe_of(directory: Path) -> dict[str, Any] | None:
    """The recipe of the whole world in `directory`, or None."""
    try:
        return json.loads((directory / "world.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _code_digest() -> str:
    """Digest of the source that makes the world: a changed constant, prompt or training step is another recipe."""
    from rlvid.data import prompts
    from rlvid.teacher import annotation, student
    from rlvid.world import evidence, premise, premised, tiny_model, warm_start

    modules = (prompts, evidence, premise, premised, tiny_model, warm_start, annotation, student)
    sources = [Path(__file__), *(Path(str(module.__file__)) for module in modules)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
