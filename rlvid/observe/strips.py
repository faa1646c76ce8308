"""Rows of rollouts for a tracker: a variant's filmstrip and its answers. Strips are drawn where the frames lie; only small JPEGs come to the driver."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.reading.boxes import written
from rlvid.types import Group, Question, Score, VariantSpec

log = logging.getLogger("rlvid")

FRAME_PX = 112
"""Longer side of a frame in a strip."""
DEADLINE_S = 60.0
WAIT_S = 0.2
RAY_STANDS = threading.Lock()
"""Held while a strip is asked for on the tracker's thread, and while Ray is shut down: a call that is in Ray at that moment ends its thread, or the process."""


@dataclass(frozen=True)
class RolloutRow:
    """One variant of one question: what was shown and what was said, times as the model is told them. `strip` refers to a JPEG."""

    question_id: str
    question: str
    task: str
    truth: str
    variant: int
    kind: str
    times_s: tuple[float, ...]
    answers: str
    best_reward: float
    strip: Any

    def picture(self) -> bytes | None:
        """The JPEG; None where it could not be drawn in time."""
        import ray

        until = time.monotonic() + DEADLINE_S
        try:
            while time.monotonic() < until:
                with RAY_STANDS:
                    if not ray.is_initialized():
                        return None
                    if ray.wait([self.strip], timeout=WAIT_S)[0]:
                        return ray.get(self.strip)
                time.sleep(0.01)  # whoever shuts Ray down has its turn
        except Exception as error:  # a spectator's picture: the row is shown without it
            log.debug("no filmstrip of %s: %s", self.question_id, error)
        return None


def rollout_rows(groups: Sequence[Group], rewards: Sequence[NDArray[Any]], advantages: Sequence[NDArray[Any]], questions: int) -> list[RolloutRow]:
    """Rows of the first `questions` groups. `rewards` and `advantages`: [K, M] per group. Returns at once; strips are drawn by Ray tasks."""
    import ray

    draw = ray.remote(num_cpus=0)(filmstrip)
    rows = []
    for group, rewards_KM, advantages_KM in list(zip(groups, rewards, advantages, strict=True))[:questions]:
        question = group.question.as_told()
        for variant, spec in enumerate(group.prepared.specs):
            times_s = tuple(time_s - group.question.starts_s for time_s in spec.times_s)
            said = zip(group.rollouts_KM[variant], group.scores_KM[variant], rewards_KM[variant], advantages_KM[variant], strict=True)
            rows.append(
                RolloutRow(
                    question_id=group.question.id,
                    question=group.question.question,
                    task=group.question.task,
                    truth=truth_of(question),
                    variant=variant,
                    kind=spec.kind,
                    times_s=times_s,
                    answers="\n".join(f"{advantage:+.2f} (reward {reward:.2f}): {rollout.text}{_judged(score)}" for rollout, score, reward, advantage in said),
                    best_reward=float(rewards_KM[variant].max()),
                    strip=draw.remote(group.frames[variant], times_s if spec.media is None else labels(spec, group.question.starts_s)),
                )
            )
    return rows


def truth_of(question: Question) -> str:
    """What is right, in one line, as a reply would say it."""
    places = written(question.box, ((region.time_s, region.box) for region in question.track))
    return ", ".join(filter(None, [question.answer, *(f"{start:g} to {end:g} s" for start, end in question.spans), places]))


def labels(spec: VariantSpec, starts_s: float) -> list[str]:
    """What stands below each picture of several media: which medium it is of, and when."""
    found = []
    for number, one in enumerate(spec.media or (), start=1):
        found += [f"{number}: {time_s - starts_s:.2f} s" for time_s in one.times_s] or [f"{number}: image"]
    return found


def _judged(score: Score) -> str:
    return f" [judge: {score.said}]" if score.said else ""


def filmstrip(frames: Any, told: Sequence[float | str]) -> bytes:
    """The frames side by side as one JPEG, each with its timestamp (or what else is told) below. `frames`: [T, H, W, C], or a tuple of several media."""
    from PIL import Image, ImageDraw

    media = frames if isinstance(frames, tuple) else (frames,)
    pictures = [frame for one in media for frame in (one if one.ndim == 4 else one[None])]
    tiles = []
    for frame in pictures:
        scale = FRAME_PX / max(frame.shape[:2])
        size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
        tiles.append(Image.fromarray(np.ascontiguousarray(frame)).resize(size))
    tall = max((tile.height for tile in tiles), default=1)
    strip = Image.new("RGB", (max(1, sum(tile.width + 4 for tile in tiles) - 4), tall + 14), "white")
    pen, left = ImageDraw.Draw(strip), 0
    for tile, one in zip(tiles, told, strict=True):
        strip.paste(tile, (left, 0))
        pen.text((left + 2, tall + 1), one if isinstance(one, str) else f"{one:.2f} s", fill="black")
        left += tile.width + 4
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=80)
    return file.getvalue()
