"""Which frames and which part of them the K variants of a video show. Specs only, no pixels.

STRIVE [S] asks for temporal variants (important frames, even ones, random perturbation) and spatial ones (crops, several scales,
attention guidance) that keep temporal coverage. What stands here is this project's reading [D]: the timeline of the candidates
is cut into ceil(T/2) equal bins and every bin that holds a candidate gives at least one frame, in order; `uniform` is the
test-time view; `random_jitter` and `random_crop` are the ablation's baselines. A kind is a rule for time, one for space, and a
scale; all stand in `KINDS`, and a new kind is one more line there.

    kind               times                              box                     pixels
    uniform            even                               whole frame             video.max_pixels
    importance         by relevance, bins covered         whole frame             video.max_pixels
    importance_jitter  the same, moved a little           whole frame             video.max_pixels
    importance_crop    by relevance, bins covered         where the relevance is  video.max_pixels
    crop               even                               where the relevance is  video.max_pixels
    multi_scale        even                               where the relevance is  a quarter of them
    random_jitter      even, moved a little               whole frame             video.max_pixels
    random_crop        even                               anywhere                video.max_pixels
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.types import Box, Relevance, Span, VariantSpec
from rlvid.variants.relevance import attention_box
from rlvid.video.clip import even_positions

Indices = NDArray[np.int64]
Times = NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """What a rule may look at: the candidates' times [N] in seconds, T frames wanted, the least area of a crop, and the relevance. `even_N`: which of the
    candidates are evenly spaced, where some were added besides; even rules look at these alone."""

    times_s_N: Times
    frames: int
    min_crop_area: float
    crop_share: float = 0.8
    relevance: Relevance | None = None
    even_times: bool = False
    even_N: Indices | None = None
    whole: bool = False

    @property
    def even(self) -> tuple[View, Indices]:
        """The view of the evenly spaced candidates, and which of the candidates they are."""
        if self.even_N is None:
            return self, np.arange(len(self.times_s_N))
        return replace(self, times_s_N=self.times_s_N[self.even_N], even_N=None), self.even_N

    @property
    def relevant(self) -> Relevance:
        if self.relevance is None:
            raise ValueError("this kind of variant looks at relevance: set relevance.scorer")
        return self.relevance


Temporal = Callable[[View, np.random.Generator], Indices]
"""Ascending, distinct candidate indices [T]."""
Spatial = Callable[[View, np.random.Generator], Box | None]
"""One box for the whole clip, or None for the whole frame."""


@dataclass(frozen=True)
class Kind:
    """Which times, which box; `coarse` shows it with a quarter of the pixels."""

    temporal: Temporal
    spatial: Spatial
    coarse: bool = False


def explore(
    kinds: Sequence[str],
    *,
    times_s_N: Sequence[float] | Times,
    frames: int,
    size: Size,
    question_id: str,
    seed: int,
    min_crop_area: float = 0.5,
    crop_share: float = 0.8,
    relevance: Relevance | None = None,
    coarse_size: Size | None = None,
    work_size: Size | None = None,
    even_times: bool = False,
    even_N: Indices | None = None,
    whole: bool = False,
) -> list[VariantSpec]:
    """One spec per kind. T is `frames`, or the largest even number of (evenly spaced) candidates when the video has fewer.

    Variant k draws from (seed, question id, k) alone, so any worker draws the same. Nothing here knows the truth [D]: a view that were moved, drawn anew
    or left out because of what it hides would tell where the truth is by its times.

    `even_times`: every kind at even or nearly even times [D]. Qwen2.5-VL is told one number of seconds per frame pair; of frames at uneven
    times it gets every moment wrong, and an answer that names times would be rewarded or punished for what it could not see.

    `whole`: every kind shows whole frames [D]. An answer that names places in the picture names them in what it sees: in a part of it, each would be another.
    """
    times = _ascending(times_s_N)
    shown = shown_frames(len(times if even_N is None else even_N), frames)
    view = View(times, shown, min_crop_area, crop_share, relevance, even_times, even_N, whole)
    sizes = (size, coarse_size or size)
    return [_spec(kind, view, sizes, derived_seed(seed, question_id, variant), work_size) for variant, kind in enumerate(kinds)]


def explore_image(
    kinds: Sequence[str],
    *,
    size: Size,
    question_id: str,
    seed: int,
    min_crop_area: float = 0.5,
    crop_share: float = 0.8,
    relevance: Relevance | None = None,
    coarse_size: Size | None = None,
    work_size: Size | None = None,
    whole: bool = False,
) -> list[VariantSpec]:
    """One spec per kind, by its rule for space alone. Without relevance a kind that looks at it shows the whole image; `whole`: all do, see `explore`."""
    view = View(np.zeros(1), 1, min_crop_area, crop_share, relevance)
    specs = []
    for variant, name in enumerate(kinds):
        kind, drawn = _known(name), derived_seed(seed, question_id, variant)
        blind = whole or (relevance is None and kind.spatial is relevant_box)
        box = None if blind else kind.spatial(view, np.random.default_rng(drawn))
        specs.append(VariantSpec(name, (), box, (coarse_size or size) if kind.coarse else size, drawn, work_size))
    return specs


def together(kinds: Sequence[str], media: Sequence[Sequence[VariantSpec]], *, question_id: str, seed: int) -> list[VariantSpec]:
    """One spec per kind that shows something else than those before it, made of those of each medium. `media`: of each, a spec per kind.

    What cannot vary is not repeated: a question of text alone has one variant, whatever is asked for.
    """
    found: dict[Any, VariantSpec] = {}
    for variant, kind in enumerate(kinds):
        parts = tuple(specs[variant] for specs in media)
        videos = [part for part in parts if part.times_s]
        whole = VariantSpec(
            kind=kind,
            times_s=videos[0].times_s if len(videos) == 1 else (),
            box=None,
            size=parts[0].size if parts else (0, 0),
            seed=derived_seed(seed, question_id, variant),
            media=parts,
        )
        found.setdefault(tuple((part.times_s, part.box, part.size) for part in parts), whole)
    return list(found.values())


def distinct(specs: Sequence[VariantSpec]) -> list[VariantSpec]:
    """Those that show something else than those before them."""
    found: dict[Any, VariantSpec] = {}
    for spec in specs:
        found.setdefault((spec.times_s, spec.box, spec.size), spec)
    return list(found.values())


def hides(times_s: Sequence[float] | Times, spans: Sequence[Span]) -> bool:
    """Is there a span without a shown frame? For counting only."""
    return not all(_shows(times_s, span) for span in spans)


def truth_hidden(specs: Sequence[VariantSpec], spans: Sequence[Span]) -> bool:
    """Are there truth spans, and does no variant show a frame of any of them? For counting, and for `variants.hidden`."""
    return bool(spans) and not any(_shows(spec.times_s, span) for spec in specs for span in spans)


def _shows(times_s: Sequence[float] | Times, span: Span) -> bool:
    shown = np.asarray(times_s)
    return bool(((shown >= span[0]) & (shown <= span[1])).any())


def shown_frames(candidates: int, frames: int) -> int:
    """T: `frames`, or the largest even number that the candidates give (the model merges frames in pairs; none is ever repeated)."""
    if candidates < 2 or frames < 2 or frames % 2:
        raise ValueError(f"{frames} frames of {candidates} candidates: an even number of at least 2 frames and at least 2 candidates are needed")
    return min(frames, candidates - candidates % 2)


def derived_seed(*parts: int | str) -> int:
    """48 bits that depend on the parts' values and types only: equal on every machine and in every process, exact in JSON."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:6], "big")


