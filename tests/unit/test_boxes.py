"""Answers that are boxes, alone or at times: what is read, what it is worth (by hand), whole pictures, question files, published rows."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rlvid.actors.sampler import Sampler
from rlvid.algo.rewards import GRADED, correctness, score
from rlvid.algo.scores import Answered
from rlvid.algo.selection import Answers, Rules, drop_reason
from rlvid.algo.tracks import iou, spatio_temporal_iou
from rlvid.asking.evaluate import summarize
from rlvid.config import Config
from rlvid.config.reward import REWARD_PARTS, REWARD_WEIGHTS
from rlvid.data.prompts import INSTRUCTIONS, question_text
from rlvid.data.questions import QuestionError, check, iter_questions, parse_line, within_video
from rlvid.data.sources import named
from rlvid.data.sources.convert import convert
from rlvid.observe.strips import truth_of
from rlvid.reading.boxes import Track, box, track, written
from rlvid.types import BOX_TASKS, Question, Region, Relevance
from rlvid.variants.explore import KINDS, distinct, explore, explore_image, together
from tests.unit.clips import make
from tests.unit.published import write_lines
from tests.unit.test_media import actor
from tests.unit.test_no_hedge_pays import asked, hedges, no_hedge_pays, priors
from tests.unit.test_sampler import TREE, Rollouts, Variants

WEIGHTS = {"iou": 1.0, "st_iou": 1.0, "temporal_iou": 1.0, "format": 1.0}
B = (0.1, 0.2, 0.3, 0.6)


def at(*times, box=B):
    return tuple(Region(float(time_s), box) for time_s in times)


# ---- reading


@pytest.mark.parametrize(
    "text",
    [
        "[100, 200, 300, 600]",
        "100, 200, 300, 600",
        "(100,200),(300,600)",
        "[[100, 200], [300, 600]]",
        '{"boxes": [100, 200, 300, 600]}',
        '{"boxes": [[100, 200, 300, 600]]}',
        '```json\n[{"bbox_2d": [100, 200, 300, 600], "label": "dog"}]\n```',
        '{"bbox": "100, 200, 300, 600"}',
        '{"x1": 100, "y1": 200, "x2": 300, "y2": 600}',
        '{"xmin": 100, "ymin": 200, "xmax": 300, "ymax": 600}',
        "x1=100, y1=200, x2=300, y2=600",
        "left: 100, top: 200, right: 300, bottom: 600",
        "<|box_start|>(100,200),(300,600)<|box_end|>",
        "<box>[100, 200, 300, 600]</box>",
        "The dog is at [100.0, 200.0, 300.0, 600.0].",
        "[0.1, 0.2, 0.3, 0.6]",
        "[100, 200, 300, 600], [100, 200, 300, 600]",
    ],
)
def test_one_box(text):
    found, reason = box(text)
    assert found == pytest.approx(B) and not reason


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[100, 200, 300, 600] or [1, 2, 3, 4]", "more than a box"),
        ("not [100, 200, 300, 600]", "more than a box"),
        ('{"boxes": [[100, 200, 300, 600], [1, 2, 3, 4]]}', "found 2"),
        ("[300, 200, 100, 600]", "x1 < x2"),
        ("[100, 200, 300, 1600]", "not between 0 and 1000"),
        ("[-5, 200, 300, 600]", "not between 0 and 1000"),
        ('{"boxes": [1e999, 2, 3, 4]}', "not between 0 and 1000"),
        ("[100, 200, 300]", "found 0"),
        ("7 dogs at [100, 200, 300, 600]", "more numbers"),
        ("", "found 0"),
        ("[" * 500 + "]" * 500, "found 0"),
        ('{"boxes": {"1": [100, 200, 300, 600]}}', "found 0"),
    ],
)
def test_no_box(text, why):
    found, reason = box(text)
    assert found is None and why in reason


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ('{"boxes": {"9": [100, 200, 300, 600], "10": [100, 200, 300, 600]}}', None),
        ('{"time": [8.5, 10.5], "boxes": {"9": [100, 200, 300, 600], "10": [100, 200, 300, 600]}}', (8.5, 10.5)),
        ('{"start": 8.5, "end": 10.5, "boxes": {"9 s": [100, 200, 300, 600], "0:10": [100, 200, 300, 600]}}', (8.5, 10.5)),
        ('{"time": "8.5 to 10.5", "track": [{"t": 9, "box": [100, 200, 300, 600]}, {"t": 10, "box": [100, 200, 300, 600]}]}', (8.5, 10.5)),
        ('[{"time": 10, "bbox_2d": [100, 200, 300, 600]}, {"time": 9, "bbox_2d": [100, 200, 300, 600]}]', None),
        ('{"9": [0.1, 0.2, 0.3, 0.6], "10": [0.1, 0.2, 0.3, 0.6]}', None),
        ("9 s: [100, 200, 300, 600]; 10 s: [100, 200, 300, 600]", None),
        ("9: [100, 200, 300, 600]\n10: [100, 200, 300, 600]", None),
        ("at 9 s (100,200),(300,600), at 10 s (100,200),(300,600)", None),
        ("from 8.5 to 10.5 s: 9: [100, 200, 300, 600], 10: [100, 200, 300, 600]", (8.5, 10.5)),
    ],
)
def test_boxes_at_times(text, span):
    found, reason = track(text)
    assert not reason and found.span == span and [region.time_s for region in found.regions] == [9.0, 10.0]
    assert all(region.box == pytest.approx(B) for region in found.regions)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1, 2, 3, 4]", "not a box at a time"),
        ('{"boxes": {"1": [1, 2, 3, 4], "1.0": [1, 2, 3, 5]}}', "two boxes at one time"),
        ('{"boxes": {"1": [1, 2, 3]}}', "not a box at a time"),
        ('{"boxes": {"first": [1, 2, 3, 4]}}', "no boxes at times"),
        ('{"boxes": {}}', "no boxes at times"),
        ("1: [1, 2, 3, 4] or [2, 3, 4, 5]", "more than a box"),
        ("1: [1, 2, 3, 4], [2, 3, 4, 5]", "without its time"),
        ('{"boxes": {"1": [1, 2, 3, 4000]}}', "not between 0 and 1000"),
        (json.dumps({"boxes": {str(second): [1, 2, 3, 4] for second in range(1001)}}), "more than 1000"),
        ("", "no boxes"),
    ],
)
def test_no_track(text, why):
    found, reason = track(text)
    assert found is None and why in reason


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80) | st.lists(st.sampled_from([*"{}[]():,\"' ", "1", "2.5", "boxes", "time", "1e9", "null", "-3", "9 s"]), max_size=25).map("".join))
def test_any_text_gives_numbers(text):
    for task in BOX_TASKS:
        parts = score(question_of(task), f"<answer>{text}</answer>").parts
        assert all(0 <= value <= 1 and math.isfinite(value) for value in parts.values())


def question_of(task, **keys):
    truth = {"box": B} if task == "spatial_grounding" else {"track": at(9, 10, 11, 12, 13)}
    return asked(task, **{**truth, **({"spans": ((8.5, 13.5),)} if task == "spatio_temporal_grounding" else {}), **keys})


# ---- what it is worth, by hand


def test_iou_by_hand():
    assert iou((0.0, 0.0, 0.2, 0.2), (0.1, 0.1, 0.3, 0.3)) == pytest.approx(1 / 7), "0.01 of 0.04 + 0.04 - 0.01"
    assert iou((0.0, 0.0, 1.0, 0.5), (0.0, 0.0, 0.5, 1.0)) == pytest.approx(1 / 3) and iou(B, B) == 1
    assert iou(B, (0.3, 0.2, 0.5, 0.6)) == 0, "they touch"
    assert iou(B, (0.3, 0.6, 0.1, 0.2)) == iou((0.3, 0.6, 0.1, 0.2), (0.3, 0.6, 0.1, 0.2)) == iou((0.1, 0.1, 0.1, 0.1), B) == 0


def test_viou_by_hand():
    truth = at(9, 10, 11, 12, 13)
    half = (0.1, 0.2, 0.3, 0.4)  # of B's height: IoU 1/2
    assert spatio_temporal_iou(Track(truth, (8.125, 13.483)), truth) == 1, "its own reply"
    assert spatio_temporal_iou(Track(truth), truth) == 1
    assert spatio_temporal_iou(Track(at(9, 10, 11, 12, 13, box=half)), truth) == pytest.approx(1 / 2)
    assert spatio_temporal_iou(Track(at(9, 10)), truth) == pytest.approx(2 / 5), "two of five moments"
    assert spatio_temporal_iou(Track(at(9, 10, 11, 12, 13, 14, 15)), truth) == pytest.approx(5 / 7), "the union has two more"
    assert spatio_temporal_iou(Track(at(9, 13), (7.0, 13.0)), truth) == pytest.approx(5 / 7), "7 and 8 are named, too"
    assert spatio_temporal_iou(Track(at(12, 13, 14, 15)), truth) == pytest.approx(2 / 7)
    assert spatio_temporal_iou(Track(at(0)), truth) == spatio_temporal_iou(Track(at(30)), truth) == 0
    assert spatio_temporal_iou(Track(at(9, 13), (0.0, 1e9)), truth) < 1e-7, "at once, however long"
    mixed = (Region(9.0, B), Region(11.0, half), Region(13.0, (0.7, 0.7, 0.9, 0.9)))
    # 9: 1; 10: halfway to half, (0.1, 0.2, 0.3, 0.5): 0.3 of 0.4; 11: 1/2; 12: (0.4, 0.45, 0.6, 0.65): apart; 13: apart.
    assert spatio_temporal_iou(Track(mixed), truth) == pytest.approx((1 + 0.75 + 0.5) / 5)


def test_viou_as_the_benchmarks_count_frames():
    """VidSTG's and HC-STVG's evaluation on whole frames: the sum over the shared ones, by the number in the union."""
    truth = {frame: (0.1, 0.1, 0.1 + 0.01 * frame, 0.5) for frame in range(20, 40)}
    found = {frame: (0.1, 0.1, 0.45, 0.1 + 0.01 * frame) for frame in range(25, 50)}
    union, shared = truth.keys() | found.keys(), truth.keys() & found.keys()
    expected = sum(iou(truth[frame], found[frame]) for frame in shared) / len(union)
    predicted = Track(tuple(Region(frame / 5, one) for frame, one in sorted(found.items())))
    assert spatio_temporal_iou(predicted, [Region(frame / 5, one) for frame, one in sorted(truth.items())]) == pytest.approx(expected)


def test_parts_of_each_task():
    one = score(question_of("spatial_grounding"), "<think>so</think><answer>[100, 200, 300, 400]</answer>")
    assert one.parts == {"iou": pytest.approx(0.5), "format": 1.0} and correctness(question_of("spatial_grounding"), one, 0.5) == 1
    reply = '<answer>{"time": [8.5, 11.0], "boxes": {"9": [100, 200, 300, 600], "10": [100, 200, 300, 600], "11": [100, 200, 300, 600]}}</answer>'
    both = score(question_of("spatio_temporal_grounding"), reply)
    assert both.parts == {"temporal_iou": pytest.approx(0.5), "st_iou": pytest.approx(3 / 5), "format": 0.0}
    assert score(question_of("tracking"), reply).parts["st_iou"] == pytest.approx(3 / 5)
    assert score(question_of("tracking"), "<answer>left</answer>").reason == "no boxes at times in the answer"
    clipped = question_of("tracking", clip=(8.0, 14.0))
    assert score(clipped, reply.replace('"9"', '"1"').replace('"10"', '"2"').replace('"11"', '"3"').replace("8.5, 11.0", "0.5, 3.0")).parts["st_iou"] == 0.6
    assert all(part in REWARD_PARTS for task in BOX_TASKS for part in REWARD_WEIGHTS[task]) and set(GRADED) == {*BOX_TASKS, "temporal_grounding"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_hedge_pays(data):
    """Of two truths on the same moments, whatever they are and however likely: no reply beats the better guess, for boxes and for tracks."""
    corner = st.integers(0, 9)

    def one_box():
        x, y = data.draw(corner), data.draw(corner)
        return x / 10, y / 10, data.draw(st.integers(x + 1, 10)) / 10, data.draw(st.integers(y + 1, 10)) / 10

    def one_track():
        start = data.draw(st.integers(1, 6))
        return tuple(Region(float(second), one_box()) for second in range(start, data.draw(st.integers(start, 7)) + 1))

    def written(places):
        return json.dumps({"boxes": {f"{region.time_s:g}": [round(1000 * edge) for edge in region.box] for region in places}})

    boxes = [one_box() for _ in range(2)]
    union = tuple(f(pair) for f, pair in zip((min, min, max, max), zip(*boxes, strict=True), strict=True))
    plain = [str([round(1000 * edge) for edge in one]) for one in boxes]
    replies = [str([round(1000 * edge) for edge in one]) for one in (union, one_box(), (0.0, 0.0, 1.0, 1.0))]
    pairs = data.draw(priors(2))
    no_hedge_pays([(asked("spatial_grounding", box=one), p) for one, p in zip(boxes, pairs, strict=True)], plain, [*replies, *hedges(plain)], weights=WEIGHTS)
    tracks = [one_track() for _ in range(2)]
    times = sorted({region.time_s for one in tracks for region in one})
    merged = [{region.time_s: region for region in (*tracks[a], *tracks[1 - a])} for a in (0, 1)]
    tried = [[one[time_s] for time_s in times] for one in merged] + [one_track(), tracks[0][:1]]
    truths = [(asked("tracking", track=one), p) for one, p in zip(tracks, pairs, strict=True)]
    no_hedge_pays(truths, [written(one) for one in tracks], [written(one) for one in tried], weights=WEIGHTS)


# ---- whole pictures


def test_no_view_of_such_a_question_is_a_part_of_the_picture():
    """A box in the original's coordinates would be another one in a crop. What then repeats another view is left out."""
    patches = ((0.9, 0.02), (0.04, 0.04))
    times = [second / 2 for second in range(40)]
    relevance = Relevance(tuple(times), tuple([1 / 40] * 40), patches)
    how = {"times_s_N": times, "frames": 8, "size": (56, 84), "coarse_size": (28, 56), "question_id": "q", "seed": 3, "relevance": relevance}
    cropped, whole = (explore(list(KINDS), **how, whole=one) for one in (False, True))
    assert sum(spec.box is not None for spec in cropped) == 4 and all(spec.box is None for spec in whole)
    kept = [spec.kind for spec in distinct(whole)]
    assert kept == ["uniform", "importance", "importance_jitter", "importance_crop", "multi_scale", "random_jitter"], "crop and random_crop are uniform now"
    image = explore_image(list(KINDS), size=(56, 84), coarse_size=(28, 56), question_id="q", seed=3, relevance=relevance, whole=True)
    assert [spec.kind for spec in together(list(KINDS), [image], question_id="q", seed=3)] == ["uniform", "multi_scale"]
    assert [spec.box for spec in image] == [None] * len(KINDS)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_variant_actor_shows_whole_pictures(family, tmp_path):
    """Through the actor itself, with all kinds: the same question as a choice is cropped."""
    make(tmp_path / "a.mp4", noise=True)
    Image.effect_noise((300, 200), 90).save(tmp_path / "a.png")
    made = actor(family)

    def built(**line):
        prepared, *frames = made.build(parse_line(json.dumps(line), path=tmp_path / "q.jsonl", line=1), tuple(KINDS), 0)
        assert [one is not None for one in frames] == [True] * len(prepared.specs) + [False] * (len(KINDS) - len(prepared.specs))
        return [spec.media[0] if spec.media else spec for spec in prepared.specs]

    image, video = built(**IMAGE), built(**VIDEO)
    assert len(image) == 2 and len(video) > 3 and not any(spec.box for spec in (*image, *video))
    choice = {"task": "multiple_choice", "options": ["a", "b"], "answer": "a", "box": None, "box_size": None, "track": None}
    without = [{key: value for key, value in (line | choice).items() if value is not None} for line in (IMAGE, VIDEO)]
    assert all(any(spec.box for spec in built(**line)) for line in without)
    gaps = [round(after - before, 6) for before, after in zip(video[1].times_s, video[1].times_s[1:], strict=False)]
    assert family == "qwen3_vl" or video[1].kind != "importance" or max(gaps) < 3 * min(gaps), "nearly even times, where the model cannot be told others"


