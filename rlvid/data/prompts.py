"""A question becomes the text of one chat prompt; the video stands in front of it as the template's own placeholder."""

from __future__ import annotations

from typing import Any

from rlvid.types import Question

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

INSTRUCTIONS = {
    "multiple_choice": "Answer with one of the options.",
    "open": "Answer in a few words.",
    "numeric": "Answer with a number.",
    "regression": "Answer with a number.",
    "temporal_grounding": "Answer with the start and end time in seconds.",
    "grounded_qa": "Answer, then give the start and end time in seconds.",
}
FORMAT = "Think inside <think> </think>, then answer inside <answer> </answer>."


def question_text(question: Question, instructions: dict[str, str] | None = None, format_hint: str = FORMAT) -> str:
    """The user's turn without the video: question, lettered options, what kind of answer is wanted."""
    lines = [question.question]
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    hint = (INSTRUCTIONS if instructions is None else instructions).get(question.task, "")
    lines += [line for line in (hint, format_hint) if line]
    return "\n".join(lines)


def chat_prompt(processor: Any, text: str, system: str = "") -> str:
    """The prompt string with the video placeholder, by the checkpoint's own chat template."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    messages.append({"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]})
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
