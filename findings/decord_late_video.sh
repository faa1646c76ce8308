#!/usr/bin/env bash
# decord 0.6.0 puts the first frame of a Matroska file at 0 s, whatever its time stamp says.
#
# One would expect: a stream whose first packet is stamped 2.0 s begins at 2.0 s (FFmpeg and PyAV say so; subtitles and annotations count that way).
# What happens:     get_frame_timestamp(0) is 0.0; every time is two seconds early.
# Why it matters:   spans of moments are two seconds off for such files, in silence, if one reader counts and another one cuts.
# Source:           seen by running this.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0 decord==0.6.0 imageio-ffmpeg==0.6.0 numpy==2.3.5
venv/bin/python - <<'PY'
import subprocess
import sys

import av
import imageio_ffmpeg

command = ["-f", "lavfi", "-i", "testsrc=size=64x32:rate=10:duration=1", "-pix_fmt", "yuv420p", "-output_ts_offset", "2", "late.mkv"]
subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", *command], check=True)
with av.open("late.mkv") as container:
    stamped = float(next(container.decode(video=0)).time)
read = subprocess.run(  # decord and PyAV bring an FFmpeg each: apart they do not meet
    [sys.executable, "-c", "import decord; print(decord.__version__, decord.VideoReader('late.mkv').get_frame_timestamp(0)[0])"],
    capture_output=True, text=True, check=True,
).stdout.split()
print(f"PyAV {av.__version__}: the first frame is at {stamped:.3f} s\ndecord {read[0]}: at {float(read[1]):.3f} s")
sys.exit(0 if abs(stamped - 2) < 0.05 and abs(float(read[1])) < 0.05 else "the behaviour has changed")
PY
