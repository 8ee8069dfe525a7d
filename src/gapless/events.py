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
"""A patch as RFC 6902 has it: a list of operations."""
TextRole: TypeAlias = Literal["developer", "system", "assistant", "user"]


class _Struct(msgspec.Struct, rename="camel", omit_defaults=True):
    """Has camelCase keys in JSON, and leaves out a field that equals its default. (`kw_only` is not inherited: every
    class says it.)

    Fields of many classes: `id` names the message, part or call within its session; `metadata` is whatever a client or
    an agent wants to keep beside it; `subagent_run_id` names the subagent's work that it belongs to; `encrypted_value`
    is what a model's provider wants to see again and nobody else can read.
    """


# ---------------------------------------------------------------------------------------------------- content parts


class TextPart(_Struct, tag_field="type", tag="text", kw_only=True):
    """Holds `text` as a part of a message's content."""

    text: str
    id: str | None = None
    metadata: Any = None


class DataSource(_Struct, tag_field="type", tag="data", kw_only=True):
    """Holds media in itself: `value` is base64 (RFC 4648, section 4) of `mime_type`."""

    value: str
    mime_type: str


class UrlSource(_Struct, tag_field="type", tag="url", kw_only=True):
    """Names media by URL: `value` is the address, `mime_type` what is there, where that is known."""

    value: str
    mime_type: str | None = None


class FileSource(_Struct, tag_field="type", tag="file", kw_only=True):
    """Names media that a model's provider keeps: `value` is its id there, `provider` who, `mime_type` what."""

    value: str
    provider: str | None = None
    mime_type: str | None = None


PartSource: TypeAlias = Union[DataSource, UrlSource, FileSource]


class ImagePart(_Struct, tag_field="type", tag="image", kw_only=True):
    """Holds a picture as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


class AudioPart(_Struct, tag_field="type", tag="audio", kw_only=True):
    """Holds sound as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


class VideoPart(_Struct, tag_field="type", tag="video", kw_only=True):
    """Holds a video as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


class DocumentPart(_Struct, tag_field="type", tag="document", kw_only=True):
    """Holds any other file as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


ContentPart: TypeAlias = Union[TextPart, ImagePart, AudioPart, VideoPart, DocumentPart]


# --------------------------------------------------------------------------------------------------------- messages


class FunctionCall(_Struct, kw_only=True):
    """Names the tool that is called, `name`; `arguments` is the JSON text as the model wrote it, valid or not."""

    name: str
    arguments: str


class ToolCall(_Struct, omit_defaults=False, kw_only=True):
    """Holds one call in an assistant's message: `function` says what is called; `type` is always "function"."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    encrypted_value: str | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET


class _BaseMessage(_Struct, tag_field="role", kw_only=True):
    """Has what most messages have: `name` says who of several speaks."""

    id: str
    name: str | None = None
    encrypted_value: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class DeveloperMessage(_BaseMessage, tag="developer", kw_only=True):
    """Holds instructions of an application's maker: `content`."""

    content: str


class SystemMessage(_BaseMessage, tag="system", kw_only=True):
    """Holds instructions to the model: `content`."""

    content: str


class AssistantMessage(_BaseMessage, tag="assistant", kw_only=True):
    """Holds what the agent answered: `content` is the text, `tool_calls` what it called."""

    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class UserMessage(_BaseMessage, tag="user", kw_only=True):
    """Holds what a person said: `content` is text, or parts where there is more than text."""

    content: str | list[ContentPart]


class ToolMessage(_Struct, tag_field="role", tag="tool", kw_only=True):
    """Holds a tool's result: `content` answers the call `tool_call_id`; `error` says why it failed, if it did."""

    id: str
    content: str | list[ContentPart]
    tool_call_id: str
    error: str | None = None
    encrypted_value: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ActivityMessage(_Struct, tag_field="role", tag="activity", kw_only=True):
    """Holds something to show that is no text: `content`, in the form that `activity_type` names."""

    id: str
    activity_type: str
    content: dict[str, Any]
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ReasoningMessage(_Struct, tag_field="role", tag="reasoning", kw_only=True):
    """Holds what the model thought: `content`."""

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
    """Describes a tool that the client offers: `name` and `description` for the model, `parameters` as a JSON
    Schema.
    """

    name: str
    description: str
    parameters: Any = None
    metadata: Metadata | None = None


