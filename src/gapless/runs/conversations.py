"""Sessions as they are followed: the journals of their runs one after the other, and how the session stands.

A session's runs are executed in the order in which they were created. So its events are those of its first run, then
of its second, and a place in them is a place in one of its runs: nothing is kept twice, and whoever reads from a place
gets what everybody gets from there. What stands beside the events (the title, the state, which runs are queued, run or
wait) is told as it is now, whenever it is another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from gapless.errors import CursorExpired, CursorInvalid, GaplessError, RunNotFound, SessionNotFound, StoreUnavailable
from gapless.events import CustomEvent, Event, decode_event, encode_event
from gapless.fold import SESSION
from gapless.journals.contract import Store
from gapless.outage import Outage
from gapless.records import RunRecord, SessionRecord
from gapless.runs.readers import Readers, check_position
from gapless.runs.waking import Sleeper
from gapless.tasks import end_tasks

__all__ = ["LATEST", "Conversations", "Following", "SessionFollower", "SessionPlace", "place_of"]

RUNS_AT_ONCE = 50
"""Runs of which a follower that is behind is told at once."""
NEWEST_RUNS = 100
"""Runs of a watched session that followers find without asking the store."""
LOOK_AGAIN_S = 0.5
"""After a look that has failed."""

log = logging.getLogger("gapless.follow")


class SessionPlace(NamedTuple):
    """Names a place in a session: all was read up to the event `seq` of the run `run_id`, and nothing behind it.
    Without a run it is the beginning."""

    run_id: str = ""
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.run_id}:{self.seq}" if self.run_id else "0"


LATEST = SessionPlace("", -1)
"""The beginning of the run that has not ended, or where there is none the end of what there is."""


def place_of(cursor: str) -> SessionPlace:
    """Read a place in a session as an event's `cursor` names it; "0" is the beginning, "latest" is `LATEST`. Raises
    `CursorInvalid`."""
    run_id, colon, position = cursor.removesuffix(".end").rpartition(":")
    position = position.partition("~")[0]  # by which one frame at a place is told from another
    if cursor == "latest":
        return LATEST
    if not (position.isascii() and position.isdigit() and len(position) <= 15) or (bool(colon) is not bool(run_id)):
        raise CursorInvalid(f"{cursor[:128]!r} is no place in a session; send back an id as it came")
    if not run_id and int(position):
        raise CursorInvalid(f"{cursor[:128]!r} names no run: send back an id of this stream as it came")
    return SessionPlace(run_id, int(position))


class _Run(msgspec.Struct):
    """What is told of a run that has not ended."""

    id: str
    status: str
    agent: str
    created_at: int
    started_at: int | None


def _is_one(session: SessionRecord, other: SessionRecord) -> bool:
    return (session.user_id, session.created_at) == (other.user_id, other.created_at)


class Conversation:
    """A session as this process sees it, for all who follow it here."""

    def __init__(self, store: Store, session_id: str) -> None:
        self.session_id = session_id
        self.session: SessionRecord | None = None
        self.gone = False
        """There is no such session any more, or another one under its id."""
        self.active: list[RunRecord] = []
        """Its runs that have not ended, in their order."""
        self.version = 0
        """Counts up with each change. 0: it was not looked at yet."""
        self.state_version = 0
        """The version since which the state is what it is."""
        self.followers: dict[SessionFollower, None] = {}
        self._store = store
        self.newest: str | None = None
        """Its newest run."""
        self._next: dict[str, RunRecord] = {}
        """The run behind each of the newest but the last."""
        self._told: dict[tuple[int, bool], bytes] = {}
        self._heard = False
        self._at_look = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Watch the session and look at it, unless that was done. Raises `StoreUnavailable`, `StoreCorrupt`."""
        async with self._at_look:
            if not self.version:
                await self._store.watch_session(self.session_id)  # before the look, so that nothing falls between
                await self._read()

    def hear(self) -> None:
        """Look, soon, at what has changed."""
        self._heard = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name=f"gapless-session-{self.session_id}")

    async def _look(self) -> None:
        outage = Outage(log, f"session {self.session_id}: looking again")
        while self._heard and self.followers and not self.gone:
            self._heard = False
            try:
                async with self._at_look:
                    await self._read()
                outage.over()
            except GaplessError as error:
                outage.failed(error)
                self._heard = True
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _read(self) -> None:
        """Read how the session stands; one at a time. Raises `StoreUnavailable`, `StoreCorrupt`."""
        session = await self._store.get_session(self.session_id)
        if session is not None and self.session is not None and not _is_one(session, self.session):
            session = None  # another under its id; where it had no run yet, nothing else tells
        more = session is not None and await self._look_for_runs()
        active = await self._store.session_runs(self.session_id, limit=NEWEST_RUNS, active=True)
        if not self.gone and not more and session == self.session and active == self.active and self.version:
            return
        self.gone = self.gone or session is None
        self.version += 1
        if self.session is None or session is None or session.state != self.session.state:
            self.state_version = self.version
        self.session, self.active = session, active
        self._told.clear()
        for follower in self.followers:
            follower.changed()

    async def _look_for_runs(self) -> bool:
        if not self.version:
            newest = await self._store.list_runs(session_id=self.session_id, limit=1)
            self.newest = newest[0].id if newest else None
        more = False
        while True:
            try:
                runs = await self._store.session_runs(self.session_id, self.newest, RUNS_AT_ONCE)
            except RunNotFound:  # the session was deleted, and there may be another under its id
                self.gone = True
                return False
            for run in runs:
                if self.newest is not None:
                    self._next[self.newest] = run
                    if len(self._next) > NEWEST_RUNS:
                        del self._next[next(iter(self._next))]
                self.newest = run.id
                more = True
            if len(runs) < RUNS_AT_ONCE:
                return more

    async def behind(self, run_id: str | None) -> list[RunRecord]:
        """Find some of the runs behind one, or from the first on; none where it is the newest. One that has ended is
        read anew: its events may be past their retention meanwhile."""
        run = None if run_id is None else self._next.get(run_id)
        if run is not None and any(one.id == run.id for one in self.active):
            return [run]
        if self.version and run_id == self.newest:
            return []
        return await self._store.session_runs(self.session_id, run_id, RUNS_AT_ONCE)

    async def record(self, run_id: str) -> RunRecord:
        """Return the record of one of its runs. Raises `CursorInvalid`."""
        run = await self._store.get_run(run_id)
        if run is None or run.session_id != self.session_id:
            raise CursorInvalid(f"session {self.session_id} has no run {run_id[:128]!r}; send back an id as it came")
        return run

    def news(self, *, state: bool) -> bytes:
        """Say how the session stands, as an event; the state only where it may be new."""
        assert self.session is not None, "one that is gone is not told of"
        key = (self.version, state)
        if key not in self._told:
            session: dict[str, Any] = msgspec.to_builtins(self.session)
            session.setdefault("title", "")
            if state:
                session.setdefault("state", {})
            else:
                session.pop("state", None)
            runs = [_Run(run.id, run.status.value, run.agent, run.created_at, run.started_at) for run in self.active]
            value = {"session": session, "runs": msgspec.to_builtins(runs)}
            self._told[key] = encode_event(CustomEvent(name=SESSION, value=value))
        return self._told[key]

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            await end_tasks([self._looking])


