"""The seeds' endpoint: text frames, and an `EventSource` that comes back to its run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from gapless import Runner
from tests.support.agents import Gated
from tests.support.sse import Frame, frames


def texts(found: list[Frame]) -> str:
    data = [json.loads(frame.data) for frame in found if frame.data.startswith("{")]
    return "".join(item.get("text", "") for item in data)


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/chat/stream?query=hi", None),
        ("POST", "/chat/stream?query=hi", None),
        ("POST", "/chat/stream", {"query": "hi"}),
        ("POST", "/chat/stream", {"message": "hi"}),
    ],
)
async def test_text_then_done_then_the_end_marker(client: httpx2.AsyncClient, request_: tuple[str, str, Any]):
    method, path, body = request_
    response = await client.request(method, path, json=body) if body else await client.request(method, path)
    found = frames(response.content)
    assert texts(found) == "you said hi"
    assert found[-2].data == "[DONE]"
    assert (found[-1].event, found[-1].data) == ("end", "")
    run_id = response.headers["x-run-id"]
    assert all(frame.id.startswith(f"{run_id}:") for frame in found)


async def test_an_event_source_that_comes_back_goes_on_with_its_run(client_of: Callable[..., Any]):
    agent = Gated("a", "b", "c")
    client = await client_of(Runner(agent))
    agent.let(4)
    whole = frames((await client.get("/chat/stream?query=hi")).content)
    assert (texts(whole), agent.runs) == ("abc", 1)
    for position, frame in enumerate(whole[:-1]):
        back = await client.get("/chat/stream?query=hi", headers={"last-event-id": frame.id})
        if frame.data == "[DONE]":
            assert back.status_code == 204
        else:
            assert texts(whole[: position + 1]) + texts(frames(back.content)) == "abc"
    gone = await client.get("/chat/stream?query=hi", headers={"last-event-id": whole[-1].id})
    assert gone.status_code == 204
    assert agent.runs == 1, "one model call for all of it"


async def test_an_id_comes_at_once(client_of: Callable[..., Any]):
    """A connection that is cut before the first word comes back to its run and starts no second one."""
    agent = Gated("a")
    client = await client_of(Runner(agent))
    agent.let(2)
    first = frames((await client.get("/chat/stream?query=hi")).content)[0]
    assert (first.data, first.event) == ('{"text":""}', "")
    back = await client.get("/chat/stream?query=hi", headers={"last-event-id": first.id})
    assert (texts(frames(back.content)), agent.runs) == ("a", 1)


async def test_the_start_itself_can_be_made_safe_to_repeat(client_of: Callable[..., Any]):
    agent = Gated("a")
    client = await client_of(Runner(agent))
    agent.let(2)
    for _ in range(2):
        found = frames((await client.get("/chat/stream?query=hi&run_id=r")).content)
        assert texts(found) == "a"
    assert agent.runs == 1


async def test_errors_are_a_frame(client_of: Callable[..., Any]):
    async def fails(message: str) -> AsyncIterator[str]:
        yield "shown"
        raise ValueError("secret")

    client = await client_of(Runner(fails))
    found = frames((await client.get("/chat/stream?query=hi")).content)
    assert json.loads(found[-3].data)["code"] == "agent_failed"
    assert found[-2].data == "[DONE]"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 422, "input_invalid"),
        ({"last-event-id": "7"}, 400, "cursor_invalid"),
        ({"last-event-id": "nope:7"}, 404, "run_not_found"),
    ],
)
async def test_bad_requests(client: httpx2.AsyncClient, headers: dict[str, str], status: int, code: str):
    response = await client.get("/chat/stream", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
