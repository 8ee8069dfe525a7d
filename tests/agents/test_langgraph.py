"""LangGraph graphs and LangChain agents as runs: what they stream, ask and keep, and that they go on."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import operator
import runpy
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import ormsgpack
import pydantic
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage, RemoveMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.types import Send, interrupt

from gapless import ResumeEntry, RunConfig, Runner, StreamingMode
from gapless.agents import adapt
from gapless.agents.langgraph import LangGraphAgent
from gapless.agents.langgraph_middleware import GaplessMiddleware
from gapless.agents.langgraph_saver import RunSaver
from gapless.errors import AgentFailed, AgentInvalid, GaplessError, ModelFailed, RunLimit, SessionBusy, ToolFailed
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    StateSnapshotEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    Tool,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UserMessage,
    decode_event,
)
from gapless.fold import FILE, VOID
from gapless.testing import Fail, Gate, NextTurn, Reasoning, ToolCall, langgraph_model
from gapless.testing.langgraph import LangGraphModel
from gapless.testing.place import Place
from tests.support.agui import check_order
from tests.support.waiting import at_rest


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    yield found
    await found.close()


def of(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text_of(events: list[Event], author: str | None = None) -> str:
    return "".join(e.delta for e in of(events, TextMessageContentEvent) if e.subagent_run_id == author)


def questions(events: list[Event]) -> list[Interrupt]:
    outcomes = [event.outcome for event in of(events, RunFinishedEvent)]
    return [one for out in outcomes if isinstance(out, RunFinishedInterruptOutcome) for one in out.interrupts]


async def one_run(agent: Any, message: str = "hello", *answers: Any, **options: Any) -> list[Event]:
    """A run's events, its questions answered in turn."""
    async with Runner(agent) as runner:
        return await asked(runner, message, *answers, **options)


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


def graph_of(node: Callable[..., Any], state: type = MessagesState, **options: Any) -> Any:
    builder: Any = StateGraph(state)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(**options)


@tool
async def look(at: str) -> str:
    """Look."""
    return f"seen {at}"


# -- what is streamed -------------------------------------------------------------------------------------------------


async def test_a_graph_is_found_by_what_it_is_and_an_uncompiled_one_says_what_to_do():
    assert isinstance(adapt(create_agent(langgraph_model("hi"), name="helper")), LangGraphAgent)
    assert adapt(create_agent(langgraph_model("hi"), name="helper")).name == "helper"
    assert adapt(graph_of(lambda state: {}), "support").name in ("agent", "support")
    with pytest.raises(AgentInvalid, match="compile"):
        adapt(StateGraph(MessagesState))


async def test_a_sub_graph_is_a_sub_agent_by_its_name_and_its_words_are_its_own():
    helper = create_agent(langgraph_model("inner ", ToolCall("look", {"at": "x"}), "words"), [look], name="helper")

    @tool
    async def delegate(task: str) -> str:
        """Delegate."""
        found = await helper.ainvoke({"messages": [HumanMessage(task)]})
        return str(found["messages"][-1].text)

    root = create_agent(langgraph_model("outer ", ToolCall("delegate", {"task": "t"}), "end"), [delegate], name="root")
    events = await one_run(root)
    (started,) = of(events, SubagentStartedEvent)
    assert started.name == "helper"
    delegating = next(e for e in of(events, ToolCallStartEvent) if e.tool_call_name == "delegate")
    assert started.parent_tool_call_id == delegating.tool_call_id
    assert text_of(events) == "outer end"
    assert text_of(events, started.subagent_run_id) == "inner words"
    looked = next(e for e in of(events, ToolCallStartEvent) if e.tool_call_name == "look")
    assert looked.subagent_run_id == started.subagent_run_id
    (finished,) = of(events, SubagentFinishedEvent)
    assert finished.subagent_run_id == started.subagent_run_id
    assert events.index(finished) < events.index(of(events, ToolCallResultEvent)[-1]) + 2


