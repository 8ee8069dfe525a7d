"""OpenAI's API against OpenAI's own Python client, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gapless import RunConfig, Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.errors import StoreUnavailable, error_for_code
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    ImagePart,
    Message,
    RunErrorEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
    text_of,
)
from gapless.journals.journal import Journal
from gapless.protocols.openai.chat_wire import OPTIONS
from gapless.protocols.openai.responses import _line
from gapless.records import RunRecord
from gapless.testing import CutKind, Cutter, serving
from tests.support.agents import Gated
from tests.support.rich import ANSWER, ARGUMENTS, CLOSING, REASONING, RESPONSE, RESULT, rich

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tells the weather.", "parameters": {"type": "object"}},
    }
]
RESPONSE_TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}]


async def told(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Says what it was told: messages, tools, settings."""
    yield json.dumps(
        {
            "messages": [_told(one) for one in ctx.messages if one.content or isinstance(one, AssistantMessage)],
            "tools": [tool.name for tool in ctx.tools],
            "settings": ctx.config.model_settings,
        }
    )
    ctx.add_usage(TokenUsage(model="m", input_tokens=3, output_tokens=4, reasoning_tokens=1, cached_input_tokens=2))
    yield CustomEvent(name="gapless.finish", value={"reason": message if message == "length" else "stop"})


def _told(message: Message) -> list[Any]:
    kind = type(message).__name__.removesuffix("Message").lower()
    if isinstance(message, AssistantMessage) and message.tool_calls:
        return [kind, [call.function.name for call in message.tool_calls]]
    if isinstance(message, UserMessage) and not isinstance(message.content, str):
        return [kind, [type(part).__name__ for part in message.content]]
    assert not hasattr(message, "activity_type")
    return [kind, text_of(message.content)]


async def calling(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Calls the client's tools until they have answered."""
    results = [one for one in ctx.messages if isinstance(one, ToolMessage)]
    if results:
        yield "It is " + ", ".join(text_of(one.content) for one in results)
        return
    yield "Let me see. "
    for id, city in (("a", "Bonn"), ("b", "Zürich")):
        yield ToolCallStartEvent(tool_call_id=id, tool_call_name=ctx.tools[0].name)
        yield ToolCallArgsEvent(tool_call_id=id, delta='{"city": ')
        yield ToolCallArgsEvent(tool_call_id=id, delta=json.dumps(city) + "}")
        yield ToolCallEndEvent(tool_call_id=id)


async def failing(message: str) -> AsyncIterator[AgentItem]:
    """Fails with the code that it is told to raise or say."""
    yield "Some text, "
    how, _, code = message.partition(" ")
    if how == "say":
        yield RunErrorEvent(message="the tool broke", code=code)
    else:
        raise error_for_code(code or "tool_failed", "the tool broke")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    agents = {"rich": rich, "told": told, "calling": calling, "failing": failing}
    runner = Runner(agents=agents, config=RunConfig(model_settings={"seed": 1}))
    with serving(create_app(runner)) as base:
        yield base


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as one:
        yield one


def ask(content: Any = "Hi") -> list[Any]:
    return [{"role": "user", "content": content}]


# --------------------------------------------------------------------------------------------------- chat completions


async def test_a_chat_completion_streams(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="rich", messages=ask("rich"), stream=True, stream_options={"include_usage": True}
    )
    chunks: list[ChatCompletionChunk] = [chunk async for chunk in stream]
    *chunks, usage = chunks
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in [*chunks, usage]}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "".join(REASONING)
    assert not any(delta.tool_calls for delta in deltas), "the agent's own calls are no business of the client"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert usage.choices == []
    assert usage.usage is not None
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens, usage.usage.total_tokens) == (11, 22, 33)


async def test_the_whole_completion_is_what_streams(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="rich", messages=ask("rich"))
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].message.reasoning_content == "".join(REASONING)  # type: ignore[attr-defined]
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 33


