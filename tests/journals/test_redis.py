"""The store in Redis Streams, on a real Valkey: the suite of every store, and what servers and networks can do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gapless import Runner
from gapless.errors import RunNotFound, StoreCorrupt
from gapless.journals import open_store, redis_news
from gapless.journals.contract import Append
from gapless.journals.journal import Follower, Journals
from gapless.journals.redis import RedisStore
from gapless.records import RunStatus
from tests.journals.conformance import (
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
from tests.journals.redis_place import ServerPlace, never
from tests.support.valkey import Valkey


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


async def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its log flushed on every write. Meanwhile the producer is held back and the followers wait."""
    monkeypatch.setattr(redis_news, "RECONNECT_PAUSE_S", 0.01)
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = Valkey(data_dir=tmp_path, config=config, persist=True)
    server.start()
    url = f"redis://127.0.0.1:{server.port}"
    owner, reader = RedisStore(url), RedisStore(url)
    quiet = {"on_refused": never, "on_command": never, "on_fenced": never}
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
        async with asyncio.timeout(WAIT_S), Runner(store=place.url) as runner:
            await runner.list_runs()
