"""What an ADK session is told before a run's message: which turns are no longer part of the conversation, what the
client's own tools have come to, and which of their calls get no result any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.adk.events import Event, EventActions
from google.adk.sessions import BaseSessionService, Session
from google.genai import types

from gapless.agents.adk_sessions import result_part
from gapless.agents.adk_turn import decode_turn
from gapless.agents.base import RunContext
from gapless.errors import InputInvalid
from gapless.events import ToolMessage

__all__ = ["open_turn", "rewind"]

UNANSWERED = {"error": "There is no result: the user went on without one."}
"""What a model is told of a call that its client did not answer."""
_NOT_THE_SESSIONS = ("app:", "user:", "temp:")


async def rewind(service: BaseSessionService, session: Session, ctx: RunContext) -> None:
    """Take the turns that were asked again or edited out of a session that ADK keeps, by an event, as ADK does. State
    that they were the first to set is gone with them; what they changed is as it was."""
    kept, left = _invocations(ctx.native_history), _invocations(ctx.native_left)
    events = _live(session.events)
    first = next((event for event in events if event.invocation_id in left - kept), None)
    if first is None:
        return
    place = session.events.index(first)
    changed = {key for event in session.events[place:] for key in event.actions.state_delta}
    earlier = {key: value for event in session.events[:place] for key, value in event.actions.state_delta.items()}
    delta = {key: earlier.get(key) for key in changed if not key.startswith(_NOT_THE_SESSIONS)}
    actions = EventActions(rewind_before_invocation_id=first.invocation_id, state_delta=delta)
    await service.append_event(session, Event(invocation_id=Event.new_id(), author="user", actions=actions))


async def open_turn(
    service: BaseSessionService,
    session: Session,
    results: Sequence[ToolMessage],
    message: types.Content | None,
    *,
    begun: bool = False,
) -> types.Content:
    """Give the session what it lacks before the run's message, unless that has `begun`, and return the message: the one
    asked, or where there is none the results of the client's tools. Raises `InputInvalid` for a result that nothing
    called for."""
    events = _live(session.events)
    calls = {call.id: (call, event) for event in events for call in event.get_function_calls()}
    brought: dict[str, list[types.Part]] = {}
    places: dict[str, Event] = {}
    """Events whose calls get results now, by their ids."""
    for result in results:
        if result.tool_call_id in calls:
            call, event = calls[result.tool_call_id]
            brought.setdefault(event.id, []).append(result_part(result, call.name or ""))
            places[event.id] = event
        elif message is None:
            raise InputInvalid(f"nothing in session {session.id} called for the result of {result.tool_call_id}")
    if message is None and brought:  # those of the newest calls are what the run goes on from
        newest = max(places, key=lambda id: events.index(places[id]))
        message = types.Content(role="user", parts=brought.pop(newest))
    message = message or types.Content(role="user", parts=[types.Part(text="")])
    if begun:
        return message
    answered = {response.id for event in events for response in event.get_function_responses()}
    answered |= {result.tool_call_id for result in results}
    for id, parts in brought.items():
        await service.append_event(session, _answer_to(places[id], "user", parts))
    for event in _with_open_calls(events, answered):
        waiting = [call for call in event.get_function_calls() if _waits(call, event) and call.id not in answered]
        parts = [
            types.Part(function_response=types.FunctionResponse(id=call.id, name=call.name, response=UNANSWERED))
            for call in waiting
        ]
        await service.append_event(session, _answer_to(event, event.author, parts))
    return message


def _with_open_calls(events: Iterable[Event], answered: set[str | None]) -> list[Event]:
    return [
        event
        for event in events
        if event.long_running_tool_ids
        and any(_waits(call, event) and call.id not in answered for call in event.get_function_calls())
    ]


def _waits(call: types.FunctionCall, event: Event) -> bool:
    """Whether ADK would tell a model of this call without a result: of others it does not, and what it asks people by
    calls of its own a model is not told."""
    return call.id in (event.long_running_tool_ids or ()) and not (call.name or "").startswith("adk_request_")


def _answer_to(event: Event, author: str, parts: list[types.Part]) -> Event:
    return Event(
        invocation_id=event.invocation_id,
        author=author,
        branch=event.branch,
        isolation_scope=event.isolation_scope,
        content=types.Content(role="user", parts=parts),
    )


def _live(events: list[Event]) -> list[Event]:
    """Return the events that no later one has taken out of the session, as ADK reads it."""
    kept: list[Event] = []
    places: dict[str, int] = {}
    for at, event in enumerate(events):
        places.setdefault(event.invocation_id, at)
    at = len(events) - 1
    while at >= 0:
        before = events[at].actions.rewind_before_invocation_id
        if before:
            at = min(places.get(before, at), at)
        else:
            kept.append(events[at])
        at -= 1
    return kept[::-1]


def _invocations(natives: Iterable[bytes]) -> set[str]:
    return {id for native in natives if (turn := decode_turn(native)) is not None for id in turn.invocations}
