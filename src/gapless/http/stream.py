"""Delivering a journal: the loop that follows a run for one client, and the ASGI response that carries it as
Server-Sent Events.

One loop per connection: the follower's next events, encoded, in one write. A write waits while the client does not
read, and then the follower is behind and reads on from its cursor: a slow client costs a cursor, not a queue. A
follower that is not behind, on a connection that can be written to at once (`direct.py`), is given what is new where it
is accepted: its loop waits for whatever else there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gapless.errors import CursorExpired, GaplessError, LimitReached
from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome, decode_event
from gapless.http.answers import answer_error
from gapless.http.cursors import check_cursor
from gapless.http.direct import DirectWriter, writer_of
from gapless.records import RunRecord
from gapless.runs.readers import Follower, merge_deltas
from gapless.runs.runner import Runner
from gapless.wire import KEEP_ALIVE, Cursor, Encoder

__all__ = [
    "DEFERRED",
    "PING_S",
    "Carrier",
    "Delivered",
    "Delivery",
    "EventStream",
    "Nudged",
    "Streams",
    "delivery_of",
    "follow",
    "settled",
]

PING_S = 10.0
"""A connection that was silent since the last look, this long ago, gets a keep-alive."""

_FINISHED = b'{"type":"RUN_FINISHED"'

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

DEFERRED = "gapless.deferred"
"""In an ASGI scope, the list in which a stream puts itself, to be run when the framework's layers have returned: those
layers would cost a waiting follower 15 KiB and each of its frames a microsecond."""

log = logging.getLogger("gapless.follow")


class Nudged(Protocol):
    """An open delivery."""

    def nudge(self) -> None:
        """Let its loop look at what has changed beside the events."""


class Streams:
    """The open deliveries of one app, so that all of its clients can be told to reconnect elsewhere."""

    def __init__(self) -> None:
        self.draining = False
        self.closing: asyncio.Future[None] | None = None
        """The runner's end, where no lifespan sees to it."""
        self.open: dict[Nudged, None] = {}
        self.cancelling: frozenset[str] = frozenset()
        """Families of clients whose hang-up cancels their run."""

    def drain(self) -> None:
        """End every connection, not its run: clients come back, to another worker or to the next one here."""
        self.draining = True
        for delivery in self.open:
            delivery.nudge()


class Carrier(Protocol):
    """What carries a delivery to its client. A write raises `OSError` when the client is gone."""

    direct: DirectWriter | None
    """Writes what `encode` made without waiting, where the connection can."""

    encode: Callable[[Sequence[tuple[int, bytes]], int], Any]
    """(position, event) pairs, of which the first frames may be left out → what `write` takes: empty for no frame."""

    async def begin(self, after: int) -> None:
        """Say what goes out before the first frame, at once."""

    def write(self, group: Any) -> Awaitable[None]:
        """Write the frames of one wake-up, at once."""

    async def end(self, last: int) -> None:
        """Say that there is no more, the last event having been at this position."""

    async def cut(self, id: bytes) -> None:
        """End the connection and not the run: the client is to come back, and go on after the frame with this id."""

    async def ping(self) -> None:
        """Keep a silent connection alive."""


