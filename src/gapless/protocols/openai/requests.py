"""What OpenAI's clients send, as messages, tools and settings of a run.

Source of the formats: OpenAI API reference, chat completions and responses, request bodies. Fields that are not read
here are ignored, as a service of another version would; what cannot be done is refused.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, ClassVar, Literal, TypeAlias, Union

import msgspec

from gapless.errors import InputInvalid
from gapless.events import (
    AssistantMessage,
    AudioPart,
    ContentPart,
    DataSource,
    DeveloperMessage,
    DocumentPart,
    FileSource,
    FunctionCall,
    ImagePart,
    Message,
    PartSource,
    ReasoningMessage,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolMessage,
    UrlSource,
    UserMessage,
)

__all__ = [
    "Chat",
    "Responses",
    "chat_messages",
    "chat_settings",
    "check_results",
    "response_messages",
    "response_settings",
    "tools_of",
]

_CHAT_SETTINGS = (
    "frequency_penalty",
    "logit_bias",
    "max_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "top_p",
)
_RESPONSE_SETTINGS = ("parallel_tool_calls", "temperature", "tool_choice", "top_p")
"""Generation settings with the same name and form in both APIs and in a run's `model_settings`."""
_AUDIO_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav"}


# ------------------------------------------------------------------------------------------------------ content parts