class Context(_Struct, kw_only=True):
    """Tells the agent something of the client's surroundings: `value`, and in `description` what that is."""

    description: str
    value: str


class Interrupt(_Struct, kw_only=True):
    """Asks a person, before the run can go on.

    `reason` is a word for programs, `message` the text for the person. `tool_call_id` names the call that waits for a
    yes, `response_schema` the JSON Schema of the answer's payload, `expires_at` (ISO 8601) until when an answer is of
    use.
    """

    id: str
    reason: str
    message: str | None = None
    tool_call_id: str | None = None
    response_schema: dict[str, Any] | None = None
    expires_at: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ResumeEntry(_Struct, kw_only=True):
    """Answers the interrupt `interrupt_id`: `status` is "resolved", with the answer in `payload`, or "cancelled"."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None
    metadata: Metadata | None = None


class RunAgentInput(_Struct, kw_only=True):
    """Is the body of an AG-UI request: run the agent as `run_id` in the session `thread_id`.

    `messages` is the conversation as the client has it, `state` the session's state, `tools` the client's own tools,
    `context` what it tells the agent, `forwarded_props` what it passes through. `resume` answers a run's interrupts.
    `parent_run_id` names the run that this one goes on from, `protocol_version` the client's AG-UI.
    """

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
    """Counts the tokens of one model in one run: `model` of `provider`.

    `input_tokens` and `output_tokens` make `total_tokens`. Of the input, `cached_input_tokens` came from the provider's
    cache and `cache_write_input_tokens` went into it; of the output, `reasoning_tokens` were thought and not said.
    """

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
    """Has what every event may carry.

    `timestamp` is in milliseconds since the Unix epoch; `raw_event` is what the agent's framework said, in its own
    form.
    """

    timestamp: int | None = None
    raw_event: Any = None
    metadata: Metadata | None = None


class _Attributable(EventBase, kw_only=True):
    """Can belong to a subagent's work, `subagent_run_id`."""

    subagent_run_id: str | None = None


class TextMessageStartEvent(_Attributable, tag="TEXT_MESSAGE_START", kw_only=True):
    """Begins the text `message_id` of `role` (None: the assistant's), by `name` where several speak."""

    message_id: str
    role: TextRole | None = None
    name: str | None = None


class TextMessageContentEvent(_Attributable, tag="TEXT_MESSAGE_CONTENT", kw_only=True):
    """Adds `delta`, the next piece of text, to the text `message_id`."""

    message_id: str
    delta: str


class TextMessageEndEvent(_Attributable, tag="TEXT_MESSAGE_END", kw_only=True):
    """Ends the text `message_id`."""

    message_id: str


class TextMessageChunkEvent(_Attributable, tag="TEXT_MESSAGE_CHUNK", kw_only=True):
    """Says start, content and end of a text in one: Gapless journals it as those.

    A new `message_id` begins a text of `role` and `name`; `delta` is its next piece.
    """

    message_id: str | None = None
    role: TextRole | None = None
    name: str | None = None
    delta: str | None = None


class ToolCallStartEvent(_Attributable, tag="TOOL_CALL_START", kw_only=True):
    """Begins the call `tool_call_id` of the tool `tool_call_name`.

    `parent_message_id` names the assistant's message that it belongs to.
    """

    tool_call_id: str
    tool_call_name: str
    parent_message_id: str | None = None


class ToolCallArgsEvent(_Attributable, tag="TOOL_CALL_ARGS", kw_only=True):
    """Adds `delta`, the next piece of the arguments' JSON, to the call `tool_call_id`."""

    tool_call_id: str
    delta: str


class ToolCallEndEvent(_Attributable, tag="TOOL_CALL_END", kw_only=True):
    """Ends the call `tool_call_id`: its arguments are complete. The result comes in an event of its own."""

    tool_call_id: str


class ToolCallChunkEvent(_Attributable, tag="TOOL_CALL_CHUNK", kw_only=True):
    """Says start, arguments and end of a call in one: Gapless journals it as those.

    A new `tool_call_id` begins a call of `tool_call_name` in the message `parent_message_id`; `delta` is the next piece
    of its arguments.
    """

    tool_call_id: str | None = None
    tool_call_name: str | None = None
    parent_message_id: str | None = None
    delta: str | None = None


