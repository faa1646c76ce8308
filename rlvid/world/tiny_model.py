"""A tiny checkpoint of any family made here, from nothing: config, weights, tokenizer, processor, chat template.

Small enough to learn on two CPU cores, whole enough that `from_pretrained` and vLLM load it like the real one. Two choices matter:

* Fan-in initialisation. With Hugging Face's default (std 0.02) a model this small stays at chance for hundreds of steps.
* One mean and std for images and videos. vLLM normalises videos by the *image* processor's numbers; unequal ones make sampler and learner disagree in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlvid.families import named

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""One token each, yet not special: decoding with `skip_special_tokens=True` must keep them."""

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 128, 256, 2, 4, 2
VISION_HIDDEN, VISION_INTERMEDIATE, VISION_HEADS = 64, 128, 2
VOCABULARY, CONTEXT = 640, 4096
MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
EMBEDDING_STD = 0.5
GAIN = {"q_proj": 2.0, "k_proj": 2.0, "patch_embed": 3.0}
"""Factors on the fan-in deviation. Sharper attention and louder pixels leave the plateau at chance after half as many steps."""


def build_tiny_model(directory: Path, corpus: Iterable[str], *, family: str = "qwen2_5_vl", seed: int = 0, layers: int = LAYERS, tied: bool = False) -> Path:
    """Write a random tiny checkpoint of `family` whose tokenizer knows the words of `corpus`; returns `directory`. `layers`: of text and vision tower
    each. `tied`: the output head is the table of embeddings."""
    tokenizer = build_tokenizer(corpus, family)
    build_processor(tokenizer, family).save_pretrained(directory)
    model = build_model(tokenizer, family, seed, layers=layers, tied=tied)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    named(family).save(model, directory)
    return directory


def build_tokenizer(corpus: Iterable[str], family: str = "qwen2_5_vl") -> Any:
    """Byte-level BPE over the words of `corpus`: every word that occurs often enough, with or without a space before it, is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    own = named(family)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(own.special_tokens), initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=own.end_token,
        pad_token=own.pad_token,
        additional_special_tokens=[token for token in own.special_tokens if token not in (own.end_token, own.pad_token)],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = own.chat_template
    return tokenizer


def build_processor(tokenizer: Any, family: str) -> Any:
    """Image and video processors with equal normalisation and bounds so wide that the family's `tiny_frame` passes through unresized."""
    patch = named(family).patch
    factor = 2 * patch
    pixels: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "patch_size": patch, "temporal_patch_size": 2, "merge_size": 2}
    pixels["size"] = {"shortest_edge": factor**2, "longest_edge": 64 * factor**2}
    return named(family).tiny_processor(tokenizer, pixels)


def build_model(tokenizer: Any, family: str, seed: int, *, layers: int = LAYERS, tied: bool = False) -> Any:
    """The float32 model with fan-in weights drawn from `seed`; the caller's random state is left as it was."""
    import torch
    from transformers import AutoModelForImageTextToText

    named(family).teach_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForImageTextToText.from_config(_config(tokenizer, family, layers, tied)).to(torch.float32)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim >= 2:
                    fan_in = weight[0].numel()
                    embedding = "embed_tokens" in name or "pos_embed" in name
                    gain = next((gain for part, gain in GAIN.items() if part in name), 1.0)
                    torch.nn.init.normal_(weight, std=EMBEDDING_STD if embedding and not tied else gain * fan_in**-0.5)
    return model.eval()


def _config(tokenizer: Any, family: str, layers: int, tied: bool) -> Any:
    own = named(family)
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": layers,
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": VISION_INTERMEDIATE,
        "num_heads": VISION_HEADS,
        "out_hidden_size": HIDDEN,
        "patch_size": own.patch,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    }
    media = {key: tokenizer.convert_tokens_to_ids(token) for key, token in own.media_keys.items()}
    return own.tiny_config(text, vision, media | {"tie_word_embeddings": tied})
