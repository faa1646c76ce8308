"""The teacher that knows the dataset's evidence: the quickstart's, and the upper bound in ablations. No model, no tools [D]."""

from __future__ import annotations

import time

import numpy as np

from rlvid.algo.repair import position
from rlvid.teacher.guard import GROUNDING, edge_s, patch_leak
from rlvid.teacher.patch import MAX_ITEMS, PatchError, parse, to_json
from rlvid.teacher.protocol import TeacherReply, TeacherRequest
from rlvid.types import EvidencePatch, Question, Region, Span
from rlvid.variants.explore import derived_seed


class AnnotationTeacher:
    """Turns `question.evidence` into a patch with a neutral hint: times, and the place where it does not tell the answer."""

    async def start(self) -> None:
        """Nothing to make ready."""

    async def find(self, request: TeacherRequest) -> TeacherReply:
        """The first of the possible patches that the guard lets pass, from the fullest to the barest."""
        began, leaked, reason = time.perf_counter(), 0, ""
        for patch in patches(request.told):
            try:
                parse(to_json(patch), duration_s=request.told_duration_s)
            except PatchError as error:
                return TeacherReply(None, "refused", f"evidence of {request.question.id}: {error}", leaked, 1, seconds=time.perf_counter() - began)
            reason = patch_leak(request.told, patch, duration_s=request.told_duration_s)
            if not reason:
                return TeacherReply(patch, "patch", leaked=leaked, seconds=time.perf_counter() - began)
            leaked += 1
        outcome = "leaked" if leaked else "none"
        return TeacherReply(None, outcome, reason or "the question has no annotated evidence", leaked, seconds=time.perf_counter() - began)  # type: ignore[arg-type]

    async def check(self) -> None:
        """Always able to serve."""

    async def stop(self) -> None:
        """Nothing to give back."""


def patches(question: Question) -> list[EvidencePatch]:
    """Patches made of the question's evidence, the fullest first. Empty where there is none.

    Regions at one place stay boxes; those of something that moves, or of several things, become key frames: a crop would hide the movement
    or the number. Where a span is asked for, the evidence is one moment inside it, drawn by the question's id, with its box if there is one; the
    student is told the time neither of the frame nor in the hint.
    """
    if question.task in GROUNDING:
        return _moments(question)
    evidence = question.evidence
    spans, regions = evidence.spans[:MAX_ITEMS], evidence.regions[:MAX_ITEMS]
    if not spans and not regions:
        return []
    frames_s: tuple[float, ...] = ()
    if not _at_rest(regions):
        frames_s, regions = tuple(sorted({region.time_s for region in regions}))[:MAX_ITEMS], ()
    moments = frames_s or tuple(sorted({region.time_s for region in regions}))
    when = " and ".join(f"between {start:.1f} s and {end:.1f} s" for start, end in spans) or _at(moments)
    error_class = "temporal" if spans else "spatial"
    found = [
        EvidencePatch(error_class, f"Look closely {when}, {place}.", spans, frames_s, regions)  # type: ignore[arg-type]
        for place in _places(regions)
    ]
    found.append(EvidencePatch(error_class, f"Look closely {when}.", spans, frames_s, regions))  # type: ignore[arg-type]
    middles = tuple((start + end) / 2 for start, end in spans) or moments
    return [*found, EvidencePatch("temporal", f"Look closely {_at(middles)}.", (), middles)]


def _moments(question: Question) -> list[EvidencePatch]:
    spans = question.evidence.spans or question.spans
    if not spans:
        return []
    span, rng = spans[0], np.random.default_rng(derived_seed("moment", question.id))
    time_s = round(_inside(span, rng), 1)
    bare = EvidencePatch("temporal", f"{_LOOK_FOR}.", (), (time_s,))
    inside = [region for region in question.evidence.regions if _off_edges(region.time_s, span)]
    if not inside:
        return [bare]
    region = inside[rng.integers(len(inside))]
    return [EvidencePatch("temporal", f"{_LOOK_FOR}{place}.", (), (), (region,)) for place in (*(f", {place}" for place in _places((region,))), "")] + [bare]


_LOOK_FOR = "Look for what is seen in the evidence"


def _inside(span: Span, rng: np.random.Generator) -> float:
    """A moment in the outer parts of the span, before or after its middle third, but off its edges."""
    start, end = span
    early, share = rng.random() < 0.5, rng.random()
    away_s = min(edge_s(span) + 0.05, (end - start) / 4)  # 0.05: moments have one decimal
    deep_s = away_s + share * max(0.0, (end - start) / 3 - away_s)
    return start + deep_s if early else end - deep_s


def _off_edges(time_s: float, span: Span) -> bool:
    return span[0] + edge_s(span) < time_s < span[1] - edge_s(span)


def _at_rest(regions: tuple[Region, ...]) -> bool:
    """Whether all boxes are about the same."""
    return all(abs(edge - first) <= 0.05 for region in regions for edge, first in zip(region.box, regions[0].box, strict=True))


def _at(times_s: tuple[float, ...]) -> str:
    return "at " + " and ".join(f"{time_s:.1f} s" for time_s in times_s)


def _places(regions: tuple[Region, ...]) -> list[str]:
    """The place in words, where all regions have the same one."""
    all_places = {frozenset(position(region.box)) for region in regions}
    if len(all_places) != 1:
        return []
    sides = next(iter(all_places))
    if sides == {"centre"}:
        return ["near the centre of the frame"]
    return [f"in the {' '.join(side for side in ('top', 'bottom', 'left', 'right') if side in sides)} part of the frame"]
