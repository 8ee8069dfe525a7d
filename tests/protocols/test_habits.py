"""Habits of other people's clients: an old route, an old protocol, a stop that only hangs up."""

from __future__ import annotations

import asyncio
import functools
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
from gapless.testing import ToolCall, adk_model, serving, words
from gapless.testing.agents import Made
from tests.support.frameworks import FRAMEWORKS
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
        await asyncio.Event().wait()


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
    await asyncio.Event().wait()


LEFT: dict[str, tuple[str, Callable[[str, str], dict[str, Any]]]] = {
    "ag-ui": (
        "/ag-ui",
        lambda run, text: body(threadId=run, runId=run, messages=[{"id": "u", "role": "user", "content": text}]),
    ),
    "vercel": (
        "/vercel/chat",
        lambda run, text: {
            "id": run,
            "runId": run,
            "messages": [{"id": f"u{run}", "role": "user", "parts": [{"type": "text", "text": text}]}],
        },
    ),
    "openai": (
        "/v1/chat/completions",
        lambda run, text: {
            "model": "a",
            "run_id": run,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
        },
    ),
    "text": ("/chat/stream", lambda run, text: {"query": text, "run_id": run}),
}
"""By family: where its clients ask, and with what."""


@pytest.mark.parametrize("cancels", [True, False])
async def test_an_operator_may_let_a_hang_up_cancel(cancels: bool, monkeypatch: pytest.MonkeyPatch):
    import httpx2

    monkeypatch.setattr("gapless.runs.worker.LEFT_S", 0.0)
    runner = Runner(endless, app_name="a")
    with serving(create_app(runner, cancel_on_hang_up=[*LEFT] if cancels else ())) as url:
        async with httpx2.AsyncClient(base_url=url) as client:

            async def hang_up(run: str, family: str, text: str, at: str) -> None:
                path, asked = LEFT[family]
                async with client.stream("POST", path, json=asked(run, text)) as stream:
                    assert stream.status_code == 200
                    async for line in stream.aiter_lines():
                        if at in line:
                            break

            for family in LEFT:
                await hang_up(f"r-{family}", family, "hi", '"on"')
            await hang_up("w", "ag-ui", "ask", "interrupt")  # ends where it asks

            async def status(run: str) -> Any:
                return (await client.get(f"/runs/{run}")).json()["status"]

            if not cancels:
                assert [await status(f"r-{family}") for family in LEFT] == ["running"] * len(LEFT)
            for family in LEFT if cancels else ():
                while (ended := await status(f"r-{family}")) == "running":
                    await asyncio.sleep(0.001)
                assert ended == "cancelled"
            assert await status("w") == "waiting"
            for run in (*(f"r-{family}" for family in LEFT), "w"):
                await client.post(f"/runs/{run}/cancel")


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


async def three_questions(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    asked = [Interrupt(id=id, reason="tool_call", tool_call_id=id) for id in ("q1", "q2", "q3")]
    for id in ("q1", "q2", "q3"):
        yield ToolCallStartEvent(tool_call_id=id, tool_call_name="pay")
        yield ToolCallEndEvent(tool_call_id=id)
    answers = {one.interrupt_id: one.payload["approved"] for one in await ctx.interrupt(asked)}
    PAID.extend(id for id in ("q1", "q2", "q3") if answers[id])
    yield "Over."


PAID: list[str] = []
"""Whom the agents of these tests have paid."""


async def pay(to: str) -> str:
    """Pay."""
    PAID.append(to)
    return "paid"


def payer(make: Callable[..., Made]) -> Any:
    return make(*(ToolCall("pay", {"to": f"q{n}"}) for n in (1, 2, 3)), "Over.", tools=[pay], approve=["pay"]).agent


ASKING: dict[str, Callable[[], Any]] = {
    "function": lambda: three_questions,
    **{name: functools.partial(payer, make) for name, make in FRAMEWORKS.items()},
}


async def answer_own(client: Any, id: str) -> Any:
    resume = [{"interruptId": id, "status": "resolved", "payload": {"approved": True}}]
    answer = await client.post("/runs/r/input", json={"resume": resume})
    assert answer.status_code == 202, answer.text


async def answer_ag_ui(client: Any, id: str) -> Any:
    resume = [{"interruptId": id, "status": "resolved", "payload": {"approved": True}}]
    answer = await client.post("/ag-ui", json=body(runId=f"r-{id}", resume=resume))
    assert answer.status_code == 200, answer.text


async def answer_ai_sdk(client: Any, id: str) -> Any:
    *_, message = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    for part in message["parts"]:
        if part.get("approval", {}).get("id") == id:
            part |= {"state": "approval-responded", "approval": {"id": id, "approved": True}}
    answer = await client.post("/vercel/chat", json={"id": "s", "messages": [message]})
    assert answer.status_code == 200, answer.text


WAYS = (answer_own, answer_ag_ui, answer_ai_sdk)


@pytest.mark.parametrize(
    ("name", "first", "order"),
    [
        *(("function", way, order) for way in WAYS for order in ((0, 1, 2), (2, 0, 1))),
        *((name, WAYS[at % 3], (2, 0, 1)) for at, name in enumerate(FRAMEWORKS)),
    ],
)
async def test_several_questions_are_answered_one_by_one_in_any_order_by_several_clients(
    name: str, first: Any, order: Any, client_of: Callable[..., Any]
):
    PAID.clear()
    runner = Runner(ASKING[name]())
    client = await client_of(runner)
    ways = [*WAYS[WAYS.index(first) :], *WAYS[: WAYS.index(first)]]
    await client.post("/ag-ui", json=body())
    asked = [one["id"] for one in (await client.get("/runs/r")).json()["interrupts"]]
    assert len(asked) == 3
    for number, (place, way) in enumerate(zip(order, ways, strict=True), 1):
        await way(client, asked[place])
        await until_left(client, 3 - number)
        assert number == 3 or not PAID, "they are paid when all is said"
    await (await runner.attach("r")).wait()
    assert sorted(PAID) == ["q1", "q2", "q3"]
    events = data((await client.get("/runs/r/events", headers=STREAM)).content)
    assert "".join(one["delta"] for one in events if one["type"] == "TEXT_MESSAGE_CONTENT") == "Over."
    _, message = (await client.get("/vercel/chat/s/messages")).json()["messages"]
    assert "approval-requested" not in str(message), "no button that cannot work"


async def until_left(client: Any, questions: int) -> None:
    """Look at the run until it has so many questions left, which it then keeps."""
    while len((await client.get("/runs/r")).json().get("interrupts", [])) != questions:
        await asyncio.sleep(0.001)
