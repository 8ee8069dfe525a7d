"""Objects that speak AG-UI in this process: their events are the run's, and what they repeat is not said again."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ag_ui import core as a
from ag_ui.encoder import EventEncoder

from gapless import ResumeEntry, Runner
from gapless.agents import adapt
from gapless.agents.agui_object import AGUIObject
from gapless.errors import AgentInvalid
from gapless.events import (
    Event,
    MessagesSnapshotEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StateSnapshotEvent,
    TextMessageContentEvent,
    Tool,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from gapless.user_message import mark_results
from tests.support.agui import check_order


class Bridge:
    """As the bridges of frameworks are: a whole snapshot after each message."""

    name = "bridge"

    def __init__(self, *events: Any, ends: bool = True) -> None:
        self.events = events
        self.ends = ends
        self.inputs: list[a.RunAgentInput] = []
        self.running = 0

    async def run(self, input_data: a.RunAgentInput) -> AsyncIterator[Any]:
        self.inputs.append(input_data)
        self.running += 1
        try:
            yield a.RunStartedEvent(thread_id=input_data.thread_id, run_id=input_data.run_id)
            for event in self.events:
                if event is None:
                    await asyncio.Event().wait()
                yield event(input_data) if callable(event) else event
            if self.ends:
                yield a.RunFinishedEvent(thread_id=input_data.thread_id, run_id=input_data.run_id)
        finally:
            self.running -= 1


SAID = (
    a.TextMessageStartEvent(message_id="m1"),
    a.TextMessageContentEvent(message_id="m1", delta="One "),
    a.TextMessageContentEvent(message_id="m1", delta="two"),
    a.TextMessageEndEvent(message_id="m1"),
)


async def events_of(agent: Any, message: Any = "hello", **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        run = await runner.start(message, **options)
        events = [event async for event in run.events()]
        await run.raise_if_failed()
    check_order(events)
    return events


def texts(events: list[Event]) -> list[str]:
    return [event.delta for event in events if isinstance(event, TextMessageContentEvent)]


async def test_it_is_found_by_what_its_run_takes_and_given_the_conversation():
    bridge = Bridge(*SAID)
    assert isinstance(adapt(bridge), AGUIObject)
    assert adapt(bridge).name == "bridge"
    async with Runner(bridge) as runner:
        for number in (1, 2):
            await (await runner.start(UserMessage(id=f"u{number}", content=f"q{number}"), session_id="s")).wait()
    assert [message.content for message in bridge.inputs[-1].messages] == ["q1", "One two", "q2"]
    assert bridge.inputs[-1].thread_id == "s"


async def test_what_snapshots_repeat_is_not_said_and_what_is_new_in_them_is():
    def snapshot(given: a.RunAgentInput) -> a.MessagesSnapshotEvent:
        call = a.ToolCall(id="c1", function=a.FunctionCall(name="look", arguments='{"at": 1}'))
        return a.MessagesSnapshotEvent(
            messages=[
                *given.messages,
                a.AssistantMessage(id="m1", content="One two"),
                a.AssistantMessage(id="m2", content="three", tool_calls=[call]),
                a.ToolMessage(id="t1", tool_call_id="c1", content="seen"),
            ]
        )

    state = a.StateSnapshotEvent(snapshot={"a": 1})
    events = await events_of(Bridge(*SAID, snapshot, state, snapshot, state))
    assert texts(events) == ["One ", "two", "three"]
    assert [event.content for event in events if isinstance(event, ToolCallResultEvent)] == ["seen"]
    assert not [event for event in events if isinstance(event, MessagesSnapshotEvent)]
    assert len([event for event in events if isinstance(event, StateSnapshotEvent)]) == 1


async def test_what_comes_again_under_another_id_is_not_said_again():
    """As LlamaIndex and CrewAI have it: each snapshot gives what the run has said new ids."""
    ids = itertools.count()

    def snapshot(*messages: Any) -> Any:
        def made(given: a.RunAgentInput) -> a.MessagesSnapshotEvent:
            renamed = [one.model_copy(update={"id": f"new-{next(ids)}"}) for one in messages]
            return a.MessagesSnapshotEvent(messages=[*given.messages, *renamed])

        return made

    call = a.ToolCall(id="c1", function=a.FunctionCall(name="look", arguments='{"at": 1}'))
    one = a.AssistantMessage(id="", content="One two ", tool_calls=[call])
    seen = a.ToolMessage(id="", tool_call_id="c1", content="seen")
    again = a.AssistantMessage(id="", content="One two")
    began = a.ToolCallStartEvent(tool_call_id="c1", tool_call_name="look")
    told = [snapshot(one), snapshot(one, seen), snapshot(one, seen, again), snapshot(one, seen, again)]
    events = await events_of(Bridge(*SAID, began, *told))
    assert texts(events) == ["One ", "two", "One two"], "what was said twice is said twice"
    assert [event.tool_call_id for event in events if isinstance(event, ToolCallStartEvent)] == ["c1"]
    assert [event.content for event in events if isinstance(event, ToolCallResultEvent)] == ["seen"]


@pytest.mark.parametrize("form", ["dict", "frame", "bytes"])
async def test_events_may_come_as_dicts_or_as_frames(form: str):
    def formed(event: Any) -> Any:
        if form == "dict":
            return event.model_dump(by_alias=True, exclude_none=True, mode="json")
        frame = EventEncoder().encode(event)
        return frame.encode() if form == "bytes" else frame

    assert texts(await events_of(Bridge(*map(formed, SAID)))) == ["One ", "two"]


@pytest.mark.parametrize("form", ["dict", "frame", "model"])
async def test_an_emoji_divided_between_two_events_is_whole(form: str):
    def said(delta: str) -> Any:
        event = {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": delta}
        if form == "model":
            return a.TextMessageContentEvent.model_construct(message_id="m1", delta=delta)
        return event if form == "dict" else f"data: {json.dumps(event)}\n\n"

    snapshot = {"type": "STATE_SNAPSHOT", "snapshot": {"half": "\ud83d"}}
    bridge = Bridge(SAID[0], said("a\ud83d"), said("\ude00b"), SAID[-1], snapshot)
    events = await events_of(bridge)
    assert "".join(texts(events)) == "a\U0001f600b"


@pytest.mark.parametrize("ends", [True, False], ids=["RUN_FINISHED", "no end"])
async def test_a_call_of_the_clients_own_tool_is_left_to_it_and_its_result_is_told_once(ends: bool):
    call = (
        a.ToolCallStartEvent(tool_call_id="c1", tool_call_name="colour"),
        a.ToolCallArgsEvent(tool_call_id="c1", delta="{}"),
        a.ToolCallEndEvent(tool_call_id="c1"),
    )
    bridge = Bridge(*call, ends=ends)
    colour = Tool(name="colour", description="", parameters={"type": "object", "properties": {}})
    async with Runner(bridge) as runner:
        for tools, pending in ([colour], ["c1"]), ([], None):
            run = await runner.start("paint", session_id="s", tools=tools)
            ended = [event async for event in run.events()][-1]
            assert isinstance(ended, RunFinishedEvent)
            assert getattr(ended.outcome, "pending_tool_call_ids", None) == pending
        bridge.events = SAID
        brought = UserMessage(id="u2", content="")
        mark_results(brought, [ToolMessage(id="t1", tool_call_id="c1", content="ultramarine")])
        await (await runner.start(brought, session_id="s", tools=[colour])).wait()
        await (await runner.start("more", session_id="s")).wait()
    assert [str(given.messages).count("ultramarine") for given in bridge.inputs] == [0, 0, 1, 1]


async def test_what_is_no_event_says_so():
    with pytest.raises(AgentInvalid, match="int is no event of AG-UI"):
        await events_of(Bridge(7))


async def test_an_error_of_its_own_fails_the_run():
    async with Runner(Bridge(*SAID[:2], a.RunErrorEvent(message="out of tea", code="tea"))) as runner:
        run = await runner.start("hello")
        await run.wait()
        assert (await run.record()).error == {"code": "tea", "message": "out of tea"}


async def test_its_question_is_asked_and_it_is_run_again_with_the_answer():
    class Asking(Bridge):
        async def run(self, input_data: a.RunAgentInput) -> AsyncIterator[Any]:
            self.inputs.append(input_data)
            if len(self.inputs) == 1:
                outcome = {"type": "interrupt", "interrupts": [{"id": "i1", "reason": "input_required"}]}
                yield {"type": "RUN_FINISHED", "threadId": "s", "runId": "r", "outcome": outcome}
                return
            for event in SAID:
                yield event

    bridge = Asking()
    async with Runner(bridge) as runner:
        run = await runner.start("hello")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                await run.answer([ResumeEntry(interrupt_id="i1", status="resolved", payload={"yes": 1})])
        assert (await run.collect()).text == "One two"
    (answer,) = bridge.inputs[-1].resume or [None]
    assert answer is not None
    assert answer.payload == {"yes": 1}


async def test_a_cancel_closes_it():
    bridge = Bridge(*SAID[:2], None)
    async with Runner(bridge) as runner:
        run = await runner.start("hello")
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                await run.cancel()
        assert bridge.running == 0
