"""Agents of the Claude Agent SDK as runs, with its real command line and a scripted service on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import heavy

if not heavy.has("claude_agent_sdk"):
    pytest.skip(heavy.MISSING, allow_module_level=True)

from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions, HookMatcher, create_sdk_mcp_server, tool

from gapless import ResumeEntry, RunConfig, Runner, StreamingMode
from gapless.agents import adapt
from gapless.agents.claude import ClaudeAgent
from gapless.errors import AgentInvalid, ModelFailed, RunLimit
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ReasoningEncryptedValueEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    SystemMessage,
    TextMessageContentEvent,
    Tool,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from gapless.testing import Fail, Gate, NextTurn, Reasoning, ToolCall, claude_model
from gapless.testing.claude import ClaudeModel
from gapless.testing.place import Place
from gapless.user_message import mark_results
from tests.support.agui import check_order
from tests.support.waiting import WAIT_S

ROOT = Path(__file__).parents[3]
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    yield found
    await found.close()


@tool("look", "Look.", {"at": str})
async def look(given: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"seen {given['at']}"}]}


def pay_into(paid: list[str]) -> Any:
    @tool("pay", "Pay.", {"to": str})
    async def pay(given: dict[str, Any]) -> dict[str, Any]:
        paid.append(given["to"])
        return {"content": [{"type": "text", "text": f"paid {given['to']}"}]}

    return pay


def made(model: ClaudeModel, *tools: Any, **options: Any) -> ClaudeAgentOptions:
    options = {
        "allowed_tools": ["mcp__own"],
        "env": model.env,
        "mcp_servers": {"own": create_sdk_mcp_server("own", tools=[look, *tools])},
        "model": "claude-sonnet-5",
        "setting_sources": [],
        "system_prompt": "Help.",
        "tools": [],
        **options,
    }
    return ClaudeAgentOptions(**options)


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in of(events, TextMessageContentEvent))


def questions(events: list[Event]) -> list[Interrupt]:
    outcomes = [event.outcome for event in of(events, RunFinishedEvent)]
    return [one for out in outcomes if isinstance(out, RunFinishedInterruptOutcome) for one in out.interrupts]


def told(model: ClaudeModel, at: int = -1) -> str:
    return json.dumps(model.requests[at]["messages"])


async def asked(runner: Runner, message: Any, *answers: Any, **options: Any) -> list[Event]:
    run = await runner.start(message, **options)
    left, events = list(answers), []
    async for event in run.events():
        events.append(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            given = [(one, left.pop(0)) for one in event.outcome.interrupts]
            await run.answer(
                [ResumeEntry(interrupt_id=one.id, status="resolved", payload=payload) for one, payload in given]
            )
    await run.raise_if_failed()
    check_order(events)
    return events


async def one_run(agent: Any, message: Any = "hello", *answers: Any, **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await asked(runner, message, *answers, **options)


def processes() -> list[str]:
    """The command lines of this process's children that are the CLI."""
    found = []
    for pid in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for child in pid.read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
            found += [line] if line.endswith("claude") else []
    return found


async def test_an_agent_is_found_by_what_it_is():
    assert isinstance(adapt(made(claude_model("hi"))), ClaudeAgent)
    with pytest.raises(AgentInvalid, match="resume"):
        ClaudeAgent(ClaudeAgentOptions(resume="x"))


async def test_thoughts_come_with_their_signature_and_tools_by_their_own_names():
    model = claude_model(Reasoning("Hm, "), Reasoning("so."), "Look: ", ToolCall("look", {"at": "sea"}), "Blue.")
    events = await one_run(made(model))
    assert text_of(events) == "Look: Blue."
    assert of(events, ReasoningEncryptedValueEvent)[0].encrypted_value == "signed"
    assert [call.tool_call_name for call in of(events, ToolCallStartEvent)] == ["look"]
    assert of(events, ToolCallResultEvent)[0].content == "seen sea"
    assert [event.value["usd"] > 0 for event in of(events, CustomEvent) if event.name == "claude.cost"] == [True]


async def test_an_answer_in_one_piece_is_the_same():
    model = claude_model(Reasoning("So."), "Look: ", "there ", ToolCall("look", {"at": "sea"}), "Blue", ".")
    events = await one_run(made(model), config=RunConfig(streaming_mode=StreamingMode.NONE))
    assert [event.delta for event in of(events, TextMessageContentEvent)] == ["Look: there ", "Blue."]
    assert of(events, ToolCallResultEvent)[0].content == "seen sea"


