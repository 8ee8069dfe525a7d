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
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gapless.errors import CursorExpired, GaplessError, LimitReached
from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome, decode_event
from gapless.http.answers import answer_error
from gapless.http.cursors import check_cursor
from gapless.http.direct import Direct, DirectWriter, TakenConnection, chunk_of, tell_if_lost, until_lost, writer_of
from gapless.http.later import Later
from gapless.http.scope import DEFERRED, SERVERS_RECEIVE, WATCHED
from gapless.records import RunRecord, now_ms
from gapless.runs.readers import Follower, Journal, merge_deltas
from gapless.runs.runner import Runner
from gapless.wire import KEEP_ALIVE, Cursor, Encoder

__all__ = [
    "PING_S",
    "Carrier",
    "Delivery",
    "EventSource",
    "EventStream",
    "OpenDelivery",
    "Streams",
    "delivery_of",
    "follow",
]

PING_S = 10.0
"""A connection that was silent since the last look, this long ago, gets a keep-alive."""

LASTS_S = 0.1
"""An answer that is still under way after this lasts, and one of a run that has been for so long. From then on it is
listened whether its client leaves, and a connection is taken from the HTTP machinery: of a short answer either would be
a good part of the work."""

_FINISHED = b'{"type":"RUN_FINISHED"'
_LETTER = len(b'{"type":"R')
_U = _FINISHED[_LETTER]
"""No delta has this letter there. It is looked at first: `startswith` is 900 instructions, for each word."""

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

log = logging.getLogger("gapless.follow")


class OpenDelivery(ABC):
    """An open delivery: counted, sent away with the others, kept alive."""

    __slots__ = ("_gone", "_listen", "_runner", "_streams")

    def __init__(self, runner: Runner, streams: Streams) -> None:
        self._runner = runner
        self._streams = streams
        self._gone = False
        self._listen: Callable[[], None] = _nothing

    async def open(self, listen: Callable[[], None] | None = None) -> None:
        """Attach to what is delivered; `close` has to follow. `listen` is called once the answer lasts, and again
        and again, and has `leave` called when the client is gone. Raises what following raises."""
        await self.attach()
        self._listen = listen or _nothing
        self._streams.enter(self, lasting=self.is_lasting)
        self._runner.metrics.followers += 1

    async def close(self) -> None:
        """Let go of it, and of what would keep it, and its request, until the collector of cycles comes."""
        self._gone, self._listen = True, _nothing
        self._streams.leave(self)
        self._runner.metrics.followers -= 1
        await self.detach()

    @property
    def is_lasting(self) -> bool:
        """Returns whether it is known as it is opened that its answer lasts."""
        return False

    @abstractmethod
    async def attach(self) -> None:
        """Attach, as part of another delivery that is open; `detach` has to follow."""

    @abstractmethod
    async def detach(self) -> None:
        """Let go."""

    @abstractmethod
    def run(self, carrier: Any) -> Coroutine[Any, Any, bool]:
        """Carry what there is, to the end; False where it goes on by itself, to its close."""

    @abstractmethod
    def nudge(self) -> None:
        """Let its loop look at what has changed beside the events."""

    @abstractmethod
    def leave(self) -> None:
        """Hear that the client is gone."""

    @abstractmethod
    def look(self) -> None:
        """Keep the connection alive, if it was silent since the last look."""

    def lasts(self) -> None:
        """Hear that the answer lasts."""
        self._listen()

    def listen_no_more(self) -> None:
        """Hear that the connection was taken: it says itself when it is lost, and nothing of its request is kept."""
        self._listen = _nothing


def _nothing() -> None: ...


