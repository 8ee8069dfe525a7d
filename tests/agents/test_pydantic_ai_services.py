"""Real model classes of Pydantic AI on services that refuse what the real ones do: the provider's own tools, ids that
come late or change, settings, and what the next turn's model is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, ToolReturn
from pydantic_ai import RunContext as ToolContext
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.native_tools import CodeExecutionTool, WebSearchTool
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.ui.vercel_ai.response_types import DataChunk, FileChunk, SourceDocumentChunk, SourceUrlChunk

from gapless import RunConfig, Runner
from gapless.errors import InputInvalid
from gapless.events import (
    CustomEvent,
    Event,
    TextMessageContentEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    encode_event,
)
from gapless.protocols.vercel.wire import VercelEncoder
from gapless.records import RunRecord
from tests.support.agui import check_order
from tests.support.pydantic_ai_runs import of, one_run

pytestmark = pytest.mark.both_ways

Chunks = list[dict[str, Any]]
CALLS = (ToolCallStartEvent, ToolCallArgsEvent, ToolCallEndEvent, ToolCallResultEvent)


class Service:
    """Answers with what `reply` makes of a request's body, as a stream; an answer that is text refuses it."""

    def __init__(self, reply: Callable[[dict[str, Any]], Chunks | str]) -> None:
        self.reply = reply
        self.seen: list[dict[str, Any]] = []
        self.client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer), timeout=1200)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.seen.append(body)
        chunks = self.reply(body)
        if isinstance(chunks, str):
            return httpx2.Response(400, json={"error": {"message": chunks, "code": 400, "status": "INVALID_ARGUMENT"}})
        lines = [
            (f"event: {chunk['type']}\n" if "type" in chunk else "") + f"data: {json.dumps(chunk)}\n\n"
            for chunk in chunks
        ]
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text="".join(lines))

    def openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url="http://service/v1", api_key="k", http_client=self.client, max_retries=0)

    def chat(self, name: str = "m") -> OpenAIChatModel:
        return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=self.openai()))


async def turns(agent: Any, *messages: str, **options: Any) -> list[list[Event]]:
    async with Runner(agent) as runner:
        found = []
        for message in messages:
            run = await runner.start(message, session_id="s", **options)
            await run.collect()
            events = [event async for event in run.events()]
            check_order(events)
            found.append(events)
        return found


# -- chat completions: ids ---------------------------------------------------------------------------------------------