async def test_nodes_that_work_at_once_keep_their_messages_apart():
    models = {name: langgraph_model(f"{name}1 ", f"{name}2 ", f"{name}3") for name in "ab"}

    async def speak(given: dict[str, str]) -> dict[str, Any]:
        return {"messages": [await models[given["name"]].ainvoke([HumanMessage("go")])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("speak", speak)
    builder.add_conditional_edges(START, lambda state: [Send("speak", {"name": name}) for name in "ab"], ["speak"])
    events = await one_run(builder.compile())
    texts: dict[str, str] = {}
    for event in of(events, TextMessageContentEvent):
        texts[event.message_id] = texts.get(event.message_id, "") + event.delta
    assert sorted(texts.values()) == ["a1 a2 a3", "b1 b2 b3"]


async def test_what_a_node_writes_and_returns_is_told_once():
    model = langgraph_model("streamed")

    async def node(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"progress": 1})
        get_stream_writer()(CustomEvent(name="mine", value=2))
        answer = await model.ainvoke(state["messages"])
        return {"messages": [AIMessage(answer.text), AIMessage("of my own")]}  # the first is what was streamed

    events = await one_run(graph_of(node))
    assert text_of(events) == "streamedof my own"
    customs = {event.name: event.value for event in of(events, CustomEvent)}
    assert customs["langgraph.custom"] == {"progress": 1}
    assert customs["mine"] == 2


async def test_without_streaming_the_same_comes_in_one_piece_and_is_counted_once():
    for mode in (StreamingMode.SSE, StreamingMode.NONE):
        agent = create_agent(langgraph_model(Reasoning("hm"), "a ", "b ", ToolCall("look", {"at": "x"}), "c"), [look])
        events = await one_run(agent, config=RunConfig(streaming_mode=mode))
        assert text_of(events) == "a b c"
        assert len(of(events, TextMessageContentEvent)) == (3 if mode is StreamingMode.SSE else 2)
        (usage,) = of(events, RunFinishedEvent)[-1].usage
        assert (usage.input_tokens, usage.output_tokens, usage.model) == (4, 2, "scripted")


class Sums(TypedDict):
    text: str
    length: int


async def test_a_graph_without_messages_is_given_the_message_and_its_state_is_the_result():
    async def node(state: Sums) -> dict[str, Any]:
        return {"length": len(state["text"])}

    graph = graph_of(node, Sums)
    assert (await one_run(graph, '{"text": "four"}'))[-1].result == {"text": "four", "length": 4}
    with pytest.raises(AgentInvalid, match=r"takes length, text; send these as a JSON object"):
        await one_run(graph, "four")
    made = LangGraphAgent(graph, input=lambda ctx: {"text": ctx.message})
    assert (await one_run(made, "four"))[-1].result == {"text": "four", "length": 4}

    @entrypoint()
    async def functional(message: str) -> str:
        return message.upper()

    assert (await one_run(functional, "four"))[-1].result == "FOUR"


@pytest.mark.parametrize("typed", [True, False])
async def test_the_state_that_a_run_ends_with_is_read_once(typed: bool, monkeypatch: pytest.MonkeyPatch):
    state: Any = Sums
    if not typed:

        class Own(pydantic.BaseModel):
            text: str
            length: int = 0

        state = Own

    async def node(state: Any) -> dict[str, Any]:
        return {"length": 4}

    reads, read = list[Any](), RunSaver.get_tuple

    def counted(*given: Any) -> Any:
        reads.append(given)
        return read(*given)

    monkeypatch.setattr(RunSaver, "get_tuple", counted)
    events = await one_run(graph_of(node, state), '{"text": "four"}')
    assert events[-1].result == {"text": "four", "length": 4}
    assert len(reads) == (1 if typed else 2), "a class of the user's own is told by its channels"


async def test_state_that_is_shared_is_given_and_told():
    class Shared(MessagesState):
        count: int

    async def node(state: Shared) -> dict[str, Any]:
        return {"count": state["count"] + 1}

    events = await one_run(LangGraphAgent(graph_of(node, Shared), state=["count"]), state={"count": 4, "other": 1})
    assert of(events, StateSnapshotEvent)[-1].snapshot == {"count": 5, "other": 1}


async def test_deps_are_the_graphs_context():
    class User(pydantic.BaseModel):
        name: str

    async def node(state: MessagesState, runtime: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Hello {runtime.context.name}")]}

    builder = StateGraph(MessagesState, context_schema=User)
    from langgraph.runtime import Runtime

    node.__annotations__["runtime"] = Runtime[User]
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    assert text_of(await one_run(builder.compile(), deps=User(name="Ann"))) == "Hello Ann"
    made = LangGraphAgent(builder.compile(), deps=lambda run: User(name=run.user_id))
    assert text_of(await one_run(made, user_id="Bob")) == "Hello Bob"


# -- failures ---------------------------------------------------------------------------------------------------------


class ServiceDown(Exception):
    """As the client libraries of model services raise."""

    status_code = 429


ServiceDown.__module__ = "openai"
ServiceDown.__name__ = "APIStatusError"


@pytest.mark.parametrize(
    ("script", "options", "wanted", "says"),
    [
        ([ToolCall("broken", {})], {}, ToolFailed, "tool broken raised ValueError"),
        ([Fail(ServiceDown("of a person"))], {}, ModelFailed, "answered 429: it is busy"),
        ([Fail(KeyError("of a person"))], {}, GaplessError, "KeyError"),
        (
            [ToolCall("look", {"at": "x"}), ToolCall("look", {"at": "y"}), "a", ToolCall("look", {"at": "y"}), "c"],
            {"max_llm_calls": 2},
            RunLimit,
            "max_llm_calls=2",
        ),
    ],
)
async def test_what_fails_is_told_by_its_kind(script: list[Any], options: Any, wanted: Any, says: str):
    @tool
    async def broken() -> str:
        """Break."""
        raise ValueError("of a person")

    with pytest.raises(wanted, match=says) as failure:
        await one_run(create_agent(langgraph_model(*script), [look, broken]), config=RunConfig(**options))
    assert "of a person" not in str(failure.value)


async def test_a_graph_that_goes_round_ends_by_its_own_limit():
    builder = StateGraph(MessagesState)
    builder.add_node("round", lambda state: {})
    builder.add_edge(START, "round")
    builder.add_edge("round", "round")
    with pytest.raises(RunLimit, match="recursion_limit"):
        await one_run(builder.compile().with_config(recursion_limit=5))


async def test_settings_and_tools_that_nothing_takes_are_told():
    events = await one_run(create_agent(langgraph_model("hi")), config=RunConfig(model_settings={"temperature": 0}))
    (notice,) = [event for event in of(events, CustomEvent) if event.name == "gapless.notice"]
    assert notice.value["code"] == "setting_ignored"
    assert "temperature" in notice.value["message"]


# -- questions --------------------------------------------------------------------------------------------------------


async def test_an_interrupt_asks_with_its_schema_and_again_where_the_answer_does_not_fit():
    class Age(pydantic.BaseModel):
        years: int

    async def node(state: MessagesState) -> dict[str, Any]:
        age = interrupt({"question": "How old?"}, response_schema=Age)
        name = interrupt("Who?")
        return {"messages": [AIMessage(f"{name} is {age.years}")]}

    events = await one_run(graph_of(node), "hello", {"years": "many"}, {"years": 7}, "Ann")
    first, again, second = questions(events)
    assert first.message == "How old?"
    assert (first.response_schema or {})["properties"]["years"]["type"] == "integer"
    assert again.message == "How old? (The answer was not understood.)"
    assert second.message == "Who?"
    assert text_of(events) == "Ann is 7"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"q": "a?"}, '{"q":"a?"}'),
        ({"question": {"text": "a?"}}, '{"question":{"text":"a?"}}'),
        (["é", 1], '["é",1]'),
        (7, "7"),
        (None, None),
        ({"q": "a" * 1000}, '{"q":"' + "a" * 493 + "…"),
    ],
)
async def test_a_question_without_a_text_is_its_value(value: Any, message: str | None):
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(str(interrupt(value)))]}

    (asked,) = questions(await one_run(graph_of(node), "hello", "yes"))
    assert (asked.message, asked.metadata) == (message, {"kind": "question", "value": value})


