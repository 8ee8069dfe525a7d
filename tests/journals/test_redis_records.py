"""Finding and listing in Redis, also where somebody else has written to the keys."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.errors import SessionBusy, StoreCorrupt
from gapless.records import RunStatus
from tests.journals.conformance import Cluster, Worker
from tests.journals.redis_place import Traffic


@pytest.mark.parametrize("field", ["record", "status"])
async def test_a_record_that_nobody_can_read_holds_no_other_run_up(
    a: Worker, b: Worker, cluster: Cluster, server_side: Any, field: str
) -> None:
    for run_id in "pqr":
        await a.create(run_id)
    server_side.hset("gapless:{s}:run:q", field, "x")
    assert {run.id for run in await b.store.list_runs(session_id="s")} == {"p", "r"}
    await cluster.crash(a)
    taken = await cluster.lapse(b)
    assert {run.id for run in taken["b"]} == {"p", "r"}


async def test_a_run_that_was_deleted_and_made_anew_elsewhere_is_found_there(a: Worker, b: Worker) -> None:
    """By a worker that remembers where it was."""
    await a.create("r", "s1")
    assert await b.store.get_run("r") is not None
    await a.end("r", 1)
    assert await a.store.delete_session("s1")
    await a.create("r", "s2")
    await b.store.send("r", b"cancel")
    await a.heard.until(lambda: a.heard.commands == [("r", b"cancel")])

    await a.end("r", 1)
    assert await a.store.delete_session("s2")
    await a.create("r", "s3")
    await b.store.watch("r")
    await a.append("r", 1, "1")
    await b.heard.until(lambda: b.heard.last.get("r") == 1)


@pytest.mark.parametrize("how", ["deleted", "replaced", "unreadable", "without status"])
async def test_a_run_whose_record_is_gone_does_not_keep_its_session_busy(
    a: Worker, b: Worker, cluster: Cluster, server_side: Any, how: str
) -> None:
    for run_id in ("gone", "next", "last"):
        await a.create(run_id)
    key = "gapless:{s}:run:gone"
    match how:
        case "deleted":
            server_side.delete(key)
        case "replaced":
            server_side.delete(key)
            server_side.set(key, "x")
        case "unreadable":
            server_side.hset(key, "record", "x")
        case "without status":
            server_side.hdel(key, "status")
    if how == "unreadable":  # its owner goes on with it; nobody else can
        await cluster.crash(a)
        assert {run.id for run in (await cluster.lapse(b))["b"]} == {"next", "last"}
        a, b = b, await cluster.worker("c")
    assert (await b.store.active_runs(["s"]))["s"].id == "next"
    assert await a.store.start_run("next", 5) is None
    assert await a.store.start_run("last", 5) == "next"
    with pytest.raises(SessionBusy, match="an active run, next"):
        await b.create("refused", reject_busy=True)
    for run_id in ("next", "last"):
        await a.end(run_id, 1)
    assert await b.store.active_runs(["s"]) == {}
    assert await b.store.update_state("s", {"n": 1}, 200) is not None
    await b.create("after", reject_busy=True)
    await b.end("after", 1)
    assert await b.store.delete_session("s")


async def test_a_run_in_the_middle_of_a_queue_whose_record_is_gone_is_passed_over(a: Worker, server_side: Any) -> None:
    for run_id in ("first", "gone", "last"):
        await a.create(run_id)
    server_side.delete("gapless:{s}:run:gone")
    assert await a.store.start_run("last", 5) == "first"
    assert await a.store.start_run("first", 5) is None
    await a.end("first", 1)
    assert await a.store.start_run("last", 5) is None


async def test_the_newest_runs_of_a_long_session_cost_what_they_are(a: Worker, b: Worker, monkeypatch: Any) -> None:
    for number in range(300):
        await a.create(f"r{number}")
        await a.end(f"r{number}", 1)
    for run_id in ("running", "queued"):
        await a.create(run_id)
    await a.store.start_run("running", 5)
    for asked, found in (
        ({"limit": 3}, ["queued", "running", "r299"]),
        ({"status": RunStatus.RUNNING}, ["running"]),
        ({"status": RunStatus.QUEUED, "limit": 1}, ["queued"]),
        ({"status": RunStatus.FINISHED, "limit": 2}, ["r299", "r298"]),
        ({"limit": 0}, []),
    ):
        with monkeypatch.context() as patch:
            traffic = Traffic(b.store, patch)
            assert [run.id for run in await b.store.list_runs(session_id="s", **asked)] == found  # type: ignore[arg-type]
        assert traffic.answers <= 40, "run ids and records together"
    everything = await b.store.list_runs(session_id="s", limit=1000)
    assert [run.id for run in everything] == ["queued", "running", *(f"r{number}" for number in reversed(range(300)))]


async def test_runs_that_begin_while_a_list_is_read_are_not_in_it_twice(a: Worker, b: Worker, monkeypatch: Any) -> None:
    for number in range(80):
        await a.create(f"r{number}")
    server = b.store._server  # type: ignore[attr-defined]  # a RedisStore
    each = server.each
    begun: list[Any] = []

    async def and_begin(*arguments: Any) -> Any:
        begun.append(f"new{len(begun)}")
        await a.create(begun[-1])
        return await each(*arguments)

    monkeypatch.setattr(server, "each", and_begin)
    for asked in ({"session_id": "s"}, {"user_id": "u"}, {}):
        found = [run.id for run in await b.store.list_runs(limit=200, **asked)]  # type: ignore[arg-type]
        assert [run_id for run_id in found if run_id.startswith("r")] == [
            f"r{number}" for number in reversed(range(80))
        ]


async def test_pages_have_each_run_once_though_others_begin(a: Worker, b: Worker, monkeypatch: Any) -> None:
    for number in range(40):
        await a.create(f"r{number}", f"s{number}", created_at=number // 3)
    server = b.store._server  # type: ignore[attr-defined]  # a RedisStore
    command, begun = server.command, list[str]()

    async def begin_and(*arguments: Any) -> Any:
        if str(arguments[0]).startswith(("Z", "L")):
            begun.append(f"new{len(begun)}")
            await a.create(begun[-1], begun[-1], created_at=100)
        return await command(*arguments)

    monkeypatch.setattr(server, "command", begin_and)
    for ask, first, asked in (
        (b.store.list_runs, "r", {"user_id": "u"}),
        (b.store.list_runs, "r", {"status": RunStatus.QUEUED}),
        (b.store.list_sessions, "s", {"user_id": "u"}),
        (b.store.list_sessions, "s", {}),
    ):
        seen, after = list[str](), None
        while True:
            page = await ask(limit=7, after=after, **asked)  # type: ignore[operator]  # either of two
            seen += [one.id for one in page]
            if (after := page.next) is None:
                break
        assert len(seen) == len(set(seen))
        assert (
            [id for id in seen if id.startswith(first)]
            == sorted((f"{first}{number}" for number in range(40)), key=lambda id: (int(id[1:]) // 3, id), reverse=True)
            if first == "s"
            else [f"r{number}" for number in reversed(range(40))]
        )


async def test_long_records_are_read_a_few_at_a_time(a: Worker, b: Worker, monkeypatch: Any) -> None:
    """As the event loop stands still while they are decoded."""
    for number in range(120):
        await a.create(f"r{number}", f"s{number}", message="x" * 100_000)
    sessions = [f"s{number}" for number in range(120)]
    traffic = Traffic(b.store, monkeypatch)
    assert len(await b.store.list_runs(limit=120)) == 120
    assert len(await b.store.list_runs(status=RunStatus.QUEUED, limit=120)) == 120
    assert len(await b.store.active_runs(sessions)) == 120
    assert max(size for _, size in traffic.trips) < 10 * 2 * 100_100 + 100_000, "the first step, whatever they are"
    assert sum(size > 1_000_000 for _, size in traffic.trips) <= 3, "one first step of each list"


async def test_a_session_record_that_nobody_can_read_is_left_out_of_lists_and_said_once(
    a: Worker, b: Worker, server_side: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for session_id in ("s1", "s2", "s3"):
        await a.create(f"r-{session_id}", session_id)
    server_side.hset("gapless:{s2}:session", "record", "x")
    for _ in range(2):
        assert {session.id for session in await b.store.list_sessions()} == {"s1", "s3"}
    assert [record.message for record in caplog.records if "s2" in record.message] == [
        f"store {b.store._server.name}: session s2: its record is damaged; it is left out of lists"  # type: ignore[attr-defined]
    ]
    with pytest.raises(StoreCorrupt, match="session s2"):
        await b.store.get_session("s2")
