"""The runs that a worker owns in Redis: their appends, and what a server that took over is given again of them.

The cost of an append is the round trip, not the entry: one call of one script takes the batches of all runs. The script
checks each run's owner, which is the fence. A batch whose answer was lost is sent again and recognised.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias, cast

from gapless.errors import RunNotFound, StoreUnavailable
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Append, Checkpoint, WorkerFenced
from gapless.journals.outbox import Notice
from gapless.journals.redis_keys import WORKERS, encode_end, encode_member, pack, place_of
from gapless.journals.redis_outbox import list_notices
from gapless.journals.redis_server import RedisServer
from gapless.records import RunRecord, RunStatus
from gapless.sought import FAILED

__all__ = ["RECHECK_RUNS_MAX", "OwnedRun", "OwnedRuns"]

CALLS_AT_ONCE, CALLS_AT_ONCE_IN_CLUSTER = 2, 32
"""Calls that are under way at the same time. In a cluster, where each session has its own, they go to many servers."""
CALL_BATCHES_MAX, CALL_BYTES_MAX = 500, 256 * 1024
"""Batches that go in one call: the event loop does nothing else while they are encoded, nor the server while it takes
them. One batch may be longer."""
RECENT_BYTES_MAX = 16 * 1024
"""The newest accepted events of each run are kept at hand: a server that takes over may lack them. About 5 s of a
model's text; replicas are milliseconds behind, an append-only file that is flushed every second a second."""
ENDED_MAX = 2_000
"""Ended runs that wait to be checked; of more, the oldest ends are trusted."""
RECHECK_RUNS_MAX = 500
"""Runs that are checked between two renewals of the lease, which must not wait for long."""
REFUSED = -1
APPEND_ARGUMENTS = 2
"""Of `scripts.APPEND`; the checkpoints follow."""

log = logging.getLogger("gapless.redis")

_Row: TypeAlias = tuple[str, str, int, int, str, int, str | None, dict[str, Any] | None, dict[str, Any] | None]
"""One batch as `scripts.APPEND` takes it: the session's place, the run, first position, count, events, time, status,
end, and what else goes with it: the checkpoint, the commands that are taken, the notices."""


class OwnedRun:
    """A run that this worker owns, and where it is kept."""

    __slots__ = ("at", "checkpoint", "heard", "move", "place", "recent", "recent_bytes", "run")

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.place = place_of(run.session_id)
        self.recent: deque[_Row] = deque()
        """The batches accepted last, kept at hand."""
        self.recent_bytes = 0
        self.at = 0
        """When the last group was accepted whose time is kept."""
        self.checkpoint: Checkpoint | None = None
        """The newest that this worker has saved."""
        self.heard = 0
        """The newest command that the listener was told of."""
        self.move = ""
        """Under which name the run is being given up."""

    @property
    def key(self) -> str:
        return f"{self.place}run:{self.run.id}"

    def keep(self, row: _Row) -> None:
        """Keep an accepted batch at hand, and let the oldest go down to the bound; the newest one stays."""
        if row[-1] is not None:
            if row[-1]["data"] is not None:
                self.checkpoint = Checkpoint(row[-1]["seq"], row[-1]["data"])
            notices = row[-1]["notices"]
            row = (*row[:-1], {**_more(None, ()), "notices": notices} if notices else None)
        if not row[3] or (self.recent and row[2] <= self.recent[-1][2]):  # or it was accepted before
            return
        self.recent.append(row)
        self.recent_bytes += len(row[4])
        while self.recent_bytes > RECENT_BYTES_MAX and len(self.recent) > 1:
            self.recent_bytes -= len(self.recent.popleft()[4])

    def recent_after(self, last: int) -> list[_Row]:
        """Return the batches from that position on; none when some of them are no longer at hand."""
        rows = [row for row in self.recent if row[2] > last]
        if not rows or rows[0][2] != last + 1:
            return []
        if self.checkpoint is not None:
            notices = [] if rows[-1][-1] is None else rows[-1][-1]["notices"]
            rows[-1] = (*rows[-1][:-1], {**_more(self.checkpoint, ()), "notices": notices})
        return rows


