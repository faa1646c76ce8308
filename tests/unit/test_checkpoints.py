"""Checkpoints on disk and behind a URL: only whole ones are used, damage is named, nothing in them runs or leaves its folder."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import uuid
from pathlib import Path

import pytest
import torch

from rlvid.config import ConfigError, load
from rlvid.learner import checkpoints
from rlvid.learner.checkpoints import MANIFEST, CheckpointError, damage, latest, listing, publish, write_aside
from rlvid.learner.storage import Store


class Shards:
    """Stands for the learner: writes what DeepSpeed would, a few files in a folder of their own."""

    def __init__(self, value: object = 1.0) -> None:
        self.value = value

    def save(self, folder: str) -> None:
        shards = Path(folder) / "learner"
        shards.mkdir()
        torch.save({"module": torch.arange(3.0), "value": self.value}, shards / "mp_rank_00_model_states.pt")
        (shards / "note.txt").write_text("x" * 100)


def write(folder: Path, *steps: int, keep: int = 9, storage: str | None = None, shards: object = None) -> None:
    for step in steps:
        publish(write_aside(folder, step, shards or Shards(), {"feed": step * 10}), keep=keep, storage=storage)  # type: ignore[arg-type]


def newest(folder: Path, storage: str | None = None) -> int | None:
    found = latest(folder, storage)
    assert found is None or found[0] == folder / f"step_{found[1]['step']:06d}"
    return found[1]["step"] if found else None


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/far" if request.param == "file" else f"memory://{uuid.uuid4().hex}/far"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


def test_the_newest_is_found_and_the_oldest_dropped(here: Path) -> None:
    assert newest(here) is None
    write(here, 2, 4, 6, keep=2)
    assert [path.name for path in checkpoints.complete(here)] == ["step_000004", "step_000006"]
    folder, state = latest(here) or pytest.fail("none")
    assert folder == here / "step_000006" and state == {"step": 6, "feed": 60}


def test_a_step_is_written_over(here: Path) -> None:
    write(here, 2)
    write(here, 2, shards=Shards("again"))
    assert torch.load(here / "step_000002/learner/mp_rank_00_model_states.pt")["value"] == "again" and not damage(here / "step_000002")


def test_what_was_interrupted_is_never_seen(here: Path) -> None:
    class Torn(Shards):
        def save(self, folder: str) -> None:
            super().save(folder)
            raise KeyboardInterrupt

    write(here, 2)
    with pytest.raises(KeyboardInterrupt):
        write(here, 4, shards=Torn())
    assert newest(here) == 2
    write(here, 4)
    assert newest(here) == 4


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [
        ("learner/mp_rank_00_model_states.pt", cut, "bytes instead of"),
        ("learner/mp_rank_00_model_states.pt", flip, "mp_rank_00_model_states.pt is not as it was written"),
        ("learner/note.txt", Path.unlink, "note.txt is missing"),
        ("state.json", flip, "state.json is not as it was written"),
        (MANIFEST, Path.unlink, "manifest.json is missing"),
        (MANIFEST, cut, "manifest.json cannot be read"),
        ("learner/stowaway.pt", Path.touch, "learner/stowaway.pt is not as it was written"),
    ],
)
def test_a_damaged_one_is_passed_over_with_one_line(here: Path, file: str, harm: object, words: str, caplog: pytest.LogCaptureFixture) -> None:
    write(here, 2, 4)
    harm(here / "step_000004" / file)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING, logger="rlvid"):
        assert newest(here) == 2
    (record,) = caplog.records
    assert "step_000004" in record.getMessage() and words in record.getMessage() and "\n" not in record.getMessage()


def test_a_run_does_not_start_anew_over_damaged_ones(here: Path) -> None:
    write(here, 2)
    flip(here / "step_000002" / "state.json")
    with pytest.raises(CheckpointError, match="whole: put a good copy there, or delete all of them"):
        latest(here)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/rlvid-bomb-went-off",)


def test_a_shard_that_would_run_code_is_refused_unread(here: Path) -> None:
    """Its manifest fits: whoever can write the folder can write that too."""
    write(here, 2)
    write(here, 4, shards=Shards(Bomb()))
    assert "would run posix.system" in damage(here / "step_000004")
    assert newest(here) == 2
    assert not os.path.exists("/tmp/rlvid-bomb-went-off")


def test_a_shard_that_is_a_bare_pickle_is_refused(here: Path) -> None:
    class Bare(Shards):
        def save(self, folder: str) -> None:
            super().save(folder)
            (Path(folder) / "learner" / "bare.pt").write_bytes(pickle.dumps(Bomb()))

    write(here, 2, shards=Bare())
    assert "bare.pt is no checkpoint of torch" in damage(here / "step_000002")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "a\0b", MANIFEST])
def test_a_manifest_cannot_name_other_places(name: str) -> None:
    with pytest.raises(ValueError, match="outside of the checkpoint"):
        listing(json.dumps({"files": {name: [1, "0"], "state.json": [1, "0"]}}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": ["b", "c"]}}', '{"files": {}}'])
def test_a_manifest_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=MANIFEST):
        listing(text)


# --- behind a URL


def test_a_lost_folder_comes_back_from_the_storage(here: Path, url: str) -> None:
    write(here, 2, 4, 6, keep=2, storage=url)
    before = checkpoints.manifest(here / "step_000006")
    assert Store(url).names(MANIFEST) == ["step_000004", "step_000006"]
    shutil.rmtree(here)
    assert newest(here, url) == 6
    assert checkpoints.manifest(here / "step_000006") == before and not damage(here / "step_000006")
    assert [path.name for path in here.iterdir()] == ["step_000006"]


def test_the_newer_place_wins_and_a_damaged_one_is_fetched_anew(here: Path, url: str) -> None:
    write(here, 2, storage=url)
    write(here, 4)
    assert newest(here, url) == 4, "on disk is newer"
    write(here, 6, storage=url)
    shutil.rmtree(here / "step_000006")
    assert newest(here, url) == 6, "in the storage is newer"
    flip(here / "step_000006" / "state.json")
    assert newest(here, url) == 6 and not damage(here / "step_000006")


def test_what_is_damaged_in_the_storage_is_not_used(here: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    write(here, 2, 4, storage=url)
    store = Store(url)
    store.files.pipe_file(f"{store.root}/step_000004/learner/note.txt", b"other")
    shutil.rmtree(here)
    with caplog.at_level(logging.WARNING, logger="rlvid"):
        assert newest(here, url) == 2
    assert "step_000004" in caplog.records[0].getMessage() and url in caplog.records[0].getMessage()
    assert [path.name for path in here.iterdir() if not path.name.startswith(".")] == ["step_000002"]


def test_a_copy_without_its_manifest_is_not_there(here: Path, url: str) -> None:
    write(here, 2, storage=url)
    store = Store(url)
    store.files.rm(f"{store.root}/step_000002/{MANIFEST}")
    shutil.rmtree(here)
    assert newest(here, url) is None


def test_a_hostile_storage_writes_nothing_outside(here: Path, url: str, tmp_path: Path) -> None:
    write(here, 2, storage=url)
    store = Store(url)
    listed = {"state.json": [1, "0"], "../../../escaped": [1, "0"]}
    store.files.pipe_file(f"{store.root}/step_000002/{MANIFEST}", json.dumps({"files": listed}).encode())
    shutil.rmtree(here)
    with pytest.raises(CheckpointError):
        latest(here, url)
    assert not list(tmp_path.rglob("escaped*"))


def test_a_run_goes_on_when_its_storage_fails(here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, logger="rlvid"):
        write(here, 2, storage=f"file://{tmp_path}/file/deeper")
    assert newest(here) == 2
    (record,) = caplog.records
    assert "step_000002 is on disk only" in record.getMessage()


def test_an_unknown_scheme_is_wrong_input() -> None:
    with pytest.raises(ConfigError, match=r"run\.storage: nosuch://x cannot be used"):
        Store("nosuch://x")


def test_a_stage_that_deepspeed_cannot_convert_is_refused(tmp_path):
    config = load(Path(__file__).parents[2] / "configs" / "quickstart.yaml", ["learner.zero_stage=3"])
    state = {"step": 4, "layout": {"learner.zero_stage": 2, "learner.ranks": 1}}
    with pytest.raises(ConfigError, match=r"step_000004 was written by ZeRO stage 2, learner.zero_stage is 3: .*set it back"):
        checkpoints.load(tmp_path / "step_000004", state, None, config)


def test_a_saver_publishes_behind_the_loops_back_and_says_what_went_wrong(tmp_path, monkeypatch):
    config = load(Path(__file__).parents[2] / "configs" / "quickstart.yaml", [f"run.dir={tmp_path}"])
    folder = config.folder / "checkpoints"
    with checkpoints.Saver(config) as saver:
        saver.save(2, Shards(), {"feed": 20})  # type: ignore[arg-type]
        saver.save(4, Shards(), {"feed": 40})  # type: ignore[arg-type]
        assert (folder / "step_000002").is_dir(), "the one before is whole when the next begins"
    assert newest(folder) == 4

    def full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "manifest", full)
        with pytest.raises(OSError, match="No space"), checkpoints.Saver(config) as saver:
            saver.save(6, Shards(), {"feed": 60})  # type: ignore[arg-type]
        with pytest.raises(KeyError), checkpoints.Saver(config) as saver:
            saver.save(6, Shards(), {"feed": 60})  # type: ignore[arg-type]
            raise KeyError("what ended the run comes first")
    assert newest(folder) == 4


def test_other_names_beside_the_checkpoints_are_nobodys(here: Path, url: str) -> None:
    write(here, 2)
    shutil.copytree(here / "step_000002", here / "step_000002-good")
    write(here, 4, 6, keep=1, storage=url)
    assert newest(here) == 6 and (here / "step_000002-good").is_dir() and not (here / "step_000004").exists()
    shutil.copytree(here / "step_000006", here / "step_000009-mine")
    assert newest(here, url) == 6


def test_a_storage_that_cannot_be_reached(here: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With checkpoints on disk the run goes on; without any it must not start anew, there may be some in the storage."""

    def unreachable(self: Store, manifest: str) -> list[str]:
        raise TimeoutError("connect timeout on endpoint")

    monkeypatch.setattr(Store, "names", unreachable)
    with pytest.raises(CheckpointError, match=r"cannot be read .*connect timeout.* is not known"):
        latest(here, url)
    write(here, 2)
    with caplog.at_level(logging.WARNING, logger="rlvid"):
        assert newest(here, url) == 2
    assert "the checkpoints on disk are used" in caplog.text


