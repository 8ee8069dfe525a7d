"""Runs with an error in Redis: listed by who ends or judges them, and found where nobody did."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.journals import redis_failed
from gapless.journals.redis_failed import FAILED_RUNS, JUDGED
from gapless.records import RunStatus
from gapless.sought import Sought
from tests.journals.conformance import Worker

FAILED: dict[str, Any] = {"status": RunStatus.FAILED, "error": {"code": "agent_failed", "message": "ValueError"}}
SOUGHT = Sought(error="valueerror")


async def found(worker: Worker) -> tuple[list[str], int]:
    """What a search finds, and at how many runs it has looked."""
    page = await worker.store.find_runs(SOUGHT)
    assert page.next is None
    return [run.id for run in page], page.looked


async def ended(worker: Worker, *ids: int, failed: int) -> None:
    for n in ids:
        await worker.create(f"r{n}", f"s{n}")
        await worker.end(f"r{n}", 1, **(FAILED if n == failed else {}))


async def test_runs_that_are_older_than_the_list_are_judged_by_who_searches(
    a: Worker, b: Worker, server_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_failed, "JUDGED_AT_ONCE", 4)
    monkeypatch.setattr(redis_failed, "JUDGE_S_MAX", 0.0)
    await ended(a, *range(10), failed=1)
    server_side.delete(FAILED_RUNS, JUDGED)
    looked = []
    for _ in range(4):
        ids, count = await found(b)
        assert ids == ["r1"]
        looked.append(count)
    assert looked == [7, 3, 1, 1], "four more are judged each time"


async def test_what_a_worker_that_knows_no_such_list_has_ended_is_found(a: Worker, b: Worker, server_side: Any) -> None:
    await a.create("early", "e")
    await ended(a, 0, 1, failed=0)
    assert (await found(b))[0] == ["r0"]
    await a.end("early", 1, **FAILED)
    await ended(a, 2, 3, failed=2)
    judged = int(server_side.get(JUDGED))
    server_side.zremrangebyscore(FAILED_RUNS, judged + 1, "+inf")
    assert (await found(b))[0] == ["r2", "r0", "early"]


async def test_who_had_not_ended_when_it_was_judged_leaves_the_list_once_it_has_ended_well(
    a: Worker, b: Worker, server_side: Any
) -> None:
    await a.create("r", "s")
    assert await found(b) == ([], 1)
    await a.end("r", 1)
    assert await found(b) == ([], 1)
    assert await found(b) == ([], 0)
    assert server_side.zcard(FAILED_RUNS) == 0


async def test_a_session_that_is_deleted_leaves_nothing_in_the_list(a: Worker, b: Worker, server_side: Any) -> None:
    await ended(a, 0, failed=0)
    assert server_side.zcard(FAILED_RUNS) == 1, "as soon as it has ended"
    await a.store.delete_session("s0")
    assert server_side.zcard(FAILED_RUNS) == 0
    await ended(a, 0, failed=0)
    assert await found(b) == (["r0"], 1)
