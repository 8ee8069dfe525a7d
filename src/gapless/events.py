"""The events of a run: AG-UI 1.0's 31 event types, and the messages and parts they carry.

One `msgspec.Struct` per type, with AG-UI's own names and JSON: camelCase keys, `type` (or `role`) as the tag, absent
fields left out rather than written as `null`. Source: AG-UI protocol specification 1.0, schema.json.

Field order is part of the layout. The fields that every event shares come first and a delta's text comes last, so that
adjacent deltas of stored JSON can be merged without decoding them (see `gapless.journals.merge`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, Union

import msgspec

from gapless.messages import (
    ActivityMessage,
    AGUIStruct,
    AssistantMessage,
    AudioPart,
    ContentPart,
    Context,
    DataSource,
    DeveloperMessage,
    DocumentPart,
    FileSource,
    FunctionCall,
    ImagePart,
    Interrupt,
    Message,
    Metadata,
    PartSource,
    ReasoningMessage,
    ResumeEntry,
    RunAgentInput,
    SystemMessage,
    TextPart,
    TextRole,
    TokenUsage,
    Tool,
    ToolCall,
    ToolMessage,
    UrlSource,
    UserMessage,
    VideoPart,
    text_of,
)

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

JsonPatch: TypeAlias = list[dict[str, Any]]
"""A patch as RFC 6902 has it: a list of operations."""


# ---------------------------------------------------------------------------------------------------------- events


class EventBase(AGUIStruct, tag_field="type", kw_only=True):
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

    `role` is "tool" where it is said. `error` says why the call failed, if it did, as a `ToolMessage` has it;
    `content` is what the model is told of that.
    """

    message_id: str
    tool_call_id: str
    content: str | list[ContentPart]
    role: Literal["tool"] | None = None
    error: str | None = None


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


class RunFinishedSuccessOutcome(AGUIStruct, tag_field="type", tag="success", kw_only=True):
    """Says that all is done, but for the calls `pending_tool_call_ids`, which the client has to make."""

    pending_tool_call_ids: list[str] | None = None


class RunFinishedInterruptOutcome(AGUIStruct, tag_field="type", tag="interrupt", kw_only=True):
    """Says that the run waits for a person to answer `interrupts`."""

    interrupts: list[Interrupt]


class RunFinishedCancelledOutcome(AGUIStruct, tag_field="type", tag="cancelled", kw_only=True):
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


class SubagentFinishedSuccessOutcome(AGUIStruct, tag_field="type", tag="success", kw_only=True):
    """Says that the subagent's work is done."""


class SubagentFinishedSuspendedOutcome(AGUIStruct, tag_field="type", tag="suspended", kw_only=True):
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

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)  # to msgspec before 0.23 a decoder of Any
decode_event = _decoder.decode
"""Decodes JSON bytes to an `Event`. Raises `msgspec.ValidationError` on anything that is not one."""


def delta_head(kind: type[TextMessageContentEvent | ReasoningMessageContentEvent], message_id: str) -> bytes:
    """Return how the stored JSON of the deltas of `message_id` begins, events of the class `kind`.

    The rest of such an event is the text, as JSON, and a brace. Wires know most events by their head, and pass the text
    on without decoding it.
    """
    return encode_event(kind(message_id=message_id, delta=""))[: -len(b'""}')]


def interrupts_in(event: bytes) -> list[Interrupt]:
    """Return what `event`, as it is stored, asks a person; nothing for one that asks nothing."""
    if b'"RUN_FINISHED"' not in event[:32]:
        return []
    decoded = decode_event(event)
    if isinstance(decoded, RunFinishedEvent) and isinstance(decoded.outcome, RunFinishedInterruptOutcome):
        return decoded.outcome.interrupts
    return []
