"""Greedy answers on the uniform view of held-out questions: the same engines and rewards as in training, no learner."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rlvid.algo.scores import Answered, benchmark_scores
from rlvid.config import Config, ConfigError
from rlvid.data.questions import iter_questions
from rlvid.journal import log_to
from rlvid.session import Session, open_session
from rlvid.types import Group, Quarantined, Question

log = logging.getLogger("rlvid")


class NothingToScore(RuntimeError):
    """No held-out question could be asked."""


def evaluate(session: Session, questions: Sequence[Question]) -> tuple[dict[str, float], list[Group], list[Quarantined]]:
    """Metrics `eval/...`, the answered groups (K = M = 1), and the questions that could not be asked."""
    collected = session.wait(session.sampler.collect(questions, step=0, kinds=("uniform",), answers=1, greedy=True))
    for problem in collected.quarantined:
        log.warning("left out of the evaluation: %s: %s", problem.question_id, problem.reason)
    if questions and not collected.groups:
        raise NothingToScore(f"none of the {len(questions)} held-out questions has a usable video, last: {collected.quarantined[-1].reason}")
    return summarize(collected.groups), collected.groups, collected.quarantined


def summarize(groups: Iterable[Group]) -> dict[str, float]:
    """`eval/accuracy` (choice questions and the like), `eval/temporal_iou`, `eval/format`, each by source: `eval/PART/SOURCE`, and for questions of a known
    benchmark its own metrics: `eval/BENCHMARK/METRIC`."""
    values: dict[str, list[float]] = {}
    answered: list[Answered] = []
    for group in groups:
        answered.append(Answered(group.question, group.rollouts_KM[0][0].text, group.scores_KM[0][0].parts))
        for part, value in group.scores_KM[0][0].parts.items():
            values.setdefault(f"eval/{part}", []).append(value)
            values.setdefault(f"eval/{part}/{group.question.source or group.question.task}", []).append(value)
    metrics = {name: statistics.fmean(numbers) for name, numbers in sorted(values.items())}
    metrics |= {f"eval/{name}": value for name, value in benchmark_scores(answered).items()}
    return metrics | {"eval/questions": float(len(values.get("eval/format", [])))}


def eval_questions(config: Config, path: Path | None = None) -> list[Question]:
    """The held-out questions of a config (the first data.eval_limit, if set)."""
    path = path or config.data.eval
    if path is None:
        raise ConfigError("data.eval: no held-out question file is set; name one, or pass --data FILE")
    questions = list(iter_questions(path))
    return questions[: config.data.eval_limit or None]


def run(config: Config, checkpoint: Path, data: Path | None = None, out: Path | None = None) -> dict[str, float]:
    """Evaluate a Hugging Face checkpoint folder (a run's `export/`, say). Writes predictions and metrics beside each other."""
    questions = eval_questions(config, data)
    out = out or config.folder / "eval" / checkpoint.name
    out.mkdir(parents=True, exist_ok=True)
    log_to(out / "log.txt")
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(checkpoint)})})
    with open_session(config, with_learner=False) as session:
        metrics, groups, quarantined = evaluate(session, questions)
    (out / "metrics.json").write_text(json.dumps(metrics | {"quarantined": len(quarantined)}, indent=1))
    with (out / "predictions.jsonl").open("w") as file:
        for group in groups:
            rollout, score = group.rollouts_KM[0][0], group.scores_KM[0][0]
            file.write(json.dumps({"question_id": group.question.id, "text": rollout.text, "parts": score.parts, "reason": score.reason}) + "\n")
        for problem in quarantined:
            file.write(json.dumps(asdict(problem)) + "\n")
    return metrics
