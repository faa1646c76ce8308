"""The run folder belongs to one process, and notes the settings that its steps are made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvid.config import ConfigError, load
from rlvid.loop.journal import open_journal

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def settings(folder, *overrides):
    return load(CONFIG, [f"run.dir={folder}", "run.name=one", "tracker.kind=none", "report.enabled=false", *overrides])


def test_two_cannot_write_one_run(tmp_path):
    with open_journal(settings(tmp_path)), pytest.raises(ConfigError, match=r"run\.name: .*one is being written by another"), open_journal(settings(tmp_path)):
        pass
    with open_journal(settings(tmp_path)):
        pass


def test_the_settings_are_noted_once_they_are_accepted(tmp_path):
    """A resumed run that is refused for its settings leaves those of the run that was."""
    noted = tmp_path / "one" / "config.yaml"
    with open_journal(settings(tmp_path, "run.seed=1")) as journal:
        assert "seed: 1" in noted.read_text()
        journal.rewind(0)
    with open_journal(settings(tmp_path, "run.seed=2")) as journal:
        assert "seed: 1" in noted.read_text()
        journal.rewind(0)
        assert "seed: 2" in noted.read_text()
