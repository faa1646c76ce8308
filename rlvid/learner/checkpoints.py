"""Whole checkpoints only: written aside, flushed, listed with their digests, then renamed; the newest N are kept.

A checkpoint folder holds the learner's shards (`learner/`), `state.json` (step, data cursor, counters and the settings that a
resumed run must share) and `manifest.json` (size and sha256 of every file). What was interrupted half-way keeps its temporary
name and is never seen; what was damaged later does not fit its manifest and is passed over. With a storage URL every checkpoint
is copied there too, and fetched from there where the local one is missing or damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Self

from rlvid.config import Config, ConfigError
from rlvid.learner.group import LearnerGroup
from rlvid.learner.hashed import Digests
from rlvid.learner.storage import PREFIX, Store, is_checkpoint
from rlvid.learner.universal import universal
from rlvid.process.full_disk import said_plainly
from rlvid.process.one_line import first_line

log = logging.getLogger("rlvid")

WRITING = ".writing"
MANIFEST = "manifest.json"
WRITTEN = "digests.json"
"""What the ranks say of the shards they have written, until the manifest takes it over."""
TRUSTED = {
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}
"""The classes, beside torch's own, that DeepSpeed pickles into its shards. DeepSpeed loads shards with the full unpickler, so any other name is refused."""


class CheckpointError(RuntimeError):
    """No checkpoint of the run can be used although there are some."""


class Saver:
    """Writes a run's checkpoints. What needs the learner is done when `save` returns; digests, the rename and copies go on in a thread.

    `with Saver(config) as saver:`. A checkpoint counts once it has its name: a run that dies before goes on from the one before.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = config.folder / "checkpoints"
        for left in self.folder.glob(f".{PREFIX}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._thread = ThreadPoolExecutor(1, "rlvid-checkpoints")
        self._publishing: Future[Path] | None = None

    def save(self, step: int, learner: LearnerGroup, state: dict[str, Any]) -> None:
        """checkpoints/step_NNNNNN. Raises what went wrong with the one before."""
        self.finish()
        aside = write_aside(self.folder, step, learner, state)
        self._publishing = self._thread.submit(publish, aside, keep=self.config.run.keep_checkpoints, storage=self.config.storage)

    def finish(self) -> None:
        """Wait until the last checkpoint has its name and its copy."""
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish()
        except OSError as error:
            if kind is None:
                raise
            log.warning("the last checkpoint was not finished: %s", error)  # what ended the run is said elsewhere
        finally:
            self._thread.shutdown()


def write_aside(folder: Path, step: int, learner: LearnerGroup, state: dict[str, Any]) -> Path:
    """Shards and state under a temporary name, which is returned."""
    aside = folder / f".{PREFIX}{step:06d}{WRITING}"
    with said_plainly("a checkpoint", aside):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if digests := learner.save(str(aside.absolute())):
            _write_json(aside / WRITTEN, digests)
        _write_json(aside / "state.json", {"step": step} | state)
    return aside


def publish(aside: Path, *, keep: int, storage: str | None = None) -> Path:
    """List the files with their digests, give the checkpoint its name, copy it to `storage`, and drop the oldest beyond `keep` in both places."""
    folder, final = aside.parent, aside.with_name(aside.name.removeprefix(".").removesuffix(WRITING))
    told = aside / WRITTEN
    known = json.loads(told.read_text()) if told.exists() else {}
    told.unlink(missing_ok=True)
    with said_plainly("a checkpoint", aside):
        _write_json(aside / MANIFEST, {"files": manifest(aside, known)})
        if final.exists():
            shutil.rmtree(final)
        _flush(aside)
    aside.rename(final)
    _flush_one(folder)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    if storage is not None:
        _copy_away(final, storage, keep)
    return final


def complete(folder: Path) -> list[Path]:
    """Checkpoints that were written to their end, oldest first. Damage since then is `damage`'s matter."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir() and is_checkpoint(path.name))