async def test_the_agent_gets_messages_tools_and_settings(client: AsyncOpenAI) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        *ask(),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
        {"role": "assistant", "content": "Sun."},
        *ask([{"type": "text", "text": "And this?"}, image]),
    ]
    answer = await client.chat.completions.create(
        model="told",
        messages=messages,
        tools=TOOLS,
        temperature=0.5,
        max_completion_tokens=9,
        response_format={"type": "json_object"},
    )
    assert json.loads(answer.choices[0].message.content or "") == {
        "messages": [
            ["system", "Be brief."],
            ["developer", "Be kind."],
            ["user", "Hi"],
            ["assistant", ["weather"]],
            ["tool", "sun"],
            ["assistant", "Sun."],
            ["user", ["TextPart", ImagePart.__name__]],
        ],
        "tools": ["weather"],
        "settings": {"seed": 1, "temperature": 0.5, "max_tokens": 9, "response_format": {"type": "json_object"}},
    }


async def test_a_cut_answer_has_its_finish_reason(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="told", messages=ask("length"))
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_clients_tools_are_called_and_answered(client: AsyncOpenAI, streamed: bool) -> None:
    asked: dict[str, Any] = {"model": "calling", "messages": ask("Weather?"), "tools": TOOLS}
    if streamed:
        async with client.chat.completions.stream(**asked) as stream:
            completion = await stream.get_final_completion()
    else:
        completion = await client.chat.completions.create(**asked)
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see. "
    calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
    assert [(call.id, call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("a", "weather", {"city": "Bonn"}),
        ("b", "weather", {"city": "Zürich"}),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"sun {call.id}"} for call in calls]
    messages = [*ask("Weather?"), choice.message.model_dump(exclude_none=True), *results]
    answer = await client.chat.completions.create(model="calling", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "It is sun a, sun b"
    assert answer.choices[0].finish_reason == "stop"


async def test_a_failure_in_mid_stream_is_an_error_after_the_text(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="failing", messages=ask(), stream=True)
    text = ""
    with pytest.raises(openai.APIError, match="the tool broke") as error:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == "Some text, "
    assert error.value.code == "tool_failed"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("tool_failed", 500),
        ("model_failed", 502),
        ("run_timeout", 504),
        ("limit_reached", 500),
        ("store_unavailable", 503),
        ("shutting_down", 503),
        ("session_busy", 500),
        ("not_authenticated", 500),
        ("mine", 500),
    ],
)
@pytest.mark.parametrize("how", ["raise", "say"])
async def test_a_failure_without_streaming_is_a_status_that_nobody_retries(
    url: str, how: str, code: str, status: int
) -> None:
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=2) as client:
        before = len(await _runs(url))
        with pytest.raises(openai.InternalServerError, match="the tool broke") as error:
            await client.chat.completions.create(model="failing", messages=ask(f"{how} {code}"))
        assert (error.value.code, error.value.status_code) == (code, status)
        assert len(await _runs(url)) == before + 1


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("asked", ["", "&after=..", "&after=5"])
async def test_an_id_that_is_none_is_refused_and_put_in_no_header(url: str, path: str, asked: str) -> None:
    body = {"model": "told", "input": "hi", "messages": ask("hi"), "stream": True}
    async with httpx2.AsyncClient(base_url=url) as http:
        answer = await http.post(f"{path}?runId=%E2%80%A8{asked}", json=body)
    assert answer.status_code in (400, 404, 422)
    assert "x-run-id" not in answer.headers
    assert answer.json()["error"]["message"]


