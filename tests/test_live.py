"""Live runs: spoken to while they speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gapless import LiveRequest, LiveRequestQueue, RunConfig, RunContext, Runner, StreamingMode
from gapless.errors import AgentInvalid, InputInvalid, InputTooLarge, LimitReached, RunNotFound, UsageError
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    text_of,
)
from gapless.journals.journal import Journal
from gapless.journals.memory import MemoryStore
from gapless.live import AUDIO, LIVE_AHEAD_BYTES_MAX, LIVE_AHEAD_MAX, Blob
from gapless.records import RunRecord, RunStatus
from gapless.runs.live_input import RELAYED_TIMES
from tests.support.agui import check_order
from tests.support.stores import SlowToEnd
from tests.support.waiting import WAIT_S, until

LIVE = RunConfig(streaming_mode=StreamingMode.BIDI)


async def parrot(ctx: RunContext) -> AsyncIterator[str | Event]:
    """Repeats each message; counts the bytes of sound; says which marks it got."""
    heard = 0
    async for request in ctx.live:
        if request.content is not None:
            yield f"You said {text_of(request.content)}. "
        elif request.blob is not None:
            heard += len(request.blob.data)
        else:
            yield CustomEvent(name="mark", value={"start": request.activity_start, "heard": heard})
    yield "Bye."


def said_by_user(events: list[Event]) -> list[str]:
    users = {e.message_id for e in events if isinstance(e, TextMessageStartEvent) and e.role == "user"}
    return [e.delta for e in events if isinstance(e, TextMessageContentEvent) and e.message_id in users]


def said_by_agent(events: list[Event]) -> str:
    own = {e.message_id for e in events if isinstance(e, TextMessageStartEvent) and e.role == "assistant"}
    return "".join(e.delta for e in events if isinstance(e, TextMessageContentEvent) and e.message_id in own)


async def conversation(runner: Runner, session_id: str) -> list[tuple[str, str]]:
    """Who said what."""
    return [(m["role"], m["content"]) for m in msgspec.to_builtins(await runner.messages(session_id))]


# -- the queue --------------------------------------------------------------------------------------------------------


async def test_a_queue_gives_what_was_said_in_order_and_ends_with_close():
    queue = LiveRequestQueue()
    queue.send_content("Hello")
    queue.send_content([{"type": "text", "text": "Look"}])
    queue.send_realtime(b"\1\2")
    queue.send_realtime(Blob(data=b"\3", mime_type="image/png"))
    queue.send_activity_start()
    queue.send_activity_end()
    queue.close()
    queue.close()
    got = [request async for request in queue]
    assert [text_of(request.content) for request in got[:2]] == ["Hello", "Look"]
    assert [request.blob for request in got[2:4]] == [Blob(b"\1\2", AUDIO), Blob(b"\3", "image/png")]
    assert [(request.activity_start, request.activity_end) for request in got[4:]] == [(True, False), (False, True)]
    assert [request async for request in queue] == []


async def test_a_queue_takes_nothing_after_its_close_and_no_more_than_its_bound():
    queue = LiveRequestQueue()
    for _ in range(LIVE_AHEAD_MAX):
        queue.send_activity_start()
    with pytest.raises(LimitReached):
        queue.send_content("too much")
    queue.close()  # fits always
    with pytest.raises(InputInvalid, match="closed"):
        queue.send_content("late")
    assert queue.pending
    assert len([request async for request in queue]) == LIVE_AHEAD_MAX
    assert (await queue.get()).close, "again and again"


async def test_all_who_wait_hear_that_a_queue_is_closed():
    queue = LiveRequestQueue()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert all(request.close for request in await asyncio.gather(*waiting))


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"content": ""}',
        '{"content": []}',
        '{"content": "a", "close": true}',
        '{"contents": "a"}',
        '{"blob": {"data": "?"}}',
    ],
)
def test_a_request_says_one_thing(body: str):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=LiveRequest)


async def test_an_empty_message_is_none():
    with pytest.raises(InputInvalid):
        LiveRequestQueue().send_content("")


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_run_live_speaks_both_ways():
    async with Runner(parrot) as runner:
        queue, events, marked = LiveRequestQueue(), list[Event](), False
        queue.send_content("one")
        async for event in runner.run_live(queue, session_id="s", run_id="r"):
            events.append(event)
            if said_by_agent(events) == "You said one. " and not marked:
                marked = True
                queue.send_activity_start()
                queue.send_realtime(b"12345")
                queue.send_activity_end()
            if isinstance(event, CustomEvent) and event.value["heard"] == 5:
                queue.send_content("two")
                queue.close()
        said = await conversation(runner, "s")
    assert said_by_agent(events) == "You said one. You said two. Bye."
    assert said_by_user(events) == ["one", "two"]
    marks = [event.value for event in events if isinstance(event, CustomEvent)]
    assert marks == [{"start": True, "heard": 0}, {"start": False, "heard": 5}]
    check_order(events)
    assert isinstance(events[-1], RunFinishedEvent)
    assert said == [
        ("user", "one"),
        ("assistant", "You said one. "),
        ("user", "two"),
        ("assistant", "You said two. Bye."),
    ]


async def test_a_live_run_is_followed_from_any_position_by_anybody():
    async with Runner(parrot) as runner:
        run = await runner.start("", config=LIVE)
        await run.send("one")
        follower = (await runner.attach(run.id)).events()
        seen = [await anext(follower) for _ in range(6)]
        await run.send(LiveRequest(content="two"))
        await run.send(LiveRequest(close=True))
        seen += [event async for event in follower]
        assert [event async for event in run.events(after=4)] == seen[4:]
        assert (await run.wait()).status is RunStatus.FINISHED
    assert said_by_user(seen) == ["one", "two"]


async def test_the_message_that_a_live_run_begins_with_is_its_first():
    async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
        yield f"To {message}: "
        async for request in ctx.live:
            yield text_of(request.content)

    async with Runner(agent) as runner:
        run = await runner.start("Hi", session_id="s", config=LIVE)
        await run.send("there")
        await run.send(LiveRequest(close=True))
        assert (await run.collect()).text == "To Hi: \n\nthere"
        said = await conversation(runner, "s")
    assert said == [("user", "Hi"), ("assistant", "To Hi: "), ("user", "there"), ("assistant", "there")]


async def test_a_queue_is_bounded_in_bytes():
    queue = LiveRequestQueue()
    for _ in range(2):
        queue.send_realtime(bytes(LIVE_AHEAD_BYTES_MAX // 2))
    with pytest.raises(LimitReached):
        queue.send_realtime(b"1")
    await queue.get()
    queue.send_realtime(b"1")


async def test_a_worker_that_leaves_lets_its_live_runs_finish():
    async with Runner(parrot) as runner:
        run = await runner.start("", config=LIVE)
        await run.send("one")
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                break
        await runner.drain()
        assert (await run.collect()).text == "You said one. Bye."
        notices = [event.value["code"] async for event in run.events() if isinstance(event, CustomEvent)]
    assert notices == ["shutting_down"]


async def test_a_live_run_that_begins_while_its_worker_stops_hears_nothing_more():
    creating, let = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def create_run(self, run: RunRecord, **more: Any) -> tuple[RunRecord, bool]:
            creating.set()
            await let.wait()
            return await super().create_run(run, **more)

    async with Runner(parrot, store=Slow()) as runner:
        starting = asyncio.create_task(runner.start("", config=LIVE))
        await creating.wait()
        draining = asyncio.create_task(runner.drain(grace_s=100_000))
        await until(lambda: runner.draining, "no more runs are taken")
        let.set()
        run = await starting
        async with asyncio.timeout(WAIT_S):
            await draining
        assert (await run.collect()).text == "Bye."
        notices = [event.value["code"] async for event in run.events() if isinstance(event, CustomEvent)]
    assert notices == ["shutting_down"]


async def test_what_comes_twice_under_one_id_counts_once():
    async with Runner(parrot) as runner:
        run = await runner.start("", config=LIVE)
        for _ in range(2):
            await run.send(LiveRequest(content="once", id="m1"))
        await run.send(LiveRequest(content="again", id="m2"))
        await run.send(LiveRequest(close=True))
        events = [event async for event in run.events()]
    assert said_by_user(events) == ["once", "again"]
    starts = [event.message_id for event in events if isinstance(event, TextMessageStartEvent) and event.role == "user"]
    assert starts == [f"{run.id}-said-m1", f"{run.id}-said-m2"]


async def test_a_message_without_an_id_is_no_other():
    async with Runner(parrot) as runner:
        run = await runner.start("", session_id="s", config=LIVE)
        await run.send("one")
        for number in range(2, 6):  # whatever the place of the first one is
            await run.send(LiveRequest(content="more", id=str(number)))
        await run.send(LiveRequest(close=True))
        await run.wait()
        said = await conversation(runner, "s")
    assert said[:2] == [("user", "one"), ("assistant", "You said one. ")]


async def test_what_was_said_and_nobody_heard_is_kept():
    async def leaves(ctx: RunContext) -> AsyncIterator[str]:
        async for request in ctx.live:
            yield f"You said {text_of(request.content)}. "
            return

    async with Runner(leaves) as runner:
        run = await runner.start("", session_id="s", config=LIVE)
        await run.send("one")
        await run.send("two")
        await run.wait()
        with pytest.raises(InputInvalid, match="ended"):
            await run.send("three")
        await run.send(LiveRequest(close=True))  # it is
        said = await conversation(runner, "s")
        events = [event async for event in run.events()]
    assert said == [("user", "one"), ("assistant", "You said one. "), ("user", "two")]
    check_order(events)


async def test_an_agent_that_only_listens_is_held_back_by_the_store(monkeypatch: pytest.MonkeyPatch):
    drained = 0

    async def drain(journal: Journal) -> None:
        nonlocal drained
        drained += 1

    async def listens(ctx: RunContext) -> AsyncIterator[str]:
        async for _ in ctx.live:
            pass
        yield "I heard."

    monkeypatch.setattr(Journal, "drain", drain)
    async with Runner(listens) as runner:
        run = await runner.start("", config=LIVE)
        runner.executions[run.id].journal.full = True
        for _ in range(5):
            await run.send("word")
        await run.send(LiveRequest(close=True))
        assert (await run.collect()).text == "I heard."
    assert drained >= 5


async def test_who_waits_no_longer_for_what_is_said_has_lost_none_of_it(monkeypatch: pytest.MonkeyPatch):
    """A store that is behind holds up who takes what was said, and that one may have no more time."""
    held, let = asyncio.Event(), asyncio.Event()

    async def drain(journal: Journal) -> None:
        held.set()
        await let.wait()

    async def impatient(ctx: RunContext) -> AsyncIterator[str]:
        looking = asyncio.create_task(ctx.live.get())
        await held.wait()
        looking.cancel()
        await asyncio.wait({looking})
        let.set()
        async for request in ctx.live:
            yield f"You said {text_of(request.content)}."

    monkeypatch.setattr(Journal, "drain", drain)
    monkeypatch.setattr("gapless.journals.journal.HELD_S", 3600.0)  # nothing is written, and makes room, before
    async with Runner(impatient) as runner:
        run = await runner.start("", config=LIVE)
        runner.executions[run.id].journal.full = True
        await run.send("one")
        await run.send(LiveRequest(close=True))
        assert (await run.collect()).text == "You said one."


async def test_what_is_said_as_the_agent_returns_is_kept_though_somebody_still_listens(monkeypatch: pytest.MonkeyPatch):
    """Where many runs end at once, an end waits for its turn. Who is left of the agent takes nothing meanwhile."""
    listening: list[asyncio.Task[LiveRequest]] = []

    async def leaves_a_listener(ctx: RunContext) -> AsyncIterator[str]:
        listening.append(asyncio.create_task(ctx.live.get()))
        yield "Bye."

    async def some_turns() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async with Runner(leaves_a_listener) as runner:
        run = await runner.start("", session_id="s", config=LIVE)
        executing = runner.executions[run.id]
        shut = executing._shut

        def said_before_that() -> None:
            runner.worker.push(run.id, LiveRequest(content="last words"))
            shut()

        monkeypatch.setattr(executing, "_shut", said_before_that)
        monkeypatch.setattr(runner._sessions.ends, "passes", lambda: False)
        monkeypatch.setattr(runner._sessions.ends, "turn", some_turns)
        await run.wait()
        assert await conversation(runner, "s") == [("assistant", "Bye."), ("user", "last words")]
        (request,) = await asyncio.gather(*listening)
        assert request.close


async def test_an_interruption_stands_where_it_was_heard():
    """An agent that is spoken to in mid-answer can know it, and the journal has who said what when."""
    going = asyncio.Event()

    async def talker(ctx: RunContext) -> AsyncIterator[str]:
        for n in range(1000):
            yield f"{n} "
            if n == 2:
                going.set()
            if n >= 2:
                while not ctx.live.pending:
                    await asyncio.sleep(0)
                break
        async for request in ctx.live:
            yield f"Yes, {text_of(request.content)}?"

    async with Runner(talker) as runner:
        run = await runner.start("", config=LIVE, session_id="s")
        await going.wait()
        await run.send("stop")
        await run.send(LiveRequest(close=True))
        await run.wait()
        said = [text_of(message.content) for message in await runner.messages("s")]
    assert said == ["0 1 2 ", "stop", "Yes, stop?"]


async def test_leaving_a_live_run_ends_it():
    async with Runner(parrot) as runner:
        queue = LiveRequestQueue()
        queue.send_content("one")
        events = runner.run_live(queue, run_id="r")
        async for event in events:
            if isinstance(event, TextMessageContentEvent):
                break
        await events.aclose()  # type: ignore[attr-defined]  # an async generator, said to be an iterator
        run = await runner.attach("r")
        assert (await run.wait()).status is RunStatus.FINISHED
        assert (await run.collect()).text == "You said one. Bye."


async def test_more_than_the_agent_can_take_is_held_back_and_not_lost():
    gate = asyncio.Event()

    async def slow(ctx: RunContext) -> AsyncIterator[str]:
        await gate.wait()
        async for _ in ctx.live:
            yield "."

    async with Runner(slow) as runner:
        queue, events = LiveRequestQueue(), list[Event]()

        async def listen() -> None:
            async for event in runner.run_live(queue, run_id="r"):
                events.append(event)

        listening = asyncio.create_task(listen())
        sent = 0
        while sent < 2 * LIVE_AHEAD_MAX:
            try:
                queue.send_activity_start()
                sent += 1
            except LimitReached:
                await asyncio.sleep(0)
                if queue.pending and sent >= LIVE_AHEAD_MAX:
                    gate.set()
        queue.close()
        await listening
    assert said_by_agent(events) == "." * sent


# -- what is refused --------------------------------------------------------------------------------------------------


async def one_word(message: str) -> AsyncIterator[str]:
    yield "word"


def plain(ctx: Any) -> str:
    return "word"


@pytest.mark.parametrize("agent", [one_word, plain])
async def test_an_agent_that_cannot_be_spoken_to_is_refused(agent: Any):
    async with Runner(agent) as runner:
        with pytest.raises(InputInvalid, match="sse or none"):
            await runner.start("Hi", config=LIVE)


async def test_what_cannot_be_said():
    async with Runner(agents={"parrot": parrot, "word": one_word}) as runner:
        run = await runner.start("Hi", agent="word")
        await run.wait()
        with pytest.raises(InputInvalid, match="has ended"):
            await run.send("more")
        with pytest.raises(RunNotFound):
            await runner.send("nobody", LiveRequest(content="Hi"))
        with pytest.raises(InputInvalid, match="restart"):
            config = msgspec.structs.replace(LIVE, on_worker_lost="restart")
            await runner.start("", agent="parrot", config=config)
        live = await runner.start("", agent="parrot", config=LIVE)
        with pytest.raises(InputInvalid, match="message id"):
            await live.send(LiveRequest(content="Hi", id="x" * 97))
        with pytest.raises(InputTooLarge):
            await live.send("x" * (runner.limits.message_chars_max + 1))
        await live.send(LiveRequest(close=True))
        with pytest.raises(InputInvalid):
            await live.send("more")


async def test_a_run_that_is_not_live_says_how_to_make_one():
    async def asks(ctx: RunContext) -> AsyncIterator[str]:
        async for _ in ctx.live:
            yield "never"

    async def waits(ctx: RunContext) -> AsyncIterator[str]:
        await ctx.interrupt([Interrupt(id="i", reason="confirm")])
        yield "never"

    gate = asyncio.Event()

    async def busy(message: str) -> AsyncIterator[str]:
        yield "word"
        await gate.wait()

    async with Runner(agents={"asks": asks, "waits": waits, "busy": busy}) as runner:
        with pytest.raises(UsageError, match="run_live"):
            await (await runner.start("Hi", agent="asks")).collect()
        with pytest.raises(AgentInvalid, match="live run"):
            await (await runner.start("Hi", agent="waits", config=LIVE)).collect()
        run = await runner.start("Hi", agent="busy")
        with pytest.raises(InputInvalid, match="not live"):
            await run.send("more")
        gate.set()


async def test_run_live_ends_with_what_it_could_not_say():
    async with Runner(parrot) as runner:
        queue = LiveRequestQueue()
        queue.send_content("one")
        queue.send_content("two", id="no id")
        events = list[Event]()
        with pytest.raises(InputInvalid, match="message id"):
            async for event in runner.run_live(queue, run_id="r"):
                events.append(event)
        assert said_by_agent(events) == "You said one. Bye."
        assert (await (await runner.attach("r")).record()).status is RunStatus.FINISHED


async def test_run_live_ends_well_where_something_is_said_while_the_end_is_on_its_way():
    store = SlowToEnd()

    async def brief(ctx: RunContext) -> AsyncIterator[str]:
        async for _ in ctx.live:
            yield "Bye."
            return

    async with Runner(brief, store=store) as runner:
        queue = LiveRequestQueue()
        queue.send_content("one")

        async def listen() -> list[Event]:
            return [event async for event in runner.run_live(queue, run_id="r")]

        listening = asyncio.create_task(listen())
        await store.ending.wait()
        queue.send_content("two")
        await until(lambda: not queue.pending, "it is passed on")
        store.let.set()
        assert said_by_agent(await listening) == "Bye."


async def test_run_live_takes_no_other_queue():
    foreign: Any = asyncio.Queue()
    async with Runner(parrot) as runner:
        with pytest.raises(UsageError, match=r"gapless\.LiveRequestQueue"):
            async for _ in runner.run_live(foreign):
                pass


# -- several workers --------------------------------------------------------------------------------------------------


async def test_a_live_run_is_spoken_to_from_another_worker(tmp_path: Path):
    store = f"sqlite:///{tmp_path}/live.db"
    async with Runner(parrot, store=store) as here, Runner(parrot, store=store) as there:
        run = await here.start("", config=LIVE, run_id="r")
        far = await there.attach(run.id)
        await far.send("one")
        await far.send(LiveRequest(content="two"))
        await far.send(LiveRequest(blob=Blob(data=bytes(range(256)))))
        await far.send(LiveRequest(activity_end=True))
        await far.send(LiveRequest(close=True))
        events = [event async for event in far.events()]
        with pytest.raises(InputInvalid, match="ended"):
            await far.send("three")
    assert said_by_agent(events) == "You said one. You said two. Bye."
    assert [event.value["heard"] for event in events if isinstance(event, CustomEvent)] == [256]
    assert isinstance(events[0], RunStartedEvent)


async def test_what_another_workers_run_has_no_room_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, gate = f"sqlite:///{tmp_path}/live.db", asyncio.Event()

    async def slow(ctx: RunContext) -> AsyncIterator[str]:
        await gate.wait()
        async for _ in ctx.live:
            yield "."

    async with Runner(slow, store=store) as here, Runner(slow, store=store) as there:
        run = await here.start("", config=LIVE, run_id="r")
        far = await there.attach(run.id)
        half = Blob(data=bytes(LIVE_AHEAD_BYTES_MAX * RELAYED_TIMES // 20))
        on_command, heard = here.journals._on_command, list[Any]()

        def counted(*about: Any) -> None:
            heard.append(about)
            on_command(*about)

        monkeypatch.setattr(here.journals, "_on_command", counted)
        for _ in range(22):
            await far.send(LiveRequest(blob=half))
        await until(lambda: len(heard) >= 22, "all has come to the run's worker")
        events = list[Event]()
        async for event in far.events():
            events.append(event)
            if isinstance(event, CustomEvent):
                gate.set()
                await far.send(LiveRequest(close=True))
    assert [event.value["code"] for event in events if isinstance(event, CustomEvent)] == ["input_lost"]
    assert said_by_agent(events) == "." * 20
