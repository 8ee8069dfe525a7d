"""Finding and listing runs and sessions in Redis."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias, TypeVar

from gapless.errors import StoreCorrupt
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Checkpoint
from gapless.journals.finding import Search
from gapless.journals.redis_failed import FAILED_RUNS, FailedRuns
from gapless.journals.redis_keys import (
    RUNS,
    SESSIONS,
    WORKERS,
    decode_error,
    decode_member,
    decode_turn,
    encode_member,
    place_of,
    pointer_to,
    run_from,
    run_key,
    session_claimed,
    session_from,
    session_key,
)
from gapless.journals.redis_moves import moves_from
from gapless.journals.redis_server import RedisServer
from gapless.moves import Moves
from gapless.records import (
    ACTIVE,
    Listing,
    RunRecord,
    RunStatus,
    SessionRecord,
    Turn,
    listed_run,
    place_in_runs,
    place_in_sessions,
    place_of_session,
)
from gapless.sought import FAILED, Found, Glimpse, Sought, glimpse_of

__all__ = ["RedisRecords"]

log = logging.getLogger("gapless.redis")

_T = TypeVar("_T")
_Listing: TypeAlias = Callable[[int, int], Awaitable[list[tuple[str, str, int]]]]
LISTED_FIELDS = scripts.SESSION_FIELDS[:-1]
"""What lists have of a session."""

PAGE_RECORDS_FIRST, PAGE_RECORDS_MAX = 10, 200
"""Records that are read in one round trip, while it is not known how long they are and afterwards."""
PAGE_BYTES = 512 * 1024
SAID_MAX = 1_000
"""Damaged records that are told from one another in the log."""
PLACES_MAX = 10_000
"""Runs whose session is remembered."""


class RedisRecords:
    """The records of all runs and sessions, for reading."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._failed = FailedRuns(server)
        self._places: dict[str, str] = {}
        """The session of each run that was asked for lately."""
        self._said_damaged: set[str] = set()

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
        """Return the run of that id in that session. Raises `StoreCorrupt`."""
        fields = await self._server.command("HMGET", run_key(session_id, run_id), *scripts.RUN_FIELDS)
        return None if fields[0] is None else run_from(run_id, fields)

    async def run(self, run_id: str) -> RunRecord | None:
        """Return the run of that id. Raises `StoreCorrupt`."""
        return await self.find(run_id, lambda session_id: self.run_in(session_id, run_id))

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return the newest checkpoint of an active run; None where it has none. Raises `StoreCorrupt`."""

        async def ask(session_id: str) -> list[Any] | None:
            key = f"{place_of(session_id)}checkpoint:{run_id}"
            if await self._server.command("HEXISTS", run_key(session_id, run_id), "record"):
                found: list[Any] = await self._server.command("HMGET", key, "seq", "data")
                return found
            return None

        found = await self.find(run_id, ask)
        return None if found is None or found[0] is None else Checkpoint(int(found[0]), found[1])

    async def moves(self, run_id: str) -> Moves:
        """Read as `Store.moves` does."""

        async def ask(session_id: str) -> list[Any] | None:
            found = await self._server.command("HMGET", run_key(session_id, run_id), "record", "moves")
            return None if found[0] is None else [found[1]]

        found = await self.find(run_id, ask)
        return moves_from(None if found is None else found[0])

    async def commands(self, run_id: str) -> list[bytes]:
        """Return the commands that are kept for a run."""

        async def ask(session_id: str) -> list[bytes] | None:
            if not await self._server.command("HEXISTS", run_key(session_id, run_id), "record"):
                return None
            found: list[bytes] = await self._server.command("HVALS", f"{place_of(session_id)}kept:{run_id}")
            return found

        return await self.find(run_id, ask) or []

    async def blob(self, run_id: str, field: str) -> bytes | None:
        """Return a piece of a blob of the run, as `scripts.KEEP_BLOB` calls it; None where there is none."""

        async def ask(session_id: str) -> list[bytes | None] | None:
            if await self._server.command("HEXISTS", run_key(session_id, run_id), "record"):
                return [await self._server.command("HGET", f"{place_of(session_id)}blobs:{run_id}", field)]
            return None

        found = await self.find(run_id, ask)
        return None if found is None else found[0]

    async def runs(
        self,
        user_id: str | None,
        session_id: str | None,
        status: RunStatus | None,
        limit: int,
        after: str | None,
    ) -> Listing[RunRecord]:
        """List as `Store.list_runs` does."""
        listed = await self._listing(user_id, session_id, status, place_in_runs(after))
        runs: dict[str, tuple[RunRecord, int]] = {}
        pages = _Pages(limit + 1 if limit else 0)  # one more, which says that there is more
        while pages.more(len(runs)):
            entries = await listed(pages.read, pages.count)
            keys = [run_key(session, run_id) for run_id, session, _ in entries]
            records = await self._server.each(keys, scripts.RUN_FIELDS)
            pages.have_read(records)
            for (run_id, _, place), fields in zip(entries, records, strict=True):
                if fields[0] is None:
                    continue
                try:
                    run = run_from(run_id, fields, listed_run)
                except StoreCorrupt:  # of that run alone, and said to whoever asks for it
                    continue
                if (
                    (user_id is None or run.user_id == user_id)
                    and (session_id is None or run.session_id == session_id)
                    and (status is None or run.status is status)
                ):
                    runs[run_id] = run, place  # one that a newer run has moved to the next page is there already
        found = list(runs.values())
        listing = Listing(run for run, _ in found[:limit])
        if limit and len(found) > limit:
            listing.next = str(found[limit - 1][1])
        return listing

    async def find_runs(self, sought: Sought, limit: int, after: str | None) -> Found:
        """Find as `Store.find_runs` does: only of those that may be sought more is decoded than their status."""
        before, judged = place_in_runs(after), 0
        if sought.states is FAILED and sought.session_id is None:
            judged = await self._failed.judged()
            listed = self._with_errors(sought.user_id, before, judged)
        else:
            listed = await self._listing(sought.user_id, sought.session_id, sought.status, before)
        search, found, pages, goes_on = Search(sought, limit), dict[str, RunRecord](), _Pages(None), True
        ended_well = list[tuple[int, str]]()
        while goes_on and pages.more(0):
            entries = await listed(pages.read, pages.count)
            keys = [run_key(session, run_id) for run_id, session, _ in entries]
            records = await self._server.each(keys, scripts.RUN_FIELDS)
            pages.have_read(records)
            for (run_id, session, place), fields in zip(entries, records, strict=True):
                if fields[0] is None or run_id in found:
                    continue
                status, run = _glimpse(sought, fields)
                if place <= judged and status is RunStatus.FINISHED:
                    ended_well.append((place, encode_member(run_id, session).decode()))
                goes_on = search.sees(place, status, run)
                if len(search.places) > len(found):
                    with contextlib.suppress(StoreCorrupt):  # of that run alone, and said to whoever asks for it
                        found[run_id] = run_from(run_id, fields, listed_run)
                        continue
                    search.places.pop()
                if not goes_on:
                    break
        await self._failed.unlist(ended_well)
        return search.page(list(found.values()))

    def _with_errors(self, user_id: str | None, before: int | None, judged: int) -> _Listing:
        """Return the list of the runs that may have an error: all those behind the number up to which runs were judged,
        and of these the ones that are listed."""
        key, least = RUNS if user_id is None else f"{RUNS}:{user_id}", f"({judged}"
        behind = "+inf" if before is None else f"({before}"
        if before is not None and before <= judged:
            key, least = FAILED_RUNS, "-inf"

        async def with_errors(start: int, count: int) -> list[tuple[str, str, int]]:
            nonlocal key, least, behind
            found = await self._before(key, behind, least, count)
            if len(found) < count and key != FAILED_RUNS:
                key, least, behind = FAILED_RUNS, "-inf", str(judged)
                found += await self._before(key, behind, least, count - len(found))
            if found:
                behind = f"({found[-1][2]}"
            return found

        return with_errors

    async def _before(self, key: str, behind: str, least: str, count: int) -> list[tuple[str, str, int]]:
        asked = ("ZREVRANGEBYSCORE", key, behind, least, "WITHSCORES", "LIMIT", 0, count)
        found = _scored(await self._server.command(*asked))
        return [(*decode_member(member), int(number)) for member, number in found]

    async def _listing(
        self, user_id: str | None, session_id: str | None, status: RunStatus | None, before: int | None
    ) -> _Listing:
        """Return the shortest list that has all of these runs, newest first, those before a place or all: run ids with
        their sessions and places, from how many of them on.
        """
        if status in ACTIVE:
            return await self._active(session_id, before)
        if session_id is not None:
            key = f"{place_of(session_id)}runs"
            length = await self._server.command("LLEN", key) if before is None else before

            async def of_session(start: int, count: int) -> list[tuple[str, str, int]]:
                first, last = max(0, length - start - count), length - start - 1
                found = await self._server.command("LRANGE", key, first, last) if last >= 0 else []
                return [(run_id.decode(), session_id, last - n) for n, run_id in enumerate(reversed(found))]

            return of_session
        key = RUNS if user_id is None else f"{RUNS}:{user_id}"
        behind = "+inf" if before is None else f"({before}"

        async def of_all(start: int, count: int) -> list[tuple[str, str, int]]:
            nonlocal behind  # by number, not by rank: runs begin and are deleted meanwhile
            found = await self._before(key, behind, "-inf", count)
            if found:
                behind = f"({found[-1][2]}"
            return found

        return of_all

    async def _active(self, session_id: str | None, before: int | None) -> _Listing:
        """Return the list of the active runs, of all sessions or of one."""
        if session_id is None:
            found = await self._server.call(scripts.ACTIVE_RUNS, WORKERS)
            entries = [(*decode_member(member), int(number)) for member, number in found]
        else:
            queue = await self._server.command("LRANGE", f"{place_of(session_id)}queue", 0, -1)
            members = [encode_member(run_id.decode(), session_id) for run_id in reversed(queue)]
            numbers = await self._server.command("ZMSCORE", RUNS, *members) if members else []
            entries = [(*decode_member(m), int(number or 0)) for m, number in zip(members, numbers, strict=True)]
        behind = [entry for entry in entries if before is None or entry[2] < before]

        async def active(start: int, count: int) -> list[tuple[str, str, int]]:
            return behind[start : start + count]

        return active

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Return the oldest active run of each of these sessions that has one."""
        asked = list(dict.fromkeys(session_ids))
        active = {}
        pages = _Pages(len(asked))
        while pages.more(pages.read):
            page = asked[pages.read : pages.read + pages.count]
            places = map(place_of, page)
            answers = await self._server.all(
                ("EVAL", scripts.OLDEST_ACTIVE.source, 1, f"{place}queue", place) for place in places
            )
            pages.have_read([[] if answer is None else answer[1] for answer in answers])
            for session_id, answer in zip(page, answers, strict=True):
                if answer is not None and answer[1][0] is not None:
                    with contextlib.suppress(StoreCorrupt):  # of that run alone, and said to whoever asks for it
                        active[session_id] = run_from(answer[0].decode(), answer[1], listed_run)
        return active

    async def session(self, session_id: str) -> SessionRecord | None:
        """Return the session of that id. Raises `StoreCorrupt`."""
        fields = await self._server.command("HMGET", session_key(session_id), *scripts.SESSION_FIELDS)
        return None if fields[0] is None else session_from(session_id, fields)

    async def sessions(self, user_id: str | None, limit: int, after: str | None) -> Listing[SessionRecord]:
        """List as `Store.list_sessions` does."""
        place = place_in_sessions(after)
        sessions: dict[str, tuple[SessionRecord, int]] = {}
        key = SESSIONS if user_id is None else f"{SESSIONS}:{user_id}"
        newest, met = "+inf" if place is None else str(place[0]), 0
        pages = _Pages(limit + 1 if limit else 0)  # one more, which says that there is more
        while pages.more(len(sessions)):
            asked = ("ZREVRANGEBYSCORE", key, newest, "-inf", "WITHSCORES", "LIMIT", met, pages.count)
            found = _scored(await self._server.command(*asked))
            if found:  # by time, not by rank: sessions come to the beginning and are deleted meanwhile
                last = str(int(found[-1][1]))
                met = sum(int(score) == int(last) for _, score in found) + (met if last == newest else 0)
                newest = last
            ids = [session_id.decode() for session_id, _ in found]
            records = await self._server.each(map(session_key, ids), LISTED_FIELDS)
            pages.have_read(records)
            for session_id, (_, score), fields in zip(ids, found, records, strict=True):
                session, used_at = self._readable(session_id, fields), int(score)
                if place is not None and (used_at, session_id) >= place:
                    continue
                if session is not None and (user_id is None or session.user_id == user_id):
                    sessions[session_id] = session, used_at
        listed = list(sessions.values())
        listing = Listing(session for session, _ in listed[:limit])
        if limit and len(listed) > limit:
            session, used_at = listed[limit - 1]
            listing.next = place_of_session(used_at, session.id)
        return listing

    def _readable(self, session_id: str, fields: Sequence[Any]) -> SessionRecord | None:
        """Return the session's record; None where there is none, or a damaged one, which is said once."""
        if fields[0] is None:
            return None
        try:
            return session_from(session_id, fields)
        except StoreCorrupt as error:
            if session_id not in self._said_damaged and len(self._said_damaged) < SAID_MAX:
                self._said_damaged.add(session_id)
                log.error("store %s: %s; it is left out of lists", self._server.name, error)
            return None

    async def turns(self, session_id: str, skip: int) -> list[Turn]:
        """Return the session's turns, oldest first, without the first `skip`."""
        turns: list[Turn] = []
        pages = _Pages(None)
        key = f"{place_of(session_id)}turns"
        while pages.more(len(turns)):
            first = skip + pages.read
            page = await self._server.command("LRANGE", key, first, first + pages.count - 1)
            pages.have_read([[turn] for turn in page])
            turns += map(decode_turn, page)
        return turns


