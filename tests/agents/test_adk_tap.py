"""What is heard of an ADK agent's model beside ADK's events is what ADK would have given."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from google.adk.agents import BaseAgent, InvocationContext, LlmAgent, ParallelAgent, SequentialAgent
from google.adk.apps import App
from google.adk.events import Event as ADKEvent
from google.adk.models.llm_response import LlmResponse
from google.adk.planners import BuiltInPlanner, PlanReActPlanner
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools import ToolContext
from google.adk.workflow import Workflow
from google.genai import types
from opentelemetry import _logs

from gapless import Limits, RunConfig, Runner
from gapless.agents import adapt, adk_hearing
from gapless.agents.base import Deltas
from gapless.errors import RunLimit
from gapless.events import CustomEvent, Event, TextMessageContentEvent, encode_event
from tests.support.adk import Call, Scripted, Streamed, Thought
from tests.support.adk_runs import TALK_CALL_TALK, add, agent_of, all_of, ask, text_of
from tests.support.ways import through_the_graph

MODEL = Deltas(at_model=True)


class Notes(BasePlugin):
    """Looks at the run and at its tools, and at no event."""

    async def before_run_callback(self, *, invocation_context: Any) -> None: ...

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None: ...


class Watches(BasePlugin):
    """Looks at each event."""

    def __init__(self) -> None:
        super().__init__(name="watches")
        self.seen: list[str] = []

    async def on_event_callback(self, *, invocation_context: Any, event: ADKEvent) -> None:
        if event.partial and event.content is not None:
            self.seen += [part.text or "" for part in event.content.parts or []]


class Own(BaseAgent):
    async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[ADKEvent, None]:
        async for event in self.sub_agents[0].run_async(ctx):
            yield event


class Louder(LlmAgent):
    async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[ADKEvent, None]:
        async for event in super()._run_async_impl(ctx):
            for part in event.content.parts if event.content else ():
                part.text = part.text and part.text.upper()
            yield event


def same(events: list[Event]) -> list[str]:
    """The events as JSON, without times, their ids by the order in which they come."""
    encoded = b"\n".join(map(encode_event, events)).decode()
    encoded = re.sub(r'"timestamp":[\d.]+', '"timestamp":0', encoded)
    known: dict[str, str] = {}
    encoded = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", lambda id: known.setdefault(id[0], f"id{len(known)}"), encoded)
    return encoded.split("\n")


def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What runs an agent on both ways and returns its events, once it has found them to be the same."""

    async def run(make: Callable[[], Any]) -> list[Event]:
        taken = await ask(make(), run_id="r", session_id="s")
        with monkeypatch.context() as patch:
            through_the_graph(patch)
            theirs = await ask(make(), run_id="r", session_id="s")
        assert same(taken) == same(theirs)
        return taken

    return run


PICTURE = types.Part(inline_data=types.Blob(data=b"png", mime_type="image/png"))
SIGNED = types.Part(text="sure.", thought=True, thought_signature=b"signed")
AGENTS: dict[str, Callable[[], Any]] = {
    "text": lambda: agent_of(["One ", "two ", "three ", "four."]),
    "thought, text, call, text": lambda: agent_of(*TALK_CALL_TALK, tools=[add]),
    "kinds in turns": lambda: agent_of([Thought("a "), Thought("b"), "c ", "d ", Thought("e "), SIGNED, "f ", "g"]),
    "a picture between": lambda: agent_of(["One ", "two ", PICTURE, "three ", "four."]),
    "arguments in pieces": lambda: agent_of(
        ["I ", "add. ", Streamed("add", [("$.a", 2), ("$.b", 3)], {"a": 2, "b": 3})], ["It ", "is ", "5."], tools=[add]
    ),
    "usage in the middle": lambda: agent_of(
        [
            "One ",
            "two ",
            LlmResponse(
                content=types.Content(role="model", parts=[types.Part(text="three ")]),
                partial=True,
                usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=3),
            ),
            LlmResponse(partial=True, usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=4)),
            "four ",
            "five.",
        ]
    ),
    "one after the other": lambda: SequentialAgent(
        name="both", sub_agents=[agent_of(["a ", "b ", "c"], name="one"), agent_of(["d ", "e ", "f"], name="two")]
    ),
    "a workflow": lambda: Workflow(
        name="flow",
        edges=[("START", one := agent_of(["a ", "b ", "c"], name="one")), (one, agent_of(["d ", "e"], name="two"))],
    ),
    "handed over": lambda: LlmAgent(
        name="first",
        model=Scripted(["I ", "ask. ", Call("transfer_to_agent", {"agent_name": "second"})]),
        sub_agents=[agent_of(["Here ", "I ", "am."], name="second")],
    ),
}


