"""What is open, what ends or begins before the next event: without any journal."""

from __future__ import annotations

import pytest

from gapless.errors import AgentInvalid
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.runs.order import Order


@pytest.fixture
def order() -> Order:
    return Order("r")


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


def test_content_opens_what_it_goes_into(order: Order):
    assert kinds(order.admit(TextMessageContentEvent(message_id="m", delta="a"))) == [
        TextMessageStartEvent,
        TextMessageContentEvent,
    ]
    assert kinds(order.admit(TextMessageContentEvent(message_id="m", delta="b"))) == [TextMessageContentEvent]
    assert kinds(order.admit(ReasoningMessageContentEvent(message_id="t", delta="c"))) == [
        ReasoningStartEvent,
        ReasoningMessageStartEvent,
        ReasoningMessageContentEvent,
    ]


def test_nothing_opens_or_closes_twice(order: Order):
    start, end = StepStartedEvent(step_name="s"), StepFinishedEvent(step_name="s")
    assert order.admit(start) == [start]
    assert order.admit(start) == []
    assert order.admit(end) == [end]
    assert order.admit(end) == []


def test_a_span_of_its_own_ends_before_what_is_no_reasoning(order: Order):
    order.admit(ReasoningMessageStartEvent(message_id="t"))
    assert kinds(order.admit(ReasoningMessageEndEvent(message_id="t"))) == [ReasoningMessageEndEvent]
    assert kinds(order.admit(CustomEvent(name="n", value=1))) == [ReasoningEndEvent, CustomEvent]


def test_a_result_ends_its_call(order: Order):
    order.admit(ToolCallStartEvent(tool_call_id="c", tool_call_name="f"))
    result = ToolCallResultEvent(message_id="m", tool_call_id="c", content="ok")
    assert kinds(order.admit(result)) == [ToolCallEndEvent, ToolCallResultEvent]


def test_what_is_refused_leaves_everything_as_it_was(order: Order):
    order.admit(ReasoningMessageStartEvent(message_id="t"))
    order.admit(ReasoningMessageEndEvent(message_id="t"))
    with pytest.raises(AgentInvalid, match="run r: TOOL_CALL_ARGS for c, which was not started"):
        order.admit(ToolCallArgsEvent(tool_call_id="c", delta="{}"))
    ends, events = order.expand(TextMessageChunkEvent(message_id="m", delta="a"))
    assert ends == []
    for event in events:
        order.admit(event)
    with pytest.raises(AgentInvalid, match="needs its toolCallName"):
        order.expand(ToolCallChunkEvent(tool_call_id="c", delta="{}"))
    assert [type(event) for event in order.close_all()] == [TextMessageEndEvent]


def test_a_chunk_of_another_message_ends_the_one_before_it(order: Order):
    for chunk, expected in (
        (TextMessageChunkEvent(message_id="m", delta="a"), ([], [TextMessageStartEvent, TextMessageContentEvent])),
        (TextMessageChunkEvent(delta="b"), ([], [TextMessageContentEvent])),
        (TextMessageChunkEvent(message_id="n"), ([TextMessageEndEvent], [TextMessageStartEvent])),
        (
            ToolCallChunkEvent(tool_call_id="c", tool_call_name="f", delta="{"),
            ([TextMessageEndEvent], [ToolCallStartEvent, ToolCallArgsEvent]),
        ),
    ):
        ends, events = order.expand(chunk)
        assert (kinds(ends), kinds(events)) == expected
        for event in events:
            order.admit(event)


def test_the_innermost_is_closed_first(order: Order):
    order.admit(StepStartedEvent(step_name="s"))
    order.admit(TextMessageStartEvent(message_id="m", role="assistant"))
    assert len(order) == 2
    assert kinds(order.close_all()) == [TextMessageEndEvent, StepFinishedEvent]
    assert order.close_all() == []


def test_what_another_worker_recorded_is_taken_up(order: Order):
    order.resume(StepStartedEvent(step_name="s"))
    order.resume(TextMessageStartEvent(message_id="m", role="assistant"))
    order.resume(TextMessageContentEvent(message_id="m", delta="a"))
    order.resume(StepFinishedEvent(step_name="s"))
    assert kinds(order.close_all()) == [TextMessageEndEvent]
