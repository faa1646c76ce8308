#!/usr/bin/env bash
# decord 0.6.0 turns a phone's clip upright in MP4 and leaves the same stream, copied into Matroska, lying on its side.
#
# One would expect: a container changes nothing. `ffmpeg -i phone.mp4 -c copy phone.mkv` keeps the pixels and carries the display matrix along.
# What happens:     of the MP4 decord gives frames of height x width 64 x 32 (upright), of the MKV 32 x 64 (as stored), without a word.
# Why it matters:   a model that is trained on such clips sees half of them sideways, and boxes and directions mean something else in each half.
# Source:           decord reads the turn from the stream's metadata key `rotate` and from side data that its FFmpeg 4 fills for MP4 only; seen by running this.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check decord==0.6.0 imageio-ffmpeg==0.6.0 numpy==2.3.5
venv/bin/python - <<'PY'
import subprocess
import sys

import decord
import imageio_ffmpeg

ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()


def run(*words):
    subprocess.run([ffmpeg, "-nostdin", "-loglevel", "error", "-y", *words], check=True)


run("-f", "lavfi", "-i", "testsrc=size=64x32:rate=10:duration=1", "-pix_fmt", "yuv420p", "plain.mp4")
run("-display_rotation", "90", "-i", "plain.mp4", "-c", "copy", "phone.mp4")
run("-i", "phone.mp4", "-c", "copy", "phone.mkv")
seen = {name: decord.VideoReader(name)[0].shape[:2] for name in ("plain.mp4", "phone.mp4", "phone.mkv")}
print(f"decord {decord.__version__}, FFmpeg {imageio_ffmpeg.get_ffmpeg_version()}: height x width of the first frame")
for name, (height, width) in seen.items():
    print(f"  {name:10} {height} x {width}")
known = {"plain.mp4": (32, 64), "phone.mp4": (64, 32), "phone.mkv": (32, 64)}
sys.exit(0 if seen == known else "the behaviour has changed")
PY
