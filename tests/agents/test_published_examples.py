"""The example agents that the frameworks' makers publish, imported unchanged from their packages.

Each runs three times on the same scripted model: by its own framework, through the runner, and over HTTP. All three
say the same text, call the same tools with the same results, in the same order, and end with the same output or the
same failure. What they reach for outside of the process (models, clouds, databases) is doubled; their tools are real.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import os
import pathlib
import re
import sqlite3
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import httpx2
import logfire_api
import pytest
from google.adk.agents._streaming_mode import StreamingMode as ADKStreamingMode
from google.adk.agents.config_agent_utils import from_config
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.apps import App
from google.adk.cli import cli_create
from google.adk.models import Gemini
from google.adk.runners import Runner as ADKRunner
from google.adk.sessions import InMemorySessionService
from google.genai import types as genai
from pydantic_ai import Agent, CancellationToken, ModelHTTPError
from pydantic_ai import messages as m
from pydantic_core import to_jsonable_python

from gapless import Runner, create_app
from gapless.agents.pydantic_ai import PydanticAIAgent
from gapless.errors import GaplessError
from gapless.events import (
    CustomEvent,
    Event,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    StateDeltaEvent,
    StateSnapshotEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
)
from gapless.testing import (
    Chunk,
    Fail,
    Gate,
    NextTurn,
    Output,
    Reasoning,
    Text,
    ToolCall,
    adk_model,
    pydantic_ai_model,
    words,
)
from gapless.testing.pydantic_ai import PydanticAIModel
from tests.support.outcomes import Outcome, joined, outcome_of_events, value_of
from tests.support.published import told_on_every_wire, whole_wherever_its_worker_is_lost
from tests.support.sse import events as events_of

pytest.importorskip("pydantic_ai_examples", reason="pip install --group examples, and --group published --no-deps")

NOW = datetime.datetime(2026, 11, 20, 9, 30, tzinfo=datetime.UTC)


class Clock(datetime.datetime):
    """Stands still, so that what a tool says of the time is the same in every run."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
        return cls.fromtimestamp(NOW.timestamp(), tz)


EVENT_STREAM = {"accept": "text/event-stream"}


def client_of(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", headers=EVENT_STREAM)


async def over_http(agent: object, message: str) -> list[Event]:
    runner = Runner(agent)
    async with client_of(create_app(runner)) as client:
        response = await client.post("/runs", json={"message": message})
        assert response.status_code == 200, response.text
    await runner.close()
    return events_of(response.content)


# -- Pydantic AI ----------------------------------------------------------------------------------------------------


class Example(NamedTuple):
    """One of the package `pydantic_ai_examples`."""

    module: str
    agent: str
    script: tuple[Chunk, ...]
    """Calls that stand side by side run at once and end in any order; so there are words between them."""
    deps: Callable[[Any], Any] = lambda module: None
    """Makes the dependencies from the module."""
    others: Mapping[str, tuple[Chunk, ...]] = types.MappingProxyType({})
    """Scripts of the agents that its tools ask."""
    patch: Callable[[Any, pytest.MonkeyPatch], None] = lambda module, patch: None
    says: str = ""
    """Something that the run must have in it: its tools ran."""


def weather_service(request: httpx.Request) -> httpx.Response:
    answers = {
        "/latlng": httpx.Response(200, json={"lat": 51.5, "lng": -0.1}),
        "/number": httpx.Response(200, text="21"),
        "/weather": httpx.Response(200, text="Sunny"),
    }
    return answers[request.url.path]


def weather_deps(module: Any) -> Any:
    return module.Deps(client=httpx.AsyncClient(transport=httpx.MockTransport(weather_service)))


def bank_deps(module: Any, customer_id: int = 123) -> Any:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    module.cur = connection.cursor()  # its queries go through this global, which it makes when it is the main program
    module.cur.execute("CREATE TABLE customers(id, name, balance)")
    module.cur.execute("INSERT INTO customers VALUES (123, 'John', 123.45)")
    return module.SupportDependencies(customer_id=customer_id, db=module.DatabaseConn(sqlite_conn=connection))


def flight_deps(module: Any) -> Any:
    date = datetime.date(2025, 1, 10)
    return module.Deps(web_page_text=module.flights_web_page, req_origin="SFO", req_destination="ANC", req_date=date)


class Postgres:
    """A connection that knows which queries are good, and a pool of two documents."""

    async def execute(self, query: str) -> str:
        import asyncpg

        if "no_such_table" in query:
            raise asyncpg.exceptions.UndefinedTableError('relation "no_such_table" does not exist')
        return "EXPLAIN"

    async def fetch(self, query: str, embedding: str) -> list[dict[str, str]]:
        assert json.loads(embedding) == [0.1, 0.2]
        return [{"url": "https://docs.test/1", "title": "FastAPI", "content": "logfire.instrument_fastapi(app)"}]


class Embeddings:
    """The part of OpenAI's client that makes embeddings."""

    def __init__(self) -> None:
        self.embeddings = self

    async def create(self, *, input: str, model: str) -> Any:
        return types.SimpleNamespace(data=[types.SimpleNamespace(embedding=[0.1, 0.2])])


class Videos:
    """TwelveLabs' client."""

    async def analyze(self, **asked: Any) -> Any:
        return types.SimpleNamespace(data=f"An elephant dreams: {asked['video'].url}")


def search_of(module: Any, patch: pytest.MonkeyPatch) -> None:
    found = [{"title": "Ada", "href": "https://example.test/ada", "body": "Ada works at Engines."}]
    patch.setattr("ddgs.ddgs.DDGS.text", lambda self, query, **options: found)


def comments(module: Any, patch: pytest.MonkeyPatch) -> None:
    """Hugging Face's library as far as it is used, with one small data set in it."""

    class Dataset:
        info = types.SimpleNamespace(description="Reviews of films", features={"text": "string", "label": "int64"})

        def to_pandas(self) -> Any:
            return module.pd.DataFrame({"text": ["good", "bad", "awful"], "label": [1, 0, 0]})

    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(splits={"train": None}),
        download_and_prepare=lambda: None,
        as_dataset=lambda split: Dataset(),
    )
    patch.setattr(module.datasets, "Dataset", Dataset, raising=False)
    patch.setattr(module.datasets, "load_dataset_builder", lambda path: builder, raising=False)