# ---- question files


IMAGE = {"id": "q", "image": "a.png", "question": "Where is the dog?", "task": "spatial_grounding", "box": [100, 200, 300, 600], "box_size": [1000, 1000]}
VIDEO = {
    "id": "t",
    "video": "a.mp4",
    "question": "Follow the dog.",
    "task": "tracking",
    "track": [{"time_s": 0.5, "box": [10, 10, 20, 20]}],
    "box_size": [64, 48],
}


def parsed(**keys):
    line = {key: value for key, value in keys.items() if value is not None}
    return parse_line(json.dumps(line), path="/q.jsonl", line=3)


def test_the_size_that_boxes_count_in():
    assert parsed(**IMAGE).box == pytest.approx(B)
    assert parsed(**IMAGE | {"box": [0.1, 0.2, 0.3, 0.6], "box_size": None}).box == B, "shares where nothing is said"
    assert parsed(**IMAGE | {"box": [64, 96, 192, 288], "box_size": [640, 480]}).box == pytest.approx(B), "pixels of the picture"
    assert parsed(**VIDEO).track == (Region(0.5, (10 / 64, 10 / 48, 20 / 64, 20 / 48)),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (IMAGE | {"box": None}, "box: is missing (a spatial_grounding question needs [x1, y1, x2, y2])"),
        (IMAGE | {"box_size": None}, "box: [100, 200, 300, 600] is no box inside 1 x 1 (write [x1, y1, x2, y2] with 0 <= x1 < x2 <= 1"),
        (IMAGE | {"box": [300, 200, 100, 600]}, "is no box inside 1000 x 1000"),
        (IMAGE | {"box": [1, 2, 3]}, "box: [1, 2, 3] has not four numbers"),
        (IMAGE | {"box_size": [0, 3]}, "box_size: [0, 3] is no size"),
        (IMAGE | {"box_size": 1000}, "box_size: 1000 is not a pair"),
        (IMAGE | {"image": None, "video": "a.mp4"}, "image: a spatial_grounding question shows video (show one image; a place in a video is a track)"),
        (IMAGE | {"image": ["a.png", "b.png"]}, "image: a spatial_grounding question shows image, image"),
        (IMAGE | {"image": None}, "image: a spatial_grounding question shows nothing"),
        (IMAGE | {"task": "open", "answer": "x"}, "box: does not belong to task open"),
        (VIDEO | {"task": "open", "answer": "x"}, "box_size: does not belong to task open"),
        (VIDEO | {"task": "open", "answer": "x", "box_size": None}, "track: does not belong to task open"),
        (VIDEO | {"track": []}, "track: is missing"),
        (VIDEO | {"track": VIDEO["track"] * 2}, "track.time_s: 0.5 does not come after 0.5"),
        (VIDEO | {"track": [{"time_s": 1}]}, 'track: {"time_s": 1} is not whole'),
        (VIDEO | {"video": None, "image": "a.png"}, "video: is missing (a tracking question asks for times of one video)"),
        (VIDEO | {"task": "spatio_temporal_grounding"}, "spans: are missing"),
        (VIDEO | {"task": "spatio_temporal_grounding", "spans": [[0, 1], [2, 3]]}, "spans: there are 2"),
        (VIDEO | {"clip": [1, 2]}, "track: lies outside the clip (1 to 2.00 s)"),
        (VIDEO | {"answers": ["a"]}, "answers: do not belong to task tracking"),
    ],
)
def test_what_is_wrong_is_said(line, message):
    with pytest.raises(QuestionError) as caught:
        parsed(**line)
    assert str(caught.value).startswith("/q.jsonl:3: ") and message in str(caught.value)