def chat(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def piece(index: int, id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return chat(tool_calls=[{"index": index, "id": id, "function": function}])


def refusal_of_chat(body: dict[str, Any]) -> str | None:
    open_ids: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                return f"no call {message['tool_call_id']}"
            open_ids.remove(message["tool_call_id"])
        elif open_ids:
            return f"calls without a result: {open_ids}"
        open_ids += [call["id"] for call in message.get("tool_calls") or ()]
    return None


IDS: dict[str, tuple[Chunks, str | None]] = {
    "with the arguments": (
        [piece(0, name="weather"), piece(0, "c1", arguments='{"ci'), piece(0, arguments='ty":"A"}')],
        "c1",
    ),
    "after the first of them": (
        [piece(0, name="weather", arguments='{"ci'), piece(0, "c1", arguments='ty":"A"}')],
        None,
    ),
    "another each time": (
        [piece(0, "a", "weather"), piece(0, "b", arguments='{"ci'), piece(0, "c", arguments='ty":"A"}')],
        None,
    ),
    "empty": ([piece(0, "", "weather"), piece(0, "", arguments='{"city":"A"}')], None),
    "never": ([piece(0, name="weather"), piece(0, arguments='{"city":"A"}')], None),
    "without arguments": ([piece(0, "c1", "now")], "c1"),
    "two that take turns": (
        [
            *(piece(0, "c1", "weather"), piece(1, "c2", "weather")),
            *(piece(0, arguments='{"city":'), piece(1, arguments='{"city":')),
            *(piece(1, arguments='"B"}'), piece(0, arguments='"A"}')),
        ],
        "c1",
    ),
}


@pytest.mark.parametrize("when", IDS)
async def test_a_call_has_one_id_whenever_the_service_tells_it(when: str):
    chunks, id = IDS[when]

    def reply(body: dict[str, Any]) -> Chunks | str:
        if body["messages"][-1]["role"] == "user":
            return refusal_of_chat(body) or [*chunks, chat("tool_calls")]
        return refusal_of_chat(body) or [chat(content="It is sunny."), chat("stop")]

    service = Service(reply)
    agent = Agent(service.chat())

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"sunny in {city}"

    @agent.tool_plain
    def now() -> str:
        return "noon"

    first, _ = await turns(agent, "weather?", "again?")
    by_call: dict[str, list[Any]] = {}
    for event in first:
        if isinstance(event, CALLS):
            by_call.setdefault(event.tool_call_id, []).append(event)
    assert len(by_call) == (2 if "two" in when else 1)
    assert id is None or id in by_call
    for events in by_call.values():
        assert [type(event) for event in (events[0], *events[-2:])] == [CALLS[0], *CALLS[2:]]
        assert json.loads("".join(event.delta for event in events if isinstance(event, ToolCallArgsEvent))) in (
            *({"city": city} for city in "AB"),
            {},
        )
    told = [call["id"] for message in service.seen[-2]["messages"] for call in message.get("tool_calls") or ()]
    assert told == [*by_call]


# -- the provider's own tools ------------------------------------------------------------------------------------------


def gemini(part: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [part]}, "index": 0} | (
        {"finishReason": finish} if finish else {}
    )
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", "responseId": "r"}


def kinds(events: list[Event]) -> list[str]:
    shown = (TextMessageContentEvent, ToolCallArgsEvent, ToolCallResultEvent)
    return [type(event).__name__.removesuffix("Event") for event in events if isinstance(event, shown)]


async def test_geminis_code_is_run_in_the_order_in_which_it_says_so():
    def code(text: str) -> dict[str, Any]:
        return gemini({"executableCode": {"language": "PYTHON", "code": text}})

    def output(text: str) -> dict[str, Any]:
        return gemini({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": text}})

    chunks = [gemini({"text": "Let me see. "}), code("1+1"), output("2"), code("2+2"), output("4")]
    service = Service(lambda body: [*chunks, gemini({"text": "2 and 4."}, "STOP")])
    provider = GoogleProvider(api_key="k", base_url="http://service", http_client=service.client)
    agent = Agent(GoogleModel("gemini-3-flash", provider=provider), capabilities=[NativeTool(CodeExecutionTool())])
    first, _, _ = await turns(agent, "compute", "again", "and again")
    assert kinds(first) == ["TextMessageContent", *["ToolCallArgs", "ToolCallResult"] * 2, "TextMessageContent"]
    assert ["1+1" in event.delta for event in of(first, ToolCallArgsEvent)] == [True, False]
    told = [
        kind
        for content in service.seen[-1]["contents"]
        if content["role"] == "model"
        for part in content["parts"]
        for kind in part
        if kind in ("text", "executableCode", "codeExecutionResult")
    ]
    assert told == ["text", *["executableCode", "codeExecutionResult"] * 2, "text"] * 2


def added(index: int, item: dict[str, Any], kind: str = "added") -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": item}


def search(status: str, query: str | None = None) -> dict[str, Any]:
    action: dict[str, Any] = (
        {"type": "search", "query": query, "queries": [query]} if query else {"type": "search", "query": ""}
    )
    return {"type": "web_search_call", "id": "ws_1", "status": status, "action": action}


def interpreter(status: str, code: str, outputs: Any = None) -> dict[str, Any]:
    item: dict[str, Any] = {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "status": status,
        "code": code,
        "container_id": "box",
    }
    return item | {"outputs": outputs}


def message(index: int, text: str) -> Chunks:
    at: dict[str, Any] = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    item: dict[str, Any] = {
        "type": "message",
        "id": f"msg_{index}",
        "role": "assistant",
        "status": "completed",
        "content": [],
    }
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    return [
        added(index, item | {"status": "in_progress"}),
        {"type": "response.content_part.added", **at, "part": part | {"text": ""}},
        {"type": "response.output_text.delta", **at, "delta": text, "logprobs": []},
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        added(index, item | {"content": [part]}, "done"),
    ]


def whole(status: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "output": [],
        "tools": [],
    }
    fields |= {"parallel_tool_calls": True, "tool_choice": "auto", "status": status}
    usage: dict[str, Any] = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return fields | {"usage": usage if status == "completed" else None}


async def test_openais_own_tools_may_take_turns():
    code_at = {"item_id": "ci_1", "output_index": 1}
    chunks: Chunks = [
        {"type": "response.created", "response": whole("in_progress")},
        added(0, search("in_progress")),
        added(1, interpreter("in_progress", "")),
        {"type": "response.code_interpreter_call_code.delta", **code_at, "delta": "1+"},
        {"type": "response.code_interpreter_call_code.delta", **code_at, "delta": "1"},
        added(0, search("completed", "sunny"), "done"),
        {"type": "response.code_interpreter_call_code.done", **code_at, "code": "1+1"},
        added(1, interpreter("completed", "1+1", [{"type": "logs", "logs": "2"}]), "done"),
        *message(2, "It is 2."),
        {"type": "response.completed", "response": whole("completed")},
    ]
    service = Service(lambda body: [chunk | {"sequence_number": n} for n, chunk in enumerate(chunks)])
    model = OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=service.openai()))
    tools = [NativeTool(WebSearchTool()), NativeTool(CodeExecutionTool())]
    first, _ = await turns(Agent(model, capabilities=tools), "compute", "again")
    assert kinds(first)[-1] == "TextMessageContent"
    for id, word in (("ws_1", "sunny"), ("ci_1", "1+1")):
        events = [event for event in first if isinstance(event, CALLS) and event.tool_call_id == id]
        assert [type(event) for event in (events[0], *events[-2:])] == [CALLS[0], *CALLS[2:]]
        assert word in str(json.loads("".join(e.delta for e in events if isinstance(e, ToolCallArgsEvent))))
    told = [item.get("type", "message") for item in service.seen[-1]["input"]]
    assert told.count("web_search_call") == told.count("code_interpreter_call") == 1


# -- settings ----------------------------------------------------------------------------------------------------------


def weather_service() -> tuple[Service, Agent[Any, Any]]:
    def reply(body: dict[str, Any]) -> Chunks | str:
        if body["messages"][-1]["role"] == "user" and body.get("tools"):
            return [piece(0, "c1", "weather", "{}"), chat("tool_calls")]
        return refusal_of_chat(body) or [chat(content="Sunny."), chat("stop")]

    service = Service(reply)
    agent = Agent(service.chat())

    @agent.tool_plain
    def weather() -> str:
        return "sunny"

    @agent.tool_plain
    def time() -> str:
        return "noon"

    return service, agent


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "first"),
    [
        ("required", "required"),
        (function("weather"), function("weather")),
        ({"type": "function", "name": "weather"}, function("weather")),
        ("auto", "auto"),
    ],
)
async def test_a_choice_of_tools_is_for_the_first_answer(choice: Any, first: Any):
    service, agent = weather_service()
    (events,) = await turns(agent, "weather?", config=RunConfig(model_settings={"tool_choice": choice}))
    asked = [body.get("tool_choice", "auto") for body in service.seen]
    assert asked == [first, "auto"]
    assert not [event for event in of(events, CustomEvent) if event.name == "gapless.notice"]


