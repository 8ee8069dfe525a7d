"""What each single fault does to runs and their followers: in the end everyone has the journal, whole and once."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from gapless import RunConfig
from gapless.client import GaplessClient
from gapless.errors import ConnectionLost, GaplessError
from gapless.events import Event, RunErrorEvent, RunFinishedEvent
from gapless.records import RunRecord, RunStatus
from tests.faults.conftest import KEPT_LEASE_S, Connect, Serve
from tests.support.following import Seen, merged, text_in
from tests.support.network import Network
from tests.support.paced import words
from tests.support.postgres import Postgres
from tests.support.processes import Server
from tests.support.valkey import Valkey
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.waiting import WAIT_S
from tests.support.wanderer import Wanderer, tolerate

PACE_S = 0.02
CLOCK_WORDS = 60 + int(1.5 * KEPT_LEASE_S / PACE_S)
"""They go on for longer than a lease after the clock has jumped back."""


async def ready(*servers: Server) -> None:
    for server in servers:
        await asyncio.to_thread(server.ready)


async def until(client: GaplessClient, run_id: str, holds: Callable[[RunRecord], bool]) -> RunRecord:
    """Until the record is so, as this replica sees it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                if holds(record := await client.record(run_id)):
                    return record
            except GaplessError as error:
                tolerate(error)
            await asyncio.sleep(0.02)


def is_past(position: int) -> Callable[[RunRecord], bool]:
    """Or has ended before, which the test finds out then."""
    return lambda record: record.last_seq > position or record.status.ended


async def works_again(client: GaplessClient) -> None:
    """It begins runs and ends them, though another worker may take it for lost once more, if the machine is slow."""
    async with asyncio.timeout(WAIT_S):
        for number in itertools.count():
            await Wanderer([client], 0).start(f"3 {PACE_S}", run_id=f"again-{number}")
            record = await until(client, f"again-{number}", lambda record: record.status.ended)
            if record.status is RunStatus.FINISHED:
                return


async def whole(following: asyncio.Task[Seen], wanderer: Wanderer, run_id: str) -> tuple[Seen, Event]:
    """What a follower has got, which is the journal; and its last event."""
    async with asyncio.timeout(WAIT_S):
        seen, journal = await following, await wanderer.journal(run_id)
    assert merged(seen) == merged(journal)
    return journal, journal[-1][1]


def assert_finished(journal: Seen, count: int) -> None:
    assert isinstance(journal[-1][1], RunFinishedEvent)
    assert text_in(journal) == words(count)


async def test_a_stopped_worker_that_wakes_up_can_write_nothing(store: str, serve: Serve, connect: Connect):
    a, b = serve(store), serve(store)
    await ready(a, b)
    at_a, at_b = connect(a, b)
    there, elsewhere = Wanderer([at_a], 1), Wanderer([at_b], 2)
    await there.start(f"100000 {PACE_S}", run_id="r")
    await until(at_b, "r", is_past(10))
    followers = [asyncio.create_task(one.follow("r")) for one in (there, elsewhere)]
    await asyncio.sleep(0)
    with a.stopped():
        closed = await until(at_b, "r", lambda record: record.status.ended)
        assert closed.error is not None
        assert closed.error["code"] == "worker_lost"
    for following in followers:
        journal, end = await whole(following, elsewhere, "r")
        assert isinstance(end, RunErrorEvent)
        assert journal[-1][0] == closed.last_seq
    await works_again(at_a)  # under a new id
    assert (await until(at_b, "r", lambda record: True)).last_seq == closed.last_seq


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_runs_that_wait_for_their_turn_are_begun_at_another_worker(
    store: str, serve: Serve, connect: Connect, how: str
):
    """The agent cannot go on: what it had begun ends with its worker, and nothing else does."""
    a, b = serve(store), serve(store)
    await ready(a, b)
    at_a, at_b = connect(a, b)
    await at_a.start(f"100000 {PACE_S}", run_id="first", session_id="s")
    await until(at_b, "first", is_past(3))
    queue = RunConfig(on_busy="queue")
    for id, count in (("one", 3), ("two", 4)):
        await at_a.start(f"{count} {PACE_S}", run_id=id, session_id="s", config=queue)
    follower = asyncio.create_task(Wanderer([at_b], 3).follow("one"))
    await asyncio.to_thread(a.kill if how == "killed" else a.terminate)
    first = await until(at_b, "first", lambda record: record.status.ended)
    assert first.error is not None
    assert first.error["code"] == ("worker_lost" if how == "killed" else "shutting_down")
    wanderer = Wanderer([at_b], 4)
    for id, count in (("one", 3), ("two", 4)):
        await until(at_b, id, lambda record: record.status.ended)
        assert_finished(await wanderer.journal(id), count)
    async with asyncio.timeout(WAIT_S):
        assert_finished(await follower, 3)
    first_started, one, two = [(await at_b.record(id)).started_at or 0 for id in ("first", "one", "two")]
    assert first_started < one < two


