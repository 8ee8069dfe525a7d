"""Strands, Agno and LlamaIndex: by their own bridges to AG-UI, and by their own streams as the examples have it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import heavy

if not (heavy.has("strands") and heavy.has("agno") and heavy.has("llama_index")):
    pytest.skip(heavy.MISSING, allow_module_level=True)

os.environ["AGNO_TELEMETRY"] = "false"

from ag_ui_strands import StrandsAgent
from agno.agent import Agent as AgnoAgent
from agno.db.in_memory import InMemoryDb
from agno.os.interfaces.agui.router import run_entity
from agno.tools import tool as agno_tool
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.workflow import Context
from llama_index.protocols.ag_ui.agent import AGUIChatWorkflow
from llama_index.protocols.ag_ui.router import AG_UI_EVENTS
from strands import Agent as OfStrands
from strands import tool as strands_tool
from workflows.events import HumanResponseEvent, InputRequiredEvent

from gapless import ResumeEntry, Runner
from gapless.agents.agui_object import AGUIObject
from gapless.events import (
    Event,
    RawEvent,
    ReasoningMessageContentEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    TextMessageContentEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.testing import Chunk, Gate, NextTurn, Reasoning, ToolCall
from tests.support.agui import check_order
from tests.support.heavy_models import AgnoModel, LlamaModel, Script, StrandsModel


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in of(events, TextMessageContentEvent))


async def asked(runner: Runner, message: str, answer: Any = None) -> list[Event]:
    run = await runner.start(message, session_id="s")
    events = []
    async for event in run.events():
        events.append(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            asks = event.outcome.interrupts
            await run.answer([ResumeEntry(interrupt_id=one.id, status="resolved", payload=answer) for one in asks])
    await run.raise_if_failed()
    check_order(events)
    return events


def strands(*chunks: Chunk, bridge: bool) -> tuple[Any, Script]:
    @strands_tool
    def look(at: str) -> str:
        """Look."""
        return f"seen {at}"

    @strands_tool
    def broken(at: str) -> str:
        """Fail."""
        raise ValueError("no")

    @strands_tool(context=True)
    def pay(to: str, tool_context: Any) -> str:
        """Pay."""
        return f"paid {to}" if "True" in str(tool_context.interrupt("pay", reason={"to": to})) else "not paid"

    model = StrandsModel(*chunks)
    options: Any = {"model": model, "tools": [look, broken, pay], "callback_handler": None}
    if bridge:
        return AGUIObject(StrandsAgent(OfStrands(**options), name="strands")), model.script
    example = importlib.import_module("strands_agent")
    return example.of_strands(lambda messages: OfStrands(messages=messages, **options)), model.script


class AgnoBridge:
    """Agno's bridge, which is a function."""

    name = "agno"

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def run(self, given: Any) -> Any:
        return run_entity(self._agent, given)


def agno(*chunks: Chunk, bridge: bool) -> tuple[Any, Script]:
    async def look(at: str) -> str:
        """Look."""
        return f"seen {at}"

    async def broken(at: str) -> str:
        """Fail."""
        raise ValueError("no")

    @agno_tool(requires_confirmation=True)
    async def pay(to: str) -> str:
        """Pay."""
        return f"paid {to}"

    model = AgnoModel(script=Script(chunks))
    agent = AgnoAgent(
        model=model, tools=[look, broken, pay], db=InMemoryDb(), telemetry=False, add_history_to_context=True
    )
    made = AGUIObject(AgnoBridge(agent)) if bridge else importlib.import_module("agno_agent").of_agno(agent)
    return made, model.script


class LlamaBridge:
    """LlamaIndex's bridge, whose events are among those of a workflow."""

    name = "llamaindex"

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    async def run(self, given: Any) -> Any:
        handler = self._make().run(input_data=given)
        try:
            async for event in handler.stream_events():
                if isinstance(event, AG_UI_EVENTS):
                    yield event
            await handler
        finally:
            await handler.cancel_run()


