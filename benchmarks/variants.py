"""What do variants cost? K = 4 against K = 1, variants against bare decoding and against qwen-vl-utils, a second epoch from the cache, memory for an hour.

    python -m benchmarks.variants [--pairs 5] [--minutes 60] [--height 720] [--out FOLDER]

Every ratio is the median of pairs measured one right after the other in this run, on clips made here (720p, long groups of pictures).
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from rlvid.variants.build import cut
from rlvid.variants.explore import explore
from rlvid.variants.relevance import relevance
from rlvid.variants.scorers import MotionScorer
from rlvid.video.cache import VideoCache
from rlvid.video.clip import Clip, read_candidates, shown_size

KINDS = ("uniform", "importance", "importance_jitter", "importance_crop")
FRAMES, CANDIDATES, MAX_PIXELS = 32, 128, 128 * 28 * 28
PEAK = """
import sys
from benchmarks.variants import candidates_of, variants_of
variants_of(candidates_of(sys.argv[1]), 4)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=60, help="length of the clip that times are measured on")
    parser.add_argument("--height", type=int, default=720, help="its height in pixels, at 16:9")
    parser.add_argument("--minutes", type=float, default=60, help="length of the long video")
    parser.add_argument("--out", type=Path, default=None, help="where clips are made and kept; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        clip = make_clip(
            folder / f"clip-{arguments.seconds}s-{arguments.height}p.mp4",
            seconds=arguments.seconds,
            size=(arguments.height, arguments.height * 16 // 9),
            fps=30,
        )
        found = {**times(clip, arguments.pairs, folder), **memory(folder, arguments.minutes)}
    for name, value in found.items():
        print(f"{name:60s} {value:.3f}")
    print(json.dumps({"benchmark": "variants", "environment": environment(), "pairs": arguments.pairs, "minutes": arguments.minutes, "found": found}))


def times(path: str, pairs: int, folder: Path) -> dict[str, float]:
    cache = VideoCache(folder / "cache", 5)
    parameters = [time.time()]  # this run's own records
    candidates = candidates_of(path)
    count = len(candidates.times_s_N)

    def build() -> None:
        variants_of(candidates_of(path), 4)

    one, _, _ = paired(build, lambda: variants_of(candidates_of(path), 1), pairs)
    bare, ours_s, decord_s = paired(build, lambda: bare_decord(path, candidates.times_s_N), pairs)
    peer, _, peer_s = paired(build, lambda: qwen_vl_utils(path, count), pairs)
    peers, _, _ = paired(build, lambda: [qwen_vl_utils(path, min(FRAMES, count)) for _ in KINDS], pairs)
    cache.clip(path, parameters, lambda: candidates)
    again, _, _ = paired(lambda: candidates_of(path), lambda: cache.clip(path, parameters, lambda: candidates), pairs)
    scored, _, _ = paired(lambda: MotionScorer().score(candidates.frames_NHWC, "?"), lambda: candidates_of(path), pairs)
    return {
        "K = 4 over K = 1, time": one,
        "K = 4 variants over bare decord decoding of the same frames, time": bare,
        "K = 4 variants over qwen-vl-utils, as many frames in one call, time": peer,
        "K = 4 variants over qwen-vl-utils, a call a view, time": peers,
        "frames per second, K = 4 variants": len(KINDS) * min(FRAMES, count) / ours_s,
        "frames per second, bare decord": count / decord_s,
        "frames per second, qwen-vl-utils": count / peer_s,
        "decoding over reading from the cache, time": again,
        "motion scoring over decoding, time": scored,
    }


def memory(folder: Path, minutes: float) -> dict[str, float]:
    """Peak resident memory of a process that builds 4 variants, long video over one minute."""
    peaks = {}
    for name, length in (("long", minutes), ("minute", 1.0)):
        path = make_clip(folder / f"{name}-{length:g}min.mp4", seconds=round(length * 60), size=(360, 640), fps=24)
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
        peaks[name] = float(done.stdout.split()[-1]) / 1024
    return {
        "peak MiB, one minute": peaks["minute"],
        f"peak MiB, {minutes:g} minutes": peaks["long"],
        "peak memory, long over one minute": peaks["long"] / peaks["minute"],
    }


def candidates_of(path: str) -> Clip:
    def size_for(height: int, width: int) -> tuple[int, int]:
        return shown_size(height, width, max_pixels=MAX_PIXELS, factor=28)

    return read_candidates(path, candidates=CANDIDATES, clip=None, size_for=size_for, zoom=2**0.5)


def variants_of(clip: Clip, k: int) -> list[Any]:
    """The frames of the first k variants."""
    kinds = KINDS[:k]
    scored = relevance(MotionScorer().score(clip.frames_NHWC, "?"), clip.times_s_N) if k > 1 else None
    size = shown_size(clip.height, clip.width, max_pixels=MAX_PIXELS, factor=28)
    specs = explore(kinds, times_s_N=clip.times_s_N, frames=FRAMES, size=size, question_id="q", seed=0, relevance=scored)
    return [cut(clip, spec) for spec in specs]


def bare_decord(path: str, times_s: np.ndarray) -> None:
    """The candidates and nothing else: the library's own batch call."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    stamps = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    reader.get_batch(np.searchsorted(stamps, times_s - 1e-3).tolist()).asnumpy()


def qwen_vl_utils(path: str, frames: int) -> None:
    """The models' own preprocessing: evenly spaced frames, decoded by decord and resized to the same bound, once per view."""
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
    from qwen_vl_utils.vision_process import fetch_video

    fetch_video({"video": path, "nframes": frames, "max_pixels": MAX_PIXELS})


def paired(one: Callable[[], Any], other: Callable[[], Any], pairs: int) -> tuple[float, float, float]:
    """Median of one's time over the other's, and the medians of both in seconds, measured in turns after a first round that does not count."""
    taken = [(_seconds(one), _seconds(other)) for _ in range(pairs + 1)][1:]
    return statistics.median(a / b for a, b in taken), statistics.median(a for a, _ in taken), statistics.median(b for _, b in taken)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def make_clip(path: Path, *, seconds: int, size: tuple[int, int], fps: int) -> str:
    """A moving square on a gradient with noise; kept if it is there."""
    if path.exists():
        return str(path)
    import av

    height, width = size
    rng = np.random.default_rng(0)
    backdrop = (np.linspace(30, 200, width)[None, :, None] + rng.integers(0, 20, (height, width, 3))).astype(np.uint8)
    aside = path.with_suffix(".making.mp4")
    with av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "30", "g": "250"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for at in range(seconds * fps):
            frame = backdrop.copy()
            left = at * 3 % (width - width // 8)
            frame[height // 3 : height // 2, left : left + width // 8] = (at % 255, 60, 200)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    aside.rename(path)
    return str(path)


if __name__ == "__main__":
    main()