class Delivery:
    """Delivers one run to one client, from a cursor to the run's end, by whatever carries it."""

    __slots__ = (
        "_carrier",
        "_cursor",
        "_direct",
        "_encoder",
        "_follower",
        "_gone",
        "_merge",
        "_pinging",
        "_reading",
        "_runner",
        "_sent",
        "_stateless",
        "_streams",
        "_voids",
        "run_id",
    )

    def __init__(
        self, runner: Runner, streams: Streams, record: RunRecord, encoder: Encoder, cursor: Cursor, *, merge: bool
    ) -> None:
        self.run_id = record.id  # and not the record: a waiting follower keeps little
        self._runner = runner
        self._streams = streams
        self._encoder = encoder
        self._stateless, self._voids = encoder.stateless, encoder.voids
        self._cursor = cursor
        coalesce_ms = None if record.config is None else record.config.coalesce_ms
        self._reading = runner.readers.reading(record, cursor.seq, coalesce_s=(coalesce_ms or 0.0) / 1000)
        self._merge = merge
        self._gone = False
        self._sent = False
        """Something went out since the last look."""
        self._follower: Follower | None = None
        self._carrier: Carrier
        self._direct: DirectWriter
        self._pinging: asyncio.TimerHandle

    @property
    def encoder(self) -> Encoder:
        """Returns the wire's encoder for this connection."""
        return self._encoder

    def nudge(self) -> None:
        """Let the loop look at what has changed beside the journal."""
        if self._follower is not None:
            self._follower.nudge()

    def leave(self) -> None:
        """Say that the client is gone."""
        self._gone = True
        self.nudge()

    async def open(self) -> None:
        """Attach to the run; `close` has to follow. Raises what following raises."""
        self._follower = await self._reading.__aenter__()
        self._streams.open[self] = None
        self._runner.metrics.followers += 1
        self._pinging = asyncio.get_running_loop().call_later(PING_S, self._ping)

    async def close(self) -> None:
        """Let go of the run."""
        self._gone = True
        self._pinging.cancel()
        self._streams.open.pop(self, None)
        self._runner.metrics.followers -= 1
        await self._reading.__aexit__(None, None, None)

    async def run(self, carrier: Carrier) -> None:
        """Carry the events to the end of the run, or until the client or this worker goes. Where the run cannot be read
        on, the client is told to come back, and gets what is wrong as a status then."""
        encoder, streams, follower = self._encoder, self._streams, self._follower
        assert follower is not None, "it was opened"
        skip_parts, pauses = self._cursor.part, encoder.pauses
        push = None
        if carrier.direct is not None:
            self._carrier, self._direct, push = carrier, carrier.direct, self._push
        try:  # all in one coroutine: each one more would be resumed with every word
            await carrier.begin(follower.after)
            if self._cursor.seq and not encoder.stateless:
                await self._fold_prefix(self._cursor.seq)
            while not self._gone:
                if streams.draining:
                    await carrier.cut(self._place(follower.after, skip_parts))
                    return
                part = await follower.next(push)
                if part is None:
                    await carrier.end(follower.after)
                    return
                events = part.events
                if not events:
                    await self._idle(carrier)
                    continue
                group = self._group(carrier, part.first_seq, events, part.behind, skip_parts)
                skip_parts = 0
                if group:
                    self._sent = True
                    await carrier.write(group)
                if pauses and events[-1].startswith(_FINISHED) and _is_pause(events[-1], follower):
                    await carrier.end(follower.after)
                    return
        except GaplessError as error:
            log.warning("run %s: a follower at %d was cut off: %s", self.run_id, follower.after, error)
            with contextlib.suppress(OSError):
                await carrier.cut(self._place(follower.after, skip_parts))

    def _push(self, first_seq: int, events: list[bytes]) -> bool:
        """Write these events at once, if the client takes them and the loop has nothing to do beside."""
        direct = self._direct
        if not direct.is_ready() or events[-1].startswith(_FINISHED):
            return False
        encoder, group = self._encoder, None
        shared = self._stateless and (journal := self._follower.journal).followers > 1  # type: ignore[union-attr]  # it was opened
        if shared:
            of, kind, group = journal.encoded
            if of is not events or kind is not type(encoder):
                group = None
        if group is None:
            if len(events) == 1:
                group = encoder.encode_one(first_seq, events[0])
            else:
                items = list(enumerate(events, first_seq))
                group = encoder.encode(items if self._voids else encoder.sayable(items))
            if shared:
                journal.encoded = events, type(encoder), group
        if group:
            self._sent = True
            direct.write(group)
        return True

    async def _idle(self, carrier: Carrier) -> None:
        """Look at what there is to be done beside the events: somebody has asked for that, or it is time."""
        if not self._sent and not self._streams.draining and not self._gone:
            await carrier.ping()
        self._sent = False

    def _place(self, after: int, skip_parts: int) -> bytes:
        """The id of the last frame that the client has seen."""
        encoder = self._encoder
        return b"%b.%d" % (encoder.id_of(after + 1), skip_parts) if skip_parts else encoder.id_of(after)

    def _group(self, carrier: Carrier, first_seq: int, events: list[bytes], behind: bool, skip_parts: int) -> Any:
        """Return one write for these events; followers at the same position of a stateless wire share it."""
        encoder, journal = self._encoder, self._follower.journal  # type: ignore[union-attr]  # it was opened
        merge = behind and self._merge and not skip_parts
        shared = self._stateless and journal.followers > 1
        if shared:
            key, kind = (first_seq, len(events), merge), (type(carrier), type(encoder))
            if journal.encoded[:2] == (key, kind):
                return journal.encoded[2]
        items: Sequence[tuple[int, bytes]]
        if merge:
            items = merge_deltas(first_seq, events)
            self._runner.metrics.events_merged += len(events) - len(items)
        else:
            items = list(enumerate(events, first_seq)) if len(events) > 1 else [(first_seq, events[0])]
        group = carrier.encode(items if self._voids else encoder.sayable(items), skip_parts)
        if shared:
            journal.encoded = (key, kind, group)
        return group

    async def _fold_prefix(self, until: int) -> None:
        """Let a wire that folds see what the client has seen."""
        async for events in self._runner.readers.pages(self.run_id, until=until):
            said = self._encoder.sayable([(0, event) for event in events])
            self._encoder.skip(event for _, event in said)

    def _ping(self) -> None:
        self._pinging = asyncio.get_running_loop().call_later(PING_S, self._ping)
        self.nudge()


def _is_pause(event: bytes, follower: Follower) -> bool:
    """Return whether the run waits for a person now, and did not only at some time before."""
    decoded = decode_event(event)
    return (
        isinstance(decoded, RunFinishedEvent)
        and isinstance(decoded.outcome, RunFinishedInterruptOutcome)
        and follower.after >= follower.journal.last  # past it: the store was read before this process was told
    )


class Delivered(Protocol):
    """What a stream delivers, by the carrier that goes with it."""

    async def open(self) -> None:
        """Attach; `close` has to follow."""

    async def run(self, carrier: Any) -> None:
        """Carry what there is, to the end."""

    def leave(self) -> None:
        """Hear that the client is gone."""

    async def close(self) -> None:
        """Let go."""


