"""What a wire is: a pure encoding of a journal for one family of clients.

An encoder turns (position, event) pairs into Server-Sent Events (WHATWG HTML, section 9.2.6): LF only, an `id` on every
data frame, an explicit end marker. It knows no store and no HTTP. A wire is a module in its family's folder under
`protocols/`, where the family declares it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from gapless.errors import CursorInvalid, InputInvalid
from gapless.events import (
    CustomEvent,
    ReasoningMessageContentEvent,
    RunErrorEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    decode_event,
    delta_head,
    encode_event,
)
from gapless.fold import RESTARTED, VOID, Void, void_of
from gapless.jsontext import with_plain_lines
from gapless.records import RunRecord

__all__ = [
    "KEEP_ALIVE",
    "NO_DELTA",
    "Cursor",
    "Encoder",
    "is_restart",
    "load",
    "parse_cursor",
    "wire",
    "wires",
    "without_void",
]

_TABLE = "gapless.protocols:WIRES"
"""Where the encoders are named, each by the family of clients that it is for."""

KEEP_ALIVE = b": ping\n"
"""A comment and no blank line: some clients dispatch an empty event on every blank line."""
RETRY_MS = 500
"""How soon an `EventSource` reconnects; told once, inside the first data frame."""
NO_DELTA = b"no event begins so"
"""In place of a `delta_head`, where no message has begun."""

_CUSTOM = b'{"type":"CUSTOM"'
_RESTARTED = b'"name":"%b"' % RESTARTED.encode()
_VOID = b'"name":"%b"' % VOID.encode()
_CANNOT_VOID = encode_event(
    RunErrorEvent(message="another worker began the run anew; what came so far is void, ask again", code=RESTARTED)
)

_CURSOR = re.compile(r"(?:(?P<run>\S+):)?(?P<seq>[0-9]{1,15})(?:\.(?:(?P<part>[1-9][0-9]{0,5})|end))?")


class _Named(msgspec.Struct):
    name: str


_decode_named = msgspec.json.Decoder(_Named).decode
_decode_custom = msgspec.json.Decoder(CustomEvent).decode


class Cursor(NamedTuple):
    """Names a place in a stream: all frames of event `seq` were seen, or of the one after it only the first `part`."""

    seq: int
    part: int = 0


def parse_cursor(text: str, run_id: str | None) -> Cursor:
    """Read the cursor out of a frame's id, `text`: `seq`, `seq.part`, `seq.end`, each with or without `run:` before it.
    `run_id` is None for a run that has none yet.

    Raises `CursorInvalid` for anything else, and for the id of another run.
    """
    match, of = _CURSOR.fullmatch(text.strip()), "" if run_id is None else f"run {run_id}: "
    if match is None:
        raise CursorInvalid(f"{of}{text[:64]!r} is not a cursor; send back an id as it came", run_id=run_id)
    if match["run"] not in (None, run_id):
        raise CursorInvalid(
            f"the cursor {text[:128]!r} belongs to another run{f' than {run_id}' if run_id else ''}", run_id=run_id
        )
    seq, part = int(match["seq"]), match["part"]
    if part is None:
        return Cursor(seq)
    if seq == 0:
        raise CursorInvalid(f"{of}{text[:64]!r} is part of no event; the first one is 1", run_id=run_id)
    return Cursor(seq - 1, int(part))


def is_restart(event: bytes) -> bool:
    """Return whether `event`, as stored, says that the run begins anew."""
    if not event.startswith(_CUSTOM):
        return False
    return _RESTARTED in event and _decode_named(event).name == RESTARTED  # and not a name inside of its value


def _void_of_restart(event: bytes) -> bytes | None:
    """Return the event which takes all back that was said before the run was begun anew, if `event` names it."""
    decoded = _decode_custom(event)
    with contextlib.suppress(msgspec.ValidationError):
        return encode_event(CustomEvent(name=VOID, value=msgspec.to_builtins(msgspec.convert(decoded.value, Void))))
    return None


def without_void(items: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return `items`, (position, event) pairs from a run's start on, without what a later one of them takes back: for
    an answer that is read as a whole. A stream has said it by then.
    """
    kept: list[tuple[int, bytes]] = []
    for item in items:
        if item[1].startswith(_CUSTOM) and _VOID in item[1]:
            event = decode_event(item[1])
            void = void_of(event) if isinstance(event, CustomEvent) else None
            if void is not None:
                kept = _without(void, kept)
        kept.append(item)
    return kept


