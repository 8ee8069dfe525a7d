"""Connections to a Redis server that are cut, and servers that are not there or have no room."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis as client
from redis.asyncio.client import PubSub
from redis.exceptions import NoPermissionError
from typer.testing import CliRunner

from gapless.cli import app
from gapless.errors import StoreUnavailable, UsageError
from gapless.journals import open_store, redis_news
from gapless.journals import redis as redis_store
from gapless.journals.redis import RedisStore
from tests.journals.conformance import Heard, Worker, an_event
from tests.journals.redis_place import Proxy, ServerPlace
from tests.support.valkey import Valkey
from tests.support.waiting import WAIT_S, until


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


@pytest.mark.parametrize("server_fixture", ["server", "cluster_server"])
async def test_what_the_settings_of_a_server_may_lose_is_said_once(
    request: pytest.FixtureRequest, server_fixture: str, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_store, "_advised", set())
    place = ServerPlace(request.getfixturevalue(server_fixture))
    with client.Redis.from_url(place.url) as server_side:
        server_side.config_set("maxmemory-policy", "allkeys-lru")
        for worker_id in "ab":
            store = open_store(place.url)
            await store.open(worker_id, Heard(store))
            advice = await store.advice()
            await store.close()
        server_side.config_set("maxmemory-policy", "noeviction")
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"store {place.url}: {risk} {fix}" for risk, fix in advice]
    assert "appendonly no" in said[0]
    assert "loses every run and session" in said[0]
    assert "Set appendonly yes" in said[0]
    assert "maxmemory-policy allkeys-lru" in said[1]
    assert "Set maxmemory-policy noeviction" in said[1]


async def test_a_server_that_keeps_all_or_does_not_say_is_not_advised(
    tmp_path: Path, place: ServerPlace, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Valkey(data_dir=tmp_path, config={"appendonly": "yes"}) as keeps:
        store = open_store(f"redis://127.0.0.1:{keeps.port}/0")
        await store.open("a", Heard(store))
        assert await store.advice() == []
        await store.close()
    assert not caplog.records
    store = open_store(place.url)
    assert isinstance(store, RedisStore)
    await store.open("a", Heard(store))
    execute = store._server._client.execute_command

    async def refuse(*arguments: Any, **options: Any) -> Any:
        if arguments[0] == "INFO":
            raise NoPermissionError("this user has no permissions to run the 'info' command")
        return await execute(*arguments, **options)

    monkeypatch.setattr(store._server._client, "execute_command", refuse)
    assert await store.advice() == []
    await store.close()


async def test_a_server_that_is_a_replica_now_is_left_for_the_one_to_which_its_name_leads() -> None:
    with Valkey() as old, Valkey() as new:
        ours, theirs = client.Redis(port=old.port), client.Redis(port=new.port)
        theirs.replicaof("127.0.0.1", old.port)
        async with (proxy := Proxy(old.port)) as url:
            worker = Worker("a", RedisStore(url))
            await worker.store.open("a", worker.heard)
            await worker.create("r")
            await worker.append("r", 1, "1")
            await until(lambda: theirs.info("replication")["master_link_status"] == "up", "it follows")
            assert ours.wait(1, int(WAIT_S * 1000)) == 1
            theirs.replicaof("NO", "ONE")
            ours.replicaof("127.0.0.1", new.port)
            proxy.port = new.port
            with pytest.raises(StoreUnavailable, match="read only"):
                await worker.append("r", 2, "2")
            await worker.append("r", 2, "2")
            assert theirs.xlen("gapless:{s}:events:r") == 2
            await worker.store.close()


async def test_a_store_that_is_closed_while_a_replica_refuses_is_closed(
    place: ServerPlace, server_side: Any, monkeypatch: Any
) -> None:
    worker = Worker("a", RedisStore(place.url))
    assert isinstance(worker.store, RedisStore)
    await worker.store.open("a", worker.heard)
    await worker.create("r")
    await worker.append("r", 1, "1")
    pool = worker.store._server._client.connection_pool
    disconnect = pool.disconnect

    async def meanwhile(**options: Any) -> None:
        monkeypatch.setattr(pool, "disconnect", disconnect)
        await worker.store._disconnect()  # type: ignore[attr-defined]  # a RedisStore

    monkeypatch.setattr(pool, "disconnect", meanwhile)
    server_side.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(StoreUnavailable, match="read only"):
            await worker.append("r", 2, "2")
    finally:
        server_side.replicaof("NO", "ONE")
    with pytest.raises(StoreUnavailable, match="is closed"):
        await worker.append("r", 2, "2")


def test_connections_that_were_reset_while_nobody_used_them_are_made_anew(server: Valkey) -> None:
    """On the loop of servers, which has an error of its own for what is written to such a one."""
    uvloop = pytest.importorskip("uvloop")

    async def reset_and_used() -> None:
        async with (proxy := Proxy(server.port)) as url:
            worker = Worker("a", RedisStore(url))
            assert isinstance(worker.store, RedisStore)
            await worker.store.open("a", worker.heard)
            await worker.create("r")
            for seq in range(1, 4):
                await worker.append("r", seq, str(seq))
                line = worker.store._server._line.connection._writer.transport
                proxy.reset()
                await until(line.is_closing, "it is reset")
            assert await worker.read_all("r") == [an_event(str(seq)) for seq in range(1, 4)]
            await worker.store.close()

    ServerPlace(server)
    uvloop.run(reset_and_used())


SECRET = "s3cr:et/@?x"


def test_no_command_shows_the_password_of_a_server(
    place: ServerPlace, server_side: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    agent = tmp_path / "agents.py"
    agent.write_text("async def agent(message):\n    yield message\n")  # else `doctor` asks the embedded model
    doctor = ["doctor", f"{agent}:agent", "--store"]
    monkeypatch.setattr("gapless.cli.logs.log_to_stderr", lambda *_: None)  # which is closed when the command is over
    server_side.config_set("requirepass", SECRET)
    port = server_side.connection_pool.connection_kwargs["port"]
    try:
        for url in (
            f"redis://:{quote(SECRET, safe='')}@127.0.0.1:{port}/0",
            f"redis://127.0.0.1:{port}/0?password={quote(SECRET, safe='@')}",
        ):
            good = CliRunner().invoke(app, [*doctor, url], env={"COLUMNS": "400"})
            assert "is writable" in good.output
            assert "! its server writes no log (appendonly no)" in good.output
            assert "→ Set appendonly yes" in good.output
            closed = CliRunner().invoke(app, [*doctor, url.replace(str(port), "1")], env={"COLUMNS": "400"})
            assert "is a Redis or Valkey running there?" in closed.output
            wrong = CliRunner().invoke(app, ["runs", "--store", url.replace("s3cr", "s3cr0")], env={"COLUMNS": "400"})
            assert wrong.exit_code != 0
            broken = CliRunner().invoke(app, ["serve", "--store", f"redis://:{SECRET}@127.0.0.1:{port}/0"])
            odd = CliRunner().invoke(app, [*doctor, f"{url}{'&' if '?' in url else '?'}max_idle=1"])
            for shown in (good.output, closed.output, wrong.output, broken.output, odd.output, repr(open_store(url))):
                assert "s3cr" not in shown
                assert "et/" not in shown
                assert "et%2F" not in shown
                assert "?x" not in shown
            assert "is none of redis-py's" in odd.output
    finally:
        with client.Redis(port=port, password=SECRET) as connection:
            connection.config_set("requirepass", "")
