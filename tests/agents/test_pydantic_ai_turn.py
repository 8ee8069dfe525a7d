"""What a run shows of Pydantic AI's events, and how it asks a person."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from pydantic_ai import Agent, ModelRetry, NativeOutput, ToolReturn
from pydantic_ai import messages as m
from pydantic_ai.exceptions import CallDeferred
from pydantic_ai.models.function import DeltaToolCall
from pydantic_ai.models.test import TestModel

from gapless import RunConfig, Runner, StreamingMode, create_app
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningEncryptedValueEvent,
    ReasoningMessage,
    ResumeEntry,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StateSnapshotEvent,
    TextMessageStartEvent,
    Tool,
    ToolCallArgsEvent,
    ToolCallResultEvent,
)
from gapless.runs.run import Run
from tests.support.agui import check_order
from tests.support.pydantic_ai_runs import (
    Chunk,
    City,
    Script,
    call,
    events_of,
    every_call_is_answered,
    frames_of,
    of,
    one_run,
    text,
    weather_agent,
)

pytestmark = pytest.mark.both_ways


async def test_an_agent_that_talks_calls_tools_and_talks_again_streams_all_of_it_in_order() -> None:
    _, agent = weather_agent()
    events = await one_run(agent)
    kinds = [type(event).__name__.removesuffix("Event") for event in events]
    assert kinds == [
        "RunStarted",
        *("ReasoningStart", "ReasoningMessageStart", "ReasoningMessageContent", "ReasoningMessageContent"),
        *("ReasoningMessageEnd", "ReasoningEncryptedValue", "ReasoningEnd"),
        *("TextMessageStart", "TextMessageContent", "TextMessageContent", "TextMessageEnd"),
        *("ToolCallStart", "ToolCallArgs", "ToolCallArgs", "ToolCallStart", "ToolCallArgs", "ToolCallArgs"),
        *("ToolCallEnd", "ToolCallEnd", "ToolCallResult", "ToolCallResult"),
        *("TextMessageStart", "TextMessageContent", "TextMessageContent", "TextMessageEnd"),
        "RunFinished",
    ]
    assert text(events) == "Let me look. It is sunny."
    arguments = {
        id: "".join(e.delta for e in of(events, ToolCallArgsEvent) if e.tool_call_id == id) for id in ("c1", "c2")
    }
    assert arguments == {"c1": '{"city": "Paris"}', "c2": '{"city": "Rome"}'}
    assert sorted(e.content for e in of(events, ToolCallResultEvent)) == ['{"Paris":"sunny"}', '{"Rome":"sunny"}']
    (signature,) = of(events, ReasoningEncryptedValueEvent)
    assert json.loads(signature.encrypted_value)["signature"] == "signed"


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_what_is_collected_is_what_the_framework_returns(mode: StreamingMode) -> None:
    _, agent = weather_agent()

    async def drain(_: Any, events: Any) -> None:
        async for _event in events:
            pass

    theirs = await agent.run("hello", event_stream_handler=drain if mode is StreamingMode.SSE else None)
    async with Runner(agent) as runner:
        run = await runner.start("hello", config=RunConfig(streaming_mode=mode))
        ours = await run.collect()
    said = "\n\n".join(p.content for r in theirs.new_messages() for p in r.parts if isinstance(p, m.TextPart))
    assert ours.text == said
    assert ours.result == theirs.output == "It is sunny."
    (usage,) = ours.usage
    assert (usage.input_tokens, usage.output_tokens) == (theirs.usage.input_tokens, theirs.usage.output_tokens)
    thought = [message.content for message in ours.messages if isinstance(message, ReasoningMessage)]
    assert thought == ["Where is it?"]


async def test_text_that_is_the_whole_output_is_not_sent_twice() -> None:
    (finished,) = of(await one_run(Agent(Script(["Hel", "lo"]).model)), RunFinishedEvent)
    assert finished.result is None


async def test_arguments_that_come_late_or_as_an_object_are_sent_once_and_whole() -> None:
    late: list[Chunk] = [
        {0: DeltaToolCall(name="look", tool_call_id="c1")},
        {0: DeltaToolCall(json_args='{"at"')},
        {0: DeltaToolCall(json_args=": 1}")},
    ]
    for model in (Script(late, ["done"]).model, TestModel(call_tools=["look"])):
        agent = Agent(model)

        @agent.tool_plain
        def look(at: int) -> int:
            return at

        events = await one_run(agent)
        arguments = json.loads("".join(event.delta for event in of(events, ToolCallArgsEvent)))
        assert str(arguments["at"]) == of(events, ToolCallResultEvent)[0].content


async def test_a_tools_own_events_go_out() -> None:
    agent = Agent(Script(call(0, "move", "c1", "{}"), ["done"]).model)

    @agent.tool_plain
    def move() -> ToolReturn[str]:
        return ToolReturn(return_value="moved", metadata=[StateSnapshotEvent(snapshot={"at": 3})])

    (state,) = of(await one_run(agent), StateSnapshotEvent)
    assert state.snapshot == {"at": 3}


async def test_a_slow_tool_shows_as_called_and_its_neighbours_result_as_it_happens() -> None:
    agent = Agent(Script([*call(0, "slow", "c1", "{}"), *call(1, "fast", "c2", "{}")], ["done"]).model)
    seen = asyncio.Event()

    @agent.tool_plain
    async def slow() -> str:
        await seen.wait()
        return "slow"

    @agent.tool_plain
    async def fast() -> str:
        return "fast"

    async with Runner(agent) as runner:
        run = await runner.start("hello")
        async for event in run.events():
            if isinstance(event, ToolCallResultEvent) and event.tool_call_id == "c2":
                seen.set()  # only now can the slow one end
        assert (await run.collect()).text == "done"


async def test_a_retry_is_shown_as_the_calls_result() -> None:
    agent = Agent(Script(call(0, "guess", "c1", '{"n": 1}'), call(0, "guess", "c2", '{"n": 2}'), ["done"]).model)

    @agent.tool_plain(retries=2)
    def guess(n: int) -> str:
        if n == 1:
            raise ModelRetry("try two")
        return "right"

    first, second = of(await one_run(agent), ToolCallResultEvent)
    assert "try two" in first.content
    assert second.content == "right"


async def test_texts_before_and_after_a_retry_are_two_messages() -> None:
    agent = Agent(Script(["bad"], ["good"]).model)

    @agent.output_validator
    def check(output: str) -> str:
        if output == "bad":
            raise ModelRetry("no")
        return output

    events = await one_run(agent)
    assert len(of(events, TextMessageStartEvent)) == 2
    assert of(events, RunFinishedEvent)[0].result == "good"


async def test_structured_output_is_visible_as_it_grows_and_validated_at_the_end() -> None:
    agent = Agent(
        Script(call(0, "final_result", "c1", '{"name": "Par', 'is", ', '"people": 2}')).model, output_type=City
    )
    events = await one_run(agent)
    marker = next(e for e in of(events, CustomEvent) if e.name == "gapless.output")
    assert marker.value == {"toolCallId": "c1"}
    assert len(of(events, ToolCallArgsEvent)) == 3
    assert of(events, RunFinishedEvent)[0].result == {"name": "Paris", "people": 2}


async def test_output_that_the_framework_wraps_says_under_which_key() -> None:
    agent = Agent(Script(call(0, "final_result", "c1", '{"response": [1, ', "2]}")).model, output_type=list[int])
    events = await one_run(agent)
    marker = next(e for e in of(events, CustomEvent) if e.name == "gapless.output")
    assert marker.value == {"toolCallId": "c1", "key": "response"}
    assert of(events, RunFinishedEvent)[0].result == [1, 2]


async def test_output_written_as_text_is_text_and_result() -> None:
    agent = Agent(Script(['{"name": "Rome", ', '"people": 3}']).model, output_type=NativeOutput(City))
    events = await one_run(agent)
    assert text(events) == '{"name": "Rome", "people": 3}'
    assert of(events, RunFinishedEvent)[0].result == {"name": "Rome", "people": 3}


def careful_agent() -> tuple[Script, Agent[None, str]]:
    script = Script(
        [*call(0, "delete", "c1", '{"path": "/a"}'), *call(1, "size", "c2", "{}")],
        ["Done."],
    )
    agent = Agent(script.model)

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        return f"deleted {path}"

    @agent.tool_plain
    def size() -> int:
        return 7

    return script, agent


async def answered(run: Run, *answers: ResumeEntry) -> list[Event]:
    """The run's events, with its interrupts answered in turn."""
    events: list[Event] = []
    remaining = list(answers)
    async for event in run.events():
        events.append(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            await run.answer([remaining.pop(0)])
    check_order(events)
    assert not remaining
    return events


def yes(id: str = "c1", **payload: Any) -> ResumeEntry:
    return ResumeEntry(interrupt_id=id, status="resolved", payload={"approved": True, **payload})


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (yes(), "deleted /a"),
        (ResumeEntry(interrupt_id="c1", status="resolved", payload=True), "deleted /a"),
        (yes(editedArgs={"path": "/b"}), "deleted /b"),
        (
            ResumeEntry(interrupt_id="c1", status="resolved", payload={"approved": False, "reason": "Keep it"}),
            "Keep it",
        ),
        (ResumeEntry(interrupt_id="c1", status="cancelled"), "Cancelled by the user."),
    ],
)
async def test_an_approval_interrupts_the_run_and_its_answer_lets_it_go_on(answer: ResumeEntry, result: str) -> None:
    script, agent = careful_agent()
    async with Runner(agent) as runner:
        events = await answered(await runner.start("hello"), answer)
    (paused, _) = of(events, RunFinishedEvent)
    (interrupt,) = paused.outcome.interrupts
    assert (interrupt.tool_call_id, interrupt.reason) == ("c1", "tool_call")
    assert interrupt.metadata == {"kind": "approval", "toolName": "delete", "arguments": {"path": "/a"}}
    results = {e.tool_call_id: e.content for e in of(events, ToolCallResultEvent)}
    assert results == {"c1": result, "c2": "7"}
    assert text(events) == "Done."
    every_call_is_answered(script.seen[-1])


