"""A step whose rewards are more than quick rules: formulas, boxes, tracks, a judge that sees what the student saw. Real Ray and engine; HTTP on loopback."""

from __future__ import annotations

import json

from PIL import Image

from tests.integration.conftest import CONFIG, metrics_of, slots_of, small_overrides
from tests.unit.endpoint import serve
from tests.unit.test_judge import seeing


def test_a_step_with_formulas_boxes_tracks_and_a_judge_that_sees(world, rlvid, tmp_path):
    row = next(row for row in map(json.loads, world.train.read_text().splitlines()) if row["source"] == "colour")
    clip = str(world.train.parent / row["video"])
    Image.effect_noise((96, 64), 80).save(tmp_path / "a.png")
    common = {"question": row["question"]}
    lines = [
        {**common, "id": "formula", "task": "math", "answer": "\\frac{1}{2}"},
        {**common, "id": "box", "image": "a.png", "task": "spatial_grounding", "box": [100, 200, 300, 600], "box_size": [1000, 1000]},
        {**common, "id": "track", "video": clip, "task": "tracking", "track": [{"time_s": 0.5, "box": [0.1, 0.2, 0.3, 0.6]}]},
        {**common, "id": "open", "video": clip, "task": "open", "answer": "it is a thing that turns slowly to the left"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serve() as script:
        seeing.script, script.steps = script, [seeing]
        settings = [*small_overrides(world, tmp_path), f"data.train={tmp_path / 'q.jsonl'}", "data.eval=null", "run.name=rewards", "run.steps=2"]
        settings += ["variants.kinds=[uniform, random_crop, multi_scale]", "advantage.drop_zero_signal=false", "run.dump_rollouts=true"]
        settings += ["reward.judge.model=m", f"reward.judge.base_url={script.url}", "reward.judge.frames=2", f"reward.judge.cache_dir={tmp_path / 'verdicts'}"]
        settings += ["reward.judge.price_in=1", "reward.judge.price_out=2"]
        ended = rlvid("train", CONFIG, *settings, timeout=600)
        bodies = script.asked
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = [one for one in metrics_of(tmp_path / "rewards") if one["step"]]
    assert first["data/quarantined"] == 0 and first["reward_calls/math"] == 4, "text alone has one view"
    assert {"reward/iou", "reward/st_iou", "reward/accuracy"} <= first.keys()
    assert first["judge/asked"] > 0 and first["judge/pictures"] >= 2 * first["judge/asked"] and first["judge/failed"] == 0 and first["judge/cost"] > 0
    assert all(len([part for part in body["messages"][1]["content"] if part["type"] == "image_url"]) == 2 for body in bodies)
    assert second.get("judge/asked", 0) + second.get("judge/cached", 0) > 0
    specs = {(slot["question_id"], slot["spec"]["kind"]): slot["spec"] for slot in slots_of(tmp_path / "rewards", 1)}
    assert not any(spec["box"] or any(one["box"] for one in spec.get("media", ())) for (id, _), spec in specs.items() if id in ("box", "track"))
    assert specs["open", "random_crop"]["box"] and {kind for id, kind in specs if id == "track"} == {"uniform", "multi_scale"}
