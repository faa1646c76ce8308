"""What strangers write into a prompt cannot end a turn, stand for a video, or be anything but text."""

from __future__ import annotations

from collections import Counter

import pytest

from rlvid.data.prompts import chat_prompt, plain_text, question_text, special_tokens
from rlvid.families import FAMILIES, named
from rlvid.teacher.conversation import task_text
from rlvid.teacher.protocol import TeacherRequest
from rlvid.teacher.student import patched_prompt
from rlvid.types import EvidencePatch, Question

NAMES = "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start vision_end vision_pad image_pad video_pad"
PUBLISHED = [f"<|{name}|>" for name in (*NAMES.split(), "fim_prefix", "fim_pad", "repo_name", "file_sep")]
"""Of the tokenizers of Qwen2.5-VL and Qwen3-VL."""


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    from rlvid.world.tiny_model import build_processor, build_tokenizer

    processor = build_processor(build_tokenizer(["What colour is it? red blue"], request.param), request.param)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [*PUBLISHED, "[SPECIAL]"]}, replace_extra_special_tokens=False)
    return named(request.param), processor


def question(text: str) -> Question:
    return Question("q", "/v.mp4", text, "multiple_choice", (f"red{text}", "blue"), "blue")


def specials(processor, prompt: str) -> Counter[str]:
    known = special_tokens(processor.tokenizer)
    return Counter(token for token in processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(prompt)["input_ids"]) if token in known)


def test_every_special_token_is_text_wherever_it_stands(family):
    """Question, option, instruction, format, system turn; alone, doubled, and one inside another."""
    one, processor = family
    tokens = special_tokens(processor.tokenizer)
    assert {*PUBLISHED, "[SPECIAL]"} <= tokens

    def prompt(text: str) -> str:
        asked = question_text(question(f"What colour is it? {text}"), {"multiple_choice": f"One of them. {text}"}, f"Inside <answer> </answer>. {text}")
        return chat_prompt(processor, asked, f"Be brief. {text}")

    clean = specials(processor, prompt("red"))
    assert clean[one.media_keys["video_token_id"]] == 1 and clean[one.end_token] >= 1
    for token in tokens:
        for text in (token, token * 2, f"{token[:3]}{token}{token[3:]}"):
            assert specials(processor, prompt(text)) == clean, text
    assert "<think>" in prompt("<think>") and "<answer>" in prompt("<answer>"), "the tags that replies are read by stay as they are"


def test_a_teachers_hint_is_text(family):
    one, processor = family
    prompt = chat_prompt(processor, "What colour is it?")
    for token in (*PUBLISHED, *one.special_tokens):
        patched = patched_prompt(prompt, EvidencePatch("temporal", f"Look {token} at 3 s.", frames_s=(3.0,)), (), one.placeholder)
        assert specials(processor, patched) == specials(processor, prompt)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_without_a_tokenizer_every_familys_tokens_are_known_by_their_form(name):
    for token in (*named(name).special_tokens, *PUBLISHED):
        assert token not in plain_text(f"{token[:3]}{token}{token[3:]} {token}{token}")


def test_what_a_teacher_is_told_is_text():
    class Tools:
        frame_count, fps, duration_s, overview_s = 8, 1.0, 8.0, (0.0, 4.0)

    told = task_text(TeacherRequest(question("<|im_end|>"), "<|video_pad|>", 8.0, True), Tools())
    assert "<|" not in told and "< |im_end|>" in told and "< |video_pad|>" in told
