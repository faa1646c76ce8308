"""Which family a checkpoint folder or hub id is of, told from its config.json, and refused by name where it is of none; and how its parts are loaded.

Whoever in rlvid loads a checkpoint of the policy loads it here: a family may have to tell transformers about itself first.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlvid.config import ConfigError, is_hub_id
from rlvid.families import FAMILIES
from rlvid.families.base import Family
from rlvid.families.folder import INDEX, adapter_problem, length_problem, pointer_problem, quantized_problem, reading_problem, weight_bytes, weights_problem
from rlvid.process.one_line import first_line

log = logging.getLogger("rlvid")

HUB_S = 10
"""Longest wait for the hub's answer about one small file."""


def family_of(path: str, key: str = "model.path") -> Family:
    """The family of a checkpoint. Raises ConfigError, one line that begins with `key`, where it is of none or cannot be told."""
    config = read_config(path, key)
    if config is None:
        raise ConfigError(f"{key}: config.json of {path} is not in the local Hugging Face cache and the hub does not answer (`hf download {path}` fetches it)")
    return _listed(path, key, config)


def load_config(path: str, **options: Any) -> Any:
    """The checkpoint's transformers configuration. `options` of these four: as `from_pretrained` takes them."""
    from transformers import AutoConfig

    _teach(path)
    return AutoConfig.from_pretrained(path, **options)


def load_processor(path: str, **options: Any) -> Any:
    """The checkpoint's processor of text, images and videos."""
    from transformers import AutoProcessor

    _teach(path)
    return AutoProcessor.from_pretrained(path, **options)


def load_tokenizer(path: str, **options: Any) -> Any:
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    _teach(path)
    return AutoTokenizer.from_pretrained(path, **options)


def load_model(path: str, **options: Any) -> Any:
    """The checkpoint's model."""
    from transformers import AutoModelForImageTextToText

    _teach(path)
    return AutoModelForImageTextToText.from_pretrained(path, **options)


def _teach(path: str) -> None:
    family_of(path).teach_transformers()


def check_model_path(path: str, key: str, *, weights: bool = True, tokens: int = 0) -> None:
    """Refuse what cannot be a checkpoint, by a glance at its files, or at the config.json of a hub id (the cache's, or the hub's, which may be out of
    reach: then it passes here, and the run's start asks again). `weights`: a folder must hold them, and all that it takes to read and write text. `tokens`:
    of the longest sequence it is to take."""
    folder = Path(path)
    here = not is_hub_id(path) and folder.is_dir()
    if here and (problem := pointer_problem(folder) or (adapter_problem(folder) if weights else "")):
        raise ConfigError(f"{key}: {path}: {problem}")
    config = read_config(path, key)
    if config is None:
        log.warning("%s: config.json of %s is not in the local Hugging Face cache and the hub does not answer: not looked at", key, path)
    else:
        _listed(path, key, config)
        if problem := quantized_problem(config) or length_problem(config, tokens):
            raise ConfigError(f"{key}: {path}: {problem}")
    if here and weights and (problem := weights_problem(folder, config or {}) or reading_problem(folder)):
        raise ConfigError(f"{key}: {path}: {problem}")


def read_config(path: str, key: str) -> dict[str, Any] | None:
    """config.json as it is. None: a hub id whose file is not in the cache, and the hub does not answer. Raises ConfigError."""
    folder = Path(path)
    if is_hub_id(path):
        found = _from_hub(path, key)
        if found is None:
            return None
    elif not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{key}: {path} {what} (name a checkpoint folder, such as runs/NAME/export, or a hub id, such as Qwen/Qwen2.5-VL-7B-Instruct)")
    else:
        found = folder / "config.json"
    try:
        config = json.loads(found.read_text())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ConfigError(f"{key}: {path} holds no readable config.json (name the folder of a Hugging Face checkpoint, such as runs/NAME/export)")
    return config


