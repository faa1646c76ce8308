"""M-RoPE position ids as vLLM and the original models count them.

transformers 5.19 lets the text after a Qwen2.5-VL video continue at max(height, width); vLLM, like the released model,
at the maximum over time, height and width plus one. With these ids sampler and learner agree to float accuracy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def position_ids(config: Any, input_ids_N: list[int], grids_thw: list[list[int]], seconds_per_grid: list[float] | None) -> torch.Tensor:
    """Position ids [3, N] (time, height, width) of one prompt.

    grids_thw: (t, h, w) in patches per video. seconds_per_grid: per video, for models whose time axis counts seconds
    (Qwen2.5-VL); None for those that write timestamps into the text (Qwen3-VL), where every frame is a run of its own.
    """
    ids = np.asarray(input_ids_N)
    grids = _runs_in_order(config, grids_thw, seconds_per_grid)
    parts: list[np.ndarray] = []
    start = at = 0
    while at < len(ids):
        if ids[at] == config.video_token_id:
            part = next(grids)
        else:
            following = np.flatnonzero(ids[at:] == config.video_token_id)
            length = int(following[0]) if len(following) else len(ids) - at
            part = np.broadcast_to(np.arange(length), (3, length))
        parts.append(part + start)
        at += part.shape[1]
        start = int(parts[-1].max()) + 1
    return torch.from_numpy(np.concatenate(parts, axis=1))


def _runs_in_order(config: Any, grids_thw: list[list[int]], seconds_per_grid: list[float] | None):  # type: ignore[no-untyped-def]
    """Yield the (time, height, width) indices of every run of video tokens, each starting at 0."""
    merge = config.vision_config.spatial_merge_size
    for number, (t, h, w) in enumerate(grids_thw):
        if seconds_per_grid is None:
            for _ in range(t):
                yield np.indices((1, h // merge, w // merge)).reshape(3, -1)
            continue
        indices = np.indices((t, h // merge, w // merge))
        factor = seconds_per_grid[number] * config.vision_config.tokens_per_second
        indices[0] = (indices[0] * factor).astype(np.int64)
        yield indices.reshape(3, -1)
