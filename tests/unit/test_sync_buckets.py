"""Both sides of a push cut the stream of weights into the same buckets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm")

from ray.exceptions import RayActorError

from rlvid.actors.rollout import RolloutActor
from rlvid.config import load
from rlvid.sync.checksum import digest
from rlvid.sync.engine_side import GlooUpdateInfo, Room
from rlvid.sync.learner_side import EngineClient, _abort_nccl, pause_deadline_s
from rlvid.types import WeightsLayout

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"

SHAPES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), max_size=20)


@given(shapes=SHAPES, size=st.integers(1, 4000), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_every_tensor_comes_once_and_in_order(shapes, size, dtype):
    info = GlooUpdateInfo([str(number) for number in range(len(shapes))], [dtype] * len(shapes), shapes)
    buckets = list(info.buckets(size))
    flat = [one for bucket in buckets for one in bucket]
    assert [(name, shape) for name, _, shape, _ in flat] == list(zip(info.names, shapes, strict=True))
    for bucket in buckets:
        assert len(bucket) == 1 or sum(nbytes for *_, nbytes in bucket) <= size
        assert len(bucket) == 1 or all(nbytes <= size // 8 for *_, nbytes in bucket), "large tensors travel alone"
    assert all(nbytes == torch.empty(shape, dtype=kind).nbytes for _, kind, shape, nbytes in flat)


def test_memory_is_used_again():
    room = Room()
    first = room.of(100)
    assert room.of(40).data_ptr() == first.data_ptr() and len(room.of(40)) == 40
    assert len(room.of(200)) == 200


class LostEngine:
    """Takes the update's start, and dies while it receives."""

    class receive_update:
        @staticmethod
        def remote(info):
            return "lost"


def test_a_broadcast_to_a_lost_engine_is_ended_from_beside_it(monkeypatch):
    """NCCL would wait for ever."""

    def get(refs, timeout):
        raise RayActorError()

    monkeypatch.setattr("ray.get", get)
    client = EngineClient([LostEngine()], [1], deadline_s=1, pause_deadline_s=1)
    aborted = []
    client.abort = lambda: aborted.append(True)
    with pytest.raises(RayActorError):
        client.update_weights({})
    assert aborted == [True]


def test_engines_that_end_their_answers_first_may_take_as_long_as_answers_may():
    def seconds(*overrides):
        return pause_deadline_s(load(CONFIG, ["sync.deadline_s=30", "rollout.deadline_s=70", *overrides]))

    assert seconds("sync.mode=wait") == 100 and seconds("sync.mode=keep") == 30


def test_an_abort_shuts_the_group_before_nccl_is_told():
    """Else the sender, whom the abort frees first, could begin another broadcast on what is being taken apart."""
    seen = []

    class Group:
        available, disabled, comm = True, False, "comm"

        @property
        def nccl(self):
            return self

        def ncclCommAbort(self, comm):
            seen.append((comm, self.disabled))

    group = Group()
    for _ in range(2):
        _abort_nccl(SimpleNamespace(model_update_group=group))
    assert seen == [("comm", True)], "and once only"
    _abort_nccl(SimpleNamespace(model_update_group=None))


LAYOUT = WeightsLayout(("head",), ("float32",), ((2, 3),))
CHECKSUM = digest({"head": 7})


class EngineOfWeights:
    """vLLM's engine as far as a push goes."""

    def __init__(self):
        self.done = []

    def __getattr__(self, name):
        async def call(*_, **__):
            self.done.append(name)
            return "3" if name == "get_weight_version" else [{"head": [7, 6]}]

        return call


def test_a_pause_that_ends_after_the_push_was_given_up_opens_nothing():
    async def late():
        actor = RolloutActor(load(CONFIG), 0)
        actor.engine = engine = EngineOfWeights()
        idle = asyncio.Event()
        engine.pause_generation = lambda **_: idle.wait()
        starting = asyncio.ensure_future(actor.start_update())
        await asyncio.sleep(0)
        await actor.go_on()
        idle.set()
        await starting
        assert engine.done == ["resume_generation"] and not actor.update_opened

    asyncio.run(late())


@pytest.mark.parametrize("transport", ["gloo", "nccl"])
def test_what_an_engine_says_of_its_weights_after_half_a_push(transport):
    async def states():
        actor = RolloutActor(load(CONFIG), 0)
        actor.config, actor.engine = SimpleNamespace(transport=transport, sync=SimpleNamespace(mode="wait")), EngineOfWeights()
        await actor.start_update()
        yield await actor.weights_state(LAYOUT), "finish_weight_update" in actor.engine.done
        await actor.start_update()
        await actor.receive_update({})
        try:
            yield await actor.weights_state(LAYOUT), None
        except RuntimeError as error:
            yield str(error), None
        await actor.finish_update(3)
        yield await actor.weights_state(LAYOUT), None

    async def told():
        return [state async for state in states()]

    begun, half, whole = asyncio.run(told())
    assert begun == ((3, CHECKSUM), True), "closed, as nothing came"
    assert half[0] == ("rollout engine 0 holds half of an update" if transport == "nccl" else (3, CHECKSUM))
    assert whole[0] == (3, CHECKSUM)
