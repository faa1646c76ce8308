"""A real run whose weights travel as patches: vLLM's own matrices, fused, are patched in place, and every push is proven by its checksum."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import CONFIG, metrics_of


@pytest.mark.long
def test_a_sparse_run_pushes_little_and_its_engines_hold_the_learners_weights(small, rlvid):
    """A rate so small that few float32 values change. The first push is whole, and the third after it (sync.full_every)."""
    settings = [*small, "run.steps=4", "data.eval=null", "sync.sparse=true", "sync.full_every=3", "learner.lr=1e-11", "learner.warmup_steps=0"]
    result = rlvid("train", CONFIG, *settings, "run.name=sparse", "--verify-sync")
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [row for row in metrics_of_run(small, "sparse") if "sync/bytes" in row]
    sent = [row["sync/bytes"] for row in rows]
    assert [row["sync/version"] for row in rows] == [1, 2, 3, 4]
    assert sent[0] == sent[3] and 0 < sent[1] < 0.2 * sent[0] and 0 < sent[2] < 0.2 * sent[0], sent


def metrics_of_run(small, name):
    return metrics_of(Path(small[0].removeprefix("run.dir=")) / name)
