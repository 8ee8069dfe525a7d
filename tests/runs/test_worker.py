"""Workers that stop, and what becomes of the runs of those that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import (
    SessionBusy,
    ShuttingDown,
    UsageError,
)
from gapless.events import (
    CustomEvent,
    DataSource,
    ImagePart,
    MessagesSnapshotEvent,
    StateSnapshotEvent,
    TextPart,
    ToolCallArgsEvent,
    ToolCallStartEvent,
    text_of,
)
from gapless.journals.contract import Append
from gapless.journals.memory import Memory, MemoryStore
from gapless.runs.going_on import TAKEOVERS_MAX
from gapless.runs.worker import Worker
from tests.support import waiting
from tests.support.agents import Gated
from tests.support.runs import echo, events_of, until


async def test_closing_lets_runs_finish_in_their_time(store: str):
    agent = Gated("a")
    runner = await Runner(agent, store=store).open()
    run = await runner.start("x", run_id="r")
    closing = asyncio.ensure_future(runner.close(grace_s=60))
    await waiting.until(lambda: runner.draining, "no more runs are taken")
    with pytest.raises(ShuttingDown):
        await runner.start("another")
    agent.let(2)
    await closing
    assert run.id == "r"
    if store != "memory://":
        async with Runner(agent, store=store) as later:
            assert (await (await later.attach("r")).collect()).text == "a"


async def test_closing_ends_what_does_not_finish(tmp_path: Path):
    store = f"sqlite:///{tmp_path / 'gapless.db'}"
    agent = Gated("a")
    agent.let()
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", run_id="r")
        await until(run, 3)
    async with Runner(agent, store=store) as later:
        record = await later.get_run("r")
        assert record.error is not None
        assert record.error["code"] == "shutting_down"
        await events_of(later, "r")


async def test_the_run_of_a_lost_worker_is_closed_once_and_the_lost_one_can_write_no_more():
    memory, now = Memory(), [0.0]
    agent = Gated("shown", "never seen")

    def worker(agent: Any) -> Runner:
        return Runner(agent, store=MemoryStore(memory, monotonic=lambda: now[0]), lease_s=1000)

    lost, others = worker(agent), [worker(echo), worker(echo)]
    await lost.open()
    run = await lost.start("x", session_id="s", run_id="r")
    agent.let()
    await until(run, 3)
    for other in others:
        await other.open()
    for _ in range(6):  # a lease and a half, in which it does not renew
        assert not (await others[0].get_run("r")).status.ended or now[0] > 1000
        now[0] += 250
        await asyncio.gather(*(other.sweep() for other in others))
    record = await (await others[0].attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "worker_lost"
    events = await events_of(others[1], "r")
    agent.let(2)  # the lost one wakes up
    await agent.stopped.wait()
    assert await events_of(others[1], "r") == events
    answer = (await others[1].messages("s"))[-1]
    assert answer.content == "shown"
    assert answer.metadata is not None
    assert answer.metadata["error"]["code"] == "worker_lost"
    assert (await (await others[1].start("next", session_id="s")).collect()).text == "you said next"
    for runner in (lost, *others):
        await runner.close()


class Keeping(Gated):
    async def run(self, ctx: RunContext) -> AsyncIterator[Any]:
        ctx.state["kept"] = 1
        async for item in super().run(ctx):
            yield item


async def test_a_worker_that_has_just_started_is_seen_by_who_looks():
    memory = Memory()
    async with Runner(echo, store=MemoryStore(memory)) as first:
        assert await first.look_for_others(60) == 0
        async with Runner(echo, store=MemoryStore(memory)):
            assert await first.look_for_others(60) == 1
        assert await first.look_for_others(60) == 0
    assert await first.look_for_others(0) == 0, "nobody looks any more, and nobody waits"


async def test_a_restartable_run_is_begun_anew_and_says_that_what_came_before_is_void():
    memory, now = Memory(), [0.0]
    first = Gated("void", StateSnapshotEvent(snapshot={"void": 1}), "never seen")
    second = Keeping("a", "new answer")

    def worker(agent: Any) -> Runner:
        return Runner(agents={"agent": agent}, store=MemoryStore(memory, monotonic=lambda: now[0]), lease_s=1000)

    lost, other = worker(first), worker(second)
    await lost.open()
    picture = DataSource(value="A" * 1_200_000, mime_type="image/png")  # longer than one event of an agent's may be
    earlier = [TextPart(text="earlier"), ImagePart(source=picture)]
    await (await lost.start(earlier, agent=echo, session_id="s")).wait()
    config = RunConfig(on_worker_lost="restart")
    run = await lost.start("question", agent="agent", session_id="s", run_id="r", config=config)
    first.let(2)
    await until(run, 5)
    await other.open()
    for _ in range(6):
        now[0] += 250
        await other.sweep()
    second.let(3)
    response = await (await other.attach("r")).collect()
    assert response.text == "anew answer"
    events = await events_of(other, "r")
    (marker,) = (n for n, e in enumerate(events) if isinstance(e, CustomEvent) and e.name == "gapless.restarted")
    state, snapshot = events[marker + 1 : marker + 3]
    assert isinstance(state, StateSnapshotEvent)
    assert state.snapshot == {}
    assert isinstance(snapshot, MessagesSnapshotEvent)
    assert [text_of(m.content) for m in snapshot.messages] == ["earlier", "you said earlier", "question"]  # type: ignore[union-attr,arg-type]
    assert "void" not in [text_of(m.content) for m in await other.messages("s")]  # type: ignore[union-attr,arg-type]
    assert (await other.get_session("s")).state == {"kept": 1}
    first.let(2)
    await lost.close()
    await other.close()


async def test_a_run_that_takes_its_process_along_before_its_first_event_is_not_restarted_for_ever(
    caplog: pytest.LogCaptureFixture,
):
    memory, now, begun, gone = Memory(), [0.0], list[int](), asyncio.Event()

    class Dying(MemoryStore):
        async def append(self, batches: Sequence[Append]) -> Collection[str]:
            await gone.wait()  # the process is gone before the store has anything
            return await super().append(batches)

    def worker(number: int) -> Runner:
        async def agent(message: str) -> str:
            begun.append(number)
            await gone.wait()
            return "never"

        kind = MemoryStore if number > TAKEOVERS_MAX else Dying
        return Runner(agent, store=kind(memory, monotonic=lambda: now[0]), lease_s=1000)

    workers = [worker(number) for number in range(TAKEOVERS_MAX + 2)]
    await workers[0].start("x", run_id="r", config=RunConfig(on_worker_lost="restart"))
    for number, runner in enumerate(workers[1:]):
        await waiting.until(partial(lambda number: len(begun) > number, number), "it is begun")
        await runner.open()
        for _ in range(6):
            now[0] += 250
            await runner.sweep()
    record = await (await workers[-1].attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "worker_lost"
    assert begun == [*range(TAKEOVERS_MAX + 1)]
    gone.set()
    for runner in workers:
        await runner.close()


async def test_a_lost_workers_run_is_closed_also_where_not_all_of_its_events_can_be_read():
    memory, now = Memory(), [0.0]
    agent = Gated(
        ToolCallStartEvent(tool_call_id="c", tool_call_name="t"), ToolCallArgsEvent(tool_call_id="c", delta="{")
    )

    def worker(agent: Any) -> Runner:
        return Runner(agent, store=MemoryStore(memory, monotonic=lambda: now[0]), lease_s=1000)

    lost, other = worker(agent), worker(echo)
    await lost.open()
    run = await lost.start("x", run_id="r")
    agent.let(2)
    await until(run, 3)
    memory.events["r"][1] = b'{"type":"OF_ANOTHER_VERSION"}'
    await other.open()
    for _ in range(6):
        now[0] += 250
        await other.sweep()
    record = await (await other.attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "worker_lost"
    for runner in (lost, other):
        await runner.close()


async def test_a_restartable_run_takes_nothing_that_lives_in_this_process():
    async with Runner(echo) as runner:
        with pytest.raises(UsageError, match="deps="):
            await runner.start("x", deps=object(), config=RunConfig(on_worker_lost="restart"))


async def test_a_run_that_waited_for_its_session_while_the_lease_was_lost_is_executed(monkeypatch: pytest.MonkeyPatch):
    """It is created under the id that the worker has by then."""
    create, ids = MemoryStore.create_run, ["another", "id"]

    async def busy_once(store: MemoryStore, *asked: Any, **how: Any) -> Any:
        if len(ids) == 2:
            raise SessionBusy("s", run_id=ids.pop())
        return await create(store, *asked, **how)

    async def in_the_way(worker: Worker, error: SessionBusy, deadline: float) -> None:
        await worker.journals.register_again(ids[0])

    monkeypatch.setattr(MemoryStore, "create_run", busy_once)
    monkeypatch.setattr(Worker, "_in_the_way", in_the_way)
    async with Runner(echo, store=MemoryStore()) as runner:
        run = await runner.start("x")
        async with asyncio.timeout(waiting.WAIT_S):
            await run.wait()
