"""The format of a file is told from its rows; what people train on elsewhere becomes what it means."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from rlvid.config import ConfigError
from rlvid.data.questions import check, iter_questions
from rlvid.data.sources import SOURCES, named
from rlvid.data.sources.auto import recognised
from rlvid.data.sources.convert import convert
from tests.unit import published
from tests.unit.clips import make
from tests.unit.published import chat, problem

WIDER = {"video_r1": "problems"}
"""Formats whose rows another one reads as well, and more kinds of them."""


@pytest.mark.parametrize(("name", "video", "write", "count"), published.CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_published_format_is_recognised(tmp_path, name, video, write, count):
    found, why = recognised(str(write(tmp_path)), SOURCES)
    assert found.name == WIDER.get(name, name), why
    assert why.startswith(f"taken for {found.name}: its rows have ")


def test_what_is_not_known_is_refused_with_what_was_seen(tmp_path):
    with pytest.raises(ConfigError, match=r"no known format: the first has some, other"):
        recognised(str(published.write_lines(tmp_path / "a.jsonl", [{"some": 1, "other": 2}])), SOURCES)
    own = {"id": "a", "video": "a.mp4", "question": "?", "task": "open", "answer": "x"}
    with pytest.raises(ConfigError, match="it is a question file already"):
        recognised(str(published.write_lines(tmp_path / "b.jsonl", [own])), SOURCES)
    (tmp_path / "c.xml").write_text("<a/>")
    with pytest.raises(ConfigError, match=r"format \.xml is not read"):
        recognised(str(tmp_path / "c.xml"), SOURCES)


@pytest.fixture
def turned(tmp_path):
    """(report, questions) of rows of a format; videos `a.mp4`, and pictures `frames/1.png` ... beside them."""
    make(tmp_path / "a.mp4")
    (tmp_path / "frames").mkdir()
    for at in range(6):
        Image.new("RGB", (64, 48), (40 * at,) * 3).save(tmp_path / "frames" / f"{at}.png")

    def run(name, rows, file="rows.jsonl"):
        report = convert(named(name), str(published.write_lines(tmp_path / file, rows)), tmp_path / "out.jsonl", progress=False)
        questions = list(iter_questions(tmp_path / "out.jsonl")) if report.questions else []
        assert not questions or check(tmp_path / "out.jsonl").ok
        return report, questions

    return run


def kinds(report):
    return {kind: problem.count for kind, problem in report.problems.items()}


def test_problem_rows_mean(turned):
    rows = [
        problem(problem_type="temporal grounding", solution='<answer>{"time": [0.2, 1.4]}</answer>', problem="When a?"),
        problem(problem_type="temporal grounding", solution="0.5 to 1.5", problem="When b?"),
        problem(problem_type="multiple choice", options=["A. red", "B. blue"], solution="<answer>B</answer>", problem="Which?"),
        problem(problem_type=None, problem="How many?", solution="3"),
        problem(problem_type=None, problem="Which?\nA. red\nB. blue", solution="A"),
        problem(problem_type=None, problem="Which? (in words)\nA. red\nB. blue", solution="<answer>blue</answer>"),
    ]
    report, (first, second, choice, number, inside, words) = turned("problems", rows)
    assert report.ok and first.spans == ((0.2, 1.4),) and second.spans == ((0.5, 1.5),) and first.task == "temporal_grounding"
    assert (choice.task, choice.options, choice.answer) == ("multiple_choice", ("red", "blue"), "blue")
    assert (number.task, number.answer) == ("numeric", "3")
    assert (inside.task, inside.question, inside.answer) == ("multiple_choice", "Which?", "red") and words.answer == "blue"


def test_rows_with_formulas_mean(turned):
    """OneThinker's `math`, Video-R1's columns, and EasyR1's rows without a kind, whose answer is LaTeX."""
    rows = [
        problem(problem_type="math", problem="a?", solution="<answer>$$-\\dfrac{3}{2}$$</answer>"),
        problem(problem_type="math", problem="b?", solution="<answer>25</answer>", data_type="text", path=None),
        problem(problem_type=None, problem="c?", solution="2 \\sqrt { 221 }"),
        problem(problem_type="math", problem="d?", solution="<answer>\\frac{1</answer>"),
        problem(problem_type="math", problem="e?", solution="<answer>it depends</answer>"),
    ]
    report, found = turned("problems", rows)
    assert [(one.task, one.answer) for one in found] == [("math", "$$-\\dfrac{3}{2}$$"), ("math", "25"), ("math", "2 \\sqrt { 221 }")]
    assert kinds(report) == {"solution: not a formula": 2}
    rows = [{**published.VIDEO_R1[1], "path": "a.mp4", "problem_type": "math", "solution": "<answer>\\frac{1}{2}</answer>"}]
    _, (one,) = turned("video_r1", rows)
    assert (one.task, one.answer) == ("math", "\\frac{1}{2}")