@pytest.mark.parametrize("payload", ["yes", 1, None, {"approved": "true"}, {"approved": True, "editedArgs": "x"}, {}])
async def test_an_answer_that_is_none_is_asked_for_again(payload: Any) -> None:
    _, agent = careful_agent()
    unclear = ResumeEntry(interrupt_id="c1", status="resolved", payload=payload)
    async with Runner(agent) as runner:
        events = await answered(await runner.start("hello"), unclear, yes())
    first, second, _ = (event.outcome for event in of(events, RunFinishedEvent))
    assert isinstance(first, RunFinishedInterruptOutcome)
    assert isinstance(second, RunFinishedInterruptOutcome)
    assert "not understood" not in (first.interrupts[0].message or "")
    assert 'send {"approved": true}' in (second.interrupts[0].message or "")
    assert text(events) == "Done."


async def test_a_call_of_the_clients_own_tool_ends_the_run_and_its_result_comes_with_the_next_one() -> None:
    script = Script(
        ["Let me ask. ", *call(1, "pick_color", "c1", '{"of": "sky"}'), *call(2, "size", "c2", "{}")], ["Blue."]
    )
    agent = Agent(script.model)

    @agent.tool_plain
    def size() -> int:
        return 7

    body: dict[str, Any] = {
        "threadId": "t",
        "runId": "r1",
        "messages": [{"id": "1", "role": "user", "content": "hello"}],
        "tools": [
            {"name": "pick_color", "description": "Ask", "parameters": {"type": "object", "properties": {"of": {}}}}
        ],
    }
    transport = httpx2.ASGITransport(app=create_app(runner := Runner(agent)))
    async with runner, httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        first = frames_of((await client.post("/ag-ui", json=body)).text)
        assert first[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["c1"]}
        assert [f["toolCallId"] for f in first if f["type"] == "TOOL_CALL_RESULT"] == ["c2"]
        calls = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in (("c1", "pick_color", '{"of": "sky"}'), ("c2", "size", "{}"))
        ]
        body["messages"] += [
            {"id": "2", "role": "assistant", "content": "Let me ask. ", "toolCalls": calls},
            {"id": "3", "role": "tool", "toolCallId": "c2", "content": "7"},
            {"id": "4", "role": "tool", "toolCallId": "c1", "content": "blue"},
        ]
        body["runId"] = "r2"
        then = frames_of((await client.post("/ag-ui", json=body)).text)
    assert "".join(f["delta"] for f in then if f["type"] == "TEXT_MESSAGE_CONTENT") == "Blue."
    assert then[-1]["outcome"] == {"type": "success"}
    assert {t.name for t in script.infos[0].function_tools} == {"pick_color", "size"}
    returned = {p.tool_name: p.content for one in script.seen[-1] for p in one.parts if isinstance(p, m.ToolReturnPart)}
    assert returned == {"size": "7", "pick_color": "blue"}
    every_call_is_answered(script.seen[-1])


