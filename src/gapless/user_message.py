"""A user's message, in whatever form it comes."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from gapless.errors import InputInvalid
from gapless.events import (
    AudioPart,
    ContentPart,
    DataSource,
    DocumentPart,
    ImagePart,
    Message,
    PartSource,
    TextPart,
    ToolMessage,
    UrlSource,
    UserMessage,
    VideoPart,
    text_of,
)

__all__ = ["is_ours", "mark_of", "mark_results", "media_part", "results_of", "simplest", "user_message"]

_OURS = "gapless."
"""How the keys of a message's metadata begin that the server writes and goes by."""
_KEPT = frozenset({"run_id", "interrupted", "error", "denied"})
"""Such keys of the messages that a session has, which users read too."""
_RESULTS = "gapless.tool_results"
"""Key in the metadata of a run's message: what the client's own tools have come to, which the run goes on from."""
_EARLIER = {
    "gapless.openai": "openai",
    "gapless.vercel.message_id": "vercel_message_id",
    "gapless.vercel.tool_results": "vercel_tool_results",
}
"""What such keys are called in journals that were written before they began alike."""


def user_message(message: object) -> UserMessage:
    """Text, a list of AG-UI content parts, a `UserMessage`, or a Gemini content object → the message, its id still
    empty where it had none. Raises `InputInvalid`."""
    if isinstance(message, UserMessage):
        return msgspec.structs.replace(message)
    if isinstance(message, str):
        # Lone surrogates, which no encoding can carry, become U+FFFD.
        content: str | list[ContentPart] = message.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    elif isinstance(message, list):
        if any("role" in part if isinstance(part, dict) else isinstance(part, get_args(Message)) for part in message):
            raise InputInvalid(
                "message: a list is one message's parts, not messages; give the new message alone: a conversation is "
                "kept by session_id, or comes as messages="
            )
        try:
            content = msgspec.convert(message, list[ContentPart], from_attributes=True)
        except msgspec.ValidationError as error:
            raise InputInvalid(f"message parts: {error}") from None
    elif hasattr(message, "parts"):
        content = simplest(_gemini_parts(message.parts or []))
    else:
        raise InputInvalid(f"a message is text, a list of parts or a content object, not {type(message).__name__}")
    if not content:
        raise InputInvalid("the message is empty")
    return UserMessage(id="", content=content)


def simplest(parts: list[ContentPart]) -> str | list[ContentPart]:
    """Plain text where the parts say nothing else."""
    return parts if any(not isinstance(part, TextPart) for part in parts) else text_of(parts)


def media_part(source: PartSource) -> ContentPart:
    """Return the part of the kind that the source's MIME type says; a document where it says nothing."""
    kind = (source.mime_type or "").partition("/")[0]
    return _MEDIA.get(kind, DocumentPart)(source=source)


_MEDIA: dict[str, type[ImagePart | AudioPart | VideoPart]] = {
    "image": ImagePart,
    "audio": AudioPart,
    "video": VideoPart,
}


def _gemini_parts(parts: Iterable[Any]) -> list[ContentPart]:
    found: list[ContentPart] = []
    for part in parts:
        if part.text:
            found.append(TextPart(text=part.text))
        elif part.inline_data is not None:
            data = base64.b64encode(part.inline_data.data or b"").decode()
            mime_type = part.inline_data.mime_type or "application/octet-stream"
            found.append(media_part(DataSource(value=data, mime_type=mime_type)))
        elif part.file_data is not None:
            found.append(media_part(UrlSource(value=part.file_data.file_uri, mime_type=part.file_data.mime_type)))
    return found


def is_ours(key: str) -> bool:
    """Tell whether a key of a message's metadata is the server's to write, and no client's."""
    return key.startswith(_OURS) or key in _KEPT or key in _EARLIER.values()


def mark_of(message: Message | None, key: str) -> Any:
    """What the server has written into a message's metadata under this key; None for nothing."""
    metadata = (message.metadata if message is not None else None) or {}
    return metadata.get(key, metadata.get(_EARLIER.get(key, key)))


def mark_results(message: UserMessage, results: list[ToolMessage]) -> None:
    """Note on a run's message the results of the client's own tools that come with it."""
    message.metadata = {**(message.metadata or {}), _RESULTS: msgspec.to_builtins(results)}


def results_of(message: UserMessage) -> list[ToolMessage]:
    """Return the results that come with a run's message."""
    return msgspec.convert(mark_of(message, _RESULTS) or [], list[ToolMessage])
