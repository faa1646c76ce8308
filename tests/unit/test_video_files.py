"""Files as people bring them: turned, mirrored, anamorphic, late, without times, or pictures. And how much of a film is read."""

from __future__ import annotations

import os

import av
import numpy as np
import pytest
from PIL import Image

from rlvid.data.questions import QuestionError, check, iter_questions
from rlvid.video import frames, pictures
from rlvid.video.cache import VideoCache
from rlvid.video.clip import VideoError, read_at, read_candidates
from rlvid.video.frames import Reader, length_s, read_index
from tests.unit.clips import make

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def read(path, candidates=8, clip=None):
    return read_candidates(str(path), candidates=candidates, clip=clip, size_for=lambda height, width: (height, width), zoom=1.0)


def flag(path, size=(96, 160), count=30, codec="libx264", aspect=None, **options):
    """A video whose quarters are red, green, blue and white (row by row)."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    for (down, right), colour in zip(((0, 0), (0, 1), (1, 0), (1, 1)), COLOURS.values(), strict=True):
        pixels[down * height // 2 : (down + 1) * height // 2, right * width // 2 : (right + 1) * width // 2] = colour
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10", "bf": "0"} | options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def remuxed(source, path, turn=None, by_s=0.0, **options):
    """The same packets in another container: turned, or later by so much."""
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        if turn:
            stream.set_display_matrix([value * 65536 for value in turn] + [0, 0, 1 << 30])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                shift = round(by_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                container.mux(packet)
    return str(path)


def corners(frame_HWC):
    """The colours of the four corners, row by row."""
    height, width = frame_HWC.shape[:2]
    found = [frame_HWC[down * (height - 17) + 8, right * (width - 17) + 8].astype(int) for down, right in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return [min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - seen).sum()) for seen in found]


TURNS = {
    "as it lies": ((1, 0, 0, 0, 1, 0), ["red", "green", "blue", "white"]),
    "mirrored left to right": ((-1, 0, 0, 0, 1, 0), ["green", "red", "white", "blue"]),
    "half a turn": ((-1, 0, 0, 0, -1, 0), ["white", "blue", "green", "red"]),
    "mirrored top to bottom": ((1, 0, 0, 0, -1, 0), ["blue", "white", "red", "green"]),
    "transposed": ((0, 1, 0, 1, 0, 0), ["red", "blue", "green", "white"]),
    "a quarter clockwise": ((0, 1, 0, -1, 0, 0), ["blue", "red", "white", "green"]),
    "transposed the other way": ((0, -1, 0, -1, 0, 0), ["white", "green", "blue", "red"]),
    "a quarter counter-clockwise": ((0, -1, 0, 1, 0, 0), ["green", "white", "red", "blue"]),
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("name", TURNS)
def test_all_eight_orientations_are_shown_as_ffmpeg_shows_them(tmp_path, name, suffix):
    turn, seen = TURNS[name]
    path = remuxed(flag(tmp_path / "lying.mp4"), tmp_path / f"turned.{suffix}", turn)
    if suffix == "mkv" and name not in ("as it lies", "half a turn", "a quarter clockwise", "a quarter counter-clockwise"):
        with av.open(path) as container:  # Matroska can hold a mirror in theory; this muxer writes turns alone
            if not any(side.type.name == "DISPLAYMATRIX" for side in next(container.decode(video=0)).side_data):
                pytest.skip("the muxer wrote no matrix")
    clip = read(path)
    standing = turn[0] == 0
    assert (clip.height, clip.width) == ((160, 96) if standing else (96, 160))
    assert corners(clip.frames_NHWC[3]) == seen
    again = read_at(path, clip.times_s_N[[2, 5]].tolist(), work_size_for=lambda height, width: (height, width))
    assert np.array_equal(again.frames_NHWC, clip.frames_NHWC[[2, 5]])


def test_a_wide_clip_that_is_turned_is_read(tmp_path):
    clip = read(remuxed(flag(tmp_path / "wide.mp4", size=(48, 400)), tmp_path / "turned.mp4", TURNS["a quarter clockwise"][0]))
    assert clip.frames_NHWC.shape[1:3] == (400, 48) and corners(clip.frames_NHWC[0]) == TURNS["a quarter clockwise"][1]


@pytest.mark.parametrize(("aspect", "size"), [("64/45", (96, 228)), ("1/2", (192, 160)), ("1/1", (96, 160))])
def test_pixels_that_are_not_square_are_shown_at_their_aspect(tmp_path, aspect, size):
    from fractions import Fraction

    path = flag(tmp_path / "dvd.mp4", aspect=Fraction(aspect))
    clip = read(path)
    assert (clip.height, clip.width) == size == clip.frames_NHWC.shape[1:3]
    turned = read(remuxed(path, tmp_path / "turned.mp4", TURNS["a quarter clockwise"][0]))
    assert (turned.height, turned.width) == size[::-1]


# --- one clock

KINDS = {
    "mp4": ("mp4", "libx264", {"g": "10", "bf": "2"}),
    "mkv": ("mkv", "libx264", {"g": "10", "bf": "2"}),
    "webm": ("webm", "libvpx-vp9", {"g": "10", "b": "1M"}),
    "ts": ("ts", "libx264", {"g": "10", "bf": "2"}),
    "avi": ("avi", "mpeg4", {"g": "10", "b": "2M"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_from_both_ends_is_the_index_s(tmp_path, kind):
    suffix, codec, options = KINDS[kind]
    path = make(tmp_path / f"v.{suffix}", codec=codec, **options)
    assert length_s(path) == read_index(path).duration_s


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_video_that_starts_late_has_one_clock(tmp_path, suffix):
    path = remuxed(make(tmp_path / "v.mp4", frames=100, g="25", bf="0"), tmp_path / f"late.{suffix}", by_s=2.0)
    found = length_s(path)
    index = read_index(path)
    assert found == index.duration_s and index.times_s[0] >= 0
    assert index.duration_s - index.times_s[0] == pytest.approx(4.0, abs=0.06)
    if suffix == "mkv":
        assert found == pytest.approx(4.0, abs=0.06)


@pytest.mark.parametrize("options", [{"g": "10", "bf": "2"}, {"g": "50", "bf": "3"}])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_frames_out_of_order_shows_each_at_its_place(tmp_path, codec, options):
    path = make(tmp_path / "v.avi", codec=codec, **options | ({"b": "2M"} if codec == "mpeg4" else {}))
    clip = read(path, candidates=50)
    levels = np.round(clip.frames_NHWC.mean(axis=(1, 2, 3)) / 4).astype(int)
    assert len(clip.times_s_N) >= 48 and np.abs(levels - np.round(clip.times_s_N / 0.04)).max() <= 1
    assert np.abs(np.diff(levels) - 1).max() <= 1 and np.median(levels - np.round(clip.times_s_N / 0.04)) == 0


# --- pictures


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures, three a second; picture i is of grey level 20 i."""
    (tmp_path / "frames").mkdir()
    for at in range(12):
        Image.new("RGB", (64, 48), (20 * at,) * 3).save(tmp_path / "frames" / f"{at + 1}.png")
    return tmp_path / "frames"


