"""ADK's own spelling over durable runs: agents, runners and sessions as ADK's tutorials write them.

    from gapless.adk import Agent, Runner, RunConfig, Session, StreamingMode

    async for event in Runner().run_async("Explain SSE", agent=agent, session=Session()):
        print(event.content.parts[0].text)

Events are ADK's. What differs from ADK: each text comes once. Where it came in pieces, the whole event after them has
its other parts alone, so that the texts of all events are the answer. What a tool or the model raises is raised as it
is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import msgspec
from google.adk.agents import LlmAgent
from google.adk.events import Event
from google.genai import types

from gapless.aggregator import StreamingResponseAggregator
from gapless.config import RunConfig, StreamingMode
from gapless.errors import as_raised
from gapless.protocols.adk.wire import ADKEncoder
from gapless.runs.portal import iterate
from gapless.runs.request import ANONYMOUS, new_id, session_id_of
from gapless.runs.run import Run
from gapless.runs.runner import Runner as DurableRunner

__all__ = ["Agent", "Event", "RunConfig", "Runner", "Session", "StreamingMode", "StreamingResponseAggregator", "types"]


class Agent(LlmAgent):
    """Is ADK's agent; `name` may be left out."""

    name: str = "agent"


class Session(msgspec.Struct):
    """Names a conversation: give the same one to each of its runs."""

    id: str = msgspec.field(default_factory=new_id)


class Events:
    """Yields the events of one run, which begins with the first of them. `await` it instead for the response as one
    event. Leaving the loop early, also by a timeout, cancels the run.
    """

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[Event]:
        return _without_repeats(self._events)

    def __await__(self) -> Generator[Any, None, Event | None]:
        return self._whole().__await__()

    async def aclose(self) -> None:
        """Leave: the run is cancelled, unless it has ended."""
        await self._events.aclose()

    async def _whole(self) -> Event | None:
        answer = last = None
        async for event in self._events:
            if event.partial:
                continue
            last = event
            if any(part.text and not part.thought for part in (event.content.parts if event.content else None) or ()):
                answer = event
        return answer or last


class Runner(DurableRunner):
    """Is Gapless's runner, whose `run_async` and `run` give ADK's events."""

    def run_async(  # type: ignore[override]  # ADK's events
        self,
        query: object = None,
        agent: object = None,
        session: object = None,
        *,
        run_config: object = None,
        new_message: object = None,
        session_id: str | None = None,
        user_id: str = ANONYMOUS,
        run_id: str | None = None,
        deps: Any = None,
    ) -> Events:
        """Start a run; see `gapless.Runner.run_async` for the arguments. `run_config` may be ADK's own."""

        async def begin() -> Run:
            return await self.start(
                query if query is not None else new_message,
                agent=agent,
                session_id=session_id_of(session, session_id),
                user_id=user_id,
                run_id=run_id,
                config=run_config,  # type: ignore[arg-type]  # ADK's own is taken too
                deps=deps,
            )

        return Events(_events(begin))

    def run(  # type: ignore[override]  # ADK's events
        self, query: object = None, agent: object = None, session: object = None, **options: Any
    ) -> Iterator[Event]:
        """Yield what `run_async` does, for code without an event loop."""
        return iterate(self, lambda: _without_repeats(self.run_async(query, agent, session, **options)._events))


async def _events(begin: Any) -> AsyncGenerator[Event, None]:
    run = await begin()
    encoder = ADKEncoder(run.started)
    ended = False
    try:
        async for event in run.events():
            for frame in encoder.frames_of(event):
                if not frame.startswith(b'{"error"'):  # it is raised
                    yield Event.model_validate_json(frame)
        ended = True
    finally:
        if not ended:
            await run.cancel()
    with as_raised():
        await run.raise_if_failed()


async def _without_repeats(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Leave out of whole events the texts that came in pieces."""
    said: dict[tuple[str, str | None, bool], str] = {}
    try:
        async for event in events:
            key = event.author, event.branch
            parts = (event.content.parts if event.content else None) or []
            if event.partial:
                for part in parts:
                    if part.text:
                        whole = (*key, bool(part.thought))
                        said[whole] = said.get(whole, "") + part.text
                yield event
                continue
            kept = []
            for part in parts:
                before = said.get((*key, bool(part.thought)), "")
                if part.text and before.startswith(part.text):
                    said[*key, bool(part.thought)] = before[len(part.text) :]
                else:
                    kept.append(part)
            if len(kept) < len(parts) and event.content is not None:
                # Programs read the first part's text, whatever is in it.
                content = types.Content(role=event.content.role, parts=kept or [types.Part(text="")])
                event = event.model_copy(update={"content": content})
            said.pop((*key, True), None)
            said.pop((*key, False), None)
            yield event
    finally:
        await events.aclose()