def test_a_track_is_cut_to_clip_and_video():
    long = VIDEO | {"track": [{"time_s": second, "box": [10, 10, 20, 20]} for second in range(6)]}
    assert [region.time_s for region in parsed(**long, clip=[1.5, 4.0]).track] == [2.0, 3.0, 4.0]
    assert [region.time_s for region in within_video(parsed(**long), 2.2).track] == [0.0, 1.0, 2.0]
    with pytest.raises(QuestionError, match="track: lies outside the video"):
        within_video(parsed(**VIDEO | {"track": [{"time_s": 9, "box": [10, 10, 20, 20]}]}), 2.2)


def test_prompts_say_how_places_are_written():
    for task in BOX_TASKS:
        text = question_text(question_of(task))
        assert "0 to 1000 of the width and the height" in text and text.splitlines()[1] == INSTRUCTIONS[task]
    assert truth_of(question_of("spatial_grounding")) == '{"boxes": [100, 200, 300, 600]}'
    assert truth_of(question_of("spatio_temporal_grounding", track=at(9))) == '8.5 to 13.5 s, {"boxes": {"9": [100, 200, 300, 600]}}'
    for task in BOX_TASKS:  # the truth, as it is written, is right
        question = question_of(task)
        parts = score(question, f"<answer>{written(question.box, [(one.time_s, one.box) for one in question.track])}</answer>").parts
        assert parts[GRADED[task]] == pytest.approx(1.0)


