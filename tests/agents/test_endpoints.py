"""Services by URL, scripted byte for byte, and one real model behind the same HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest

from gapless import RunConfig, Runner, StreamingMode, create_app
from gapless.agents import adapt, local
from gapless.agents.agui_endpoint import AGUIEndpoint
from gapless.agents.base import RunContext
from gapless.agents.endpoint_http import ATTEMPTS_MAX, EVENT_BYTES_MAX, STEPS_MAX, events_of, read_body
from gapless.agents.endpoints import endpoint
from gapless.agents.local import embedded_model
from gapless.agents.openai_chat import OpenAIChat, chat_messages
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    InputInvalid,
    InputTooLarge,
    ModelFailed,
    OutputInvalid,
)
from gapless.events import (
    AssistantMessage,
    AudioPart,
    ContentPart,
    CustomEvent,
    DataSource,
    DocumentPart,
    FunctionCall,
    ImagePart,
    Interrupt,
    Message,
    RawEvent,
    ReasoningMessage,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    SystemMessage,
    TextPart,
    TokenUsage,
    Tool,
    ToolCall,
    ToolMessage,
    UrlSource,
    UserMessage,
)
from gapless.fold import Fold
from gapless.runs.run import Run
from gapless.testing import serving
from support.agui import check_order
from support.rich import ANSWER, REASONING, rich
from support.upstream import Reply, Request, sse, upstream

KEY = "sk-a-secret-that-nobody-may-see"
WEATHER = Tool(name="weather", description="Tells the weather.", parameters={"type": "object", "properties": {}})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GAPLESS_ENDPOINT_KEY", "GAPLESS_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    },
}
HELLO = sse(chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk("stop"), "[DONE]")


def call(index: int, id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"index": index, "function": function} | ({"id": id, "type": "function"} if id else {})


async def ask(agent: object, message: str = "Hi", **options: Any) -> tuple[Fold, list[Any]]:
    """Run it through a runner, as users do. Raises the run's error."""
    async with Runner(agent) as runner:
        run = await runner.start(message, **options)
        fold, events = Fold(), []
        async for event in run.events():
            fold.add(event)
            events.append(event)
        record = await run.record()
        if isinstance(events[-1], RunErrorEvent):
            failure = GaplessError(events[-1].message, code=events[-1].code)
            failure.text = fold.text
            raise failure
        assert record.status.value == "finished"
        return fold, events


def finish_of(events: list[Any]) -> str:
    return next(str(e.value["reason"]) for e in events if isinstance(e, CustomEvent) and e.name == "gapless.finish")


# ------------------------------------------------------------------------------------------------------------- by URL


@pytest.mark.parametrize(
    ("reference", "kind", "posts_to"),
    [
        ("http://host/v1", OpenAIChat, "http://host/v1/chat/completions"),
        ("https://host:8443/api/v3/", OpenAIChat, "https://host:8443/api/v3/chat/completions"),
        ("http://host/x/chat/completions?api-version=2", OpenAIChat, "http://host/x/chat/completions?api-version=2"),
        ("openai+https://host/llm?model=m", OpenAIChat, "https://host/llm/chat/completions"),
        ("http://host/ag-ui", AGUIEndpoint, "http://host/ag-ui"),
        ("http://host/agents/agui/", AGUIEndpoint, "http://host/agents/agui/"),
        ("ag-ui+http://host/v1", AGUIEndpoint, "http://host/v1"),
    ],
)
def test_a_url_says_which_protocol_is_spoken(reference: str, kind: type, posts_to: str) -> None:
    agent = endpoint(reference)
    assert type(agent) is kind
    assert isinstance(agent, OpenAIChat | AGUIEndpoint)
    target = agent._completions if isinstance(agent, OpenAIChat) else agent._service.url
    assert str(target) == posts_to


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("http://host/", r"openai\+http://.*ag-ui\+http://"),
        ("http://host/chat", "which protocol"),
        ("openai+ftp://host/v1", "write http://"),
        ("http:///v1", "write http://"),
        ("http://user:secret@host/v1", "GAPLESS_ENDPOINT_KEY"),
        ("http://host:port/v1", "port"),
    ],
)
def test_a_url_that_says_too_little_is_refused_with_what_to_write(reference: str, says: str) -> None:
    with pytest.raises(AgentInvalid, match=says) as error:
        endpoint(reference)
    assert "secret" not in str(error.value)