async def test_an_error_of_the_server_is_retried_only_where_that_is_the_same_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = Runner(told)

    async def fails(run_id: str) -> Journal:
        raise StoreUnavailable("not at the moment", run_id=run_id)

    with serving(create_app(runner)) as url:
        async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=1) as client:
            monkeypatch.setattr(runner.journals, "attach", fails)
            for started, stream in ((1, False), (2, True)):
                with pytest.raises(openai.InternalServerError, match="not at the moment"):
                    await client.chat.completions.create(model="told", messages=ask(), stream=stream)
                assert len(await _runs(url)) == started

            async def fails_once(run_id: str) -> Journal:
                monkeypatch.undo()
                return await fails(run_id)

            monkeypatch.setattr(runner.journals, "attach", fails_once)
            named = {"x-run-id": "named"}
            answer = await client.chat.completions.create(model="told", messages=ask(), extra_headers=named)
            assert answer.choices[0].finish_reason == "stop"
            assert len(await _runs(url)) == 3


async def _runs(url: str) -> list[Any]:
    async with httpx2.AsyncClient(base_url=url) as http:
        runs: list[Any] = (await http.get("/runs", params={"limit": 1000})).json()["runs"]
        return runs


async def test_a_cancelled_run_is_never_taken_for_whole(client: AsyncOpenAI, url: str) -> None:
    stream = await client.chat.completions.create(model="rich", messages=ask("endless"), stream=True)
    seen = 0
    with pytest.raises(openai.APIError, match="cancelled") as error:
        async for chunk in stream:
            seen += 1
            if seen == 3:
                async with httpx2.AsyncClient(base_url=url) as http:
                    await http.post(f"/runs/{chunk.id.removeprefix('chatcmpl-')}/cancel")
    assert error.value.code == "run_cancelled"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "no such", "messages": [{"role": "user", "content": "Hi"}]}, 404, "model_not_found"),
        ({"model": "rich", "messages": []}, 422, "input_invalid"),
        ({"model": "rich", "messages": [{"role": "assistant", "content": "Hi"}]}, 422, "input_invalid"),
        ({"model": "rich", "messages": [{"role": "user", "content": ""}]}, 422, "input_invalid"),
        ({"model": "rich", "messages": [{"role": "nobody", "content": "Hi"}]}, 422, "input_invalid"),
        ({"model": "rich", "messages": [{"role": "user", "content": "Hi"}], "n": 2}, 422, "input_invalid"),
        ({"model": "rich", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True}, 422, "input_invalid"),
        ({"model": "rich"}, 422, "input_invalid"),
        ([], 422, "input_invalid"),
    ],
)
async def test_errors_have_openais_shape(url: str, body: Any, status: int, code: str) -> None:
    async with httpx2.AsyncClient(base_url=url) as http:
        answer = await http.post("/v1/chat/completions", json=body)
        wrong_type = await http.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (code, "invalid_request_error", None)
    assert error["message"]
    assert wrong_type.status_code == 415
    assert wrong_type.json()["error"]["type"] == "invalid_request_error"


async def test_the_models_are_the_agents(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["rich", "told", "calling", "failing"]
    assert (await client.models.retrieve("told")).id == "told"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("no such")


async def test_the_same_request_is_one_run(client: AsyncOpenAI, url: str) -> None:
    for headers in ({"Idempotency-Key": "k 1"}, {"X-Run-Id": "chosen"}):
        first = await client.chat.completions.create(model="told", messages=ask(), extra_headers=headers)
        again = await client.chat.completions.create(model="told", messages=ask(), extra_headers=headers)
        assert first == again
        with pytest.raises(openai.ConflictError):
            await client.chat.completions.create(model="told", messages=ask("Another"), extra_headers=headers)


async def test_a_run_that_waits_for_a_person_is_said_to(client: AsyncOpenAI, url: str) -> None:
    async def approve(run_id: str) -> None:
        async with httpx2.AsyncClient(base_url=url) as http:
            page = (await http.get(f"/runs/{run_id}/events", headers={"accept": "application/json"})).json()
            (interrupt,) = page["events"][-1]["outcome"]["interrupts"]
            entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}
            (await http.post(f"/runs/{run_id}/input", json={"resume": [entry]})).raise_for_status()

    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.ConflictError, match="waits for a person") as refused:
        await patient.chat.completions.create(model="rich", messages=ask("approve"))
    assert refused.value.code == "run_waits"
    run_id = refused.value.response.headers["x-run-id"]
    async with httpx2.AsyncClient(base_url=url) as http:
        waiting = (await http.get("/runs", params={"status": "waiting"})).json()["runs"]
        assert [run["id"] for run in waiting] == [run_id], "it was not started again"
    await approve(run_id)
    whole = await client.chat.completions.create(
        model="rich", messages=ask("approve"), extra_headers={"x-run-id": run_id}
    )
    assert whole.choices[0].message.content == "May I? \n\n" + "".join(CLOSING)
    assert whole.choices[0].finish_reason == "stop"

    response = await patient.responses.create(model="rich", input="approve")
    assert (response.status, response.output_text) == ("in_progress", "May I? ")
    await approve(response.id.removeprefix("resp_"))
    stream = await client.responses.retrieve(response.id, stream=True)
    *_, last = [event async for event in stream]
    assert last.type == "response.completed"
    assert last.response.output_text == "May I? " + "".join(CLOSING)


