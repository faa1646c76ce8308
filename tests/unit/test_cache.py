"""The cache of decoded candidates: the same bits as decoding, keyed by file and parameters, bounded, unharmed by garbage."""

from __future__ import annotations

import os
import pickle
import sqlite3

import numpy as np
import pytest

from rlvid.types import Relevance
from rlvid.video.cache import VideoCache
from rlvid.video.clip import VideoError, read_candidates
from tests.unit.clips import make


def reader(path, calls):
    def read():
        calls.append(path)
        return read_candidates(path, candidates=8, clip=None, size_for=lambda height, width: (28, 28))

    return read


def test_the_second_read_is_the_same_and_decodes_nothing(tmp_path):
    path, calls = make(tmp_path / "v.mp4", frames=20, noise=True), []
    for folder in (tmp_path / "cache", tmp_path / "cache"):  # the second time by another process, as it were
        cache = VideoCache(folder, 0.1)
        clip = cache.clip(path, [8], reader(path, calls))
        cache.close()
    fresh = reader(path, [])()
    assert len(calls) == 1 and (cache.hits, cache.misses) == (1, 0)
    assert clip.frames_NHWC.tobytes() == fresh.frames_NHWC.tobytes() and clip.times_s_N.tolist() == fresh.times_s_N.tolist()
    assert (clip.duration_s, clip.fps, clip.width, clip.height) == (fresh.duration_s, fresh.fps, fresh.width, fresh.height)


def test_another_file_or_other_parameters_are_another_clip(tmp_path):
    path, calls = make(tmp_path / "v.mp4", frames=20), []
    cache = VideoCache(tmp_path / "cache", 0.1)
    cache.clip(path, [8], reader(path, calls))
    cache.clip(path, [9], reader(path, calls))
    make(tmp_path / "v.mp4", frames=22)
    assert len(cache.clip(path, [8], reader(path, calls)).times_s_N) == 8 and len(calls) == 3
    os.utime(path, ns=(1, 1))
    cache.clip(path, [8], reader(path, calls))
    assert len(calls) == 4


def test_a_missing_video_is_a_video_error_and_leaves_nothing(tmp_path):
    cache = VideoCache(tmp_path / "cache", 0.1)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        cache.clip(str(tmp_path / "gone.mp4"), [8], lambda: pytest.fail("must not be read"))


def test_the_cache_stays_within_its_limit(tmp_path):
    cache = VideoCache(tmp_path / "cache", 2**-10)  # 1 MiB
    for number in range(12):
        path = make(tmp_path / f"{number}.mp4", frames=20, size=(120, 160))
        cache.clip(path, [8], lambda path=path: read_candidates(path, candidates=8, clip=None, size_for=lambda *size: size))
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.val")) < 2 * 2**20
    assert cache.misses == 12


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["RLVID_TEST_BOMB"],))


def test_a_pickle_slipped_into_the_cache_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("RLVID_TEST_BOMB", str(tmp_path / "exploded"))
    path, calls = make(tmp_path / "v.mp4", frames=20), []
    cache = VideoCache(tmp_path / "cache", 0.1)
    cache.clip(path, [8], reader(path, calls))
    with sqlite3.connect(tmp_path / "cache" / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = 4, filename = NULL, value = ?", (sqlite3.Binary(pickle.dumps(Bomb())),))
    cache.clip(path, [8], reader(path, calls))
    assert len(calls) == 2 and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("garbage", [b"", b"no json\n", b"{}\n", b'{"shape": [1, 2, 2, 3], "duration_s": 1, "fps": 1, "width": 2, "height": 2}\n123'])
def test_a_broken_record_is_read_anew(tmp_path, garbage):
    path, calls = make(tmp_path / "v.mp4", frames=20), []
    cache = VideoCache(tmp_path / "cache", 0.1)
    cache.clip(path, [8], reader(path, calls))
    for file in (tmp_path / "cache").rglob("*.val"):
        file.write_bytes(garbage)
    with sqlite3.connect(tmp_path / "cache" / "cache.db") as database:
        database.execute("UPDATE Cache SET value = ? WHERE filename IS NULL", (sqlite3.Binary(garbage),))
    again = cache.clip(path, [8], reader(path, calls))
    assert len(calls) == 2 and len(again.times_s_N) == 8


def test_a_torn_database_costs_a_decoding(tmp_path, caplog):
    path, calls = make(tmp_path / "v.mp4", frames=20), []
    cache = VideoCache(tmp_path / "cache", 0.1)
    cache.clip(path, [8], reader(path, calls))
    cache.close()
    (tmp_path / "cache" / "cache.db").write_bytes(b"garbage" * 1000)
    for name in ("cache.db-wal", "cache.db-shm"):
        (tmp_path / "cache" / name).unlink(missing_ok=True)
    cache.clip(path, [8], reader(path, calls))
    assert len(calls) == 2
    VideoCache(tmp_path / "cache", 0.1).clip(path, [8], reader(path, calls))
    assert len(calls) == 3


def test_relevance_is_scored_once_per_text(tmp_path):
    path, calls = make(tmp_path / "v.mp4", frames=20), []
    cache = VideoCache(tmp_path / "cache", 0.1)

    def score():
        calls.append(1)
        return Relevance((0.0, 1.0), (0.25, 0.75), ((0.5, 0.5), (0.0, 0.0)))

    one = cache.relevance(path, ["what?"], score)
    assert cache.relevance(path, ["what?"], score) == one and len(calls) == 1
    cache.relevance(path, ["when?"], score)
    assert len(calls) == 2 and np.isclose(sum(one.scores), 1)


@pytest.mark.parametrize("damage", ["zeroed end", "zeroed times", "cut", "deep"])
def test_a_damaged_record_is_read_anew(tmp_path, damage):
    path, calls = make(tmp_path / "v.mp4", frames=40, size=(256, 256), noise=True), []

    def read():
        calls.append(path)
        return read_candidates(path, candidates=8, clip=None, size_for=lambda height, width: (252, 252), zoom=1.0)

    cache = VideoCache(tmp_path / "cache", 0.1)
    first = cache.clip(path, [8], read)
    (file,) = (tmp_path / "cache").rglob("*.val")
    whole = file.read_bytes()
    half = len(whole) // 2
    ends = whole.index(b"\n", 32) + 1
    file.write_bytes({"zeroed end": whole[:half] + bytes(half), "zeroed times": whole[:ends] + bytes(64) + whole[ends + 64 :]}.get(damage, whole[:half]))
    if damage == "deep":
        file.write_bytes(b"[" * 200_000)
    again = cache.clip(path, [8], read)
    assert len(calls) == 2 and again.times_s_N.tolist() == first.times_s_N.tolist()


def test_files_that_a_killed_writer_left_are_swept(tmp_path):
    VideoCache(tmp_path / "cache", 0.1).close()
    old, young = (tmp_path / "cache" / name / "x.val" for name in ("ab", "cd"))
    for file in (old, young):
        file.parent.mkdir()
        file.write_bytes(b"x" * 1000)
    os.utime(old, (1, 1))
    VideoCache(tmp_path / "cache", 0.1).close()
    assert not old.exists() and young.exists()


def test_a_name_with_a_nul_is_a_video_error(tmp_path):
    with pytest.raises(VideoError):
        VideoCache(tmp_path / "cache", 0.1).clip("a\0b.mp4", [8], lambda: pytest.fail("read"))
