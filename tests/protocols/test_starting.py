"""What holds on every route that starts a run: the same request is one run, and one that is refused is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from gapless import Limits, NotifyConfig, RunConfig, Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.events import Interrupt, ToolCallEndEvent, ToolCallStartEvent
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from tests.support.receiver import SECRET, Receiver

RESPONSE = {
    "input": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "?"}]
}
STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("/runs", {"message": "?", "session_id": "s", "run_id": "r"}),
    "chat": ("/chat/stream", {"query": "?", "session_id": "s", "run_id": "r"}),
    "ag-ui": ("/ag-ui", {"threadId": "s", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "?"}]}),
    "vercel": (
        "/vercel/chat",
        {"id": "s", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "?"}]}]},
    ),
    "adk": (
        "/run_sse",
        {"userId": "anonymous", "sessionId": "s", "newMessage": {"parts": [{"text": "?"}]}, "stateDelta": {"a": 1}},
    ),
    "completion": ("/v1/chat/completions", {"stream": True, "messages": [{"role": "user", "content": "?"}]}),
    "response": ("/v1/responses", {"stream": True, **RESPONSE}),
    "conversation": ("/v1/responses", {"stream": True, "conversation": "s", **RESPONSE}),
    "instructed": ("/v1/responses", {"stream": True, "conversation": "s", "instructions": "Be nice.", "input": "?"}),
    "previous": ("/v1/responses", {"stream": True, "previous_response_id": "resp_first", "input": "?"}),
}
"""By name: path and body of a request that starts the run `r`, with the header `x-run-id: r`."""
OTHERS: dict[str, dict[str, Any]] = {
    "runs": {"message": "!"},
    "chat": {"query": "!"},
    "ag-ui": {"messages": [{"id": "m", "role": "user", "content": "!"}]},
    "vercel": {"messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "!"}]}]},
    "adk": {"stateDelta": {"a": 2}},
    "completion": {"messages": [{"role": "user", "content": "!"}]},
    "response": {"instructions": "Be short."},
    "conversation": {"input": "?"},
    "instructed": {"instructions": "Be short."},
    "previous": {"previous_response_id": None},
}
"""What another request under the same id says differently."""


class Counting:
    """Repeats what it is told, and counts how often it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        self.runs += 1
        yield f"you said {ctx.message}"


async def post(client: httpx2.AsyncClient, name: str, query: str = "", /, **headers: str) -> httpx2.Response:
    path, body = STARTS[name]
    return await send(client, path + query, body, **headers)


