"""Variants: what every spec promises, pixels rebuilt in another process, and the times that the models read out of the metadata."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.config import VariantKind
from rlvid.data.video import Clip, read_candidates, shown_size
from rlvid.types import VariantSpec
from rlvid.variants.build import GRID_QUANTUM_S, TICKS_PER_S, cut, rebuild, seconds_per_grid, video_metadata
from rlvid.variants.explore import KINDS, derived_seed, explore, shown_frames
from tests.unit.clips import make

SIZE = (56, 84)


def specs(times, kinds=("uniform", "random_jitter", "random_crop"), frames=8, question_id="q", seed=0, min_crop_area=0.5):
    return explore(kinds, times_s_N=times, frames=frames, size=SIZE, question_id=question_id, seed=seed, min_crop_area=min_crop_area)


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
    with pytest.raises(ValueError, match=r"unknown kind 'blur' \(known: uniform, random_jitter, random_crop\)"):
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
    made = explore(tuple(KINDS), times_s_N=clip.times_s_N, frames=8, size=size_for(*source), question_id="q", seed=1, min_crop_area=0.4)
    here = [cut(clip, spec).tobytes() for spec in made]
    assert len(set(here)) == len(KINDS)
    there = subprocess.run([sys.executable, "-c", REBUILD], input=pickle.dumps((path, made)), capture_output=True, check=True).stdout
    assert pickle.loads(there) == here
    assert [rebuild(path, spec, size_for=size_for).tobytes() for spec in made] == here


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