async def test_a_breakpoint_asks_to_go_on():
    events = await one_run(
        graph_of(lambda state: {"messages": [AIMessage("done")]}, interrupt_before=["node"]), "go", 1
    )
    (question,) = questions(events)
    assert question.message == "Go on with node?"
    assert text_of(events) == "done"


async def test_calls_that_want_a_yes_may_be_edited_or_refused():
    agent = create_agent(
        langgraph_model(ToolCall("look", {"at": "a"}), ToolCall("look", {"at": "b"}), "done"),
        [look],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"look": True})],
    )
    edited = {"approved": True, "editedArgs": {"at": "elsewhere"}}
    events = await one_run(agent, "go", edited, {"approved": False, "reason": "not that"})
    first, second = questions(events)
    assert [(one.metadata or {})["arguments"] for one in (first, second)] == [{"at": "a"}, {"at": "b"}]
    results = {event.tool_call_id: event for event in of(events, ToolCallResultEvent)}
    assert results[first.tool_call_id].content.endswith("seen elsewhere")
    assert "not that" in results[second.tool_call_id].error


async def test_nobody_is_asked_for_a_call_that_a_clients_call_beside_it_leaves_unmade():
    @tool
    async def book(room: str) -> str:
        """Book."""
        raise AssertionError("it is not made")

    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "langgraph_agent.py"))
    model = langgraph_model("Both. ", ToolCall("book", {"room": "7"}), ToolCall("colour", {}))
    agent = create_agent(model, [book], middleware=example["middleware"])
    events = await one_run(agent, tools=[Tool(name="colour", description="")])
    assert questions(events) == []
    ended = events[-1]
    assert isinstance(ended, RunFinishedEvent)
    assert isinstance(ended.outcome, RunFinishedSuccessOutcome)
    assert len(ended.outcome.pending_tool_call_ids or ()) == 1


