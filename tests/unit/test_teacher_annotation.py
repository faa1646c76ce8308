"""The annotation teacher: what the dataset knows, said so that nothing is given away."""

from __future__ import annotations

import asyncio

import pytest

from rlvid.teacher.annotation import AnnotationTeacher, patches
from rlvid.teacher.guard import patch_leak
from rlvid.teacher.protocol import TeacherRequest
from rlvid.types import Evidence, Question, Region

BOX = (0.1, 0.1, 0.2, 0.2)


def ask(**fields) -> Question:
    known = {"id": "q", "video": "v.mp4", "question": "What colour is it?", "task": "multiple_choice", "options": ("red", "blue"), "answer": "red"}
    return Question(**known | {"evidence": Evidence(((3.0, 5.0),), (Region(4.0, BOX),))} | fields)


def find(question: Question, duration_s: float = 10.0):
    return asyncio.run(AnnotationTeacher().find(TeacherRequest(question, "no", duration_s)))


def test_the_hint_names_time_and_place_and_nothing_else():
    reply = find(ask())
    assert reply.outcome == "patch" and reply.patch is not None
    assert reply.patch.hint == "Look closely between 3.0 s and 5.0 s, in the top left part of the frame."
    assert (reply.patch.spans, reply.patch.regions, reply.patch.error_class) == (((3.0, 5.0),), (Region(4.0, BOX),), "temporal")


def test_no_place_where_a_place_is_asked_for():
    reply = find(ask(question="Where is the cup at the end?", options=("left", "right"), answer="left"))
    assert reply.patch is not None and reply.patch.hint == "Look closely between 3.0 s and 5.0 s." and reply.leaked == 1


def test_no_span_where_its_length_is_asked_for():
    reply = find(ask(question="How many seconds does it last?", task="numeric", options=(), answer="2"))
    assert reply.patch is not None and reply.patch.hint == "Look closely at 4.0 s." and not reply.patch.spans


@pytest.mark.parametrize("task", ["temporal_grounding", "grounded_qa"])
def test_where_a_span_is_asked_for_one_moment_inside_it_is_shown_and_not_told(task):
    question = ask(task=task, options=(), answer="red", spans=((3.0, 5.0),), evidence=Evidence(((3.0, 5.0),), tuple(Region(t, BOX) for t in (3.0, 4.2, 4.9))))
    patch = find(question).patch
    assert (
        patch is not None
        and patch.hint == "Look for what is seen in the evidence, in the top left part of the frame."
        and patch.spans == ()
        and patch.regions == (Region(4.2, BOX),)
    )
    assert patch_leak(question, patch) == ""


def test_the_moment_is_drawn_and_not_the_middle():
    """By the question's id, off the edges and out of the middle third; the same every time."""
    places = []
    for at in range(300):
        question = ask(id=f"q{at}", task="temporal_grounding", options=(), answer=None, spans=((20.0, 29.0),), evidence=Evidence(((20.0, 29.0),)))
        patch = find(question, 60.0).patch
        assert patch is not None and patch == find(question, 60.0).patch and patch_leak(question, patch, duration_s=60.0) == ""
        places.append((patch.frames_s[0] - 20.0) / 9.0)
    assert all(0.05 < place < 0.35 or 0.65 < place < 0.95 for place in places)
    assert 0.4 < sum(place < 0.5 for place in places) / 300 < 0.6 and len(set(places)) > 30


@pytest.mark.parametrize("length_s", [0.05, 0.2, 0.5, 1.0, 3.0])
def test_short_spans_have_a_moment_inside(length_s):
    question = ask(task="temporal_grounding", options=(), answer=None, spans=((3.0, 3.0 + length_s),), evidence=Evidence())
    (patch,) = patches(question)
    assert 3.0 <= patch.frames_s[0] <= 3.0 + length_s


def test_a_clip_s_evidence_is_told_from_its_start():
    """Files are in seconds of the film; the hint, the patch and the student's clock start with the clip."""
    film = ask(clip=(100.0, 110.0), evidence=Evidence(((103.0, 105.0),), (Region(104.0, BOX),)))
    patch = find(film, duration_s=600.0).patch
    assert patch is not None and patch == find(ask(), duration_s=10.0).patch
    late = find(ask(clip=(100.0, 110.0), evidence=Evidence(((112.0, 113.0),))), duration_s=600.0)
    assert late.patch is None and "outside the video" in late.reason


def test_things_that_move_are_shown_whole():
    moving = Evidence(((0.0, 4.0),), (Region(0.0, BOX), Region(2.0, (0.5, 0.1, 0.6, 0.2)), Region(3.9, (0.8, 0.1, 0.9, 0.2))))
    patch = find(ask(question="Which way does it move?", options=("left", "right"), answer="right", evidence=moving)).patch
    assert patch is not None and patch.regions == () and patch.frames_s == (0.0, 2.0, 3.9) and "part" not in patch.hint


def test_without_evidence_there_is_no_patch():
    reply = find(ask(evidence=Evidence()))
    assert reply.patch is None and reply.outcome == "none" and reply.reason
    assert patches(ask(evidence=Evidence())) == []


def test_evidence_outside_the_video_is_refused():
    reply = find(ask(), duration_s=4.0)
    assert reply.patch is None and reply.outcome == "refused" and "outside the video" in reply.reason
