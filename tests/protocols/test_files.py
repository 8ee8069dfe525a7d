"""A file that an agent has made, however large, can be reached from wires that carry text."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agents import Agent as SDKAgent
from agents import ToolOutputImage, ToolOutputText, function_tool
from google.adk.agents import LlmAgent
from google.genai import types
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from gapless import RunConfig, Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.attachments import without_blobs
from gapless.events import CustomEvent, ImagePart, TextPart, ToolMessage
from gapless.protocols.ag_ui.wire import OldAGUIEncoder
from gapless.testing import ToolCall, adk_model, langgraph_model, openai_agents_model, words
from tests.support.sse import frames

LARGE = b"l" * 100_000
STREAM = {"accept": "text/event-stream"}


async def draws(message: str) -> AsyncIterator[AgentItem]:
    yield "Here: "
    yield CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": LARGE, "name": "a](b.png"})
    yield "and "
    yield "more."
    yield CustomEvent(name="gapless.file", value={"mimeType": "application/pdf", "data": b"small"})
    yield CustomEvent(name="gapless.file", value={"mimeType": "image/png", "url": "javascript:alert(1)"})
    yield CustomEvent(name="gapless.file", value={"mimeType": "text/plain", "url": "https://example.org/a b"})


async def chat(client: Any, stream: bool) -> str:
    body = {"model": "a", "messages": [{"role": "user", "content": "draw"}], "stream": stream}
    answer = await client.post("/v1/chat/completions", json=body, headers={"x-run-id": "r"})
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    chunks = [json.loads(one.data) for one in frames(answer.content) if one.data.startswith("{")]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)


async def completion(client: Any, stream: bool) -> str:
    body = {"model": "a", "prompt": "draw", "stream": stream}
    answer = await client.post("/v1/completions", json=body, headers={"x-run-id": "r"})
    if not stream:
        return str(answer.json()["choices"][0]["text"])
    chunks = [json.loads(one.data) for one in frames(answer.content) if one.data.startswith("{")]
    return "".join(one["choices"][0]["text"] for one in chunks if one["choices"])


async def response(client: Any, stream: bool) -> str:
    body = {"model": "a", "input": "draw", "stream": stream}
    answer = await client.post("/v1/responses", json=body, headers={"x-run-id": "r"})
    events = [json.loads(one.data) for one in frames(answer.content) if one.data.startswith("{")] if stream else []
    whole = events[-1]["response"] if stream else answer.json()
    parts = [item["content"][0]["text"] for item in whole["output"]]
    if stream:
        assert [one["sequence_number"] for one in events] == list(range(len(events)))
        deltas = [one for one in events if one["type"] == "response.output_text.delta"]
        said = ["".join(d["delta"] for d in deltas if d["item_id"] == item["id"]) for item in whole["output"]]
        assert said == parts
    return "\n\n".join(parts)


async def text(client: Any, stream: bool) -> str:
    answer = await client.post("/chat/stream", json={"query": "draw", "run_id": "r"})
    return "".join(json.loads(one.data).get("text", "") for one in frames(answer.content) if one.data[:1] == "{")


@pytest.mark.parametrize("public_url", ["", "https://agents.example.com/"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("talk", [chat, completion, response, text])
async def test_the_text_links_to_it(talk: Any, stream: bool, public_url: str, client_of: Callable[..., Any]):
    client = await client_of(Runner(draws, app_name="a", config=RunConfig(public_url=public_url)))
    said = await talk(client, stream)
    pieces = re.split(r"(!?\[.*?\]\(<.*?>\))", said)
    assert "".join(pieces[::2]).split() == ["Here:", "and", "more."], said
    large, small, outside = pieces[1::2]
    start = public_url.rstrip("/")
    assert large.startswith(f"![a b.png](<{start}/runs/r/blobs/")
    assert outside == "[text/plain](<https://example.org/a%20b>)"
    assert small == f"[application/pdf](<{start}/runs/r/blobs/file-2>)"
    for link, content, kind in ((large, LARGE, "image/png"), (small, b"small", "application/pdf")):
        file = await client.get(link.rpartition("(<")[2].removesuffix(">)").removeprefix(start))
        assert (file.content, file.headers["content-type"]) == (content, kind)
    for none in ("file-1", "file-3", "file-4", "file-5", "file-0", "file-x"):  # kept aside, elsewhere or not there
        assert (await client.get(f"/runs/r/blobs/{none}")).status_code == 404


def sent(data: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """A picture, as each family's clients send it."""
    url = f"data:image/png;base64,{data}"
    source = {"type": "data", "value": data, "mimeType": "image/png"}
    picture = {"type": "image", "source": source}
    parts = [{"type": "file", "mediaType": "image/png", "url": url}]
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    items = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    return {
        "/runs": ("/runs", {"message": [picture]}),
        "ag-ui": (
            "/ag-ui",
            {"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "user", "content": [picture]}]},
        ),
        "vercel": ("/vercel/chat", {"id": "c", "messages": [{"id": "u", "role": "user", "parts": parts}]}),
        "chat": ("/v1/chat/completions", {"model": "a", "messages": chat}),
        "responses": ("/v1/responses", {"model": "a", "input": items}),
    }


@pytest.mark.parametrize("name", sent(""))
async def test_what_a_user_sends_is_given_to_the_agent_whole_or_refused_by_the_limits_name(
    name: str, client_of: Callable[..., Any]
):
    seen: list[int] = []

    async def sees(message: str, ctx: RunContext) -> AsyncIterator[str]:
        (part,) = [one for one in ctx.content if isinstance(one, ImagePart)]
        seen.append(len(part.source.value))
        yield "seen"

    client = await client_of(Runner(sees, app_name="a"))
    path, body = sent("A" * 1_600_000)[name]
    answer = await client.post(path, json=body, headers=STREAM)
    assert (answer.status_code, b"seen" in answer.content, seen) == (200, True, [1_600_000])
    path, body = sent("A" * 4_400_000)[name]
    refused = await client.post(path, json={**body, "runId": "r2"})
    assert (refused.status_code, "body_bytes_max" in refused.text) == (413, True)


SMALL, BIG = b"\x89PNG\xfb\xff" * 10, b"\x89PNG\xfb\xff" * 300_000


def with_pydantic_ai(data: bytes) -> Any:
    async def model(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        if isinstance(messages[-1].parts[-1], m.UserPromptPart):
            yield {0: DeltaToolCall(name="look", json_args="{}", tool_call_id=f"c{len(messages)}")}
        else:
            yield "I see."

    agent = Agent(FunctionModel(stream_function=model))

    @agent.tool_plain
    def look() -> Any:
        return ["Here:", m.BinaryContent(data, media_type="image/png")]

    return agent


def with_adk(data: bytes) -> Any:
    def look() -> Any:
        """Looks."""
        return {"said": "Here:", "seen": types.Part.from_bytes(data=data, mime_type="image/png")}

    return LlmAgent(name="a", model=adk_model(ToolCall("look"), *words("I see.")), tools=[look])


def with_langgraph(data: bytes) -> Any:
    def look() -> Any:
        """Looks."""
        picture = {"type": "image", "base64": base64.b64encode(data).decode(), "mime_type": "image/png"}
        return [{"type": "text", "text": "Here:"}, picture]

    model = langgraph_model(ToolCall("look"), "I see.")
    return create_agent(model, tools=[StructuredTool.from_function(look)])


def with_openai_agents(data: bytes) -> Any:
    @function_tool
    def look() -> Any:
        """Looks."""
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return [ToolOutputText(text="Here:"), ToolOutputImage(image_url=url)]

    return SDKAgent(name="a", model=openai_agents_model(ToolCall("look"), "I see."), tools=[look])


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "large"])
@pytest.mark.parametrize("make", [with_pydantic_ai, with_adk, with_langgraph, with_openai_agents])
async def test_a_picture_that_a_tool_returns_comes_with_its_result(
    make: Any, data: bytes, client_of: Callable[..., Any]
):
    runner = Runner(make(data), app_name="a")
    client = await client_of(runner)
    assert (await (await runner.start("go", run_id="r", session_id="s")).collect()).text == "I see."
    assert (await (await runner.start("again", session_id="s")).collect()).text == "I see."

    async def shown(wire: str) -> list[Any]:
        body = (await client.get(f"/runs/r/events?wire={wire}", headers=STREAM)).content
        return [json.loads(one.data) for one in frames(body) if one.data.startswith("{")]

    async def is_it(part: Any) -> bool:
        source = part["source"]
        if source["type"] == "data":
            return data is SMALL and base64.b64decode(source["value"]) == data
        return data is BIG and (await client.get(source["value"])).content == data

    (result,) = [one for one in await shown("ag-ui") if one["type"] == "TOOL_CALL_RESULT"]
    text, picture = result["content"]
    assert "Here:" in text["text"]
    assert await is_it(picture)
    (output,) = [one for one in await shown("vercel") if one["type"] == "tool-output-available"]
    assert output["output"] == result["content"]
    parts = [part for one in await shown("adk") for part in (one.get("content") or {}).get("parts", ())]
    (told,) = [part["functionResponse"] for part in parts if "functionResponse" in part]
    ((kind, media),) = told["parts"][0].items()
    assert kind == ("inlineData" if data is SMALL else "fileData")
    assert kind == "fileData" or base64.urlsafe_b64decode(media["data"]) == data
    old = OldAGUIEncoder(await runner.get_run("r")).frames(json.dumps(result, separators=(",", ":")).encode())
    assert json.loads(old[0])["content"] == text["text"]
    kept = await runner.messages("s")
    (message,) = [one for one in map(without_blobs, kept[:4]) if isinstance(one, ToolMessage)]
    assert isinstance(message.content, list)
    assert isinstance(message.content[1], ImagePart if data is SMALL else TextPart)
