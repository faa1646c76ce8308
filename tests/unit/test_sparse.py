"""A push of what changed: engines end bit-equal to the learner, step after step, whatever happens between."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("vllm")

from rlvid.config import ConfigError, load
from rlvid.sync import learner_side
from rlvid.sync.checksum import checksum, digest, merged
from rlvid.sync.engine_side import GlooUpdateInfo, GlooWeightTransferEngine, Room
from rlvid.sync.learner_side import GlooTrainerEngine, SummedSource, Transfer
from rlvid.sync.readback import ReadBack
from rlvid.sync.source import ZeroSource
from rlvid.sync.sparse import MOST, Held, Patch, Places, differing, packed, patch_buckets, unpacked, worth_it

BUCKET = 1000


class Learner(torch.nn.Module):
    """Named as a checkpoint: three matrices that the engine fuses, one that it pads, one that it copies in two parts, and a vector."""

    config = SimpleNamespace(model_type="qwen2_5_vl")

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        sizes = {"q": (24, 16), "k": (8, 16), "v": (8, 16), "embed": (30, 16), "parts": (10, 16), "norm": (16,)}
        self.weights = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.randn(size).to(dtype)) for name, size in sizes.items()})


class Model(torch.nn.Module):
    """As an engine holds it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        sizes = {"qkv": (40, 16), "embed": (32, 16), "parts": (10, 16), "norm": (16,)}
        self.held = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=False) for name, size in sizes.items()})
        self.loads = 0

    @torch.no_grad()
    def load_weights(self, weights) -> set[str]:
        self.loads += 1
        rows = {"q": slice(0, 24), "k": slice(24, 32), "v": slice(32, 40)}
        for name, tensor in weights:
            short = name.rsplit(".", 1)[1]
            if short in rows:
                self.held["qkv"].data[rows[short]].copy_(tensor)
            elif short == "embed":
                self.held["embed"].data[:30].copy_(tensor)
            elif short == "parts":
                for half in (slice(0, 5), slice(5, 10)):
                    self.held["parts"].data[half].copy_(tensor[half])
            else:
                self.held[short].data.copy_(tensor)
        return set()


def read(model: Model, learner: Learner) -> str:
    """What the engine would echo."""
    layout = ZeroSource(learner).layout()
    return digest(merged(layout, [ReadBack(model, layout).sums()]))


