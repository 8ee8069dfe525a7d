"""The events of a run: AG-UI 1.0's 31 event types, and the messages and parts they carry.

One `msgspec.Struct` per type, with AG-UI's own names and JSON: camelCase keys, `type` (or `role`) as the tag, absent
fields left out rather than written as `null`. Source: AG-UI protocol specification 1.0, schema.json.

Field order is part of the layout. The fields that every event shares come first and a delta's text comes last, so that
adjacent deltas of stored JSON can be merged without decoding them (see `gapless.journals.merge`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, Union

import msgspec

__all__ = [
    "ActivityDeltaEvent",
    "ActivityMessage",
    "ActivitySnapshotEvent",
    "AssistantMessage",
    "AudioPart",
    "ContentPart",
    "Context",
    "CustomEvent",
    "DataSource",
    "DeveloperMessage",
    "DocumentPart",
    "Event",
    "EventBase",
    "FileSource",
    "FunctionCall",
    "ImagePart",
    "Interrupt",
    "Message",
    "MessagesSnapshotEvent",
    "PartSource",
    "RawEvent",
    "ReasoningEncryptedValueEvent",
    "ReasoningEndEvent",
    "ReasoningMessage",
    "ReasoningMessageChunkEvent",
    "ReasoningMessageContentEvent",
    "ReasoningMessageEndEvent",
    "ReasoningMessageStartEvent",
    "ReasoningStartEvent",
    "ResumeEntry",
    "RunAgentInput",
    "RunErrorEvent",
    "RunFinishedCancelledOutcome",
    "RunFinishedEvent",
    "RunFinishedInterruptOutcome",
    "RunFinishedOutcome",
    "RunFinishedSuccessOutcome",
    "RunStartedEvent",
    "StateDeltaEvent",
    "StateSnapshotEvent",
    "StepFinishedEvent",
    "StepStartedEvent",
    "SubagentErrorEvent",
    "SubagentFinishedEvent",
    "SubagentFinishedOutcome",
    "SubagentFinishedSuccessOutcome",
    "SubagentFinishedSuspendedOutcome",
    "SubagentStartedEvent",
    "SystemMessage",
    "TextMessageChunkEvent",
    "TextMessageContentEvent",
    "TextMessageEndEvent",
    "TextMessageStartEvent",
    "TextPart",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolCallArgsEvent",
    "ToolCallChunkEvent",
    "ToolCallEndEvent",
    "ToolCallResultEvent",
    "ToolCallStartEvent",
    "ToolMessage",
    "UrlSource",
    "UserMessage",
    "VideoPart",
    "decode_event",
    "delta_head",
    "encode_event",
    "interrupts_in",
    "text_of",
]

Metadata: TypeAlias = dict[str, Any]
JsonPatch: TypeAlias = list[dict[str, Any]]
"""An RFC 6902 patch: a list of operations."""
TextRole: TypeAlias = Literal["developer", "system", "assistant", "user"]


class _Struct(msgspec.Struct, rename="camel", omit_defaults=True):
    """camelCase keys; a field equal to its default is left out. (`kw_only` is not inherited: every class says it.)"""


# ---------------------------------------------------------------------------------------------------- content parts


class TextPart(_Struct, tag_field="type", tag="text", kw_only=True):
    text: str
    id: str | None = None
    metadata: Any = None


class DataSource(_Struct, tag_field="type", tag="data", kw_only=True):
    """Inline media: `value` is base64 (RFC 4648, section 4)."""

    value: str
    mime_type: str


class UrlSource(_Struct, tag_field="type", tag="url", kw_only=True):
    value: str
    mime_type: str | None = None


class FileSource(_Struct, tag_field="type", tag="file", kw_only=True):
    value: str
    provider: str | None = None
    mime_type: str | None = None


PartSource: TypeAlias = Union[DataSource, UrlSource, FileSource]


class ImagePart(_Struct, tag_field="type", tag="image", kw_only=True):
    source: PartSource
    id: str | None = None
    metadata: Any = None


class AudioPart(_Struct, tag_field="type", tag="audio", kw_only=True):
    source: PartSource
    id: str | None = None
    metadata: Any = None


class VideoPart(_Struct, tag_field="type", tag="video", kw_only=True):
    source: PartSource
    id: str | None = None
    metadata: Any = None


class DocumentPart(_Struct, tag_field="type", tag="document", kw_only=True):
    source: PartSource
    id: str | None = None
    metadata: Any = None


ContentPart: TypeAlias = Union[TextPart, ImagePart, AudioPart, VideoPart, DocumentPart]


# --------------------------------------------------------------------------------------------------------- messages


class FunctionCall(_Struct, kw_only=True):
    """A tool call's function; `arguments` is the JSON text as the model wrote it, valid or not."""

    name: str
    arguments: str


