"""Pydantic AI agents, real ones on scripted models: everything they do is streamed, kept and ended cleanly."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, NativeOutput, ToolReturn
from pydantic_ai import RunContext as ToolContext
from pydantic_ai import messages as m
from pydantic_ai.exceptions import CallDeferred
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.ui import StateDeps

from gapless import RunConfig, Runner, StreamingMode, create_app
from gapless.agents import adapt
from gapless.agents.base import RunContext
from gapless.agents.pydantic_ai import PydanticAIAgent
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    GaplessError,
    InputInvalid,
    ModelFailed,
    OutputInvalid,
    RunCancelled,
    RunLimit,
    ToolFailed,
)
from gapless.events import (
    AssistantMessage,
    ContentPart,
    Context,
    CustomEvent,
    DataSource,
    Event,
    ImagePart,
    ReasoningEncryptedValueEvent,
    ReasoningMessage,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    TextPart,
    Tool,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UrlSource,
    UserMessage,
)
from gapless.runs.run import Run
from gapless.testing import serving
from support.agui import check_order
from support.model_server import ModelServer

Chunk = str | dict[int, DeltaToolCall] | dict[int, DeltaThinkingPart]


class Script:
    """A model that says one list of chunks per request of a turn, streamed or in one piece, and what it was asked.

    It stays where `stop_at` says, counted over everything it streams, until it is cancelled.
    """

    def __init__(self, *responses: list[Chunk]) -> None:
        self.responses = responses
        self.seen: list[list[m.ModelMessage]] = []
        self.infos: list[AgentInfo] = []
        self.stop_at: int | None = None
        self.stopped = asyncio.Event()
        self.calls_open = 0
        self.position = 0
        self.model = FunctionModel(self._whole, stream_function=self._stream)
        self.blocking = FunctionModel(self._whole)

    async def here(self) -> None:
        """One position further; stays if it is the one to stop at."""
        self.position += 1
        if self.position - 1 == self.stop_at:
            self.stopped.set()
            await asyncio.Event().wait()

    def _chunks(self, messages: list[m.ModelMessage], info: AgentInfo) -> list[Chunk]:
        self.seen.append(list(messages))
        self.infos.append(info)
        asked = 0
        for message in messages:
            if any(isinstance(p, m.UserPromptPart) and "<" not in p.content for p in message.parts):
                asked = 0  # a new turn; the framework words its own feedback as a prompt too
            asked += isinstance(message, m.ModelResponse)
        return self.responses[asked]

    async def _stream(self, messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.calls_open += 1
        try:
            for chunk in self._chunks(messages, info):
                await self.here()
                yield chunk
            await self.here()
        finally:
            self.calls_open -= 1

    def _whole(self, messages: list[m.ModelMessage], info: AgentInfo) -> m.ModelResponse:
        parts: dict[Any, m.ModelResponsePart] = {}
        for position, chunk in enumerate(self._chunks(messages, info)):
            if isinstance(chunk, str):
                last = next(reversed(parts), None)
                key = last if last is not None and isinstance(parts[last], m.TextPart) else f"text{position}"
                known = parts.get(key)
                parts[key] = m.TextPart((known.content if isinstance(known, m.TextPart) else "") + chunk)
                continue
            for index, delta in chunk.items():
                if isinstance(delta, DeltaThinkingPart):
                    thought = parts.get(index)
                    before = thought.content if isinstance(thought, m.ThinkingPart) else ""
                    parts[index] = m.ThinkingPart(before + (delta.content or ""), signature=delta.signature)
                else:
                    call = parts.get(index)
                    if isinstance(call, m.ToolCallPart):
                        parts[index] = m.ToolCallPart(
                            call.tool_name, f"{call.args}{delta.json_args}", call.tool_call_id
                        )
                    else:
                        parts[index] = m.ToolCallPart(delta.name or "", delta.json_args, delta.tool_call_id or "")
        return m.ModelResponse(parts=list(parts.values()), finish_reason="stop")


def call(index: int, name: str, id: str, *args: str) -> list[Chunk]:
    """One tool call in pieces."""
    first, *rest = args
    return [
        {index: DeltaToolCall(name=name, json_args=first, tool_call_id=id)},
        *({index: DeltaToolCall(json_args=piece)} for piece in rest),
    ]


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text(events: list[Event]) -> str:
    return "".join(event.delta for event in of(events, TextMessageContentEvent))


async def events_of(run: Run) -> list[Event]:
    events = [event async for event in run.events()]
    check_order(events)
    return events


async def one_run(agent: Any, message: Any = "hello", **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await events_of(await runner.start(message, **options))


async def failure_of(agent: Any, **options: Any) -> GaplessError:
    async with Runner(agent) as runner:
        run = await runner.start("hello", **options)
        with pytest.raises(GaplessError) as caught:
            await run.collect()
        await events_of(run)
    return caught.value


def frames_of(stream: str) -> list[dict[str, Any]]:
    """The JSON of an event stream's frames."""
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]


def every_call_is_answered(messages: list[m.ModelMessage]) -> None:
    """As providers demand it: the results of a response's calls are in the request after it, none without a call."""
    for position, message in enumerate(messages):
        if isinstance(message, m.ModelResponse):
            calls = {part.tool_call_id for part in message.parts if isinstance(part, m.ToolCallPart)}
            for part in message.parts:
                if isinstance(part, m.ToolCallPart):
                    part.args_as_dict(raise_if_invalid=True)
            after = messages[position + 1].parts if position + 1 < len(messages) else []
            assert calls == {part.tool_call_id for part in after if isinstance(part, m.ToolReturnPart)}