def evenly(view: View, rng: np.random.Generator) -> Indices:
    """Even positions among the candidates; irregular timestamps that leave a bin empty get that bin's candidate."""
    even, which_N = view.even
    return which_N[_covering(even_positions(even.times_s_N, view.frames), even)]


def important(view: View, rng: np.random.Generator) -> Indices:
    """Of every bin its most relevant frame, the others drawn by relevance without replacement (Gumbel top-k) [D]."""
    share_N, bin_N = np.asarray(view.relevant.scores), bins(view)
    best = [int(np.flatnonzero(bin_N == one)[share_N[bin_N == one].argmax()]) for one in np.unique(bin_N)]
    key_N = np.log(np.maximum(share_N, 1e-300)) + rng.gumbel(size=len(share_N))
    key_N[best] = np.inf
    return np.sort(np.argsort(-key_N, kind="stable")[: view.frames])


def jittered_important(view: View, rng: np.random.Generator) -> Indices:
    """`important`, then moved like `jittered`."""
    return _jittered(important(view, rng), view, rng)


def jittered(view: View, rng: np.random.Generator) -> Indices:
    """`evenly`, each interior frame moved to a random candidate at most half the gap to its neighbours away (in time)."""
    even, which_N = view.even
    return which_N[_jittered(evenly(even, rng), even, rng)]


