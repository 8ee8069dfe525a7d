"""The PostgreSQL server of a store: who may use it, its tables, what is printed of it, and its restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from gapless.errors import StoreCorrupt, StoreUnavailable, UsageError
from gapless.journals import postgres_news, postgres_server
from gapless.journals.contract import Append
from gapless.journals.journal import Follower, Journals
from gapless.journals.outbox import Notice
from gapless.journals.postgres import PostgresStore
from gapless.journals.postgres_schema import SCHEMA_VERSION
from gapless.records import ModelUsage
from tests.journals.conformance import WAIT_S, Worker, a_run, an_end, an_event
from tests.journals.postgres_place import DatabasePlace
from tests.journals.times import times_of
from tests.support.postgres import Postgres

TO_VERSION_1 = (
    "DROP TABLE gapless.subscriptions",
    "DROP TABLE gapless.notices",
    "DROP TABLE gapless.moves",
    "DROP INDEX gapless.runs_failed",
    "ALTER TABLE gapless.events DROP COLUMN at",
    "ALTER TABLE gapless.runs DROP COLUMN usage",
    "UPDATE gapless.version SET version = 1",
)


async def opened(url: str, worker_id: str = "w") -> Worker:
    store = PostgresStore(url)
    worker = Worker(worker_id, store)
    await store.open(worker_id, worker.heard)
    return worker


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """The URL of an empty database."""
    postgres.run("CREATE DATABASE empty")
    yield postgres.url.replace("/postgres", "/empty")
    postgres.run("DROP DATABASE empty WITH (FORCE)")


async def test_many_that_begin_at_once_make_one_schema(database: str) -> None:
    workers = await asyncio.gather(*(opened(database, f"w{n}") for n in range(5)))
    await workers[0].create("r")
    for worker in workers:
        assert [run.id for run in await worker.store.list_runs()] == ["r"]
        await worker.store.close()


async def test_several_stores_share_a_database(database: str) -> None:
    one, other = await opened(f"{database}?schema=one"), await opened(f"{database}?schema=Other%20%22%C3%A9%22")
    for worker in (one, other):
        await worker.create("r")
        await worker.append("r", 1, worker.store._server.schema)  # type: ignore[attr-defined]  # a PostgresStore
    assert await one.read_all("r") == [an_event("one")]
    assert await other.read_all("r") == [an_event('Other "é"')]
    await one.store.close()
    await other.store.close()


async def test_a_user_who_owns_a_schema_needs_no_more(database: str, postgres: Postgres) -> None:
    name = database.rpartition("/")[2]
    postgres.run("CREATE ROLE small LOGIN")
    postgres.run(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    postgres.run(f"GRANT CONNECT ON DATABASE {name} TO small")
    small = database.replace("gapless@", "small@")
    try:
        with pytest.raises(StoreUnavailable, match=r"may not do that: .*; see docs/deploy\.md"):
            await opened(small)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA mine AUTHORIZATION small")
        worker = await opened(f"{small}?schema=mine")
        await worker.create("r")
        await worker.append("r", 1, "1")
        await worker.end("r", 2)
        assert len(await worker.read_all("r")) == 2
        await worker.store.close()
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("DROP OWNED BY small")
    finally:
        postgres.run(f"REVOKE ALL ON DATABASE {name} FROM small")
        postgres.run("DROP ROLE small")


async def test_tables_are_brought_to_a_later_version_with_what_is_in_them(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, by whoever of several is first; a version that does not know them leaves them alone then."""
    before = await opened(database)
    await before.create("before", "s0")
    kept = [*await before.append("before", 1, "1"), await before.end("before", 2)]
    await before.store.close()
    later = SCHEMA_VERSION + 1
    monkeypatch.setattr(postgres_server, "SCHEMA_VERSION", later)
    step = {SCHEMA_VERSION: "ALTER TABLE gapless.runs ADD COLUMN later int"}
    monkeypatch.setattr(postgres_server, "MIGRATIONS", step)
    workers = await asyncio.gather(*(opened(database, f"w{n}") for n in range(3)))
    await workers[0].create("r")
    for worker in workers:
        assert await worker.read_all("before") == kept
        await worker.store.close()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT version FROM gapless.version").fetchall() == [(later,)]
    monkeypatch.undo()
    with pytest.raises(StoreCorrupt, match=f"schema version {later}, this Gapless reads {SCHEMA_VERSION}"):
        await opened(database)


async def test_tables_of_version_1_get_an_outbox(database: str) -> None:
    before = await opened(database)
    await before.create("r")
    await before.store.close()
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE gapless.events DROP COLUMN at; ALTER TABLE gapless.runs DROP COLUMN usage")
        connection.execute("DROP TABLE gapless.notices; DROP TABLE gapless.moves; DROP TABLE gapless.subscriptions")
        connection.execute("DROP INDEX gapless.runs_failed")
        connection.execute("UPDATE gapless.version SET version = 1")
    after = await opened(database, "later")
    (run,) = await after.store.take_over(0)
    batch = Append(run.id, 1, [an_event("end")], an_end(run.id), notices=[Notice("n", run.id, b"{}", 0)])
    assert not await after.store.append([batch])
    assert [notice.id for notice in await after.store.outbox.take(1, 2)] == ["n"]
    await after.store.close()


