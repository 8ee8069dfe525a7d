"""What agents raise, as Gapless's errors, and what the log says of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import openai
import pydantic_ai
import pytest
from agents import Agent, ModelBehaviorError, function_tool, output_guardrail
from langgraph.graph import START, MessagesState, StateGraph

from gapless import Runner
from gapless.agents.failing import failure
from gapless.errors import AgentFailed, GaplessError, ModelFailed, OutputInvalid
from gapless.testing import ToolCall, openai_agents_model, pydantic_ai_model

TEXT = "what people wrote"


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_what_is_known_is_logged_by_class_and_place_and_its_text_for_those_who_debug(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    error = raised(openai.OpenAIError(TEXT))
    table: Any = {"openai.OpenAIError": lambda error, run_id: ModelFailed("the model failed", run_id=run_id)}
    assert isinstance(failure(error, "r", table=table), ModelFailed)
    shown, debugged = caplog.records
    assert (shown.levelno, debugged.levelno) == (logging.INFO, logging.DEBUG)
    assert shown.getMessage().startswith(f"run r: model_failed: OpenAIError at {__file__}:")
    assert debugged.exc_info is not None
    assert debugged.exc_info[1] is error
    assert TEXT not in debugged.getMessage()


def test_what_is_not_known_is_passed_on(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    error, ours = raised(ValueError(TEXT)), raised(OutputInvalid("no"))
    assert failure(error, "r") is error
    assert failure(ours, "r") is ours
    assert caplog.records == []


def test_what_is_known_is_found_in_a_group_that_has_nothing_else():
    error = openai.OpenAIError(TEXT)
    table: Any = {"openai.OpenAIError": lambda error, run_id: ModelFailed("the model failed", run_id=run_id)}
    assert isinstance(failure(ExceptionGroup("", [ExceptionGroup("", [error])]), "r", table=table), ModelFailed)
    both = ExceptionGroup("", [error, ValueError()])
    assert failure(both, "r", table=table) is both


@pytest.mark.parametrize("where", ["guardrail", "instructions"])
async def test_what_the_openai_sdk_takes_for_a_cancel_fails_the_run(where: str):
    async def cancels(*args: Any) -> Any:
        raise asyncio.CancelledError

    model = openai_agents_model("unseen")
    if where == "guardrail":
        agent = Agent(name="a", model=model, output_guardrails=[output_guardrail(cancels)])
    else:
        agent = Agent(name="a", model=model, instructions=lambda context, agent: cancels())
    async with Runner(agent) as runner:
        with pytest.raises(AgentFailed, match=r"the agent raised CancelledError at .*test_failing.py"):
            await (await runner.start("x")).collect()


async def _fails(*args: Any) -> Any:
    try:
        raise ValueError(TEXT)
    except ValueError as error:
        raise LookupError(TEXT) from error


def _langgraph() -> Any:
    graph: Any = StateGraph(MessagesState)
    graph.add_node("fails", _fails)
    graph.add_edge(START, "fails")
    return graph.compile()


def _pydantic_ai() -> Any:
    return pydantic_ai.Agent(pydantic_ai_model("x"), instructions=lambda: _fails())


def _openai_agents() -> Any:
    return Agent(name="a", model=openai_agents_model("x"), instructions=lambda context, agent: _fails())


@pytest.mark.parametrize("make", [_langgraph, _pydantic_ai, _openai_agents])
async def test_what_is_passed_on_keeps_its_cause(make: Any):
    async with Runner(make()) as runner:
        with pytest.raises(AgentFailed) as caught:
            await (await runner.start("x")).collect()
    assert isinstance(caught.value.__cause__, LookupError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)


async def test_why_the_openai_sdk_refuses_an_answer_is_found(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.testing.openai_agents.call_id", lambda: "call-1")  # two calls of one id

    @function_tool
    async def look(at: int) -> str:
        """Looks."""
        return f"seen {at}"

    model = openai_agents_model(ToolCall("look", {"at": 1}), "then", ToolCall("look", {"at": 2}), "done")
    caplog.set_level(logging.DEBUG)
    async with Runner(Agent(name="a", model=model, tools=[look])) as runner:
        run = await runner.start("x", run_id="r")
        with pytest.raises(OutputInvalid) as caught:
            await run.collect()
        told = (await (await runner.attach("r")).record()).error
    cause = caught.value.__cause__
    assert isinstance(cause, ModelBehaviorError)
    assert told is not None
    assert told["message"].endswith("; see the server's log")
    assert "tool_planning.py:" in str(caught.value)
    reasons = [one for one in caplog.records if one.exc_info and one.exc_info[1] is cause]
    assert [one.levelno for one in reasons] == [logging.DEBUG]
    shown = [
        one.getMessage() for one in caplog.records if one.name.startswith("gapless") and one.levelno > logging.DEBUG
    ]
    assert any("run r: output_invalid: ModelBehaviorError at " in one for one in shown)
    assert not any(str(cause) in one for one in shown)
    assert isinstance(caught.value, GaplessError)