class ToolCall(_Struct, omit_defaults=False, kw_only=True):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    encrypted_value: str | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET


class _BaseMessage(_Struct, tag_field="role", kw_only=True):
    id: str
    name: str | None = None
    encrypted_value: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class DeveloperMessage(_BaseMessage, tag="developer", kw_only=True):
    content: str


class SystemMessage(_BaseMessage, tag="system", kw_only=True):
    content: str


class AssistantMessage(_BaseMessage, tag="assistant", kw_only=True):
    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class UserMessage(_BaseMessage, tag="user", kw_only=True):
    content: str | list[ContentPart]


class ToolMessage(_Struct, tag_field="role", tag="tool", kw_only=True):
    id: str
    content: str | list[ContentPart]
    tool_call_id: str
    error: str | None = None
    encrypted_value: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ActivityMessage(_Struct, tag_field="role", tag="activity", kw_only=True):
    id: str
    activity_type: str
    content: dict[str, Any]
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ReasoningMessage(_Struct, tag_field="role", tag="reasoning", kw_only=True):
    id: str
    content: str
    encrypted_value: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


Message: TypeAlias = Union[
    DeveloperMessage, SystemMessage, AssistantMessage, UserMessage, ToolMessage, ActivityMessage, ReasoningMessage
]


# ---------------------------------------------------------------------------------------------------- run input


class Tool(_Struct, kw_only=True):
    """A tool that the client offers; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: Any = None
    metadata: Metadata | None = None


class Context(_Struct, kw_only=True):
    description: str
    value: str


class Interrupt(_Struct, kw_only=True):
    """What a run asks of a person before it can go on."""

    id: str
    reason: str
    message: str | None = None
    tool_call_id: str | None = None
    response_schema: dict[str, Any] | None = None
    expires_at: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ResumeEntry(_Struct, kw_only=True):
    """The answer to one interrupt."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None
    metadata: Metadata | None = None


class RunAgentInput(_Struct, kw_only=True):
    """The body of an AG-UI request."""

    thread_id: str
    run_id: str
    messages: list[Message]
    protocol_version: str | None = None
    parent_run_id: str | None = None
    state: Any = None
    tools: list[Tool] | None = None
    context: list[Context] | None = None
    forwarded_props: Any = None
    resume: list[ResumeEntry] | None = None


class TokenUsage(_Struct, kw_only=True):
    """Tokens of one model in one run."""

    provider: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None


# ---------------------------------------------------------------------------------------------------------- events


class EventBase(_Struct, tag_field="type", kw_only=True):
    """What every event may carry. `timestamp` is in milliseconds since the Unix epoch."""

    timestamp: int | None = None
    raw_event: Any = None
    metadata: Metadata | None = None


class _Attributable(EventBase, kw_only=True):
    """An event that can belong to a subagent's work."""

    subagent_run_id: str | None = None


class TextMessageStartEvent(_Attributable, tag="TEXT_MESSAGE_START", kw_only=True):
    message_id: str
    role: TextRole | None = None
    name: str | None = None


class TextMessageContentEvent(_Attributable, tag="TEXT_MESSAGE_CONTENT", kw_only=True):
    message_id: str
    delta: str


class TextMessageEndEvent(_Attributable, tag="TEXT_MESSAGE_END", kw_only=True):
    message_id: str