def test_a_folder_of_pictures_is_a_video_at_its_rate(folder):
    video = pictures.spelled(str(folder), 3)
    clip = read(video, candidates=12)
    assert clip.times_s_N.tolist() == pytest.approx((np.arange(12) / 3).tolist(), abs=1e-6)
    assert clip.frames_NHWC[:, 0, 0, 0].tolist() == [20 * at for at in range(12)]  # 10.png after 9.png
    assert (clip.duration_s, clip.fps, length_s(video)) == (4.0, 3.0, 4.0)
    assert len(read(video, candidates=64, clip=(1.0, 2.0)).times_s_N) == 4
    with Reader(video) as reader:
        assert [float(pixels[0, 0, 0]) for _, pixels, _ in reader.frames([3, 7])] == [60, 140]


def test_pictures_of_16_bits_are_no_white_ones(tmp_path):
    """Pillow's conversion of a depth or X-ray picture: everything above 255 of 65,535 is white."""
    ramp_HW = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    for at in range(4):
        Image.fromarray(ramp_HW).save(tmp_path / f"{at}.png")
    clip = read(pictures.spelled(str(tmp_path), 2), candidates=4)
    assert np.array_equal(clip.frames_NHWC[0, ..., 0], (ramp_HW >> 8).astype(np.uint8)) and clip.frames_NHWC[0].mean() == pytest.approx(127, abs=1)


def test_names_of_pictures_that_are_no_plain_numbers(tmp_path):
    """A superscript is a digit for Python, and no number. Two suffixes of one name would count a frame twice."""
    for name in ("1²2.png", "1²10.png", "a.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="PNG")
    assert [path.rsplit("/", 1)[1] for path in pictures.Pictures(1, folder=str(tmp_path)).files()] == ["1²2.png", "1²10.png", "a.PNG"]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(pictures.VideoError, match=r"holds a\.PNG and a\.jpg: one frame twice"):
        pictures.Pictures(1, folder=str(tmp_path)).files()


def test_question_files_name_pictures_with_their_rate(folder, tmp_path):
    base = '"question": "?", "task": "open", "answer": "x"'
    file = tmp_path / "q.jsonl"
    file.write_text(f'{{"id": "a", "video": "frames", "fps": 3, {base}}}\n{{"id": "b", "video": ["frames/2.png", "frames/1.png"], "fps": 0.5, {base}}}\n')
    assert check(file).ok, check(file).text()
    one, two = iter_questions(file)
    assert read(one.video, candidates=12).duration_s == 4.0
    backwards = read(two.video, candidates=2)
    assert backwards.times_s_N.tolist() == [0.0, 2.0] and backwards.frames_NHWC[:, 0, 0, 0].tolist() == [20, 0]
    assert pictures.relative(one.video, str(tmp_path)) == ("frames", 3.0)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ('"video": "frames"', "is a folder (pictures need the key fps"),
        ('"video": ["frames/1.png", "frames/2.png"]', "fps: is missing (say how many"),
        ('"video": ["frames/1.png"], "fps": 3', "lists 1 picture(s)"),
        ('"video": "frames", "fps": 0', "0 is no rate"),
        ('"video": "frames", "fps": "3"', "is not a number"),
        ('"video": "other", "fps": 3', "does not exist or holds no picture"),
        ('"video": "v.mp4", "fps": 3', "is a file, not a folder of pictures"),
    ],
)
def test_pictures_that_cannot_be_meant_are_refused_with_the_cure(folder, tmp_path, keys, reason):
    (tmp_path / "v.mp4").write_bytes(b"x")
    (tmp_path / "q.jsonl").write_text(f'{{"id": "a", {keys}, "question": "?", "task": "open", "answer": "x"}}\n')
    assert reason in check(tmp_path / "q.jsonl").text()


