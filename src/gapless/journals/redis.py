"""The store in Redis or Valkey Streams (7 or later), shared by any number of machines.

Layout. A session with its runs, their journals and its turns is kept in one hash slot (`{session}` in the key), so that
each step on them is one script: the append of a terminal event closes the journal, adds the turn and leaves the queue
at once. A journal is a stream, a batch one entry of it, whose id is the position of its first event. What spans
sessions (workers and their beats, lists of runs and sessions) is in one other slot and is only an index: it is written
before what it points to, finished after it, and whoever takes over a dead worker's runs finishes what it left halfway.

Creating. A run's id is claimed for a session, under a number that is never given twice, in a key of its own: the claim.
A run is created in its session under the claim's number. Who wants the id for another session first spends the claim
where it leads to (no run can be created there under that number, or a lower one, any more), then moves it, if it is
still the same. So of any number of sessions one gets the run, and a worker that wakes up late creates nothing.

Appending. The cost is the round trip, not the entry: one call of one script takes the batches of all runs. The script
checks each run's owner, which is the fence. A batch whose answer was lost is sent again and recognised.

Watching. A run's record names the workers that watch it, and the append publishes to each of them all of its news in
one message, on the one channel that a worker listens to. The stream is the truth: after a lost connection a worker asks
where its watched runs are, and holes are read from the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError, ResponseError

from gapless.errors import (
    CursorExpired,
    GaplessError,
    RunNotFound,
    SessionBusy,
    StoreCorrupt,
    StoreUnavailable,
    UsageError,
)
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import READ_BYTES_MAX, Append, Listener, Store, WorkerFenced
from gapless.journals.lease import LeaseWatch
from gapless.journals.redis_scripts import Script
from gapless.records import ACTIVE, RunEnd, RunRecord, RunStatus, SessionRecord, Turn, session_of, session_taken

__all__ = ["RedisStore"]

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 2.0, 5.0
CONNECTIONS_MAX = 64
CALLS_AT_ONCE = 32
"""Appends to sessions in different slots of a cluster that are under way at the same time."""
VERSION_MIN = 7
CREATE_ATTEMPTS = 10
"""Each fails only when another worker creates or deletes the same run at the same moment."""
CLAIM_PAUSE_S = 0.02
"""Who has claimed a run's id for another session gets so long to create the run there."""
CALL_BYTES_MAX = 8 * 1024 * 1024
"""Batches that go in one call; the server does nothing else while it takes them."""
LISTEN_IDLE_S = 2.0
"""Silence on the listening connection after which it is probed; as much again, and it is replaced."""
RECONNECT_PAUSE_S = 0.2
PAGE_RECORDS = 200
RECENT_BYTES_MAX = 16 * 1024
"""Of each run's accepted events, the newest are kept at hand: a server that takes over may lack them. About 5 s of a
model's text; replicas are milliseconds behind, an append-only file that is flushed every second a second."""
LOOK_AGAIN_S = 5.0
"""So long after a run's end, or after it was begun to watch it, is looked at whether the server still knows of that."""
LOOK_AGAIN_MAX = 2_000
"""Ended runs that wait for that look."""
LOOK_AGAIN_RUNS = 500
"""Of each kind, looked at between two renewals of the lease, which must not wait for long."""
REFUSED = -1
PLACES_MAX = 10_000
"""Runs whose session is remembered."""

log = logging.getLogger("gapless.redis")
_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack_news = msgspec.msgpack.Decoder(list[tuple[str, int, str, bool]]).decode
_decode_run = msgspec.json.Decoder(RunRecord).decode
_decode_session = msgspec.json.Decoder(SessionRecord).decode
_decode_turn = msgspec.json.Decoder(Turn).decode
_decode_error = msgspec.json.Decoder(dict[str, str]).decode
_decode_state = msgspec.json.Decoder(dict[str, Any]).decode
_decode_member = msgspec.json.Decoder(tuple[str, str]).decode

_Row = tuple[str, str, int, int, str, str | None, dict[str, Any] | None]
"""One batch as `scripts.APPEND` takes it: the session's place, the run, first position, count, events, status, end."""

_FAILURES = (RedisError, RedisClusterException, OSError, AttributeError)
"""What redis-py raises where the server did not answer: AttributeError from a connection that its cluster client has
closed under another task's command, as it does with all of them when it has lost the cluster's layout."""
_NOBODY = (redis.ConnectionError, redis.TimeoutError, OSError)
"""And where there is none; not of their subclasses, which say what a server answered."""

_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_WORKERS, _RUNS, _ENDED, _SESSIONS = "{gapless}:workers", "{gapless}:runs", "{gapless}:ended", "{gapless}:sessions"
_SESSION_FIELDS = ("record", "updated_at", "state")


