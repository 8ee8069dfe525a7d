"""Functions that are run again to go on: what was said is dropped, steps and answers are remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest

import gapless
from gapless import Interrupt, ResumeEntry, Runner
from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.errors import AgentFailed, AgentInvalid, OutcomeUnknown, UsageError
from gapless.events import (
    CustomEvent,
    Message,
    ReasoningMessageChunkEvent,
    TextMessageChunkEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
    UserMessage,
)
from gapless.journals.memory import Memory, MemoryStore
from tests.support.waiting import at_rest, until


class Worker:
    """A worker on a store that others use too."""

    def __init__(self, memory: Memory, agent: Any) -> None:
        self.memory = memory
        self.runner = Runner(agents={"agent": agent}, store=MemoryStore(memory))

    async def __aenter__(self) -> Runner:
        return await self.runner.open()

    async def __aexit__(self, *error: object) -> None:
        await self.runner.close()


def _args(delta: str) -> ToolCallArgsEvent:
    return ToolCallArgsEvent(tool_call_id="c", delta=delta)


def said(messages: list[Message]) -> list[Any]:
    plain = [msgspec.to_builtins(message) for message in messages if not isinstance(message, UserMessage)]
    return [{name: value for name, value in one.items() if name != "metadata"} for one in plain]


async def read(runner: Runner) -> str:
    return (await (await runner.attach("r")).collect()).text


async def test_steps_are_done_once_and_what_was_said_is_not_said_again():
    memory, calls, gate = Memory(), [], asyncio.Event()

    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        yield "begun "
        for number in (1, 2):
            doubled = await ctx.step("double", double, number)
            yield f"{doubled} "
        if not gate.is_set():
            gate.set()
            yield "void "
            await asyncio.Event().wait()
        yield f"{await ctx.step('last', double, 3)}"

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await until(lambda: len(memory.events["r"]) >= 6, "it is under way")
    async with Worker(memory, agent) as second:
        assert await read(second) == "begun 2 4 6"
    assert calls == [1, 2, 3]


async def test_a_function_with_two_questions_goes_on_from_worker_to_worker():
    memory, calls = Memory(), []

    async def look() -> dict[str, int]:
        calls.append("look")
        return {"found": 7}

    @gapless.replays
    async def agent(ctx: RunContext) -> str:
        found = await ctx.step("look", look)
        answers = []
        for id in ("one", "two"):
            (entry,) = await ctx.interrupt([Interrupt(id=id, reason="input_required")])
            answers.append(str(entry.payload))
        return f"{found['found']} {' '.join(answers)}"

    for id in ("one", "two"):
        async with Worker(memory, agent) as runner:
            if id == "one":
                await runner.start("x", run_id="r")
            else:
                await runner.answer("r", [ResumeEntry(interrupt_id="one", status="resolved", payload="first")])
            await until(partial(lambda id: f'"{id}"' in str(memory.events["r"][-1:]), id), "it asks")
            await until(lambda: memory.runs["r"].status == "waiting", "it waits")
    async with Worker(memory, agent) as runner:
        await runner.answer("r", [ResumeEntry(interrupt_id="two", status="resolved", payload="second")])
        assert await read(runner) == "7 first second"
    assert calls == ["look"]


async def test_a_step_that_may_not_be_repeated_is_not_begun_again():
    memory, began = Memory(), asyncio.Event()

    async def pay() -> None:
        began.set()
        await asyncio.Event().wait()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        yield "paying "
        await ctx.step("pay", pay, repeatable=False)

    async with Worker(memory, agent) as first:
        await first.start("x", session_id="s", run_id="r")
        await began.wait()
    async with Worker(memory, agent) as second:
        with pytest.raises(OutcomeUnknown, match="step pay") as raised:
            await read(second)
        assert raised.value.text == "paying "


class Declined(Exception):
    def __init__(self, cents: int) -> None:
        super().__init__(f"{cents} cents are too much")
        self.cents = cents


@pytest.mark.parametrize("lost", [False, True])
async def test_a_step_that_may_not_be_repeated_and_raised_raises_the_same_again(lost: bool):
    """The function knows what came of it, and went on from there: it did not need to look whether it took effect."""
    memory, calls, gone_on = Memory(), list[int](), asyncio.Event()

    async def pay(cents: int) -> None:
        calls.append(cents)
        raise Declined(cents)

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        try:
            await ctx.step("pay", pay, 300, repeatable=False)
        except Declined as error:
            yield f"{error} ({error.cents}). "
        if lost and not gone_on.is_set():
            gone_on.set()
            await asyncio.Event().wait()
        (entry,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
        yield str(entry.payload)

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await (gone_on.wait() if lost else until(lambda: memory.runs["r"].status == "waiting", "it waits"))
    async with Worker(memory, agent) as second:
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
        await second.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload="cash")])
        assert await read(second) == "300 cents are too much (300). \n\ncash"
    assert calls == [300]


async def test_a_step_that_may_not_be_repeated_and_returned_no_json_says_so_again():
    memory, calls = Memory(), list[str]()

    async def pay() -> object:
        calls.append("pay")
        return object()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        with pytest.raises(AgentInvalid, match="run r: what step pay returned is no JSON"):
            await ctx.step("pay", pay, repeatable=False)
        (entry,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
        yield str(entry.payload)

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
    async with Worker(memory, agent) as second:
        await second.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload="cash")])
        assert await read(second) == "cash"
    assert calls == ["pay"]


async def test_the_state_is_what_the_function_makes_of_what_it_found():
    memory, gate = Memory(), asyncio.Event()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        ctx.state["count"] = ctx.state.get("count", 0) + 1
        await ctx.step("one", lambda: 1)
        yield str(ctx.state["count"])
        if not gate.is_set():
            gate.set()
            await asyncio.Event().wait()

    async with Worker(memory, agent) as first:
        await first.start("x", session_id="s", run_id="r")
        await gate.wait()
    async with Worker(memory, agent) as second:
        assert await read(second) == "1"
        assert (await second.get_session("s")).state == {"count": 1}


async def test_steps_only_call_where_nothing_is_remembered():
    async def agent(ctx: RunContext) -> str:
        return f"{await ctx.step('a', lambda: 1)} {gapless.current_run() is ctx} {gapless.call_key('c')}"

    async with Runner(agent) as runner:
        run = await runner.start("x", run_id="r")
        assert (await run.collect()).text == "1 True r:c"
    assert gapless.current_run() is None
    with pytest.raises(UsageError):
        gapless.call_key("c")


async def test_a_step_returns_what_json_can_carry():
    @gapless.replays
    async def agent(ctx: RunContext) -> str:
        return str(await ctx.step("a", object))

    async with Worker(Memory(), agent) as runner:
        with pytest.raises(gapless.GaplessError, match="step a returned is no JSON"):
            await (await runner.start("x", run_id="r")).collect()


async def test_a_typed_step_returns_its_type():
    @gapless.replays
    async def agent(ctx: RunContext) -> str:
        found = await ctx.step("a", lambda: (1, 2), type=tuple[int, int])
        return f"{found}"

    async with Worker(Memory(), agent) as runner:
        assert (await (await runner.start("x", run_id="r")).collect()).text == "(1, 2)"


@pytest.mark.parametrize("shared", [True, False])
async def test_a_function_that_replays_is_told_when_it_saves_by_itself(shared: bool):
    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        yield "begun "
        await ctx.save(b"mine")

    async with Runner(agent, store=MemoryStore(Memory()) if shared else "memory://") as runner:
        with pytest.raises(AgentInvalid, match=r"agent agent is marked with gapless.replays, .*ctx\.step") as raised:
            await (await runner.start("x")).collect()
        assert (raised.value.code, raised.value.text) == ("agent_invalid", "begun ")


async def test_an_agent_that_a_function_calls_leaves_the_function_its_steps():
    class Saves(Agent):
        name = "saves"

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            assert ctx.checkpoint is None
            if ctx.continues:
                await ctx.save(b"mine")
            yield "said "

    memory, gate = Memory(), asyncio.Event()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[AgentItem]:
        yield f"{await ctx.step('one', lambda: 1)} "
        async for item in Saves().run(ctx):
            yield item
        await ctx.step("two", lambda: 2)
        if not gate.is_set():
            gate.set()
            await asyncio.Event().wait()
        yield "end"

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await gate.wait()
    async with Worker(memory, agent) as second:
        assert await read(second) == "1 said end"


def test_only_async_functions_replay():
    with pytest.raises(UsageError):
        gapless.replays(lambda message: "x")


async def test_a_replaying_function_that_fails_fails_its_run():
    @gapless.replays
    async def agent(message: str) -> str:
        raise ValueError("x")

    async with Worker(Memory(), agent) as runner:
        with pytest.raises(AgentFailed):
            await (await runner.start("x", run_id="r")).collect()


async def test_a_question_that_was_left_off_before_anybody_was_asked_is_never_asked():
    """Where the store takes longer to keep what came before it than the function waits. It was asked at the next worker
    then, and the answer to it, or to the question behind it, was lost."""
    memory = Memory()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0):
                await ctx.interrupt([Interrupt(id="brief", reason="input_required")])
        except TimeoutError:
            yield "nobody "
        (entry,) = await ctx.interrupt([Interrupt(id="patient", reason="input_required")])
        yield str(entry.payload)

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
        assert '"brief"' not in str(memory.events["r"])
    async with Worker(memory, agent) as second:
        await second.answer("r", [ResumeEntry(interrupt_id="patient", status="resolved", payload="yes")])
        assert await read(second) == "nobody \n\nyes"


async def test_what_a_function_does_while_its_run_is_left_is_not_kept():
    """It sees its question cancelled then, and nobody at the next worker has left it off."""
    memory, tidied = Memory(), list[str]()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        try:
            (entry,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
            yield str(entry.payload)
        finally:
            await ctx.step("tidy", tidied.append, "tidied")

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
    async with Worker(memory, agent) as second:
        await second.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload="yes")])
        assert await read(second) == "yes"
    assert tidied == ["tidied", "tidied"]


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_step_that_was_left_off_is_left_off_again(repeatable: bool):
    """Else the function does something else than before, and what a person has answered since is lost."""
    memory, began = Memory(), list[str]()

    async def search() -> str:
        began.append("search")
        if len(began) == 1:
            await asyncio.Event().wait()
        return "found"

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.01):
                yield await ctx.step("search", search, repeatable=repeatable)
        except TimeoutError:
            (entry,) = await ctx.interrupt([Interrupt(id="q", reason="input_required")])
            yield str(entry.payload)

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
    async with Worker(memory, agent) as second:
        await second.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload="yes")])
        assert await read(second) == "yes"
    assert len(began) < 2


async def test_an_answer_is_given_to_no_other_question():
    memory, asks = Memory(), "delete a"

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        (entry,) = await ctx.interrupt([Interrupt(id=asks, reason="input_required")])
        await ctx.step("note", str)
        await ctx.interrupt([Interrupt(id="more", reason="input_required")])
        yield str(entry.payload)

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
        await first.answer("r", [ResumeEntry(interrupt_id=asks, status="resolved", payload="yes")])
        await until(lambda: '"more"' in str(memory.events["r"][-1:]), "it asks for more")
        await until(lambda: memory.runs["r"].status == "waiting", "it waits")
    asks = "delete b"
    async with Worker(memory, agent) as second:
        await second.answer("r", [ResumeEntry(interrupt_id="more", status="resolved")])
        with pytest.raises(AgentInvalid, match=r"does not ask what it asked before \(delete b, not delete a\)"):
            await read(second)


@pytest.mark.parametrize("emits", [True, False])
async def test_a_large_file_is_said_once_where_a_step_is_kept_while_it_is_set_aside(
    emits: bool, monkeypatch: pytest.MonkeyPatch
):
    """What such a step keeps says what the function has said: a crash then would lose the file."""
    memory, setting, may_set = Memory(), asyncio.Event(), asyncio.Event()
    keep_blob = MemoryStore.keep_blob

    async def slow(store: MemoryStore, *about: Any) -> None:
        setting.set()
        await may_set.wait()
        await keep_blob(store, *about)

    async def note() -> None:
        pass

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[AgentItem]:
        async def beside() -> None:
            await setting.wait()
            await ctx.step("note", note)

        async with asyncio.TaskGroup() as group:
            group.create_task(beside())
            yield "begun "
            picture = CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": bytes(100_000)})
            if emits:
                await ctx.emit(picture)
            else:
                yield picture
            if not may_set.is_set():
                await asyncio.Event().wait()
        yield "end"

    monkeypatch.setattr(MemoryStore, "keep_blob", slow)
    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await setting.wait()
        await at_rest()
    assert not any("gapless.file" in str(event) for event in memory.events["r"])
    may_set.set()
    async with Worker(memory, agent) as second:
        assert await read(second) == "begun end"
    assert sum("gapless.file" in str(event) for event in memory.events["r"]) == 1


STARTED = ToolCallStartEvent(tool_call_id="c", tool_call_name="look")
BEGUN = [
    ([STARTED, _args('{"a":')], [_args("1}"), ToolCallEndEvent(tool_call_id="c")]),
    ([STARTED, _args('{"a":'), ReasoningMessageChunkEvent(message_id="t", delta="so")], [_args("1}")]),
    (["text", STARTED, _args('{"a":1}')], []),
    (
        [ToolCallChunkEvent(tool_call_id="c", tool_call_name="look", delta='{"a"'), ToolCallChunkEvent(delta=":")],
        [ToolCallChunkEvent(delta="1}")],
    ),
    ([TextMessageChunkEvent(message_id="m", delta="one ")], [TextMessageChunkEvent(delta="two")]),
    ([ReasoningMessageChunkEvent(message_id="t", delta="one ")], [ReasoningMessageChunkEvent(delta="two")]),
    (
        [STARTED, _args('{"a":1}'), ToolCallEndEvent(tool_call_id="c")],
        [TextMessageChunkEvent(message_id="m", delta="x")],
    ),
]


@pytest.mark.parametrize("emits", [False, True], ids=["yields", "emits"])
@pytest.mark.parametrize(("before", "after"), BEGUN)
async def test_what_was_begun_before_a_step_and_ends_after_it_is_whole(
    before: list[AgentItem], after: list[AgentItem], emits: bool
):
    """Whoever goes on takes back calls that are not whole."""
    memory, lost, whole = Memory(), asyncio.Event(), asyncio.Event()

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[AgentItem]:
        for number, items in enumerate((before, after)):
            for item in items:
                if emits:
                    await ctx.emit(item)
                else:
                    yield item
            if number == 0:
                await ctx.step("note", lambda: None)
                if not whole.is_set():
                    lost.set()
                    await asyncio.Event().wait()

    async with Worker(memory, agent) as first:
        await first.start("x", session_id="s", run_id="r")
        await lost.wait()
        await at_rest()
    whole.set()
    async with Worker(memory, agent) as second:
        await read(second)
        went_on = await second.messages("s")
    async with Worker(Memory(), agent) as other:
        await (await other.start("x", session_id="s", run_id="r")).collect()
        assert said(went_on) == said(await other.messages("s"))


@pytest.mark.parametrize("again", ["returns", "raises"])
async def test_a_step_that_was_left_off_beside_one_that_raised_is_begun_if_that_returns_now(again: str):
    """What raises is not remembered. The function would wait until its run's timeout for the one beside it."""
    memory, looks, searches, noted = Memory(), list[str](), asyncio.Event(), asyncio.Event()

    async def look() -> str:
        looks.append("look")
        if len(looks) == 1 or again == "raises":
            await searches.wait()
            raise ConnectionError
        return "looked"

    async def search() -> str:
        if len(looks) == 1:
            searches.set()
            await asyncio.Event().wait()
        return "found"

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        try:
            async with asyncio.TaskGroup() as group:
                both = [group.create_task(ctx.step("look", look)), group.create_task(ctx.step("search", search))]
            yield " ".join(one.result() for one in both)
        except* ConnectionError:
            await ctx.step("note", str)
            if not noted.is_set():
                noted.set()
                await asyncio.Event().wait()
            yield "neither"

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await noted.wait()
    async with Worker(memory, agent) as second:
        assert await read(second) == ("looked found" if again == "returns" else "neither")
    assert len(looks) == 2