async def test_runs_of_the_first_version_go_on_with_times(database: str) -> None:
    before = await opened(database)
    await before.create("r")
    await before.append("r", 1, "1")
    await before.store.close()
    with psycopg.connect(database, autocommit=True) as connection:
        for step in TO_VERSION_1:
            connection.execute(step)
    worker = await opened(database, "next")
    assert [run.id for run in await worker.store.take_over(60)] == ["r"]  # its worker has closed its store
    assert await times_of(worker, "r") == []
    assert not await worker.store.append([Append("r", 2, [an_event("2")], at=5_001)])
    assert await times_of(worker, "r") == [(2, 5_001)]
    await worker.end("r", 3, usage=[ModelUsage(model="m", requests=1)])
    run = await worker.store.get_run("r")
    assert run is not None
    assert run.usage == [ModelUsage(model="m", requests=1)]
    await worker.store.close()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("schema=", "no name of a schema"),
        ("listen=host", "listen=HOST:PORT"),
        ("listen=user:secret@host:1", "special characters"),
        ("sslmod=require", "options as libpq has them"),
    ],
)
def test_options_that_are_none(query: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        PostgresStore(f"postgresql://user:secret@host/db?{query}")
    assert "secret" not in str(caught.value)


async def test_tls_that_the_server_has_not_is_refused(postgres: Postgres) -> None:
    with pytest.raises(StoreUnavailable, match=f"postgresql://127.0.0.1:{postgres.port}/postgres: .*SSL") as caught:
        await opened(f"{postgres.url.replace('gapless@', 'gapless:secret@')}?sslmode=require")
    assert "secret" not in str(caught.value)


async def test_a_pooler_has_an_address_to_listen_at(postgres: Postgres) -> None:
    """To a pooler nothing is said that belongs to a session: no prepared statement, no startup option."""
    DatabasePlace(postgres)
    url = f"{postgres.url}?listen=localhost:{postgres.port}"
    a, b = await opened(url, "a"), await opened(url, "b")
    await a.create("r")
    await b.store.watch("r")
    for n in range(1, 12):
        await a.append("r", n, str(n))
    await b.heard.until(lambda: b.heard.last.get("r") == 11)
    assert isinstance(a.store, PostgresStore)
    for connection in [*a.store._server._idle, a.store._owned._connection]:
        assert connection is not None
        assert connection.info.get_parameters().get("options") is None
        assert await (await connection.execute("SELECT count(*) FROM pg_prepared_statements")).fetchone() == (0,)
    await a.store.close()
    await b.store.close()


async def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile the producer is held back and the followers wait."""
    monkeypatch.setattr("gapless.journals.postgres_news.RECONNECT_PAUSE_S", 0.02)

    def never(*_: Any) -> None:
        raise AssertionError

    quiet: dict[str, Any] = {"on_refused": never, "on_command": never, "on_fenced": never}
    with Postgres() as server:
        writing, following = (Journals(PostgresStore(server.url), **quiet) for _ in range(2))
        await writing.open("a")
        await following.open("b")
        await writing.store.create_run(a_run("r"), reject_busy=False)
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
        await asyncio.to_thread(server.start)
        journal.close(an_event("end"), an_end("r"))
        async with asyncio.timeout(WAIT_S):
            await journal.drain()
            assert await follower == [*events, an_event("end")]
        assert journal.lost is None
        assert await following.store.list_runs()
        await following.release(copy)
        await writing.close()
        await following.close()


async def unsent(news: postgres_news.PostgresNews, channel: str, payload: str) -> None:
    """Nothing is notified."""


async def test_what_may_lose_events_is_said(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "SLOW_S", WAIT_S)  # the machine may be busy
    monkeypatch.setattr(postgres_news, "ECHO_S_MAX", WAIT_S)
    worker = await opened(postgres.url)
    said = [risk for risk, _ in await worker.store.advice()]
    assert [risk.partition(":")[0] for risk in said] == [
        f"its server has {name} = off" for name in ("fsync", "full_page_writes")
    ]
    monkeypatch.setattr(postgres_server, "SLOW_S", 0.0)
    monkeypatch.setattr(postgres_news, "ECHO_S_MAX", 0.01)
    monkeypatch.setattr(postgres_news.PostgresNews, "_notify", unsent)
    slow, unheard = (await worker.store.advice())[2:]
    assert "ms to answer" in slow.risk
    assert "listen=HOST:PORT" in unheard.fix
    await worker.store.close()


async def test_a_server_notices_in_seconds_that_a_workers_machine_is_gone(postgres: Postgres) -> None:
    """By itself it looks after two hours, and a transaction that the machine was in the middle of keeps what it has."""
    worker = await opened(postgres.url)
    assert isinstance(worker.store, PostgresStore)
    sql = "SELECT setting::int FROM pg_settings WHERE name = 'tcp_keepalives_' || %s"
    idle, interval, count = [
        (await worker.store._server.rows(sql, name))[0][0] for name in ("idle", "interval", "count")
    ]
    assert 0 < idle + interval * count < 15
    await worker.store.close()
