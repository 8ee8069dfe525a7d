"""What model services do, through the frameworks' own model classes: what a run shows, and what the next model call is
given, is what the framework alone would have shown and given."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

import pytest
from agents import Agent as SDKAgent
from agents import OpenAIChatCompletionsModel
from openai import AsyncOpenAI

from gapless import RunConfig, Runner
from gapless.agents import adapt
from gapless.errors import RunTimeout
from gapless.events import Event, RunErrorEvent
from gapless.fold import Fold
from tests.support.agui import check_order
from tests.support.model_classes import CLASSES, Said, said_in
from tests.support.runs import LoopClock
from tests.support.services import (
    ANTHROPIC,
    CHAT,
    GEMINI,
    RESPONSES,
    Protocol,
    Script,
    call,
    chat,
    claude,
    function_item,
    gemini_chunk,
    item_event,
    responses,
    said,
    service,
    text_delta,
    thinking,
    tool_use,
)
from tests.support.upstream import Reply
from tests.support.waiting import WAIT_S

SIGNED = "U0lHLUE="
PING = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
HALF, OTHER_HALF = "\ud83d", "\ude00"


def g(text: str, **more: Any) -> dict[str, Any]:
    return gemini_chunk({"text": text}, **more)


def gcall(name: str, signature: str | None = SIGNED, **args: Any) -> dict[str, Any]:
    part: dict[str, Any] = {"functionCall": {"name": name, "args": args}}
    return part | ({"thoughtSignature": signature} if signature else {})


PARIS = '{"city":"Paris"}'
STOP = gemini_chunk(finish="STOP")
BARE_STOP = {"candidates": [{"finishReason": "STOP", "index": 0}]}

HABITS: dict[str, tuple[Protocol, Script]] = {
    # -- Gemini
    "a text in pieces": (GEMINI, [[g("It is "), g("sunny."), STOP]]),
    "fields nobody knows": (
        GEMINI,
        [[g("Sun", weather=1), g("ny.", finish="STOP", usageMetadata={"promptTokenCount": 1, "x": 2})]],
    ),
    "chunks without a candidate, a content, or parts": (
        GEMINI,
        [
            [
                {"usageMetadata": {"promptTokenCount": 4}, "modelVersion": "gemini-3-flash"},
                {"candidates": [{"index": 0}]},
                {"candidates": [{"content": {"role": "model"}, "index": 0}]},
                g("Sunny."),
                {"candidates": [{"content": {}, "finishReason": "STOP", "index": 0}]},
            ]
        ],
    ),
    "a finish without content": (GEMINI, [[g("Sunny."), BARE_STOP]]),
    "an end without a finish": (GEMINI, [[g("Sunny.")]]),
    "text after the finish": (GEMINI, [[g("Sun", finish="STOP"), g("ny.", finish="STOP")]]),
    "empty texts": (GEMINI, [[g(""), g("Sunny."), g("", finish="STOP")]]),
    "a signature on an empty text at the end": (
        GEMINI,
        [[g("Sunny."), gemini_chunk({"text": "", "thoughtSignature": SIGNED}, finish="STOP")]],
    ),
    "a thought, then a call with its signature": (
        GEMINI,
        [[gemini_chunk({"text": "Hm.", "thought": True}), gemini_chunk(gcall("weather", city="Paris")), STOP]],
    ),
    "two calls, the first signed": (
        GEMINI,
        [[gemini_chunk(gcall("weather", city="Paris"), gcall("weather", None, city="Rome"), finish="STOP")]],
    ),
    "two calls in two chunks": (
        GEMINI,
        [[gemini_chunk(gcall("weather", city="Paris")), gemini_chunk(gcall("now", None)), STOP]],
    ),
    "the same call twice": (
        GEMINI,
        [[gemini_chunk(gcall("weather", city="Paris"), gcall("weather", None, city="Paris"), finish="STOP")]],
    ),
    "text, a call, and text after the result": (
        GEMINI,
        [[g("Let me see. "), gemini_chunk(gcall("now"), finish="STOP")], [g("It is "), g("noon.", finish="STOP")]],
    ),
    "text behind a call": (GEMINI, [[gemini_chunk(gcall("now"), {"text": "One moment."}, finish="STOP")]]),
    "a call without arguments": (
        GEMINI,
        [[gemini_chunk({"functionCall": {"name": "now"}, "thoughtSignature": SIGNED}, finish="STOP")]],
    ),
    "a call of a tool that is not there": (GEMINI, [[gemini_chunk(gcall("nothing", x=1), finish="STOP")]]),
    "a role that is missing": (
        GEMINI,
        [[{"candidates": [{"content": {"parts": [{"text": "Sunny."}]}, "finishReason": "STOP"}]}]],
    ),
    "steps one after the other": (
        GEMINI,
        [
            [gemini_chunk(gcall("weather", city="Paris"), finish="STOP")],
            [gemini_chunk(gcall("weather", "U0lHLUI=", city="Rome"), finish="STOP")],
            [g("Both sunny.", finish="STOP")],
        ],
    ),
    "letters outside of the first plane": (GEMINI, [[g("a😀"), g("b\u2028c\x00d", finish="STOP")]]),
    "an answer cut at its length": (GEMINI, [[g("It is"), gemini_chunk(finish="MAX_TOKENS")]]),
    # -- Anthropic
    "Claude says it": (ANTHROPIC, [claude("It is sunny.")]),
    "pings and events nobody knows": (
        ANTHROPIC,
        [
            [
                *({"type": "ping"}, *claude("Sunny.")[:2], {"type": "ping"}),
                *({"type": "content_block_new", "index": 9}, PING, *claude("Sunny.")[2:]),
            ]
        ],
    ),
    "a text that begins at once": (
        ANTHROPIC,
        [claude(({"type": "text", "text": "Sun"}, [text_delta(""), text_delta("ny.")]))],
    ),
    "two texts": (ANTHROPIC, [claude("Sunny. ", "Warm.")]),
    "arguments in pieces, an empty one first": (
        ANTHROPIC,
        [claude(tool_use("toolu_1", "weather", "", '{"ci', 'ty":', '"Paris"}'), stop="tool_use")],
    ),
    "a call without any arguments": (ANTHROPIC, [claude(tool_use("toolu_1", "now"), stop="tool_use")]),
    "a call with an empty piece alone": (ANTHROPIC, [claude(tool_use("toolu_1", "now", ""), stop="tool_use")]),
    "two calls behind a text": (
        ANTHROPIC,
        [
            claude(
                "Let me see.",
                tool_use("toolu_1", "weather", PARIS),
                tool_use("toolu_2", "now", "{}"),
                stop="tool_use",
            )
        ],
    ),
    "a signed thought before a call": (
        ANTHROPIC,
        [claude(thinking("Hm."), tool_use("toolu_1", "weather", PARIS), stop="tool_use")],
    ),
    "a thought that is redacted": (
        ANTHROPIC,
        [
            claude(
                ({"type": "redacted_thinking", "data": "c2VjcmV0"}, []),
                "So.",
                tool_use("toolu_1", "weather", PARIS),
                stop="tool_use",
            )
        ],
    ),
    "a thought between two calls": (
        ANTHROPIC,
        [
            claude(thinking("Hm."), tool_use("toolu_1", "weather", PARIS), stop="tool_use"),
            claude(thinking("Well.", "c2lnMg=="), tool_use("toolu_2", "now"), stop="tool_use"),
            claude("Noon."),
        ],
    ),
    "no answer after a result": (
        ANTHROPIC,
        [claude(tool_use("toolu_1", "now"), stop="tool_use"), claude(), claude("Noon.")],
    ),
    "usage with nulls": (
        ANTHROPIC,
        [claude("Sunny.", input_tokens=None, cache_read_input_tokens=None, server_tool_use=None)],
    ),
    "no stop reason": (ANTHROPIC, [claude("Sunny.", stop=None)]),
    "Claude is cut at its length": (ANTHROPIC, [claude("It is", stop="max_tokens")]),
    # -- chat completions
    "chat: a text in pieces": (
        CHAT,
        [[chat(role="assistant", content=""), chat(content="Sun"), chat(content="ny."), chat("stop"), DONE]],
    ),
    "chat: comments and empty choices": (
        CHAT,
        [[": OPENROUTER PROCESSING\n\n", {**chat(), "choices": []}, chat(content="Sunny."), PING, chat("stop"), DONE]],
    ),
    "chat: usage in a chunk of its own": (
        CHAT,
        [
            [
                chat(content="Sunny."),
                chat("stop"),
                {**chat(), "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
                DONE,
            ]
        ],
    ),
    "chat: no [DONE]": (CHAT, [[chat(content="Sunny."), chat("stop")]]),
    "chat: no finish reason": (CHAT, [[chat(content="Sunny."), DONE]]),
    "chat: a call": (CHAT, [[call(0, "c1", "weather"), call(0, None, None, PARIS), chat("tool_calls"), DONE]]),
    "chat: index null": (CHAT, [[call(None, "c1", "weather", PARIS), chat("tool_calls"), DONE]]),
    "chat: an id that comes late": (
        CHAT,
        [[call(0, None, "weather"), call(0, "c1", None, PARIS), chat("tool_calls"), DONE]],
    ),
    "chat: a name in pieces": (
        CHAT,
        [[call(0, "c1", "wea"), call(0, None, "ther"), call(0, None, None, PARIS), chat("tool_calls"), DONE]],
    ),
    "chat: two calls that take turns": (
        CHAT,
        [
            [
                *(call(0, "c1", "weather"), call(1, "c2", "weather")),
                *(call(0, None, None, '{"city":'), call(1, None, None, '{"city":')),
                *(call(1, None, None, '"Rome"}'), call(0, None, None, '"Paris"}')),
                *(chat("tool_calls"), DONE),
            ]
        ],
    ),
    "chat: a call without arguments": (CHAT, [[call(0, "c1", "now"), chat("tool_calls"), DONE]]),
    "chat: arguments null": (CHAT, [[call(0, "c1", "now", None), chat("tool_calls"), DONE]]),
    "chat: a call that ends with stop": (CHAT, [[call(0, "c1", "now", "{}"), chat("stop"), DONE]]),
    "chat: a thought": (CHAT, [[chat(reasoning_content="Hm."), chat(content="Sunny."), chat("stop"), DONE]]),
    "chat: a thought before a call": (
        CHAT,
        [[chat(reasoning_content="Hm."), call(0, "c1", "now", "{}"), chat("tool_calls"), DONE]],
    ),
    "chat: content and tool calls null": (
        CHAT,
        [[chat(content=None, tool_calls=None), chat(content="Sunny."), chat("stop"), DONE]],
    ),
    "chat: cut at its length": (CHAT, [[chat(content="It is"), chat("length"), DONE]]),
    # -- responses
    "responses: a text in pieces": (RESPONSES, [responses(said(0, "Sun", "ny."))]),
    "responses: a call": (RESPONSES, [responses(function_item(0, "c1", "weather", '{"ci', 'ty":"Paris"}'))]),
    "responses: a call without arguments": (RESPONSES, [responses(function_item(0, "c1", "now", "{}"))]),
    "responses: text and two calls": (
        RESPONSES,
        [
            responses(
                said(0, "Let me see."), function_item(1, "c1", "weather", PARIS), function_item(2, "c2", "now", "{}")
            )
        ],
    ),
    "responses: a thought of its own before a call": (
        RESPONSES,
        [
            responses(
                [
                    item_event("added", 0, {"type": "reasoning", "id": "rs_1", "summary": []}),
                    item_event(
                        "done", 0, {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "Z29uZQ=="}
                    ),
                ],
                function_item(1, "c1", "now", "{}"),
            )
        ],
    ),
    "responses: comments between": (RESPONSES, [[PING, *responses(said(0, "Sunny.")), PING]]),
    "responses: incomplete": (
        RESPONSES,
        [responses(said(0, "It is"), end="incomplete", incomplete_details={"reason": "max_output_tokens"})],
    ),
}


def cases(habits: Any) -> list[tuple[str, str]]:
    return [
        (name, habit)
        for habit, (protocol, *_) in habits.items()
        for name, one in CLASSES.items()
        if one.protocol is protocol
    ]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "k")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "0")


_MADE = re.compile(r"pyd_ai_[0-9a-f]+|adk-[0-9a-f-]{36}|call_[0-9a-f-]{24,36}|toolu_adk_[0-9a-f]+")


def plain(asked: list[dict[str, Any]]) -> Any:
    """Requests with ids that are made by chance told by their order."""
    numbers: dict[str, str] = {}
    text = _MADE.sub(lambda found: numbers.setdefault(found[0], f"id-{len(numbers)}"), json.dumps(asked))
    return json.loads(text)


async def through_gapless(agent: Any, *messages: str) -> list[tuple[Said, list[Event]]]:
    async with Runner(agent) as runner:
        turns = []
        for message in messages:
            run = await runner.start(message, session_id="s")
            events = [event async for event in run.events()]
            check_order(events)
            fold = Fold()
            for event in events:
                fold.add(event)
            turns.append((said_in(fold.messages()), events))
        return turns


@pytest.mark.parametrize(("name", "habit"), cases(HABITS))
async def test_what_a_service_does_comes_through_as_the_framework_takes_it(name: str, habit: str):
    one = CLASSES[name]
    protocol, script = HABITS[habit]
    async with service(protocol, script) as up:
        alone = await one.alone(one.agent(up.url), ["weather?", "again?"])
        given = up.again()
        turns = await through_gapless(one.agent(up.url), "weather?", "again?")
    assert not up.refused
    assert [said for said, _ in turns] == alone
    assert plain(up.asked) == plain(given)


HALVES: dict[str, Script] = {
    "a text": [[chat(content="a" + HALF), chat(content=OTHER_HALF + "b"), chat("stop"), DONE]],
    "half of one in a text": [[chat(content="a" + HALF + "b"), chat("stop"), DONE]],
    "a thought": [[chat(reasoning_content=HALF), chat(reasoning_content=OTHER_HALF), chat(content="b"), chat("stop")]],
    "an argument": [
        [
            *(call(0, "c1", "weather", '{"city":"' + HALF), call(0, None, None, OTHER_HALF + '"}')),
            *(chat("tool_calls"), DONE),
        ]
    ],
}


@pytest.mark.parametrize("where", HALVES)
async def test_a_character_that_a_service_divides_is_whole_and_the_conversation_goes_on(where: str):
    one = CLASSES["pydantic-ai chat"]  # alone it fails in the next turn, and ADK in this one: no JSON holds a half
    async with service(CHAT, HALVES[where]) as up:
        turns = await through_gapless(one.agent(up.url), "weather?", "again?")
    expected: dict[str, Said] = {
        "a text": [("text", "a😀b")],
        "half of one in a text": [("text", "a\ufffdb")],
        "a thought": [("thought", "😀"), ("text", "b")],
        "an argument": [("call", "weather", {"city": "😀"}), ("result", "weather", "sunny in 😀"), ("text", "Done.")],
    }
    assert [said for said, _ in turns] == [expected[where], [("text", "Done.")]]
    assert not up.refused


# -- what breaks -------------------------------------------------------------------------------------------------------

HEADS: dict[Protocol, list[Any]] = {
    GEMINI: [g("It is ")],
    ANTHROPIC: claude("It is ", tail=False)[:-1],
    CHAT: [chat(content="It is ")],
    RESPONSES: responses(said(0, "It is ", whole=False), end=""),
}
"""How an answer begins whose rest does not come."""
HALF_CALLS: dict[Protocol, list[Any]] = {
    ANTHROPIC: claude(tool_use("toolu_1", "weather", '{"ci'), tail=False)[:-1],
    CHAT: [call(0, "c1", "weather", '{"ci')],
    RESPONSES: responses(function_item(0, "c1", "weather", '{"ci')[:2], end=""),
}
ERRORS: dict[Protocol, str] = {
    GEMINI: 'data: {"error": {"code": 503, "status": "UNAVAILABLE", "message": "overloaded"}}\n\n',
    ANTHROPIC: 'event: error\ndata: {"type": "error", '
    '"error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n',
    CHAT: 'data: {"error": {"message": "overloaded", "code": 502}}\n\n',
    RESPONSES: 'event: error\ndata: {"type": "error", "code": "server_error", "message": "overloaded", "param": null, '
    '"sequence_number": 9}\n\n',
}


def refused(protocol: Protocol, status: int, **headers: str) -> Reply:
    body = json.dumps(protocol.error("not now")).encode()
    return Reply(body, status=status, content_type="application/json", headers=headers)


def breaks(protocol: Protocol) -> dict[str, Reply]:
    head, page = protocol.body(HEADS[protocol]), b"<html><body>Bad gateway</body></html>"
    found = {
        "cut": Reply(head + b"data: {", cut_at=len(head)),
        "ended before its end": Reply(head),
        "an error in mid-stream": Reply(head + ERRORS[protocol].encode()),
        "an error at once, with 200": Reply(ERRORS[protocol].encode()),
        "half of a chunk": Reply(head + b'data: {"cand'),
        "nothing": Reply(b""),
        "a page": Reply(page, content_type="text/html"),
        "429": refused(protocol, 429, **{"retry-after": "7"}),
        "401": refused(protocol, 401),
        "404": refused(protocol, 404),
        "500, a page": Reply(page, status=500, content_type="text/html"),
        "529": refused(protocol, 529),
    }
    if protocol in HALF_CALLS:
        half = protocol.body(HALF_CALLS[protocol])
        found["cut in a call"] = Reply(half + b"data: {", cut_at=len(half))
        found["ended in a call"] = Reply(half)
    return found


BREAKS = [(name, how) for name, one in CLASSES.items() for how in breaks(one.protocol)]


@pytest.mark.parametrize(("name", "how"), BREAKS)
async def test_what_breaks_fails_its_run_as_the_model_and_not_the_conversation(name: str, how: str):
    one = CLASSES[name]
    async with service(one.protocol, [breaks(one.protocol)[how]]) as up:
        try:
            alone = await one.alone(one.agent(up.url), ["weather?"])
        except Exception:
            alone = None
        up.again()
        first, second = await through_gapless(one.agent(up.url), "weather?", "again?")
    last = first[1][-1]
    if alone is None:
        assert isinstance(last, RunErrorEvent)
        assert last.code == "model_failed" or str(last.code).isupper(), last  # the latter is ADK's own
    else:
        assert [first[0]] == alone
    assert second[0] == [("text", "Done.")]
    assert not up.refused
    if how in ("cut", "an error in mid-stream") and one.protocol is not GEMINI:
        assert "It is" in json.dumps(up.asked[-1]), "what was shown is told to the next model"


@pytest.mark.parametrize("name", CLASSES)
async def test_a_service_that_stalls_ends_with_the_runs_patience_and_is_let_go(name: str):
    one = CLASSES[name]
    stalled = Reply(one.protocol.body(HEADS[one.protocol]), hold=True)
    async with service(one.protocol, [stalled]) as up, Runner(one.agent(up.url)) as runner:
        clock = LoopClock()
        run = await runner.start("weather?", session_id="s", config=RunConfig(idle_timeout=100))
        async for text in run.text_so_far():
            if text == "It is ":
                break
        for _ in range(2):  # idleness counts from when progress was looked for
            await clock.pass_(110)
        with pytest.raises(RunTimeout) as told:
            await run.collect()
        assert told.value.text == "It is "
        await asyncio.wait_for(up.left(), WAIT_S)
        assert (await (await runner.start("again?", session_id="s")).collect()).text == "Done."
    assert not up.refused


def agents_sdk(url: str) -> Any:
    model = OpenAIChatCompletionsModel("m", AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0))
    return SDKAgent(name="helper", model=model)


OTHERS: dict[str, tuple[Protocol, Any]] = {
    "endpoint": (CHAT, lambda url: adapt(f"{url}/v1?model=m")),
    "agents sdk": (CHAT, agents_sdk),
}
WAYS = {name: (one.protocol, one.agent) for name, one in CLASSES.items() if "litellm claude" not in name} | OTHERS


# -- what models say oddly ---------------------------------------------------------------------------------------------

ODD: dict[str, dict[Protocol, Script]] = {
    "blanks": {
        GEMINI: [[g(" \n", finish="STOP")]],
        ANTHROPIC: [claude(" \n")],
        CHAT: [[chat(content=" \n"), chat("stop"), DONE]],
        RESPONSES: [responses(said(0, " \n"))],
    },
    "blanks, then a call": {
        ANTHROPIC: [claude(" ", tool_use("toolu_1", "now"), stop="tool_use")],
        CHAT: [[chat(content=" "), call(0, "c1", "now", "{}"), chat("tool_calls"), DONE]],
        RESPONSES: [responses(said(0, " "), function_item(1, "c1", "now", "{}"))],
    },
    "a refusal": {
        GEMINI: [[gemini_chunk(finish="SAFETY")]],
        ANTHROPIC: [claude("No.", stop="refusal")],
        CHAT: [[chat(refusal="I can"), chat(refusal="not."), chat("stop"), DONE]],
    },
    "cut by a filter": {
        GEMINI: [[g("It"), gemini_chunk(finish="SAFETY")]],
        CHAT: [[chat(content="It"), chat("content_filter"), DONE]],
    },
    "half of the arguments": {
        ANTHROPIC: [claude(tool_use("toolu_1", "weather", '{"ci'), stop="tool_use")],
        CHAT: [[call(0, "c1", "weather", '{"ci'), chat("tool_calls"), DONE]],
        RESPONSES: [responses(function_item(0, "c1", "weather", '{"ci'))],
    },
    "arguments that are no object": {CHAT: [[call(0, "c1", "weather", '["Paris"]'), chat("tool_calls"), DONE]]},
    "a long id": {
        CHAT: [[call(0, "c" * 60, "now", "{}"), chat("tool_calls"), DONE]],
        RESPONSES: [responses(function_item(0, "c" * 70, "now", "{}"))],
    },
    "one id for two calls": {
        CHAT: [[call(0, "c1", "now", "{}"), call(1, "c1", "weather", PARIS), chat("tool_calls"), DONE]]
    },
    "one id in two steps": {CHAT: [[call(0, "c1", "now", "{}"), chat("tool_calls"), DONE]] * 2},
    "a tool by an odd name": {
        ANTHROPIC: [claude(tool_use("toolu_1", "höhe über", "{}"), stop="tool_use")],
        CHAT: [[call(0, "c1", "höhe über", "{}"), chat("tool_calls"), DONE]],
    },
}
"""Answers that their services would refuse to be told of as they came: with the framework alone, many end the
conversation for good."""


@pytest.mark.parametrize(
    ("odd", "name"),
    [(odd, name) for odd, by in ODD.items() for name, (protocol, _) in WAYS.items() if protocol in by],
)
async def test_what_a_model_says_oddly_is_no_conversations_end(odd: str, name: str):
    protocol, agent = WAYS[name]
    async with service(protocol, ODD[odd][protocol]) as up:
        await through_gapless(agent(up.url), "weather?", "again?", "and again?")
        assert not up.refused
        assert "and again?" in json.dumps(up.asked[-1])


# -- what pages send as history ----------------------------------------------------------------------------------------


def page(role: str, content: str = "", **more: Any) -> dict[str, Any]:
    return {"id": f"{role}-{content or more}", "role": role, "content": content, **more}


def calls_now(arguments: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}


NOW = calls_now("{}")
PICTURE = {"type": "image", "source": {"type": "data", "value": "iVBORw0KGgo=", "mimeType": "image/png"}}
SHOWN: Any = [{"type": "text", "text": "Here:"}, PICTURE]
PAGES: dict[str, list[dict[str, Any]]] = {
    "blanks": [page("user", "hi"), page("assistant", " \n"), page("user", "  "), page("assistant", "So?")],
    "a result twice": [
        *(page("user", "hi"), page("assistant", toolCalls=[NOW])),
        *(page("tool", "noon", toolCallId="c1"), page("tool", "noon!", toolCallId="c1"), page("assistant", "Noon.")),
    ],
    "half a character": [page("user", "hi"), page("assistant", "a" + HALF)],
    "instructions between": [page("user", "hi"), page("assistant", "So?"), page("developer", "Be brief.")],
    "a call that got nothing": [page("user", "hi"), page("assistant", "Hm.", toolCalls=[NOW])],
    "a greeting first": [page("assistant", "Hello!")],
    "a greeting behind instructions": [page("system", "Be kind."), page("assistant", "Hello!")],
    "a call first": [page("assistant", toolCalls=[NOW]), page("tool", "noon", toolCallId="c1")],
    "calls whose arguments are no object": [
        *(page("user", "hi"), page("assistant", "Hm.", toolCalls=[calls_now('{"')])),
        *(page("tool", "They are no JSON.", toolCallId="c1"), page("assistant", toolCalls=[calls_now("[1]")])),
        page("tool", "No.", toolCallId="c1"),
    ],
    "one id for two calls": [
        *(page("user", "hi"), page("assistant", toolCalls=[NOW]), page("tool", "noon", toolCallId="c1")),
        *(page("assistant", "So.", toolCalls=[NOW]), page("tool", "one", toolCallId="c1"), page("assistant", "One.")),
    ],
    "an empty result, and one with a picture": [
        *(page("user", "hi"), page("assistant", toolCalls=[NOW]), page("tool", "", toolCallId="c1")),
        *(page("assistant", "So.", toolCalls=[NOW | {"id": "c2"}]), page("tool", SHOWN, toolCallId="c2")),
        page("assistant", "I see."),
    ],
}
FOREIGN = ("call_" + "x" * 60, "functions.now:0", "call_a|fc_b", "ü" * 9, "a b")
"""Ids of calls that other providers, frameworks and clients give."""
PAGES["ids that others give"] = [
    page("user", "hi"),
    *itertools.chain.from_iterable(
        (
            page("assistant", toolCalls=[NOW | {"id": id, "function": {"name": "what is it?", "arguments": "{}"}}]),
            page("tool", "noon", toolCallId=id),
        )
        for id in FOREIGN
    ),
    page("assistant", "Noon."),
]


@pytest.mark.parametrize("history", PAGES)
@pytest.mark.parametrize("name", WAYS)
async def test_what_pages_send_as_history_is_what_services_take(name: str, history: str, client_of: Any):
    protocol, agent = WAYS[name]
    messages = [*PAGES[history], page("user", "again?")]
    body = {"threadId": "t", "runId": "r", "messages": messages, "tools": [], "context": [], "state": {}}
    async with service(protocol, []) as up:
        client = await client_of(Runner(agent(up.url)))
        answer = await client.post("/ag-ui", content=json.dumps(body), headers={"content-type": "application/json"})
    assert not up.refused
    assert "RUN_FINISHED" in answer.text
    asked = json.dumps(up.asked)
    assert "again?" in asked
    # The SDK gives a chat service no pictures of a tool.
    assert "iVBORw0KGgo" in asked or "picture" not in history or name == "agents sdk"
