"""The quickstarts of LangChain's and LangGraph's documentation, as they are written there but for the model.

Their makers publish no example agents in packages. Each runs on the same scripted model by its framework alone and
through the runner: the same text, calls, results, typed output and final state.
"""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import ToolRuntime, tool
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from gapless import Runner
from gapless.agents.langgraph import LangGraphAgent
from gapless.events import StateSnapshotEvent
from gapless.testing import Chunk, Reasoning, ToolCall, langgraph_model, words
from tests.support.outcomes import Outcome, joined, outcome_of_events, value_of
from tests.support.published import told_on_every_wire, whole_wherever_its_worker_is_lost


class Quickstart(NamedTuple):
    """One of them."""

    make: Callable[[Any], Any]
    script: tuple[Chunk, ...]
    deps: Any = None
    state: tuple[str, ...] = ()
    """Keys of its state, beside its messages, that are compared."""
    says: str = ""


# -- LangChain: "Build a real-world agent" ----------------------------------------------------------------------------


@tool
def get_weather_for_location(city: str) -> str:
    """Get weather for a given city."""
    return f"It's always sunny in {city}!"


@dataclass
class Context:
    """Custom runtime context schema."""

    user_id: str


@tool
def get_user_location(runtime: ToolRuntime[Context]) -> str:
    """Retrieve user information based on user ID."""
    user_id = runtime.context.user_id
    return "Florida" if user_id == "1" else "SF"


@dataclass
class ResponseFormat:
    """Response schema for the agent."""

    punny_response: str
    weather_conditions: str | None = None


def weather_agent(model: Any) -> Any:
    return create_agent(
        model=model,
        system_prompt="You are an expert weather forecaster, who speaks in puns.",
        tools=[get_user_location, get_weather_for_location],
        context_schema=Context,
        response_format=ToolStrategy(ResponseFormat),
        checkpointer=InMemorySaver(),
    )


# -- LangGraph: the calculator, with the graph API --------------------------------------------------------------------


@tool
def multiply(a: int, b: int) -> int:
    """Multiply `a` and `b`."""
    return a * b


@tool
def add(a: int, b: int) -> int:
    """Adds `a` and `b`."""
    return a + b


TOOLS_BY_NAME = {one.name: one for one in (add, multiply)}


class Calculation(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]
    llm_calls: int


def calculator(model: Any) -> Any:
    model_with_tools = model.bind_tools([add, multiply])

    def llm_call(state: dict[str, Any]) -> dict[str, Any]:
        """LLM decides whether to call a tool or not"""
        told = SystemMessage(content="You are a helpful assistant tasked with performing arithmetic.")
        return {
            "messages": [model_with_tools.invoke([told, *state["messages"]])],
            "llm_calls": state.get("llm_calls", 0) + 1,
        }

    def tool_node(state: dict[str, Any]) -> dict[str, Any]:
        """Performs the tool call"""
        result = []
        for tool_call in state["messages"][-1].tool_calls:
            observation = TOOLS_BY_NAME[tool_call["name"]].invoke(tool_call["args"])
            result.append(ToolMessage(content=str(observation), tool_call_id=tool_call["id"]))
        return {"messages": result}

    def should_continue(state: Calculation) -> str:
        """Decide if we should continue the loop or stop based upon whether the LLM made a tool call"""
        last: Any = state["messages"][-1]
        return "tool_node" if last.tool_calls else END

    agent_builder: Any = StateGraph(Calculation)
    agent_builder.add_node("llm_call", llm_call)
    agent_builder.add_node("tool_node", tool_node)
    agent_builder.add_edge(START, "llm_call")
    agent_builder.add_conditional_edges("llm_call", should_continue, ["tool_node", END])
    agent_builder.add_edge("tool_node", "llm_call")
    return agent_builder.compile()


# -- LangChain: a tool that writes the state --------------------------------------------------------------------------


@tool
def update_user_name(new_name: str, runtime: ToolRuntime) -> Command[Any]:
    """Update the user's name."""
    done = ToolMessage(content=f"It is {new_name} now.", tool_call_id=runtime.tool_call_id)
    return Command(update={"user_name": new_name, "messages": [done]})


def naming_agent(model: Any) -> Any:
    class NamedState(AgentState[Any]):
        user_name: str

    return create_agent(model=model, tools=[update_user_name], state_schema=NamedState)