@pytest.mark.parametrize("ends", ["returns", "yields less", "returns text"])
async def test_a_function_that_does_less_than_before_fails_its_run_and_is_told_so(ends: str):
    memory, kept, again = Memory(), asyncio.Event(), False

    async def begin(ctx: RunContext) -> None:
        for number in (1, 2, 3):
            await ctx.emit(f"{number} ")
        await ctx.step("look", lambda: None)
        kept.set()
        await asyncio.Event().wait()

    @gapless.replays
    async def generator(ctx: RunContext) -> AsyncIterator[str]:
        if not again:
            await begin(ctx)
        if ends == "yields less":
            yield "the last word"

    @gapless.replays
    async def function(ctx: RunContext) -> str:
        if not again:
            await begin(ctx)
        return "the last word"

    agent = function if ends == "returns text" else generator
    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await kept.wait()
    again = True
    async with Worker(memory, agent) as second:
        with pytest.raises(
            AgentInvalid, match=r"without what it did before .*'step look'.* do the same again"
        ) as caught:
            await read(second)
        assert caught.value.text == "1 2 3 "


async def test_a_function_that_raises_before_it_has_said_what_it_said_fails_by_that():
    memory, kept, again = Memory(), asyncio.Event(), False

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        if again:
            raise LookupError
        yield "one "
        await ctx.step("look", lambda: None)
        kept.set()
        await asyncio.Event().wait()

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await kept.wait()
    again = True
    async with Worker(memory, agent) as second:
        with pytest.raises(AgentFailed, match="LookupError"):
            await read(second)