def still_clock(module: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "datetime", Clock)


def drawn(module: Any) -> Any:
    async def emit(message: dict[str, Any]) -> None:
        """To the browser."""

    deps = object.__new__(module.CameraDeps)
    deps.emit = emit
    return deps


FLIGHT = {"flight_number": "SFO-AK123", "price": 350, "origin": "SFO", "destination": "ANC", "date": "2025-01-10"}
REPORT = {
    "diagnosis": ["angina"],
    "differential": ["reflux"],
    "recommended_tests": ["ECG"],
    "immediate_actions": ["aspirin"],
    "estimated_time_minutes": 30,
}
PLAN = {"plan_summary": "Hospital, now.", "refer_to_specialist": None, "follow_up_days": 1}
RANGE = {
    "min_timestamp_with_offset": "2026-11-19T00:00:00+00:00",
    "max_timestamp_with_offset": "2026-11-20T00:00:00+00:00",
    "explanation": "Yesterday.",
}
TICKET = {"summary": "Broken.", "category": "hardware", "priority": "high", "follow_up_questions": ["Since when?"]}
RECIPE = {"skill_level": "Beginner", "ingredients": [{"name": "Egg", "amount": "2"}], "instructions": ["Boil."]}
PROFILE = {"email": "ada@engines.test", "first_name": "Ada"}
ANALYSIS = {
    "profile": PROFILE,
    "organization_name": "Engines",
    "organization_domain": "engines.test",
    "job_title": "Analyst",
    "relevance": 5,
    "summary": "Welcome, Ada.",
}

