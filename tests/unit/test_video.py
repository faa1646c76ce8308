"""Reading candidates: true timestamps, bounded size, and a one-line VideoError for everything that is no video."""

from __future__ import annotations

import itertools
import os

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.video.clip import (
    MAX_ASPECT,
    WORK_ZOOM,
    VideoError,
    even_positions,
    nearest,
    read_at,
    read_candidates,
    resized,
    shown_size,
    work_size,
)
from rlvid.video.frames import read_index
from tests.unit.clips import make


def read(path, candidates=8, clip=None, max_pixels=100_352, factor=28):
    def size_for(height, width):
        return shown_size(height, width, max_pixels=max_pixels, factor=factor)

    return read_candidates(path, candidates=candidates, clip=clip, size_for=size_for)


def levels(clip):
    """Frame number that each frame's grey level stands for."""
    return np.round(clip.frames_NHWC.mean(axis=(1, 2, 3)) / 4).astype(int).tolist()


def test_candidates_are_evenly_spaced_and_are_the_frames_of_their_times(tmp_path):
    clip = read(make(tmp_path / "v.mp4"), candidates=8)
    expected = np.linspace(0, 49, 8).round().astype(int)
    assert clip.times_s_N.tolist() == pytest.approx((expected * 0.04).tolist(), abs=1e-6)
    assert np.abs(np.array(levels(clip)) - expected).max() <= 1
    assert (clip.fps, clip.duration_s, clip.height, clip.width) == (25.0, 2.0, 48, 64)
    assert clip.frames_NHWC.dtype == np.uint8 and clip.frames_NHWC.shape == (8, 48, 64, 3)


@pytest.mark.parametrize("options", [{"g": "250", "bf": "3"}, {"g": "1"}, {"g": "12", "bf": "0"}])
def test_any_group_of_pictures_gives_the_asked_frames(tmp_path, options):
    clip = read(make(tmp_path / "v.mp4", **options), candidates=17)
    assert np.abs(np.array(levels(clip)) - np.linspace(0, 49, 17).round()).max() <= 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate_keeps_its_true_times(tmp_path, suffix):
    gaps = np.random.default_rng(1).integers(5, 400, 30)
    times_ms = [0, *np.cumsum(gaps)[:-1].tolist()]
    clip = read(make(tmp_path / f"v.{suffix}", frames=30, times_ms=times_ms), candidates=30)
    assert clip.times_s_N.tolist() == pytest.approx([time / 1000 for time in times_ms], abs=1e-5)
    assert clip.duration_s > times_ms[-1] / 1000


def test_a_clip_bounds_the_candidates(tmp_path):
    clip = read(make(tmp_path / "v.mp4"), candidates=64, clip=(0.5, 1.0))
    assert clip.times_s_N[0] == pytest.approx(0.52) and clip.times_s_N[-1] == pytest.approx(1.0) and len(clip.times_s_N) == 13
    assert clip.duration_s == 2.0
    with pytest.raises(VideoError, match=r"the clip 5-6 s has 0 distinct frame\(s\) of a video from 0 to 1.96 s"):
        read(make(tmp_path / "w.mp4"), clip=(5.0, 6.0))


def test_fewer_frames_than_candidates_come_once_each(tmp_path):
    clip = read(make(tmp_path / "v.mp4", frames=5), candidates=64)
    assert len(clip.times_s_N) == 5 and levels(clip) == [0, 1, 2, 3, 4]


