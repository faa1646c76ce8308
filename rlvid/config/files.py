"""YAML files and overrides as one tree of plain values. What is no tree raises ConfigError with file, line and cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rlvid.config.base import ConfigError


def read_extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's tree; with `extends: OTHER.yaml` at its top, the other file's tree with this one's settings put over it."""
    tree = _read(path)
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str) or path.resolve() in seen:
        raise ConfigError(f"{path}: extends: {'names itself in a circle' if isinstance(base, str) else 'must name one YAML file'}")
    if not (path.parent / base).is_file():
        raise ConfigError(f"{path}: extends: {path.parent / base} is no file (paths start at the folder of the file that extends)")
    return _over(read_extended(path.parent / base, (*seen, path.resolve())), tree)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML would silently take the last one, a whole section with it."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(problem=f"the key {key.value} is there twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add((key.tag, key.value))
        return node


def _parsed(text: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except RecursionError:
        raise yaml.YAMLError("too deep") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = _parsed(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (configs/ holds ready ones)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}:{place} is not YAML ({problem})") from None
    except ValueError as error:  # not UTF-8, or a date that is none
        raise ConfigError(f"{path}: is not YAML ({error})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of sections such as run, model, data")
    return tree


def apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write key=value, for example learner.lr=1e-6")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is not a section")
    try:
        node[leaf] = _parsed(value)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"override {override!r}: the value is not YAML") from None