class Streams:
    """The open deliveries of one app, so that all of its clients can be told to reconnect elsewhere."""

    def __init__(self) -> None:
        self.draining = False
        self.closing: asyncio.Future[None] | None = None
        """The runner's end, where no lifespan sees to it."""
        self.cancelling: frozenset[str] = frozenset()
        """Families of clients whose hang-up cancels their run."""
        self._new, self._lasting = Later(self._lasts), Later(self._look)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> list[OpenDelivery]:
        """Returns the deliveries that are open."""
        return [*self._new.due, *self._lasting.due]

    def drain(self) -> None:
        """End every connection, not its run: clients come back, to another worker or to the next one here."""
        self.draining = True
        for delivery in self.open:
            delivery.nudge()

    def enter(self, delivery: OpenDelivery, *, lasting: bool) -> None:
        """Have an open delivery drained with the others, told when it lasts, or that it does, and looked at every
        `PING_S` seconds from then on."""
        if lasting:
            self._lasts(delivery)
        else:
            self._new.add(delivery, LASTS_S)

    def leave(self, delivery: OpenDelivery) -> None:
        """Forget a delivery that is closed."""
        if self._new.due.pop(delivery, None) is None:
            self._lasting.due.pop(delivery, None)

    def _lasts(self, delivery: OpenDelivery) -> None:
        self._lasting.add(delivery, PING_S)  # first: one that fails is still drained, and left, with the others
        delivery.lasts()

    def _look(self, delivery: OpenDelivery) -> None:
        self._lasting.add(delivery, PING_S)
        delivery._listen()
        delivery.look()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something of a delivery in a task of its own."""
        task = asyncio.create_task(work, name="gapless-delivery")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Carrier(Protocol):
    """What carries a delivery to its client. A write raises `OSError` when the client is gone."""

    direct: Direct | None
    """Writes what `encode` made without waiting, where the connection can."""

    encode: Callable[[Sequence[tuple[int, bytes]], int], Any]
    """(position, event) pairs, of which the first frames may be left out → what `write` takes: empty for no frame."""

    def take(self, on_lost: Callable[[], None]) -> bool:
        """Take the connection from the server, if it can be, to carry on without a task; asked again it is taken."""

    def drop(self) -> None:
        """Close a connection that was taken, unless its answer is whole."""

    async def begin(self, after: int) -> None:
        """Say what goes out before the first frame, at once."""

    def write(self, group: Any) -> Awaitable[None]:
        """Write the frames of one wake-up, at once."""

    async def end(self, last: int, group: Any = None) -> None:
        """Write the last frames, if there are any, and say that there is no more: the last event was at this
        position."""

    async def cut(self, id: bytes) -> None:
        """End the connection and not the run: the client is to come back, and go on after the frame with this id."""

    async def ping(self) -> None:
        """Keep a silent connection alive."""


class _Touched(OpenDelivery):
    """Has what each event touches, side by side, as `Journal` has."""

    __slots__ = ("_direct", "_encoder", "_journal", "_sent", "_stateless")


class Delivery(_Touched):
    """Delivers one run to one client, from a cursor to the run's end, by whatever carries it."""

    __slots__ = (
        "_carrier",
        "_cursor",
        "_follower",
        "_lasts",
        "_merge",
        "_reading",
        "_voids",
        "run_id",
    )

    def __init__(
        self, runner: Runner, streams: Streams, record: RunRecord, encoder: Encoder, cursor: Cursor, *, merge: bool
    ) -> None:
        super().__init__(runner, streams)
        self.run_id = record.id  # and not the record: a waiting follower keeps little
        self._encoder = encoder
        self._stateless, self._voids = encoder.stateless, encoder.voids
        self._cursor = cursor
        coalesce_ms = None if record.config is None else record.config.coalesce_ms
        self._reading = runner.readers.reading(record, cursor.seq, coalesce_s=(coalesce_ms or 0.0) / 1000)
        self._merge = merge
        self._sent = False
        """Something went out since the last look."""
        self._lasts = _has_lasted(record)
        """Its loop has to see whether it can do without a task, and if not have it listened."""
        self._follower: Follower | None = None
        self._journal: Journal
        self._carrier: Carrier
        self._direct: Direct

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

    @property
    def is_lasting(self) -> bool:
        return self._lasts

    async def attach(self) -> None:
        self._follower = await self._reading.__aenter__()
        self._journal = self._follower.journal

    async def detach(self) -> None:
        self._follower = None  # which refers to this, as what it pushes to
        await self._reading.__aexit__(None, None, None)

    def lasts(self) -> None:
        self._lasts = self._sent = True  # which is no time for a keep-alive
        self.nudge()

    def look(self) -> None:
        if self._follower is None or not self._follower.is_live or not self._direct.ready or self._is_to_be_taken():
            self.nudge()
            return
        if not self._sent:
            self._direct.transport.write(chunk_of(KEEP_ALIVE))
        self._sent = False

    def _waits_to_be_taken(self) -> bool:
        """Return whether its connection can be taken once the client reads."""
        return not self._direct.ready and self._is_to_be_taken()

    def _is_to_be_taken(self) -> bool:
        """Return whether its loop could not take its connection when the answer came to last. Maybe it can now."""
        return self._lasts and not isinstance(self._direct, TakenConnection)

    def run(self, carrier: Carrier) -> Coroutine[Any, Any, bool]:
        """Carry the events to the end of the run, or until the client or this worker goes; False where they are carried
        without a task from here on. Where the run cannot be read on, the client is told to come back, and gets what is
        wrong as a status then."""
        follower, self._carrier = self._follower, carrier
        assert follower is not None, "it was opened"
        return self._carry(carrier, follower, beginning=True)

    async def _carry(self, carrier: Carrier, follower: Follower, *, beginning: bool = False) -> bool:
        encoder, streams = self._encoder, self._streams
        skip_parts, pauses, journal = 0, encoder.pauses, follower.journal
        push, waited = None, -1
        if carrier.direct is not None:
            self._direct, push = carrier.direct, self._push
        try:  # all in one coroutine: each one more would be resumed with every word
            if beginning:
                skip_parts = self._cursor.part
                await carrier.begin(follower.after)
                if self._cursor.seq and not encoder.stateless:
                    await self._fold_prefix(self._cursor.seq)
            while not self._gone:
                if streams.draining:
                    await carrier.cut(self._place(follower.after, skip_parts))
                    return True
                if self._lasts:
                    if self._goes_on_alone(carrier, follower):
                        return False
                    if waited != follower.after == journal.last and push is not None and self._waits_to_be_taken():
                        waited = follower.after
                        await carrier.write(b"")  # which waits for the client
                        continue
                part = await follower.next(push)
                if part is None:
                    await carrier.end(follower.after)
                    return True
                events = part.events
                if not events:
                    await self._idle(carrier)
                    continue
                group = self._group(carrier, part.first_seq, events, part.behind, skip_parts)
                skip_parts = 0
                ends = journal.closed and follower.after >= journal.last
                if ends or (pauses and events[-1].startswith(_FINISHED) and _is_pause(events[-1], follower)):
                    await carrier.end(follower.after, group)
                    return True
                if group:
                    self._sent = True
                    await carrier.write(group)
        except GaplessError as error:
            log.warning("run %s: a follower at %d was cut off: %s", self.run_id, follower.after, error)
            with contextlib.suppress(OSError):
                await carrier.cut(self._place(follower.after, skip_parts))
        return True

    def _goes_on_alone(self, carrier: Carrier, follower: Follower) -> bool:
        """Follow live without a task, if nothing is unread and the connection can be taken: it says itself when it is
        lost. Whatever there is to do beside the events starts one, which ends when nothing is unread again."""
        if carrier.direct is None:
            self._lasts = False
        elif follower.go_live(self._push, self._go_on):
            if carrier.take(self.leave):
                self._direct = carrier.direct
                self.listen_no_more()
                return True
            follower.stay()
        self._listen()
        return False

    def _go_on(self, error: Exception | None) -> None:
        self._streams.spawn(self._carry_on(error))

    async def _carry_on(self, error: Exception | None) -> None:
        carrier, through = self._carrier, True
        try:
            if error is not None:
                raise error
            through = await self.rest()
        except OSError:  # the client is gone
            pass
        except Exception as failure:
            log.critical("run %s: a delivery failed: %s", self.run_id, type(failure).__name__, exc_info=failure)
        finally:
            if through:
                carrier.drop()
                await self.close()

    def rest(self) -> Coroutine[Any, Any, bool]:
        """Carry on as `run` does, which has returned False, for as long as it takes a task."""
        assert self._follower is not None, "it was opened"
        return self._carry(self._carrier, self._follower)

    def _push(self, first_seq: int, events: list[bytes]) -> bool:
        """Write these events at once, if the client takes them and the loop has nothing to do beside."""
        direct, event = self._direct, events[-1]
        if not direct.ready or (event[_LETTER] == _U and event.startswith(_FINISHED)):
            return False
        if self._stateless and self._journal.followers > 1:
            of, kind, chunk = self._journal.encoded
            if of is not events or kind is not type(self._encoder):
                chunk = self._shared(first_seq, events)
            if chunk:
                self._sent = True
                direct.transport.write(chunk)
            return True
        if len(events) == 1:
            group = self._encoder.encode_one(first_seq, event)
        else:
            group = self._encode(self._carrier, first_seq, events, False, 0)
        if group:
            self._sent = True
            direct.transport.write(b"%x\r\n%b\r\n" % (len(group), group))  # as `chunk_of` does, without a call for each
        return True

    def _shared(self, first_seq: int, events: list[bytes]) -> bytes:
        """Return one write for these events, which are being given to all who follow live: made once for each wire."""
        group = self._encode(self._carrier, first_seq, events, False, 0)
        chunk = chunk_of(group) if group else b""
        self._journal.encoded = events, type(self._encoder), chunk
        return chunk

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
        journal = self._journal
        merge = behind and self._merge and not skip_parts
        if not self._stateless or journal.followers == 1:
            return self._encode(carrier, first_seq, events, merge, skip_parts)
        key, kind = (first_seq, len(events), merge), (type(carrier), type(self._encoder))
        if journal.encoded[:2] != (key, kind):
            journal.encoded = (key, kind, self._encode(carrier, first_seq, events, merge, skip_parts))
        return journal.encoded[2]

    def _encode(self, carrier: Carrier, first_seq: int, events: list[bytes], merge: bool, skip_parts: int) -> Any:
        items: Sequence[tuple[int, bytes]]
        if merge:
            items = merge_deltas(first_seq, events)
            self._runner.metrics.events_merged += len(events) - len(items)
        else:
            items = list(enumerate(events, first_seq))
        return carrier.encode(items if self._voids else self._encoder.sayable(items), skip_parts)

    async def _fold_prefix(self, until: int) -> None:
        """Let a wire that folds see what the client has seen."""
        async for events in self._runner.readers.pages(self.run_id, until=until):
            said = self._encoder.sayable([(0, event) for event in events])
            self._encoder.skip(event for _, event in said)