@pytest.mark.parametrize("name", AGENTS)
async def test_each_event_is_the_one_that_adk_gives_in_the_same_order(name: str, monkeypatch: pytest.MonkeyPatch):
    adapted = adapt(AGENTS[name]())
    await ask(adapted)
    assert adapted.deltas == MODEL
    await both(monkeypatch)(AGENTS[name])


async def test_agents_in_parallel_are_heard_side_by_side(monkeypatch: pytest.MonkeyPatch):
    def make() -> Any:
        return ParallelAgent(
            name="both", sub_agents=[agent_of(["a ", "b ", "c "] * 5, name=name) for name in ("one", "two")]
        )

    adapted = adapt(make())
    events = await ask(adapted)
    assert adapted.deltas == MODEL
    assert text_of(events).replace(" ", "").count("a") == 10


async def test_most_deltas_do_not_go_through_adk(monkeypatch: pytest.MonkeyPatch):
    seen: list[ADKEvent] = []

    class Counts(InMemoryRunner):
        async def _process_event_with_plugin_callbacks(self, **given: Any) -> ADKEvent:
            seen.append(given["event"])
            return await super()._process_event_with_plugin_callbacks(**given)

    assert text_of(await ask(Counts(agent_of(["word "] * 50), app_name="a"))) == "word " * 50
    assert [event.partial for event in seen] == [True, False]


# -- who watches -------------------------------------------------------------------------------------------------------


def with_plugin(plugin: BasePlugin) -> App:
    return App(name="app", root_agent=agent_of(["a ", "b"]), plugins=[plugin])


def changes(callback_context: Any, llm_response: LlmResponse) -> LlmResponse | None:
    return None


class OwnRunner(InMemoryRunner):
    async def run_async(self, **given: Any) -> AsyncGenerator[ADKEvent, None]:
        async for event in super().run_async(**given):
            yield event


WATCHED: dict[str, tuple[Callable[[], Any], str]] = {
    "a plugin for events": (lambda: with_plugin(Watches()), "the plugin watches"),
    "a plugin for other things": (lambda: with_plugin(Notes(name="notes")), ""),
    "an after_model_callback": (
        lambda: LlmAgent(name="helper", model=Scripted(["a ", "b"]), after_model_callback=changes),
        "the after_model_callback of helper",
    ),
    "a before_model_callback": (
        lambda: LlmAgent(name="helper", model=Scripted(["a ", "b"]), before_model_callback=lambda **given: None),
        "",
    ),
    "a planner": (
        lambda: LlmAgent(name="helper", model=Scripted(["a ", "b"]), planner=PlanReActPlanner()),
        "the planner of helper",
    ),
    "a planner of the model's": (
        lambda: LlmAgent(
            name="helper",
            model=Scripted(["a ", "b"]),
            planner=BuiltInPlanner(thinking_config=types.ThinkingConfig(include_thoughts=True)),
        ),
        "",
    ),
    "an agent around it": (lambda: Own(name="own", sub_agents=[agent_of(["a ", "b"])]), "the code of own"),
    "a class of its own": (lambda: Louder(name="louder", model=Scripted(["a ", "b"])), "the code of louder"),
    "a runner of one's own": (lambda: OwnRunner(agent_of(["a ", "b"]), app_name="a"), "the code of the runner"),
}


@pytest.mark.parametrize("name", WATCHED)
async def test_who_may_look_at_each_event_is_let(name: str):
    make, watched_by = WATCHED[name]
    adapted = adapt(make())
    events = await ask(adapted)
    assert adapted.deltas == Deltas(at_model=not watched_by, watched_by=watched_by)
    assert text_of(events) == ("A B" if name == "a class of its own" else "a b")


async def test_a_log_of_each_delta_is_kept(monkeypatch: pytest.MonkeyPatch):
    class Provider:
        """Stands for one of OpenTelemetry's SDK."""

    monkeypatch.setattr(_logs, "get_logger_provider", Provider)
    adapted = adapt(agent_of(["a ", "b"]))
    await ask(adapted)
    assert adapted.deltas == Deltas(at_model=False, watched_by="the log of OpenTelemetry")


