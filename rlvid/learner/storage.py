"""Checkpoints beyond this machine: any place that fsspec can reach (s3://, gs://, az://, file://, memory://).

A storage has no rename, so a checkpoint there counts from the moment its manifest is there: it is written last and removed first.
Credentials come from the environment, as each storage's own package reads them; an address with a password is refused by the config.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rlvid.config import ConfigError

PREFIX = "step_"


def is_checkpoint(name: str) -> bool:
    """Is it the name of a checkpoint of ours? A copy that somebody keeps beside them under a name of its own is not."""
    return re.fullmatch(rf"{PREFIX}\d{{6,}}", name) is not None


class Store:
    """One folder of checkpoints behind a URL. Raises ConfigError when no installed package knows the URL's scheme."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            # Listings are never cached: another node writes here too.
            self.files, self.root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"run.storage: {url} cannot be used ({error})") from None
        self.url = url

    def names(self, manifest: str) -> list[str]:
        """Whole checkpoints, oldest first."""
        if not self.files.exists(self.root):
            return []
        folders = sorted(str(path).rstrip("/").rpartition("/")[2] for path in self.files.ls(self.root, detail=False))
        return [name for name in folders if is_checkpoint(name) and self.files.exists(f"{self.root}/{name}/{manifest}")]

    def read(self, path: str) -> str:
        return str(self.files.cat_file(f"{self.root}/{path}").decode())

    def upload(self, folder: Path, names: Sequence[str]) -> None:
        """Copy the named files of a checkpoint folder, the last name (its manifest) after all others are there."""
        *files, manifest = names
        self.remove(folder.name, manifest)
        for batch in (files, [manifest]):
            for parent in {self._at(folder.name, name).rpartition("/")[0] for name in batch}:
                self.files.makedirs(parent, exist_ok=True)
            self.files.put([str(folder / name) for name in batch], [self._at(folder.name, name) for name in batch])

    def download(self, checkpoint: str, names: Sequence[str], folder: Path) -> None:
        """Copy the named files into a local folder. The names must have been checked: they become paths."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self.files.get([self._at(checkpoint, name) for name in names], [str(folder / name) for name in names])

    def remove(self, checkpoint: str, manifest: str) -> None:
        """Drop a checkpoint, its manifest first."""
        for path in (self._at(checkpoint, manifest), f"{self.root}/{checkpoint}"):
            if self.files.exists(path):
                self.files.rm(path, recursive=True)

    def _at(self, checkpoint: str, name: str) -> str:
        return f"{self.root}/{checkpoint}/{name}"