class Wire:
    """One broadcast after the other, in order."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []
        self.bytes = 0

    def broadcast(self, buffer: torch.Tensor, _root: int) -> SimpleNamespace:
        self.sent.append(buffer.clone())
        self.bytes += len(buffer)
        return SimpleNamespace(wait=lambda: None)


class Engines:
    """The client of a push: engines receive when it is finished. `fail` before or in the middle of it."""

    def __init__(self, models: list[Model], wire: Wire) -> None:
        self.wire, self.version, self.pause_s, self.fail, self.patched = wire, 0, 0.0, "", 0
        self.engines = []
        for model in models:
            engine = object.__new__(GlooWeightTransferEngine)
            engine.model, engine.bucket_bytes, engine.room, engine.places = model, BUCKET, Room(), Places()
            self.engines.append(engine)
        self.held = 0

    def start_weight_update(self) -> None:
        self.wire.sent.clear()
        if self.fail == "before":
            raise RuntimeError("no engine")

    def update_weights(self, info) -> None:
        self.info = GlooUpdateInfo(**info)

    def finish_weight_update(self) -> None:
        assert self.info.base in (None, self.held)
        self.patched += self.info.counts is not None
        for number, engine in enumerate(self.engines):
            if self.fail == "middle" and number == 1:
                raise RuntimeError("an engine died")
            buffers = iter(self.wire.sent)
            engine.group = SimpleNamespace(broadcast=lambda buffer, _, come=buffers: (buffer.copy_(next(come)), SimpleNamespace(wait=lambda: None))[1])
            engine.receive_weights(self.info)
        self.held = self.version


def connect(learner: Learner, models: list[Model], full_every: int = 50) -> tuple[Transfer, Engines, Wire]:
    wire = Wire()
    client, source = Engines(models, wire), SummedSource(learner, summed=True)
    source.held = Held()
    trainer = GlooTrainerEngine(client=client, source=source, is_sender=True)
    trainer.group, trainer.bucket_bytes, trainer.room = wire, BUCKET, Room()
    return Transfer(trainer, source, client, full_every=full_every), client, wire


def change(learner: Learner, share: float, rng: torch.Generator) -> None:
    for parameter in learner.parameters():
        chosen = torch.rand(parameter.shape, generator=rng) < share
        parameter.data[chosen] = (parameter.data[chosen].float() * 1.01 + 0.01).to(parameter.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sparse_pushes_leave_engines_bit_equal_over_200_steps_with_faults(dtype):
    """Little changes, now and then much, or nothing; an engine dies before a push or in it, and another joins: all are connected anew."""
    torch.manual_seed(0)
    rng, dice = torch.Generator().manual_seed(1), random.Random(2)
    learner, models = Learner(dtype), [Model(dtype) for _ in range(3)]
    transfer, client, _ = connect(learner, models)
    patched = faults = 0
    for version in range(1, 201):
        change(learner, dice.choice([0, 0.002, 0.01, 0.01, 0.01, 0.5]), rng)
        client.fail = dice.choices(["", "before", "middle"], [18, 1, 1])[0]
        try:
            sent = transfer.send(version)
        except RuntimeError:
            assert client.fail
            faults += 1
            patched += client.patched
            models[1] = Model(dtype)  # the one that died is replaced
            transfer, client, _ = connect(learner, models)
            sent = transfer.send(version)
        assert [read(model, learner) for model in models] == [sent.checksum] * 3 == [checksum(ZeroSource(learner))] * 3, version
        for model in models:
            fused = torch.cat([learner.weights[name] for name in "qkv"])
            assert torch.equal(model.held["qkv"], fused) and torch.equal(model.held["parts"], learner.weights["parts"])
            assert torch.equal(model.held["embed"][:30], learner.weights["embed"]) and torch.equal(model.held["norm"], learner.weights["norm"])
    assert faults > 5 and patched + client.patched > 100


def test_sparse_sends_few_bytes_and_loads_no_tensor_whole():
    """At one value in a hundred; what vLLM's loader copies in one piece is patched where it lies."""
    torch.manual_seed(0)
    learner, model = Learner(torch.bfloat16), Model(torch.bfloat16)
    transfer, client, wire = connect(learner, [model])
    whole = transfer.send(1).bytes
    assert wire.bytes == whole == sum(p.numel() * 2 for p in learner.parameters())
    assert set(client.engines[0].places.of) == {f"weights.{name}" for name in ("q", "k", "v", "embed", "norm")}
    wire.bytes = 0
    flat = torch.cat([p.data.view(-1) for p in learner.parameters()])
    count = round(0.01 * len(flat))
    learner.weights["q"].data.view(-1)[torch.randperm(384)[:count]] += 1
    loads, sent = model.loads, transfer.send(2)
    assert client.patched == 1 and sent.bytes == wire.bytes == 6 * count <= 0.035 * whole
    assert model.loads == loads and sent.checksum == read(model, learner)


def test_sparse_sends_everything_when_it_is_due_too_much_or_not_a_number():
    torch.manual_seed(0)
    learner, model = Learner(torch.float32), Model(torch.float32)
    transfer, client, _ = connect(learner, [model], full_every=4)
    counts = []
    for version in range(1, 9):
        change(learner, 0.01, torch.Generator().manual_seed(version))
        transfer.send(version)
        counts.append(client.patched)
    assert counts == [0, 1, 2, 3, 3, 4, 5, 6]  # whole, three patches, whole, three patches
    transfer.send(9)
    learner.weights["q"].data += 1
    transfer.send(10)
    assert client.patched == 6
    learner.weights["norm"].data[3] = float("nan")
    transfer.send(11)
    assert client.patched == 6 and bool(model.held["norm"][3].isnan())


