"""What Pydantic AI's next turn is given, however the turns before it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from gapless import Runner
from gapless.agents import adapt
from gapless.events import (
    AssistantMessage,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    TextMessageContentEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UserMessage,
)
from tests.support.model_server import ModelServer
from tests.support.pydantic_ai_runs import (
    context,
    events_of,
    every_call_is_answered,
    of,
    one_run,
    openai,
    text,
    weather_agent,
)
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.both_ways


async def test_the_model_sees_the_sessions_history_in_its_own_form() -> None:
    script, agent = weather_agent()
    async with Runner(agent) as runner:
        for message in ("hello", "again"):
            await (await runner.start(message, session_id="s")).collect()
    seen = script.seen[-1]
    prompts = [p.content for one in seen for p in one.parts if isinstance(p, m.UserPromptPart)]
    assert prompts == ["hello", "again"]
    systems = [p.content for one in seen for p in one.parts if isinstance(p, m.SystemPromptPart)]
    assert systems == ["Be brief."]
    thoughts = [p for one in seen for p in one.parts if isinstance(p, m.ThinkingPart)]
    assert [thought.signature for thought in thoughts] == ["signed", "signed"]
    every_call_is_answered(seen)


async def test_turns_of_another_agent_and_the_clients_own_history_are_understood() -> None:
    script, agent = weather_agent()

    async def other(message: str) -> AsyncIterator[Any]:
        yield "I will check."
        yield ToolCallStartEvent(tool_call_id="x1", tool_call_name="check")
        yield ToolCallArgsEvent(tool_call_id="x1", delta='{"a": 1}')
        yield ToolCallEndEvent(tool_call_id="x1")
        yield ToolCallResultEvent(message_id="t1", tool_call_id="x1", content="checked")
        yield ToolCallStartEvent(tool_call_id="x2", tool_call_name="cut")
        yield ToolCallArgsEvent(tool_call_id="x2", delta='{"a": ')

    async with Runner(agents={"other": other, "weather": agent}) as runner:
        await (await runner.start("one", agent="other", session_id="s")).collect()
        await (await runner.start("two", agent="weather", session_id="s")).collect()
        seen = script.seen[-1]
        assert [p.content for one in seen for p in one.parts if isinstance(p, m.UserPromptPart)] == ["one", "two"]
        returned = [p for one in seen for p in one.parts if isinstance(p, m.ToolReturnPart)]
        assert ("check", "checked") in [(part.tool_name, part.content) for part in returned]
        assert [p.content for one in seen for p in one.parts if isinstance(p, m.SystemPromptPart)] == ["Be brief."]
        every_call_is_answered(seen)
        own = [UserMessage(id="1", content="mine"), AssistantMessage(id="2", content="yours")]
        await (await runner.start("three", agent="weather", session_id="s", messages=own)).collect()  # type: ignore[arg-type]
        seen = script.seen[-2]
        assert [p.content for one in seen for p in one.parts if isinstance(p, m.UserPromptPart)] == ["mine", "three"]


async def positions() -> int:
    """How many positions the weather agent's run has."""
    script, agent = weather_agent()
    await one_run(agent)
    return script.position


async def test_cancelled_at_every_position_a_run_ends_once_stops_its_model_and_leaves_a_good_session() -> None:
    total = await positions()
    assert total > 12
    for stop_at in range(total):
        script, agent = weather_agent()
        script.stop_at = stop_at
        async with Runner(agent) as runner:
            run = await runner.start("hello", session_id="s")
            await script.stopped.wait()
            await run.cancel()
            await run.wait()
            assert script.calls_open == 0, f"position {stop_at}: the model call goes on"
            events = await events_of(run)
            ends = of(events, RunFinishedEvent)
            assert len(ends) == 1
            assert isinstance(ends[0].outcome, RunFinishedCancelledOutcome)
            shown = text(events)
            after = await (await runner.start("again", session_id="s")).collect()
            assert after.text == "Let me look. \n\nIt is sunny.", f"position {stop_at}"
            seen = script.seen[-1]
            said = "".join(p.content for one in seen for p in one.parts if isinstance(p, m.TextPart))
            assert said == shown + "Let me look. ", f"position {stop_at}: the model forgot what was shown"
            every_call_is_answered(seen)


async def test_closed_after_every_item_the_adapter_stops_its_model_and_leaves_a_good_turn() -> None:
    script, agent = weather_agent()
    total = len([item async for item in adapt(agent).run(context())])
    assert total > 12
    for taken in range(1, total + 1):
        script, agent = weather_agent()
        ctx = context()
        async with aclosing(adapt(agent).run(ctx)) as items:  # type: ignore[type-var]  # an async generator
            for _ in range(taken):
                await anext(items)
        assert script.calls_open == 0, f"after item {taken}"
        earlier = [UserMessage(id="1", content="hello", metadata={"run_id": "r"})]
        native = [ctx.native] if ctx.native is not None else []
        then = context(run_id="r2", earlier=earlier, native_history=native)
        said = [item async for item in adapt(agent).run(then) if isinstance(item, str)]
        assert "".join(said) == "Let me look. It is sunny."
        every_call_is_answered(script.seen[-1])


async def test_cancelling_closes_the_models_http_stream_and_the_next_turn_remembers() -> None:
    server = ModelServer("Once ", "upon ")
    async with (
        server.serving() as base_url,
        httpx2.AsyncClient() as client,
        Runner(Agent(openai(base_url, client))) as runner,
    ):
        run = await runner.start("tell", session_id="s")
        shown = ""
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                shown += event.delta
                if shown == "Once upon ":
                    assert not server.hung_up.is_set()
                    await run.cancel()
        await asyncio.wait_for(server.hung_up.wait(), WAIT_S)
        record = await run.record()
        assert record.status.value == "cancelled"
        server.go_on.set()
        await (await runner.start("go on", session_id="s")).collect()
    roles = [(message["role"], message["content"]) for message in server.requests[-1]["messages"]]
    assert roles == [("user", "tell"), ("assistant", "Once upon "), ("user", "go on")]


async def test_a_history_processor_that_drops_old_turns_costs_the_new_one_nothing() -> None:
    """A turn is told from the history by its run, not by its place: the places move when messages are dropped."""
    seen: list[list[m.ModelMessage]] = []

    async def respond(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        seen.append(list(messages))
        last = messages[-1].parts[-1]
        if isinstance(last, m.UserPromptPart) and last.content == "price?":
            yield {0: DeltaToolCall(name="lookup", json_args="{}", tool_call_id="c1")}
        else:
            yield "ok"

    def newest(messages: list[m.ModelMessage]) -> list[m.ModelMessage]:
        asked = [n for n, one in enumerate(messages) if isinstance(one.parts[0], m.UserPromptPart)]
        return messages[asked[-2] :] if len(asked) > 2 else messages

    agent = Agent(FunctionModel(stream_function=respond), capabilities=[ProcessHistory(newest)])

    @agent.tool_plain
    def lookup() -> str:
        return "7"

    async with Runner(agent) as runner:
        for question in ("one", "two", "price?", "four"):
            calls = len(seen)
            run = await runner.start(question, session_id="s")
            *_, end = [event async for event in run.events()]
            assert isinstance(end, RunFinishedEvent)
            assert end.result is None
            assert end.usage is not None
            assert end.usage[0].input_tokens == 50 * (len(seen) - calls)
    kinds = [type(part).__name__ for message in seen[-1] for part in message.parts]
    assert kinds == ["UserPromptPart", "ToolCallPart", "ToolReturnPart", "TextPart", "UserPromptPart"]