class EventStream(Response):
    """Carries a delivery as Server-Sent Events."""

    media_type = "text/event-stream"

    def __init__(
        self, delivery: Delivery, *, location: str, on_error: Callable[[GaplessError], Response] = answer_error
    ) -> None:
        names = {"content-location": location, "location": location, "x-run-id": delivery.run_id}
        self._encoder = delivery.encoder
        self._begin(delivery, names | delivery.encoder.headers, on_error)

    def _begin(
        self,
        delivery: Delivered,
        headers: Mapping[str, str],
        on_error: Callable[[GaplessError], Response] = answer_error,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._delivery = delivery
        self._on_error = on_error
        self.raw_headers = [*_HEADERS, *((name.encode(), value.encode("latin-1")) for name, value in headers.items())]

    def _carrier(self, send: Send) -> Any:
        return _EventSource(self._encoder, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deferred = scope.get(DEFERRED)
        if deferred is None:
            await self.stream(receive, send)
        else:
            deferred.append(self)

    async def stream(self, receive: Receive, send: Send) -> None:
        """Serve the whole of the connection, from its headers to its end."""
        delivery = self._delivery
        try:
            await delivery.open()
        except GaplessError as error:
            await self._refuse(error, send)
            return
        listening = asyncio.ensure_future(self._listen(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self.raw_headers = []
            await delivery.run(self._carrier(send))
        except OSError:  # the client is gone (ASGI 2.4)
            pass
        finally:
            listening.cancel()
            await delivery.close()

    async def _refuse(self, error: GaplessError, send: Send) -> None:
        """Send the error as the answer, which has not begun."""
        response = self._on_error(error)
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": response.body})

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._delivery.leave()


class _EventSource:
    """Writes frames as Server-Sent Events to an HTTP client."""

    __slots__ = ("_encoder", "_send", "direct", "encode")

    def __init__(self, encoder: Encoder, send: Send) -> None:
        self.encode: Callable[[Sequence[tuple[int, bytes]], int], bytes] = encoder.encode
        self.direct = writer_of(send)
        self._encoder = encoder
        self._send = send

    async def begin(self, after: int) -> None:
        if begin := self._encoder.begin(after):
            await self.write(begin)

    def write(self, group: bytes) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": group, "more_body": True})

    async def end(self, last: int) -> None:
        await self._send({"type": "http.response.body", "body": self._encoder.end(last), "more_body": False})

    async def cut(self, id: bytes) -> None:
        # Where the wire has no word for it, the body is left without its end, which nobody takes for the answer's.
        if frame := self._encoder.reconnect(id):
            await self._send({"type": "http.response.body", "body": frame, "more_body": False})

    async def ping(self) -> None:
        await self.write(KEEP_ALIVE)


def delivery_of(
    runner: Runner,
    streams: Streams,
    record: RunRecord,
    encoder: Callable[[RunRecord], Encoder],
    cursor: Cursor,
    *,
    merge: bool = True,
) -> Delivery | None:
    """Make what delivers "this run, from here"; None when the run has ended and the client has seen it all.

    Raises `CursorInvalid`, `CursorExpired`, `LimitReached`.
    """
    if record.expired:
        raise CursorExpired(f"the events of run {record.id} are past their retention", run_id=record.id)
    check_cursor(record, cursor)
    if record.status.ended and cursor.seq == record.last_seq:
        return None
    if runner.readers.followers_of(record.id) >= runner.limits.followers_per_run_max:
        raise LimitReached(
            f"run {record.id} has followers_per_run_max={runner.limits.followers_per_run_max} followers here",
            run_id=record.id,
            retry_after_s=5,
        )
    runner.metrics.reconnects += cursor.seq > 0
    return Delivery(runner, streams, record, encoder(record), cursor, merge=merge)


def follow(
    runner: Runner,
    streams: Streams,
    record: RunRecord,
    encoder: Callable[[RunRecord], Encoder],
    cursor: Cursor,
    *,
    location: str,
    merge: bool = True,
    on_error: Callable[[GaplessError], Response] = answer_error,
) -> Response:
    """Answer "this run, from here": a stream, or 204 when the run has ended and the client has seen it all.

    `on_error` makes the answer of an error that comes before the stream has begun. Raises `CursorInvalid`,
    `CursorExpired`, `LimitReached`.
    """
    delivery = delivery_of(runner, streams, record, encoder, cursor, merge=merge)
    if delivery is None:
        return Response(status_code=204, headers={"x-run-id": record.id})
    return EventStream(delivery, location=location, on_error=on_error)


async def settled(runner: Runner, request: Request, run: RunRecord) -> RunRecord | None:
    """Return the run's record once it has ended or waits for a person, for a route that answers then; None when the
    client has hung up before. It counts as one who follows the run for as long. Raises what following raises.
    """
    ending = asyncio.ensure_future(runner.readers.settled(run))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return ending.result() if ending.done() else None
    finally:
        leaving.cancel()
        ending.cancel()


async def _left(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
