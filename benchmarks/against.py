"""What did a change bring? The learner of this work tree against that of another one, in CPU time of the process, by turns.

    python -m benchmarks.against OTHER [--answers 8 16] [--visual 1024] [--length 256] [--prompts 1] [--hidden 512] [--layers 6] [--pairs 5]
    python -m benchmarks.against OTHER --update [--pairs 5]

OTHER: a work tree of this repository at an older commit (`git worktree add OTHER COMMIT`); it runs with this environment's packages. One process a tree
holds its model; a pair is a step here and a step there, one after the other. Without --update: forward and backward of a packed micro-batch, as in
benchmarks.learner. With it: the whole update of the quickstart's size by a real rank (DeepSpeed), packing included: 64 prompts of 66 tokens, four
answers each. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import environment

HERE = Path(__file__).parents[1]
WARM = 2


class Side:
    """A process in which a script of this folder serves one tree: a line of JSON in, one out."""

    def __init__(self, tree: Path, script: str, argument: str) -> None:
        variables = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "benchmarks" / script), argument]
        self.process = subprocess.Popen(command, cwd=tree, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(what), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--answers", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--visual", type=int, nargs="+", default=[1024])
    parser.add_argument("--length", type=int, nargs="+", default=[256])
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    serve = "update" if options.update else "step"
    here, there = (Side(tree, "against_side.py", serve) for tree in (HERE, options.other.absolute()))
    size = {"hidden": options.hidden, "layers": options.layers}
    shapes: list[dict[str, int]] = [{}]
    if not options.update:
        shapes = [{"visual": v, "length": length, "answers": m} for v in options.visual for length in options.length for m in options.answers]
    found = []
    for shape in shapes:
        asked = shape | ({} if options.update else {"prompts": options.prompts, **size})
        for _ in range(WARM):
            here.ask(**asked), there.ask(**asked)
        pairs = [(here.ask(**asked), there.ask(**asked)) for _ in range(options.pairs)]
        found.append(shape | medians(pairs))
        print("  ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=options.other, capture_output=True, text=True).stdout.strip()
    kind = "update" if options.update else "step"
    print(json.dumps({"benchmark": "against", "kind": kind, "other": commit, "environment": environment(), **({} if options.update else size), "found": found}))


def medians(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """CPU seconds of both, how many times faster this tree is (the median over pairs), and peak memory where it was measured."""
    ratios = [old["cpu_s"] / new["cpu_s"] for new, old in pairs]
    said = {"cpu_s": statistics.median(new["cpu_s"] for new, _ in pairs), "other_cpu_s": statistics.median(old["cpu_s"] for _, old in pairs)}
    said |= {"times_faster": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    if "peak_bytes" in pairs[0][0]:
        peaks = [statistics.median(side["peak_bytes"] for side in sides) for sides in zip(*pairs, strict=True)]
        said |= {"peak_MiB": peaks[0] / 2**20, "other_peak_MiB": peaks[1] / 2**20, "peak_share": peaks[0] / peaks[1]}
    return said


if __name__ == "__main__":
    main()
