"""Deep Agents: a todo list, files, sub-agents and questions come through. `tests/goes_on/shapes.py` has one that is
killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

pytest.importorskip("deepagents", reason="it is not installed: scripts/test brings it")

from deepagents import create_deep_agent
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from gapless import ResumeEntry, Runner
from gapless.agents.langgraph import LangGraphAgent
from gapless.events import (
    Event,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StateSnapshotEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    ToolCallStartEvent,
)
from gapless.testing import Chunk, ToolCall, langgraph_model, words
from gapless.testing.place import Place
from tests.agents.test_langgraph_quickstarts import outcome_of_state
from tests.support.agui import check_order
from tests.support.outcomes import Outcome, outcome_of_events, what_is_left
from tests.support.published import told_on_every_wire

TODOS = [{"content": "find", "status": "in_progress"}, {"content": "write", "status": "pending"}]
FILE = "/report.md"
SCRIPT: tuple[Chunk, ...] = (
    *words("A plan. "),
    ToolCall("write_todos", {"todos": TODOS}),
    *words("I ask: "),
    ToolCall("task", {"description": "Find the sea.", "subagent_type": "researcher"}),
    "I write. ",
    ToolCall("write_file", {"file_path": FILE, "content": "The sea is wide."}),
    "I check. ",
    ToolCall("edit_file", {"file_path": FILE, "old_string": "wide", "new_string": "blue"}),
    "Done. ",
)
PUBLISHED: tuple[Chunk, ...] = (*SCRIPT[:-1], "May I? ", ToolCall("publish", {"path": FILE}), *words("It is out."))
INNER: tuple[Chunk, ...] = (*words("I search. "), ToolCall("search", {"about": "sea"}), *words("It is wide."))


def search(about: str) -> str:
    """Search."""
    return f"all about {about}"


def publish(path: str) -> str:
    """Publish a file."""
    return f"published {path}"


def deep(script: Sequence[Chunk] = SCRIPT, inner: Sequence[Chunk] = INNER, **options: Any) -> Any:
    researcher: Any = {
        "name": "researcher",
        "description": "Finds.",
        "system_prompt": "Find.",
        "tools": [search],
        "model": langgraph_model(*inner),
    }
    return create_deep_agent(
        model=langgraph_model(*script),
        tools=[publish],
        middleware=[TodoListMiddleware()],
        subagents=[researcher],
        interrupt_on={"publish": True},
        **options,
    )


def agent(script: Sequence[Chunk] = SCRIPT, inner: Sequence[Chunk] = INNER) -> LangGraphAgent:
    return LangGraphAgent(deep(script, inner), state=("todos", "files"))


async def alone(script: Sequence[Chunk]) -> tuple[Outcome, dict[str, Any]]:
    """What the framework gives its own user, who says yes."""
    graph, config = deep(script, checkpointer=InMemorySaver()), {"configurable": {"thread_id": "alone"}}
    state = await graph.ainvoke({"messages": [HumanMessage("Go on.")]}, config)
    if "__interrupt__" in state:
        state = await graph.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
    return outcome_of_state(state), state


async def told(run: Any) -> AsyncIterator[Event]:
    """Yield the run's events, and say yes to what it asks."""
    async for event in run.events():
        yield event
        if asked := questions([event]):
            yes = {"approved": True}
            await run.answer([ResumeEntry(interrupt_id=id, status="resolved", payload=yes) for id in asked])


def questions(events: list[Event]) -> list[str]:
    outcomes = [event.outcome for event in events if isinstance(event, RunFinishedEvent)]
    return [one.id for out in outcomes if isinstance(out, RunFinishedInterruptOutcome) for one in out.interrupts]


def kept(state: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The state but for its times."""
    return state["todos"], {path: one["content"] for path, one in state["files"].items()}


async def test_it_gives_what_it_gives_alone():
    expected, state = await alone(PUBLISHED)
    async with Runner(agent(PUBLISHED)) as runner:
        events = [event async for event in told(await runner.start("Go on."))]
    check_order(events)
    of_it = [event for event in events if getattr(event, "subagent_run_id", None) is None]
    assert outcome_of_events(of_it) == expected
    assert expected.said[-2:] == [("result", f"published {FILE}"), ("text", "It is out.")]
    snapshot = [event.snapshot for event in events if isinstance(event, StateSnapshotEvent)][-1]
    assert kept(snapshot) == kept(state) == (TODOS, {FILE: "The sea is blue."})


async def test_a_sub_agent_is_shown_with_its_call():
    async with Runner(agent()) as runner:
        run = await runner.start("Go on.")
        events = [event async for event in run.events()]
    (began,) = [event for event in events if isinstance(event, SubagentStartedEvent)]
    (ended,) = [event for event in events if isinstance(event, SubagentFinishedEvent)]
    calls = {event.tool_call_id: event.tool_call_name for event in events if isinstance(event, ToolCallStartEvent)}
    assert began.parent_tool_call_id is not None
    assert (began.name, calls[began.parent_tool_call_id], ended.subagent_run_id) == (
        "researcher",
        "task",
        began.subagent_run_id,
    )
    inside = [event for event in events if getattr(event, "subagent_run_id", None) == began.subagent_run_id]
    said = "".join(event.delta for event in inside if isinstance(event, TextMessageContentEvent))
    assert said == "I search. It is wide."
    assert "search" in [event.tool_call_name for event in inside if isinstance(event, ToolCallStartEvent)]


async def test_it_is_told_on_every_wire():
    async with Runner(agent()) as runner:
        run = await runner.start("Go on.")
        expected = outcome_of_events([event async for event in run.events()])
    await told_on_every_wire(agent(), expected)


async def test_its_question_is_answered_at_another_worker_and_its_files_are_there():
    expected, _ = await alone(PUBLISHED)
    place = Place()
    try:
        first = await place.worker(agent(PUBLISHED))
        run = await first.start("Go on.", agent="agent", run_id="r")
        asked: list[str] = []
        async for event in run.events():
            asked += questions([event])
            if asked:
                break
        other = await place.worker(agent(PUBLISHED))
        await place.lose(first, other)
        run = await other.attach("r")
        await run.answer([ResumeEntry(interrupt_id=asked[0], status="resolved", payload={"approved": True})])
        events = [event async for event in run.events()]
    finally:
        await place.close()
    check_order(events)
    of_it = [event for event in events if getattr(event, "subagent_run_id", None) is None]
    assert what_is_left(of_it) == expected
    snapshot = [event.snapshot for event in events if isinstance(event, StateSnapshotEvent)][-1]
    assert kept(snapshot) == (TODOS, {FILE: "The sea is blue."})
