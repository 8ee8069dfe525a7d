"""Chat completions services by URL, scripted byte for byte."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import RunConfig, Runner, StreamingMode
from gapless.agents.openai_chat import chat_messages
from gapless.agents.openai_chunks import Calls, decode_chunk
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    InputInvalid,
    ModelFailed,
    OutputInvalid,
    RunTimeout,
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
    ReasoningMessage,
    RunErrorEvent,
    RunFinishedSuccessOutcome,
    TextPart,
    TokenUsage,
    Tool,
    ToolCall,
    ToolCallStartEvent,
    ToolMessage,
    UrlSource,
    UserMessage,
)
from gapless.fold import FILE, Fold
from gapless.runs.run import Run
from tests.support.endpoints import HELLO, WEATHER, ask, call, chunk
from tests.support.upstream import Reply, Request, sse, upstream
from tests.support.waiting import WAIT_S


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GAPLESS_ENDPOINT_KEY", "GAPLESS_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


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


def finish_of(events: list[Any]) -> str:
    return next(str(e.value["reason"]) for e in events if isinstance(e, CustomEvent) and e.name == "gapless.finish")


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
        await asyncio.wait_for(up.left.wait(), WAIT_S)
        assert (await run.wait()).status.value == "cancelled"
        assert (await (await runner.start("And?", session_id="s")).collect()).text == "Hello"
    assert up.requests[1].body["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hel\n[This answer was cut short here.]"},
        {"role": "user", "content": "And?"},
    ]


async def test_a_service_that_keeps_the_connection_after_the_finish_reason_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gapless.agents.openai_chat.END_WAIT_S", 0.05)
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    body = sse(chunk(content="Hel"), chunk(content="lo"), chunk("stop"), usage)
    async with upstream(Reply(body, hold=True)) as up, asyncio.timeout(WAIT_S):
        fold, events = await ask(up.url + "/v1?model=m")
        await up.left.wait()
    assert fold.text == "Hello"
    assert [one.input_tokens for one in events[-1].usage] == [5]


async def test_an_answer_without_a_finish_reason_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapless.agents.openai_chat.END_WAIT_S", 0.0)
    held = Reply(HELLO, cut_at=HELLO.index(b'"finish_reason": "stop"'), hold=True)
    async with upstream(held) as up, Runner(up.url + "/v1?model=m", config=RunConfig(idle_timeout=0.5)) as runner:
        run = await runner.start("Hi")
        assert ((await run.wait()).error or {})["code"] == RunTimeout.code


async def test_the_newest_count_of_tokens_is_the_answers_also_when_it_is_cut() -> None:
    growing = [{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": n}} for n in range(1, 4)]
    async with upstream(Reply(sse(chunk(content="Hel"), *growing))) as up, Runner(up.url + "/v1?model=m") as runner:
        run = await runner.start("Hi")
        events = [event async for event in run.events()]
    last = events[-1]
    assert isinstance(last, RunErrorEvent)
    assert last.code == "endpoint_cut"
    assert [(one.input_tokens, one.output_tokens) for one in last.usage or ()] == [(5, 3)]


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


def raw(**fields: Any) -> dict[str, Any]:
    return chunk(tool_calls=[fields])


def function(name: str | None = None, arguments: Any = None) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


STOP, CALLED, DONE = chunk("stop"), chunk("tool_calls"), "[DONE]"
WHOLE = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
F, G = ("f", "{}"), ("g", "{}")
HABITS: dict[str, tuple[list[Any], str, str, list[tuple[str, str]]]] = {
    # what a service sends: its chunks, and the text, the thought and the calls that they mean
    "index null": ([raw(index=None, id="a", function=function(*F)), CALLED, DONE], "", "", [F]),
    "no index, two calls": (
        [raw(id="a", function=function(*F)), raw(id="b", function=function(*G)), CALLED, DONE],
        "",
        "",
        [F, G],
    ),
    "no index and no ids": ([raw(function=function(*F)), raw(function=function(*F)), CALLED, DONE], "", "", [F, F]),
    "one index, no ids": (
        [raw(index=0, id="", function=function(*F)), raw(index=0, id="", function=function(*G)), CALLED, DONE],
        "",
        "",
        [F, G],
    ),
    "one id for two calls": (
        [raw(index=0, id="a", function=function(*F)), raw(index=1, id="a", function=function(*G)), CALLED, DONE],
        "",
        "",
        [F, G],
    ),
    "id late": (
        [raw(index=0, function=function("f", "{")), raw(index=0, id="a", function=function(None, "}")), CALLED, DONE],
        "",
        "",
        [F],
    ),
    "name late": ([raw(index=0, id="a"), raw(index=0, function=function(*F)), CALLED, DONE], "", "", [F]),
    "name in pieces": (
        [
            *(raw(index=0, id="a", function=function("get")), raw(index=0, function=function("_it"))),
            *(raw(index=0, function=function("", "{}")), CALLED, DONE),
        ],
        "",
        "",
        [("get_it", "{}")],
    ),
    "id changes": (
        [raw(index=0, id="a", function=function("f", "{")), raw(index=0, id="b", function=function(None, "}")), CALLED],
        "",
        "",
        [F],
    ),
    "id changes, name again": (
        [raw(index=0, id="a", function=function("f", "{")), raw(index=0, id="b", function=function("f", "}")), CALLED],
        "",
        "",
        [F],
    ),
    "call said again whole": (
        [raw(id="a", function=function(*F)), raw(id="a", function=function(*F)), CALLED],
        "",
        "",
        [F],
    ),
    "function null": ([raw(index=0, id="a", function=function(*F)), raw(index=0, function=None), CALLED], "", "", [F]),
    "arguments as an object": (
        [raw(index=0, id="a", function=function("f", {"x": 1})), CALLED],
        "",
        "",
        [("f", '{"x":1}')],
    ),
    "calls null": ([chunk(content="Hi", tool_calls=[None]), chunk(tool_calls=None), STOP], "Hi", "", []),
    "one call, not a list": ([chunk(tool_calls={"id": "a", "function": function(*F)}), CALLED], "", "", [F]),
    "function_call": (
        [chunk(function_call=function("f", "{")), chunk(function_call={"arguments": "}"}), CALLED],
        "",
        "",
        [F],
    ),
    "emoji halved in a call": (
        [
            raw(index=0, id="a", function=function("f", '["\ud83d')),
            raw(index=0, function=function(None, '\ude00"]')),
            CALLED,
        ],
        "",
        "",
        [("f", '["😀"]')],
    ),
    "emoji halved in text": ([chunk(content="a\ud83d"), chunk(content="\ude00b"), STOP, DONE], "a😀b", "", []),
    "half an emoji": ([chunk(content="a\ud83d"), chunk(content="b\ude00"), STOP, DONE], "a\ufffdb\ufffd", "", []),
    "emoji halved in a thought": (
        [chunk(reasoning="\ud83d"), chunk(reasoning="\ude00"), chunk(reasoning="\ud83d"), chunk(content="Hi"), STOP],
        "Hi",
        "😀\ufffd",
        [],
    ),
    "content in parts": (
        [
            chunk(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
            chunk(content=[{"type": "text", "text": "H"}, "i", {"type": "reference", "reference_ids": [1]}, None]),
            STOP,
        ],
        "Hi",
        "hm",
        [],
    ),
    "reasoning in details": (
        [chunk(reasoning_details=[{"type": "reasoning.text", "text": "hm"}]), chunk(content="Hi"), STOP],
        "Hi",
        "hm",
        [],
    ),
    "choice index null": ([{"choices": [{"index": None, "delta": {"content": "Hi"}}]}, STOP, DONE], "Hi", "", []),
    "empty choices": (
        [{"choices": []}, {"choices": None}, {}, {"choices": [None]}, chunk(content="Hi"), STOP],
        "Hi",
        "",
        [],
    ),
    "error null": ([{**chunk(content="Hi"), "error": None}, {**STOP, "error": {}}, DONE], "Hi", "", []),
    "finish reason in each chunk": ([chunk("null", content="H"), chunk("", content="i"), STOP], "Hi", "", []),
    "whole message at the end": ([chunk(content="H"), chunk(content="i"), WHOLE, DONE], "Hi", "", []),
    "no finish reason": ([chunk(content="Hi"), DONE], "Hi", "", []),
    "no [DONE]": ([chunk(content="Hi"), STOP], "Hi", "", []),
    "[DONE] with a space": ([chunk(content="Hi"), "[DONE] "], "Hi", "", []),
}


@pytest.mark.parametrize("habit", HABITS)
async def test_what_services_send_is_read_as_it_is_meant(habit: str) -> None:
    chunks, text, thought, calls = HABITS[habit]
    body = b": PROCESSING\n\n" + sse(*chunks)
    tools = [Tool(name=name, description="", parameters={}) for name in ("f", "g", "get_it")]
    async with upstream(Reply(body), Reply(HELLO)) as up, Runner(up.url + "/v1?model=m") as runner:
        run = await runner.start("Hi", session_id="s", tools=tools)
        fold = Fold()
        async for event in run.events():
            fold.add(event)
        assert (await run.record()).status.value == "finished"
        shown = [call for m in fold.messages() if isinstance(m, AssistantMessage) for call in m.tool_calls or ()]
        ids = [call.id for call in shown]
        assert fold.text == text
        assert "".join(m.content for m in fold.messages() if isinstance(m, ReasoningMessage)) == thought
        assert [(call.function.name, call.function.arguments) for call in shown] == calls
        assert len(set(ids)) == len(ids)
        if not habit.startswith(("no index and", "one i", "function_call", "one call")) and ids:
            assert ids[0] == "a"  # the service's own
        assert fold.finished is not None
        if calls:
            assert fold.finished.outcome == RunFinishedSuccessOutcome(pending_tool_call_ids=ids)
            return
        await (await runner.start("And?", session_id="s")).wait()
    said = [{"role": "assistant", "content": text}] if text else []
    user = [{"role": "user", "content": words} for words in ("Hi", "And?")]
    assert up.requests[1].body["messages"] == [user[0], *said, user[1]]


BROKEN: dict[str, tuple[list[Any], str]] = {
    "finish reason error": ([chunk("error"), DONE], "gave the answer up"),
    "Gemini's broken call": ([chunk("function_call_filter: MALFORMED_FUNCTION_CALL"), DONE], "malformed_function_call"),
    "DeepSeek's resources": ([chunk("insufficient_system_resource"), DONE], "gave the answer up"),
    "error beside a choice": ([{**chunk("error"), "error": {"message": "on fire"}}, DONE], "on fire"),
    "error in a choice": ([{"choices": [{"delta": {}, "error": {"code": 502}}]}, STOP, DONE], "502"),
    "error without a message": ([{"error": {"code": 502}}, DONE], "502"),
    "error at the root": ([{"object": "error", "message": "on fire", "code": 500}, DONE], "on fire"),
    "detail": ([{"detail": "on fire"}, DONE], "on fire"),
    "cut in a call": ([raw(index=0, id="a", function=function("f", '{"x": ')), chunk("length"), DONE], "its call of f"),
    "filtered in a call": (
        [raw(index=0, id="a", function=function("f", "{")), chunk("content_filter")],
        "its call of f",
    ),
    "neither [DONE] nor a finish reason": ([{"choices": []}], "broke off"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_half_an_answer_fails_its_run_and_the_next_turn_is_told_so(how: str) -> None:
    chunks, message = BROKEN[how]
    usage = {"choices": [], "usage": {"prompt_tokens": 5}}
    async with (
        upstream(Reply(sse(chunk(content="Hel"), usage, *chunks)), Reply(HELLO)) as up,
        Runner(up.url + "/v1?model=m") as runner,
    ):
        run = await runner.start("Hi", session_id="s", tools=[Tool(name="f", description="", parameters={})])
        events = [event async for event in run.events()]
        last = events[-1]
        assert isinstance(last, RunErrorEvent)
        assert message in last.message
        assert [one.input_tokens for one in last.usage or ()] == [5]
        await (await runner.start("And?", session_id="s")).wait()
    assert up.requests[1].body["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hel\n[This answer was cut short here.]"},
        {"role": "user", "content": "And?"},
    ]


async def test_a_stream_without_any_choice_is_no_answer() -> None:
    async with upstream(Reply(sse({"choices": []}, "[DONE]"))) as up:
        with pytest.raises(GaplessError, match="without an answer"):
            await ask(up.url + "/v1?model=m")


@pytest.mark.parametrize(
    ("said", "reason", "code"),
    [
        ("length", "length", "answer_cut"),
        ("MAX_TOKENS", "length", "answer_cut"),
        ("content_filter", "content_filter", "answer_filtered"),
        ("SAFETY", "content_filter", "answer_filtered"),
    ],
)
async def test_an_answer_that_is_not_whole_is_said_to_be_that(said: str, reason: str, code: str) -> None:
    async with upstream(Reply(sse(chunk(content="Hel"), chunk(said), "[DONE]"))) as up:
        _, events = await ask(up.url + "/v1?model=m")
    assert finish_of(events) == reason
    assert [e.value["code"] for e in events if isinstance(e, CustomEvent) and e.name == "gapless.notice"] == [code]


@pytest.mark.parametrize(
    "counting",
    [
        {"choices": [], "usage": {"prompt_tokens": 5.0, "completion_tokens": "7", "prompt_tokens_details": []}},
        {"choices": [{"index": 0, "delta": {}, "usage": {"prompt_tokens": 5, "completion_tokens": 7}}]},
        {"choices": [], "x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}},
        {"choices": [], "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": -1}},
    ],
    ids=["loose", "in the choice", "aside", "other names"],
)
async def test_tokens_are_counted_wherever_a_service_says_them(counting: dict[str, Any]) -> None:
    async with upstream(Reply(sse(chunk(content="Hi"), counting, STOP, {"usage": None}, {"usage": {}}))) as up:
        fold, _ = await ask(up.url + "/v1?model=m")
    assert fold.finished is not None
    assert [(one.input_tokens, one.output_tokens, one.total_tokens) for one in fold.finished.usage or ()] == [
        (5, 7, None)
    ]


def test_an_id_that_an_earlier_turn_had_is_not_used_again() -> None:
    calls = Calls("r", {"call_0"})
    choice = decode_chunk(json.dumps(chunk(tool_calls=[call(0, "call_0", "weather", "{}")])), "host", "r").choice
    assert choice is not None
    assert choice.delta is not None
    assert [event.tool_call_id for event in calls.take(choice.delta) if isinstance(event, ToolCallStartEvent)] == [
        "r-call-1"
    ]


async def test_pictures_are_files_of_the_answer() -> None:
    url = "data:image/webp;base64,iVBORw=="
    beside = [{"type": "image_url", "image_url": {"url": url}, "index": 0}]
    inside = [{"type": "text", "text": "and"}, {"type": "image_url", "image_url": "https://example.org/a.png"}, {}, 7]
    body = sse(chunk(content="See "), chunk(content="", images=beside), chunk(content=inside), chunk("stop"), "[DONE]")
    async with upstream(Reply(body)) as up:
        fold, events = await ask(up.url + "/v1?model=m")
    files = [e.value for e in events if isinstance(e, CustomEvent) and e.name == FILE]
    assert files == [
        {"mimeType": "image/webp", "data": "iVBORw=="},
        {"mimeType": "image/*", "url": "https://example.org/a.png"},
    ]
    assert fold.text == "See and"


def test_what_a_tool_shows_follows_as_the_users_behind_all_results() -> None:
    calls = [ToolCall(id=id, function=FunctionCall(name="look", arguments=" ")) for id in ("c1", "c2")]
    picture = ImagePart(source=DataSource(value="iVBORw==", mime_type="image/png"))
    told = chat_messages(
        [
            UserMessage(id="u", content="look"),
            AssistantMessage(id="a", content=" ", tool_calls=calls),
            ToolMessage(id="t1", tool_call_id="c1", content=[TextPart(text="Here:"), picture]),
            ToolMessage(id="t2", tool_call_id="c2", content="", error="It is dark."),
            UserMessage(id="u2", content="so?"),
        ]
    )
    assert [one["role"] for one in told] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert told[1]["content"] is None
    assert [one["function"]["arguments"] for one in told[1]["tool_calls"]] == ["{}", "{}"]
    assert [one["content"] for one in told[2:4]] == ["Here:", "It is dark."]
    assert told[4]["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}]
