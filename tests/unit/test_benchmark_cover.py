"""Every row that a benchmark's own code scores is usable. The published annotation files cannot be shipped here: these rows are our own, in the published
formats, and hold the known kinds of odd rows in the published numbers. Videos are stand-ins of several lengths under as many names as rows ask for."""

from __future__ import annotations

import csv
import json
import os

import pytest

from rlvid.data.options import EMPTY, EQUAL, MOVED
from rlvid.data.questions import CUT_TO_VIDEO, check, iter_questions
from rlvid.data.sources import named
from rlvid.data.sources.convert import CUT_CLIP, WIDENED, convert
from rlvid.data.sources.mvbench import FOLDERS
from tests.unit import published
from tests.unit.clips import make

LENGTHS_S = (2, 3, 4, 6)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {length: make(folder / f"{length}.mp4", frames=25 * length) for length in LENGTHS_S}


@pytest.fixture
def converted(tmp_path):
    def run(name, path):
        out = tmp_path / "out.jsonl"
        report = convert(named(name), str(path), out, videos=tmp_path / "videos", progress=False)
        assert check(out).ok, check(out).text()
        return report, list(iter_questions(out))

    return run


def put(clips, folder, names, suffix=".mp4"):
    """A stand-in for each name, lengths in turn; the length of each."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {name: LENGTHS_S[at % len(LENGTHS_S)] for at, name in enumerate(names)}
    for name, length in lengths.items():
        os.link(clips[length], folder / f"{name}{suffix}")
    return lengths


def test_charades_sta(tmp_path, clips, converted):
    """3,720 test questions; 562 end after their video, by at most 1.5 s, 228 of them by more than a second."""
    names = [f"V{at:04d}" for at in range(100)]
    lengths = put(clips, tmp_path / "videos", names)
    lines = []
    for at in range(3720):
        name = names[at % len(names)]
        late = 0.5 if at < 334 else 1.5 if at < 562 else -0.5
        lines.append(f"{name} {at % 10 / 10:.1f} {lengths[name] + late:.1f}##person does thing {at}.\n")
    (tmp_path / "charades_sta_test.txt").write_text("".join(lines))
    report, questions = converted("charades_sta", tmp_path / "charades_sta_test.txt")
    assert (len(questions), report.problems, report.changed) == (3720, {}, {CUT_TO_VIDEO: 562})
    assert "changed: spans: cut to the video: 562" in report.text()
    assert all(question.spans[0][1] <= lengths[os.path.basename(question.video)[:5]] for question in questions)


def test_nextgqa(tmp_path, clips, converted):
    """5,553 test questions; 36 spans start at -0.1 s, three rows have a wrong option twice."""
    names = [f"{at}" for at in range(1000, 1100)]
    lengths = put(clips, tmp_path / "videos", names)
    rows, located = [], {name: {"duration": lengths[name], "location": {}} for name in names}
    for at in range(5553):
        name = names[at % len(names)]
        options = {f"a{letter}": f"thing {at} {letter}" for letter in range(5)}
        if at in (7, 70, 700):
            options["a3"] = options["a4"]
        rows.append({"video_id": name, "question": f"why {at}", "answer": options["a0"], "qid": at, "type": "CW"} | options)
        located[name]["location"][str(at)] = [[-0.1 if at < 36 else 0.2, 1.5]]
    published.write_json(tmp_path / "gsub_test.json", located)
    published.write_json(tmp_path / "map_vid_vidorID.json", {})
    published.write_csv(tmp_path / "test.csv", rows)
    report, questions = converted("nextgqa", tmp_path / "test.csv")
    assert (len(questions), report.problems, report.changed) == (5553, {}, {CUT_TO_VIDEO: 36, EQUAL: 3})
    assert sum(question.spans[0][0] == 0 for question in questions) == 36
    with (tmp_path / "test.csv").open() as file:
        assert [question.answer for question in questions] == [row["answer"] for row in csv.DictReader(file)]


def test_videomme(tmp_path, clips, converted):
    """2,700 questions, three a video."""
    names = [f"yt{at:04d}" for at in range(900)]
    put(clips, tmp_path / "videos" / "data", names)
    options = ["A. One.", "B. Two.", "C. Three.", "D. Four."]
    rows = [
        published.VIDEOMME[0] | {"videoID": name, "question_id": f"{at}-{number}", "options": options, "answer": "ABCD"[(at + number) % 4]}
        for at, name in enumerate(names)
        for number in range(3)
    ]
    report, questions = converted("videomme", published.write_parquet(tmp_path / "test.parquet", rows))
    assert (len(questions), report.problems, report.changed) == (2700, {}, {})
    assert all(question.answer == ("One.", "Two.", "Three.", "Four.")["ABCD".index(row["answer"])] for question, row in zip(questions, rows, strict=True))


def test_videommmu(tmp_path, clips, converted):
    """900 questions on three tracks; 26 have two equal wrong options, some an empty one."""
    found = 0
    for track in ("Perception", "Comprehension", "Adaptation"):
        names = [f"new_{track}_{at}" for at in range(300)]
        put(clips, tmp_path / "videos" / "Art", names)
        rows = []
        for at, name in enumerate(names):
            options = [f"{at} {letter}" for letter in "abcdefghij"]
            equal = at < (26 if track == "Perception" else 0)
            options[3] = options[4] if equal else options[3]
            empty = track == "Adaptation" and at >= 290
            options[8] = "" if empty else options[8]
            rows.append({"id": name, "question": f"Which {at}?", "options": options, "answer": "A" if equal else "J", "question_type": "multiple-choice"})
        report, questions = converted("videommmu", published.write_parquet(tmp_path / track / "test.parquet", rows))
        changed = {"Perception": {EQUAL: 26}, "Comprehension": {}, "Adaptation": {EMPTY: 10, MOVED: 10}}[track]
        assert (report.problems, report.changed) == ({}, changed)
        assert all(question.answer == f"{at} {'a' if row['answer'] == 'A' else 'j'}" for at, (question, row) in enumerate(zip(questions, rows, strict=True)))
        found += len(questions)
    assert found == 900


def test_mvbench(tmp_path, clips, converted):
    """4,000 questions, 200 for each of twenty tasks; bounds that reach beyond the whole video are cut, equal wrong candidates stay."""
    for task, (folder, *_) in FOLDERS.items():
        rows = []
        for at, name in enumerate(f"{task}{at % 20}" for at in range(200)):
            candidates = [f"thing {at}", f"other {at}", f"other {at}" if at < 2 else f"third {at}", "none"]
            rows.append({"video": f"{name}.mp4", "question": f"Which {at}?", "candidates": candidates, "answer": f"thing {at}", "start": 0.5, "end": 9.0})
        put(clips, tmp_path / "videos" / folder, [f"{task}{at}" for at in range(20)])
        published.write_json(tmp_path / "json" / f"{task}.json", rows)
    report, questions = converted("mvbench", tmp_path / "json")
    segments = 200 * sum(folder.endswith("_segment") for folder, *_ in FOLDERS.values())
    assert (len(questions), report.problems, report.changed) == (4000, {}, {EQUAL: 40, CUT_CLIP: 4000 - segments})


def test_other_odd_spans(tmp_path, clips, converted):
    """An instant is widened to what its rounding leaves; backwards, and wholly after the end, are refused by name."""
    put(clips, tmp_path / "videos", ["V1"])
    (tmp_path / "sta.txt").write_text("V1 1.0 1.0##now\nV1 1.5 0.5##backwards\nV1 40 50##after the end\nV1 0.0 9.0##cut\n")
    report, questions = converted("charades_sta", tmp_path / "sta.txt")
    assert [question.spans for question in questions] == [((0.95, 1.05),), ((0.0, 2.0),)]
    assert report.changed == {WIDENED: 1, CUT_TO_VIDEO: 1}
    assert {kind: problem.count for kind, problem in report.problems.items()} == {
        "spans: end not after start": 1,
        "spans: beyond the end of the video": 1,
    }


# --- own files


def own(tmp_path, **keys):
    line = {"id": "q", "video": "videos/V1.mp4", "question": "When?", "task": "temporal_grounding"} | keys
    (tmp_path / "own.jsonl").write_text(json.dumps(line) + "\n")
    return check(tmp_path / "own.jsonl")


def test_spans_of_own_files_lie_within_video_and_clip(tmp_path, clips):
    put(clips, tmp_path / "videos", ["V1"])
    assert own(tmp_path, spans=[[0.5, 1.5]]).ok
    assert own(tmp_path, spans=[[0.5, 2.5]]).changed == {"spans: cut to the video": 1}
    report = own(tmp_path, spans=[[200, 300]])
    assert set(report.problems) == {"spans: outside the video"} and report.refused
    assert "own.jsonl:1: spans: [200, 300] lies outside the video (0 to 2.00 s)" in report.text()
    assert own(tmp_path, spans=[[0.5, 1.5]], clip=[1, 2]).changed == {"spans: cut to the clip": 1}
    assert set(own(tmp_path, spans=[[0.5, 0.9]], clip=[1, 2]).problems) == {"spans: outside the clip"}
    assert set(own(tmp_path, spans=[[1, 2]], clip=[1, 2], evidence={"spans": [[0, 0.5]]}).problems) == {"evidence.spans: outside the clip"}
    regions = {"regions": [{"time_s": 0.5, "box": [0, 0, 1, 1]}]}
    assert set(own(tmp_path, spans=[[1, 2]], clip=[1, 2], evidence=regions).problems) == {"evidence.regions: outside the clip"}
    assert set(own(tmp_path, spans=[[30, 31]], clip=[30, 40]).problems) == {"spans: outside the video"}