async def send(client: httpx2.AsyncClient, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return await client.post(path, json=body, headers={"x-run-id": "r", "accept": "text/event-stream"} | headers)


async def prepare(client: httpx2.AsyncClient) -> None:
    """The session that ADK's route wants, and the response that one goes on from."""
    await client.post("/apps/counting/users/anonymous/sessions/s")
    await client.post("/v1/responses", json={"input": "first"}, headers={"x-run-id": "first"})


@pytest.mark.parametrize("name", STARTS)
async def test_the_same_request_is_one_run_also_when_that_has_ended(name: str, client_of: Callable[..., Any]):
    agent = Counting()
    client = await client_of(Runner(agent))
    await prepare(client)
    before = agent.runs
    first = await post(client, name)
    again = await post(client, name)
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert first.headers["x-run-id"] == again.headers["x-run-id"] == "r"
    assert b"you said" in again.content
    path, body = STARTS[name]
    other = await send(client, path, body | OTHERS[name])
    assert (other.status_code, other.json()["error"]["code"]) == (409, "run_conflict")
    assert agent.runs == before + 1


@pytest.mark.parametrize("name", STARTS)
async def test_also_when_it_comes_again_after_the_operator_has_set_something_else(
    name: str, client_of: Callable[..., Any]
):
    agent, memory = Counting(), Memory()
    runners = [Runner(agent, store=MemoryStore(memory), config=RunConfig(timeout=timeout)) for timeout in (30, 60)]
    old, new = [await client_of(runner) for runner in runners]
    await prepare(old)
    before = agent.runs
    first = await post(old, name)
    again = await post(new, name)
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert agent.runs == before + 1


@pytest.mark.parametrize("name", STARTS)
async def test_it_names_by_a_header_who_is_told_of_the_run(name: str, client_of: Callable[..., Any]):
    async with Receiver() as receiver:
        runner = Runner(Counting(), notify=NotifyConfig(http=True, private=True))
        client = await client_of(runner)
        await prepare(client)
        webhook = {"url": receiver.url, "secret": SECRET}
        told = {"x-notify": json.dumps(webhook)}
        started = await post(client, name, **told)
        again = await post(client, name, **told)
        assert (started.status_code, again.status_code) == (200, 200), again.text
        await receiver.until(1)
        await runner.worker.deliveries.settled()
        (notice,) = (await client.get("/runs/r/notices")).json()["notices"]
        assert (notice["type"], notice["status"]) == ("run.finished", "delivered")
        assert (receiver.unverified, len(receiver.received)) == (0, 1)


@pytest.mark.parametrize("name", STARTS)
async def test_a_header_that_names_nobody_who_may_be_told_starts_nothing(name: str, client_of: Callable[..., Any]):
    agent = Counting()
    open_to_all = await client_of(Runner(agent))
    closed = await client_of(Runner(agent, notify=NotifyConfig(secret=SECRET, clients=False)))
    for client in (open_to_all, closed):
        await prepare(client)
    before = agent.runs
    for notify, said in (
        ("https://127.0.0.1/", "no public address"),
        ("https://hooks.example.com/", "whsec_"),
        ('{"url": 1}', "notify"),
        ('{"url": ', "X-Notify"),
        ("", "url"),
    ):
        refused = await post(open_to_all, name, **{"x-notify": notify})
        assert refused.status_code in (400, 422), notify
        assert said in refused.json()["error"]["message"], notify
        assert (await open_to_all.get("/runs/r")).status_code == 404
    path, body = STARTS[name]
    two = [("x-run-id", "r"), ("x-notify", "https://a.example.com/"), ("x-notify", "https://b.example.com/")]
    refused = await open_to_all.post(path, json=body, headers=two)
    assert "X-Notify: one webhook" in refused.json()["error"]["message"]
    refused = await post(closed, name, **{"x-notify": "https://hooks.example.com/"})
    assert refused.status_code in (400, 422)
    assert "the operator's" in refused.json()["error"]["message"]
    assert agent.runs == before


class LateStore(MemoryStore):
    """Does not know a run when it is first asked for it, as if another request started it at that moment."""

    late = ""

    async def get_run(self, run_id: str) -> RunRecord | None:
        if run_id == self.late:
            self.late = ""
            return None
        return await super().get_run(run_id)


@pytest.mark.parametrize("name", STARTS)
async def test_a_request_that_comes_while_the_same_is_answered_is_one_run(name: str, client_of: Callable[..., Any]):
    agent, store = Counting(), LateStore(Memory())
    client = await client_of(Runner(agent, store=store))
    await prepare(client)
    before = agent.runs
    await post(client, name)
    store.late = "r"
    again = await post(client, name)
    assert (again.status_code, again.headers["x-run-id"]) == (200, "r"), again.text
    assert agent.runs == before + 1


@pytest.mark.parametrize("chosen", [True, False], ids=["id chosen", "no id"])
@pytest.mark.parametrize(
    ("query", "headers"),
    [("?after=junk", {}), ("?after=5", {}), ("", {"last-event-id": "junk"}), ("", {"last-event-id": "1.2"})],
)
@pytest.mark.parametrize("name", STARTS)
async def test_a_start_that_is_refused_runs_nothing(
    name: str, query: str, headers: dict[str, str], chosen: bool, client_of: Callable[..., Any]
):
    agent = Counting()
    client = await client_of(Runner(agent))
    await prepare(client)
    before = agent.runs
    path, body = STARTS[name]
    headers = {"accept": "text/event-stream", **headers}
    if chosen:
        headers["x-run-id"] = "r"
    else:
        body = {key: value for key, value in body.items() if key != "run_id"}
    refused = await client.post(path + query, json=body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cursor_invalid"), refused.text
    runs = (await client.get("/runs")).json()["runs"]
    assert [run["id"] for run in runs] == ["first"]
    assert agent.runs == before


@pytest.mark.parametrize(("name", "query"), [("runs", "?wire=nope"), ("ag-ui", "?offset=junk"), ("ag-ui", "?offset=5")])
async def test_nor_does_one_that_asks_for_what_there_is_not(name: str, query: str, client_of: Callable[..., Any]):
    client = await client_of(Runner(Counting()))
    assert (await post(client, name, query)).status_code in (400, 422)
    assert (await client.get("/runs")).json()["runs"] == []


# ------------------------------------------------------------------------------------------------------------- answers


async def asks(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    yield ToolCallStartEvent(tool_call_id="c", tool_call_name="fire")
    yield ToolCallEndEvent(tool_call_id="c")
    (answer,) = await ctx.interrupt([Interrupt(id="i", reason="approval", tool_call_id="c")])
    yield f"answered {str(answer.payload)[:40]}"


def _approval(reason: Any) -> dict[str, Any]:
    approval = {"id": "i", "approved": True, "reason": reason}
    return {"type": "tool-fire", "toolCallId": "c", "state": "approval-responded", "input": {}, "approval": approval}


def _response(payload: Any) -> dict[str, Any]:
    return {"functionResponse": {"id": "i", "name": "fire", "response": {"said": payload}}}


ANSWERS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "runs": ("/runs/r/input", lambda p: {"resume": [{"interruptId": "i", "status": "resolved", "payload": p}]}),
    "ag-ui": (
        "/ag-ui",
        lambda p: {
            "threadId": "s",
            "runId": "r2",
            "messages": [],
            "resume": [{"interruptId": "i", "status": "resolved", "payload": p}],
        },
    ),
    "vercel": (
        "/vercel/chat",
        lambda p: {"id": "s", "messages": [{"id": "a", "role": "assistant", "parts": [_approval(p)]}]},
    ),
    "adk": ("/run_sse", lambda p: {"userId": "anonymous", "sessionId": "s", "newMessage": {"parts": [_response(p)]}}),
    "adk-run": ("/run", lambda p: {"userId": "anonymous", "sessionId": "s", "newMessage": {"parts": [_response(p)]}}),
}
"""By name: path and body, for what is said, of a request that answers the run `r`."""


async def waiting(client_of: Callable[..., Any], **options: Any) -> tuple[Runner, httpx2.AsyncClient]:
    """A runner and its client, when the run `r` waits for an answer."""
    runner = Runner(asks, **options)
    client = await client_of(runner)
    await client.post("/apps/asks/users/anonymous/sessions/s")
    run = await runner.start("?", run_id="r", session_id="s", config=RunConfig(on_busy="queue"))
    while (await run.record()).status is not RunStatus.WAITING:
        await asyncio.sleep(0)
    return runner, client


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("said", ["x" * 5000, "\u2028" * 800, nested(97)], ids=["long", "long once escaped", "deep"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_cannot_be_recorded_is_refused_and_may_be_given_again(
    name: str, said: Any, client_of: Callable[..., Any]
):
    runner, client = await waiting(client_of, limits=Limits(event_bytes_max=4096))
    path, body = ANSWERS[name]
    refused = await client.post(path, json=body(said))
    assert refused.status_code in (413, 422), refused.text
    assert (await runner.get_run("r")).status is RunStatus.WAITING
    taken = await client.post(path, json=body("yes"))
    assert taken.status_code in (200, 202), taken.text
    assert (await (await runner.attach("r")).wait()).status is RunStatus.FINISHED


@pytest.mark.parametrize(
    ("query", "headers"), [("?after=junk", {}), ("?after=99", {}), ("", {"last-event-id": "r:junk"})]
)
@pytest.mark.parametrize("name", ["ag-ui", "vercel", "adk"])
async def test_an_answer_with_a_cursor_that_is_none_is_not_taken(
    name: str, query: str, headers: dict[str, str], client_of: Callable[..., Any]
):
    runner, client = await waiting(client_of)
    path, body = ANSWERS[name]
    refused = await client.post(path + query, json=body("yes"), headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cursor_invalid"), refused.text
    assert (await runner.get_run("r")).status is RunStatus.WAITING


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_to_a_run_that_was_cancelled_while_it_waited_says_so(name: str, client_of: Callable[..., Any]):
    runner, client = await waiting(client_of)
    await runner.cancel("r")
    await (await runner.attach("r")).wait()
    path, body = ANSWERS[name]
    late = await client.post(path, json=body("yes"))
    assert (late.status_code, "is cancelled" in late.json()["error"]["message"]) == (422, True), late.text


async def test_an_answer_finds_its_place_where_the_same_was_asked_before(client_of: Callable[..., Any]):
    async def asks_twice(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
        for _ in range(2):
            (entry,) = await ctx.interrupt([Interrupt(id="i", reason="approval")])
            yield f"answered {entry.payload}"

    runner = Runner(asks_twice)
    client = await client_of(runner)
    await runner.start("?", run_id="r", session_id="s")
    path, body = ANSWERS["ag-ui"]
    for said in ("one", "two"):
        while (await runner.get_run("r")).status is not RunStatus.WAITING:
            await asyncio.sleep(0)
        first = await client.post(path, json=body(said))
    again = await client.post(path, json=body("two"))
    assert (again.status_code, again.content) == (200, first.content)
    assert b"answered two" in again.content
    other = await client.post(path, json=body("three"))
    assert (other.status_code, "another answer" in other.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize("name", ["ag-ui", "vercel", "adk", "adk-run"])
async def test_of_two_who_answer_at_the_same_instant_one_hears_that_the_other_did(
    name: str, client_of: Callable[..., Any]
):
    _, client = await waiting(client_of)
    path, body = ANSWERS[name]
    answers = await asyncio.gather(*(client.post(path, json=body(said)) for said in ("yes", "no")))
    taken, late = sorted(answers, key=lambda one: one.status_code)
    assert taken.status_code == 200
    assert (late.status_code, "another answer" in late.json()["error"]["message"]) == (422, True)


NAMES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "header": ("", {"x-run-id": "mine"}, {}),
    "key": ("", {"idempotency-key": "mine"}, {}),
    "query": ("?run_id=mine", {}, {}),
    "query, AG-UI's spelling": ("?runId=mine", {}, {}),
    "body": ("", {}, {"run_id": "mine"}),
    "body, AG-UI's spelling": ("", {}, {"runId": "mine"}),
}
"""By what a durable client takes a request for one that may be repeated: query, headers, more of the body."""


@pytest.mark.parametrize("naming", NAMES)
@pytest.mark.parametrize("name", STARTS)
async def test_a_request_that_durable_clients_repeat_is_one_run(name: str, naming: str, client_of: Callable[..., Any]):
    agent = Counting()
    client = await client_of(Runner(agent))
    await prepare(client)
    before = agent.runs
    path, body = STARTS[name]
    query, headers, more = NAMES[naming]
    body = {key: value for key, value in body.items() if key != "run_id"} | more
    for _ in range(2):
        answer = await client.post(path + query, json=body, headers={"accept": "text/event-stream", **headers})
    if answer.status_code == 422:  # it is no part of this route's body, and so runs nothing
        assert more
    assert agent.runs == before + (answer.status_code == 200)
