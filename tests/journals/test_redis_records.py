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
