"""The AI SDK's UI messages: what `useChat` keeps and sends, as AG-UI messages; and a chat's runs, as what it keeps."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from gapless.errors import InputInvalid, RunCancelled
from gapless.events import (
    ActivityMessage,
    ActivitySnapshotEvent,
    AssistantMessage,
    AudioPart,
    ContentPart,
    CustomEvent,
    DataSource,
    DocumentPart,
    Event,
    FunctionCall,
    ImagePart,
    Interrupt,
    Message,
    PartSource,
    ReasoningEncryptedValueEvent,
    ReasoningMessage,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ResumeEntry,
    RunErrorEvent,
    RunStartedEvent,
    SystemMessage,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextPart,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UrlSource,
    UserMessage,
    VideoPart,
    decode_event,
    encode_event,
)
from gapless.fold import ARTIFACT, FILE
from gapless.protocols.vercel.wire import PROVIDER, VercelEncoder
from gapless.records import RunRecord
from gapless.runs.readers import merge_deltas
from gapless.user_message import mark_of, results_of
from gapless.wire import is_restart

__all__ = ["RESULTS", "Transcript", "UIMessage", "approvals", "outputs", "remains", "results", "to_messages"]

RESULTS = "gapless.vercel.tool_results"
"""Key in the metadata of a run's input: what the client's own tools have come to, which no run has said."""

_PARTS: dict[str, type[ImagePart | AudioPart | VideoPart]] = {
    "image": ImagePart,
    "audio": AudioPart,
    "video": VideoPart,
}
_STARTED = b'{"type":"RUN_STARTED"'
_encode = msgspec.json.Encoder().encode


class UIMessage(msgspec.Struct):
    """One message of a chat; its parts are read as far as they are known."""

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]


def approvals(message: UIMessage) -> list[ResumeEntry]:
    """Return the answers to approval requests that the message carries."""
    entries = []
    for part in message.parts:
        approval = part.get("approval")
        if part.get("state") == "approval-responded" and isinstance(approval, dict):
            payload = {key: approval[key] for key in ("approved", "reason") if key in approval}
            entries.append(
                ResumeEntry(interrupt_id=_string(message, approval, "id"), status="resolved", payload=payload)
            )
    return entries


def outputs(message: UIMessage, asked: Iterable[Interrupt]) -> list[ResumeEntry]:
    """Return what the message says of calls that are executed outside of the agent, of those that are `asked`."""
    external = {one.tool_call_id: one.id for one in asked if (one.metadata or {}).get("kind") == "external"}
    entries = []
    for part in message.parts:
        id = external.get(_string(message, part, "toolCallId"))
        if id is not None and part.get("state") == "output-available":
            entries.append(ResumeEntry(interrupt_id=id, status="resolved", payload=part.get("output")))
        elif id is not None and part.get("state") == "output-error":
            failed = {"error": _string(message, part, "errorText", "the tool failed")}
            entries.append(ResumeEntry(interrupt_id=id, status="cancelled", payload=failed))
    return entries


def results(messages: Iterable[UIMessage], ours: Sequence[Message]) -> list[dict[str, Any]]:
    """Find, of the calls that have no result in the session's messages, those that have one in the client's, which
    `to_messages` takes.
    """
    calls = {call.id for message in ours if isinstance(message, AssistantMessage) for call in message.tool_calls or ()}
    calls -= {message.tool_call_id for message in ours if isinstance(message, ToolMessage)}
    calls -= {known["toolCallId"] for message in ours for known in mark_of(message, RESULTS) or ()}
    return [
        {key: part[key] for key in ("toolCallId", "state", "output", "errorText") if key in part}
        for message in messages
        for part in message.parts
        if part.get("state") in ("output-available", "output-error") and _string(message, part, "toolCallId") in calls
    ]


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
    """Return a part's field, the default where it is left out. Raises `InputInvalid`."""
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
    """Return a message per step: reasoning, then text with the step's tool calls, then their results. A call without a
    result is left out: no model takes one.
    """
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
                text, kept = _string(message, part, "text"), _kept(part, "providerMetadata")
                converted.append(ReasoningMessage(id=id, content=text, encrypted_value=kept))
            elif (kind.startswith("tool-") or kind == "dynamic-tool") and (result := _result(message, part)):
                name = _string(message, part, "toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-")
                arguments = _encode(part.get("input")).decode()
                calls.append(ToolCall(id=result.tool_call_id, function=FunctionCall(name=name, arguments=arguments)))
                if (kept := _kept(part, "callProviderMetadata")) is not None:
                    calls[-1].encrypted_value = kept
                results.append(result)
        text = "".join(texts)
        if text or calls:
            id = f"{message.id}-{len(converted)}"
            converted.append(AssistantMessage(id=id, content=text or None, tool_calls=calls or None))
        converted += results
    return converted


def _kept(part: dict[str, Any], key: str) -> str | None:
    """Return what a model wants back with a thought or a call, as the client has kept it."""
    metadata = part.get(key)
    ours = metadata.get(PROVIDER) if isinstance(metadata, dict) else None
    value = ours.get("encryptedValue") if isinstance(ours, dict) else None
    return value if isinstance(value, str) else None


