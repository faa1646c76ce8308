"""report.html: one self-contained file that shows what the policy saw, said and earned. `write_report(folder)` makes it from a run folder.

The page holds its own style and script and a strict content security policy: nothing is loaded, nothing can leave. All that comes from datasets, models
and teachers travels as JSON and is put on the page as text only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlvid.config import ConfigError, ReportConfig
from rlvid.observe.metrics import plain
from rlvid.observe.report.curves import charts, read_metrics
from rlvid.observe.report.films import Films
from rlvid.observe.report.stories import KIND_NOTES, Story, as_json, choose, dumped_steps, read_stories, shuffle_key, spread
from rlvid.types import Question

HERE = Path(__file__).parent
PIXEL_SHARE = 0.7
"""Of the page's size: what all films together may take."""


def write_report(
    folder: Path, out: Path | None = None, *, steps: Sequence[int] = (), questions: Sequence[str] = (), settings: ReportConfig | None = None
) -> Path:
    """Write report.html (or `out`) for the run in `folder`, at most report.max_bytes long. Returns its path.

    steps: only these (default: evenly spaced ones, the first and the last among them). questions: ids that get pictures before all others.
    settings: in place of the `report` section of the run's config.yaml. Raises ConfigError where the folder is no run.
    """
    tree = _config(folder)
    settings = settings or ReportConfig.model_validate(tree.get("report") or {})
    page = build_page(folder, tree, settings, steps, questions)
    out = out or folder / "report.html"
    aside = out.with_name(f".{out.name}.writing")
    aside.write_bytes(page)
    aside.rename(out)
    return out


def build_page(folder: Path, tree: dict[str, Any], settings: ReportConfig, steps: Sequence[int] = (), questions: Sequence[str] = ()) -> bytes:
    """The page as UTF-8."""
    rows = read_metrics(folder)
    there = list(dumped_steps(folder))
    shown = _shown_steps(there, steps, tree, settings)
    threshold = (tree.get("reward") or {}).get("iou_threshold", 0.5)
    stories = list(read_stories(folder, shown, _known_questions(folder, tree), threshold))
    if missing := [question for question in questions if all(story.question["question_id"] != question for story in stories)]:
        raise ConfigError(f"--question: {missing[0]} was not asked in a step that is shown (--step names other steps)")
    head = _json({"run": _run(tree, rows, there, shown), "charts": charts(rows), "kinds": KIND_NOTES, "stories_read": len(stories)})
    room = settings.max_bytes - len(_assembled(folder.name, head, []))
    return _assembled(folder.name, head, _told(stories, settings, room, questions))


def _told(stories: list[Story], settings: ReportConfig, room: int, questions: Sequence[str]) -> list[str]:
    """The stories as JSON in the order of steps: chosen ones with pictures first, then a fair sample of the others, as long as there is room."""
    told: dict[str, str] = {}
    chosen = choose(stories, settings.questions, questions)
    film_bytes = int(room * PIXEL_SHARE / max(1, len(chosen)))
    with Films(thumbnail_px=settings.thumbnail_px, max_bytes=film_bytes, deadline_s=settings.deadline_s) as films:
        for number, story in enumerate(chosen):
            row = as_json(story, settings.max_text) | {"rank": number}
            text = _json(row | {"film": films.of(story)})
            if _bytes(text) > room:
                text = _json(row | {"film": {"missing": "no room: raise report.max_bytes"}})
            room -= _keep(told, story, text, room)
    for story in sorted((story for story in stories if story.key not in told), key=shuffle_key):
        room -= _keep(told, story, _json(as_json(story, settings.max_text)), room)
    return [told[story.key] for story in stories if story.key in told]


def _keep(told: dict[str, str], story: Story, text: str, room: int) -> int:
    """Put the story in if it fits. Returns the bytes it takes."""
    size = _bytes(text)
    if size > room:
        return 0
    told[story.key] = text
    return size


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace")) + 1  # and a comma


