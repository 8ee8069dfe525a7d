"""What every store of journals must do, as one suite: a store's tests subclass `Conformance` and say where it is kept.

The rules are those of docs/journal.md. Workers are several instances of the store on the same place; a worker that
crashes is one that is dropped without `close`. Leases run on a clock that the tests move.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapless.errors import CursorExpired, RunNotFound, SessionBusy, SessionNotFound, StoreUnavailable
from gapless.events import UserMessage
from gapless.journals.contract import READ_BYTES_MAX, Append, WorkerFenced
from gapless.records import RunStatus, SessionRecord, listed_run
from tests.journals.blobs import Blobs
from tests.journals.conversations import Conversations
from tests.journals.goes_on import GoesOn
from tests.journals.lists import Lists
from tests.journals.moves import Moved
from tests.journals.outbox import Outboxes
from tests.journals.subscriptions import Subscribed
from tests.journals.times import Times
from tests.journals.titles import Titles
from tests.journals.workers import (
    LEASE_S,
    WAIT_S,
    Clock,
    Cluster,
    Heard,
    Place,
    Worker,
    a_run,
    a_turn,
    an_end,
    an_event,
)

__all__ = [
    "LEASE_S",
    "WAIT_S",
    "Clock",
    "Cluster",
    "Conformance",
    "Heard",
    "Place",
    "Worker",
    "a_run",
    "a_turn",
    "an_end",
    "an_event",
    "conforms_in_any_order",
]

NASTY = (
    "",
    "\x00",
    "\n\r\u2028\u0085",
    '"},"delta":"',
    "\\",
    "é",
    "👩🏽‍🚀",
    "\ufeff",
    "\ud7ff\ue000\U0010ffff",
    "a" * 5000,
)


class Conformance(GoesOn, Blobs, Lists, Titles, Times, Moved, Conversations, Outboxes, Subscribed):
    """Subclasses give the fixture `place`, and `place_factory` for the property test."""

    @pytest.fixture
    async def cluster(self, place: Place) -> AsyncIterator[Cluster]:
        cluster = Cluster(place)
        yield cluster
        await cluster.close()

    @pytest.fixture
    async def a(self, cluster: Cluster) -> Worker:
        return await cluster.worker("a")

    @pytest.fixture
    async def b(self, cluster: Cluster) -> Worker:
        return await cluster.worker("b")

    # -- append and read --------------------------------------------------------------------------------------------

    async def test_reads_from_any_cursor_in_any_page_size(self, a: Worker) -> None:
        await a.create("r")
        events = await a.append("r", 1, "1", "2", "3")
        events += await a.append("r", 4, "4")
        events += await a.append("r", 5, "5", "6", "7")
        for after in range(len(events) + 2):
            for limit in range(1, len(events) + 2):
                assert await a.store.read("r", after, limit) == events[after : after + limit]

    async def test_a_run_without_events_reads_as_empty(self, a: Worker) -> None:
        await a.create("r")
        assert await a.store.read("r", 0, 10) == []

    async def test_an_unknown_run_is_not_found(self, a: Worker) -> None:
        with pytest.raises(RunNotFound):
            await a.store.read("nobody", 0, 10)
        assert await a.store.get_run("nobody") is None

    async def test_batches_of_many_runs_are_accepted_in_one_call(self, a: Worker) -> None:
        runs = [f"r{i}" for i in range(50)]
        for run_id in runs:
            await a.create(run_id, run_id)
        for seq in range(1, 4):
            batches = [Append(run_id, seq, [an_event(f"{run_id}-{seq}")]) for run_id in runs]
            assert not await a.store.append(batches)
        for run_id in runs:
            assert await a.read_all(run_id) == [an_event(f"{run_id}-{seq}") for seq in range(1, 4)]

    async def test_nasty_texts_come_back_byte_for_byte(self, a: Worker) -> None:
        run_id, session_id = "r\x00/:{*}?é 👩🏽‍🚀", "s\n{r}\x00%"
        await a.create(run_id, session_id, message="\x00\n👩🏽‍🚀")
        events = await a.append(run_id, 1, *NASTY)
        events.append(await a.end(run_id, len(events) + 1))
        assert await a.read_all(run_id) == events
        assert [run.id for run in await a.store.list_runs(session_id=session_id)] == [run_id]
        record = await a.store.get_run(run_id)
        assert record is not None
        assert record.message == "\x00\n👩🏽‍🚀"
        assert record.input == UserMessage(id=f"{run_id}-in", content="\x00\n👩🏽‍🚀")

    async def test_events_of_a_mebibyte_come_in_bounded_pages(self, a: Worker) -> None:
        await a.create("r")
        big = "x" * 1024 * 1024
        for seq in range(1, 6):
            await a.append("r", seq, f"{seq}{big}")
        page = await a.store.read("r", 0, 100)
        assert 1 <= len(page) <= 5
        assert [json.loads(event)["delta"][:1] for event in await a.read_all("r")] == list("12345")
        await a.end("r", 6)
        assert len(await a.read_all("r")) == 6

    async def test_ten_thousand_events_are_read_in_pages(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        events: list[bytes] = []
        while len(events) < 10_000:
            events += await a.append("r", len(events) + 1, *(f"{len(events) + i} " for i in range(100)))
        assert await b.read_all("r", page=512) == events
        events.append(await a.end("r", len(events) + 1))
        for worker in (a, b):
            assert await worker.read_all("r", page=512) == events
            assert await worker.read_all("r", after=9_990, page=7) == events[9_990:]

    async def test_a_page_stops_at_its_bytes(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        for seq in range(1, 301, 10):
            await a.append("r", seq, *["y" * 100_000] * 10)
        await a.end("r", 301)
        page = await b.store.read("r", 0, 300)
        assert READ_BYTES_MAX / 2 < sum(map(len, page)) < 4 * READ_BYTES_MAX or not b.store.shared
        assert len(await b.read_all("r", page=300)) == 301

    # -- the end ----------------------------------------------------------------------------------------------------

    async def test_the_terminal_event_closes_the_journal(self, a: Worker) -> None:
        await a.create("r")
        events = await a.append("r", 1, "1")
        events.append(await a.end("r", 2, status=RunStatus.FAILED, error={"code": "x", "message": "y"}))
        assert set(await a.store.append([Append("r", 3, [an_event("late")])])) == {"r"}
        assert set(await a.store.append([Append("r", 3, [an_event("twice")], an_end("r"))])) == {"r"}
        assert await a.read_all("r") == events
        record = await a.store.get_run("r")
        assert record is not None
        assert (record.status, record.ended_at, record.last_seq) == (RunStatus.FAILED, 100, 2)
        assert record.error == {"code": "x", "message": "y"}
        assert [turn.run_id for turn in await a.store.turns("s")] == ["r"]

    async def test_a_refused_batch_does_not_keep_the_others_out(self, a: Worker) -> None:
        await a.create("r", "s1")
        await a.create("q", "s2")
        await a.end("r", 1)
        batches = [Append("r", 2, [an_event("no")]), Append("q", 1, [an_event("yes")]), Append("?", 1, [an_event("")])]
        assert sorted(await a.store.append(batches)) == ["?", "r"]
        assert await a.read_all("q") == [an_event("yes")]
        assert len(await a.read_all("r")) == 1

    async def test_a_batch_with_its_terminal_event_is_one_step(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        events = [an_event(str(i)) for i in range(5)]
        assert not await a.store.append([Append("r", 1, events, an_end("r", state={"k": 1}))])
        record = await b.store.get_run("r")
        assert record is not None
        assert (record.status, record.last_seq) == (RunStatus.FINISHED, 5)
        assert await b.read_all("r") == events
        session = await b.store.get_session("s")
        assert session is not None
        assert session.state == {"k": 1}
        assert session.updated_at == 100

    async def test_a_run_waits_and_goes_on_with_its_events(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await a.store.start_run("r", 5) is None
        await a.append("r", 1, "ask", status=RunStatus.WAITING)
        waiting = await b.store.get_run("r")
        await a.append("r", 2, "answered", status=RunStatus.RUNNING)
        running = await b.store.get_run("r")
        assert waiting is not None
        assert running is not None
        assert (waiting.status, waiting.last_seq, waiting.started_at) == (RunStatus.WAITING, 1, 5)
        assert (running.status, running.last_seq) == (RunStatus.RUNNING, 2)

    # -- starting ---------------------------------------------------------------------------------------------------

    async def test_creating_a_run_twice_returns_the_first(self, a: Worker, b: Worker) -> None:
        first = await a.create("r", digest="one")
        assert (first.owner, first.status) == ("a", RunStatus.QUEUED)
        for worker in (a, b):
            known, created = await worker.store.create_run(a_run("r", "other", digest="two"), reject_busy=True)
            assert not created
            assert (known.digest, known.owner, known.session_id) == ("one", "a", "s")
        await a.end("r", 1)
        known, created = await b.store.create_run(a_run("r", digest="three"), reject_busy=False)
        assert not created
        assert (known.digest, known.status) == ("one", RunStatus.FINISHED)
        assert await b.store.list_runs(session_id="other") == []

    async def test_one_of_many_starts_at_once_creates(self, a: Worker, b: Worker) -> None:
        answers = await asyncio.gather(
            *(worker.store.create_run(a_run("r"), reject_busy=False) for worker in (a, b) for _ in range(5))
        )
        assert [created for _, created in answers].count(True) == 1
        assert len({record.owner for record, _ in answers}) == 1

    async def test_a_run_of_an_idle_session_is_started_in_the_step_that_creates_it(self, a: Worker, b: Worker) -> None:
        for reject_busy in (False, True):
            session = f"s-{reject_busy}"
            first, *rest = (f"{number}-{session}" for number in range(3))
            run, created = await a.store.create_run(a_run(first, session), reject_busy=reject_busy, started_at=5)
            assert created
            known, _ = await b.store.create_run(a_run(first, session), reject_busy=reject_busy, started_at=6)
            for record in (run, known, await b.store.get_run(first)):
                assert record is not None
                assert (record.status, record.started_at, record.owner) == (RunStatus.RUNNING, 5, "a")
            for run_id in rest:
                run, created = await b.store.create_run(a_run(run_id, session), reject_busy=False, started_at=7)
                assert created
                assert (run.status, run.started_at) == (RunStatus.QUEUED, None)
            with pytest.raises(RunNotFound):
                await a.store.start_run(first, 8)
            assert await b.store.start_run(rest[0], 8) == first
            await a.append(first, 1, "begun")
            await a.end(first, 2)
            assert await b.store.start_run(rest[0], 9) is None
            run, _ = await a.store.create_run(a_run(f"last-{session}", session), reject_busy=False, started_at=10)
            assert run.status is RunStatus.QUEUED
            for run_id in rest:
                await b.end(run_id, 1)
            await a.end(f"last-{session}", 1)
            run, _ = await b.store.create_run(a_run(f"next-{session}", session), reject_busy=reject_busy, started_at=11)
            assert (run.status, run.started_at) == (RunStatus.RUNNING, 11)

    async def test_of_many_runs_created_at_once_in_a_session_the_first_is_started(self, a: Worker, b: Worker) -> None:
        await asyncio.gather(
            *(
                worker.store.create_run(a_run(f"{worker.id}{number}"), reject_busy=False, started_at=5)
                for worker in (a, b)
                for number in range(5)
            )
        )
        runs = await a.store.session_runs("s")
        assert [run.status for run in runs] == [RunStatus.RUNNING, *[RunStatus.QUEUED] * 9]

    async def test_a_busy_session_rejects_when_asked_to(self, a: Worker, b: Worker) -> None:
        await a.create("r1")
        with pytest.raises(SessionBusy) as caught:
            await b.store.create_run(a_run("r2"), reject_busy=True)
        assert caught.value.run_id == "r1", "the run that is in the way"
        assert await b.store.get_run("r2") is None
        await b.create("r3", "elsewhere", reject_busy=True)
        await a.end("r1", 1)
        await b.create("r2", reject_busy=True)

    async def test_runs_of_a_session_start_in_the_order_of_creation(self, a: Worker, b: Worker) -> None:
        await a.create("r1")
        await b.create("r2")
        await a.create("r3")
        assert await a.store.start_run("r3", 1) == "r2"
        assert await b.store.start_run("r2", 1) == "r1"
        assert await a.store.start_run("r1", 1) is None
        with pytest.raises(RunNotFound):
            await a.store.start_run("r1", 2)
        await b.end("r2", 1, status=RunStatus.CANCELLED)  # leaves the queue from its middle
        assert await a.store.start_run("r3", 2) == "r1"
        await a.end("r1", 1)
        assert await a.store.start_run("r3", 3) is None
        record = await b.store.get_run("r3")
        assert record is not None
        assert (record.status, record.started_at) == (RunStatus.RUNNING, 3)
        for ended_or_unknown in ("r2", "nobody"):
            with pytest.raises(RunNotFound):
                await b.store.start_run(ended_or_unknown, 4)

    async def test_runs_are_listed_newest_first(self, a: Worker, b: Worker) -> None:
        for i in range(6):
            await a.create(f"r{i}", f"s{i % 4}", user_id=f"u{i % 2}", created_at=i)
        await a.end("r4", 1)

        async def ids(**where: Any) -> list[str]:
            return [run.id for run in await b.store.list_runs(**where)]

        assert await ids() == ["r5", "r4", "r3", "r2", "r1", "r0"]
        assert await ids(limit=2) == ["r5", "r4"]
        assert await ids(session_id="s0") == ["r4", "r0"]
        assert await ids(user_id="u1") == ["r5", "r3", "r1"]
        assert await ids(user_id="u1", session_id="s1") == ["r5", "r1"]
        assert await ids(user_id="u0", session_id="s1") == []
        assert await ids(status=RunStatus.FINISHED) == ["r4"]
        assert await ids(status=RunStatus.QUEUED, limit=3) == ["r5", "r3", "r2"]
        assert await ids(status=RunStatus.QUEUED, session_id="s0") == ["r0"]
        assert await ids(user_id="nobody") == []

    async def test_the_active_runs_of_many_sessions_are_one_question(self, a: Worker, b: Worker) -> None:
        for run_id, session_id in [
            ("r1", "s1"),
            ("r2", "s1"),
            ("r3", "s1"),
            ("q1", "s2"),
            ("e1", "s3"),
            ("n1", "né}w"),
        ]:
            await (a if run_id != "r2" else b).create(run_id, session_id, message=f"ask {run_id}")
        await a.store.start_run("r1", 7)
        await a.end("e1", 1)
        asked = ["s1", "s2", "s3", "né}w", "nowhere"]

        async def active() -> dict[str, str]:
            found = await b.store.active_runs(asked)
            assert all(run.session_id == session_id for session_id, run in found.items())
            return {session_id: run.id for session_id, run in found.items()}

        assert await active() == {"s1": "r1", "s2": "q1", "né}w": "n1"}
        whole = await b.store.get_run("r1")
        assert whole is not None
        assert (await b.store.active_runs(asked))["s1"] == listed_run(whole)
        await a.append("r1", 1, "which?", status=RunStatus.WAITING)
        assert (await b.store.active_runs(asked))["s1"].status is RunStatus.WAITING
        await b.end("r2", 1, status=RunStatus.CANCELLED)  # leaves the queue from its middle
        assert (await active())["s1"] == "r1"
        await a.end("r1", 2)
        assert (await active())["s1"] == "r3"
        await a.end("r3", 1)
        assert await active() == {"s2": "q1", "né}w": "n1"}
        assert await b.store.active_runs([]) == {}

    # -- several workers --------------------------------------------------------------------------------------------

    async def test_only_the_owner_appends(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert set(await b.store.append([Append("r", 1, [an_event("stolen")])])) == {"r"}
        assert await a.read_all("r") == []

    async def test_others_read_what_the_owner_appended(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        events = await a.append("r", 1, "1", "2")
        assert await b.read_all("r", page=1) == events
        record = await b.store.get_run("r")
        assert record is not None
        assert (record.last_seq, record.owner) == (2, "a")

    async def test_a_silent_workers_runs_are_taken_over_by_exactly_one(self, cluster: Cluster, a: Worker) -> None:
        b, c = await cluster.worker("b"), await cluster.worker("c")
        for i in range(5):
            await a.create(f"r{i}", f"s{i}")
        await a.create("done", "s9")
        await a.end("done", 1)
        events = await a.append("r0", 1, "1", "2")
        await b.create("mine", "s8")
        taken = await cluster.lapse(b, c)
        everything = [run.id for runs in taken.values() for run in runs]
        assert sorted(everything) == [f"r{i}" for i in range(5)]
        for worker_id, runs in taken.items():
            for run in runs:
                assert run.owner == worker_id
        owner = next(worker for worker in (b, c) if any(run.id == "r0" for run in taken[worker.id]))
        assert next(run for run in taken[owner.id] if run.id == "r0").last_seq == 2
        events.append(await owner.end("r0", 3, status=RunStatus.FAILED))
        assert await owner.read_all("r0") == events
        assert not any((await cluster.lapse(b, c)).values())

    async def test_a_fenced_worker_can_do_nothing(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        events = await a.append("r", 1, "1")
        await cluster.lapse(b)
        for attempt in (
            a.store.append([Append("r", 2, [an_event("late")])]),
            a.store.append([Append("r", 2, [an_event("late")], an_end("r"))]),
            a.store.renew(),
            a.store.create_run(a_run("r2", "s2"), reject_busy=False),
            a.store.start_run("r", 1),
            a.store.take_over(LEASE_S),
        ):
            with pytest.raises(WorkerFenced):
                await attempt
        assert await b.read_all("r") == events
        assert await a.read_all("r") == events
        events.append(await b.end("r", 2))
        assert await a.read_all("r") == events
        assert await b.store.get_run("r2") is None

    async def test_a_fenced_worker_follows_and_comes_back_under_a_new_id(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        await a.append("r", 1, "1")
        await cluster.lapse(b)
        with pytest.raises(WorkerFenced):
            await a.store.append([Append("r", 2, [an_event("late")])])
        await a.store.watch("r")
        await b.append("r", 2, "2")
        await a.heard.until(lambda: a.heard.last.get("r") == 2)
        await a.store.open("a2", a.heard)
        await a.create("r2", "s2")
        await a.append("r2", 1, "1")
        await b.end("r", 3)
        await a.heard.until(lambda: "r" in a.heard.closed)
        record = await b.store.get_run("r2")
        assert record is not None
        assert record.owner == "a2"

    async def test_the_loss_of_a_worker_is_counted_and_logged(
        self, cluster: Cluster, a: Worker, b: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        await a.create("r")
        await a.create("r2", "s2")
        await cluster.crash(a)
        taken = (await cluster.lapse(b))["b"]
        assert sorted((run.id, run.takeovers) for run in taken) == [("r", 1), ("r2", 1)]
        assert "worker a is lost; worker b takes over its runs: 2" in caplog.text
        await b.append("r", 1, "1")
        c = await cluster.worker("c")
        await cluster.crash(b)
        taken = (await cluster.lapse(c))["c"]
        assert sorted((run.id, run.takeovers) for run in taken) == [("r", 2), ("r2", 2)]
        record = await c.store.get_run("r")
        assert record is not None
        assert record.takeovers == 2

    async def test_a_renewing_worker_keeps_its_runs(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert not any((await cluster.lapse(a, b)).values())
        await a.append("r", 1, "1")

    async def test_a_worker_that_slept_takes_nothing_at_once(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await b.store.take_over(LEASE_S) == []
        cluster.clock.now += 100 * LEASE_S
        assert await b.store.take_over(LEASE_S) == []

    async def test_the_runs_of_a_worker_that_left_are_taken_at_once(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        events = await a.append("r", 1, "1", "2")
        await cluster.stop(a)
        await b.create("busy", "s2")
        for seq in range(1, 100):
            await b.append("busy", seq, "x")
        assert [run.id for run in await b.store.take_over(LEASE_S)] == ["r"]
        events += await b.append("r", 3, "3")
        assert await b.read_all("r") == events

    async def test_a_crashed_workers_events_are_kept_through_much_traffic(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        events = await a.append("r", 1, "1", "2")
        await cluster.crash(a)
        assert [run.id for run in (await cluster.lapse(b))["b"]] == ["r"]
        c = await cluster.worker("c")
        await c.create("busy", "s2")
        for seq in range(1, 100):
            await c.append("busy", seq, "x")
        assert await c.read_all("r") == events
        events += await b.append("r", 3, "3")
        await cluster.crash(b)
        assert [run.id for run in (await cluster.lapse(c))["c"]] == ["r"]
        for seq in range(100, 200):
            await c.append("busy", seq, "x")
        events.append(await c.end("r", 4))
        assert await c.read_all("r") == events
        await c.end("busy", 200)
        assert len(await c.read_all("busy")) == 200

    async def test_a_closed_store_says_so(self, cluster: Cluster, a: Worker) -> None:
        await a.create("r")
        await cluster.stop(a)
        await a.store.close()
        with pytest.raises(StoreUnavailable):
            await a.store.append([Append("r", 1, [an_event("late")])])

    # -- watching ---------------------------------------------------------------------------------------------------

    async def test_a_watcher_hears_events_and_the_end(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await b.store.watch("r")
        events = await a.append("r", 1, "1", "2")
        await b.heard.until(lambda: b.heard.last.get("r") == 2)
        events += await a.append("r", 3, "3")
        events.append(await a.end("r", 4))
        await b.heard.until(lambda: "r" in b.heard.closed)
        assert b.heard.last["r"] == 4
        for seq, event in b.heard.events.get("r", {}).items():
            assert event == events[seq - 1]
        assert await b.read_all("r") == events

    async def test_a_watcher_that_registers_again_misses_nothing(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await b.store.watch("r")
        await a.append("r", 1, "1")
        await b.store.open("b again", b.heard)
        await b.heard.until(lambda: b.heard.last.get("r") == 1)
        await a.append("r", 2, "2")
        await b.heard.until(lambda: b.heard.last.get("r") == 2)

    async def test_a_late_watcher_hears_what_comes_after(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.append("r", 1, "1", "2")
        await b.store.watch("r")
        record = await b.store.get_run("r")
        assert record is not None
        assert record.last_seq == 2
        await a.append("r", 3, "3")
        await b.heard.until(lambda: b.heard.last.get("r") == 3)

    async def test_nothing_falls_between_watching_and_reading(self, a: Worker, b: Worker) -> None:
        """What a follower does on a run of another worker, while it writes: the copy has every position."""
        await a.create("r")

        async def write() -> None:
            for seq in range(1, 300):
                await a.append("r", seq, f"{seq} ")
                await asyncio.sleep(0)
            await a.end("r", 300)

        async def follow() -> list[bytes]:
            await b.store.watch("r")
            seen: list[bytes] = []
            record = await b.store.get_run("r")
            assert record is not None
            last, closed = record.last_seq, record.status.ended
            while True:
                while len(seen) < last:
                    part = await b.store.read("r", len(seen), 50)
                    assert part, f"event {len(seen) + 1} of {last} cannot be read"
                    seen += part
                if closed:
                    return seen
                await b.heard.until(partial(b.heard.is_past, "r", len(seen)))
                closed, last = "r" in b.heard.closed, b.heard.last["r"]

        writer = asyncio.create_task(write())
        seen = await follow()
        await writer
        assert seen == await a.read_all("r")
        assert len(seen) == 300

    async def test_a_watcher_hears_of_the_end_of_a_run_that_is_deleted_at_once(self, a: Worker, b: Worker) -> None:
        await two_watched(a, b)
        await a.end("r", 2)
        assert await a.store.delete_session("s1")
        await b.heard.until(lambda: "r" in b.heard.closed)
        await a.append("q", 1, "1")
        await b.heard.until(lambda: b.heard.last.get("q") == 1)
        assert "q" not in b.heard.closed

    async def test_after_unwatch_nothing_is_heard(self, a: Worker, b: Worker) -> None:
        await two_watched(a, b)
        await b.store.unwatch("r")
        await b.store.unwatch("r")
        await a.append("r", 2, "2")
        await a.end("q", 1)
        await b.heard.until(lambda: "q" in b.heard.closed)
        assert b.heard.last["r"] == 1

    async def test_an_owner_is_not_told_of_its_own_events(self, a: Worker, b: Worker) -> None:
        await a.create("r", "s1")
        await b.create("q", "s2")
        await a.store.watch("r")
        await a.store.watch("q")
        await a.append("r", 1, "1")
        await b.append("q", 1, "1")
        await a.heard.until(lambda: a.heard.last.get("q") == 1)
        assert "r" not in a.heard.last

    async def test_a_watcher_hears_of_the_new_owner(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        c = await cluster.worker("c")
        await a.create("r")
        await c.store.watch("r")
        await a.append("r", 1, "1")
        await c.heard.until(lambda: c.heard.last.get("r") == 1)
        await cluster.crash(a)
        assert [run.id for run in (await cluster.lapse(b))["b"]] == ["r"]
        await b.end("r", 2, status=RunStatus.FAILED)
        await c.heard.until(lambda: "r" in c.heard.closed)
        assert len(await c.read_all("r")) == 2

    # -- commands ---------------------------------------------------------------------------------------------------

    async def test_a_command_reaches_the_owner(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        commands = [b'{"cancel":true}', b"\x00\xff\n"]
        for command in commands:
            await b.store.send("r", command)
        await a.store.send("r", b"own")
        await a.heard.until(lambda: len(a.heard.commands) >= 3)
        assert set(a.heard.commands) == {("r", command) for command in (*commands, b"own")}
        assert b.heard.commands == []

    async def test_a_command_to_a_run_without_owner_reaches_the_next(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        await a.create("r")
        await cluster.stop(a)
        await b.store.send("r", b"cancel")
        c = await cluster.worker("c")
        assert [run.id for run in await c.store.take_over(LEASE_S)] == ["r"]
        await c.heard.until(lambda: c.heard.commands == [("r", b"cancel")])

    async def test_a_command_to_an_ended_run_goes_nowhere(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.end("r", 1)
        await b.store.send("r", b"cancel")
        with pytest.raises(RunNotFound):
            await b.store.send("nobody", b"cancel")
        await a.create("q", "s2")
        await b.store.send("q", b"cancel")
        await a.heard.until(lambda: bool(a.heard.commands))
        assert a.heard.commands == [("q", b"cancel")]

    # -- retention --------------------------------------------------------------------------------------------------

    async def test_expired_events_are_gone_and_the_record_says_so(self, a: Worker, b: Worker) -> None:
        for i, ended_at in enumerate((100, 200, 300)):
            await a.create(f"r{i}", f"s{i}")
            await a.append(f"r{i}", 1, "1", "2")
            await a.end(f"r{i}", 3, ended_at=ended_at)
        await a.create("live", "s9")
        await a.append("live", 1, "1")
        assert await b.store.expire(250) == 2
        assert await b.store.expire(250) == 0
        for worker in (a, b):
            for run_id in ("r0", "r1"):
                for after in (0, 1, 3):
                    with pytest.raises(CursorExpired):
                        await worker.store.read(run_id, after, 10)
                record = await worker.store.get_run(run_id)
                assert record is not None
                assert (record.expired, record.last_seq) == (True, 3)
            with pytest.raises(RunNotFound):
                await worker.store.read("nobody", 0, 10)
            assert len(await worker.read_all("r2")) == 3
            assert len(await worker.read_all("live")) == 1
        assert len(await b.store.turns("s0")) == 1
        assert not (await b.store.create_run(a_run("r0"), reject_busy=False))[1]

    async def test_events_over_a_length_go_and_those_of_the_latest_ends_stay(
        self, cluster: Cluster, a: Worker, b: Worker
    ) -> None:
        """One that was taken over, one that was deleted and one whose end was given in pieces count like all others."""
        big = "x" * 10_000
        for i in range(6):
            worker = b if i == 1 else a
            await worker.create(f"r{i}", f"s{i}")
            await worker.append(f"r{i}", 1, big)
            await worker.append(f"r{i}", 2, big)
        await cluster.crash(b)
        assert [run.id for run in (await cluster.lapse(a))["a"]] == ["r1"]
        c = await cluster.worker("c")
        await a.append("r5", 3, *[big] * 20)  # open: it does not count, and it stays
        for i, ended_at in ((2, 300), (1, 200), (0, 100), (3, 400), (4, 500)):
            await a.end(f"r{i}", 3, big, ended_at=ended_at)
        assert await c.store.expire(0, 151_000) == 0
        assert await c.store.expire(0, 149_000) == 1

        async def kept() -> list[str]:
            return [run.id for run in reversed(await c.store.list_runs()) if not run.expired]

        assert await kept() == ["r1", "r2", "r3", "r4", "r5"], "the longest ended went"
        with pytest.raises(CursorExpired):
            await a.store.read("r0", 0, 10)
        assert await c.store.delete_session("s3")
        assert await c.store.expire(0, 91_000) == 0
        assert await c.store.expire(150, 89_000) == 1
        assert await kept() == ["r2", "r4", "r5"]
        assert await c.store.expire(301, 91_000) == 1, "by age, though there is room"
        assert await kept() == ["r4", "r5"]
        assert await c.store.expire(0, 0) == 1
        assert await c.store.expire(10**9, 0) == 0
        assert await kept() == ["r5"]
        assert len(await c.read_all("r5")) == 22
        await a.end("r5", 23)
        assert await c.store.expire(0, 0) == 1
        assert len(await c.store.turns("s0")) == 1

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def test_a_run_makes_its_session(self, a: Worker, b: Worker) -> None:
        await a.create("r", user_id="ann", message=f"\n  A question\n{'x' * 500}", created_at=7)
        session = await b.store.get_session("s")
        assert session == SessionRecord(
            id="s", user_id="ann", agent="agent", created_at=7, updated_at=7, title="A question"
        )
        await a.end("r", 1, ended_at=50)
        session = await b.store.get_session("s")
        assert session is not None
        assert (session.created_at, session.updated_at) == (7, 50)
        assert await b.store.get_session("nobody") is None

    async def test_a_session_is_made_once(self, a: Worker, b: Worker) -> None:
        first = SessionRecord(id="s", user_id="u", agent="x", created_at=1, updated_at=1, state={"k": [1, "é\x00"]})
        assert await a.store.create_session(first) == first
        second = SessionRecord(id="s", user_id="v", agent="y", created_at=2, updated_at=2)
        assert await b.store.create_session(second) == first
        await b.create("r", "s", user_id="u")
        assert await a.store.get_session("s") == first

    async def test_what_is_returned_is_the_callers_own(self, a: Worker) -> None:
        await a.store.create_session(
            SessionRecord(id="s", user_id="u", agent="x", created_at=1, updated_at=1, state={"k": [1]})
        )
        session = await a.store.get_session("s")
        assert session is not None
        session.state["k"].append(2)
        session.title = "changed"
        again = await a.store.get_session("s")
        assert again is not None
        assert (again.state, again.title) == ({"k": [1]}, "")

    async def test_state_is_replaced_only_when_given(self, a: Worker) -> None:
        for i, state in enumerate(({"a": 1}, None, {})):
            await a.create(f"r{i}")
            await a.end(f"r{i}", 1, state=state)
            session = await a.store.get_session("s")
            assert session is not None
            assert session.state == ({} if i == 2 else {"a": 1})

    async def test_state_changes_key_by_key_between_runs(self, a: Worker, b: Worker) -> None:
        await a.store.create_session(
            SessionRecord(id="s", user_id="u", agent="x", created_at=1, updated_at=1, state={"kept": [], "k": 1})
        )
        await a.store.create_session(SessionRecord(id="s2", user_id="u", agent="x", created_at=2, updated_at=2))
        changes: dict[str, Any] = {"k": {"é\x00": [2**60, None, {}]}}
        session = await b.store.update_state("s", changes, 50)
        assert session is not None
        assert session == await a.store.get_session("s")
        assert (session.state, session.updated_at) == ({"kept": [], "k": {"é\x00": [2**60, None, {}]}}, 50)
        assert [session.id for session in await a.store.list_sessions()] == ["s", "s2"]
        changes["k"]["é\x00"].append("later")
        session.state.clear()
        assert await asyncio.gather(*(w.store.update_state("s", {w.id: w.id}, 60) for w in (a, b) for _ in range(5)))
        session = await a.store.get_session("s")
        assert session is not None
        assert session.state == {"kept": [], "k": {"é\x00": [2**60, None, {}]}, a.id: a.id, b.id: b.id}
        assert await a.store.update_state("nobody", {}, 60) is None
        await a.create("r")
        with pytest.raises(SessionBusy) as caught:
            await b.store.update_state("s", {"k": 2}, 70)
        assert caught.value.run_id == "r", "the run that is in the way"
        await a.end("r", 1)
        assert await b.store.update_state("s", {}, 70) is not None

    async def test_sessions_are_listed_latest_used_first(self, a: Worker, b: Worker) -> None:
        for i in range(4):
            await a.create(f"r{i}", f"s{i}", user_id=f"u{i % 2}", created_at=i)
        await a.end("r0", 1, ended_at=99)

        async def ids(**where: Any) -> list[str]:
            return [session.id for session in await b.store.list_sessions(**where)]

        assert await ids() == ["s0", "s3", "s2", "s1"]
        assert await ids(limit=2) == ["s0", "s3"]
        assert await ids(user_id="u0") == ["s0", "s2"]
        assert await ids(user_id="nobody") == []

    async def test_turns_come_in_the_order_of_ending(self, a: Worker, b: Worker) -> None:
        await a.create("r1")
        await b.create("r2")
        await b.end("r2", 1, status=RunStatus.CANCELLED)
        await a.end("r1", 1)
        assert await a.store.turns("s") == [a_turn("r2"), a_turn("r1")]
        assert await a.store.turns("s", 1) == [a_turn("r1")]
        assert await a.store.turns("s", 2) == await a.store.turns("s", 9) == await a.store.turns("nobody") == []

    async def test_a_session_takes_no_run_of_another_user(self, a: Worker, b: Worker) -> None:
        mine = "me\x00{é} 👩🏽‍🚀"
        await a.store.create_session(SessionRecord(id="s", user_id=mine, agent="x", created_at=1, updated_at=1))
        await a.create("r1", user_id=mine)
        for reject_busy in (False, True):  # nobody else learns that it is busy, and with what
            with pytest.raises(SessionNotFound):
                await b.store.create_run(a_run("r2", user_id="you"), reject_busy=reject_busy)
        assert await a.store.get_run("r2") is None
        assert await a.store.list_runs(user_id="you") == []
        assert await a.store.list_sessions(user_id="you") == []
        await b.create("r2", "elsewhere", user_id="you")  # the id is still to be had
        await a.end("r1", 1)
        assert await b.store.start_run("r2", 1) is None
        await b.create("r3", user_id=mine)

    async def test_of_two_users_who_begin_one_session_at_once_one_has_it(self, a: Worker, b: Worker) -> None:
        async def begin(worker: Worker, run_id: str, session_id: str, user_id: str) -> str | None:
            try:
                await worker.create(run_id, session_id, user_id=user_id)
            except SessionNotFound:
                return None
            return user_id

        async def make(worker: Worker, session_id: str, user_id: str) -> str:
            wanted = SessionRecord(id=session_id, user_id=user_id, agent="x", created_at=1, updated_at=1)
            return (await worker.store.create_session(wanted)).user_id

        async def delete(worker: Worker, session_id: str) -> None:
            with contextlib.suppress(SessionBusy):
                await worker.store.delete_session(session_id)

        for n in range(12):
            alice, bob = (a, b) if n % 2 else (b, a)
            session_id = f"s{n}"
            ways = [begin(alice, f"alice{n}", session_id, "alice"), begin(bob, f"bob{n}", session_id, "bob")]
            if n % 3 == 1:
                ways.append(make(bob, session_id, "bob"))
            elif n % 3 == 2:
                await make(alice, session_id, "alice")
                ways.append(delete(alice, session_id))
            answers = await asyncio.gather(*ways)
            session = await a.store.get_session(session_id)
            begun = {run.user_id for run in await b.store.list_runs(session_id=session_id)}
            if session is None:
                assert not begun
            else:
                assert begun <= {session.user_id}
                assert begun == set(answers[:2]) - {None}
                assert answers[2:] in ([], [None], [session.user_id])

    async def test_a_deleted_session_takes_everything_with_it(self, a: Worker, b: Worker) -> None:
        await a.create("r1")
        await a.append("r1", 1, "1")
        await a.create("other", "s2")
        with pytest.raises(SessionBusy) as caught:
            await b.store.delete_session("s")
        assert caught.value.run_id == "r1", "the run that is in the way"
        await a.end("r1", 2)
        assert await b.store.delete_session("s")
        assert not await b.store.delete_session("s")
        assert await a.store.get_session("s") is None
        assert await a.store.get_run("r1") is None
        assert await a.store.turns("s") == []
        assert [run.id for run in await a.store.list_runs()] == ["other"]
        assert [session.id for session in await a.store.list_sessions()] == ["s2"]
        with pytest.raises(RunNotFound):
            await a.store.read("r1", 0, 10)
        await b.create("r1")
        assert await b.append("r1", 1, "anew") == await b.read_all("r1")


# -- any sequence of steps ------------------------------------------------------------------------------------------

WORKERS = ("a", "b", "c")
_runs = st.integers(0, 5)
_workers = st.sampled_from(WORKERS)
_steps = st.one_of(
    st.tuples(st.just("create"), _workers, _runs),
    st.tuples(st.just("append"), _workers, st.dictionaries(_runs, st.lists(st.sampled_from(NASTY), min_size=1))),
    st.tuples(st.just("append"), _workers, st.dictionaries(_runs, st.lists(st.text(), min_size=1), min_size=1)),
    st.tuples(st.just("end"), _workers, _runs),
    st.tuples(st.just("read"), _workers, _runs, st.integers(0, 30), st.integers(1, 30)),
    st.tuples(st.just("crash"), _workers),
    st.tuples(st.just("leave"), _workers),
    st.tuples(st.just("lapse"), _workers),
    st.tuples(st.just("expire"), _workers),
    st.tuples(st.just("delete"), _workers, _runs),
)


async def two_watched(a: Worker, b: Worker) -> None:
    """Two runs of one worker that the other watches, and hears of."""
    await a.create("r", "s1")
    await a.create("q", "s2")
    await b.store.watch("r")
    await b.store.watch("q")
    await a.append("r", 1, "1")
    await b.heard.until(lambda: b.heard.last.get("r") == 1)


class _Model:
    """What a store must hold after the steps so far."""

    def __init__(self) -> None:
        self.events: dict[str, list[bytes]] = {}
        self.owner: dict[str, str] = {}
        self.ended: set[str] = set()
        self.expired: set[str] = set()


async def _live(cluster: Cluster, model: _Model, name: str, generation: dict[str, int]) -> Worker:
    """The worker of that name, started anew when it is gone."""
    worker_id = f"{name}{generation.get(name, 0)}"
    if worker_id not in cluster.workers:
        generation[name] = generation.get(name, 0) + 1
        return await cluster.worker(f"{name}{generation[name]}")
    return cluster.workers[worker_id]


async def _play(place: Place, steps: list[Any]) -> None:
    cluster, model, generation = Cluster(place), _Model(), dict[str, int]()
    for step, name, *arguments in steps:
        worker = await _live(cluster, model, name, generation)
        match step, arguments:
            case "create", [i]:
                run_id = f"r{i}"
                _, created = await worker.store.create_run(a_run(run_id, f"s{i}"), reject_busy=False)
                assert created == (run_id not in model.events)
                if created:
                    model.events[run_id], model.owner[run_id] = [], worker.id
            case "append", [texts]:
                batches = [
                    Append(f"r{i}", len(model.events.get(f"r{i}", ())) + 1, [an_event(text) for text in added])
                    for i, added in texts.items()
                ]
                refused = await worker.store.append(batches)
                for batch in batches:
                    owned = model.owner.get(batch.run_id) == worker.id and batch.run_id not in model.ended
                    assert owned != (batch.run_id in refused)
                    if owned:
                        model.events[batch.run_id] += batch.events
            case "end", [i]:
                run_id = f"r{i}"
                if model.owner.get(run_id) == worker.id and run_id not in model.ended:
                    model.events[run_id].append(await worker.end(run_id, len(model.events[run_id]) + 1))
                    model.ended.add(run_id)
            case "read", [i, after, limit]:
                run_id = f"r{i}"
                if run_id in model.events and run_id not in model.expired:
                    expected = model.events[run_id][after : after + limit]
                    assert await worker.store.read(run_id, after, limit) == expected
            case "crash", []:
                await cluster.crash(worker)
            case "leave", []:
                await cluster.stop(worker)
            case "lapse", []:
                taken = await cluster.lapse(worker)
                others = {run_id for run_id, owner in model.owner.items() if owner != worker.id} - model.ended
                assert {run.id for run in taken[worker.id]} == others
                for run in taken[worker.id]:
                    model.owner[run.id] = worker.id
                    assert run.last_seq == len(model.events[run.id])
                for other in [other for other in cluster.workers.values() if other is not worker]:
                    with pytest.raises(WorkerFenced):
                        await other.store.renew()
                    await cluster.crash(other)
            case "expire", []:
                assert await worker.store.expire(101) == len(model.ended - model.expired)
                model.expired |= model.ended
            case "delete", [i]:
                run_id = f"r{i}"
                if run_id in model.ended:
                    assert await worker.store.delete_session(f"s{i}")
                    del model.events[run_id], model.owner[run_id]
                    model.ended.discard(run_id)
                    model.expired.discard(run_id)
    reader = await cluster.worker("reader")
    for run_id, events in model.events.items():
        record = await reader.store.get_run(run_id)
        assert record is not None
        assert (record.last_seq, record.status.ended) == (len(events), run_id in model.ended)
        if run_id in model.expired:
            with pytest.raises(CursorExpired):
                await reader.store.read(run_id, 0, 1)
        else:
            assert await reader.read_all(run_id, page=7) == events
    await cluster.close()


def conforms_in_any_order(make_place: Callable[[], Place], examples: int) -> None:
    """Random steps of three workers that crash, leave and take over; the store agrees with a model at each of them."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(st.lists(_steps, min_size=5, max_size=60))
    def play(steps: list[Any]) -> None:
        asyncio.run(_play(make_place(), steps))

    play()