PYDANTIC_AI_EXAMPLES = [
    Example(
        "weather_agent",
        "weather_agent",
        (
            *words("Let me look. "),
            ToolCall("get_lat_lng", {"location_description": "London"}),
            *words("Found it. "),
            ToolCall("get_weather", {"lat": 51.5, "lng": -0.1}),
            *words("It is sunny in London."),
        ),
        weather_deps,
        says="21 °C",
    ),
    Example(
        "bank_support",
        "support_agent",
        (
            ToolCall("customer_balance"),
            Output({"support_advice": "You have $123.45, John.", "block_card": False, "risk": 1}),
        ),
        bank_deps,
        says="$123.45",
    ),
    Example(
        "flight_booking",
        "search_agent",
        (
            *words("I search. "),
            ToolCall("extract_flights"),
            ToolCall("final_result_FlightDetails", {**FLIGHT, "origin": "LAX"}),
            ToolCall("final_result_FlightDetails", FLIGHT),
        ),
        flight_deps,
        {"extraction_agent": (Output([FLIGHT]),)},
        says="Flight should have origin SFO, not LAX",
    ),
    Example(
        "flight_booking",
        "seat_preference_agent",
        (ToolCall("final_result_SeatPreference", {"row": 14, "seat": "A"}),),
    ),
    Example(
        "roulette_wheel",
        "roulette_agent",
        (ToolCall("roulette_wheel", {"square": 18}), Output(True)),
        lambda module: module.Deps(winning_number=18),
        says="winner",
    ),
    Example(
        "medical_agent_delegation",
        "triage_agent",
        (
            ToolCall("consult_specialist", {"specialty": "cardiology", "question": "Chest pain?"}),
            *words("That is serious. "),
            ToolCall("consult_senior_doctor", {"reason_for_escalation": "severe", "initial_complaint": "pain"}),
            Output({"specialty": "cardiology", "final_report": REPORT, "treatment_plan": PLAN, "final_status": "ok"}),
        ),
        lambda module: module.PatientInfo(patient_id="P1", age=64, known_conditions=["hypertension"]),
        {"cardiology_agent": (Output(REPORT),), "senior_doctor_agent": (Output(PLAN),)},
        says="Hospital, now.",
    ),
    Example("pydantic_model", "agent", (Output({"city": "Chicago", "country": "USA"}),)),
    Example("stream_markdown", "agent", tuple(words("# Pydantic\n\n```python\nclass A(BaseModel): ...\n```"))),
    Example(
        "stream_whales",
        "agent",
        (Output([{"name": "Blue", "length": 25.5, "weight": 150000.0}, {"name": "Orca", "length": 7}]),),
    ),
    Example(
        "sql_gen",
        "agent",
        (
            ToolCall("final_result_Success", {"sql_query": "SELECT * FROM no_such_table"}),
            ToolCall("final_result_Success", {"sql_query": "SELECT * FROM records", "explanation": "All."}),
        ),
        lambda module: module.Deps(conn=Postgres()),
        says="Invalid query",
    ),
    Example(
        "rag",
        "agent",
        (ToolCall("retrieve", {"search_query": "FastAPI"}), *words("Call logfire.instrument_fastapi.")),
        lambda module: module.Deps(openai=Embeddings(), pool=Postgres()),
        says="logfire.instrument_fastapi(app)",
    ),
    Example(
        "data_analyst",
        "analyst_agent",
        (
            ToolCall("load_dataset", {"path": "films"}),
            *words("It is loaded. "),
            ToolCall("run_duckdb", {"dataset": "Out[1]", "sql": "SELECT count(*) AS n FROM dataset WHERE label = 0"}),
            *words("Now look. "),
            ToolCall("display", {"name": "Out[2]"}),
            *words("Two are negative."),
        ),
        lambda module: module.AnalystAgentDeps(),
        patch=comments,
        says="n\\n0  2",
    ),
    Example(
        "twelvelabs_video_agent",
        "video_agent",
        (ToolCall("analyze_video", {"prompt": "Summarize."}), *words("An elephant dreams.")),
        lambda module: module.Deps(twelvelabs=Videos(), video_url="https://videos.test/e.mp4"),
        says="https://videos.test/e.mp4",
    ),
    Example("chat_app", "agent", tuple(words("Hello from the chat app."))),
    Example(
        "evals.agent",
        "time_range_agent",
        (ToolCall("get_current_time"), ToolCall("final_result_TimeRangeBuilderSuccess", RANGE)),
        lambda module: module.TimeRangeDeps(now=NOW),
        says="Friday, November 20, 2026 09:30:00 UTC",
    ),
    Example(
        "slack_lead_qualifier.agent",
        "agent",
        (
            ToolCall("duckduckgo_search", {"query": "Ada Engines"}),
            Output({"result": {"kind": "Analysis", "data": ANALYSIS}}),
        ),
        patch=search_of,
        says="Ada works at Engines.",
    ),
    # The agents of the examples of speech, asked in text. Speech itself is bidirectional.
    Example(
        "realtime_voice",
        "agent",
        (ToolCall("get_weather", {"city": "Rome"}), *words("Sunny in Rome.")),
        says="21 degrees and sunny in Rome",
    ),
    Example("realtime_handoff", "voice_agent", tuple(words("Hello, what is wrong?"))),
    Example("realtime_handoff", "triage_agent", (Output(TICKET),)),
    Example("realtime_text_to_audio", "agent", tuple(words("Octopuses have three hearts."))),
    Example(
        "realtime_webrtc.app",
        "agent",
        (
            ToolCall("lookup_time", {"city": "Tokyo"}),
            *words("And the money: "),
            ToolCall("lookup_support_policy", {"topic": "refund"}),
            *words("It is evening, and you have 30 days."),
        ),
        patch=still_clock,
        says="It is Friday, 06:30 PM in Tokyo.",
    ),
    Example(
        "realtime_camera.app",
        "_build_agent(web_search=False)",
        (ToolCall("redraw_diagram", {"instructions": "a box"}), *words("I drew a box.")),
        drawn,
        {"_draw_agent()": (*words("<html></html>"),)},
        says="the cleaned-up diagram is on their screen now",
    ),
]


def stay_offline(patch: pytest.MonkeyPatch) -> None:
    """Keys that the examples' models want when they are made, and stand-ins for services that they talk to at import:
    for Logfire the one that its makers publish, which does nothing, but agents are instrumented as it would."""
    for name in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY"):
        patch.setenv(name, "none")
    logfire = types.ModuleType("logfire")
    vars(logfire).update(vars(logfire_api), instrument_pydantic_ai=Agent.instrument_all)
    patch.setitem(sys.modules, "logfire", logfire)
    patch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    patch.setattr("pydantic_ai.models.ALLOW_MODEL_REQUESTS", False)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stay_offline(monkeypatch)
    yield
    Agent.instrument_all(False)


