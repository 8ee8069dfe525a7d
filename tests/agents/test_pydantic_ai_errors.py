"""What Pydantic AI raises, as a run fails with it."""

from __future__ import annotations

import httpx2
import pytest
from pydantic_ai import Agent, ModelRetry
from pydantic_ai import RunContext as ToolContext

from gapless import RunConfig, Runner
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    ModelFailed,
    OutputInvalid,
    RunCancelled,
    RunLimit,
    ToolFailed,
)
from gapless.events import (
    AssistantMessage,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    Tool,
)
from tests.support.model_server import ModelServer
from tests.support.pydantic_ai_runs import (
    City,
    Script,
    call,
    events_of,
    failure_of,
    of,
    openai,
    talks_and_calls,
    weather_agent,
)

pytestmark = pytest.mark.both_ways


async def test_output_that_never_validates_fails_as_such() -> None:
    wrong = call(0, "final_result", "c1", '{"name": 3}')
    error = await failure_of(Agent(Script(wrong, wrong, wrong).model, output_type=City))
    assert isinstance(error, OutputInvalid)
    assert error.code == "output_invalid"


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


async def test_a_cancelled_run_says_so_to_who_collects_its_output() -> None:
    script, agent = weather_agent()
    script.stop_at = 3
    async with Runner(agent) as runner, runner.run_stream("hello") as stream:
        await script.stopped.wait()
        await stream.run.cancel()
        with pytest.raises(RunCancelled):
            await stream.get_output()
