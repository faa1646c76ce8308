"""Who sees whom in a packed row: a token sees its own prompt and its own answer so far, no other answer and no other prompt.

Two ways, both (nearly) without the pairs that are hidden: flash attention over the prompts, over their answers at the prompts' keys and over each answer by
itself, merged (learner/merged.py); or flex attention, which compiles the mask and needs a GPU.
The vision tower's windows attend by themselves, those of one length in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from rlvid.families import named
from rlvid.learner.divided import DividedAttention, DividedRow, Peers
from rlvid.learner.merged import MergedAttention, Row

PACKED = {"sdpa": "packed_sdpa", "flex_attention": "packed_flex"}
"""Names under which transformers finds these (flex attention under its own it refuses for Qwen2.5-VL, whose vision tower cannot use it)."""

WINDOWS = "sdpa_in_windows_not_flash"
"""Transformers hands the windows' borders to what bears "flash" in its name, and would call any other once a window: thousands of times a forward."""

Lengths = Sequence[Sequence[int]]
"""Of a packed row: for each prompt its tokens, then those of each of its answers."""


def set_attention(model: Any, kind: str) -> None:
    """Make a model take packed rows: the text model by `kind` (sdpa or flex_attention)."""
    from transformers import AttentionInterface
    from transformers.integrations.flex_attention import flex_attention_forward

    AttentionInterface.register(PACKED["sdpa"], packed_sdpa)
    AttentionInterface.register(PACKED["flex_attention"], flex_attention_forward)
    quicken_vision(model, PACKED[kind])


def quicken_vision(model: Any, text: str = "sdpa") -> None:
    """The vision tower, whose windows are short, attends by SDPA, those of one length in one call; its patches are embedded by a matrix product.
    `text`: name of the text model's attention."""
    from transformers import AttentionInterface

    AttentionInterface.register(WINDOWS, sdpa_in_windows)
    model.set_attn_implementation(named(model.config.model_type).attention(text, WINDOWS))
    for module in model.modules():
        if type(module) is torch.nn.Conv3d and module.kernel_size == module.stride:
            module.__class__ = PatchProduct


class PatchProduct(torch.nn.Conv3d):
    """A convolution that sees each patch by itself, as the matrix product that it is: several times faster, above all backwards."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """[N, channels, frames, height, width] of patches as large as the kernel -> [N, out, 1, 1, 1]."""
        assert patches.shape[2:] == self.kernel_size, f"a patch of {tuple(patches.shape[2:])} under a kernel of {self.kernel_size}"
        return torch.nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def attention_arguments(lengths: Lengths, kind: str, device: torch.device, dtype: torch.dtype, peers: Peers | None = None) -> dict[str, Any]:
    """What the model is called with, so that its attention knows the row. The same for all layers. `peers`: the ranks that share the row."""
    if peers is not None:
        return {"row": DividedRow(lengths, peers, device, dtype)}
    if kind == "flex_attention":
        return {"attention_mask": block_mask(lengths, device)}
    return {"row": Row(lengths, device, dtype)}


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


def packed_sdpa(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: None, *, row: Row | DividedRow, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: queries [1, heads, N, D], keys and values [1, fewer heads, N, D] -> [1, N, heads, D]."""
    tensors_NHD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attention = MergedAttention if isinstance(row, Row) else DividedAttention
    return attention.apply(*tensors_NHD, row, scaling)[None], None


def sdpa_in_windows(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, cu_seq_lens_q: torch.Tensor, scaling: float, **told: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [1, heads, N, D] -> [1, N, heads, D]. `cu_seq_lens_q`: where windows begin and the last one ends.

    On a GPU in half precision it is one call of flash attention over windows of any length, whose borders never come to the host.
    """
    if query.is_cuda and query.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        asked, before, behind = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        longest, ends = int(told["max_length_q"]), cu_seq_lens_q.int()
        seen_NHD: Any = varlen_attn(asked, before, behind, ends, ends, longest, longest, scale=scaling)
        return seen_NHD[None], None
    return windows_by_length(query, key, value, cu_seq_lens_q.diff().tolist(), scaling)[None], None


def windows_by_length(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], scaling: float) -> torch.Tensor:
    """[N, heads, D]: windows of one length in one call."""
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    seen: list[Any] = [None] * len(lengths)
    for length in set(lengths):
        alike = [at for at, other in enumerate(lengths) if other == length]
        asked, before, behind = (torch.cat([windows[at] for at in alike]) for windows in (queries, keys, values))
        for at, seen_HLD in zip(alike, scaled_dot_product_attention(asked, before, behind, scale=scaling), strict=True):
            seen[at] = seen_HLD.transpose(0, 1)
    return torch.cat(seen)
