"""Appends to Redis whose answers are lost, whose server lacks what it had accepted, or whose keys are damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from gapless.errors import CursorExpired, SessionBusy, StoreCorrupt, StoreUnavailable
from gapless.journals import redis as redis_store
from gapless.journals import redis_owned
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Append, WorkerFenced
from gapless.journals.redis import RedisStore
from gapless.journals.redis_keys import pack
from gapless.records import RunStatus
from tests.journals.conformance import LEASE_S, Cluster, Worker, an_end, an_event
from tests.journals.redis_place import Losses, Replica, Traffic, put_between, warm


async def test_an_append_whose_answer_was_lost_is_accepted_once(a: Worker, b: Worker, monkeypatch: Any) -> None:
    await warm(a)
    losses = Losses(a.store, monkeypatch)
    await a.create("r")
    events = [an_event("1"), an_event("2")]
    batches = [Append("r", 1, events)]
    losses.answers = [scripts.APPEND]
    with pytest.raises(StoreUnavailable, match="cut before the answer"):
        await a.store.append(batches)
    assert not await a.store.append(batches)
    assert await b.read_all("r") == events
    events += await a.append("r", 3, "3")
    last = [Append("r", 4, [an_event("end")], an_end("r", state={"n": 1}))]
    for lost in ("APPEND", "FINISH_RUNS"):
        losses.answers = [getattr(scripts, lost)]
        with pytest.raises(StoreUnavailable):
            await a.store.append(last)
    losses.calls = [scripts.FINISH_RUNS]
    with pytest.raises(StoreUnavailable):
        await a.store.append(last)
    assert not await a.store.append(last)
    assert await b.read_all("r") == [*events, an_event("end")]
    assert len(await b.store.turns("s")) == 1
    assert await b.store.expire(10**6) == 2


async def test_other_events_at_the_same_position_are_refused(a: Worker, b: Worker) -> None:
    await a.create("r")
    events = await a.append("r", 1, "1", "2")
    assert set(await a.store.append([Append("r", 1, [an_event("1"), an_event("other")])])) == {"r"}
    assert await b.read_all("r") == events


async def test_a_start_whose_answer_was_lost(a: Worker, monkeypatch: Any) -> None:
    await a.create("warm")
    await a.store.start_run("warm", 1)
    await a.create("r", "s2")
    losses = Losses(a.store, monkeypatch)
    losses.answers = [scripts.START]
    with pytest.raises(StoreUnavailable):
        await a.store.start_run("r", 5)
    assert await a.store.start_run("r", 5) is None


async def test_followers_share_one_connection_and_runs_one_call(
    a: Worker, b: Worker, server_side: Any, monkeypatch: Any
) -> None:
    runs = [f"r{i}" for i in range(200)]
    for run_id in runs:
        await a.create(run_id, run_id)
        await b.store.watch(run_id)
    assert isinstance(a.store, RedisStore)
    mine = f"gapless:{b.id}"
    assert server_side.pubsub_numsub(mine) == [(mine.encode(), 1)]
    assert len(server_side.client_list()) < 20
    before = server_side.info("commandstats")
    assert not await a.store.append([Append(run_id, 1, [an_event("1"), an_event("2")]) for run_id in runs])
    after = server_side.info("commandstats")
    await b.heard.until(lambda: all(b.heard.last.get(run_id) == 2 for run_id in runs))

    def calls(command: str) -> int:
        return int(after[f"cmdstat_{command}"]["calls"] - before.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    assert (calls("xadd"), calls("publish")) == (200, 1)
    assert calls("evalsha") <= 2  # the other may be a lease's


async def test_a_worker_that_dies_right_after_an_end_leaves_the_index_to_others(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any
) -> None:
    await warm(a)
    await a.create("r")
    await a.create("other", "s2", created_at=50)
    Losses(a.store, monkeypatch).calls.append(scripts.FINISH_RUNS)
    with pytest.raises(StoreUnavailable):
        await a.end("r", 1, ended_at=200)
    await b.create("next", reject_busy=True)  # the end itself was whole
    await cluster.crash(a)
    assert [run.id for run in (await cluster.lapse(b))["b"]] == ["other"]
    assert [session.id for session in await b.store.list_sessions()][:2] == ["s", "warm-a"]
    assert await b.store.expire(201) == 2


async def test_a_server_that_lacks_accepted_events_is_given_them_again(
    a: Worker, b: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.0)
    await a.create("r")
    events = await a.append("r", 1, "1")
    replica = Replica(server_side)
    await b.store.watch("r")
    events += await a.append("r", 2, "2", "3")
    events += await a.append("r", 4, "4", status=RunStatus.WAITING)
    replica.promote()
    assert len(await b.read_all("r")) == 1
    await b.store.renew()  # nor did the replica know that it is watched
    events += await a.append("r", 5, "5")
    assert await b.read_all("r") == events
    replica = Replica(server_side)
    events += await a.append("r", 6, "6")
    replica.promote()
    events.append(await a.end("r", 7))
    assert await b.read_all("r") == events
    await b.heard.until(lambda: "r" in b.heard.closed)
    assert [turn.run_id for turn in await b.store.turns("s")] == ["r"]


async def test_a_server_that_lacks_an_accepted_end_is_given_it_again(
    a: Worker, b: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.0)
    await a.create("r")
    events = await a.append("r", 1, "1")
    replica = Replica(server_side)
    events += await a.append("r", 2, "2")
    events.append(await a.end("r", 3, ended_at=70))
    replica.promote()
    with pytest.raises(SessionBusy):
        await b.create("next", reject_busy=True)
    await a.store.renew()
    record = await b.store.get_run("r")
    assert record is not None
    assert (record.status, record.ended_at) == (RunStatus.FINISHED, 70)
    assert await b.read_all("r") == events
    assert [turn.run_id for turn in await b.store.turns("s")] == ["r"]
    await b.create("next", reject_busy=True)
    await a.store.renew()
    assert await a.store.take_over(LEASE_S) == []
    assert await b.store.expire(71) == 1


async def test_a_run_whose_lost_events_are_no_longer_at_hand_is_handed_over_to_be_closed(
    a: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_owned, "RECENT_BYTES_MAX", 1)
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.0)
    for run_id, ends in (("r", False), ("q", True)):
        await a.create(run_id, run_id)
        events = await a.append(run_id, 1, "1")
        replica = Replica(server_side, run_id)
        await a.append(run_id, 2, "2")
        await a.append(run_id, 3, "3")
        if ends:
            await a.end(run_id, 4)
        replica.promote()
        if ends:
            await a.store.renew()
        else:
            assert set(await a.store.append([Append(run_id, 4, [an_event("4")])])) == {run_id}
        [run] = await a.store.take_over(LEASE_S)
        assert (run.id, run.last_seq) == (run_id, 1)
        assert await a.store.take_over(LEASE_S) == []
        assert await a.read_all(run_id) == events
        await a.end(run_id, 2, status=RunStatus.FAILED)


@pytest.mark.parametrize("how", ["replaced", "added to"])
async def test_a_journal_that_somebody_damages_costs_its_own_past_alone(
    a: Worker, b: Worker, server_side: Any, how: str
) -> None:
    for run_id in "pqr":  # q's batch is in the middle of each call
        await a.create(run_id, f"s{run_id}")
        await a.append(run_id, 1, "1", "2")
        await b.store.watch(run_id)
    key = "gapless:{sq}:events:q"
    if how == "replaced":
        server_side.delete(key)
        server_side.set(key, "x")
    else:
        server_side.xadd(key, {"x": "y"})
    for seq, end in ((3, False), (4, True)):
        batches = [Append(run_id, seq, [an_event(str(seq))], an_end(run_id) if end else None) for run_id in "pqr"]
        assert not await a.store.append(batches)
    await b.heard.until(lambda: b.heard.closed == set("pqr"))
    for run_id in "pr":
        assert await b.read_all(run_id) == [an_event(str(seq)) for seq in range(1, 5)]
    assert await b.read_all("q", after=2) == [an_event("3"), an_event("4")]
    with pytest.raises(CursorExpired, match="run q from 1 on are gone"):
        await b.store.read("q", 0, 10)
    record = await b.store.get_run("q")
    assert record is not None
    assert (record.status, record.last_seq) == (RunStatus.FINISHED, 4)
    assert [turn.run_id for turn in await b.store.turns("sq")] == ["q"]
    assert server_side.exists("gapless:{sq}:damaged:q"), "what was found there is kept"


@pytest.mark.parametrize("field", [None, "last"])
async def test_a_record_that_somebody_damages_is_one_run_less(
    a: Worker, b: Worker, server_side: Any, field: str | None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.0)
    for run_id in "pqr":
        await a.create(run_id, f"s{run_id}")
        await a.append(run_id, 1, "1")
        await b.store.watch(run_id)
    key = "gapless:{sq}:run:q"
    if field is None:
        server_side.delete(key)
        server_side.set(key, "x")
    else:
        server_side.hset(key, field, "x")
    assert set(await a.store.append([Append(run_id, 2, [an_event("2")]) for run_id in "pqr"])) == {"q"}
    await b.heard.until(lambda: all(b.heard.last.get(run_id) == 2 for run_id in "pr"))
    for worker in (a, b):
        await worker.store.renew()
        assert await worker.store.take_over(LEASE_S) == []
    await b.heard.until(lambda: "q" in b.heard.closed)
    with pytest.raises(StoreCorrupt):
        await b.store.get_run("q")
    assert {run.id for run in await b.store.list_runs(status=RunStatus.QUEUED)} == {"p", "r"}
    for run_id in "pr":
        await a.end(run_id, 3)
    assert await b.store.expire(1000) == 2


async def test_long_batches_and_many_ends_go_in_several_calls(a: Worker, b: Worker, monkeypatch: Any) -> None:
    """As the event loop stands still while they are encoded, and the server while it takes them."""
    runs = [f"r{number}" for number in range(600)]
    for run_id in runs:
        await a.create(run_id, run_id)
    sizes: list[int] = []

    def sized(rows: Any) -> bytes:
        packed = pack(rows)
        sizes.append(len(packed))
        return packed

    monkeypatch.setattr(redis_owned, "pack", sized)
    events = [an_event("x" * 2000)] * 2
    assert not await a.store.append([Append(run_id, 1, events) for run_id in runs])
    assert len(sizes) >= 600 * 4000 / redis_owned.CALL_BYTES_MAX
    sizes.clear()
    assert not await a.store.append([Append(run_id, 3, [an_event("end")], an_end(run_id)) for run_id in runs])
    assert len(sizes) == 4, "two appends and two steps of the index"
    assert max(sizes) < redis_owned.CALL_BYTES_MAX
    assert await b.read_all("r599") == [*events, an_event("end")]
    traffic = Traffic(b.store, monkeypatch)
    assert await b.store.expire(1000) == 600
    assert len(traffic.trips) <= 24, "a hundred in one round trip"


async def test_an_accepted_end_is_not_refused_as_another_run_of_its_call_is(
    a: Worker, b: Worker, monkeypatch: Any
) -> None:
    """Of which it could not be asked whether that is another worker's: the whole call is made again."""
    for run_id in "pqr":
        await a.create(run_id, f"s{run_id}")
    batches = [
        Append("p", 1, [an_event("1")]),
        Append("q", 5, [an_event("behind a hole")]),
        Append("r", 1, [an_event("end")], an_end("r")),
    ]
    losing = ["HEXISTS"]

    async def lossy(execute: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if arguments[0] in losing:
            losing.remove(arguments[0])
            raise ConnectionLost("cut before the call")
        return await execute(*arguments, **options)

    put_between(a.store, lossy, monkeypatch)
    with pytest.raises(StoreUnavailable):
        await a.store.append(batches)
    assert set(await a.store.append(batches)) == {"q"}
    assert await b.read_all("r") == [an_event("end")]
    assert [turn.run_id for turn in await b.store.turns("sr")] == ["r"]
    assert isinstance(a.store, RedisStore)
    assert len(a.store._owned.runs["p"].recent) == 1, "it is kept once"
    assert set(await a.store.append([Append("r", 2, [an_event("late")])])) == {"r"}


async def test_what_was_given_under_an_id_that_is_lost_is_not_appended_under_the_next(
    cluster: Cluster, b: Worker, monkeypatch: Any
) -> None:
    """One call waits for another: its worker loses its lease meanwhile, and wins the run again."""
    monkeypatch.setattr(redis_owned, "CALLS_AT_ONCE", 1)
    monkeypatch.setattr(redis_owned, "CALL_BATCHES_MAX", 1)
    a = await cluster.worker("a")
    await warm(a)
    await a.create("q", "s1")
    await a.create("r", "s2")
    held, go_on = asyncio.Event(), asyncio.Event()

    async def late(execute: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if scripts.APPEND.sha in arguments and not held.is_set():
            held.set()
            await go_on.wait()
        return await execute(*arguments, **options)

    put_between(a.store, late, monkeypatch)
    appending = asyncio.create_task(
        a.store.append([Append("q", 1, [an_event("old")]), Append("r", 1, [an_event("old")])])
    )
    await held.wait()
    assert {run.id for run in await cluster.lose_and_win(a, b, "r")} == {"q", "r"}
    go_on.set()
    with pytest.raises(WorkerFenced):
        await appending
    await a.append("r", 1, "new")
    assert await b.read_all("r") == [an_event("new")]
