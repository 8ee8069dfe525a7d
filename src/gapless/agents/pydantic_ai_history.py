"""A session's history as Pydantic AI reads it, and one turn of it as Gapless keeps it.

A turn that this adapter ran is kept as the framework's own messages, with the signatures and metadata that the
session's messages don't carry. Every other turn (a client's own history, another framework's, a turn whose worker
died) is rebuilt from the session's messages.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from pydantic_ai.messages import (
    AudioUrl,
    BaseToolReturnPart,
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UploadedFile,
    UserContent,
    UserPromptPart,
    VideoUrl,
    repair_messages,
)
from pydantic_core import PydanticSerializationError

from gapless import events
from gapless.agents.base import RunContext
from gapless.agents.call_names import CallNames, call_names
from gapless.agents.conversation import BEGINNING, CAME_LATE, in_their_places, results_in, tools_called
from gapless.agents.pydantic_ai_sealed import thought_of, unseal
from gapless.agents.turns import earlier, goes_on_from_results, turns_of
from gapless.agents.writing import with_files
from gapless.errors import InputInvalid
from gapless.events import DataSource, Message, UrlSource, text_of
from gapless.fold import is_left
from gapless.jsontext import without_surrogates

__all__ = ["content_of", "dump", "history_of", "prompt_of", "told_to", "turn_of"]

_URLS: dict[type, type[ImageUrl | AudioUrl | VideoUrl | DocumentUrl]] = {
    events.ImagePart: ImageUrl,
    events.AudioPart: AudioUrl,
    events.VideoPart: VideoUrl,
    events.DocumentPart: DocumentUrl,
}


class _Turn(msgspec.Struct, tag_field="framework", tag="pydantic-ai"):
    """What `RunContext.native` holds for one turn."""

    run_id: str
    messages: msgspec.Raw


_STAND_IN = {"pydantic_ai_synthesized_tool_return": True}
"""The metadata of what the framework itself puts in a missing result's place (`repair_messages`)."""
_decode_turn = msgspec.json.Decoder(_Turn).decode


def turn_of(run_id: str, messages: Sequence[ModelMessage]) -> bytes | None:
    """Return one turn in the form that `history_of` reads; None when there is nothing of it.

    Calls that were cut off in the middle of their arguments are left out: no provider takes them back. Calls that got
    no result stay, and are closed when the turn is read.
    """
    kept = list(messages)
    if kept and isinstance(last := kept[-1], ModelResponse) and last.state == "interrupted":
        parts = [part for part in last.parts if not (isinstance(part, ToolCallPart) and not _is_whole(part))]
        kept[-1:] = [dataclasses.replace(last, parts=parts)] if parts else []
    if not kept:
        return None
    return msgspec.json.encode(_Turn(run_id=run_id, messages=msgspec.Raw(dump(kept))))


def dump(messages: Sequence[ModelMessage]) -> bytes:
    """Return messages as JSON, also those that hold half a character."""
    try:
        # What a tool attached for the application may be anything; it is no part of what the model is shown.
        return ModelMessagesTypeAdapter.dump_json(list(messages), fallback=str, warnings=False)
    except (UnicodeEncodeError, PydanticSerializationError):
        values = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json", fallback=str, warnings=False)
        return msgspec.json.encode(without_surrogates(values))


def history_of(ctx: RunContext) -> list[ModelMessage]:
    """Return the turns before this run's message, ready to take a new prompt: every call in it has a result."""
    natives = [found for native in ctx.native_history if (found := _decoded(native)) is not None]
    messages: list[tuple[ModelMessage, Mapping[str, events.ToolMessage]]] = []
    names = tools_called(ctx.messages)
    turns = turns_of(in_their_places(earlier(ctx)), {native.run_id: native.messages for native in natives})
    for turn in turns:
        if turn.native is None:
            messages += [(one, {}) for one in _rebuilt(turn.messages, names)]
            continue
        results = {id: one for id, one in results_in(turn.messages).items() if not is_left(one)}
        messages += [(one, results) for one in ModelMessagesTypeAdapter.validate_json(bytes(turn.native))]
    history = repair_messages(_with_a_beginning(_answered(messages)))
    if goes_on_from_results(ctx) and history and isinstance(history[-1], ModelResponse):
        history.append(ModelRequest(parts=[UserPromptPart(CAME_LATE)]))
    return history


