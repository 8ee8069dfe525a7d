"""The aggregator: the whole response out of a stream, in order, whichever events it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless import Runner
from gapless.aggregator import FunctionCall, FunctionResponse, Part, StreamingResponseAggregator
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningMessageContentEvent,
    RunStartedEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.fold import RESTARTED, VOID


def said(delta: str, message_id: str = "m") -> Event:
    return TextMessageContentEvent(message_id=message_id, delta=delta)


def thought(delta: str) -> Event:
    return ReasoningMessageContentEvent(message_id="r", delta=delta)


def called(id: str, *pieces: str, end: bool = True) -> list[Event]:
    events: list[Event] = [ToolCallStartEvent(tool_call_id=id, tool_call_name="look")]
    events += [ToolCallArgsEvent(tool_call_id=id, delta=piece) for piece in pieces]
    return [*events, ToolCallEndEvent(tool_call_id=id)] if end else events


def parts_of(events: list[Any]) -> list[Part]:
    aggregator = StreamingResponseAggregator()
    for event in events:
        aggregator.add(event)
    return aggregator.get_response().content.parts


def test_mixed_content_keeps_its_order_and_adjacent_text_is_one_part() -> None:
    result = ToolCallResultEvent(message_id="t", tool_call_id="c", content="found")
    events = [
        RunStartedEvent(thread_id="s", run_id="r"),
        *(thought("h"), thought("m"), said("Let "), said("me look.")),
        *(*called("c", '{"a"', ": 1}"), result, said("It ", "n"), said("is.", "n")),
    ]
    assert parts_of(events) == [
        Part(text="hm", thought=True),
        Part(text="Let me look."),
        Part(function_call=FunctionCall("c", "look", {"a": 1})),
        Part(function_response=FunctionResponse("c", "look", "found")),
        Part(text="It is."),
    ]


def test_a_tool_call_is_there_once_it_is_complete_and_in_its_place() -> None:
    aggregator = StreamingResponseAggregator()
    events = [said("a"), *called("c", '{"a": 1}', end=False), said("b")]
    for event in events:
        aggregator.add(event)
    assert aggregator.get_response().content.parts == [Part(text="ab")]
    aggregator.add(ToolCallEndEvent(tool_call_id="c"))
    call = Part(function_call=FunctionCall("c", "look", {"a": 1}))
    assert aggregator.get_response().content.parts == [Part(text="a"), call, Part(text="b")]
    assert aggregator.get_response().function_calls == [call.function_call]


def test_calls_that_interleave_each_get_their_own_arguments() -> None:
    one, two = called("1", '{"x": ', "1}"), called("2", '{"x": ', "2}")
    mixed = [event for pair in zip(one, two, strict=True) for event in pair]
    assert [part.function_call.args for part in parts_of(mixed) if part.function_call] == [{"x": 1}, {"x": 2}]


def test_chunks_are_understood() -> None:
    events = [
        TextMessageChunkEvent(message_id="m", delta="a"),
        ToolCallChunkEvent(tool_call_id="c", tool_call_name="look", delta='{"a": '),
        ToolCallChunkEvent(delta="1}"),
        ToolCallResultEvent(message_id="t", tool_call_id="c", content="ok"),
    ]
    assert [part.function_call.args for part in parts_of(events) if part.function_call] == [{"a": 1}]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_arguments_that_are_no_object_are_empty(text: str) -> None:
    (part,) = parts_of(called("c", text))
    assert part.function_call == FunctionCall("c", "look", {})


def test_an_empty_stream_is_an_empty_response() -> None:
    response = StreamingResponseAggregator().get_response()
    assert (response.content.parts, response.text, response.thoughts) == ([], "", "")


async def test_it_is_used_as_the_tutorials_use_it() -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        yield "Hello "
        yield message

    aggregator = StreamingResponseAggregator()
    async with Runner(agent) as runner:
        async for event in runner.run_async("you"):
            aggregator.add(event)
    assert aggregator.get_response().content.parts[0].text == "Hello you"


@given(st.lists(st.tuples(st.sampled_from(["text", "thought"]), st.text(max_size=3)), max_size=30))
def test_nothing_is_lost_and_no_two_neighbours_are_of_one_kind(stream: list[tuple[str, str]]) -> None:
    aggregator = StreamingResponseAggregator()
    for position, (kind, delta) in enumerate(stream):
        aggregator.add(said(delta) if kind == "text" else thought(delta))
        before = "".join(text for one, text in stream[: position + 1] if one == "text")
        assert aggregator.get_response().text == before
    response = aggregator.get_response()
    assert response.thoughts == "".join(delta for kind, delta in stream if kind == "thought")
    kinds = [part.thought for part in response.content.parts]
    assert all(one != two for one, two in pairwise(kinds))


# ------------------------------------------------------------------------------------------------------- events of ADK


def adk(*parts: Any, partial: bool | None = None, id: str = "e1") -> Any:
    """An event as ADK makes it, of its own classes where they are installed."""
    events = pytest.importorskip("google.adk.events")
    types = pytest.importorskip("google.genai.types")
    content = types.Content(role="model", parts=[types.Part(**part) for part in parts])
    return events.Event(id=id, author="a", partial=partial, content=content)


def test_adks_aggregate_is_not_counted_twice() -> None:
    events = [
        adk({"text": "hm", "thought": True}, partial=True),
        adk({"text": "Hel"}, partial=True),
        adk({"text": "lo"}, partial=True),
    ]
    whole = [Part(text="hm", thought=True), Part(text="Hello")]
    assert parts_of(events) == whole
    events.append(adk({"text": "hm", "thought": True}, {"text": "Hello"}))
    assert parts_of(events) == whole


def test_adks_calls_and_results_keep_their_order_and_run_once() -> None:
    call = {"function_call": {"id": "c", "name": "look", "args": {"a": 1}}}
    result = {"function_response": {"id": "c", "name": "look", "response": {"b": 2}}}
    events = [
        adk({"text": "Let me look."}, partial=True),
        adk({"function_call": {"id": "c", "name": "look"}}, partial=True),
        adk({"text": "Let me look."}, call),
        adk(result, id="e2"),
        adk({"text": "It "}, partial=True, id="e3"),
        adk({"text": "is."}, partial=True, id="e3"),
    ]
    assert parts_of(events[:2]) == [Part(text="Let me look.")]
    assert parts_of(events) == [
        Part(text="Let me look."),
        Part(function_call=FunctionCall("c", "look", {"a": 1})),
        Part(function_response=FunctionResponse("c", "look", {"b": 2})),
        Part(text="It is."),
    ]


def test_text_that_no_aggregate_repeats_is_kept() -> None:
    call = {"function_call": {"id": "c", "name": "look", "args": {}}}
    events = [adk({"text": "Wait. "}, partial=True), adk(call)]
    assert [part.text for part in parts_of(events)] == ["Wait. ", None]


def test_agents_that_stream_beside_each_other_are_told_apart() -> None:
    events = [
        adk({"text": "a1"}, partial=True, id="a"),
        adk({"text": "b1"}, partial=True, id="b"),
        adk({"text": "a2"}, partial=True, id="a"),
        adk({"text": "a1a2"}, id="a"),
        adk({"text": "b1"}, id="b"),
    ]
    assert parts_of(events) == [Part(text="a1a2b1")]


def test_other_objects_are_ignored() -> None:
    assert parts_of([SimpleNamespace(content=None), SimpleNamespace(), object()]) == []


def test_what_is_void_is_taken_back_by_name() -> None:
    aggregator = StreamingResponseAggregator()
    for event in (
        TextMessageContentEvent(message_id="a", delta="kept "),
        TextMessageContentEvent(message_id="a", delta="and void"),
        ToolCallStartEvent(tool_call_id="c", tool_call_name="t"),
        ToolCallArgsEvent(tool_call_id="c", delta="{"),
        TextMessageContentEvent(message_id="b", delta="void"),
        CustomEvent(name=VOID, value={"messageIds": ["b"], "toolCallIds": ["c"], "cut": {"a": 7}}),
        TextMessageContentEvent(message_id="a", delta="on"),
    ):
        aggregator.add(event)
    response = aggregator.get_response()
    assert [part.text for part in response.content.parts] == ["kept anon"]
    aggregator.add(CustomEvent(name=RESTARTED, value={"restarts": 1}))
    aggregator.add(TextMessageContentEvent(message_id="d", delta="anew"))
    assert aggregator.get_response().text == "anew"


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_only_what_the_model_says_is_its_text(role: Any) -> None:
    """Live runs tell what people have said, and agents may quote it."""
    start = TextMessageStartEvent(message_id="u", role=role)
    events = [start, said("asked", "u"), TextMessageEndEvent(message_id="u"), said("answer")]
    assert parts_of(events) == [Part(text="answer")]
    # the id may be the model's next
    assert parts_of([*events, TextMessageStartEvent(message_id="u"), said(" more", "u")]) == [Part(text="answer more")]
    chunks = [
        TextMessageChunkEvent(message_id="u", role=role, delta="as"),
        TextMessageChunkEvent(delta="k"),
        TextMessageChunkEvent(message_id="u", delta="ed"),
        TextMessageChunkEvent(message_id="m", role="assistant", delta="ans"),
        TextMessageChunkEvent(delta="wer"),
    ]
    assert parts_of(chunks) == [Part(text="answer")]


def test_what_adk_tells_of_the_user_is_not_the_models_text() -> None:
    def event(author: str, *parts: Any, partial: bool = False) -> Any:
        return SimpleNamespace(id="e", author=author, partial=partial, content=SimpleNamespace(parts=[*parts]))

    result = SimpleNamespace(function_response=SimpleNamespace(id="c", name="look", response={"found": 1}))
    asked, answer = SimpleNamespace(text="asked"), SimpleNamespace(text="answer")
    assert parts_of([event("user", asked, partial=True), event("user", asked, result), event("agent", answer)]) == [
        Part(function_response=FunctionResponse("c", "look", {"found": 1})),
        Part(text="answer"),
    ]
