"""Writes RESULTS.md from baselines/*.json, so that what is said is what was measured.

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
    parts = ["# Results", "Made by `python -m benchmarks.results` from the files in [baselines](baselines). [README.md](README.md) says what each asks."]
    for path in sorted((FOLDER / "baselines").glob("*.json")):
        measured = json.loads(path.read_text())
        parts += [f"## {path.stem}", *_about(measured)]
        if (picture := path.with_suffix(".png")).exists():
            parts.append(f"![{path.stem}](baselines/{picture.name})")
        parts += [part for name, value in measured.items() if name not in META for part in _section(name, value)]
    return "\n\n".join(parts) + "\n"


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
