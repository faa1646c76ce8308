"""How much of a film is read for one question with its teacher, with the node's memory of the film's frames and without it?

    python -m benchmarks.film [--gib 3] [--hours 2] [--folder /tmp/film]

Makes an MP4 of that size: an hour's packets are small pictures blown up by filler units, which are then taken off the disk again (`fallocate
--dig-holes`), so the file is sparse. One process reads the question's candidates, as a variant actor does; a second one gives the teacher an overview and
four tool calls and cuts the evidence of its patch, as a teacher actor does. Bytes are those that the two were given by read(2), `rchar` of
/proc/self/io, over what they had read before they touched the film. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

FPS, GROUP = 25, 250
PATCH: dict[str, Any] = {"error_class": "temporal", "hint": "Look later.", "spans": ((1000.0, 1010.0),), "frames_s": (3000.0,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rlvid-film")
    arguments = parser.parse_args()
    from benchmarks.environment import environment

    path = make_film(arguments.folder, arguments.gib, arguments.hours)
    size = os.path.getsize(path)
    found = {}
    for name in ("no cache", "cache"):
        cache = arguments.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        roles = {role.__name__: in_a_process(role, path, str(cache) if name == "cache" else "") for role in (candidates, teacher)}
        found[name] = {role: {"bytes": read, "share": round(read / size, 3), "seconds": round(seconds, 1)} for role, (read, seconds) in roles.items()}
        found[name]["share"] = round(sum(read for read, _ in roles.values()) / size, 3)
    print(json.dumps({"benchmark": "film", "environment": environment(), "bytes": size, "hours": arguments.hours, **found}))


def make_film(folder: Path, gib: float, hours: float) -> str:
    """The film's path; made once for the same size and length."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"film-{gib:g}-{hours:g}.mp4"
    if path.exists():
        return str(path)
    group = folder / "group.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(group), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(GROUP), "bf": "0", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt = 192, 112, "yuv420p"
        still = rng.integers(0, 255, (112, 192, 3), dtype=np.uint8)
        for at in range(GROUP):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(still, at, axis=1), format="rgb24")))
        container.mux(stream.encode())
    groups = max(1, round(hours * 3600 * FPS / GROUP))
    aside = path.with_suffix(".making.mp4")
    with av.open(str(group)) as given, av.open(str(aside), "w") as container:
        source = given.streams.video[0]
        packets = [(bytes(packet), packet.is_keyframe) for packet in given.demux(source) if packet.size]
        stream = container.add_stream_from_template(source)
        filler = max(64, int(gib * 2**30 / (groups * len(packets))) - sum(len(data) for data, _ in packets) // len(packets) - 4)
        padding = filler.to_bytes(4, "big") + b"\x0c" + bytes(filler - 2) + b"\x80"  # a filler unit, in front of which its length stands
        for at in range(groups * len(packets)):
            data, key = packets[at % len(packets)]
            packet = av.Packet(data + padding)
            packet.pts = packet.dts = at
            packet.time_base, packet.duration, packet.is_keyframe, packet.stream = Fraction(1, FPS), 1, key, stream
            container.mux(packet)
    subprocess.run(["fallocate", "--dig-holes", str(aside)], check=False)
    aside.replace(path)
    return str(path)


def in_a_process(role: Any, path: str, cache: str) -> tuple[int, float]:
    """(bytes read, seconds) of the role in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (role, path, cache))


def measured(role: Any, path: str, cache: str) -> tuple[int, float]:
    import av  # noqa: F401
    import cv2  # noqa: F401
    import decord  # noqa: F401
    import diskcache  # noqa: F401

    from rlvid.teacher import evidence, tools  # noqa: F401

    if cache:
        from rlvid.video.cache import VideoCache
        from rlvid.video.frames import keep_in

        keep_in(VideoCache(Path(cache), 10))
    before, began = bytes_read(), time.perf_counter()
    role(path)
    return bytes_read() - before, time.perf_counter() - began


def bytes_read() -> int:
    return int(next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")).split()[1])


def candidates(path: str) -> None:
    """What a variant actor reads: 64 candidates."""
    from rlvid.video.clip import read_candidates

    clip = read_candidates(path, candidates=64, clip=None, size_for=lambda height, width: (height, width))
    assert len(clip.times_s_N) == 64


def teacher(path: str) -> None:
    """What a teacher actor reads: eight frames of overview, four calls, the patch's evidence."""
    from rlvid.teacher.evidence import evidence_frames
    from rlvid.teacher.tools import VideoTools
    from rlvid.types import EvidencePatch

    tools = VideoTools(path)
    tools.open()
    assert tools.overview(8).images
    calls = (
        ("get_frame", {"i": tools.frame_count // 3}),
        ("zoom_region", {"i": tools.frame_count // 2, "x1": 0.1, "y1": 0.1, "x2": 0.6, "y2": 0.6}),
        ("get_temporal_segment", {"start": tools.duration_s / 4, "end": tools.duration_s / 4 + 7, "stride": 1}),
        ("get_temporal_segment", {"start": tools.duration_s / 8, "end": tools.duration_s / 2, "stride": tools.duration_s / 10}),
    )
    for name, arguments in calls:
        assert tools.call(name, json.dumps(arguments)).images, name
    assert len(evidence_frames(path, EvidencePatch(**PATCH), size=(112, 196))) == 4


if __name__ == "__main__":
    main()
