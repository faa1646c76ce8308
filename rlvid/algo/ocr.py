"""How much of a text was read right: 1 minus the word error rate, as Video-R1 rewards OCR (arXiv 2503.21776) [R: its released code]."""

from __future__ import annotations

from collections.abc import Sequence


def words_read(said: str, truths: Sequence[str]) -> float:
    """0..1, the best over the true texts: 1 - (words inserted, left out or exchanged) / words of the truth, not below 0. Case and punctuation count."""
    return max((_one(said.split(), truth.split()) for truth in truths), default=0.0)


def _one(said: Sequence[str], truth: Sequence[str]) -> float:
    from rapidfuzz.distance import Levenshtein

    return max(0.0, 1 - Levenshtein.distance(said, truth) / len(truth)) if truth else float(not said)
