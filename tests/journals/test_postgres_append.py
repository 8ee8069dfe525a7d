"""Appends in PostgreSQL whose answers are lost, that are still under way, or that a standby has not got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from gapless.errors import SessionBusy, StoreUnavailable
from gapless.journals import postgres_append, postgres_server
from gapless.journals.contract import Append, Checkpoint, WorkerFenced
from gapless.journals.postgres import PostgresStore
from gapless.records import RunStatus
from tests.journals.conformance import LEASE_S, Cluster, Worker, a_run, a_turn, an_end, an_event
from tests.journals.postgres_place import DatabasePlace
from tests.support.postgres import Postgres
from tests.support.waiting import WAIT_S, until


@pytest.fixture
def place(postgres: Postgres) -> DatabasePlace:
    return DatabasePlace(postgres)


@pytest.fixture
async def cluster(place: DatabasePlace) -> AsyncIterator[Cluster]:
    cluster = Cluster(place)
    yield cluster
    await cluster.close()


@pytest.fixture
async def a(cluster: Cluster) -> Worker:
    return await cluster.worker("a")


@pytest.fixture
async def b(cluster: Cluster) -> Worker:
    return await cluster.worker("b")


def store_of(worker: Worker) -> PostgresStore:
    assert isinstance(worker.store, PostgresStore)
    return worker.store


def lose(worker: Worker, monkeypatch: pytest.MonkeyPatch, *, answer: bool) -> None:
    """Lose the next append of the worker, or its answer."""
    owned = store_of(worker)._owned
    write_on = owned._write_on

    async def lossy(connection: Any, given: Any) -> Any:
        monkeypatch.setattr(owned, "_write_on", write_on)
        if answer:
            await write_on(connection, given)
        raise psycopg.OperationalError("the connection was cut")

    monkeypatch.setattr(owned, "_write_on", lossy)


BATCHES = [
    Append("r", 2, [an_event("2"), an_event("3")]),
    Append("r", 2, [an_event("2")], status=RunStatus.WAITING, checkpoint=Checkpoint(2, b"two"), taken=[1]),
    Append("r", 2, [], checkpoint=Checkpoint(1, b"one")),
    Append("r", 2, [an_event("end")], an_end("r", state={"k": 1})),
]


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("batch", BATCHES, ids=["events", "more", "checkpoint", "end"])
async def test_what_was_lost_on_its_way_is_accepted_once(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch, batch: Append, answer: bool
) -> None:
    await a.create("r")
    await a.create("q", "s2")
    await a.append("r", 1, "1")
    lose(a, monkeypatch, answer=answer)
    batches = [batch, Append("q", 1, [an_event("q")])]
    with pytest.raises(StoreUnavailable):
        await a.store.append(batches)
    assert not await a.store.append(batches)
    assert await b.read_all("r") == [an_event("1"), *batch.events]
    assert await b.read_all("q") == [an_event("q")]
    assert await b.store.checkpoint("r") == batch.checkpoint
    assert await b.store.turns("s") == ([a_turn("r")] if batch.end else [])
    if batch.end is None:
        await a.append("r", 2 + len(batch.events), "next")


async def test_an_append_that_is_still_under_way_is_waited_for(a: Worker, b: Worker, postgres: Postgres) -> None:
    """The connection is lost while the server is at work on it: made again, it finds what comes of the first."""
    await a.create("r")
    batches = [Append("r", 1, [an_event("1")], an_end("r"))]
    async with await psycopg.AsyncConnection.connect(postgres.url) as other:
        await other.execute("SELECT 1 FROM gapless.sessions FOR UPDATE")
        first = asyncio.create_task(a.store.append(batches))
        while not postgres.run("SELECT 1 FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        owned = store_of(a)._owned
        assert owned._connection is not None
        lost, owned._connection = owned._connection.pgconn, None  # the server is told nothing
        first.cancel()
        await asyncio.wait([first], timeout=WAIT_S)
        again = asyncio.create_task(a.store.append(batches))
        await asyncio.sleep(0.05)
        await other.rollback()
    assert not await again
    lost.finish()
    assert await b.read_all("r") == [an_event("1")]
    assert await b.store.turns("s") == [a_turn("r")]


async def test_a_statement_of_an_old_connection_that_arrives_late_changes_nothing(a: Worker, b: Worker) -> None:
    await a.create("r")
    await a.append("r", 1, "1")
    owned = store_of(a)._owned
    late, epoch = await store_of(a)._server.connect(), owned._epoch
    await owned.disconnect()
    await a.append("r", 2, "2")
    now, owned._epoch = owned._epoch, epoch
    run = owned.runs["r"]
    with pytest.raises(WorkerFenced):
        await owned._add(late, [postgres_append._given(run, Append("r", 3, [an_event("late")]))])
    owned._epoch, owned.runs["r"] = now, run
    await late.close()
    await a.append("r", 3, "3")
    assert await b.read_all("r") == [an_event("1"), an_event("2"), an_event("3")]


def forget(postgres: Postgres, run_id: str, after: int) -> None:
    """Be a standby that took over and has not got the run's events after that position, nor its end."""
    rid = postgres.run("SELECT rid FROM gapless.runs WHERE id = %s", run_id.encode())[0][0]
    postgres.run("DELETE FROM gapless.events WHERE rid = %s AND seq > %s", rid, after)
    back = "status = 'running', ended_at = NULL, last_seq = NULL, kept_since = NULL"
    postgres.run(f"UPDATE gapless.runs SET {back} WHERE rid = %s", rid)
    postgres.run("DELETE FROM gapless.turns")