def _shown_steps(there: list[int], asked: Sequence[int], tree: dict[str, Any], settings: ReportConfig) -> list[int]:
    if asked:
        if missing := [step for step in asked if step not in there]:
            raise ConfigError(f"--step: step {missing[0]} was not dumped (there are {len(there)} steps{f', {there[0]} to {there[-1]}' if there else ''})")
        return sorted(set(asked))
    per_step = _slots_per_step(tree)
    return spread(there, max(1, settings.slots // per_step))


def _slots_per_step(tree: dict[str, Any]) -> int:
    return max(1, tree["data"].get("questions_per_step", 8) * len(_kinds(tree)) * tree.get("rollout", {}).get("answers", 8))


def _kinds(tree: dict[str, Any]) -> list[str]:
    return list(tree.get("variants", {}).get("kinds", ["uniform"]))


def _config(folder: Path) -> dict[str, Any]:
    """The run's resolved config as it stands: a run of an older rlvid can be shown, too."""
    path = folder / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text())
        assert isinstance(tree, dict) and isinstance(tree["run"], dict) and isinstance(tree["data"], dict)
    except OSError:
        raise ConfigError(f"{folder}: is not a run folder, it has no config.yaml (name one such as runs/quickstart)") from None
    except (yaml.YAMLError, AssertionError, KeyError):
        raise ConfigError(f"{path}: is not the config of a run") from None
    return tree


def _known_questions(folder: Path, tree: dict[str, Any]) -> dict[str, Question]:
    """Questions of the train file, only for runs whose dumps hold no question rows."""
    from rlvid.data.questions import QuestionError, iter_questions

    if any((folder / "rollouts").glob("*.groups.jsonl")):
        return {}
    try:
        return {question.id: question for question in iter_questions(Path(tree["data"]["train"]))}
    except (OSError, QuestionError, KeyError):
        return {}


def _run(tree: dict[str, Any], rows: Sequence[dict[str, Any]], there: Sequence[int], shown: Sequence[int]) -> dict[str, Any]:
    """What the head of the page says."""
    trained = [row for row in rows if "reward/mean" in row]
    return {
        "name": str(tree["run"].get("name", "")),
        "model": "/".join(Path(str(tree.get("model", {}).get("path", ""))).parts[-2:]) or "unknown model",
        "steps": trained[-1]["step"] if trained else 0,
        "planned": tree["run"].get("steps", 0),
        "questions": tree["data"].get("questions_per_step", 8),
        "variants": _kinds(tree),
        "answers": tree.get("rollout", {}).get("answers", 8),
        "group": tree.get("advantage", {}).get("group", "joint"),
        "hours": round(math.fsum(row.get("time/step_s") or 0.0 for row in trained) / 3600, 4),
        "slots": len(there) * _slots_per_step(tree),
        "dumped": len(there),
        "shown": len(shown),
        "tiles": _tiles(rows, trained),
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _tiles(rows: Sequence[dict[str, Any]], trained: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The handful of numbers to read first."""
    tiles = []
    for label, name in (("Held-out accuracy", "eval/accuracy"), ("Held-out temporal IoU", "eval/temporal_iou")):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if values:
            tiles.append({"label": label, "value": f"{values[-1]:.3f}", "note": f"{values[0]:.3f} before training" if len(values) > 1 else ""})
    last = trained[-10:]
    shares = _mean(last, "group/zero_signal_share"), _mean(last, "group/zero_signal_share_text_only")
    if shares[0] is not None and shares[1] is not None:
        note = f"per variant it would be {shares[1]:.0%} (last {len(last)} steps)"
        tiles.append({"label": "Questions without a signal", "value": f"{shares[0]:.0%}", "note": note})
    for label, name, form, note in (
        ("Reward", "reward/mean", "{:.3f}", f"mean of the last {len(last)} steps"),
        ("Sampler against learner", "mismatch/mean_abs_dlogp", "{:.1e}", "mean |Δ log p|, lower is better"),
        ("Seconds per step", "time/step_s", "{:.1f}", f"mean of the last {len(last)} steps"),
    ):
        if (value := _mean(last, name)) is not None:
            tiles.append({"label": label, "value": form.format(value), "note": note})
    return tiles


def _mean(rows: Iterable[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return math.fsum(values) / len(values) if values else None


def _json(value: Any) -> str:
    """JSON that can stand inside a script element whatever texts it holds."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _assembled(title: str, head: str, stories: Sequence[str]) -> bytes:
    style, script = (HERE / "style.css").read_text(), (HERE / "script.js").read_text()
    policy = ["default-src 'none'", "img-src data:", f"style-src {_hash(style)}", f"script-src {_hash(script)}", "base-uri 'none'", "form-action 'none'"]
    parts = {
        "@@TITLE@@": html.escape(f"{title} · rlvid report"),
        "@@POLICY@@": "; ".join(policy),
        "@@STYLE@@": style,
        "@@SCRIPT@@": script,
        "@@DATA@@": f'{head[:-1]},"stories":[{",".join(stories)}]}}',
    }
    page = re.sub(r"@@[A-Z]+@@", lambda mark: parts[mark.group()], (HERE / "template.html").read_text())
    return page.encode(errors="replace")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