class TextMessageChunkEvent(_Attributable, tag="TEXT_MESSAGE_CHUNK", kw_only=True):
    message_id: str | None = None
    role: TextRole | None = None
    name: str | None = None
    delta: str | None = None


class ToolCallStartEvent(_Attributable, tag="TOOL_CALL_START", kw_only=True):
    tool_call_id: str
    tool_call_name: str
    parent_message_id: str | None = None


class ToolCallArgsEvent(_Attributable, tag="TOOL_CALL_ARGS", kw_only=True):
    tool_call_id: str
    delta: str


class ToolCallEndEvent(_Attributable, tag="TOOL_CALL_END", kw_only=True):
    tool_call_id: str


class ToolCallChunkEvent(_Attributable, tag="TOOL_CALL_CHUNK", kw_only=True):
    tool_call_id: str | None = None
    tool_call_name: str | None = None
    parent_message_id: str | None = None
    delta: str | None = None


class ToolCallResultEvent(_Attributable, tag="TOOL_CALL_RESULT", kw_only=True):
    message_id: str
    tool_call_id: str
    content: str | list[ContentPart]
    role: Literal["tool"] | None = None


class StateSnapshotEvent(_Attributable, tag="STATE_SNAPSHOT", kw_only=True):
    snapshot: Any


class StateDeltaEvent(_Attributable, tag="STATE_DELTA", kw_only=True):
    delta: JsonPatch


class MessagesSnapshotEvent(EventBase, tag="MESSAGES_SNAPSHOT", kw_only=True):
    messages: list[Message]


class ActivitySnapshotEvent(_Attributable, tag="ACTIVITY_SNAPSHOT", kw_only=True):
    message_id: str
    activity_type: str
    content: dict[str, Any]
    replace: bool | None = None


class ActivityDeltaEvent(_Attributable, tag="ACTIVITY_DELTA", kw_only=True):
    message_id: str
    activity_type: str
    patch: JsonPatch


class RawEvent(_Attributable, tag="RAW", kw_only=True):
    event: Any
    source: str | None = None


class CustomEvent(_Attributable, tag="CUSTOM", kw_only=True):
    name: str
    value: Any


class RunStartedEvent(EventBase, tag="RUN_STARTED", kw_only=True):
    thread_id: str
    run_id: str
    protocol_version: str | None = None
    parent_run_id: str | None = None
    input: RunAgentInput | None = None


class RunFinishedSuccessOutcome(_Struct, tag_field="type", tag="success", kw_only=True):
    pending_tool_call_ids: list[str] | None = None


class RunFinishedInterruptOutcome(_Struct, tag_field="type", tag="interrupt", kw_only=True):
    interrupts: list[Interrupt]


class RunFinishedCancelledOutcome(_Struct, tag_field="type", tag="cancelled", kw_only=True):
    pass


RunFinishedOutcome: TypeAlias = Union[
    RunFinishedSuccessOutcome, RunFinishedInterruptOutcome, RunFinishedCancelledOutcome
]


class RunFinishedEvent(EventBase, tag="RUN_FINISHED", kw_only=True):
    thread_id: str
    run_id: str
    result: Any = None
    outcome: RunFinishedOutcome | None = None
    usage: list[TokenUsage] | None = None


class RunErrorEvent(EventBase, tag="RUN_ERROR", kw_only=True):
    message: str
    code: str | None = None
    usage: list[TokenUsage] | None = None


class StepStartedEvent(_Attributable, tag="STEP_STARTED", kw_only=True):
    step_name: str


class StepFinishedEvent(_Attributable, tag="STEP_FINISHED", kw_only=True):
    step_name: str


class ReasoningStartEvent(_Attributable, tag="REASONING_START", kw_only=True):
    message_id: str


class ReasoningMessageStartEvent(_Attributable, tag="REASONING_MESSAGE_START", omit_defaults=False, kw_only=True):
    """The one event whose `role` is required on the wire, so defaults are written and absence is `UNSET`."""

    timestamp: int | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]  # absent, where the base says None
    raw_event: Any = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]  # as above
    subagent_run_id: str | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]  # as above
    message_id: str
    role: Literal["reasoning"] = "reasoning"


