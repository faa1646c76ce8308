"""Shared-prefix packing: one prompt with its video, or whatever else it shows, and all its answers go through the model once.

`[prompt | a1 | ... | aM]` with a mask in which every answer sees the prompt and itself, and positions that start anew
after the prompt for every answer: exactly the M separate forwards, at the cost of one prompt (the idea is published as
Prefix Grouper, arXiv 2506.05433; here the vision tower, too, runs once). Several prompts follow each other in one row,
blind to one another.

Images and videos of all prompts go through the vision tower in one call, in the row's order: how often a rank calls it does not depend on what its prompts
show, which ZeRO's collectives need. A row in which nothing is shown has one dark patch behind it that nobody looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlvid.families import named
from rlvid.learner.distill import answer_tokens
from rlvid.learner.experts import routes_of
from rlvid.sync.tokens import token_digest
from rlvid.teacher.student import twice
from rlvid.types import UNKNOWN, TrainingPrompt


@dataclass(frozen=True)
class Share:
    """What a rank has of a row that several share (learner/divided.py). keep_V: of the vision tower's outputs, those of its own visual tokens, in order.
    here_P: answer tokens that one of its tokens predicts; at_P: which one."""

    keep_V: torch.Tensor
    here_P: torch.Tensor
    at_P: torch.Tensor

    def to(self, device: torch.device | str) -> Share:
        return Share(self.keep_V.to(device), self.here_P.to(device), self.at_P.to(device))


@dataclass
class MicroBatch:
    """N tokens in one row, A answer tokens among them.

    model_inputs: what the backbone takes (input_ids [1, N], position_ids [3, 1, N], pixel_values_videos, video_grid_thw).
    lengths: for each prompt its tokens, then those of each of its answers.
    predictors_A: the position whose output predicts each answer token.
    targets_A, sampler_logprobs_A, advantages_A, weights_A: per answer token. sequence_A: number of its answer. teacher: the same answers under the prompts
    that they are distilled from. routes_NLK: the experts of each layer that the engine's tokens went through (rlvid/learner/experts.py). share: where the
    row is divided, model_inputs and routes_NLK are this rank's, `lengths` have a last prompt that fills the row up, and all else is of the whole row.
    """

    model_inputs: dict[str, torch.Tensor]
    lengths: list[list[int]]
    predictors_A: torch.Tensor
    targets_A: torch.Tensor
    sampler_logprobs_A: torch.Tensor
    advantages_A: torch.Tensor
    weights_A: torch.Tensor
    sequence_A: torch.Tensor
    teacher: MicroBatch | None = None
    routes_NLK: torch.Tensor | None = None
    share: Share | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> MicroBatch:
        """On the device; pixels in the model's dtype."""
        inputs = {name: tensor.to(device) for name, tensor in self.model_inputs.items()}
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
        rest = {field.name: getattr(self, field.name).to(device) for field in fields(self) if field.name.endswith("_A")}
        routes = self.routes_NLK.to(device).long() if self.routes_NLK is not None else None
        teacher, share = self.teacher.to(device, dtype) if self.teacher else None, self.share.to(device) if self.share else None
        return MicroBatch(inputs, self.lengths, **rest, teacher=teacher, routes_NLK=routes, share=share)

    def asked(self) -> torch.Tensor:
        """Those of the tokens here that predict an answer's, ascending. At least one: a module that one rank does not call leaves others waiting in their
        collectives."""
        if self.share is None:
            return self.predictors_A.unique()
        return self.share.at_P.unique() if len(self.share.at_P) else self.share.at_P.new_zeros(1)


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
    rank with fewer micro-batches repeats a short prompt with weight 0: never an empty one, which would leave the model's collectives unmatched.
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
    teacher = silent(prompt.teacher) if prompt.teacher else None
    return replace(
        prompt,
        tokens_MN=prompt.tokens_MN[:1],
        logprobs_MN=prompt.logprobs_MN[:1],
        advantages_M=(0.0,),
        weights_M=(0.0,),
        routes_M=prompt.routes_M[:1],
        teacher=teacher,
    )


