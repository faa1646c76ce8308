"""Part of hour.py that runs in each tree's own process: a line of JSON names a video and views, a fresh child builds them and says what that took."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = ""  # the tree that this process stands for, not the one that this file lies in


def main() -> None:
    from rlvid.actors.variant import VariantActor
    from rlvid.config import load

    actor = VariantActor(load("configs/quickstart.yaml", json.loads(sys.argv[1])), 0)
    actor.start()
    for line in sys.stdin:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            if status:
                raise SystemExit(f"a child ended with {status}")
        else:
            print(json.dumps(built(actor, **json.loads(line))), flush=True)
            os._exit(0)


def built(actor: Any, video: str, warm: str, kinds: list[str]) -> dict[str, Any]:
    from rlvid.types import Question

    actor.build(Question("warm", warm, "What happens?", "open", answer="red"), tuple(kinds), 0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, cpu, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    prepared, *frames = actor.build(Question("q", video, "What happens?", "open", answer="red"), tuple(kinds), 0)
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    peak = memory("VmHWM")
    if len(frames) != len(kinds) or any(one is None for one in frames):
        raise SystemExit(f"no views: {prepared}")
    candidates = len(prepared.relevance.times_s) if prepared.relevance else None
    seen = {"candidates": candidates, "times_s": [spec.times_s for spec in prepared.specs]}
    return took | {"peak_MiB": peak, "more_MiB": peak - before} | seen


def memory(name: str) -> float:
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))) / 1024


if __name__ == "__main__":
    main()
