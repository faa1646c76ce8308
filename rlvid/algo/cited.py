"""The cited-times reward: a time that the rationale names is paid by how near it is to the evidence. Pure.

exp(-d^2 / (2 sigma^2)), d the seconds from the named time to the nearest evidence; sigma goes from 4 s down to 1 s as training goes (Open-o3-Video [R]). The
mean over the times that are named [D]: a list of all seconds earns what a random one does. d is 0 inside an evidence span [D]; nothing named, or no evidence
known, earns 0 [D].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlvid.types import Question, Span


def cited_times(named_s: Sequence[float], evidence: Sequence[Span], *, sigma_s: float) -> float:
    """0..1. `named_s`: times of the rationale; `evidence`: where the answer can be seen, moments as spans without length. All in seconds of one clock."""
    if not named_s or not evidence:
        return 0.0
    away_s = [min(max(start_s - time_s, time_s - end_s, 0.0) for start_s, end_s in evidence) for time_s in named_s]
    return sum(math.exp(-(one_s**2) / (2 * sigma_s**2)) for one_s in away_s) / len(away_s)


def sigma(sigmas_s: tuple[float, float], step: int, steps: int) -> float:
    """Linear from the first, before training, to the second at its last step [D: how it falls]."""
    share = min(1.0, max(0.0, step / steps))
    return sigmas_s[0] + share * (sigmas_s[1] - sigmas_s[0])


def evidence_of(question: Question) -> list[Span]:
    """Evidence spans and the moments of regions; where the file has none, the true spans."""
    evidence = question.evidence
    moments = [(region.time_s, region.time_s) for region in evidence.regions]
    return [*evidence.spans, *moments] or list(question.spans)
