"""The endless, shuffled, resumable stream of questions. The file stays on disk; only byte offsets are held."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvid.data.questions import QuestionError, SeenIds, parse_line, raw_lines
from rlvid.types import Question


class QuestionStream:
    """Each epoch is a permutation drawn from (seed, epoch), so the order never depends on how it is read.

    Opening reads and checks the whole file; a wrong line, a repeated id or an empty file raises QuestionError. Afterwards a
    question costs 20 bytes of memory, whatever its text. `skip`: ids that never come; the order of the others is as without.
    """

    def __init__(self, path: str | Path, *, seed: int, skip: frozenset[str] = frozenset()) -> None:
        self.path = Path(path)
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self.left_out = 0
        """Questions that the last `take` left out."""
        self._opened = _mark(self.path)
        self._offsets, self._lines, self._skipped, self._fingerprint = _indexed(self.path, skip)
        self._order = _permutation(seed, 0, len(self._offsets))

    def __len__(self) -> int:
        """Questions in one epoch."""
        return len(self._offsets) - len(self._skipped)

    @property
    def epoch(self) -> int:
        """The epoch of the question taken last, from 0."""
        return self._epoch

    def take(self, n: int, *, rests: Callable[[str, int], bool] | None = None) -> list[Question]:
        """The next n questions, going on into the next epoch where this one ends; without those for which `rests(id, epoch)` holds.

        Where a whole epoch's worth rests, the next question is taken all the same: the stream never stands still.
        """
        self._check_unchanged()
        self.left_out = 0
        with self.path.open("rb") as file:
            return [self._next_awake(file, rests) for _ in range(n)]

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON values."""
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position, "file": dict(self._fingerprint)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Another file content or seed would give another order: QuestionError."""
        if state["file"] != self._fingerprint:
            raise QuestionError(f"{self.path}: is not the file of the checkpoint (put the old content back, or start a run with another name)")
        if state["seed"] != self._seed:
            was = f"run.seed is {self._seed} and was {state['seed']} at the checkpoint"
            raise QuestionError(f"{self.path}: {was} (keep the seed, or start a run with another name)")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._order = _permutation(self._seed, self._epoch, len(self._offsets))

    def _check_unchanged(self) -> None:
        """Offsets into another content would read nonsense. The content is hashed again only when size or time changed."""
        mark = _mark(self.path)
        if mark != self._opened and _fingerprint(self.path) != self._fingerprint:
            raise QuestionError(f"{self.path}: was changed while it is being read (start again, or keep the file as it was)")
        self._opened = mark

    def _next_awake(self, file: Any, rests: Callable[[str, int], bool] | None) -> Question:
        for _ in range(len(self) if rests else 0):
            question = self._read(file, self._next())
            if rests and not rests(question.id, self._epoch):
                return question
            self.left_out += 1
        return self._read(file, self._next())

    def _next(self) -> int:
        while True:
            if self._position == len(self._offsets):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = _permutation(self._seed, self._epoch, len(self._offsets))
            self._position += 1
            index = int(self._order[self._position - 1])
            if index not in self._skipped:
                return index

    def _read(self, file: Any, index: int) -> Question:
        file.seek(self._offsets[index])
        return replace(parse_line(file.readline(), path=self.path, line=self._lines[index]), epoch=self._epoch)


def _indexed(path: Path, skip: frozenset[str]) -> tuple[array[int], array[int], frozenset[int], dict[str, Any]]:
    """Byte offset and line number of every question, which of them are skipped, and the file's fingerprint, in one pass that checks every line."""
    offsets, lines, seen, skipped = array("Q"), array("I"), SeenIds(path), set[int]()
    for line, offset, raw in raw_lines(path):
        seen.add(id := parse_line(raw, path=path, line=line).id, line)
        if id in skip:
            skipped.add(len(offsets))
        offsets.append(offset)
        lines.append(line)
    if not offsets:
        raise QuestionError(f"{path}: holds no question (one JSON object a line)", "empty file")
    if unknown := skip - seen.lines.keys():
        raise QuestionError(f"data.skip: {path} has no question {min(unknown)[:80]!r} (write ids as they stand in the file)", "skip")
    if len(skipped) == len(offsets):
        raise QuestionError(f"data.skip: leaves no question of {path}", "skip")
    return offsets, lines, frozenset(skipped), _fingerprint(path)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": os.path.getsize(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _mark(path: Path) -> tuple[int, int]:
    """Cheap sign of a changed file between two reads."""
    try:
        stat = path.stat()
    except OSError as error:
        raise QuestionError(f"{path}: cannot be read ({error.strerror})") from None
    return stat.st_size, stat.st_mtime_ns


def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    # A seed may be negative, a PCG64 seed may not.
    return np.random.Generator(np.random.PCG64([seed % 2**64, epoch])).permutation(count)
