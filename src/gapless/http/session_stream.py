"""Delivering a session: one connection that carries run after run, and how the session stands.

Each run is delivered as its own followers get it, from the same journal by the same loop; in between the connection
waits for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Send

from gapless.errors import GaplessError, LimitReached
from gapless.http.feed_stream import FEED, told
from gapless.http.stream import Delivery, EventSource, EventStream, OpenDelivery, Streams
from gapless.jsontext import with_plain_lines
from gapless.records import RunRecord
from gapless.runs.conversations import SessionFollower, SessionPlace
from gapless.runs.feeds import FeedFollower, FeedFollowing
from gapless.runs.runner import Runner
from gapless.wire import RETRY_MS, Cursor, Encoder

__all__ = ["SessionDelivery", "SessionSource", "SessionStream", "follow_session"]

NEWS_AGAIN_S = 0.25
"""A client that was not told of a change, as something was being written to it, is told so much later."""

_FED = b'{"type":"CUSTOM","name":"' + FEED.encode() + b'","value":{"cursor":"%b",%b}'

log = logging.getLogger("gapless.follow")


class SessionDelivery(OpenDelivery):
    """Delivers one session to one client, from a place in it until it is deleted."""

    __slots__ = (
        "_again",
        "_encoder_of",
        "_feeding",
        "_following",
        "_merge",
        "_part",
        "_ping_due",
        "feed",
        "follower",
        "session_id",
    )

    def __init__(
        self,
        runner: Runner,
        streams: Streams,
        session_id: str,
        encoder_of: Callable[[RunRecord], Encoder],
        after: SessionPlace,
        *,
        merge: bool,
        feed: FeedFollowing | None = None,
    ) -> None:
        super().__init__(runner, streams)
        self.session_id = session_id
        self._feeding = feed
        self.feed: FeedFollower | None = None
        """What goes on with the user's other sessions is told, too."""
        self._encoder_of = encoder_of
        self._merge = merge
        self._following = runner.worker.conversations.following(session_id, after)
        self._part: _RunDelivery | None = None
        self._ping_due = False
        self._again: asyncio.TimerHandle | None = None
        self.follower: SessionFollower

    def nudge(self) -> None:
        """Let the loop look at what has changed beside the events."""
        if self._part is not None:
            self._part.nudge()
        else:
            self.follower.wake()

    def leave(self) -> None:
        """Say that the client is gone."""
        self._gone = True
        if self._part is not None:
            self._part.leave()
        self.nudge()

    async def attach(self) -> None:
        self.follower = await self._following.__aenter__()
        self.follower.on_change = self._changed
        if self._feeding is not None:
            try:
                self.feed = await self._feeding.__aenter__()
            except BaseException:
                await self._following.__aexit__(None, None, None)
                raise
            self.feed.on_change = self._changed

    async def detach(self) -> None:
        if self._again is not None:
            self._again.cancel()
        if (part := self._part) is not None:
            self._part = None  # each refers to the other
            await part.detach()
        if self._feeding is not None:
            await self._feeding.__aexit__(None, None, None)
        await self._following.__aexit__(None, None, None)

    @property
    def is_lasting(self) -> bool:
        return True

    @property
    def is_draining(self) -> bool:
        """Returns whether this worker sends its clients elsewhere."""
        return self._streams.draining

    @property
    def place(self) -> SessionPlace:
        """Returns the place behind what the client has got last."""
        return self.follower.place if self._part is None else self._part.place

    async def run(self, carrier: SessionSource) -> bool:
        """Carry the session's events until it is deleted, or the client or this worker goes; False where those of a run
        are carried without a task from here on, as long as it goes on: then this is called again. Where a run cannot be
        read on, the connection ends, and the client comes back."""
        follower = self.follower
        try:
            if self._part is not None:
                await carrier.tell_news()
                if not await self._deliver(carrier, self._part, self._part.rest_of_run()):
                    return False
            while not self._gone and not carrier.closed:
                version = follower.version
                await carrier.tell_news()
                if self.is_draining:
                    await carrier.cut(str(follower.place).encode())
                elif follower.gone:
                    await carrier.finish()
                elif (found := await follower.next_run()) is not None:
                    part = await self._begin(carrier, *found)
                    if not await self._deliver(carrier, part, part.run(carrier)):
                        return False
                else:
                    if self.feed is None or not self.feed.due:
                        await follower.wait(version)
                    if self._ping_due:
                        self._ping_due = False
                        await carrier.ping()
        except GaplessError as error:
            log.warning("session %s: a follower at %s was cut off: %s", self.session_id, follower.place, error)
            with contextlib.suppress(OSError):
                await carrier.cut(str(follower.place).encode())
        return True

    async def _begin(self, carrier: SessionSource, run: RunRecord, seq: int) -> _RunDelivery:
        part = _RunDelivery(self, run, self._encoder_of(run), Cursor(seq), merge=self._merge)
        await part.attach()
        if self._gone:  # which the part has not heard
            part.leave()
        self._part, carrier.encode, carrier.run_ended = part, part.encoder.encode, False
        return part

    async def _deliver(self, carrier: SessionSource, part: _RunDelivery, carrying: Coroutine[Any, Any, bool]) -> bool:
        """Carry a run, to its end; False where it goes on without a task."""
        through = True
        try:
            through = await carrying
        finally:
            if through:
                self.follower.place, self._part = part.place, None
                await part.detach()
        if carrier.run_ended:
            self.follower.has_read(part.run_id)
        return through

    def _changed(self) -> None:
        """Have it told how the session stands. A nudge is not heard while a write is under way: so once more, until it
        is told, or the client is gone."""
        self.nudge()
        if self._again is None and not self._gone:
            self._again = asyncio.get_running_loop().call_later(NEWS_AGAIN_S, self._change_again)

    def _change_again(self) -> None:
        self._again = None
        if self.follower.has_news or (self.feed is not None and self.feed.due):
            self._changed()

    def look(self) -> None:
        if self._part is not None:
            self._part.look()
        else:
            self._ping_due = True
            self.follower.wake()


