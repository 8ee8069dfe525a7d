"""Agents of the OpenAI Agents SDK as runs: what they stream, ask and keep, and that they go on."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    SQLiteSession,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
)
from agents import (
    RunConfig as SDKRunConfig,
)
from agents import Runner as SDKRunner
from agents.extensions.handoff_filters import remove_all_tools
from openai.types import responses as r
from openai.types.responses.response_output_item import ImageGenerationCall

from gapless import ResumeEntry, RunConfig, Runner, StreamingMode
from gapless.agents import adapt
from gapless.agents.conversation import BEGINNING
from gapless.agents.openai_agents import OpenAIAgent
from gapless.errors import AgentFailed, AgentInvalid, ModelFailed, RunLimit, ToolFailed
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    Tool,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UserMessage,
)
from gapless.fold import FILE, VOID
from gapless.testing import Delay, Fail, Gate, NextTurn, Reasoning, ToolCall, openai_agents_model
from gapless.testing.openai_agents import OpenAIAgentsModel
from gapless.testing.place import Place
from tests.support.agui import check_order
from tests.support.waiting import at_rest, until

pytestmark = pytest.mark.both_ways

UNTRACED = SDKRunConfig(tracing_disabled=True)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    yield found
    await found.close()


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in of(events, TextMessageContentEvent))


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


async def one_run(agent: Any, message: str = "hello", *answers: Any, **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await asked(runner, message, *answers, **options)


def questions(events: list[Event]) -> list[Interrupt]:
    outcomes = [event.outcome for event in of(events, RunFinishedEvent)]
    return [one for out in outcomes if isinstance(out, RunFinishedInterruptOutcome) for one in out.interrupts]


@function_tool
async def look(at: str) -> str:
    """Look."""
    return f"seen {at}"


async def test_an_agent_is_found_by_what_it_is():
    assert isinstance(adapt(Agent(name="helper", model=openai_agents_model("hi"))), OpenAIAgent)
    assert adapt(Agent(name="helper")).name == "helper"


async def test_a_hand_over_is_a_step_and_the_conversation_goes_on_with_the_other():
    billing = Agent(name="billing", model=openai_agents_model(ToolCall("x"), "I am billing."))
    desk = Agent(
        name="desk", model=openai_agents_model("One moment. ", ToolCall("transfer_to_billing")), handoffs=[billing]
    )
    events = await one_run(desk)
    assert text_of(events) == "One moment. I am billing."
    assert [event.step_name for event in of(events, StepStartedEvent)] == ["billing"]
    assert [event.step_name for event in of(events, StepFinishedEvent)] == ["billing"]
    (call,) = of(events, ToolCallStartEvent)
    (result,) = of(events, ToolCallResultEvent)
    assert result.tool_call_id == call.tool_call_id


async def test_an_agent_that_is_a_tool_says_its_result_alone_and_its_tokens_count():
    class Cached(OpenAIAgentsModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            response = await super().get_response(*args, **kwargs)
            response.usage.input_tokens_details.cached_tokens = 1
            return response

    helper = Agent(name="helper", model=Cached(["helped"]))
    root = Agent(
        name="root",
        model=openai_agents_model(ToolCall("help", {"input": "me"}), "done"),
        tools=[helper.as_tool("help", "Help.")],
    )
    events = await one_run(root)
    assert text_of(events) == "done"
    assert of(events, ToolCallResultEvent)[0].content == "helped"
    usage = of(events, RunFinishedEvent)[-1].usage
    assert sum(one.output_tokens for one in usage) == 3
    assert sum(one.cached_input_tokens or 0 for one in usage) == 1


async def test_without_streaming_the_same_comes_in_one_piece():
    for mode in (StreamingMode.SSE, StreamingMode.NONE):
        model = openai_agents_model(Reasoning("hm"), "a ", "b ", ToolCall("look", {"at": "x"}), "c")
        events = await one_run(Agent(name="a", model=model, tools=[look]), config=RunConfig(streaming_mode=mode))
        assert text_of(events) == "a b c"
        assert len(of(events, TextMessageContentEvent)) == (3 if mode is StreamingMode.SSE else 2)


# -- failures ---------------------------------------------------------------------------------------------------------


class ServiceDown(Exception):
    """As OpenAI's client raises."""

    status_code = 401


