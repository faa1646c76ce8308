"""Small files in the published formats: own content, true column names and types. Each writer returns what `rlvid data convert` is to be given."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


VIDEO_R1 = [
    {
        "problem_id": 7,
        "problem": "What does the dog do first?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["A. jump", "B. sleep"],
        "solution": "<answer>B</answer>",
        "path": "./STAR/a.mp4",
        "data_source": "STAR",
    },
    {
        "problem_id": 8,
        "problem": "How many cups?",
        "data_type": "video",
        "problem_type": "numerical",
        "options": [],
        "solution": "<answer>3</answer>",
        "path": "./STAR/a.mp4",
        "data_source": "STAR",
    },
    {
        "problem_id": 9,
        "problem": "How far is it, in metres?",
        "data_type": "video",
        "problem_type": "regression",
        "options": [],
        "solution": "<answer>1.5</answer>",
        "path": "./STAR/a.mp4",
        "data_source": "STAR",
    },
    {
        "problem_id": 10,
        "problem": "Describe the hat.",
        "data_type": "video",
        "problem_type": "free-form",
        "options": [],
        "solution": "<answer>a red hat</answer>",
        "path": "./STAR/a.mp4",
        "data_source": "STAR",
    },
]
LLAVA = [
    {
        "id": "a-1",
        "conversations": [
            {"from": "human", "value": "<image>\nWho opens the door?\nOptions:\nA. a man\nB. a cat\nReply with the letter alone."},
            {"from": "gpt", "value": "A."},
            {"from": "human", "value": "What colour is it?\nA. Red.\nB. Blue.\nC. Green.\nReply with the letter alone."},
            {"from": "gpt", "value": "C. Green."},
        ],
        "data_source": "0_30_s_academic_v0_1",
        "video": "academic_source/a.mp4",
    }
]
ACTIVITYNET = {"v_one": {"duration": 2.0, "timestamps": [[0.1, 1], [1, 1.9]], "sentences": [" A man runs.", "He stops."]}}
NEXTGQA = [
    {
        "video_id": 111,
        "frame_count": 50,
        "width": 64,
        "height": 48,
        "question": "why did he stop",
        "answer": "tired",
        "qid": 3,
        "type": "CW",
        "a0": "tired",
        "a1": "happy",
        "a2": "lost",
        "a3": "late",
        "a4": "cold",
    }
]
GSUB = {"111": {"duration": 2, "location": {"3": [[0.5, 1.0], [1.5, 2]]}, "fps": 25.0}}
VIDEOMME = [
    {
        "video_id": "001",
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Geography",
        "url": "https://example.org",
        "videoID": "fFjv93",
        "question_id": f"001-{number}",
        "task_type": "Counting Problem",
        "question": "How many?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
    }
    for number, duration in enumerate(("short", "medium", "long"), 1)
]
TEMPCOMPASS_CHOICE = {"1034": {"action": [{"question": "What is he doing?\nA. dunking\nB. passing", "answer": "B. passing"}]}}
TEMPCOMPASS_YES_NO = {"1034": {"speed": [{"question": "Is it fast?", "answer": "yes"}]}}
TEMPCOMPASS_CAPTION = {"1034": {"order": [{"question": "Which fits?\nSentence A: He runs.\nSentence B: He sits.", "answer": "Sentence B: He sits."}]}}
VIDEOMMMU = [
    {"id": "new_Music_1", "question": "Which note?", "options": ["C", "D", "E"], "answer": "B", "link_selected": "x", "question_type": "multiple-choice"},
    {"id": "new_Music_2", "question": "How many beats?", "options": [], "answer": "4", "link_selected": "x", "question_type": "open"},
]
MMVU = [
    {
        "id": "validation_0",
        "video": "https://example.org/resolve/main/videos/Biology/0.mp4",
        "youtube_url": "x",
        "question_type": "multiple-choice",
        "metadata": {"subject": "Biology"},
        "question": "Which organ?",
        "choices": {"A": "heart", "B": "liver", "C": "lung", "D": "eye", "E": "ear"},
        "answer": "E",
    },
    {
        "id": "validation_1",
        "video": "https://example.org/resolve/main/videos/Biology/0.mp4",
        "youtube_url": "x",
        "question_type": "open-ended",
        "metadata": {"subject": "Biology"},
        "question": "Which process?",
        "choices": {"A": "", "B": "", "C": "", "D": "", "E": ""},
        "answer": "osmosis",
    },
]
VSIBENCH = [
    {
        "id": 1,
        "dataset": "arkitscenes",
        "scene_name": "41069025",
        "question_type": "object_rel_distance",
        "question": "Which is closest?",
        "ground_truth": "B",
        "options": ["A. table", "B. sofa"],
        "pruned": False,
    },
    {
        "id": 2,
        "dataset": "arkitscenes",
        "scene_name": "41069025",
        "question_type": "object_counting",
        "question": "How many chairs?",
        "ground_truth": "4",
        "options": None,
        "pruned": True,
    },
]
PERCEPTION_QUESTION = {
    "id": 0,
    "question": "Where is the cup?",
    "options": ["left", "right", "middle"],
    "answer_id": 2,
    "area": "physics",
    "reasoning": "explanatory",
    "tag": ["motion"],
}
PERCEPTIONTEST = {"video_1": {"metadata": {"split": "valid", "video_id": "video_1"}, "mc_question": [PERCEPTION_QUESTION]}}
MVBENCH = [{"video": "ZS9XR.mp4", "question": "What next?", "candidates": ["sit", "run"], "answer": "run", "start": 0.2, "end": 1.6, "question_id": "x"}]


VIDEO_HOLMES = [
    {
        "video ID": "0at001QMutY",
        "Question ID": "0",
        "Question Type": kind,
        "Question": "Who is the ghost?",
        "Options": {"A": "The man", "B": "The girl", "C": "Nobody", "D": "The dog", "E": "Both", "F": "The cook"},
        "Answer": "B",
        "Explanation": "She is seen in the mirror.",
    }
    for kind in ("SR",)
]
LONGVIDEOBENCH = [
    {
        "video_id": "86CxyhFV9MI",
        "question": "In the video, which subtitles appear at the same time as the man with black hair?",
        "question_wo_referring_query": "Which subtitles appear?",
        "candidates": ["promisc has come to an end", "run for the hills", "so no one", "the end", "a start"],
        "correct_choice": 1,
        "position": [10, 20],
        "topic_category": "NP-News-Programs",
        "question_category": "TOS",
        "level": "L2-Relation",
        "id": "86CxyhFV9MI_0",
        "video_path": "86CxyhFV9MI.mp4",
        "subtitle_path": "86CxyhFV9MI_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 0,
        "duration": 2.0,
        "view_count": 100,
    }
]
LONGVIDEOBENCH_ROWS = [
    {key: value for key, value in LONGVIDEOBENCH[0].items() if key != "candidates"} | {"option0": "one", "option1": "two", "option2": "N/A", "option4": "N/A"}
]
LVBENCH = [
    {
        "key": "Cm73ma6Ibcs",
        "type": "cartoon",
        "qa": [
            {
                "uid": "28",
                "question": "What year appears in the opening caption?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
                "answer": "D",
                "question_type": ["key information retrieval", "reasoning"],
                "time_reference": "00:15-00:19",
            }
        ],
        "video_info": {"duration_minutes": 0.03, "fps": 25.0},
    }
]
LVBENCH_ROWS = [{"video_path": "Cm73ma6Ibcs.mp4", "question": "What year?\n(A) 1636\n(B) 1366", "answer": "B", "uid": "29", "question_type": ["reasoning"]}]
ACTIVITYNET_RTL = [
    {
        "question_id": "b5",
        "vid": "one",
        "question": "When does the man take a break?",
        "answer": "<0.3> <1.2> He stops to drink.",
        "duration": 2.0,
    }
]
MLVU = [
    {
        "video": "movie101_66.mp4",
        "duration": 2.0,
        "question": "What colour is the hat?",
        "candidates": ["Yellow", "Red", "Blue", "Green"],
        "answer": "Red",
        "question_type": "plotQA",
    }
]
MLVU_ROWS = [{"video_name": "test_sports_1.mp4", "question": "How many?\n(A) 1\n(B) 2\n(C) 3\n(D) 4", "answer": "C", "task_type": "count", "duration": 2.0}]
LONGVIDEO_REASON = [
    {"problem": "Why does she run?\nA. Fear\nB. Joy\nC. Habit\nD. Love", "videos": "_EVlnT6-0vM.mp4", "answer": "A", "reasoning": "<think>..</think>"}
]
MOTIONBENCH = [
    {
        "question_type": "Camera Motion",
        "video_type": "movie",
        "key": "MNa5h",
        "video_path": "MNa5h.mp4",
        "video_info": {"fps": 25.0, "duration": 2.0},
        "qa": [{"uid": "HmVfRUwu", "question": "How does the camera move?\nA. left\nB. right\nC. up", "answer": "B"}],
    }
]
MINERVA = [
    {
        "key": "5SDSlw_7ZNQ:1",
        "video_id": "5SDSlw_7ZNQ",
        "question": "Who scores first?",
        "answer": "Blue",
        "answer_choice_0": "Red",
        "answer_choice_1": "Blue",
        "answer_choice_2": "Green",
        "answer_choice_3": "Nobody",
        "answer_choice_4": "Both",
        "answer_id": 1,
        "reasoning": "At 0:01 ...",
        "question_type": "Counting",
        "split": "Sports",
        "category": "Football",
    }
]
QVHIGHLIGHTS = [
    {
        "qid": 2579,
        "query": "A girl and her mother cooked while talking.",
        "duration": 2,
        "vid": "NUsG9BgSes0_210.0_360.0",
        "relevant_clip_ids": [0],
        "saliency_scores": [[4, 1, 1]],
        "relevant_windows": [[0, 0.6], [1.0, 1.8]],
    }
]
TEMPORAL_R1 = [{"video": "AO8RW.mp4", "problem": "When does a person put a book on a shelf?", "solution": [0.1, 0.75], "dataset": "charades_train"}]
PROBLEMS = [  # OneThinker
    {
        "problem_id": 1,
        "problem": 'When does "he jumps" happen?',
        "data_type": "video",
        "problem_type": "temporal grounding",
        "options": [],
        "solution": '<answer>{"time": [0.2, 1.4]}</answer>',
        "path": "./TVG/a.mp4",
        "data_source": "TVG",
    },
    {
        "problem_id": 2,
        "problem": "What is it?",
        "data_type": "video",
        "problem_type": "open-ended",
        "options": [],
        "solution": "<answer>a hat</answer>",
        "path": "./TVG/a.mp4",
    },
]
EASYR1 = [{"problem": "<video>How many cups?", "answer": "3", "videos": ["TVG/a.mp4"]}]
VERL = [
    {
        "data_source": "own",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "<video>Which?\nA. red\nB. blue"}],
        "videos": [{"video": "TVG/a.mp4"}],
        "ability": "video",
        "reward_model": {"style": "rule", "ground_truth": "B"},
        "extra_info": {"index": 0},
    }
]
MESSAGES = [  # ms-swift: with an answer, for GRPO with a solution, and as parts of a turn; LLaMA-Factory's has the same keys
    {
        "messages": [{"role": "user", "content": "<video>What is it?"}, {"role": "assistant", "content": "<think>so</think><answer>a hat</answer>"}],
        "videos": ["clips/a.mp4"],
    },
    {"messages": [{"role": "user", "content": "<video>Which?\nA. red\nB. blue"}], "videos": ["clips/a.mp4"], "solution": "B"},
]
PARTS = [{"messages": [{"role": "user", "content": [{"type": "video", "video": "clips/a.mp4"}, {"type": "text", "text": "How many?"}]}], "solution": "4"}]
CONVERSATIONS = [
    {
        "video": "clips/a.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nDescribe it."},
            {"from": "gpt", "value": "A red hat lies on the table."},
            {"from": "human", "value": "Which colour?\nA. red\nB. blue"},
            {"from": "gpt", "value": "A"},
        ],
    }
]


def _nextgqa(folder: Path) -> Path:
    write_json(folder / "gsub_val.json", GSUB)
    write_json(folder / "map_vid_vidorID.json", {"111": "0101/111"})
    return write_csv(folder / "val.csv", NEXTGQA)


def _charades(folder: Path) -> Path:
    (folder / "charades_sta_test.txt").write_text("3MSZA 0.3 1.4##person turn a light on.\n3MSZA 0.0 2.2##person sits.\n")
    return folder / "charades_sta_test.txt"


def _tempcompass(folder: Path) -> Path:
    for name, value in (("multi-choice", TEMPCOMPASS_CHOICE), ("yes_no", TEMPCOMPASS_YES_NO), ("caption_matching", TEMPCOMPASS_CAPTION)):
        write_json(folder / "questions" / f"{name}.json", value)
    return folder / "questions"


def _tempcompass_rows(folder: Path) -> Path:
    (item,) = TEMPCOMPASS_CHOICE["1034"]["action"]
    return write_parquet(folder / "multi-choice" / "test.parquet", [{"video_id": "1034", "dim": "action", **item}])


def _perceptiontest_rows(folder: Path) -> Path:
    row = {"video_name": "video_1", **PERCEPTION_QUESTION, "question_id": "0", "answer_id": "2"}
    del row["id"]
    return write_parquet(folder / "validation.parquet", [row])


CASES: list[tuple[str, str, Callable[[Path], Path], int]] = [
    ("video_r1", "STAR/a.mp4", lambda folder: write_json(folder / "Video-R1-260k.json", VIDEO_R1), 4),
    ("llava_video", "academic_source/a.mp4", lambda folder: write_json(folder / "0_30_s_academic_mc_v0_1_qa_processed.json", LLAVA), 2),
    ("charades_sta", "3MSZA.mp4", _charades, 2),
    (
        "charades_sta",
        "3MSZA.mp4",
        lambda folder: write_parquet(folder / "test.parquet", [{"video": "3MSZA.mp4", "caption": "person sits", "timestamp": [0.0, 1.5]}]),
        1,
    ),
    ("activitynet_captions", "v_one.mkv", lambda folder: write_json(folder / "val_1.json", ACTIVITYNET), 2),
    ("nextgqa", "0101/111.mp4", _nextgqa, 1),
    ("nextgqa", "111.mp4", lambda folder: write_csv(folder / "train.csv", NEXTGQA), 1),
    ("videomme", "data/fFjv93.mp4", lambda folder: write_parquet(folder / "test-00000-of-00001.parquet", VIDEOMME), 3),
    ("tempcompass", "1034.mp4", _tempcompass, 3),
    ("tempcompass", "videos/1034.mp4", _tempcompass_rows, 1),
    ("videommmu", "Art/new_Music_2.mp4", lambda folder: write_parquet(folder / "Adaptation" / "test.parquet", VIDEOMMMU[1:]), 1),
    ("videommmu", "new_Music_1.mp4", lambda folder: write_parquet(folder / "Perception" / "test.parquet", VIDEOMMMU[:1]), 1),
    ("mmvu", "videos/Biology/0.mp4", lambda folder: write_json(folder / "validation.json", MMVU), 2),
    ("vsibench", "arkitscenes/41069025.mp4", lambda folder: write_lines(folder / "test.jsonl", VSIBENCH), 2),
    ("vsibench", "arkitscenes/41069025.mp4", lambda folder: write_parquet(folder / "test.parquet", VSIBENCH), 2),
    ("perceptiontest", "video_1.mp4", lambda folder: write_json(folder / "mc_question_valid.json", PERCEPTIONTEST), 1),
    ("perceptiontest", "videos/video_1.mp4", _perceptiontest_rows, 1),
    ("mvbench", "video/star/Charades_v1_480/ZS9XR.mp4", lambda folder: write_json(folder / "action_sequence.json", MVBENCH), 1),
    ("mvbench", "star/Charades_segment/ZS9XR.mp4", lambda folder: write_json(folder / "json" / "action_prediction.json", MVBENCH).parent, 1),
    ("video_holmes", "videos_cropped/0at001QMutY.mp4", lambda folder: write_json(folder / "test_Video-Holmes.json", VIDEO_HOLMES), 1),
    ("longvideobench", "videos/86CxyhFV9MI.mp4", lambda folder: write_json(folder / "lvb_val.json", LONGVIDEOBENCH), 1),
    ("longvideobench", "86CxyhFV9MI.mp4", lambda folder: write_parquet(folder / "validation.parquet", LONGVIDEOBENCH_ROWS), 1),
    ("lvbench", "Cm73ma6Ibcs.mp4", lambda folder: write_lines(folder / "video_info.meta.jsonl", LVBENCH), 1),
    ("lvbench", "all_videos/Cm73ma6Ibcs.mp4", lambda folder: write_parquet(folder / "train.parquet", LVBENCH_ROWS), 1),
    ("activitynet_rtl", "v_one.mp4", lambda folder: write_json(folder / "annot_val_1_q229.json", ACTIVITYNET_RTL), 1),
    ("mlvu", "video/1_plotQA/movie101_66.mp4", lambda folder: write_json(folder / "1_plotQA.json", MLVU), 1),
    ("mlvu", "test_sports_1.mp4", lambda folder: write_parquet(folder / "test.parquet", MLVU_ROWS), 1),
    ("longvideo_reason", "longvila_videos/_EVlnT6-0vM.mp4", lambda folder: write_lines(folder / "test.jsonl", LONGVIDEO_REASON), 1),
    ("motionbench", "self-collected/MNa5h.mp4", lambda folder: write_lines(folder / "video_info.meta.jsonl", MOTIONBENCH), 1),
    ("minerva", "5SDSlw_7ZNQ.mp4", lambda folder: write_json(folder / "minerva.json", MINERVA), 1),
    ("qvhighlights", "NUsG9BgSes0_210.0_360.0.mp4", lambda folder: write_lines(folder / "highlight_val_release.jsonl", QVHIGHLIGHTS), 1),
    ("temporal_r1", "Charades_v1/AO8RW.mp4", lambda folder: write_json(folder / "charades_train.json", TEMPORAL_R1), 1),
    ("problems", "TVG/a.mp4", lambda folder: write_json(folder / "onethinker_rl_train.json", PROBLEMS), 2),
    ("problems", "TVG/a.mp4", lambda folder: write_lines(folder / "easyr1.jsonl", EASYR1), 1),
    ("problems", "TVG/a.mp4", lambda folder: write_parquet(folder / "verl.parquet", VERL), 1),
    ("messages", "clips/a.mp4", lambda folder: write_lines(folder / "swift.jsonl", MESSAGES), 2),
    ("messages", "clips/a.mp4", lambda folder: write_lines(folder / "parts.jsonl", PARTS), 1),
    ("messages", "clips/a.mp4", lambda folder: write_json(folder / "llava.json", CONVERSATIONS), 2),
]
"""Source, where its video lies, the file's writer, how many questions it holds."""