class _RunDelivery(Delivery):
    """Delivers one run of a session, on the session's connection."""

    __slots__ = ("_session",)
    _carrier: SessionSource

    def __init__(
        self, session: SessionDelivery, run: RunRecord, encoder: Encoder, cursor: Cursor, *, merge: bool
    ) -> None:
        super().__init__(session._runner, session._streams, run, encoder, cursor, merge=merge)
        self._session = session
        self._lasts = True

    @property
    def place(self) -> SessionPlace:
        assert self._follower is not None, "it was opened"
        return SessionPlace(self.run_id, self._follower.after)

    def rest(self) -> Coroutine[Any, Any, bool]:
        return self._session.run(self._carrier)

    def rest_of_run(self) -> Coroutine[Any, Any, bool]:
        """Carry on this run; `rest` does that, and what the session has beside it and behind it."""
        return super().rest()

    async def close(self) -> None:
        await self._session.close()

    async def _idle(self, carrier: Any) -> None:
        if not await carrier.tell_news():
            await super()._idle(carrier)
            await carrier.tell_news()  # a nudge that comes meanwhile is not heard


class SessionSource(EventSource):
    """Writes a session's frames so."""

    __slots__ = (
        "_conversation",
        "_delivery",
        "_feed",
        "_follower",
        "_retry",
        "_told_at",
        "closed",
        "encode",
        "run_ended",
    )

    def __init__(self, delivery: SessionDelivery, send: Send) -> None:
        super().__init__(send)
        self.encode: Callable[[Sequence[tuple[int, bytes]], int], bytes]
        """As the encoder of the run has it."""
        self.run_ended = False
        """The run was carried to its end."""
        self.closed = False
        """The body has ended."""
        self._delivery = delivery
        self._follower = delivery.follower
        self._conversation = delivery.follower.conversation
        self._feed = delivery.feed
        self._retry = b"\nretry: %d" % RETRY_MS
        self._told_at = 0

    def take(self, on_lost: Callable[[], None]) -> bool:
        if not super().take(self._delivery.leave):  # it is the session's, and not the run's that is being carried
            return False
        self._delivery.listen_no_more()
        return True

    async def begin(self, after: int) -> None:
        await self.tell_news()

    def write(self, group: bytes) -> Awaitable[None]:
        if self._follower.told != self._conversation.version or (self._feed is not None and self._feed.due):
            return self._write_and_tell(group)
        return self._send({"type": "http.response.body", "body": group, "more_body": True})

    async def _write_and_tell(self, group: bytes) -> None:
        await super().write(group)
        await self.tell_news()

    async def tell_news(self) -> bool:
        """Say how the session stands, and what the feed says, unless that was said; whether it was now."""
        said = False
        while (news := self._follower.news()) is not None:  # and once more, where that is another meanwhile
            said = True
            await self._say(with_plain_lines(news))
        if self._feed is not None and self._feed.due:
            for cursor, data in told(self._feed):
                said = True
                await self._say(_FED % (cursor.encode(), data[1:]))
        return said

    async def _say(self, event: bytes) -> None:
        """Send an event that is none of a run's. The client's place stays, and the frame has an id of its own: readers
        take one whose id they know for one that they have."""
        retry, self._retry = self._retry, b""
        self._told_at = max(self._told_at + 1, time.time_ns() // 1000)
        id = b"%b~%x" % (str(self._delivery.place).encode(), self._told_at)
        await super().write(b"data: %b%b\nid: %b\n\n" % (event, retry, id))

    async def end(self, last: int, group: bytes | None = None) -> None:
        if group:
            await self.write(group)
        self.run_ended = True

    async def finish(self) -> None:
        """Say that there is no more: the session is gone."""
        await self._close(b"event: end\nid: %b.end\n\n" % str(self._delivery.place).encode())

    async def cut(self, id: bytes) -> None:
        if self._follower.gone:  # with its runs: there is nothing to come back to
            await self.finish()
        elif self._delivery.is_draining:
            await self._close(b"event: reconnect\ndata: {}\nid: %b\n\n" % id)
        else:  # clients take the news for progress: told to come back at once, they would do nothing else
            await self._close(b"")

    async def _close(self, frame: bytes) -> None:
        self.closed = True
        await self._send({"type": "http.response.body", "body": frame, "more_body": False})


class SessionStream(EventStream):
    """Carries a session's delivery as Server-Sent Events."""

    def __init__(self, delivery: SessionDelivery, *, location: str) -> None:
        self._session = delivery
        self._begin(delivery, {"content-location": location, "location": location})

    def _carrier(self, send: Send) -> SessionSource:
        return SessionSource(self._session, send)


def follow_session(
    runner: Runner,
    streams: Streams,
    session_id: str,
    encoder_of: Callable[[RunRecord], Encoder],
    after: SessionPlace,
    *,
    location: str,
    merge: bool = True,
    feed: FeedFollowing | None = None,
) -> Response:
    """Answer "this session, from here"; with `feed` what that says, too. Raises `LimitReached`; the stream itself
    answers what following raises."""
    most = runner.limits.followers_per_run_max
    if runner.worker.conversations.followers_of(session_id) >= most:
        raise LimitReached(f"session {session_id} has followers_per_run_max={most} followers here", retry_after_s=5)
    runner.metrics.reconnects += after.seq > 0
    return SessionStream(
        SessionDelivery(runner, streams, session_id, encoder_of, after, merge=merge, feed=feed), location=location
    )