ServiceDown.__module__, ServiceDown.__name__ = "openai", "APIStatusError"


@input_guardrail
async def no_homework(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered="homework" in str(given))


@output_guardrail
async def no_answers(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered="42" in str(output))


@pytest.mark.parametrize(
    ("script", "message", "options", "wanted", "says"),
    [
        (["fine ", Delay(0.05), "x"], "my homework", {}, AgentFailed, "guardrail no_homework refused the message"),
        (["it is 42"], "hello", {}, AgentFailed, "guardrail no_answers withheld the answer"),
        ([ToolCall("strict")], "hello", {}, ToolFailed, "tool strict raised"),
        ([Fail(ServiceDown("of a person"))], "hello", {}, ModelFailed, "answered 401: check the key"),
        (
            [ToolCall("look", {"at": "x"}), "then", ToolCall("look", {"at": "x"})],
            "x",
            {"max_llm_calls": 1},
            RunLimit,
            "may",
        ),
    ],
)
async def test_what_fails_is_told_by_its_kind(script: list[Any], message: str, options: Any, wanted: Any, says: str):
    @function_tool(failure_error_function=None)
    async def strict() -> str:
        """Break."""
        raise ValueError("of a person")

    agent = Agent(
        name="a",
        model=openai_agents_model(*script),
        tools=[look, strict],
        input_guardrails=[no_homework],
        output_guardrails=[no_answers],
    )
    with pytest.raises(wanted, match=says) as failure:
        await one_run(agent, message, config=RunConfig(**options))
    assert "of a person" not in str(failure.value)


# -- questions, settings, tools ----------------------------------------------------------------------------------------


async def test_calls_that_want_a_yes_are_made_refused_or_asked_again():
    @function_tool(needs_approval=True)
    async def pay(to: str) -> str:
        """Pay."""
        return f"paid {to}"

    model = openai_agents_model(ToolCall("pay", {"to": "a"}), ToolCall("pay", {"to": "b"}), "done")
    edited = {"approved": True, "editedArgs": {"to": "c"}}
    events = await one_run(
        Agent(name="a", model=model, tools=[pay]), "go", edited, {"approved": False, "reason": "no!"}, True
    )
    first, second, again = questions(events)
    assert again.id == first.id
    assert "not understood" in (again.message or "")
    results = {event.tool_call_id: event for event in of(events, ToolCallResultEvent)}
    assert results[first.id].content == "paid a"
    assert results[second.id].error == "no!"
    assert text_of(events) == "done"


async def test_settings_reach_the_model_and_others_are_told():
    given: list[Any] = []

    class Model(OpenAIAgentsModel):
        def stream_response(self, *args: Any, **kwargs: Any) -> Any:
            given.append(args[2] if len(args) > 2 else kwargs["model_settings"])
            return super().stream_response(*args, **kwargs)

    settings = {"temperature": 0.5, "max_output_tokens": 7, "seed": 1, "reasoning_effort": "low", "thinking": True}
    events = await one_run(Agent(name="a", model=Model(["hi"])), config=RunConfig(model_settings=settings))
    (asked_for,) = given
    assert (asked_for.temperature, asked_for.max_tokens, asked_for.extra_args) == (0.5, 7, {"seed": 1})
    assert asked_for.reasoning.effort == "low"
    (notice,) = [event.value for event in of(events, CustomEvent) if event.name == "gapless.notice"]
    assert "thinking" in notice["message"]


