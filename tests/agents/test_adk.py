"""Real ADK agents on a scripted model, through the runner."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from google.adk.agents import BaseAgent, LlmAgent, ParallelAgent, SequentialAgent
from google.adk.agents._streaming_mode import StreamingMode as ADKStreamingMode
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.apps import App
from google.adk.events import Event as ADKEvent
from google.adk.runners import InMemoryRunner
from google.adk.runners import Runner as ADKRunner
from google.adk.sessions import InMemorySessionService
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.adk.tools import FunctionTool, LongRunningFunctionTool, ToolContext
from google.adk.workflow import Workflow
from google.genai import types
from pydantic import BaseModel

from gapless import RunConfig, Runner, StreamingMode
from gapless.agents import adk_sessions
from gapless.agents.adk import ADKAgent
from gapless.agents.adk_arguments import ArgumentsWriter
from gapless.agents.adk_plugin import AHEAD_EVENTS_MAX
from gapless.agents.base import RunContext
from gapless.errors import AgentFailed, AgentInvalid, ModelFailed, OutputInvalid, RunLimit, ToolFailed, UsageError
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    DataSource,
    Event,
    ImagePart,
    ReasoningMessageContentEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    StateDeltaEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    TextPart,
    TokenUsage,
    Tool,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from gapless.records import RunStatus, Turn
from gapless.runs.run import Run
from support.adk import Call, Raises, Scripted, Streamed, Thought, contents
from support.agui import check_order


def agent_of(*scripts: list[Any], tools: list[Any] | None = None, name: str = "helper", **options: Any) -> LlmAgent:
    return LlmAgent(name=name, model=Scripted(*scripts, **options), tools=tools or [])


async def all_of(run: Run) -> list[Event]:
    events = [event async for event in run.events()]
    check_order(events)
    return events


async def ask(agent: object, message: object = "hi", **options: Any) -> list[Event]:
    async with Runner(agent) as runner:
        return await all_of(await runner.start(message, **options))


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, TextMessageContentEvent))


def custom(events: list[Event], name: str) -> list[Any]:
    return [event.value for event in events if isinstance(event, CustomEvent) and event.name == name]


def calls(events: list[Event]) -> list[tuple[str, Any]]:
    """Each tool call's name and arguments, in order."""
    found: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, ToolCallStartEvent):
            found[event.tool_call_id] = [event.tool_call_name]
        elif isinstance(event, ToolCallArgsEvent):
            found[event.tool_call_id].append(event.delta)
    return [(name, msgspec.json.decode("".join(args))) for name, *args in found.values()]


def results(events: list[Event]) -> list[Any]:
    return [msgspec.json.decode(e.content) for e in events if isinstance(e, ToolCallResultEvent)]


async def text_by_adk(agent: BaseAgent, message: str = "hi") -> str:
    """The text that ADK's own runner returns, whole events only."""
    runner = InMemoryRunner(agent, app_name="alone")
    await runner.session_service.create_session(app_name="alone", user_id="u", session_id="s")
    found = ""
    async for event in runner.run_async(
        user_id="u",
        session_id="s",
        new_message=types.UserContent(message),
        run_config=ADKRunConfig(streaming_mode=ADKStreamingMode.SSE),
    ):
        if not event.partial and event.content is not None:
            found += "".join(part.text for part in event.content.parts or [] if part.text and not part.thought)
    return found


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


TALK_CALL_TALK = (
    [Thought("Let me "), Thought("see."), "I will ", "add. ", Call("add", {"a": 2, "b": 3})],
    ["It is ", "5."],
)


# -- what is shown --------------------------------------------------------------------------------------------------


async def test_text_is_shown_once_as_it_comes():
    events = await ask(agent_of(["Hello ", "from ", "ADK"]))
    assert [e.delta for e in events if isinstance(e, TextMessageContentEvent)] == ["Hello ", "from ", "ADK"]
    (start,) = [e for e in events if isinstance(e, TextMessageStartEvent)]
    assert start.name == "helper"
    assert custom(events, "gapless.finish") == [{"reason": "stop"}]


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_the_text_is_what_adks_own_runner_returns(mode: StreamingMode):
    expected = await text_by_adk(agent_of(*TALK_CALL_TALK, tools=[add]))
    events = await ask(agent_of(*TALK_CALL_TALK, tools=[add]), config=RunConfig(streaming_mode=mode))
    assert text_of(events) == expected == "I will add. It is 5."
    assert "".join(e.delta for e in events if isinstance(e, ReasoningMessageContentEvent)) == "Let me see."
    assert calls(events) == [("add", {"a": 2, "b": 3})]
    assert results(events) == [{"sum": 5}]