QUICKSTARTS = [
    Quickstart(
        weather_agent,
        (
            Reasoning("Where are they?"),
            *words("Let me see where you are. "),
            ToolCall("get_user_location", {}),
            *words("And the weather: "),
            ToolCall("get_weather_for_location", {"city": "Florida"}),
            ToolCall("ResponseFormat", {"punny_response": "A sun-derful day!", "weather_conditions": "sunny"}),
        ),
        deps=Context(user_id="1"),
        says="It's always sunny in Florida!",
    ),
    Quickstart(
        calculator,
        (
            *words("First the sum. "),
            ToolCall("add", {"a": 3, "b": 4}),
            *words("Times two: "),
            ToolCall("multiply", {"a": 7, "b": 2}),
            *words("It is 14."),
        ),
        state=("llm_calls",),
        says="14",
    ),
    Quickstart(
        naming_agent,
        (*words("I note it. "), ToolCall("update_user_name", {"new_name": "Ada"}), *words("Hello, Ada.")),
        state=("user_name",),
        says="It is Ada now.",
    ),
]


async def alone(graph: Any, deps: Any) -> tuple[Outcome, dict[str, Any]]:
    """What the graph's own state has in the end."""
    state = await graph.ainvoke(
        {"messages": [HumanMessage("Go on.")]}, {"configurable": {"thread_id": "alone"}}, context=deps
    )
    return outcome_of_state(state), state


def outcome_of_state(state: dict[str, Any]) -> Outcome:
    """What the messages of a graph's state amount to."""
    steps: list[tuple[Any, ...]] = []
    for message in state["messages"]:
        if isinstance(message, AIMessage):
            steps.append(("text", str(message.text)))
            steps += [("call", call["name"], call["args"]) for call in message.tool_calls]
        elif isinstance(message, ToolMessage):
            steps.append(("result", value_of(str(message.text))))
    return Outcome(joined(steps), to_jsonable_python(state.get("structured_response")))


@pytest.mark.parametrize("quickstart", QUICKSTARTS, ids=lambda one: one.make.__name__)
async def test_it_gives_what_the_graph_alone_gives(quickstart: Quickstart):
    expected, state = await alone(quickstart.make(langgraph_model(*quickstart.script)), quickstart.deps)
    assert quickstart.says in json.dumps(expected.said), "its tools ran"
    agent = LangGraphAgent(quickstart.make(langgraph_model(*quickstart.script)), state=quickstart.state)
    async with Runner(agent) as runner:
        run = await runner.start("Go on.", deps=quickstart.deps)
        events = [event async for event in run.events()]
    found = outcome_of_events(events)
    assert found.said == expected.said
    assert found.output == expected.output
    told = [event.snapshot for event in events if isinstance(event, StateSnapshotEvent)]
    assert (told[-1] if told else {}) == {key: state[key] for key in quickstart.state}


def served(quickstart: Quickstart, graph: Any) -> LangGraphAgent:
    return LangGraphAgent(graph, deps=lambda ctx: quickstart.deps, state=quickstart.state)


@pytest.mark.parametrize("quickstart", QUICKSTARTS, ids=lambda one: one.make.__name__)
async def test_it_is_told_on_every_wire(quickstart: Quickstart):
    expected, _ = await alone(quickstart.make(langgraph_model(*quickstart.script)), quickstart.deps)
    await told_on_every_wire(served(quickstart, quickstart.make(langgraph_model(*quickstart.script))), expected)


@pytest.mark.parametrize("keeps", ["the run", "the user's own saver"])
@pytest.mark.parametrize("quickstart", QUICKSTARTS, ids=lambda one: one.make.__name__)
async def test_it_goes_on_at_another_worker(quickstart: Quickstart, keeps: str, tmp_path: Path):
    expected, _ = await alone(quickstart.make(langgraph_model(*quickstart.script)), quickstart.deps)
    async with AsyncExitStack() as savers:
        saver: Any = None

        async def in_its_place() -> None:
            nonlocal saver
            if keeps != "the run":  # a file of its own for each run, which both its workers have
                path = tmp_path / f"{next(numbers)}.sqlite"
                saver = await savers.enter_async_context(AsyncSqliteSaver.from_conn_string(str(path)))

        def make(script: Sequence[Chunk]) -> LangGraphAgent:
            graph = quickstart.make(langgraph_model(*script))
            return served(quickstart, graph.copy(update={"checkpointer": saver}))

        numbers = itertools.count()
        await whole_wherever_its_worker_is_lost(make, quickstart.script, expected, before=in_its_place)
