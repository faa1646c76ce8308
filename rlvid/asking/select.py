"""Variance-aware selection: ask every question several times, keep those that teach something.

    question file ─► asked, repeats x views (rlvid/asking/ask.py) ─► journal ─► rules ─► kept questions

The rules see the journal only; other thresholds judge again without asking again.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rlvid.algo.selection import LESS_SIGNAL, Answers, Rules, answers_of, beyond_share, drop_reason, graded_part
from rlvid.asking.answer_journal import AnswerJournal
from rlvid.asking.ask import Inquiry, Keys, ask_missing
from rlvid.asking.selected import Paths, SelectionReport, draw, moved_line, source_of, written_aside
from rlvid.config import Config, ConfigError
from rlvid.process.one_line import log_to
from rlvid.types import Group, Question

UNUSABLE = "video unusable"


class NothingKept(RuntimeError):
    """No question passed the rules."""


def run(config: Config, out: Path) -> SelectionReport:
    """Select from data.train; write `out`, a question file for training, and its journal, statistics, report and picture beside it."""
    paths = Paths(out)
    check(config, paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    log_to(paths.log)
    journal = AnswerJournal(paths.journal)
    try:
        keys = Keys(config, inquiry_of(config))
        problems = ask_missing(config, keys, journal, _row, "selecting")
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


def inquiry_of(config: Config) -> Inquiry:
    """Every question of data.train, `select.repeats` times on each of the views `select.kinds`."""
    return Inquiry(config.data.train, config.select.kinds, config.select.repeats, config.select.in_flight)


def _row(group: Group) -> dict[str, Any]:
    answers = answers_of(group)
    return {"accuracies": answers.accuracies, "ious": answers.ious, "truth_hidden": group.prepared.truth_hidden}


def judge(config: Config, paths: Paths, journal: AnswerJournal, keys: Keys, problems: dict[str, str]) -> SelectionReport:
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
                if key in journal:
                    row["truth_hidden"] = journal.row(key)["truth_hidden"]
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


def _surplus(journal: AnswerJournal, keys: Keys, rules: Rules) -> set[int]:
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


def _answers(question: Question, journal: AnswerJournal, key: str) -> Answers | None:
    if key not in journal:
        return None
    row = journal.row(key)
    return Answers(question.task, tuple(row["accuracies"]), tuple(row["ious"]))


def _judged(answers: Answers | None, problem: str, rules: Rules) -> tuple[dict[str, Any], str]:
    """A question's statistics, and why it is dropped."""
    if answers is None:
        return {}, f"{UNUSABLE}: {problem}"
    return answers.statistics() | {"accuracies": answers.accuracies, f"{graded_part(answers.task)}s": answers.ious}, drop_reason(answers, rules)
