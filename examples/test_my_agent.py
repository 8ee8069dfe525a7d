"""Unit tests of an agent: the real agent and its real tools, on a model that says what the test tells it."""

import asyncio

import pytest
from my_agent import Shop, shop_agent

from gapless import Runner, ToolCallResultEvent
from gapless.errors import RunCancelled
from gapless.testing import Gate, ToolCall, pydantic_ai_model, words

SHOP = Shop(stock={"lamp": 3})


def test_it_looks_up_the_stock() -> None:
    model = pydantic_ai_model("Let me see. ", ToolCall("in_stock", {"item": "lamp"}), *words("We have three."))

    async def ask() -> None:
        with shop_agent.override(model=model):
            async with Runner(shop_agent) as runner:
                run = await runner.start("Do you have lamps?", deps=SHOP)
                results = [event.content async for event in run.events() if isinstance(event, ToolCallResultEvent)]
                response = await run.collect()
        assert results == ["3"]
        assert response.text == "Let me see. \n\nWe have three."
        assert len(response.chunks) > 1, "it streams"

    asyncio.run(ask())


def test_a_customer_may_interrupt_it() -> None:
    gate = Gate()

    async def ask() -> None:
        with shop_agent.override(model=pydantic_ai_model("We have ", gate, "a thousand lamps.")):
            async with Runner(shop_agent) as runner, runner.run_stream("Lamps?", deps=SHOP) as stream:
                await gate.reached()  # it has said the first words and no more
                await stream.run.cancel()
                with pytest.raises(RunCancelled):
                    await stream.get_output()
                assert (await stream.run.collect()).text == "We have "

    asyncio.run(ask())
