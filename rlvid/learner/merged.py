"""Attention over a packed row without a copy of any prompt's keys, exact forward and backward.

An answer's token sees its prompt and its own answer so far. The two are asked apart: all of a prompt's answers at once against the prompt's keys, where
they lie, and every answer against itself; the outputs are weighted by the log-sum-exps of their scores. Given the merged output and log-sum-exp, the
backward of each part is exactly its share of the whole one's (as in ring attention, arXiv 2310.01889) [R]. So a kernel is needed that says its
log-sum-exp: aten's flash attention for CPUs and for CUDA's half precision; elsewhere the plain formula, some queries at a time. What is alike goes through
a kernel together: prompts of nearly one length, answers of nearly one length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch

SLACK = 16
"""Tokens by which lengths may differ that go through a kernel together; from 8 times as many on, an eighth."""
PLAIN = 512
"""Queries whose scores exist at a time where no kernel says its log-sum-exp."""
KERNELS = torch.ops.aten
Segments = Sequence[tuple[int, int]]
"""(first token in the row, tokens)."""


class Padded:
    """B segments of a row as one batch of the longest, L. `hidden_B11L`: -inf where a segment has ended, to be added to scores; None where none is shorter."""

    def __init__(self, segments: Segments, device: torch.device, dtype: torch.dtype) -> None:
        starts_B, lengths_B = (torch.tensor(column) for column in zip(*segments, strict=True))
        self.shape = len(segments), int(lengths_B.max())
        within_L = torch.arange(self.shape[1])
        real_BL = within_L < lengths_B[:, None]
        self.full = bool(real_BL.all())
        follow = all(start + length == after for (start, length), (after, _) in pairwise(segments))
        self.span = slice(segments[0][0], sum(segments[-1])) if self.full and follow else None
        self.places = (starts_B[:, None] + torch.minimum(within_L, lengths_B[:, None] - 1)).flatten().to(device)
        self.real = real_BL.flatten().nonzero()[:, 0].to(device)
        self.ended_BL = ~real_BL.to(device)
        self.hidden_B11L = None if self.full else torch.zeros(self.shape, dtype=dtype, device=device).masked_fill(self.ended_BL, float("-inf"))[:, None, None]

    @cached_property
    def targets(self) -> torch.Tensor:
        """Places in the row of the tokens that are there."""
        return self.places[self.real]

    def of(self, row_NH: torch.Tensor) -> torch.Tensor:
        """[N, H, ...] -> [B, H, L, ...]; behind a segment's end its last token."""
        found = row_NH.index_select(0, self.places) if self.span is None else row_NH[self.span]
        return found.unflatten(0, self.shape).transpose(1, 2)

    def put(self, row_NH: torch.Tensor, values_BHL: torch.Tensor) -> None:
        """The reverse: what stands there now is replaced."""
        if self.span is None:
            row_NH.index_copy_(0, self.targets, self._flat(values_BHL))
        else:
            self.of(row_NH).copy_(values_BHL)

    def add(self, row_NH: torch.Tensor, values_BHL: torch.Tensor) -> None:
        """The same, added to what stands there."""
        if self.span is None:
            row_NH.index_add_(0, self.targets, self._flat(values_BHL).to(row_NH.dtype))
        else:
            self.of(row_NH).add_(values_BHL)

    def silence(self, gradient_BHLD: torch.Tensor, total_BHL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nothing comes back from behind a segment's end: no gradient, and probabilities of 0."""
        if self.full:
            return gradient_BHLD, total_BHL
        ended_B1L = self.ended_BL[:, None]
        return gradient_BHLD.masked_fill(ended_B1L[..., None], 0), total_BHL.masked_fill(ended_B1L, float("inf"))

    def _flat(self, values_BHL: torch.Tensor) -> torch.Tensor:
        flat = values_BHL.transpose(1, 2).flatten(0, 1)
        return flat if self.full else flat.index_select(0, self.real)


class Ragged:
    """Segments of a row one behind the other, [n, H, ...], for kernels that take lengths (all n and the longest), so that nothing is padded."""

    hidden_B11L = None

    def __init__(self, segments: Segments, device: torch.device, _dtype: torch.dtype) -> None:
        self.places = torch.cat([torch.arange(start, start + length) for start, length in segments]).to(device)
        self.ends = torch.tensor([0, *accumulate(length for _, length in segments)], dtype=torch.int32, device=device)
        self.longest = max(length for _, length in segments)

    def of(self, row_NH: torch.Tensor) -> torch.Tensor:
        return row_NH.index_select(0, self.places)

    def put(self, row_NH: torch.Tensor, values: torch.Tensor) -> None:
        row_NH.index_copy_(0, self.places, values.to(row_NH.dtype))

    def add(self, row_NH: torch.Tensor, values: torch.Tensor) -> None:
        row_NH.index_add_(0, self.places, values.to(row_NH.dtype))

    def silence(self, gradient: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient, total


@dataclass(frozen=True)
class Look:
    """Which queries look at which keys in one call of a kernel. `causal`: each segment at itself so far; else each at all of its partner."""

    queries: Any
    keys: Any
    causal: bool

    def ahead(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, log-sum-exp of the scores)."""
        hidden = None if self.causal else self.keys.hidden_B11L
        if isinstance(self.queries, Ragged):
            output, total_Hn, *_ = KERNELS._flash_attention_forward(query, key, value, *self._lengths, 0.0, self.causal, False, scale=scale)
            return output, total_Hn.T
        if query.device.type == "cpu":
            return KERNELS._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, self.causal, attn_mask=hidden, scale=scale)
        return plain(query, key, value, hidden, self.causal, scale)

    def back(
        self, gradient: torch.Tensor, taken: tuple[torch.Tensor, torch.Tensor, torch.Tensor], output: torch.Tensor, total: torch.Tensor, scale: float
    ) -> tuple[Any, Any, Any]:
        """This part's share of the gradients of `taken` (query, key, value). `output`, `total`: of everything that the queries saw."""
        gradient, total = self.queries.silence(gradient, total)
        hidden = None if self.causal else self.keys.hidden_B11L
        if isinstance(self.queries, Ragged):
            unused = torch.zeros(2, dtype=torch.uint64, device=gradient.device)  # the state of a dropout that does not happen
            rest = (output, total.T.contiguous(), *self._lengths, 0.0, self.causal, unused, unused)
            return KERNELS._flash_attention_backward(gradient, *taken, *rest, scale=scale)
        if gradient.device.type == "cpu":
            kernel = KERNELS._scaled_dot_product_flash_attention_for_cpu_backward
            return kernel(gradient, *taken, output, total, 0.0, self.causal, attn_mask=hidden, scale=scale)
        return plain_backward(gradient, *taken, output, total, hidden, self.causal, scale)

    @property
    def _lengths(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        return self.queries.ends, self.keys.ends, self.queries.longest, self.keys.longest


class Row:
    """Who looks at whom in a packed row; the same for all layers. `lengths`: for each prompt its tokens, then those of each of its answers.

    prompts: (prompts that are alike at themselves, their answers at them) for each kind. answers: answers that are alike at themselves.
    """

    divided = False

    def __init__(self, lengths: Sequence[Sequence[int]], device: torch.device, dtype: torch.dtype, *, ragged: bool | None = None) -> None:
        place = Ragged if (in_half_on_cuda(device, dtype) if ragged is None else ragged) else Padded
        prompts: list[tuple[tuple[int, int], ...]] = []  # each with all of its answers
        answers: list[tuple[tuple[int, int], ...]] = []
        start = 0
        for prompt, *rest in lengths:
            prompts.append(((start, prompt), (start + prompt, sum(rest))))
            answers += [((at, length),) for at, length in zip(accumulate(rest, initial=start + prompt), rest, strict=False) if length]
            start = prompts[-1][1][0] + sum(rest)
        self.prompts: list[tuple[Look, Look | None]] = []
        for group in _asked_apart(prompts) if place is Ragged else alike(prompts):
            keys = place([prompt for prompt, _ in group], device, dtype)
            asked = place([after for _, after in group], device, dtype) if all(after[1] for _, after in group) else None
            self.prompts.append((Look(keys, keys, causal=True), Look(asked, keys, causal=False) if asked is not None else None))
        own = [place([one for (one,) in group], device, dtype) for group in ([answers] if place is Ragged and answers else alike(answers))]
        self.answers = [Look(one, one, causal=True) for one in own]


def _asked_apart(prompts: list[tuple[tuple[int, int], ...]]) -> list[list[tuple[tuple[int, int], ...]]]:
    """Prompts with answers, and those without."""
    return [group for group in ([one for one in prompts if one[1][1]], [one for one in prompts if not one[1][1]]) if group]


def alike(items: Sequence[tuple[tuple[int, int], ...]]) -> Iterator[list[tuple[tuple[int, int], ...]]]:
    """Items, tuples of segments, in groups in which the lengths of each segment differ little. In the row's order within a group."""
    groups: list[list[tuple[tuple[int, int], ...]]] = []
    least: list[int] = []
    for item in sorted(items, key=lambda item: [length for _, length in item]):
        lengths = [length for _, length in item]
        near = groups and all(low <= length <= low + max(SLACK, low // 8) and bool(low) == bool(length) for low, length in zip(least, lengths, strict=True))
        if not near:
            groups.append([])
            least = lengths
        groups[-1].append(item)
    return (sorted(group) for group in groups)


def in_half_on_cuda(device: torch.device, dtype: torch.dtype) -> bool:
    """Where CUDA's flash attention runs."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0)


class MergedAttention(torch.autograd.Function):
    """Queries [N, H, D], keys and values [N, fewer H, D] of a row -> [N, H, D]. Kept for the backward: these, the output, and a number a query and head."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Row, scale: float) -> torch.Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        total = query.new_empty(query.shape[:2], dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
        for prompts, answers in row.prompts:
            taken = prompts.keys.of(key), prompts.keys.of(value)
            for look in (prompts, answers):
                if look is not None:
                    _put(look.queries, output, total, *look.ahead(look.queries.of(query), *taken, scale))
        for look in row.answers:
            places = look.queries
            merge_in(places, output, total, *look.ahead(places.of(query), places.of(key), places.of(value), scale))
        ctx.save_for_backward(query, key, value, output, total)
        ctx.row, ctx.scale = row, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:  # type: ignore[override]
        query, key, value, output, total = ctx.saved_tensors
        gradient = gradient.contiguous()
        changes = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in (query, key, value)]

        def back(look: Look, taken: tuple[torch.Tensor, torch.Tensor], *, queries: str, keys: str) -> None:
            asked = look.queries
            found = look.back(asked.of(gradient), (asked.of(query), *taken), asked.of(output), asked.of(total), ctx.scale)
            for places, change, one, how in zip((asked, look.keys, look.keys), changes, found, (queries, keys, keys), strict=True):
                getattr(places, how)(change, one)

        for prompts, answers in ctx.row.prompts:
            taken = prompts.keys.of(key), prompts.keys.of(value)
            back(prompts, taken, queries="put", keys="put")
            if answers is not None:
                back(answers, taken, queries="put", keys="add")
        for look in ctx.row.answers:
            back(look, (look.keys.of(key), look.keys.of(value)), queries="add", keys="put")
        return changes[0], changes[1], changes[2], None, None


def _put(places: Any, output: torch.Tensor, total: torch.Tensor, seen: torch.Tensor, said: torch.Tensor) -> None:
    places.put(output, seen)
    places.put(total, said)


def merge_in(places: Any, output: torch.Tensor, total: torch.Tensor, seen: torch.Tensor, said: torch.Tensor) -> None:
    """Add another look, its output `seen` and log-sum-exp `said`, to those that these places have already; `total` is -inf where there is none yet."""
    before = places.of(total)
    both = torch.logaddexp(before, said)
    merged = places.of(output) * (before - both).exp()[..., None] + seen * (said - both).exp()[..., None]
    _put(places, output, total, merged.to(output.dtype), both)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden: Any, causal: bool, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, H, L, D] by the formula: (output, log-sum-exp of the scores [B, H, L])."""
    key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    seen, said = [], []
    for start, asked in _pieces(query):
        scores = _scores(asked, key, hidden, causal, scale, start)
        said.append(scores.logsumexp(-1))
        seen.append((scores - said[-1][..., None]).exp().to(value.dtype) @ value)
    return torch.cat(seen, dim=2), torch.cat(said, dim=2)


def plain_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    total: torch.Tensor,
    hidden: Any,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value; scores are made anew."""
    shared = query.shape[1] // key.shape[1]
    keys, values = (one.repeat_interleave(shared, dim=1) for one in (key, value))
    query_change, key_change, value_change = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
    for start, asked in _pieces(query):
        piece = slice(start, start + asked.shape[2])
        upstream = gradient[:, :, piece]
        shares = (_scores(asked, keys, hidden, causal, scale, start) - total[:, :, piece, None]).exp()
        value_change += shares.to(values.dtype).transpose(2, 3) @ upstream
        towards = (upstream @ values.transpose(2, 3)).to(shares.dtype) - (upstream * output[:, :, piece]).sum(-1, keepdim=True, dtype=shares.dtype)
        change = (shares * towards * scale).to(query.dtype)
        query_change[:, :, piece] = change @ keys
        key_change += change.transpose(2, 3) @ asked
    return query_change, *(one.unflatten(1, (-1, shared)).sum(2) for one in (key_change, value_change))


def _pieces(query_BHLD: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(first query, queries) of each piece."""
    pieces = query_BHLD.split(PLAIN, dim=2)
    return zip(range(0, query_BHLD.shape[2], PLAIN), pieces, strict=True)


def _scores(asked: torch.Tensor, key: torch.Tensor, hidden: Any, causal: bool, scale: float, start: int) -> torch.Tensor:
    """[B, H, queries, keys], at least in float32; -inf for keys that are hidden. `start`: the first query's place among the keys, if causal."""
    scores = (asked @ key.transpose(2, 3)).to(torch.promote_types(asked.dtype, torch.float32)) * scale
    if hidden is not None:
        scores = scores + hidden
    if causal:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(start + 1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores
