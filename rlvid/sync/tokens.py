"""What engine and learner must agree on about tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def token_digest(token_ids: Sequence[int]) -> str:
    """Short fingerprint of a prompt's token ids, so that thousands of ids need not travel to be compared."""
    return hashlib.sha1(np.asarray(token_ids, dtype=np.int32).tobytes()).hexdigest()[:16]
