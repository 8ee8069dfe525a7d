"""Runs go on at another worker: after a loss, after a hand-over, after a person's answer. Several runners are several
workers on one store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gapless import Agent, RunConfig, Runner
from gapless.agents.approving import approval, ask, read_decision
from gapless.agents.base import AgentItem, RunContext
from gapless.errors import InputInvalid, SessionBusy, StoreUnavailable
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    Tool,
    UserMessage,
)
from gapless.fold import VOID
from gapless.journals.memory import Memory, MemoryStore
from gapless.moves import HANDED_OVER, PARKED, PASSED_ON, TAKEN_OVER
from gapless.records import RunStatus
from gapless.runs import execution, going_on, retrying
from gapless.runs import worker as worker_module
from gapless.runs.checkpoints import decode_frame
from gapless.runs.commands import Command
from gapless.testing.place import LEASE_S
from tests.support.place import Place
from tests.support.waiting import WAIT_S, at_rest, until


class Steps(Agent):
    """Does its steps in order, each once, and saves after each. A step that is text is said; `ask` asks a person; an
    event is waited for after "half " was said."""

    continues = "from_checkpoint"
    name = "steps"

    def __init__(self, *steps: Any, done: list[str] | None = None) -> None:
        self.steps = steps
        self.done: list[str] = [] if done is None else done
        self.called = 0
        self.stopped = asyncio.Event()

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        self.called += 1
        begin = 0 if ctx.checkpoint is None else int(ctx.checkpoint)
        try:
            for number, step in enumerate(self.steps[begin:], begin):
                if isinstance(step, asyncio.Event):
                    yield "half "
                    await step.wait()
                    yield "whole "
                elif step == "ask":
                    (answer,) = await ctx.interrupt([Interrupt(id=f"q{number}", reason="input_required")])
                    yield f"{answer.payload} "
                else:
                    yield f"{step} "
                self.done.append(f"{number}")
                await ctx.save(str(number + 1).encode())
        finally:
            self.stopped.set()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    yield found
    for runner in found.runners:
        await runner.close()


async def events_of(runner: Runner, run_id: str = "r") -> list[Event]:
    return [event async for event in (await runner.attach(run_id)).events()]


def yes(question: str, payload: Any = "yes") -> list[ResumeEntry]:
    return [ResumeEntry(interrupt_id=question, status="resolved", payload=payload)]


def voids(events: list[Event]) -> list[Any]:
    return [event.value for event in events if isinstance(event, CustomEvent) and event.name == VOID]


async def waits(place: Place) -> None:
    await until(lambda: place.record().status is RunStatus.WAITING, "the run waits")


async def saved(place: Place, steps: int) -> None:
    """Wait until so many steps are saved; the next one has to wait for something."""

    def is_saved() -> bool:
        kept = place.memory.checkpoints.get("r")
        return kept is not None and decode_frame(kept.data, "r").data == str(steps).encode()

    await until(is_saved, f"{steps} steps are saved")


@pytest.fixture
def parked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "PARK_AFTER_S", 0.0)


# -- a lost worker -----------------------------------------------------------------------------------------------------


async def test_a_run_goes_on_after_the_last_step_that_was_finished(place: Place):
    gate = asyncio.Event()
    first, second = Steps("one", gate, "three"), Steps("one", "two", "three")
    lost, other = await place.worker(first), await place.worker(second)
    run = await lost.start("x", session_id="s", run_id="r", agent="agent")
    assert run.started.config is not None
    assert run.started.config.on_worker_lost == "continue"
    await until(lambda: first.done == ["0"] and place.record().last_seq >= 4, "half of the second step is said")
    await place.lose(lost, other)
    response = await (await other.attach("r")).collect()
    assert response.text == "one two three "
    again = await other.attach("r")
    assert "".join([piece async for piece in again.text()]) == "one half \n\ntwo three ", (
        "these keep what was given out"
    )
    assert [text async for text in again.text_so_far()][1:] == ["one half ", "one ", "one two ", "one two three "]
    assert "".join(response.chunks) == "one two three "
    assert second.done == ["1", "2"]
    (void,) = voids(await events_of(other))
    assert list(void["cut"].values()) == [len("one ")]
    assert [message.content for message in (await other.messages("s"))[1:]] == ["one ", "two three "]  # type: ignore[union-attr]
    assert not place.memory.checkpoints


async def test_a_run_that_had_not_saved_begins_from_its_start(place: Place):
    first, second = Steps(asyncio.Event()), Steps("one")
    lost, other = await place.worker(first), await place.worker(second)
    await lost.start("x", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq >= 3, "something is said")
    await place.lose(lost, other)
    response = await (await other.attach("r")).collect()
    assert response.text == "one "
    assert [message.content for message in response.messages] == ["one "]  # type: ignore[union-attr]


async def test_losses_count_without_progress_and_poison_is_closed(place: Place):
    agents = [Steps("one", asyncio.Event()) for _ in range(6)]
    runner = await place.worker(agents[0])
    await runner.start("x", run_id="r", agent="agent")
    await saved(place, 1)
    for agent in agents[1:]:
        other = await place.worker(agent)
        await place.lose(runner, other)
        runner = other
        if place.record().takeovers > going_on.TAKEOVERS_MAX:
            break
        await until(partial(lambda agent: agent.called, agent), "it goes on")
    record = await (await runner.attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "worker_lost"
    assert "4 times without getting any further" in record.error["message"]


async def test_a_run_that_gets_further_survives_any_number_of_losses(place: Place):
    losses = going_on.TAKEOVERS_MAX + 3
    done: list[str] = []
    gates = [asyncio.Event() for _ in range(losses + 1)]
    runner = await place.worker(Steps(*gates, done=done))
    await runner.start("x", run_id="r", agent="agent")
    for number in range(losses):
        gates[number].set()
        await saved(place, number + 1)
        assert (len(done), place.record().takeovers) == (number + 1, 0)
        other = await place.worker(Steps(*gates, done=done))
        await place.lose(runner, other)
        runner = other
    gates[-1].set()
    said = (await (await runner.attach("r")).collect()).text
    whole = "half whole " * len(gates)
    assert said.replace("\n\n", "") == whole, "with a paragraph where a message was not gone on with"


async def test_a_run_that_is_answered_piece_by_piece_survives_any_number_of_losses(place: Place):
    ids = "abcdef"
    assert len(ids) > going_on.TAKEOVERS_MAX + 1

    class AsksMany(Agent):
        continues = "from_checkpoint"
        name = "many"

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            answers = await ctx.interrupt([Interrupt(id=id, reason="input_required") for id in ids])
            yield " ".join(f"{answer.payload}" for answer in answers)

    runner = await place.worker(AsksMany())
    await runner.start("x", run_id="r", agent="agent")
    for id in ids:
        await waits(place)
        await runner.answer("r", yes(id, id.upper()), some=True)
        other = await place.worker(AsksMany())
        await place.lose(runner, other)
        runner = other
    assert (await (await runner.attach("r")).collect()).text == "A B C D E F"


async def test_losses_after_an_answer_count_and_poison_is_closed(place: Place):
    agents = [Steps("one", "ask", asyncio.Event()) for _ in range(7)]
    runner, called = await place.worker(agents[0]), 0
    await runner.start("x", run_id="r", agent="agent")
    await waits(place)
    for agent in agents[1:3]:  # what came before the answer does not count
        other = await place.worker(agent)
        await place.lose(runner, other)
        runner = other
        await place.is_parked()
    await runner.answer("r", yes("q1"))
    await until(lambda: agents[2].done == ["1"], "it has the answer")
    for agent in agents[3:]:
        other = await place.worker(agent)
        await place.lose(runner, other)
        runner = other
        if place.record().status.ended:
            break
        await until(partial(lambda agent: agent.called or place.record().status.ended, agent), "it goes on or ends")
        called += agent.called
    record = await (await runner.attach("r")).wait()
    assert (record.error or {})["code"] == "worker_lost"
    assert called == going_on.TAKEOVERS_MAX


async def test_what_cannot_continue_is_closed_as_ever(place: Place):
    async def agent(message: str) -> AsyncIterator[str]:
        yield "shown"
        await asyncio.Event().wait()

    lost, other = await place.worker(agent), await place.worker(agent)
    run = await lost.start("x", run_id="r", agent="agent")
    assert run.started.config is not None
    assert run.started.config.on_worker_lost == "fail"
    await until(lambda: place.record().last_seq >= 3, "something is said")
    await place.lose(lost, other)
    record = await (await other.attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "worker_lost"
    assert "its agent had saved nothing to go on from" in record.error["message"]


async def test_an_agent_that_begins_anew_says_what_it_takes_back(place: Place):
    class Anew(Steps):
        continues = "anew"  # type: ignore[assignment]  # another of the base's

    gate = asyncio.Event()
    lost, other = await place.worker(Anew("one", gate)), await place.worker(Anew("one", "two"))
    run = await lost.start("x", run_id="r", agent="agent")
    assert run.started.config is not None
    assert run.started.config.on_worker_lost == "restart"
    await until(lambda: place.record().last_seq >= 4, "half of the second step is said")
    await place.lose(lost, other)
    assert (await (await other.attach("r")).collect()).chunks == ["one ", "two "]
    (restarted,) = (e for e in await events_of(other) if isinstance(e, CustomEvent))
    assert restarted.value == {"restarts": 1, "messageIds": ["r-1"], "toolCallIds": []}


async def test_a_checkpoint_of_another_version_ends_the_run_and_its_text_is_kept(place: Place):
    lost, other = await place.worker(Steps("one", asyncio.Event())), await place.worker(Steps("one"))
    await lost.start("x", session_id="s", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq >= 4, "something is said")
    kept = place.memory.checkpoints["r"]
    place.memory.checkpoints["r"] = msgspec.structs.replace(kept, data=b"\xff" + kept.data)
    await place.lose(lost, other)
    record = await (await other.attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "checkpoint_unreadable"
    assert "one " in str((await other.messages("s"))[-1].content)  # type: ignore[union-attr]


# -- questions ---------------------------------------------------------------------------------------------------------


async def test_an_answer_that_was_accepted_is_kept_until_it_is_recorded(place: Place):
    first, second = Steps("ask", "end"), Steps("ask", "end")
    lost, other = await place.worker(first), await place.worker(second)
    run = await lost.start("x", run_id="r", agent="agent")
    await waits(place)
    lost.journals._on_command = lambda *about: None  # it is killed before the answer has an effect
    await run.answer(yes("q0"))
    assert place.record().status is RunStatus.RUNNING
    await place.lose(lost, other)
    assert (await (await other.attach("r")).collect()).text == "yes end "
    assert not place.memory.commands.get("r")


@pytest.mark.parametrize("shared", [False, True])
async def test_once_answered_the_run_is_running(shared: bool):
    store = MemoryStore(Memory()) if shared else MemoryStore()
    gate = asyncio.Event()
    async with Runner(agents={"agent": Steps("ask", gate)}, store=store) as runner:
        run = await runner.start("x", run_id="r")
        await until(lambda: runner.executions["r"].waiting, "the run waits")
        await runner.journals._journals["r"].settled()
        await run.answer(yes("q0"))
        assert (await runner.get_run("r")).status is RunStatus.RUNNING
        with pytest.raises(InputInvalid):
            await run.answer(yes("q0", "no"))
        gate.set()
        assert (await run.collect()).text == "yes half whole "


async def test_a_run_that_waits_is_left_when_its_worker_is_lost_and_goes_on_with_its_answer(place: Place):
    first, second = Steps("one", "ask", "end"), Steps("one", "ask", "end")
    lost, other = await place.worker(first), await place.worker(second)
    await lost.start("x", run_id="r", agent="agent")
    await waits(place)
    await place.lose(lost, other)
    await place.is_parked()
    assert (place.record().status, second.called) == (RunStatus.WAITING, 0)
    await other.answer("r", yes("q1"))
    assert (await (await other.attach("r")).collect()).text == "one \n\nyes end "
    events = await events_of(other)
    assert not voids(events)
    assert sum(isinstance(event, RunFinishedEvent) for event in events) == 2
    assert [bool(e.input and e.input.resume) for e in events if isinstance(e, RunStartedEvent)] == [False, True]


@pytest.mark.usefixtures("parked_at_once")
async def test_a_parked_run_costs_nothing_and_is_answered_anywhere(place: Place):
    first, second = Steps("one", "ask", "end"), Steps("one", "ask", "end")
    one, other = await place.worker(first), await place.worker(second)
    run = await one.start("x", run_id="r", agent="agent")
    await place.is_parked()
    await until(lambda: not one.executions and not one.worker._tasks, "nothing is left here")
    assert first.stopped.is_set()
    following = asyncio.create_task(run.collect())
    await other.answer("r", yes("q1"))
    assert (await following).text == "one \n\nyes end "
    assert second.called == 1
    assert not voids(await events_of(other))


@pytest.mark.usefixtures("parked_at_once")
async def test_a_run_is_not_claimed_where_it_is_still_being_given_up(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The store's answer is lost, and it is asked again: what was claimed meanwhile would be given up."""
    agent = Steps("one", "ask", "end")
    worker, other = await place.worker(agent), await place.worker(agent)
    released, answered = asyncio.Event(), asyncio.Event()
    release, claim, claims = worker.store.release, worker.store.claim, list[str]()

    async def twice(run_id: str, wanted_at: int | None, what: str) -> bool:
        await release(run_id, wanted_at, what)
        released.set()
        await answered.wait()
        return await release(run_id, wanted_at, what)

    async def noted(run_id: str) -> Any:
        claims.append("while it is given up" if not answered.is_set() else "later")
        return await claim(run_id)

    monkeypatch.setattr(other.store, "claim", lambda run_id: asyncio.sleep(0))
    monkeypatch.setattr(worker.store, "release", twice)
    monkeypatch.setattr(worker.store, "claim", noted)
    await worker.start("x", run_id="r", agent="agent")
    await released.wait()
    await worker.answer("r", yes("q1"))
    assert not claims
    answered.set()
    assert (await (await other.attach("r")).collect()).text == "one \n\nyes end "
    assert agent.called == 2


