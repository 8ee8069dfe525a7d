"""The doubles that `gapless.testing` gives to users: one script, three ways to run it; gates; a network that breaks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google.adk.agents import LlmAgent
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolReturn

from gapless import RunConfig, Runner, StreamingMode, create_app
from gapless.client import ClientLimits, GaplessClient
from gapless.errors import AgentFailed, ToolFailed, UsageError
from gapless.events import (
    AssistantMessage,
    ReasoningMessage,
    StateSnapshotEvent,
    ToolMessage,
    UserMessage,
    text_of,
)
from gapless.testing import (
    Chunk,
    CutKind,
    Cutter,
    Delay,
    Fail,
    Gate,
    NextTurn,
    Output,
    Reasoning,
    ScriptedAgent,
    Text,
    ToolCall,
    adk_model,
    pydantic_ai_model,
    serving,
    words,
)
from tests.support.frameworks import FRAMEWORKS
from tests.support.waiting import HANG_S


class City(BaseModel):
    name: str
    sights: list[str]


def weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


def plain(*chunks: Chunk) -> object:
    return ScriptedAgent(*chunks)


def pydantic_ai(*chunks: Chunk) -> object:
    return Agent(pydantic_ai_model(*chunks), tools=[weather])


def adk(*chunks: Chunk) -> object:
    return LlmAgent(name="scripted", model=adk_model(*chunks), tools=[weather])


every_kind = pytest.mark.parametrize("kind", [plain, pydantic_ai, adk])
Kind = Callable[..., object]

LOOKS_IT_UP: tuple[Chunk, ...] = (
    Reasoning("Where "),
    Reasoning("is it?"),
    "Let me ",
    Text("look. "),
    ToolCall("weather", {"city": "Paris"}, result="sunny in Paris"),
    ToolCall("weather", {"city": "Rome"}, result="sunny in Rome"),
    *words("It is sunny."),
)


@every_kind
@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_one_script_says_the_same_as_any_kind_of_agent(kind: Kind, mode: StreamingMode):
    async with Runner(kind(*LOOKS_IT_UP)) as runner:
        run = await runner.start("What is the weather?", config=RunConfig(streaming_mode=mode))
        response = await run.collect()
    assert response.text == "Let me look. \n\nIt is sunny."
    reasoning = [one.content for one in response.messages if isinstance(one, ReasoningMessage)]
    assert reasoning == ["Where is it?"]
    calls = [
        (call.function.name, call.function.arguments.replace(" ", ""))
        for one in response.messages
        if isinstance(one, AssistantMessage)
        for call in one.tool_calls or []
    ]
    assert calls == [("weather", '{"city":"Paris"}'), ("weather", '{"city":"Rome"}')]
    results = sorted(text_of(one.content) for one in response.messages if isinstance(one, ToolMessage))
    assert [("Paris" in one, "Rome" in one) for one in results] == [(True, False), (False, True)]


@every_kind
async def test_each_text_is_one_delta(kind: Kind):
    async with Runner(kind(*words("Streams word by word."))) as runner:
        response = await (await runner.start("go")).collect()
    assert response.chunks == ["Streams ", "word ", "by ", "word."]


@every_kind
async def test_without_streaming_the_text_comes_in_one_piece(kind: Kind):
    async with Runner(kind(*words("All at once."))) as runner:
        run = await runner.start("go", config=RunConfig(streaming_mode=StreamingMode.NONE))
        assert (await run.collect()).chunks == ["All at once."]


@every_kind
async def test_turns_answer_a_sessions_messages_one_after_the_other(kind: Kind):
    async with Runner(kind("Hello Ada.", NextTurn(), "You are Ada.")) as runner:
        said = [await (await runner.start(one, session_id="s")).collect() for one in ("I am Ada", "Who?", "Again?")]
        other = await (await runner.start("I am Ada", session_id="t")).collect()
    assert [one.text for one in said] == ["Hello Ada.", "You are Ada.", "You are Ada."]
    assert other.text == "Hello Ada."


@every_kind
async def test_a_gate_holds_the_agent_until_the_test_lets_it_on(kind: Kind):
    gate = Gate()
    async with Runner(kind("one ", gate, "two ", gate, "three")) as runner:
        run = await runner.start("count")
        pieces = run.text()
        assert await anext(pieces) == "one "
        await gate.reached()
        gate.let()
        assert await anext(pieces) == "two "
        await gate.reached(2)
        assert not (await run.record()).status.ended
        gate.open()
        assert [piece async for piece in pieces] == ["three"]


@every_kind
async def test_a_failure_comes_where_it_stands_and_leaves_what_was_said(kind: Kind):
    async with Runner(kind("before ", Fail(ToolFailed("lookup: no database")), "after")) as runner:
        for _ in range(2):
            with pytest.raises(ToolFailed, match="no database") as caught:
                await (await runner.start("go")).collect()
            assert caught.value.text == "before "


async def test_any_exception_may_be_raised():
    async with Runner(ScriptedAgent(Fail(ZeroDivisionError()))) as runner:
        with pytest.raises(AgentFailed, match="ZeroDivisionError"):
            await (await runner.start("go")).collect()


CITY = {"name": "Paris", "sights": ["Louvre", "Tour Eiffel", "Notre-Dame"]}


@pytest.mark.parametrize(
    "agent",
    [
        ScriptedAgent(Output(CITY)),
        Agent(pydantic_ai_model(Output(CITY)), output_type=City),
        LlmAgent(name="typed", model=adk_model(Output(CITY)), output_schema=City),
        LlmAgent(name="typed", model=adk_model(Output(CITY)), output_schema=City, tools=[weather]),
    ],
    ids=["plain", "pydantic_ai", "adk", "adk with tools"],
)
async def test_an_output_grows_and_is_typed(agent: object, request: pytest.FixtureRequest):
    async with Runner(agent) as runner, runner.run_stream("Where to?", output_type=City) as stream:
        grown = [city async for city in stream.stream_output()]
        output = await stream.get_output()
    assert output == City(**CITY)
    assert grown[-1] == output
    if "adk with tools" not in request.node.name:  # whose framework shows no arguments before they are complete
        assert len(grown) > 1


@pytest.mark.parametrize(("kind", "model_of"), [(pydantic_ai, lambda a: a.model), (adk, lambda a: a.model)])
async def test_a_model_knows_what_it_was_asked_and_whether_it_is_answering(kind: Kind, model_of: Any):
    gate = Gate()
    agent = kind("one ", gate, "two")
    model = model_of(agent)
    async with Runner(agent) as runner:
        run = await runner.start("first")
        await gate.reached()
        assert model.running == 1
        await run.cancel()
        await run.wait()
        assert model.running == 0
        gate.open()
        await (await runner.start("second")).wait()
    assert ["first" in str(model.requests[0]), "second" in str(model.requests[1])] == [True, True]


async def test_a_plain_agent_counts_its_runs():
    gate = Gate()
    agent = ScriptedAgent(gate)
    async with Runner(agent) as runner:
        run = await runner.start("go")
        await gate.reached()
        assert (agent.runs, agent.running) == (1, 1)
        await run.cancel()
        await run.wait()
        assert (agent.runs, agent.running) == (1, 0)


async def test_events_may_stand_among_a_plain_agents_chunks():
    async with Runner(ScriptedAgent("a", StateSnapshotEvent(snapshot={"n": 1}), "b")) as runner:
        events = [event async for event in runner.run_async("go")]
    assert StateSnapshotEvent(snapshot={"n": 1}) in events


async def test_what_is_no_chunk_is_refused():
    async with Runner(ScriptedAgent(3)) as runner:  # type: ignore[arg-type]  # that is the point
        with pytest.raises(UsageError, match="a int is no chunk"):
            await (await runner.start("go")).collect()


async def test_a_model_that_is_asked_more_than_its_script_says_so():
    agent = Agent(pydantic_ai_model(Output({"name": "Atlantis"})), output_type=City)
    async with Runner(agent) as runner:
        with pytest.raises(UsageError, match="the script has 1 model responses"):
            await (await runner.start("go")).collect()


@pytest.mark.parametrize("output_type", [City, NativeOutput(City)])
async def test_what_stands_after_an_output_answers_an_agent_that_did_not_take_it(output_type: Any):
    agent = Agent(pydantic_ai_model(Output({"name": "Atlantis"}), Output(CITY)), output_type=output_type)
    async with Runner(agent) as runner, runner.run_stream("Where to?", output_type=City) as stream:
        assert await stream.get_output() == City(**CITY)


async def test_what_a_tool_says_to_the_model_is_no_message_of_the_users():
    agent = Agent(pydantic_ai_model(ToolCall("look"), "A lamp.", NextTurn(), "Still a lamp."))

    @agent.tool_plain
    def look() -> ToolReturn:
        return ToolReturn(return_value="seen", content=["this is", "what there is"])

    async with Runner(agent) as runner:
        said = [(await (await runner.start("Look!", session_id="s")).collect()).text for _ in range(2)]
    assert said == ["A lamp.", "Still a lamp."]


async def test_a_delay_passes_time():
    async with Runner(ScriptedAgent("a", Delay(0.02), "b")) as runner:
        began = time.monotonic()
        await (await runner.start("go")).wait()
        assert time.monotonic() - began >= 0.02


async def test_a_gate_may_be_opened_from_another_thread():
    gate = Gate()
    async with Runner(ScriptedAgent(gate, "through")) as runner:
        run = await runner.start("go")
        await gate.reached()
        threading.Thread(target=gate.let).start()
        assert (await run.collect()).text == "through"


def test_a_gate_works_between_event_loops():
    gate = Gate()
    with (
        serving(create_app(Runner(ScriptedAgent("a", gate, "b")))) as url,
        httpx2.stream("POST", url + "/chat/stream?query=go") as answer,
    ):
        lines = answer.iter_lines()
        assert any('"a"' in line for line in lines)
        asyncio.run(gate.reached())
        gate.let()
        assert any('"b"' in line for line in lines)


def test_a_server_that_cannot_start_says_so_at_once(tmp_path: Path):
    app = create_app(Runner(ScriptedAgent("a"), store=f"sqlite:///{tmp_path}"))
    with pytest.raises(RuntimeError, match="did not start"), serving(app):
        pass


# ------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", ["abrupt", "mid-frame", "clean"])
async def test_a_cutter_cuts_and_a_gapless_client_does_not_notice(kind: CutKind):
    text = "A long answer, so that there is something to cut. " * 60
    with (
        serving(create_app(Runner(ScriptedAgent(*words(text))))) as url,
        Cutter(url, kind, cuts=3, after_bytes=(100, 400)) as cutter,
    ):
        async with GaplessClient(cutter.url, limits=ClientLimits(retry_max_s=0.001)) as client:
            run = await client.start("go")
            collected = "".join([getattr(event, "delta", "") async for _, event in client.follow(run.id)])
    assert collected == text
    assert cutter.cuts == {run.id: 3}


async def body_of(url: str, path: str) -> tuple[bytes, str]:
    body, error = b"", ""
    try:
        async with httpx2.AsyncClient(base_url=url) as http, http.stream("GET", path) as answer:
            async for piece in answer.aiter_raw():
                body += piece
    except httpx2.HTTPError as raised:
        error = type(raised).__name__
    return body, error


@pytest.fixture(scope="module")
def finished():
    """A server, and the path of a run's events."""
    with serving(create_app(Runner(ScriptedAgent(*words("word " * 400))))) as url:
        run_id = httpx2.post(url + "/runs", json={"message": "go", "run_id": "r1"}).json()["id"]
        with httpx2.stream("GET", f"{url}/runs/{run_id}/events") as answer:
            answer.read()
        yield url, f"/runs/{run_id}/events"


