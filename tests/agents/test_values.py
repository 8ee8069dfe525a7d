"""What tools return, as JSON can say it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
from typing import Any

import pytest
from agents import Agent as SDKAgent
from agents import function_tool
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from pydantic import BaseModel

from gapless import Runner
from gapless.agents.values import json_of
from gapless.events import RunFinishedEvent, ToolCallResultEvent
from gapless.testing import ToolCall, langgraph_model, openai_agents_model


class Place(BaseModel):
    name: str = "Paris"


@dataclasses.dataclass
class Point:
    x: int = 1


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


AROUND: list[Any] = []
AROUND.append(AROUND)
VALUES: dict[str, tuple[Any, str]] = {
    "null": (None, "null"),
    "bytes": (b"\xff", '"_w=="'),
    "bytes inside": ({"b": b"\xff", 1: [b"a"]}, '{"b":"_w==","1":["YQ=="]}'),
    "no number": ([float("nan"), float("inf")], "[null,null]"),
    "a model": ([Place()], '[{"name":"Paris"}]'),
    "a dataclass": (Point(), '{"x":1}'),
    "a date": (datetime.date(2026, 1, 2), '"2026-01-02"'),
    "a decimal": (decimal.Decimal("1.10"), '"1.10"'),
    "half a character": (["a\ud83d"], '["a\ufffd"]'),
    "itself": (AROUND, '["…"]'),
    "anything": (Odd(), '"<odd>"'),
}


@pytest.mark.parametrize("name", VALUES)
def test_any_value_has_a_json(name: str):
    value, expected = VALUES[name]
    assert json_of(value) == expected


def openai_agents(value: Any) -> Any:
    @function_tool
    def give() -> Any:
        """Gives."""
        return value

    return SDKAgent(name="a", model=openai_agents_model(ToolCall("give"), "done"), tools=[give])


def langgraph(value: Any) -> Any:
    def give() -> Any:
        """Gives."""
        return value

    model = langgraph_model(ToolCall("give"), "done")
    return create_agent(model, tools=[StructuredTool.from_function(give)])


@pytest.mark.parametrize("make", [openai_agents, langgraph])
async def test_no_value_that_a_tool_returns_fails_its_run(make: Any):
    async def told(name: str) -> tuple[str, bool]:
        async with Runner(make(VALUES[name][0])) as runner:
            events = [event async for event in (await runner.start("go")).events()]
        (result,) = [event for event in events if isinstance(event, ToolCallResultEvent)]
        assert isinstance(events[-1], RunFinishedEvent), (name, events[-1])
        return str(result.content), result.error is None

    found = await asyncio.gather(*map(told, VALUES))
    assert all(fine for _, fine in found)
    if make is openai_agents:  # a text stands as it is
        expected = [text.strip('"') for _, text in VALUES.values()]
        assert [text for text, _ in found] == expected