@pytest.mark.usefixtures("parked_at_once")
async def test_of_several_answers_to_a_parked_run_one_counts(place: Place):
    workers = [await place.worker(Steps("ask")) for _ in range(3)]
    await workers[0].start("x", run_id="r", agent="agent")
    await place.is_parked()
    outcomes = await asyncio.gather(
        *(worker.answer("r", yes("q0", str(n))) for n, worker in enumerate(workers)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InputInvalid", "InputInvalid", "NoneType"]
    winner = outcomes.index(None)
    assert (await (await workers[0].attach("r")).collect()).text == f"{winner} "


@pytest.mark.usefixtures("parked_at_once")
async def test_a_parked_run_is_cancelled_by_a_worker_that_does_not_have_its_agent(place: Place):
    one = await place.worker(Steps("one", "ask"))
    await one.start("x", session_id="s", run_id="r", agent="agent")
    await place.is_parked()
    stranger = Runner(agents={"other": Steps()}, store=MemoryStore(place.memory, monotonic=lambda: place.now))
    async with stranger:
        await stranger.cancel("r")
        record = await (await stranger.attach("r")).wait()
    assert record.status is RunStatus.CANCELLED
    assert (await one.messages("s"))[-1].content == "one "  # type: ignore[union-attr]


@pytest.mark.usefixtures("parked_at_once")
@pytest.mark.parametrize("name", ["agent", "other"])
async def test_a_run_that_was_parked_before_it_heard_that_it_is_cancelled_is_cancelled(place: Place, name: str):
    """Who claims it finds that it waits for a person, and would leave it again, as all others."""
    one = await place.worker(Steps("one", "ask"))
    await one.start("x", run_id="r", agent="agent")
    await place.is_parked()
    await one.close()
    async with Runner(agents={name: Steps()}, store=MemoryStore(place.memory, monotonic=lambda: place.now)) as other:
        await other.store.send("r", msgspec.json.encode(Command(kind="cancel")))  # its worker was about to leave it
        assert (await (await other.attach("r")).wait()).status is RunStatus.CANCELLED


@pytest.mark.usefixtures("parked_at_once")
async def test_a_run_that_is_cancelled_before_its_agent_comes_to_its_question_leaves_no_error_behind(place: Place):
    """One that nobody waited for would be logged by asyncio."""
    one, errors = await place.worker(Steps("one", "ask")), list[dict[str, Any]]()
    await one.start("x", run_id="r", agent="agent")
    await place.is_parked()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    cancel = msgspec.json.encode(Command(kind="cancel"))
    await MemoryStore(place.memory).answer("r", place.record().last_seq, cancel)  # as it was given up
    assert (await (await one.attach("r")).wait()).status is RunStatus.CANCELLED
    await at_rest()
    gc.collect()
    assert not errors


async def test_a_run_is_left_however_long_the_store_is_away(
    place: Place, parked_at_once: None, monkeypatch: pytest.MonkeyPatch
):
    """A worker that gave up would own it, and nobody execute it."""
    one = await place.worker(Steps("one", "ask"))
    release, refused = MemoryStore.release, 0

    async def away(store: MemoryStore, run_id: str, wanted_at: int | None, what: str) -> bool:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise StoreUnavailable("away")
        return await release(store, run_id, wanted_at, what)

    hours = itertools.count(0, 3600)
    monkeypatch.setattr(MemoryStore, "release", away)
    monkeypatch.setattr(retrying, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    await one.start("x", session_id="s", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq > 0 and not place.record().owner, "it is nobody's")
    assert refused == 3


@pytest.mark.parametrize("parked", [False, True])
async def test_a_question_that_nobody_answers_in_time_ends_the_run(
    place: Place, parked: bool, monkeypatch: pytest.MonkeyPatch
):
    if parked:
        monkeypatch.setattr(execution, "PARK_AFTER_S", 0.0)
    one = await place.worker(Steps("one", "ask"))
    config = RunConfig(answer_timeout=0.3)
    run = await one.start("x", session_id="s", run_id="r", agent="agent", config=config)
    record = await run.wait()
    assert record.error is not None
    assert record.error["code"] == "answer_timeout"
    asked = [e for e in await events_of(one) if isinstance(e, RunFinishedEvent)]
    assert asked[0].outcome.interrupts[0].expires_at.endswith("Z")  # type: ignore[union-attr]
    assert (await one.messages("s"))[-1].content == "one "  # type: ignore[union-attr]


async def test_an_agent_that_leaves_its_question_off_loses_to_a_faster_answer(place: Place):
    class Impatient(Agent):
        name = "impatient"
        continues = "from_checkpoint"

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            try:
                async with asyncio.timeout(0.05):
                    await ctx.interrupt([Interrupt(id="q", reason="input_required")])
            except TimeoutError:
                yield "nobody"

    one = await place.worker(Impatient())
    run = await one.start("x", run_id="r", agent="agent")
    assert (await run.collect()).text == "nobody"
    with pytest.raises(InputInvalid):
        await run.answer(yes("q"))


async def test_a_question_that_was_left_off_is_not_asked_by_the_worker_after_the_next(place: Place):
    """What the next one saved while its agent stood there again said that it was behind it."""

    class Beside(Agent):
        name = "beside"
        continues = "from_checkpoint"
        stands: str | None = None

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            asking = asyncio.create_task(ctx.interrupt([Interrupt(id="q", reason="input_required")]))
            await asyncio.wait({asking}, timeout=0)
            if self.stands is None:
                await waits(place)
            elif self.stands == "left off":
                await ctx.save(b"beside it")
                self.stands = "saved"
                await asyncio.Event().wait()
            asking.cancel()
            await asyncio.wait({asking})
            yield f"{self.stands} "
            if self.stands is None:
                self.stands = "left off"
                await asyncio.Event().wait()

    agent = Beside()
    one, two = await place.worker(agent), await place.worker(agent)
    await one.start("x", run_id="r", agent="agent")
    await until(lambda: agent.stands == "left off", "it has left its question off")
    await place.lose(one, two)
    await until(lambda: agent.stands == "saved", "it has saved beside it")
    three = await place.worker(agent)
    await place.lose(two, three)
    assert (await (await three.attach("r")).collect()).text == "saved "
    finished = [event for event in await events_of(three) if isinstance(event, RunFinishedEvent)]
    assert [isinstance(event.outcome, RunFinishedInterruptOutcome) for event in finished] == [True, False]


async def test_what_is_saved_while_a_file_is_set_aside_lies_behind_the_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """And before what is said next: else a loss would lose the one, or say the other twice."""
    keep_blob, may_set = MemoryStore.keep_blob, asyncio.Event()

    async def slow(store: MemoryStore, *about: Any) -> None:
        await may_set.wait()
        await keep_blob(store, *about)

    class Beside(Agent):
        name = "beside"
        continues = "from_checkpoint"

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            saving = asyncio.create_task(self.save(ctx))
            yield CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": bytes(100_000)})
            yield "next"
            await saving

        async def save(self, ctx: RunContext) -> None:
            asyncio.get_running_loop().call_soon(may_set.set)
            await ctx.save(b"file")
            self.saved_at = place.memory.checkpoints["r"].seq

    monkeypatch.setattr(MemoryStore, "keep_blob", slow)
    agent = Beside()
    one = await place.worker(agent)
    await (await one.start("x", run_id="r", agent="agent")).wait()
    assert "gapless.file" in str(place.memory.events["r"][agent.saved_at - 1])


async def test_a_stream_that_ends_with_its_question_does_not_cancel_the_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker_module, "LEFT_S", 0.0)
    one = await place.worker(Steps("one", "ask"))
    run = await one.start("x", run_id="r", agent="agent", config=RunConfig(on_disconnect="cancel"))
    async with contextlib.aclosing(run.events()) as events:
        async for event in events:
            if isinstance(event, RunFinishedEvent):
                break
    await at_rest()
    assert place.record().status is RunStatus.WAITING
    await run.answer(yes("q1"))
    assert (await run.collect()).text == "one \n\nyes "


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_closes_hands_its_runs_over_at_their_next_save(place: Place):
    gate = asyncio.Event()
    first, second = Steps("one", gate, "three"), Steps("one", "two", "three")
    leaving, other = await place.worker(first), await place.worker(second)
    run = await leaving.start("x", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq >= 4, "the second step is under way")
    following = asyncio.create_task((await other.attach("r")).collect())
    closing = asyncio.create_task(leaving.close(grace_s=WAIT_S))
    await until(lambda: leaving.draining, "no more runs are taken")
    gate.set()
    await closing
    assert (await following).text == "one half whole three "
    assert (first.done, second.done) == (["0", "1"], ["2"])
    events = await events_of(other)
    assert not voids(events)
    assert len([e for e in events if type(e).__name__ == "TextMessageStartEvent"]) == 1
    assert run.id == "r"


async def test_a_run_left_after_the_grace_goes_on_from_its_last_save(place: Place):
    first, second = Steps("one", asyncio.Event()), Steps("one", "two")
    leaving, other = await place.worker(first), await place.worker(second)
    await leaving.start("x", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq >= 4, "the second step is under way")
    await leaving.close()
    assert (await (await other.attach("r")).collect()).text == "one two "
    assert len(voids(await events_of(other))) == 1


async def test_what_an_agent_saves_while_it_is_stopped_is_not_where_others_go_on(place: Place):
    class Tidies(Steps):
        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            try:
                async for item in super().run(ctx):
                    yield item
            finally:
                await ctx.save(str(len(self.steps)).encode())

    leaving, other = await place.worker(Tidies("one", "ask")), await place.worker(Tidies("one", "ask"))
    await leaving.start("x", run_id="r", agent="agent")
    await waits(place)
    await leaving.close()
    await other.answer("r", yes("q1"))
    assert (await (await other.attach("r")).collect()).text == "one \n\nyes "


async def test_a_run_whose_agent_was_not_called_yet_is_left_at_once(place: Place, monkeypatch: pytest.MonkeyPatch):
    """It has begun, and what its agent is told is being read."""
    reading = asyncio.Event()

    async def slowly(*about: Any) -> Any:
        reading.set()
        await asyncio.get_running_loop().create_future()

    first, second = Steps("one", "two"), Steps("one", "two")
    leaving, other = await place.worker(first), await place.worker(second)
    monkeypatch.setattr(leaving.store, "turns", slowly)
    await leaving.start("x", session_id="s", run_id="r", agent="agent")
    await reading.wait()
    async with asyncio.timeout(WAIT_S):
        await leaving.close(grace_s=100_000)
    assert (await (await other.attach("r")).collect()).text == "one two "
    assert (first.called, second.called) == (0, 1)
    events = await events_of(other)
    assert ([type(event) for event in events].count(RunStartedEvent), voids(events)) == (1, [])


async def let_in_as_it_leaves(leaving: Runner, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Start the run when the worker takes new ones, and have the store create it when the worker does not any more."""
    asked, goes_on = asyncio.Event(), asyncio.Event()
    create_run = leaving.store.create_run

    async def slowly(*given: Any, **more: Any) -> Any:
        asked.set()
        await goes_on.wait()
        return await create_run(*given, **more)

    monkeypatch.setattr(leaving.store, "create_run", slowly)
    starting = asyncio.create_task(leaving.start("x", run_id="r", agent="agent", **options))
    await asked.wait()
    draining = asyncio.create_task(leaving.drain(60))
    await until(lambda: leaving.draining, "no more runs are taken")
    goes_on.set()
    await starting
    await draining


async def test_a_run_that_begins_as_its_worker_leaves_is_left_before_anything_is_done(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    first, second = Steps("one"), Steps("one", "two")
    leaving, other = await place.worker(first), await place.worker(second)
    await let_in_as_it_leaves(leaving, monkeypatch)
    assert not leaving.worker.executions
    assert (await (await other.attach("r")).collect()).text == "one two "
    assert (first.called, second.done) == (0, ["0", "1"])
    assert not voids(await events_of(other))


async def test_a_run_that_begins_as_its_worker_leaves_and_cannot_be_left_has_the_time_of_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    leaving = await place.worker(Steps("one", "two"))
    await let_in_as_it_leaves(leaving, monkeypatch, config=RunConfig(on_worker_lost="fail"))
    assert place.record().status is RunStatus.FINISHED


async def test_runs_that_were_left_are_claimed_at_once_and_not_one_after_the_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    leaving = await place.worker(Steps("one", asyncio.Event()))
    runs = [(await leaving.start("x", agent="agent")).id for _ in range(3)]
    await until(lambda: all(place.record(run).last_seq >= 4 for run in runs), "the second steps are under way")
    other = await place.worker(Steps("one", "two"))
    claim, asked, all_asked = other.store.claim, list[str](), asyncio.Event()
    wanted, all_left = other.store.wanted, asyncio.Event()

    async def later(*given: Any) -> Any:
        await all_left.wait()
        return await wanted(*given)

    async def together(run_id: str) -> Any:
        asked.append(run_id)
        if len(asked) == len(runs):
            all_asked.set()
        await all_asked.wait()
        return await claim(run_id)

    monkeypatch.setattr(other.store, "claim", together)
    monkeypatch.setattr(other.store, "wanted", later)
    await leaving.drain(0)
    all_left.set()
    await until(all_asked.is_set, "the store is asked for all of them")
    for run in runs:
        assert (await (await other.attach(run)).collect()).text == "one two "


async def test_a_run_that_waits_is_left_as_it_is_by_a_worker_that_closes(place: Place):
    leaving = await place.worker(Steps("one", "ask", "end"))
    await leaving.start("x", run_id="r", agent="agent")
    await waits(place)
    place.runners.remove(leaving)
    await leaving.close()
    assert (place.record().status, place.record().owner) == (RunStatus.WAITING, "")
    other = await place.worker(Steps("one", "ask", "end"))
    await other.answer("r", yes("q1"))
    assert (await (await other.attach("r")).collect()).text == "one \n\nyes end "
    assert not voids(await events_of(other))


async def test_runs_left_with_nobody_there_go_on_at_the_next_worker(place: Place):
    leaving = await place.worker(Steps("one", asyncio.Event()))
    await leaving.start("x", session_id="s", run_id="r", agent="agent")
    await leaving.start("y", session_id="s", run_id="next", agent="agent", config=RunConfig(on_busy="queue"))
    await until(lambda: place.record().last_seq >= 4, "the second step is under way")
    place.runners.remove(leaving)
    await leaving.close()
    other = await place.worker(Steps("one", "two"))
    assert (await (await other.attach("r")).collect()).text == "one two "
    assert (await (await other.attach("next")).collect()).text == "one two "


async def test_why_a_run_is_left_is_kept(place: Place, parked_at_once: None):
    """Its worker was lost, the next does not have its agent, one is stopped, and one leaves it while it waits."""
    lost, shut = await place.worker(Steps("one", asyncio.Event())), asyncio.Event()
    await lost.start("x", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq >= 4, "the second step is under way")
    store = MemoryStore(place.memory, monotonic=lambda: place.now)
    stranger = Runner(agents={"other": Steps()}, store=store, lease_s=LEASE_S)
    async with stranger:
        await place.lose(lost, stranger)
        await until(lambda: not place.record().owner, "who does not have the agent gives it up")
        stopped = await place.worker(Steps("one", shut, "ask"))
        await until(lambda: place.record().owner == stopped.worker_id, "another has it")
        await until(lambda: "r" in stopped.executions, "and goes on")
        last = Steps("one", "two", "ask")
        await stopped.close(grace_s=0)
        await place.worker(last)
        await place.is_parked()
        moves = await stranger.store.moves("r")
    assert [move.what for move in moves.moves] == [TAKEN_OVER, PASSED_ON, HANDED_OVER, PARKED]


async def test_a_run_of_an_agent_that_nobody_has_is_closed_in_time(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(going_on, "ABANDONED_S", 0.0)
    leaving = await place.worker(Steps("one", asyncio.Event()))
    await leaving.start("x", run_id="r", agent="agent")
    await until(lambda: place.record().last_seq >= 4, "the second step is under way")
    await leaving.close()
    stranger = Runner(agents={"other": Steps()}, store=MemoryStore(place.memory, monotonic=lambda: place.now))
    async with stranger:
        events = await events_of(stranger)
    assert isinstance(events[-1], RunErrorEvent)
    assert events[-1].code == "worker_lost"


@pytest.mark.usefixtures("parked_at_once")
async def test_a_run_that_is_answered_where_its_agent_is_not_says_what_it_wants_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(going_on, "CLAIMED_S", 0.0)
    monkeypatch.setattr(going_on, "ABANDONED_S", WAIT_S)
    leaving = await place.worker(Steps("one", "ask"))
    await leaving.start("x", session_id="s", run_id="r", agent="agent")
    await place.is_parked()
    place.runners.remove(leaving)
    await leaving.close()

    def warned() -> int:
        return sum("run r: wants agent 'agent', which this server" in record.getMessage() for record in caplog.records)

    stranger = Runner(agents={"other": Steps()}, store=MemoryStore(place.memory, monotonic=lambda: place.now))
    async with stranger:
        await stranger.sweep()
        assert warned() == 0, "it waits for a person"
        await stranger.answer("r", yes("q1"))
        for _ in range(3):
            await stranger.sweep()
        assert warned() == 1
        with pytest.raises(SessionBusy, match="run, r, which wants agent 'agent'") as caught:
            await stranger.start("y", session_id="s")
        assert caught.value.run_id == "r"
        await stranger.cancel("r")
        assert (await (await stranger.attach("r")).wait()).status is RunStatus.CANCELLED


class AsksThree(Agent):
    continues = "from_checkpoint"
    name = "asks"

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        answers = await ctx.interrupt([Interrupt(id=id, reason="input_required") for id in "abc"])
        yield " ".join(f"{answer.interrupt_id}={answer.payload}" for answer in answers)


async def test_some_of_several_questions_may_be_answered_first_and_elsewhere(place: Place, parked_at_once: None):
    workers = [await place.worker(AsksThree()) for _ in range(3)]
    await workers[0].start("x", run_id="r", agent="agent")
    for worker, id in zip(workers, "bca", strict=True):
        await place.is_parked()
        with pytest.raises(InputInvalid, match="waits for answers to"):
            await worker.answer("r", yes("none of them"), some=True)
        await worker.answer("r", yes(id, id.upper()), some=True)
    assert (await (await workers[1].attach("r")).collect()).text == "b=B c=C a=A"


async def test_several_questions_of_a_parked_run_are_answered_at_the_same_time(place: Place, parked_at_once: None):
    workers = [await place.worker(AsksThree()) for _ in range(3)]
    await workers[0].start("x", run_id="r", agent="agent")
    await place.is_parked()
    answers = [worker.answer("r", yes(id, id.upper()), some=True) for worker, id in zip(workers, "bca", strict=True)]
    await asyncio.gather(*answers)
    assert sorted((await (await workers[1].attach("r")).collect()).text.split()) == ["a=A", "b=B", "c=C"]


class AsksForTwo(Agent):
    """Asks for a yes to two calls, `a` and `b`, as adapters do: it saves before it asks, and after."""

    continues = "from_checkpoint"
    name = "asks"

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        if ctx.checkpoint is None:
            yield "May I? "
        questions = {id: approval(id, id, "pay", {}) for id in "ab"}
        answers = await ask(ctx, questions, read_decision, lambda: ctx.save(b"asking"))
        yield " ".join(f"{id}={answers[id].approved}" for id in "ab")


async def move(place: Place, how: str) -> Runner:
    """Have the run that waits come to nobody in this way; returns the worker that is there next."""
    (before,) = place.runners
    await waits(place)
    if how == "parked":
        await place.is_parked()
        return before
    other = await place.worker(AsksForTwo())
    if how == "lost":
        await place.lose(before, other)
    else:
        place.runners.remove(before)
        await before.close(grace_s=120)
    await place.is_parked()
    return other


@pytest.mark.parametrize("how", ["parked", "lost", "closed"])
async def test_what_was_answered_clearly_is_kept_while_the_rest_is_asked_again(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
):
    if how == "parked":
        monkeypatch.setattr(execution, "PARK_AFTER_S", 0.0)
    worker = await place.worker(AsksForTwo())
    await worker.start("x", run_id="r", agent="agent")
    said = [("a", "yes"), ("b", {"approved": True}), ("a", "why not"), ("a", "yes"), ("a", {"approved": False})]
    for id, payload in said:
        worker = await move(place, how)
        await worker.answer("r", yes(id, payload), some=True)
    events = await events_of(worker)
    outcomes = [event.outcome for event in events if isinstance(event, RunFinishedEvent)]
    asked = [one.interrupts for one in outcomes if isinstance(one, RunFinishedInterruptOutcome)]
    assert [[one.id for one in each] for each in asked] == [["a", "b"], ["b"], ["a"], ["a"], ["a"]]
    assert [["not understood" in (one.message or "") for one in each] for each in asked[2:]] == [[True]] * 3
    assert (await (await worker.attach("r")).collect()).text == "May I? \n\na=False b=True"
    assert not voids(events), "nothing is said again"


async def test_a_run_that_comes_to_ask_again_as_its_worker_closes_is_left_with_its_question(place: Place):
    reads, goes_on = asyncio.Event(), asyncio.Event()

    class Slow(Agent):
        continues = "from_checkpoint"
        name = "slow"

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            for _ in range(2):
                (answer,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
                if not reads.is_set():
                    reads.set()
                    await goes_on.wait()
            yield str(answer.payload)

    first, second = await place.worker(Slow()), await place.worker(Slow())
    await first.start("x", run_id="r", agent="agent")
    await waits(place)
    await first.answer("r", yes("q", "one"))
    await reads.wait()
    place.runners.remove(first)
    executed = first.worker.executions["r"]
    closing = asyncio.create_task(first.close(grace_s=WAIT_S))
    await until(lambda: executed._standing is not None and executed._standing.leaving, "it is to be left")
    goes_on.set()
    async with asyncio.timeout(WAIT_S / 2):
        await closing
    await place.is_parked()
    await second.answer("r", yes("q", "two"))
    assert (await (await second.attach("r")).collect()).text == "two"


# -- runs that wait for their turn -----------------------------------------------------------------------------------


class Plain(Agent):
    """Keeps nothing: what it has begun no other worker can go on with. Says what it is told, once the gate is open."""

    name = "plain"

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.gate = gate
        self.told: list[str] = []

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        self.told.append(ctx.message)
        yield f"{ctx.message} of {[tool.name for tool in ctx.tools]} "
        if self.gate is not None:
            await self.gate.wait()
        yield "done"


async def queue_behind(runner: Runner, *run_ids: str, on_worker_lost: Any = "continue") -> None:
    """Begin a run that does not end, and let others wait for their turn behind it."""
    config = RunConfig(on_busy="queue", on_worker_lost=on_worker_lost)
    first = await runner.start("first", session_id="s", run_id="first", agent="agent")
    async for _ in first.text():
        break
    for id in run_ids:
        tools = [Tool(name=f"tool of {id}", description="")]
        await runner.start(id, session_id="s", run_id=id, agent="agent", config=config, tools=tools)


@pytest.mark.parametrize("on_worker_lost", ["continue", "fail"])
@pytest.mark.parametrize("how", ["lost", "closed"])
async def test_a_run_that_waits_for_its_turn_is_begun_at_another_worker(place: Place, how: str, on_worker_lost: Any):
    """Of an agent that cannot go on, too: nobody had begun it. Each is begun once, in its order, as it was asked."""
    gone, agent = Plain(asyncio.Event()), Plain()
    leaving = await place.worker(gone)
    await queue_behind(leaving, "one", "two", on_worker_lost=on_worker_lost)
    if how == "lost":
        other = await place.worker(agent)
        await place.lose(leaving, other)
    else:
        place.runners.remove(leaving)
        await leaving.close()
        other = await place.worker(agent)
    first = await (await other.attach("first")).wait()
    assert first.error is not None
    assert first.error["code"] == ("worker_lost" if how == "lost" else "shutting_down")
    for id in ("one", "two"):
        assert (await (await other.attach(id)).collect()).text == f"{id} of ['tool of {id}'] done"
    assert (gone.told, agent.told) == (["first"], ["one", "two"])
    said = [message.content for message in await other.messages("s") if isinstance(message, UserMessage)]
    assert said == ["first", "one", "two"]


async def test_one_that_was_begun_elsewhere_ends_with_its_next_worker(place: Place):
    await queue_behind(await place.worker(Plain(asyncio.Event())), "one")
    second = await place.worker(Plain(asyncio.Event()))
    await place.lose(place.runners[0], second)
    await until(lambda: place.record("one").last_seq >= 2, "it has begun")
    agent = Plain()
    third = await place.worker(agent)
    await place.lose(second, third)
    ended = await (await third.attach("one")).wait()
    assert ended.error is not None
    assert ended.error["code"] == "worker_lost"
    assert not agent.told


async def test_one_whose_turn_comes_while_its_worker_stops_is_begun_elsewhere(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """The store has set it running, and its agent was not called: only the worker that leaves it knows."""
    leaving, agent = await place.worker(Plain()), Plain()
    reading, stands = asyncio.Event(), asyncio.Event()

    async def history(*about: Any, **more: Any) -> Any:
        reading.set()
        await stands.wait()

    monkeypatch.setattr(leaving.worker.sessions, "history", history)
    await leaving.start("x", session_id="s", run_id="r", agent="agent", config=RunConfig(on_busy="queue"))
    await reading.wait()
    assert place.record().status is RunStatus.RUNNING
    place.runners.remove(leaving)
    await leaving.close()
    other = await place.worker(agent)
    assert (await (await other.attach("r")).collect()).text == "x of [] done"
    assert sum(isinstance(event, RunStartedEvent) for event in await events_of(other)) == 1


async def test_one_whose_agent_another_worker_does_not_have_waits_for_one_that_has_it(place: Place):
    await queue_behind(await place.worker(Plain(asyncio.Event())), "one")
    store = MemoryStore(place.memory, monotonic=lambda: place.now)
    async with Runner(agents={"other": Plain()}, store=store, lease_s=LEASE_S) as stranger:
        await place.lose(place.runners[0], stranger)
        await until(lambda: place.record("first").status.ended, "the one that had begun is closed")
        await until(lambda: not place.record("one").owner, "who does not have the agent gives it up")
        assert place.record("one").status is RunStatus.QUEUED
    other = await place.worker(Plain())
    assert (await (await other.attach("one")).collect()).text == "one of ['tool of one'] done"


async def test_one_that_waits_behind_runs_that_kill_their_workers_is_not_one_of_them(place: Place):
    await queue_behind(await place.worker(Plain(asyncio.Event())), "one")
    place.record("one").takeovers = going_on.TAKEOVERS_MAX
    other = await place.worker(Plain())
    await place.lose(place.runners[0], other)
    assert (await (await other.attach("one")).collect()).text == "one of ['tool of one'] done"


@pytest.mark.parametrize("how", ["lost", "closed"])
async def test_what_lives_in_one_process_is_said_to_be_why_no_other_begins_a_run(place: Place, how: str):
    leaving = await place.worker(Plain(asyncio.Event()))
    await queue_behind(leaving)
    config = RunConfig(on_busy="queue")
    await leaving.start("x", session_id="s", run_id="r", agent="agent", config=config, deps="connection")
    agent = Plain()
    other = await place.worker(agent)
    if how == "lost":
        await place.lose(leaving, other)
    else:
        place.runners.remove(leaving)
        await leaving.close()
    ended = await (await other.attach("r")).wait()
    assert ended.error is not None
    assert not agent.told
    if how == "closed":
        assert ended.error["code"] == "shutting_down"
    else:
        assert ended.error["code"] == "worker_lost"
        assert "before its turn had come" in ended.error["message"]
        assert "deps=" in ended.error["message"]
        assert "saved nothing" not in ended.error["message"]


async def test_a_message_that_waits_for_an_open_question_is_asked_at_another_worker(place: Place):
    """By default a message is refused while another is answered; behind a question it waits all the same."""
    asking = Steps("ask", asyncio.Event())
    leaving = await place.worker(asking)
    await leaving.start("x", session_id="s", run_id="first", agent="agent")
    await until(lambda: place.record("first").status is RunStatus.WAITING, "it asks")
    plain = Plain()
    leaving.agents["plain"] = plain
    await leaving.start("next", session_id="s", run_id="r", agent="plain")
    store = MemoryStore(place.memory, monotonic=lambda: place.now)
    agent = Plain()
    other = Runner(agents={"agent": Steps("ask", "end"), "plain": agent}, store=store, lease_s=LEASE_S)
    place.runners.append(other)
    await other.open()
    await place.lose(leaving, other)
    assert (await (await other.attach("r")).collect()).text == "next of [] done"
    assert (plain.told, agent.told) == ([], ["next"])