# ------------------------------------------------------------------------------------------------------- what it says


def weather_agent() -> tuple[Script, Agent[None, str]]:
    script = Script(
        [
            {0: DeltaThinkingPart(content="Where ")},
            {0: DeltaThinkingPart(content="is it?", signature="signed")},
            "Let me ",
            "look. ",
            *call(2, "weather", "c1", '{"ci', 'ty": "Paris"}'),
            *call(3, "weather", "c2", '{"city": ', '"Rome"}'),
        ],
        ["It is ", "sunny."],
    )
    agent = Agent(script.model, system_prompt="Be brief.")

    @agent.tool_plain
    async def weather(city: str) -> dict[str, str]:
        await script.here()
        return {city: "sunny"}

    return script, agent


async def test_an_agent_that_talks_calls_tools_and_talks_again_streams_all_of_it_in_order() -> None:
    _, agent = weather_agent()
    events = await one_run(agent)
    kinds = [type(event).__name__.removesuffix("Event") for event in events]
    assert kinds == [
        "RunStarted",
        *("ReasoningStart", "ReasoningMessageStart", "ReasoningMessageContent", "ReasoningMessageContent"),
        *("ReasoningMessageEnd", "ReasoningEncryptedValue", "ReasoningEnd"),
        *("TextMessageStart", "TextMessageContent", "TextMessageContent", "TextMessageEnd"),
        *("ToolCallStart", "ToolCallArgs", "ToolCallArgs", "ToolCallStart", "ToolCallArgs", "ToolCallArgs"),
        *("ToolCallEnd", "ToolCallEnd", "ToolCallResult", "ToolCallResult"),
        *("TextMessageStart", "TextMessageContent", "TextMessageContent", "TextMessageEnd"),
        "RunFinished",
    ]
    assert text(events) == "Let me look. It is sunny."
    arguments = {
        id: "".join(e.delta for e in of(events, ToolCallArgsEvent) if e.tool_call_id == id) for id in ("c1", "c2")
    }
    assert arguments == {"c1": '{"city": "Paris"}', "c2": '{"city": "Rome"}'}
    assert sorted(e.content for e in of(events, ToolCallResultEvent)) == ['{"Paris":"sunny"}', '{"Rome":"sunny"}']
    (signature,) = of(events, ReasoningEncryptedValueEvent)
    assert signature.encrypted_value == "signed"


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_what_is_collected_is_what_the_framework_returns(mode: StreamingMode) -> None:
    _, agent = weather_agent()

    async def drain(_: Any, events: Any) -> None:
        async for _event in events:
            pass

    theirs = await agent.run("hello", event_stream_handler=drain if mode is StreamingMode.SSE else None)
    async with Runner(agent) as runner:
        run = await runner.start("hello", config=RunConfig(streaming_mode=mode))
        ours = await run.collect()
    said = "".join(p.content for r in theirs.new_messages() for p in r.parts if isinstance(p, m.TextPart))
    assert ours.text == said
    assert ours.result == theirs.output == "It is sunny."
    (usage,) = ours.usage
    assert (usage.input_tokens, usage.output_tokens) == (theirs.usage.input_tokens, theirs.usage.output_tokens)
    thought = [message.content for message in ours.messages if isinstance(message, ReasoningMessage)]
    assert thought == ["Where is it?"]


async def test_text_that_is_the_whole_output_is_not_sent_twice() -> None:
    (finished,) = of(await one_run(Agent(Script(["Hel", "lo"]).model)), RunFinishedEvent)
    assert finished.result is None


async def test_the_blocking_mode_makes_no_streamed_request_and_tells_the_finish_reason() -> None:
    script, agent = weather_agent()
    events = await one_run(agent, config=RunConfig(streaming_mode=StreamingMode.NONE))
    assert script.calls_open == 0
    assert [event.delta for event in of(events, TextMessageContentEvent)] == ["Let me look. ", "It is sunny."]
    (finish,) = of(events, CustomEvent)
    assert (finish.name, finish.value) == ("gapless.finish", {"reason": "stop"})


async def test_arguments_that_come_late_or_as_an_object_are_sent_once_and_whole() -> None:
    late: list[Chunk] = [
        {0: DeltaToolCall(name="look", tool_call_id="c1")},
        {0: DeltaToolCall(json_args='{"at"')},
        {0: DeltaToolCall(json_args=": 1}")},
    ]
    for model in (Script(late, ["done"]).model, TestModel(call_tools=["look"])):
        agent = Agent(model)

        @agent.tool_plain
        def look(at: int) -> int:
            return at

        events = await one_run(agent)
        arguments = json.loads("".join(event.delta for event in of(events, ToolCallArgsEvent)))
        assert str(arguments["at"]) == of(events, ToolCallResultEvent)[0].content


async def test_a_tools_own_events_go_out() -> None:
    agent = Agent(Script(call(0, "move", "c1", "{}"), ["done"]).model)

    @agent.tool_plain
    def move() -> ToolReturn[str]:
        return ToolReturn(return_value="moved", metadata=[StateSnapshotEvent(snapshot={"at": 3})])

    (state,) = of(await one_run(agent), StateSnapshotEvent)
    assert state.snapshot == {"at": 3}