def test_a_saver_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    config = load(Path(__file__).parents[2] / "configs" / "quickstart.yaml", [f"run.dir={tmp_path}"])
    folder = config.folder / "checkpoints"
    write(folder, 2)
    for left in (".step_000004.writing", ".step_000002.universal", ".step_000002.fetching"):
        (folder / left).mkdir()
    with checkpoints.Saver(config):
        assert [path.name for path in folder.iterdir()] == ["step_000002"]


def test_shards_are_hashed_while_they_are_written(tmp_path):
    """The manifest takes over what the ranks say, which is what is on the disk; a file of another size is read."""
    from rlvid.learner.checkpoints import MANIFEST, manifest
    from rlvid.learner.hashed import hashed_while_written

    class CheckpointEngine:
        def save(self, state_dict, path): ...

    class Rank:
        def save(self, folder):
            (Path(folder) / "learner").mkdir()
            engine = CheckpointEngine()
            with hashed_while_written(engine, Path(folder)) as digests:
                engine.save({"module": torch.arange(1000.0), "step": 3}, f"{folder}/learner/mp_rank_00_model_states.pt")
            return digests

    path = publish(write_aside(tmp_path, 3, Rank(), {}), keep=1)
    listed = json.loads((path / MANIFEST).read_text())["files"]
    assert listed == manifest(path) and set(listed) == {"learner/mp_rank_00_model_states.pt", "state.json"}
    assert damage(path) == ""
    assert torch.equal(torch.load(path / "learner" / "mp_rank_00_model_states.pt")["module"], torch.arange(1000.0))
    told = {"learner/mp_rank_00_model_states.pt": [1, "0" * 64]}
    assert manifest(path, told) == listed