def _decoded(native: bytes) -> _Turn | None:
    try:
        return _decode_turn(native)
    except msgspec.MsgspecError:  # another framework's
        return None


def told_to(providers: Iterable[str], messages: list[ModelMessage]) -> list[ModelMessage]:
    """Return the messages as a model is told of them that one of these `providers` serves: without blanks, and whatever
    else it would refuse the request for."""
    names = call_names(providers)
    if not names:
        return messages
    told = [(message, _told(message, names)) for message in messages]
    return [new for message, new in told if new.parts or not message.parts]


def _told(message: ModelMessage, names: CallNames) -> ModelMessage:
    parts: list[Any] = []
    ids: set[str] = set()
    for part in message.parts:
        if isinstance(part, TextPart) and not part.content.strip() and part.id is None and not part.provider_details:
            continue
        if isinstance(part, ToolCallPart | ToolReturnPart):
            if part.tool_call_id in ids:
                continue
            ids.add(part.tool_call_id)
        parts.append(_named(part, names))
    if len(parts) == len(message.parts) and all(map(operator.is_, parts, message.parts)):
        return message
    return dataclasses.replace(message, parts=parts)  # type: ignore[arg-type]  # the same kinds of parts


def _named(part: Any, names: CallNames) -> Any:
    """Return a part of a call under the names; the provider's own calls have those of that provider."""
    if isinstance(part, ToolCallPart | ToolReturnPart) or (isinstance(part, RetryPromptPart) and part.tool_name):
        id, name = names.id(part.tool_call_id), names.tool(part.tool_name or "")
        if (id, name) != (part.tool_call_id, part.tool_name):
            return dataclasses.replace(part, tool_call_id=id, tool_name=name)
    return part


def _with_a_beginning(messages: list[ModelMessage]) -> list[ModelMessage]:
    first = next((at for at, message in enumerate(messages) if not _instructs(message)), 0)
    if messages[first:] and isinstance(messages[first], ModelResponse):
        messages.insert(first, ModelRequest(parts=[UserPromptPart(BEGINNING)]))
    return messages


def _instructs(message: ModelMessage) -> bool:
    return isinstance(message, ModelRequest) and all(isinstance(part, SystemPromptPart) for part in message.parts)


def _answered(messages: Iterable[tuple[ModelMessage, Mapping[str, events.ToolMessage]]]) -> list[ModelMessage]:
    """Return the messages with each result that the session has behind the answer that called for it, though it came
    late; each message comes with those of its turn. What stood for one is left out, and made anew where none is."""
    found: list[ModelMessage] = []
    calls: dict[str, tuple[str, Mapping[str, events.ToolMessage]]] = {}
    before, has = set[str](), set[str]()
    behind = 0

    def bring() -> None:
        missing = [(name, told[id]) for id, (name, told) in calls.items() if id not in has and id in told]
        if missing:
            found.insert(behind, ModelRequest(parts=[_return(name, one) for name, one in missing]))
        before.update(calls)
        calls.clear()
        has.clear()

    for message, told in messages:
        if isinstance(message, ModelResponse):
            if behind < len(found):  # something came after the answer
                bring()
            found.append(message)
            behind = len(found)
            calls.update((one.tool_call_id, (one.tool_name, told)) for one in message.tool_calls)
            continue
        parts = [one for one in message.parts if _stays(one, calls, before)]
        has.update(id for one in parts if (id := _answers(one)) is not None)
        if parts or not message.parts:
            whole = len(parts) == len(message.parts)
            found.append(message if whole else dataclasses.replace(message, parts=parts))
    bring()
    return found


def _answers(part: ModelRequestPart) -> str | None:
    """Return the call that a part is a result of."""
    if isinstance(part, BaseToolReturnPart) or (isinstance(part, RetryPromptPart) and part.tool_name is not None):
        return part.tool_call_id
    return None