class RedisStore(Store):
    """`redis://[user:password@]host:port/db`, `rediss://` (TLS), `unix://path`; `valkey://` and `valkeys://` alike."""

    scheme: ClassVar[str] = "redis"
    commit_interval_s: ClassVar[float] = 0.002

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        scheme, _, rest = url.partition("://")
        self._url = f"{_SCHEMES.get(scheme, scheme)}://{rest}"
        parts = urlsplit(url)
        self._name = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._lease_watch = LeaseWatch(monotonic)
        self._worker_id = ""
        self._listener: Listener | None = None
        self._client: Any = None
        self._subscriber: Any = None
        self._is_cluster = False
        self._owned: dict[str, _Owned] = {}
        self._doubtful: dict[str, tuple[str, str]] = {}
        """Runs that may be this worker's without anyone here knowing, as an answer was lost: session and nonce."""
        self._watched: set[str] = set()
        self._ended: deque[tuple[float, _Owned]] = deque(maxlen=LOOK_AGAIN_MAX)
        """Runs that have ended not long ago, and when."""
        self._newly_watched: dict[str, float] = {}
        self._appending = asyncio.Semaphore(CALLS_AT_ONCE)
        self._watching = asyncio.Lock()
        """Watching and no longer watching reach the server in the order of the calls."""
        self._places: dict[str, str] = {}
        self._listening: asyncio.Task[None] | None = None
        self._inbox: dict[str, None] = {}
        """Owned runs that commands have come for."""
        self._unclaimed: dict[str, None] = {}
        """Runs that commands have come for before this worker knew that it owns them."""
        self._taking_commands: asyncio.Task[None] | None = None

    # -- the worker -------------------------------------------------------------------------------------------------

    async def open(self, worker_id: str, listener: Listener) -> None:
        first = self._client is None
        if first:
            await self._connect()
        await self._stop_listening()
        self._worker_id, self._listener = worker_id, listener
        self._owned.clear()
        self._doubtful.clear()
        self._ended.clear()
        self._newly_watched.clear()
        try:
            subscribed = asyncio.get_running_loop().create_future()
            self._listening = asyncio.create_task(self._listen(subscribed), name="gapless-redis-listener")
            await asyncio.wait_for(subscribed, CONNECT_TIMEOUT_S + ANSWER_TIMEOUT_S)
            for run_id in tuple(self._watched):  # nothing was heard of them under the new id yet
                await self._watch_again(run_id)
            await self._command("HSET", _WORKERS, worker_id, 0)  # last: what failed before is begun anew
        except BaseException as error:
            if first:
                await self._disconnect()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(f"store {self._name}: no answer to SUBSCRIBE") from error
            raise

    async def _connect(self) -> None:
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": ANSWER_TIMEOUT_S,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 1),  # a pooled connection that the server has closed meanwhile
        }
        try:
            pool = redis.BlockingConnectionPool.from_url(
                self._url, max_connections=CONNECTIONS_MAX, timeout=ANSWER_TIMEOUT_S, **options
            )
            self._client = self._subscriber = redis.Redis.from_pool(pool)
        except ValueError as error:
            raise UsageError(f"store {self._name}: {error}") from error
        try:
            server = await self._command("INFO", "server")
            if int(server["redis_version"].split(".")[0]) < VERSION_MIN:
                version = server["redis_version"]
                raise StoreUnavailable(f"store {self._name}: Redis {version}; {VERSION_MIN} or Valkey is needed")
            self._is_cluster = bool((await self._command("INFO", "cluster")).get("cluster_enabled"))
            if self._is_cluster:
                self._client = redis.RedisCluster.from_url(self._url, **options)
                await self._command("PING")  # which nodes there are
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, StoreUnavailable) and type(error.__cause__) in _NOBODY:
                raise StoreUnavailable(f"{error.message.rstrip('.')}; is a Redis or Valkey running there?") from error
            raise

    async def _disconnect(self) -> None:
        await self._stop_listening()
        clients = {id(client): client for client in (self._client, self._subscriber) if client is not None}
        self._client = self._subscriber = None
        for client in clients.values():
            await client.aclose()

    async def close(self) -> None:
        if self._client is not None:
            try:
                await self._command("HDEL", _WORKERS, self._worker_id)
            except StoreUnavailable as error:  # its lease runs out by itself then
                log.warning("%s", error)
            await self._disconnect()
        self._listener = None

    async def renew(self) -> None:
        if not await self._call(scripts.RENEW, _WORKERS, self._worker_id):
            raise self._fenced()
        await self._look_again()

    async def take_over(self, lease_s: float) -> list[RunRecord]:
        beats = {worker.decode(): int(beat) for worker, beat in (await self._command("HGETALL", _WORKERS)).items()}
        if beats.pop(self._worker_id, None) is None:
            raise self._fenced()
        dead = {worker_id: beats[worker_id] for worker_id in self._lease_watch.expired(beats, lease_s)}
        answer = await self._call(scripts.FENCE, _WORKERS, self._worker_id, _pack(dead))
        if answer == 0:
            raise self._fenced()
        newest_claim, left = answer
        found = [(owner.decode(), *_decode_member(member)) for owner, member in left]
        found += [(self._worker_id, run_id, session_id) for run_id, (session_id, _) in self._doubtful.items()]
        if not found:
            return []
        taken: dict[str, RunRecord] = {}
        settled = []
        for owner, run_id, session_id in found:
            member = _member(run_id, session_id).decode()
            if run_id in self._owned:  # the dead one had only begun to take over what is here already
                settled.append((owner, member, True))
                continue
            place = _place(session_id)
            try:
                outcome, *fields = await self._call(
                    scripts.TAKE, f"{place}run:{run_id}", owner, self._worker_id, newest_claim
                )
                if outcome == b"taken":
                    taken[run_id] = _run_from(run_id, fields[0])
                    self._doubtful[run_id] = (session_id, "")  # until the caller has it
                elif outcome == b"ended":
                    await self._finish([(_run_from(run_id, fields[0]), int(fields[0][-1]))], owner)
            except StoreCorrupt as error:  # there is no run left to be taken
                log.error("run %s: %s", run_id, error)
                outcome = b"damaged"
            settled.append((owner, member, outcome == b"taken"))
        await self._call(scripts.SETTLE, _WORKERS, self._worker_id, _pack(settled))
        for _, run_id, _ in found:
            self._doubtful.pop(run_id, None)
        for run in taken.values():
            self._owned[run.id] = _Owned(run)
            self._inbox[run.id] = None
        self._take_commands()
        return list(taken.values())

    def _fenced(self) -> WorkerFenced:
        self._owned.clear()
        return WorkerFenced(self._worker_id)

    async def _check_lease(self) -> None:
        if not await self._command("HEXISTS", _WORKERS, self._worker_id):
            raise self._fenced()

    # -- calls ------------------------------------------------------------------------------------------------------

    async def _command(self, *arguments: Any, **options: Any) -> Any:
        if self._client is None:
            raise StoreUnavailable(f"store {self._name} is closed")
        try:
            return await self._client.execute_command(*arguments, **options)
        except _FAILURES as error:
            raise await self._translate(error) from error

    async def _call(self, script: Script, key: str, *arguments: Any) -> Any:
        if self._client is None:
            raise StoreUnavailable(f"store {self._name} is closed")
        try:
            try:
                return await self._client.execute_command("EVALSHA", script.sha, 1, key, *arguments)
            except NoScriptError:
                return await self._client.execute_command("EVAL", script.source, 1, key, *arguments)
        except _FAILURES as error:
            raise await self._translate(error) from error

    async def _translate(self, error: Exception) -> GaplessError:
        if _is_damage(error):
            return StoreCorrupt(f"store {self._name}: a key of Gapless holds what is not Gapless's; delete it: {error}")
        if isinstance(error, ReadOnlyError) and self._client is self._subscriber:
            await self._client.connection_pool.disconnect(inuse_connections=False)  # the name may lead elsewhere now
        return StoreUnavailable(f"store {self._name}: {error or type(error).__name__}")

    async def _each(self, hashes: Iterable[str], fields: Sequence[str]) -> list[list[Any]]:
        """These fields of many hashes, in one round trip. One that is damaged has none of them."""
        if self._client is None:
            raise StoreUnavailable(f"store {self._name} is closed")
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in hashes:
                    pipeline.execute_command("HMGET", key, *fields)
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not _is_damage(answer):
                    raise answer
            return [[None] * len(fields) if isinstance(answer, Exception) else answer for answer in answers]
        except _FAILURES as error:
            raise await self._translate(error) from error

    # -- runs -------------------------------------------------------------------------------------------------------

    async def create_run(self, run: RunRecord, *, reject_busy: bool) -> tuple[RunRecord, bool]:
        session = session_of(run)
        place, pointer = _place(run.session_id), _pointer(run.id)
        asked_before, nonce = self._doubtful.get(run.id, ("", ""))
        again = bool(nonce) and asked_before == run.session_id
        if again:
            del self._doubtful[run.id]
        else:
            nonce = uuid.uuid4().hex
        waited_for, spent = b"", b""
        for _ in range(CREATE_ATTEMPTS):
            claim = await self._command("GET", pointer) or b""
            claimed_for = _session_claimed(claim)
            if claim and not again:
                known = await self._record(claimed_for, run.id)
                if known is not None:
                    return known, False
                if claimed_for != run.session_id and claim != waited_for:
                    waited_for = claim
                    await asyncio.sleep(CLAIM_PAUSE_S)
                    continue
            if reject_busy and await self._command("LLEN", f"{place}queue") and not again:
                known = await self._record(run.session_id, run.id)
                if known is not None:  # it is busy with this very run, which another worker has created meanwhile
                    return known, False
                await self._refuse(place, run)
            number = await self._register(run)
            if claimed_for != run.session_id or claim == spent:
                if claim and not await self._make_void(claim, run.id):
                    continue
                mine = b"%d %s" % (number, run.session_id.encode())
                if not await self._call(scripts.CLAIM, pointer, claim, mine):
                    continue
                claim = mine
            run.owner = self._worker_id
            try:
                outcome = await self._call(
                    scripts.CREATE,
                    f"{place}run:{run.id}",
                    place,
                    run.id,
                    self._worker_id,
                    nonce,
                    _encode(run),
                    _encode(session),
                    session.user_id,
                    session.updated_at,
                    _encode(session.state),
                    int(reject_busy),
                    _number_claimed(claim),
                )
            except BaseException:
                self._doubtful[run.id] = (run.session_id, nonce)
                raise
            if outcome == b"created":
                self._owned[run.id] = _Owned(run)
                self._places.pop(run.id, None)
                if run.id in self._unclaimed:
                    del self._unclaimed[run.id]
                    self._inbox[run.id] = None
                    self._take_commands()
                return run, True
            if outcome == b"of another user":  # nothing comes of the claim: who wants the id elsewhere moves it
                raise session_taken(run.session_id)
            if isinstance(outcome, list):
                await self._refuse(place, run)
            if outcome == b"void":
                spent = claim
            again = False
        raise StoreUnavailable(f"run {run.id}: many workers create it at once; try again", run_id=run.id)

    async def _register(self, run: RunRecord) -> int:
        """List the run in the index; a number that is higher than any before. Raises `WorkerFenced`."""
        member = _member(run.id, run.session_id)
        number: int = await self._call(
            scripts.REGISTER_RUN, _WORKERS, self._worker_id, member, run.user_id, run.session_id, run.created_at
        )
        if not number:
            raise self._fenced()
        return number

    async def _make_void(self, claim: bytes, run_id: str) -> bool:
        """Make sure that nothing comes of a claim any more; False when something has."""
        key = f"{_place(_session_claimed(claim))}run:{run_id}"
        outcome, *_ = await self._call(scripts.TAKE, key, "", "", _number_claimed(claim))
        return bool(outcome == b"void")

    async def _refuse(self, place: str, run: RunRecord) -> None:
        session = await self.get_session(run.session_id)
        if session is not None and session.user_id != run.user_id:
            raise session_taken(run.session_id)
        active = (await self._command("LINDEX", f"{place}queue", 0) or b"").decode()
        raise SessionBusy(f"session {run.session_id} has an active run, {active}", run_id=active)

    async def start_run(self, run_id: str, started_at: int) -> str | None:
        owned = self._owned.get(run_id)
        if owned is not None:
            place = owned.place
            outcome = await self._call(
                scripts.START, f"{place}run:{run_id}", place, run_id, self._worker_id, started_at
            )
            if outcome == b"started":
                return None
            if isinstance(outcome, list):
                return str(outcome[0].decode())
        await self._check_lease()
        raise RunNotFound(f"run {run_id} is not queued", run_id=run_id)

    async def get_run(self, run_id: str) -> RunRecord | None:
        for _ in range(2):
            remembered = run_id in self._places
            session_id = await self._session_of(run_id)
            if session_id is None:
                return None
            run = await self._record(session_id, run_id)
            if run is not None:
                return run
            self._places.pop(run_id, None)  # deleted since and perhaps made anew, or only claimed as yet
            if not remembered:
                return None
        return None

    async def _session_of(self, run_id: str) -> str | None:
        known = self._places.get(run_id)
        if known is not None:
            return known
        found = await self._command("GET", _pointer(run_id))
        if found is None:
            return None
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        session_id = self._places[run_id] = _session_claimed(found)
        return session_id

    async def _record(self, session_id: str, run_id: str) -> RunRecord | None:
        fields = await self._command("HMGET", f"{_place(session_id)}run:{run_id}", *scripts.RUN_FIELDS)
        return None if fields[0] is None else _run_from(run_id, fields)

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        runs: list[RunRecord] = []
        async for page in self._run_ids(user_id, session_id, status):
            keys = (f"{_place(session)}run:{run_id}" for run_id, session in page)
            for (run_id, _), fields in zip(page, await self._each(keys, scripts.RUN_FIELDS), strict=True):
                if fields[0] is None:
                    continue
                try:
                    run = _run_from(run_id, fields)
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
            found = await self._command("LRANGE", f"{_place(session_id)}runs", 0, -1)
            ids = [(run_id.decode(), session_id) for run_id in reversed(found)]
        elif status in ACTIVE:
            ids = [_decode_member(member) for member in await self._call(scripts.ACTIVE_RUNS, _WORKERS)]
        else:
            key = _RUNS if user_id is None else f"{_RUNS}:{user_id}"
            start = 0
            while page := await self._command("ZREVRANGE", key, start, start + PAGE_RECORDS - 1):
                yield [_decode_member(member) for member in page]
                start += PAGE_RECORDS
            return
        for start in range(0, len(ids), PAGE_RECORDS):
            yield ids[start : start + PAGE_RECORDS]

    # -- journals ---------------------------------------------------------------------------------------------------

    async def append(self, batches: Sequence[Append]) -> Collection[str]:
        refused: set[str] = set()
        groups: dict[str, list[_Row]] = {}
        sizes: dict[str, int] = {}
        for batch in batches:
            owned = self._owned.get(batch.run_id)
            if owned is None:
                refused.add(batch.run_id)
                continue
            data = b"\n".join(batch.events)
            row: _Row = (
                owned.place,
                batch.run_id,
                batch.first_seq,
                len(batch.events),
                data.decode(),
                None if batch.status is None and batch.end is None else (batch.end or batch).status,
                None if batch.end is None else _end(batch.end),
            )
            slot = owned.place if self._is_cluster else ""
            sizes[slot] = size = sizes.get(slot, 0) + len(data)
            groups.setdefault(f"{slot} {size // CALL_BYTES_MAX}", []).append(row)
        ended = []
        for rows, journal_sizes in await self._append_groups(groups.values()):
            for row, journal_bytes in zip(rows, journal_sizes, strict=True):
                if journal_bytes == REFUSED:
                    refused.add(row[1])
                    continue
                owned = self._owned[row[1]]
                owned.recent.append(row)
                owned.recent_bytes += len(row[4])
                if owned.recent_bytes > RECENT_BYTES_MAX:
                    owned.let_go()
                if row[-1] is not None:
                    owned.run.ended_at = row[-1]["at"]
                    ended.append((owned, journal_bytes))
        if ended:
            await self._finish([(owned.run, journal_bytes) for owned, journal_bytes in ended], self._worker_id)
            for owned, _ in ended:
                del self._owned[owned.run.id]
                self._ended.append((time.monotonic(), owned))
        if refused:
            await self._check_lease()
            for run_id in refused:
                lost = self._owned.pop(run_id, None)
                if lost is not None:
                    self._doubtful[run_id] = (lost.run.session_id, "")  # still this worker's? then it has to be closed
        return refused

    async def _append_groups(self, groups: Collection[list[_Row]]) -> list[tuple[list[_Row], list[int]]]:
        """Each group with how many bytes each journal has now, or REFUSED. All have ended when this raises."""
        if len(groups) == 1:
            return [(rows, await self._append_rows(rows)) for rows in groups]
        answers = await asyncio.gather(*map(self._append_rows, groups), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return list(zip(groups, cast("list[list[int]]", answers), strict=True))

    async def _append_rows(self, rows: list[_Row]) -> list[int]:
        """One call. A server that lacks accepted events (a replica took over that had not got them) is given them
        again, if they are still at hand: the positions keep their content."""
        key = f"{rows[0][0]}run:{rows[0][1]}"
        async with self._appending:
            sizes: list[int]
            sizes, behind, damaged = await self._call(scripts.APPEND, key, self._worker_id, _pack(rows))
            for name in damaged:
                log.error("store %s: what was kept in %s is gone: somebody replaced it", self._name, name.decode())
            for number, last in behind:
                row = rows[number]
                owned = self._owned.get(row[1])
                lacking = [] if owned is None else owned.recent_after(last)
                if lacking:
                    log.warning("run %s: the server lacks its events from %d on, they are sent again", row[1], last + 1)
                    key = f"{row[0]}run:{row[1]}"
                    again, *_ = await self._call(scripts.APPEND, key, self._worker_id, _pack([*lacking, row]))
                    sizes[number] = again[-1]
            return sizes

    async def _look_again(self) -> None:
        """A server that took over may lack a run's end, which its owner has forgotten, and that a run is watched."""
        before = time.monotonic() - LOOK_AGAIN_S
        watched = [run_id for run_id, since in self._newly_watched.items() if since <= before]
        for run_id in watched[:LOOK_AGAIN_RUNS]:
            if run_id in self._watched:
                await self._watch_again(run_id)
            self._newly_watched.pop(run_id, None)
        due: list[tuple[float, _Owned]] = []
        while self._ended and self._ended[0][0] <= before and len(due) < LOOK_AGAIN_RUNS:
            due.append(self._ended.popleft())
        if not due:
            return
        try:
            keys = (f"{owned.place}run:{owned.run.id}" for _, owned in due)
            found = await self._each(keys, ("owner", "status", "last"))
            for (_, owned), (owner, status, last) in zip(due, found, strict=True):
                if owner != self._worker_id.encode() or RunStatus(status.decode()).ended:
                    continue
                rows = owned.recent_after(int(last))
                log.warning("run %s: the server lacks its end, it is sent again", owned.run.id)
                sizes = await self._append_rows(rows) if rows else [REFUSED]
                if REFUSED in sizes:
                    self._doubtful[owned.run.id] = (owned.run.session_id, "")  # it is closed as lost
                else:
                    await self._finish([(owned.run, sizes[-1])], self._worker_id)
        except StoreUnavailable:
            self._ended.extendleft(reversed(due))
            raise

    async def _finish(self, runs: Sequence[tuple[RunRecord, int]], owner: str) -> None:
        """Bring the index up to date with runs that have ended, and the bytes of their events. May be repeated."""
        rows = [
            (_member(run.id, run.session_id).decode(), run.user_id, run.session_id, run.ended_at, size)
            for run, size in runs
        ]
        await self._call(scripts.FINISH_RUNS, _WORKERS, owner, _pack(rows))

    async def read(self, run_id: str, after: int, limit: int) -> list[bytes]:
        for _ in range(2):
            remembered = run_id in self._places
            session_id = await self._session_of(run_id)
            if session_id is None:
                break
            place = _place(session_id)
            answer = await self._call(scripts.READ, f"{place}run:{run_id}", place, run_id, after, limit, READ_BYTES_MAX)
            if answer == b"expired":
                raise CursorExpired(f"the events of run {run_id} are past their retention", run_id=run_id)
            if answer == b"lost":
                raise CursorExpired(
                    f"the events of run {run_id} from {after + 1} on are gone: somebody removed or replaced their key",
                    run_id=run_id,
                )
            if answer is not None:
                first, data = answer
                return data.split(b"\n")[after + 1 - first :][:limit] if data else []
            self._places.pop(run_id, None)
            if not remembered:
                break
        raise RunNotFound(f"no run {run_id}", run_id=run_id)

    async def watch(self, run_id: str) -> None:
        self._watched.add(run_id)
        async with self._watching:
            if await self._set_watching(run_id, on=True):
                self._newly_watched[run_id] = time.monotonic()
            else:
                self._watched.discard(run_id)

    async def unwatch(self, run_id: str) -> None:
        if run_id not in self._watched:
            return
        self._watched.discard(run_id)
        self._newly_watched.pop(run_id, None)
        async with self._watching:
            if run_id in self._watched:
                return  # watched again meanwhile
            try:
                await self._set_watching(run_id, on=False)
            except GaplessError as error:  # what is heard of it now is dropped, to the run's end
                log.warning("%s", error)

    async def _watch_again(self, run_id: str) -> None:
        """And be told where it is."""
        try:
            async with self._watching:
                if not await self._set_watching(run_id, on=True):
                    self._watched.discard(run_id)
        except StoreCorrupt:  # which it is told in a moment
            self._watched.discard(run_id)
        await self._tell(run_id)

    async def _set_watching(self, run_id: str, *, on: bool) -> bool:
        session_id = await self._session_of(run_id)
        if session_id is None:
            return False
        return bool(await self._call(scripts.WATCH, f"{_place(session_id)}run:{run_id}", self._worker_id, int(on)))

    async def send(self, run_id: str, command: bytes) -> None:
        session_id = await self._session_of(run_id)
        if session_id is not None:
            place = _place(session_id)
            if await self._call(scripts.SEND, f"{place}run:{run_id}", place, run_id, command):
                return
        raise RunNotFound(f"no run {run_id}", run_id=run_id)

    async def expire(self, ended_before: int, bytes_max: int | None = None) -> int:
        expired = 0
        limit = "" if bytes_max is None else bytes_max
        while members := await self._call(scripts.PAST_RETENTION, _ENDED, ended_before, limit):
            for member in members:
                run_id, session_id = _decode_member(member)
                place = _place(session_id)
                try:
                    expired += await self._call(scripts.DROP_EVENTS, f"{place}run:{run_id}", place, run_id)
                except StoreCorrupt as error:
                    log.error("run %s: %s", run_id, error)
            await self._call(scripts.FORGET_EVENTS, _ENDED, *members)
        return expired

    # -- what other workers did -------------------------------------------------------------------------------------

    async def _listen(self, subscribed: asyncio.Future[None]) -> None:
        """Hear what is published to this worker; after every loss of the connection, ask for what was missed."""
        while True:
            listening = self._pubsub()
            try:
                await listening.subscribe(f"gapless:{self._worker_id}")
                probed = False
                while True:
                    message = await listening.get_message(timeout=LISTEN_IDLE_S)
                    if message is None:
                        if probed:
                            raise TimeoutError("no answer to PING")
                        await listening.ping()
                    elif message["type"] == "message":
                        self._hear(message["data"])
                    elif message["type"] == "subscribe":
                        if subscribed.done():
                            await self._ask_what_was_missed()
                        else:
                            subscribed.set_result(None)
                    probed = message is None
            except Exception as error:  # whatever it is, followers here hear nothing while nobody listens
                known = isinstance(error, (*_FAILURES, StoreUnavailable)) and str(error)
                log.warning("store %s: listening anew: %s", self._name, known or type(error).__name__)
                await asyncio.sleep(RECONNECT_PAUSE_S)
            finally:
                await listening.aclose()

    def _pubsub(self) -> Any:
        """A connection to hear on: in a cluster to any of its nodes, they pass on what is published on another."""
        if not self._is_cluster:
            return self._subscriber.pubsub()
        return self._client.pubsub(node=self._client.get_random_node())

    async def _stop_listening(self) -> None:
        tasks = [task for task in (self._listening, self._taking_commands) if task is not None]
        self._listening = self._taking_commands = None
        for task in tasks:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)  # redis-py loses a cancellation that meets its own timeout

    def _hear(self, data: bytes) -> None:
        if data[:1] == b"c":
            self._inbox[data[1:].decode()] = None
            self._take_commands()
            return
        for run_id, first_seq, text, closed in _unpack_news(data[1:]):
            if run_id in self._watched and self._listener is not None:
                self._listener.on_events(run_id, first_seq, text.encode().split(b"\n"), closed)
                if closed:
                    self._watched.discard(run_id)

    async def _ask_what_was_missed(self) -> None:
        for run_id in tuple(self._watched):
            await self._tell(run_id)
        self._inbox.update(dict.fromkeys(self._owned))
        self._take_commands()

    async def _tell(self, run_id: str) -> None:
        """Where a watched run is now, whatever was missed of it."""
        try:
            run = await self.get_run(run_id)
        except StoreCorrupt as error:
            log.error("run %s: %s", run_id, error)
            run = None
        if self._listener is not None:
            if run is None:
                self._listener.on_events(run_id, 0, [], closed=True)
            else:
                self._listener.on_events(run_id, run.last_seq + 1, [], run.status.ended)

    def _take_commands(self) -> None:
        if self._inbox and (self._taking_commands is None or self._taking_commands.done()):
            self._taking_commands = asyncio.create_task(self._empty_inbox(), name="gapless-redis-inbox")

    async def _empty_inbox(self) -> None:
        while self._inbox:
            run_id = next(iter(self._inbox))
            del self._inbox[run_id]
            owned = self._owned.get(run_id)
            if owned is None or self._listener is None:
                self._unclaimed[run_id] = None
                if len(self._unclaimed) > PLACES_MAX:
                    del self._unclaimed[next(iter(self._unclaimed))]
                continue
            key = f"{owned.place}commands:{run_id}"
            try:
                commands = await self._command("LRANGE", key, 0, -1)
                for command in commands:
                    self._listener.on_command(run_id, command)
                if commands:
                    await self._command("LTRIM", key, len(commands), -1)
            except StoreCorrupt as error:
                log.error("run %s: its commands are gone: %s", run_id, error)
            except StoreUnavailable as error:
                log.warning("run %s: its commands wait: %s", run_id, error)
                self._inbox[run_id] = None
                await asyncio.sleep(RECONNECT_PAUSE_S)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, session: SessionRecord) -> SessionRecord:
        fields = await self._call(
            scripts.CREATE_SESSION,
            f"{_place(session.id)}session",
            _encode(msgspec.structs.replace(session, state={})),
            session.updated_at,
            _encode(session.state),
        )
        known = _session_from(fields)
        for key in (_SESSIONS, f"{_SESSIONS}:{known.user_id}"):
            await self._command("ZADD", key, "GT", known.updated_at, session.id)
        return known

    async def get_session(self, session_id: str) -> SessionRecord | None:
        fields = await self._command("HMGET", f"{_place(session_id)}session", *_SESSION_FIELDS)
        return None if fields[0] is None else _session_from(fields)

    async def list_sessions(self, *, user_id: str | None = None, limit: int = 100) -> list[SessionRecord]:
        sessions: list[SessionRecord] = []
        key = _SESSIONS if user_id is None else f"{_SESSIONS}:{user_id}"
        start = 0
        while len(sessions) < limit:
            ids = await self._command("ZREVRANGE", key, start, start + PAGE_RECORDS - 1)
            if not ids:
                break
            start += PAGE_RECORDS
            for fields in await self._each((f"{_place(i.decode())}session" for i in ids), _SESSION_FIELDS):
                if fields[0] is not None:
                    session = _session_from(fields)
                    if user_id is None or session.user_id == user_id:
                        sessions.append(session)
        return sessions[:limit]

    async def update_state(self, session_id: str, changes: dict[str, Any], updated_at: int) -> SessionRecord | None:
        place = _place(session_id)
        while True:  # each turn more means that somebody else's update has come through
            fields = await self._command("HMGET", f"{place}session", *_SESSION_FIELDS)
            if fields[0] is None:
                return None
            session = _session_from(fields)
            session.state.update(changes)
            state = _encode(session.state)
            answer = await self._call(scripts.UPDATE_STATE, f"{place}session", place, fields[2], state, updated_at)
            if answer == b"busy":
                raise _busy(session_id)
            if answer == b"updated":
                break
        for key in (_SESSIONS, f"{_SESSIONS}:{session.user_id}"):
            await self._command("ZADD", key, "XX", "GT", updated_at, session_id)
        session.updated_at = updated_at
        return session

    async def delete_session(self, session_id: str) -> bool:
        session = await self.get_session(session_id)
        place = _place(session_id)
        answer = await self._call(scripts.DELETE, f"{place}session", place)
        if answer == b"busy":
            raise _busy(session_id)
        deleted, runs = answer
        lists = [_RUNS] if session is None else [_RUNS, f"{_RUNS}:{session.user_id}"]
        for run_id, claim in ((run_id.decode(), claim) for run_id, claim in runs):
            self._places.pop(run_id, None)
            await self._call(scripts.CLAIM, _pointer(run_id), b"%s %s" % (claim, session_id.encode()), "")
            for key in lists:
                await self._command("ZREM", key, _member(run_id, session_id))
            await self._call(scripts.FORGET_EVENTS, _ENDED, _member(run_id, session_id))
        for key in [_SESSIONS] if session is None else [_SESSIONS, f"{_SESSIONS}:{session.user_id}"]:
            await self._command("ZREM", key, session_id)
        return bool(deleted)

    async def turns(self, session_id: str) -> list[Turn]:
        return [_decode_turn(turn) for turn in await self._command("LRANGE", f"{_place(session_id)}turns", 0, -1)]

    # -- active runs ------------------------------------------------------------------------------------------------

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        if self._client is None:
            raise StoreUnavailable(f"store {self._name} is closed")
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for place in map(_place, session_ids):
                    pipeline.execute_command("EVAL", scripts.OLDEST_ACTIVE.source, 1, f"{place}queue", place)
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
        except _FAILURES as error:
            raise await self._translate(error) from error
        active = {}
        for session_id, answer in zip(session_ids, answers, strict=True):
            if isinstance(answer, Exception) and not _is_damage(answer):
                raise await self._translate(answer) from answer
            if isinstance(answer, list) and answer[1][0] is not None:
                with contextlib.suppress(StoreCorrupt):  # of that run alone, and said to whoever asks for it
                    active[session_id] = _run_from(answer[0].decode(), answer[1])
        return active


