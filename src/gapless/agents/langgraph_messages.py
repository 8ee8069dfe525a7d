"""A session's messages as LangChain's, and what LangChain's messages say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic_core import to_json

from gapless import events as g
from gapless.agents.turns import answered
from gapless.agents.writing import WholeCall
from gapless.events import DataSource, Message, TokenUsage, UrlSource, text_of
from gapless.jsontext import decode_json

__all__ = [
    "calls_of",
    "content_of",
    "files_of",
    "messages_of",
    "names_of",
    "repaired",
    "result_of",
    "says",
    "usage_of",
    "whole_of",
]

NO_RESULT = "This call has no result: the conversation went on without it."
Told: TypeAlias = tuple[BaseMessage, Mapping[str, g.ToolMessage]]
"""A message, and what the session has of the results of its turn's calls."""


# -- to LangChain -----------------------------------------------------------------------------------------------------


def messages_of(messages: Sequence[Message]) -> list[BaseMessage]:
    """Return the session's messages as LangChain's, under the same ids. Reasoning is left out: without its provider's
    signature it is of no use."""
    found: list[BaseMessage] = []
    names: dict[str, str] = {}
    for message in messages:
        if isinstance(message, g.UserMessage):
            if message.content:
                found.append(HumanMessage(content_of(message.content), id=message.id or None))
        elif isinstance(message, g.SystemMessage | g.DeveloperMessage):
            found.append(SystemMessage(message.content, id=message.id or None))
        elif isinstance(message, g.AssistantMessage):
            calls: list[Any] = []
            for call in message.tool_calls or ():
                with contextlib.suppress(msgspec.DecodeError):
                    arguments = decode_json(call.function.arguments or "{}")
                    calls.append({"id": call.id, "name": call.function.name, "args": arguments})
                    names[call.id] = call.function.name
            found.append(AIMessage(message.content or "", id=message.id or None, tool_calls=calls))
        elif isinstance(message, g.ToolMessage):
            found.append(_result(message, names.get(message.tool_call_id)))
    return found


def _result(message: g.ToolMessage, name: str | None) -> ToolMessage:
    media = isinstance(message.content, list) and any(not isinstance(part, g.TextPart) for part in message.content)
    return ToolMessage(
        content_of(message.content) if media else text_of(message.content) or message.error or "",
        tool_call_id=message.tool_call_id,
        name=name,
        id=message.id or None,
        status="success" if message.error is None else "error",
    )


def content_of(content: str | list[g.ContentPart]) -> Any:
    """Return what a user says, in LangChain's content blocks where it has media."""
    if isinstance(content, str):
        return content
    return [_block(part) for part in content]


def _block(part: g.ContentPart) -> dict[str, Any]:
    if isinstance(part, g.TextPart):
        return {"type": "text", "text": part.text}
    kind = {g.ImagePart: "image", g.AudioPart: "audio", g.VideoPart: "video"}.get(type(part), "file")
    source = part.source
    block: dict[str, Any] = {"type": kind}
    if source.mime_type:
        block["mime_type"] = source.mime_type
    if isinstance(source, DataSource):
        return {**block, "base64": source.value}
    if isinstance(source, UrlSource):
        return {**block, "url": source.value}
    return {**block, "file_id": source.value}


def repaired(said: Iterable[Told]) -> tuple[list[BaseMessage], list[str]]:
    """Return the conversation with a result for each call, as models want it: one of the session's, or one that says
    there is none. The calls of the last answer that have none are returned beside it."""
    told = [*said]
    names = names_of(one for one, _ in told)

    def make(id: str, message: g.ToolMessage | None, stands: BaseMessage | None) -> BaseMessage:
        if stands is not None and (message is None or stands.content != NO_RESULT):
            return stands
        return result_of(id, message, names[id])

    return answered(told, _called, _answers, lambda one: True, make)


def _called(message: BaseMessage) -> list[str]:
    return [id for call in message.tool_calls if (id := call["id"])] if isinstance(message, AIMessage) else []


def _answers(message: BaseMessage) -> str | None:
    return message.tool_call_id if isinstance(message, ToolMessage) else None


