#!/usr/bin/env bash
# PyAV's frame.rotation says 180 degrees for a clip that is mirrored, not turned: one number cannot say what a display matrix says.
#
# One would expect: a mirrored clip (front cameras write them; `ffmpeg -display_hflip -i in.mp4 -c copy out.mp4`) is told apart from one that is turned.
# What happens:     both a mirrored clip and one turned by 180 degrees have frame.rotation of -180 or 180; whoever turns by it puts the mirrored one upside down.
# Why it matters:   up becomes down in every frame; left and right are right again by chance. ffmpeg, ffplay and browsers mirror.
# Source:           PyAV takes FFmpeg's av_display_rotation_get, whose documentation says that flips are not seen; seen by running this.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 imageio-ffmpeg==0.6.0 numpy==2.3.5
venv/bin/python - <<'PY'
import subprocess
import sys

import av
import imageio_ffmpeg

ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()


def run(*words):
    subprocess.run([ffmpeg, "-nostdin", "-loglevel", "error", "-y", *words], check=True)


run("-f", "lavfi", "-i", "testsrc=size=64x32:rate=10:duration=1", "-pix_fmt", "yuv420p", "plain.mp4")
run("-display_hflip", "-i", "plain.mp4", "-c", "copy", "mirrored.mp4")
run("-display_rotation", "180", "-i", "plain.mp4", "-c", "copy", "turned.mp4")
seen = {}
for name in ("plain", "mirrored", "turned"):
    with av.open(f"{name}.mp4") as container:
        seen[name] = abs(next(container.decode(video=0)).rotation)
print(f"PyAV {av.__version__}, FFmpeg {imageio_ffmpeg.get_ffmpeg_version()}: |frame.rotation|")
for name, degrees in seen.items():
    print(f"  {name:9} {degrees}")
sys.exit(0 if seen == {"plain": 0, "mirrored": 180, "turned": 180} else "the behaviour has changed")
PY
