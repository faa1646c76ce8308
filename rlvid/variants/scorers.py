"""Who looks at the pixels: an image-text model, or, where there is none at hand, motion and shot changes.

A scorer has `key`, which names it in caches. It looks at frames one by one (`look`: one forward per video, in batches) and compares what it saw of all of them
(`compare`), so that frames can be added without looking at others again; `score` is both at once.
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


Looks = tuple[NDArray[Any], ...]
"""What a scorer saw of N frames: arrays [N, ...], each row of which depends on its frame and the question alone."""


class Scorer(Protocol):
    key: str

    def look(self, frames_NHWC: Frames, question: str) -> Looks: ...

    def compare(self, looks_N: Looks, even_N: NDArray[np.int64]) -> RawScores:
        """`even_N`: which of the frames, in the order of their times, are evenly spaced."""
        ...

    def score(self, frames_NHWC: Frames, question: str) -> RawScores: ...


def make_scorer(kind: str, model: str | None, *, batch: int, on_gpu: bool) -> Scorer:
    """`clip` or `motion`. Raises OSError or ValueError where the checkpoint cannot be loaded."""
    return ClipScorer(str(model), batch=batch, device="cuda" if on_gpu else "cpu") if kind == "clip" else MotionScorer()


class MotionScorer:
    """Motion and shot-change energy [D]. It knows nothing of the question; it is for users without an image-text model.

    A frame scores the mean absolute difference to its neighbours (the larger of the two) plus the change of its colour histogram
    against the frame before; a part of the frame, how far it is from the clip's median picture. Neighbours, median and mean are those of the evenly spaced
    frames: where some stretches were looked at more closely, their frames lie next to each other and would seem to stand still.
    """

    key = "motion-1"

    def look(self, frames_NHWC: Frames, question: str) -> Looks:
        return (np.stack([_thumb(frame) for frame in frames_NHWC]),)

    def compare(self, looks_N: Looks, even_N: NDArray[np.int64]) -> RawScores:
        small = looks_N[0].astype(np.float64) / 255
        grey, colours = small.mean(axis=-1), _histograms(small)
        rank = np.searchsorted(even_N, np.arange(len(small)))
        last, next_N = len(even_N) - 1, np.searchsorted(even_N, np.arange(len(small)), side="right")
        before, after = even_N[np.maximum(rank - 1, 0)], even_N[np.minimum(next_N, last)]
        apart = [np.abs(grey - grey[other]).mean(axis=(1, 2)) for other in (before, after)]
        step = np.maximum(np.where(rank > 0, apart[0], 0.0), np.where(next_N <= last, apart[1], 0.0))
        change = np.where(rank > 0, np.abs(colours - colours[before]).sum(axis=1) / 2, 0.0)
        away = np.abs(grey - np.median(grey[even_N], axis=0))
        cell = THUMB // GRID
        patches = away.reshape(len(grey), GRID, cell, GRID, cell).mean(axis=(2, 4))
        features = small.reshape(len(small), 8, THUMB // 8, 8, THUMB // 8, 3).mean(axis=(2, 4)).reshape(len(small), -1)
        return RawScores(step + change, patches, features - features[even_N].mean(axis=0) + 1e-6)

    def score(self, frames_NHWC: Frames, question: str) -> RawScores:
        return self.compare(self.look(frames_NHWC, question), np.arange(len(frames_NHWC)))


def _thumb(frame_HWC: Frames) -> Frames:
    from rlvid.video.clip import resized

    return resized(np.ascontiguousarray(frame_HWC), (THUMB, THUMB))


def _histograms(small_NHWC: Floats) -> Floats:
    """[N, HUES^3] shares of the colours."""
    bins = np.minimum((small_NHWC * HUES).astype(np.int64), HUES - 1)
    flat = (bins[..., 0] * HUES + bins[..., 1]) * HUES + bins[..., 2]
    return np.stack([np.bincount(one.ravel(), minlength=HUES**3) / one.size for one in flat])


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

    def look(self, frames_NHWC: Frames, question: str) -> Looks:
        frame_NF, patch_NPF = self._seen(frames_NHWC)
        text_CF = self._text(question)
        frame_N = (frame_NF @ text_CF.T).max(axis=1)
        patch_NP = (patch_NPF @ text_CF.T).max(axis=2)
        side = round(patch_NP.shape[1] ** 0.5)
        return frame_N, patch_NP.reshape(len(frame_N), side, side), frame_NF

    def compare(self, looks_N: Looks, even_N: NDArray[np.int64]) -> RawScores:
        return RawScores(*looks_N)

    def score(self, frames_NHWC: Frames, question: str) -> RawScores:
        return self.compare(self.look(frames_NHWC, question), np.arange(len(frames_NHWC)))

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
