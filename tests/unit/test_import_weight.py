"""What a module pulls in is a contract: the pure parts import nothing heavy, and actors and learner know nothing of each other."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlvid.algo
import rlvid.reading

ROOT = Path(__file__).parents[2]
HEAVY = ("ray", "vllm", "deepspeed", "wandb", "torch", "torchvision", "transformers", "matplotlib", "decord", "av")
TENSOR_MODULES = {"rlvid.algo.loss"}
"""The loss is made of torch's tensors; the other rules are NumPy."""
LIGHT = [
    "rlvid.config",
    "rlvid.types",
    "rlvid.families",
    "rlvid.families.checkpoint",
    "rlvid.observe.metrics",
    "rlvid.observe.tracker",
    "rlvid.doctor",
    "rlvid.torchvision_guard",
]
LIGHT += [module.name for package in (rlvid.algo, rlvid.reading) for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]


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


FLOORS = (
    ("types", "config", "torchvision_guard"),
    ("process", "reading"),
    ("algo", "video"),
    ("families",),
    ("data", "variants"),
    ("teacher",),
    ("sync",),
    ("actors", "learner", "observe"),
    ("plan",),
    ("loop",),
    ("asking",),
    ("train",),
    ("world", "jobs", "doctor", "doors"),
    ("cli",),
)
"""Rooms of the house, ground floor first. A room imports from lower floors only; those of one floor know nothing of each other."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted({path.relative_to(ROOT / "rlvid").parts[0].removesuffix(".py") for path in (ROOT / "rlvid").rglob("*.py")} - {"__init__"})


def test_every_room_has_a_floor_and_there_are_few() -> None:
    assert set(ROOMS) == set(FLOOR)
    assert len(ROOMS) <= 24


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room: str) -> None:
    """So there is no circle either."""
    place = ROOT / "rlvid" / room
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        others = {name.split(".")[1] for name in imported(path) if name.startswith("rlvid.")} - {room}
        wrong = sorted(other for other in others if FLOOR.get(other, -1) >= FLOOR[room])
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(wrong)}, which stand no lower"