def test_dumps_and_the_report_tell_the_true_places():
    from rlvid.observe.dumps import group_row
    from rlvid.observe.report.stories import Story, as_json
    from rlvid.types import Group, Prepared, VariantSpec

    for task in BOX_TASKS:
        question = question_of(task)
        prepared = Prepared(question, "", (VariantSpec("uniform", (0.0, 1.0), None, (28, 28), 0),), ({},), 2.0)
        row = json.loads(json.dumps(group_row(Group(prepared, (), (), (), (), (), ("",)))))
        told = as_json(Story(1, row, (), ()), 1000)["places"]
        assert told == written(question.box, [(one.time_s, one.box) for one in question.track]) != ""


# ---- published rows, evaluation, selection


def test_one_thinker_s_rows(tmp_path):
    make(tmp_path / "a.mp4")  # 2 s
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    video = {"data_type": "video", "path": "a.mp4"}
    grounded = {**video, "problem_type": "spatial-temporal grounding"}
    picture = {"data_type": "image", "path": "a.png", "problem_type": "spatial grounding"}
    tracked = '{"boxes": {"1": [405, 230, 654, 463], "2": [1, 2, 3, 4], "32": [5, 6, 7, 8]}}'
    rows = [
        {"problem": "Where?", **picture, "solution": '<answer>{"boxes": [35, 227, 437, 932]}</answer>'},
        {"problem": "Follow.", "problem_type": "tracking", **video, "solution": f"<answer>{tracked}</answer>"},
        {"problem": "Who?", **grounded, "solution": '<answer>{"time": [0.5, 1.5], "boxes": {"1": [317, 422, 582, 997]}}</answer>'},
        {"problem": "Pixels?", **picture, "solution": '{"boxes": [35, 227, 437, 1932]}'},
        {"problem": "When?", **grounded, "solution": '{"boxes": {"1": [317, 422, 582, 997]}}'},
        {"problem": "Late?", "problem_type": "tracking", **video, "solution": '{"boxes": {"30": [317, 422, 582, 997]}}'},
    ]
    report = convert(named("problems"), str(write_lines(tmp_path / "in.jsonl", rows)), tmp_path / "out.jsonl", progress=False)
    assert report.tasks == {"spatial_grounding": 1, "tracking": 1, "spatio_temporal_grounding": 1}
    kinds = {kind: problem.count for kind, problem in report.problems.items()}
    assert kinds == {"solution: not a box": 1, "solution: not boxes at times": 1, "track: beyond the end of the video": 1}
    where, follow, who = iter_questions(tmp_path / "out.jsonl")
    assert where.box == pytest.approx((0.035, 0.227, 0.437, 0.932)) and [medium.kind for medium in where.shown] == ["image"]
    assert [region.time_s for region in follow.track] == [1.0, 2.0] and report.changed == {"track: cut to the video": 1}
    assert who.spans == ((0.5, 1.5),) and who.track[0].box == pytest.approx((0.317, 0.422, 0.582, 0.997))
    assert check(tmp_path / "out.jsonl").ok