def test_rows_that_no_reward_judges_are_counted_by_kind(turned):
    rows = [
        problem(data_type="image"),
        problem(data_type="audio"),
        problem(data_type="text"),
        problem(data_type="video", path=""),
        problem(data_type="image", path=[]),
        problem(problem="<image> and <image>", images=["frames/1.png"], path=None, data_type="image"),
        problem(problem="Both?", images=["frames/1.png"]),
        problem(problem="One?", images=[{"bytes": "x", "path": None}], path=None, data_type="image"),
        problem(problem_type="segmentation"),
        problem(problem_type="captioning"),
        {"problem": "<image>What?", "answer": "x", "images": ["gone.png"]},
        problem(problem_type="multiple choice", solution="A"),
        problem(problem_type="temporal grounding", solution="early"),
        problem(path="nowhere.mp4"),
    ]
    report, _ = turned("problems", rows)
    assert not report.questions and kinds(report) == {
        "image: not a picture": 1,
        "data_type: unknown": 1,
        "data_type: text with media": 1,
        "video: leads out of the video root": 2,
        "marks: do not match the media": 1,
        "marks: missing": 1,
        "images: bytes in the row": 1,
        "image: missing file": 1,
        "problem_type: no reward judges it": 2,
        "options: none in the row": 1,
        "solution: not a start and an end": 1,
        "video: missing file": 1,
    }
    assert all(problem.first for problem in report.problems.values())


def test_chats_mean(turned):
    report, (said, asked) = turned("messages", [row | {"videos": ["a.mp4"]} for row in published.MESSAGES])
    assert report.ok and (said.task, said.question, said.answer) == ("open", "What is it?", "a hat")
    assert (asked.task, asked.question, asked.options, asked.answer) == ("multiple_choice", "Which?", ("red", "blue"), "blue")


def shown(question):
    return [(medium.kind, medium.path.rsplit("/", 1)[1]) for medium in question.shown]


def test_problem_rows_with_images_several_media_and_text(turned):
    """As Video-R1 and OneThinker write them: `path` names an image where data_type says so; marks give the order."""
    report, found = turned("problems", published.MEDIA["problems"])
    assert report.ok, report.text()
    assert [shown(question) for question in found] == [
        [("image", "3.png")],
        [("image", "1.png"), ("image", "2.png")],
        [("image", "1.png"), ("image", "2.png")],
        [("image", "1.png"), ("video", "a.mp4")],
        [("video", "a.mp4"), ("image", "1.png")],
        [("video", "a.mp4"), ("video", "a.mp4")],
        [],
        [("video", "a.mp4")],
    ]
    assert [question.question for question in found[1:6]] == [
        "<image>Two?<image>",
        "Two, unmarked?",
        "Is <image> in <video>?",
        "Which?",
        "Clips <video> and <video>",
    ]
    assert found[4].options == ("red", "blue") and found[4].video and found[6].task == "numeric" and found[7].question == "Plain?"


def test_video_r1_rows_about_images(turned):
    report, (one,) = turned("video_r1", published.MEDIA["video_r1"])
    assert report.ok and shown(one) == [("image", "1.png")] and one.video == ""


def test_chats_about_images_several_media_and_text(turned):
    """As ms-swift writes them; a part of a turn that names a file stands where it stands."""
    rows = [*published.MEDIA["messages"], chat("<image><image>Same?", images=["frames/1.png"]), chat("<image>What?")]
    report, found = turned("messages", rows)
    assert [shown(question) for question in found] == [
        [("image", "1.png")],
        [("image", "3.png")],
        [("video", "a.mp4"), ("image", "1.png")],
        [("image", "2.png"), ("video", "a.mp4")],
        [],
    ]
    assert found[0].question == "What?" and found[2].question == "<video>or <image>?" and found[3].question == "First\n<image>\n<video>\nSame?"
    assert kinds(report) == {"marks: do not match the media": 2} and report.changed == {"media: none, a question of text alone": 1}


def test_a_later_open_question_of_a_chat_is_left_out(turned):
    turns = [("user", "<video>What?"), ("assistant", "A hat."), ("user", "And its colour?"), ("assistant", "Red.")]
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in turns], "videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "x"}], "images": ["gone.png"]},
        {"messages": [{"role": "user", "content": "<video><video>Same?"}, {"role": "assistant", "content": "x"}], "videos": ["a.mp4", "b.mp4"]},
        {"messages": [{"role": "user", "content": "<video>What?"}], "videos": ["a.mp4"]},
        {"messages": [{"role": "tool", "content": "x"}], "videos": ["a.mp4"]},
    ]
    report, (first,) = turned("messages", rows)
    assert first.answer == "A hat." and kinds(report) == {
        "messages: later open question": 1,
        "image: missing file": 1,
        "video: missing file": 1,
        "messages: no answer": 1,
        "messages: unknown role": 1,
    }


def test_a_list_of_pictures_needs_its_rate(turned):
    pictures = [f"frames/{at}.png" for at in range(6)]
    row = {"messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "x"}]}
    report, (one,) = turned("messages", [row | {"videos": [pictures], "fps": 2}, row | {"videos": [pictures]}])
    assert kinds(report) == {"fps: missing": 1} and one.video.endswith("#fps=2")


def test_shares_of_the_length_become_seconds(turned):
    report, (one,) = turned("temporal_r1", [{"video": "a.mp4", "problem": "When?", "solution": [0.1, 0.75], "dataset": "charades_train"}])
    assert report.ok and one.spans == ((0.2, 1.5),)
    report, _ = turned("temporal_r1", [{"video": "a.mp4", "problem": "When?", "solution": [3.0, 7.5], "dataset": "charades_train"}])
    assert kinds(report) == {"solution: no shares of the length": 1}


def test_mvbench_s_folders_of_pictures(tmp_path, turned):
    shutil.move(tmp_path / "frames", tmp_path / "castle_s01e01_clip_00")
    row = {"video": "castle_s01e01_clip_00", "question": "Who?", "candidates": ["a", "b"], "answer": "b", "start": 0.5, "end": 1.5}
    report, (one,) = turned("mvbench", [row], "episodic_reasoning.jsonl")
    assert report.ok and one.video.endswith("castle_s01e01_clip_00#fps=3") and one.clip == (0.5, 1.5)
