"""The teacher actor as a plain class: reply first, pixels second."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from rlvid.actors.teacher import TeacherActor, make_teacher, teacher_environment
from rlvid.config import Config
from rlvid.teacher.evidence import evidence_frames
from rlvid.teacher.protocol import EvidenceFrame
from rlvid.types import Evidence, Question
from tests.unit.clips import make


def configured(**sections) -> Config:
    least = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t.jsonl"}, "teacher": {"kind": "annotation"}}
    return Config.model_validate(least | sections)


def asked(config: Config, question: Question):
    async def once():
        actor = TeacherActor(config, 3)
        assert await actor.start() == config.teacher.kind and await actor.check() == 3
        found = await actor.find(question, "no", 2.0, (28, 28))
        await actor.stop()
        return found

    return asyncio.run(once())


@pytest.fixture
def question(tmp_path):
    path = make(tmp_path / "c.mp4", noise=True)
    return Question("q", path, "What colour is it?", "multiple_choice", ("red", "blue"), "red", evidence=Evidence(((0.4, 1.2),)))


def test_a_reply_and_its_frames(question):
    reply, frames = asked(configured(), question)
    assert reply.outcome == "patch" and frames.shape == (4, 28, 28, 3) and frames.dtype == np.uint8
    cuts = evidence_frames(question.video, reply.patch, size=(28, 28))
    assert reply.evidence == tuple(EvidenceFrame(cut.time_s, cut.box) for cut in cuts)
    assert np.array_equal(frames, np.stack([cut.frame_HWC for cut in cuts]))


def test_text_alone_is_the_ablation(question):
    reply, frames = asked(configured(repair={"enabled": True, "visual_evidence": False}), question)
    assert reply.patch is not None and frames is None and reply.evidence == ()


def test_the_number_of_frames_is_the_configured_one(question):
    reply, frames = asked(configured(repair={"enabled": True, "max_evidence_frames": 2}), question)
    assert len(frames) == len(reply.evidence) == 2


def test_without_a_patch_there_are_no_pixels(question):
    reply, frames = asked(configured(), Question("q", question.video, "What?", "open", (), "red"))
    assert reply.patch is None and frames is None


def test_a_video_that_cannot_be_read_leaves_no_patch(question, tmp_path):
    broken = tmp_path / "b.mp4"
    broken.write_bytes(b"nothing")
    reply, frames = asked(configured(), Question("q", str(broken), question.question, question.task, question.options, "red", evidence=question.evidence))
    assert reply.patch is None and reply.outcome == "failed" and "b.mp4" in reply.reason and frames is None


def test_the_key_is_not_in_the_environment_that_ray_shows(monkeypatch):
    monkeypatch.setenv("TEACHER_TEST_KEY", "secret")
    config = configured(teacher={"kind": "chat", "model": "m", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "TEACHER_TEST_KEY"})
    assert "secret" not in str(teacher_environment(config)) and "secret" not in config.dump()
    assert teacher_environment(config)["OMP_NUM_THREADS"] == "1"


def test_no_teacher_cannot_be_started():
    with pytest.raises(ValueError, match="none"):
        make_teacher(configured(teacher={"kind": "none"}))
