"""TanStack AI's UI messages, written: what its `ChatClient` shows, from AG-UI messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gapless.events import AssistantMessage, Message, ReasoningMessage, TextPart, ToolMessage, UserMessage, text_of
from gapless.jsontext import decode_json

__all__ = ["to_tanstack"]


def to_tanstack(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the messages as `ChatClient` would have them if it had followed their runs: reasoning is a part of the
    answer that comes after it, and a tool's result a part of the answer that called the tool.
    """
    shown: list[dict[str, Any]] = []
    thoughts: list[dict[str, Any]] = []
    calls: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for message in messages:
        if isinstance(message, ReasoningMessage):
            kept = {"signature": message.encrypted_value} if message.encrypted_value else {}
            thoughts.append({"type": "thinking", "content": message.content, **kept})
        elif isinstance(message, AssistantMessage):
            parts, thoughts = thoughts, []
            if message.content:
                parts.append({"type": "text", "content": message.content})
            answer: dict[str, Any] = {"id": message.id, "role": "assistant", "parts": parts}
            for call in message.tool_calls or ():
                part = {
                    "type": "tool-call",
                    "id": call.id,
                    "name": call.function.name,
                    "arguments": call.function.arguments,
                    "input": _value(call.function.arguments or "{}"),
                    "state": "input-complete",
                }
                if isinstance(call.encrypted_value, str):
                    part["metadata"] = {"thoughtSignature": call.encrypted_value}
                parts.append(part)
                calls[call.id] = part, answer
            shown.append(answer)
        elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
            part, answer = calls[message.tool_call_id]
            text = text_of(message.content)
            result = {"type": "tool-result", "toolCallId": message.tool_call_id, "content": text, "state": "complete"}
            if message.error is None:
                part |= {"state": "complete", "output": _value(text)}
            else:
                part |= {"state": "error", "output": {"error": message.error}}
                result |= {"state": "error", "error": message.error}
            answer["parts"].append(result)
        elif isinstance(message, UserMessage) and message.content:
            shown.append({"id": message.id, "role": "user", "parts": _parts(message)})
    return shown


def _parts(message: UserMessage) -> list[dict[str, Any]]:
    """Media parts are AG-UI's own; text has another key."""
    if isinstance(message.content, str):
        return [{"type": "text", "content": message.content}]
    return [
        {"type": "text", "content": part.text} if isinstance(part, TextPart) else msgspec.to_builtins(part)
        for part in message.content
    ]


def _value(text: str) -> Any:
    """Return what the text is as JSON, or itself."""
    try:
        return decode_json(text)
    except msgspec.DecodeError:
        return text
