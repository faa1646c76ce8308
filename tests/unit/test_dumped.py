"""What a step leaves on disk gives the learner's input again, frame for frame and token for token; and a run that goes back forgets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlvid.config import ConfigError
from rlvid.learner.prompts import group_prompts
from rlvid.loop.dumped import DumpedStep
from rlvid.observe.dumps import drop_after, write_step
from rlvid.teacher.evidence import cut_frames
from rlvid.teacher.student import evidence_metadata
from rlvid.types import Evidence, EvidencePatch, Group, Prepared, Question, Region, Relevance, Repair, Rollout, Score, VariantSpec
from rlvid.variants.build import rebuild, video_metadata
from tests.unit.clips import make

REWARDS = np.array([[2.0, 1.7], [1.0, 2.0]])
ADVANTAGES = np.array([[1.25, -0.5], [-1.5, 0.75]])
WEIGHTS = np.full((2, 2), 0.125)


def rollout(variant: int, sample: int) -> Rollout:
    tokens = tuple(range(10 * variant + sample + 1, 10 * variant + sample + 4))
    logprobs = tuple(-0.125 * token for token in tokens)
    return Rollout("q", variant, sample, 50 + variant, tokens, logprobs, f"<answer>{variant}{sample}</answer>", 3, 2**60 + sample)


@pytest.fixture
def group(tmp_path: Path) -> Group:
    clip = make(tmp_path / "clip.mp4", size=(96, 128), noise=True)
    question = Question("q", clip, "What?", "open", answer="x", evidence=Evidence(((0.4, 0.8),), (Region(0.4, (0.1, 0.1, 0.5, 0.5)),)))
    specs = (
        VariantSpec("uniform", (0.0, 0.6, 1.2, 1.8), None, (28, 56), 1, (48, 64)),
        VariantSpec("crop", (0.2, 0.6, 1.0, 1.8), (0.1, 0.2, 0.8, 0.9), (28, 56), 2, (48, 64)),
    )
    size = specs[0].size
    cuts = cut_frames(clip, [(0.5, None), (0.6, (0.2, 0.2, 0.4, 0.5))], lambda height, width: size)
    evidence = tuple((cut.time_s, cut.box) for cut in cuts)
    patch = EvidencePatch("temporal", "Look again.", spans=((0.4, 0.8),), frames_s=(0.5,), regions=(Region(0.6, (0.2, 0.2, 0.4, 0.5)),))
    second = replace(rollout(0, 1), prompt_tokens=90)
    repair = Repair(
        variant=0,
        sample=1,
        patch=patch,
        first=rollout(0, 1),
        first_score=Score({"accuracy": 0.0}),
        rollout=second,
        score=Score({"accuracy": 1.0}),
        correct=1.0,
        blind=0.0,
        alignment=0.5,
        reward=1.7,
        chosen=True,
        prompt="patched prompt",
        prompt_digest="cafe",
        evidence=evidence,
        evidence_metadata=evidence_metadata(evidence, size),
        evidence_frames=np.stack([cut.frame_HWC for cut in cuts]),
    )
    rollouts = ((rollout(0, 0), second), (rollout(1, 0), rollout(1, 1)))
    return Group(
        prepared=Prepared(question, "the prompt", specs, tuple(video_metadata(spec) for spec in specs), 2.0, Relevance((0.0, 1.0), (0.25, 0.75))),
        frames=tuple(rebuild(clip, spec) for spec in specs),
        rollouts_KM=rollouts,
        scores_KM=tuple(tuple(Score({"accuracy": 1.0}) for _ in row) for row in rollouts),
        rewards_KM=tuple(map(tuple, REWARDS.tolist())),
        correct_KM=((1.0, 1.0), (1.0, 1.0)),
        prompt_digests=("aa", "bb"),
        repairs=(repair,),
    )


def test_the_learner_gets_the_same_again(group: Group, tmp_path: Path) -> None:
    write_step(tmp_path / "rollouts", 7, [group], [REWARDS], [ADVANTAGES])
    dumped = DumpedStep(tmp_path, 7)
    assert np.array_equal(dumped.numbers("advantage")[0], ADVANTAGES) and np.array_equal(dumped.numbers("reward")[0], REWARDS)
    before, (again,) = group_prompts(group, ADVANTAGES, WEIGHTS), dumped.groups()
    after = group_prompts(again, dumped.numbers("advantage")[0], WEIGHTS)
    assert len(before) == len(after) == 3, "two variants and one patched prompt"
    for one, other in zip(before, after, strict=True):
        assert replace(one, frames=None, evidence_frames=None) == replace(other, frames=None, evidence_frames=None)
        assert np.array_equal(one.frames, other.frames)
        assert one.evidence_frames is None or np.array_equal(one.evidence_frames, other.evidence_frames)
    assert after[2].evidence_frames is not None and after[2].prompt == "patched prompt"


def test_the_question_row_tells_the_story(group: Group, tmp_path: Path) -> None:
    write_step(tmp_path / "rollouts", 7, [group, replace(group, prepared=replace(group.prepared, relevance=None))], [REWARDS] * 2, [ADVANTAGES] * 2)
    with_curve, without = DumpedStep(tmp_path, 7).questions
    assert with_curve["relevance"] == {"times_s": [0.0, 1.0], "scores": [0.25, 0.75]} and without["relevance"] is None
    assert with_curve["evidence"] == {"spans": [[0.4, 0.8]], "regions": [{"time_s": 0.4, "box": [0.1, 0.1, 0.5, 0.5]}]}
    assert with_curve["duration_s"] == 2.0 and with_curve["video"].endswith("clip.mp4")


def test_a_video_that_is_gone_is_named(group: Group, tmp_path: Path) -> None:
    write_step(tmp_path / "rollouts", 7, [group], [REWARDS], [ADVANTAGES])
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(ConfigError, match=r"clip\.mp4 is not there any more"):
        DumpedStep(tmp_path, 7)
    with pytest.raises(ConfigError, match="step 8 and all since the checkpoint before it must be dumped"):
        DumpedStep(tmp_path, 8)


def test_going_back_forgets_both_files(group: Group, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_step(tmp_path, step, [group], [REWARDS], [ADVANTAGES])
    drop_after(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_000001.groups.jsonl", "step_000001.jsonl"]


def test_a_line_is_a_line_for_every_reader(group: Group, tmp_path: Path) -> None:
    said = "one\u2028two\u2029three\x85four\nfive"
    first = replace(group.rollouts_KM[0][0], text=said)
    write_step(tmp_path / "rollouts", 7, [replace(group, rollouts_KM=((first, group.rollouts_KM[0][1]), group.rollouts_KM[1]))], [REWARDS], [ADVANTAGES])
    assert len((tmp_path / "rollouts" / "step_000007.jsonl").read_text().splitlines()) == 4
    assert DumpedStep(tmp_path, 7).slots[0][0][0]["text"] == said


def test_a_second_answer_that_was_not_taken_is_kept_beside_the_first(group: Group, tmp_path: Path) -> None:
    (repair,) = group.repairs
    kept = replace(group, repairs=(replace(repair, chosen=False),))
    write_step(tmp_path / "rollouts", 7, [kept], [REWARDS], [ADVANTAGES])
    dumped = DumpedStep(tmp_path, 7)
    row = dumped.slots[0][0][1]
    assert not row["repaired"] and row["second_try"]["parts"] == {"accuracy": 1.0} and row["second_try"]["reward"] == 1.7
    assert not dumped.groups()[0].repairs and dumped.questions[0]["source"] == group.question.source
