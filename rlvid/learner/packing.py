"""Shared-prefix packing: one prompt with its video and all its answers go through the model once.

`[prompt | a1 | ... | aM]` with a mask in which every answer sees the prompt and itself, and positions that start anew
after the prompt for every answer: exactly the M separate forwards, at the cost of one prompt (the idea is published as
Prefix Grouper, arXiv 2506.05433; here the vision tower, too, runs once). Several prompts follow each other in one row,
blind to one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from rlvid.families import named
from rlvid.sync.tokens import token_digest
from rlvid.teacher.student import twice
from rlvid.types import TrainingPrompt


@dataclass
class MicroBatch:
    """N tokens in one row, A answer tokens among them.

    model_inputs: what the backbone takes (input_ids [1, N], position_ids [3, 1, N], pixel_values_videos, video_grid_thw).
    lengths: for each prompt its tokens, then those of each of its answers.
    predictors_A: the position whose output predicts each answer token.
    targets_A, sampler_logprobs_A, advantages_A, weights_A: per answer token. sequence_A: number of its answer.
    """

    model_inputs: dict[str, torch.Tensor]
    lengths: list[list[int]]
    predictors_A: torch.Tensor
    targets_A: torch.Tensor
    sampler_logprobs_A: torch.Tensor
    advantages_A: torch.Tensor
    weights_A: torch.Tensor
    sequence_A: torch.Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> MicroBatch:
        """On the device; pixels in the model's dtype."""
        inputs = {name: tensor.to(device) for name, tensor in self.model_inputs.items()}
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
        rest = {field.name: getattr(self, field.name).to(device) for field in fields(self) if field.name.endswith("_A")}
        return MicroBatch(inputs, self.lengths, **rest)


def split_by_budget(prompts: Sequence[TrainingPrompt], budget_tokens: int) -> list[list[TrainingPrompt]]:
    """Consecutive prompts share a micro-batch as long as their tokens stay within the budget; one prompt may exceed it alone."""
    batches: list[list[TrainingPrompt]] = []
    used = 0
    for prompt in prompts:
        if not batches or used + prompt.length > budget_tokens:
            batches.append([])
            used = 0
        batches[-1].append(prompt)
        used += prompt.length
    return batches


