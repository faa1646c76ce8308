"""Learner and engine add up the same elements under the same places, however each lays its matrices out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvid.sync.checksum import NotReadable, checksum, digest, element_sum, merged, summed_at
from rlvid.sync.readback import ReadBack
from rlvid.types import WeightsLayout


@given(st.integers(1, 5000), st.integers(0, 5000), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_sum_does_not_depend_on_the_cut(length, at, dtype):
    whole, at = torch.arange(length).to(dtype).sin(), min(at, length)
    known = element_sum(whole)
    assert (element_sum(whole[:at]) + element_sum(whole[at:], at) - known) % 2**64 == 0
    changed = whole.clone()
    changed[length // 2] += 1
    assert element_sum(changed) != known


def test_long_tensors_are_summed_in_pieces():
    """More than one piece: the sum is that of the parts."""
    long = torch.arange(2**18 + 77, dtype=torch.float32)
    assert (element_sum(long[:1000]) + element_sum(long[1000:], 1000) - element_sum(long)) % 2**64 == 0


@given(st.permutations([0, 1, 2]), st.sampled_from([(3, 4, 5), (1, 7, 2), (6, 1, 1)]), st.sampled_from([4, 2**18]))
def test_a_turned_tensor_has_the_sum_of_the_original(order, shape, piece):
    original = torch.randn(shape)
    turned = original.permute(order).contiguous()
    steps = [original.stride(dim) for dim in order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlvid.sync.checksum.PIECE", piece)
        assert (int(summed_at(turned, 0, steps)) - element_sum(original)) % 2**64 == 0


def test_places_count():
    """Two elements, rows or experts that have changed places, equal values aside, are seen."""
    experts = torch.randn(4, 6, 5)
    known = checksum([("experts", experts)])
    for dim, length in enumerate(experts.shape):
        order = list(range(length))
        order[0], order[1] = order[1], order[0]
        assert checksum([("experts", experts.index_select(dim, torch.tensor(order)))]) != known
    assert checksum([("experts", experts.transpose(1, 2).contiguous())]) != known
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


class Fused(torch.nn.Module):
    """An engine's layer: q and k in one padded matrix, experts transposed, halves the other way round; a table in float32. One worker of two, or alone."""

    def __init__(self, rank=0, world=1):
        super().__init__()
        self.rank, self.world = rank, world
        self.qk = torch.nn.Parameter(torch.zeros(8 // world + 3, 6, dtype=torch.bfloat16), requires_grad=False)
        self.experts = torch.nn.Parameter(torch.zeros(3, 10, 6, dtype=torch.bfloat16), requires_grad=False)
        self.decay = torch.nn.Parameter(torch.zeros(7), requires_grad=False)

    def load_weights(self, weights):
        for name, tensor in weights:
            if name in ("q", "k"):
                rows = 4 // self.world
                part = tensor.narrow(0, self.rank * rows, rows)
                self.qk.data.narrow(0, 0 if name == "q" else rows, rows).copy_(part)
            elif name == "experts":  # [E, 6, 10] in the checkpoint: gate and up side by side
                for number, one in enumerate(tensor.transpose(1, 2).unbind()):
                    gate, up = one.chunk(2)
                    self.experts.data[number, 5:].copy_(gate)
                    self.experts.data[number, :5].copy_(up)
            else:
                self.decay.data.copy_(tensor)


SHAPES = {"q": (4, 6), "k": (4, 6), "experts": (3, 6, 10), "decay": (7,)}
LAYOUT = WeightsLayout(tuple(SHAPES), ("bfloat16",) * 4, tuple(SHAPES.values()))


def sent():
    torch.manual_seed(0)
    return {name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()}


def read(*workers):
    return digest(merged(LAYOUT, [ReadBack(worker, LAYOUT).sums() for worker in workers]))


def loaded(weights, *workers):
    for worker in workers:
        worker.load_weights(iter(weights.items()))
    return workers


def test_fused_padded_turned_and_widened_weights_read_as_sent():
    weights = sent()
    assert read(*loaded(weights, Fused())) == checksum(weights.items())
    (moe_swapped,) = loaded(weights, Fused())
    moe_swapped.experts.data[[0, 1]] = moe_swapped.experts.data[[1, 0]]
    assert read(moe_swapped) != checksum(weights.items()), "two swapped experts are caught"
    assert read(Fused()) != checksum(weights.items()), "nothing was loaded by looking"


def test_parts_and_copies_of_two_workers_make_the_whole():
    weights = sent()
    workers = loaded(weights, Fused(0, 2), Fused(1, 2))
    assert read(*workers) == checksum(weights.items())
    workers[1].decay.data[3] += 1
    with pytest.raises(NotReadable, match="copies of decay differ"):
        read(*workers)
    with pytest.raises(NotReadable, match="q is not held whole"):
        read(workers[0])


def test_a_square_matrix_that_is_turned_is_caught():
    square = torch.randn(3, 4, 4)
    assert checksum([("experts", square)]) != checksum([("experts", square.transpose(1, 2))])


def test_a_layer_that_keeps_its_weights_elsewhere_cannot_be_read_back():
    class Packed(Fused):
        def load_weights(self, weights):
            super().load_weights((name, tensor * 1) for name, tensor in weights)

    with pytest.raises(NotReadable, match="makes tensors of its own"):
        ReadBack(Packed(), LAYOUT)


def test_a_parameter_that_nothing_sent_goes_into_is_caught():
    """A head of its own where the checkpoint ties it, a bias that the checkpoint does not have; rows of padding are zeros and may stay."""
    engine = Fused()
    engine.head = torch.nn.Parameter(torch.zeros(5, 6), requires_grad=False)
    with pytest.raises(NotReadable, match="nothing that is sent goes into its head"):
        ReadBack(engine, LAYOUT)
    engine.head = engine.decay
    assert ReadBack(engine, LAYOUT).sums()["decay"][1] == 7, "tied to one that is written"
    engine.qk.data[-1, 2] = 0.5
    with pytest.raises(NotReadable, match="goes into a part of its qk"):
        ReadBack(engine, LAYOUT)
    engine.qk.data[-1, 2] = float("nan")
    with pytest.raises(NotReadable, match="goes into a part of its qk"):
        ReadBack(engine, LAYOUT)


def test_moe_experts_come_as_the_hub_lays_them_out(tmp_path):
    """Every family: what a push brings has the names and shapes of the file that transformers writes; two swapped experts have another checksum."""
    from safetensors import safe_open

    from rlvid.families.checkpoint import load_model
    from rlvid.sync.source import ZeroSource
    from rlvid.world.tiny_model import build_tiny_model

    folder = build_tiny_model(tmp_path, ["red green"] * 9, family="qwen3_vl_moe")
    model = load_model(str(folder))
    with safe_open(folder / "model.safetensors", "pt") as file:
        written = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    sent = dict(ZeroSource(model))
    assert {name: tensor.shape for name, tensor in sent.items()} == {name: tensor.shape for name, tensor in written.items()}
    assert all(torch.equal(tensor, written[name]) for name, tensor in sent.items())
    layout = ZeroSource(model).layout()
    assert dict(zip(layout.names, layout.shapes, strict=True)) == {name: tuple(tensor.shape) for name, tensor in sent.items()}
    known = checksum(ZeroSource(model))
    experts = model.model.language_model.layers[0].mlp.experts.down_proj
    with torch.no_grad():
        experts[[0, 1]] = experts[[1, 0]]
    assert checksum(ZeroSource(model)) != known
