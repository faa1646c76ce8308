"""Variance-aware selection: ask every question several times, keep those that teach something.

    question file ─► those the journal lacks ─► engine pool: repeats x views ─► journal ─► rules ─► kept questions

Each answer is drawn from (run seed, question), so it does not matter when a question is asked: a selection that was killed
goes on where it stopped. The rules see the journal only; other thresholds judge again without asking again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlvid.actors.sampler import Collected
from rlvid.algo.selection import LESS_SIGNAL, Answers, Rules, answers_of, beyond_share, drop_reason
from rlvid.config import Config, ConfigError
from rlvid.data.questions import parse_line, raw_lines
from rlvid.data.selected import Paths, SelectionReport, draw, moved_line, source_of, written_aside
from rlvid.data.selection_journal import SelectionJournal
from rlvid.feed import TooManyBadVideos
from rlvid.journal import log_to, open_progress
from rlvid.session import open_session
from rlvid.types import Group, Quarantined, Question

log = logging.getLogger("rlvid")

STEP = 0
"""Seeds depend on it: one for all questions, and none of training's."""
UNUSABLE = "video unusable"


class NothingKept(RuntimeError):
    """No question passed the rules."""


class Asks(Protocol):
    """The part of the sampler that selection needs."""

    async def collect(self, questions: Sequence[Question], step: int, *, kinds: tuple[str, ...], answers: int) -> Collected: ...


