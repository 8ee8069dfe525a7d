"""Serving a journal: the ASGI response that follows a run over Server-Sent Events.

One loop per connection: the follower's next events, encoded, in one `send`. `send` waits while the client does not
read, and then the follower is behind and reads on from its cursor: a slow client costs a cursor, not a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gapless.errors import CursorExpired, CursorInvalid, GaplessError, LimitReached, RunNotFound
from gapless.events import RunFinishedEvent, RunFinishedInterruptOutcome, decode_event
from gapless.http.answers import answer_error, whole_number
from gapless.records import RunRecord
from gapless.runs.readers import Follower, merge_deltas
from gapless.runs.runner import Runner
from gapless.wire import KEEP_ALIVE, Cursor, Encoder, parse_cursor

__all__ = [
    "DEFERRED",
    "EventStream",
    "Streams",
    "check_cursor",
    "check_start",
    "cursor_of",
    "follow",
    "page_params",
    "settled",
]

PAGE_LIMIT_MAX = 10_000
"""Events in one JSON page."""
PING_S = 10.0
"""A connection that was silent since the last look, this long ago, gets a keep-alive."""

_FINISHED = b'{"type":"RUN_FINISHED"'

DEFERRED = "gapless.deferred"
"""In an ASGI scope, the list in which a stream puts itself, to be run when the framework's layers have returned: those
layers would cost a waiting follower 15 KiB and each of its frames a microsecond."""

log = logging.getLogger("gapless.follow")


class Streams:
    """The open event streams of one app, so that all of them can be told to reconnect elsewhere."""

    def __init__(self) -> None:
        self.draining = False
        self.closing: asyncio.Future[None] | None = None
        """The runner's end, where no lifespan sees to it."""
        self.open: dict[EventStream, None] = {}

    def drain(self) -> None:
        """End every connection, not its run: clients come back, to another worker or to the next one here."""
        self.draining = True
        for stream in self.open:
            stream.nudge()


