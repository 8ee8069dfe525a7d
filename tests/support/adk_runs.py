"""ADK agents on a scripted model, run by the runner, and what their runs show."""

from __future__ import annotations

from typing import Any

import msgspec
from google.adk.agents import LlmAgent

from gapless import Runner
from gapless.events import (
    CustomEvent,
    Event,
    TextMessageContentEvent,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.runs.run import Run
from tests.support.adk import Call, Scripted, Thought
from tests.support.agui import check_order


def agent_of(*scripts: list[Any], tools: list[Any] | None = None, name: str = "helper", **options: Any) -> LlmAgent:
    return LlmAgent(name=name, model=Scripted(*scripts, **options), tools=tools or [])


async def all_of(run: Run) -> list[Event]:
    events = [event async for event in run.events()]
    check_order(events)
    return events


async def ask(agent: object, message: object = "hi", **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await all_of(await runner.start(message, **options))


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, TextMessageContentEvent))


def custom(events: list[Event], name: str) -> list[Any]:
    return [event.value for event in events if isinstance(event, CustomEvent) and event.name == name]


def calls(events: list[Event]) -> list[tuple[str, Any]]:
    """Each tool call's name and arguments, in order."""
    found: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, ToolCallStartEvent):
            found[event.tool_call_id] = [event.tool_call_name]
        elif isinstance(event, ToolCallArgsEvent):
            found[event.tool_call_id].append(event.delta)
    return [(name, msgspec.json.decode("".join(args))) for name, *args in found.values()]


def results(events: list[Event]) -> list[Any]:
    return [msgspec.json.decode(e.content) for e in events if isinstance(e, ToolCallResultEvent)]


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


TALK_CALL_TALK = (
    [Thought("Let me "), Thought("see."), "I will ", "add. ", Call("add", {"a": 2, "b": 3})],
    ["It is ", "5."],
)