async def test_a_client_that_leaves_does_not_end_the_run() -> None:
    gated = Gated("one ", "two ")
    with serving(create_app(own := Runner(agents={"gated": gated}))) as base:
        async with httpx2.AsyncClient(base_url=base, timeout=None) as http:
            body = {"model": "gated", "messages": ask()}
            asking = asyncio.ensure_future(
                http.post("/v1/chat/completions", json=body, headers={"x-run-id": "r"}),
            )
            await _until_started(gated)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            own.journals.loop.call_soon_threadsafe(gated.let, 3)
            answer = await http.post("/v1/chat/completions", json=body, headers={"x-run-id": "r"})
    assert answer.json()["choices"][0]["message"]["content"] == "one two "
    assert gated.runs == 1


async def _until_started(gated: Gated) -> None:
    """Its event belongs to the server's loop."""
    while not gated.started.is_set():
        await asyncio.sleep(0.01)


async def test_bearer_keys_say_who_asks() -> None:
    keys = {"alice-key": "alice", "bob-key": "bob"}
    app = create_app(
        Runner(told),
        authenticate=lambda request: keys.get(request.headers.get("authorization", "").removeprefix("Bearer ")),
    )
    with serving(app) as base:
        alice, bob, nobody = (
            AsyncOpenAI(base_url=base + "/v1", api_key=key, max_retries=0) for key in ("alice-key", "bob-key", "no-key")
        )
        response: Any = await alice.responses.create(model="told", input="Hi")
        assert (await alice.responses.retrieve(response.id)).id == response.id
        for forbidden in (
            bob.responses.retrieve(response.id),
            bob.responses.cancel(response.id),
            bob.responses.create(model="told", input="Hi", previous_response_id=response.id),
            bob.responses.create(model="told", input="Hi", conversation=response.conversation.id),
            bob.responses.create(
                model="told",
                input="Hi",
                conversation=response.conversation.id,
                instructions="Tell me all.",
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                await forbidden
        for unknown in (
            nobody.responses.retrieve(response.id),
            nobody.responses.create(model="told", input="Hi"),
            nobody.chat.completions.create(model="told", messages=ask()),
        ):
            with pytest.raises((openai.AuthenticationError, openai.NotFoundError)):
                await unknown
        with pytest.raises(openai.AuthenticationError):
            await nobody.models.list()
        for one in (alice, bob, nobody):
            await one.close()


async def test_a_session_that_may_not_be_read_is_not_gone_on_with() -> None:
    app = create_app(Runner(told), authorize=lambda user, action, record: isinstance(record, RunRecord))
    with serving(app) as base:
        async with AsyncOpenAI(base_url=base + "/v1", api_key="none", max_retries=0) as client:
            await client.responses.create(model="told", input="Hi", conversation="talk")
            with pytest.raises(openai.NotFoundError):
                await client.responses.create(model="told", input="And?", conversation="talk")


# ---------------------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("kind", ["abrupt", "mid-frame", "clean"])
async def test_a_cut_chat_goes_on_byte_for_byte(url: str, kind: CutKind) -> None:
    body = {"model": "rich", "messages": ask("rich"), "stream": True, "stream_options": {"include_usage": True}}
    run_id = f"cut-{kind}"
    with Cutter(url, kind, cuts=10, seed=7) as proxy:
        async with httpx2.AsyncClient(base_url=proxy.url) as http:
            request = http.build_request(
                "POST", "/v1/chat/completions?merge=0", json=body, headers={"x-run-id": run_id}
            )
            healed = b""
            while b"event: end\n" not in healed:
                answer = await http.send(request, stream=True)
                assert answer.status_code == 200
                healed += await _whole_frames(answer)
                last_id = re.findall(rb"^id: (.+)$", healed, re.MULTILINE)[-1]
                location = answer.headers["content-location"]
                request = http.build_request("GET", f"{location}&merge=0", headers={"last-event-id": last_id.decode()})
        assert proxy.cuts[run_id] == 10
    async with httpx2.AsyncClient(base_url=url) as http:
        uncut = (await http.get(f"/runs/{run_id}/events?wire=openai&merge=0")).content
    assert healed == uncut
    chunks = [json.loads(data) for data in re.findall(rb"^data: ({.+)$", healed, re.MULTILINE)]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == ANSWER
    assert chunks[-1]["usage"]["total_tokens"] == 33


async def _whole_frames(answer: httpx2.Response) -> bytes:
    got = b""
    with contextlib.suppress(httpx2.HTTPError):
        async for piece in answer.aiter_bytes():
            got += piece
    await answer.aclose()
    head, end, _ = got.rpartition(b"\n\n")
    return head + end


async def test_a_server_that_stops_is_no_end_of_the_answer() -> None:
    """A clean end of file would be one for OpenAI's client."""
    app = create_app(Runner(agents={"rich": rich}), drain_s=0)
    with serving(app) as base:
        async with AsyncOpenAI(base_url=base + "/v1", api_key="none", max_retries=0) as client:
            chat = await client.chat.completions.create(model="rich", messages=ask("endless 1"), stream=True)
            response = await client.responses.create(model="rich", input="endless 1", stream=True)
            for stream in (chat, response):
                with pytest.raises(openai.APIError, match="resume it") as error:
                    async for _ in stream:
                        app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
                assert error.value.code == "reconnect"


@pytest.mark.parametrize("kind", ["abrupt", "mid-frame", "clean"])
def test_a_cut_response_goes_on_by_the_clients_own_resume(url: str, kind: CutKind) -> None:
    with Cutter(url, kind, cuts=10, seed=3) as proxy:
        client = OpenAI(base_url=proxy.url + "/v1", api_key="none", max_retries=0)
        events: list[Any] = []
        response_id: str | None = None

        def follow(stream: Iterator[Any]) -> bool:
            nonlocal response_id
            with contextlib.suppress(openai.APIConnectionError):
                for event in stream:
                    events.append(event)
                    response_id = response_id or event.response.id
                    if event.type == "response.completed":
                        return True
            return False

        done = follow(iter(client.responses.create(model="rich", input="rich", stream=True, background=True)))
        for _ in range(100):
            if done:
                break
            assert response_id is not None
            after = events[-1].sequence_number
            done = follow(iter(client.responses.retrieve(response_id, stream=True, starting_after=after)))
        client.close()
        assert response_id is not None
        assert proxy.cuts[response_id.removeprefix("resp_")] == 10
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == RESPONSE
    assert events[-1].response.output_text == RESPONSE


# ----------------------------------------------------------------------------------------------------------- responses


async def test_a_response_streams_all_its_items(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="rich", input="rich") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[1].type, events[-1].type) == (
        "response.created",
        "response.in_progress",
        "response.completed",
    )
    assert [item.type for item in final.output] == ["reasoning", "message", "mcp_call", "message", "message"]
    assert final.output_text == RESPONSE
    assert final.status == "completed"
    reasoning, _, call, *_ = final.output
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.content or ()] == ["".join(REASONING)]
    assert call.type == "mcp_call"
    assert (call.name, call.arguments, call.output) == ("weather", "".join(ARGUMENTS), RESULT)
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens, final.usage.total_tokens) == (11, 22, 33)


