"""A run's handle: text, typed output that grows, and the old names of it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, assert_type

import msgspec
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ToolOutput
from pydantic_ai.models.function import DeltaToolCall, FunctionModel
from typing_extensions import TypedDict

from gapless import Run, Runner, RunStream, StreamingResponseAggregator
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    GaplessError,
    InputInvalid,
    LimitReached,
    ModelFailed,
    NotAuthenticated,
    OutputInvalid,
    RunCancelled,
    RunFailed,
    RunNotFound,
    SessionBusy,
    ShuttingDown,
    UsageError,
)
from gapless.events import (
    CustomEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallStartEvent,
)
from gapless.output import GROWTH, GrowingOutput, OutputType
from tests.support.agents import Gated


class City(BaseModel):
    name: str
    people: int = 0


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Named(TypedDict, total=False):
    name: str
    tags: list[str]


@dataclass
class Pair:
    left: int
    right: int


def saying(*pieces: str) -> Any:
    async def agent(message: str) -> AsyncIterator[str]:
        for piece in pieces:
            yield piece

    return agent


def extracting(output_type: Any, *pieces: str) -> Agent[None, Any]:
    """A Pydantic AI agent whose model writes its output as a tool call, in these pieces."""

    async def stream(messages: Any, info: Any) -> AsyncIterator[dict[int, DeltaToolCall]]:
        first, *rest = pieces
        yield {0: DeltaToolCall(name=info.output_tools[0].name, json_args=first, tool_call_id="c")}
        for piece in rest:
            yield {0: DeltaToolCall(json_args=piece)}

    return Agent(FunctionModel(stream_function=stream), output_type=output_type)


async def test_text_comes_whole_or_as_deltas() -> None:
    async with Runner(saying("a", "b", "c")) as runner:
        async with runner.run_stream("m") as stream:
            assert_type(stream, RunStream[Any])
            assert [text async for text in stream.stream_text()] == ["a", "ab", "abc"]
        async with runner.run_stream("m") as stream:
            assert [text async for text in stream.stream_text(delta=True)] == ["a", "b", "c"]
            assert await stream.get_output() == await stream.get_data() == "abc"


async def test_text_is_held_back_until_there_is_enough_of_it() -> None:
    async with Runner(saying("ab", "cd", "ef", "g")) as runner:
        run = await runner.start("m")
        assert [text async for text in run.text(min_chars=4)] == ["abcd", "efg"]


async def test_text_is_held_back_no_longer_than_it_may_be() -> None:
    gated = Gated("ab", "cd")
    async with Runner(gated) as runner:
        run = await runner.start("m")
        gated.let()
        got = []
        async for text in run.text(min_chars=100, max_delay_ms=20):  # goes out although nothing else comes
            got.append(text)
            gated.let(2)
        assert got == ["ab", "cd"]


async def test_typed_output_grows_and_is_the_last_value() -> None:
    pieces = ('{"name": "P', "aris", '", "people": ', "2}")
    async with Runner(extracting(City, *pieces)) as runner, runner.run_stream("m", output_type=City) as stream:
        assert_type(stream, RunStream[City])
        seen = [output async for output in stream.stream_output()]
        assert_type(seen, list[City])
        assert [city.name for city in seen] == ["P", "Paris", "Paris"]
        assert seen[-1] == City(name="Paris", people=2)
        assert await stream.get_output() == seen[-1]


async def test_output_that_is_wrapped_or_not_an_object_grows_too() -> None:
    agent = extracting(list[int], '{"response": [1', ", 2", ", 3]}")
    async with Runner(agent) as runner, runner.run_stream("m", output_type=list[int]) as stream:
        assert [output async for output in stream.stream()][-1] == [1, 2, 3]


@pytest.mark.parametrize(
    ("output_type", "text", "output"),
    [
        (City, '{"name": "Oslo", "people": 3}', City(name="Oslo", people=3)),
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (Pair, '{"left": 1, "right": 2}', Pair(1, 2)),
        (Named, '{"name": "a", "tags": ["b"]}', {"name": "a", "tags": ["b"]}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (int, "42", 42),
    ],
)
async def test_output_that_an_agent_writes_as_text_is_read_as_any_type(
    output_type: Any, text: str, output: Any
) -> None:
    async with Runner(saying(*text)) as runner, runner.run_stream("m", output_type=output_type) as stream:
        seen = [value async for value in stream.stream_output()]
    assert seen[-1] == output


async def test_output_written_as_text_is_read_from_the_latest_message() -> None:
    async def agent(message: str) -> AsyncIterator[Any]:
        yield "Let me look."
        yield ToolCallStartEvent(tool_call_id="c", tool_call_name="look")
        yield '{"x": 1, '
        yield '"y": 2}'

    async with Runner(agent) as runner, runner.run_stream("m", output_type=Point) as stream:
        outputs = stream.stream_output()
        assert await anext(outputs) == Point(1)
        await outputs.aclose()


async def test_output_of_another_type_is_an_error() -> None:
    async with Runner(saying('{"people": 3}')) as runner, runner.run_stream("m", output_type=City) as stream:
        with pytest.raises(OutputInvalid, match="not a valid City") as caught:
            await stream.get_output()
        assert caught.value.run_id == stream.run.id
        with pytest.raises(OutputInvalid):
            _ = [output async for output in stream.stream_output()]
    async with Runner(saying("no JSON")) as runner, runner.run_stream("m", output_type=Point) as stream:
        with pytest.raises(OutputInvalid) as caught:
            await stream.get_output()
        assert caught.value.text == "no JSON"


async def test_output_of_an_agent_with_a_type_of_its_own_is_of_that_type() -> None:
    async with Runner(extracting(City, '{"name": "Rome"}')) as runner:
        async with runner.run_stream("m") as stream:
            assert await stream.get_output() == City(name="Rome", people=0)
        async with runner.run_stream("m") as stream:
            assert [output async for output in stream.stream_output()][-1] == City(name="Rome", people=0)


async def _upper(name: str) -> City:
    return City(name=name.upper())


@pytest.mark.parametrize(
    ("declared", "arguments", "output"),
    [
        ([City, Pair], '{"name": "Rome"}', City(name="Rome")),
        (ToolOutput(City, name="answer"), '{"name": "Rome"}', City(name="Rome")),
        (_upper, '{"name": "Rome"}', City(name="ROME")),
        (int, '{"response": 0}', 0),
    ],
)
async def test_however_an_agent_says_its_type_it_is_known(declared: Any, arguments: str, output: Any) -> None:
    async with Runner(extracting(declared, arguments)) as runner, runner.run_stream("m") as stream:
        assert await stream.get_output() == output


async def test_a_type_that_cannot_be_validated_is_refused_before_anything_runs() -> None:
    class Opaque:
        pass

    async with Runner(saying("a")) as runner:
        with pytest.raises(UsageError, match="Opaque"):
            runner.run_stream("m", output_type=Opaque)
        assert await runner.list_runs() == []


async def test_a_failed_run_raises_its_failure_after_what_there_was() -> None:
    async def failing(message: str) -> AsyncIterator[str]:
        yield '{"name": "Ro'
        raise ValueError("no")

    async with Runner(failing) as runner, runner.run_stream("m", output_type=City) as stream:
        seen = []
        with pytest.raises(AgentFailed):
            async for output in stream.stream_output():
                seen += [output]
        assert seen == [City(name="Ro")]


async def test_leaving_the_block_cancels_the_run() -> None:
    gated = Gated("a", "b")
    async with Runner(gated) as runner:
        async with runner.run_stream("m") as stream:
            gated.let()
            async for text in stream.stream_text():
                assert text == "a"
                break
        assert (await stream.run.record()).status.value == "cancelled"
        assert gated.stopped.is_set()
        with pytest.raises(RunCancelled):
            await stream.get_output()


async def test_a_stream_is_used_within_its_block() -> None:
    async with Runner(saying("a")) as runner:
        with pytest.raises(RuntimeError, match="async with"):
            _ = runner.run_stream("m").run


async def test_two_readers_of_one_stream_see_the_same() -> None:
    async with Runner(saying("a", "b")) as runner, runner.run_stream("m") as stream:

        async def read() -> list[str]:
            return [text async for text in stream.stream_text(delta=True)]

        one, other = await asyncio.gather(read(), read())
        assert one == other == ["a", "b"]


def test_reading_a_growing_output_takes_time_in_proportion_to_its_length() -> None:
    def chars_read(items: int) -> int:
        class Counting(OutputType[list[int]]):
            read = 0

            def validate_partial(self, text: str, key: str | None) -> list[int]:
                self.read += len(text)
                return super().validate_partial(text, key)

        counting = Counting(list[int])
        growing = GrowingOutput(counting)
        growing.add(ToolCallStartEvent(tool_call_id="c", tool_call_name="final_result"))
        growing.add(CustomEvent(name="gapless.output", value={"toolCallId": "c"}))
        for item in range(items):
            growing.add(ToolCallArgsEvent(tool_call_id="c", delta="[1000" if item == 0 else ",1000"))
        assert len(growing.values[0]) >= items * (1 - 2 / GROWTH)
        return counting.read

    assert chars_read(8000) < 10 * chars_read(1000)
    assert chars_read(8000) < 2 * (GROWTH + 1) * 8000 * len(",1000")


def test_a_growing_output_forgets_what_is_void():
    growing = GrowingOutput(OutputType(str))
    for event, value in (
        (TextMessageStartEvent(message_id="m"), ""),
        (TextMessageContentEvent(message_id="m", delta="kept void"), "kept void"),
        (CustomEvent(name="gapless.void", value={"messageIds": [], "toolCallIds": [], "cut": {"m": 5}}), "kept void"),
        (TextMessageContentEvent(message_id="m", delta="on"), "kept on"),
        (CustomEvent(name="gapless.restarted", value={"restarts": 1}), "kept on"),
        (TextMessageContentEvent(message_id="m2", delta="anew"), "anew"),
    ):
        growing.add(event)
        assert "".join(growing.values) == value


async def test_only_the_answer_is_in_what_a_run_has_said():
    """An agent may quote its user, and a live run tells what was said to it."""

    async def quoting(message: str) -> AsyncIterator[Any]:
        yield TextMessageStartEvent(message_id="u", role="user")
        yield TextMessageContentEvent(message_id="u", delta=message)
        yield TextMessageEndEvent(message_id="u")
        yield "ans"
        yield "wer"

    async with Runner(quoting) as runner:
        run = await runner.start("asked")
        response = await run.collect()
        assert (response.text, response.chunks) == ("answer", ["ans", "wer"])
        assert [text async for text in run.text()] == ["ans", "wer"]
        aggregator = StreamingResponseAggregator()
        async for event in run.events():
            aggregator.add(event)
        assert aggregator.get_response().text == "answer"
        async with runner.run_stream("asked", output_type=str) as stream:
            assert [text async for text in stream.stream_output()][-1] == "answer"
            assert await stream.get_output() == "answer"


def test_a_growing_output_is_not_what_the_user_says():
    growing = GrowingOutput(OutputType(str))
    for event, value in (
        (TextMessageStartEvent(message_id="m"), ""),
        (TextMessageContentEvent(message_id="m", delta="one"), "one"),
        (TextMessageStartEvent(message_id="u", role="user"), "one"),
        (TextMessageContentEvent(message_id="u", delta="asked"), "one"),
        (TextMessageContentEvent(message_id="m", delta=" two"), "one two"),
    ):
        growing.add(event)
        assert "".join(growing.values) == value


async def raises_after(message: str) -> AsyncIterator[str]:
    yield "shown"
    raise ValueError("the agent's own words")


async def text_of(run: Run) -> None:
    async for _ in run.text():
        pass


async def collected(run: Run) -> None:
    await run.collect()


async def sunk(run: Run) -> None:
    await run.stream_to([].append)


async def told_so_far(run: Run) -> None:
    async for _ in run.text_so_far():
        pass


READERS = [text_of, told_so_far, collected, sunk, Run.raise_if_failed]


@pytest.mark.parametrize("read", READERS)
async def test_whoever_reads_a_failed_run_gets_its_text_and_what_the_agent_raised(read: Any):
    async with Runner(raises_after) as runner:
        run = await runner.start("x")
        await run.wait()
        with pytest.raises(AgentFailed) as caught:
            await read(run)
        assert caught.value.text == "shown"
        assert isinstance(caught.value.__cause__, ValueError)
        assert "own words" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("raised", [ModelFailed("quota"), InputInvalid("no pictures"), LimitReached("too many")])
async def test_however_a_run_fails_it_is_caught_as_a_run_failed_and_as_its_class(raised: GaplessError, read: Any):
    async def fails(message: str) -> AsyncIterator[str]:
        yield "shown"
        raise raised

    async with Runner(fails) as runner:
        run = await runner.start("x")
        await run.wait()
        with pytest.raises(RunFailed) as caught:
            await read(run)
        assert isinstance(caught.value, type(raised))
        assert (caught.value.code, caught.value.text, caught.value.run_id) == (raised.code, "shown", run.id)
        events = [event async for event in run.events()]
        assert getattr(events[-1], "code", None) == raised.code


async def test_what_is_no_event_and_a_runner_that_closes_end_a_run_as_failed():
    entered = asyncio.Event()

    async def odd(message: str) -> AsyncIterator[Any]:
        yield "shown"
        yield 5

    async def slow(message: str) -> AsyncIterator[str]:
        yield "shown"
        entered.set()
        await asyncio.Event().wait()

    runner = Runner(agents={"odd": odd, "slow": slow})
    async with runner:
        with pytest.raises(RunFailed) as caught:
            await (await runner.start("x", agent="odd")).collect()
        assert isinstance(caught.value, AgentInvalid)
        run = await runner.start("x", agent="slow")
        await entered.wait()
    with pytest.raises(RunFailed) as caught:
        await run.collect()
    assert isinstance(caught.value, ShuttingDown)
    assert caught.value.text == "shown"


@pytest.mark.parametrize(
    "met", [RunNotFound("no run 4711"), SessionBusy("session X is busy"), NotAuthenticated("send a key")]
)
async def test_what_an_agent_met_of_other_runs_is_not_the_callers_own(met: GaplessError):
    async def asks_another(message: str) -> AsyncIterator[str]:
        yield "shown"
        raise met

    async with Runner(asks_another) as runner:
        with pytest.raises(AgentFailed) as caught:
            await (await runner.start("x")).collect()
        assert not isinstance(caught.value, type(met))
        assert (caught.value.code, caught.value.text) == (met.code, "shown")
        assert caught.value.__cause__ is met


async def test_a_run_whose_agents_own_run_was_cancelled_has_failed_and_was_not_cancelled_itself():
    async def asks_another(message: str) -> AsyncIterator[str]:
        yield "shown"
        raise RunCancelled("the run was cancelled before its output", run_id="another")

    async with Runner(asks_another) as runner:
        run = await runner.start("x")
        with pytest.raises(AgentFailed) as caught:
            await run.collect()
        assert isinstance(caught.value.__cause__, RunCancelled)
        assert (await run.wait()).status == "failed"


async def test_output_that_was_cancelled_is_an_error_with_the_text_so_far():
    gated = Gated("shown", "never")
    async with Runner(gated) as runner, runner.run_stream("x", output_type=City) as stream:
        gated.let()
        await gated.waits_for(1)
        await stream.run.cancel()
        with pytest.raises(RunCancelled) as caught:
            await stream.get_output()
        assert caught.value.text == "shown"
