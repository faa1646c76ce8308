"""Tools on the original video, and evidence frames that are the same bits."""

from __future__ import annotations

import json

import cv2
import decord
import numpy as np
import pytest

from rlvid.teacher.evidence import cut_frames, evidence_frames, fit, framed, wanted
from rlvid.teacher.tools import ToolLimits, VideoTools, functions
from rlvid.types import EvidencePatch, Region
from rlvid.video.clip import resized
from tests.unit.clips import make

SIZE = (28, 56)
BOX = (0.5, 0.0, 0.75, 0.25)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """2 s of noise, 25 frames a second, 96 x 64 pixels."""
    return make(tmp_path_factory.mktemp("clips") / "noise.mp4", size=(64, 96), noise=True)


def by_hand(path, index, box=None, size=SIZE):
    """Decoded and cropped without the project's code; how pixels are resized is the one rule of data/video.py."""
    frame = decord.VideoReader(path)[index].asnumpy()
    height, width = frame.shape[:2]
    if box:
        frame = frame[round(box[1] * height) : round(box[3] * height), round(box[0] * width) : round(box[2] * width)]
    return resized(np.ascontiguousarray(frame), size)


def test_evidence_is_cut_from_the_original_bit_for_bit(path):
    patch = EvidencePatch("spatial", "h", frames_s=(1.01,), regions=(Region(0.4, BOX),))
    crop, frame = evidence_frames(path, patch, size=SIZE)
    assert (crop.time_s, crop.box) == (0.4, BOX) and np.array_equal(crop.frame_HWC, by_hand(path, 10, BOX))
    assert (frame.time_s, frame.box) == (1.0, None) and np.array_equal(frame.frame_HWC, by_hand(path, 25))
    assert frame.frame_HWC.dtype == np.uint8 and frame.frame_HWC.shape == (*SIZE, 3)


def test_evidence_equals_what_the_tools_show(path):
    tools = VideoTools(path, size=SIZE)
    seen = [*tools.call("get_frame", '{"i": 25}').images, *tools.call("zoom_region", '{"i": 10, "x1": 0.5, "y1": 0, "x2": 0.75, "y2": 0.25}').images]
    patch = EvidencePatch("spatial", "h", frames_s=(1.0,), regions=(Region(0.4, BOX),))
    evidence = evidence_frames(path, patch, size=SIZE)
    for shown, cut in zip([cut for cut, _ in seen[::-1]], evidence, strict=True):
        assert (shown.time_s, shown.box) == (cut.time_s, cut.box)
        assert np.array_equal(shown.frame_HWC, cut.frame_HWC)


def test_a_box_is_widened_to_the_frames_aspect_and_stays_inside():
    assert framed((0.2, 0.2, 0.6, 0.4)) == pytest.approx((0.2, 0.1, 0.6, 0.5))
    assert framed((0.98, 0.98, 1.0, 1.0)) == (0.75, 0.75, 1.0, 1.0)
    assert framed((0.0, 0.3, 1.0, 0.4)) == (0.0, 0.0, 1.0, 1.0)


def test_moments_are_shared_among_the_kinds_and_never_lie_on_an_edge():
    region = Region(1.0, BOX)
    assert wanted(EvidencePatch("temporal", "h", spans=((2.0, 6.0),)), 4) == [(2.5, None), (3.5, None), (4.5, None), (5.5, None)]
    assert wanted(EvidencePatch("temporal", "h", spans=((0.0, 2.0), (4.0, 6.0))), 2) == [(1.0, None), (5.0, None)]
    assert wanted(EvidencePatch("temporal", "h", ((2.0, 6.0),), (7.0,), (region,)), 4) == [(1.0, BOX), (7.0, None), (3.5, None), (5.5, None)]
    assert len(wanted(EvidencePatch("temporal", "h", ((2.0, 6.0),), tuple(map(float, range(8))), (region,) * 8), 4)) == 4


def test_the_same_moment_comes_once(path):
    patch = EvidencePatch("temporal", "h", frames_s=(1.0, 1.001, 0.999))
    assert [cut.time_s for cut in evidence_frames(path, patch, size=SIZE)] == [1.0]


