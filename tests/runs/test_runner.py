"""Runs: started once, ended once, whatever happens to them; sessions that remember; turns in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from gapless import Limits, RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    AgentNotFound,
    CursorExpired,
    GaplessError,
    InputInvalid,
    InputTooLarge,
    LimitReached,
    ModelFailed,
    RunConflict,
    RunFenced,
    RunLimit,
    RunNotFound,
    RunTimeout,
    SessionBusy,
    SessionNotFound,
    ShuttingDown,
    UsageError,
)
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    DataSource,
    Event,
    ImagePart,
    Interrupt,
    MessagesSnapshotEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextPart,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UrlSource,
    UserMessage,
    text_of,
)
from gapless.journals.contract import Append
from gapless.journals.journal import WINDOW_EVENTS
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from gapless.runs.deadlines import Deadlines
from gapless.runs.going_on import TAKEOVERS_MAX
from gapless.runs.recorder import Recorder
from support.agents import Gated
from support.agui import check_order


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'gapless.db'}"


async def echo(message: str) -> AsyncIterator[str]:
    for word in ("you", " said ", message):
        yield word


async def events_of(runner: Runner, run_id: str) -> list[Event]:
    events = [event async for event in (await runner.attach(run_id)).events()]
    check_order(events)
    assert sum(ends(event) for event in events) == 1
    return events


def ends(event: Event) -> bool:
    return isinstance(event, RunErrorEvent) or (
        isinstance(event, RunFinishedEvent) and not isinstance(event.outcome, RunFinishedInterruptOutcome)
    )


async def said(runner: Runner, session_id: str) -> list[str]:
    """The session's messages, as text."""
    messages = await runner.messages(session_id)
    return [text_of(message.content) for message in messages if isinstance(message, UserMessage | AssistantMessage)]


async def until(run: Any, position: int) -> None:
    """Until the run's journal has that many events."""
    async with contextlib.aclosing(run.entries()) as entries:
        async for seq, _ in entries:
            if seq >= position:
                return