class Conversations:
    """Reads any session of the store, wherever its runs execute."""

    def __init__(self, store: Store, readers: Readers) -> None:
        self._store = store
        self._readers = readers
        self._watched: dict[str, Conversation] = {}

    def hear(self, session_id: str) -> None:
        """Hear from the store that a session may have changed."""
        if (conversation := self._watched.get(session_id)) is not None:
            conversation.hear()

    def followers_of(self, session_id: str) -> int:
        """Count those who follow a session at this worker."""
        conversation = self._watched.get(session_id)
        return 0 if conversation is None else len(conversation.followers)

    def following(self, session_id: str, after: SessionPlace) -> Following:
        """Follow a session from a place: `async with conversations.following("s1", place) as follower`. Entering raises
        `SessionNotFound`, `CursorInvalid`, `CursorExpired`, `StoreUnavailable`."""
        return Following(self, session_id, after)

    async def events(self, session_id: str, after: SessionPlace) -> AsyncGenerator[tuple[str, Event], None]:
        """Yield a session's events with the places behind them, and how it stands whenever that is new, until it is
        deleted. Raises what entering `following` raises, and what following a run raises."""
        async with self.following(session_id, after) as follower:
            while not follower.gone:
                version = follower.version
                while (news := follower.news()) is not None:
                    yield str(follower.place), decode_event(news)
                found = await follower.next_run()
                if found is None:
                    await follower.wait(version)
                    continue
                run, seq = found
                async with self._readers.reading(run, seq) as reader:
                    follower.on_change = reader.nudge
                    try:
                        while (news := follower.news()) is not None:
                            yield str(follower.place), decode_event(news)
                        while (part := await reader.next()) is not None:
                            for seq, event in enumerate(part.events, part.first_seq):
                                follower.place = SessionPlace(run.id, seq)
                                yield str(follower.place), decode_event(event)
                            while (news := follower.news()) is not None:
                                yield str(follower.place), decode_event(news)
                    finally:
                        follower.on_change = None
                follower.has_read(run.id)

    async def page(self, session_id: str, after: SessionPlace, limit: int) -> list[tuple[SessionPlace, bytes]]:
        """Read at most `limit` events behind a place, each with its own; only the end is empty. Raises what entering
        `following` raises."""
        found: list[tuple[SessionPlace, bytes]] = []
        async with self.following(session_id, after) as follower:
            while len(found) < limit and (one := await follower.next_run()) is not None:
                run, seq = one
                events = await self._readers.page(run.id, seq, limit - len(found))
                found += [(SessionPlace(run.id, at), event) for at, event in enumerate(events, seq + 1)]
                if events:
                    follower.place = found[-1][0]
                    continue
                run = await self._readers.record(run.id)
                if run.last_seq > seq:
                    continue
                if not run.status.ended:
                    break
                follower.has_read(run.id)
        return found

    def find(self, session_id: str) -> Conversation:
        """Return the session as it is seen here."""
        conversation = self._watched.get(session_id)
        if conversation is None or conversation.gone:
            conversation = self._watched[session_id] = Conversation(self._store, session_id)
        return conversation

    async def release(self, follower: SessionFollower, conversation: Conversation) -> None:
        """Count one follower less; the last one lets the session go."""
        conversation.followers.pop(follower, None)
        session_id = conversation.session_id
        if conversation.followers or self._watched.get(session_id) is not conversation:
            return
        del self._watched[session_id]
        await conversation.close()
        try:
            if session_id not in self._watched:
                await self._store.unwatch_session(session_id)
        except StoreUnavailable as error:  # what is still told of it is dropped
            log.warning("session %s: %s", session_id, error)

    async def close(self) -> None:
        """Look at nothing any more. Idempotent."""
        for conversation in tuple(self._watched.values()):
            await conversation.close()


