"""One packed row over several ranks (`learner.sequence_parallel`): each has a share of its tokens, of the vision tower's frames and of the answers'
log-probabilities. Loss and gradients are those of one rank.

Tokens. The row, filled up to a multiple of twice the ranks, is cut into as many pieces; rank r of N has the pieces r and 2N - 1 - r, so that all look at
equally many keys of a causal row [R: zigzag, as in ring attention's implementations].
Attention. Keys and values of a layer are gathered for the time of its attention, in the forward pass and again in the backward pass; each rank asks with its
own queries, and the gradients of keys and values go back as sums. Attention is not divided by heads, so their number does not matter, and with grouped
queries keys and values are a fraction of what the ranks keep apart.
Linear layers (Qwen3.5's), which hand a state on from token to token, have their inputs gathered likewise and compute the whole row for a share of the heads.
Vision tower. No family's tower lets a frame look at another: a rank computes the frames of which it has a token, at its pieces' ends also such as another
rank has tokens of, too.
Answers. The hidden states that predict them, a few beside the row, are known to all; each rank makes the logits of its share, and all know all
log-probabilities, so that each computes the whole loss. A rank's gradients are then its share of the loss's: their sum over ranks is what N = 1 gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch

from rlvid.learner.merged import Look, Padded, Ragged, alike, in_half_on_cuda, merge_in
from rlvid.learner.packing import MicroBatch, Share
from rlvid.types import UNKNOWN

Span = tuple[int, int]
"""(first token, tokens)."""


@dataclass(frozen=True)
class Peers:
    """The `parts` ranks that share a row, seen by rank `part` of them. `group`: torch's process group."""

    part: int
    parts: int
    group: Any

    def gathered(self, own_N: torch.Tensor) -> torch.Tensor:
        """[N, ...] of every rank, one behind the other."""
        all_N = own_N.new_empty(self.parts * len(own_N), *own_N.shape[1:])
        torch.distributed.all_gather_into_tensor(all_N, own_N.contiguous(), group=self.group)
        return all_N

    def own_sum(self, all_N: torch.Tensor) -> torch.Tensor:
        """The reverse of `gathered`: the sum over ranks of what each says of this rank's share."""
        own_N = all_N.new_empty(len(all_N) // self.parts, *all_N.shape[1:])
        torch.distributed.reduce_scatter_tensor(own_N, all_N.contiguous(), group=self.group)
        return own_N

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks."""
        summed = tensor.contiguous().clone()
        torch.distributed.all_reduce(summed, group=self.group)
        return summed

    def share(self, count: int) -> slice:
        """This rank's of so many things, perhaps none."""
        return slice(count * self.part // self.parts, count * (self.part + 1) // self.parts)


def peers_of(rank: int, world: int, parts: int, deadline: timedelta) -> Peers:
    """Neighbouring ranks share. A collective of the whole world."""
    starts = range(0, world, parts)
    groups = [torch.distributed.new_group(list(range(start, start + parts)), timeout=deadline) for start in starts]
    return Peers(rank % parts, parts, groups[rank // parts])


# --- a micro-batch ---------------------------------------------------------------------------------------------------


def divide(batch: MicroBatch, part: int, parts: int, *, frame_token: int, merge: int) -> MicroBatch:
    """What rank `part` of `parts` needs of a micro-batch. `frame_token` stands for a merged patch of a video, `merge` squared patches."""
    ids_N, positions_3N = batch.model_inputs["input_ids"][0], batch.model_inputs["position_ids"][:, 0]
    filling = -len(ids_N) % (2 * parts)
    places_n = own_places(len(ids_N) + filling, part, parts)
    ids_N = torch.cat([ids_N, ids_N[ids_N != frame_token][:1].expand(filling)])
    positions_3N = torch.cat([positions_3N, positions_3N.new_zeros(3, filling)], dim=1)
    frames, keep_V = _own_frames(ids_N == frame_token, places_n, batch.model_inputs["video_grid_thw"], merge)
    local_N = torch.full((len(ids_N),), -1)
    local_N[places_n] = torch.arange(len(places_n))
    at_A = local_N[batch.predictors_A]
    here_P = (at_A >= 0).nonzero()[:, 0]
    return replace(
        batch,
        model_inputs={"input_ids": ids_N[None, places_n], "position_ids": positions_3N[:, None, places_n], **_pixels_of(frames, batch.model_inputs)},
        lengths=batch.lengths + ([[filling]] if filling else []),
        share=Share(keep_V, here_P, at_A[here_P]),
        routes_NLK=_own_routes(batch.routes_NLK, filling, places_n),
        teacher=divide(batch.teacher, part, parts, frame_token=frame_token, merge=merge) if batch.teacher else None,
    )


def _own_routes(routes_NLK: torch.Tensor | None, filling: int, places_n: torch.Tensor) -> torch.Tensor | None:
    if routes_NLK is None:
        return None
    return torch.cat([routes_NLK, routes_NLK.new_full((filling, *routes_NLK.shape[1:]), UNKNOWN)])[places_n]


def own_places(length: int, part: int, parts: int) -> torch.Tensor:
    """Places in the row of a rank's tokens, ascending."""
    piece = length // (2 * parts)
    return torch.cat([torch.arange(number * piece, (number + 1) * piece) for number in (part, 2 * parts - 1 - part)])


def _own_frames(visual_N: torch.Tensor, places_n: torch.Tensor, grids_G3: torch.Tensor, merge: int) -> tuple[list[int], torch.Tensor]:
    """(numbers of the frames that the tower must see, places of the own visual tokens among its outputs). At least one frame: a tower that one rank does not
    call leaves the others waiting in their collectives."""
    sizes_F = torch.cat([(h * w // merge**2).expand(int(t)) for t, h, w in grids_G3])
    frame_V = torch.repeat_interleave(torch.arange(len(sizes_F)), sizes_F)
    assert len(frame_V) == int(visual_N.sum()), f"{int(visual_N.sum())} visual tokens in the row, {len(frame_V)} of the tower"
    own_V = (visual_N.cumsum(0) - 1)[places_n][visual_N[places_n]]
    frames = frame_V[own_V].unique().tolist() or [0]
    before_F = torch.zeros_like(sizes_F)  # of the tower's outputs, all against own
    before_F[frames] = sizes_F[frames].cumsum(0) - sizes_F[frames]
    within_V = own_V - (sizes_F.cumsum(0) - sizes_F)[frame_V[own_V]]
    return frames, before_F[frame_V[own_V]] + within_V


def _pixels_of(frames: list[int], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pixels and grids of these frames alone."""
    pixels, grids, start, patch = [], [], 0, 0
    wanted = torch.tensor(frames)
    for t, h, w in inputs["video_grid_thw"].tolist():
        of_these = wanted[(wanted >= start) & (wanted < start + t)] - start
        if len(of_these):
            frames_TP = inputs["pixel_values_videos"][patch : patch + t * h * w].unflatten(0, (t, h * w))
            pixels.append(frames_TP[of_these].flatten(0, 1))
            grids.append([len(of_these), h, w])
        start, patch = start + t, patch + t * h * w
    return {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.tensor(grids)}


# --- attention -------------------------------------------------------------------------------------------------------


def looks(lengths: Sequence[Sequence[int]], part: int, parts: int) -> Iterator[tuple[bool, list[tuple[Span, Span]]]]:
    """(causal, [(own tokens, the row's tokens that they look at)]) such that every own token looks once at all that it sees. A causal look is at the same
    tokens, each so far; another is at all. `lengths`: for each prompt its tokens, then those of each of its answers; together a multiple of 2 `parts`."""
    piece = sum(map(sum, lengths)) // (2 * parts)
    begun: list[tuple[Span, Span]] = []  # prompts of which an earlier piece has the beginning
    asking: list[tuple[Span, Span]] = []  # answers at their prompts
    cut: list[tuple[Span, Span]] = []  # answers of which an earlier piece has the beginning
    own: list[tuple[Span, Span]] = []
    for number, low in enumerate((part * piece, (2 * parts - 1 - part) * piece)):

        def here(start: int, length: int, low: int = low, number: int = number) -> tuple[Span, int]:
            """(own tokens of a stretch of the row, where the first of them stands in the row)"""
            first, end = max(low, start), min(low + piece, start + length)
            return (first - low + number * piece, end - first), first

        start = 0
        for prompt, *answers in lengths:
            answering, _ = here(start + prompt, sum(answers))
            if answering[1] > 0:
                asking.append((answering, (start, prompt)))
            stretches = [(start, prompt, begun)]
            for answer in answers:
                stretches.append((sum(stretches[-1][:2]), answer, cut))
            for at, length, earlier in stretches:
                mine, first = here(at, length)
                if mine[1] > 0:
                    own.append((mine, (first, mine[1])))
                    if first > at:
                        earlier.append((mine, (at, first - at)))
            start += prompt + sum(answers)
    yield from ((False, found) for found in (begun, asking, cut) if found)
    yield True, own


class DividedRow:
    """Who looks at whom in a row of which this rank has a share; the same for all layers. See `looks`."""

    divided = True

    def __init__(self, lengths: Sequence[Sequence[int]], peers: Peers, device: torch.device, dtype: torch.dtype, *, ragged: bool | None = None) -> None:
        self.peers = peers
        place = Ragged if (in_half_on_cuda(device, dtype) if ragged is None else ragged) else Padded
        self.looks = []
        for causal, pairs in looks(lengths, peers.part, peers.parts):
            for group in [pairs] if place is Ragged else alike(pairs):
                asked, seen = (place(list(spans), device, dtype) for spans in zip(*group, strict=True))
                self.looks.append(Look(asked, seen, causal=causal))

    def whole(self, own_n: torch.Tensor) -> torch.Tensor:
        """[N, ...] of all ranks' tokens, in the row's order."""
        ranks_R2 = self.peers.gathered(own_n).unflatten(0, (self.peers.parts, 2, -1))
        return torch.cat([ranks_R2[:, 0].flatten(0, 1), ranks_R2[:, 1].flip(0).flatten(0, 1)])

    def own(self, all_N: torch.Tensor) -> torch.Tensor:
        """The reverse: sums over ranks of what each says of this rank's tokens."""
        first, second = all_N.unflatten(0, (2, self.peers.parts, -1))
        return self.peers.own_sum(torch.stack([first, second.flip(0)], dim=1).flatten(0, 2))

    def from_tokens_to_heads(self, own_n: torch.Tensor) -> torch.Tensor:
        """`whole`, with its gradient: for a layer that reads the row from left to right, each rank for some of its heads."""
        all_N: torch.Tensor = _Whole.apply(own_n, self)
        return all_N

    def from_heads_to_tokens(self, some_ND: torch.Tensor, heads: slice, all_of_them: int) -> torch.Tensor:
        """[n, D, ...] of the own tokens from the row's [N, heads of this rank, ...]."""
        whole_ND = some_ND.new_zeros(len(some_ND), all_of_them, *some_ND.shape[2:])
        whole_ND[:, heads] = some_ND
        own_nD: torch.Tensor = _Own.apply(whole_ND, self)
        return own_nD


class _Whole(torch.autograd.Function):
    """`DividedRow.whole`."""

    @staticmethod
    def forward(ctx: Any, own_n: torch.Tensor, row: DividedRow) -> torch.Tensor:
        ctx.row = row
        return row.whole(own_n)

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        summed = ctx.row.own(gradient_N.to(torch.promote_types(gradient_N.dtype, torch.float32)))
        return summed.to(gradient_N.dtype), None


class _Own(torch.autograd.Function):
    """`DividedRow.own` of what is 0 on all ranks but one."""

    @staticmethod
    def forward(ctx: Any, all_N: torch.Tensor, row: DividedRow) -> torch.Tensor:
        ctx.row = row
        return row.own(all_N)

    @staticmethod
    def backward(ctx: Any, gradient_n: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return ctx.row.whole(gradient_n), None


class DividedAttention(torch.autograd.Function):
    """Own queries [n, H, D], keys and values [n, fewer H, D] -> [n, H, D]. Kept for the backward: these, the output, and a number a query and head."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: DividedRow, scale: float) -> torch.Tensor:
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        total = query.new_full(query.shape[:2], float("-inf"), dtype=torch.promote_types(query.dtype, torch.float32))
        keys, values = row.whole(torch.cat([key, value], dim=1)).chunk(2, dim=1)
        for look in row.looks:
            merge_in(look.queries, output, total, *look.ahead(look.queries.of(query), look.keys.of(keys), look.keys.of(values), scale))
        ctx.save_for_backward(query, key, value, output, total)
        ctx.row, ctx.scale = row, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:  # type: ignore[override]
        query, key, value, output, total = ctx.saved_tensors
        gradient = gradient.contiguous()
        keys, values = ctx.row.whole(torch.cat([key, value], dim=1)).chunk(2, dim=1)
        change = torch.zeros_like(query, memory_format=torch.contiguous_format)
        both = keys.new_zeros(len(keys), 2 * keys.shape[1], keys.shape[2], dtype=total.dtype)  # sums over looks and ranks: in float32
        for look in ctx.row.looks:
            asked, places = look.queries, look.keys
            taken = asked.of(query), places.of(keys), places.of(values)
            found = look.back(asked.of(gradient), taken, asked.of(output), asked.of(total), ctx.scale)
            asked.add(change, found[0])
            for half, one in zip(both.chunk(2, dim=1), found[1:], strict=True):
                places.add(half, one)
        key_change, value_change = ctx.row.own(both).chunk(2, dim=1)
        return change, key_change.to(key.dtype), value_change.to(value.dtype), None, None


# --- answers ---------------------------------------------------------------------------------------------------------


class Known(torch.autograd.Function):
    """[A, ...] that each rank knows some rows of (the others 0) -> the same on all. Ranks use it for different things: gradients are summed."""

    @staticmethod
    def forward(ctx: Any, some_A: torch.Tensor, peers: Peers) -> torch.Tensor:
        ctx.peers = peers
        return peers.total(some_A)

    @staticmethod
    def backward(ctx: Any, gradient_A: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return ctx.peers.total(gradient_A), None


class Agreed(torch.autograd.Function):
    """The same, for what all ranks make the same loss of: each has the whole gradient already, and passes on that of its own rows."""

    @staticmethod
    def forward(ctx: Any, some_A: torch.Tensor, peers: Peers) -> torch.Tensor:
        return peers.total(some_A)

    @staticmethod
    def backward(ctx: Any, gradient_A: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient_A, None


def answers_known(hidden_NH: torch.Tensor, share: Share, answers: int, peers: Peers) -> torch.Tensor:
    """[A, H]: hidden states that predict the answers' tokens, of all ranks, from the own tokens' [n, H]."""
    empty_AH = hidden_NH.new_zeros(answers, hidden_NH.shape[1])
    known: torch.Tensor = Known.apply(empty_AH.index_copy(0, share.here_P, hidden_NH[share.at_P]), peers)
    return known


def agreed(own: torch.Tensor, answers: int, peers: Peers) -> torch.Tensor:
    """[A] of all ranks from this rank's share."""
    some_A = torch.nn.functional.pad(own, (peers.share(answers).start, answers - peers.share(answers).stop))
    all_A: torch.Tensor = Agreed.apply(some_A, peers)
    return all_A