def test_sparse_sees_every_bit():
    """Zero that changes its sign too; nothing for what is the same."""
    held, tensor = Held(), torch.tensor([0.0, 1.0, -2.0, 0.0])
    held.keep("w", tensor)
    assert len(held.changed("w", tensor).indices) == 0
    patch = held.changed("w", torch.tensor([-0.0, 1.0, -2.5, 0.0]))
    assert patch.indices.tolist() == [0, 2] and patch.values.tolist() == [-0.0, -2.5] and bool(torch.signbit(patch.values[0]))
    assert held.tensors["w"].tolist() == [-0.0, 1.0, -2.5, 0.0]
    assert tensor.tolist() == [0.0, 1.0, -2.0, 0.0]  # the copy is the sender's own


@given(st.integers(0, 60), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]), st.integers(1, 3), st.data())
def test_sparse_finds_every_difference_whatever_the_length(length, dtype, words, data):
    """Lengths that are no whole number of words or pieces."""
    one = torch.arange(length).to(dtype)
    at = sorted(data.draw(st.sets(st.integers(0, max(0, length - 1)), max_size=length))) if length else []
    other = one.clone()
    other[at] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlvid.sync.sparse.PIECE", 8 * words)
        assert differing(one, other).tolist() == at


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([torch.bfloat16, torch.float32])), max_size=12), st.integers(1, 200))
def test_sparse_patches_come_as_they_were_sent(shapes, bucket_bytes):
    patches = [Patch(str(n), torch.arange(count, dtype=torch.int32), torch.randn(count).to(dtype)) for n, (count, dtype) in enumerate(shapes)]
    counts, dtypes = [count for count, _ in shapes], [dtype for _, dtype in shapes]
    room, come = Room(), []
    for bucket, size in patch_buckets(counts, dtypes, bucket_bytes):
        buffer = packed([patches[number] for number in bucket], room.of(size))
        assert len(buffer) == size and (len(bucket) == 1 or size <= bucket_bytes)
        come += unpacked(buffer, *([column[number] for number in bucket] for column in ([p.name for p in patches], counts, dtypes)))
    by_name = {patch.name: patch for patch in come}
    for patch in patches:
        if len(patch.indices):
            assert torch.equal(by_name[patch.name].indices, patch.indices) and torch.equal(by_name[patch.name].values, patch.values)


def test_sparse_is_not_worth_it_above_its_share():
    tensors = {"w": torch.zeros(1000)}
    few, many = (Patch("w", torch.arange(n, dtype=torch.int32), torch.zeros(n)) for n in (int(1000 * MOST), int(1000 * MOST) + 1))
    assert worth_it([few], tensors) and not worth_it([many], tensors)


def test_sparse_ranks_that_do_not_send_go_the_way_that_rank_0_says(monkeypatch):
    learner, said = Learner(torch.float32), []
    client = Engines([], Wire())
    transfer = Transfer(
        GlooTrainerEngine(client=client, source=SummedSource(learner, summed=True), is_sender=False), SummedSource(learner, summed=True), client, full_every=4
    )
    monkeypatch.setattr(learner_side, "_agreed", lambda yes: said.append(yes) or len(said) < 3)
    for version in range(1, 5):
        transfer.send(version)
    assert said == [False] * 3 and transfer.since_whole == 0  # asked before each push but the first; the third was sent whole


def test_sparse_needs_gloo_and_whole_weights(tmp_path):
    (tmp_path / "q.jsonl").write_text("")
    tree = {"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": str(tmp_path / "q.jsonl")}, "sync": {"sparse": True}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    assert load(tmp_path / "c.yaml").sync.sparse
    with pytest.raises(ConfigError, match=r"sync\.sparse patches whole weights over gloo: set sync\.transport to gloo"):
        load(tmp_path / "c.yaml", ["learner.num_gpus=1", "rollout.num_gpus=1"])
    assert load(tmp_path / "c.yaml", ["learner.num_gpus=1", "rollout.num_gpus=1", "sync.transport=gloo"]).sync.sparse
    with pytest.raises(ConfigError, match="an adapter is sent whole"):
        load(tmp_path / "c.yaml", ["learner.lora.rank=4"])