async def test_parts_keep_their_order():
    script = [Thought("hm"), "a", Call("add", {"a": 1, "b": 1}, id="c1"), "b", Thought("ok"), "c"]
    events = await ask(agent_of(script, ["done"], tools=[add]))
    order = [
        event.delta if isinstance(event, TextMessageContentEvent | ReasoningMessageContentEvent) else "call"
        for event in events
        if isinstance(event, TextMessageContentEvent | ReasoningMessageContentEvent | ToolCallStartEvent)
    ]
    assert order == ["hm", "a", "call", "b", "ok", "c", "done"]
    assert len(calls(events)) == 1
    assert results(events) == [{"sum": 2}]


async def test_a_call_that_gets_its_id_late_is_shown_once_with_its_result():
    events = await ask(agent_of(["x", Call("add", {"a": 1, "b": 1}), "y"], ["done"], tools=[add]))
    (start,) = [e for e in events if isinstance(e, ToolCallStartEvent)]
    (result,) = [e for e in events if isinstance(e, ToolCallResultEvent)]
    assert result.tool_call_id == start.tool_call_id


async def test_text_that_came_only_whole_is_not_lost():
    class Restless(BaseAgent):
        async def _run_async_impl(self, ctx: Any) -> Any:
            def event(text: str, **fields: Any) -> ADKEvent:
                return ADKEvent(author=self.name, content=types.ModelContent(text), **fields)

            yield event("one ", partial=True)  # each partial event has an id of its own
            yield event("two ", partial=True)
            yield event("one two three")
            yield event("four")

    assert text_of(await ask(Restless(name="restless"))) == "one two threefour"


async def test_streamed_arguments_are_shown_as_they_come():
    pieces = [("$.city", "Zü"), ("$.city", "rich"), ("$.days[0]", 1), ("$.days[1]", 2), ("$.exact", True)]
    whole = {"city": "Zürich", "days": [1, 2], "exact": True}

    def weather(city: str, days: list[int], exact: bool) -> str:
        """Tells the weather."""
        return f"{city} {days} {exact}"

    events = await ask(agent_of(["Well. ", Streamed("weather", pieces, whole)], ["Sun."], tools=[weather]))
    deltas = [e.delta for e in events if isinstance(e, ToolCallArgsEvent)]
    assert deltas[:2] == ['{"city":"Zü', "rich"]
    assert calls(events) == [("weather", whole)]
    assert results(events) == [{"result": "Zürich [1, 2] True"}]
    assert not custom(events, "gapless.notice")


def test_streamed_arguments_deeper_than_is_read_come_with_the_whole_call():
    writer = ArgumentsWriter("weather")
    assert writer.add(types.PartialArg(json_path="$.city", string_value="Bern")) == '{"city":"Bern'
    assert writer.add(types.PartialArg(json_path="$" + ".a" * 10_000, string_value="x")) == ""
    assert writer.finish({"city": "Bern", "more": 1}) == ('","more":1}', True)


async def test_media_of_an_answer_are_shown():
    image = types.Part(inline_data=types.Blob(data=b"PNG", mime_type="image/png"))
    events = await ask(agent_of(["Look: ", image]))
    assert custom(events, "gapless.file") == [{"mimeType": "image/png", "data": "UE5H"}]


async def test_usage_is_counted_per_model_call():
    usage = types.GenerateContentResponseUsageMetadata(
        prompt_token_count=10, candidates_token_count=3, thoughts_token_count=2, total_token_count=15
    )
    finished = (await ask(agent_of(*TALK_CALL_TALK, tools=[add], usage=usage)))[-1]
    assert isinstance(finished, RunFinishedEvent)
    assert finished.usage == [
        TokenUsage(model="scripted-1", input_tokens=20, output_tokens=10, total_tokens=30, reasoning_tokens=4)
    ]


