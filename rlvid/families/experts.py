"""What families with experts share. Their load-balancing loss is off: it stands in transformers' own language-model loss, which the learner does not use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlvid.families.base import Family, Tower


class Experts(Family):
    """Mixed into a family whose MLPs are experts."""

    has_experts = True

    def routers(self, model: Any) -> list[Any]:
        return [getattr(layer.mlp, "gate", None) for layer in model.model.language_model.layers]

    def engine_options(self, *, on_gpu: bool) -> dict[str, Any]:
        # vLLM's other kernels reorder the experts' matrices as they are loaded; these read them as they stand in the checkpoint, and so can the checksum.
        return super().engine_options(on_gpu=on_gpu) | ({"moe_backend": "triton"} if on_gpu else {})

    def save(self, model: Any, folder: Any) -> None:
        # transformers 5.19 does not turn experts back as it writes (it compares their shape with its own), and splits fused ones that the hub keeps fused.
        own = {name: parameter.detach() for name, parameter in model.named_parameters()}
        state = {name: tensor.contiguous() for key, parameter in own.items() for name, tensor in self.published(key, parameter)}
        model.save_pretrained(folder, state_dict=state, save_original_format=False)

    @staticmethod
    def with_experts(towers: tuple[Tower, Tower], *, layers: int, experts: int, active: int, inner: int, shared: int = 0) -> tuple[Tower, Tower]:
        """Text and vision tower, the text's with `layers` of experts, `active` of which a token goes through, and the `shared` inner size of another."""
        text, vision = towers
        return replace(text, expert_layers=layers, experts=experts, active_experts=active, expert_inner=inner, shared_inner=shared), vision

    @staticmethod
    def tiny_experts(text: dict[str, Any]) -> dict[str, Any]:
        """Four, of which a token goes through two."""
        # No square matrices: transformers tells by the shape whether one has to be turned as it is read.
        sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": text["intermediate_size"] // 64 * 16 + 16}
        return sizes | {"norm_topk_prob": True, "router_aux_loss_coef": 0.0}