async def test_a_tool_of_the_client_and_one_of_the_agent_may_not_share_a_name():
    with pytest.raises(AgentInvalid, match="look"):
        await one_run(
            Agent(name="a", model=openai_agents_model("hi"), tools=[look]), tools=[Tool(name="look", description="")]
        )
    guard = Agent(name="guard", model=openai_agents_model("hi"))
    for other in (guard, handoff(guard)):
        with pytest.raises(AgentInvalid, match="transfer_to_guard"):
            await one_run(
                Agent(name="a", model=openai_agents_model("hi"), handoffs=[other]),
                tools=[Tool(name="transfer_to_guard", description="")],
            )


# -- turns ------------------------------------------------------------------------------------------------------------


def told(model: OpenAIAgentsModel, request: int = -1) -> list[str]:
    """What the model is given, as words."""
    found: list[str] = []
    for item in [*model.requests][request]:
        content: Any = item.get("content") or item.get("output") or ""
        found.append(content if isinstance(content, str) else "".join(part.get("text", "") for part in content))
    return [text for text in found if text]


async def test_turns_are_known_once_and_one_that_is_asked_again_is_forgotten():
    model = openai_agents_model("one", ToolCall("look", {"at": "x"}), "1", NextTurn(), "two", NextTurn(), "three")
    async with Runner(Agent(name="a", model=model, tools=[look])) as runner:
        for number in range(1, 4):
            await asked(runner, UserMessage(id=f"u{number}", content=f"question {number}"), session_id="s")
        assert told(model) == ["question 1", "one", "seen x", "1", "question 2", "two", "question 3"]
        await asked(runner, UserMessage(id="u2", content="edited"), session_id="s")
        assert told(model) == ["question 1", "one", "seen x", "1", "edited"]


@pytest.mark.parametrize("kept", ["filter", "nested"])
async def test_a_history_that_a_hand_over_changes_is_the_next_turns_as_with_the_sdk_alone(kept: str):
    calls = {"question 1": ToolCall("look", {"at": "x"}), "question 2": ToolCall("transfer_to_billing")}

    class Model(OpenAIAgentsModel):
        """Calls what the newest question asks for, or says what it has."""

        def _response(self, given: Any) -> list[Any]:
            self.requests.append(given)
            return [*self._chunks] or [calls.get(given[-1].get("content"), "done")]

    def made() -> tuple[Agent[None], list[OpenAIAgentsModel]]:
        desk, billing = Model([]), Model(["I am billing."])
        other = Agent(name="billing", model=billing)
        over = handoff(other, input_filter=remove_all_tools) if kept == "filter" else handoff(other)
        return Agent(name="desk", model=desk, tools=[look], handoffs=[over]), [desk, billing]

    def all_told(models: list[OpenAIAgentsModel]) -> list[list[list[str]]]:
        texts = [[told(model, number) for number in range(len(model.requests))] for model in models]
        return [[[re.sub(r"call-\d+", "call", one) for one in told if one != BEGINNING] for told in of] for of in texts]

    config = SDKRunConfig(tracing_disabled=True, nest_handoff_history=kept == "nested")
    questions = ["question 1", "question 2", "question 3"]
    agent, models = made()
    history: list[Any] = []
    for question in questions:
        found = await SDKRunner.run(agent, [*history, {"role": "user", "content": question}], run_config=config)
        history = found.to_input_list(mode="normalized")
    expected = all_told(models)
    agent, models = made()
    async with Runner(OpenAIAgent(agent, run_config=config)) as runner:
        for question in questions:
            await asked(runner, question, session_id="s")
    assert all_told(models) == expected
    assert "question 2" in str(expected[0][-1])
    assert "I am billing." in str(expected[0][-1])