async def test_a_call_that_is_put_off_is_answered_at_another_worker_and_nothing_waits_meanwhile(place):
    paid: list[str] = []

    def agent() -> tuple[ClaudeModel, ClaudeAgent]:
        model = claude_model("Shall I? ", ToolCall("pay", {"to": "Ann"}), "Over.")
        return model, ClaudeAgent(made(model, pay_into(paid)), approve=["pay"])

    first = await place.worker(agent()[1])
    run = await first.start("pay", agent="agent", session_id="s", run_id="r")
    events: list[Event] = []
    async for event in run.events():
        events.append(event)
        if questions(events):
            break
    (question,) = questions(events)
    assert (question.metadata or {})["arguments"] == {"to": "Ann"}
    assert not processes(), "while it waits, it costs nothing"
    model, other_agent = agent()
    other = await place.worker(other_agent)
    await place.lose(first, other)
    payload = {"approved": True, "editedArgs": {"to": "Bob"}}
    run = await other.attach("r")
    await run.answer([ResumeEntry(interrupt_id=question.id, status="resolved", payload=payload)])
    events = [event async for event in run.events()]
    check_order(events)
    assert paid == ["Bob"]
    assert text_of(events) == "Shall I? Over."
    assert len(model.requests) == 1, "the answer that was given before is not asked for again"
    assert of(events, ToolCallResultEvent)[-1].tool_call_id == question.tool_call_id


async def test_what_the_rules_leave_open_is_asked_with_arguments_that_can_be_edited_and_a_reason():
    paid: list[str] = []
    script = ("Shall I? ", ToolCall("pay", {"to": "Ann"}), "Over.")
    model = claude_model(*script)
    options = made(model, pay_into(paid), allowed_tools=[])
    events = await one_run(options, "pay", {"approved": True, "editedArgs": {"to": "Bob"}})
    assert (paid, text_of(events)) == (["Bob"], "Shall I? Over.")
    model = claude_model(*script)
    options = made(model, pay_into(paid), allowed_tools=[])
    events = await one_run(options, "pay", {"approved": False, "reason": "Too much."})
    assert paid == ["Bob"]
    assert "Too much." in told(model)
    assert of(events, ToolCallResultEvent)[-1].error is not None


async def test_of_several_calls_that_want_a_yes_each_is_asked_for_and_made():
    paid: list[str] = []
    calls = [ToolCall("pay", {"to": name}) for name in ("Ann", "Bob", "Cid")]
    model = claude_model("Shall I? ", *calls, ToolCall("look", {"at": "x"}), "Over.")
    agent = ClaudeAgent(made(model, pay_into(paid)), approve=["pay"])
    events = await one_run(agent, "pay", {"approved": True}, {"approved": False}, {"approved": True})
    assert paid == ["Ann", "Cid"]
    assert len(of(events, ToolCallResultEvent)) == 4
    assert text_of(events) == "Shall I? Over."


async def test_a_hook_that_puts_off_asks_too():
    async def defer(given: Any, id: Any, context: Any) -> dict[str, Any]:
        put_off = {"hookEventName": "PreToolUse", "permissionDecision": "defer"}
        return {"hookSpecificOutput": put_off} if given["tool_name"].endswith("pay") else {}

    paid: list[str] = []
    model = claude_model("Shall I? ", ToolCall("pay", {"to": "Ann"}), "Over.")
    hooks: Any = {"PreToolUse": [HookMatcher(hooks=[defer])]}
    events = await one_run(made(model, pay_into(paid), hooks=hooks), "pay", {"approved": True})
    assert (paid, text_of(events)) == (["Ann"], "Shall I? Over.")


async def test_an_agent_in_the_background_is_a_sub_agent_and_the_answer_to_its_end_is_part_of_the_run():
    call = ToolCall("Agent", {"description": "Search", "prompt": "find the sea", "subagent_type": "helper"})
    model = claude_model(
        "I ask. ",
        call,
        "Wait. ",
        NextTurn(),
        "Found.",
        agents={"find the sea": ("A look. ", ToolCall("look", {"at": "sea"}), "There.")},
    )
    helper = AgentDefinition(description="Finds.", prompt="Find.", tools=["mcp__own__look"])
    events = await one_run(made(model, tools=["Agent"], agents={"helper": helper}))
    (began,), (ended,) = of(events, SubagentStartedEvent), of(events, SubagentFinishedEvent)
    assert (began.name, began.subagent_run_id) == ("helper", ended.subagent_run_id)
    texts = of(events, TextMessageContentEvent)
    assert "".join(one.delta for one in texts if one.subagent_run_id == began.subagent_run_id) == "A look. There."
    assert "".join(one.delta for one in texts if one.subagent_run_id is None) == "I ask. Wait. Found."
    looked = next(one for one in of(events, ToolCallResultEvent) if one.content == "seen sea")
    assert looked.subagent_run_id == began.subagent_run_id
    counts = [one.total_tokens or 0 for one in events[-1].usage]
    assert sum(counts) > 2 * len(model.requests)


async def test_what_the_service_says_when_it_fails_stays_here():
    class Refused(Exception):
        status_code = 401

    model = claude_model(Fail(Refused("4929-secret")))
    with pytest.raises(ModelFailed, match="401") as raised:
        await one_run(made(model, env={**model.env, "CLAUDE_CODE_MAX_RETRIES": "0"}))
    assert "4929" not in str(raised.value)


async def test_a_bound_on_model_calls_is_one_on_turns():
    model = claude_model("a", ToolCall("look", {"at": "x"}), "b", ToolCall("look", {"at": "y"}), "c")
    with pytest.raises(RunLimit):
        await one_run(made(model), config=RunConfig(max_llm_calls=1))


