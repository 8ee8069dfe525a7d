"""The store in Redis Streams, on a real Valkey: the suite of every store, and what servers and networks can do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as client
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as ConnectionLost

from gapless import Runner
from gapless.errors import CursorExpired, RunNotFound, SessionBusy, StoreCorrupt, StoreUnavailable, UsageError
from gapless.journals import open_store
from gapless.journals import redis as redis_store
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Append, Store, WorkerFenced
from gapless.journals.journal import Follower, Journals
from gapless.journals.redis import RedisStore
from gapless.records import RunStatus
from journals.conformance import (
    LEASE_S,
    WAIT_S,
    Cluster,
    Conformance,
    Heard,
    Worker,
    a_run,
    an_end,
    an_event,
    conforms_in_any_order,
)
from support.valkey import Valkey


class ServerPlace:
    def __init__(self, server: Valkey) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        with client.Redis.from_url(self.url) as connection:
            connection.flushall()

    def store(self, clock: Callable[[], float]) -> Store:
        return RedisStore(self.url, monotonic=clock)

    async def crash(self, store: Store) -> None:
        assert isinstance(store, RedisStore)
        await store._disconnect()


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def cluster_server() -> Iterator[Valkey]:
    """One node that has all hash slots of a cluster, and refuses what would not work on several."""
    with Valkey(config={"cluster-enabled": "yes"}) as server:
        with client.Redis(port=server.port) as connection:
            connection.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + WAIT_S
            while b"cluster_state:ok" not in connection.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < deadline, "the node does not take its slots"
        yield server


class TestRedisStore(Conformance):
    @pytest.fixture
    def place(self, server: Valkey) -> ServerPlace:
        return ServerPlace(server)


class TestRedisStoreOnACluster(Conformance):
    @pytest.fixture
    def place(self, cluster_server: Valkey) -> ServerPlace:
        return ServerPlace(cluster_server)


def test_conforms_in_any_order(server: Valkey) -> None:
    conforms_in_any_order(lambda: ServerPlace(server), examples=40)


@pytest.fixture
def place(server: Valkey) -> ServerPlace:
    return ServerPlace(server)


@pytest.fixture
async def cluster(place: ServerPlace) -> AsyncIterator[Cluster]:
    cluster = Cluster(place)
    yield cluster
    await cluster.close()


@pytest.fixture
async def a(cluster: Cluster) -> Worker:
    return await cluster.worker("a")


@pytest.fixture
async def b(cluster: Cluster) -> Worker:
    return await cluster.worker("b")


@pytest.fixture
def server_side(place: ServerPlace) -> Iterator[Any]:
    with client.Redis.from_url(place.url) as connection:
        yield connection


class Losses:
    """Loses what goes between a store and its server: the answer to a script, or the call itself."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(store, RedisStore)
        self.answers: list[scripts.Script] = []
        self.calls: list[scripts.Script] = []
        self._execute = store._client.execute_command
        monkeypatch.setattr(store._client, "execute_command", self._lossy)

    async def _lossy(self, *arguments: Any, **options: Any) -> Any:
        for script in self.calls:
            if script.sha in arguments:
                self.calls.remove(script)
                raise ConnectionLost("cut before the call")
        answer = await self._execute(*arguments, **options)
        for script in self.answers:
            if script.sha in arguments or script.source in arguments:
                self.answers.remove(script)
                raise ConnectionLost("cut before the answer")
        return answer


async def warm(*workers: Worker) -> None:
    """Make the server know the scripts, so that the losses hit their calls and not their loading."""
    for worker in workers:
        await worker.create(f"warm-{worker.id}", f"warm-{worker.id}")
        await worker.append(f"warm-{worker.id}", 1, "1")
        await worker.end(f"warm-{worker.id}", 2)
        assert await worker.store.take_over(LEASE_S) == []


# -- answers that are lost ---------------------------------------------------------------------------------------------


