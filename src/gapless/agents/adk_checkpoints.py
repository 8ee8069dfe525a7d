"""What an ADK agent's run keeps of itself, so that another worker can go on with it.

ADK goes on with an invocation from its events. So a checkpoint holds the whole events of the run, each as the JSON that
the session's turn will hold, and beside them what ADK keeps nowhere: results of calls whose common response event has
not come yet, calls that may not be begun twice, the count of model calls. The translation is not kept: the events are
translated once more, and what comes of it is dropped.
"""

from __future__ import annotations

import asyncio
import collections
import importlib.metadata
import logging
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from google.adk.agents import InvocationContext
from google.adk.events import Event, EventActions
from google.adk.models.llm_response import LlmResponse
from google.adk.sessions import BaseSessionService, Session
from google.adk.tools.tool_context import ToolContext
from google.genai import types
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from gapless.agents.adk_events import Translation
from gapless.agents.adk_resumed import ResumedSession
from gapless.agents.adk_resuming import (
    Place,
    Stand,
    answered_by,
    asks_only,
    is_question,
    place_of,
    reply_of,
    stand_of,
)
from gapless.agents.adk_sessions import JournalSessions, dump_event
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.values import dumped, json_of
from gapless.errors import CheckpointUnreadable
from gapless.events import StepStartedEvent

__all__ = ["FRAMEWORK", "Progress"]

FRAMEWORK = f"google-adk {importlib.metadata.version('google-adk')}"
"""Whose checkpoints these are."""
VERSION = 1
"""Of `Kept`. A later one may only add fields at its end, or gets another number."""

log = logging.getLogger("gapless.adk")


class Kept(msgspec.Struct, array_like=True):
    """Is what a run of an ADK agent saves."""

    version: int = VERSION
    invocation_id: str = ""
    events: list[bytes] = []
    """The run's whole events as JSON, the user's included, in their order."""
    done: dict[str, bytes] = {}
    """What calls returned whose response event is not among the events, by the call's id: `_Done`."""
    begun: list[str] = []
    """Calls that have begun and may not be begun again without asking."""
    doubtful: list[str] = []
    """Of these, the ones that a person is asked about: the worker was lost while they ran."""
    shown_as: dict[str, str] = {}
    """Ids that calls were shown under while they were partial, by the call's id."""
    asking: bool = False
    """ADK has said all it can before its questions are answered."""
    answers: list[bytes] = []
    """Messages with people's answers that ADK has not been given yet, as JSON."""
    llm_calls: int = 0
    void: list[str] = []
    """Events that the user's own session service has and that count for nothing."""
    inner: dict[str, list[bytes]] = {}
    """What the models of agents that tools run have answered while the tool runs, by call and agent."""
    temporary: dict[str, msgspec.Raw] = {}
    """The session's state that ADK never persists, as JSON."""
    inside: dict[str, str] = {}
    """Of the calls in `begun`, those of agents that tools run about which a person is to be asked: their tools."""
    confirmed: dict[str, list[str]] = {}
    """Calls that run because a person confirmed them, each with what asks whether it is made again: that question's id,
    and the tool where it is one to ask about."""


class _Done(msgspec.Struct, array_like=True):
    """Is what a tool call returned, and what it did to its context."""

    response: msgspec.Raw
    actions: msgspec.Raw


_PART = "gapless.part"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode
_decode_done = msgspec.json.Decoder(_Done).decode