def llamaindex(*chunks: Chunk, bridge: bool) -> tuple[Any, Script]:
    async def look(at: str) -> str:
        """Look."""
        return f"seen {at}"

    async def broken(at: str) -> str:
        """Fail."""
        raise ValueError("no")

    async def pay(ctx: Context, to: str) -> str:
        """Pay."""
        asks = InputRequiredEvent(prefix=f"Pay {to}?")
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id=to, waiter_event=asks)
        return f"paid {to}" if "True" in str(answer.response) else "not paid"

    pay.__annotations__["ctx"] = Context  # it knows its own by the class
    model = LlamaModel(*chunks)
    if bridge:
        return AGUIObject(LlamaBridge(lambda: AGUIChatWorkflow(llm=model, backend_tools=[look, broken]))), model.script
    example = importlib.import_module("llamaindex_agent")
    return example.of_llamaindex(lambda: FunctionAgent(llm=model, tools=[look, broken, pay])), model.script


WAYS = {
    "strands": lambda *chunks: strands(*chunks, bridge=False),
    "strands bridge": lambda *chunks: strands(*chunks, bridge=True),
    "agno": lambda *chunks: agno(*chunks, bridge=False),
    "agno bridge": lambda *chunks: agno(*chunks, bridge=True),
    "llamaindex": lambda *chunks: llamaindex(*chunks, bridge=False),
    "llamaindex bridge": lambda *chunks: llamaindex(*chunks, bridge=True),
}
NO_REASONING = {"agno bridge", "llamaindex bridge"}
NO_QUESTIONS = {"agno bridge", "llamaindex bridge"}
"""Agno's tells of the call, and ends as if it were done."""
NO_FAILURES = {"strands bridge", "agno bridge", "llamaindex bridge"}
"""AG-UI's results have no place for it."""
Way = Callable[..., tuple[Any, Script]]


@pytest.mark.parametrize("way", WAYS)
async def test_text_thoughts_calls_and_results_come_once(way: str):
    calls = (ToolCall("look", {"at": "a"}), ToolCall("look", {"at": "b"}))
    agent, _ = WAYS[way](Reasoning("Hm."), "Look: ", *calls, "Done.")
    async with Runner(agent) as runner:
        events = await asked(runner, "go")
    assert text_of(events) == "Look: Done."
    starts = of(events, ToolCallStartEvent)
    assert len(starts) == len({one.tool_call_id for one in starts}) == 2
    assert [str(one.content).strip('"') for one in of(events, ToolCallResultEvent)] == ["seen a", "seen b"]
    thought = "".join(one.delta for one in of(events, ReasoningMessageContentEvent))
    assert thought == ("" if way in NO_REASONING else "Hm.")
    assert not of(events, RawEvent)


@pytest.mark.parametrize("way", WAYS)
async def test_the_second_turn_knows_the_first_once(way: str):
    agent, script = WAYS[way]("the-first-answer", NextTurn(), "the-second-answer")
    async with Runner(agent) as runner:
        await asked(runner, "the-first-question")
        assert text_of(await asked(runner, "the-second-question")) == "the-second-answer"
    for said in ("the-first-question", "the-first-answer", "the-second-question"):
        assert script.requests[-1].count(said) == 1, said


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancel_stops_the_model(way: str):
    gate = Gate()
    agent, script = WAYS[way]("Said ", gate, "never.")
    async with Runner(agent) as runner:
        run = await runner.start("go")
        await gate.reached()
        assert script.running == 1
        await run.cancel()
        await run.wait()
        assert script.running == 0


@pytest.mark.parametrize("way", [way for way in WAYS if way not in NO_QUESTIONS])
async def test_a_person_is_asked_and_the_answer_counts(way: str):
    agent, _ = WAYS[way]("Shall I? ", ToolCall("pay", {"to": "Ann"}), "Over.")
    async with Runner(agent) as runner:
        events = await asked(runner, "pay", {"approved": True})
    assert text_of(events) == "Shall I? Over."
    assert "paid Ann" in str(of(events, ToolCallResultEvent)[-1].content)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in NO_FAILURES])
async def test_a_tool_that_fails_is_shown_to_have_failed(way: str):
    agent, _ = WAYS[way]("Try: ", ToolCall("broken", {"at": "x"}), "Sorry.")
    async with Runner(agent) as runner:
        events = await asked(runner, "go")
    assert text_of(events) == "Try: Sorry."
    assert of(events, ToolCallResultEvent)[-1].error is not None