def spread_over_ranks(prompts: Sequence[TrainingPrompt], ranks: int, budget_tokens: int) -> list[list[list[TrainingPrompt]]]:
    """Micro-batches per rank: equally many for each, because ZeRO's collectives need all ranks in step.

    Prompts are dealt out longest first to the rank with the least tokens, so that ranks wait little for one another. A
    rank with fewer micro-batches repeats its last prompt with weight 0: never an empty one, a forward without a video
    would leave the vision tower's collectives unmatched.
    """
    shares: list[list[TrainingPrompt]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for prompt in sorted(prompts, key=lambda p: -p.length):
        rank = loads.index(min(loads))
        shares[rank].append(prompt)
        loads[rank] += prompt.length
    batches = [split_by_budget(share, budget_tokens) for share in shares]
    most = max(len(batch) for batch in batches)
    filler = silent(min(prompts, key=lambda p: p.length))
    return [batch + [[filler]] * (most - len(batch)) for batch in batches]


def silent(prompt: TrainingPrompt) -> TrainingPrompt:
    """The same prompt with one answer that counts nothing."""
    return replace(prompt, tokens_MN=prompt.tokens_MN[:1], logprobs_MN=prompt.logprobs_MN[:1], advantages_M=(0.0,), weights_M=(0.0,))


def pack(prompts: Sequence[TrainingPrompt], processor: Any, config: Any, fetch: Callable[[Any], np.ndarray] = lambda frames: frames) -> MicroBatch:
    """Build one micro-batch. `fetch` turns a frames reference into [T, H, W, C] uint8.

    Raises ValueError when the processor's prompt differs from the one the engine saw.
    """
    encoded = [encode_prompt(prompt, processor, config, *videos_of(prompt, fetch)) for prompt in prompts]
    rows = [_Row(prompt, *ids_positions) for prompt, (ids_positions, _) in zip(prompts, encoded, strict=True)]
    inputs = {
        "input_ids": torch.cat([row.input_ids_N for row in rows])[None],
        "position_ids": torch.cat([row.position_ids_3N for row in rows], dim=1)[:, None],
        "pixel_values_videos": torch.cat([pixels["pixel_values_videos"] for _, pixels in encoded]),
        "video_grid_thw": torch.cat([pixels["video_grid_thw"] for _, pixels in encoded]),
    }
    offsets = np.cumsum([0] + [len(row.input_ids_N) for row in rows[:-1]]).tolist()
    answers = np.cumsum([0] + [len(prompt.tokens_MN) for prompt in prompts[:-1]]).tolist()
    return MicroBatch(
        inputs,
        lengths=[row.lengths for row in rows],
        predictors_A=torch.cat([row.predictors_A + offset for row, offset in zip(rows, offsets, strict=True)]),
        targets_A=torch.cat([row.targets_A for row in rows]),
        sampler_logprobs_A=torch.tensor([value for prompt in prompts for answer in prompt.logprobs_MN for value in answer]),
        advantages_A=torch.cat([_per_token(prompt, prompt.advantages_M) for prompt in prompts]),
        weights_A=torch.cat([_per_token(prompt, prompt.weights_M) for prompt in prompts]),
        sequence_A=torch.cat([_per_token(prompt, range(len(prompt.tokens_MN))).long() + first for prompt, first in zip(prompts, answers, strict=True)]),
    )


def videos_of(prompt: TrainingPrompt, fetch: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    """[T, H, W, 3] of the variant, and of the evidence if the prompt was patched."""
    shown = fetch(prompt.frames)
    return [shown] if prompt.evidence_frames is None else [shown, twice(fetch(prompt.evidence_frames))]


def encode_prompt(
    prompt: TrainingPrompt, processor: Any, config: Any, *videos_THWC: np.ndarray
) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]:
    """((input_ids [P], position_ids [3, P]), {pixel_values_videos, video_grid_thw}) by the checkpoint's own processor."""
    from transformers.video_utils import VideoMetadata

    given = [one for one in (prompt.video_metadata, prompt.evidence_metadata) if one is not None]
    metadata = [VideoMetadata(**{key: value for key, value in one.items() if key != "do_sample_frames"}) for one in given]
    encoded = processor(text=[prompt.prompt], videos=list(videos_THWC), video_metadata=metadata, do_sample_frames=False, return_tensors="pt")
    ids = encoded["input_ids"][0]
    if token_digest(ids.tolist()) != prompt.prompt_digest:
        raise ValueError(
            f"the engine's prompt and the learner's differ ({prompt.prompt_tokens} against {len(ids)} tokens): the checkpoint's processor is not the engine's"
        )
    seconds = encoded.get("second_per_grid_ts")
    seconds_list = [float(value) for value in seconds] if seconds is not None else None
    positions = named(config.model_type).position_ids(config, ids.tolist(), encoded["video_grid_thw"].tolist(), seconds_list)
    return (ids, positions), {name: encoded[name] for name in ("pixel_values_videos", "video_grid_thw")}


class _Row:
    """One prompt and its answers in one row: ids [N], positions [3, N], lengths, and who predicts which answer token."""

    def __init__(self, prompt: TrainingPrompt, prompt_ids_P: torch.Tensor, positions_3P: torch.Tensor) -> None:
        answers = [torch.tensor(tokens) for tokens in prompt.tokens_MN]
        length, after = len(prompt_ids_P), int(positions_3P.max()) + 1
        starts = np.cumsum([length] + [len(answer) for answer in answers]).tolist()
        self.targets_A = torch.cat(answers)
        self.input_ids_N = torch.cat([prompt_ids_P, self.targets_A])
        self.position_ids_3N = torch.cat([positions_3P] + [(after + torch.arange(len(answer))).expand(3, -1) for answer in answers], dim=1)
        self.predictors_A = torch.cat([torch.cat([torch.tensor([length - 1]), torch.arange(s, s + len(a) - 1)]) for s, a in zip(starts, answers, strict=False)])
        self.lengths = [length] + [len(answer) for answer in answers]


def _per_token(prompt: TrainingPrompt, values_M: Sequence[float]) -> torch.Tensor:
    """Repeat a value per answer over that answer's tokens."""
    lengths = torch.tensor([len(tokens) for tokens in prompt.tokens_MN])
    return torch.repeat_interleave(torch.tensor(list(values_M), dtype=torch.float32), lengths)
