"""Published formats: every one converts into a file that `rlvid data check` passes, and says what it means."""

from __future__ import annotations

import json
import shutil

import pytest

from rlvid.config import ConfigError
from rlvid.data.questions import check, iter_questions
from rlvid.data.sources import SOURCES, named
from rlvid.data.sources.convert import convert
from tests.unit import published
from tests.unit.clips import make


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of video."""
    return make(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def turned(tmp_path, clip):
    """Convert a written file with the clip at a place under the video root: (report, questions)."""

    def run(name, video, write):
        target = tmp_path / "videos" / video
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)
        (tmp_path / "in").mkdir(exist_ok=True)
        out = tmp_path / "out" / "questions.jsonl"
        report = convert(named(name), str(write(tmp_path / "in")), out, videos=tmp_path / "videos", progress=False)
        questions = list(iter_questions(out)) if report.questions else []
        if questions:
            assert check(out).ok, check(out).text()
        return report, questions

    return run


@pytest.mark.parametrize(("name", "video", "write", "count"), published.CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_published_format_converts(turned, tmp_path, name, video, write, count):
    report, questions = turned(name, video, write)
    assert report.ok, report.text()
    assert len(questions) == count == report.questions
    assert {question.video for question in questions} == {str(tmp_path / "videos" / video)}
    assert all(question.source.split("/")[0] == name for question in questions)
    assert len({question.id for question in questions}) == count


def test_every_source_has_a_case():
    assert {case[0] for case in published.CASES} == set(SOURCES)


def only(turned, name, at=0):
    case = [case for case in published.CASES if case[0] == name][at]
    return turned(*case[:3])[1]


def test_video_r1_means(turned):
    choice, numeric, regression, free = only(turned, "video_r1")
    assert (choice.task, choice.options, choice.answer, choice.source) == ("multiple_choice", ("jump", "sleep"), "sleep", "video_r1/STAR")
    assert (numeric.task, numeric.answer) == ("numeric", "3")
    assert (regression.task, regression.answer) == ("regression", "1.5")
    assert (free.task, free.answer) == ("open", "a red hat")


def test_llava_video_means(turned):
    first, second = only(turned, "llava_video")
    assert (first.question, first.options, first.answer) == ("Who opens the door?", ("a man", "a cat"), "a man")
    assert (second.question, second.options, second.answer) == ("What colour is it?", ("Red.", "Blue.", "Green."), "Green.")
    assert first.source == "llava_video/0_30_s_academic_v0_1"


def test_grounding_sources_mean(turned):
    charades = only(turned, "charades_sta")
    assert [question.spans for question in charades] == [((0.3, 1.4),), ((0.0, 2.0),)]
    assert "person turn a light on." in charades[0].question and charades[0].task == "temporal_grounding"
    captions = only(turned, "activitynet_captions")
    assert [question.spans for question in captions] == [((0.1, 1.0),), ((1.0, 1.9),)]
    assert captions[0].source == "activitynet_captions"


def test_nextgqa_means(turned):
    (grounded,) = only(turned, "nextgqa")
    assert (grounded.task, grounded.answer, grounded.spans) == ("grounded_qa", "tired", ((0.5, 1.0), (1.5, 2.0)))
    assert (grounded.id, grounded.source) == ("nextgqa-111-3", "nextgqa/CW")
    (plain,) = only(turned, "nextgqa", 1)
    assert (plain.task, plain.spans) == ("multiple_choice", ())


def test_multiple_choice_benchmarks_mean(turned):
    short, medium, long = only(turned, "videomme")
    assert (short.options, short.answer) == (("One.", "Two.", "Three.", "Four."), "Three.")
    assert [question.source for question in (short, medium, long)] == ["videomme/short", "videomme/medium", "videomme/long"]
    (perception,) = only(turned, "perceptiontest")
    assert (perception.answer, perception.source) == ("middle", "perceptiontest/physics/explanatory")
    choice, number = only(turned, "vsibench")
    assert (choice.answer, choice.source) == ("sofa", "vsibench/object_rel_distance")
    assert (number.task, number.answer, number.source) == ("regression", "4", "vsibench/object_counting")


def test_tempcompass_means(turned):
    by_source = {question.source: question for question in only(turned, "tempcompass")}
    choice = by_source["tempcompass/multi_choice/action"]
    assert (choice.question, choice.options, choice.answer) == ("What is he doing?", ("dunking", "passing"), "passing")
    assert by_source["tempcompass/yes_no/speed"].answer == "yes"
    caption = by_source["tempcompass/caption_matching/order"]
    assert (caption.question, caption.options, caption.answer) == ("Which fits?", ("He runs.", "He sits."), "He sits.")


def test_videommmu_and_mmvu_mean(turned):
    (adaptation,) = only(turned, "videommmu")
    assert (adaptation.task, adaptation.answer, adaptation.source) == ("open", "4", "videommmu/Adaptation")
    assert adaptation.question.startswith("How many beats?\n") and "at the end of the video" in adaptation.question
    (perception,) = only(turned, "videommmu", 1)
    assert (perception.task, perception.answer, perception.question) == ("multiple_choice", "D", "Which note?")
    choice, free = only(turned, "mmvu")
    assert (choice.answer, choice.source) == ("ear", "mmvu/Biology")
    assert (free.task, free.answer) == ("open", "osmosis")


def test_mvbench_takes_the_clip_only_from_a_whole_video(turned):
    (whole,) = only(turned, "mvbench")
    assert (whole.answer, whole.clip, whole.source) == ("run", (0.2, 1.6), "mvbench/action_sequence")
    (cut,) = only(turned, "mvbench", 1)
    assert (cut.clip, cut.source) == (None, "mvbench/action_prediction")


def test_names_are_forgiving_and_a_wrong_one_is_answered():
    assert named("Charades-STA").name == "charades_sta"
    with pytest.raises(ConfigError, match="did you mean videomme"):
        named("videome")


def test_an_option_may_be_a_letter_itself(turned):
    """Video-MMMU's notes C, D, E: the answer C is a position, not a note."""
    row = published.VIDEOMMMU[0] | {"answer": "C"}
    _, (question,) = turned("videommmu", "new_Music_1.mp4", lambda folder: published.write_parquet(folder / "Perception" / "test.parquet", [row]))
    assert question.options == ("C", "D", "E") and question.answer == "E"


def test_the_same_file_gives_the_same_bytes(turned, tmp_path):
    only(turned, "tempcompass")
    first = (tmp_path / "out" / "questions.jsonl").read_bytes()
    only(turned, "tempcompass")
    assert (tmp_path / "out" / "questions.jsonl").read_bytes() == first
    assert json.loads(first.splitlines()[0])["video"].startswith("/"), "the videos are not below the file's folder"