class EventStream(Response):
    """Follows one run from a cursor to its end."""

    media_type = "text/event-stream"

    def __init__(
        self,
        runner: Runner,
        streams: Streams,
        record: RunRecord,
        encoder: Encoder,
        cursor: Cursor,
        *,
        merge: bool = True,
        location: str,
        on_error: Callable[[GaplessError], Response] = answer_error,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._runner = runner
        self._streams = streams
        self._run_id = record.id  # and not the record: a waiting follower keeps little
        self._encoder = encoder
        self._cursor = cursor
        coalesce_ms = None if record.config is None else record.config.coalesce_ms
        self._reading = runner.readers.reading(record, cursor.seq, coalesce_s=(coalesce_ms or 0.0) / 1000)
        self._merge = merge
        self._on_error = on_error
        self._gone = False
        self._sent = False
        """Something went out since the last look."""
        self._follower: Follower | None = None
        self._pinging: asyncio.TimerHandle
        self.init_headers(
            {
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
                "content-location": location,
                "location": location,
                "x-run-id": record.id,
                **encoder.headers,
            }
        )

    def nudge(self) -> None:
        if self._follower is not None:
            self._follower.nudge()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deferred = scope.get(DEFERRED)
        if deferred is None:
            await self.stream(receive, send)
        else:
            deferred.append(self)

    async def stream(self, receive: Receive, send: Send) -> None:
        """The whole of the connection, from its headers to its end."""
        try:
            self._follower = await self._reading.__aenter__()
        except GaplessError as error:
            await self._refuse(error, send)
            return
        self._streams.open[self] = None
        metrics = self._runner.metrics
        metrics.followers += 1
        listening = asyncio.ensure_future(self._listen(receive))
        self._pinging = asyncio.get_running_loop().call_later(PING_S, self._ping)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self.raw_headers = []
            await self._stream(self._follower, send)
        except OSError:  # the client is gone (ASGI 2.4)
            pass
        except GaplessError as error:
            if self.raw_headers:
                await self._refuse(error, send)
            else:
                log.warning("run %s: a follower at %d was cut off: %s", self._run_id, self._follower.after, error)
                await self._cut(send)
        finally:
            self._gone = True
            self._pinging.cancel()
            listening.cancel()
            self._streams.open.pop(self, None)
            metrics.followers -= 1
            await self._reading.__aexit__(None, None, None)

    async def _refuse(self, error: GaplessError, send: Send) -> None:
        """The error as the answer, which has not begun."""
        response = self._on_error(error)
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            await send({"type": "http.response.body", "body": response.body})

    async def _cut(self, send: Send) -> None:
        """The client is to come back, and gets what is wrong as a status then. Where the wire has no word for that,
        the body is left without its end, which nobody takes for the answer's."""
        if frame := self._encoder.reconnect():
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": frame, "more_body": False})

    async def _stream(self, follower: Follower, send: Send) -> None:
        encoder, streams = self._encoder, self._streams
        begin = encoder.begin(follower.after)
        if begin:
            await send({"type": "http.response.body", "body": begin, "more_body": True})
        if self._cursor.seq and not encoder.stateless:
            await self._fold_prefix(self._cursor.seq)
        skip_parts = self._cursor.part
        while not self._gone:
            if streams.draining:
                await self._cut(send)
                return
            part = await follower.next()
            if part is None:
                await send({"type": "http.response.body", "body": encoder.end(follower.after), "more_body": False})
                return
            events = part.events
            if not events:
                if not self._sent and not streams.draining and not self._gone:
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                self._sent = False
                continue
            body = self._encode(part.first_seq, events, part.behind, skip_parts)
            skip_parts = 0
            if body:
                self._sent = True
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if encoder.pauses and events[-1].startswith(_FINISHED) and _is_pause(events[-1], follower):
                await send({"type": "http.response.body", "body": encoder.end(follower.after), "more_body": False})
                return

    def _encode(self, first_seq: int, events: list[bytes], behind: bool, skip_parts: int) -> bytes:
        """One write for these events; followers at the same position of a stateless wire share it."""
        encoder, journal = self._encoder, self._follower.journal  # type: ignore[union-attr]  # set before streaming
        merge = behind and self._merge and not skip_parts
        shared = encoder.stateless and journal.followers > 1
        if shared:
            key = (encoder.name, first_seq, len(events), merge)
            if journal.encoded[0] == key:
                return journal.encoded[1]
        items: Sequence[tuple[int, bytes]]
        if merge:
            items = merge_deltas(first_seq, events)
            self._runner.metrics.events_merged += len(events) - len(items)
        else:
            items = list(enumerate(events, first_seq))
        body = encoder.encode(encoder.sayable(items), skip_parts)
        if shared:
            journal.encoded = (key, body)
        return body

    async def _fold_prefix(self, until: int) -> None:
        """Let a wire that folds see what the client has seen."""
        async for events in self._runner.readers.pages(self._run_id, until=until):
            said = self._encoder.sayable([(0, event) for event in events])
            self._encoder.skip(event for _, event in said)

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self.nudge()

    def _ping(self) -> None:
        assert self._follower is not None
        self._pinging = asyncio.get_running_loop().call_later(PING_S, self._ping)
        self._follower.nudge()


def _is_pause(event: bytes, follower: Follower) -> bool:
    """The run waits for a person now, and did not only at some time before."""
    decoded = decode_event(event)
    return (
        isinstance(decoded, RunFinishedEvent)
        and isinstance(decoded.outcome, RunFinishedInterruptOutcome)
        and follower.after >= follower.journal.last  # past it: the store was read before this process was told
    )


def cursor_of(request: HTTPConnection, run_id: str | None) -> Cursor:
    """Where the client wants to go on: `Last-Event-ID` or `?after=`, else the start. Raises `CursorInvalid`."""
    text = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    return parse_cursor(text, run_id)


async def check_start(runner: Runner, run_id: str | None, cursor: Cursor) -> None:
    """Refuse a cursor before its request starts a run that the client would not get: there is something to go on from
    only where the run has been started before. Raises `CursorInvalid`."""
    if cursor == Cursor(0):
        return
    try:
        if run_id is not None:
            await runner.get_run(run_id)
            return
    except RunNotFound:
        pass
    raise CursorInvalid("the cursor is past the start of a run that there is not yet; leave it out", run_id=run_id)


def check_cursor(record: RunRecord, cursor: Cursor) -> None:
    """Raises `CursorInvalid` for a cursor that the run has not come to."""
    if cursor.seq + (cursor.part > 0) > record.last_seq:
        raise CursorInvalid(
            f"run {record.id}: the cursor {cursor.seq} is past its last event, {record.last_seq}", run_id=record.id
        )


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
    """The answer to "this run, from here": a stream, or 204 when the run has ended and the client has seen it all.

    `on_error` makes the answer of an error that comes before the stream has begun. Raises `CursorInvalid`,
    `CursorExpired`, `LimitReached`.
    """
    if record.expired:
        raise CursorExpired(f"the events of run {record.id} are past their retention", run_id=record.id)
    check_cursor(record, cursor)
    if record.status.ended and cursor.seq == record.last_seq:
        return Response(status_code=204, headers={"x-run-id": record.id})
    if runner.readers.followers_of(record.id) >= runner.limits.followers_per_run_max:
        raise LimitReached(
            f"run {record.id} has followers_per_run_max={runner.limits.followers_per_run_max} followers here",
            run_id=record.id,
            retry_after_s=5,
        )
    runner.metrics.reconnects += cursor.seq > 0
    return EventStream(
        runner, streams, record, encoder(record), cursor, merge=merge, location=location, on_error=on_error
    )


async def settled(runner: Runner, request: Request, run: RunRecord) -> RunRecord | None:
    """The run's record once it has ended or waits for a person, for a route that answers then; None when the client
    has hung up before. It counts as one who follows the run for as long. Raises what following raises."""
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


def page_params(request: Request) -> tuple[int, int]:
    """`?after=` and `?limit=` of a JSON page of events. Raises `InputInvalid`."""
    return whole_number(request, "after", 0), whole_number(request, "limit", 1000, least=1, most=PAGE_LIMIT_MAX)
