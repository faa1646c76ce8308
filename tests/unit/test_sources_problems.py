"""What is wrong with a published file is counted by kind with examples; what is right is still written; nothing usable is exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from types import ModuleType

import pytest

from rlvid import cli
from rlvid.config import ConfigError
from rlvid.data.questions import QuestionError, check
from rlvid.data.sources import SOURCES, hub, named
from rlvid.data.sources.auto import recognised
from rlvid.data.sources.convert import convert
from tests.unit import published
from tests.unit.clips import make


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A video root with every published case's video, two seconds each."""
    folder = tmp_path_factory.mktemp("root")
    clip = make(folder / "clip.mp4")
    for _, video, *_ in published.CASES:
        (folder / video).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / video).exists():
            os.link(clip, folder / video)
    return folder


@pytest.fixture
def turned(tmp_path, root):
    def run(name, path, **options):
        return convert(named(name), str(path), tmp_path / "out.jsonl", videos=root, progress=False, **options)

    return run


def kinds(report):
    return {kind: problem.count for kind, problem in report.problems.items()}


# --- problems by kind


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_wrong_columns(tmp_path, turned, name):
    suffix = {"videommmu": "Perception.jsonl", "mvbench": "action_count.jsonl"}.get(name, "other.jsonl")
    report = turned(name, published.write_lines(tmp_path / suffix, [{"some": 1, "other": "x"}] * 5))
    assert kinds(report) == {"columns: missing": 5} and not report.questions
    problem = report.problems["columns: missing"]
    assert len(problem.first) == 3 and "line 1: " in problem.first[0] and "the row has some, other" in problem.first[0]
    assert all(column in problem.first[0] for column in SOURCES[name].columns)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(("name", "video", "write", "count"), published.CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_missing_videos(tmp_path, name, video, write, count):
    (tmp_path / "empty").mkdir()
    report = convert(named(name), str(write(tmp_path)), tmp_path / "out.jsonl", videos=tmp_path / "empty", progress=False)
    assert kinds(report) == {"video: missing file": count}
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "rows", "file"),
    [
        ("video_r1", published.VIDEO_R1, "Video-R1-260k.json"),
        ("videomme", published.VIDEOMME, "test.json"),
        ("mmvu", published.MMVU, "validation.json"),
        ("vsibench", published.VSIBENCH, "test.json"),
        ("llava_video", published.LLAVA, "mc.json"),
        ("mvbench", published.MVBENCH, "action_sequence.json"),
        ("videommmu", published.VIDEOMMMU[:1], "Perception.json"),
    ],
)
def test_duplicate_ids(tmp_path, turned, name, rows, file):
    once = turned(name, published.write_json(tmp_path / file, rows)).questions
    report = turned(name, published.write_json(tmp_path / file, rows + rows))
    assert (report.questions, kinds(report)) == (once, {"id: used twice": once})
    assert " is row 1's already" in report.problems["id: used twice"].first[0]


@pytest.mark.parametrize(
    ("name", "row", "change"),
    [
        ("video_r1", published.VIDEO_R1[0], {"solution": "<answer>E</answer>"}),
        ("videomme", published.VIDEOMME[0], {"answer": "F"}),
        ("videommmu", published.VIDEOMMMU[0], {"answer": "K"}),
        ("mmvu", published.MMVU[0], {"answer": "heart"}),
        ("vsibench", published.VSIBENCH[0], {"ground_truth": "C"}),
        ("mvbench", published.MVBENCH[0], {"answer": "fly"}),
        ("nextgqa", published.NEXTGQA[0], {"answer": "rich"}),
        ("nextgqa", published.NEXTGQA[0], {"answer": "5"}),
        ("perceptiontest", {"video_name": "video_1", **published.PERCEPTION_QUESTION, "question_id": 0}, {"answer_id": 3}),
        ("tempcompass", {"video_id": "1034", "dim": "action", "question": "What?\nA. dunking\nB. passing"}, {"answer": "C. flying"}),
        ("tempcompass", {"video_id": "1034", "dim": "action", "question": "Which?\nOption 1: dunking\nOption 2: passing"}, {"answer": "Option 3: flying"}),
    ],
)
def test_answers_not_among_the_options(tmp_path, turned, name, row, change):
    file = {"videommmu": "Perception.jsonl", "mvbench": "action_sequence.jsonl"}.get(name, "rows.jsonl")
    report = turned(name, published.write_lines(tmp_path / file, [row | change]))
    assert kinds(report) == {"answer: not among the options": 1}, report.text()