def test_broken_pictures_are_named(folder):
    (folder / "5.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"5\.png: is no picture"):
        read(pictures.spelled(str(folder), 3), candidates=12)
    Image.new("RGB", (32, 32)).save(folder / "5.png")
    with pytest.raises(VideoError, match=r"of one size, here are 64 x 48 and 32 x 32"):
        read(pictures.spelled(str(folder), 3), candidates=12)


def test_animated_webp_is_read_with_its_own_times(tmp_path):
    path = tmp_path / "v.webp"
    shown = [Image.new("RGB", (64, 48), (20 * at,) * 3) for at in range(10)]
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=[100] * 5 + [300] * 5, lossless=True)
    clip = read(path, candidates=10)
    assert clip.times_s_N.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.1, 1.4, 1.7]) and clip.duration_s == 2.0
    assert clip.frames_NHWC[:, 0, 0, 0].tolist() == [20 * at for at in range(10)]
    again = read_at(str(path), [0.8, 0.1], work_size_for=lambda height, width: (height, width))
    assert again.frames_NHWC[:, 0, 0, 0].tolist() == [20, 120]
    (tmp_path / "cut.webp").write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoError, match=r"cut\.webp: "):
        read(tmp_path / "cut.webp")


NO_TEXT = [(b"PAR1....", "is a parquet file"), (b"\x1f\x8b\x08\x00", "is compressed with gzip"), (b"PK\x03\x04", "is a zip")]


@pytest.mark.parametrize(("head", "reason"), NO_TEXT)
def test_what_is_no_question_file_is_named_truly(tmp_path, head, reason):
    (tmp_path / "q.jsonl").write_bytes(head + b"\n" * 20)
    assert reason in check(tmp_path / "q.jsonl").text()
    with pytest.raises(QuestionError, match=reason):
        list(iter_questions(tmp_path / "q.jsonl"))


# --- a film is read once


def test_an_index_is_made_once_per_node(tmp_path, monkeypatch):
    path = make(tmp_path / "v.mp4")
    made = []
    plain = frames._of_packets
    monkeypatch.setattr(frames, "_of_packets", lambda path, threads: made.append(path) or plain(path, threads))
    for _ in range(2):  # a second process has an empty memory
        cache = VideoCache(tmp_path / "cache", 1)
        frames.keep_in(cache)
        try:
            frames._remembered.clear()
            index = read_index(path)
            assert read_index(path) is index
        finally:
            frames.keep_in(None)
            cache.close()
    assert made == [path]
    expected = plain(path, 1)
    assert index.times_s.tolist() == expected.times_s.tolist() and index.pts.tolist() == expected.pts.tolist()
    assert (index.keys, index.by_decord, index.duration_s, index.aspect) == (expected.keys, expected.by_decord, expected.duration_s, expected.aspect)
    os.utime(path, ns=(1, 1))
    read_index(path)
    assert made == [path, path]
    frames._remembered.clear()


def test_a_reader_gives_the_same_frames_whatever_was_asked_before(tmp_path, monkeypatch):
    path = make(tmp_path / "v.mp4", noise=True, g="10", bf="2")
    whole = read(path, candidates=50)
    for limit in (frames.SMALL_BYTES, 0):
        monkeypatch.setattr(frames, "SMALL_BYTES", limit)
        frames._remembered.clear()
        with Reader(path) as reader:
            assert reader.index.by_decord == bool(limit)
            for chosen in ([49], [3, 20], [3], [19, 48, 49], [0]):
                for at, (time_s, pixels, _) in zip(chosen, reader.frames(chosen), strict=True):
                    assert time_s == whole.times_s_N[at] and np.array_equal(pixels, whole.frames_NHWC[at])
    frames._remembered.clear()
