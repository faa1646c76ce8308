"""Qwen3-VL with experts in place of the text model's MLPs. The hub keeps their matrices turned, transformers turns them back as it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlvid.families.base import Tower
from rlvid.families.experts import Experts
from rlvid.families.qwen3_vl import Qwen3VL


class Qwen3VLMoe(Experts, Qwen3VL):
    model_type = "qwen3_vl_moe"

    def published(self, name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
        yield name, tensor.transpose(1, 2) if name.endswith(("experts.gate_up_proj", "experts.down_proj")) else tensor

    def towers(self, config: Any) -> tuple[Tower, Tower]:
        text, towers = config.get_text_config(), super().towers(config)
        sparse = [
            number for number in range(text.num_hidden_layers) if number not in (text.mlp_only_layers or []) and (number + 1) % text.decoder_sparse_step == 0
        ]
        return self.with_experts(towers, layers=len(sparse), experts=text.num_experts, active=text.num_experts_per_tok, inner=text.moe_intermediate_size)

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        from transformers import Qwen3VLMoeConfig

        text, vision = self.tiny_parts(text, vision)
        return Qwen3VLMoeConfig(text_config=text | self.tiny_experts(text), vision_config=vision, **media)
