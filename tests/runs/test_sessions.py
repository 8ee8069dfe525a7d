"""Sessions that remember, and whose runs take turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import Limits, RunConfig, Runner
from gapless.agents.base import RunContext, current_run
from gapless.errors import (
    InputInvalid,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
)
from gapless.events import (
    Message,
    StateSnapshotEvent,
    text_of,
)
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunStatus
from gapless.runs import sessions
from tests.support.agents import Gated
from tests.support.agui import check_order
from tests.support.runs import ask, echo, said, until
from tests.support.waiting import WAIT_S


async def test_a_session_remembers(store: str):
    seen: list[list[str]] = []

    async def remember(ctx: RunContext) -> str:
        seen.append(
            [f"{m.role if hasattr(m, 'role') else type(m).__name__}:{text_of(m.content)}" for m in ctx.messages]
        )  # type: ignore[union-attr,arg-type]
        ctx.native = f"native {ctx.message}".encode()
        natives.append(list(ctx.native_history))
        return f"answer to {ctx.message}"

    natives: list[list[bytes]] = []
    async with Runner(remember, store=store) as runner:
        for message in ("one", "two", "three"):
            await (await runner.start(message, session_id="s")).collect()
        assert [len(messages) for messages in seen] == [1, 3, 5]
        assert seen[2][-1].endswith("three")
        assert "answer to one" in seen[2][1]
        assert natives == [[], [b"native one"], [b"native one", b"native two"]]
        assert (await runner.get_session("s")).title == "one"
        assert [run.message for run in await runner.list_runs(session_id="s")] == ["three", "two", "one"]


@pytest.mark.parametrize("takes", ["message", "context", "neither"])
async def test_a_long_history_is_made_ready_for_those_who_read_it(takes: str, monkeypatch: pytest.MonkeyPatch):
    """Where nobody does, it is not decoded."""
    decoded: list[str] = []
    decode = sessions._decode_messages

    def counted(messages: bytes) -> list[Message]:
        decoded.append(threading.current_thread().name)
        return decode(messages)

    monkeypatch.setattr(sessions, "_decode_messages", counted)
    monkeypatch.setattr(sessions, "ASIDE_BYTES", 100)
    monkeypatch.setattr("gapless.aside.ASIDE_BYTES", 100)

    async def of_message(message: str) -> str:
        return "x" * 200

    async def of_context(ctx: RunContext) -> str:
        return "x" * 200 + str(len(ctx.messages))

    async def of_neither(message: str) -> str:
        ctx = current_run()
        assert ctx is not None
        return "x" * 200 + str(len(ctx.messages))

    agent = {"message": of_message, "context": of_context, "neither": of_neither}[takes]
    async with Runner(agent) as runner:
        await (await runner.start("one", session_id="s")).collect()
        decoded.clear()
        answer = (await (await runner.start("two", session_id="s")).collect()).text
    asked_here = threading.current_thread().name
    if takes == "message":
        assert decoded == []
        return
    assert answer == "x" * 200 + "3"
    assert [thread == asked_here for thread in decoded] == [takes == "neither"]


async def test_state_is_kept_with_the_session(store: str):
    async def count(ctx: RunContext) -> AsyncIterator[Any]:
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        yield str(ctx.state["n"])

    async def snapshot(ctx: RunContext) -> AsyncIterator[Any]:
        yield StateSnapshotEvent(snapshot={"n": 10})

    async with Runner(agents={"count": count, "snapshot": snapshot}, store=store) as runner:
        for expected, agent in (("1", "count"), ("2", "count"), ("", "snapshot"), ("11", "count")):
            run = await runner.start("x", agent=agent, session_id="s")
            assert (await run.collect()).text == expected


async def test_state_that_an_agent_has_changed_and_not_told_is_told_at_the_end(store: str):
    async def agent(message: str, ctx: RunContext) -> AsyncIterator[Any]:
        if message == "fails":
            ctx.state["failed"] = True
            raise ValueError
        if message == "tells":
            yield StateSnapshotEvent(snapshot={"told": 1})
        if message in ("changes", "much"):
            ctx.state["list"] = [*ctx.state.get("list", []), message if message == "changes" else "x" * 1000]

    async def told(runner: Runner, message: str) -> list[Any]:
        run = await runner.start(message, session_id="s", state={"list": ["old"]})
        events = [event async for event in run.events()]
        check_order(events)
        return [event.snapshot for event in events if isinstance(event, StateSnapshotEvent)]

    async with Runner(agent, store=store, limits=Limits(event_bytes_max=800)) as runner:
        assert await told(runner, "changes") == [{"list": ["old", "changes"]}]
        assert await told(runner, "fails") == [{"list": ["old"], "failed": True}]
        assert await told(runner, "reads") == []
        assert await told(runner, "tells") == [{"told": 1}]
        assert await told(runner, "much") == [], "it is no event's size, and kept all the same"
        assert (await runner.get_session("s")).state == {"list": ["old", "x" * 1000]}


async def test_another_users_session_does_not_exist(store: str):
    async with Runner(echo, store=store) as runner:
        await (await runner.start("x", session_id="s", user_id="a")).wait()
        with pytest.raises(SessionNotFound):
            await runner.start("x", session_id="s", user_id="b")
        with pytest.raises(SessionNotFound):
            await runner.create_session("s", user_id="b")
        assert [s.id for s in await runner.list_sessions(user_id="a")] == ["s"]
        assert await runner.list_sessions(user_id="b") == []


async def test_a_session_is_called_what_somebody_calls_it(store: str):
    agent = Gated()
    async with Runner(agent, store=store) as runner:
        await runner.create_session("later")
        run = await runner.start("first\nline", session_id="s")
        with pytest.raises(SessionNotFound):
            await runner.rename_session("nobody", "x")
        renamed = await runner.rename_session("s", "  Zoë’s \ud83d\ude80 \ud800 ")
        assert renamed.title == "Zoë’s 🚀 \ufffd"
        agent.let()
        await run.wait()
        assert (await runner.get_session("s")).title == renamed.title
        assert (await runner.rename_session("s", " ")).title == "first"
        assert (await runner.rename_session("later", "")).title == ""
        for bad, why in (
            ("x" * 201, "at most 200 characters, not 201"),
            ("a\nb", "one line"),
            (None, "a text, not None"),
        ):
            with pytest.raises(InputInvalid, match=why):
                await runner.rename_session("s", bad)  # type: ignore[arg-type]  # some are none
        assert (await runner.rename_session("s", "x" * 200)).title == "x" * 200


async def test_a_session_is_deleted_with_its_runs(store: str):
    agent = Gated()
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", session_id="s", run_id="r")
        for refused in (runner.delete_session("s"), runner.update_state("s", {"k": 1})):
            with pytest.raises(SessionBusy, match="session s has an active run, r") as caught:
                await refused
            assert caught.value.run_id == "r"
        agent.let()
        await run.wait()
        await runner.delete_session("s")
        for gone in (runner.get_session("s"), runner.delete_session("s")):
            with pytest.raises(SessionNotFound):
                await gone
        with pytest.raises(RunNotFound):
            await runner.get_run("r")


async def test_a_session_is_deleted_or_changed_once_its_cancelled_run_has_cleaned_up(
    store: str, monkeypatch: pytest.MonkeyPatch
):
    cleaned = asyncio.Event()

    async def cleans_up(message: str) -> AsyncIterator[str]:
        yield "begun"
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()

    async with Runner(cleans_up, store=store) as runner:
        wait = runner.readers.wait

        async def waited_for(run_id: str) -> None:
            cleaned.set()
            await wait(run_id)

        monkeypatch.setattr(runner.readers, "wait", waited_for)
        for change in (lambda: runner.update_state("s", {"k": 1}), lambda: runner.delete_session("s")):
            cleaned.clear()
            run = await runner.start("x", session_id="s")
            await until(run, 3)
            await run.cancel()
            await change()
        assert await runner.find_session("s") is None


async def test_a_clean_up_that_does_not_end_keeps_the_session(store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.worker.STOPPING_WAIT_S", 0.01)
    monkeypatch.setattr("gapless.runs.execution.CLEANUP_S_MAX", WAIT_S)
    cleaned = asyncio.Event()

    async def cleans_up(message: str) -> AsyncIterator[str]:
        yield "begun"
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()

    async with Runner(cleans_up, store=store) as runner:
        run = await runner.start("x", session_id="s", run_id="r")
        await until(run, 3)
        await run.cancel()
        with pytest.raises(SessionBusy, match="session s has an active run, r"):
            await runner.delete_session("s")
        cleaned.set()
        await run.wait()
        await runner.delete_session("s")


async def test_a_busy_session_rejects(store: str):
    agent = Gated()
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", session_id="s")
        with pytest.raises(SessionBusy, match=f"active run, {run.id}"):
            await runner.start("y", session_id="s")
        agent.let()
        await run.wait()


async def test_a_busy_session_queues_in_order(store: str):
    order: list[str] = []
    gate = asyncio.Event()

    async def noted(message: str) -> str:
        order.append(message)
        await gate.wait()
        return message

    async with Runner(noted, store=store, config=RunConfig(on_busy="queue")) as runner:
        runs = [await runner.start(str(n), session_id="s") for n in range(4)]
        await runs[2].cancel()  # out of the middle of the queue
        assert (await runs[2].wait()).status is RunStatus.CANCELLED
        gate.set()
        assert [(await run.collect()).text for run in runs] == ["0", "1", "", "3"]
        assert order == ["0", "1", "3"]
        assert await said(runner, "s") == ["0", "0", "1", "1", "3", "3"], "the one withdrawn was never asked"


async def test_a_busy_session_is_interrupted(store: str):
    slow = Gated("shown")
    slow.let()
    async with Runner(slow, store=store) as runner:
        first = await runner.start("x", session_id="s")
        await until(first, 3)
        second = await runner.start("y", agent=echo, session_id="s", config=RunConfig(on_busy="interrupt"))
        assert (await second.collect()).text == "you said y"
        assert (await first.record()).status is RunStatus.CANCELLED
        assert (await runner.messages("s"))[1].content == "shown"


async def test_turns_are_in_the_order_in_which_they_began(store: str):
    all_asked, interrupting = asyncio.Event(), RunConfig(on_busy="interrupt")

    class Leaving(Gated):
        async def run(self, ctx: RunContext) -> AsyncIterator[Any]:
            try:
                async for item in super().run(ctx):
                    yield item
            finally:
                await all_asked.wait()  # none of the others begins before

    first = Leaving("shown")
    async with Runner(first, store=store) as runner:
        runs = [await runner.start("0", session_id="s")]
        first.let()
        await first.waits_for(1)
        async with asyncio.TaskGroup() as group:
            for message, config in (("1", RunConfig(on_busy="queue")), ("2", interrupting), ("3", interrupting)):
                runs.append(await runner.start(message, agent=echo, session_id="s", config=config))
                group.create_task(runs[-1].wait())
            all_asked.set()
        statuses = [(await run.record()).status for run in runs]
        assert statuses == [RunStatus.CANCELLED] * 3 + [RunStatus.FINISHED]
        assert await said(runner, "s") == ["0", "shown", "3", "you said 3"]


async def test_a_queued_run_of_a_lost_worker_adds_nothing_to_its_session():
    memory, now, agent = Memory(), [0.0], Gated("shown")

    def worker(agent: Any) -> Runner:
        return Runner(agent, store=MemoryStore(memory, monotonic=lambda: now[0]), lease_s=1000)

    lost, other = worker(agent), worker(echo)
    runs = [await lost.start(message, session_id="s", config=RunConfig(on_busy="queue")) for message in ("0", "1")]
    agent.let()
    await until(runs[0], 3)
    await other.open()
    for _ in range(6):
        now[0] += 250
        await other.sweep()
    for run in runs:
        assert (await (await other.attach(run.id)).wait()).status is RunStatus.FAILED
    assert await said(other, "s") == ["0", "shown"]
    for runner in (lost, other):
        await runner.close()


async def test_a_session_whose_run_waits_for_a_person_says_so(store: str):
    async with Runner(ask, store=store, config=RunConfig(on_waiting="reject")) as runner:
        run = await runner.start("may I?", run_id="r", session_id="s")
        await until(run, 5)
        with pytest.raises(SessionBusy, match="r, which waits for a person's answer; answer or cancel it") as caught:
            await runner.start("and now?", session_id="s")
        assert caught.value.run_id == "r"
        await run.cancel()