async def test_tools_that_are_allowed_are_those_that_may_be_called():
    service, agent = weather_service()
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("weather")]}}
    await turns(agent, "weather?", config=RunConfig(model_settings={"tool_choice": choice}))
    assert [body["tool_choice"] for body in service.seen] == [choice, choice]


async def test_a_tool_that_is_not_there_cannot_be_chosen():
    _, agent = weather_service()
    with pytest.raises(InputInvalid, match="there is no tool nothing; the agent has time, weather"):
        await turns(agent, "weather?", config=RunConfig(model_settings={"tool_choice": function("nothing")}))


async def test_settings_of_openais_api_reach_the_model_and_what_cannot_be_done_is_said():
    service = Service(lambda body: [chat(content="Yes."), chat("stop")])
    settings = {"stop": "END", "reasoning_effort": "low", "max_completion_tokens": 9, "min_p": 0.1}
    config = RunConfig(model_settings=settings | {"tool_choice": "required"})
    events = await one_run(Agent(service.chat("gpt-5")), config=config)
    (body,) = service.seen
    assert (body["stop"], body["reasoning_effort"]) == (["END"], "low")
    assert 9 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    (notice,) = [event.value for event in of(events, CustomEvent) if event.name == "gapless.notice"]
    assert notice["code"] == "setting_ignored"
    assert notice["message"].endswith("min_p, tool_choice")


# -- what tools bring along --------------------------------------------------------------------------------------------


async def test_tokens_of_agents_inside_of_tools_count():
    def usage(count: int) -> dict[str, Any]:
        tokens = {"prompt_tokens": count, "completion_tokens": 2, "total_tokens": count + 2}
        return chat("stop") | {"choices": [], "usage": tokens}

    inner = Agent(Service(lambda body: [chat(content="42"), chat("stop"), usage(200)]).chat())

    def reply(body: dict[str, Any]) -> Chunks:
        if body["messages"][-1]["role"] == "user":
            return [piece(0, "c1", "ask", "{}"), chat("tool_calls"), usage(50)]
        return [chat(content="It is 42."), chat("stop"), usage(98)]

    agent = Agent(Service(reply).chat())

    @agent.tool
    async def ask(ctx: ToolContext[Any]) -> str:
        async with inner.run_stream("?", usage=ctx.usage) as stream:
            return await stream.get_output()

    async with Runner(agent) as runner:
        response = await (await runner.start("?")).collect()
    assert sum(one.total_tokens or 0 for one in response.usage or ()) == 354


async def test_parts_for_a_page_pass_as_they_do_with_the_frameworks_own_adapter():
    _, agent = weather_service()
    chunks = [
        DataChunk(type="data-chart", id="d1", data={"x": [1, 2]}),
        DataChunk(type="data-hint", data="soon", transient=True),
        SourceUrlChunk(source_id="s1", url="https://example.com/a", title="A"),
        SourceDocumentChunk(source_id="s2", media_type="application/pdf", title="B", filename="b.pdf"),
        FileChunk(url="https://example.com/c.png", media_type="image/png"),
        FileChunk(url="data:image/png;base64,aGk=", media_type="image/png"),
    ]
    other = Agent(agent.model)

    @other.tool_plain
    def weather() -> ToolReturn:
        return ToolReturn("sunny", metadata=chunks)

    (events,) = await turns(other, "weather?")
    encoder = VercelEncoder(RunRecord(id="r", session_id="s", user_id="u", agent="a", message="m", created_at=1))
    data = [frame for event in events for frame in encoder.frames(encode_event(event))]
    frames = [json.loads(frame) for frame in data if frame[:1] == b"{"]
    sent = [frame for frame in frames if frame["type"].partition("-")[0] in ("data", "source", "file")]
    own = [chunk.model_dump(mode="json", by_alias=True, exclude_none=True) for chunk in chunks]
    assert sent == own
