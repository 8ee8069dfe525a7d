"""What of a request nobody can do is the request's fault: a 4xx that says why, never a 5xx, whoever finds it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from gapless import Runner
from gapless.testing import adk_model, words
from tests.support.frameworks import FRAMEWORKS


def build() -> str:
    """Build."""
    return "built"


@pytest.fixture
async def client(client_of: Callable[..., Any]) -> Any:
    adk = LlmAgent(name="d", model=adk_model(*words("done")), tools=[build])
    return await client_of(Runner(agents={"p": Agent(TestModel(), tools=[build]), "d": adk}))


USER = {"role": "user", "content": "hi"}
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {}}}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "x"}
ANSWERED = {"type": "function_call_output", "call_id": "c", "output": "x"}


def picture(data: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]}


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"tool_choice": named("nope")}, "no tool nope"),
        ({"tool_choice": "nope"}, "no tool nope"),
        ({"tool_choice": named("look")}, "no tool look"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"tool_choice": []}, "tool_choice"),
        ({"messages": [RESULT]}, "no message before it has a call"),
        ({"messages": [USER, RESULT]}, "no message before it has a call"),
        ({"messages": [picture("@@@")]}, "base64"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
async def test_a_chat_that_cannot_be_is_a_400(client: Any, asked: Any, says: str):
    answer = await client.post("/v1/chat/completions", json={"model": "p", "messages": [USER], **asked})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_a_tool_that_no_framework_has_is_a_400(name: str, client_of: Callable[..., Any]):
    async def build() -> str:
        """Build."""
        return "built"

    client = await client_of(Runner(FRAMEWORKS[name]("done", tools=[build]).agent, app_name="a"))
    for path, asked in (("chat/completions", {"messages": [USER]}), ("responses", {"input": "hi"})):
        answer = await client.post(f"/v1/{path}", json={"model": "a", "tool_choice": named("nope"), **asked})
        assert (answer.status_code, "no tool nope; the agent has build" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"tool_choice": {"type": "function", "name": "nope"}}, "no tool nope"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"input": [ANSWERED]}, "no message before it has a call"),
        ({"text": {"format": {"type": "json_schema"}}}, "response_format"),
    ],
)
async def test_a_response_that_cannot_be_is_a_400(client: Any, asked: Any, says: str):
    """Or one that has failed, where it may be asked for later."""
    answer = await client.post("/v1/responses", json={"model": "p", "input": "hi", **asked})
    told = answer.json()["error"]
    assert (answer.status_code, says in told["message"]) == (400, True), answer.text


ODD: dict[str, dict[str, list[Any]]] = {
    "/v1/chat/completions": {
        "messages": [
            [{"role": "assistant", "content": "x"}],
            [USER, {"role": "assistant", "tool_calls": [{"id": "c", **named("look")}]}, USER],
            [{"role": "user", "content": []}],
            [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}],
            "hi",
        ],
        "tools": [[{"type": "web_search"}], [{"type": "function", "function": {**LOOK, "parameters": "x"}}], 7],
        "tool_choice": [named(7), {"type": "function"}, {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}],
        "response_format": [{"type": "nope"}, "x", 7],
        "stop": [7, [7], []],
        "max_tokens": [0, -5, "x", 10**12],
        "temperature": ["hot", True],
        "logit_bias": [{"x": "y"}, 7],
        "stream_options": [7, {}],
    },
    "/v1/responses": {
        "input": [
            [],
            [{"type": "item_reference", "id": "x"}],
            [{"type": "mcp_call", "id": "x", "name": "n", "error": {"content": [7]}}, USER],
            [{"type": "function_call", "call_id": "c", "name": "look", "arguments": "{bad"}, ANSWERED],
            [7],
            [{"role": "user", "content": [{"type": "input_image"}]}],
        ],
        "text": [{"format": {}}, {"format": 7}, 7],
        "conversation": ["a b", {}, 7],
        "previous_response_id": ["resp_nope", "x y"],
        "reasoning": [{"effort": "nope"}, 7],
        "include": [7],
    },
    "/ag-ui": {
        "threadId": ["a b", "", 7],
        "messages": [[], [{"id": "t", "role": "tool", "toolCallId": "c", "content": "x"}]],
        "tools": [[{"name": "x", "description": "", "parameters": "x"}], 7],
        "resume": [[{"interruptId": "x", "status": "resolved"}], 7],
        "state": [7, []],
    },
    "/vercel/chat": {
        "messages": [[], [{"id": "2", "role": "assistant", "parts": [7]}], 7],
        "messageId": ["x", 7],
        "trigger": ["nope", 7],
    },
    "/chat/stream": {"query": ["", 7], "config": [{"timeout": -1}, {"model_settings": {"tool_choice": "nope"}}, 7]},
}
"""Bodies that are nearly right: by route and field, what stands there instead."""
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": "hi"},
    "/ag-ui": {"threadId": "t", "messages": [{"id": "u", "role": "user", "content": "hi"}]},
    "/vercel/chat": {"messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
    "/chat/stream": {"query": "hi"},
}


@pytest.mark.parametrize("agent", ["p", "d"])
@pytest.mark.parametrize("path", ODD)
async def test_a_body_that_is_nearly_right_is_no_fault_of_the_server(client: Any, path: str, agent: str):
    for number, (field, value) in enumerate((f, v) for f, values in ODD[path].items() for v in values):
        own = {
            "id": f"c{number}",
            "threadId": f"t{number}",
            "runId": f"{agent}{number}",
            "model": agent,
            "agent": agent,
        }
        answer = await client.post(path, json={**own, **RIGHT[path], field: value}, params={"agent": agent})
        scripted = "the script has 1 model responses" in answer.text
        assert answer.status_code < 500 or scripted, (field, value, answer.text)
        assert "agent_failed" not in answer.text, (field, value)
