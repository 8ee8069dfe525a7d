"""Real ADK agents on a scripted model, through the runner."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from google.adk.agents import BaseAgent, LlmAgent
from google.adk.apps import App
from google.adk.events import Event as ADKEvent
from google.adk.runners import Runner as ADKRunner
from google.adk.sessions import InMemorySessionService
from google.adk.tools import ToolContext
from google.genai import types
from google.genai.errors import ClientError
from pydantic import BaseModel

from gapless import RunConfig, Runner
from gapless.agents.adk import ADKAgent
from gapless.errors import AgentFailed, AgentInvalid, ModelFailed, OutputInvalid, RunLimit, ToolFailed
from gapless.events import (
    DataSource,
    Event,
    ImagePart,
    RunErrorEvent,
    TextPart,
    ToolCallEndEvent,
)
from gapless.testing import Fail, adk_model
from tests.support.adk import Call, Scripted
from tests.support.adk_runs import add, agent_of, all_of, ask, results, text_of

pytestmark = pytest.mark.both_ways


async def test_typed_output():
    class City(BaseModel):
        name: str
        people: int

    agent = LlmAgent(name="a", model=Scripted(['{"name": "Bern", ', '"people": 134000}']), output_schema=City)
    async with Runner(agent) as runner, runner.run_stream("?", output_type=City) as stream:
        assert await stream.get_output() == City(name="Bern", people=134000)


async def test_output_that_is_nested_without_end_is_invalid_output():
    agent = agent_of(["[" * 5000 + "]" * 5000])
    async with Runner(agent) as runner, runner.run_stream("?", output_type=list) as stream:
        with pytest.raises(OutputInvalid):
            await stream.get_output()


async def test_an_app_and_a_runner_of_the_user_work_too():
    assert text_of(await ask(App(name="shop", root_agent=agent_of(["app"])))) == "app"
    service = InMemorySessionService()
    own = ADKRunner(app_name="mine", agent=agent_of(["own"]), session_service=service)
    assert text_of(await ask(own, session_id="s", user_id="u")) == "own"
    session = await service.get_session(app_name="mine", user_id="u", session_id="s")
    assert session is not None
    assert [event.author for event in session.events] == ["user", "helper"]


def test_anything_else_is_refused():
    with pytest.raises(AgentInvalid):
        ADKAgent(types.Part(text="no agent"))


async def test_a_blocking_tool_shows_as_it_happens_and_blocks_nobody():
    release = threading.Event()

    def slow() -> str:
        """Blocks its thread."""
        assert release.wait(20)
        return "slept"

    async with Runner(
        agents={"slow": agent_of([Call("slow")], ["awake"], tools=[slow]), "other": agent_of(["hi"])}
    ) as runner:
        run = await runner.start("go", agent="slow")
        events: list[Event] = []
        async for event in run.events():
            events.append(event)
            if isinstance(event, ToolCallEndEvent):
                other = await runner.start("go", agent="other")
                assert (await other.collect()).text == "hi"
                release.set()
        assert results(events) == [{"result": "slept"}]
        assert text_of(events) == "awake"


async def test_a_tool_that_raises_ends_the_run_and_keeps_the_text():
    def broken() -> str:
        """Raises."""
        raise LookupError("secret detail")

    async with Runner(agent_of(["Trying. ", Call("broken")], ["never"], tools=[broken])) as runner:
        run = await runner.start("go", session_id="s")
        with pytest.raises(ToolFailed) as caught:
            await run.collect()
        assert caught.value.text == "Trying. "
        assert "broken" in str(caught.value)
        assert "secret" not in str(caught.value)
        events = await all_of(run)
        assert isinstance(events[-1], RunErrorEvent)
        assert events[-1].code == "tool_failed"


async def test_a_model_that_refuses_says_what_to_do_and_not_what_it_was_told():
    busy = ClientError(429, {"error": {"message": "secret detail", "status": "RESOURCE_EXHAUSTED"}})
    async with Runner(LlmAgent(name="helper", model=adk_model(Fail(busy)))) as runner:
        with pytest.raises(ModelFailed, match="answered 429: it is busy") as caught:
            await (await runner.start("go")).collect()
        assert "secret" not in str(caught.value)


async def test_tools_get_the_runs_deps():
    def who(tool_context: ToolContext) -> str:
        """Says who asks."""
        return str(tool_context.state["temp:deps"].name)

    class Deps:
        name = "Ada"

    for agent in (
        agent_of([Call("who")], ["ok"], tools=[who]),
        ADKRunner(
            app_name="x",
            agent=agent_of([Call("who")], ["ok"], tools=[who]),
            session_service=InMemorySessionService(),
        ),
    ):
        assert results(await ask(agent, deps=Deps())) == [{"result": "Ada"}]
    made = ADKAgent(agent_of([Call("who")], ["ok"], tools=[who]), deps=lambda ctx: SimpleNamespace(name=ctx.user_id))
    assert results(await ask(made, user_id="bob")) == [{"result": "bob"}]
    made = ADKAgent(agent_of([Call("who")], ["ok"], tools=[who]), deps=lambda ctx: SimpleNamespace(name=ctx.user_id))
    assert results(await ask(made, deps=Deps())) == [{"result": "Ada"}]


@pytest.mark.parametrize(
    "message",
    [
        [TextPart(text="what is it?"), ImagePart(source=DataSource(value="UE5H", mime_type="image/png"))],
        types.UserContent(["what is it?", types.Part.from_bytes(data=b"PNG", mime_type="image/png")]),
    ],
)
async def test_media_of_the_user_reach_the_model(message: Any):
    agent = agent_of(["A cat."])
    await ask(agent, message)
    parts = agent.model.requests[0][0].parts
    assert [part.text for part in parts] == ["what is it?", None]
    assert parts[1].inline_data == types.Blob(data=b"PNG", mime_type="image/png")


async def test_more_model_calls_than_allowed_end_the_run():
    agent = agent_of([Call("add", {"a": 1, "b": 1})], tools=[add])
    async with Runner(agent) as runner:
        run = await runner.start("loop", config=RunConfig(max_llm_calls=3))
        with pytest.raises(RunLimit, match="max_llm_calls=3"):
            await run.collect()
    assert len(agent.model.requests) == 3


async def test_an_error_that_the_model_answers_with_keeps_its_code():
    async with Runner(agent_of(["I can"], finish_reason=types.FinishReason.SAFETY, error_code="SAFETY")) as runner:
        run = await runner.start("hi")
        with pytest.raises(Exception, match="SAFETY") as caught:
            await run.collect()
        assert caught.value.code == "SAFETY"  # type: ignore[attr-defined]  # a GaplessError


async def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    events = await ask(LlmAgent(name="a", model="gemini-3-flash"))
    assert isinstance(events[-1], RunErrorEvent)
    assert events[-1].code == "model_failed"
    assert "GOOGLE_API_KEY" in events[-1].message


async def test_an_agent_that_raises_fails_the_run():
    class Broken(BaseAgent):
        async def _run_async_impl(self, ctx: Any) -> Any:
            yield ADKEvent(author=self.name, content=types.ModelContent("so far"))
            raise LookupError("inside")

    async with Runner(Broken(name="broken")) as runner:
        run = await runner.start("hi")
        with pytest.raises(AgentFailed) as caught:
            await run.collect()
        assert caught.value.text == "so far"
