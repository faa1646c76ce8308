"""No input ends a run: special tokens in questions, a prompt that the engine refuses, one that the learner cannot pack. All others are learned."""

from __future__ import annotations

import json

from rlvid.actors.rollout import RolloutActor
from rlvid.config import load
from rlvid.learner.rank import Rank
from tests.integration.conftest import CONFIG, metrics_of, slots_of, small_overrides
from tests.unit.test_prompts import PUBLISHED

STEPS = 6


class Engine(RolloutActor):
    async def generate(self, request, *videos):
        if request.question_id == "refused":
            raise ValueError("The decoder prompt is not what this engine takes")
        return await super().generate(request, *videos)


class Learner(Rank):
    def _pack(self, prompts):
        if any(prompt.question_id == "unpacked" for prompt in prompts):
            raise StopIteration
        return super()._pack(prompts)


def test_all_other_questions_are_learned(world, tmp_path, monkeypatch):
    from rlvid import train

    monkeypatch.setattr("rlvid.actors.rollout.RolloutActor", Engine)
    monkeypatch.setattr("rlvid.learner.group.Rank", Learner)
    rows = [json.loads(line) for line in world.train.read_text().splitlines()][: len(PUBLISHED) + 2]
    for row, token in zip(rows, PUBLISHED, strict=False):
        row |= {"id": f"holds {token}", "question": f"{token} {row['question']} {token}"}
    rows[-2]["id"], rows[-1]["id"] = "refused", "unpacked"
    for row in rows:
        row["video"] = str(world.train.parent / row["video"])
    questions = tmp_path / "train.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [*small_overrides(world, tmp_path / "runs"), f"data.train={questions}", "data.eval=null", f"run.steps={STEPS}", "report.enabled=false"]
    folder = train.run(load(CONFIG, settings))
    learned = {slot["question_id"] for step in range(1, STEPS + 1) for slot in slots_of(folder, step)}
    assert learned == {row["id"] for row in rows} - {"refused", "unpacked"}
    metrics = metrics_of(folder)
    assert metrics[-1]["step"] == STEPS and metrics[-1]["data/quarantined"] >= 2 and (folder / "export").is_dir()
    log = (folder / "log.txt").read_text()
    assert "quarantined refused: the engine refuses its prompt: The decoder prompt is not what this engine takes" in log
    assert "quarantined unpacked: the learner cannot pack its prompt: StopIteration" in log
    assert 0 <= metrics[-1]["rollout/truncated_share"] <= 1
    assert {slot["finish_reason"] for slot in slots_of(folder, 1)} <= {"stop", "length"}