class _Text(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class _InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    text: str


class _OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    text: str


class _Refusal(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class _Url(msgspec.Struct):
    url: str


class _ImageUrl(msgspec.Struct, tag_field="type", tag="image_url"):
    image_url: _Url


class _InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None


class _Audio(msgspec.Struct):
    data: str
    format: str


class _InputAudio(msgspec.Struct, tag_field="type", tag="input_audio"):
    input_audio: _Audio


class _FileFields(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


class _File(msgspec.Struct, tag_field="type", tag="file"):
    file: _FileFields


class _InputFile(_FileFields, tag_field="type", tag="input_file"):
    pass


_Part: TypeAlias = Union[
    _Text, _InputText, _OutputText, _Refusal, _ImageUrl, _InputImage, _InputAudio, _File, _InputFile
]
_Content: TypeAlias = str | list[_Part]


# --------------------------------------------------------------------------------------------------- chat completions


class _Kept(msgspec.Struct):
    encrypted_value: str


class _Extra(msgspec.Struct):
    gapless: _Kept


class _Details(msgspec.Struct):
    format: Literal["gapless-v1"]
    data: str


class _Thought(msgspec.Struct):
    """Keeps what a model wants back with the part of the reasoning from `start` to `end`."""

    value: str
    start: int
    end: int


class _Reasoned(msgspec.Struct):
    """Keeps the same of a whole thought, and its text."""

    value: str
    text: str


_decode_reasoning = msgspec.json.Decoder(_Reasoned).decode
_decode_thought = msgspec.json.Decoder(_Thought).decode


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Function
    extra_content: Any = None


class _System(msgspec.Struct, tag_field="role", tag="system"):
    content: _Content


class _Developer(msgspec.Struct, tag_field="role", tag="developer"):
    content: _Content


class _User(msgspec.Struct, tag_field="role", tag="user"):
    content: _Content
    name: str | None = None


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant"):
    content: _Content | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: Any = None
    reasoning_details: Any = None


class _Tool(msgspec.Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: _Content


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _ChatTool(msgspec.Struct):
    function: _ToolFunction
    type: Literal["function"] = "function"


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Chat(msgspec.Struct):
    """The body of `POST /v1/chat/completions`, less its generation settings."""

    messages: list[_System | _Developer | _User | _Assistant | _Tool]
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[_ChatTool] | None = None
    n: int | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None


class Completion(msgspec.Struct):
    """The body of `POST /v1/completions`, less its generation settings."""

    prompt: str | list[str]
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None

    tools: ClassVar[None] = None

    def said(self) -> str:
        """Return the prompt. Raises `InputInvalid` for what one run cannot answer."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1 or self.n not in (None, 1) or self.best_of not in (None, 1):
            raise InputInvalid("prompt, n: one run gives one answer to one prompt")
        if self.echo or self.suffix or self.logprobs:
            raise InputInvalid("echo, suffix, logprobs: an agent answers and completes no text; leave them out")
        if not prompts[0]:
            raise InputInvalid("the prompt is empty")
        return prompts[0]


def chat_messages(body: Chat) -> tuple[UserMessage, list[Message]]:
    """Return the new message and the history before it. Where the last message is a tool's result there is no new one:
    an empty message stands for it. Raises `InputInvalid`.
    """
    messages: list[Message] = []
    for number, one in enumerate(body.messages, 1):
        id = f"m{number}"
        match one:
            case _User():
                messages.append(UserMessage(id=id, content=_parts(one.content), name=one.name))
            case _System():
                messages.append(SystemMessage(id=id, content=_text(one.content)))
            case _Developer():
                messages.append(DeveloperMessage(id=id, content=_text(one.content)))
            case _Tool():
                messages.append(_told(one.tool_call_id, one.content))
            case _Assistant():
                content = _text(one.content or "") or one.refusal
                calls = [_tool_call(call.id, call.function, _kept(call)) for call in one.tool_calls or ()]
                messages += _thoughts(id, one)
                messages.append(AssistantMessage(id=id, content=content, tool_calls=calls or None))
    return _split(messages)


def chat_settings(body: Chat | Completion, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the generation settings among the body's fields."""
    settings = {name: raw[name] for name in _CHAT_SETTINGS if raw.get(name) is not None}
    _check_choice(raw)
    if isinstance(body, Chat) and body.max_completion_tokens is not None:
        settings["max_tokens"] = body.max_completion_tokens
    return settings


# ---------------------------------------------------------------------------------------------------------- responses


class _Message(msgspec.Struct, tag_field="type", tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content


class _FunctionCall(msgspec.Struct, tag_field="type", tag="function_call"):
    call_id: str
    name: str
    arguments: str = ""
    encrypted_content: str | None = None


class _FunctionCallOutput(msgspec.Struct, tag_field="type", tag="function_call_output"):
    call_id: str
    output: _Content


class _Reasoning(msgspec.Struct, tag_field="type", tag="reasoning"):
    encrypted_content: str | None = None


class _McpCall(msgspec.Struct, tag_field="type", tag="mcp_call"):
    id: str
    name: str
    arguments: str = ""
    output: str | None = None
    error: Any = None
    encrypted_content: str | None = None

    def why(self) -> str | None:
        """Return why the call failed, in whatever form that is."""
        error = self.error
        if isinstance(error, dict):
            content = error.get("content")
            content = content if isinstance(content, list) else []
            texts = [one["text"] for one in content if isinstance(one, dict) and "text" in one]
            error = error.get("message") or "\n".join(map(str, texts)) or msgspec.json.encode(content).decode()
        return None if error is None else str(error)


_InputItem: TypeAlias = Union[_Message, _FunctionCall, _FunctionCallOutput, _Reasoning, _McpCall]


class _ResponseTool(_ToolFunction, kw_only=True):
    type: Literal["function"] = "function"


class _Effort(msgspec.Struct):
    effort: str | None = None


class _TextOptions(msgspec.Struct):
    format: dict[str, Any] | None = None


class _Conversation(msgspec.Struct):
    id: str


class Responses(msgspec.Struct):
    """The body of `POST /v1/responses`, less its generation settings."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    stream: bool | None = None
    background: bool | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | _Conversation | None = None
    tools: list[_ResponseTool] | None = None
    text: _TextOptions | None = None
    reasoning: _Effort | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None


def _told(call_id: str, content: str | list[_Part]) -> ToolMessage:
    """Return a result under an id that is its own in the conversation too: the next request counts anew."""
    return ToolMessage(id=f"{call_id}-result", tool_call_id=call_id, content=_parts(content))


def response_messages(body: Responses) -> tuple[UserMessage, list[Message]]:
    """Return the new message and those of the input before it, as `chat_messages`. Raises `InputInvalid`."""
    if isinstance(body.input, str):
        return _split([UserMessage(id="", content=body.input)])
    items = [item if "type" in item else {"type": "message", **item} for item in body.input]
    try:
        typed = msgspec.convert(items, list[_InputItem])
    except msgspec.ValidationError as error:
        raise InputInvalid(f"input: {error}") from None
    messages: list[Message] = []
    for number, one in enumerate(typed, 1):
        id = f"i{number}"
        match one:
            case _Message(role="user"):
                messages.append(UserMessage(id=id, content=_parts(one.content)))
            case _Message(role="assistant"):
                messages.append(AssistantMessage(id=id, content=_text(one.content)))
            case _Message():
                messages.append(SystemMessage(id=id, content=_text(one.content)))
            case _FunctionCall():
                call = _tool_call(one.call_id, _Function(one.name, one.arguments), one.encrypted_content)
                messages.append(AssistantMessage(id=id, tool_calls=[call]))
            case _FunctionCallOutput():
                messages.append(_told(one.call_id, one.output))
            case _Reasoning(encrypted_content=str(kept)):
                with contextlib.suppress(msgspec.DecodeError):  # another service's
                    thought = _decode_reasoning(kept)
                    messages.append(ReasoningMessage(id=id, content=thought.text, encrypted_value=thought.value))
            case _McpCall():
                call = _tool_call(one.id, _Function(one.name, one.arguments), one.encrypted_content)
                messages.append(AssistantMessage(id=id, tool_calls=[call]))
                why = one.why()
                content = (one.output if why is None else why) or ""
                messages.append(ToolMessage(id=f"{id}-result", tool_call_id=one.id, content=content, error=why))
    return _split(messages)


def response_settings(body: Responses, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the generation settings among the body's fields, in chat completions' form."""
    settings = {name: raw[name] for name in _RESPONSE_SETTINGS if raw.get(name) is not None}
    _check_choice(raw)
    if body.max_output_tokens is not None:
        settings["max_tokens"] = body.max_output_tokens
    if body.reasoning is not None and body.reasoning.effort is not None:
        settings["reasoning_effort"] = body.reasoning.effort
    format = body.text.format if body.text is not None else None
    if format is not None and format.get("type") == "json_schema":
        schema = {name: value for name, value in format.items() if name != "type"}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif format is not None and format.get("type") not in (None, "text"):
        settings["response_format"] = format
    return settings


# -------------------------------------------------------------------------------------------------------- what both do


def tools_of(tools: list[_ChatTool] | list[_ResponseTool] | None) -> list[Tool]:
    """Return the client's tools."""
    functions = [tool.function if isinstance(tool, _ChatTool) else tool for tool in tools or ()]
    return [Tool(name=f.name, description=f.description or "", parameters=f.parameters) for f in functions]


def _check_choice(raw: dict[str, Any]) -> None:
    """Refuse a choice of tools that is of no form. Which tools there are the agent knows."""
    choice = raw.get("tool_choice")
    if choice is not None and not isinstance(choice, str | dict):
        raise _bad_request("tool_choice is none, auto, required, or an object that names a tool")


def check_results(messages: list[Message]) -> None:
    """Refuse tool results that are to be answered and belong to no call before them."""
    calls = {call.id for one in messages if isinstance(one, AssistantMessage) for call in one.tool_calls or ()}
    brought = list(itertools.takewhile(lambda one: isinstance(one, ToolMessage), reversed(messages)))
    if brought and not any(isinstance(one, ToolMessage) and one.tool_call_id in calls for one in brought):
        raise _bad_request("the last message is a tool's result, and no message before it has a call of that id")


def _bad_request(why: str) -> InputInvalid:
    """Return an error with the status that the API has for it."""
    error = InputInvalid(why)
    error.status = 400
    return error


def _split(messages: list[Message]) -> tuple[UserMessage, list[Message]]:
    last = messages[-1] if messages else UserMessage(id="", content="")
    if isinstance(last, UserMessage):
        if not last.content:
            raise InputInvalid("there is no message, or the last one is empty: it is the question")
        last.id = ""  # the run names it
        return last, messages[:-1]
    if not isinstance(last, ToolMessage):
        raise InputInvalid("the last message is neither the user's nor a tool's result: there is nothing to answer")
    return UserMessage(id="", content=""), messages


def _tool_call(id: str, function: _Function, kept: str | None = None) -> ToolCall:
    call = ToolCall(id=id, function=FunctionCall(name=function.name, arguments=function.arguments))
    if kept is not None:
        call.encrypted_value = kept
    return call


def _kept(call: _Call) -> str | None:
    """Return what a model wants back with the call, if the client has kept it."""
    try:
        return msgspec.convert(call.extra_content, _Extra).gapless.encrypted_value
    except msgspec.ValidationError:
        return None


def _thoughts(id: str, said: _Assistant) -> list[ReasoningMessage]:
    """Return the thoughts that the client has kept with what their model wants back; others are no use."""
    text = said.reasoning_content if isinstance(said.reasoning_content, str) else ""
    found: list[ReasoningMessage] = []
    for one in said.reasoning_details if isinstance(said.reasoning_details, list) else ():
        try:
            kept = _decode_thought(msgspec.convert(one, _Details).data)
        except (msgspec.ValidationError, msgspec.DecodeError):
            continue  # another service's, or one that the client has changed
        if 0 <= kept.start <= kept.end <= len(text):
            content = text[kept.start : kept.end]
            found.append(ReasoningMessage(id=f"{id}-r{len(found)}", content=content, encrypted_value=kept.value))
    return found


def _text(content: _Content) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if isinstance(part, _Refusal):
            texts.append(part.refusal)
        elif isinstance(part, _Text | _InputText | _OutputText):
            texts.append(part.text)
        else:
            raise InputInvalid("only a user's message and a tool's result can have media")
    return "".join(texts)


def _parts(content: _Content) -> str | list[ContentPart]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: _Part) -> ContentPart:
    match part:
        case _Text() | _InputText() | _OutputText():
            return TextPart(text=part.text)
        case _Refusal():
            return TextPart(text=part.refusal)
        case _ImageUrl():
            return ImagePart(source=_source(part.image_url.url))
        case _InputImage():
            return ImagePart(source=_source(part.image_url, part.file_id))
        case _InputAudio():
            audio = part.input_audio
            kind = _AUDIO_TYPES.get(audio.format, f"audio/{audio.format}")
            return AudioPart(source=DataSource(value=audio.data, mime_type=kind))
        case _File():
            return _document(part.file)
        case _InputFile():
            return _document(part)


def _document(file: _FileFields) -> DocumentPart:
    return DocumentPart(source=_source(file.file_data or file.file_url, file.file_id), id=file.filename)


def _source(url: str | None, file_id: str | None = None) -> PartSource:
    if not url:
        if not file_id:
            raise InputInvalid("an image or file has neither a URL nor data nor an id")
        return FileSource(value=file_id, provider="openai")
    if not url.startswith("data:"):
        return UrlSource(value=url)
    kind, _, data = url.removeprefix("data:").partition(",")
    mime_type, encoded, _ = kind.partition(";base64")
    if not encoded:
        raise InputInvalid("a data: URL has to be base64")
    return DataSource(value=data, mime_type=mime_type or "application/octet-stream")