async def test_a_cancel_ends_a_tool_and_the_process():
    gate = Gate()

    @tool("slow", "Be slow.", {})
    async def slow(given: dict[str, Any]) -> dict[str, Any]:
        await gate.pass_through()
        return {"content": []}

    model = claude_model("Wait. ", ToolCall("slow", {}), "never", NextTurn(), "Well.")
    async with Runner(made(model, slow)) as runner:
        run = await runner.start("go", session_id="s")
        await gate.reached()
        await run.cancel()
        await run.wait()
        assert not processes()
        events = await asked(runner, "and now?", session_id="s")
    assert text_of(events) == "Well."
    assert "cut short" in told(model)
    assert told(model).count("Wait.") == 1


async def test_another_agents_turns_are_part_of_the_conversation():
    async def other(message: str) -> AsyncIterator[str]:
        yield "said elsewhere"

    model = claude_model("one", NextTurn(), "two", NextTurn(), "three")
    async with Runner(agents={"claude": made(model), "other": other}) as runner:
        await asked(runner, "first", session_id="s", agent="claude")
        await asked(runner, "second", session_id="s", agent="other")
        events = await asked(runner, "third", session_id="s", agent="claude")
    assert text_of(events) == "three"
    for said in ("first", "one", "second", "said elsewhere", "third"):
        assert told(model).count(f'"{said}"') == 1, said


async def test_a_message_that_is_edited_takes_the_place_of_what_it_was():
    model = claude_model("one", NextTurn(), "two")
    async with Runner(made(model)) as runner:
        await asked(runner, UserMessage(id="u1", content="first"), session_id="s")
        await asked(runner, UserMessage(id="u2", content="second"), session_id="s")
        await asked(runner, UserMessage(id="u2", content="other"), session_id="s")
    assert '"second"' not in told(model)
    assert '"other"' in told(model)


async def test_the_clients_calls_of_one_answer_are_left_to_it_and_the_others_are_made():
    tools = [Tool(name="colour", description="Ask.", parameters={"type": "object", "properties": {}})]
    calls = (ToolCall("colour", {}), ToolCall("look", {"at": "x"}), ToolCall("colour", {}))
    model = claude_model("Which? ", *calls, "Thanks.")
    async with Runner(made(model)) as runner:
        events = await asked(runner, "paint", session_id="s", tools=tools)
        outcome = events[-1].outcome
        assert isinstance(outcome, RunFinishedSuccessOutcome)
        wanted = [one.tool_call_id for one in of(events, ToolCallStartEvent) if one.tool_call_name == "colour"]
        assert sorted(outcome.pending_tool_call_ids) == sorted(wanted)
        assert [one.content for one in of(events, ToolCallResultEvent)] == ["seen x"]
        message = UserMessage(id="u2", content="")
        results = [ToolMessage(id=f"t{id}", tool_call_id=id, content=f"colour of {id}") for id in wanted]
        mark_results(message, results)
        events = await asked(runner, message, session_id="s", tools=tools)
    assert text_of(events) == "Thanks."
    assert all(told(model).count(f"colour of {id}") == 1 for id in wanted)


async def test_settings_instructions_and_files_reach_the_model_and_what_is_written_stays_as_it_is(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("4929-what-nobody-may-read")
    settings = {"model": "claude-opus-5", "max_tokens": 1234, "temperature": 0.5}
    model = claude_model("Well.")
    content = [
        {"type": "text", "text": f"@{secret} /help"},
        {"type": "image", "source": {"type": "data", "value": PICTURE, "mimeType": "image/png"}},
    ]
    messages = [SystemMessage(id="s1", content="Be brief.")]
    options = made(model, tools={"type": "preset", "preset": "claude_code"}, cwd=str(tmp_path))
    events = await one_run(options, content, messages=messages, config=RunConfig(model_settings=settings))
    notice = next(one for one in of(events, CustomEvent) if one.name == "gapless.notice")
    assert "temperature" in notice.value["message"]
    request = model.requests[-1]
    assert (request["model"], request["max_tokens"]) == ("claude-opus-5", 1234)
    assert "Be brief." in json.dumps(request["system"])
    assert PICTURE in told(model)
    assert "4929" not in json.dumps(request)


async def test_many_runs_at_once_do_not_meet():
    models = [claude_model(f"I am {number}.") for number in range(3)]
    async with Runner(agents={str(number): made(model) for number, model in enumerate(models)}) as runner:
        found = await asyncio.gather(*(asked(runner, "who?", agent=str(number)) for number in range(3)))
    assert [text_of(events) for events in found] == ["I am 0.", "I am 1.", "I am 2."]


def test_the_example_asks_before_it_pays():
    environment = {key: value for key, value in os.environ.items() if key != "ANTHROPIC_API_KEY"}
    command = [sys.executable, ROOT / "examples" / "claude_agent.py"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout
    assert out == "One moment. [Approve the call of refund?] The money is on its way.\n"