async def test_a_tool_of_the_client_and_one_of_the_agent_may_not_share_a_name():
    model = langgraph_model(ToolCall("look", {"at": "x"}), "seen")
    async with Runner(create_agent(model, [look], middleware=[GaplessMiddleware()])) as runner:
        with pytest.raises(AgentInvalid, match="a tool look, and so has the client"):
            await asked(runner, "go", tools=[Tool(name="look", description="")])
    assert model.requests == [], "else the client would be asked in the tool's place"


# -- turns ------------------------------------------------------------------------------------------------------------


def told(model: LangGraphModel, request: int = -1) -> list[str]:
    return [str(message.text) for message in model.requests[request] if message.text]


@pytest.mark.parametrize("own", [True, False], ids=["session", "checkpointer"])
async def test_turns_are_known_once_and_one_that_is_asked_again_is_forgotten(own: bool):
    model = langgraph_model(
        "one", ToolCall("look", {"at": "x"}), "1", NextTurn(), "two", NextTurn(), "three", NextTurn(), "four"
    )
    agent = create_agent(model, [look], checkpointer=None if own else InMemorySaver())
    async with Runner(agent) as runner:
        for number in range(1, 4):
            await asked(runner, UserMessage(id=f"u{number}", content=f"question {number}"), session_id="s")
        assert told(model) == ["question 1", "one", "seen x", "1", "question 2", "two", "question 3"]
        await asked(runner, UserMessage(id="u2", content="edited"), session_id="s")
        assert told(model) == ["question 1", "one", "seen x", "1", "edited"]
        await asked(runner, UserMessage(id="u4", content="after"), session_id="s")
        assert told(model) == ["question 1", "one", "seen x", "1", "edited", "two", "after"]
        await asked(runner, UserMessage(id="u1", content="anew"), session_id="s")
        assert told(model, -2) == ["anew"]


