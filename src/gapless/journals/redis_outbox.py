"""The outbox in Redis: the notices of a run stand in its session's slot, when they are due in the index.

A notice is written by the append that it goes with, in a hash of its run, with a mark in front: whether it is to be
told still. Then it is listed in the index. A worker that is lost between the two has the run in its list of active
ones still, and whoever takes over lists the notice. What the index lists and is not to be told is dropped from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gapless.journals.outbox import NOTICES_TAKEN_MAX, Notice, Outbox
from gapless.journals.redis_keys import DUE, decode_notice, encode_notice, place_of
from gapless.journals.redis_records import RedisRecords
from gapless.journals.redis_scripts import Script
from gapless.journals.redis_server import RedisServer

__all__ = ["RedisOutbox", "list_notices", "list_notices_of"]

_TOLD, _TO_TELL = b"0", b"1"

_TAKE = Script("""
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(members) do
  redis.call('ZADD', KEYS[1], ARGV[2], member)
end
return members
""")
_IS_DUE = """
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if (due and tonumber(due) or -1) ~= tonumber(ARGV[2]) then
  return 0
end
"""
_CHECK = Script(f"{_IS_DUE} return 1")
_MOVE = Script(
    _IS_DUE
    + """
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
return 1
"""
)
_WRITE = Script("""
local run, id, data = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], id) == 0 then
  return 0
end
if string.sub(data, 1, 1) == '0' and redis.call('HEXISTS', run, 'expired') == 1 then
  redis.call('HDEL', KEYS[1], id)
else
  redis.call('HSET', KEYS[1], id, data)
end
return 1
""")


def _key(session_id: str, run_id: str) -> str:
    return f"{place_of(session_id)}notices:{run_id}"


async def list_notices(server: RedisServer, notices: Sequence[tuple[int, str, str, str]]) -> None:
    """List notices in the index, each with when it is due, its run, session and id. May be repeated."""
    if notices:
        scored = [part for at, *ids in notices for part in (at, encode_notice(*ids))]
        await server.command("ZADD", DUE, "NX", *scored)


async def list_notices_of(server: RedisServer, run_id: str, session_id: str) -> None:
    """List what is to be told still of a run that a worker may have been lost with, at once."""
    found = await server.command("HGETALL", _key(session_id, run_id))
    to_tell = [id.decode() for id, data in found.items() if data[:1] == _TO_TELL]
    await list_notices(server, [(0, run_id, session_id, id) for id in to_tell])


class RedisOutbox(Outbox):
    """The notices of all sessions, and the index of those that are due."""

    def __init__(self, server: RedisServer, records: RedisRecords) -> None:
        self._server = server
        self._records = records

    async def take(self, now: int, until: int, limit: int = NOTICES_TAKEN_MAX) -> list[Notice]:
        members = await self._server.call(_TAKE, DUE, now, until, limit)
        if not members:
            return []
        places = [decode_notice(member) for member in members]
        found = await self._server.all(("HGET", _key(session_id, run_id), id) for run_id, session_id, id in places)
        taken = []
        for member, (run_id, _, id), data in zip(members, places, found, strict=True):
            if data is None or data[:1] != _TO_TELL:
                await self._server.call(_MOVE, DUE, member, until, "")
            else:
                taken.append(Notice(id, run_id, data[1:], until))
        return taken

    async def settle(self, notice: Notice, due_at: int | None) -> bool:
        """Settle as the contract says. The index comes last: who is lost before leaves what is due to be told again."""
        session_id = await self._session(notice.run_id)
        if session_id is None:
            return False
        member = encode_notice(notice.run_id, session_id, notice.id)
        before = -1 if notice.due_at is None else notice.due_at
        if not await self._server.call(_CHECK, DUE, member, before):
            return False
        mark = _TOLD if due_at is None else _TO_TELL
        run = f"{place_of(session_id)}run:{notice.run_id}"
        key = _key(session_id, notice.run_id)
        if not await self._server.call(_WRITE, key, run, notice.id, mark + notice.data):
            return False
        return bool(await self._server.call(_MOVE, DUE, member, before, "" if due_at is None else due_at))

    async def of_run(self, run_id: str) -> list[Notice]:
        session_id = await self._session(run_id)
        if session_id is None:
            return []
        found = await self._server.command("HGETALL", _key(session_id, run_id))
        if not found:
            return []
        members = [encode_notice(run_id, session_id, id.decode()) for id in found]
        scores = await self._server.command("ZMSCORE", DUE, *members)
        return [
            Notice(id.decode(), run_id, data[1:], None if score is None else int(float(score)))
            for (id, data), score in zip(found.items(), scores, strict=True)
        ]

    async def _session(self, run_id: str) -> str | None:
        run = await self._records.run(run_id)
        return None if run is None else run.session_id