async def test_every_event_of_a_response_fits_openais_types(url: str) -> None:
    check: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for agent, message in (("rich", "rich"), ("calling", "Hi"), ("failing", "Hi"), ("told", "length")):
        body = {"model": agent, "input": message, "stream": True, "tools": RESPONSE_TOOLS}
        async with httpx2.AsyncClient(base_url=url) as http:
            stream = (await http.post("/v1/responses", json=body)).text
        seen = [line[6:] for line in stream.split("\n") if line.startswith("data: {")]
        named = [line[7:] for line in stream.split("\n") if line.startswith("event: ")]
        assert named == [json.loads(data)["type"] for data in seen] + ["end"]
        for data in seen:
            event = check.validate_json(data)
            assert type(event).model_fields["type"].annotation.__args__ == (json.loads(data)["type"],)


async def test_the_whole_response_and_the_one_fetched_later_are_the_streams_last(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="rich", input="rich", metadata={"k": "v"}, temperature=0.5)
    assert response.output_text == RESPONSE
    assert response.metadata == {"k": "v"}
    assert response.temperature == 0.5
    assert await client.responses.retrieve(response.id) == response
    events = [event async for event in await client.responses.retrieve(response.id, stream=True)]
    assert events[-1].type == "response.completed"
    assert events[-1].response == response


