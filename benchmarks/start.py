"""What does a start of the learner take of host memory? Its ranks read a model of random weights, with and without a reference policy.

    python -m benchmarks.start [--before WORKTREE] [--parameters 500] [--ranks 2] [--stage 3] [--out FOLDER]

Each rank is a process of its own on this machine, without GPU. Measured is the most memory that a rank held while the model came in (VmHWM, above
what it held before: interpreter and libraries), and until its DeepSpeed engine stood, which adds gradients and master weights;
beside it what `rlvid plan` says.
`--before`: a work tree of another commit, measured in the same way, in the same run. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.environment import environment

ROOT = Path(__file__).parents[1]
MIB = 2**20
RANK = """
import json, sys
from rlvid.config import load
from rlvid.learner.rank import Meeting, Rank
import deepspeed, torch, transformers

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

number, port = int(sys.argv[1]), int(sys.argv[2])
rank = Rank(load(sys.argv[3], sys.argv[4:]), number)
torch.set_num_threads(1)
rank._join(Meeting("127.0.0.1", port))
transformers.AutoProcessor.from_pretrained(rank.config.model.path)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
rank._load_model()
loaded = memory("VmHWM") - before
rank._build_engine()
print(json.dumps({"model read": loaded, "engine built": memory("VmHWM") - before}), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="work tree of another commit")
    parser.add_argument("--parameters", type=float, default=500, help="millions")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the model, which is used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        model, parameters = make_model(arguments.out or Path(own), arguments.parameters * 1e6)
        rows = measured(arguments, model, parameters)
    print(table(rows, parameters, arguments.ranks))
    print(json.dumps({"benchmark": "start", "environment": environment(), "parameters": parameters, "ranks": arguments.ranks, "rows": rows}))


def measured(arguments: argparse.Namespace, model: Path, parameters: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    trees = {"here": ROOT} | ({"before": arguments.before.absolute()} if arguments.before else {})
    for kl in (0.0, 0.01):
        settings = [f"model.path={model}", f"learner.ranks={arguments.ranks}", f"learner.zero_stage={arguments.stage}", f"loss.kl_coef={kl}"]
        for name, tree in trees.items():
            peaks = start(tree, arguments.ranks, settings)
            row: dict[str, object] = {"tree": name, "reference": kl > 0, "most of a rank": max(peak["model read"] for peak in peaks)}
            row["until the engine stands"] = max(peak["engine built"] for peak in peaks)
            rows.append(row | ({"plan": planned(settings)} if name == "here" else {}))
    return rows


def planned(settings: list[str]) -> int:
    from rlvid.config import load
    from rlvid.plan.model_size import model_size
    from rlvid.plan.reckoning import start_bytes

    config = load(ROOT / "configs" / "quickstart.yaml", settings)
    return start_bytes(config, model_size(config.model.path))["host"]


def start(tree: Path, ranks: int, settings: list[str]) -> list[dict[str, int]]:
    """Peaks of each rank. Both run at the same time: they meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    config = str(tree / "configs" / "quickstart.yaml")
    commands = [[sys.executable, "-c", RANK, str(number), str(port), config, *settings] for number in range(ranks)]
    running = [subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    peaks = []
    for process in running:
        out, err = process.communicate(timeout=1800)
        if process.returncode:
            raise RuntimeError(err[-3000:])
        peaks.append(json.loads(out.splitlines()[-1]))
    return peaks


def make_model(folder: Path, wanted: float) -> tuple[Path, int]:
    """A Qwen2.5-VL of random weights of about so many parameters: layers of 12 M, in several files as large checkpoints have them."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from rlvid.world.tiny_model import build_tiny_model

    path = folder / f"model-{wanted / 1e6:.0f}m"
    if not (path / "config.json").exists():
        build_tiny_model(path, ["a", "question"])
        tree = json.loads((path / "config.json").read_text())
        hidden, layers = (1024, max(1, round(wanted / 12.6e6))) if wanted >= 1e8 else (256, max(1, round(wanted / 0.79e6)))
        tree["text_config"] |= {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 64}
        tree["text_config"] |= {"num_key_value_heads": hidden // 128, "layer_types": ["full_attention"] * layers}
        tree["text_config"]["rope_parameters"]["mrope_section"] = [8, 12, 12]
        tree["vision_config"]["out_hidden_size"] = hidden
        (path / "config.json").write_text(json.dumps(tree))
        (path / "model.safetensors").unlink()
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32).save_pretrained(path, max_shard_size="500MB")
    from rlvid.learner.pieces import stored_tensors

    return path, sum(stored.size // 4 for stored in stored_tensors(path).values())


def table(rows: list[dict[str, object]], parameters: int, ranks: int) -> str:
    """Markdown: MiB, and times a rank's share of the model."""
    share = 4 * parameters / ranks
    lines = ["| tree | reference | most while the model comes in | x (model / ranks) | until the engine stands | plan |", "|---|---|---|---|---|---|"]
    for row in rows:
        most, later = float(str(row["most of a rank"])), float(str(row["until the engine stands"]))
        plan = f"{float(str(row['plan'])) / MIB:,.0f} MiB" if "plan" in row else ""
        cells = [row["tree"], "yes" if row["reference"] else "no", f"{most / MIB:,.0f} MiB", f"{most / share:.2f}", f"{later / MIB:,.0f} MiB", plan]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
