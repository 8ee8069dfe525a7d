"""Real ADK agents that are spoken to while they speak, on a scripted live model, through the runner."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from google.adk.agents import BaseAgent, LlmAgent, SequentialAgent
from google.adk.apps import App
from google.adk.models.base_llm import BaseLlm
from google.adk.runners import Runner as ADKRunner
from google.adk.sessions import BaseSessionService, InMemorySessionService
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.adk.tools import FunctionTool, LongRunningFunctionTool, ToolContext
from google.genai import types

from gapless import Limits, LiveRequest, LiveRequestQueue, RunConfig, RunContext, Runner, StreamingMode
from gapless.agents import adk_live
from gapless.errors import AgentFailed, AgentInvalid, GaplessError, InputInvalid, LimitReached, ModelFailed, ToolFailed
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    Event,
    FunctionCall,
    ReasoningMessageContentEvent,
    RunFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    Tool,
    ToolCallResultEvent,
    ToolMessage,
    UserMessage,
)
from gapless.events import ToolCall as ToolCallOf
from gapless.live import LIVE_AHEAD_MAX, Blob
from gapless.records import RunStatus
from gapless.runs.run import Run
from gapless.testing import Fail, Gate, NextTurn, Reasoning, ToolCall, adk_model
from gapless.testing.adk import ADKModel
from tests.support.adk import contents
from tests.support.agui import check_order
from tests.support.gemini_live import Gemini, heard, parts, server, spoken

TEXT = RunConfig(streaming_mode=StreamingMode.BIDI, response_modalities=["TEXT"])
ALOUD = RunConfig(streaming_mode=StreamingMode.BIDI)
CLOSE = LiveRequest(close=True)


def agent_of(*chunks: Any, tools: list[Any] | None = None, **options: Any) -> tuple[LlmAgent, ADKModel]:
    model = adk_model(*chunks, **options)
    return LlmAgent(name="helper", model=model, tools=tools or []), model


def custom(events: list[Event], name: str) -> list[Any]:
    return [event.value for event in events if isinstance(event, CustomEvent) and event.name == f"gapless.{name}"]


def sound(events: list[Event]) -> bytes:
    return b"".join(base64.b64decode(value["data"]) for value in custom(events, "audio"))


async def until(events: AsyncIterator[Event], name: str) -> list[Event]:
    """The events up to the next custom one of this name."""
    seen = []
    async for event in events:
        seen.append(event)
        if isinstance(event, CustomEvent) and event.name == f"gapless.{name}":
            return seen
    raise AssertionError(f"the run ended without {name}")


async def said(runner: Runner, session_id: str) -> list[tuple[str, str]]:
    """Who said what."""
    messages = msgspec.to_builtins(await runner.messages(session_id))
    return [(message["role"], message["content"]) for message in messages]


async def finish(run: Run) -> list[Event]:
    """Say nothing more, and all events."""
    await run.send(CLOSE)
    events = [event async for event in run.events()]
    check_order(events)
    return events


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


# -- text -------------------------------------------------------------------------------------------------------------


async def test_two_turns_of_text_with_a_tool_call_and_an_ordinary_turn_after_them():
    agent, model = agent_of(
        *("Hel", "lo."),
        NextTurn(),
        *(Reasoning("Sums."), "Let me ", "see. ", ToolCall("add", {"a": 1, "b": 2}), "It is ", "3."),
        NextTurn(),
        "You asked for a sum.",
        tools=[add],
    )
    async with Runner(agent) as runner:
        queue, events = LiveRequestQueue(), list[Event]()
        queue.send_content("Hi")
        async for event in runner.run_live(queue, session_id="s", run_config=TEXT):
            events.append(event)
            if len(custom(events, "turn_complete")) == 1 and not queue.closed:
                queue.send_content("1 + 2?")
                queue.close()
        history = await said(runner, "s")
        again = await (await runner.start("What did I ask?", session_id="s")).collect()
    check_order(events)
    deltas = [event.delta for event in events if isinstance(event, TextMessageContentEvent)]
    assert deltas == ["Hi", "Hel", "lo.", "1 + 2?", "Let me ", "see. ", "It is ", "3."]
    assert [event.content for event in events if isinstance(event, ToolCallResultEvent)] == ['{"sum":3}']
    assert len(custom(events, "turn_complete")) == 2
    assert isinstance(events[-1], RunFinishedEvent)
    assert events[-1].usage is not None
    assert events[-1].usage[0].output_tokens == 8
    assert model.running == 0
    assert history == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "1 + 2?"),
        ("reasoning", "Sums."),
        ("assistant", "Let me see. "),
        ("tool", '{"sum":3}'),
        ("assistant", "It is 3."),
    ]
    assert again.text == "You asked for a sum."
    assert contents(model.requests[-1]) == [
        ("user", "Hi"),
        ("model", "Hello."),
        ("user", "1 + 2?"),
        ("model", "Let me see. "),
        ("model", "call add"),
        ("user", "result add {'sum': 3}"),
        ("model", "It is 3."),
        ("user", "What did I ask?"),
    ]


async def test_the_message_that_the_run_begins_with_is_said_first_to_a_model_that_knows_the_history():
    agent, model = agent_of("First.", NextTurn(), "Second.", NextTurn(), "Third.")
    async with Runner(agent) as runner:
        await (await runner.start("one", session_id="s")).wait()
        run = await runner.start("two", session_id="s", config=TEXT)
        await run.send("three")
        events = await finish(run)
    answers = {event.message_id for event in events if isinstance(event, TextMessageStartEvent)}
    assert len(answers) == 3
    assert contents(model.requests[-1]) == [
        ("user", "one"),
        ("model", "First."),
        ("user", "two"),
        ("model", "Second."),
        ("user", "three"),
    ]


async def test_the_history_may_end_with_the_results_of_a_clients_tools():
    agent, model = agent_of(ToolCall("locate"), "Thanks.")
    call = ToolCallOf(id="c1", function=FunctionCall(name="locate", arguments="{}"))
    messages = [
        UserMessage(id="1", content="Where am I?"),
        AssistantMessage(id="2", tool_calls=[call]),
        ToolMessage(id="3", tool_call_id="c1", content='{"city":"Bern"}'),
    ]
    async with Runner(agent) as runner:
        run = await runner.start("", messages=messages, config=TEXT)
        events = run.events()
        await until(events, "turn_complete")
        await finish(run)
    assert contents(model.requests[0])[-1] == ("user", "result locate {'city': 'Bern'}")


async def test_what_was_said_before_the_close_is_answered():
    gate = Gate()
    agent, _ = agent_of("One ", gate, "moment.")
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=TEXT)
        await gate.reached()
        await run.send(CLOSE)
        gate.let()
        assert (await run.collect()).text == "One moment."


async def test_a_model_that_owes_an_answer_does_not_keep_the_run_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adk_live, "ANSWER_S_MAX", 0.01)
    agent, model = agent_of("One ", Gate(), "moment.")
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=TEXT)
        assert await anext(run.text()) == "One "
        await finish(run)
        assert (await run.record()).status is RunStatus.FINISHED
        assert (await run.collect()).text == "One "
    assert model.running == 0


# -- sound ------------------------------------------------------------------------------------------------------------


async def test_sound_goes_both_ways_with_what_was_spoken_in_writing():
    agent, model = agent_of("It is ", "sunny.", NextTurn(), "You asked for the weather.")
    async with Runner(agent) as runner:
        run = await runner.start("", session_id="s", config=ALOUD)
        await run.send(LiveRequest(activity_start=True))
        for piece in (b"How is ", b"it?"):
            await run.send(LiveRequest(blob=Blob(data=piece)))
        await run.send(LiveRequest(activity_end=True))
        events = await finish(run)
        history = await said(runner, "s")
        await (await runner.start("What did I ask?", session_id="s")).wait()
    assert sound(events) == b"It is sunny."
    assert custom(events, "audio")[0]["mimeType"] == "audio/pcm;rate=24000"
    deltas = [event.delta for event in events if isinstance(event, TextMessageContentEvent)]
    assert deltas == ["How is ", "it?", "It is ", "sunny."]
    assert history == [("user", "How is it?"), ("assistant", "It is sunny.")]
    assert contents(model.requests[-1]) == [
        ("user", "How is it?"),
        ("model", "It is sunny."),
        ("user", "What did I ask?"),
    ]


async def test_sound_is_answered_when_enough_has_come():
    agent, _ = agent_of("Yes?", hears_bytes=5)
    async with Runner(agent) as runner:
        run = await runner.start("", config=ALOUD)
        events = run.events()
        await run.send(LiveRequest(blob=Blob(data=b"Hello")))
        assert sound(await until(events, "turn_complete")) == b"Yes?"
        await finish(run)


async def test_a_tool_call_stands_where_it_was_made_in_what_was_spoken():
    agent, _ = agent_of("Let me see. ", ToolCall("add", {"a": 1, "b": 2}), "It is 3.", tools=[add])
    async with Runner(agent) as runner:
        run = await runner.start("1 + 2?", session_id="s", config=ALOUD)
        events = await finish(run)
        history = await said(runner, "s")
    assert sound(events) == b"Let me see. It is 3."
    assert history == [
        ("user", "1 + 2?"),
        ("assistant", "Let me see. "),
        ("tool", '{"sum":3}'),
        ("assistant", "It is 3."),
    ]


# -- interruptions and ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TEXT, ALOUD], ids=["text", "aloud"])
async def test_an_interruption_ends_what_was_being_said(config: RunConfig):
    gate = Gate()
    agent, model = agent_of("One, two, ", gate, "three.", NextTurn(), "I stopped.", NextTurn(), "Fine.")
    async with Runner(agent) as runner:
        run = await runner.start("Count.", session_id="s", config=config)
        await gate.reached()
        await run.send("Stop!")
        events = await finish(run)
        history = await said(runner, "s")
        await (await runner.start("How are you?", session_id="s")).wait()
    assert custom(events, "interrupted") == [{}]
    assert len(custom(events, "turn_complete")) == 2
    assert sound(events) == (b"One, two, I stopped." if config is ALOUD else b"")
    assert history[0] == ("user", "Count.")
    assert sorted(history[1:3]) == [("assistant", "One, two, "), ("user", "Stop!")]
    assert history[3:] == [("assistant", "I stopped.")]
    assert contents(model.requests[-1])[-1] == ("user", "How are you?")
    spoken = "".join(text for role, text in contents(model.requests[-1]) if role == "model")
    assert spoken == "One, two, I stopped."  # ADK joins adjacent transcriptions


@pytest.mark.parametrize("service", [None, InMemorySessionService, "sqlite"])
@pytest.mark.parametrize("config", [TEXT, ALOUD], ids=["text", "aloud"])
async def test_a_cancel_closes_the_models_connection_and_keeps_what_was_said(
    config: RunConfig, service: Any, tmp_path: Any
):
    gate = Gate()
    agent, model = agent_of("One, ", "two, ", gate, "three.", NextTurn(), "Fine.")
    own = SqliteSessionService(f"{tmp_path}/own.db") if service == "sqlite" else service and service()
    async with Runner(agent, session_service=own) as runner:
        run = await runner.start("Count.", session_id="s", config=config)
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent) and event.delta == "two, ":
                break
        assert model.running == 1
        await run.cancel()
        assert (await run.wait()).status is RunStatus.CANCELLED
        assert model.running == 0
        assert await said(runner, "s") == [("user", "Count."), ("assistant", "One, two, ")]
        again = await runner.start("Go on.", session_id="s")
        assert (await again.collect()).text == "Fine."
        assert contents(model.requests[-1]) == [("user", "Count."), ("model", "One, two, "), ("user", "Go on.")]
        live = await runner.start("And on.", session_id="s", config=config)
        await finish(live)
        assert contents(model.requests[-1])[-3:] == [("user", "Go on."), ("model", "Fine."), ("user", "And on.")]


async def test_what_a_user_was_saying_at_a_cancel_stays_theirs():
    agent, model = agent_of("Never said.", NextTurn(), "Fine.")
    async with Runner(agent) as runner:
        run = await runner.start("", session_id="s", config=ALOUD)
        events = run.events()
        await run.send(LiveRequest(blob=Blob(data=b"I wanted to")))
        async for event in events:
            if isinstance(event, TextMessageContentEvent):
                break
        await run.cancel()
        await run.wait()
        await (await runner.start("Never mind.", session_id="s")).wait()
    assert contents(model.requests[-1]) == [("user", "I wanted to"), ("user", "Never mind.")]


async def test_a_close_without_a_word_ends_the_run_as_finished():
    agent, model = agent_of("Never said.")
    async with Runner(agent) as runner:
        run = await runner.start("", session_id="s", config=ALOUD)
        events = await finish(run)
        assert (await run.record()).status is RunStatus.FINISHED
        assert await said(runner, "s") == []
    assert isinstance(events[-1], RunFinishedEvent)
    assert model.running == 0


async def test_a_model_that_fails_ends_the_run_as_failed_with_its_text_kept():
    agent, model = agent_of("Half an ", Fail(ConnectionError("a secret")), NextTurn(), "Fine.")
    async with Runner(agent) as runner:
        run = await runner.start("Hi", session_id="s", config=TEXT)
        with pytest.raises(ModelFailed, match="ConnectionError") as failed:
            await run.collect()
        assert "secret" not in failed.value.message
        history = await said(runner, "s")
        assert (await (await runner.start("Again?", session_id="s")).collect()).text == "Fine."
    assert history == [("user", "Hi"), ("assistant", "Half an ")]
    assert contents(model.requests[-1]) == [("user", "Hi"), ("model", "Half an "), ("user", "Again?")]


async def test_a_run_that_is_stopped_by_a_limit_closes_the_models_connection():
    agent, model = agent_of("One, ", "two, ", "three, ", Gate())
    async with Runner(agent, limits=Limits(journal_events_max=3)) as runner:
        run = await runner.start("Count.", config=TEXT)
        assert (await run.wait()).status is RunStatus.FAILED
        assert model.running == 0


async def test_what_cannot_be_passed_on_fails_the_run():
    agent, model = agent_of("Hello.")
    async with Runner(agent) as runner:
        run = await runner.start("", config=TEXT)
        part = {"type": "image", "source": {"type": "data", "mimeType": "image/png", "value": "not base64"}}
        queue = LiveRequestQueue()
        queue.send_content([part])
        await run.send(await queue.get())
        with pytest.raises(InputInvalid, match="base64"):
            await run.collect()
    assert model.running == 0


# -- tools ------------------------------------------------------------------------------------------------------------


async def test_tools_have_the_deps_and_async_ones_run_in_the_servers_event_loop():
    seen: dict[str, Any] = {}

    async def where(tool_context: ToolContext) -> str:
        """Where."""
        seen["loop"], seen["deps"] = asyncio.get_running_loop(), tool_context.state["temp:deps"]
        return "here"

    def blocks() -> str:
        """Blocks."""
        seen["thread"] = threading.current_thread()
        return "done"

    calls = ToolCall("where"), ToolCall("blocks")
    agent, _ = agent_of(*calls, "Here.", tools=[where, blocks])
    async with Runner(agent) as runner:
        deps = object()
        run = await runner.start("Where?", config=TEXT, deps=deps)
        await finish(run)
        assert (await run.collect()).text == "Here."
    assert seen["deps"] is deps
    assert seen["loop"] is asyncio.get_running_loop()
    assert seen["thread"] is not threading.main_thread()


async def test_a_tool_that_raises_fails_the_run():
    def bad() -> str:
        """Bad."""
        raise RuntimeError("a secret")

    agent, model = agent_of(ToolCall("bad"), "Never said.", tools=[bad])
    async with Runner(agent) as runner:
        run = await runner.start("Go.", config=TEXT)
        with pytest.raises(ToolFailed, match="bad"):
            await run.collect()
    assert model.running == 0


async def test_a_tool_that_wants_an_approval_is_not_run_and_the_model_and_the_stream_are_told():
    ran = False

    def delete() -> str:
        """Deletes."""
        nonlocal ran
        ran = True
        return "deleted"

    agent, _ = agent_of(ToolCall("delete"), "I may not.", tools=[FunctionTool(delete, require_confirmation=True)])
    async with Runner(agent) as runner:
        run = await runner.start("Delete it.", config=TEXT)
        events = await finish(run)
    assert not ran
    (result,) = [event.content for event in events if isinstance(event, ToolCallResultEvent)]
    assert "requires confirmation" in result
    assert [notice["code"] for notice in custom(events, "notice")] == ["tool_not_approved"]
    assert isinstance(events[-1], RunFinishedEvent)


async def test_a_long_running_tools_first_result_is_its_result():
    def book(room: str) -> dict[str, str]:
        """Books."""
        return {"status": "pending", "room": room}

    agent, _ = agent_of(ToolCall("book", {"room": "7"}), "I asked.", tools=[LongRunningFunctionTool(book)])
    async with Runner(agent) as runner:
        run = await runner.start("Book it.", config=TEXT)
        events = await finish(run)
    assert [event.content for event in events if isinstance(event, ToolCallResultEvent)] == [
        '{"status":"pending","room":"7"}'
    ]
    assert not custom(events, "notice")


async def test_a_long_running_tool_without_a_result_is_told_of_and_leaves_a_usable_session(
    monkeypatch: pytest.MonkeyPatch,
):
    hearing: list[adk_live._Hearing] = []
    begin = adk_live._Hearing.__init__

    def begun(new: adk_live._Hearing, ctx: RunContext) -> None:
        begin(new, ctx)
        hearing.append(new)

    monkeypatch.setattr(adk_live._Hearing, "__init__", begun)

    async def book() -> None:
        """Books."""
        monkeypatch.setattr(adk_live, "ANSWER_S_MAX", 0.01)  # and not before, so that a busy machine gets here
        hearing[-1]._moved.set()  # it waits by now, for as long as was said before

    agent, model = agent_of(ToolCall("book"), "Never said.", NextTurn(), "Fine.", tools=[LongRunningFunctionTool(book)])
    async with Runner(agent) as runner:
        run = await runner.start("Book it.", session_id="s", config=TEXT)
        events = await finish(run)
        await (await runner.start("And?", session_id="s")).wait()
    assert [notice["code"] for notice in custom(events, "notice")] == ["tool_unanswered"]
    assert contents(model.requests[-1]) == [
        ("user", "Book it."),
        ("model", "call book"),
        ("user", "result book {'error': 'The run was ended.'}"),
        ("user", "And?"),
    ]


# -- agents, apps, runners, sessions ----------------------------------------------------------------------------------


async def test_apps_and_runners_can_be_live():
    for make in (
        lambda agent: App(name="helper", root_agent=agent),
        lambda agent: ADKRunner(app_name="helper", agent=agent, session_service=InMemorySessionService()),
    ):
        agent, _ = agent_of("Hello.")
        async with Runner(make(agent)) as runner:
            run = await runner.start("Hi", config=TEXT)
            await finish(run)
            assert (await run.collect()).text == "Hello."


async def test_an_agent_hands_over_to_another_one():
    expert = LlmAgent(name="expert", model=adk_model("I know."))
    calls = ToolCall("transfer_to_agent", {"agent_name": "expert"})
    agent = LlmAgent(name="helper", model=adk_model("Wait. ", calls), sub_agents=[expert])
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=ALOUD)
        events = await finish(run)
    names = [event.name for event in events if isinstance(event, TextMessageStartEvent)]
    assert names == ["helper", "expert"]
    assert sound(events) == b"Wait. I know."
    assert [event.step_name for event in events if isinstance(event, StepStartedEvent)] == ["expert"]


async def test_the_close_is_heard_by_each_agent_of_a_sequence():
    first, model = agent_of("First.")
    second = LlmAgent(name="second", model=adk_model("Second."))
    async with Runner(SequentialAgent(name="both", sub_agents=[first, second])) as runner:
        run = await runner.start("Hi", config=TEXT)
        await finish(run)
        assert (await run.record()).status is RunStatus.FINISHED
        assert (await run.collect()).text.startswith("First.")
    assert model.running == 0


class Restless(BaseAgent):
    async def _run_async_impl(self, ctx: Any) -> Any:
        yield None


class Deaf(BaseLlm):
    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        yield None


@pytest.mark.parametrize(
    ("agent", "error", "says"),
    [
        (Restless(name="restless"), AgentInvalid, "of this kind live"),
        (LlmAgent(name="deaf", model=Deaf(model="deaf")), ModelFailed, "no live connection"),
    ],
)
async def test_what_cannot_be_live_says_so(agent: BaseAgent, error: type[GaplessError], says: str):
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=TEXT)
        with pytest.raises(error, match=says):
            await run.collect()


async def test_what_an_agents_own_code_raises_is_not_the_models():
    def before(callback_context: Any) -> None:
        raise RuntimeError("a secret")

    agent = LlmAgent(name="helper", model=adk_model("Never said."), before_agent_callback=before)
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=TEXT)
        with pytest.raises(AgentFailed, match="RuntimeError"):
            await run.collect()


@pytest.mark.parametrize("own", ["memory", "sqlite"])
async def test_an_own_session_service_has_what_both_sides_said(own: str, tmp_path: Any):
    service: BaseSessionService = InMemorySessionService()
    if own == "sqlite":
        service = SqliteSessionService(f"{tmp_path}/own.db")
    agent, model = agent_of("Hello.", NextTurn(), "Fine.")
    async with Runner(agent, session_service=service) as runner:
        run = await runner.start("", session_id="s", user_id="u", config=ALOUD)
        await run.send(LiveRequest(blob=Blob(data=b"Good day")))
        await run.send(LiveRequest(activity_end=True))
        await finish(run)
        session = await service.get_session(app_name="helper", user_id="u", session_id="s")
        assert session is not None
        spoken = [event.input_transcription or event.output_transcription for event in session.events]
        assert [words.text for words in spoken if words is not None] == ["Good day", "Hello."]
        await (await runner.start("How are you?", session_id="s", user_id="u")).wait()
    assert contents(model.requests[-1]) == [("user", "Good day"), ("model", "Hello."), ("user", "How are you?")]


async def test_what_a_live_model_is_not_told_is_named():
    agent, _ = agent_of("Hello.")
    config = RunConfig(streaming_mode=StreamingMode.BIDI, model_settings={"temperature": 0.5})
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=config, tools=[Tool(name="locate", description="Where.")])
        events = await finish(run)
    assert [notice["code"] for notice in custom(events, "notice")] == ["tools_ignored", "setting_ignored"]


# -- what Gemini sends ------------------------------------------------------------------------------------------------


async def test_more_than_the_model_can_take_is_refused():
    gate = Gate()
    agent = LlmAgent(name="helper", model=Gemini(model="gemini", script=[[gate, server(turn_complete=True)]]))
    async with Runner(agent) as runner:
        run = await runner.start("Hi", config=ALOUD)
        await gate.reached()
        with pytest.raises(LimitReached):
            for _ in range(LIVE_AHEAD_MAX + adk_live.AHEAD_MAX + 8):
                await run.send(LiveRequest(activity_start=True))
                await asyncio.sleep(0)  # for whoever takes it
        gate.let()
        await finish(run)
        assert (await run.record()).status is RunStatus.FINISHED


@pytest.mark.parametrize("version", ["gemini-2.5-flash-native-audio", "gemini-3.1-flash-live"])
async def test_a_tool_call_is_answered_though_nothing_more_is_said(version: str):
    """Of Gemini's versions, one completes its turn with the call, the other with the answer to its result."""
    call = types.FunctionCall(id="c1", name="add", args={"a": 1, "b": 2})
    called = [
        *spoken("Let me see. "),
        types.LiveServerMessage(tool_call=types.LiveServerToolCall(function_calls=[call])),
    ]
    completes = version.startswith("gemini-2")
    if completes:
        called.append(server(turn_complete=True))
    gate = Gate()
    answer = [message for word in ("It ", "is ", "three, ", "I ", "think.") for message in spoken(word)]
    script = [called, [gate, *answer, server(turn_complete=True)]]
    agent = LlmAgent(name="helper", model=Gemini(model="gemini", script=script, version=version), tools=[add])
    async with Runner(agent) as runner:
        run = await runner.start("1 + 2?", session_id="s", config=ALOUD)
        await run.send(CLOSE)
        await gate.reached()
        if completes:
            await until(run.events(), "turn_complete")
        gate.let()
        await run.wait()
        history = await said(runner, "s")
    assert history == [
        ("user", "1 + 2?"),
        ("assistant", "Let me see. "),
        ("tool", '{"sum":3}'),
        ("assistant", "It is three, I think."),
    ]


