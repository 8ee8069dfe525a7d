"""Attachments that failed a turn: what the turns after it are told instead.

A model that cannot take a picture refuses the whole request, and with the picture in the history it would refuse every
later one. So the message of such a turn is marked, and whoever reads the history as a model's finds a text in the place
of its attachments. What the user sees of the message stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gapless.errors import GaplessError
from gapless.events import ContentPart, Message, TextPart, ToolMessage, UrlSource, UserMessage

__all__ = [
    "LEFT_OUT",
    "digest_of",
    "has_media",
    "mark_left_out",
    "marks_of",
    "notice_for",
    "without_blobs",
    "without_left_out",
]

LEFT_OUT = "gapless.left_out"
"""The key of the mark in a message's metadata: `{"why": …, "media": […]}`, digests of what is left out."""
WHY_CHARS_MAX = 300
_BLOB = re.compile(r"/runs/[^/]+/blobs/[0-9a-f]+$")
_SAYS_NOTHING_OF_MEDIA = frozenset(
    {
        "checkpoint_unreadable",
        "connection_lost",
        "endpoint_cut",
        "extra_missing",
        "limit_reached",
        "model_missing",
        "output_invalid",
        "run_fenced",
        "run_limit",
        "run_timeout",
        "shutting_down",
        "store_unavailable",
        "streaming_unavailable",
        "tool_failed",
        "worker_lost",
    }
)
"""Codes of failures that the model's refusal of an attachment cannot be."""


def has_media(message: Message) -> bool:
    """Whether a user attached something to this message."""
    return isinstance(message, UserMessage) and any(_is_media(part) for part in _parts(message))


def mark_left_out(message: UserMessage, failure: GaplessError, *, answered: bool) -> UserMessage:
    """Return the message of a turn that failed, marked where its attachments may be what failed it.

    Args:
        message: What the turn was asked.
        failure: How it failed.
        answered: Whether the model had begun to answer: then it had taken what was attached.
    """
    taken = answered and failure.code == "model_failed"
    if taken or not has_media(message) or failure.code in _SAYS_NOTHING_OF_MEDIA or failure.retry_after_s is not None:
        return message
    media = [digest_of(part.source.value) for part in _parts(message) if not isinstance(part, TextPart)]
    mark = {"why": failure.message[:WHY_CHARS_MAX], "media": media}
    return msgspec.structs.replace(message, metadata={**(message.metadata or {}), LEFT_OUT: mark})


def marks_of(messages: Iterable[Message]) -> dict[str, str]:
    """Return what failed turns among these: digest of the attachment → why it is left out."""
    found: dict[str, str] = {}
    for message in messages:
        mark = (message.metadata or {}).get(LEFT_OUT)
        if isinstance(mark, dict):
            found.update(dict.fromkeys(mark.get("media", ()), str(mark.get("why", ""))))
    return found


def without_left_out(messages: Sequence[Message], marks: Mapping[str, str]) -> list[Message]:
    """Return the messages as a model is told of them: a text in the place of each attachment that `marks` has."""
    return [_told(message, marks) if marks and has_media(message) else message for message in messages]


def without_blobs(message: Message) -> Message:
    """Return a tool's result as any model is told of it: what is kept aside in it has an address that no provider can
    fetch, and is named."""
    if not isinstance(message, ToolMessage) or isinstance(message.content, str):
        return message
    return msgspec.structs.replace(message, content=[_fetchable(part) for part in message.content])


def _fetchable(part: ContentPart) -> ContentPart:
    if isinstance(part, TextPart) or not isinstance(part.source, UrlSource) or not _BLOB.search(part.source.value):
        return part
    return TextPart(text=f"[{part.source.mime_type} that the tool gave: {part.source.value}]")


def notice_for(media_type: str | None, why: str) -> str:
    """Return the text that stands for an attachment."""
    kind = f" ({media_type})" if media_type else ""
    return f"[An attachment{kind} was left out here: the turn that it came with failed. {why}]"


def digest_of(value: str | bytes) -> str:
    """Return what an attachment is known by: a digest of its URL, its file's name or its bytes as base64."""
    return hashlib.blake2b(value.encode() if isinstance(value, str) else value, digest_size=12).hexdigest()


def _told(message: Message, marks: Mapping[str, str]) -> Message:
    parts: list[ContentPart] = []
    for part in _parts(message):
        why = None if isinstance(part, TextPart) else marks.get(digest_of(part.source.value))
        if why is None or isinstance(part, TextPart):
            parts.append(part)
        else:
            parts.append(TextPart(text=notice_for(part.source.mime_type, why)))
    return msgspec.structs.replace(message, content=parts)


def _parts(message: Any) -> list[ContentPart]:
    return message.content if isinstance(message.content, list) else []


def _is_media(part: ContentPart) -> bool:
    return not isinstance(part, TextPart)