class Progress:
    """Knows how far one run has come, saves that, and takes it up where another worker left it.

    `session` is the run's ADK session, with `before` events of earlier turns. Raises `CheckpointUnreadable`."""

    def __init__(self, ctx: RunContext, translation: Translation, before: int) -> None:
        self.kept = Kept() if ctx.checkpoint is None else _kept(ctx)
        self.invocation_id: str = self.kept.invocation_id
        self.goes_on = False
        """Another worker had begun the invocation."""
        self.beyond: list[Event] = []
        """What the session's own service has of the invocation after the checkpoint."""
        self.restored: list[Event] = []
        self._stand = Stand()
        self._repeated: dict[str, str] = {}
        """Calls that are made again and whose results were shown, with the events of these."""
        self._repeating: dict[Place, str] = {}
        """Agents whose next response was shown, with the event of that."""
        self._held: dict[str, Event] = {}
        """Events that are to be given again, until they are."""
        self._silent: set[str] | None = None
        """Events that were given again, where the user's own service has them."""
        self.void: dict[str, None] = dict.fromkeys(self.kept.void)
        """Events that another took the place of, and that the user's own service still has."""
        self.running: set[str] = set()
        """Calls whose tools run."""
        self.done: dict[str, bytes] = dict(self.kept.done)
        self._unsaved = False
        """Something has returned since the last save."""
        self._inner: dict[str, list[bytes]] = {key: list(replies) for key, replies in self.kept.inner.items()}
        self._inner_calls: collections.Counter[str] = collections.Counter()
        self.begun: dict[str, None] = dict.fromkeys(self.kept.begun)
        self.lost: set[str] = set(self.kept.begun)
        """Calls that were under way when the worker was lost and may not be begun again without asking."""
        self.doubtful: set[str] = set(self.kept.doubtful)
        self.inside: dict[str, str] = dict(self.kept.inside)
        self.confirmed: dict[str, list[str]] = dict(self.kept.confirmed)
        self.answers: list[types.Content | None] = []
        """Answers that ADK has not been given yet; None: it goes on."""
        self._ctx = ctx
        self._translation = translation
        self._before = before
        self._invocation: InvocationContext | None = None
        self._told: set[str] = set()
        """Ids of the whole events that were translated, and their items recorded."""
        self._events: dict[str, bytes] = {}
        """The events to be kept, dumped, by id."""
        self._dumped: dict[str, bytes] = {}
        """Those that were kept by another worker."""
        self._upto, self._newest = before, ""
        """Up to where the session's events are among them, without a gap, and the last of these."""
        self._telling = False
        """An event is being told: what is saved now would not fit what was recorded."""
        self._waiting: list[asyncio.Future[None]] = []

    # -- taking up --------------------------------------------------------------------------------------------------

    async def restore(self, root: Any, service: BaseSessionService, session: Session) -> BaseSessionService:
        """Make the session, the translation and this what they were at the checkpoint. Returns the service that ADK
        goes on with. Raises `CheckpointUnreadable`.

        `session` may be one of the user's own service: then it lacks what that has lost, and has what was appended
        after the checkpoint (`beyond`)."""
        if not self.invocation_id:
            return service
        there = {event.id for event in session.events}
        usage = list(self._ctx.usage)
        kept = {event.id: event for event in (_event(raw, self._ctx.run_id) for raw in self.kept.events)}
        self._dumped = dict(zip(kept, self.kept.events, strict=True))
        known = {*kept, *self.void}
        self.beyond = [
            event for event in session.events if event.invocation_id == self.invocation_id and event.id not in known
        ]
        self.restored = list(kept.values())
        for event in self.restored:
            self._retell(event)
        self._ctx.usage = usage
        self._translation.shown_as.update(self.kept.shown_as)
        waiting = dict(self._translation.pending)
        for event in self.beyond:
            for answer in event.get_function_responses() if event.author == "user" else ():
                waiting.pop(answer.id or "", None)
            waiting |= {call.id or "": (call, event) for call in event.get_function_calls() if is_question(call, event)}
        pending = {place_of(event) for _, event in waiting.values()}
        asking = self.kept.asking and not self.beyond
        self._stand = stand_of(root, [*kept.values(), *self.beyond], pending, asking=asking)
        self.goes_on = bool(kept or self.beyond)
        for event in self._stand.dropped:
            self._drop(event)
        ours = isinstance(service, JournalSessions)
        for event in kept.values():
            if event.id not in there and not (ours and event.id in self._held):
                await service.append_event(session, event)
        if ours:
            return service
        self._silent = set()
        return ResumedSession(service, session, {*self._held, *self.void}, self.repetition)

    def _drop(self, event: Event) -> None:
        """Take back an event that its agent is led to give again. What it says was shown."""
        self._held[event.id] = event
        asked = {*event.actions.requested_tool_confirmations, *event.actions.requested_auth_configs}
        actions = event.actions.model_copy(
            update={"requested_tool_confirmations": {}, "requested_auth_configs": {}, "skip_summarization": None}
        )
        for response in event.get_function_responses():
            self._repeated[response.id or ""] = event.id
            if response.id not in asked:
                self._keep(response.id or "", actions, response.response)

    def repetition(self, event: Event) -> str | None:
        """Return the id under which what the event says was given before, by a worker that is gone."""
        if event.partial or event.content is None:
            return None
        if not (results := event.get_function_responses()):
            known = self._repeating.pop(place_of(event), None)
        else:
            ids = [result.id or "" for result in results]
            known = self._repeated.get(ids[0]) if all(id in self._repeated for id in ids) else None
            for id in ids:
                self._repeated.pop(id, None)
        if known is not None:
            self._held.pop(known, None)
            if self._silent is not None:
                self._silent.add(known)
        return known

    def repeats(self, event: Event) -> bool:
        """Return whether what the event says was shown before, by a worker that is gone."""
        return self.repetition(event) is not None if self._silent is None else event.id in self._silent

    def reply(self, name: str, branch: str | None) -> LlmResponse | None:
        """Return what the model of this agent has answered already, in its place."""
        place = name, branch or ""
        replies = self._stand.replies.get(place)
        if not replies:
            return None
        event = replies.pop(0)
        self._repeating[place] = event.id
        for id in [id for id, held in self._held.items() if place_of(held) == place and asks_only(held)]:
            del self._held[id]  # it asks anew
            self.void[id] = None
        return reply_of(event)

    def end_of(self, place: Place) -> EventActions | None:
        """Return what the end of this agent means, where it had ended and is begun again only to get past it."""
        return self._stand.ended.pop(place, None)

    def catch_up(self) -> list[AgentItem]:
        """Take what the session has beyond the checkpoint as done, and return what of it was not shown; steps that were
        open are open again."""
        items: list[AgentItem] = [StepStartedEvent(step_name=name) for name in self._translation.speakers]
        for event in self.beyond:
            items += self._retell(event)
        for event in self._held.values():
            for call in event.get_function_calls():
                self._translation.pending.pop(call.id or "", None)
        return items

    def kept_answers(self) -> list[types.Content]:
        """Return the answers that ADK was not given before the checkpoint."""
        return [types.Content.model_validate_json(raw) for raw in self.kept.answers]

    def asked_by(self, answer: types.Content) -> Iterable[tuple[str, Place]]:
        """Return the calls that this answers, and the agents that made them."""
        ids = set(answered_by(answer))
        for event in self.restored:
            for call in event.get_function_calls():
                if call.id in ids:
                    yield call.id or "", place_of(event)

    def has(self, answer: types.Content) -> bool:
        """Return whether ADK has been given this answer."""
        given = {
            response.id
            for event in self.beyond
            if event.author == "user"
            for response in event.get_function_responses()
        }
        return given.issuperset(answered_by(answer))

    def _retell(self, event: Event) -> list[AgentItem]:
        translation = self._translation
        if event.author != "user":
            self.told(event)
            return translation.items(event)
        if not event.get_function_responses():
            return []
        for response in event.get_function_responses():
            translation.pending.pop(response.id or "", None)
        return translation.settle()

    async def invoked(self, invocation: InvocationContext) -> None:
        """Note which invocation the run's message begins, before it is in the session: where that is of the user's own
        service, it is recognised there by this."""
        if not self.invocation_id:
            self.invocation_id = invocation.invocation_id
            if not isinstance(invocation.session_service, JournalSessions):
                await self.save()

    def before_run(self, invocation: InvocationContext, state: dict[str, Any] | None) -> None:
        """Take up the invocation that begins or goes on; `state` is the run's own, which ADK keeps nowhere."""
        if invocation.invocation_id != self.invocation_id:
            return  # of an agent that a tool runs
        first = self._invocation is None
        self._invocation, self.invocation_id = invocation, invocation.invocation_id
        if first and self.goes_on:
            invocation.session.state.update({name: from_json(bytes(raw)) for name, raw in self.kept.temporary.items()})
            invocation.session.state.update(state or {})
            invocation._invocation_cost_manager._number_of_llm_calls = self.kept.llm_calls

    # -- tool calls -------------------------------------------------------------------------------------------------

    def result(self, call_id: str, context: ToolContext, *, long_running: bool) -> dict[str, Any] | None:
        """Return what the call returned at another worker, with what it did to its context; None: nothing is known."""
        raw = self.done.get(call_id)
        if raw is None:
            return None
        done = _decode_done(raw)
        for name, value in from_json(bytes(done.actions)).items():
            if name == "state_delta":
                context.state.update(value)
        actions = EventActions.model_validate_json(bytes(done.actions))
        for name in actions.model_fields_set - {"state_delta"}:
            setattr(context.actions, name, getattr(actions, name))
        response = _revive(from_json(bytes(done.response)))
        if not response and long_running:
            return {}  # its response comes later
        return response if isinstance(response, dict) else {"result": response}

    def inner_reply(self, place: str) -> LlmResponse | None:
        """Return what the model of an agent that a tool runs has answered to this call at another worker."""
        replies, number = self._inner.get(place, []), self._inner_calls[place]
        self._inner_calls[place] += 1
        return LlmResponse.model_validate_json(replies[number]) if number < len(replies) else None

    async def inner_replied(self, place: str, response: LlmResponse) -> None:
        """Keep what the model of an agent that a tool runs has answered. Its calls have ids from now on."""
        for part in (response.content.parts if response.content is not None else None) or []:
            if part.function_call is not None and not part.function_call.id:
                part.function_call.id = f"adk-{uuid.uuid4()}"
        kept = dumped(response, exclude_none=True, exclude={"usage_metadata"})
        self._inner.setdefault(place, []).append(kept)
        await self.save()

    async def begins(self, call_id: str, *, again: bool, inside: str | None = None) -> None:
        """Note that a call begins; unless it may be made `again`, it is not begun again without asking. `inside` names
        its tool, where that is of an agent that a tool runs and a person is to be asked."""
        self.running.add(call_id)
        if again:
            if self._unsaved:  # by a call beside it that never paused: it was the last one then
                await self.save()
            return
        self.doubtful.discard(call_id)
        self.lost.discard(call_id)
        self.begun[call_id] = None
        if inside is not None:
            self.inside[call_id] = inside
        await self.save()

    def lost_inside(self, call_id: str) -> dict[str, str]:
        """Return the calls of the agent that this one runs about which a person is to be asked, and their tools."""
        return {id: tool for id, tool in self.inside.items() if id in self.lost and id.startswith(f"/{call_id}/")}

    def decided(self, call_ids: Iterable[str], *, again: bool) -> None:
        """Take a person's word on calls that were lost: they are made again, or not."""
        for id in call_ids:
            self.doubtful.discard(id)
            self.inside.pop(id, None)
            if again:
                self.lost.discard(id)

    def settled(self, call_id: str) -> None:
        """Note that it was decided not to begin the call again."""
        self.begun.pop(call_id, None)
        self.doubtful.discard(call_id)

    async def returned(self, call_id: str, context: ToolContext, result: Any) -> None:
        """Keep what a call returned, until its response event is there; at once where it is not the last of several
        that run at the same time. A call that only asks something will be made again."""
        self.running.discard(call_id)
        actions = context.actions
        if actions.requested_tool_confirmations or actions.requested_auth_configs:
            self.begun.pop(call_id, None)
            return
        self._keep(call_id, actions, result)
        self._unsaved = True
        if self.running:
            await self.save()

    def _keep(self, call_id: str, actions: EventActions, result: Any) -> None:
        response = json_of(_kept_parts(result)).encode()
        changed = dumped(actions, exclude_defaults=True, exclude_none=True)
        self.done[call_id] = msgspec.json.encode(_Done(msgspec.Raw(response), msgspec.Raw(changed)))

    # -- saving -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to tell an event: until `told` or `partly_told` there is nothing to save."""
        self._telling = True

    def told(self, event: Event) -> None:
        """Note that a whole event was told."""
        self._told.add(event.id)
        asked = {*event.actions.requested_tool_confirmations, *event.actions.requested_auth_configs}
        for response in event.get_function_responses():
            id = response.id or ""
            if id in asked:
                continue  # it is made again: what is known of it is of that, where the event is an earlier one
            self.done.pop(id, None)
            self.begun.pop(id, None)
            self.confirmed.pop(id, None)
            for known in (self.done, self.begun, self._inner):
                for inner in [key for key in known if key.startswith(f"/{id}/")]:
                    del known[inner]

    async def end(self, event: Event) -> None:
        """End to tell an event, and save where it was a whole one."""
        self._telling = False
        if event.partial:
            if self._waiting:
                await self._flush()
            return
        self.told(event)
        await self._flush()

    async def save(self) -> None:
        """Save as soon as what was told is recorded."""
        if not self._telling:
            await self._flush()
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        await done

    async def _flush(self, *, asking: bool = False) -> None:
        waiting, self._waiting, self._unsaved = self._waiting, [], False
        data, half = self._data(asking), self._translation.half()
        # Left while calls run, or where one is about to, the run would have them made again, or count them as begun.
        await self._ctx.save(data, half=half, leave=not self.running)
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def ask(self) -> None:
        """Save before what is pending is asked."""
        await self._flush(asking=True)

    def _data(self, asking: bool) -> bytes:
        invocation = self._invocation
        self._collect()
        held = [self._dumped.get(event.id) or dump_event(event) for event in self._held.values()]
        if invocation is None:  # what was kept is still so
            held = list(self._dumped.values())
        return _encode(
            Kept(
                invocation_id=self.invocation_id,
                events=[*self._events.values(), *held],
                done=self.done,
                begun=list(self.begun),
                doubtful=list(self.doubtful),
                shown_as=dict(self._translation.shown_as),
                asking=asking,
                void=list(self.void),
                inner=self._inner,
                answers=[content.model_dump_json(exclude_none=True).encode() for content in self.answers if content],
                llm_calls=self.kept.llm_calls if invocation is None else _llm_calls(invocation),
                temporary={} if invocation is None else _temporary(invocation.session),
                inside={id: tool for id, tool in self.inside.items() if id in self.begun},
                confirmed=self.confirmed,
            )
        )

    def _collect(self) -> None:
        """Dump the events that are new: one that was told is not changed any more. A long run is not gone through again
        for each."""
        if self._invocation is None:
            return
        events, found, told = self._invocation.session.events, self._events, self._told
        start = self._upto
        if start > len(events) or (start > self._before and events[start - 1].id != self._newest):
            start, found = self._before, {}  # ADK has taken out one that was in it for a while
        whole = True
        for index in range(start, len(events)):
            event = events[index]
            id = event.id
            if id in told or (event.author == "user" and event.invocation_id):
                raw = found.pop(id, None) or self._events.get(id) or self._dumped.get(id) or dump_event(event)
                found[id] = raw
            else:
                whole = False
            if whole:
                self._upto, self._newest = index + 1, id
        self._events = found

    def dumped(self, events: Sequence[Event]) -> Iterable[bytes]:
        """Return the run's events as JSON, each dumped once."""
        known = self._events
        return [known.get(event.id) or dump_event(event) for event in events]


