"""What rows of chats hold beside text: marks such as `<video>`, parts of a turn, and the paths of videos and images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvid.data.prompts import marks
from rlvid.data.sources import texts
from rlvid.data.sources.unusable import Unusable
from rlvid.data.sources.videos import Videos
from rlvid.types import Medium

_SPELLINGS = re.compile(r"<(?:video|image|vid|img)>|<\|vision_start\|><\|(?:video|image)_pad\|><\|vision_end\|>")
_IN_FRONT = re.compile(r"(?:\s*<(?:video|image)>)+\s*(.*)", re.DOTALL)
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def without_marks(text: str) -> str:
    return _SPELLINGS.sub("", text).strip()


def turns(given: Any, key: str) -> list[tuple[str, str, list[tuple[str, Any]]]]:
    """(role, text, (kind, path) of media named inside) of every turn: `role` and `content`, or `from` and `value`; content is text or a list of parts. Where a
    part is a medium, the text has its mark."""
    found = []
    for turn in texts.rows_of(given, key, list):
        turn = texts.rows_of(turn, key, dict)
        role, content = _ROLES.get(str(turn.get("role", turn.get("from")))), turn.get("content", turn.get("value"))
        if role is None:
            raise Unusable(key, f"a turn of {str(turn.get('role', turn.get('from')))[:40]!r} is none of {', '.join(_ROLES)}", "unknown role")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else texts.rows_of(content, key, list)
        words, inside = [], []
        for part in parts:
            if not isinstance(part, Mapping):
                continue
            kind = next((kind for kind in ("video", "image") if part.get(kind) or part.get("type") == kind), "")
            if kind:
                words.append(f"<{kind}>")
                inside += [(kind, part[kind])] if part.get(kind) else []
            if part.get("text"):
                words.append(str(part["text"]))
        found.append((role, "\n".join(words).strip(), inside))
    return found


@dataclass(frozen=True)
class Shown:
    """What a row asks and shows: `video` and `media` as a Draft has them. `text` keeps its marks where they do not all stand in front."""

    text: str
    video: str
    media: tuple[Medium, ...] = ()


def shown(asked: str, given_videos: Any, given_images: Any, videos: Videos, fps: Any = None) -> Shown:
    """The media of a row, in the order of the marks in its text; without marks as they are listed. Raises Unusable where marks and media do not match, or
    nothing says which of a video and an image comes first."""
    images = [_image(one, videos) for one in _listed(given_images)]
    several = _several(given_videos)
    if not images and len(several) == 1:
        return Shown(
            without_marks(asked), one_video(several[0] if isinstance(given_videos, list | tuple) and len(given_videos) > 1 else given_videos, videos, fps)
        )
    clips = [one_video(one, videos, fps) for one in several]
    text = _SPELLINGS.sub(lambda found: "<image>" if "im" in found[0] else "<video>", asked).strip()
    marked, left = marks(text), {"video": list(clips), "image": list(images)}
    if marked:
        for kind, files in left.items():
            if marked.count(kind) != len(files):
                raise Unusable("marks", f"the text has {marked.count(kind)} <{kind}> for {len(files)} {kind}(s)", "do not match the media")
    elif clips and images:
        raise Unusable("marks", f"nothing says where {len(clips)} video(s) and {len(images)} image(s) stand in the text", "missing")
    order = marked or ("video",) * len(clips) + ("image",) * len(images)
    found = tuple(Medium(kind, left[kind].pop(0)) for kind in order)  # type: ignore[arg-type]
    if (front := _IN_FRONT.fullmatch(text)) and not marks(front[1]):
        text = front[1]
    return Shown(text, clips[0] if len(clips) == 1 else "", found)


def _listed(given: Any) -> list[Any]:
    return [] if given in (None, "", [], ()) else list(given) if isinstance(given, list | tuple) else [given]


def _several(given: Any) -> list[Any]:
    """The videos of a row; a list of pictures is one."""
    listed = _listed(given)
    plain = len(listed) > 1 and all(isinstance(one, str) for one in listed)
    return [listed] if plain and all(one.lower().endswith(PICTURES) for one in listed) else listed


def _image(given: Any, videos: Videos) -> str:
    if isinstance(given, Mapping):
        if not given.get("path") and given.get("bytes"):
            raise Unusable("images", "holds a picture's bytes (save it as a file and name that)", "bytes in the row")
        given = given.get("image", given.get("path", given.get("url")))
    if not isinstance(given, str):
        raise Unusable("images", f"is {type(given).__name__}, not a path", "not a path")
    return videos.find_image(given.removeprefix("file://"))


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
