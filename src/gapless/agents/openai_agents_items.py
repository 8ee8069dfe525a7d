"""A session's history as input of the OpenAI Agents SDK, and one turn of it as Gapless keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gapless import events as g
from gapless.agents.base import RunContext
from gapless.agents.call_names import CallNames, call_names
from gapless.agents.conversation import BEGINNING, CAME_LATE, results_in
from gapless.agents.turns import answered, goes_on_from_results, results_brought, turns_before
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
    said: list[tuple[Item, dict[str, g.ToolMessage]]] = []
    results: dict[str, g.ToolMessage] = {}
    for turn in turns_before(ctx, _decode_native):
        of_turn = results_in(turn.messages)
        results |= of_turn
        if turn.native is None:
            said += [(item, of_turn) for item in _items(turn.messages)]
            continue
        if turn.native.whole:
            said, of_turn = [], dict(results)
        said += [(item, of_turn) for item in turn.native.items]
    items = [item for item, _ in said]
    told = [one for at, one in enumerate(said) if not _is_blank(items, at)]
    history, open = answered(told, _calls_in, _answers, _is_asked, _made)
    brought = results_in(results_brought(ctx))
    history += [_made(id, results.get(id)) for id in open if id not in brought]
    asked = [_result(one) for id, one in brought.items() if id in open]
    if ctx.content:
        asked.append({"role": "user", "content": _content(ctx.content)})
    elif not asked and goes_on_from_results(ctx) and history and not _is_told(history[-1]):
        asked.append({"role": "user", "content": CAME_LATE})
    first = next((at for at, item in enumerate(history) if item.get("role") not in ("system", "developer")), 0)
    if history[first:] and history[first].get("role", "assistant") == "assistant":
        history.insert(first, {"role": "user", "content": BEGINNING})
    names = call_names(["openai"])
    return [_named(item, names) for item in history], [_named(item, names) for item in asked]


def _named(item: Item, names: CallNames) -> Item:
    """Return an item with its call under these names: it may be of another provider's model."""
    told = {key: name(item[key]) for key, name in (("call_id", names.id), ("name", names.tool)) if key in item}
    return {**item, **told} if isinstance(item.get("call_id"), str) else item


def turn_of(run_id: str, items: Sequence[Any], before: int | None, pending: Iterable[str]) -> bytes | None:
    """Return one turn in the form that `input_of` reads: the conversation's `items`, less the `before` ones that came
    before it (None: these are all that is left of it), and without what the SDK takes for results of the `pending`
    calls. None where it is no JSON."""
    left = {*pending}
    kept = [item for item in items[before or 0 :] if not (item.get("call_id") in left and _is_output(item))]
    try:
        return _encode(_Turn(run_id=run_id, items=kept, whole=before is None))
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


def _calls_in(item: Item) -> list[str]:
    return [str(item["call_id"])] if item.get("type") == "function_call" else []


def _answers(item: Item) -> str | None:
    return str(item["call_id"]) if item.get("type") == "function_call_output" else None


def _is_asked(item: Item) -> bool:
    """Return whether an item is no part of an answer, in which calls may stand before other things that it says."""
    return bool(item.get("role", "assistant") != "assistant")


def _is_told(item: Item) -> bool:
    """Return whether an item is for the model to answer."""
    return _is_asked(item) or _is_output(item)


def _output(call_id: str, text: str) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def _made(call_id: str, message: g.ToolMessage | None, stands: Item | None = None) -> Item:
    """Return a call's result: the one that stands there, unless it only says that there is none."""
    if stands is not None and (message is None or stands.get("output") != NO_RESULT):
        return stands
    return _output(call_id, NO_RESULT) if message is None else _result(message)


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
            found.append(_result(message))
    return found


def _is_blank(items: Sequence[Item], at: int) -> bool:
    """Return whether the item at this place is an answer that says nothing: some services refuse that. One that follows
    reasoning stays: that would be refused alone."""
    item, before = items[at], items[at - 1] if at else {}
    if item.get("role") != "assistant" or before.get("type") == "reasoning":
        return False
    content = item.get("content")
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return not any(str(part.get("text", part)).strip() for part in parts)


def _result(message: g.ToolMessage) -> Item:
    """Return a call's result, its pictures and documents too."""
    item = _output(message.tool_call_id, text_of(message.content) or message.error or "")
    if isinstance(message.content, list) and any(not isinstance(part, g.TextPart) for part in message.content):
        item["output"] = _content(message.content)
    return item


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
