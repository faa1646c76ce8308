"""Frames by rate and a budget of visual tokens: what a video of a length gets, in pure numbers and from the actor that builds its variants."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvid.config import ConfigError, load
from rlvid.config.video import Video
from rlvid.types import Prepared, Question
from rlvid.video.budget import LEAST_SHARE, budget, described, extremes, most_tokens
from tests.unit.clips import make

ROOT = Path(__file__).parents[2]


def test_without_a_rate_every_video_gets_the_same():
    for length_s in (0.0, 3.0, 9999.0):
        found = budget(Video(frames=16), length_s, factor=28)
        assert (found.frames, found.max_pixels, found.candidates, found.tokens) == (16, 128 * 784, 64, 8 * 128)


@pytest.mark.parametrize(("length_s", "frames"), [(0.1, 4), (2.0, 4), (5.0, 10), (5.9, 10), (10.0, 20), (31.9, 62), (32.0, 64), (3600.0, 64)])
def test_a_rate_gives_frames_by_length_between_its_bounds(length_s, frames):
    assert budget(Video(fps=2.0), length_s, factor=28).frames == frames


@pytest.mark.parametrize(("length_s", "candidates"), [(10.0, 64), (64.0, 64), (100.0, 100), (1000.5, 1000), (3600.0, 1500)])
def test_candidates_by_rate_between_their_bounds(length_s, candidates):
    """Frames stay what they were; the memory of the longest video is bounded."""
    found = budget(Video(candidates_fps=1.0, max_candidates=1500), length_s, factor=28)
    assert (found.candidates, found.frames) == (candidates, 16)
    with pytest.raises(ValidationError, match="max_candidates"):
        Video(candidates_fps=1.0, max_candidates=63)


def test_a_longer_video_has_more_candidates_by_rate(tmp_path):
    """From the actor's own question how long the video, or the question's clip, is."""
    from types import SimpleNamespace

    from rlvid.actors.variant import VariantActor

    path = make(tmp_path / "long.mp4", frames=25 * 8)
    config = load(ROOT / "configs/quickstart.yaml", ["video.frames=2", "video.candidates=4", "video.candidates_fps=2", "video.max_candidates=12"])
    actor = SimpleNamespace(config=config, factor=28, frames_per_token=2)
    counts = [VariantActor._budget(actor, Question("q", str(path), "?", "open", clip=clip)).candidates for clip in (None, (1.0, 5.0), (1.0, 2.0))]
    assert counts == [12, 8, 4]


@given(st.floats(0.5, 4000), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
@settings(deadline=None)
def test_the_rule_is_qwen_s_own(length_s, fps):
    utils = pytest.importorskip("qwen_vl_utils.vision_process")
    total = max(64, math.ceil(length_s * 30))  # a film of 30 frames a second has enough of them
    theirs = utils.smart_nframes({"fps": fps, "min_frames": 4, "max_frames": 64}, total_frames=total, video_fps=total / length_s)
    assert budget(Video(fps=fps), length_s, factor=28).frames == theirs


@given(st.floats(0, 5000), st.integers(8, 6000), st.sampled_from([28, 32]))
@settings(deadline=None)
def test_a_budget_is_kept_and_frames_go_only_where_they_would_be_too_small(length_s, total, factor):
    video = Video(fps=2.0, max_frames=64, total_tokens=total, max_tokens=6144)
    found, free = (budget(one, length_s, factor=factor) for one in (video, Video(fps=2.0, max_frames=64)))
    patches, whole = found.max_pixels // factor**2, free.max_pixels // factor**2
    assert found.frames // 2 * patches <= total or found.frames == 2
    assert found.frames <= free.frames and found.max_pixels <= free.max_pixels and found.frames % 2 == 0
    if found.frames < free.frames:  # then one pair more would not have had its least size
        assert (found.frames // 2 + 1) * max(1, int(whole * LEAST_SHARE)) > total
    if free.frames // 2 * whole <= total:
        assert found == free


def test_a_long_video_has_smaller_frames_then_fewer():
    video = Video(fps=2.0, max_frames=64, total_tokens=1024)
    told = [(one.frames, one.max_pixels // 784, one.tokens) for one in (budget(video, length_s, factor=28) for length_s in (8.0, 16.0, 32.0))]
    assert told == [(16, 128, 1024), (32, 64, 1024), (64, 32, 1024)]
    assert budget(Video(fps=2.0, max_frames=64, total_tokens=512), 32.0, factor=28).frames == 32
    assert most_tokens(video, factor=28).tokens == 1024 and [one.frames for one in extremes(video, factor=28)] == [4, 64]
    assert described(video, factor=28).startswith("a video of 10 s gets 20 frames of up to ")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"fps": 2, "max_frames": 128}, "video.candidates (64) is below video.max_frames (128)"),
        ({"fps": 2, "min_frames": 32, "max_frames": 16}, "video.min_frames (32) is above video.max_frames (16)"),
        ({"total_tokens": 9000}, "video.total_tokens (9000) is above video.max_tokens (6144)"),
        ({"fps": 0}, "greater than 0"),
        ({"min_frames": 3}, "multiple of 2"),
    ],
)
def test_what_cannot_be_is_refused(values, reason):
    with pytest.raises(ValidationError) as caught:
        Video(**values)
    assert reason in str(caught.value)
    assert issubclass(ConfigError, ValueError)


def test_all_variants_of_a_video_are_made_of_its_one_budget(tmp_path):
    """Two seconds at four a second are eight frames, a quarter of them under half the tokens; a clip of one second has half as many."""
    from rlvid.actors.variant import VariantActor
    from rlvid.families import FAMILIES
    from rlvid.world.tiny_model import build_processor, build_tokenizer

    path = make(tmp_path / "v.mp4", size=(112, 112))
    words = build_tokenizer(["red blue what is it the"])

    def built(*overrides, clip=None):
        kinds = ["uniform", "random_jitter", "random_crop"]
        common = ["video.fps=4", "video.min_frames=2", "video.max_frames=16", "video.candidates=32", "video.max_pixels=12544", f"variants.kinds={kinds}"]
        actor = VariantActor(load(ROOT / "configs/quickstart.yaml", [*common, "rollout.max_model_len=99999", *overrides]), 0)
        actor.processor, actor.factor, actor.frames_per_token, actor.family = build_processor(words, "qwen2_5_vl"), 28, 2, FAMILIES["qwen2_5_vl"]
        question = Question("q", path, "what is it?", "open", answer="red", clip=clip)
        prepared, *frames = actor.build(question, tuple(kinds), 0)
        assert isinstance(prepared, Prepared), prepared
        assert len({(len(spec.times_s), spec.size) for spec in prepared.specs}) == 1
        return frames[0].shape[:3]

    assert built() == (8, 112, 112)
    assert built(clip=(0.5, 1.5)) == (4, 112, 112)
    assert built("video.total_tokens=32") == (8, 56, 56)
    assert built("video.total_tokens=8") == (4, 56, 56)
