"""AG-UI's rules of order, as its clients check them."""

from __future__ import annotations

from collections.abc import Sequence

from gapless.events import (
    Event,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    StepFinishedEvent,
    StepStartedEvent,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
)

_STARTS = {
    TextMessageStartEvent: ("text", "message_id"),
    ReasoningStartEvent: ("span", "message_id"),
    ReasoningMessageStartEvent: ("reasoning", "message_id"),
    ToolCallStartEvent: ("call", "tool_call_id"),
    StepStartedEvent: ("step", "step_name"),
    SubagentStartedEvent: ("subagent", "subagent_run_id"),
}
_WITHIN = {
    TextMessageContentEvent: ("text", "message_id"),
    ReasoningMessageContentEvent: ("reasoning", "message_id"),
    ToolCallArgsEvent: ("call", "tool_call_id"),
}
_ENDS = {
    TextMessageEndEvent: ("text", "message_id"),
    ReasoningEndEvent: ("span", "message_id"),
    ReasoningMessageEndEvent: ("reasoning", "message_id"),
    ToolCallEndEvent: ("call", "tool_call_id"),
    StepFinishedEvent: ("step", "step_name"),
    SubagentFinishedEvent: ("subagent", "subagent_run_id"),
    SubagentErrorEvent: ("subagent", "subagent_run_id"),
}


def check_order(events: Sequence[Event]) -> None:
    """Raise AssertionError unless this is what every AG-UI client accepts of a whole run."""
    running = ended = False
    opened: set[tuple[str, str]] = set()
    for position, event in enumerate(events):
        where = f"{type(event).__name__} at {position}"
        assert not ended, f"{where}: after RUN_ERROR"
        if isinstance(event, RunStartedEvent):
            assert not running, f"{where}: the run is running"
            running = True
            continue
        if isinstance(event, RunErrorEvent):
            ended = True
            continue
        assert running, f"{where}: outside of the run"
        if isinstance(event, RunFinishedEvent):
            assert not opened, f"{where}: still open: {opened}"
            running = False
        elif (start := _STARTS.get(type(event))) is not None:
            key = (start[0], getattr(event, start[1]))
            assert key not in opened, f"{where}: {key} is open"
            opened.add(key)
        elif (within := _WITHIN.get(type(event))) is not None:
            assert (within[0], getattr(event, within[1])) in opened, f"{where}: not open"
        elif (end := _ENDS.get(type(event))) is not None:
            key = (end[0], getattr(event, end[1]))
            assert key in opened, f"{where}: {key} is not open"
            opened.remove(key)
    assert events, "no events"
    assert ended or not running, "the run has no end"
