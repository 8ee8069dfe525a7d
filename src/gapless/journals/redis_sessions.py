"""Sessions as a whole in Redis: their runs in order, and who is told that something of one has changed.

A session's key names the workers that watch it. Each script that creates a run, gives it another status or changes the
session tells them, on the channel that a worker listens to anyway. A worker says again that it watches every
`AGAIN_S`, and looks at the session then, whatever it was told: a server that took over may not know of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from gapless.errors import GaplessError, RunNotFound, StoreCorrupt
from gapless.journals.redis_keys import place_of, run_from, run_key
from gapless.journals.redis_owned import RECHECK_RUNS_MAX, OwnedRuns
from gapless.journals.redis_scripts import RUN_FIELDS, Script
from gapless.journals.redis_server import RedisServer
from gapless.records import RunRecord, listed_run

__all__ = ["AGAIN_S", "RedisSessions"]

AGAIN_S = 60.0
"""How often a worker says that it watches a session; one that has not for `WATCHED_S` does not any more."""

WATCHED_S = 300
"""A worker is told of a session for so long after it last said that it watches it."""

log = logging.getLogger("gapless.redis")

_SESSION_RUNS = Script("""
local place, after, limit, active = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local list, from = place .. (active and 'queue' or 'runs'), 0
if after ~= '' then
  from = redis.call('LPOS', KEYS[1], after, 'RANK', -1)
  if not from then
    return false
  end
  from = from + 1
end
if not active then
  return redis.call('LRANGE', list, from, from + limit - 1)
end
local found = {}
for _, id in ipairs(redis.call('LRANGE', list, 0, -1)) do
  if #found < limit and (from == 0 or redis.call('LPOS', KEYS[1], id, 'RANK', -1) >= from) then
    found[#found + 1] = id
  end
end
return found
""")

_WATCH_SESSION = Script(f"""
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - {WATCHED_S})
if ARGV[2] == '1' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('EXPIRE', KEYS[1], {WATCHED_S})
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
""")


class RedisSessions:
    """The sessions that this worker watches, and the runs of any."""

    def __init__(self, server: RedisServer, owned: OwnedRuns, tell: Callable[[str], None]) -> None:
        """`tell` hands on that a watched session may have changed."""
        self._server = server
        self._owned = owned
        self._tell = tell
        self._watched: dict[str, float] = {}
        """Sessions, and when it was last said that they are watched; the longest ago first."""
        self._places: dict[str, str] = {}
        """The sessions that are watched, by how their keys begin."""
        self._setting = asyncio.Lock()
        """Watching and no longer watching reach the server in the order of the calls."""

    async def runs(self, session_id: str, after: str | None, limit: int, *, active: bool) -> list[RunRecord]:
        """Read as `Store.session_runs` does."""
        place = place_of(session_id)
        key, arguments = f"{place}runs", (place, after or "", limit, int(active))
        found = await self._server.call(_SESSION_RUNS, key, *arguments)
        if found is None:
            raise RunNotFound(f"no run {after} in session {session_id}", run_id=after)
        ids = [run_id.decode() for run_id in found]
        records = await self._server.each((run_key(session_id, run_id) for run_id in ids), RUN_FIELDS)
        runs = []
        for run_id, fields in zip(ids, records, strict=True):
            if fields[0] is not None:
                with contextlib.suppress(StoreCorrupt):  # of that run alone, and said to whoever asks for it
                    runs.append(run_from(run_id, fields, listed_run))
        return runs

    # -- watching ---------------------------------------------------------------------------------------------------

    async def watch(self, session_id: str) -> None:
        """Watch a session, as `Store.watch_session`."""
        self._places[place_of(session_id)] = session_id
        await self._say(session_id)

    async def _say(self, session_id: str) -> None:
        self._watched.pop(session_id, None)
        self._watched[session_id] = time.monotonic()
        async with self._setting:
            await self._set(session_id, on=True)

    async def unwatch(self, session_id: str) -> None:
        """Undo `watch`."""
        if self._watched.pop(session_id, None) is None:
            return
        del self._places[place_of(session_id)]
        try:
            async with self._setting:
                if session_id not in self._watched:  # else it is watched again
                    await self._set(session_id, on=False)
        except GaplessError as error:  # what is heard of it now is dropped
            log.warning("%s", error)

    async def _set(self, session_id: str, *, on: bool) -> Any:
        key = f"{place_of(session_id)}watchers"
        return await self._server.call(_WATCH_SESSION, key, self._owned.worker_id, int(on))

    async def recheck(self, before: float) -> None:
        """Say again that those sessions are watched of which that was said before that time."""
        due = [session_id for session_id, since in self._watched.items() if since <= before]
        for session_id in due[:RECHECK_RUNS_MAX]:
            if session_id in self._watched:
                await self._say(session_id)
                self._tell(session_id)

    async def watch_all_again(self) -> None:
        """Watch under the worker's id of now, and look at all: nothing was heard of them meanwhile."""
        for session_id in tuple(self._watched):
            if session_id in self._watched:
                await self._say(session_id)
                self._tell(session_id)

    def on_message(self, place: str) -> None:
        """Hear that the session whose keys begin so has changed."""
        if (session_id := self._places.get(place)) is not None:
            self._tell(session_id)
