"""A real teacher: vLLM's OpenAI-compatible server of a tiny model on loopback, tools, schema, guard. Its weights are random, its protocol is not."""

from __future__ import annotations

import asyncio

import pytest

from rlvid.actors.teacher import TeacherActor
from rlvid.config import load
from rlvid.data.questions import iter_questions
from tests.integration.conftest import CONFIG, small_overrides


@pytest.mark.slow
def test_a_round_trip_with_a_real_server(world, endpoint, tmp_path):
    """The model has to call a tool first, then must write JSON of the patch's schema: a patch comes back, or a refusal that is counted.

    Hardly trained, it may fill all its tokens with digits and never finish a call; not three times, though.
    """
    overrides = ["teacher.kind=chat", "teacher.model=teacher", f"teacher.base_url={endpoint}", "teacher.overview_frames=2", "teacher.max_turns=2"]
    overrides += ["teacher.max_tokens=700", "teacher.max_frames=6", "teacher.retries=0", "teacher.temperature=1", "repair.enabled=true"]
    config = load(CONFIG, [*small_overrides(world, tmp_path), *overrides])
    questions = list(iter_questions(world.eval))[:3]

    async def conversation() -> list[list[object]]:
        actor = TeacherActor(config, 0)
        await actor.start()
        try:
            return list(await asyncio.gather(*[actor.find(question, "<answer>nothing</answer>", 8.0, (84, 84)) for question in questions]))
        finally:
            await actor.stop()

    replies = asyncio.run(conversation())
    assert sum(reply.tool_calls for reply, _ in replies) >= 1
    for reply, frames in replies:
        assert reply.outcome in ("patch", "refused", "leaked"), reply
        assert reply.turns >= 2 and reply.tokens_in > 0 and reply.tokens_out > 0
        if reply.patch is None:
            assert frames is None and reply.refused + reply.leaked == 2
        else:
            assert frames.shape == (len(reply.evidence), 84, 84, 3)
