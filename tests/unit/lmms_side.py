"""lmms-eval's own functions in an environment of its own: `python lmms_side.py` there answers calls that come as pickles on standard input.

It imports nothing of rlvid. `Elsewhere` is the other end.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Elsewhere:
    """A module of lmms-eval over there: its functions take and give plain values, its constants are given as they are."""

    def __init__(self, process: subprocess.Popen[bytes], module: str) -> None:
        self._process, self._module = process, module

    def __getattr__(self, name: str) -> Any:
        called, value = self._ask(name, None)
        return value if not called else lambda *args: self._ask(name, args)[1]

    def _ask(self, name: str, args: tuple[Any, ...] | None) -> tuple[bool, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((self._module, name, args), self._process.stdin)
        self._process.stdin.flush()
        called, value = pickle.load(self._process.stdout)
        if isinstance(value, BaseException):
            raise value
        return called, value


@contextmanager
def elsewhere(python: str, hub: Path) -> Iterator[Any]:
    """What gives a task's `Elsewhere` by its folder's name. `hub`: an empty folder in place of the hub's cache."""
    told = os.environ | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    process = subprocess.Popen([python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=told)
    try:
        yield lambda task: Elsewhere(process, f"lmms_eval.tasks.{task.replace('/', '.')}.utils")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the package prints
    del sys.path[0]  # this folder
    while True:
        try:
            module, name, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found = getattr(importlib.import_module(module), name)
            answer = (True, None) if callable(found) and args is None else (False, found if args is None else found(*args))
            said = pickle.dumps(answer)
        except Exception as error:
            said = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        answers.write(said)
        answers.flush()


if __name__ == "__main__":
    main()
