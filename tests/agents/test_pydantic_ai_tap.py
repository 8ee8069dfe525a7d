"""A model that is asked in a task of its own is to its run, and its run to it, as if it were asked in the run's."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel

from gapless import Runner
from gapless.agents.pydantic_ai_tap import HeardModel
from tests.support.pydantic_ai_runs import Script, failure_of, one_run, text

Said = Callable[[list[m.ModelMessage], AgentInfo], AsyncIterator[Any]]


def model_of(stream: Said) -> FunctionModel:
    return FunctionModel(stream_function=stream)


@pytest.mark.both_ways
class TestModels:
    async def test_a_time_limit_around_all_that_a_model_says_is_its_own(self) -> None:
        async def says(_messages: Any, _info: Any) -> AsyncIterator[str]:
            async with asyncio.timeout(0.01):
                yield "One "
                yield "two."
                await asyncio.Event().wait()

        error = await failure_of(Agent(model_of(says)))
        assert isinstance(error.__cause__, TimeoutError), error

    async def test_a_task_group_may_be_open_while_a_model_speaks(self) -> None:
        async def says(_messages: Any, _info: Any) -> AsyncIterator[str]:
            words: asyncio.Queue[str] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                for word in ("One ", "two ", "three."):
                    group.create_task(words.put(word))
                for _ in range(3):
                    yield await words.get()

        assert text(await one_run(Agent(model_of(says)))) == "One two three."

    async def test_what_a_model_leaves_in_its_context_is_there_for_tools(self) -> None:
        said: ContextVar[str] = ContextVar("said", default="nothing")
        found: list[str] = []

        async def says(messages: list[m.ModelMessage], _info: Any) -> AsyncIterator[Any]:
            if len(messages) == 1:
                yield {0: DeltaToolCall(name="look", json_args="{", tool_call_id="c1")}
                said.set("a call")
                yield {0: DeltaToolCall(json_args="}")}
            else:
                yield said.get()

        agent = Agent(model_of(says))

        @agent.tool_plain
        def look() -> str:
            found.append(said.get())
            return "seen"

        assert text(await one_run(agent)) == "a call"
        assert found == ["a call"]

    async def test_what_a_hook_leaves_in_the_context_before_a_request_is_there_in_it_and_after_it(self) -> None:
        request_id: ContextVar[str] = ContextVar("request_id", default="none")
        found: list[str] = []

        class Names(AbstractCapability[Any]):
            async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
                request_id.set(str(len(request_context.messages)))
                return request_context

            async def on_model_request_error(self, ctx: Any, *, error: Exception, **_: Any) -> Any:
                raise error  # who has this is given a stream that has begun, and the context after that

        async def says(messages: list[m.ModelMessage], _info: Any) -> AsyncIterator[Any]:
            if len(messages) < 4:
                yield {0: DeltaToolCall(name="look", json_args="{", tool_call_id=f"c{len(messages)}")}
                yield {0: DeltaToolCall(json_args="}")}
                found.append(f"model {request_id.get()}")
            else:
                yield "Done."

        agent = Agent(model_of(says), capabilities=[Names()])

        @agent.tool_plain
        def look() -> str:
            found.append(f"tool {request_id.get()}")
            return "seen"

        await one_run(agent)
        assert found == ["model 1", "tool 1", "model 3", "tool 3"]

    async def test_a_model_that_swallows_its_streams_failure_has_said_all(self) -> None:
        async def says(_messages: Any, _info: Any) -> AsyncIterator[str]:
            yield "One "
            yield "two."
            raise ConnectionError

        inner = Entered(model_of(says), swallows=ConnectionError)
        assert text(await asyncio.wait_for(one_run(Agent(inner)), 20)) == "One two."
        assert inner.left_by == [ConnectionError]

    async def test_a_run_that_is_cancelled_has_ended_its_request_before_it_ends(self) -> None:
        script = Script(["One ", "two ", "three"])
        script.stop_at = 2
        async with Runner(Agent(script.model)) as runner:
            run = await runner.start("go")
            await script.stopped.wait()
            assert script.calls_open == 1
            await run.cancel()
            await run.wait()
            assert script.calls_open == 0
            assert [task for task in asyncio.all_tasks() if task.get_name() == "gapless-model-request"] == []


class Entered(WrapperModel):
    """Notes how its requests are left, and swallows what it is told to."""

    def __init__(self, wrapped: Any, swallows: type[BaseException] | tuple[()] = ()) -> None:
        super().__init__(wrapped)
        self._swallows = swallows
        self.left_by: list[type[BaseException] | None] = []
        self.tasks: set[Any] = set()

    @asynccontextmanager
    async def request_stream(self, *args: Any, **options: Any) -> AsyncGenerator[StreamedResponse]:
        self.tasks.add(asyncio.current_task())
        try:
            async with super().request_stream(*args, **options) as stream:
                yield stream
        except BaseException as error:
            self.left_by.append(type(error))
            if not isinstance(error, self._swallows):
                raise
        else:
            self.left_by.append(None)
        finally:
            self.tasks.add(asyncio.current_task())


class Hears:
    taking = True
    emitted = ()

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def hear(self, event: m.PartDeltaEvent) -> None:
        self.heard.append(event)


def heard(swallows: type[BaseException] | tuple[()] = ()) -> tuple[Entered, Any]:
    """A model whose request is left in some way, and what asks it."""
    inner = Entered(Script(["One ", "two ", "three"]).model, swallows)
    asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
    return inner, HeardModel(inner, Hears()).request_stream(asked, None, ModelRequestParameters())


async def test_a_request_is_left_by_what_was_raised_around_it_in_the_task_that_entered_it() -> None:
    inner, request = heard()
    with pytest.raises(ValueError, match="the graph's"):
        async with request as stream:
            await anext(aiter(stream))
            raise ValueError("the graph's")
    assert inner.left_by == [ValueError]
    assert len(inner.tasks - {asyncio.current_task()}) == 1
    assert len(inner.tasks) == 1


async def test_a_request_that_swallows_what_was_raised_around_it_does() -> None:
    inner, request = heard(swallows=ValueError)
    async with request:
        raise ValueError
    assert inner.left_by == [ValueError]


async def test_a_request_that_nobody_reads_to_its_end_is_left_in_peace() -> None:
    inner, request = heard()
    async with request as stream:
        await anext(aiter(stream))
    assert inner.left_by == [None]


async def test_a_request_that_is_left_while_somebody_waits_for_its_next_event_is_cancelled() -> None:
    script = Script(["One ", "two"])
    script.stop_at = 1
    asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
    inner = Entered(script.model)
    async with HeardModel(inner, Hears()).request_stream(asked, None, ModelRequestParameters()) as stream:
        events = aiter(stream)
        while not script.stopped.is_set():
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.wait({waiting, asyncio.ensure_future(script.stopped.wait())}, return_when="FIRST_COMPLETED")
    assert inner.left_by == [asyncio.CancelledError]
    waiting.cancel()


async def test_a_request_is_cancelled_with_the_task_that_made_it_and_waited_for() -> None:
    inner, request = heard(swallows=asyncio.CancelledError)
    entered = asyncio.Event()

    async def asks() -> None:
        async with request:
            entered.set()
            await asyncio.Event().wait()

    asking = asyncio.create_task(asks())
    await entered.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert inner.left_by == [asyncio.CancelledError]


class Limited(Entered):
    """Has a time limit around its request, which passes when it is told to."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self._limit = asyncio.timeout(None)
        self._left = asyncio.Event()

    async def passes(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time())
        await self._left.wait()

    @asynccontextmanager
    async def request_stream(self, *args: Any, **options: Any) -> AsyncGenerator[StreamedResponse]:
        try:
            async with self._limit, super().request_stream(*args, **options) as stream:
                yield stream
        finally:
            self._left.set()


