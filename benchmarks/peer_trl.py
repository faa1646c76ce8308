"""Against TRL's GRPOTrainer: seconds per step, learning and generation apart, and peak memory, of the same tiny model on the same questions.

    python -m benchmarks.peer_trl CONFIG [key=value ...] --out FOLDER --peer PYTHON [--steps 8] [--pixels 84]

PYTHON is an interpreter with benchmarks/requirements-peer-trl.txt installed. TRL takes no video, so it is shown images: as many as give its prompts
at least as many visual tokens as ours, which is half of our frames (Qwen puts two frames into one token). One variant, eight answers to each of
16 questions, the same prompts, lengths and number of threads; each in turn alone on the machine. `--pixels`: a clip of that side,
made here, in place of the config's clips, for longer prompts. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import environment
from benchmarks.memory import shared_once
from benchmarks.quickstart import read_rows, run_parser
from benchmarks.variants import make_clip
from rlvid.config import Config, load
from rlvid.data.prompts import question_text
from rlvid.data.questions import iter_questions
from rlvid.types import Question

QUESTIONS, ANSWERS = 16, 8
WARM_UP = 2
"""Steps at the start that are not counted."""


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--peer", required=True, help="interpreter that has TRL")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=None)
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = configured(options)
    (ours, our_peak), (theirs, their_peak) = run_ours(config, options), run_theirs(config, options)
    found = {
        **{f"ours, {part}": value for part, value in ours.items()},
        **{f"TRL, {part}": value for part, value in theirs.items()},
        "TRL over ours, step": theirs["step, s"] / ours["step, s"],
        "TRL over ours, learning": theirs["learning, s"] / ours["learning, s"],
        "TRL over ours, generation": theirs["generation, s"] / ours["generation, s"],
        "ours, peak memory of all processes, GiB": our_peak / 2**30,
        "TRL, peak memory, GiB": their_peak / 2**30,
    }
    for name, value in found.items():
        print(f"{name:50s} {value:.3f}")
    print(json.dumps({"benchmark": "peer_trl", "environment": environment(), "steps": options.steps, "pixels": options.pixels, "found": found}))


def configured(options: argparse.Namespace) -> Config:
    """The run of ours that is measured."""
    settings = [f"run.dir={options.out}", "run.name=ours", f"run.steps={options.steps + WARM_UP}", "run.save_every=0", "data.eval=", "report.enabled=false"]
    settings += ["tracker.kind=none", "variants.kinds=[uniform]", f"rollout.answers={ANSWERS}", f"data.questions_per_step={QUESTIONS}"]
    settings += options.overrides
    if options.pixels:  # after what the user set: the clips of that side replace the user's questions
        given = load(options.config, options.overrides)
        settings += [f"data.train={large_world(given, options)}", f"model.path={large_model(given, options)}", f"video.max_pixels={options.pixels**2}"]
        settings += ["video.max_tokens=2048", "rollout.max_model_len=4096", "learner.micro_batch_tokens=2048"]
    return load(options.config, settings)


def large_world(config: Config, options: argparse.Namespace) -> Path:
    """The config's questions about one clip of that side, eight seconds long."""
    folder = options.out / f"side-{options.pixels}"
    folder.mkdir(exist_ok=True)
    clip = make_clip(folder.absolute() / "clip.mp4", seconds=8, size=(options.pixels, options.pixels), fps=4)
    rows = [json.loads(line) | {"video": clip} for line in Path(str(config.data.train)).read_text().splitlines()]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl"


def large_model(config: Config, options: argparse.Namespace) -> Path:
    """The config's model, with processors that show frames of that side whole."""
    from transformers import AutoProcessor

    folder = options.out / "model"
    shutil.copytree(config.model.path, folder, dirs_exist_ok=True)
    processor = AutoProcessor.from_pretrained(folder)
    for part in (processor.image_processor, processor.video_processor):
        part.size = {"shortest_edge": part.size["shortest_edge"], "longest_edge": options.pixels**2}
    processor.save_pretrained(folder)
    return folder.absolute()


