"""A model behind any OpenAI-compatible endpoint: `vllm serve` of a large VLM on the cluster, or a hosted one. The official client does the HTTP.

Retries with back-off on 429, 5xx, time-outs and lost connections are the client's own; bounded here are bytes of a reply, requests at a time and,
by the conversation, the seconds in all. The key is read from the environment and never logged or repeated in a reason.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Sequence
from typing import Any

from rlvid.teacher.conversation import Conversation, Message, ModelError, Offer, Rules, ToolCall, Turn
from rlvid.teacher.protocol import TeacherReply, TeacherRequest


class ChatModel:
    """One endpoint. `max_tokens` bounds a turn, `max_reply_bytes` the body of a response, `concurrency` the requests in flight."""

    def __init__(
        self,
        *,
        model: str,
        base_url: str,
        api_key: str = "",
        temperature: float = 0.0,
        max_tokens: int = 1024,
        retries: int = 3,
        request_timeout_s: float = 60.0,
        concurrency: int = 4,
        max_reply_bytes: int = 2**20,
        who: str = "the teacher",
        wanted: str = "evidence_patch",
    ) -> None:
        """`who` answers there, for messages; `wanted`: name of what its JSON is."""
        from openai import AsyncOpenAI

        self.model = model
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.max_reply_bytes = max_reply_bytes
        self.secret, self.who, self.wanted = api_key, who, wanted
        # A local server takes any key, the client insists on one.
        self.client = AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=retries, timeout=request_timeout_s)
        self.gate = asyncio.Semaphore(concurrency)

    async def turn(self, messages: Sequence[Message], offer: Offer) -> Turn:
        from openai import OpenAIError

        request = self._request(messages, offer)
        async with self.gate:
            try:
                body, retries = await self._body(request)
            except OpenAIError as error:
                raise ModelError(self._without_secret(f"{self.who}'s endpoint: {_why(error)}")) from None
            except _TooLong:
                raise ModelError(f"{self.who}'s endpoint sent more than {self.max_reply_bytes} bytes") from None
            except Exception as error:  # the connection under the client may end in the middle of a body, in its own exceptions
                raise ModelError(self._without_secret(f"{self.who}'s endpoint: {type(error).__name__} while its reply was read")) from None
        return _turn(body, retries, self.who)

    async def close(self) -> None:
        await self.client.close()

    def _request(self, messages: Sequence[Message], offer: Offer) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [as_openai(message) for message in messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if offer.functions:
            request |= {"tools": list(offer.functions), "tool_choice": "required" if offer.must_call else "auto"}
        if offer.schema is not None:
            request["response_format"] = {"type": "json_schema", "json_schema": {"name": self.wanted, "schema": offer.schema, "strict": True}}
        return request

    async def _body(self, request: dict[str, Any]) -> tuple[bytes, int]:
        """The response's body, read piece by piece so that an endless one is noticed, and how often the client had to try again."""
        async with self.client.chat.completions.with_streaming_response.create(**request) as response:
            body = bytearray()
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > self.max_reply_bytes:
                    raise _TooLong
            return bytes(body), response.retries_taken

    def _without_secret(self, text: str) -> str:
        return text.replace(self.secret, "***") if self.secret else text


def endpoint_key(section: str, variable: str | None) -> str:
    """The key of a section's endpoint, from this process's environment; "" where none is sent. Raises ValueError when its variable is not set."""
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ValueError(f"{section}.api_key_env: {variable} is not set on this node (export it where Ray was started, or set it to null)")
    return key


class ChatTeacher:
    """A conversation with a chat endpoint. `api_key_env`: name of the environment variable that holds the key; "": none is sent."""

    def __init__(self, *, rules: Rules, api_key_env: str = "", **endpoint: Any) -> None:
        self.rules = rules
        self.api_key_env = api_key_env
        self.endpoint = endpoint

    async def start(self) -> None:
        """Read the key; ValueError when its variable is not set. The endpoint itself may come up later."""
        self.model = ChatModel(api_key=endpoint_key("teacher", self.api_key_env), **self.endpoint)
        self.conversation = Conversation(self.model, self.rules)

    async def find(self, request: TeacherRequest) -> TeacherReply:
        return await self.conversation.find(request)

    async def check(self) -> None:
        """The endpoint's health shows in its replies: a teacher that is away costs repairs, never the run."""

    async def stop(self) -> None:
        await self.model.close()


def as_openai(message: Message) -> dict[str, Any]:
    """The message in the chat completions protocol; images as data URLs before the text."""
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.answers, "content": message.text}
    if message.role == "assistant" and message.calls:
        calls = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in message.calls]
        return {"role": "assistant", "content": message.text or None, "tool_calls": calls}
    if not message.images:
        return {"role": message.role, "content": message.text}
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(image.jpeg).decode()}} for image in message.images
    ]
    return {"role": message.role, "content": [*parts, {"type": "text", "text": message.text}]}


class _TooLong(Exception):
    """The body has passed its bound."""


def _turn(body: bytes, retries: int, who: str) -> Turn:
    """A chat completion as a turn; every other shape is a ModelError."""
    try:
        data = json.loads(body)
        message, usage = data["choices"][0]["message"], data.get("usage") or {}
        calls = tuple(_call(at, call) for at, call in enumerate(message.get("tool_calls") or ()))
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise TypeError
        return Turn(text, calls, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), retries)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"{who}'s endpoint sent no chat completion") from None


def _call(at: int, call: dict[str, Any]) -> ToolCall:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    return ToolCall(str(call.get("id") or f"call_{at}"), str(function["name"]), arguments if isinstance(arguments, str) else json.dumps(arguments))


def _why(error: Exception) -> str:
    """Class and status, and the first words of what the server said."""
    status = getattr(error, "status_code", None)
    said = " ".join(str(getattr(error, "message", "") or error).split())[:200]
    return f"{type(error).__name__}{f' {status}' if status else ''}: {said}"
