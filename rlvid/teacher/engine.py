"""A frozen vLLM engine inside the teacher actor: the same conversation as the chat teacher, without HTTP between.

Frozen: the engine is started without a weight transfer, so there is no call by which its weights could change.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from rlvid.config import Config
from rlvid.config import Teacher as TeacherConfig
from rlvid.process.vllm_options import shared_arguments
from rlvid.teacher.conversation import Conversation, Message, ModelError, Offer, Rules, ToolCall, Turn
from rlvid.teacher.protocol import TeacherReply, TeacherRequest

_TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


class EngineModel:
    """One AsyncLLM with the checkpoint's own chat template. Qwen writes tool calls as JSON inside <tool_call> tags."""

    def __init__(self, engine: Any, processor: Any, teacher: TeacherConfig, seed: int) -> None:
        self.engine = engine
        self.processor = processor
        self.teacher = teacher
        self.seed = seed

    async def turn(self, messages: Sequence[Message], offer: Offer) -> Turn:
        form = call_schema(offer.functions) if offer.must_call else offer.schema
        prompt = self.processor.apply_chat_template(
            [as_template(message) for message in messages], tools=list(offer.functions) or None, tokenize=False, add_generation_prompt=True
        )
        images = [image.frame_HWC for message in messages for image in message.images]
        request = {"prompt": prompt} | ({"multi_modal_data": {"image": images}} if images else {})
        try:
            outputs = [output async for output in self.engine.generate(request, self._sampling(form), uuid.uuid4().hex)]
        except ValueError as error:  # vLLM's word for a prompt that is too long or an image it cannot take
            raise ModelError(f"the teacher's engine: {str(error)[:200]}") from None
        answer = outputs[-1].outputs[0]
        calls = whole_call(answer.text) if offer.must_call else read_calls(answer.text) if offer.functions else ()
        return Turn("" if offer.must_call else answer.text, calls, len(outputs[-1].prompt_token_ids), len(answer.token_ids))

    def _sampling(self, form: dict[str, Any] | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return SamplingParams(
            temperature=self.teacher.temperature,
            max_tokens=self.teacher.max_tokens,
            seed=self.seed,
            structured_outputs=StructuredOutputsParams(json=form) if form is not None else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


class EngineTeacher:
    """A conversation with an engine of this actor's own."""

    def __init__(self, config: Config, rules: Rules) -> None:
        self.config = config
        self.rules = rules
        self.engine: Any = None

    async def start(self) -> None:
        from transformers import AutoProcessor
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        teacher = self.config.teacher
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(teacher)))
        self.conversation = Conversation(EngineModel(self.engine, AutoProcessor.from_pretrained(teacher.model), teacher, self.config.run.seed), self.rules)

    async def find(self, request: TeacherRequest) -> TeacherReply:
        return await self.conversation.find(request)

    async def check(self) -> None:
        await self.engine.is_paused()  # an answer of the engine's own process

    async def stop(self) -> None:
        if self.engine is not None:
            self.engine.shutdown()


def engine_arguments(teacher: TeacherConfig) -> dict[str, Any]:
    """vLLM's arguments for the teacher's engine: no weight transfer, no worker extension."""
    on_gpu = teacher.num_gpus > 0
    return {
        "model": teacher.model,
        "dtype": "bfloat16" if on_gpu else "float32",
        "max_model_len": teacher.max_model_len,
        "max_num_seqs": teacher.concurrency,
        "gpu_memory_utilization": teacher.gpu_memory_utilization,
        "enforce_eager": not on_gpu,
        "max_num_batched_tokens": None if on_gpu else teacher.max_model_len,
        "limit_mm_per_prompt": {"image": teacher.max_frames, "video": 0},
        # Compact JSON: between two fields a model may otherwise write blanks until its tokens are used up.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        **shared_arguments(on_gpu=on_gpu, tensor_parallel=teacher.tensor_parallel, kv_cache_gib=teacher.kv_cache_gib),
    }


def as_template(message: Message) -> dict[str, Any]:
    """The message as Hugging Face chat templates take it; image placeholders before the text."""
    content: list[dict[str, Any]] = [{"type": "image"} for _ in message.images] + ([{"type": "text", "text": message.text}] if message.text else [])
    if not message.calls or "<tool_call>" in message.text:
        return {"role": message.role, "content": content}
    calls = [{"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in message.calls]
    return {"role": message.role, "content": content, "tool_calls": calls}


def read_calls(text: str) -> tuple[ToolCall, ...]:
    """Every well-formed call between <tool_call> tags, in order."""
    return tuple(call for found in _TOOL_CALL.findall(text) for call in whole_call(found))


def whole_call(text: str) -> tuple[ToolCall, ...]:
    """The call that the whole text is; none where it is not one."""
    try:
        data = json.loads(text)
        name, arguments = data["name"], data["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return (ToolCall(uuid.uuid4().hex, name, json.dumps(arguments)),) if isinstance(name, str) and isinstance(arguments, dict) else ()


def call_schema(functions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """JSON of exactly one call of one of the functions."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"type": "string", "enum": [function["name"]]}, "arguments": function["parameters"]},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in (entry["function"] for entry in functions)
    ]
    return {"anyOf": calls}