class LoopClock:
    """The clock of the event loop's timers, moved on by the test: nothing is late because the machine is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._real, self._passed_s = self._loop.time, 0.0
        self._loop.time = lambda: self._real() + self._passed_s  # type: ignore[method-assign]  # of this test's loop

    async def pass_(self, seconds: float) -> None:
        """So much later every timer that is due has fired."""
        self._passed_s += seconds
        for _ in range(3):
            await asyncio.sleep(0)


# -- a run -------------------------------------------------------------------------------------------------------------


async def test_a_run_from_message_to_record(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("hello", session_id="s", run_id="r")
        response = await run.collect()
        assert (response.text, response.chunks) == ("you said hello", ["you", " said ", "hello"])
        record = await run.record()
        assert (record.status, record.last_seq, record.session_id) == (RunStatus.FINISHED, 7, "s")
        assert record.created_at <= (record.started_at or 0) <= (record.ended_at or 0)
        await events_of(runner, "r")


async def test_run_async_yields_typed_events_and_takes_both_spellings(store: str):
    class Session:
        id = "s"

    class Content:
        parts = (type("Part", (), {"text": "adk"})(),)

    async with Runner(app_name="app", agent=echo, store=store) as runner:
        plain = [event async for event in runner.run_async("draft", session=Session())]
        content = [
            event async for event in runner.run_async(new_message=Content(), session_id="s", user_id="anonymous")
        ]
        assert isinstance(plain[0], RunStartedEvent)
        assert plain[0].thread_id == content[0].thread_id == "s"  # type: ignore[union-attr]  # checked above
        assert "".join(e.delta for e in content if isinstance(e, TextMessageContentEvent)) == "you said adk"


def test_run_blocks_for_code_without_an_event_loop(store: str):
    runner = Runner(echo, store=store)
    for _ in range(2):
        events = list(runner.run("sync", session_id="s"))
        assert "".join(e.delta for e in events if isinstance(e, TextMessageContentEvent)) == "you said sync"


async def test_run_refuses_to_block_an_event_loop():
    runner = Runner(echo)
    with pytest.raises(UsageError, match="run_async"):
        next(iter(runner.run("x")))


async def test_text_comes_in_the_sizes_asked_for(store: str):
    async def letters(message: str) -> AsyncIterator[str]:
        for letter in "abcdefghij":
            yield letter

    async with Runner(letters, store=store) as runner:
        run = await runner.start("x")
        assert [text async for text in run.text(min_chars=4)] == ["abcd", "efgh", "ij"]


async def test_held_text_goes_out_after_the_delay():
    agent = Gated("a", "b")
    async with Runner(agent) as runner:
        run = await runner.start("x")
        texts = run.text(min_chars=100, max_delay_ms=1)
        agent.let()
        assert await anext(texts) == "a"  # though nothing follows it
        agent.let(2)
        assert [text async for text in texts] == ["b"]


async def test_leaving_a_run_stream_cancels_its_run():
    agent = Gated("a", "b")
    async with Runner(agent) as runner:
        agent.let()
        async with runner.run_stream("x") as stream:
            async for text in stream.stream_text():
                assert text == "a"
                break
        assert (await stream.run.record()).status is RunStatus.CANCELLED
        assert agent.stopped.is_set()


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_starting_twice_is_one_run(store: str):
    agent = Gated("a")
    async with Runner(agent, store=store) as runner:
        first = await runner.start("x", run_id="r")
        second = await runner.start("x", run_id="r")
        agent.let(2)
        assert (await first.collect()).text == (await second.collect()).text == "a"
        third = await runner.start("x", run_id="r")  # also when it has ended
        assert third.session_id == first.session_id
        assert agent.runs == 1


async def test_many_starts_at_once_are_one_run(store: str):
    calls = 0

    async def counted(message: str) -> str:
        nonlocal calls
        calls += 1
        return "once"

    async with Runner(counted, store=store) as runner:
        runs = await asyncio.gather(*(runner.start("x", run_id="r") for _ in range(10)))
        assert {(await run.collect()).text for run in runs} == {"once"}
        assert calls == 1


@pytest.mark.parametrize("other", [{"message": "y"}, {"session_id": "t"}, {"user_id": "eve"}, {"agent": "b"}])
async def test_another_request_under_the_same_id_is_a_conflict(store: str, other: dict[str, str]):
    async with Runner(agents={"a": echo, "b": echo}, store=store) as runner:
        request = {"message": "x", "session_id": "s", "agent": "a"}
        await (await runner.start(**request, run_id="r")).wait()
        with pytest.raises(RunConflict, match="run r exists") as caught:
            await runner.start(**{**request, **other}, run_id="r")
        assert caught.value.run_id == "r"


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "x" * 97, "é", "a/b", "\x00", ".", ".."])
async def test_ids_have_a_form(bad: str):
    async with Runner(echo) as runner:
        with pytest.raises(InputInvalid, match="run id"):
            await runner.start("x", run_id=bad)
        with pytest.raises(InputInvalid, match="session id"):
            await runner.start("x", session_id=bad)


@pytest.mark.parametrize("empty", ["", [], 5, None, [{"type": "nonsense"}]])
async def test_a_message_has_content(empty: object):
    async with Runner(echo) as runner:
        with pytest.raises(InputInvalid):
            await runner.start(empty)


async def test_parts_reach_the_agent(store: str):
    seen: list[RunContext] = []

    async def look(ctx: RunContext) -> str:
        seen.append(ctx)
        return "ok"

    async with Runner(look, store=store) as runner:
        image = {"type": "image", "source": {"type": "url", "value": "https://example.org/a.png"}}
        await (await runner.start([{"type": "text", "text": "look"}, image], session_id="s")).collect()
        assert seen[0].message == "look"
        assert seen[0].content[1] == ImagePart(source=UrlSource(value="https://example.org/a.png"))
        assert (await runner.messages("s"))[0].content == seen[0].content


async def test_surrogates_and_nul_in_a_message(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("a\x00\ud800b", session_id="s")
        assert (await run.collect()).text == "you said a\x00\ufffdb"
        assert text_of((await runner.messages("s"))[0].content) == "a\x00\ufffdb"


async def test_unknown_names_say_what_there_is():
    async with Runner(agents={"a": echo, "b": echo}) as runner:
        with pytest.raises(AgentNotFound, match="there are: a, b"):
            await runner.start("x", agent="c")
        with pytest.raises(RunNotFound, match="no run nope"):
            await runner.attach("nope")
        with pytest.raises(SessionNotFound, match="no session nope"):
            await runner.messages("nope")
    with pytest.raises(AgentNotFound, match="no agent is registered"):
        await Runner().start("x")


async def test_a_run_given_no_session_gets_the_same_one_on_every_worker():
    async def agent() -> str:
        return "hi"

    async with Runner(agent) as one, Runner(agent) as other:
        session_ids = {(await runner.start("x", run_id="r", user_id="u")).session_id for runner in (one, other)}
        assert len(session_ids) == 1
        assert (await one.start("x", run_id="r2", user_id="u")).session_id not in session_ids
        assert (await other.start("x", run_id="r2", user_id="v")).session_id not in session_ids


async def test_limits_of_admission():
    agent = Gated("a")
    limits = Limits(runs_active_max=2, runs_active_per_user_max=1, message_chars_max=10)
    async with Runner(agent, limits=limits) as runner:
        with pytest.raises(InputTooLarge, match="message_chars_max=10"):
            await runner.start("x" * 11)
        await runner.start("x", user_id="a")
        with pytest.raises(LimitReached, match="runs_active_per_user_max=1") as caught:
            await runner.start("x", user_id="a")
        assert caught.value.retry_after_s is not None
        await runner.start("x", user_id="b")
        with pytest.raises(LimitReached, match="runs_active_max=2"):
            await runner.start("x", user_id="c")


# -- failing -----------------------------------------------------------------------------------------------------------


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


async def test_cancel_at_every_position(store: str):
    items = [
        "a",
        ToolCallStartEvent(tool_call_id="t", tool_call_name="f"),
        ToolCallArgsEvent(tool_call_id="t", delta='{"x": 1}'),
        ToolCallResultEvent(message_id="m", tool_call_id="t", content="ok"),
        "b",
        CustomEvent(name="n", value=1),
        "c",
    ]
    async with Runner(echo, store=store) as runner:
        for position in range(len(items) + 1):
            agent = Gated(*items)
            run = await runner.start("x", agent=agent, session_id="s", run_id=f"r{position}")
            agent.let(position)
            await agent.waits_for(position)
            await run.cancel()
            await run.cancel()
            record = await run.wait()
            assert agent.stopped.is_set()
            assert record.status is RunStatus.CANCELLED
            last = (await events_of(runner, run.id))[-1]
            assert isinstance(last, RunFinishedEvent)
            assert isinstance(last.outcome, RunFinishedCancelledOutcome)
            response = await run.collect()
            assert response.text == "".join(item for item in items[:position] if isinstance(item, str))
            assert response.cancelled
            assert (await (await runner.start("next", session_id="s")).collect()).text == "you said next"


async def test_cancel_of_an_ended_run_changes_nothing(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("x")
        before = await run.wait()
        await run.cancel()
        assert await run.record() == before


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


@pytest.mark.parametrize(
    ("config", "items", "named"),
    [
        (RunConfig(timeout=30), ["a"], "timeout=30 s"),
        (RunConfig(first_event_timeout=30), [], "first_event_timeout=30 s"),
        (RunConfig(idle_timeout=30), ["a"], "idle_timeout=30 s"),
    ],
)
async def test_timeouts_are_named_and_keep_what_was_shown(store: str, config: RunConfig, items: list[str], named: str):
    agent, clock = Gated(*items), LoopClock()
    agent.let(len(items))
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", config=config)
        await agent.waits_for(len(items))
        await clock.pass_(25)
        assert not (await run.record()).status.ended
        await clock.pass_(35)  # idleness counts from when progress was looked for
        with pytest.raises(RunTimeout, match=named) as caught:
            await run.collect()
        assert caught.value.text == "".join(items)
        assert agent.stopped.is_set()


async def test_a_first_event_in_time_ends_the_first_event_timeout():
    agent, clock = Gated("a", "b"), LoopClock()
    async with Runner(agent) as runner:
        run = await runner.start("x", config=RunConfig(first_event_timeout=30))
        agent.let()
        await until(run, 3)
        await clock.pass_(60)
        agent.let(2)
        assert (await run.collect()).text == "ab"


def test_durations_are_positive():
    for name in ("timeout", "first_event_timeout", "idle_timeout", "max_llm_calls", "coalesce_ms"):
        with pytest.raises(ValueError, match=name):
            RunConfig(**{name: 0})
    with pytest.raises(ValueError, match="coalesce_ms must be at most 10000"):
        RunConfig(coalesce_ms=10_001)


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


# -- a worker's end ----------------------------------------------------------------------------------------------------


async def test_closing_lets_runs_finish_in_their_time(store: str):
    agent = Gated("a")
    runner = await Runner(agent, store=store).open()
    run = await runner.start("x", run_id="r")
    closing = asyncio.ensure_future(runner.close(grace_s=60))
    await asyncio.sleep(0)
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
        async with asyncio.timeout(10):
            while len(begun) <= number:
                await asyncio.sleep(0)
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


# -- sessions ----------------------------------------------------------------------------------------------------------


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


async def test_result_and_usage_go_with_the_end(store: str):
    async def counted(ctx: RunContext) -> AsyncIterator[str]:
        ctx.add_usage(TokenUsage(model="m", input_tokens=1, output_tokens=2))
        ctx.add_usage(TokenUsage(model="m", input_tokens=10))
        ctx.result = {"answer": 42}
        yield "text"

    async with Runner(counted, store=store) as runner:
        response = await (await runner.start("x")).collect()
        assert response.result == {"answer": 42}
        assert response.usage == [TokenUsage(model="m", input_tokens=11, output_tokens=2)]


async def test_another_users_session_does_not_exist(store: str):
    async with Runner(echo, store=store) as runner:
        await (await runner.start("x", session_id="s", user_id="a")).wait()
        with pytest.raises(SessionNotFound):
            await runner.start("x", session_id="s", user_id="b")
        with pytest.raises(SessionNotFound):
            await runner.create_session("s", user_id="b")
        assert [s.id for s in await runner.list_sessions(user_id="a")] == ["s"]
        assert await runner.list_sessions(user_id="b") == []


async def test_a_session_is_deleted_with_its_runs(store: str):
    agent = Gated()
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", session_id="s", run_id="r")
        with pytest.raises(SessionBusy):
            await runner.delete_session("s")
        agent.let()
        await run.wait()
        await runner.delete_session("s")
        for gone in (runner.get_session("s"), runner.delete_session("s")):
            with pytest.raises(SessionNotFound):
                await gone
        with pytest.raises(RunNotFound):
            await runner.get_run("r")


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
    first, interrupting = Gated("shown"), RunConfig(on_busy="interrupt")
    async with Runner(first, store=store) as runner:
        runs = [await runner.start("0", session_id="s")]
        first.let()
        await first.waits_for(1)
        async with asyncio.TaskGroup() as group:
            for message, config in (("1", RunConfig(on_busy="queue")), ("2", interrupting), ("3", interrupting)):
                runs.append(await runner.start(message, agent=echo, session_id="s", config=config))
                group.create_task(runs[-1].wait())
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


# -- people ------------------------------------------------------------------------------------------------------------


async def ask(ctx: RunContext) -> AsyncIterator[str]:
    yield "may I? "
    (entry,) = await ctx.interrupt([Interrupt(id="i", reason="approval", message="Delete it?")])
    yield f"{entry.status} {entry.payload}"


async def test_an_interrupt_waits_for_its_answer(store: str):
    clock = LoopClock()
    async with Runner(ask, store=store) as runner:
        run = await runner.start("x", run_id="r", config=RunConfig(timeout=30))
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
        assert (await run.record()).status is RunStatus.WAITING
        await clock.pass_(60)  # past the timeout: waiting for a person does not count
        with pytest.raises(InputInvalid, match="waits for no answer"):
            await (await runner.start("y", agent=echo)).answer([])
        with pytest.raises(InputInvalid, match="waits for answers to i"):
            await run.answer([ResumeEntry(interrupt_id="j", status="resolved")])
        await run.answer([ResumeEntry(interrupt_id="i", status="resolved", payload={"approved": True})])
        response = await run.collect()
        assert response.text == "may I? resolved {'approved': True}"
        assert (await run.record()).status is RunStatus.FINISHED
        events = await events_of(runner, "r")
        assert [type(e) for e in events].count(RunStartedEvent) == 2


async def test_an_answer_that_comes_too_late_is_told_why(tmp_path: Path):
    store = f"sqlite:///{tmp_path}/late.db"
    async with Runner(ask, store=store) as runner:
        run = await runner.start("x", run_id="r")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
    async with Runner(ask, store=store) as runner:
        with pytest.raises(InputInvalid, match="stopped before the run had finished; ask again"):
            await runner.answer("r", [ResumeEntry(interrupt_id="i", status="resolved", payload=True)])


async def ask_nothing(ctx: RunContext) -> AsyncIterator[str]:
    yield "well "
    await ctx.interrupt([])


async def ask_while_asking(ctx: RunContext) -> AsyncIterator[str]:
    yield "well "
    await asyncio.gather(*(ctx.interrupt([Interrupt(id=name, reason="approval")]) for name in "ij"))


@pytest.mark.parametrize(("agent", "why"), [(ask_nothing, "without a question"), (ask_while_asking, "already")])
async def test_an_interrupt_that_cannot_be_answered_fails_the_run(agent: Any, why: str):
    async with Runner(agent) as runner:
        run = await runner.start("x", config=RunConfig(timeout=30))
        with pytest.raises(AgentInvalid, match=why):
            await run.collect()


async def test_an_agent_that_waits_no_longer_for_its_answer_goes_on(store: str):
    async def impatient(ctx: RunContext) -> AsyncIterator[str]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await ctx.interrupt([Interrupt(id="i", reason="approval")])
        yield "nobody said no"

    async with Runner(impatient, store=store) as runner:
        run = await runner.start("x", run_id="r")
        assert (await run.collect()).text == "nobody said no"
        assert (await run.record()).status is RunStatus.FINISHED
        events = await events_of(runner, "r")
        assert [type(e) for e in events].count(RunStartedEvent) == 2


@pytest.mark.parametrize("turns", range(0, 16, 3))
async def test_what_an_agent_leaves_running_asks_nothing_once_its_run_has_ended(store: str, turns: int):
    left: list[asyncio.Task[Any]] = []

    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        async def later() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await ctx.interrupt([Interrupt(id="i", reason="late")])

        yield "done"
        left.append(asyncio.create_task(later()))

    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", run_id="r")
        await run.wait()
        (task,) = left
        with pytest.raises(RunFenced, match="run r has ended"):
            await task
        assert ends((await events_of(runner, "r"))[-1])
        assert (await run.record()).status is RunStatus.FINISHED


@pytest.mark.parametrize("turns", range(6))
async def test_an_answer_that_comes_as_the_run_ends_adds_nothing_after_its_end(store: str, turns: int):
    left: list[asyncio.Task[Any]] = []

    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        async def answer() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            execution.resolve([ResumeEntry(interrupt_id="i", status="resolved")])

        execution = runner.executions["r"]
        yield "done"
        left.append(asyncio.create_task(ctx.interrupt([Interrupt(id="i", reason="late")])))
        for _ in range(50):  # until nobody has anything else to do
            await asyncio.sleep(0)
        left.append(asyncio.create_task(answer()))

    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", run_id="r")
        await run.wait()
        await asyncio.gather(*left, return_exceptions=True)
        assert ends((await events_of(runner, "r"))[-1])
        assert (await run.record()).status is RunStatus.FINISHED


async def test_an_error_of_the_executions_own_ends_the_run_and_stops_the_agent(monkeypatch: pytest.MonkeyPatch):
    def broken(self: Any, now: float) -> None:
        raise ZeroDivisionError

    agent = Gated("shown")
    monkeypatch.setattr(Deadlines, "next_s", broken)
    async with Runner(agent) as runner:
        run = await runner.start("x", run_id="r", config=RunConfig(timeout=30))
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


async def test_a_session_whose_run_waits_for_a_person_says_so(store: str):
    async with Runner(ask, store=store) as runner:
        run = await runner.start("may I?", run_id="r", session_id="s")
        await until(run, 5)
        with pytest.raises(SessionBusy, match="r, which waits for a person's answer; answer or cancel it") as caught:
            await runner.start("and now?", session_id="s")
        assert caught.value.run_id == "r"
        await run.cancel()


async def test_agents_are_ready_before_a_server_takes_runs(caplog: pytest.LogCaptureFixture):
    class Heavy:
        name = "heavy"
        ready = False
        failure: Exception = ModelFailed("the file is damaged")

        async def load(self) -> None:
            if self.ready:
                raise self.failure
            self.ready = True

        async def run(self, ctx: RunContext) -> AsyncIterator[str]:
            yield f"ready: {self.ready}"

    agent = Heavy()
    runner = Runner(agent)
    await runner.load()
    async with runner:
        assert (await (await runner.start("x")).collect()).text == "ready: True"
    await runner.load()
    assert "agent heavy is not ready: the file is damaged" in caplog.text
    agent.failure = OSError("what was said")
    await runner.load()
    assert "OSError" in caplog.text
    assert "what was said" not in caplog.text


async def test_a_waiting_run_can_be_cancelled(store: str):
    async with Runner(ask, store=store) as runner:
        run = await runner.start("x", run_id="r")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        await events_of(runner, "r")


async def test_events_past_their_retention_are_gone_and_the_session_stays(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("x", session_id="s")
        record = await run.wait()
        assert record.ended_at is not None
        while run.id in runner.executions:  # its journal is at hand until then
            await asyncio.sleep(0)
        assert await runner.store.expire(record.ended_at + 1) == 1
        with pytest.raises(CursorExpired):
            await run.collect()
        assert len(await runner.messages("s")) == 2


async def test_ended_runs_keep_no_more_than_kept_bytes_max(store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.keeper.EXPIRE_EVERY_S", 0.0)
    monkeypatch.setattr("gapless.runs.keeper.WATCH_S", 0.01)  # how often it looks: the lease stays long
    async with Runner(echo, store=store, limits=Limits(kept_bytes_max=1), retention_s=None) as runner:
        run = await runner.start("x", session_id="s")
        async with asyncio.timeout(10):
            while not (await run.record()).expired:
                await asyncio.sleep(0.01)
        assert len(await runner.messages("s")) == 2


async def test_on_disconnect_cancel_ends_a_run_nobody_follows():
    agent = Gated("a", "b")
    async with Runner(agent) as runner:
        run = await runner.start("x", config=RunConfig(on_disconnect="cancel"))
        agent.let()
        await until(run, 3)  # follows, and leaves
        assert (await run.wait()).status is RunStatus.CANCELLED
        assert agent.stopped.is_set()


async def test_a_slow_follower_costs_a_cursor(store: str):
    """A follower that stops reading while 100,000 events pass catches up exactly, from the store."""
    count = 100_000
    agent_done = asyncio.Event()

    async def torrent(message: str) -> AsyncIterator[str]:
        for n in range(count):
            yield f"{n},"
        agent_done.set()

    async with Runner(torrent, store=store) as runner:
        run = await runner.start("x", config=RunConfig(timeout=None))
        follower = run.text()
        pieces = [await anext(follower)]
        await agent_done.wait()
        journal = runner.journals._journals[run.id]
        assert len(journal._window) <= 2 * WINDOW_EVENTS
        assert len(journal._waiters) <= 1
        pieces += [piece async for piece in follower]
        assert "".join(pieces) == "".join(f"{n}," for n in range(count))


async def test_a_cancel_that_comes_before_the_answer_to_the_creation_counts():
    created, answers = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def create_run(self, run: RunRecord, *, reject_busy: bool) -> tuple[RunRecord, bool]:
            answer = await super().create_run(run, reject_busy=reject_busy)
            created.set()
            await answers.wait()
            return answer

    memory, agent = Memory(), Gated("never said")
    async with Runner(agent, store=Slow(memory)) as owner, Runner(agent, store=MemoryStore(memory)) as other:
        starting = asyncio.create_task(owner.start("x", run_id="r"))
        await created.wait()
        await other.cancel("r")
        answers.set()
        assert (await (await starting).wait()).status is RunStatus.CANCELLED
