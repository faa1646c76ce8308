"""What does an hour of video cost beside a minute? Through the variant actor of this work tree, and of another one, each in processes of its own.

    python -m benchmarks.hour [OTHER] [--rounds 3] [--minutes 60] [--folder /tmp/rlvid-hour]

OTHER: a work tree of this repository at an older commit (`git worktree add OTHER COMMIT`); it runs with this environment's packages. An hour at 25 frames a
second is rendered once: shots of 7 to 40 s in which something moves, and in the middle one of 2 s that no even candidate falls into. A case is one build of a
question's views in a fresh process that has built views of another clip before: CPU and wall seconds, and the peak of resident memory above what it had
before, and in all. Cases go by turns; what was measured is kept in FOLDER and not measured again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.against import HERE, Side
from benchmarks.environment import environment

FPS, SIZE = 25, (180, 320)
PIECE_S, FLASH_S = 600, 2
VIEWS = {
    "4 views": ["uniform", "importance", "importance_jitter", "importance_crop"],
    "one view, uniform": ["uniform"],
    "one view, importance_crop": ["importance_crop"],
}
SETTINGS = ["video.frames=32", "video.candidates=128", "video.max_pixels=50176", "video.max_tokens=6144", "rollout.max_model_len=16384"]
CASES = [("here", "hour", views) for views in VIEWS] + [("here", "minute", "4 views")]
OTHER_CASES = [("other", "hour", "4 views"), ("other", "hour", "one view, uniform"), ("other", "minute", "4 views")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=int, default=60, help="length of the long video; a multiple of ten")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rlvid-hour")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    videos, flash_s = render(folder, options.minutes)
    model = tiny_model(folder)
    commits = {"here": commit_of(HERE), **({"other": commit_of(options.other)} if options.other else {})}
    kept = folder / "measured.jsonl"
    done = {tuple(row["case"]): row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    cases = CASES + (OTHER_CASES if options.other else [])
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    sides: dict[str, Side] = {}
    for number in range(options.rounds):
        for case in cases:
            tree, video, views = case
            key = (number, commits[tree], options.minutes, video, views)
            if key not in done:
                if tree not in sides:
                    sides[tree] = side(HERE if tree == "here" else options.other.absolute(), folder, model)
                done[key] = {"case": key} | sides[tree].ask(video=videos[video], warm=videos["warm"], kinds=VIEWS[views])
                with kept.open("a") as file:
                    print(json.dumps(done[key]), file=file)
            rows[case].append(done[key])
            print(f"round {number + 1} of {options.rounds}: {tree}, {video}, {views}: {done[key]['cpu_s']:.1f} s of CPU", flush=True)
    found = {
        "videos": {name: {"seconds": length_s(path), "MB": os.path.getsize(path) / 1e6} for name, path in videos.items() if name != "warm"},
        "cases": [told(case, commits, rows[case], flash_s) for case in cases],
        "ratios": ratios(rows),
    }
    print(json.dumps(found["ratios"], indent=1))
    print(json.dumps({"benchmark": "hour", "environment": environment(), "rounds": options.rounds, **found}))


def told(case: tuple[str, str, str], commits: dict[str, str], rows: list[dict[str, Any]], flash_s: tuple[float, float]) -> dict[str, Any]:
    tree, video, views = case
    shown = [sum(flash_s[0] <= time_s <= flash_s[1] for time_s in times_s) for times_s in rows[0]["times_s"]]
    medians = {name: statistics.median(row[name] for row in rows) for name in ("cpu_s", "wall_s", "more_MiB", "peak_MiB")}
    looked = {"candidates": rows[0]["candidates"], "frames of the moment in each view": " ".join(map(str, shown)) if video == "hour" else ""}
    return {"commit": commits[tree], "video": video, "views": views, **medians, **looked}


def ratios(rows: dict[tuple[str, str, str], list[dict[str, Any]]]) -> dict[str, float]:
    """Medians of ratios within a round."""

    def over(one: tuple[str, str, str], other: tuple[str, str, str], what: str) -> float:
        return statistics.median(a[what] / b[what] for a, b in zip(rows[one], rows[other], strict=True))

    hour, minute = ("here", "hour", "4 views"), ("here", "minute", "4 views")
    found = {f"4 views over {views}, hour, CPU": over(hour, ("here", "hour", views), "cpu_s") for views in list(VIEWS)[1:]}
    found |= {"hour over minute, CPU": over(hour, minute, "cpu_s"), "hour over minute, peak memory": over(hour, minute, "peak_MiB")}
    if ("other", "hour", "4 views") in rows:
        old, old_minute = ("other", "hour", "4 views"), ("other", "minute", "4 views")
        found |= {"4 views of an hour over the other commit's, CPU": over(hour, old, "cpu_s")}
        found |= {"4 views of an hour over the other commit's, peak memory": over(hour, old, "peak_MiB")}
        found |= {"4 views of a minute over the other commit's, CPU": over(minute, old_minute, "cpu_s")}
        one = [(tree, "hour", "one view, uniform") for tree in ("here", "other")]
        found |= {"one view of an hour over the other commit's, CPU": over(one[0], one[1], "cpu_s")}
    return found


def side(tree: Path, folder: Path, model: Path) -> Side:
    """A process that serves one tree's variant actor, and a fresh child of it for each question."""
    (folder / "q.jsonl").write_text("")
    given = [f"model.path={model}", f"data.train={folder / 'q.jsonl'}", "data.eval=null", "relevance.scorer=motion", "relevance.model=null"]
    given += ["video.cache_dir=null", f"variants.kinds=[{','.join(VIEWS['4 views'])}]", *SETTINGS]
    return Side(tree, "hour_side.py", json.dumps(given))


