"""What is heard of a model of the OpenAI Agents SDK beside the SDK's queue is what the SDK would have given."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import agents.run
import pytest
from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    HandoffInputData,
    Model,
    ModelProvider,
    ModelRetrySettings,
    ModelSettings,
    RunConfig,
    function_tool,
    handoff,
    input_guardrail,
    retry_policies,
)
from agents.run import AgentRunner
from agents.run_config import SandboxRunConfig
from agents.tool_context import ToolContext

from gapless import Limits, Runner, StreamingMode
from gapless import RunConfig as GaplessRunConfig
from gapless.agents import openai_agents_tap
from gapless.agents.base import Deltas
from gapless.agents.openai_agents import OpenAIAgent
from gapless.errors import AgentFailed, RunLimit
from gapless.events import (
    RunFinishedEvent,
)
from gapless.runs.run import Run
from gapless.testing import Gate, Reasoning, ToolCall, openai_agents_model
from gapless.testing.openai_agents import OpenAIAgentsModel
from tests.support.openai_agents_runs import UNTRACED, adapted, all_of, ask, look, same, text_of
from tests.support.ways import through_the_graph

MODEL = Deltas(at_model=True)


class Counted(AgentRunner):
    """The SDK's runner, whose streams are counted. It is none of the user's."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def run_streamed(self, *args: Any, **kwargs: Any) -> Any:
        result = super().run_streamed(*args, **kwargs)
        events = result.stream_events

        async def counted() -> AsyncIterator[Any]:
            async for event in events():
                if event.type == "raw_response_event":
                    self.seen.append(event.data.type)
                yield event

        result.stream_events = counted  # type: ignore[method-assign]  # of this one
        return result


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of all events of models that the SDK's streams give."""
    runner = Counted()
    monkeypatch.setattr(agents.run, "DEFAULT_AGENT_RUNNER", runner)
    monkeypatch.setattr(agents.run, "AgentRunner", Counted)
    return runner.seen


class Named(ModelProvider):
    """Has models by their names."""

    def __init__(self, **models: Model) -> None:
        self.models = models

    def get_model(self, model_name: str | None) -> Model:
        return self.models[model_name or "none"]


TALK = ("Let ", "me ", "look. ", ToolCall("look", {"at": "x" * 60}), "It ", "is ", "seen.")


def handing_over(model: Callable[..., Any], **options: Any) -> Agent[Any]:
    second = Agent(name="second", model=model("", ToolCall("x"), "Here ", "I ", "am."))
    return Agent(
        name="first",
        model=model("I ", "ask. ", ToolCall("transfer_to_second")),
        handoffs=[handoff(second, **options)],
    )


AGENTS: dict[str, Callable[[], OpenAIAgent]] = {
    "text": lambda: adapted(Agent(name="a", model=openai_agents_model("One ", "two ", "three."))),
    "thoughts, text, call, text": lambda: adapted(
        Agent(name="a", model=openai_agents_model(Reasoning("Hm, "), Reasoning("hm. "), *TALK), tools=[look])
    ),
    "calls side by side": lambda: adapted(
        Agent(
            name="a",
            model=openai_agents_model(
                "I ", "look. ", ToolCall("look", {"at": "a" * 60}), ToolCall("look", {"at": "b" * 60}), "Seen."
            ),
            tools=[look],
        )
    ),
    "a model for all": lambda: adapted(
        Agent(name="a", model="unknown", tools=[look]),
        RunConfig(tracing_disabled=True, model=openai_agents_model(*TALK)),
    ),
    "a model for all, by name": lambda: adapted(
        Agent(name="a", model=openai_agents_model("never."), tools=[look]),
        RunConfig(tracing_disabled=True, model="one", model_provider=Named(one=openai_agents_model(*TALK))),
    ),
    "a model by name": lambda: adapted(
        Agent(name="a", model="one", tools=[look]),
        RunConfig(tracing_disabled=True, model_provider=Named(one=openai_agents_model(*TALK))),
    ),
    "the model of the provider": lambda: adapted(
        Agent(name="a", tools=[look]),
        RunConfig(tracing_disabled=True, model_provider=Named(none=openai_agents_model(*TALK))),
    ),
    "handed over": lambda: adapted(handing_over(openai_agents_model)),
}


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
@pytest.mark.parametrize("name", AGENTS)
async def test_each_event_is_the_one_that_the_sdk_gives_in_the_same_order(
    name: str, mode: StreamingMode, counted: list[str], monkeypatch: pytest.MonkeyPatch
):
    agent, options = AGENTS[name](), {"run_id": "r", "session_id": "s", "config": GaplessRunConfig(streaming_mode=mode)}
    taken = await ask(agent, **options)
    assert agent.deltas == MODEL
    heard = len(counted)
    with monkeypatch.context() as patch:
        through_the_graph(patch)
        theirs = await ask(AGENTS[name](), **options)
    assert same(taken) == same(theirs)
    assert "." in text_of(taken)
    assert "response.output_text.delta" in counted[heard:]
    assert len(counted) - heard > heard