# --- ours


def run_ours(config: Config, options: argparse.Namespace) -> tuple[dict[str, float], int]:
    path = options.out / "ours.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    peak = watched([sys.executable, "-m", "rlvid.cli", "train", str(path)])
    rows = [row for row in read_rows(config.folder) if row["step"] > WARM_UP]
    slots = [json.loads(line) for line in (config.folder / "rollouts" / f"step_{len(rows) + WARM_UP:06d}.jsonl").read_text().splitlines()]
    slots = [slot for slot in slots if "sample" in slot]

    def median(*names: str) -> float:
        return statistics.median(sum(row[f"time/{name}_s"] for name in names) for row in rows)

    found = {"step, s": median("step"), "learning, s": median("learn"), "generation, s": median("sample"), "new weights, s": median("sync")}
    return found | lengths([slot["prompt_tokens"] for slot in slots], [slot["answer_tokens"] for slot in slots]), peak


def lengths(prompts: list[int], answers: list[int]) -> dict[str, float]:
    return {"tokens of a prompt": statistics.fmean(prompts), "tokens of an answer": statistics.fmean(answers)}


# --- TRL


def run_theirs(config: Config, options: argparse.Namespace) -> tuple[dict[str, float], int]:
    """TRL's trainer in an interpreter and a process of its own; it writes what it measured into a file."""
    job = options.out / "job.json"
    questions = [question for question, _ in zip(iter_questions(str(config.data.train)), range(QUESTIONS * (options.steps + WARM_UP)), strict=False)]
    job.write_text(
        json.dumps(
            {
                "model": config.model.path,
                "rows": [row_for(config, question, at, options.out / "frames") for at, question in enumerate(questions)],
                "questions": QUESTIONS,
                "answers": ANSWERS,
                "answer_tokens": config.rollout.max_tokens,
                "steps": options.steps + WARM_UP,
                "lr": config.learner.lr,
                "threads": max(config.rollout.threads, config.learner.threads),
                "rows_at_a_time": 8 if options.pixels else 32,
                "out": str(options.out / "trl"),
            }
        )
    )
    peak = watched([options.peer, str(Path(__file__).with_name("peer_trl_side.py")), str(job)])
    told = json.loads((options.out / "trl" / "measured.json").read_text())
    steps = told["steps"][WARM_UP:]
    found = {
        "step, s": statistics.median(step["step"] for step in steps),
        "learning, s": statistics.median(step["step"] - step["generation"] for step in steps),
        "generation, s": statistics.median(step["generation"] for step in steps),
    }
    return found | lengths(told["prompt_tokens"], told["answer_tokens"]), peak


def row_for(config: Config, question: Question, at: int, folder: Path) -> dict[str, Any]:
    """Prompt text, answer, and half of our frames as lossless images."""
    from PIL import Image

    from rlvid.video.clip import read_candidates, shown_size

    def size_for(height: int, width: int) -> tuple[int, int]:
        return shown_size(height, width, max_pixels=config.video.max_pixels, factor=28)

    folder.mkdir(exist_ok=True)
    clip = read_candidates(question.video, candidates=config.video.frames // 2, clip=None, size_for=size_for, zoom=1.0)
    images = []
    for number, frame in enumerate(clip.frames_NHWC):
        images.append(str((folder / f"{at}-{number}.png").absolute()))
        Image.fromarray(frame).save(images[-1])
    return {"prompt": question_text(question, config.prompt.instructions, config.prompt.format or ""), "images": images, "answer": question.answer}


def watched(command: list[str]) -> int:
    """Run to the end. Returns the peak of the memory of the process and all below it, in bytes, shared pages counted once."""
    process = subprocess.Popen(command)
    over, peak = threading.Event(), 0

    def look() -> None:
        nonlocal peak
        while not over.wait(1.0):
            peak = max(peak, sum(map(shared_once, [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)])))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    code = process.wait()
    over.set()
    if code:
        raise SystemExit(f"{command[:3]} ended with {code}")
    return peak


if __name__ == "__main__":
    main()
