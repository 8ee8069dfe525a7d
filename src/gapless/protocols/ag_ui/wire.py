"""The wire `ag-ui`: the journal as it is, one frame per event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec

from gapless.events import (
    Event,
    Message,
    MessagesSnapshotEvent,
    RunStartedEvent,
    StateSnapshotEvent,
    ToolCallResultEvent,
    decode_event,
    encode_event,
    text_of,
)
from gapless.fold import Fold
from gapless.jsontext import with_plain_lines
from gapless.records import RunRecord
from gapless.runs.order import ENDS, STARTS
from gapless.wire import RETRY_MS, Encoder

__all__ = [
    "AGUIEncoder",
    "ChatAGUIEncoder",
    "JoinEncoder",
    "OldAGUIEncoder",
    "OldJoinEncoder",
    "Prefix",
    "SessionAGUIEncoder",
]


_FAILED = b',"error":"'
"""Stands in the JSON of a result that is a failure, and in no text."""
_CANCELLED = b'"outcome":{"type":"cancelled"}'
_FINISHED = b'{"type":"RUN_FINISHED"'
_RESULT = b'{"type":"TOOL_CALL_RESULT"'
_LETTER = len(b'{"type":"T')
_O = _RESULT[_LETTER]
"""No text has this letter there. It is looked at first: `startswith` is 900 instructions, for each word."""
_PARTS = b'"content":['
_TANSTACK = {"tanstack": {"state": "output-error"}}
"""How TanStack AI's client is told that a call has failed; AG-UI's own has no place for it."""


def _with_failure(event: bytes) -> bytes:
    """Return the event with what TanStack AI needs to see a failure."""
    if _FAILED not in event:
        return event
    result = decode_event(event)
    if not isinstance(result, ToolCallResultEvent) or result.error is None:
        return event
    result.metadata = {**(result.metadata or {}), **_TANSTACK}
    return with_plain_lines(encode_event(result))


class AGUIEncoder(Encoder):
    """AG-UI 1.0 events, as stored; a call that failed is marked for TanStack AI too."""

    name: ClassVar[str] = "ag-ui"
    stateless: ClassVar[bool] = True
    pauses: ClassVar[bool] = True
    voids: ClassVar[bool] = True

    def __init__(self, run: RunRecord) -> None:
        """Keeps nothing of the run: of thousands of waiting followers, most are on this wire."""

    def _shown(self, event: bytes) -> bytes:
        """Return the event as clients are told it: most as they are stored."""
        return _with_failure(event) if event.startswith(_RESULT) else event

    def frames(self, event: bytes) -> Sequence[bytes]:
        return (self._shown(event),)

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        return self._told(items, b"".join([b"data: %b\nid: %d\n\n" % (event, seq) for seq, event in items]))

    def encode_one(self, seq: int, event: bytes) -> bytes:
        if seq == 1 or (event[_LETTER] == _O and event.startswith(_RESULT)):
            return self.encode([(seq, event)])
        return b"data: %b\nid: %d\n\n" % (event, seq)

    def _told(self, items: Sequence[tuple[int, bytes]], frames: bytes) -> bytes:
        if frames.find(_FAILED) >= 0:  # and not `in`, which first takes the bytes for a number: 1,500 instructions more
            for _, event in items:
                frames = frames.replace(event, self._shown(event), 1)
        if items and items[0][0] == 1:  # the stream's first frame tells browsers how soon to come back
            return frames.replace(b"\n", b"\nretry: %d\n" % RETRY_MS, 1)
        return frames

    def parts(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> list[tuple[bytes, bytes]]:
        return [(b"%d" % seq, self._shown(event)) for seq, event in items]

    def reconnect(self, id: bytes) -> bytes:
        return b"event: reconnect\ndata: {}\nid: %b\n\n" % id


class ChatAGUIEncoder(AGUIEncoder):
    """The same, as AG-UI's own route says it: a frame's id comes first, since TanStack AI's client takes a line of data
    as it comes, under the id that it has by then."""

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        return self._told(items, b"".join([b"id: %d\ndata: %b\n\n" % item for item in items]))

    def encode_one(self, seq: int, event: bytes) -> bytes:
        return self.encode([(seq, event)])


class SessionAGUIEncoder(AGUIEncoder):
    """The same for a session's stream, which goes on where a run waits for a person and where it ends. An id says of
    which run it is."""

    pauses: ClassVar[bool] = False

    def __init__(self, run: RunRecord) -> None:
        """Keeps the run's id."""
        self._id_head = run.id.encode() + b":"

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        head = self._id_head
        return self._told(items, b"".join([b"data: %b\nid: %b%d\n\n" % (event, head, seq) for seq, event in items]))

    def encode_one(self, seq: int, event: bytes) -> bytes:
        if seq == 1 or (event[_LETTER] == _O and event.startswith(_RESULT)):
            return self.encode([(seq, event)])
        return b"data: %b\nid: %b%d\n\n" % (event, self._id_head, seq)