async def test_a_client_that_does_not_answer_its_own_tool_can_go_on_all_the_same() -> None:
    script = Script(call(0, "pick_color", "c1", "{}"))
    async with Runner(Agent(script.model)) as runner:
        tools = [Tool(name="pick_color", description="Ask")]
        events = await events_of(await runner.start("hello", session_id="s", tools=tools))
        assert of(events, RunFinishedEvent)[-1].outcome.pending_tool_call_ids == ["c1"]
        script.responses = (["Never mind."],)
        assert (await (await runner.start("or not", session_id="s")).collect()).text == "Never mind."
    every_call_is_answered(script.seen[-1])


async def test_a_tool_that_is_executed_elsewhere_is_answered_with_its_result() -> None:
    agent = Agent(Script(call(0, "render", "c1", '{"size": 3}'), ["Done."]).model)

    @agent.tool_plain
    def render(size: int) -> str:
        raise CallDeferred

    async with Runner(agent) as runner:
        run = await runner.start("hello")
        events = await answered(run, ResumeEntry(interrupt_id="c1", status="resolved", payload={"url": "/3"}))
    (interrupt,) = of(events, RunFinishedEvent)[0].outcome.interrupts
    assert interrupt.metadata == {"kind": "external", "toolName": "render", "arguments": {"size": 3}}
    assert of(events, ToolCallResultEvent)[0].content == '{"url":"/3"}'
    assert text(events) == "Done."


