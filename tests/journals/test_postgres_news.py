"""What a worker is told through PostgreSQL: notifications that come, that are lost, and a connection that is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from gapless.journals import postgres_news
from gapless.journals.contract import Append
from gapless.journals.postgres import PostgresStore
from tests.journals.conformance import Cluster, Worker, an_end, an_event
from tests.journals.postgres_place import DatabasePlace
from tests.support.postgres import Postgres
from tests.support.waiting import WAIT_S, until

NEVER_S = 1000.0


@pytest.fixture
async def cluster(postgres: Postgres) -> AsyncIterator[Cluster]:
    cluster = Cluster(DatabasePlace(postgres))
    yield cluster
    await cluster.close()


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_news, "POLL_S", NEVER_S)


def news_of(worker: Worker) -> postgres_news.PostgresNews:
    assert isinstance(worker.store, PostgresStore)
    return worker.store._news


async def test_who_watches_is_notified(cluster: Cluster, no_poll: None) -> None:
    a, b = await cluster.worker("a"), await cluster.worker("b")
    for run_id in ("r", "q"):
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    for n in range(1, 20):
        await a.append("r", n, str(n))
        await b.heard.until(partial(b.heard.is_past, "r", n - 1))
    await a.append("q", 1, *map(str, range(500)))  # more than is handed on at once
    await b.heard.until(lambda: b.heard.last.get("q") == 500)
    assert not await a.store.append(
        [Append(run_id, seq, [an_event("end")], an_end(run_id)) for run_id, seq in (("r", 20), ("q", 501))]
    )
    await b.heard.until(lambda: b.heard.closed == {"r", "q"})
    assert not news_of(b)._watched


async def test_more_than_a_notification_can_say_is_looked_for(
    cluster: Cluster, no_poll: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_news, "PAYLOAD_BYTES_MAX", 10)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    runs = [f"r{n}" for n in range(30)]
    for run_id in runs:
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    assert not await a.store.append([Append(run_id, 1, [an_event("1")]) for run_id in runs])
    await b.heard.until(lambda: b.heard.last == dict.fromkeys(runs, 1))


async def test_a_follower_of_an_idle_run_asks_nothing(cluster: Cluster, no_poll: None, postgres: Postgres) -> None:
    a, b = await cluster.worker("a"), await cluster.worker("b")
    for n in range(5):
        await a.create(f"r{n}", f"s{n}")
        await a.append(f"r{n}", 1, "1")
        await b.store.watch(f"r{n}")
    sql = "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'gapless'"

    async def nobody_asks() -> bool:
        before = postgres.run(sql)
        await asyncio.sleep(0.3)
        return postgres.run(sql) == before

    await until(nobody_asks, "quiet, once what they were told of has been read")


async def test_a_listening_connection_that_is_cut_is_made_again(
    cluster: Cluster, no_poll: None, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_news, "RECONNECT_PAUSE_S", 0.05)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r")
    await b.create("q", "s2")
    await b.store.watch("r")
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'")
    await a.append("r", 1, "1")
    await a.store.send("q", b"command")
    await b.heard.until(lambda: b.heard.last.get("r") == 1 and b.heard.commands == [("q", b"command")])
    await a.append("r", 2, "2")
    await b.heard.until(lambda: b.heard.last.get("r") == 2)


async def test_what_nobody_was_notified_of_is_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker was killed between its commit and the notification."""
    monkeypatch.setattr(postgres_news, "POLL_S", 0.05)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r")
    await b.create("q", "s2")
    await b.store.watch("r")

    async def nobody(*_: Any) -> None: ...

    monkeypatch.setattr(news_of(a), "appended", lambda _: None)
    monkeypatch.setattr(store_owned(a), "_on_news", lambda _: None)
    monkeypatch.setattr(news_of(a), "_notify", nobody)
    await a.append("r", 1, "1")
    await b.heard.until(lambda: b.heard.last.get("r") == 1)
    await a.store.send("q", b"command")
    await b.heard.until(lambda: b.heard.commands == [("q", b"command")])
    await a.end("r", 2)
    await b.heard.until(lambda: b.heard.closed == {"r"})


def store_owned(worker: Worker) -> Any:
    assert isinstance(worker.store, PostgresStore)
    return worker.store._owned


async def test_who_watches_no_longer_is_not_notified(cluster: Cluster, postgres: Postgres, monkeypatch: Any) -> None:
    monkeypatch.setattr(postgres_news, "POLL_S", 0.02)
    a, b = await cluster.worker("a"), await cluster.worker("b")
    await a.create("r")
    for _ in range(3):
        await b.store.watch("r")
        await b.store.unwatch("r")
    await b.store.watch("r")
    await a.append("r", 1, "1")
    await b.heard.until(lambda: b.heard.last.get("r") == 1)
    await b.store.unwatch("r")
    async with asyncio.timeout(WAIT_S):
        while postgres.run("SELECT 1 FROM gapless.watches"):
            await asyncio.sleep(0.02)
