"""An AG-UI service as an agent: its events become the run's own.

Source: AG-UI protocol specification 1.0: `RunAgentInput` is posted, its events come back as Server-Sent Events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2
import msgspec

from gapless.agents.agui_chunks import Chunks
from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.conversation import conversation
from gapless.agents.endpoint_http import Service, cut, events_of
from gapless.agents.endpoint_json import decode_halved
from gapless.errors import ModelFailed
from gapless.events import (
    ActivityDeltaEvent,
    AssistantMessage,
    Event,
    RawEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    StateDeltaEvent,
)
from gapless.fold import Fold
from gapless.halves import DELTAS, JoinedDeltas

__all__ = ["EVENT", "AGUIEndpoint", "run_input", "with_pending"]

EVENT: Any = Event
"""To a type checker a union is no `type`."""


class AGUIEndpoint(Agent):
    """An agent that is an AG-UI service. The session is its thread; interrupts are asked and answered here.

    `forwardedProps` are the client's, or else the run's `model_settings`. The service always streams.
    """

    continues = "anew"

    def __init__(self, service: Service) -> None:
        self._service = service
        self.name = service.host

    async def aclose(self) -> None:
        await self._service.aclose()

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        """Pass the service's events on. Raises `ModelFailed`, `InputInvalid`, `InputTooLarge` for a refusal and
        `AgentFailed` (code `endpoint_cut`) when the stream ends before the run does."""
        shown, chunks = Fold(), Chunks()
        resume: list[ResumeEntry] = []
        leg = 0
        while True:
            leg += 1
            events = self._events(ctx, run_input(ctx, shown, resume, leg))
            interrupted: RunFinishedInterruptOutcome | None = None
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                        interrupted = event.outcome
                        break
                    for meant in chunks.meant(event):
                        shown.add(meant)
                    yield with_pending(event, shown, ctx)
            if interrupted is None:
                return
            resume = await ctx.interrupt(interrupted.interrupts)

    async def _events(self, ctx: RunContext, body: dict[str, Any]) -> AsyncGenerator[Event, None]:
        """Yield the events of one request, to the one that ends it."""
        service, joined = self._service, JoinedDeltas()
        async with service.request(
            "POST", service.url, body, run_id=ctx.run_id, accept="text/event-stream"
        ) as response:
            kind = response.headers.get("content-type", "").partition(";")[0]
            if kind != "text/event-stream":
                raise ModelFailed(
                    f"{service.host} answered {kind or 'nothing'}: not an AG-UI service", run_id=ctx.run_id
                )
            try:
                async with aclosing(events_of(response)) as events:
                    async for data in events:
                        event = _decode(data, service.host, ctx.run_id)
                        yield joined.join(event) if type(event) in DELTAS else event  # type: ignore[arg-type]  # is one
                        if isinstance(event, RunFinishedEvent | RunErrorEvent):
                            return
                        if isinstance(event, StateDeltaEvent | ActivityDeltaEvent):
                            await asyncio.sleep(0)  # a patch that copies is more work than its bytes say
                how = "the stream ended before the run"
            except httpx2.HTTPError as error:
                how = type(error).__name__
            raise cut(service.host, ctx.run_id, how)


def _decode(data: str, host: str, run_id: str) -> Event:
    event: Event
    try:
        try:
            event = decode_halved(data, EVENT)
        except msgspec.ValidationError:  # of another version of the protocol
            event = RawEvent(event=decode_halved(data, Any), source="ag-ui")
        return event
    except msgspec.DecodeError as error:
        raise ModelFailed(f"{host} sent what is not an AG-UI event: {error}", run_id=run_id) from None


def with_pending(event: Event, shown: Fold, ctx: RunContext) -> Event:
    """Return the end of a run with the calls of the client's own tools that have no result among what was `shown`; most
    services leave it to their client to see that. Any other event comes back as it is."""
    if not ctx.tools or not isinstance(event, RunFinishedEvent):
        return event
    outcome = event.outcome or RunFinishedSuccessOutcome()
    if not isinstance(outcome, RunFinishedSuccessOutcome) or outcome.pending_tool_call_ids is not None:
        return event
    own, open_ids = {tool.name for tool in ctx.tools}, {*shown.unanswered()}
    calls = [call for one in shown.messages() if isinstance(one, AssistantMessage) for call in one.tool_calls or ()]
    pending = [call.id for call in calls if call.id in open_ids and call.function.name in own]
    if not pending:
        return event
    return msgspec.structs.replace(event, outcome=RunFinishedSuccessOutcome(pending_tool_call_ids=pending))


def run_input(ctx: RunContext, shown: Fold, resume: list[ResumeEntry], leg: int) -> dict[str, Any]:
    """Return `RunAgentInput`, with every field that older services require, for the `leg`-th request of the run `ctx`
    after what it has `shown`: the first, or one that goes on with the answers `resume`."""
    # What came before an interrupt goes back as it is: it may hold the call that the interrupt is about.
    messages = msgspec.to_builtins([*conversation(ctx.messages), *shown.messages()])
    for message in messages:
        message.pop("metadata", None)  # ours, and unknown to some
    body: dict[str, Any] = {
        "threadId": ctx.session_id,
        "runId": ctx.run_id if leg == 1 else f"{ctx.run_id}-{leg}",
        "messages": messages,
        "state": ctx.state if shown.state is None else shown.state,
        "tools": msgspec.to_builtins(ctx.tools),
        "context": msgspec.to_builtins(ctx.context),
        "forwardedProps": ctx.config.model_settings if ctx.forwarded_props is None else ctx.forwarded_props,
    }
    if resume:
        body["resume"] = msgspec.to_builtins(resume)
    return body
