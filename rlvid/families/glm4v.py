"""GLM-4.1V: every merged frame stands in a video as an image of its own, with its whole second behind it; queries and keys are turned in part, by neighbours,
and every half of a layer is normalized before and behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rlvid.families.base import Family, Tower

MEDIA = ("<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|video|>", "<|end_of_video|>")


class Glm4v(Family):
    model_type = "glm4v"
    media_tokens = MEDIA
    placeholder = "<|begin_of_video|><|video|><|end_of_video|>"
    image_placeholder = "<|begin_of_image|><|image|><|end_of_image|>"
    frame_key = "image_token_id"
    uneven_times = True
    timestamp_tokens = 8
    text_linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
    vision_linear = ("qkv", "proj", "gate_proj", "up_proj", "down_proj")
    vision_gated = True
    patch = 14
    tiny_frame = (84, 84)
    special_tokens = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", *MEDIA)
    end_token = "<|user|>"  # a turn has no end of its own: the next one begins
    media_keys = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    chat_template = """[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] -%}
{% if item['type'] == 'video' or 'video' in item %}<|begin_of_video|><|video|><|end_of_video|>
{%- elif item['type'] == 'image' or 'image' in item or 'image_url' in item %}<|begin_of_image|><|image|><|end_of_image|>
{%- elif 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""

    def teach_vllm(self) -> None:
        """vLLM 0.32 takes one video a prompt, though all of its code counts on several, and leaves out frames that stand at a time twice, as evidence does
        (rlvid/teacher/student.py), where the processor does not."""
        from vllm.model_executor.models.glm4_1v import Glm4vProcessingInfo

        info: Any = Glm4vProcessingInfo
        info.get_supported_mm_limits = lambda _self: {"image": None, "video": None}
        if not hasattr(info, "seconds_as_sampled"):
            info.seconds_as_sampled = info._get_video_second_idx_glm4v
            info._get_video_second_idx_glm4v = _seconds

    def runs(self, config: Any, grid_thw: list[int], seconds_per_grid: float | None) -> Iterator[Any]:
        from rlvid.families.mrope import indices

        (t, h, w), merge = grid_thw, config.vision_config.spatial_merge_size
        return (indices(1, h // merge, w // merge) for _ in range(t))

    def towers(self, config: Any) -> tuple[Tower, Tower]:
        text, vision = super().towers(config)
        return replace(text, norms=4), replace(vision, inner=config.vision_config.out_hidden_size)

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        from transformers import Glm4vConfig

        rope = text["rope_parameters"] | {"mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5}
        # transformers always has the biases, vLLM where the configuration says so, as the published one does.
        text = text | {"rope_parameters": rope, "attention_bias": True}
        return Glm4vConfig(text_config=text, vision_config=vision | {"image_size": 6 * self.patch}, **media)

    def tiny_processor(self, tokenizer: Any, pixels: dict[str, Any]) -> Any:
        from transformers import Glm4vImageProcessor, Glm4vProcessor, Glm4vVideoProcessor

        # A clip's bounds are those of all its frames together, an image's those of a pair.
        least, most = pixels["size"]["shortest_edge"], pixels["size"]["longest_edge"]
        clip = pixels | {"size": {"shortest_edge": 2 * least, "longest_edge": 64 * most}}
        image, video = Glm4vImageProcessor(**pixels), Glm4vVideoProcessor(**clip)
        return Glm4vProcessor(image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=self.chat_template)


def _seconds(self: Any, metadata: dict[str, Any], total_frames: int) -> list[int]:
    """In place of vLLM's own: whole seconds of every other frame, all of those that are given."""
    if metadata["do_sample_frames"]:
        sampled: list[int] = self.seconds_as_sampled(metadata, total_frames)
        return sampled
    return [int(index / metadata["fps"]) for index in metadata["frames_indices"][::2]]
