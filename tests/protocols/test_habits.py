"""Habits of other people's clients: an old route, an old protocol, a stop that only hangs up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.tools import LongRunningFunctionTool
from pydantic_ai import Agent, CallDeferred
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from gapless import Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.errors import UsageError
from gapless.events import (
    CustomEvent,
    Interrupt,
    StateDeltaEvent,
    StateSnapshotEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
)
from gapless.protocols.ag_ui.wire import OldAGUIEncoder
from gapless.records import RunStatus
from gapless.testing import ToolCall, adk_model, serving, words
from tests.support.sse import frames

STREAM = {"accept": "text/event-stream"}


def data(content: bytes) -> list[Any]:
    return [json.loads(one.data) for one in frames(content) if one.data.startswith("{")]


async def two(message: str) -> AsyncIterator[AgentItem]:
    yield "Hello, "
    yield message
    yield CustomEvent(name="gapless.finish", value={"reason": "length"})


async def test_the_old_route_of_prompts_is_served(client_of: Callable[..., Any]):
    client = await client_of(Runner(two, app_name="a"))
    body = {"model": "a", "prompt": ["you"], "max_tokens": 5}
    whole = (await client.post("/v1/completions", json=body)).json()
    assert (whole["object"], whole["id"][:5]) == ("text_completion", "cmpl-")
    assert whole["choices"] == [{"index": 0, "text": "Hello, you", "logprobs": None, "finish_reason": "length"}]
    answer = await client.post("/v1/completions", json={**body, "stream": True})
    assert b"data: [DONE]\n" in answer.content.rstrip().split(b"\n\n")[-2]
    chunks = [one["choices"][0] for one in data(answer.content)]
    assert "".join(one["text"] for one in chunks) == "Hello, you"
    assert [one["finish_reason"] for one in chunks][-2:] == [None, "length"]
    rest = await client.get(answer.headers["content-location"], headers={**STREAM, "last-event-id": "3"})
    assert "".join(one["choices"][0]["text"] for one in data(rest.content)) == "you"
    for wrong in ({"prompt": ""}, {"prompt": ["a", "b"]}, {"n": 2}, {"echo": True}, {"suffix": "x"}, {"prompt": [1]}):
        refused = await client.post("/v1/completions", json={**body, **wrong})
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "invalid_request_error")
    missing = await client.post("/v1/completions", json={**body, "model": "b"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def asks(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    (answer,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
    yield f"{answer.payload}"
    if answer.payload == "wait":
        await asyncio.sleep(60)


def body(**fields: Any) -> dict[str, Any]:
    return {"threadId": "s", "runId": "r", "messages": [{"id": "u", "role": "user", "content": "?"}], **fields}


@pytest.mark.parametrize(("version", "outcome"), [("1.0", {"type": "cancelled"}), (None, None)])
async def test_clients_before_1_0_are_told_what_they_know(
    version: str | None, outcome: Any, client_of: Callable[..., Any]
):
    runner = Runner(asks)
    client = await client_of(runner)
    spoken = {} if version is None else {"protocolVersion": version}
    first = data((await client.post("/ag-ui", json=body(**spoken))).content)
    assert first[0]["protocolVersion"] == "1.0"
    resume = [{"interruptId": "q", "status": "resolved", "payload": "wait"}]
    going_on = asyncio.create_task(client.post("/ag-ui", json=body(resume=resume, **spoken)))
    run = await runner.attach("r")
    async for text in run.text():
        assert text == "wait"
        break
    await run.cancel()
    answer = await going_on
    told = data(answer.content)[0]["input"]
    assert {"threadId", "runId", "messages", "tools", "context", "state", "forwardedProps"} <= told.keys()
    on = answer.headers["content-location"]  # where a cut stream goes on
    joined = await client.get(f"{on}&join=snapshot")
    for stream in (answer, await client.get(on), joined, await client.get(joined.headers["content-location"])):
        last = data(stream.content)[-1]
        assert (last["type"], last.get("outcome")) == ("RUN_FINISHED", outcome)
    end = b'{"type":"RUN_FINISHED","threadId":"s","runId":"r","outcome":{"type":"cancelled"},"usage":[]}'
    assert OldAGUIEncoder(run.started).frames(end) == (end.replace(b'"outcome":{"type":"cancelled"},', b""),)


async def endless(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    if message == "ask":
        await ctx.interrupt([Interrupt(id="q", reason="input_required")])
    yield "on"
    await asyncio.sleep(60)


@pytest.mark.parametrize(("families", "status"), [({"ag-ui"}, RunStatus.CANCELLED), ((), RunStatus.RUNNING)])
async def test_an_operator_may_let_a_hang_up_cancel(families: Any, status: RunStatus, monkeypatch: pytest.MonkeyPatch):
    import httpx2

    monkeypatch.setattr("gapless.runs.worker.LEFT_S", 0.0)
    runner = Runner(endless)
    with serving(create_app(runner, cancel_on_hang_up=families)) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            async with client.stream("POST", "/ag-ui", json=body()) as stream:
                async for line in stream.aiter_lines():
                    if "on" in line and "CONTENT" in line:
                        break
            asked = [{"id": "u", "role": "user", "content": "ask"}]
            await client.post("/ag-ui", json=body(threadId="t", runId="w", messages=asked))  # ends where it asks
            for _ in range(100):
                seen = (await client.get("/runs/r")).json()["status"]
                if seen == status.value and families:
                    break
                await asyncio.sleep(0.002)
            assert seen == status.value
            assert (await client.get("/runs/w")).json()["status"] == "waiting"
            await client.post("/runs/r/cancel")
            await client.post("/runs/w/cancel")


def test_a_family_that_is_none_is_an_error():
    with pytest.raises(UsageError, match="copilot"):
        create_app(Runner(two), cancel_on_hang_up={"copilot"})


async def stateful(message: str) -> AsyncIterator[AgentItem]:
    yield StateSnapshotEvent(snapshot={"n": 1, "kept": True})
    yield StateDeltaEvent(delta=[{"op": "replace", "path": "/n", "value": 2}])


async def test_state_on_the_ai_sdk_wire_is_never_stale(client_of: Callable[..., Any]):
    runner = Runner(stateful)
    client = await client_of(runner)
    await (await runner.start("?", run_id="r", session_id="s")).wait()
    answer = await client.get("/runs/r/events?wire=vercel", headers=STREAM)
    states = [one["data"] for one in data(answer.content) if one["type"] == "data-state"]
    assert states == [{"n": 1, "kept": True}, {"n": 2, "kept": True}]
    _, message = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    assert [part["data"] for part in message["parts"] if part["type"] == "data-state"] == [{"n": 2, "kept": True}]


def deferring() -> Agent[None, str]:
    async def model(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        returned = [part for one in messages for part in one.parts if isinstance(part, m.ToolReturnPart)]
        if returned:
            yield f"{returned[-1].outcome}: {returned[-1].content}"
        else:
            yield {0: DeltaToolCall(name="build", json_args="{}", tool_call_id="c1")}

    agent = Agent(FunctionModel(stream_function=model))

    @agent.tool_plain
    def build() -> str:
        raise CallDeferred

    return agent


def long_running() -> LlmAgent:
    def build() -> None:
        """Builds, elsewhere."""

    return LlmAgent(
        name="a", model=adk_model(ToolCall("build"), *words("done")), tools=[LongRunningFunctionTool(build)]
    )


@pytest.mark.parametrize("state", ["output-available", "output-error"])
@pytest.mark.parametrize("make", [deferring, long_running])
async def test_a_call_that_is_executed_elsewhere_waits_for_its_output(
    make: Any, state: str, client_of: Callable[..., Any]
):
    client = await client_of(Runner(make()))
    asked = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "go"}]}
    first = data((await client.post("/vercel/chat", json={"id": "s", "messages": [asked]})).content)
    kinds = [one["type"] for one in first]
    assert "tool-approval-request" not in kinds
    assert (kinds[-1], first[-1]["finishReason"]) == ("finish", "tool-calls")
    _, loaded = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    (part,) = [one for one in loaded["parts"] if "toolCallId" in one]
    assert part["state"] == "input-available"
    part |= (
        {"state": state, "output": {"built": 1}} if state == "output-available" else {"state": state, "errorText": "no"}
    )
    rest = data((await client.post("/vercel/chat", json={"id": "s", "messages": [asked, loaded]})).content)
    assert rest[0] == {**first[0], "type": "start"}
    (told,) = [one for one in rest if one["type"].startswith("tool-output-")]
    assert (told["type"], told["toolCallId"]) == (f"tool-{state}", part["toolCallId"])
    assert "built" in str(told) or told.get("errorText") == "no"
    text = "".join(one["delta"] for one in rest if one["type"] == "text-delta")
    assert text in ("done", "success: {'built': 1}", "failed: no")


async def calling(client: Any) -> tuple[str, Any]:
    """A session `s` whose run waits for what a call comes to: the call's id, and the request that it began with."""
    asked = {"role": "user", "content": "go"}
    said = (await client.post("/v1/responses", json={"model": "a", "input": [asked], "conversation": "s"})).json()
    (item,) = [one for one in said["output"] if one["type"] == "mcp_call"]
    assert (said["status"], item["status"]) == ("in_progress", "in_progress")
    return item["id"], said


