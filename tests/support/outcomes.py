"""What came of a run: what is compared with what an agent's framework alone gives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from gapless.events import (
    AssistantMessage,
    Event,
    RunFinishedEvent,
    TextMessageContentEvent,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    text_of,
)
from gapless.fold import Fold
from tests.support.agui import check_order


class Outcome(NamedTuple):
    """What came of a run, in order."""

    said: list[tuple[Any, ...]]
    """("text", …), ("call", name, arguments) and ("result", …); neighbouring texts are one."""
    output: Any = None


def joined(steps: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for step in steps:
        if step[0] == "text" and said and said[-1][0] == "text":
            said[-1] = ("text", said[-1][1] + step[1])
        elif step != ("text", ""):
            said.append(step)
    return said


def what_is_left(events: list[Event]) -> Outcome:
    """What a run's events amount to in the end, without what was taken back: of a run that went on elsewhere."""
    fold, output = Fold(), None
    for event in events:
        fold.add(event)
        output = event.result if isinstance(event, RunFinishedEvent) else output
    steps: list[tuple[Any, ...]] = []
    for message in fold.messages():
        if isinstance(message, AssistantMessage):
            steps.append(("text", message.content or ""))
            steps += [
                ("call", call.function.name, json.loads(call.function.arguments or "{}"))
                for call in message.tool_calls or ()
            ]
        elif isinstance(message, ToolMessage):
            steps.append(("result", value_of(text_of(message.content))))
    return Outcome(joined(steps), output)


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def outcome_of_events(events: list[Event]) -> Outcome:
    """What a run's events amount to; calls whose arguments stream count where they began."""
    check_order(events)
    steps: list[Any] = []
    calls: dict[str, list[Any]] = {}
    output: Any = None
    for event in events:
        if isinstance(event, TextMessageContentEvent):
            steps.append(("text", event.delta))
        elif isinstance(event, ToolCallStartEvent):
            calls[event.tool_call_id] = ["call", event.tool_call_name, ""]
            steps.append(calls[event.tool_call_id])
        elif isinstance(event, ToolCallArgsEvent):
            calls[event.tool_call_id][2] += event.delta
        elif isinstance(event, ToolCallResultEvent):
            steps.append(("result", value_of(event.content)))
        elif isinstance(event, RunFinishedEvent):
            output = event.result
    for call in calls.values():
        call[2] = json.loads(call[2] or "{}")
    return Outcome(joined(tuple(step) for step in steps), output)
