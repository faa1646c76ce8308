"""The command line. No logic: arguments in, exit codes out (0 done, 1 failed, 2 wrong input, 130 interrupted)."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rlvid.families import FAMILIES
from rlvid.observe.terminal import duration, screen_handler
from rlvid.process.one_line import printable

if TYPE_CHECKING:  # half of the time that `--help` takes
    from rlvid.config import Config

log = logging.getLogger("rlvid")

MANUAL = """Reinforcement learning that teaches video-language models to answer questions about videos.

First run: rlvid data quickstart, then rlvid train configs/quickstart.yaml. Each command has its manual: rlvid COMMAND --help. Each setting has its own in
rlvid/config/, a file a section.

Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted.
"""

app = typer.Typer(help=MANUAL, no_args_is_help=True, add_completion=False)
data_app = typer.Typer(help="Question files: make, convert, check.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DRIVER_LOG = "driver.log"

ConfigFile = Annotated[Path, typer.Argument(help="YAML file; configs/ holds ready ones, rlvid/config/ says what each key means.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings that replace the file's, such as learner.lr=1e-6. Default: none.", show_default=False)]


def _version(asked: bool) -> None:
    if asked:
        print(f"rlvid {version('rlvid')}")
        raise typer.Exit


@app.callback()
def _app(show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check config, questions and model folder, print the whole config, and stop. Default: train.")
    ] = False,
    rollout_only: Annotated[
        bool, typer.Option("--rollout-only", help="Sample, score and dump into the run NAME-rollout-only; nothing is learned. Default: train.")
    ] = False,
    verify_sync: Annotated[
        bool, typer.Option("--verify-sync", help="Compare checksums of engines and learner after every sync, noted in log.txt. Default: sync.verify (on).")
    ] = False,
) -> None:
    """Train a policy. A run of the same name goes on from its last whole checkpoint.

    Example: rlvid train configs/quickstart.yaml learner.lr=1e-4 run.name=try-2

    CONFIG may start from another file (`extends: quickstart.yaml`), and every key can be overridden (data.eval=null: no held-out questions). The question file
    is described by `rlvid data check --help`.

    \b
    Views and how much is asked
      variants.kinds     one view of the video each; rlvid/variants/explore.py has the table: uniform, importance, importance_jitter,
                         importance_crop, crop, multi_scale, random_jitter, random_crop. All keep order, cover the timeline, tell true times
      relevance.scorer   what matters to the question: clip (any CLIP or SigLIP checkpoint) or motion, where none is at hand
      rollout.answers    answers on each view; advantage.group says over what they are normalized (joint, per_variant, batch)
      data.filter        variance: questions that taught nothing rest for some epochs
      video.cache_dir    decoded candidates stay on disk

    \b
    A teacher for failed answers (repair.enabled: true)
      teacher.kind       annotation (the question file's evidence), chat (any OpenAI-compatible endpoint, deploy/teacher serves one), or
                         engine (a vLLM engine of the run's own). Hints that give the answer away are refused by rules in code

    \b
    A reward of your own: a function in a module beside you, def polite(question, text): return {"polite": float("please" in text)}
      reward.custom=my_rewards:polite  and in the file  weights: {open: {accuracy: 1.0, format: 0.5, polite: 0.2}}

    \b
    How far to spread
      rollout.engines, variants.actors, learner.ranks, learner.zero_stage; a placement group reserves the places
      RAY_ADDRESS or cluster.address names the head node of a cluster; `rlvid submit` sends the run there
      resources: {NAME: 1} of a role puts it on nodes that have NAME; rollout.max_engines lets engines join as nodes come
      rollout.max_staleness: 1 samples the next batch during the update (truncated importance sampling corrects);
      sync.mode says what new weights do to answers under way: wait (they end first) or keep (they go on with the new ones)
      rollout.repeatable: true makes a run repeat itself to the last bit

    \b
    What dies comes back
      a broken video is quarantined with its reason and replaced; a dead or frozen engine, variant actor or teacher is noticed
      (rollout.heartbeat_s), its work goes to the others, and it is replaced; lost frames are built again from their specs; a dead learner
      rank or driver ends the job with a code, and it goes on when started again: same data order, same seeds, other learner.ranks too

    \b
    What a run writes, into run.dir/run.name
      config.yaml      as resolved                       report.html   what the policy saw, said and earned (rlvid report)
      metrics.jsonl    a row a step (rlvid report --help explains the names)
      rollouts/        a row a slot: spec, text, reward parts, advantage, seed, version
      checkpoints/     the last ones, whole              export/       a Hugging Face checkpoint for from_pretrained and vLLM
      log.txt, logs/   rlvid's own lines; what engines, learner, Ray and libraries say, and what functions of your own print (logs/driver.log)
      wandb/           offline without WANDB_API_KEY: wandb sync runs/NAME/wandb/offline-run-*   (tracker.kind: wandb, tensorboard, none)
    """
    from rlvid.config import load
    from rlvid.families.checkpoint import stay_offline_without_hub

    settings = load(config, [*(overrides or []), *(["sync.verify=true"] if verify_sync else [])])
    if rollout_only:
        settings = load(config, [*(overrides or []), f"run.name={settings.run.name}-rollout-only"])
    _check_inputs(settings)
    if dry_run:
        print(settings.dump())
        print(_frames_told(settings), end="")
        return
    stay_offline_without_hub(settings.model.path)
    if rollout_only:
        from rlvid import doors

        with _libraries_apart(settings):
            folder = doors.rollout_only(settings)
    else:
        from rlvid import train as training

        with _libraries_apart(settings):
            folder = training.run(settings)
    _summary(folder)


@app.command()
def sft(config: ConfigFile, overrides: Overrides = None) -> None:
    """Supervised fine-tuning on the `reply` of every question: a cold start for `rlvid train`, with the same config.

    Example: rlvid sft configs/quickstart.yaml data.train=replies.jsonl run.name=cold run.steps=100 learner.lr=1e-5

    The same questions, variants, learner and checkpoints as training; the loss is the cross-entropy of the replies' tokens, each under every view of
    variants.kinds (variants.kinds=[uniform]: the plain one alone). loss.aggregation, learner.lora, ZeRO and sequence lengths hold as ever. Engines start only
    where data.eval names held-out questions. The run's export is a model.path for `rlvid train`; a run of the same name goes on from its last checkpoint.

    A line of the file has a reply beside what `rlvid data check --help` lists: {"reply": "<think>at 3</think><answer>red</answer>", ...}. To mix such replies
    into groups of sampled answers: rollout.stored_replies=true in `rlvid train`.
    """
    from rlvid.config import load
    from rlvid.families.checkpoint import stay_offline_without_hub

    settings = load(config, overrides or [])
    _check_inputs(settings)
    from rlvid.loop.replies import check_replies

    check_replies(settings.data.train, settings.data.skipped)
    stay_offline_without_hub(settings.model.path)
    from rlvid import train as training

    with _libraries_apart(settings):
        folder = training.imitate(settings)
    _summary(folder)


@app.command("eval")
def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Hugging Face checkpoint folder, such as runs/NAME/export.")] = ...,  # type: ignore[assignment]
    data: Annotated[Path | None, typer.Option("--data", help="Question file. Default: the config's data.eval.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for metrics and predictions. Default: eval/CHECKPOINT in the checkpoint's run folder, or the config's."),
    ] = None,
) -> None:
    """Greedy answers to held-out questions, scored by task and source, and as their benchmark does.

    Killed and started again, it goes on where it stopped.

    Example: rlvid eval configs/quickstart.yaml --checkpoint runs/quickstart/export

    Each question is asked once, greedily, on the even view that users have. Writes metrics.json, metrics.csv and predictions.jsonl. Questions of a published
    benchmark are scored by its own metrics too: eval/charades_sta/R1@0.5, eval/videomme/accuracy_long. The independent check is lmms-eval, with prompts and
    readers of its own, on the same checkpoint; it needs an environment of its own (deploy/README.md).
    """
    from rlvid.config import load
    from rlvid.families.checkpoint import stay_offline_without_hub

    settings = load(config, overrides or [])
    _check_eval_inputs(settings, checkpoint, data, out)
    stay_offline_without_hub(str(checkpoint))
    from rlvid.asking import evaluate as evaluation

    with _libraries_apart(settings):
        metrics = evaluation.run(settings, checkpoint, data, out)
    _print_table("held-out", metrics)


@app.command()
def select(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Question file to write; journal, statistics, report and picture come to lie beside it.")] = ...,  # type: ignore[assignment]
) -> None:
    """Ask every question of data.train several times and keep those that teach something: answers that differ, times that are found now and then.

    Killed and started again, it goes on where it stopped. The kept file is a question file for `rlvid train`.

    Example: rlvid select configs/quickstart.yaml --out .quickstart/kept.jsonl select.repeats=8

    Kept are questions whose answers are neither all right nor all wrong and, for grounding, whose temporal IoU varies and is good at its best (section
    `select` of the config). Other thresholds judge again without asking again. It pays where there are far more questions than steps, most of them too easy
    or too hard. `data.filter: variance` does the same while training goes.
    """
    from rlvid.config import load
    from rlvid.families.checkpoint import stay_offline_without_hub

    settings = load(config, overrides or [])
    _check_select_inputs(settings, out)
    stay_offline_without_hub(settings.model.path)
    from rlvid.asking import select as selection

    with _libraries_apart(settings):
        kept = selection.run(settings, out)
    _print_selection(kept.to_json(), out)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Run folder, such as runs/quickstart.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="File to write. Default: report.html in the run folder.")] = None,
    step: Annotated[list[int] | None, typer.Option("--step", help="Show this step; may be given several times. Default: evenly spaced steps.")] = None,
    question: Annotated[list[str] | None, typer.Option("--question", help="Id of a question that must have pictures; may be given several times.")] = None,
) -> None:
    """One HTML file that shows what the policy saw, said and earned: learning curves and the whole story of chosen questions.

    It opens from disk, loads nothing, sends nothing. The `report` section of the run's config says how large it may become. Training writes it too, at
    every checkpoint and at its end.

    Example: rlvid report runs/quickstart --step 40 --out look.html

    \b
    The metrics, as curves, in metrics.jsonl and in the tracker
      reward/mean, reward/PART         mean over the step's slots; each part over the tasks that have it; correct/SOURCE: share of right answers
      group/zero_signal_share          groups whose K x M accuracies are all equal: they teach nothing
      group/zero_signal_share_text_only  the same if every variant were a group of its own, on the same rollouts
      group/reward_std                 mean standard deviation of rewards within a group
      variants/*                       seconds of decoding, scoring, cutting; clips from the cache; variants drawn anew
      repair/*                         share: slots answered twice; success_share: right second answers; blind_share: right second tries without evidence
      teacher/*                        asked, leaked, refused, failed, tokens; leak_share of those asked; blind_right against blind_chance
      mismatch/mean_abs_dlogp, kl      sampler against learner, per answer token
      mismatch/experts                 of a model with experts: choices of the sampler that the learner makes otherwise (sync.experts); _unknown: not told
      staleness/max                    updates between the oldest weights that sampled a token and those it teaches; 0 is strictly on-policy
      sync/version, bytes, pause_s     weights on all engines after the step; bytes of a push; the longest that an engine stood still for it
      policy/entropy                   mean of -log p of the sampled tokens, in nats
      optimizer/*, loss/*              gradient norm, rate, the update
      time/*_s                         sample, within it variants and rollout; learn, sync, eval, step; overlapped: wait, what the learner waited
      driver/bytes, memory/host_rss_bytes  what passed through the driver, and its memory
      data/quarantined                 questions set aside so far because of their video
      eval/*                           held-out, greedy, uniform view: accuracy, temporal_iou, iou, iou@0.5, st_iou (vIoU), st_iou@0.3,
                                       st_iou@0.5, format, both_right, and each by source
    """
    from rlvid.observe.report.page import write_report

    if out is not None:
        if out.is_dir():
            _refuse(f"--out: {out} is a folder (name a file, such as {out / 'report.html'})")
        _must_be_writable(out.parent, "--out")
        out.parent.mkdir(parents=True, exist_ok=True)
    print(f"report {write_report(run_dir, out, steps=step or (), questions=question or ())}")


@app.command()
def replay(
    run_dir: Annotated[Path, typer.Argument(help="Run folder, such as runs/quickstart.", show_default=False)],
    step: Annotated[int, typer.Option("--step", min=1, help="The dumped step to learn again.")] = ...,  # type: ignore[assignment]
) -> None:
    """Send a dumped step through the learner again and compare with what the run wrote: same loss, same gradient norm, same advantages.

    It starts from the last checkpoint before the step (or from the model the run started with) and goes over the steps between. Pixels are cut from the
    videos again. Exit code 1 if a number differs by more than float sums do.

    Example: rlvid replay runs/quickstart --step 42
    """
    from rlvid import doors
    from rlvid.process.log import libraries_to

    with libraries_to(run_dir / "logs" / DRIVER_LOG) if (run_dir / "logs").is_dir() else contextlib.nullcontext():
        numbers = doors.replay(run_dir, step)
    table = Table(f"step {step}", "written", "again", "")
    for number in numbers:
        table.add_row(number.name, f"{number.written:.8g}", f"{number.again:.8g}", "[green]same" if number.same else "[red]differs")
    Console().print(table)
    if not all(number.same for number in numbers):
        raise typer.Exit(1)


@app.command()
def doctor(model: Annotated[Path | None, typer.Option("--model", help="A checkpoint folder to check too. Default: none.")] = None) -> None:
    """Check versions, devices, decoder, ports, memory and disk of this machine, and name the cure for each fault found.

    Example: rlvid doctor --model .quickstart/qwen2_5_vl/model
    """
    if model is not None:
        from rlvid.families.checkpoint import check_model_path

        check_model_path(str(model), "--model")
    from rlvid.doctor import run_checks

    checks = run_checks(model)
    table = Table("check", "", Column("detail", overflow="fold"), Column("cure", overflow="fold"))
    for check in checks:
        table.add_row(check.name, {"ok": "[green]ok", "warn": "[yellow]warn", "fail": "[red]fail"}[check.status], check.detail, check.cure)
    Console().print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    gpu_memory_gib: Annotated[float, typer.Option("--gpu-memory-gib", min=1, help="Memory of each GPU, where the config uses GPUs.")] = 80.0,
    text_tokens: Annotated[int, typer.Option("--text-tokens", min=1, help="Tokens of a prompt beside its video.")] = 200,
    answer_tokens: Annotated[int, typer.Option("--answer-tokens", min=0, help="Mean tokens of an answer. Default 0: rollout.max_tokens.")] = 0,
    measured: Annotated[Path | None, typer.Option("--measured", help="Run folder to take rates and lengths from. Default: no time is given.")] = None,
    engine_tokens_per_s: Annotated[float | None, typer.Option(help="Answer tokens per second of one engine. Default: unknown.")] = None,
    learner_tokens_per_s: Annotated[float | None, typer.Option(help="Tokens per second of one learner rank. Default: unknown.")] = None,
    video: Annotated[Path | None, typer.Option("--video", help="A file: how many frames, how large, it would get. Default: none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object. Default: tables.")] = False,
) -> None:
    """Memory, tokens and bytes that a config asks for, and what to change, from the model's config.json alone: nothing is started, no weight is read.

    Example: rlvid plan configs/quickstart.yaml rollout.answers=8 --measured runs/quickstart
    """
    from rlvid.config import load

    settings = load(config, overrides or [])
    from rlvid.plan import report
    from rlvid.plan.reckoning import Assumed

    assumed = Assumed(gpu_memory_gib, text_tokens, answer_tokens)
    found = report.run(settings, assumed, measured_run=measured, stated=(engine_tokens_per_s, learner_tokens_per_s), video=video)
    if as_json:
        print(json.dumps(found))
    else:
        report.show(settings, found, Console())


@app.command()
def submit(
    config: Annotated[Path | None, typer.Argument(help="YAML file inside the working folder. Required but with --follow, --stop.", show_default=False)] = None,
    overrides: Overrides = None,
    address: Annotated[str | None, typer.Option("--address", help="Dashboard of the cluster, http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS.")] = None,
    working_dir: Annotated[Path, typer.Option("--working-dir", help="Folder that is packed, without videos, weights, runs and keys.")] = Path("."),
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Shell pattern of what else to leave out; repeatable. Default: none.")] = None,
    limit_mb: Annotated[float, typer.Option("--limit-mb", min=0, help="Largest working folder to pack, in megabytes.")] = 100.0,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="NAME of a variable to hand on; repeatable. Default: WANDB_API_KEY and HF_TOKEN, where set."),
    ] = None,
    python: Annotated[str, typer.Option("--python", help="Python of the cluster's nodes.")] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once submitted. Default: follow the output to the end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the job check its input on the cluster, and stop. Default: train.")] = False,
    follow: Annotated[str | None, typer.Option("--follow", help="JOB_ID of a job to follow, in place of submitting one. Default: none.")] = None,
    stop: Annotated[str | None, typer.Option("--stop", help="JOB_ID of a job to end, in place of submitting one. Default: none.")] = None,
) -> None:
    """Train on a Ray cluster as a job: pack this folder, submit, follow. Submitted again, a run goes on from its last whole checkpoint.

    The exit code is the job's. Ctrl-C asks whether the job is to end, too.

    Example: rlvid submit configs/strive_qwen2_5_vl_7b.yaml --address http://head:8265 run.dir=/shared/runs data.train=/shared/train.jsonl data.eval=null
    """
    from rlvid.jobs.submit import Jobs, Parcel, follow_or_stop

    if (config is None) == (follow is None and stop is None):
        _refuse("CONFIG: name the run's config, or one of --follow JOB_ID and --stop JOB_ID")
    jobs = Jobs(address)
    if stop is not None:
        print(f"job {stop}: {jobs.stop(stop)}")
        return
    if config is not None:
        parcel = Parcel(working_dir, tuple(exclude or ()), int(limit_mb * 1e6), tuple(env or ()), python)
        follow = jobs.submit(config, overrides or [], parcel, ["--dry-run"] if dry_run else [])
        print(f"job {follow} at {jobs.address}")
    if not no_wait:
        raise typer.Exit(follow_or_stop(jobs, follow or ""))


@data_app.command("quickstart")
def data_quickstart(
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make. Default: .quickstart and the model, or evidence.")] = None,
    model: Annotated[str, typer.Option("--model", help=f"{' or '.join(FAMILIES)}.")] = "qwen2_5_vl",
    seed: Annotated[int, typer.Option("--seed", help="World, initial weights and warm start are drawn from it.")] = 0,
    world: Annotated[str, typer.Option("--world", help="plain, mixed, lure, misread, blink or crowd: for what each is made, see below.")] = "plain",
    evidence: Annotated[bool, typer.Option("--evidence", help="Teach the model to read a teacher's evidence, for runs with repair. Default: not.")] = False,
) -> None:
    """Render the quickstart's clips and questions, build its tiny model and warm-start it, train a tiny CLIP on the clips. Cached by recipe.

    Example: rlvid data quickstart --out .quickstart/qwen2_5_vl

    \b
    Worlds, each for the premise of one method; configs/worlds has a config for each but the plain one
      plain    six kinds of questions; one view of a video already gives mixed answers
      mixed    plain's and, beside them, questions about images, two videos, both, and text alone: train.mixed.jsonl, eval.mixed.jsonl
      lure     STRIVE: the even view mostly misses a flash, and the policy names the wrong colour for certain; other views show it
      misread  distillation: every view is certain, the even one of a wrong answer
      blink    FFR: the questions of lure, and a model that reads a teacher's evidence
      crowd    Temporal-RLT: most questions are always right or always wrong

    What of the premise holds is measured on the warm-started model and kept as premise.json: accuracy by view, shares of unanimous groups, what a group can
    move. A world whose premise does not hold says nothing about its method.
    """
    from rlvid.world.premise import CLAIMS

    mixed, world = world == "mixed", "plain" if world == "mixed" else world
    if world not in CLAIMS:
        _refuse(f"--world: {world!r} is not {', '.join(('mixed', *CLAIMS))}")
    if evidence and world != "plain":
        _refuse(f"--evidence belongs to --world plain, not {world} (blink's model reads evidence)")
    if model not in FAMILIES:
        _refuse(f"--model: {model!r} is not {' or '.join(FAMILIES)}")
    out = out or Path(".quickstart") / ("evidence" if evidence else "mixed" if mixed else model if world == "plain" else world)
    _must_be_writable(out, "--out")
    from rlvid.process.log import libraries_to
    from rlvid.process.one_line import log_to

    said = out.absolute().with_name(f"{out.name}.log")
    with libraries_to(said):
        log_to(said)
        what = "a tiny CLIP: about 4 minutes" if world == "plain" else "its premise: about 2 minutes"
        log.info("clips and questions, a tiny model and its warm start, %s on two cores; all that is said goes to %s, too", what, said)
        from rlvid.world import premise
        from rlvid.world.scenes import build_world
        from rlvid.world.tiny_clip import build_tiny_clip

        built = build_world(out, seed=seed, model=model, course="evidence" if evidence else "plain", world=world)  # type: ignore[arg-type]
        relevance = build_tiny_clip(out, seed=seed) if world == "plain" else None
        if mixed:
            from rlvid.world.mixed import mix

            built = mix(built, seed=seed)
        measured = premise.read(out)
    _print_premise(measured)
    print(f"questions {built.train} and {built.eval}\nmodel     {built.model}" + (f"\nrelevance {relevance}" if relevance else ""))


@data_app.command("check")
def data_check(file: Annotated[Path, typer.Argument(help="Question file (JSON lines).")]) -> None:
    """Read a whole question file and count what is wrong with it, with examples.

    Training refuses a file with a wrong line, and leaves out the questions whose video is missing or empty. Exit code 2 if training would refuse the
    file or could use none of its questions.

    Example: rlvid data check questions.jsonl

    \b
    A line is a JSON object; all times are seconds of the file, paths relative to the question file
      id, question, task      required
      video                   a file, a folder of pictures or a list of them
      fps                     pictures a second, where `video` is a folder or a list
      image                   in place of `video`: a picture, or a list of them
      media                   or all in their order: \\[{"video": path}, {"image": path}, ...]; none of the three: a question of text alone. Where the
                              question (or its options) holds <video> and <image>, one for each, they stand there, in that order
      task                    one of multiple_choice, open, numeric, regression, math, temporal_grounding, grounded_qa, spatial_grounding, tracking or
                              spatio_temporal_grounding
      options, answer         the answer as an option's text or letter, a text, a number, or (math) a formula in LaTeX
      answers                 instead of `answer`: with options all that are right, each must be named; without, texts any of which is right
      spans                   \\[\\[start_s, end_s], ...], for temporal_grounding and grounded_qa; one for spatio_temporal_grounding
      box                     \\[x1, y1, x2, y2] in the one image, for spatial_grounding
      track                   \\[{"time_s": 3.0, "box": \\[x1, y1, x2, y2]}, ...] in the one video, for tracking and spatio_temporal_grounding
      box_size                \\[width, height] that box and track count in: \\[1, 1] (default) shares, \\[1000, 1000] thousandths, the picture's own size
                              pixels. Replies are asked for, and read, in thousandths
      span_mode               of several spans: any (default; one of them is asked for) or all
      evidence                {"spans": [...], "regions": [{"time_s": 3.0, "box": \\[x1, y1, x2, y2]}]}, for the annotation teacher
      clip                    \\[start_s, end_s], the part of the file that is asked about
      source                  a name by which metrics are told apart
      reply                   a whole reply, for rlvid sft and rollout.stored_replies: "<think>...</think><answer>red</answer>"
    """
    from rlvid.data.questions import check

    _must_exist(file, "FILE")
    report = check(file)
    print(report.text())
    if report.refused:
        raise typer.Exit(2)


@data_app.command("convert")
def data_convert(
    source: Annotated[str, typer.Argument(help="Name of the published format, or auto; rlvid data sources lists them.", show_default=False)],
    given: Annotated[str, typer.Argument(metavar="IN", help="File or folder as downloaded, or a hub id OWNER/NAME\\[:CONFIG]\\[@SPLIT].", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Question file to write (JSON lines).", show_default=False)],
    videos: Annotated[Path | None, typer.Option("--videos", help="Folder under which the videos lie. Default: the folder of IN.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Stop after so many usable questions; 0: never.")] = 0,
) -> None:
    """Make a question file of a published data set or benchmark, and count what of it cannot be used, with examples.

    `auto` tells the format from the first rows and says which it took the file for and why; `rlvid data sources` lists all with their columns, from
    Video-R1 and LLaVA-Video to Charades-STA, NExT-GQA, Video-MME, MVBench and LVBench.

    Questions whose video is missing are left out. Exit code 2 if no question is usable; OUT is then left as it was.

    Example: rlvid data convert charades_sta charades_sta_test.txt test.jsonl --videos Charades_v1_480
    """
    from rlvid.data.sources import SOURCES, named
    from rlvid.data.sources.auto import recognised
    from rlvid.data.sources.convert import convert

    if source == "auto":
        found, why = recognised(given, SOURCES)
        print(why)
    else:
        found = named(source)
    if videos is not None:
        _must_exist(videos, "--videos")
    if out.is_dir():
        _refuse(f"OUT: {out} is a folder (name a file, such as {out / 'questions.jsonl'})")
    _must_be_writable(out.parent, "OUT")
    report = convert(found, given, out, videos=videos, limit=limit)
    print(report.text())
    if not report.questions:
        raise typer.Exit(2)
    print(f"written to {out}")


@data_app.command("sources")
def data_sources() -> None:
    """List the published formats that `rlvid data convert` reads, with their columns.

    Example: rlvid data sources
    """
    from rlvid.data.sources import SOURCES

    table = Table("source", "what it reads", "columns")
    for source in SOURCES.values():
        table.add_row(source.name, source.about, ", ".join(source.columns))
    Console().print(table)


def _libraries_apart(config: Config) -> contextlib.AbstractContextManager[None]:
    """What libraries print in this process, and functions of the user's own, goes to the run's logs/."""
    from rlvid.process.log import libraries_to

    return libraries_to(config.folder / "logs" / DRIVER_LOG)


def _check_inputs(config: Config) -> None:
    """Everything that can be wrong before a single actor starts, without the network."""
    from rlvid.config import is_hub_id
    from rlvid.data.stream import QuestionStream
    from rlvid.families.checkpoint import check_model_path
    from rlvid.learner.storage import Store

    for key, path, skip in (("data.train", config.data.train, config.data.skipped), ("data.eval", config.data.eval, frozenset[str]())):
        if path is not None:
            _must_exist(path, key)
            _warn_without_videos(QuestionStream(path, seed=config.run.seed, skip=skip), key)
    check_model_path(config.model.path, "model.path", tokens=config.rollout.max_model_len)
    if config.repair.enabled and config.teacher.kind == "engine" and not is_hub_id(str(config.teacher.model)):
        _must_exist(Path(str(config.teacher.model)), "teacher.model")
    _check_asking(config)
    _must_be_writable(config.folder, "run.dir")
    if config.storage:
        Store(config.storage)


def _check_asking(config: Config) -> None:
    """What variant actors and rewards need."""
    from rlvid.actors.scoring import load_reward

    if config.relevance_folder is not None:
        _must_exist(config.relevance_folder, "relevance.model")
    if config.reward.custom:
        load_reward(config.reward.custom)


def _check_eval_inputs(config: Config, checkpoint: Path, data: Path | None, out: Path | None) -> None:
    from rlvid.families.checkpoint import check_model_path

    check_model_path(str(checkpoint), "--checkpoint", tokens=config.rollout.max_model_len)
    from rlvid.asking.ask import for_engines
    from rlvid.asking.evaluate import inquiry_of, output_folder
    from rlvid.data.stream import QuestionStream

    _must_be_writable(out or output_folder(config, checkpoint), "--out" if out else "run.dir")

    inquiry = inquiry_of(config, data)
    _check_asking(for_engines(config, inquiry))
    questions = inquiry.data
    _must_exist(questions, "data.eval" if data is None else "--data")
    QuestionStream(questions, seed=config.run.seed)


def _check_select_inputs(config: Config, out: Path) -> None:
    from rlvid.asking.ask import for_engines
    from rlvid.asking.select import inquiry_of
    from rlvid.data.stream import QuestionStream
    from rlvid.families.checkpoint import check_model_path

    _must_exist(config.data.train, "data.train")
    QuestionStream(config.data.train, seed=config.run.seed)
    check_model_path(config.model.path, "model.path", tokens=config.rollout.max_model_len)
    _check_asking(for_engines(config, inquiry_of(config)))
    if out.is_dir():
        _refuse(f"--out: {out} is a folder (name a file, such as {out / 'kept.jsonl'})")
    _must_be_writable(out.parent, "--out")


def _frames_told(config: Config) -> str:
    """Comment lines: what videos of some lengths, and the first one of data.train that is here, would get. Empty where the model is not here to say."""
    from rlvid.config import ConfigError
    from rlvid.data.questions import QuestionError, iter_questions
    from rlvid.plan.model_size import model_size
    from rlvid.plan.reckoning import Assumed, prompt_room
    from rlvid.video.budget import budget, described
    from rlvid.video.frames import VideoError, length_s
    from rlvid.video.pictures import is_missing

    try:
        size = model_size(config.model.path)
    except (ConfigError, OSError):
        return ""
    settings = {"factor": size.factor, "frames_per_token": size.frames_per_token}
    lines, room = described(config.video, **settings).split("; "), prompt_room(config, size, Assumed())
    lines.append(
        f"an engine has room for prompts of {room['tokens']:,} tokens, {room['visual']:,} of them visual: {room['frames']:,} frames as large as the most"
    )
    try:
        first = next((question for question in iter_questions(config.data.train) if question.video and not is_missing(question.video)), None)
        if first is not None:
            length = length_s(first.video)
            found = budget(config.video, length, **settings)
            lines.append(f"{first.video} ({length:.1f} s) gets {found.frames} frames, at most {found.tokens:,} visual tokens")
    except (QuestionError, VideoError, ImportError):
        pass
    return "".join(f"# {line}\n" for line in lines)


def _warn_without_videos(stream: Any, key: str) -> None:
    """A word only: the nodes may have what this machine has not. `stream`: a QuestionStream."""
    from rlvid.video.pictures import is_missing

    first = stream.take(min(100, len(stream)))
    media = [medium for question in first for medium in question.shown]
    if media and all(is_missing(medium.path) for medium in media):
        kinds = "videos" if all(medium.kind == "video" for medium in media) else "videos and images"
        log.warning("%s: none of %d %s that %s names is on this machine, such as %s", key, len(media), kinds, stream.path, media[0].path)


def _refuse(problem: str) -> NoReturn:
    """The input is wrong: exit code 2, and this line."""
    from rlvid.config import ConfigError

    raise ConfigError(problem)


def _must_exist(path: Path, key: str) -> None:
    if not path.exists():
        _refuse(f"{key}: {path} does not exist ({_world_command(path) or f'relative paths start at {Path.cwd()}'})")


def _world_command(path: Path) -> str:
    """What makes a world of the quickstart, where a path lies in one."""
    if ".quickstart" not in path.parts[:-1]:
        return ""
    world = path.parts[path.parts.index(".quickstart") + 1]
    from rlvid.world.premise import CLAIMS

    kind = "--model" if world in FAMILIES else "--world" if world in CLAIMS else ""
    options = {"qwen2_5_vl": "", "evidence": " --evidence"}.get(world, f" {kind} {world}" if kind else "")
    return f"make the quickstart's world with `rlvid data quickstart{options}`"


def _must_be_writable(folder: Path, key: str) -> None:
    """Refuse a folder that is not there and cannot be made, without making it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        _refuse(f"{key}: {folder} cannot be made, {there} is not a folder (choose another)")
    if not os.access(there, os.W_OK | os.X_OK):
        _refuse(f"{key}: {folder} cannot be written, {there} allows this user no writing (choose another)")


def _summary(folder: Path) -> None:
    """What came of the run and where it lies."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    before, after = ({key: row[key] for key in row if key.startswith("eval/")} for row in (rows[0], rows[-1]))
    if after:
        _print_table("held-out", after, before)
    trained = [row["time/step_s"] for row in rows if row.get("time/step_s")]
    if trained:
        print(f"{len(trained)} steps in {duration(sum(trained))}, {sum(trained) / len(trained):.1f} s each")
    places = {"report": "report.html", "policy": "export", "metrics": "metrics.jsonl", "slots": "rollouts", "logs": "logs", "board": "tensorboard"}
    for name, path in places.items():
        if (folder / path).exists():
            print(f"{name:8}{folder / path}")
    for offline in sorted((folder / "wandb").glob("offline-run-*"))[-1:]:
        print(f"wandb   offline; send it with: wandb sync {offline}")


def _print_table(title: str, after: dict[str, float], before: dict[str, float] | None = None) -> None:
    table = Table(title, *(["before", "after"] if before else ["value"]))
    for name, value in after.items():
        cells = [f"{before[name]:.3f}"] if before and name in before else ([""] if before else [])
        table.add_row(escape(name.removeprefix("eval/")), *cells, f"{value:.3f}")
    Console().print(table)


def _print_premise(measured: dict[str, Any]) -> None:
    """The world's numbers, and what they say of its premise."""
    table = Table(f"premise of {measured['world']}", "")
    for name, value in measured["numbers"].items():
        table.add_row(escape(name), f"{value:.3f}")
    Console().print(table)
    fails = measured["fails"]
    print("premise   " + (f"does not hold: {'; '.join(fails)}. Runs here say nothing about the method" if fails else "holds"))


def _print_selection(report: dict[str, Any], out: Path) -> None:
    table = Table("source", "questions", "kept", "dropped")
    for source, count in report["sources"].items():
        dropped = ", ".join(f"{reason} {number}" for reason, number in sorted(count["dropped"].items(), key=lambda item: -item[1]))
        table.add_row(escape(source), str(count["questions"]), str(count["kept"]), dropped)
    Console().print(table)
    print(f"{report['kept']} of {report['questions']} questions kept\nquestions  {out}\nstatistics {out.with_name(out.stem + '.statistics.jsonl')}")


def main() -> None:
    """Entry point: turns exceptions into exit codes and one clear line."""
    logging.basicConfig(level=logging.WARNING, handlers=[screen_handler()])
    log.setLevel(logging.DEBUG)  # a run's log.txt takes what the terminal does not
    try:
        app()
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:  # how typer ends, also after Ctrl-C
        if end.code == 130:
            _interrupted()
        raise
    except Exception as error:
        _failed(error)


def _interrupted() -> NoReturn:
    print("interrupted; a training run started again under its name goes on from its last checkpoint", file=sys.stderr)
    sys.exit(130)


def _failed(error: Exception) -> NoReturn:
    from rlvid.config import ConfigError
    from rlvid.data.questions import QuestionError

    cause = getattr(error, "cause", None)  # Ray wraps what an actor raised
    reason = cause if isinstance(cause, Exception) else error
    line = printable(next((line.strip() for line in str(reason).splitlines() if line.strip()), "no message"))
    if isinstance(reason, ConfigError | QuestionError) or (isinstance(reason, OSError) and reason.errno == errno.ENAMETOOLONG):
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    files = [handler.baseFilename for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    if not files and not isinstance(reason, OSError):
        raise error  # outside a run a fault of rlvid's own: the traceback has no other place
    log.debug("the run failed", exc_info=error)
    where = f" (more in {files[-1].removeprefix(f'{Path.cwd()}/')})" if files else ""
    print(f"error: {type(reason).__name__}: {line}{where}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
