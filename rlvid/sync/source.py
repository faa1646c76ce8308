"""The learner's weights as a stream, for any ZeRO stage, named and laid out as in the hub's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from rlvid.families import named
from rlvid.types import WeightsLayout


def unwrap(name: str) -> str:
    """Parameter name without what wrappers put into it."""
    return name.replace("_checkpoint_wrapped_module.", "").replace(".base_layer.", ".")


class ZeroSource:
    """Iterates (name, full tensor) over a Hugging Face model whose parameters DeepSpeed may have partitioned.

    Under ZeRO-3 the parameters of one layer are gathered together on all ranks (so every rank must iterate in step) and
    released again before the next, which bounds the extra memory to one layer. Tied parameters come once. What transformers lays out otherwise than
    the hub comes in the hub's layout, as a view: engines load nothing else. `adapter`: of a model with a low-rank adapter its parameters alone, as they
    are; otherwise all but those.
    """

    def __init__(self, model: Any, *, adapter: bool = False) -> None:
        self.model = model
        self.adapter = adapter
        self.published = named(model.config.model_type).published

    def layout(self) -> WeightsLayout:
        """What comes, in order, without gathering."""
        tensors = [
            one
            for group in self._groups()
            for name, parameter in group
            for one in self.published(unwrap(name), torch.empty(getattr(parameter, "ds_shape", parameter.shape), dtype=parameter.dtype, device="meta"))
        ]
        names, dtypes = (name for name, _ in tensors), (str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors)
        return WeightsLayout(tuple(names), tuple(dtypes), tuple(tuple(tensor.shape) for _, tensor in tensors))

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.own():
            yield from self.published(name, tensor)

    def own(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The same as transformers names it and lays it out."""
        for group in self._groups():
            parameters = [parameter for _, parameter in group]
            with _gathered(parameters):
                for name, parameter in group:
                    yield unwrap(name), parameter.detach()

    def _groups(self) -> list[list[tuple[str, Any]]]:
        """Parameters by layer: the first number in the name and what stands before it."""
        groups: dict[str, list[tuple[str, Any]]] = {}
        for name, parameter in self.model.named_parameters():
            if (".lora_" in name) != self.adapter:
                continue
            parts = name.split(".")
            digit = next((i for i, part in enumerate(parts) if part.isdigit()), None)
            key = ".".join(parts[: digit + 1]) if digit is not None else name
            groups.setdefault(key, []).append((name, parameter))
        return list(groups.values())


def _gathered(parameters: list[Any]) -> Any:
    from deepspeed import zero

    return zero.GatheredParameters(parameters, modifier_rank=None, enabled=any(hasattr(p, "ds_id") for p in parameters))
