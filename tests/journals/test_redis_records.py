"""Finding and listing in Redis, also where somebody else has written to the keys."""

from __future__ import annotations

from typing import Any

import pytest

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