def agent_in(module: Any, name: str) -> Agent[Any, Any]:
    """An agent by its variable, or by the call that makes it."""
    made: Agent[Any, Any] = eval(name, vars(module))
    return made


class Stage:
    """An example with its models and doubles in place; every run has fresh dependencies."""

    def __init__(self, example: Example, patch: pytest.MonkeyPatch) -> None:
        self.example = example
        self.module = importlib.import_module(f"pydantic_ai_examples.{example.module}")
        self.agent = agent_in(self.module, example.agent)
        patch.setattr(self.agent, "model", pydantic_ai_model(*example.script))
        for name, script in example.others.items():
            patch.setattr(agent_in(self.module, name), "model", pydantic_ai_model(*script))
        example.patch(self.module, patch)

    def deps(self, _: object = None) -> Any:
        return self.example.deps(self.module)

    async def by_the_framework(self, message: str = "Go on.") -> Outcome:
        result = await self.agent.run(message, deps=self.deps(), infer_name=False)
        said = joined(step for message in result.all_messages() for step in _steps(message))
        spoken = "".join(step[1] for step in said if step[0] == "text")
        output = result.output
        return Outcome(said, None if output == spoken else to_jsonable_python(output))

    async def by_the_runner(self, message: str = "Go on.") -> Outcome:
        async with Runner(self.agent) as runner:
            run = await runner.start(message, deps=self.deps())
            return outcome_of_events([event async for event in run.events()])


def _steps(message: m.ModelMessage) -> Iterable[tuple[Any, ...]]:
    for part in message.parts:
        if isinstance(part, m.TextPart):
            yield "text", part.content
        elif isinstance(part, m.ToolCallPart):
            yield "call", part.tool_name, part.args_as_dict()
        elif isinstance(part, m.ToolReturnPart | m.RetryPromptPart):
            text = part.model_response_str() if isinstance(part, m.ToolReturnPart) else part.model_response()
            yield "result", value_of(text)


@pytest.mark.parametrize("example", PYDANTIC_AI_EXAMPLES, ids=lambda e: f"{e.module}:{e.agent}")
async def test_pydantic_ai(example: Example, monkeypatch: pytest.MonkeyPatch):
    stage = Stage(example, monkeypatch)
    expected = await stage.by_the_framework()
    assert example.says in json.dumps(expected.said, ensure_ascii=False), "its tools ran"
    assert await stage.by_the_runner() == expected
    served = PydanticAIAgent(stage.agent, deps=stage.deps)  # over HTTP nobody brings dependencies along
    assert outcome_of_events(await over_http(served, "Go on.")) == expected


@pytest.mark.parametrize("example", PYDANTIC_AI_EXAMPLES, ids=lambda e: f"{e.module}:{e.agent}")
async def test_pydantic_ai_on_every_wire_and_at_another_worker(example: Example, monkeypatch: pytest.MonkeyPatch):
    stage = Stage(example, monkeypatch)
    expected = await stage.by_the_framework()
    await told_on_every_wire(PydanticAIAgent(stage.agent, deps=stage.deps), expected)
    deps: Any = None

    def make(script: Sequence[Chunk]) -> PydanticAIAgent:
        nonlocal deps
        if Gate in map(type, script):  # what its tools keep there is not the run's, and stays
            deps = stage.deps()
        monkeypatch.setattr(stage.agent, "model", pydantic_ai_model(*script))
        return PydanticAIAgent(stage.agent, deps=lambda ctx: deps)

    await whole_wherever_its_worker_is_lost(make, example.script, expected)


async def test_every_module_of_the_package_with_an_agent_is_here():
    package = pathlib.Path(importlib.import_module("pydantic_ai_examples").__path__[0])
    makes_agents = {
        ".".join(file.relative_to(package).with_suffix("").parts)
        for file in package.rglob("*.py")
        if re.search(r"\bAgent(\[.*\])?\(", file.read_text())
    }
    assert makes_agents == {example.module for example in PYDANTIC_AI_EXAMPLES} | set(AG_UI_EXAMPLES) | {
        "cancel_and_resume"
    }


class Failing(NamedTuple):
    """An example in a situation in which it fails."""

    module: str
    agent: str
    script: tuple[Chunk, ...]
    deps: Callable[[Any], Any]
    code: str
    """The error's code in Gapless."""


def broken_weather(module: Any) -> Any:
    return module.Deps(client=httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(500))))


FAILING = [
    Failing(
        "weather_agent",
        "weather_agent",
        (*words("Let me look. "), ToolCall("get_lat_lng", {"location_description": "London"})),
        broken_weather,
        "tool_failed",
    ),
    Failing(
        "bank_support",
        "support_agent",
        (*words("One moment. "), ToolCall("customer_balance")),
        lambda module: bank_deps(module, customer_id=5),
        "tool_failed",
    ),
    Failing(
        "roulette_wheel",
        "roulette_agent",
        (Output("maybe"),) * 4,
        lambda module: module.Deps(winning_number=18),
        "output_invalid",
    ),
    Failing(
        "rag",
        "agent",
        (*words("It "), Fail(ModelHTTPError(503, "gpt-5.2"))),
        lambda module: module.Deps(openai=Embeddings(), pool=Postgres()),
        "model_failed",
    ),
]


