"""Qwen2.5-VL: time is in the positions, evenly, in seconds per merged frame; a vision tower with windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlvid.families.base import Family


class Qwen25VL(Family):
    model_type = "qwen2_5_vl"
    vision_gated = True
    vision_linear = ("qkv", "proj", "gate_proj", "up_proj", "down_proj", "mlp.0", "mlp.2")
    patch = 14
    tiny_frame = (84, 84)

    def runs(self, config: Any, grid_thw: list[int], seconds_per_grid: float | None) -> Iterator[Any]:
        import numpy as np

        from rlvid.families.mrope import indices

        (t, h, w), merge = grid_thw, config.vision_config.spatial_merge_size
        cells = indices(t, h // merge, w // merge)
        assert seconds_per_grid is not None or t == 1, "a video has seconds"
        cells[0] = (cells[0] * ((seconds_per_grid or 0.0) * config.vision_config.tokens_per_second)).astype(np.int64)
        yield cells

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        from transformers import Qwen2_5_VLConfig

        last = vision["depth"] - 1
        vision = vision | {"spatial_patch_size": self.patch, "window_size": 112, "fullatt_block_indexes": [last], "tokens_per_second": 2}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **media)

    def tiny_processor(self, tokenizer: Any, pixels: dict[str, Any]) -> Any:
        from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

        image = Qwen2VLImageProcessor(**pixels)
        video = Qwen2VLVideoProcessor(cap_pixels_per_frame=False, **pixels)
        return Qwen2_5_VLProcessor(image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=self.chat_template)
