"""People do not wait: they stop an answer and say the next thing, or say something where a yes or no was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from gapless import RunConfig, Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.errors import SessionBusy
from gapless.events import Interrupt, ResumeEntry
from gapless.records import RunStatus
from tests.support.waiting import WAIT_S, at_rest

USER = [{"id": "u2", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]
CALL = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
ASKED = [
    {"id": "r1-user", "role": "user", "content": "pay"},
    {"id": "c1", "role": "assistant", "toolCalls": [CALL]},
    {"id": "u2", "role": "user", "content": "hi"},
]
SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("/runs", {"message": "hi", "session_id": "s", "run_id": "r2"}),
    "text": ("/chat/stream", {"query": "hi", "session_id": "s", "run_id": "r2"}),
    "vercel": ("/vercel/chat", {"id": "s", "messages": USER}),
    "ag-ui": ("/ag-ui", {"threadId": "s", "runId": "r2", "messages": ASKED}),
    "responses": ("/v1/responses", {"model": "a", "input": "hi", "conversation": "s", "stream": True}),
}
"""By route: how a message for the session is sent."""


async def cleans_up(message: str) -> AsyncIterator[str]:
    if message == "hi":
        yield "hello"
        return
    yield "long"
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.05)


async def said(client: Any, name: str) -> Any:
    path, body = SENT[name]
    answer = await client.post(path, json=body, headers={"accept": "text/event-stream"})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("name", SENT)
async def test_what_is_said_after_a_stop_is_answered(name: str, client_of: Callable[..., Any]):
    runner = Runner(cleans_up, app_name="a")
    client = await client_of(runner)
    run = await runner.start("essay", run_id="r1", session_id="s")
    async for _ in run.text():
        break
    await run.cancel()
    assert b"hello" in (await said(client, name)).content
    assert (await run.record()).status is RunStatus.CANCELLED
    assert "long" in str(await runner.messages("s"))


async def test_of_two_that_wait_for_a_stop_one_has_the_session():
    async with Runner(cleans_up) as runner:
        run = await runner.start("essay", session_id="s")
        async for _ in run.text():
            break
        await run.cancel()
        two = await asyncio.gather(*(runner.start("essay", session_id="s") for _ in range(2)), return_exceptions=True)
        assert sorted(type(one).__name__ for one in two) == ["Run", "SessionBusy"]


async def test_a_clean_up_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.worker.STOPPING_WAIT_S", 0.01)
    monkeypatch.setattr("gapless.runs.execution.CLEANUP_S_MAX", WAIT_S)
    cleaned = asyncio.Event()

    async def cleans_up_for_long(message: str) -> AsyncIterator[str]:
        try:
            async for word in cleans_up(message):
                yield word
        finally:
            if message != "hi":
                await cleaned.wait()

    async with Runner(cleans_up_for_long) as runner:
        run = await runner.start("essay", session_id="s")
        async for _ in run.text():
            break
        await run.cancel()
        with pytest.raises(SessionBusy):
            await runner.start("hi", session_id="s")
        cleaned.set()
        await run.wait()
        assert (await (await runner.start("hi", session_id="s")).collect()).text == "hello"


def payer(seen: list[Any]) -> Agent[None, str]:
    async def model(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        seen.append([(type(p).__name__, getattr(p, "outcome", None)) for one in messages for p in one.parts])
        said = [part.content for one in messages for part in one.parts if isinstance(part, m.UserPromptPart)]
        returned = any(isinstance(part, m.ToolReturnPart) for one in messages for part in one.parts)
        if said[-1] == "hi":
            yield "hello"
        elif returned:
            yield "not paid"
        else:
            yield {0: DeltaToolCall(name="pay", json_args="{}", tool_call_id="c1")}

    agent = Agent(FunctionModel(stream_function=model))

    @agent.tool_plain(requires_approval=True)
    def pay() -> str:
        seen.append("paid")
        return "paid"

    return agent


async def waiting(runner: Runner, message: str = "pay") -> Any:
    run = await runner.start(message, run_id="r1", session_id="s")
    while (await run.record()).status is not RunStatus.WAITING:
        await asyncio.sleep(0.001)
    return run


@pytest.mark.parametrize("name", SENT)
async def test_a_message_instead_of_an_answer_is_a_no(name: str, client_of: Callable[..., Any]):
    seen: list[Any] = []
    runner = Runner(payer(seen), app_name="a")
    client = await client_of(runner)
    run = await waiting(runner)
    assert b"hello" in (await said(client, name)).content
    assert (await run.record()).status is RunStatus.FINISHED
    assert "paid" not in seen
    assert seen[-1] == [
        ("UserPromptPart", None),
        ("ToolCallPart", None),
        ("ToolReturnPart", "denied"),
        ("TextPart", None),
        ("UserPromptPart", None),
    ]


@pytest.mark.parametrize("name", SENT)
async def test_an_operator_may_have_questions_answered_first(name: str, client_of: Callable[..., Any]):
    runner = Runner(payer([]), app_name="a", config=RunConfig(on_waiting="reject"))
    client = await client_of(runner)
    await waiting(runner)
    path, body = SENT[name]
    refused = await client.post(path, json=body)
    assert (refused.status_code, "waits for a person" in refused.text) == (409, True)


async def asks_often(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    if message == "hi":
        yield "hello"
        return
    for number in range(50):
        (answer,) = await ctx.interrupt([Interrupt(id=f"q{number}", reason="input_required")])
        yield f"{answer.status} "


async def test_a_run_that_asks_on_and_on_is_cancelled_in_the_end():
    async with Runner(asks_often) as runner:
        run = await waiting(runner, "ask")
        assert (await (await runner.start("hi", session_id="s")).collect()).text == "hello"
        assert (await run.record()).status is RunStatus.CANCELLED
        assert (await run.collect()).text == "\n\n".join(["cancelled "] * 10)


async def test_a_message_that_was_queued_before_the_question_waits_for_its_answer():
    gate = asyncio.Event()

    async def asks(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
        if message == "ask":
            yield "first"
            await gate.wait()
            await asyncio.sleep(0.002)  # the question is another millisecond's
            (answer,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
            yield f"answered {answer.payload}"
        yield "hello"

    async with Runner(asks) as runner:
        run = await runner.start("ask", run_id="r1", session_id="s")
        queued = await runner.start("hi", session_id="s", config=RunConfig(on_busy="queue"))
        gate.set()
        while (await run.record()).status is not RunStatus.WAITING:
            await asyncio.sleep(0.001)
        await at_rest()
        assert (await run.record()).status is RunStatus.WAITING
        await run.answer([ResumeEntry(interrupt_id="q", status="resolved", payload="yes")])
        await queued.wait()
        assert "answered yes" in (await run.collect()).text
