"""Qwen3.5 (and what shares its architecture: 3.6, 3.8): Qwen3-VL's times, positions and processor before a text model of which three layers in four are gated
delta nets. Their state runs on through a row; the learner forks it where a prompt ends (delta_net.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlvid.families.base import Tower
from rlvid.families.qwen3_vl import Qwen3VL

LINEAR = "linear_attention"


class Qwen35(Qwen3VL):
    model_type = "qwen3_5"
    cpu_dtypes = ("bfloat16",)

    def teach_vllm(self) -> None:
        """vLLM 0.32 looks in text_config alone whether the head is tied. Where config.json says so at the top only, as transformers writes it, it would make
        a head that nothing loads, and say nothing."""
        from vllm.model_executor.models.qwen3_5 import Qwen3_5ForCausalLMBase

        base: Any = Qwen3_5ForCausalLMBase
        if not hasattr(base, "made_by_text_config"):
            base.made_by_text_config = base.__init__
            base.__init__ = _tied_as_told

    def prepare(self, model: Any) -> None:
        from rlvid.families.delta_net import fork_states

        fork_states(model)

    def row_arguments(self, arguments: dict[str, Any], lengths: Any, device: Any) -> dict[str, Any]:
        from rlvid.families.delta_net import forks

        if (mask := arguments.get("attention_mask")) is not None:  # of flex attention: the linear layers take none
            arguments = arguments | {"attention_mask": {"full_attention": mask, LINEAR: None}}
        row = arguments.get("row")
        return arguments | {"forks": forks(lengths, device), "shared": row if row is not None and row.divided else None}

    def engine_options(self, *, on_gpu: bool) -> dict[str, Any]:
        # On CPU prompts are not prefilled in pieces (rlvid/process/vllm_options.py), without which vLLM keeps no recurrent states for others.
        return {} if on_gpu else {"enable_prefix_caching": False}

    def towers(self, config: Any) -> tuple[Tower, Tower]:
        text, (tower, vision) = config.get_text_config(), super().towers(config)
        linear = text.layer_types.count(LINEAR)
        keys, values = text.linear_num_key_heads * text.linear_key_head_dim, text.linear_num_value_heads * text.linear_value_head_dim
        state = text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
        inputs = (2 * keys + values) * (text.linear_conv_kernel_dim - 1)
        shape = {"linear_layers": linear, "linear_mixed": 2 * keys + values, "linear_value": values, "linear_state": state, "linear_inputs": inputs}
        return replace(tower, **shape), vision

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        from transformers import Qwen3_5Config

        return Qwen3_5Config(text_config=self.tiny_text(text), vision_config=vision | {"num_position_embeddings": 36}, **media)

    def tiny_text(self, text: dict[str, Any]) -> dict[str, Any]:
        """Half of the layers linear; their head size is one that vLLM's CPU kernels know. What `text` says of these itself stands."""
        rope = text["rope_parameters"] | {"mrope_interleaved": True, "partial_rotary_factor": 0.5}
        linear = {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_conv_kernel_dim": 4}
        kinds = [LINEAR if number % 2 == 0 else "full_attention" for number in range(text["num_hidden_layers"])]
        return linear | {"head_dim": 64, "layer_types": kinds} | text | {"rope_parameters": rope}


def _tied_as_told(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
    """In place of the constructor of vLLM's language model."""
    config = vllm_config.model_config
    config.hf_text_config.tie_word_embeddings = config.hf_config.tie_word_embeddings
    self.made_by_text_config(vllm_config=vllm_config, prefix=prefix)
