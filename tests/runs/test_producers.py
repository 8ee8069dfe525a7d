"""Runs that are executed elsewhere: what their producers send is taken once and in order, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import msgspec
import pytest

from gapless import Limits, RunConfig, Runner
from gapless.errors import (
    BatchConflict,
    InputInvalid,
    InputTooLarge,
    RunFenced,
    RunNotFound,
    RunWaits,
    ShuttingDown,
)
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallStartEvent,
    encode_event,
)
from gapless.producing import BATCH_EVENTS_MAX, PRODUCER, Batch
from gapless.records import RunStatus
from gapless.runs.rehearsal import Rehearsal
from gapless.testing.place import Place
from tests.support.agui import check_order
from tests.support.waiting import WAIT_S, until

END = RunFinishedEvent(thread_id="", run_id="")


def agent(message: str) -> str:
    return message


def batch(producer: str, epoch: int, number: int, *events: Any) -> Batch:
    raw = [msgspec.Raw(msgspec.json.encode(one) if isinstance(one, str) else encode_event(one)) for one in events]
    return Batch(producer=producer, epoch=epoch, number=number, events=raw)


async def events_of(runner: Runner, run_id: str) -> list[Event]:
    events = [event async for event in (await runner.attach(run_id)).events()]
    check_order(events)
    return events


def asks(*ids: str) -> RunFinishedEvent:
    asked = RunFinishedInterruptOutcome(interrupts=[Interrupt(id=id, reason="confirmation") for id in ids])
    return RunFinishedEvent(thread_id="", run_id="", outcome=asked)


def text_of_message(message: Any) -> str:
    return str(message.content)


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, TextMessageContentEvent))


async def test_a_run_is_written_by_its_producer_and_followed_as_any_other():
    async with Runner(agent) as runner:
        run = await runner.start("Do it.", agent=PRODUCER, session_id="s")
        async with runner.produce(run.id) as out:
            await out.send("Let me ", "look. ")
            await out.send(
                ToolCallStartEvent(tool_call_id="c", tool_call_name="look"),
                ToolCallArgsEvent(tool_call_id="c", delta="{}"),
            )
            assert await out.send("Done.", RunFinishedEvent(thread_id="", run_id="", result={"found": 3})) == 3
        events = await events_of(runner, run.id)
        ended = events[-1]
        assert isinstance(ended, RunFinishedEvent)
        assert (text_of(events), ended.result, ended.run_id) == ("Let me look. Done.", {"found": 3}, run.id)
        asked, said, *_ = await runner.messages("s")
        assert (text_of_message(asked), text_of_message(said)) == ("Do it.", "Let me look. ")
        assert PRODUCER not in runner.agents


async def test_what_comes_again_is_taken_once_and_what_comes_out_of_turn_not_at_all():
    async with Runner(agent) as runner:
        run = await runner.start("Do it.", agent=PRODUCER)
        for _ in range(2):
            taken = await runner.take(run.id, batch("p", 1, 1, "One. "))
            assert (taken.producer, taken.epoch, taken.number) == ("p", 1, 1)
        with pytest.raises(BatchConflict, match="batch 3 leaves a hole; the last that was taken is 1"):
            await runner.take(run.id, batch("p", 1, 3, "Three."))
        with pytest.raises(RunFenced, match="p writes it, with epoch 1"):
            await runner.take(run.id, batch("q", 1, 2, "of another"))
        claimed = await runner.take(run.id, Batch(producer="q"))
        assert (claimed.producer, claimed.epoch, claimed.number) == ("q", 2, 1)
        with pytest.raises(RunFenced, match="q writes it, with epoch 2"):
            await runner.take(run.id, batch("p", 1, 2, "too late"))
        await runner.take(run.id, batch("q", 2, 1, "One. "))
        last = batch("q", 2, 2, "Two.", END)
        await runner.take(run.id, last)
        events = await events_of(runner, run.id)
        assert (await runner.take(run.id, last)).number == 2, "its answer may have been lost"
        with pytest.raises(RunFenced, match="has ended"):
            await runner.take(run.id, batch("q", 2, 3, "after the end"))
        assert text_of(events) == "One. Two."


async def test_what_is_no_batch_is_refused_and_leaves_the_run_as_it_is():
    async with Runner(agent) as runner:
        run = await runner.start("Do it.", agent=PRODUCER)
        for wrong, kind in (
            (Batch(producer="p", epoch=1, number=1, events=[msgspec.Raw(b'{"type":"NOTHING"}')]), InputInvalid),
            (Batch(producer="p", epoch=1, number=1, events=[msgspec.Raw(b"3")]), InputInvalid),
            (batch("p", 1, 0, "no number"), InputInvalid),
            (batch("", 1, 1, "nobody"), InputInvalid),
            (Batch(producer="p", epoch=-1), InputInvalid),
            (Batch(producer="p", epoch=10**4299), InputInvalid),
            (Batch(producer="p", epoch=1, number=2**53), InputInvalid),
            (Batch(producer="p", number=-1), InputInvalid),
            (batch("p", 1, 1, asks()), InputInvalid),
            (batch("p", 1, 1, asks("q", "q")), InputInvalid),
            (batch("p", 1, 1, END, "after the end"), InputInvalid),
            (batch("p", 1, 1, *["x"] * (BATCH_EVENTS_MAX + 1)), InputTooLarge),
        ):
            with pytest.raises(kind):
                await runner.take(run.id, wrong)
        await runner.take(run.id, batch("p", 1, 1, "Good.", RunErrorEvent(message="no more", code="mine")))
        record = await run.wait()
        assert (record.status, record.error) == (RunStatus.FAILED, {"code": "mine", "message": "no more"})
        assert text_of(await events_of(runner, run.id)) == "Good."
        own = await runner.start("Hello")
        with pytest.raises(InputInvalid, match="executed by agent agent"):
            await runner.take(own.id, batch("p", 1, 1, "x"))
        with pytest.raises(RunNotFound):
            await runner.take("none", batch("p", 1, 1, "x"))


ARGS = ToolCallArgsEvent(tool_call_id="never", delta="{}")
BAD_FILE = CustomEvent(name="gapless.file", value={"data": "no base64!" * 10_000})
SMALL = Limits(event_bytes_max=10_000, journal_events_max=40)
CANNOT_STAND: dict[str, tuple[list[Any], type[Exception], str]] = {
    "arguments of a call that was not started": (["Said. ", ARGS], InputInvalid, "TOOL_CALL_ARGS for never"),
    "what is no file": (["Said. ", BAD_FILE], InputInvalid, "not base64"),
    "a deep value": ([CustomEvent(name="n", value=json.loads("[" * 150 + "]" * 150))], InputInvalid, "nested"),
    "an event over its limit": (
        ["Said. ", TextMessageStartEvent(message_id="m", name="x" * 10_000)],
        InputTooLarge,
        "event_bytes_max=10000",
    ),
    "a question over its limit": (["Said. ", asks("x" * 10_000)], InputTooLarge, "event_bytes_max=10000"),
    "a journal over its limit": (["x"] * 41, InputTooLarge, "journal_events_max=40"),
}


@pytest.mark.parametrize("brought_by", ["the run's worker", "another"])
@pytest.mark.parametrize("case", CANNOT_STAND)
async def test_a_batch_that_cannot_stand_where_it_comes_is_refused_whole(case: str, brought_by: str):
    events, kind, why = CANNOT_STAND[case]
    place = Place()
    try:
        worker, other = [await place.worker(agent, limits=SMALL) for _ in range(2)]
        run = await worker.start("Do it.", agent=PRODUCER, run_id="r")
        runner = worker if brought_by == "the run's worker" else other
        await runner.take("r", batch("p", 1, 1, "One. "))
        before = (await run.record()).last_seq
        for _ in range(2):  # it may be sent again, and is still wrong
            with pytest.raises(kind, match=f"run r: nothing of the batch was taken: .*{why}"):
                await runner.take("r", batch("p", 1, 2, *events))
        assert ((await run.record()).last_seq, (await run.record()).status) == (before, RunStatus.RUNNING)
        for _ in range(2):
            assert (await runner.take("r", batch("p", 1, 2, "Two. "))).number == 2
        with pytest.raises(kind):
            await runner.take("r", batch("p", 1, 3, *events))
        with pytest.raises(BatchConflict, match="the last that was taken is 2"):
            await runner.take("r", batch("p", 1, 4, "a hole"))
        assert (await runner.take("r", batch("p", 1, 3, "Three.", END))).number == 3
        assert text_of(await events_of(runner, "r")) == "One. Two. Three."
    finally:
        await place.close()


async def test_a_large_file_of_a_batch_is_kept_aside_once():
    async with Runner(agent, limits=Limits(event_bytes_max=100_000)) as runner:
        run = await runner.start("Do it.", agent=PRODUCER)
        large = CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": "AAAA" * 100_000})
        with pytest.raises(InputInvalid, match="TOOL_CALL_ARGS"):
            await runner.take(run.id, batch("p", 1, 1, large, ARGS))
        await runner.take(run.id, batch("p", 1, 1, large, END))
        (kept,) = [event for event in await events_of(runner, run.id) if isinstance(event, CustomEvent)]
        assert (kept.value["size"], "data" in kept.value) == (300_000, False)


async def test_a_cancel_ends_it_and_its_producer_hears_of_it():
    async with Runner(agent) as runner:
        run = await runner.start("Do it.", agent=PRODUCER)
        async with runner.produce(run.id) as out:
            await out.send("Said. ")
            await run.cancel()
            assert (await run.wait()).status is RunStatus.CANCELLED
            with pytest.raises(RunFenced, match="has ended"):
                await out.send("never")
        assert text_of(await events_of(runner, run.id)) == "Said. "


async def test_a_question_waits_for_a_person_and_the_producer_is_told_to_wait():
    place = Place()
    try:
        worker = await place.worker(agent)
        run = await worker.start("Pay.", agent=PRODUCER, run_id="r")
        async with worker.produce("r", name="p") as out:
            asking = batch("p", out.epoch, 1, "Shall I? ", asks("q"))
            await out.send("Shall I? ", asks("q"))
            other = await place.worker(agent)
            for runner in (worker, other):
                with pytest.raises(RunWaits):
                    await runner.take("r", batch("p", out.epoch, 2, "without an answer"))
                with pytest.raises(RunWaits):
                    await runner.take("r", Batch(producer="next"))
                with pytest.raises(BatchConflict):
                    await runner.take("r", batch("p", out.epoch, 3, "a hole"))
                assert (await runner.take("r", asking)).number == 1, "the answer to what asks may have been lost"
            await place.lose(worker, other)  # it waits at nobody's worker
            await place.is_parked()
            await other.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload=True)])
            async with other.produce("r") as again:
                assert again.number == 1
                await again.send("Paid.", END)
        events = await events_of(other, run.id)
        assert text_of(events) == "Shall I? Paid."
        answers = [event.input.resume for event in events if isinstance(event, RunStartedEvent) and event.input]
        assert [one.payload for one in answers[0] or []] == [True]
    finally:
        await place.close()


async def test_a_worker_that_stops_leaves_a_run_that_waits_for_its_producer_at_once():
    place = Place()
    try:
        worker, other = await place.worker(agent), await place.worker(agent)
        run = await worker.start("Do it.", agent=PRODUCER, run_id="r")
        async with worker.produce("r") as out:
            await out.send("One. ")
            await worker.close(grace_s=100_000)
        async with other.produce("r") as again:
            assert again.number == 1
            await again.send("Two.", END)
        assert text_of(await events_of(other, run.id)) == "One. Two."
    finally:
        await place.close()


async def test_a_run_that_is_left_before_it_begins_keeps_no_producer_waiting():
    place = Place()
    try:
        worker, other = await place.worker(agent), await place.worker(agent)
        await worker.start("Do it.", agent=PRODUCER, run_id="r")
        sent = worker.worker.produce("r", batch("p", 1, 1, "One. "))  # in the step in which it was started
        assert sent is not None
        async with asyncio.timeout(WAIT_S):
            await worker.close(grace_s=100_000)
            with pytest.raises(ShuttingDown, match="another goes on with it"):
                await sent
        assert (await other.take("r", batch("p", 1, 1, "One. ", END))).number == 1
        assert text_of(await events_of(other, "r")) == "One. "
    finally:
        await place.close()


async def test_a_worker_that_stops_leaves_a_run_that_has_just_begun_at_once():
    place = Place()
    try:
        worker, other = await place.worker(agent), await place.worker(agent)
        await worker.start("Do it.", agent=PRODUCER, run_id="r")
        await asyncio.sleep(0)  # it begins, and what takes its batches has not had its turn
        executing = worker.executions["r"]
        assert (executing.journal.appended, executing.inbox and executing.inbox.idle) == (1, False)
        async with asyncio.timeout(WAIT_S):
            await worker.close(grace_s=100_000)
        async with other.produce("r") as out:
            await out.send("Done.", END)
        events = await events_of(other, "r")
        assert text_of(events) == "Done."
        assert [type(event) for event in events].count(RunStartedEvent) == 1
    finally:
        await place.close()


def held_rehearsal(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Have whoever looks at a batch wait; set once somebody does, and to be set for it to go on."""
    looked, let, rehearse = asyncio.Event(), asyncio.Event(), Rehearsal.of

    async def slowly(rehearsal: Rehearsal, events: Any) -> Any:
        looked.set()
        await let.wait()
        return await rehearse(rehearsal, events)

    monkeypatch.setattr(Rehearsal, "of", slowly)
    return looked, let


