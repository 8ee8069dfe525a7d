"""What a model wants back with its thoughts and calls survives a history that only the client holds: on every wire that
has a place for it, in the form that its clients send back, for both frameworks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest
from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import PrivateAttr
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, FunctionModel

from gapless import RunConfig, Runner, StreamingMode
from gapless.events import decode_event
from gapless.fold import Fold
from tests.support.sse import frames

Seen = list[list[tuple[Any, ...]]]
"""Of each request of the model: its thoughts and calls, with what came back with them."""
WHOLE = [("thought", "Hm. ", "S1"), ("call", "look", "S2"), ("thought", "So.", "S3")]


def look() -> str:
    """Look."""
    return "seen"


def with_pydantic_ai(tool: bool) -> tuple[Any, Seen]:
    seen: Seen = []

    def model(messages: list[m.ModelMessage], info: AgentInfo) -> m.ModelResponse:
        parts = [part for one in messages if isinstance(one, m.ModelResponse) for part in one.parts]
        found = [("thought", p.content, p.signature) for p in parts if isinstance(p, m.ThinkingPart)]
        calls = [p for p in parts if isinstance(p, m.ToolCallPart)]
        assert all(p.provider_name == "p" for p in parts if isinstance(p, m.ThinkingPart))
        found[1:1] = [("call", p.tool_name, (p.provider_details or {}).get("signature")) for p in calls]
        seen.append(found)
        newest = messages[-1].parts[-1]
        if isinstance(newest, m.UserPromptPart) and newest.content == "go" and info.function_tools:
            details = {"signature": "S2"}
            call = m.ToolCallPart("look", "{}", "c1", id="fc", provider_name="p", provider_details=details)
            return m.ModelResponse([m.ThinkingPart("Hm. ", signature="S1", id="rs", provider_name="p"), call])
        return m.ModelResponse([m.ThinkingPart("So.", signature="S3", provider_name="p"), m.TextPart("done")])

    return Agent(FunctionModel(model), tools=[look] if tool else []), seen


class Thinker(BaseLlm):
    model: str = "thinker"
    _seen: Seen = PrivateAttr(default_factory=list)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        parts = [p for one in llm_request.contents for p in one.parts or () if p.thought or p.function_call]
        self._seen.append(
            [
                ("thought", p.text, (p.thought_signature or b"").decode())
                if p.function_call is None
                else ("call", p.function_call.name, (p.thought_signature or b"").decode())
                for p in parts
            ]
        )
        newest = (llm_request.contents[-1].parts or [])[-1]
        said = [types.Part(text="So.", thought=True, thought_signature=b"S3"), types.Part(text="done")]
        if newest.text == "go" and llm_request.tools_dict:
            call = types.FunctionCall(name="look", args={})
            said = [
                types.Part(text="Hm. ", thought=True, thought_signature=b"S1"),
                types.Part(function_call=call, thought_signature=b"S2"),
            ]
        if stream:
            for part in said:
                yield LlmResponse(content=types.Content(role="model", parts=[part]), partial=True)
        yield LlmResponse(content=types.Content(role="model", parts=said))


def with_adk(tool: bool) -> tuple[Any, Seen]:
    model = Thinker()
    return LlmAgent(name="a", model=model, tools=[look] if tool else []), model._seen


async def over_ag_ui(client: Any) -> None:
    async def ask(thread: str, messages: list[Any]) -> list[Any]:
        fold = Fold()
        answer = await client.post("/ag-ui", json={"threadId": thread, "runId": thread, "messages": messages})
        for frame in frames(answer.content):
            if frame.data:
                fold.add(decode_event(frame.data))
        return fold.messages()

    asked = {"id": "u", "role": "user", "content": "go"}
    held = msgspec.to_builtins(await ask("t1", [asked]))
    await ask("t2", [asked, *held, {"id": "u2", "role": "user", "content": "on"}])


async def over_tanstack(client: Any) -> None:
    """A page that opens on the thread, and is sent on as another."""
    body = {"threadId": "t1", "runId": "t1", "messages": [{"id": "u", "role": "user", "content": "go"}]}
    await client.post("/ag-ui", json=body)
    shown = (await client.get("/ag-ui", params={"threadId": "t1"})).json()["messages"]
    sent: list[Any] = []
    for message in shown:  # as `@tanstack/ai` writes them
        for part in message["parts"]:
            if part["type"] == "thinking":
                kept = {"encryptedValue": part["signature"]}
                sent.append({"id": f"r{len(sent)}", "role": "reasoning", "content": part["content"], **kept})
        calls = [
            {
                "id": part["id"],
                "type": "function",
                "function": {"name": part["name"], "arguments": part["arguments"]},
                "encryptedValue": part["metadata"]["thoughtSignature"],
            }
            for part in message["parts"]
            if part["type"] == "tool-call"
        ]
        text = "".join(part["content"] for part in message["parts"] if part["type"] == "text")
        sent.append({"id": message["id"], "role": message["role"], "content": text})
        if calls:
            sent[-1]["toolCalls"] = calls
        for part in message["parts"]:
            if part["type"] == "tool-result":
                of = {"toolCallId": part["toolCallId"], "content": part["content"]}
                sent.append({"id": f"r{len(sent)}", "role": "tool", **of})
    sent.append({"id": "u2", "role": "user", "content": "on"})
    await client.post("/ag-ui", json={"threadId": "t2", "runId": "t2", "messages": sent})


async def over_the_ai_sdk(client: Any) -> None:
    def said(id: str, text: str) -> Any:
        return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}

    answer = await client.post("/vercel/chat", json={"id": "t1", "messages": [said("u", "go")]})
    chunks = [json.loads(one.data) for one in frames(answer.content) if one.data.startswith("{")]
    kept = [one for one in chunks if "providerMetadata" in one]
    assert {one["type"] for one in kept} <= {"reasoning-end", "tool-input-available"}
    messages = (await client.get("/vercel/chat/t1/messages")).json()["messages"]
    streamed = sum("providerMetadata" in p or "callProviderMetadata" in p for p in messages[1]["parts"])
    assert streamed == len(kept), "a page that loads has what one that streamed has"
    await client.post("/vercel/chat", json={"id": "t2", "messages": [*messages, said("u2", "on")]})


async def over_responses(client: Any) -> None:
    include = ["reasoning.encrypted_content"]
    asked = {"role": "user", "content": "go"}
    said = (await client.post("/v1/responses", json={"model": "a", "input": [asked], "include": include})).json()
    items = [
        {key: value for key, value in one.items() if key != "content"} if one["type"] == "reasoning" else one
        for one in said["output"]
    ]
    sent = [asked, *items, {"role": "user", "content": "on"}]
    answer = await client.post("/v1/responses", json={"model": "a", "input": sent, "include": include})
    assert answer.status_code == 200, answer.text
    plain = (await client.post("/v1/responses", json={"model": "a", "input": "go"})).json()
    assert "encrypted_content" not in json.dumps(plain), "which is for those who ask for it"


async def over_chat(client: Any) -> None:
    asked = {"role": "user", "content": "go"}
    said = await client.post("/v1/chat/completions", json={"model": "a", "messages": [asked]})
    messages = [asked, said.json()["choices"][0]["message"], {"role": "user", "content": "on"}]
    answer = await client.post("/v1/chat/completions", json={"model": "a", "messages": messages})
    assert answer.status_code == 200, answer.text


TALKS = [over_ag_ui, over_tanstack, over_the_ai_sdk, over_responses, over_chat]


@pytest.mark.parametrize("mode", [StreamingMode.NONE, StreamingMode.SSE])
@pytest.mark.both_ways
@pytest.mark.parametrize("make", [with_pydantic_ai, with_adk])
@pytest.mark.parametrize("talk", TALKS)
async def test_it_is_in_the_next_model_call(talk: Any, make: Any, mode: Any, client_of: Callable[..., Any]):
    tool = talk is not over_chat  # whose clients are not shown the agent's own calls
    agent, seen = make(tool)
    client = await client_of(Runner(agent, app_name="a", config=RunConfig(streaming_mode=mode)))
    await talk(client)
    wanted = WHOLE if tool else WHOLE[-1:]
    told = seen[2 if tool else 1]
    assert told == wanted


async def test_what_is_kept_with_a_call_of_a_chat_clients_own_tool_comes_back(client_of: Callable[..., Any]):
    model = Thinker()
    client = await client_of(Runner(LlmAgent(name="a", model=model), app_name="a"))
    asked = {"role": "user", "content": "go"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    body = {"model": "a", "tools": tools}
    said = await client.post("/v1/chat/completions", json={**body, "messages": [asked]})
    message = said.json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "seen"}
    again = await client.post("/v1/chat/completions", json={**body, "messages": [asked, message, result]})
    assert again.json()["choices"][0]["message"]["content"] == "done"
    assert model._seen[-1] == WHOLE[:2]
    streamed = await client.post("/v1/chat/completions", json={**body, "messages": [asked], "stream": True})
    assert b'"encrypted_value":"UzI="' in streamed.content


@pytest.mark.both_ways
@pytest.mark.parametrize("make", [with_pydantic_ai, with_adk])
@pytest.mark.parametrize("kept", ["", "no base64", "{}", '{"signature":7}', "[1]", '{"id":{}}', "=" * 5])
async def test_what_no_model_of_ours_has_said_is_no_thought(make: Any, kept: str, client_of: Callable[..., Any]):
    agent, seen = make(False)
    client = await client_of(Runner(agent, app_name="a"))
    thought = {"id": "r", "role": "reasoning", "content": "Hm", "encryptedValue": kept}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}, "encryptedValue": kept}
    messages: list[Any] = [
        {"id": "u", "role": "user", "content": "hi"},
        thought,
        {"id": "a", "role": "assistant", "content": "yes", "toolCalls": [call]},
        {"id": "t", "role": "tool", "toolCallId": "c", "content": "seen"},
        {"id": "u2", "role": "user", "content": "on"},
    ]
    answer = await client.post("/ag-ui", json={"threadId": "t", "runId": "r", "messages": messages})
    assert b"RUN_ERROR" not in answer.content
    assert [one for one in seen[0] if one[0] == "thought"] == []
    details = [{"type": "reasoning.encrypted", "format": "gapless-v1", "data": kept}, {"type": "reasoning.text"}, 7]
    said = {"role": "assistant", "content": "yes", "reasoning_details": details, "reasoning_content": "Hm"}
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}, said, {"role": "user", "content": "on"}]}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    items = [{"type": "reasoning", "encrypted_content": kept}, {"role": "user", "content": "on"}]
    assert (await client.post("/v1/responses", json={"model": "a", "input": items})).status_code == 200
    assert [[one for one in told if one[0] == "thought"] for told in seen[1:]] == [[], []]
