"""Who sees whom in a packed row: a token sees its own prompt and its own answer so far, no other answer and no other prompt.

Two ways, both (nearly) without the pairs that are hidden: SDPA over each prompt, then over its answers side by side, a few short ones or a long one behind
each copy of the prompt's keys and values (after Prefix Grouper, arXiv 2506.05433); or flex attention, which compiles the mask and needs a GPU.
The vision tower's windows attend by themselves, those of one length in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from rlvid.families import named

PACKED = {"sdpa": "packed_sdpa", "flex_attention": "packed_flex"}
"""Names under which transformers finds these (flex attention under its own it refuses for Qwen2.5-VL, whose vision tower cannot use it)."""

WINDOWS = "sdpa_in_windows_not_flash"
"""Transformers hands the windows' borders to what bears "flash" in its name, and would call any other once a window: thousands of times a forward."""

TOGETHER = 128
"""Tokens of answers that attend as one group."""
Lengths = Sequence[Sequence[int]]
"""Of a packed row: for each prompt its tokens, then those of each of its answers."""


def set_attention(model: Any, kind: str) -> None:
    """Make a Qwen-VL model take packed rows: the text model by `kind` (sdpa or flex_attention), the vision tower, whose windows are short, by SDPA."""
    from transformers import AttentionInterface
    from transformers.integrations.flex_attention import flex_attention_forward

    AttentionInterface.register(PACKED["sdpa"], packed_sdpa)
    AttentionInterface.register(PACKED["flex_attention"], flex_attention_forward)
    AttentionInterface.register(WINDOWS, sdpa_in_windows)
    model.set_attn_implementation(named(model.config.model_type).attention(PACKED[kind], WINDOWS))


def attention_arguments(lengths: Lengths, kind: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What the model is called with, so that its attention knows the row. The same for all layers."""
    if kind == "flex_attention":
        return {"attention_mask": block_mask(lengths, device)}
    return {"row": [Part(prompt, answers, device, dtype) for prompt, *answers in lengths]}


def block_mask(lengths: Lengths, device: torch.device) -> Any:
    """flex attention's BlockMask, whose hidden blocks are never computed."""
    from torch.nn.attention.flex_attention import create_block_mask

    prompt_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor([sum(part) for part in lengths])).to(device)
    parts = torch.cat([torch.arange(len(part)) for part in lengths])
    answer_N = torch.repeat_interleave(parts, torch.tensor([length for part in lengths for length in part])).to(device)

    def sees(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        shared = (answer_N[key] == 0) | (answer_N[query] == answer_N[key])
        return (query >= key) & (prompt_N[query] == prompt_N[key]) & shared

    return create_block_mask(sees, B=1, H=1, Q_LEN=len(prompt_N), KV_LEN=len(prompt_N), device=device)


class Part:
    """One prompt of P tokens and its answers in a packed row. Answers stand together in G groups of up to L tokens, each group behind the prompt.

    places_GL: of the answers' tokens, counted from the prompt's first (behind a shorter group's end: any). real_A: where the A tokens of the
    answers are in that table. mask_G1LK: what an answer's token sees of the K = P + L keys before it, 0 or -inf, added to the scores.
    """

    def __init__(self, prompt: int, answers: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        groups = answers_together(answers)
        numbers = [torch.repeat_interleave(torch.arange(len(group)), torch.tensor(group)) for group in groups]
        answer_GL = pad_sequence(numbers, batch_first=True, padding_value=-1)
        sizes_G, within_L = torch.tensor([len(number) for number in numbers]), torch.arange(answer_GL.shape[1])
        starts_G = prompt + sizes_G.cumsum(0) - sizes_G
        hidden_GLL = (answer_GL[:, :, None] != answer_GL[:, None]) | (within_L[:, None] < within_L)
        self.prompt, self.length = prompt, prompt + sum(answers)
        self.places_GL = (starts_G[:, None] + within_L).clamp(max=self.length - 1).to(device)
        self.real_A = (answer_GL >= 0).flatten().nonzero()[:, 0].to(device)
        own_GLL = torch.zeros(hidden_GLL.shape, dtype=dtype, device=device).masked_fill(hidden_GLL.to(device), float("-inf"))
        self.mask_G1LK = pad(own_GLL, (prompt, 0))[:, None]


def answers_together(answers: Sequence[int]) -> list[list[int]]:
    """Their lengths in groups of up to TOGETHER tokens, or of one answer: the pairs hidden within a group cost less than a copy of the prompt's keys."""
    groups: list[list[int]] = []
    for length in answers:
        if not groups or sum(groups[-1]) + length > TOGETHER:
            groups.append([])
        groups[-1].append(length)
    return groups


def packed_sdpa(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: None, *, row: list[Part], scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: queries [1, heads, N, D], keys and values [1, fewer heads, N, D] -> [1, N, heads, D]."""
    from transformers.integrations.sdpa_attention import repeat_kv

    groups = module.num_key_value_groups
    tensors_HND = [query[0], repeat_kv(key, groups)[0], repeat_kv(value, groups)[0]]
    queries, keys, values = (tensor_HND.split([part.length for part in row], dim=1) for tensor_HND in tensors_HND)
    return torch.cat([seen for piece in zip(row, queries, keys, values, strict=True) for seen in _one_prompt(*piece, scaling)])[None], None


def _one_prompt(part: Part, query_HND: torch.Tensor, key_HND: torch.Tensor, value_HND: torch.Tensor, scaling: float) -> list[torch.Tensor]:
    """What the prompt's tokens see [P, H, D], and what those of its answers see [A, H, D]."""
    asked, keys, values = (tensor_HND[None, :, : part.prompt] for tensor_HND in (query_HND, key_HND, value_HND))
    seen_by_prompt = scaled_dot_product_attention(asked, keys, values, is_causal=True, scale=scaling)[0].transpose(0, 1)
    query, *own = (_grouped(part, tensor_HND) for tensor_HND in (query_HND, key_HND, value_HND))
    key, value = (torch.cat([before.expand(len(after), -1, -1, -1), after], dim=2) for before, after in zip((keys, values), own, strict=True))
    seen_GLHD = scaled_dot_product_attention(query, key, value, attn_mask=part.mask_G1LK, scale=scaling).transpose(1, 2)
    return [seen_by_prompt, seen_GLHD.flatten(0, 1).index_select(0, part.real_A)]


def _grouped(part: Part, tensor_HND: torch.Tensor) -> torch.Tensor:
    """[G, H, L, D] of the answers."""
    return tensor_HND.transpose(0, 1).index_select(0, part.places_GL.flatten()).unflatten(0, part.places_GL.shape).transpose(1, 2)


def sdpa_in_windows(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, cu_seq_lens_q: torch.Tensor, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [1, heads, N, D] -> [1, N, heads, D]. `cu_seq_lens_q`: where windows begin and the last one ends."""
    lengths = cu_seq_lens_q.diff().tolist()
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    seen: list[Any] = [None] * len(lengths)
    for length in set(lengths):
        alike = [at for at, other in enumerate(lengths) if other == length]
        asked, before, behind = (torch.cat([windows[at] for at in alike]) for windows in (queries, keys, values))
        for at, seen_HLD in zip(alike, scaled_dot_product_attention(asked, before, behind, scale=scaling), strict=True):
            seen[at] = seen_HLD.transpose(0, 1)
    return torch.cat(seen)[None], None