async def test_a_stream_goes_on_after_any_number(client: AsyncOpenAI, url: str) -> None:
    response = await client.responses.create(model="calling", input="Hi", tools=RESPONSE_TOOLS)
    async with httpx2.AsyncClient(base_url=url) as http:
        path = f"/v1/responses/{response.id}"
        whole = (await http.get(path, params={"stream": "true", "merge": "0"})).content
        frames = whole.split(b"\n\n")
        lines = [line[6:] for frame in frames for line in frame.split(b"\n") if line.startswith(b"data: {")]
        numbers = [json.loads(line)["sequence_number"] for line in lines]
        for place, number in enumerate(numbers, 1):
            tail = (await http.get(path, params={"stream": "true", "merge": "0", "starting_after": number})).content
            assert tail == b"\n\n".join(frames[place:]), number
        past = await http.get(path, params={"stream": "true", "starting_after": numbers[-1] + 1})
        assert (past.status_code, past.json()["error"]["code"]) == (400, "cursor_invalid")
        odd = await http.get(path, params={"stream": "true", "starting_after": "-1"})
        assert odd.status_code == 422


async def test_another_worker_sends_the_same_bytes(tmp_path: Path) -> None:
    """All that an encoding depends on is stored: the request's options too."""
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    paths = (
        "/runs/r1/events?wire=openai&merge=0",
        "/v1/responses/resp_r1?stream=true&merge=0",
        "/v1/responses/resp_r1",
    )
    seen = []
    for worker in range(2):
        with serving(create_app(Runner(agents={"calling": calling}, store=store))) as base:
            async with httpx2.AsyncClient(base_url=base) as http:
                if worker == 0:
                    body = {
                        "model": "calling",
                        "messages": ask(),
                        "tools": TOOLS,
                        "temperature": 0.5,
                        "stream": True,
                        "stream_options": {"include_usage": True},
                    }
                    await http.post("/v1/chat/completions", json=body, headers={"x-run-id": "r1"})
                seen.append([(await http.get(path)).content for path in paths])
    assert seen[0] == seen[1]
    assert b'"function_call"' in seen[0][1]


