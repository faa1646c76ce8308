"""What a video of a given length gets: frames by rate or by number, and a bound on all its visual tokens that trades frames against their size.

The rate's rule is that of Qwen's own code (`smart_nframes` of qwen-vl-utils: rate x length, between the bounds, rounded down to whole pairs). The bound is
what Qwen calls `total_pixels`, in tokens. It is settled once for a video: its K variants show as many frames at the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvid.config.video import Video

LEAST_SHARE = 0.25
"""Under `total_tokens` frames shrink to this share of `max_pixels` (half of each side) before there are fewer of them [D]."""


@dataclass(frozen=True)
class Budget:
    """T frames of at most `max_pixels` each, chosen among `candidates`; `tokens` is the most that they can be together."""

    frames: int
    max_pixels: int
    candidates: int
    tokens: int


def budget(video: Video, length_s: float, *, factor: int, frames_per_token: int = 2) -> Budget:
    """The budget of a video or clip of that length. `factor`: pixels along one side of a visual token, each of which holds `frames_per_token` frames."""
    pairs = _frames(video, length_s) // frames_per_token
    patches = max(1, video.max_pixels // factor**2)
    if video.total_tokens is not None:
        least = max(1, int(patches * LEAST_SHARE))
        pairs = max(1, min(pairs, video.total_tokens // least))
        patches = max(1, min(patches, video.total_tokens // pairs))
    pixels = video.max_pixels if patches == max(1, video.max_pixels // factor**2) else patches * factor**2
    frames = pairs * frames_per_token
    candidates = video.candidates if video.candidates_fps is None else max(video.candidates, min(int(length_s * video.candidates_fps), video.max_candidates))
    return Budget(frames, pixels, max(candidates, frames), pairs * patches)


def extremes(video: Video, *, factor: int, frames_per_token: int = 2) -> tuple[Budget, Budget]:
    """Of the shortest and of the longest video."""
    return tuple(budget(video, length_s, factor=factor, frames_per_token=frames_per_token) for length_s in (0.0, 1e9))  # type: ignore[return-value]


def most_tokens(video: Video, *, factor: int, frames_per_token: int = 2) -> Budget:
    """Of the video that gets most."""
    return max(extremes(video, factor=factor, frames_per_token=frames_per_token), key=lambda one: one.tokens)


def described(video: Video, *, factor: int, frames_per_token: int = 2) -> str:
    """Frames and tokens by length, in one line: what the dry run and the plan say."""

    def told(length_s: float) -> str:
        one = budget(video, length_s, factor=factor, frames_per_token=frames_per_token)
        side = round(one.max_pixels**0.5)
        return f"{one.frames} frames of up to {side} x {side} px, at most {one.tokens:,} visual tokens"

    if video.fps is None:
        return f"a video of any length gets {told(0.0)}"
    return "; ".join(f"a video of {length_s:g} s gets {told(length_s)}" for length_s in (10.0, 60.0, 600.0))


def _frames(video: Video, length_s: float) -> int:
    if video.fps is None:
        return video.frames
    wanted = min(max(length_s * video.fps, video.min_frames), video.max_frames)
    return max(2, int(wanted) // 2 * 2)