def _result(message: UIMessage, part: dict[str, Any]) -> ToolMessage | None:
    state, call_id, error = part.get("state"), _string(message, part, "toolCallId"), None
    content: str | list[ContentPart]
    if state == "output-available":
        output = part.get("output")
        content = output if isinstance(output, str) else _content_parts(output) or _encode(output).decode()
    elif state == "output-error":
        content = error = _string(message, part, "errorText", "the tool failed")
    elif state == "output-denied":
        content = "the user denied this call"
    else:
        return None
    return ToolMessage(id=f"{call_id}-result", tool_call_id=call_id, content=content, error=error)


def _content_parts(output: Any) -> list[ContentPart]:
    """Return a call's output as it was told: text with pictures and files; nothing for any other."""
    with contextlib.suppress(msgspec.ValidationError):
        parts = msgspec.convert(output, list[ContentPart])
        return parts if any(not isinstance(part, TextPart) for part in parts) else []
    return []


class Transcript:
    """A chat as its pages have it: what the AI SDK's client makes of the chunks of the chat's runs.

    Of each run its message first, with `ask`; then `begin` and, in order, `add` its events."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._message: dict[str, Any] = {}
        self._parts: list[dict[str, Any]] = []
        self._named: dict[tuple[str, str], dict[str, Any]] = {}
        """The message's parts that a chunk may name: open text and reasoning, data with an id."""
        self._calls: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, dict[str, Any]] = {}
        """Calls by the id of the approval that was asked for."""
        self._run: RunRecord
        self._encoder: VercelEncoder
        self._before: int | None = None
        """Parts that the message had when the run began it, or went on with it."""
        self._started = b""

    def ask(self, message: UserMessage) -> None:
        """Add the user's message, or the results of the client's tools that a run goes on from."""
        for result in mark_of(message, RESULTS) or ():
            self._calls.get(result["toolCallId"], {}).update(result)
        for one in results_of(message):
            self._bring(one)
        if message.content:
            self.messages.append({"id": message.id, "role": "user", "parts": _user_parts(message)})

    def _bring(self, result: ToolMessage) -> None:
        """Put a result that another family's client brought where it belongs."""
        part = self._calls.get(result.tool_call_id)
        if part is None or part["state"].startswith("output-"):
            return
        if result.error is not None:
            part |= {"state": "output-error", "errorText": result.error}
        else:
            brought = ToolCallResultEvent(
                message_id=result.id, tool_call_id=result.tool_call_id, content=result.content
            )
            self.add([encode_event(brought)])

    def begin(self, run: RunRecord) -> None:
        """Begin a run: the events that follow are this one's."""
        self._run, self._encoder, self._before, self._started = run, VercelEncoder(run), None, b""

    def add(self, events: Sequence[bytes]) -> None:
        """Add the run's next events, without what they take back by name. What came before a restart is void."""
        for _, event in merge_deltas(1, events):
            if event.startswith(_STARTED):
                self._started = self._started or event
                self._answer(event)
            elif is_restart(event):
                self.void()
                event = self._started
            for chunk in self._encoder.frames(event):
                if chunk.startswith(b"{"):
                    self._add(msgspec.json.decode(chunk))

    def void(self) -> None:
        """Take back what the run has said so far."""
        if self._before is not None:
            del self._parts[self._before :]
        self._encoder = VercelEncoder(self._run)

    def _answer(self, started: bytes) -> None:
        """Put what a person said to an approval request where it belongs: it is in the client's message before the run
        goes on.
        """
        decoded = decode_event(started)
        answers = decoded.input.resume if isinstance(decoded, RunStartedEvent) and decoded.input is not None else None
        for answer in answers or ():
            part = self._asked.get(answer.interrupt_id)
            if part is not None:
                payload = answer.payload if isinstance(answer.payload, dict) else {}
                reason = {"reason": payload["reason"]} if isinstance(payload.get("reason"), str) else {}
                part["state"] = "approval-responded"
                part["approval"] |= {"approved": True, **reason}  # a denial is told by a chunk of its own

    def _add(self, chunk: dict[str, Any]) -> None:
        """Add a chunk as `processUIMessageStream` of the package `ai` does."""
        kind, parts = chunk["type"], self._parts
        match kind:
            case "start":
                self._go_on(chunk["messageId"])
            case "start-step":
                parts.append({"type": "step-start"})
            case "text-start" | "reasoning-start":
                type, id = kind.removesuffix("-start"), chunk["id"]
                part = {"type": type, "text": "", "state": "streaming"} | ({"id": id} if type == "reasoning" else {})
                self._named[type, id] = part
                parts.append(part)
            case "text-delta" | "reasoning-delta":
                self._named[kind.removesuffix("-delta"), chunk["id"]]["text"] += chunk["delta"]
            case "text-end" | "reasoning-end":
                part = self._named[kind.removesuffix("-end"), chunk["id"]]
                part["state"] = "done"
                part |= {key: chunk[key] for key in ("providerMetadata",) if key in chunk}
            case "tool-input-start":
                id = chunk["toolCallId"]
                part = {"type": f"tool-{chunk['toolName']}", "toolCallId": id, "state": "input-streaming"}
                self._calls[id] = part
                parts.append(part)
            case "tool-input-available":
                part = self._calls[chunk["toolCallId"]]
                part |= {"state": "input-available", "input": chunk["input"]}
                if "providerMetadata" in chunk:
                    part["callProviderMetadata"] = chunk["providerMetadata"]
            case "tool-input-error":
                failed = {"state": "output-error", "input": chunk["input"], "errorText": chunk["errorText"]}
                self._calls[chunk["toolCallId"]] |= failed
            case "tool-approval-request":
                part, id = self._calls[chunk["toolCallId"]], chunk["approvalId"]
                part |= {"state": "approval-requested", "approval": {"id": id}}
                self._asked[id] = part
            case "tool-output-available":
                self._calls[chunk["toolCallId"]] |= {"state": "output-available", "output": chunk["output"]}
            case "tool-output-error":
                self._calls[chunk["toolCallId"]] |= {"state": "output-error", "errorText": chunk["errorText"]}
            case "tool-output-denied":
                part = self._calls[chunk["toolCallId"]]
                part["state"], part["approval"]["approved"] = "output-denied", False
            case "data-gapless-void":
                pass  # what it names was left out
            case "file" | "source-url" | "source-document":
                parts.append(chunk)
            case _ if kind.startswith("data-") and "transient" not in chunk:
                known = self._named.get((kind, chunk["id"])) if "id" in chunk else None
                if known is not None:
                    known["data"] = chunk["data"]
                else:
                    parts.append(chunk)
                    if "id" in chunk:
                        self._named[kind, chunk["id"]] = chunk
        if "messageMetadata" in chunk:
            self._message["metadata"] = _merged(self._message.get("metadata"), chunk["messageMetadata"])

    def _go_on(self, id: str) -> None:
        """In the message with this id, which may be new."""
        message = next((one for one in reversed(self.messages) if one["id"] == id), None)
        if message is None:
            message = {"id": id, "role": "assistant", "parts": []}
            self.messages.append(message)
        self._message, self._parts = message, message["parts"]
        self._named = {(part["type"], part["id"]): part for part in self._parts if "id" in part}
        if self._before is None:
            self._before = len(self._parts)