def latest(folder: Path, storage: str | None = None) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its state; None where there is none at all.

    Raises CheckpointError when all that exist are damaged: a run must not start anew over its own remains.
    """
    store = Store(storage) if storage else None
    here = {path.name for path in complete(folder)}
    there = _stored(store, needed=not here) if store else set()
    for name in sorted(here | there, reverse=True):
        if name in here and _is_whole(folder / name, "on disk"):
            return folder / name, read_state(folder / name)
        if store and name in there and _fetch(store, name, folder):
            return folder / name, read_state(folder / name)
    if here | there:
        places = f"{folder} or {storage}" if storage else str(folder)
        raise CheckpointError(f"no checkpoint in {places} is whole: put a good copy there, or delete all of them to start the run anew")
    return None


def load(folder: Path, state: dict[str, Any], learner: LearnerGroup, config: Config) -> None:
    """Weights, optimizer and scheduler of a checkpoint that `latest` gave, converted first where the ranks are laid out otherwise now."""
    before, now = state["layout"], layout(config)
    if before == now:
        learner.load(str(folder.absolute()), state["step"])
    elif config.learner.lora.rank:
        raise ConfigError(f"{folder.name} holds an adapter and was written with {before}: DeepSpeed converts whole models only; set them back (now {now})")
    elif (before["learner.zero_stage"] == 3) != (now["learner.zero_stage"] == 3):
        stages = f"{before['learner.zero_stage']}, learner.zero_stage is {now['learner.zero_stage']}"
        raise ConfigError(f"{folder.name} was written by ZeRO stage {stages}: DeepSpeed converts between 1 and 2, and between numbers of ranks; set it back")
    else:
        with universal(folder) as converted:
            learner.load(str(converted.absolute()), state["step"], tag="universal")


def manifest(folder: Path, known: Digests | None = None) -> dict[str, list[Any]]:
    """{path inside the folder: [bytes, sha256]} of every file. Hashed in threads: disks are the limit, not the cores.

    known: of files that were hashed while they were written; one that has another size now is read.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    found = {name: told for name, told in (known or {}).items() if sizes.get(name) == told[0]}
    unread = [name for name in files if name not in found]
    with ThreadPoolExecutor(8) as pool:
        digests = dict(zip(unread, pool.map(_sha256, [files[name] for name in unread]), strict=True))
    return {name: found.get(name) or [sizes[name], digests[name]] for name in files}


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty when it is whole and safe to load."""
    try:
        listed = listing((folder / MANIFEST).read_text())
        for name, (size, _) in listed.items():
            if (there := (folder / name).stat().st_size) != size:
                return f"{name} has {there} bytes instead of {size}"
        found = manifest(folder)
        wrong = [name for name in sorted(listed | found) if listed.get(name) != found.get(name)]
        return f"{wrong[0]} is not as it was written" if wrong else _foreign_code(folder)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return first_line(error)


def listing(text: str) -> dict[str, list[Any]]:
    """The files of a manifest. Raises ValueError for one that names a place outside the checkpoint."""
    try:
        files = json.loads(text)["files"]
        listed = {str(name): [int(size), str(digest)] for name, (size, digest) in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{MANIFEST} cannot be read") from None
    for name in listed:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name or name == MANIFEST:
            raise ValueError(f"{MANIFEST} names {name[:80]!r}, which is outside of the checkpoint")
    if "state.json" not in listed:
        raise ValueError(f"{MANIFEST} does not name state.json")
    return listed


def fingerprint(config: Config) -> dict[str, Any]:
    """What a run must not change when it goes on: the meaning of its seeds, its weights' layout, its groups."""
    return {
        "run.seed": config.run.seed,
        "model.path": config.model.path,
        "the checkpoint in model.path": _model_digest(Path(config.model.path)),
        "data.questions_per_step": config.data.questions_per_step,
        "variants.kinds": list(config.variants.kinds),
        "rollout.answers": config.rollout.answers,
        "learner.lora": config.learner.lora.model_dump(mode="json", exclude={"dropout"}) if config.learner.lora.rank else None,
    }