async def test_most_deltas_do_not_go_through_the_sdk(counted: list[str]):
    agent = adapted(Agent(name="a", model=openai_agents_model(*["word "] * 50)))
    assert text_of(await ask(agent)) == "word " * 50
    assert counted == ["response.created", "response.output_item.added", "response.completed"]


async def test_an_agent_that_is_a_tool_is_streamed_to_whom_its_program_says(counted: list[str]):
    seen: list[str] = []

    def listen(told: Any) -> None:
        if told["event"].type == "raw_response_event" and told["event"].data.type.endswith("text.delta"):
            seen.append(told["event"].data.delta)

    def agent(helper: Any, provider: ModelProvider) -> OpenAIAgent:
        tool = Agent(name="helper", model=helper).as_tool("help", "Help.", on_stream=listen)
        model = openai_agents_model("I ", "ask. ", ToolCall("help", {"input": "me"}), "So ", "it ", "is.")
        config = RunConfig(tracing_disabled=True, model_provider=provider)
        return adapted(Agent(name="a", model=model, tools=[tool]), config)

    helper = openai_agents_model("a ", "b ", "c")
    for made in (agent(helper, Named()), agent("helper", Named(helper=helper))):
        assert text_of(await ask(made)) == "I ask. So it is."
        assert made.deltas == MODEL
    assert seen == ["a ", "b ", "c"] * 2


# -- who watches ------------------------------------------------------------------------------------------------------


class OwnRunner(AgentRunner):
    """Runs agents its own way."""


class Quiet(AgentHooks[Any]):
    """Hears of the model's requests and whole answers."""

    async def on_llm_end(self, *args: Any) -> None: ...


def said() -> Any:
    return openai_agents_model("a ", "b")


class OwnConfig(RunConfig):
    """Configures in its own way."""


@pytest.mark.parametrize(
    ("options", "config", "watching"),
    [
        ({"hooks": Quiet()}, UNTRACED, ""),
        ({"model_settings": ModelSettings(timeout=60)}, UNTRACED, "the timeout of the model"),
        ({}, OwnConfig(tracing_disabled=True), "the code of the configuration"),
        ({}, RunConfig(tracing_disabled=True, sandbox=SandboxRunConfig()), "a sandbox"),
    ],
    ids=["hooks", "a timeout", "a configuration of one's own", "a sandbox"],
)
async def test_who_may_look_at_each_event_is_let(options: dict[str, Any], config: RunConfig, watching: str):
    made = adapted(Agent(name="a", model=said(), **options), config)
    assert text_of(await ask(made)) == "a b"
    assert made.deltas == Deltas(at_model=not watching, watched_by=watching)


async def test_a_runner_of_ones_own_sees_each_event(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(agents.run, "DEFAULT_AGENT_RUNNER", OwnRunner())
    made = adapted(Agent(name="a", model=said()))
    assert text_of(await ask(made)) == "a b"
    assert made.deltas == Deltas(at_model=False, watched_by="the code of the runner")


class Louder(Model):
    """Stands before another model, and says it louder."""

    def __init__(self, before: Model) -> None:
        self.before = before

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it streams")

    async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        async for event in self.before.stream_response(*args, **kwargs):
            if event.type == "response.output_text.delta":
                event = event.model_copy(update={"delta": event.delta.upper()})
            yield event


async def test_a_model_that_a_hook_puts_before_another_sees_each_event(counted: list[str]):
    class Wraps(AgentHooks[Any]):
        async def on_start(self, context: Any, agent: Any) -> None:
            agent.model = Louder(agent.model)

    assert text_of(await ask(adapted(Agent(name="a", model=said(), hooks=Wraps())))) == "A B"
    assert "response.output_text.delta" not in counted


async def test_a_model_that_the_provider_puts_before_an_agents_sees_each_event():
    class Provides(ModelProvider):
        def get_model(self, model_name: str | None) -> Model:
            assert isinstance(first.model, Model)
            return Louder(first.model)

    model = openai_agents_model("I ", "ask. ", ToolCall("transfer_to_second"), "And ", "so.")
    first = Agent(name="first", model=model, handoffs=[Agent(name="second", model="louder")])
    made = adapted(first, RunConfig(tracing_disabled=True, model_provider=Provides()))
    assert text_of(await ask(made)) == "I ask. AND SO."
    assert made.deltas == MODEL


async def test_where_the_sdk_changes_events_all_of_them_go_through_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openai_agents_tap, "CATCH_UP_S", 0.0)
    told = openai_agents_tap.Hearing.told
    monkeypatch.setattr(openai_agents_tap.Hearing, "told", lambda self, event: told(self, event.model_copy()))
    made = adapted(Agent(name="a", model=openai_agents_model(*TALK), tools=[look]))
    assert text_of(await ask(made)) == "Let me look. It is seen."
    assert made.deltas == Deltas(at_model=False, watched_by="something in the SDK that keeps events back")


# -- the SDK's own ----------------------------------------------------------------------------------------------------


class Flaky(OpenAIAgentsModel):
    """Says its words without saying first that they come, and fails at its first request after so many events."""

    def __init__(self, events: int) -> None:
        super().__init__(["One ", "two ", "three."])
        self.left, self.asked = events, 0

    async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        async for event in super().stream_response(*args, **kwargs):
            if event.type == "response.output_item.added":
                continue
            if self.asked == 1 and not self.left:
                raise ConnectionError("connection error")
            self.left -= 1
            yield event


@pytest.mark.both_ways
@pytest.mark.parametrize(("events", "asked"), [(0, 2), (1, 2), (2, 1), (3, 1)])
async def test_what_was_heard_is_not_asked_for_again(events: int, asked: int, way: str):
    retry = ModelRetrySettings(max_retries=2, policy=retry_policies.network_error(), backoff={"initial_delay": 0.0})
    model = Flaky(events)
    found = await ask(adapted(Agent(name="a", model=model, model_settings=ModelSettings(retry=retry))))
    # Of what fails the SDK drops what nobody has read yet.
    assert text_of(found) in (["One two three."] if asked == 2 else ["", "One ", "One two "])
    assert model.asked == asked
    assert model.running == 0