def pack(prompts: Sequence[TrainingPrompt], processor: Any, config: Any, fetch: Callable[[Any], Any] = lambda frames: frames) -> MicroBatch:
    """Build one micro-batch. `fetch` turns a frames reference into [T, H, W, C] uint8, or a tuple of media.

    Raises ValueError when the processor's prompt differs from the one the engine saw.
    """
    encoded, pixels = encode_prompts(prompts, processor, config, [media_of(prompt, fetch) for prompt in prompts])
    rows = [_Row(prompt, *ids_positions) for prompt, ids_positions in zip(prompts, encoded, strict=True)]
    ids_N, positions_3N = np.concatenate([row.input_ids_N for row in rows]), np.concatenate([row.position_ids_3N for row in rows], axis=1)
    offsets = np.cumsum([0] + [len(row.input_ids_N) for row in rows[:-1]])
    lengths = [len(tokens) for prompt in prompts for tokens in prompt.tokens_MN]
    unseen: list[list[int]] = []
    ids_N = named(config.model_type).one_kind(config, ids_N)
    if not pixels:
        ids_N, positions_3N, pixels, unseen = _with_dark_patch(ids_N, positions_3N, processor, config)

    def per_token(values: list[float]) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), lengths))

    return MicroBatch(
        {"input_ids": torch.from_numpy(ids_N)[None], "position_ids": torch.from_numpy(positions_3N)[:, None], **pixels},
        lengths=[row.lengths for row in rows] + unseen,
        predictors_A=torch.from_numpy(np.concatenate([row.predictors_A + offset for row, offset in zip(rows, offsets, strict=True)])),
        targets_A=torch.from_numpy(np.concatenate([row.targets_A for row in rows])),
        sampler_logprobs_A=torch.tensor([value for prompt in prompts for answer in prompt.logprobs_MN for value in answer]),
        advantages_A=per_token([value for prompt in prompts for value in prompt.advantages_M]),
        weights_A=per_token([value for prompt in prompts for value in prompt.weights_M]),
        sequence_A=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        routes_NLK=_routes(prompts, rows, fetch, behind=len(unseen)),
    )


def _routes(prompts: Sequence[TrainingPrompt], rows: Sequence[_Row], fetch: Callable[[Any], Any], *, behind: int) -> torch.Tensor | None:
    """Of the whole row, with so many tokens `behind` it that no engine saw; None where no engine told any."""
    held: dict[Any, Any] = {}

    def fetched(routes: Any) -> NDArray[np.int16] | None:
        if routes is None:
            return None
        reference, place = routes
        if reference not in held:
            held[reference] = _unless_lost(fetch, reference)
        return None if held[reference] is None else held[reference][place]

    told = [[fetched(one) for one in prompt.routes_M or [None] * len(prompt.tokens_MN)] for prompt in prompts]
    found = [routes_of(prompt, own, row.lengths[0]) for prompt, own, row in zip(prompts, told, rows, strict=True)]
    shape = next((routes.shape[1:] for routes in found if routes is not None), None)
    if shape is None:
        return None
    blank = [np.full((len(row.input_ids_N), *shape), UNKNOWN, np.int16) if routes is None else routes for routes, row in zip(found, rows, strict=True)]
    return torch.from_numpy(np.concatenate([*blank, np.full((behind, *shape), UNKNOWN, np.int16)]))


def _unless_lost(fetch: Callable[[Any], Any], reference: Any) -> Any:
    """None where the engine that holds it has died: an answer can be learned without."""
    from ray.exceptions import RayError

    try:
        return fetch(reference)
    except RayError:
        return None


