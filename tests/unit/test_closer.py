"""Candidates by shot, and the second pass of relevance: cuts found without decoding, and a short moment of a long video that importance views then show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.actors.variant import VariantActor
from rlvid.config import load
from rlvid.families import FAMILIES
from rlvid.types import Evidence, Prepared, Question
from rlvid.variants.build import rebuild
from rlvid.variants.closer import closer_frames, dealt, stretches
from rlvid.variants.relevance import relevance
from rlvid.variants.scorers import MotionScorer
from rlvid.video.cache import VideoCache
from rlvid.video.clip import Clip
from rlvid.video.frames import Index, read_index
from rlvid.video.shots import cuts, unseen_shots
from rlvid.world.tiny_model import build_processor, build_tokenizer
from tests.unit.clips import make

ROOT = Path(__file__).parents[2]
FPS, SIZE = 5, (48, 64)
KINDS = ("uniform", "importance", "importance_jitter", "importance_crop", "random_jitter")


def film(path, shots_s, *, codec="libx264", **options):
    """Shots of so many seconds each, every one another picture of noise that moves slowly, at 5 frames a second."""
    rng, at = np.random.default_rng(0), 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"preset": "veryfast", "crf": "30"} | options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for long_s in shots_s:
            coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
            for _ in range(round(long_s * FPS)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, at // 5 * 2, axis=1), format="rgb24")))
                at += 1
        container.mux(stream.encode())
    return str(path)


@pytest.fixture(scope="module")
def flash(tmp_path_factory):
    """Ten minutes of one picture; two seconds of another one from 402 s on, where none of 64 even candidates is."""
    return film(tmp_path_factory.mktemp("film") / "flash.mp4", [402, 2, 196])


FLASH_S = (402.0, 403.9)


def actor(*more, family="qwen3_vl"):
    given = [f"variants.kinds=[{','.join(KINDS)}]", "video.frames=16", "video.candidates=64", "video.max_pixels=3072", "rollout.max_model_len=99999", *more]
    made = VariantActor(load(ROOT / "configs/quickstart.yaml", given), 0)
    made.processor, made.factor, made.frames_per_token = build_processor(build_tokenizer(["what is it?"]), family), 28 if family == "qwen2_5_vl" else 32, 2
    made.family, made.scorer = FAMILIES[family], MotionScorer()
    return made


def built(made, question, kinds=KINDS, seed=0):
    prepared, *frames = made.build(question, kinds, seed)
    assert isinstance(prepared, Prepared), prepared
    return prepared, frames


def within(spec, span=FLASH_S):
    return sum(span[0] <= time_s <= span[1] for time_s in spec.times_s)


# --- shots


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"g": "1000"},
        {"g": "20", "sc_threshold": "0"},
        {"g": "20", "sc_threshold": "0", "bf": "0"},
        {"codec": "libx265", "x265-params": "log-level=none"},
        {"codec": "libx265", "x265-params": "log-level=none:keyint=20:scenecut=0"},
    ],
    ids=["x264", "keyframes only where it must", "a fixed distance", "without B-frames", "x265", "x265 at a fixed distance"],
)
def test_cuts_are_where_the_picture_changes(tmp_path, options):
    shots_s = [41, 8, 2, 54, 12, 62.4]
    index = read_index(film(tmp_path / "cuts.mp4", shots_s, **options))
    late = 4 / FPS if options.get("bf") != "0" else 0.0  # B-frames take from the frame that bears the change
    found_s, true_s = index.times_s[cuts(index)], np.cumsum(shots_s)[:-1]
    assert len(found_s) == len(true_s) and (found_s - true_s >= -1e-6).all() and (found_s - true_s <= late + 1e-6).all(), found_s


@pytest.mark.parametrize("options", [{}, {"g": "20"}, {"g": "7", "sc_threshold": "0"}, {"codec": "mjpeg"}])
def test_one_shot_has_no_cuts(tmp_path, options):
    index = read_index(film(tmp_path / ("one.mkv" if "codec" in options else "one.mp4"), [100], **options))
    assert not len(cuts(index))
    assert not len(unseen_shots(index, np.arange(len(index.pts)), index.times_s[[0, -1]], 10))


def test_files_whose_packets_say_nothing_have_one_shot(tmp_path):
    for name, frames in (("two.mp4", 2), ("short.mp4", 5)):
        assert not len(cuts(read_index(make(tmp_path / name, frames=frames))))
    avi = read_index(make(tmp_path / "counted.avi", frames=50, bf="2"))
    assert avi.counted and not len(cuts(avi)) and not len(closer_frames(avi, np.arange(50), flat([0.0, 0.96, 1.96]), limit=10, gap_s=0.1))


def test_a_shot_that_no_candidate_is_of_gets_one():
    """Its keyframe, that which it begins with; of more shots than there may be, every so-many-th."""
    pts = np.arange(300)
    index = Index("a file", pts, pts / 5, (0, 100, 120, 140, 160, 180, 200), 60.0, 5.0, packet_bytes=np.full(300, 10))
    frames, seen_s = np.arange(len(index.pts)), np.array([0.0, 10.0, 29.0, 59.8])
    assert index.times_s[unseen_shots(index, frames, seen_s, 10)].tolist() == [20.0, 24.0, 32.0, 36.0]
    assert index.times_s[unseen_shots(index, frames, seen_s, 2)].tolist() == [20.0, 36.0]
    assert not len(unseen_shots(index, frames, seen_s, 0))
    inside = np.flatnonzero((index.times_s >= 23) & (index.times_s <= 30))  # a clip of the video: its first shot is a second long
    assert index.times_s[unseen_shots(index, inside, np.array([25.0, 29.0]), 10)].tolist() == [23.4]


# --- where to look closer


def flat(times_s):
    return relevance(MotionScorer().score(np.zeros((len(times_s), 8, 8, 3), np.uint8), ""), np.array(times_s))


def test_a_candidate_speaks_for_what_is_nearer_to_it_up_to_a_cut():
    found = stretches(np.array([0.0, 10.0, 20.0, 30.0]), np.array([12.0, 13.0, 20.0]))
    assert found.tolist() == [[0, 5], [5, 12], [20, 25], [25, 30]]
    assert stretches(np.array([0.0, 10.0]), np.empty(0)).tolist() == [[0, 5], [5, 10]]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.integers(0, 60), st.sampled_from([0.1, 0.5, 3.0]))
@settings(deadline=None)
def test_frames_go_where_the_relevance_is(scores, limit, gap_s):
    share = np.array(scores) + 1e-9
    share /= share.sum()
    stretch_N2 = stretches(np.arange(len(share)) * 2.0, np.empty(0))
    given_N = dealt(share, stretch_N2, limit=limit, gap_s=gap_s)
    assert given_N.sum() <= limit and not given_N[share <= 1 / len(share)].any()
    assert (given_N * gap_s <= np.diff(stretch_N2, axis=1).ravel() + 1e-6).all()
    room = np.floor(np.diff(stretch_N2, axis=1).ravel() / gap_s + 1e-9)
    if given_N.sum() < limit:  # then nobody had room for one more
        assert (given_N == room)[share > (1 + 1e-9) / len(share)].all()
    for more in np.flatnonzero(given_N):
        for less in np.flatnonzero((share > (1 + 1e-9) / len(share)) & (given_N < room)):
            assert share[less] / (given_N[less] + 1) <= share[more] / given_N[more] + 1e-12


def test_nothing_stands_out_nothing_is_looked_at(tmp_path):
    index = read_index(film(tmp_path / "still.mp4", [60]))
    assert not len(closer_frames(index, np.arange(len(index.pts)), flat([0.0, 30.0, 59.8]), limit=10, gap_s=0.5))


def test_motion_added_between_candidates_is_measured_like_that_of_candidates():
    """A picture that moves evenly: what lies close together would seem to stand still, against evenly spaced frames it does not."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (1, 12, 3), dtype=np.uint8), np.ones((48, 16, 1), np.uint8))
    times = np.array([0, 8, 16, 17, 18, 19, 20, 21, 22, 23, 24, 32, 40])
    frames = np.stack([np.roll(picture, 4 * int(at), axis=1) for at in times])
    scorer, even_N = MotionScorer(), np.flatnonzero(times % 8 == 0)
    looks = scorer.look(frames, "")
    apart, even = scorer.compare(looks, even_N).frame_N, scorer.score(frames[even_N], "").frame_N
    assert np.array_equal(apart[even_N], even)
    assert apart[4:9].min() > 0.45 * even[1:-1].min() and scorer.score(frames, "").frame_N[4:9].max() < 0.3 * even[1:-1].min()