def test_held_out_metrics():
    texts = ["[100, 200, 300, 600]", "[100, 200, 300, 400]", "[100, 200, 300, 380]"]
    found = [Answered(question_of("spatial_grounding"), "", score(question_of("spatial_grounding"), f"<answer>{text}</answer>").parts) for text in texts]
    found.append(Answered(question_of("tracking"), "", {"st_iou": 0.4, "format": 0.0}))
    metrics = summarize(found, 0.5)
    assert metrics["eval/iou"] == pytest.approx((1 + 0.5 + 0.45) / 3) and metrics["eval/iou@0.5"] == pytest.approx(2 / 3)
    assert (metrics["eval/st_iou"], metrics["eval/st_iou@0.3"], metrics["eval/st_iou@0.5"]) == (0.4, 1.0, 0.0)
    assert metrics["eval/iou@0.5/spatial_grounding"] == metrics["eval/iou@0.5"]


def test_selection_looks_at_the_iou():
    rules = Rules()
    assert drop_reason(Answers("tracking", (), (0.0, 0.8)), rules) == "" and drop_reason(Answers("tracking", (), (0.1, 0.2)), rules)
    assert Answers("tracking", (), (0.0, 0.8)).statistics()["st_iou_max"] == 0.8


def test_such_questions_are_not_repaired():
    """A hint at a place would be the answer."""
    sampler = Sampler(Config.model_validate(TREE), Variants(), Rollouts())
    sampler.repairer = object()  # whatever asked it would fail
    (group,) = asyncio.run(sampler.collect([replace(question_of("tracking"), video="/v.mp4")], 1, kinds=("uniform",), answers=2, training=True)).groups
    assert group.teacher == {"asks_for_places": 1.0} and group.scores_KM[0][0].parts["st_iou"] == 0


def test_a_question_on_the_model_s_clock():
    told = Question("q", "/v.mp4", "?", "tracking", track=at(9, 10), clip=(8.0, 12.0)).as_told()
    assert [region.time_s for region in told.track] == [1.0, 2.0]