async def test_a_tool_that_asks_a_question_gets_the_answer_and_metadata_go_along() -> None:
    agent = Agent(Script(call(0, "ask", "c1", "{}"), ["Thanks."]).model)

    @agent.tool_plain
    def ask() -> str:
        raise CallDeferred(kind="question", metadata={"choices": ["a", "b"]})

    async with Runner(agent) as runner:
        events = await answered(
            await runner.start("hello"), ResumeEntry(interrupt_id="c1", status="resolved", payload="b")
        )
    (interrupt,) = of(events, RunFinishedEvent)[0].outcome.interrupts
    assert interrupt.reason == "input_required"
    assert interrupt.metadata["choices"] == ["a", "b"]
    assert of(events, ToolCallResultEvent)[0].content == "b"


async def test_a_run_cancelled_while_it_waits_leaves_a_session_that_goes_on() -> None:
    script, agent = careful_agent()
    async with Runner(agent) as runner:
        run = await runner.start("hello", session_id="s")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                await run.cancel()
        await events_of(run)
        script.responses = (["Fine."],)
        assert (await (await runner.start("never mind", session_id="s")).collect()).text == "Fine."
    every_call_is_answered(script.seen[-1])


async def test_an_approval_over_http() -> None:
    _, agent = careful_agent()
    runner = Runner(agent)
    transport = httpx2.ASGITransport(app=create_app(runner))
    async with runner, httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        started = await client.post("/runs", json={"message": "hello", "run_id": "r1"})
        assert started.status_code == 202
        run = await runner.attach("r1")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                entry = {"interruptId": "c1", "status": "resolved", "payload": {"approved": True}}
                assert (await client.post("/runs/r1/input", json={"resume": [entry]})).status_code == 202
        stream = await client.get("/runs/r1/events", headers={"accept": "text/event-stream"})
    frames = frames_of(stream.text)
    assert [f["content"] for f in frames if f["type"] == "TOOL_CALL_RESULT"] == ["7", "deleted /a"]
    assert frames[-1]["type"] == "RUN_FINISHED"
    assert frames[-1]["outcome"] == {"type": "success"}