async def test_a_slow_tool_shows_as_called_and_its_neighbours_result_as_it_happens() -> None:
    agent = Agent(Script([*call(0, "slow", "c1", "{}"), *call(1, "fast", "c2", "{}")], ["done"]).model)
    seen = asyncio.Event()

    @agent.tool_plain
    async def slow() -> str:
        await seen.wait()
        return "slow"

    @agent.tool_plain
    async def fast() -> str:
        return "fast"

    async with Runner(agent) as runner:
        run = await runner.start("hello")
        async for event in run.events():
            if isinstance(event, ToolCallResultEvent) and event.tool_call_id == "c2":
                seen.set()  # only now can the slow one end
        assert (await run.collect()).text == "done"


async def test_a_tool_that_blocks_blocks_no_other_run() -> None:
    released = threading.Event()
    agent = Agent(Script(call(0, "block", "c1", "{}"), ["done"]).model)

    @agent.tool_plain
    def block() -> str:
        return str(released.wait(20))

    async with Runner(agents={"blocking": agent, "other": Agent(Script(["hi"]).model)}) as runner:
        blocked = await runner.start("hello", agent="blocking")
        async for event in blocked.events():
            if isinstance(event, ToolCallEndEvent):
                assert (await (await runner.start("hello", agent="other")).collect()).text == "hi"
                released.set()
        assert (await blocked.collect()).text == "done"


async def test_a_retry_is_shown_as_the_calls_result() -> None:
    agent = Agent(Script(call(0, "guess", "c1", '{"n": 1}'), call(0, "guess", "c2", '{"n": 2}'), ["done"]).model)

    @agent.tool_plain(retries=2)
    def guess(n: int) -> str:
        if n == 1:
            raise ModelRetry("try two")
        return "right"

    first, second = of(await one_run(agent), ToolCallResultEvent)
    assert "try two" in first.content
    assert second.content == "right"


async def test_texts_before_and_after_a_retry_are_two_messages() -> None:
    agent = Agent(Script(["bad"], ["good"]).model)

    @agent.output_validator
    def check(output: str) -> str:
        if output == "bad":
            raise ModelRetry("no")
        return output

    events = await one_run(agent)
    assert len(of(events, TextMessageStartEvent)) == 2
    assert of(events, RunFinishedEvent)[0].result == "good"


# --------------------------------------------------------------------------------------------------- structured output


class City(BaseModel):
    name: str
    people: int


async def test_structured_output_is_visible_as_it_grows_and_validated_at_the_end() -> None:
    agent = Agent(
        Script(call(0, "final_result", "c1", '{"name": "Par', 'is", ', '"people": 2}')).model, output_type=City
    )
    events = await one_run(agent)
    marker = next(e for e in of(events, CustomEvent) if e.name == "gapless.output")
    assert marker.value == {"toolCallId": "c1"}
    assert len(of(events, ToolCallArgsEvent)) == 3
    assert of(events, RunFinishedEvent)[0].result == {"name": "Paris", "people": 2}


async def test_output_that_the_framework_wraps_says_under_which_key() -> None:
    agent = Agent(Script(call(0, "final_result", "c1", '{"response": [1, ', "2]}")).model, output_type=list[int])
    events = await one_run(agent)
    marker = next(e for e in of(events, CustomEvent) if e.name == "gapless.output")
    assert marker.value == {"toolCallId": "c1", "key": "response"}
    assert of(events, RunFinishedEvent)[0].result == [1, 2]


async def test_output_written_as_text_is_text_and_result() -> None:
    agent = Agent(Script(['{"name": "Rome", ', '"people": 3}']).model, output_type=NativeOutput(City))
    events = await one_run(agent)
    assert text(events) == '{"name": "Rome", "people": 3}'
    assert of(events, RunFinishedEvent)[0].result == {"name": "Rome", "people": 3}


async def test_the_output_type_of_the_run_is_the_agents_for_that_run() -> None:
    agent = Agent(Script(call(0, "final_result", "c1", '{"name": "Oslo", "people": 1}')).model)
    async with Runner(agent) as runner, runner.run_stream("hello", output_type=City) as stream:
        assert await stream.get_output() == City(name="Oslo", people=1)


OSLO = '{"name": "Oslo", "people": 1}'


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openais_client_gets_the_type_that_it_asks_for(api: str) -> None:
    agent = Agent(Script(call(0, "final_result", "c1", OSLO)).model, name="cities")
    with serving(create_app(Runner(agent))) as url:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            if api == "chat":
                asked: Any = [{"role": "user", "content": "Oslo?"}]
                chat = await client.chat.completions.parse(model="cities", messages=asked, response_format=City)
                got = chat.choices[0].message.parsed
            else:
                response = await client.responses.parse(model="cities", input="Oslo?", text_format=City)
                got = response.output_parsed
    assert got == City(name="Oslo", people=1)


@pytest.mark.parametrize(
    ("wanted", "tool", "result"),
    [
        ({"type": "json_object"}, '{"any": [1]}', {"any": [1]}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}, "{}", {}),
    ],
)
async def test_a_response_format_is_the_output_type(wanted: Any, tool: str, result: Any) -> None:
    agent = Agent(Script(call(0, "final_result", "c1", tool)).model)
    events = await one_run(agent, config=RunConfig(model_settings={"response_format": wanted}))
    assert of(events, RunFinishedEvent)[0].result == result


