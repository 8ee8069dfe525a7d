"""What workers hear of each other through Redis, when connections and answers are lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless.errors import StoreUnavailable
from gapless.journals import redis_news
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Store
from gapless.journals.journal import Journals
from gapless.journals.redis import RedisStore
from tests.journals.conformance import WAIT_S, Worker
from tests.journals.redis_place import Losses, Proxy, never, warm
from tests.support.valkey import Valkey
from tests.support.waiting import until


async def test_a_watch_whose_answer_was_lost_is_undone(
    a: Worker, b: Worker, server_side: Any, monkeypatch: Any
) -> None:
    await a.create("r")
    await b.store.watch("r")
    await b.store.unwatch("r")
    Losses(b.store, monkeypatch).answers.append(scripts.WATCH)
    quiet = {"on_refused": never, "on_command": never, "on_fenced": never}
    with pytest.raises(StoreUnavailable):
        await Journals(b.store, **quiet).attach("r")  # type: ignore[arg-type]
    assert server_side.hget("gapless:{s}:run:r", "watchers") == b""
    assert isinstance(b.store, RedisStore)
    assert b.store._news._watched == set()


async def test_a_watcher_whose_connection_was_cut_learns_what_it_missed(
    a: Worker, b: Worker, server_side: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(redis_news, "RECONNECT_PAUSE_S", 0.01)
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


async def test_a_watcher_that_registers_again_learns_what_it_missed(a: Worker, b: Worker, monkeypatch: Any) -> None:
    assert isinstance(b.store, RedisStore)
    for run_id in ("r", "ends"):
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    stop_listening = b.store._news.stop

    async def stop_and_miss() -> None:
        await stop_listening()
        if "r" not in b.heard.last:
            await a.append("r", 1, "1", "2")
            await a.end("ends", 1)

    monkeypatch.setattr(b.store._news, "stop", stop_and_miss)
    await b.store.open("b again", b.heard)
    assert b.heard.last["r"] == 2
    assert "ends" in b.heard.closed
    await a.append("r", 3, "3")
    await b.heard.until(lambda: b.heard.last.get("r") == 3)


async def test_a_command_that_comes_before_the_answer_to_the_creation(a: Worker, b: Worker, monkeypatch: Any) -> None:
    assert isinstance(b.store, RedisStore)
    await warm(b)
    execute = b.store._server._client.execute_command

    async def slow(*arguments: Any, **options: Any) -> Any:
        answer = await execute(*arguments, **options)
        if scripts.CREATE.sha in arguments:
            await a.store.send("r", b"cancel")
            async with asyncio.timeout(WAIT_S):
                while "r" not in b.store._news._unclaimed:  # type: ignore[attr-defined]  # a RedisStore
                    await asyncio.sleep(0.001)
        return answer

    monkeypatch.setattr(b.store._server._client, "execute_command", slow)
    await b.create("r")
    await b.heard.until(lambda: b.heard.commands == [("r", b"cancel")])


async def test_a_connection_that_falls_silent_is_replaced(a: Worker, server: Valkey, monkeypatch: Any) -> None:
    """As after a cut that neither side is told of."""
    monkeypatch.setattr(redis_news, "LISTEN_IDLE_S", 0.05)
    monkeypatch.setattr(redis_news, "RECONNECT_PAUSE_S", 0.01)
    proxy = Proxy(server.port)
    async with proxy as url:
        c = Worker("c", RedisStore(url))
        await c.store.open("c", c.heard)
        await a.create("r")
        await c.store.watch("r")
        await c.create("mine", "s2")
        proxy.silence()
        answer_within(c.store, 1.0)
        await a.append("r", 1, "1")
        await a.store.send("mine", b"cancel")
        await c.heard.until(lambda: c.heard.last.get("r") == 1 and bool(c.heard.commands))
        await a.append("r", 2, "2")
        await c.heard.until(lambda: c.heard.last.get("r") == 2)
        answer_within(c.store, WAIT_S)
        await c.store.close()


async def test_a_server_that_is_away_is_told_once_and_when_it_is_back(
    a: Worker, b: Worker, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_news, "RECONNECT_PAUSE_S", 0.001)
    assert isinstance(b.store, RedisStore)
    there, tries = b.store._server.pubsub, 0

    def away() -> Any:
        nonlocal tries
        tries += 1
        if tries <= 5:
            raise StoreUnavailable(f"try {tries} refused")
        return there()

    monkeypatch.setattr(b.store._server, "pubsub", away)
    await b.store.open("b again", b.heard)
    await until(lambda: any("over" in one for one in caplog.messages), "its end is told")
    refused, over = [one for one in caplog.messages if "listening anew: " in one]
    assert refused.endswith("listening anew: try 1 refused")
    assert "listening anew: that is over, after " in over
    await a.create("r")
    await b.store.watch("r")
    await a.append("r", 1, "1")
    await b.heard.until(lambda: b.heard.last.get("r") == 1)


def answer_within(store: Store, seconds: float) -> None:
    """What the connections get for an answer that are open for calls now."""
    assert isinstance(store, RedisStore)
    for connection in store._server._client.connection_pool._available_connections:
        connection.socket_timeout = seconds