_Batches: TypeAlias = list[tuple[OwnedRun, Append]]
_Appended: TypeAlias = tuple[list[tuple[OwnedRun, _Row]], list[int]]
"""What one call took, and how many bytes each of the journals has now, or REFUSED."""


class OwnedRuns:
    """All runs that this worker owns, and those that may be its own or ended not long ago."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._calling = asyncio.Semaphore(CALLS_AT_ONCE)
        self.worker_id = ""
        self.runs: dict[str, OwnedRun] = {}
        self.doubtful: dict[str, tuple[str, str]] = {}
        """Runs that may be this worker's without anyone here knowing, as an answer was lost: session and nonce."""
        self.coming: Counter[str] = Counter()
        """Runs that an answer may make this worker's which is still to come."""
        self._ended: deque[tuple[float, OwnedRun]] = deque(maxlen=ENDED_MAX)
        """Runs that have ended not long ago, and when."""

    def begin(self, worker_id: str) -> None:
        """Own nothing yet, under a new id, at a server that is connected by now."""
        self._calling = asyncio.Semaphore(CALLS_AT_ONCE_IN_CLUSTER if self._server.is_cluster else CALLS_AT_ONCE)
        self.worker_id = worker_id
        self.runs.clear()
        self.doubtful.clear()
        self._ended.clear()

    @contextlib.contextmanager
    def may_come(self, run_id: str) -> Iterator[None]:
        """Surround what makes a run this worker's: it is told so by that, and not by a take-over."""
        self.coming[run_id] += 1
        try:
            yield
        finally:
            self.coming[run_id] -= 1
            self.coming = +self.coming

    def leave_doubtful(self) -> list[tuple[str, str]]:
        """Give the doubtful runs to a take-over, by id and session: whoever asks for one of them again finds it."""
        left = [(run_id, session_id) for run_id, (session_id, _) in self.doubtful.items() if not self.coming[run_id]]
        self.doubtful.update((run_id, (session_id, "")) for run_id, session_id in left)
        return left

    def add(self, run: RunRecord) -> None:
        self.runs[run.id] = OwnedRun(run)

    def fenced(self) -> WorkerFenced:
        """Return the error of a worker that finds its lease lost: it owns nothing any more."""
        self.runs.clear()
        return WorkerFenced(self.worker_id)

    async def check_lease(self) -> None:
        """Raise `WorkerFenced` when another worker has taken this one's runs."""
        if not await self._server.command("HEXISTS", WORKERS, self.worker_id):
            raise self.fenced()

    async def start(self, run_id: str, started_at: int) -> str | None:
        """Set a queued run running, or say which is just ahead of it, as `Store.start_run`."""
        owned = self.runs.get(run_id)
        if owned is not None:
            outcome = await self._server.call(scripts.START, owned.key, owned.place, run_id, self.worker_id, started_at)
            if outcome == b"started":
                return None
            if isinstance(outcome, list):
                return str(outcome[0].decode())
        await self.check_lease()
        raise RunNotFound(f"run {run_id} is not queued", run_id=run_id)

    async def keep_blob(self, run_id: str, blob_id: str, piece: int, data: bytes) -> None:
        """Keep a piece of a blob, as `Store.keep_blob`."""
        owned = self.runs.get(run_id)
        if owned is not None:
            field = f"{blob_id}:{piece}"
            arguments = owned.place, run_id, self.worker_id, field, data
            if await self._server.call(scripts.KEEP_BLOB, owned.key, *arguments):
                return
        raise RunNotFound(f"run {run_id} is not this worker's", run_id=run_id)

    # -- appending --------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        """Accept each batch, as `Store.append`; returns the ids of the runs that were refused."""
        me, (calls, refused) = self.worker_id, self._calls(batches)
        ended: list[tuple[OwnedRun, int]] = []
        notices: list[tuple[int, str, str, str]] = []
        for appended, journal_sizes in await self._append_all(calls, me):
            for (owned, row), journal_bytes in zip(appended, journal_sizes, strict=True):
                if journal_bytes == REFUSED:
                    refused.add(row[1])
                    continue
                owned.keep(row)
                if row[-1] is not None and row[-1]["notices"]:
                    notices += _listed(owned, row)
                status, end = row[-3], row[-2]
                if status is not None and end is not None:
                    owned.run.status, owned.run.ended_at = RunStatus(status), end["at"]
                    ended.append((owned, journal_bytes))
        if notices:  # before the run's end is noted: until then, whoever takes over looks after it
            await list_notices(self._server, notices)
        if ended:
            await self.finish([(owned.run, journal_bytes) for owned, journal_bytes in ended], me)
        if refused and me == self.worker_id:
            await self.check_lease()
        if me != self.worker_id:  # which may own the same runs again: these batches were not for them
            raise WorkerFenced(me)
        for owned, _ in ended:  # last: where anything fails before, all come again, to be recognised
            self.runs.pop(owned.run.id, None)
            self._ended.append((time.monotonic(), owned))
        for run_id in refused:
            lost = self.runs.pop(run_id, None)
            if lost is not None:
                self.doubtful[run_id] = (lost.run.session_id, "")  # still this worker's? then it has to be closed
        return refused

    def _calls(self, batches: Sequence[Append]) -> tuple[list[_Batches], set[str]]:
        """Return the batches of each call, and the runs that are not this worker's."""
        refused: set[str] = set()
        calls: list[_Batches] = []
        filling: dict[str, tuple[_Batches, int]] = {}
        """By what has a call of its own: what goes in the next one, and how many bytes that may still take."""
        nothing: tuple[_Batches, int] = [], -1
        runs, in_cluster = self.runs, self._server.is_cluster
        for batch in batches:
            owned = runs.get(batch.run_id)
            if owned is None:
                refused.add(batch.run_id)
                continue
            size = sum(map(len, batch.events))
            if batch.checkpoint is not None:
                size += len(batch.checkpoint.data)
            if batch.end is not None:
                size += len(memoryview(batch.end.turn.messages)) + len(batch.end.turn.native or b"")
            slot = owned.place if in_cluster else ""
            call, left = filling.get(slot, nothing)
            if size > left or len(call) == CALL_BATCHES_MAX:
                calls.append(call := [])
                left = CALL_BYTES_MAX
            call.append((owned, batch))
            filling[slot] = call, left - size
        return calls, refused

    async def _append_all(self, calls: Collection[_Batches], me: str) -> list[_Appended]:
        """Make each call. All have ended when this raises."""
        if len(calls) == 1:
            return [await self._append_batches(batches, me) for batches in calls]
        answers = await asyncio.gather(*(self._append_batches(one, me) for one in calls), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return cast("list[_Appended]", answers)

    async def _append_batches(self, batches: _Batches, me: str) -> _Appended:
        """Append in one call, encoded when its turn has come: the worker may have another id than `me` then."""
        async with self._calling:
            appended = [(owned, _row(owned, batch)) for owned, batch in batches]
            return appended, await self._append_rows([row for _, row in appended], me)

    async def _append_rows(self, rows: list[_Row], me: str) -> list[int]:
        """Append in one call. A server that lacks accepted events (a replica took over that had not got them) is given
        them again, if they are still at hand: the positions keep their content."""
        sizes, behind, damaged = await self._append_call(rows, me)
        for name in damaged:
            log.error("store %s: what was kept in %s is gone: somebody replaced it", self._server.name, name.decode())
        for number, last in behind:
            row = rows[number]
            owned = self.runs.get(row[1])
            lacking = [] if owned is None else owned.recent_after(last)
            if lacking:
                log.warning("run %s: the server lacks its events from %d on, they are sent again", row[1], last + 1)
                again, *_ = await self._append_call([*lacking, row], me)
                assert owned is not None, "its events are at hand"
                await list_notices(self._server, [one for each in lacking for one in _listed(owned, each)])
                sizes[number] = again[-1]
        return sizes

    async def _append_call(self, rows: list[_Row], me: str) -> tuple[list[int], list[tuple[int, int]], list[bytes]]:
        """Append in one call: each journal's bytes or REFUSED, the rows that are ahead of the server and where it is,
        and the keys that were damaged."""
        rows = list(rows)
        key = f"{rows[0][0]}run:{rows[0][1]}"
        saved: list[bytes] = []
        for n, row in enumerate(rows):
            more = row[-1]
            if more is not None and more["data"] is not None:  # any bytes: they are no msgpack that the server reads
                saved.append(more["data"])
                rows[n] = (*row[:-1], more | {"data": len(saved) + APPEND_ARGUMENTS})
        sizes, behind, damaged = await self._server.call_in_turn(scripts.APPEND, key, me, pack(rows), *saved)
        return sizes, behind, damaged

    async def finish(self, runs: Sequence[tuple[RunRecord, int]], owner: str) -> None:
        """Bring the index up to date with runs that have ended, and the bytes of their events. May be repeated."""
        rows = []
        for run, size in runs:
            member, has_failed = encode_member(run.id, run.session_id).decode(), run.status in FAILED
            rows.append((member, run.user_id, run.session_id, run.ended_at, size, has_failed))
        for start in range(0, len(rows), CALL_BATCHES_MAX):
            step = rows[start : start + CALL_BATCHES_MAX]
            await self._server.call(scripts.FINISH_RUNS, WORKERS, owner, pack(step))

    # -- after a failover -------------------------------------------------------------------------------------------

    async def recheck_ended(self, before: float) -> None:
        """Check that the server still knows of the ends before that time, and send again what it lacks: a server that
        took over may lack a run's end, which its owner has forgotten."""
        me, due = self.worker_id, list[tuple[float, OwnedRun]]()
        while self._ended and self._ended[0][0] <= before and len(due) < RECHECK_RUNS_MAX:
            due.append(self._ended.popleft())
        if not due:
            return
        try:
            found = await self._server.each((owned.key for _, owned in due), ("owner", "status", "last"))
            for (_, owned), (owner, status, last) in zip(due, found, strict=True):
                if owner != me.encode() or RunStatus(status.decode()).ended:
                    continue
                rows = owned.recent_after(int(last))
                log.warning("run %s: the server lacks its end, it is sent again", owned.run.id)
                sizes = await self._append_rows(rows, me) if rows else [REFUSED]
                if REFUSED in sizes:
                    self.doubtful[owned.run.id] = (owned.run.session_id, "")  # it is closed as lost
                else:
                    await list_notices(self._server, [one for each in rows for one in _listed(owned, each)])
                    await self.finish([(owned.run, sizes[-1])], me)
        except StoreUnavailable:
            self._ended.extendleft(reversed(due))
            raise


def _row(owned: OwnedRun, batch: Append) -> _Row:
    owned.at = batch.at or owned.at  # a batch has a time in the stream, its own or the one before it
    return (
        owned.place,
        batch.run_id,
        batch.first_seq,
        len(batch.events),
        b"\n".join(batch.events).decode(),
        owned.at,
        None if batch.status is None and batch.end is None else (batch.end or batch).status,
        None if batch.end is None else encode_end(owned.run, batch.end),
        _more(batch.checkpoint, batch.taken, batch.notices)
        if batch.checkpoint is not None or batch.taken or batch.notices
        else None,
    )


def _more(checkpoint: Checkpoint | None, taken: Sequence[int], notices: Sequence[Notice] = ()) -> dict[str, Any]:
    """Return the checkpoint, the taken commands and the notices as `scripts.APPEND` takes them."""
    seq, data = (0, None) if checkpoint is None else (checkpoint.seq, checkpoint.data)
    told = [(notice.id, notice.data.decode(), notice.due_at) for notice in notices]
    return {"seq": seq, "data": data, "taken": list(map(str, taken)), "notices": told}


def _listed(owned: OwnedRun, row: _Row) -> list[tuple[int, str, str, str]]:
    """Return the notices of a batch as `list_notices` takes them."""
    notices = [] if row[-1] is None else row[-1]["notices"]
    return [(due_at, owned.run.id, owned.run.session_id, id) for id, _, due_at in notices]
