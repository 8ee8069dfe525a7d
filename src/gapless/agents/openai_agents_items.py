"""A session's history as input of the OpenAI Agents SDK, and one turn of it as Gapless keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gapless import events as g
from gapless.agents.base import RunContext
from gapless.agents.turns import results_brought, turns_before
from gapless.errors import InputInvalid
from gapless.events import DataSource, Message, UrlSource, text_of

__all__ = ["input_of", "turn_of"]

NO_RESULT = "This call has no result: the conversation went on without it."

Item = dict[str, Any]


class _Turn(msgspec.Struct, tag_field="framework", tag="openai-agents"):
    """Is what `RunContext.native` holds for one turn."""

    run_id: str
    items: list[Item]
    whole: bool = False
    """The items are all of the conversation, and not this turn's alone."""


_decode = msgspec.json.Decoder(_Turn).decode
_encode = msgspec.json.Encoder().encode


def input_of(ctx: RunContext) -> tuple[list[Item], list[Item]]:
    """Return the turns before the run's message, and what the run is asked: results of the client's own tools, and the
    message. Every call before has a result."""
    history: list[Item] = []
    for turn in turns_before(ctx, _decode_native):
        if turn.native is None:
            history += _items(turn.messages)
        else:
            history = [] if turn.native.whole else history
            history += turn.native.items
    results = {
        one.tool_call_id: text_of(one.content) or one.error or ""
        for one in ctx.messages
        if isinstance(one, g.ToolMessage)
    }
    brought = [one for one in results_brought(ctx) if one.tool_call_id not in _answered(history)]
    history = _repaired(history, results, {one.tool_call_id for one in brought})
    asked = [_output(one.tool_call_id, text_of(one.content) or one.error or "") for one in brought]
    if ctx.content:
        asked.append({"role": "user", "content": _content(ctx.content)})
    return history, asked


def turn_of(run_id: str, items: Sequence[Any], before: int, pending: Iterable[str]) -> bytes | None:
    """Return one turn in the form that `input_of` reads: the conversation's `items`, less the `before` ones that came
    before it, and without what the SDK takes for results of the `pending` calls. None where it is no JSON."""
    left = {*pending}
    kept = [item for item in items[before:] if not (item.get("call_id") in left and _is_output(item))]
    try:
        return _encode(_Turn(run_id=run_id, items=kept))
    except (TypeError, ValueError):
        return None


def _decode_native(native: bytes) -> tuple[str, _Turn] | None:
    try:
        turn = _decode(native)
    except msgspec.MsgspecError:  # another framework's
        return None
    return turn.run_id, turn


def _is_output(item: Item) -> bool:
    return str(item.get("type")).endswith("_output")


def _answered(items: Iterable[Item]) -> set[str]:
    return {str(item["call_id"]) for item in items if _is_output(item) and "call_id" in item}


def _output(call_id: str, text: str) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def _repaired(items: Sequence[Item], results: Mapping[str, str], brought: set[str]) -> list[Item]:
    known = _answered(items) | brought
    found: list[Item] = []
    for item in items:
        found.append(item)
        if item.get("type") == "function_call" and item["call_id"] not in known:
            found.append(_output(item["call_id"], results.get(item["call_id"], NO_RESULT)))
    return found


def _items(messages: Iterable[Message]) -> list[Item]:
    found: list[Item] = []
    for message in messages:
        if isinstance(message, g.UserMessage):
            found.append({"role": "user", "content": _content(message.content)})
        elif isinstance(message, g.SystemMessage | g.DeveloperMessage):
            role = "system" if isinstance(message, g.SystemMessage) else "developer"
            found.append({"role": role, "content": message.content})
        elif isinstance(message, g.AssistantMessage):
            if message.content:
                found.append({"role": "assistant", "content": message.content})
            found += [
                {
                    "type": "function_call",
                    "call_id": call.id,
                    "name": call.function.name,
                    "arguments": call.function.arguments or "{}",
                }
                for call in message.tool_calls or ()
            ]
        elif isinstance(message, g.ToolMessage):
            found.append(_output(message.tool_call_id, text_of(message.content) or message.error or ""))
    return found


def _content(content: str | list[g.ContentPart]) -> Any:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: g.ContentPart) -> Item:
    """Return what a user attached. Raises `InputInvalid` for what these models have no place for."""
    if isinstance(part, g.TextPart):
        return {"type": "input_text", "text": part.text}
    source = part.source
    url = f"data:{source.mime_type};base64,{source.value}" if isinstance(source, DataSource) else source.value
    if isinstance(part, g.ImagePart):
        where = {"image_url": url} if isinstance(source, DataSource | UrlSource) else {"file_id": source.value}
        return {"type": "input_image", "detail": "auto", **where}
    if isinstance(part, g.DocumentPart):
        if isinstance(source, DataSource):
            return {"type": "input_file", "filename": "attachment", "file_data": url}
        return {"type": "input_file", "file_url" if isinstance(source, UrlSource) else "file_id": source.value}
    raise InputInvalid(f"this agent takes text, pictures and documents, and no {source.mime_type or 'such file'}")
