"""The routes of ADK's server: its own client, and the same agents on its own server, as the measure."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import httpx2
import pytest
import websockets
from google.adk.agents import BaseAgent, LlmAgent, ParallelAgent, SequentialAgent
from google.adk.agents.readonly_context import ReadonlyContext
from google.adk.cli.api_server import RunAgentRequest
from google.adk.cli.conformance.adk_web_server_client import AdkWebServerClient
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
from google.adk.events import Event as ADKEvent
from google.adk.sessions import InMemorySessionService, Session
from google.adk.tools import FunctionTool, LongRunningFunctionTool, ToolContext
from google.genai import types
from websockets.asyncio.client import connect

from gapless import RunConfig, Runner, create_app
from gapless.agents.base import RunContext
from gapless.events import Interrupt, ToolCallArgsEvent, ToolCallResultEvent, ToolCallStartEvent
from gapless.testing import adk_model, serving
from tests.support.adk import Call, Raises, Scripted, Thought
from tests.support.sse import Frame, frames
from tests.support.waiting import WAIT_S

Client = httpx2.AsyncClient
ClientOf = Callable[..., Any]


def body(app: str, message: str | list[dict[str, Any]] = "hi", **fields: Any) -> dict[str, Any]:
    parts = [{"text": message}] if isinstance(message, str) else message
    content = {"role": "user", "parts": parts}
    return {"appName": app, "userId": "u", "sessionId": "s", "newMessage": content, "streaming": True, **fields}


async def session(client: Client, app: str, user: str = "u", id: str = "s", **options: Any) -> None:
    response = await client.post(f"/apps/{app}/users/{user}/sessions/{id}", **options)
    assert response.status_code == 200, response.text


async def run_sse(client: Client, request: dict[str, Any], **options: Any) -> tuple[httpx2.Response, list[Frame]]:
    response = await client.post("/run_sse", json=request, **options)
    assert response.status_code == 200, response.text
    got = frames(response.content)
    assert got[-1].event == "end"
    return response, got[:-1]


def documents(got: list[Frame]) -> list[dict[str, Any]]:
    """The frames' events; each is one that ADK's own model reads, and nothing in it goes unread."""
    found = [json.loads(frame.data) for frame in got]
    for document in found:
        if "error" not in document:
            event = ADKEvent.model_validate(document)
            again = event.model_dump(by_alias=True, exclude_none=True, mode="json")
            assert again == document
    return found


def text_of(events: list[dict[str, Any]], *, partial: bool) -> str:
    return "".join(
        part.get("text", "")
        for event in events
        if bool(event.get("partial")) is partial
        for part in event.get("content", {}).get("parts", [])
        if not part.get("thought")
    )


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


def remember(tool_context: ToolContext) -> str:
    """Remembers."""
    tool_context.state["x"] = 1
    return "ok"


def file_claim() -> dict[str, str]:
    """Files."""
    return {"status": "pending"}


USAGE = types.GenerateContentResponseUsageMetadata(prompt_token_count=3, candidates_token_count=4, total_token_count=7)
AGENTS: dict[str, Callable[[], BaseAgent]] = {
    "plain": lambda: LlmAgent(
        name="plain", model=Scripted([Thought("hm "), Thought("ok"), "Hello ", "thëre 🦉\n"], usage=USAGE)
    ),
    "tools": lambda: LlmAgent(
        name="tools",
        model=Scripted(["I add. ", Call("add", {"a": 1, "b": 2}, id="c1")], ["It ", "is 3."]),
        tools=[add],
    ),
    "state": lambda: LlmAgent(
        name="state", model=Scripted([Call("remember", {}, id="c1")], ["Done."]), tools=[remember]
    ),
    "transfer": lambda: LlmAgent(
        name="transfer",
        model=Scripted([Call("transfer_to_agent", {"agent_name": "w"}, id="c1")]),
        sub_agents=[LlmAgent(name="w", description="w", model=Scripted(["Sun", "ny"]))],
    ),
    "sequence": lambda: SequentialAgent(
        name="sequence",
        sub_agents=[
            LlmAgent(name="one", model=Scripted(["First, ", "this."], usage=USAGE), output_key="said"),
            LlmAgent(name="two", model=Scripted([Call("add", {"a": 1, "b": 2}, id="c1")], ["Then that."]), tools=[add]),
        ],
    ),
    "parallel": lambda: ParallelAgent(
        name="parallel",
        sub_agents=[
            LlmAgent(name="left", model=Scripted(["L1 ", "L2 ", "L3"])),
            LlmAgent(
                name="right", model=Scripted(["R1 ", Call("add", {"a": 1, "b": 2}, id="c1")], ["R2"]), tools=[add]
            ),
        ],
    ),
    "waiting": lambda: LlmAgent(
        name="waiting",
        model=Scripted(["One moment. ", Call("file_claim", {}, id="c1")], ["Filed."]),
        tools=[LongRunningFunctionTool(file_claim)],
    ),
    "asking": lambda: LlmAgent(
        name="asking",
        model=Scripted(["May I? ", Call("add", {"a": 1, "b": 2}, id="c1")], ["Done."]),
        tools=[FunctionTool(add, require_confirmation=True)],
    ),
    "cut": lambda: LlmAgent(
        name="cut",
        model=Scripted(["Once upon"], finish_reason=types.FinishReason.MAX_TOKENS, error_code="MAX_TOKENS"),
    ),
}


SEVERAL = {"sequence", "parallel", "waiting", "asking"}
"""Agents of which ADK's server tells more than a journal has; the rest is the same."""


