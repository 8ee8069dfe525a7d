"""The store in Redis Streams on several Valkey servers: a cluster runs the suite of every store, and masters die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import redis

from gapless import Run, Runner
from gapless.errors import RunNotFound, StoreUnavailable
from gapless.events import RunErrorEvent, RunFinishedEvent, TextMessageContentEvent
from gapless.journals import journal as hot_path
from gapless.journals import redis as redis_store
from gapless.records import RunRecord, RunStatus
from tests.journals.conformance import Conformance
from tests.journals.redis_place import Proxy, ServerPlace
from tests.support.valkey import Valkey
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.waiting import WAIT_S

RUNS = 12
WORDS = 60
PACE_S = 0.05


class ClusterPlace(ServerPlace):
    def __init__(self, cluster: ValkeyCluster) -> None:
        self.url = cluster.url
        cluster.flush()


@pytest.fixture(scope="module")
def nodes() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(replicas=False) as cluster:
        yield cluster


class TestRedisStoreOnSeveralNodes(Conformance):
    @pytest.fixture
    def place(self, nodes: ValkeyCluster) -> ClusterPlace:
        return ClusterPlace(nodes)


async def talk(message: str) -> AsyncIterator[str]:
    for number in range(int(message)):
        await asyncio.sleep(PACE_S)
        yield f"{number} "


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def ended(runner: Runner, run_id: str) -> RunRecord | None:
    with contextlib.suppress(StoreUnavailable):
        record = await runner.get_run(run_id)
        return record if record.status.ended else None
    return None


async def reached(runner: Runner, run_id: str, position: int) -> RunRecord:
    """Its record, once it has so many events and there is somebody to say so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(StoreUnavailable):
                record = await runner.get_run(run_id)
                if record.last_seq >= position:
                    return record
            await asyncio.sleep(PACE_S)


async def follow(runner: Runner, run: Run, begun: asyncio.Event | None = None) -> str:
    text, last, ends = "", 0, 0
    async for event in run.events():
        if begun is not None:
            begun.set()
        assert not ends, "nothing comes after the end"
        if isinstance(event, TextMessageContentEvent):
            text += event.delta
        ends += isinstance(event, RunFinishedEvent)
        last += 1
    assert ends == 1
    record = await reached(runner, run.id, last)  # a server that has just taken over may have to be given the end again
    assert record.last_seq == last, "no hole and no repetition"
    return text


async def followers(runner: Runner, run_ids: Sequence[str]) -> list[asyncio.Task[str]]:
    """Who follows these runs, each from its first event on: only who has begun waits for a store that goes away."""
    begun = [asyncio.Event() for _ in run_ids]
    runs = [await runner.attach(run_id) for run_id in run_ids]
    following = [asyncio.create_task(follow(runner, *one)) for one in zip(runs, begun, strict=True)]
    async with asyncio.timeout(WAIT_S):
        for one in begun:
            await one.wait()
    return following


