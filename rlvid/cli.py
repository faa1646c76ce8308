"""The command line. No logic: arguments in, exit codes out (0 done, 1 failed, 2 wrong input, 130 interrupted)."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from rlvid.config import Config, ConfigError, load

app = typer.Typer(
    help="Reinforcement learning that teaches video-language models to answer questions about videos.", no_args_is_help=True, add_completion=False
)
data_app = typer.Typer(help="Question files: make, check.", no_args_is_help=True)
app.add_typer(data_app, name="data")

ConfigFile = Annotated[Path, typer.Argument(help="YAML file, see configs/.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings that replace the file's, as key.sub=value.", show_default=False)]


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check config, questions and model, print what would run, and stop.")] = False,
) -> None:
    """Train a policy. A run of the same name goes on from its last whole checkpoint.

    Example: rlvid train configs/quickstart.yaml learner.lr=1e-4 run.name=try-2
    """
    settings = load(config, overrides or [])
    _check_inputs(settings)
    if dry_run:
        print(settings.dump())
        return
    from rlvid import train as training

    folder = training.run(settings)
    _summary(folder)


@app.command("eval")
def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Hugging Face checkpoint folder, such as runs/NAME/export.")] = ...,  # type: ignore[assignment]
    data: Annotated[Path | None, typer.Option("--data", help="Question file; default: the config's data.eval.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for metrics.json and predictions.jsonl; default: in the run folder.")] = None,
) -> None:
    """Greedy answers to held-out questions, scored by task and source.

    Example: rlvid eval configs/quickstart.yaml --checkpoint runs/quickstart/export
    """
    from rlvid import evaluate as evaluation

    settings = load(config, overrides or [])
    _must_exist(checkpoint, "--checkpoint")
    metrics = evaluation.run(settings, checkpoint, data, out)
    _print_table("held-out", metrics)


@app.command()
def doctor(model: Annotated[Path | None, typer.Option("--model", help="A checkpoint folder to check too.")] = None) -> None:
    """Check versions, devices, decoder, ports, memory and disk of this machine, and name the cure for each fault found."""
    from rlvid.doctor import run_checks

    checks = run_checks(model)
    table = Table("check", "", "detail", "cure")
    for check in checks:
        table.add_row(check.name, {"ok": "[green]ok", "warn": "[yellow]warn", "fail": "[red]fail"}[check.status], check.detail, check.cure)
    Console().print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@data_app.command("quickstart")
def data_quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path(".quickstart/qwen2_5_vl"),
    model: Annotated[str, typer.Option("--model", help="qwen2_5_vl or qwen3_vl.")] = "qwen2_5_vl",
    seed: Annotated[int, typer.Option("--seed", help="World, initial weights and warm start are drawn from it.")] = 0,
) -> None:
    """Render the quickstart's clips and questions, build its tiny model and warm-start it. Cached by recipe.

    Example: rlvid data quickstart --out .quickstart/qwen2_5_vl
    """
    from rlvid.data.quickstart import build_world

    if model not in ("qwen2_5_vl", "qwen3_vl"):
        raise ConfigError(f"--model {model}: qwen2_5_vl or qwen3_vl")
    world = build_world(out, seed=seed, model=model)  # type: ignore[arg-type]
    print(f"questions {world.train} and {world.eval}\nmodel     {world.model}")


@data_app.command("check")
def data_check(file: Annotated[Path, typer.Argument(help="Question file (JSON lines).")]) -> None:
    """Read a whole question file and count what is wrong with it, with examples. Exit code 2 if nothing is usable.

    Example: rlvid data check questions.jsonl
    """
    from rlvid.data.questions import check

    report = check(file)
    print(report.text())
    if not report.questions:
        raise typer.Exit(2)


def _check_inputs(config: Config) -> None:
    """Everything that can be wrong before a single actor starts."""
    from rlvid.data.stream import QuestionStream

    for key, path in (("data.train", config.data.train), ("data.eval", config.data.eval)):
        if path is not None:
            _must_exist(path, key)
            QuestionStream(path, seed=config.run.seed)


def _must_exist(path: Path, key: str) -> None:
    if not Path(path).exists():
        raise ConfigError(f"{key}: {path} does not exist")


def _summary(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    before, after = ({key: row[key] for key in row if key.startswith("eval/")} for row in (rows[0], rows[-1]))
    if after:
        _print_table("held-out", after, before)
    print(f"metrics {folder / 'metrics.jsonl'}\npolicy  {folder / 'export'}\nslots   {folder / 'rollouts'}")


def _print_table(title: str, after: dict[str, float], before: dict[str, float] | None = None) -> None:
    table = Table(title, *(["before", "after"] if before else ["value"]))
    for name, value in after.items():
        cells = [f"{before[name]:.3f}"] if before and name in before else ([""] if before else [])
        table.add_row(name.removeprefix("eval/"), *cells, f"{value:.3f}")
    Console().print(table)


def main() -> None:
    """Entry point: turns exceptions into exit codes and one clear line."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False)]
    )
    logging.getLogger("rlvid").setLevel(logging.INFO)
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except ValueError as error:
        from rlvid.data.questions import QuestionError

        if not isinstance(error, ConfigError | QuestionError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
