"""Where a source's videos lie: found by id or path under one root, never outside it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from rlvid.data.questions import EMPTY_VIDEO, MISSING_VIDEO
from rlvid.data.sources.unusable import Unusable

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi")


class Videos:
    """The video files under a root. Names come from annotation files, so none of them may lead out of the root."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.abspath(root)

    def find(self, *names: str) -> str:
        """The first of the names that is a file, with its own suffix or another known one. Raises Unusable if none is, or one leads out of the root."""
        path = next((path for name in names for path in _spellings(self._inside(name)) if os.path.isfile(path)), None)
        if path and os.path.getsize(path):
            return path
        if path:
            raise Unusable("video", f"{path} is empty (copy it anew)", EMPTY_VIDEO.removeprefix("video: "))
        what = f"{names[0]} is not under {self.root} (looked for {', '.join(SUFFIXES)}; name the folder of the videos with --videos)"
        raise Unusable("video", what, MISSING_VIDEO.removeprefix("video: "))

    def duration_s(self, path: str) -> float | None:
        """Length by the file's header in seconds, None where the header does not tell. Raises Unusable for a file that is no video."""
        duration_s, problem = header(path)
        if problem:
            raise Unusable("video", problem, "cannot be opened")
        return duration_s

    def _inside(self, name: str) -> str:
        plain = os.path.normpath(name.replace("\\", "/"))
        if not name.strip() or "\0" in name or os.path.isabs(plain) or plain.split("/")[0] == "..":
            raise Unusable("video", f"{name[:80]!r} leads out of the video root", "leads out of the video root")
        return os.path.join(self.root, plain)


def _spellings(path: str) -> list[str]:
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in SUFFIXES:
        stem, suffix = path, ""
    others = [stem + other for known in SUFFIXES for other in (known, known.upper())]
    return [path, *others]


@lru_cache(maxsize=1024)
def header(path: str) -> tuple[float | None, str]:
    """(seconds or None, "") or (None, what is wrong), by the file's header."""
    import av

    try:
        with av.open(path, timeout=10) as container:
            if not container.streams.video:
                return None, f"{path} has no video stream"
            return (container.duration / av.time_base if container.duration else None), ""
    except (av.FFmpegError, OSError) as error:
        return None, f"{path} cannot be opened ({str(error).splitlines()[0][:120]})"