def test_spans_beyond_the_end(tmp_path, turned, root):
    """By the file's own header where it can be read: cut where something is left, and refused where the file is not the annotated video."""
    (tmp_path / "sta.txt").write_text("3MSZA 0.5 2.9##late\n3MSZA 0.5 3.1##later\n3MSZA 40 50##after the end\n")
    report = turned("charades_sta", tmp_path / "sta.txt")
    assert (report.questions, kinds(report), report.changed) == (2, {"spans: beyond the end of the video": 1}, {"spans: cut to the video": 2})
    assert "[40, 50] s is beyond the end" in report.problems["spans: beyond the end of the video"].first[0]
    late = {"v_one": {"duration": 600, "timestamps": [[1, 500]], "sentences": ["late"]}}
    assert kinds(turned("activitynet_captions", published.write_json(tmp_path / "val_1.json", late))) == {"spans: beyond the end of the video": 1}
    clip = published.write_json(tmp_path / "action_sequence.json", [published.MVBENCH[0] | {"end": 60}])
    os.link(root / "clip.mp4", tmp_path / "ZS9XR.mp4")
    assert convert(named("mvbench"), str(clip), tmp_path / "out.jsonl", progress=False).changed == {"clip: cut to the video": 1}
    assert json.loads((tmp_path / "out.jsonl").read_text())["clip"] == [0.2, 2.0]


def test_malformed_spans(tmp_path, turned):
    (tmp_path / "sta.txt").write_text("3MSZA 1.5 0.5##backwards\n3MSZA one two##words\n3MSZA 0.1 0.5##fine\n\n")
    assert kinds(turned("charades_sta", tmp_path / "sta.txt")) == {"spans: end not after start": 1, "line: not VIDEO START END##SENTENCE": 1}
    uneven = {"v_one": {"duration": 2, "timestamps": [[0, 1]], "sentences": ["a", "b"]}, "v_two": [1]}
    found = kinds(turned("activitynet_captions", published.write_json(tmp_path / "train.json", uneven)))
    assert found == {"timestamps: not as many as sentences": 1, "columns: missing": 1}


@pytest.mark.parametrize("path", ["../clip.mp4", "a/../../clip.mp4", "/etc/passwd", "..", "a\0.mp4", "", "..\\clip.mp4"])
def test_nothing_leads_out_of_the_video_root(tmp_path, turned, path):
    report = turned("video_r1", published.write_json(tmp_path / "r1.json", [published.VIDEO_R1[0] | {"path": path}]))
    assert kinds(report) == {"video: leads out of the video root": 1}