async def test_a_server_that_lacks_events_is_given_them_again(a: Worker, b: Worker, postgres: Postgres) -> None:
    await a.create("r")
    events = [event for n in range(1, 5) for event in await a.append("r", n, str(n))]
    forget(postgres, "r", 2)
    events += await a.append("r", 5, "5")
    assert await b.read_all("r") == events
    events.append(await a.end("r", 6))
    assert await b.read_all("r") == events


async def test_a_server_that_lacks_a_runs_end_is_given_it_again(
    a: Worker, b: Worker, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gapless.journals.postgres.RECHECK_S", -1)
    for run_id in ("r", "q"):
        await a.create(run_id, run_id)
        await a.append(run_id, 1, "1")
        await a.append(run_id, 2, "2")
        await a.end(run_id, 3)
    forget(postgres, "r", 1)
    forget(postgres, "q", 2)
    await a.store.renew()
    for run_id in ("r", "q"):
        assert await b.read_all(run_id) == [an_event("1"), an_event("2"), an_event("end")]
        assert await b.store.turns(run_id) == [a_turn(run_id)]
        record = await b.store.get_run(run_id)
        assert record is not None
        assert record.status is RunStatus.FINISHED


async def test_what_is_no_longer_at_hand_ends_the_run(
    a: Worker, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_append, "RECENT_BYTES_MAX", 1)
    await a.create("r")
    for n in range(1, 5):
        await a.append("r", n, str(n))
    forget(postgres, "r", 1)
    assert set(await a.store.append([Append("r", 5, [an_event("5")])])) == {"r"}
    (run,) = await a.store.take_over(LEASE_S)
    assert (run.id, run.last_seq) == ("r", 1), "whoever asks has it to close"


async def test_another_run_under_the_same_number_gets_nothing(a: Worker, postgres: Postgres) -> None:
    """As after a failover that has lost the first one: a sequence may give its number again."""
    await a.create("r")
    postgres.run("UPDATE gapless.runs SET id = 'other', nonce = (nonce + 1) % 1000")
    assert set(await a.store.append([Append("r", 1, [an_event("1")])])) == {"r"}
    assert await a.read_all("other") == []


@pytest.mark.parametrize("asked_again", [True, False])
async def test_a_run_whose_creation_was_answered_to_nobody_is_created_once(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch, asked_again: bool
) -> None:
    server = store_of(a)._server
    attempt = server.attempt

    async def lossy(work: Any) -> Any:
        monkeypatch.setattr(server, "attempt", attempt)
        await attempt(work)
        raise StoreUnavailable("the connection was cut")

    monkeypatch.setattr(server, "attempt", lossy)
    with pytest.raises(StoreUnavailable):
        await a.store.create_run(a_run("r"), reject_busy=True)
    if asked_again:
        _, created = await a.store.create_run(a_run("r"), reject_busy=True)
        assert created
        assert await a.store.take_over(LEASE_S) == []
    else:
        assert [run.id for run in await a.store.take_over(LEASE_S)] == ["r"]
    await a.append("r", 1, "1")
    assert not (await b.store.create_run(a_run("r"), reject_busy=True))[1]
    assert await a.store.take_over(LEASE_S) == []


async def test_a_run_is_created_step_by_step_where_something_was_in_the_way(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the id was another's for a moment, or the session busy."""

    async def in_the_way(*_: Any, **__: Any) -> None: ...

    monkeypatch.setattr(store_of(a)._runs, "_create_at_once", in_the_way)
    for reject_busy in (True, False):
        await a.create(f"r-{reject_busy}", f"s-{reject_busy}")
        with pytest.raises(SessionBusy):
            await a.store.create_run(a_run("q", f"s-{reject_busy}"), reject_busy=True)
    assert not (await a.store.create_run(a_run("r-True", "s2"), reject_busy=True))[1]
    assert await b.store.get_session("s2") is None
    await a.append("r-True", 1, "1")
    assert await b.read_all("r-True") == [an_event("1")]


async def test_one_id_that_many_give_their_runs_at_once_is_one_run_in_one_session(a: Worker, b: Worker) -> None:
    """Whose id was taken in between has begun no session."""
    for attempt in range(5):
        found = await asyncio.gather(
            *(
                worker.store.create_run(a_run(f"r{attempt}", f"s{attempt}-{n}"), reject_busy=bool(n % 2))
                for n in range(4)
                for worker in (a, b)
            )
        )
        assert sum(created for _, created in found) == 1
        (session_id,) = {run.session_id for run, _ in found}
        sessions = {session.id for session in await a.store.list_sessions()}
        assert {one for one in sessions if one.startswith(f"s{attempt}-")} == {session_id}


async def test_a_release_whose_answer_was_lost_is_asked_for_again(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a.create("r")
    server = store_of(a)._server
    transact = server.transact

    async def lossy(work: Any) -> Any:
        monkeypatch.setattr(server, "transact", transact)
        await transact(work)
        raise StoreUnavailable("the connection was cut")

    monkeypatch.setattr(server, "transact", lossy)
    with pytest.raises(StoreUnavailable):
        await a.store.release("r", 0)
    assert await b.store.claim("r") is not None
    assert set(await a.store.append([Append("r", 1, [an_event("no longer mine")])])) == {"r"}
    assert await a.store.release("r", 0) is False
    await b.append("r", 1, "1")


async def test_ends_in_the_same_sessions_do_not_lock_each_other_out(a: Worker, b: Worker) -> None:
    for n in range(30):
        await a.create(f"a{n}", f"s{n}")
        await b.create(f"b{n}", f"s{n}")
    ends = {
        worker: [Append(f"{worker.id}{n}", 1, [an_event("end")], an_end(f"{worker.id}{n}")) for n in order]
        for worker, order in ((a, range(30)), (b, range(29, -1, -1)))
    }
    answers = await asyncio.gather(*(worker.store.append(batches) for worker, batches in ends.items()))
    assert not any(answers)
    for n in range(30):
        assert len(await a.store.turns(f"s{n}")) == 2


async def test_large_groups_go_in_several_transactions(a: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_append, "GROUP_BATCHES_MAX", 3)
    for n in range(10):
        await a.create(f"r{n}", f"s{n}")
    batches = [Append(f"r{n}", 1, [an_event(str(n))]) for n in range(11)]
    assert set(await a.store.append(batches)) == {"r10"}
    for n in range(10):
        assert await a.read_all(f"r{n}") == [an_event(str(n))]


async def test_what_was_accepted_before_another_group_failed_is_recognised(
    a: Worker, b: Worker, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole call is made again: an end of a group before the one that failed is none of a run that is not owned."""
    monkeypatch.setattr(postgres_append, "GROUP_BATCHES_MAX", 2)
    for run_id in "pqr":
        await a.create(run_id, f"s{run_id}")
    owned = store_of(a)._owned
    write_on, groups = owned._write_on, list[Any]()

    async def lossy(connection: Any, given: Any) -> Any:
        groups.append(given)
        if len(groups) == 2:
            raise psycopg.OperationalError("the connection was cut")
        return await write_on(connection, given)

    monkeypatch.setattr(owned, "_write_on", lossy)
    batches = [
        Append("p", 1, [an_event("end")], an_end("p")),
        Append("q", 1, [an_event("1")]),
        Append("r", 1, [an_event("end")], an_end("r")),
    ]
    with pytest.raises(StoreUnavailable):
        await a.store.append(batches)
    assert not await a.store.append(batches)
    for run_id in "pr":
        assert await b.read_all(run_id) == [an_event("end")]
        assert await b.store.turns(f"s{run_id}") == [a_turn(run_id)]
    end = await a.end("q", 2)
    kept = postgres.run("SELECT kept_bytes FROM gapless.runs WHERE id = 'q'")
    assert kept == [(len(an_event("1")) + len(end),)], "it is counted once"
    assert set(await a.store.append([Append("p", 2, [an_event("late")])])) == {"p"}


async def test_what_was_given_under_an_id_that_is_lost_is_not_appended_under_the_next(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call in several groups: its worker loses its lease between them, and wins the run of the second again."""
    monkeypatch.setattr(postgres_append, "GROUP_BATCHES_MAX", 1)
    await a.create("q", "s1")
    await a.create("r", "s2")
    owned, held, go_on = store_of(a)._owned, asyncio.Event(), asyncio.Event()
    settle = owned._settle

    async def late(*given: Any) -> bool:
        held.set()
        await go_on.wait()
        return await settle(*given)

    monkeypatch.setattr(owned, "_settle", late)
    appending = asyncio.create_task(
        a.store.append([Append("q", 5, [an_event("behind a hole")]), Append("r", 1, [an_event("old")])])
    )
    await held.wait()
    assert {run.id for run in await cluster.lose_and_win(a, b, "r")} == {"q", "r"}
    go_on.set()
    with pytest.raises(WorkerFenced):
        await appending
    await a.append("r", 1, "new")
    assert await b.read_all("r") == [an_event("new")]


async def test_a_command_that_came_as_its_run_ended_is_kept_no_longer(a: Worker, postgres: Postgres) -> None:
    """It has the run's row while the end waits for that."""
    await a.create("r")
    async with await psycopg.AsyncConnection.connect(postgres.url) as other:
        await other.execute("SELECT 1 FROM gapless.runs FOR NO KEY UPDATE")
        ending = asyncio.create_task(a.end("r", 1))
        while not postgres.run("SELECT 1 FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        await other.execute("INSERT INTO gapless.commands(rid, command) SELECT rid, 'cancel'::bytea FROM gapless.runs")
        await other.commit()
    await ending
    assert postgres.run("SELECT command FROM gapless.commands") == []


IDLE = "idle_in_transaction_session_timeout = '20ms'"


async def stand_still(connection: Any, postgres: Postgres) -> None:
    """Do nothing, within a transaction, until the server has had enough."""
    alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    await until(lambda: not postgres.run(alive, connection.info.backend_pid), "the server ends the connection")


@pytest.fixture
async def stopped(a: Worker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """Has `a` stand still in its next append of more than events, until it may go on: when it does, and when it may."""
    owned, stands, go_on = store_of(a)._owned, asyncio.Event(), asyncio.Event()
    add = owned._add

    async def stop(*given: Any) -> Any:
        monkeypatch.setattr(owned, "_add", add)
        added = await add(*given)
        stands.set()
        await go_on.wait()
        return added

    await a.create("r")
    await a.append("r", 1, "1")
    assert owned._connection is not None
    await owned._connection.execute(f"SET {IDLE}")
    monkeypatch.setattr(owned, "_add", stop)
    yield stands, go_on
    go_on.set()


async def is_kept_from_nobody(
    cluster: Cluster, a: Worker, b: Worker, stands: asyncio.Event, go_on: asyncio.Event
) -> None:
    """End the run of `a`, which stands still meanwhile: `b` takes it and goes on, and nothing of `a` comes to it."""
    ending = asyncio.create_task(a.store.append([Append("r", 2, [an_event("end")], an_end("r"))]))
    await stands.wait()
    assert [run.id for run in (await cluster.lapse(b))["b"]] == ["r"]
    await b.append("r", 2, "2")
    go_on.set()
    with pytest.raises(StoreUnavailable):
        await ending
    with pytest.raises(WorkerFenced):
        await a.store.append([Append("r", 2, [an_event("end")], an_end("r"))])
    assert await b.read_all("r") == [an_event("1"), an_event("2")]


async def test_a_worker_that_stands_still_while_it_appends_keeps_nobody_from_its_runs(
    cluster: Cluster, a: Worker, b: Worker, stopped: tuple[asyncio.Event, asyncio.Event]
) -> None:
    await is_kept_from_nobody(cluster, a, b, *stopped)


async def test_a_worker_whose_statements_have_come_in_part_keeps_nobody_from_its_runs(
    cluster: Cluster, a: Worker, b: Worker, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server waits for the rest, and takes the transaction for one that is at work."""
    owned, stands, go_on = store_of(a)._owned, asyncio.Event(), asyncio.Event()

    async def stop(connection: Any, *given: Any) -> None:
        await connection.execute("SELECT 1")
        connection.pgconn.send_flush_request()  # what has come is done, and no end of it told
        connection.pgconn.flush()
        stands.set()
        await go_on.wait()
        raise psycopg.OperationalError("the connection was cut")

    monkeypatch.setattr(postgres_server, "TRANSACTION_S", 1)
    await a.create("r")
    await a.append("r", 1, "1")
    await owned.disconnect()
    monkeypatch.setattr(owned, "_add_more", stop)
    await is_kept_from_nobody(cluster, a, b, stands, go_on)


async def test_a_worker_that_stood_still_while_it_appended_appends_again(
    a: Worker, b: Worker, postgres: Postgres, stopped: tuple[asyncio.Event, asyncio.Event]
) -> None:
    stands, go_on = stopped
    batches = [Append("r", 2, [an_event("end")], an_end("r"))]
    ending = asyncio.create_task(a.store.append(batches))
    await stands.wait()
    await stand_still(store_of(a)._owned._connection, postgres)
    go_on.set()
    with pytest.raises(StoreUnavailable):
        await ending
    assert not await a.store.append(batches)
    assert await b.read_all("r") == [an_event("1"), an_event("end")]
    assert await b.store.turns("s") == [a_turn("r")]


async def test_a_worker_that_stood_still_while_it_gave_a_run_up_gives_it_up_again(
    a: Worker, b: Worker, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a.create("r")
    owned = store_of(a)._owned
    check_lease = owned.check_lease

    async def stands_still(connection: Any) -> None:
        monkeypatch.setattr(owned, "check_lease", check_lease)
        await check_lease(connection)
        await connection.execute(f"SET LOCAL {IDLE}")
        await stand_still(connection, postgres)

    monkeypatch.setattr(owned, "check_lease", stands_still)
    with pytest.raises(StoreUnavailable, match="idle-in-transaction"):
        await a.store.release("r", 0)
    assert await a.store.release("r", 0)
    assert await b.store.claim("r") is not None


async def test_an_append_that_waits_ends_as_its_worker_comes_back_under_another_id(
    a: Worker, postgres: Postgres
) -> None:
    """Else nothing of the next one would be written until it was no longer waited for."""
    await a.create("r")
    await a.append("r", 1, "1")
    async with await psycopg.AsyncConnection.connect(postgres.url) as other:
        await other.execute("SELECT 1 FROM gapless.workers FOR UPDATE")
        appending = asyncio.create_task(a.store.append([Append("r", 2, [an_event("2")])]))
        while not postgres.run("SELECT 1 FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        await a.store.open("a2", a.heard)
        async with asyncio.timeout(WAIT_S / 4):
            with pytest.raises(StoreUnavailable):
                await appending