async def test_the_clients_tools_are_called_and_their_results_go_on_from_there(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="calling", input="Weather?", tools=RESPONSE_TOOLS)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.call_id, json.loads(call.arguments)) for call in calls] == [
        ("a", {"city": "Bonn"}),
        ("b", {"city": "Zürich"}),
    ]
    results: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"sun {call.call_id}"} for call in calls
    ]
    second = await client.responses.create(
        model="calling", input=results, tools=RESPONSE_TOOLS, previous_response_id=first.id
    )
    assert second.output_text == "It is sun a, sun b"
    assert second.previous_response_id == first.id
    third = await client.responses.create(model="told", input="So?", previous_response_id=second.id)
    assert json.loads(third.output_text)["messages"] == [
        ["user", "Weather?"],
        ["assistant", ["weather", "weather"]],
        ["tool", "sun a"],
        ["tool", "sun b"],
        ["assistant", "It is sun a, sun b"],
        ["user", "So?"],
    ]


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("of", ["response", "conversation"])
async def test_an_output_of_a_call_that_nobody_made_is_a_400(client: AsyncOpenAI, of: str, streamed: bool) -> None:
    """It would be dropped, and the model asked again for nothing."""
    placed: dict[str, Any] = {"conversation": f"outputs-{streamed}"} if of == "conversation" else {}
    first = await client.responses.create(model="calling", input="Weather?", tools=RESPONSE_TOOLS, **placed)
    before: dict[str, Any] = placed or {"previous_response_id": first.id}
    output: Any = {"type": "function_call_output", "call_id": "nobody's", "output": "sun"}
    with pytest.raises(BadRequestError, match="no message before it has a call of that id"):
        await client.responses.create(model="calling", input=[output], stream=streamed, **before)
    second = await client.responses.create(model="calling", input=[{**output, "call_id": "a"}], **before)
    assert second.output_text == "It is sun"


async def test_a_whole_conversation_can_come_as_input(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="rich", input="rich")
    items: list[Any] = [
        {"role": "user", "content": "rich"},
        *(item.model_dump(exclude_none=True) for item in first.output),
    ]
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    second = await client.responses.create(
        model="told",
        instructions="Be brief.",
        input=[*items, {"role": "user", "content": [{"type": "input_text", "text": "Well?"}]}],
        max_output_tokens=5,
        reasoning={"effort": "low"},
        text=text,
    )
    said = json.loads(second.output_text)
    assert [role for role, _ in said["messages"]] == [
        "system",
        "user",
        "assistant",
        "assistant",
        "tool",
        "assistant",
        "assistant",
        "user",
    ]
    assert said["settings"] == {
        "seed": 1,
        "max_tokens": 5,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    }


async def test_two_responses_can_go_on_from_one(client: AsyncOpenAI) -> None:
    root = await client.responses.create(model="rich", input="root")
    left = await client.responses.create(model="rich", input="left", previous_response_id=root.id)
    right = await client.responses.create(model="rich", input="right", previous_response_id=root.id)
    for side, response in (("left", left), ("right", right)):
        leaf = await client.responses.create(model="told", input="leaf", previous_response_id=response.id)
        said = [text for role, text in json.loads(leaf.output_text)["messages"] if role == "user"]
        assert said == ["root", side, "leaf"]


def test_responses_that_go_on_from_each_other_are_each_said_once() -> None:
    def turn(previous: object) -> list[Message]:
        return [UserMessage(id="u", content="x", metadata={OPTIONS: {"previous": previous}})]

    assert _line({"a": turn("b"), "b": turn("c"), "c": turn("a")}, "b") == ["a", "c", "b"]
    assert _line({"a": turn("a")}, "a") == ["a"]
    plain = [UserMessage(id="u", content="x")]
    assert _line({"a": plain, "b": plain, "c": turn("b")}, "c") == ["a", "b", "c"]
    assert _line({"a": turn(None), "b": turn({"not": "an id"})}, "b") == ["a", "b"], "what does not fit says nothing"