async def test_what_gemini_sends_is_shown_once_and_in_order():
    call = types.FunctionCall(id="c1", name="add", args={"a": 1, "b": 2})
    usage = types.UsageMetadata(prompt_token_count=5, response_token_count=7, total_token_count=12)
    script = [
        [
            heard("What is "),
            parts(types.Part(text="Sums, ", thought=True)),
            heard("1 + 2?"),
            parts(types.Part(text="easy.", thought=True)),
            *spoken("Let me "),
            types.LiveServerMessage(session_resumption_update=types.LiveServerSessionResumptionUpdate(new_handle="h")),
            *spoken("see. "),
            types.LiveServerMessage(tool_call=types.LiveServerToolCall(function_calls=[call])),
            server(turn_complete=True),
        ],
        [*spoken("It "), *spoken("is "), heard("Wait!"), server(interrupted=True), server(turn_complete=True)],
        [
            *spoken("Yes?"),
            server(generation_complete=True),
            types.LiveServerMessage(usage_metadata=usage),
            server(turn_complete=True),
        ],
    ]
    agent = LlmAgent(name="helper", model=Gemini(model="gemini", script=script), tools=[add])
    async with Runner(agent) as runner:
        run = await runner.start("", session_id="s", config=ALOUD)
        events = run.events()
        await run.send(LiveRequest(blob=Blob(data=b"...")))
        await run.send(LiveRequest(activity_end=True))
        await until(events, "interrupted")
        await run.send("Listen.")
        await finish(run)
        seen = [event async for event in run.events()]
        history = await said(runner, "s")
    assert sound(seen) == b"Let me see. It is Yes?"
    assert "".join(e.delta for e in seen if isinstance(e, ReasoningMessageContentEvent)) == "Sums, easy."
    assert [event.content for event in seen if isinstance(event, ToolCallResultEvent)] == ['{"sum":3}']
    assert (len(custom(seen, "interrupted")), len(custom(seen, "turn_complete"))) == (1, 3)
    assert [text for role, text in history if role == "assistant"] == ["Let me see. ", "It is ", "Yes?"]
    assert [text for role, text in history if role == "user"] == ["What is 1 + 2?", "Wait!", "Listen."]
    assert [role for role, _ in history if role != "reasoning"] == [
        *("user", "assistant", "tool", "assistant", "user", "user", "assistant")
    ]
    assert isinstance(seen[-1], RunFinishedEvent)
    assert seen[-1].usage is not None
    assert seen[-1].usage[0].total_tokens == 12
