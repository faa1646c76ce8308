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
]
"""Source, where its video lies, the file's writer, how many questions it holds."""
