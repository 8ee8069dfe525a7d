"""Arguments of a tool call that ADK streams in pieces."""

from __future__ import annotations

from google.genai import types

from gapless.agents.adk_arguments import ArgumentsWriter
from gapless.events import (
    ToolCallArgsEvent,
)
from tests.support.adk import Streamed
from tests.support.adk_runs import agent_of, ask, calls, custom, results


async def test_streamed_arguments_are_shown_as_they_come():
    pieces = [("$.city", "Zü"), ("$.city", "rich"), ("$.days[0]", 1), ("$.days[1]", 2), ("$.exact", True)]
    whole = {"city": "Zürich", "days": [1, 2], "exact": True}

    def weather(city: str, days: list[int], exact: bool) -> str:
        """Tells the weather."""
        return f"{city} {days} {exact}"

    events = await ask(agent_of(["Well. ", Streamed("weather", pieces, whole)], ["Sun."], tools=[weather]))
    deltas = [e.delta for e in events if isinstance(e, ToolCallArgsEvent)]
    assert deltas[:2] == ['{"city":"Zü', "rich"]
    assert calls(events) == [("weather", whole)]
    assert results(events) == [{"result": "Zürich [1, 2] True"}]
    assert not custom(events, "gapless.notice")


def test_streamed_arguments_deeper_than_is_read_come_with_the_whole_call():
    writer = ArgumentsWriter("weather")
    assert writer.add(types.PartialArg(json_path="$.city", string_value="Bern")) == '{"city":"Bern'
    assert writer.add(types.PartialArg(json_path="$" + ".a" * 10_000, string_value="x")) == ""
    assert writer.finish({"city": "Bern", "more": 1}) == ('","more":1}', True)