async def test_an_append_whose_answer_was_lost_is_accepted_once(a: Worker, b: Worker, monkeypatch: Any) -> None:
    await warm(a)
    losses = Losses(a.store, monkeypatch)
    await a.create("r")
    events = [an_event("1"), an_event("2")]
    batches = [Append("r", 1, events)]
    losses.answers = [scripts.APPEND]
    with pytest.raises(StoreUnavailable, match="cut before the answer"):
        await a.store.append(batches)
    assert not await a.store.append(batches)
    assert await b.read_all("r") == events
    events += await a.append("r", 3, "3")
    last = [Append("r", 4, [an_event("end")], an_end("r", state={"n": 1}))]
    for lost in ("APPEND", "FINISH_RUNS"):
        losses.answers = [getattr(scripts, lost)]
        with pytest.raises(StoreUnavailable):
            await a.store.append(last)
    losses.calls = [scripts.FINISH_RUNS]
    with pytest.raises(StoreUnavailable):
        await a.store.append(last)
    assert not await a.store.append(last)
    assert await b.read_all("r") == [*events, an_event("end")]
    assert len(await b.store.turns("s")) == 1
    assert await b.store.expire(10**6) == 2


async def test_other_events_at_the_same_position_are_refused(a: Worker, b: Worker) -> None:
    await a.create("r")
    events = await a.append("r", 1, "1", "2")
    assert set(await a.store.append([Append("r", 1, [an_event("1"), an_event("other")])])) == {"r"}
    assert await b.read_all("r") == events


async def test_a_creation_whose_answer_was_lost_may_be_asked_for_again(a: Worker, b: Worker, monkeypatch: Any) -> None:
    await warm(a)
    losses = Losses(a.store, monkeypatch)
    losses.answers = [scripts.CREATE]
    with pytest.raises(StoreUnavailable):
        await a.create("r")
    await a.create("r", reject_busy=True)
    assert not (await a.store.create_run(a_run("r"), reject_busy=False))[1]
    await a.append("r", 1, "1")


async def test_a_creation_whose_answer_was_lost_is_not_left_running(a: Worker, monkeypatch: Any) -> None:
    """Its caller gave up: the run is handed to whoever closes lost ones."""
    await warm(a)
    losses = Losses(a.store, monkeypatch)
    losses.answers = [scripts.CREATE]
    with pytest.raises(StoreUnavailable):
        await a.create("r")
    assert [run.id for run in await a.store.take_over(LEASE_S)] == ["r"]
    assert await a.store.take_over(LEASE_S) == []
    await a.end("r", 1, status=RunStatus.FAILED)
    losses.calls = [scripts.CREATE]
    with pytest.raises(StoreUnavailable):
        await a.create("q")
    assert await a.store.take_over(LEASE_S) == []
    assert await a.store.get_run("q") is None
    await a.create("q")


async def test_a_start_whose_answer_was_lost(a: Worker, monkeypatch: Any) -> None:
    await a.create("warm")
    await a.store.start_run("warm", 1)
    await a.create("r", "s2")
    losses = Losses(a.store, monkeypatch)
    losses.answers = [scripts.START]
    with pytest.raises(StoreUnavailable):
        await a.store.start_run("r", 5)
    assert await a.store.start_run("r", 5) is None


@pytest.mark.parametrize("lost", ["FENCE", "TAKE", "SETTLE"])
@pytest.mark.parametrize("when", ["calls", "answers"])
async def test_a_takeover_that_is_cut_short_is_made_again(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any, lost: str, when: str
) -> None:
    c = await cluster.worker("c")
    await warm(b)
    for i in range(3):
        await a.create(f"r{i}", f"s{i}")
    await cluster.stop(a)
    getattr(Losses(b.store, monkeypatch), when).append(getattr(scripts, lost))
    taken: list[str] = []
    for _ in range(4):
        try:
            taken += [run.id for run in await b.store.take_over(LEASE_S)]
        except StoreUnavailable:
            continue
    assert sorted(taken) == ["r0", "r1", "r2"]
    assert await c.store.take_over(LEASE_S) == []
    for run_id in taken:
        await b.end(run_id, 1)


