"""What a checkpoint's config.json says about its size, without its weights: parameters by part, and the shapes that memory formulas need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlvid.config import ConfigError, is_hub_id
from rlvid.families import Family, named
from rlvid.families.base import Tower
from rlvid.families.checkpoint import check_model_path, load_config
from rlvid.families.folder import longest
from rlvid.process.one_line import first_line


@dataclass(frozen=True)
class ModelSize:
    """`parameters` counts tied weights once; `vision_parameters` are those that model.freeze_vision leaves alone."""

    family: Family
    parameters: int
    vision_parameters: int
    vocabulary: int
    text: Tower
    vision: Tower
    key_value_heads: int
    patch: int
    merge: int
    frames_per_token: int
    linear: tuple[tuple[str, int, int], ...] = field(default=(), compare=False, repr=False)
    """(name, inputs, outputs) of every linear layer."""
    longest: int | None = None
    """Tokens of the longest sequence that the checkpoint takes."""

    @property
    def active_parameters(self) -> int:
        """Those that a token goes through: of the experts, as many as it is sent to."""
        text = self.text
        return self.parameters - text.expert_layers * (text.experts - text.active_experts) * 3 * text.hidden * text.expert_inner

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch * self.merge


def model_size(path: str) -> ModelSize:
    """Read config.json of a folder, or of a hub id in the local cache (the network is not asked), and build the model without memory on torch's
    meta device. Raises ConfigError where there is none."""
    config = _read(path)
    try:
        return _size(config)
    except Exception as error:  # whatever transformers and torch make of numbers that do not go together
        raise ConfigError(f"model.path: no model can be built from config.json of {path} ({type(error).__name__}: {first_line(error)})") from None


def _size(config: Any) -> ModelSize:
    text, vision = config.get_text_config(), config.vision_config
    parameters, vision_parameters, linear = _count(config)
    text_tower, vision_tower = named(config.model_type).towers(config)
    return ModelSize(
        family=named(config.model_type),
        parameters=parameters,
        vision_parameters=vision_parameters,
        vocabulary=text.vocab_size,
        text=text_tower,
        vision=vision_tower,
        key_value_heads=text.num_key_value_heads,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        frames_per_token=vision.temporal_patch_size,
        linear=linear,
        longest=longest(config.to_dict()),
    )


def _read(path: str) -> Any:
    check_model_path(path, "model.path", weights=False)
    try:
        config = load_config(path, local_files_only=True)
    except Exception:  # a file that is missing, no JSON, or numbers that fit no model
        if is_hub_id(path):
            raise ConfigError(
                f"model.path: config.json of {path} is not in the local Hugging Face cache (fetch it with `hf download {path} config.json`, or name a folder)"
            ) from None
        raise ConfigError(f"model.path: {path}/config.json cannot be read as that of a checkpoint") from None
    if not hasattr(config, "vision_config"):
        raise ConfigError(f"model.path: {path} is a {config.model_type} model without a vision tower")
    return config


def _count(config: Any) -> tuple[int, int, tuple[tuple[str, int, int], ...]]:
    """(all parameters, the vision tower's, linear layers)."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    linear = tuple((name, module.in_features, module.out_features) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    vision = named(config.model_type).vision(model)
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in vision.parameters()), linear
