"""The AI SDK's UI messages, read: what `useChat` keeps and sends, as AG-UI messages."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from gapless.errors import InputInvalid
from gapless.events import (
    AssistantMessage,
    AudioPart,
    ContentPart,
    DataSource,
    DocumentPart,
    FunctionCall,
    ImagePart,
    Message,
    PartSource,
    ReasoningMessage,
    ResumeEntry,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UrlSource,
    UserMessage,
    VideoPart,
)

__all__ = ["UIMessage", "approvals", "to_messages"]

_PARTS: dict[str, type[ImagePart | AudioPart | VideoPart]] = {
    "image": ImagePart,
    "audio": AudioPart,
    "video": VideoPart,
}
_encode = msgspec.json.Encoder().encode


class UIMessage(msgspec.Struct):
    """One message of a chat; its parts are read as far as they are known."""

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]


def approvals(message: UIMessage) -> list[ResumeEntry]:
    """The answers to approval requests that the message carries."""
    entries = []
    for part in message.parts:
        approval = part.get("approval")
        if part.get("state") == "approval-responded" and isinstance(approval, dict):
            payload = {key: approval[key] for key in ("approved", "reason") if key in approval}
            entries.append(
                ResumeEntry(interrupt_id=_string(message, approval, "id"), status="resolved", payload=payload)
            )
    return entries


def to_messages(messages: list[UIMessage]) -> list[Message]:
    """AG-UI messages of the same content; a user's message becomes exactly one. Raises `InputInvalid`."""
    converted: list[Message] = []
    for message in messages:
        if message.role == "user":
            converted.append(UserMessage(id=message.id, content=_content(message)))
        elif message.role == "system":
            converted.append(SystemMessage(id=message.id, content=_text(message)))
        else:
            converted += _assistant(message)
    return converted


def _string(message: UIMessage, part: dict[str, Any], key: str, default: str = "") -> str:
    """A part's field, the default where it is left out. Raises `InputInvalid`."""
    value = part.get(key, default)
    if not isinstance(value, str):
        raise InputInvalid(f"message {message.id}: {key} of a part of type {part.get('type')!r} must be a string")
    return value


def _text(message: UIMessage) -> str:
    return "".join(_string(message, part, "text") for part in message.parts if part.get("type") == "text")


def _content(message: UIMessage) -> str | list[ContentPart]:
    files = [part for part in message.parts if part.get("type") == "file"]
    if not files:
        return _text(message)
    parts: list[ContentPart] = []
    for part in message.parts:
        if part.get("type") == "text":
            parts.append(TextPart(text=_string(message, part, "text")))
        elif part.get("type") == "file":
            parts.append(_file(message, part))
    return parts


def _file(message: UIMessage, part: dict[str, Any]) -> ContentPart:
    url, mime_type, name = _string(message, part, "url"), _string(message, part, "mediaType"), part.get("filename")
    source: PartSource = UrlSource(value=url, mime_type=mime_type or None)
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        try:
            value = unquote_to_bytes(data)
            if head.endswith(";base64"):
                value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            comma = ""
        if not comma:
            raise InputInvalid(f"message {message.id}: a file's data URL is malformed")
        source = DataSource(value=base64.b64encode(value).decode(), mime_type=mime_type or head.partition(";")[0])
    metadata = {"filename": name} if isinstance(name, str) else None
    kind = _PARTS.get(mime_type.partition("/")[0], DocumentPart)
    return kind(source=source, metadata=metadata)


def _assistant(message: UIMessage) -> list[Message]:
    """A message per step: reasoning, then text with the step's tool calls, then their results. A call without a result
    is left out: no model takes one."""
    converted: list[Message] = []
    steps: list[list[dict[str, Any]]] = [[]]
    for part in message.parts:
        if part.get("type") == "step-start":
            steps.append([])
        else:
            steps[-1].append(part)
    for step in steps:
        texts, calls, results = [], [], []
        for part in step:
            kind = str(part.get("type"))
            if kind == "text":
                texts.append(_string(message, part, "text"))
            elif kind == "reasoning":
                id = f"{message.id}-r{len(converted)}"
                converted.append(ReasoningMessage(id=id, content=_string(message, part, "text")))
            elif (kind.startswith("tool-") or kind == "dynamic-tool") and (result := _result(message, part)):
                name = _string(message, part, "toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-")
                arguments = _encode(part.get("input")).decode()
                calls.append(ToolCall(id=result.tool_call_id, function=FunctionCall(name=name, arguments=arguments)))
                results.append(result)
        text = "".join(texts)
        if text or calls:
            id = f"{message.id}-{len(converted)}"
            converted.append(AssistantMessage(id=id, content=text or None, tool_calls=calls or None))
        converted += results
    return converted


def _result(message: UIMessage, part: dict[str, Any]) -> ToolMessage | None:
    state, call_id, error = part.get("state"), _string(message, part, "toolCallId"), None
    if state == "output-available":
        output = part.get("output")
        content = output if isinstance(output, str) else _encode(output).decode()
    elif state == "output-error":
        content = error = _string(message, part, "errorText", "the tool failed")
    elif state == "output-denied":
        content = "the user denied this call"
    else:
        return None
    return ToolMessage(id=f"{call_id}-result", tool_call_id=call_id, content=content, error=error)