def names_of(messages: Iterable[BaseMessage]) -> dict[str, str]:
    """Return the names of the tools by the ids of their calls."""
    return {
        id: call["name"]
        for one in messages
        if isinstance(one, AIMessage)
        for call in one.tool_calls
        if (id := call["id"]) is not None
    }


def result_of(call_id: str, message: g.ToolMessage | None, name: str) -> ToolMessage:
    """Return a call's result, or where there is none one that says so."""
    if message is not None:
        found = _result(message, name)
        return found if found.id else found.model_copy(update={"id": f"{call_id}-result"})
    return ToolMessage(NO_RESULT, tool_call_id=call_id, name=name, id=f"{call_id}-result", status="error")


# -- from LangChain ---------------------------------------------------------------------------------------------------


def says(content: Any) -> Iterator[tuple[str, str]]:
    """Yield what a message's content says, in order: `("text" | "reasoning" | "part" | "signature", …)`; a part of
    reasoning that begins anew is said by "part"."""
    if isinstance(content, str):
        yield "text", content
        return
    for block in content:
        if isinstance(block, str):
            yield "text", block
            continue
        kind = block.get("type")
        if kind in ("text", "output_text", "refusal", "text_delta"):
            yield "text", block.get("text") or block.get("refusal") or ""
        elif kind in ("reasoning", "thinking", "reasoning_content"):
            for index, part in enumerate(block.get("summary") or ()):
                yield "part" if index else "reasoning", part.get("text") or ""
            thought = block.get("reasoning") or block.get("thinking") or block.get("text")
            if isinstance(thought, str):
                yield "reasoning", thought
            signature = block.get("signature") or (block.get("extras") or {}).get("signature")
            if isinstance(signature, str) and signature:
                yield "signature", signature
        elif kind == "redacted_thinking" and isinstance(block.get("data"), str):
            yield "signature", block["data"]


def files_of(content: Any) -> Iterator[tuple[str | None, str | bytes | None, str | None]]:
    """Yield the type, the data and the address of each picture and other file in a message's content, in the forms that
    LangChain and its providers have for them."""
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        kind, mime_type = block.get("type"), block.get("mime_type")
        data, url = block.get("base64") or block.get("data"), block.get("url")
        if kind == "image_url":
            where = block.get("image_url")
            url = where.get("url") if isinstance(where, dict) else where
        elif kind == "image_generation_call":
            mime_type, data = f"image/{block.get('output_format') or 'png'}", block.get("result")
        elif kind not in ("image", "audio", "video", "file", "media"):
            continue
        if isinstance(data, str | bytes) or isinstance(url, str):
            yield mime_type, data, url


def whole_of(message: BaseMessage) -> tuple[str, str, list[WholeCall]]:
    """Return the text, the reasoning and the calls of a complete message."""
    said = [*says(message.content)]
    text = "".join(value for kind, value in said if kind == "text")
    thought = "\n".join(value for kind, value in said if kind in ("reasoning", "part"))
    if not thought and isinstance(more := message.additional_kwargs.get("reasoning_content"), str):
        thought = more
    return text, thought, calls_of(message)


def calls_of(message: BaseMessage) -> list[WholeCall]:
    """Return the tool calls of a message, those too whose arguments are no JSON."""
    if not isinstance(message, AIMessage):
        return []
    whole = [
        WholeCall(one["id"], one["name"], to_json(one["args"]).decode()) for one in message.tool_calls if one["id"]
    ]
    bad = [
        WholeCall(one["id"], one["name"] or "", one["args"] or "") for one in message.invalid_tool_calls if one["id"]
    ]
    return [*whole, *bad]


def usage_of(usage: Mapping[str, Any], metadata: Mapping[str, Any]) -> TokenUsage:
    """Return the tokens of one model call; `metadata` is the response's."""
    inputs, outputs = usage.get("input_token_details") or {}, usage.get("output_token_details") or {}
    return TokenUsage(
        provider=metadata.get("model_provider"),
        model=metadata.get("model_name"),
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
        total_tokens=usage.get("total_tokens"),
        reasoning_tokens=outputs.get("reasoning") or None,
        cached_input_tokens=inputs.get("cache_read") or None,
        cache_write_input_tokens=inputs.get("cache_creation") or None,
    )
