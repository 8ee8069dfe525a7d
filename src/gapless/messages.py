"""What AG-UI 1.0 says beside events: messages and their parts, tools, interrupts, the body of a request.

`gapless.events` has all of these names too.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, Union

import msgspec

__all__ = [
    "AGUIStruct",
    "ActivityMessage",
    "AssistantMessage",
    "AudioPart",
    "ContentPart",
    "Context",
    "DataSource",
    "DeveloperMessage",
    "DocumentPart",
    "FileSource",
    "FunctionCall",
    "ImagePart",
    "Interrupt",
    "Message",
    "Metadata",
    "PartSource",
    "ReasoningMessage",
    "ResumeEntry",
    "RunAgentInput",
    "SystemMessage",
    "TextPart",
    "TextRole",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolMessage",
    "UrlSource",
    "UserMessage",
    "VideoPart",
    "text_of",
]

Metadata: TypeAlias = dict[str, Any]
TextRole: TypeAlias = Literal["developer", "system", "assistant", "user"]


class AGUIStruct(msgspec.Struct, rename="camel", omit_defaults=True):
    """Has camelCase keys in JSON, and leaves out a field that equals its default. (`kw_only` is not inherited: every
    class says it.)

    Fields of many classes: `id` names the message, part or call within its session; `metadata` is whatever a client or
    an agent wants to keep beside it; `subagent_run_id` names the subagent's work that it belongs to; `encrypted_value`
    is what a model's provider wants to see again and nobody else can read.
    """


# ---------------------------------------------------------------------------------------------------- content parts


class TextPart(AGUIStruct, tag_field="type", tag="text", kw_only=True):
    """Holds `text` as a part of a message's content."""

    text: str
    id: str | None = None
    metadata: Any = None


class DataSource(AGUIStruct, tag_field="type", tag="data", kw_only=True):
    """Holds media in itself: `value` is base64 (RFC 4648, section 4) of `mime_type`."""

    value: str
    mime_type: str


class UrlSource(AGUIStruct, tag_field="type", tag="url", kw_only=True):
    """Names media by URL: `value` is the address, `mime_type` what is there, where that is known."""

    value: str
    mime_type: str | None = None


class FileSource(AGUIStruct, tag_field="type", tag="file", kw_only=True):
    """Names media that a model's provider keeps: `value` is its id there, `provider` who, `mime_type` what."""

    value: str
    provider: str | None = None
    mime_type: str | None = None


PartSource: TypeAlias = Union[DataSource, UrlSource, FileSource]


class ImagePart(AGUIStruct, tag_field="type", tag="image", kw_only=True):
    """Holds a picture as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


class AudioPart(AGUIStruct, tag_field="type", tag="audio", kw_only=True):
    """Holds sound as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


class VideoPart(AGUIStruct, tag_field="type", tag="video", kw_only=True):
    """Holds a video as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


class DocumentPart(AGUIStruct, tag_field="type", tag="document", kw_only=True):
    """Holds any other file as a part of a message's content; `source` says where it is."""

    source: PartSource
    id: str | None = None
    metadata: Any = None


ContentPart: TypeAlias = Union[TextPart, ImagePart, AudioPart, VideoPart, DocumentPart]


# --------------------------------------------------------------------------------------------------------- messages


class FunctionCall(AGUIStruct, kw_only=True):
    """Names the tool that is called, `name`; `arguments` is the JSON text as the model wrote it, valid or not."""

    name: str
    arguments: str


class ToolCall(AGUIStruct, omit_defaults=False, kw_only=True):
    """Holds one call in an assistant's message: `function` says what is called; `type` is always "function"."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    encrypted_value: str | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET


class _BaseMessage(AGUIStruct, tag_field="role", kw_only=True):
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


class ToolMessage(AGUIStruct, tag_field="role", tag="tool", kw_only=True):
    """Holds a tool's result: `content` answers the call `tool_call_id`; `error` says why it failed, if it did."""

    id: str
    content: str | list[ContentPart]
    tool_call_id: str
    error: str | None = None
    encrypted_value: str | None = None
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ActivityMessage(AGUIStruct, tag_field="role", tag="activity", kw_only=True):
    """Holds something to show that is no text: `content`, in the form that `activity_type` names."""

    id: str
    activity_type: str
    content: dict[str, Any]
    metadata: Metadata | None = None
    subagent_run_id: str | None = None


class ReasoningMessage(AGUIStruct, tag_field="role", tag="reasoning", kw_only=True):
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


class Tool(AGUIStruct, kw_only=True):
    """Describes a tool that the client offers: `name` and `description` for the model, `parameters` as a JSON
    Schema.
    """

    name: str
    description: str
    parameters: Any = None
    metadata: Metadata | None = None


class Context(AGUIStruct, kw_only=True):
    """Tells the agent something of the client's surroundings: `value`, and in `description` what that is."""

    description: str
    value: str


class Interrupt(AGUIStruct, kw_only=True):
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


class ResumeEntry(AGUIStruct, kw_only=True):
    """Answers the interrupt `interrupt_id`: `status` is "resolved", with the answer in `payload`, or "cancelled"."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None
    metadata: Metadata | None = None


class RunAgentInput(AGUIStruct, kw_only=True):
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


class TokenUsage(AGUIStruct, kw_only=True):
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


def text_of(content: str | list[ContentPart] | None) -> str:
    """Return the text of a message's `content`: the string itself, or its text parts joined."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))