async def test_a_clock_that_jumps_ends_no_lease_and_no_run(store: str, serve: Serve, connect: Connect, tmp_path: Path):
    clock = tmp_path / "clock"
    clock.write_text("0")
    a = serve(store, lease_s=KEPT_LEASE_S, GAPLESS_TEST_CLOCK=str(clock))
    b = serve(store, lease_s=KEPT_LEASE_S)
    await ready(a, b)
    at_a, at_b = connect(a, b)
    await Wanderer([at_a], 0).start(f"{CLOCK_WORDS} {PACE_S}", run_id="r")
    wanderer = Wanderer([at_a, at_b], 3, stay_s=0.3)
    following = asyncio.create_task(wanderer.follow("r"))
    for position, offset in ((20, "3600"), (40, "86400"), (60, "-86400")):
        await until(at_b, "r", is_past(position))
        set_clock(clock, offset)
    journal, _ = await whole(following, wanderer, "r")
    assert_finished(journal, CLOCK_WORDS)


def set_clock(clock: Path, offset_s: str) -> None:
    """In one step: the process reads it all the time."""
    new = clock.with_suffix(".new")
    new.write_text(offset_s)
    new.replace(clock)


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
async def test_a_store_that_is_killed_and_comes_back(kind: str, serve: Serve, connect: Connect, tmp_path: Path):
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = Valkey(data_dir=tmp_path, config=config, persist=True) if kind == "valkey" else Postgres()
    server.start()
    url = server.url if isinstance(server, Postgres) else f"redis://127.0.0.1:{server.port}/0"
    a, b = (serve(url, lease_s=KEPT_LEASE_S) for _ in range(2))
    try:
        await ready(a, b)
        clients = connect(a, b)
        wanderers = [Wanderer(clients, seed, stay_s=0.5) for seed in range(6)]
        for number, wanderer in enumerate(wanderers):
            await wanderer.start(f"200 {PACE_S}", run_id=f"r{number}")
        following = [asyncio.create_task(one.follow(f"r{number}")) for number, one in enumerate(wanderers)]
        await until(clients[0], "r0", is_past(30))
        server.kill()
        await asyncio.sleep(KEPT_LEASE_S * 1.2)  # longer than it takes to lose a lease: nobody does, as nobody can look
        if isinstance(server, Valkey):
            server = Valkey(port=server.port, data_dir=tmp_path, config=config)
        await asyncio.to_thread(server.start)
        for number, (wanderer, task) in enumerate(zip(wanderers, following, strict=True)):
            journal, _ = await whole(task, wanderer, f"r{number}")
            assert_finished(journal, 200)
    finally:
        a.close()
        b.close()
        server.stop()


async def test_a_master_of_a_cluster_dies_and_its_replica_takes_over(serve: Serve, connect: Connect):
    with ValkeyCluster() as cluster:
        a, b = (serve(cluster.url, lease_s=KEPT_LEASE_S) for _ in range(2))
        await ready(a, b)
        clients = connect(a, b)
        wanderers = [Wanderer(clients, seed, stay_s=0.5) for seed in range(8)]
        for number, wanderer in enumerate(wanderers):
            await wanderer.start(f"300 {PACE_S}", run_id=f"r{number}")
        following = [asyncio.create_task(one.follow(f"r{number}")) for number, one in enumerate(wanderers)]
        await until(clients[0], "r0", is_past(30))
        cluster.kill(cluster.master_of("{gapless}:workers"))
        for number, (wanderer, task) in enumerate(zip(wanderers, following, strict=True)):
            journal, _ = await whole(task, wanderer, f"r{number}")
            assert_finished(journal, 300)
        a.close()
        b.close()


