"""A call that failed is shown as failed, and nothing stays open when a run has ended: on every wire, live and later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import ag_ui.core
import pytest
from agents import Agent as SDKAgent
from agents import function_tool
from google.adk.agents import LlmAgent
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool, ToolException
from pydantic_ai import Agent, ModelRetry
from pydantic_ai import messages as m
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from gapless import Runner
from gapless.agents import adapt
from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    Event,
    Interrupt,
    RunErrorEvent,
    RunStartedEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    encode_event,
)
from gapless.fold import RESTARTED
from gapless.records import RunRecord, RunStatus
from gapless.testing import NextTurn, ToolCall, adk_model, langgraph_model, openai_agents_model, words
from gapless.wire import Encoder, wire
from tests.support.frameworks import FRAMEWORKS
from tests.support.sse import frames
from tests.support.upstream import Reply, sse, upstream


def call(id: str, name: str, arguments: str = "{}") -> list[Event]:
    return [
        ToolCallStartEvent(tool_call_id=id, tool_call_name=name),
        ToolCallArgsEvent(tool_call_id=id, delta=arguments),
        ToolCallEndEvent(tool_call_id=id),
    ]


async def plain(message: str) -> AsyncIterator[AgentItem]:
    for one in call("c1", "charge"):
        yield one
    yield ToolCallResultEvent(message_id="m1", tool_call_id="c1", content="no", error="the bank is down")
    for one in call("c2", "ok"):
        yield one
    yield ToolCallResultEvent(message_id="m2", tool_call_id="c2", content="fine")


def pydantic_ai(name: str, arguments: str = "{}") -> Agent[None, str]:
    async def model(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        number = sum(isinstance(message, m.ModelResponse) for message in messages)
        if number == 2:
            yield "done"
            return
        called = [(name, arguments), ("ok", "{}")][number]
        yield {0: DeltaToolCall(name=called[0], json_args=called[1], tool_call_id=f"c{number + 1}")}

    agent = Agent(FunctionModel(stream_function=model), retries=3)

    @agent.tool_plain
    def refuse() -> str:
        raise ModelRetry("the bank is down")

    @agent.tool_plain
    def fail() -> str:
        raise ToolFailed("the bank is down")

    @agent.tool_plain
    def charge(amount: int) -> str:
        return "charged"

    @agent.tool_plain
    def ok() -> str:
        return "fine"

    return agent


def adk(result: dict[str, Any]) -> LlmAgent:
    def fail() -> dict[str, Any]:
        """Fails."""
        return result

    def ok() -> dict[str, str]:
        """Does."""
        return {"result": "fine"}

    calls = ToolCall("fail"), ToolCall("ok")
    return LlmAgent(name="a", model=adk_model(*calls, *words("done")), tools=[fail, ok])


def langgraph() -> Any:
    def fail() -> str:
        """Fails."""
        raise ToolException(BANK)

    def ok() -> str:
        """Does."""
        return "fine"

    tools = [StructuredTool.from_function(fail, handle_tool_error=True), StructuredTool.from_function(ok)]
    return create_agent(langgraph_model(ToolCall("fail"), ToolCall("ok"), "done"), tools)


def openai_agents() -> Any:
    @function_tool
    def fail() -> str:
        """Fails."""
        raise RuntimeError(BANK)

    @function_tool
    def ok() -> str:
        """Does."""
        return "fine"

    return SDKAgent(name="a", model=openai_agents_model(ToolCall("fail"), ToolCall("ok"), "done"), tools=[fail, ok])


class Bridge:
    """An object that speaks AG-UI, as `plain` does."""

    name = "bridge"

    async def run(self, input_data: ag_ui.core.RunAgentInput) -> AsyncIterator[Any]:
        ends = {"threadId": input_data.thread_id, "runId": input_data.run_id}
        yield {"type": "RUN_STARTED", **ends}
        async for item in plain(""):
            yield json.loads(encode_event(item))  # type: ignore[arg-type]  # events alone
        yield {"type": "RUN_FINISHED", **ends}


class Served:
    """A service that speaks AG-UI, and says the same."""

    name = "served"

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        said = [one async for one in Bridge().run(ag_ui.core.RunAgentInput.model_validate(EMPTY))]
        async with upstream(Reply(sse(*said))) as up:
            async for item in adapt(f"{up.url}/ag-ui").run(ctx):
                yield item


EMPTY = {"threadId": "t", "runId": "r", "state": {}, "messages": [], "tools": [], "context": [], "forwardedProps": {}}
BANK = "the bank is down"
AGENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "function": (lambda: plain, BANK),
    "ag-ui object": (Bridge, BANK),
    "ag-ui endpoint": (Served, BANK),
    "refusal": (lambda: pydantic_ai("refuse"), BANK),
    "failure": (lambda: pydantic_ai("fail"), BANK),
    "arguments": (lambda: pydantic_ai("charge", '{"amount": "x"}'), "unable to parse string as an integer"),
    "adk": (lambda: adk({"error": BANK}), BANK),
    "adk documents": (lambda: adk({"status": "error", "error_message": BANK}), BANK),
    "langgraph": (langgraph, BANK),
    "openai agents": (openai_agents, "An error occurred while running the tool"),  # what it tells the model
    "mcp": (lambda: adk({"isError": True, "content": [{"type": "text", "text": BANK}]}), BANK),
}
"""By name: an agent whose first call fails and whose second does not, and what is told of the first."""


async def ended(runner: Runner) -> RunRecord:
    return await (await runner.attach("r")).wait()


async def shown(client: Any, name: str) -> list[Any]:
    answer = await client.get(f"/runs/r/events?wire={name}", headers={"accept": "text/event-stream"})
    return [json.loads(one.data) for one in frames(answer.content) if one.data.startswith("{")]


async def states(client: Any) -> dict[str, dict[str, tuple[bool, str]]]:
    """By place and call: whether it is shown as failed, and what is said."""
    found: dict[str, dict[str, tuple[bool, str]]] = {}
    found["useChat"] = {
        one["toolCallId"]: (one["type"] == "tool-output-error", str(one.get("errorText", one.get("output"))))
        for one in await shown(client, "vercel")
        if one["type"].startswith("tool-output-")
    }
    chat = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    found["useChat, reloaded"] = {
        part["toolCallId"]: (part["state"] == "output-error", str(part.get("errorText", part.get("output"))))
        for one in chat
        for part in one["parts"]
        if "toolCallId" in part
    }
    output = (await shown(client, "openai-responses"))[-1]["response"]["output"]
    found["responses"] = {
        one["id"].removeprefix("mcp_"): (
            one["status"] == "failed",
            one["error"]["content"][0]["text"] if one["error"] else one["output"],
        )
        for one in output
        if one["type"] == "mcp_call"
    }
    results = [one for one in await shown(client, "ag-ui") if one["type"] == "TOOL_CALL_RESULT"]
    found["ag-ui"] = {one["toolCallId"]: ("error" in one, one.get("error", one["content"])) for one in results}
    found["tanstack"] = {
        one["toolCallId"]: (one.get("metadata", {}).get("tanstack") == {"state": "output-error"}, one["content"])
        for one in results
    }
    opened = (await client.get("/ag-ui?threadId=s")).json()["messages"]
    found["tanstack, reloaded"] = {
        part["toolCallId"]: (part["state"] == "error", part.get("error", part["content"]))
        for one in opened
        for part in one["parts"]
        if part["type"] == "tool-result"
    }
    kept = (await client.get("/sessions/s/messages")).json()["messages"]
    found["session"] = {
        one["toolCallId"]: ("error" in one, one.get("error", one["content"])) for one in kept if one["role"] == "tool"
    }
    return found


@pytest.mark.parametrize("name", AGENTS)
async def test_a_call_that_failed_is_shown_as_failed(name: str, client_of: Callable[..., Any]):
    make, why = AGENTS[name]
    runner = Runner(make())
    client = await client_of(runner)
    await runner.start("?", run_id="r", session_id="s")
    assert (await ended(runner)).status is RunStatus.FINISHED
    for place, calls in (await states(client)).items():
        (failed, said), (fine_failed, fine) = calls.values()
        assert (failed, fine_failed) == (True, False), place
        assert "fine" in fine, place
        assert why in said or said == "no", place  # where what it returned is shown, and not how it failed
    answered = [
        part["functionResponse"]["response"]
        for event in await shown(client, "adk")
        for part in event.get("content", {}).get("parts", ())
        if "functionResponse" in part
    ]
    assert [bool({"error", "error_message", "isError"} & one.keys()) for one in answered] == [True, False]


async def waits_in_a_call(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    for one in [*call("c1", "pay"), *call("c2", "half", '{"a":')]:
        yield one
    if message == "ask":
        await ctx.interrupt([Interrupt(id="i", reason="tool_call", tool_call_id="c1"), Interrupt(id="q", reason="who")])
    if message == "fail":
        raise RuntimeError
    await asyncio.Event().wait()


@pytest.mark.parametrize("message", ["stop", "ask", "fail"])
async def test_nothing_stays_open_in_a_run_that_was_cut_short(message: str, client_of: Callable[..., Any]):
    runner = Runner(waits_in_a_call)
    client = await client_of(runner)
    run = await runner.start(message, run_id="r", session_id="s")
    if message != "fail":
        async for event in run.events():
            if type(event) is ToolCallEndEvent and event.tool_call_id == "c2":
                break
        while message == "ask" and (await runner.get_run("r")).status is not RunStatus.WAITING:
            await asyncio.sleep(0)
        await run.cancel()
    await ended(runner)
    how = "failed" if message == "fail" else "was cancelled"
    for place, calls in (await states(client)).items():
        assert calls == dict.fromkeys(("c1", "c2"), (True, f"the run {how} before this call had a result")), place
    (cut,) = [one for one in await runner.messages("s") if isinstance(one, AssistantMessage)]
    assert cut.metadata is not None
    assert cut.metadata["interrupted"] is True
    parts = (await client.get("/vercel/chat/s/messages")).json()["messages"][-1]["parts"]
    questions = [part["data"] for part in parts if part["type"] == "data-interrupt"]
    assert [one["status"] for one in questions] == (["closed"] if message == "ask" else [])
    said = [part for event in await shown(client, "adk") for part in event.get("content", {}).get("parts", ())]
    asked = {part["functionCall"]["id"] for part in said if "functionCall" in part} - {"c1", "c2"}
    assert asked == {part["functionResponse"]["id"] for part in said if "functionResponse" in part}
    assert asked == ({"i", "q"} if message == "ask" else set())


RECORD = RunRecord(id="r", session_id="s", user_id="u", agent="a", message="m", created_at=1)
ENDS: dict[str, Event] = {
    "restarted": CustomEvent(name=RESTARTED, value={"restarts": 1}),
    "failed, of a version before": RunErrorEvent(message="lost", code="worker_lost"),
}


@pytest.mark.parametrize("message", ["stop", "ask"])
@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_nothing_stays_open_whatever_framework_was_cut_short(
    name: str, message: str, client_of: Callable[..., Any]
):
    under_way = asyncio.Event()

    async def pay() -> str:
        """Pay."""
        under_way.set()
        await asyncio.Event().wait()
        return "paid"

    asks = ["pay"] if message == "ask" else []
    script = ("Well. ", ToolCall("pay"), "Paid.", NextTurn(), "Again.")
    runner = Runner(FRAMEWORKS[name](*script, tools=[pay], approve=asks).agent)
    client = await client_of(runner)
    run = await runner.start("pay", run_id="r", session_id="s")
    if message == "stop":
        await under_way.wait()
    else:
        await runner.readers.settled(await runner.get_run("r"))
    await run.cancel()
    assert (await ended(runner)).status is RunStatus.CANCELLED
    assert under_way.is_set() is (message == "stop")
    for place, calls in (await states(client)).items():
        assert [failed for failed, _ in calls.values()] == [True], place
    chat = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    assert "approval-requested" not in json.dumps(chat)
    assert (await client.get("/ag-ui?threadId=s")).json()["interrupts"] is None
    assert (await (await runner.start("again", session_id="s")).collect()).text == "Again."


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["vercel", "openai-responses"])
def test_a_wire_settles_what_the_journal_has_not(name: str, end: str):
    encoder: Encoder = wire(name)(RECORD)
    items = enumerate([RunStartedEvent(thread_id="s", run_id="r"), *call("c1", "pay"), ENDS[end]], 1)
    sayable = encoder.sayable([(seq, encode_event(event)) for seq, event in items])
    said = b"".join(data for _, data in encoder.parts(sayable))
    assert {
        "vercel": b'{"type":"tool-output-error","toolCallId":"c1","errorText":"the run ended before',
        "openai-responses": b'"text":"the run ended before this call had a result"',
    }[name] in said
