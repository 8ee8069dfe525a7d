"""The AI SDK's endpoints, as its transport sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.events import text_of
from support.agents import Gated
from support.rich import CLOSING, rich
from support.sse import frames


def message(text: str, role: str = "user", id: str = "") -> dict[str, Any]:
    return {"id": id or f"{role}-{text}", "role": role, "parts": [{"type": "text", "text": text}]}


def body(*messages: dict[str, Any], chat: str = "c", **more: Any) -> dict[str, Any]:
    return {"id": chat, "messages": list(messages), "trigger": "submit-message", **more}


def chunks(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    *said, done, end = frames(response.content)
    assert (done.data, end.event, end.data) == ("[DONE]", "end", "")
    return [json.loads(frame.data) for frame in said if frame.data != "[DONE]"]


def text(response: httpx2.Response) -> str:
    return "".join(chunk["delta"] for chunk in chunks(response) if chunk["type"] == "text-delta")


class Listener:
    """An agent that keeps what it was given."""

    name = "listener"

    def __init__(self) -> None:
        self.seen: list[RunContext] = []

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        self.seen.append(ctx)
        yield f"heard {ctx.message}"


async def test_a_message_is_answered(client: httpx2.AsyncClient):
    response = await client.post("/vercel/chat", json=body(message("hi")))
    told = chunks(response)
    assert [chunk["type"] for chunk in told[:2]] == ["start", "start-step"]
    assert (text(response), told[-1]) == ("you said hi", {"type": "finish", "finishReason": "stop"})
    run_id = response.headers["x-run-id"]
    assert told[0]["messageId"] == run_id
    assert response.headers["content-location"] == f"/vercel/chat/c/stream?runId={run_id}"
    assert (await client.get(f"/runs/{run_id}")).json()["session_id"] == "c"


async def test_a_start_that_names_its_run_is_one_run(client: httpx2.AsyncClient):
    named = {"headers": {"x-run-id": "mine"}, "json": body(message("hi"))}
    first, second = [await client.post("/vercel/chat", **named) for _ in range(2)]
    assert first.headers["x-run-id"] == "mine"
    assert text(first) == text(second) == "you said hi"
    assert len((await client.get("/runs")).json()["runs"]) == 1


async def test_the_stream_goes_on_where_it_is_said_to_be(client: httpx2.AsyncClient):
    response = await client.post("/vercel/chat", json=body(message("hi")))
    where, whole = response.headers["content-location"], frames(response.content)
    assert text(await client.get(where)) == "you said hi"
    for position, frame in enumerate(whole[:-2], 1):
        tail = frames((await client.get(where, headers={"last-event-id": frame.id})).content)
        assert {one.id for one in tail} <= {one.id for one in whole[position:]}
        assert tail[-1] == whole[-1]
        assert json.loads(tail[0].data)["type"] != "start" if tail[0].data.startswith("{") else True
    for last in whole[-2:]:
        assert (await client.get(where, headers={"last-event-id": last.id})).status_code == 204


async def test_a_new_page_gets_the_answer_that_is_coming_and_no_other(client_of: Callable[..., Any]):
    agent = Gated("one ", "two")
    client = await client_of(Runner(agent))
    assert (await client.get("/vercel/chat/c/stream")).status_code == 204
    run = (await client.post("/runs", json={"message": "hi", "session_id": "c"})).json()
    agent.let(3)
    assert text(await client.get("/vercel/chat/c/stream")) == "one two"
    assert (await client.get("/vercel/chat/c/stream")).status_code == 204
    assert text(await client.get("/vercel/chat/c/stream", params={"runId": run["id"]})) == "one two"
    other = await client.get("/vercel/chat/other/stream", params={"runId": run["id"]})
    assert other.status_code == 404


async def test_stop_ends_the_run(client_of: Callable[..., Any]):
    agent = Gated("one ", "two")
    client = await client_of(Runner(agent))
    run = (await client.post("/runs", json={"message": "hi", "session_id": "c"})).json()
    await agent.waits_for(0)
    stopped = await client.post("/vercel/chat/c/stop")
    assert (stopped.status_code, [one["id"] for one in stopped.json()["runs"]]) == (202, [run["id"]])
    told = chunks(await client.get("/vercel/chat/c/stream", params={"runId": run["id"]}))
    assert told[-1] == {"type": "abort", "reason": "cancelled"}
    assert (await client.post("/vercel/chat/c/stop")).status_code == 204
    assert agent.stopped.is_set()


async def test_a_regenerated_answer_replaces_the_one_that_is_coming(client_of: Callable[..., Any]):
    runs = 0

    async def agent(message: str) -> AsyncIterator[str]:
        nonlocal runs
        runs += 1
        yield f"answer {runs}"
        if runs == 1:
            await asyncio.Event().wait()

    client = await client_of(Runner(agent))
    first = (await client.post("/runs", json={"message": "hi", "session_id": "c"})).json()
    busy = await client.post("/vercel/chat", json=body(message("hi")))
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
    while not runs:
        await asyncio.sleep(0)
    response = await client.post("/vercel/chat", json=body(message("hi"), trigger="regenerate-message"))
    assert text(response) == "answer 2"
    assert (await client.get(f"/runs/{first['id']}")).json()["status"] == "cancelled"


async def test_what_the_client_says_was_said_counts(client_of: Callable[..., Any]):
    agent = Listener()
    client = await client_of(Runner(agent))
    await client.post("/vercel/chat", json=body(message("one")))
    kept = [message("one"), message("heard one", "assistant"), message("two")]
    await client.post("/vercel/chat", json=body(*kept))
    edited = [message("uno"), message("heard uno", "assistant"), message("two")]
    await client.post("/vercel/chat", json=body(*edited))
    histories = [[text_of(one.content) for one in ctx.messages] for ctx in agent.seen]
    assert histories == [["one"], ["one", "heard one", "two"], ["uno", "heard uno", "two"]]
    assert (agent.seen[1].messages[0].metadata or {}).get("run_id"), (
        "the session's own messages where they are the same"
    )
    assert agent.seen[2].messages[0].metadata is None


async def test_one_of_several_agents(client_of: Callable[..., Any]):
    client = await client_of(Runner(agents={"a": Listener(), "b": rich}))
    assert text(await client.post("/vercel/chat", json=body(message("hi"), agent="b"))) == "1:hi"
    assert text(await client.post("/vercel/chat?agent=a", json=body(message("hi"), chat="d"))) == "heard hi"


async def approval(client: httpx2.AsyncClient) -> tuple[dict[str, Any], httpx2.Response]:
    """A chat that asks: its request, and the response that carried it."""
    response = await client.post("/vercel/chat", json=body(message("approve")))
    (asked,) = [chunk for chunk in chunks(response) if chunk["type"] == "tool-approval-request"]
    return asked, response


def answered(asked: dict[str, Any], **approval: Any) -> dict[str, Any]:
    part = {
        "type": "tool-weather",
        "toolCallId": asked["toolCallId"],
        "state": "approval-responded",
        "input": {},
        "approval": {"id": asked["approvalId"], **approval},
    }
    return {"id": "a", "role": "assistant", "parts": [part]}


async def test_an_approval_goes_on_in_a_stream_of_its_own(client_of: Callable[..., Any]):
    client = await client_of(Runner(rich))
    asked, first = await approval(client)
    assert chunks(first)[-1] == {"type": "finish", "finishReason": "tool-calls"}
    request = body(message("approve"), answered(asked, approved=True))
    response = await client.post("/vercel/chat", json=request)
    told = chunks(response)
    assert (told[0]["type"], told[0]["messageId"]) == ("start", chunks(first)[0]["messageId"])
    assert text(response) == "".join(CLOSING)
    again = await client.post("/vercel/chat", json=request)  # the answer's response was lost
    where = await client.get(response.headers["content-location"])
    assert text(again) == text(where) == "".join(CLOSING)


async def test_a_client_that_lost_the_end_of_a_paused_stream_is_not_left_waiting(client_of: Callable[..., Any]):
    client = await client_of(Runner(rich))
    _, response = await approval(client)
    done = frames(response.content)[-2]
    where = response.headers["content-location"]
    assert (await client.get(where, headers={"last-event-id": done.id})).status_code == 204
    assert chunks(await client.get("/vercel/chat/c/stream"))[-1]["finishReason"] == "tool-calls"


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        (body(), 422),
        ({"id": "c"}, 422),
        (body(message("")), 422),
        (body(message("hi"), chat="no spaces"), 422),
        (body(message("hi"), {"id": "x", "role": "robot", "parts": []}), 422),
        (body(answered({"toolCallId": "t", "approvalId": "a"}, approved=True)), 422),
    ],
)
async def test_requests_that_do_not_fit(client: httpx2.AsyncClient, request_body: Any, status: int):
    response = await client.post("/vercel/chat", json=request_body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, "input_invalid")


async def test_an_approval_that_was_not_asked_for(client_of: Callable[..., Any]):
    client = await client_of(Runner(rich))
    asked, _ = await approval(client)
    wrong = body(answered(asked | {"approvalId": "other"}, approved=True))
    response = await client.post("/vercel/chat", json=wrong)
    assert (response.status_code, asked["approvalId"] in response.json()["error"]["message"]) == (422, True)


async def test_nobody_uses_anothers_chat(client_of: Callable[..., Any]):
    users = {"a": "alice", "b": "bob"}
    runner = Runner(rich, config=RunConfig(on_busy="queue"))
    options = {"authenticate": lambda request: users.get(request.headers.get("x-user", ""))}
    alice = await client_of(runner, headers={"x-user": "a"}, **options)
    bob = await client_of(runner, headers={"x-user": "b"}, **options)
    stranger = await client_of(runner, **options)
    asked, response = await approval(alice)
    answer = body(answered(asked, approved=True))
    for client, nothing, invalid, missing in ((bob, 204, 422, 404), (stranger, 401, 401, 401)):
        assert (await client.get("/vercel/chat/c/stream")).status_code == nothing
        assert (await client.get(response.headers["content-location"])).status_code == missing
        assert (await client.post("/vercel/chat/c/stop")).status_code == nothing
        assert (await client.post("/vercel/chat", json=body(message("hi")))).status_code == missing
        named = {"x-run-id": response.headers["x-run-id"]}
        taken = await client.post("/vercel/chat", json=body(message("approve")), headers=named)
        assert taken.status_code == (409 if missing == 404 else missing)
        refused = await client.post("/vercel/chat", json=answer)
        assert refused.status_code == invalid
        assert response.headers["x-run-id"] not in refused.text
    assert (await alice.get(f"/runs/{response.headers['x-run-id']}")).json()["status"] == "waiting"
