"""Slow, crashing and broken videos through the real pool: nothing healthy is lost, everything bad is named, all actors serve at the end."""

from __future__ import annotations

import pytest

from tests.integration import soak


def test_a_short_soak(tmp_path):
    found = soak.soak(tmp_path, questions=400, files=20, actors=2, deadline_s=3)
    assert soak.whole(found), found
    assert (found["slow questions"], found["crashing questions"], found["broken questions"]) == (40, 20, 20)
    assert found["restarts"] == 2 + 2 * 1, "each slow file costs one actor, each crashing one two"


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_twenty_thousand_questions(tmp_path):
    found = soak.soak(tmp_path, questions=20_000, files=200, actors=4, deadline_s=5)
    assert soak.whole(found), found
