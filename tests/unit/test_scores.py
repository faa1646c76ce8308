"""Benchmark metrics by hand, and against lmms-eval's own functions on the same predictions.

In an environment of lmms-eval's own, made as deploy/README.md says, its modules are imported whole:

    RLVID_LMMS_PYTHON=lmms/bin/python pytest tests/unit/test_scores.py -k agrees

Without one, its task files are loaded here one by one, with empty stand-ins for `datasets` and `pandas`, which their scoring of single answers does not
touch: the development tools have the package, but not the hundred packages that it asks for, many of which contradict the pinned set. It has no task for
NExT-GQA, for LongVideo-Reason, and for grounding on ActivityNet.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvid.algo.rewards import score
from rlvid.algo.scores import BENCHMARKS, MMVU_GROUPS, Answered, average_precision, benchmark_scores, iop, official_mra, open_match
from rlvid.data.sources import SOURCES
from rlvid.types import Question
from tests.unit import lmms_side

OPTIONS = ("red", "green", "blue", "grey")
TASKS = ("multiple_choice", "open", "regression", "grounded_qa")


def tagged(answer):
    return f"<think>so</think><answer>{answer}</answer>"


def asked(source, answer, said, *, task="multiple_choice", spans=(), options=OPTIONS):
    question = Question(f"q-{source}", "/v.mp4", "?", task, options if task in ("multiple_choice", "grounded_qa") else (), answer, spans=spans, source=source)
    return Answered(question, tagged(said), score(question, tagged(said)).parts)


# --- by hand


def test_every_benchmark_among_the_sources_has_its_scores():
    assert BENCHMARKS.keys() == SOURCES.keys() - {"video_r1", "llava_video", "messages", "problems", "temporal_r1"}


def test_videomme_by_duration():
    items = [asked("videomme/short", "red", "A"), asked("videomme/short", "red", "B"), asked("videomme/long", "blue", "C"), asked("other", "red", "B")]
    expected = {"videomme/accuracy": 2 / 3, "videomme/accuracy_long": 1.0, "videomme/accuracy_short": 0.5}
    assert benchmark_scores(items) == pytest.approx(expected)


def test_tempcompass_by_way_and_dimension():
    items = [
        asked("tempcompass/yes_no/speed", "yes", "yes", options=("yes", "no")),
        asked("tempcompass/yes_no/order", "yes", "no", options=("yes", "no")),
        asked("tempcompass/multi_choice/speed", "red", "B"),
    ]
    found = benchmark_scores(items)
    assert found["tempcompass/accuracy"] == pytest.approx(1 / 3)
    assert found["tempcompass/accuracy_yes_no"] == found["tempcompass/accuracy_speed"] == 0.5
    assert found["tempcompass/accuracy_yes_no_order"] == found["tempcompass/accuracy_multi_choice"] == 0.0


def test_mvbench_is_the_mean_over_tasks():
    items = [asked("mvbench/action_count", "red", "A")] * 3 + [asked("mvbench/state_change", "red", "B")]
    assert benchmark_scores(items) == {"mvbench/accuracy": 0.5, "mvbench/accuracy_action_count": 1.0, "mvbench/accuracy_state_change": 0.0}


def test_videommmu_by_track():
    items = [
        asked("videommmu/Perception", "red", "A"),
        asked("videommmu/Adaptation", "3.14159", "about 3.14", task="open"),
        asked("videommmu/Adaptation", "B", "red", options=("green", "B")),
    ]
    assert benchmark_scores(items) == pytest.approx(
        {"videommmu/accuracy": 2 / 3, "videommmu/accuracy_Perception": 1.0, "videommmu/accuracy_Adaptation": 0.5},
    )


def test_mmvu_by_group_of_subjects():
    items = [asked("mmvu/Biology", "red", "A"), asked("mmvu/Law", "osmosis", "It is osmosis.", task="open"), asked("mmvu/Art", "osmosis", "heat", task="open")]
    assert benchmark_scores(items) == pytest.approx(
        {"mmvu/accuracy": 2 / 3, "mmvu/accuracy_Science": 1.0, "mmvu/accuracy_Humanities_and_Social_Science": 0.5},
    )
    assert len(MMVU_GROUPS) == 27


def test_vsibench_mean_over_types():
    """Directions easy 1, hard 0 -> 0.5; distance 1; counting: 9.2 for 10 is an error of 0.08, which 9 of the 10 thresholds allow, and no number is 0."""
    items = [
        asked("vsibench/object_rel_direction_easy", "red", "A"),
        asked("vsibench/object_rel_direction_hard", "red", "B"),
        asked("vsibench/object_rel_distance", "red", "A"),
        asked("vsibench/object_counting", "10", "9.2", task="regression"),
        asked("vsibench/object_counting", "10", "many", task="regression"),
    ]
    found = benchmark_scores(items)
    assert found["vsibench/object_rel_direction_accuracy"] == 0.5 and found["vsibench/object_rel_distance_accuracy"] == 1.0
    assert found["vsibench/object_counting_mra"] == pytest.approx(0.45)
    assert found["vsibench/overall"] == pytest.approx((0.5 + 1.0 + 0.45) / 3)


@pytest.mark.parametrize(("said", "truth", "value"), [(10, 10, 1.0), (5, 10, 0.1), (4.9, 10, 0.0), (7.55, 10, 0.6), (15, 10, 0.1), (0, 0, 1.0), (1, 0, 0.0)])
def test_mean_relative_accuracy(said, truth, value):
    assert official_mra(said, truth) == pytest.approx(value)


def test_grounding_at_three_thresholds():
    """IoUs 1, 0.5, 0.3 and 0 (nothing read)."""
    said = ["0 - 10", "5 - 10", "7 - 10", "never"]
    items = [asked("charades_sta", None, words, task="temporal_grounding", spans=((0.0, 10.0),)) for words in said]
    expected = {"R1@0.3": 0.75, "R1@0.5": 0.5, "R1@0.7": 0.25, "mIoU": 0.45}
    assert benchmark_scores(items) == pytest.approx({f"charades_sta/{name}": value for name, value in expected.items()})
    elsewhere = [asked("activitynet_captions", None, "0 - 10", task="temporal_grounding", spans=((0.0, 10.0),))]
    assert benchmark_scores(elsewhere)["activitynet_captions/mIoU"] == 1.0


def test_nextgqa():
    """Right and inside (IoP 1, IoU 0.2); right and beside; wrong and exact; right with IoP 0.5."""
    spans = ((0.0, 10.0),)
    said = ["red, from 4 to 6", "red, from 20 to 30", "blue, from 0 to 10", "red, from 5 to 15"]
    items = [asked("nextgqa/CW", "red", words, task="grounded_qa", spans=spans) for words in said]
    found = {name.removeprefix("nextgqa/"): value for name, value in benchmark_scores(items).items()}
    assert found["Acc@QA"] == found["Acc@QA_CW"] == 0.75
    assert found["Acc@GQA"] == 0.5
    assert found["mIoP"] == pytest.approx((1 + 0 + 1 + 0.5) / 4) and found["IoP@0.5"] == 0.75
    assert found["mIoU"] == pytest.approx((0.2 + 0 + 1 + 1 / 3) / 4) and found["IoU@0.3"] == 0.5 and found["IoU@0.5"] == 0.25


def test_nextgqa_without_spans_has_the_answers_only():
    assert benchmark_scores([asked("nextgqa/TN", "red", "A")]) == {"nextgqa/Acc@QA": 1.0, "nextgqa/Acc@QA_TN": 1.0}


@pytest.mark.parametrize(
    ("predicted", "truth", "value"), [((1, 3), (0, 10), 1.0), ((0, 10), (1, 3), 0.2), ((5, 6), (0, 1), 0.0), ((2, 2), (0, 3), 1.0), ((4, 4), (0, 3), 0.0)]
)
def test_intersection_over_prediction(predicted, truth, value):
    assert iop(predicted, truth) == pytest.approx(value)


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("4", "4.0", True),
        ("4.004", "4", True),
        ("4.1", "4", False),
        ("The Depth-First Search", "depth-first search", True),
        ("category", "cat", False),
        ("", "x", False),
    ],
)
def test_open_answers(said, truth, right):
    assert open_match(said, truth) is right


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(BENCHMARKS)), st.text(max_size=30), st.sampled_from(TASKS))))
def test_any_reply_gives_shares(replies):
    spans = ((0.0, 1.0),)
    answers = {"multiple_choice": "red", "grounded_qa": "red", "open": "red", "regression": "3"}
    items = [asked(f"{name}/x/y", answers[task], said, task=task, spans=spans if task == "grounded_qa" else ()) for name, said, task in replies]
    assert all(0 <= value <= 1 for value in benchmark_scores(items).values())


def test_evaluation_reports_them():
    from rlvid.asking.evaluate import summarize

    metrics = summarize([asked("charades_sta", None, "0 - 5", task="temporal_grounding", spans=((0.0, 10.0),)), asked("colour", "red", "A")])
    assert metrics["eval/charades_sta/R1@0.5"] == 1.0 and metrics["eval/charades_sta/mIoU"] == metrics["eval/temporal_iou"] == 0.5
    assert metrics["eval/accuracy/colour"] == 1.0 and metrics["eval/questions"] == 2
    assert not any(name.startswith("eval/colour/") for name in metrics)


# --- against lmms-eval


@pytest.fixture(scope="module")
def lmms(tmp_path_factory):
    """The scoring functions of one of lmms-eval's tasks, by the task's folder."""
    if python := os.environ.get("RLVID_LMMS_PYTHON"):
        with lmms_side.elsewhere(python, tmp_path_factory.mktemp("hub")) as load:
            yield load
        return
    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        pytest.skip("lmms-eval is not installed: the tests above compare with its published definitions")
    tasks = Path(next(iter(found.submodule_search_locations))) / "tasks"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        for name in ("datasets", "pandas", "pytz"):
            if importlib.util.find_spec(name) is None:
                stand_in = ModuleType(name)
                stand_in.Dataset = object
                patch.setitem(sys.modules, name, stand_in)
        # The package's own __init__ files import every model; the task files need only their neighbours.
        for name in ("lmms_eval.tasks", "lmms_eval.tasks._task_utils"):
            package = ModuleType(name)
            package.__path__ = [str(tasks if name.endswith("tasks") else tasks / "_task_utils")]
            patch.setitem(sys.modules, name, package)

        def load(task):
            spec = importlib.util.spec_from_file_location(f"lmms_{task.replace('/', '_')}", tasks / task / "utils.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module

        yield load


def letters(count, seed=0):
    """Seeded pairs of a right letter and what a model says."""
    generator = random.Random(seed)
    said = ["A", "B", "C", "D", "A.", "(B)", "C. blue", "D."]
    return [(generator.choice("ABCD"), generator.choice(said)) for _ in range(count)]


def test_videomme_agrees(lmms):
    task = lmms("videomme")
    durations = ("short", "medium", "long")
    doc = {"domain": "Knowledge", "sub_category": "Law", "task_type": "OCR Problems", "question_id": "1", "videoID": "v"}
    docs = [doc | {"answer": right, "duration": durations[at % 3]} for at, (right, _) in enumerate(letters(120))]
    theirs = [task.videomme_process_results(doc, [said])["videomme_perception_score"] for doc, (_, said) in zip(docs, letters(120), strict=True)]
    pairs = zip(docs, letters(120), strict=True)
    ours = benchmark_scores(asked(f"videomme/{doc['duration']}", OPTIONS["ABCD".index(doc["answer"])], said) for doc, (_, said) in pairs)
    assert ours["videomme/accuracy"] * 100 == pytest.approx(task.videomme_aggregate_results(theirs))
    for duration in durations:
        own = [result for result in theirs if result["duration"] == duration]
        assert ours[f"videomme/accuracy_{duration}"] * 100 == pytest.approx(task.videomme_aggregate_results(own))


def test_mvbench_agrees(lmms):
    task = lmms("mvbench")
    docs = [{"candidates": list(OPTIONS), "answer": OPTIONS["ABCD".index(right)]} for right, _ in letters(100)]
    theirs = [task.mvbench_process_results(doc, [said])["mvbench_accuracy"] for doc, (_, said) in zip(docs, letters(100), strict=True)]
    ours = benchmark_scores(asked("mvbench/action_count", doc["answer"], said) for doc, (_, said) in zip(docs, letters(100), strict=True))
    assert ours["mvbench/accuracy_action_count"] * 100 == pytest.approx(task.mvbench_aggregate_results(theirs))


def test_perceptiontest_agrees(lmms):
    task = lmms("perceptiontest/val")
    docs = [{"video_name": "v", "question": "?", "answer_id": "ABC".find(right) % 3} for right, _ in letters(100)]
    theirs = [task.perceptiontest_val_process_results_mc(doc, [said])["accuracy"] for doc, (_, said) in zip(docs, letters(100), strict=True)]
    ours = benchmark_scores(asked("perceptiontest/physics/x", OPTIONS[doc["answer_id"]], said) for doc, (_, said) in zip(docs, letters(100), strict=True))
    assert ours["perceptiontest/accuracy"] == pytest.approx(task.perceptiontest_val_aggregate_accuracy(theirs, None))


def test_tempcompass_agrees(lmms):
    """Predictions that its rules match; whatever they leave to a judge model is out of this comparison."""
    task = lmms("tempcompass")
    docs = [{"video_id": "v", "question": "?", "dim": "speed", "answer": f"{right}. {OPTIONS['ABCD'.index(right)]}"} for right, _ in letters(100)]
    said = [words.strip("()") for _, words in letters(100)]
    theirs = [task.tempcompass_process_results_multi_choice(doc, [words])["speed_accuracy"] for doc, words in zip(docs, said, strict=True)]
    ours = benchmark_scores(asked("tempcompass/multi_choice/speed", doc["answer"][3:], words) for doc, words in zip(docs, said, strict=True))
    assert ours["tempcompass/accuracy_speed"] * 100 == pytest.approx(task.tempcompass_aggregate_rating(theirs, None))
    yes_no = [("yes", "Yes"), ("no", "yes"), ("no", "no."), ("yes", "no")]
    docs = [{"video_id": "v", "question": "?", "dim": "order", "answer": right} for right, _ in yes_no]
    theirs = [task.tempcompass_process_results_yes_no(doc, [words])["avg_accuracy"] for doc, (_, words) in zip(docs, yes_no, strict=True)]
    ours = benchmark_scores(asked("tempcompass/yes_no/order", right, words, options=("yes", "no")) for right, words in yes_no)
    assert ours["tempcompass/accuracy"] * 100 == pytest.approx(task.tempcompass_aggregate_rating(theirs, None))


def test_charades_sta_agrees(lmms):
    task = lmms("charades_sta")
    generator = random.Random(1)
    items, theirs = [], []
    for at in range(200):
        start, said_start = generator.uniform(0, 20), generator.uniform(0, 20)
        truth, said = (round(start, 1), round(start + generator.uniform(1, 10), 1)), (round(said_start, 1), round(said_start + generator.uniform(1, 10), 1))
        words = f"{said[0]} - {said[1]}" if at % 10 else "I cannot tell"
        items.append(asked("charades_sta", None, words, task="temporal_grounding", spans=(truth,)))
        doc = {"video": f"v{at}", "caption": "c", "timestamp": list(truth)}
        theirs.append(task.temporal_grounding_process_results_generation(doc, [words])["charades_sta_mIOU"])
    ours = benchmark_scores(items)
    for metric, aggregate in (("R1@0.3", "iou3"), ("R1@0.5", "iou5"), ("R1@0.7", "iou7"), ("mIoU", "miou")):
        assert ours[f"charades_sta/{metric}"] * 100 == pytest.approx(getattr(task, f"temporal_grounding_aggregate_{aggregate}")(theirs, None))


def test_vsibench_agrees(lmms):
    task = lmms("vsibench")
    generator = random.Random(2)
    theirs, items = {}, []
    for at in range(300):
        truth = generator.choice(["2", "10", "3.7", "0.4"])
        said = str(round(float(truth) * generator.choice([1, 0.5, 1.5, 0.9, 1.1, 1.25, generator.random()]), 2))
        kind = ("object_counting", "object_abs_distance")[at % 2]
        doc = {"question_type": kind, "ground_truth": truth}
        theirs.setdefault(kind, []).append(task.vsibench_process_results(doc, [said])["vsibench_overall"]["MRA:.5:.95:.05"])
        items.append(asked(f"vsibench/{kind}", truth, said, task="regression"))
    for right, said in letters(100):
        doc = {"question_type": "route_planning", "ground_truth": right}
        theirs.setdefault("route_planning", []).append(task.vsibench_process_results(doc, [said.strip("()")])["vsibench_overall"]["accuracy"])
        items.append(asked("vsibench/route_planning", OPTIONS["ABCD".index(right)], said))
    ours = benchmark_scores(items)
    means = {kind: sum(values) / len(values) for kind, values in theirs.items()}
    for kind, metric in (("object_counting", "mra"), ("object_abs_distance", "mra"), ("route_planning", "accuracy")):
        assert ours[f"vsibench/{kind}_{metric}"] == pytest.approx(means[kind])
    assert ours["vsibench/overall"] == pytest.approx(sum(means.values()) / 3)


def test_videommmu_agrees(lmms):
    task = lmms("videommmu")
    theirs, items = [], []
    for at, (right, said) in enumerate(letters(100)):
        doc = {"id": f"new_Music_{at}", "question_type": "multiple-choice", "options": list(OPTIONS), "answer": right}
        theirs.append(task.videommmu_process_results(doc, [said])["mmmu_acc"])
        items.append(asked("videommmu/Perception", OPTIONS["ABCD".index(right)], said))
    for at, (truth, said) in enumerate([("4", "4"), ("4", "5"), ("2.5", "2.50"), ("osmosis", "The answer is osmosis"), ("osmosis", "heat"), ("1,200", "1200")]):
        doc = {"id": f"dev_Music_{at}", "question_type": "open", "options": [], "answer": truth}
        theirs.append(task.videommmu_process_results(doc, [said])["mmmu_acc"])
        items.append(asked("videommmu/Adaptation", truth, said, task="open"))
    assert benchmark_scores(items)["videommmu/accuracy"] == pytest.approx(task.videommmu_aggregate_results(theirs), abs=1e-5)


def test_mmvu_agrees_on_choices(lmms):
    """Open answers go to a judge model there; MMVU_GROUPS is its map of subjects."""
    task = lmms("mmvu")
    theirs, items = [], []
    for at, (right, said) in enumerate(letters(108)):
        subject = sorted(MMVU_GROUPS)[at % 27]
        choices = dict(zip("ABCD", OPTIONS, strict=True))
        doc = {"id": at, "video_path": f"videos/{subject}/1.mp4", "question_type": "multiple-choice", "answer": right, "choices": choices}
        theirs.append(task.mmvu_process_results(doc, [said])["accuracy"])
        items.append(asked(f"mmvu/{subject}", OPTIONS["ABCD".index(right)], said))
    ours = benchmark_scores(items)
    assert ours["mmvu/accuracy"] * 100 == pytest.approx(task.mmvu_aggregate_results_val(theirs))
    assert {name.removeprefix("mmvu/accuracy_") for name in ours} >= {"Science", "Engineering", "Healthcare", "Humanities_and_Social_Science"}


# --- the benchmarks of long videos, of reasoning and of moments


def test_accuracy_by_every_category_of_a_question():
    items = [asked("lvbench/reasoning/entity_recognition", "red", "A"), asked("lvbench/reasoning", "red", "B")]
    expected = {"lvbench/accuracy": 0.5, "lvbench/accuracy_entity_recognition": 1.0, "lvbench/accuracy_reasoning": 0.5}
    assert benchmark_scores(items) == pytest.approx(expected)


def test_activitynet_rtl_is_a_mean_over_videos():
    """Two questions about one video, one about another: (0.5 + 0) / 2 and 1, so 0.625."""
    spans = ((0.0, 10.0),)
    said = ["0 - 5", "20 - 30", "0 - 10"]
    items = [asked("activitynet_rtl", None, one, task="temporal_grounding", spans=spans) for one in said]
    items[2] = replace(items[2], question=replace(items[2].question, video="/other.mp4"))
    assert benchmark_scores(items) == pytest.approx({"activitynet_rtl/mIoU": 0.625, "activitynet_rtl/P@0.5": 0.75})


def test_activitynet_rtl_takes_the_whole_video_where_a_reply_has_no_span():
    """LITA's rule: (0, 40) against (0, 10) is 0.25, (0, 12.5) is 0.8; nothing is known of the third video's length."""
    items = [asked("activitynet_rtl", None, "I cannot tell", task="temporal_grounding", spans=((0.0, 10.0),))] * 3
    lengths = (40.0, 12.5, 0.0)
    items = [replace(one, question=replace(one.question, video=f"/{at}.mp4"), duration_s=lengths[at]) for at, one in enumerate(items)]
    assert benchmark_scores(items) == pytest.approx({"activitynet_rtl/mIoU": 0.35, "activitynet_rtl/P@0.5": 1 / 3})


@pytest.mark.parametrize(
    ("predicted", "value"),
    [
        ([(0, 10), (20, 30)], 1.0),
        ([(0, 10)], 0.5),
        ([(50, 60), (0, 10), (20, 30)], (2 / 3 + 2 / 3) / 2),  # precision 0, 1/2, 2/3: the best still to come counts
        ([(0, 10), (0, 10), (20, 30)], (1 + 2 / 3) / 2),  # a window found twice is a miss
        ([(50, 60)], 0.0),
        ([], 0.0),
    ],
)
def test_average_precision_of_several_windows(predicted, value):
    assert average_precision([(float(a), float(b)) for a, b in predicted], ((0.0, 10.0), (20.0, 30.0)), 0.5) == pytest.approx(value)


def one_window_s_precision(iou, windows, limit):
    """moment_detr's definition, written out: one prediction, precision and recall after it, the area under the interpolated curve."""
    hit = iou >= limit
    recall, precision = [0.0, (1 / windows if hit else 0.0), 1.0], [0.0, float(hit), 0.0]
    for at in (1, 0):
        precision[at] = max(precision[at], precision[at + 1])
    return sum((recall[at] - recall[at - 1]) * precision[at] for at in (1, 2) if recall[at] != recall[at - 1])