class ToolCallResultEvent(_Attributable, tag="TOOL_CALL_RESULT", kw_only=True):
    """Tells what the call `tool_call_id` returned: `content`, as the message `message_id`.

    `role` is "tool" where it is said.
    """

    message_id: str
    tool_call_id: str
    content: str | list[ContentPart]
    role: Literal["tool"] | None = None


class StateSnapshotEvent(_Attributable, tag="STATE_SNAPSHOT", kw_only=True):
    """Tells the session's whole state: `snapshot`."""

    snapshot: Any


class StateDeltaEvent(_Attributable, tag="STATE_DELTA", kw_only=True):
    """Changes the session's state by `delta`, a JSON Patch (RFC 6902)."""

    delta: JsonPatch


class MessagesSnapshotEvent(EventBase, tag="MESSAGES_SNAPSHOT", kw_only=True):
    """Tells the session's whole conversation: `messages`."""

    messages: list[Message]


class ActivitySnapshotEvent(_Attributable, tag="ACTIVITY_SNAPSHOT", kw_only=True):
    """Shows something that is no text: `content`, in the form that `activity_type` names, as the message `message_id`.

    `replace=False` keeps what the message has already.
    """

    message_id: str
    activity_type: str
    content: dict[str, Any]
    replace: bool | None = None


class ActivityDeltaEvent(_Attributable, tag="ACTIVITY_DELTA", kw_only=True):
    """Changes the activity `message_id` of `activity_type` by `patch`, a JSON Patch (RFC 6902)."""

    message_id: str
    activity_type: str
    patch: JsonPatch


class RawEvent(_Attributable, tag="RAW", kw_only=True):
    """Passes on an event of another system as it is: `event`, from `source`."""

    event: Any
    source: str | None = None


class CustomEvent(_Attributable, tag="CUSTOM", kw_only=True):
    """Says anything else: `value`, under a `name`. Gapless' own names begin with `gapless.`."""

    name: str
    value: Any


class RunStartedEvent(EventBase, tag="RUN_STARTED", kw_only=True):
    """Begins the run `run_id` in the session `thread_id`, or goes on with one that waited for a person.

    `input` is what it was asked, `parent_run_id` the run that it goes on from, `protocol_version` the AG-UI that is
    spoken.
    """

    thread_id: str
    run_id: str
    protocol_version: str | None = None
    parent_run_id: str | None = None
    input: RunAgentInput | None = None


class RunFinishedSuccessOutcome(_Struct, tag_field="type", tag="success", kw_only=True):
    """Says that all is done, but for the calls `pending_tool_call_ids`, which the client has to make."""

    pending_tool_call_ids: list[str] | None = None


class RunFinishedInterruptOutcome(_Struct, tag_field="type", tag="interrupt", kw_only=True):
    """Says that the run waits for a person to answer `interrupts`."""

    interrupts: list[Interrupt]


class RunFinishedCancelledOutcome(_Struct, tag_field="type", tag="cancelled", kw_only=True):
    """Says that the run was cancelled."""


RunFinishedOutcome: TypeAlias = Union[
    RunFinishedSuccessOutcome, RunFinishedInterruptOutcome, RunFinishedCancelledOutcome
]


class RunFinishedEvent(EventBase, tag="RUN_FINISHED", kw_only=True):
    """Ends the run `run_id` of the session `thread_id`, or stops it until a person has answered.

    `outcome` says which: None is success. `result` is the typed output, `usage` the tokens of each model.
    """

    thread_id: str
    run_id: str
    result: Any = None
    outcome: RunFinishedOutcome | None = None
    usage: list[TokenUsage] | None = None


class RunErrorEvent(EventBase, tag="RUN_ERROR", kw_only=True):
    """Ends the run: it has failed. `code` is stable, `message` for people, `usage` the tokens of each model."""

    message: str
    code: str | None = None
    usage: list[TokenUsage] | None = None


class StepStartedEvent(_Attributable, tag="STEP_STARTED", kw_only=True):
    """Begins the step `step_name` of the agent's own plan."""

    step_name: str


class StepFinishedEvent(_Attributable, tag="STEP_FINISHED", kw_only=True):
    """Ends the step `step_name` of the agent's own plan."""

    step_name: str


class ReasoningStartEvent(_Attributable, tag="REASONING_START", kw_only=True):
    """Begins a phase in which the model thinks, under `message_id`."""

    message_id: str


