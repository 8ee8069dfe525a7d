"""A session's history in the form that model services take: complete, and honest about what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from gapless.events import (
    ActivityMessage,
    AssistantMessage,
    DeveloperMessage,
    Message,
    ReasoningMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from gapless.fold import is_left
from gapless.jsontext import decode_json

__all__ = [
    "BEGINNING",
    "CAME_LATE",
    "INTERRUPTED",
    "conversation",
    "in_their_places",
    "is_whole",
    "results_in",
    "told_once",
    "tools_called",
    "with_a_beginning",
]

BEGINNING = "[The assistant speaks first.]"
"""Stands before a history that begins with the assistant, as a page's greeting does: many services want the user
first, and would refuse it."""

CAME_LATE = "[Results of the calls above have come in.]"
"""Ends a history that goes on from results alone, which stand before later answers of the assistant: many services want
the user last, and a model should see that there is something to answer."""

INTERRUPTED = "[This answer was cut short here.]"
"""Follows the text of an answer that was cancelled or failed, so that a model does not take it for its whole answer."""


def conversation(messages: Sequence[Message]) -> list[Message]:
    """Return what a model may be shown of a history, in an order that every service takes.

    Each tool's result follows the message that called for it. Calls without a result and results without a call, as a
    run cut short leaves them, are dropped; so are calls whose arguments are no JSON object, reasoning and activities.
    Cut answers are marked. Neighbouring messages of the assistant become one. Blanks are left out, unless they are what
    the user has just said: a service is to be asked something.
    """
    results = _results(messages)
    shown: list[Message] = []
    ids: set[str] = set()
    for at, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            answer = _complete(message, results.get(at, {}))
            last = shown[-1] if shown else None
            if isinstance(last, AssistantMessage) and not last.tool_calls:
                shown.pop()
                answer = _joined(last, answer)
            if answer.content or answer.tool_calls:
                shown += _of_its_own(answer, results.get(at, {}), ids)
        elif isinstance(message, UserMessage | SystemMessage | DeveloperMessage):
            asked = isinstance(message, UserMessage) and message is messages[-1] and message.content
            if asked or not _is_blank(message.content):
                shown.append(message)
    return shown


def _is_blank(content: object) -> bool:
    """Return whether nothing is said, which some services refuse."""
    return not content or (isinstance(content, str) and content.isspace())


def _of_its_own(answer: AssistantMessage, results: dict[str, ToolMessage], ids: set[str]) -> list[Message]:
    """Return an answer and its calls' results, each call with an id that is none of `ids`, those before it."""
    told: list[Message] = [answer]
    calls = list(answer.tool_calls or ())
    for number, call in enumerate(calls):
        result, id = results[call.id], call.id
        while id in ids:
            id += "_"
        ids.add(id)
        if id != call.id:
            calls[number] = msgspec.structs.replace(call, id=id)
            result = msgspec.structs.replace(result, tool_call_id=id)
        told.append(result)
    told[0] = msgspec.structs.replace(answer, tool_calls=calls or None)
    return told


def _results(messages: Sequence[Message]) -> dict[int, dict[str, ToolMessage]]:
    """Return the first result of each call, by its message's place and its id: some services give one id again."""
    called: dict[str, int] = {}
    found: dict[int, dict[str, ToolMessage]] = {}
    for at, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            called.update((call.id, at) for call in message.tool_calls or ())
        # Of a call that its run's end has left without a result the arguments may be half.
        elif isinstance(message, ToolMessage) and message.tool_call_id in called and not is_left(message):
            found.setdefault(called[message.tool_call_id], {}).setdefault(message.tool_call_id, message)
    return found


def tools_called(messages: Iterable[Message]) -> dict[str, str]:
    """Return the names of the tools by the ids of their calls: a message with a result does not have them."""
    return {
        call.id: call.function.name
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls or ()
    }


