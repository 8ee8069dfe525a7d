"""The AI SDK's endpoints, as its transport sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from gapless import LiveRequest, RunConfig, Runner, StreamingMode
from gapless.agents.base import RunContext
from gapless.events import text_of
from gapless.journals.memory import Memory, MemoryStore
from tests.support.agents import Gated
from tests.support.rich import CLOSING, rich
from tests.support.sse import frames


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


async def test_a_new_page_gets_the_answer_that_is_coming_and_no_other(
    client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.protocols.vercel.routes.REPLAYED_S", 0)
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


async def test_a_page_that_missed_the_end_by_a_moment_gets_the_answer(client_of: Callable[..., Any]):
    """One that loaded the chat before the end; or that had begun to replay the answer, which empties its message."""
    runner = Runner(agents={"a": (agent := Gated("one ", "two")), "b": rich})
    client = await client_of(runner)
    await client.post("/runs", json={"message": "hi", "session_id": "c", "agent": "a"})
    agent.let()
    await agent.waits_for(1)
    before = await loaded(client)
    agent.let(2)
    await runner.readers.wait(before["activeRunId"])
    late = await client.get("/vercel/chat/c/stream")
    assert (text(late), chunks(late)[0]["messageId"]) == ("one two", before["activeRunId"])
    assert chunks(late)[0]["messageId"] == (await loaded(client))["messages"][-1]["id"], "in the place of what it has"
    await client.post("/vercel/chat", json=alone(message("client-tool"), agent="b"))
    asked = (await loaded(client))["messages"][-1]
    asked["parts"][-1] |= {"state": "output-available", "output": 7}
    await client.post("/vercel/chat", json=alone(asked, agent="b"))
    assert (await client.get("/vercel/chat/c/stream")).status_code == 204, "the page has it as part of a message"


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


def alone(one: dict[str, Any], how: str = "messages", **more: Any) -> dict[str, Any]:
    """A request of a page that sends its last message only, and knows no others or keeps them for itself."""
    return {"id": "c", "trigger": "submit-message", **more} | {how: [one] if how == "messages" else one}


def histories(agent: Listener) -> list[list[str]]:
    return [[text_of(one.content) for one in ctx.messages if text_of(one.content)] for ctx in agent.seen]


@pytest.mark.parametrize("how", ["messages", "message"])
async def test_a_message_alone_is_asked_after_what_the_chat_has_said(client_of: Callable[..., Any], how: str):
    agent = Listener()
    client = await client_of(Runner(agent))
    first = {"headers": {"x-run-id": "first"}, "json": alone(message("one"), how)}
    second = {"headers": {"x-run-id": "second"}, "json": alone(message("two"), how)}
    for request in (first, second, first, second):
        assert (await client.post("/vercel/chat", **request)).headers["x-run-id"] == request["headers"]["x-run-id"]
    assert histories(agent) == [["one"], ["one", "heard one", "two"]]
    assert (agent.seen[1].messages[0].metadata or {}).get("run_id") == "first", "the session's own messages"


async def test_what_was_asked_again_does_not_come_back(client_of: Callable[..., Any]):
    agent = Listener()
    client = await client_of(Runner(agent))
    one, two = message("one", id="1"), message("two", id="2")
    for request in (
        alone(one),
        alone(two),
        alone(two, trigger="regenerate-message"),
        alone(message("three", id="3")),
        alone(message("zwei", id="2"), messageId="2"),
        alone(one, trigger="regenerate-message", messageId="an answer's"),
        alone(two),
        alone(message("uno", id="1"), messageId="1"),
        alone(message("eins", id="another"), messageId="1"),
        alone(two),
        alone(message("un", id="1"), "message"),
    ):
        await client.post("/vercel/chat", json=request)
    assert histories(agent) == [
        ["one"],
        ["one", "heard one", "two"],
        ["one", "heard one", "two"],
        ["one", "heard one", "two", "heard two", "three"],
        ["one", "heard one", "zwei"],
        ["one"],
        ["one", "heard one", "two"],
        ["uno"],
        ["eins"],
        ["eins", "heard eins", "two"],
        ["un"],
    ]


@pytest.mark.parametrize("edited", [False, True])
async def test_an_answer_that_is_dropped_while_it_comes_does_not_come_back(client_of: Callable[..., Any], edited: bool):
    agent = Listener()
    coming = Gated("dropped ", "for good")
    client = await client_of(Runner(agents={"a": agent, "b": coming}))
    kept = [message("one"), message("heard one", "assistant")]
    await client.post("/vercel/chat", json=body(message("one"), agent="a"))
    asked = {"input": message("two", id="2"), "again": message("zwei" if edited else "two", id="2")}
    how = {"trigger": "submit-message", "messageId": "2"} if edited else {"trigger": "regenerate-message"}
    for again in ([asked["again"]], [*kept, asked["again"]]):
        streaming = asyncio.create_task(client.post("/vercel/chat", json=body(*kept, asked["input"], agent="b")))
        await coming.started.wait()
        coming.started.clear()
        coming.let()
        await coming.waits_for(1)
        response = await client.post("/vercel/chat", json=body(*again, agent="a") | how)
        assert text(response) == f"heard {'zwei' if edited else 'two'}"
        assert chunks(await streaming)[-1] == {"type": "abort", "reason": "cancelled"}
    assert histories(agent)[1:] == [["one", "heard one", "zwei" if edited else "two"]] * 2


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


async def loaded(client: httpx2.AsyncClient, chat: str = "c") -> dict[str, Any]:
    response = await client.get(f"/vercel/chat/{chat}/messages")
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    told: dict[str, Any] = response.json()
    return told


def spoken(told: dict[str, Any]) -> list[str]:
    return ["".join(part.get("text", "") for part in one["parts"]) for one in told["messages"]]


async def test_a_page_loads_the_chat(client_of: Callable[..., Any]):
    client = await client_of(Runner(Listener()))
    files = [{"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAEC", "filename": "a.png"}]
    asked = {"id": "1", "role": "user", "parts": [*files, {"type": "text", "text": "see"}]}
    run_id = (await client.post("/vercel/chat", json=body(asked))).headers["x-run-id"]
    (heard,) = [part for part in (await loaded(client))["messages"][1]["parts"] if part["type"] == "text"]
    answer = {
        "id": run_id,
        "role": "assistant",
        "parts": [{"type": "step-start"}, {"type": "text", "text": heard["text"], "state": "done"}],
        "metadata": {"runId": run_id, "sessionId": "c"},
    }
    assert await loaded(client) == {"messages": [asked, answer], "activeRunId": None}
    await client.post("/vercel/chat", json=alone(message("again", id="1"), messageId="1"))
    assert spoken(await loaded(client)) == ["again", "heard again"]


async def test_a_page_loads_in_the_middle_of_an_answer(client_of: Callable[..., Any]):
    agent = Gated("one ", "two")
    client = await client_of(Runner(agents={"a": Listener(), "b": agent}))
    await client.post("/vercel/chat", json=body(message("hi", id="1"), agent="a"))
    run = asyncio.create_task(
        client.post("/vercel/chat", json=body(message("hi", id="1"), agent="b", trigger="regenerate-message"))
    )
    agent.let()
    await agent.waits_for(1)
    told = await loaded(client)
    assert (spoken(told), told["activeRunId"]) == (["hi"], (await client.get("/runs")).json()["runs"][0]["id"])
    agent.let(2)
    streamed = await client.get("/vercel/chat/c/stream")
    assert (text(streamed), chunks(streamed)[0]["messageId"]) == ("one two", told["activeRunId"])
    await run
    told = await loaded(client)
    assert (spoken(told), told["activeRunId"]) == (["hi", "one two"], None)


async def test_what_the_clients_tools_came_to_is_kept(client_of: Callable[..., Any]):
    """Also for a page that sends its last message alone, and for one that joins the run that goes on from them."""
    runner = Runner(agents={"a": rich, "b": (listener := Listener()), "c": (gated := Gated("there"))})
    client = await client_of(runner)
    await client.post("/vercel/chat", json=alone(message("client-tool"), agent="a"))
    asked, calling = (await loaded(client))["messages"]
    assert calling["parts"][-1]["state"] == "input-available"
    done = {**calling["parts"][-1], "state": "output-available", "output": {"at": 7}}
    calling["parts"][-1] = done
    going_on = asyncio.create_task(client.post("/vercel/chat", json=alone(calling, agent="c", messageId=calling["id"])))
    await gated.started.wait()
    told = await loaded(client)
    assert told["messages"] == [asked, calling]
    gated.let(2)
    joined = chunks(await client.get("/vercel/chat/c/stream"))
    assert joined[0]["messageId"] == told["activeRunId"], "not the message that it would take the place of"
    assert chunks(await going_on)[0]["messageId"] == calling["id"]
    told = await loaded(client)
    assert told["messages"][1]["parts"][: len(calling["parts"])] == calling["parts"]
    assert spoken(told) == ["client-tool", "Where are you? there"]
    again = {"headers": {"x-run-id": "again"}, "json": alone(calling, agent="b")}
    first, second = [await client.post("/vercel/chat", **again) for _ in range(2)]
    assert first.headers["x-run-id"] == second.headers["x-run-id"] == "again"
    await client.post("/vercel/chat", json=alone(message("and now"), agent="b"))
    said = ["client-tool", "Where are you? ", '{"at":7}']
    assert histories(listener) == [said, [*said, "heard ", "and now"]], (
        "the second answer has taken the first one's place"
    )
    assert done in (await loaded(client))["messages"][1]["parts"]


@pytest.mark.parametrize("lost", ["past their retention", "of another version"])
async def test_a_chat_whose_events_are_lost_is_loaded_from_the_session(client_of: Callable[..., Any], lost: str):
    runner = Runner(rich, store=MemoryStore(memory := Memory()))
    client = await client_of(runner)
    for what in ("rich", "error", "client-tool"):
        await client.post("/vercel/chat", json=alone(message(what)))
    whole = await loaded(client)
    if lost == "past their retention":
        await runner.store.expire(2**60)
    for events in memory.events.values():
        events[5:6] = [b'{"type":"OF_ANOTHER_VERSION"}']
    told = await loaded(client)
    assert told["activeRunId"] is None
    for kept, was in zip(told["messages"], whole["messages"], strict=True):
        parts = [part for part in was["parts"] if part["type"].partition("-")[0] not in ("data", "source")]
        assert [part for part in kept["parts"] if part["type"] != "data-activity"] == parts
        expected = {key: value for key, value in (was.get("metadata") or {}).items() if key != "usage"}
        assert (kept["id"], kept.get("metadata") or {}) == (was["id"], expected)


async def test_a_run_that_goes_on_while_its_chat_is_loaded_is_shown_as_it_waited(
    client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    runner = Runner(rich)
    client = await client_of(runner)
    asked, _ = await approval(client)
    waiting, shown = await runner.current_run("c"), await loaded(client)
    assert shown["messages"][1]["parts"][-1]["state"] == "approval-requested"
    await client.post("/vercel/chat", json=alone(answered(asked, approved=True)))
    monkeypatch.setattr(runner, "current_run", lambda chat_id: asyncio.sleep(0, waiting))
    monkeypatch.setattr(runner.store, "turns", lambda chat_id: asyncio.sleep(0, []))
    assert await loaded(client) == shown


async def test_the_newest_turns_are_loaded(client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.protocols.vercel.routes.TURNS_SHOWN_MAX", 2)
    client = await client_of(Runner(Listener()))
    for what in "abc":
        await client.post("/vercel/chat", json=alone(message(what)))
    assert spoken(await loaded(client)) == ["b", "heard b", "c", "heard c"]


async def test_nobody_loads_anothers_chat(client_of: Callable[..., Any]):
    runner = Runner(Listener())
    options = {"authenticate": lambda request: request.headers.get("x-user")}
    alice, bob, nobody = [
        await client_of(runner, headers=who, **options) for who in ({"x-user": "a"}, {"x-user": "b"}, {})
    ]
    await alice.post("/vercel/chat", json=alone(message("mine")))
    assert spoken(await loaded(alice)) == ["mine", "heard mine"]
    assert (await nobody.get("/vercel/chat/c/messages")).status_code == 401
    for client, chat in ((bob, "c"), (bob, "x"), (alice, "none")):
        assert await loaded(client, chat) == {"messages": [], "activeRunId": None}


async def test_a_chat_that_was_live_for_a_while_is_loaded_as_it_was_said(client_of: Callable[..., Any]):
    async def parrot(ctx: RunContext) -> AsyncIterator[str]:
        yield "Welcome. "
        async for request in ctx.live:
            yield f"You said {request.content}. "

    runner = Runner(agents={"parrot": parrot, "echo": lambda message: f"Echo of {message}"})
    client = await client_of(runner)
    live = RunConfig(streaming_mode=StreamingMode.BIDI)
    run = await runner.start("", agent="parrot", session_id="c", config=live)
    for said in ("one", "two"):
        await run.send(said)
    await run.send(LiveRequest(close=True))
    await run.wait()
    await (await runner.start("three", agent="echo", session_id="c")).wait()
    messages = (await client.get("/vercel/chat/c/messages")).json()["messages"]
    assert [(m["role"], "".join(part.get("text", "") for part in m["parts"])) for m in messages] == [
        ("assistant", "Welcome. "),
        ("user", "one"),
        ("assistant", "You said one. "),
        ("user", "two"),
        ("assistant", "You said two. "),
        ("user", "three"),
        ("assistant", "Echo of three"),
    ]
    assert len({m["id"] for m in messages}) == len(messages)
