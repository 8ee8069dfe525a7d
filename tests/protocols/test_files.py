"""A file that an agent has made, however large, can be reached from wires that carry text."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.events import CustomEvent, ImagePart
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