@pytest.mark.parametrize("example", FAILING, ids=lambda e: f"{e.module}:{e.code}")
async def test_pydantic_ai_fails_as_by_itself(example: Failing, monkeypatch: pytest.MonkeyPatch):
    stage = Stage(Example(example.module, example.agent, example.script, example.deps), monkeypatch)
    with pytest.raises(Exception) as alone:  # whatever the framework raises
        async for _ in _streamed_by_the_framework(stage):
            pass
    async with Runner(stage.agent) as runner:
        run = await runner.start("Go on.", deps=stage.deps())
        with pytest.raises(GaplessError) as failed:
            await run.collect()
    assert failed.value.code == example.code
    causes = list(_causes(failed.value))
    assert type(alone.value) in [type(cause) for cause in causes]
    assert failed.value.text == "".join(chunk.text for chunk in example.script if isinstance(chunk, Text))
    *_, last = await over_http(PydanticAIAgent(stage.agent, deps=stage.deps), "Go on.")
    assert isinstance(last, RunErrorEvent)
    assert (last.code, last.message) == (example.code, failed.value.message)


async def _streamed_by_the_framework(stage: Stage) -> AsyncIterator[Any]:
    async with stage.agent.run_stream_events("Go on.", deps=stage.deps()) as events:
        async for event in events:
            yield event


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


# The examples of AG-UI are served by the framework's own adapter too: what its clients see is compared.

AG_UI_EXAMPLES: dict[str, tuple[Chunk, ...]] = {
    "ag_ui.api.agentic_chat": (*words("I look. "), ToolCall("current_time"), *words("Half past nine.")),
    "ag_ui.api.agentic_generative_ui": (
        ToolCall("create_plan", {"steps": ["Buy eggs", "Boil them"]}),
        *words("First: "),
        ToolCall("update_plan_step", {"index": 0, "status": "completed"}),
        *words("Done."),
    ),
    "ag_ui.api.human_in_the_loop": (ToolCall("generate_task_steps", {"steps": ["one"]}), *words("Confirmed.")),
    "ag_ui.api.tool_based_generative_ui": (ToolCall("generate_haiku", {"lines": ["a"]}), *words("A haiku.")),
    "ag_ui.api.shared_state": (ToolCall("display_recipe", {"recipe": RECIPE}), *words("Eggs, boiled.")),
    "ag_ui.api.predictive_state_updates": (ToolCall("document_predict_state"), *words("It is written.")),
    "ag_ui.api.tool_approval": (ToolCall("delete_file", {"path": "a.txt"}), *words("It is gone.")),
}
CLIENT_TOOLS = [
    {"name": name, "description": name, "parameters": {"type": "object", "properties": {}}}
    for name in ("generate_task_steps", "generate_haiku")
]
STATES = {
    "ag_ui.api.shared_state": {"recipe": {**RECIPE, "cooking_time": "15 min"}},
    "ag_ui.api.predictive_state_updates": {"document": "Once upon a time"},
}


@pytest.mark.parametrize("name", AG_UI_EXAMPLES)
async def test_pydantic_ai_over_ag_ui(name: str, monkeypatch: pytest.MonkeyPatch):
    """With the client's state and tools, its answers to approvals, and the results of its tools."""
    module = importlib.import_module(f"pydantic_ai_examples.{name}")
    if name.endswith("agentic_chat"):
        monkeypatch.setattr(module, "datetime", Clock)
    scripted = pydantic_ai_model(*AG_UI_EXAMPLES[name])
    monkeypatch.setattr(module.agent, "model", scripted)
    expected = await _ag_ui_talk(module.app, "/", name)
    instructions = _instructions(scripted)
    runner = Runner(module.agent)
    assert await _ag_ui_talk(create_app(runner), "/ag-ui", name) == expected
    assert _instructions(scripted) == instructions, "the client's state reached the agent"
    await runner.close()


def _instructions(scripted: PydanticAIModel) -> str | None:
    """What the model was told at its latest request."""
    last = scripted.requests[-1][-1]
    assert isinstance(last, m.ModelRequest)
    return last.instructions