async def test_a_worker_that_stops_leaves_a_run_once_it_has_refused_what_had_come(monkeypatch: pytest.MonkeyPatch):
    looked, let = held_rehearsal(monkeypatch)
    place = Place()
    try:
        worker, other = await place.worker(agent), await place.worker(agent)
        await worker.start("Do it.", agent=PRODUCER, run_id="r")
        taking = asyncio.create_task(worker.take("r", batch("p", 1, 1, ARGS)))
        await looked.wait()
        closing = asyncio.create_task(worker.close(grace_s=100_000))
        await until(lambda: worker.draining, "it stops")
        let.set()
        with pytest.raises(InputInvalid, match="nothing of the batch was taken"):
            await taking
        async with asyncio.timeout(WAIT_S):
            await closing
        assert (await other.take("r", batch("p", 1, 1, "One.", END))).number == 1
        assert text_of(await events_of(other, "r")) == "One."
    finally:
        await place.close()


@pytest.mark.parametrize("brought_by", ["the run's worker", "another"])
async def test_a_batch_that_is_looked_at_as_its_run_is_left_is_taken_by_who_goes_on_with_it(
    brought_by: str, monkeypatch: pytest.MonkeyPatch
):
    """Its producer is not told that the run has ended."""
    looked, let = held_rehearsal(monkeypatch)
    place = Place()
    try:
        worker, other = await place.worker(agent), await place.worker(agent)
        await worker.start("Do it.", agent=PRODUCER, run_id="r")
        brings = worker if brought_by == "the run's worker" else other
        taking = asyncio.create_task(brings.take("r", batch("p", 1, 1, "One. ")))
        await looked.wait()
        let.set()
        worker.executions["r"].part()  # in one turn: it is looked at before its taker hears that he is stopped
        if brings is worker:
            with pytest.raises(ShuttingDown, match="another goes on with it"):
                await taking
        else:
            assert (await taking).number == 1
        assert (await other.take("r", batch("p", 1, 1, "One. "))).number == 1
        assert (await other.take("r", batch("p", 1, 2, "Two.", END))).number == 2
        assert text_of(await events_of(other, "r")) == "One. Two."
    finally:
        await place.close()