class SessionFollower(Sleeper):
    """One reader of a session: a place in it that moves, from run to run."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__()
        self.place = SessionPlace()
        """Behind what was read last; whoever reads a run's events moves it."""
        self.conversation = conversation
        self._behind: str | None = None
        """The run that was read to its end."""
        self._ahead: deque[RunRecord] = deque()
        self.told = 0
        """The version of which was told last how the session stands."""

    @property
    def gone(self) -> bool:
        """Returns whether the session was deleted."""
        return self.conversation.gone

    @property
    def version(self) -> int:
        """Returns a number that counts up with each change of the session."""
        return self.conversation.version

    @property
    def has_news(self) -> bool:
        """Returns whether it is still to be told how the session stands."""
        return self.told != self.conversation.version and not self.conversation.gone

    def news(self) -> bytes | None:
        """Say how the session stands, as an event; None where that was told."""
        conversation, before = self.conversation, self.told
        if not self.has_news:
            return None
        self.told = conversation.version
        return conversation.news(state=conversation.state_version > before)

    async def next_run(self) -> tuple[RunRecord, int] | None:
        """Find the run to be read now, and after which of its events; None where there is none yet. It is this one
        until `has_read`. One whose events are past their retention is passed over. Raises `StoreUnavailable`."""
        while True:
            if not self._ahead:
                try:
                    self._ahead.extend(await self.conversation.behind(self._behind))
                except RunNotFound:  # with its session, as will be heard in a moment
                    return None
                if not self._ahead:
                    return None
            run = self._ahead[0]
            seq = self.place.seq if self.place.run_id == run.id else 0
            if not run.expired or seq:
                return run, seq
            self.has_read(run.id)

    def has_read(self, run_id: str) -> None:
        """Go on behind the run, which has ended."""
        self._behind = run_id
        self._ahead.popleft()

    async def wait(self, version: int) -> None:
        """Wait until the session is of another version, or somebody calls `wake`."""
        await self._sleep(awake=self.conversation.version != version)

    async def begin(self, after: SessionPlace) -> None:
        """Go to a place. Raises `CursorInvalid`, `CursorExpired`, `StoreUnavailable`."""
        run_id, conversation = after.run_id, self.conversation
        if after == LATEST:
            newest = conversation.active[0].id if conversation.active else conversation.newest
            if newest is None:
                return
            run_id = newest
        if not run_id:
            return
        run = await conversation.record(run_id)
        seq = after.seq if after != LATEST else run.last_seq if run.status.ended else 0
        check_position(run, seq)
        self.place = SessionPlace(run_id, seq)
        if run.status.ended and (seq == run.last_seq or (run.expired and not seq)):
            self._behind = run_id
        elif run.expired:
            raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
        else:
            self._ahead.append(run)


class Following:
    """One follower's stay at a session: it is watched and counted while this is entered."""

    def __init__(self, conversations: Conversations, session_id: str, after: SessionPlace) -> None:
        self.conversations = conversations
        self._session_id = session_id
        self._after = after
        self._follower: SessionFollower | None = None

    async def __aenter__(self) -> SessionFollower:
        conversation = self.conversations.find(self._session_id)
        follower = self._follower = SessionFollower(conversation)
        conversation.followers[follower] = None
        try:
            await conversation.open()
            if conversation.gone:
                raise SessionNotFound(f"no session {self._session_id}")
            await follower.begin(self._after)
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
        await self.conversations.release(follower, follower.conversation)
