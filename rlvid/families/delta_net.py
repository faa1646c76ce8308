"""Gated delta nets over a packed row: the state is forked where a prompt ends.

A linear layer reads its row from left to right and carries a state along, so in `[prompt | a1 | ... | aM]` every answer would begin with what the answers and
prompts before it have left behind. Here a prompt's convolution and delta rule run once; every answer of it begins with the last inputs of the prompt's
convolution and with the prompt's final state, through which its gradient flows back. Answers of about one length run side by side.

Where several ranks share a row (rlvid/learner/divided.py) each gathers what the convolution reads, computes the whole row for a share of the value heads, and
gets back all heads of its own tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import pad, softplus

CHUNK = 32
"""Tokens that the delta rule computes at a time: a shorter answer costs as many."""


@dataclass(frozen=True)
class Batch:
    """G answers side by side. places_GL: of their tokens in the row (behind an answer's end: its last). real_N: which of the G L are tokens, flat."""

    places_GL: torch.Tensor
    real_N: torch.Tensor


class Forked:
    """One prompt of P tokens and its answers in a row. order_N: where the row's tokens stand in the prompt's outputs followed by those of all batches."""

    def __init__(self, start: int, prompt: int, answers: Sequence[int], device: torch.device) -> None:
        self.prompt = slice(start, start + prompt)
        lengths = torch.tensor(list(answers))
        starts = start + prompt + lengths.cumsum(0) - lengths
        self.batches, places = [], [torch.arange(prompt)]
        for group in alike(answers):
            within_L = torch.arange(int(lengths[group].max()))
            places_GL = starts[group, None] + torch.minimum(within_L, lengths[group, None] - 1)
            real_N = (within_L < lengths[group, None]).flatten().nonzero()[:, 0]
            places.append(places_GL.flatten()[real_N] - start)
            self.batches.append(Batch(places_GL.to(device), real_N.to(device)))
        self.order_N = torch.cat(places).argsort().to(device)


def alike(answers: Sequence[int]) -> list[list[int]]:
    """Numbers of the answers in groups, whose longest is less than twice as many chunks as its shortest: what is computed for nothing stays below half."""
    groups: dict[int, list[int]] = {}
    for number, length in enumerate(answers):
        groups.setdefault((-(-length // CHUNK) - 1).bit_length(), []).append(number)
    return list(groups.values())


def forks(lengths: Sequence[Sequence[int]], device: torch.device) -> list[Forked]:
    """Of a packed row: for each prompt its tokens, then those of each of its answers."""
    starts = [0]
    for part in lengths:
        starts.append(starts[-1] + sum(part))
    return [Forked(start, part[0], part[1:], device) for start, part in zip(starts, lengths, strict=False)]


def fork_states(model: Any) -> None:
    """Make every gated delta net of the model take `forks` from the arguments that all layers are called with."""
    for module in model.modules():
        if hasattr(module, "in_proj_qkv") and hasattr(module, "A_log"):
            module.forward = MethodType(_forward, module)


def _forward(self: Any, hidden_states: torch.Tensor, *args: Any, forks: list[Forked] | None = None, shared: Any = None, **kwargs: Any) -> torch.Tensor:
    """In place of the module's own, which runs where there are no `forks`: [1, N, H] -> [1, N, H]. `shared`: the row, where this rank has a share of it."""
    if forks is None:
        plain: torch.Tensor = type(self).forward(self, hidden_states, *args, **kwargs)
        return plain
    hidden_NH = hidden_states[0]
    mixed_NC = self.in_proj_qkv(hidden_NH)
    # In float32, or the decay underflows; so does the module's own.
    decay_ND = -self.A_log.float().exp() * softplus(self.in_proj_a(hidden_NH).float() + self.dt_bias)
    rate_ND = self.in_proj_b(hidden_NH).sigmoid()
    if shared is None:
        seen_NDV = torch.cat([_one_prompt(self, fork, mixed_NC, decay_ND, rate_ND, slice(None)) for fork in forks])
    else:
        seen_NDV = _for_own_heads(self, forks, mixed_NC, decay_ND, rate_ND, shared)
    gate = self.in_proj_z(hidden_NH).reshape(-1, self.head_v_dim)
    normed = self.norm(seen_NDV.reshape(-1, self.head_v_dim), gate)
    out: torch.Tensor = self.out_proj(normed.reshape(1, len(hidden_NH), -1))
    return out


def _for_own_heads(self: Any, forks: list[Forked], mixed_nC: torch.Tensor, decay_nD: torch.Tensor, rate_nD: torch.Tensor, shared: Any) -> torch.Tensor:
    """[n, D, V] of this rank's tokens. A rank for which no head is left computes one for nothing: it meets the others in all collectives."""
    heads, count = shared.peers.share(self.num_v_heads), self.num_v_heads
    idle = heads.start == heads.stop
    if idle:
        heads = slice(0, 1)
    mixed_NC, decay_ND, rate_ND = (shared.from_tokens_to_heads(own_n) for own_n in (mixed_nC, decay_nD, rate_nD))
    seen_NdV = torch.cat([_one_prompt(self, fork, mixed_NC, decay_ND, rate_ND, heads) for fork in forks])
    own: torch.Tensor = shared.from_heads_to_tokens(seen_NdV * 0 if idle else seen_NdV, heads, count)
    return own


def _one_prompt(self: Any, fork: Forked, mixed_NC: torch.Tensor, decay_ND: torch.Tensor, rate_ND: torch.Tensor, heads: slice) -> torch.Tensor:
    """Outputs [n, D, V] of a prompt's tokens and its answers', in the row's order. `heads`: the value heads that are wanted."""
    decay_ND, rate_ND = decay_ND[:, heads], rate_ND[:, heads]
    before = self.conv_kernel_size - 1
    mixed_PC, decay_PD, rate_PD = (tensor[fork.prompt] for tensor in (mixed_NC, decay_ND, rate_ND))
    seen_BPDV, state = _delta_rule(self, _convolved(self, mixed_PC[None]), decay_PD[None], rate_PD[None], None, True, heads)
    left_KC = pad(mixed_PC[-before:], (0, 0, max(0, before - len(mixed_PC)), 0))
    outputs = [seen_BPDV[0]]
    for batch in fork.batches:
        at = batch.places_GL
        behind_GLC = torch.cat([left_KC.expand(len(at), -1, -1), mixed_NC[at]], dim=1)
        convolved_GLC = _convolved(self, behind_GLC)[:, before:]
        seen_GLDV, _ = _delta_rule(self, convolved_GLC, decay_ND[at], rate_ND[at], state.expand(len(at), -1, -1, -1).contiguous(), False, heads)
        outputs.append(seen_GLDV.flatten(0, 1)[batch.real_N])
    return torch.cat(outputs)[fork.order_N]


def _convolved(self: Any, mixed_BNC: torch.Tensor) -> torch.Tensor:
    """By the module that holds the kernel, so that what watches modules (ZeRO-3) sees it used; it pads on both sides."""
    from transformers.activations import ACT2FN

    convolved_BCN = self.conv1d(mixed_BNC.transpose(1, 2))[..., : mixed_BNC.shape[1]]
    return ACT2FN[self.activation](convolved_BCN).transpose(1, 2)


def _delta_rule(
    self: Any, mixed_BNC: torch.Tensor, decay_BND: torch.Tensor, rate_BND: torch.Tensor, state: torch.Tensor | None, keep: bool, wanted: slice
) -> tuple[torch.Tensor, Any]:
    """flash-linear-attention's kernel where that is installed, `delta_rule` elsewhere. (outputs [B, N, D, V], the state after them)"""
    from transformers.utils.import_utils import is_flash_linear_attention_available

    heads = mixed_BNC.shape[:2]
    query, key, value = mixed_BNC.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
    query, key, value = query.reshape(*heads, -1, self.head_k_dim), key.reshape(*heads, -1, self.head_k_dim), value.reshape(*heads, -1, self.head_v_dim)
    if (groups := self.num_v_heads // self.num_k_heads) > 1:
        query, key = query.repeat_interleave(groups, dim=2), key.repeat_interleave(groups, dim=2)
    query, key, value = query[:, :, wanted], key[:, :, wanted], value[:, :, wanted]
    if not (mixed_BNC.is_cuda and is_flash_linear_attention_available()):
        return delta_rule(query, key, value, decay_BND, rate_BND, state)
    kernel: Any = vars(sys.modules[type(self).__module__])["torch_chunk_gated_delta_rule"]
    options = {"initial_state": state, "output_final_state": keep, "use_qk_l2norm_in_kernel": True}
    outputs: tuple[torch.Tensor, Any] = kernel(query, key, value, g=decay_BND, beta=rate_BND, **options)
    return outputs


def delta_rule(
    query_BNDK: torch.Tensor, key_BNDK: torch.Tensor, value_BNDV: torch.Tensor, decay_BND: torch.Tensor, rate_BND: torch.Tensor, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs [B, N, D, V], the state [B, D, K, V] after them): the gated delta rule of normalized queries and keys, from `state` on (None: zeros).

    A token turns the state S into exp(decay) S, writes rate x key x (value - key S) into it, and reads query S. Within a chunk all tokens' writes are
    solved for at once; from chunk to chunk only the state is handed on [R: the UT transform of Gated DeltaNet, arXiv 2412.06464]. transformers' own, its
    fallback where the kernel is missing, writes chunks into one tensor, whose backward pass grows with the square of the length (0.69 s against 2.72 s for
    4,130 tokens and 6 heads), and sums the decays in float32, which costs a tied tiny model 3e-5 in a token's log-prob; here they are summed in float64.
    """
    length, value_dim = query_BNDK.shape[1], value_BNDV.shape[-1]
    rows = [tensor.transpose(1, 2).float() for tensor in (query_BNDK, key_BNDK, value_BNDV, rate_BND[..., None], decay_BND[..., None])]
    query, key, value, rate, decay = (pad(row, (0, 0, 0, -length % CHUNK)).unflatten(2, (-1, CHUNK)) for row in rows)  # [B, D, chunks, CHUNK, ...]
    query, key = _normalized(query) * query.shape[-1] ** -0.5, _normalized(key)
    since = decay.double().cumsum(3)
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=key.device).triu(1)
    between = (since - since.mT).masked_fill(later, float("-inf")).float().exp()
    until, before, all_of_it = (since[..., -1:, :] - since).float().exp(), since.float().exp(), since[..., -1:, :].float().exp()
    written = torch.cat([value, key * before], dim=-1) * rate
    wanted, known = torch.linalg.solve_triangular((key * rate) @ key.mT * between, written, upper=False, unitriangular=True).split(
        [value_dim, key.shape[-1]], dim=-1
    )
    reads, seen = torch.cat([query * before, known], dim=-2), (query @ key.mT) * between
    held = key.new_zeros(*key.shape[:2], key.shape[-1], value_dim) if state is None else state.float()
    outputs = []
    for read, want, see, write, left in zip(*(part.unbind(2) for part in (reads, wanted, seen, (key * until).mT, all_of_it)), strict=True):
        told, expected = (read @ held).split(CHUNK, dim=-2)
        new = want - expected
        outputs.append(told + see @ new)
        held = held * left + write @ new
    return torch.cat(outputs, dim=2)[:, :, :length].transpose(1, 2).to(query_BNDK.dtype), held


def _normalized(rows: torch.Tensor) -> torch.Tensor:
    """As flash-linear-attention does."""
    return rows * (rows.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
