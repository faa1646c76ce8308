"""What engine and learner must agree on about tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

MEDIA_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def media_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tokens that stand for media (they must never be sampled) that this tokenizer knows, ascending."""
    vocabulary = tokenizer.get_vocab()
    return tuple(sorted(vocabulary[token] for token in MEDIA_TOKENS if token in vocabulary))


def token_digest(token_ids: Sequence[int]) -> str:
    """Short fingerprint of a prompt's token ids, so that thousands of ids need not travel to be compared."""
    return hashlib.sha1(np.asarray(token_ids, dtype=np.int32).tobytes()).hexdigest()[:16]
