"""The first minute with a PostgreSQL that is there: who is let in, over TLS or not, and what others are told to do."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gapless.cli import app
from gapless.errors import StoreUnavailable
from gapless.journals import postgres_server
from gapless.journals.postgres import PostgresStore
from tests.journals.conformance import Worker
from tests.support import certificates
from tests.support.postgres import USER, Postgres, whose
from tests.support.processes import free_port
from tests.support.terminator import Terminator
from tests.support.waiting import until

ACCESS = """
host all with_password 127.0.0.1/32 scram-sha-256
host all stranger 127.0.0.1/32 reject
host all,replication all 127.0.0.1/32 trust
"""


DEBIANS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda found: int(found.parent.name))


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL with users of several kinds."""
    with Postgres() as server:
        for role in ("with_password LOGIN PASSWORD 'right'", "stranger LOGIN", "nothing LOGIN", "small LOGIN"):
            server.run(f"CREATE ROLE {role}")
        server.run("CREATE SCHEMA mine AUTHORIZATION small")
        (server.folder / "data" / "pg_hba.conf").write_text(ACCESS, encoding="utf-8")
        server.run("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="module", params=["a proxy's", "the server's own"])
def tls(request: pytest.FixtureRequest, server: Postgres) -> Iterator[tuple[str, Path]]:
    """The address of a PostgreSQL with TLS, and a folder with the certificates of its authority and of another. (The
    build that the tests bring along has no TLS: with it a proxy ends it, as with some providers.)"""
    if request.param == "a proxy's":
        certificates.make(server.folder)
        with Terminator(server.port, server.folder) as terminator:
            yield f"127.0.0.1:{terminator.port}", server.folder
    elif not DEBIANS:
        pytest.skip("no other PostgreSQL here (apt-get install postgresql)")
    else:
        config = {"ssl": "on", "ssl_cert_file": "../server.crt", "ssl_key_file": "../server.key"}
        own = Postgres(config=config, programs=DEBIANS[-1])
        certificates.make(own.folder, owner=(whose()["user"], whose()["group"]) if whose() else None)
        with own:
            yield f"127.0.0.1:{own.port}", own.folder


async def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    await store.open("w", Worker("w", store).heard)
    return store


REFUSED = {
    "no privilege": (
        "nothing@{at}/postgres",
        r'permission denied for database.*CREATE SCHEMA "gapless" AUTHORIZATION "nothing"',
    ),
    "another's schema": ("nothing@{at}/postgres?schema=mine", "permission denied for schema mine.*schema="),
    "no database": ("gapless@{at}/missing", 'database "missing" does not exist; make it'),
    "no role": ("nobody@{at}/postgres", 'role "nobody" does not exist; make it'),
    "wrong password": ("with_password:wrong@{at}/postgres", "password authentication failed.*; look at"),
    "no password": ("with_password@{at}/postgres", "no password supplied; put it into the URL"),
    "not let in": ("stranger@{at}/postgres?sslmode=disable", "pg_hba.conf"),
    "no such host": ("gapless@no-such-host.invalid/postgres", "no-such-host.invalid.*; look at the host"),
    "nothing there": ("gapless@127.0.0.1:{free}/postgres", "Connection refused; does PostgreSQL run there"),
}


@pytest.mark.parametrize(("url", "said"), REFUSED.values(), ids=REFUSED)
async def test_who_is_not_let_in_is_told_what_to_do(server: Postgres, url: str, said: str) -> None:
    whole = url.format(at=f"127.0.0.1:{server.port}", free=free_port())
    with pytest.raises(StoreUnavailable, match=said) as caught:
        await opened(f"postgresql://{whole}")
    assert "wrong" not in str(caught.value)


async def test_a_user_who_owns_a_schema_and_one_with_a_password_are_let_in(server: Postgres) -> None:
    await (await opened(server.url.replace(USER, "small") + "?schema=mine")).close()
    server.run("CREATE SCHEMA theirs AUTHORIZATION with_password")
    await (await opened(server.url.replace(f"{USER}@", "with_password:right@") + "?schema=theirs")).close()


async def test_a_server_that_is_too_old_is_refused(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "VERSION_MIN", 99)
    with pytest.raises(StoreUnavailable, match=r"this is PostgreSQL \d+, and 99 or later is needed; upgrade it"):
        await opened(server.url)


async def test_who_comes_to_a_standby_is_told_of_the_primary(server: Postgres) -> None:
    standby = server.standby(server.port)
    try:
        with pytest.raises(StoreUnavailable, match=r"as a standby.*target_session_attrs=read-write"):
            await opened(standby.url)
        with pytest.raises(StoreUnavailable, match=r"session is read-only; .*name the primary"):
            await opened(f"{standby.url}?target_session_attrs=read-write")
        both = server.url.replace(f"@127.0.0.1:{server.port}", f"@127.0.0.1:{standby.port},127.0.0.1:{server.port}")
        store = await opened(f"{both}?target_session_attrs=read-write")
        assert store._server.is_open
        await store.close()
    finally:
        standby.stop()


UNTRUSTED = {
    "another authority": (
        "&sslrootcert={other}",
        "certificate verify failed; .*signed by the CA in the file of",
    ),
    "no authority": ("&sslrootcert=/none", "does not exist.*; name the file of the server's CA"),
    "another name": ("&sslrootcert={ca}&host=localhost", "does not match host name.*; name the host"),
}


@pytest.mark.parametrize(("options", "said"), UNTRUSTED.values(), ids=UNTRUSTED)
async def test_a_server_that_cannot_be_trusted_is_told_nothing(tls: tuple[str, Path], options: str, said: str) -> None:
    at, folder = tls
    files = {name: folder / f"{name}.crt" for name in ("ca", "other")}
    host, _, port = at.rpartition(":")
    url = f"postgresql://{USER}@/postgres?hostaddr={host}&port={port}&sslmode=verify-full{options.format(**files)}"
    with pytest.raises(StoreUnavailable, match=said):
        await opened(url if "host=" in options else url + f"&host={host}")


async def test_a_run_goes_over_tls(tls: tuple[str, Path]) -> None:
    at, folder = tls
    url = f"postgresql://{USER}@{at}/postgres?sslmode=verify-full&sslrootcert={folder / 'ca.crt'}"
    store = PostgresStore(url)
    worker = Worker("w", store)
    await store.open("w", worker.heard)
    await worker.create("over-tls")
    events = await worker.append("over-tls", 1, *("x" * 100_000 for _ in range(20)))
    assert await worker.read_all("over-tls") == events
    for connection in (store._owned._connection, *store._server._idle):
        assert connection is not None
        assert connection.pgconn.ssl_in_use
    await store.close()


def test_doctor_says_which_server_it_is_and_whether_it_is_encrypted(tls: tuple[str, Path]) -> None:
    at, folder = tls
    url = f"postgresql://{USER}@{at}/postgres"
    for options, said in (
        (f"sslmode=verify-full&sslrootcert={folder / 'ca.crt'}", "over TLS"),
        ("sslmode=disable", "not encrypted"),
    ):
        told = CliRunner().invoke(app, ["doctor", "--store", f"{url}?{options}"], env={"COLUMNS": "400"}).output
        assert re.search(rf"is writable \(PostgreSQL [\d.]+, {said}\)", told), told


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it is told, and the store goes on."""
    monkeypatch.setitem(postgres_server.SESSION, "statement_timeout", "100ms")
    store = await opened(server.url)
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        await store._server.rows("SELECT pg_sleep(60)")
    assert await store._server.rows("SELECT 1") == [(1,)]
    await store.close()


OPEN = """
import asyncio, sys
from gapless.journals.postgres import PostgresStore
from tests.journals.conformance import Worker
async def main(url, name):
    store = PostgresStore(url)
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open(name, Worker(name, store).heard)
    print(len(await store.list_runs()), flush=True)
    await store.close()
asyncio.run(main(*sys.argv[1:]))
"""


async def test_ten_processes_that_begin_at_once_make_one_schema(server: Postgres) -> None:
    server.run("CREATE DATABASE ten")
    url = server.url.replace("/postgres", "/ten")
    begun = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OPEN, url, f"w{number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for number in range(10)
    ]
    for process in begun:
        assert await process.stdout.readline() == b"ready\n"
    told = await asyncio.gather(*(process.communicate(b"\n") for process in begun))
    assert [said for said, _ in told] == [b"0\n"] * 10
    assert not any(b"schema version" in warned for _, warned in told), "nothing was brought to another version"


async def test_the_number_of_idle_followers_costs_no_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own log counts: a process looks once in a while for what it may have missed, in one statement for
    all that it follows; each beat of its lease is a statement too."""
    from gapless.journals import postgres_news

    monkeypatch.setattr(postgres_news, "POLL_S", 0.5)
    with Postgres(config={"log_statement": "all", "log_line_prefix": "%a "}) as quiet:
        store = PostgresStore(f"{quiet.url}?application_name=b")
        owner, follower = Worker("a", PostgresStore(f"{quiet.url}?application_name=a")), Worker("b", store)
        for worker in (owner, follower):
            await worker.store.open(worker.id, worker.heard)
        for number in range(60):
            await owner.create(f"r{number}", f"s{number}")
            await owner.append(f"r{number}", 1, "1")
            await follower.store.watch(f"r{number}")
        await until(lambda: not (store._news._dirty or store._news._reading.is_set()), "all is read")
        await asyncio.sleep(2 * postgres_news.LOOK_AGAIN_S)
        await until(lambda: not (store._news._dirty or store._news._reading.is_set()), "all is read")
        loop, before = asyncio.get_running_loop(), len(quiet.log)
        began = loop.time()
        await asyncio.sleep(3)
        polls = (loop.time() - began) / postgres_news.POLL_S + 1
        asked = [line for line in quiet.log[before:].splitlines() if line.startswith(("a LOG:  ", "b LOG:  "))]
        for name in "ab":  # no lease is renewed here
            assert len([line for line in asked if line.startswith(name)]) <= polls
        assert any(line.startswith("b") for line in asked), "it does look once in a while"
        for worker in (owner, follower):
            await worker.store.close()
