"""One clock for a question about a clip: model, teacher and rewards count from the clip's start; files, specs and dumps are in seconds of the file."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from rlvid.actors.repairer import Repairer
from rlvid.actors.scoring import Scorer
from rlvid.actors.teacher import TeacherActor
from rlvid.actors.variant import VariantActor
from rlvid.algo.rewards import score
from rlvid.config import Config
from rlvid.families import FAMILIES, named
from rlvid.loop.dumped import DumpedStep
from rlvid.observe.dumps import write_step
from rlvid.teacher.conversation import task_text
from rlvid.teacher.protocol import TeacherReply, TeacherRequest
from rlvid.teacher.student import evidence_metadata, patched_prompt, told
from rlvid.teacher.tools import VideoTools
from rlvid.types import Evidence, EvidencePatch, GenerateResult, Group, Question, Region, Rollout
from rlvid.variants.build import TICKS_PER_S
from rlvid.world.tiny_model import build_processor, build_tokenizer
from tests.unit.clips import make

CLIP = (6.0, 10.0)
BOX = (0.1, 0.1, 0.4, 0.4)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 s of noise, 5 frames a second."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    return make(path, frames=60, times_ms=[200 * at for at in range(60)], size=(64, 96), noise=True)


def ask(film, **fields) -> Question:
    seen = Evidence(((7.0, 8.0),), (Region(7.4, BOX),))
    known = {"task": "temporal_grounding", "spans": ((7.0, 8.0),), "evidence": seen, "clip": CLIP}
    return Question("q", film, "When does it ring?", **(known | fields))


def configured(**sections) -> Config:
    least = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}, "teacher": {"kind": "annotation", "deadline_s": 9}}
    least |= {"repair": {"enabled": True}, "rollout": {"answers": 2}, "video": {"frames": 8, "candidates": 16, "max_pixels": 28 * 56 * 2}}
    return Config.model_validate(least | {"variants": {"kinds": ["uniform", "random_jitter"]}} | sections)


def prepared(film, family="qwen2_5_vl", **fields):
    actor = VariantActor(configured(), 0)
    actor.processor, actor.family = build_processor(build_tokenizer(["When does it ring ?"]), family), FAMILIES[family]
    actor.factor, actor.frames_per_token = 28 if family == "qwen2_5_vl" else 32, 2
    return actor.build(ask(film, **fields), ("uniform", "random_jitter"), 0)


def test_the_truth_is_moved_once():
    question = ask("v.mp4")
    told = question.as_told()
    assert told.spans == ((1.0, 2.0),) and told.evidence.spans == ((1.0, 2.0),) and told.evidence.regions[0].time_s == pytest.approx(1.4)
    assert told.as_told() is told and told.clip is None and question.told_duration(12.0) == 4.0 and question.told_duration(9.0) == 3.0
    whole = replace(question, clip=None)
    assert whole.as_told() is whole and whole.told_duration(12.0) == 12.0


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_specs_are_in_the_file_and_the_model_is_told_from_the_clip_s_start(film, family):
    made, *frames = prepared(film, family)
    whole, *_ = prepared(film, family, clip=None, spans=((1.0, 2.0),))
    for spec, metadata, shown in zip(made.specs, made.video_metadata, frames, strict=True):
        assert spec.times_s[0] == 6.0 and spec.times_s[-1] == 10.0 and len(shown) == 8
        told_s = [index / metadata["fps"] for index in metadata["frames_indices"]]
        assert told_s == pytest.approx([time_s - 6.0 for time_s in spec.times_s], abs=1 / TICKS_PER_S)
    assert whole.video_metadata[0]["frames_indices"][0] == 0 and whole.specs[0].times_s[-1] == pytest.approx(11.8)
    assert made.duration_s == whole.duration_s and not made.truth_hidden


@pytest.mark.parametrize(("said", "iou"), [("1.0 to 2.0", 1.0), ("7.0 to 8.0", 0.0), ("from 1 s to 3 s", 0.5)])
def test_rewards_are_on_the_reply_s_clock(film, said, iou):
    assert score(ask(film), f"<answer>{said}</answer>").parts["temporal_iou"] == pytest.approx(iou)
    grounded = ask(film, task="grounded_qa", options=("red", "blue"), answer="red")
    assert score(grounded, f"<answer>red, {said}</answer>").parts == pytest.approx({"accuracy": 1.0, "temporal_iou": iou, "format": 0.0})


def spans_seen(question, text):
    return {"own": question.spans[0][0]}


def test_a_reward_of_one_s_own_gets_the_reply_s_clock(film):
    weights = {"temporal_grounding": {"temporal_iou": 1.0, "own": 1.0}}
    scorer = Scorer(configured(reward={"custom": "tests.unit.test_clock:spans_seen", "weights": weights}))
    assert scorer(ask(film), Rollout("q", 0, 0, 1, (1,), (0.0,), "<answer>1 to 2</answer>", 0, 0)).parts["own"] == 1.0


def test_tools_know_nothing_outside_the_clip(film):
    tools, whole = VideoTools(film, size=(28, 56), clip=CLIP), VideoTools(film, size=(28, 56))
    seen, other = tools.overview(3), whole.call("get_frame", '{"i": 30}')
    assert tools.overview_s == pytest.approx((0.0, 2.0, 4.0)) and tools.duration_s == 4.0 and tools.frame_count == 21
    assert seen.text.startswith("Overview: at 0.00 s") and [cut.time_s for cut, _ in seen.images] == pytest.approx([6.0, 8.0, 10.0])
    (first, _), (same, _) = tools.call("get_frame", '{"i": 0}').images[0], other.images[0]
    assert np.array_equal(first.frame_HWC, same.frame_HWC)
    assert "from 0 to 20" in tools.call("get_frame", '{"i": 21}').text
    assert "<= 4.00" in tools.call("get_temporal_segment", '{"start": 3, "end": 5, "stride": 1}').text
    segment = tools.call("get_temporal_segment", '{"start": 3, "end": 4, "stride": 0.5}')
    assert [cut.time_s for cut, _ in segment.images] == pytest.approx([9.0, 9.4, 10.0], abs=0.11) and segment.text.startswith("Segment 3-4 s: at 3.00 s")


def test_the_teacher_is_told_the_clip_as_a_video(film):
    tools = VideoTools(film, clip=CLIP)
    tools.overview(2)
    text = task_text(TeacherRequest(ask(film), "no", 12.0), tools)
    assert "The video lasts 4.00 s: 21 frames" in text and "at 0.00, 4.00 s" in text and "True span, for your eyes only: 1-2 s" in text


def found(film):
    async def once():
        actor = TeacherActor(configured(), 0)
        await actor.start()
        return await actor.find(ask(film), "no", 12.0, (28, 56))

    return asyncio.run(once())


def test_evidence_lies_in_the_clip_and_its_patch_counts_from_there(film):
    reply, frames = found(film)
    assert reply.outcome == "patch" and "1.4" not in reply.patch.hint and len(frames) == 1
    assert reply.patch.regions[0].time_s == pytest.approx(1.4) and reply.evidence[0].time_s == pytest.approx(7.4)


class Pool:
    """Teachers that found `reply`; engines whose second answer is `text`."""

    def __init__(self, reply=None, frames=None, text=""):
        self.reply, self.frames, self.text, self.requests = reply, frames, text, []

    async def call(self, method, *arguments, num_returns=1, **_):
        if method == "find":
            return self.reply, [self.frames]
        self.requests.append(arguments[0])
        return GenerateResult((Rollout("q", 0, 0, 60, (1, 2), (-0.1, -0.2), self.text, 0, 7),), "digest")


def repaired(film) -> tuple[Group, Pool]:
    made, *frames = prepared(film)
    made = replace(made, specs=made.specs[:1], video_metadata=made.video_metadata[:1])
    reply, cuts = found(film)
    assert isinstance(reply, TeacherReply)
    first = Rollout("q", 0, 0, 40, (1,), (-0.1,), "<answer>3 to 4</answer>", 0, 7)
    scores, rows = ((score(ask(film), first.text),),), ((first,),)
    group = Group(made, tuple(frames[:1]), rows, scores, ((0.0,),), ((0.0,),), ("digest",))
    engines = Pool(text="<think>at 1.4 s, top left</think><answer>1 to 2</answer>")
    repairer = Repairer(configured(), Pool(reply, cuts), engines, lambda question, one, prompt: score(question, one.text), named("qwen2_5_vl").placeholder)
    return asyncio.run(repairer.repair(group, 1)), engines


def test_a_patched_prompt_speaks_of_the_clip_alone(film):
    group, engines = repaired(film)
    (request,), (repair,) = engines.requests, group.repairs
    assert "Evidence, at times that are not told: a part of a frame." in request.prompt and "7.4" not in request.prompt and "1.4" not in request.prompt
    assert [index / request.evidence_metadata["fps"] for index in request.evidence_metadata["frames_indices"]] == [0.0, 0.0]
    assert repair.right and repair.score.parts["temporal_iou"] == 1.0 and repair.alignment == 1.0


def test_evidence_is_told_on_the_clip_s_clock_or_not_at_all():
    box = (0.1, 0.1, 0.2, 0.2)
    assert told([(7.4, None), (8.0, box)], 6.0) == [(1.4, None), (2.0, box)]
    assert told([(7.4, None), (8.0, box)], 6.0, times=False) == [
        (None, None),
        (None, box),
    ]
    for times, line in ((True, "Evidence: 1.4 s, 2 s (a part)."), (False, "Evidence, at times that are not told: a frame, a part of a frame.")):
        shown = told([(7.4, None), (8.0, box)], 6.0, times=times)
        metadata = evidence_metadata(shown, (28, 28))
        seconds = [index / metadata["fps"] for index in metadata["frames_indices"]]
        assert line in patched_prompt("<v>", EvidencePatch("temporal", "Look."), shown, "<v>")
        assert seconds == pytest.approx([1.4, 1.4, 2.0, 2.0] if times else [0.0, 0.0, 1.0, 1.0], abs=1e-4)


def test_dumps_are_in_seconds_of_the_file_and_give_the_same_prompts_again(film, tmp_path):
    group, _ = repaired(film)
    write_step(tmp_path / "rollouts", 1, [group], [np.ones((1, 1))], [np.zeros((1, 1))])
    (row,) = [json.loads(line) for line in (tmp_path / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    assert row["spec"]["times_s"][0] == 6.0 and row["patch"]["regions"][0]["time_s"] == pytest.approx(7.4)
    assert row["evidence_frames"][0]["time_s"] == pytest.approx(7.4) and row["patch"]["hint"].startswith("Look for what is seen")
    (again,) = DumpedStep(tmp_path, 1).groups()
    (one,), (other,) = group.repairs, again.repairs
    assert again.prepared.video_metadata == group.prepared.video_metadata and other.evidence_metadata == one.evidence_metadata
    assert other.evidence == one.evidence and np.array_equal(other.evidence_frames, one.evidence_frames)
    assert other.patch.regions[0].time_s == pytest.approx(one.patch.regions[0].time_s)
