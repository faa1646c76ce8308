"""The evidence patch: strict in, exact out."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.teacher.patch import MAX_HINT_CHARS, PatchError, parse, schema, to_json
from rlvid.types import EvidencePatch, Region

DURATION_S = 10.0
GOOD = {
    "error_class": "temporal",
    "hint": "Look at 3.0 s.",
    "spans": [[2.5, 4]],
    "frames_s": [3.0],
    "regions": [{"time_s": 3.0, "box": [0.1, 0.2, 0.5, 0.6]}],
}


def refusal(value: object) -> str:
    with pytest.raises(PatchError) as caught:
        parse(value, duration_s=DURATION_S)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 200
    return message


def test_a_good_patch_reads_as_it_stands():
    patch = parse(json.dumps(GOOD), duration_s=DURATION_S)
    assert patch == EvidencePatch("temporal", "Look at 3.0 s.", ((2.5, 4.0),), (3.0,), (Region(3.0, (0.1, 0.2, 0.5, 0.6)),))


times = st.floats(0, DURATION_S, allow_nan=False)
boxes = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.5, 1), st.floats(0.5, 1))
patches = st.builds(
    EvidencePatch,
    error_class=st.sampled_from(["temporal", "spatial", "misconception"]),
    hint=st.text("abcäß请 3.", min_size=1, max_size=50).map(lambda text: " ".join(text.split())).filter(bool),
    spans=st.lists(st.tuples(times, times).filter(lambda span: span[0] < span[1]), max_size=3).map(tuple),
    frames_s=st.lists(times, min_size=1, max_size=3).map(tuple),
    regions=st.lists(st.builds(Region, times, boxes), max_size=3).map(tuple),
)


@settings(deadline=None)
@given(patches)
def test_json_and_back(patch):
    assert parse(json.dumps(to_json(patch)), duration_s=DURATION_S) == patch


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "B"}, "unknown key 'answer'"),
        ({"error_class": "other"}, "error_class"),
        ({"error_class": ["temporal"]}, "error_class"),
        ({"hint": ""}, "hint"),
        ({"hint": 3}, "hint"),
        ({"hint": "x" * (MAX_HINT_CHARS + 1)}, "401 characters"),
        ({"hint": "look\u200bhere"}, "cannot be printed"),
        ({"hint": "look\u0000here"}, "cannot be printed"),
        ({"hint": "see <answer>B</answer>"}, "markup"),
        ({"hint": "see <|video_pad|>"}, "markup"),
        ({"spans": [[3, 11]]}, "11 s lies outside the video of 10 s"),
        ({"spans": [[-1, 3]]}, "outside the video"),
        ({"spans": [[4, 3]]}, "does not end after it starts"),
        ({"spans": [[3]]}, "not [start_s, end_s]"),
        ({"spans": "3-4"}, "not a list"),
        ({"spans": [[1, 2]] * 9}, "9 entries"),
        ({"frames_s": [math.nan]}, "not finite"),
        ({"frames_s": [True]}, "not a number"),
        ({"frames_s": ["3"]}, "not a number"),
        ({"frames_s": [10**400]}, "not finite"),
        ({"regions": [{"time_s": 3, "box": [0, 0, 1.2, 1]}]}, "not inside 0..1"),
        ({"regions": [{"time_s": 3, "box": [0.5, 0, 0.5, 1]}]}, "not inside 0..1"),
        ({"regions": [{"time_s": 3, "box": [0, 0, 1]}]}, "four numbers"),
        ({"regions": [{"time_s": 30, "box": [0, 0, 1, 1]}]}, "outside the video"),
        ({"regions": [{"time_s": 3, "box": [0, 0, 1, 1], "label": "cup"}]}, "unknown key 'label'"),
        ({"regions": [[3, 0, 0, 1, 1]]}, "a region is not"),
        ({"spans": [], "frames_s": [], "regions": []}, "names no span"),
    ],
)
def test_everything_else_is_refused_in_one_line(change, words):
    assert words in refusal(GOOD | change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(GOOD)[:-5], "not JSON"),
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        (json.dumps(GOOD).replace("3.0", "NaN"), "NaN"),
        ('{"hint": "a", "hint": "b"}', "stands twice"),
        ("[" * 100_000, "characters"),
        ("[" * 15_000, "usable JSON"),
        ("Here it is: " + json.dumps(GOOD), "not JSON"),
    ],
)
def test_text_that_is_no_patch(text, words):
    assert words in refusal(text)


@pytest.mark.parametrize("key", GOOD)
def test_no_key_may_be_missing(key):
    assert key in refusal({name: value for name, value in GOOD.items() if name != key})


def test_the_schema_takes_what_parse_takes():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(GOOD, schema(DURATION_S))
    for wrong in ({"frames_s": [11]}, {"hint": ""}, {"error_class": "x"}, {"extra": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(GOOD | wrong, schema(DURATION_S))
