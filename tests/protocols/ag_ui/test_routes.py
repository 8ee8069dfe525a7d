"""The AG-UI endpoint, as a client of the protocol sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.events import (
    Event,
    Message,
    MessagesSnapshotEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    decode_event,
    text_of,
)
from tests.support.agents import Gated
from tests.support.agui import check_order
from tests.support.rich import CLOSING, rich
from tests.support.sse import Frame, events, frames


def body(run_id: str, *said: str, thread: str = "t", **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"id": f"m{n}", "role": roles[n % 2], "content": text} for n, text in enumerate(said)]
    return {"threadId": thread, "runId": run_id, "messages": messages, **more}


def text(seen: list[Event]) -> str:
    return "".join(event.delta for event in seen if isinstance(event, TextMessageContentEvent))


async def ask(client: httpx2.AsyncClient, run_id: str, *said: str, **more: Any) -> list[Event]:
    response = await client.post("/ag-ui", json=body(run_id, *said, **more))
    assert response.status_code == 200, response.text
    return events(response.content)


class Listener:
    """An agent that keeps what it was given."""

    name = "listener"

    def __init__(self) -> None:
        self.seen: list[RunContext] = []

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        self.seen.append(ctx)
        yield f"heard {ctx.message}"


async def test_a_run_of_the_last_message(client: httpx2.AsyncClient):
    response = await client.post("/ag-ui", json=body("r", "hi"))
    seen = events(response.content)
    check_order(seen)
    assert isinstance(seen[0], RunStartedEvent)
    assert (seen[0].thread_id, seen[0].run_id, text(seen)) == ("t", "r", "you said hi")
    assert response.headers["content-location"] == "/ag-ui?runId=r&protocolVersion=0"
    assert response.headers["x-run-id"] == "r"
    record = (await client.get("/runs/r")).json()
    assert (record["session_id"], record["message"]) == ("t", "hi")


FORGED = {
    "openai": {"previous": "r", "tools": 5, "input": "x", "metadata": [], "background": "yes"},
    "vercel_message_id": "another",
    "run_id": "another",
    "interrupted": True,
    "error": {"code": "run_failed", "message": "never"},
}


async def test_the_servers_own_marks_are_not_a_clients_to_make(client_of: Callable[..., Any]):
    listener = Listener()
    client = await client_of(Runner(listener))
    said = body("r", "one", "two", "three")
    for message in said["messages"]:
        message["metadata"] = {**FORGED, "mine": 1}
    assert (await client.post("/ag-ui", json=said)).status_code == 200
    (ctx,) = listener.seen
    *history, asked = (message.metadata for message in ctx.messages)
    assert (history, asked) == ([{"mine": 1}] * 2, {"mine": 1})
    kept, _ = (await client.get("/sessions/t/messages")).json()["messages"]
    assert kept["metadata"] == {"run_id": "r", "mine": 1}
    assert (await client.get("/v1/responses/resp_r")).json()["previous_response_id"] is None
    more = {"model": "listener", "input": "x", "previous_response_id": "resp_r"}
    assert (await client.post("/v1/responses", json=more)).status_code == 200


async def test_posted_again_it_is_the_same_run(client: httpx2.AsyncClient):
    first = await client.post("/ag-ui", json=body("r", "hi"))
    again = await client.post("/ag-ui", json=body("r", "hi"))
    assert [frame.id for frame in frames(again.content)][-1] == frames(first.content)[-1].id
    assert text(events(again.content)) == "you said hi"
    assert len((await client.get("/runs")).json()["runs"]) == 1


@pytest.mark.parametrize("other", [body("r", "ho"), body("r", "hi", thread="other")])
async def test_another_request_under_the_same_run_id_is_a_conflict(client: httpx2.AsyncClient, other: dict[str, Any]):
    await client.post("/ag-ui", json=body("r", "hi"))
    response = await client.post("/ag-ui", json=other)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "run_conflict")


async def test_every_way_to_say_from_where(client: httpx2.AsyncClient):
    whole = frames((await client.post("/ag-ui", json=body("r", "hi"))).content)
    cursor = whole[2].id

    async def ids(**request: Any) -> list[str]:
        response = await client.request(url="/ag-ui", **request)
        assert response.status_code == 200, response.text
        return [frame.id for frame in frames(response.content)]

    rest = [frame.id for frame in whole[3:]]
    params = {"runId": "r"}
    # Caught up with in one read, adjacent deltas come as one: the last id tells, and the first new one is not before.
    for told in (
        await ids(method="GET", params=params, headers={"last-event-id": cursor}),
        await ids(method="GET", params=params | {"offset": cursor}),
        await ids(method="GET", headers={"x-run-id": "r", "last-event-id": cursor}),
        await ids(method="POST", json=body("r", "hi"), headers={"last-event-id": cursor, "x-run-id": "r"}),
    ):
        assert set(told) <= set(rest)
        assert told[-1] == rest[-1]
    assert (await ids(method="GET", params=params | {"offset": "-1"}))[0] == whole[0].id


async def test_what_is_over_is_told_so(client: httpx2.AsyncClient):
    end, marker = frames((await client.post("/ag-ui", json=body("r", "hi"))).content)[-2:]
    for last in (end.id, marker.id):
        response = await client.get("/ag-ui", params={"runId": "r"}, headers={"last-event-id": last})
        assert response.status_code == 204
    # A client that posts again has not seen the end; one that has seen the marker does not come back.
    again = await client.post("/ag-ui", json=body("r", "hi"), headers={"last-event-id": end.id})
    assert [(frame.id, frame.data) for frame in frames(again.content)] == [(marker.id, end.data), (marker.id, "")]
    done = await client.post("/ag-ui", json=body("r", "hi"), headers={"last-event-id": marker.id})
    assert done.status_code == 204


@pytest.mark.parametrize(
    ("request_body", "status", "code"),
    [
        ({"threadId": "t", "runId": "r", "messages": []}, 422, "input_invalid"),
        ({"threadId": "t", "runId": "r"}, 422, "input_invalid"),
        (body("r", ""), 422, "input_invalid"),
        (body("no spaces", "hi"), 422, "input_invalid"),
        (body("r", "hi", resume=[{"interruptId": "i", "status": "resolved"}]), 422, "input_invalid"),
    ],
)
async def test_requests_that_do_not_fit(client: httpx2.AsyncClient, request_body: Any, status: int, code: str):
    response = await client.post("/ag-ui", json=request_body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_joining_needs_a_run(client: httpx2.AsyncClient):
    assert (await client.get("/ag-ui")).status_code == 422
    assert (await client.get("/ag-ui", params={"runId": "none"})).status_code == 404
    await client.post("/ag-ui", json=body("r", "hi"))
    beyond = await client.get("/ag-ui", params={"runId": "r", "offset": "999"})
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (400, "cursor_invalid")


async def test_the_sessions_history_counts_while_the_client_has_the_same(client_of: Callable[..., Any]):
    agent = Listener()
    client = await client_of(Runner(agent))
    await ask(client, "r1", "one")
    await ask(client, "r2", "one", "heard one", "two")
    await ask(client, "r3", "one", "never said", "three")
    await ask(client, "r4", "elsewhere", "heard", "four", thread="new")
    histories = [[text_of(message.content) for message in ctx.messages] for ctx in agent.seen]
    assert histories == [
        ["one"],
        ["one", "heard one", "two"],
        ["one", "never said", "three"],
        ["elsewhere", "heard", "four"],
    ]
    ours = [(message.metadata or {}).get("run_id") for message in agent.seen[1].messages[:2]]
    assert ours == ["r1", "r1"], "the session's own messages, not the client's copies"


async def test_everything_a_client_sends_reaches_the_agent(client_of: Callable[..., Any]):
    agent = Listener()
    client = await client_of(Runner(agent))
    tool = {"name": "locate", "description": "where", "parameters": {"type": "object"}}
    more = {"state": {"a": 1}, "tools": [tool], "context": [{"description": "d", "value": "v"}]}
    await ask(client, "r", "hi", forwardedProps={"p": 1}, **more)
    (ctx,) = agent.seen
    assert (ctx.state, ctx.forwarded_props) == ({"a": 1}, {"p": 1})
    assert [one.name for one in ctx.tools] == ["locate"]
    assert [one.value for one in ctx.context] == ["v"]


async def test_results_of_the_clients_tools_go_on_without_a_new_message(client_of: Callable[..., Any]):
    agent = Listener()
    client = await client_of(Runner(agent))
    call = {"id": "c", "type": "function", "function": {"name": "locate", "arguments": "{}"}}
    messages = [
        {"id": "1", "role": "user", "content": "where am I?"},
        {"id": "2", "role": "assistant", "toolCalls": [call]},
        {"id": "3", "role": "tool", "toolCallId": "c", "content": "Zürich"},
    ]
    await client.post("/ag-ui", json={"threadId": "t", "runId": "r", "messages": messages})
    (ctx,) = agent.seen
    assert ctx.message == ""
    assert [type(message).__name__ for message in ctx.messages[:3]] == [
        "UserMessage",
        "AssistantMessage",
        "ToolMessage",
    ]


async def test_one_of_several_agents(client_of: Callable[..., Any]):
    client = await client_of(Runner(agents={"a": Listener(), "b": rich}))
    response = await client.post("/ag-ui?agent=b", json=body("r", "hi"))
    assert text(events(response.content)) == "1:hi"
    assert (await client.post("/ag-ui?agent=c", json=body("r2", "hi"))).status_code == 404


async def test_an_answer_goes_on_from_the_interrupt(client_of: Callable[..., Any]):
    client = await client_of(Runner(rich))
    asked = await ask(client, "r", "approve")
    assert isinstance(asked[-1], RunFinishedEvent)
    assert isinstance(asked[-1].outcome, RunFinishedInterruptOutcome)
    (interrupt,) = asked[-1].outcome.interrupts
    entry = {"interruptId": interrupt.id, "status": "resolved", "payload": {"approved": True}}
    answer = body("r-next", "approve", resume=[entry])

    other = await client.post("/ag-ui", json=body("r-x", "approve", resume=[entry | {"interruptId": "other"}]))
    assert (other.status_code, interrupt.id in other.json()["error"]["message"]) == (422, True)

    response = await client.post("/ag-ui", json=answer)
    seen = events(response.content)
    check_order(seen)
    assert isinstance(seen[0], RunStartedEvent)
    assert seen[0].input is not None
    assert [one.interrupt_id for one in seen[0].input.resume or ()] == [interrupt.id]
    assert text(seen) == "".join(CLOSING)
    again = await client.post("/ag-ui", json=answer)  # an answer whose response was lost
    tail = await client.get(response.headers["content-location"])
    for repeated in (again, tail):
        assert text(events(repeated.content)) == text(seen)
        assert frames(repeated.content)[0] == frames(response.content)[0]
        assert frames(repeated.content)[-1] == frames(response.content)[-1]


async def test_a_client_that_lost_the_end_of_a_paused_stream_is_not_left_waiting(client_of: Callable[..., Any]):
    client = await client_of(Runner(rich))
    response = await client.post("/ag-ui", json=body("r", "approve"))
    last = frames(response.content)[-2]
    where = response.headers["content-location"]
    assert (await client.get(where, headers={"last-event-id": last.id})).status_code == 204
    again = await client.post("/ag-ui", json=body("r", "approve"), headers={"last-event-id": last.id})
    assert [frame.data for frame in frames(again.content)] == [last.data, ""]


async def test_a_late_join_is_compact_and_can_be_cut_anywhere(client_of: Callable[..., Any]):
    agent = Gated(*(f"{n} " for n in range(50)))
    client = await client_of(Runner(agent))
    await client.post("/runs", json={"message": "before", "session_id": "t", "run_id": "r0"})
    agent.let(51)
    await client.get("/runs/r0/events", headers={"accept": "text/event-stream"})
    await client.post("/runs", json={"message": "hi", "session_id": "t", "run_id": "r"})
    agent.let(30)
    while (await client.get("/runs/r")).json()["last_seq"] < 32:  # accepted by the store
        await asyncio.sleep(0)
    joining = asyncio.create_task(client.get("/ag-ui", params={"runId": "r", "join": "snapshot"}))
    while not client._transport.app.state.streams.open:  # type: ignore[attr-defined]  # the app behind the client
        await asyncio.sleep(0)
    agent.let(21)
    response = await joining
    raw = frames(response.content)
    seen = [event for event in map(_decoded, raw) if event is not None]
    check_order(seen)
    assert [type(event).__name__ for event in seen[:3]] == [
        "RunStartedEvent",
        "MessagesSnapshotEvent",
        "TextMessageStartEvent",
    ]
    snapshot = seen[1]
    assert isinstance(snapshot, MessagesSnapshotEvent)
    partial = _said(snapshot.messages)
    assert partial[:2] == ["before", "".join(f"{n} " for n in range(50))]
    assert partial[2] == "hi"
    assert partial[3] + text(seen) == "".join(f"{n} " for n in range(50))

    where = response.headers["content-location"]
    for position, frame in enumerate(raw[:-2], 1):
        tail = await client.get(where, headers={"last-event-id": frame.id})
        told = frames(tail.content)
        if position < 3:  # in the prefix: its other frames come as they were
            assert told[: 3 - position] == raw[position:3]
        events_after = [event for event in map(_decoded, told) if event is not None]
        before = [event for event in map(_decoded, raw[:position]) if event is not None]
        assert partial[3] + text(before) + text(events_after) == "".join(f"{n} " for n in range(50))


async def test_a_late_joins_snapshot_has_no_character_that_a_line_reader_takes_for_a_lines_end(
    client: httpx2.AsyncClient,
):
    said = "a\u2028b\u2029c\x85d"
    await client.post("/ag-ui", json=body("r", said))
    stream = (await client.get("/ag-ui", params={"runId": "r", "join": "snapshot"})).content
    assert stream.decode().splitlines() == stream.decode().split("\n")[:-1]
    snapshot = next(event for event in map(_decoded, frames(stream)) if isinstance(event, MessagesSnapshotEvent))
    assert _said(snapshot.messages) == [said, f"you said {said}"]


async def test_a_late_join_of_a_run_that_is_over(client: httpx2.AsyncClient):
    await client.post("/ag-ui", json=body("r", "hi"))
    response = await client.get("/ag-ui", params={"runId": "r", "join": "snapshot"})
    seen = [event for event in map(_decoded, frames(response.content)) if event is not None]
    check_order(seen)
    assert [type(event).__name__ for event in seen] == [
        "RunStartedEvent",
        "MessagesSnapshotEvent",
        "RunFinishedEvent",
    ]
    assert isinstance(seen[1], MessagesSnapshotEvent)
    assert _said(seen[1].messages) == ["hi", "you said hi"]


async def test_nobody_uses_anothers_run(client_of: Callable[..., Any]):
    users = {"a": "alice", "b": "bob"}
    runner = Runner(rich)
    options = {"authenticate": lambda request: users.get(request.headers.get("x-user", ""))}
    alice = await client_of(runner, headers={"x-user": "a"}, **options)
    bob = await client_of(runner, headers={"x-user": "b"}, **options)
    stranger = await client_of(runner, **options)
    asked = await ask(alice, "secret-run", "approve")
    assert isinstance(asked[-1], RunFinishedEvent)
    assert isinstance(asked[-1].outcome, RunFinishedInterruptOutcome)
    entry = {"interruptId": asked[-1].outcome.interrupts[0].id, "status": "cancelled"}
    for client, status in ((bob, 404), (stranger, 401)):
        assert (await client.get("/ag-ui", params={"runId": "secret-run"})).status_code == status
        assert (await client.get("/ag-ui", params={"runId": "secret-run", "join": "snapshot"})).status_code == status
        taken = await client.post("/ag-ui", json=body("secret-run", "approve"))
        assert taken.status_code == (409 if status == 404 else status)
        assert (await client.post("/ag-ui", json=body("r2", "hi"))).status_code == status
        page = await client.get("/ag-ui", params={"threadId": "t"})
        assert page.status_code == (200 if status == 404 else status)
        assert "secret-run" not in page.text
        assert "approve" not in page.text
        answer = await client.post("/ag-ui", json=body("r3", "approve", resume=[entry]))
        assert answer.status_code == (422 if status == 404 else status)
        assert "secret-run" not in answer.text
    assert (await alice.get("/runs/secret-run")).json()["status"] == "waiting"
    assert (await alice.get("/ag-ui", params={"threadId": "t"})).json()["interrupts"]["runId"] == "secret-run"


def _decoded(frame: Frame) -> Event | None:
    return decode_event(frame.data.encode()) if frame.data else None


def _said(messages: list[Message]) -> list[str]:
    return [text_of(message.content) for message in messages]
