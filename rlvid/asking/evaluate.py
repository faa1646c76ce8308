"""Greedy answers on the uniform view of held-out questions: the same engines and rewards as in training, no learner."""

from __future__ import annotations

import csv
import json
import logging
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlvid.algo.scores import Answered, benchmark_scores
from rlvid.asking.answer_journal import AnswerJournal
from rlvid.asking.ask import Inquiry, Keys, Results, ask, ask_missing
from rlvid.asking.selected import written_aside
from rlvid.config import Config, ConfigError
from rlvid.data.questions import iter_questions
from rlvid.loop.session import Session
from rlvid.process.one_line import log_to
from rlvid.types import Group, Quarantined, Question

log = logging.getLogger("rlvid")


class NothingToScore(RuntimeError):
    """No held-out question could be asked."""


def run(config: Config, checkpoint: Path, data: Path | None = None, out: Path | None = None) -> dict[str, float]:
    """Evaluate a Hugging Face checkpoint folder (a run's `export/`, say). Killed and started again, it asks no answered question again.

    Writes predictions.jsonl (a row a question, in the file's order), metrics.json and metrics.csv into `out`, and beside them the journal it goes on from.
    """
    out = out or output_folder(config, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    log_to(out / "log.txt")
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(checkpoint)})})
    journal = AnswerJournal(out / "predictions.journal.jsonl")
    try:
        keys = Keys(config, inquiry_of(config, data))
        problems = ask_missing(config, keys, journal, _row, "evaluating")
        return _report(config, out, journal, keys, problems)
    finally:
        journal.close()


def output_folder(config: Config, checkpoint: Path) -> Path:
    """Beside an exported policy, in its own run folder; for any other checkpoint in the config's."""
    run = checkpoint.absolute().parent
    own = (run / "metrics.jsonl").is_file() and os.access(run, os.W_OK)
    return (run if own else config.folder) / "eval" / checkpoint.name


def evaluate(session: Session, questions: Sequence[Question]) -> dict[str, float]:
    """Metrics `eval/...` of the weights that the session's engines hold."""
    answered: list[Answered] = []
    problems: list[Quarantined] = []

    def note(results: Results) -> None:
        for _, result in results:
            if isinstance(result, Quarantined):
                log.warning("left out of the evaluation: %s: %s", result.question_id, result.reason)
                problems.append(result)
            else:
                answered.append(Answered(result.question, **_row(result)))

    session.wait(ask(session.sampler, ((question.id, question) for question in questions), inquiry_of(session.config), note))
    if problems and not answered:
        raise NothingToScore(f"none of the {len(questions)} held-out questions has a usable video, last: {problems[-1].reason}")
    return summarize(answered, session.config.reward.iou_threshold)


def inquiry_of(config: Config, data: Path | None = None) -> Inquiry:
    """The held-out questions of a config (the first data.eval_limit, if set), each once, greedily, on the view that users have."""
    path = data or config.data.eval
    if path is None:
        raise ConfigError("data.eval: no held-out question file is set; name one, or pass --data FILE")
    in_flight = config.data.eval_in_flight * config.rollout.engines
    return Inquiry(path, kinds=("uniform",), answers=1, in_flight=in_flight, greedy=True, limit=config.data.eval_limit)


def eval_questions(config: Config) -> list[Question]:
    """The held-out questions of a config (the first data.eval_limit, if set)."""
    return list(iter_questions(inquiry_of(config).data))[: config.data.eval_limit or None]


def summarize(answered: Iterable[Answered], iou_threshold: float = 0.5) -> dict[str, float]:
    """`eval/accuracy` (choice questions and the like), `eval/temporal_iou`, `eval/format`, each by source too: `eval/PART/SOURCE`.

    `eval/both_right`: share of the grounded questions whose answer is right and whose span reaches the threshold.
    `eval/BENCHMARK/METRIC`: a known benchmark's own metrics. `eval/truth_hidden`: questions with a truth span of which the view shows no frame; they count
    like all others.
    """
    answered = list(answered)
    values: dict[str, list[float]] = {}
    for one in answered:
        for part, value in {**one.parts, **_both_right(one, iou_threshold), **_reached(one)}.items():
            values.setdefault(f"eval/{part}", []).append(value)
            values.setdefault(f"eval/{part}/{one.question.source or one.question.task}", []).append(value)
    metrics = {name: statistics.fmean(numbers) for name, numbers in sorted(values.items())}
    metrics |= {f"eval/{name}": value for name, value in benchmark_scores(answered).items()}
    return metrics | {"eval/questions": float(len(answered)), "eval/truth_hidden": float(sum(one.truth_hidden for one in answered))}


def _both_right(one: Answered, iou_threshold: float) -> dict[str, float]:
    if one.question.task != "grounded_qa":
        return {}
    return {"both_right": float(one.parts["accuracy"] >= 1 and one.parts["temporal_iou"] >= iou_threshold)}


def _reached(one: Answered) -> dict[str, float]:
    """As referring expressions (Acc@0.5) and spatio-temporal grounding (vIoU@0.3, vIoU@0.5) are reported: 1 where the answer's IoU reaches the limit."""
    return {f"{part}@{limit}": float(one.parts[part] >= limit) for part, limits in REACHED.items() if part in one.parts for limit in limits}


REACHED = {"iou": (0.5,), "st_iou": (0.3, 0.5)}


def _row(group: Group) -> dict[str, Any]:
    """What is kept of a group of one answer."""
    score = group.scores_KM[0][0]
    row = {"text": group.rollouts_KM[0][0].text, "parts": dict(score.parts), "reason": score.reason}
    return row | {"truth_hidden": group.prepared.truth_hidden, "duration_s": group.prepared.duration_s}


def _report(config: Config, out: Path, journal: AnswerJournal, keys: Keys, problems: dict[str, str]) -> dict[str, float]:
    """Write predictions, then the metrics of those that are there."""
    answered: list[Answered] = []
    with written_aside(out / "predictions.jsonl") as file:
        for key, line, raw in keys.lines():
            question = keys.question(line, raw)
            if key in journal:
                row = journal.row(key)
                kept = {name: row[name] for name in ("text", "parts", "reason", "truth_hidden", "duration_s") if name in row}
                answered.append(Answered(question, **kept))
            else:
                kept = {"reason": problems.get(key, "")}
            file.write(json.dumps({"question_id": question.id, **kept}) + "\n")
    if not answered:
        raise NothingToScore(f"none of the {len(problems)} questions of {keys.inquiry.data} has a usable video, {out / 'predictions.jsonl'} says why")
    metrics = summarize(answered, config.reward.iou_threshold)
    with written_aside(out / "metrics.json") as file:
        json.dump(metrics | {"quarantined": len(problems)}, file, indent=1)
    with written_aside(out / "metrics.csv") as file:
        csv.writer(file).writerows([("metric", "value"), *metrics.items(), ("quarantined", len(problems))])
    return metrics
