"""Variants: what every spec promises, pixels rebuilt in another process, and the times that the models read out of the metadata."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.config import VariantKind
from rlvid.types import Relevance, VariantSpec
from rlvid.variants.build import GRID_QUANTUM_S, TICKS_PER_S, cut, rebuild, seconds_per_grid, video_metadata
from rlvid.variants.explore import KINDS, derived_seed, explore, hides, shown_frames, truth_hidden
from rlvid.variants.relevance import RawScores, attention_box, multi_scale, relevance, sampling_distribution, temporal_attention
from rlvid.variants.scorers import MotionScorer
from rlvid.video.clip import Clip, read_candidates, shown_size
from tests.unit.clips import make

SIZE = (56, 84)


def specs(times, kinds=("uniform", "random_jitter", "random_crop"), frames=8, question_id="q", seed=0, min_crop_area=0.5, **more):
    more = {"relevance": random_relevance(times, seed) if len(times) else None} | more
    more = {"size": SIZE} | more
    return explore(kinds, times_s_N=times, frames=frames, question_id=question_id, seed=seed, min_crop_area=min_crop_area, **more)


def random_relevance(times, seed=0, patches=(5, 7)):
    rng = np.random.default_rng(abs(seed))
    raw = RawScores(rng.normal(size=len(times)), rng.random((len(times), *patches)), rng.normal(size=(len(times), 3)))
    return relevance(raw, np.asarray(times, dtype=float))


timelines = st.one_of(
    st.tuples(st.integers(2, 80), st.floats(0, 1000), st.floats(0.01, 30)).map(lambda made: (np.arange(made[0]) * made[2] + made[1]).tolist()),
    st.lists(st.integers(0, 10**6), min_size=2, max_size=80, unique=True).map(lambda ticks: sorted(tick / 1000 for tick in ticks)),
)


@settings(max_examples=300, deadline=None)
@given(timelines, st.integers(1, 20).map(lambda half: 2 * half), st.integers(-5, 2**40), st.floats(0.05, 1), st.text(max_size=5))
def test_every_spec_keeps_the_promises(times, frames, seed, min_crop_area, question_id):
    made = specs(times, tuple(KINDS), frames, question_id, seed, min_crop_area)
    wanted = min(frames, len(times) - len(times) % 2)
    bins = math.ceil(wanted / 2)

    def bin_of(time):
        return min(int((time - times[0]) / (times[-1] - times[0]) * bins), bins - 1)

    for spec, kind in zip(made, KINDS, strict=True):
        assert spec.kind == kind and spec.size == SIZE and len(spec.times_s) == wanted
        assert set(spec.times_s) <= set(times) and all(one < two for one, two in zip(spec.times_s, spec.times_s[1:], strict=False))
        assert {bin_of(time) for time in spec.times_s} == {bin_of(time) for time in times}
        if spec.box is not None:
            x1, y1, x2, y2 = spec.box
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            assert x2 - x1 == pytest.approx(y2 - y1) and min_crop_area - 1e-9 <= (x2 - x1) * (y2 - y1) <= 1 + 1e-9
    assert made == specs(times, tuple(KINDS), frames, question_id, seed, min_crop_area)


@settings(max_examples=200, deadline=None)
@given(st.integers(8, 80), st.integers(2, 10).map(lambda half: 2 * half), st.integers(0, 1000))
def test_jitter_moves_interior_frames_by_at_most_half_the_gap(count, frames, seed):
    times = [at * 0.5 for at in range(count)]
    uniform, jittered = specs(times, ("uniform", "random_jitter"), frames, seed=seed)
    base, moved = uniform.times_s, jittered.times_s
    assert (moved[0], moved[-1]) == (base[0], base[-1])
    for at in range(1, len(base) - 1):
        assert (base[at - 1] - base[at]) / 2 - 1e-9 <= moved[at] - base[at] <= (base[at + 1] - base[at]) / 2 + 1e-9


def test_uniform_is_linspace_over_the_candidates_whatever_the_seed():
    times = [at * 0.1 for at in range(33)]
    shown = {spec.times_s for seed in range(5) for spec in specs(times, ("uniform",), 8, seed=seed)}
    assert shown == {tuple(times[at] for at in np.linspace(0, 32, 8).round().astype(int))}


def test_jitter_and_crops_really_vary():
    times = [at * 0.1 for at in range(64)]
    jittered = {spec.times_s for seed in range(20) for spec in specs(times, ("random_jitter",), 8, seed=seed)}
    areas = [(spec.box[2] - spec.box[0]) ** 2 for seed in range(200) for spec in specs(times, ("random_crop",), 8, seed=seed, min_crop_area=0.5)]
    assert len(jittered) == 20
    assert 0.5 <= min(areas) < 0.52 and 0.98 < max(areas) < 1 and np.mean(areas) == pytest.approx(0.75, abs=0.03)


def test_variants_of_one_kind_differ_and_seeds_are_stable():
    times = [at * 0.1 for at in range(64)]
    one, two = specs(times, ("random_jitter", "random_jitter"))
    assert one.times_s != two.times_s and one.seed != two.seed
    assert specs(times, question_id="other")[1].times_s != specs(times)[1].times_s != specs(times, seed=1)[1].times_s
    assert derived_seed(0, "q", 1) == 76286010532684 and derived_seed(1, "1") != derived_seed("1", 1)


def test_fewer_candidates_than_frames_shrink_t_to_an_even_number():
    assert [shown_frames(count, 8) for count in (2, 3, 5, 8, 100)] == [2, 2, 4, 8, 8]
    assert len(specs([0.0, 1.0, 2.0], ("uniform",), 16)[0].times_s) == 2
    for count, frames in ((1, 8), (8, 7), (8, 0)):
        with pytest.raises(ValueError, match="even number"):
            shown_frames(count, frames)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0], [2.0, 1.0], [0.0, math.nan]])
def test_times_that_do_not_ascend_are_refused(times):
    with pytest.raises(ValueError, match="times_s_N"):
        specs(times)


def test_the_config_knows_the_same_kinds():
    assert set(get_args(VariantKind)) == set(KINDS)


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown kind 'blur' \(known: uniform, importance, .*random_crop\)"):
        specs([0.0, 1.0], ("blur",))


# --- pixels ----------------------------------------------------------------------------------------------------------


def gradient_clip(frames=4, height=40, width=60):
    row, column = np.mgrid[:height, :width]
    pixels = np.stack([np.stack([np.full_like(row, at * 10), row * 4, column * 4], -1) for at in range(frames)]).astype(np.uint8)
    return Clip(pixels, np.arange(frames) * 0.5, frames * 0.5, 2.0, width, height)


def test_cut_takes_the_nearest_frames_and_the_box():
    clip = gradient_clip()
    spec = VariantSpec("random_crop", (0.4, 1.6), (0.5, 0.25, 1.0, 0.75), (20, 30), 0)
    frames = cut(clip, spec)
    assert frames.shape == (2, 20, 30, 3) and frames.dtype == np.uint8 and frames.flags["C_CONTIGUOUS"]
    assert np.array_equal(frames, clip.frames_NHWC[[1, 3], 10:30, 30:60])


def test_cut_resizes_the_box_to_the_shown_size():
    whole = cut(gradient_clip(), VariantSpec("uniform", (0.0, 0.5), None, (20, 30), 0))
    assert whole.shape == (2, 20, 30, 3) and whole[0, -1, -1].tolist() == pytest.approx([0, 154, 234], abs=3)
    tiny = cut(gradient_clip(), VariantSpec("uniform", (0.0, 0.5), (0.999, 0.999, 1.0, 1.0), (28, 28), 0))
    assert tiny.shape == (2, 28, 28, 3) and (tiny[0] == tiny[0, 0, 0]).all()


# --- relevance -------------------------------------------------------------------------------------------------------


def test_temporal_attention_shares_scores_among_frames_that_look_alike():
    alike = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    attended = temporal_attention(np.array([1.0, 0.0, 0.0]), alike, tau=0.05)
    assert attended == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert temporal_attention(np.array([3.0, 0.0, 0.0]), alike, tau=1e6) == pytest.approx([1.0, 1.0, 1.0], rel=1e-4)


def test_multi_scale_by_hand():
    """Window 1: as it is. Window 2: itself and the next one, cut at the end."""
    assert multi_scale(np.array([0.0, 4.0, 2.0]), [1]) == pytest.approx([0, 4, 2])
    assert multi_scale(np.array([0.0, 4.0, 2.0]), [2]) == pytest.approx([2, 3, 2])
    assert multi_scale(np.array([0.0, 4.0, 2.0]), [1, 2]) == pytest.approx([1, 3.5, 2])


def test_sampling_distribution_by_hand():
    shares = sampling_distribution(np.array([0.0, 2.0]), temperature=1.0)  # z = -1, 1
    assert shares == pytest.approx([1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)])
    assert sampling_distribution(np.full(4, 7.0), temperature=0.1) == pytest.approx([0.25] * 4)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 10**6))
def test_an_attention_box_keeps_its_promises(rows, columns, min_area, share, seed):
    weight = np.random.default_rng(seed).random((rows, columns)) ** 4
    box = attention_box((weight / weight.sum()).tolist(), share=share, min_area=min_area)
    if box is not None:
        x1, y1, x2, y2 = box
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and x2 - x1 == pytest.approx(y2 - y1)
        assert (x2 - x1) * (y2 - y1) >= min_area - 1e-9


def test_the_attention_box_lies_where_the_relevance_is():
    weight = np.zeros((8, 8))
    weight[6, 1] = 1.0
    x1, y1, x2, y2 = attention_box(weight.tolist(), share=0.99, min_area=0.25)
    assert x1 <= 1 / 8 and x2 >= 2 / 8 and y1 <= 6 / 8 and y2 >= 7 / 8 and (x2 - x1) * (y2 - y1) == pytest.approx(0.25)
    corners = np.zeros((8, 8))
    corners[0, 0] = corners[7, 7] = 0.5
    assert attention_box(corners.tolist(), share=0.99, min_area=0.25) is None  # only the whole frame holds both


def test_importance_shows_the_relevant_frames_and_every_bin():
    times = [float(at) for at in range(40)]
    peaked = np.zeros(40)
    peaked[20:26] = 5.0
    scored = Relevance(tuple(times), tuple(sampling_distribution(peaked, 0.2).tolist()))
    (spec,) = specs(times, ("importance",), frames=12, relevance=scored)
    assert {20.0, 21.0, 22.0, 23.0, 24.0, 25.0} <= set(spec.times_s)  # 6 for 6 bins, one of which they share: 7 places for 6 frames
    (flat,) = specs(times, ("importance",), frames=12, relevance=Relevance(tuple(times), (1 / 40,) * 40))
    assert set(flat.times_s) != set(spec.times_s)


def test_what_a_view_hides_is_counted():
    (one,) = specs([float(at) for at in range(33)], ("uniform",), frames=8)
    assert one.times_s == (0.0, 5.0, 9.0, 14.0, 18.0, 23.0, 27.0, 32.0)
    assert not hides(one.times_s, [(4.0, 5.0), (9.0, 9.0)]) and hides(one.times_s, [(4.0, 5.0), (6.0, 8.0)]) and not hides(one.times_s, [])
    assert truth_hidden([one], [(6.0, 8.0)]) and not truth_hidden([one], [(4.0, 5.0), (6.0, 8.0)]) and not truth_hidden([one], [])


def test_even_times_keep_names_boxes_and_even_gaps():
    """For questions that ask for times of a model that cannot be told uneven ones."""
    times = [at * 0.25 for at in range(64)]
    made = specs(times, tuple(KINDS), even_times=True)
    free = specs(times, tuple(KINDS))
    assert [spec.kind for spec in made] == list(KINDS)
    gap = times[-1] / 7
    for spec, other in zip(made, free, strict=True):
        even = np.linspace(0, times[-1], 8)
        assert np.abs(np.array(spec.times_s) - even).max() <= gap / 2 + 0.25
        assert (spec.box is None) == (other.box is None)
    assert any(spec.times_s != other.times_s for spec, other in zip(made, free, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("uniform", "random_jitter", "random_crop")])
def test_a_kind_that_looks_at_relevance_says_what_is_missing(kind):
    with pytest.raises(ValueError, match=r"relevance\.scorer"):
        explore((kind,), times_s_N=[0.0, 1.0], frames=2, size=SIZE, question_id="q", seed=0)


def test_the_variants_of_a_video_differ():
    times = [at * 0.25 for at in range(64)]
    made = specs(times, tuple(KINDS), coarse_size=(28, 42))
    assert len({(spec.times_s, spec.box, spec.size) for spec in made}) == len(made)
    assert [spec.size for spec in made].count((28, 42)) == 1


def test_the_motion_scorer_finds_what_moves_and_where():
    frames = np.full((24, 60, 80, 3), 90, np.uint8)
    for at in range(10, 14):
        frames[at, 40:55, 5 + 6 * (at - 10) : 20 + 6 * (at - 10)] = (250, 30, 30)
    scored = relevance(MotionScorer().score(frames, "?"), np.arange(24) * 0.5)
    assert set(np.argsort(scored.scores)[-4:].tolist()) <= set(range(9, 15))
    x1, y1, _, y2 = attention_box(scored.patches, share=0.9, min_area=0.25)
    assert x1 < 0.1 and y2 > 0.9 and y1 >= 0.3


def size_for(height, width):
    return shown_size(height, width, max_pixels=20 * 28 * 28, factor=28)


REBUILD = """
import pickle, sys
from rlvid.variants.build import rebuild
path, specs = pickle.load(sys.stdin.buffer)
pickle.dump([rebuild(path, spec).tobytes() for spec in specs], sys.stdout.buffer)
"""


@pytest.mark.parametrize("source", [(40, 60), (240, 320)])
def test_another_process_rebuilds_the_same_pixels(tmp_path, source):
    times_ms = np.cumsum(np.random.default_rng(0).integers(10, 90, 40)).tolist()
    path = make(tmp_path / "v.mp4", frames=40, size=source, noise=True, times_ms=times_ms, g="20", bf="2")
    clip = read_candidates(path, candidates=24, clip=(0.3, 1.5), size_for=size_for)
    sizes = {"size": size_for(*source), "coarse_size": (28, 28), "work_size": clip.frames_NHWC.shape[1:3]}
    made = specs(clip.times_s_N, tuple(KINDS), seed=1, min_crop_area=0.4, **sizes)
    here = [cut(clip, spec).tobytes() for spec in made]
    assert len(set(here)) == len(KINDS)
    there = subprocess.run([sys.executable, "-c", REBUILD], input=pickle.dumps((path, made)), capture_output=True, check=True).stdout
    assert pickle.loads(there) == here
    assert [rebuild(path, VariantSpec.from_json(spec.to_json())).tobytes() for spec in made] == here


# --- metadata --------------------------------------------------------------------------------------------------------


def as_spec(times):
    return VariantSpec("uniform", tuple(times), None, SIZE, 0)


even_timelines = timelines.map(lambda times: times[: len(times) - len(times) % 2])


@settings(max_examples=200, deadline=None)
@given(even_timelines, st.sampled_from([1, 2, 4]))
def test_the_processors_read_the_true_times_out_of_the_metadata(times, tokens_per_second):
    """transformers' own arithmetic: Qwen2.5-VL's second_per_grid_ts and Qwen3-VL's time tokens."""
    import torch
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.video_utils import VideoMetadata

    spec = as_spec(times)
    given = video_metadata(spec)
    read = VideoMetadata(**{key: value for key, value in given.items() if key != "do_sample_frames"})
    assert read.timestamps == pytest.approx(list(times), abs=0.5 / TICKS_PER_S)
    pairs = Qwen3VLProcessor._calculate_timestamps(None, read.frames_indices, read.fps, 2)
    assert pairs == pytest.approx([(one + two) / 2 for one, two in zip(times[::2], times[1::2], strict=True)], abs=0.5 / TICKS_PER_S)

    grid_s = torch.tensor([2 / read.sampled_fps])[0]
    assert grid_s.item() == seconds_per_grid(spec)
    mean_pair_s = 2 * (times[-1] - times[0]) / (len(times) - 1)
    assert mean_pair_s - 2e-6 <= grid_s.item() <= max(mean_pair_s, 0) + GRID_QUANTUM_S
    if times[-1] - times[0] > 8000 / tokens_per_second:
        return  # beyond 2^24 quanta float32 is no longer exact
    grids = len(times) // 2
    by_transformers = (torch.arange(grids) * (tokens_per_second * grid_s)).long().tolist()
    by_vllm = (np.arange(grids) * (grid_s.item() * tokens_per_second)).astype(np.int64).tolist()
    assert by_transformers == by_vllm