@pytest.mark.parametrize("own", [True, False], ids=["session", "checkpointer"])
async def test_a_turn_that_was_cut_short_leaves_the_conversation_whole(own: bool):
    gate = Gate()
    model = langgraph_model("said ", ToolCall("wait", {}), "never", NextTurn(), "well")

    @tool
    async def wait() -> str:
        """Wait."""
        await gate.pass_through()
        return "waited"

    async with Runner(create_agent(model, [wait], checkpointer=None if own else InMemorySaver())) as runner:
        run = await runner.start("first", session_id="s")
        await gate.reached()
        await run.cancel()
        await run.wait()
        await asked(runner, "second", session_id="s")
    messages = model.requests[-1]
    calls = {call["id"] for one in messages if isinstance(one, AIMessage) for call in one.tool_calls}
    assert calls == {one.tool_call_id for one in messages if hasattr(one, "tool_call_id")}
    assert any("said" in text for text in told(model))
    assert told(model)[-1] == "second"


class Colour(enum.Enum):
    RED = "red"


class Plan(pydantic.BaseModel):
    colour: Colour
    steps: list[Step]


@dataclasses.dataclass
class Step:
    what: str
    at: Point


class Point(NamedTuple):
    x: int
    y: int


def test_what_a_store_has_is_read_as_data_and_called_never():
    serde = RunSaver("t").serde
    plan = Plan(colour=Colour.RED, steps=[Step("paint", Point(1, 2))])
    for value in (plan, {"messages": [HumanMessage("hi")], "plans": [plan, Colour.RED]}):
        assert serde.loads_typed(serde.dumps_typed(value)) == value
    calls = [
        ("builtins", "eval", "1 + 1"),
        ("os", "getenv", "HOME"),
        ("subprocess", "Popen", "true"),
        ("no.such", "x", "y"),
    ]
    for at, call in enumerate(calls):
        harmful = ormsgpack.Ext(0, ormsgpack.packb(call))
        inside = ormsgpack.packb({"plan": [harmful], "named": ormsgpack.Ext(2, ormsgpack.packb((*call[:2], {"a": 1})))})
        assert serde.loads_typed(("msgpack", inside)) == {"plan": [call[2]], "named": {"a": 1}}, at
    assert "this" not in sys.modules


@pytest.mark.parametrize("own", [True, False], ids=["session", "checkpointer"])
async def test_whoever_takes_the_id_of_a_deleted_session_is_told_nothing_of_it(own: bool):
    model = langgraph_model("one", NextTurn(), "two")
    async with Runner(create_agent(model, checkpointer=None if own else InMemorySaver())) as runner:
        await asked(runner, "Ada's secret", session_id="s", user_id="ada")
        await runner.delete_session("s")
        await asked(runner, "what was said?", session_id="s", user_id="bob")
    assert told(model) == ["what was said?"]


async def test_a_session_whose_thread_cannot_be_dropped_stays():
    saver, gate = InMemorySaver(), Gate()

    @tool
    async def wait() -> str:
        """Wait."""
        await gate.pass_through()
        return "waited"

    model = langgraph_model("one", NextTurn(), ToolCall("wait", {}), "two")
    async with Runner(create_agent(model, [wait], checkpointer=saver)) as runner:
        await asked(runner, "first", session_id="s")

        async def fails(thread_id: str) -> None:
            raise OSError("a secret")

        saver.adelete_thread = fails  # type: ignore[method-assign]  # a database that is away
        with pytest.raises(AgentFailed, match="cannot be dropped") as failure:
            await runner.delete_session("s")
        assert "secret" not in str(failure.value)
        assert len(await runner.messages("s")) == 2
        run = await runner.start("second", session_id="s")
        await gate.reached()
        with pytest.raises(SessionBusy):  # and nothing was asked to be dropped
            await runner.delete_session("s")
        gate.open()
        await run.collect()


async def test_the_rest_of_a_graphs_state_goes_on_with_the_session():
    class Counting(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]
        log: Annotated[list[str], operator.add]

    async def node(state: Counting) -> dict[str, Any]:
        return {"log": [f"turn {len(state['log'])}"], "messages": [AIMessage(str(state["log"]))]}

    async with Runner(graph_of(node, Counting)) as runner:
        for _ in range(2):
            await asked(runner, "go", session_id="s")
        assert text_of(await asked(runner, "go", session_id="s")) == "['turn 0', 'turn 1']"


