"""report.html: bounded, self-contained, deaf to what texts try to do. The page in a browser: tests/integration/test_report_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from rlvid.config import ConfigError, ReportConfig, VariantKind
from rlvid.observe.report.curves import MAX_POINTS, charts
from rlvid.observe.report.films import Films
from rlvid.observe.report.page import write_report
from rlvid.observe.report.stories import KIND_NOTES, choose, dumped_steps, question_row, read_stories, spread
from tests.unit.clips import make

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> " \' & \u2028 https://example.org/x.png'
NO_PICTURES = ReportConfig(questions=0)


def slot(question: str, variant: int, sample: int, **changes: Any) -> dict[str, Any]:
    right = (variant + sample) % 2 == 0
    box = [0.25, 0.25, 0.75, 0.75] if variant else None
    spec = {"kind": "importance_crop" if variant else "uniform", "times_s": [0.0, 0.5, 1.0, 1.5], "box": box, "size": [48, 64], "seed": 2**60 + 1}
    parts = {"accuracy": float(right), "format": 1.0}
    row = {"question_id": question, "variant": variant, "sample": sample, "spec": spec, "prompt_tokens": 9, "answer_tokens": 4, "reason": ""}
    row |= {"text": "<think>there</think><answer>red</answer>", "parts": parts, "reward": sum(parts.values()), "advantage": 1.0 if right else -1.0}
    return row | {"policy_version": 0, "seed": 2**60 + sample, "repaired": False, "tokens": [1], "logprobs": [-0.1]} | changes


def question(name: str, **changes: Any) -> dict[str, Any]:
    relevance = {"times_s": [0.0, 0.5, 1.0, 1.5], "scores": [0.1, 0.2, 0.6, 0.1]}
    evidence = {"spans": [[0.9, 1.4]], "regions": []}
    row = question_row(name, None) | {"question": "What colour is it?", "task": "multiple_choice", "options": ["red", "blue"], "answer": "red"}
    return row | {"evidence": evidence, "duration_s": 2.0, "relevance": relevance} | changes


def make_run(folder: Path, steps: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]], **sections: Any) -> Path:
    """A run folder as training leaves it: {step: (question rows, slot rows)}."""
    tree = {"run": {"name": folder.name, "steps": 9}, "model": {"path": "m"}, "data": {"train": "none.jsonl", "questions_per_step": 2}}
    tree |= {"variants": {"kinds": ["uniform", "importance_crop"]}, "rollout": {"answers": 2}} | sections
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    trained = [{"step": step, "reward/mean": 0.1 * step, "time/step_s": 2.0} for step in steps]
    rows = [{"step": 0, "eval/accuracy": 0.2}, *trained, {"step": 9, "eval/accuracy": 0.7}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 10, "rew')
    for step, (questions, slots) in steps.items():
        for name, content in ((f"step_{step:06d}.groups.jsonl", questions), (f"step_{step:06d}.jsonl", slots)):
            (folder / "rollouts" / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


def group(name: str, **changes: Any) -> list[dict[str, Any]]:
    return [slot(name, variant, sample, **changes) for variant in range(2) for sample in range(2)]


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_texts_cannot_leave_their_place(tmp_path: Path) -> None:
    long, rtl, emoji = "x" * 100_000, "متى يظهر؟ \u202eevil", "🦊👩🏽‍🚀 \ud800"
    video = '/clips/it\'s "quoted" <b>.mp4'
    slots = [slot("q", 0, 0, text=HOSTILE), slot("q", 0, 1, text=long), slot("q", 1, 0, text=rtl), slot("q", 1, 1, text=emoji)]
    run = make_run(tmp_path / "run", {1: ([question("q", question=HOSTILE, options=[HOSTILE, "b"], video=video)], slots)})
    page = write_report(run)
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text and "<b>" not in text
    (story,) = data_of(page)["stories"]
    assert story["question"] == HOSTILE and story["video"] == video
    assert [one["text"] for one in story["slots"]] == [HOSTILE, long, rtl, emoji.replace("\ud800", "?")]
    assert story["slots"][0]["seed"] == str(2**60)


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", {1: ([question("q")], group("q"))})).read_text()
    before_data = page[: page.index('id="data"')] + page[page.index("<script>") :]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttpRequest|<link|src=\"", before_data)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy[1]


def test_the_policy_fits_style_and_script(tmp_path: Path) -> None:
    import base64
    import hashlib

    page = write_report(make_run(tmp_path / "run", {1: ([question("q")], group("q"))})).read_text()
    for tag in ("style", "script"):
        found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert found
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'" in page


def test_ten_thousand_slots_stay_within_the_limit(tmp_path: Path) -> None:
    words = "a rather long answer that says what it sees, frame after frame. " * 8
    steps = {
        step: ([question(f"q{n}") for n in range(25)], [row for n in range(25) for row in group(f"q{n}", text=f"<think>{words}</think><answer>{n}</answer>")])
        for step in range(1, 101)
    }
    run = make_run(tmp_path / "run", steps, data={"train": "none.jsonl", "questions_per_step": 25})
    everything = write_report(run, tmp_path / "all.html", settings=ReportConfig(questions=4))
    stories = data_of(everything)["stories"]
    assert sum(len(story["slots"]) for story in stories) == 10_000
    limit = 2 * 2**20
    assert everything.stat().st_size > limit
    bounded = write_report(run, tmp_path / "bounded.html", settings=ReportConfig(questions=4, max_bytes=limit))
    assert 0.9 * limit < bounded.stat().st_size <= limit
    kept = data_of(bounded)["stories"]
    assert sum("rank" in story for story in kept) == 4 and len({story["step"] for story in kept}) > 50, "a fair sample over all steps"
    few = write_report(run, tmp_path / "few.html", settings=ReportConfig(questions=0, slots=500))
    assert sorted({story["step"] for story in data_of(few)["stories"]}) == [1, 26, 51, 75, 100]


def test_long_texts_say_what_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: ([question("q")], group("q", text="y" * 5000))})
    (story,) = data_of(write_report(run, settings=ReportConfig(max_text=1000)))["stories"]
    assert story["slots"][0]["text"] == "y" * 1000 + "… (4,000 more characters in rollouts/)"


def test_pictures_come_from_the_video_again(tmp_path: Path) -> None:
    import base64

    import cv2
    import numpy as np

    clip = make(tmp_path / "clip.mp4", size=(96, 128), noise=True)
    questions = [question("here", video=str(clip)), question("gone", video=str(tmp_path / "no.mp4")), question("broken", video=str(tmp_path / "broken.mp4"))]
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    run = make_run(tmp_path / "run", {1: (questions, group("here") + group("gone") + group("broken"))})
    stories = {story["id"]: story for story in data_of(write_report(run, settings=ReportConfig(thumbnail_px=80)))["stories"]}
    film = stories["here"]["film"]
    assert film["times"] == [0.0, 0.5, 1.0, 1.5] and film["size"] == [80, 60] and len(film["jpeg"]) == 4
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(film["jpeg"][0]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (60, 80, 3)
    assert "not there" in stories["gone"]["film"]["missing"]
    assert "broken.mp4" in stories["broken"]["film"]["missing"] and "crashed" not in stories["broken"]["film"]["missing"]


def test_pictures_shrink_before_they_are_left_out(tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", size=(96, 128), noise=True)
    run = make_run(tmp_path / "run", {1: ([question("q", video=str(clip))], group("q"))})
    (story,) = read_stories(run, [1], {}, 0.5)
    with Films(thumbnail_px=512, max_bytes=12_000, deadline_s=60) as films:
        film = films.of(story)
    assert max(film["size"]) < 512 and sum(map(len, film["jpeg"])) <= 12_000
    with Films(thumbnail_px=128, max_bytes=10**6, deadline_s=0.0) as films:
        assert "time for pictures was over" in films.of(story)["missing"]


def test_a_repaired_slot_keeps_its_whole_story(tmp_path: Path) -> None:
    patch = {"error_class": "temporal", "hint": "Look later.", "spans": [[0.9, 1.4]], "frames_s": [1.25], "regions": [{"time_s": 1.3, "box": [0, 0, 1, 1]}]}
    shown = [{"time_s": 1.45, "box": None}]
    repaired = slot("q", 0, 1, repaired=True, first_text="blue?", first_parts={"accuracy": 0.0}, patch=patch, alignment=0.5, evidence_frames=shown)
    run = make_run(tmp_path / "run", {1: ([question("q")], [slot("q", 0, 0), repaired])})
    (told,) = data_of(write_report(run, settings=NO_PICTURES))["stories"]
    assert told["repaired"] == 1
    assert told["slots"][1]["shown"] == shown
    assert told["slots"][1]["first"] == {"text": "blue?", "parts": {"accuracy": 0.0}} and told["slots"][1]["patch"] == patch
    (story,) = read_stories(run, [1], {}, 0.5)
    assert story.times_s == (0.0, 0.5, 1.0, 1.25, 1.3, 1.45, 1.5)


def test_choice_takes_telling_questions_of_all_tasks_first(tmp_path: Path) -> None:
    silent = [slot("silent", 0, 0), slot("silent", 0, 1, parts={"accuracy": 1.0})]
    questions = [question("mixed"), question("silent"), question("when", task="temporal_grounding")]
    grounding = [slot("when", 0, 0, parts={"temporal_iou": 0.7}), slot("when", 0, 1, parts={"temporal_iou": 0.7})]
    run = make_run(tmp_path / "run", {1: (questions, silent + group("mixed") + grounding)})
    stories = list(read_stories(run, [1], {}, 0.5))
    assert [story.question["question_id"] for story in choose(stories, 2)] == ["mixed", "when"]
    assert [story.question["question_id"] for story in choose(stories, 2, named=["silent"])] == ["silent", "when"]
    assert {story.question["question_id"]: story.outcome for story in stories} == {"mixed": "mixed", "silent": "all right", "when": "all right"}


def test_runs_without_question_rows_are_shown(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"id": "q", "video": "v.mp4", "question": "How many?", "task": "numeric", "answer": "3"}) + "\n")
    run = make_run(tmp_path / "run", {1: ([], group("q") + group("unknown"))}, data={"train": str(tmp_path / "train.jsonl")})
    for file in (run / "rollouts").glob("*.groups.jsonl"):
        file.unlink()
    known, unknown = data_of(write_report(run, settings=NO_PICTURES))["stories"]
    assert known["question"] == "How many?" and known["video"] == str(tmp_path / "v.mp4")
    assert unknown["id"] == "unknown" and unknown["task"] == "unknown"


def test_wrong_folders_and_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        write_report(tmp_path)
    run = make_run(tmp_path / "run", {3: ([question("q")], group("q"))})
    with pytest.raises(ConfigError, match="step 4 was not dumped"):
        write_report(run, steps=[4])
    with pytest.raises(ConfigError, match="--question: nope was not asked"):
        write_report(run, questions=["nope"])
    (tmp_path / "run" / "config.yaml").write_text("just words")
    with pytest.raises(ConfigError, match="not the config of a run"):
        write_report(run)


def test_damaged_lines_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path / "run", {3: ([question("q"), question("p")], [*group("q"), *group("p")])})
    dump = run / "rollouts" / "step_000003.jsonl"
    lines = dump.read_text().splitlines()
    dump.write_text("\n".join([lines[0][:40], "[]", '{"question_id": "p"}', *lines[1:]]) + "\n")
    with caplog.at_level("WARNING", logger="rlvid"):
        stories = data_of(write_report(run, settings=NO_PICTURES))["stories"]
    assert len(stories) == 2 and "step_000003.jsonl line 1 is damaged" in caplog.text


def test_a_run_without_dumps_still_has_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {})
    data = data_of(write_report(run))
    assert data["stories"] == [] and data["charts"][0]["series"][0]["points"] == [[0, 0.2], [9, 0.7]]


def test_curves_are_bounded_and_leave_out_what_was_not_measured() -> None:
    rows = [{"step": step, "reward/mean": float(step), "repair/share": 0.0, "time/step_s": 1.0, "time/teacher_s": 0.0} for step in range(1, 2001)]
    drawn = {chart["title"]: chart for chart in charts(rows)}
    assert drawn.keys() == {"Reward", "Seconds per step"}
    points = drawn["Reward"]["series"][0]["points"]
    assert len(points) <= MAX_POINTS and points[-1][0] == 2000 and points[0] == [5, 3.0]
    assert [one["label"] for one in drawn["Seconds per step"]["series"]] == ["whole step"]


def test_every_kind_of_variant_is_explained() -> None:
    assert KIND_NOTES.keys() == set(get_args(VariantKind))


def test_spread_keeps_both_ends() -> None:
    assert spread(list(range(1, 101)), 3) == [1, 51, 100] and spread([4, 5], 9) == [4, 5] and spread([4, 5, 6], 1) == [6]


def test_steps_are_found_without_their_question_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {2: ([question("q")], group("q")), 10: ([question("q")], group("q"))})
    assert list(dumped_steps(run)) == [2, 10]