async def test_an_answer_cut_at_its_length_says_so():
    events = await ask(agent_of(["Once upon"], finish_reason=types.FinishReason.MAX_TOKENS, error_code="MAX_TOKENS"))
    assert custom(events, "gapless.finish") == [{"reason": "length"}]
    assert isinstance(events[-1], RunFinishedEvent)


async def test_typed_output():
    class City(BaseModel):
        name: str
        people: int

    agent = LlmAgent(name="a", model=Scripted(['{"name": "Bern", ', '"people": 134000}']), output_schema=City)
    async with Runner(agent) as runner, runner.run_stream("?", output_type=City) as stream:
        assert await stream.get_output() == City(name="Bern", people=134000)


async def test_output_that_is_nested_without_end_is_invalid_output():
    agent = agent_of(["[" * 5000 + "]" * 5000])
    async with Runner(agent) as runner, runner.run_stream("?", output_type=list) as stream:
        with pytest.raises(OutputInvalid):
            await stream.get_output()


# -- agents among themselves ----------------------------------------------------------------------------------------


async def test_a_transfer_shows_who_goes_on():
    weather = LlmAgent(name="weather", description="Knows the weather", model=Scripted(["Sunny."]))
    root = LlmAgent(
        name="root",
        model=Scripted(["One moment. ", Call("transfer_to_agent", {"agent_name": "weather"})]),
        sub_agents=[weather],
    )
    async with Runner(root) as runner:
        events = await all_of(await runner.start("weather?", session_id="s"))
        assert text_of(events) == "One moment. Sunny."
        assert [e.step_name for e in events if isinstance(e, StepStartedEvent)] == ["weather"]
        assert [e.name for e in events if isinstance(e, TextMessageStartEvent)] == ["root", "weather"]
        again = await all_of(await runner.start("and tomorrow?", session_id="s"))  # ADK stays with the sub-agent
        assert [e.name for e in again if isinstance(e, TextMessageStartEvent)] == ["weather"]


@pytest.mark.filterwarnings("ignore:SequentialAgent is deprecated")
async def test_sequential_agents_are_steps():
    first = LlmAgent(name="writer", model=Scripted(["draft"]), output_key="draft")
    second = LlmAgent(name="editor", model=Scripted(["final"]), instruction="Edit {draft}")
    events = await ask(SequentialAgent(name="both", sub_agents=[first, second]))
    steps = [
        (type(e).__name__[4:-5], e.step_name) for e in events if isinstance(e, StepStartedEvent | StepFinishedEvent)
    ]
    assert steps == [("Started", "writer"), ("Finished", "writer"), ("Started", "editor"), ("Finished", "editor")]
    assert text_of(events) == "draftfinal"


async def test_a_workflow_of_nodes():
    def shout(node_input: str) -> str:
        return node_input.upper()

    first = LlmAgent(name="writer", model=Scripted(["draft ", "one"]))
    workflow = Workflow(name="flow", edges=[("START", first, shout)])
    events = await ask(workflow)
    assert text_of(events).startswith("draft one")
    assert [e.step_name for e in events if isinstance(e, StepStartedEvent)] == ["writer"]
    assert isinstance(events[-1], RunFinishedEvent)
    assert events[-1].result == "DRAFT ONE"


@pytest.mark.filterwarnings("ignore:ParallelAgent is deprecated")
async def test_parallel_agents_do_not_mix():
    agents = [LlmAgent(name=name, model=Scripted([f"{name}{n} " for n in range(20)])) for name in ("left", "right")]
    events = await ask(ParallelAgent(name="both", sub_agents=agents))
    texts: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextMessageContentEvent):
            texts[event.message_id] = texts.get(event.message_id, "") + event.delta
    assert sorted(texts.values()) == sorted("".join(f"{name}{n} " for n in range(20)) for name in ("left", "right"))