def problem(**values: Any) -> dict[str, Any]:
    """A row as Video-R1's followers write them."""
    return {"problem": "What?", "solution": "<answer>x</answer>", "path": "a.mp4", "data_type": "video", "problem_type": "open-ended"} | values


def chat(asked: Any, **more: Any) -> dict[str, Any]:
    """A row as ms-swift writes them."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "a hat"}], **more}


_TWO = {"path": None, "images": ["frames/1.png", "frames/2.png"], "data_type": "image"}
MEDIA: dict[str, list[dict[str, Any]]] = {
    "video_r1": [VIDEO_R1[0] | {"data_type": "image", "path": "./frames/1.png", "problem_id": 7}],
    "problems": [
        problem(problem="One?", data_type="image", path="./frames/3.png"),
        problem(problem="<image>Two?<image>", **_TWO),
        problem(problem="Two, unmarked?", **_TWO),
        problem(problem="Is <image> in <video>?", images=["frames/1.png"], data_type="video"),
        problem(problem="<video><image>Which?\nA. red\nB. blue", images=["frames/1.png"], solution="B", problem_type="multiple choice"),
        problem(problem="Clips <video> and <video>", path=["a.mp4", "frames/../a.mp4"]),
        problem(problem="1 + 2?", data_type="text", path=None, problem_type="numerical", solution="<answer>3</answer>"),
        problem(problem="<video>Plain?"),
    ],
    "messages": [
        chat("<image>What?", images=["frames/1.png"]),
        chat("<image>What?", images=[{"path": "frames/3.png", "bytes": None}]),
        chat("<video>or <image>?", images=["frames/1.png"], videos=["a.mp4"]),
        chat(
            [
                {"type": "text", "text": "First"},
                {"type": "image", "image": "frames/2.png"},
                {"type": "video", "video": "a.mp4"},
                {"type": "text", "text": "Same?"},
            ]
        ),
        chat("What is 1 + 2?"),
    ],
}
"""Rows about images, several media and text, by source; `a.mp4` and `frames/N.png` lie beside the file."""