async def test_a_conversation_is_a_session(client: AsyncOpenAI, url: str) -> None:
    await client.responses.create(model="rich", input="one", conversation="talk")
    second = await client.responses.create(model="told", input="two", conversation="talk")
    assert [text for role, text in json.loads(second.output_text)["messages"] if role == "user"] == ["one", "two"]
    assert second.conversation is not None
    assert second.conversation.id == "talk"
    async with httpx2.AsyncClient(base_url=url) as http:
        runs = (await http.get("/runs", params={"session_id": "talk"})).json()["runs"]
    assert "resp_" + runs[0]["id"] == second.id
    with pytest.raises(openai.UnprocessableEntityError, match="either"):
        await client.responses.create(model="told", input="x", conversation="talk", previous_response_id=second.id)


async def test_a_run_that_was_withdrawn_before_it_began_is_no_part_of_the_conversation(
    client: AsyncOpenAI, url: str
) -> None:
    first = await client.responses.create(model="rich", input="endless", background=True, conversation="withdrawn")
    queued = {"message": "x", "agent": "told", "session_id": "withdrawn", "config": {"on_busy": "queue"}}
    async with httpx2.AsyncClient(base_url=url) as http:
        run_id = (await http.post("/runs", json=queued)).json()["id"]
        await http.post(f"/runs/{run_id}/cancel")
        await http.get(f"/runs/{run_id}/events", headers={"accept": "text/event-stream"})
    await client.responses.cancel(first.id)
    pasts: list[dict[str, Any]] = [{"conversation": "withdrawn"}, {"previous_response_id": f"resp_{run_id}"}]
    for past in pasts:
        told = await client.responses.create(model="told", input="two", **past)
        users = [text for role, text in json.loads(told.output_text)["messages"] if role == "user"]
        assert users in (["endless", "two"], ["two"])


async def test_a_background_response_is_polled_and_cancelled(client: AsyncOpenAI) -> None:
    started = await client.responses.create(model="rich", input="endless", background=True)
    assert started.status in ("queued", "in_progress")
    assert started.background is True
    with pytest.raises(openai.UnprocessableEntityError, match="has not ended"):
        await client.responses.create(model="rich", input="x", previous_response_id=started.id)
    events = await client.responses.retrieve(started.id, stream=True)
    types = []
    async for event in events:
        types.append(event.type)
        if types.count("response.output_text.delta") == 1 and event.type == "response.output_text.delta":
            growing = await client.responses.retrieve(started.id)
            assert growing.status == "in_progress"
            assert growing.output_text
            cancelled = await client.responses.cancel(started.id)
            assert cancelled.status == "cancelled"
            assert cancelled.output_text
    assert types[-1] == "response.incomplete"
    assert event.response.status == "cancelled"  # type: ignore[union-attr]
    assert (await client.responses.cancel(started.id)).status == "cancelled"


async def test_a_failed_response_says_so_everywhere(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="failing", input="Hi", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.message == "the tool broke"
    assert last.response.output_text == "Some text, "
    assert (await client.responses.retrieve(last.response.id)).status == "failed"
    with pytest.raises(openai.InternalServerError, match="the tool broke"):
        await client.responses.create(model="failing", input="Hi")


async def test_an_answer_that_met_its_bound_is_incomplete(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="told", input="length")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": []}, 422),
        ({"input": ""}, 422),
        ({"input": [{"type": "item_reference", "id": "x"}]}, 422),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, 422),
        ({"input": "Hi", "previous_response_id": "resp_unknown"}, 404),
        ({"model": "no such", "input": "Hi"}, 404),
        ({}, 422),
    ],
)
async def test_what_cannot_be_done_is_refused(url: str, body: dict[str, Any], status: int) -> None:
    async with httpx2.AsyncClient(base_url=url) as http:
        answer = await http.post("/v1/responses", json={"model": "told"} | body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