async def test_where_a_run_waits_as_it_is_gone_on_with_its_producer_is_told_to_wait():
    """One that is cancelled with its last follower is not parked: it waits where it was taken over."""
    place = Place()
    try:
        worker = await place.worker(agent)
        config = RunConfig(on_disconnect="cancel")
        await worker.start("Pay.", agent=PRODUCER, run_id="r", config=config)
        async with worker.produce("r", name="p") as out:
            await out.send("Shall I? ", asks("q"))
        other = await place.worker(agent)
        await place.lose(worker, other)
        await until(lambda: "r" in other.executions, "the other has it")
        with pytest.raises(RunWaits):
            await other.take("r", batch("p", out.epoch, 2, "without an answer"))
        assert (await other.take("r", batch("p", out.epoch, 1, "Shall I? ", asks("q")))).number == 1
        await other.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload=True)])
        inbox = other.executions["r"].inbox
        assert inbox is not None
        await until(lambda: not inbox.asking, "it goes on")
        assert (await other.take("r", batch("p", out.epoch, 2, "Paid.", END))).number == 2
        assert text_of(await events_of(other, "r")) == "Shall I? Paid."
    finally:
        await place.close()


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_dies_each_batch_is_there_once(seed: int):
    """Producers die with or without an answer, come back, send what was sent; the run's worker is lost, too."""
    chosen, place = random.Random(seed), Place()
    batches = [[f"{number}a ", f"{number}b "] for number in range(1, 9)]
    batches[-1].append(END)  # type: ignore[arg-type]  # an event among texts
    try:
        runners = [await place.worker(agent) for _ in range(2)]
        await chosen.choice(runners).start("go", agent=PRODUCER, run_id="r")
        old = [Batch(producer="nobody", epoch=1)]
        name, epoch, number, losses = "", 0, 0, 0
        while number < len(batches):
            runner = chosen.choice(runners)
            step = chosen.choice(["begin", "send", "send", "send", "hole", "late", "lose"])
            if step == "lose":
                losses += 1  # a run whose workers are lost four times, and it gets no further, is closed
                owner = next((one for one in runners if "r" in one.executions), None)
                if owner is not None and losses <= 3:
                    runners.remove(owner)
                    await place.lose(owner, *runners)
                    runners.append(await place.worker(agent))
                continue
            if step == "begin" or not epoch:
                name = f"p{chosen.randrange(3)}"
                try:
                    claimed = await runner.take("r", Batch(producer=name))
                except RunFenced:  # it did not know, and had sent all
                    break
                assert claimed.number >= number
                epoch, number = claimed.epoch, claimed.number
                continue
            if step == "late":
                with contextlib.suppress(RunFenced, BatchConflict):
                    await runner.take("r", chosen.choice(old))
                continue
            ahead = 2 if step == "hole" else chosen.choice([0, 1, 1])
            at = number + ahead
            if not 0 < at <= len(batches):
                continue
            sent = batch(name, epoch, at, *batches[at - 1])
            try:
                await runner.take("r", sent)
            except BatchConflict:
                assert step == "hole"
                continue
            assert step == "send"
            old.append(sent)
            if chosen.random() < 0.7:  # else it dies before it knows
                number = at
            else:
                epoch = 0
        events = await events_of(runners[0], "r")
        assert text_of(events) == "".join(f"{one}a {one}b " for one in range(1, 9))
        assert not [event for event in events if isinstance(event, CustomEvent)], "nothing is taken back"
        assert isinstance(events[-1], RunFinishedEvent)
    finally:
        await place.close()


@pytest.mark.parametrize("setting", ["timeout", "idle_timeout"])
async def test_a_producer_that_is_silent_ends_its_run_as_an_agent_would(setting: str):
    async with Runner(agent) as runner:
        run = await runner.start("Do it.", agent=PRODUCER, config=RunConfig(**{setting: 1.0}))
        async with runner.produce(run.id) as out:
            await out.send("Said. ")
            record = await run.wait()
            assert (record.status, (record.error or {})["code"]) == (RunStatus.FAILED, "run_timeout")
            with pytest.raises(RunFenced, match="has ended"):
                await out.send("too late")
        assert text_of(await events_of(runner, run.id)) == "Said. "