def test_broken_and_empty_videos(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    (tmp_path / "b.webm").touch()
    (tmp_path / "sta.txt").write_text("a 0 1##one\nb 0 1##two\n")
    report = convert(named("charades_sta"), str(tmp_path / "sta.txt"), tmp_path / "out.jsonl", progress=False)
    assert kinds(report) == {"video: cannot be opened": 1, "video: empty file": 1}


def test_image_questions_and_captioning_are_counted(tmp_path, turned):
    rows = [*published.VIDEO_R1, published.VIDEO_R1[0] | {"data_type": "image", "problem_id": 99}]
    report = turned("video_r1", published.write_json(tmp_path / "r1.json", rows))
    assert (report.questions, kinds(report)) == (4, {"image: not a picture": 1})
    caption = {"video_id": "1034", "dim": "action", "question": "Write. Generated Caption:", "answer": "B. x", "mc_question": "q", "mc_answer": "B. x"}
    report = turned("tempcompass", published.write_lines(tmp_path / "captioning.jsonl", [caption]))
    assert kinds(report) == {"question: captioning needs a judge model": 1}


def test_a_hidden_test_split_has_no_answers(tmp_path, turned):
    question = {key: value for key, value in published.PERCEPTION_QUESTION.items() if key != "answer_id"}
    report = turned("perceptiontest", published.write_json(tmp_path / "test.json", {"video_1": {"mc_question": [question]}}))
    assert kinds(report) == {"columns: missing": 1} and "answer_id missing" in report.problems["columns: missing"].first[0]


def test_nextgqa_needs_its_spans(tmp_path, turned):
    path = published.write_csv(tmp_path / "test.csv", published.NEXTGQA)
    with pytest.raises(QuestionError, match=r"gsub_test\.json .* not beside it"):
        turned("nextgqa", path)
    published.write_json(tmp_path / "gsub_test.json", {})
    assert kinds(turned("nextgqa", path)) == {"spans: missing": 1}


# --- hostile content

NUMBERS = (True, 0, -1, 1e308, float("nan"))
TEXTS = ("", " ", "\ud800", "A", "[", "[1, 2", "x" * 5000)
NESTED = (None, [], [[]], [None], ["x", 1], [1, 2], ["1", "0"], {}, {"A": None}, {"value": []})
ODD = (*NUMBERS, *TEXTS, *NESTED)
PLAIN = {
    "video_r1": published.VIDEO_R1,
    "llava_video": published.LLAVA,
    "charades_sta": [{"video": "3MSZA.mp4", "caption": "person sits", "timestamp": [0.0, 1.5]}],
    "activitynet_captions": [{"video": "v_one", **published.ACTIVITYNET["v_one"]}],
    "nextgqa": published.NEXTGQA,
    "videomme": published.VIDEOMME,
    "tempcompass": [{"video_id": "1034", "dim": "action", **published.TEMPCOMPASS_CHOICE["1034"]["action"][0]}],
    "videommmu": published.VIDEOMMMU,
    "mmvu": published.MMVU,
    "vsibench": published.VSIBENCH,
    "perceptiontest": [{"video_name": "video_1", **published.PERCEPTION_QUESTION, "question_id": 0}],
    "mvbench": published.MVBENCH,
    "video_holmes": published.VIDEO_HOLMES,
    "longvideobench": [*published.LONGVIDEOBENCH, *[row | {"id": "x"} for row in published.LONGVIDEOBENCH_ROWS]],
    "lvbench": [*published.LVBENCH, *published.LVBENCH_ROWS],
    "activitynet_rtl": published.ACTIVITYNET_RTL,
    "mlvu": [*published.MLVU, *published.MLVU_ROWS],
    "longvideo_reason": published.LONGVIDEO_REASON,
    "motionbench": published.MOTIONBENCH,
    "minerva": published.MINERVA,
    "qvhighlights": published.QVHIGHLIGHTS,
    "temporal_r1": published.TEMPORAL_R1,
    "problems": [*published.PROBLEMS, *published.EASYR1, *published.VERL],
    "messages": [*published.MESSAGES, *published.PARTS, *published.CONVERSATIONS],
}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_odd_values_are_counted_and_never_raise(tmp_path, turned, name):
    """Every value of a row, nested ones too, replaced by every odd one."""
    file = tmp_path / {"videommmu": "Perception.jsonl", "mvbench": "action_sequence.jsonl"}.get(name, "rows.jsonl")
    odd = [row | {key: value} for row in PLAIN[name] for key in row for value in ODD]
    odd += [{"key": "v_one", "value": value} for value in (*ODD, {"mc_question": [1]}, {"action": [{}]}, {"action": [[]]})]
    published.write_lines(file, PLAIN[name] + odd)
    report = turned(name, file)
    assert report.questions >= len(PLAIN[name]) and check(tmp_path / "out.jsonl").ok
    lines = [line for problem in report.problems.values() for line in problem.first]
    assert lines and all(line.isprintable() and len(line) < 1000 for line in lines)


# --- whole files


@pytest.mark.parametrize(
    ("name", "text"),
    [("r1.json", '[{"a": 1}, {"b"'), ("r1.json", ""), ("r1.json", "[1, 2"), ("r1.parquet", "PAR1 no"), ("r1.xlsx", "x"), ("r1.csv", "a,b\n\xff\xfe,1\n")],
)
def test_a_file_that_cannot_be_read(tmp_path, turned, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(QuestionError, match=name) as error:
        turned("video_r1", tmp_path / name)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_one_bad_line_does_not_end_a_file_of_lines(tmp_path, turned):
    path = published.write_lines(tmp_path / "r1.jsonl", published.VIDEO_R1)
    path.write_text("{torn\n[1]\n" + path.read_text())
    report = turned("video_r1", path)
    assert (report.questions, kinds(report)) == (4, {"line: not JSON": 1, "row: not an object": 1})


def test_an_older_file_stays_where_nothing_is_usable(tmp_path, turned):
    (tmp_path / "out.jsonl").write_text("older\n")
    turned("video_r1", published.write_json(tmp_path / "r1.json", [{}]))
    assert (tmp_path / "out.jsonl").read_text() == "older\n"
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "r1.json"}


@pytest.mark.parametrize("spans", [[1], {"111": {}}, {"111": {"location": None}}, {"111": {"location": []}}, {"111": {"location": {"3": None}}}, {"111": 5}])
def test_odd_side_files_of_nextgqa(tmp_path, turned, spans):
    published.write_json(tmp_path / "gsub_val.json", spans)
    published.write_json(tmp_path / "map_vid_vidorID.json", {"111": 5})
    path = published.write_csv(tmp_path / "val.csv", published.NEXTGQA)
    if isinstance(spans, list):
        with pytest.raises(QuestionError, match=r"gsub_val.json: is not one JSON object"):
            turned("nextgqa", path)
        return
    assert not turned("nextgqa", path).questions
    (tmp_path / "gsub_val.json").write_text("[" * 100_000)
    with pytest.raises(QuestionError, match=r"gsub_val.json: is not JSON"):
        turned("nextgqa", path)


def test_a_folder_of_nextgqa_takes_the_spans_beside_each_table(tmp_path, turned):
    published.write_json(tmp_path / "in" / "gsub_val.json", published.GSUB)
    published.write_json(tmp_path / "in" / "map_vid_vidorID.json", {"111": "0101/111"})
    published.write_csv(tmp_path / "in" / "val.csv", published.NEXTGQA)
    assert turned("nextgqa", tmp_path / "in").tasks == {"grounded_qa": 1}
    (tmp_path / "in" / "gsub_val.json").unlink()
    with pytest.raises(QuestionError, match="with the spans is not beside it"):
        turned("nextgqa", tmp_path / "in")


def test_the_innermost_folder_names_the_track(tmp_path, turned):
    file = published.write_parquet(tmp_path / "domain-adaptation" / "Perception" / "test.parquet", published.VIDEOMMMU[:1])
    assert turned("videommmu", file).questions == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["source"] == "videommmu/Perception"


def test_choices_of_mmvu_go_by_their_letters(tmp_path, turned):
    rows = [published.MMVU[0] | {"id": "1", "choices": {"A": "x", "B": "", "C": "y", "D": "z"}, "answer": "C"}]
    rows.append(published.MMVU[0] | {"id": "2", "choices": {"B": "bee", "A": "ay"}, "answer": "A"})
    rows.append(published.MMVU[0] | {"id": "3", "choices": {"A": "x", "B": ""}, "answer": "B"})
    assert kinds(turned("mmvu", published.write_json(tmp_path / "validation.json", rows))) == {"answer: not among the options": 1}
    assert [json.loads(line)["answer"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["y", "ay"]


def test_a_root_that_is_called_segment_is_no_segment(tmp_path, root):
    video = tmp_path / "my_segment" / "star" / "Charades_v1_480" / "ZS9XR.mp4"
    video.parent.mkdir(parents=True)
    os.link(root / "clip.mp4", video)
    file = published.write_json(tmp_path / "action_sequence.json", published.MVBENCH)
    assert convert(named("mvbench"), str(file), tmp_path / "out.jsonl", videos=tmp_path / "my_segment", progress=False).questions == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["clip"] == [0.2, 1.6]


@pytest.mark.parametrize("answer", [1e999, True, 1.9, -0.5, 10**400, None, "x"], ids=lambda value: str(value)[:9])
def test_positions_that_are_none(tmp_path, turned, answer):
    report = turned("perceptiontest", published.write_lines(tmp_path / "mc.jsonl", [PLAIN["perceptiontest"][0] | {"answer_id": answer}]))
    assert not report.questions and report.problems


def test_values_that_python_cannot_hold(tmp_path, turned):
    file = published.write_parquet(tmp_path / "test.parquet", [{"video": "3MSZA.mp4", "caption": "a person sits down", "timestamp": [0.0, 1.5]}])
    file.write_bytes(file.read_bytes().replace(b"a person sits down", b"\xff person sits down"))
    with pytest.raises(QuestionError, match="is not a whole parquet file"):
        turned("charades_sta", file)
    lettered = "Which?\n" + "\n".join(f"{letter}. {letter * 2}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ") + "\nA. more"
    row = published.LLAVA[0] | {"conversations": [{"from": "human", "value": lettered}, {"from": "gpt", "value": "Z."}]}
    turned("llava_video", published.write_json(tmp_path / "many.json", [row]))


def test_a_byte_order_mark_is_no_fault(tmp_path, turned):
    for text in (json.dumps(published.VIDEO_R1), json.dumps(published.ACTIVITYNET)):
        file = tmp_path / "marked.json"
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert turned("video_r1" if text.startswith("[") else "activitynet_captions", file).questions


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "video,question\n")])
def test_a_file_without_rows_says_so(tmp_path, turned, name, text):
    (tmp_path / name).write_text(text)
    assert kinds(turned("video_r1", tmp_path / name)) == {"file: holds no row": 1}