@pytest.mark.parametrize("lost", ["FENCE", "TAKE", "SETTLE"])
async def test_a_takeover_that_its_worker_did_not_outlive_is_made_by_another(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any, lost: str
) -> None:
    c = await cluster.worker("c")
    await warm(b)
    for i in range(3):
        await a.create(f"r{i}", f"s{i}")
    await cluster.stop(a)
    Losses(b.store, monkeypatch).answers.append(getattr(scripts, lost))
    with pytest.raises(StoreUnavailable):
        await b.store.take_over(LEASE_S)
    first = [run.id for run in await c.store.take_over(LEASE_S)]
    await cluster.crash(b)
    rest = [run.id for run in (await cluster.lapse(c))["c"]]
    assert sorted(first + rest) == ["r0", "r1", "r2"]
    for run_id in ("r0", "r1", "r2"):
        await c.end(run_id, 1)


async def test_a_watch_whose_answer_was_lost_is_undone(
    a: Worker, b: Worker, server_side: Any, monkeypatch: Any
) -> None:
    await a.create("r")
    await b.store.watch("r")
    await b.store.unwatch("r")
    Losses(b.store, monkeypatch).answers.append(scripts.WATCH)
    quiet = {"on_refused": _never, "on_command": _never, "on_fenced": _never}
    with pytest.raises(StoreUnavailable):
        await Journals(b.store, **quiet).attach("r")  # type: ignore[arg-type]
    assert server_side.hget("gapless:{s}:run:r", "watchers") == b""
    assert isinstance(b.store, RedisStore)
    assert b.store._watched == set()


