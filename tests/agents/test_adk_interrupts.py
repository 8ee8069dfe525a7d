"""ADK's calls that wait for an answer from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.adk.events import RequestInput
from google.adk.sessions import InMemorySessionService
from google.adk.tools import FunctionTool, LongRunningFunctionTool
from google.adk.workflow import START, Workflow

from gapless import Runner
from gapless.events import (
    ResumeEntry,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    Tool,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from gapless.records import RunStatus
from gapless.runs.run import Run
from tests.support.adk import Call, contents
from tests.support.adk_runs import agent_of, all_of, calls, custom, results, text_of

pytestmark = pytest.mark.both_ways


async def waiting(run: Run) -> Any:
    """The interrupts that the run waits with."""
    async for event in run.events():
        if isinstance(event, RunFinishedEvent):
            return event.outcome.interrupts  # type: ignore[union-attr]  # the interrupt outcome
    raise AssertionError("it did not wait")


@pytest.mark.parametrize(
    ("payload", "status", "done"),
    [
        ({"approved": True}, "resolved", True),
        (True, "resolved", True),
        ({"approved": True, "editedArgs": {"what": "job"}}, "resolved", True),
        ({"approved": False, "editedArgs": {"what": "nobody"}}, "resolved", False),
        ({"response": '{"confirmed": true}'}, "resolved", True),
        ({"response": '{"confirmed": false}'}, "resolved", False),
        (False, "resolved", False),
        (None, "cancelled", False),
    ],
)
async def test_a_confirmation_is_asked_for_and_answered(payload: Any, status: Any, done: bool):
    fired = []

    def fire(what: str) -> str:
        """Fires."""
        fired.append(what)
        return f"{what} is gone"

    agent = agent_of(
        ["Sure? ", Call("fire", {"what": "job"})],
        ["As you wish."],
        tools=[FunctionTool(fire, require_confirmation=True)],
    )
    async with Runner(agent) as runner:
        run = await runner.start("fire it", session_id="s")
        (interrupt,) = await waiting(run)
        assert (interrupt.reason, interrupt.message) == ("tool_call", "Approve the call of fire?")
        assert fired == []
        await run.answer([ResumeEntry(interrupt_id=interrupt.id, status=status, payload=payload)])
        events = await all_of(run)
        assert text_of(events) == "Sure? As you wish."
        assert calls(events) == [("fire", {"what": "job"})]
        assert interrupt.tool_call_id == next(e.tool_call_id for e in events if isinstance(e, ToolCallStartEvent))
        assert len(results(events)) == 1
        assert fired == (["job"] if done else [])
        await (await runner.start("thanks", session_id="s")).collect()


@pytest.mark.parametrize(
    "unclear",
    [
        {"response": "yes, why not"},
        None,
        {"approved": "yes"},
        {"approved": True, "editedArgs": {"what": "nobody"}},
        {"confirmed": True, "editedArgs": {}},
        {"response": '{"confirmed": true, "editedArgs": ["job"]}'},
    ],
)
async def test_a_confirmation_that_is_neither_yes_nor_no_is_asked_for_again(unclear: Any):
    fired = []

    def fire(what: str) -> None:
        """Fires."""
        fired.append(what)

    tools = [FunctionTool(fire, require_confirmation=True)]
    asked: list[str] = []
    async with Runner(agent_of([Call("fire", {"what": "job"})], ["Over."], tools=tools)) as runner:
        run = await runner.start("fire it")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and (interrupts := getattr(event.outcome, "interrupts", None)):
                assert fired == []
                asked += [interrupt.message for interrupt in interrupts]
                payload = unclear if len(asked) == 1 else True
                await run.answer([ResumeEntry(interrupt_id=interrupts[0].id, status="resolved", payload=payload)])
    assert fired == ["job"]
    assert asked[1].startswith(f"{asked[0]} (The answer was not understood")


async def test_a_long_running_tool_waits_for_its_result():
    def ship(item: str) -> dict[str, str]:
        """Ships."""
        return {"status": "pending", "ticket": "T1"}

    agent = agent_of([Call("ship", {"item": "book"})], ["It was shipped."], tools=[LongRunningFunctionTool(ship)])
    model = agent.model
    async with Runner(agent) as runner:
        run = await runner.start("ship it")
        (interrupt,) = await waiting(run)
        assert interrupt.metadata["adk"]["response"] == {"status": "pending", "ticket": "T1"}
        assert (await run.record()).status is RunStatus.WAITING
        await run.answer([ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload={"status": "delivered"})])
        events = await all_of(run)
    assert results(events) == [{"status": "delivered"}]
    assert text_of(events).endswith("It was shipped.")
    assert "delivered" in str(contents(model.requests[-1]))


@pytest.mark.parametrize("pending", [None, {"status": "pending"}])
async def test_a_result_counts_that_is_given_beside_a_confirmation(pending: Any):
    fired: list[str] = []

    def ship() -> Any:
        """Ships."""
        return pending

    def fire(what: str) -> dict[str, str]:
        """Fires."""
        fired.append(what)
        return {"gone": what}

    tools = [FunctionTool(fire, require_confirmation=True), LongRunningFunctionTool(ship)]
    agent = agent_of(["Sure? ", Call("fire", {"what": "job"}), Call("ship")], ["Both are done."], tools=tools)
    async with Runner(agent) as runner:
        run = await runner.start("go", session_id="s")
        payloads = {"approval": True, "external": {"status": "delivered"}}
        given = [
            ResumeEntry(interrupt_id=one.id, status="resolved", payload=payloads[one.metadata["kind"]])
            for one in await waiting(run)
        ]
        await run.answer(given)
        events = await all_of(run)
        assert text_of(events) == "Sure? Both are done."
        assert fired == ["job"]
        assert sorted(results(events), key=str) == [{"gone": "job"}, {"status": "delivered"}]
        assert len(agent.model.requests) == 2  # nothing is said before both are there
        told = [text for role, text in contents(agent.model.requests[-1]) if text.startswith("result")]
        assert sorted(told) == ["result fire {'gone': 'job'}", "result ship {'status': 'delivered'}"]
        await (await runner.start("thanks", session_id="s")).collect()
        told = [text for role, text in contents(agent.model.requests[-1]) if text.startswith("result")]
        assert sorted(told) == ["result fire {'gone': 'job'}", "result ship {'status': 'delivered'}"]


async def test_a_run_cancelled_while_it_waits_leaves_a_session_that_works():
    def ship() -> None:
        """Ships."""

    agent = agent_of([Call("ship")], ["Fine."], tools=[LongRunningFunctionTool(ship)])
    async with Runner(agent) as runner:
        run = await runner.start("ship it", session_id="s")
        await waiting(run)
        await run.cancel()
        await run.wait()
        assert (await (await runner.start("and now?", session_id="s")).collect()).text == "Fine."


async def test_a_run_cancelled_while_it_waits_leaves_no_call_that_asks_to_be_approved():
    def look() -> str:
        """Looks."""
        return "seen"

    def fire(what: str) -> None:
        """Fires."""

    tools = [look, FunctionTool(fire, require_confirmation=True)]
    both = [Call("fire", {"what": "job"}), Call("fire", {"what": "boss"})]
    agent = agent_of([Call("look"), *both], ["Fine."], ["Still fine."], tools=tools)
    async with Runner(agent) as runner:
        run = await runner.start("fire both", session_id="s")
        await waiting(run)
        await run.cancel()
        await run.wait()
        for text in ("Fine.", "Still fine."):
            assert (await (await runner.start("and now?", session_id="s")).collect()).text == text
            told = [said for _, said in contents(agent.model.requests[-1]) if said.startswith("result")]
            ended = "result fire {'error': 'The run was ended.'}"
            assert sorted(told) == [ended, ended, "result look {'result': 'seen'}"]


@pytest.mark.parametrize("service", [None, InMemorySessionService])
async def test_a_run_cancelled_while_it_does_what_was_approved_leaves_no_call_that_asks_for_it(service: Any):
    begun = asyncio.Event()

    async def fire(what: str) -> None:
        """Fires."""
        begun.set()
        await asyncio.Event().wait()  # until the run is cancelled

    tools = [FunctionTool(fire, require_confirmation=True)]
    agent = agent_of([Call("fire", {"what": "job"})], ["Fine."], tools=tools)
    async with Runner(agent, session_service=service and service()) as runner:
        run = await runner.start("fire it", session_id="s")
        (interrupt,) = await waiting(run)
        await run.answer([ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload=True)])
        await begun.wait()
        await run.cancel()
        await run.wait()
        assert (await (await runner.start("and now?", session_id="s")).collect()).text == "Fine."
        assert "approve" not in str(contents(agent.model.requests[-1]))


async def test_tools_of_the_client_end_the_run_with_their_calls_and_come_back_with_results():
    agent = agent_of(["Where? ", Call("locate", {"exact": True}, id="c1")], ["You are in Bern."])
    tool = Tool(name="locate", description="Where the user is", parameters={"type": "object"})
    async with Runner(agent) as runner:
        run = await runner.start("where am I?", session_id="s", tools=[tool])
        events = await all_of(run)
        finished = events[-1]
        assert isinstance(finished, RunFinishedEvent)
        assert finished.outcome == RunFinishedSuccessOutcome(pending_tool_call_ids=["c1"])
        assert custom(events, "gapless.finish") == [{"reason": "tool_calls"}]
        (declared,) = agent.model.configs[0].tools[0].function_declarations
        assert (declared.name, declared.parameters_json_schema) == ("locate", {"type": "object"})
        messages = [*await runner.messages("s"), ToolMessage(id="t", tool_call_id="c1", content="Bern")]
        back = UserMessage(id="", content="")
        answer = await (await runner.start(back, session_id="s", tools=[tool], messages=messages)).collect()
    assert answer.text == "You are in Bern."
    assert contents(agent.model.requests[-1]) == [
        ("user", "where am I?"),
        ("model", "Where? "),
        ("model", "call locate"),
        ("user", "result locate {'result': 'Bern'}"),
    ]


async def test_an_answer_that_does_not_fit_what_is_asked_is_asked_for_again():
    async def question(ctx: Any, node_input: Any) -> AsyncIterator[RequestInput]:
        number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        yield RequestInput(interrupt_id="q", message="How many?", response_schema=number)

    def end(node_input: Any) -> dict[str, Any]:
        return {"end": node_input}

    async with Runner(Workflow(name="flow", edges=[(START, question, end)])) as runner:
        run, asked = await runner.start("x"), []
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and (interrupts := getattr(event.outcome, "interrupts", None)):
                asked += [interrupt.message for interrupt in interrupts]
                payload = {"n": "many"} if len(asked) == 1 else {"n": 3}
                await run.answer([ResumeEntry(interrupt_id="q", status="resolved", payload=payload)])
        assert asked == ["How many?", "How many? (The answer was not understood.)"]
        assert (await run.collect()).result == {"end": {"n": 3}}
