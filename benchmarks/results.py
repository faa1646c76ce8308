"""Writes RESULTS.md: the ten headline numbers, what was learned in words (SUMMARY.md), and every figure of baselines/*.json, so that what is said is what
was measured. README.md of the project shows the headlines, too; a test holds them together.

python -m benchmarks.results
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
META = ("benchmark", "environment", "note")


def main() -> None:
    (FOLDER / "RESULTS.md").write_text(results())


def results() -> str:
    """The whole page."""
    made = "Made by `python -m benchmarks.results` from [SUMMARY.md](SUMMARY.md) and [baselines](baselines). [README.md](README.md) says what each asks."
    parts = ["# Results", made, headlines(), "## In words", (FOLDER / "SUMMARY.md").read_text().strip(), "# All figures"]
    for path in sorted((FOLDER / "baselines").glob("*.json")):
        measured = json.loads(path.read_text())
        parts += [f"## {path.stem}", *_about(measured)]
        if (picture := path.with_suffix(".png")).exists():
            parts.append(f"![{path.stem}](baselines/{picture.name})")
        parts += [part for name, value in measured.items() if name not in META for part in _section(name, value)]
    return "\n\n".join(parts) + "\n"


def headlines() -> str:
    """Ten numbers, each with the command that gives it."""

    def found(name: str) -> Any:
        return json.loads((FOLDER / "baselines" / f"{name}.json").read_text())["found"]

    seeds = list(json.loads((FOLDER / "baselines" / "quickstart.json").read_text())["rewards"].values())
    before, after = (sum(seed[when]["choice questions"] for seed in seeds) / len(seeds) for when in ("before", "after"))
    agree = max(seed["worst"]["mean_abs_dlogp"] for seed in seeds)
    shared = next(row for row in found("learner") if (row["visual"], row["length"], row["answers"]) == (1024, 32, 8))
    pushed = next(row for row in found("sync") if (row["millions"], row["engines"], row["ranks"]) == (500, 1, 1))
    ahead, peer, kills, chaos = found("step"), found("peer_trl_1024_tokens"), found("kills"), found("chaos")
    same = kills["steps on which the killed run agrees with the first"], kills["steps"], sum(kills["kills"].values())
    built = found("variants")["K = 4 variants over bare decord decoding of the same frames, time"]
    in_turn = ahead["overlapped step over sampling and learning one after the other"]
    driver = found("dispatch")["256 engines: driver milliseconds per rollout"]
    logits = found("logprobs")["peak memory, chunked over plain"]
    rows = [
        (f"held-out choice questions, {before:.2f} → {after:.2f} in 120 steps, mean of {len(seeds)} seeds", "quickstart"),
        (f"sampler against learner, mean \\|Δ log p\\| a token: at most {agree:.1e} over all these steps", "quickstart"),
        (f"a prompt of 1,024 visual tokens once for its 8 answers: {shared['times_faster']:.1f} times as fast as a row an answer", "learner"),
        (f"log-probs in chunks: {logits:.2f} of the memory of all logits at once (151,936 words)", "logprobs"),
        (f"four views of a video take {built:.2f} of decord's own time for the same frames", "variants"),
        (f"new weights, 500 M parameters, verified: {pushed['sync_over_copy']:.1f} times a bare copy", "sync"),
        (f"sampling ahead: a step takes {in_turn:.2f} of sampling and learning in turn", "step"),
        (f"a step against TRL's GRPOTrainer at 1,024 visual tokens: {peer['TRL over ours, step']:.1f} times as fast", "peer_trl --pixels 448"),
        (f"killed {same[2]} times, {same[0]} of {same[1]} steps come out bit for bit as undisturbed; nothing left behind", "kills"),
        (f"256 simulated engines cost the driver {driver:.3f} ms a rollout; held-out accuracy under {sum(chaos['injected'].values())} "
         f"accidents {chaos['accuracy_chaos']:.3f}, undisturbed {chaos['accuracy_undisturbed']:.3f}", "dispatch`, `benchmarks.chaos"),
    ]  # fmt: skip
    return "\n".join(["| measured on two CPU cores | `python -m benchmarks.` |", "|---|---|", *(f"| {what} | `{command}` |" for what, command in rows)])


def _about(measured: Mapping[str, Any]) -> list[str]:
    where = measured.get("environment", {})
    versions = ", ".join(f"{name} {value}" for name, value in where.items() if value is not None)
    return [part for part in (versions, measured.get("note", "")) if part]


def _section(name: str, value: Any) -> list[str]:
    """A line for a number, a table for what holds numbers, a heading and its parts for what holds tables."""
    if _is_row(value):
        return [f"**{name}**", _table([{"": key, "value": number} for key, number in value.items()])] if value else []
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(_is_row(row) for row in value):
        return [f"**{name}**", _table(value)]
    if isinstance(value, Mapping) and value and all(_is_row(row) for row in value.values()):
        return [f"**{name}**", _table([{"": key, **row} for key, row in value.items()])]
    if isinstance(value, Mapping):
        plain = {key: inner for key, inner in value.items() if _is_plain(inner)}
        inner = {key: inner for key, inner in value.items() if key not in META and key not in plain}
        return _section(name, plain) + [part for key, one in inner.items() for part in _section(f"{name}: {key}", one)]
    return [f"{name}: {_cell(value)}"]


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_plain, value.values()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_plain, value))
    return not isinstance(value, Mapping)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_cell, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