def test_big_frames_are_kept_at_a_bounded_size(tmp_path):
    clip = read(make(tmp_path / "v.mp4", frames=4, size=(360, 640)), max_pixels=100 * 28 * 28 // 10, factor=28)
    shown = shown_size(360, 640, max_pixels=7840, factor=28)
    height, width = clip.frames_NHWC.shape[1:3]
    assert height * width <= 1.05 * WORK_ZOOM**2 * shown[0] * shown[1] and abs(width / height - 640 / 360) < 0.05
    assert (clip.height, clip.width) == (360, 640)


def test_reading_is_the_same_bit_for_bit_from_any_subset_of_times(tmp_path):
    path = make(tmp_path / "v.mp4", noise=True, frames=40, g="40")
    whole = read(path, candidates=40)

    def work_size_for(height, width):
        return work_size(height, width, shown_size(height, width, max_pixels=100_352, factor=28))

    some = read_at(path, (0.2, 0.36, 1.2), work_size_for=work_size_for)
    assert np.array_equal(some.frames_NHWC, whole.frames_NHWC[[5, 9, 30]]) and some.times_s_N.tolist() == whole.times_s_N[[5, 9, 30]].tolist()


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def truncated(path, share, *options):
    with av.open(str(path), "w", options=dict(options)) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("not a video at all\n" * 50), "cannot be opened as a video"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)), "cannot be opened as a video"),
    "cut off before its index": (lambda path: truncated(path, 0.5), "cannot be opened as a video"),
    "cut off after its index": (lambda path: truncated(path, 0.5, ("movflags", "faststart")), "broken or cut off"),
    "audio only": (audio_only, "has no video stream"),
    "one frame": (lambda path: make(path, frames=1), "has 1 frame"),
    "long and thin": (lambda path: make(path, frames=2, size=(2, 500)), "too long and thin"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, kind):
    write, reason = BROKEN[kind]
    path = tmp_path / "bad.mp4"
    write(path)
    with pytest.raises(VideoError) as caught:
        read(str(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and reason in message and "\n" not in message and len(message) < 500


def test_an_unreadable_size_is_the_video_s_fault(tmp_path):
    def refuse(height, width):
        raise ValueError("no")

    with pytest.raises(VideoError, match="no"):
        read_candidates(make(tmp_path / "v.mp4", frames=3), candidates=2, clip=None, size_for=refuse)


def test_reading_leaves_no_file_open(tmp_path):
    path = make(tmp_path / "v.mp4", frames=3)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# --- sizes -----------------------------------------------------------------------------------------------------------

sides = st.integers(1, 5000)


@settings(max_examples=400)
@given(sides, sides, st.sampled_from([28, 32]), st.integers(1, 2000))
def test_shown_size_keeps_its_promises(height, width, factor, patches):
    max_pixels = patches * factor * factor + 17
    if max(height, width) / min(height, width) > MAX_ASPECT:
        with pytest.raises(ValueError, match="too long and thin"):
            shown_size(height, width, max_pixels=max_pixels, factor=factor)
        return
    tall, wide = shown_size(height, width, max_pixels=max_pixels, factor=factor)
    assert tall % factor == wide % factor == 0 and tall >= factor and wide >= factor
    assert tall * wide <= max_pixels and max(tall, wide) / min(tall, wide) <= MAX_ASPECT
    if min(height, width) >= factor:  # rounding a side up can cost smart_resize a little more than it gains on the other
        assert tall <= 4 / 3 * height + factor / 2 and wide <= 4 / 3 * width + factor / 2


@settings(max_examples=200, deadline=None)
@given(st.integers(56, 3000), st.integers(56, 3000), st.sampled_from([28, 32]), st.integers(64, 1500))
def test_qwen_s_own_resize_gives_and_keeps_the_size(height, width, factor, patches):
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_3

    max_pixels = patches * factor * factor
    size = shown_size(height, width, max_pixels=max_pixels, factor=factor)
    if max(height, width) / min(height, width) < 20:
        assert size == smart_resize(height, width, factor=factor, min_pixels=factor * factor, max_pixels=max_pixels)
    assert size == smart_resize(*size, factor=factor, min_pixels=factor * factor, max_pixels=max_pixels)
    assert size == smart_resize_3(8, *size, factor=factor, min_pixels=factor * factor, max_pixels=8 * max_pixels)


def test_shown_size_by_hand():
    assert shown_size(720, 1280, max_pixels=128 * 28 * 28, factor=28) == (224, 420)
    assert shown_size(96, 96, max_pixels=128 * 28 * 28, factor=28) == (84, 84)
    assert shown_size(1, 1, max_pixels=1024, factor=32) == (32, 32)
    with pytest.raises(ValueError, match="below one 28 x 28 patch"):
        shown_size(100, 100, max_pixels=700, factor=28)
    with pytest.raises(ValueError, match="cannot be shown"):
        shown_size(0, 100, max_pixels=7000, factor=28)


@given(sides, sides)
def test_work_size_never_enlarges(height, width):
    tall, wide = work_size(height, width, (56, 84))
    assert 1 <= tall <= height and 1 <= wide <= width


def test_nearest_takes_the_earlier_of_two_equally_close():
    times = np.array([0.0, 1.0, 3.0])
    assert nearest(times, (-5.0, 0.4, 0.5, 0.6, 2.0, 2.1, 9.0)).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert nearest(np.array([1.0]), (0.0, 2.0)).tolist() == [0, 0]


def test_resizing_shrinks_by_area_and_is_exact_at_its_own_size():
    frame = np.arange(0, 192, 4, dtype=np.uint8).reshape(4, 4, 3)
    assert resized(frame, (4, 4)) is frame
    assert resized(frame, (2, 2))[0, 0].tolist() == frame[:2, :2].reshape(4, 3).mean(0).tolist()
    for size in itertools.product((1, 8), repeat=2):
        assert resized(frame, size).shape == (*size, 3)


# --- the frame that is shown is the frame of its time

OPEN = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"}
CONTAINERS = {
    "closed groups, mp4": ("mp4", "libx264", {"g": "10", "bf": "2"}, True),
    "closed groups, mkv": ("mkv", "libx264", {"g": "10", "bf": "2"}, True),
    "vp9, webm": ("webm", "libvpx-vp9", {"g": "10", "b": "1M"}, True),
    "open groups, mp4": ("mp4", "libx264", OPEN, False),
    "open groups, mkv": ("mkv", "libx264", OPEN, False),
    "open groups, x265": ("mp4", "libx265", {"x265-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:log-level=none"}, False),
    "intra refresh": ("mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=10:bframes=0:scenecut=0"}, False),
    "transport stream": ("ts", "libx264", {"g": "10", "bf": "2"}, False),
    "flv": ("flv", "libx264", {"g": "10", "bf": "2"}, False),
    "mpeg-4, mp4": ("mp4", "mpeg4", {"g": "10", "bf": "2", "b": "2M"}, False),
    "mpeg-4, avi": ("avi", "mpeg4", {"g": "10", "b": "2M"}, False),
    "mpeg-2, mkv": ("mkv", "mpeg2video", {"g": "10", "bf": "2", "b": "2M"}, False),
    "wmv": ("wmv", "wmv2", {"g": "10", "b": "2M"}, False),
}


def all_frames(path):
    """([N] times from 0, [N] mean levels) by decoding everything from the start, independently."""
    with av.open(path) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24").mean() / 4) for frame in container.decode(video=0)]
    times, seen = (np.array(column) for column in zip(*found, strict=True))
    return times - times[0], seen


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_frame_shown_is_the_frame_of_its_time(tmp_path, name):
    suffix, codec, options, by_decord = CONTAINERS[name]
    path = make(tmp_path / f"v.{suffix}", codec=codec, **options)
    times, seen = all_frames(path)
    assert read_index(path).by_decord is by_decord
    for clip in (read(path, candidates=17), read(path, candidates=50), read(path, candidates=9, clip=(0.6, 1.5))):
        at = nearest(times, clip.times_s_N)
        assert np.abs(times[at] - clip.times_s_N).max() < 0.002
        assert np.abs(seen[at] - clip.frames_NHWC.mean(axis=(1, 2, 3)) / 4).max() < 0.3
    whole = read(path, candidates=50)
    some = read_at(path, whole.times_s_N[[3, 17, 29, 44]].tolist(), work_size_for=lambda height, width: whole.frames_NHWC.shape[1:3])
    assert np.array_equal(some.frames_NHWC, whole.frames_NHWC[[3, 17, 29, 44]])


def shifted(source, path, *, by_s):
    """The packets of a clip, earlier by so much: what players cut away with an edit list."""
    with av.open(source) as given, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                shift = round(by_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    return str(path)


def test_what_an_edit_list_hides_is_not_shown(tmp_path):
    path = shifted(make(tmp_path / "v.mp4", g="10", bf="0"), tmp_path / "cut.mp4", by_s=0.48)
    clip = read(path, candidates=50)
    times, seen = all_frames(path)
    assert clip.times_s_N[0] == 0 and len(clip.times_s_N) == len(times) == 38
    assert np.abs(seen - clip.frames_NHWC.mean(axis=(1, 2, 3)) / 4).max() < 0.3 and levels(clip)[0] == 12


@pytest.mark.parametrize("width", [2, 16, 36, 48, 64])
def test_narrow_videos_have_three_channels(tmp_path, width):
    clip = read(make(tmp_path / "v.mkv", size=(48, width), frames=6), candidates=4)
    assert clip.frames_NHWC.shape[-1] == 3 and clip.width == width


def test_a_playlist_is_no_video(tmp_path):
    secret = make(tmp_path / "secret.ts")
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=r"a.mp4: "):
        read(str(tmp_path / "a.mp4"))


def test_candidates_of_an_uneven_frame_rate_are_even_in_time(tmp_path):
    times_ms = [1000 * at for at in range(40)] + [40_000 + 20 * at for at in range(100)]
    clip = read(make(tmp_path / "v.mp4", frames=140, times_ms=times_ms), candidates=32)
    assert len(clip.times_s_N) == 32 and np.diff(clip.times_s_N).max() < 2.1
    assert even_positions(np.arange(100) / 25, 9).tolist() == np.linspace(0, 99, 9).round().astype(int).tolist()
    assert len(even_positions(np.array([0, 0.1, 0.2, 50.0]), 4)) == 4


def test_frames_wanted_at_a_clip_s_edge_are_the_clip_s_own(tmp_path):
    path = make(tmp_path / "v.mp4")
    free = read_at(path, [0.99, 1.35], work_size_for=lambda *size: size)
    kept = read_at(path, [0.99, 1.35], work_size_for=lambda *size: size, clip=(1.0, 1.32))
    assert kept.times_s_N.tolist() == pytest.approx([1.0, 1.32]) and free.times_s_N[-1] > 1.33