class ReasoningMessageContentEvent(_Attributable, tag="REASONING_MESSAGE_CONTENT", kw_only=True):
    message_id: str
    delta: str


class ReasoningMessageEndEvent(_Attributable, tag="REASONING_MESSAGE_END", kw_only=True):
    message_id: str


class ReasoningMessageChunkEvent(_Attributable, tag="REASONING_MESSAGE_CHUNK", kw_only=True):
    message_id: str | None = None
    delta: str | None = None


class ReasoningEndEvent(_Attributable, tag="REASONING_END", kw_only=True):
    message_id: str


class ReasoningEncryptedValueEvent(_Attributable, tag="REASONING_ENCRYPTED_VALUE", kw_only=True):
    subtype: Literal["tool-call", "message"]
    entity_id: str
    encrypted_value: str


class SubagentStartedEvent(EventBase, tag="SUBAGENT_STARTED", kw_only=True):
    subagent_run_id: str
    name: str
    description: str | None = None
    parent_subagent_run_id: str | None = None
    parent_tool_call_id: str | None = None
    parent_message_id: str | None = None


class SubagentFinishedSuccessOutcome(_Struct, tag_field="type", tag="success", kw_only=True):
    pass


class SubagentFinishedSuspendedOutcome(_Struct, tag_field="type", tag="suspended", kw_only=True):
    interrupt_ids: list[str] | None = None


SubagentFinishedOutcome: TypeAlias = Union[SubagentFinishedSuccessOutcome, SubagentFinishedSuspendedOutcome]


class SubagentFinishedEvent(EventBase, tag="SUBAGENT_FINISHED", kw_only=True):
    subagent_run_id: str
    result: Any = None
    outcome: SubagentFinishedOutcome | None = None


class SubagentErrorEvent(EventBase, tag="SUBAGENT_ERROR", kw_only=True):
    subagent_run_id: str
    message: str
    code: str | None = None


Event: TypeAlias = Union[
    TextMessageStartEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageChunkEvent,
    ToolCallStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallChunkEvent,
    ToolCallResultEvent,
    StateSnapshotEvent,
    StateDeltaEvent,
    MessagesSnapshotEvent,
    ActivitySnapshotEvent,
    ActivityDeltaEvent,
    RawEvent,
    CustomEvent,
    RunStartedEvent,
    RunFinishedEvent,
    RunErrorEvent,
    StepStartedEvent,
    StepFinishedEvent,
    ReasoningStartEvent,
    ReasoningMessageStartEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageChunkEvent,
    ReasoningEndEvent,
    ReasoningEncryptedValueEvent,
    SubagentStartedEvent,
    SubagentFinishedEvent,
    SubagentErrorEvent,
]

encode_event = msgspec.json.Encoder().encode
"""`Event` (or any struct of this module) → JSON bytes. Raises `UnicodeEncodeError` on lone surrogates."""

decode_event = msgspec.json.Decoder(Event).decode
"""JSON bytes → `Event`. Raises `msgspec.ValidationError` on anything that is not one."""


def delta_head(kind: type[TextMessageContentEvent | ReasoningMessageContentEvent], message_id: str) -> bytes:
    """How the stored JSON of this message's deltas begins: the rest is the text, as JSON, and a brace. Wires know most
    events by it, and pass their text on without decoding it."""
    return encode_event(kind(message_id=message_id, delta=""))[: -len(b'""}')]


def text_of(content: str | list[ContentPart] | None) -> str:
    """The text of a message's content: the string itself, or its text parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))


def interrupts_in(event: bytes) -> list[Interrupt]:
    """What an event, as stored, asks a person; nothing for one that asks nothing."""
    if b'"RUN_FINISHED"' not in event[:32]:
        return []
    decoded = decode_event(event)
    if isinstance(decoded, RunFinishedEvent) and isinstance(decoded.outcome, RunFinishedInterruptOutcome):
        return decoded.outcome.interrupts
    return []