@pytest.mark.parametrize("own", [True, False], ids=["session", "checkpointer"])
async def test_a_history_that_the_graph_trims_costs_the_new_turn_nothing(own: bool):
    class Trims(AgentMiddleware[Any, Any, Any]):
        def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
            last = state["messages"][-1]
            if not isinstance(last, HumanMessage):
                return None
            return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *state["messages"][-2:]]}

    model = langgraph_model(ToolCall("look", {"at": "x"}), "found")
    agent = create_agent(model, [look], middleware=[Trims()], checkpointer=None if own else InMemorySaver())
    async with Runner(agent) as runner:
        for number in (1, 2, 3):
            events = await asked(runner, f"question {number}", session_id="s")
            assert text_of(events) == "found"
            assert [len(event.usage or ()) for event in of(events, RunFinishedEvent)] == [1], "two calls of one model"
        assert told(model, 2) == ["found", "question 2"]
        assert told(model, 3) == ["found", "question 2", "seen x"]
        assert told(model, 4) == ["found", "question 3"]


async def test_a_turn_is_kept_without_the_turns_before_it():
    async with Runner(create_agent(langgraph_model("an answer"))) as runner:
        for number in range(4):
            await asked(runner, "question " * 50, session_id="s", run_id=f"r{number}")
        sizes = [len(turn.native or b"") for turn in await runner.store.turns("s")]
    assert len(sizes) == 4
    assert max(sizes) < 1.3 * min(sizes)


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


class Stopping(LangGraphModel):
    """A model that passes `stops` at each chunk."""

    stops: Any = None
    label: str = "answer"

    async def _astream(self, messages: Any, *args: Any, **options: Any) -> Any:
        async for chunk in super()._astream(messages, *args, **options):
            await self.stops.here()
            yield chunk
        await self.stops.here(f"{self.label} {sum(isinstance(one, AIMessage) for one in messages)}")


SCRIPT = ("Both: ", ToolCall("first", {}), ToolCall("second", {}), "then ", ToolCall("ask", {}), "Done.")


def agent_with(stops: Stops) -> Any:
    make: Any = Stopping  # whose parameters a type checker makes of its fields
    model = make(SCRIPT)
    model.stops = stops
    inner = make(("inner ", "answer"))
    inner.stops, inner.label = stops, "inner"
    helper = create_agent(inner, name="helper")

    @tool
    async def first() -> str:
        """First."""
        await stops.here("first")
        return "1st"

    @tool
    async def second() -> str:
        """Second."""
        found = await helper.ainvoke({"messages": [HumanMessage("help")]})
        return str(found["messages"][-1].text)

    @tool
    async def ask() -> str:
        """Ask."""
        answer = interrupt("Sure?")
        await stops.here(f"asked {answer}")
        return f"{answer}!"

    return create_agent(model, [first, second, ask], name="root")


async def gone_on(stop_at: int | None) -> tuple[Stops, list[Event]]:
    stops, place = Stops(stop_at), Place()
    worker = await place.worker(agent_with(stops))
    run = await worker.start("hello", session_id="s", run_id="r", agent="agent")

    async def answer() -> None:
        async for event in (await worker.attach("r")).events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                entry = ResumeEntry(interrupt_id=event.outcome.interrupts[0].id, status="resolved", payload="yes")
                await run.answer([entry])

    answering = asyncio.create_task(answer())
    if stop_at is not None:
        stopped, ended = asyncio.ensure_future(stops.stopped.wait()), asyncio.ensure_future(run.wait())
        await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel(), ended.cancel()
        if stops.stopped.is_set():
            await at_rest()  # what runs beside it ends
            lost, worker = worker, await place.worker(agent_with(stops))
            await place.lose(lost, worker)
            run = await worker.attach("r")
    await run.wait()
    events = [event async for event in run.events()]
    answering.cancel()
    check_order(events)
    response = await run.collect()
    assert "".join(response.chunks).replace("inner answer", "") == "Both: then Done."
    await place.close()
    return stops, events


