"""Small videos made on the spot."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

TICK, FRAME = Fraction(1, 1000), Fraction(1, 25)


def make(path, *, frames=50, size=(48, 64), times_ms=None, noise=False, codec="libx264", **options):
    """An H.264 clip, or one of another codec. Frame i is of grey level 4 i (or seeded noise); without `times_ms` there are 25 frames a second."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=({"crf": "5"} if codec == "libx264" else {}) | options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TICK if codec == "libx264" else FRAME
        for at in range(frames):
            pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8) if noise else np.full((*size, 3), 4 * at % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (at, FRAME) if codec != "libx264" else (times_ms[at] if times_ms else at * 40, TICK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)
