"""Small pictures of the frames a story shows, cut from the videos again. decord may hang or crash, so it works in a process of its own with a deadline."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rlvid.observe.report.stories import Story
from rlvid.process.one_line import first_line
from rlvid.types import VariantSpec

LEAST_PX = 64
QUALITY = 72


class Films:
    """`of(story)` until the deadline [s] for all films together is over. Use as a context manager."""

    def __init__(self, *, thumbnail_px: int, max_bytes: int, deadline_s: float) -> None:
        self.thumbnail_px = thumbnail_px
        self.max_bytes = max_bytes
        self.ends = time.monotonic() + deadline_s
        self._worker: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Films:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def of(self, story: Story) -> dict[str, Any]:
        """{size: [w, h], times: [s], jpeg: [base64]}, or {missing: why}. Whole frames: the page draws a variant's box on them.

        Of a question that shows anything else than one video {panels: [[label, base64], ...] by variant}: all that the model saw, as it saw it.
        """
        media = story.question.get("media")
        if media is not None:
            left_s = self.ends - time.monotonic()
            if left_s <= 0:
                return {"missing": "the time for pictures was over: rlvid report RUN_DIR --question ID makes these first"}
            specs = {slot["variant"]: slot["spec"] for slot in story.slots}
            return self._ask({"media": media, "specs": specs, "thumbnail_px": self.thumbnail_px, "max_bytes": self.max_bytes}, left_s)
        video = story.question["video"]
        if not video or not Path(video).is_file():
            return {"missing": "the video is not there any more" if video else "the dumps do not name the video"}
        left_s = self.ends - time.monotonic()
        if left_s <= 0:
            return {"missing": "the time for pictures was over: rlvid report RUN_DIR --question ID makes these first"}
        spec = story.slots[0]["spec"]
        shape = spec.get("work_size") or spec["size"]
        return self._ask({"video": video, "times_s": story.times_s, "shape": shape, "thumbnail_px": self.thumbnail_px, "max_bytes": self.max_bytes}, left_s)

    def _ask(self, request: dict[str, Any], left_s: float) -> dict[str, Any]:
        worker = self._worker or self._begin()
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            answer = self._answers.get(timeout=left_s)
        except queue.Empty:
            self._end()
            return {"missing": "decoding took too long"}
        except OSError:
            answer = ""
        if not answer:
            self._end()
            return {"missing": "the decoder crashed on this video"}
        return json.loads(answer)

    def _begin(self) -> subprocess.Popen[str]:
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        worker = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
        )

        def listen() -> None:
            assert worker.stdout is not None
            for line in worker.stdout:
                answers.put(line)
            answers.put("")  # it ended

        threading.Thread(target=listen, daemon=True).start()
        self._worker, self._answers = worker, answers
        return worker

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()


def serve() -> None:
    """One request a line on stdin, one answer a line on stdout."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "media" in request:
                answer = panels(request["media"], request["specs"], request["thumbnail_px"], request["max_bytes"])
                print(json.dumps(answer), flush=True)
                continue
            answer = film(request["video"], tuple(request["times_s"]), tuple(request["shape"]), request["thumbnail_px"], request["max_bytes"])
        except Exception as error:  # whatever is wrong with one video, the others are shown
            answer = {"missing": first_line(error)[:300]}
        print(json.dumps(answer), flush=True)


def film(video: str, times_s: tuple[float, ...], shape: tuple[int, int], thumbnail_px: int, max_bytes: int) -> dict[str, Any]:
    """JPEGs of whole frames at these times, smaller ones where they would exceed `max_bytes` together. `shape`: (height, width) that gives the aspect."""
    from rlvid.variants.build import rebuild
    from rlvid.video.clip import resized

    size = _bounded(shape, thumbnail_px)
    frames = rebuild(video, VariantSpec("report", times_s, None, size, 0, work_size=size))
    while True:
        pictures = [_jpeg(resized(frame, size)) for frame in frames]
        if sum(map(len, pictures)) <= max_bytes or max(size) <= LEAST_PX:
            return {"size": [size[1], size[0]], "times": list(times_s), "jpeg": pictures}
        size = _bounded(shape, max(LEAST_PX, max(size) * 3 // 4))


def panels(media: list[dict[str, str]], specs: dict[str, dict[str, Any]], thumbnail_px: int, max_bytes: int) -> dict[str, Any]:
    """For each variant a labelled JPEG of each image and of each frame, in the prompt's order, smaller where they would exceed `max_bytes` together."""
    from rlvid.types import Medium, Question
    from rlvid.variants.build import rebuild_shown
    from rlvid.video.clip import resized

    shown = tuple(Medium(kind, path) for one in media for kind, path in one.items() if kind in ("video", "image"))  # type: ignore[arg-type]
    question = Question("report", "", "", "open", media=shown)
    seen: dict[str, list[tuple[str, Any]]] = {}
    for variant, told in specs.items():
        spec = VariantSpec.from_json(told)
        seen[variant] = []
        for number, (own, pixels) in enumerate(zip(spec.media or (), rebuild_shown(question, spec), strict=True), start=1):
            if not own.times_s:
                seen[variant].append((f"{number}: image", pixels))
            seen[variant] += [(f"{number}: video, {time_s:.2f} s", frame) for time_s, frame in zip(own.times_s, pixels if own.times_s else (), strict=True)]
    longest = thumbnail_px
    while True:
        made = {n: [[label, _jpeg(resized(frame, _bounded(frame.shape[:2], longest)))] for label, frame in frames] for n, frames in seen.items()}
        if sum(len(jpeg) for frames in made.values() for _, jpeg in frames) <= max_bytes or longest <= LEAST_PX:
            return {"panels": made}
        longest = max(LEAST_PX, longest * 3 // 4)


def _bounded(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = longest / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _jpeg(frame_HWC: Any) -> str:
    import cv2

    done, data = cv2.imencode(".jpg", frame_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return base64.b64encode(data.tobytes()).decode()


if __name__ == "__main__":
    serve()
