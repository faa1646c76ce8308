"""A run with overlap, two engines and broken videos loses an engine process, an actor of each pool, and ends as if nothing had been."""

from __future__ import annotations

import json

from benchmarks import chaos
from rlvid.config import load
from tests.integration.conftest import CONFIG, metrics_of, small_overrides

STEPS = 100


def test_an_overlapped_run_survives_kills_and_freezes(world, tmp_path):
    overrides = [
        *small_overrides(world, tmp_path / "runs"),
        f"run.steps={STEPS}",
        "run.save_every=20",
        "data.eval=",
        f"data.train={chaos.with_broken_videos(world.train, tmp_path, share=0.2, seed=3)}",
        "data.max_bad_in_a_row=20",
        "rollout.engines=2",
        "rollout.threads=1",
        "rollout.max_staleness=1",
        "rollout.heartbeat_s=10",
        "variants.actors=2",
        "video.deadline_s=15",
        "sync.mode=keep",
        "report.enabled=false",
    ]
    kinds = ["kill engine process", "kill rollout actor", "kill variant actor", "freeze variant actor"]
    faults = chaos.storm(str(CONFIG), overrides, faults=4, every_s=3, seed=5, kinds=kinds)
    settings = load(CONFIG, overrides)
    assert set(faults.injected) == set(kinds), faults.injected
    assert faults.restarts["rollout engine"] >= 1 and faults.restarts["variant actor"] >= 1, faults.restarts
    assert chaos.slots_problem(settings) == ""
    rows = {row["step"]: row for row in metrics_of(settings.folder)}
    assert [rows[step]["sync/version"] for step in range(1, STEPS + 1)] == list(range(1, STEPS + 1))
    assert {rows[step]["staleness/max"] for step in range(1, STEPS, 20)} == {0}, "nothing is sampled across a checkpoint"
    assert max(row["staleness/max"] for row in rows.values()) == 1
    assert rows[STEPS]["data/quarantined"] > 0
    versions = [slot["versions"] for path in (settings.folder / "rollouts").glob("step_*.jsonl") for slot in map(json.loads, path.open()) if "sample" in slot]
    assert all(stretches[0][0] == 0 for stretches in versions)