class _Owned:
    """A run that this worker owns, and where it is kept."""

    __slots__ = ("place", "recent", "recent_bytes", "run")

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.place = _place(run.session_id)
        self.recent: deque[_Row] = deque()
        """The batches accepted last, kept at hand."""
        self.recent_bytes = 0

    def let_go(self) -> None:
        """Of the oldest of them, down to the bound; the newest one stays."""
        while self.recent_bytes > RECENT_BYTES_MAX and len(self.recent) > 1:
            self.recent_bytes -= len(self.recent.popleft()[4])

    def recent_after(self, last: int) -> list[_Row]:
        """The batches from that position on; none when some of them are no longer at hand."""
        rows = [row for row in self.recent if row[2] > last]
        return rows if rows and rows[0][2] == last + 1 else []


def _is_damage(error: Exception) -> bool:
    """It is about what is kept in a key, and no reason to ask again."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _place(session_id: str) -> str:
    """What the keys of a session begin with. The braces hold the part that decides the hash slot."""
    tag = session_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return f"gapless:{{{tag}}}:"


def _pointer(run_id: str) -> str:
    """The key of the claim to a run's id: a number and the session in which the run is."""
    return f"gapless:at:{run_id}"


def _number_claimed(claim: bytes) -> int:
    return int(claim.partition(b" ")[0])