def _without(void: Void, items: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    messages, calls, left, kept = set(void.message_ids), set(void.tool_call_ids), dict(void.cut), []
    for seq, encoded in items:
        event: Any = decode_event(encoded)
        id = getattr(event, "message_id", None)
        if id in messages or getattr(event, "tool_call_id", None) in calls:
            continue
        if id in left and isinstance(event, TextMessageContentEvent | ReasoningMessageContentEvent):
            if len(event.delta) > left[id]:
                encoded = encode_event(msgspec.structs.replace(event, delta=event.delta[: left[id]]))
            left[id] -= min(len(event.delta), left[id])
        kept.append((seq, encoded))
    return kept


class Encoder(ABC):
    """Encodes one `run` for one connection, from some position on."""

    name: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}
    """HTTP headers beside those that every stream has."""
    stateless: ClassVar[bool] = False
    """True if a frame depends on its event alone: then encodings are shared between followers and nothing is folded."""
    pauses: ClassVar[bool] = False
    """True if the stream ends when the run waits for a person, and goes on in another request."""

    voids: ClassVar[bool] = False
    """True if the wire's clients know themselves what it means that a run is begun anew. On any other that is said as
    what it comes to: all that was said so far is taken back by name, which each wire says in its own way."""
    _id_head = b""
    """What an id says before the position."""
    _delta_head = NO_DELTA
    """How the stored deltas of the newest message begin, for a wire that goes by it."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self._retry = True
        self._restarted = False
        self._others: set[str] = set()
        """Messages that are not the assistant's, where the wire goes by `_begins`."""

    def _begins(self, event: TextMessageStartEvent) -> bool:
        """Note that a text message begins, under an id that may have been another's before. True if it is the
        assistant's: then its deltas are known by their head.
        """
        if event.role in (None, "assistant"):
            self._others.discard(event.message_id)
            self._delta_head = delta_head(TextMessageContentEvent, event.message_id)
            return True
        self._others.add(event.message_id)
        self._delta_head = NO_DELTA
        return False

    def sayable(self, items: Sequence[tuple[int, bytes]]) -> Sequence[tuple[int, bytes]]:
        """Return `items`, (position, event) pairs, as this wire can say them: where it cannot say that the run is begun
        anew, that all so far is taken back; or an error, and nothing after it, where a version of Gapless recorded that
        which did not name it all.
        """
        if self.voids:
            return items
        if self._restarted:
            return ()
        for index, (seq, event) in enumerate(items):
            if event.startswith(_CUSTOM) and is_restart(event):
                void = _void_of_restart(event)
                if void is None:
                    self._restarted = True
                    return [*items[:index], (seq, _CANNOT_VOID)]
                return [*items[:index], (seq, void), *self.sayable(items[index + 1 :])]
        return items

    @abstractmethod
    def frames(self, event: bytes) -> Sequence[bytes]:
        """Return the frames of one `event`: the `data` of each, without its line breaks and id."""

    def skip(self, events: Iterable[bytes]) -> None:
        """Fold `events` that the client has seen already."""
        for event in events:
            if self.frames(event):
                self._retry = False  # told in the stream's first frame, and in no other

    def id_of(self, seq: int) -> bytes:
        """Return the id of the last frame of event `seq`."""
        return b"%b%d" % (self._id_head, seq)

    def encode(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> bytes:
        """Encode `items`, (position, event) pairs, as SSE frames. `skip_parts` leaves out the first frames of the first
        event.
        """
        return b"".join([self._frame(id, data) for id, data in self.parts(items, skip_parts)])

    def encode_one(self, seq: int, event: bytes) -> bytes:
        """Encode one `event`, of position `seq`, as `encode` does: most come alone."""
        return self.encode(self.sayable([(seq, event)]))

    def parts(self, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> list[tuple[bytes, bytes]]:
        """Encode `items`, (position, event) pairs, as the (id, data) of their frames, for whatever carries them.
        `skip_parts` leaves out the first frames of the first event.

        The last frame of an event has the event's own id, an earlier one the id with its number as suffix.
        """
        out = []
        for seq, event in items:
            frames = self.frames(event)
            last = len(frames)
            if last == 1 and not skip_parts:  # a delta
                out.append((b"%b%d" % (self._id_head, seq), frames[0]))
                continue
            id = self.id_of(seq)
            for part, data in enumerate(frames, 1):
                if part > skip_parts:
                    out.append((id if part == last else b"%b.%d" % (id, part), data))
                else:
                    self._retry = False
            skip_parts = 0
        return out

    def event_of(self, data: bytes) -> bytes:
        """Return the name of the event that a frame with this `data` is; empty for a plain message."""
        return b""

    def _frame(self, id: bytes, data: bytes) -> bytes:
        if not data.isascii():
            data = with_plain_lines(data)
        if self._retry:
            self._retry = False
            return b"data: %b\nretry: %d\nid: %b\n\n" % (data, RETRY_MS, id)
        # The id comes last: a reader that takes it before the frame is whole would, after a cut, go on behind it.
        return b"data: %b\nid: %b\n\n" % (data, id)

    def begin(self, after: int) -> bytes:
        """Return what goes out before the first frame of a stream that begins `after` a position, at once."""
        return b""

    def end(self, last: int) -> bytes:
        """Return the end marker after the `last` position: a frame without data, so that clients that do not know it
        ignore it.
        """
        return b"event: end\nid: %b.end\n\n" % self.id_of(last)

    def reconnect(self, id: bytes) -> bytes:
        """Return what goes out before the server ends the connection and not the run; b"" where clients would stumble.
        `id` is that of the last frame, so that the place is not lost where this one is the last that a client heeds."""
        return b""


def wire(name: str) -> type[Encoder]:
    """Look up the encoder of the wire `name`. Raises `InputInvalid` for a name that is none."""
    table = wires()
    if name not in table:
        raise InputInvalid(f"no wire {name!r}; there are: {', '.join(table)}")
    encoder: type[Encoder] = load(table[name])
    return encoder


def wires() -> dict[str, str]:
    """Return every wire's encoder by the wire's name, as `module:name`."""
    table: dict[str, str] = load(_TABLE)
    return table


@functools.cache
def load(target: str) -> Any:
    """Import `target`, which a table names as `module:name`."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