@pytest.mark.parametrize("victim", ["the index", "the node that is connected to"])
async def test_runs_go_on_when_a_master_dies_and_its_replica_takes_over(
    victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers on another worker get every event once. What the replica had not got, it is given again."""
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.5)
    with ValkeyCluster() as cluster:
        # However long a busy machine takes to elect another master, nobody's lease runs out and no run is given up.
        patient = partial(Runner, talk, store=cluster.url, lease_s=2 * WAIT_S)
        async with patient() as one, patient() as other:
            one.journals._patience_s = other.journals._patience_s = WAIT_S
            runs = [await one.start(str(WORDS), run_id=f"r{number}", session_id=f"s{number}") for number in range(RUNS)]
            following = await followers(other, [run.id for run in runs])
            await reached(other, "r0", 10)
            cluster.kill(cluster.master_of("{gapless}:workers") if victim == "the index" else cluster.servers[0])
            async with asyncio.timeout(WAIT_S):
                assert await asyncio.gather(*following) == [said(WORDS)] * RUNS
            for run in runs:  # and who comes later reads the same
                assert (await (await other.attach(run.id)).collect()).text == said(WORDS)
            after = await other.start("3", session_id="s0")
            assert (await after.collect()).text == said(3)
            assert await other.list_runs(status=RunStatus.RUNNING) == []


async def test_a_replica_is_promoted_that_lacks_what_was_accepted_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run goes on from events that the new primary has never seen, another has ended there without it."""
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.5)
    with Valkey() as primary, Valkey() as replica:
        ours, theirs = (redis.Redis(port=server.port) for server in (primary, replica))
        theirs.replicaof("127.0.0.1", primary.port)
        async with asyncio.timeout(WAIT_S):
            while theirs.info("replication")["master_link_status"] != "up":
                await asyncio.sleep(0.01)
        proxy = Proxy(primary.port)
        alone = asyncio.Event()

        async def held(message: str) -> AsyncIterator[str]:
            """Says the last words when the replica gets nothing any more."""
            async for word in talk(message):
                if word == "6 ":
                    await alone.wait()
                yield word

        async with (
            proxy as url,
            Runner(held, store=url, lease_s=4) as one,
            Runner(talk, store=url, lease_s=4) as other,
        ):
            await one.start(str(WORDS), run_id="long", session_id="s1")
            short = await one.start("12", run_id="short", session_id="s2")
            following = await followers(other, ("long", "short"))
            for run_id in ("long", "short"):
                await reached(other, run_id, 8)
            ours.set("last", "and the replica has it")
            assert ours.wait(1, int(WAIT_S * 1000)) == 1
            theirs.replicaof("NO", "ONE")
            alone.set()
            async with asyncio.timeout(WAIT_S):
                while not (await other.get_run("short")).status.ended:
                    await asyncio.sleep(PACE_S)
            await reached(other, "long", 9)
            assert theirs.hget("gapless:{s2}:run:short", "status") == b"running"
            proxy.port = replica.port
            primary.kill()
            async with asyncio.timeout(WAIT_S):
                assert await asyncio.gather(*following) == [said(WORDS), said(12)]
                while not (await other.get_run("short")).status.ended:
                    await asyncio.sleep(PACE_S)
                assert await follow(other, await other.attach("short")) == said(12)
                assert (await (await other.start("3", session_id="s2")).collect()).text == said(3)
            assert (await other.store.turns("s2"))[0].run_id == short.id
            assert (await other.get_run("long")).status is RunStatus.FINISHED


async def test_a_server_that_stays_away_for_too_long_costs_the_runs_that_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end with an error once it is back, and what they had said by then is kept."""
    monkeypatch.setattr(hot_path, "PENDING_EVENTS_MAX", 4)
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = Valkey(data_dir=tmp_path, config=config, persist=True)
    server.start()
    url = f"redis://127.0.0.1:{server.port}"
    async with Runner(talk, store=url) as one, Runner(talk, store=url) as other:
        one.journals._patience_s = 1.0
        run = await one.start("100000", run_id="r", session_id="s")
        await reached(other, "r", 5)
        journal = await one.journals.attach("r")
        server.kill()
        async with asyncio.timeout(WAIT_S):
            while journal.lost is None or one.executions["r"].raised.error is None:
                await asyncio.sleep(PACE_S)
            shown = journal.last
            again = Valkey(port=server.port, data_dir=tmp_path, config=config)
            again.start()
            try:
                await one.journals.release(journal)
                while not (record := await ended(other, run.id)):
                    await asyncio.sleep(PACE_S)
                assert (record.status, (record.error or {}).get("code")) == (RunStatus.FAILED, "store_unavailable")
                events = [event async for event in (await other.attach("r")).events()]
                assert len(events) == record.last_seq >= shown
                assert [isinstance(event, RunErrorEvent) for event in events].index(True) == record.last_seq - 1
                assert said(3) in str((await other.messages("s"))[1].content)
            finally:
                await one.close()
                await other.close()
                again.stop()


async def test_a_server_that_comes_back_with_nothing_leaves_nobody_waiting() -> None:
    """Without persistence a restart forgets all. That is said, and new runs go on."""
    server = Valkey()
    server.start()
    url = f"redis://127.0.0.1:{server.port}"
    async with Runner(talk, store=url, lease_s=2) as one, Runner(talk, store=url, lease_s=2) as other:
        await one.start("100000", run_id="r", session_id="s")
        following = [asyncio.create_task(follow(runner, await runner.attach("r"))) for runner in (one, other)]
        await reached(other, "r", 5)
        server.kill()
        with Valkey(port=server.port):
            async with asyncio.timeout(WAIT_S):
                ends = await asyncio.gather(*following, return_exceptions=True)
                assert all(isinstance(end, RunNotFound | StoreUnavailable) for end in ends), ends
                while True:
                    try:
                        after = await other.start("3", run_id="r", session_id="s")
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(PACE_S)
                assert (await after.collect()).text == said(3)
            await one.close()
            await other.close()