def remains(run: RunRecord, messages: Iterable[Message]) -> list[bytes]:
    """Events that say what the session has kept of an ended run whose own are past their retention."""
    events: list[Event] = [RunStartedEvent(thread_id=run.session_id, run_id=run.id)]
    error: dict[str, str] = {}
    for message in messages:
        id = message.id
        error = (message.metadata or {}).get("error") or error
        match message:
            case ReasoningMessage(content=text, encrypted_value=kept):
                events += [
                    ReasoningMessageStartEvent(message_id=id),
                    ReasoningMessageContentEvent(message_id=id, delta=text),
                    *_sealing("message", id, kept),
                    ReasoningMessageEndEvent(message_id=id),
                ]
            case AssistantMessage(content=text):
                if text:
                    events += [
                        TextMessageStartEvent(message_id=id),
                        TextMessageContentEvent(message_id=id, delta=text),
                        TextMessageEndEvent(message_id=id),
                    ]
                for call in message.tool_calls or ():
                    events += [
                        ToolCallStartEvent(tool_call_id=call.id, tool_call_name=call.function.name),
                        ToolCallArgsEvent(tool_call_id=call.id, delta=call.function.arguments),
                        *_sealing("tool-call", call.id, call.encrypted_value),
                        ToolCallEndEvent(tool_call_id=call.id),
                    ]
            case ToolMessage(tool_call_id=call_id, content=content, error=failed):
                events.append(ToolCallResultEvent(message_id=id, tool_call_id=call_id, content=content, error=failed))
            case ActivityMessage(activity_type=kind, content=shown) if kind in (ARTIFACT, FILE):
                events.append(CustomEvent(name=kind, value=shown))
            case ActivityMessage(activity_type=kind, content=shown):
                events.append(ActivitySnapshotEvent(message_id=id, activity_type=kind, content=shown))
    if error and error["code"] != RunCancelled.code:
        events.append(RunErrorEvent(message=error["message"], code=error["code"]))
    return [encode_event(event) for event in events]


def _sealing(subtype: Literal["message", "tool-call"], id: str, value: object) -> list[Event]:
    """Return the event that says what a model wants back with this; none where it wants nothing."""
    if not isinstance(value, str):
        return []
    return [ReasoningEncryptedValueEvent(subtype=subtype, entity_id=id, encrypted_value=value)]


def _user_parts(message: UserMessage) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}]
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
            continue
        source = part.source
        media_type = source.mime_type or "application/octet-stream"
        url = f"data:{media_type};base64,{source.value}" if isinstance(source, DataSource) else source.value
        name = part.metadata.get("filename") if isinstance(part.metadata, dict) else None
        parts.append({"type": "file", "mediaType": media_type, "url": url} | ({"filename": name} if name else {}))
    return parts


def _merged(old: Any, new: Any) -> Any:
    """Merge as `mergeObjects` of the package `ai` does: objects key by key, of all else the newer."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}
