"""What a submitted job takes along: the code and configs of a folder in one small zip, without videos, weights, runs, environments and keys."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rlvid.config import ConfigError

FOLDERS = (
    ".git",
    ".hg",
    ".venv",
    "venv",
    "__pycache__",
    "node_modules",
    ".quickstart",
    "runs",
    "wandb",
    "checkpoints",
    "export",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
)
MEDIA = tuple(f"*.{end}" for end in ("mp4", "mkv", "webm", "avi", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv", "gif", "wav", "mp3"))
WEIGHTS = tuple(f"*.{end}" for end in ("safetensors", "bin", "pt", "pth", "ckpt", "gguf", "onnx", "npz", "npy", "zip", "tar", "gz", "whl", "so"))
KEYS = (".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "credentials*", "kubeconfig*", "*.log", "*.pyc")
BIGGEST = 5
"""Entries that a refusal names."""


@dataclass(frozen=True)
class Package:
    """A zip on disk: `files` files, `size_bytes` as packed."""

    path: Path
    files: int
    size_bytes: int


def pack(folder: Path, target: Path, *, excludes: Sequence[str] = (), limit_bytes: int) -> Package:
    """Zip the folder's files into `target`; the same files give the same bytes, so that a cluster stores them once.

    Raises ConfigError, with the biggest entries named, before anything above the limit is read.
    """
    names = packed_files(folder, excludes)
    sizes = {name: (folder / name).stat().st_size for name in names}
    if sum(sizes.values()) > limit_bytes:
        raise ConfigError(_too_big(folder, sizes, limit_bytes))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = ((folder / name).stat().st_mode & 0o777) << 16
            archive.writestr(entry, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return Package(target, len(names), target.stat().st_size)


def packed_files(folder: Path, excludes: Sequence[str] = ()) -> list[str]:
    """Paths inside the folder, sorted. `excludes`: shell patterns, with a slash for a path inside the folder (data/), without one for a name anywhere.
    Links that lead out are left out."""
    return sorted(_walk(folder.resolve(), (*FOLDERS, *MEDIA, *WEIGHTS, *KEYS, *excludes)))


def _walk(root: Path, patterns: Sequence[str]) -> Iterator[str]:
    for where, folders, files in os.walk(root):
        inside = Path(where).relative_to(root)
        folders[:] = [name for name in folders if not _matches(inside / name, patterns)]
        for name in files:
            path = Path(where) / name
            if not _matches(inside / name, patterns) and path.is_file() and path.resolve().is_relative_to(root):
                yield (inside / name).as_posix()


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.as_posix(), p.rstrip("/")) if "/" in p else fnmatch(path.name.lower(), p.lower()) for p in patterns)


def _too_big(folder: Path, sizes: dict[str, int], limit_bytes: int) -> str:
    entries: dict[str, int] = {}
    for name, size in sizes.items():
        entry = "/".join(name.split("/")[:2])
        entries[entry] = entries.get(entry, 0) + size
    biggest = sorted(entries, key=lambda entry: -entries[entry])[:BIGGEST]
    named = ", ".join(f"{entry} {megabytes(entries[entry])}" for entry in biggest)
    return (
        f"--working-dir: {folder} is {megabytes(sum(sizes.values()))} without videos, weights and runs, more than {megabytes(limit_bytes)} "
        f"(biggest: {named}): leave some out with --exclude, or raise --limit-mb"
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