def _jittered(base: Indices, view: View, rng: np.random.Generator) -> Indices:
    times = view.times_s_N
    moved = base.copy()
    for at in range(1, len(base) - 1):
        here_s, before_s, after_s = times[base[at]], times[base[at - 1]], times[base[at + 1]]
        low = max(int(np.searchsorted(times, (here_s + before_s) / 2, side="left")), int(moved[at - 1]) + 1)
        high = int(np.searchsorted(times, (here_s + after_s) / 2, side="right")) - 1
        moved[at] = rng.integers(low, high + 1)
    return _restored(moved, base, view)


def whole_frame(view: View, rng: np.random.Generator) -> Box | None:
    return None


def random_box(view: View, rng: np.random.Generator) -> Box | None:
    """An aspect-preserving box with an area drawn uniformly from [min_crop_area, 1), anywhere in the frame."""
    side = math.sqrt(rng.uniform(view.min_crop_area, 1.0))
    x1, y1 = (float(rng.uniform(0.0, 1.0 - side)) for _ in range(2))
    return x1, y1, min(1.0, x1 + side), min(1.0, y1 + side)


def relevant_box(view: View, rng: np.random.Generator) -> Box | None:
    """Where the relevance lies."""
    return attention_box(view.relevant.patches, share=view.crop_share, min_area=view.min_crop_area)


KINDS: dict[str, Kind] = {
    "uniform": Kind(evenly, whole_frame),
    "importance": Kind(important, whole_frame),
    "importance_jitter": Kind(jittered_important, whole_frame),
    "importance_crop": Kind(important, relevant_box),
    "crop": Kind(evenly, relevant_box),
    "multi_scale": Kind(evenly, relevant_box, coarse=True),
    "random_jitter": Kind(jittered, whole_frame),
    "random_crop": Kind(evenly, random_box),
}
"""Name in the config -> its rules."""


EVEN_TWIN: dict[Temporal, Temporal] = {important: jittered, jittered_important: jittered}
"""What takes the place of a rule that chooses uneven times where the model cannot be told them."""


def crops(kinds: Sequence[str]) -> bool:
    """Does one of these kinds show a part of the frame?"""
    return any(KINDS[name].spatial is not whole_frame for name in kinds)


def _known(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"variants.kinds: unknown kind {name!r} (known: {', '.join(KINDS)})")
    return KINDS[name]


def _spec(name: str, view: View, sizes: tuple[Size, Size], seed: int, work_size: Size | None) -> VariantSpec:
    kind, rng = _known(name), np.random.default_rng(seed)
    temporal = EVEN_TWIN.get(kind.temporal, kind.temporal) if view.even_times else kind.temporal
    chosen, box = temporal(view, rng), None if view.whole else kind.spatial(view, rng)
    times_s = tuple(float(view.times_s_N[at]) for at in chosen)
    return VariantSpec(kind=name, times_s=times_s, box=box, size=sizes[kind.coarse], seed=seed, work_size=work_size)


def bins(view: View) -> Indices:
    """[N] the coverage bin of every candidate: ceil(T/2) equal parts of the time from the first candidate to the last."""
    count = math.ceil(view.frames / 2)
    start_s, end_s = view.times_s_N[0], view.times_s_N[-1]
    return np.minimum(((view.times_s_N - start_s) / (end_s - start_s) * count).astype(np.int64), count - 1)


def _covering(chosen: Indices, view: View) -> Indices:
    """`chosen` with frames of crowded bins exchanged for one of every bin that has candidates but no chosen frame."""
    bin_N = bins(view)
    picked = chosen.copy()
    for empty in sorted(set(bin_N.tolist()) - set(bin_N[chosen].tolist())):
        # T frames in fewer than T/2 bins: the fullest has three or more, so one goes that is not the clip's first or last.
        crowd = np.flatnonzero(bin_N[picked] == np.bincount(bin_N[picked]).argmax())
        members = np.flatnonzero(bin_N == empty)
        picked[crowd[len(crowd) // 2]] = members[len(members) // 2]
        picked.sort()
    return picked


def _restored(moved: Indices, base: Indices, view: View) -> Indices:
    """`moved` with the frames of every bin that the jitter emptied put back to their base, until no bin is empty."""
    bin_N = bins(view)
    while lost := set(bin_N[base].tolist()) - set(bin_N[moved].tolist()):
        back = np.isin(bin_N[base], list(lost))
        moved = np.where(back, base, moved)
    return moved


def _ascending(times_s_N: Sequence[float] | Times) -> Times:
    times = np.asarray(times_s_N, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ValueError("times_s_N: at least two finite, strictly ascending timestamps are needed")
    return times