class ReasoningMessageStartEvent(_Attributable, tag="REASONING_MESSAGE_START", omit_defaults=False, kw_only=True):
    """Begins the thought `message_id`; its `role` is always "reasoning".

    The role is required on the wire, so defaults are written here and absence is `UNSET`.
    """

    timestamp: int | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]  # absent, where the base says None
    raw_event: Any = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]  # as above
    subagent_run_id: str | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]  # as above
    message_id: str
    role: Literal["reasoning"] = "reasoning"


class ReasoningMessageContentEvent(_Attributable, tag="REASONING_MESSAGE_CONTENT", kw_only=True):
    """Adds `delta`, the next piece of text, to the thought `message_id`."""

    message_id: str
    delta: str


class ReasoningMessageEndEvent(_Attributable, tag="REASONING_MESSAGE_END", kw_only=True):
    """Ends the thought `message_id`."""

    message_id: str


class ReasoningMessageChunkEvent(_Attributable, tag="REASONING_MESSAGE_CHUNK", kw_only=True):
    """Says start, content and end of the thought `message_id` in one, with `delta` as its next piece."""

    message_id: str | None = None
    delta: str | None = None


class ReasoningEndEvent(_Attributable, tag="REASONING_END", kw_only=True):
    """Ends the phase in which the model thinks, `message_id`."""

    message_id: str


class ReasoningEncryptedValueEvent(_Attributable, tag="REASONING_ENCRYPTED_VALUE", kw_only=True):
    """Adds `encrypted_value` to what was said before: `subtype` says whether `entity_id` is a tool call or a
    message.
    """

    subtype: Literal["tool-call", "message"]
    entity_id: str
    encrypted_value: str


class SubagentStartedEvent(EventBase, tag="SUBAGENT_STARTED", kw_only=True):
    """Begins the work `subagent_run_id` of the subagent `name`, which `description` describes.

    It was asked for by the subagent `parent_subagent_run_id`, the call `parent_tool_call_id` or in the message
    `parent_message_id`.
    """

    subagent_run_id: str
    name: str
    description: str | None = None
    parent_subagent_run_id: str | None = None
    parent_tool_call_id: str | None = None
    parent_message_id: str | None = None


class SubagentFinishedSuccessOutcome(_Struct, tag_field="type", tag="success", kw_only=True):
    """Says that the subagent's work is done."""


class SubagentFinishedSuspendedOutcome(_Struct, tag_field="type", tag="suspended", kw_only=True):
    """Says that the subagent waits for the interrupts `interrupt_ids`."""

    interrupt_ids: list[str] | None = None


SubagentFinishedOutcome: TypeAlias = Union[SubagentFinishedSuccessOutcome, SubagentFinishedSuspendedOutcome]


class SubagentFinishedEvent(EventBase, tag="SUBAGENT_FINISHED", kw_only=True):
    """Ends the work `subagent_run_id` with `result`; `outcome` says how (None: done)."""

    subagent_run_id: str
    result: Any = None
    outcome: SubagentFinishedOutcome | None = None


class SubagentErrorEvent(EventBase, tag="SUBAGENT_ERROR", kw_only=True):
    """Ends the work `subagent_run_id`: it has failed, by `code` for programs and `message` for people."""

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
"""Encodes an `Event` (or any struct of this module) as JSON bytes. Raises `UnicodeEncodeError` on lone surrogates."""

decode_event = msgspec.json.Decoder(Event).decode
"""Decodes JSON bytes to an `Event`. Raises `msgspec.ValidationError` on anything that is not one."""


def delta_head(kind: type[TextMessageContentEvent | ReasoningMessageContentEvent], message_id: str) -> bytes:
    """Return how the stored JSON of the deltas of `message_id` begins, events of the class `kind`.

    The rest of such an event is the text, as JSON, and a brace. Wires know most events by their head, and pass the text
    on without decoding it.
    """
    return encode_event(kind(message_id=message_id, delta=""))[: -len(b'""}')]


def text_of(content: str | list[ContentPart] | None) -> str:
    """Return the text of a message's `content`: the string itself, or its text parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))


def interrupts_in(event: bytes) -> list[Interrupt]:
    """Return what `event`, as it is stored, asks a person; nothing for one that asks nothing."""
    if b'"RUN_FINISHED"' not in event[:32]:
        return []
    decoded = decode_event(event)
    if isinstance(decoded, RunFinishedEvent) and isinstance(decoded.outcome, RunFinishedInterruptOutcome):
        return decoded.outcome.interrupts
    return []
