"""What a run shows of ADK's events."""

from __future__ import annotations

from typing import Any

import pytest
from google.adk.agents import BaseAgent, LlmAgent, ParallelAgent, SequentialAgent
from google.adk.agents._streaming_mode import StreamingMode as ADKStreamingMode
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.events import Event as ADKEvent
from google.adk.runners import InMemoryRunner
from google.adk.tools import ToolContext
from google.adk.workflow import Workflow
from google.genai import types

from gapless import RunConfig, Runner, StreamingMode
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    ReasoningMessageContentEvent,
    RunFinishedEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.fold import Fold
from gapless.messages import ActivityMessage
from tests.support.adk import Call, Scripted, Streamed, Thought
from tests.support.adk_runs import TALK_CALL_TALK, add, agent_of, all_of, ask, calls, custom, results, text_of

pytestmark = pytest.mark.both_ways


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


CODE = types.Part(executable_code=types.ExecutableCode(language=types.Language.PYTHON, code="print(1)"))
OUTCOME = types.Part(code_execution_result=types.CodeExecutionResult(outcome=types.Outcome.OUTCOME_OK, output="1"))
PICTURE = types.Part(inline_data=types.Blob(data=b"picture", mime_type="image/png"))


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_code_and_pictures_come_in_their_order_under_ids_of_their_own(mode: StreamingMode):
    agent = agent_of(["One. ", CODE, OUTCOME, "Two. ", PICTURE, CODE, OUTCOME, "Three."])
    async with Runner(agent) as runner:
        run = await runner.start("go", session_id="s", config=RunConfig(streaming_mode=mode))
        events = await all_of(run)
        order = [
            event.delta
            if isinstance(event, TextMessageContentEvent)
            else event.name
            if isinstance(event, CustomEvent)
            else type(event).__name__
            for event in events
            if isinstance(event, TextMessageContentEvent | ToolCallStartEvent | ToolCallResultEvent | CustomEvent)
        ]
        assert order == [
            "One. ",
            "ToolCallStartEvent",
            "ToolCallResultEvent",
            "Two. ",
            "gapless.file",
            "ToolCallStartEvent",
            "ToolCallResultEvent",
            "Three.",
            "gapless.finish",
        ]
        ids = [event.tool_call_id for event in events if isinstance(event, ToolCallStartEvent)]
        assert [event.tool_call_id for event in events if isinstance(event, ToolCallResultEvent)] == ids
        assert len(set(ids)) == 2
        messages = await runner.messages("s")
        assert len({message.id for message in messages}) == len(messages)
        assert [
            message.content for message in messages if isinstance(message, AssistantMessage) and message.content
        ] == [
            "One. ",
            "Two. ",
            "Three.",
        ]
        assert results(events) == [{"outcome": "OUTCOME_OK", "output": "1"}] * 2


async def test_a_call_whose_id_changes_while_it_comes_is_one_call():
    class Renaming(Scripted):
        def __init__(self, *scripts: list[Any]) -> None:
            super().__init__(*scripts)

        async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
            async for response in super().generate_content_async(llm_request, stream):
                for part in response.content.parts:
                    if not response.partial and part.function_call:
                        part.function_call.id = "another"
                yield response

    model = Renaming([Streamed("add", [("$.a", 1), ("$.b", 2)], {"a": 1, "b": 2}, id="first")], ["3."])
    events = await ask(LlmAgent(name="helper", model=model, tools=[add]))
    assert calls(events) == [("add", {"a": 1, "b": 2})]
    assert [event.tool_call_id for event in events if isinstance(event, ToolCallResultEvent)] == ["first"]


async def test_an_artifact_is_told_and_stays_in_the_conversation():
    async def keep(tool_context: ToolContext) -> str:
        await tool_context.save_artifact("plan.txt", types.Part(text="one"))
        await tool_context.save_artifact("user:plan.txt", types.Part(text="two"))
        return "kept"

    events = await ask(agent_of([Call("keep", {})], ["Done."], tools=[keep]))
    kept = [{"name": "plan.txt", "version": 0}, {"name": "user:plan.txt", "version": 0}]
    assert custom(events, "gapless.artifact") == kept
    fold = Fold()
    for event in [*events, *events]:  # told again by another worker, they are there once
        fold.add(event)
    shown = [message.content for message in fold.messages() if isinstance(message, ActivityMessage)]
    assert shown == kept