async def _ag_ui_talk(app: Any, path: str, name: str) -> list[Outcome]:
    """A client's talk with an AG-UI server: a question, and what it asks back answered."""
    body: dict[str, Any] = {
        "threadId": "t",
        "messages": [{"id": "m1", "role": "user", "content": "Go on."}],
        "state": STATES.get(name, {}),
        "tools": CLIENT_TOOLS,
        "context": [],
        "forwardedProps": {},
    }
    talk = []
    async with client_of(app) as client:
        for turn in range(2):
            response = await client.post(path, json={**body, "runId": f"r{turn}"})
            assert response.status_code == 200, response.text
            frames = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
            events = [decode_event(frame.encode()) for frame in frames]
            talk.append(_as_a_client_sees_it(events))
            last = events[-1]
            if not isinstance(last, RunFinishedEvent):
                break
            answered = {event.tool_call_id for event in events if isinstance(event, ToolCallResultEvent)}
            calls = [event for event in events if isinstance(event, ToolCallStartEvent)]
            open_calls = [call for call in calls if call.tool_call_id not in answered]
            if not open_calls:
                break
            (call,) = open_calls
            function = {"name": call.tool_call_name, "arguments": json.dumps(talk[-1].said[-1][2])}
            asked = {"id": call.tool_call_id, "type": "function", "function": function}
            body["messages"].append({"id": "m2", "role": "assistant", "toolCalls": [asked]})
            if isinstance(last.outcome, RunFinishedInterruptOutcome):
                (interrupt,) = last.outcome.interrupts
                answer = {"interruptId": interrupt.id, "status": "resolved", "payload": {"approved": True}}
                body["resume"] = [answer]
            else:
                result = {"id": "m3", "role": "tool", "toolCallId": call.tool_call_id, "content": "accepted"}
                body["messages"].append(result)
    return talk


def _as_a_client_sees_it(events: list[Event]) -> Outcome:
    """Text, calls, results, state and the application's own events."""
    steps = outcome_of_events(events).said
    for position, step in enumerate(steps):
        if step[0] == "result" and isinstance(step[1], dict) and list(step[1]) == ["error"]:
            steps[position] = ("result", step[1]["error"])  # as the model is told; the framework shows the bare error
    for event in events:
        if isinstance(event, StateSnapshotEvent):
            steps.append(("state", event.snapshot))
        elif isinstance(event, StateDeltaEvent):
            steps.append(("state delta", event.delta))
        elif isinstance(event, CustomEvent) and not event.name.startswith("gapless."):
            steps.append(("custom", event.name, event.value))
    return Outcome(steps)


async def test_pydantic_ai_cancel_and_resume(monkeypatch: pytest.MonkeyPatch):
    """Its `stream_turn` and a run of the runner, cancelled at the same word: the same text, and the next turn knows of
    it in the same way."""
    module = importlib.import_module("pydantic_ai_examples.cancel_and_resume")
    made: list[Agent[Any, Any]] = []

    def make(*args: Any, **options: Any) -> Agent[Any, Any]:
        made.append(Agent(*args, **options))
        return made[-1]

    class Prompt:
        async def prompt_async(self, _: str) -> str:
            raise EOFError

    monkeypatch.setattr(module, "PromptSession", Prompt)
    monkeypatch.setattr(module, "Agent", make)
    await module.main()  # makes the agent
    (agent,) = made

    def model(gate: Gate) -> Any:
        return pydantic_ai_model(*words("One, two, "), gate, *words("three."), NextTurn(), *words("Three."))

    gate = Gate()
    agent.model = scripted = model(gate)
    said: list[str] = []
    shown = asyncio.Event()

    def show(text: str) -> None:
        said.append(text)
        shown.set()

    token = CancellationToken()
    turn = asyncio.create_task(module.stream_turn(agent, "Count.", [], token, show))
    await shown.wait()  # it groups what comes by time
    token.cancel()
    history, cancelled = await turn
    assert cancelled
    await module.stream_turn(agent, "Go on.", history, CancellationToken(), show)
    expected = scripted.requests[-1]

    gate = Gate()
    agent.model = scripted = model(gate)
    heard: list[str] = []
    async with Runner(agent) as runner:
        run = await runner.start("Count.", session_id="s")
        await gate.reached()
        await run.cancel()
        heard += [text async for text in run.text()]
        second = await runner.start("Go on.", session_id="s")
        heard += [text async for text in second.text()]
    assert "".join(heard) == "".join(said) == "One, two, Three."
    assert _known(scripted.requests[-1]) == _known(expected)


def _known(messages: list[m.ModelMessage]) -> list[tuple[str, str]]:
    return [(part.part_kind, str(getattr(part, "content", ""))) for message in messages for part in message.parts]


# -- Google ADK -----------------------------------------------------------------------------------------------------
#
# Its makers publish templates of agents. Each is written out by the tool that it belongs to, as a project of its own.


def starter_pack(name: str, folder: pathlib.Path) -> Any:
    """A project of the Agent Starter Pack, as its own command makes it."""
    from agent_starter_pack.cli.utils import template

    source = pathlib.Path(template.__file__).parents[2] / "agents" / name / ".template"
    data = {"include_data_ingestion": True, "datastore": "vertex_ai_search"} if name == "agentic_rag" else {}
    template.process_template(
        name, source, "shop", deployment_target="cloud_run", cicd_runner="skip", output_dir=folder, **data
    )
    return project(folder / "shop")