@pytest.mark.parametrize("error", [None, "no"])
@pytest.mark.parametrize("make", [deferring, long_running])
async def test_ag_ui_takes_its_result_as_one_of_a_tool_of_the_pages_own(
    make: Any, error: str | None, client_of: Callable[..., Any]
):
    """As Pydantic AI's own adapter has it, and clients that know no interrupts."""
    client = await client_of(Runner(make(), app_name="a"))
    asked = {"id": "u", "role": "user", "content": "go"}
    first = data((await client.post("/ag-ui", json=body(messages=[asked]))).content)
    (start,) = [one for one in first if one["type"] == "TOOL_CALL_START"]
    call = {"id": start["toolCallId"], "type": "function", "function": {"name": "build", "arguments": "{}"}}
    result = {"id": "t", "role": "tool", "toolCallId": call["id"], "content": '{"built":1}'}
    if error is not None:
        result |= {"error": error, "content": error}
    held = [asked, {"id": "a", "role": "assistant", "toolCalls": [call]}, result]
    for again in ("r2", "r3"):  # the second time the answer to the first was lost
        rest = data((await client.post("/ag-ui", json=body(runId=again, messages=held))).content)
        assert (rest[0]["type"], rest[0]["runId"], rest[-1]["type"]) == ("RUN_STARTED", "r", "RUN_FINISHED")
        (told,) = [one for one in rest if one["type"] == "TOOL_CALL_RESULT"]
        assert (error or "built") in str(told)
        text = "".join(one["delta"] for one in rest if one["type"] == "TEXT_MESSAGE_CONTENT")
        assert text in ("done", "success: {'built': 1}", "failed: no")
    (turn,) = await client_runs(client)
    assert turn == ("r", "finished")


