"""Delivering a user's feed: a connection of its own, or the same frames within a session's stream."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from starlette.responses import Response
from starlette.types import Send

from gapless.http.answers import shown_session
from gapless.http.stream import EventStream, OpenDelivery, Streams
from gapless.jsontext import with_plain_lines
from gapless.runs.feeds import Change, FeedFollower, FeedFollowing
from gapless.runs.runner import Runner
from gapless.wire import KEEP_ALIVE, RETRY_MS

__all__ = ["FEED", "follow_feed", "told"]

FEED = "gapless.feed"
"""The name of the event in a session's stream that carries what the feed says."""


def told(follower: FeedFollower) -> Iterator[tuple[str, bytes]]:
    """Take what is new in the feed, each with the cursor behind it, as JSON in one line; made once for all."""
    for cursor, change in follower.read():
        if not change.encoded:
            change.encoded = with_plain_lines(msgspec.json.encode(_shown(change)))
        yield cursor, change.encoded


def _shown(change: Change) -> dict[str, object]:
    if not change.session_id:
        return {"type": "reset"}
    if change.bare:
        return {"type": "changed", "session_id": change.session_id}
    if change.session is None:
        return {"type": "deleted", "session_id": change.session_id}
    session = shown_session(change.session, change.active)
    if change.newest is not None:
        session["newest_run_id"], session["newest_run_status"] = change.newest.id, change.newest.status.value
    return {"type": "session", "session": session}


class FeedDelivery(OpenDelivery):
    """Delivers one user's feed to one client, until that leaves."""

    __slots__ = ("_following", "_ping_due", "follower")

    def __init__(self, runner: Runner, streams: Streams, following: FeedFollowing) -> None:
        super().__init__(runner, streams)
        self._following = following
        self._ping_due = False
        self.follower: FeedFollower

    def nudge(self) -> None:
        """Let the loop look at what has changed beside the feed."""
        self.follower.wake()

    def leave(self) -> None:
        """Say that the client is gone."""
        self._gone = True
        self.nudge()

    async def attach(self) -> None:
        self.follower = await self._following.__aenter__()

    async def detach(self) -> None:
        await self._following.__aexit__(None, None, None)

    async def run(self, send: Send) -> bool:
        """Carry what is new for as long as the client, and this worker, are there."""
        follower, retry = self.follower, b"\nretry: %d" % RETRY_MS
        while not self._gone:
            frames = []
            for cursor, data in told(follower):
                frames.append(b"data: %b%b\nid: %b\n\n" % (data, retry, cursor.encode()))
                retry = b""
            if frames:
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
            if self._streams.draining:
                cut = b"event: reconnect\ndata: {}\nid: %b\n\n" % follower.cursor.encode()
                await send({"type": "http.response.body", "body": cut, "more_body": False})
                break
            await follower.wait()
            if self._ping_due:
                self._ping_due = False
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        return True

    def look(self) -> None:
        self._ping_due = True
        self.nudge()


class _FeedStream(EventStream):
    """Carries a feed as Server-Sent Events."""

    def __init__(self, delivery: FeedDelivery, location: str) -> None:
        self._begin(delivery, {"content-location": location, "location": location})

    def _carrier(self, send: Send) -> Send:
        return send


def follow_feed(runner: Runner, streams: Streams, user_id: str, cursor: str, *, location: str) -> Response:
    """Answer "my sessions, from here". Raises `LimitReached`; the stream itself answers what following raises."""
    following = runner.worker.feeds.following(user_id, cursor, runner.limits.followers_per_run_max)
    return _FeedStream(FeedDelivery(runner, streams, following), location)
