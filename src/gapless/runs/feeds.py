"""What goes on with a user's sessions, lightly: which changed, how each stands, and nothing of what is said in them.

Of each session that has changed the feed keeps how it stands, under a number that counts up: who reads from a number
on gets each once, as it is now, however often it has changed meanwhile, and costs the feed nothing while not reading.
It keeps the newest `FEED_SESSIONS_MAX` of them, in this process; who comes back from before that, or from another
worker, is told to read the list anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from types import TracebackType

from gapless.errors import GaplessError, LimitReached, StoreUnavailable
from gapless.journals.contract import EVERYONE, Store
from gapless.outage import Outage
from gapless.records import RunRecord, SessionRecord
from gapless.runs.waking import Sleeper
from gapless.tasks import end_tasks

__all__ = ["EVERYONE", "Change", "FeedFollower", "FeedFollowing", "Feeds"]

FEED_SESSIONS_MAX = 1000
"""Sessions of which a feed keeps that they have changed."""
FEED_KEPT_S = 60.0
"""A feed that nobody reads goes on for so long, so that who was cut off hears what came meanwhile."""
FEEDS_KEPT_MAX = 1000
"""Feeds that nobody reads; of more, those go that were left first."""
SESSIONS_AT_ONCE = 50
"""Sessions that are looked at together."""
LOOK_S = 0.02
"""Between two looks: what changes at once is told at once."""
EVERYONES_LOOK_S = 0.1
"""And between two times that operators are told what has changed of all users' sessions."""
LOOK_AGAIN_S = 0.5
"""After a look that has failed."""

log = logging.getLogger("gapless.follow")


class Change:
    """How a session stands that has changed, as all who read the feed are told."""

    __slots__ = ("active", "bare", "encoded", "newest", "session", "session_id")

    def __init__(
        self,
        session_id: str,
        session: SessionRecord | None = None,
        active: RunRecord | None = None,
        newest: RunRecord | None = None,
        *,
        bare: bool = False,
    ) -> None:
        self.session_id = session_id
        """Of the session that has changed; "" says that the list of sessions is to be read anew."""
        self.session = session
        """None where it was deleted."""
        self.active = active
        """Its run that executes or waits, or else the one that is next."""
        self.newest = newest
        """Its newest run."""
        self.bare = bare
        """Only that it has changed is told, not how it stands."""
        self.encoded = b""
        """As clients are told, once it was made for one of them."""

    def is_as(self, other: Change | None) -> bool:
        """Return whether another one says the same."""
        mine = self.session, self.active, self.newest
        return other is not None and not self.bare and mine == (other.session, other.active, other.newest)


class Feed:
    """One user's sessions, for all who read of them here."""

    at_once, pause_s = SESSIONS_AT_ONCE, LOOK_S

    def __init__(self, store: Store, user_id: str) -> None:
        self.user_id = user_id
        self.followers: dict[FeedFollower, None] = {}
        self.letting_go: asyncio.TimerHandle | None = None
        """Nobody reads it, and this ends it."""
        self.last = 0
        """The number of the newest change."""
        self.floor = 0
        """The number behind which all changes are at hand."""
        self.changes: dict[str, tuple[int, Change]] = {}
        """By session, the newest last."""
        self.epoch = secrets.token_hex(6)
        """By which its numbers are told from those of another worker, or of an earlier feed here."""
        self._store = store
        self._dirty: dict[str, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self._opening: asyncio.Lock = asyncio.Lock()
        self._open = False

    async def open(self) -> None:
        """Watch the user's sessions, unless that was done. Raises `StoreUnavailable`."""
        async with self._opening:
            if not self._open:
                await self._store.watch_user(self.user_id)
                self._open = True

    def hear(self, session_id: str | None) -> None:
        """Look, soon, at a session that may have changed; None where what has changed was missed."""
        if session_id is None:
            self.last += 1
            self.floor = self.last
            self.changes.clear()
            self._dirty.clear()
            self._tell()
            return
        self._dirty[session_id] = None
        if len(self._dirty) > FEED_SESSIONS_MAX:
            self.hear(None)
        elif self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="gapless-feed")

    async def _look(self) -> None:
        outage = Outage(log, "a feed: looking again")
        while self._dirty:
            ids = list(self._dirty)[: self.at_once]
            for session_id in ids:
                del self._dirty[session_id]
            pause_s = self.pause_s
            try:
                found = await self._read(ids)
            except GaplessError as error:
                outage.failed(error)
                self._dirty = dict.fromkeys(ids) | self._dirty
                pause_s = LOOK_AGAIN_S
            else:
                outage.over()
                self._take(found)
            await asyncio.sleep(pause_s)

    async def _read(self, ids: list[str]) -> list[Change]:
        active = await self._store.active_runs(ids)
        found = []
        for session_id in ids:
            session = await self._store.get_session(session_id)
            if session is None or session.user_id != self.user_id:
                found.append(Change(session_id))
                continue
            session.state = {}
            runs = await self._store.list_runs(session_id=session_id, limit=1)
            found.append(Change(session_id, session, active.get(session_id), runs[0] if runs else None))
        return found

    def _take(self, found: list[Change]) -> None:
        before = self.last
        for change in found:
            _, known = self.changes.get(change.session_id, (0, None))
            if change.is_as(known):
                continue
            self.last += 1
            self.changes.pop(change.session_id, None)
            self.changes[change.session_id] = self.last, change
            if len(self.changes) > FEED_SESSIONS_MAX:
                self.floor, _ = self.changes.pop(next(iter(self.changes)))
        if self.last != before:
            self._tell()

    def _tell(self) -> None:
        for follower in self.followers:
            follower.due = True
            follower.changed()

    async def close(self) -> None:
        """Look no more."""
        if self.letting_go is not None:
            self.letting_go.cancel()
        if self._looking is not None:
            await end_tasks([self._looking])