def test_metadata_by_hand():
    assert video_metadata(as_spec([0.0, 0.5, 1.0, 1.5])) == {
        "fps": 65536.0,
        "duration": 2.0,
        "total_num_frames": 131072,
        "frames_indices": [0, 32768, 65536, 98304],
        "video_backend": "decord",
        "do_sample_frames": False,
    }
    assert seconds_per_grid(as_spec([0.0, 0.5, 1.0, 1.5])) == 1.0
    assert seconds_per_grid(as_spec([10.0, 10.5, 11.0, 11.5000001])) == 1.0
    assert seconds_per_grid(as_spec([0.0, 1 / 6])) == pytest.approx(1 / 3, abs=GRID_QUANTUM_S)
    assert seconds_per_grid(as_spec([0.0, 1 / 6])) >= 1 / 3
    assert seconds_per_grid(as_spec([0.0, 1e-6])) == GRID_QUANTUM_S


def test_a_clip_is_told_from_its_own_start():
    """100-104 s of a film and 0-4 s of it are the same to either family: Qwen2.5-VL's positions start at 0, so Qwen3-VL's time tokens do too."""
    here, there = as_spec([0.0, 1.0, 2.0, 3.0]), as_spec([100.0, 101.0, 102.0, 103.0])
    assert video_metadata(there, 100.0) == video_metadata(here)
    assert video_metadata(as_spec([99.9995, 101.0]), 100.0)["frames_indices"] == [0, 65536]  # a hair before the clip