async def test_a_session_whose_second_run_is_watched_goes_on():
    model, watches = Scripted(["Fine ", "so ", "far."]), Watches()
    adk = InMemoryRunner(LlmAgent(name="helper", model=model), app_name="a")
    adapted, ways = adapt(adk), []
    async with Runner(adapted) as runner:
        for plugins in ([], [watches], []):
            adk.plugin_manager.plugins += plugins
            assert text_of(await all_of(await runner.start("go on", session_id="s"))) == "Fine so far."
            adk.plugin_manager.plugins[:] = [one for one in adk.plugin_manager.plugins if one not in plugins]
            ways.append(adapted.deltas.at_model)  # type: ignore[union-attr]
    assert ways == [True, False, True]
    assert watches.seen == ["Fine ", "so ", "far."]
    said = ["".join(part.text or "" for part in one.parts or []) for one in model.requests[-1] if one.role == "model"]
    assert said == ["Fine so far.", "Fine so far."]


async def test_where_adk_changes_events_all_of_them_go_through_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adk_hearing, "CATCH_UP_S", 0.0)

    class Copies(InMemoryRunner):
        async def _process_event_with_plugin_callbacks(self, **given: Any) -> ADKEvent:
            return (await super()._process_event_with_plugin_callbacks(**given)).model_copy(deep=True)

    adapted = adapt(
        Copies(agent_of(["a ", "b ", Call("add", {"a": 1, "b": 1})], ["c ", "d"], tools=[add]), app_name="a")
    )
    assert text_of(await ask(adapted)) == "a b c d"
    assert adapted.deltas == Deltas(at_model=False, watched_by="something in ADK that keeps events back")


# -- the agent's own ---------------------------------------------------------------------------------------------------


async def test_the_agent_has_its_model_again_when_tools_run():
    seen: list[Any] = []

    def look(tool_context: ToolContext) -> str:
        """Looks."""
        seen.append(tool_context._invocation_context.agent.model)
        return "seen"

    model = Scripted(["Let ", "me ", "look. ", Call("look", {})], ["So ", "it ", "is."])
    agent = LlmAgent(name="helper", model=model, tools=[look])
    await ask(agent)
    assert seen == [model]
    assert agent.model is model


async def test_a_callback_that_answers_in_the_models_place_is_heeded():
    answers = [LlmResponse(content=types.Content(role="model", parts=[types.Part(text="No.")])), None]
    model = Scripted(["One ", "two ", "three."])
    agent = LlmAgent(
        name="helper", model=model, before_model_callback=lambda callback_context, llm_request: answers.pop(0)
    )
    async with Runner(agent) as runner:
        assert text_of(await all_of(await runner.start("hi", session_id="s"))) == "No."
        assert text_of(await all_of(await runner.start("hi", session_id="s"))) == "One two three."
    assert len(model.requests) == 1


async def test_what_recording_raises_is_not_the_models(monkeypatch: pytest.MonkeyPatch):
    asked: list[Exception] = []

    def overcome(callback_context: Any, llm_request: Any, error: Exception) -> LlmResponse:
        asked.append(error)
        return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="All is well.")]))

    async def kept() -> Any:
        """What the next turn's model is told."""
        model = Scripted(["word "] * 20)
        agent = LlmAgent(name="helper", model=model, on_model_error_callback=overcome)
        async with Runner(agent, limits=Limits(journal_events_max=8)) as runner:
            for _ in range(2):
                run = await runner.start("go", session_id="s")
                with pytest.raises(RunLimit):
                    await run.collect()
        assert model.running == 0
        return [[part.text for part in one.parts or []] for one in model.requests[-1]]

    taken = await kept()
    through_the_graph(monkeypatch)
    theirs = await kept()
    assert asked == []
    assert [texts[0].partition(" ")[0] for texts in taken] == [texts[0].partition(" ")[0] for texts in theirs]
    assert len(taken) == 3


async def test_a_notice_comes_before_what_the_model_says():
    config = RunConfig(model_settings={"no_such_setting": 1})
    kinds = [type(event) for event in await ask(agent_of(["a ", "b ", "c"]), config=config)]
    assert kinds.index(CustomEvent) < kinds.index(TextMessageContentEvent)