def _kept(ctx: RunContext) -> Kept:
    try:
        kept = _decode(ctx.checkpoint or b"")
    except msgspec.DecodeError as error:
        raise _unreadable(ctx.run_id, str(error)) from None
    if kept.version != VERSION:
        raise _unreadable(ctx.run_id, f"version {kept.version}, here {VERSION}")
    return kept


def _event(raw: bytes, run_id: str) -> Event:
    try:
        return Event.model_validate_json(raw)
    except ValidationError as error:
        raise _unreadable(run_id, f"an event of it is none for {FRAMEWORK}: {error.error_count()} errors") from None


def _unreadable(run_id: str, why: str) -> CheckpointUnreadable:
    return CheckpointUnreadable(f"run {run_id}: where its agent stood cannot be read ({why}); ask again", run_id=run_id)


def _llm_calls(invocation: InvocationContext) -> int:
    return int(invocation._invocation_cost_manager._number_of_llm_calls)


def _kept_parts(value: Any) -> Any:
    """Return the value with media parts, which a tool may return, in a form that JSON carries."""
    if isinstance(value, types.Part):
        return {_PART: value.model_dump(mode="json", exclude_none=True)}
    if isinstance(value, dict):
        return {key: _kept_parts(item) for key, item in value.items()}
    return [_kept_parts(item) for item in value] if isinstance(value, list | tuple) else value


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        if list(value) == [_PART]:
            return types.Part.model_validate(value[_PART])
        return {key: _revive(item) for key, item in value.items()}
    return [_revive(item) for item in value] if isinstance(value, list) else value


def _temporary(session: Session) -> dict[str, msgspec.Raw]:
    found = {}
    for name, value in session.state.items():
        if name.startswith("temp:") and name != "temp:deps":
            try:
                found[name] = msgspec.Raw(to_json(value))
            except ValueError:  # an object of this process: it is lost with it
                continue
    return found