def test_a_segment_shows_its_frames(path):
    result = VideoTools(path).call("get_temporal_segment", '{"start": 0.4, "end": 0.8, "stride": 0.2}')
    assert [cut.time_s for cut, _ in result.images] == [0.4, 0.6, 0.8]
    assert "at 0.40 s" in result.text
    decoded = cv2.imdecode(np.frombuffer(result.images[0][1], np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == result.images[0][0].frame_HWC.shape


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("get_frame", '{"i": 50}', "0 to 49"),
        ("get_frame", '{"i": -1}', "0 to 49"),
        ("get_frame", '{"i": 1.5}', "whole number"),
        ("get_frame", '{"i": true}', "whole number"),
        ("get_frame", "{}", "takes exactly i"),
        ("get_frame", '{"i": 1, "path": "/etc/passwd"}', "takes exactly i"),
        ("get_frame", '{"i": 1', "not JSON"),
        ("get_frame", "[" * 50_000, "not JSON"),
        ("get_frame", "[1]", "takes exactly"),
        ("zoom_region", '{"i": 1, "x1": 0, "y1": 0, "x2": 1.5, "y2": 1}', "not inside 0..1"),
        ("zoom_region", '{"i": 1, "x1": 1, "y1": 0, "x2": 0, "y2": 1}', "not inside 0..1"),
        ("zoom_region", '{"i": 1, "x1": NaN, "y1": 0, "x2": 1, "y2": 1}', "not finite"),
        ("get_temporal_segment", '{"start": 1, "end": 3, "stride": 1}', "end <= 2.00"),
        ("get_temporal_segment", '{"start": 1, "end": 0, "stride": 1}', "start < end"),
        ("get_temporal_segment", '{"start": 0, "end": 1, "stride": 0}', "above 0"),
        ("get_temporal_segment", '{"start": 0, "end": 2, "stride": 1e-300}', "more than 8 frames"),
        ("get_temporal_segment", '{"start": "0", "end": 2, "stride": 1}', "number of seconds"),
        ("run_shell", '{"command": "ls"}', "no tool"),
    ],
)
def test_wrong_calls_are_told_to_the_model(path, name, arguments, words):
    result = VideoTools(path).call(name, arguments)
    assert result.text.startswith("Error: ") and words in result.text and not result.images


def test_a_broken_video_is_told_too(tmp_path):
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"no video at all")
    assert VideoTools(str(broken)).call("get_frame", '{"i": 0}').text.startswith("Error: ")


def test_calls_frames_and_bytes_are_bounded(path):
    tools = VideoTools(path, ToolLimits(max_calls=2))
    assert [bool(tools.call("get_frame", '{"i": 0}').images) for _ in range(3)] == [True, True, False]
    tools = VideoTools(path, ToolLimits(max_frames=3))
    assert len(tools.overview(3).images) == 3
    assert "no more than 3 frames" in tools.call("get_frame", '{"i": 0}').text
    tools = VideoTools(path, ToolLimits(max_bytes=10))
    assert "limit" in tools.call("get_frame", '{"i": 0}').text and tools.bytes_sent == 0
    (cut, _), *_ = VideoTools(path, ToolLimits(max_pixels=24 * 16)).call("get_frame", '{"i": 0}').images
    assert cut.frame_HWC.shape == (16, 24, 3)


def test_true_times_of_irregular_frames(tmp_path):
    irregular = make(tmp_path / "vfr.mp4", frames=6, times_ms=[0, 40, 500, 540, 2000, 2040])
    (cut, _), *_ = VideoTools(irregular).call("get_frame", '{"i": 2}').images
    assert cut.time_s == 0.5
    assert [found.time_s for found in cut_frames(irregular, [(1.9, None), (0.3, None)], lambda *_: SIZE)] == [2.0, 0.5]


def test_the_description_says_the_videos_bounds():
    described = {entry["function"]["name"]: entry["function"]["parameters"]["properties"] for entry in functions(50, 2.0)}
    assert described["get_frame"]["i"]["maximum"] == 49 and described["get_temporal_segment"]["end"]["maximum"] == 2
    assert json.dumps(functions(1, 0.1))


def test_fit_keeps_the_aspect_and_never_enlarges():
    assert fit(100, 200, 5000) == (50, 100) and fit(10, 10, 10**6) == (10, 10)
