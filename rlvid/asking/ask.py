"""Ask the questions of a file through the engine pool, each once: a journal keeps what was answered.

    question file ─► those the journal lacks ─► engine pool: answers x views ─► journal

`rlvid select` and `rlvid eval` are this, with rules and with metrics behind it. Each answer is drawn from (run seed, question), so it
does not matter when a question is asked: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlvid.actors.sampler import Collected
from rlvid.asking.answer_journal import AnswerJournal
from rlvid.config import Config
from rlvid.data.questions import parse_line, raw_lines
from rlvid.loop.feed import TooManyBadVideos
from rlvid.loop.session import open_session
from rlvid.observe.terminal import duration, open_progress
from rlvid.types import Group, Quarantined, Question

log = logging.getLogger("rlvid")

FORM = 2
"""Raised when the same settings come to show or mark otherwise: older answers are not mixed with newer ones."""
STEP = 0
"""Seeds depend on it: one for all questions, and none of training's."""
Results = list[tuple[str, Group | Quarantined]]


@dataclass(frozen=True)
class Inquiry:
    """What is asked: the questions of `data` (the first `limit` of them; 0: all), `answers` times on each of the views `kinds`, `in_flight` at a time."""

    data: Path
    kinds: tuple[str, ...]
    answers: int
    in_flight: int
    greedy: bool = False
    limit: int = 0


class Asks(Protocol):
    """The part of the sampler that is needed here."""

    async def collect(self, questions: Sequence[Question], step: int, *, kinds: tuple[str, ...], answers: int, greedy: bool) -> Collected: ...


class Keys:
    """Names a finished question by everything its answers depend on: model, settings, and the question's own line."""

    def __init__(self, config: Config, inquiry: Inquiry) -> None:
        self.inquiry = inquiry
        self.settings = json.dumps(sampling_settings(config, inquiry), sort_keys=True).encode()

    def of(self, raw: bytes) -> str:
        return hashlib.sha256(self.settings + b"\n" + raw.strip()).hexdigest()[:16]

    def lines(self) -> Iterator[tuple[str, int, bytes]]:
        """Key, line number and bytes of every question, in the file's order."""
        for line, _, raw in itertools.islice(raw_lines(self.inquiry.data), self.inquiry.limit or None):
            yield self.of(raw), line, raw

    def question(self, line: int, raw: bytes) -> Question:
        return parse_line(raw, path=self.inquiry.data, line=line)


def sampling_settings(config: Config, inquiry: Inquiry) -> dict[str, Any]:
    """What the recorded numbers depend on. Thresholds do not belong here, nor does what only costs time."""
    rollout = config.rollout
    config = for_engines(config, inquiry)
    folder = Path(config.model.path)
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*")) if path.is_file()]
    return {
        "form": FORM,
        "model": [str(folder.resolve()) if files else config.model.path, files, config.dtype],
        "seed": config.run.seed,
        "prompt": config.prompt.model_dump(mode="json"),
        "video": config.video.model_dump(mode="json", exclude={"deadline_s", "cache_dir", "cache_gib", "most"}),
        "image": config.image.model_dump(mode="json", exclude={"most"}),
        "views": [list(inquiry.kinds), config.variants.min_crop_area, config.variants.crop_share],
        "relevance": config.relevance.model_dump(mode="json", exclude={"batch", "num_gpus"}) if config.looks_at_relevance else None,
        "sampling": [inquiry.answers, inquiry.greedy, rollout.temperature, rollout.top_p, rollout.max_tokens, rollout.max_model_len],
        "marking": [config.reward.numeric_tolerance, config.reward.regression, config.reward.custom],
    }


def for_engines(config: Config, inquiry: Inquiry) -> Config:
    """The inquiry's views and answers in the place of training's: actors load and pools size what they will be asked for."""
    rollout, variants = config.rollout.model_copy(update={"answers": inquiry.answers}), config.variants.model_copy(update={"kinds": inquiry.kinds})
    # Engines keep room for what these questions show (rlvid/loop/session.py).
    return config.model_copy(update={"rollout": rollout, "variants": variants, "data": config.data.model_copy(update={"eval": inquiry.data})})