@pytest.mark.parametrize(
    "wanted", [{"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {"type": "string"}}}]
)
async def test_a_response_format_that_is_none_is_refused(wanted: Any) -> None:
    config = RunConfig(model_settings={"response_format": wanted})
    error = await failure_of(Agent(Script(["never"]).model), config=config)
    assert isinstance(error, InputInvalid)
    assert "response_format" in error.message


async def test_an_agent_with_a_type_of_its_own_keeps_it() -> None:
    agent = Agent(Script(call(0, "final_result", "c1", OSLO)).model, output_type=City)
    events = await one_run(agent, config=RunConfig(model_settings={"response_format": {"type": "json_object"}}))
    assert of(events, RunFinishedEvent)[0].result == {"name": "Oslo", "people": 1}


async def test_output_that_never_validates_fails_as_such() -> None:
    wrong = call(0, "final_result", "c1", '{"name": 3}')
    error = await failure_of(Agent(Script(wrong, wrong, wrong).model, output_type=City))
    assert isinstance(error, OutputInvalid)
    assert error.code == "output_invalid"


# --------------------------------------------------------------------------------------------- settings, dependencies


@dataclass
class Deps:
    user: str


async def test_dependencies_of_the_run_or_else_of_the_adapter_reach_the_tools() -> None:
    agent = Agent(Script(call(0, "who", "c1", "{}"), ["done"]).model, deps_type=Deps)

    @agent.tool
    def who(ctx: ToolContext[Deps]) -> str:
        return ctx.deps.user

    adapted = PydanticAIAgent(agent, deps=lambda ctx: Deps(ctx.user_id))
    assert of(await one_run(adapted, deps=Deps("ann")), ToolCallResultEvent)[0].content == "ann"
    assert of(await one_run(adapted, user_id="bob"), ToolCallResultEvent)[0].content == "bob"


async def test_what_an_ag_ui_client_says_of_its_context_can_be_made_dependencies() -> None:
    agent = Agent(Script(call(0, "where", "c1", "{}"), ["done"]).model)

    @agent.tool
    def where(ctx: ToolContext[Any]) -> str:
        return str(ctx.deps["page"])

    adapted = PydanticAIAgent(agent, deps=lambda run: {one.description: one.value for one in run.context})
    events = await one_run(adapted, context=[Context(description="page", value="/cart")])
    assert of(events, ToolCallResultEvent)[0].content == "/cart"


class Recipe(BaseModel):
    title: str = "none"


async def test_an_agent_of_state_has_the_sessions_state() -> None:
    agent = Agent(Script(call(0, "title", "c1", "{}"), ["done"]).model, deps_type=StateDeps[Recipe])

    @agent.tool
    def title(ctx: ToolContext[StateDeps[Recipe]]) -> str:
        return ctx.deps.state.title

    assert of(await one_run(agent, state={"title": "Soup"}), ToolCallResultEvent)[0].content == "Soup"
    assert of(await one_run(agent), ToolCallResultEvent)[0].content == "none"
    given = StateDeps(Recipe(title="Cake"))
    assert of(await one_run(agent, deps=given, state={"title": "Soup"}), ToolCallResultEvent)[0].content == "Cake"
    (failed,) = of(await one_run(agent, state={"title": 5}), RunErrorEvent)
    assert failed.code == "input_invalid"
    assert "the session's state is no Recipe" in failed.message


async def test_settings_and_model_choice_reach_the_model_untouched() -> None:
    script = Script(["hi"])
    config = RunConfig(model_settings={"temperature": 0.5, "max_tokens": 7})
    await one_run(Agent(script.model), config=config)
    assert script.infos[0].model_settings == {"temperature": 0.5, "max_tokens": 7}
    assert text(await one_run(Agent(script.model), config=RunConfig(model_settings={"model": "test"}))) != "hi"


async def test_media_of_the_message_reach_the_model() -> None:
    script = Script(["a cat"])
    parts: list[ContentPart] = [
        TextPart(text="What is it?"),
        ImagePart(source=DataSource(value=base64.b64encode(b"png").decode(), mime_type="image/png")),
        ImagePart(source=UrlSource(value="https://example.org/cat.png", mime_type="image/png")),
    ]
    await one_run(Agent(script.model), UserMessage(id="m", content=parts))
    (prompt,) = (p for p in script.seen[0][0].parts if isinstance(p, m.UserPromptPart))
    assert isinstance(prompt.content, list)
    question, data, url = prompt.content
    assert question == "What is it?"
    assert isinstance(data, m.BinaryContent)
    assert (data.data, data.media_type) == (b"png", "image/png")
    assert isinstance(url, m.ImageUrl)
    assert url.url == "https://example.org/cat.png"
    bad: list[ContentPart] = [ImagePart(source=DataSource(value="not base64!", mime_type="image/png"))]
    async with Runner(Agent(script.model)) as runner:
        with pytest.raises(InputInvalid, match="base64"):
            await (await runner.start(UserMessage(id="m", content=bad))).collect()


# ----------------------------------------------------------------------------------------------------------- degrading


class Mute(Model):
    """A model that says that it cannot stream only when it is asked to."""

    model_name = "mute"
    system = "test"

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._inner = script.blocking

    async def request(self, *args: Any, **options: Any) -> m.ModelResponse:
        return await self._inner.request(*args, **options)

    def request_stream(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError("no streaming here")


def talks_and_calls() -> Script:
    return Script(["Let me look. ", *call(1, "weather", "c1", '{"city": "Rome"}')], ["It is sunny."])


@pytest.mark.parametrize("kind", ["blocking", "raises", "one of several"])
async def test_a_model_that_cannot_stream_is_run_blocking_and_the_stream_says_so(kind: str) -> None:
    script = talks_and_calls()
    models: dict[str, Model] = {
        "blocking": script.blocking,
        "raises": Mute(script),
        "one of several": FallbackModel(script.model, script.blocking),
    }
    agent = Agent(models[kind])

    @agent.tool_plain
    def weather(city: str) -> str:
        return city

    async with Runner(agent) as runner:
        run = await runner.start("hello", session_id="s")
        events = await events_of(run)
        notices = [e for e in of(events, CustomEvent) if e.name == "gapless.notice"]
        assert [notice.value["code"] for notice in notices] == ["streaming_unavailable"]
        assert text(events) == "Let me look. It is sunny."
        assert (await (await runner.start("again", session_id="s")).collect()).text == text(events)
    prompts = [p.content for one in script.seen[-1] for p in one.parts if isinstance(p, m.UserPromptPart)]
    assert prompts == ["hello", "again"]
    every_call_is_answered(script.seen[-1])


@pytest.mark.parametrize("kind", ["blocking", "raises"])
async def test_without_fallback_a_model_that_cannot_stream_is_an_error(kind: str) -> None:
    script = Script(["never"])
    error = await failure_of(
        Agent(script.blocking if kind == "blocking" else Mute(script)), config=RunConfig(fallback=False)
    )
    assert isinstance(error, ModelFailed)
    assert "cannot stream" in error.message
    assert script.seen == []


# ------------------------------------------------------------------------------------------------------------ failures


async def test_a_tool_that_raises_ends_the_run_cleanly_and_keeps_what_was_said() -> None:
    agent = Agent(talks_and_calls().model)

    @agent.tool_plain
    def weather(city: str) -> str:
        raise ValueError(f"secret of {city}")

    async with Runner(agent) as runner:
        run = await runner.start("hello", session_id="s")
        events = await events_of(run)
        (error,) = of(events, RunErrorEvent)
        assert error.code == "tool_failed"
        assert "weather raised ValueError" in error.message
        assert "secret" not in error.message
        with pytest.raises(ToolFailed) as caught:
            await run.collect()
        assert caught.value.text == "Let me look. "
        kept = [message for message in await runner.messages("s") if isinstance(message, AssistantMessage)]
        assert [message.content for message in kept] == ["Let me look. "]


async def test_a_tool_whose_retries_are_used_up_has_failed() -> None:
    again = call(0, "guess", "c1", "{}")
    agent = Agent(Script(again, again, again).model)

    @agent.tool_plain
    def guess() -> str:
        raise ModelRetry("no")

    error = await failure_of(agent)
    assert isinstance(error, ToolFailed)
    assert "guess" in error.message


async def test_a_validators_own_exception_is_not_a_tools() -> None:
    agent = Agent(Script(["hi"]).model)

    @agent.output_validator
    def check(output: str) -> str:
        raise KeyError(output)

    assert isinstance(await failure_of(agent), AgentFailed)


async def test_max_llm_calls_ends_the_run() -> None:
    error = await failure_of(weather_agent()[1], config=RunConfig(max_llm_calls=1))
    assert isinstance(error, RunLimit)
    assert error.code == "run_limit"


async def test_a_missing_key_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    error = await failure_of(Agent("openai:gpt-5", defer_model_check=True))
    assert isinstance(error, ModelFailed)
    assert "OPENAI_API_KEY" in error.message


async def test_an_agent_that_is_set_up_wrongly_says_so() -> None:
    agent = Agent(Script(["hi"]).model)

    @agent.tool_plain
    def weather(city: str) -> str:
        return city

    error = await failure_of(agent, tools=[Tool(name="weather", description="the client has one too")])
    assert isinstance(error, AgentInvalid)
    assert "weather" in error.message


@pytest.mark.parametrize(("status", "advice"), [(401, "key"), (404, "name"), (429, "try again")])
async def test_a_model_endpoint_that_refuses_says_what_to_do(status: int, advice: str) -> None:
    server = ModelServer(status=status)
    async with server.serving() as base_url, httpx2.AsyncClient() as client:
        error = await failure_of(Agent(openai(base_url, client)))
    assert isinstance(error, ModelFailed)
    assert f"answered {status}" in error.message
    assert advice in error.message


async def test_a_tool_that_cancels_the_run_cancels_it() -> None:
    agent = Agent(Script(call(0, "stop", "c1", "{}"), ["never"]).model)

    @agent.tool
    def stop(ctx: ToolContext[object]) -> str:
        ctx.cancel()
        return "stopping"

    async with Runner(agent) as runner:
        events = await events_of(await runner.start("hello"))
    assert isinstance(of(events, RunFinishedEvent)[-1].outcome, RunFinishedCancelledOutcome)


# --------------------------------------------------------------------------------------------------- asking a person


def careful_agent() -> tuple[Script, Agent[None, str]]:
    script = Script(
        [*call(0, "delete", "c1", '{"path": "/a"}'), *call(1, "size", "c2", "{}")],
        ["Done."],
    )
    agent = Agent(script.model)

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        return f"deleted {path}"

    @agent.tool_plain
    def size() -> int:
        return 7

    return script, agent


async def answered(run: Run, *answers: ResumeEntry) -> list[Event]:
    """The run's events, with its interrupts answered in turn."""
    events: list[Event] = []
    remaining = list(answers)
    async for event in run.events():
        events.append(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            await run.answer([remaining.pop(0)])
    check_order(events)
    assert not remaining
    return events


def yes(id: str = "c1", **payload: Any) -> ResumeEntry:
    return ResumeEntry(interrupt_id=id, status="resolved", payload={"approved": True, **payload})


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (yes(), "deleted /a"),
        (ResumeEntry(interrupt_id="c1", status="resolved", payload=True), "deleted /a"),
        (yes(editedArgs={"path": "/b"}), "deleted /b"),
        (
            ResumeEntry(interrupt_id="c1", status="resolved", payload={"approved": False, "reason": "Keep it"}),
            "Keep it",
        ),
        (ResumeEntry(interrupt_id="c1", status="cancelled"), "Cancelled by the user."),
    ],
)
async def test_an_approval_interrupts_the_run_and_its_answer_lets_it_go_on(answer: ResumeEntry, result: str) -> None:
    script, agent = careful_agent()
    async with Runner(agent) as runner:
        events = await answered(await runner.start("hello"), answer)
    (paused, _) = of(events, RunFinishedEvent)
    (interrupt,) = paused.outcome.interrupts
    assert (interrupt.tool_call_id, interrupt.reason) == ("c1", "tool_call")
    assert interrupt.metadata == {"kind": "approval", "toolName": "delete", "arguments": {"path": "/a"}}
    results = {e.tool_call_id: e.content for e in of(events, ToolCallResultEvent)}
    assert results == {"c1": result, "c2": "7"}
    assert text(events) == "Done."
    every_call_is_answered(script.seen[-1])


@pytest.mark.parametrize("payload", ["yes", 1, None, {"approved": "true"}, {"approved": True, "editedArgs": "x"}, {}])
async def test_an_answer_that_is_none_is_asked_for_again(payload: Any) -> None:
    _, agent = careful_agent()
    unclear = ResumeEntry(interrupt_id="c1", status="resolved", payload=payload)
    async with Runner(agent) as runner:
        events = await answered(await runner.start("hello"), unclear, yes())
    first, second, _ = (event.outcome for event in of(events, RunFinishedEvent))
    assert isinstance(first, RunFinishedInterruptOutcome)
    assert isinstance(second, RunFinishedInterruptOutcome)
    assert "not understood" not in (first.interrupts[0].message or "")
    assert 'send {"approved": true}' in (second.interrupts[0].message or "")
    assert text(events) == "Done."


async def test_a_call_of_the_clients_own_tool_ends_the_run_and_its_result_comes_with_the_next_one() -> None:
    script = Script(
        ["Let me ask. ", *call(1, "pick_color", "c1", '{"of": "sky"}'), *call(2, "size", "c2", "{}")], ["Blue."]
    )
    agent = Agent(script.model)

    @agent.tool_plain
    def size() -> int:
        return 7

    body: dict[str, Any] = {
        "threadId": "t",
        "runId": "r1",
        "messages": [{"id": "1", "role": "user", "content": "hello"}],
        "tools": [
            {"name": "pick_color", "description": "Ask", "parameters": {"type": "object", "properties": {"of": {}}}}
        ],
    }
    transport = httpx2.ASGITransport(app=create_app(runner := Runner(agent)))
    async with runner, httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        first = frames_of((await client.post("/ag-ui", json=body)).text)
        assert first[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c1"]}
        assert [f["toolCallId"] for f in first if f["type"] == "TOOL_CALL_RESULT"] == ["c2"]
        calls = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in (("c1", "pick_color", '{"of": "sky"}'), ("c2", "size", "{}"))
        ]
        body["messages"] += [
            {"id": "2", "role": "assistant", "content": "Let me ask. ", "toolCalls": calls},
            {"id": "3", "role": "tool", "toolCallId": "c2", "content": "7"},
            {"id": "4", "role": "tool", "toolCallId": "c1", "content": "blue"},
        ]
        body["runId"] = "r2"
        then = frames_of((await client.post("/ag-ui", json=body)).text)
    assert "".join(f["delta"] for f in then if f["type"] == "TEXT_MESSAGE_CONTENT") == "Blue."
    assert then[-1]["outcome"] == {"type": "success"}
    assert {t.name for t in script.infos[0].function_tools} == {"pick_color", "size"}
    returned = {p.tool_name: p.content for one in script.seen[-1] for p in one.parts if isinstance(p, m.ToolReturnPart)}
    assert returned == {"size": "7", "pick_color": "blue"}
    every_call_is_answered(script.seen[-1])


async def test_a_client_that_does_not_answer_its_own_tool_can_go_on_all_the_same() -> None:
    script = Script(call(0, "pick_color", "c1", "{}"))
    async with Runner(Agent(script.model)) as runner:
        tools = [Tool(name="pick_color", description="Ask")]
        events = await events_of(await runner.start("hello", session_id="s", tools=tools))
        assert of(events, RunFinishedEvent)[-1].outcome.pending_tool_call_ids == ["c1"]
        script.responses = (["Never mind."],)
        assert (await (await runner.start("or not", session_id="s")).collect()).text == "Never mind."
    every_call_is_answered(script.seen[-1])


async def test_a_tool_that_is_executed_elsewhere_is_answered_with_its_result() -> None:
    agent = Agent(Script(call(0, "render", "c1", '{"size": 3}'), ["Done."]).model)

    @agent.tool_plain
    def render(size: int) -> str:
        raise CallDeferred

    async with Runner(agent) as runner:
        run = await runner.start("hello")
        events = await answered(run, ResumeEntry(interrupt_id="c1", status="resolved", payload={"url": "/3"}))
    (interrupt,) = of(events, RunFinishedEvent)[0].outcome.interrupts
    assert interrupt.metadata == {"kind": "external", "toolName": "render", "arguments": {"size": 3}}
    assert of(events, ToolCallResultEvent)[0].content == '{"url":"/3"}'
    assert text(events) == "Done."


async def test_a_run_with_nothing_to_answer_is_refused() -> None:
    ctx = context(content="", earlier=[UserMessage(id="1", content="hi"), AssistantMessage(id="2", content="cut sho")])
    with pytest.raises(InputInvalid, match="nothing to answer"):
        _ = [item async for item in adapt(weather_agent()[1]).run(ctx)]


async def test_a_tool_that_asks_a_question_gets_the_answer_and_metadata_go_along() -> None:
    agent = Agent(Script(call(0, "ask", "c1", "{}"), ["Thanks."]).model)

    @agent.tool_plain
    def ask() -> str:
        raise CallDeferred(kind="question", metadata={"choices": ["a", "b"]})

    async with Runner(agent) as runner:
        events = await answered(
            await runner.start("hello"), ResumeEntry(interrupt_id="c1", status="resolved", payload="b")
        )
    (interrupt,) = of(events, RunFinishedEvent)[0].outcome.interrupts
    assert interrupt.reason == "input_required"
    assert interrupt.metadata["choices"] == ["a", "b"]
    assert of(events, ToolCallResultEvent)[0].content == "b"


async def test_a_run_cancelled_while_it_waits_leaves_a_session_that_goes_on() -> None:
    script, agent = careful_agent()
    async with Runner(agent) as runner:
        run = await runner.start("hello", session_id="s")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                await run.cancel()
        await events_of(run)
        script.responses = (["Fine."],)
        assert (await (await runner.start("never mind", session_id="s")).collect()).text == "Fine."
    every_call_is_answered(script.seen[-1])


async def test_an_approval_over_http() -> None:
    _, agent = careful_agent()
    runner = Runner(agent)
    transport = httpx2.ASGITransport(app=create_app(runner))
    async with runner, httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        started = await client.post("/runs", json={"message": "hello", "run_id": "r1"})
        assert started.status_code == 202
        run = await runner.attach("r1")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                entry = {"interruptId": "c1", "status": "resolved", "payload": {"approved": True}}
                assert (await client.post("/runs/r1/input", json={"resume": [entry]})).status_code == 202
        stream = await client.get("/runs/r1/events", headers={"accept": "text/event-stream"})
    frames = frames_of(stream.text)
    assert [f["content"] for f in frames if f["type"] == "TOOL_CALL_RESULT"] == ["7", "deleted /a"]
    assert frames[-1]["type"] == "RUN_FINISHED"
    assert frames[-1]["outcome"] == {"type": "success"}


async def test_the_whole_of_a_run_over_http() -> None:
    _, agent = weather_agent()
    transport = httpx2.ASGITransport(app=create_app(runner := Runner(agent)))
    async with runner, httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/chat/stream", json={"query": "hello"})
    assert "".join(frame.get("text", "") for frame in frames_of(answer.text)) == "Let me look. It is sunny."


# ----------------------------------------------------------------------------------------------------------- history


async def test_the_model_sees_the_sessions_history_in_its_own_form() -> None:
    script, agent = weather_agent()
    async with Runner(agent) as runner:
        for message in ("hello", "again"):
            await (await runner.start(message, session_id="s")).collect()
    seen = script.seen[-1]
    prompts = [p.content for one in seen for p in one.parts if isinstance(p, m.UserPromptPart)]
    assert prompts == ["hello", "again"]
    systems = [p.content for one in seen for p in one.parts if isinstance(p, m.SystemPromptPart)]
    assert systems == ["Be brief."]
    thoughts = [p for one in seen for p in one.parts if isinstance(p, m.ThinkingPart)]
    assert [thought.signature for thought in thoughts] == ["signed", "signed"]
    every_call_is_answered(seen)


async def test_turns_of_another_agent_and_the_clients_own_history_are_understood() -> None:
    script, agent = weather_agent()

    async def other(message: str) -> AsyncIterator[Any]:
        yield "I will check."
        yield ToolCallStartEvent(tool_call_id="x1", tool_call_name="check")
        yield ToolCallArgsEvent(tool_call_id="x1", delta='{"a": 1}')
        yield ToolCallEndEvent(tool_call_id="x1")
        yield ToolCallResultEvent(message_id="t1", tool_call_id="x1", content="checked")
        yield ToolCallStartEvent(tool_call_id="x2", tool_call_name="cut")
        yield ToolCallArgsEvent(tool_call_id="x2", delta='{"a": ')

    async with Runner(agents={"other": other, "weather": agent}) as runner:
        await (await runner.start("one", agent="other", session_id="s")).collect()
        await (await runner.start("two", agent="weather", session_id="s")).collect()
        seen = script.seen[-1]
        assert [p.content for one in seen for p in one.parts if isinstance(p, m.UserPromptPart)] == ["one", "two"]
        returned = [p for one in seen for p in one.parts if isinstance(p, m.ToolReturnPart)]
        assert ("check", "checked") in [(part.tool_name, part.content) for part in returned]
        assert [p.content for one in seen for p in one.parts if isinstance(p, m.SystemPromptPart)] == ["Be brief."]
        every_call_is_answered(seen)
        own = [UserMessage(id="1", content="mine"), AssistantMessage(id="2", content="yours")]
        await (await runner.start("three", agent="weather", session_id="s", messages=own)).collect()  # type: ignore[arg-type]
        seen = script.seen[-2]
        assert [p.content for one in seen for p in one.parts if isinstance(p, m.UserPromptPart)] == ["mine", "three"]


# ------------------------------------------------------------------------------------------------------------- cancel


async def positions() -> int:
    """How many positions the weather agent's run has."""
    script, agent = weather_agent()
    await one_run(agent)
    return script.position


async def test_cancelled_at_every_position_a_run_ends_once_stops_its_model_and_leaves_a_good_session() -> None:
    total = await positions()
    assert total > 12
    for stop_at in range(total):
        script, agent = weather_agent()
        script.stop_at = stop_at
        async with Runner(agent) as runner:
            run = await runner.start("hello", session_id="s")
            await script.stopped.wait()
            await run.cancel()
            await run.wait()
            assert script.calls_open == 0, f"position {stop_at}: the model call goes on"
            events = await events_of(run)
            ends = of(events, RunFinishedEvent)
            assert len(ends) == 1
            assert isinstance(ends[0].outcome, RunFinishedCancelledOutcome)
            shown = text(events)
            after = await (await runner.start("again", session_id="s")).collect()
            assert after.text == "Let me look. It is sunny.", f"position {stop_at}"
            seen = script.seen[-1]
            said = "".join(p.content for one in seen for p in one.parts if isinstance(p, m.TextPart))
            assert said == shown + "Let me look. ", f"position {stop_at}: the model forgot what was shown"
            every_call_is_answered(seen)


def context(**options: Any) -> RunContext:
    async def interrupt(_: Any) -> list[ResumeEntry]:
        raise AssertionError("nothing to ask")

    content = options.pop("content", "hello")
    user = UserMessage(id="u", content=content)
    return RunContext(
        run_id=options.pop("run_id", "r"),
        session_id="s",
        user_id="u",
        agent_name="a",
        content=content,
        messages=[*options.pop("earlier", []), user],
        config=RunConfig(),
        interrupt=interrupt,
        **options,
    )


async def test_closed_after_every_item_the_adapter_stops_its_model_and_leaves_a_good_turn() -> None:
    script, agent = weather_agent()
    total = len([item async for item in adapt(agent).run(context())])
    assert total > 12
    for taken in range(1, total + 1):
        script, agent = weather_agent()
        ctx = context()
        async with aclosing(adapt(agent).run(ctx)) as items:  # type: ignore[type-var]  # an async generator
            for _ in range(taken):
                await anext(items)
        assert script.calls_open == 0, f"after item {taken}"
        earlier = [UserMessage(id="1", content="hello", metadata={"run_id": "r"})]
        native = [ctx.native] if ctx.native is not None else []
        then = context(run_id="r2", earlier=earlier, native_history=native)
        said = [item async for item in adapt(agent).run(then) if isinstance(item, str)]
        assert "".join(said) == "Let me look. It is sunny."
        every_call_is_answered(script.seen[-1])


def openai(base_url: str, client: httpx2.AsyncClient) -> OpenAIChatModel:
    asked_once = AsyncOpenAI(base_url=base_url, api_key="k", http_client=client, max_retries=0)
    provider = OpenAIProvider(openai_client=asked_once)
    return OpenAIChatModel("double", provider=provider, settings={"extra_headers": {"connection": "close"}})


async def test_cancelling_closes_the_models_http_stream_and_the_next_turn_remembers() -> None:
    server = ModelServer("Once ", "upon ")
    async with (
        server.serving() as base_url,
        httpx2.AsyncClient() as client,
        Runner(Agent(openai(base_url, client))) as runner,
    ):
        run = await runner.start("tell", session_id="s")
        shown = ""
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                shown += event.delta
                if shown == "Once upon ":
                    assert not server.hung_up.is_set()
                    await run.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 10)
        record = await run.record()
        assert record.status.value == "cancelled"
        server.go_on.set()
        await (await runner.start("go on", session_id="s")).collect()
    roles = [(message["role"], message["content"]) for message in server.requests[-1]["messages"]]
    assert roles == [("user", "tell"), ("assistant", "Once upon "), ("user", "go on")]


async def test_the_test_model_of_the_framework_runs() -> None:
    agent = Agent(TestModel(custom_output_text="It works."))
    assert text(await one_run(agent)) == "It works."


async def test_a_cancelled_run_says_so_to_who_collects_its_output() -> None:
    script, agent = weather_agent()
    script.stop_at = 3
    async with Runner(agent) as runner, runner.run_stream("hello") as stream:
        await script.stopped.wait()
        await stream.run.cancel()
        with pytest.raises(RunCancelled):
            await stream.get_output()
