"""Where the agents of an ADK invocation stand, read from its events: what ADK does not tell apart when it goes on.

ADK asks the model of an agent again whose answer was its last event, takes a long-running call that nobody began for
one that waits, and begins a workflow's unfinished node from its start. So an agent that has ended is passed over, and
responses whose calls are not done are given to it once more by the plugin, in the place of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from google.adk.agents import BaseAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.events import Event, EventActions
from google.adk.models.llm_response import LlmResponse
from google.adk.workflow import Workflow
from google.genai import types

from gapless.agents.adk_turn import CONFIRMATION, CREDENTIAL, INPUT

__all__ = ["Place", "Stand", "answered_by", "asks_only", "is_question", "place_of", "reply_of", "stand_of"]

Place: TypeAlias = tuple[str, str]
"""An agent at work: its name and branch."""

_REQUESTS = (CONFIRMATION, CREDENTIAL, INPUT)
_REPLY_FIELDS = set(LlmResponse.model_fields) - {"usage_metadata", "partial"}


class Stand:
    """Says where the agents stand: `waiting` for a person, or `ended`, having nothing more to do, with what that meant
    to the agents around them. `replies` are the responses that others have to be given again, and `dropped` the events
    that these replace."""

    def __init__(self) -> None:
        self.waiting: set[Place] = set()
        self.ended: dict[Place, EventActions] = {}
        self.replies: dict[Place, list[Event]] = {}
        self.dropped: list[Event] = []


def stand_of(root: Any, events: Sequence[Event], pending: Collection[Place], *, asking: bool) -> Stand:
    """Return where the agents below `root` stand after the `events` of an invocation. Those in `pending` have asked
    something; with `asking` they have nothing else to do."""
    stand = Stand()
    answered = {response.id for event in events for response in event.get_function_responses()}
    for place, mine in _since_begun(root, events).items():
        if place in pending and (asking or _waits(mine)):
            stand.waiting.add(place)
        elif isinstance(root, Workflow):
            if not any(event.output is not None or event.node_info.message_as_output for event in mine):
                _replay_node(stand, place, mine)
        elif place not in pending and _has_ended(mine[-1]):
            stand.ended[place] = EventActions(escalate=_escalates(mine) or None)
        else:
            again = place in pending or _asks(mine[-1]) or _escalates(mine)
            _replay_last(stand, place, mine, set() if again else answered)
    return stand


def reply_of(event: Event) -> LlmResponse:
    """Return the response that the event was made of, whose tokens are counted already."""
    return LlmResponse(**{name: getattr(event, name) for name in _REPLY_FIELDS & event.model_fields_set})


def answered_by(message: types.Content | None) -> list[str | None]:
    """Return the ids of the calls that a message answers."""
    parts = (message.parts if message is not None else None) or []
    return [part.function_response.id for part in parts if part.function_response is not None]


def is_question(call: types.FunctionCall, event: Event) -> bool:
    """Return whether this call of the event waits for an answer from outside."""
    return call.name in _REQUESTS or call.id in (event.long_running_tool_ids or ())


def asks_only(event: Event) -> bool:
    """Return whether the event is nothing but a question of ADK's."""
    calls = event.get_function_calls()
    return bool(calls) and all(call.name in _REQUESTS for call in calls)


def place_of(event: Event) -> Place:
    """Return which agent said this."""
    return event.author, event.branch or ""


def _waits(mine: Sequence[Event]) -> bool:
    """Tell whether an agent that has asked something has done all that it does before it waits. An answer to another of
    its questions changes nothing about that."""
    last = next((event for event in reversed(mine) if event.content is not None and event.author != "user"), None)
    if last is None:
        return False
    if calls := last.get_function_calls():
        return all(call.name in _REQUESTS for call in calls)
    if not _asks(last):
        return last.is_final_response()
    asked = {  # the event that asks comes before that of the responses, or, where others stand beside, after it
        (call.args or {}).get("originalFunctionCall", {}).get("id")
        for event in mine
        for call in event.get_function_calls()
        if call.name == CONFIRMATION
    }
    return asked.issuperset(last.actions.requested_tool_confirmations)


def _asks(event: Event) -> bool:
    """Tell whether a person is to be asked something, by an event that follows."""
    return bool(event.actions.requested_tool_confirmations or event.actions.requested_auth_configs)


def _has_ended(event: Event) -> bool:
    """Tell whether the agent whose last event this is has said all."""
    actions = event.actions
    if actions.end_of_agent:
        return True
    if event.content is None or not event.content.parts or event.long_running_tool_ids:
        return False
    return event.is_final_response() and not _asks(event)


def _since_begun(root: Any, events: Sequence[Event]) -> dict[Place, list[Event]]:
    """Return the events of each agent since it was begun last, with what people answered it."""
    found: dict[Place, list[Event]] = {}
    asked: dict[str | None, Place] = {}
    for event in events:
        place = place_of(event)
        if event.author == "user":
            for answered in {asked[response.id] for response in event.get_function_responses() if response.id in asked}:
                found.setdefault(answered, []).append(event)
            continue
        for ended in [ended for ended in found if event.author in _around(root, ended[0])]:
            del found[ended]
        found.setdefault(place, []).append(event)
        asked.update(dict.fromkeys((call.id for call in event.get_function_calls()), place))
    return found


def _around(root: Any, name: str) -> set[str]:
    """Return the agents that run this one in an order of their own: it begins anew where one of them goes on."""
    agent = root.find_agent(name) if isinstance(root, BaseAgent) else None
    found = set()
    while agent is not None and (agent := agent.parent_agent) is not None:
        if isinstance(agent, SequentialAgent | LoopAgent | ParallelAgent):
            found.add(agent.name)
    return found


def _escalates(mine: Sequence[Event]) -> bool:
    return any(event.actions.escalate for event in mine)


def _replay_last(stand: Stand, place: Place, mine: Sequence[Event], answered: set[str | None]) -> None:
    """Give the agent its last response again where none of its calls is done. What its tools ask is asked again too."""
    dropped = []
    for event in reversed(mine):
        if event.content is None:
            continue
        calls = [call for call in event.get_function_calls() if call.name not in _REQUESTS]
        dropped.append(event)
        if calls:
            if not any(call.id in answered for call in calls):
                stand.replies[place] = [event]
                stand.dropped += reversed(dropped)
            return


def _replay_node(stand: Stand, place: Place, mine: Sequence[Event]) -> None:
    """Give the agent of an unfinished node all its responses again, from its first one."""
    replies = [event for event in mine if any(call.name not in _REQUESTS for call in event.get_function_calls())]
    if replies:
        stand.replies[place] = replies
        stand.dropped += [event for event in mine if event.content is not None]