async def test_an_app_and_a_runner_of_the_user_work_too():
    assert text_of(await ask(App(name="shop", root_agent=agent_of(["app"])))) == "app"
    service = InMemorySessionService()
    own = ADKRunner(app_name="mine", agent=agent_of(["own"]), session_service=service)
    assert text_of(await ask(own, session_id="s", user_id="u")) == "own"
    session = await service.get_session(app_name="mine", user_id="u", session_id="s")
    assert session is not None
    assert [event.author for event in session.events] == ["user", "helper"]


def test_anything_else_is_refused():
    with pytest.raises(AgentInvalid):
        ADKAgent(types.Part(text="no agent"))


# -- tools ----------------------------------------------------------------------------------------------------------


async def test_a_blocking_tool_shows_as_it_happens_and_blocks_nobody():
    release = threading.Event()

    def slow() -> str:
        """Blocks its thread."""
        assert release.wait(20)
        return "slept"

    async with Runner(
        agents={"slow": agent_of([Call("slow")], ["awake"], tools=[slow]), "other": agent_of(["hi"])}
    ) as runner:
        run = await runner.start("go", agent="slow")
        events: list[Event] = []
        async for event in run.events():
            events.append(event)
            if isinstance(event, ToolCallEndEvent):
                other = await runner.start("go", agent="other")
                assert (await other.collect()).text == "hi"
                release.set()
        assert results(events) == [{"result": "slept"}]
        assert text_of(events) == "awake"


async def test_a_tool_that_raises_ends_the_run_and_keeps_the_text():
    def broken() -> str:
        """Raises."""
        raise LookupError("secret detail")

    async with Runner(agent_of(["Trying. ", Call("broken")], ["never"], tools=[broken])) as runner:
        run = await runner.start("go", session_id="s")
        with pytest.raises(ToolFailed) as caught:
            await run.collect()
        assert caught.value.text == "Trying. "
        assert "broken" in str(caught.value)
        assert "secret" not in str(caught.value)
        events = await all_of(run)
        assert isinstance(events[-1], RunErrorEvent)
        assert events[-1].code == "tool_failed"


async def test_state_goes_on_from_turn_to_turn():
    def count(tool_context: ToolContext) -> int:
        """Counts."""
        tool_context.state["n/a"] = tool_context.state.get("n/a", 0) + 1
        tool_context.state["temp:x"] = object()
        return int(tool_context.state["n/a"])

    async with Runner(agent_of([Call("count")], ["ok"], [Call("count")], ["ok"], tools=[count])) as runner:
        first = await all_of(await runner.start("go", session_id="s", state={"kept": True}))
        assert [e.delta for e in first if isinstance(e, StateDeltaEvent)] == [
            [{"op": "add", "path": "/n~1a", "value": 1}]
        ]
        second = await all_of(await runner.start("go", session_id="s"))
        assert results(second) == [{"result": 2}]
        assert (await runner.get_session("s")).state == {"kept": True, "n/a": 2}


async def test_tools_get_the_runs_deps():
    def who(tool_context: ToolContext) -> str:
        """Says who asks."""
        return str(tool_context.state["temp:deps"].name)

    class Deps:
        name = "Ada"

    for agent in (
        agent_of([Call("who")], ["ok"], tools=[who]),
        ADKRunner(
            app_name="x",
            agent=agent_of([Call("who")], ["ok"], tools=[who]),
            session_service=InMemorySessionService(),
        ),
    ):
        assert results(await ask(agent, deps=Deps())) == [{"result": "Ada"}]
    made = ADKAgent(agent_of([Call("who")], ["ok"], tools=[who]), deps=lambda ctx: SimpleNamespace(name=ctx.user_id))
    assert results(await ask(made, user_id="bob")) == [{"result": "bob"}]
    made = ADKAgent(agent_of([Call("who")], ["ok"], tools=[who]), deps=lambda ctx: SimpleNamespace(name=ctx.user_id))
    assert results(await ask(made, deps=Deps())) == [{"result": "Ada"}]