# --- the actor


def test_a_moment_of_a_long_video_is_found(flash):
    """Two seconds of ten minutes: with shots and a second pass each importance view shows it, several times; without, none does."""
    question = Question("q", flash, "what is it?", "open", answer="red")
    missed, _ = built(actor("video.shot_candidates=0", "video.fine_candidates=0"), question)
    assert [within(spec) for spec in missed.specs] == [0] * len(KINDS)
    only_shots, _ = built(actor("video.fine_candidates=0"), question)
    found, _ = built(actor(), question)
    assert [within(spec) for spec in only_shots.specs] == [0, 1, 1, 1, 0]
    assert all(within(spec) >= 3 for spec in found.specs[1:4]), [within(spec) for spec in found.specs]
    assert found.specs[0] == missed.specs[0] and found.specs[4] == missed.specs[4]  # the even ones are what they were
    assert found.relevance is not None and 64 < len(found.relevance.times_s) <= 64 + 64 + 64


def test_a_second_pass_alone_looks_where_a_candidate_stands_out(tmp_path):
    """Without a cut in the packets (every frame a keyframe): one candidate falls into the moment, the second pass finds more of it."""
    path = film(tmp_path / "moment.mkv", [396, 6, 198], codec="mjpeg", preset="")
    question = Question("q", path, "what is it?", "open", answer="red")
    one, two = (built(actor(f"video.fine_candidates={fine}"), question)[0] for fine in (0, 64))
    assert within(one.specs[1], (396, 402)) == 1 and within(two.specs[1], (396, 402)) >= 3