class EveryonesFeed(Feed):
    """All users' sessions: which have changed, and nothing is read of them for it. There may be many."""

    at_once, pause_s = FEED_SESSIONS_MAX, EVERYONES_LOOK_S

    async def _read(self, ids: list[str]) -> list[Change]:
        return [Change(session_id, bare=True) for session_id in ids]


class FeedFollower(Sleeper):
    """One reader of a feed, from a cursor on: "" for who has read nothing yet."""

    def __init__(self, feed: Feed, cursor: str) -> None:
        super().__init__()
        epoch, _, number = cursor.rpartition("-")
        known = epoch == feed.epoch and number.isascii() and number.isdigit() and len(number) <= 15
        self.after = int(number) if known and int(number) <= feed.last else -1
        """The number of the change that was read last; -1 where it is not known to this feed."""
        self.due = True
        """There may be something to be read."""
        self.feed = feed

    @property
    def cursor(self) -> str:
        """Returns the place behind what was read last: a client that sends it gets what came since."""
        return f"{self.feed.epoch}-{max(0, self.after)}"

    def read(self) -> list[tuple[str, Change]]:
        """Take what is new, each with the cursor behind it."""
        feed, self.due = self.feed, False
        if self.after < feed.floor:
            self.after = feed.last
            return [(self.cursor, Change(""))]
        new: list[tuple[int, Change]] = []
        for number, change in reversed(feed.changes.values()):
            if number <= self.after:
                break
            new.append((number, change))
        self.after = feed.last
        return [(f"{feed.epoch}-{number}", change) for number, change in reversed(new)]

    async def wait(self) -> None:
        """Wait until there is more to read, or somebody calls `wake`."""
        await self._sleep(awake=self.due)


class Feeds:
    """All users' feeds at this worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: dict[str, Feed] = {}
        self._left: dict[str, None] = {}
        """Users whose feeds nobody reads; the one that was left first is first."""
        self._ending: set[asyncio.Task[None]] = set()

    def hear(self, user_id: str, session_id: str | None) -> None:
        """Hear from the store that a session of this user may have changed; None that news of some was missed."""
        if (feed := self._feeds.get(user_id)) is not None:
            feed.hear(session_id)

    def following(self, user_id: str, cursor: str, followers_max: int) -> FeedFollowing:
        """Follow a user's sessions, or `EVERYONE`'s, from a cursor, "" for from now on: `async with
        feeds.following("u", "", 9) as follower`. A cursor that is not known here is read as one that is too old. Raises
        `LimitReached` where `followers_max` follow them here; entering raises `StoreUnavailable`."""
        feed = self._feeds.get(user_id)
        if feed is not None and len(feed.followers) >= followers_max:
            raise LimitReached(f"your feed has followers_per_run_max={followers_max} followers here", retry_after_s=5)
        return FeedFollowing(self, user_id, cursor)

    def enter(self, user_id: str, cursor: str) -> FeedFollower:
        """Count one more follower."""
        feed = self._feeds.get(user_id)
        if feed is None:
            kind = EveryonesFeed if user_id == EVERYONE else Feed
            feed = self._feeds[user_id] = kind(self._store, user_id)
        if feed.letting_go is not None:
            feed.letting_go.cancel()
            feed.letting_go = None
        self._left.pop(user_id, None)
        follower = FeedFollower(feed, cursor)
        feed.followers[follower] = None
        return follower

    def leave(self, follower: FeedFollower) -> None:
        """Count one follower less. The feed goes on for a while."""
        feed = follower.feed
        feed.followers.pop(follower, None)
        if feed.followers:
            return
        feed.letting_go = asyncio.get_running_loop().call_later(FEED_KEPT_S, self._let_go, feed)
        self._left[feed.user_id] = None
        if len(self._left) > FEEDS_KEPT_MAX:
            self._let_go(self._feeds[next(iter(self._left))])

    def _let_go(self, feed: Feed) -> None:
        self._left.pop(feed.user_id, None)
        del self._feeds[feed.user_id]
        ending = asyncio.create_task(self._end(feed), name="gapless-feed-end")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, feed: Feed) -> None:
        await feed.close()
        try:
            if feed.user_id not in self._feeds:
                await self._store.unwatch_user(feed.user_id)
                if (newer := self._feeds.get(feed.user_id)) is not None:  # one that has begun to watch meanwhile
                    await self._store.watch_user(feed.user_id)
                    newer.hear(None)
        except StoreUnavailable as error:  # what is still told is dropped
            log.warning("a feed: %s", error)

    async def close(self) -> None:
        """Look at nothing any more. Idempotent."""
        for feed in self._feeds.values():
            await feed.close()
        await end_tasks(list(self._ending))


class FeedFollowing:
    """One follower's stay at a feed: it is counted while this is entered."""

    def __init__(self, feeds: Feeds, user_id: str, cursor: str) -> None:
        self._feeds = feeds
        self._user_id = user_id
        self._cursor = cursor
        self._follower: FeedFollower | None = None

    async def __aenter__(self) -> FeedFollower:
        follower = self._follower = self._feeds.enter(self._user_id, self._cursor)
        try:
            await follower.feed.open()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return follower

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._follower is not None, "it was entered"
        follower, self._follower = self._follower, None
        follower.on_change = None  # who reads by it refers to this
        self._feeds.leave(follower)