# -- asking back ----------------------------------------------------------------------------------------------------


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
        ({"response": '{"confirmed": true}'}, "resolved", True),
        ({"response": "yes, why not"}, "resolved", False),
        (None, "resolved", False),
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
        assert interrupt.reason == "tool_call"
        assert fired == []
        await run.answer([ResumeEntry(interrupt_id=interrupt.id, status=status, payload=payload)])
        events = await all_of(run)
        assert text_of(events) == "Sure? As you wish."
        assert calls(events) == [("fire", {"what": "job"})]
        assert interrupt.tool_call_id == next(e.tool_call_id for e in events if isinstance(e, ToolCallStartEvent))
        assert len(results(events)) == 1
        assert fired == (["job"] if done else [])
        await (await runner.start("thanks", session_id="s")).collect()


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


# -- sessions -------------------------------------------------------------------------------------------------------


async def test_the_model_sees_the_earlier_turns(tmp_path: Any):
    store = f"sqlite:///{tmp_path}/gapless.db"
    async with Runner(agent_of(*TALK_CALL_TALK, tools=[add]), store=store) as runner:
        await (await runner.start("add 2 and 3", session_id="s")).collect()
    second = agent_of(["You asked for a sum."], tools=[add])
    async with Runner(second, store=store) as runner:  # another process would find the same
        await (await runner.start("what did I ask?", session_id="s")).collect()
    assert contents(second.model.requests[0]) == [
        ("user", "add 2 and 3"),
        ("model", "I will add. "),
        ("model", "call add"),
        ("user", "result add {'sum': 5}"),
        ("model", "It is 5."),
        ("user", "what did I ask?"),
    ]


@pytest.mark.parametrize(
    "message",
    [
        [TextPart(text="what is it?"), ImagePart(source=DataSource(value="UE5H", mime_type="image/png"))],
        types.UserContent(["what is it?", types.Part.from_bytes(data=b"PNG", mime_type="image/png")]),
    ],
)
async def test_media_of_the_user_reach_the_model(message: Any):
    agent = agent_of(["A cat."])
    await ask(agent, message)
    parts = agent.model.requests[0][0].parts
    assert [part.text for part in parts] == ["what is it?", None]
    assert parts[1].inline_data == types.Blob(data=b"PNG", mime_type="image/png")


async def test_a_history_that_the_client_keeps_is_used():
    agent = agent_of(["ok"])
    messages = [UserMessage(id="1", content="I am Ada"), AssistantMessage(id="2", content="Hello Ada")]
    await ask(agent, "who am I?", messages=messages)
    assert contents(agent.model.requests[0]) == [
        ("user", "I am Ada"),
        ("model", "Hello Ada"),
        ("user", "who am I?"),
    ]


async def test_a_session_service_of_the_user_is_kept_in_step(tmp_path: Any):
    service = SqliteSessionService(f"{tmp_path}/adk.db")
    await service.create_session(app_name="desk", user_id="ada", session_id="s", state={"plan": "gold"})
    agent = agent_of(["You have {plan}."])
    async with Runner(agent, app_name="desk", session_service=service) as runner:
        for _ in range(2):
            await (await runner.start("hi", user_id="ada", session_id="s")).collect()
    session = await service.get_session(app_name="desk", user_id="ada", session_id="s")
    assert session is not None
    assert [event.author for event in session.events] == ["user", "helper", "user", "helper"]
    with pytest.raises(UsageError):
        Runner(lambda message: "x", session_service=service)


@pytest.mark.parametrize("own", [False, True])
async def test_cancelled_at_any_point_the_next_turn_works(own: bool):
    """Stops the model before each of its steps, cancels there, and asks again."""
    steps = sum(len(script) + 1 for script in TALK_CALL_TALK)
    for at in range(steps):
        agent = agent_of(*TALK_CALL_TALK, ["Later."], tools=[add], hold_at=at)
        model = agent.model
        service = InMemorySessionService()
        async with Runner(agent, session_service=service if own else None) as runner:
            run = await runner.start("add 2 and 3", session_id="s")
            while not (model.running and model.at == at):
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)  # what it has said reaches the journal
            await run.cancel()
            record = await run.wait()
            assert record.status is RunStatus.CANCELLED
            assert model.running == 0, "the model call was not stopped"
            events = await all_of(run)
            assert sum(isinstance(event, RunFinishedEvent | RunErrorEvent) for event in events) == 1
            shown = text_of(events)
            model._options.clear()
            answer = await (await runner.start("go on", session_id="s")).collect()
            assert answer.text
            sent = contents(model.requests[-1])
            assert shown in "".join(text for role, text in sent if role == "model" and text != "call add"), at
            assert ("user", "add 2 and 3") in sent
            if own:
                session = await service.get_session(app_name="helper", user_id="anonymous", session_id="s")
                assert session is not None
                assert any(event.error_code == "INVOCATION_ABORTED" for event in session.events)


