"""What rows of chats hold beside text: marks such as `<video>`, parts of a turn, and the paths of videos."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlvid.data.sources import texts
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos

_MARKS = re.compile(r"<(?:video|image|vid|img)>|<\|vision_start\|><\|(?:video|image)_pad\|><\|vision_end\|>")
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def without_marks(text: str) -> str:
    return _MARKS.sub("", text).strip()


def turns(given: Any, key: str) -> list[tuple[str, str, list[Any]]]:
    """(role, text, videos named inside) of every turn: `role` and `content`, or `from` and `value`; content is text or a list of parts."""
    found = []
    for turn in texts.rows_of(given, key, list):
        turn = texts.rows_of(turn, key, dict)
        role, content = _ROLES.get(str(turn.get("role", turn.get("from")))), turn.get("content", turn.get("value"))
        if role is None:
            raise Unusable(key, f"a turn of {str(turn.get('role', turn.get('from')))[:40]!r} is none of {', '.join(_ROLES)}", "unknown role")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else texts.rows_of(content, key, list)
        words = "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping) and part.get("text"))
        found.append((role, words.strip(), [part["video"] for part in parts if isinstance(part, Mapping) and part.get("video")]))
    return found


def one_video(given: Any, videos: Videos, fps: Any = None) -> str:
    """The one video of a row: a path, a list of one, an object that holds the path, or a list of pictures with their rate. Raises Unusable."""
    if isinstance(given, Mapping):
        fps = given.get("fps", fps)
        given = given.get("video", given.get("path"))
    if isinstance(given, list | tuple):
        if len(given) == 1 and not isinstance(given[0], str):
            return one_video(given[0], videos, fps)
        if not given or (len(given) > 1 and not all(isinstance(one, str) and one.lower().endswith(PICTURES) for one in given)):
            raise Unusable("videos", f"names {len(given)} (a question is about one video)", "not one video")
        if len(given) > 1:
            if fps is None:
                raise Unusable("fps", "is missing: how many of the pictures make a second", "missing")
            return videos.find_pictures(list(given), texts.seconds(fps, "fps"))
        given = given[0]
    if not isinstance(given, str):
        raise Unusable("videos", f"is {type(given).__name__}, not a path", "not a path")
    path = given.removeprefix("file://")
    return videos.find_pictures(path, texts.seconds(fps, "fps")) if fps is not None and videos.is_folder(path) else videos.find(path)


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