async def test_the_three_kinds_of_cut(finished: tuple[str, str]):
    url, path = finished
    whole, _ = await body_of(url, path)
    for kind in ("abrupt", "mid-frame", "clean"):
        with Cutter(url, kind, after_bytes=(10, 20)) as cutter:  # type: ignore[arg-type]  # they are literals
            body, error = await body_of(cutter.url, path)
        assert whole.startswith(body)
        assert len(body) < len(whole)
        assert bool(error) == (kind == "abrupt")
        if kind != "abrupt":
            assert body.endswith(b"\n\n") == (kind == "clean")


async def test_the_same_seed_cuts_at_the_same_byte(finished: tuple[str, str]):
    url, path = finished
    bodies = []
    for seed in (7, 7, 8):
        with Cutter(url, "mid-frame", seed=seed, after_bytes=(10, 2000)) as cutter:
            bodies.append((await body_of(cutter.url, path))[0])
    assert bodies[0] == bodies[1] != bodies[2]


async def test_it_passes_on_what_it_is_not_to_cut_and_refuses_on_demand(finished: tuple[str, str]):
    url, path = finished
    whole, _ = await body_of(url, path)
    with Cutter(url, None) as cutter:
        assert await body_of(cutter.url, path) == (whole, "")
        assert httpx2.get(cutter.url + "/health").json() == {"status": "ok"}
        cutter.refuse = 1
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(cutter.url + "/health")
        assert httpx2.get(cutter.url + "/health").status_code == 200
    assert not cutter.cuts


