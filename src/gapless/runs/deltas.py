"""The short way of a delta that goes on with what the event before it was a delta of: only its text is new."""

from __future__ import annotations

from typing import Any

import msgspec

from gapless.events import ToolCallArgsEvent, encode_event
from gapless.fold import Parts
from gapless.halves import Delta
from gapless.jsontext import with_plain_lines

__all__ = ["DeltasOf"]

_encode_text = msgspec.json.Encoder().encode


class DeltasOf:
    """Knows the message or call that `event`, a delta that was recorded, is of. It is open, nothing has come since, and
    `parts` is where its texts are kept. One event of it has at most `bytes_max` bytes."""

    __slots__ = ("_author", "_bytes_max", "_head", "_id", "_is_call", "_kind", "parts")

    def __init__(self, event: Delta, parts: Parts, bytes_max: int) -> None:
        self._kind: Any = type(event)
        self._is_call = isinstance(event, ToolCallArgsEvent)
        self._id = event.tool_call_id if isinstance(event, ToolCallArgsEvent) else event.message_id
        self._author = event.subagent_run_id
        self.parts = parts
        self._bytes_max = bytes_max
        self._head = b""

    def more(self, event: Any) -> bytes | None:
        """Take one more delta; returns its JSON as it is stored. None for every other event, and for what has more to
        be looked at than its text: the recorder's long way is for them."""
        if type(event) is not self._kind:
            return None
        delta = event.delta
        if (
            (event.tool_call_id if self._is_call else event.message_id) != self._id
            or event.subagent_run_id != self._author
            or type(delta) is not str
            or event.timestamp is not None
            or event.raw_event is not None
            or event.metadata is not None
        ):
            return None
        try:
            text = _encode_text(delta)
        except UnicodeEncodeError:  # it ends inside a character
            return None
        if not text.isascii():
            text = with_plain_lines(text)
        encoded = (self._head or self._begin()) + text + b"}"
        if len(encoded) > self._bytes_max:
            return None
        self.parts.append(delta)
        return encoded

    def _begin(self) -> bytes:
        """Make how the JSON of its deltas begins: calls that take turns have no use for it."""
        bare: Any = {"tool_call_id" if self._is_call else "message_id": self._id}
        encoded = encode_event(self._kind(**bare, subagent_run_id=self._author, delta=""))
        self._head = with_plain_lines(encoded[: -len(b'""}')])
        return self._head
