from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.wandb_server import serve


@pytest.fixture
def wandb_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A stand-in for wandb's service, and an environment without anybody's settings."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nobody's login or settings
    wandb.teardown()  # it reads the environment once per service
    with serve() as server:
        yield server
        wandb.teardown()
    assert not server.unknown, server.unknown