def test_qvhighlights_by_moment_detr_s_definition():
    items = [
        asked("qvhighlights", None, "0 - 10", task="temporal_grounding", spans=((0.0, 10.0), (20.0, 30.0))),
        asked("qvhighlights", None, "0 - 6", task="temporal_grounding", spans=((0.0, 10.0),)),
        asked("qvhighlights", None, "50 - 60", task="temporal_grounding", spans=((0.0, 10.0),)),
    ]
    found, ious = benchmark_scores(items), [1.0, 0.6, 0.0]
    windows, limits = [2, 1, 1], [0.5 + 0.05 * at for at in range(10)]
    aps = [sum(one_window_s_precision(iou, count, round(limit, 2)) for iou, count in zip(ious, windows, strict=True)) / 3 for limit in limits]
    assert (found["qvhighlights/R1@0.5"], found["qvhighlights/R1@0.7"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["qvhighlights/mAP"] == pytest.approx(sum(aps) / 10) and found["qvhighlights/mAP@0.75"] == pytest.approx(aps[5])
    assert found["qvhighlights/mAP@0.5"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_mlvu_agrees(lmms):
    task = lmms("mlvu")
    for kinds, aggregate in ((MLVU_DEV, task.mlvu_aggregate_results_dev), (MLVU_TEST, task.mlvu_aggregate_results_test)):
        theirs, items = [], []
        for at, (right, said) in enumerate(letters(180)):
            kind = kinds[at % len(kinds)]
            theirs.append(task.mlvu_process_results({"question": "?", "task_type": kind, "answer": right}, [said])["mlvu_percetion_score"])
            items.append(asked(f"mlvu/{kind}", OPTIONS["ABCD".index(right)], said))
        assert benchmark_scores(items)["mlvu/M-Avg"] * 100 == pytest.approx(aggregate(theirs))


MLVU_DEV = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
MLVU_TEST = ("anomaly_reco", "count", "ego", "needleQA", "order", "plotQA", "sportsQA", "topic_reasoning", "tutorialQA")


def test_lvbench_agrees(lmms):
    task = lmms("lvbench")
    pairs = letters(120)
    theirs = [task.lvbench_process_results({"answer": right}, [said])["lvbench_score"] for right, said in pairs]
    ours = benchmark_scores(asked("lvbench/reasoning", OPTIONS["ABCD".index(right)], said) for right, said in pairs)
    assert ours["lvbench/accuracy"] == pytest.approx(sum(theirs) / len(theirs))


def test_longvideobench_agrees(lmms):
    task = lmms("longvideobench")
    theirs, items = [], []
    for at, (right, said) in enumerate(letters(120)):
        group, category = (15, 60, 600, 3600)[at % 4], ("TOS", "S2E")[at % 2]
        doc = {"id": str(at), "duration_group": group, "question_category": category, "correct_choice": "ABCD".index(right), "option4": "N/A"}
        doc |= {f"option{number}": option for number, option in enumerate(OPTIONS)}
        theirs.append(task.longvideobench_process_results(doc, [said])["lvb_acc"])
        items.append(asked(f"longvideobench/{group}/{category}", OPTIONS["ABCD".index(right)], said))
    ours = benchmark_scores(items)
    assert ours["longvideobench/accuracy"] == pytest.approx(task.longvideobench_aggregate_results(theirs), abs=1e-5)
    own = [result for result in theirs if result["duration_group"] == 600]
    assert ours["longvideobench/accuracy_600"] == pytest.approx(task.evaluate_longvideobench(own)[1]["acc"])


def test_video_holmes_agrees(lmms):
    task = lmms("video_holmes")
    theirs, items = [], []
    for at, (right, said) in enumerate(letters(140)):
        kind = task.QUESTION_TYPES[at % 7]
        doc = {"Options": dict(zip("ABCD", OPTIONS, strict=True)), "Answer": right, "Question Type": kind}
        theirs.append(task.video_holmes_process_results(doc, [said])["video_holmes_accuracy"])
        items.append(asked(f"video_holmes/{kind}", OPTIONS["ABCD".index(right)], said))
    ours = benchmark_scores(items)
    assert ours["video_holmes/accuracy"] * 100 == pytest.approx(task.video_holmes_aggregate_accuracy(theirs))
    for kind in task.QUESTION_TYPES:
        assert ours[f"video_holmes/accuracy_{kind}"] * 100 == pytest.approx(task._aggregate_by_question_type(theirs, kind))


def test_motionbench_agrees(lmms):
    task = lmms("motionbench")
    pairs = letters(120)
    theirs = [task.motionbench_process_results({"answer": right, "question_type": "Camera Motion"}, [said])["motionbench_acc"] for right, said in pairs]
    ours = benchmark_scores(asked("motionbench/Camera_Motion", OPTIONS["ABCD".index(right)], said) for right, said in pairs)
    assert ours["motionbench/accuracy"] == ours["motionbench/accuracy_Camera_Motion"] == pytest.approx(task.motionbench_aggregate_acc(theirs))


def test_minerva_agrees(lmms):
    task = lmms("minerva")
    theirs, items = [], []
    for right, said in letters(120):
        doc = {f"answer_choice_{at}": option for at, option in enumerate((*OPTIONS, "none"))} | {"answer_id": "ABCD".index(right), "key": "k"}
        theirs.append(task.minerva_process_results(doc, [said])["minerva_acc"])
        items.append(asked("minerva/Counting/Sports/Football", OPTIONS["ABCD".index(right)], said, options=(*OPTIONS, "none")))
    ours = benchmark_scores(items)
    assert ours["minerva/accuracy"] * 100 == pytest.approx(task.minerva_aggregate_results(theirs))


def test_qvhighlights_agrees_on_one_window(lmms):
    """timelens has QVHighlights with one window a question."""
    task = lmms("timelens")
    generator = random.Random(3)
    items, theirs = [], []
    for at in range(200):
        start, said_start = generator.uniform(0, 60), generator.uniform(0, 60)
        truth, said = (round(start, 1), round(start + generator.uniform(1, 40), 1)), (round(said_start, 1), round(said_start + generator.uniform(1, 40), 1))
        words = f"{said[0]} - {said[1]}" if at % 10 else "I cannot tell"
        items.append(asked("qvhighlights", None, words, task="temporal_grounding", spans=(truth,)))
        doc = {"video_path": f"v{at}.mp4", "query": "q", "span": [list(truth)]}
        theirs.append(task.timelens_process_results(doc, [words])["timelens_mIOU"])
    ours = benchmark_scores(items)
    for metric, aggregate in (("R1@0.5", "iou5"), ("R1@0.7", "iou7"), ("mIoU", "miou")):
        assert ours[f"qvhighlights/{metric}"] * 100 == pytest.approx(getattr(task, f"timelens_aggregate_{aggregate}")(theirs, None))
