"""What every store must do for runs that go on at another worker: checkpoints, commands that are kept, claims.

A part of the conformance suite, by the same rules (docs/journal.md).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless.errors import RunNotFound, SessionBusy
from gapless.journals.contract import Append, Checkpoint, NotWaiting, WorkerFenced
from gapless.records import RunRecord, RunStatus
from tests.journals.workers import Cluster, Worker, a_run, an_end, an_event

FAR = 2**60
"""A time that does not come."""


async def ask(worker: Worker, run_id: str = "r", session_id: str = "s") -> None:
    """Bring a run to the point where it waits for a person: its question is event 2."""
    await worker.create(run_id, session_id)
    assert await worker.store.start_run(run_id, 5) is None
    await worker.append(run_id, 1, "begun")
    await worker.append(run_id, 2, "question", status=RunStatus.WAITING)


async def save(worker: Worker, run_id: str, seq: int, data: bytes, *texts: str, **more: Any) -> None:
    """Append events with a checkpoint behind them; the first of them has the position after `seq` - their number."""
    batch = Append(run_id, seq - len(texts) + 1, [an_event(text) for text in texts], **more)
    batch.checkpoint = Checkpoint(seq, data)
    assert not await worker.store.append([batch])


async def record_of(worker: Worker, run_id: str = "r") -> RunRecord:
    record = await worker.store.get_run(run_id)
    assert record is not None
    return record


class GoesOn:
    """The fixtures are `Conformance`'s."""

    # -- checkpoints ------------------------------------------------------------------------------------------------

    async def test_a_checkpoint_comes_with_its_events_and_replaces_the_last(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await b.store.checkpoint("r") is None
        await save(a, "r", 2, b"one", "1", "2")
        assert await b.store.checkpoint("r") == Checkpoint(2, b"one")
        batch = Append("r", 3, [an_event("3"), an_event("4")], checkpoint=Checkpoint(3, b"\x00two\xff"))
        assert not await a.store.append([batch])
        assert await b.store.checkpoint("r") == Checkpoint(3, b"\x00two\xff")
        await a.append("r", 5, "5")
        assert await b.store.checkpoint("r") == Checkpoint(3, b"\x00two\xff")
        assert await b.store.checkpoint("unknown") is None

    async def test_a_checkpoint_needs_no_events(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await save(a, "r", 0, b"start")
        await a.append("r", 1, "1")
        await save(a, "r", 1, b"one")
        assert await b.store.checkpoint("r") == Checkpoint(1, b"one")
        assert await b.read_all("r") == [an_event("1")]
        assert (await record_of(b)).last_seq == 1
        await save(a, "r", 1, b"one")  # as after an answer that was lost
        await a.append("r", 2, "2")
        assert len(await b.read_all("r")) == 2

    async def test_one_without_data_removes_it(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await save(a, "r", 1, b"one", "1")
        await save(a, "r", 2, b"", "2")
        assert await b.store.checkpoint("r") is None

    async def test_the_end_drops_checkpoint_and_commands(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await save(a, "r", 1, b"one", "1")
        await b.store.send("r", b"kept")
        assert not await a.store.append([Append("r", 2, [an_event("end")], an_end("r"), None, Checkpoint(2, b"late"))])
        assert await b.store.checkpoint("r") is None
        assert await b.store.send("r", b"late") == ""

    async def test_a_refused_batch_leaves_the_checkpoint(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        await save(a, "r", 1, b"one", "1")
        refused = Append("r", 2, [an_event("2")], checkpoint=Checkpoint(2, b"not mine"))
        assert set(await b.store.append([refused])) == {"r"}
        assert set(await b.store.append([Append("r", 2, [], checkpoint=Checkpoint(1, b"not mine"))])) == {"r"}
        assert await b.store.checkpoint("r") == Checkpoint(1, b"one")

    async def test_a_large_checkpoint_is_kept_byte_for_byte(self, a: Worker, b: Worker) -> None:
        data = bytes(range(256)) * 8192
        await a.create("r")
        await save(a, "r", 1, data, "1")
        assert await b.store.checkpoint("r") == Checkpoint(1, data)

    async def test_a_crash_keeps_the_checkpoint_and_counts(self, cluster: Cluster, a: Worker) -> None:
        await a.create("r")
        await save(a, "r", 2, b"one", "1", "2")
        await a.append("r", 3, "after it")
        for number in (1, 2):
            old, new = (a, "b") if number == 1 else (cluster.workers["b"], "c")
            await cluster.crash(old)
            next_one = await cluster.worker(new)
            (taken,) = (await cluster.lapse(next_one))[new]
            assert (taken.id, taken.takeovers, taken.last_seq) == ("r", number, 3)
            assert await next_one.store.checkpoint("r") == Checkpoint(2, b"one")
        c = cluster.workers["c"]
        await save(c, "r", 4, b"two", "4")
        assert (await record_of(c)).takeovers == 0, "it has got further"

    # -- commands are kept until they are taken -----------------------------------------------------------------------

    async def test_a_command_is_heard_by_each_owner_until_it_is_taken(self, cluster: Cluster, a: Worker) -> None:
        await a.create("r")
        await cluster.worker("z")
        z = cluster.workers["z"]
        assert await z.store.send("r", b"first") == "a"
        assert await z.store.send("r", b"second") == "a"
        await a.heard.until(lambda: len(a.heard.commands) >= 2)
        first, second = a.heard.command_ids[:2]
        assert 0 < first < second
        await cluster.crash(a)
        await cluster.stop(z)
        b = await cluster.worker("b")
        assert [run.id for run in (await cluster.lapse(b))["b"]] == ["r"]
        await b.heard.until(lambda: len(b.heard.commands) >= 2)
        assert b.heard.commands[:2] == [("r", b"first"), ("r", b"second")]
        assert b.heard.command_ids[:2] == [first, second]
        assert not await b.store.append([Append("r", 1, [an_event("1")], taken=[first])])
        assert not await b.store.append([Append("r", 2, [], taken=[first, 999_999])])
        await cluster.crash(b)
        c = await cluster.worker("c")
        await cluster.lapse(c)
        await c.heard.until(lambda: bool(c.heard.commands))
        assert set(c.heard.commands) == {("r", b"second")}

    async def test_an_owners_own_command_comes_after_those_of_others(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        for n in range(0, 20, 2):
            assert await b.store.send("r", b"%d" % n) == "a"
            assert await a.store.send("r", b"%d" % (n + 1)) == "a"
        await a.heard.until(lambda: len(set(a.heard.commands)) == 20)
        assert list(dict.fromkeys(a.heard.command_ids)) == sorted(set(a.heard.command_ids))
        assert list(dict.fromkeys(a.heard.commands)) == [("r", b"%d" % n) for n in range(20)]

    async def test_what_is_taken_needs_no_events(self, a: Worker, b: Worker) -> None:
        await ask(a)
        await b.store.answer("r", 2, b"yes")
        await a.heard.until(lambda: bool(a.heard.commands))
        batch = Append("r", 3, [], status=RunStatus.WAITING, taken=a.heard.command_ids)
        assert not await a.store.append([batch])
        assert (await record_of(b)).status is RunStatus.WAITING
        assert await a.store.release("r", FAR) is False, "nothing is kept any more"

    async def test_a_run_that_is_made_anew_has_nothing_of_the_old_one(self, cluster: Cluster, a: Worker) -> None:
        await a.create("r")
        await save(a, "r", 1, b"old", "1")
        await a.store.send("r", b"old")
        await a.heard.until(lambda: bool(a.heard.commands))
        await a.end("r", 2)
        assert await a.store.delete_session("s")
        await a.create("r")
        assert await a.store.checkpoint("r") is None
        await cluster.crash(a)
        b = await cluster.worker("b")
        assert [run.id for run in (await cluster.lapse(b))["b"]] == ["r"]
        await b.store.send("r", b"new")
        await b.heard.until(lambda: bool(b.heard.commands))
        assert b.heard.commands[0] == ("r", b"new")

    # -- answers ----------------------------------------------------------------------------------------------------

    async def test_an_answer_sets_the_run_running_in_one_step(self, a: Worker, b: Worker) -> None:
        await ask(a)
        assert await b.store.answer("r", 2, b"yes") == "a"
        assert (await record_of(b)).status is RunStatus.RUNNING
        await a.heard.until(lambda: bool(a.heard.commands))
        assert a.heard.commands[0] == ("r", b"yes")
        for seq in (2, 1, 3):
            with pytest.raises(NotWaiting):
                await b.store.answer("r", seq, b"no")

    async def test_of_many_answers_one_is_taken(self, a: Worker, b: Worker) -> None:
        await ask(a)
        said = [(worker, f"{worker.id}{n}".encode()) for n in range(5) for worker in (a, b)]
        answers = (worker.store.answer("r", 2, command) for worker, command in said)
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert sorted(map(type, results), key=str) == sorted([str, *[NotWaiting] * 9], key=str)
        won = said[[type(result) for result in results].index(str)][1]
        await a.heard.until(lambda: bool(a.heard.commands))
        assert set(a.heard.commands) == {("r", won)}

    async def test_only_the_question_at_hand_is_answered(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        with pytest.raises(NotWaiting):
            await b.store.answer("r", 0, b"early")
        with pytest.raises(RunNotFound):
            await b.store.answer("nobody", 1, b"?")
        assert await a.store.start_run("r", 5) is None
        await a.append("r", 1, "question", status=RunStatus.WAITING)
        await b.store.answer("r", 1, b"yes")
        await a.append("r", 2, "begun again", status=RunStatus.RUNNING)
        await a.append("r", 3, "question", status=RunStatus.WAITING)
        with pytest.raises(NotWaiting):
            await b.store.answer("r", 1, b"yes, once more")
        await b.store.answer("r", 3, b"to the second")
        await a.end("r", 4)
        with pytest.raises(NotWaiting):
            await b.store.answer("r", 4, b"late")

    async def test_a_worker_that_was_fenced_answers_what_is_asked_now(self, cluster: Cluster, a: Worker) -> None:
        """Though it does not know yet that the run is no longer its own."""
        await ask(a)
        b = await cluster.worker("b")
        await cluster.lapse(b)
        await b.append("r", 3, "begun again", status=RunStatus.RUNNING)
        await b.append("r", 4, "another question", status=RunStatus.WAITING)
        with pytest.raises(NotWaiting):
            await a.store.answer("r", 2, b"to the first")
        assert await a.store.answer("r", 4, b"to the second") == "b"

    # -- runs that are nobody's -------------------------------------------------------------------------------------

    async def test_a_parked_run_wants_somebody_at_its_time(self, a: Worker, b: Worker) -> None:
        await ask(a)
        await save(a, "r", 2, b"asked")
        assert await a.store.release("r", 1000) is False
        assert (await record_of(b)).owner == ""
        assert (await record_of(b)).status is RunStatus.WAITING
        assert await b.store.wanted(999) == []
        assert [run.id for run in await b.store.wanted(1000)] == ["r"]
        assert [run.id for run in await a.store.wanted(FAR)] == ["r"]
        assert set(await a.store.append([Append("r", 3, [an_event("no longer mine")])])) == {"r"}
        assert await b.store.checkpoint("r") == Checkpoint(2, b"asked")

    async def test_one_that_is_parked_for_good_wants_nobody(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await ask(a)
        assert await a.store.release("r", None) is False
        assert await b.store.wanted(FAR) == []
        assert await a.store.release("r", 0) is False, "it is not this worker's"
        assert not any((await cluster.lapse(b)).values()), "it has no lease to lose"
        with pytest.raises(SessionBusy):
            await b.store.create_run(a_run("q"), reject_busy=True)

    async def test_one_that_waits_can_be_handed_over_now(self, a: Worker, b: Worker) -> None:
        await ask(a)
        assert await a.store.release("r", 0) is True
        await b.heard.until(lambda: b.heard.wanted > 0)
        assert [(run.id, run.status) for run in await b.store.wanted(0)] == [("r", RunStatus.WAITING)]

    async def test_a_journal_goes_on_from_one_worker_to_the_next(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await a.store.start_run("r", 5) is None
        seq = 0
        for worker, other in ((a, b), (b, a), (a, b), (b, a)):
            for _ in range(4):
                await worker.append("r", seq + 1, f"{seq + 1}", f"{seq + 2}")
                seq += 2
            await save(worker, "r", seq, b"%d" % seq)
            assert await worker.store.release("r", 0) is True
            assert (await record_of(a)).last_seq == (await record_of(b)).last_seq == seq
            claimed = await other.store.claim("r")
            assert claimed is not None
            assert claimed.last_seq == seq
        await a.append("r", seq + 1, "last")
        expected = [*(an_event(f"{n + 1}") for n in range(seq)), an_event("last")]
        assert await a.read_all("r") == await b.read_all("r") == expected
        await cluster.crash(a)
        [taken] = (await cluster.lapse(b))["b"]
        assert (taken.last_seq, taken.takeovers) == (seq + 1, 1)
        assert await b.read_all("r", 3, page=2) == expected[3:]
        expected.append(await b.end("r", seq + 2))
        assert await b.read_all("r") == expected

    async def test_a_claim_neither_counts_nor_forgives(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        await cluster.crash(a)
        await cluster.lapse(b)
        await b.store.release("r", 0)
        c = await cluster.worker("c")
        claimed = await c.store.claim("r")
        assert claimed is not None
        assert claimed.takeovers == (await record_of(b)).takeovers == 1

    async def test_commands_to_nobodys_run_reach_its_claimant_in_order(self, a: Worker, b: Worker) -> None:
        await ask(a)
        await a.store.release("r", FAR)
        for command in (b"1", b"2", b"3"):
            assert await a.store.send("r", command) == ""
        assert await b.store.claim("r") is not None
        assert await b.store.send("r", b"4") == "b"
        assert await a.store.send("r", b"5") == "b"
        await b.heard.until(lambda: len(set(b.heard.commands)) == 5)
        assert list(dict.fromkeys(b.heard.commands)) == [("r", b"%d" % n) for n in range(1, 6)]
        assert sorted(set(b.heard.command_ids)) == list(dict.fromkeys(b.heard.command_ids))
        assert a.heard.commands == []

    async def test_an_answer_to_a_parked_run_finds_somebody(self, a: Worker, b: Worker) -> None:
        await ask(a)
        await a.store.release("r", FAR)
        assert await a.store.answer("r", 2, b"yes") == ""
        await b.heard.until(lambda: b.heard.wanted > 0)
        assert [run.id for run in await b.store.wanted(0)] == ["r"]
        claimed = await b.store.claim("r")
        assert claimed is not None
        assert (claimed.owner, claimed.status, claimed.last_seq, claimed.takeovers) == ("b", RunStatus.RUNNING, 2, 0)
        await b.heard.until(lambda: bool(b.heard.commands))
        assert b.heard.commands == [("r", b"yes")]
        assert await b.store.wanted(FAR) == []
        batch = Append("r", 3, [an_event("on")], status=RunStatus.RUNNING, taken=b.heard.command_ids)
        assert not await b.store.append([batch])

    async def test_an_answer_before_it_is_parked_is_not_lost(self, a: Worker, b: Worker) -> None:
        await ask(a)
        assert await b.store.answer("r", 2, b"yes") == "a"
        assert await a.store.release("r", FAR) is True
        await b.heard.until(lambda: b.heard.wanted > 0)
        assert await b.store.claim("r") is not None
        await b.heard.until(lambda: bool(b.heard.commands))
        assert b.heard.commands == [("r", b"yes")]

    async def test_a_cancel_makes_a_parked_run_wanted(self, a: Worker, b: Worker) -> None:
        await ask(a)
        await a.store.release("r", None)
        assert await b.store.send("r", b"cancel") == ""
        assert [(run.id, run.status) for run in await b.store.wanted(0)] == [("r", RunStatus.WAITING)]

    async def test_a_run_that_is_handed_over_is_heard_of_at_once(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await a.store.start_run("r", 5) is None
        await save(a, "r", 1, b"one", "1")
        assert await a.store.release("r", FAR) is True, "it does not wait for anybody"
        await b.heard.until(lambda: b.heard.wanted > 0)
        claimed = await b.store.claim("r")
        assert claimed is not None
        assert claimed.takeovers == 0, "nobody was lost"
        assert await b.store.checkpoint("r") == Checkpoint(1, b"one")
        await b.append("r", 2, "2")
        await b.end("r", 3)

    async def test_a_queued_run_is_handed_over_too(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.create("q")
        assert await a.store.release("q", 0) is True
        assert await b.store.claim("q") is not None
        assert await b.store.start_run("q", 6) == "r"
        await a.end("r", 1)
        assert await b.store.start_run("q", 6) is None

    async def test_of_many_claims_one_gets_the_run(self, cluster: Cluster, a: Worker) -> None:
        workers = [await cluster.worker(f"w{n}") for n in range(4)]
        for n in range(5):
            await a.create(f"r{n}", f"s{n}")
            await a.store.release(f"r{n}", 0)
        claims = await asyncio.gather(*(w.store.claim(f"r{n}") for n in range(5) for w in workers for _ in range(2)))
        assert sorted(run.id for run in claims if run is not None) == [f"r{n}" for n in range(5)]

    async def test_what_is_somebodys_or_has_ended_is_not_claimed(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        assert await b.store.claim("r") is None
        assert await a.store.claim("r") is None
        assert await b.store.release("r", 0) is False
        await a.end("r", 1)
        assert await b.store.claim("r") is None
        assert await a.store.release("r", 0) is False
        assert await b.store.claim("nobody") is None
        assert await b.store.wanted(FAR) == []

    async def test_a_fenced_worker_neither_releases_nor_claims(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.create("q", "other")
        await a.store.release("q", 0)
        await cluster.lapse(b)
        with pytest.raises(WorkerFenced):
            await a.store.release("r", 0)
        with pytest.raises(WorkerFenced):
            await a.store.claim("q")
        assert await b.store.claim("q") is not None

    async def test_nobodys_runs_outlive_all_workers(self, cluster: Cluster, a: Worker) -> None:
        await ask(a, "parked", "s1")
        await a.store.release("parked", 500)
        await a.create("left", "s2")
        await a.store.release("left", 0)
        await cluster.stop(a)
        b = await cluster.worker("b")
        assert not any((await cluster.lapse(b)).values())
        assert [run.id for run in await b.store.wanted(499)] == ["left"]
        assert [run.id for run in await b.store.wanted(500)] == ["left", "parked"]

    async def test_wanted_is_bounded_and_longest_first(self, a: Worker, b: Worker) -> None:
        for n in range(12):
            await ask(a, f"r{n}", f"s{n}")
            await a.store.release(f"r{n}", 100 - n)
        assert [run.id for run in await b.store.wanted(100, 5)] == ["r11", "r10", "r9", "r8", "r7"]
        assert len(await b.store.wanted(100)) == 12

    async def test_a_watcher_hears_nothing_of_a_checkpoint_alone(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        await b.store.watch("r")
        await save(a, "r", 0, b"start")
        await a.append("r", 1, "1")
        await b.heard.until(lambda: b.heard.is_past("r", 0))
        assert b.heard.events["r"] == {1: an_event("1")}