def pack_distilled(
    prompts: Sequence[TrainingPrompt], processor: Any, config: Any, fetch: Callable[[Any], np.ndarray] = lambda frames: frames, *, answers_only: bool = True
) -> MicroBatch:
    """One micro-batch of prompts that have a `teacher`. An answer's weight is shared by its tokens; with `answers_only` by those between the tags."""
    student, teacher = pack(prompts, processor, config, fetch), pack([prompt.teacher for prompt in prompts if prompt.teacher], processor, config, fetch)
    weights: list[float] = []
    for prompt in prompts:
        for tokens_N, weight in zip(prompt.tokens_MN, prompt.weights_M, strict=True):
            first, end = answer_tokens(tokens_N, processor.tokenizer) if answers_only else (0, len(tokens_N))
            weights += [weight / (end - first) if first <= at < end else 0.0 for at in range(len(tokens_N))]
    return replace(student, weights_A=torch.tensor(weights), teacher=teacher)


def media_of(prompt: TrainingPrompt, fetch: Callable[[Any], Any]) -> list[np.ndarray]:
    """In the prompt's order: [T, H, W, 3] of a video, [H, W, 3] of an image; and of the evidence if the prompt was patched."""
    shown = fetch(prompt.frames)
    media = list(shown) if isinstance(shown, (tuple, list)) else [shown]
    return media if prompt.evidence_frames is None else [*media, twice(fetch(prompt.evidence_frames))]


def _metadata_of(prompt: TrainingPrompt) -> list[dict[str, Any]]:
    """Of each video."""
    own = prompt.video_metadata
    return [one for one in (*((own,) if isinstance(own, dict) else own), prompt.evidence_metadata) if one is not None]


def encode_prompts(
    prompts: Sequence[TrainingPrompt], processor: Any, config: Any, media: Sequence[Sequence[np.ndarray]]
) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.int64]]], dict[str, torch.Tensor]]:
    """((input_ids [P], position_ids [3, P]) of each, {pixel_values_videos, video_grid_thw} of all media in the prompts' order) by the checkpoint's own
    processor, in one call. Without any media no pixels.

    `media`: of each prompt, in its order, [T, H, W, C] of a video, [H, W, C] of an image.
    """
    from PIL import Image
    from transformers.video_utils import VideoMetadata

    family = named(config.model_type)
    for prompt, own in zip(prompts, media, strict=True):
        places, shown = family.kinds_in(prompt.prompt), tuple("video" if one.ndim == 4 else "image" for one in own)
        if places != shown:
            raise ValueError(f"the prompt has places for {_listed(places)}, there are {_listed(shown)}")
    metadata = [VideoMetadata(**{key: value for key, value in one.items() if key != "do_sample_frames"}) for prompt in prompts for one in _metadata_of(prompt)]
    flat, texts = [one for own in media for one in own], [prompt.prompt for prompt in prompts]
    videos, images = [one for one in flat if one.ndim == 4], [Image.fromarray(one) for one in flat if one.ndim == 3]
    given: dict[str, Any] = {"videos": videos, "video_metadata": metadata, "do_sample_frames": False} if videos else {}
    given |= {"images": images} if images else {}
    encoded = processor(text=texts, **given, padding=True, padding_side="right", return_tensors="pt")
    pixels, grids, paces = _in_order(flat, encoded)
    positions: dict[tuple[Any, ...], NDArray[np.int64]] = {}  # variants of a video differ in their pixels only
    found, first = [], 0
    for prompt, own, ids_P, mask_P in zip(prompts, media, encoded["input_ids"].numpy(), encoded["attention_mask"].numpy(), strict=True):
        ids = ids_P[: mask_P.sum()]
        digest = token_digest(ids.tolist())
        if prompt.prompt_digest and digest != prompt.prompt_digest:  # a stored reply's prompt was never an engine's
            raise ValueError(
                f"the engine's prompt and the learner's differ ({prompt.prompt_tokens} against {len(ids)} tokens): "
                "the checkpoint's processor is not the engine's"
            )
        here = slice(first, first + len(own))
        first += len(own)
        known = digest, str(grids[here]), str(paces and paces[here])
        if known not in positions:
            positions[known] = family.position_ids(config, ids.tolist(), grids[here], paces and paces[here]).numpy()
        found.append((ids, positions[known]))
    return found, pixels


