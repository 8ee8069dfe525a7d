"""Finding and listing runs and sessions in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TypeVar

from gapless.errors import StoreCorrupt
from gapless.journals import redis_scripts as scripts
from gapless.journals.redis_keys import (
    RUNS,
    SESSION_FIELDS,
    SESSIONS,
    WORKERS,
    decode_member,
    place_of,
    pointer_to,
    run_from,
    run_key,
    session_claimed,
    session_from,
    session_key,
)
from gapless.journals.redis_server import RedisServer
from gapless.records import ACTIVE, RunRecord, RunStatus, SessionRecord

__all__ = ["RedisRecords"]

_T = TypeVar("_T")

PAGE_RECORDS = 200
PLACES_MAX = 10_000
"""Runs whose session is remembered."""


class RedisRecords:
    """The records of all runs and sessions, for reading."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._places: dict[str, str] = {}
        """The session of each run that was asked for lately."""

    async def find(self, run_id: str, ask: Callable[[str], Awaitable[_T | None]]) -> _T | None:
        """Answer what `ask` does for the session in which the run is; None where there is no such run.

        Where the session was only remembered and has no such run, the run was deleted since and perhaps made anew: it
        is looked up and asked for again."""
        for _ in range(2):
            remembered = run_id in self._places
            session_id = await self._session_of(run_id)
            if session_id is None:
                return None
            answer = await ask(session_id)
            if answer is not None:
                return answer
            self.forget(run_id)
            if not remembered:
                return None
        return None

    async def _session_of(self, run_id: str) -> str | None:
        """Look up the session for which a run's id is claimed."""
        known = self._places.get(run_id)
        if known is not None:
            return known
        found = await self._server.command("GET", pointer_to(run_id))
        if found is None:
            return None
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        session_id = self._places[run_id] = session_claimed(found)
        return session_id

    def forget(self, run_id: str) -> None:
        """Ask the server, the next time, which session a run is in."""
        self._places.pop(run_id, None)

    async def run_in(self, session_id: str, run_id: str) -> RunRecord | None:
        """The run of that id in that session. Raises `StoreCorrupt`."""
        fields = await self._server.command("HMGET", run_key(session_id, run_id), *scripts.RUN_FIELDS)
        return None if fields[0] is None else run_from(run_id, fields)

    async def run(self, run_id: str) -> RunRecord | None:
        """The run of that id. Raises `StoreCorrupt`."""
        return await self.find(run_id, lambda session_id: self.run_in(session_id, run_id))

    async def runs(
        self, user_id: str | None, session_id: str | None, status: RunStatus | None, limit: int
    ) -> list[RunRecord]:
        """The newest runs, of this user, in this session and of this status, newest first."""
        runs: list[RunRecord] = []
        async for page in self._run_ids(user_id, session_id, status):
            keys = (run_key(session, run_id) for run_id, session in page)
            for (run_id, _), fields in zip(page, await self._server.each(keys, scripts.RUN_FIELDS), strict=True):
                if fields[0] is None:
                    continue
                try:
                    run = run_from(run_id, fields)
                except StoreCorrupt:  # of that run alone, and said to whoever asks for it
                    continue
                if (
                    (user_id is None or run.user_id == user_id)
                    and (session_id is None or run.session_id == session_id)
                    and (status is None or run.status is status)
                ):
                    runs.append(run)
            if len(runs) >= limit:
                break
        return runs[:limit]

    async def _run_ids(
        self, user_id: str | None, session_id: str | None, status: RunStatus | None
    ) -> AsyncIterator[list[tuple[str, str]]]:
        """Pages of run ids with their sessions, newest first, from the shortest list that has all of them."""
        if session_id is not None:
            found = await self._server.command("LRANGE", f"{place_of(session_id)}runs", 0, -1)
            ids = [(run_id.decode(), session_id) for run_id in reversed(found)]
        elif status in ACTIVE:
            ids = [decode_member(member) for member in await self._server.call(scripts.ACTIVE_RUNS, WORKERS)]
        else:
            key = RUNS if user_id is None else f"{RUNS}:{user_id}"
            start = 0
            while page := await self._server.command("ZREVRANGE", key, start, start + PAGE_RECORDS - 1):
                yield [decode_member(member) for member in page]
                start += PAGE_RECORDS
            return
        for start in range(0, len(ids), PAGE_RECORDS):
            yield ids[start : start + PAGE_RECORDS]

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """The oldest active run of each of these sessions that has one."""
        source = scripts.OLDEST_ACTIVE.source
        places = map(place_of, session_ids)
        answers = await self._server.all(("EVAL", source, 1, f"{place}queue", place) for place in places)
        active = {}
        for session_id, answer in zip(session_ids, answers, strict=True):
            if answer is not None and answer[1][0] is not None:
                with contextlib.suppress(StoreCorrupt):  # of that run alone, and said to whoever asks for it
                    active[session_id] = run_from(answer[0].decode(), answer[1])
        return active

    async def session(self, session_id: str) -> SessionRecord | None:
        """The session of that id."""
        fields = await self._server.command("HMGET", session_key(session_id), *SESSION_FIELDS)
        return None if fields[0] is None else session_from(fields)

    async def sessions(self, user_id: str | None, limit: int) -> list[SessionRecord]:
        """The sessions that were used last, of this user, latest used first."""
        sessions: list[SessionRecord] = []
        key = SESSIONS if user_id is None else f"{SESSIONS}:{user_id}"
        start = 0
        while len(sessions) < limit:
            ids = await self._server.command("ZREVRANGE", key, start, start + PAGE_RECORDS - 1)
            if not ids:
                break
            start += PAGE_RECORDS
            for fields in await self._server.each((session_key(i.decode()) for i in ids), SESSION_FIELDS):
                if fields[0] is not None:
                    session = session_from(fields)
                    if user_id is None or session.user_id == user_id:
                        sessions.append(session)
        return sessions[:limit]