def agents_cli(name: str, folder: pathlib.Path) -> Any:
    """A project of Google's Agents CLI, as its own command makes it."""
    from google.agents.cli.scaffold.utils import template

    source = pathlib.Path(template.__file__).parents[1] / "agents" / name / ".template"
    template.process_template(
        agent_name=name,
        template_dir=source,
        project_name="shop",
        deployment_target="cloud_run",
        cicd_runner="skip",
        output_dir=folder,
    )
    return project(folder / "shop")


def project(folder: pathlib.Path) -> Any:
    """The module of its agent, imported from the project's folder."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("app.agent")


def adk_create(kind: str, folder: pathlib.Path) -> Any:
    """What `adk create` writes."""
    cli_create.run_cmd(
        str(folder / "helper"),
        model="gemini-3.8-flash",
        google_api_key="none",
        google_cloud_project=None,
        google_cloud_region=None,
        type=kind,
    )
    if kind == "config":
        return types.SimpleNamespace(app=from_config(str(folder / "helper" / "root_agent.yaml")))
    sys.path.insert(0, str(folder))
    return types.SimpleNamespace(app=importlib.import_module("helper.agent").root_agent)


def built_in(name: str, folder: pathlib.Path) -> Any:
    """The agent that ADK itself has, for its web page."""
    (folder / "root_agent.yaml").write_text("name: shop\nmodel: gemini-3.8-flash\n")
    os.chdir(folder)
    return types.SimpleNamespace(app=importlib.import_module(f"google.adk.cli.built_in_agents.{name}").root_agent)


class ADKExample(NamedTuple):
    make: Callable[[str, pathlib.Path], Any]
    name: str
    script: tuple[Chunk, ...]
    says: str = ""


WEATHER = (
    Reasoning("They want the weather, and the time."),
    *words("Let me look. "),
    ToolCall("get_weather", {"query": "San Francisco"}),
    *words("And the time: "),
    ToolCall("get_current_time", {"query": "sf"}),
    ToolCall("get_current_time", {"query": "Atlantis"}),
    *words("Foggy, and half past one."),
)
ADK_EXAMPLES = [
    ADKExample(starter_pack, "adk", WEATHER, "2026-11-20 01:30:00 PST-0800"),
    ADKExample(starter_pack, "adk_a2a", WEATHER, "2026-11-20 01:30:00 PST-0800"),
    # Made for speech, asked in text. Speech itself is bidirectional.
    ADKExample(
        starter_pack, "adk_live", (WEATHER[-1], ToolCall("get_weather", {"query": "sf"}), *words("Foggy.")), "60"
    ),
    ADKExample(
        starter_pack, "agentic_rag", (ToolCall("mock_search", {"query": "refunds"}), *words("30 days.")), "Mock"
    ),
    ADKExample(agents_cli, "adk", WEATHER, "2026-11-20 01:30:00 PST-0800"),
    ADKExample(adk_create, "code", tuple(words("To the best of my knowledge."))),
    ADKExample(adk_create, "config", tuple(words("To the best of my knowledge."))),
    ADKExample(
        built_in,
        "agent",
        (
            ToolCall("explore_project"),
            ToolCall("read_config_files", {"file_paths": ["root_agent.yaml"]}),
            *words("One agent, called shop."),
        ),
        "root_agent.yaml",
    ),
]


def gemini_says(script: Sequence[Chunk], patch: pytest.MonkeyPatch) -> None:
    says = adk_model(*script).generate_content_async
    patch.setattr(Gemini, "generate_content_async", lambda _, *asked, **how: says(*asked, **how))


def pretend_a_cloud(patch: pytest.MonkeyPatch, folder: pathlib.Path) -> None:
    """Google's cloud as far as the examples reach for it when they are imported."""
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GOOGLE_GENAI_USE_VERTEXAI"):
        patch.setenv(name, "")  # they set these
    patch.setenv("INTEGRATION_TEST", "TRUE")  # the retrieval example then brings a search of its own
    patch.setattr("google.auth.default", lambda: (None, "a-project"))
    vertexai = types.ModuleType("vertexai")
    vertexai.init = lambda **options: None  # type: ignore[attr-defined]  # all that they use of it
    patch.setitem(sys.modules, "vertexai", vertexai)
    notes = folder / "cookiecutter.yaml"  # where the tools' own tool leaves notes: not at home
    notes.write_text(f"replay_dir: {folder}/replay\ncookiecutters_dir: {folder}/cookiecutters\n")
    patch.setenv("COOKIECUTTER_CONFIG", str(notes))
    patch.syspath_prepend(folder)  # and back to what it was


