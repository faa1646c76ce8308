"""The engine teacher without an engine: what it asks for, what it reads, and that nothing could change its weights."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest

from rlvid.config import Teacher
from rlvid.teacher.conversation import Conversation, Image, Message, Offer, Rules, ToolCall, Turn
from rlvid.teacher.engine import EngineModel, as_template, call_schema, engine_arguments, read_calls, whole_call
from rlvid.teacher.protocol import TeacherRequest
from rlvid.teacher.tools import functions
from rlvid.types import Question
from tests.unit.clips import make

TEACHER = Teacher(kind="engine", model="m", max_turns=2)


def test_frozen_means_no_way_to_send_weights():
    arguments = engine_arguments(TEACHER)
    assert "weight_transfer_config" not in arguments and "worker_extension_cls" not in arguments
    assert arguments["limit_mm_per_prompt"] == {"image": TEACHER.max_frames, "video": 0}


def test_calls_are_read_from_the_text():
    one = '<tool_call>\n{"name": "get_frame", "arguments": {"i": 3}}\n</tool_call>'
    assert [(call.name, call.arguments) for call in read_calls(f"I look. {one} and {one}")] == [("get_frame", '{"i": 3}')] * 2
    for broken in ("", "<tool_call>{}</tool_call>", '<tool_call>{"name": "x"}</tool_call>', '<tool_call>{"name": 1, "arguments": {}}</tool_call>', one[:-20]):
        assert read_calls(broken) == ()
    assert whole_call('{"name": "get_frame", "arguments": [1]}') == ()


def test_a_forced_call_has_the_shape_of_one_of_the_functions():
    jsonschema = pytest.importorskip("jsonschema")
    form = call_schema(functions(50, 2.0))
    jsonschema.validate({"name": "get_frame", "arguments": {"i": 49}}, form)
    for wrong in ({"name": "get_frame", "arguments": {"i": 50}}, {"name": "rm", "arguments": {}}, {"name": "get_frame", "arguments": {"start": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, form)


def test_messages_become_the_templates_own():
    image = Image(np.zeros((4, 4, 3), np.uint8), b"")
    assert as_template(Message("user", "look", (image, image)))["content"] == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "look"}]
    called = as_template(Message("assistant", "", calls=(ToolCall("1", "get_frame", '{"i": 3}'),)))
    assert called["tool_calls"] == [{"type": "function", "function": {"name": "get_frame", "arguments": {"i": 3}}}]


class ScriptedEngine:
    """Speaks AsyncLLM's generate."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.requests: list[dict] = []
        self.forms: list[object] = []

    async def generate(self, request, sampling, _id):
        self.requests.append(request)
        self.forms.append(sampling.form)
        text = self.texts.pop(0)
        yield SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1, 2])], prompt_token_ids=[1] * 10)


class Template:
    """Speaks a processor's chat template."""

    def apply_chat_template(self, messages, *, tools, tokenize, add_generation_prompt):
        return json.dumps([messages, bool(tools)])


class PlainSampling(EngineModel):
    """The form alone, so that vLLM need not be imported."""

    def _sampling(self, form):
        return SimpleNamespace(form=form)


def test_the_same_conversation_runs_on_an_engine(tmp_path):
    path = make(tmp_path / "c.mp4", noise=True)
    call = {"name": "get_frame", "arguments": {"i": 3}}
    patch = {"error_class": "temporal", "hint": "Look at 1.0 s.", "spans": [], "frames_s": [1.0], "regions": []}
    engine = ScriptedEngine(json.dumps(call), f"<tool_call>{json.dumps(call)}</tool_call>", "It is red.", json.dumps(patch))
    model = PlainSampling(engine, Template(), TEACHER, 0)
    request = TeacherRequest(Question("q", path, "What colour is it?", "multiple_choice", ("red", "blue"), "red"), "blue", 2.0)
    reply = asyncio.run(Conversation(model, Rules(overview_frames=2, max_turns=3)).find(request))
    assert reply.outcome == "patch" and (reply.turns, reply.tool_calls, reply.tokens_in, reply.tokens_out) == (4, 2, 40, 8)
    assert [len(request["multi_modal_data"]["image"]) for request in engine.requests] == [2, 3, 4, 4]
    assert engine.requests[0]["multi_modal_data"]["image"][0].shape == (48, 64, 3)
    assert engine.forms[0] == call_schema(functions(50, 2.0)) and engine.forms[1:3] == [None, None] and "hint" in engine.forms[3]["properties"]


def test_what_the_engine_refuses_is_a_failure(tmp_path):
    class TooLong(ScriptedEngine):
        async def generate(self, *_):
            raise ValueError("the prompt is too long")
            yield

    path = make(tmp_path / "c.mp4")
    request = TeacherRequest(Question("q", path, "What?", "open", (), "red"), "blue", 2.0)
    reply = asyncio.run(Conversation(PlainSampling(TooLong(), Template(), TEACHER, 0), Rules()).find(request))
    assert reply.outcome == "failed" and "too long" in reply.reason


def test_a_turn_without_an_offer_calls_nothing():
    engine = ScriptedEngine('<tool_call>{"name": "get_frame", "arguments": {"i": 3}}</tool_call>')
    turn = asyncio.run(PlainSampling(engine, Template(), TEACHER, 0).turn([Message("user", "x")], Offer()))
    assert isinstance(turn, Turn) and turn.calls == ()