async def test_a_run_goes_on_after_a_loss_at_any_place():
    places = (await gone_on(None))[0].begun
    assert places > 15
    for stop_at in range(2, places, 6):  # each was tried once; these are in a model, in a tool, in a sub-agent
        stops, events = await gone_on(stop_at)
        assert set(stops.done.values()) == {1}, (stop_at, stops.done)
        assert set(stops.done) == {"inner 0", "answer 0", "answer 1", "answer 2", "first", "asked yes"}, stop_at
        void = {id for e in of(events, CustomEvent) if e.name == VOID for id in e.value["messageIds"]}
        results = [e.tool_call_id for e in of(events, ToolCallResultEvent) if e.message_id not in void]
        assert len(results) == len(set(results)) == 3, stop_at


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
            entry = ResumeEntry(interrupt_id=event.outcome.interrupts[0].id, status="resolved", payload="yes")
            await run.answer([entry])
    assert isinstance(events[-1], RunFinishedEvent)
    assert stops.done["first"] == stops.done["asked yes"] == 1
    assert not [event for event in of(events, CustomEvent) if event.name == VOID]


async def test_a_clear_yes_is_kept_while_another_call_is_asked_for_again(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.runs.execution.PARK_AFTER_S", 0.0)
    model = langgraph_model(ToolCall("look", {"at": "a"}), ToolCall("look", {"at": "b"}), "done")
    agent = create_agent(model, [look], middleware=[HumanInTheLoopMiddleware(interrupt_on={"look": True})])
    worker = await place.worker(agent)
    await worker.start("hello", run_id="r", agent="agent")
    for number, payload in ((0, "yes"), (1, {"approved": True}), (0, {"approved": True})):
        await place.is_parked()
        events = [decode_event(event) for event in place.memory.events["r"]]
        first = questions(events)[:2]
        await worker.answer(
            "r", [ResumeEntry(interrupt_id=first[number].id, status="resolved", payload=payload)], some=True
        )
    events = [event async for event in (await worker.attach("r")).events()]
    assert text_of(events) == "done"
    assert len(of(events, ToolCallResultEvent)) == 2


async def test_a_state_that_cannot_be_written_costs_no_run():
    class Odd(MessagesState):
        held: Any

    async def node(state: Odd) -> dict[str, Any]:
        return {"held": lambda: None, "messages": [AIMessage("fine")]}

    builder = StateGraph(Odd)
    builder.add_node("node", node)
    builder.add_node("after", lambda state: {"messages": [AIMessage(str(callable(state["held"])))]})
    builder.add_edge(START, "node")
    builder.add_edge("node", "after")
    builder.add_edge("after", END)
    async with Runner(builder.compile()) as runner:
        for _ in range(2):
            assert text_of(await asked(runner, "go", session_id="s")) == "fineTrue"


PICTURES: list[tuple[Any, dict[str, Any]]] = [
    ({"type": "image", "base64": "iVBORw==", "mime_type": "image/png"}, {"mimeType": "image/png", "data": "iVBORw=="}),
    (
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,iVBORw=="}},
        {"mimeType": "image/webp", "data": "iVBORw=="},
    ),
    ({"type": "image_generation_call", "result": "iVBORw=="}, {"mimeType": "image/png", "data": "iVBORw=="}),
    (
        {"type": "file", "url": "https://example.org/a.pdf", "mime_type": "application/pdf"},
        {"mimeType": "application/pdf", "url": "https://example.org/a.pdf"},
    ),
]


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
@pytest.mark.parametrize(("block", "file"), PICTURES)
async def test_a_models_pictures_are_files_of_the_answer(block: Any, file: Any, mode: StreamingMode):
    class Draws(LangGraphModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=[{"type": "text", "text": "Here:", "index": 0}]))
            yield ChatGenerationChunk(message=AIMessageChunk(content=[{**block, "index": 1}]))

    model = Draws([])  # type: ignore[call-arg]  # pydantic's own, to a type checker
    async with Runner(create_agent(model, [])) as runner:
        run = await runner.start("draw", config=RunConfig(streaming_mode=mode))
        events = [event async for event in run.events()]
    assert text_of(events) == "Here:"
    assert [event.value for event in of(events, CustomEvent) if event.name == FILE] == [file]
