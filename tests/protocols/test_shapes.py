"""What agents do oddly is told on every wire, in the form that its vendor's own client takes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from gapless import Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    CustomEvent,
    DataSource,
    Event,
    ImagePart,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextPart,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from tests.support.sse import frames
from tests.support.told import READERS, Told

LONG = "long — ünïcödé 🦉\n" * 20_000


def call(id: str, name: str = "look", *arguments: str) -> list[Event]:
    return [
        ToolCallStartEvent(tool_call_id=id, tool_call_name=name),
        *(ToolCallArgsEvent(tool_call_id=id, delta=piece) for piece in arguments or ("{}",)),
        ToolCallEndEvent(tool_call_id=id),
    ]


def result(id: str, content: Any, error: str | None = None) -> ToolCallResultEvent:
    return ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=content, error=error)


def thought(id: str, *pieces: str) -> list[Event]:
    said = [ReasoningMessageContentEvent(message_id=id, delta=piece) for piece in pieces]
    return [*said, ReasoningMessageEndEvent(message_id=id)]


def finish(reason: str) -> CustomEvent:
    return CustomEvent(name="gapless.finish", value={"reason": reason})


PICTURE = ImagePart(source=DataSource(value="iVBORw==", mime_type="image/png"))
PIECES = [f'{{"n": "{"é" * 3000}"}}'[at : at + 1] for at in range(3010)]

SHAPES: dict[str, tuple[Sequence[AgentItem], Told]] = {
    "two texts around a call": (
        ["Let me ", "look.", *call("c1"), result("c1", "seen"), "It is ", "there."],
        Told(["Let me look.", "It is there."], calls={"c1": ("look", "{}")}, results={"c1": ("seen", False)}),
    ),
    "two calls that both fail, in turns": (
        [*call("c1"), *call("c2"), result("c2", "no", "No."), result("c1", "no", "Never."), "Sorry."],
        Told(
            ["Sorry."],
            calls={"c1": ("look", "{}"), "c2": ("look", "{}")},
            results={"c1": ("Never.", True), "c2": ("No.", True)},
        ),
    ),
    "arguments that take turns": (
        [
            *call("c1")[:1],
            *call("c2")[:1],
            ToolCallArgsEvent(tool_call_id="c1", delta='{"a":'),
            ToolCallArgsEvent(tool_call_id="c2", delta='{"b":'),
            ToolCallArgsEvent(tool_call_id="c1", delta="1}"),
            ToolCallArgsEvent(tool_call_id="c2", delta="2}"),
            ToolCallEndEvent(tool_call_id="c2"),
            ToolCallEndEvent(tool_call_id="c1"),
            result("c1", "1"),
            result("c2", "2"),
        ],
        Told(
            calls={"c1": ("look", '{"a":1}'), "c2": ("look", '{"b":2}')},
            results={"c1": ("1", False), "c2": ("2", False)},
        ),
    ),
    "an empty result": (
        [*call("c1"), result("c1", ""), "So."],
        Told(["So."], calls={"c1": ("look", "{}")}, results={"c1": ("", False)}),
    ),
    "a failure without words": (
        [*call("c1"), result("c1", "", ""), "So."],
        Told(["So."], calls={"c1": ("look", "{}")}, results={"c1": ("", True)}),
    ),
    "results that are JSON, and no object": (
        [
            item
            for n, content in enumerate(("null", "[1, 2]", "3", '"x"', "{"))
            for item in (*call(f"c{n}"), result(f"c{n}", content))
        ],
        Told(
            calls={f"c{n}": ("look", "{}") for n in range(5)},
            results={f"c{n}": (said, False) for n, said in enumerate(("null", "[1, 2]", "3", '"x"', "{"))},
        ),
    ),
    "a result in parts": (
        [*call("c1"), result("c1", [TextPart(text="Here: "), PICTURE]), "So."],
        Told(["So."], calls={"c1": ("look", "{}")}, results={"c1": ("Here: ", False)}),
    ),
    "a name outside of ASCII": (
        [*call("c1", "wetter für 東京 🦉"), result("c1", "regen ☂"), "Regen."],
        Told(["Regen."], calls={"c1": ("wetter für 東京 🦉", "{}")}, results={"c1": ("regen ☂", False)}),
    ),
    "reasoning between calls": (
        [
            *(*thought("t1", "Hm. ", "So. "), *call("c1"), result("c1", "1")),
            *(*thought("t2", "Well."), *call("c2"), result("c2", "2"), "Done."),
        ],
        Told(
            ["Done."],
            "Hm. So. Well.",
            {"c1": ("look", "{}"), "c2": ("look", "{}")},
            {"c1": ("1", False), "c2": ("2", False)},
        ),
    ),
    "reasoning alone": ([*thought("t1", "Hm.")], Told([], "Hm.")),
    "no answer": ([], Told([])),
    "empty pieces": (["", "", ""], Told([])),
    "blanks alone": ([" ", "\n"], Told([" \n"])),
    "one long piece": ([LONG], Told([LONG])),
    "signs that end lines": (["a\u2028b\u2029c\x85\r\nd\x00"], Told(["a\u2028b\u2029c\x85\r\nd\x00"])),
    "arguments in thousands of pieces": (
        [*call("c1", "look", *PIECES), result("c1", "ok")],
        Told(calls={"c1": ("look", "".join(PIECES))}, results={"c1": ("ok", False)}),
    ),
    "arguments that are no JSON": (
        [*call("c1", "look", '{"a": ', "oops"), result("c1", "what?", "They are no JSON."), "Sorry."],
        Told(["Sorry."], calls={"c1": ("look", '{"a": oops')}, results={"c1": ("They are no JSON.", True)}),
    ),
    "arguments that are no object": (
        [*call("c1", "look", "[1]"), result("c1", "ok"), "So."],
        Told(["So."], calls={"c1": ("look", "[1]")}, results={"c1": ("ok", False)}),
    ),
    "a call without arguments": (
        [*call("c1")[:1], ToolCallEndEvent(tool_call_id="c1"), result("c1", "ok")],
        Told(calls={"c1": ("look", "")}, results={"c1": ("ok", False)}),
    ),
    "a tool that is not there": (
        [*call("c1", "nothing"), result("c1", "There is no tool nothing.", "There is no tool nothing."), "Sorry."],
        Told(["Sorry."], calls={"c1": ("nothing", "{}")}, results={"c1": ("There is no tool nothing.", True)}),
    ),
    "a hand-over": (
        [
            *("One moment.", *call("c1", "transfer_to_agent", '{"agent_name":"b"}'), result("c1", "ok")),
            *(StepStartedEvent(step_name="b"), "I am b.", StepFinishedEvent(step_name="b")),
        ],
        Told(
            ["One moment.", "I am b."],
            calls={"c1": ("transfer_to_agent", '{"agent_name":"b"}')},
            results={"c1": ("ok", False)},
        ),
    ),
    "a result behind the words": (
        [*call("c1"), "Meanwhile.", result("c1", "late"), "So."],
        Told(["Meanwhile.", "So."], calls={"c1": ("look", "{}")}, results={"c1": ("late", False)}),
    ),
    "two agents at once": (
        [
            TextMessageContentEvent(message_id="m1", delta="One "),
            TextMessageContentEvent(message_id="m2", delta="Two "),
            TextMessageContentEvent(message_id="m1", delta="one."),
            TextMessageEndEvent(message_id="m1"),
            TextMessageContentEvent(message_id="m2", delta="two."),
            TextMessageEndEvent(message_id="m2"),
        ],
        Told(["One one.", "Two two."]),
    ),
    "cut at its length": (["It is", finish("length")], Told(["It is"], finish="length")),
    "cut by a filter": (["It is", finish("content_filter")], Told(["It is"], finish="content_filter")),
    "a filter, and no words": ([finish("content-filter")], Told([], finish="content_filter")),
    "a reason nobody knows": (["It is.", finish("eos")], Told(["It is."], finish="eos")),
}

OBJECTS = {text: json.dumps({"_raw": text}) for text in ("[1]", '{"a": oops')}

FINISH: dict[str | None, dict[str, str]] = {
    None: {"vercel": "stop", "openai": "stop", "openai-responses": "completed"},
    "length": {
        "vercel": "length",
        "openai": "length",
        "openai-responses": "max_output_tokens",
        "adk": "MAX_TOKENS",
    },
    "content_filter": {
        "vercel": "content-filter",
        "openai": "content_filter",
        "openai-responses": "content_filter",
        "adk": "SAFETY",
    },
    "eos": {"vercel": "other", "openai": "stop", "openai-responses": "completed", "adk": "OTHER"},
}
"""By how a run ended, what each wire says of it."""


def says(items: Sequence[AgentItem]) -> Callable[..., AsyncIterator[AgentItem]]:
    async def agent(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
        ctx.add_usage(TokenUsage(input_tokens=5, output_tokens=7, cached_input_tokens=3, reasoning_tokens=2))
        for item in items:
            yield item

    return agent


@pytest.fixture
async def bodies(request: pytest.FixtureRequest, client_of: Callable[..., Any]) -> dict[str, bytes]:
    items, _ = SHAPES[request.param]
    runner = Runner(says(items), app_name="a")
    client = await client_of(runner)
    await (await runner.start("?", run_id="r", session_id="s")).wait()
    return {
        name: (await client.get(f"/runs/r/events?wire={name}", headers={"accept": "text/event-stream"})).content
        for name in READERS
    }


def normal(told: Told) -> Any:
    """Arguments and results without what JSON leaves free."""

    def plain(text: str) -> Any:
        try:
            return json.loads(text.strip() or "{}")
        except ValueError:
            return text

    calls = {id: (name, plain(arguments)) for id, (name, arguments) in told.calls.items()}
    results = {id: (plain(said) if said else "", failed) for id, (said, failed) in told.results.items()}
    return (told.text, told.thoughts, calls, results, told.error)


@pytest.mark.parametrize(("name", "bodies"), [(name, name) for name in SHAPES], indirect=["bodies"])
def test_it_is_told_on_every_wire(name: str, bodies: dict[str, bytes]):
    expected = SHAPES[name][1]
    found = {wire: READERS[wire](body) for wire, body in bodies.items()}
    wrong = {}
    for wire, told in found.items():
        want = Told(**vars(expected))
        if wire in ("openai", "text"):
            want.calls, want.results = {}, {}
        if wire == "adk":  # its arguments are objects
            want.calls = {id: (name, OBJECTS.get(text, text)) for id, (name, text) in want.calls.items()}
        if wire == "text":
            want.thoughts = ""
        if normal(told) != normal(want):
            wrong[wire] = (normal(told), normal(want))
        if (reason := FINISH[expected.finish].get(wire)) is not None and told.finish != reason:
            wrong[f"{wire} finish"] = (told.finish, reason)
    assert not wrong


async def test_what_it_cost_is_told_where_there_is_a_place_for_it(client_of: Callable[..., Any]):
    client = await client_of(runner := Runner(says(["Hi."]), app_name="a"))
    await (await runner.start("?", run_id="r", session_id="s")).wait()

    async def last(wire: str) -> Any:
        body = (await client.get(f"/runs/r/events?wire={wire}", headers={"accept": "text/event-stream"})).content
        return [json.loads(frame.data) for frame in frames(body) if frame.data.startswith("{")][-1]

    counted = {"inputTokens": 5, "outputTokens": 7, "cachedInputTokens": 3, "reasoningTokens": 2}
    assert (await last("ag-ui"))["usage"] == [counted]
    assert (await last("vercel"))["messageMetadata"]["usage"] == counted
    told = (await last("openai-responses"))["response"]["usage"]
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (5, 7, 12)
    assert told["input_tokens_details"]["cached_tokens"] == 3
    assert told["output_tokens_details"]["reasoning_tokens"] == 2
    told = (await last("adk"))["usageMetadata"]
    assert (told["promptTokenCount"], told["cachedContentTokenCount"], told["thoughtsTokenCount"]) == (5, 3, 2)
    body = {"model": "a", "messages": [{"role": "user", "content": "?"}], "stream": True}
    answer = await client.post("/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}})
    told = [json.loads(frame.data) for frame in frames(answer.content) if frame.data.startswith("{")][-1]
    assert told["choices"] == []
    assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert told["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