@pytest.mark.parametrize("own", [False, True])
async def test_cancelled_after_any_event_the_next_turn_works(own: bool):
    """Cancels when a follower has seen the n-th event, also while the tool runs, and asks again."""

    async def slow(a: int, b: int) -> dict[str, int]:
        """Adds, in its own time."""
        await asyncio.sleep(0.005)
        return {"sum": a + b}

    talk = ([Thought("Let me see."), "I will add. ", Call("slow", {"a": 2, "b": 3})], ["It is 5."], ["Later."])
    statuses, at = [], 0
    while RunStatus.FINISHED not in statuses:
        agent = agent_of(*talk, tools=[slow])
        async with Runner(agent, session_service=InMemorySessionService() if own else None) as runner:
            run = await runner.start("add 2 and 3", session_id="s")
            seen = 0
            async for _ in run.events():
                seen += 1
                if seen > at:
                    await run.cancel()
                    break
            statuses.append((await run.wait()).status)
            assert agent.model.running == 0
            shown = text_of(await all_of(run))
            assert (await (await runner.start("go on", session_id="s")).collect()).text
            sent = contents(agent.model.requests[-1])
            assert shown in "".join(text for role, text in sent if role == "model" and text != "call slow")
            asked = [text for _, text in sent if text.startswith("call ")]
            assert len(asked) == sum(text.startswith("result ") for _, text in sent), "a call without its result"
        at += 1
    assert set(statuses) == {RunStatus.CANCELLED, RunStatus.FINISHED}
    assert at > 10


async def test_text_before_a_failure_stays_in_the_session():
    agent = agent_of(["Half an ", "answer", Raises(ConnectionError("reset"))], ["Again."])
    async with Runner(agent) as runner:
        run = await runner.start("hi", session_id="s")
        with pytest.raises(ModelFailed) as caught:
            await run.collect()
        assert caught.value.text == "Half an answer"
        assert (await (await runner.start("again", session_id="s")).collect()).text == "Again."
    assert ("model", "Half an answer") in contents(agent.model.requests[-1])


async def test_a_turn_whose_native_form_is_lost_is_rebuilt_from_its_messages(monkeypatch: pytest.MonkeyPatch):
    agent = agent_of(*TALK_CALL_TALK, ["ok"], tools=[add])
    async with Runner(agent) as runner:
        await (await runner.start("add 2 and 3", session_id="s")).collect()
        kept = await runner.store.turns("s")

        async def turns(session_id: str) -> list[Turn]:
            return [msgspec.structs.replace(turn, native=None) for turn in kept]

        monkeypatch.setattr(runner.store, "turns", turns)
        await (await runner.start("and?", session_id="s")).collect()
    sent = contents(agent.model.requests[-1])
    assert ("model", "call add") in sent
    assert ("user", "result add {'sum': 5}") in sent
    assert [text for role, text in sent if role == "model" and text != "call add"] == ["I will add. ", "It is 5."]


# -- settings and failures ------------------------------------------------------------------------------------------


async def test_generation_settings_reach_the_model():
    agent = agent_of(["ok"])
    settings = {"temperature": 0.1, "max_tokens": 7, "stop": ["END"], "model": "other", "unheard_of": 1}
    events = await ask(agent, config=RunConfig(model_settings=settings))
    (config,) = agent.model.configs
    assert (config.temperature, config.max_output_tokens, config.stop_sequences) == (0.1, 7, ["END"])
    assert [notice["code"] for notice in custom(events, "gapless.notice")] == ["setting_ignored"]
    assert agent.generate_content_config is None or agent.generate_content_config.temperature is None


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("wanted", "mime_type", "schema"),
    [
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, "application/json", SCHEMA),
        ({"type": "json_object"}, "application/json", None),
        ({"type": "text"}, None, None),
        ("json", None, None),
    ],
)
async def test_openais_response_format_is_geminis_schema(wanted: Any, mime_type: str | None, schema: Any):
    agent = agent_of(["{}"])
    events = await ask(agent, config=RunConfig(model_settings={"response_format": wanted}))
    (config,) = agent.model.configs
    assert (config.response_mime_type, config.response_json_schema) == (mime_type, schema)
    assert custom(events, "gapless.notice") == []


