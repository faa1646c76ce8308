"""Single images, and videos that are pictures: a folder or a list of them at a rate, and animated WebP, which FFmpeg does not decode. Read by Pillow.

A video is known everywhere by one string. For pictures it is `FOLDER#fps=3` or `["a.jpg", "b.jpg"]#fps=3`, written by `spelled`: question files hold the
path or the list under `video` and the rate under `fps`.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # question files are read without it
    import numpy as np
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_SPELLED = re.compile(r"(.+)#fps=([0-9.e+-]+)", re.DOTALL)
_WEBP_HEAD = 21
"""Bytes of a WebP file's head; the last holds the flags."""
_ANIMATED = 0b10


MOST_PIXELS = 178_956_970
"""An image with more is not decoded: half a gigabyte, Pillow's own bound."""


class VideoError(ValueError):
    """This video or image cannot be used. One line that names the file and the reason."""


@dataclass(frozen=True)
class Pictures:
    """A folder's pictures in the order of the numbers in their names, or listed ones as listed; `fps` of them make a second."""

    fps: float
    folder: str = ""
    listed: tuple[str, ...] = ()

    def files(self) -> tuple[str, ...]:
        """Their paths. Raises VideoError."""
        if not self.folder:
            return self.listed
        try:
            names = [name for name in os.listdir(self.folder) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        except OSError as error:
            raise VideoError(f"{self.folder}: {'no such folder' if isinstance(error, FileNotFoundError) else error.strerror}") from None
        if not names:
            raise VideoError(f"{self.folder}: holds no picture ({', '.join(SUFFIXES)})")
        stems: dict[str, str] = {}
        for name in sorted(names):
            if (other := stems.setdefault(os.path.splitext(name)[0], name)) != name:
                raise VideoError(f"{self.folder}: holds {other} and {name}: one frame twice? (keep one suffix in the folder)")
        return tuple(os.path.join(self.folder, name) for name in sorted(names, key=_by_number))


def spelled(pictures: str | Sequence[str], fps: float) -> str:
    """The one string by which a folder or a list of pictures is known."""
    return f"{pictures if isinstance(pictures, str) else json.dumps(list(pictures))}#fps={fps:g}"


@functools.lru_cache(maxsize=4096)
def parsed(video: str) -> Pictures | None:
    """What a string of `spelled` says; None for the path of a file."""
    match = _SPELLED.fullmatch(video)
    if not match or os.path.isfile(video):
        return None
    fps = float(match[2])
    return Pictures(fps, listed=tuple(json.loads(match[1]))) if match[1].startswith("[") else Pictures(fps, folder=match[1])


def is_missing(video: str) -> bool:
    """Is the file, or the first of the pictures, not there?"""
    found = parsed(video)
    if not found:
        return not os.path.isfile(video)
    try:
        return not os.path.isfile(found.files()[0])
    except VideoError:
        return True


def relative(video: str, folder: str) -> tuple[str | list[str], float | None]:
    """What a question file in that folder holds under `video` and `fps`; the paths as they are where no folder is named."""
    found = parsed(video)

    def told(path: str) -> str:
        return os.path.relpath(path, folder) if folder else path

    if not found:
        return told(video), None
    return ([told(one) for one in found.listed] if found.listed else told(found.folder)), found.fps


def image(path: str) -> Frames:
    """[H, W, 3] uint8 of a single picture, upright; what is transparent is white, as in Qwen's own code [R: qwen-vl-utils]. Raises VideoError."""
    from PIL import Image, ImageOps

    if not os.path.isfile(path):
        raise VideoError(f"{path}: {'is a folder, not an image' if os.path.isdir(path) else 'no such file'}")
    if not os.path.getsize(path):
        raise VideoError(f"{path}: the file is empty")
    try:
        Image.MAX_IMAGE_PIXELS = None  # what is too large is said here, in one way for all of Pillow's formats
        with Image.open(path) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise VideoError(f"{path}: is {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} million (bring it to a smaller size)")
            if (pictures := getattr(opened, "n_frames", 1)) > 1 and opened.format not in STILL:
                raise VideoError(f"{path}: is an animation of {pictures} pictures, not an image (write it under video)")
            return _on_white(ImageOps.exif_transpose(opened))
    except (MemoryError, VideoError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise VideoError(f"{path}: is no image that can be read ({' '.join(str(error).split())[:120]})") from None


STILL = ("TIFF", "MPO", "ICO", "PSD")
"""Formats whose further pictures are pages, other views or sizes: the first one is the image."""


def _on_white(image: Any) -> Frames:
    """[H, W, 3] of a Pillow image, on a white ground where it is transparent."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = Image.new("RGBA", clear.size, "white")
        ground.alpha_composite(clear)
        image = ground
    return _rgb(image)


def is_animated(path: str) -> bool:
    """An animated WebP file?"""
    try:
        with open(path, "rb") as file:
            head = file.read(_WEBP_HEAD)
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[-1] & _ANIMATED)


def timeline(video: str) -> tuple[NDArray[np.float64], float]:
    """([N] start of every picture in seconds, their length). Raises VideoError."""
    import numpy as np

    found = parsed(video)
    if found:
        count = len(found.files())
        return (np.arange(count) / found.fps).round(6), round(count / found.fps, 6)
    lengths_ms = _lengths_ms(video)
    ends_s = np.cumsum(lengths_ms, dtype=np.float64) / 1000
    return np.append(0.0, ends_s[:-1]).astype(np.float64), float(ends_s[-1])


def frames(video: str, chosen_N: Sequence[int]) -> Iterator[tuple[int, Frames]]:
    """(number, [H, W, 3] uint8) of each chosen picture; they ascend. Raises VideoError."""
    found = parsed(video)
    if not found:
        yield from _of_webp(video, chosen_N)
        return
    files, first = found.files(), None
    for at in chosen_N:
        pixels = _read(files[at])
        first = first or pixels.shape
        if pixels.shape != first:
            sizes = f"{first[1]} x {first[0]} and {pixels.shape[1]} x {pixels.shape[0]}"
            raise VideoError(f"{files[at]}: the pictures of one video are of one size, here are {sizes}")
        yield at, pixels


def _read(path: str) -> Frames:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise VideoError(f"{path}: is no picture that can be read ({str(error)[:120]})") from None


def _rgb(image: Any) -> Frames:
    """[H, W, 3] of a Pillow image. Of grey values of 16 bits the upper 8 are kept: Pillow's own conversion cuts all above 255 to white."""
    import numpy as np

    if image.mode.startswith("I;16") or image.mode == "I":
        grey_HW = np.asarray(image).astype(np.int64)
        if grey_HW.min() < 0 or grey_HW.max() > 0xFFFF:
            raise ValueError(f"values from {grey_HW.min()} to {grey_HW.max()}: more than 16 bits")
        return np.repeat((grey_HW >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("real numbers in the place of pixels: nothing says which is white")
    return np.asarray(image.convert("RGB"))


def _lengths_ms(path: str) -> list[float]:
    """How long each picture of an animation is shown: the least is a millisecond, as times must ascend."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            found = []
            for at in range(getattr(image, "n_frames", 1)):
                image.seek(at)
                image.load()
                found.append(max(1.0, float(image.info.get("duration", 0))))
            return found
    except MemoryError:
        raise
    except Exception as error:
        raise VideoError(f"{path}: is broken or cut off ({str(error)[:120]})") from None


def _of_webp(path: str, chosen_N: Sequence[int]) -> Iterator[tuple[int, Frames]]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            for at in chosen_N:
                image.seek(at)
                yield at, _rgb(image)
    except MemoryError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise VideoError(f"{path}: a frame cannot be decoded, it is broken or cut off ({str(error)[:120]})") from None


def _by_number(name: str) -> tuple[tuple[int, int | str], ...]:
    """`frame10.jpg` after `frame9.jpg`."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)
