"""Runs with an error, as the index in Redis lists them.

All runs up to a number were judged: those that may have an error are listed, the others had ended without one. Behind
it each is looked at. So a run that is older than this list, or was ended by a worker of a version without it, is found
all the same, and whoever searches judges some more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gapless.journals.redis_keys import RUNS, decode_member, pack, run_key
from gapless.journals.redis_scripts import Script
from gapless.journals.redis_server import RedisServer
from gapless.records import RunStatus

__all__ = ["FAILED_RUNS", "FailedRuns"]

FAILED_RUNS, JUDGED = "{gapless}:failed", "{gapless}:judged"
JUDGED_AT_ONCE = 200
"""Runs that are judged in one round trip."""
JUDGE_S_MAX = 0.05
"""A search judges runs for so long, before it looks."""
_ENDED_WELL = RunStatus.FINISHED.value.encode()

JUDGE = Script("""
local to, listed = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
for _, run in ipairs(listed) do
  redis.call('ZADD', '{gapless}:failed', run[1], run[2])
end
local judged = tonumber(redis.call('GET', '{gapless}:judged') or 0)
if to > judged then
  redis.call('SET', '{gapless}:judged', ARGV[1])
  return to
end
return judged
""")

UNLIST = Script("""
for _, run in ipairs(cmsgpack.unpack(ARGV[1])) do
  if tonumber(redis.call('ZSCORE', '{gapless}:failed', run[2]) or -1) == run[1] then
    redis.call('ZREM', '{gapless}:failed', run[2])
  end
end
return 1
""")


class FailedRuns:
    """Judges runs, and lists those that may have an error."""

    def __init__(self, server: RedisServer, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._monotonic = monotonic

    async def judged(self) -> int:
        """Judge some of the runs that were not, and return the number up to which all are."""
        to = int(await self._server.command("GET", JUDGED) or 0)
        until = self._monotonic() + JUDGE_S_MAX
        while True:
            asked = ("ZRANGEBYSCORE", RUNS, f"({to}", "+inf", "WITHSCORES", "LIMIT", 0, JUDGED_AT_ONCE)
            answer = await self._server.command(*asked)
            found = list(zip(answer[::2], map(int, answer[1::2]), strict=True))
            if not found:
                return to
            ids = [decode_member(member) for member, _ in found]
            states = await self._server.each((run_key(session, run_id) for run_id, session in ids), ("status",))
            listed = [
                (number, member.decode())
                for (member, number), (status,) in zip(found, states, strict=True)
                if status != _ENDED_WELL
            ]
            to = int(await self._server.call(JUDGE, RUNS, found[-1][1], pack(listed)))
            if len(found) < JUDGED_AT_ONCE or self._monotonic() >= until:
                return to

    async def unlist(self, runs: Sequence[tuple[int, str]]) -> None:
        """List runs no more, (number, member), that have ended without an error."""
        if runs:
            await self._server.call(UNLIST, RUNS, pack(runs))
