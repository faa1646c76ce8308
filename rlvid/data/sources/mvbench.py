"""MVBench: twenty temporal tasks, multiple choice.

Columns: a file for each task (`json/action_sequence.json`, ...), rows of `video`, `question`, `candidates`, `answer` (a candidate's text), for some tasks
`start` and `end` in seconds, as in OpenGVLab/MVBench; the task is taken from the file's name (or the hub configuration). Videos: the folder `video` with
the data set's own folders, as in lmms-eval's task; episodic reasoning comes as folders of pictures, three a second. Where only the whole video is there,
start and end become the question's clip; folders named `*_segment` hold cut videos.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvid.data.questions import QuestionError
from rlvid.data.sources import texts
from rlvid.data.sources.base import Draft, Record, Source
from rlvid.data.sources.videos import Videos

_STAR = ("star/Charades_segment", "star/Charades_v1_480")
_CLEVRER = ("clevrer/video_validation",)
_PERCEPTION = ("perception/videos",)
FOLDERS: dict[str, tuple[str, ...]] = {
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "action_count": _PERCEPTION,
    "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
    "action_prediction": _STAR,
    "action_sequence": _STAR,
    "character_order": _PERCEPTION,
    "counterfactual_inference": _CLEVRER,
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment",),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "moving_attribute": _CLEVRER,
    "moving_count": _CLEVRER,
    "moving_direction": _CLEVRER,
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "scene_transition": ("scene_qa/video",),
    "state_change": _PERCEPTION,
    "unexpected_action": ("FunQA_test/test",),
}


PICTURES, FPS = "episodic_reasoning", 3.0
"""TVQA's episodes are published as folders of pictures, three a second."""


def _draft(record: Record, values: Mapping[str, Any], videos: Videos) -> Draft:
    task, name = _task(record.origin), texts.text(values, "video")
    options = texts.options(values["candidates"], "candidates")
    question, answer = texts.text(values, "question"), texts.text(values, "answer")
    bounds = (values.get("start"), values.get("end"))
    names = [f"{part}{folder}/{name}" for folder in FOLDERS[task] for part in ("", "video/", "data0613/")] + [name]
    video = videos.find_pictures(names[0], FPS, *names[1:]) if task == PICTURES and any(map(videos.is_folder, names)) else videos.find(*names)
    whole = "_segment" + os.sep not in os.path.relpath(video, videos.root)
    return Draft(
        id=texts.derived_id("mvbench", task, name, question, options.texts, bounds),
        video=video,
        question=question,
        task="multiple_choice",
        source=f"mvbench/{task}",
        options=options.texts,
        answer=texts.by_text(answer, options),
        changes=options.changes,
        clip=texts.span(bounds, "start, end") if whole and None not in bounds else None,
    )


def _task(origin: str) -> str:
    name = Path(origin).stem
    if name not in FOLDERS:
        raise QuestionError(f"{origin}: {name} is no task of MVBench (keep the published file names, such as action_sequence.json)", "format")
    return name


SOURCE = Source(
    "mvbench",
    "MVBench benchmark: the folder json or one of its files",
    ("video", "question", "candidates", "answer"),
    _draft,
    optional=("start", "end"),
)