def ask_missing(config: Config, keys: Keys, journal: AnswerJournal, row: Callable[[Group], Mapping[str, Any]], title: str) -> dict[str, str]:
    """Ask what the journal lacks and note `row` of each group. Returns the questions that could not be asked, {key: why}; they are tried again next time."""
    inquiry = keys.inquiry
    have = [key in journal for key, _, _ in keys.lines()]
    if all(have):
        return {}
    if any(have):
        log.info("%d of %d questions are in %s already", sum(have), len(have), journal.path)
    with open_session(for_engines(config, inquiry), with_learner=False) as session, open_progress() as progress:
        bar = progress.add_task(title, total=len(have), completed=sum(have), line="")
        notes = Notes(config, inquiry, journal, row, lambda count: progress.advance(bar, count), done=sum(have), total=len(have))
        missing = ((key, keys.question(line, raw)) for key, line, raw in keys.lines() if key not in journal)
        session.wait(ask(session.sampler, missing, inquiry, notes.add))
    return notes.problems


async def ask(sampler: Asks, questions: Iterable[tuple[str, Question]], inquiry: Inquiry, note: Callable[[Results], None]) -> None:
    """Keep `in_flight` questions on their way; note each lot as it comes back. Reads the questions no faster than that."""
    running: set[asyncio.Task[tuple[str, Group | Quarantined]]] = set()

    async def one(key: str, question: Question) -> tuple[str, Group | Quarantined]:
        collected = await sampler.collect([question], STEP, kinds=inquiry.kinds, answers=inquiry.answers, greedy=inquiry.greedy)
        return key, collected.results[0]

    async def come_back() -> set[asyncio.Task[tuple[str, Group | Quarantined]]]:
        done, still = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        note([task.result() for task in done])
        return still

    try:
        for key, question in questions:
            running.add(asyncio.create_task(one(key, question)))
            if len(running) >= inquiry.in_flight:
                running = await come_back()
        while running:
            running = await come_back()
    finally:
        for task in running:
            task.cancel()


class Notes:
    """Takes what came back into the journal and onto the progress bar."""

    def __init__(
        self,
        config: Config,
        inquiry: Inquiry,
        journal: AnswerJournal,
        row: Callable[[Group], Mapping[str, Any]],
        advance: Callable[[int], None],
        *,
        done: int,
        total: int,
    ) -> None:
        self.config, self.inquiry, self.journal, self.row, self.advance = config, inquiry, journal, row, advance
        self.done, self.total = done, total
        self.had, self.began = done, time.monotonic()
        self.problems: dict[str, str] = {}
        self.bad_in_a_row = 0

    def add(self, results: Results) -> None:
        """One write for all that came back together."""
        rows = []
        for key, result in results:
            if isinstance(result, Quarantined):
                self._bad(key, result)
                continue
            self.bad_in_a_row = 0
            rows.append({"key": key, "id": result.question.id, **self.row(result)})
        if rows:
            self.journal.add(rows)
        self._show(len(results))

    def _bad(self, key: str, problem: Quarantined) -> None:
        self.problems[key] = problem.reason
        self.bad_in_a_row += 1
        log.warning("cannot ask %s: %s", problem.question_id, problem.reason)
        if self.bad_in_a_row >= self.config.data.max_bad_in_a_row:
            cure = f"see that the videos of {self.inquiry.data} are there and play, or raise data.max_bad_in_a_row"
            raise TooManyBadVideos(f"{self.bad_in_a_row} questions in a row cannot be used, last: {problem.reason}: {cure}")

    def _show(self, count: int) -> None:
        tenth = self.done * 10 // self.total
        self.done += count
        self.advance(count)
        if self.done * 10 // self.total > tenth:
            left_s = (time.monotonic() - self.began) / (self.done - self.had) * (self.total - self.done)
            log.info("asked %d of %d questions%s", self.done, self.total, f", about {duration(left_s)} left" if left_s else "")
