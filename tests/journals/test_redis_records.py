"""Finding and listing in Redis, also where somebody else has written to the keys."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.errors import SessionBusy
from journals.conformance import Cluster, Worker


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