# --- what is measured on


def render(folder: Path, minutes: int) -> tuple[dict[str, str], tuple[float, float]]:
    """Paths of the long video, of a minute and of ten seconds, made once, and where in the long one its short moment is."""
    pieces = minutes * 60 // PIECE_S
    flash_at = PIECE_S / 2 + 3
    videos = {"hour": folder / f"film-{minutes}.mp4", "minute": folder / "minute.mp4", "warm": folder / "warm.mp4"}
    piece, other = folder / "piece.mp4", folder / "other.mp4"
    for path, long_s, flash in ((videos["warm"], 10, None), (videos["minute"], 60, None), (piece, PIECE_S, None), (other, PIECE_S, flash_at)):
        if not path.exists():
            print(f"rendering {path}", flush=True)
            _encode(path, long_s, flash)
    if not videos["hour"].exists():
        _join(videos["hour"], [other if at == pieces // 2 else piece for at in range(pieces)])
    start_s = pieces // 2 * PIECE_S + flash_at
    return {name: str(path) for name, path in videos.items()}, (start_s, start_s + FLASH_S - 1 / FPS)


def _encode(path: Path, long_s: int, flash_s: float | None) -> None:
    """Shots of 7 to 40 s of one room, the camera turned a little further or back in each; something moves across it, in ten pictures a second. The short
    moment is the room in other colours."""
    import av

    rng = np.random.default_rng(0)
    room = rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)
    borders: list[float] = []
    while not borders or borders[-1] < long_s:
        borders.append((borders[-1] if borders else 0) + int(rng.integers(7, 41)))
    if flash_s is not None:
        borders = sorted({*(border for border in borders if not flash_s - 5 < border < flash_s + 7), flash_s, flash_s + FLASH_S})
    aside, shot, pictures = path.with_suffix(".making.mp4"), -1, list[Any]()
    with av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "superfast", "crf": "30"})
        (stream.height, stream.width), stream.pix_fmt = SIZE, "yuv420p"
        for at in range(long_s * FPS):
            now = int(np.searchsorted(borders, at / FPS + 1e-6))
            if now != shot:
                short = flash_s is not None and flash_s <= at / FPS + 1e-6 < flash_s + FLASH_S
                shot, pictures = now, _pictures(255 - room if short else room, int(rng.integers(-30, 31)))
            frame = pictures[at * 10 // FPS % len(pictures)]
            frame.pts = at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    aside.rename(path)


def _pictures(room: NDArray[np.uint8], turned: int) -> list[Any]:
    import av
    import cv2

    height, width = SIZE
    backdrop = np.roll(cv2.resize(room, (width, height), interpolation=cv2.INTER_CUBIC), turned, axis=1)
    made = []
    for left in range(0, width - 40, 14):
        picture = backdrop.copy()
        picture[60:110, left : left + 40] = (220, 220, 40)
        made.append(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p"))
    return made


def _join(path: Path, pieces: list[Path]) -> None:
    """Their packets, one piece after the other."""
    import av

    aside = path.with_suffix(".making.mp4")
    with av.open(str(pieces[0])) as first, av.open(str(aside), "w") as container:
        stream = container.add_stream_from_template(first.streams.video[0])
        for at, piece in enumerate(pieces):
            with av.open(str(piece)) as given:
                source = given.streams.video[0]
                shift = round(at * PIECE_S / source.time_base)
                for packet in given.demux(source):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        container.mux(packet)
    aside.rename(path)


def tiny_model(folder: Path) -> Path:
    from rlvid.world.tiny_model import build_tiny_model

    if not (folder / "model" / "config.json").exists():
        build_tiny_model(folder / "model", ["What happens? red blue green"])
    return folder / "model"


def length_s(path: str) -> float:
    import rlvid.video.frames

    return rlvid.video.frames.length_s(path)


def commit_of(tree: Path) -> str:
    """Of this tree the last one that touched what is measured, which others may follow while it is measured."""
    touched = ["-1", "--", "rlvid/variants", "rlvid/video", "rlvid/actors/variant.py"] if tree == HERE else ["-1"]
    return subprocess.run(["git", "log", "--format=%h", *touched], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