def _listed(kinds: tuple[str, ...]) -> str:
    return ", ".join(kinds) or "no media"


def _in_order(media: Sequence[np.ndarray], encoded: Any) -> tuple[dict[str, torch.Tensor], list[list[int]], list[float | None] | None]:
    """({pixels and grids of all media}, grid of each, seconds per grid of each): the processor gives images and videos apart. Both are rows of patches."""
    seconds = encoded.get("second_per_grid_ts")
    paces: list[float | None] | None = None if seconds is None else [float(value) for value in seconds]
    if not media:
        return {}, [], None
    if all(one.ndim == 4 for one in media):
        return {name: encoded[name] for name in ("pixel_values_videos", "video_grid_thw")}, encoded["video_grid_thw"].tolist(), paces
    parts: dict[int, Any] = {}
    for dimensions, pixels, grid in ((3, "pixel_values", "image_grid_thw"), (4, "pixel_values_videos", "video_grid_thw")):
        if grid in encoded:
            grids = encoded[grid]
            own_paces = [None] * len(grids) if dimensions == 3 or paces is None else paces
            parts[dimensions] = iter(zip(encoded[pixels].split(grids.prod(-1).tolist()), grids, own_paces, strict=True))
    ordered = [next(parts[one.ndim]) for one in media]
    together = {"pixel_values_videos": torch.cat([patches for patches, _, _ in ordered]), "video_grid_thw": torch.stack([grid for _, grid, _ in ordered])}
    told = [pace for _, _, pace in ordered]
    return together, together["video_grid_thw"].tolist(), told if any(pace is not None for pace in told) else None


def _with_dark_patch(
    ids_N: NDArray[np.int64], positions_3N: NDArray[np.int64], processor: Any, config: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, torch.Tensor], list[list[int]]]:
    """The row, with one token of a black image behind it, a prompt of its own without answers; its pixels; and its lengths. The vision tower's gradients of it
    are zeros, which ZeRO's hooks need to see."""
    video = processor.video_processor
    side, width = video.merge_size, 3 * video.temporal_patch_size * video.patch_size**2
    pixels = {"pixel_values_videos": torch.zeros(side**2, width), "video_grid_thw": torch.tensor([[1, side, side]])}
    seen = np.array([getattr(config, named(config.model_type).frame_key)], dtype=ids_N.dtype)
    return np.concatenate([ids_N, seen]), np.concatenate([positions_3N, np.zeros((3, 1), positions_3N.dtype)], axis=1), pixels, [[1]]


class _Row:
    """One prompt and its answers in one row: ids [N], positions [3, N], lengths, and who predicts which answer token."""

    def __init__(self, prompt: TrainingPrompt, prompt_ids_P: NDArray[np.int64], positions_3P: NDArray[np.int64]) -> None:
        length, after = len(prompt_ids_P), int(positions_3P.max()) + 1
        self.lengths = [length] + [len(tokens) for tokens in prompt.tokens_MN]
        self.targets_A = np.concatenate([np.array(tokens, dtype=np.int64) for tokens in prompt.tokens_MN])
        self.input_ids_N = np.concatenate([prompt_ids_P, self.targets_A])
        within_A = np.concatenate([np.arange(answer) for answer in self.lengths[1:]])
        self.position_ids_3N = np.concatenate([positions_3P, np.broadcast_to(after + within_A, (3, len(within_A)))], axis=1)
        self.predictors_A = np.where(within_A == 0, length - 1, length + np.arange(len(within_A)) - 1)
