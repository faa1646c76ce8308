"""What a model family has to say. Everything else in rlvid asks these questions and never which model it is.

The answers given here are those that Qwen's vision-language models share; a family overrides what it does otherwise. Heavy packages are
imported inside methods: the configuration asks for names before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlvid.config import ConfigError

CHATML = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] -%}
{% if item['type'] == 'video' or 'video' in item %}<|vision_start|><|video_pad|><|vision_end|>
{%- elif item['type'] == 'image' or 'image' in item or 'image_url' in item %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True)
class Tower:
    """One stack of transformer layers, as `rlvid plan` counts it. `attention`: query heads x head size; `key_value`: key-value heads x head size."""

    layers: int
    hidden: int
    attention: int
    key_value: int
    inner: int
    gated: bool = True
    """The MLP multiplies a gate in (SwiGLU)."""
    query_key_norm: bool = False
    """Queries and keys are normalized (Qwen3)."""
    norms: int = 2
    """Of what a layer reads; four: of what its attention and MLP give, too (GLM)."""
    linear_layers: int = 0
    """Of `layers`, those that are gated delta nets: a token keeps no keys and values there."""
    linear_mixed: int = 0
    """Queries, keys and values of such a layer, together; `linear_value`: the values alone."""
    linear_value: int = 0
    linear_state: int = 0
    """Numbers that a sequence carries along in such a layer, and those of its convolution's last inputs."""
    linear_inputs: int = 0
    expert_layers: int = 0
    """Of `layers`, those whose MLP is `experts` of `expert_inner`, of which a token goes through `active_experts`, and one of `shared_inner` (0: none)."""
    experts: int = 0
    active_experts: int = 0
    expert_inner: int = 0
    shared_inner: int = 0


def _either(names: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in names)


