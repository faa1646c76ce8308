"""What DeepSpeed really writes, at every ZeRO stage: whole, free of foreign code, and loaded again to the same weights. And where a rank listens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import CONFIG

ONE_RANK = """
import socket
import sys

import psutil

from pathlib import Path
from rlvid.config import load
from rlvid.learner.checkpoints import damage, latest, publish, write_aside
from rlvid.learner.rank import Meeting, Rank

folder, *overrides = sys.argv[1:]
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
rank = Rank(load(CONFIG, overrides), 0)
rank.start(Meeting("127.0.0.1", port))
print("listens:", sorted({c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"}))
before = rank.checksum()
path = publish(write_aside(Path(folder), 3, rank, {}), keep=1)
print("damage:", damage(path) or "none")
rank.perturb(0.1)
assert rank.checksum() != before
rank.load(str(latest(Path(folder))[0].absolute()), 1)
print("same:", rank.checksum() == before)
"""


@pytest.mark.parametrize(("stage", "dtype"), [(1, "bfloat16"), (2, "float32"), (3, "float32"), (3, "bfloat16")])
def test_shards_hold_no_foreign_code(world, tmp_path: Path, stage: int, dtype: str) -> None:
    script = tmp_path / "one_rank.py"
    script.write_text(f"CONFIG = {str(CONFIG)!r}\n{ONE_RANK}")
    settings = [f"model.path={world.model}", f"learner.zero_stage={stage}", f"model.dtype={dtype}"]
    result = subprocess.run(
        [sys.executable, script, tmp_path / "checkpoints", *settings],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    assert "damage: none" in lines, lines
    assert "same: True" in lines, lines
    assert "listens: ['127.0.0.1']" in lines, lines