async def test_a_worker_without_its_network_is_fenced_and_comes_back(valkey: Valkey, serve: Serve, connect: Connect):
    with Network(valkey.port) as network:
        a, b = serve(f"redis://127.0.0.1:{network.port}/0"), serve(f"redis://127.0.0.1:{valkey.port}/0")
        await ready(a, b)
        at_a, at_b = connect(a, b)
        await Wanderer([at_a], 0).start(f"100000 {PACE_S}", run_id="r")
        await until(at_b, "r", is_past(10))
        # The one at `a` does not leave: what others write in the end must reach it there.
        followers = [asyncio.create_task(Wanderer([client], 4).follow("r")) for client in (at_a, at_b)]
        await until(at_b, "r", is_past(20))
        network.silence()
        closed = await until(at_b, "r", lambda record: record.status.ended)
        assert closed.error is not None
        assert closed.error["code"] == "worker_lost"
        await Wanderer([at_b], 0).start(f"30 {PACE_S}", run_id="s")
        await until(at_b, "s", lambda record: record.status.ended)  # while nobody else can take it for lost
        network.restore()
        for following in followers:
            journal, end = await whole(following, Wanderer([at_b], 5), "r")
            assert isinstance(end, RunErrorEvent)
            assert journal[-1][0] == closed.last_seq
        through_a = Wanderer([at_a], 6)
        journal, _ = await whole(asyncio.create_task(through_a.follow("s")), through_a, "s")
        assert_finished(journal, 30)
        a.close()


async def test_a_slow_network_that_resets_connections(valkey: Valkey, serve: Serve, connect: Connect):
    with Network(valkey.port) as network:
        a, b = (serve(f"redis://127.0.0.1:{port}/0", lease_s=KEPT_LEASE_S) for port in (network.port, valkey.port))
        await ready(a, b)
        clients = connect(a, b)
        network.delay_s = 0.02
        wanderers = [Wanderer(clients, seed, stay_s=0.5) for seed in range(4)]
        for number, wanderer in enumerate(wanderers):
            await wanderer.start(f"100 {PACE_S}", run_id=f"r{number}")
        following = [asyncio.create_task(one.follow(f"r{number}")) for number, one in enumerate(wanderers)]
        for position in (20, 50, 80):
            await until(clients[1], "r0", is_past(position))
            network.cut()
        for number, (wanderer, task) in enumerate(zip(wanderers, following, strict=True)):
            journal, _ = await whole(task, wanderer, f"r{number}")
            assert_finished(journal, 100)
        a.close()


async def test_a_full_disk_holds_back_and_then_goes_on(serve: Serve, connect: Connect, tmp_path: Path):
    """Files of the process may not grow any more, as on a full disk."""
    server = serve(f"sqlite:///{tmp_path / 'gapless.db'}")
    await ready(server)
    (client,) = connect(server)
    wanderer = Wanderer([client], 7)
    await wanderer.start(f"150 {PACE_S}", run_id="r")
    following = asyncio.create_task(wanderer.follow("r"))
    await until(client, "r", is_past(20))
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, hard))
    try:
        async with asyncio.timeout(WAIT_S):
            while True:  # until it has no room left
                try:
                    await client.start(f"1 {PACE_S}", run_id=os.urandom(4).hex())
                except ConnectionLost:  # it was too slow to answer
                    pass
                except GaplessError as error:
                    assert (error.code, error.status) == ("store_unavailable", 503)  # noqa: PT017  # any other is a bug
                    break
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=WAIT_S) as http:
            assert (await http.get(f"{server.url}/health")).status_code == 200
        held = (await until(client, "r", lambda record: True)).last_seq
        await asyncio.sleep(10 * PACE_S)
        assert (await until(client, "r", lambda record: True)).last_seq == held
        assert not following.done()
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    journal, _ = await whole(following, wanderer, "r")
    assert_finished(journal, 150)