class Family:
    """One family of checkpoints, by the `model_type` of their config.json.

    Names
        media_tokens: stand for media in a prompt; forbidden to the sampler, masked in the loss.
        placeholder: what the chat template writes for a video, and how a prompt says where another one belongs. image_placeholder: for an image.
        frame_key: where config.json says which token stands for what is seen in a video, as often as the vision tower's outputs; image_key: in an image.
    Time
        uneven_times: the model can be told that frames stand at uneven times.
        timestamp_tokens: text tokens that the processor writes around each merged frame [D: an upper bound]; 0 where time is in the positions.
    Adapters
        text_linear, vision_linear: last names of the linear layers that may have one, in the text layers, and in the vision tower and its mergers.
    Engines
        cpu_dtypes: those in which engines without a GPU run it.
    Tiny checkpoints, for tests and the quickstart
        patch: pixels along a vision patch, as in the published checkpoints. tiny_frame: (height, width) of frames that no processor resizes.
        special_tokens: of the tokenizer, media among them; end_token ends a turn, pad_token fills. media_keys: where config.json says which is which.
        chat_template: the turns and placeholders of the published ones, and nothing else of theirs.
    """

    model_type: ClassVar[str]
    media_tokens: ClassVar[tuple[str, ...]] = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    placeholder: ClassVar[str] = "<|vision_start|><|video_pad|><|vision_end|>"
    image_placeholder: ClassVar[str] = "<|vision_start|><|image_pad|><|vision_end|>"
    frame_key: ClassVar[str] = "video_token_id"
    image_key: ClassVar[str] = "image_token_id"
    uneven_times: ClassVar[bool] = False
    timestamp_tokens: ClassVar[int] = 0
    query_key_norm: ClassVar[bool] = False
    text_linear: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    vision_linear: ClassVar[tuple[str, ...]] = ()
    vision_gated: ClassVar[bool] = False
    cpu_dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    patch: ClassVar[int]
    tiny_frame: ClassVar[tuple[int, int]]
    special_tokens: ClassVar[tuple[str, ...]] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *media_tokens)
    end_token: ClassVar[str] = "<|im_end|>"
    pad_token: ClassVar[str] = "<|endoftext|>"
    media_keys: ClassVar[dict[str, str]] = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    chat_template: ClassVar[str] = CHATML

    # ---- what others must be told

    def teach_transformers(self) -> None:
        """Register the `model_type` with transformers' Auto classes, where they do not know it. Called in every process before one of its checkpoints
        is loaded (rlvid/families/checkpoint.py), so perhaps more than once."""

    def teach_vllm(self) -> None:
        """Register the architecture with vLLM, where it does not know it. Called in every process of every engine (rlvid/sync/plugin.py)."""

    # ---- experts

    has_experts: ClassVar[bool] = False
    """Tokens go through some of many experts, which a router chooses."""

    def routers(self, model: Any) -> list[Any]:
        """Of each layer of transformers' text model its router, a module that gives (logits [N, E], scores [N, K], experts [N, K]), or None; [] without any."""
        return []

    # ---- tokens and positions

    def media_token_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Ids of `media_tokens` that this tokenizer knows, ascending."""
        vocabulary = tokenizer.get_vocab()
        return tuple(sorted(vocabulary[token] for token in self.media_tokens if token in vocabulary))

    def position_ids(self, config: Any, input_ids_N: list[int], grids_thw: list[list[int]], seconds_per_grid: Sequence[float | None] | None) -> Any:
        """Position ids [3, N] (time, height, width) of one prompt, as the engine counts them.

        grids_thw: (t, h, w) in patches of each medium, in the prompt's order. seconds_per_grid: of each, where the processor gives them, None of an image.
        """
        from rlvid.families.mrope import position_ids

        paces: Sequence[float | None] = [None] * len(grids_thw) if seconds_per_grid is None else seconds_per_grid
        runs = (run for grid, pace in zip(grids_thw, paces, strict=True) for run in self.runs(config, grid, pace))
        return position_ids(input_ids_N, {getattr(config, self.frame_key), getattr(config, self.image_key)}, runs)

    def kinds_in(self, prompt: str) -> tuple[str, ...]:
        """`video` or `image` for each placeholder of a prompt, in order."""
        found = re.findall(f"({re.escape(self.placeholder)})|{re.escape(self.image_placeholder)}", prompt)
        return tuple("video" if video else "image" for video in found)

    def one_kind(self, config: Any, input_ids_N: Any) -> Any:
        """The ids with one token for all that is seen: the learner's vision tower gives images and videos in one call, in the row's order, and its model
        looks for them by the video's token."""
        seen, image = getattr(config, self.frame_key), getattr(config, self.image_key)
        if seen != image:
            input_ids_N[input_ids_N == image] = seen
        return input_ids_N

    def runs(self, config: Any, grid_thw: list[int], seconds_per_grid: float | None) -> Iterator[Any]:
        """(time, height, width) indices [3, n] of every run of tokens that one video or image is written as, each from 0 on. An image has t = 1, and no
        seconds."""
        raise NotImplementedError

    # ---- weights

    def published(self, name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
        """A parameter of the learner's as the hub's checkpoints name it and lay it out, which is what engines load: views of `tensor`, which may be on
        torch's meta device."""
        yield name, tensor

    def save(self, model: Any, folder: Any) -> None:
        """Write the model as a checkpoint in the hub's layout."""
        model.save_pretrained(folder)

    # ---- the learner's model

    def vision(self, model: Any) -> Any:
        """The module that `model.freeze_vision` leaves alone and whose layers see pixels only."""
        return model.model.visual

    def adapted(self, targets: Sequence[str], *, vision: bool) -> str:
        """Regular expression for the names of the modules that get an adapter: those of `targets`, by their last names, or all that may have one.

        Raises ConfigError for a target that is none of them.
        """
        of_text = [name for name in self.text_linear if name in targets or not targets]
        of_vision = [name for name in self.vision_linear if name in targets or not targets] if vision else []
        known = {*self.text_linear, *(self.vision_linear if vision else ())}
        if unknown := [name for name in targets if name not in known]:
            raise ConfigError(f"learner.lora.targets: a {self.model_type} model has no {unknown[0]} to adapt (it has {', '.join(sorted(known))})")
        parts = [rf"model\.language_model\.layers\.\d+\.(?:self_attn|linear_attn|mlp|mlp\.shared_expert)\.(?:{_either(of_text)})"] if of_text else []
        parts += [rf"model\.visual\.(?:blocks\.\d+\.(?:attn|mlp)|merger|deepstack_merger_list\.\d+)\.(?:{_either(of_vision)})"] if of_vision else []
        return "|".join(parts)

    def attention(self, text: str, windows: str) -> dict[str, str]:
        """Names of the attention functions by part of the configuration: `text` knows packed rows, `windows` knows the vision tower's."""
        return {"": "sdpa", "text_config": text, "vision_config": windows}

    def prepare(self, model: Any) -> None:
        """Make the learner's model take packed rows, where its attention functions are not all that must know of them."""

    def row_arguments(self, arguments: dict[str, Any], lengths: Any, device: Any) -> dict[str, Any]:
        """What the model is called with for a packed row: `arguments`, those of its attention, and whatever else its layers must know. `lengths`: for each
        prompt its tokens, then those of each of its answers. Where ranks share the row (`learner.sequence_parallel`), `arguments["row"].divided`, and the
        layers have a share of its tokens: what sees more than a token at a time asks it for the others (rlvid/learner/divided.py)."""
        return arguments

    # ---- the engines

    def engine_options(self, *, on_gpu: bool) -> dict[str, Any]:
        """vLLM's arguments that this family needs."""
        return {}

    # ---- for `rlvid plan`

    def towers(self, config: Any) -> tuple[Tower, Tower]:
        """Text and vision tower of a transformers configuration."""
        text, vision = config.get_text_config(), config.vision_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return (
            Tower(
                layers=text.num_hidden_layers,
                hidden=text.hidden_size,
                attention=text.num_attention_heads * head,
                key_value=text.num_key_value_heads * head,
                inner=getattr(text, "intermediate_size", 0),
                query_key_norm=self.query_key_norm,
            ),
            Tower(
                layers=vision.depth,
                hidden=vision.hidden_size,
                attention=vision.hidden_size,
                key_value=vision.hidden_size,
                inner=vision.intermediate_size,
                gated=self.vision_gated,
            ),
        )

    # ---- tiny checkpoints

    def tiny_config(self, text: dict[str, Any], vision: dict[str, Any], media: dict[str, Any]) -> Any:
        """A transformers configuration of this family from the sizes that all tiny models share (rlvid/world/tiny_model.py). Of what the family does in
        some layers only (windows, deepstack) there are several, from three layers on."""
        raise NotImplementedError

    def tiny_processor(self, tokenizer: Any, pixels: dict[str, Any]) -> Any:
        """A processor around the tokenizer that leaves `tiny_frame` as it is. `pixels`: mean, std and patches, for images and videos alike."""
        raise NotImplementedError
