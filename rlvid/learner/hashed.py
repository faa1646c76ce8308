"""Digests of a checkpoint's shards, taken by each rank while it writes: nobody reads 100 GiB back for its manifest."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Digests = dict[str, list[Any]]
"""[bytes, sha256] by a file's name in the checkpoint's folder."""


class HashingFile:
    """What torch.save writes to: a file that adds up what goes into it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        written = self.file.write(data)
        self.size += written
        return written

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


@contextlib.contextmanager
def hashed_while_written(checkpoint_engine: Any, folder: Path) -> Iterator[Digests]:
    """Inside, what DeepSpeed's checkpoint engine saves under `folder` is listed in the digests."""
    import torch

    digests: Digests = {}

    def save(state_dict: Any, path: str) -> None:
        file = HashingFile(Path(path))
        try:
            torch.save(state_dict, file)  # type: ignore[arg-type]
        finally:
            file.close()
        digests[Path(path).relative_to(folder).as_posix()] = [file.size, file.digest.hexdigest()]

    checkpoint_engine.save = save
    try:
        yield digests
    finally:
        del checkpoint_engine.save