def _has_lasted(run: RunRecord) -> bool:
    """Return whether a run that goes on has begun so long ago that an answer would last by now."""
    return run.started_at is not None and not run.status.ended and now_ms() - run.started_at >= LASTS_S * 1000


def _is_pause(event: bytes, follower: Follower) -> bool:
    """Return whether the run waits for a person now, and did not only at some time before."""
    decoded = decode_event(event)
    return (
        isinstance(decoded, RunFinishedEvent)
        and isinstance(decoded.outcome, RunFinishedInterruptOutcome)
        and follower.after >= follower.journal.last  # past it: the store was read before this process was told
    )


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
        delivery: OpenDelivery,
        headers: Mapping[str, str],
        on_error: Callable[[GaplessError], Response] = answer_error,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._delivery = delivery
        self._on_error = on_error
        self.raw_headers = [*_HEADERS, *((name.encode(), value.encode("latin-1")) for name, value in headers.items())]

    def _carrier(self, send: Send) -> Any:
        return _RunSource(self._encoder, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deferred = scope.get(DEFERRED)
        if deferred is None or scope.get(WATCHED) is not None:
            await self.stream(receive, send, scope.get(SERVERS_RECEIVE))
        else:
            deferred.append(self)

    async def stream(self, receive: Receive, send: Send, servers: Receive | None = None) -> None:
        """Serve the whole of the connection, from its headers to its end; `servers` is the server's own `receive`."""
        delivery, listening, through = self._delivery, list[asyncio.Future[None]](), True

        def listen() -> None:
            if not listening:
                listening.append(asyncio.ensure_future(self._listen(receive)))
            else:
                tell_if_lost(servers or receive)

        try:
            await delivery.open(listen)
        except GaplessError as error:
            await self._refuse(error, send)
            return
        try:
            with until_lost:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self.raw_headers = []
                through = await delivery.run(self._carrier(send))
        finally:
            for task in listening:
                task.cancel()
            if through:
                await delivery.close()

    async def _refuse(self, error: GaplessError, send: Send) -> None:
        """Send the error as the answer, which has not begun."""
        response = self._on_error(error)
        with until_lost:
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": response.body})

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._delivery.leave()


class EventSource:
    """Writes frames as Server-Sent Events to an HTTP client."""

    __slots__ = ("_send", "direct")

    def __init__(self, send: Send) -> None:
        self.direct: Direct | None = writer_of(send)
        self._send = send

    def take(self, on_lost: Callable[[], None]) -> bool:
        if isinstance(self.direct, DirectWriter) and (taken := self.direct.take(on_lost)) is not None:
            self.direct, self._send = taken, taken.send
        return isinstance(self.direct, TakenConnection)

    def drop(self) -> None:
        if isinstance(self.direct, TakenConnection):
            self.direct.close()

    def write(self, group: bytes) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": group, "more_body": True})

    async def ping(self) -> None:
        await self.write(KEEP_ALIVE)


class _RunSource(EventSource):
    """Writes a run's frames so."""

    __slots__ = ("_encoder", "encode")

    def __init__(self, encoder: Encoder, send: Send) -> None:
        super().__init__(send)
        self.encode: Callable[[Sequence[tuple[int, bytes]], int], bytes] = encoder.encode
        self._encoder = encoder

    async def begin(self, after: int) -> None:
        if begin := self._encoder.begin(after):
            await self.write(begin)

    async def end(self, last: int, group: bytes | None = None) -> None:
        body = (group or b"") + self._encoder.end(last)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def cut(self, id: bytes) -> None:
        # Where the wire has no word for it, the body is left without its end, which nobody takes for the answer's.
        if frame := self._encoder.reconnect(id):
            await self._send({"type": "http.response.body", "body": frame, "more_body": False})


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
