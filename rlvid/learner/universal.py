"""A checkpoint for another number of ranks, or another ZeRO stage: DeepSpeed's universal format, converted when it is needed."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("rlvid")

TAG = "universal"
DEADLINE_S = 3600


class ConversionError(RuntimeError):
    """DeepSpeed could not convert a checkpoint. One line with what it said last."""


@contextlib.contextmanager
def universal(checkpoint: Path) -> Iterator[Path]:
    """A folder beside the checkpoint that holds it in the universal format: what a rank of any layout can load as its tag `universal`."""
    folder = checkpoint.parent / f".{checkpoint.name}.{TAG}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log.info("converting %s for another number of learner ranks", checkpoint.name)
    places = ["--input_folder", str(checkpoint / "learner"), "--output_folder", str(folder / TAG)]
    # --inject_missing_state: only Megatron writes the state that it asks for.
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *places, "--inject_missing_state"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise ConversionError(f"{checkpoint} cannot be loaded by another number of learner ranks; DeepSpeed says: {said[-1]}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