def test_a_url_is_an_agent_wherever_agents_are_named() -> None:
    assert isinstance(adapt("http://127.0.0.1:1/v1?model=m"), OpenAIChat)


# --------------------------------------------------------------------------------------------------- chat completions


async def test_the_answer_streams_with_usage_and_finish_reason() -> None:
    async with upstream(Reply(sse(chunk(content="Hel"), chunk(content="lo"), chunk("length"), USAGE, "[DONE]"))) as up:
        fold, events = await ask(up.url + "/v1?model=m", config=RunConfig(model_settings={"temperature": 0.5}))
    assert fold.text == "Hello"
    assert finish_of(events) == "length"
    assert fold.finished is not None
    assert fold.finished.usage == [
        TokenUsage(
            provider="127.0.0.1",
            model="m",
            input_tokens=5,
            output_tokens=7,
            total_tokens=12,
            reasoning_tokens=3,
            cached_input_tokens=2,
        )
    ]
    request = up.requests[0].body
    assert up.requests[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert request == {
        "temperature": 0.5,
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_kept_apart_from_text(field: str) -> None:
    body = sse(chunk(**{field: "hm"}), chunk(**{field: "…"}), chunk(content="So."), chunk("stop"), "[DONE]")
    async with upstream(Reply(body)) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "So."
    reasoning, answer = fold.messages()
    assert isinstance(reasoning, ReasoningMessage)
    assert reasoning.content == "hm…"
    assert isinstance(answer, AssistantMessage)


async def test_calls_of_the_clients_tools_stream_and_are_left_pending() -> None:
    body = sse(
        chunk(content="Let me see."),
        chunk(tool_calls=[call(0, "a", "weather", '{"city"')]),
        chunk(tool_calls=[call(1, "b", "weather")]),
        chunk(tool_calls=[call(0, arguments=': "Bonn"}'), call(1, arguments="{}")]),
        chunk("tool_calls"),
        "[DONE]",
    )
    async with upstream(Reply(body)) as up:
        fold, events = await ask(up.url + "/v1?model=m", tools=[WEATHER])
    answer = fold.messages()[0]
    assert isinstance(answer, AssistantMessage)
    assert [(c.id, c.function.name, c.function.arguments) for c in answer.tool_calls or ()] == [
        ("a", "weather", '{"city": "Bonn"}'),
        ("b", "weather", "{}"),
    ]
    assert fold.finished is not None
    assert fold.finished.outcome == RunFinishedSuccessOutcome(pending_tool_call_ids=["a", "b"])
    assert finish_of(events) == "tool_calls"
    assert up.requests[0].body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells the weather.",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]


async def test_whole_calls_that_share_one_index_are_told_apart_by_their_ids() -> None:
    calls = [call(0, "a", "weather", "{}"), call(0, "b", "weather", "[]")]
    async with upstream(Reply(sse(chunk(tool_calls=calls), chunk("tool_calls"), "[DONE]"))) as up:
        fold, _ = await ask(up.url + "/v1?model=m", tools=[WEATHER])
    answer = fold.messages()[0]
    assert isinstance(answer, AssistantMessage)
    assert [c.function.arguments for c in answer.tool_calls or ()] == ["{}", "[]"]


async def test_a_call_of_a_tool_that_nobody_offered_is_shown_and_not_pending() -> None:
    async with upstream(Reply(sse(chunk("tool_calls", tool_calls=[call(0, "a", "own", "{}")]), "[DONE]"))) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.finished is not None
    assert fold.finished.outcome == RunFinishedSuccessOutcome(pending_tool_call_ids=[])


def completion(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": USAGE["usage"]}).encode()


async def test_without_streaming_one_json_answer_is_asked_for() -> None:
    body = completion(
        content="Hello", reasoning_content="hm", tool_calls=[{"id": "a", "function": {"name": "weather"}}]
    )
    async with upstream(Reply(body, content_type="application/json")) as up:
        fold, events = await ask(
            up.url + "/v1?model=m", config=RunConfig(streaming_mode=StreamingMode.NONE), tools=[WEATHER]
        )
    assert fold.text == "Hello"
    assert "stream" not in up.requests[0].body
    assert [type(m).__name__ for m in fold.messages()] == ["ReasoningMessage", "AssistantMessage"]
    assert not [e for e in events if isinstance(e, CustomEvent) and e.name == "gapless.notice"]


async def test_a_service_that_answers_whole_though_a_stream_was_asked_for_is_said_so() -> None:
    async with upstream(Reply(completion(content="Hello"), content_type="application/json")) as up:
        fold, events = await ask(up.url + "/v1?model=m")
        assert fold.text == "Hello"
        notices = [e.value["code"] for e in events if isinstance(e, CustomEvent) and e.name == "gapless.notice"]
        assert notices == ["streaming_unavailable"]
        with pytest.raises(GaplessError, match="fallback") as error:
            await ask(up.url + "/v1?model=m", config=RunConfig(fallback=False))
    assert error.value.code == "streaming_unavailable"


async def test_a_service_that_refuses_to_stream_is_asked_again_without() -> None:
    def answer(request: Request) -> Reply:
        if request.body.get("stream"):
            error = {"error": {"message": "no streams for you", "param": "stream"}}
            return Reply(json.dumps(error).encode(), status=400, content_type="application/json")
        return Reply(completion(content="Hello"), content_type="application/json")

    async with upstream(answer) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hello"
    assert len(up.requests) == 2


async def test_typed_output_is_asked_for_by_schema_and_parsed() -> None:
    @dataclasses.dataclass
    class City:
        name: str
        size: int

    answer = sse(chunk(content='{"name": "Bonn",'), chunk(content=' "size": 3}'), chunk("stop"), "[DONE]")
    async with (
        upstream(Reply(answer)) as up,
        Runner(up.url + "/v1?model=m") as runner,
        runner.run_stream("Which city?", output_type=City) as stream,
    ):
        assert await stream.get_output() == City("Bonn", 3)
    asked = up.requests[0].body["response_format"]["json_schema"]
    assert asked["name"] == "City"
    assert asked["schema"]["type"] == "object"
    assert set(asked["schema"]["properties"]) == {"name", "size"}


async def test_an_answer_that_is_not_the_json_asked_for_is_a_typed_error() -> None:
    settings = {"response_format": {"type": "json_object"}}
    async with upstream(Reply(sse(chunk(content='{"a":'), chunk("length"), "[DONE]"))) as up:
        with pytest.raises(GaplessError, match="max_tokens") as error:
            await ask(up.url + "/v1?model=m", config=RunConfig(model_settings=settings))
    assert error.value.code == OutputInvalid.code


# ------------------------------------------------------------------------------------------------ cuts, at every place


@pytest.mark.parametrize("clean", [False, True], ids=["abrupt", "clean"])
async def test_an_answer_cut_anywhere_is_never_taken_for_whole(clean: bool) -> None:
    body = sse(chunk(content="One "), chunk(content="two."), chunk("stop"), "[DONE]")
    whole_from = body.index(b'"finish_reason": "stop"')
    whole_from = body.index(b"\n\n", whole_from) + 2
    reply = Reply(body, clean=clean)
    async with upstream(reply) as up, Runner(up.url + "/v1?model=m") as runner:
        for position in range(len(body)):
            reply.cut_at = position
            run = await runner.start("Hi")
            record = await run.wait()
            shown = "".join([piece async for piece in _text(run)])
            if position >= whole_from:
                assert record.status.value == "finished", position
                assert shown == "One two."
            else:
                assert record.error is not None, position
                assert record.error["code"] == "endpoint_cut", position
                assert "One two.".startswith(shown)


async def _text(run: Run) -> AsyncIterator[str]:
    try:
        async for piece in run.text():
            yield piece
    except GaplessError:
        pass


@pytest.mark.parametrize("clean", [False, True], ids=["abrupt", "clean"])
async def test_an_ag_ui_run_cut_anywhere_is_never_taken_for_whole(clean: bool) -> None:
    reply = Reply(AGUI, clean=clean)
    whole_from = len(AGUI)
    async with upstream(reply) as up, Runner(up.url + "/ag-ui") as runner:
        for position in range(len(AGUI)):
            reply.cut_at = position
            record = await (await runner.start("Hi")).wait()
            assert position < whole_from
            assert record.error is not None, position
            assert record.error["code"] == "endpoint_cut", position


async def test_an_error_in_mid_stream_fails_the_run_and_keeps_what_was_shown() -> None:
    body = sse(chunk(content="Hel"), {"error": {"message": "the GPU caught fire"}})
    async with upstream(Reply(body)) as up:
        with pytest.raises(GaplessError, match="caught fire") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code
    assert error.value.text == "Hel"


@pytest.mark.parametrize("body", [sse("<html>"), sse("[1]"), sse({"choices": [{"delta": {"content": 5}}]})])
async def test_a_stream_of_something_else_is_said_to_be_that(body: bytes) -> None:
    async with upstream(Reply(body)) as up:
        with pytest.raises(GaplessError, match="not a chat completion") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code


async def test_a_web_page_is_no_answer() -> None:
    async with upstream(Reply(b"<html>", content_type="text/html; charset=utf-8")) as up:
        with pytest.raises(GaplessError, match="check the URL") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code


async def test_json_without_a_choice_is_no_answer() -> None:
    async with upstream(Reply(b"{}", content_type="application/json")) as up:
        with pytest.raises(GaplessError, match="not a chat completion"):
            await ask(up.url + "/v1?model=m")


async def test_cancelling_closes_the_connection() -> None:
    held = Reply(HELLO, cut_at=HELLO.index(b"lo"), hold=True)
    async with upstream(held, Reply(HELLO)) as up, Runner(up.url + "/v1?model=m") as runner:
        run = await runner.start("Hi", session_id="s")
        async for _ in run.text():
            break
        await run.cancel()
        await asyncio.wait_for(up.left.wait(), 10)
        assert (await run.wait()).status.value == "cancelled"
        assert (await (await runner.start("And?", session_id="s")).collect()).text == "Hello"
    assert up.requests[1].body["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hel\n[This answer was cut short here.]"},
        {"role": "user", "content": "And?"},
    ]


async def test_events_with_crlf_comments_and_no_space_are_read() -> None:
    body = b": hello\r\n\r\n" + sse(chunk(content="Hi\u2028!"), chunk("stop"), end=b"\r\n").replace(b"data: ", b"data:")
    async with upstream(Reply(body)) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hi\u2028!"


async def test_an_event_in_several_lines_is_one_event() -> None:
    first, rest = json.dumps(chunk(content="Hi")).split(", ", 1)
    body = f"data: {first},\nid: 5\nevent: message\ndata: {rest}\n: aside\n\n\n".encode()
    async with upstream(Reply(body + sse(chunk("stop"), "[DONE]"))) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hi"


# ---------------------------------------------------------------------------------------------- services that mean ill


def response_of(*pieces: bytes, waits: bool) -> httpx2.Response:
    """An answer in these pieces; with `waits` the event loop turns between them, as between what comes by network."""

    async def body() -> AsyncIterator[bytes]:
        for number, piece in enumerate(pieces):
            if waits and number % 1000 == 0:
                await asyncio.sleep(0)
            yield piece

    return httpx2.Response(200, content=body(), request=httpx2.Request("GET", "http://host/"))


def cut_up(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


LINES = EVENT_BYTES_MAX // len(b"data:x\n") - 1


@pytest.mark.parametrize(
    ("body", "size", "value"),
    [
        (b"data:x\n" * LINES + b"\n", 32, "\n".join("x" * LINES)),
        (b"data:" + b"x" * (EVENT_BYTES_MAX - 9) + b"\n\n", 32, "x" * (EVENT_BYTES_MAX - 9)),
    ],
    ids=["many lines", "one line"],
)
async def test_a_large_event_is_work_for_its_bytes_however_it_comes(body: bytes, size: int, value: str) -> None:
    async with asyncio.timeout(60):  # of work that grows with the square of the event it takes minutes
        assert [data async for data in events_of(response_of(*cut_up(body, size), waits=True))] == [value]


@pytest.mark.parametrize("body", [b"data:x\n" * LINES * 2, b"data:" + b"x" * EVENT_BYTES_MAX], ids=["lines", "line"])
async def test_an_event_over_the_limit_ends_the_run(body: bytes) -> None:
    async with upstream(Reply(body)) as up:
        with pytest.raises(GaplessError, match=f"event of more than {EVENT_BYTES_MAX} bytes") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code


@pytest.mark.parametrize("read", ["events", "pieces", "body"])
async def test_what_has_come_at_once_does_not_keep_other_runs_from_their_turn(read: str) -> None:
    count, turns = 10 * STEPS_MAX, 0
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop.call_soon(turn)
    if read == "body":
        assert await read_body(response_of(*[b"x"] * count, waits=False)) == b"x" * count
    else:
        pieces = [b"data: {}\n\n" * count] if read == "events" else [b":"] * count
        async for _ in events_of(response_of(*pieces, waits=False)):
            pass
    assert turns >= 10


async def test_the_newest_count_of_tokens_is_the_answers_also_when_it_is_cut() -> None:
    growing = [{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": n}} for n in range(1, 4)]
    async with upstream(Reply(sse(chunk(content="Hel"), *growing))) as up, Runner(up.url + "/v1?model=m") as runner:
        run = await runner.start("Hi")
        events = [event async for event in run.events()]
    last = events[-1]
    assert isinstance(last, RunErrorEvent)
    assert last.code == "endpoint_cut"
    assert [(one.input_tokens, one.output_tokens) for one in last.usage or ()] == [(5, 3)]


@pytest.mark.parametrize("path", ["/v1?model=m", "/ag-ui"])
@pytest.mark.parametrize("depth", [200, 100_000])
async def test_json_that_is_nested_too_deep_is_the_services_fault(path: str, depth: int) -> None:
    event = '{"type": "STATE_SNAPSHOT", "snapshot": %s, "error": %s}'
    deep = "[" * depth + "]" * depth
    async with upstream(Reply(sse(event % (deep, deep)))) as up:
        with pytest.raises(GaplessError, match="arrays and objects within each other") as error:
            await ask(up.url + path)
    assert error.value.code == ModelFailed.code


async def test_patches_of_a_large_state_are_work_for_their_own_bytes() -> None:
    state = {"type": "STATE_SNAPSHOT", "snapshot": {"rows": [[n] for n in range(60_000)]}}
    patches = ({"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/n", "value": n}]} for n in range(1000))
    finish = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
    async with upstream(Reply(sse(state, *patches, finish))) as up, asyncio.timeout(60):  # minutes if each copies it
        fold, _ = await ask(up.url + "/ag-ui")
    assert fold.state["n"] == 999


async def test_a_services_cookies_are_not_kept() -> None:
    async with upstream(Reply(HELLO, headers={"set-cookie": "who=somebody"})) as up:
        async with Runner(up.url + "/v1?model=m") as runner:
            for _ in range(2):
                await (await runner.start("Hi")).collect()
        assert [request.headers.get("cookie") for request in up.requests] == [None, None]


async def test_a_redirect_to_nowhere_is_a_refusal() -> None:
    async with upstream(Reply(b"", status=307, headers={"location": "http://host:port/"})) as up:
        with pytest.raises(GaplessError, match="answered 307") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code


# ---------------------------------------------------------------------------------------------------- refusals, retries


async def test_a_busy_service_is_asked_again_when_it_said_to() -> None:
    busy = Reply(b"{}", status=429, content_type="application/json", headers={"retry-after": "0"})
    async with upstream(busy, Reply(HELLO)) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.text == "Hello"
    assert len(up.requests) == 2


@pytest.mark.parametrize(
    ("reply", "requests"),
    [
        (Reply(b"", status=429, headers={"retry-after": "0"}), ATTEMPTS_MAX),
        (Reply(b"", status=503, headers={"retry-after": "3600"}), 1),
        (Reply(b"", status=503), 1),
        (Reply(b"", status=500, headers={"retry-after": "0"}), 1),
    ],
    ids=["always busy", "much later", "no time given", "broken"],
)
async def test_nothing_else_is_sent_twice(reply: Reply, requests: int) -> None:
    async with upstream(reply) as up:
        with pytest.raises(GaplessError) as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == ModelFailed.code
    assert len(up.requests) == requests


async def test_a_connection_that_breaks_before_the_answer_is_not_tried_again() -> None:
    served = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(GaplessError) as error:
        await ask(f"http://127.0.0.1:{port}/v1?model=m")
    server.close()
    assert error.value.code == "endpoint_cut"
    assert served == 1


async def test_nobody_there_is_said_with_the_url() -> None:
    async with upstream(Reply(b"")) as up:
        url = up.url
    with pytest.raises(GaplessError, match=f"nothing answers at {url}/v1/chat/completions"):
        await ask(url + "/v1?model=m&secret=1")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["/v1?model=m", "/ag-ui"])
async def test_a_missing_key_is_said_with_its_variable(status: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # is for OpenAI alone
    async with upstream(Reply(b'{"error": "Incorrect key sk-"}', status=status)) as up:
        with pytest.raises(GaplessError, match="set GAPLESS_ENDPOINT_KEY") as error:
            await ask(up.url + path)
        assert "authorization" not in up.requests[0].headers
        monkeypatch.setenv("OPENAI_BASE_URL", up.url + "/v1")
        with pytest.raises(GaplessError, match="does not take the key in OPENAI_API_KEY"):
            await ask(up.url + path)
        assert up.requests[1].headers["authorization"] == f"Bearer {KEY}"
    assert error.value.code == ModelFailed.code
    assert KEY not in error.value.message


async def test_the_key_goes_nowhere_but_to_the_url_as_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GAPLESS_ENDPOINT_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    async with upstream(Reply(HELLO)) as other:
        moved = Reply(b"", status=307, headers={"location": other.url + "/v1/chat/completions?token=t"})
        async with upstream(moved) as up:
            with pytest.raises(GaplessError, match=f"redirects to {other.url}/v1/chat/completions: write"):
                await ask(up.url + "/v1?model=m")
            assert up.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert other.requests == []
    assert KEY not in caplog.text


async def test_a_key_that_no_header_carries_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_ENDPOINT_KEY", "schlüssel")
    with pytest.raises(GaplessError, match="GAPLESS_ENDPOINT_KEY is no key") as error:
        await ask("http://127.0.0.1:1/v1?model=m")
    assert "schl" not in error.value.message


@pytest.mark.parametrize(
    ("status", "code"), [(404, ModelFailed.code), (400, InputInvalid.code), (413, InputTooLarge.code)]
)
async def test_what_the_service_says_is_passed_on(status: int, code: str) -> None:
    body = json.dumps({"error": {"message": "The model m does not exist", "code": "model_not_found"}}).encode()
    async with upstream(Reply(body, status=status, content_type="application/json")) as up:
        with pytest.raises(GaplessError, match=f"{status}: The model m does not exist") as error:
            await ask(up.url + "/v1?model=m")
    assert error.value.code == code


# ----------------------------------------------------------------------------------------------------------- the model


async def test_the_model_is_the_runs_or_the_urls_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_MODEL_NAME", "of-environment")
    async with upstream(Reply(HELLO)) as up:
        await ask(up.url + "/v1?model=of-url", config=RunConfig(model_settings={"model": "of-run"}))
        await ask(up.url + "/v1?model=of-url")
        await ask(up.url + "/v1")
    assert [request.body["model"] for request in up.requests] == ["of-run", "of-url", "of-environment"]


async def test_the_only_model_of_a_service_need_not_be_named() -> None:
    def answer(request: Request) -> Reply:
        if request.line == "GET /v1/models HTTP/1.1":
            return Reply(b'{"data": [{"id": "only"}]}', content_type="application/json")
        return Reply(HELLO)

    async with upstream(answer) as up:
        await ask(up.url + "/v1")
    assert up.requests[1].body["model"] == "only"


async def test_of_several_models_one_has_to_be_named() -> None:
    async with upstream(Reply(b'{"data": [{"id": "one"}, {"id": "two"}]}', content_type="application/json")) as up:
        with pytest.raises(GaplessError, match=r"\?model=NAME.*it has one, two") as error:
            await ask(up.url + "/v1")
    assert error.value.code == AgentInvalid.code


# ------------------------------------------------------------------------------------------------------------- history


def assistant(content: str | None, *calls: str, **metadata: Any) -> AssistantMessage:
    tool_calls = [ToolCall(id=id, function=FunctionCall(name="f", arguments="")) for id in calls]
    return AssistantMessage(id="a", content=content, tool_calls=tool_calls or None, metadata=metadata or None)


def result(id: str) -> ToolMessage:
    return ToolMessage(id=f"r-{id}", tool_call_id=id, content=f"result of {id}")


def test_history_is_sent_complete_and_in_the_order_that_services_take() -> None:
    history: list[Message] = [
        SystemMessage(id="s", content="Be brief."),
        UserMessage(id="u", content="Hi"),
        ReasoningMessage(id="t", content="hm"),
        assistant("Looking.", "answered", "dangling"),
        assistant("Meanwhile."),
        result("answered"),
        result("orphan"),
        assistant("Done."),
        assistant(None, "dangling too"),
        UserMessage(id="u2", content=""),
        UserMessage(id="u3", content="Go on"),
        assistant("Half an", interrupted=True),
    ]
    shown = [(m["role"], m["content"], [c["id"] for c in m.get("tool_calls", ())]) for m in chat_messages(history)]
    assert shown == [
        ("system", "Be brief.", []),
        ("user", "Hi", []),
        ("assistant", "Looking.", ["answered"]),
        ("tool", "result of answered", []),
        ("assistant", "Meanwhile.\nDone.", []),
        ("user", "Go on", []),
        ("assistant", "Half an\n[This answer was cut short here.]", []),
    ]


def test_media_have_the_forms_of_chat_completions() -> None:
    parts: list[ContentPart] = [
        TextPart(text="What is this?"),
        ImagePart(source=UrlSource(value="https://host/x.png")),
        ImagePart(source=DataSource(value="AAAA", mime_type="image/png")),
        AudioPart(source=DataSource(value="AAAA", mime_type="audio/mpeg")),
        DocumentPart(source=DataSource(value="AAAA", mime_type="application/pdf")),
    ]
    (message,) = chat_messages([UserMessage(id="u", content=parts)])
    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://host/x.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "file", "file": {"filename": "document", "file_data": "data:application/pdf;base64,AAAA"}},
    ]
    with pytest.raises(InputInvalid, match="audio by url"):
        chat_messages([UserMessage(id="u", content=[AudioPart(source=UrlSource(value="https://host/a.wav"))])])


# --------------------------------------------------------------------------------------------------------------- AG-UI

AGUI = sse(
    {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
    {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "Hello"},
    {"type": "STATE_SNAPSHOT", "snapshot": {"n": 1}},
    {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "result": {"ok": True}},
)


async def test_an_ag_ui_services_events_become_the_runs() -> None:
    async with upstream(Reply(AGUI)) as up:
        fold, events = await ask(up.url + "/ag-ui", session_id="s", run_id="r1", tools=[WEATHER])
    assert fold.text == "Hello"
    assert fold.state == {"n": 1}
    assert fold.finished is not None
    assert fold.finished.result == {"ok": True}
    assert [type(e).__name__ for e in events] == [
        "RunStartedEvent",
        "TextMessageStartEvent",
        "TextMessageContentEvent",
        "StateSnapshotEvent",
        "TextMessageEndEvent",
        "RunFinishedEvent",
    ]
    assert up.requests[0].body == {
        "threadId": "s",
        "runId": "r1",
        "messages": [{"role": "user", "id": "r1-user", "content": "Hi"}],
        "state": {},
        "tools": [{"name": "weather", "description": "Tells the weather.", "parameters": WEATHER.parameters}],
        "context": [],
        "forwardedProps": {},
    }


async def test_events_of_another_version_are_passed_on_raw() -> None:
    odd = {"type": "THINKING_START", "title": "hm"}
    async with upstream(Reply(sse(odd) + AGUI)) as up:
        _, events = await ask(up.url + "/ag-ui")
    assert [e.event for e in events if isinstance(e, RawEvent)] == [odd]


async def test_an_ag_ui_services_own_error_is_the_runs() -> None:
    async with upstream(Reply(sse({"type": "RUN_ERROR", "message": "no luck", "code": "luck"}))) as up:
        with pytest.raises(GaplessError, match="no luck") as error:
            await ask(up.url + "/ag-ui")
    assert error.value.code == "luck"


async def test_an_ag_ui_services_interrupt_is_asked_here_and_answered_there() -> None:
    asks = RunFinishedInterruptOutcome(interrupts=[Interrupt(id="i1", reason="confirm")])
    finished = msgspec.to_builtins(RunFinishedEvent(thread_id="t", run_id="r", outcome=asks))
    call = {"toolCallId": "c", "toolCallName": "order"}
    first = sse(
        {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
        {"type": "TOOL_CALL_START", **call},
        {"type": "TOOL_CALL_END", **call},
        finished,
    )
    async with upstream(Reply(first), Reply(AGUI)) as up, Runner(up.url + "/ag-ui") as runner:
        run = await runner.start("Hi", run_id="r1")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                await run.answer([ResumeEntry(interrupt_id="i1", status="resolved", payload={"yes": True})])
        assert (await run.collect()).text == "Hello"
    again = up.requests[1].body
    assert again["runId"] == "r1-2"
    assert [(m["role"], [c["id"] for c in m.get("toolCalls", ())]) for m in again["messages"]] == [
        ("user", []),
        ("assistant", ["c"]),
    ]
    assert again["resume"] == [{"interruptId": "i1", "status": "resolved", "payload": {"yes": True}}]


@pytest.mark.parametrize("reply", [Reply(b"{}", content_type="application/json"), Reply(sse("nonsense"))])
async def test_what_is_not_ag_ui_is_said_to_be_that(reply: Reply) -> None:
    async with upstream(reply) as up:
        with pytest.raises(GaplessError, match="not an AG-UI") as error:
            await ask(up.url + "/ag-ui")
    assert error.value.code == ModelFailed.code


# ------------------------------------------------------------------------------------------------- Gapless as a service


@pytest.mark.parametrize(("protocol", "path"), [("openai", "/v1?model=rich"), ("ag-ui", "/ag-ui?agent=rich")])
async def test_one_gapless_runs_anothers_agent(protocol: str, path: str) -> None:
    with serving(create_app(Runner(agents={"rich": rich}))) as url:
        fold, events = await ask(f"{protocol}+{url}{path}", "rich")
    assert fold.text == ANSWER
    reasoning = [one.content for one in fold.messages() if isinstance(one, ReasoningMessage)]
    assert "".join(reasoning) == "".join(REASONING)
    assert fold.finished is not None
    assert sum(one.total_tokens or 0 for one in fold.finished.usage or ()) == 33
    check_order(events)


# -------------------------------------------------------------------------------------------------------- a real model


async def test_a_real_model_answers_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    model = embedded_model()
    try:
        await model.load()
        server = local._servers[model.path]
        monkeypatch.setenv("GAPLESS_ENDPOINT_KEY", server.service.key or "")
        settings = {"temperature": 0, "max_tokens": 24}
        async with Runner(f"{server.service.url}/v1") as runner:
            run = await runner.start("Say hello.", session_id="s", config=RunConfig(model_settings=settings))
            answer = await run.collect()
            assert len(answer.chunks) > 1
            assert answer.usage[0].output_tokens
            whole = RunConfig(model_settings=settings, streaming_mode=StreamingMode.NONE)
            assert (await (await runner.start("Say hello.", config=whole)).collect()).text == answer.text
    finally:
        await model.aclose()


def test_a_context_outside_of_a_runner_is_enough() -> None:
    """Adapters depend on nothing but the seam."""

    async def interrupt(_: Any) -> Any:
        raise AssertionError

    async def run() -> list[Any]:
        async with upstream(Reply(HELLO)) as up:
            agent = endpoint(up.url + "/v1?model=m")
            message = UserMessage(id="u", content="Hi")
            ctx = RunContext(
                run_id="r",
                session_id="s",
                user_id="u",
                agent_name="a",
                content="Hi",
                messages=[message],
                config=RunConfig(),
                interrupt=interrupt,
            )
            return [item async for item in agent.run(ctx)]

    assert asyncio.run(run())[:2] == ["Hel", "lo"]
