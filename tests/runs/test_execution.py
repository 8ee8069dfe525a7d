"""Agents that fail, say what nobody can write, or are left behind: their runs end once, and no other is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import gapless
from gapless import Limits, RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    GaplessError,
    RunLimit,
)
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    TokenUsage,
)
from gapless.journals.contract import Append
from gapless.journals.memory import MemoryStore
from gapless.records import ModelUsage, RunStatus
from gapless.runs import execution
from gapless.runs.commands import Command
from gapless.runs.deadlines import Deadlines
from gapless.runs.ending import own_end
from gapless.runs.recorder import Recorder
from gapless.runs.sessions import ENDS_AT_ONCE
from tests.support.agents import Gated
from tests.support.runs import echo, ends, events_of, until
from tests.support.stores import SlowToEnd
from tests.support.waiting import until as until_it


async def raises_before(message: str) -> AsyncIterator[str]:
    raise ValueError("secret: " + message)
    yield ""


async def raises_after(message: str) -> AsyncIterator[str]:
    yield "shown"
    raise ValueError("secret: " + message)


async def yields_a_number(message: str) -> AsyncIterator[Any]:
    yield "shown"
    yield 5


async def says_it_failed(message: str) -> AsyncIterator[Any]:
    yield "shown"
    yield RunErrorEvent(message="no more", code="quota")


@pytest.mark.parametrize(
    ("agent", "error", "code", "shown"),
    [
        (raises_before, AgentFailed, "agent_failed", ""),
        (raises_after, AgentFailed, "agent_failed", "shown"),
        (yields_a_number, AgentInvalid, "agent_invalid", "shown"),
        (says_it_failed, Exception, "quota", "shown"),
    ],
)
async def test_an_agent_that_fails(
    store: str, agent: Any, error: type[Exception], code: str, shown: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    async with Runner(agent, store=store) as runner:
        run = await runner.start("word", session_id="s", run_id="r")
        with pytest.raises(error) as caught:
            await run.collect()
        assert (caught.value.code, caught.value.text, caught.value.run_id) == (code, shown, "r")  # type: ignore[attr-defined]
        record = await run.record()
        assert record.status is RunStatus.FAILED
        assert record.error is not None
        assert record.error["code"] == code
        events = await events_of(runner, "r")
        assert "secret" not in str(events[-1]), "an exception's text is not for clients"
        user, answer = await runner.messages("s")
        assert isinstance(answer, AssistantMessage)
        assert (user.content, answer.content) == ("word", shown)
        assert answer.metadata is not None
        assert answer.metadata["interrupted"] is True
        assert answer.metadata["error"]["code"] == code
        run = await runner.start("again", agent=echo, session_id="s")  # and the session goes on
        assert (await run.collect()).text == "you said again"
    assert "word" not in caplog.text, "a message's text is not for logs"


async def test_an_agent_that_ignores_its_cancel_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.execution.CLEANUP_S_MAX", 0.01)
    release = asyncio.Event()

    async def stubborn(message: str) -> AsyncIterator[str]:
        yield "shown"
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        yield "too late"

    async with Runner(stubborn) as runner:
        run = await runner.start("x")
        await until(run, 3)
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        release.set()
        assert (await run.collect()).text == "shown"


async def test_a_journal_has_a_length():
    async def endless(message: str) -> AsyncIterator[str]:
        while True:
            yield "x"

    async with Runner(endless, limits=Limits(journal_events_max=1000)) as runner:
        with pytest.raises(RunLimit, match="journal_events_max=1000"):
            await (await runner.start("x")).collect()


def _exits(ctx: RunContext) -> Any:
    raise SystemExit(3)


def _interrupts(ctx: RunContext) -> Any:
    raise KeyboardInterrupt


async def _exits_async(ctx: RunContext) -> AsyncIterator[str]:
    yield "shown"
    raise SystemExit(3)


def _leaves(**what: Any) -> Any:
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        yield "shown"
        for name, value in what.items():
            setattr(ctx, name, value)

    return agent


def _yields(*items: Any) -> Any:
    async def agent(ctx: RunContext) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return agent


EVIL = {
    "exit": _exits,
    "keyboard": _interrupts,
    "exit async": _exits_async,
    "result object": _leaves(result=object()),
    "state object": _leaves(state={"x": object()}),
    "state list": _leaves(state=[1]),
    "native dict": _leaves(native={}),
    "usage": _leaves(usage=[object()]),
    "error code": _yields(RunErrorEvent(message="m", code=500)),  # type: ignore[arg-type]
    "error message": _yields(RunErrorEvent(message=None)),  # type: ignore[arg-type]
    "finish result": _yields(RunFinishedEvent(thread_id="t", run_id="r", result=object())),
    "finish usage": _yields(RunFinishedEvent(thread_id="t", run_id="r", usage=5)),  # type: ignore[arg-type]
    "own interrupt": _yields(
        RunFinishedEvent(thread_id="t", run_id="r", outcome=RunFinishedInterruptOutcome(interrupts=[]))
    ),
    "custom object": _yields("a", CustomEvent(name="n", value=object())),
}


@pytest.mark.parametrize("name", EVIL)
async def test_whatever_an_agent_leaves_behind_its_run_ends_and_no_other_is_harmed(store: str, name: str):
    async with Runner(agents={"evil": EVIL[name], "echo": echo}, store=store) as runner:
        other = Gated("a")
        running = await runner.start("x", agent=other)
        run = await runner.start("x", agent="evil", session_id="s", run_id="r")
        record = await run.wait()
        assert record.status is RunStatus.FAILED
        assert record.error is not None
        assert record.error["code"] in ("agent_failed", "agent_invalid")
        await events_of(runner, "r")
        assert await runner.messages("s")
        assert (await (await runner.start("next", agent="echo", session_id="s")).collect()).text == "you said next"
        other.let(2)
        assert (await running.collect()).text == "a"
        assert {r.id for r in await runner.list_runs()} >= {"r", running.id}


async def test_surrogates_in_results_and_states_are_replaced(store: str):
    agent = _leaves(result={"k": "\ud800"}, state={"x": "ok"})
    async with Runner(agent, store=store) as runner:
        assert (await (await runner.start("x")).collect()).result == {"k": "\ufffd"}


async def test_an_agent_that_ends_its_run_as_cancelled_is_believed(store: str):
    outcome = RunFinishedCancelledOutcome()
    async with Runner(
        _yields("a", RunFinishedEvent(thread_id="t", run_id="r", outcome=outcome)), store=store
    ) as runner:
        assert (await (await runner.start("x")).wait()).status is RunStatus.CANCELLED


async def test_an_agent_left_behind_that_never_waits_does_not_stop_the_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.execution.CLEANUP_S_MAX", 0.01)

    async def spins(message: str) -> AsyncIterator[str]:
        while True:
            try:
                while True:
                    yield "x"
            except asyncio.CancelledError:
                continue

    async with Runner(agents={"spins": spins, "echo": echo}) as runner:
        run = await runner.start("x", agent="spins", config=RunConfig(timeout=0.05))
        assert (await run.wait()).status is RunStatus.FAILED
        assert (await (await runner.start("x", agent="echo")).collect()).text == "you said x"


async def test_what_an_agent_left_behind_raises_is_not_for_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("gapless.runs.execution.CLEANUP_S_MAX", 0.01)
    release = asyncio.Event()

    async def late(message: str) -> AsyncIterator[str]:
        yield "a"
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("secret")

    caplog.set_level(logging.INFO)
    async with Runner(late) as runner:
        run = await runner.start("x")
        await until(run, 3)
        await run.cancel()
        await run.wait()
        (left,) = (task for task in asyncio.all_tasks() if task.get_name() == f"gapless-run-{run.id}")
        release.set()
        await asyncio.wait({left})
        del left
        gc.collect()
    assert "secret" not in caplog.text


async def test_what_an_agent_says_as_it_ends_goes_to_the_store_with_the_end(store: str):
    async def brief(message: str) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield "first "
        await asyncio.sleep(0)
        yield "last"

    async with Runner(brief, store=store) as runner:
        groups: list[tuple[int, bool]] = []
        append = runner.store.append

        async def counted(batches: Sequence[Append]) -> Collection[str]:
            groups.extend((len(batch.events), batch.end is not None) for batch in batches)
            return await append(batches)

        runner.store.append = counted  # type: ignore[method-assign]  # to look at what passes
        await (await runner.start("x")).wait()
    assert groups == [(3, False), (3, True)]  # RUN_STARTED with the first word, the last with RUN_FINISHED


async def test_one_enormous_text_goes_to_the_store_in_pieces(store: str):
    async def enormous(message: str) -> AsyncIterator[str]:
        yield "x" * 5_000_000

    async with Runner(enormous, store=store) as runner:
        sizes: list[int] = []
        append = runner.store.append

        async def measured(batches: Any) -> Any:
            sizes.extend(sum(map(len, batch.events)) for batch in batches)
            return await append(batches)

        runner.store.append = measured  # type: ignore[method-assign]  # to look at what passes
        run = await runner.start("x")
        assert (await run.collect()).text == "x" * 5_000_000
        assert max(sizes) < 2 * 1024 * 1024
        assert sum(map(len, await runner.store.read(run.id, 0, 10_000))) < 2 * 1024 * 1024


async def test_result_and_usage_go_with_the_end(store: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "gapless.run")

    async def counted(ctx: RunContext) -> AsyncIterator[str]:
        ctx.add_usage(TokenUsage(model="m", input_tokens=1, output_tokens=2))
        ctx.add_usage(TokenUsage(model="m", input_tokens=10))
        ctx.result = {"answer": 42}
        yield "text"

    async with Runner(counted, store=store) as runner:
        response = await (await runner.start("x")).collect()
        assert response.result == {"answer": 42}
        assert response.usage == [TokenUsage(model="m", input_tokens=11, output_tokens=2)]
        (run,) = await runner.list_runs()
        assert run.usage == [ModelUsage(model="m", requests=2, input_tokens=11, output_tokens=2)]
        while runner.executions:
            await asyncio.sleep(0)
        metrics = runner.metrics
    assert metrics.requests == {("counted", "m"): 2}
    assert metrics.tokens == {("counted", "m", "input"): 11, ("counted", "m", "output"): 2}
    assert "agent 'counted', user " in caplog.text
    assert "11 tokens in, 2 out" in caplog.text


async def test_an_error_of_the_executions_own_ends_the_run_and_stops_the_agent(monkeypatch: pytest.MonkeyPatch):
    def broken(self: Any, now: float) -> None:
        raise ZeroDivisionError

    agent = Gated("shown")
    async with Runner(agent) as runner:
        run = await runner.start("x", run_id="r", config=RunConfig(timeout=30))
        await until(run, 1)
        monkeypatch.setattr(Deadlines, "next_s", broken)
        runner.executions["r"]._deadlines.attend()
        with pytest.raises(AgentFailed, match="ZeroDivisionError"):
            await run.collect()
        assert agent.stopped.is_set()
        assert ends((await events_of(runner, "r"))[-1])


async def test_an_error_that_was_not_set_up_ends_its_run():
    class Own(GaplessError):
        def __init__(self) -> None:
            pass

    async def agent(message: str) -> AsyncIterator[str]:
        yield "well "
        raise Own

    async with Runner(agent) as runner:
        run = await runner.start("x")
        with pytest.raises(AgentFailed, match="Own"):
            await run.collect()
        assert (await run.record()).status is RunStatus.FAILED


async def test_an_error_of_the_recorders_own_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    def broken(self: Recorder) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Recorder, "close_open", broken)
    async with Runner(echo) as runner:
        run = await runner.start("x", session_id="s")
        with pytest.raises(AgentInvalid):
            await run.collect()
        assert (await run.record()).status is RunStatus.FAILED
        await runner.start("y", session_id="s")


async def test_of_many_agents_that_return_in_one_turn_of_the_loop_few_runs_go_on_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    said, waiting = asyncio.Event(), asyncio.Semaphore(0)
    turns, at = [0], list[int]()

    async def agent(message: str) -> AsyncIterator[str]:
        waiting.release()
        await said.wait()
        yield "done"

    def tick() -> None:
        turns[0] += 1
        asyncio.get_running_loop().call_soon(tick)

    def noted(*given: Any) -> GaplessError | None:
        at.append(turns[0])
        return own_end(*given)

    monkeypatch.setattr(execution, "own_end", noted)
    async with Runner(agent) as runner:
        runs = [await runner.start("x") for _ in range(3 * ENDS_AT_ONCE - 20)]
        for _ in runs:
            await waiting.acquire()
        said.set()
        tick()
        for run in runs:
            assert (await run.collect()).text == "done"
    assert len(at) == len(runs)
    assert max(at.count(turn) for turn in at) == ENDS_AT_ONCE


async def test_an_agents_last_words_and_its_end_are_one_group():
    groups: list[tuple[int, bool]] = []
    gate = asyncio.Event()

    class Store(MemoryStore):
        async def append(self, batches: Sequence[Append]) -> Collection[str]:
            groups.extend((len(batch.events), batch.end is not None) for batch in batches)
            return await super().append(batches)

    async def speaks(message: str) -> AsyncIterator[str]:
        yield "first "
        await gate.wait()
        yield "last"

    async with Runner(speaks, store=Store()) as runner:
        run = await runner.start("x")
        await until(run, 3)
        del groups[:]
        gate.set()
        await run.wait()
    assert groups == [(3, True)]  # the word, TEXT_MESSAGE_END, RUN_FINISHED


async def test_a_run_that_is_stopped_as_its_agent_returns_ends_once():
    gate = asyncio.Event()

    async def stubborn(message: str) -> AsyncIterator[str]:
        yield "word"
        with contextlib.suppress(asyncio.CancelledError):  # it returns, as if nothing had been
            await gate.wait()

    async with Runner(stubborn) as runner:
        run = await runner.start("x", run_id="r")
        await until(run, 3)
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        assert [ends(event) for event in await events_of(runner, "r")] == [False] * 4 + [True]


async def test_a_run_that_is_left_as_its_agent_returns_and_a_command_is_taken_is_left():
    gate = asyncio.Event()

    async def speaks(message: str) -> AsyncIterator[str]:
        yield "word"
        await gate.wait()

    async with Runner(speaks) as runner:
        run = await runner.start("x", run_id="r", config=RunConfig(on_worker_lost="restart"))
        await until(run, 3)
        executing = runner.executions["r"]
        gate.set()  # in one turn: the agent is about to return, before the writer has its turn
        executing.act(Command(kind="followers", worker_id="w", number=1), 1)
        executing.part()
        await until_it(lambda: "r" not in runner.executions or runner.executions["r"] is not executing, "it is left")
        assert (await run.wait()).status is RunStatus.FINISHED  # by whoever has begun it anew


async def test_a_run_whose_end_is_on_its_way_as_its_worker_stops_is_not_left_and_counts():
    store = SlowToEnd()
    async with Runner(raises_before, store=store) as runner:
        run = await runner.start("x", run_id="r", config=RunConfig(on_worker_lost="restart"))
        await store.ending.wait()
        draining = asyncio.create_task(runner.drain(0))
        await until_it(lambda: runner.executions["r"]._stopped is not None, "its time is over")
        assert not runner.executions["r"].parted
        store.let.set()
        await draining
        assert (await run.record()).status is RunStatus.FAILED
        assert runner.metrics.runs == {("raises_before", "agent_failed"): 1}


async def test_a_run_that_speaks_at_once_begins_in_one_step(monkeypatch: pytest.MonkeyPatch):
    """RUN_STARTED goes with the first word, which waits for no step of its own; and where no word comes, by itself."""
    groups: list[int] = []
    gate = asyncio.Event()

    class Store(MemoryStore):
        async def append(self, batches: Sequence[Append]) -> Collection[str]:
            groups.extend(len(batch.events) for batch in batches)
            return await super().append(batches)

    async def speaks(message: str) -> AsyncIterator[str]:
        if message == "later":
            await gate.wait()
        for _ in range(20):  # the writer has its turn meanwhile
            await asyncio.sleep(0)
        yield "word "
        await gate.wait()

    monkeypatch.setattr("gapless.journals.journal.HELD_S", 3600.0)
    async with Runner(speaks, store=Store()) as runner:
        run = await runner.start("now")
        await until(run, 3)
        assert groups == [3]  # RUN_STARTED, TEXT_MESSAGE_START, the word
        monkeypatch.undo()
        late = await runner.start("later")
        await until(late, 1)
        assert groups == [3, 1]
        gate.set()


class Model(BaseModel):
    words: str = "what people wrote"


async def leaves_a_result(message: str, ctx: RunContext) -> AsyncIterator[str]:
    yield "said"
    ctx.result = Model()


async def yields_a_result(message: str, ctx: RunContext) -> AsyncIterator[Any]:
    yield "said"
    yield RunFinishedEvent(thread_id="", run_id="", result=Model())


async def leaves_a_state(message: str, ctx: RunContext) -> AsyncIterator[str]:
    yield "said"
    ctx.state["found"] = Model()


@gapless.replays
async def keeps_a_state(message: str, ctx: RunContext) -> AsyncIterator[str]:
    yield "said"
    ctx.state["found"] = Model()
    await ctx.step("look", str)


@pytest.mark.parametrize(
    ("agent", "what"),
    [
        (leaves_a_result, "result"),
        (yields_a_result, "result"),
        (leaves_a_state, "state"),
        (keeps_a_state, "state"),
    ],
)
async def test_what_an_agent_leaves_that_is_no_json_is_named_with_its_type(agent: Any, what: str, tmp_path: Path):
    async with Runner(agent, store=tmp_path / "gapless.db") as runner:
        run = await runner.start("x")
        with pytest.raises(AgentInvalid) as caught:
            await run.collect()
    said = str(caught.value)
    assert said.startswith(f"run {run.id}: the agent's {what} cannot be written as JSON: ")
    assert "type Model" in said
    assert "model_dump" in said
    assert "people" not in said
    assert caught.value.text == "said"