class Loader(BaseAgentLoader):
    def load_agent(self, agent_name: str) -> BaseAgent:
        return AGENTS[agent_name]()

    def list_agents(self) -> list[str]:
        return list(AGENTS)


@pytest.fixture
def adks_own() -> Any:
    """ADK's own server."""
    return get_fast_api_app(
        agents_dir=tempfile.mkdtemp(),
        agent_loader=Loader(),
        session_service_uri="memory://",
        artifact_service_uri="memory://",
        memory_service_uri="memory://",
        use_local_storage=False,
        web=False,
    )


VOLATILE = {"timestamp", "invocationId", "modelVersion", "nodeInfo", "errorCode"}
"""What cannot be the same; and `errorCode` beside a finish reason that says the same."""


def comparable(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what is random or only decoration: ids by order of appearance; partial function calls, which ADK says
    are not for display, left out; a call's own id kept."""
    ids: dict[str, int] = {}
    found = []
    for event in events:
        parts = event.get("content", {}).get("parts", [])
        if event.get("partial") and any("functionCall" in part for part in parts):
            continue
        kept = {key: value for key, value in event.items() if key not in VOLATILE}
        kept["id"] = ids.setdefault(event["id"], len(ids))
        found.append(kept)
    return json.loads(re.sub(r"adk-[0-9a-f-]{36}", "adk-some-id", json.dumps(found)))  # type: ignore[no-any-return]  # a list


def merged(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """State that ADK puts on a tool's response comes in an event after it."""
    found: list[dict[str, Any]] = []
    for event in events:
        if found and "content" not in event and event.get("actions", {}).get("stateDelta"):
            found[-1]["actions"]["stateDelta"] |= event["actions"]["stateDelta"]
        else:
            found.append(event)
    return found


def known_differences(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ADK's server says and the journal does not have: the branch of an agent that speaks beside others, the usage
    of each single model call, and what a call that waits for a person answers until then."""
    waiting: set[str] = set()
    found = []
    for event in events:
        for part in event.get("content", {}).get("parts", []):
            call = part.get("functionCall", {})
            waiting |= {call.get("args", {}).get("originalFunctionCall", {}).get("id")} - {None}
        waiting |= set(event.get("longRunningToolIds", ()))
        answers = {
            part["functionResponse"]["id"]
            for part in event.get("content", {}).get("parts", [])
            if "functionResponse" in part
        }
        if not answers & waiting:
            found.append({key: value for key, value in event.items() if key not in ("branch", "usageMetadata")})
    return found


def by_author(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Agents that speak at once do so in no order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(event["author"], []).append(event)
    return {author: comparable(theirs) for author, theirs in found.items()}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("app", list(AGENTS))
async def test_frames_are_those_of_adks_own_server(app: str, streaming: bool, adks_own: Any, client_of: ClientOf):
    transport = httpx2.ASGITransport(adks_own)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as theirs:
        await session(theirs, app)
        response = await theirs.post("/run_sse", json=body(app, streaming=streaming))
        expected = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    ours = await client_of(Runner(AGENTS[app]()))
    await session(ours, app)
    _, got = await run_sse(ours, body(app, streaming=streaming))
    found = documents(got)
    if app in SEVERAL:
        assert by_author(known_differences(merged(found))) == by_author(known_differences(merged(expected)))
        return
    assert comparable(merged(found)) == comparable(merged(expected))
    order = [list(event) for event in comparable(merged(found))]
    assert order == [list(event) for event in comparable(merged(expected))]


async def test_adks_own_client():
    runner = Runner(agents={name: make() for name, make in AGENTS.items()})
    with serving(create_app(runner)) as url:
        async with AdkWebServerClient(url) as client:
            assert (await client.get_version_data())["language"] == "python"
            made = await client.create_session(app_name="tools", user_id="u", state={"k": 1})
            request = RunAgentRequest(
                app_name="tools", user_id="u", session_id=made.id, new_message=types.UserContent("hi"), streaming=True
            )
            events = [event async for event in client.run_agent(request)]
            assert text_of([e.model_dump(by_alias=True, exclude_none=True) for e in events], partial=False) == (
                "I add. It is 3."
            )
            found = await client.get_session(app_name="tools", user_id="u", session_id=made.id)
            assert [event.author for event in found.events] == ["user", "tools", "tools", "tools"]
            assert found.events[-1].id == events[-1].id
            assert found.state == {"k": 1}
            where = {"app_name": "tools", "user_id": "u", "session_id": made.id}
            assert (await client.update_session(**where, state_delta={"n": 2})).state == {"k": 1, "n": 2}
            await client.delete_session(app_name="tools", user_id="u", session_id=made.id)
            with pytest.raises(httpx.HTTPStatusError):  # its own client is on httpx
                await client.get_session(app_name="tools", user_id="u", session_id=made.id)


# -- every kind of agent ------------------------------------------------------------------------------------------


async def poet(message: str, ctx: RunContext) -> AsyncIterator[Any]:
    yield "Roses "
    yield "are red. "
    yield ToolCallStartEvent(tool_call_id="c", tool_call_name="look")
    yield ToolCallArgsEvent(tool_call_id="c", delta='{"at":"violets"}')
    yield ToolCallResultEvent(message_id="r", tool_call_id="c", content="blue")
    yield "Violets are blue."


async def test_an_agent_of_any_kind(client_of: ClientOf):
    client = await client_of(Runner(poet))
    await session(client, "poet")
    _, got = await run_sse(client, body("poet"))
    events = documents(got)
    assert text_of(events, partial=True) == text_of(events, partial=False) == "Roses are red. Violets are blue."
    kinds = [
        "partial" if event.get("partial") else "+".join(next(iter(part)) for part in event["content"]["parts"])
        for event in events
    ]
    assert kinds == ["partial", "partial", "text+functionCall", "functionResponse", "partial", "text"]
    assert events[0]["id"] == events[2]["id"]
    assert {event["author"] for event in events} == {"poet"}
    shown = (await client.get("/apps/poet/users/u/sessions/s")).json()
    Session.model_validate(shown)
    assert [event["author"] for event in shown["events"]] == ["user", "poet", "poet", "poet"]
    assert shown["events"][2]["content"]["parts"][0]["functionResponse"] == {
        "id": "c",
        "name": "look",
        "response": {"result": "blue"},
    }


async def test_run_answers_with_all_events_at_once(client_of: ClientOf):
    client = await client_of(Runner(AGENTS["tools"]()))
    await session(client, "tools")
    response = await client.post("/run", json=body("tools"))
    events = response.json()
    assert [event.get("partial") for event in events] == [False, None, False]
    assert text_of(events, partial=False) == "I add. It is 3."


async def test_snake_case_and_media_are_understood(client_of: ClientOf):
    agent = LlmAgent(name="eyes", model=Scripted(["A cat."]))
    client = await client_of(Runner(agent))
    await session(client, "eyes")
    request = {
        "app_name": "eyes",
        "user_id": "u",
        "session_id": "s",
        "new_message": {"parts": [{"text": "what?"}, {"inline_data": {"mime_type": "image/png", "data": "-_8"}}]},
        "state_delta": {"seen_it": True},
    }
    assert (await client.post("/run", json=request)).status_code == 200
    (asked,) = agent.model.requests  # type: ignore[union-attr]  # the scripted one
    assert asked[0].parts[1].inline_data == types.Blob(data=b"\xfb\xff", mime_type="image/png")
    assert (await client.get("/apps/eyes/users/u/sessions/s")).json()["state"] == {"seen_it": True}


# -- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_resumed_after_any_frame_by_get_and_by_the_same_post(streaming: bool, client_of: ClientOf):
    client = await client_of(Runner(AGENTS["tools"]()))
    await session(client, "tools")
    request = body("tools", streaming=streaming)
    response, got = await run_sse(client, request)
    whole = response.content.split(b"\n\n")
    assert response.headers["content-location"].startswith("/apps/tools/users/u/runs/")
    for position, frame in enumerate(got[:-1], 1):
        headers = {"last-event-id": frame.id}
        rest = b"\n\n".join(whole[position:])
        location = response.headers["content-location"] + "&merge=0"
        assert (await client.get(location, headers=headers)).content == rest
        assert (await client.post("/run_sse?merge=0", json=request, headers=headers)).content == rest
    assert len((await client.get("/runs")).json()["runs"]) == 0  # another user's
    end = {"last-event-id": got[-1].id.partition(".")[0]}
    assert (await client.get(response.headers["content-location"], headers=end)).status_code in (200, 204)


async def test_another_wire_follows_the_run(client_of: ClientOf):
    client = await client_of(Runner(AGENTS["plain"]()))
    await session(client, "plain")
    _, got = await run_sse(client, body("plain"))
    path = f"/apps/plain/users/u/runs/{documents(got)[0]['invocationId']}/events"
    response = await client.get(path, params={"wire": "text"})
    assert response.headers["content-location"] == f"{path}?wire=text"
    said = [json.loads(frame.data) for frame in frames(response.content) if frame.data.startswith("{")]
    assert "".join(one["text"] for one in said) == "Hello thëre 🦉\n"
    assert (await client.get(path.replace("/u/", "/other/"), params={"wire": "text"})).status_code == 404


async def test_the_run_id_makes_the_start_repeatable(client_of: ClientOf):
    agent = AGENTS["plain"]()
    client = await client_of(Runner(agent))
    await session(client, "plain")
    first, _ = await run_sse(client, body("plain"), headers={"x-run-id": "mine"})
    second = await client.post("/run_sse?merge=0", json=body("plain"), headers={"x-run-id": "mine"})
    assert first.content == second.content
    assert len(agent.model.requests) == 1  # type: ignore[attr-defined]  # the scripted one


# -- asking back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["/run_sse", "/run"])
async def test_a_confirmation_as_adks_clients_give_it(route: str, client_of: ClientOf):
    fired = []

    def fire(what: str) -> str:
        """Fires."""
        fired.append(what)
        return "gone"

    agent = LlmAgent(
        name="boss",
        model=Scripted([Call("fire", {"what": "job"}, id="c1")], ["As you wish."]),
        tools=[FunctionTool(fire, require_confirmation=True)],
    )
    client = await client_of(Runner(agent))
    await session(client, "boss")
    _, got = await run_sse(client, body("boss"))
    (asked,) = [event for event in documents(got) if event.get("longRunningToolIds")]
    (call,) = [part["functionCall"] for part in asked["content"]["parts"]]
    assert call["name"] == "adk_request_confirmation"
    assert call["args"]["originalFunctionCall"] == {"id": "c1", "name": "fire", "args": {"what": "job"}}
    assert asked["longRunningToolIds"] == [call["id"]]
    response = {"functionResponse": {"id": call["id"], "name": call["name"], "response": {"confirmed": True}}}
    answered = await client.post(route, json=body("boss", [response]))
    events = documents(frames(answered.content)[:-1]) if route == "/run_sse" else answered.json()
    assert text_of(events, partial=False) == "As you wish."
    assert events[0]["content"]["parts"][0]["functionResponse"] == {
        "id": "c1",
        "name": "fire",
        "response": {"result": "gone"},
    }
    assert fired == ["job"]
    again = await client.post("/run_sse", json=body("boss", [response]))  # a client that repeats its answer
    assert text_of(documents(frames(again.content)[:-1]), partial=False) == "As you wish."
    assert fired == ["job"]


def questions(events: list[Any]) -> list[Any]:
    parts = [part for event in events for part in (event.get("content") or {}).get("parts", [])]
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    return [call for call in calls if call["name"] == "adk_request_confirmation"]


async def test_two_confirmations_are_given_one_by_one(client_of: ClientOf):
    fired = []

    def fire(what: str) -> str:
        """Fires."""
        fired.append(what)
        return "gone"

    calls = [Call("fire", {"what": "job"}, id="c1"), Call("fire", {"what": "gun"}, id="c2")]
    agent = LlmAgent(
        name="boss", model=Scripted(calls, ["As you wish."]), tools=[FunctionTool(fire, require_confirmation=True)]
    )
    client = await client_of(Runner(agent))
    await session(client, "boss")
    _, got = await run_sse(client, body("boss"))
    asked = questions(documents(got))
    assert [call["args"]["originalFunctionCall"]["id"] for call in asked] == ["c1", "c2"]
    for call in (*asked, asked[0]):  # the last is a repetition
        response = {"functionResponse": {"id": call["id"], "name": call["name"], "response": {"confirmed": True}}}
        answered = await client.post("/run_sse", json=body("boss", [response]))
        assert answered.status_code == 200
        said = documents(frames(answered.content)[:-1])
        if call is asked[0] and not fired:
            assert [rest["id"] for rest in questions(said)] == [asked[1]["id"]]
        elif call is asked[1]:
            assert text_of(said, partial=False) == "As you wish."
    assert sorted(fired) == ["gun", "job"]


async def test_a_long_running_tool_is_marked_and_answered(client_of: ClientOf):
    def ship() -> dict[str, str]:
        """Ships."""
        return {"status": "pending"}

    agent = LlmAgent(
        name="shop", model=Scripted([Call("ship", {}, id="c1")], ["Shipped."]), tools=[LongRunningFunctionTool(ship)]
    )
    client = await client_of(Runner(agent))
    await session(client, "shop")
    _, got = await run_sse(client, body("shop"))
    events = documents(got)
    whole = [event for event in events if not event.get("partial")]
    assert [event["longRunningToolIds"] for event in whole if event.get("longRunningToolIds")] == [["c1"]]
    response = {"functionResponse": {"id": "c1", "name": "ship", "response": {"status": "there"}}}
    _, rest = await run_sse(client, body("shop", [response]))
    assert text_of(documents(rest), partial=False) == "Shipped.", "and not what the client has said itself"
    shown = (await client.get("/apps/shop/users/u/sessions/s")).json()["events"]
    said = [
        part["functionResponse"]
        for event in shown
        for part in event["content"]["parts"]
        if len(part) == 1 and "functionResponse" in part
    ]
    assert said[-1]["response"] == {"status": "there"}
    assert (await run_sse(client, body("shop", [response])))[1] == rest, "sent again, it finds its place again"
    response["functionResponse"]["response"] = {"status": "lost"}
    other = await client.post("/run_sse", json=body("shop", [response]))
    assert (other.status_code, "another answer" in other.json()["error"]["message"]) == (422, True)


async def test_what_is_said_while_a_call_waits_for_its_response(client_of: ClientOf):
    async def asks(message: str, ctx: RunContext) -> AsyncIterator[Any]:
        if message == "hi":
            await ctx.interrupt([Interrupt(id="q", reason="input_required")])
        yield f"answered {message}"

    runner = Runner(asks, config=RunConfig(on_waiting="reject"))
    client = await client_of(runner)
    await session(client, "asks")
    before = {"json": body("asks", [{"text": "before"}]), "headers": {"x-run-id": "before"}}
    first = await client.post("/run_sse", **before)
    await run_sse(client, body("asks"))
    assert (await client.post("/run_sse", **before)).content == first.content, "it is no new message"
    busy = await client.post("/run_sse", json=body("asks", [{"text": "and?"}]))
    assert (busy.status_code, "waits for the response" in busy.json()["error"]["message"]) == (409, True)

    await runner.start("and?", session_id="s", user_id="u", config=RunConfig(on_busy="queue", on_waiting="reject"))
    response = {"functionResponse": {"id": "q", "name": "adk_request_input", "response": {"result": 1}}}
    _, rest = await run_sse(client, body("asks", [response]))
    assert text_of(documents(rest), partial=False) == "answered hi"


async def test_another_agents_question_is_one_of_adks(client_of: ClientOf):
    async def asks(message: str, ctx: RunContext) -> AsyncIterator[Any]:
        (entry,) = await ctx.interrupt([Interrupt(id="q", reason="input_required", message="Which?")])
        yield f"You said {entry.payload['result']}"

    client = await client_of(Runner(asks))
    await session(client, "asks")
    _, got = await run_sse(client, body("asks"))
    (call,) = [part["functionCall"] for part in documents(got)[-1]["content"]["parts"]]
    assert call == {"id": "q", "name": "adk_request_input", "args": {"interruptId": "q", "message": "Which?"}}
    response = {"functionResponse": {"id": "q", "name": call["name"], "response": {"result": "both"}}}
    _, rest = await run_sse(client, body("asks", [response]))
    assert text_of(documents(rest), partial=False) == "You said both"


async def test_an_answer_to_nothing_is_refused(client_of: ClientOf):
    client = await client_of(Runner(poet))
    await session(client, "poet")
    response = {"functionResponse": {"id": "q", "name": "x", "response": {}}}
    assert (await client.post("/run_sse", json=body("poet", [response]))).status_code == 422
    await run_sse(client, body("poet"))
    assert (await client.post("/run_sse", json=body("poet", [response]))).status_code == 422


# -- failures -------------------------------------------------------------------------------------------------------


async def test_a_failure_keeps_the_text_and_ends_as_adks_do(client_of: ClientOf):
    agent = LlmAgent(name="frail", model=Scripted(["Half an ", "answer", Raises(ConnectionError("secret"))]))
    client = await client_of(Runner(agent))
    await session(client, "frail")
    _, got = await run_sse(client, body("frail"))
    *_, whole, failed, last = documents(got)
    assert whole["interrupted"] is True
    assert text_of([whole], partial=False) == "Half an answer"
    assert failed["errorCode"] == "model_failed"
    assert last["error"].startswith("model_failed: ")
    assert "secret" not in str(documents(got))
    events = (await client.get("/apps/frail/users/u/sessions/s")).json()["events"]
    assert text_of(events[1:], partial=False) == "Half an answer"
    assert "secret" not in str(events)


async def test_a_cancelled_run_says_so(client_of: ClientOf):
    runner = Runner(LlmAgent(name="slow", model=Scripted(["One ", "two"], hold_at=1)))
    client = await client_of(runner)
    await session(client, "slow")
    reading = asyncio.create_task(run_sse(client, body("slow"), headers={"x-run-id": "r"}))
    while not runner.executions:
        await asyncio.sleep(0)
    async for event in (await runner.attach("r")).events():
        if "CONTENT" in type(event).__struct_config__.tag:  # type: ignore[operator]  # each event has one
            break
    assert (await client.post("/apps/slow/users/other/runs/r/cancel")).status_code == 404
    for _ in range(2):
        assert (await client.post("/apps/slow/users/u/runs/r/cancel")).status_code == 202
    events = documents((await reading)[1])
    assert text_of(events, partial=False) == "One "
    assert events[-1]["errorCode"] == "INVOCATION_ABORTED"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"appName": "nobody"}, 404),
        ({"sessionId": "missing"}, 404),
        ({"newMessage": {"parts": []}}, 422),
        ({"newMessage": None}, 422),
        ({"newMessage": "text"}, 422),
        ({"userId": None}, 422),
        ({"sessionId": "bad id"}, 404),
    ],
)
async def test_bad_requests_have_a_status(change: dict[str, Any], status: int, client_of: ClientOf):
    client = await client_of(Runner(poet))
    await session(client, "poet")
    response = await client.post("/run_sse", json={**body("poet"), **change})
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


# -- sessions and users ---------------------------------------------------------------------------------------------


async def test_sessions_are_created_listed_and_deleted(client_of: ClientOf):
    client = await client_of(Runner(agents={"poet": poet, "other": poet}))
    path = "/apps/poet/users/u/sessions"
    made = (await client.post(path, json={"sessionId": "a", "state": {"k": 1}})).json()
    assert (made["id"], made["appName"], made["userId"], made["state"], made["events"]) == (
        "a",
        "poet",
        "u",
        {"k": 1},
        [],
    )
    assert (await client.post(path, json={"session_id": "a"})).status_code == 409
    assert (await client.post(path)).json()["id"]
    assert len((await client.get(path)).json()) == 2
    assert (await client.get("/apps/other/users/u/sessions")).json() == []
    assert (await client.delete(f"{path}/a")).status_code == 200
    assert (await client.get(f"{path}/a")).status_code == 404
    assert (await client.delete(f"{path}/a")).status_code == 200
    assert (await client.get("/list-apps")).json() == ["other", "poet"]
    assert (await client.get("/list-apps?detailed=true")).json()["apps"][1]["name"] == "poet"


async def test_a_session_that_begins_with_events_is_refused(client_of: ClientOf):
    client = await client_of(Runner(poet))
    path = "/apps/poet/users/u/sessions"
    said = {"author": "user", "content": {"parts": [{"text": "hi"}]}}
    assert (await client.post(path, json={"events": [said]})).status_code == 422
    assert (await client.post(path, json={"events": [], "session_id": "s"})).json()["id"] == "s"


async def test_users_without_authentication_have_sessions_of_their_own(client_of: ClientOf):
    client = await client_of(Runner(agents={"poet": poet, "other": poet}))
    for user, app in (("ann", "poet"), ("bob", "poet"), ("ann", "other")):
        await session(client, app, user, json={"of": f"{user} {app}"})
    locations = {}
    for user, app in (("ann", "poet"), ("bob", "poet"), ("ann", "other")):
        shown = (await client.get(f"/apps/{app}/users/{user}/sessions/s")).json()
        assert (shown["id"], shown["state"]) == ("s", {"of": f"{user} {app}"})
        response, _ = await run_sse(client, body(app, userId=user))
        locations[user] = response.headers["content-location"]
        assert (await client.get(locations[user])).status_code == 200
        assert [one["id"] for one in (await client.get(f"/apps/{app}/users/{user}/sessions")).json()] == ["s"]
    assert (await client.get(locations["bob"].replace("bob", "ann"))).status_code == 404
    await client.delete("/apps/poet/users/ann/sessions/s")
    assert (await client.get("/apps/poet/users/bob/sessions/s")).status_code == 200


async def test_with_authentication_the_user_is_the_one_who_asks(client_of: ClientOf):
    def authenticate(request: Any) -> str | None:
        return request.headers.get("x-user")  # type: ignore[no-any-return]  # a header

    client = await client_of(Runner(poet), authenticate=authenticate)
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    await session(client, "poet", "ann", headers=ann)
    response, _ = await run_sse(client, body("poet", userId="ann"), headers=ann)
    location, id = response.headers["content-location"], response.headers["x-run-id"]
    path = "/apps/poet/users/ann/sessions"
    for method, url, json_body in (
        ("POST", "/run_sse", body("poet", userId="ann")),
        ("POST", "/run", body("poet", userId="ann")),
        ("GET", path, None),
        ("GET", f"{path}/s", None),
        ("POST", path, {}),
        ("POST", f"{path}/t", {}),
        ("DELETE", f"{path}/s", None),
        ("GET", location, None),
    ):
        assert (await client.request(method, url, json=json_body)).status_code == 401, url
        assert (await client.request(method, url, json=json_body, headers=bob)).status_code == 403, url
    assert (await client.get("/list-apps")).status_code == 401
    stolen = {**bob, "last-event-id": f"{id}:1"}
    assert (await client.post("/run_sse", json=body("poet", userId="bob"), headers=stolen)).status_code == 404
    assert (await client.get(location.replace("/ann/", "/bob/"), headers=bob)).status_code == 404
    assert (await client.get(f"/runs/{id}/events?wire=adk&merge=0", headers=ann)).content == response.content


async def test_who_may_answer_is_asked_of_the_one_function(client_of: ClientOf):
    async def asks(message: str, ctx: RunContext) -> AsyncIterator[Any]:
        await ctx.interrupt([Interrupt(id="q", reason="input_required")])
        yield "answered"

    client = await client_of(Runner(asks), authorize=lambda user, action, record: action != "answer")
    await session(client, "asks")
    await run_sse(client, body("asks"))
    response = {"functionResponse": {"id": "q", "name": "adk_request_input", "response": {"result": 1}}}
    assert (await client.post("/run_sse", json=body("asks", [response]))).status_code == 404


async def test_a_session_that_the_agents_own_service_has_is_known(client_of: ClientOf):
    service = InMemorySessionService()
    await service.create_session(app_name="desk", user_id="u", session_id="old", state={"plan": "gold"})
    agent = LlmAgent(name="desk", model=Scripted(["ok"]), instruction="They have {plan}.")
    client = await client_of(Runner(agent, session_service=service))
    assert (await client.get("/apps/desk/users/u/sessions/old")).json()["state"] == {"plan": "gold"}
    _, got = await run_sse(client, body("desk", sessionId="old"))
    assert text_of(documents(got), partial=False) == "ok"


async def test_a_session_is_deleted_from_the_agents_own_service_too(client_of: ClientOf):
    service = InMemorySessionService()
    agent = LlmAgent(name="helper", model=Scripted(["Hi."]))
    client = await client_of(Runner(agent, session_service=service))
    for id, known in (("told", True), ("never-told", False)):
        await service.create_session(app_name="helper", user_id="ada", session_id=id)
        if known:
            assert (await client.get(f"/apps/helper/users/ada/sessions/{id}")).status_code == 200
        assert (await client.delete(f"/apps/helper/users/ada/sessions/{id}")).status_code == 200
        assert (await client.get(f"/apps/helper/users/ada/sessions/{id}")).status_code == 404, "it does not come back"
        assert await service.get_session(app_name="helper", user_id="ada", session_id=id) is None


async def test_a_sessions_state_changes_between_runs(client_of: ClientOf):
    service = InMemorySessionService()
    await service.create_session(app_name="desk", user_id="u", session_id="old", state={"plan": "gold", "seat": 1})
    seen: list[dict[str, Any]] = []

    def instruction(context: ReadonlyContext) -> str:
        seen.append({key: context.state[key] for key in ("plan", "user:name", "seat")})
        return "Be kind."

    for given in (service, None):
        agent = LlmAgent(name="desk", model=Scripted(["ok"]), instruction=instruction)
        runner = Runner(agent, session_service=given)
        client = await client_of(runner)
        where = "/apps/desk/users/u/sessions/old"
        if given is None:
            assert (await client.post(where, json={"plan": "gold", "seat": 1})).status_code == 200
        changes = {"plan": "silver", "user:name": "Ann", "temp:no": 1}
        changed = await client.patch(where, json={"state_delta": changes})
        now = {"plan": "silver", "user:name": "Ann", "seat": 1}
        assert changed.json()["state"] == now
        await run_sse(client, body("desk", sessionId="old"))
        assert seen == [now]
        seen.clear()
        assert (await client.get(where)).json()["state"] == now
        assert (await client.patch(where + "x", json={"stateDelta": {}})).status_code == 404
        for wrong in ({}, {"stateDelta": None}, {"stateDelta": [1]}):
            assert (await client.patch(where, json=wrong)).status_code == 422
        other = await client.patch("/apps/desk/users/u/sessions/new", json={"stateDelta": {}})
        assert other.status_code == 404


async def test_state_does_not_change_under_a_run(client_of: ClientOf):
    async def asks(message: str, ctx: RunContext) -> AsyncIterator[Any]:
        await ctx.interrupt([Interrupt(id="q", reason="input_required")])
        yield "answered"

    client = await client_of(Runner(asks))
    await session(client, "asks")
    await run_sse(client, body("asks"))
    refused = await client.patch("/apps/asks/users/u/sessions/s", json={"stateDelta": {"k": 1}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_busy")


async def test_a_session_shows_the_answer_that_is_coming(client_of: ClientOf):
    agent = LlmAgent(
        name="slow", model=Scripted(["I add. ", Call("add", {"a": 1, "b": 2}, id="c")], ["x"], hold_at=3), tools=[add]
    )
    runner = Runner(agent)
    client = await client_of(runner)
    await session(client, "slow")
    run = await runner.start("hi", session_id="s", user_id="u", agent="slow")
    async for event in run.events():
        if isinstance(event, ToolCallResultEvent):
            break
    events = (await client.get("/apps/slow/users/u/sessions/s")).json()["events"]
    assert [next(iter(event["content"]["parts"][-1])) for event in events] == [
        "text",
        "functionCall",
        "functionResponse",
    ]
    await run.cancel()
    await run.wait()


# -- live -------------------------------------------------------------------------------------------------------------


class LiveLoader(BaseAgentLoader):
    def load_agent(self, agent_name: str) -> BaseAgent:
        return LlmAgent(name="helper", model=adk_model("Hello ", "there."))

    def list_agents(self) -> list[str]:
        return ["helper"]


def live(url: str, **query: str) -> connect:
    asked = {"app_name": "helper", "user_id": "u", "session_id": "s", "modalities": "TEXT", **query}
    target = httpx2.URL(url.replace("http", "ws", 1) + "/run_live", params=asked)
    return connect(str(target), proxy=None, open_timeout=WAIT_S, ping_timeout=None)


async def spoken(url: str) -> list[dict[str, Any]]:
    """What a server answers to one message."""
    async with Client(base_url=url) as http:
        await session(http, "helper")
    async with live(url) as socket:
        await socket.send(json.dumps({"content": {"role": "user", "parts": [{"text": "Hi"}]}}))
        events = [json.loads(await socket.recv())]
        while not events[-1].get("turnComplete"):
            events.append(json.loads(await socket.recv()))
    return events


async def test_a_live_answer_is_that_of_adks_own_server():
    theirs = get_fast_api_app(
        agents_dir=tempfile.mkdtemp(), agent_loader=LiveLoader(), session_service_uri="memory://", web=False
    )
    with serving(theirs) as url:
        expected = [event for event in await spoken(url) if "usageMetadata" not in event]
    with serving(create_app(Runner(LiveLoader().load_agent("helper")))) as url:
        found = await spoken(url)
    documents([Frame("", "", json.dumps(event)) for event in found])
    for event in found:
        event.pop("finishReason", None)  # of the whole text
    for event in (*found, *expected):
        event["id"] = ""  # ADK's server has one for each piece here, and not where it streams
    assert comparable(found) == comparable(expected)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"content": {"parts": [{"text": "Hi"}]}}, "text Hi"),
        ({"blob": {"mime_type": "audio/pcm", "data": "-_8="}}, "audio/pcm fbff"),
        ({"blob": {"mimeType": "audio/pcm", "data": "+/8"}}, "audio/pcm fbff"),
        ({"activity_start": {}}, "start"),
        ({"activityEnd": {}}, "end"),
        ({"blob": {"data": "?"}}, "input_invalid"),
        ({"content": {"parts": []}}, "input_invalid"),
        ({}, "input_invalid"),
        ([], "input_invalid"),
    ],
)
async def test_what_adks_clients_say_live(said: Any, heard: str):
    async def ear(ctx: RunContext) -> AsyncIterator[str]:
        async for one in ctx.live:
            if one.blob is not None:
                yield f"{one.blob.mime_type} {one.blob.data.hex()}"
            else:
                yield f"text {one.content}" if one.content else "start" if one.activity_start else "end"

    with serving(create_app(Runner(ear))) as url:
        async with Client(base_url=url) as http:
            await session(http, "ear")
        async with live(url, app_name="ear") as socket:
            await socket.send(json.dumps(said))
            assert heard in str(await socket.recv())
            await socket.send(json.dumps({"close": True}))
            async for _ in socket:
                pass
            assert socket.close_code == 1000


async def test_a_live_client_that_hangs_up_ends_its_run():
    with serving(create_app(Runner(LiveLoader().load_agent("helper")))) as url:
        heard = await spoken(url)
        async with Client(base_url=url) as http:
            run = await http.get(f"/apps/helper/users/u/runs/{heard[0]['invocationId']}/events")
    assert frames(run.content)[-1].event == "end"


@pytest.mark.parametrize(
    ("query", "status"), [({"app_name": "nobody"}, 404), ({"session_id": "none"}, 404), ({"user_id": ""}, 422)]
)
async def test_a_live_session_that_cannot_begin_has_a_status(query: dict[str, str], status: int):
    with serving(create_app(Runner(LiveLoader().load_agent("helper")))) as url:
        async with Client(base_url=url) as http:
            await session(http, "helper")
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with live(url, **query):
                pass
    assert refused.value.response.status_code == status