def test_even_views_of_an_uneven_frame_rate_are_even_in_time():
    times = np.concatenate([np.arange(60.0), 60 + np.arange(60) / 60])
    (made,) = specs(times, ("uniform",), frames=16)
    assert np.diff(made.times_s).max() < 5.1 and len(made.times_s) == 16


@pytest.mark.parametrize(("family", "kept", "shrunk"), [("qwen2_5_vl", 224, 448), ("qwen3_vl", 704, 1024)])
def test_frames_that_the_processor_would_shrink_are_refused(family, kept, shrunk):
    """Its limits hold for engine and learner alike, so that nothing else would tell: here 224 x 224 a frame, and 4,194,304 pixels for eight frames."""
    from rlvid.actors.variant import VariantActor
    from rlvid.config import ConfigError, load
    from rlvid.world.tiny_model import build_processor, build_tokenizer

    def actor(side):
        settings = [f"video.max_pixels={side**2}", "video.max_tokens=9999", "rollout.max_model_len=99999"]
        made = VariantActor(load(Path(__file__).parents[2] / "configs/quickstart.yaml", settings), 0)
        made.processor = build_processor(build_tokenizer(["red blue"]), family)
        made.factor, made.frames_per_token = 28 if family == "qwen2_5_vl" else 32, 2
        return made

    actor(kept)._check_size()
    with pytest.raises(ConfigError, match=rf"shrinks 8 frames of {shrunk} x {shrunk} pixels .* lower video.max_pixels"):
        actor(shrunk)._check_size()
    assert actor(kept)._visual_tokens(8, (84, 84) if family == "qwen2_5_vl" else (96, 96)) == 4 * 9
