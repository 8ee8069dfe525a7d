"""What is taken of the model's stream beside the graph is what the graph would have given."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import Model, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import UsageLimits

from gapless.agents import pydantic_ai
from gapless.agents.pydantic_ai_steps import Steps, may_take_deltas
from gapless.events import Event
from tests.support.pydantic_ai_runs import Script, one_run, text, weather_agent


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


async def slowly(agent: Agent[Any, Any], monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Every event by way of the graph."""
    with monkeypatch.context() as patch:
        patch.setattr(pydantic_ai, "may_take_deltas", lambda run: False)
        return await one_run(agent, run_id="r", session_id="s")


async def test_each_event_is_the_one_that_the_graph_gives_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    _, agent = weather_agent()
    taken, theirs = await one_run(agent, run_id="r", session_id="s"), await slowly(agent, monkeypatch)
    assert [type(event) for event in taken] == [type(event) for event in theirs]
    assert text(taken) == text(theirs) == "Let me look. It is sunny."


@pytest.mark.parametrize("capability", [ChangesTheStream(), ChangesTheModel()], ids=["stream", "model"])
async def test_what_a_capability_makes_of_the_stream_is_what_is_shown(capability: AbstractCapability[Any]) -> None:
    agent = Agent(Script(["Once ", "upon ", "a time"]).model, capabilities=[capability])
    assert text(await one_run(agent)) == "Once UPON A TIME"


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
        assert not may_take_deltas(run)
    async with Agent(Script(["a", "b"]).model).iter("hello") as run:
        assert may_take_deltas(run)
