"""Pydantic AI agents on a scripted model, through the runner: settings, dependencies, output types, degrading."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai import RunContext as ToolContext
from pydantic_ai import messages as m
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.ui import StateDeps

from gapless import RunConfig, Runner, StreamingMode, create_app
from gapless.agents import adapt
from gapless.agents.pydantic_ai import PydanticAIAgent
from gapless.errors import (
    InputInvalid,
    ModelFailed,
)
from gapless.events import (
    AssistantMessage,
    ContentPart,
    Context,
    CustomEvent,
    DataSource,
    ImagePart,
    RunErrorEvent,
    RunFinishedEvent,
    TextMessageContentEvent,
    TextPart,
    ToolCallEndEvent,
    ToolCallResultEvent,
    UrlSource,
    UserMessage,
)
from gapless.testing import serving
from tests.support.pydantic_ai_runs import (
    City,
    Script,
    call,
    context,
    events_of,
    every_call_is_answered,
    failure_of,
    frames_of,
    of,
    one_run,
    talks_and_calls,
    text,
    weather_agent,
)

pytestmark = pytest.mark.both_ways


async def test_the_blocking_mode_makes_no_streamed_request_and_tells_the_finish_reason() -> None:
    script, agent = weather_agent()
    events = await one_run(agent, config=RunConfig(streaming_mode=StreamingMode.NONE))
    assert script.calls_open == 0
    assert [event.delta for event in of(events, TextMessageContentEvent)] == ["Let me look. ", "It is sunny."]
    (finish,) = of(events, CustomEvent)
    assert (finish.name, finish.value) == ("gapless.finish", {"reason": "stop"})


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
        again = await (await runner.start("again", session_id="s")).collect()
        assert again.text == "Let me look. \n\nIt is sunny."
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


async def test_a_run_with_nothing_to_answer_is_refused() -> None:
    ctx = context(content="", earlier=[UserMessage(id="1", content="hi"), AssistantMessage(id="2", content="cut sho")])
    with pytest.raises(InputInvalid, match="nothing to answer"):
        _ = [item async for item in adapt(weather_agent()[1]).run(ctx)]


async def test_the_whole_of_a_run_over_http() -> None:
    _, agent = weather_agent()
    transport = httpx2.ASGITransport(app=create_app(runner := Runner(agent)))
    async with runner, httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/chat/stream", json={"query": "hello"})
    assert "".join(frame.get("text", "") for frame in frames_of(answer.text)) == "Let me look. \n\nIt is sunny."


async def test_the_test_model_of_the_framework_runs() -> None:
    agent = Agent(TestModel(custom_output_text="It works."))
    assert text(await one_run(agent)) == "It works."
