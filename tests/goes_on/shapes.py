"""Agents of shapes that the OpenAI Agents SDK and LangGraph have, which stand still where their server is to be killed:
hand-overs, agents as tools, guardrails, sub-graphs, nodes side by side, a saver of the user's own. A Deep Agent. And
some of the makers' own, those of Pydantic AI and ADK too.

The run `handovers-3` stands still at its fourth point, where `$GAPLESS_TEST_STRUCK` is set. A line of the ledger says
what began or ended in which run and process.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import agents as sdk
import aiosqlite
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from gapless.agents import base
from gapless.agents.base import AgentItem, RunContext, current_run
from gapless.agents.langgraph import LangGraphAgent
from gapless.agents.openai_agents import OpenAIAgent
from gapless.agents.pydantic_ai import PydanticAIAgent
from gapless.testing import Chunk, Gate, ToolCall, adk_model, langgraph_model, openai_agents_model, words
from tests.goes_on.worked import note
from tests.support.published import openai_examples

MAKERS = {
    "basic_tools": "basic.tools",
    "tool_guardrails": "basic.tool_guardrails",
    "message_filter": "handoffs.message_filter",
    "routing": "agent_patterns.routing",
    "naming_agent": "",
}
"""Agents that the makers publish, by the module where the OpenAI Agents SDK has them, or else LangGraph's quickstarts:
unchanged."""
OF_PYDANTIC_AI = {
    "pydantic_ai_weather": ("weather_agent", "weather_agent"),
    "pydantic_ai_flights": ("flight_booking", "search_agent"),
    "pydantic_ai_triage": ("medical_agent_delegation", "triage_agent"),
}
"""By module and name in the package of their makers."""
OF_ADK = {
    "adk_starter": ("starter_pack", "adk"),
    "adk_created": ("adk_create", "config"),
}
"""By what writes them, and their name there."""
NAMES = (
    *("handovers", "agents_as_tools", "guarded", "subgraphs", "side_by_side", "own_saver", *MAKERS),
    *(("deep",) if find_spec("deepagents") else ()),
    *((*OF_PYDANTIC_AI, *OF_ADK) if find_spec("pydantic_ai_examples") else ()),
)

patch = pytest.MonkeyPatch()
"""What the makers' own reach for outside of the process stays doubled as long as the process has them: a server's is
killed, a test undoes it."""

points: Counter[str] = Counter()
"""Points that each run has come to in this process."""


async def point(what: str) -> None:
    """Stand still here for good, if this is where the run's server is to be killed."""
    run = current_run()
    assert run is not None, "a run comes here"
    number, points[run.run_id] = points[run.run_id], points[run.run_id] + 1
    note(run.run_id, what, "begins", str(os.getpid()))
    if os.environ.get("GAPLESS_TEST_STRUCK") and run.run_id.endswith(f"-{number}"):
        note(run.run_id, what, "stands", str(os.getpid()))
        await asyncio.get_running_loop().create_future()


class Point(Gate):
    """A point in what a model says."""

    async def pass_through(self) -> None:
        await point("model")


def scripted(*chunks: Chunk) -> list[Chunk]:
    """What a model says, with a point before each of its answers and of its words."""
    found: list[Chunk] = []
    for before, chunk in zip((None, *chunks), chunks, strict=False):
        if not (isinstance(before, ToolCall) and isinstance(chunk, ToolCall)):
            found.append(Point())
        found.append(chunk)
    return found


async def book(seat: str) -> str:
    """Book a seat."""
    return await done(f"book-{seat}", f"booked {seat}")


async def look(at: str) -> str:
    """Look at something."""
    return await done(f"look-{at}", f"seen {at}")


async def done(step: str, result: str) -> str:
    await point(step)
    run = current_run()
    assert run is not None, "a run comes here"
    note(run.run_id, step, "ends", str(os.getpid()))
    return result


# -- the OpenAI Agents SDK ---------------------------------------------------------------------------------------------

QUIET = sdk.RunConfig(tracing_disabled=True)


async def noted(context: Any) -> None:
    """Runs while one agent hands over to another."""
    await point("hand-over")


def of_sdk(name: str, *chunks: Chunk, **options: Any) -> sdk.Agent[Any]:
    return sdk.Agent(name=name, model=openai_agents_model(*scripted(*chunks)), **options)


def _handovers() -> sdk.Agent[Any]:
    model = openai_agents_model(
        *scripted(
            *words("One moment. "),
            ToolCall("transfer_to_seats", {}),
            *words("A seat: "),
            ToolCall("book", {"seat": "14A"}),
            ToolCall("transfer_to_desk", {}),
            *words("Anything else?"),
        )
    )
    desk: sdk.Agent[Any] = sdk.Agent(name="desk", model=model)
    seats: sdk.Agent[Any] = sdk.Agent(
        name="seats", model=model, tools=[sdk.function_tool(book)], handoffs=[sdk.handoff(desk, on_handoff=noted)]
    )
    desk.handoffs = [sdk.handoff(seats, on_handoff=noted)]
    return desk


def _agents_as_tools() -> sdk.Agent[Any]:
    inner = of_sdk("inner", *words("I look. "), ToolCall("look", {"at": "a"}), "Fine.", tools=[sdk.function_tool(look)])
    other = of_sdk("other", *words("Also fine."))
    return of_sdk(
        "outer",
        ToolCall("ask_inner", {"input": "?"}),
        ToolCall("ask_other", {"input": "?"}),
        *words("Both are fine."),
        tools=[
            inner.as_tool("ask_inner", "Ask.", run_config=QUIET),
            other.as_tool("ask_other", "Ask.", run_config=QUIET),
        ],
    )


