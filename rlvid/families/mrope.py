"""M-RoPE position ids as vLLM and the original models count them.

transformers 5.19 lets the text after a Qwen2.5-VL video continue at max(height, width); vLLM, like the released model,
at the maximum over time, height and width plus one. With these ids sampler and learner agree to float accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray


def position_ids(input_ids_N: list[int], seen_tokens: set[int], runs: Iterator[NDArray[np.int64]]) -> torch.Tensor:
    """Position ids [3, N] (time, height, width). `seen_tokens`: those that stand for pixels. `runs`: indices [3, n] of every run of them, in order, each from 0
    on. Raises ValueError where runs and tokens do not match."""
    ids = np.asarray(input_ids_N)
    seen_N = np.isin(ids, list(seen_tokens))
    parts: list[NDArray[np.int64]] = []
    part: NDArray[np.int64] | None
    start = at = 0
    while at < len(ids):
        if seen_N[at]:
            part = next(runs, None)
            if part is None or not seen_N[at : at + part.shape[1]].all() or len(ids) < at + part.shape[1]:
                raise ValueError("the prompt has other media tokens than its media have")
        else:
            following = np.flatnonzero(seen_N[at:])
            length = int(following[0]) if len(following) else len(ids) - at
            part = np.broadcast_to(np.arange(length), (3, length))
        parts.append(part + start)
        at += part.shape[1]
        start = int(parts[-1].max()) + 1
    if next(runs, None) is not None:
        raise ValueError("the prompt has fewer media tokens than its media have")
    return torch.from_numpy(np.concatenate(parts, axis=1))


def indices(t: int, h: int, w: int) -> NDArray[np.int64]:
    """[3, t h w]: time, height and width of every cell of a grid."""
    return np.indices((t, h, w)).reshape(3, -1)
