"""Qwen3.5 with experts, and one that every token goes through. Transformers keeps fused experts as the hub does."""

from __future__ import annotations

from typing import Any

from rlvid.families.base import Tower
from rlvid.families.experts import Experts
from rlvid.families.qwen3_5 import Qwen35


class Qwen35Moe(Experts, Qwen35):
    model_type = "qwen3_5_moe"

    def towers(self, config: Any) -> tuple[Tower, Tower]:
        text = config.get_text_config()
        sizes = {"experts": text.num_experts, "active": text.num_experts_per_tok, "inner": text.moe_intermediate_size}
        return self.with_experts(super().towers(config), layers=text.num_hidden_layers, shared=text.shared_expert_intermediate_size, **sizes)

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        from transformers import Qwen3_5MoeConfig

        text = self.tiny_text(text)
        shared = {"shared_expert_intermediate_size": text["intermediate_size"] // 2}
        return Qwen3_5MoeConfig(text_config=text | self.tiny_experts(text) | shared, vision_config=vision | {"num_position_embeddings": 36}, **media)