def layout(config: Config) -> dict[str, int]:
    """How the learner's shards are laid out. A run that goes on with another layout has its checkpoint converted. `bf16_optimizer`: DeepSpeed has another class
    for ZeRO stage 1 where bfloat16 gradients are summed in float32; checkpoints that do not say are of the usual one."""
    own_class = config.sums_in_float32 and config.learner.zero_stage == 1 and not config.learner.offload_optimizer
    return {"learner.zero_stage": config.learner.zero_stage, "learner.ranks": config.learner.ranks} | ({"bf16_optimizer": 1} if own_class else {})


def check_same_run(config: Config, state: dict[str, Any]) -> None:
    """Raise ConfigError when the resumed run's settings do not fit the checkpoint."""
    for key, value in fingerprint(config).items():
        before = state["fingerprint"].get(key)
        if before != value:
            raise ConfigError(f"{key} is {value!r}, but run {config.run.name} was made with {before!r}: set it back, or choose another run.name")


def _model_digest(folder: Path) -> str:
    """Fingerprint of a checkpoint folder: contents of its small files, names and sizes of the large ones. A hub id has none."""
    parts = [(path.name, path.stat().st_size, path.read_bytes() if path.stat().st_size < 2**26 else b"") for path in sorted(folder.glob("*")) if path.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _is_whole(folder: Path, where: str) -> bool:
    problem = damage(folder)
    if problem:
        log.warning("checkpoint %s %s is passed over: %s", folder.name, where, problem)
    return not problem


def _stored(store: Store, *, needed: bool) -> set[str]:
    """Names of the checkpoints in a storage. Where it cannot be reached, those on disk do; without any, CheckpointError: there may be a run to go on with."""
    try:
        return set(store.names(MANIFEST))
    except Exception as error:  # every storage has errors of its own
        what = f"{store.url} cannot be read ({type(error).__name__}: {error})"
        if needed:
            raise CheckpointError(f"run.storage: {what}: whether the run has checkpoints there is not known") from None
        log.warning("%s: the checkpoints on disk are used", what)
        return set()


def _fetch(store: Store, name: str, folder: Path) -> bool:
    """Bring a checkpoint from the storage; it takes its name here only when it is whole."""
    aside = folder / f".{name}.fetching"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        files = listing(text := store.read(f"{name}/{MANIFEST}"))
        store.download(name, list(files), aside)
        (aside / MANIFEST).write_text(text)
    except Exception as error:  # every storage has errors of its own
        log.warning("checkpoint %s in %s is passed over: %s: %s", name, store.url, type(error).__name__, error)
        return False
    if not _is_whole(aside, f"in {store.url}"):
        return False
    shutil.rmtree(folder / name, ignore_errors=True)
    aside.rename(folder / name)
    log.info("fetched checkpoint %s from %s", name, store.url)
    return True


def _copy_away(checkpoint: Path, storage: str, keep: int) -> None:
    # The one broad except of this module: every storage has errors of its own, and a run that has its checkpoint on disk goes on without the copy.
    try:
        store = Store(storage)
        store.upload(checkpoint, [*listing((checkpoint / MANIFEST).read_text()), MANIFEST])
        for old in store.names(MANIFEST)[:-keep]:
            store.remove(old, MANIFEST)
    except Exception as error:
        log.warning("checkpoint %s is on disk only, it could not be copied to %s: %s: %s", checkpoint.name, storage, type(error).__name__, error)


def _foreign_code(folder: Path) -> str:
    """The first name in a pickled shard that DeepSpeed does not put there. Read from the pickle's text: nothing is executed."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    for path in sorted(folder.rglob("*.pt")):
        try:
            strange = set(get_unsafe_globals_in_checkpoint(str(path))) - TRUSTED
        except Exception as error:  # each kind of broken file has an error of its own
            return f"{path.name} is no checkpoint of torch ({type(error).__name__})"
        if strange:
            return f"{path.name} would run {min(strange)} when it is loaded"
    return ""


def read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "state.json").read_text())


def _flush(folder: Path) -> None:
    """Bring a folder and all in it to the disk: a power cut after the rename must not leave a name without its content."""
    for path in (*folder.rglob("*"), folder):
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with path.open("w") as file:
        json.dump(value, file, indent=1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
