"""What tests of runs share: an agent that repeats, what was said, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.events import (
    AssistantMessage,
    Event,
    Interrupt,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    UserMessage,
    text_of,
)
from tests.support.agui import check_order
from tests.support.waiting import at_rest


async def echo(message: str) -> AsyncIterator[str]:
    for word in ("you", " said ", message):
        yield word


async def events_of(runner: Runner, run_id: str) -> list[Event]:
    events = [event async for event in (await runner.attach(run_id)).events()]
    check_order(events)
    assert sum(ends(event) for event in events) == 1
    return events


def ends(event: Event) -> bool:
    return isinstance(event, RunErrorEvent) or (
        isinstance(event, RunFinishedEvent) and not isinstance(event.outcome, RunFinishedInterruptOutcome)
    )


async def said(runner: Runner, session_id: str) -> list[str]:
    """The session's messages, as text."""
    messages = await runner.messages(session_id)
    return [text_of(message.content) for message in messages if isinstance(message, UserMessage | AssistantMessage)]


async def until(run: Any, position: int) -> None:
    """Until the run's journal has that many events."""
    async with contextlib.aclosing(run.entries()) as entries:
        async for seq, _ in entries:
            if seq >= position:
                return


class LoopClock:
    """The clock of the event loop's timers, moved on by the test: nothing is late because the machine is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._real, self._passed_s = self._loop.time, 0.0
        self._loop.time = lambda: self._real() + self._passed_s  # type: ignore[method-assign]  # of this test's loop

    async def pass_(self, seconds: float) -> None:
        """So much later, when every timer that is due has fired, and what it sets going has gone its way."""
        self._passed_s += seconds
        await at_rest(soon_s=0.0)


async def ask(ctx: RunContext) -> AsyncIterator[str]:
    yield "may I? "
    (entry,) = await ctx.interrupt([Interrupt(id="i", reason="approval", message="Delete it?")])
    yield f"{entry.status} {entry.payload}"