async def test_more_model_calls_than_allowed_end_the_run():
    agent = agent_of([Call("add", {"a": 1, "b": 1})], tools=[add])
    async with Runner(agent) as runner:
        run = await runner.start("loop", config=RunConfig(max_llm_calls=3))
        with pytest.raises(RunLimit, match="max_llm_calls=3"):
            await run.collect()
    assert len(agent.model.requests) == 3


async def test_an_error_that_the_model_answers_with_keeps_its_code():
    async with Runner(agent_of(["I can"], finish_reason=types.FinishReason.SAFETY, error_code="SAFETY")) as runner:
        run = await runner.start("hi")
        with pytest.raises(Exception, match="SAFETY") as caught:
            await run.collect()
        assert caught.value.code == "SAFETY"  # type: ignore[attr-defined]  # a GaplessError


async def test_a_model_that_cannot_stream_answers_in_one_piece_and_says_so():
    events = await ask(agent_of(["Hello ", "there"], refuses_streams=True))
    assert [notice["code"] for notice in custom(events, "gapless.notice")] == ["streaming_unavailable"]
    assert [e.delta for e in events if isinstance(e, TextMessageContentEvent)] == ["Hello there"]


async def test_without_fallback_a_model_that_cannot_stream_fails():
    events = await ask(agent_of(["x"], refuses_streams=True), config=RunConfig(fallback=False))
    assert isinstance(events[-1], RunErrorEvent)
    assert events[-1].code == "streaming_unavailable"


async def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    events = await ask(LlmAgent(name="a", model="gemini-3-flash"))
    assert isinstance(events[-1], RunErrorEvent)
    assert events[-1].code == "model_failed"
    assert "GOOGLE_API_KEY" in events[-1].message


async def test_an_agent_that_raises_fails_the_run():
    class Broken(BaseAgent):
        async def _run_async_impl(self, ctx: Any) -> Any:
            yield ADKEvent(author=self.name, content=types.ModelContent("so far"))
            raise LookupError("inside")

    async with Runner(Broken(name="broken")) as runner:
        run = await runner.start("hi")
        with pytest.raises(AgentFailed) as caught:
            await run.collect()
        assert caught.value.text == "so far"


async def test_a_model_does_not_run_far_ahead_of_the_journal():
    agent = agent_of([f"{n} " for n in range(AHEAD_EVENTS_MAX * 5)])
    model = agent.model
    adapter = ADKAgent(agent)
    ctx = RunContext(
        run_id="r",
        session_id="s",
        user_id="u",
        agent_name="helper",
        content="go",
        messages=[],
        config=RunConfig(),
        interrupt=lambda interrupts: asyncio.sleep(0, []),
    )
    stream = adapter.run(ctx)
    await anext(stream)
    for _ in range(AHEAD_EVENTS_MAX * 20):
        await asyncio.sleep(0)
    assert model.at < AHEAD_EVENTS_MAX * 2, "nobody reads, and the model was read all the same"
    await stream.aclose()
    assert model.running == 0


def test_turns_are_kept_decoded_within_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adk_sessions, "TURN_EVENTS_MAX", 3)
    sessions = adk_sessions.JournalSessions()
    event = ADKEvent(author="user", content=types.UserContent("hi"))
    natives = [adk_sessions.encode_turn(f"r{n}", [event, event]) for n in range(4)]
    first = sessions.turn(natives[0])
    assert first is not None
    assert first[0] == "r0"
    assert first[1][0].id == event.id
    assert sessions.turn(natives[0]) is first
    for native in natives:
        sessions.turn(native)
    assert sessions.turn(natives[0]) is not first
    assert len(sessions._turns) == 1
    assert sessions.turn(b"[]") is None