class OldAGUIEncoder(ChatAGUIEncoder):
    """The same for clients of AG-UI before 1.0, which refuse a stream with what they do not know: a run that was
    cancelled has no outcome, and of a tool's result they are told the text."""

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        return super().encode([(seq, self._shown(event)) for seq, event in items], skip_parts)

    def _shown(self, event: bytes) -> bytes:
        if event.startswith(_FINISHED):
            return event.replace(b"," + _CANCELLED, b"")
        if event.startswith(_RESULT) and _PARTS in event:
            result = decode_event(event)
            assert isinstance(result, ToolCallResultEvent), "it begins so"
            event = with_plain_lines(encode_event(msgspec.structs.replace(result, content=text_of(result.content))))
        return super()._shown(event)


class Prefix:
    """What the first events of a run amount to, in as few events: for a client that joins late."""

    def __init__(self) -> None:
        self._fold = Fold()
        self._started: Event | None = None
        self._open: dict[tuple[str, str], Event] = {}

    def add(self, events: Iterable[bytes]) -> None:
        """Take the next events."""
        for event in events:
            decoded = decode_event(event)
            self._fold.add(decoded)
            kind = type(decoded)
            if (start := STARTS.get(kind)) is not None:
                self._open[start[0], getattr(decoded, start[1])] = decoded
            elif (end := ENDS.get(kind)) is not None:
                self._open.pop((end[0], getattr(decoded, end[1])), None)
            elif kind is RunStartedEvent:
                self._started = decoded

    def events(self, before: Sequence[Message]) -> list[bytes]:
        """RUN_STARTED, the messages `before` this run's and its own so far, the state, what is open again."""
        assert self._started is not None, "a run begins with RUN_STARTED"
        compact: list[Event] = [
            self._started,
            MessagesSnapshotEvent(messages=[*before, *self._fold.messages()]),
        ]
        if self._fold.state is not None:
            compact.append(StateSnapshotEvent(snapshot=self._fold.state))
        return [encode_event(event) for event in (*compact, *self._open.values())]


class JoinEncoder(ChatAGUIEncoder):
    """AG-UI from the middle of a run: first what a `Prefix` came to, then the journal.

    The prefix's frames have ids that name the position it stands for and how many of them were seen, so that a cut
    between them is made good too: on the same route, which makes the same frames again. `seen` leaves those out.
    """

    def __init__(self, run: RunRecord, prefix: Sequence[bytes], seen: int = 0) -> None:
        super().__init__(run)
        self._prefix = prefix
        self._seen = seen

    def begin(self, after: int) -> bytes:
        last = len(self._prefix)
        ids = [b"%d.%d" % (after + 1, part) if part < last else b"%d" % after for part in range(1, last + 1)]
        frames = [
            b"id: %b\ndata: %b\n\n" % frame for frame in zip(ids, map(with_plain_lines, self._prefix), strict=True)
        ]
        return b"".join(frames[self._seen :])


class OldJoinEncoder(JoinEncoder, OldAGUIEncoder):
    """The same for clients of AG-UI before 1.0."""
