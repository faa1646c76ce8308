"""Questions with images, two videos, both, or neither beside those of a plain world: its own clips, and pictures cut from them. The model is the plain world's.

Each new kind is as many questions as a kind of the plain world, asked in words that its model knows; `source` names it in metrics (correct/image, ...).

    image         a frame that shows the thing           What colour is it?
    two_videos    two clips, one thing in each           Which colour comes first?
    image_video   a frame and a clip, in either order    Which colour comes first?
    text          nothing                                It is red. What colour is it?
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlvid.types import Question
from rlvid.world.scenes import COLOURS, World, _line, _read

Row = dict[str, Any]


def mix(world: World, *, seed: int = 0) -> World:
    """The world with both question files replaced by mixed ones, written beside them. The plain questions are in them, as they were."""
    folder = world.train.parent
    (folder / "pictures").mkdir(exist_ok=True)
    made = {split: folder / f"{split}.mixed.jsonl" for split in ("train", "eval")}
    for split, path in made.items():
        plain = _read(folder, split)
        rows = [_line(replace(question, video=str(Path(question.video).relative_to(folder)))) for question in plain]
        rows += _others([question for question in plain if question.source == "colour"], folder, random.Random(f"{seed}/{split}"))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(world, train=made["train"], eval=made["eval"])


def _others(glimpses: list[Question], folder: Path, rng: random.Random) -> Iterator[Row]:
    """The four kinds about clips with one thing each."""
    for number, question in enumerate(glimpses):
        other = rng.choice([one for one in glimpses if one.answer != question.answer])
        own, clip, picture = _clip(question, folder), _clip(other, folder), _picture(question, folder)
        first = {"question": "Which colour comes first?", "answer": question.answer}
        yield _row(question, "image", {"image": picture, "question": "What colour is it?", "answer": question.answer})
        yield _row(question, "two_videos", first | {"media": [{"video": own}, {"video": clip}]})
        turned = number // 4 % 2  # every colour comes first as an image, and as a clip
        media = [{"video": own}, {"image": _picture(other, folder)}] if turned else [{"image": picture}, {"video": clip}]
        yield _row(question, "image_video", first | {"media": media})
        yield _row(question, "text", {"question": f"It is {question.answer}. What colour is it?", "answer": question.answer})


def _row(question: Question, kind: str, keys: Row) -> Row:
    return {"id": f"{question.id}-{kind}", "task": "multiple_choice", "options": list(COLOURS), "source": kind} | keys


def _clip(question: Question, folder: Path) -> str:
    return str(Path(question.video).relative_to(folder))


def _picture(question: Question, folder: Path) -> str:
    """A frame from the middle of what is seen, as a file of its own."""
    from PIL import Image

    from rlvid.video.clip import read_at

    path = folder / "pictures" / f"{Path(question.video).stem}.png"
    if not path.exists():
        start_s, end_s = question.evidence.spans[0]
        clip = read_at(question.video, [(start_s + end_s) / 2], work_size_for=lambda height, width: (height, width))
        Image.fromarray(clip.frames_NHWC[0]).save(path)
    return str(path.relative_to(folder))