async def client_runs(client: Any) -> list[tuple[str, str]]:
    return [(run["id"], run["status"]) for run in (await client.get("/runs")).json()["runs"]]


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("make", [deferring, long_running])
async def test_responses_take_its_result_as_the_output_of_a_call(
    make: Any, stream: bool, by: str, client_of: Callable[..., Any]
):
    client = await client_of(Runner(make(), app_name="a"))
    item, said = await calling(client)
    output = {"type": "function_call_output", "call_id": item, "output": '{"built":1}'}
    known = {"previous_response_id": said["id"]} if by == "previous_response_id" else {"conversation": "s"}
    answer = await client.post("/v1/responses", json={"model": "a", "input": [output], "stream": stream, **known})
    assert answer.status_code == 200, answer.text
    whole = data(answer.content)[-1]["response"] if stream else answer.json()
    assert (whole["id"], whole["status"]) == (said["id"], "completed")
    call, text = whole["output"]
    assert (call["id"], call["status"], "built" in call["output"]) == (item, "completed", True)
    assert text["content"][0]["text"] in ("done", "success: {'built': 1}")
    assert len(await client_runs(client)) == 1


async def two_questions(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    asked = [Interrupt(id=id, reason="tool_call", tool_call_id=id) for id in ("q1", "q2", "q3")]
    for id in ("q1", "q2", "q3"):
        yield ToolCallStartEvent(tool_call_id=id, tool_call_name="pay")
        yield ToolCallEndEvent(tool_call_id=id)
    answers = {one.interrupt_id: one.payload["approved"] for one in await ctx.interrupt(asked)}
    yield str([answers[id] for id in ("q1", "q2", "q3")])


async def answer_own(client: Any, id: str) -> Any:
    resume = [{"interruptId": id, "status": "resolved", "payload": {"approved": True}}]
    answer = await client.post("/runs/r/input", json={"resume": resume})
    assert answer.status_code == 202, answer.text


async def answer_ag_ui(client: Any, id: str) -> Any:
    resume = [{"interruptId": id, "status": "resolved", "payload": {"approved": True}}]
    answer = await client.post("/ag-ui", json=body(runId=f"r-{id}", resume=resume))
    assert answer.status_code == 200, answer.text


async def answer_ai_sdk(client: Any, id: str) -> Any:
    approval = {"id": id, "approved": True}
    part = {"type": "tool-pay", "toolCallId": id, "state": "approval-responded", "input": {}, "approval": approval}
    message = {"id": "r", "role": "assistant", "parts": [part]}
    answer = await client.post("/vercel/chat", json={"id": "s", "messages": [message]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("order", [("q1", "q2", "q3"), ("q3", "q1", "q2")])
@pytest.mark.parametrize("first", [answer_own, answer_ag_ui, answer_ai_sdk])
async def test_several_questions_are_answered_one_by_one_in_any_order_by_several_clients(
    first: Any, order: Any, client_of: Callable[..., Any]
):
    client = await client_of(Runner(two_questions))
    ways = [answer_own, answer_ag_ui, answer_ai_sdk]
    ways = ways[ways.index(first) :] + ways[: ways.index(first)]
    await client.post("/ag-ui", json=body())
    for id, (way, left) in zip(order, zip(ways, (2, 1, 0), strict=True), strict=True):
        await way(client, id)
        run = (await client.get("/runs/r")).json()
        while run["status"] == "running" or len(run.get("interrupts", [])) > left:
            await asyncio.sleep(0.001)
            run = (await client.get("/runs/r")).json()
        assert len(run.get("interrupts", [])) == left, run
    events = data((await client.get("/runs/r/events", headers=STREAM)).content)
    assert "".join(one["delta"] for one in events if one["type"] == "TEXT_MESSAGE_CONTENT") == "[True, True, True]"
    _, message = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    assert "approval-requested" not in str(message), "no button that cannot work"
