"""Sessions as a whole in PostgreSQL: their runs in order, and who is told that something of one has changed.

A session is watched as a run is, in the same table and told of in the same notifications, under a number that is made
of its id and is no run's row's. A hint may be lost with whoever was to give it: what it was of is found by a slow poll.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable

from gapless.errors import RunNotFound
from gapless.journals.contract import EVERYONE
from gapless.journals.postgres_records import PostgresRecords
from gapless.journals.postgres_schema import ACTIVE_SQL
from gapless.journals.postgres_server import Connection, PostgresServer, bytea_array, int_array
from gapless.records import RunRecord, listed_run

__all__ = ["WatchedSessions", "WatchedUsers", "session_number", "session_runs", "user_number"]

_WATCH = """
INSERT INTO gapless.watches(worker, channel, rid) VALUES(%s, %s, %s)
ON CONFLICT (rid, worker) DO UPDATE SET channel = excluded.channel
"""
_UNWATCH = "DELETE FROM gapless.watches WHERE worker = %s AND rid = ANY(%s::bigint[])"
_NOTIFY_USERS = """
SELECT pg_notify(w.channel, convert_from(g.said, 'UTF8')) FROM unnest(%s::bigint[], %s::bytea[]) g(rid, said)
JOIN gapless.watches w ON w.rid = g.rid AND w.worker <> %s
"""
_SEEN = f"""
SELECT g.id, s.xmin::text, (SELECT max(r.rid) FROM gapless.runs r WHERE r.session = g.id),
    (SELECT string_agg(r.rid || r.status, ',' ORDER BY r.rid) FROM gapless.runs r
    WHERE r.session = g.id AND r.status IN {ACTIVE_SQL})
FROM unnest(%s::bytea[]) g(id) LEFT JOIN gapless.sessions s ON s.id = g.id
"""
"""What of a session is another when something of it has changed."""


def session_number(session_id: str) -> int:
    """Return under which number a session is watched, below 0. Of two that have one, each is told of both."""
    return -1 - (int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=8).digest()) >> 1)


def user_number(user_id: str) -> int:
    """Return under which number all sessions of a user are watched, below 0."""
    hashed = hashlib.blake2b(user_id.encode(), digest_size=8, person=b"user").digest()
    return -1 - (int.from_bytes(hashed) >> 1)


async def session_runs(
    server: PostgresServer, records: PostgresRecords, session_id: str, after: str | None, limit: int, *, active: bool
) -> list[RunRecord]:
    """Read as `Store.session_runs` does."""
    place, key = 0, session_id.encode()
    if after is not None:
        sql = "SELECT r.rid FROM gapless.runs r WHERE r.id = %s AND r.session = %s"
        rows = await server.rows(sql, after.encode(), key)
        if not rows:
            raise RunNotFound(f"no run {after} in session {session_id}", run_id=after)
        place = rows[0][0]
    status = f"AND r.status IN {ACTIVE_SQL}" if active else ""
    where = f"r.session = %s {status} AND r.rid > %s::bigint ORDER BY r.rid LIMIT %s"
    return [listed_run(run) for _, run in await records.select(None, where, key, place, limit)]


class _Watched:
    """What this worker watches under numbers below 0, by id."""

    _number: Callable[[str], int]

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers: dict[str, int] = {}
        self._gone: dict[int, None] = {}
        """Numbers that are no longer watched, and still said to be."""
        self._forgetting = asyncio.Lock()

    @property
    def numbers(self) -> Iterable[int]:
        """Returns the numbers of those that are watched."""
        return self._numbers.values()

    async def watch(self, watched_id: str, worker_id: str, channel: str) -> None:
        """Watch one, as `Store.watch_session` and `Store.watch_user`."""
        number = self._numbers[watched_id] = self._number(watched_id)
        self._gone.pop(number, None)
        async with self._forgetting:
            pass
        await self._server.execute(_WATCH, worker_id, channel, number)

    def unwatch(self, watched_id: str) -> None:
        """Undo `watch`."""
        number = self._numbers.pop(watched_id, None)
        if number is not None and number not in self._numbers.values():
            self._gone[number] = None

    async def poll(self, connection: Connection, worker_id: str) -> None:
        """Say of which nothing is to be told any more."""
        if self._gone:
            async with self._forgetting:
                numbers = int_array(self._gone)
                self._gone.clear()
                await self._server.run(connection, _UNWATCH, worker_id, numbers)


class WatchedSessions(_Watched):
    """The sessions that this worker watches."""

    _number = staticmethod(session_number)

    def __init__(self, server: PostgresServer, tell: Callable[[str], None]) -> None:
        """`tell` hands on that a watched session may have changed."""
        super().__init__(server)
        self._tell = tell
        self._seen: dict[bytes, tuple[object, ...]] = {}
        """How each was when it was last looked for what was missed."""

    def unwatch(self, session_id: str) -> None:
        """Undo `watch`."""
        super().unwatch(session_id)
        self._seen.pop(session_id.encode(), None)

    def changed(self, session_id: str) -> None:
        """Tell of a change that this worker has made."""
        if session_id in self._numbers:
            self._tell(session_id)

    def hear(self, numbers: Iterable[int]) -> None:
        """Hear of changes that others have made."""
        changed = {number for number in numbers if number < 0}
        if changed:
            for session_id in [one for one, number in self._numbers.items() if number in changed]:
                self._tell(session_id)

    def look_at_all(self) -> None:
        """Tell of all of them: some of their changes may have been missed."""
        for session_id in tuple(self._numbers):
            self._tell(session_id)

    async def poll(self, connection: Connection, worker_id: str) -> None:
        """Look for changes that were missed, besides."""
        await super().poll(connection, worker_id)
        if not self._numbers:
            return
        ids = bytea_array([session_id.encode() for session_id in self._numbers])
        for key, *found in await self._server.fetch(connection, _SEEN, ids):
            session_id, seen = key.decode(), tuple(found)
            if session_id in self._numbers and self._seen.get(key) != seen:
                self._seen[key] = seen
                self._tell(session_id)


class WatchedUsers(_Watched):
    """The users whose sessions this worker watches. What of a session has changed is not in a notification, which one
    has is."""

    _number = staticmethod(user_number)

    def __init__(self, server: PostgresServer, tell: Callable[[str, str | None], None]) -> None:
        """`tell` hands on which session of which user may have changed."""
        super().__init__(server)
        self._tell = tell
        self._changed: dict[tuple[str, str], None] = {}
        """Users and sessions of which other workers are to be told."""

    def changed(self, user_id: str, session_id: str) -> None:
        """Tell of a change that this worker has made; others are told by the next `notify`."""
        for watched in (user_id, EVERYONE):
            self._changed[watched, session_id] = None
            if watched in self._numbers:
                self._tell(watched, session_id)

    async def notify(self, worker_id: str) -> None:
        """Tell other workers of this one's changes, if there are any."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        try:
            numbers = int_array(user_number(user_id) for user_id, _ in changed)
            said = bytea_array([b"u" + json.dumps(one).encode() for one in changed])
            await self._server.execute(_NOTIFY_USERS, numbers, said, worker_id)
        except BaseException:
            self._changed = changed | self._changed
            raise

    def hear(self, said: str) -> None:
        """Hear of a change that another worker has made, as `notify` says it."""
        user_id, session_id = json.loads(said)
        if user_id in self._numbers:
            self._tell(user_id, session_id)

    def look_at_all(self) -> None:
        """Tell that some of their changes may have been missed."""
        for user_id in tuple(self._numbers):
            self._tell(user_id, None)
