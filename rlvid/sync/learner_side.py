"""The sending side of a weight push, inside the learner's ranks.

One code path for every transport and ZeRO stage: all ranks gather layer by layer, rank 0 packs buckets and broadcasts
while the engines receive, then the engines finish, take the version and drop their caches. Only the transport differs:
vLLM's own nccl trainer engine on GPUs, its gloo twin below on CPU.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, TrainerWeightTransferEngine, VLLMWeightSyncClient, WeightSource

from rlvid.config import Config
from rlvid.sync.adapter import AdapterTransfer
from rlvid.sync.checksum import digest, element_sum
from rlvid.sync.engine_side import GlooInitInfo, GlooUpdateInfo, Room, join_group
from rlvid.sync.source import ZeroSource
from rlvid.sync.sparse import INDEX_BYTES, Held, Patch, packed, patch_buckets, worth_it
from rlvid.types import Sent

ABORT_S = 5.0
"""NCCL may take its time to end a communicator; nobody needs to see it."""


class SummedSource(WeightSource):
    """A ZeroSource as vLLM wants it, which adds up the checksum of what passes by, if it is asked for."""

    def __init__(self, model: torch.nn.Module, *, summed: bool) -> None:
        self.inner = ZeroSource(model)
        self.summed = summed
        self.held: Held | None = None
        self.sums: dict[str, int] = {}
        self.bytes = 0
        self._passing: Iterator[tuple[str, torch.Tensor]] = iter(())

    def metadata(self) -> list[ParamMeta]:
        layout = self.inner.layout()
        return [ParamMeta(name, getattr(torch, dtype), shape) for name, dtype, shape in zip(layout.names, layout.dtypes, layout.shapes, strict=True)]

    def begin(self) -> None:
        """A new pass. vLLM iterates over it once."""
        self._passing = self._summed()

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._passing

    def _summed(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.sums, self.bytes = {}, 0
        for name, tensor in self.inner:
            if self.summed:
                self.sums[name] = element_sum(tensor)
            self.bytes += tensor.numel() * tensor.element_size()
            if self.held is not None:
                self.held.keep(name, tensor)
            yield name, tensor

    def patches(self) -> list[Patch]:
        """A pass of its own: what changed against what is held, added up as a whole."""
        held, found = self.held, []
        assert held is not None
        self.sums, self.bytes = {}, 0
        for name, tensor in self.inner:
            if self.summed:
                self.sums[name] = element_sum(tensor)
            found.append(held.changed(name, tensor))
            self.bytes += len(found[-1].indices) * (INDEX_BYTES + tensor.element_size())
        return found

    def drain(self) -> None:
        """Take the rest of an interrupted pass: the other ranks gather in step with this one and would wait for it."""
        for _ in self._passing:
            pass


class EngineClient:
    """vLLM's VLLMWeightSyncClient over rollout actors: one call fans out to all, waits for all, has a deadline.

    `widths`: workers per engine; each engine gets its own place in the transfer group behind rank 0, the sender. `pause_deadline_s`: how
    long engines may take for the answers that they end first. `abort`: ends a broadcast whose other side is gone, where it would not end by itself.
    """

    def __init__(self, engines: list[Any], widths: list[int], *, deadline_s: float, pause_deadline_s: float) -> None:
        self.engines = engines
        self.widths = widths
        self.deadline_s = deadline_s
        self.pause_deadline_s = pause_deadline_s
        self.abort: Callable[[], None] = lambda: None
        self.version = 0
        self.pause_s = 0.0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        offsets = [1 + sum(self.widths[:i]) for i in range(len(self.engines))]
        places: list[dict[str, Any]] = [{"rank_offset": offset} if "rank_offset" in init_info else {} for offset in offsets]  # ipc has no group to join
        self._wait("join the weight transfer", [e.join_transfer.remote(init_info | place) for e, place in zip(self.engines, places, strict=True)])

    def start_weight_update(self) -> None:
        self._wait("pause for new weights", [engine.start_update.remote() for engine in self.engines], self.pause_deadline_s)

    def update_weights(self, update_info: Any) -> None:
        try:
            self._wait("receive weights", [engine.receive_update.remote(update_info) for engine in self.engines])
        except BaseException:
            self.abort()
            raise

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.pause_s = max(self._wait("finish the weight update", [engine.finish_update.remote(self.version) for engine in self.engines]))

    def take_adapter(self, packed: Any, names: list[str], version: int) -> float:
        """`packed`: reference to the file's bytes. Returns the longest that an engine stood still, in seconds."""
        calls = [engine.take_adapter.remote(packed, names, version) for engine in self.engines]
        return max(self._wait("take the adapter", calls, self.pause_deadline_s + self.deadline_s))

    def _wait(self, what: str, calls: list[Any], deadline_s: float = 0.0) -> list[Any]:
        import ray

        deadline_s = deadline_s or self.deadline_s
        try:
            return ray.get(calls, timeout=deadline_s)
        except ray.exceptions.GetTimeoutError:
            raise TimeoutError(f"sync: the engines did not {what} within {deadline_s:.0f} s (sync.deadline_s, rollout.deadline_s)") from None


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "gloo"

    master_address: str
    master_port: int
    world_size: int
    bucket_bytes: int
    timeout_s: float


class GlooTrainerEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The gloo twin of vLLM's NCCLTrainerWeightTransferEngine: the same handshake, the same order, buckets over gloo."""

    init_info_cls = GlooTrainerInitInfo
    group: Any = None
    bucket_bytes = 0
    room: Room

    @classmethod
    def trainer_init(cls, init_info: GlooTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None) -> Self:
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        engine.bucket_bytes, engine.room = init_info.bucket_bytes, Room()
        if engine.is_sender:
            fields = {key: value for key, value in asdict(init_info).items() if key != "rank"}
            info = GlooInitInfo(**fields, rank_offset=1)
            with ThreadPoolExecutor(max_workers=1) as pool:  # both sides must meet at the same time
                joined = pool.submit(client.init_weight_transfer_engine, asdict(info))
                engine.group = join_group(info, 0)
                joined.result()
        return engine

    def send_weights(self) -> None:
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:  # take part in the gathering
                pass
            return
        metadata = self.source.metadata()
        info = GlooUpdateInfo([m.name for m in metadata], [str(m.dtype).removeprefix("torch.") for m in metadata], [list(m.shape) for m in metadata])
        info.patched_later = isinstance(self.source, SummedSource) and self.source.held is not None
        self._update(info, partial(self._broadcast, info, iter(self.source)))

    def send_patches(self, patches: list[Patch], base: int) -> None:
        """What changed since version `base`, which the engines hold."""
        assert self.source is not None
        shapes = {meta.name: list(meta.shape) for meta in self.source.metadata()}
        dtypes = [patch.values.dtype for patch in patches]
        names, counts = [patch.name for patch in patches], [len(patch.indices) for patch in patches]
        kinds = [str(dtype).removeprefix("torch.") for dtype in dtypes]

        def broadcast() -> None:
            for bucket, size in patch_buckets(counts, dtypes, self.bucket_bytes):
                self.group.broadcast(packed([patches[number] for number in bucket], self.room.of(size)), 0).wait()

        self._update(GlooUpdateInfo(names, kinds, [shapes[name] for name in names], counts, base), broadcast)

    def _update(self, info: GlooUpdateInfo, broadcast: Callable[[], None]) -> None:
        self.client.start_weight_update()
        pool = ThreadPoolExecutor(max_workers=1)
        try:
            received = pool.submit(self.client.update_weights, asdict(info))
            broadcast()
            received.result()
        finally:
            pool.shutdown(wait=False)  # never wait for a call that cannot return
        self.client.finish_weight_update()

    def _broadcast(self, info: GlooUpdateInfo, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        for bucket in info.buckets(self.bucket_bytes):
            sizes = [size for *_, size in bucket]
            if len(sizes) == 1:
                buffer = _as_bytes(next(weights)[1])
            else:
                buffer = self.room.of(sum(sizes))
                for piece, (_, tensor) in zip(buffer.split(sizes), weights, strict=False):
                    piece.copy_(_as_bytes(tensor))
            self.group.broadcast(buffer, 0).wait()

    def shutdown(self) -> None:
        self.group = None


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(-1).view(torch.uint8)


class Transfer:
    """An open connection from one learner rank to all engines."""

    def __init__(self, engine: TrainerWeightTransferEngine[Any], source: SummedSource, client: EngineClient, *, full_every: int = 0) -> None:
        self.engine = engine
        self.source = source
        self.client = client
        self.full_every = full_every
        self.since_whole = -1
        """Pushes of patches since the last whole one, the same on all ranks; -1: there was none."""

    def send(self, version: int) -> Sent:
        """Push the current weights as `version`: what changed, where that is little and a whole push is not due (`full_every` above 0)."""
        base, self.client.version = self.client.version, version
        since, self.since_whole = self.since_whole, -1  # a push that fails leaves nothing to build on
        sent = self._send_patches(base) if 0 <= since < self.full_every - 1 else None
        if sent is None:
            since, sent = -1, self._send_whole()
        self.since_whole = since + 1 if self.full_every else -1
        return sent

    def _send_patches(self, base: int) -> Sent | None:
        """None: too much has changed. All ranks go the same way: rank 0 knows which."""
        if not self.engine.is_sender:
            for _ in self.source.inner:  # take part in the gathering
                pass
            return Sent(self.client.version, "", 0, 0.0) if _agreed(False) else None
        assert isinstance(self.engine, GlooTrainerEngine) and self.source.held is not None
        patches = self.source.patches()
        if not _agreed(worth_it(patches, self.source.held.tensors)):
            return None
        self.engine.send_patches(patches, base)
        return Sent(self.client.version, digest(self.source.sums), self.source.bytes, self.client.pause_s)

    def _send_whole(self) -> Sent:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the push packs on streams of its own, which do not wait for the update's last gathering
        self.source.begin()
        try:
            self.engine.send_weights()
        finally:
            self.source.drain()
        return Sent(self.client.version, digest(self.source.sums), self.source.bytes, self.client.pause_s)

    def shutdown(self) -> None:
        self.engine.shutdown()


def _agreed(yes: bool) -> bool:
    """What rank 0 says."""
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return yes
    said = [yes]
    distributed.broadcast_object_list(said, 0)
    return said[0]


def open_transfer(config: Config, rank: int, model: torch.nn.Module, engines: list[Any], widths: list[int]) -> Transfer | AdapterTransfer:
    """Connect this rank to the engines; all ranks call it, rank 0 sends."""
    client = EngineClient(engines, widths, deadline_s=config.sync.deadline_s, pause_deadline_s=pause_deadline_s(config))
    if config.learner.lora.rank:
        return AdapterTransfer(config, rank, model, client)
    source = SummedSource(model, summed=config.sync.verify)
    where: dict[str, Any] = {"rank": rank, "master_address": _own_address(), "master_port": _free_port(), "world_size": 1 + sum(widths)}
    trainer: TrainerWeightTransferEngine[Any]
    if config.transport == "gloo":
        info = GlooTrainerInitInfo(**where, bucket_bytes=config.sync.bucket_bytes, timeout_s=config.sync.deadline_s)
        trainer = GlooTrainerEngine.trainer_init(info, client=client, source=source)
    elif config.transport == "ipc":
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        ipc = IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=config.sync.bucket_bytes)
        trainer = WeightTransferTrainerFactory.trainer_init(ipc, client=client, source=source)
    else:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        # vLLM moves a thread to a new stream unless it has named one: the memory that this one has cached could not be used there.
        torch.cuda.set_stream(torch.cuda.current_stream())
        nccl = NCCLTrainerInitInfo(**where, packed_buffer_size_bytes=config.sync.bucket_bytes)
        trainer = WeightTransferTrainerFactory.trainer_init(nccl, client=client, source=source)
        client.abort = partial(_abort_nccl, trainer)
    if config.sync.sparse and rank == 0:
        source.held = Held()
    return Transfer(trainer, source, client, full_every=config.sync.full_every if config.sync.sparse else 0)


def pause_deadline_s(config: Config) -> float:
    """Engines that end their answers before they take new weights may take as long as answers may. Some are under way at any time: an engine may join."""
    return config.sync.deadline_s + (config.rollout.deadline_s if config.sync.mode == "wait" else 0)


def _abort_nccl(trainer: Any) -> None:
    """NCCL waits for a lost engine for ever, and this process with it. Called beside the broadcast, which then ends at once.

    Not vLLM's own `destroy`: it shuts the communicator for further broadcasts only after the abort, when the next one may have begun.
    """
    group = trainer.model_update_group
    if group is not None and group.available:
        group.available, group.disabled = False, True
        aborting = threading.Thread(target=group.nccl.ncclCommAbort, args=(group.comm,), daemon=True)
        aborting.start()
        aborting.join(ABORT_S)


def _own_address() -> str:
    import ray

    return ray.util.get_node_ip_address()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
