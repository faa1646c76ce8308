"""A tiny CLIP for the quickstart, trained on the quickstart's own training clips: which frames does a question look at?

    build_tiny_clip(Path(".quickstart/qwen2_5_vl"))  ->  .quickstart/qwen2_5_vl/relevance, which `AutoModel` loads like any CLIP

It learns from the evidence *spans* of the training questions alone: a frame inside a span belongs to the question's text, one outside
belongs to "nothing is seen". Boxes are never shown to it. The loss is SigLIP's (a sigmoid per pair of frame and text), once on the
frame's embedding and once on its patches: the mean of the two best ones has the frame's label, that of the poorer half is never
evidence. So a patch token learns to speak for what lies in it, and not for the whole frame [D].
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.data.questions import iter_questions
from rlvid.observe.terminal import Work
from rlvid.types import Question
from rlvid.variants.relevance import relevance_text
from rlvid.world.tiny_model import MEAN, STD, build_tokenizer

SIDE, PATCH, HIDDEN, LAYERS = 84, 14, 64, 2
STEPS, BATCH, LEARNING_RATE = 300, 128, 2e-3
FRAMES_PER_CLIP = 8
NOTHING = "nothing is seen"
BEST_PATCHES = 2


@dataclass(frozen=True)
class Pairs:
    """Training frames [F, H, W, 3] and which of the texts each belongs to: 1, 0, or NaN where nobody knows, [F, X]."""

    frames: NDArray[np.uint8]
    texts: tuple[str, ...]
    label_FX: NDArray[np.float32]


def build_tiny_clip(world: Path, *, seed: int = 0, progress: bool = True) -> Path:
    """`world`/relevance, trained if it is not there or was made by another recipe. Takes well under a minute on two cores."""
    folder = Path(world) / "relevance"
    recipe = {"seed": seed, "digest": _digest(Path(world) / "train.jsonl")}
    if _recipe_of(folder) == recipe:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    aside = folder.with_name(".relevance.building")
    shutil.rmtree(aside, ignore_errors=True)
    pairs = training_pairs(list(iter_questions(Path(world) / "train.jsonl")), seed)
    train(pairs, aside, seed=seed, progress=progress)
    (aside / "recipe.json").write_text(json.dumps(recipe))
    aside.rename(folder)
    return folder


def training_pairs(questions: Sequence[Question], seed: int) -> Pairs:
    """Frames of every question's clip, half inside its evidence and half outside as far as there are any, and their labels."""
    rng = np.random.default_rng(seed)
    texts = (NOTHING, *sorted({relevance_text(question) for question in questions}))
    frames, labels = [], []
    for question in questions:
        clip = _read(question.video)
        seen = np.array([any(start <= time < end for start, end in question.evidence.spans) for time in clip.times_s_N])
        for at in _half_and_half(seen, rng):
            frames.append(clip.frames_NHWC[at])
            row = np.full(len(texts), np.nan, dtype=np.float32)
            row[0], row[texts.index(relevance_text(question))] = not seen[at], seen[at]
            labels.append(row)
    return Pairs(np.stack(frames), texts, np.stack(labels))


def train(pairs: Pairs, folder: Path, *, seed: int, progress: bool) -> None:
    """A random CLIP, STEPS of AdamW with a falling rate, saved with its tokenizer and image processor."""
    import torch
    from transformers import CLIPImageProcessor

    tokenizer = build_tokenizer(list(pairs.texts) * 20)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(tokenizer)
    optimizer = torch.optim.AdamW([*model.parameters()], lr=LEARNING_RATE, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    words = tokenizer(list(pairs.texts), padding="max_length", max_length=model.config.text_config.max_position_embeddings, return_tensors="pt")
    words = {name: words[name] for name in ("input_ids", "attention_mask")}
    with Work("training the tiny CLIP", STEPS, enabled=progress) as bar:
        for _ in range(STEPS):
            chosen = torch.randint(len(pairs.frames), (BATCH,), generator=generator).numpy()
            loss = _loss(model, _pixels(pairs.frames[chosen]), words, torch.from_numpy(pairs.label_FX[chosen]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            falling.step()
            bar.advance()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=MEAN, image_std=STD).save_pretrained(folder)


def _loss(model: Any, pixels: Any, words: dict[str, Any], label_FX: Any) -> Any:
    """Sigmoid loss over the known pairs, of frames, of their best patches and of their poorer half."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, normalize

    seen = model.get_image_features(pixel_values=pixels)
    frame_FD = normalize(seen.pooler_output, dim=-1)
    patch_FPD = normalize(model.visual_projection(model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])), dim=-1)
    text_XD = normalize(model.get_text_features(**words).pooler_output, dim=-1)
    patch_FPX = (patch_FPD @ text_XD.T).sort(dim=1, descending=True).values
    nothing_FX = torch.zeros_like(label_FX)
    nothing_FX[:, 0] = 1
    poorer = patch_FPX[:, patch_FPX.shape[1] // 2 :].mean(dim=1)
    best = torch.cat([patch_FPX[:, -BEST_PATCHES:, :1], patch_FPX[:, :BEST_PATCHES, 1:]], dim=2).mean(dim=1)
    known = ~torch.isnan(label_FX)
    # The bias of SigLIP's loss is left at 0: of the labels about half are ones.
    scale = model.logit_scale.exp()
    terms = ((frame_FD @ text_XD.T, label_FX), (best, label_FX), (poorer, nothing_FX))
    return sum(binary_cross_entropy_with_logits(scale * cosine[known], label[known]) for cosine, label in terms)


def _model(tokenizer: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "projection_dim": HIDDEN}
    ids = {"bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = tower | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    vision = tower | {"image_size": SIDE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=HIDDEN, logit_scale_init_value=2.0))


def _pixels(frames_FHWC: NDArray[np.uint8]) -> Any:
    """[F, 3, H, W] float32, normalised like the saved image processor does."""
    import torch

    scaled = torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _read(path: str) -> Any:
    from rlvid.video.clip import read_candidates

    return read_candidates(path, candidates=64, clip=None, size_for=lambda height, width: (SIDE, SIDE), zoom=1.0)


def _half_and_half(seen_N: NDArray[np.bool_], rng: np.random.Generator) -> list[int]:
    """Up to FRAMES_PER_CLIP indices, as many inside the evidence as outside where both exist."""
    chosen: list[int] = []
    for side in (np.flatnonzero(seen_N), np.flatnonzero(~seen_N)):
        chosen += rng.permutation(side)[: FRAMES_PER_CLIP // 2].tolist()
    return chosen


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "recipe.json").read_text())
    except (OSError, ValueError):
        return None


def _digest(questions: Path) -> str:
    """Of the questions and of this file: what the model is made from."""
    return hashlib.sha256(questions.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