def _stays(part: ModelRequestPart, calls: Collection[str], before: Collection[str]) -> bool:
    """Return whether a part is no stand-in for a result, and no result of a call before the last answer: that one came
    late, and is told at its place."""
    id = _answers(part)
    if isinstance(part, BaseToolReturnPart) and part.metadata == _STAND_IN:
        return False
    return id is None or id in calls or id not in before


def prompt_of(content: str | list[events.ContentPart]) -> str | list[UserContent] | None:
    """Return the user's message as the framework's prompt; None for an empty one. Raises `InputInvalid` on bad
    base64.
    """
    if not content:
        return None
    if isinstance(content, str):
        return content
    return [_user_content(part) for part in content]


def _is_whole(call: ToolCallPart) -> bool:
    try:
        call.args_as_dict(raise_if_invalid=True)
    except (ValueError, AssertionError):
        return False
    return True


def _rebuilt(messages: Iterable[Message], names: Mapping[str, str]) -> list[ModelMessage]:
    """Model messages for session messages. Reasoning without its provider's signature is left out: it is no use."""
    found: list[ModelMessage] = []
    thoughts: list[ModelResponsePart] = []
    halves: set[str] = set()
    for message in messages:
        request: ModelRequestPart | None = None
        if isinstance(message, events.UserMessage):
            thoughts.clear()
            prompt = prompt_of(message.content)
            if prompt is not None and not (isinstance(prompt, str) and prompt.isspace()):  # some services refuse blanks
                request = UserPromptPart(prompt)
        elif isinstance(message, events.SystemMessage | events.DeveloperMessage):
            request = SystemPromptPart(message.content)
        elif isinstance(message, events.ToolMessage) and message.tool_call_id not in halves:
            request = _return(names.get(message.tool_call_id, ""), message)
        elif isinstance(message, events.AssistantMessage):
            text = message.content or ""
            parts = [*thoughts, *([TextPart(text)] if text.strip() else ())]
            thoughts.clear()
            for call in message.tool_calls or ():
                part = ToolCallPart(call.function.name, call.function.arguments, call.id)
                if _is_whole(part):
                    unseal(part, call)
                    parts.append(part)
                else:
                    halves.add(call.id)
            if parts:
                found.append(ModelResponse(parts=parts))
        elif isinstance(message, events.ReasoningMessage) and (thought := thought_of(message)) is not None:
            thoughts.append(thought)
        if request is not None:
            found.append(ModelRequest(parts=[request]))
    return found


def _return(name: str, message: events.ToolMessage) -> ToolReturnPart:
    part = ToolReturnPart(name, message.error or _returned(message.content), message.tool_call_id)
    if message.error is not None:
        part.outcome = "interrupted" if is_left(message) else "failed"
    return part


def content_of(part: BaseToolReturnPart[Any]) -> str | list[events.ContentPart]:
    """Return what a call has returned as the content of its result, its pictures and files too."""
    text = part.model_response_str_and_user_content()[0]
    return with_files(text, [_where(file) for file in part.files if not isinstance(file, UploadedFile)])


def _where(file: Any) -> tuple[str | None, bytes | None, str | None]:
    if isinstance(file, BinaryContent):
        return file.media_type, file.data, None
    try:
        return file.media_type, None, file.url
    except ValueError:  # its URL does not say
        return None, None, file.url


def _returned(content: str | list[events.ContentPart]) -> Any:
    """Return what a tool has returned, its pictures and files too."""
    if isinstance(content, str) or all(isinstance(part, events.TextPart) for part in content):
        return text_of(content)
    return [_user_content(part) for part in content]


def _user_content(part: events.ContentPart) -> UserContent:
    if isinstance(part, events.TextPart):
        return part.text
    source = part.source
    if isinstance(source, DataSource):
        try:
            return BinaryContent(base64.b64decode(source.value, validate=True), media_type=source.mime_type)
        except binascii.Error as error:
            raise InputInvalid(f"a message part of {source.mime_type} is not base64: {error}") from None
    if isinstance(source, UrlSource):
        return _URLS[type(part)](source.value, media_type=source.mime_type)
    if source.provider is None:
        raise InputInvalid("a message part that names an uploaded file must name its provider")
    provider: Any = source.provider  # the framework names those it knows; it says so itself about any other
    return UploadedFile(source.value, provider_name=provider, media_type=source.mime_type)