def limited() -> tuple[Limited, Any]:
    inner = Limited(Script(["One ", "two ", "three"]).model)
    asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
    return inner, HeardModel(inner, Hears()).request_stream(asked, None, ModelRequestParameters())


async def test_a_models_time_limit_may_pass_while_nobody_asks_for_its_next_event() -> None:
    inner, request = limited()
    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            async with request as stream:
                events = aiter(stream)
                await anext(events)
                await inner.passes()
                await anext(events)
    assert inner.left_by == [asyncio.CancelledError]


async def test_what_is_raised_around_a_request_that_is_over_is_raised() -> None:
    inner, request = limited()
    async with asyncio.timeout(20):
        with pytest.raises(ValueError, match="the graph's"):
            async with request as stream:
                await anext(aiter(stream))
                await inner.passes()
                raise ValueError("the graph's")


async def test_a_cancel_while_a_request_is_left_ends_that_before_the_request_is_over() -> None:
    closing = asyncio.Event()
    ended: list[BaseException] = []

    class Slow(WrapperModel):
        @asynccontextmanager
        async def request_stream(self, *args: Any, **options: Any) -> AsyncGenerator[StreamedResponse]:
            async with super().request_stream(*args, **options) as stream:
                yield stream
            closing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                ended.append(error)
                raise

    async def asks() -> None:
        asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
        inner = Slow(Script(["One"]).model)
        async with HeardModel(inner, Hears()).request_stream(asked, None, ModelRequestParameters()):
            pass

    asking = asyncio.create_task(asks())
    await closing.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(ended) == 1


async def test_a_scope_that_is_cancelled_as_by_a_time_limit_of_the_graphs_cancels_each_wait_of_the_request() -> None:
    waiting = asyncio.Event()

    async def says(_messages: Any, _info: Any) -> AsyncIterator[str]:
        try:
            yield "One "
            waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    async def cancels() -> None:
        await waiting.wait()
        scope.cancel()

    asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
    inner = Entered(model_of(says))
    cancelling = asyncio.create_task(cancels())
    async with asyncio.timeout(20):
        with anyio.CancelScope() as scope:
            async with HeardModel(inner, Hears()).request_stream(asked, None, ModelRequestParameters()) as stream:
                async for _ in stream:
                    pass
    await cancelling
    assert scope.cancelled_caught
    assert inner.left_by == [asyncio.CancelledError]


async def test_a_cancel_is_not_lost_where_the_model_fails_at_the_same_moment() -> None:
    async def says(_messages: Any, _info: Any) -> AsyncIterator[str]:
        yield "One "
        asyncio.get_running_loop().call_soon(asking.cancel)
        raise ValueError

    async def asks() -> None:
        asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
        async with HeardModel(model_of(says), Hears()).request_stream(asked, None, ModelRequestParameters()) as stream:
            async for _ in stream:
                pass

    asking = asyncio.create_task(asks())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, 20)


async def test_what_a_request_raised_keeps_nothing_of_it() -> None:
    class Failed(Exception): ...

    async def says(_messages: Any, _info: Any) -> AsyncIterator[str]:
        yield "One "
        raise Failed

    async def fails() -> weakref.ref[Hears]:
        hearer = Hears()
        asked = [m.ModelRequest(parts=[m.UserPromptPart("hello")])]
        with pytest.raises(Failed):
            async with HeardModel(model_of(says), hearer).request_stream(
                asked, None, ModelRequestParameters()
            ) as stream:
                async for _ in stream:
                    pass
        return weakref.ref(hearer)

    gc.collect()
    gc.disable()
    try:
        assert (await fails())() is None
    finally:
        gc.enable()
