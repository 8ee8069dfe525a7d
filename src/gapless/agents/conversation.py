"""A session's history in the form that model services take: complete, and honest about what was cut."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gapless.events import (
    AssistantMessage,
    DeveloperMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from gapless.fold import is_left

__all__ = ["INTERRUPTED", "conversation", "told_once"]

INTERRUPTED = "[This answer was cut short here.]"
"""Follows the text of an answer that was cancelled or failed, so that a model does not take it for its whole answer."""


def conversation(messages: Sequence[Message]) -> list[Message]:
    """Return what a model may be shown of a history, in an order that every service takes.

    Each tool's result follows the message that called for it. Calls without a result and results without a call, as a
    run cut short leaves them, are dropped; so are reasoning and activities. Cut answers are marked. Neighbouring
    messages of the assistant become one.
    """
    # Of a call that its run's end has left without a result the arguments may be half.
    results = {m.tool_call_id: m for m in messages if isinstance(m, ToolMessage) and not is_left(m)}
    shown: list[Message] = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            answer = _complete(message, results)
            last = shown[-1] if shown else None
            if isinstance(last, AssistantMessage) and not last.tool_calls:
                shown.pop()
                answer = _joined(last, answer)
            if answer.content or answer.tool_calls:
                shown.append(answer)
                shown += [results.pop(call.id) for call in answer.tool_calls or ()]
        elif isinstance(message, UserMessage | SystemMessage | DeveloperMessage) and message.content:
            shown.append(message)
    return shown


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


def _complete(message: AssistantMessage, results: dict[str, ToolMessage]) -> AssistantMessage:
    calls = [call for call in message.tool_calls or () if call.id in results]
    content = message.content
    if message.metadata and message.metadata.get("interrupted"):
        content = f"{content}\n{INTERRUPTED}" if content else INTERRUPTED
    return msgspec.structs.replace(message, content=content, tool_calls=calls or None)


def _joined(first: AssistantMessage, second: AssistantMessage) -> AssistantMessage:
    content = "\n".join(filter(None, (first.content, second.content)))
    return msgspec.structs.replace(second, content=content or None)