async def test_followers_share_one_connection_and_runs_one_call(
    a: Worker, b: Worker, server_side: Any, monkeypatch: Any
) -> None:
    runs = [f"r{i}" for i in range(200)]
    for run_id in runs:
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    assert isinstance(a.store, RedisStore)
    mine = f"gapless:{b.id}"
    assert server_side.pubsub_numsub(mine) == [(mine.encode(), 1)]
    assert len(server_side.client_list()) < 20
    before = server_side.info("commandstats")
    assert not await a.store.append([Append(run_id, 1, [an_event("1"), an_event("2")]) for run_id in runs])
    after = server_side.info("commandstats")
    await b.heard.until(lambda: all(b.heard.last.get(run_id) == 2 for run_id in runs))

    def calls(command: str) -> int:
        return int(after[f"cmdstat_{command}"]["calls"] - before.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    assert (calls("xadd"), calls("publish")) == (200, 1)
    assert calls("evalsha") <= 2  # the other may be a lease's


# -- workers that die halfway ------------------------------------------------------------------------------------------


async def test_a_run_that_another_worker_creates_meanwhile_does_not_stand_in_its_own_way(
    a: Worker, b: Worker, monkeypatch: Any
) -> None:
    assert isinstance(a.store, RedisStore)
    command = a.store._command
    created: list[Any] = []

    async def late(*arguments: Any, **options: Any) -> Any:
        answer = await command(*arguments, **options)
        if arguments[0] == "GET" and not created:
            created.append(await b.create("r", reject_busy=True))
        return answer

    monkeypatch.setattr(a.store, "_command", late)
    record, is_new = await a.store.create_run(a_run("r"), reject_busy=True)
    assert (record.id, record.owner, is_new) == ("r", b.id, False)


async def test_a_worker_that_dies_while_it_creates_leaves_nothing_in_the_way(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any
) -> None:
    await warm(a)
    for run_id, lost in (("r1", "REGISTER_RUN"), ("r2", "CREATE")):
        Losses(a.store, monkeypatch).calls.append(getattr(scripts, lost))
        with pytest.raises(StoreUnavailable):
            await a.create(run_id, "s")
    await b.create("r1", "elsewhere")
    await b.create("r2", "elsewhere")
    await cluster.crash(a)
    assert await b.store.list_runs(session_id="s") == []
    assert (await cluster.lapse(b))["b"] == []
    await b.create("r3", "s", reject_busy=True)
    assert {run.id for run in await b.store.list_runs(status=RunStatus.QUEUED)} == {"r1", "r2", "r3"}


async def test_a_creator_that_was_taken_for_dead_creates_nothing(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any
) -> None:
    """It stops between its two steps, is fenced, and wakes up."""
    await warm(a)
    assert isinstance(a.store, RedisStore)
    execute = a.store._client.execute_command
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleepy(*arguments: Any, **options: Any) -> Any:
        if scripts.CREATE.sha in arguments:
            asleep.set()
            await awake.wait()
        return await execute(*arguments, **options)

    monkeypatch.setattr(a.store._client, "execute_command", sleepy)
    creating = asyncio.create_task(a.create("r"))
    await asleep.wait()
    assert (await cluster.lapse(b))["b"] == []
    awake.set()
    with pytest.raises(WorkerFenced):
        await creating
    assert await b.store.get_run("r") is None
    await b.create("r", reject_busy=True)


async def test_a_worker_that_dies_right_after_an_end_leaves_the_index_to_others(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any
) -> None:
    await warm(a)
    await a.create("r")
    await a.create("other", "s2", created_at=50)
    Losses(a.store, monkeypatch).calls.append(scripts.FINISH_RUNS)
    with pytest.raises(StoreUnavailable):
        await a.end("r", 1, ended_at=200)
    await b.create("next", reject_busy=True)  # the end itself was whole
    await cluster.crash(a)
    assert [run.id for run in (await cluster.lapse(b))["b"]] == ["other"]
    assert [session.id for session in await b.store.list_sessions()][:2] == ["s", "warm-a"]
    assert await b.store.expire(201) == 2


# -- connections and servers that go away ------------------------------------------------------------------------------


async def test_a_watcher_whose_connection_was_cut_learns_what_it_missed(
    a: Worker, b: Worker, server_side: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(redis_store, "RECONNECT_PAUSE_S", 0.01)
    for run_id in ("r", "ends"):
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    await b.create("mine", "s3")
    assert server_side.client_kill_filter(_type="pubsub") >= 2  # one of the test before may be on its way out
    await a.append("r", 1, "1", "2")
    await a.end("ends", 1)
    await a.store.send("mine", b"cancel")
    await b.heard.until(lambda: b.heard.last.get("r") == 2 and "ends" in b.heard.closed)
    await b.heard.until(lambda: b.heard.commands == [("mine", b"cancel")])
    await a.append("r", 3, "3")
    await b.heard.until(lambda: b.heard.last.get("r") == 3)


async def test_a_connection_that_is_closed_under_its_user_is_a_lost_one(a: Worker, b: Worker, monkeypatch: Any) -> None:
    """As redis-py's cluster client does to all of them in the middle of a failover."""
    closed = AttributeError("'NoneType' object has no attribute 'writelines'")
    monkeypatch.setattr(redis_store, "RECONNECT_PAUSE_S", 0.01)
    get_message, failures = PubSub.get_message, [closed]

    async def lossy(self: PubSub, **options: Any) -> Any:
        message = await get_message(self, **options)
        if failures and message is not None:
            raise failures.pop()
        return message

    await a.create("r")
    await b.store.watch("r")
    monkeypatch.setattr(PubSub, "get_message", lossy)
    await a.append("r", 1, "1")
    await b.heard.until(lambda: b.heard.last.get("r") == 1)  # by the call that was under way
    await a.append("r", 2, "2")
    await b.heard.until(lambda: b.heard.last.get("r") == 2)
    assert not failures

    async def broken(*arguments: Any, **options: Any) -> Any:
        raise closed

    assert isinstance(b.store, RedisStore)
    monkeypatch.setattr(b.store._client, "execute_command", broken)
    with pytest.raises(StoreUnavailable, match="writelines"):
        await b.store.get_run("r")


async def test_a_watcher_that_registers_again_learns_what_it_missed(a: Worker, b: Worker, monkeypatch: Any) -> None:
    assert isinstance(b.store, RedisStore)
    for run_id in ("r", "ends"):
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    stop_listening = b.store._stop_listening

    async def stop_and_miss() -> None:
        await stop_listening()
        if "r" not in b.heard.last:
            await a.append("r", 1, "1", "2")
            await a.end("ends", 1)

    monkeypatch.setattr(b.store, "_stop_listening", stop_and_miss)
    await b.store.open("b again", b.heard)
    assert b.heard.last["r"] == 2
    assert "ends" in b.heard.closed
    await a.append("r", 3, "3")
    await b.heard.until(lambda: b.heard.last.get("r") == 3)


async def test_a_command_that_comes_before_the_answer_to_the_creation(a: Worker, b: Worker, monkeypatch: Any) -> None:
    assert isinstance(b.store, RedisStore)
    await warm(b)
    execute = b.store._client.execute_command

    async def slow(*arguments: Any, **options: Any) -> Any:
        answer = await execute(*arguments, **options)
        if scripts.CREATE.sha in arguments:
            await a.store.send("r", b"cancel")
            async with asyncio.timeout(WAIT_S):
                while "r" not in b.store._unclaimed:  # type: ignore[attr-defined]  # a RedisStore
                    await asyncio.sleep(0.001)
        return answer

    monkeypatch.setattr(b.store._client, "execute_command", slow)
    await b.create("r")
    await b.heard.until(lambda: b.heard.commands == [("r", b"cancel")])


class Proxy:
    """Passes bytes on, until its connections are silenced: then they stay open and nothing comes through."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: set[asyncio.Event] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def silence(self) -> None:
        for silent in self._open:
            silent.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        silent = asyncio.Event()
        self._open.add(silent)
        for source, target in ((reader, back), (there, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, target, silent)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                if not silent.is_set():
                    target.write(data)
        finally:
            target.close()


async def test_a_connection_that_falls_silent_is_replaced(a: Worker, server: Valkey, monkeypatch: Any) -> None:
    """As after a cut that neither side is told of."""
    monkeypatch.setattr(redis_store, "LISTEN_IDLE_S", 0.05)
    monkeypatch.setattr(redis_store, "RECONNECT_PAUSE_S", 0.01)
    monkeypatch.setattr(redis_store, "ANSWER_TIMEOUT_S", 1.0)  # the calls of this test itself must not need more
    proxy = Proxy(server.port)
    async with proxy as url:
        c = Worker("c", RedisStore(url))
        await c.store.open("c", c.heard)
        await a.create("r")
        await c.store.watch("r")
        await c.create("mine", "s2")
        proxy.silence()
        await a.append("r", 1, "1")
        await a.store.send("mine", b"cancel")
        await c.heard.until(lambda: c.heard.last.get("r") == 1 and bool(c.heard.commands))
        await a.append("r", 2, "2")
        await c.heard.until(lambda: c.heard.last.get("r") == 2)
        await c.store.close()


async def test_cut_connections_of_calls_are_made_anew(a: Worker, server_side: Any) -> None:
    await a.create("r")
    for seq in range(1, 6):
        server_side.client_kill_filter(_type="normal", skipme=True)
        await a.append("r", seq, str(seq))
    assert len(await a.read_all("r")) == 5


async def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its log flushed on every write. Meanwhile the producer is held back and the followers wait."""
    monkeypatch.setattr(redis_store, "RECONNECT_PAUSE_S", 0.01)
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = Valkey(data_dir=tmp_path, config=config, persist=True)
    server.start()
    url = f"redis://127.0.0.1:{server.port}"
    owner, reader = RedisStore(url), RedisStore(url)
    quiet = {"on_refused": _never, "on_command": _never, "on_fenced": _never}
    writing, following = Journals(owner, **quiet), Journals(reader, **quiet)  # type: ignore[arg-type]
    await writing.open("a")
    await following.open("b")
    await owner.create_run(a_run("r"), reject_busy=False)
    journal = writing.create("r")
    copy = await following.attach("r")
    events = [an_event(str(i)) for i in range(300)]

    async def follow() -> list[bytes]:
        follower, seen = Follower(copy), list[bytes]()
        while (part := await follower.next()) is not None:
            assert part.first_seq == len(seen) + 1
            seen += part.events
        return seen

    follower = asyncio.create_task(follow())
    for i, event in enumerate(events):
        journal.append(event)
        if i % 10 == 0:
            await asyncio.sleep(0.001)
        if i == 150:
            async with asyncio.timeout(WAIT_S):
                while journal.last < 50:
                    await asyncio.sleep(0.001)
            server.kill()
    await asyncio.sleep(0.05)
    assert journal.last < 300
    again = Valkey(port=server.port, data_dir=tmp_path, config=config)
    again.start()
    try:
        journal.close(an_event("end"), an_end("r"))
        async with asyncio.timeout(WAIT_S):
            await journal.drain()
            assert await follower == [*events, an_event("end")]
        assert journal.lost is None
        await following.release(copy)
        await writing.close()
        await following.close()
    finally:
        again.stop()


def _never(*_: object) -> None:
    raise AssertionError("nothing is refused, commanded or fenced here")


class Replica:
    """What a replica has got of a session so far, and takes over with."""

    def __init__(self, server_side: Any, session_id: str = "s") -> None:
        self._server = server_side
        self._pattern = f"gapless:{{{session_id}}}:*"
        self._has = {key: server_side.dump(key) for key in server_side.keys(self._pattern)}

    def promote(self) -> None:
        for key in self._server.keys(self._pattern):
            self._server.delete(key)
        for key, value in self._has.items():
            self._server.restore(key, 0, value)


async def test_a_server_that_lacks_accepted_events_is_given_them_again(
    a: Worker, b: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LOOK_AGAIN_S", 0.0)
    await a.create("r")
    events = await a.append("r", 1, "1")
    replica = Replica(server_side)
    await b.store.watch("r")
    events += await a.append("r", 2, "2", "3")
    events += await a.append("r", 4, "4", status=RunStatus.WAITING)
    replica.promote()
    assert len(await b.read_all("r")) == 1
    await b.store.renew()  # nor did the replica know that it is watched
    events += await a.append("r", 5, "5")
    assert await b.read_all("r") == events
    replica = Replica(server_side)
    events += await a.append("r", 6, "6")
    replica.promote()
    events.append(await a.end("r", 7))
    assert await b.read_all("r") == events
    await b.heard.until(lambda: "r" in b.heard.closed)
    assert [turn.run_id for turn in await b.store.turns("s")] == ["r"]


async def test_a_server_that_lacks_an_accepted_end_is_given_it_again(
    a: Worker, b: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LOOK_AGAIN_S", 0.0)
    await a.create("r")
    events = await a.append("r", 1, "1")
    replica = Replica(server_side)
    events += await a.append("r", 2, "2")
    events.append(await a.end("r", 3, ended_at=70))
    replica.promote()
    with pytest.raises(SessionBusy):
        await b.create("next", reject_busy=True)
    await a.store.renew()
    record = await b.store.get_run("r")
    assert record is not None
    assert (record.status, record.ended_at) == (RunStatus.FINISHED, 70)
    assert await b.read_all("r") == events
    assert [turn.run_id for turn in await b.store.turns("s")] == ["r"]
    await b.create("next", reject_busy=True)
    await a.store.renew()
    assert await a.store.take_over(LEASE_S) == []
    assert await b.store.expire(71) == 1


async def test_a_run_whose_lost_events_are_no_longer_at_hand_is_handed_over_to_be_closed(
    a: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "RECENT_BYTES_MAX", 1)
    monkeypatch.setattr(redis_store, "LOOK_AGAIN_S", 0.0)
    for run_id, ends in (("r", False), ("q", True)):
        await a.create(run_id, run_id)
        events = await a.append(run_id, 1, "1")
        replica = Replica(server_side, run_id)
        await a.append(run_id, 2, "2")
        await a.append(run_id, 3, "3")
        if ends:
            await a.end(run_id, 4)
        replica.promote()
        if ends:
            await a.store.renew()
        else:
            assert set(await a.store.append([Append(run_id, 4, [an_event("4")])])) == {run_id}
        [run] = await a.store.take_over(LEASE_S)
        assert (run.id, run.last_seq) == (run_id, 1)
        assert await a.store.take_over(LEASE_S) == []
        assert await a.read_all(run_id) == events
        await a.end(run_id, 2, status=RunStatus.FAILED)


async def test_a_server_that_is_not_there(server: Valkey) -> None:
    for url in ("redis://user:secret@127.0.0.1:1/0", "unix:///nowhere/redis.sock"):
        with pytest.raises(StoreUnavailable) as caught:
            await open_store(url).open("a", Heard(open_store(url)))
        assert "secret" not in str(caught.value)
        assert str(caught.value).endswith("is a Redis or Valkey running there?")
    with pytest.raises(StoreUnavailable) as caught:
        wrong = f"redis://:secret@127.0.0.1:{server.port}/0"
        await open_store(wrong).open("a", Heard(open_store(wrong)))
    assert "secret" not in str(caught.value)
    assert "running there" not in str(caught.value)
    with pytest.raises(UsageError):
        nonsense = f"redis://127.0.0.1:{server.port}/0?max_idle=many&health_check_interval=often"
        await open_store(nonsense).open("a", Heard(open_store(nonsense)))


async def test_a_server_without_memory_holds_back(a: Worker, server_side: Any) -> None:
    await a.create("r")
    events = await a.append("r", 1, "1")
    server_side.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await a.append("r", 2, "2")
        assert await a.read_all("r") == events
    finally:
        server_side.config_set("maxmemory", 0)
    events += await a.append("r", 2, "2")
    assert await a.read_all("r") == events


# -- keys that somebody else has written to ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["replaced", "added to"])
async def test_a_journal_that_somebody_damages_costs_its_own_past_alone(
    a: Worker, b: Worker, server_side: Any, how: str
) -> None:
    for run_id in "pqr":  # q's batch is in the middle of each call
        await a.create(run_id, f"s{run_id}")
        await a.append(run_id, 1, "1", "2")
        await b.store.watch(run_id)
    key = "gapless:{sq}:events:q"
    if how == "replaced":
        server_side.delete(key)
        server_side.set(key, "x")
    else:
        server_side.xadd(key, {"x": "y"})
    for seq, end in ((3, False), (4, True)):
        batches = [Append(run_id, seq, [an_event(str(seq))], an_end(run_id) if end else None) for run_id in "pqr"]
        assert not await a.store.append(batches)
    await b.heard.until(lambda: b.heard.closed == set("pqr"))
    for run_id in "pr":
        assert await b.read_all(run_id) == [an_event(str(seq)) for seq in range(1, 5)]
    assert await b.read_all("q", after=2) == [an_event("3"), an_event("4")]
    with pytest.raises(CursorExpired, match="run q from 1 on are gone"):
        await b.store.read("q", 0, 10)
    record = await b.store.get_run("q")
    assert record is not None
    assert (record.status, record.last_seq) == (RunStatus.FINISHED, 4)
    assert [turn.run_id for turn in await b.store.turns("sq")] == ["q"]
    assert server_side.exists("gapless:{sq}:damaged:q"), "what was found there is kept"


@pytest.mark.parametrize("field", [None, "last"])
async def test_a_record_that_somebody_damages_is_one_run_less(
    a: Worker, b: Worker, server_side: Any, field: str | None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(redis_store, "LOOK_AGAIN_S", 0.0)
    for run_id in "pqr":
        await a.create(run_id, f"s{run_id}")
        await a.append(run_id, 1, "1")
        await b.store.watch(run_id)
    key = "gapless:{sq}:run:q"
    if field is None:
        server_side.delete(key)
        server_side.set(key, "x")
    else:
        server_side.hset(key, field, "x")
    assert set(await a.store.append([Append(run_id, 2, [an_event("2")]) for run_id in "pqr"])) == {"q"}
    await b.heard.until(lambda: b.heard.last == {"p": 2, "r": 2})
    for worker in (a, b):
        await worker.store.renew()
        assert await worker.store.take_over(LEASE_S) == []
    await b.heard.until(lambda: "q" in b.heard.closed)
    with pytest.raises(StoreCorrupt):
        await b.store.get_run("q")
    assert {run.id for run in await b.store.list_runs(status=RunStatus.QUEUED)} == {"p", "r"}
    for run_id in "pr":
        await a.end(run_id, 3)
    assert await b.store.expire(1000) == 2


@pytest.mark.parametrize("field", ["record", "status"])
async def test_a_record_that_nobody_can_read_holds_no_other_run_up(
    a: Worker, b: Worker, cluster: Cluster, server_side: Any, field: str
) -> None:
    for run_id in "pqr":
        await a.create(run_id)
    server_side.hset("gapless:{s}:run:q", field, "x")
    assert {run.id for run in await b.store.list_runs(session_id="s")} == {"p", "r"}
    await cluster.crash(a)
    taken = await cluster.lapse(b)
    assert {run.id for run in taken["b"]} == {"p", "r"}


async def test_a_session_that_somebody_damages_still_lets_its_runs_end(a: Worker, b: Worker, server_side: Any) -> None:
    for run_id in "pqr":
        await a.create(run_id, f"s{run_id}")
    for name in ("queue", "turns", "session", "commands:q"):
        server_side.delete(f"gapless:{{sq}}:{name}")
        server_side.set(f"gapless:{{sq}}:{name}", "x")
    assert not await a.store.append([Append(run_id, 1, [an_event("1")], an_end(run_id, state={})) for run_id in "pqr"])
    for run_id in "pqr":
        assert await b.read_all(run_id) == [an_event("1")]
        record = await b.store.get_run(run_id)
        assert record is not None
        assert record.status is RunStatus.FINISHED
    assert {session.id for session in await b.store.list_sessions()} == {"sp", "sr"}
    with pytest.raises(StoreCorrupt):
        await a.store.create_run(a_run("next", "sq"), reject_busy=False)
    assert await a.store.get_run("next") is None


async def test_a_damaged_journal_does_not_outlive_its_worker_open(
    a: Worker, cluster: Cluster, place: ServerPlace, server_side: Any
) -> None:
    await a.create("r")
    await a.append("r", 1, "1", "2")
    server_side.delete("gapless:{s}:events:r")
    server_side.set("gapless:{s}:events:r", "x")
    await cluster.crash(a)
    async with Runner(store=place.url, lease_s=0.3) as runner, asyncio.timeout(WAIT_S):
        while not (record := await runner.get_run("r")).status.ended:
            await asyncio.sleep(0.05)
    assert record.error is not None
    assert record.error["code"] == "worker_lost"


async def test_urls(place: ServerPlace, server_side: Any) -> None:
    for scheme in ("valkey", "redis"):
        store = open_store(place.url.replace("redis", scheme, 1))
        assert isinstance(store, RedisStore)
        await store.open(scheme, Heard(store))
        assert server_side.hexists("{gapless}:workers", scheme)
        await store.close()
        assert not server_side.hexists("{gapless}:workers", scheme)
    with pytest.raises(RunNotFound):
        store = open_store(place.url)
        await store.open("x", Heard(store))
        try:
            await store.send("nobody", b"")
        finally:
            await store.close()


async def test_a_runner_that_was_hardly_used_closes(place: ServerPlace) -> None:
    """A cancel in the middle of a call is sometimes swallowed by the client library."""
    for _ in range(20):
        async with asyncio.timeout(20), Runner(store=place.url) as runner:
            await runner.list_runs()
