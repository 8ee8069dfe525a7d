"""Runs of agents of the OpenAI Agents SDK, and what they have said."""

from __future__ import annotations

import re
from typing import Any

from agents import Agent, RunConfig, function_tool

from gapless import Runner
from gapless.agents.openai_agents import OpenAIAgent
from gapless.events import (
    Event,
    ResumeEntry,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    TextMessageContentEvent,
    encode_event,
)
from gapless.runs.run import Run
from tests.support.agui import check_order

__all__ = ["UNTRACED", "adapted", "all_of", "ask", "look", "same", "text_of"]

UNTRACED = RunConfig(tracing_disabled=True)


@function_tool
async def look(at: str) -> str:
    """Look."""
    return f"seen {at}"


def adapted(agent: Agent[Any], config: RunConfig = UNTRACED) -> OpenAIAgent:
    return OpenAIAgent(agent, run_config=config)


async def all_of(run: Run) -> list[Event]:
    """Return all events of a run, whose every question is answered with a yes."""
    events: list[Event] = []
    async for event in run.events():
        events.append(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            ids = [one.id for one in event.outcome.interrupts]
            yes = {"approved": True}
            await run.answer([ResumeEntry(interrupt_id=id, status="resolved", payload=yes) for id in ids])
    check_order(events)
    return events


async def ask(agent: OpenAIAgent, message: str = "hi", **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await all_of(await runner.start(message, **options))


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, TextMessageContentEvent))


def same(events: list[Event]) -> list[str]:
    """The events as JSON, without times, calls by the order in which they come."""
    encoded = b"\n".join(map(encode_event, events)).decode()
    encoded = re.sub(r'"timestamp":[\d.]+|"expiresAt":"[^"]+"', "", encoded)
    known: dict[str, str] = {}
    encoded = re.sub(r"call-\d+", lambda id: known.setdefault(id[0], f"call {len(known)}"), encoded)
    return encoded.split("\n")
