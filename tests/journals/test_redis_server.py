"""Connections to a Redis server that are cut, and servers that are not there or have no room."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.client import PubSub

from gapless.errors import StoreUnavailable, UsageError
from gapless.journals import open_store, redis_news
from gapless.journals.redis import RedisStore
from journals.conformance import Heard, Worker
from support.valkey import Valkey


async def test_a_connection_that_is_closed_under_its_user_is_a_lost_one(a: Worker, b: Worker, monkeypatch: Any) -> None:
    """As redis-py's cluster client does to all of them in the middle of a failover."""
    closed = AttributeError("'NoneType' object has no attribute 'writelines'")
    monkeypatch.setattr(redis_news, "RECONNECT_PAUSE_S", 0.01)
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
    monkeypatch.setattr(b.store._server._client, "execute_command", broken)
    with pytest.raises(StoreUnavailable, match="writelines"):
        await b.store.get_run("r")


async def test_cut_connections_of_calls_are_made_anew(a: Worker, server_side: Any) -> None:
    await a.create("r")
    for seq in range(1, 6):
        server_side.client_kill_filter(_type="normal", skipme=True)
        await a.append("r", seq, str(seq))
    assert len(await a.read_all("r")) == 5


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