@sdk.input_guardrail
async def may_ask(context: Any, agent: Any, given: Any) -> sdk.GuardrailFunctionOutput:
    await point("guardrail")
    return sdk.GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)


@sdk.output_guardrail
async def may_say(context: Any, agent: Any, output: Any) -> sdk.GuardrailFunctionOutput:
    await point("guardrail")
    return sdk.GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)


def _guarded() -> sdk.Agent[Any]:
    return of_sdk(
        "guarded",
        *words("I look. "),
        ToolCall("look", {"at": "b"}),
        *words("It is so."),
        tools=[sdk.function_tool(look)],
        input_guardrails=[may_ask],
        output_guardrails=[may_say],
    )


handovers = OpenAIAgent(_handovers(), run_config=QUIET)
agents_as_tools = OpenAIAgent(_agents_as_tools(), run_config=QUIET)
guarded = OpenAIAgent(_guarded(), run_config=QUIET)


# -- LangGraph ---------------------------------------------------------------------------------------------------------


class Told(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]


def says(text: str) -> Any:
    model = langgraph_model(*scripted(*words(text)))

    async def node(state: Told) -> dict[str, list[AIMessage]]:
        return {"messages": [await model.ainvoke(state["messages"][:1])]}

    return node


def chain(*nodes: tuple[str, Any]) -> Any:
    graph: Any = StateGraph(Told)
    for before, (name, node) in zip((START, *(name for name, _ in nodes)), nodes, strict=False):
        graph.add_node(name, node)
        graph.add_edge(before, name)
    graph.add_edge(nodes[-1][0], END)
    return graph.compile()


def _side_by_side() -> Any:
    graph: Any = StateGraph(Told)
    for name in ("left", "right"):
        graph.add_node(name, says(f"The {name} one. "))
        graph.add_edge(START, name)
        graph.add_edge(name, "both")
    graph.add_node("both", says("Both."))
    return graph.compile()


class OwnSaver(base.Agent):
    """An agent with a saver that is the user's: a file, opened in the server's event loop."""

    name = "own_saver"
    continues = "from_checkpoint"

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        async with aiosqlite.connect(os.environ["GAPLESS_TEST_LEDGER"] + ".sqlite") as connection:
            saver = AsyncSqliteSaver(connection)
            model = langgraph_model(
                *scripted(
                    *words("I look. "), ToolCall("look", {"at": "c"}), ToolCall("look", {"at": "d"}), *words("Seen.")
                )
            )
            graph = create_agent(model, [look], checkpointer=saver)
            async for item in LangGraphAgent(graph).run(ctx):
                yield item


subgraphs = LangGraphAgent(
    chain(
        ("before", says("Before. ")),
        ("inner", chain(("one", says("One. ")), ("two", says("Two. ")))),
        ("after", says("After.")),
    )
)
side_by_side = LangGraphAgent(_side_by_side())
own_saver = OwnSaver()


# -- the makers' own --------------------------------------------------------------------------------------------------


@functools.cache
def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(name)
    if name == "deep":
        from tests.agents import test_deepagents as found

        return LangGraphAgent(found.deep(scripted(*found.SCRIPT), scripted(*found.INNER)))
    if name in OF_PYDANTIC_AI:
        return _of_pydantic_ai(*OF_PYDANTIC_AI[name])
    if name in OF_ADK:
        return _of_adk(*OF_ADK[name])
    if not MAKERS[name]:
        from tests.agents.test_langgraph_quickstarts import QUICKSTARTS, served

        quickstart = next(one for one in QUICKSTARTS if one.make.__name__ == name)
        return served(quickstart, quickstart.make(langgraph_model(*scripted(*quickstart.script))))
    from tests.agents import test_published_openai_examples as published

    example = next(one for one in published.EXAMPLES if one.module == MAKERS[name])
    with openai_examples(Path(tempfile.mkdtemp(dir=Path(os.environ["GAPLESS_TEST_LEDGER"]).parent))) as load:
        module = load(example.module)
    agent = published.scripted(module, example._replace(script=tuple(scripted(*example.script))))
    return OpenAIAgent(agent, run_config=QUIET)


def _of_pydantic_ai(module: str, name: str) -> PydanticAIAgent:
    from tests.agents import test_published_examples as published

    published.stay_offline(patch)
    example = next(one for one in published.PYDANTIC_AI_EXAMPLES if (one.module, one.agent) == (module, name))
    others = {name: tuple(scripted(*script)) for name, script in example.others.items()}
    stage = published.Stage(example._replace(script=tuple(scripted(*example.script)), others=others), patch)
    return PydanticAIAgent(stage.agent, deps=stage.deps)


def _of_adk(writer: str, name: str) -> Any:
    from tests.agents import test_published_examples as published

    folder, before = Path(tempfile.mkdtemp(dir=Path(os.environ["GAPLESS_TEST_LEDGER"]).parent)), set(sys.modules)
    published.pretend_a_cloud(patch, folder)
    example = next(one for one in published.ADK_EXAMPLES if (one.make.__name__, one.name) == (writer, name))
    module = example.make(name, folder)
    published.forget_projects(before)
    if hasattr(module, "datetime"):
        module.datetime = SimpleNamespace(datetime=published.Clock)
    agent = getattr(module.app, "root_agent", module.app)
    agent.model = adk_model(*scripted(*example.script))
    return module.app
