"""Where a source's videos lie: found by id or path under one root, never outside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from rlvid.data.questions import EMPTY, MISSING
from rlvid.data.sources.unusable import Unusable
from rlvid.video import pictures
from rlvid.video.frames import VideoError, length_s

PICTURES = (*pictures.SUFFIXES, ".gif", ".tif", ".tiff", ".jfif")
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")


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
            raise Unusable("video", f"{path} is empty (copy it anew)", EMPTY["video"].removeprefix("video: "))
        what = f"{names[0]} is not under {self.root} (looked for {', '.join(SUFFIXES)}; name the folder of the videos with --videos)"
        raise Unusable("video", what, MISSING["video"].removeprefix("video: "))

    def find_pictures(self, names: str | Sequence[str], fps: float, *others: str) -> str:
        """A folder of pictures (the first of the names that is one) or a list of them, as a video at that rate. Raises Unusable where they are not there."""
        if not isinstance(names, str):
            return pictures.spelled([self.find(name) for name in names], fps)
        folders = [self._inside(name) for name in (names, *others)]
        folder = next((folder for folder in folders if os.path.isdir(folder)), None)
        if folder is None or pictures.is_missing(pictures.spelled(folder, fps)):
            what = f"{names} is no folder of pictures under {self.root} (name the folder of the videos with --videos)"
            raise Unusable("video", what, MISSING["video"].removeprefix("video: "))
        return pictures.spelled(folder, fps)

    def find_image(self, name: str) -> str:
        """The picture of that name under the root. Raises Unusable."""
        path = self._inside(name)
        if os.path.splitext(path)[1].lower() not in PICTURES:
            raise Unusable("image", f"{name[:80]} is no picture ({', '.join(PICTURES)})", "not a picture")
        if not os.path.isfile(path):
            raise Unusable(
                "image", f"{name} is not under {self.root} (name the folder of the pictures with --videos)", MISSING["image"].removeprefix("image: ")
            )
        if not os.path.getsize(path):
            raise Unusable("image", f"{path} is empty (copy it anew)", EMPTY["image"].removeprefix("image: "))
        return path

    def is_folder(self, name: str) -> bool:
        return os.path.isdir(self._inside(name))

    def duration_s(self, path: str) -> float | None:
        """The video's length in seconds on the reader's own clock. Raises Unusable for a file that is no video."""
        duration_s, problem = header(path)
        if problem:
            raise Unusable("video", problem, "cannot be opened")
        return duration_s

    def _inside(self, name: str) -> str:
        plain = os.path.normpath(name.replace("\\", "/"))
        plain = os.path.relpath(plain, self.root) if plain.startswith(os.path.join(self.root, "")) else plain
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
    """(seconds, "") or (None, what is wrong), by the clock of those who read the frames."""
    try:
        return length_s(path), ""
    except VideoError as error:
        return None, str(error)