def test_a_video_named_exactly_is_found_whatever_its_ending(tmp_path, root):
    os.link(root / "clip.mp4", tmp_path / "a.mov")
    file = published.write_json(tmp_path / "in.json", [published.VIDEO_R1[0] | {"path": "a.mov"}])
    assert convert(named("video_r1"), str(file), tmp_path / "out.jsonl", videos=tmp_path, progress=False).questions == 1


def test_limit_and_the_same_file(tmp_path, turned):
    path = published.write_json(tmp_path / "r1.json", published.VIDEO_R1)
    assert turned("video_r1", path, limit=2).questions == 2
    lines = published.write_lines(tmp_path / "out.jsonl", published.VIDEO_R1)
    with pytest.raises(QuestionError, match="is the file that is read"):
        turned("video_r1", lines)


def test_videos_beside_the_file_are_named_relative_to_it(tmp_path):
    (tmp_path / "videos").mkdir()
    make(tmp_path / "videos" / "3MSZA.mp4")
    (tmp_path / "sta.txt").write_text("3MSZA 0.5 1##one\n")
    convert(named("charades_sta"), str(tmp_path / "sta.txt"), tmp_path / "out.jsonl", videos=tmp_path / "videos", progress=False)
    assert json.loads((tmp_path / "out.jsonl").read_text())["video"] == "videos/3MSZA.mp4"
    tmp_path.rename(tmp_path.with_name("moved"))
    assert check(tmp_path.with_name("moved") / "out.jsonl").ok