def run(config: Config, out: Path) -> SelectionReport:
    """Select from data.train; write `out`, a question file for training, and its journal, statistics, report and picture beside it."""
    paths = Paths(out)
    check(config, paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    log_to(paths.log)
    journal = SelectionJournal(paths.journal)
    try:
        keys = Keys(config)
        problems = ask_missing(config, journal, keys)
        return judge(config, paths, journal, keys, problems)
    finally:
        journal.close()


def check(config: Config, paths: Paths) -> None:
    """ConfigError for settings that cannot work together."""
    if config.select.repeats > config.rollout.max_sequences:
        both = f"select.repeats ({config.select.repeats}) is more than rollout.max_sequences ({config.rollout.max_sequences})"
        raise ConfigError(f"{both}: raise max_sequences or lower repeats")
    if config.data.train.resolve() in {path.resolve() for path in (paths.kept, paths.journal, paths.statistics)}:
        raise ConfigError(f"--out: {paths.kept} would replace the questions it selects from (choose another file)")


class Keys:
    """Names a finished question by everything its answers depend on: model, settings, and the question's own line."""

    def __init__(self, config: Config) -> None:
        self.data = config.data.train
        self.settings = json.dumps(sampling_settings(config), sort_keys=True).encode()

    def of(self, raw: bytes) -> str:
        return hashlib.sha256(self.settings + b"\n" + raw.strip()).hexdigest()[:16]

    def lines(self) -> Iterator[tuple[str, int, bytes]]:
        """Key, line number and bytes of every question, in the file's order."""
        for line, _, raw in raw_lines(self.data):
            yield self.of(raw), line, raw

    def question(self, line: int, raw: bytes) -> Question:
        return parse_line(raw, path=self.data, line=line)


def sampling_settings(config: Config) -> dict[str, Any]:
    """What the recorded numbers depend on. Thresholds do not belong here, nor does what only costs time."""
    rollout, select = config.rollout, config.select
    config = _for_engines(config)
    folder = Path(config.model.path)
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*")) if path.is_file()]
    return {
        "model": [str(folder.resolve()) if files else config.model.path, files, config.dtype],
        "seed": config.run.seed,
        "prompt": config.prompt.model_dump(mode="json"),
        "video": config.video.model_dump(mode="json", exclude={"deadline_s", "cache_dir", "cache_gib"}),
        "views": [list(select.kinds), config.variants.min_crop_area, config.variants.crop_share],
        "relevance": config.relevance.model_dump(mode="json", exclude={"batch", "num_gpus"}) if config.looks_at_relevance else None,
        "sampling": [select.repeats, rollout.temperature, rollout.top_p, rollout.max_tokens, rollout.max_model_len],
        "marking": [config.reward.numeric_tolerance, config.reward.regression],
    }


def ask_missing(config: Config, journal: SelectionJournal, keys: Keys) -> dict[str, str]:
    """Ask what the journal lacks. Returns the questions that could not be asked, {key: why}; they are tried again next time."""
    have = [key in journal for key, _, _ in keys.lines()]
    if all(have):
        return {}
    if any(have):
        log.info("%d of %d questions are in %s already", sum(have), len(have), journal.path)
    with open_session(_for_engines(config), with_learner=False) as session, open_progress() as progress:
        bar = progress.add_task("selecting", total=len(have), completed=sum(have), line="")
        notes = Notes(config, journal, lambda count: progress.advance(bar, count), done=sum(have), total=len(have))
        missing = ((key, keys.question(line, raw)) for key, line, raw in keys.lines() if key not in journal)
        session.wait(ask(session.sampler, missing, config, notes.add))
    return notes.problems


def _for_engines(config: Config) -> Config:
    """Selection's views and answers in the place of training's: actors load and pools size what they will be asked for."""
    rollout, variants = config.rollout.model_copy(update={"answers": config.select.repeats}), config.variants.model_copy(update={"kinds": config.select.kinds})
    return config.model_copy(update={"rollout": rollout, "variants": variants})


async def ask(sampler: Asks, questions: Iterator[tuple[str, Question]], config: Config, note: Callable[[list[tuple[str, Group | Quarantined]]], None]) -> None:
    """Keep `in_flight` questions on their way; note each lot as it comes back. Reads the questions no faster than that."""
    running: set[asyncio.Task[tuple[str, Group | Quarantined]]] = set()

    async def one(key: str, question: Question) -> tuple[str, Group | Quarantined]:
        collected = await sampler.collect([question], STEP, kinds=config.select.kinds, answers=config.select.repeats)
        return key, collected.results[0]

    async def come_back() -> set[asyncio.Task[tuple[str, Group | Quarantined]]]:
        done, still = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        note([task.result() for task in done])
        return still

    try:
        for key, question in questions:
            running.add(asyncio.create_task(one(key, question)))
            if len(running) >= config.select.in_flight:
                running = await come_back()
        while running:
            running = await come_back()
    finally:
        for task in running:
            task.cancel()


class Notes:
    """Takes what came back into the journal and onto the progress bar."""

    def __init__(self, config: Config, journal: SelectionJournal, advance: Callable[[int], None], *, done: int, total: int) -> None:
        self.config, self.journal, self.advance = config, journal, advance
        self.done, self.total = done, total
        self.problems: dict[str, str] = {}
        self.bad_in_a_row = 0

    def add(self, results: list[tuple[str, Group | Quarantined]]) -> None:
        """One write for all that came back together."""
        rows = []
        for key, result in results:
            if isinstance(result, Quarantined):
                self._bad(key, result)
                continue
            self.bad_in_a_row = 0
            answers = answers_of(result)
            rows.append({"key": key, "id": result.question.id, "accuracies": answers.accuracies, "ious": answers.ious})
        if rows:
            self.journal.add(rows)
        self._show(len(results))

    def _bad(self, key: str, problem: Quarantined) -> None:
        self.problems[key] = problem.reason
        self.bad_in_a_row += 1
        log.warning("cannot ask %s: %s", problem.question_id, problem.reason)
        if self.bad_in_a_row >= self.config.data.max_bad_in_a_row:
            cure = f"see that the videos of {self.config.data.train} are there and play, or raise data.max_bad_in_a_row"
            raise TooManyBadVideos(f"{self.bad_in_a_row} questions in a row have unusable videos, last: {problem.reason}: {cure}")

    def _show(self, count: int) -> None:
        tenth = self.done * 10 // self.total
        self.done += count
        self.advance(count)
        if self.done * 10 // self.total > tenth:
            log.info("asked %d of %d questions", self.done, self.total)


def judge(config: Config, paths: Paths, journal: SelectionJournal, keys: Keys, problems: dict[str, str]) -> SelectionReport:
    """Apply the rules to what the journal holds, in the file's order, and write every file, `paths.kept` last. NothingKept leaves that one as it was."""
    rules, report = Rules(config.select.iou_std, config.select.iou_max, config.select.share), SelectionReport()
    surplus = _surplus(journal, keys, rules)
    with written_aside(paths.kept) as kept:
        with written_aside(paths.statistics) as statistics:
            for key, line, raw in keys.lines():
                question = keys.question(line, raw)
                answers = _answers(question, journal, key)
                row, reason = _judged(answers, problems.get(key, ""), rules)
                reason = LESS_SIGNAL if line in surplus else reason
                report.count(question, row, reason.partition(":")[0])
                named = {"id": question.id, "source": question.source, "task": question.task, "kept": not reason, "reason": reason}
                statistics.write(json.dumps(named | row) + "\n")
                if not reason:
                    kept.write(moved_line(raw, question, paths.kept.parent))
        with written_aside(paths.report) as file:
            json.dump(report.to_json(), file, indent=1)
        draw(report, paths.picture)
        if not report.kept:
            raise NothingKept(f"no question passed, {paths.report} says why: take a model that is right now and then, or lower select.iou_*")
    return report


def _surplus(journal: SelectionJournal, keys: Keys, rules: Rules) -> set[int]:
    """Lines of the questions that pass the rules but not the share of their source. A number and a line a question is all that is held."""
    if rules.share == 1:
        return set()
    passed: dict[str, list[tuple[float, int]]] = {}
    counts: Counter[str] = Counter()
    for key, line, raw in keys.lines():
        question = keys.question(line, raw)
        source = source_of(question)
        counts[source] += 1
        answers = _answers(question, journal, key)
        if answers is not None and not drop_reason(answers, rules):
            passed.setdefault(source, []).append((answers.signal(), line))
    return {line for source, signals in passed.items() for line in beyond_share(signals, counts[source], rules.share)}


def _answers(question: Question, journal: SelectionJournal, key: str) -> Answers | None:
    if key not in journal:
        return None
    row = journal.row(key)
    return Answers(question.task, tuple(row["accuracies"]), tuple(row["ious"]))


def _judged(answers: Answers | None, problem: str, rules: Rules) -> tuple[dict[str, Any], str]:
    """A question's statistics, and why it is dropped."""
    if answers is None:
        return {}, f"{UNUSABLE}: {problem}"
    return answers.statistics() | {"accuracies": answers.accuracies, "temporal_ious": answers.ious}, drop_reason(answers, rules)
