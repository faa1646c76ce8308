"""What a module pulls in is a contract: the pure parts import nothing heavy, and actors and learner know nothing of each other."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlvid.algo

ROOT = Path(__file__).parents[2]
HEAVY = ("ray", "vllm", "deepspeed", "wandb", "torch", "torchvision", "transformers", "matplotlib", "decord", "av")
TENSOR_MODULES = {"rlvid.algo.loss"}
"""The loss is made of torch's tensors; the other rules are NumPy."""
LIGHT = ["rlvid.config", "rlvid.types", "rlvid.observe.metrics", "rlvid.observe.tracker", "rlvid.doctor", "rlvid.torchvision_guard"]
LIGHT += [module.name for module in pkgutil.iter_modules(rlvid.algo.__path__, "rlvid.algo.")]


@pytest.mark.parametrize("module", LIGHT)
def test_pure_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    pulled = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    allowed = {"torch"} if module in TENSOR_MODULES else set()
    assert set(pulled) <= allowed


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("actors", {"learner", "train", "evaluate", "cli"}),
        ("learner", {"actors", "train", "evaluate", "cli"}),
        ("sync", {"actors", "train", "evaluate", "cli"}),
        ("observe", {"actors", "learner", "sync", "train", "evaluate", "cli"}),
        ("algo", {"data", "variants", "teacher", "actors", "learner", "sync", "observe", "train", "evaluate", "cli"}),
        ("data", {"actors", "learner", "sync", "train", "evaluate", "cli"}),
        ("variants", {"actors", "learner", "sync", "train", "evaluate", "cli"}),
        ("teacher", {"actors", "learner", "sync", "train", "evaluate", "cli"}),
    ],
)
def test_arrows_point_one_way(package: str, never: set[str]) -> None:
    for path in (ROOT / "rlvid" / package).rglob("*.py"):
        wrong = {name for name in imported(path) for other in never if name == f"rlvid.{other}" or name.startswith(f"rlvid.{other}.")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_nothing_light_depends_on_anything() -> None:
    for name in ("config", "types"):
        assert not {module for module in imported(ROOT / "rlvid" / f"{name}.py") if module.startswith("rlvid")}
