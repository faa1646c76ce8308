"""Qwen3-VL: time is written into the text before every merged frame; deepstack; queries and keys are normalized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlvid.families.base import Family


class Qwen3VL(Family):
    model_type = "qwen3_vl"
    uneven_times = True
    timestamp_tokens = 16
    query_key_norm = True
    vision_linear = ("qkv", "proj", "linear_fc1", "linear_fc2")
    patch = 16
    tiny_frame = (96, 96)

    def runs(self, config: Any, grid_thw: list[int], seconds_per_grid: float | None) -> Iterator[Any]:
        from rlvid.families.mrope import indices

        (t, h, w), merge = grid_thw, config.vision_config.spatial_merge_size
        return (indices(1, h // merge, w // merge) for _ in range(t))

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        from transformers import Qwen3VLConfig

        text, vision = self.tiny_parts(text, vision)
        return Qwen3VLConfig(text_config=text, vision_config=vision, **media)

    @staticmethod
    def tiny_parts(text: dict[str, Any], vision: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both parts of a tiny configuration, with what Qwen3-VL adds to the shared sizes."""
        rope = text["rope_parameters"] | {"mrope_interleaved": True}
        text = text | {"head_dim": text["hidden_size"] // text["num_attention_heads"], "rope_parameters": rope}
        return text, vision | {"num_position_embeddings": 36, "deepstack_visual_indexes": [*range(vision["depth"] - 1)]}

    def tiny_processor(self, tokenizer: Any, pixels: dict[str, Any]) -> Any:
        from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

        # Qwen3-VL's bounds are those of the whole clip, not of one frame.
        least, most = pixels["size"]["shortest_edge"], pixels["size"]["longest_edge"]
        clip = pixels | {"size": {"shortest_edge": 2 * least, "longest_edge": 64 * most}}
        image, video = Qwen2VLImageProcessor(**pixels), Qwen3VLVideoProcessor(cap_pixels_per_frame=False, **clip)
        return Qwen3VLProcessor(image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=self.chat_template)