def _session_claimed(claim: bytes) -> str:
    return claim.partition(b" ")[2].decode()


def _member(run_id: str, session_id: str) -> bytes:
    """A run as the index lists it."""
    return _encode((run_id, session_id))


def _end(end: RunEnd) -> dict[str, Any]:
    return {
        "at": end.ended_at,
        "error": "" if end.error is None else _encode(end.error).decode(),
        "turn": _encode(end.turn).decode(),
        "state": None if end.state is None else _encode(end.state).decode(),
    }


def _run_from(run_id: str, fields: Sequence[Any]) -> RunRecord:
    record, owner, status, last, started_at, ended_at, error, expired, _ = fields
    try:
        run = _decode_run(record)
        run.owner, run.status, run.last_seq = owner.decode(), RunStatus(status.decode()), int(last)
        run.started_at = None if started_at is None else int(started_at)
        run.ended_at = None if ended_at is None else int(ended_at)
        run.error = _decode_error(error) if error else None
    except (AttributeError, TypeError, ValueError) as cause:  # a field that is not there, or not Gapless's
        raise StoreCorrupt(f"run {run_id}: its record is damaged", run_id=run_id) from cause
    run.expired = expired is not None
    return run


def _busy(session_id: str) -> SessionBusy:
    return SessionBusy(f"session {session_id} has an active run; cancel it first")


def _session_from(fields: Sequence[Any]) -> SessionRecord:
    record, updated_at, state = fields
    session = _decode_session(record)
    session.updated_at, session.state = int(updated_at), _decode_state(state)
    return session
