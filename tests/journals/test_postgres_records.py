"""Records in PostgreSQL that another version of Gapless wrote, and runs that begin at the same instant."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from gapless.errors import SessionBusy, SessionNotFound, StoreCorrupt
from gapless.journals.contract import Append
from gapless.records import RunStatus
from tests.journals.conformance import LEASE_S, Cluster, Worker, a_run, an_end, an_event
from tests.journals.postgres_place import DatabasePlace
from tests.support.postgres import Postgres
from tests.test_records_of_other_versions import encoded


@pytest.fixture
async def cluster(postgres: Postgres) -> AsyncIterator[Cluster]:
    cluster = Cluster(DatabasePlace(postgres))
    yield cluster
    await cluster.close()


def change(postgres: Postgres, run_id: str, what: str, value: object) -> None:
    postgres.run(f"UPDATE gapless.runs SET {what} = %s WHERE id = %s", value, run_id.encode())


@pytest.mark.parametrize("how", ["setting", "record", "status"])
async def test_one_record_of_another_version_hides_no_other(
    cluster: Cluster, postgres: Postgres, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    a = await cluster.worker("a")
    for run_id in ("r1", "r2", "r3"):
        await a.create(run_id, f"s{run_id}")
        await a.append(run_id, 1, "1")
    later = encoded(id="r2", session_id="sr2")
    if how == "status":
        change(postgres, "r2", "status", "levitating")
    else:
        change(postgres, "r2", "record", later if how == "setting" else b'{"id": "r2", "text": "private"}')
    for _ in range(2):
        shown = [run.id for run in await a.store.list_runs()]
        assert shown == (["r3", "r2", "r1"] if how == "setting" else ["r3", "r1"])
    if how == "setting":
        await a.end("r2", 2)
        (record,) = postgres.run("SELECT record FROM gapless.runs WHERE id = 'r2'")[0]
        assert record == later, "what another version knows of it stays"
        return
    with pytest.raises(StoreCorrupt):
        await a.store.get_run("r2")
    said = [one for one in caplog.records if one.name == "gapless.postgres" and "run r2" in one.getMessage()]
    assert [one.levelno for one in said] == [logging.WARNING]
    assert "private" not in caplog.text


async def test_a_session_that_cannot_be_read_is_left_out(cluster: Cluster, postgres: Postgres) -> None:
    a = await cluster.worker("a")
    await a.create("r1", "s1")
    await a.create("r2", "s2")
    postgres.run("UPDATE gapless.sessions SET record = %s WHERE id = 's1'", b'{"id": "s1"}')
    assert [session.id for session in await a.store.list_sessions()] == ["s2"]
    with pytest.raises(StoreCorrupt):
        await a.store.get_session("s1")
    await a.end("r1", 1)


async def test_a_run_that_cannot_be_read_is_left_to_a_worker_that_can(cluster: Cluster, postgres: Postgres) -> None:
    """And so are its events; the other runs of the dead worker are taken over."""
    dead, old = await cluster.worker("dead"), await cluster.worker("old")
    for run_id in ("later", "known"):
        await dead.create(run_id, run_id)
        await dead.append(run_id, 1, "1")
    (record,) = postgres.run("SELECT record FROM gapless.runs WHERE id = 'later'")[0]
    change(postgres, "later", "record", msgspec.json.encode({"id": "later"}))
    await cluster.crash(dead)
    assert [run.id for run in (await cluster.lapse(old))["old"]] == ["known"]
    assert await old.store.take_over(LEASE_S) == []
    change(postgres, "later", "record", record)
    new = await cluster.worker("new")
    (run,) = await new.store.take_over(LEASE_S)
    assert (run.id, run.last_seq) == ("later", 1)
    assert await new.read_all("later") == [an_event("1")]


async def test_runs_that_begin_at_the_same_instant(cluster: Cluster, postgres: Postgres) -> None:
    """Of the same ids, in the same sessions, of several users, while sessions are deleted: one has each, the others are
    told, and nothing is left over."""
    workers = [await cluster.worker(name) for name in "abc"]

    async def begin(worker: Worker, run_id: str, session_id: str, user_id: str) -> tuple[str, str, str] | None:
        try:
            record, created = await worker.store.create_run(
                a_run(run_id, session_id, user_id=user_id), reject_busy=True
            )
        except (SessionNotFound, SessionBusy):
            return None
        assert record.id == run_id
        return (run_id, record.session_id, record.user_id) if created else None

    async def delete(worker: Worker, session_id: str) -> None:
        try:
            await worker.store.delete_session(session_id)
        except SessionBusy:
            return

    for turn in range(6):
        ways = [
            begin(worker, f"r{turn}-{n % 2}", f"s{turn}-{n % 3}", f"u{(n + number) % 2}")
            for number, worker in enumerate(workers)
            for n in range(4)
        ]
        answers = await asyncio.gather(*ways, *(delete(worker, f"s{turn}-0") for worker in workers))
        begun = {answer for answer in answers if answer is not None}
        found = {
            (run.id, run.session_id, run.user_id)
            for run in await workers[0].store.list_runs()
            if run.id.startswith(f"r{turn}-")
        }
        assert found == begun
        assert len({run_id for run_id, *_ in begun}) == len(begun), "an id is one run's"
        assert len({session_id for _, session_id, _ in begun}) == len(begun), "a busy session takes no other"
        for run_id, session_id, user_id in begun:
            session = await workers[0].store.get_session(session_id)
            assert session is not None
            assert session.user_id == user_id
            record = await workers[0].store.get_run(run_id)
            assert record is not None
            owner = next(worker for worker in workers if worker.id == record.owner)
            assert await owner.store.start_run(run_id, 1) is None
            assert not await owner.store.append([Append(run_id, 1, [an_event("end")], an_end(run_id))])
    assert not [run for run in await workers[0].store.list_runs() if run.status is not RunStatus.FINISHED]
