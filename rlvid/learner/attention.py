"""Who sees whom in a packed row: a token sees its own prompt and its own answer so far, no other answer and no other prompt."""

from __future__ import annotations

from typing import Any

import torch

PACKED_FLEX = "packed_flex"
"""Name under which transformers finds flex attention for packed rows: under its own name it refuses Qwen2.5-VL, whose vision tower cannot use it."""


def per_part(kind: str) -> dict[str, str]:
    """What `from_pretrained(attn_implementation=)` takes: the text model as told; the vision tower, whose windows are short, with sdpa."""
    if kind == "flex_attention":
        from transformers import AttentionInterface
        from transformers.integrations.flex_attention import flex_attention_forward

        AttentionInterface.register(PACKED_FLEX, flex_attention_forward)
        kind = PACKED_FLEX
    return {"": "sdpa", "text_config": kind, "vision_config": "sdpa"}


def attention_mask(prompt_N: torch.Tensor, answer_N: torch.Tensor, kind: str) -> Any:
    """Mask for the text model, made where the tensors are.

    prompt_N: number of the prompt that a token belongs to. answer_N: number of its answer, 0 for the prompt itself.
    sdpa: [1, 1, N, N] bool. flex_attention: a BlockMask, whose hidden blocks are never computed.
    """

    def sees(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        shared = (answer_N[key] == 0) | (answer_N[query] == answer_N[key])
        return (query >= key) & (prompt_N[query] == prompt_N[key]) & shared

    length, device = len(prompt_N), prompt_N.device
    if kind == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(sees, B=1, H=1, Q_LEN=length, KV_LEN=length, device=device)
    every = torch.arange(length, device=device)
    return sees(None, None, every[:, None], every[None, :])[None, None]