def test_user_messages_are_what_turns_are_counted_by():
    """`messages=` of a client that keeps its own history counts as well."""

    async def said() -> str:
        async with Runner(ScriptedAgent("one", NextTurn(), "two")) as runner:
            history: list[Any] = [UserMessage(id="u", content="hi"), AssistantMessage(id="a", content="one")]
            return (await (await runner.start("more", messages=history)).collect()).text

    assert asyncio.run(said()) == "two"


CALLS = """
import asyncio, os, sys
from gapless import Runner
from gapless.events import ToolCallStartEvent
from gapless.testing import ToolCall
from tests.support.frameworks import FRAMEWORKS

async def look() -> str:
    "Looks."
    return "seen"

async def calls():
    made = FRAMEWORKS[sys.argv[1]](ToolCall("look"), ToolCall("look"), "done", tools=[look])
    async with Runner(made.agent) as runner:
        run = await runner.start("x")
        async for event in run.events():
            if isinstance(event, ToolCallStartEvent):
                os.write(1, event.tool_call_id.encode() + b" ")

child = os.fork()
asyncio.run(calls())
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_two_processes_of_a_double_make_the_same_call(framework: str):
    made = subprocess.run([sys.executable, "-c", CALLS, framework], capture_output=True, timeout=HANG_S, text=True)
    assert made.returncode == 0, made.stderr
    ids = made.stdout.split()
    assert len(set(ids)) == len(ids) == 4, ids