async def test_a_turn_that_was_cut_short_leaves_the_conversation_whole():
    gate = Gate()

    @function_tool
    async def wait() -> str:
        """Wait."""
        await gate.pass_through()
        return "waited"

    model = openai_agents_model("said ", ToolCall("wait"), "never", NextTurn(), "well")
    async with Runner(Agent(name="a", model=model, tools=[wait])) as runner:
        run = await runner.start("first", session_id="s")
        await gate.reached()
        await run.cancel()
        await run.wait()
        await asked(runner, "second", session_id="s")
    calls = {item.get("call_id") for item in model.requests[-1] if item.get("type") == "function_call"}
    outputs = {item.get("call_id") for item in model.requests[-1] if item.get("type") == "function_call_output"}
    assert calls == outputs
    assert "said" in told(model)[1]


async def test_a_session_of_the_sdks_own_has_the_conversation():
    model = openai_agents_model("one", NextTurn(), "two")
    session = SQLiteSession("s")
    agent = OpenAIAgent(Agent(name="a", model=model), session=lambda run: session)
    async with Runner(agent) as runner:
        await asked(runner, "first", session_id="s")
        await asked(runner, "second", session_id="s")
        assert told(model) == ["first", "one", "second"]
        assert [turn.native for turn in await runner.store.turns("s")] == [None, None]
        assert len(await session.get_items()) == 4
        await runner.delete_session("s")
    assert await session.get_items() == []


# -- going on ---------------------------------------------------------------------------------------------------------


class Stops:
    """Counts what is done, and hangs at the n-th thing that is begun."""

    def __init__(self, stop_at: int | None) -> None:
        self.stop_at, self.begun = stop_at, 0
        self.stopped = asyncio.Event()
        self.done: Counter[str] = Counter()

    async def here(self, what: str = "") -> None:
        self.begun += 1
        if self.begun - 1 == self.stop_at:
            self.stopped.set()
            await asyncio.Event().wait()
        if what:
            self.done[what] += 1


def agent_with(stops: Stops) -> Agent[Any]:
    class Stopping(OpenAIAgentsModel):
        async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
            async for event in super().stream_response(*args, **kwargs):
                await stops.here()
                yield event

    @function_tool
    async def first() -> str:
        """First."""
        await stops.here("first")
        return "1st"

    @function_tool(needs_approval=True)
    async def second() -> str:
        """Second."""
        await stops.here("second")
        return "2nd"

    return Agent(
        name="a",
        model=Stopping(["One ", ToolCall("first"), "two ", ToolCall("second"), "three."]),
        tools=[first, second],
    )


async def gone_on(stop_at: int | None) -> tuple[Stops, list[Event]]:
    stops, place = Stops(stop_at), Place()
    worker = await place.worker(OpenAIAgent(agent_with(stops), run_config=UNTRACED))
    run = await worker.start("hello", session_id="s", run_id="r", agent="agent")

    async def answer() -> None:
        async for event in (await worker.attach("r")).events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                entry = ResumeEntry(interrupt_id=event.outcome.interrupts[0].id, status="resolved", payload=True)
                await run.answer([entry])

    answering = asyncio.create_task(answer())
    if stop_at is not None:
        stopped, ended = asyncio.ensure_future(stops.stopped.wait()), asyncio.ensure_future(run.wait())
        await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel(), ended.cancel()
        if stops.stopped.is_set():
            await at_rest()  # what runs beside it ends
            lost, worker = worker, await place.worker(OpenAIAgent(agent_with(stops), run_config=UNTRACED))
            await place.lose(lost, worker)
            run = await worker.attach("r")
    await run.wait()
    events = [event async for event in run.events()]
    answering.cancel()
    check_order(events)
    assert "".join((await run.collect()).chunks) == "One two three.", stop_at
    await place.close()
    return stops, events


