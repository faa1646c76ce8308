"""M-RoPE position ids as vLLM and the original models count them.

transformers 5.19 lets the text after a Qwen2.5-VL video continue at max(height, width); vLLM, like the released model,
at the maximum over time, height and width plus one. With these ids sampler and learner agree to float accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray


def position_ids(input_ids_N: list[int], frame_token: int, runs: Iterator[NDArray[np.int64]]) -> torch.Tensor:
    """Position ids [3, N] (time, height, width). `runs`: indices [3, n] of every run of frame tokens, in order, each from 0 on."""
    ids = np.asarray(input_ids_N)
    parts: list[NDArray[np.int64]] = []
    start = at = 0
    while at < len(ids):
        if ids[at] == frame_token:
            part = next(runs)
        else:
            following = np.flatnonzero(ids[at:] == frame_token)
            length = int(following[0]) if len(following) else len(ids) - at
            part = np.broadcast_to(np.arange(length), (3, length))
        parts.append(part + start)
        at += part.shape[1]
        start = int(parts[-1].max()) + 1
    return torch.from_numpy(np.concatenate(parts, axis=1))


def indices(t: int, h: int, w: int) -> NDArray[np.int64]:
    """[3, t h w]: time, height and width of every cell of a grid."""
    return np.indices((t, h, w)).reshape(3, -1)
