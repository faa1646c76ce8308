"""A checkpoint folder at a glance: every file that a whole one has, none of them of any use."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = ("model.language_model.embed_tokens.weight", "model.visual.patch_embed.proj.weight", "lm_head.weight")


def make_folder(folder: Path, model_type: str = "qwen2_5_vl", names: tuple[str, ...] = NAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "tie_word_embeddings": False}))
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_tensors(folder / "model.safetensors", names)
    return folder


def write_tensors(path: Path, names: tuple[str, ...]) -> None:
    """A safetensors file with so many tensors of four bytes."""
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]} for at, name in enumerate(names)}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * len(names)))