def _glimpse(sought: Sought, fields: Sequence[Any]) -> tuple[str, Glimpse | RunRecord | None]:
    """Read of `scripts.RUN_FIELDS` the run's status and what it is found by, if it may be sought and can be read."""
    record, _, status, _, _, _, error, *_ = fields
    try:
        is_now = RunStatus(status.decode())
        if not sought.may_be(is_now):
            return is_now, None
        run = glimpse_of(record)
        run.error = decode_error(error) if error else None
        return is_now, run
    except (AttributeError, TypeError, ValueError):  # a field that is not there, or not Gapless's
        return "", None


def _scored(answer: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the members of an answer WITHSCORES, each with its score."""
    return list(zip(answer[::2], answer[1::2], strict=True))


class _Pages:
    """How much of a list is read in one round trip: what is still wanted, and no more than about PAGE_BYTES of it by
    how long the records have been so far, as the event loop stands still while they are decoded."""

    def __init__(self, limit: int | None) -> None:
        """`limit` is None where all of the list is wanted."""
        self._limit = limit
        self._bytes = 0
        self._at_end = False
        self.read = 0
        """Records that were read."""
        self.count = 0
        """Records to read next."""

    def more(self, found: int) -> bool:
        """Say whether there is more to read, when so many of those that were read are wanted ones, and how much."""
        if self._at_end or (self._limit is not None and found >= self._limit):
            return False
        self.count = PAGE_RECORDS_FIRST
        if self.read:
            fitting = PAGE_BYTES * self.read // max(self._bytes, 1)
            self.count = max(1, min(4 * self.read, fitting, PAGE_RECORDS_MAX))
        if self._limit is not None and found == self.read:  # so far, all of them
            self.count = min(self.count, self._limit - found)
        return True

    def have_read(self, records: Sequence[Sequence[bytes | None]]) -> None:
        self._at_end = len(records) < self.count
        self.read += len(records)
        self._bytes += sum(len(field) for fields in records for field in fields if field is not None)