def with_a_beginning(messages: list[Message], *, first: bool = True) -> list[Message]:
    """Return a history that the user begins, behind the instructions; as it is where it is not the `first` of it."""
    at = 0 if first else len(messages)
    while at < len(messages) and isinstance(messages[at], SystemMessage | DeveloperMessage):
        at += 1
    if at < len(messages) and isinstance(messages[at], AssistantMessage):
        messages.insert(at, UserMessage(id="beginning", content=BEGINNING))
    return messages


def is_whole(call: ToolCall) -> bool:
    """Return whether the arguments of a call are a JSON object: a model's service takes no others back."""
    try:
        return isinstance(decode_json(call.function.arguments.strip() or "{}"), dict)
    except msgspec.DecodeError:
        return False


def told_once(messages: Sequence[Message]) -> list[Message]:
    """Return a history in which each call of a client's own has one result, the first: some send it again."""
    told: set[str] = set()
    kept: list[Message] = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            told.difference_update(call.id for call in message.tool_calls or ())
        elif isinstance(message, ToolMessage) and not (message.metadata or {}).get("run_id"):
            if message.tool_call_id in told:
                continue
            told.add(message.tool_call_id)
        kept.append(message)
    return kept


def in_their_places(messages: Sequence[Message]) -> list[Message]:
    """Return a history in which the results that a client brought after later answers stand with the answer that called
    for them, as of its run. Each call has one result, the first; one that only says that there is none makes way."""
    parts: list[list[Message]] = []
    owners: dict[str, _Answer] = {}
    answer: _Answer | None = None
    for message in messages:
        if isinstance(message, AssistantMessage | ReasoningMessage | ActivityMessage):
            if answer is None or answer.results:
                answer = _Answer()
                parts.append(answer.messages)
            answer.messages.append(message)
            if isinstance(message, AssistantMessage):
                owners.update((call.id, answer) for call in message.tool_calls or ())
            continue
        if not isinstance(message, ToolMessage):
            answer = None
        elif (owner := owners.get(message.tool_call_id)) is not None:
            owner.take(message, late=owner is not answer)
            continue
        parts.append([message])
    return [message for part in parts for message in part]


class _Answer:
    """Is one answer of a model: what it said, and the results of its calls."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.results: dict[str, ToolMessage] = {}

    def take(self, result: ToolMessage, *, late: bool) -> None:
        known = self.results.get(result.tool_call_id)
        run_id = (self.messages[0].metadata or {}).get("run_id")
        # An id that a service gives twice in one answer has two results, which the run itself has.
        of_run = not late and run_id is not None and (result.metadata or {}).get("run_id") == run_id
        if known is not None and not of_run and (not is_left(known) or is_left(result)):
            return
        if late:
            others = {key: value for key, value in (result.metadata or {}).items() if key != "run_id"}
            metadata = others if run_id is None else {**others, "run_id": run_id}
            result = msgspec.structs.replace(result, metadata=metadata or None)
        if known is not None and not of_run:
            self.messages.remove(known)
        self.messages.append(result)
        self.results[result.tool_call_id] = result


def results_in(messages: Iterable[Message]) -> dict[str, ToolMessage]:
    """Return the results in a history by the ids of their calls, of several the first; of an id that was given again,
    those of the newest call."""
    found: dict[str, ToolMessage] = {}
    for message in messages:
        if isinstance(message, AssistantMessage):
            for call in message.tool_calls or ():
                found.pop(call.id, None)
        elif isinstance(message, ToolMessage):
            known = found.get(message.tool_call_id)
            if known is None or is_left(known):
                found[message.tool_call_id] = message
    return found


def _complete(message: AssistantMessage, results: dict[str, ToolMessage]) -> AssistantMessage:
    calls = {call.id: call for call in message.tool_calls or () if call.id in results and is_whole(call)}
    content = None if _is_blank(message.content) else message.content
    if message.metadata and message.metadata.get("interrupted"):
        content = f"{content}\n{INTERRUPTED}" if content else INTERRUPTED
    return msgspec.structs.replace(message, content=content, tool_calls=[*calls.values()] or None)


def _joined(first: AssistantMessage, second: AssistantMessage) -> AssistantMessage:
    content = "\n".join(filter(None, (first.content, second.content)))
    return msgspec.structs.replace(second, content=content or None)
