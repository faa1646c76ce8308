"""The push of an adapter alone: a few megabytes, which rank 0 puts into Ray's object store and every engine reads from there.

Tensors carry the names that peft gives them in a file. B comes multiplied by alpha / rank, as vLLM would do on loading: what lies in an engine's slot is
then, bit for bit, what was sent, and the digest of one can be compared with that of the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from rlvid.config import Config
from rlvid.sync.source import ZeroSource
from rlvid.types import Sent

if TYPE_CHECKING:
    from rlvid.sync.learner_side import EngineClient

PREFIX = "base_model.model."
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Room for an adapter's rank that vLLM knows."""


def adapter_name(parameter: str) -> str:
    """Name in a file of a parameter of the adapter."""
    return PREFIX + parameter.replace(".default.", ".")


def adapter_tensors(model: torch.nn.Module, scale: float = 1.0) -> Iterable[tuple[str, torch.Tensor]]:
    """(name in a file, whole tensor) of the adapter, B multiplied by `scale`; all ranks take part."""
    for name, tensor in ZeroSource(model, adapter=True):
        yield adapter_name(name), tensor * scale if ".lora_B." in name else tensor


def adapter_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """16 hex digits over names, shapes and bytes; in whichever order they come."""
    digests = []
    for name, tensor in tensors:
        whole = tensor.detach().cpu().contiguous()
        digest = hashlib.blake2b(f"{name} {whole.dtype} {list(whole.shape)}".encode(), digest_size=16)
        digest.update(whole.view(-1).view(torch.uint8).numpy().data)
        digests.append(digest.hexdigest())
    return hashlib.blake2b("".join(sorted(digests)).encode(), digest_size=8).hexdigest()


def sent_scale(config: Config) -> float:
    """What B is multiplied by on its way."""
    return config.learner.lora.alpha / config.learner.lora.rank


def loaded_tensors(manager: Any, names: list[str], slot: int = 0) -> Iterable[tuple[str, torch.Tensor]]:
    """(name, tensor) as they lie in the slot that a vLLM worker computes with. `manager`: its LoRAModelManager. `names`: those that were sent.

    The forward reads nothing else: an adapter that was read from its file and not put there is not seen here either.
    """
    from vllm.lora.utils import parse_fine_tuned_lora_name

    rename = getattr(manager.model, "hf_to_vllm_mapper", None)
    rename = rename.get_rename_mapper() if rename is not None else None
    places = {name: (module, None) for name, module in manager.modules.items()}
    for whole, parts in manager.packed_modules.items():
        places |= {part: (manager.modules[whole], index) for index, part in enumerate(parts)} if whole in manager.modules else {}
    rank = next(iter(manager.get_adapter(manager.lora_index_to_id[slot]).loras.values())).rank
    for name in names:
        module_name, is_a = parse_fine_tuned_lora_name(name, rename)
        layer, index = places[module_name]
        stacked = layer.lora_a_stacked if is_a else layer.lora_b_stacked
        if index is not None:
            held = stacked[index][slot, 0]
        elif is_a:
            held = stacked[0][slot, 0]
        else:
            held = torch.cat([piece[slot, 0] for piece in stacked])
        yield name, held[:rank] if is_a else held[:, :rank]


class AdapterTransfer:
    """The way of the adapter from one learner rank to all engines; rank 0 sends."""

    def __init__(self, config: Config, rank: int, model: torch.nn.Module, client: EngineClient) -> None:
        self.config = config
        self.rank = rank
        self.model = model
        self.client = client

    def send(self, version: int) -> Sent:
        """Push the adapter as it is now as `version`."""
        tensors = {}
        for name, tensor in adapter_tensors(self.model, sent_scale(self.config)):
            if self.rank == 0:
                tensors[name] = tensor.detach().cpu().clone()
        if self.rank:
            return Sent(version, "", 0, 0.0)
        pause_s, size = self._deliver(tensors, version)
        return Sent(version, adapter_digest(tensors.items()), size, pause_s)

    def _deliver(self, tensors: dict[str, torch.Tensor], version: int) -> tuple[float, int]:
        import ray
        from safetensors.torch import save

        packed = save(tensors)
        kept = ray.put(packed)
        return self.client.take_adapter(kept, list(tensors), version), len(packed)

    def shutdown(self) -> None: ...