def test_close_candidates_are_what_they_were(tmp_path):
    """A video whose candidates are no more than `sparse_s` apart: the same specs, pixels and relevance, whatever the settings."""
    path = film(tmp_path / "short.mp4", [20, 2, 38])
    question = Question("q", path, "what is it?", "open", answer="red")
    (one, pixels), (two, others) = built(actor(), question), built(actor("video.shot_candidates=0", "video.fine_candidates=0"), question)
    assert one.specs == two.specs and one.relevance == two.relevance
    assert all(np.array_equal(a, b) for a, b in zip(pixels, others, strict=True))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_truth_changes_nothing_of_a_long_video(flash, family):
    """FAULTS A1: with added candidates, too. The uniform view is that of evaluation, whatever other kinds look at."""
    question = Question("q", flash, "what is it?", "temporal_grounding", spans=(FLASH_S,), evidence=Evidence((FLASH_S,)))
    made = actor(family=family)
    one, frames = built(made, question, seed=5)
    for truth in (((10.0, 20.0),), ((0.0, 0.01),), ((590.0, 599.0),)):
        two, others = built(made, replace(question, spans=truth, evidence=Evidence(truth)), seed=5)
        assert two.specs == one.specs and all(np.array_equal(a, b) for a, b in zip(frames, others, strict=True))
    (alone,), (pixels,) = (lambda prepared, shown: (prepared.specs, shown))(*built(made, question, ("uniform",), seed=5))
    assert alone == one.specs[0] and np.array_equal(pixels, frames[0])
    if family == "qwen2_5_vl":  # which cannot be told uneven times: nothing is looked at that no view could show
        assert one.relevance is not None and len(one.relevance.times_s) == 64


def test_views_are_the_same_again_from_the_cache_and_from_their_specs(flash, tmp_path, monkeypatch):
    question = Question("q", flash, "what is it?", "open", answer="red")
    one, frames = built(actor(), question)
    cached = actor()
    for _ in range(2):  # stored, then read
        cached.cache = VideoCache(tmp_path / "cache", 1)
        two, others = built(cached, question)
        assert two.specs == one.specs and two.relevance == one.relevance and all(np.array_equal(a, b) for a, b in zip(frames, others, strict=True))
        with monkeypatch.context() as patched:  # a second epoch decodes nothing
            patched.setattr("rlvid.video.clip.Reader.frames", lambda *_: pytest.fail("decoded"))
            assert built(cached, question)[0].specs == one.specs
        cached.cache.close()
    for spec, shown in zip(one.specs, frames, strict=True):
        assert np.array_equal(rebuild(flash, spec), shown)
    assert built(actor(), question, seed=1)[0].specs != one.specs


def test_a_clip_of_a_long_video_is_looked_at_inside(flash):
    question = Question("q", flash, "what is it?", "open", answer="red", clip=(300.0, 590.0))
    found, _ = built(actor(), question)
    assert all(300 <= time_s <= 590 for spec in found.specs for time_s in spec.times_s) and within(found.specs[1]) >= 3


def test_what_cannot_be_read_between_the_candidates_costs_no_question(flash, monkeypatch):
    from rlvid.video import clip as module

    question = Question("q", flash, "what is it?", "open", answer="red")
    without, _ = built(actor("video.shot_candidates=0", "video.fine_candidates=0"), question)

    def broken(*_, **__) -> Clip:
        raise module.VideoError("is broken there")

    monkeypatch.setattr(module, "read_at", broken)
    found, _ = built(actor(), question)
    assert [spec.times_s for spec in found.specs] == [spec.times_s for spec in without.specs]


def test_an_index_keeps_what_packets_take(flash, tmp_path):
    cache, index = VideoCache(tmp_path / "cache", 1), read_index(flash)
    cache.index(flash, lambda: index)
    again: Index = cache.index(flash, lambda: pytest.fail("is read again"))
    assert np.array_equal(again.packet_bytes, index.packet_bytes) and again.keys == index.keys and len(index.packet_bytes) == 3000
    assert np.array_equal(again.times_s, index.times_s) and np.array_equal(again.pts, index.pts)