def forget_projects(before: set[str]) -> None:
    """Let the next project be imported under the same names."""
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("app", "helper"):
            del sys.modules[name]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Callable[[ADKExample], Any]]:
    """Makes them."""
    pretend_a_cloud(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def make(example: ADKExample) -> Any:
        module = example.make(example.name, tmp_path)
        gemini_says(example.script, monkeypatch)
        if hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", types.SimpleNamespace(datetime=Clock))
        return module.app

    yield make
    forget_projects(before)


async def _by_adk(app: object, *messages: Any) -> list[tuple[Any, ...]]:
    """The whole events of ADK's own runner."""
    given = {"app": app} if isinstance(app, App) else {"agent": app}
    sessions = InMemorySessionService()
    runner = ADKRunner(**({"app_name": "alone"} | given), session_service=sessions)
    await sessions.create_session(app_name=runner.app_name, user_id="u", session_id="s")
    config = ADKRunConfig(streaming_mode=ADKStreamingMode.SSE)
    steps: list[tuple[Any, ...]] = []
    for message in messages:
        content = message(steps) if callable(message) else genai.UserContent(message)
        async for event in runner.run_async(user_id="u", session_id="s", new_message=content, run_config=config):
            for part in (event.content.parts or []) if event.content is not None and not event.partial else []:
                if part.text and not part.thought:
                    steps.append(("text", part.text))
                elif part.function_call is not None:
                    steps.append(("call", part.function_call.name, part.function_call.args, part.function_call.id))
                elif part.function_response is not None:
                    steps.append(("result", part.function_response.response))
    return steps


def _without_ids(steps: list[tuple[Any, ...]]) -> Outcome:
    return Outcome(joined(step[:3] for step in steps))


@pytest.mark.parametrize("example", ADK_EXAMPLES, ids=lambda e: f"{e.make.__name__}:{e.name}")
async def test_adk(example: ADKExample, write: Callable[[ADKExample], Any]):
    app = write(example)
    expected = _without_ids(await _by_adk(app, "Go on."))
    assert example.says in json.dumps(expected.said), "its tools ran"
    async with Runner(app) as runner:
        run = await runner.start("Go on.")
        assert outcome_of_events([event async for event in run.events()]) == expected
    assert outcome_of_events(await over_http(app, "Go on.")) == expected


@pytest.mark.parametrize("example", ADK_EXAMPLES, ids=lambda e: f"{e.make.__name__}:{e.name}")
async def test_adk_on_every_wire_and_at_another_worker(
    example: ADKExample, write: Callable[[ADKExample], Any], monkeypatch: pytest.MonkeyPatch
):
    app = write(example)
    expected = _without_ids(await _by_adk(app, "Go on."))
    await told_on_every_wire(app, expected)

    def make(script: Sequence[Chunk]) -> Any:
        gemini_says(script, monkeypatch)
        return app

    await whole_wherever_its_worker_is_lost(make, example.script, expected)


ASKING = (ToolCall("request_user_input", {"message": "Which city?"}), *words("Foggy, if it is San Francisco."))


async def test_adk_asks_a_person(write: Callable[[ADKExample], Any]):
    """The long-running tool: ADK's own client comes back with the answer; here it answers the interrupt."""
    app = write(ADKExample(starter_pack, "adk_a2a", ASKING))
    answer = {"city": "San Francisco"}

    def come_back(steps: list[tuple[Any, ...]]) -> genai.Content:
        (call,) = [step for step in steps if step[0] == "call"]
        response = genai.FunctionResponse(id=call[3], name=call[1], response=answer)
        return genai.Content(role="user", parts=[genai.Part(function_response=response)])

    call, pending, text = _without_ids(await _by_adk(app, "Weather?", come_back)).said
    assert pending == ("result", {"status": "pending", "message": "Which city?"})
    async with Runner(app) as runner:
        run = await runner.start("Weather?")
        events = []
        async for event in run.events():
            events.append(event)
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                (asked,) = event.outcome.interrupts
                await run.answer([ResumeEntry(interrupt_id=asked.id, status="resolved", payload=answer)])
    said = outcome_of_events(events).said  # the pending result is the interrupt, and then there is the answer
    assert said.pop(2) == ("result", answer)
    assert joined(said) == [call, text]


async def test_adk_fails_as_by_itself(write: Callable[[ADKExample], Any]):
    error = ConnectionError("the model went away")
    app = write(ADKExample(starter_pack, "adk", (*words("Let me "), Fail(error))))
    with pytest.raises(ConnectionError):
        await _by_adk(app, "Go on.")
    async with Runner(app) as runner:
        with pytest.raises(GaplessError) as failed:
            await (await runner.start("Go on.")).collect()
    assert (failed.value.code, failed.value.text) == ("model_failed", "Let me ")
    assert error in list(_causes(failed.value))


def test_every_adk_agent_of_the_packages_is_here():
    packages = [
        pathlib.Path(importlib.import_module(name).__path__[0]) for name in ("agent_starter_pack", "google.agents")
    ]
    agents = {
        file.parts[-3]
        for package in packages
        for file in package.rglob("app/agent.py")
        if "from google.adk" in file.read_text()
    }
    assert agents == {example.name for example in ADK_EXAMPLES if example.make in (starter_pack, agents_cli)}
