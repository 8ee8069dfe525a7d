"""The outbox in Redis: a notice and its place in the index are in two slots, and anything may be lost between them."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.errors import StoreUnavailable
from gapless.journals import redis as redis_store
from gapless.journals import redis_owned
from gapless.journals.contract import Append
from gapless.records import RunStatus
from tests.journals.conformance import Cluster, Worker, an_end, an_event
from tests.journals.outbox import a_notice, ends
from tests.journals.redis_place import Replica


async def cut(*_: object) -> None:
    raise StoreUnavailable("cut before the index was written")


@pytest.mark.parametrize("how", ["ends", "waits"])
async def test_an_append_that_is_cut_before_the_index_is_made_again(
    a: Worker, b: Worker, monkeypatch: Any, how: str
) -> None:
    await a.create("r")
    end = an_end("r") if how == "ends" else None
    status = None if how == "ends" else RunStatus.WAITING
    batch = Append("r", 1, [an_event("1")], end, status, notices=[a_notice("n", "r")])
    with monkeypatch.context() as patched:
        patched.setattr(redis_owned, "list_notices", cut)
        with pytest.raises(StoreUnavailable):
            await a.store.append([batch])
    assert await b.store.outbox.take(1, 2) == []
    assert not await a.store.append([batch])
    assert await b.store.outbox.take(2, 3) == [a_notice("n", "r", 3)]


@pytest.mark.parametrize("how", ["ends", "waits"])
async def test_whoever_takes_over_lists_what_its_worker_did_not(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any, how: str
) -> None:
    await a.create("r")
    end = an_end("r") if how == "ends" else None
    status = None if how == "ends" else RunStatus.WAITING
    batch = Append("r", 1, [an_event("1")], end, status, notices=[a_notice("n", "r"), a_notice("told", "r")])
    with monkeypatch.context() as patched:
        patched.setattr(redis_owned, "list_notices", cut)
        with pytest.raises(StoreUnavailable):
            await a.store.append([batch])
    told = next(notice for notice in await b.store.outbox.of_run("r") if notice.id == "told")
    assert await b.store.outbox.settle(told, None)
    await cluster.crash(a)
    await cluster.lapse(b)
    assert await b.store.outbox.take(2, 3) == [a_notice("n", "r", 3)]


async def test_a_server_that_lacks_an_end_is_given_its_notices_again(
    a: Worker, b: Worker, monkeypatch: Any, server_side: Any
) -> None:
    await a.create("r")
    replica = Replica(server_side)
    batch = Append("r", 1, [an_event("end")], an_end("r"), notices=[a_notice("n", "r")])
    assert not await a.store.append([batch])
    replica.promote()
    assert await b.store.outbox.take(1, 2) == [], "listed, and not there"
    monkeypatch.setattr(redis_store, "RECHECK_S", 0.0)
    await a.store.renew()
    assert await b.store.outbox.take(2, 3) == [a_notice("n", "r", 3)]


async def test_a_server_that_lacks_a_question_is_given_its_notice_again(a: Worker, b: Worker, server_side: Any) -> None:
    await a.create("r")
    replica = Replica(server_side)
    batch = Append("r", 1, [an_event("?")], status=RunStatus.WAITING, notices=[a_notice("n", "r")])
    assert not await a.store.append([batch])
    replica.promote()
    assert await b.store.outbox.take(1, 2) == []
    await a.append("r", 2, "answered", status=RunStatus.RUNNING)
    assert await b.store.outbox.take(2, 3) == [a_notice("n", "r", 3)]


async def test_a_notice_of_a_run_that_is_gone_leaves_the_index(a: Worker, b: Worker, server_side: Any) -> None:
    await ends(a, "r", a_notice("n", "r"))
    assert server_side.zcard("{gapless}:due") == 1
    await a.store.delete_session("r")
    assert await b.store.outbox.take(1, 2) == []
    assert server_side.zcard("{gapless}:due") == 0