async def _in_a_step(ctx: RunContext, again: bool) -> AsyncIterator[str]:
    async def outer() -> int:
        inner: int = await ctx.step("inner", lambda: 1)
        return 1 + inner

    yield f"{await ctx.step('outer', outer)} "


async def _by_another_way(ctx: RunContext, again: bool) -> AsyncIterator[str]:
    def refuses() -> int:
        if not again:
            raise LookupError
        return 2

    try:
        found = await ctx.step("first", refuses)
    except LookupError:
        found = await ctx.step("instead", lambda: 2)
    yield f"{found} "


async def _by_a_task(ctx: RunContext, again: bool) -> AsyncIterator[str]:
    done = asyncio.Event()

    async def beside() -> None:
        await ctx.step("beside", lambda: None)
        done.set()

    task = asyncio.create_task(beside())
    await ctx.step("first", asyncio.sleep if again else done.wait, *([0] if again else []))
    task.cancel()
    await asyncio.wait({task})
    yield "2 "


async def _told_by_a_step(ctx: RunContext, again: bool) -> AsyncIterator[str]:
    async def tells() -> int:
        for number in (3, 2, 1):
            await ctx.emit(CustomEvent(name="left", value=number))
        return 2

    yield f"{await ctx.step('tells', tells)} "


@pytest.mark.parametrize("begins", [_in_a_step, _by_another_way, _by_a_task, _told_by_a_step])
async def test_a_function_may_come_to_less_where_it_is_not_the_function_that_differs(begins: Any):
    memory, kept, again = Memory(), asyncio.Event(), False

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        async for item in begins(ctx, again):
            yield item
        await ctx.step("then", lambda: None)
        kept.set()
        if not again:
            await asyncio.Event().wait()
        yield "the last word"

    async with Worker(memory, agent) as first:
        await first.start("x", run_id="r")
        await kept.wait()
    again = True
    async with Worker(memory, agent) as second:
        assert await read(second) == "2 the last word"
    assert sum(b'"left"' in event for event in memory.events["r"]) == (3 if begins is _told_by_a_step else 0)
