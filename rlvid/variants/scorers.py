"""Who looks at the pixels: an image-text model, or, where there is none at hand, motion and shot changes.

A scorer has `key`, which names it in caches, and `score(frames_NHWC, question) -> RawScores`. One forward per video, in batches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlvid.variants.relevance import Floats, RawScores

Frames = NDArray[np.uint8]

THUMB = 48
"""Side in pixels of the small grey frames that motion is measured on."""
GRID = 12
"""Parts of the frame along each side in the motion scorer's map."""
HUES = 8
"""Levels per colour channel in the shot-change histogram."""


class Scorer(Protocol):
    key: str

    def score(self, frames_NHWC: Frames, question: str) -> RawScores: ...


def make_scorer(kind: str, model: str | None, *, batch: int, on_gpu: bool) -> Scorer:
    """`clip` or `motion`. Raises OSError or ValueError where the checkpoint cannot be loaded."""
    return ClipScorer(str(model), batch=batch, device="cuda" if on_gpu else "cpu") if kind == "clip" else MotionScorer()


class MotionScorer:
    """Motion and shot-change energy [D]. It knows nothing of the question; it is for users without an image-text model.

    A frame scores the mean absolute difference to its neighbours (the larger of the two) plus the change of its colour histogram
    against the frame before; a part of the frame, how far it is from the clip's median picture.
    """

    key = "motion-1"

    def score(self, frames_NHWC: Frames, question: str) -> RawScores:
        small = np.stack([_thumb(frame) for frame in frames_NHWC]).astype(np.float64) / 255
        grey = small.mean(axis=-1)
        step = np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2))
        before, after = np.concatenate([[0.0], step]), np.concatenate([step, [0.0]])
        away = np.abs(grey - np.median(grey, axis=0))
        cell = THUMB // GRID
        patches = away.reshape(len(grey), GRID, cell, GRID, cell).mean(axis=(2, 4))
        features = small.reshape(len(small), 8, THUMB // 8, 8, THUMB // 8, 3).mean(axis=(2, 4)).reshape(len(small), -1)
        return RawScores(np.maximum(before, after) + _shot_change(small), patches, features - features.mean(axis=0) + 1e-6)


def _thumb(frame_HWC: Frames) -> Frames:
    from rlvid.video.clip import resized

    return resized(np.ascontiguousarray(frame_HWC), (THUMB, THUMB))


def _shot_change(small_NHWC: Floats) -> Floats:
    """[N] half the L1 distance (0..1) between the colour histograms of a frame and the one before; 0 for the first."""
    bins = np.minimum((small_NHWC * HUES).astype(np.int64), HUES - 1)
    flat = (bins[..., 0] * HUES + bins[..., 1]) * HUES + bins[..., 2]
    histogram = np.stack([np.bincount(one.ravel(), minlength=HUES**3) / one.size for one in flat])
    return np.concatenate([[0.0], np.abs(np.diff(histogram, axis=0)).sum(axis=1) / 2])


class ClipScorer:
    """Any CLIP or SigLIP checkpoint that transformers loads [S: question-frame alignment].

    A frame's score is the cosine of its embedding with the question's; a patch's that of its own token, brought through the same
    projection. A question longer than the text tower's limit is cut into chunks and the best chunk counts: nothing is dropped.
    """

    def __init__(self, path: str, *, batch: int = 64, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.model: Any = AutoModel.from_pretrained(path).to(device).eval()
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise ValueError(f"{path} is no image-text model such as CLIP or SigLIP (it is a {type(self.model).__name__})")
        self.images: Any = AutoImageProcessor.from_pretrained(path)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.batch, self.device = batch, device
        self.key = f"clip-1:{_fingerprint(path)}"

    def score(self, frames_NHWC: Frames, question: str) -> RawScores:
        frame_NF, patch_NPF = self._seen(frames_NHWC)
        text_CF = self._text(question)
        frame_N = (frame_NF @ text_CF.T).max(axis=1)
        patch_NP = (patch_NPF @ text_CF.T).max(axis=2)
        side = round(patch_NP.shape[1] ** 0.5)
        return RawScores(frame_N, patch_NP.reshape(len(frame_N), side, side), frame_NF)

    def _seen(self, frames_NHWC: Frames) -> tuple[Floats, Floats]:
        """Unit embeddings of the frames [N, F] and of their patches [N, P, F]. Frames are squeezed, not cropped: the patch grid covers the whole frame."""
        import torch

        size = {"height": self.model.config.vision_config.image_size, "width": self.model.config.vision_config.image_size}
        frames, patches = [], []
        with torch.inference_mode():
            for start in range(0, len(frames_NHWC), self.batch):
                part = list(frames_NHWC[start : start + self.batch])
                pixels = self.images(images=part, size=size, do_center_crop=False, return_tensors="pt")["pixel_values"].to(self.device)
                seen = self.model.get_image_features(pixel_values=pixels)
                frames.append(_unit(seen.pooler_output))
                patches.append(_unit(self._patch_tokens(seen.last_hidden_state)))
        return np.concatenate(frames), np.concatenate(patches)

    def _patch_tokens(self, hidden: Any) -> Any:
        """CLIP puts a class token first and projects after its last norm; SigLIP has neither."""
        if hasattr(self.model, "visual_projection"):
            return self.model.visual_projection(self.model.vision_model.post_layernorm(hidden[:, 1:]))
        return hidden

    def _text(self, question: str) -> Floats:
        """[C, F] unit embeddings of the question's chunks."""
        import torch

        limit = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(chunks(self.tokenizer, question, limit), padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        known = {name: value.to(self.device) for name, value in inputs.items() if name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return _unit(self.model.get_text_features(**known).pooler_output)


def chunks(tokenizer: Any, text: str, limit: int) -> list[str]:
    """`text` in pieces of at most `limit` tokens each, special tokens included; together they are the whole text."""
    room = limit - tokenizer.num_special_tokens_to_add()
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    edges = [start for start, _ in encoded["offset_mapping"]]
    pieces, start = [], 0
    while start < len(edges):
        taken = room
        while taken > 1 and len(_ids(tokenizer, _slice(text, edges, start, taken))) > room:
            taken -= 1  # a word cut in two may take more tokens than its halves did
        pieces.append(_slice(text, edges, start, taken))
        start += taken
    return pieces or [text]


def _slice(text: str, edges: list[int], start: int, taken: int) -> str:
    return text[edges[start] if start else 0 : edges[start + taken] if start + taken < len(edges) else len(text)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def _unit(features: Any) -> Floats:
    import torch

    return np.asarray(torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy().astype(np.float64))


def _fingerprint(path: str) -> str:
    """Names the weights: the folder's config and the size and time of its files, or the hub id."""
    import hashlib

    folder = Path(path)
    if not folder.is_dir():
        return path
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir()) if file.is_file()]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
