"""The Robust Improvement Reward."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvid.algo.repair import alignment, position, rationale_of
from rlvid.algo.repair import robust_improvement_reward as rir
from rlvid.types import EvidencePatch, Region


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (dict(first_correct=True, first_reward=2.0, repaired_reward=None), 2.0),
        (dict(first_correct=True, first_reward=2.0, repaired_reward=9.0), 2.0),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=2.0), 1.7),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=1.0), 0.7),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=0.0), -0.3),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=None), 1.0),
        (dict(first_correct=False, first_reward=1.0, repaired_reward=None, alignment=1.0), 1.0),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=2.0, alignment=1.0), 1.9),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=2.0, alignment=0.5, kappa=0.5, alpha=0.4), 1.7),
        (dict(first_correct=False, first_reward=0.0, repaired_reward=2.0, kappa=0.0, alpha=0.0, alignment=1.0), 2.0),
    ],
)
def test_the_paper_s_values_and_the_alignment_bonus(slot, value):
    assert rir(**slot) == pytest.approx(value)


@given(st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_repaired_slot_never_outranks_the_same_reward_unaided(reward, alignment, one, other):
    alpha, kappa = sorted((one, other))
    repaired = rir(first_correct=False, first_reward=0.0, repaired_reward=reward, kappa=kappa, alpha=alpha, alignment=alignment)
    assert repaired <= rir(first_correct=True, first_reward=reward, repaired_reward=None, kappa=kappa, alpha=alpha) + 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        dict(alpha=0.4),
        dict(alpha=-0.1),
        dict(kappa=-0.1, alpha=-0.2),
        dict(kappa=math.nan),
        dict(kappa=math.inf, alpha=math.inf),
        dict(alpha=math.nan),
        dict(alignment=1.1),
        dict(alignment=-0.1),
        dict(alignment=math.nan),
        dict(first_reward=math.nan),
        dict(repaired_reward=math.inf),
    ],
)
@pytest.mark.parametrize("first_correct", [True, False])
def test_nonsense_is_refused(wrong, first_correct):
    with pytest.raises(ValueError):
        rir(**(dict(first_correct=first_correct, first_reward=1.0, repaired_reward=1.0) | wrong))


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        (dict(first_correct=True, first_reward=2.0, repaired_reward=None), 2.0),  # right at once
        (dict(first_correct=False, first_reward=1.0, repaired_reward=2.0, alignment=0.0), 1.7),  # repaired right: 2 - 0.3
        (dict(first_correct=False, first_reward=1.0, repaired_reward=2.0, alignment=0.5), 1.8),  # ... + 0.2 x 0.5
        (dict(first_correct=False, first_reward=1.0, repaired_reward=2.0, alignment=1.0), 1.9),  # ... + 0.2 x 1
        (dict(first_correct=False, first_reward=1.0, repaired_reward=1.0, alignment=0.0), 0.7),  # repaired, still wrong, well formatted: 1 - 0.3
        (dict(first_correct=False, first_reward=1.0, repaired_reward=None, alignment=0.0), 1.0),  # no patch: unchanged
        (dict(first_correct=False, first_reward=0.0, repaired_reward=None, alignment=0.0), 0.0),
    ],
)
def test_the_table_of_slot_values(slot, value):
    assert rir(**slot, kappa=0.3, alpha=0.2) == pytest.approx(value)


TOP_LEFT, MIDDLE = (0.0, 0.0, 0.2, 0.2), (0.4, 0.4, 0.6, 0.6)
PATCH = EvidencePatch("temporal", "h", ((3.0, 5.0), (8.0, 9.0)), (12.0,), (Region(4.0, TOP_LEFT),))


@pytest.mark.parametrize(
    ("rationale", "share"),
    [
        ("", 0.0),
        ("I see a ball.", 0.0),
        ("At 4 s there is a ball.", 0.25),  # first span
        ("At 2.6 s there is a ball.", 0.25),  # 0.4 s before the span, tolerance 0.5
        ("At 2.4 s there is a ball.", 0.0),  # 0.6 s before
        ("At 5.5 s and 7.5 seconds.", 0.5),  # both spans, at the tolerance
        ("Between 3 and 5 it rolls, from 8.5 s on it rests.", 0.5),
        ("Bei Sekunde 4, in der Mitte.", 0.25),
        ("第4秒", 0.25),
        ("At 0:04, 0:08 and 0:12 the ball is in the upper left corner.", 1.0),
        ("At 11.6 s.", 0.25),  # the frame at 12, 0.4 off
        ("In the left half.", 0.0),  # the region is at the top left: both must be named
        ("Top left of the frame.", 0.25),
        ("At (0.1, 0.1) I see it.", 0.25),  # a point in the box
        ("At (0.3, 0.1) I see it.", 0.0),
        ("The box [0.0, 0.0, 0.2, 0.3] shows it.", 0.25),  # IoU 0.04 / 0.06
        ("The box [0.0, 0.0, 0.9, 0.9] shows it.", 0.0),
        ("4 balls and 12 cups.", 0.0),  # numbers, not times
    ],
)
def test_alignment_by_hand(rationale, share):
    assert alignment(PATCH, rationale, 0.5) == pytest.approx(share)


def test_alignment_of_a_patch_that_cites_nothing_is_zero():
    assert alignment(EvidencePatch("temporal", "h"), "At 4 s, top left.", 0.5) == 0.0


def test_a_list_of_all_seconds_refers_to_little():
    """Four pieces, so the first sixteen times count; a rationale that recites the clock would otherwise earn the whole bonus."""
    late = EvidencePatch("temporal", "h", ((100.0, 101.0), (110.0, 111.0)), (120.0,), (Region(100.0, MIDDLE),))
    assert alignment(late, " ".join(f"{second} s" for second in range(200)), 0.5) == 0.0


@pytest.mark.parametrize("box", [TOP_LEFT, MIDDLE, (0.7, 0.4, 0.9, 0.6), (0.4, 0.7, 0.6, 0.9), (0.05, 0.75, 0.25, 0.95)])
@pytest.mark.parametrize(
    "hedge",
    [
        "left, right, top, bottom and centre",
        "Links, rechts, oben, unten und in der Mitte.",
        "à gauche, à droite, en haut, en bas, au centre",
        "左边、右边、上面、下面、中间",
        "at the left or at the right, near the top or the bottom",
        " ".join(f"({x / 10}, {y / 10})" for x in range(1, 10) for y in range(1, 10)),
        " ".join(f"[{x / 4}, {y / 4}, {(x + 1) / 4}, {(y + 1) / 4}]" for x in range(4) for y in range(4)),
        "(0.1, 0.1) (0.5, 0.5) (0.8, 0.5) (0.5, 0.8)",
    ],
)
def test_a_list_of_all_places_refers_to_none(hedge, box):
    one = EvidencePatch("spatial", "h", regions=(Region(4.0, box),))
    assert alignment(one, hedge, 0.5) == 0.0


def test_places_of_all_regions_may_be_named():
    both = EvidencePatch("spatial", "h", regions=(Region(4.0, TOP_LEFT), Region(4.0, (0.8, 0.4, 0.9, 0.6))))
    assert alignment(both, "The cup at the top left, the hand at the right.", 0.5) == 1.0
    assert alignment(both, "The cup at the top left. So the right answer is red, that's right.", 0.5) == 0.5
    assert alignment(both, "(0.1, 0.1) and (0.85, 0.5)", 0.5) == 1.0


def test_times_beside_the_evidence_make_a_list_of_the_clock():
    """A list of all seconds hits every piece of a short video's evidence; most of it lies beside them."""
    patch = EvidencePatch("temporal", "h", ((3.0, 4.0),), (8.0,), (Region(6.0, MIDDLE),))
    assert alignment(patch, ", ".join(f"{second} s" for second in range(10)), 0.4) == 0.0
    assert alignment(patch, "At 1 s nothing, at 3 s the hand, at 8 s the cup.", 0.4) == pytest.approx(2 / 3)


def test_an_answered_span_is_no_rationale():
    text = "<think>I look at 4 s.</think> <answer>8 s to 9 s</answer>"
    assert rationale_of(text).strip() == "<think>I look at 4 s.</think>"
    assert alignment(PATCH, rationale_of(text), 0.5) == pytest.approx(0.25)
    assert "12 s" not in rationale_of("<answer>12 s")


def test_positions_on_a_grid_of_thirds():
    assert position(TOP_LEFT) == {"left", "top"} and position(MIDDLE) == {"centre"}
    assert position((0.8, 0.4, 0.9, 0.6)) == {"right"} and position((0.4, 0.8, 0.6, 1.0)) == {"bottom"}


@given(st.text(max_size=200), st.floats(0, 100))
def test_alignment_is_a_share_whatever_the_text(rationale, tolerance_s):
    assert 0 <= alignment(PATCH, rationale, tolerance_s) <= 1
