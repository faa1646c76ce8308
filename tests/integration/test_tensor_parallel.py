"""An engine over two workers, without a GPU: weights that change reach both, and are read back from both."""

from __future__ import annotations

import pytest

from tests.integration.conftest import CONFIG, metrics_of


@pytest.mark.long
def test_an_engine_over_two_workers_has_every_push(small, rlvid, tmp_path):
    settings = ["run.name=two", "run.steps=3", "rollout.tensor_parallel=2", "learner.lr=1e-3", "data.eval=null"]
    ended = rlvid("train", CONFIG, *small, *settings, "--verify-sync")
    assert ended.returncode == 0, ended.stderr[-3000:]
    folder = tmp_path / "runs" / "two"
    rows = [row for row in metrics_of(folder) if row["step"]]
    assert [row["sync/version"] for row in rows] == [1, 2, 3]
    assert max(row["mismatch/max_abs_dlogp"] for row in rows) < 2e-5
    said = (folder / "log.txt").read_text()
    assert all(f"weights version {version} on 1 engines, checksum" in said for version in range(4))
