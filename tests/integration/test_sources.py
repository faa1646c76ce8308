"""Every published format becomes questions that train a step and are evaluated with the benchmark's own metrics."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from rlvid.algo.scores import BENCHMARKS
from rlvid.data.questions import iter_questions
from rlvid.data.sources import SOURCES, named
from rlvid.data.sources.convert import convert
from tests.integration.conftest import CONFIG, metrics_of, slots_of, small_overrides
from tests.unit import published


@pytest.fixture(scope="module")
def converted(world, rlvid, tmp_path_factory):
    """One question file of all published formats, about the quickstart's clips under the names that each format gives its videos."""
    folder = tmp_path_factory.mktemp("published")
    clips = sorted({question.video for question in iter_questions(world.train)})
    lines: dict[str, str] = {}
    for at, (source, video, write, count) in enumerate(published.CASES):
        case = folder / str(at)
        (case / "videos" / video).parent.mkdir(parents=True)
        (case / "videos" / video).symlink_to(clips[at])
        (case / "in").mkdir()
        out, given = folder / f"{at}.jsonl", write(case / "in")
        if at:  # a process each takes a minute in all, and says nothing that the first does not
            report = convert(named(source), str(given), out, videos=case / "videos", progress=False)
            assert report.ok and report.questions == count, report.text()
        else:
            result = rlvid("data", "convert", source, given, out, "--videos", case / "videos")
            assert result.returncode == 0 and f"{count} good question" in result.stdout, result.stdout + result.stderr
        for line in (folder / f"{at}.jsonl").read_text().splitlines():
            lines.setdefault(json.loads(line)["id"], line)  # some formats hold the same question
    for source, rows in published.MEDIA.items():
        case = folder / f"media-{source}"
        (case / "frames").mkdir(parents=True)
        (case / "a.mp4").symlink_to(clips[0])
        for at in range(4):
            Image.new("RGB", (84, 84), (40 * at, 90, 20)).save(case / "frames" / f"{at}.png")
        report = convert(named(source), str(published.write_lines(case / "rows.jsonl", rows)), folder / f"media-{source}.jsonl", progress=False)
        assert report.ok and report.questions == len(rows), report.text()
        for question in map(json.loads, (folder / f"media-{source}.jsonl").read_text().splitlines()):
            question["id"] = f"media/{question['id']}"
            lines[question["id"]] = json.dumps(question)
    everything = folder / "all.jsonl"
    everything.write_text("\n".join(lines.values()) + "\n")
    checked = rlvid("data", "check", everything)
    assert checked.returncode == 0 and f"{len(lines)} good questions" in checked.stdout and "0 problems" in checked.stdout
    return everything


@pytest.mark.timeout(900)
def test_every_source_trains_a_step_and_is_evaluated(world, rlvid, converted, tmp_path):
    questions = list(iter_questions(converted))
    settings = [
        *small_overrides(world, tmp_path / "runs"),
        "run.steps=1",
        f"data.train={converted}",
        f"data.eval={converted}",
        f"data.questions_per_step={len(questions)}",
        "advantage.drop_zero_signal=false",
        "rollout.max_model_len=1536",
    ]
    result = rlvid("train", CONFIG, *settings)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "quickstart"
    assert {slot["question_id"] for slot in slots_of(folder, 1)} == {question.id for question in questions}
    assert {question.source.split("/")[0] for question in questions} == set(SOURCES)
    assert {len(question.shown) for question in questions} == {0, 1, 2} and any(medium.kind == "image" for question in questions for medium in question.shown)
    for row in metrics_of(folder):
        assert {name.split("/")[1] for name in row if name.startswith("eval/")} >= set(BENCHMARKS)
        assert row["eval/questions"] == len(questions)
        assert row["eval/videomme/accuracy"] == pytest.approx(sum(row[f"eval/videomme/accuracy_{length}"] for length in ("short", "medium", "long")) / 3)
