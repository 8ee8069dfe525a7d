"""The wire `text`: `data: {"text": …}` per delta and `data: [DONE]`, for the simplest of clients.

Its ids name the run too, so that a browser's `EventSource`, which reconnects to the URL that started the run, goes on
with that run instead of starting another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from gapless.events import (
    CustomEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    decode_event,
    delta_head,
)
from gapless.fold import void_of
from gapless.onetext import LinkedText, Links
from gapless.output import OutputText
from gapless.records import RunRecord
from gapless.wire import NO_DELTA, RETRY_MS, Encoder

__all__ = ["TextEncoder"]

_encode = msgspec.json.Encoder().encode
_VOID = b'{"messageIds":'
"""How what is taken back begins, and no other frame."""


class TextEncoder(Encoder):
    """The assistant's text, links to its files, a typed output as JSON, errors and the end; reasoning and tools stay
    inside."""

    name: ClassVar[str] = "text"

    def __init__(self, run: RunRecord) -> None:
        super().__init__(run)
        self._id_head = b"%b:" % run.id.encode()
        self._retry = False  # `begin` tells it
        self._output = OutputText()
        self._one = LinkedText(Links(run))

    def begin(self, after: int) -> bytes:
        if after:  # its client has an id
            self._retry = True
            return b""
        # An id at once, with no text: a connection that is cut before the first word still comes back to this run. And
        # with data: there are readers that give out a frame without any as an event.
        return b'data: {"text":""}\nretry: %d\nid: %b\n\n' % (RETRY_MS, self.id_of(after))

    def frames(self, event: bytes) -> Sequence[bytes]:
        if event.startswith(self._delta_head):  # the hot path: nothing is decoded
            delta = event[len(self._delta_head) : -1]
            return (b'{"text":%b}' % delta,) if delta != b'""' else ()
        decoded = decode_event(event)
        if isinstance(decoded, TextMessageContentEvent | TextMessageStartEvent | TextMessageEndEvent):
            if isinstance(decoded, TextMessageStartEvent):
                self._output.add(decoded)
            piece = self._one.add(decoded)
            current = self._one.current
            self._delta_head = NO_DELTA if current is None else delta_head(TextMessageContentEvent, current)
            return (b'{"text":%b}' % _encode(piece),) if piece else ()
        if isinstance(decoded, RunErrorEvent):
            return (_encode({"error": decoded.message, "code": decoded.code or "run_failed"}), b"[DONE]")
        if isinstance(decoded, RunFinishedEvent):
            if isinstance(decoded.outcome, RunFinishedInterruptOutcome):
                return (_encode({"interrupts": decoded.outcome.interrupts}),)
            if isinstance(decoded.outcome, RunFinishedCancelledOutcome):
                return (b'{"cancelled":true}', b"[DONE]")
            text = self._output.add(decoded)
            return (b'{"text":%b}' % _encode(text), b"[DONE]") if text else (b"[DONE]",)
        if isinstance(decoded, CustomEvent):
            self._output.add(decoded)
            if link := self._one.add(decoded):
                return (b'{"text":%b}' % _encode(link),)
            if decoded.name == "gapless.notice":
                return (_encode({"notice": decoded.value}),)
            if (void := void_of(decoded)) is not None:
                return (_encode(void),)
        return ()

    def event_of(self, data: bytes) -> bytes:
        return b"void" if data.startswith(_VOID) else b""

    def _frame(self, id: bytes, data: bytes) -> bytes:
        frame = super()._frame(id, data)
        return b"event: void\n" + frame if data.startswith(_VOID) else frame

    def reconnect(self, id: bytes) -> bytes:
        return b"event: reconnect\ndata: {}\nid: %b\n\n" % id