@pytest.mark.both_ways
@pytest.mark.parametrize("fails", [False, True], ids=["trips", "fails"])
async def test_a_guardrail_that_does_not_let_pass_ends_the_text(fails: bool, way: str):
    gate, may_judge, judged = Gate(), asyncio.Event(), asyncio.Event()

    @input_guardrail
    async def no_homework(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await may_judge.wait()
        judged.set()
        if fails:
            raise OSError("no_homework has nobody to ask")
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    model = openai_agents_model("One ", "two ", gate, *["more "] * 50)
    made = adapted(Agent(name="a", model=model, input_guardrails=[no_homework]))
    async with Runner(made) as runner:
        run = await runner.start("hi")
        texts = run.text()
        assert [await anext(texts), await anext(texts)] == ["One ", "two "]
        may_judge.set()
        await judged.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        gate.open()
        with pytest.raises(AgentFailed, match="OSError" if fails else "no_homework"):
            await run.collect()
        assert text_of(await all_of(run)) == ("One two " if fails else "One two more ")
    assert model.running == 0


async def test_a_guardrail_that_lets_pass_changes_nothing(counted: list[str]):
    @input_guardrail
    async def fine(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    made = adapted(Agent(name="a", model=openai_agents_model(*["word "] * 50), input_guardrails=[fine]))
    assert text_of(await ask(made)) == "word " * 50
    assert counted.count("response.output_text.delta") == 0


@pytest.mark.both_ways
async def test_what_recording_raises_is_not_the_models(way: str):
    retry = ModelRetrySettings(max_retries=2, policy=lambda context: True, backoff={"initial_delay": 0.0})
    model = openai_agents_model(*["word "] * 50)
    agent = adapted(Agent(name="a", model=model, model_settings=ModelSettings(retry=retry)))
    async with Runner(agent, limits=Limits(journal_events_max=8)) as runner:
        run = await runner.start("go")
        with pytest.raises(RunLimit, match="journal_events_max"):
            await run.collect()
    assert model.running == 0
    assert len(model.requests) == 1


class ClosesBadly(OpenAIAgentsModel):
    """Fails once all is said."""

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        return Closing(super().stream_response(*args, **kwargs))


class Closing:
    def __init__(self, events: AsyncIterator[Any]) -> None:
        self.events = events

    def __aiter__(self) -> Closing:
        return self

    async def __anext__(self) -> Any:
        return await anext(self.events)

    async def aclose(self) -> None:
        raise OSError("the connection is not there")


@pytest.mark.both_ways
async def test_a_connection_that_fails_to_end_fails_nothing(way: str):
    events = await ask(adapted(Agent(name="a", model=ClosesBadly(["One ", "two."]))))
    assert (text_of(events), type(events[-1])) == ("One two.", RunFinishedEvent)


@pytest.mark.both_ways
async def test_a_cancel_reaches_the_model(way: str):
    gate = Gate()
    model = openai_agents_model("One ", "two ", gate, "three.")
    async with Runner(adapted(Agent(name="a", model=model))) as runner:
        run = await runner.start("hi")
        texts = run.text()
        assert [await anext(texts), await anext(texts)] == ["One ", "two "]
        await run.cancel()
        await run.wait()
        assert model.running == 0
        assert text_of(await all_of(run)) == "One two "


# -- the user's own ---------------------------------------------------------------------------------------------------


async def test_agents_and_models_of_many_runs_are_the_users_own_all_the_time(counted: list[str]):
    agent = Agent(name="a", model=openai_agents_model(*TALK), tools=[look])
    model = agent.model
    assert isinstance(model, OpenAIAgentsModel)
    async with Runner(adapted(agent)) as runner:
        runs = [await runner.start("hi", session_id=str(number)) for number in range(50)]

        async def read(number: int, run: Run) -> str:
            text = ""
            async for event in run.events():
                assert agent.model is model
                text += text_of([event])
                if number % 3 == 0 and len(text) > number % 9:
                    await run.cancel()
            return text

        texts = await asyncio.gather(*(read(number, run) for number, run in enumerate(runs)))
        alone = await agents.Runner.run(agent, "hi", run_config=UNTRACED)
    assert texts[1::3] + texts[2::3] == ["Let me look. It is seen."] * 33
    assert alone.final_output == "It is seen."
    assert model.running == 0
    assert "response.output_text.delta" not in counted


async def test_what_a_tool_makes_of_its_agent_and_of_the_configuration_is_the_users_own(counted: list[str]):
    delta = "response.output_text.delta"
    model, seen = openai_agents_model(ToolCall("inspect"), "Well. ", ToolCall("think"), "Done", "."), list[Any]()

    @function_tool
    async def inspect(context: ToolContext[Any]) -> str:
        """Inspect."""
        config = context.run_config
        assert config is not None
        seen.extend([agent.model, agent.clone(name="b").model, copy.deepcopy(agent).model, config.model])
        seen.append(config.model_provider.get_model("one"))
        other = agents.Runner.run_streamed(Agent(name="other", model=said()), "hi", run_config=config)
        seen.extend([e.data.delta async for e in other.stream_events() if getattr(e, "data", e).type == delta])
        return "inspected"

    @function_tool
    def think(context: ToolContext[Any]) -> str:
        """Think, in a thread."""
        assert context.run_config is not None
        seen.append(context.run_config.model)
        return "thought"

    agent = Agent(name="a", model=model, tools=[inspect, think])
    one = said()
    made = adapted(agent, RunConfig(tracing_disabled=True, model_provider=Named(one=one)))
    assert text_of(await ask(made)) == "Well. Done."
    assert seen[0] is seen[1] is model
    assert type(seen[2]) is OpenAIAgentsModel
    assert seen[3:] == [None, one, "a ", "b", None]
    assert counted.count(delta) == 2


async def test_code_that_keeps_the_configuration_is_told_of_no_model_but_the_users(counted: list[str]):
    kept, seen = list[RunConfig](), list[Any]()

    @function_tool
    async def keep(context: ToolContext[Any]) -> str:
        """Keep."""
        assert context.run_config is not None
        kept.append(context.run_config)
        return "kept"

    def looks() -> None:
        seen.extend([kept[0].model, kept[0].model_provider])

    async def before_a_request(context: Any, agent: Any) -> str:
        if kept:
            looks()
            await asyncio.to_thread(looks)
        return "Answer."

    def after_it(told: HandoffInputData) -> HandoffInputData:
        looks()
        return told

    model = openai_agents_model(ToolCall("keep"), "Over. ", ToolCall("transfer_to_second"))
    second = Agent(name="second", model=openai_agents_model(ToolCall("x"), "", ToolCall("x"), "Here ", "I ", "am."))
    over = handoff(second, input_filter=after_it)
    first = Agent(name="first", instructions=before_a_request, model=model, tools=[keep], handoffs=[over])
    provider = Named()
    made = adapted(first, RunConfig(tracing_disabled=True, model_provider=provider))
    assert text_of(await ask(made)) == "Over. Here I am."
    assert seen == [None, provider] * 3
    assert "response.output_text.delta" not in counted


class Computed(Agent[Any]):
    """Has its model from elsewhere."""

    @property
    def model(self) -> Any:
        return vars(self)["held"]

    @model.setter
    def model(self, model: Any) -> None:
        if "held" in vars(self):
            raise AttributeError("it stays as it is")
        vars(self)["held"] = model


async def test_a_model_that_cannot_be_changed_is_heard(counted: list[str]):
    assert text_of(await ask(adapted(Computed(name="a", model=openai_agents_model(*TALK), tools=[look])))) == (
        "Let me look. It is seen."
    )
    assert "response.output_text.delta" not in counted


async def test_a_model_is_told_once_that_its_run_is_over():
    class Notes(OpenAIAgentsModel):
        async def _cleanup_on_run_end(self, owner: object) -> None:
            ended.append(owner)

    ended: list[object] = []
    config = RunConfig(tracing_disabled=True, model_provider=Named(one=Notes(TALK)))
    await ask(adapted(Agent(name="a", model="one", tools=[look]), config))
    assert len(ended) == 1


async def test_a_model_that_is_chosen_in_the_run_is_heard(counted: list[str]):
    larger = openai_agents_model(ToolCall("never"), "I ", "am ", "large.")

    @function_tool
    async def change() -> str:
        """Change."""
        agent.model = larger
        return "changed"

    agent = Agent(name="a", model=openai_agents_model(ToolCall("change"), "never"), tools=[change])
    assert text_of(await ask(adapted(agent))) == "I am large."
    assert agent.model is larger
    assert "response.output_text.delta" not in counted


async def test_what_follows_an_answer_is_heard(counted: list[str]):
    @function_tool(needs_approval=True)
    async def delete() -> str:
        """Delete."""
        return "deleted"

    agent = Agent(
        name="a", model=openai_agents_model("Shall ", "I? ", ToolCall("delete"), "It ", "is."), tools=[delete]
    )
    assert text_of(await ask(adapted(agent))) == "Shall I? It is."
    assert "response.output_text.delta" not in counted
