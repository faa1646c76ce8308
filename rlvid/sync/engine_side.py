"""The receiving side of a weight push, inside vLLM's worker processes.

On GPUs vLLM's own nccl engine receives. This is its twin for machines without one: the same buckets, broadcast over
gloo. The worker extension adds what vLLM lacks: a checksum over the loaded weights that can be compared with the
learner's (rlvid.sync.checksum).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import Any

import torch
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rlvid.sync.adapter import adapter_digest, loaded_tensors
from rlvid.sync.readback import ReadBack
from rlvid.sync.sparse import Places, patch_buckets, unpacked
from rlvid.types import WeightsLayout


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where the group meets, this engine's first rank in it, and what both sides must agree on."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    bucket_bytes: int
    timeout_s: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """Name, dtype and full shape of every tensor that will come, in order. Of patches: how many values of each (`counts`), for weights of version `base`.
    `patched_later`: patches will follow this whole push."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    counts: list[int] | None = None
    base: int | None = None
    patched_later: bool = False

    def buckets(self, bucket_bytes: int) -> Iterator[list[tuple[str, torch.dtype, list[int], int]]]:
        """Consecutive tensors (name, dtype, shape, bytes), as both sides cut them: up to the bucket's size, and large tensors alone, which need no packing."""
        bucket: list[tuple[str, torch.dtype, list[int], int]] = []
        used = 0
        for name, dtype_name, shape in zip(self.names, self.dtype_names, self.shapes, strict=True):
            dtype = getattr(torch, dtype_name)
            size = prod(shape) * dtype.itemsize
            takes = bucket_bytes if size > bucket_bytes // 8 else size  # a large one fills its bucket
            if bucket and used + takes > bucket_bytes:
                yield bucket
                bucket, used = [], 0
            bucket.append((name, dtype, shape, size))
            used += takes
        if bucket:
            yield bucket


def join_group(info: GlooInitInfo, rank: int) -> Any:
    """A gloo group of its own beside any global one, with a deadline on every collective. Rank 0 is met on its address, not on every interface."""
    timeout = timedelta(seconds=info.timeout_s)
    listener = socket.create_server((info.master_address, info.master_port)) if rank == 0 else None
    return stateless_init_torch_distributed_process_group(
        info.master_address, info.master_port, rank, info.world_size, backend="gloo", listen_socket=listener, timeout=timeout
    )


class Room:
    """Memory for one bucket, used again for the next: new pages cost as much as the copy into them."""

    def __init__(self) -> None:
        self.held = torch.empty(0, dtype=torch.uint8)

    def of(self, size: int) -> torch.Tensor:
        """`size` bytes, valid until the next call."""
        if len(self.held) < size:
            self.held = torch.empty(size, dtype=torch.uint8)
        return self.held[:size]


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives broadcast buckets and loads them with the model's own `load_weights`: into the parameters as they are, or by vLLM's layer-wise reload where
    some were repacked after loading (what plugin.py cannot keep from it, such as the bfloat16 convolutions of gated delta nets on some processors).
    """

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    layerwise = False

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        rank = init_info.rank_offset + self.parallel_config.data_parallel_index * self.parallel_config.world_size + self.parallel_config.rank
        self.bucket_bytes = init_info.bucket_bytes
        self.group = join_group(init_info, rank)
        self.room = Room()
        self.places = Places()

    def start_weight_update(self) -> None:
        self.layerwise = repacked(self.model)
        if self.layerwise:
            initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        if self.layerwise:
            finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # the base class then synchronizes an accelerator; here is none

    @torch.no_grad()
    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        if update_info.counts is not None:
            self._receive_patches(update_info, update_info.counts)
            return
        for bucket in update_info.buckets(self.bucket_bytes):
            names, dtypes, shapes, sizes = (list(column) for column in zip(*bucket, strict=True))
            packed = self.room.of(sum(sizes))
            self.group.broadcast(packed, 0).wait()
            model: Any = self.model
            weights = unpack_tensor(packed, names, shapes, dtypes, sizes)
            if self.layerwise:
                # A layer is loaded when it is complete, and holds on to what came until then, when this memory is another bucket's.
                model.load_weights([(name, tensor.clone()) for name, tensor in weights])
            elif update_info.patched_later:
                self.places.load(model, weights)
            else:
                model.load_weights(weights)

    def _receive_patches(self, info: GlooUpdateInfo, counts: list[int]) -> None:
        if self.layerwise:
            raise RuntimeError("weights that this engine has repacked cannot be patched (set sync.sparse to false)")
        dtypes = [getattr(torch, name) for name in info.dtype_names]
        for bucket, size in patch_buckets(counts, dtypes, self.bucket_bytes):
            buffer = self.room.of(size)
            self.group.broadcast(buffer, 0).wait()
            names, found = [info.names[number] for number in bucket], [counts[number] for number in bucket]
            for patch, number in zip(unpacked(buffer, names, found, [dtypes[number] for number in bucket]), bucket, strict=True):
                self.places.patch(self.model, patch, info.shapes[number])

    def shutdown(self) -> None:
        self.group = None


def repacked(model: torch.nn.Module) -> bool:
    """Does a layer hold its weights in another form than they were loaded in?"""
    for module in model.modules():
        shapes = get_layerwise_info(module).restore_metadata[0]
        if hasattr(module, "_cpu_unpacked_conv_weight"):
            return True
        if any(name in shapes and shapes[name].shape != parameter.shape for name, parameter in module.named_parameters(recurse=False)):
            return True
    return False


class WorkerExtension:
    """Mixed into vLLM's worker (`worker_extension_cls`); called through `collective_rpc`."""

    model_runner: Any
    read_back: tuple[WeightsLayout, ReadBack] | None = None
    routes: Any = None

    def loaded_sums(self, names: list[str], dtypes: list[str], shapes: list[list[int]]) -> dict[str, tuple[int, int]]:
        """Of every tensor that a push brings: the sum over its elements that this worker has loaded, and how many they are."""
        layout = WeightsLayout(tuple(names), tuple(dtypes), tuple(tuple(shape) for shape in shapes))
        if self.read_back is None or self.read_back[0] != layout:
            self.read_back = layout, ReadBack(self.model_runner.get_model(), layout)
        return self.read_back[1].sums()

    def note_routes(self) -> None:
        """From now on, keep which experts each token goes through. vLLM's own way (enable_return_routed_experts) needs a GPU."""
        from rlvid.sync.routes import Routes

        self.routes = Routes(self.model_runner)

    def taken_routes(self, request_id: str) -> list[tuple[int, tuple[int, ...], bytes]]:
        """Of each answer of a request that has ended its number, and [n, L, K] int16 as shape and bytes: vLLM's messages carry no arrays. They are forgotten
        here."""
        return [(number, routes.shape, routes.tobytes()) for number, routes in self.routes.take(request_id).items()]

    def loaded_adapter(self, names: list[str]) -> str:
        """Digest of the adapter that this worker computes with, taken from where its layers read it. `names`: of the tensors that were sent."""
        return adapter_digest(loaded_tensors(self.model_runner.lora_manager._adapter_manager, names))
