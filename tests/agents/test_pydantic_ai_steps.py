"""What is taken of the model's stream beside the graph is what the graph would have given."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic_ai import Agent
from pydantic_ai import RunContext as ToolContext
from pydantic_ai import messages as m
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models import Model, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import UsageLimits

from gapless import Limits, Runner
from gapless.agents import adapt
from gapless.agents.base import Deltas
from gapless.agents.pydantic_ai_steps import Steps, watched_by
from gapless.errors import RunLimit
from gapless.events import CustomEvent, Event, TextMessageContentEvent, encode_event
from tests.support.pydantic_ai_runs import Script, call, events_of, one_run, text, weather_agent
from tests.support.ways import through_the_graph


def upper(event: Any) -> Any:
    if isinstance(event, m.PartDeltaEvent) and isinstance(event.delta, m.TextPartDelta):
        return m.PartDeltaEvent(index=event.index, delta=m.TextPartDelta(event.delta.content_delta.upper()))
    return event


class ChangesTheStream(AbstractCapability[Any]):
    async def wrap_run_event_stream(self, ctx: Any, *, stream: Any) -> AsyncIterator[Any]:
        async for event in stream:
            yield upper(event)


class ChangesTheModel(AbstractCapability[Any]):
    def get_wrapper_model(self, model: Model) -> Model:
        return UpperModel(model)


class UpperModel(WrapperModel):
    @asynccontextmanager
    async def request_stream(self, *args: Any, **options: Any) -> AsyncGenerator[StreamedResponse]:
        async with super().request_stream(*args, **options) as stream:
            events = aiter(stream)

            async def changed() -> AsyncIterator[Any]:
                async for event in events:
                    yield upper(event)

            stream._event_iterator = changed()
            yield stream


async def slowly(agent: Agent[Any, Any], monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Event]:
    """Every event by way of the graph."""
    with monkeypatch.context() as patch:
        through_the_graph(patch)
        return await one_run(agent, run_id="r", session_id="s", **options)


def told(events: list[Event]) -> list[bytes]:
    """The events as JSON, without the times at which they came."""
    return [encode_event(msgspec.structs.replace(event, timestamp=None)) for event in events]


async def test_each_event_is_the_one_that_the_graph_gives_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    _, agent = weather_agent()
    taken, theirs = await one_run(agent, run_id="r", session_id="s"), await slowly(agent, monkeypatch)
    assert told(taken) == told(theirs)
    assert text(taken) == "Let me look. It is sunny."


@pytest.mark.parametrize("capability", [ChangesTheStream(), ChangesTheModel()], ids=["stream", "model"])
async def test_what_a_capability_makes_of_the_stream_is_what_is_shown(capability: AbstractCapability[Any]) -> None:
    agent = Agent(Script(["Once ", "upon ", "a time"]).model, capabilities=[capability])
    assert text(await one_run(agent)) == "Once UPON A TIME"


class AsksForTheOutside(ChangesTheModel):
    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")


class HearsEvents(AbstractCapability[Any]):
    def __init__(self) -> None:
        self.heard: list[str] = []

    async def on_event(self, ctx: Any, event: Any) -> None:
        self.heard += [event.delta.content_delta] if isinstance(event, m.PartDeltaEvent) else []


@dataclass(kw_only=True)
class Progress(m.CustomEvent):
    percent: int


async def deltas_of(agent: Agent[Any, Any], **options: Any) -> Deltas | None:
    adapted = adapt(agent)
    await one_run(adapted, **options)
    return adapted.deltas


async def test_the_way_is_chosen_for_each_run_and_can_be_asked_for() -> None:
    script = Script(["a", "b"])
    assert await deltas_of(Agent(script.model)) == Deltas(at_model=True)
    assert await deltas_of(Agent(script.model, capabilities=[ChangesTheModel()])) == Deltas(at_model=True)
    watched = Agent(script.model, capabilities=[ChangesTheStream(), ChangesTheModel()])
    assert await deltas_of(watched) == Deltas(at_model=False, watched_by="capabilities (ChangesTheStream)")
    assert await deltas_of(Agent(script.blocking)) is None  # nothing of it is streamed
    listens = Agent(script.model)
    listens.on_event(lambda ctx, event: None)
    assert not (await deltas_of(listens)).at_model  # type: ignore[union-attr]


async def test_what_asks_to_wrap_the_model_outside_of_all_others_sees_each_delta() -> None:
    agent = Agent(Script(["Once ", "upon ", "a time"]).model, capabilities=[AsksForTheOutside()])
    assert await deltas_of(agent) == Deltas(at_model=False, watched_by="capabilities (AsksForTheOutside)")
    assert text(await one_run(agent)) == "Once UPON A TIME"


class WatchesEverySecondRun(AbstractCapability[Any]):
    def __init__(self) -> None:
        self.runs, self.hears = 0, HearsEvents()

    async def for_run(self, ctx: Any) -> AbstractCapability[Any]:
        self.runs += 1
        return self if self.runs % 2 else self.hears


async def test_a_session_whose_second_run_is_watched_goes_on() -> None:
    script, watches = Script(["Fine ", "so ", "far."]), WatchesEverySecondRun()
    adapted = adapt(Agent(script.model, capabilities=[watches]))
    ways: list[bool] = []
    async with Runner(adapted) as runner:
        for _ in range(3):
            assert text(await events_of(await runner.start("go on", session_id="s"))) == "Fine so far."
            assert adapted.deltas is not None
            ways.append(adapted.deltas.at_model)
    assert ways == [True, False, True]
    assert watches.hears.heard == ["so ", "far."]
    said = [part.content for one in script.seen[-1] for part in one.parts if isinstance(part, m.TextPart)]
    assert said == ["Fine so far.", "Fine so far."]


async def test_what_a_tool_emits_later_comes_between_the_deltas_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def runs() -> list[Event]:
        script = Script([*call(0, "start", "c1", "{}")], ["One ", "two ", "three ", "four."])
        agent = Agent(script.model)
        contexts: list[Any] = []

        @agent.tool
        async def start(ctx: ToolContext[None]) -> str:
            contexts.append(ctx)
            return "started"

        here = script.here

        async def emits() -> None:
            if script.position == 4:  # the model is at its third word
                await contexts[0].emit(Progress(percent=50))
            await here()

        monkeypatch.setattr(script, "here", emits)
        return await one_run(agent, run_id="r", session_id="s")

    taken = await runs()
    through_the_graph(monkeypatch)
    theirs = await runs()
    assert told(taken) == told(theirs)
    said = [one for one in taken if isinstance(one, TextMessageContentEvent | CustomEvent)]
    assert [getattr(one, "delta", "emitted") for one in said] == ["One ", "two ", "three ", "emitted", "four."]


async def test_a_run_that_fails_in_an_answer_leaves_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kept() -> Any:
        """What the next turn's model is told of it."""
        script = Script(["word "] * 20)
        async with Runner(Agent(script.model), limits=Limits(journal_events_max=8)) as runner:
            for _ in range(2):
                run = await runner.start("go", session_id="s")
                with pytest.raises(RunLimit):
                    await run.collect()
        return [
            [(type(part).__name__, getattr(part, "content", "")) for part in one.parts] for one in script.seen[-1]
        ], [one.state for one in script.seen[-1] if isinstance(one, m.ModelResponse)]

    taken = await kept()
    through_the_graph(monkeypatch)
    assert taken == await kept()
    assert taken[1] == ["interrupted"]


async def test_where_nobody_watches_deltas_do_not_go_through_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[Model | None] = []
    wrap = Steps.get_wrapper_model

    def noted(self: Steps, model: Any) -> Any:
        found = wrap(self, model)
        wrapped.append(found)
        return found

    monkeypatch.setattr(Steps, "get_wrapper_model", noted)
    plain = Agent(Script(["a", "b"]).model)
    await one_run(plain)
    await one_run(Agent(Script(["a", "b"]).model, capabilities=[ChangesTheStream()]))
    assert [one is not None for one in wrapped] == [True, False]


async def test_a_limit_on_tokens_is_held_against_each_delta() -> None:
    async with Agent(Script(["a", "b"]).model).iter("hello", usage_limits=UsageLimits(output_tokens_limit=9)) as run:
        assert watched_by(run) == "limits on tokens"
    async with Agent(Script(["a", "b"]).model).iter("hello") as run:
        assert watched_by(run) == ""
