"""What ADK's clients send, in camelCase or snake_case, as messages and answers."""

from __future__ import annotations

import base64
from typing import Any, TypeVar

import msgspec

from gapless.errors import InputInvalid
from gapless.events import ContentPart, DataSource, ResumeEntry, TextPart, UrlSource
from gapless.protocols.adk.wire import object_of
from gapless.user_message import media_part, simplest

__all__ = [
    "ADKLiveRequest",
    "CreateSessionRequest",
    "RunAgentRequest",
    "SaveArtifactRequest",
    "UpdateSessionRequest",
    "as_type",
    "camel",
    "content_of",
    "decoded",
    "entry_of",
    "message_of",
    "run_request",
]

_T = TypeVar("_T")


class Blob(msgspec.Struct, rename="camel"):
    data: str
    mime_type: str = "application/octet-stream"


class File(msgspec.Struct, rename="camel"):
    file_uri: str
    mime_type: str | None = None


class FunctionResponse(msgspec.Struct, rename="camel"):
    id: str
    name: str | None = None
    response: dict[str, Any] | None = None


class Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    inline_data: Blob | None = None
    file_data: File | None = None
    function_response: FunctionResponse | None = None


class Content(msgspec.Struct, rename="camel"):
    parts: list[Part] = []
    role: str | None = None


class RunAgentRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /run_sse` and `POST /run`, in camelCase or snake_case."""

    user_id: str
    session_id: str
    app_name: str | None = None
    new_message: Content | None = None
    streaming: bool = False
    state_delta: dict[str, Any] | None = None


class ADKLiveRequest(msgspec.Struct, rename="camel"):
    """What clients of `/run_live` say, in camelCase or snake_case."""

    content: Content | None = None
    blob: Blob | None = None
    activity_start: dict[str, Any] | None = None
    activity_end: dict[str, Any] | None = None
    close: bool = False


class CreateSessionRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /apps/{app}/users/{user}/sessions`; it may be left out."""

    session_id: str | None = None
    state: dict[str, Any] | None = None
    events: list[Any] | None = None


class UpdateSessionRequest(msgspec.Struct, rename="camel"):
    """The body of `PATCH /apps/{app}/users/{user}/sessions/{session}`."""

    state_delta: dict[str, Any]


class UpdateMemoryRequest(msgspec.Struct, rename="camel"):
    """The body of `PATCH /apps/{app}/users/{user}/memory`."""

    session_id: str


class SaveArtifactRequest(msgspec.Struct, rename="camel"):
    """The body of `POST …/artifacts`."""

    filename: str
    artifact: dict[str, Any]
    custom_metadata: dict[str, Any] | None = None


def camel(fields: Any) -> Any:
    """Return an object's own keys in camelCase; ADK takes both spellings."""
    if not isinstance(fields, dict):
        return fields
    camel = {}
    for key, value in fields.items():
        first, *rest = key.split("_")
        camel["".join([first, *(word.capitalize() for word in rest)])] = value
    return camel


def run_request(body: dict[str, Any]) -> RunAgentRequest:
    body = camel(body)
    body["newMessage"] = message_of(body.get("newMessage"))
    return as_type(RunAgentRequest, body)


def message_of(content: Any) -> Any:
    """Return a content object with its keys in camelCase."""
    content = camel(content)
    if isinstance(content, dict) and isinstance(content.get("parts"), list):
        content["parts"] = parts = [camel(part) for part in content["parts"]]
        for part in parts:
            for key in ("inlineData", "fileData", "functionResponse"):
                if isinstance(part, dict) and key in part:
                    part[key] = camel(part[key])
    return content


def as_type(type: type[_T], value: Any) -> _T:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise InputInvalid(f"the body does not fit: {error}") from None


def content_of(parts: list[Part]) -> str | list[ContentPart]:
    """Return a message's content. Raises `InputInvalid` for an empty one."""
    found: list[ContentPart] = []
    for part in parts:
        if part.text:
            found.append(TextPart(text=part.text))
        elif part.inline_data is not None:
            data = _standard(part.inline_data.data)
            found.append(media_part(DataSource(value=data, mime_type=part.inline_data.mime_type)))
        elif part.file_data is not None:
            found.append(media_part(UrlSource(value=part.file_data.file_uri, mime_type=part.file_data.mime_type)))
    if not found:
        raise InputInvalid("the message is missing or empty")
    return simplest(found)


def _standard(data: str) -> str:
    """Base64 as it is mostly written; ADK writes that of RFC 4648, section 5."""
    data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)


def decoded(data: str) -> bytes:
    try:
        return base64.b64decode(_standard(data), validate=True)
    except ValueError:
        raise InputInvalid("blob: the data is not base64") from None


def entry_of(response: FunctionResponse) -> ResumeEntry:
    """Return an answer to what a run waits for; a confirmation says the same to every kind of agent."""
    payload = response.response or {}
    if isinstance(payload.get("response"), str) and len(payload) == 1:  # as ADK's own page wraps it
        payload = object_of(payload["response"])
    if "confirmed" in payload:
        payload = {**payload, "approved": payload["confirmed"]}
    return ResumeEntry(interrupt_id=response.id, status="resolved", payload=payload)
