"""A low-rank adapter in place of the model's own weights (Hu et al., arXiv 2106.09685), by peft: put in, switched off, written and merged.

The model keeps its modules and their names. A layer W x becomes W x + alpha / rank * B A x, where B starts at zero: the first policy is the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvid.config.learner import Lora

ADAPTER = "adapter"
"""Folder of the adapter alone, in an exported checkpoint."""


def add_adapter(model: Any, where: str, settings: Lora, seed: int) -> None:
    """Give the modules whose names `where` (a regular expression) tells an adapter, in place, and freeze all else. Every rank draws the same start."""
    import torch
    from peft import inject_adapter_in_model

    torch.manual_seed(seed)
    inject_adapter_in_model(_peft(where, settings), model)


@contextlib.contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Inside, the model answers as it did before the first update."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    # Not enable_adapters(False): it changes what requires a gradient under DeepSpeed's hands.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class WithoutAdapter:
    """The reference policy: the trained module itself, with its adapter switched off. No second model."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, batch: Any) -> Any:
        with switched_off(self.module):
            return self.module(batch)


def write_adapter(folder: Path, tensors: dict[str, Any], where: str, settings: Lora, model_path: str) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft and vLLM read them. `tensors`: by the names of rlvid.sync.adapter."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = _peft(where, settings)
    config.base_model_name_or_path = model_path
    config.inference_mode = True
    config.save_pretrained(folder)


def merged(model: Any, adapter: Path) -> Any:
    """The model with the written adapter added to its weights; it has none of its own afterwards."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def _peft(where: str, settings: Lora) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=where, lora_dropout=settings.dropout)  # type: ignore[arg-type]