async def test_a_run_goes_on_after_a_loss_at_any_place():
    places = (await gone_on(None))[0].begun
    assert places > 12
    for stop_at in range(1, places, 5):
        stops, events = await gone_on(stop_at)
        assert stops.done == {"first": 1, "second": 1}, stop_at
        void = {id for e in of(events, CustomEvent) if e.name == VOID for id in e.value["messageIds"]}
        results = [e.tool_call_id for e in of(events, ToolCallResultEvent) if e.message_id not in void]
        assert len(results) == len(set(results)) == 2, stop_at


async def test_a_run_that_is_left_is_not_gone_on_with_where_it_was(place: Place):
    """Where nobody reads on what is streamed, the SDK lets the run come to its end."""
    begun, may_return = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    @function_tool
    async def first() -> str:
        """First."""
        begun.set()
        await may_return.wait()
        done.append("first")
        return "1st"

    @function_tool
    async def second() -> str:
        """Second."""
        done.append("second")
        return "2nd"

    model = openai_agents_model("One ", ToolCall("first"), "two ", ToolCall("second"), "three.")
    agent = OpenAIAgent(Agent(name="a", model=model, tools=[first, second]), run_config=UNTRACED)
    leaving, other = await place.worker(agent), await place.worker(agent)
    await leaving.start("hello", run_id="r", agent="agent")
    await begun.wait()
    execution = leaving.worker.executions["r"]
    closing = asyncio.create_task(leaving.close(grace_s=120))
    await until(lambda: execution._standing.leaving, "it is to be left")
    may_return.set()
    await closing
    events = [event async for event in (await other.attach("r")).events()]
    assert text_of(events) == "One two three."
    assert done == ["first", "second"]
    assert len(model.requests) == 3


async def test_a_question_waits_at_nobody_and_goes_on_anywhere(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.execution.PARK_AFTER_S", 0.0)
    stops = Stops(None)
    first = await place.worker(agent_with(stops))
    await first.start("hello", session_id="s", run_id="r", agent="agent")
    await place.is_parked()
    await first.close()
    place.runners.clear()
    second = await place.worker(agent_with(stops))
    run = await second.attach("r")
    events = []
    async for event in run.events():
        events.append(event)
        if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
            entry = ResumeEntry(interrupt_id=event.outcome.interrupts[0].id, status="resolved", payload=True)
            await run.answer([entry])
    assert isinstance(events[-1], RunFinishedEvent)
    assert stops.done == {"first": 1, "second": 1}
    assert text_of(events) == "One two three."


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_what_the_provider_does_itself_has_a_result_and_its_pictures_are_files(mode: StreamingMode):
    drawn: Any = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBORw=="}
    search: Any = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    search["action"] = {"type": "search", "query": "x", "queries": ["x"]}

    class Draws(OpenAIAgentsModel):
        async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for event in super().stream_response(*args, **kwargs):
                if isinstance(event, r.ResponseCompletedEvent):
                    items = [ImageGenerationCall(**drawn), r.ResponseFunctionWebSearch(**search)]
                    event.response.output = [*event.response.output, *items]
                yield event

    events = await one_run(Agent(name="a", model=Draws("Here.")), config=RunConfig(streaming_mode=mode))
    assert text_of(events) == "Here."
    (file,) = [event.value for event in of(events, CustomEvent) if event.name == FILE]
    assert file == {"mimeType": "image/png", "data": "iVBORw=="}
    called = [event.tool_call_id for event in of(events, ToolCallStartEvent)]
    assert [event.tool_call_id for event in of(events, ToolCallResultEvent)] == called == ["ig_1", "ws_1"]


async def test_two_messages_of_one_answer_are_two_also_where_they_come_whole():
    class Twice(OpenAIAgentsModel):
        async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for event in super().stream_response(*args, **kwargs):
                if isinstance(event, r.ResponseCompletedEvent):
                    event.response.output *= 2
                yield event

    agent = Agent(name="a", model=Twice("One."))
    async with Runner(agent) as runner:
        run = await runner.start("go", config=RunConfig(streaming_mode=StreamingMode.NONE))
        assert (await run.collect()).text == "One.\n\nOne."
