"""An object that speaks AG-UI in this process: it has `async run(RunAgentInput)` and yields AG-UI's events.

So are the bridges that other frameworks bring for AG-UI. They are written for one request and a client that forgets:
what they repeat (snapshots of the whole conversation after each message) is taken for what is new in it.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import msgspec

from gapless.agents.agui_chunks import Chunks
from gapless.agents.agui_endpoint import EVENT, run_input, with_pending
from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.endpoint_json import decode_halved
from gapless.agents.writing import Said, WholeCall, result
from gapless.errors import AgentInvalid
from gapless.events import (
    AssistantMessage,
    Event,
    EventBase,
    MessagesSnapshotEvent,
    RawEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolMessage,
    text_of,
)
from gapless.fold import Fold
from gapless.halves import DELTAS, JoinedDeltas

__all__ = ["AGUIObject"]

UNKNOWN = "ag-ui"
"""The source of events that this version of the protocol does not have."""


class AGUIObject(Agent):
    """Adapts one such object, `target`, under its own name or `name`. It is given `ag_ui.core.RunAgentInput`, or that
    as a dict where `as_dict` says so. RAW events, in which bridges repeat their framework's own, are kept with `raw`.

    Interrupts are asked and answered here: it is run again with the answers. Whether a cancel stops its model is its
    own doing: it is iterated in the run's task, and closed.
    """

    def __init__(self, target: Any, *, name: str | None = None, as_dict: bool = False, raw: bool = False) -> None:
        found = name or getattr(target, "name", None)
        self.name = found if isinstance(found, str) and found else "agent"
        self._target = target
        self._raw = raw
        self._input: Callable[[dict[str, Any]], Any] = dict if as_dict else _model()

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        shown, joined, chunks = Fold(), JoinedDeltas(), Chunks()
        resume: list[ResumeEntry] = []
        leg, ended = 0, False
        while True:
            leg += 1
            interrupted: RunFinishedInterruptOutcome | None = None
            events = self._target.run(self._input(run_input(ctx, shown, resume, leg)))
            if inspect.isawaitable(events):
                events = await events
            async with aclosing(events):
                async for given in events:
                    for event in _events_of(given, ctx):
                        if isinstance(event, RunFinishedEvent) and isinstance(
                            event.outcome, RunFinishedInterruptOutcome
                        ):
                            interrupted = event.outcome
                            break
                        ended = ended or isinstance(event, RunFinishedEvent | RunErrorEvent)
                        if isinstance(event, RawEvent) and not self._raw and event.source != UNKNOWN:
                            continue
                        if type(event) in DELTAS:
                            event = joined.join(event)  # type: ignore[arg-type]  # it is one
                        for item in _new(event, shown, ctx):
                            for meant in chunks.meant(item):
                                _show(meant, shown)
                            yield with_pending(item, shown, ctx)
            if interrupted is None:
                if not ended:
                    yield with_pending(RunFinishedEvent(thread_id=ctx.session_id, run_id=ctx.run_id), shown, ctx)
                return
            resume = await ctx.interrupt(interrupted.interrupts)


def _model() -> Callable[[dict[str, Any]], Any]:
    try:
        from ag_ui.core import RunAgentInput
    except ImportError as error:
        raise AgentInvalid("an object that takes RunAgentInput needs ag-ui-protocol, which defines it") from error
    validate: Callable[[dict[str, Any]], Any] = RunAgentInput.model_validate
    return validate


def _events_of(given: Any, ctx: RunContext) -> Iterator[Event]:
    """Yield what the object gave as events: those of `ag_ui`, dicts, or frames as a server would send them."""
    kind = type(given).__name__
    if isinstance(given, EventBase):
        yield given  # type: ignore[misc]  # every event struct is in the union
    elif kind == "TextMessageContentEvent":  # the many: not by way of JSON
        yield TextMessageContentEvent(message_id=given.message_id, delta=given.delta)
    elif kind == "ToolCallArgsEvent":
        yield ToolCallArgsEvent(tool_call_id=given.tool_call_id, delta=given.delta)
    elif isinstance(given, dict) or hasattr(given, "model_dump_json"):
        yield _decoded(_json_of(given), ctx)
    elif isinstance(given, str | bytes):
        text = given if isinstance(given, str) else given.decode()
        for line in text.splitlines():
            if line.startswith("data:"):
                yield _decoded(line.removeprefix("data:"), ctx)
    else:
        raise AgentInvalid(f"run {ctx.run_id}: {kind} is no event of AG-UI", run_id=ctx.run_id)


def _json_of(given: Any) -> str | bytes:
    """Encode an event, also one that holds half a character."""
    try:
        if isinstance(given, dict):
            return msgspec.json.encode(given)
        return str(given.model_dump_json(by_alias=True, exclude_none=True))
    except ValueError:
        return json.dumps(given if isinstance(given, dict) else given.model_dump(by_alias=True, exclude_none=True))


def _decoded(data: str | bytes, ctx: RunContext) -> Event:
    try:
        event: Event = decode_halved(data, EVENT)
    except msgspec.ValidationError:  # of another version of the protocol
        event = RawEvent(event=decode_halved(data, Any), source=UNKNOWN)
    except msgspec.DecodeError as error:
        raise AgentInvalid(f"run {ctx.run_id}: what the agent gave is no JSON: {error}", run_id=ctx.run_id) from None
    return event


def _show(event: Event, shown: Fold) -> None:
    """Remember what was said. Text may begin without a start: it gets one where it is recorded."""
    if isinstance(event, TextMessageContentEvent) and not shown.has_said(event.message_id):
        shown.add(TextMessageStartEvent(message_id=event.message_id, role="assistant"))
    shown.add(event)


def _new(event: Event, shown: Fold, ctx: RunContext) -> Iterator[Event]:
    """Yield what an event says that was not said before."""
    if isinstance(event, MessagesSnapshotEvent):
        yield from _new_of(event, shown, ctx)
    elif not (isinstance(event, StateSnapshotEvent) and shown.state is not None and event.snapshot == shown.state):
        yield event


def _new_of(snapshot: MessagesSnapshotEvent, shown: Fold, ctx: RunContext) -> Iterator[Event]:
    """Yield what a snapshot has that was not said before. Some bridges give a message another id in each snapshot: its
    calls are known by their ids, and its text by that it was said in this run."""
    said = shown.messages()
    before = [*ctx.messages, *said]
    known = {message.id for message in before}
    calls = {call.id for one in before if isinstance(one, AssistantMessage) for call in one.tool_calls or ()}
    results = {one.tool_call_id for one in before if isinstance(one, ToolMessage)}
    here = {message.id for message in snapshot.messages}
    texts = Counter(_text_of(one) for one in said if isinstance(one, AssistantMessage) and one.id not in here)
    for message in snapshot.messages:
        if message.id in known:
            continue
        if isinstance(message, AssistantMessage):
            text, key = message.content or "", _text_of(message)
            if texts[key]:
                texts[key] -= 1
                text = ""
            new = [
                WholeCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
                if call.id not in calls
            ]
            yield from Said(message.id, ctx.new_id).whole(text, calls=new)
        elif isinstance(message, ToolMessage) and message.tool_call_id not in results:
            yield result(message.id, message.tool_call_id, text_of(message.content), error=message.error)


def _text_of(message: AssistantMessage) -> str:
    return (message.content or "").strip()
