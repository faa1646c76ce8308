"""A question becomes the text of one chat prompt. Its media stand as the template's own placeholders where `<video>` and `<image>` mark their places in the
text, in front of it where nothing is marked.

Text that strangers wrote (questions, options, teachers' hints, replies of models) goes through `plain_text`: it cannot end a turn or stand for a video.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from rlvid.families import FAMILIES
from rlvid.types import Question

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

INSTRUCTIONS = {
    "multiple_choice": "Answer with one of the options.",
    "open": "Answer in a few words.",
    "numeric": "Answer with a number.",
    "regression": "Answer with a number.",
    "math": "Answer with one number or formula, in LaTeX.",
    "temporal_grounding": "Answer with the start and end time in seconds.",
    "grounded_qa": "Answer, then give the start and end time in seconds.",
    "spatial_grounding": 'Answer with its box as JSON, coordinates from 0 to 1000 of the width and the height: {"boxes": [x1, y1, x2, y2]}.',
    "tracking": "Answer with one box a second as JSON, by seconds, coordinates from 0 to 1000 of the width and the height: "
    '{"boxes": {"1": [x1, y1, x2, y2], ...}}.',
    "spatio_temporal_grounding": "Answer with the start and end time in seconds and one box for every second in between as JSON, coordinates from 0 to 1000 of "
    'the width and the height: {"time": [start, end], "boxes": {"1": [x1, y1, x2, y2], ...}}.',
}
ALL_OPTIONS = "Answer with all options that are right."
ALL_SPANS = {
    "temporal_grounding": "Answer with the start and end time in seconds of every time it happens.",
    "grounded_qa": "Answer, then give the start and end time in seconds of every time it can be seen.",
}
"""In place of the instructions above, where a question asks for all."""
FORMAT = "Think inside <think> </think>, then answer inside <answer> </answer>."


MARK = re.compile(r"<(video|image)>")


def marks(*texts: str) -> tuple[str, ...]:
    """The kind of every mark in the texts, in order."""
    return tuple(found[1] for text in texts for found in MARK.finditer(text))


def question_text(question: Question, instructions: dict[str, str] | None = None, format_hint: str = FORMAT) -> str:
    """The user's turn without the video: question, lettered options, what kind of answer is wanted."""
    lines = [question.question]
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    hint = _instructions(question) if instructions is None else instructions.get(question.task, "")
    lines += [line for line in (hint, format_hint) if line]
    return "\n".join(lines)


def _instructions(question: Question) -> str:
    if question.options and question.answers:
        return f"{ALL_OPTIONS} {INSTRUCTIONS[question.task]}" if question.task == "grounded_qa" else ALL_OPTIONS
    return ALL_SPANS[question.task] if question.span_mode == "all" else INSTRUCTIONS.get(question.task, "")


OTHER_SPECIAL = frozenset(token for family in FAMILIES.values() for token in family.special_tokens if "<|" not in token)


def chat_prompt(processor: Any, text: str, system: str = "", media: Sequence[str] = ("video",)) -> str:
    """The prompt string with the placeholders, by the checkpoint's own chat template. No special token stands in it but the template's own.

    media: `video` or `image` for each, in their order; where the text has marks, it has one for each.
    """
    special = special_tokens(processor.tokenizer)
    system, text = plain_text(system, special), plain_text(text, special)
    messages: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    messages.append({"role": "user", "content": _parts(text, tuple(media))})
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _parts(text: str, media: tuple[str, ...]) -> list[dict[str, str]]:
    """What the user's turn is made of. re.split gives text, kind, text, kind, ..., text."""
    marked = marks(text)
    if not marked:
        return [*({"type": kind} for kind in media), {"type": "text", "text": text}]
    if marked != media:
        raise ValueError(f"the text marks {', '.join(marked)}; there are {', '.join(media) or 'no media'}")
    pieces = MARK.split(text)
    parts = [{"type": piece} if number % 2 else {"type": "text", "text": piece} for number, piece in enumerate(pieces)]
    return [part for part in parts if part.get("text") != ""]


def plain_text(text: str, special: Collection[str] = ()) -> str:
    """`text` without any of these tokens, as a tokenizer would see them: `<|im_end|>` becomes `< |im_end|>`. Without a tokenizer at hand, every `<|` is
    broken, and what else families have as special tokens."""
    if not special:
        text, special = text.replace("<|", "< |"), OTHER_SPECIAL
    for token in sorted(special, key=len, reverse=True):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """What a tokenizer reads as one token with a meaning of its own: those that it calls special, and control tokens of chat templates that it does not."""
    added = tokenizer.added_tokens_decoder.values()
    return frozenset(tokenizer.all_special_tokens) | {str(token) for token in added if token.special or str(token).startswith("<|")}