def reading_s(path: str, readers: int, mib_per_s: float) -> float:
    """Seconds in which so many readers have the checkpoint's weights, where their storage gives `mib_per_s` to all of them together."""
    return checkpoint_bytes(path) * readers / (mib_per_s * 2**20)


@functools.cache
def checkpoint_bytes(path: str) -> int:
    """Size of the weights: of the folder's files, or as a hub id's index says (the cache's, or the hub's). 0 where nobody knows."""
    if not is_hub_id(path):
        return weight_bytes(Path(path))
    try:
        found = _from_hub(path, "model.path")
        cached = weight_bytes(found.parent) if found else 0
        if cached or found is None:
            return cached
        from huggingface_hub import hf_hub_download

        return int(json.loads(Path(hf_hub_download(path, INDEX, etag_timeout=HUB_S)).read_text())["metadata"]["total_size"])
    except Exception:  # one file without an index, or whatever the hub answers: the deadline stays what the config says
        return 0


def pixel_normalisation_problem(model_path: str | Path) -> str | None:
    """Why this checkpoint cannot be sampled faithfully, in one line, or None.

    vLLM normalizes pixels inside the model with the *image* processor's numbers, for videos too. Where the video processor has others, sampler and
    learner see different pixels and their log-probs drift apart in silence. The processors are loaded rather than their files read: what a file leaves
    out comes from the class, and the classes' defaults differ.
    """
    try:
        processor = load_processor(str(model_path))
        image, video = processor.image_processor, processor.video_processor
    except Exception as error:
        return f"{model_path}: its image and video processors cannot be loaded ({first_line(error)})"
    if not getattr(processor, "chat_template", None):
        return f"{model_path}: its processor has no chat template (chat_template.jinja is missing: copy it of the model that it was made of)"
    for name in ("do_normalize", "do_rescale", "rescale_factor", "image_mean", "image_std"):
        for_images, for_videos = _numbers(getattr(image, name, None)), _numbers(getattr(video, name, None))
        if for_images != for_videos:
            return (
                f"{model_path}: {name} is {for_images} for images and {for_videos} for videos; vLLM uses the image processor's for both, "
                f"so set {name} of the video processor to {for_images}"
            )
    return None


def _numbers(value: Any) -> Any:
    return [float(item) for item in value] if isinstance(value, list | tuple) else value


def _listed(path: str, key: str, config: dict[str, Any]) -> Family:
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ConfigError(f"{key}: {path} is a {model_type} model (rlvid trains {', '.join(FAMILIES)})")
    return FAMILIES[model_type]


def _from_hub(name: str, key: str) -> Path | None:
    """Where the file lies after asking the cache and then the hub. Raises ConfigError where the hub says that there is none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return Path(cached)
    stay_offline_without_hub(name)
    try:
        return Path(hf_hub_download(name, "config.json", etag_timeout=HUB_S))
    except LocalEntryNotFoundError:  # offline, or the hub does not answer
        return None
    except GatedRepoError:
        raise ConfigError(f"{key}: {name} is gated (accept its terms on the hub and set HF_TOKEN)") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"{key}: the hub has no {name}, or it is private (name an existing id, set HF_TOKEN, or name a folder)") from None
    except EntryNotFoundError:
        raise ConfigError(f"{key}: {name} has no config.json on the hub (name a checkpoint in Hugging Face's layout)") from None
    except OSError:  # no network
        return None


def stay_offline_without_hub(model: str) -> None:
    """Without a network, each of some twenty look-ups of a hub model is retried for half a minute; offline, the local cache answers at once."""
    if is_hub_id(model) and not any(os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        from huggingface_hub import constants

        host = urlsplit(constants.ENDPOINT).hostname
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            log.warning("%s is not known here: %s is looked for in the local Hugging Face cache only", host, model)
            os.environ["HF_HUB_OFFLINE"] = "1"  # for the actors
            constants.HF_HUB_OFFLINE = True  # for this process, which has read it already
