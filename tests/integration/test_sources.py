"""A published file becomes questions, trains a step and is evaluated with the benchmark's own metrics."""

from __future__ import annotations

import pytest

from rlvid.data.questions import iter_questions
from tests.integration.conftest import CONFIG, metrics_of, small_overrides
from tests.unit import published


@pytest.fixture(scope="module")
def converted(world, rlvid, tmp_path_factory):
    """Clips of the quickstart under the names that Charades-STA and Video-MME files give, converted: one question file of both."""
    folder = tmp_path_factory.mktemp("published")
    clips = sorted({question.video for question in iter_questions(world.train)})[:6]
    for at, clip in enumerate(clips):
        (folder / f"V{at}.mp4").symlink_to(clip)
    (folder / "charades_sta_test.txt").write_text("".join(f"V{at} 0.5 1.5##the ball is red.\n" for at in range(3)))
    row = published.VIDEOMME[0] | {"options": ["A. red", "B. green", "C. blue"], "question": "what colour is the ball?"}
    rows = [row | {"videoID": f"V{at}", "question_id": f"{at}", "duration": ("short", "long")[at % 2]} for at in range(6)]
    published.write_parquet(folder / "test.parquet", rows)
    for source, name in (("charades_sta", "charades_sta_test.txt"), ("videomme", "test.parquet")):
        result = rlvid("data", "convert", source, folder / name, folder / f"{source}.jsonl")
        assert result.returncode == 0, result.stdout + result.stderr
    both = folder / "both.jsonl"
    both.write_text((folder / "charades_sta.jsonl").read_text() + (folder / "videomme.jsonl").read_text())
    checked = rlvid("data", "check", both)
    assert checked.returncode == 0 and "9 good questions" in checked.stdout and "0 problems" in checked.stdout
    return both


def test_a_converted_file_trains_and_evaluates(world, rlvid, converted, tmp_path):
    overrides = [
        *small_overrides(world, tmp_path / "runs"),
        "run.steps=1",
        f"data.train={converted}",
        f"data.eval={converted}",
        "data.questions_per_step=8",
        "rollout.max_model_len=768",
    ]
    result = rlvid("train", CONFIG, *overrides)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "quickstart"
    before, after = metrics_of(folder)
    for row in (before, after):
        assert {"eval/charades_sta/R1@0.5", "eval/charades_sta/mIoU", "eval/videomme/accuracy_short", "eval/videomme/accuracy_long"} <= row.keys()
        assert row["eval/questions"] == 9
        assert row["eval/videomme/accuracy"] == pytest.approx((row["eval/videomme/accuracy_short"] + row["eval/videomme/accuracy_long"]) / 2)
        assert row["eval/charades_sta/mIoU"] == pytest.approx(row["eval/temporal_iou"])
