"""What is wrong with a checkpoint folder, told from its files' names, sizes and headers: no weight is read, no library is loaded.

Each of these would be found later, by an actor that has started, with words of a library that do not name the cause; some would not be found at all.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POINTER = b"version https://git-lfs"
MAX_HEADER = 100 * 2**20
"""The safetensors format allows no larger header."""
INDEX = "model.safetensors.index.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
COUNTED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
"""Kinds of rope scaling whose checkpoints count the longer positions themselves, as vLLM reads them."""
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def pointer_problem(folder: Path) -> str:
    """A clone without Git LFS has a few lines of text in the place of each large file."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
            return f"{path.name} is a Git LFS pointer, not the file (run `git lfs pull` in the folder, or `hf download` the checkpoint)"
    return ""


def adapter_problem(folder: Path) -> str:
    """An adapter alone is no model."""
    if (folder / "adapter_config.json").is_file() and not any(path for path in _weights(folder) if not path.name.startswith("adapter_")):
        return "is a LoRA adapter without its model (merge it into its base, with peft: model.merge_and_unload().save_pretrained(FOLDER), and name that folder)"
    return ""


def quantized_problem(config: dict[str, Any]) -> str:
    """Training needs weights that gradients can change."""
    quantization = config.get("quantization_config")
    if not quantization:
        return ""
    method = quantization.get("quant_method", "some method") if isinstance(quantization, dict) else "some method"
    return f"holds weights quantized by {method}, which cannot be trained (name the checkpoint that it was made of)"


def longest(config: dict[str, Any]) -> int | None:
    """Tokens of the longest sequence that vLLM takes of such a checkpoint: its positions, times the factor of a scaling that does not count itself among them
    already. None: it does not say."""
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else {}
    positions = text.get("max_position_embeddings", config.get("max_position_embeddings"))
    rope = next((found for one in (text, config) for key in ("rope_parameters", "rope_scaling") if isinstance(found := one.get(key), dict)), {})
    factor = 1.0 if rope.get("rope_type", rope.get("type")) in COUNTED else rope.get("factor") or 1.0
    return int(positions * factor) if isinstance(positions, int) and isinstance(factor, int | float) else None


def length_problem(config: dict[str, Any], tokens: int) -> str:
    """An engine whose sequences are longer than the model's own limit does not start."""
    limit = longest(config)
    if limit is None or tokens <= limit:
        return ""
    return f"takes sequences of up to {limit} tokens (max_position_embeddings of its config.json) and rollout.max_model_len is {tokens}: lower it"


def weights_problem(folder: Path, config: dict[str, Any]) -> str:
    """Files that are missing, cut off, or lack the output head."""
    index = folder / INDEX
    shards = [path for path in _weights(folder) if path.suffix == ".safetensors"]
    for path in _weights(folder):
        if path.suffix == ".bin" and not zipfile.is_zipfile(path):  # a zip ends with its directory
            return f"{path.name} is cut off (copy it anew)"
    if not shards:
        return "" if any(_weights(folder)) else "holds no weights (*.safetensors are missing: copy the checkpoint anew)"
    names: set[str] = set()
    for path in shards:
        found = _tensors(path)
        if isinstance(found, str):
            return f"{path.name} {found} (copy it anew)"
        names |= found
    if index.is_file():
        try:
            listed = {str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{INDEX} cannot be read (copy it anew)"
        if missing := sorted(set(listed.values()) - {path.name for path in shards}):
            return f"lacks {missing[0]}, one of {len(missing)} files that {INDEX} names (copy the checkpoint anew)"
        if lost := sorted(listed.keys() - names):
            return f"{listed[lost[0]]} lacks {lost[0]}, which {INDEX} looks for in it (copy the checkpoint anew)"
    elif any("-of-" in path.name for path in shards):
        return f"lacks {INDEX}, which says what is in which of its files (copy the checkpoint anew)"
    text = config.get("text_config")
    tied = config.get("tie_word_embeddings") or (isinstance(text, dict) and text.get("tie_word_embeddings"))
    if not any(name.endswith("embed_tokens.weight") for name in names):
        return "holds no embed_tokens.weight: it is not a whole model (name a whole checkpoint)"
    if not tied and not any(name.endswith("lm_head.weight") for name in names):
        return (
            "holds no lm_head.weight, and its config.json does not tie it to the embeddings: engine and learner would each draw one at random (copy it "
            "anew, or set tie_word_embeddings to true if it was trained so)"
        )
    return ""


def weight_bytes(folder: Path) -> int:
    """Of all files that hold weights; 0 where there is no such folder."""
    return sum(path.stat().st_size for path in _weights(folder)) if folder.is_dir() else 0


def reading_problem(folder: Path) -> str:
    """What the processor is made of."""
    for names, what, cure in (
        (TOKENIZERS, "tokenizer", "copy tokenizer.json and tokenizer_config.json"),
        (PROCESSORS, "image and video processor", f"copy {PROCESSORS[0]} and video_preprocessor_config.json"),
    ):
        if not any((folder / name).is_file() for name in names):
            return f"holds no {what} ({cure} of the model that it was made of)"
    if not any((folder / name).is_file() for name in TEMPLATES) and not _template_inside(folder / PROCESSORS[1]):
        return f"its processor has no chat template ({TEMPLATES[0]} is missing: copy it, or {TEMPLATES[1]}, of the model that it was made of)"
    return ""


def _weights(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin") and path.is_file())


def _template_inside(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _tensors(path: Path) -> set[str] | str:
    """Names of the tensors in a safetensors file, or what is wrong with it: its header says how long it must be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            return f"is cut off or no safetensors file ({size} bytes)"
        try:
            header = json.loads(file.read(length))
            tensors = {str(name): int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "is no safetensors file"
    whole = 8 + length + max(tensors.values(), default=0)
    return f"is cut off: {size} of {whole} bytes" if size < whole else set(tensors)