# --- length


def rows(count):
    for at in range(count):
        yield {"problem_id": at, "problem": "q" * 200, "data_type": "video", "problem_type": "numerical", "solution": "3", "path": "a.mp4"}


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    """1,800 more rows take some 1.6 MB as objects; the peak may move by what allocations differ by anyway."""
    (tmp_path / "a.mp4").write_bytes(b"x")
    write = {".csv": published.write_csv, ".json": published.write_json, ".parquet": published.write_parquet}[suffix]

    def peak_bytes(count):
        path = write(tmp_path / f"r1{suffix}", list(rows(count)))
        tracemalloc.start()
        try:
            assert convert(named("video_r1"), str(path), tmp_path / "out.jsonl", progress=False).questions == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(1)  # imports
    assert peak_bytes(2_000) < peak_bytes(200) + 150_000


MEASURE = """
import resource, sys
from pathlib import Path
from rlvid.data.sources import named
from rlvid.data.sources.convert import convert
convert(named("video_r1"), sys.argv[1], Path(sys.argv[2]), progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_fifty_thousand_questions_take_no_more_memory_than_five_thousand(tmp_path):
    """The whole process, with what SQLite and others allocate: 45,000 more rows would be 45 MB as objects, their ids alone 4.5 MB."""
    (tmp_path / "a.mp4").write_bytes(b"x")

    def peak_kib(count):
        path, out = tmp_path / "r1.jsonl", tmp_path / "out.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
        said = subprocess.run([sys.executable, "-c", MEASURE, path, out], capture_output=True, text=True, check=True)
        with out.open() as file:
            assert sum(1 for _ in file) == count
        return int(said.stdout)

    assert peak_kib(50_000) < peak_kib(5_000) + 3_000


# --- the command line


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["rlvid", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


def test_command(monkeypatch, capsys, tmp_path, root):
    path = published.write_json(tmp_path / "r1.json", [*published.VIDEO_R1, {}])
    code, out, err = run(monkeypatch, capsys, "data", "convert", "Video-R1", path, tmp_path / "new" / "q.jsonl", "--videos", root, "--limit", 3)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: 3 good questions (multiple_choice 1, numeric 1, regression 1), 0 problems\n") and "written to" in out
    code, out, _ = run(monkeypatch, capsys, "data", "convert", "video_r1", path, tmp_path / "q.jsonl", "--videos", root)
    assert code == 0 and "columns: missing: 1\n  " in out
    code, out, _ = run(monkeypatch, capsys, "data", "check", tmp_path / "q.jsonl")
    assert code == 0 and "4 good questions" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nosuch", "r1.json"), "SOURCE: 'nosuch' is not known (known: problems, "),
        (("video_r1", "no/such/file.json"), "does not exist (name a file or folder as downloaded"),
        (("video_r1", "r1.json", "--videos", "nowhere"), "--videos: nowhere does not exist"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    published.write_json(tmp_path / "r1.json", published.VIDEO_R1)
    code, out, err = run(monkeypatch, capsys, "data", "convert", *words[:2], tmp_path / "q.jsonl", *words[2:])
    assert (code, out) == (2, "") and said in err and len(err.strip().splitlines()) == 1


def test_nothing_usable_is_exit_code_2(monkeypatch, capsys, tmp_path):
    path = published.write_json(tmp_path / "r1.json", published.VIDEO_R1)
    code, out, err = run(monkeypatch, capsys, "data", "convert", "video_r1", path, tmp_path / "q.jsonl")
    assert (code, err) == (2, "") and "0 good questions, 4 problems\nvideo: missing file: 4\n" in out and "written" not in out


def test_sources_are_listed(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "data", "sources")
    assert code == 0 and all(name in out for name in SOURCES)


# --- the hub


def hub_with(monkeypatch, splits):
    """A package `datasets` that knows one data set."""
    package = ModuleType("datasets")
    package.opened = 0
    hub._rows.cache_clear()

    def load_dataset(name, config, *, split, streaming):
        package.opened += 1
        if (name, config) != ("OpenGVLab/MVBench", "action_sequence") or not streaming:
            raise ConnectionError(f"cannot reach the hub\nfor {name}")
        return splits if split is None else splits[split]

    package.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", package)
    return package


def test_a_hub_id_is_opened_once_to_be_recognised_and_converted(monkeypatch, turned):
    package = hub_with(monkeypatch, {"train": published.MVBENCH})
    source, why = recognised("OpenGVLab/MVBench:action_sequence", SOURCES)
    assert source.name == "mvbench" and why.startswith("taken for mvbench")
    assert turned("mvbench", "OpenGVLab/MVBench:action_sequence").questions == 1 and package.opened == 1
    with pytest.raises(QuestionError, match=r"cannot be read from the hub .cannot reach the hub for x/y"):
        recognised("x/y", SOURCES)
    with pytest.raises(QuestionError, match=r"nowhere\.json: does not exist"):
        recognised("nowhere.json", SOURCES)
    hub_with(monkeypatch, {"train": [{"some": 1, "other": 2}]})
    with pytest.raises(ConfigError, match="no known format: the first has some, other"):
        recognised("OpenGVLab/MVBench:action_sequence", SOURCES)


def test_a_data_set_that_breaks_off_is_named(monkeypatch, turned):
    def rows():
        yield published.MVBENCH[0]
        raise OSError("connection\nlost")

    hub_with(monkeypatch, {"train": rows()})
    with pytest.raises(QuestionError, match=r"cannot be read on from the hub .connection lost; or download"):
        turned("mvbench", "OpenGVLab/MVBench:action_sequence")


def test_hub_ids(monkeypatch, turned, tmp_path):
    hub_with(monkeypatch, {"train": published.MVBENCH})
    assert turned("mvbench", "OpenGVLab/MVBench:action_sequence").questions == 1
    assert turned("mvbench", "OpenGVLab/MVBench:action_sequence@train").questions == 1
    with pytest.raises(QuestionError, match=r"cannot be read from the hub \(cannot reach the hub for x/y; or download"):
        turned("mvbench", "x/y")
    hub_with(monkeypatch, {"train": [], "test": published.MVBENCH})
    with pytest.raises(QuestionError, match=r"has the splits test, train .name one: OpenGVLab/MVBench@SPLIT"):
        turned("mvbench", "OpenGVLab/MVBench:action_sequence")


def test_without_the_package_a_hub_id_says_what_to_do(monkeypatch, turned):
    monkeypatch.setitem(sys.modules, "datasets", None)
    hub._rows.cache_clear()
    with pytest.raises(QuestionError, match=r"needs the package datasets .pip install datasets, or download the file"):
        turned("mvbench", "OpenGVLab/MVBench:action_sequence")
    assert not hub.is_hub_id("a/b/c.json") and not hub.is_hub_id("file.json")
