"""A client's choice of tools, with each framework: what the model is asked, and that no run goes round by it. (Pydantic
AI's is in `test_pydantic_ai_services.py`, over the real model class.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent as SDKAgent
from agents import function_tool
from google.adk.agents import LlmAgent
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool

from gapless import RunConfig, Runner
from gapless.agents.langgraph_middleware import GaplessMiddleware
from gapless.agents.tool_choice import Choice, choice_of
from gapless.errors import InputInvalid
from gapless.events import CustomEvent
from gapless.testing import ToolCall, adk_model, words
from gapless.testing.langgraph import LangGraphModel
from gapless.testing.openai_agents import OpenAIAgentsModel

Asked = list[Any]
"""What each request of the model chooses: "required", "none", a tool's name, a list of names that are left; None for
nothing."""
SCRIPT = (ToolCall("look"), "done")


def look() -> str:
    """Look."""
    return "seen"


def listen() -> str:
    """Listen."""
    return "heard"


def with_langgraph() -> tuple[Any, Asked]:
    asked: Asked = []

    class Model(LangGraphModel):
        def _astream(self, messages: Any, *args: Any, **options: Any) -> Any:
            names = [one["function"]["name"] for one in options["tools"]]
            choice = options.get("tool_choice")
            asked.append("required" if choice == "any" else choice or (names if len(names) == 1 else None))
            return super()._astream(messages, *args, **options)

    tools = [StructuredTool.from_function(one) for one in (look, listen)]
    model = Model([*SCRIPT])  # type: ignore[call-arg]  # pydantic's own, to a type checker
    return create_agent(model, tools, middleware=[GaplessMiddleware()]), asked


def with_openai_agents() -> tuple[Any, Asked]:
    asked: Asked = []

    class Model(OpenAIAgentsModel):
        def stream_response(self, *args: Any, **options: Any) -> Any:
            settings = args[2] if len(args) > 2 else options["model_settings"]
            asked.append(None if settings.tool_choice == "auto" else settings.tool_choice)
            return super().stream_response(*args, **options)

    tools: list[Any] = [function_tool(look), function_tool(listen)]
    return SDKAgent(name="a", model=Model([*SCRIPT]), tools=tools), asked


def with_adk() -> tuple[Any, Asked]:
    asked: Asked = []

    def note(callback_context: Any, llm_request: Any) -> None:
        config = llm_request.config.tool_config
        calling = None if config is None else config.function_calling_config
        if calling is None:
            asked.append(None)
        elif calling.mode.value == "NONE":
            asked.append("none")
        else:
            assert calling.mode.value == "ANY"
            asked.append("required" if calling.allowed_function_names is None else calling.allowed_function_names[0])

    model = adk_model(SCRIPT[0], *words("done"))
    return LlmAgent(name="a", model=model, tools=[look, listen], before_model_callback=note), asked


MAKERS = (with_langgraph, with_openai_agents, with_adk)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


async def asked_with(make: Callable[[], tuple[Any, Asked]], choice: Any) -> tuple[Asked, list[str]]:
    """Run the agent with this choice; return what its model was asked, and the notices."""
    agent, asked = make()
    async with Runner(agent) as runner:
        run = await runner.start("go", config=RunConfig(model_settings={"tool_choice": choice}))
        customs = [event async for event in run.events() if isinstance(event, CustomEvent)]
        notices = [event.value["message"] for event in customs if event.name == "gapless.notice"]
        await run.raise_if_failed()
        assert (await run.collect()).text == "done"
    return asked, notices


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", ["required", None]),
        ("look", ["look", None]),
        (named("look"), ["look", None]),
        ({"type": "function", "name": "look"}, ["look", None]),
        ("auto", [None, None]),
        ("none", ["none"]),
    ],
)
@pytest.mark.parametrize("make", MAKERS)
async def test_it_is_told_to_the_model_and_forces_one_answer(make: Any, choice: Any, expected: Asked):
    asked, notices = await asked_with(make, choice)
    told = [None if one == "auto" else one for one in asked]
    assert (told[: len(expected)], notices) == (expected, [])


@pytest.mark.parametrize("make", MAKERS)
async def test_tools_that_are_allowed_are_those_that_the_model_has_or_it_is_said(make: Any):
    asked, notices = await asked_with(make, allowed("auto", "look"))
    if make is with_langgraph:
        assert (asked, notices) == ([["look"], ["look"]], [])
    else:
        assert asked == [None, None]
        assert [notice for notice in notices if notice.endswith("tool_choice")] == notices != []


@pytest.mark.parametrize("make", MAKERS)
async def test_a_tool_that_is_not_there_is_the_requests_fault(make: Any):
    with pytest.raises(InputInvalid, match="there is no tool nothing; the agent has listen, look"):
        await asked_with(make, named("nothing"))


def test_what_is_of_no_form_is_none():
    assert choice_of("any") == Choice(None, forced=True)
    assert choice_of(allowed("required", "a", "b")) == Choice(["a", "b"], forced=True)
    none: Any = {"allowed_tools": {"tools": []}}
    for odd in (7, {}, {"type": "function"}, named(""), {"type": "custom", "name": "x"}, none):
        assert choice_of(odd) is None
